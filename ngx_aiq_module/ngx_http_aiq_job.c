
#include "ngx_http_aiq_charge.h"
#include "ngx_http_aiq_ws.h"


#define NGX_HTTP_AIQ_BODY_PIECE   32768


static void ngx_http_aiq_job_cleanup(void *data);
static void ngx_http_aiq_job_timeout_handler(ngx_event_t *ev);
static ngx_int_t ngx_http_aiq_job_push_body(ngx_http_aiq_ctx_t *ctx);
static const char *ngx_http_aiq_job_head(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_event_t *ev);
static ngx_int_t ngx_http_aiq_job_headers(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_head_t *head);
static void ngx_http_aiq_job_data(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_event_t *ev);
static const char *ngx_http_aiq_job_error(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_event_t *ev);
static void ngx_http_aiq_job_end(ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_job_fail(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason);


ngx_int_t
ngx_http_aiq_job_init(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_cleanup_t  *cln;
    ngx_http_aiq_job_t  *job;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_aiq_job_cleanup;
    cln->data = ctx;

    /* an earlier one, before an internal redirect, is over */

    job = &ctx->job;

    ngx_memzero(job, sizeof(ngx_http_aiq_job_t));
    ngx_memzero(&ctx->failure, sizeof(ngx_http_aiq_failure_t));
    ngx_str_null(&ctx->status);
    ctx->own = 0;

    if (ctx->ws && !ctx->ws->open) {
        ctx->ws = NULL;
    }

    job->last_out = &job->out;
    job->left = -1;

    job->timeout.handler = ngx_http_aiq_job_timeout_handler;
    job->timeout.data = r->connection;
    job->timeout.log = r->connection->log;

    return NGX_OK;
}


static void
ngx_http_aiq_job_cleanup(void *data)
{
    ngx_http_aiq_ctx_t *ctx = data;

    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    if (ctx->ws) {
        ngx_http_aiq_ws_free(ctx->ws);
    }

    if (job->parked) {
        ngx_http_aiq_link_unpark(ctx);
        ngx_str_set(&ctx->status, "client_closed");
    }

    if (job->timeout.timer_set) {
        ngx_del_timer(&job->timeout);
    }

    if (job->dirty) {
        ngx_queue_remove(&job->queue);
        job->dirty = 0;
    }

    if (job->link) {
        ngx_http_aiq_link_detach(ctx, 0);

        if (ctx->status.len == 0) {
            ngx_str_set(&ctx->status, "client_closed");
        }
    }
}


ngx_msec_t
ngx_http_aiq_job_timeout(ngx_http_aiq_ctx_t *ctx)
{
    return ctx->pass->timeout ? ctx->pass->timeout
                              : ctx->pass->conf->read_timeout;
}


static void
ngx_http_aiq_job_timeout_handler(ngx_event_t *ev)
{
    ngx_http_aiq_ctx_t  *ctx;

    ctx = (ngx_http_aiq_ctx_t *)
              ((u_char *) ev - offsetof(ngx_http_aiq_ctx_t, job.timeout));

    if (ctx->job.parked) {
        ngx_http_aiq_link_unpark(ctx);
        ngx_http_aiq_job_fail(ctx, ngx_http_aiq_link_up()
                                   ? NGX_HTTP_AIQ_LINK_FULL
                                   : NGX_HTTP_AIQ_ENGINE_UNAVAILABLE);

    } else if (ctx->job.held
               || (ctx->request->reading_body && ctx->job.body == NULL))
    {
        /* the client is slow, not the engine: "send_timeout" is for that */

        ngx_add_timer(ev, ngx_http_aiq_job_timeout(ctx));
        return;

    } else {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_ENGINE_TIMEOUT);
    }

    ngx_http_aiq_job_run(ctx);
}


/* What the engine should get, in order.  NGX_AGAIN: the ring has no room. */

ngx_int_t
ngx_http_aiq_job_push(ngx_http_aiq_ctx_t *ctx)
{
    u_char              *p;
    ngx_int_t            rc;
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    if (job->grant) {
        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_CREDIT, 0,
                                   sizeof(uint32_t));
        if (p == NULL) {
            return NGX_AGAIN;
        }

        ngx_memcpy(p, &job->grant, sizeof(uint32_t));
        job->grant = 0;
    }

    if (ctx->ws) {
        return ngx_http_aiq_ws_push(ctx);
    }

    rc = NGX_OK;

    while (rc == NGX_OK && job->unsent && job->credit && !job->failed) {
        rc = ngx_http_aiq_job_push_body(ctx);
    }

    if (job->follows) {
        ngx_http_aiq_body_hold(ctx);
    }

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (job->unsent == 0 && job->owes_end) {
        if (ngx_http_aiq_link_push(ctx, AIQ_FRAME_END, 0, 0) == NULL) {
            return NGX_AGAIN;
        }

        job->owes_end = 0;
    }

    return NGX_OK;
}


/*
 * A piece of the body, straight from where it is into the ring.  NGX_AGAIN:
 * that has no room; NGX_DONE: the next piece has not come yet.
 */

static ngx_int_t
ngx_http_aiq_job_push_body(ngx_http_aiq_ctx_t *ctx)
{
    off_t                left;
    size_t               size;
    u_char              *p;
    uint32_t             tail;
    ngx_buf_t           *b;
    ngx_chain_t         *cl;
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    for ( ;; ) {

        if (job->body == NULL && ngx_http_aiq_body_more(ctx) != NGX_OK) {
            return NGX_DONE;
        }

        cl = job->body;
        b = cl->buf;
        left = ngx_buf_size(b) - job->offset;

        if (left) {
            break;
        }

        job->body = cl->next;
        job->offset = 0;

        if (job->follows) {

            /* it is read into again */

            b->pos = b->last;
            ngx_free_chain(ctx->request->pool, cl);
        }
    }

    size = ngx_min(job->credit, NGX_HTTP_AIQ_BODY_PIECE);

    if ((off_t) size > left) {
        size = (size_t) left;
    }

    tail = ngx_http_aiq_link_tail(ctx);

    p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_BODY, 0, size);
    if (p == NULL) {
        return NGX_AGAIN;
    }

    if (ngx_buf_in_memory(b)) {
        ngx_memcpy(p, b->pos + job->offset, size);

    } else if (ngx_read_file(b->file, p, size, b->file_pos + job->offset)
               != (ssize_t) size)
    {
        ngx_http_aiq_link_unpush(ctx, tail);
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
        ngx_http_aiq_link_dirty(ctx);
        return NGX_OK;
    }

    job->credit -= size;
    job->offset += size;
    job->unsent -= size;

    return NGX_OK;
}


/* NULL, or why the link must be closed; ngx_http_aiq_job_run() follows */

const char *
ngx_http_aiq_job_event(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    const char          *why;
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;
    why = NULL;

    switch (ev->type) {

    case AIQ_FRAME_CREDIT:

        if (ev->number > NGX_MAX_INT32_VALUE
            || job->credit > NGX_MAX_INT32_VALUE - ev->number)
        {
            return "CREDIT beyond reason";
        }

        job->credit += ev->number;

        if (ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
            ngx_http_aiq_link_wait(ctx);
        }

        break;

    case AIQ_FRAME_HEAD:
        why = ctx->charging ? ngx_http_aiq_charge_head(ctx, ev)
                            : ngx_http_aiq_job_head(ctx, ev);
        break;

    case AIQ_FRAME_DATA:

        if (ctx->charging) {
            return "DATA for a charge";
        }

        ngx_http_aiq_job_data(ctx, ev);
        break;

    case AIQ_FRAME_USAGE:
        ctx->usage = ev->usage;
        break;

    case AIQ_FRAME_ERROR:
        why = ngx_http_aiq_job_error(ctx, ev);
        break;

    case AIQ_FRAME_MESSAGE:
        ngx_http_aiq_ws_message(ctx, ev);
        break;

    case AIQ_FRAME_TOKEN:
        ngx_http_aiq_ws_show(ctx, ev);
        break;

    case AIQ_FRAME_END:

        if (ctx->ws && ctx->ws->accepted) {
            ngx_http_aiq_ws_end(ctx, ev);
        }

        ngx_http_aiq_job_end(ctx);
        break;
    }

    /* a charge that is held lasts as long as others take to serve it */

    if (job->link && !(ctx->charging && job->head)
        && !(ctx->ws && ctx->ws->accepted))
    {
        ngx_add_timer(&job->timeout, ngx_http_aiq_job_timeout(ctx));
    }

    return why;
}


static const char *
ngx_http_aiq_job_head(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    u_char               *p;
    const char           *why;
    ngx_http_request_t   *r;
    ngx_http_aiq_job_t   *job;
    ngx_http_aiq_head_t   head;

    r = ctx->request;
    job = &ctx->job;

    job->consumed += ev->len;

    if (job->failed) {
        return NULL;
    }

    p = ngx_pnalloc(r->pool, ev->len);
    if (p == NULL) {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
        return NULL;
    }

    ngx_memcpy(p, ev->data, ev->len);

    why = ngx_http_aiq_frames_head(p, ev->len, &head);

    if (why) {
        return why;
    }

    if (head.status == NGX_HTTP_SWITCHING_PROTOCOLS) {

        if (ctx->ws == NULL) {
            return "HEAD with an impossible status or length";
        }

        ngx_http_aiq_ws_accept(ctx);
    }

    job->head = 1;
    job->stream = head.stream;
    job->endless = head.endless;
    job->left = head.content_length;

    if (ngx_http_aiq_job_headers(r, ctx, &head) != NGX_OK) {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
    }

    return NULL;
}


static ngx_int_t
ngx_http_aiq_job_headers(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_head_t *head)
{
    u_char      *p;
    aiq_text     n, v;
    ngx_str_t    name, value;
    ngx_uint_t   cache_control;

    r->headers_out.status = head->status;

    if (head->content_length >= 0 && ctx->pass->tail == NULL) {
        r->headers_out.content_length_n = head->content_length;
    }

    if (head->content_type.len) {
        r->headers_out.content_type.data = (u_char *) head->content_type.data;
        r->headers_out.content_type.len = head->content_type.len;

        /* filters compare what stands before the parameters */

        p = ngx_strlchr(r->headers_out.content_type.data,
                        r->headers_out.content_type.data
                        + r->headers_out.content_type.len, ';');

        r->headers_out.content_type_len = p
            ? (size_t) (p - r->headers_out.content_type.data)
            : r->headers_out.content_type.len;
    }

    cache_control = 0;

    while (ngx_http_aiq_frames_header(&head->headers, &n, &v)) {

        name.data = (u_char *) n.data;
        name.len = n.len;
        value.data = (u_char *) v.data;
        value.len = v.len;

        if (name.len == 13 && ngx_strncmp(name.data, "cache-control", 13) == 0)
        {
            cache_control = 1;
        }

        if (name.len == 11 && ngx_strncmp(name.data, "x-aiq-cache", 11) == 0) {
            ctx->cache = value;
        }

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (head->stream && !cache_control) {
        ngx_str_set(&name, "Cache-Control");
        ngx_str_set(&value, "no-cache");

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ctx->model.data = (u_char *) head->model.data;
    ctx->model.len = head->model.len;
    ctx->provider.data = (u_char *) head->provider.data;
    ctx->provider.len = head->provider.len;

    return NGX_OK;
}


static void
ngx_http_aiq_job_data(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    ngx_http_request_t  *r;
    ngx_http_aiq_job_t  *job;

    r = ctx->request;
    job = &ctx->job;

    if (job->failed || r->method == NGX_HTTP_HEAD) {
        job->consumed += ev->len;
        return;
    }

    if (job->left >= 0) {
        if (job->left < (off_t) ev->len) {
            ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_BAD_REPLY);
            job->consumed += ev->len;
            return;
        }

        job->left -= ev->len;
    }

    if (ngx_http_aiq_job_append(r, job, ev->data, ev->len) != NGX_OK) {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
    }

    if (ev->len) {
        job->in_event = !(ev->flags & AIQ_DATA_FLUSH);
    }

    if (job->stream || (ev->flags & AIQ_DATA_FLUSH)) {
        job->flush = 1;
    }
}


static const char *
ngx_http_aiq_job_error(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    u_char                  *p;
    uint32_t                 retry_after;
    aiq_fields               headers;
    const char              *why;
    aiq_error_info           e;
    ngx_http_aiq_failure_t  *failure;

    p = ngx_pnalloc(ctx->request->pool, ev->len);

    if (p == NULL) {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
        ngx_http_aiq_link_detach(ctx, 1);
        return NULL;
    }

    ngx_memcpy(p, ev->data, ev->len);

    why = ngx_http_aiq_frames_error(p, ev->len, &e, &retry_after, &headers);

    if (why) {
        return why;
    }

    ngx_http_aiq_link_detach(ctx, 1);

    if (ctx->job.failed) {
        return NULL;
    }

    failure = &ctx->failure;

    failure->status = e.status;
    failure->code.data = (u_char *) e.code.data;
    failure->code.len = e.code.len;
    failure->message.data = (u_char *) e.message.data;
    failure->message.len = e.message.len;
    failure->param.data = (u_char *) e.param.data;
    failure->param.len = e.param.len;
    failure->retry_after = retry_after;
    failure->headers = headers;
    failure->relayed = 1;

    ctx->status = failure->code;

    ngx_http_aiq_limit_relayed(ctx);
    ctx->job.failed = 1;

    return NULL;
}


static void
ngx_http_aiq_job_end(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_link_detach(ctx, 1);

    if (ctx->job.left > 0 && ctx->request->method != NGX_HTTP_HEAD) {
        ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_BAD_REPLY);
    }

    ctx->job.end = 1;
}


void
ngx_http_aiq_job_revoke(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    if (job->link == NULL) {
        /* or only its client has not taken all of it */
        ctx->revoked = 1;
        return;
    }

    if (job->dirty) {
        ngx_queue_remove(&job->queue);
        job->dirty = 0;
    }

    ngx_http_aiq_link_detach(ctx, 0);

    ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_TOKEN_REVOKED);

    ngx_http_aiq_job_run(ctx);
}


void
ngx_http_aiq_job_lost(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_link_detach(ctx, 1);

    ngx_http_aiq_job_fail(ctx, NGX_HTTP_AIQ_ENGINE_LOST);

    ngx_http_aiq_job_run(ctx);
}


static void
ngx_http_aiq_job_fail(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_reason_e reason)
{
    if (ctx->job.failed) {
        return;
    }

    ngx_http_aiq_set_failure(ctx, reason);
    ctx->job.failed = 1;
}
