/* Schemas, and whether a text is of their grammar. */
#ifndef SCHEMA_TEXT_H
#define SCHEMA_TEXT_H

#include <jansson.h>
#include <string.h>

#include "infer/schema.h"

static char err[256];

static grammar *compile(const char *schema)
{
    json_error_t bad;
    json_t *json = json_loads(schema, JSON_DECODE_INT_AS_REAL, &bad);

    if (json == NULL) {
        fail_msg("%s: %s", schema, bad.text);
    }
    json_decref(json);
    return schema_compile(schema, strlen(schema), true, err, sizeof(err));
}

static matcher *matcher_of(const char *schema)
{
    grammar *g = compile(schema);

    if (g == NULL) {
        fail_msg("%s: %s", schema, err);
    }
    return matcher_new(g);
}

static bool is_of(matcher *m, const char *text)
{
    int32_t at = MATCHER_START;

    for (const char *p = text; *p != '\0' && at != MATCHER_DEAD; p++) {
        at = matcher_next(m, at, (uint8_t)*p);
    }
    return at != MATCHER_DEAD && matcher_complete(m, at);
}

static bool matches(const char *schema, const char *text)
{
    matcher *m = matcher_of(schema);
    bool yes = is_of(m, text);

    matcher_free(m);
    return yes;
}

#endif
