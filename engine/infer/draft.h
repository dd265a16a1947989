/*
 * What an answer may say next, guessed from what was said: where its last tokens stood before,
 * what followed them. The model reads a guess at once and says how much of it is right.
 */
#ifndef INFER_DRAFT_H
#define INFER_DRAFT_H

#include <stdint.h>

/*
 * Writes most tokens that may follow ids, [n], to out; returns how many, 0 or most. The latest
 * place where the last three tokens stood before is best, else one of the last two; what comes
 * round there comes round again.
 */
uint32_t draft_find(const int32_t *ids, uint32_t n, uint32_t most, int32_t *out);

#endif
