
#include "ngx_http_aiq_jwt.h"

#include <openssl/sha.h>


/*
 * "aiq_jwt_key_request": keys that come by a subrequest.  Of the requests that
 * need them one asks, the others wait for its answer.  The subrequest has none
 * of the client's headers, and its reply goes nowhere.
 */


#define NGX_HTTP_AIQ_JWT_RETRY  10000    /* ms between two subrequests */


static ngx_int_t ngx_http_aiq_jwt_remote_ask(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_remote_t *remote);
static ngx_int_t ngx_http_aiq_jwt_remote_done(ngx_http_request_t *r,
    void *data, ngx_int_t rc);
static ngx_int_t ngx_http_aiq_jwt_remote_parse(ngx_http_request_t *r,
    ngx_http_aiq_jwt_ctx_t *ctx);
static void ngx_http_aiq_jwt_remote_wake(ngx_http_aiq_jwt_remote_t *remote,
    ngx_uint_t again);
static void ngx_http_aiq_jwt_remote_cleanup(void *data);
static ngx_http_aiq_jwt_ctx_t *ngx_http_aiq_jwt_remote_ctx(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_jwt_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_jwt_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_aiq_jwt_remote_append(ngx_http_request_t *r,
    ngx_http_aiq_jwt_ctx_t *ctx, ngx_buf_t *b);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_http_aiq_jwt_remote_t *
ngx_http_aiq_jwt_remote_create(ngx_conf_t *cf, ngx_str_t *uri)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_aiq_jwt_remote_t  *remote;

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_http_aiq_jwt_remote_t));
    if (cln == NULL) {
        return NULL;
    }

    remote = cln->data;
    ngx_memzero(remote, sizeof(ngx_http_aiq_jwt_remote_t));

    remote->uri = *uri;
    ngx_queue_init(&remote->waiting);

    cln->handler = ngx_http_aiq_jwt_remote_cleanup;

    return remote;
}


static void
ngx_http_aiq_jwt_remote_cleanup(void *data)
{
    ngx_http_aiq_jwt_remote_t *remote = data;

    ngx_http_aiq_jwt_keys_free(remote->set.keys);
}


ngx_int_t
ngx_http_aiq_jwt_remote_get(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_remote_t *remote, ngx_msec_t max_age, ngx_uint_t unknown)
{
    ngx_msec_t  age;
    ngx_uint_t  usable, wanted;

    age = ngx_current_msec - remote->fetched;

    usable = remote->set.keys && age / 2 < max_age;
    wanted = unknown || remote->set.keys == NULL || age >= max_age
             || remote->changes != ngx_http_aiq_jwt_watch_changes();

    if (wanted && !ctx->asked) {

        if (remote->busy && (unknown || !usable)) {
            ctx->asked = 1;
            ctx->waiting = 1;
            ctx->remote = remote;
            ngx_queue_insert_tail(&remote->waiting, &ctx->queue);
            return NGX_AGAIN;
        }

        /* neither unknown keys nor failures make for more subrequests */

        if (!remote->busy
            && (!remote->tried_once
                || (!unknown && !remote->failed)
                || ngx_current_msec - remote->tried >= NGX_HTTP_AIQ_JWT_RETRY))
        {
            return ngx_http_aiq_jwt_remote_ask(ctx, remote);
        }
    }

    return usable ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_aiq_jwt_remote_ask(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_remote_t *remote)
{
    ngx_http_request_t          *r, *sr;
    ngx_http_headers_in_t       *in;
    ngx_http_post_subrequest_t  *ps;

    r = ctx->request;

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
    if (ps == NULL) {
        return NGX_ERROR;
    }

    ps->handler = ngx_http_aiq_jwt_remote_done;
    ps->data = ctx;

    if (ngx_http_subrequest(r, &remote->uri, NULL, &sr, ps,
                            NGX_HTTP_SUBREQUEST_WAITED)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* nothing of the client's is the key server's business */

    in = &sr->headers_in;

    ngx_memzero(in, sizeof(ngx_http_headers_in_t));

    if (ngx_list_init(&in->headers, r->pool, 1, sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    in->server = r->headers_in.server;
    in->content_length_n = -1;
    in->keep_alive_n = -1;

    /* a body that was read stays the main request's */

    sr->request_body = ngx_pcalloc(r->pool, sizeof(ngx_http_request_body_t));
    if (sr->request_body == NULL) {
        return NGX_ERROR;
    }

    ctx->asked = 1;
    ctx->owner = 1;
    ctx->remote = remote;
    ctx->overflow = 0;
    ctx->body_len = 0;

    remote->tried_once = 1;
    remote->busy = 1;
    remote->failed = 0;
    remote->tried = ngx_current_msec;
    remote->changes = ngx_http_aiq_jwt_watch_changes();

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "http aiq jwt fetches keys: \"%V\"", &remote->uri);

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_aiq_jwt_remote_done(ngx_http_request_t *r, void *data, ngx_int_t rc)
{
    ngx_http_aiq_jwt_ctx_t *ctx = data;

    if (rc == NGX_HTTP_CLIENT_CLOSED_REQUEST || r->connection->error) {
        ngx_http_aiq_jwt_remote_leave(ctx);
        return rc;
    }

    /* an error page, perhaps one with keys, is still to come */

    if (rc == NGX_HTTP_CREATED || rc == NGX_HTTP_NO_CONTENT
        || (rc >= NGX_HTTP_SPECIAL_RESPONSE
            && rc != NGX_HTTP_REQUEST_TIME_OUT))
    {
        return rc;
    }

    if (ctx->owner) {

        ctx->remote->failed = (rc != NGX_OK
                               || ngx_http_aiq_jwt_remote_parse(r, ctx)
                                  != NGX_OK);
        ctx->owner = 0;

        ngx_http_aiq_jwt_remote_wake(ctx->remote, 0);
    }

    /* its failure is not the end of the main request */

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_remote_parse(ngx_http_request_t *r,
    ngx_http_aiq_jwt_ctx_t *ctx)
{
    u_char                      digest[NGX_HTTP_AIQ_AUTH_DIGEST];
    const char                 *error;
    ngx_http_aiq_jwt_keys_t    *keys, *old;
    ngx_http_aiq_jwt_remote_t  *remote;

    remote = ctx->remote;

    if (r->headers_out.status != NGX_HTTP_OK) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "aiq: no keys from \"%V\": status %ui",
                      &remote->uri, r->headers_out.status);
        return NGX_ERROR;
    }

    if (ctx->overflow) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "aiq: no keys from \"%V\": the reply is too large",
                      &remote->uri);
        return NGX_ERROR;
    }

    keys = ngx_http_aiq_jwt_keys_create();
    if (keys == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_aiq_jwt_keys_add(keys, (char *) ctx->body, ctx->body_len, 0,
                                  &error)
        != 0)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "aiq: no keys from \"%V\": the reply %s",
                      &remote->uri, error);
        ngx_http_aiq_jwt_keys_free(keys);
        return NGX_ERROR;
    }

    old = remote->set.keys;

    remote->set.keys = keys;
    remote->fetched = ngx_current_msec;

    SHA256(ctx->body, ctx->body_len, digest);

    if (ngx_memcmp(digest, remote->set.digest, NGX_HTTP_AIQ_AUTH_DIGEST)
        != 0)
    {
        ngx_memcpy(remote->set.digest, digest, NGX_HTTP_AIQ_AUTH_DIGEST);
        ngx_http_aiq_jwt_watch_fetched(remote, old, keys);
    }

    ngx_http_aiq_jwt_keys_free(old);

    return NGX_OK;
}


/* again: nobody has an answer yet, one of them is to ask anew */

static void
ngx_http_aiq_jwt_remote_wake(ngx_http_aiq_jwt_remote_t *remote,
    ngx_uint_t again)
{
    ngx_queue_t             *q;
    ngx_http_aiq_jwt_ctx_t  *ctx;

    remote->busy = 0;

    while (!ngx_queue_empty(&remote->waiting)) {

        q = ngx_queue_head(&remote->waiting);
        ngx_queue_remove(q);

        ctx = ngx_queue_data(q, ngx_http_aiq_jwt_ctx_t, queue);
        ctx->waiting = 0;

        if (again) {
            ctx->asked = 0;
        }

        /* on with its phases */
        ngx_post_event(ctx->request->connection->write, &ngx_posted_events);
    }
}


void
ngx_http_aiq_jwt_remote_leave(ngx_http_aiq_jwt_ctx_t *ctx)
{
    if (ctx->waiting) {
        ctx->waiting = 0;
        ngx_queue_remove(&ctx->queue);
    }

    if (ctx->owner) {
        ctx->owner = 0;
        ngx_http_aiq_jwt_remote_wake(ctx->remote, 1);
    }
}


/*
 * Of a request that is our subrequest, also after redirects, which leave it
 * without contexts.
 */

static ngx_http_aiq_jwt_ctx_t *
ngx_http_aiq_jwt_remote_ctx(ngx_http_request_t *r)
{
    if (r == r->main || r->post_subrequest == NULL
        || r->post_subrequest->handler != ngx_http_aiq_jwt_remote_done)
    {
        return NULL;
    }

    return r->post_subrequest->data;
}


static ngx_int_t
ngx_http_aiq_jwt_header_filter(ngx_http_request_t *r)
{
    ngx_http_aiq_jwt_ctx_t  *ctx;

    ctx = ngx_http_aiq_jwt_remote_ctx(r);

    if (ctx) {
        r->filter_need_in_memory = 1;
        ctx->body_len = 0;
    }

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_aiq_jwt_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_chain_t             *cl;
    ngx_http_aiq_jwt_ctx_t  *ctx;

    ctx = ngx_http_aiq_jwt_remote_ctx(r);

    if (ctx == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {

        if (ngx_http_aiq_jwt_remote_append(r, ctx, cl->buf) != NGX_OK) {
            return NGX_ERROR;
        }

        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_remote_append(ngx_http_request_t *r,
    ngx_http_aiq_jwt_ctx_t *ctx, ngx_buf_t *b)
{
    size_t   len, size;
    u_char  *p;

    len = ngx_buf_in_memory(b) ? b->last - b->pos : 0;

    if (len == 0 || ctx->overflow) {
        return NGX_OK;
    }

    if (len > NGX_HTTP_AIQ_JWT_KEYSET_MAX - ctx->body_len) {
        ctx->overflow = 1;
        return NGX_OK;
    }

    size = ctx->body_size ? ctx->body_size : 4096;

    while (size < ctx->body_len + len) {
        size *= 2;
    }

    if (size > ctx->body_size) {
        p = ngx_pnalloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (ctx->body_len) {
            ngx_memcpy(p, ctx->body, ctx->body_len);
        }

        ctx->body = p;
        ctx->body_size = size;
    }

    ngx_memcpy(ctx->body + ctx->body_len, b->pos, len);
    ctx->body_len += len;

    return NGX_OK;
}


void
ngx_http_aiq_jwt_remote_filter_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_aiq_jwt_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_aiq_jwt_body_filter;
}
