/*
 * What a request to the control service may say: the members of its body, each
 * checked by its kind, and a list's arguments. What is unknown is an error that
 * names it. Pure.
 */

#ifndef CONTROL_FIELDS_H
#define CONTROL_FIELDS_H

#include "core/err.h"
#include "core/json.h"

#define CONTROL_MODELS_MAX 64

typedef enum {
    FIELD_TENANT, /* [a-z0-9][a-z0-9-]{0,62} */
    FIELD_USER,   /* [A-Za-z0-9._@+-]{1,128} */
    FIELD_ROLE,   /* admin, developer, user, viewer */
    FIELD_BOOL,
    FIELD_MODELS, /* an array of names, not empty */
    FIELD_TIME    /* RFC 3339, later than now */
} control_kind;

/* A member that was found. */
typedef struct {
    bool given;   /* null counts as not given */
    aiq_str text; /* of TENANT, USER, ROLE; of MODELS: JSON anew; in the pool */
    bool truth;   /* of BOOL */
    int64_t ms;   /* of TIME, Unix time */
} control_value;

typedef struct {
    const char *name;
    control_kind kind;
    bool required;
    control_value *value; /* filled in */
} control_field;

/* Reads a JSON object. 400 and the member's name otherwise. */
bool control_fields(aiq_pool *pool, aiq_str body, const control_field *fields, size_t n,
                    aiq_err *err);

/* limit, after and tenant. 400 for what is none of them. */
bool control_args(aiq_str args, int64_t max, int64_t *limit, aiq_str *after, aiq_str *tenant,
                  aiq_err *err);

/* Appends "2026-01-31T12:00:00.000Z" in quotes. */
void control_add_time(aiq_buf *out, int64_t ms);
/* RFC 3339 with any offset. */
bool control_parse_time(aiq_str text, int64_t *ms);

#endif
