/* The response parser: what it understands, at every split, and what it refuses. */

#include "unit.h"
#include <stdio.h>
#include <stdlib.h>
#include "providers/http_parse.h"

static http_field fields[HTTP_FIELDS_MAX];

/* What came of a response, written down: "200 5 [hello] done keep", or the reason. */
static const char *run(const char *text, size_t n, size_t split, bool ends)
{
    static char out[512];
    aiq_buf body = {0};
    http_parser p;
    http_event event = HTTP_MORE;
    aiq_str piece;
    unsigned status = 0;
    int64_t length = 0;
    const size_t cut[3] = {0, split, n};

    http_parser_init(&p, fields);
    for (int i = 0; i < 2 && event != HTTP_DONE && event != HTTP_BAD; i++) {
        /* on the heap and of exact size, so that a read beyond it is seen */
        size_t len = cut[i + 1] - cut[i];
        uint8_t *part = memcpy(aiq_alloc(len), text + cut[i], len);
        const uint8_t *pos = part;
        do {
            event = http_parse(&p, &pos, part + len, &piece);
            if (event == HTTP_HEAD) {
                status = p.head.status;
                length = p.head.length;
            } else if (event == HTTP_BODY) {
                aiq_buf_add(&body, piece.data, piece.len);
            }
        } while (event == HTTP_HEAD || event == HTTP_BODY);
        free(part);
    }
    if (event == HTTP_MORE && ends) {
        event = http_parse_end(&p);
    }
    if (event == HTTP_BAD) {
        snprintf(out, sizeof(out), "%s", p.reason);
    } else {
        snprintf(out, sizeof(out), "%u %lld [%.*s] %s", status, (long long)length,
                 (int)body.len, (char *)body.data,
                 event == HTTP_MORE ? "more"
                 : p.keep_alive     ? "keep"
                                    : "close");
    }
    aiq_buf_free(&body);
    http_parser_free(&p);
    return out;
}

static void gives(const char *text, const char *expected)
{
    size_t n = strlen(text);

    for (size_t split = 0; split <= n; split++) {
        assert_string_equal(run(text, n, split, true), expected);
    }
}

static void understands_bodies(void **state)
{
    (void)state;
    gives("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 5 [hello] keep");
    gives("HTTP/1.1 200\r\ncontent-length:5 \r\n\r\nhello", "200 5 [hello] keep");
    gives("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 0 [] keep");
    gives("HTTP/1.1 204 No Content\r\n\r\n", "204 -1 [] keep");
    gives("HTTP/1.1 200 OK\r\n\r\nuntil the end", "200 -1 [until the end] close");
    gives("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 2 [hi] close");
    gives("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nhi",
          "200 2 [hi] close");
    gives("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
          "3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
          "200 -1 [abc0123456789] keep");
    gives("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
          "HTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\nx",
          "201 1 [x] keep");
}

static void a_response_ends_where_it_says(void **state)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhixxx";
    const uint8_t *pos = (const uint8_t *)text, *end = pos + sizeof(text) - 1;
    http_parser p;
    aiq_str piece;

    (void)state;
    http_parser_init(&p, fields);
    assert_int_equal(http_parse(&p, &pos, end, &piece), HTTP_HEAD);
    assert_int_equal(http_parse(&p, &pos, end, &piece), HTTP_BODY);
    assert_int_equal(http_parse(&p, &pos, end, &piece), HTTP_DONE);
    assert_int_equal(end - pos, 3);
    http_parser_free(&p);
}

static void notices_a_missing_end(void **state)
{
    (void)state;
    gives("", "the end of the connection before a response");
    gives("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n",
          "the end of the connection before a response");
    gives("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
          "the end of the connection within the response");
    gives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
          "the end of the connection within the response");
}

static void refuses_what_two_readers_read_differently(void **state)
{
    static const char *const heads[][2] = {
        {"Content-Length: 5\r\nContent-Length: 5", "two lengths"},
        {"Content-Length: 5, 5", "an invalid length"},
        {"Content-Length: +5", "an invalid length"},
        {"Content-Length:", "an invalid length"},
        {"Content-Length: 99999999999999999999", "an invalid length"},
        {"Transfer-Encoding: chunked\r\nContent-Length: 5",
         "a length beside a transfer coding"},
        {"Content-Length: 5\r\nTransfer-Encoding: chunked",
         "a length beside a transfer coding"},
        {"Transfer-Encoding: gzip, chunked", "an unknown transfer coding"},
        {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
         "an unknown transfer coding"},
        {"X: a\r\n folded", "an invalid header field"},
        {"X : a", "an invalid header field"},
        {": a", "an invalid header field"},
        {"X", "an invalid header field"},
        {"X: a\rb", "an invalid header field"},
        {"X: a\nY: b", "an invalid header field"},
    };
    char text[512];

    (void)state;
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\n%s\r\n\r\nhello", heads[i][0]);
        gives(text, heads[i][1]);
    }
}

static void refuses_other_status_lines(void **state)
{
    static const char *const lines[] = {"HTTP/1.2 200 OK", "HTTP/1.1  200 OK", "HTTP/1.1 20 OK",
                                        "HTTP/1.1 099 OK", "HTTP/1.1 600 OK",  "HTTP/1.1 2000"};
    char text[128];

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        snprintf(text, sizeof(text), "%s\r\n\r\n", lines[i]);
        gives(text, "an invalid status line");
    }
    gives("HTTP/1.1 101 Switching\r\n\r\n", "an interim response that was not asked for");
}

static void other_protocols_are_known_by_their_first_bytes(void **state)
{
    static const char text[] = "<html>";

    (void)state;
    for (size_t split = 0; split < sizeof(text); split++) {
        assert_string_equal(run(text, sizeof(text) - 1, split, false), "no HTTP response");
    }
}

static void refuses_odd_chunks(void **state)
{
    static const char *const bodies[][2] = {
        {"x\r\n", "an invalid chunk size"},
        {"\r\n", "an invalid chunk size"},
        {"5\nhello\r\n", "an invalid chunk size"},
        {"5\rhello\r\n", "an invalid chunk size"},
        {"-5\r\nhello\r\n", "an invalid chunk size"},
        {"fffffffffffffffff\r\n", "an invalid chunk size"},
        {"5\r\nhello!\r\n", "a chunk longer than its size"},
        {"5\r\nhello\n", "a chunk longer than its size"},
        {"5;\x01\r\n", "an invalid chunk extension"},
        {"0\r\nx\n", "an invalid trailer"},
    };
    char text[256];

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s",
                 bodies[i][0]);
        gives(text, bodies[i][1]);
    }
}

/* Feeds the same piece over and over; how many bytes it took until it was enough. */
static size_t endless(const char *start, const char *again, const char *reason)
{
    const uint8_t *pos = (const uint8_t *)start, *end = pos + strlen(start);
    http_parser p;
    http_event event;
    aiq_str piece;
    size_t fed = 0;

    http_parser_init(&p, fields);
    while ((event = http_parse(&p, &pos, end, &piece)) != HTTP_BAD) {
        if (event == HTTP_MORE) {
            pos = (const uint8_t *)again;
            end = pos + strlen(again);
            fed += strlen(again);
            assert_true(fed < 10000000);
        }
    }
    assert_string_equal(p.reason, reason);
    http_parser_free(&p);
    return fed;
}

static void holds_no_more_than_its_limits(void **state)
{
    static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    char text[128];

    (void)state;
    assert_true(endless("HTTP/1.1 200 OK\r\nX: ", "xxxxxxxxxxxxxxxx", "too long a head") <=
                HTTP_HEAD_MAX + 16);
    assert_true(endless("HTTP/1.1 200 OK\r\n", "X: yyyyyyyyyyy\r\n", "too long a head") <=
                HTTP_HEAD_MAX + 16);
    endless("", "HTTP/1.1 100 Continue\r\n\r\n", "an interim response that was not asked for");
    snprintf(text, sizeof(text), "%s0\r\n", chunked);
    endless(text, "X: y\r\n", "too long trailers");
    snprintf(text, sizeof(text), "%s5;", chunked);
    endless(text, "xxxxxxxx", "an invalid chunk extension");
}

static void counts_fields(void **state)
{
    aiq_buf text = {0};

    (void)state;
    aiq_buf_text(&text, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < HTTP_FIELDS_MAX; i++) {
        aiq_buf_text(&text, "x: y\r\n");
    }
    aiq_buf_text(&text, "\r\n");
    assert_string_equal(run((char *)text.data, text.len, 9, true), "200 -1 [] close");
    text.len -= 2;
    aiq_buf_text(&text, "x: y\r\n\r\n");
    assert_string_equal(run((char *)text.data, text.len, 9, true), "too many header fields");
    aiq_buf_free(&text);
}

static void finds_fields(void **state)
{
    static const char text[] = "HTTP/1.1 429 Slow\r\nRetry-After:\t 7 \r\nEmpty:\r\n\r\n";
    const uint8_t *pos = (const uint8_t *)text;
    http_parser p;
    aiq_str piece;

    (void)state;
    http_parser_init(&p, fields);
    assert_int_equal(http_parse(&p, &pos, pos + sizeof(text) - 1, &piece), HTTP_HEAD);
    assert_true(aiq_str_is(http_head_get(&p.head, "retry-AFTER"), "7"));
    assert_int_equal(http_head_get(&p.head, "empty").len, 0);
    assert_null(http_head_get(&p.head, "none").data);
    http_parser_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(understands_bodies),
        cmocka_unit_test(a_response_ends_where_it_says),
        cmocka_unit_test(notices_a_missing_end),
        cmocka_unit_test(refuses_what_two_readers_read_differently),
        cmocka_unit_test(refuses_other_status_lines),
        cmocka_unit_test(other_protocols_are_known_by_their_first_bytes),
        cmocka_unit_test(refuses_odd_chunks),
        cmocka_unit_test(holds_no_more_than_its_limits),
        cmocka_unit_test(counts_fields),
        cmocka_unit_test(finds_fields),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
