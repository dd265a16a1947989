/*
 * Operations that are the same code for every kind of machine, inlined into one version for
 * each (ops.c, ops_avx2.c, ops_avx512.c): loops over sixteen floats, which is what compilers
 * vectorize.
 */
#ifndef CPU_VECTOR_H
#define CPU_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/quant.h"

/*
 * exp for -87 <= x <= 88, as at the nearer end beyond, within 2 units in the last place: 2^n
 * times a polynomial in what is left of x after n times log 2. What is not a number stays so.
 */
QUANT_INLINE float vector_exp(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves no room for fractions */
    float n, r, p, power;
    uint32_t bits;

    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    n = x * 1.44269504f + round;
    memcpy(&bits, &n, sizeof(bits));
    bits = (bits << 23) + 0x3f800000; /* n is in the lowest bits; 2^n */
    memcpy(&power, &bits, sizeof(power));
    n -= round;
    r = x - n * 0.693145752f - n * 1.42860677e-6f;
    p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657961e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    return p * power;
}

QUANT_INLINE void vector_scale(float *y, const float *x, float scale, const float *weight,
                               size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        float t[16];

        for (size_t j = 0; j < 16; j++) {
            t[j] = x[i + j] * scale * weight[i + j];
        }
        memcpy(y + i, t, sizeof(t));
    }
    for (; i < n; i++) {
        y[i] = x[i] * scale * weight[i];
    }
}

QUANT_INLINE float vector_max(const float *x, size_t n)
{
    float most[16], max = x[0];
    size_t i = 0;

    for (size_t j = 0; j < 16; j++) {
        most[j] = max;
    }
    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
        }
    }
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (size_t j = 0; j < 16; j++) {
        max = most[j] > max ? most[j] : max;
    }
    return max;
}

/* Returns the logarithm of the sum. */
QUANT_INLINE float vector_softmax(float *x, size_t n)
{
    float sums[16] = {0}, max = vector_max(x, n), sum = 0, share;
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            x[i + j] = vector_exp(x[i + j] - max);
            sums[j] += x[i + j];
        }
    }
    for (; i < n; i++) {
        x[i] = vector_exp(x[i] - max);
        sum += x[i];
    }
    for (size_t j = 0; j < 16; j++) {
        sum += sums[j];
    }
    share = 1.0f / sum;
    for (i = 0; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            x[i + j] *= share;
        }
    }
    for (; i < n; i++) {
        x[i] *= share;
    }
    return max + logf(sum);
}

QUANT_INLINE void vector_swiglu(float *gate, const float *up, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        float t[16];

        for (size_t j = 0; j < 16; j++) {
            t[j] = gate[i + j] / (1.0f + vector_exp(-gate[i + j])) * up[i + j];
        }
        memcpy(gate + i, t, sizeof(t));
    }
    for (; i < n; i++) {
        gate[i] = gate[i] / (1.0f + vector_exp(-gate[i])) * up[i];
    }
}

/* gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x times a sigmoid. */
QUANT_INLINE float vector_gelu(float x)
{
    return x / (1.0f + vector_exp(-1.59576912f * (x + 0.044715f * x * x * x)));
}

QUANT_INLINE void vector_geglu(float *gate, const float *up, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        float t[16];

        for (size_t j = 0; j < 16; j++) {
            t[j] = vector_gelu(gate[i + j]) * up[i + j];
        }
        memcpy(gate + i, t, sizeof(t));
    }
    for (; i < n; i++) {
        gate[i] = vector_gelu(gate[i]) * up[i];
    }
}

/* cap * tanh(x / cap), by 1 - 2 / (1 + exp(2y)) */
QUANT_INLINE void vector_cap(float *x, float cap, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = cap - 2.0f * cap / (1.0f + vector_exp(2.0f / cap * x[i]));
    }
}

/* x times the share of a normal distribution that lies below it. The error function is
 * Abramowitz and Stegun's 7.1.26, off by at most 1.5e-7. */
QUANT_INLINE float vector_exact_gelu(float x)
{
    float z = (x < 0 ? -x : x) * 0.707106781f, t = 1.0f / (1.0f + 0.3275911f * z), p;

    p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    p = 0.5f * p * t * vector_exp(-z * z);
    return x < 0 ? x * p : x * (1.0f - p);
}

QUANT_INLINE void vector_gelus(float *x, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        float t[16];

        for (size_t j = 0; j < 16; j++) {
            t[j] = vector_exact_gelu(x[i + j]);
        }
        memcpy(x + i, t, sizeof(t));
    }
    for (; i < n; i++) {
        x[i] = vector_exact_gelu(x[i]);
    }
}

/* The sum of x[i], or of the squares of x[i] - mean. */
QUANT_INLINE float vector_moment(const float *x, float mean, int squares, size_t n)
{
    float sums[16] = {0}, sum = 0;
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        for (size_t j = 0; j < 16; j++) {
            float d = x[i + j] - mean;

            sums[j] += squares ? d * d : d;
        }
    }
    for (; i < n; i++) {
        float d = x[i] - mean;

        sum += squares ? d * d : d;
    }
    for (size_t j = 0; j < 16; j++) {
        sum += sums[j];
    }
    return sum;
}

QUANT_INLINE void vector_layer_norm(float *x, const float *weight, const float *bias, size_t n,
                                    float eps)
{
    float mean = vector_moment(x, 0, 0, n) / (float)n;
    float scale = 1.0f / sqrtf(vector_moment(x, mean, 1, n) / (float)n + eps);
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        float t[16];

        for (size_t j = 0; j < 16; j++) {
            t[j] = (x[i + j] - mean) * scale * weight[i + j] + bias[i + j];
        }
        memcpy(x + i, t, sizeof(t));
    }
    for (; i < n; i++) {
        x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    }
}

#endif
