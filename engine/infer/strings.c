#include "infer/strings.h"

#include <string.h>

#include "infer/unicode.h"

#define MAX_PRODUCT ((size_t)2 * 1000 * 1000) /* states of the automaton times lengths */

/* --- characters --- */

static uint32_t bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high)
{
    uint32_t to = grammar_state(g);

    grammar_bytes(g, from, low, high, to);
    return to;
}

static uint32_t byte(grammar *g, uint32_t from, char b)
{
    return bytes(g, from, (uint8_t)b, (uint8_t)b);
}

static uint32_t hex(grammar *g, uint32_t from, const char *ranges)
{
    uint32_t to = grammar_state(g);

    for (; *ranges != '\0'; ranges += 2) {
        grammar_bytes(g, from, (uint8_t)ranges[0], (uint8_t)ranges[1], to);
    }
    return to;
}

/* Behind \u: XXXX, but no half of a pair, or D8XX\uDCXX, a pair. */
static void unicode_escape(grammar *g, uint32_t from, uint32_t to)
{
    static const char any[] = "09AFaf";
    uint32_t second = hex(g, from, "09ACacEFef"), d = hex(g, from, "DDdd");
    uint32_t low = hex(g, hex(g, hex(g, d, "89ABab"), any), any);

    second = hex(g, second, any);
    grammar_skip(g, hex(g, d, "07"), second);
    grammar_skip(g, hex(g, hex(g, second, any), any), to);
    low = hex(g, hex(g, byte(g, byte(g, low, '\\'), 'u'), "DDdd"), "CFcf");
    grammar_skip(g, hex(g, hex(g, low, any), any), to);
}

/* Without surrogates these are two ranges. */
static bool is_any(const char_set *s)
{
    return s->n == 2 && s->ranges[0].low == 0 && s->ranges[0].high == 0xd7ff &&
           s->ranges[1].low == 0xe000 && s->ranges[1].high == PATTERN_LAST;
}

/* Behind \u00: a control character that has no letter. */
static void control_escapes(grammar *g, uint32_t from, const char_set *s, const char *letters,
                            uint32_t to)
{
    static const char digits[] = "0123456789abcdef";

    for (uint32_t high = 0; high < 2; high++) {
        uint32_t second = byte(g, from, digits[high]);

        for (uint32_t low = 0; low < 16; low++) {
            uint32_t c = high * 16 + low;

            if (!char_set_has(s, c) || (c > 0 && strchr(letters, (int)c) != NULL)) {
                continue;
            }
            grammar_bytes(g, second, (uint8_t)digits[low], (uint8_t)digits[low], to);
            if (low >= 10) {
                uint8_t capital = (uint8_t)(digits[low] - 'a' + 'A');

                grammar_bytes(g, second, capital, capital, to);
            }
        }
    }
}

/* Those of the set that are escaped. */
static void escapes(grammar *g, uint32_t from, const char_set *s, uint32_t to)
{
    static const char letters[] = "\"\\bfnrt", meant[] = "\"\\\b\f\n\r\t";
    uint32_t escape = grammar_state(g);
    bool controls = false;

    grammar_bytes(g, from, '\\', '\\', escape);
    for (size_t i = 0; letters[i] != '\0'; i++) {
        if (char_set_has(s, (uint32_t)meant[i])) {
            grammar_bytes(g, escape, (uint8_t)letters[i], (uint8_t)letters[i], to);
        }
    }
    if (is_any(s)) {
        grammar_bytes(g, escape, '/', '/', to);
        unicode_escape(g, byte(g, escape, 'u'), to);
        return;
    }
    for (uint32_t c = 0; c < ' '; c++) {
        controls = controls || char_set_has(s, c);
    }
    if (controls) {
        control_escapes(g, byte(g, byte(g, byte(g, escape, 'u'), '0'), '0'), s, meant, to);
    }
}

static bool all_are(const uint8_t *p, size_t n, uint8_t value)
{
    while (n > 0 && p[n - 1] == value) {
        n--;
    }
    return n == 0;
}

/* What n bytes of UTF-8 from low to high, both of one length, have behind what was taken. */
static void utf8_between(grammar *g, uint32_t from, const uint8_t *low, const uint8_t *high,
                         size_t n, uint32_t to)
{
    static const uint8_t least[] = {0x80, 0x80, 0x80}, most[] = {0xbf, 0xbf, 0xbf};
    uint8_t first = low[0], last = high[0];

    if (n == 1) {
        grammar_bytes(g, from, first, last, to);
        return;
    }
    if (first == last) {
        utf8_between(g, bytes(g, from, first, first), low + 1, high + 1, n - 1, to);
        return;
    }
    if (!all_are(low + 1, n - 1, 0x80)) {
        utf8_between(g, bytes(g, from, first, first), low + 1, most, n - 1, to);
        first++;
    }
    if (!all_are(high + 1, n - 1, 0xbf)) {
        utf8_between(g, bytes(g, from, last, last), least, high + 1, n - 1, to);
        last--;
    }
    if (first <= last) {
        utf8_between(g, bytes(g, from, first, last), least, most, n - 1, to);
    }
}

/* Those of the set that are more than one byte. */
static void utf8(grammar *g, uint32_t from, const char_set *s, uint32_t to)
{
    static const char_range lengths[] = {
        {0x80, 0x7ff}, {0x800, 0xffff}, {0x10000, PATTERN_LAST}};

    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < sizeof(lengths) / sizeof(*lengths); k++) {
            uint32_t low = s->ranges[i].low, high = s->ranges[i].high;
            char first[4], last[4];

            low = low > lengths[k].low ? low : lengths[k].low;
            high = high < lengths[k].high ? high : lengths[k].high;
            if (low <= high) {
                size_t n = utf8_put(low, first);

                utf8_put(high, last);
                utf8_between(g, from, (const uint8_t *)first, (const uint8_t *)last, n, to);
            }
        }
    }
}

/* Those of the set that are themselves, in one byte. */
static void plain(grammar *g, uint32_t from, const char_set *s, uint32_t to)
{
    static const char_range parts[] = {{' ', '!'}, {'#', '['}, {']', 0x7f}};

    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < sizeof(parts) / sizeof(*parts); k++) {
            uint32_t low = s->ranges[i].low, high = s->ranges[i].high;

            low = low > parts[k].low ? low : parts[k].low;
            high = high < parts[k].high ? high : parts[k].high;
            if (low <= high) {
                grammar_bytes(g, from, (uint8_t)low, (uint8_t)high, to);
            }
        }
    }
}

static bool is_plain(const char_set *s)
{
    return s->n == 0 || (s->ranges[0].low >= ' ' && s->ranges[s->n - 1].high <= 0x7f &&
                         !char_set_has(s, '"') && !char_set_has(s, '\\'));
}

void strings_add_any(grammar *g, uint32_t from, uint32_t to)
{
    char_range all[] = {{0, 0xd7ff}, {0xe000, PATTERN_LAST}};
    const char_set any = {all, 2, 2};
    uint32_t inside = byte(g, from, '"');

    plain(g, inside, &any, inside);
    escapes(g, inside, &any, inside);
    utf8(g, inside, &any, inside);
    grammar_bytes(g, inside, '"', '"', to);
}

/* --- automata --- */

/* How characters of some classes are written: what is not plain is a rule. */
typedef struct spelling {
    struct spelling *next;
    bool *has; /* [classes] */
    char_set set;
    uint32_t rule; /* + 1; 0: none */
} spelling;

/* A state of the automaton, behind so many characters: all that counts of them. */
typedef struct {
    uint32_t state, n;
} place;

typedef struct {
    grammar *g;
    aiq_pool *pool;
    const automaton *a;
    uint32_t least, most, end;
    uint32_t n_counts;
    uint32_t *states; /* [n_counts][a->n_states] of the grammar, + 1 */
    place *found;     /* [STRINGS_MAX_STATES] */
    uint32_t n_found;
    spelling *spellings;
    bool *has; /* [classes] */
    size_t *work;
    bool ends, too_large;
} maker;

static void spend(maker *m, size_t steps)
{
    m->too_large = m->too_large || *m->work < steps;
    *m->work -= m->too_large ? 0 : steps;
}

static char_set set_of(maker *m, const bool *has)
{
    const automaton *a = m->a;
    char_set s = {.ranges = aiq_pool_alloc(m->pool, a->n_intervals * sizeof(char_range))};

    for (size_t i = 0; i + 1 < a->n_intervals; i++) {
        uint32_t low = a->intervals[i].low, high = a->intervals[i + 1].low - 1;

        if (a->intervals[i].class == AUTOMATON_NO_CLASS || !has[a->intervals[i].class]) {
            continue;
        }
        if (s.n > 0 && s.ranges[s.n - 1].high + 1 == low) {
            s.ranges[s.n - 1].high = high;
        } else {
            s.ranges[s.n++] = (char_range){low, high};
        }
    }
    return s;
}

static const spelling *spell(maker *m, const bool *has)
{
    size_t size = m->a->n_classes * sizeof(*has);
    spelling *s = m->spellings;

    while (s != NULL && memcmp(s->has, has, size) != 0) {
        spend(m, size / 8 + 1);
        s = s->next;
    }
    if (s != NULL) {
        return s;
    }
    s = aiq_pool_zalloc(m->pool, sizeof(*s));
    s->has = aiq_pool_alloc(m->pool, size);
    memcpy(s->has, has, size);
    s->set = set_of(m, has);
    if (!is_plain(&s->set)) {
        uint32_t rule = grammar_rule(m->g), from = grammar_start(m->g, rule);

        s->rule = rule + 1;
        escapes(m->g, from, &s->set, grammar_end(m->g, rule));
        utf8(m->g, from, &s->set, grammar_end(m->g, rule));
    }
    s->next = m->spellings;
    m->spellings = s;
    return s;
}

/* The grammar's state of a place; 0: there are too many. */
static uint32_t state_of(maker *m, place p)
{
    uint32_t *state = &m->states[(size_t)p.n * m->a->n_states + p.state];

    if (*state == 0) {
        if (m->n_found == STRINGS_MAX_STATES) {
            m->too_large = true;
            return 0;
        }
        m->found[m->n_found++] = p;
        *state = grammar_state(m->g) + 1;
    }
    return *state - 1;
}

/* All characters that lead from a place to another state of the automaton. */
static void lead(maker *m, place p, uint32_t to_state)
{
    const uint32_t *next = m->a->next + (size_t)p.state * m->a->n_classes;
    place to = {to_state, p.n + 1 < m->n_counts ? p.n + 1 : m->n_counts - 1};
    uint32_t from = state_of(m, p), behind = state_of(m, to);

    for (uint32_t i = 0; i < m->a->n_classes; i++) {
        m->has[i] = next[i] == to_state;
    }
    const spelling *s = spell(m, m->has);
    spend(m, m->a->n_classes + s->set.n);
    plain(m->g, from, &s->set, behind);
    if (s->rule != 0) {
        grammar_call(m->g, from, s->rule - 1, behind);
    }
}

/* Can a text end there that has one character more than this place? */
static bool can_end(const maker *m, place p, uint32_t to_state)
{
    uint32_t needs = m->a->needs[to_state];

    return needs != AUTOMATON_NEVER &&
           (m->most == STRINGS_NO_MOST || (uint64_t)p.n + 1 + needs <= m->most);
}

static void leave(maker *m, place p)
{
    const uint32_t *next = m->a->next + (size_t)p.state * m->a->n_classes;

    if (m->a->accepts[p.state] && p.n >= m->least) {
        grammar_bytes(m->g, state_of(m, p), '"', '"', m->end);
        m->ends = true;
    }
    for (uint32_t i = 0; i < m->a->n_classes && !m->too_large; i++) {
        uint32_t before = 0;

        while (before < i && next[before] != next[i]) {
            before++;
        }
        spend(m, before + 1);
        if (before == i && can_end(m, p, next[i])) {
            lead(m, p, next[i]);
        }
    }
}

static void make(maker *m, uint32_t from)
{
    grammar_skip(m->g, from, state_of(m, (place){0, 0}));
    for (uint32_t i = 0; i < m->n_found && !m->too_large && !grammar_full(m->g); i++) {
        leave(m, m->found[i]);
    }
}

const char *strings_add(grammar *g, const automaton *a, uint32_t least, uint32_t most,
                        size_t *work, uint32_t from, uint32_t to)
{
    maker m = {.g = g, .a = a, .least = least, .most = most, .work = work, .end = to};
    size_t product;

    m.n_counts = (most != STRINGS_NO_MOST ? most : least) + 1;
    product = (size_t)m.n_counts * a->n_states;
    if (product > MAX_PRODUCT) {
        return "are too large";
    }
    m.pool = aiq_pool_new();
    m.states = aiq_pool_zalloc(m.pool, product * sizeof(*m.states));
    m.found = aiq_pool_alloc(m.pool, STRINGS_MAX_STATES * sizeof(*m.found));
    m.has = aiq_pool_alloc(m.pool, a->n_classes * sizeof(*m.has));
    make(&m, byte(g, from, '"'));
    aiq_pool_free(m.pool);
    if (m.too_large || grammar_full(g)) {
        return "are too large";
    }
    return m.ends ? NULL : "leave no string";
}
