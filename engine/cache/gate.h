/*
 * Do two questions that look alike ask the same? Nearness does not say: a question and its
 * reverse are as near as two ways to say one thing, and so are two with another number, name
 * or "not". What must be equal is compared here, word by word.
 *
 * A question becomes a list of its words in order: numbers as numerals without the commas of
 * thousands, what is quoted or looks like code as it is, names (with a capital letter), words
 * in small letters and the singular; articles, forms of address and the present tense of "to
 * be" and "to do" are left out. The words are English ones: what is in another language is
 * compared to the letter.
 *
 * GATE_STRICT: two questions ask the same whose lists are the same; for an embedder that knows
 * nothing of meaning. GATE_LOOSE: numbers with what is counted, negations and names must be the
 * same; other words may be others, but for some that mean the opposite or point elsewhere, and
 * those that are in both come in one order.
 *
 * Pure.
 */

#ifndef AIQ_CACHE_GATE_H
#define AIQ_CACHE_GATE_H

#include <stdbool.h>
#include "core/pool.h"

#define GATE_TEXT_MAX  2048 /* bytes of a question */
#define GATE_WORDS_MAX 128  /* comparing takes their square */

typedef enum { GATE_STRICT, GATE_LOOSE } gate_mode;

typedef enum {
    GATE_SAME,
    GATE_NUMBERS,
    GATE_NEGATION,
    GATE_NAMES, /* and what is quoted, or code */
    GATE_WORDS,
    GATE_ORDER,
    GATE_VERDICTS
} gate_verdict;

/* Appends the list. False: it has no word, or too many, and is none to compare. */
bool gate_make(aiq_str text, aiq_buf *list);

/* Lists that gate_make() made; what else it may be is as another list. */
gate_verdict gate_compare(aiq_str a, aiq_str b, gate_mode mode);

/* For a metric's label. */
const char *gate_name(gate_verdict verdict);

#endif
