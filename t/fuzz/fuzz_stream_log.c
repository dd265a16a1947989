/*
 * Any text as the events of a stream, with drops in between: what a reader of the bytes
 * gets, from any event on, has the numbers that follow, and the JSON is JSON and tells of
 * the same events.
 */

#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "streams/stream_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes after an event begin with the next one's number, and end with an empty line. */
static void read_bytes(const stream_log *log, uint64_t after)
{
    char first[48];
    uint64_t place;

    assert(stream_log_find(log, after, &place));
    aiq_str rest = stream_log_from(log, place);
    int n = snprintf(first, sizeof(first), "%sid: %llu\n", after ? "" : "retry: 2000\n",
                     (unsigned long long)after + 1);
    assert(after == stream_log_last(log)
               ? rest.len == 0
               : rest.len > (size_t)n && memcmp(rest.data, first, (size_t)n) == 0);
    assert(rest.len == 0 || memcmp(rest.data + rest.len - 2, "\n\n", 2) == 0);
}

/* An object a line. */
static void read_json(const stream_log *log, uint64_t after, size_t most)
{
    aiq_buf out = {0};
    uint64_t next = stream_log_json(log, after, most, &out);

    while (out.len) {
        const uint8_t *newline = memchr(out.data, '\n', out.len);
        assert(newline);
        size_t n = (size_t)(newline - out.data);
        json_t *event = json_loadb((char *)out.data, n, JSON_ALLOW_NUL, NULL);
        assert(json_integer_value(json_object_get(event, "seq")) == (json_int_t)++after);
        json_decref(event);
        aiq_buf_consume(&out, n + 1);
    }
    assert(after == next);
    aiq_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stream_log log;

    stream_log_init(&log);
    for (size_t at = 0; at + 2 < size;) {
        size_t n = data[at] < size - at - 2 ? data[at] : size - at - 2;
        uint64_t end = stream_log_end(&log);
        stream_log_add(&log, data + at + 2, n, data[at]);
        stream_log_trim(&log, end, (size_t)data[at + 1] * 4);
        assert(stream_log_end(&log) >= end && log.start <= end);
        at += 2 + n;
    }
    for (uint64_t after = log.first - 1; after <= stream_log_last(&log); after++) {
        read_bytes(&log, after);
        read_json(&log, after, size);
    }
    stream_log_free(&log);
    return 0;
}
