
#include "ngx_http_aiq_ws.h"


#define NGX_HTTP_AIQ_WS_CHUNK  4096


/* frames to the client; an idle WebSocket has none */

struct ngx_http_aiq_ws_buf_s {
    ngx_http_aiq_ws_buf_t  *next;
    u_char                 *pos;
    u_char                 *last;
    u_char                 *end;
};


static ngx_int_t ngx_http_aiq_ws_send(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_uint_t *progress);


ngx_int_t
ngx_http_aiq_ws_flush(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_uint_t                 progress;
    ngx_event_t               *wev;
    ngx_http_aiq_ws_t         *ws;
    ngx_http_aiq_job_t        *job;
    ngx_http_core_loc_conf_t  *clcf;

    ws = ctx->ws;
    job = &ctx->job;
    wev = r->connection->write;
    progress = 0;

    if (ngx_http_aiq_ws_send(r, ctx, &progress) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ws->out == NULL) {
        job->consumed += ws->cost;
        ws->cost = 0;

        if (ws->owes_pong) {
            ws->owes_pong = 0;
            ngx_http_aiq_ws_append(ctx,
                                   NGX_HTTP_AIQ_WS_FIN|NGX_HTTP_AIQ_WS_PONG,
                                   ws->pong, ws->pong_len);

            if (ngx_http_aiq_ws_send(r, ctx, &progress) != NGX_OK) {
                return NGX_ERROR;
            }
        }
    }

    if (job->consumed && job->link) {
        ngx_http_aiq_link_consumed(ctx, job->consumed);
        job->consumed = 0;
    }

    if (ws->out == NULL) {

        if (wev->timer_set) {
            ngx_del_timer(wev);
        }

    } else if (progress || !wev->timer_set) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
        ngx_add_timer(wev, clcf->send_timeout);
    }

    return ngx_handle_write_event(wev, 0);
}


/*
 * Straight to the socket, for no filter knows of frames.  The 101 itself went
 * through them and may still be there.
 */

static ngx_int_t
ngx_http_aiq_ws_send(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t *progress)
{
    size_t                  size;
    ssize_t                 n;
    ngx_connection_t       *c;
    ngx_http_aiq_ws_t      *ws;
    ngx_http_aiq_ws_buf_t  *b;

    ws = ctx->ws;
    c = r->connection;

    if (r->out || c->buffered) {

        if (ngx_http_output_filter(r, NULL) == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (r->out || c->buffered) {
            return NGX_OK;
        }
    }

    while (ws->out && c->write->ready) {

        b = ws->out;

        n = c->send(c, b->pos, b->last - b->pos);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n == NGX_AGAIN) {
            break;
        }

        *progress = 1;

        b->pos += n;

        /* headers are shorter than what they cost */

        size = ngx_min((size_t) n, ws->cost);

        ws->cost -= size;
        ctx->job.consumed += size;

        if (b->pos == b->last) {
            ws->out = b->next;
            ngx_free(b);
        }
    }

    return NGX_OK;
}


void
ngx_http_aiq_ws_append(ngx_http_aiq_ctx_t *ctx, ngx_uint_t first,
    const u_char *data, size_t len)
{
    size_t                  size;
    ngx_http_aiq_ws_t      *ws;
    ngx_http_aiq_ws_buf_t  *b;

    ws = ctx->ws;
    size = NGX_HTTP_AIQ_WS_HEADER + len;

    b = ws->out ? ws->last_out : NULL;

    if (b == NULL || (size_t) (b->end - b->last) < size) {

        size = ngx_max(size, NGX_HTTP_AIQ_WS_CHUNK
                             - sizeof(ngx_http_aiq_ws_buf_t));

        b = ngx_alloc(sizeof(ngx_http_aiq_ws_buf_t) + size,
                      ctx->request->connection->log);
        if (b == NULL) {
            /* a message with a hole is worse than none */
            ws->broken = 1;
            return;
        }

        b->next = NULL;
        b->pos = (u_char *) b + sizeof(ngx_http_aiq_ws_buf_t);
        b->last = b->pos;
        b->end = b->pos + size;

        if (ws->out) {
            ws->last_out->next = b;

        } else {
            ws->out = b;
        }

        ws->last_out = b;
    }

    b->last = ngx_http_aiq_ws_header(b->last, (uint8_t) first, len);
    b->last = ngx_cpymem(b->last, data, len);
}


void
ngx_http_aiq_ws_discard(ngx_http_aiq_ws_t *ws)
{
    ngx_http_aiq_ws_buf_t  *b;

    while (ws->out) {
        b = ws->out;
        ws->out = b->next;
        ngx_free(b);
    }
}
