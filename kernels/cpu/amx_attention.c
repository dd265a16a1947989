/*
 * Attention of many tokens of one sequence, causal, with a window or both ways, in tiles of
 * bf16 with sums in f32. The work is cut into columns, 32 queries of one head each; a block of
 * columns that share keys and values goes through them together, KEYS at a time, and never
 * holds all scores (the "online softmax": each column keeps its maximum, its sum and its
 * unscaled result so far).
 *
 * Scores stand as [key][query]: keys are rows of the left tile as they lie in memory, and a
 * lane of a vector belongs to one query throughout. For the product with the values both are
 * turned: their pairs of keys are what the right tile wants in a row.
 */
#include "kernels/cpu/attention.h"

#if defined(__x86_64__)

#include <float.h>

#include "kernels/cpu/vector.h"
#include "kernels/cpu/x86.h"

enum {
    KEYS = 128,     /* of a round, a multiple of 32 */
    QUERIES = 32,   /* of a column */
    COLUMNS = 16,   /* of a block */
    BLOCK = 16 * 32 /* bf16 numbers of a tile */
};

/* What a thread works in; dim is the head's dimension, rounded up to 32. */
typedef struct {
    uint16_t *keys;   /* [KEYS / 16][dim / 32][16 keys][32] */
    uint16_t *values; /* [KEYS / 32][dim / 16][16][32 keys] */
    uint16_t *shares; /* [KEYS / 32][2][16 pairs of keys][16 queries][2] */
    float *scores;    /* [KEYS][QUERIES] */

    /* of each column */
    uint16_t *queries; /* [dim / 32][2][16 pairs][16 queries][2] */
    float *result;     /* [dim][QUERIES] */
    float *most;       /* [QUERIES] */
    float *sum;        /* [QUERIES] */
} workspace;

static size_t rounded(size_t head_dim)
{
    return (head_dim + 31) & ~(size_t)31;
}

static size_t scratch_bytes(size_t head_dim)
{
    size_t dim = rounded(head_dim);

    return KEYS * dim * 4 + KEYS * QUERIES * 6 +
           COLUMNS * (dim * QUERIES * 6 + 2 * QUERIES * sizeof(float));
}

static workspace carve(uint8_t *p, size_t dim)
{
    workspace ws;

    ws.keys = (uint16_t *)(void *)p;
    ws.values = ws.keys + KEYS * dim;
    ws.shares = ws.values + KEYS * dim;
    ws.scores = (float *)(void *)(ws.shares + KEYS * QUERIES);
    ws.queries = (uint16_t *)(void *)(ws.scores + KEYS * QUERIES);
    ws.result = (float *)(void *)(ws.queries + COLUMNS * dim * QUERIES);
    ws.most = ws.result + COLUMNS * dim * QUERIES;
    ws.sum = ws.most + COLUMNS * QUERIES;
    return ws;
}

/* Sixteen of the floats at p, of which there are n; the rest is zero. */
X86_AMX X86_INLINE __m512 load16(const float *p, size_t n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

X86_AMX X86_INLINE size_t left_of(size_t n, size_t i)
{
    return n > i ? n - i : 0;
}

/* a and b as bf16, in pairs: a0 b0 a1 b1 ... */
X86_AMX X86_INLINE __m512i pairs(__m512 a, __m512 b)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

    return _mm512_permutexvar_epi16(order, x86_bf16(a, b));
}

/* Scores are in units of log 2, so that shares are powers of it. */
#define LOG2_E 1.44269504f

/* 2^x for x <= 0, within 9e-5 of it, a twentieth of what bf16 rounds; 1 exactly for 0. */
X86_AMX X86_INLINE __m512 power_of_2(__m512 x)
{
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(7.70670429e-2f);

    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.2764499e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.95116787e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, x);
}

/* --- what goes in --- */

X86_AMX static void pack_queries(uint16_t *dst, const cpu_attention *a, size_t head,
                                 size_t first, size_t dim)
{
    const __m512 scale = _mm512_set1_ps(LOG2_E);

    for (size_t c = 0; c < dim; c += 32) {
        for (size_t half = 0; half < 2; half++, dst += BLOCK) {
            __m512i r[16];

            for (size_t i = 0; i < 16; i++) {
                size_t t = first + half * 16 + i;
                const float *q = a->q + t * a->q_stride + head * a->head_dim + c;

                r[i] = _mm512_setzero_si512();
                if (t < a->n) {
                    r[i] = x86_bf16(
                        _mm512_mul_ps(load16(q, left_of(a->head_dim, c)), scale),
                        _mm512_mul_ps(load16(q + 16, left_of(a->head_dim, c + 16)), scale));
                }
            }
            x86_transpose(r);
            for (size_t i = 0; i < 16; i++) {
                _mm512_storeu_si512(dst + i * 32, r[i]);
            }
        }
    }
}

/* Where token t's values are in its page of keys or of values. */
X86_INLINE const uint16_t *token(const cpu_attention *a, const uint16_t *base, size_t t)
{
    return base + cpu_page_at(a->pages, a->page_stride, t) + t % KERN_PAGE * a->head_dim;
}

/* Sixteen of the f16 at p, of which there are n; the rest is zero. */
X86_AMX X86_INLINE __m512 load16_f16(const uint16_t *p, size_t n)
{
    __mmask16 some = n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);

    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, p));
}

/* Keys of a round, of which so many are left. */
X86_INLINE size_t keys_of(size_t left)
{
    return left < KEYS ? (left + 31) & ~(size_t)31 : KEYS;
}

/* Keys from first on; those beyond the last are zero. */
X86_AMX static void pack_keys(uint16_t *dst, const cpu_attention *a, size_t first, size_t dim)
{
    size_t all = (size_t)a->pos + a->n;

    for (size_t key = 0; key < keys_of(all - first); key++) {
        bool some = first + key < all;
        const uint16_t *k = some ? token(a, a->k, first + key) : NULL;
        uint16_t *tile = dst + key / 16 * dim * 16 + key % 16 * 32;

        for (size_t c = 0; c < dim; c += 32) {
            __m512i v = _mm512_setzero_si512();

            if (some) {
                v = x86_bf16(load16_f16(k + c, left_of(a->head_dim, c)),
                             load16_f16(k + c + 16, left_of(a->head_dim, c + 16)));
            }
            _mm512_storeu_si512(tile + c / 32 * BLOCK, v);
        }
    }
}

X86_AMX static void pack_values(uint16_t *dst, const cpu_attention *a, size_t first, size_t dim)
{
    size_t all = (size_t)a->pos + a->n;

    for (size_t key = 0; key < keys_of(all - first); key += 32) {
        for (size_t c = 0; c < dim; c += 16, dst += BLOCK) {
            __m512i r[16];

            for (size_t i = 0; i < 16; i++) {
                size_t t = first + key + 2 * i, n = left_of(a->head_dim, c);
                const uint16_t *v = t < all ? token(a, a->v, t) + c : NULL;

                r[i] =
                    pairs(t < all ? load16_f16(v, n) : _mm512_setzero_ps(),
                          t + 1 < all ? load16_f16(v + a->head_dim, n) : _mm512_setzero_ps());
            }
            x86_transpose(r);
            for (size_t i = 0; i < 16; i++) {
                _mm512_storeu_si512(dst + i * 32, r[i]);
            }
        }
    }
}

/* --- one round of one column --- */

/* scores of n keys, a multiple of 32 */
X86_AMX static void score(float *scores, const uint16_t *keys, const uint16_t *queries,
                          size_t n, size_t dim)
{
    for (size_t key = 0; key < n; key += 32) {
        const uint16_t *k = keys + key * dim;
        float *s = scores + key * QUERIES;

        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t b = 0; b < dim / 32; b++) {
            _tile_loadd(4, k + b * BLOCK, 64);
            _tile_loadd(5, k + 16 * dim + b * BLOCK, 64);
            _tile_loadd(6, queries + 2 * b * BLOCK, 64);
            _tile_loadd(7, queries + (2 * b + 1) * BLOCK, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, s, QUERIES * 4);
        _tile_stored(1, s + 16, QUERIES * 4);
        _tile_stored(2, s + 16 * QUERIES, QUERIES * 4);
        _tile_stored(3, s + 16 * QUERIES + 16, QUERIES * 4);
    }
}

X86_AMX static void cap_scores(float *scores, float cap, size_t n)
{
    vector_cap(scores, cap, n);
}

/* Lanes from the n-th on. */
X86_AMX X86_INLINE __mmask16 lanes_from(long n)
{
    return n <= 0 ? 0xffff : n >= 16 ? 0 : (__mmask16)(0xffffu << n);
}

/* Every key is behind every query, and in everybody's window. */
#define NOT_AHEAD (-(1L << 40))
#define NO_WINDOW (1L << 41)

/* Which of sixteen queries look at which keys of a round. */
typedef struct {
    long ahead;  /* how far the first key is before the first query */
    long window; /* keys that a query sees */
    size_t real; /* keys that are there at all */
    bool all;    /* everybody sees all, which need not be found out for each */
} sight;

X86_AMX X86_INLINE __mmask16 who_sees(const sight *s, bool all, size_t key)
{
    long ahead = s->ahead + (long)key;

    if (all) {
        return 0xffff;
    }
    return key < s->real ? lanes_from(ahead) & (__mmask16)~lanes_from(ahead + s->window) : 0;
}

/* Four at a time: each waits for the one before it. n is a multiple of four. */
X86_AMX X86_INLINE __m512 largest(const float *scores, __m512 most, size_t n, const sight *s,
                                  bool all)
{
    __m512 max[4] = {most, most, most, most};

    for (size_t key = 0; key < n; key += 4) {
        for (size_t i = 0; i < 4; i++) {
            max[i] = _mm512_mask_max_ps(max[i], who_sees(s, all, key + i), max[i],
                                        _mm512_loadu_ps(scores + (key + i) * QUERIES));
        }
    }
    return _mm512_max_ps(_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3]));
}

/* Returns their sum. */
X86_AMX X86_INLINE __m512 shares_of(uint16_t *shares, const float *scores, __m512 max, size_t n,
                                    const sight *s, bool all)
{
    __m512 total = _mm512_setzero_ps();

    for (size_t key = 0; key < n; key += 2) {
        __m512 a = _mm512_loadu_ps(scores + key * QUERIES);
        __m512 b = _mm512_loadu_ps(scores + (key + 1) * QUERIES);

        a = power_of_2(_mm512_sub_ps(a, max));
        b = power_of_2(_mm512_sub_ps(b, max));
        a = _mm512_maskz_mov_ps(who_sees(s, all, key), a);
        b = _mm512_maskz_mov_ps(who_sees(s, all, key + 1), b);
        total = _mm512_add_ps(total, _mm512_add_ps(a, b));
        _mm512_storeu_si512(shares + key / 32 * 2 * BLOCK + key % 32 * 16, pairs(a, b));
    }
    return total;
}

/*
 * Of sixteen queries: scores of n keys become shares, less than the largest so far; returns
 * what the result and the sum so far are to be multiplied with.
 */
X86_AMX static __m512 share(uint16_t *shares, const float *scores, float *most, float *sum,
                            size_t n, const sight *s)
{
    const __m512 before = _mm512_loadu_ps(most);
    __m512 max =
        s->all ? largest(scores, before, n, s, true) : largest(scores, before, n, s, false);
    __m512 total = s->all ? shares_of(shares, scores, max, n, s, true)
                          : shares_of(shares, scores, max, n, s, false);
    __m512 again = power_of_2(_mm512_sub_ps(before, max));

    _mm512_storeu_ps(most, max);
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), again, total));
    return again;
}

/* result += values times shares, of n keys */
X86_AMX static void weigh(float *result, const uint16_t *values, const uint16_t *shares,
                          size_t n, size_t dim)
{
    for (size_t c = 0; c < dim; c += 32) {
        float *r = result + c * QUERIES;

        _tile_loadd(0, r, QUERIES * 4);
        _tile_loadd(1, r + 16, QUERIES * 4);
        _tile_loadd(2, r + 16 * QUERIES, QUERIES * 4);
        _tile_loadd(3, r + 16 * QUERIES + 16, QUERIES * 4);
        for (size_t key = 0; key < n; key += 32) {
            const uint16_t *v = values + key * dim + c / 16 * BLOCK;
            const uint16_t *s = shares + key / 32 * 2 * BLOCK;

            _tile_loadd(4, v, 64);
            _tile_loadd(5, v + BLOCK, 64);
            _tile_loadd(6, s, 64);
            _tile_loadd(7, s + BLOCK, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, r, QUERIES * 4);
        _tile_stored(1, r + 16, QUERIES * 4);
        _tile_stored(2, r + 16 * QUERIES, QUERIES * 4);
        _tile_stored(3, r + 16 * QUERIES + 16, QUERIES * 4);
    }
}

/* The first key that a query sees, all before it being there or not. */
X86_INLINE size_t first_seen(const cpu_attention *a, size_t query)
{
    size_t n = a->pos + query + 1;

    return a->window > 0 && n > a->window ? n - a->window : 0;
}

/* Sixteen queries from query on, and n keys from first on, of which so many are there. */
X86_INLINE sight sight_of(const cpu_attention *a, size_t query, size_t first, size_t n,
                          size_t real)
{
    sight s = {.ahead = (long)first - (long)(a->pos + query),
               .window = a->window > 0 ? (long)a->window : NO_WINDOW,
               .real = real};

    s.ahead = a->both_ways ? NOT_AHEAD : s.ahead;
    s.all = real == n && s.ahead + (long)n <= 1 && s.ahead + s.window >= 16;
    return s;
}

/* Keys from first on; query is the column's first. */
X86_AMX static void round_of(const cpu_attention *a, const workspace *ws, size_t column,
                             size_t query, size_t first, size_t dim)
{
    size_t all = a->pos + a->n, seen = a->pos + query + QUERIES, n;
    float *result = ws->result + column * dim * QUERIES;

    seen = a->both_ways || seen > all ? all : seen;
    if (first >= seen || first + KEYS <= first_seen(a, query)) {
        return;
    }
    n = keys_of(seen - first);
    score(ws->scores, ws->keys, ws->queries + column * dim * QUERIES, n, dim);
    if (a->cap > 0) {
        cap_scores(ws->scores, a->cap * LOG2_E, n * QUERIES);
    }
    for (size_t half = 0; half < 2; half++) {
        size_t at = column * QUERIES + half * 16;
        sight s = sight_of(a, query + half * 16, first, n, seen - first < n ? seen - first : n);
        __m512 again = share(ws->shares + half * BLOCK, ws->scores + half * 16, ws->most + at,
                             ws->sum + at, n, &s);

        if (_mm512_cmp_ps_mask(again, _mm512_set1_ps(1), _CMP_NEQ_UQ) != 0) {
            for (size_t c = 0; c < dim; c++) {
                float *r = result + c * QUERIES + half * 16;

                _mm512_storeu_ps(r, _mm512_mul_ps(_mm512_loadu_ps(r), again));
            }
        }
    }
    weigh(result, ws->values, ws->shares, n, dim);
}

/* --- what comes out --- */

X86_AMX static void finish(const cpu_attention *a, const workspace *ws, size_t column,
                           size_t head, size_t query, size_t dim)
{
    for (size_t half = 0; half < 2; half++) {
        const float *result = ws->result + column * dim * QUERIES + half * 16;
        __m512 part = _mm512_div_ps(_mm512_set1_ps(1),
                                    _mm512_loadu_ps(ws->sum + column * QUERIES + half * 16));

        for (size_t c = 0; c < a->head_dim; c += 16) {
            size_t left = a->head_dim - c;
            __mmask16 some = left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff;
            __m512i v[16];

            for (size_t i = 0; i < 16; i++) {
                v[i] = _mm512_castps_si512(
                    _mm512_mul_ps(_mm512_loadu_ps(result + (c + i) * QUERIES), part));
            }
            x86_transpose(v);
            for (size_t i = 0; i < 16 && query + half * 16 + i < a->n; i++) {
                float *out =
                    a->out + (query + half * 16 + i) * a->q_stride + head * a->head_dim;

                _mm512_mask_storeu_epi32(out + c, some, v[i]);
            }
        }
    }
}

static size_t blocks(size_t n, size_t n_heads)
{
    return ((n + QUERIES - 1) / QUERIES * n_heads + COLUMNS - 1) / COLUMNS;
}

X86_AMX static void attend(const cpu_attention *a, size_t block, uint8_t *scratch)
{
    size_t dim = rounded(a->head_dim), all = (a->n + QUERIES - 1) / QUERIES * a->n_heads;
    size_t begin = block * COLUMNS, n = all - begin < COLUMNS ? all - begin : COLUMNS;
    size_t last = (begin + n - 1) / a->n_heads * QUERIES + QUERIES;
    size_t keys = a->pos + (last < a->n && !a->both_ways ? last : a->n);
    size_t from = first_seen(a, begin / a->n_heads * QUERIES);
    workspace ws = carve(scratch, dim);

    memset(ws.result, 0, n * dim * QUERIES * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        size_t query = (begin + i) / a->n_heads * QUERIES, head = (begin + i) % a->n_heads;

        pack_queries(ws.queries + i * dim * QUERIES, a, head, query, dim);
        for (size_t q = 0; q < QUERIES; q++) {
            ws.most[i * QUERIES + q] = -FLT_MAX; /* its distance to itself is a number */
            ws.sum[i * QUERIES + q] = 0;
        }
    }
    x86_tiles_configure();
    /* rounds are the same however a prompt is cut */
    for (size_t first = from - from % KEYS; first < keys; first += KEYS) {
        pack_keys(ws.keys, a, first, dim);
        pack_values(ws.values, a, first, dim);
        for (size_t i = 0; i < n; i++) {
            round_of(a, &ws, i, (begin + i) / a->n_heads * QUERIES, first, dim);
        }
    }
    _tile_release();
    for (size_t i = 0; i < n; i++) {
        finish(a, &ws, i, (begin + i) % a->n_heads, (begin + i) / a->n_heads * QUERIES, dim);
    }
}

const cpu_attend cpu_attend_amx = {
    .scratch_bytes = scratch_bytes,
    .blocks = blocks,
    .attend = attend,
};

#endif
