#include "infer/automaton.h"

#include <stdlib.h>
#include <string.h>

#define N_BUCKETS 4096

/* A state of the automaton is a set of nodes, those where a character is taken or that say
 * something of the end. */
typedef struct {
    uint32_t *nodes; /* [n] in order */
    uint32_t n;
    uint32_t same_hash; /* + 1 */
} node_set;

typedef struct {
    const pattern *p;
    automaton *a;
    size_t *work;

    node_set *sets; /* [AUTOMATON_MAX_STATES] */
    uint32_t buckets[N_BUCKETS];
    uint32_t *round_of; /* [nodes] when it was last reached */
    uint32_t round;
    uint32_t *reached; /* [nodes] */
    uint32_t n_reached;
    bool *has; /* [sets][classes] */
    bool failed;
} maker;

static bool spend(maker *m, size_t steps)
{
    if (*m->work < steps) {
        m->failed = true;
        return false;
    }
    *m->work -= steps;
    return true;
}

/* --- classes of characters --- */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Where sets begin, and where they have ended. */
static uint32_t *find_bounds(const pattern *p, size_t *n)
{
    static const uint32_t always[] = {0, 0xd800, 0xe000, PATTERN_LAST + 1};
    size_t most = sizeof(always) / sizeof(*always), kept = 0;
    uint32_t *bounds;

    for (size_t i = 0; i < p->n_sets; i++) {
        most += 2 * p->sets[i].n;
    }
    bounds = aiq_alloc(most * sizeof(*bounds));
    memcpy(bounds, always, sizeof(always));
    *n = sizeof(always) / sizeof(*always);
    for (size_t i = 0; i < p->n_sets; i++) {
        for (size_t k = 0; k < p->sets[i].n; k++) {
            bounds[(*n)++] = p->sets[i].ranges[k].low;
            bounds[(*n)++] = p->sets[i].ranges[k].high + 1;
        }
    }
    qsort(bounds, *n, sizeof(*bounds), by_value);
    for (size_t i = 0; i < *n; i++) {
        if (kept == 0 || bounds[i] != bounds[kept - 1]) {
            bounds[kept++] = bounds[i];
        }
    }
    *n = kept;
    return bounds;
}

/* The class of the characters from c on: of another interval if the same sets have it. */
static uint32_t class_of(maker *m, uint32_t c, bool *has)
{
    automaton *a = m->a;
    size_t n = m->p->n_sets;

    for (size_t i = 0; i < n; i++) {
        has[i] = char_set_has(&m->p->sets[i], c);
    }
    for (uint32_t i = 0; i < a->n_classes; i++) {
        if (!spend(m, n / 8 + 1)) {
            return 0;
        }
        if (memcmp(m->has + i * n, has, n) == 0) {
            return i;
        }
    }
    memcpy(m->has + a->n_classes * n, has, n);
    return a->n_classes++;
}

static void find_classes(maker *m)
{
    automaton *a = m->a;
    uint32_t *bounds = find_bounds(m->p, &a->n_intervals);
    bool *has = aiq_zalloc(m->p->n_sets + 1);

    a->intervals = aiq_alloc(a->n_intervals * sizeof(*a->intervals));
    if (spend(m, a->n_intervals * (m->p->n_sets + 1))) {
        m->has = aiq_alloc(a->n_intervals * (m->p->n_sets + 1));
    }
    for (size_t i = 0; i < a->n_intervals && !m->failed; i++) {
        bool none = bounds[i] == 0xd800 || bounds[i] > PATTERN_LAST ||
                    (bounds[i] > 0xd800 && bounds[i] < 0xe000);

        a->intervals[i] =
            (char_interval){bounds[i], none ? AUTOMATON_NO_CLASS : class_of(m, bounds[i], has)};
    }
    free(has);
    free(bounds);
}

/* --- sets of nodes --- */

static void new_round(maker *m)
{
    m->round++;
    m->n_reached = 0;
}

static void reach(maker *m, uint32_t node)
{
    if (node != 0 && m->round_of[node] != m->round && spend(m, 1)) {
        m->round_of[node] = m->round;
        m->reached[m->n_reached++] = node;
    }
}

/* Adds what is reached without a character. */
static void close_over(maker *m, bool at_start, bool at_end)
{
    for (uint32_t i = 0; i < m->n_reached; i++) {
        const pattern_node *node = &m->p->nodes[m->reached[i]];

        if (node->kind == NODE_SKIP || (node->kind == NODE_START && at_start) ||
            (node->kind == NODE_END && at_end)) {
            reach(m, node->to);
            reach(m, node->or_to);
        }
    }
}

static bool is_found(const maker *m, uint32_t part)
{
    for (uint32_t i = 0; i < m->n_reached; i++) {
        const pattern_node *node = &m->p->nodes[m->reached[i]];

        if (node->kind == NODE_FOUND && node->part == part) {
            return true;
        }
    }
    return false;
}

/* Leaves those that matter: of a part that is found only that, and where it must not be,
 * nothing else at all. */
static void keep_what_matters(maker *m)
{
    bool found[PATTERN_MAX_PARTS] = {false};
    uint32_t kept = 0;

    for (uint32_t i = 0; i < m->n_reached; i++) {
        const pattern_node *node = &m->p->nodes[m->reached[i]];

        found[node->part] = found[node->part] || node->kind == NODE_FOUND;
        if (node->kind == NODE_FOUND && m->p->parts[node->part].negative) {
            m->reached[0] = m->reached[i];
            m->n_reached = 1;
            return;
        }
    }
    for (uint32_t i = 0; i < m->n_reached; i++) {
        const pattern_node *node = &m->p->nodes[m->reached[i]];

        if (node->kind == NODE_FOUND ||
            (!found[node->part] && (node->kind == NODE_SET || node->kind == NODE_END))) {
            m->reached[kept++] = m->reached[i];
        }
    }
    m->n_reached = kept;
    qsort(m->reached, kept, sizeof(*m->reached), by_value);
}

/* Does the text match if it ends here? */
static bool accepts(maker *m, const node_set *s, bool at_start)
{
    new_round(m);
    for (uint32_t i = 0; i < s->n; i++) {
        reach(m, s->nodes[i]);
    }
    close_over(m, at_start, true);
    for (uint32_t i = 0; i < m->p->n_parts; i++) {
        if (is_found(m, i) == m->p->parts[i].negative) {
            return false;
        }
    }
    return true;
}

static uint32_t *bucket_of(maker *m)
{
    uint64_t hash = m->n_reached;

    for (uint32_t i = 0; i < m->n_reached; i++) {
        hash = (hash ^ m->reached[i]) * 0xd6e8feb86659fd93U;
        hash ^= hash >> 32;
    }
    return &m->buckets[hash % N_BUCKETS];
}

static uint32_t add_state(maker *m, bool at_start)
{
    automaton *a = m->a;
    uint32_t at = a->n_states;
    node_set *s = &m->sets[at];

    if (at == AUTOMATON_MAX_STATES || m->failed) {
        m->failed = true;
        return 0;
    }
    *s = (node_set){.n = m->n_reached};
    s->nodes = aiq_alloc((s->n + 1) * sizeof(*s->nodes));
    memcpy(s->nodes, m->reached, s->n * sizeof(*s->nodes));
    a->n_states++;
    a->accepts[at] = accepts(m, s, at_start);
    return at;
}

/* The state of the nodes that are reached. The first is no other's, for a ^ holds there. */
static uint32_t state_of(maker *m)
{
    uint32_t *bucket = bucket_of(m), at;

    for (uint32_t i = *bucket; i != 0; i = m->sets[i - 1].same_hash) {
        const node_set *s = &m->sets[i - 1];

        if (s->n == m->n_reached &&
            (s->n == 0 || memcmp(s->nodes, m->reached, s->n * sizeof(*s->nodes)) == 0)) {
            return i - 1;
        }
    }
    at = add_state(m, false);
    m->sets[at].same_hash = *bucket;
    *bucket = at + 1;
    return at;
}

/* Where a character of the class leads to. */
static uint32_t step(maker *m, uint32_t state, uint32_t class)
{
    const node_set *s = &m->sets[state];

    new_round(m);
    for (uint32_t i = 0; i < s->n; i++) {
        const pattern_node *node = &m->p->nodes[s->nodes[i]];

        if (node->kind == NODE_FOUND) {
            reach(m, s->nodes[i]);
        } else if (node->kind == NODE_SET && m->has[class * m->p->n_sets + node->set]) {
            reach(m, node->to);
        }
    }
    spend(m, s->n + 1);
    close_over(m, false, false);
    keep_what_matters(m);
    return state_of(m);
}

/* --- states --- */

static void find_states(maker *m)
{
    automaton *a = m->a;

    new_round(m);
    for (size_t i = 0; i < m->p->n_parts; i++) {
        reach(m, m->p->parts[i].start);
    }
    close_over(m, true, false);
    keep_what_matters(m);
    add_state(m, true);
    for (uint32_t s = 0; s < a->n_states && !m->failed; s++) {
        size_t size = (size_t)a->n_classes * sizeof(*a->next);

        /* grows by halves: most have few states */
        if ((s & (s - 1)) == 0) {
            uint32_t *more = aiq_alloc((s > 0 ? 2 * (size_t)s : 1) * size);

            if (s > 0) {
                memcpy(more, a->next, s * size);
            }
            free(a->next);
            a->next = more;
        }
        for (uint32_t class = 0; class < a->n_classes && !m->failed; class ++) {
            a->next[(size_t)s * a->n_classes + class] = step(m, s, class);
        }
    }
}

/* A list of who leads to a state: from it backwards, the nearest first. */
static void find_needs(automaton *a)
{
    size_t n_edges = (size_t)a->n_states * a->n_classes;
    uint32_t *into = aiq_zalloc((a->n_states + n_edges) * sizeof(*into));
    uint32_t *same = into + a->n_states;
    uint32_t *found = aiq_alloc(a->n_states * sizeof(*found)), n = 0;

    for (size_t e = 0; e < n_edges; e++) {
        same[e] = into[a->next[e]];
        into[a->next[e]] = (uint32_t)e + 1;
    }
    for (uint32_t s = 0; s < a->n_states; s++) {
        a->needs[s] = a->accepts[s] ? 0 : AUTOMATON_NEVER;
        if (a->accepts[s]) {
            found[n++] = s;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t e = into[found[i]]; e != 0; e = same[e - 1]) {
            uint32_t from = (e - 1) / a->n_classes;

            if (a->needs[from] == AUTOMATON_NEVER) {
                a->needs[from] = a->needs[found[i]] + 1;
                found[n++] = from;
            }
        }
    }
    free(found);
    free(into);
}

automaton *automaton_new(const pattern *p)
{
    automaton *a = aiq_zalloc(sizeof(*a));
    maker m = {.p = p, .a = a, .work = p->work};

    a->accepts = aiq_alloc(AUTOMATON_MAX_STATES * sizeof(*a->accepts));
    a->needs = aiq_alloc(AUTOMATON_MAX_STATES * sizeof(*a->needs));
    m.sets = aiq_zalloc(AUTOMATON_MAX_STATES * sizeof(*m.sets));
    m.round_of = aiq_zalloc(2 * p->n_nodes * sizeof(*m.round_of));
    m.reached = m.round_of + p->n_nodes;
    find_classes(&m);
    if (!m.failed) {
        find_states(&m);
    }
    for (uint32_t i = 0; i < a->n_states; i++) {
        free(m.sets[i].nodes);
    }
    free(m.sets);
    free(m.round_of);
    free(m.has);
    if (m.failed) {
        automaton_free(a);
        return NULL;
    }
    find_needs(a);
    return a;
}

void automaton_free(automaton *a)
{
    free(a->intervals);
    free(a->next);
    free(a->accepts);
    free(a->needs);
    free(a);
}
