/* A stream's events: numbered, found again, dropped from the front. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "streams/stream_log.h"

#define NOW 1767225600123 /* 2026-01-01T00:00:00.123Z */

static void add(stream_log *log, const char *text)
{
    stream_log_add(log, text, strlen(text), NOW);
}

static void assert_text(aiq_str got, const char *want)
{
    assert_int_equal(got.len, strlen(want));
    assert_memory_equal(got.data, want, got.len);
}

static void events_are_numbered_from_one(void **state)
{
    stream_log log;

    (void)state;
    stream_log_init(&log);
    assert_int_equal(stream_log_last(&log), 0);
    add(&log, "data: a\n\n");
    add(&log, "event: x\ndata: b\ndata: c\n\ndata: [DONE]\n\n");
    assert_int_equal(stream_log_last(&log), 3);
    assert_text(stream_log_from(&log, 0), "retry: 2000\nid: 1\ndata: a\n\n"
                                          "id: 2\nevent: x\ndata: b\ndata: c\n\n"
                                          "id: 3\ndata: [DONE]\n\n");
    stream_log_free(&log);
}

static void what_is_no_whole_event_is_let_go(void **state)
{
    stream_log log;

    (void)state;
    stream_log_init(&log);
    add(&log, "");
    add(&log, "data: half\n");
    assert_int_equal(stream_log_last(&log), 0);
    stream_log_free(&log);
}

static void a_reader_goes_on_after_any_event(void **state)
{
    stream_log log;
    uint64_t place;

    (void)state;
    stream_log_init(&log);
    for (int i = 0; i < 12; i++) {
        add(&log, "data: x\n\n");
    }
    assert_true(stream_log_find(&log, 0, &place));
    assert_int_equal(place, 0);
    assert_true(stream_log_find(&log, 10, &place));
    assert_text(stream_log_from(&log, place), "id: 11\ndata: x\n\nid: 12\ndata: x\n\n");
    assert_true(stream_log_find(&log, 12, &place));
    assert_int_equal(place, stream_log_end(&log));
    stream_log_free(&log);
}

static void dropping_takes_whole_events_and_none_that_is_still_to_be_read(void **state)
{
    stream_log log;
    uint64_t place, second;

    (void)state;
    stream_log_init(&log);
    add(&log, "data: aaaaaaaaaa\n\ndata: b\n\ndata: c\n\n");
    assert_true(stream_log_find(&log, 1, &second));

    stream_log_trim(&log, second - 1, 0);
    assert_int_equal(log.first, 1);
    stream_log_trim(&log, second, 0);
    assert_int_equal(log.first, 2);
    assert_false(stream_log_find(&log, 0, &place));
    assert_true(stream_log_find(&log, 1, &place));
    assert_int_equal(place, second);
    assert_text(stream_log_from(&log, place), "id: 2\ndata: b\n\nid: 3\ndata: c\n\n");

    stream_log_trim(&log, stream_log_end(&log), 20);
    assert_int_equal(log.first, 3);
    stream_log_trim(&log, stream_log_end(&log), 0);
    assert_int_equal(stream_log_last(&log), 3);
    assert_true(stream_log_find(&log, 3, &place));
    add(&log, "data: d\n\n");
    assert_text(stream_log_from(&log, place), "id: 4\ndata: d\n\n");
    stream_log_free(&log);
}

/* A model of it: where each event begins. */
static void places_stay_right_however_much_is_dropped(void **state)
{
    enum { N = 20000 };
    uint64_t *begins = calloc(N + 2, sizeof(*begins)), place;
    stream_log log;
    char text[300];

    (void)state;
    srand(7);
    stream_log_init(&log);
    for (int i = 1; i <= N; i++) {
        int n = snprintf(text, sizeof(text), "data: %0*d\n\n", 1 + rand() % 250, i);
        begins[i] = stream_log_end(&log);
        stream_log_add(&log, text, (size_t)n, NOW + i);
        stream_log_trim(&log, stream_log_end(&log), 4096);
        assert_true(log.bytes.len <= 4096);
        uint64_t some =
            log.first - 1 + (uint64_t)rand() % (stream_log_last(&log) - log.first + 2);
        assert_true(stream_log_find(&log, some, &place));
        assert_int_equal(place, some == (uint64_t)i ? stream_log_end(&log) : begins[some + 1]);
    }
    assert_true(stream_log_memory(&log) < 64 << 10);
    stream_log_free(&log);
    free(begins);
}

static void assert_piece(const stream_log *log, uint64_t after, size_t most, uint64_t last,
                         const char *want)
{
    aiq_buf out = {0};

    assert_int_equal(stream_log_events(log, after, most, &out), last);
    assert_text((aiq_str){(char *)out.data, out.len}, want);
    aiq_buf_free(&out);
}

static void a_piece_is_of_whole_events(void **state)
{
    stream_log log;

    (void)state;
    stream_log_init(&log);
    assert_piece(&log, 0, 100, 0, "");
    add(&log, "data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\n");
    add(&log, "data: b\n\ndata: c\n\n");
    assert_piece(&log, 0, 10, 1,
                 "retry: 2000\nid: 1\ndata: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\n");
    assert_piece(&log, 1, 15, 2, "id: 2\ndata: b\n\n");
    assert_piece(&log, 1, 30, 3, "id: 2\ndata: b\n\nid: 3\ndata: c\n\n");
    assert_piece(&log, 3, 30, 3, "");
    stream_log_free(&log);
}

static void objects_are_as_they_are_and_numbered_from_anywhere(void **state)
{
    stream_log log;
    aiq_buf out = {0};

    (void)state;
    stream_log_init(&log);
    stream_log_objects(&log, 1000);
    assert_int_equal(stream_log_last(&log), 1000);
    add(&log, "data: {\"a\":1}\n\ndata: {\"b\":\"data: x\"}\n\n");
    assert_piece(&log, 1000, 1000, 1002,
                 "id: 1001\ndata: {\"a\":1}\n\nid: 1002\ndata: {\"b\":\"data: x\"}\n\n");
    assert_int_equal(stream_log_json(&log, 1000, 1000, &out), 1002);
    assert_text((aiq_str){(char *)out.data, out.len}, "{\"a\":1}\n{\"b\":\"data: x\"}\n");
    aiq_buf_free(&out);
    stream_log_free(&log);
}

static void as_json_it_is_the_same(void **state)
{
    stream_log log;
    aiq_buf out = {0};

    (void)state;
    stream_log_init(&log);
    add(&log, "data: {\"a\":\"\xc3\xa9\"}\n\nevent: x\ndata: b\ndata: \ndata: c\n\n");
    stream_log_add(&log, "data: [DONE]\n\n", 14, NOW + 1000);
    assert_int_equal(stream_log_json(&log, 0, 1000, &out), 3);
    assert_text((aiq_str){(char *)out.data, out.len},
                "{\"seq\":1,\"type\":\"message\",\"timestamp\":\"2026-01-01T00:00:00.123Z\","
                "\"data\":\"{\\\"a\\\":\\\"\xc3\xa9\\\"}\"}\n"
                "{\"seq\":2,\"type\":\"x\",\"timestamp\":\"2026-01-01T00:00:00.123Z\","
                "\"data\":\"b\\n\\nc\"}\n"
                "{\"seq\":3,\"type\":\"message\",\"timestamp\":\"2026-01-01T00:00:01.123Z\","
                "\"data\":\"[DONE]\"}\n");
    aiq_buf_consume(&out, out.len);
    assert_int_equal(stream_log_json(&log, 3, 1000, &out), 3);
    assert_int_equal(out.len, 0);
    assert_int_equal(stream_log_json(&log, 1, 1, &out), 2);
    aiq_buf_free(&out);
    stream_log_free(&log);
}

static void a_copy_goes_along_with_its_log(void **state)
{
    stream_log log, page, copy;
    aiq_buf a = {0}, b = {0};

    (void)state;
    stream_log_init(&log);
    stream_log_init(&page);
    stream_log_init(&copy);
    assert_true(stream_log_go_along(&copy, &page)); /* nothing, from nothing */
    for (unsigned n = 1; n <= 6; n++) {
        stream_log_add(&log, "data: a\n\n", 9, NOW + n * 1000);
        if (n == 4) {
            stream_log_go_on(&page, 4); /* which both have */
        }
        if (n >= 4) {
            stream_log_add(&page, "data: a\n\n", 9, NOW + n * 1000);
        }
        if (n == 4) {
            assert_true(stream_log_go_along(&copy, &log));
        }
    }
    assert_int_equal(stream_log_last(&copy), 4);
    assert_true(stream_log_go_along(&copy, &page));
    assert_int_equal(stream_log_last(&copy), 6);
    assert_int_equal(copy.bytes.len, log.bytes.len);
    assert_memory_equal(copy.bytes.data, log.bytes.data, log.bytes.len);
    stream_log_json(&log, 0, SIZE_MAX, &a);
    stream_log_json(&copy, 0, SIZE_MAX, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len); /* times, too */
    stream_log_free(&copy);
    stream_log_init(&copy);
    assert_false(stream_log_go_along(&copy, &page)); /* 1 to 3 are missing */
    assert_int_equal(stream_log_last(&copy), 0);
    aiq_buf_free(&a);
    aiq_buf_free(&b);
    stream_log_free(&log);
    stream_log_free(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_are_numbered_from_one),
        cmocka_unit_test(what_is_no_whole_event_is_let_go),
        cmocka_unit_test(a_reader_goes_on_after_any_event),
        cmocka_unit_test(dropping_takes_whole_events_and_none_that_is_still_to_be_read),
        cmocka_unit_test(places_stay_right_however_much_is_dropped),
        cmocka_unit_test(a_piece_is_of_whole_events),
        cmocka_unit_test(objects_are_as_they_are_and_numbered_from_anywhere),
        cmocka_unit_test(as_json_it_is_the_same),
        cmocka_unit_test(a_copy_goes_along_with_its_log),
    };
    return cmocka_run_group_tests_name("stream log", tests, NULL, NULL);
}
