
#include "ngx_http_aiq_ws_frame.h"

#include <string.h>


static int ngx_http_aiq_ws_begin(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, ngx_http_aiq_ws_event_t *ev);
static int ngx_http_aiq_ws_begin_data(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, ngx_http_aiq_ws_event_t *ev);
static uint64_t ngx_http_aiq_ws_length(ngx_http_aiq_ws_reader_t *rd);
static int ngx_http_aiq_ws_data(ngx_http_aiq_ws_reader_t *rd, uint8_t **pos,
    uint8_t *last, ngx_http_aiq_ws_event_t *ev);
static int ngx_http_aiq_ws_control(ngx_http_aiq_ws_reader_t *rd,
    uint8_t **pos, uint8_t *last, ngx_http_aiq_ws_event_t *ev);
static int ngx_http_aiq_ws_close(ngx_http_aiq_ws_reader_t *rd,
    ngx_http_aiq_ws_event_t *ev);
static void ngx_http_aiq_ws_unmask(ngx_http_aiq_ws_reader_t *rd, uint8_t *p,
    size_t len);
static int ngx_http_aiq_ws_fail(ngx_http_aiq_ws_event_t *ev, unsigned code,
    const char *why);


int
ngx_http_aiq_ws_read(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, uint8_t **pos, uint8_t *last,
    ngx_http_aiq_ws_event_t *ev)
{
    int      rc;
    uint8_t  need;

    memset(ev, 0, sizeof(ngx_http_aiq_ws_event_t));

    for ( ;; ) {

        if (rd->payload) {

            if (rd->opcode & 0x8) {
                rc = ngx_http_aiq_ws_control(rd, pos, last, ev);

            } else {
                rc = ngx_http_aiq_ws_data(rd, pos, last, ev);
            }

            if (rc != 0 || rd->payload) {
                return rc;
            }

            continue;
        }

        if (*pos == last) {
            return 0;
        }

        rd->header[rd->have++] = *(*pos)++;

        if (rd->have < 2) {
            continue;
        }

        if (rd->have == 2) {
            rc = ngx_http_aiq_ws_begin(rd, limits, ev);

            if (rc != 0) {
                return rc;
            }
        }

        need = 2 + 4;

        if ((rd->header[1] & 0x7f) == 126) {
            need += 2;

        } else if ((rd->header[1] & 0x7f) == 127) {
            need += 8;
        }

        if (rd->have < need) {
            continue;
        }

        memcpy(rd->mask, &rd->header[need - 4], 4);

        rd->left = ngx_http_aiq_ws_length(rd);
        rd->have = 0;
        rd->payload = 1;

        if (rd->left == UINT64_MAX) {
            return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                             "a length that is not in its shortest form");
        }

        if (rd->opcode & 0x8) {
            rd->nfill = 0;
            continue;
        }

        /* what a compressed message becomes is bounded as it is inflated */

        if (limits->max_message && !rd->compressed
            && (rd->left > limits->max_message
                || rd->message > limits->max_message - rd->left))
        {
            return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_TOO_BIG,
                                        "message too big");
        }

        rd->message += rd->left;
    }
}


/* the first two bytes tell most of what can be wrong */

static int
ngx_http_aiq_ws_begin(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, ngx_http_aiq_ws_event_t *ev)
{
    uint8_t  rsv;

    rd->opcode = rd->header[0] & 0x0f;
    rd->fin = rd->header[0] >> 7;

    rsv = rd->header[0] & 0x70;

    if (limits->deflate && (rd->opcode == NGX_HTTP_AIQ_WS_TEXT
                            || rd->opcode == NGX_HTTP_AIQ_WS_BINARY))
    {
        rsv &= ~NGX_HTTP_AIQ_WS_RSV1;
    }

    if (rsv) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "reserved bit set");
    }

    if (!(rd->header[1] & 0x80)) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "frame not masked");
    }

    if (!(rd->opcode & 0x8)) {
        return ngx_http_aiq_ws_begin_data(rd, limits, ev);
    }

    if (rd->opcode > NGX_HTTP_AIQ_WS_PONG) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "reserved opcode");
    }

    if (!rd->fin) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "fragmented control frame");
    }

    if ((rd->header[1] & 0x7f) > NGX_HTTP_AIQ_WS_CONTROL) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "control frame too long");
    }

    return 0;
}


static int
ngx_http_aiq_ws_begin_data(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, ngx_http_aiq_ws_event_t *ev)
{
    if (rd->opcode > NGX_HTTP_AIQ_WS_BINARY) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "reserved opcode");
    }

    if (rd->opcode == NGX_HTTP_AIQ_WS_MORE) {

        if (!rd->open) {
            return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                        "continuation of no message");
        }

        if (limits->max_fragments && rd->fragments >= limits->max_fragments) {
            return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_POLICY,
                                        "too many fragments");
        }

        rd->fragments++;

        return 0;
    }

    if (rd->open) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "message within a message");
    }

    rd->open = 1;
    rd->first = 1;
    rd->fragments = 1;
    rd->message = 0;
    rd->text = (rd->opcode == NGX_HTTP_AIQ_WS_TEXT);
    rd->compressed = (rd->header[0] & NGX_HTTP_AIQ_WS_RSV1) ? 1 : 0;
    memset(&rd->utf8, 0, sizeof(ngx_http_aiq_ws_utf8_t));

    return 0;
}


/* UINT64_MAX: shorter forms exist, or the most significant bit is set */

static uint64_t
ngx_http_aiq_ws_length(ngx_http_aiq_ws_reader_t *rd)
{
    size_t    i;
    uint64_t  len;

    len = rd->header[1] & 0x7f;

    if (len == 126) {
        len = ((uint64_t) rd->header[2] << 8) | rd->header[3];

        return (len > 125) ? len : UINT64_MAX;
    }

    if (len == 127) {
        len = 0;

        for (i = 2; i < 10; i++) {
            len = (len << 8) | rd->header[i];
        }

        return (len > 0xffff && len >> 63 == 0) ? len : UINT64_MAX;
    }

    return len;
}


/* 0 and rd->payload: no more bytes, 0 without: a frame with nothing new */

static int
ngx_http_aiq_ws_data(ngx_http_aiq_ws_reader_t *rd, uint8_t **pos,
    uint8_t *last, ngx_http_aiq_ws_event_t *ev)
{
    size_t  n;

    n = (size_t) (last - *pos);

    if ((uint64_t) n > rd->left) {
        n = (size_t) rd->left;
    }

    if (n == 0 && rd->left) {
        return 0;
    }

    ev->data = *pos;
    ev->len = n;

    ngx_http_aiq_ws_unmask(rd, *pos, n);

    *pos += n;
    rd->left -= n;

    if (rd->text && !rd->compressed
        && !ngx_http_aiq_ws_utf8(&rd->utf8, ev->data, n))
    {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_BAD_DATA,
                                    "text is not UTF-8");
    }

    if (rd->left == 0) {
        rd->payload = 0;

        if (rd->fin) {
            ev->last = 1;
            rd->open = 0;

            if (rd->utf8.left) {
                return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_BAD_DATA,
                                            "text is not UTF-8");
            }

        } else if (n == 0) {
            /* an empty fragment says nothing */
            return 0;
        }
    }

    ev->opcode = rd->text ? NGX_HTTP_AIQ_WS_TEXT : NGX_HTTP_AIQ_WS_BINARY;
    ev->first = rd->first;
    ev->compressed = rd->compressed;

    rd->first = 0;

    return 1;
}


static int
ngx_http_aiq_ws_control(ngx_http_aiq_ws_reader_t *rd, uint8_t **pos,
    uint8_t *last, ngx_http_aiq_ws_event_t *ev)
{
    size_t  n;

    n = (size_t) (last - *pos);

    if ((uint64_t) n > rd->left) {
        n = (size_t) rd->left;
    }

    if (n) {
        memcpy(&rd->fill[rd->nfill], *pos, n);
        ngx_http_aiq_ws_unmask(rd, &rd->fill[rd->nfill], n);
    }

    *pos += n;
    rd->nfill += (uint8_t) n;
    rd->left -= n;

    if (rd->left) {
        return 0;
    }

    rd->payload = 0;

    ev->opcode = rd->opcode;
    ev->data = rd->fill;
    ev->len = rd->nfill;

    if (rd->opcode == NGX_HTTP_AIQ_WS_CLOSE) {
        return ngx_http_aiq_ws_close(rd, ev);
    }

    return 1;
}


/* what is left in ev is the reason */

static int
ngx_http_aiq_ws_close(ngx_http_aiq_ws_reader_t *rd,
    ngx_http_aiq_ws_event_t *ev)
{
    ngx_http_aiq_ws_utf8_t  utf8;

    if (ev->len == 0) {
        ev->code = NGX_HTTP_AIQ_WS_NO_CODE;
        return 1;
    }

    if (ev->len == 1) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "half a close code");
    }

    ev->code = ((unsigned) rd->fill[0] << 8) | rd->fill[1];
    ev->data += 2;
    ev->len -= 2;

    if (!ngx_http_aiq_ws_valid_code(ev->code)) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_PROTOCOL,
                                    "invalid close code");
    }

    memset(&utf8, 0, sizeof(ngx_http_aiq_ws_utf8_t));

    if (!ngx_http_aiq_ws_utf8(&utf8, ev->data, ev->len) || utf8.left) {
        return ngx_http_aiq_ws_fail(ev, NGX_HTTP_AIQ_WS_BAD_DATA,
                                    "close reason is not UTF-8");
    }

    return 1;
}


int
ngx_http_aiq_ws_valid_code(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014)
           || (code >= 3000 && code <= 4999);
}


static void
ngx_http_aiq_ws_unmask(ngx_http_aiq_ws_reader_t *rd, uint8_t *p, size_t len)
{
    size_t    i;
    uint8_t   mask[8];
    uint64_t  m, w;

    memcpy(mask, rd->mask, 4);
    memcpy(mask + 4, rd->mask, 4);
    memcpy(&m, mask, 8);

    for (i = 0; len - i >= 8; i += 8) {
        memcpy(&w, p + i, 8);
        w ^= m;
        memcpy(p + i, &w, 8);
    }

    for ( /* void */ ; i < len; i++) {
        p[i] ^= mask[i & 3];
    }

    /* the next byte is masked with the first */

    for (i = 0; i < 4; i++) {
        rd->mask[i] = mask[(len + i) & 3];
    }
}


uint8_t *
ngx_http_aiq_ws_header(uint8_t *p, uint8_t first, uint64_t len)
{
    int  shift;

    *p++ = first;

    if (len < 126) {
        *p++ = (uint8_t) len;
        return p;
    }

    if (len <= 0xffff) {
        *p++ = 126;
        shift = 8;

    } else {
        *p++ = 127;
        shift = 56;
    }

    for ( /* void */ ; shift >= 0; shift -= 8) {
        *p++ = (uint8_t) (len >> shift);
    }

    return p;
}


/*
 * The first byte tells how many follow and, for what would be overlong, a
 * surrogate, or beyond U+10FFFF, between which bounds the second one lies.
 */

int
ngx_http_aiq_ws_utf8(ngx_http_aiq_ws_utf8_t *s, const uint8_t *p, size_t len)
{
    uint8_t         c;
    uint64_t        w;
    const uint8_t  *end;

    end = p + len;

    while (p < end) {

        if (s->left) {
            c = *p++;

            if (c < s->low || c > s->high) {
                return 0;
            }

            s->left--;
            s->low = 0x80;
            s->high = 0xbf;
            continue;
        }

        if (end - p >= 8) {
            memcpy(&w, p, 8);

            if ((w & 0x8080808080808080ull) == 0) {
                p += 8;
                continue;
            }
        }

        c = *p++;

        if (c < 0x80) {
            continue;
        }

        if (c < 0xc2 || c > 0xf4) {
            return 0;
        }

        s->left = 1 + (c >= 0xe0) + (c >= 0xf0);
        s->low = (c == 0xe0) ? 0xa0 : (c == 0xf0) ? 0x90 : 0x80;
        s->high = (c == 0xed) ? 0x9f : (c == 0xf4) ? 0x8f : 0xbf;
    }

    return 1;
}


static int
ngx_http_aiq_ws_fail(ngx_http_aiq_ws_event_t *ev, unsigned code,
    const char *why)
{
    ev->code = code;
    ev->why = why;

    return -1;
}
