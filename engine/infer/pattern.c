#include "infer/pattern.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

#define MAX_GROUPS 50     /* in each other */
#define MAX_COUNT  100000 /* more is too large in any case */
#define UNBOUNDED  UINT32_MAX
#define RANGE_WORK 16 /* steps that a range of a set takes, which is put in order */

/* A copy of a repeated atom is made by reading it again: there is no tree. */
typedef struct {
    pattern *p;
    aiq_str text;
    size_t at;
    int depth;
    char *err;
    size_t errlen;
    bool failed;
} parser;

/* A part of the network: its last node leads nowhere yet. */
typedef struct {
    uint32_t start, end;
} fragment;

static fragment alternatives(parser *r);

__attribute__((format(printf, 3, 4))) static bool fail(parser *r, size_t at, const char *format,
                                                       ...)
{
    va_list ap;
    size_t n;

    if (!r->failed) {
        va_start(ap, format);
        vsnprintf(r->err, r->errlen, format, ap);
        va_end(ap);
        n = strlen(r->err);
        snprintf(r->err + n, r->errlen - n, " (at %zu)", at);
        r->failed = true;
    }
    return false;
}

static bool spend(parser *r, size_t steps)
{
    if (*r->p->work < steps) {
        return fail(r, r->at, "it is too large");
    }
    *r->p->work -= steps;
    return true;
}

/* --- sets --- */

static void add_range(char_set *s, uint32_t low, uint32_t high)
{
    if (s->n == s->cap) {
        s->cap = s->cap > 0 ? 2 * s->cap : 8;
        char_range *more = aiq_alloc(s->cap * sizeof(*more));

        if (s->n > 0) {
            memcpy(more, s->ranges, s->n * sizeof(*more));
        }
        free(s->ranges);
        s->ranges = more;
    }
    s->ranges[s->n++] = (char_range){low, high};
}

static int by_low(const void *a, const void *b)
{
    const char_range *x = a, *y = b;

    return (x->low > y->low) - (x->low < y->low);
}

static void put_in_order(char_set *s)
{
    size_t kept = 0;

    if (s->n > 1) {
        qsort(s->ranges, s->n, sizeof(*s->ranges), by_low);
    }
    for (size_t i = 0; i < s->n; i++) {
        char_range r = s->ranges[i];

        if (kept > 0 && r.low <= s->ranges[kept - 1].high + 1) {
            char_range *last = &s->ranges[kept - 1];

            last->high = r.high > last->high ? r.high : last->high;
        } else {
            s->ranges[kept++] = r;
        }
    }
    s->n = kept;
}

/* Adds all others of an ordered set. */
static void add_others(char_set *to, const char_set *s)
{
    uint32_t low = 0;

    for (size_t i = 0; i < s->n; i++) {
        if (s->ranges[i].low > low) {
            add_range(to, low, s->ranges[i].low - 1);
        }
        low = s->ranges[i].high + 1;
    }
    if (low <= PATTERN_LAST) {
        add_range(to, low, PATTERN_LAST);
    }
}

/* \d, \w, \s, their negations, and the point, which is no line's end. */
static bool add_named(char_set *s, char name)
{
    static const char_range digits[] = {{'0', '9'}};
    static const char_range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const char_range spaces[] = {{'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},
                                        {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
                                        {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
                                        {0xfeff, 0xfeff}};
    static const char_range ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    static const struct {
        char name, negation;
        const char_range *ranges;
        size_t n;
    } all[] = {{'d', 'D', digits, 1},
               {'w', 'W', words, 4},
               {'s', 'S', spaces, 10},
               {'.', '.', ends, 3}};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        const char_set named = {(char_range *)all[i].ranges, all[i].n, 0};

        if (name == all[i].negation) {
            add_others(s, &named);
            return true;
        }
        for (size_t k = 0; name == all[i].name && k < named.n; k++) {
            add_range(s, named.ranges[k].low, named.ranges[k].high);
        }
        if (name == all[i].name) {
            return true;
        }
    }
    return false;
}

bool char_set_has(const char_set *s, uint32_t c)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (s->ranges[mid].high < c) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low < s->n && s->ranges[low].low <= c;
}

/* The number of a set, which is taken: of equals there is one. */
static uint32_t intern(parser *r, char_set *s)
{
    pattern *p = r->p;

    if (!spend(r, RANGE_WORK * s->n)) {
        free(s->ranges);
        return 0;
    }
    put_in_order(s);
    for (uint32_t i = 0; i < p->n_sets; i++) {
        if (p->sets[i].n == s->n && (s->n == 0 || memcmp(p->sets[i].ranges, s->ranges,
                                                         s->n * sizeof(*s->ranges)) == 0)) {
            free(s->ranges);
            return i;
        }
    }
    if (p->n_sets == PATTERN_MAX_SETS) {
        fail(r, r->at, "it has too many classes");
        free(s->ranges);
        return 0;
    }
    p->sets[p->n_sets] = *s;
    return (uint32_t)p->n_sets++;
}

/* --- nodes --- */

static uint32_t add_node(parser *r, node_kind kind)
{
    pattern *p = r->p;

    if (p->n_nodes == PATTERN_MAX_NODES || !spend(r, 1)) {
        fail(r, r->at, "it is too large");
        return 0;
    }
    if (p->n_nodes == p->nodes_cap) {
        p->nodes_cap *= 2;
        pattern_node *more = aiq_alloc(p->nodes_cap * sizeof(*more));

        memcpy(more, p->nodes, p->n_nodes * sizeof(*more));
        free(p->nodes);
        p->nodes = more;
    }
    p->nodes[p->n_nodes] = (pattern_node){.kind = kind, .part = (uint32_t)p->n_parts};
    return (uint32_t)p->n_nodes++;
}

static void lead(parser *r, uint32_t from, uint32_t to)
{
    pattern_node *node = &r->p->nodes[from];

    if (node->to == 0) {
        node->to = to;
    } else {
        node->or_to = to;
    }
}

static fragment single(parser *r, node_kind kind)
{
    fragment f = {add_node(r, kind), add_node(r, NODE_SKIP)};

    lead(r, f.start, f.end);
    return f;
}

static fragment of_set(parser *r, char_set *s)
{
    uint32_t set = intern(r, s);
    fragment f = single(r, NODE_SET);

    r->p->nodes[f.start].set = set;
    return f;
}

/* --- characters --- */

static bool has_more(const parser *r)
{
    return !r->failed && r->at < r->text.len;
}

static bool is_next(const parser *r, const char *words)
{
    size_t n = strlen(words);

    return !r->failed && n <= r->text.len - r->at &&
           memcmp(r->text.data + r->at, words, n) == 0;
}

static bool take(parser *r, const char *words)
{
    if (!is_next(r, words)) {
        return false;
    }
    r->at += strlen(words);
    return true;
}

static uint32_t take_char(parser *r)
{
    uint32_t c = 0;
    int n = utf8_next(r->text.data + r->at, r->text.len - r->at, &c);

    if (n <= 0) {
        fail(r, r->at, "it is no UTF-8");
        return 0;
    }
    spend(r, 1);
    r->at += (size_t)n;
    return c;
}

static bool hex_digits(parser *r, size_t n, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        char c = r->at + i < r->text.len ? r->text.data[r->at + i] : '\0';
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                             : -1;

        if (digit < 0) {
            return false;
        }
        *out = *out * 16 + (uint32_t)digit;
    }
    r->at += n;
    return true;
}

/* Behind \u: XXXX, a pair of those, or a number in braces. */
static uint32_t unicode_escape(parser *r)
{
    size_t at = r->at;
    uint32_t c = 0, low;

    if (take(r, "{")) {
        size_t n = 0;

        while (r->at + n < r->text.len && r->text.data[r->at + n] != '}') {
            n++;
        }
        if (n == 0 || n > 6 || !hex_digits(r, n, &c) || !take(r, "}")) {
            fail(r, at, "an escape \\u{ is not closed");
        }
    } else if (!hex_digits(r, 4, &c)) {
        fail(r, at, "an escape \\u has not four digits");
    } else if (c >= 0xd800 && c < 0xdc00 && take(r, "\\u") && hex_digits(r, 4, &low) &&
               low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    if (!r->failed && ((c >= 0xd800 && c < 0xe000) || c > PATTERN_LAST)) {
        fail(r, at, "an escape \\u is no character");
    }
    return r->failed ? 0 : c;
}

/* Behind a backslash, what stands for one character. */
static uint32_t escaped_char(parser *r, bool in_class)
{
    static const char letters[] = "tnvfr", meant[] = "\t\n\v\f\r";
    size_t at = r->at - 1;
    uint32_t c = take_char(r), x;
    const char *letter = c > 0 && c < 0x80 ? strchr(letters, (int)c) : NULL;
    bool digit_next =
        r->at < r->text.len && r->text.data[r->at] >= '0' && r->text.data[r->at] <= '9';

    if (letter != NULL) {
        return (uint32_t)meant[letter - letters];
    }
    if (c == 'b' && in_class) {
        return '\b';
    }
    if (c == '0' && !digit_next) {
        return 0;
    }
    if (c == 'x' && hex_digits(r, 2, &x)) {
        return x;
    }
    if (c == 'u') {
        return unicode_escape(r);
    }
    if (c == 'c' && r->at < r->text.len && (r->text.data[r->at] | 0x20) >= 'a' &&
        (r->text.data[r->at] | 0x20) <= 'z') {
        return take_char(r) & 0x1f;
    }
    if ((c >= '0' && c <= '9') || c == 'k') {
        fail(r, at, "backreferences are not supported");
    } else if (c == 'b' || c == 'B') {
        fail(r, at, "the boundary \\%c is not supported", (char)c);
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        fail(r, at, "the escape \\%c is not supported", (char)c);
    }
    return c;
}

/* --- atoms --- */

/* One member of a class: a character, or a set of them, which no range begins or ends with. */
static bool class_member(parser *r, char_set *s, uint32_t *c)
{
    if (!take(r, "\\")) {
        *c = take_char(r);
        return true;
    }
    if (has_more(r) && r->text.data[r->at] != '.' && add_named(s, r->text.data[r->at])) {
        r->at++;
        return false;
    }
    *c = escaped_char(r, true);
    return true;
}

/* Behind its [ */
static fragment class(parser *r)
{
    size_t at = r->at - 1;
    bool negative = take(r, "^");
    char_set s = {0}, others = {0};
    uint32_t low, high;

    while (has_more(r) && !is_next(r, "]")) {
        bool one = class_member(r, &s, &low);
        size_t dash = r->at;

        if (one && take(r, "-") && has_more(r) && !is_next(r, "]") &&
            class_member(r, &s, &high)) {
            if (high < low) {
                fail(r, dash, "a range of a class is out of order");
            }
            add_range(&s, low, high);
        } else if (one) {
            add_range(&s, low, low);
            r->at = dash; /* a dash is itself, and so is what comes behind it */
        }
    }
    if (!take(r, "]")) {
        fail(r, at, "a class is not closed");
    }
    if (negative && spend(r, RANGE_WORK * s.n)) {
        put_in_order(&s);
        add_others(&others, &s);
        free(s.ranges);
        s = others;
    }
    return of_set(r, &s);
}

/* Behind its ( */
static fragment group(parser *r)
{
    size_t at = r->at - 1;
    fragment f = {0};

    if (is_next(r, "?=") || is_next(r, "?!")) {
        fail(r, at, "a lookahead is supported behind a ^ at the beginning only");
    } else if (is_next(r, "?<=") || is_next(r, "?<!")) {
        fail(r, at, "lookbehinds are not supported");
    } else if (take(r, "?<")) { /* a name, which nothing refers to */
        while (has_more(r) && !is_next(r, ">")) {
            take_char(r);
        }
        take(r, ">");
    } else if (is_next(r, "?") && !take(r, "?:")) {
        fail(r, at, "a group (? is of no known kind");
    }
    if (++r->depth > MAX_GROUPS) {
        fail(r, at, "groups are nested too deep");
    }
    if (!r->failed) {
        f = alternatives(r);
    }
    r->depth--;
    if (!take(r, ")")) {
        fail(r, at, "a group is not closed");
    }
    return f;
}

static fragment escape(parser *r)
{
    char_set s = {0};
    uint32_t c;

    if (has_more(r) && r->text.data[r->at] != '.' && add_named(&s, r->text.data[r->at])) {
        r->at++;
        return of_set(r, &s);
    }
    c = escaped_char(r, false);
    add_range(&s, c, c);
    return of_set(r, &s);
}

static fragment atom(parser *r)
{
    char_set s = {0};
    uint32_t c;

    if (take(r, "(")) {
        return group(r);
    }
    if (take(r, "[")) {
        return class(r);
    }
    if (take(r, "\\")) {
        return escape(r);
    }
    if (take(r, ".")) {
        add_named(&s, '.');
    } else {
        c = take_char(r);
        add_range(&s, c, c);
    }
    return of_set(r, &s);
}

/* --- repetition --- */

static bool take_count(parser *r, uint32_t *out)
{
    size_t begin = r->at;

    for (*out = 0; has_more(r) && r->text.data[r->at] >= '0' && r->text.data[r->at] <= '9';
         r->at++) {
        if (*out < MAX_COUNT) {
            *out = *out * 10 + (uint32_t)(r->text.data[r->at] - '0');
        }
    }
    return r->at > begin;
}

/* {n}, {n,} or {n,m}; anything else behind a brace is no quantifier. */
static bool take_braces(parser *r, uint32_t *least, uint32_t *most)
{
    size_t begin = r->at;

    if (take(r, "{") && take_count(r, least)) {
        *most = *least;
        if (take(r, ",") && !take_count(r, most)) {
            *most = UNBOUNDED;
        }
        if (take(r, "}")) {
            return true;
        }
    }
    r->at = begin;
    return false;
}

static bool take_quantifier(parser *r, uint32_t *least, uint32_t *most)
{
    size_t at = r->at;

    *least = 0;
    *most = UNBOUNDED;
    if (take(r, "+")) {
        *least = 1;
    } else if (take(r, "?")) {
        *most = 1;
    } else if (!take(r, "*") && !take_braces(r, least, most)) {
        return false;
    }
    if (*most < *least) {
        fail(r, at, "a quantifier's numbers are out of order");
    }
    take(r, "?"); /* a lazy one */
    return true;
}

/* The atom that was read from begin on, so many times. */
static fragment repeat(parser *r, size_t begin, fragment f, uint32_t least, uint32_t most)
{
    fragment whole = {add_node(r, NODE_SKIP), add_node(r, NODE_SKIP)};
    uint32_t copies = most != UNBOUNDED ? most : least > 0 ? least : 1, end = whole.start;
    size_t behind = r->at;

    for (uint32_t i = 0; i < copies && !r->failed; i++) {
        uint32_t gate = add_node(r, NODE_SKIP);

        if (i > 0) {
            r->at = begin;
            f = atom(r);
        }
        lead(r, end, gate);
        lead(r, gate, f.start);
        if (i >= least) {
            lead(r, gate, whole.end);
        }
        end = f.end;
    }
    if (most == UNBOUNDED) {
        lead(r, end, f.start);
    }
    lead(r, end, whole.end);
    r->at = behind;
    return whole;
}

static fragment term(parser *r)
{
    size_t begin = r->at;
    uint32_t least, most;
    fragment f;

    if (take(r, "^")) {
        return single(r, NODE_START);
    }
    if (take(r, "$")) {
        return single(r, NODE_END);
    }
    if (take_quantifier(r, &least, &most)) {
        fail(r, begin, "there is nothing to repeat");
        return (fragment){0};
    }
    f = atom(r);
    return !r->failed && take_quantifier(r, &least, &most) ? repeat(r, begin, f, least, most)
                                                           : f;
}

static fragment sequence(parser *r)
{
    fragment f = {.start = add_node(r, NODE_SKIP)};

    f.end = f.start;
    while (has_more(r) && !is_next(r, "|") && !is_next(r, ")")) {
        fragment next = term(r);

        lead(r, f.end, next.start);
        f.end = next.end;
    }
    return f;
}

static fragment alternatives(parser *r)
{
    fragment f = {add_node(r, NODE_SKIP), add_node(r, NODE_SKIP)};
    uint32_t way = f.start;

    do {
        fragment one = sequence(r);
        uint32_t other = add_node(r, NODE_SKIP);

        lead(r, way, one.start);
        lead(r, way, other);
        lead(r, one.end, f.end);
        way = other;
    } while (take(r, "|"));
    return f;
}

/* --- expressions --- */

/* A part begins at the text's beginning; one that does not say so, anywhere. */
static void add_part(parser *r, fragment f, bool anywhere, bool negative)
{
    pattern *p = r->p;
    uint32_t start = add_node(r, NODE_SKIP), found = add_node(r, NODE_FOUND);

    if (anywhere) {
        char_set all = {0};

        add_range(&all, 0, PATTERN_LAST);
        fragment any = of_set(r, &all);
        lead(r, start, any.start);
        lead(r, any.end, start);
    }
    lead(r, start, f.start);
    lead(r, f.end, found);
    p->parts[p->n_parts++] = (pattern_part){start, negative};
}

/* Those behind a ^ at the beginning. */
static size_t lookaheads(parser *r)
{
    size_t n = 0;

    while (is_next(r, "(?=") || is_next(r, "(?!")) {
        bool negative = is_next(r, "(?!");
        size_t at = r->at;

        r->at += 3;
        if (r->p->n_parts + 2 > PATTERN_MAX_PARTS) {
            fail(r, at, "it has too many lookaheads");
            return n;
        }
        fragment f = alternatives(r);
        if (!take(r, ")")) {
            fail(r, at, "a group is not closed");
        }
        add_part(r, f, false, negative);
        n++;
    }
    return n;
}

bool pattern_add(pattern *p, aiq_str expression, char *err, size_t errlen)
{
    parser r = {.p = p, .text = expression, .err = err, .errlen = errlen};
    size_t ahead, begin;
    fragment f;

    if (p->n_parts == PATTERN_MAX_PARTS) {
        return fail(&r, 0, "there are too many");
    }
    ahead = take(&r, "^") ? lookaheads(&r) : 0;
    r.at = begin = ahead > 0 ? r.at : 0;
    if (ahead > 0) {
        f = sequence(&r);
        if (is_next(&r, "|")) {
            fail(&r, r.at, "alternatives behind a lookahead are not supported");
        }
    } else {
        f = alternatives(&r);
    }
    if (has_more(&r)) {
        fail(&r, r.at, "a group is not opened");
    }
    if (!r.failed) {
        add_part(&r, f, ahead == 0, false);
    }
    return !r.failed;
}

pattern *pattern_new(size_t *work)
{
    pattern *p = aiq_zalloc(sizeof(*p));

    p->work = work;
    p->nodes_cap = 64;
    p->nodes = aiq_zalloc(p->nodes_cap * sizeof(*p->nodes));
    p->n_nodes = 1;
    return p;
}

void pattern_free(pattern *p)
{
    for (size_t i = 0; i < p->n_sets; i++) {
        free(p->sets[i].ranges);
    }
    free(p->nodes);
    free(p);
}
