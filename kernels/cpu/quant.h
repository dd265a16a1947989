/*
 * How packed weights lie in memory, and each row of them as floats. The layouts are those of
 * GGUF files; numbers are little endian, blocks follow each other without padding.
 *
 *   Q8_0  34 bytes, 32 weights:   f16 d; int8 q[32]                     w = d q
 *   Q4_0  18 bytes, 32 weights:   f16 d; u4 q[32]                       w = d (q - 8)
 *         byte i holds weight i below and weight i + 16 above
 *   Q4_K  144 bytes, 256 weights: f16 d, dmin; u6 scale and min of each 32; u4 q[256]
 *         w = d scale q - dmin min; byte 32 j + i holds 64 j + i below, 64 j + 32 + i above
 *   Q5_K  176 bytes, 256 weights: as Q4_K, 32 bytes of fifth bits before the fours: bit k of
 *         byte i belongs to weight 32 k + i
 *   Q6_K  210 bytes, 256 weights: 128 bytes of low fours, 64 of high twos, int8 scale of each
 *         16, f16 d; w = d scale (q - 32)
 *
 * Any bytes are a valid block: a hostile one gives wild numbers or NaN, never a wild access.
 *
 * The functions are inlined into one version for each kind of machine (ops.c, ops_avx2.c,
 * ops_avx512.c); their loops have fixed lengths, which is what compilers vectorize.
 */
#ifndef CPU_QUANT_H
#define CPU_QUANT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/aiq_kernels.h"

#define QUANT_INLINE static inline __attribute__((always_inline))

enum {
    Q8_0_BYTES = 34,
    Q4_0_BYTES = 18,
    Q4_K_BYTES = 144,
    Q5_K_BYTES = 176,
    Q6_K_BYTES = 210,

    Q4_K_SCALES = 4, /* where the parts of a block begin */
    Q4_K_LOW = 16,
    Q5_K_HIGH = 16,
    Q5_K_LOW = 48,
    Q6_K_HIGH = 128,
    Q6_K_SCALES = 192,
    Q6_K_D = 208
};

/* A super-block taken apart: weight i is scale[i / 16] * q[i] - min[i / 16]. */
typedef struct {
    int8_t q[256];
    float scale[16];
    float min[16];
} quant_super;

/* Weights in a block, and its bytes. */
void cpu_block(kern_type type, size_t *weights, size_t *bytes);

/* Bytes of one row; cols is a multiple of the block. */
size_t cpu_row_bytes(kern_type type, size_t cols);

/* Exponents differ in their offset, 112: a product moves it, subnormal numbers included. */
QUANT_INLINE float cpu_f16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float f;

    memcpy(&f, &bits, sizeof(f));
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof(bits));
    bits |= (h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0; /* infinite, or not a number */
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Rounds half to even. 65504 for what is beyond, and NaN for NaN. */
QUANT_INLINE uint16_t cpu_f32_to_f16(float f)
{
    uint32_t bits, sign;

    memcpy(&bits, &f, sizeof(bits));
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00);
    }
    if (bits < 0x38800000) { /* subnormal: the last bit of 0.5 is worth as much as its */
        memcpy(&f, &bits, sizeof(f));
        f += 0.5f;
        memcpy(&bits, &f, sizeof(bits));
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1) - 0x38000000;
    bits >>= 13;
    return (uint16_t)(sign | (bits < 0x7bff ? bits : 0x7bff));
}

QUANT_INLINE float quant_f16(const uint8_t *p)
{
    uint16_t h;

    memcpy(&h, p, sizeof(h));
    return cpu_f16_to_f32(h);
}

/* The eight scales and eight minima of six bits that Q4_K and Q5_K keep in twelve bytes: the
 * last four of each lend two bits from the bytes of the first four. */
QUANT_INLINE void quant_scales(quant_super *b, const uint8_t *block)
{
    float d = quant_f16(block), dmin = quant_f16(block + 2);
    const uint8_t *s = block + Q4_K_SCALES;

    for (size_t j = 0; j < 4; j++) {
        size_t hi = (j + 4) * 2;
        float scale = d * (float)(s[j] & 63), min = dmin * (float)(s[j + 4] & 63);

        b->scale[2 * j] = b->scale[2 * j + 1] = scale;
        b->min[2 * j] = b->min[2 * j + 1] = min;
        scale = d * (float)((s[j + 8] & 15) | (s[j] >> 6) << 4);
        min = dmin * (float)((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
        b->scale[hi] = b->scale[hi + 1] = scale;
        b->min[hi] = b->min[hi + 1] = min;
    }
}

QUANT_INLINE void quant_q4_k(quant_super *restrict b, const uint8_t *restrict p)
{
    quant_scales(b, p);
    for (size_t j = 0; j < 4; j++) {
        const uint8_t *low = p + Q4_K_LOW + 32 * j;

        for (size_t i = 0; i < 32; i++) {
            b->q[64 * j + i] = (int8_t)(low[i] & 15);
        }
        for (size_t i = 0; i < 32; i++) {
            b->q[64 * j + 32 + i] = (int8_t)(low[i] >> 4);
        }
    }
}

QUANT_INLINE void quant_q5_k(quant_super *restrict b, const uint8_t *restrict p)
{
    const uint8_t *high = p + Q5_K_HIGH;

    quant_scales(b, p);
    for (size_t j = 0; j < 4; j++) {
        const uint8_t *low = p + Q5_K_LOW + 32 * j;

        for (size_t i = 0; i < 32; i++) {
            b->q[64 * j + i] = (int8_t)((low[i] & 15) | (high[i] >> 2 * j & 1) << 4);
            b->q[64 * j + 32 + i] = (int8_t)(low[i] >> 4 | (high[i] >> (2 * j + 1) & 1) << 4);
        }
    }
}

QUANT_INLINE void quant_q6_k(quant_super *restrict b, const uint8_t *restrict p)
{
    float d = quant_f16(p + Q6_K_D);

    for (size_t g = 0; g < 16; g++) {
        b->scale[g] = d * (float)(int8_t)p[Q6_K_SCALES + g];
        b->min[g] = 0;
    }
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *low = p + 64 * half, *high = p + Q6_K_HIGH + 32 * half;
        int8_t *q = b->q + 128 * half;

        for (size_t i = 0; i < 32; i++) {
            q[i] = (int8_t)(((low[i] & 15) | (high[i] & 3) << 4) - 32);
            q[32 + i] = (int8_t)(((low[32 + i] & 15) | (high[i] >> 2 & 3) << 4) - 32);
            q[64 + i] = (int8_t)((low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32);
            q[96 + i] = (int8_t)((low[32 + i] >> 4 | (high[i] >> 6) << 4) - 32);
        }
    }
}

QUANT_INLINE void quant_row_super(float *restrict dst, const uint8_t *restrict p, size_t n,
                                  kern_type type)
{
    for (size_t i = 0; i < n; i += 256) {
        quant_super b;

        if (type == KERN_Q4_K) {
            quant_q4_k(&b, p);
            p += Q4_K_BYTES;
        } else if (type == KERN_Q5_K) {
            quant_q5_k(&b, p);
            p += Q5_K_BYTES;
        } else {
            quant_q6_k(&b, p);
            p += Q6_K_BYTES;
        }
        for (size_t g = 0; g < 16; g++) {
            for (size_t j = 0; j < 16; j++) {
                dst[i + g * 16 + j] = b.scale[g] * (float)b.q[g * 16 + j] - b.min[g];
            }
        }
    }
}

QUANT_INLINE void quant_row_q8_0(float *restrict dst, const uint8_t *restrict p, size_t n)
{
    for (size_t i = 0; i < n; i += 32, p += Q8_0_BYTES) {
        float d = quant_f16(p);

        for (size_t j = 0; j < 32; j++) {
            dst[i + j] = d * (float)(int8_t)p[2 + j];
        }
    }
}

QUANT_INLINE void quant_row_q4_0(float *restrict dst, const uint8_t *restrict p, size_t n)
{
    for (size_t i = 0; i < n; i += 32, p += Q4_0_BYTES) {
        float d = quant_f16(p);

        for (size_t j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((p[2 + j] & 15) - 8);
        }
        for (size_t j = 0; j < 16; j++) {
            dst[i + 16 + j] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

QUANT_INLINE void quant_row_bf16(float *restrict dst, const uint8_t *restrict p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        uint32_t bits;

        memcpy(&h, p + i * 2, sizeof(h));
        bits = (uint32_t)h << 16;
        memcpy(dst + i, &bits, sizeof(bits));
    }
}

#endif
