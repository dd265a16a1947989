/*
 * What a request to the control service may say: the members of its body, each
 * checked by its kind, and a list's arguments. What is unknown is an error that
 * names it. Pure.
 */

#ifndef CONTROL_FIELDS_H
#define CONTROL_FIELDS_H

#include "core/err.h"
#include "core/json.h"
#include "core/policy.h"

#define CONTROL_MODELS_MAX 64
#define CONTROL_LIMIT_MAX  1000000000

typedef enum {
    FIELD_TENANT, /* [a-z0-9][a-z0-9-]{0,62} */
    FIELD_USER,   /* [A-Za-z0-9._@+-]{1,128} */
    FIELD_ROLE,   /* admin, developer, user, viewer */
    FIELD_BOOL,
    FIELD_MODELS, /* an array of names, not empty */
    FIELD_TIME,   /* RFC 3339, later than now */
    FIELD_SCOPE,  /* tenant, user, key */
    FIELD_AMOUNT, /* 200usd/month, 1000tokens/day */
    FIELD_LIMITS  /* {"requests_per_minute": 60, "tokens_per_minute": 50000} */
} control_kind;

/* A member that was found. */
typedef struct {
    bool given;           /* null counts as not given */
    aiq_str text;         /* of TENANT, USER, ROLE, SCOPE; of MODELS: JSON anew; in the pool */
    bool truth;           /* of BOOL */
    int64_t ms;           /* of TIME, Unix time */
    policy_budget budget; /* of SCOPE and of AMOUNT what they say of it */
    int64_t requests, tokens; /* of LIMITS; 0: no limit */
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

/* What usage is summed up by. */
typedef enum {
    CONTROL_BY_TENANT = 1,
    CONTROL_BY_USER = 2,
    CONTROL_BY_KEY = 4,
    CONTROL_BY_MODEL = 8,
    CONTROL_BY_PROVIDER = 16,
    CONTROL_BY_DAY = 32
} control_groups;

/* Arguments; texts in the pool, empty where not given. */
typedef struct {
    int64_t limit, limit_max; /* set both before */
    aiq_str after, tenant;
    bool no_tenant;         /* set before: that one is not known */
    bool usage;             /* set before: the following are known, too */
    unsigned groups;        /* control_groups */
    int64_t from_ms, to_ms; /* Unix time; the second is not included */
} control_args;

/* 400 for what is none of them, and names it. */
bool control_read_args(aiq_pool *pool, aiq_str text, control_args *args, aiq_err *err);

/* An `after` that is the number of items before a page. */
bool control_offset(aiq_str after, int64_t *offset, aiq_err *err);

/* Appends "2026-01-31T12:00:00.000Z" in quotes. */
void control_add_time(aiq_buf *out, int64_t ms);
/* The same without its time of day. */
void control_add_date(aiq_buf *out, int64_t ms);
/* RFC 3339 with any offset, or a date alone: its first moment in UTC. */
bool control_parse_time(aiq_str text, int64_t *ms);

#endif
