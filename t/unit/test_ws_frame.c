/*
 * RFC 6455's frames as a strict server reads them, case by case in the order of the
 * Autobahn test suite: framing, pings, reserved bits, opcodes, fragmentation, UTF-8,
 * closing, limits. Each case is read at once, byte by byte, and cut in two at every
 * place: all must come to the same.
 */

#include "unit.h"
#include <stdio.h>
#include <stdlib.h>

/* the module's files are built by nginx's own build */
#include "ngx_aiq_module/ngx_http_aiq_ws_frame.c" /* NOLINT(bugprone-suspicious-include) */

typedef ngx_http_aiq_ws_reader_t reader_t;
typedef ngx_http_aiq_ws_limits_t limits_t;
typedef ngx_http_aiq_ws_event_t event_t;

#define MORE 0x00
#define TEXT 0x01
#define BIN  0x02
#define FIN  0x80

typedef struct {
    uint8_t first;    /* FIN, RSV, opcode */
    const char *data; /* NULL: no frame */
    size_t len;
} frame;

#define F(first, text)                                                                         \
    {                                                                                          \
        (first), (text), sizeof(text) - 1                                                      \
    }

typedef struct {
    const char *name;
    frame frames[12];
    const char *outcome; /* t: text, b: binary, i: ping, o: pong, c: close, !: failure */
} test_case;

/* What a reader makes of bytes, written down. */
typedef struct {
    reader_t reader;
    char text[1024];
    bool over;
} record;

static const limits_t plain = {.max_message = 1 << 20, .max_fragments = 100};

static void put(record *r, const char *data, size_t n)
{
    size_t have = strlen(r->text);

    assert_true(have + 2 * n < sizeof(r->text));
    for (size_t i = 0; i < n; i++) {
        /* what is no ASCII only by its number: expectations stay readable */
        have += (size_t)sprintf(r->text + have, (data[i] & 0x80) ? "%02x" : "%c",
                                (unsigned char)data[i]);
    }
}

static void put_word(record *r, const char *word, unsigned n)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "%s%u ", word, n);

    put(r, text, (size_t)len);
}

static void write_down(record *r, const event_t *ev)
{
    switch (ev->opcode) {
    case NGX_HTTP_AIQ_WS_TEXT:
    case NGX_HTTP_AIQ_WS_BINARY:
        if (ev->first) {
            put(r, ev->opcode == NGX_HTTP_AIQ_WS_TEXT ? "t:" : "b:", 2);
        }
        put(r, (char *)ev->data, ev->len);
        put(r, " ", ev->last);
        break;
    case NGX_HTTP_AIQ_WS_CLOSE:
        put_word(r, "c:", ev->code);
        r->over = true;
        break;
    default:
        put(r, ev->opcode == NGX_HTTP_AIQ_WS_PING ? "i:" : "o:", 2);
        put(r, (char *)ev->data, ev->len);
        put(r, " ", 1);
    }
}

/* In a copy of exactly its length: the reader writes into what it reads. */
static void feed(record *r, const limits_t *limits, const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1), *pos = copy;
    event_t ev;
    int rc = 0;

    if (n) {
        memcpy(copy, data, n);
    }
    while (!r->over && (rc = ngx_http_aiq_ws_read(&r->reader, limits, &pos, copy + n, &ev))) {
        if (rc < 0) {
            put_word(r, "!", ev.code);
            r->over = true;
        } else {
            write_down(r, &ev);
        }
    }
    assert_true(r->over || pos == copy + n);
    free(copy);
}

static size_t masked(uint8_t *to, uint8_t first, const char *data, size_t len)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t *end = ngx_http_aiq_ws_header(to, first, len);

    to[1] |= 0x80;
    memcpy(end, mask, 4);
    end += 4;
    for (size_t i = 0; i < len; i++) {
        end[i] = (uint8_t)data[i] ^ mask[i & 3];
    }
    return (size_t)(end - to) + len;
}

static void check(const char *name, const limits_t *limits, const uint8_t *bytes, size_t n,
                  const char *outcome)
{
    /* cut behind `cut` bytes; the last two: not at all, and everywhere */
    for (size_t cut = 0; cut <= n + 1; cut++) {
        record r = {0};
        if (cut == n + 1) {
            for (size_t i = 0; i < n && !r.over; i++) {
                feed(&r, limits, bytes + i, 1);
            }
        } else {
            feed(&r, limits, bytes, cut);
            feed(&r, limits, bytes + cut, n - cut);
        }
        if (strcmp(r.text, outcome) != 0) {
            fail_msg("%s, cut at %zu of %zu: \"%s\", not \"%s\"", name, cut, n, r.text,
                     outcome);
        }
    }
}

static void run(const limits_t *limits, const test_case *cases, size_t n_cases)
{
    for (size_t i = 0; i < n_cases; i++) {
        uint8_t bytes[4096];
        size_t n = 0;
        for (const frame *f = cases[i].frames; f->data; f++) {
            n += masked(bytes + n, f->first, f->data, f->len);
        }
        check(cases[i].name, limits, bytes, n, cases[i].outcome);
    }
}

#define RUN(cases) run(&plain, (cases), sizeof(cases) / sizeof((cases)[0]))
#define X25        "*************************"
#define X125       X25 X25 X25 X25 X25

static void test_1_framing(void **state)
{
    static const test_case cases[] = {
        {"empty text", {F(FIN | TEXT, "")}, "t: "},
        {"text of 125", {F(FIN | TEXT, X125)}, "t:" X125 " "},
        {"text of 126", {F(FIN | TEXT, X125 "*")}, "t:" X125 "* "},
        {"text of 150", {F(FIN | TEXT, X125 X25)}, "t:" X125 X25 " "},
        {"empty binary", {F(FIN | BIN, "")}, "b: "},
        {"binary", {F(FIN | BIN, "\xfe\xff")}, "b:feff "},
        {"two messages", {F(FIN | TEXT, "a"), F(FIN | BIN, "b")}, "t:a b:b "},
    };

    RUN(cases);
    (void)state;
}

static void test_2_pings_and_pongs(void **state)
{
    static const test_case cases[] = {
        {"empty ping", {F(FIN | 9, "")}, "i: "},
        {"ping with a payload", {F(FIN | 9, "Hello")}, "i:Hello "},
        {"ping of bytes", {F(FIN | 9, "\xff\xfe")}, "i:fffe "},
        {"ping of 125", {F(FIN | 9, X125)}, "i:" X125 " "},
        {"ping of 126", {F(FIN | 9, X125 "*")}, "!1002 "},
        {"pong unasked for", {F(FIN | 10, ""), F(FIN | 10, "x")}, "o: o:x "},
        {"pong, then ping", {F(FIN | 10, "x"), F(FIN | 9, "y")}, "o:x i:y "},
        {"ten pings",
         {F(FIN | 9, "0"), F(FIN | 9, "1"), F(FIN | 9, "2"), F(FIN | 9, "3"), F(FIN | 9, "4"),
          F(FIN | 9, "5"), F(FIN | 9, "6"), F(FIN | 9, "7"), F(FIN | 9, "8"), F(FIN | 9, "9")},
         "i:0 i:1 i:2 i:3 i:4 i:5 i:6 i:7 i:8 i:9 "},
    };

    RUN(cases);
    (void)state;
}

static void test_3_reserved_bits(void **state)
{
    static const test_case cases[] = {
        {"RSV3", {F(FIN | 0x10 | TEXT, "Hello")}, "!1002 "},
        {"RSV2 after a message",
         {F(FIN | TEXT, "a"), F(FIN | 0x20 | TEXT, "b"), F(FIN | 9, "")},
         "t:a !1002 "},
        {"RSV2 and 3", {F(FIN | 0x30 | TEXT, "b")}, "!1002 "},
        {"RSV1 without its extension", {F(FIN | 0x40 | TEXT, "b")}, "!1002 "},
        {"RSV1 and 3 in binary", {F(FIN | 0x50 | BIN, "b")}, "!1002 "},
        {"RSV1 and 2 in a ping", {F(FIN | 0x60 | 9, "b")}, "!1002 "},
        {"all in a close", {F(FIN | 0x70 | 8, "\x03\xe8")}, "!1002 "},
    };

    RUN(cases);
    (void)state;
}

static void test_4_reserved_opcodes(void **state)
{
    for (unsigned opcode = 3; opcode < 16; opcode++) {
        if (opcode >= 8 && opcode <= 10) {
            continue;
        }
        const test_case cases[] = {
            {"alone", {F((uint8_t)(FIN | opcode), "")}, "!1002 "},
            {"with a payload", {F((uint8_t)(FIN | opcode), "x")}, "!1002 "},
            {"after a message",
             {F(FIN | TEXT, "a"), F((uint8_t)(FIN | opcode), "x"), F(FIN | 9, "")},
             "t:a !1002 "},
        };
        RUN(cases);
    }
    (void)state;
}

static void test_5_fragmentation(void **state)
{
    static const test_case cases[] = {
        {"ping in two", {F(9, "a"), F(FIN | MORE, "b")}, "!1002 "},
        {"pong in two", {F(10, "a"), F(FIN | MORE, "b")}, "!1002 "},
        {"text in two", {F(TEXT, "a"), F(FIN | MORE, "b")}, "t:ab "},
        {"with a ping between",
         {F(TEXT, "a"), F(FIN | 9, "p"), F(FIN | MORE, "b")},
         "t:ai:p b "},
        {"more of nothing", {F(FIN | MORE, "x"), F(FIN | TEXT, "a")}, "!1002 "},
        {"more of nothing, not the last", {F(MORE, "x")}, "!1002 "},
        {"more after the end",
         {F(TEXT, "a"), F(FIN | MORE, "b"), F(FIN | MORE, "c")},
         "t:ab !1002 "},
        {"text within text", {F(TEXT, "a"), F(FIN | TEXT, "b")}, "t:a!1002 "},
        {"binary within text", {F(TEXT, "a"), F(BIN, "b")}, "t:a!1002 "},
        {"five pieces",
         {F(BIN, "a"), F(MORE, "b"), F(MORE, ""), F(MORE, "c"), F(FIN | MORE, "d")},
         "b:abcd "},
        {"nothing in three", {F(TEXT, ""), F(MORE, ""), F(FIN | MORE, "")}, "t: "},
        {"something at last", {F(TEXT, ""), F(FIN | MORE, "x")}, "t:x "},
    };

    run(&plain, cases, sizeof(cases) / sizeof(cases[0]));
    (void)state;
}

static void test_6_utf8(void **state)
{
    static const test_case cases[] = {
        {"Greek", {F(FIN | TEXT, "\xce\xba\xcf\x8c")}, "t:cebacf8c "},
        {"cut within a character",
         {F(TEXT, "\xce"), F(FIN | MORE, "\xba\xcf\x8c")},
         "t:cebacf8c "},
        {"four bytes in four pieces",
         {F(TEXT, "\xf0"), F(MORE, "\x90"), F(MORE, "\x80"), F(FIN | MORE, "\x80")},
         "t:f0908080 "},
        {"the first of 2, 3, 4 bytes",
         {F(FIN | TEXT, "\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80")},
         "t:c280e0a080f0908080 "},
        {"the last of 1, 2, 3, 4 bytes",
         {F(FIN | TEXT, "\x7f\xdf\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf")},
         "t:\x7f"
         "dfbfefbfbff48fbfbf "},
        {"around the surrogates",
         {F(FIN | TEXT, "\xed\x9f\xbf\xee\x80\x80")},
         "t:ed9fbfee8080 "},
        {"noncharacters are characters", {F(FIN | TEXT, "\xef\xbf\xbe")}, "t:efbfbe "},
        {"any bytes in binary", {F(FIN | BIN, "\xc0\xaf")}, "b:c0af "},
    };
    static const char *const invalid[] = {
        "\x80",
        "\xbf",
        "\xc0\xaf",
        "\xc1\xbf",
        "\xe0\x80\xaf",
        "\xe0\x9f\xbf",
        "\xf0\x80\x80\xaf",
        "\xf0\x8f\xbf\xbf",
        "\xed\xa0\x80",
        "\xed\xbf\xbf",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xf8\x88\x80\x80",
        "\xfe",
        "\xff",
        "\xce\x41",
        "\xe1\x80\x41",
        "\xf1\x80\x80\x41",
        "\xce",
        "\xe1\x80",
        "\xf1\x80\x80",
        "12345678\xc0",
        "1234567\xf4\x90",
        "12345678\xce\xba\xff",
    };

    run(&plain, cases, sizeof(cases) / sizeof(cases[0]));
    for (size_t i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++) {
        uint8_t bytes[64];
        size_t n = masked(bytes, FIN | TEXT, invalid[i], strlen(invalid[i]));
        for (size_t cut = 0; cut <= n; cut++) {
            record r = {0};
            feed(&r, &plain, bytes, cut);
            feed(&r, &plain, bytes + cut, n - cut);
            /* what was right before it may have come out */
            assert_true(strlen(r.text) >= 6);
            assert_string_equal(r.text + strlen(r.text) - 6, "!1007 ");
        }
    }
    (void)state;
}

/* What cannot become text any more fails before its frame is whole. */
static void test_6_fails_fast(void **state)
{
    uint8_t bytes[64];
    size_t n = masked(bytes, TEXT, "\xce\xba\xf4\x90\x80\x80rest", 10);
    record r = {0};

    feed(&r, &plain, bytes, n - 6);
    assert_string_equal(r.text + strlen(r.text) - 6, "!1007 ");
    (void)state;
}

static void test_7_closing(void **state)
{
    static const struct {
        unsigned code;
        bool valid;
    } codes[] = {
        {0, false},    {999, false},  {1000, true},   {1001, true},  {1002, true},
        {1003, true},  {1004, false}, {1005, false},  {1006, false}, {1007, true},
        {1008, true},  {1009, true},  {1010, true},   {1011, true},  {1012, true},
        {1013, true},  {1014, true},  {1015, false},  {1016, false}, {1100, false},
        {2000, false}, {2999, false}, {3000, true},   {3999, true},  {4000, true},
        {4999, true},  {5000, false}, {65535, false},
    };
    static const test_case cases[] = {
        {"without a code", {F(FIN | 8, "")}, "c:1005 "},
        {"half a code", {F(FIN | 8, "\x03")}, "!1002 "},
        {"with a reason", {F(FIN | 8, "\x03\xe8Hello")}, "c:1000 "},
        {"a reason of 123",
         {F(FIN | 8, "\x03\xe8" X25 X25 X25 X25 "12345678901234567890123")},
         "c:1000 "},
        {"a reason of 124",
         {F(FIN | 8, "\x03\xe8" X25 X25 X25 X25 "123456789012345678901234")},
         "!1002 "},
        {"a reason that is no UTF-8", {F(FIN | 8, "\x03\xe8\xce\xba\xed\xa0\x80")}, "!1007 "},
        {"a reason that ends within a character", {F(FIN | 8, "\x03\xe8\xce")}, "!1007 "},
        {"after a message", {F(FIN | TEXT, "a"), F(FIN | 8, "\x03\xe8")}, "t:a c:1000 "},
        {"within a message", {F(TEXT, "a"), F(FIN | 8, "\x03\xe8")}, "t:ac:1000 "},
        {"what follows is not looked at",
         {F(FIN | 8, "\x03\xe8"), F(FIN | 9, "x"), F(FIN | 3, "")},
         "c:1000 "},
    };

    RUN(cases);
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        char payload[2] = {(char)(codes[i].code >> 8), (char)codes[i].code}, outcome[16];
        uint8_t bytes[16];
        size_t n = masked(bytes, FIN | 8, payload, 2);
        snprintf(outcome, sizeof(outcome), codes[i].valid ? "c:%u " : "!1002 ", codes[i].code);
        check("code", &plain, bytes, n, outcome);
    }
    (void)state;
}

/* Messages of many sizes, in one and in many frames; the mask goes on over all cuts. */
static void test_9_10_large(void **state)
{
    static const size_t sizes[] = {65535, 65536, 262144, 1 << 20};
    static const limits_t wide = {.max_message = 1 << 20, .max_fragments = 0};
    static char text[1 << 20];
    uint8_t *bytes = malloc(2u << 20);

    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char)('a' + i % 23);
    }
    for (size_t i = 0; i < 4; i++) {
        for (size_t piece = 1000; piece <= sizes[i]; piece = 2 * piece + 77) {
            size_t n = 0, got = 0, at = 0;
            for (size_t sent = 0; sent < sizes[i]; sent += piece) {
                size_t len = sizes[i] - sent < piece ? sizes[i] - sent : piece;
                uint8_t first = (sent ? MORE : TEXT) | (sent + len == sizes[i] ? FIN : 0);
                n += masked(bytes + n, first, text + sent, len);
            }
            reader_t rd = {0};
            event_t ev = {0};
            while (at < n) {
                size_t len = n - at < 1300 ? n - at : 1300;
                uint8_t *pos = bytes + at;
                while (ngx_http_aiq_ws_read(&rd, &wide, &pos, bytes + at + len, &ev) == 1) {
                    assert_memory_equal(ev.data, text + got, ev.len);
                    got += ev.len;
                }
                assert_ptr_equal(pos, bytes + at + len);
                at += len;
            }
            assert_int_equal(got, sizes[i]);
            assert_false(rd.open);
        }
    }
    free(bytes);
    (void)state;
}

static void test_limits(void **state)
{
    static const limits_t small = {.max_message = 5, .max_fragments = 3};
    static const test_case cases[] = {
        {"as long as may be", {F(FIN | TEXT, "12345")}, "t:12345 "},
        {"too long", {F(FIN | TEXT, "123456")}, "!1009 "},
        {"in pieces", {F(TEXT, "123"), F(FIN | MORE, "45")}, "t:12345 "},
        {"too long in pieces", {F(TEXT, "123"), F(FIN | MORE, "456")}, "t:123!1009 "},
        {"each anew", {F(FIN | TEXT, "12345"), F(FIN | TEXT, "12345")}, "t:12345 t:12345 "},
        {"as many as may be", {F(BIN, "1"), F(MORE, "2"), F(FIN | MORE, "3")}, "b:123 "},
        {"too many", {F(BIN, "1"), F(MORE, ""), F(MORE, "3"), F(FIN | MORE, "")}, "b:13!1008 "},
    };
    static const struct {
        const char *name;
        const char *bytes;
        size_t n;
        const char *outcome;
    } raw[] = {
        {"not masked", "\x81\x01x", 3, "!1002 "},
        {"16 bits for 125", "\x82\xfe\x00\x7d....", 8, "!1002 "},
        {"64 bits for 65535", "\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff....", 14, "!1002 "},
        {"the top bit", "\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00....", 14, "!1002 "},
        {"2^63 - 1 bytes", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff....", 14, "!1009 "},
    };

    run(&small, cases, sizeof(cases) / sizeof(cases[0]));
    for (size_t i = 0; i < sizeof(raw) / sizeof(raw[0]); i++) {
        check(raw[i].name, &plain, (const uint8_t *)raw[i].bytes, raw[i].n, raw[i].outcome);
    }
    (void)state;
}

/* RFC 7692: RSV1 on a message's first frame only, and never on a control frame. */
static void test_12_compressed(void **state)
{
    static const limits_t deflate = {.max_message = 5, .max_fragments = 9, .deflate = 1};
    static const test_case cases[] = {
        {"as it came", {F(FIN | 0x40 | TEXT, "\xff\xfe")}, "t:fffe "},
        {"in two", {F(0x40 | BIN, "a"), F(FIN | MORE, "b")}, "b:ab "},
        {"its length is of what it becomes", {F(FIN | 0x40 | BIN, "123456")}, "b:123456 "},
        {"RSV1 on the second", {F(0x40 | BIN, "a"), F(FIN | 0x40 | MORE, "b")}, "b:a!1002 "},
        {"RSV1 on a ping", {F(FIN | 0x40 | 9, "")}, "!1002 "},
        {"not compressed", {F(FIN | TEXT, "a"), F(FIN | TEXT, "\xff")}, "t:a !1007 "},
    };

    run(&deflate, cases, sizeof(cases) / sizeof(cases[0]));
    (void)state;
}

static void test_headers(void **state)
{
    uint8_t p[NGX_HTTP_AIQ_WS_HEADER];

    assert_int_equal(ngx_http_aiq_ws_header(p, 0x81, 125) - p, 2);
    assert_memory_equal(p, "\x81\x7d", 2);
    assert_int_equal(ngx_http_aiq_ws_header(p, 0x82, 126) - p, 4);
    assert_memory_equal(p, "\x82\x7e\x00\x7e", 4);
    assert_int_equal(ngx_http_aiq_ws_header(p, 0x82, 65535) - p, 4);
    assert_memory_equal(p, "\x82\x7e\xff\xff", 4);
    assert_int_equal(ngx_http_aiq_ws_header(p, 0x80, 65536) - p, 10);
    assert_memory_equal(p, "\x80\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_1_framing),       cmocka_unit_test(test_2_pings_and_pongs),
        cmocka_unit_test(test_3_reserved_bits), cmocka_unit_test(test_4_reserved_opcodes),
        cmocka_unit_test(test_5_fragmentation), cmocka_unit_test(test_6_utf8),
        cmocka_unit_test(test_6_fails_fast),    cmocka_unit_test(test_7_closing),
        cmocka_unit_test(test_9_10_large),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_12_compressed),   cmocka_unit_test(test_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
