/*
 * What a client sends on a WebSocket, read at once and in pieces: both must come to
 * the same, whatever it is.
 *
 *     u8      limits: bit 0 a small message, bit 1 few fragments, bit 2 deflate
 *     u8      length of the pieces, less one
 *     bytes
 */

#include <assert.h>
#include <stdlib.h>

/* the module's objects belong to nginx's build, so this one is made here */
#include "ngx_aiq_module/ngx_http_aiq_ws_frame.c" /* NOLINT(bugprone-suspicious-include) */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What came out: a sum over all bytes and events, wherever they were cut. */
typedef struct {
    ngx_http_aiq_ws_reader_t reader;
    uint64_t sum, bytes;
    int rc;
} outcome;

static void add(outcome *o, uint64_t n)
{
    o->sum = (o->sum ^ n) * 0x100000001b3ull;
}

static void take(outcome *o, const ngx_http_aiq_ws_limits_t *limits,
                 const ngx_http_aiq_ws_event_t *ev)
{
    int control = ev->opcode >= NGX_HTTP_AIQ_WS_CLOSE;

    assert(!control || ev->len <= NGX_HTTP_AIQ_WS_CONTROL);
    for (size_t i = 0; i < ev->len; i++) {
        add(o, ev->data[i]);
    }
    if (control) {
        add(o, 1000u + ev->opcode);
        add(o, ev->code);
        return;
    }
    o->bytes = ev->first ? ev->len : o->bytes + ev->len;
    assert(ev->compressed || !limits->max_message || o->bytes <= limits->max_message);
    if (ev->last) {
        add(o, 2000u + ev->opcode);
        assert(o->reader.utf8.left == 0);
    }
}

static void feed(outcome *o, const ngx_http_aiq_ws_limits_t *limits, const uint8_t *data,
                 size_t n)
{
    uint8_t *copy = malloc(n), *pos = copy; /* exactly: a read beyond it is seen */
    ngx_http_aiq_ws_event_t ev;

    memcpy(copy, data, n);
    while ((o->rc = ngx_http_aiq_ws_read(&o->reader, limits, &pos, copy + n, &ev)) == 1) {
        take(o, limits, &ev);
    }
    assert(o->rc == 0 ? pos == copy + n : ev.why != NULL);
    if (o->rc < 0) {
        add(o, ev.code);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_http_aiq_ws_limits_t limits = {0};
    outcome whole = {0}, cut = {0};

    if (size < 3) {
        return 0;
    }
    limits.max_message = data[0] & 1 ? 8 : 0;
    limits.max_fragments = data[0] & 2 ? 2 : 0;
    limits.deflate = data[0] >> 2 & 1;
    size_t piece = data[1] + 1u;
    data += 2;
    size -= 2;
    feed(&whole, &limits, data, size);
    for (size_t i = 0; i < size && cut.rc == 0; i += piece) {
        feed(&cut, &limits, data + i, size - i < piece ? size - i : piece);
    }
    assert(whole.rc == cut.rc);
    /* text that fails may have come out up to where it was cut */
    assert(whole.rc < 0 || whole.sum == cut.sum);
    return 0;
}
