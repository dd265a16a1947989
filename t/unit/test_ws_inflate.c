/* permessage-deflate: which offers are taken, and what messages become (RFC 7692). */

#include "unit.h"
#include <stdlib.h>

/* the module's files are built by nginx's own build */
#include "ngx_aiq_module/ngx_http_aiq_ws_frame.c"   /* NOLINT(bugprone-suspicious-include) */
#include "ngx_aiq_module/ngx_http_aiq_ws_inflate.c" /* NOLINT(bugprone-suspicious-include) */

static void offers(void **state)
{
    static const struct {
        const char *header;
        unsigned bits, named;
    } cases[] = {
        {"permessage-deflate", 15, 0},
        {" permessage-deflate ;\tclient_max_window_bits ", 15, 0},
        {"permessage-deflate; client_max_window_bits=\"8\"", 15, 0},
        {"permessage-deflate; server_max_window_bits=10; client_no_context_takeover", 10, 1},
        {"permessage-deflate; server_max_window_bits=15", 15, 1},
        {"permessage-deflate; server_max_window_bits=8, permessage-deflate", 15, 0},
        {"x-other; a=1, , permessage-deflate; server_no_context_takeover", 15, 0},
        {"", 0, 0},
        {",;,;", 0, 0},
        {"permessage-deflate;", 15, 0},
        {"permessage-deflate, ,", 15, 0},
        {"permessage-deflat", 0, 0},
        {"x; permessage-deflate", 0, 0},
        {"permessage-deflate; ; client_max_window_bits", 0, 0},
        {"permessage-deflate; server_max_window_bits", 0, 0},
        {"permessage-deflate; server_max_window_bits=7", 0, 0},
        {"permessage-deflate; server_max_window_bits=16", 0, 0},
        {"permessage-deflate; server_max_window_bits=010", 0, 0},
        {"permessage-deflate; server_max_window_bits=\"\"", 0, 0},
        {"permessage-deflate; client_max_window_bits=1x", 0, 0},
        {"permessage-deflate; client_max_window_bits; client_max_window_bits", 0, 0},
        {"permessage-deflate; server_no_context_takeover=1", 0, 0},
        {"permessage-deflate; other", 0, 0},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned named = 0;
        const uint8_t *header = (const uint8_t *)cases[i].header;
        unsigned bits = ngx_http_aiq_ws_offer(header, strlen(cases[i].header), &named);
        if (bits != cases[i].bits || (bits && named != cases[i].named)) {
            fail_msg("\"%s\": %u, named %u", cases[i].header, bits, named);
        }
    }
}

typedef struct {
    char text[4096];
    size_t len;
    int rc;
    unsigned code;
} result;

/* A message, in pieces of n bytes, out of which `room` come at once. */
static result inflated(uint8_t opcode, uint64_t limit, const char *data, size_t size, size_t n,
                       size_t room)
{
    ngx_http_aiq_ws_inflate_t in = {0};
    result r = {.rc = NGX_HTTP_AIQ_WS_INFLATE_PIECE};
    uint8_t *copy = malloc(size + 1), out[256];

    memcpy(copy, data, size);
    assert_true(ngx_http_aiq_ws_inflate_begin(&in));
    for (size_t at = 0; at <= size && r.rc == NGX_HTTP_AIQ_WS_INFLATE_PIECE; at += n) {
        ngx_http_aiq_ws_event_t ev = {.opcode = opcode, .data = copy + at};
        ev.len = size - at < n ? size - at : n;
        ev.last = at + n > size;
        do {
            size_t got = room;
            r.rc = ngx_http_aiq_ws_inflate(&in, limit, &ev, out, &got);
            assert_true(r.len + got < sizeof(r.text));
            if (r.rc != NGX_HTTP_AIQ_WS_INFLATE_BAD) {
                memcpy(r.text + r.len, out, got);
                r.len += got;
            }
        } while (r.rc == NGX_HTTP_AIQ_WS_INFLATE_MORE);
        r.code = ev.code;
    }
    ngx_http_aiq_ws_inflate_end(&in);
    free(copy);
    return r;
}

#define BYTES(text) (text), sizeof(text) - 1

static void messages(void **state)
{
    static const struct {
        const char *data;
        size_t size;
        const char *text;
    } cases[] = {
        {BYTES("\xf2\x48\xcd\xc9\xc9\x07\x00"), "Hello"},                         /* 7.2.3.1 */
        {BYTES("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), "Hello"},         /* 7.2.3.3 */
        {BYTES("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), "Hello"},                     /* 7.2.3.4 */
        {BYTES("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), "Hello"}, /* 7.2.3.5 */
        {BYTES("\x00"), ""},                                                      /* 7.2.3.6 */
        {BYTES("\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00"), "HelloHello"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t n = 1; n <= cases[i].size + 1; n++) { /* however it is cut */
            for (size_t room = 1; room <= 11; room++) {
                result r =
                    inflated(NGX_HTTP_AIQ_WS_TEXT, 10, cases[i].data, cases[i].size, n, room);
                assert_int_equal(r.rc, NGX_HTTP_AIQ_WS_INFLATE_LAST);
                assert_int_equal(r.len, strlen(cases[i].text));
                assert_memory_equal(r.text, cases[i].text, r.len);
            }
        }
    }
}

static void what_is_refused(void **state)
{
    static const struct {
        const char *data;
        size_t size;
        uint64_t limit;
        unsigned code;
    } cases[] = {
        {BYTES("\xf2\x48\xcd\xc9\xc9\x07\x00"), 4, NGX_HTTP_AIQ_WS_TOO_BIG},
        {BYTES("\x07\x00"), 0, NGX_HTTP_AIQ_WS_BAD_DATA},             /* no block type */
        {BYTES("\x00\x05\x00\xfb\xff"), 0, NGX_HTTP_AIQ_WS_BAD_DATA}, /* a wrong length */
        {BYTES("\x00\x01\x00\xfe\xff\xff\x00"), 0, NGX_HTTP_AIQ_WS_BAD_DATA}, /* no UTF-8 */
        {BYTES("\x00\x01\x00\xfe\xff\xc3\x00"), 0, NGX_HTTP_AIQ_WS_BAD_DATA}, /* half of it */
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t n = 1; n <= cases[i].size + 1; n++) {
            result r = inflated(NGX_HTTP_AIQ_WS_TEXT, cases[i].limit, cases[i].data,
                                cases[i].size, n, 100);
            assert_int_equal(r.rc, NGX_HTTP_AIQ_WS_INFLATE_BAD);
            assert_int_equal(r.code, cases[i].code);
        }
    }
}

/* A thousand bytes become a million: it ends at the limit, not in memory. */
static void a_bomb(void **state)
{
    static uint8_t zeroes[1000000], packed[4096];
    z_stream z = {0};
    (void)state;

    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = zeroes;
    z.avail_in = sizeof(zeroes);
    z.next_out = packed;
    z.avail_out = sizeof(packed);
    assert_int_equal(deflate(&z, Z_SYNC_FLUSH), Z_OK);
    size_t len = sizeof(packed) - z.avail_out;
    deflateEnd(&z);
    result r = inflated(NGX_HTTP_AIQ_WS_BINARY, 1000, (const char *)packed, len - 4, len, 256);
    assert_int_equal(r.rc, NGX_HTTP_AIQ_WS_INFLATE_BAD);
    assert_int_equal(r.code, NGX_HTTP_AIQ_WS_TOO_BIG);
    assert_true(r.len <= 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offers),
        cmocka_unit_test(messages),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(a_bomb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
