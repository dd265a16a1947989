/*
 * What the files for AVX-512 share: how 64 weights become bytes in a register, in the order of
 * the row, and how the scales of a super-block become vectors.
 *
 * The bytes are unsigned, as vpdpbusd wants its first operand: Q8_0's are moved up by 128,
 * Q4_0's and Q6_K's are left where the layout has them, 8 and 32 above their meaning.
 */
#ifndef CPU_X86_H
#define CPU_X86_H

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "kernels/cpu/quant.h"

#define X86_AVX512 "avx512f,avx512bw,avx512vl,avx512dq,f16c,fma"
#define X86_VNNI   __attribute__((target(X86_AVX512 ",avx512vnni")))
#define X86_AMX                                                                                \
    __attribute__((target(X86_AVX512 ",avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8")))
#define X86_INLINE static inline __attribute__((always_inline))

/* scale and min of the sixteen groups of sixteen weights of a super-block */
typedef struct {
    __m512 scale;
    __m512 min;
} x86_groups;

X86_VNNI X86_INLINE __m256i x86_load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* lo in the lower half, hi in the upper */
X86_VNNI X86_INLINE __m512i x86_join(__m256i lo, __m256i hi)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

/* The f16 at lo eight times, then the f16 at hi eight times. */
X86_VNNI X86_INLINE __m512 x86_two_f16(const uint8_t *lo, const uint8_t *hi)
{
    uint16_t a, b;

    memcpy(&a, lo, sizeof(a));
    memcpy(&b, hi, sizeof(b));
    return _mm512_cvtph_ps(
        _mm256_mask_set1_epi16(_mm256_set1_epi16((short)a), 0xff00, (short)b));
}

/* Of a block of Q8_0. */
X86_VNNI X86_INLINE __m256i x86_q8_0(const uint8_t *p)
{
    return _mm256_xor_si256(x86_load32(p + 2), _mm256_set1_epi8((char)0x80));
}

/* Of a block of Q4_0. */
X86_VNNI X86_INLINE __m256i x86_q4_0(const uint8_t *p)
{
    __m128i q = _mm_loadu_si128((const __m128i *)(const void *)(p + 2));
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1);

    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* The weights 64 j to 64 j + 63 of a super-block. */
X86_VNNI X86_INLINE __m512i x86_super(kern_type type, const uint8_t *p, size_t j)
{
    const __m512i four = _mm512_set1_epi8(15);
    __m512i q, high, shift;
    __m256i low;

    if (type == KERN_Q6_K) {
        q = _mm512_loadu_si512(p + 64 * (j / 2));
        q = _mm512_and_si512(j % 2 == 0 ? q : _mm512_srli_epi16(q, 4), four);
        high = _mm512_broadcast_i64x4(x86_load32(p + Q6_K_HIGH + 32 * (j / 2)));
        shift = x86_join(_mm256_set1_epi16(j % 2 == 0 ? 0 : 4),
                         _mm256_set1_epi16(j % 2 == 0 ? 2 : 6));
        high = _mm512_and_si512(_mm512_srlv_epi16(high, shift), _mm512_set1_epi8(3));
        return _mm512_or_si512(q, _mm512_slli_epi16(high, 4));
    }
    low = x86_load32(p + (type == KERN_Q4_K ? Q4_K_LOW : Q5_K_LOW) + 32 * j);
    q = _mm512_and_si512(x86_join(low, _mm256_srli_epi16(low, 4)), four);
    if (type == KERN_Q5_K) {
        high = _mm512_broadcast_i64x4(x86_load32(p + Q5_K_HIGH));
        shift = x86_join(_mm256_set1_epi8((char)(1 << 2 * j)),
                         _mm256_set1_epi8((char)(2 << 2 * j)));
        q = _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(high, shift), q,
                                 _mm512_set1_epi8(16));
    }
    return q;
}

/* The six-bit numbers of quant_scales, all sixteen at once: eight scales, eight minima. */
X86_VNNI X86_INLINE __m512 x86_six_bits(const uint8_t *p)
{
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    uint32_t s[3];
    __m512 all;

    memcpy(s, p + Q4_K_SCALES, sizeof(s));
    all = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(
        _mm_set_epi32((int)((s[2] >> 4 & four) | (s[1] >> 6 & two) << 4), (int)(s[1] & six),
                      (int)((s[2] & four) | (s[0] >> 6 & two) << 4), (int)(s[0] & six))));
    return _mm512_mul_ps(all, x86_two_f16(p, p + 2));
}

X86_VNNI X86_INLINE x86_groups x86_super_groups(kern_type type, const uint8_t *p)
{
    __m128i s;
    x86_groups g;

    if (type != KERN_Q6_K) {
        __m512 all = x86_six_bits(p);

        g.scale = _mm512_permutexvar_ps(
            _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0), all);
        g.min = _mm512_permutexvar_ps(
            _mm512_set_epi32(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8), all);
        return g;
    }
    s = _mm_loadu_si128((const __m128i *)(const void *)(p + Q6_K_SCALES));
    g.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s)),
                            x86_two_f16(p + Q6_K_D, p + Q6_K_D));
    g.min = _mm512_setzero_ps();
    return g;
}

/* 32 activations as integers of eight bits: x is about q * d. */
typedef struct {
    __m256i q;
    float d;
    int32_t sum[2]; /* of the first sixteen of q, and of the others */
} x86_eight_bits;

X86_VNNI X86_INLINE x86_eight_bits x86_round_to_eight_bits(const float *x)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    __m512 up = _mm512_set1_ps(most > 0 ? 127 / most : 0);
    __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, up));
    __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, up));
    x86_eight_bits e = {.d = most / 127};

    /* the maximum skips what is not a number; the result must not */
    if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0) {
        e.d = NAN;
    }
    e.q = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_cvtepi32_epi8(qa)),
                                  _mm512_cvtepi32_epi8(qb), 1);
    e.sum[0] = _mm512_reduce_add_epi32(qa);
    e.sum[1] = _mm512_reduce_add_epi32(qb);
    return e;
}

/* What ldtilecfg reads: of each tile, the bytes of a row and the rows. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} x86_tile_config;

/* Not _tile_loadconfig: it does not tell gcc 12 that it reads what it is given. */
X86_AMX X86_INLINE void x86_tiles_load_config(const x86_tile_config *c)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*c));
}

/* Eight tiles of sixteen rows of 64 bytes. */
X86_AMX X86_INLINE void x86_tiles_configure(void)
{
    x86_tile_config c = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = 16;
    }
    x86_tiles_load_config(&c);
}

/* Rows become columns: a 16 x 16 matrix of 32-bit values, in four rounds of swaps. */
X86_AMX X86_INLINE void x86_transpose(__m512i r[16])
{
    __m512i t[16];

    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (size_t i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* The rounding to bf16: lo in the lower half, hi in the upper. */
X86_AMX X86_INLINE __m512i x86_bf16(__m512 lo, __m512 hi)
{
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

#endif
#endif
