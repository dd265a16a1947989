/*
 * The vector operations of the CPU back end: a plain version of each and faster ones for AVX2
 * and AVX-512, chosen once by CPUID. Every version is compiled into every build by function
 * attributes, so one binary serves all machines and valgrind, which hides AVX-512. VNNI and
 * AMX are AVX-512 with faster ways to multiply packed weights than AVX2 has.
 *
 * Within one version dot, dot_row and dot4x4 add in the same order, so a token's result does
 * not depend on how many others are in its batch.
 */
#ifndef CPU_OPS_H
#define CPU_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/quant.h"

/* f16, [n][cols], and what will be wanted next: as much is asked of the memory meanwhile, and
 * need not be there. */
typedef struct {
    const uint16_t *at;
    const uint16_t *next;
    size_t n;
    size_t cols;
} cpu_f16_rows;

typedef struct {
    const char *name;

    /* sum of a[i] * b[i] */
    float (*dot)(const float *a, const float *b, size_t n);

    /* dot(row, x, n) of a row that is read once, as floats, by kern_type; NULL: by row and dot
     */
    float (*dot_row[KERN_N_TYPES])(const uint8_t *row, const float *x, size_t n);

    /* out[r][t] = dot(w + r * n, x + t * n, n), of four rows and four tokens */
    void (*dot4x4)(float out[4][4], const float *w, const float *x, size_t n);

    /* out[j * stride + i] = dot(row i, vector j) of n_x vectors, [n_x][cols]; the sum does not
     * depend on how many rows and vectors there are */
    void (*dots_f16)(float *out, size_t stride, const cpu_f16_rows *rows, const float *x,
                     size_t n_x);

    /* vector j += sum of a[j * stride + i] * row i, of n_y vectors, [n_y][cols] */
    void (*sums_f16)(float *y, const float *a, size_t stride, const cpu_f16_rows *rows,
                     size_t n_y);

    /* the nearest f16; the largest there is for what is beyond, and NaN for NaN */
    void (*to_f16)(uint16_t *dst, const float *src, size_t n);

    /* y += a * x */
    void (*axpy)(float *y, float a, const float *x, size_t n);

    /* y[i] = x[i] * scale * weight[i]; y may be x */
    void (*scale)(float *y, const float *x, float scale, const float *weight, size_t n);

    /* x becomes exp(x) / sum of exp(x); returns the logarithm of that sum */
    float (*softmax)(float *x, size_t n);

    /* gate[i] = gate[i] * sigmoid(gate[i]) * up[i] */
    void (*swiglu)(float *gate, const float *up, size_t n);

    /* gate[i] = gelu(gate[i]) * up[i], the gelu by tanh */
    void (*geglu)(float *gate, const float *up, size_t n);

    /* x becomes cap * tanh(x / cap) */
    void (*cap)(float *x, float cap, size_t n);

    /* x[i] = x[i] times the share of a normal distribution that lies below it */
    void (*gelu)(float *x, size_t n);

    /* x[i] = (x[i] - mean x) / deviation of x * weight[i] + bias[i] */
    void (*layer_norm)(float *x, const float *weight, const float *bias, size_t n, float eps);

    /* one row of n weights as floats, for each kern_type but F32 */
    void (*row[KERN_N_TYPES])(float *dst, const uint8_t *src, size_t n);

    const cpu_dot *integers;   /* NULL where the machine has no such instructions */
    const cpu_tile *int_tiles; /* only together with integers */
    const cpu_tile *tiles;     /* only together with integers */
    const cpu_attend *attend;  /* only together with tiles */
} cpu_ops;

extern const cpu_ops cpu_ops_plain;
extern const cpu_ops cpu_ops_avx2;
extern const cpu_ops cpu_ops_avx512;
extern const cpu_ops cpu_ops_vnni;
extern const cpu_ops cpu_ops_amx;

/* Every version this machine can run, the best first; NULL ends the list. Asks the kernel for
 * the use of AMX, which the process then has for good. */
const cpu_ops *const *cpu_ops_usable(void);

/* Row r of w as floats: in place where it is F32 already, otherwise into scratch [cols]. */
const float *cpu_row(const cpu_ops *ops, const kern_tensor *w, size_t r, float *scratch);

/* y[i] = x[i] / rms(x) * weight[i]; y may be x */
void cpu_rms_norm(const cpu_ops *ops, float *y, const float *x, const float *weight, size_t n,
                  float eps);

#endif
