/*
 * Calls of tools as a grammar: every string of it is, in the format of tool_calls.h, what a
 * model that calls these tools would say, with arguments that meet their schemas (schema.h).
 */
#ifndef INFER_TOOL_GRAMMAR_H
#define INFER_TOOL_GRAMMAR_H

#include "infer/grammar.h"
#include "infer/tokenizer.h"
#include "infer/tool_calls.h"

typedef struct {
    aiq_str name;   /* letters, digits, _ and - */
    aiq_str schema; /* valid JSON, an object; empty: any arguments */
    bool strict;    /* its schema must be understood, others are left out where they are not */
} tool_shape;

typedef struct {
    tool_format format;
    const tokenizer *tokenizer; /* which marks are control tokens */
    const tool_shape *tools;    /* [n] at least one */
    size_t n;
    bool required;  /* otherwise text may come instead, or around the calls; */
    bool one;       /* at most one call */
    aiq_str answer; /* the schema of what else may come, in place of text; empty: text */
    bool answer_strict;
} tool_language;

/* NULL, and one line in err that a client may see, if a schema is beyond us. */
grammar *tool_grammar_new(const tool_language *language, char *err, size_t errlen);

#endif
