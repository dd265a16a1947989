/* For AVX2: two sums of eight lanes per token. */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/avx2.h"
#include "kernels/cpu/vector.h"

AVX2 static inline float avx2_sum(__m256 a, __m256 b)
{
    __m256 s = _mm256_add_ps(a, b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    t = _mm_add_ss(t, _mm_movehdup_ps(t));
    return _mm_cvtss_f32(t);
}

AVX2 static inline float avx2_tail(float sum, const float *a, const float *b, size_t i,
                                   size_t n)
{
    for (; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

AVX2 static float avx2_dot(const float *a, const float *b, size_t n)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = _mm256_setzero_ps();
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
    }
    return avx2_tail(avx2_sum(s0, s1), a, b, i, n);
}

/* Two rows with two tokens, as many as sixteen registers hold; the second's are four behind. */
AVX2 static inline void avx2_dot2x2(float *out, const float *w, const float *x, size_t n)
{
    __m256 s0[2][2], s1[2][2];
    size_t i = 0;

#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        s0[j / 2][j % 2] = s1[j / 2][j % 2] = _mm256_setzero_ps();
    }
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++) {
            const float *wr = w + j / 2 * n + i, *xj = x + j % 2 * n + i;

            s0[j / 2][j % 2] =
                _mm256_fmadd_ps(_mm256_loadu_ps(wr), _mm256_loadu_ps(xj), s0[j / 2][j % 2]);
            s1[j / 2][j % 2] = _mm256_fmadd_ps(_mm256_loadu_ps(wr + 8), _mm256_loadu_ps(xj + 8),
                                               s1[j / 2][j % 2]);
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        out[4 * (j / 2) + j % 2] = avx2_tail(avx2_sum(s0[j / 2][j % 2], s1[j / 2][j % 2]),
                                             w + j / 2 * n, x + j % 2 * n, i, n);
    }
}

AVX2 static void avx2_dot4x4(float out[4][4], const float *w, const float *x, size_t n)
{
    for (size_t r = 0; r < 4; r += 2) {
        for (size_t t = 0; t < 4; t += 2) {
            avx2_dot2x2(&out[r][t], w + r * n, x + t * n, n);
        }
    }
}

AVX2 static inline __m256 avx2_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Each lane group of four becomes the sums of a, b, c and d. */
AVX2 static inline __m128 avx2_sums(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));

    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* Four rows, or one, and two vectors at most. */
AVX2 AVX2_INLINE void avx2_dots_block(float *out, size_t stride, const cpu_f16_rows *rows,
                                      size_t row, size_t n, const float *x, size_t n_x)
{
    size_t cols = rows->cols, i = 0;
    const uint16_t *at = rows->at + row * cols, *next = rows->next + row * cols;
    __m256 s[2][4];

#pragma GCC unroll 8
    for (size_t j = 0; j < 8; j++) {
        s[j / 4][j % 4] = _mm256_setzero_ps();
    }
    for (; i + 8 <= cols; i += 8) {
        __m256 x0 = _mm256_loadu_ps(x + i), x1 = n_x > 1 ? _mm256_loadu_ps(x + cols + i) : x0;

#pragma GCC unroll 4
        for (size_t r = 0; r < n; r++) {
            __m256 v = avx2_f16(at + r * cols + i);

            if (i % 32 == 0) {
                _mm_prefetch((const char *)(next + r * cols + i), _MM_HINT_T0);
            }
            s[0][r] = _mm256_fmadd_ps(v, x0, s[0][r]);
            s[1][r] = _mm256_fmadd_ps(v, x1, s[1][r]);
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < n_x; j++) {
        float sums[4];

        _mm_storeu_ps(sums, avx2_sums(s[j][0], s[j][1], s[j][2], s[j][3]));
#pragma GCC unroll 4
        for (size_t r = 0; r < n; r++) {
            for (size_t c = i; c < cols; c++) {
                sums[r] += cpu_f16_to_f32(at[r * cols + c]) * x[j * cols + c];
            }
            out[j * stride + row + r] = sums[r];
        }
    }
}

AVX2 static void avx2_dots_f16(float *out, size_t stride, const cpu_f16_rows *rows,
                               const float *x, size_t n_x)
{
    for (size_t j = 0; j < n_x; j += 2, x += 2 * rows->cols, out += 2 * stride) {
        size_t r = 0;

        for (; r + 4 <= rows->n; r += 4) {
            if (j + 2 <= n_x) {
                avx2_dots_block(out, stride, rows, r, 4, x, 2);
            } else {
                avx2_dots_block(out, stride, rows, r, 4, x, 1);
            }
        }
        for (; r < rows->n; r++) {
            avx2_dots_block(out, stride, rows, r, 1, x, j + 2 <= n_x ? 2 : 1);
        }
    }
}

/* Sixteen columns, or eight, of four vectors at most: their sums stay in registers. */
AVX2 AVX2_INLINE void avx2_sums_block(float *y, const float *a, size_t stride,
                                      const cpu_f16_rows *rows, size_t col, size_t n_y)
{
    __m256 s[4][2];

#pragma GCC unroll 4
    for (size_t j = 0; j < n_y; j++) {
        s[j][0] = _mm256_loadu_ps(y + j * rows->cols + col);
        s[j][1] = _mm256_loadu_ps(y + j * rows->cols + col + 8);
    }
    for (size_t r = 0; r < rows->n; r++) {
        const uint16_t *row = rows->at + r * rows->cols + col;
        __m256 low = avx2_f16(row), high = avx2_f16(row + 8);

        if (col % 32 == 0) {
            _mm_prefetch((const char *)(rows->next + r * rows->cols + col), _MM_HINT_T0);
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < n_y; j++) {
            __m256 share = _mm256_broadcast_ss(a + j * stride + r);

            s[j][0] = _mm256_fmadd_ps(share, low, s[j][0]);
            s[j][1] = _mm256_fmadd_ps(share, high, s[j][1]);
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < n_y; j++) {
        _mm256_storeu_ps(y + j * rows->cols + col, s[j][0]);
        _mm256_storeu_ps(y + j * rows->cols + col + 8, s[j][1]);
    }
}

AVX2 static void avx2_sums_f16(float *y, const float *a, size_t stride,
                               const cpu_f16_rows *rows, size_t n_y)
{
    size_t cols = rows->cols, i = 0;

    for (; i + 16 <= cols; i += 16) {
        size_t j = 0;

        for (; j + 4 <= n_y; j += 4) {
            avx2_sums_block(y + j * cols, a + j * stride, stride, rows, i, 4);
        }
        for (; j < n_y; j++) {
            avx2_sums_block(y + j * cols, a + j * stride, stride, rows, i, 1);
        }
    }
    for (; i < cols; i++) {
        for (size_t j = 0; j < n_y; j++) {
            for (size_t r = 0; r < rows->n; r++) {
                y[j * cols + i] += a[j * stride + r] * cpu_f16_to_f32(rows->at[r * cols + i]);
            }
        }
    }
}

/* Of two numbers, one NaN, minimum and maximum return the second. */
AVX2 static void avx2_to_f16(uint16_t *dst, const float *src, size_t n)
{
    const __m256 most = _mm256_set1_ps(65504), least = _mm256_set1_ps(-65504);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_min_ps(most, _mm256_max_ps(least, _mm256_loadu_ps(src + i)));

        _mm_storeu_si128((__m128i *)(void *)(dst + i),
                         _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; i++) {
        dst[i] = cpu_f32_to_f16(src[i]);
    }
}

AVX2 static void avx2_axpy(float *y, float a, const float *x, size_t n)
{
    __m256 va = _mm256_set1_ps(a);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i,
                         _mm256_fmadd_ps(va, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
    for (; i < n; i++) {
        y[i] += a * x[i];
    }
}

AVX2 static void avx2_scale(float *y, const float *x, float scale, const float *weight,
                            size_t n)
{
    vector_scale(y, x, scale, weight, n);
}

AVX2 static float avx2_softmax(float *x, size_t n)
{
    return vector_softmax(x, n);
}

AVX2 static void avx2_swiglu(float *gate, const float *up, size_t n)
{
    vector_swiglu(gate, up, n);
}

AVX2 static void avx2_geglu(float *gate, const float *up, size_t n)
{
    vector_geglu(gate, up, n);
}

AVX2 static void avx2_cap(float *x, float cap, size_t n)
{
    vector_cap(x, cap, n);
}

AVX2 static void avx2_gelu(float *x, size_t n)
{
    vector_gelus(x, n);
}

AVX2 static void avx2_layer_norm(float *x, const float *weight, const float *bias, size_t n,
                                 float eps)
{
    vector_layer_norm(x, weight, bias, n, eps);
}

/* Eight values of F16 or BF16. */
AVX2 AVX2_INLINE __m256 avx2_halves(kern_type type, const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);

    return type == KERN_F16
               ? _mm256_cvtph_ps(v)
               : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

AVX2 AVX2_INLINE float avx2_half(kern_type type, const uint8_t *p)
{
    uint16_t h;
    float v;

    if (type == KERN_F16) {
        memcpy(&h, p, sizeof(h));
        return cpu_f16_to_f32(h);
    }
    quant_row_bf16(&v, p, 1);
    return v;
}

AVX2 AVX2_INLINE void avx2_row_halves(kern_type type, float *dst, const uint8_t *p, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(dst + i, avx2_halves(type, p + i * 2));
    }
    for (; i < n; i++) {
        dst[i] = avx2_half(type, p + i * 2);
    }
}

AVX2 AVX2_INLINE float avx2_dot_halves(kern_type type, const uint8_t *p, const float *x,
                                       size_t n)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = _mm256_setzero_ps();
    float sum;
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(avx2_halves(type, p + i * 2), _mm256_loadu_ps(x + i), s0);
        s1 = _mm256_fmadd_ps(avx2_halves(type, p + i * 2 + 16), _mm256_loadu_ps(x + i + 8), s1);
    }
    sum = avx2_sum(s0, s1);
    for (; i < n; i++) {
        sum += avx2_half(type, p + i * 2) * x[i];
    }
    return sum;
}

AVX2 static void avx2_row_f16(float *dst, const uint8_t *p, size_t n)
{
    avx2_row_halves(KERN_F16, dst, p, n);
}

AVX2 static void avx2_row_bf16(float *dst, const uint8_t *p, size_t n)
{
    avx2_row_halves(KERN_BF16, dst, p, n);
}

AVX2 static float avx2_dot_row_f16(const uint8_t *row, const float *x, size_t n)
{
    return avx2_dot_halves(KERN_F16, row, x, n);
}

AVX2 static float avx2_dot_row_bf16(const uint8_t *row, const float *x, size_t n)
{
    return avx2_dot_halves(KERN_BF16, row, x, n);
}

AVX2 static void avx2_row_q8_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q8_0(dst, src, n);
}

AVX2 static void avx2_row_q4_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q4_0(dst, src, n);
}

AVX2 static void avx2_row_q4_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q4_K);
}

AVX2 static void avx2_row_q5_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q5_K);
}

AVX2 static void avx2_row_q6_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q6_K);
}

const cpu_ops cpu_ops_avx2 = {
    .name = "avx2",
    .dot = avx2_dot,
    .dot_row = {[KERN_F16] = avx2_dot_row_f16, [KERN_BF16] = avx2_dot_row_bf16},
    .dot4x4 = avx2_dot4x4,
    .dots_f16 = avx2_dots_f16,
    .sums_f16 = avx2_sums_f16,
    .to_f16 = avx2_to_f16,
    .axpy = avx2_axpy,
    .scale = avx2_scale,
    .softmax = avx2_softmax,
    .swiglu = avx2_swiglu,
    .geglu = avx2_geglu,
    .cap = avx2_cap,
    .gelu = avx2_gelu,
    .layer_norm = avx2_layer_norm,
    .row =
        {
            [KERN_F16] = avx2_row_f16,
            [KERN_BF16] = avx2_row_bf16,
            [KERN_Q8_0] = avx2_row_q8_0,
            [KERN_Q4_0] = avx2_row_q4_0,
            [KERN_Q4_K] = avx2_row_q4_k,
            [KERN_Q5_K] = avx2_row_q5_k,
            [KERN_Q6_K] = avx2_row_q6_k,
        },
    .integers = &cpu_dot_avx2,
    .int_tiles = &cpu_tile_avx2,
};

#endif
