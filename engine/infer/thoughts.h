/*
 * How many tokens of an answer are thoughts: those of <think>…</think> in front of it, where
 * tool_calls.h finds them, with the marks. Looked at token by token, because of the text that
 * leaves the model's thread nobody knows where a token ended. One per request.
 */
#ifndef INFER_THOUGHTS_H
#define INFER_THOUGHTS_H

#include <stddef.h>
#include <stdint.h>

typedef enum { THOUGHTS_OVER, THOUGHTS_MAY_BEGIN, THOUGHTS_WITHIN } thoughts_place;

typedef struct {
    thoughts_place at; /* as the answer begins; OVER: there are none */
    uint32_t matched;  /* bytes of the next mark that have come */
    uint32_t tokens;   /* that may be of thoughts */
} thoughts;

/* One token more of the answer, and what it says. Returns how many of its bytes are not behind
 * the thoughts: what ends them can begin the answer, too. */
size_t thoughts_take(thoughts *t, const char *piece, size_t len);

/* So far. */
uint32_t thoughts_tokens(const thoughts *t);

#endif
