/*
 * Answers bound by a schema. The property: whatever a model says, by any seed, what comes out
 * parses and meets the schema. The model here is a source of random logits over a vocabulary
 * of bytes and a few longer tokens; who checks is a validator of its own, on jansson.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "infer/sampler.h"
#include "infer/token_mask.h"
#include "schema_text.h"
#include "tiny_model.h"

enum { MAX_ANSWER = 4000, TALKATIVE = 150, SEEDS = 40 };

/* --- strings by hand --- */

#define POINT                                                                                  \
    "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"},"                       \
    "\"y\":{\"type\":[\"number\",\"null\"]}},\"required\":[\"x\"],"                            \
    "\"additionalProperties\":false}"
#define TREE                                                                                   \
    "{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"string\"},"   \
    "\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/node\"}}},"                    \
    "\"required\":[\"v\"]}},\"$ref\":\"#/$defs/node\"}"

#define SAFE_MAX 9007199254740991
#define SAFE     "{\"type\":\"integer\",\"minimum\":-9007199254740991,\"maximum\":9007199254740991}"

static void what_meets_a_schema(void **state)
{
    static const struct {
        const char *schema, *text;
        bool meets;
    } cases[] = {
        {POINT, "{\"x\":1}", true},
        {POINT, "{\"x\":-10,\"y\":1.5e-7}", true},
        {POINT, "{ \"x\": 1, \"y\": null }", true},
        {POINT, "{\n  \"x\": 1,\n  \"y\": 2\n}", true},
        {POINT, "{}", false},
        {POINT, "{\"y\":1}", false},
        {POINT, "{\"x\":1.5}", false},
        {POINT, "{\"x\":01}", false},
        {POINT, "{\"x\":1,}", false},
        {POINT, "{\"x\":1,\"z\":1}", false},
        {POINT, "{\"x\":1}}", false},
        {"{\"type\":\"object\"}", "{\"a\":[1,{\"b\":\"\\u00e9\\n\xc3\xa9\"}],\"c\":true}",
         true},
        {"{\"type\":\"object\"}", "[]", false},
        {"{\"type\":\"object\"}", "{\"a\":\"\x01\"}", false},
        {"{\"type\":\"object\"}", "{\"a\":\"\xff\"}", false},
        {"{\"type\":\"object\"}", "{\"a\":\"\\ud800\"}", false},
        {"{\"type\":\"string\"}", "\"\\ud83d\\uDE80\\ud7ff\"", true},
        {"{\"type\":\"string\"}", "\"\\ud83d\\ud83d\"", false},
        {"{\"type\":\"string\"}", "\"\\ud83dx\"", false},
        {"{\"type\":\"string\"}", "\"\\ude80\"", false},
        {"{\"type\":\"integer\"}", "1234567890123456789", true},
        {"{\"type\":\"integer\"}", "-9223372036854775807", true},
        {"{\"type\":\"integer\"}", "9223372036854775808", false},
        {"{\"type\":\"integer\"}", "9300000000000000000", false},
        {"{\"type\":\"number\"}", "9199999999999999999.5", true},
        {"{\"type\":\"number\"}", "10000000000000000000", false},
        {"{\"type\":\"object\"}", "{\"a\":\"\\x\"}", false},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", "{\"q\":1}",
         true},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
         "{\"q\":\"\"}", false},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{ }", true},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{\"a\":1}", false},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}", "[]", true},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}", "[true, false,true]", true},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}", "[1]", false},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":3}", "[1]", false},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":3}", "[1,2]", true},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":3}", "[1,2,3]", true},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":3}", "[1,2,3,4]", false},
        {"{\"type\":\"array\",\"minItems\":2}", "[1]", false},
        {"{\"type\":\"array\",\"minItems\":2}", "[1,2,3,4,5]", true},
        {"{\"type\":\"array\",\"maxItems\":0}", "[]", true},
        {"{\"type\":\"array\",\"maxItems\":0}", "[1]", false},
        {"{\"enum\":[\"a\",\"ab\",3,null]}", "\"ab\"", true},
        {"{\"enum\":[\"a\",\"ab\",3,null]}", "null", true},
        {"{\"enum\":[\"a\",\"ab\",3,null]}", "\"abc\"", false},
        {"{\"type\":\"string\",\"enum\":[\"a\",3]}", "3", false},
        {"{\"const\":{\"a\":1}}", "{\"a\":1}", true},
        {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\"}]}", "[\"\"]", true},
        {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\"}]}", "1", false},
        {TREE, "{\"v\":\"a\",\"kids\":[{\"v\":\"b\"},{\"v\":\"c\",\"kids\":[]}]}", true},
        {TREE, "{\"v\":\"a\",\"kids\":[{\"kids\":[]}]}", false},
        /* a name and what refers to it may be escaped in two ways */
        {"{\"$defs\":{\"\xc3\xb6\":{\"type\":\"null\"}},\"$ref\":\"#/$defs/\\u00f6\"}", "null",
         true},
        {"{\"$defs\":{\"\\u00f6\":{\"type\":\"null\"}},\"$ref\":\"#/$defs/\\u00f6\"}", "null",
         true},
        {"{\"anyOf\":[{\"const\":1},{\"type\":\"array\",\"items\":{\"$ref\":\"#/anyOf/0\"}}]}",
         "[1]", true},
        {"{\"anyOf\":[{\"const\":1},{\"type\":\"array\",\"items\":{\"$ref\":\"#/anyOf/0\"}}]}",
         "[[]]", false},
        {"{\"$defs\":{\"a\":{\"type\":\"null\"}},\"type\":\"null\",\"$ref\":\"#/$defs/a\"}",
         "null", true},
        {"{\"minItems\":1}", "[]", false},
        {"{\"minItems\":1}", "[{}]", true},
        {"{}", "12", true},
        {"{\"description\":\"anything\"}", "[null]", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        if (matches(cases[i].schema, cases[i].text) != cases[i].meets) {
            fail_msg("%s: %s", cases[i].schema, cases[i].text);
        }
    }
}

static void in_range(const char *schema, int64_t least, int64_t most, int64_t from, int64_t to)
{
    matcher *m;
    grammar *g = compile(schema);
    char text[32];

    assert_non_null(g);
    m = matcher_new(g);
    for (int64_t n = from; n <= to; n++) {
        int32_t at = MATCHER_START;

        snprintf(text, sizeof(text), "%lld", (long long)n);
        for (const char *p = text; *p != '\0' && at != MATCHER_DEAD; p++) {
            at = matcher_next(m, at, (uint8_t)*p);
        }
        if ((at != MATCHER_DEAD && matcher_complete(m, at)) != (n >= least && n <= most)) {
            fail_msg("%s: %s", schema, text);
        }
    }
    matcher_free(m);
}

/* Each integer of a range and no other, around every number of digits. */
static void integers_keep_their_bounds(void **state)
{
    static const int64_t ranges[][2] = {{0, 0},      {1, 5},      {0, 100},    {7, 1000},
                                        {-1, 1},     {-128, 127}, {-205, -7},  {99, 101},
                                        {-10, 1203}, {88, 88},    {1000, 1999}};
    char schema[160];

    (void)state;
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        long long least = ranges[i][0], most = ranges[i][1];

        snprintf(schema, sizeof(schema),
                 "{\"type\":\"integer\",\"minimum\":%lld,\"maximum\":%lld}", least, most);
        in_range(schema, least, most, -2100, 2100);
        snprintf(schema, sizeof(schema),
                 "{\"type\":[\"null\",\"integer\"],\"exclusiveMinimum\":%lld,"
                 "\"exclusiveMaximum\":%lld,\"minimum\":-5000}",
                 least - 1, most + 1);
        in_range(schema, least, most, -2100, 2100);
    }
    /* what zod says of every integer: those that are exact in JavaScript */
    in_range(SAFE, -SAFE_MAX, SAFE_MAX, SAFE_MAX - 100, SAFE_MAX + 100);
    in_range(SAFE, -SAFE_MAX, SAFE_MAX, -SAFE_MAX - 100, -SAFE_MAX + 100);
    in_range(SAFE, -SAFE_MAX, SAFE_MAX, -100, 100);
    in_range("{\"type\":\"integer\",\"minimum\":3}", 3, INT64_MAX, INT64_MAX - 10,
             INT64_MAX - 1);
    assert_true(matches("{\"type\":\"integer\",\"minimum\":3}", "9223372036854775807"));
    assert_false(matches("{\"type\":\"integer\",\"minimum\":3}", "9223372036854775808"));
    assert_false(matches(SAFE, "01"));
    assert_false(matches(SAFE, "-0"));
    assert_false(matches(SAFE, "1.0"));
    assert_false(matches(SAFE, ""));
}

/* Many of them have one rule, and different ones fit, too. */
static void many_integers(void **state)
{
    static char schema[64 * 1024];
    size_t n = (size_t)sprintf(schema, "{\"type\":\"object\",\"properties\":{");

    (void)state;
    for (int i = 0; i < 400; i++) {
        n += (size_t)sprintf(schema + n, "%s\"p%d\":%s", i > 0 ? "," : "", i, SAFE);
    }
    sprintf(schema + n, "}}");
    assert_true(matches(schema, "{\"p7\":1,\"p399\":-20}"));
}

static void what_we_cannot_is_named(void **state)
{
    static const char *const cases[][2] = {
        {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}",
         "the schema's 'minLength' exceeds 'maxLength'"},
        {"{\"type\":\"string\",\"minLength\":-1}",
         "the schema's 'minLength' is not an integer from 0 to 10000"},
        {"{\"type\":\"string\",\"maxLength\":10001}",
         "the schema's 'maxLength' is not an integer from 0 to 10000"},
        {"{\"type\":\"string\",\"pattern\":1}", "the schema's 'pattern' is no string"},
        {"{\"anyOf\":[{}],\"pattern\":\"a\"}",
         "the schema's 'anyOf' beside 'pattern' is not supported"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"oneOf\":[]}}}",
         "the schema's keyword 'oneOf' is not supported"},
        {"{\"type\":\"number\",\"minimum\":\"0\"}", "the schema's 'minimum' is not a number"},
        {"{\"type\":\"number\",\"minimum\":0,\"exclusiveMinimum\":true}",
         "the schema's 'exclusiveMinimum' is not a number"},
        {"{\"type\":\"number\",\"minimum\":0.5,\"maximum\":0.4999}",
         "the schema's bounds leave no number"},
        {"{\"type\":\"number\",\"minimum\":1e300}", "the schema's bounds leave no number"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1e-300}",
         "the schema's bounds leave no number"},
        {"{\"type\":\"integer\",\"minimum\":0.2,\"maximum\":0.8}",
         "the schema's bounds leave no integer"},
        {"{\"type\":\"integer\",\"minimum\":9223372036854775808}",
         "the schema's bounds leave no integer"},
        {"{\"type\":\"integer\",\"enum\":[1],\"minimum\":2}",
         "the schema's bounds beside 'enum' are not supported"},
        {"{\"anyOf\":[{}],\"minimum\":2}",
         "the schema's 'anyOf' beside 'minimum' is not supported"},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":1,\"maximum\":1}",
         "the schema's bounds leave no integer"},
        {"{\"type\":\"text\"}", "the schema's type \"text\" is unknown"},
        {"{\"type\":7}", "the schema's 'type' is neither a string nor a list"},
        {"{\"type\":\"array\",\"items\":false}", "a schema must be an object"},
        {"{\"type\":\"array\",\"minItems\":2000}",
         "the schema's 'minItems' is not an integer from 0 to 1000"},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":1}",
         "the schema's 'minItems' exceeds 'maxItems'"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}},\"required\":[\"b\"]}",
         "the schema requires \"b\", which is none of its properties"},
        {"{\"$ref\":\"#/$defs/x\"}", "the schema's '$ref' leads nowhere: #/$defs/x"},
        {"{\"$ref\":\"http://x/\"}", "the schema's '$ref' does not begin with #/"},
        {"{\"$ref\":\"#\"}",
         "the schema cannot be met: it refers to itself without anything between"},
        {"{\"$defs\":{\"a\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/b\"}]},"
         "\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}",
         "the schema cannot be met: it refers to itself without anything between"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
         "the schema cannot be met: it never ends"},
        {"{\"$ref\":\"#/anyOf/1\",\"anyOf\":[{}]}",
         "the schema's '$ref' beside 'anyOf' is not supported"},
        {"{\"items\":{\"$ref\":\"#/x/1\"},\"x\":[{}]}",
         "the schema's keyword 'x' is not supported"},
        {"{\"items\":{\"$ref\":\"#/examples/1\"},\"examples\":[{}]}",
         "the schema's '$ref' leads nowhere: #/examples/1"},
        {"{\"$defs\":{\"a\":{\"type\":\"array\"}},\"minItems\":1,\"$ref\":\"#/$defs/a\"}",
         "the schema's '$ref' beside 'minItems' is not supported"},
        {"{\"$defs\":{\"a\":{\"type\":\"array\"}},\"type\":\"null\",\"$ref\":\"#/$defs/a\"}",
         "the schema's '$ref' beside 'type' is not supported"},
        {"{\"anyOf\":[{}],\"maxItems\":1}",
         "the schema's 'anyOf' beside 'maxItems' is not supported"},
        {"{\"type\":\"string\",\"const\":1}", "the schema's 'const' has not its type"},
        {"{\"required\":[\"a\"]}",
         "the schema requires \"a\", which is none of its properties"},
        {"{\"type\":\"string\",\"enum\":[1]}", "the schema's 'enum' has no value of its type"},
        {"{\"anyOf\":[{}],\"type\":\"string\"}",
         "the schema's 'anyOf' beside 'type' is not supported"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_null(compile(cases[i][0]));
        assert_string_equal(err, cases[i][1]);
    }
}

/* Where a value would be nested too deep it is not begun: what was begun can end. */
static void whatever_begins_can_end(void **state)
{
    static const char link[] = "{\"v\":[[true]],\"next\":";
    matcher *m = matcher_new(compile(
        "{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
        "\"array\",\"items\":{\"type\":\"array\",\"minItems\":1},\"minItems\":1},\"next\":"
        "{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":"
        "[\"v\",\"next\"]}},\"$ref\":\"#/$defs/node\"}"));
    int32_t at = MATCHER_START, next;
    int links = 0;

    (void)state;
    while ((next = matcher_next(m, at, '{')) != MATCHER_DEAD) {
        at = next;
        for (const char *p = link + 1; *p != '\0'; p++) {
            at = matcher_next(m, at, (uint8_t)*p);
            assert_int_not_equal(at, MATCHER_DEAD);
        }
        links++;
    }
    assert_in_range(links, 20, GRAMMAR_MAX_DEPTH);
    for (const char *p = "null"; *p != '\0'; p++) {
        at = matcher_next(m, at, (uint8_t)*p);
        assert_int_not_equal(at, MATCHER_DEAD);
    }
    for (; links > 0; links--) {
        at = matcher_next(m, at, '}');
        assert_int_not_equal(at, MATCHER_DEAD);
    }
    assert_true(matcher_finished(m, at));
    matcher_free(m);
}

/* What tells alternatives apart may come behind what is in them: they are gone through
 * together, not each combination of them by itself. */
static void alternatives_may_begin_alike(void **state)
{
    enum { KINDS = 10, DEEP = 25 };
    char schema[2000], text[1000], *p = schema, *t = text;
    matcher *m;
    int32_t at = MATCHER_START;

    (void)state;
    p += sprintf(p, "{\"anyOf\":[{\"type\":\"null\"}");
    for (int i = 0; i < KINDS; i++) {
        p += sprintf(p,
                     ",{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"},\"kind\":{"
                     "\"const\":%d}},\"required\":[\"a\",\"kind\"]}",
                     i);
    }
    sprintf(p, "]}");
    for (int i = 0; i < DEEP; i++) {
        t += sprintf(t, "{\"a\":");
    }
    t += sprintf(t, "null");
    for (int i = 0; i < DEEP; i++) {
        t += sprintf(t, ",\"kind\":%d}", i * 7 % KINDS);
    }
    assert_true(matches(schema, text));
    t[-2] = 'x';
    assert_false(matches(schema, text));
    t[-2] = '0';
    m = matcher_new(compile(schema));
    for (t = text; *t != '\0'; t++) {
        int32_t *const kept[] = {&at};

        at = matcher_next(m, at, (uint8_t)*t);
        assert_int_not_equal(at, MATCHER_DEAD);
        matcher_trim(m, kept, 1);
    }
    assert_true(matcher_finished(m, at));
    matcher_free(m);
}

static void large_schemas_are_refused(void **state)
{
    char *schema = malloc(200000);
    size_t n = (size_t)sprintf(schema, "{\"enum\":[");

    (void)state;
    while (n < 60000) {
        n += (size_t)sprintf(schema + n, "\"%zu\",", n);
    }
    sprintf(schema + n, "0]}");
    assert_null(compile(schema));
    assert_string_equal(err, "the schema cannot be met: it is too large");
    n = 0;
    for (int i = 0; i < 100; i++) {
        n += (size_t)sprintf(schema + n, "{\"type\":\"array\",\"items\":");
    }
    n += (size_t)sprintf(schema + n, "{}");
    memset(schema + n, '}', 100);
    schema[n + 100] = '\0';
    assert_null(compile(schema));
    assert_string_equal(err, "the schema is nested too deep");
    free(schema);
}

/* --- a validator --- */

static json_t *follow(json_t *root, const char *ref)
{
    char *copy = strdup(ref), *rest = copy, *name;
    json_t *at = root;

    strsep(&rest, "/");
    while ((name = strsep(&rest, "/")) != NULL) {
        at = json_object_get(at, name);
    }
    free(copy);
    return at;
}

static bool is_type(json_t *v, const char *type)
{
    return strcmp(type, "object") == 0    ? json_is_object(v)
           : strcmp(type, "array") == 0   ? json_is_array(v)
           : strcmp(type, "string") == 0  ? json_is_string(v)
           : strcmp(type, "integer") == 0 ? json_is_integer(v)
           : strcmp(type, "number") == 0  ? json_is_number(v)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(v)
                                          : json_is_null(v);
}

static bool valid(json_t *root, json_t *schema, json_t *v)
{
    json_t *type = json_object_get(schema, "type"), *any = json_object_get(schema, "anyOf"), *x;
    json_t *properties = json_object_get(schema, "properties");
    json_t *more = json_object_get(schema, "additionalProperties");
    const char *ref = json_string_value(json_object_get(schema, "$ref")), *name;
    bool ok = type == NULL || (json_is_string(type) && is_type(v, json_string_value(type)));
    size_t i;

    if (ref != NULL) {
        return valid(root, follow(root, ref), v);
    }
    json_array_foreach(type, i, x)
    {
        ok = ok || is_type(v, json_string_value(x));
    }
    if ((x = json_object_get(schema, "const")) != NULL) {
        ok = ok && json_equal(x, v);
    }
    if (json_object_get(schema, "enum") != NULL) {
        bool found = false;

        json_array_foreach(json_object_get(schema, "enum"), i, x)
        {
            found = found || json_equal(x, v);
        }
        ok = ok && found;
    }
    if (any != NULL) {
        bool found = false;

        json_array_foreach(any, i, x)
        {
            found = found || valid(root, x, v);
        }
        ok = ok && found;
    }
    if (json_is_array(v)) {
        json_t *least = json_object_get(schema, "minItems");
        json_t *most = json_object_get(schema, "maxItems"),
               *items = json_object_get(schema, "items");

        ok = ok && (least == NULL || json_array_size(v) >= (size_t)json_integer_value(least)) &&
             (most == NULL || json_array_size(v) <= (size_t)json_integer_value(most));
        json_array_foreach(v, i, x)
        {
            ok = ok && (items == NULL || valid(root, items, x));
        }
    }
    if (json_is_object(v)) {
        json_array_foreach(json_object_get(schema, "required"), i, x)
        {
            ok = ok && json_object_get(v, json_string_value(x)) != NULL;
        }
        json_object_foreach(v, name, x)
        {
            json_t *of = json_object_get(properties, name);

            ok = ok && (of != NULL             ? valid(root, of, x)
                        : json_is_false(more)  ? false
                        : json_is_object(more) ? valid(root, more, x)
                                               : true);
        }
    }
    return ok;
}

/* --- random answers --- */

typedef struct {
    uint8_t *file;
    gguf *g;
    tokenizer *t;
    token_order *o;
} vocabulary;

static vocabulary open_vocabulary(void)
{
    tiny_model tm = {0};
    gw w = {0};
    vocabulary v;
    size_t size;

    tiny_vocab(&w, &tm);
    v.file = gw_finish(&w, &size);
    v.g = gguf_parse(v.file, size, err, sizeof(err));
    v.t = tokenizer_new(v.g, err, sizeof(err));
    assert_non_null(v.t);
    v.o = token_order_new(v.t);
    return v;
}

static void close_vocabulary(vocabulary v)
{
    token_order_free(v.o);
    tokenizer_free(v.t);
    gguf_close(v.g);
    free(v.file);
}

/* Random logits; from TALKATIVE tokens on, those that close something are likelier. */
static void random_logits(float *logits, int n, uint64_t *seed)
{
    for (int i = 0; i < TINY_VOCAB; i++) {
        logits[i] = 4 * tiny_random(seed);
    }
    if (n > TALKATIVE) {
        for (const char *p = "\"]}:,"; *p != '\0'; p++) {
            logits[(uint8_t)*p] += 40 - (float)(p - "\"]}:,");
        }
        logits['1'] += 20;
    }
    logits[TINY_END_OF_TEXT] += n > TALKATIVE ? 100 : 0;
}

static void trim(matcher *m, int32_t *at)
{
    int32_t *const kept[] = {at};

    if (matcher_is_large(m)) {
        matcher_trim(m, kept, 1);
    }
}

static void answer_once(const vocabulary *v, const char *schema, json_t *root, uint64_t seed)
{
    static sampler_candidate scratch[TINY_VOCAB];
    static uint32_t counts[TINY_VOCAB];
    static char text[MAX_ANSWER * 16];
    matcher *m = matcher_new(compile(schema));
    sampler s = {.temperature = seed % 3 == 0 ? 0 : 1, .state = seed};
    float logits[TINY_VOCAB];
    size_t len = 0, n;
    int32_t at = MATCHER_START, id;
    json_error_t why;
    json_t *got;

    for (int i = 0; !matcher_finished(m, at); i++) {
        trim(m, &at);
        sampler_context context = {.mask = token_mask(v->o, m, at)};

        assert_true(i < MAX_ANSWER);
        random_logits(logits, i, &seed);
        id = sampler_pick(&s, &context, logits, TINY_VOCAB, scratch, counts);
        assert_in_range(id, 0, TINY_VOCAB - 1);
        if (tokenizer_is_end(v->t, id)) {
            assert_true(matcher_complete(m, at));
            break;
        }
        const char *piece = tokenizer_piece(v->t, id, &n);
        assert_true(n > 0);
        for (size_t k = 0; k < n; k++) {
            at = matcher_next(m, at, (uint8_t)piece[k]);
            assert_int_not_equal(at, MATCHER_DEAD);
        }
        memcpy(text + len, piece, n);
        len += n;
    }
    /* \u0000 is JSON, but jansson must be asked for it */
    got = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (got == NULL || !valid(root, root, got)) {
        fail_msg("%s: %.*s: %s", schema, (int)len, text, got == NULL ? why.text : "invalid");
    }
    json_decref(got);
    matcher_free(m);
}

static void answers_meet_their_schema(void **state)
{
    static const char *const schemas[] = {
        POINT,
        TREE,
        "{\"type\":\"object\"}",
        "{\"type\":\"array\",\"items\":{\"type\":\"array\",\"maxItems\":2},\"minItems\":1}",
        "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"kind\":{"
        "\"enum\":"
        "[\"the\",\"12\",\"other\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":"
        "\"string\"},"
        "\"maxItems\":3},\"of\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},"
        "\"required\":[\"name\",\"kind\"]}",
        "{\"type\":\"object\",\"additionalProperties\":{\"type\":[\"integer\",\"boolean\"]}}",
        "{\"anyOf\":[{\"const\":\"the\"},{\"type\":\"number\"},{\"type\":\"string\"}]}",
    };
    vocabulary v = open_vocabulary();

    (void)state;
    for (size_t i = 0; i < sizeof(schemas) / sizeof(*schemas); i++) {
        json_t *root = json_loads(schemas[i], 0, NULL);

        assert_non_null(root);
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            answer_once(&v, schemas[i], root, seed * 7919);
        }
        json_decref(root);
    }
    close_vocabulary(v);
}

/* A place means the same after its matcher's tables began anew. */
static void trimming_changes_nothing(void **state)
{
    matcher *m = matcher_new(compile("{\"type\":\"array\"}"));
    char text[64];
    int32_t at = MATCHER_START;

    (void)state;
    for (int i = 0; i < 40; i++) {
        at = matcher_next(m, at, '[');
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(text, sizeof(text), "%s[%d,{\"k%d\":[", i > 0 ? "," : "", i, i);
        for (const char *p = text; *p != '\0'; p++) {
            at = matcher_next(m, at, (uint8_t)*p);
            assert_int_not_equal(at, MATCHER_DEAD);
        }
        trim(m, &at);
        for (const char *p = "]}]"; *p != '\0'; p++) {
            at = matcher_next(m, at, (uint8_t)*p);
        }
        trim(m, &at);
    }
    for (int i = 0; i < 40; i++) {
        assert_false(matcher_complete(m, at));
        at = matcher_next(m, at, ']');
    }
    assert_true(matcher_finished(m, at));
    matcher_free(m);
}

/* What a mask costs over a real vocabulary: told, not asserted. */
static void cost_of_a_mask(void **state)
{
    static const char text[] = "{\"v\": \"caf\xc3\xa9 \\n x\", \"kids\": [{\"v\": \"b\"}]}";
    gguf *g = gguf_open("../shared/data/ggml-vocab/ggml-vocab-falcon.gguf", err, sizeof(err));
    matcher *m = matcher_new(compile(TREE));
    double worst = 0, sum = 0;
    struct timespec a, b;
    token_order *o;
    tokenizer *t;
    int32_t at;

    (void)state;
    if (g == NULL) {
        matcher_free(m);
        skip();
    }
    t = tokenizer_new(g, err, sizeof(err));
    o = token_order_new(t);
    for (int round = 0; round < 2; round++) {
        at = MATCHER_START;
        sum = worst = 0;
        for (const char *p = text; *p != '\0'; p++) {
            clock_gettime(CLOCK_MONOTONIC, &a);
            token_mask(o, m, at);
            clock_gettime(CLOCK_MONOTONIC, &b);
            double ms =
                (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
            worst = ms > worst ? ms : worst;
            sum += ms;
            at = matcher_next(m, at, (uint8_t)*p);
        }
        print_message("%u tokens, %s: %.3f ms each, at most %.3f\n", tokenizer_n_vocab(t),
                      round == 0 ? "new places" : "known places", sum / (sizeof(text) - 1),
                      worst);
    }
    assert_true(matcher_finished(m, at));
    matcher_free(m);
    token_order_free(o);
    tokenizer_free(t);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_meets_a_schema),
        cmocka_unit_test(integers_keep_their_bounds),
        cmocka_unit_test(many_integers),
        cmocka_unit_test(what_we_cannot_is_named),
        cmocka_unit_test(whatever_begins_can_end),
        cmocka_unit_test(alternatives_may_begin_alike),
        cmocka_unit_test(large_schemas_are_refused),
        cmocka_unit_test(answers_meet_their_schema),
        cmocka_unit_test(trimming_changes_nothing),
        cmocka_unit_test(cost_of_a_mask),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
