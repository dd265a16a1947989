#include "providers/rewrite.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FIELD_MAX 64 /* as in aiq_err */

/* A value never ends with one of these, so the last byte alone tells. */
void rewrite_comma(aiq_buf *out)
{
    if (out->len && !memchr("{[:,", out->data[out->len - 1], 4)) {
        aiq_buf_text(out, ",");
    }
}

void rewrite_name(aiq_buf *out, const char *name)
{
    rewrite_comma(out);
    aiq_buf_text(out, "\"");
    aiq_buf_text(out, name);
    aiq_buf_text(out, "\":");
}

void rewrite_value(aiq_buf *out, const json_value *value)
{
    aiq_buf_add(out, value->text.data, value->text.len);
}

void rewrite_member(aiq_buf *out, const char *name, const json_value *value)
{
    rewrite_name(out, name);
    rewrite_value(out, value);
}

void rewrite_member_text(aiq_buf *out, const char *name, aiq_str text)
{
    rewrite_name(out, name);
    json_quote(out, text.data, text.len);
}

void rewrite_member_word(aiq_buf *out, const char *name, const char *word)
{
    rewrite_member_text(out, name, (aiq_str){word, strlen(word)});
}

void rewrite_member_int(aiq_buf *out, const char *name, int64_t n)
{
    rewrite_name(out, name);
    aiq_buf_printf(out, "%lld", (long long)n);
}

aiq_str rewrite_raw(const json_value *value)
{
    if (value->type != JSON_STRING) {
        return (aiq_str){"", 0};
    }
    return (aiq_str){value->text.data + 1, value->text.len - 2};
}

bool rewrite_absent(const json_value *value)
{
    return value->type == JSON_NONE || value->type == JSON_NULL;
}

bool rewrite_asks_nothing(const json_value *value)
{
    switch (value->type) {
    case JSON_NONE:
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_NUMBER:
        return json_real(value) == 0;
    case JSON_STRING:
        return value->text.len == 2;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return value->count == 0;
    default:
        return false;
    }
}

bool rewrite_unsupported(aiq_err *err, const char *field, ...)
{
    char name[FIELD_MAX];
    va_list args;

    va_start(args, field);
    vsnprintf(name, sizeof(name), field, args);
    va_end(args);
    return aiq_fail_param(err, 400, "unsupported_parameter", name,
                          "This model does not support '%s' with this value.", name);
}

bool rewrite_invalid(aiq_err *err, const char *expected, const char *field, ...)
{
    char name[FIELD_MAX];
    va_list args;

    va_start(args, field);
    vsnprintf(name, sizeof(name), field, args);
    va_end(args);
    return aiq_fail_param(err, 400, "invalid_value", name, "'%s' must be %s.", name, expected);
}

static bool is_one_of(aiq_str name, const char *const *names)
{
    while (*names && !aiq_str_is(name, *names)) {
        names++;
    }
    return *names != NULL;
}

/* A member's name comes from the client: what an error may repeat of it. */
static int printable(aiq_str name)
{
    size_t n = 0;

    while (n < name.len && n < 32 && name.data[n] > ' ' && name.data[n] < 0x7f &&
           !strchr("\"'\\", name.data[n])) {
        n++;
    }
    return (int)n;
}

static bool begins_with(const char *param, const char *name)
{
    size_t n = strlen(name);

    return strncmp(param, name, n) == 0 && strchr(".[", param[n]) != NULL;
}

void rewrite_error(aiq_err *err, const char *const (*names)[2])
{
    const aiq_err old = *err;
    char quoted[sizeof(old.param) + 2];

    while ((*names)[0] != NULL && !begins_with(old.param, (*names)[0])) {
        names++;
    }
    if ((*names)[0] == NULL) {
        return;
    }
    snprintf(err->param, sizeof(err->param), "%s", (*names)[1]);
    snprintf(quoted, sizeof(quoted), "'%s'", old.param);
    const char *at = strstr(old.message, quoted);
    if (at != NULL) {
        aiq_fail_param(err, old.status, old.code, (*names)[1], "%.*s'%s'%s",
                       (int)(at - old.message), old.message, (*names)[1], at + strlen(quoted));
    }
}

bool rewrite_only(const json_value *object, const char *const *names, const char *field,
                  aiq_err *err)
{
    json_value value;
    size_t cursor = 0;
    aiq_str name;

    while (json_each(object, &cursor, &name, &value)) {
        if (!is_one_of(name, names) && !rewrite_asks_nothing(&value)) {
            return rewrite_unsupported(err, "%s%.*s", field, printable(name), name.data);
        }
    }
    return true;
}
