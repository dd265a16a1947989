/*
 * Some tokens at once, or many, where there is AVX2 alone. Rows lie in lanes: sixteen rows of a
 * span are unpacked to the first cache, four columns of each beside four of the next, and are
 * multiplied with four activations of a token in all lanes. So no sum has to be taken apart,
 * and what it costs to unpack is shared by all tokens.
 *
 * Products of bytes are added up in sixteen bits for as long as these hold them: the 32 of a
 * block where weights have four bits, 16 where they have five, eight where they have six.
 *
 * Activations are rounded as for avx2_dot.c. What differs is the order in which the sums of
 * blocks are added up, and that does not depend on company.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2.h"

enum { BLOCKS = AVX2_SPAN / 32, ROWS = 16 };

/* A span of sixteen rows. */
typedef struct {
    uint8_t q[BLOCKS][8][ROWS][4]; /* [block][k / 4][row][k % 4] */
    float scale[BLOCKS][ROWS];
    float min[BLOCKS][2][ROWS];           /* Q6_K: of each sixteen columns; others: the first */
    int16_t sixteens[BLOCKS][2][ROWS][2]; /* Q6_K: what their sums are multiplied with, twice */
} unpacked;

typedef struct {
    unpacked w;
    float totals[][ROWS]; /* [token] */
} workspace;

/* One product under way. */
typedef struct {
    const uint8_t *row; /* the first */
    size_t row_bytes;
    size_t span_bytes;
    size_t rows;
    size_t cols;
    const avx2_span *x; /* [cols / AVX2_SPAN][sixteens of tokens] */
    size_t n;
    workspace *ws;
} product;

static size_t scratch_bytes(size_t max_tokens)
{
    size_t tokens = max_tokens < TILE_TOKENS ? max_tokens : TILE_TOKENS;

    return sizeof(workspace) + tokens * sizeof(((workspace *)0)->totals[0]);
}

static size_t sixteens(size_t n)
{
    return (n + 15) / 16 * 16;
}

static void pack(void *dst, const float *x, size_t first, size_t n, size_t cols)
{
    avx2_span *s = dst;

    for (size_t t = first; t < n && t < first + 16; t++) {
        for (size_t c = 0; c < cols; c += AVX2_SPAN) {
            cpu_avx2_round(s + c / AVX2_SPAN * sixteens(n) + t, x + t * cols + c,
                           cols - c < AVX2_SPAN ? cols - c : AVX2_SPAN);
        }
    }
}

/* --- weights --- */

/* Sixteen bytes of eight rows: four of each beside four of the next. */
AVX2 AVX2_INLINE void turn(__m256i out[4], const uint8_t *const row[8], size_t at)
{
    __m256i v[4], t[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        v[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(avx2_load16(row[i] + at)),
                                       avx2_load16(row[i + 4] + at), 1);
    }
    t[0] = _mm256_unpacklo_epi32(v[0], v[1]);
    t[1] = _mm256_unpackhi_epi32(v[0], v[1]);
    t[2] = _mm256_unpacklo_epi32(v[2], v[3]);
    t[3] = _mm256_unpackhi_epi32(v[2], v[3]);
    out[0] = _mm256_unpacklo_epi64(t[0], t[2]);
    out[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    out[2] = _mm256_unpacklo_epi64(t[1], t[3]);
    out[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}

/* Column group k of block b of eight rows from r on. */
AVX2 AVX2_INLINE void put(unpacked *w, size_t b, size_t k, size_t r, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)w->q[b][k][r], v);
}

AVX2 AVX2_INLINE __m256 f16_of(const uint8_t *const row[8], size_t at)
{
    uint16_t h[8];

    for (size_t i = 0; i < 8; i++) {
        memcpy(&h[i], row[i] + at, sizeof(h[i]));
    }
    return _mm256_cvtph_ps(avx2_load16(h));
}

AVX2 AVX2_INLINE void unpack_blocks(kern_type type, unpacked *w, size_t r,
                                    const uint8_t *const row[8], size_t blocks)
{
    const __m256i four = _mm256_set1_epi8(15);
    const size_t bytes = type == KERN_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;

    for (size_t b = 0; b < blocks; b++) {
        __m256 d = f16_of(row, b * bytes);
        __m256i v[4];

        _mm256_store_ps(&w->scale[b][r], d);
        _mm256_store_ps(&w->min[b][0][r], _mm256_mul_ps(d, _mm256_set1_ps(8)));
        turn(v, row, b * bytes + 2);
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            if (type == KERN_Q4_0) {
                put(w, b, k, r, _mm256_and_si256(v[k], four));
                put(w, b, k + 4, r, _mm256_and_si256(_mm256_srli_epi16(v[k], 4), four));
            } else {
                put(w, b, k, r, v[k]);
            }
        }
        if (type == KERN_Q8_0) {
            turn(v, row, b * bytes + 18);
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++) {
                put(w, b, k + 4, r, v[k]);
            }
        }
    }
}

/* The six-bit numbers of quant_scales, of eight rows at once. */
AVX2 AVX2_INLINE void unpack_six_bits(unpacked *w, size_t r, const uint8_t *const row[8])
{
    const __m256i six = _mm256_set1_epi8(63), four = _mm256_set1_epi8(15);
    const __m256i two = _mm256_set1_epi8(0x30), byte = _mm256_set1_epi32(255);
    __m256i s[4], scale[2], min[2];
    __m256 d = f16_of(row, 0), dmin = f16_of(row, 2);

    turn(s, row, 0);
    scale[0] = _mm256_and_si256(s[1], six);
    scale[1] = _mm256_or_si256(_mm256_and_si256(s[3], four),
                               _mm256_and_si256(_mm256_srli_epi32(s[1], 2), two));
    min[0] = _mm256_and_si256(s[2], six);
    min[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(s[3], 4), four),
                             _mm256_and_si256(_mm256_srli_epi32(s[2], 2), two));
#pragma GCC unroll 8
    for (size_t b = 0; b < BLOCKS; b++) {
        int down = (int)(b % 4 * 8);
        __m256i a = _mm256_and_si256(_mm256_srli_epi32(scale[b / 4], down), byte);
        __m256i m = _mm256_and_si256(_mm256_srli_epi32(min[b / 4], down), byte);

        _mm256_store_ps(&w->scale[b][r], _mm256_mul_ps(d, _mm256_cvtepi32_ps(a)));
        _mm256_store_ps(&w->min[b][0][r], _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(m)));
    }
}

/* Bit b of each byte where a fifth one belongs; what else is there strays. */
AVX2 AVX2_INLINE __m256i fifth_bits(__m256i high, size_t b)
{
    return b < 4 ? _mm256_slli_epi16(high, 4 - (int)b) : _mm256_srli_epi16(high, (int)b - 4);
}

AVX2 AVX2_INLINE void unpack_fours(kern_type type, unpacked *w, size_t r,
                                   const uint8_t *const row[8])
{
    const __m256i four = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);
    const size_t from = type == KERN_Q4_K ? Q4_K_LOW : Q5_K_LOW;

    unpack_six_bits(w, r, row);
    for (size_t half = 0; half < 2; half++) {
        __m256i v[4], high[4];

        if (type == KERN_Q5_K) {
            turn(high, row, Q5_K_HIGH + 16 * half);
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            turn(v, row, from + 32 * j + 16 * half);
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++) {
                __m256i a = _mm256_and_si256(v[k], four);
                __m256i b = _mm256_and_si256(_mm256_srli_epi16(v[k], 4), four);

                if (type == KERN_Q5_K) {
                    a = _mm256_or_si256(a, _mm256_and_si256(fifth_bits(high[k], 2 * j), fifth));
                    b = _mm256_or_si256(
                        b, _mm256_and_si256(fifth_bits(high[k], 2 * j + 1), fifth));
                }
                put(w, 2 * j, 4 * half + k, r, a);
                put(w, 2 * j + 1, 4 * half + k, r, b);
            }
        }
    }
}

AVX2 AVX2_INLINE void unpack_q6_k(unpacked *w, size_t r, const uint8_t *const row[8])
{
    const __m256i four = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    const __m256i lanes = _mm256_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0, 0x0c0c0c0c,
                                           0x08080808, 0x04040404, 0);
    __m256 d = f16_of(row, Q6_K_D), down = _mm256_mul_ps(d, _mm256_set1_ps(32));
    __m256i s[4];

    turn(s, row, Q6_K_SCALES);
#pragma GCC unroll 16
    for (size_t g = 0; g < 16; g++) {
        __m256i at = _mm256_add_epi8(lanes, _mm256_set1_epi8((char)(g % 4)));
        __m256i v = _mm256_shuffle_epi8(s[g / 4], at);

        _mm256_store_si256((__m256i *)(void *)w->sixteens[g / 2][g % 2][r],
                           _mm256_srai_epi16(v, 8));
        _mm256_store_ps(&w->min[g / 2][g % 2][r],
                        _mm256_mul_ps(down, _mm256_cvtepi32_ps(_mm256_srai_epi32(v, 24))));
        _mm256_store_ps(&w->scale[g / 2][r], d);
    }
    for (size_t i = 0; i < 4; i++) {
        size_t b = i / 2 * 4, half = i % 2, low = 64 * (i / 2) + 16 * half;
        __m256i high[4], v[2][4];

        turn(high, row, Q6_K_HIGH + 32 * (i / 2) + 16 * half);
        turn(v[0], row, low);
        turn(v[1], row, low + 32);
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            size_t at = 4 * half + k;
            __m256i h = high[k];

            put(w, b, at, r,
                _mm256_or_si256(_mm256_and_si256(v[0][k], four),
                                _mm256_and_si256(_mm256_slli_epi16(h, 4), two)));
            put(w, b + 1, at, r,
                _mm256_or_si256(_mm256_and_si256(v[1][k], four),
                                _mm256_and_si256(_mm256_slli_epi16(h, 2), two)));
            put(w, b + 2, at, r,
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v[0][k], 4), four),
                                _mm256_and_si256(h, two)));
            put(w, b + 3, at, r,
                _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v[1][k], 4), four),
                                _mm256_and_si256(_mm256_srli_epi16(h, 2), two)));
        }
    }
}

/* Columns from c on of rows from r on; what is no row is the last one. */
AVX2 AVX2_INLINE void unpack(kern_type type, const product *p, size_t r, size_t c)
{
    for (size_t group = 0; group < ROWS; group += 8) {
        const uint8_t *row[8];

        for (size_t i = 0; i < 8; i++) {
            size_t at = r + group + i < p->rows ? r + group + i : p->rows - 1;

            row[i] = p->row + at * p->row_bytes + c / AVX2_SPAN * p->span_bytes;
            for (size_t line = 0; line < p->span_bytes; line += 64) {
                _mm_prefetch((const char *)row[i] + ROWS * p->row_bytes + line, _MM_HINT_T1);
            }
        }
        if (type == KERN_Q8_0 || type == KERN_Q4_0) {
            size_t left = p->cols - c;

            unpack_blocks(type, &p->ws->w, group, row,
                          left < AVX2_SPAN ? left / 32 : (size_t)BLOCKS);
        } else if (type == KERN_Q6_K) {
            unpack_q6_k(&p->ws->w, group, row);
        } else {
            unpack_fours(type, &p->ws->w, group, row);
        }
    }
}

/* --- the product --- */

/* Groups of four columns whose products are added up in sixteen bits. */
AVX2_INLINE size_t run_of(kern_type type)
{
    return type == KERN_Q8_0 ? 1 : type == KERN_Q6_K ? 2 : type == KERN_Q5_K ? 4 : 8;
}

/* Four activations, eight times. */
AVX2 AVX2_INLINE __m256i four_times_eight(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return _mm256_set1_epi32(four);
}

/* Of Q8_0 the weight's sign goes over to the activation, as in avx2_dot.c. */
AVX2 AVX2_INLINE __m256i pairs_of(kern_type type, __m256i w, __m256i q)
{
    return type == KERN_Q8_0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w))
                             : _mm256_maddubs_epi16(w, q);
}

/* Integer sums of block b: [token][eight rows]. Unrolled, its columns would not find room in
 * the registers all at once: gcc does not keep them apart. */
AVX2 AVX2_INLINE void sum_block(kern_type type, size_t nt, const unpacked *w, size_t b,
                                const avx2_span *x, __m256i sum[4][2])
{
    const size_t run = run_of(type);

#pragma GCC unroll 8
    for (size_t t = 0; t < 2 * nt; t++) {
        sum[t / 2][t % 2] = _mm256_setzero_si256();
    }
#pragma GCC unroll 1
    for (size_t k = 0; k < 8; k += run) {
        __m256i part[4][2];

#pragma GCC unroll 8
        for (size_t t = 0; t < 2 * nt; t++) {
            part[t / 2][t % 2] = _mm256_setzero_si256();
        }
#pragma GCC unroll 1
        for (size_t i = k; i < k + run; i++) {
            __m256i low = avx2_load(w->q[b][i][0]), high = avx2_load(w->q[b][i][8]);

#pragma GCC unroll 4
            for (size_t t = 0; t < nt; t++) {
                __m256i q = four_times_eight(x[t].q + 32 * b + 4 * i);

                part[t][0] = _mm256_add_epi16(part[t][0], pairs_of(type, low, q));
                part[t][1] = _mm256_add_epi16(part[t][1], pairs_of(type, high, q));
            }
        }
#pragma GCC unroll 2
        for (size_t g = 0; g < 2; g++) {
            __m256i by = type == KERN_Q6_K ? avx2_load(w->sixteens[b][k / 4][8 * g])
                                           : _mm256_set1_epi16(1);

#pragma GCC unroll 4
            for (size_t t = 0; t < nt; t++) {
                sum[t][g] = _mm256_add_epi32(sum[t][g], _mm256_madd_epi16(part[t][g], by));
            }
        }
    }
}

AVX2 AVX2_INLINE __m256 take_min(__m256 total, const float *min, const float *sum)
{
    return _mm256_fnmadd_ps(_mm256_load_ps(min), _mm256_broadcast_ss(sum), total);
}

/* totals += blocks of a span of nt tokens */
AVX2 AVX2_INLINE void add_span(kern_type type, size_t nt, const unpacked *w, size_t blocks,
                               const avx2_span *x, float (*totals)[ROWS])
{
    for (size_t b = 0; b < blocks; b++) {
        __m256i sum[4][2];

        sum_block(type, nt, w, b, x, sum);
#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            __m256 d = _mm256_broadcast_ss(&x[t].d[b]);

#pragma GCC unroll 2
            for (size_t g = 0; g < 2; g++) {
                float *at = &totals[t][8 * g];
                __m256 s = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[t][g]), d);
                __m256 v =
                    _mm256_fmadd_ps(s, _mm256_load_ps(&w->scale[b][8 * g]), _mm256_load_ps(at));

                if (type == KERN_Q6_K) {
                    v = take_min(v, &w->min[b][0][8 * g], &x[t].sum16[2 * b]);
                    v = take_min(v, &w->min[b][1][8 * g], &x[t].sum16[2 * b + 1]);
                } else if (type != KERN_Q8_0) {
                    v = take_min(v, &w->min[b][0][8 * g], &x[t].sum[b]);
                }
                _mm256_store_ps(at, v);
            }
        }
    }
}

AVX2 AVX2_INLINE void multiply_span(kern_type type, const product *p, size_t c)
{
    const avx2_span *x = p->x + c / AVX2_SPAN * sixteens(p->n);
    const unpacked *w = &p->ws->w;
    size_t left = p->cols - c, blocks = left < AVX2_SPAN ? left / 32 : (size_t)BLOCKS, t = 0;

    for (; t + 4 <= p->n; t += 4) {
        add_span(type, 4, w, blocks, x + t, p->ws->totals + t);
    }
    if (p->n % 4 >= 2) {
        add_span(type, 2, w, blocks, x + t, p->ws->totals + t);
        t += 2;
    }
    if (p->n % 2 != 0) {
        add_span(type, 1, w, blocks, x + t, p->ws->totals + t);
    }
}

AVX2 AVX2_INLINE void multiply_all(kern_type type, const product *p, float *y, size_t ldy)
{
    for (size_t r = 0; r < p->rows; r += ROWS) {
        size_t some = p->rows - r < ROWS ? p->rows - r : ROWS;

        memset(p->ws->totals, 0, p->n * sizeof(p->ws->totals[0]));
        for (size_t c = 0; c < p->cols; c += AVX2_SPAN) {
            unpack(type, p, r, c);
            multiply_span(type, p, c);
        }
        for (size_t t = 0; t < p->n; t++) {
            memcpy(y + t * ldy + r, p->ws->totals[t], some * sizeof(*y));
        }
    }
}

#define CASE(type)                                                                             \
    case type:                                                                                 \
        multiply_all(type, &p, y, ldy);                                                        \
        break

AVX2 static void multiply(kern_type type, float *y, size_t ldy, const uint8_t *row, size_t rows,
                          const void *x, size_t n, size_t cols, uint8_t *scratch)
{
    product p = {
        .row = row,
        .row_bytes = cpu_row_bytes(type, cols),
        .span_bytes = cpu_row_bytes(type, AVX2_SPAN),
        .rows = rows,
        .cols = cols,
        .x = x,
        .n = n,
        .ws = (workspace *)(void *)scratch,
    };

    switch (type) {
        CASE(KERN_Q8_0);
        CASE(KERN_Q4_0);
        CASE(KERN_Q4_K);
        CASE(KERN_Q5_K);
        CASE(KERN_Q6_K);
    default:
        break;
    }
}

const cpu_tile cpu_tile_avx2 = {
    .packed_bytes = avx2_vector_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .multiply = multiply,
    .from =
        {
            [KERN_Q8_0] = 12,
            [KERN_Q4_0] = 4,
            [KERN_Q4_K] = 4,
            [KERN_Q5_K] = 4,
            [KERN_Q6_K] = 4,
        },
};

#endif
