/*
 * Integers of a range as a part of a grammar.
 */
#ifndef INFER_INTEGERS_H
#define INFER_INTEGERS_H

#include "infer/grammar.h"

/* Those from the least to the most, as JSON writes them, between two of the grammar's states.
 * -INT64_MAX <= least <= most. */
void integers_add(grammar *g, int64_t least, int64_t most, uint32_t from, uint32_t to);

#endif
