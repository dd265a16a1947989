#include "infer/lexical.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

/*
 * How much a feature that comes once counts. Short words say little in most languages, numbers
 * say much in all. A word has about as many n-grams as characters, so long words, the rarer
 * ones, weigh more still: no list of common words in every language.
 */
enum {
    WORD = 6,  /* or two ideographs in their order */
    SHORT = 3, /* a word of at most MAX_SHORT characters, or two words in their order */
    GRAM = 2,  /* or an ideograph, or two short words in their order */
    MIN_GRAM = 3,
    MAX_GRAM = 4,
    MAX_SHORT = 3
};

#define EDGE 0 /* between words, and on both sides of all */

typedef struct {
    uint32_t *v; /* the words' characters, folded, an EDGE before and behind each */
    size_t n;
} characters;

/* Features by their kind in the lowest bits, above those the hash. */
typedef struct {
    uint64_t *v;
    size_t n;
} features;

/* Scripts without spaces: a character is a word. */
static bool is_ideograph(uint32_t cp)
{
    return (cp >= 0x3040 && cp <= 0x30ff) || (cp >= 0x3400 && cp <= 0x9fff) ||
           (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x20000 && cp <= 0x3ffff);
}

static void add_edge(characters *c)
{
    if (c->v[c->n - 1] != EDGE) {
        c->v[c->n++] = EDGE;
    }
}

static void add_character(characters *c, uint32_t cp)
{
    if (unicode_is_space(cp) || unicode_is_control(cp) || unicode_is_punctuation(cp)) {
        add_edge(c);
    } else if (!is_ideograph(cp) &&
               (unicode_is_letter(cp) || unicode_is_number(cp) || unicode_is_mark(cp))) {
        c->v[c->n++] = cp;
    } else {
        add_edge(c);
        c->v[c->n++] = cp;
        c->v[c->n++] = EDGE;
    }
}

/* A character of len bytes becomes at most three, with an edge for each and one more. */
static void read_text(characters *c, const char *text, size_t len)
{
    size_t at = 0;

    c->v[0] = EDGE;
    c->n = 1;
    while (at < len) {
        uint32_t cp, folded[3];
        int n = utf8_next(text + at, len - at, &cp);

        if (n <= 0) {
            add_edge(c);
            at += n < 0 ? (size_t)-n : len - at;
            continue;
        }
        at += (size_t)n;
        for (size_t i = 0, m = unicode_fold(cp, folded); i < m; i++) {
            add_character(c, folded[i]);
        }
    }
    add_edge(c);
}

/* FNV-1a over whole characters; mixed at the end, because buckets are its lowest bits. */
static uint64_t hash_add(uint64_t h, uint32_t cp)
{
    return (h ^ cp) * 0x100000001b3;
}

static uint64_t hash_end(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccd;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53;
    return h ^ h >> 33;
}

static uint64_t hash_start(uint64_t kind)
{
    return 0xcbf29ce484222325 + kind;
}

static void add_feature(features *f, uint64_t hash, uint64_t kind)
{
    f->v[f->n++] = (hash_end(hash) & ~(uint64_t)7) | kind;
}

/* The n-grams that end at v[i]: parts of one word, of which the first and the last may be its
 * edges. */
static void add_grams(features *f, const uint32_t *v, size_t i)
{
    for (size_t n = MIN_GRAM; n <= MAX_GRAM && n <= i + 1; n++) {
        uint64_t h = hash_start(GRAM);

        for (size_t k = i + 1 - n; k <= i; k++) {
            if (v[k] == EDGE && k > i + 1 - n && k < i) {
                return;
            }
            h = hash_add(h, v[k]);
        }
        add_feature(f, h, GRAM);
    }
}

typedef struct {
    uint64_t hash;
    uint64_t kind;
    bool is_short;
    bool is_ideograph;
} word;

static word word_at(const uint32_t *v, size_t n)
{
    word w = {.hash = hash_start(WORD), .is_short = n <= MAX_SHORT, .kind = WORD};

    for (size_t i = 0; i < n; i++) {
        w.hash = hash_add(w.hash, v[i]);
        w.is_short = w.is_short && !unicode_is_number(v[i]);
    }
    w.is_ideograph = is_ideograph(v[0]);
    if (w.is_ideograph) {
        w.kind = GRAM;
    } else if (w.is_short) {
        w.kind = SHORT;
    }
    return w;
}

static uint64_t pair_kind(const word *a, const word *b)
{
    if (a->is_ideograph && b->is_ideograph) {
        return WORD;
    }
    return a->is_short && b->is_short ? GRAM : SHORT;
}

static uint32_t add_words(features *f, const characters *c)
{
    word before = {0};
    size_t start = 1;
    uint32_t n_words = 0;

    for (size_t i = 1; i < c->n; i++) {
        word w;

        add_grams(f, c->v, i);
        if (c->v[i] != EDGE) {
            continue;
        }
        w = word_at(c->v + start, i - start);
        add_feature(f, w.hash, w.kind);
        if (n_words > 0) {
            add_feature(f, before.hash * 31 + w.hash, pair_kind(&before, &w));
        }
        before = w;
        start = i + 1;
        n_words++;
    }
    return n_words;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The square root of n, in 1/64, rounded down: n is below 2^32. */
static int64_t root(uint64_t n)
{
    uint64_t low = 0, high = (uint64_t)1 << 22, want = n << 12;

    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;

        *(middle * middle <= want ? &low : &high) = middle;
    }
    return (int64_t)low;
}

static void sum_up(features *f, float *out)
{
    int64_t sums[LEXICAL_DIM] = {0}, square = 0;
    double length;

    qsort(f->v, f->n, sizeof(*f->v), compare);
    for (size_t i = 0, next; i < f->n; i = next) {
        uint64_t feature = f->v[i];
        int64_t weight;

        for (next = i + 1; next < f->n && f->v[next] == feature; next++) {
        }
        weight = root(next - i) * (int64_t)(feature & 7);
        sums[feature >> 3 & (LEXICAL_DIM - 1)] += feature >> 63 ? -weight : weight;
    }
    for (size_t i = 0; i < LEXICAL_DIM; i++) {
        square += sums[i] * sums[i];
    }
    /* exact up to here, for square is below 2^53: at most 200,000 features of 384 each */
    length = sqrt((double)square);
    for (size_t i = 0; i < LEXICAL_DIM; i++) {
        out[i] = square > 0 ? (float)((double)sums[i] / length) : 0.0f;
    }
}

bool lexical_embed(const char *text, size_t len, float *out, uint32_t *n_words)
{
    characters c = {0};
    features f = {0};
    uint32_t n;

    if (len > LEXICAL_MAX_TEXT) {
        return false;
    }
    c.v = malloc((6 * len + 2) * sizeof(*c.v));
    if (c.v == NULL) {
        return false;
    }
    read_text(&c, text, len);
    f.v = malloc(c.n * (MAX_GRAM - MIN_GRAM + 3) * sizeof(*f.v));
    if (f.v == NULL) {
        free(c.v);
        return false;
    }
    n = add_words(&f, &c);
    sum_up(&f, out);
    if (n_words != NULL) {
        *n_words = n;
    }
    free(f.v);
    free(c.v);
    return true;
}
