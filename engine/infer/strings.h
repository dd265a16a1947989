/*
 * JSON strings as a part of a grammar.
 *
 * A character is a code point, however it is written. Where any may come it may be escaped in
 * every way that JSON has; where a pattern chooses, quotes, backslashes and control characters
 * are escaped in the shortest way, and all others are themselves.
 */
#ifndef INFER_STRINGS_H
#define INFER_STRINGS_H

#include "infer/automaton.h"
#include "infer/grammar.h"

#define STRINGS_MAX_STATES 15000 /* of the product of a pattern and lengths */
#define STRINGS_NO_MOST    UINT32_MAX

/* Any string, with its quotes, between two of the grammar's states. */
void strings_add_any(grammar *g, uint32_t from, uint32_t to);

/* Those that an automaton accepts and that have least..most characters. Counts its steps down
 * from work. NULL, or why not: half a sentence. */
const char *strings_add(grammar *g, const automaton *a, uint32_t least, uint32_t most,
                        size_t *work, uint32_t from, uint32_t to);

#endif
