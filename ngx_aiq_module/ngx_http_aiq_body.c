
/*
 * A large form goes to the engine while it comes: nginx reads it piece by
 * piece, without a file of its own, and the engine keeps it for a second
 * attempt.  What the ring or the engine's credit holds up holds up the client.
 * All other bodies are read whole before the request is opened.
 */


#include "ngx_http_aiq.h"


/* the engine has smaller ones in memory, and waits for all of them */
#define NGX_HTTP_AIQ_BODY_FOLLOW  (256 * 1024)


ngx_uint_t
ngx_http_aiq_body_follows(ngx_http_request_t *r)
{
    ngx_table_elt_t  *type;

    static ngx_str_t  form = ngx_string("multipart/form-data");

    type = r->headers_in.content_type;

    return r->headers_in.content_length_n > NGX_HTTP_AIQ_BODY_FOLLOW
           && type
           && type->value.len >= form.len
           && ngx_strncasecmp(type->value.data, form.data, form.len) == 0;
}


/* NGX_OK: there is more to send; NGX_DONE: not now */

ngx_int_t
ngx_http_aiq_body_more(ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;
    ngx_http_aiq_job_t  *job;

    r = ctx->request;
    job = &ctx->job;

    if (!r->reading_body) {
        return NGX_DONE;
    }

    rc = ngx_http_read_unbuffered_request_body(r);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        job->broken = rc;
        job->failed = 1;
        ngx_http_aiq_link_dirty(ctx);
        return NGX_DONE;
    }

    if (!r->reading_body) {
        r->read_event_handler = ngx_http_test_reading;
    }

    job->body = r->request_body->bufs;
    r->request_body->bufs = NULL;

    return job->body ? NGX_OK : NGX_DONE;
}


/* the client is not to blame for what it is not asked for */

void
ngx_http_aiq_body_hold(ngx_http_aiq_ctx_t *ctx)
{
    ngx_event_t  *rev;

    rev = ctx->request->connection->read;

    if (ctx->request->reading_body && ctx->job.body && rev->timer_set) {
        ngx_del_timer(rev);
    }
}


/* the request's read event handler, while its body comes */

void
ngx_http_aiq_body_reader(ngx_http_request_t *r)
{
    ngx_connection_t    *c;
    ngx_http_aiq_ctx_t  *ctx;
    ngx_http_aiq_job_t  *job;

    c = r->connection;

    ctx = ngx_http_aiq_get_ctx(r);
    job = &ctx->job;

    if (job->link && !job->failed && job->body == NULL) {

        if (ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
            ngx_http_aiq_link_wait(ctx);
        }

        return;
    }

    /* it waits, or nobody wants the rest */

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
    }
}
