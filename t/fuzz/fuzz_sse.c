/*
 * Any bytes to the event stream parser, and to what looks for a usage in one that passes.
 * However they are cut, the same comes out, and nothing is held beyond the limit.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "providers/sse.h"
#include "providers/usage_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(aiq_buf *out, const sse_event *e)
{
    const aiq_str parts[] = {e->type, e->data, e->id};

    for (int i = 0; i < 3; i++) {
        aiq_buf_add(out, &parts[i].len, sizeof(parts[i].len));
        aiq_buf_add(out, parts[i].data, parts[i].len);
    }
}

/* In pieces of n bytes; the first byte of the input is the size. */
static void run(const uint8_t *data, size_t size, size_t n, aiq_buf *out)
{
    sse_parser p;
    sse_event event;
    sse_result result = SSE_MORE;

    sse_init(&p);
    for (size_t at = 0; at < size && result != SSE_TOO_LONG; at += n) {
        size_t len = size - at < n ? size - at : n;
        uint8_t *part = memcpy(aiq_alloc(len), data + at, len);
        const uint8_t *pos = part;
        while ((result = sse_next(&p, &pos, part + len, &event)) == SSE_EVENT) {
            note(out, &event);
        }
        assert(result == SSE_TOO_LONG || pos == part + len);
        assert(p.line.len <= SSE_MAX && p.data.len <= SSE_MAX);
        free(part);
    }
    while (result != SSE_TOO_LONG && (result = sse_end(&p, &event)) == SSE_EVENT) {
        note(out, &event);
    }
    sse_free(&p);
}

static provider_tokens scan(const uint8_t *data, size_t size, size_t n)
{
    usage_scan s = {0};

    for (size_t at = 0; at < size; at += n) {
        usage_scan_add(&s, (aiq_str){(const char *)data + at, size - at < n ? size - at : n});
    }
    return usage_scan_tokens(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    aiq_buf whole = {0}, cut = {0};

    if (size > 1) {
        run(data + 1, size - 1, size - 1, &whole);
        run(data + 1, size - 1, 1 + data[0] % 16, &cut);
        assert(whole.len == cut.len);
        assert(whole.len == 0 || memcmp(whole.data, cut.data, cut.len) == 0);

        provider_tokens one = scan(data + 1, size - 1, size - 1);
        provider_tokens other = scan(data + 1, size - 1, 1 + data[0] % 16);
        assert(one.in == other.in && one.out == other.out && one.sound_ms == other.sound_ms);
    }
    aiq_buf_free(&whole);
    aiq_buf_free(&cut);
    return 0;
}
