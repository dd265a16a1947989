/*
 * What the files for AVX2 share: activations rounded to eight bits, as x86.h rounds them, and
 * how numbers of f16 become vectors.
 */
#ifndef CPU_AVX2_H
#define CPU_AVX2_H

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/quant.h"

#define AVX2        __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE static inline __attribute__((always_inline))

/* Columns of a span: those of a super-block. */
#define AVX2_SPAN 256

/* Activations, rounded to eight bits; behind the last there are zeros. */
typedef struct {
    int8_t q[AVX2_SPAN];
    float d[8];      /* the scale of each 32 */
    float sum[8];    /* of each 32, scaled */
    float sum16[16]; /* likewise of each sixteen */
} avx2_span;

static inline size_t avx2_spans(size_t cols)
{
    return (cols + AVX2_SPAN - 1) / AVX2_SPAN;
}

/* Bytes of a token's spans. */
static inline size_t avx2_vector_bytes(size_t cols)
{
    return avx2_spans(cols) * sizeof(avx2_span);
}

/* Rounds x [n], 32, 64, … or AVX2_SPAN; s is aligned to 32. */
void cpu_avx2_round(avx2_span *s, const float *x, size_t n);

AVX2 AVX2_INLINE __m256i avx2_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

AVX2 AVX2_INLINE __m128i avx2_load16(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* The f16 at p, eight times. */
AVX2 AVX2_INLINE __m256 avx2_one_f16(const uint8_t *p)
{
    uint16_t h;

    memcpy(&h, p, sizeof(h));
    return _mm256_cvtph_ps(_mm_set1_epi16((short)h));
}

/* The f16 at p and at each step from it, eight at most, and zeros. */
AVX2 AVX2_INLINE __m256 avx2_some_f16(const uint8_t *p, size_t step, size_t n)
{
    uint16_t d[8] = {0};

    for (size_t i = 0; i < n; i++) {
        memcpy(&d[i], p + i * step, sizeof(d[i]));
    }
    return _mm256_cvtph_ps(avx2_load16(d));
}

#endif
#endif
