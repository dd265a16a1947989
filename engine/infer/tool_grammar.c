#include "infer/tool_grammar.h"

#include <stdio.h>
#include <string.h>

#include "infer/schema.h"

typedef struct {
    const tool_language *language;
    grammar *g;
    char *err;
    size_t errlen;
    size_t work;   /* of all schemas */
    uint32_t call; /* the rule of {"name": …, "arguments": …}, or of name[ARGS]{…} */
} maker;

static const char any_object[] = "{\"type\":\"object\"}";

/* --- parts; each returns the state behind it --- */

static uint32_t text(maker *k, uint32_t from, const char *words, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t to = grammar_state(k->g);

        grammar_bytes(k->g, from, (uint8_t)words[i], (uint8_t)words[i], to);
        from = to;
    }
    return from;
}

static uint32_t word(maker *k, uint32_t from, const char *words)
{
    return text(k, from, words, strlen(words));
}

static bool is_token(const maker *k, const char *mark)
{
    int32_t id = tokenizer_find(k->language->tokenizer, mark, strlen(mark));
    size_t len = 0;

    if (id != TOKENIZER_NONE) {
        tokenizer_piece(k->language->tokenizer, id, &len);
    }
    return id != TOKENIZER_NONE && len == 0;
}

static uint32_t mark(maker *k, uint32_t from, const char *words)
{
    return word(
        k, is_token(k, words) ? text(k, from, (const char[]){(char)GRAMMAR_TOKEN}, 1) : from,
        words);
}

static uint32_t call(maker *k, uint32_t from)
{
    uint32_t to = grammar_state(k->g);

    grammar_call(k->g, from, k->call, to);
    return to;
}

/* --- a call --- */

/* The arguments of one tool, by its schema where that can be. */
static bool arguments(maker *k, const tool_shape *tool, uint32_t from, uint32_t to)
{
    char why[120];

    if (tool->schema.len > 0 &&
        schema_add(k->g, tool->schema, tool->strict, &k->work, from, to, why, sizeof(why))) {
        return true;
    }
    if (tool->schema.len > 0 && tool->strict) {
        snprintf(k->err, k->errlen, "the tool '%.*s': %s", (int)tool->name.len, tool->name.data,
                 why);
        return false;
    }
    return schema_add(k->g, AIQ_STR(any_object), false, &k->work, from, to, why, sizeof(why));
}

static bool make_call(maker *k)
{
    bool bare = k->language->format == TOOL_MISTRAL_NAMED;
    const char *key = k->language->format == TOOL_LLAMA ? "parameters" : "arguments";
    uint32_t from, to;

    k->call = grammar_rule(k->g);
    from = grammar_start(k->g, k->call);
    to = grammar_end(k->g, k->call);
    from = bare ? from : word(k, from, "{\"name\": \"");
    for (size_t i = 0; i < k->language->n; i++) {
        const tool_shape *tool = &k->language->tools[i];
        uint32_t at = text(k, from, tool->name.data, tool->name.len);
        uint32_t behind = grammar_state(k->g);

        at =
            bare ? mark(k, at, "[ARGS]") : word(k, word(k, word(k, at, "\", \""), key), "\": ");
        if (!arguments(k, tool, at, behind)) {
            return false;
        }
        grammar_skip(k->g, bare ? behind : word(k, behind, "}"), to);
    }
    return true;
}

/* --- calls --- */

static const char *open_of(tool_format format)
{
    static const char *const marks[] = {
        [TOOL_HERMES] = "<tool_call>",         [TOOL_MISTRAL] = "[TOOL_CALLS]",
        [TOOL_MISTRAL_NAMED] = "[TOOL_CALLS]", [TOOL_LLAMA] = "<|python_tag|>",
        [TOOL_PHI] = "<|tool_call|>",
    };

    return marks[format];
}

/* Behind the mark: a list of calls, with its brackets. */
static uint32_t list(maker *k, uint32_t from)
{
    uint32_t first = word(k, from, "["), behind = call(k, first);

    if (!k->language->one) {
        grammar_skip(k->g, word(k, behind, ", "), first);
    }
    return word(k, behind, "]");
}

/* What follows the mark, up to the end of what it opened. */
static uint32_t body(maker *k, uint32_t from)
{
    uint32_t spaced;

    switch (k->language->format) {
    case TOOL_HERMES:
        return mark(k, word(k, call(k, word(k, from, "\n")), "\n"), "</tool_call>");
    case TOOL_MISTRAL:
        spaced = grammar_state(k->g);
        grammar_skip(k->g, from, spaced);
        grammar_bytes(k->g, from, ' ', ' ', spaced);
        return list(k, spaced);
    case TOOL_PHI:
        return mark(k, list(k, from), "<|/tool_call|>");
    default:
        return call(k, from);
    }
}

/* Calls alone, between two states. */
static void calls(maker *k, uint32_t from, uint32_t to)
{
    tool_format format = k->language->format;
    uint32_t opened = format == TOOL_LLAMA ? from : mark(k, from, open_of(format));
    uint32_t behind = body(k, opened);

    grammar_skip(k->g, behind, to);
    if (!k->language->one && (format == TOOL_HERMES || format == TOOL_MISTRAL_NAMED)) {
        grammar_skip(k->g, format == TOOL_HERMES ? word(k, behind, "\n") : behind, from);
    }
}

/* --- text around them --- */

/* How many bytes of words are the end of words[0..n) and byte. */
static size_t overlap(const char *words, size_t n, uint8_t byte)
{
    for (size_t len = n + 1; len > 0; len--) {
        if ((uint8_t)words[len - 1] == byte &&
            memcmp(words, words + n + 1 - len, len - 1) == 0) {
            return len;
        }
    }
    return 0;
}

/* Bytes until the mark has come, each state of which may be the end: a state for every
 * beginning of the mark that stands at the text's end. Returns the state behind the mark. */
static uint32_t text_and_mark(maker *k, uint32_t from, const char *words, uint32_t end)
{
    uint32_t at[32];
    size_t len = strlen(words);

    at[0] = from;
    for (size_t i = 1; i <= len; i++) {
        at[i] = grammar_state(k->g);
    }
    for (size_t i = 0; i < len; i++) {
        grammar_skip(k->g, at[i], end);
        for (unsigned byte = 0, first = 0; byte < GRAMMAR_TOKEN; byte++) {
            size_t to = overlap(words, i, (uint8_t)byte);

            if (byte + 1 == GRAMMAR_TOKEN || overlap(words, i, (uint8_t)(byte + 1)) != to) {
                grammar_bytes(k->g, at[i], (uint8_t)first, (uint8_t)byte, at[to]);
                first = byte + 1;
            }
        }
    }
    return at[len];
}

/* Text may begin with a thought, whose mark may be no text. What is thought is not asked of the
 * grammar (generation.c). */
static void thought(maker *k, uint32_t from)
{
    static const char open[] = "<think>";

    if (is_token(k, open)) {
        grammar_skip(k->g, mark(k, from, open), from);
    }
}

/* Text with calls in it. */
static void text_with_calls(maker *k, uint32_t from, uint32_t end)
{
    const char *open = open_of(k->language->format);
    uint32_t opened, behind;

    thought(k, from);
    if (is_token(k, open)) {
        grammar_bytes(k->g, from, 0, GRAMMAR_TOKEN - 1, from);
        grammar_skip(k->g, from, end);
        opened = mark(k, from, open);
    } else {
        opened = text_and_mark(k, from, open, end);
    }
    behind = body(k, opened);
    grammar_skip(k->g, behind, k->language->one ? end : from);
    grammar_skip(k->g, behind, end);
}

/* The same where a call has no mark: what begins with a brace is one. */
static void text_or_call(maker *k, uint32_t from, uint32_t end)
{
    uint32_t behind = grammar_state(k->g);

    thought(k, from);
    grammar_bytes(k->g, from, '!', 'z', behind);
    grammar_bytes(k->g, from, '|', GRAMMAR_TOKEN - 1, behind);
    text_with_calls(k, behind, end);
    calls(k, from, end);
}

static bool make(maker *k, uint32_t root)
{
    uint32_t from = grammar_start(k->g, root), end = grammar_end(k->g, root);
    const tool_language *l = k->language;
    char why[120];

    if (!make_call(k)) {
        return false;
    }
    if (l->required || l->answer.len > 0) {
        calls(k, from, end);
    } else if (l->format == TOOL_LLAMA) {
        text_or_call(k, from, end);
    } else {
        text_with_calls(k, from, end);
    }
    if (!l->required && l->answer.len > 0 &&
        !schema_add(k->g, l->answer, l->answer_strict, &k->work, from, end, why, sizeof(why))) {
        snprintf(k->err, k->errlen, "%s", why);
        return false;
    }
    return true;
}

grammar *tool_grammar_new(const tool_language *language, char *err, size_t errlen)
{
    maker k = {.language = language,
               .g = grammar_new(),
               .err = err,
               .errlen = errlen,
               .work = SCHEMA_WORK};
    uint32_t root = grammar_rule(k.g);
    const char *why;

    if (make(&k, root)) {
        why = grammar_check(k.g);
        if (why == NULL) {
            return k.g;
        }
        snprintf(err, errlen, "the schemas of the tools cannot be met: %s", why);
    }
    grammar_free(k.g);
    return NULL;
}
