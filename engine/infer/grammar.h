/*
 * A language of byte strings, and a place in one of its strings.
 *
 * A grammar is a set of rules; a rule is a small network of states from its start to its end.
 * An edge takes a byte of a range, or nothing, or calls a rule and goes on when that has ended.
 * Rules may call each other in circles, but not before a byte was taken.
 *
 * Where one is, is a set of states, each with the stack of rules that it will return to; who
 * calls a rule at the same byte shares its way through it. Such sets are made when they are
 * first met and numbered; from then on a step is one look into a table. Whoever keeps numbers
 * bounds the tables: he looks whether they are large between his steps, and trims them.
 *
 * One thread. Memory that ends, ends the process (aiq_alloc).
 */
#ifndef INFER_GRAMMAR_H
#define INFER_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRAMMAR_MAX_STATES 50000
#define GRAMMAR_MAX_DEPTH  128 /* of rules that wait for their return; no string goes deeper */

/* No text has this byte: in a grammar of what a model says, it and a control token's name stand
 * for that token. */
#define GRAMMAR_TOKEN 0xff

typedef struct grammar grammar;
typedef struct matcher matcher;

/* --- making one; the first rule is the whole language --- */

grammar *grammar_new(void);
void grammar_free(grammar *g);

/* Both return numbers. Beyond GRAMMAR_MAX_STATES they return what there is, and grammar_check
 * says so. */
uint32_t grammar_state(grammar *g);
uint32_t grammar_rule(grammar *g);
uint32_t grammar_start(const grammar *g, uint32_t rule);
uint32_t grammar_end(const grammar *g, uint32_t rule);

void grammar_bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high, uint32_t to);
void grammar_skip(grammar *g, uint32_t from, uint32_t to);
void grammar_call(grammar *g, uint32_t from, uint32_t rule, uint32_t to);

/* Is there no room for more? */
bool grammar_full(const grammar *g);

/* NULL, or why no matcher may be made: a static sentence part. The last look at a grammar:
 * nothing is added behind it. */
const char *grammar_check(grammar *g);

/* --- matching --- */

enum { MATCHER_DEAD = -1, MATCHER_START = 0 };

/* Takes the grammar, which has passed its check. */
matcher *matcher_new(grammar *g);
void matcher_free(matcher *m);

/* Another of the same grammar, with places and tables of its own, for another thread. The first
 * must outlive it. */
matcher *matcher_twin(const matcher *m);

/* The number that a place of a twin has here. */
int32_t matcher_import(matcher *m, const matcher *from, int32_t at);

/* The place after one more byte; MATCHER_DEAD: no string of the language begins so. */
int32_t matcher_next(matcher *m, int32_t at, uint8_t byte);

/* May the string end here? Must it? */
bool matcher_complete(const matcher *m, int32_t at);
bool matcher_finished(const matcher *m, int32_t at);

/* The only byte that may come next; -1: there are several, or none, or the string may end. */
int matcher_only(const matcher *m, int32_t at);

/* Have the tables grown so large that they should be trimmed? */
bool matcher_is_large(const matcher *m);

/* The n places are kept as the only ones besides MATCHER_START, under new numbers. All tables
 * of others are gone, and all slots. */
void matcher_trim(matcher *m, int32_t *const *at, size_t n);

/* A pointer that the caller keeps with a place; freed with free(). NULL at first. */
void **matcher_slot(matcher *m, int32_t at);

#endif
