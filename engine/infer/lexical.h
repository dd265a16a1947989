/*
 * A text as a vector of its words, without a model: word and character n-grams are hashed to
 * signed buckets, counted sublinearly (the square root), and the whole is divided by its
 * length. Two texts are as near as the words and parts of words that they share: other words
 * for the same thing are far, and a reversed or negated sentence is near. Good for finding
 * candidates and near duplicates, never for meaning.
 *
 * Invariants:
 *  - The same text gives the same bits on every machine, in every release, for as long as the
 *    name stays: sums are of integers, only the last division is not.
 *  - Case, accents and punctuation change nothing; what is not UTF-8 counts as a space.
 */
#ifndef INFER_LEXICAL_H
#define INFER_LEXICAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEXICAL_NAME     "aiq-lexical-1" /* another number where a vector would be another */
#define LEXICAL_DIM      512
#define LEXICAL_MAX_TEXT ((size_t)64 << 10) /* bytes; takes 6 MiB at most while it is read */

/*
 * The vector of text, [LEXICAL_DIM], of length 1; all 0 where it has no word, such as an empty
 * text or "?!". *n_words, unless NULL, is what it was cut into, ideographs and symbols one by
 * one. False, with nothing written: the text is longer than LEXICAL_MAX_TEXT, or memory ends.
 * Pure; any thread.
 */
bool lexical_embed(const char *text, size_t len, float *out, uint32_t *n_words);

#endif
