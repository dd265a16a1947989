
#include "ngx_http_aiq_ws.h"

#include <zlib.h>


/*
 * permessage-deflate (RFC 7692).  Both ways without context takeover, which a
 * server may ask for whatever was offered: so a connection has no window
 * between messages, all of a worker share one compressor, and no message tells
 * by its length what an earlier one was.
 */


#define NGX_HTTP_AIQ_WS_INFLATE  16384   /* out of it at once */
#define NGX_HTTP_AIQ_WS_WORTH    64      /* shorter messages are not */
#define NGX_HTTP_AIQ_WS_BITS     15


/* a message on its way in */

struct ngx_http_aiq_ws_inflate_s {
    z_stream                   z;
    ngx_http_aiq_ws_utf8_t     utf8;
    uint64_t                   len;
    uint8_t                    tail;         /* of what senders leave out */
    unsigned                   begun:1;      /* the engine has some of it */
    unsigned                   pending:1;    /* more comes out without input */
};


static ngx_int_t ngx_http_aiq_ws_parameter(ngx_str_t *s, ngx_uint_t *bits,
    ngx_uint_t *seen);
static ngx_uint_t ngx_http_aiq_ws_bits(ngx_str_t *s);
static ngx_uint_t ngx_http_aiq_ws_split(ngx_str_t *s, u_char ch,
    ngx_str_t *part);
static void ngx_http_aiq_ws_trim(ngx_str_t *s);
static ngx_int_t ngx_http_aiq_ws_inflate_begin(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws);
static ngx_int_t ngx_http_aiq_ws_inflate_some(ngx_http_aiq_ws_t *ws,
    size_t *size);
static ngx_int_t ngx_http_aiq_ws_inflate_check(ngx_http_aiq_ws_t *ws,
    size_t size, ngx_uint_t last);
static ngx_int_t ngx_http_aiq_ws_bad(ngx_http_aiq_ws_t *ws, ngx_uint_t code,
    const char *why);


/* a worker's, between two lines of code */

static u_char      ngx_http_aiq_ws_inflated[NGX_HTTP_AIQ_WS_INFLATE];
static u_char      ngx_http_aiq_ws_deflated[AIQ_FRAME_MAX];
static z_stream   *ngx_http_aiq_ws_deflaters[NGX_HTTP_AIQ_WS_BITS + 1];


ngx_uint_t
ngx_http_aiq_ws_offer(ngx_str_t *header, ngx_uint_t *named)
{
    ngx_str_t   offers, offer, part;
    ngx_uint_t  bits, seen;

    static ngx_str_t  name = ngx_string("permessage-deflate");

    offers = *header;

    while (ngx_http_aiq_ws_split(&offers, ',', &offer)) {

        (void) ngx_http_aiq_ws_split(&offer, ';', &part);

        if (part.len != name.len
            || ngx_strncmp(part.data, name.data, name.len) != 0)
        {
            continue;
        }

        bits = 0;
        seen = 0;

        while (ngx_http_aiq_ws_split(&offer, ';', &part)) {

            if (ngx_http_aiq_ws_parameter(&part, &bits, &seen) != NGX_OK) {
                goto next;
            }
        }

        *named = (bits != 0);

        return bits ? bits : NGX_HTTP_AIQ_WS_BITS;

    next:

        continue;
    }

    return 0;
}


/* an offer with what we do not know, or cannot do, is declined, 7.1 */

static ngx_int_t
ngx_http_aiq_ws_parameter(ngx_str_t *s, ngx_uint_t *bits, ngx_uint_t *seen)
{
    ngx_str_t   value, name;
    ngx_uint_t  i, n;

    static ngx_str_t  names[] = {
        ngx_string("server_no_context_takeover"),
        ngx_string("client_no_context_takeover"),
        ngx_string("client_max_window_bits"),
        ngx_string("server_max_window_bits")
    };

    value = *s;

    (void) ngx_http_aiq_ws_split(&value, '=', &name);

    for (i = 0; i < 4; i++) {
        if (name.len == names[i].len
            && ngx_strncmp(name.data, names[i].data, name.len) == 0)
        {
            break;
        }
    }

    if (i == 4 || (*seen & (1 << i))) {
        return NGX_DECLINED;
    }

    *seen |= 1 << i;

    if (i < 2) {
        return (name.len == s->len) ? NGX_OK : NGX_DECLINED;
    }

    if (i == 2 && name.len == s->len) {
        return NGX_OK;
    }

    n = ngx_http_aiq_ws_bits(&value);

    if (n == 0) {
        return NGX_DECLINED;
    }

    if (i == 3) {

        /* zlib has no raw window of 2^8 */

        if (n == 8) {
            return NGX_DECLINED;
        }

        *bits = n;
    }

    return NGX_OK;
}


/* 8 to 15, maybe in quotes; else 0 */

static ngx_uint_t
ngx_http_aiq_ws_bits(ngx_str_t *s)
{
    ngx_int_t  n;

    ngx_http_aiq_ws_trim(s);

    if (s->len > 2 && s->data[0] == '"' && s->data[s->len - 1] == '"') {
        s->data++;
        s->len -= 2;
    }

    if (s->len == 0 || s->len > 2 || s->data[0] == '0') {
        return 0;
    }

    n = ngx_atoi(s->data, s->len);

    return (n >= 8 && n <= NGX_HTTP_AIQ_WS_BITS) ? n : 0;
}


/* takes what stands before the next ch */

static ngx_uint_t
ngx_http_aiq_ws_split(ngx_str_t *s, u_char ch, ngx_str_t *part)
{
    u_char  *p;

    if (s->len == 0) {
        return 0;
    }

    *part = *s;

    p = ngx_strlchr(s->data, s->data + s->len, ch);

    if (p) {
        part->len = p - s->data;
        s->len -= part->len + 1;
        s->data = p + 1;

    } else {
        s->data += s->len;
        s->len = 0;
    }

    ngx_http_aiq_ws_trim(part);

    return 1;
}


static void
ngx_http_aiq_ws_trim(ngx_str_t *s)
{
    while (s->len && (s->data[0] == ' ' || s->data[0] == '\t')) {
        s->data++;
        s->len--;
    }

    while (s->len && (s->data[s->len - 1] == ' '
                      || s->data[s->len - 1] == '\t'))
    {
        s->len--;
    }
}


/*
 * NGX_OK: ws->piece has gone to the engine, NGX_AGAIN: it waits for credit or
 * the ring, NGX_DECLINED: its code and why say what is wrong with it
 */

ngx_int_t
ngx_http_aiq_ws_inflate(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    size_t                      size, room;
    u_char                     *p;
    ngx_int_t                   rc;
    ngx_uint_t                  flags;
    ngx_http_aiq_ws_t          *ws;
    ngx_http_aiq_job_t         *job;
    ngx_http_aiq_ws_inflate_t  *in;

    ws = ctx->ws;
    job = &ctx->job;

    if (ws->piece.first) {

        if (ngx_http_aiq_ws_inflate_begin(r, ws) != NGX_OK) {
            return ngx_http_aiq_ws_bad(ws, NGX_HTTP_AIQ_WS_INTERNAL,
                                       "no memory");
        }

        ws->piece.first = 0;
    }

    in = ws->inflate;

    do {
        if (job->credit <= AIQ_MESSAGE_COST) {
            return NGX_AGAIN;
        }

        room = ngx_min(job->credit - AIQ_MESSAGE_COST,
                       NGX_HTTP_AIQ_WS_INFLATE);

        if (!ngx_http_aiq_link_room(ctx, room)) {
            /* what has come out cannot go back in */
            ws->full = room;
            ngx_http_aiq_link_wait(ctx);
            return NGX_AGAIN;
        }

        size = room;

        rc = ngx_http_aiq_ws_inflate_some(ws, &size);

        if (rc == NGX_DECLINED) {
            return rc;
        }

        if (size == 0 && rc != NGX_DONE) {
            continue;
        }

        flags = in->begun ? AIQ_MESSAGE_MORE : ws->piece.opcode;

        if (rc == NGX_DONE) {
            flags |= AIQ_MESSAGE_FIN;
        }

        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_MESSAGE, flags, size);

        if (p == NULL) {
            return ngx_http_aiq_ws_bad(ws, NGX_HTTP_AIQ_WS_INTERNAL,
                                       "no room");
        }

        ngx_memcpy(p, ngx_http_aiq_ws_inflated, size);

        job->credit -= size + AIQ_MESSAGE_COST;
        in->begun = 1;

    } while (rc == NGX_AGAIN);

    if (rc == NGX_DONE) {
        ngx_http_aiq_ws_inflate_end(ws);
        ngx_http_aiq_count_message(0);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_inflate_begin(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws)
{
    ws->inflate = ngx_calloc(sizeof(ngx_http_aiq_ws_inflate_t),
                             r->connection->log);
    if (ws->inflate == NULL) {
        return NGX_ERROR;
    }

    if (inflateInit2(&ws->inflate->z, -NGX_HTTP_AIQ_WS_BITS) != Z_OK) {
        ngx_free(ws->inflate);
        ws->inflate = NULL;
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_http_aiq_ws_inflate_end(ngx_http_aiq_ws_t *ws)
{
    if (ws->inflate) {
        (void) inflateEnd(&ws->inflate->z);
        ngx_free(ws->inflate);
        ws->inflate = NULL;
    }
}


/*
 * Fills the buffer as far as the piece goes.  NGX_AGAIN: more of it comes,
 * NGX_OK: that was the piece, NGX_DONE: that was the message
 */

static ngx_int_t
ngx_http_aiq_ws_inflate_some(ngx_http_aiq_ws_t *ws, size_t *size)
{
    int                         rc;
    uInt                        n;
    z_stream                   *z;
    ngx_http_aiq_ws_event_t    *ev;
    ngx_http_aiq_ws_inflate_t  *in;

    static u_char  tail[] = { 0x00, 0x00, 0xff, 0xff };

    ev = &ws->piece;
    in = ws->inflate;
    z = &in->z;

    z->next_out = ngx_http_aiq_ws_inflated;
    z->avail_out = (uInt) *size;

    do {
        if (ev->len) {
            z->next_in = ev->data;
            z->avail_in = (uInt) ev->len;

        } else if (ev->last && in->tail < sizeof(tail)) {
            z->next_in = tail + in->tail;
            z->avail_in = (uInt) (sizeof(tail) - in->tail);

        } else if (!in->pending) {
            break;
        }

        n = z->avail_in;
        rc = inflate(z, Z_SYNC_FLUSH);
        n -= z->avail_in;

        if (ev->len) {
            ev->data += n;
            ev->len -= n;

        } else {
            in->tail += (uint8_t) n;
        }

        /* a last block is allowed, 7.2.3.4, and what follows begins anew */

        if ((rc != Z_OK && rc != Z_BUF_ERROR && rc != Z_STREAM_END)
            || (rc == Z_STREAM_END && inflateReset(z) != Z_OK))
        {
            return ngx_http_aiq_ws_bad(ws, NGX_HTTP_AIQ_WS_BAD_DATA,
                                       "message does not inflate");
        }

        in->pending = (z->avail_out == 0);

    } while (!in->pending);

    *size -= z->avail_out;

    if (in->pending) {
        rc = NGX_AGAIN;

    } else {
        rc = ev->last ? NGX_DONE : NGX_OK;
    }

    if (ngx_http_aiq_ws_inflate_check(ws, *size, rc == NGX_DONE) != NGX_OK) {
        return NGX_DECLINED;
    }

    return rc;
}


static ngx_int_t
ngx_http_aiq_ws_inflate_check(ngx_http_aiq_ws_t *ws, size_t size,
    ngx_uint_t last)
{
    ngx_http_aiq_ws_inflate_t  *in;

    in = ws->inflate;
    in->len += size;

    if (ws->limits.max_message && in->len > ws->limits.max_message) {
        return ngx_http_aiq_ws_bad(ws, NGX_HTTP_AIQ_WS_TOO_BIG,
                                   "message too big");
    }

    if (ws->piece.opcode == NGX_HTTP_AIQ_WS_TEXT
        && (!ngx_http_aiq_ws_utf8(&in->utf8, ngx_http_aiq_ws_inflated, size)
            || (last && in->utf8.left)))
    {
        return ngx_http_aiq_ws_bad(ws, NGX_HTTP_AIQ_WS_BAD_DATA,
                                   "text is not UTF-8");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_bad(ngx_http_aiq_ws_t *ws, ngx_uint_t code, const char *why)
{
    ws->piece.code = (unsigned) code;
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
