/*
 * What a model says, taken apart while it comes: thoughts, text, and calls of tools in the
 * model's own words. A family of models writes them in one format, which its chat template
 * shows:
 *
 *   HERMES         <tool_call>{"name": …, "arguments": {…}}</tool_call>       Qwen, Hermes
 *   MISTRAL        [TOOL_CALLS][{"name": …, "arguments": {…}}, …]
 *   MISTRAL_NAMED  [TOOL_CALLS]name[ARGS]{…}
 *   LLAMA          {"name": …, "parameters": {…}} as the whole answer, or behind <|python_tag|>
 *   PHI            <|tool_call|>[{…}, …]<|/tool_call|>, or functools[{…}, …]
 *
 * and thoughts, where it knows them, as <think>…</think> in front of the answer.
 *
 * Invariants:
 *  - However the text is cut into pushes, the pieces' concatenations are the same.
 *  - A call is told as soon as its name is known; its arguments as they come, byte for byte.
 *  - What calls no tool of the request is text: nothing is lost but the marks around calls and
 *    thoughts, and white space beside them.
 *  - White space and the beginning of a mark are held back until it is known what they are.
 */
#ifndef INFER_TOOL_CALLS_H
#define INFER_TOOL_CALLS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/pool.h"

typedef enum {
    TOOL_HERMES,
    TOOL_MISTRAL,
    TOOL_MISTRAL_NAMED,
    TOOL_LLAMA,
    TOOL_PHI
} tool_format;

/* The format of a template's text; HERMES where it says nothing of one. */
tool_format tool_format_of(aiq_str template);

/* The marks that a vocabulary may have as control tokens, which stand for no text elsewhere.
 * NULL behind the last. */
#define TOOL_MAX_MARKS 8
const char *const *tool_marks(tool_format format);

typedef enum { TOOL_TEXT, TOOL_THOUGHT, TOOL_CALL, TOOL_ARGUMENTS, TOOL_END } tool_piece_type;

typedef struct {
    tool_piece_type type;
    uint32_t call; /* CALL, ARGUMENTS, END: its number, from 0 */
    /* TEXT, THOUGHT, ARGUMENTS: more of it; CALL: the name; END: the call as the model wrote
     * it. Valid during the callback. */
    aiq_str text;
    bool whole; /* END: its arguments are a JSON object */
} tool_piece;

typedef void (*tool_piece_fn)(void *arg, const tool_piece *piece);

typedef struct {
    tool_format format;
    const aiq_str *names; /* [n_names] of the tools; borrowed. None: no calls are looked for */
    size_t n_names;
    bool one;        /* calls behind the first are left out */
    bool thinks;     /* thoughts are looked for */
    bool is_thought; /* it begins as one: the prompt has the mark */
    bool goes_on; /* the answer has begun before: what only its beginning may have, is text */
} tool_options;

typedef struct tool_parser tool_parser;

/* One answer; one thread. */
tool_parser *tool_parser_new(const tool_options *options, tool_piece_fn fn, void *arg);
void tool_parser_free(tool_parser *p);

/* More of the answer: whole characters, so that those of the pieces are whole. */
void tool_parser_push(tool_parser *p, const char *text, size_t len);

/* The answer has ended, wherever it was. */
void tool_parser_end(tool_parser *p);

#endif
