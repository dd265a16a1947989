#include "kernels/cpu/ops.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/vector.h"

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

static void plain_dot4x4(float out[4][4], const float *w, const float *x, size_t n)
{
    for (size_t j = 0; j < 16; j++) {
        out[j / 4][j % 4] = plain_dot(w + j / 4 * n, x + j % 4 * n, n);
    }
}

static float plain_dot_f16(const uint16_t *row, const float *x, size_t n)
{
    float acc[8] = {0};

    for (size_t i = 0; i < n; i++) {
        acc[i % 8] += cpu_f16_to_f32(row[i]) * x[i];
    }
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

static void plain_dots_f16(float *out, size_t stride, const cpu_f16_rows *rows, const float *x,
                           size_t n_x)
{
    for (size_t j = 0; j < n_x; j++) {
        for (size_t r = 0; r < rows->n; r++) {
            out[j * stride + r] =
                plain_dot_f16(rows->at + r * rows->cols, x + j * rows->cols, rows->cols);
        }
    }
}

static void plain_sums_f16(float *y, const float *a, size_t stride, const cpu_f16_rows *rows,
                           size_t n_y)
{
    for (size_t r = 0; r < rows->n; r++) {
        const uint16_t *row = rows->at + r * rows->cols;

        for (size_t i = 0; i < rows->cols; i++) {
            float v = cpu_f16_to_f32(row[i]);

            for (size_t j = 0; j < n_y; j++) {
                y[j * rows->cols + i] += a[j * stride + r] * v;
            }
        }
    }
}

static void plain_to_f16(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = cpu_f32_to_f16(src[i]);
    }
}

static void plain_axpy(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static void plain_scale(float *y, const float *x, float scale, const float *weight, size_t n)
{
    vector_scale(y, x, scale, weight, n);
}

static float plain_softmax(float *x, size_t n)
{
    return vector_softmax(x, n);
}

static void plain_swiglu(float *gate, const float *up, size_t n)
{
    vector_swiglu(gate, up, n);
}

static void plain_geglu(float *gate, const float *up, size_t n)
{
    vector_geglu(gate, up, n);
}

static void plain_cap(float *x, float cap, size_t n)
{
    vector_cap(x, cap, n);
}

static void plain_gelu(float *x, size_t n)
{
    vector_gelus(x, n);
}

static void plain_layer_norm(float *x, const float *weight, const float *bias, size_t n,
                             float eps)
{
    vector_layer_norm(x, weight, bias, n, eps);
}

static void plain_row_f16(float *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = quant_f16(src + i * 2);
    }
}

static void plain_row_bf16(float *dst, const uint8_t *src, size_t n)
{
    quant_row_bf16(dst, src, n);
}

static void plain_row_q8_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q8_0(dst, src, n);
}

static void plain_row_q4_0(float *dst, const uint8_t *src, size_t n)
{
    quant_row_q4_0(dst, src, n);
}

static void plain_row_q4_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q4_K);
}

static void plain_row_q5_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q5_K);
}

static void plain_row_q6_k(float *dst, const uint8_t *src, size_t n)
{
    quant_row_super(dst, src, n, KERN_Q6_K);
}

const cpu_ops cpu_ops_plain = {
    .name = "plain",
    .dot = plain_dot,
    .dot4x4 = plain_dot4x4,
    .dots_f16 = plain_dots_f16,
    .sums_f16 = plain_sums_f16,
    .to_f16 = plain_to_f16,
    .axpy = plain_axpy,
    .scale = plain_scale,
    .softmax = plain_softmax,
    .swiglu = plain_swiglu,
    .geglu = plain_geglu,
    .cap = plain_cap,
    .gelu = plain_gelu,
    .layer_norm = plain_layer_norm,
    .row =
        {
            [KERN_F16] = plain_row_f16,
            [KERN_BF16] = plain_row_bf16,
            [KERN_Q8_0] = plain_row_q8_0,
            [KERN_Q4_0] = plain_row_q4_0,
            [KERN_Q4_K] = plain_row_q4_k,
            [KERN_Q5_K] = plain_row_q5_k,
            [KERN_Q6_K] = plain_row_q6_k,
        },
};

void cpu_block(kern_type type, size_t *weights, size_t *bytes)
{
    static const struct {
        uint16_t weights, bytes;
    } blocks[KERN_N_TYPES] = {
        [KERN_F32] = {1, 4},
        [KERN_F16] = {1, 2},
        [KERN_BF16] = {1, 2},
        [KERN_Q8_0] = {32, Q8_0_BYTES},
        [KERN_Q4_0] = {32, Q4_0_BYTES},
        [KERN_Q4_K] = {256, Q4_K_BYTES},
        [KERN_Q5_K] = {256, Q5_K_BYTES},
        [KERN_Q6_K] = {256, Q6_K_BYTES},
    };

    *weights = blocks[type].weights;
    *bytes = blocks[type].bytes;
}

size_t cpu_row_bytes(kern_type type, size_t cols)
{
    size_t weights, bytes;

    cpu_block(type, &weights, &bytes);
    return cols / weights * bytes;
}

const float *cpu_row(const cpu_ops *ops, const kern_tensor *w, size_t r, float *scratch)
{
    const uint8_t *src = (const uint8_t *)w->data + r * cpu_row_bytes(w->type, w->cols);

    if (w->type == KERN_F32) {
        return (const float *)(const void *)src;
    }
    ops->row[w->type](scratch, src, w->cols);
    return scratch;
}

void cpu_rms_norm(const cpu_ops *ops, float *y, const float *x, const float *weight, size_t n,
                  float eps)
{
    float mean = ops->dot(x, x, n) / (float)n;

    ops->scale(y, x, 1.0f / sqrtf(mean + eps), weight, n);
}
