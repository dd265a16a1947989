/*
 * OpenAI's answers in Anthropic's words: the chunks of a stream as events, a
 * whole completion as a message, an error as an error. Pure.
 *
 * Blocks follow one another as they do with Anthropic: a text or a thought ends
 * where another kind begins, a tool's block where its arguments are whole and
 * another begins. OpenAI may mix the arguments of several calls; such blocks stay
 * open beside each other, each delta with its index. What tells the end is held
 * until the usage has come, which OpenAI sends last.
 */

#ifndef AIQ_MESSAGES_ANSWER_H
#define AIQ_MESSAGES_ANSWER_H

#include "core/json.h"

#define MESSAGES_TOOLS_MAX 128 /* calls in one answer; what is beyond is left out */

typedef enum { MESSAGES_NO_BLOCK, MESSAGES_TEXT, MESSAGES_THINKING } messages_kind;

/* How far the JSON of a call's arguments has come. */
typedef struct {
    int64_t index;  /* OpenAI's */
    uint32_t block; /* Anthropic's */
    uint32_t depth;
    bool open, begun, in_string, escaped;
} messages_tool;

/* Begins zeroed; messages_free() at its end. */
typedef struct {
    bool started, ended;
    messages_kind kind; /* of the open block that is no tool's */
    uint32_t block;     /* its index */
    uint32_t n_blocks, n_tools;
    const char *stop_reason;
    aiq_buf stop_sequence;   /* as JSON has it; empty: none has come */
    int64_t in, cached, out; /* tokens; 0: not said */
    messages_tool tools[MESSAGES_TOOLS_MAX];
} messages_stream;

void messages_free(messages_stream *s);

/* Appends the events that a chunk makes, "[DONE]" being one. A chunk that is none makes
 * nothing: the provider's dialect has refused it before. */
void messages_chunk(messages_stream *s, aiq_str data, aiq_buf *out);

/* The stream is whole: what [DONE] makes, if that has not come. */
void messages_end(messages_stream *s, aiq_buf *out);

/* A whole completion. False: it is none. */
bool messages_completion(aiq_str body, aiq_pool *pool, aiq_buf *out);

#endif
