/*
 * Regular expressions as JSON Schema has them, of ECMA-262, as a network of nodes: what
 * automaton.c makes a machine of, and strings.c a grammar.
 *
 * Known: literals, escapes, classes, \d \w \s and their negations, the point, groups,
 * alternatives, quantifiers (only the language counts: lazy ones are as greedy), ^ and $
 * anywhere, and lookaheads that stand behind a ^ at the very beginning. A character is a code
 * point, as with the flag u; what Annex B allows besides, such as a literal brace, is allowed.
 * Backreferences, \b, \p, lookbehinds and lookaheads elsewhere are errors that say where.
 *
 * A network can hold several expressions: a text must match all of them. One thread.
 */
#ifndef INFER_PATTERN_H
#define INFER_PATTERN_H

#include "core/pool.h"

#define PATTERN_MAX_NODES 20000
#define PATTERN_MAX_PARTS 16  /* expressions and their lookaheads */
#define PATTERN_MAX_SETS  256 /* different ones of characters */

#define PATTERN_LAST 0x10ffffU /* the last character */

typedef struct {
    uint32_t low, high;
} char_range;

/* Characters, in order, without neighbours. */
typedef struct {
    char_range *ranges;
    size_t n, cap;
} char_set;

bool char_set_has(const char_set *s, uint32_t c);

typedef enum {
    NODE_SKIP,  /* on without a character, one way or both */
    NODE_SET,   /* one character of a set */
    NODE_START, /* on at the text's beginning only, */
    NODE_END,   /* at its end only */
    NODE_FOUND  /* the part matches, whatever follows */
} node_kind;

typedef struct {
    node_kind kind;
    uint32_t set;
    uint32_t to, or_to; /* 0: nowhere */
    uint32_t part;
} pattern_node;

typedef struct {
    uint32_t start;
    bool negative; /* it must not match */
} pattern_part;

typedef struct {
    pattern_node *nodes; /* [n_nodes] the first is none */
    size_t n_nodes, nodes_cap;
    char_set sets[PATTERN_MAX_SETS];
    size_t n_sets;
    pattern_part parts[PATTERN_MAX_PARTS];
    size_t n_parts;
    size_t *work; /* how many steps may be taken yet, of all that counts down here */
} pattern;

/* Of texts of any kind. */
pattern *pattern_new(size_t *work);
void pattern_free(pattern *p);

/* They must match this expression too, which is UTF-8. False, and half a line in err. */
bool pattern_add(pattern *p, aiq_str expression, char *err, size_t errlen);

#endif
