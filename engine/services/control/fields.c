#include "services/control/fields.h"
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "access/role.h"
#include "core/id.h"
#include "services/service.h"

#define MODEL_NAME_MAX 128

/* Kinds. */

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_tenant(aiq_str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!is_lower(s.data[i]) && !is_digit(s.data[i]) && (s.data[i] != '-' || i == 0)) {
            return false;
        }
    }
    return s.len > 0 && s.len <= 63;
}

static bool is_user(aiq_str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (!is_lower(c) && !is_digit(c) && !(c >= 'A' && c <= 'Z') &&
            (c == '\0' || strchr("._@+-", c) == NULL)) {
            return false;
        }
    }
    return s.len > 0 && s.len <= 128;
}

static bool invalid(aiq_err *err, const char *name, const char *what)
{
    return aiq_fail_param(err, 400, "invalid_value", name, "'%s' must be %s.", name, what);
}

static bool wrong_type(aiq_err *err, const char *name, const char *what)
{
    return aiq_fail_param(err, 400, "invalid_type", name, "'%s' must be %s.", name, what);
}

static bool unknown(aiq_err *err, const char *what, aiq_str name)
{
    char plain[48];
    size_t n = name.len < sizeof(plain) - 1 ? name.len : sizeof(plain) - 1;

    for (size_t i = 0; i < n; i++) {
        plain[i] = name.data[i] > ' ' && name.data[i] < 0x7f ? name.data[i] : '?';
    }
    plain[n] = '\0';
    return aiq_fail_param(err, 400, "unknown_parameter", plain, "There is no %s '%s' here.",
                          what, plain);
}

static bool take_scope(aiq_str text, policy_scope *scope)
{
    *scope = aiq_str_is(text, "user")  ? POLICY_USER
             : aiq_str_is(text, "key") ? POLICY_KEY
                                       : POLICY_TENANT;
    return *scope != POLICY_TENANT || aiq_str_is(text, "tenant");
}

/* Digits, at most `most` of them, as a number with so many decimals. */
static size_t take_digits(aiq_str text, size_t from, size_t most, int64_t *number)
{
    size_t i = from;

    while (i < text.len && i - from < most && is_digit(text.data[i])) {
        *number = *number * 10 + (text.data[i++] - '0');
    }
    return i - from;
}

/* As the directive aiq_budget has it, and as exact. */
static bool take_amount(aiq_str text, policy_budget *b)
{
    aiq_str rest = text;
    int64_t whole = 0;
    size_t decimals = 0, n = take_digits(text, 0, 15, &whole), end = n;

    if (n > 0 && n <= 9 && end < text.len && text.data[end] == '.') {
        decimals = take_digits(text, end + 1, 9, &whole);
        end += 1 + decimals;
        if (decimals == 0) {
            return false;
        }
    }
    rest.data += end;
    rest.len -= end;
    b->unit = rest.len > 4 && memcmp(rest.data, "usd/", 4) == 0 ? POLICY_USD : POLICY_TOKENS;
    if (n > (b->unit == POLICY_USD ? 9 : 15)) {
        return false; /* nine digits and nine decimals are the most that fit 63 bits */
    }
    b->period = rest.len > 6 && memcmp(rest.data + rest.len - 6, "/month", 6) == 0
                    ? POLICY_MONTH
                    : POLICY_DAY;
    b->amount = whole;
    for (size_t i = decimals; b->unit == POLICY_USD && i < 9; i++) {
        b->amount *= 10;
    }
    return n > 0 && whole > 0 && (b->unit == POLICY_USD || decimals == 0) &&
           (aiq_str_is(rest, "usd/day") || aiq_str_is(rest, "usd/month") ||
            aiq_str_is(rest, "tokens/day") || aiq_str_is(rest, "tokens/month"));
}

static bool take_text(aiq_pool *pool, const control_field *f, const json_value *value,
                      aiq_err *err)
{
    if (value->type != JSON_STRING) {
        return wrong_type(err, f->name, "a string");
    }
    aiq_str text = f->value->text = json_string(pool, value);
    switch (f->kind) {
    case FIELD_TENANT:
        return is_tenant(text) ||
               invalid(err, f->name, "1 to 63 of a-z, 0-9 and '-', and not begin with '-'");
    case FIELD_USER:
        return is_user(text) || invalid(err, f->name, "1 to 128 letters, digits and ._@+-");
    case FIELD_ROLE:
        return role_rank(text) >= 0 ||
               invalid(err, f->name, "one of admin, developer, user and viewer");
    case FIELD_SCOPE:
        return take_scope(text, &f->value->budget.scope) ||
               invalid(err, f->name, "one of tenant, user and key");
    case FIELD_AMOUNT:
        return take_amount(text, &f->value->budget) ||
               invalid(err, f->name, "like 200usd/month or 50000tokens/day");
    default:
        if (!control_parse_time(text, &f->value->ms)) {
            return invalid(err, f->name, "a time as in RFC 3339, 2030-01-31T12:00:00Z");
        }
        return f->value->ms > aiq_now_ms() || invalid(err, f->name, "in the future");
    }
}

/* Written anew: without spaces, and with nothing in it but names. */
static bool take_models(aiq_pool *pool, const control_field *f, const json_value *value,
                        aiq_err *err)
{
    aiq_buf out = {0};
    json_value name;
    size_t cursor = 0;
    bool ok = true;

    if (value->type != JSON_ARRAY) {
        return wrong_type(err, f->name, "an array of names");
    }
    if (value->count == 0 || value->count > CONTROL_MODELS_MAX) {
        return invalid(err, f->name, "1 to 64 names, or null for every model");
    }
    while (ok && json_each(value, &cursor, NULL, &name)) {
        aiq_str text = json_string(pool, &name);
        ok = text.len > 0 && text.len <= MODEL_NAME_MAX && !memchr(text.data, 0, text.len);
        aiq_buf_text(&out, out.len ? "," : "[");
        json_quote(&out, text.data, text.len);
    }
    aiq_buf_text(&out, "]");
    f->value->text = (aiq_str){aiq_pool_copy(pool, out.data, out.len), out.len};
    aiq_buf_free(&out);
    return ok || invalid(err, f->name, "an array of strings of 1 to 128 bytes");
}

static bool take_limits(const control_field *f, const json_value *value, aiq_err *err)
{
    static const char *const names[] = {"requests_per_minute", "tokens_per_minute"};
    int64_t *const numbers[] = {&f->value->requests, &f->value->tokens};
    json_value number;
    size_t cursor = 0;
    aiq_str name;

    if (value->type != JSON_OBJECT) {
        return wrong_type(err, f->name, "an object");
    }
    while (json_each(value, &cursor, &name, &number)) {
        unsigned i = 0;
        while (i < 2 && !aiq_str_is(name, names[i])) {
            i++;
        }
        if (i == 2) {
            return unknown(err, "limit", name);
        }
        if (number.type != JSON_NULL && (!json_int(&number, numbers[i]) || *numbers[i] < 1 ||
                                         *numbers[i] > CONTROL_LIMIT_MAX)) {
            return invalid(err, names[i], "1 to 1000000000, or null for no limit");
        }
    }
    return true;
}

static bool take(aiq_pool *pool, const control_field *f, const json_value *value, aiq_err *err)
{
    f->value->given = value->type != JSON_NULL;
    if (!f->value->given) {
        return true;
    }
    if (f->kind == FIELD_MODELS) {
        return take_models(pool, f, value, err);
    }
    if (f->kind == FIELD_LIMITS) {
        return take_limits(f, value, err);
    }
    if (f->kind != FIELD_BOOL) {
        return take_text(pool, f, value, err);
    }
    f->value->truth = value->type == JSON_TRUE;
    return value->type == JSON_TRUE || value->type == JSON_FALSE ||
           wrong_type(err, f->name, "true or false");
}

/* Bodies. */

static const control_field *find(const control_field *fields, size_t n, aiq_str name)
{
    for (size_t i = 0; i < n; i++) {
        if (aiq_str_is(name, fields[i].name)) {
            return &fields[i];
        }
    }
    return NULL;
}

bool control_fields(aiq_pool *pool, aiq_str body, const control_field *fields, size_t n,
                    aiq_err *err)
{
    json_value object = {.type = JSON_OBJECT, .text = body}, value;
    json_error error;
    size_t cursor = 0;
    aiq_str name;

    if (!json_scan(body.data, body.len, NULL, 0, &error)) {
        return aiq_fail(err, 400, "invalid_json",
                        "The body is not a JSON object: %s at byte %zu.", error.reason,
                        error.offset);
    }
    while (object.text.data[0] != '{') { /* json_each() wants the value itself */
        object.text.data++;
        object.text.len--;
    }
    while (json_each(&object, &cursor, &name, &value)) {
        const control_field *f = find(fields, n, name);
        if (f == NULL) {
            return unknown(err, "field", name);
        }
        if (f->value->given) {
            return invalid(err, f->name, "given once");
        }
        if (!take(pool, f, &value, err)) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (fields[i].required && !fields[i].value->given) {
            return aiq_fail_param(err, 400, "missing_required_parameter", fields[i].name,
                                  "'%s' is missing.", fields[i].name);
        }
    }
    return true;
}

/* Arguments. */

static bool take_limit(aiq_str value, int64_t max, int64_t *limit, aiq_err *err)
{
    *limit = 0;
    for (size_t i = 0; i < value.len && *limit <= max; i++) {
        *limit = is_digit(value.data[i]) ? *limit * 10 + (value.data[i] - '0') : max + 1;
    }
    return (*limit >= 1 && *limit <= max) ||
           aiq_fail_param(err, 400, "invalid_value", "limit", "'limit' must be 1 to %lld.",
                          (long long)max);
}

static bool take_groups(aiq_str value, unsigned *groups, aiq_err *err)
{
    static const char *const names[] = {"tenant", "user", "key", "model", "provider", "day"};
    const char *pos = value.data, *end = value.data + value.len;

    while (pos < end) {
        const char *comma = memchr(pos, ',', (size_t)(end - pos));
        aiq_str name = {pos, (size_t)((comma ? comma : end) - pos)};
        unsigned i = 0;
        while (i < 6 && !aiq_str_is(name, names[i])) {
            i++;
        }
        if (i == 6) {
            break;
        }
        *groups |= 1u << i;
        pos = comma ? comma + 1 : end;
    }
    return (pos == end && value.len > 0) ||
           invalid(err, "group_by",
                   "a list, with commas, of tenant, user, key, model, provider and day");
}

static bool take_time(const char *name, aiq_str value, int64_t *ms, aiq_err *err)
{
    return control_parse_time(value, ms) ||
           invalid(err, name, "a date, or a date and time as RFC 3339 has them");
}

static bool take_arg(control_args *args, aiq_str name, aiq_str value, aiq_err *err)
{
    if (aiq_str_is(name, "limit")) {
        return take_limit(value, args->limit_max, &args->limit, err);
    }
    if (aiq_str_is(name, "after")) {
        args->after = value;
        return is_user(value) || invalid(err, "after", "the 'next' of another page");
    }
    if (!args->no_tenant && aiq_str_is(name, "tenant")) {
        args->tenant = value;
        return is_tenant(value) || invalid(err, "tenant", "the name of a tenant");
    }
    if (args->usage && aiq_str_is(name, "group_by")) {
        return take_groups(value, &args->groups, err);
    }
    if (args->usage && aiq_str_is(name, "from")) {
        return take_time("from", value, &args->from_ms, err);
    }
    if (args->usage && aiq_str_is(name, "to")) {
        return take_time("to", value, &args->to_ms, err);
    }
    return unknown(err, "argument", name);
}

bool control_read_args(aiq_pool *pool, aiq_str text, control_args *args, aiq_err *err)
{
    aiq_str name, value;

    while (service_arg(pool, &text, &name, &value)) {
        if (!take_arg(args, name, value, err)) {
            return false;
        }
    }
    return true;
}

bool control_offset(aiq_str after, int64_t *offset, aiq_err *err)
{
    *offset = 0;
    for (size_t i = 0; i < after.len; i++) {
        if (!is_digit(after.data[i]) || i > 9) {
            return invalid(err, "after", "the 'next' of another page");
        }
        *offset = *offset * 10 + (after.data[i] - '0');
    }
    return true;
}

/* Times. */

void control_add_time(aiq_buf *out, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[32];

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    aiq_buf_printf(out, "\"%s.%03dZ\"", text, (int)(ms % 1000));
}

void control_add_date(aiq_buf *out, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[32];

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%d", &tm);
    aiq_buf_printf(out, "\"%s\"", text);
}

static bool two(const char **p, const char *end, int max, int *out)
{
    if (end - *p < 2 || !is_digit((*p)[0]) || !is_digit((*p)[1])) {
        return false;
    }
    *out = ((*p)[0] - '0') * 10 + ((*p)[1] - '0');
    *p += 2;
    return *out <= max;
}

static bool skip(const char **p, const char *end, char c)
{
    return *p < end && *(*p)++ == c;
}

/* Z, or ±hh:mm. */
static bool parse_offset(const char **p, const char *end, int64_t *minutes)
{
    int hours, rest;

    *minutes = 0;
    if (*p < end && **p == 'Z') {
        (*p)++;
        return true;
    }
    if (*p == end || (**p != '+' && **p != '-')) {
        return false;
    }
    int sign = *(*p)++ == '-' ? -1 : 1;
    if (!two(p, end, 23, &hours) || !skip(p, end, ':') || !two(p, end, 59, &rest)) {
        return false;
    }
    *minutes = sign * (hours * 60 + rest);
    return true;
}

static bool finish_time(struct tm *tm, int year, int64_t offset, int fraction, int64_t *ms)
{
    int day = tm->tm_mday;

    tm->tm_year = year - 1900;
    tm->tm_mon -= 1;
    *ms = ((int64_t)timegm(tm) - offset * 60) * 1000 + fraction;
    return tm->tm_mday == day; /* else there is no such day: timegm() took the next ones */
}

bool control_parse_time(aiq_str text, int64_t *ms)
{
    const char *p = text.data, *end = p + text.len;
    int century, year, fraction = 0;
    int64_t offset;
    struct tm tm = {0};

    if (!two(&p, end, 99, &century) || !two(&p, end, 99, &year) || !skip(&p, end, '-') ||
        !two(&p, end, 12, &tm.tm_mon) || !skip(&p, end, '-') ||
        !two(&p, end, 31, &tm.tm_mday) || tm.tm_mon == 0) {
        return false;
    }
    if (p == end) {
        return finish_time(&tm, century * 100 + year, 0, 0, ms);
    }
    if (!skip(&p, end, 'T') || !two(&p, end, 23, &tm.tm_hour) || !skip(&p, end, ':') ||
        !two(&p, end, 59, &tm.tm_min) || !skip(&p, end, ':') || !two(&p, end, 59, &tm.tm_sec)) {
        return false;
    }
    if (p < end && *p == '.') {
        int scale = 100;
        for (p++; p < end && is_digit(*p); p++, scale /= 10) {
            fraction += (*p - '0') * scale;
        }
    }
    if (!parse_offset(&p, end, &offset) || p != end) {
        return false;
    }
    return finish_time(&tm, century * 100 + year, offset, fraction, ms);
}
