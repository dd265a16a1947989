/*
 * Few tokens at once: the time goes into reading weights, so they are multiplied as the small
 * integers that they are, with activations rounded to eight bits, each 32 of them to a scale
 * of their own. vpdpbusd multiplies 64 pairs at once; two rows far apart are read together and
 * the memory is told 1 KB ahead: 107 % of what a plain loop reads.
 *
 * Each lane of an accumulator adds up every sixteenth group of four weights in the order of the
 * row, whatever else is computed beside it: the result does not depend on company.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/x86.h"

#define AHEAD 1024 /* bytes */

/* An activation vector, prepared by quantize; n rounded up to 64 with zeros. */
typedef struct {
    int8_t *q;  /* [n] */
    int32_t *c; /* [n / 4] the sum of each four, times -128: what moving weights by 128 adds to
                   their product, taken back */
    float *d;   /* [n / 4] the scale, repeated for each four */
    float *sum; /* [n / 16] of each sixteen, scaled: what min is multiplied with */
} vector;

static vector vector_at(uint8_t *base, size_t cols)
{
    size_t n = (cols + 63) & ~(size_t)63;

    return (vector){
        .q = (int8_t *)base,
        .c = (int32_t *)(void *)(base + n),
        .d = (float *)(void *)(base + 2 * n),
        .sum = (float *)(void *)(base + 3 * n),
    };
}

static size_t vector_bytes(size_t cols)
{
    size_t n = (cols + 63) & ~(size_t)63;

    return (3 * n + n / 4 + 63) & ~(size_t)63;
}

X86_VNNI static void quantize(uint8_t *dst, const float *x, size_t cols)
{
    size_t n = (cols + 63) & ~(size_t)63;
    vector v = vector_at(dst, cols);

    for (size_t i = 0; i < n; i += 32) {
        x86_eight_bits e = {0};
        __m256i four;

        if (i < cols) {
            e = x86_round_to_eight_bits(x + i);
        }
        four = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), e.q);
        _mm256_storeu_si256((__m256i *)(void *)(v.q + i), e.q);
        _mm256_storeu_si256(
            (__m256i *)(void *)(v.c + i / 4),
            _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), four), 7));
        _mm256_storeu_ps(v.d + i / 4, _mm256_set1_ps(e.d));
        v.sum[i / 16] = (float)e.sum[0] * e.d;
        v.sum[i / 16 + 1] = (float)e.sum[1] * e.d;
    }
}

/* acc += 64 weights, whose bytes are up above their meaning, times x's at i. */
X86_VNNI X86_INLINE __m512 add64(__m512 acc, __m512i w, __m512 scale, const vector *x, size_t i,
                                 int up)
{
    __m512i s = _mm512_setzero_si512();

    if (up > 0) {
        s = _mm512_loadu_si512(x->c + i / 4);
        s = up == 128 ? s : _mm512_srai_epi32(s, up == 32 ? 2 : 4);
    }
    s = _mm512_dpbusd_epi32(s, w, _mm512_loadu_si512(x->q + i));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s),
                           _mm512_mul_ps(scale, _mm512_loadu_ps(x->d + i / 4)), acc);
}

/* Rows of Q8_0 or Q4_0. A last block without a partner meets zeros. */
X86_VNNI X86_INLINE void dot_blocks(kern_type type, size_t nr, size_t nt, __m512 acc[2][4],
                                    const uint8_t *const row[2], const vector x[4], size_t cols)
{
    const size_t bytes = type == KERN_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;

    for (size_t i = 0; i < cols; i += 64) {
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + i / 32 * bytes, *next = i + 32 < cols ? p + bytes : p;
            __m512 scale = x86_two_f16(p, next);
            __m512i w = type == KERN_Q8_0 ? x86_join(x86_q8_0(p), x86_q8_0(next))
                                          : x86_join(x86_q4_0(p), x86_q4_0(next));

            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            for (size_t t = 0; t < nt; t++) {
                acc[r][t] = add64(acc[r][t], w, scale, &x[t], i, type == KERN_Q8_0 ? 128 : 8);
            }
        }
    }
}

X86_VNNI X86_INLINE void dot_supers(kern_type type, size_t nr, size_t nt, __m512 acc[2][4],
                                    const uint8_t *const row[2], const vector x[4], size_t cols)
{
    const size_t bytes = type == KERN_Q4_K   ? Q4_K_BYTES
                         : type == KERN_Q5_K ? Q5_K_BYTES
                                             : Q6_K_BYTES;
    const __m512i spread = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);

    for (size_t i = 0; i < cols; i += 256) {
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + i / 256 * bytes;
            x86_groups g = x86_super_groups(type, p);

            for (size_t line = 0; line < bytes; line += 64) {
                _mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
            }
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m512i lanes = _mm512_add_epi32(spread, _mm512_set1_epi32((int)(4 * j)));
                __m512 scale = _mm512_permutexvar_ps(lanes, g.scale);
                __m512i w = x86_super(type, p, j);

                for (size_t t = 0; t < nt; t++) {
                    acc[r][t] = add64(acc[r][t], w, scale, &x[t], i + 64 * j,
                                      type == KERN_Q6_K ? 32 : 0);
                }
            }
            for (size_t t = 0; t < nt && type != KERN_Q6_K; t++) {
                acc[r][t] =
                    _mm512_fnmadd_ps(g.min, _mm512_loadu_ps(x[t].sum + i / 16), acc[r][t]);
            }
        }
    }
}

/* nr rows, apart rows from each other, with nt tokens: y[t * ldy + r] */
X86_VNNI X86_INLINE void dot_part(kern_type type, size_t nr, size_t nt, float *y, size_t ldy,
                                  const uint8_t *row, size_t apart, uint8_t *x, size_t cols)
{
    const uint8_t *const rows[2] = {row, row + apart * cpu_row_bytes(type, cols)};
    vector v[4];
    __m512 acc[2][4];

    for (size_t t = 0; t < nt; t++) {
        v[t] = vector_at(x + t * vector_bytes(cols), cols);
        acc[0][t] = acc[1][t] = _mm512_setzero_ps();
    }
    if (type == KERN_Q8_0 || type == KERN_Q4_0) {
        dot_blocks(type, nr, nt, acc, rows, v, cols);
    } else {
        dot_supers(type, nr, nt, acc, rows, v, cols);
    }
    for (size_t r = 0; r < nr; r++) {
        for (size_t t = 0; t < nt; t++) {
            y[t * ldy + r * apart] = _mm512_reduce_add_ps(acc[r][t]);
        }
    }
}

/* n rows with nt tokens: the first half of the rows beside the second */
X86_VNNI X86_INLINE void dot_rows(kern_type type, size_t nt, float *y, size_t ldy,
                                  const uint8_t *row, size_t n, uint8_t *x, size_t cols)
{
    size_t bytes = cpu_row_bytes(type, cols), half = n / 2;

    for (size_t r = 0; r < half; r++) {
        dot_part(type, 2, nt, y + r, ldy, row + r * bytes, half, x, cols);
    }
    if (n % 2 != 0) {
        dot_part(type, 1, nt, y + n - 1, ldy, row + (n - 1) * bytes, 0, x, cols);
    }
}

X86_VNNI X86_INLINE void dot_tokens(kern_type type, float *y, size_t ldy, const uint8_t *row,
                                    size_t n, uint8_t *x, size_t tokens, size_t cols)
{
    for (size_t t = 0; t < tokens;) {
        uint8_t *xt = x + t * vector_bytes(cols);

        if (tokens - t >= 4) {
            dot_rows(type, 4, y + t * ldy, ldy, row, n, xt, cols);
            t += 4;
        } else if (tokens - t >= 2) {
            dot_rows(type, 2, y + t * ldy, ldy, row, n, xt, cols);
            t += 2;
        } else {
            dot_rows(type, 1, y + t * ldy, ldy, row, n, xt, cols);
            t++;
        }
    }
}

#define DOT(name, type)                                                                        \
    X86_VNNI static void name(float *y, size_t ldy, const uint8_t *row, size_t n, uint8_t *x,  \
                              size_t tokens, size_t cols)                                      \
    {                                                                                          \
        dot_tokens(type, y, ldy, row, n, x, tokens, cols);                                     \
    }

DOT(dot_q8_0, KERN_Q8_0)
DOT(dot_q4_0, KERN_Q4_0)
DOT(dot_q4_k, KERN_Q4_K)
DOT(dot_q5_k, KERN_Q5_K)
DOT(dot_q6_k, KERN_Q6_K)

const cpu_dot cpu_dot_vnni = {
    .vector_bytes = vector_bytes,
    .quantize = quantize,
    .rows =
        {
            [KERN_Q8_0] = dot_q8_0,
            [KERN_Q4_0] = dot_q4_0,
            [KERN_Q4_K] = dot_q4_k,
            [KERN_Q5_K] = dot_q5_k,
            [KERN_Q6_K] = dot_q6_k,
        },
};

#endif
