#include "infer/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "infer/formats.h"
#include "infer/numbers.h"
#include "infer/strings.h"

#define MAX_REFS    256
#define MAX_RANGES  32
#define MAX_STRINGS 32
#define MAX_INDENT  20
#define MAX_DIGITS  17
#define MAX_NESTING 64

/* Looking up names is quadratic. */
#define MAX_PROPERTIES 1000
#define MAX_TEXT       ((size_t)64 * 1024)

/* Rules that several places call; made when first called. */
typedef enum { SPACE, STRING, INTEGER, NUMBER, VALUE, OBJECT, ARRAY, N_COMMON } common_rule;

typedef struct {
    aiq_str pointer;
    uint32_t rule;
} reference;

typedef struct {
    number_range range;
    uint32_t rule;
} range_rule;

/* What a schema says of a string. */
typedef struct {
    aiq_str pattern;    /* as it is spelt; "": none */
    const char *format; /* its pattern, or NULL */
    uint32_t least, most;
    uint32_t rule;
} string_rule;

typedef struct {
    grammar *g;
    aiq_pool *pool;
    const json_value *root;
    char *err;
    size_t errlen;
    bool failed;
    bool strict; /* what is not known is an error, even where it is only a note */
    int depth;
    uint32_t common[N_COMMON]; /* + 1; 0: not made yet */
    reference refs[MAX_REFS];
    size_t n_refs;
    range_rule ranges[MAX_RANGES]; /* beyond, each place has its own */
    size_t n_ranges;
    string_rule strings[MAX_STRINGS];
    size_t n_strings;
    size_t *work; /* steps that strings may take yet */
} compiler;

static bool compile(compiler *c, const json_value *schema, uint32_t from, uint32_t to);
static uint32_t common(compiler *c, common_rule which);

__attribute__((format(printf, 2, 3))) static bool fail(compiler *c, const char *format, ...)
{
    va_list ap;

    if (!c->failed) {
        va_start(ap, format);
        vsnprintf(c->err, c->errlen, format, ap);
        va_end(ap);
        c->failed = true;
    }
    return false;
}

/* --- JSON's own parts --- */

static uint32_t byte(compiler *c, uint32_t from, char b)
{
    uint32_t to = grammar_state(c->g);

    grammar_bytes(c->g, from, (uint8_t)b, (uint8_t)b, to);
    return to;
}

static void literal(compiler *c, uint32_t from, const char *text, size_t len, uint32_t to)
{
    for (size_t i = 0; i < len; i++) {
        from = byte(c, from, text[i]);
    }
    grammar_skip(c->g, from, to);
}

/* Returns the state behind it. */
static uint32_t call(compiler *c, uint32_t from, common_rule which)
{
    uint32_t to = grammar_state(c->g);

    grammar_call(c->g, from, common(c, which), to);
    return to;
}

static uint32_t digit(compiler *c, uint32_t from, char low)
{
    uint32_t to = grammar_state(c->g);

    grammar_bytes(c->g, from, (uint8_t)low, '9', to);
    return to;
}

/* At least so many digits, at most so many; all ends lead to to. */
static void digits(compiler *c, uint32_t from, int least, int most, uint32_t to)
{
    for (int i = 0; i <= most; i++) {
        if (i >= least) {
            grammar_skip(c->g, from, to);
        }
        if (i < most) {
            from = digit(c, from, '0');
        }
    }
}

/* 19 digits that are at most INT64_MAX: ids are so long. Two rows of states: all digits were
 * the limit's, or one was less. */
static void long_integer(compiler *c, uint32_t from, uint32_t to)
{
    static const char limit[] = "9223372036854775807";
    uint32_t less = from;

    for (size_t i = 0; limit[i] != '\0'; i++) {
        bool last = limit[i + 1] == '\0';
        uint32_t same = last ? to : grammar_state(c->g);
        uint32_t below = last ? to : grammar_state(c->g);
        char low = i == 0 ? '1' : '0';

        grammar_bytes(c->g, from, (uint8_t)limit[i], (uint8_t)limit[i], same);
        if (limit[i] > low) {
            grammar_bytes(c->g, from, (uint8_t)low, (uint8_t)(limit[i] - 1), below);
        }
        if (i > 0) {
            grammar_bytes(c->g, less, '0', '9', below);
        }
        from = same;
        less = below;
    }
}

/* -?(0|[1-9][0-9]*), behind which is to. */
static void integer(compiler *c, uint32_t from, uint32_t to)
{
    uint32_t minus = byte(c, from, '-');

    grammar_skip(c->g, from, minus);
    grammar_skip(c->g, byte(c, minus, '0'), to);
    digits(c, digit(c, minus, '1'), 0, MAX_DIGITS, to);
    long_integer(c, minus, to);
}

/* The integer, (\.[0-9]+)?([eE][+-]?[0-9]+)? */
static void number(compiler *c, uint32_t from, uint32_t to)
{
    uint32_t whole = grammar_state(c->g), real = grammar_state(c->g), e, sign;

    integer(c, from, whole);
    grammar_skip(c->g, whole, real);
    digits(c, byte(c, whole, '.'), 1, MAX_DIGITS, real);
    grammar_skip(c->g, real, to);
    e = byte(c, real, 'e');
    grammar_bytes(c->g, real, 'E', 'E', e);
    sign = byte(c, e, '+');
    grammar_bytes(c->g, e, '-', '-', sign);
    grammar_skip(c->g, e, sign);
    digits(c, sign, 1, 2, to);
}

/* Nothing, a space, or a line break with spaces or tabs behind it. */
static void space(compiler *c, uint32_t from, uint32_t to)
{
    uint32_t line;

    grammar_skip(c->g, from, to);
    grammar_bytes(c->g, from, ' ', ' ', to);
    line = byte(c, from, '\n');
    for (int i = 0; i < MAX_INDENT; i++) {
        uint32_t next = byte(c, line, ' ');

        grammar_bytes(c->g, line, '\t', '\t', next);
        grammar_skip(c->g, line, to);
        line = next;
    }
    grammar_skip(c->g, line, to);
}

/* What comes behind a key: a colon, and a value of this schema (NULL: any). */
static void member_value(compiler *c, uint32_t from, const json_value *schema, uint32_t to)
{
    uint32_t value = call(c, byte(c, call(c, from, SPACE), ':'), SPACE);
    uint32_t behind = grammar_state(c->g);

    if (schema != NULL) {
        compile(c, schema, value, behind);
    } else {
        grammar_call(c->g, value, common(c, VALUE), behind);
    }
    grammar_call(c->g, behind, common(c, SPACE), to);
}

/* Any keys, with values of this schema (NULL: any). */
static void map(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    uint32_t first = call(c, byte(c, from, '{'), SPACE), key = grammar_state(c->g);
    uint32_t behind = grammar_state(c->g);

    grammar_bytes(c->g, first, '}', '}', to);
    grammar_skip(c->g, first, key);
    member_value(c, call(c, key, STRING), schema, behind);
    grammar_bytes(c->g, behind, '}', '}', to);
    grammar_skip(c->g, call(c, byte(c, behind, ','), SPACE), key);
}

/* least..most elements (most < 0: any number), each what the rule says. */
static void list(compiler *c, uint32_t element, int64_t least, int64_t most, uint32_t from,
                 uint32_t to)
{
    int64_t last = most >= 0 ? most : least > 1 ? least : 1;
    uint32_t at = call(c, byte(c, from, '['), SPACE);

    for (int64_t i = 0; i <= last && !c->failed; i++) {
        bool more = i < last || most < 0;
        uint32_t next = grammar_state(c->g), before = at;

        if (i >= least) {
            grammar_bytes(c->g, at, ']', ']', to);
        }
        if (!more) {
            break;
        }
        if (i > 0) {
            before = call(c, byte(c, at, ','), SPACE);
        }
        uint32_t behind = grammar_state(c->g);
        grammar_call(c->g, before, element, behind);
        /* the last one repeats itself */
        grammar_call(c->g, behind, common(c, SPACE), i < last ? next : at);
        at = next;
    }
}

static void any_value(compiler *c, uint32_t from, uint32_t to)
{
    static const common_rule rules[] = {OBJECT, ARRAY, STRING, NUMBER};

    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
        grammar_call(c->g, from, common(c, rules[i]), to);
    }
    literal(c, from, "true", 4, to);
    literal(c, from, "false", 5, to);
    literal(c, from, "null", 4, to);
}

static uint32_t common(compiler *c, common_rule which)
{
    uint32_t rule, from, to;

    if (c->common[which] != 0) {
        return c->common[which] - 1;
    }
    rule = grammar_rule(c->g);
    c->common[which] = rule + 1;
    from = grammar_start(c->g, rule);
    to = grammar_end(c->g, rule);
    switch (which) {
    case SPACE:
        space(c, from, to);
        break;
    case STRING:
        strings_add_any(c->g, from, to);
        break;
    case INTEGER:
        integer(c, from, to);
        break;
    case NUMBER:
        number(c, from, to);
        break;
    case OBJECT:
        map(c, NULL, from, to);
        break;
    case ARRAY:
        list(c, common(c, VALUE), 0, -1, from, to);
        break;
    default:
        any_value(c, from, to);
    }
    return rule;
}

/* --- schemas --- */

/* Keywords, and what is said besides that constrains nothing. */
static bool check_keywords(compiler *c, const json_value *schema)
{
    static const char *const known[] = {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "title",
        "description",
        "definitions",
        "default",
        "$id",
        "examples",
        "$schema",
        "$comment",
        "$anchor",
        "deprecated",
        "readOnly",
        "writeOnly",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "pattern",
        "format",
        "minLength",
        "maxLength",
    };
    size_t cursor = 0;
    json_value value;
    aiq_str name;

    while (json_each(schema, &cursor, &name, &value)) {
        bool found = false;

        for (size_t i = 0; i < sizeof(known) / sizeof(*known) && !found; i++) {
            found = aiq_str_is(name, known[i]);
        }
        if (!found) {
            return fail(c, "the schema's keyword '%.*s' is not supported",
                        name.len < 40 ? (int)name.len : 40, name.data);
        }
    }
    return true;
}

static bool has_any(const json_value *schema, const char *const *names)
{
    while (*names != NULL && json_member(schema, *names).type == JSON_NONE) {
        names++;
    }
    return *names != NULL;
}

static bool is_required(const json_value *required, aiq_str name)
{
    json_value element;
    size_t cursor = 0;

    while (json_each(required, &cursor, NULL, &element)) {
        if (element.type == JSON_STRING && element.text.len == name.len + 2 &&
            memcmp(element.text.data + 1, name.data, name.len) == 0) {
            return true;
        }
    }
    return false;
}

/* Each required name is a property, as it is spelt there. */
static bool check_required(compiler *c, const json_value *required,
                           const json_value *properties)
{
    json_value element, value;
    size_t cursor = 0;

    if (required->type == JSON_NONE) {
        return true;
    }
    if (required->type != JSON_ARRAY || required->count > MAX_PROPERTIES) {
        return fail(c, "the schema's 'required' is no list, or too long");
    }
    while (json_each(required, &cursor, NULL, &element)) {
        bool found = false;
        size_t at = 0;
        aiq_str name;

        if (element.type != JSON_STRING) {
            return fail(c, "the schema's 'required' is no list of strings");
        }
        while (!found && json_each(properties, &at, &name, &value)) {
            found = name.len + 2 == element.text.len &&
                    memcmp(name.data, element.text.data + 1, name.len) == 0;
        }
        if (!found) {
            return fail(c, "the schema requires %.*s, which is none of its properties",
                        element.text.len < 60 ? (int)element.text.len : 60, element.text.data);
        }
    }
    return true;
}

/*
 * { then the properties in their order, those that are not required maybe not. Two rows of
 * states: nothing was written yet, or a comma comes first.
 */
static bool object(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    json_value properties = json_member(schema, "properties");
    json_value required = json_member(schema, "required");
    json_value more = json_member(schema, "additionalProperties"), property;
    uint32_t nothing, something = grammar_state(c->g);
    size_t cursor = 0;
    aiq_str name;

    if ((properties.type != JSON_NONE && properties.type != JSON_OBJECT) ||
        properties.count > MAX_PROPERTIES) {
        return fail(c, "the schema's 'properties' is no object, or has more than %d",
                    MAX_PROPERTIES);
    }
    if (properties.count == 0 && more.type != JSON_FALSE) {
        if (!check_required(c, &required, &properties)) {
            return false;
        }
        map(c, more.type == JSON_OBJECT ? &more : NULL, from, to);
        return !c->failed;
    }
    if (!check_required(c, &required, &properties)) {
        return false;
    }
    nothing = call(c, byte(c, from, '{'), SPACE);
    while (!c->failed && json_each(&properties, &cursor, &name, &property)) {
        uint32_t key = grammar_state(c->g), behind = grammar_state(c->g);
        uint32_t next_nothing = grammar_state(c->g), next_something = grammar_state(c->g);

        grammar_skip(c->g, nothing, key);
        grammar_skip(c->g, call(c, byte(c, something, ','), SPACE), key);
        if (!is_required(&required, name)) {
            grammar_skip(c->g, nothing, next_nothing);
            grammar_skip(c->g, something, next_something);
        }
        /* the name between its quotes, as the schema spells it */
        literal(c, key, name.data - 1, name.len + 2, behind);
        member_value(c, behind, &property, next_something);
        nothing = next_nothing;
        something = next_something;
    }
    grammar_bytes(c->g, nothing, '}', '}', to);
    grammar_bytes(c->g, something, '}', '}', to);
    return !c->failed;
}

static bool count_of(compiler *c, const json_value *schema, const char *name, int64_t otherwise,
                     int limit, int64_t *out)
{
    json_value value = json_member(schema, name);

    *out = otherwise;
    if (value.type == JSON_NONE) {
        return true;
    }
    if (!json_int(&value, out) || *out < 0 || *out > limit) {
        return fail(c, "the schema's '%s' is not an integer from 0 to %d", name, limit);
    }
    return true;
}

static bool array(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    json_value items = json_member(schema, "items");
    int64_t least, most;
    uint32_t element;

    if (!count_of(c, schema, "minItems", 0, SCHEMA_MAX_ITEMS, &least) ||
        !count_of(c, schema, "maxItems", -1, SCHEMA_MAX_ITEMS, &most)) {
        return false;
    }
    if (most >= 0 && least > most) {
        return fail(c, "the schema's 'minItems' exceeds 'maxItems'");
    }
    if (items.type == JSON_NONE) {
        element = common(c, VALUE);
    } else {
        element = grammar_rule(c->g);
        compile(c, &items, grammar_start(c->g, element), grammar_end(c->g, element));
    }
    list(c, element, least, most, from, to);
    return !c->failed;
}

static const char *const bounds[] = {[MINIMUM] = "minimum",
                                     [MAXIMUM] = "maximum",
                                     [EXCLUSIVE_MINIMUM] = "exclusiveMinimum",
                                     [EXCLUSIVE_MAXIMUM] = "exclusiveMaximum",
                                     NULL};

static bool read_range(compiler *c, const json_value *schema, number_range *r)
{
    for (number_bound i = MINIMUM; bounds[i] != NULL; i++) {
        json_value value = json_member(schema, bounds[i]);

        if (value.type == JSON_NUMBER) {
            numbers_narrow(r, i, value.text);
        } else if (value.type != JSON_NONE) {
            return fail(c, "the schema's '%s' is not a number", bounds[i]);
        }
    }
    return !numbers_empty(r) ||
           fail(c, "the schema's bounds leave no %s", r->fraction > 0 ? "number" : "integer");
}

/* A rule for each range, as long as there is room for them. */
static bool bounded(compiler *c, const json_value *schema, common_rule all, uint32_t from,
                    uint32_t to)
{
    range_rule r = {.range = numbers_all(all == INTEGER)};

    if (!has_any(schema, bounds)) {
        grammar_call(c->g, from, common(c, all), to);
        return true;
    }
    if (!read_range(c, schema, &r.range)) {
        return false;
    }
    for (size_t i = 0; i < c->n_ranges; i++) {
        if (numbers_equal(&c->ranges[i].range, &r.range)) {
            grammar_call(c->g, from, c->ranges[i].rule, to);
            return true;
        }
    }
    r.rule = grammar_rule(c->g);
    numbers_add(c->g, &r.range, grammar_start(c->g, r.rule), grammar_end(c->g, r.rule));
    grammar_call(c->g, from, r.rule, to);
    if (c->n_ranges < MAX_RANGES) {
        c->ranges[c->n_ranges++] = r;
    }
    return true;
}

/* --- strings --- */

static const char *const of_strings[] = {"pattern", "format", "minLength", "maxLength", NULL};

static bool read_format(compiler *c, const json_value *schema, string_rule *s)
{
    json_value format = json_member(schema, "format");
    aiq_str name;

    if (format.type == JSON_NONE) {
        return true;
    }
    if (format.type != JSON_STRING) {
        return fail(c, "the schema's 'format' is no string");
    }
    name = json_string(c->pool, &format);
    s->format = formats_find(name);
    return s->format != NULL || !c->strict ||
           fail(c, "the schema's format '%.*s' is not supported",
                name.len < 40 ? (int)name.len : 40, name.data);
}

static bool read_string(compiler *c, const json_value *schema, string_rule *s)
{
    json_value expression = json_member(schema, "pattern");
    int64_t least, most;

    if (!count_of(c, schema, "minLength", 0, SCHEMA_MAX_LENGTH, &least) ||
        !count_of(c, schema, "maxLength", STRINGS_NO_MOST, SCHEMA_MAX_LENGTH, &most)) {
        return false;
    }
    if (least > most) {
        return fail(c, "the schema's 'minLength' exceeds 'maxLength'");
    }
    if (expression.type != JSON_NONE && expression.type != JSON_STRING) {
        return fail(c, "the schema's 'pattern' is no string");
    }
    *s = (string_rule){.least = (uint32_t)least, .most = (uint32_t)most};
    s->pattern = expression.type == JSON_STRING ? expression.text : AIQ_STR("");
    return read_format(c, schema, s);
}

/* What a text must match: everything does where the schema does not say. */
static automaton *automaton_of(compiler *c, const string_rule *s)
{
    const json_value spelt = {JSON_STRING, s->pattern, 0};
    pattern *p = pattern_new(c->work);
    automaton *a = NULL;
    char why[120];

    if (s->pattern.len > 0 && !pattern_add(p, json_string(c->pool, &spelt), why, sizeof(why))) {
        fail(c, "the schema's 'pattern': %s", why);
    } else if (s->format != NULL &&
               !pattern_add(p, (aiq_str){s->format, strlen(s->format)}, why, sizeof(why))) {
        fail(c, "the schema's 'format': %s", why);
    } else {
        a = automaton_new(p);
        if (a == NULL) {
            fail(c, "the schema's 'pattern' is too large");
        }
    }
    pattern_free(p);
    return a;
}

static bool make_string(compiler *c, string_rule *s)
{
    automaton *a = automaton_of(c, s);
    const char *why;

    if (a == NULL) {
        return false;
    }
    s->rule = grammar_rule(c->g);
    why = strings_add(c->g, a, s->least, s->most, c->work, grammar_start(c->g, s->rule),
                      grammar_end(c->g, s->rule));
    automaton_free(a);
    return why == NULL || fail(c, "the schema's 'pattern' and lengths %s", why);
}

/* A rule for each kind, as long as there is room for them. */
static bool string(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    string_rule s;

    if (!read_string(c, schema, &s)) {
        return false;
    }
    if (s.pattern.len == 0 && s.format == NULL && s.least == 0 && s.most == STRINGS_NO_MOST) {
        grammar_call(c->g, from, common(c, STRING), to);
        return true;
    }
    for (size_t i = 0; i < c->n_strings; i++) {
        const string_rule *made = &c->strings[i];

        if (made->least == s.least && made->most == s.most && made->format == s.format &&
            aiq_str_eq(made->pattern, s.pattern)) {
            grammar_call(c->g, from, made->rule, to);
            return true;
        }
    }
    if (!make_string(c, &s)) {
        return false;
    }
    grammar_call(c->g, from, s.rule, to);
    if (c->n_strings < MAX_STRINGS) {
        c->strings[c->n_strings++] = s;
    }
    return true;
}

static bool of_type(compiler *c, const json_value *schema, const json_value *type,
                    uint32_t from, uint32_t to)
{
    if (json_string_is(type, "object")) {
        return object(c, schema, from, to);
    }
    if (json_string_is(type, "array")) {
        return array(c, schema, from, to);
    }
    if (json_string_is(type, "string")) {
        return string(c, schema, from, to);
    }
    if (json_string_is(type, "integer")) {
        return bounded(c, schema, INTEGER, from, to);
    }
    if (json_string_is(type, "number")) {
        return bounded(c, schema, NUMBER, from, to);
    }
    if (json_string_is(type, "boolean")) {
        literal(c, from, "true", 4, to);
        literal(c, from, "false", 5, to);
    } else if (json_string_is(type, "null")) {
        literal(c, from, "null", 4, to);
    } else {
        return fail(c, "the schema's type %.*s is unknown",
                    type->text.len < 40 ? (int)type->text.len : 40, type->text.data);
    }
    return true;
}

static bool has_type(const json_value *type, const json_value *value)
{
    static const char *const names[] = {NULL,     "null",   "boolean", "boolean",
                                        "number", "string", "array",   "object"};
    json_value element;
    size_t cursor = 0;
    int64_t i;

    if (type->type == JSON_STRING) {
        return json_string_is(type, names[value->type]) ||
               (json_string_is(type, "integer") && json_int(value, &i));
    }
    while (type->type == JSON_ARRAY && json_each(type, &cursor, NULL, &element)) {
        if (has_type(&element, value)) {
            return true;
        }
    }
    return type->type == JSON_NONE;
}

/* One of these texts, as the schema spells them. */
static bool one_of(compiler *c, const json_value *schema, const json_value *values,
                   uint32_t from, uint32_t to)
{
    json_value type = json_member(schema, "type"), value;
    size_t cursor = 0;
    int n = 0;

    if (values->type != JSON_ARRAY) {
        return fail(c, "the schema's 'enum' is no list");
    }
    while (json_each(values, &cursor, NULL, &value)) {
        if (has_type(&type, &value)) {
            literal(c, from, value.text.data, value.text.len, to);
            n++;
        }
    }
    return n > 0 || fail(c, "the schema's 'enum' has no value of its type");
}

static bool constantly(compiler *c, const json_value *schema, const json_value *value,
                       uint32_t from, uint32_t to)
{
    json_value type = json_member(schema, "type");

    if (!has_type(&type, value)) {
        return fail(c, "the schema's 'const' has not its type");
    }
    literal(c, from, value->text.data, value->text.len, to);
    return true;
}

/* Nothing else says what the value is, but the type that the $ref's target has, too. */
static bool alone(compiler *c, const json_value *schema, const char *keyword,
                  const json_value *target)
{
    static const char *const others[] = {"type",
                                         "properties",
                                         "items",
                                         "enum",
                                         "const",
                                         "$ref",
                                         "required",
                                         "minItems",
                                         "anyOf",
                                         "maxItems",
                                         "minimum",
                                         "maximum",
                                         "exclusiveMinimum",
                                         "exclusiveMaximum",
                                         "pattern",
                                         "format",
                                         "minLength",
                                         "maxLength"};
    json_value type = json_member(schema, "type");
    json_value its = target != NULL ? json_member(target, "type") : (json_value){0};
    bool same = its.type == JSON_STRING && aiq_str_eq(its.text, type.text);

    for (size_t i = same ? 1 : 0; i < sizeof(others) / sizeof(*others); i++) {
        if (strcmp(others[i], keyword) != 0 &&
            json_member(schema, others[i]).type != JSON_NONE) {
            return fail(c, "the schema's '%s' beside '%s' is not supported", keyword,
                        others[i]);
        }
    }
    return true;
}

static bool any_of(compiler *c, const json_value *schema, const json_value *alternatives,
                   uint32_t from, uint32_t to)
{
    json_value alternative;
    size_t cursor = 0;

    if (!alone(c, schema, "anyOf", NULL)) {
        return false;
    }
    if (alternatives->type != JSON_ARRAY || alternatives->count == 0) {
        return fail(c, "the schema's 'anyOf' is no list");
    }
    while (!c->failed && json_each(alternatives, &cursor, NULL, &alternative)) {
        compile(c, &alternative, from, to);
    }
    return !c->failed;
}

/* The element that a pointer's part numbers. */
static json_value element_at(const json_value *list, const char *number)
{
    json_value element = {0};
    size_t cursor = 0;
    char *end;
    long i = strtol(number, &end, 10);

    if (*number < '0' || *number > '9' || *end != '\0') {
        return element;
    }
    while (i >= 0 && json_each(list, &cursor, NULL, &element)) {
        i--;
    }
    return i < 0 ? element : (json_value){0};
}

/* What a pointer ("#/$defs/x", "#/anyOf/0") leads to; JSON_NONE: nothing. */
static json_value follow(const compiler *c, aiq_str pointer)
{
    json_value at = *c->root;
    const char *p = pointer.data + 1, *end = pointer.data + pointer.len;

    while (p < end && at.type != JSON_NONE) {
        char name[128];
        size_t n = 0;

        for (p++; p < end && *p != '/' && n + 1 < sizeof(name); p++) {
            bool escape = *p == '~' && p + 1 < end;

            name[n++] = escape ? (p[1] == '0' ? '~' : '/') : *p;
            p += escape;
        }
        name[n] = '\0';
        at = at.type == JSON_ARRAY ? element_at(&at, name) : json_member(&at, name);
    }
    return at;
}

static bool refer(compiler *c, const json_value *schema, const json_value *ref, uint32_t from,
                  uint32_t to)
{
    aiq_str pointer = json_string(c->pool, ref); /* may be escaped otherwise than the names */
    json_value target;
    uint32_t rule;

    if (pointer.len == 0 || pointer.data[0] != '#' ||
        (pointer.len > 1 && pointer.data[1] != '/')) {
        return fail(c, "the schema's '$ref' does not begin with #/");
    }
    target = follow(c, pointer);
    if (!alone(c, schema, "$ref", &target)) {
        return false;
    }
    for (size_t i = 0; i < c->n_refs; i++) {
        if (aiq_str_eq(c->refs[i].pointer, pointer)) {
            grammar_call(c->g, from, c->refs[i].rule, to);
            return true;
        }
    }
    if (target.type == JSON_NONE || c->n_refs == MAX_REFS) {
        return fail(c, "the schema's '$ref' leads nowhere: %.*s",
                    pointer.len < 60 ? (int)pointer.len : 60, pointer.data);
    }
    rule = grammar_rule(c->g);
    c->refs[c->n_refs++] = (reference){pointer, rule};
    grammar_call(c->g, from, rule, to);
    return compile(c, &target, grammar_start(c->g, rule), grammar_end(c->g, rule));
}

static bool of_types(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    json_value type = json_member(schema, "type"), element;
    size_t cursor = 0;

    switch (type.type) {
    case JSON_STRING:
        return of_type(c, schema, &type, from, to);
    case JSON_ARRAY:
        while (!c->failed && json_each(&type, &cursor, NULL, &element)) {
            of_type(c, schema, &element, from, to);
        }
        return !c->failed;
    case JSON_NONE:
        if (has_any(schema, (const char *const[]){"properties", "required", NULL})) {
            return object(c, schema, from, to);
        }
        if (has_any(schema, (const char *const[]){"items", "minItems", "maxItems", NULL})) {
            return array(c, schema, from, to);
        }
        if (has_any(schema, bounds)) {
            return bounded(c, schema, NUMBER, from, to);
        }
        if (has_any(schema, of_strings)) {
            return string(c, schema, from, to);
        }
        grammar_call(c->g, from, common(c, VALUE), to);
        return true;
    default:
        return fail(c, "the schema's 'type' is neither a string nor a list");
    }
}

static bool compile_object(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    json_value ref = json_member(schema, "$ref"), any = json_member(schema, "anyOf");
    json_value values = json_member(schema, "enum"), constant = json_member(schema, "const");

    if (!check_keywords(c, schema)) {
        return false;
    }
    if (ref.type != JSON_NONE) {
        return refer(c, schema, &ref, from, to);
    }
    if (any.type != JSON_NONE) {
        return any_of(c, schema, &any, from, to);
    }
    if ((constant.type != JSON_NONE || values.type != JSON_NONE) &&
        (has_any(schema, bounds) || has_any(schema, of_strings))) {
        return fail(c, "the schema's bounds beside '%s' are not supported",
                    constant.type != JSON_NONE ? "const" : "enum");
    }
    if (constant.type != JSON_NONE) {
        return constantly(c, schema, &constant, from, to);
    }
    return values.type != JSON_NONE ? one_of(c, schema, &values, from, to)
                                    : of_types(c, schema, from, to);
}

/* Adds all texts that meet the schema between two states. */
static bool compile(compiler *c, const json_value *schema, uint32_t from, uint32_t to)
{
    bool ok;

    if (c->failed || ++c->depth > MAX_NESTING) {
        return fail(c, "the schema is nested too deep");
    }
    if (grammar_full(c->g)) {
        return fail(c, "the schema is too large");
    }
    if (schema->type == JSON_TRUE) {
        grammar_call(c->g, from, common(c, VALUE), to);
        ok = true;
    } else if (schema->type == JSON_OBJECT) {
        ok = compile_object(c, schema, from, to);
    } else {
        ok = fail(c, "a schema must be an object");
    }
    c->depth--;
    return ok;
}

bool schema_add(grammar *g, aiq_str schema, bool strict, size_t *work, uint32_t from,
                uint32_t to, char *err, size_t errlen)
{
    const json_value value = {JSON_OBJECT, schema, 1};
    aiq_pool *pool = aiq_pool_new();
    compiler c = {.g = g,
                  .pool = pool,
                  .root = &value,
                  .err = err,
                  .errlen = errlen,
                  .strict = strict,
                  .work = work};
    uint32_t root = grammar_rule(g);
    bool ok;

    if (schema.len > MAX_TEXT) {
        fail(&c, "the schema has more than %zu bytes", MAX_TEXT);
    }
    c.refs[c.n_refs++] = (reference){AIQ_STR("#"), root};
    ok = compile(&c, &value, grammar_start(g, root), grammar_end(g, root));
    if (ok) {
        grammar_call(g, from, root, to);
    }
    aiq_pool_free(pool);
    return ok;
}

grammar *schema_compile(const char *text, size_t len, bool strict, char *err, size_t errlen)
{
    grammar *g = grammar_new();
    uint32_t root = grammar_rule(g);
    size_t work = SCHEMA_WORK;
    const char *why;

    if (schema_add(g, (aiq_str){text, len}, strict, &work, grammar_start(g, root),
                   grammar_end(g, root), err, errlen)) {
        why = grammar_check(g);
        if (why == NULL) {
            return g;
        }
        snprintf(err, errlen, "the schema cannot be met: %s", why);
    }
    grammar_free(g);
    return NULL;
}
