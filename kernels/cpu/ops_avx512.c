/* For AVX-512: two sums of sixteen lanes per token, tails by mask. */
#include "kernels/cpu/ops.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/cpu/vector.h"
#include "kernels/cpu/x86.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

AVX512 static inline __mmask16 avx512_tail(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

AVX512 static float avx512_dot(const float *a, const float *b, size_t n)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = _mm512_setzero_ps();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        s0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), s0);
        s1 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), s1);
    }
    for (; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;

        s0 = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a + i), _mm512_maskz_loadu_ps(m, b + i),
                             s0);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
}

/* The sum of dot, of two, that begins at column i. */
AVX512 X86_INLINE void avx512_half(__m512 s[4][4], const float *w, const float *x, size_t i,
                                   size_t n)
{
#pragma GCC unroll 16
    for (size_t j = 0; j < 16; j++) {
        s[j / 4][j % 4] = _mm512_setzero_ps();
    }
    for (size_t whole = n / 32 * 32; i < whole; i += 32) {
        __m512 row[4];

#pragma GCC unroll 4
        for (size_t r = 0; r < 4; r++) {
            row[r] = _mm512_loadu_ps(w + r * n + i);
        }
#pragma GCC unroll 4
        for (size_t t = 0; t < 4; t++) {
            __m512 v = _mm512_loadu_ps(x + t * n + i);

#pragma GCC unroll 4
            for (size_t r = 0; r < 4; r++) {
                s[r][t] = _mm512_fmadd_ps(row[r], v, s[r][t]);
            }
        }
    }
}

/* One of dot's two sums after the other: sixteen of them fill half of the registers. */
AVX512 static void avx512_dot4x4(float out[4][4], const float *w, const float *x, size_t n)
{
    __m512 s0[4][4], s1[4][4];

    avx512_half(s0, w, x, 0, n);
    avx512_half(s1, w, x, 16, n);
    for (size_t i = n / 32 * 32; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;

        for (size_t j = 0; j < 16; j++) {
            s0[j / 4][j % 4] =
                _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, w + j / 4 * n + i),
                                _mm512_maskz_loadu_ps(m, x + j % 4 * n + i), s0[j / 4][j % 4]);
        }
    }
    for (size_t r = 0; r < 4; r++) {
        for (size_t t = 0; t < 4; t++) {
            out[r][t] = _mm512_reduce_add_ps(_mm512_add_ps(s0[r][t], s1[r][t]));
        }
    }
}

AVX512 static inline __m512 avx512_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* Not by mask where it can be without: a conversion from memory costs half as much. */
AVX512 static inline __m512 avx512_some_f16(__mmask16 m, const uint16_t *p)
{
    return m == 0xffff ? avx512_f16(p) : _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
}

/* The sums of a, b, c and d. */
AVX512 static inline __m128 avx512_sums(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d l = _mm512_castps_pd(ab), h = _mm512_castps_pd(cd);
    __m512 s = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(l, h)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(l, h)));
    __m256 t = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));

    return _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}

/* Four rows, or one, and four vectors at most; each row becomes floats once for these. */
AVX512 X86_INLINE void avx512_dots_block(float *out, size_t stride, const cpu_f16_rows *rows,
                                         size_t row, size_t n, const float *x, size_t n_x)
{
    size_t cols = rows->cols;
    const uint16_t *at = rows->at + row * cols, *next = rows->next + row * cols;
    __m512 s[4][4], v[4];

#pragma GCC unroll 16
    for (size_t j = 0; j < 16; j++) {
        s[j / 4][j % 4] = _mm512_setzero_ps();
    }
    for (size_t i = 0; i < cols; i += 16) {
        __mmask16 m = cols - i < 16 ? avx512_tail(cols - i) : 0xffff;

#pragma GCC unroll 4
        for (size_t r = 0; r < n; r++) {
            v[r] = avx512_some_f16(m, at + r * cols + i);
        }
        if (i % 32 == 0) {
            for (size_t r = 0; r < n; r++) {
                _mm_prefetch((const char *)(next + r * cols + i), _MM_HINT_T0);
            }
        }
#pragma GCC unroll 4
        for (size_t j = 0; j < n_x; j++) {
            __m512 xj = _mm512_maskz_loadu_ps(m, x + j * cols + i);

#pragma GCC unroll 4
            for (size_t r = 0; r < n; r++) {
                s[j][r] = _mm512_fmadd_ps(v[r], xj, s[j][r]);
            }
        }
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < n_x; j++) {
        _mm_mask_storeu_ps(out + j * stride + row, (__mmask8)((1u << n) - 1),
                           avx512_sums(s[j][0], s[j][1], s[j][2], s[j][3]));
    }
}

/* Of all rows. */
AVX512 X86_INLINE void avx512_dots(float *out, size_t stride, const cpu_f16_rows *rows,
                                   const float *x, size_t n_x)
{
    size_t r = 0;

    for (; r + 4 <= rows->n; r += 4) {
        avx512_dots_block(out, stride, rows, r, 4, x, n_x);
    }
    for (; r < rows->n; r++) {
        avx512_dots_block(out, stride, rows, r, 1, x, n_x);
    }
}

AVX512 static void avx512_dots_f16(float *out, size_t stride, const cpu_f16_rows *rows,
                                   const float *x, size_t n_x)
{
    size_t j = 0;

    for (; j + 4 <= n_x; j += 4) {
        avx512_dots(out + j * stride, stride, rows, x + j * rows->cols, 4);
    }
    if (n_x % 4 == 3) {
        avx512_dots(out + j * stride, stride, rows, x + j * rows->cols, 3);
    } else if (n_x % 4 == 2) {
        avx512_dots(out + j * stride, stride, rows, x + j * rows->cols, 2);
    } else if (n_x % 4 == 1) {
        avx512_dots(out + j * stride, stride, rows, x + j * rows->cols, 1);
    }
}

/* 64 columns at most of four vectors at most: their sums stay in registers. */
AVX512 X86_INLINE void avx512_sums_block(float *y, const float *a, size_t stride,
                                         const cpu_f16_rows *rows, size_t col, size_t n_y,
                                         bool whole)
{
    size_t cols = rows->cols;
    __m512 s[4][4];
    __mmask16 m[4];

#pragma GCC unroll 4
    for (size_t c = 0; c < 4; c++) {
        size_t left = cols > col + 16 * c ? cols - col - 16 * c : 0;

        m[c] = whole || left >= 16 ? 0xffff : avx512_tail(left);
#pragma GCC unroll 4
        for (size_t j = 0; j < n_y; j++) {
            s[j][c] = _mm512_maskz_loadu_ps(m[c], y + j * cols + col + 16 * c);
        }
    }
    for (size_t r = 0; r < rows->n; r++) {
        const uint16_t *row = rows->at + r * cols + col, *next = rows->next + r * cols + col;
        __m512 v[4];

#pragma GCC unroll 4
        for (size_t c = 0; c < 4; c++) {
            v[c] = avx512_some_f16(m[c], row + 16 * c);
        }
        _mm_prefetch((const char *)next, _MM_HINT_T0);
        _mm_prefetch((const char *)(next + 32), _MM_HINT_T0);
#pragma GCC unroll 4
        for (size_t j = 0; j < n_y; j++) {
            __m512 share = _mm512_set1_ps(a[j * stride + r]);

#pragma GCC unroll 4
            for (size_t c = 0; c < 4; c++) {
                s[j][c] = _mm512_fmadd_ps(share, v[c], s[j][c]);
            }
        }
    }
#pragma GCC unroll 4
    for (size_t c = 0; c < 4; c++) {
#pragma GCC unroll 4
        for (size_t j = 0; j < n_y; j++) {
            _mm512_mask_storeu_ps(y + j * cols + col + 16 * c, m[c], s[j][c]);
        }
    }
}

/* Of all columns. */
AVX512 X86_INLINE void avx512_sums_rows(float *y, const float *a, size_t stride,
                                        const cpu_f16_rows *rows, size_t n_y)
{
    size_t col = 0;

    for (; col + 64 <= rows->cols; col += 64) {
        avx512_sums_block(y, a, stride, rows, col, n_y, true);
    }
    if (col < rows->cols) {
        avx512_sums_block(y, a, stride, rows, col, n_y, false);
    }
}

AVX512 static void avx512_sums_f16(float *y, const float *a, size_t stride,
                                   const cpu_f16_rows *rows, size_t n_y)
{
    size_t j = 0;

    for (; j + 4 <= n_y; j += 4) {
        avx512_sums_rows(y + j * rows->cols, a + j * stride, stride, rows, 4);
    }
    if (n_y % 4 == 3) {
        avx512_sums_rows(y + j * rows->cols, a + j * stride, stride, rows, 3);
    } else if (n_y % 4 == 2) {
        avx512_sums_rows(y + j * rows->cols, a + j * stride, stride, rows, 2);
    } else if (n_y % 4 == 1) {
        avx512_sums_rows(y + j * rows->cols, a + j * stride, stride, rows, 1);
    }
}

AVX512 static void avx512_to_f16(uint16_t *dst, const float *src, size_t n)
{
    const __m512 most = _mm512_set1_ps(65504), least = _mm512_set1_ps(-65504);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;
        __m512 x = _mm512_maskz_loadu_ps(m, src + i);

        x = _mm512_min_ps(most, _mm512_max_ps(least, x));
        _mm256_mask_storeu_epi16(dst + i, m, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
}

AVX512 static void avx512_axpy(float *y, float a, const float *x, size_t n)
{
    __m512 va = _mm512_set1_ps(a);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;
        __m512 vy = _mm512_maskz_loadu_ps(m, y + i);

        _mm512_mask_storeu_ps(y + i, m,
                              _mm512_fmadd_ps(va, _mm512_maskz_loadu_ps(m, x + i), vy));
    }
}

AVX512 static void avx512_scale(float *y, const float *x, float scale, const float *weight,
                                size_t n)
{
    vector_scale(y, x, scale, weight, n);
}

AVX512 static float avx512_softmax(float *x, size_t n)
{
    return vector_softmax(x, n);
}

AVX512 static void avx512_swiglu(float *gate, const float *up, size_t n)
{
    vector_swiglu(gate, up, n);
}

AVX512 static void avx512_geglu(float *gate, const float *up, size_t n)
{
    vector_geglu(gate, up, n);
}

AVX512 static void avx512_cap(float *x, float cap, size_t n)
{
    vector_cap(x, cap, n);
}

AVX512 static void avx512_gelu(float *x, size_t n)
{
    vector_gelus(x, n);
}

AVX512 static void avx512_layer_norm(float *x, const float *weight, const float *bias, size_t n,
                                     float eps)
{
    vector_layer_norm(x, weight, bias, n, eps);
}

/* Sixteen values of F16 or BF16. */
AVX512 X86_INLINE __m512 avx512_halves(kern_type type, __m256i v)
{
    return type == KERN_F16
               ? _mm512_cvtph_ps(v)
               : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

AVX512 X86_INLINE void avx512_row_halves(kern_type type, float *dst, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;
        __m256i v = _mm256_maskz_loadu_epi16(m, p + i * 2);

        _mm512_mask_storeu_ps(dst + i, m, avx512_halves(type, v));
    }
}

AVX512 X86_INLINE float avx512_dot_halves(kern_type type, const uint8_t *p, const float *x,
                                          size_t n)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = _mm512_setzero_ps();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256i v0 = _mm256_loadu_si256((const __m256i *)(const void *)(p + i * 2));
        __m256i v1 = _mm256_loadu_si256((const __m256i *)(const void *)(p + i * 2 + 32));

        s0 = _mm512_fmadd_ps(avx512_halves(type, v0), _mm512_loadu_ps(x + i), s0);
        s1 = _mm512_fmadd_ps(avx512_halves(type, v1), _mm512_loadu_ps(x + i + 16), s1);
    }
    for (; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? avx512_tail(n - i) : 0xffff;
        __m256i v = _mm256_maskz_loadu_epi16(m, p + i * 2);

        s0 = _mm512_fmadd_ps(avx512_halves(type, v), _mm512_maskz_loadu_ps(m, x + i), s0);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
}

AVX512 static void avx512_row_f16(float *dst, const uint8_t *p, size_t n)
{
    avx512_row_halves(KERN_F16, dst, p, n);
}

AVX512 static void avx512_row_bf16(float *dst, const uint8_t *p, size_t n)
{
    avx512_row_halves(KERN_BF16, dst, p, n);
}

AVX512 static float avx512_dot_row_f16(const uint8_t *row, const float *x, size_t n)
{
    return avx512_dot_halves(KERN_F16, row, x, n);
}

AVX512 static float avx512_dot_row_bf16(const uint8_t *row, const float *x, size_t n)
{
    return avx512_dot_halves(KERN_BF16, row, x, n);
}

AVX512 static void avx512_row_q8_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q8_0(dst, src, n);
}

AVX512 static void avx512_row_q4_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q4_0(dst, src, n);
}

AVX512 static void avx512_row_q4_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q4_K);
}

AVX512 static void avx512_row_q5_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q5_K);
}

AVX512 static void avx512_row_q6_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q6_K);
}

#define AVX512_OPS                                                                             \
    .dot = avx512_dot,                                                                         \
    .dot_row = {[KERN_F16] = avx512_dot_row_f16, [KERN_BF16] = avx512_dot_row_bf16},           \
    .dot4x4 = avx512_dot4x4, .dots_f16 = avx512_dots_f16, .sums_f16 = avx512_sums_f16,         \
    .to_f16 = avx512_to_f16, .axpy = avx512_axpy, .scale = avx512_scale,                       \
    .softmax = avx512_softmax, .swiglu = avx512_swiglu, .geglu = avx512_geglu,                 \
    .cap = avx512_cap, .gelu = avx512_gelu, .layer_norm = avx512_layer_norm,                   \
    .row = {                                                                                   \
        [KERN_F16] = avx512_row_f16,   [KERN_BF16] = avx512_row_bf16,                          \
        [KERN_Q8_0] = avx512_row_q8_0, [KERN_Q4_0] = avx512_row_q4_0,                          \
        [KERN_Q4_K] = avx512_row_q4_k, [KERN_Q5_K] = avx512_row_q5_k,                          \
        [KERN_Q6_K] = avx512_row_q6_k,                                                         \
    },

const cpu_ops cpu_ops_avx512 = {
    .name = "avx512", AVX512_OPS.integers = &cpu_dot_avx2, .int_tiles = &cpu_tile_avx2};
const cpu_ops cpu_ops_vnni = {
    .name = "vnni", AVX512_OPS.integers = &cpu_dot_vnni, .int_tiles = &cpu_tile_vnni};
const cpu_ops cpu_ops_amx = {.name = "amx",
                             AVX512_OPS.integers = &cpu_dot_vnni,
                             .int_tiles = &cpu_tile_amx_int8,
                             .tiles = &cpu_tile_amx,
                             .attend = &cpu_attend_amx};

#endif
