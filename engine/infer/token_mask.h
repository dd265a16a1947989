/*
 * Which tokens may come next, so that an answer stays in a language. The vocabulary is sorted
 * once, when the model is loaded, control tokens by GRAMMAR_TOKEN and their names; a mask is
 * made by walking it with a matcher, where tokens that begin alike share their steps, and is
 * kept with the matcher's place, for the next time.
 */
#ifndef INFER_TOKEN_MASK_H
#define INFER_TOKEN_MASK_H

#include "infer/grammar.h"
#include "infer/tokenizer.h"

typedef struct token_order token_order;

/* Immutable: any thread. Points into t. */
token_order *token_order_new(const tokenizer *t);
void token_order_free(token_order *o);

/* The words of a mask: 64 tokens each. */
size_t token_mask_words(const token_order *o);

/* A bit for each token that may come at this place; tokens that end the text may where the
 * language does. Kept with the place, until matcher_trim. */
const uint64_t *token_mask(const token_order *o, matcher *m, int32_t at);

/* The longest token that the text begins with, and its length; -1: there is none. */
int32_t token_longest(const token_order *o, const char *text, size_t len, size_t *took);

/* The place behind a token that the mask has. */
int32_t token_follow(const tokenizer *t, matcher *m, int32_t at, int32_t id);

#endif
