/*
 * Inside the CUDA back end. Activations are f32, keys and values f16.
 *
 * A matrix is multiplied in one of two ways. For few tokens by gemv.cu, which reads the weights
 * once as they lie in the file, eight tokens at a time, and is exact but for f32's rounding.
 * For many by the library's tensor cores in bf16, to which weights other than BF16 are unpacked
 * first; F32 weights never are. So a token's result is to the last bit the same in any company
 * with F32 weights, and otherwise within each of the two ways.
 *
 * Attention, too, goes in one of two ways: row by row, exact but for f32's rounding of f16 keys
 * and values; and, where the library multiplies and a prompt or a text brings TILED_FROM rows
 * or more, in tiles by tensor cores, which round queries and shares to f16. Steps of which all
 * rows are wanted go row by row: they are recorded, and mostly of one row for each sequence.
 *
 * What a step does to the device depends on the number of its rows alone: where their pages
 * are, how far each has come and what it is are read from memory. So the launches of a step are
 * recorded once as a graph and played again; that few graphs do, a step of fewer rows than one
 * of them has is filled up with rows that nobody asks for.
 */
#ifndef CUDA_CUDA_H
#define CUDA_CUDA_H

#include "kernels/cuda/index.h"

struct blas;

struct kern_device {
    uint32_t index;
    cudaStream_t stream;
    blas *products;
    char error[256];
};

/* Rows of logits that are computed together. */
#define OUT_ROWS GRAPH_ROWS

/* Parts that a sequence is split into by attention, at most, and rows for which there is memory
 * to keep them; more rows go one such slice after the other. */
#define SPLITS     32
#define SPLIT_ROWS 64

/* Queries of a tile; fewer than so many of a sequence are not worth one. */
#define TILE_ROWS  64
#define TILED_FROM 16

/* Limits of the attention kernels: of a head, and heads that share keys in a block. */
#define HEAD_MAX  256
#define GROUP_MAX 8

/* Bytes of weights that are unpacked at once, in slices of rows that are a multiple of SLICE:
 * the library takes results for aligned to 256 bytes. */
#define UNPACKED ((uint64_t)128 << 20)
#define SLICE    64

#define ROW_ARRAYS 9

/* What is under way, on the device: of n rows, and filled and copied in one piece. */
struct row_arrays {
    int32_t *ids;      /* [n] */
    uint32_t *pos;     /* [n] of the token in its sequence, or its text */
    uint32_t *end;     /* [n] the first token that the row does not see */
    uint32_t *first;   /* [n] where the pages of a row's sequence begin in pages */
    uint32_t *base;    /* [n] tokens in these before the sequence's first */
    uint32_t *out;     /* [n] rows whose logits are wanted; of texts, the first of each */
    uint32_t *loose;   /* [n_loose] rows whose attention is one by one */
    uint32_t *tile;    /* [n_tiles] the first row of a tile of queries of one sequence */
    uint32_t *of_tile; /* [n_tiles] how many it has, up to TILE_ROWS */
    uint32_t *pages;   /* [as many as all sequences have] */
    uint32_t n_loose, n_tiles;
};

/* Where keys and values of a layer are. */
struct kv_layer {
    uint16_t *kv;
    kv_shape shape;
    uint32_t layer; /* of shape's */
};

struct kern_model {
    kern_device *dev;
    kern_config config;
    kern_weights weights; /* on the device */
    kern_layer *layers;   /* the host's copy, of pointers to the device */
    uint32_t max_batch;
    uint32_t max_pages; /* in rows */
    uint32_t n_pages; /* of the pool; one more is behind them, for rows that nobody asks for */
    kv_shape shape;   /* of the pool */

    uint8_t *weights_memory; /* all of them */
    uint8_t *state_memory;   /* everything below, on the device */
    uint16_t *kv;            /* [n_pages + 1][kv_page_values] f16 */
    uint16_t *text_kv;       /* of one layer, a page for each KERN_PAGE rows; encode's */
    double *rope_freq;       /* [far, near][rope_dim / 2] */
    uint32_t *row_numbers;   /* what rows points to */
    row_arrays rows;         /* of the step, or the texts, under way */
    float *x;                /* [B][d_model] the residual stream */
    float *xb;               /* [B][d_model] normed input of a block, and what it makes */
    float *q;                /* [B][n_heads * head_dim] */
    float *k;                /* [B][n_kv_heads * head_dim] */
    float *v;                /* [B][n_kv_heads * head_dim] */
    float *att;              /* [B][n_heads * head_dim] */
    float *gate;             /* [B][d_ff] */
    float *up;               /* [B][d_ff] */
    float *rope;             /* [far, near][B][rope_dim / 2][cos, sin] */
    float *parts;            /* [SPLIT_ROWS][n_heads][SPLITS][head_dim] */
    float *parts_of;         /* [SPLIT_ROWS][n_heads][SPLITS][maximum, sum] */
    float *logits;           /* [OUT_ROWS, or B][n_vocab]; none of encoders */
    uint16_t *rounded;       /* [B][longest row] activations in bf16 */
    uint16_t *unpacked;      /* weights in bf16, UNPACKED bytes at most */
    uint64_t n_unpacked;     /* of them */

    uint32_t *host_rows;   /* pinned: row_numbers before they are copied */
    uint8_t *seen;         /* [GRAPH_ROWS + 1] 0: never, 1: once, 2: recorded, 3: cannot be */
    cudaGraphExec_t *play; /* [GRAPH_ROWS + 1] */
};

/* One matrix of a product: y, [n][w->rows], of an input [n][w->cols]. */
struct product {
    const kern_tensor *w;
    float *y;
};

enum { PRODUCT_STORE, PRODUCT_ADD, PRODUCT_GATED };

/* All of these put work on the model's stream and return at once; what fails there is found
 * when the step ends. n: rows of the batch. */

/* gemv.cu. All matrices have the same type and columns. PRODUCT_ADD: y += of one matrix.
 * PRODUCT_GATED, of a gate and an up matrix: y of the first becomes act(gate) * up. */
void gemv_run(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
              int mode);

/* gemm.cu. x is rounded first; weights that are not BF16 are unpacked. add: y += */
bool gemm_run(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
              bool add);

/* ops.cu */
void ops_embed(kern_model *m, uint32_t n);
void ops_angles(kern_model *m, uint32_t n);
void ops_norm(kern_model *m, float *y, const float *x, const float *weight, uint32_t n);
void ops_norm_out(kern_model *m, float *y, uint32_t first, uint32_t n);
void ops_norm_add(kern_model *m, const float *weight, uint32_t n); /* x += norm(xb) */
void ops_prepare(kern_model *m, uint32_t layer, kv_layer to, uint32_t n);
void ops_activate(kern_model *m, const kern_layer *w, uint32_t n); /* gate, of itself and up */
void ops_cap_logits(kern_model *m, uint32_t n);
void ops_round(kern_model *m, const float *x, uint64_t n);
void ops_unpack(kern_model *m, const kern_tensor *w, uint32_t first_row, uint32_t n_rows);

/* of encoders: x = LayerNorm(x + added + bias), of which either may be NULL */
void ops_add_norm(kern_model *m, const float *added, const float *bias, const float *weight,
                  const float *norm_bias, uint32_t n);
/* y[n_texts][d_model], of x's rows */
void ops_pool(kern_model *m, float *y, const float *x, uint32_t n_texts, uint32_t n,
              kern_pooling pooling);

/* A layer's attention, of the rows of the batch; the lists are those of kern_model's rows. */
struct attention_job {
    const float *q; /* [n][n_heads][head_dim] */
    float *out;     /* the same */
    kv_layer from;
    const uint32_t *pos, *end, *first, *base, *pages;
    uint32_t window;
    uint32_t n_heads;
    uint32_t group; /* heads that share keys */
    float scale;
    float cap; /* 0: none */
};

/* attention.cu, and the part of it that goes in tiles, by tensor cores: tiles.cu */
void attention_run(kern_model *m, uint32_t layer, kv_layer from);
void tiles_run(kern_model *m, const attention_job &of);

/* blas.cu, and its stand-in for the tests */
blas *blas_new(void); /* NULL: no library, or no memory */
void blas_free(blas *b);
/* y[n][stride] (+)= x[n][cols] * w[rows][cols]^T, the two in bf16, sums in f32. */
bool blas_product(blas *b, cudaStream_t stream, float *y, uint32_t stride, const uint16_t *x,
                  const uint16_t *w, uint32_t rows, uint32_t cols, uint32_t n, bool add);

/* model.cu */
uint64_t model_page_bytes(const kern_device *dev, const kern_config *c);
kern_model *model_load(kern_device *dev, const kern_config *config, const kern_weights *weights,
                       uint32_t max_batch, uint32_t max_seqs, uint32_t n_pages);
void model_free(kern_model *m);

/* layers.cu. From the rows' ids to x. texts: they are texts, not the sequences of a step. */
bool layers_run(kern_model *m, uint32_t n, bool texts);
/* Whether n rows are multiplied by the library. */
bool layers_by_library(const kern_tensor *w, uint32_t n);
/* Products of one input; those of one type go together. */
bool layers_multiply(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
                     bool add);

/* step.cu */
bool step_run(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits);
/* n rows in memory of row_numbers. */
row_arrays step_rows(uint32_t *memory, uint32_t n);
/* Rows of one sequence, n from the first, become tiles, or loose ones. */
void step_add_rows(row_arrays *to, uint32_t first, uint32_t n, bool tiled);
/* Those of the host, of n rows and so many pages, to the device. */
bool step_put_rows(kern_model *m, const row_arrays *host, uint32_t n, uint32_t n_pages);
/* Waits for what is under way, and for n of its values. */
bool step_fetch(kern_model *m, const float *from, uint64_t n, float *to);

/* encode.cu */
bool encode_run(kern_model *m, const kern_text *texts, uint32_t n_texts, kern_pooling pooling,
                float *out);

/* topk.cu: the table's rows_load, rows_free and topk */
kern_rows *topk_load(kern_device *dev, const uint16_t *rows, uint32_t n, uint32_t cols);
void topk_free(kern_rows *rows);
bool topk_run(kern_rows *rows, const float *query, uint32_t k, kern_hit *hits,
              uint32_t *n_hits);

/* device.cu. Whether it went well; the device keeps what did not. */
bool device_check(kern_device *dev, cudaError_t rc, const char *doing);
/* Whether so many bytes may be taken. what: "the model takes" */
bool device_has_room(kern_device *dev, uint64_t bytes, const char *what);
void device_info(uint32_t index, kern_info *out);

#endif
