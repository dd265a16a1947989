/* Is it a schema? What schema.c asks is whether answers can be held to it. */
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "infer/schema.h"

/* As deep as schema.c goes; deeper is not looked at. */
#define MAX_NESTING 64

/* What a keyword's value must be. */
typedef enum { TYPE, SCHEMA, SCHEMAS, ONE_OR_MORE, MAP, LIST, NAMES, TEXT } value_kind;

static const struct {
    const char *name;
    value_kind kind;
} keywords[] = {
    {"type", TYPE},
    {"properties", MAP},
    {"required", NAMES},
    {"items", ONE_OR_MORE},
    {"additionalProperties", SCHEMA},
    {"enum", LIST},
    {"anyOf", SCHEMAS},
    {"oneOf", SCHEMAS},
    {"allOf", SCHEMAS},
    {"not", SCHEMA},
    {"prefixItems", SCHEMAS},
    {"$defs", MAP},
    {"definitions", MAP},
    {"patternProperties", MAP},
    {"$ref", TEXT},
    {"pattern", TEXT},
    {"format", TEXT},
};

typedef struct {
    char *err;
    size_t errlen;
    int depth;
} checker;

static bool is_schema(checker *c, const json_value *value);

static bool is_type(const json_value *value)
{
    static const char *const types[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};

    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        if (json_string_is(value, types[i])) {
            return true;
        }
    }
    return false;
}

static bool are_types(const json_value *list)
{
    json_value element;
    size_t cursor = 0;

    while (json_each(list, &cursor, NULL, &element)) {
        if (!is_type(&element)) {
            return false;
        }
    }
    return list->type == JSON_ARRAY && list->count > 0;
}

static bool are_strings(const json_value *list)
{
    json_value element;
    size_t cursor = 0;

    while (json_each(list, &cursor, NULL, &element)) {
        if (element.type != JSON_STRING) {
            return false;
        }
    }
    return list->type == JSON_ARRAY;
}

/* Of an array, or of an object's members. */
static bool are_schemas(checker *c, const json_value *values)
{
    json_value element;
    size_t cursor = 0;

    while (json_each(values, &cursor, NULL, &element)) {
        if (!is_schema(c, &element)) {
            return false;
        }
    }
    return true;
}

static bool is_kind(checker *c, value_kind kind, const json_value *value)
{
    switch (kind) {
    case TYPE:
        return is_type(value) || are_types(value);
    case SCHEMA:
        return is_schema(c, value);
    case SCHEMAS:
        return value->type == JSON_ARRAY && value->count > 0 && are_schemas(c, value);
    case ONE_OR_MORE: /* a list in older drafts */
        return value->type == JSON_ARRAY ? are_schemas(c, value) : is_schema(c, value);
    case MAP:
        return value->type == JSON_OBJECT && are_schemas(c, value);
    case LIST:
        return value->type == JSON_ARRAY;
    case NAMES:
        return are_strings(value);
    default:
        return value->type == JSON_STRING;
    }
}

static bool check_member(checker *c, aiq_str name, const json_value *value)
{
    static const char *const words[] = {
        [TYPE] = "a type, or a list of types", [SCHEMA] = "a schema",
        [SCHEMAS] = "a list of schemas",       [ONE_OR_MORE] = "a schema",
        [MAP] = "an object of schemas",        [LIST] = "a list",
        [NAMES] = "a list of strings",         [TEXT] = "a string",
    };

    for (size_t i = 0; i < sizeof(keywords) / sizeof(*keywords); i++) {
        if (!aiq_str_is(name, keywords[i].name)) {
            continue;
        }
        if (is_kind(c, keywords[i].kind, value)) {
            return true;
        }
        if (c->err[0] == '\0') { /* what is inside was said */
            snprintf(c->err, c->errlen, "its '%s' is not %s", keywords[i].name,
                     words[keywords[i].kind]);
        }
        return false;
    }
    return true;
}

static bool is_schema(checker *c, const json_value *value)
{
    size_t cursor = 0;
    json_value member;
    aiq_str name;

    if (value->type != JSON_OBJECT || c->depth == MAX_NESTING) {
        return value->type == JSON_OBJECT || value->type == JSON_TRUE ||
               value->type == JSON_FALSE;
    }
    c->depth++;
    while (json_each(value, &cursor, &name, &member)) {
        if (!check_member(c, name, &member)) {
            return false;
        }
    }
    c->depth--;
    return true;
}

bool schema_check(aiq_str schema, char *err, size_t errlen)
{
    const json_value value = {JSON_OBJECT, schema, 1};
    checker c = {.err = err, .errlen = errlen};

    err[0] = '\0';
    return is_schema(&c, &value);
}
