/*
 * Random weights of every kind, and each weight as float64, one at a time and straight from
 * the layouts in kernels/cpu/quant.h: what the kernels are compared with.
 */
#ifndef T_QUANT_REF_H
#define T_QUANT_REF_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/quant.h"

static const char *const ref_type_name[KERN_N_TYPES] = {
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K",
};

/* From -1 to 1. */
static inline double ref_uniform(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (double)(*s >> 11) / 9007199254740992.0 * 2 - 1;
}

static inline double ref_f16(const uint8_t *p)
{
    int h = p[0] | p[1] << 8, exp = h >> 10 & 31, frac = h & 1023;
    double v = exp == 0 ? ldexp(frac, -24) : ldexp(1024 + frac, exp - 25);

    if (exp == 31) {
        v = frac == 0 ? INFINITY : NAN;
    }
    return h & 0x8000 ? -v : v;
}

/* The f16 nearest to v, as keys and values are kept. */
static inline double ref_round_f16(double v)
{
    int exp;
    double step;

    frexp(v, &exp);
    step = ldexp(1, (exp > -13 ? exp : -13) - 11);
    return fmax(-65504, fmin(65504, nearbyint(v / step) * step));
}

static inline void ref_scale_min(const uint8_t *block, size_t j, double *scale, double *min)
{
    const uint8_t *s = block + 4;
    int sc = s[j] & 63, m = s[j + 4] & 63;

    if (j >= 4) {
        sc = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        m = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
    *scale = ref_f16(block) * sc;
    *min = ref_f16(block + 2) * m;
}

/* Weight c of a row. */
static inline double ref_weight(kern_type type, const uint8_t *row, size_t c)
{
    const uint8_t *b = row + c / 256 * cpu_row_bytes(type, 256);
    size_t i = c % 256, l = i % 32;
    double scale, min;
    uint32_t bits;
    float f;
    int q;

    switch (type) {
    case KERN_F32:
        memcpy(&f, row + c * 4, 4);
        return f;
    case KERN_F16:
        return ref_f16(row + c * 2);
    case KERN_BF16:
        bits = (uint32_t)(row[c * 2] | row[c * 2 + 1] << 8) << 16;
        memcpy(&f, &bits, 4);
        return f;
    case KERN_Q8_0:
        b = row + c / 32 * 34;
        return ref_f16(b) * (int8_t)b[2 + l];
    case KERN_Q4_0:
        b = row + c / 32 * 18;
        q = l < 16 ? b[2 + l] & 15 : b[2 + l - 16] >> 4;
        return ref_f16(b) * (q - 8);
    case KERN_Q4_K:
        ref_scale_min(b, i / 32, &scale, &min);
        q = b[16 + i / 64 * 32 + l] >> (i % 64 < 32 ? 0 : 4) & 15;
        return scale * q - min;
    case KERN_Q5_K:
        ref_scale_min(b, i / 32, &scale, &min);
        q = b[48 + i / 64 * 32 + l] >> (i % 64 < 32 ? 0 : 4) & 15;
        q |= (b[16 + l] >> i / 32 & 1) << 4;
        return scale * q - min;
    case KERN_Q6_K:
        q = b[i / 128 * 64 + i % 64] >> (i % 128 < 64 ? 0 : 4) & 15;
        q |= (b[128 + i / 128 * 32 + l] >> i % 128 / 32 * 2 & 3) << 4;
        return ref_f16(b + 208) * (int8_t)b[192 + i / 16] * (q - 32);
    case KERN_N_TYPES:
        break;
    }
    return NAN;
}

static inline void ref_put_f16(uint8_t *p, uint16_t base, uint64_t *s)
{
    uint16_t h = (uint16_t)(base + (uint16_t)(fabs(ref_uniform(s)) * 255));

    memcpy(p, &h, sizeof(h));
}

/* Random bits, with scales that keep weights about as large as 0.1. */
static inline void ref_fill_row(kern_type type, uint8_t *row, size_t cols, uint64_t *s)
{
    size_t weights, bytes;

    cpu_block(type, &weights, &bytes);
    for (size_t i = 0; i < cols / weights * bytes; i++) {
        row[i] = (uint8_t)(int8_t)(ref_uniform(s) * 127.9);
    }
    for (uint8_t *b = row; b < row + cols / weights * bytes; b += bytes) {
        float f = (float)ref_uniform(s) * 0.2f;

        switch (type) {
        case KERN_F32:
            memcpy(b, &f, 4);
            break;
        case KERN_BF16:
            memcpy(b, (uint8_t *)&f + 2, 2);
            break;
        case KERN_F16:
            ref_put_f16(b, f < 0 ? 0xac00 : 0x2c00, s);
            break;
        case KERN_Q8_0:
            ref_put_f16(b, 0x1600, s);
            break;
        case KERN_Q4_0:
            ref_put_f16(b, 0x2600, s);
            break;
        case KERN_Q4_K:
            ref_put_f16(b, 0x0e00, s);
            ref_put_f16(b + 2, 0x1a00, s);
            break;
        case KERN_Q5_K:
            ref_put_f16(b, 0x0a00, s);
            ref_put_f16(b + 2, 0x1a00, s);
            break;
        case KERN_Q6_K:
            ref_put_f16(b + 208, 0x0400, s);
            break;
        case KERN_N_TYPES:
            break;
        }
    }
}

/* [rows][cols]; the caller frees its data. */
static inline kern_tensor ref_tensor(kern_type type, uint32_t rows, uint32_t cols, uint64_t *s)
{
    size_t bytes = cpu_row_bytes(type, cols);
    uint8_t *data = malloc(rows * bytes);

    for (uint32_t r = 0; r < rows; r++) {
        ref_fill_row(type, data + r * bytes, cols, s);
    }
    return (kern_tensor){.type = type, .data = data, .rows = rows, .cols = cols};
}

#endif
