
/*
 * What the engine has sent of a reply, on its way to the client.
 */


#include "ngx_http_aiq_charge.h"
#include "ngx_http_aiq_ws.h"


#define NGX_HTTP_AIQ_EVENT_BUF    1024
#define NGX_HTTP_AIQ_SMALL_BUF    4096
#define NGX_HTTP_AIQ_LARGE_BUF    16384


static ngx_int_t ngx_http_aiq_job_output(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_uint_t writable);
static ngx_uint_t ngx_http_aiq_job_starts(ngx_http_request_t *r,
    ngx_http_aiq_job_t *job);
static ngx_int_t ngx_http_aiq_job_flush_head(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_job_last(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_job_filter(ngx_http_request_t *r,
    ngx_http_aiq_job_t *job, ngx_chain_t *out);
static ngx_uint_t ngx_http_aiq_job_blocked(ngx_http_request_t *r,
    ngx_http_aiq_job_t *job);
static ngx_int_t ngx_http_aiq_job_wait_client(ngx_http_request_t *r,
    ngx_http_aiq_job_t *job, ngx_uint_t progress);


/*
 * What comes in one turn shares buffers, however small the pieces are: so
 * what a slow client makes us hold is bounded by its credit.
 */

ngx_int_t
ngx_http_aiq_job_append(ngx_http_request_t *r, ngx_http_aiq_job_t *job,
    const u_char *data, size_t len)
{
    size_t        size;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    job->held += len;

    while (len) {

        b = job->last_buf;

        if (b == NULL || b->last == b->end) {

            cl = ngx_chain_get_free_buf(r->pool, &job->free);
            if (cl == NULL) {
                return NGX_ERROR;
            }

            b = cl->buf;

            if (b->start == NULL) {
                size = (len > NGX_HTTP_AIQ_SMALL_BUF)
                       ? NGX_HTTP_AIQ_LARGE_BUF : NGX_HTTP_AIQ_SMALL_BUF;

                /* a quiet stream keeps its buffer */

                if (job->stream && len <= NGX_HTTP_AIQ_EVENT_BUF) {
                    size = NGX_HTTP_AIQ_EVENT_BUF;
                }

                if (job->left >= 0 && (off_t) size > job->left + (off_t) len) {
                    size = (size_t) job->left + len;
                }

                b->start = ngx_pnalloc(r->pool, size);
                if (b->start == NULL) {
                    return NGX_ERROR;
                }

                b->end = b->start + size;
                b->pos = b->start;
                b->last = b->start;
                b->temporary = 1;
                b->tag = (ngx_buf_tag_t) &ngx_http_aiq_module;
            }

            b->flush = 0;

            *job->last_out = cl;
            job->last_out = &cl->next;
            job->last_buf = b;
        }

        size = ngx_min(len, (size_t) (b->end - b->last));

        b->last = ngx_cpymem(b->last, data, size);
        data += size;
        len -= size;
    }

    return NGX_OK;
}


/* Everything that one turn has brought goes out at once. */

void
ngx_http_aiq_job_run(ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    if (ctx->charging) {
        ngx_http_aiq_charge_run(ctx);
        return;
    }

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    if (ctx->job.broken) {
        rc = ctx->job.broken;

    } else {
        rc = (ctx->ws && ctx->ws->accepted)
             ? ngx_http_aiq_ws_turn(r, ctx)
             : ngx_http_aiq_job_output(r, ctx, 0);
    }

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }

    ngx_http_run_posted_requests(c);
}


/* the request's write event handler */

void
ngx_http_aiq_job_writer(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_aiq_ctx_t        *ctx;
    ngx_http_core_loc_conf_t  *clcf;

    c = r->connection;
    wev = c->write;

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "client timed out");
        c->timedout = 1;

        ngx_http_finalize_request(r, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    if (wev->delayed) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
            ngx_http_finalize_request(r, NGX_ERROR);
        }

        return;
    }

    ctx = ngx_http_aiq_get_ctx(r);

    rc = ngx_http_aiq_job_output(r, ctx, 1);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }
}


/* NGX_DONE: the request goes on; else what to finalize it with */

static ngx_int_t
ngx_http_aiq_job_output(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t writable)
{
    size_t               held;
    ngx_int_t            rc;
    ngx_str_t            event;
    ngx_chain_t         *cl, *out;
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    if (job->endless && job->link && ngx_http_aiq_link_leaving(ctx)) {
        ngx_http_aiq_link_detach(ctx, 0);
        job->end = 1;
    }

    if (job->failed) {

        /* a stream that has begun goes out with its error, however late */

        if (!r->header_sent && !(job->stream && job->out)) {
            return ngx_http_aiq_fail(r, ctx);
        }

        /* a promise that cannot be kept is broken visibly */

        if (!job->stream
            || ngx_http_aiq_error_event(r, ctx, &event) != NGX_OK
            || ngx_http_aiq_job_append(r, job, event.data, event.len)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        job->end = 1;
    }

    if (!r->header_sent) {

        if (!job->head || !ngx_http_aiq_job_starts(r, job)) {
            return NGX_DONE;
        }

        ctx->own = 1;

        rc = ngx_http_send_header(r);

        if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {

            if (ctx->status.len == 0) {
                ngx_str_set(&ctx->status, "ok");
            }

            return rc;
        }

        if (job->stream && job->out == NULL && !job->end
            && ngx_http_aiq_job_flush_head(r) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (job->end) {
        return ngx_http_aiq_job_last(r, ctx);
    }

    held = job->held;

    if (writable && ngx_http_aiq_job_filter(r, job, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    /* while the client is slow, pieces are gathered in "out" */

    if (job->out && !ngx_http_aiq_job_blocked(r, job)) {
        out = job->out;

        job->last_buf->flush = job->flush;
        job->flush = 0;

        job->out = NULL;
        job->last_out = &job->out;
        job->last_buf = NULL;

        if (ngx_http_aiq_job_filter(r, job, out) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    job->held = 0;

    for (cl = job->busy; cl; cl = cl->next) {
        job->held += ngx_buf_size(cl->buf);
    }

    for (cl = job->out; cl; cl = cl->next) {
        job->held += ngx_buf_size(cl->buf);
    }

    job->consumed += held - job->held;

    if (job->consumed && job->link) {
        ngx_http_aiq_link_consumed(ctx, job->consumed);
        job->consumed = 0;
    }

    return ngx_http_aiq_job_wait_client(r, job, held != job->held);
}


/*
 * The head of a plain reply waits for its first bytes: nginx would not send
 * it alone anyway, and until then an error can take its place.
 */

static ngx_uint_t
ngx_http_aiq_job_starts(ngx_http_request_t *r, ngx_http_aiq_job_t *job)
{
    return job->stream || job->out || job->end || r->method == NGX_HTTP_HEAD;
}


/*
 * The head of a stream, before its first event.  A flush alone gets stuck in
 * nginx 1.22 with HTTP/2 over TLS, so a comment goes along, which is no event.
 */

static ngx_int_t
ngx_http_aiq_job_flush_head(ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)

    if (r->stream) {
        ngx_buf_t    *b;
        ngx_chain_t   out;

        b = ngx_calloc_buf(r->pool);
        if (b == NULL) {
            return NGX_ERROR;
        }

        b->pos = (u_char *) ":\n\n";
        b->last = b->pos + 3;
        b->memory = 1;
        b->flush = 1;

        out.buf = b;
        out.next = NULL;

        return ngx_http_output_filter(r, &out) == NGX_ERROR ? NGX_ERROR
                                                            : NGX_OK;
    }

#endif

    return ngx_http_send_special(r, NGX_HTTP_FLUSH) == NGX_ERROR ? NGX_ERROR
                                                                 : NGX_OK;
}


static ngx_int_t
ngx_http_aiq_job_last(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t            tail;
    ngx_chain_t         *out;
    ngx_http_aiq_job_t  *job;

    job = &ctx->job;

    if (ctx->pass->tail
        && (ctx->pass->tail(r, &tail) != NGX_OK
            || ngx_http_aiq_job_append(r, job, tail.data, tail.len) != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (ctx->status.len == 0) {
        ngx_str_set(&ctx->status, "ok");
    }

    if (job->out == NULL) {
        return ngx_http_send_special(r, NGX_HTTP_LAST);
    }

    out = job->out;

    job->last_buf->last_buf = 1;
    job->last_buf->last_in_chain = 1;

    job->out = NULL;
    job->last_out = &job->out;
    job->last_buf = NULL;

    return ngx_http_output_filter(r, out);
}


static ngx_int_t
ngx_http_aiq_job_filter(ngx_http_request_t *r, ngx_http_aiq_job_t *job,
    ngx_chain_t *out)
{
    ngx_int_t  rc;

    rc = ngx_http_output_filter(r, out);

    ngx_chain_update_chains(r->pool, &job->free, &job->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_aiq_module);

    return rc == NGX_ERROR ? NGX_ERROR : NGX_OK;
}


/* Not c->buffered: filters that wait for more set it too. */

static ngx_uint_t
ngx_http_aiq_job_blocked(ngx_http_request_t *r, ngx_http_aiq_job_t *job)
{
    ngx_event_t  *wev;

    wev = r->connection->write;

    return job->busy && (!wev->ready || wev->delayed);
}


static ngx_int_t
ngx_http_aiq_job_wait_client(ngx_http_request_t *r, ngx_http_aiq_job_t *job,
    ngx_uint_t progress)
{
    ngx_event_t               *wev;
    ngx_http_core_loc_conf_t  *clcf;

    wev = r->connection->write;

    if (wev->ready) {

        if (wev->timer_set && !wev->delayed) {
            ngx_del_timer(wev);
        }

        return NGX_DONE;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (!wev->delayed && (progress || !wev->timer_set)) {
        ngx_add_timer(wev, clcf->send_timeout);
    }

    if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_DONE;
}
