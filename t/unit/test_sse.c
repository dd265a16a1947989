/* Event streams: the published cases, each at every split into two, and the limits. */

#include "unit.h"
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include "providers/sse.h"

/* Events written as "type|data|id\n", so that two runs compare as texts. */
static void note(aiq_buf *out, const sse_event *e)
{
    aiq_buf_add(out, e->type.data, e->type.len);
    aiq_buf_text(out, "|");
    aiq_buf_add(out, e->data.data, e->data.len);
    aiq_buf_text(out, "|");
    aiq_buf_add(out, e->id.data, e->id.len);
    aiq_buf_text(out, "\n");
}

static sse_result feed(sse_parser *p, const void *data, size_t n, aiq_buf *out)
{
    const uint8_t *pos = data, *end = pos + n;
    sse_event event;
    sse_result result;

    while ((result = sse_next(p, &pos, end, &event)) == SSE_EVENT) {
        note(out, &event);
    }
    return result;
}

static char *finish(aiq_buf *out)
{
    aiq_buf_add(out, "", 1);
    return (char *)out->data;
}

static void parses_to(const void *data, size_t n, const char *expected)
{
    for (size_t split = 0; split <= n; split++) {
        sse_parser p;
        aiq_buf out = {0};

        sse_init(&p);
        /* on the heap and of exact size, so that a read beyond it is seen */
        uint8_t *first = aiq_alloc(split), *second = aiq_alloc(n - split);
        memcpy(first, data, split);
        memcpy(second, (const uint8_t *)data + split, n - split);
        assert_int_equal(feed(&p, first, split, &out), SSE_MORE);
        assert_int_equal(feed(&p, second, n - split, &out), SSE_MORE);
        assert_string_equal(finish(&out), expected);
        free(first);
        free(second);
        aiq_buf_free(&out);
        sse_free(&p);
    }
}

static void published_cases(void **state)
{
    json_t *cases =
        json_load_file("../shared/data/sse-cases/sse_cases.json", JSON_ALLOW_NUL, NULL);
    size_t i, k;
    json_t *one, *event;

    (void)state;
    if (cases == NULL) {
        skip();
    }
    json_array_foreach(cases, i, one)
    {
        const char *text = json_string_value(json_object_get(one, "body"));
        uint8_t body[4096];
        int n = EVP_DecodeBlock(body, (const uint8_t *)text, (int)strlen(text));
        n -= strlen(text) >= 2
                 ? (text[strlen(text) - 1] == '=') + (text[strlen(text) - 2] == '=')
                 : 0;
        aiq_buf expected = {0};
        json_array_foreach(json_object_get(json_object_get(one, "expect"), "events"), k, event)
        {
            const char *type = json_string_value(json_object_get(event, "event"));
            json_t *data = json_object_get(event, "data");
            json_t *id = json_object_get(event, "id");
            aiq_buf_text(&expected, strcmp(type, "message") == 0 ? "" : type);
            aiq_buf_text(&expected, "|");
            aiq_buf_add(&expected, json_string_value(data), json_string_length(data));
            aiq_buf_text(&expected, "|");
            aiq_buf_add(&expected, json_string_value(id), json_string_length(id));
            aiq_buf_text(&expected, "\n");
        }
        parses_to(body, (size_t)n, finish(&expected));
        aiq_buf_free(&expected);
    }
    json_decref(cases);
}

static void line_ends_may_be_mixed_and_split(void **state)
{
    static const char text[] = "data: a\r\ndata: b\rdata: c\n\r\ndata:d\r\rdata: e\n\n";

    (void)state;
    parses_to(text, sizeof(text) - 1, "|a\nb\nc|\n|d|\n|e|\n");
}

static void comments_and_unknown_fields_are_skipped(void **state)
{
    static const char text[] =
        ": hello\nfoo: bar\ndata\ndata:  x\nevent: t\nid: 7\n\n\ndata: y\n\n";

    (void)state;
    parses_to(text, sizeof(text) - 1, "t|\n x|7\n|y|7\n");
}

static void a_last_event_without_its_empty_line_is_flushed(void **state)
{
    static const char *const texts[] = {"data: x", "data: x\n", "data: x\r"};
    sse_event event;
    sse_parser p;
    aiq_buf out = {0};

    (void)state;
    for (int i = 0; i < 3; i++) {
        sse_init(&p);
        assert_int_equal(feed(&p, texts[i], strlen(texts[i]), &out), SSE_MORE);
        assert_int_equal(sse_end(&p, &event), SSE_EVENT);
        assert_true(aiq_str_is(event.data, "x"));
        assert_int_equal(sse_end(&p, &event), SSE_MORE);
        sse_free(&p);
    }
    sse_init(&p);
    feed(&p, "data: x\n\n", 9, &out);
    assert_int_equal(sse_end(&p, &event), SSE_MORE);
    sse_free(&p);
    aiq_buf_free(&out);
}

static void a_line_without_an_end_is_given_up(void **state)
{
    char piece[65536];
    sse_parser p;
    aiq_buf out = {0};
    sse_result result = SSE_MORE;
    int pieces;

    (void)state;
    memset(piece, 'x', sizeof(piece));
    sse_init(&p);
    for (pieces = 0; pieces < 1600 && result == SSE_MORE; pieces++) {
        result = feed(&p, piece, sizeof(piece), &out);
    }
    assert_int_equal(result, SSE_TOO_LONG);
    assert_int_equal(pieces, SSE_MAX / sizeof(piece) + 1);
    sse_free(&p);

    /* many short lines of one event are no way around it */
    sse_init(&p);
    result = SSE_MORE;
    for (pieces = 0; pieces < 1000000 && result == SSE_MORE; pieces++) {
        result = feed(&p, "data: 0123456789\n", 17, &out);
    }
    assert_int_equal(result, SSE_TOO_LONG);
    assert_true(pieces <= (int)(SSE_MAX / 11 + 1));
    sse_free(&p);
    aiq_buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_cases),
        cmocka_unit_test(line_ends_may_be_mixed_and_split),
        cmocka_unit_test(comments_and_unknown_fields_are_skipped),
        cmocka_unit_test(a_last_event_without_its_empty_line_is_flushed),
        cmocka_unit_test(a_line_without_an_end_is_given_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
