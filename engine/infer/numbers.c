#include "infer/numbers.h"

#include <string.h>

#define POINT 20     /* the first digit behind it */
#define EXACT 15     /* significant digits of a double that survive */
#define FAR   100000 /* more than any exponent that makes a difference */

_Static_assert(POINT == 1 + NUMBERS_WHOLE, "digits before the point");

/* --- decimals --- */

static void clear(decimal *n)
{
    memset(n->digits, '0', NUMBERS_DIGITS);
    n->digits[NUMBERS_DIGITS] = '\0';
    n->negative = false;
}

static bool is_zero(const decimal *n)
{
    return strspn(n->digits, "0") == NUMBERS_DIGITS;
}

static int compare(const decimal *a, const decimal *b)
{
    int c = memcmp(a->digits, b->digits, NUMBERS_DIGITS);

    if (a->negative != b->negative) {
        return a->negative ? -1 : 1;
    }
    return a->negative ? -c : c;
}

/* One more or one less in the digit i, regardless of the sign. No number begins with a 9: the
 * first digit is more than is written. */
static void increment(decimal *n, int i)
{
    for (; n->digits[i] == '9'; i--) {
        n->digits[i] = '0';
    }
    n->digits[i]++;
}

static void decrement(decimal *n, int i)
{
    for (; n->digits[i] == '0'; i--) {
        n->digits[i] = '9';
    }
    n->digits[i]--;
}

static int exponent(const char *p, const char *end)
{
    bool negative = p < end && *p == '-';
    int n = 0;

    for (p += p < end && (*p == '-' || *p == '+'); p < end && n < FAR; p++) {
        n = n * 10 + (*p - '0');
    }
    return negative ? -n : n;
}

/* Of the text of a JSON number, as far as there are digits up to the last. Was there more? */
static bool read_number(aiq_str text, int last, decimal *out)
{
    const char *p = text.data, *end = p + text.len, *e, *point = NULL;
    bool more = false;
    int at;

    clear(out);
    out->negative = *p == '-';
    p += out->negative;
    for (e = p; e < end && *e != 'e' && *e != 'E'; e++) {
        point = *e == '.' ? e : point;
    }
    at = POINT - (int)((point != NULL ? point : e) - p) - (e < end ? exponent(e + 1, end) : 0);
    for (; p < e; p++) {
        if (*p == '.') {
            continue;
        }
        if (*p != '0' && at < 0) {
            out->digits[0] = '8';
            return false;
        }
        if (at > last) {
            more = more || *p != '0';
        } else if (at >= 0) {
            out->digits[at] = *p;
        }
        at++;
    }
    return more;
}

/* --- ranges --- */

number_range numbers_all(bool integers)
{
    number_range r = {.fraction = integers ? 0 : NUMBERS_FRACTION};

    clear(&r.most);
    memset(r.most.digits + 1, '9', NUMBERS_DIGITS - 1);
    if (integers) {
        read_number(AIQ_STR("9223372036854775807"), POINT - 1, &r.most);
    }
    r.least = r.most;
    r.least.negative = true;
    return r;
}

/* The digit in which the next number differs from one that is excluded. */
static int step_of(const decimal *n, int last)
{
    int first = (int)strspn(n->digits, "0");
    int step = (first < POINT ? first : POINT) + EXACT - 1;

    return last < POINT || step > last ? last : step;
}

static void exclude(decimal *n, int last, bool is_least)
{
    int step = step_of(n, last);

    if (is_zero(n)) {
        n->negative = !is_least;
    }
    if (n->negative != is_least || is_zero(n)) {
        increment(n, step);
    } else {
        decrement(n, step);
    }
}

void numbers_narrow(number_range *r, number_bound bound, aiq_str text)
{
    bool is_least = bound == MINIMUM || bound == EXCLUSIVE_MINIMUM;
    int last = POINT - 1 + r->fraction;
    decimal n;

    if (read_number(text, last, &n)) {
        if (n.negative != is_least) {
            increment(&n, last);
        }
    } else if (bound == EXCLUSIVE_MINIMUM || bound == EXCLUSIVE_MAXIMUM) {
        exclude(&n, last, is_least);
    }
    n.negative = n.negative && !is_zero(&n);
    if (is_least && compare(&n, &r->least) > 0) {
        r->least = n;
    }
    if (!is_least && compare(&n, &r->most) < 0) {
        r->most = n;
    }
}

bool numbers_empty(const number_range *r)
{
    return compare(&r->least, &r->most) > 0;
}

bool numbers_equal(const number_range *a, const number_range *b)
{
    return a->fraction == b->fraction && compare(&a->least, &b->least) == 0 &&
           compare(&a->most, &b->most) == 0;
}

/* --- their grammar --- */

/* How the digits so far compare with as many first digits of a bound. */
enum { LESS, SAME, MORE, N_RELATIONS };

/* What the digits so far are the beginning of: the lowest, the highest, both or neither. */
enum { AT_LOW = 1, AT_HIGH = 2, N_PLACES = 4 };

/* Numbers without a sign. States are made when first met, + 1. */
typedef struct {
    grammar *g;
    const char *low, *high;
    int low_first, high_first; /* their first digits, which may be a 0 before the point */
    int last;
    uint32_t to;
    uint32_t whole[NUMBERS_WHOLE + 1][N_RELATIONS][N_RELATIONS];
    uint32_t fraction[NUMBERS_FRACTION + 1][N_PLACES];
} magnitudes;

static uint32_t fraction(magnitudes *m, int i, unsigned at);
static uint32_t whole(magnitudes *m, int n, int low, int high);

static bool all_are(const char *digits, int from, int last, char digit)
{
    while (from <= last && digits[from] == digit) {
        from++;
    }
    return from > last;
}

/* Behind the digit d at i. A bound that cannot be missed any more is none. */
static unsigned at_bounds(const magnitudes *m, int i, unsigned at, char d)
{
    bool low = at & AT_LOW && d == m->low[i] && !all_are(m->low, i + 1, m->last, '0');
    bool high = at & AT_HIGH && d == m->high[i] && !all_are(m->high, i + 1, m->last, '9');

    return (low ? AT_LOW : 0) | (high ? AT_HIGH : 0);
}

/* The digit i of those behind the point. */
static void fraction_digits(magnitudes *m, uint32_t from, int i, unsigned at)
{
    char d = at & AT_LOW ? m->low[i] : '0', most = at & AT_HIGH ? m->high[i] : '9';

    while (d <= most) {
        uint32_t next = fraction(m, i + 1, at_bounds(m, i, at, d));
        char first = d++;

        while (d <= most && fraction(m, i + 1, at_bounds(m, i, at, d)) == next) {
            d++;
        }
        grammar_bytes(m->g, from, (uint8_t)first, (uint8_t)(d - 1), next);
    }
}

/* Behind the digits before i, at least those before the point. */
static uint32_t fraction(magnitudes *m, int i, unsigned at)
{
    uint32_t *made = &m->fraction[i - POINT][at], state, digits;

    if (*made != 0) {
        return *made - 1;
    }
    state = digits = grammar_state(m->g);
    *made = state + 1;
    if (!(at & AT_LOW)) {
        grammar_skip(m->g, state, m->to);
    }
    if (i <= m->last) {
        if (i == POINT) {
            digits = grammar_state(m->g);
            grammar_bytes(m->g, state, '.', '.', digits);
        }
        fraction_digits(m, digits, i, at);
    }
    return state;
}

/* n digits that compare so with the bounds: do the point, or the end, come next? */
static void end_of_whole(magnitudes *m, uint32_t from, int n, int low, int high)
{
    int n_low = POINT - m->low_first, n_high = POINT - m->high_first;
    bool above = n > n_low || (n == n_low && low == MORE);
    bool below = n < n_high || (n == n_high && high == LESS);
    bool is_low = n == n_low && low == SAME, is_high = n == n_high && high == SAME;

    if ((above || is_low) && (below || is_high)) {
        is_low = is_low && !all_are(m->low, POINT, m->last, '0');
        is_high = is_high && !all_are(m->high, POINT, m->last, '9');
        grammar_skip(m->g, from,
                     fraction(m, POINT, (is_low ? AT_LOW : 0) | (is_high ? AT_HIGH : 0)));
    }
}

static int relation(int before, char d, const char *bound, int i)
{
    if (i >= POINT) {
        return MORE;
    }
    if (before != SAME || d == bound[i]) {
        return before;
    }
    return d < bound[i] ? LESS : MORE;
}

/* The digits behind n of them, from d on. */
static void whole_digits(magnitudes *m, uint32_t from, int n, int low, int high, char d)
{
    while (n < POINT - m->high_first && d <= '9') {
        int is_low = relation(low, d, m->low, m->low_first + n);
        int is_high = relation(high, d, m->high, m->high_first + n);
        uint32_t next = whole(m, n + 1, is_low, is_high);
        char first = d++;

        while (d <= '9' && relation(low, d, m->low, m->low_first + n) == is_low &&
               relation(high, d, m->high, m->high_first + n) == is_high) {
            d++;
        }
        grammar_bytes(m->g, from, (uint8_t)first, (uint8_t)(d - 1), next);
    }
}

static uint32_t whole(magnitudes *m, int n, int low, int high)
{
    uint32_t *made = &m->whole[n][low][high], state;

    if (*made != 0) {
        return *made - 1;
    }
    state = grammar_state(m->g);
    *made = state + 1;
    end_of_whole(m, state, n, low, high);
    whole_digits(m, state, n, low, high, '0');
    return state;
}

static int first_digit(const char *digits)
{
    int first = (int)strspn(digits, "0");

    return first < POINT ? first : POINT - 1;
}

static void add_magnitudes(grammar *g, const decimal *low, const decimal *high, int last,
                           uint32_t from, uint32_t to)
{
    magnitudes m = {.g = g, .low = low->digits, .high = high->digits, .last = last, .to = to};
    uint32_t zero = grammar_state(g);

    m.low_first = first_digit(m.low);
    m.high_first = first_digit(m.high);
    whole_digits(&m, from, 0, SAME, SAME, '1');
    grammar_bytes(g, from, '0', '0', zero); /* and no digit behind it */
    end_of_whole(&m, zero, 1, relation(SAME, '0', m.low, m.low_first),
                 relation(SAME, '0', m.high, m.high_first));
}

void numbers_add(grammar *g, const number_range *r, uint32_t from, uint32_t to)
{
    int last = POINT - 1 + r->fraction;
    decimal low;

    clear(&low);
    if (!r->most.negative) {
        add_magnitudes(g, r->least.negative ? &low : &r->least, &r->most, last, from, to);
    }
    if (r->least.negative) {
        uint32_t minus = grammar_state(g);

        low.digits[last]++;
        grammar_bytes(g, from, '-', '-', minus);
        add_magnitudes(g, r->most.negative ? &r->most : &low, &r->least, last, minus, to);
    }
}
