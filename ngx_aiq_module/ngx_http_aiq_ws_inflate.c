
#include "ngx_http_aiq_ws_inflate.h"

#include <string.h>


typedef struct {
    const uint8_t             *data;
    size_t                     len;
} ngx_http_aiq_ws_text_t;


static int ngx_http_aiq_ws_parameter(ngx_http_aiq_ws_text_t *s,
    unsigned *bits, unsigned *seen);
static unsigned ngx_http_aiq_ws_bits(ngx_http_aiq_ws_text_t *s);
static int ngx_http_aiq_ws_split(ngx_http_aiq_ws_text_t *s, uint8_t ch,
    ngx_http_aiq_ws_text_t *part);
static void ngx_http_aiq_ws_trim(ngx_http_aiq_ws_text_t *s);
static int ngx_http_aiq_ws_is(ngx_http_aiq_ws_text_t *s, const char *word);
static int ngx_http_aiq_ws_inflate_input(ngx_http_aiq_ws_inflate_t *in,
    ngx_http_aiq_ws_event_t *ev);
static int ngx_http_aiq_ws_inflate_check(ngx_http_aiq_ws_inflate_t *in,
    uint64_t max_message, ngx_http_aiq_ws_event_t *ev, const uint8_t *out,
    size_t size, int last);
static int ngx_http_aiq_ws_inflate_bad(ngx_http_aiq_ws_event_t *ev,
    unsigned code, const char *why);


unsigned
ngx_http_aiq_ws_offer(const uint8_t *p, size_t len, unsigned *named)
{
    int                     rc;
    unsigned                bits, seen;
    ngx_http_aiq_ws_text_t  offers, offer, part;

    offers.data = p;
    offers.len = len;

    while (ngx_http_aiq_ws_split(&offers, ',', &offer)) {

        if (!ngx_http_aiq_ws_split(&offer, ';', &part)
            || !ngx_http_aiq_ws_is(&part, "permessage-deflate"))
        {
            continue;
        }

        bits = 0;
        seen = 0;
        rc = 1;

        while (rc && ngx_http_aiq_ws_split(&offer, ';', &part)) {
            rc = ngx_http_aiq_ws_parameter(&part, &bits, &seen);
        }

        if (rc) {
            *named = (bits != 0);
            return bits ? bits : NGX_HTTP_AIQ_WS_BITS;
        }
    }

    return 0;
}


/* an offer with what we do not know, or cannot do, is declined, 7.1 */

static int
ngx_http_aiq_ws_parameter(ngx_http_aiq_ws_text_t *s, unsigned *bits,
    unsigned *seen)
{
    unsigned                i, n;
    ngx_http_aiq_ws_text_t  value, name;

    static const char  *names[] = {
        "server_no_context_takeover",
        "client_no_context_takeover",
        "client_max_window_bits",
        "server_max_window_bits"
    };

    value = *s;

    if (!ngx_http_aiq_ws_split(&value, '=', &name)) {
        return 0;
    }

    for (i = 0; i < 4; i++) {
        if (ngx_http_aiq_ws_is(&name, names[i])) {
            break;
        }
    }

    if (i == 4 || (*seen & (1u << i))) {
        return 0;
    }

    *seen |= 1u << i;

    if (i < 2) {
        return name.len == s->len;
    }

    if (i == 2 && name.len == s->len) {
        return 1;
    }

    n = ngx_http_aiq_ws_bits(&value);

    if (i == 3) {

        /* zlib has no raw window of 2^8 */

        if (n == 8) {
            return 0;
        }

        *bits = n;
    }

    return n != 0;
}


/* 8 to 15, maybe in quotes; else 0 */

static unsigned
ngx_http_aiq_ws_bits(ngx_http_aiq_ws_text_t *s)
{
    size_t    i;
    unsigned  n;

    ngx_http_aiq_ws_trim(s);

    if (s->len > 2 && s->data[0] == '"' && s->data[s->len - 1] == '"') {
        s->data++;
        s->len -= 2;
    }

    if (s->len == 0 || s->len > 2 || s->data[0] == '0') {
        return 0;
    }

    n = 0;

    for (i = 0; i < s->len; i++) {

        if (s->data[i] < '0' || s->data[i] > '9') {
            return 0;
        }

        n = n * 10 + (unsigned) (s->data[i] - '0');
    }

    return (n >= 8 && n <= NGX_HTTP_AIQ_WS_BITS) ? n : 0;
}


/* takes what stands before the next ch; 0: there is nothing any more */

static int
ngx_http_aiq_ws_split(ngx_http_aiq_ws_text_t *s, uint8_t ch,
    ngx_http_aiq_ws_text_t *part)
{
    const uint8_t  *p;

    if (s->len == 0) {
        return 0;
    }

    *part = *s;

    p = memchr(s->data, ch, s->len);

    if (p) {
        part->len = (size_t) (p - s->data);
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
ngx_http_aiq_ws_trim(ngx_http_aiq_ws_text_t *s)
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


static int
ngx_http_aiq_ws_is(ngx_http_aiq_ws_text_t *s, const char *word)
{
    return s->len == strlen(word) && memcmp(s->data, word, s->len) == 0;
}


int
ngx_http_aiq_ws_inflate_begin(ngx_http_aiq_ws_inflate_t *in)
{
    return inflateInit2(&in->z, -NGX_HTTP_AIQ_WS_BITS) == Z_OK;
}


void
ngx_http_aiq_ws_inflate_end(ngx_http_aiq_ws_inflate_t *in)
{
    (void) inflateEnd(&in->z);
}


int
ngx_http_aiq_ws_inflate(ngx_http_aiq_ws_inflate_t *in, uint64_t max_message,
    ngx_http_aiq_ws_event_t *ev, uint8_t *out, size_t *size)
{
    int        rc;
    uInt       n;
    z_stream  *z;

    z = &in->z;

    z->next_out = out;
    z->avail_out = (uInt) *size;

    while (ngx_http_aiq_ws_inflate_input(in, ev)) {

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
            return ngx_http_aiq_ws_inflate_bad(ev, NGX_HTTP_AIQ_WS_BAD_DATA,
                                               "message does not inflate");
        }

        in->pending = (z->avail_out == 0);

        if (in->pending) {
            break;
        }
    }

    *size -= z->avail_out;

    if (in->pending) {
        rc = NGX_HTTP_AIQ_WS_INFLATE_MORE;

    } else {
        rc = ev->last ? NGX_HTTP_AIQ_WS_INFLATE_LAST
                      : NGX_HTTP_AIQ_WS_INFLATE_PIECE;
    }

    if (!ngx_http_aiq_ws_inflate_check(in, max_message, ev, out, *size,
                                       rc == NGX_HTTP_AIQ_WS_INFLATE_LAST))
    {
        return NGX_HTTP_AIQ_WS_INFLATE_BAD;
    }

    return rc;
}


/* the piece, and behind the last one what its sender has left out, 7.2.2 */

static int
ngx_http_aiq_ws_inflate_input(ngx_http_aiq_ws_inflate_t *in,
    ngx_http_aiq_ws_event_t *ev)
{
    static uint8_t  tail[] = { 0x00, 0x00, 0xff, 0xff };

    if (ev->len) {
        in->z.next_in = ev->data;
        in->z.avail_in = (uInt) ev->len;
        return 1;
    }

    if (ev->last && in->tail < sizeof(tail)) {
        in->z.next_in = tail + in->tail;
        in->z.avail_in = (uInt) (sizeof(tail) - in->tail);
        return 1;
    }

    return in->pending;
}


static int
ngx_http_aiq_ws_inflate_check(ngx_http_aiq_ws_inflate_t *in,
    uint64_t max_message, ngx_http_aiq_ws_event_t *ev, const uint8_t *out,
    size_t size, int last)
{
    in->len += size;

    if (max_message && in->len > max_message) {
        (void) ngx_http_aiq_ws_inflate_bad(ev, NGX_HTTP_AIQ_WS_TOO_BIG,
                                           "message too big");
        return 0;
    }

    if (ev->opcode == NGX_HTTP_AIQ_WS_TEXT
        && (!ngx_http_aiq_ws_utf8(&in->utf8, out, size)
            || (last && in->utf8.left)))
    {
        (void) ngx_http_aiq_ws_inflate_bad(ev, NGX_HTTP_AIQ_WS_BAD_DATA,
                                           "text is not UTF-8");
        return 0;
    }

    return 1;
}


static int
ngx_http_aiq_ws_inflate_bad(ngx_http_aiq_ws_event_t *ev, unsigned code,
    const char *why)
{
    ev->code = code;
    ev->why = why;

    return NGX_HTTP_AIQ_WS_INFLATE_BAD;
}
