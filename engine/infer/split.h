/*
 * How BPE tokenizers cut a text into words, in which merges stay. Each family publishes a
 * regular expression; these are matchers for them, written by hand. A word is what the
 * expression matches at the text's beginning, so cutting is calling again behind it.
 *
 * Bytes that are no UTF-8 count one by one as characters that are neither letter, number nor
 * space. Pure functions.
 */
#ifndef INFER_SPLIT_H
#define INFER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

/* Length of the first word of a text that is not empty: 1..len. */
typedef size_t (*split_word)(const char *text, size_t len);

typedef struct {
    const char *name; /* tokenizer.ggml.pre */
    split_word word;
    bool whole;  /* a word that is a token is one, whatever merges make of it */
    bool begins; /* texts begin with a token where the file does not say whether */
} split_rule;

/* NULL if there is none of that name. */
const split_rule *split_find(const char *pre, size_t len);

#endif
