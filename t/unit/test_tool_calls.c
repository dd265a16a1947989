/* Answers taken apart into thoughts, text and calls, the same however they are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tool_calls.h"

static const aiq_str names[] = {{"weather", 7}, {"f", 1}};

/* Pieces as text: [text] {thought} name(arguments) where whole, name(arguments? where not. */
typedef struct {
    char text[4096];
    size_t len;
    tool_piece_type last;
} dump;

static void put(dump *d, const char *text, size_t len)
{
    assert_true(d->len + len < sizeof(d->text));
    memcpy(d->text + d->len, text, len);
    d->len += len;
    d->text[d->len] = '\0';
}

static void close_last(dump *d)
{
    put(d,
        d->last == TOOL_TEXT      ? "]"
        : d->last == TOOL_THOUGHT ? "}"
                                  : "",
        d->last < TOOL_CALL);
    d->last = TOOL_END;
}

static void on_piece(void *arg, const tool_piece *piece)
{
    dump *d = arg;

    assert_true(piece->text.len > 0);
    if (piece->type != d->last) {
        close_last(d);
        put(d, piece->type == TOOL_TEXT ? "[" : "{", piece->type < TOOL_CALL);
    }
    d->last = piece->type;
    if (piece->type == TOOL_END) {
        put(d, piece->whole ? ")" : "?", 1);
        return;
    }
    put(d, piece->text.data, piece->text.len);
    put(d, "(", piece->type == TOOL_CALL);
}

static void parse(dump *d, const tool_options *o, const char *text, const size_t *cuts,
                  size_t n_cuts)
{
    tool_parser *p = tool_parser_new(o, on_piece, d);
    size_t at = 0;

    *d = (dump){.last = TOOL_END};
    for (size_t i = 0; i < n_cuts; i++) {
        tool_parser_push(p, text + at, cuts[i] - at);
        at = cuts[i];
    }
    tool_parser_push(p, text + at, strlen(text) - at);
    tool_parser_end(p);
    close_last(d);
    tool_parser_free(p);
}

/* At once, byte for byte, and cut in two anywhere. */
static void expect_of(const tool_options *o, const char *text, const char *want)
{
    size_t len = strlen(text), each[2048];
    dump d;

    assert_true(len < 2048);
    for (size_t i = 0; i < len; i++) {
        each[i] = i + 1;
    }
    parse(&d, o, text, NULL, 0);
    assert_string_equal(d.text, want);
    parse(&d, o, text, each, len);
    assert_string_equal(d.text, want);
    for (size_t i = 0; i <= len; i++) {
        parse(&d, o, text, &i, 1);
        assert_string_equal(d.text, want);
    }
}

static void expect(tool_format format, const char *text, const char *want)
{
    tool_options o = {.format = format, .names = names, .n_names = 2, .thinks = true};

    expect_of(&o, text, want);
}

#define CALL "{\"name\": \"weather\", \"arguments\": {\"city\": \"K\u00f6ln\"}}"
#define TOLD "weather({\"city\": \"K\u00f6ln\"})"

static void hermes(void **state)
{
    (void)state;
    expect(TOOL_HERMES, "<tool_call>\n" CALL "\n</tool_call>", TOLD);
    expect(TOOL_HERMES, "Let me see.\n<tool_call>" CALL "</tool_call>\n", "[Let me see.]" TOLD);
    expect(TOOL_HERMES,
           "<tool_call>\n" CALL "\n</tool_call>\n<tool_call>\n{\"name\":\"f\",\"arguments\":"
           "{}}\n</tool_call>",
           TOLD "f({})");
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\"}</tool_call> done", "f({})[done]");
    expect(TOOL_HERMES, "<tool_call>" CALL, TOLD);
    expect(TOOL_HERMES, "<tool_call>{\"arguments\": {\"a\": [1, \"}\\\"\"]}, \"name\": \"f\"}",
           "f({\"a\": [1, \"}\\\"\"]})");
    expect(TOOL_HERMES,
           "<tool_call>{\"type\": \"function\", \"id\": 7, \"x\": {\"}\": 1}, \"name\": \"f\", "
           "\"arguments\": {}, \"y\": null}</tool_call>",
           "f({})");
    /* the tag of another, or none */
    expect(TOOL_HERMES, "[TOOL_CALLS]" CALL, "[[TOOL_CALLS]" CALL "]");
    expect(TOOL_HERMES, CALL, "[" CALL "]");
}

static void mistral(void **state)
{
    (void)state;
    expect(TOOL_MISTRAL, "[TOOL_CALLS][" CALL "]", TOLD);
    expect(TOOL_MISTRAL,
           "[TOOL_CALLS] [" CALL ", {\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": "
           "\"abcdefghi\"}]",
           TOLD "f({\"x\": 1})");
    expect(TOOL_MISTRAL_NAMED, "[TOOL_CALLS]weather[ARGS]{\"city\": \"Bonn\"}",
           "weather({\"city\": \"Bonn\"})");
    expect(TOOL_MISTRAL_NAMED,
           "Yes.[TOOL_CALLS]f{\"a\": {}}[TOOL_CALLS]f[CALL_ID]abc123DEF[ARGS]{}",
           "[Yes.]f({\"a\": {}})f({})");
    expect(TOOL_MISTRAL_NAMED, "[TOOL_CALLS]g[ARGS]{}", "[[TOOL_CALLS]g[ARGS]{}]");
    expect(TOOL_MISTRAL, "[TOOL_CALLS][]", "[[TOOL_CALLS][]]");
}

static void llama(void **state)
{
    (void)state;
    expect(TOOL_LLAMA, "{\"name\": \"f\", \"parameters\": {\"x\": \"1\"}}",
           "f({\"x\": \"1\"})");
    expect(TOOL_LLAMA, "\n <|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "f({})");
    expect(TOOL_LLAMA,
           "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"weather\", \"parameters\": {}}",
           "f({})weather({})");
    /* an answer in JSON, and JSON in an answer */
    expect(TOOL_LLAMA, "{\"name\": \"Bo\", \"age\": 7}", "[{\"name\": \"Bo\", \"age\": 7}]");
    expect(TOOL_LLAMA, "{\"a\": {\"name\": \"f\"}}", "[{\"a\": {\"name\": \"f\"}}]");
    expect(TOOL_LLAMA, "So: {\"name\": \"f\", \"parameters\": {}}",
           "[So: {\"name\": \"f\", \"parameters\": {}}]");
}

static void phi(void **state)
{
    (void)state;
    expect(TOOL_PHI, "<|tool_call|>[" CALL "]<|/tool_call|>", TOLD);
    expect(TOOL_PHI, "functools[" CALL "," CALL "]", TOLD TOLD);
    expect(TOOL_PHI, "functools are fine", "[functools are fine]");
}

/* What is no call of ours is text to the last byte. */
static void the_rest_is_text(void **state)
{
    static const char *const texts[] = {
        "a < b, <tool> <tool_ca",
        "<tool_call>",
        "<tool_call>\n\n",
        "<tool_call>x",
        "</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"nobody\", \"arguments\": {}}x",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}",
        "<tool_call>{\"name\": 7}",
        "<tool_call>{\"name\"; \"f\"}",
        "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
        "<tool_call>{\"arguments\": \"{}\", \"name\": \"f\"}",
        "<tool_call>{\"na\\\"me\": 1}",
        "x <think> y </think>",
        "  \n",
        "x\n\n",
        "\n\nx",
        "<<<tool_call",
        "<tool_call><tool_call>",
    };
    char want[256];

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        snprintf(want, sizeof(want), "[%s]", texts[i]);
        expect(TOOL_HERMES, texts[i], want);
    }
    expect(TOOL_HERMES, "<tool_call>?<tool_call>" CALL " and", "[<tool_call>?]" TOLD "[ and]");
    expect(TOOL_HERMES, "<tool_call>" CALL "</tool_call></tool_call>", TOLD "[</tool_call>]");
}

/* A call that has been told and does not end. */
static void calls_may_break_off(void **state)
{
    (void)state;
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b",
           "f({\"a\": \"b?");
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\", \"arg", "f(?");
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": 7} x", "f(?[} x]");
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {a: 1}}", "f({a: 1}?");
    expect(TOOL_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {}, oh", "f({})[, oh]");
    expect(TOOL_MISTRAL, "[TOOL_CALLS][" CALL ", {\"na", TOLD "[, {\"na]");
}

static void thoughts(void **state)
{
    tool_options o = {.format = TOOL_HERMES, .thinks = true};

    (void)state;
    expect(TOOL_HERMES, "<think>\nhm <tool_call>\n</think>\n\n4", "{hm <tool_call>}[4]");
    expect(TOOL_HERMES, "<think>\n\n</think>\n\n<tool_call>" CALL "</tool_call>", TOLD);
    expect(TOOL_HERMES, "<think>a</think>b<think>c</think>", "{a}[b<think>c</think>]");
    expect(TOOL_HERMES, "<think> a < b", "{a < b}");
    expect_of(&o, "<think>a</think><tool_call>" CALL, "{a}[<tool_call>" CALL "]");
    o.is_thought = true;
    expect_of(&o, "a\n</think>\nb", "{a}[b]");
    o = (tool_options){.format = TOOL_LLAMA, .names = names, .n_names = 2, .goes_on = true};
    expect_of(&o, "{\"name\": \"f\"}", "[{\"name\": \"f\"}]");
}

static void one_call_at_most(void **state)
{
    tool_options o = {.format = TOOL_HERMES, .names = names, .n_names = 2, .one = true};

    (void)state;
    expect_of(&o, "<tool_call>" CALL "</tool_call><tool_call>{\"name\": \"f\"}</tool_call>!",
              TOLD "[!]");
}

static void formats_are_recognised(void **state)
{
    static const struct {
        const char *template;
        tool_format format;
    } cases[] = {
        {"… <tool_call> …", TOOL_HERMES},
        {"[TOOL_CALLS] [ARGS]", TOOL_MISTRAL_NAMED},
        {"[TOOL_CALLS]", TOOL_MISTRAL},
        {"<|start_header_id|> {\"name\": function name, \"parameters\": …}", TOOL_LLAMA},
        {"<|tool|>", TOOL_PHI},
        {"", TOOL_HERMES},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        aiq_str template = {cases[i].template, strlen(cases[i].template)};

        assert_int_equal(tool_format_of(template), cases[i].format);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hermes),
        cmocka_unit_test(mistral),
        cmocka_unit_test(llama),
        cmocka_unit_test(phi),
        cmocka_unit_test(the_rest_is_text),
        cmocka_unit_test(calls_may_break_off),
        cmocka_unit_test(thoughts),
        cmocka_unit_test(one_call_at_most),
        cmocka_unit_test(formats_are_recognised),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
