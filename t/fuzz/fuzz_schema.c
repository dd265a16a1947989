/*
 * A schema from anywhere, and a text behind its first line: the schema is compiled or refused,
 * and where the text is of its language, it is JSON.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "infer/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void match(grammar *g, const char *text, size_t len)
{
    matcher *m = matcher_new(g);
    int32_t at = MATCHER_START;
    json_error error;

    for (size_t i = 0; i < len && at != MATCHER_DEAD; i++) {
        at = matcher_next(m, at, (uint8_t)text[i]);
        if (at != MATCHER_DEAD) {
            int32_t *const kept[] = {&at};

            if (matcher_is_large(m)) {
                matcher_trim(m, kept, 1);
            }
        }
    }
    if (at != MATCHER_DEAD && matcher_complete(m, at) && !json_valid(text, len, &error)) {
        abort();
    }
    matcher_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *schema = (const char *)data;
    const char *end = size > 0 ? memchr(schema, '\n', size) : NULL;
    size_t len = end != NULL ? (size_t)(end - schema) : size;
    json_error error;
    char err[200];
    grammar *g;

    if (len == 0 || schema[0] != '{' || !json_valid(schema, len, &error)) {
        return 0;
    }
    schema_check((aiq_str){schema, len}, err, sizeof(err));
    g = schema_compile(schema, len, true, err, sizeof(err));
    if (g != NULL && end != NULL) {
        match(g, end + 1, size - len - 1);
    } else if (g != NULL) {
        grammar_free(g);
    }
    return 0;
}
