/*
 * JSON where speed matters: a strict validating scanner (RFC 8259 whole:
 * escapes, surrogates, numbers, UTF-8, depth) that finds a few fields without
 * building a tree, and an escaper. Where a document is rewritten or read in
 * full, jansson is the tool.
 *
 * json_scan() validates all of the text and fills in the wanted top-level
 * members of the object; values stay where they are (slices of the text).
 * Duplicate wanted names are an error, as are a non-object, trailing bytes,
 * NUL bytes, a byte-order mark, and nesting beyond JSON_DEPTH_MAX.
 */

#ifndef AIQ_JSON_H
#define AIQ_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/pool.h"

#define JSON_DEPTH_MAX 128

typedef enum {
    JSON_NONE, /* not there */
    JSON_NULL,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} json_type;

/* A value inside a scanned text. text covers it whole, a string's quotes included. */
typedef struct {
    json_type type;
    aiq_str text;
    uint32_t count; /* elements of an array, members of an object */
} json_value;

typedef struct {
    const char *name;  /* wanted member */
    json_value *value; /* filled in; JSON_NONE where absent */
} json_want;

typedef struct {
    const char *reason; /* a static sentence part: "invalid escape" */
    size_t offset;      /* in bytes from the start of the text */
} json_error;

/* Validates the whole text as an object and fills in `wants` (n of them, any
 * n; names compared after unescaping). False and *error otherwise. */
bool json_scan(const char *text, size_t len, const json_want *wants, size_t n,
               json_error *error);

/* Validates the whole text as any value. */
bool json_valid(const char *text, size_t len, json_error *error);

/* A validated text that is an object, as a value: what json_each() and json_member() take. Its
 * count is not set. */
json_value json_root(aiq_str text);

/* Appends the object that a text begins which was cut off: up to its last value that is whole,
 * and the brackets that close it. What was cut is left out, with its name: half a path is
 * another path. False, and nothing: what is whole of it is no object. */
bool json_close(aiq_str text, aiq_buf *out);

/* Members of an object, or elements of an array, of an already validated text:
 * start with *cursor = 0; false at the end. name may be NULL for arrays; it is
 * the raw slice between the quotes. */
bool json_each(const json_value *container, size_t *cursor, aiq_str *name, json_value *value);

/* Members of a validated object, by name; in one walk, so better than one after the other.
 * JSON_NONE where absent, or where `object` is none; of several with a name the last, as the
 * usual parsers have it, so that we look at what a provider will see. */
void json_members(const json_value *object, const json_want *wants, size_t n);
json_value json_member(const json_value *object, const char *name);

/* The string's text, unescaped, NUL-terminated, in the pool. */
aiq_str json_string(aiq_pool *pool, const json_value *value);
/* Is the string equal to a literal? Without allocation. */
bool json_string_is(const json_value *value, const char *literal);
/* A number as int64 (false: not integral or out of range) or as double. */
bool json_int(const json_value *value, int64_t *out);
double json_real(const json_value *value);

/* Appends a quoted, escaped string; data may be NULL where len is 0. Bytes that are no UTF-8
 * become U+FFFD. */
void json_quote(aiq_buf *out, const char *data, size_t len);

#endif
