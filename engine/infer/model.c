#include "infer/model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Beyond these a file is broken, or not for this program; they keep products in 64 bits. */
#define MAX_LAYERS 1024
#define MAX_WIDTH  (1 << 20)
#define MAX_HEADS  4096
#define MAX_CTX    (1 << 20)

/* What differs from Llama. */
typedef struct {
    const char *name;
    bool rope_halves;
    bool qkv_bias;
    bool qk_norm;
    bool fused; /* queries, keys and values are one matrix, gate and up another */
} architecture;

static const architecture architectures[] = {
    {.name = "llama"}, /* Mistral's, too */
    {.name = "qwen2", .rope_halves = true, .qkv_bias = true},
    {.name = "qwen3", .rope_halves = true, .qk_norm = true},
    {.name = "phi3", .rope_halves = true, .fused = true},
};

/* A file being read; the first error stays. */
typedef struct {
    const gguf *g;
    infer_model *m;
    const architecture *arch;
    size_t n_used; /* tensors */
    bool failed;
    char *err;
    size_t errlen;
} reader;

__attribute__((format(printf, 2, 3))) static void fail(reader *r, const char *format, ...)
{
    va_list args;

    if (r->failed) {
        return;
    }
    r->failed = true;
    va_start(args, format);
    vsnprintf(r->err, r->errlen, format, args);
    va_end(args);
}

/* The architecture's key, from 1 to max; absent is def, or an error where def is 0. */
static uint32_t number(reader *r, const char *key, uint32_t def, uint32_t max)
{
    char name[64];
    const gguf_kv *kv;
    uint64_t v = def;

    snprintf(name, sizeof(name), "%s.%s", r->arch->name, key);
    kv = gguf_find(r->g, name);
    if (kv == NULL && def == 0) {
        fail(r, "%s is missing", name);
        return 1;
    }
    if (kv != NULL && (!gguf_as_uint(kv, &v) || v < 1 || v > max)) {
        fail(r, "%s is not a number from 1 to %u", name, max);
        return 1;
    }
    return (uint32_t)v;
}

/* Likewise; a value must lie between 0 and max, exclusive. */
static float real(reader *r, const char *key, float def, double max)
{
    char name[64];
    const gguf_kv *kv;
    double v = def;

    snprintf(name, sizeof(name), "%s.%s", r->arch->name, key);
    kv = gguf_find(r->g, name);
    if (kv == NULL && def == 0) {
        fail(r, "%s is missing", name);
    }
    if (kv != NULL && (!gguf_as_float(kv, &v) || !(v > 0 && v < max))) {
        fail(r, "%s is not a number between 0 and %g", name, max);
    }
    return (float)v;
}

static bool str_is(gguf_str s, const char *want)
{
    return s.len == strlen(want) && memcmp(s.p, want, s.len) == 0;
}

static const gguf_kv *find(const reader *r, const char *key)
{
    char name[64];

    snprintf(name, sizeof(name), "%s.%s", r->arch->name, key);
    return gguf_find(r->g, name);
}

static void find_architecture(reader *r)
{
    const gguf_kv *kv = gguf_find(r->g, "general.architecture");
    gguf_str name = {.p = "", .len = 0};

    if (kv != NULL) {
        gguf_as_str(kv, &name);
    }
    for (size_t i = 0; i < sizeof(architectures) / sizeof(*architectures); i++) {
        if (str_is(name, architectures[i].name)) {
            r->arch = &architectures[i];
            r->m->architecture = architectures[i].name;
            return;
        }
    }
    fail(r, "the architecture \"%.*s\" is not supported (llama, qwen2, qwen3 and phi3 are)",
         name.len < 32 ? (int)name.len : 32, name.p);
}

static void check_kind(reader *r)
{
    const gguf_kv *scaling = find(r, "rope.scaling.type");
    const gguf_kv *experts = find(r, "expert_count");
    gguf_str name = {.p = "", .len = 0};
    uint64_t n = 0;

    if (scaling != NULL && (!gguf_as_str(scaling, &name) || !str_is(name, "none"))) {
        fail(r, "scaled rotary positions are not supported");
    }
    if (experts != NULL && (!gguf_as_uint(experts, &n) || n > 0)) {
        fail(r, "mixtures of experts are not supported");
    }
}

static void read_config(reader *r, uint32_t n_vocab)
{
    kern_config *c = &r->m->config;
    uint32_t window;

    c->n_vocab = n_vocab;
    c->n_layers = number(r, "block_count", 0, MAX_LAYERS);
    c->n_ctx = number(r, "context_length", 0, MAX_CTX);
    /* within the window attention is what it is without one */
    window = number(r, "attention.sliding_window", c->n_ctx, MAX_CTX);
    c->n_ctx = window < c->n_ctx ? window : c->n_ctx;
    c->rope_halves = r->arch->rope_halves;
    c->d_model = number(r, "embedding_length", 0, MAX_WIDTH);
    c->d_ff = number(r, "feed_forward_length", 0, MAX_WIDTH);
    c->n_heads = number(r, "attention.head_count", 0, MAX_HEADS);
    c->n_kv_heads = number(r, "attention.head_count_kv", c->n_heads, MAX_HEADS);
    c->norm_eps = real(r, "attention.layer_norm_rms_epsilon", 0, 1);
    c->rope_base = real(r, "rope.freq_base", 10000, 1e12);
    if (r->failed) {
        return;
    }
    if (c->n_heads % c->n_kv_heads != 0) {
        fail(r, "%u heads cannot share %u pairs of keys and values", c->n_heads, c->n_kv_heads);
        return;
    }
    if (find(r, "attention.key_length") == NULL && c->d_model % c->n_heads != 0) {
        fail(r, "the width %u is no multiple of %u heads", c->d_model, c->n_heads);
        return;
    }
    if (c->d_model < c->n_heads) {
        fail(r, "%u heads are more than the width %u", c->n_heads, c->d_model);
        return;
    }
    c->head_dim = number(r, "attention.key_length", c->d_model / c->n_heads, MAX_WIDTH);
    if (number(r, "attention.value_length", c->head_dim, MAX_WIDTH) != c->head_dim) {
        fail(r, "keys and values of different lengths are not supported");
    }
    if ((uint64_t)c->head_dim * c->n_heads > MAX_WIDTH) {
        fail(r, "%u heads of %u values are too many", c->n_heads, c->head_dim);
    }
    c->rope_dim = number(r, "rope.dimension_count", c->head_dim, c->head_dim);
    if (c->rope_dim % 2 != 0) {
        fail(r, "%s.rope.dimension_count is odd", r->arch->name);
    }
}

static const gguf_tensor *tensor(reader *r, const char *name, uint64_t rows, uint64_t cols)
{
    const gguf_tensor *t = gguf_find_tensor(r->g, name);

    if (t == NULL) {
        fail(r, "the tensor %s is missing", name);
        return NULL;
    }
    if (t->cols != cols || t->rows != rows) {
        fail(r, "the tensor %s has the wrong shape", name);
        return NULL;
    }
    r->n_used++;
    r->m->n_params += rows * cols;
    return t;
}

static kern_type kern_type_of(uint32_t type)
{
    switch (type) {
    case GGUF_TENSOR_F16:
        return KERN_F16;
    case GGUF_TENSOR_BF16:
        return KERN_BF16;
    case GGUF_TENSOR_Q8_0:
        return KERN_Q8_0;
    case GGUF_TENSOR_Q4_0:
        return KERN_Q4_0;
    case GGUF_TENSOR_Q4_K:
        return KERN_Q4_K;
    case GGUF_TENSOR_Q5_K:
        return KERN_Q5_K;
    case GGUF_TENSOR_Q6_K:
        return KERN_Q6_K;
    default:
        return KERN_F32;
    }
}

/* Some rows of t, which may be missing. */
static kern_tensor rows_of(const gguf_tensor *t, uint32_t first, uint32_t rows)
{
    kern_tensor w = {.rows = rows};

    if (t != NULL) {
        w.cols = (uint32_t)t->cols;
        w.data = t->data + first * (t->bytes / t->rows);
        w.type = kern_type_of(t->type);
    }
    return w;
}

static kern_tensor matrix(reader *r, const char *name, uint32_t rows, uint32_t cols)
{
    return rows_of(tensor(r, name, rows, cols), 0, rows);
}

static const float *vector(reader *r, const char *name, uint32_t n)
{
    const gguf_tensor *t = tensor(r, name, 1, n);

    if (t == NULL) {
        return NULL;
    }
    if (t->type != GGUF_TENSOR_F32) {
        fail(r, "the tensor %s is not F32", name);
        return NULL;
    }
    return (const float *)(const void *)t->data;
}

static const char *block(char name[64], uint32_t layer, const char *what)
{
    snprintf(name, 64, "blk.%u.%s", layer, what);
    return name;
}

static void read_attention(reader *r, uint32_t i, kern_layer *l)
{
    const kern_config *c = &r->m->config;
    uint32_t q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    char name[64];

    l->attn_norm = vector(r, block(name, i, "attn_norm.weight"), c->d_model);
    l->wo = matrix(r, block(name, i, "attn_output.weight"), c->d_model, q_dim);
    if (r->arch->fused) {
        const gguf_tensor *t = tensor(r, block(name, i, "attn_qkv.weight"),
                                      (uint64_t)q_dim + 2 * kv_dim, c->d_model);

        l->wq = rows_of(t, 0, q_dim);
        l->wk = rows_of(t, q_dim, kv_dim);
        l->wv = rows_of(t, q_dim + kv_dim, kv_dim);
    } else {
        l->wq = matrix(r, block(name, i, "attn_q.weight"), q_dim, c->d_model);
        l->wk = matrix(r, block(name, i, "attn_k.weight"), kv_dim, c->d_model);
        l->wv = matrix(r, block(name, i, "attn_v.weight"), kv_dim, c->d_model);
    }
    if (r->arch->qkv_bias) {
        l->bq = vector(r, block(name, i, "attn_q.bias"), q_dim);
        l->bk = vector(r, block(name, i, "attn_k.bias"), kv_dim);
        l->bv = vector(r, block(name, i, "attn_v.bias"), kv_dim);
    }
    if (r->arch->qk_norm) {
        l->q_norm = vector(r, block(name, i, "attn_q_norm.weight"), c->head_dim);
        l->k_norm = vector(r, block(name, i, "attn_k_norm.weight"), c->head_dim);
    }
}

static void read_ffn(reader *r, uint32_t i, kern_layer *l)
{
    const kern_config *c = &r->m->config;
    char name[64];

    l->ffn_norm = vector(r, block(name, i, "ffn_norm.weight"), c->d_model);
    if (r->arch->fused) {
        const gguf_tensor *t =
            tensor(r, block(name, i, "ffn_up.weight"), 2 * (uint64_t)c->d_ff, c->d_model);

        l->w_gate = rows_of(t, 0, c->d_ff);
        l->w_up = rows_of(t, c->d_ff, c->d_ff);
    } else {
        l->w_gate = matrix(r, block(name, i, "ffn_gate.weight"), c->d_ff, c->d_model);
        l->w_up = matrix(r, block(name, i, "ffn_up.weight"), c->d_ff, c->d_model);
    }
    l->w_down = matrix(r, block(name, i, "ffn_down.weight"), c->d_model, c->d_ff);
}

/* Llama 3.1 and later divide the frequencies of rotary positions. */
static const float *rope_factors(reader *r)
{
    const float *f;

    if (gguf_find_tensor(r->g, "rope_freqs.weight") == NULL) {
        return NULL;
    }
    f = vector(r, "rope_freqs.weight", r->m->config.rope_dim / 2);
    for (uint32_t i = 0; f != NULL && i < r->m->config.rope_dim / 2; i++) {
        if (!(f[i] > 0)) {
            fail(r, "rope_freqs.weight has a divisor that is not positive");
        }
    }
    return f;
}

static void read_weights(reader *r)
{
    infer_model *m = r->m;
    const kern_config *c = &m->config;
    kern_weights *w = &m->weights;

    m->layers = calloc(c->n_layers, sizeof(*m->layers));
    if (m->layers == NULL) {
        fail(r, "out of memory");
        return;
    }
    w->layers = m->layers;
    w->embed = matrix(r, "token_embd.weight", c->n_vocab, c->d_model);
    w->out_norm = vector(r, "output_norm.weight", c->d_model);
    w->out = w->embed;
    if (gguf_find_tensor(r->g, "output.weight") != NULL) {
        w->out = matrix(r, "output.weight", c->n_vocab, c->d_model);
    }
    w->rope_factors = rope_factors(r);
    for (uint32_t i = 0; i < c->n_layers && !r->failed; i++) {
        read_attention(r, i, &m->layers[i]);
        read_ffn(r, i, &m->layers[i]);
    }
    if (r->n_used != gguf_n_tensors(r->g)) {
        fail(r, "the file has tensors that are not supported, such as biases");
    }
}

bool infer_model_read(infer_model *m, const gguf *g, uint32_t n_vocab, char *err, size_t errlen)
{
    reader r = {.g = g, .m = m, .err = err, .errlen = errlen};

    memset(m, 0, sizeof(*m));
    find_architecture(&r);
    if (!r.failed) {
        check_kind(&r);
    }
    if (!r.failed) {
        read_config(&r, n_vocab);
    }
    if (!r.failed) {
        read_weights(&r);
    }
    if (r.failed) {
        infer_model_free(m);
    }
    return !r.failed;
}

void infer_model_free(infer_model *m)
{
    free(m->layers);
    m->layers = NULL;
}
