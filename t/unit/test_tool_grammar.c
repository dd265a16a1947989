/* What a model may say that calls tools, in its family's format. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "infer/tool_grammar.h"
#include "tiny_model.h"

#define SCHEMA                                                                                 \
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"}},\"required\":[\"a\"]," \
    "\"additionalProperties\":false}"

static const tool_shape tools[] = {
    {{"f", 1}, {SCHEMA, sizeof(SCHEMA) - 1}, true},
    {{"any", 3}, {"", 0}, false},
};

static char err[200];

typedef struct {
    uint8_t *file;
    gguf *g;
    tokenizer *t;
} vocab;

/* control: NULL, or a mark that is a control token. */
static vocab open_vocab(const char *control)
{
    tiny_model tm = {.control = control};
    gw w = {0};
    vocab v;
    size_t size;

    tiny_vocab(&w, &tm);
    v.file = gw_finish(&w, &size);
    v.g = gguf_parse(v.file, size, err, sizeof(err));
    assert_non_null(v.g);
    v.t = tokenizer_new(v.g, err, sizeof(err));
    assert_non_null(v.t);
    return v;
}

static void close_vocab(vocab v)
{
    tokenizer_free(v.t);
    gguf_close(v.g);
    free(v.file);
}

static tool_language language(const vocab *v, tool_format format)
{
    return (tool_language){
        .format = format, .tokenizer = v->t, .tools = tools, .n = 2, .required = true};
}

/* Is the text of the language? ~ stands for GRAMMAR_TOKEN. */
static bool has(const tool_language *l, const char *text)
{
    grammar *g = tool_grammar_new(l, err, sizeof(err));
    int32_t at = MATCHER_START;
    matcher *m;
    bool complete;

    if (g == NULL) {
        fail_msg("%s", err);
    }
    m = matcher_new(g);
    for (; *text != '\0' && at != MATCHER_DEAD; text++) {
        at = matcher_next(m, at, *text == '~' ? GRAMMAR_TOKEN : (uint8_t)*text);
    }
    complete = at != MATCHER_DEAD && matcher_complete(m, at);
    matcher_free(m);
    return complete;
}

#define F      "{\"name\": \"f\", \"arguments\": {\"a\": true}}"
#define ANY    "{\"name\": \"any\", \"arguments\": {\"x\": [1, {}]}}"
#define HERMES "<tool_call>\n" F "\n</tool_call>"

static void each_format(void **state)
{
    static const struct {
        tool_format format;
        const char *one, *two;
    } cases[] = {
        {TOOL_HERMES, HERMES, HERMES "\n<tool_call>\n" ANY "\n</tool_call>"},
        {TOOL_MISTRAL, "[TOOL_CALLS][" F "]", "[TOOL_CALLS] [" F ", " ANY "]"},
        {TOOL_MISTRAL_NAMED, "[TOOL_CALLS]f[ARGS]{\"a\": false}",
         "[TOOL_CALLS]any[ARGS]{}[TOOL_CALLS]f[ARGS]{\"a\": true}"},
        {TOOL_LLAMA, "{\"name\": \"f\", \"parameters\": {\"a\": true}}", NULL},
        {TOOL_PHI, "<|tool_call|>[" ANY "]<|/tool_call|>",
         "<|tool_call|>[" ANY ", " F "]<|/tool_call|>"},
    };
    vocab v = open_vocab(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        tool_language l = language(&v, cases[i].format);

        assert_true(has(&l, cases[i].one));
        assert_true(cases[i].two == NULL || has(&l, cases[i].two));
        assert_false(has(&l, "text"));
        assert_false(has(&l, ""));
        l.one = true;
        assert_true(has(&l, cases[i].one));
        assert_false(cases[i].two != NULL && has(&l, cases[i].two));
        l.required = false;
        assert_true(has(&l, cases[i].one));
        assert_true(has(&l, "text, even {\"name\": in it"));
    }
    close_vocab(v);
}

static void schemas_hold(void **state)
{
    static const char *const wrong[] = {
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"any\", \"arguments\": []}\n</tool_call>",
        "<tool_call>\n{\"name\": \"any\", \"arguments\": {}}",
    };
    vocab v = open_vocab(NULL);
    tool_language l = language(&v, TOOL_HERMES);

    (void)state;
    for (int required = 0; required < 2; required++) {
        l.required = required;
        for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
            assert_false(has(&l, wrong[i]));
        }
    }
    close_vocab(v);
}

/* Where no call is required, text may be anything but the mark, and calls stand in it. */
static void text_around_calls(void **state)
{
    vocab v = open_vocab(NULL);
    tool_language l = language(&v, TOOL_HERMES);

    (void)state;
    l.required = false;
    assert_true(has(&l, ""));
    assert_true(has(&l, "a <tool <<tool_cal <tool_<tool_"));
    assert_true(has(&l, "Let me see." HERMES "\n" HERMES "and <tool"));
    assert_true(has(&l, "<tool_<tool_call>\n" F "\n</tool_call>"));
    assert_false(has(&l, "<tool_<tool_call>!"));
    l.one = true;
    assert_true(has(&l, "So: " HERMES));
    assert_false(has(&l, HERMES HERMES));
    close_vocab(v);
}

static void marks_may_be_control_tokens(void **state)
{
    vocab v = open_vocab("[TOOL_CALLS]");
    tool_language l = language(&v, TOOL_MISTRAL);

    (void)state;
    assert_true(has(&l, "~[TOOL_CALLS][" F "]"));
    assert_false(has(&l, "[TOOL_CALLS][" F "]"));
    l.required = false;
    assert_true(has(&l, "[TOOL_CALLS] is text, ~[TOOL_CALLS][" F "] is none"));
    assert_false(has(&l, "~[TOOL_CALLS]text"));
    close_vocab(v);
}

static void a_thought_may_come_before_text(void **state)
{
    vocab v = open_vocab("<think>");
    tool_language l = language(&v, TOOL_HERMES);

    (void)state;
    l.required = false;
    assert_true(has(&l, "~<think>text" HERMES));
    assert_false(has(&l, "~<tool>"));
    l.format = TOOL_LLAMA;
    assert_true(has(&l, "~<think>{\"name\": \"f\", \"parameters\": {\"a\": true}}"));
    l.required = true;
    assert_false(has(&l, "~<think>{\"name\": \"f\", \"parameters\": {\"a\": true}}"));
    close_vocab(v);
}

static void an_answer_in_a_format(void **state)
{
    vocab v = open_vocab(NULL);
    tool_language l = language(&v, TOOL_HERMES);

    (void)state;
    l.required = false;
    l.answer = AIQ_STR("{\"enum\":[\"yes\"]}");
    assert_true(has(&l, HERMES));
    assert_true(has(&l, "\"yes\""));
    assert_false(has(&l, "yes"));
    close_vocab(v);
}

static void schemas_beyond_us(void **state)
{
    tool_shape tool = {AIQ_STR("t"), AIQ_STR("{\"type\":\"string\",\"not\":{}}"), true};
    vocab v = open_vocab(NULL);
    tool_language l = language(&v, TOOL_HERMES);

    (void)state;
    l.tools = &tool;
    l.n = 1;
    assert_null(tool_grammar_new(&l, err, sizeof(err)));
    assert_string_equal(err, "the tool 't': the schema's keyword 'not' is not supported");
    tool.strict = false;
    assert_true(
        has(&l, "<tool_call>\n{\"name\": \"t\", \"arguments\": {\"x\": 1}}\n</tool_call>"));
    tool.schema = AIQ_STR("{\"$ref\":\"#\"}");
    assert_null(tool_grammar_new(&l, err, sizeof(err)));
    close_vocab(v);
}

/* A pattern of thousands of states, of which one text is left. */
#define COSTLY                                                                                 \
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":1,"         \
    "\"pattern\":\"^((a|b)*a(a|b){10}|c)$\"}},\"required\":[\"a\"],"                           \
    "\"additionalProperties\":false}"

static void patterns_of_all_tools_are_counted(void **state)
{
    tool_shape many[40];
    vocab v = open_vocab(NULL);
    tool_language l = language(&v, TOOL_HERMES);
    grammar *g;

    (void)state;
    for (int i = 0; i < 40; i++) {
        many[i] = (tool_shape){{"f", 1}, {COSTLY, sizeof(COSTLY) - 1}, true};
    }
    l.tools = many;
    l.n = 1;
    g = tool_grammar_new(&l, err, sizeof(err));
    assert_non_null(g);
    grammar_free(g);
    l.n = 40;
    assert_null(tool_grammar_new(&l, err, sizeof(err)));
    assert_string_equal(err, "the tool 'f': the schema's 'pattern' is too large");
    close_vocab(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_format),
        cmocka_unit_test(schemas_hold),
        cmocka_unit_test(text_around_calls),
        cmocka_unit_test(marks_may_be_control_tokens),
        cmocka_unit_test(an_answer_in_a_format),
        cmocka_unit_test(schemas_beyond_us),
        cmocka_unit_test(a_thought_may_come_before_text),
        cmocka_unit_test(patterns_of_all_tools_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
