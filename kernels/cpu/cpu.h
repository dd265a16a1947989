/*
 * Inside the CPU back end: the device (threads, scratch, vector operations), and a model on it
 * with its pages of keys and values, which are f16. All activations are f32.
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

/* One sequence's, or one text's, rows of the batch: n from `row` on. */
typedef struct {
    const uint32_t *pages; /* NULL: of a text, which is in the batch with all its tokens */
    uint32_t row;
    uint32_t n;
    uint32_t pos;
} cpu_sequence;

/* Rows of weights that become floats together. */
#define FLOAT_ROWS 4

/* Keys that a row looks at by itself: [first, end), of which it has others or not. */
#define CPU_SPAN 256

typedef struct {
    uint32_t row;
    uint32_t first;
    uint32_t end;
    bool alone;
} cpu_span;

struct kern_model {
    kern_device *dev;
    kern_config config;
    kern_weights weights;
    kern_layer *layers;
    uint32_t max_batch;
    uint32_t max_seqs;
    double *rope_freq;      /* [rope_dim / 2] */
    double *rope_freq_near; /* likewise, in layers with a window; NULL: the same */

    /* f16: [n_pages][n_layers][keys, values][n_kv_heads][KERN_PAGE][head_dim]: what a head
     * reads of a page lies together, and so does what a sequence has of the memory */
    uint16_t *kv;
    size_t kv_size;   /* values */
    size_t page_size; /* values */

    bool encoding; /* Tiles are of one kind alone: a vector made alone is compared with those
                      that were made together. F16 weights may be rounded to bf16: not where
                      answers shall not depend on how a prompt was cut. */

    /* state of the step under way; B is max_batch */
    cpu_sequence *seqs; /* [sequences of the step], at most B */
    uint32_t *seq_of;   /* [B] each row's */
    uint16_t *fresh;    /* f16, of encode: [keys, values][n_kv_heads][B][head_dim] */
    float *x;           /* [B][d_model] the residual stream */
    float *xb;          /* [B][d_model] normed input of a block */
    float *q;           /* [B][n_heads * head_dim] */
    float *k;           /* [B][n_kv_heads * head_dim] */
    float *v;           /* [B][n_kv_heads * head_dim] */
    float *att;         /* [B][n_heads * head_dim] */
    float *gate;        /* [B][d_ff], or what w_down multiplies, prepared */
    float *up;          /* [B][d_ff] */
    float *rope;        /* [B][rope_dim / 2][cos, sin] */
    float *rope_near;   /* likewise, where rope_freq_near is */
    float *scores;      /* [threads][heads that share keys][CPU_SPAN] */
    cpu_span *spans;    /* [max_spans], as are those that follow */
    float *span_out;    /* [max_spans][n_heads * head_dim] */
    float *span_log;    /* [n_heads][max_spans] */
    uint32_t max_spans;
    float *wrow; /* [threads][FLOAT_ROWS][longest row of weights] */
    uint32_t wrow_len;
    uint8_t *packed;     /* activations prepared for integers or tiles */
    uint8_t *packed_int; /* likewise, for tiles of integers */
    uint8_t *tiles;      /* [threads][tiles_bytes] */
    size_t tiles_bytes;
};

/* A thread's, where rows of weights become floats. */
static inline float *cpu_float_rows(const kern_model *m, uint32_t thread)
{
    return m->wrow + (size_t)FLOAT_ROWS * thread * m->wrow_len;
}

/* y[i] = w x[i] for the batch's rows i; y is [n][w->rows] */
typedef struct {
    float *y;
    const kern_tensor *w;
} cpu_product;

/* Whether matrices of this type may go in tiles, and so what is computed with them. */
bool cpu_in_tiles(const kern_model *m, kern_type type);

/* All products of x, [n][cols], with matrices of as many columns. */
void cpu_matmul(kern_model *m, const float *x, uint32_t n, const cpu_product *products,
                uint32_t n_products);

/* The product of what g lets through of x, [n][cols]. */
void cpu_matmul_gated(kern_model *m, const float *x, uint32_t n, const cpu_gated *g,
                      const cpu_product *down);

kern_rows *cpu_rows_load(kern_device *dev, const uint16_t *rows, uint32_t n, uint32_t cols);
void cpu_rows_free(kern_rows *rows);
bool cpu_topk(kern_rows *rows, const float *query, uint32_t k, kern_hit *hits,
              uint32_t *n_hits);

/* cos and sin of the angles at pos, [half][2], scaled. */
void cpu_angles(float *rope, const double *freq, uint32_t half, uint32_t pos, float scale);

/* Rows of the batch that a thread takes at a time, of operations that pass over so many values
 * of each: enough to be worth it. */
uint32_t cpu_row_grain(size_t values_per_row);

/* A layer's attention. Page p of head h has its keys from p * page_stride + h * head_stride
 * values on, [KERN_PAGE][head_dim]; a text's pages are 0, 1, … from its first row on. */
typedef struct {
    uint16_t *keys;
    uint16_t *values;
    size_t page_stride;
    size_t head_stride;
    const float *rope; /* [n_rows][rope_dim / 2][cos, sin] */
    uint32_t n_rows;
    uint32_t n_seqs;
} cpu_attending;

/* The batch's q, k and v, as the products have made them, become att; k and v are kept. */
void cpu_attend_all(kern_model *m, const cpu_attending *in, uint32_t layer);

bool cpu_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits);
bool cpu_encode(kern_model *m, const kern_text *texts, uint32_t n_texts, kern_pooling pooling,
                float *out);

#endif
