#include "kernels/cpu/ops.h"

#include <math.h>
#include <string.h>

float cpu_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exp = (h >> 10) & 0x1f;
    uint32_t frac = h & 0x3ff;
    uint32_t bits;
    float f;

    if (exp == 0) {
        /* zero and subnormals: frac * 2^-24 is exact in f32 */
        f = (float)frac * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (exp == 0x1f ? 0xffu << 23 : (exp + 112) << 23) | frac << 13;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Eight partial sums: less rounding than one, and a shape compilers vectorize. */
static float plain_dot(const float *a, const float *b, size_t n)
{
    float acc[8] = {0};
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            acc[j] += a[i + j] * b[i + j];
        }
    }
    for (size_t j = 0; i < n; i++, j++) {
        acc[j] += a[i] * b[i];
    }
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

static void plain_dot4(float out[4], const float *w, const float *x, size_t stride, size_t n)
{
    for (size_t j = 0; j < 4; j++) {
        out[j] = plain_dot(w, x + j * stride, n);
    }
}

static void plain_axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static void plain_row_f16(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    uint16_t h;

    for (size_t i = 0; i < n; i++) {
        memcpy(&h, p + i * 2, sizeof(h));
        dst[i] = cpu_f16_to_f32(h);
    }
}

static void plain_row_q8_0(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;
    uint16_t h;
    float scale;

    for (size_t i = 0; i < n; i += KERN_Q8_0_BLOCK) {
        memcpy(&h, p, sizeof(h));
        scale = cpu_f16_to_f32(h);
        for (size_t j = 0; j < KERN_Q8_0_BLOCK; j++) {
            dst[i + j] = scale * (float)(int8_t)p[2 + j];
        }
        p += 2 + KERN_Q8_0_BLOCK;
    }
}

const cpu_ops cpu_ops_plain = {
    .name = "plain",
    .dot = plain_dot,
    .dot4 = plain_dot4,
    .axpy = plain_axpy,
    .row_f16 = plain_row_f16,
    .row_q8_0 = plain_row_q8_0,
};

size_t cpu_row_bytes(kern_type type, size_t cols)
{
    switch (type) {
    case KERN_F32:
        return cols * 4;
    case KERN_F16:
        return cols * 2;
    case KERN_Q8_0:
        return cols / KERN_Q8_0_BLOCK * (2 + KERN_Q8_0_BLOCK);
    }
    return 0;
}

const float *cpu_row(const cpu_ops *ops, const kern_tensor *w, size_t r, float *scratch)
{
    const uint8_t *src = (const uint8_t *)w->data + r * cpu_row_bytes(w->type, w->cols);

    switch (w->type) {
    case KERN_F32:
        return (const float *)(const void *)src;
    case KERN_F16:
        ops->row_f16(scratch, src, w->cols);
        break;
    case KERN_Q8_0:
        ops->row_q8_0(scratch, src, w->cols);
        break;
    }
    return scratch;
}

void cpu_rms_norm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    double sum = 0;
    float scale;

    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    scale = (float)(1.0 / sqrt(sum / (double)n + eps));
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] * scale * weight[i];
    }
}

void cpu_softmax(float *x, size_t n)
{
    float max = x[0];
    double sum = 0;
    float scale;

    for (size_t i = 1; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    scale = (float)(1.0 / sum);
    for (size_t i = 0; i < n; i++) {
        x[i] *= scale;
    }
}

void cpu_swiglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}
