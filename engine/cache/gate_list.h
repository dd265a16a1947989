/*
 * Inside the gates: a list is a question's words in order, each a kind, a length, and the word.
 * gate.c makes them, gate_compare.c compares them.
 */

#ifndef AIQ_CACHE_GATE_LIST_H
#define AIQ_CACHE_GATE_LIST_H

#include "cache/gate.h"

/* NUMBER: and what is counted follows. NAME: also what is quoted, or code. */
enum { NUMBER = 'n', NEGATION = '-', NAME = 'N', WORD = 'w' };

#define WORD_MAX 255

#endif
