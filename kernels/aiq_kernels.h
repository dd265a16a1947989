/*
 * The whole interface between the engine and what computes: one table of functions per back
 * end. It works in whole jobs (a batch through the model), not in operations, so a back end is
 * free to fuse, to page and to schedule as its hardware likes.
 *
 * The room knows nothing of files, tokenizers or services. It gets three things, in the
 * manner of a small C program: a config (numbers), weights (pointers, borrowed) and, per call,
 * a batch. Shapes are written [outer][inner], row-major, inner contiguous.
 *
 * Whoever calls has checked the config and that each tensor has the shape given here, so a
 * back end asserts rather than reports. What it reports is what only it can know: memory,
 * device errors.
 *
 * Threads: a device is used by one thread at a time. Different devices are independent.
 */
#ifndef AIQ_KERNELS_H
#define AIQ_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#define AIQ_KERNELS_ABI 12

/* How a row of weights lies in memory: as in GGUF files. Columns are a multiple of 32 for
 * Q8_0 and Q4_0, of 256 for the K types. */
typedef enum {
    KERN_F32,
    KERN_F16,
    KERN_BF16,
    KERN_Q8_0,
    KERN_Q4_0,
    KERN_Q4_K,
    KERN_Q5_K,
    KERN_Q6_K,
    KERN_N_TYPES
} kern_type;

typedef struct {
    kern_type type;
    const void *data; /* [rows][cols]; y = W x maps cols inputs to rows outputs */
    uint32_t rows;
    uint32_t cols;
} kern_tensor;

/*
 * The Llama family: RMS norm, rotary positions, grouped-query attention, SwiGLU. Qwen, Phi-3
 * and Gemma differ by what is named here.
 *
 * An encoder, BERT's family, is for encode alone. Attention looks both ways, positions may be
 * learned (rope_dim is 0 then), and norms are LayerNorm and come last: attn_norm is of the sum
 * of a layer's input and its attention, ffn_norm of that and the feed-forward part. There is
 * no out_norm and no out.
 */
typedef struct {
    bool encoder;
    uint32_t n_layers;
    uint32_t d_model;
    uint32_t d_ff;
    uint32_t n_heads;
    uint32_t n_kv_heads; /* divides n_heads */
    uint32_t head_dim;
    uint32_t rope_dim; /* even, at most head_dim */
    bool rope_halves;  /* i is turned with i + rope_dim / 2 instead of 2i with 2i + 1 */
    uint32_t n_vocab;
    uint32_t n_ctx;
    float rope_base;
    float rope_base_near; /* in layers with a window, whose frequencies then have no divisors;
                             0: as in the others */
    float rope_scale;     /* of what is turned, but not at rope_base_near; 0: 1 */
    float norm_eps;
    float embed_scale; /* of the tokens' embeddings; 0: 1 */
    float attn_scale;  /* of a query's product with a key; 0: 1 / sqrt(head_dim) */
    float attn_cap;    /* the products x, scaled, become cap * tanh(x / cap); 0: they do not */
    float logit_cap;   /* likewise the logits */
    bool gelu;         /* GEGLU, with the gelu by tanh, instead of SwiGLU */
} kern_config;

typedef struct {
    const float *attn_norm; /* [d_model] */
    kern_tensor wq;         /* [n_heads * head_dim][d_model] */
    kern_tensor wk;         /* [n_kv_heads * head_dim][d_model] */
    kern_tensor wv;         /* [n_kv_heads * head_dim][d_model] */
    const float *bq;        /* [n_heads * head_dim], added to wq's; NULL: none; likewise */
    const float *bk;        /* [n_kv_heads * head_dim] */
    const float *bv;        /* [n_kv_heads * head_dim] */
    const float *q_norm;    /* [head_dim], of each head before it is turned; NULL: none */
    const float *k_norm;    /* [head_dim] */
    kern_tensor wo;         /* [d_model][n_heads * head_dim] */
    const float *ffn_norm;  /* [d_model] */
    kern_tensor w_gate; /* [d_ff][d_model]; an encoder's may have no data: then GELU instead */
    kern_tensor w_up;   /* [d_ff][d_model] */
    kern_tensor w_down; /* [d_model][d_ff] */
    const float *attn_post; /* [d_model] norm of what attention adds; NULL: none; likewise */
    const float *ffn_post;  /* [d_model] */
    uint32_t window;        /* a token sees so many, itself included; 0: all before it */

    /* of an encoder */
    const float *bo;          /* [d_model], added to wo's; NULL: none; likewise */
    const float *b_up;        /* [d_ff] */
    const float *b_down;      /* [d_model] */
    const float *attn_norm_b; /* [d_model] */
    const float *ffn_norm_b;  /* [d_model] */
} kern_layer;

typedef struct {
    kern_tensor embed;         /* [n_vocab][d_model] */
    const kern_layer *layers;  /* [n_layers] */
    const float *out_norm;     /* [d_model] */
    kern_tensor out;           /* [n_vocab][d_model]; the same as embed where they are tied */
    const float *rope_factors; /* [rope_dim / 2] divisors of the frequencies, or NULL */

    /* of an encoder */
    kern_tensor positions;     /* [n_ctx or more][d_model], added to embed's; no data: none */
    kern_tensor segments;      /* [1 or more][d_model], of which the first is added; likewise */
    const float *embed_norm;   /* [d_model], of the sum */
    const float *embed_norm_b; /* [d_model] */
} kern_weights;

typedef struct kern_device kern_device;
typedef struct kern_model kern_model;

/*
 * Keys and values lie in pages of so many tokens. A model is loaded with a pool of them,
 * numbered from 0; which sequence has which is the caller's to know. A page may be of several
 * sequences where all their tokens up to its end are the same. What it holds stays until it is
 * written again.
 *
 * They are kept as f16, whatever the weights are, and every token of a step or of encode sees
 * what was kept, the step's own included. What is beyond f16 becomes 65504 on the CPU.
 */
#define KERN_PAGE 16

/* One sequence's part of a batch: n tokens that follow its first pos, whose keys and values
 * are in its pages already. Those of the n are written, so no other sequence of the batch may
 * have their pages. */
typedef struct {
    const uint32_t *pages; /* [(pos + n) / KERN_PAGE, rounded up], each below n_pages */
    const int32_t *ids;    /* [n], each below n_vocab */
    uint32_t n;
    uint32_t pos;      /* pos + n <= n_ctx */
    uint32_t n_logits; /* logits are wanted after so many tokens, the last of the n */
} kern_seq;

#define KERN_TOPK_MAX 64

/* Vectors to be compared with one, where the device reads them: in the system's memory, or
 * copied to its own, for a search costs less than the way there. */
typedef struct kern_rows kern_rows;

typedef struct {
    uint32_t row;
    float score; /* dot product with the query; never NaN */
} kern_hit;

typedef struct {
    const int32_t *ids; /* [n], each below n_vocab */
    uint32_t n;         /* 1 to n_ctx */
} kern_text;

/* One vector for a text: the mean of its tokens', or the first's or the last's. */
typedef enum { KERN_POOL_MEAN, KERN_POOL_FIRST, KERN_POOL_LAST } kern_pooling;

/* Of the memory of a device of its own, as much is taken at most, everybody's part included:
 * the rest is left to the driver, and to what comes and goes. */
#define KERN_MEMORY_SHARE 0.8

/*
 * How long a call into a device may take, before whoever waits takes it for one that never
 * returns: a GPU that fell off its bus, a driver that waits for itself. A step is done within
 * a second or two at most; the first also compiles kernels for a GPU that is newer than the
 * library, and a GPU may be shared with other programs, that make it wait.
 */
#define KERN_LIMIT_MS 60000

/* What a back end has at one of its places. */
typedef struct {
    uint32_t score;  /* 0: nothing, or nothing that works here; else the highest is the best */
    uint64_t memory; /* bytes that models may still take of it; UINT64_MAX: the system's */
    char title[64];  /* "NVIDIA H200" */
} kern_info;

/*
 * Calls that return a pointer return NULL, and step returns false, when they fail; last_error
 * then says why in one line (of the device, valid until its next call; of open with NULL).
 * After a step that failed the model can do no more than be freed.
 */
typedef struct {
    uint32_t abi;     /* AIQ_KERNELS_ABI */
    const char *name; /* "cpu" */

    /* How long its calls may take, page_bytes and last_error aside, which only look; a load
     * longer, for what it reads. 0: there is no end to it, for they are computed here. */
    uint32_t limit_ms;

    /* Tokens of prompts, or texts, that one call should have where there are so many: fewer
     * leave a part of the machine idle, more are no faster and others wait for them. */
    uint32_t batch_tokens;

    /* Looks at device index, which count from 0 without gaps. One that was lost has score 0.
     * Any thread. */
    void (*probe)(uint32_t index, kern_info *out);

    /* n_threads: threads that compute, at least 1, the caller's included. */
    kern_device *(*open)(uint32_t index, uint32_t n_threads);
    void (*close)(kern_device *dev);

    /* What a page of such a model takes of the device's memory. The CPU's is asked before a
     * device is chosen, too, with NULL. */
    uint64_t (*page_bytes)(const kern_device *dev, const kern_config *config);

    /* config and weights are copied, the data they point to is borrowed until model_free. At
     * most max_batch tokens, of max_seqs sequences or texts, go into one call. For encode alone
     * n_pages may be 0. The system's memory is taken by pages as they are first written. */
    kern_model *(*model_load)(kern_device *dev, const kern_config *config,
                              const kern_weights *weights, uint32_t max_batch,
                              uint32_t max_seqs, uint32_t n_pages);
    void (*model_free)(kern_model *model);

    /* Memory of n numbers that step and encode write to without a detour, for out_free; any
     * other does, too. */
    float *(*out_alloc)(kern_device *dev, uint64_t n);
    void (*out_free)(kern_device *dev, float *out);

    /* Runs all sequences' tokens through the model. logits is [sum of n_logits][n_vocab], in
     * the order of the sequences and of their tokens. A token's result does not depend on who
     * else is in the batch nor on how its prompt was cut: to the last bit with F32 weights, and
     * on the CPU with F16. Others may be multiplied in one way where a step has few tokens and
     * in others where it has more, because none is fast at all by a factor of three; each
     * rounds activations, so results differ by some tenths of a percent in a product between,
     * never within, the ways.
     */
    bool (*step)(kern_model *model, const kern_seq *seqs, uint32_t n_seqs, float *logits);

    /* rows is [n][cols], f16, cols at least 1, and borrowed until rows_free: whoever changes
     * or adds some loads them again, which costs nothing where limit_ms is 0. rows_free of NULL
     * does nothing. A back end may have none of these and of topk (NULL); the portable one has
     * them. */
    kern_rows *(*rows_load)(kern_device *dev, const uint16_t *rows, uint32_t n, uint32_t cols);
    void (*rows_free)(kern_rows *rows);

    /* The k rows, 1 to KERN_TOPK_MAX, that are nearest to the query, [cols], exactly: the best
     * first, of equals the lower row. hits is [k]; *n_hits is less than k only where there are
     * fewer rows, those whose product is NaN left out. False: as with step. */
    bool (*topk)(kern_rows *rows, const float *query, uint32_t k, kern_hit *hits,
                 uint32_t *n_hits);

    /* Runs whole texts through a model of either kind and
     * keeps nothing. out is [n_texts][d_model]: of each text's last hidden states, normed, what
     * pooling makes of them. As with step company changes nothing but the way of multiplying;
     * F16 weights may be rounded, too. A back end may have none (NULL); the portable one has
     * it. */
    bool (*encode)(kern_model *model, const kern_text *texts, uint32_t n_texts,
                   kern_pooling pooling, float *out);

    const char *(*last_error)(const kern_device *dev);
} aiq_kernels;

/* The portable back end: always there. */
extern const aiq_kernels aiq_kernels_cpu;

/* Any other is a library, libaiq_NAME.so, with one function of this name and type. */
#define AIQ_KERNELS_INIT "aiq_kernels_init"
typedef const aiq_kernels *aiq_kernels_init_fn(void);

#endif
