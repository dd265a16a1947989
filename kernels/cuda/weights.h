/*
 * Eight weights of a row as floats, from each layout that GGUF files have (kernels/cpu/quant.h
 * describes them). Loads are as wide as the layout's alignment allows: blocks of 34, 18 and 210
 * bytes lie on even addresses only.
 */
#ifndef CUDA_WEIGHTS_H
#define CUDA_WEIGHTS_H

#include "kernels/cuda/index.h"

/* Eight bytes from an even address. */
__device__ inline uint2 read8_even(const uint8_t *p)
{
    uint2 v;

    v.x = (uint32_t)read2(p) | (uint32_t)read2(p + 2) << 16;
    v.y = (uint32_t)read2(p + 4) | (uint32_t)read2(p + 6) << 16;
    return v;
}

__device__ inline uint32_t byte_of(uint2 v, int i)
{
    return (i < 4 ? v.x >> 8 * i : v.y >> 8 * (i - 4)) & 0xff;
}

__device__ inline void unpack_pairs(uint4 v, uint16_t out[8])
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};

    for (int i = 0; i < 8; i++) {
        out[i] = (uint16_t)(words[i / 2] >> 16 * (i % 2));
    }
}

/* Scale and minimum of the j-th 32 weights of a Q4_K or Q5_K block, six bits each. */
__device__ inline void scale_min(const uint8_t *block, uint32_t j, float *scale, float *min)
{
    const uint8_t *s = block + 4;
    uint32_t q, m;

    if (j < 4) {
        q = s[j] & 63u;
        m = s[j + 4] & 63u;
    } else {
        q = (s[j + 4] & 15u) | (uint32_t)(s[j - 4] >> 6) << 4;
        m = (uint32_t)(s[j + 4] >> 4) | (uint32_t)(s[j] >> 6) << 4;
    }
    *scale = half_value(read2(block)) * (float)q;
    *min = half_value(read2(block + 2)) * (float)m;
}

/* Weights 8 c to 8 c + 7 of a row. */
template <kern_type T>
__device__ inline void weights8(const uint8_t *row, uint32_t c, float w[CHUNK])
{
    if constexpr (T == KERN_F32) {
        float4 a = read4f((const float *)row + c * CHUNK);
        float4 b = read4f((const float *)row + c * CHUNK + 4);

        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
    } else if constexpr (T == KERN_F16 || T == KERN_BF16) {
        uint16_t v[8];

        unpack_pairs(read16(row + (uint64_t)c * 16), v);
        for (int i = 0; i < CHUNK; i++) {
            w[i] = T == KERN_F16 ? half_value(v[i]) : bf16_value(v[i]);
        }
    } else if constexpr (T == KERN_Q8_0) {
        const uint8_t *block = row + (uint64_t)(c / 4) * 34;
        uint2 q = read8_even(block + 2 + c % 4 * 8);
        float d = half_value(read2(block));

        for (int i = 0; i < CHUNK; i++) {
            w[i] = d * (float)(int8_t)byte_of(q, i);
        }
    } else if constexpr (T == KERN_Q4_0) {
        const uint8_t *block = row + (uint64_t)(c / 4) * 18;
        uint2 q = read8_even(block + 2 + c % 2 * 8);
        float d = half_value(read2(block));
        uint32_t shift = c % 4 / 2 * 4;

        for (int i = 0; i < CHUNK; i++) {
            w[i] = d * (float)((int)(byte_of(q, i) >> shift & 15) - 8);
        }
    } else if constexpr (T == KERN_Q4_K || T == KERN_Q5_K) {
        const uint32_t size = T == KERN_Q4_K ? 144 : 176, low = T == KERN_Q4_K ? 16 : 48;
        const uint8_t *block = row + (uint64_t)(c / 32) * size;
        uint32_t j = c % 32 / 4, i0 = c % 4 * 8; /* of the j-th 32 weights, from the i0-th */
        uint2 q = read8(block + low + j / 2 * 32 + i0), high = {0, 0};
        float scale, min;

        if (T == KERN_Q5_K) {
            high = read8(block + 16 + i0);
        }
        scale_min(block, j, &scale, &min);
        for (int i = 0; i < CHUNK; i++) {
            uint32_t v = (byte_of(q, i) >> j % 2 * 4 & 15) | (byte_of(high, i) >> j & 1) << 4;

            w[i] = scale * (float)v - min;
        }
    } else {
        const uint8_t *block = row + (uint64_t)(c / 32) * 210;
        uint32_t half = c % 32 / 16, quarter = c % 16 / 4, i0 = c % 4 * 8;
        uint2 q = read8_even(block + half * 64 + quarter % 2 * 32 + i0);
        uint2 high = read8_even(block + 128 + half * 32 + i0);
        int8_t scale = (int8_t)block[192 + half * 8 + quarter * 2 + i0 / 16];
        float d = half_value(read2(block + 208)) * (float)scale;

        for (int i = 0; i < CHUNK; i++) {
            uint32_t v = (byte_of(q, i) >> quarter / 2 * 4 & 15) |
                         (byte_of(high, i) >> quarter * 2 & 3) << 4;

            w[i] = d * (float)((int)v - 32);
        }
    }
}

/* Calls f<type>(...) for the type at hand. */
#define BY_TYPE(type, f, ...)                                                                  \
    switch (type) {                                                                            \
    case KERN_F32:                                                                             \
        f<KERN_F32>(__VA_ARGS__);                                                              \
        break;                                                                                 \
    case KERN_F16:                                                                             \
        f<KERN_F16>(__VA_ARGS__);                                                              \
        break;                                                                                 \
    case KERN_BF16:                                                                            \
        f<KERN_BF16>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    case KERN_Q8_0:                                                                            \
        f<KERN_Q8_0>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    case KERN_Q4_0:                                                                            \
        f<KERN_Q4_0>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    case KERN_Q4_K:                                                                            \
        f<KERN_Q4_K>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    case KERN_Q5_K:                                                                            \
        f<KERN_Q5_K>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    default:                                                                                   \
        f<KERN_Q6_K>(__VA_ARGS__);                                                             \
        break;                                                                                 \
    }

#endif
