
#include "ngx_http_aiq_ws.h"


/*
 * permessage-deflate (RFC 7692).  Both ways without context takeover, which a
 * server may ask for whatever was offered: so a connection has no window
 * between messages, all of a worker share one compressor, and no message tells
 * by its length what an earlier one was.  What comes in is inflated by
 * ngx_http_aiq_ws_inflate.c.
 */


#define NGX_HTTP_AIQ_WS_INFLATED  16384  /* at once */
#define NGX_HTTP_AIQ_WS_WORTH     64     /* shorter messages are not */


static ngx_int_t ngx_http_aiq_ws_internal(ngx_http_aiq_ws_t *ws,
    const char *why);


/* a worker's, between two lines of code */

static u_char      ngx_http_aiq_ws_inflated[NGX_HTTP_AIQ_WS_INFLATED];
static u_char      ngx_http_aiq_ws_deflated[AIQ_FRAME_MAX];
static z_stream   *ngx_http_aiq_ws_deflaters[NGX_HTTP_AIQ_WS_BITS + 1];


/*
 * NGX_OK: ws->piece has gone to the engine, NGX_AGAIN: it waits for credit or
 * the ring, NGX_DECLINED: its code and why say what is wrong with it
 */

ngx_int_t
ngx_http_aiq_ws_deliver_inflated(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx)
{
    int                         rc;
    size_t                      size, room;
    u_char                     *p;
    ngx_uint_t                  flags;
    ngx_http_aiq_ws_t          *ws;
    ngx_http_aiq_job_t         *job;
    ngx_http_aiq_ws_inflate_t  *in;

    ws = ctx->ws;
    job = &ctx->job;

    if (ws->piece.first) {

        if (ngx_http_aiq_ws_begin_inflate(r, ws) != NGX_OK) {
            return ngx_http_aiq_ws_internal(ws, "no memory");
        }

        ws->piece.first = 0;
    }

    in = ws->inflate;

    do {
        if (job->credit <= AIQ_MESSAGE_COST) {
            return NGX_AGAIN;
        }

        room = ngx_min(job->credit - AIQ_MESSAGE_COST,
                       NGX_HTTP_AIQ_WS_INFLATED);

        if (!ngx_http_aiq_link_room(ctx, room)) {
            /* what has come out cannot go back in */
            ws->full = room;
            ngx_http_aiq_link_wait(ctx);
            return NGX_AGAIN;
        }

        size = room;

        rc = ngx_http_aiq_ws_inflate(in, ws->limits.max_message, &ws->piece,
                                     ngx_http_aiq_ws_inflated, &size);

        if (rc == NGX_HTTP_AIQ_WS_INFLATE_BAD) {
            return NGX_DECLINED;
        }

        if (size == 0 && rc != NGX_HTTP_AIQ_WS_INFLATE_LAST) {
            continue;
        }

        flags = in->begun ? AIQ_MESSAGE_MORE : ws->piece.opcode;

        if (rc == NGX_HTTP_AIQ_WS_INFLATE_LAST) {
            flags |= AIQ_MESSAGE_FIN;
        }

        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_MESSAGE, flags, size);

        if (p == NULL) {
            return ngx_http_aiq_ws_internal(ws, "no room");
        }

        ngx_memcpy(p, ngx_http_aiq_ws_inflated, size);

        job->credit -= size + AIQ_MESSAGE_COST;
        in->begun = 1;

    } while (rc == NGX_HTTP_AIQ_WS_INFLATE_MORE);

    if (rc == NGX_HTTP_AIQ_WS_INFLATE_LAST) {
        ngx_http_aiq_ws_end_inflate(ws);
        ngx_http_aiq_count_message(0);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_ws_begin_inflate(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws)
{
    ws->inflate = ngx_calloc(sizeof(ngx_http_aiq_ws_inflate_t),
                             r->connection->log);
    if (ws->inflate == NULL) {
        return NGX_ERROR;
    }

    if (!ngx_http_aiq_ws_inflate_begin(ws->inflate)) {
        ngx_free(ws->inflate);
        ws->inflate = NULL;
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_aiq_ws_end_inflate(ngx_http_aiq_ws_t *ws)
{
    if (ws->inflate) {
        ngx_http_aiq_ws_inflate_end(ws->inflate);
        ngx_free(ws->inflate);
        ws->inflate = NULL;
    }
}


static ngx_int_t
ngx_http_aiq_ws_internal(ngx_http_aiq_ws_t *ws, const char *why)
{
    ws->piece.code = NGX_HTTP_AIQ_WS_INTERNAL;
    ws->piece.why = why;

    return NGX_DECLINED;
}


/* 0: it would not be shorter */

size_t
ngx_http_aiq_ws_deflate(ngx_uint_t bits, const u_char *data, size_t len,
    u_char **deflated)
{
    int        rc;
    z_stream  *z;

    if (len < NGX_HTTP_AIQ_WS_WORTH) {
        return 0;
    }

    z = ngx_http_aiq_ws_deflaters[bits];

    if (z == NULL) {

        z = ngx_calloc(sizeof(z_stream), ngx_cycle->log);
        if (z == NULL) {
            return 0;
        }

        if (deflateInit2(z, Z_BEST_SPEED, Z_DEFLATED, -(int) bits, 8,
                         Z_DEFAULT_STRATEGY)
            != Z_OK)
        {
            ngx_free(z);
            return 0;
        }

        ngx_http_aiq_ws_deflaters[bits] = z;
    }

    z->next_in = (u_char *) data;
    z->avail_in = (uInt) len;
    z->next_out = ngx_http_aiq_ws_deflated;
    z->avail_out = (uInt) len;

    rc = deflate(z, Z_SYNC_FLUSH);

    len -= z->avail_out;

    if (rc != Z_OK || z->avail_in || z->avail_out == 0 || len < 4) {
        len = 4;
    }

    (void) deflateReset(z);

    *deflated = ngx_http_aiq_ws_deflated;

    /* without the last 00 00 ff ff, 7.2.1 */

    return len - 4;
}


void
ngx_http_aiq_ws_deflate_exit(void)
{
    ngx_uint_t  i;

    for (i = 0; i <= NGX_HTTP_AIQ_WS_BITS; i++) {

        if (ngx_http_aiq_ws_deflaters[i]) {
            (void) deflateEnd(ngx_http_aiq_ws_deflaters[i]);
            ngx_free(ngx_http_aiq_ws_deflaters[i]);
        }
    }
}
