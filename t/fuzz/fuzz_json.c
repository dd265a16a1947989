/*
 * Any bytes to the JSON scanner. What it accepts must be what it says: the
 * walk over members and elements, which checks nothing, meets as many as were
 * counted and whole values only, numbers and strings convert, and a string written back by
 * json_quote() is valid and reads as the same text. The beginning of anything is closed to what
 * is valid, or not at all; that of an object always.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "core/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_string(const json_value *value)
{
    aiq_pool *pool = aiq_pool_new();
    aiq_str text = json_string(pool, value);
    aiq_buf out = {0};
    json_error error;

    json_quote(&out, text.data, text.len);
    assert(json_valid((const char *)out.data, out.len, &error));
    json_value again = {JSON_STRING, {(const char *)out.data, out.len}, 0};
    assert(aiq_str_eq(json_string(pool, &again), text));
    if (strlen(text.data) == text.len) {
        assert(json_string_is(value, text.data));
    }
    aiq_buf_free(&out);
    aiq_pool_free(pool);
}

static void walk(const json_value *value)
{
    size_t cursor = 0;
    uint32_t count = 0;
    json_value child;
    json_error error;
    aiq_str name;
    int64_t n;

    switch (value->type) {
    case JSON_ARRAY:
    case JSON_OBJECT:
        while (json_each(value, &cursor, &name, &child)) {
            assert(json_valid(child.text.data, child.text.len, &error));
            walk(&child);
            count++;
        }
        assert(count == value->count);
        break;
    case JSON_STRING:
        check_string(value);
        break;
    case JSON_NUMBER:
        json_int(value, &n);
        json_real(value);
        break;
    default:
        break;
    }
}

static void check_close(const char *text, size_t len, bool is_object)
{
    aiq_buf out = {0};
    json_error error;
    bool closed = json_close((aiq_str){text, len}, &out);

    assert(closed == (out.len > 0));
    assert(!closed || json_scan((const char *)out.data, out.len, NULL, 0, &error));
    assert(closed || !is_object || memchr(text, '{', len) == NULL);
    aiq_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* a copy of exact size on the heap, so that any read beyond it is seen */
    char *text = malloc(size ? size : 1);
    json_value model, messages, stream;
    const json_want wants[] = {{"model", &model}, {"messages", &messages}, {"stream", &stream}};
    json_error error;

    memcpy(text, data, size);
    bool is_object = json_scan(text, size, NULL, 0, &error);
    check_close(text, size, is_object);
    check_close(text, size / 2, is_object);
    if (json_scan(text, size, wants, 3, &error)) {
        assert(json_valid(text, size, &error));
        walk(&model);
        walk(&messages);
        walk(&stream);
    } else {
        assert(error.reason && error.offset <= size);
    }
    free(text);
    return 0;
}
