/*
 * A machine that tells which texts match a pattern and have so many characters: in each state
 * one way on for each character. So a grammar of it is in one place at a time, and what cannot
 * match any more is known.
 *
 * Characters that no set of the pattern tells apart are of one class.
 */
#ifndef INFER_AUTOMATON_H
#define INFER_AUTOMATON_H

#include "infer/pattern.h"

#define AUTOMATON_MAX_STATES 5000
#define AUTOMATON_NO_CLASS   UINT32_MAX /* surrogates, which are no characters */
#define AUTOMATON_NEVER      UINT32_MAX /* the distance to no end */

/* From low up to the next one's. */
typedef struct {
    uint32_t low;
    uint32_t class;
} char_interval;

typedef struct {
    char_interval
        *intervals; /* [n_intervals] in order; the last begins behind all characters */
    size_t n_intervals;
    uint32_t n_classes;

    uint32_t n_states; /* the first is the beginning */
    uint32_t *next;    /* [n_states][n_classes] */
    bool *accepts;     /* [n_states] */
    uint32_t *needs;   /* [n_states] characters until a text is accepted, at least */
} automaton;

/* NULL: it would be too large. */
automaton *automaton_new(const pattern *p);
void automaton_free(automaton *a);

#endif
