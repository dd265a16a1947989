/*
 * Inside the CPU back end: the device (threads, scratch, vector operations), a model on it,
 * and one sequence's keys and values. All activations are f32.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "kernels/aiq_kernels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/pool.h"

struct kern_device {
    const cpu_ops *ops;
    cpu_pool *pool;
    const char *error;
};

/* Where one row of the batch belongs. */
typedef struct {
    kern_kv *kv;
    uint32_t pos;
} cpu_row_at;

struct kern_model {
    kern_device *dev;
    kern_config config;
    kern_weights weights;
    kern_layer *layers;
    uint32_t max_batch;
    double *rope_freq; /* [rope_dim / 2] */

    /* state of the step under way; B is max_batch */
    cpu_row_at *rows; /* [B] */
    float *x;         /* [B][d_model] the residual stream */
    float *xb;        /* [B][d_model] normed input of a block */
    float *q;         /* [B][n_heads * head_dim] */
    float *k;         /* [B][n_kv_heads * head_dim] */
    float *v;         /* [B][n_kv_heads * head_dim] */
    float *att;       /* [B][n_heads * head_dim] */
    float *gate;      /* [B][d_ff] */
    float *up;        /* [B][d_ff] */
    float *rope;      /* [B][rope_dim / 2][cos, sin] */
    float *scores;    /* [threads][n_ctx] */
    float *wrow;      /* [threads][longest row of weights] */
    uint32_t wrow_len;
};

struct kern_kv {
    uint32_t capacity; /* tokens */
    uint32_t kv_dim;   /* n_kv_heads * head_dim */
    float *k;          /* [n_layers][capacity][kv_dim] */
    float *v;          /* [n_layers][capacity][kv_dim] */
};

/* y[i][r] = dot(w row r, x[i]) for i in [0, n); x is [n][w->cols], y is [n][w->rows]. */
void cpu_matmul(kern_model *m, float *y, const float *x, const kern_tensor *w, uint32_t n);

bool cpu_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits);

#endif
