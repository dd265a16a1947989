/*
 * What a client says in permessage-deflate: its offer, and messages that it compressed, read
 * at once and in pieces. Both must come to the same, whatever it is; nothing comes out beyond
 * the limit; and what an honest client compresses comes out as it was.
 *
 *     u8      bit 0 text, bit 1 a small limit, bit 2 little room for what comes out
 *     u8      length of the pieces, less one
 *     bytes
 */

#include <assert.h>
#include <stdlib.h>

/* the module's objects belong to nginx's build, so these are made here */
#include "ngx_aiq_module/ngx_http_aiq_ws_frame.c"   /* NOLINT(bugprone-suspicious-include) */
#include "ngx_aiq_module/ngx_http_aiq_ws_inflate.c" /* NOLINT(bugprone-suspicious-include) */

#define LIMIT 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    int rc;
    uint64_t len, sum;
} outcome;

typedef struct {
    uint8_t opcode;
    uint64_t limit;
    size_t room;
} rules;

static void add(outcome *o, const uint8_t *p, size_t n)
{
    o->len += n;
    for (size_t i = 0; i < n; i++) {
        o->sum = (o->sum ^ p[i]) * 0x100000001b3ull;
    }
}

static void piece(ngx_http_aiq_ws_inflate_t *in, const rules *how, const uint8_t *data,
                  size_t n, int last, outcome *o)
{
    uint8_t *copy = malloc(n + (n == 0)), *out = malloc(how->room);
    ngx_http_aiq_ws_event_t ev = {.opcode = how->opcode, .data = copy, .len = n};
    uint64_t before;

    ev.last = last != 0;
    memcpy(copy, data, n);
    do {
        size_t size = how->room;
        before = in->len;
        o->rc = ngx_http_aiq_ws_inflate(in, how->limit, &ev, out, &size);
        if (o->rc != NGX_HTTP_AIQ_WS_INFLATE_BAD) {
            assert(size <= how->room && in->len == before + size);
            assert(!how->limit || in->len <= how->limit);
            add(o, out, size);
        } else {
            assert(ev.why && ev.code);
        }
    } while (o->rc == NGX_HTTP_AIQ_WS_INFLATE_MORE);
    assert(o->rc == NGX_HTTP_AIQ_WS_INFLATE_BAD || ev.len == 0);
    free(copy);
    free(out);
}

static outcome message(const rules *how, const uint8_t *data, size_t size, size_t n)
{
    ngx_http_aiq_ws_inflate_t in = {0};
    outcome o = {0};

    if (!ngx_http_aiq_ws_inflate_begin(&in)) {
        abort();
    }
    for (size_t at = 0; at <= size && o.rc == NGX_HTTP_AIQ_WS_INFLATE_PIECE; at += n) {
        size_t len = size - at < n ? size - at : n;
        piece(&in, how, data + at, len, at + n > size, &o);
    }
    ngx_http_aiq_ws_inflate_end(&in);
    return o;
}

/* As an honest client does it. */
static void round_trip(const uint8_t *data, size_t size, size_t n)
{
    const rules how = {NGX_HTTP_AIQ_WS_BINARY, size, 100};
    uint8_t *packed = malloc(size + 1024);
    z_stream z = {0};
    outcome whole = {0};

    if (deflateInit2(&z, 1, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        abort();
    }
    z.next_in = (uint8_t *)data;
    z.avail_in = (uInt)size;
    z.next_out = packed;
    z.avail_out = (uInt)(size + 1024);
    assert(deflate(&z, Z_SYNC_FLUSH) == Z_OK && z.avail_in == 0);
    size_t len = size + 1024 - z.avail_out;
    deflateEnd(&z);
    add(&whole, data, size);
    outcome o = message(&how, packed, len - 4, n);
    assert(o.rc == NGX_HTTP_AIQ_WS_INFLATE_LAST && o.len == size && o.sum == whole.sum);
    free(packed);
}

static void offer(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + (size == 0));
    unsigned named = 2;

    memcpy(copy, data, size);
    unsigned bits = ngx_http_aiq_ws_offer(copy, size, &named);
    assert(bits == 0 || (bits >= 9 && bits <= 15 && named <= 1));
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rules how = {NGX_HTTP_AIQ_WS_BINARY, 0, 4096};

    if (size < 3) {
        return 0;
    }
    how.opcode = data[0] & 1 ? NGX_HTTP_AIQ_WS_TEXT : NGX_HTTP_AIQ_WS_BINARY;
    how.limit = data[0] & 2 ? LIMIT : 1 << 20;
    how.room = data[0] & 4 ? 7 : 4096;
    size_t n = data[1] + 1u;
    data += 2;
    size -= 2;
    offer(data, size);
    round_trip(data, size, n);
    outcome whole = message(&how, data, size, size + 1), cut = message(&how, data, size, n);
    assert(whole.rc == cut.rc);
    /* what fails may have come out up to where it was cut */
    assert(whole.rc < 0 || (whole.len == cut.len && whole.sum == cut.sum));
    return 0;
}
