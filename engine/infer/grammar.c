#include "infer/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "core/pool.h"

/* One set may hold so many places, one matcher so many sets; then its tables begin anew. */
#define MAX_PLACES 20000
#define MAX_SETS   4096
#define MAX_STACKS 65536

#define UNKNOWN (-2)

typedef enum { EDGE_BYTES, EDGE_SKIP, EDGE_CALL } edge_kind;

typedef struct {
    edge_kind kind;
    uint8_t low, high;
    uint32_t rule;
    uint32_t to;
    uint32_t next; /* of the same state, + 1; 0: none */
} edge;

typedef struct {
    uint32_t edges; /* + 1; 0: none */
    bool takes_bytes;
    bool ends; /* its rule */
} state;

typedef struct {
    uint32_t start, end;
} rule;

/* Arrays that grow; n counts. */
typedef struct {
    void *p;
    size_t n, cap;
} array;

struct grammar {
    array states; /* state */
    array edges;  /* edge */
    array rules;  /* rule */
    bool too_large;
    uint8_t
        *needs; /* [states] how deep the calls are that lead to the rule's end; by the check */
};

static void *append(array *a, size_t size)
{
    if (a->n == a->cap) {
        size_t cap = a->cap > 0 ? a->cap * 2 : 64;
        void *p = aiq_alloc(cap * size);

        if (a->n > 0) {
            memcpy(p, a->p, a->n * size);
        }
        free(a->p);
        a->p = p;
        a->cap = cap;
    }
    return (char *)a->p + a->n++ * size;
}

static state *state_at(const grammar *g, uint32_t i)
{
    return (state *)g->states.p + i;
}

static edge *edge_at(const grammar *g, uint32_t i)
{
    return (edge *)g->edges.p + i;
}

static rule *rule_at(const grammar *g, uint32_t i)
{
    return (rule *)g->rules.p + i;
}

/* --- making --- */

grammar *grammar_new(void)
{
    return aiq_zalloc(sizeof(grammar));
}

void grammar_free(grammar *g)
{
    free(g->states.p);
    free(g->edges.p);
    free(g->rules.p);
    free(g->needs);
    free(g);
}

uint32_t grammar_state(grammar *g)
{
    if (g->states.n >= GRAMMAR_MAX_STATES) {
        g->too_large = true;
        return 0;
    }
    *(state *)append(&g->states, sizeof(state)) = (state){0};
    return (uint32_t)g->states.n - 1;
}

uint32_t grammar_rule(grammar *g)
{
    rule r = {.start = grammar_state(g), .end = grammar_state(g)};

    state_at(g, r.end)->ends = true;
    *(rule *)append(&g->rules, sizeof(rule)) = r;
    return (uint32_t)g->rules.n - 1;
}

uint32_t grammar_start(const grammar *g, uint32_t r)
{
    return rule_at(g, r)->start;
}

uint32_t grammar_end(const grammar *g, uint32_t r)
{
    return rule_at(g, r)->end;
}

static void add_edge(grammar *g, uint32_t from, edge e)
{
    if (g->edges.n >= (size_t)8 * GRAMMAR_MAX_STATES) {
        g->too_large = true;
        return;
    }
    e.next = state_at(g, from)->edges;
    *(edge *)append(&g->edges, sizeof(edge)) = e;
    state_at(g, from)->edges = (uint32_t)g->edges.n;
}

void grammar_bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high, uint32_t to)
{
    add_edge(g, from, (edge){.kind = EDGE_BYTES, .low = low, .high = high, .to = to});
    state_at(g, from)->takes_bytes = true;
}

void grammar_skip(grammar *g, uint32_t from, uint32_t to)
{
    add_edge(g, from, (edge){.kind = EDGE_SKIP, .to = to});
}

void grammar_call(grammar *g, uint32_t from, uint32_t r, uint32_t to)
{
    add_edge(g, from, (edge){.kind = EDGE_CALL, .rule = r, .to = to});
}

bool grammar_full(const grammar *g)
{
    return g->too_large;
}

/* Does a rule call itself before it has taken a byte? Depth-first over states; a rule's mark
 * is 1 while it is looked at, 2 behind that. No rule but white space can be empty, and that is
 * never the first. */
static bool circular(const grammar *g, uint32_t r, uint8_t *marks, int depth);

static bool circular_from(const grammar *g, uint32_t s, uint8_t *marks, int depth)
{
    if (depth > GRAMMAR_MAX_DEPTH) {
        return true;
    }
    for (uint32_t e = state_at(g, s)->edges; e != 0; e = edge_at(g, e - 1)->next) {
        const edge *x = edge_at(g, e - 1);

        if ((x->kind == EDGE_SKIP && circular_from(g, x->to, marks, depth + 1)) ||
            (x->kind == EDGE_CALL && circular(g, x->rule, marks, depth + 1))) {
            return true;
        }
    }
    return false;
}

static bool circular(const grammar *g, uint32_t r, uint8_t *marks, int depth)
{
    bool found;

    if (marks[r] != 0) {
        return marks[r] == 1;
    }
    marks[r] = 1;
    found = circular_from(g, rule_at(g, r)->start, marks, depth);
    marks[r] = 2;
    return found;
}

/* --- what can end --- */

#define NEVER UINT8_MAX

/* The edges that lead to a state, and the calls of a rule: lists by edge, + 1; 0: none. */
typedef struct {
    grammar *g;
    uint32_t *from;              /* [edges] */
    uint32_t *into, *next_into;  /* [states], [edges] */
    uint32_t *calls, *next_call; /* [rules], [edges] */
    uint32_t *rule_of;           /* [states] + 1, of their starts */
    array found;                 /* uint32_t: states whose need became less */
} search;

static void search_begin(search *s, grammar *g)
{
    size_t states = g->states.n, edges = g->edges.n, rules = g->rules.n;

    *s = (search){.g = g};
    s->from = aiq_zalloc((3 * edges + 2 * states + rules) * sizeof(uint32_t));
    s->next_into = s->from + edges;
    s->next_call = s->next_into + edges;
    s->into = s->next_call + edges;
    s->rule_of = s->into + states;
    s->calls = s->rule_of + states;
    for (uint32_t i = 0; i < states; i++) {
        for (uint32_t e = state_at(g, i)->edges; e != 0; e = edge_at(g, e - 1)->next) {
            const edge *x = edge_at(g, e - 1);

            s->from[e - 1] = i;
            s->next_into[e - 1] = s->into[x->to];
            s->into[x->to] = e;
            if (x->kind == EDGE_CALL) {
                s->next_call[e - 1] = s->calls[x->rule];
                s->calls[x->rule] = e;
            }
        }
    }
    for (uint32_t r = 0; r < rules; r++) {
        s->rule_of[grammar_start(g, r)] = r + 1;
    }
}

static void found(search *s, uint32_t at, unsigned need)
{
    if (need < s->g->needs[at]) {
        s->g->needs[at] = (uint8_t)need;
        *(uint32_t *)append(&s->found, sizeof(uint32_t)) = at;
    }
}

/* What an edge needs, now that its target or its rule needs less. */
static void look_at(search *s, uint32_t e)
{
    const edge *x = edge_at(s->g, e);
    unsigned need = s->g->needs[x->to];

    if (x->kind == EDGE_CALL) {
        unsigned inside = s->g->needs[grammar_start(s->g, x->rule)] + 1U;

        need = inside > need ? inside : need;
    }
    if (need <= GRAMMAR_MAX_DEPTH) {
        found(s, s->from[e], need);
    }
}

/* From the rules' ends backwards, as long as something becomes less. */
static void find_needs(grammar *g)
{
    search s;

    free(g->needs);
    g->needs = aiq_alloc(g->states.n);
    memset(g->needs, NEVER, g->states.n);
    search_begin(&s, g);
    for (uint32_t r = 0; r < g->rules.n; r++) {
        found(&s, grammar_end(g, r), 0);
    }
    for (size_t i = 0; i < s.found.n; i++) {
        uint32_t at = ((uint32_t *)s.found.p)[i], rule_of = s.rule_of[at];

        for (uint32_t e = s.into[at]; e != 0; e = s.next_into[e - 1]) {
            look_at(&s, e - 1);
        }
        for (uint32_t e = rule_of > 0 ? s.calls[rule_of - 1] : 0; e != 0;
             e = s.next_call[e - 1]) {
            look_at(&s, e - 1);
        }
    }
    free(s.found.p);
    free(s.from);
}

const char *grammar_check(grammar *g)
{
    uint8_t *marks;
    bool found = false;

    if (g->too_large) {
        return "it is too large";
    }
    marks = aiq_zalloc(g->rules.n);
    for (uint32_t r = 0; r < g->rules.n && !found; r++) {
        found = circular(g, r, marks, 0);
    }
    free(marks);
    if (found) {
        return "it refers to itself without anything between";
    }
    find_needs(g);
    return g->needs[grammar_start(g, 0)] == NEVER ? "it never ends" : NULL;
}

/* --- matching --- */

typedef struct {
    uint32_t state;
    uint32_t stack; /* 0: the first rule's end is the string's */
} place;

/* A rule's return, on top of others. Equal stacks are one. */
typedef struct {
    uint32_t below;
    uint32_t to;
    uint32_t depth;
    uint32_t same_hash; /* + 1 */
} stack;

typedef struct {
    place *places; /* [n] in order */
    uint32_t n;
    bool complete;
    int32_t *next; /* [256] or NULL */
    void *slot;
    uint32_t same_hash; /* + 1 */
} set;

#define N_BUCKETS 8192
#define SEEN      65536

/* A place of work, if it is of this round. */
typedef struct {
    uint32_t round;
    uint32_t at;
} seen;

struct matcher {
    grammar *g;
    bool owns;    /* the grammar */
    array sets;   /* set */
    array stacks; /* stack; the first is the empty one */
    uint32_t set_buckets[N_BUCKETS], stack_buckets[N_BUCKETS];
    array work; /* place: of the set that is made */
    seen *seen; /* [SEEN] by hash */
    uint32_t round;
};

static set *set_at(const matcher *m, int32_t i)
{
    return (set *)m->sets.p + i;
}

static const stack *stack_at(const matcher *m, uint32_t i)
{
    return (const stack *)m->stacks.p + i;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* below with to on top; UINT32_MAX: too deep, or too many. */
static uint32_t push(matcher *m, uint32_t below, uint32_t to)
{
    uint32_t *bucket = &m->stack_buckets[mix((uint64_t)below << 32 | to) % N_BUCKETS];

    for (uint32_t i = *bucket; i != 0; i = stack_at(m, i - 1)->same_hash) {
        if (stack_at(m, i - 1)->below == below && stack_at(m, i - 1)->to == to) {
            return i - 1;
        }
    }
    if (stack_at(m, below)->depth >= GRAMMAR_MAX_DEPTH || m->stacks.n >= MAX_STACKS) {
        return UINT32_MAX;
    }
    stack s = {below, to, stack_at(m, below)->depth + 1, *bucket};
    *(stack *)append(&m->stacks, sizeof(stack)) = s;
    *bucket = (uint32_t)m->stacks.n;
    return *bucket - 1;
}

static void new_round(matcher *m)
{
    m->work.n = 0;
    if (++m->round == 0) {
        memset(m->seen, 0, SEEN * sizeof(*m->seen));
        m->round = 1;
    }
}

/* Is there a way to the end of its rule, and room for the calls on it? */
static bool can_end(const matcher *m, place p)
{
    return stack_at(m, p.stack)->depth + m->g->needs[p.state] <= GRAMMAR_MAX_DEPTH;
}

/* Adds a place to work unless it is there, or cannot end. */
static void visit(matcher *m, place p)
{
    const place *work = m->work.p;
    size_t i;

    if (p.stack == UINT32_MAX || m->work.n >= MAX_PLACES || !can_end(m, p)) {
        return;
    }
    i = mix((uint64_t)p.state << 32 | p.stack) % SEEN;
    for (; m->seen[i].round == m->round; i = (i + 1) % SEEN) {
        const place *q = &work[m->seen[i].at];

        if (q->state == p.state && q->stack == p.stack) {
            return;
        }
    }
    m->seen[i] = (seen){m->round, (uint32_t)m->work.n};
    *(place *)append(&m->work, sizeof(place)) = p;
}

/* All that work leads to without a byte. Leaves in it the places that take one; returns
 * whether the string may end. */
static bool close_over(matcher *m)
{
    const grammar *g = m->g;
    bool complete = false;
    size_t kept = 0;
    place *work;

    for (size_t i = 0; i < m->work.n; i++) {
        place p = ((place *)m->work.p)[i];
        const state *s = state_at(g, p.state);

        if (s->ends && p.stack == 0) {
            complete = true;
        } else if (s->ends) {
            visit(m, (place){stack_at(m, p.stack)->to, stack_at(m, p.stack)->below});
        }
        for (uint32_t e = s->edges; e != 0; e = edge_at(g, e - 1)->next) {
            const edge *x = edge_at(g, e - 1);

            if (x->kind == EDGE_SKIP) {
                visit(m, (place){x->to, p.stack});
            } else if (x->kind == EDGE_CALL && can_end(m, (place){x->to, p.stack})) {
                visit(m, (place){rule_at(g, x->rule)->start, push(m, p.stack, x->to)});
            }
        }
    }
    work = m->work.p;
    for (size_t i = 0; i < m->work.n; i++) {
        if (state_at(g, work[i].state)->takes_bytes) {
            work[kept++] = work[i];
        }
    }
    m->work.n = kept;
    return complete;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;

    return x->state != y->state ? (x->state > y->state) - (x->state < y->state)
                                : (x->stack > y->stack) - (x->stack < y->stack);
}

/* The number of the set that is in work. */
static int32_t intern(matcher *m, bool complete)
{
    const place *work = m->work.p;
    uint32_t n = (uint32_t)m->work.n, *bucket;
    uint64_t hash = n * 2 + complete;
    set *s;

    if (n == 0 && !complete) {
        return MATCHER_DEAD;
    }
    if (n > 0) {
        qsort(m->work.p, n, sizeof(place), by_place);
    }
    for (uint32_t i = 0; i < n; i++) {
        hash = mix(hash ^ ((uint64_t)work[i].state << 32 | work[i].stack));
    }
    bucket = &m->set_buckets[hash % N_BUCKETS];
    for (uint32_t i = *bucket; i != 0; i = set_at(m, (int32_t)i - 1)->same_hash) {
        s = set_at(m, (int32_t)i - 1);
        if (s->n == n && s->complete == complete &&
            (n == 0 || memcmp(s->places, work, n * sizeof(place)) == 0)) {
            return (int32_t)i - 1;
        }
    }
    s = append(&m->sets, sizeof(set));
    *s = (set){.n = n, .complete = complete, .same_hash = *bucket};
    s->places = aiq_alloc(n * sizeof(place));
    if (n > 0) {
        memcpy(s->places, work, n * sizeof(place));
    }
    *bucket = (uint32_t)m->sets.n;
    return (int32_t)*bucket - 1;
}

static void free_sets(array *sets)
{
    set *s = sets->p;

    for (size_t i = 0; i < sets->n; i++) {
        free(s[i].places);
        free(s[i].next);
        free(s[i].slot);
    }
    free(sets->p);
}

/* Empty tables, and the string's beginning as the first place. */
static void begin_tables(matcher *m)
{
    m->sets = m->stacks = (array){0};
    memset(m->set_buckets, 0, sizeof(m->set_buckets));
    memset(m->stack_buckets, 0, sizeof(m->stack_buckets));
    *(stack *)append(&m->stacks, sizeof(stack)) = (stack){0};
    new_round(m);
    visit(m, (place){rule_at(m->g, 0)->start, 0});
    intern(m, close_over(m));
}

static matcher *new_matcher(grammar *g, bool owns)
{
    matcher *m = aiq_zalloc(sizeof(*m));

    m->g = g;
    m->owns = owns;
    m->seen = aiq_zalloc(SEEN * sizeof(*m->seen));
    begin_tables(m);
    return m;
}

matcher *matcher_new(grammar *g)
{
    return new_matcher(g, true);
}

matcher *matcher_twin(const matcher *m)
{
    return new_matcher(m->g, false);
}

void matcher_free(matcher *m)
{
    free_sets(&m->sets);
    if (m->owns) {
        grammar_free(m->g);
    }
    free(m->stacks.p);
    free(m->work.p);
    free(m->seen);
    free(m);
}

static int32_t step(matcher *m, int32_t at, uint8_t byte)
{
    const set *s = set_at(m, at);

    new_round(m);
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t e = state_at(m->g, s->places[i].state)->edges; e != 0;
             e = edge_at(m->g, e - 1)->next) {
            const edge *x = edge_at(m->g, e - 1);

            if (x->kind == EDGE_BYTES && byte >= x->low && byte <= x->high) {
                visit(m, (place){x->to, s->places[i].stack});
            }
        }
    }
    return m->work.n > 0 ? intern(m, close_over(m)) : MATCHER_DEAD;
}

int32_t matcher_next(matcher *m, int32_t at, uint8_t byte)
{
    int32_t to;

    if (set_at(m, at)->next == NULL) {
        int32_t *next = aiq_alloc(256 * sizeof(*next));

        for (int i = 0; i < 256; i++) {
            next[i] = UNKNOWN;
        }
        set_at(m, at)->next = next;
    }
    to = set_at(m, at)->next[byte];
    if (to == UNKNOWN) {
        to = step(m, at, byte);
        set_at(m, at)->next[byte] = to;
    }
    return to;
}

bool matcher_complete(const matcher *m, int32_t at)
{
    return set_at(m, at)->complete;
}

bool matcher_finished(const matcher *m, int32_t at)
{
    return set_at(m, at)->complete && set_at(m, at)->n == 0;
}

int matcher_only(const matcher *m, int32_t at)
{
    const set *s = set_at(m, at);
    int only = -1;

    for (uint32_t i = 0; i < s->n && !s->complete; i++) {
        for (uint32_t e = state_at(m->g, s->places[i].state)->edges; e != 0;
             e = edge_at(m->g, e - 1)->next) {
            const edge *x = edge_at(m->g, e - 1);

            if (x->kind != EDGE_BYTES || !can_end(m, (place){x->to, s->places[i].stack})) {
                continue;
            }
            if (x->low != x->high || (only >= 0 && only != x->low)) {
                return -1;
            }
            only = x->low;
        }
    }
    return only;
}

/* The returns of a stack, the lowest first; behind them a new matcher has the same. */
static uint32_t move_stack(matcher *m, const array *old, uint32_t i)
{
    const stack *s = (const stack *)old->p + i;

    return i == 0 ? 0 : push(m, move_stack(m, old, s->below), s->to);
}

bool matcher_is_large(const matcher *m)
{
    return m->sets.n >= MAX_SETS || m->stacks.n >= MAX_STACKS / 2;
}

/* The number of a set whose stacks are numbered as in others. */
static int32_t adopt(matcher *m, const set *s, const array *stacks)
{
    new_round(m);
    for (uint32_t i = 0; i < s->n; i++) {
        visit(m, (place){s->places[i].state, move_stack(m, stacks, s->places[i].stack)});
    }
    return intern(m, s->complete);
}

void matcher_trim(matcher *m, int32_t *const *at, size_t n)
{
    array sets = m->sets, stacks = m->stacks;

    begin_tables(m);
    for (size_t i = 0; i < n; i++) {
        *at[i] = adopt(m, (const set *)sets.p + *at[i], &stacks);
    }
    free_sets(&sets);
    free(stacks.p);
}

int32_t matcher_import(matcher *m, const matcher *from, int32_t at)
{
    return adopt(m, set_at(from, at), &from->stacks);
}

void **matcher_slot(matcher *m, int32_t at)
{
    return &set_at(m, at)->slot;
}
