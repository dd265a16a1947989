/*
 * Few tokens at once: the time goes into reading weights, so they are multiplied as the small
 * integers that they are, with activations rounded to eight bits, each 32 of them to a scale
 * of their own. vpdpbusd multiplies 64 pairs at once, of unsigned bytes with signed ones: how
 * far a layout's bytes lie above their meaning is taken back in floats, once for a block's sum.
 * Scales are converted and multiplied sixteen at a time. Two rows far apart are read together
 * and the memory is told 2 KB ahead: 95 % of what a plain loop reads.
 *
 * Each lane of an accumulator adds up every sixteenth group of four weights in the order of the
 * row, whatever else is computed beside it: the result does not depend on company.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/x86.h"

#define AHEAD 2048 /* bytes */

/* Weights whose scales are converted at once, of Q8_0 and Q4_0. */
#define SPAN 512

/* An activation vector, prepared by quantize; n rounded up to SPAN with zeros. */
typedef struct {
    int8_t *q;    /* [n] */
    float *d;     /* [n / 32] the scales */
    float *sum;   /* [n / 32] of each 32, scaled */
    float *sum16; /* [n / 16] likewise of each sixteen */
} vector;

static size_t padded(size_t cols)
{
    return (cols + SPAN - 1) / SPAN * SPAN;
}

static vector vector_at(uint8_t *base, size_t cols)
{
    size_t n = padded(cols);

    return (vector){
        .q = (int8_t *)base,
        .d = (float *)(void *)(base + n),
        .sum = (float *)(void *)(base + n + n / 8),
        .sum16 = (float *)(void *)(base + n + n / 4),
    };
}

static size_t vector_bytes(size_t cols)
{
    size_t n = padded(cols);

    return n + n / 2;
}

X86_VNNI static void quantize(uint8_t *dst, const float *x, size_t cols)
{
    vector v = vector_at(dst, cols);

    memset(dst, 0, vector_bytes(cols));
    for (size_t i = 0; i < cols; i += 32) {
        x86_eight_bits e = x86_round_to_eight_bits(x + i);

        _mm256_storeu_si256((__m256i *)(void *)(v.q + i), e.q);
        v.d[i / 32] = e.d;
        v.sum[i / 32] = ((float)e.sum[0] + (float)e.sum[1]) * e.d; /* of NaN they are wild */
        v.sum16[i / 16] = (float)e.sum[0] * e.d;
        v.sum16[i / 16 + 1] = (float)e.sum[1] * e.d;
    }
}

/* acc += 64 weights times as many activations; scale has sixteen, lanes says whose is whose */
X86_VNNI X86_INLINE __m512 add64(__m512 acc, __m512i w, __m512i q, __m512i lanes, __m512 scale)
{
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, q);

    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_permutexvar_ps(lanes, scale), acc);
}

/* The scales of n blocks, at most sixteen, and zeros. */
X86_VNNI X86_INLINE __m512 scales_of(const uint8_t *p, size_t bytes, size_t n)
{
    uint16_t d[16] = {0};

    for (size_t i = 0; i < n; i++) {
        memcpy(&d[i], p + i * bytes, sizeof(d[i]));
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)d));
}

/* n blocks of Q8_0 or Q4_0 of each row, at most sixteen, from i on. A last one without a
 * partner meets zeros. */
X86_VNNI X86_INLINE void dot_span(kern_type type, size_t nr, size_t nt, __m512 acc[2][4],
                                  const uint8_t *const row[2], const vector x[4], size_t i,
                                  size_t n)
{
    const size_t bytes = type == KERN_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;
    const __m512 up = _mm512_set1_ps(type == KERN_Q8_0 ? 128 : 8);
    const __m512i halves = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 scale[2][4];

#pragma GCC unroll 2
    for (size_t r = 0; r < nr; r++) {
        __m512 d = scales_of(row[r] + i / 32 * bytes, bytes, n);

        for (size_t t = 0; t < nt; t++) {
            scale[r][t] = _mm512_mul_ps(d, _mm512_loadu_ps(x[t].d + i / 32));
            acc[r][t] = _mm512_fnmadd_ps(_mm512_mul_ps(d, up),
                                         _mm512_loadu_ps(x[t].sum + i / 32), acc[r][t]);
        }
    }
#pragma GCC unroll 8
    for (size_t b = 0; b < n; b += 2) {
        __m512i lanes = _mm512_add_epi32(halves, _mm512_set1_epi32((int)b));

#pragma GCC unroll 2
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + (i / 32 + b) * bytes, *next = b + 1 < n ? p + bytes : p;
            __m512i w = type == KERN_Q8_0 ? x86_join(x86_q8_0(p), x86_q8_0(next))
                                          : x86_join(x86_q4_0(p), x86_q4_0(next));

            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
            for (size_t t = 0; t < nt; t++) {
                acc[r][t] = add64(acc[r][t], w, _mm512_loadu_si512(x[t].q + i + 32 * b), lanes,
                                  scale[r][t]);
            }
        }
    }
}

X86_VNNI X86_INLINE void dot_blocks(kern_type type, size_t nr, size_t nt, __m512 acc[2][4],
                                    const uint8_t *const row[2], const vector x[4], size_t cols)
{
    size_t i = 0;

    for (; i + SPAN <= cols; i += SPAN) {
        dot_span(type, nr, nt, acc, row, x, i, SPAN / 32);
    }
    if (i < cols) {
        dot_span(type, nr, nt, acc, row, x, i, (cols - i) / 32);
    }
}

X86_VNNI X86_INLINE void dot_supers(kern_type type, size_t nr, size_t nt, __m512 acc[2][4],
                                    const uint8_t *const row[2], const vector x[4], size_t cols)
{
    const size_t bytes = type == KERN_Q4_K   ? Q4_K_BYTES
                         : type == KERN_Q5_K ? Q5_K_BYTES
                                             : Q6_K_BYTES;
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i spread = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);

    for (size_t i = 0; i < cols; i += 256) {
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + i / 256 * bytes;
            x86_groups g = x86_super_groups(type, p);
            __m512 scale[4], min = g.min;

            if (type == KERN_Q6_K) {
                min = _mm512_mul_ps(g.scale, _mm512_set1_ps(32));
            }
            for (size_t line = 0; line < bytes; line += 64) {
                _mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
            }
            for (size_t t = 0; t < nt; t++) {
                __m256 d = _mm256_loadu_ps(x[t].d + i / 32);

                scale[t] = _mm512_mul_ps(
                    g.scale, _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(d)));
                acc[r][t] =
                    _mm512_fnmadd_ps(min, _mm512_loadu_ps(x[t].sum16 + i / 16), acc[r][t]);
            }
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m512i lanes = _mm512_add_epi32(spread, _mm512_set1_epi32((int)(4 * j)));
                __m512i w = x86_super(type, p, j);

                for (size_t t = 0; t < nt; t++) {
                    acc[r][t] = add64(acc[r][t], w, _mm512_loadu_si512(x[t].q + i + 64 * j),
                                      lanes, scale[t]);
                }
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
