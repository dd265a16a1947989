#include "infer/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "core/pool.h"

/* One set may hold so many places, one matcher so many sets; then its tables begin anew. */
#define MAX_PLACES 20000
#define MAX_SETS   4096
#define MAX_STACKS 65536
#define MAX_WAYS   ((size_t)4 * MAX_STACKS)

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
    uint8_t *needs; /* [states] how deep calls go on the way to the rule's end; by the check */
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

/* Where a rule that was called returns to, and with what stack. */
typedef place way_back;

/*
 * The ways back from a rule, of all who called it at one byte of the string: what they have in
 * common is gone through once, however many alternatives begin alike and however often one is
 * in the other. Equal stacks are one; those below have lower numbers.
 */
typedef struct {
    uint32_t first, n;  /* of the ways back */
    uint32_t depth;     /* of the shortest */
    uint32_t same_hash; /* + 1 */
} stack;

/* One that is being made: its number is OPEN and its place. */
#define OPEN 0x80000000u

typedef struct {
    uint32_t last; /* of its ways back, + 1; 0: none */
    uint32_t depth;
    uint32_t made; /* its number, + 1, when that is known */
    bool ended;    /* the rule, before another byte was taken */
} open_stack;

typedef struct {
    way_back to;
    uint32_t before; /* of the same stack, + 1 */
} open_way;

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

/* A place of work, if it is of this round; or a rule's open stack. */
typedef struct {
    uint32_t round;
    uint32_t at;
} seen;

struct matcher {
    grammar *g;
    bool owns;    /* the grammar */
    array sets;   /* set */
    array stacks; /* stack; the first is the empty one */
    array ways;   /* way_back: of the stacks */
    uint32_t set_buckets[N_BUCKETS], stack_buckets[N_BUCKETS];

    /* of the set that is made */
    array work;      /* place */
    array open;      /* open_stack */
    array open_ways; /* open_way */
    seen *seen;      /* [SEEN] by hash */
    seen *called;    /* [rules] */
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

static open_stack *open_at(const matcher *m, uint32_t i)
{
    return (open_stack *)m->open.p + (i & ~OPEN);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static int by_place(const void *a, const void *b)
{
    const place *x = a, *y = b;

    return x->state != y->state ? (x->state > y->state) - (x->state < y->state)
                                : (x->stack > y->stack) - (x->stack < y->stack);
}

/* Sorts them, and leaves one of equals. Returns how many there are then. */
static uint32_t in_order(place *p, uint32_t n)
{
    uint32_t kept = 0;

    if (n > 1) {
        qsort(p, n, sizeof(*p), by_place);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (kept == 0 || by_place(&p[i], &p[kept - 1]) != 0) {
            p[kept++] = p[i];
        }
    }
    return kept;
}

static uint64_t hash_of(uint64_t hash, const place *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        hash = mix(hash ^ ((uint64_t)p[i].state << 32 | p[i].stack));
    }
    return hash;
}

static const way_back *ways_of(const matcher *m, const stack *s)
{
    return (const way_back *)m->ways.p + s->first;
}

/* The stack with the ways back behind first, which nobody else has; UINT32_MAX: there are too
 * many. */
static uint32_t make_stack(matcher *m, uint32_t first)
{
    way_back *ways = (way_back *)m->ways.p + first;
    uint32_t n = in_order(ways, (uint32_t)m->ways.n - first), depth = UINT32_MAX;
    uint32_t *bucket = &m->stack_buckets[hash_of(n, ways, n) % N_BUCKETS];

    m->ways.n = first;
    for (uint32_t i = *bucket; i != 0; i = stack_at(m, i - 1)->same_hash) {
        const stack *s = stack_at(m, i - 1);

        if (s->n == n && memcmp(ways_of(m, s), ways, n * sizeof(*ways)) == 0) {
            return i - 1;
        }
    }
    if (m->stacks.n >= MAX_STACKS || first + n > MAX_WAYS) {
        return UINT32_MAX;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t below = stack_at(m, ways[i].stack)->depth;

        depth = below < depth ? below : depth;
    }
    m->ways.n = first + n;
    *(stack *)append(&m->stacks, sizeof(stack)) = (stack){first, n, depth + 1, *bucket};
    *bucket = (uint32_t)m->stacks.n;
    return *bucket - 1;
}

static void new_round(matcher *m)
{
    m->work.n = m->open.n = m->open_ways.n = 0;
    if (++m->round == 0) {
        memset(m->seen, 0, SEEN * sizeof(*m->seen));
        memset(m->called, 0, m->g->rules.n * sizeof(*m->called));
        m->round = 1;
    }
}

static uint32_t depth_of(const matcher *m, uint32_t i)
{
    return i & OPEN ? open_at(m, i)->depth : stack_at(m, i)->depth;
}

/* Is there a way to the end of its rule, and room for the calls on it? */
static bool can_end(const matcher *m, place p)
{
    return depth_of(m, p.stack) + m->g->needs[p.state] <= GRAMMAR_MAX_DEPTH;
}

/* Adds a place to work unless it is there, or cannot end. */
static void visit(matcher *m, place p)
{
    const place *work = m->work.p;
    size_t i;

    if (m->work.n >= MAX_PLACES || !can_end(m, p)) {
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

/* A rule is called: now, or by another at this byte. */
static void call(matcher *m, uint32_t r, way_back to)
{
    uint32_t depth = depth_of(m, to.stack) + 1, at;
    open_stack *o;

    if (m->called[r].round != m->round) {
        m->called[r] = (seen){m->round, (uint32_t)m->open.n};
        *(open_stack *)append(&m->open, sizeof(open_stack)) = (open_stack){.depth = depth};
    }
    at = m->called[r].at;
    o = open_at(m, at);
    o->depth = depth < o->depth ? depth : o->depth;
    *(open_way *)append(&m->open_ways, sizeof(open_way)) = (open_way){to, o->last};
    o->last = (uint32_t)m->open_ways.n;
    if (o->ended) {
        visit(m, to);
    }
    visit(m, (place){rule_at(m->g, r)->start, OPEN | at});
}

/* To all who called the rule that ends. */
static void go_back(matcher *m, uint32_t from)
{
    if (from & OPEN) {
        open_at(m, from)->ended = true;
        for (uint32_t i = open_at(m, from)->last; i != 0;) {
            open_way w = ((const open_way *)m->open_ways.p)[i - 1];

            visit(m, w.to);
            i = w.before;
        }
        return;
    }
    for (uint32_t i = 0; i < stack_at(m, from)->n; i++) {
        visit(m, ways_of(m, stack_at(m, from))[i]);
    }
}

/* The number of an open stack to which nothing is added any more. Those below come first; none
 * is below itself, for rules do not begin with themselves. */
static uint32_t close_stack(matcher *m, uint32_t at)
{
    open_stack *o = open_at(m, at);
    uint32_t first, made = UINT32_MAX;

    if (!(at & OPEN) || o->made != 0) {
        return at & OPEN ? o->made - 1 : at;
    }
    for (uint32_t i = o->last; i != 0; i = ((open_way *)m->open_ways.p)[i - 1].before) {
        way_back *to = &((open_way *)m->open_ways.p)[i - 1].to;

        to->stack = close_stack(m, to->stack);
    }
    first = (uint32_t)m->ways.n;
    for (uint32_t i = o->last; i != 0; i = ((open_way *)m->open_ways.p)[i - 1].before) {
        way_back to = ((open_way *)m->open_ways.p)[i - 1].to;

        if (to.stack != UINT32_MAX) {
            *(way_back *)append(&m->ways, sizeof(to)) = to;
        }
    }
    if (m->ways.n > first) {
        made = make_stack(m, first);
    }
    o->made = made + 1;
    return made;
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
            go_back(m, p.stack);
        }
        for (uint32_t e = s->edges; e != 0; e = edge_at(g, e - 1)->next) {
            const edge *x = edge_at(g, e - 1);

            if (x->kind == EDGE_SKIP) {
                visit(m, (place){x->to, p.stack});
            } else if (x->kind == EDGE_CALL && can_end(m, (place){x->to, p.stack})) {
                call(m, x->rule, (way_back){x->to, p.stack});
            }
        }
    }
    work = m->work.p;
    for (size_t i = 0; i < m->work.n; i++) {
        place p = work[i];

        if (state_at(g, p.state)->takes_bytes) {
            p.stack = close_stack(m, p.stack);
            if (p.stack != UINT32_MAX) {
                work[kept++] = p;
            }
        }
    }
    m->work.n = in_order(work, (uint32_t)kept);
    return complete;
}

/* The number of the set that is in work. */
static int32_t intern(matcher *m, bool complete)
{
    const place *work = m->work.p;
    uint32_t n = (uint32_t)m->work.n, *bucket;
    set *s;

    if (n == 0 && !complete) {
        return MATCHER_DEAD;
    }
    bucket = &m->set_buckets[hash_of(n * 2 + complete, work, n) % N_BUCKETS];
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
    m->sets = m->stacks = m->ways = (array){0};
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
    m->called = aiq_zalloc(g->rules.n * sizeof(*m->called));
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
    free(m->ways.p);
    free(m->work.p);
    free(m->open.p);
    free(m->open_ways.p);
    free(m->seen);
    free(m->called);
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

bool matcher_is_large(const matcher *m)
{
    return m->sets.n >= MAX_SETS || m->stacks.n >= MAX_STACKS / 2 || m->ways.n >= MAX_WAYS / 2;
}

/* Tables that another matcher has, or this one had: what is adopted comes from there. */
typedef struct {
    const set *sets;
    const stack *stacks;
    const way_back *ways;
    size_t n;        /* stacks */
    uint32_t *moved; /* [n] 0: nobody needs it; 1: it is needed; + 2: its number here */
} tables;

#define NO_ROOM UINT32_MAX /* moved: there are too many here */

static tables tables_of(const array *sets, const array *stacks, const array *ways)
{
    tables t = {sets->p, stacks->p, ways->p, stacks->n, NULL};

    t.moved = aiq_zalloc(t.n * sizeof(*t.moved));
    return t;
}

static void need_stacks(const tables *t, int32_t at)
{
    for (uint32_t i = 0; i < t->sets[at].n; i++) {
        t->moved[t->sets[at].places[i].stack] = 1;
    }
}

/* The stacks that are needed, and those below them. */
static void move_stacks(matcher *m, const tables *t)
{
    for (size_t i = t->n; i-- > 1;) {
        for (uint32_t k = 0; t->moved[i] != 0 && k < t->stacks[i].n; k++) {
            t->moved[t->ways[t->stacks[i].first + k].stack] = 1;
        }
    }
    t->moved[0] = 2;
    for (size_t i = 1; i < t->n; i++) {
        uint32_t first = (uint32_t)m->ways.n, made = UINT32_MAX;

        for (uint32_t k = 0; t->moved[i] != 0 && k < t->stacks[i].n; k++) {
            way_back w = t->ways[t->stacks[i].first + k];

            if (t->moved[w.stack] != NO_ROOM) {
                w.stack = t->moved[w.stack] - 2;
                *(way_back *)append(&m->ways, sizeof(w)) = w;
            }
        }
        if (m->ways.n > first) {
            made = make_stack(m, first);
        }
        if (t->moved[i] != 0) {
            t->moved[i] = made != UINT32_MAX ? made + 2 : NO_ROOM;
        }
    }
}

static int32_t adopt(matcher *m, const tables *t, int32_t at)
{
    const set *s = &t->sets[at];

    new_round(m);
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t moved = t->moved[s->places[i].stack];

        if (moved != NO_ROOM) {
            visit(m, (place){s->places[i].state, moved - 2});
        }
    }
    m->work.n = in_order(m->work.p, (uint32_t)m->work.n);
    return intern(m, s->complete);
}

void matcher_trim(matcher *m, int32_t *const *at, size_t n)
{
    array sets = m->sets, stacks = m->stacks, ways = m->ways;
    tables old = tables_of(&sets, &stacks, &ways);

    begin_tables(m);
    for (size_t i = 0; i < n; i++) {
        need_stacks(&old, *at[i]);
    }
    move_stacks(m, &old);
    for (size_t i = 0; i < n; i++) {
        *at[i] = adopt(m, &old, *at[i]);
    }
    free(old.moved);
    free_sets(&sets);
    free(stacks.p);
    free(ways.p);
}

int32_t matcher_import(matcher *m, const matcher *from, int32_t at)
{
    tables other = tables_of(&from->sets, &from->stacks, &from->ways);

    need_stacks(&other, at);
    move_stacks(m, &other);
    at = adopt(m, &other, at);
    free(other.moved);
    return at;
}

void **matcher_slot(matcher *m, int32_t at)
{
    return &set_at(m, at)->slot;
}
