/*
 * What vnni.c does, where there is AVX2 alone: few tokens, small integers. vpmaddubsw
 * multiplies 32 pairs at once, of unsigned bytes with signed ones, and adds two neighbours in
 * sixteen bits. Weights of four to six bits are unsigned and leave room for that; of Q8_0's the
 * sign goes over to the activation first: 2 * 128 * 127 just fits.
 *
 * Each lane of an accumulator adds up every eighth group of four weights in the order of the
 * row, whatever else is computed beside it: the result does not depend on company.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2.h"

#define AHEAD 2048 /* bytes */

/* --- activations --- */

AVX2 AVX2_INLINE __m256 absolute(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

AVX2 AVX2_INLINE float largest(const __m256 x[4])
{
    __m256 m = _mm256_max_ps(_mm256_max_ps(absolute(x[0]), absolute(x[1])),
                             _mm256_max_ps(absolute(x[2]), absolute(x[3])));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));

    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

AVX2 AVX2_INLINE bool not_a_number(const __m256 x[4])
{
    __m256 u = _mm256_or_ps(_mm256_cmp_ps(x[0], x[1], _CMP_UNORD_Q),
                            _mm256_cmp_ps(x[2], x[3], _CMP_UNORD_Q));

    return _mm256_movemask_ps(u) != 0;
}

AVX2 AVX2_INLINE int sum_of(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Block b of the span, of 32 activations: about q * d. */
AVX2 AVX2_INLINE void round_block(avx2_span *s, size_t b, const float *src)
{
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m256 x[4], up;
    __m256i q[4], low, high;
    float most, d;

    for (size_t j = 0; j < 4; j++) {
        x[j] = _mm256_loadu_ps(src + 8 * j);
    }
    most = largest(x);
    up = _mm256_set1_ps(most > 0 ? 127 / most : 0);
    for (size_t j = 0; j < 4; j++) {
        q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(x[j], up));
    }
    /* the maximum skips what is not a number; the result must not */
    d = not_a_number(x) ? NAN : most / 127;
    low = _mm256_packs_epi32(q[0], q[1]);
    high = _mm256_packs_epi32(q[2], q[3]);
    low = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_store_si256((__m256i *)(void *)(s->q + 32 * b), low);
    s->d[b] = d;
    s->sum16[2 * b] = (float)sum_of(_mm256_add_epi32(q[0], q[1])) * d;
    s->sum16[2 * b + 1] = (float)sum_of(_mm256_add_epi32(q[2], q[3])) * d;
    s->sum[b] = s->sum16[2 * b] + s->sum16[2 * b + 1];
}

AVX2 void cpu_avx2_round(avx2_span *s, const float *x, size_t n)
{
    if (n < AVX2_SPAN) {
        memset(s, 0, sizeof(*s));
    }
    for (size_t b = 0; b < n / 32; b++) {
        round_block(s, b, x + 32 * b);
    }
}

static void quantize(uint8_t *dst, const float *x, size_t cols)
{
    avx2_span *s = (avx2_span *)(void *)dst;

    for (size_t i = 0; i < cols; i += AVX2_SPAN, s++) {
        cpu_avx2_round(s, x + i, cols - i < AVX2_SPAN ? cols - i : AVX2_SPAN);
    }
}

/* --- products --- */

/* acc += 32 weights times as many activations, q */
AVX2 AVX2_INLINE __m256 add32(__m256 acc, __m256i pairs, __m256i by, const float *scale)
{
    __m256 s = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, by));

    return _mm256_fmadd_ps(s, _mm256_broadcast_ss(scale), acc);
}

/* Of 32 weights of Q8_0. */
AVX2 AVX2_INLINE __m256i pairs_signed(__m256i w, const int8_t *q)
{
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(avx2_load(q), w));
}

/* Of a block of Q4_0, 8 above their meaning. */
AVX2 AVX2_INLINE __m256i weights_q4_0(const uint8_t *p)
{
    __m128i q = avx2_load16(p + 2);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1);

    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* n blocks of Q8_0 or Q4_0 of each row, at most eight, from i on. */
AVX2 AVX2_INLINE void dot_span(kern_type type, size_t nr, size_t nt, __m256 acc[2][4],
                               const uint8_t *const row[2], const avx2_span *const x[4],
                               size_t i, size_t n)
{
    const size_t bytes = type == KERN_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;
    const __m256i one = _mm256_set1_epi16(1);
    float scale[2][4][8] __attribute__((aligned(32)));

#pragma GCC unroll 2
    for (size_t r = 0; r < nr; r++) {
        __m256 d = avx2_some_f16(row[r] + i / 32 * bytes, bytes, n);

#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            _mm256_store_ps(scale[r][t],
                            _mm256_mul_ps(d, _mm256_load_ps(x[t][i / AVX2_SPAN].d)));
            if (type == KERN_Q4_0) {
                acc[r][t] =
                    _mm256_fnmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(8)),
                                     _mm256_load_ps(x[t][i / AVX2_SPAN].sum), acc[r][t]);
            }
        }
    }
    for (size_t b = 0; b < n; b++) {
#pragma GCC unroll 2
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + (i / 32 + b) * bytes;
            __m256i w = type == KERN_Q8_0 ? avx2_load(p + 2) : weights_q4_0(p);

            _mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
            for (size_t t = 0; t < nt; t++) {
                const int8_t *q = x[t][i / AVX2_SPAN].q + 32 * b;
                __m256i pairs = type == KERN_Q8_0 ? pairs_signed(w, q)
                                                  : _mm256_maddubs_epi16(w, avx2_load(q));

                acc[r][t] = add32(acc[r][t], pairs, one, &scale[r][t][b]);
            }
        }
    }
}

AVX2 AVX2_INLINE void dot_blocks(kern_type type, size_t nr, size_t nt, __m256 acc[2][4],
                                 const uint8_t *const row[2], const avx2_span *const x[4],
                                 size_t cols)
{
    size_t i = 0;

    for (; i + AVX2_SPAN <= cols; i += AVX2_SPAN) {
        dot_span(type, nr, nt, acc, row, x, i, AVX2_SPAN / 32);
    }
    if (i < cols) {
        dot_span(type, nr, nt, acc, row, x, i, (cols - i) / 32);
    }
}

/* Block b of a super-block, of Q6_K 32 above their meaning. */
AVX2 AVX2_INLINE __m256i weights_super(kern_type type, const uint8_t *p, size_t b)
{
    const __m256i four = _mm256_set1_epi8(15);
    __m256i low, high;

    if (type == KERN_Q6_K) {
        low = avx2_load(p + 64 * (b / 4) + 32 * (b % 2));
        high = avx2_load(p + Q6_K_HIGH + 32 * (b / 4));
        low = _mm256_and_si256(b % 4 < 2 ? low : _mm256_srli_epi16(low, 4), four);
        high = b % 4 < 2 ? _mm256_slli_epi16(high, 4 - 2 * (b % 4))
                         : _mm256_srli_epi16(high, 2 * (b % 4) - 4);
        return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
    }
    low = avx2_load(p + (type == KERN_Q4_K ? Q4_K_LOW : Q5_K_LOW) + 32 * (b / 2));
    low = _mm256_and_si256(b % 2 == 0 ? low : _mm256_srli_epi16(low, 4), four);
    if (type == KERN_Q5_K) {
        high = avx2_load(p + Q5_K_HIGH);
        high = b < 4 ? _mm256_slli_epi16(high, 4 - b) : _mm256_srli_epi16(high, b - 4);
        low = _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(16)));
    }
    return low;
}

/* Of Q6_K each sixteen have a scale: those of block b. */
AVX2 AVX2_INLINE __m256i scales_q6_k(const uint8_t *p, size_t b)
{
    const __m128i both = _mm_set_epi64x(0x0101010101010101, 0);
    __m128i at = _mm_add_epi8(both, _mm_set1_epi8((char)(2 * b)));

    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(avx2_load16(p + Q6_K_SCALES), at));
}

/* The six-bit numbers of quant_scales: eight scales, and eight minima. */
AVX2 AVX2_INLINE void six_bits(const uint8_t *p, __m256 *scale, __m256 *min)
{
    const int six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    __m128i s = avx2_load16(p), low, high;
    __m128 d = _mm_cvtph_ps(s);

    low = _mm_srlv_epi32(_mm_shuffle_epi32(s, 0xed), _mm_set_epi32(4, 0, 0, 0));
    low = _mm_and_si128(low, _mm_set_epi32(four, six, four, six));
    high = _mm_srli_epi32(_mm_shuffle_epi32(s, 0x94), 2);
    low = _mm_or_si128(low, _mm_and_si128(high, _mm_set_epi32(two, 0, two, 0)));
    *scale =
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)), _mm256_broadcastss_ps(d));
    low = _mm_unpackhi_epi64(low, low);
    *min = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)),
                         _mm256_broadcastss_ps(_mm_movehdup_ps(d)));
}

/* acc -= 32 for each weight of a super-block of Q6_K */
AVX2 AVX2_INLINE __m256 take_back_q6_k(__m256 acc, const uint8_t *p, __m256 d, const float *sum)
{
    __m128i s = avx2_load16(p + Q6_K_SCALES);
    __m256 down = _mm256_mul_ps(d, _mm256_set1_ps(32));
    __m256 a = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s));
    __m256 b = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(s, s)));

    acc = _mm256_fnmadd_ps(_mm256_mul_ps(a, down), _mm256_load_ps(sum), acc);
    return _mm256_fnmadd_ps(_mm256_mul_ps(b, down), _mm256_load_ps(sum + 8), acc);
}

/* The super-block at p of one row, from column i on. Its sum begins anew: what waits for
 * the one before is a single addition. */
AVX2 AVX2_INLINE void dot_super(kern_type type, size_t nt, __m256 acc[4], const uint8_t *p,
                                const avx2_span *const x[4], size_t i)
{
    float scale[4][8] __attribute__((aligned(32)));
    __m256 d, min = _mm256_setzero_ps(), s[2][4];

    if (type == KERN_Q6_K) {
        d = avx2_one_f16(p + Q6_K_D);
    } else {
        six_bits(p, &d, &min);
    }
#pragma GCC unroll 4
    for (size_t t = 0; t < nt; t++) {
        _mm256_store_ps(scale[t], _mm256_mul_ps(d, _mm256_load_ps(x[t][i / AVX2_SPAN].d)));
        s[0][t] = s[1][t] = _mm256_setzero_ps();
        acc[t] = type == KERN_Q6_K
                     ? take_back_q6_k(acc[t], p, d, x[t][i / AVX2_SPAN].sum16)
                     : _mm256_fnmadd_ps(min, _mm256_load_ps(x[t][i / AVX2_SPAN].sum), acc[t]);
    }
#pragma GCC unroll 8
    for (size_t b = 0; b < 8; b++) {
        __m256i w = weights_super(type, p, b);
        __m256i by = type == KERN_Q6_K ? scales_q6_k(p, b) : _mm256_set1_epi16(1);

#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            __m256i pairs = _mm256_maddubs_epi16(w, avx2_load(x[t][i / AVX2_SPAN].q + 32 * b));

            s[b % 2][t] = add32(s[b % 2][t], pairs, by, &scale[t][b]);
        }
    }
#pragma GCC unroll 4
    for (size_t t = 0; t < nt; t++) {
        acc[t] = _mm256_add_ps(acc[t], _mm256_add_ps(s[0][t], s[1][t]));
    }
}

AVX2 AVX2_INLINE void dot_supers(kern_type type, size_t nr, size_t nt, __m256 acc[2][4],
                                 const uint8_t *const row[2], const avx2_span *const x[4],
                                 size_t cols)
{
    const size_t bytes = type == KERN_Q4_K   ? Q4_K_BYTES
                         : type == KERN_Q5_K ? Q5_K_BYTES
                                             : Q6_K_BYTES;

    for (size_t i = 0; i < cols; i += 256) {
#pragma GCC unroll 2
        for (size_t r = 0; r < nr; r++) {
            const uint8_t *p = row[r] + i / 256 * bytes;

#pragma GCC unroll 4
            for (size_t line = 0; line < 256; line += 64) {
                if (line < bytes) {
                    _mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T0);
                }
            }
            dot_super(type, nt, acc[r], p, x, i);
        }
    }
}

AVX2 AVX2_INLINE float total(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* nr rows, apart rows from each other, with nt tokens: y[t * ldy + r] */
AVX2 AVX2_INLINE void dot_part(kern_type type, size_t nr, size_t nt, float *y, size_t ldy,
                               const uint8_t *row, size_t apart, const avx2_span *x,
                               size_t cols)
{
    const uint8_t *const rows[2] = {row, row + apart * cpu_row_bytes(type, cols)};
    const avx2_span *v[4];
    __m256 acc[2][4];

#pragma GCC unroll 4
    for (size_t t = 0; t < nt; t++) {
        v[t] = x + t * avx2_spans(cols);
        acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    }
    if (type == KERN_Q8_0 || type == KERN_Q4_0) {
        dot_blocks(type, nr, nt, acc, rows, v, cols);
    } else {
        dot_supers(type, nr, nt, acc, rows, v, cols);
    }
#pragma GCC unroll 2
    for (size_t r = 0; r < nr; r++) {
#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            y[t * ldy + r * apart] = total(acc[r][t]);
        }
    }
}

/* n rows with nt tokens: the first half of the rows beside the second */
AVX2 AVX2_INLINE void dot_rows(kern_type type, size_t nt, float *y, size_t ldy,
                               const uint8_t *row, size_t n, const avx2_span *x, size_t cols)
{
    size_t bytes = cpu_row_bytes(type, cols), half = n / 2;

    for (size_t r = 0; r < half; r++) {
        dot_part(type, 2, nt, y + r, ldy, row + r * bytes, half, x, cols);
    }
    if (n % 2 != 0) {
        dot_part(type, 1, nt, y + n - 1, ldy, row + (n - 1) * bytes, 0, x, cols);
    }
}

AVX2 AVX2_INLINE void dot_tokens(kern_type type, float *y, size_t ldy, const uint8_t *row,
                                 size_t n, const avx2_span *x, size_t tokens, size_t cols)
{
    for (size_t t = 0; t < tokens;) {
        const avx2_span *xt = x + t * avx2_spans(cols);

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
    AVX2 static void name(float *y, size_t ldy, const uint8_t *row, size_t n, uint8_t *x,      \
                          size_t tokens, size_t cols)                                          \
    {                                                                                          \
        dot_tokens(type, y, ldy, row, n, (const avx2_span *)(void *)x, tokens, cols);          \
    }

DOT(dot_q8_0, KERN_Q8_0)
DOT(dot_q4_0, KERN_Q4_0)
DOT(dot_q4_k, KERN_Q4_K)
DOT(dot_q5_k, KERN_Q5_K)
DOT(dot_q6_k, KERN_Q6_K)

const cpu_dot cpu_dot_avx2 = {
    .vector_bytes = avx2_vector_bytes,
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
