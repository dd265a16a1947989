#include "infer/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/model_reader.h"
#include "infer/model_rope.h"

/* What differs from Llama. */
typedef struct {
    const char *name;
    bool rope_halves;
    bool qkv_bias;
    bool qk_norm;
    bool fused;              /* queries, keys and values are one matrix, gate and up another */
    bool gemma;              /* scaled embeddings, GEGLU */
    bool post_norm;          /* norms after attention and feed-forward, too */
    uint32_t window;         /* of a layer that has one, where the file does not say */
    uint32_t window_pattern; /* every so many-th layer has none; 0: all have it */
    float base_near;         /* of rotary positions in layers with a window; 0: as in others */
    float attn_cap, logit_cap;
    uint32_t layers_27b; /* the model with so many layers scales attention by its width */
} architecture;

static const architecture architectures[] = {
    {.name = "llama"}, /* Mistral's, too */
    {.name = "qwen2", .rope_halves = true, .qkv_bias = true},
    {.name = "qwen3", .rope_halves = true, .qk_norm = true},
    {.name = "phi3", .rope_halves = true, .fused = true},
    {.name = "gemma", .rope_halves = true, .gemma = true},
    {.name = "gemma2",
     .rope_halves = true,
     .gemma = true,
     .post_norm = true,
     .window = 4096,
     .window_pattern = 2,
     .attn_cap = 50,
     .logit_cap = 30,
     .layers_27b = 46},
    {.name = "gemma3",
     .rope_halves = true,
     .qk_norm = true,
     .gemma = true,
     .post_norm = true,
     .window_pattern = 6,
     .base_near = 10000,
     .layers_27b = 62},
};

/* A file being read. */
typedef struct {
    model_reader in;
    infer_model *m;
    const architecture *arch;
} reader;

static const architecture *architecture_of(const gguf *g)
{
    gguf_str name = model_architecture(g);

    for (size_t i = 0; i < sizeof(architectures) / sizeof(*architectures); i++) {
        if (model_str_is(name, architectures[i].name)) {
            return &architectures[i];
        }
    }
    return NULL;
}

bool infer_model_is(const gguf *g, char *err, size_t errlen)
{
    bool known = architecture_of(g) != NULL;
    char shown[GGUF_SHOWN];

    if (!known) {
        snprintf(err, errlen,
                 "the architecture \"%s\" is not supported (llama, qwen2, qwen3, phi3, "
                 "gemma, gemma2 and gemma3 are)",
                 gguf_show(model_architecture(g), shown));
    }
    return known;
}

/* Whether it is this number, or stands for it. */
static bool is_number(const gguf_kv *kv, double want)
{
    uint64_t n;
    double v;
    bool b;

    if (gguf_as_float(kv, &v)) {
        return v == want;
    }
    if (gguf_as_bool(kv, &b)) {
        return b == (want != 0);
    }
    return gguf_as_uint(kv, &n) && (double)n == want;
}

/* What the format knows, and none of the architectures here has: a file that says it all the
 * same is of a model that would be computed wrongly, unless it says nothing by it. */
static void check_kind(reader *r)
{
    static const struct {
        const char *key;
        double nothing;
    } others[] = {
        {"attention.causal", 1},
        {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0},
        {"attention.scale", 0},
        {"attention.temperature_scale", 0},
        {"embedding_scale", 1},
        {"logit_scale", 1},
        {"residual_scale", 1},
        {"rope.scaling.alpha", 0},
        {"rope.scaling.yarn_attn_factor", 1},
        {"rope.scaling.yarn_ext_factor", 1},
    };
    const gguf_kv *kv = model_find(&r->in, "expert_count");

    if (kv != NULL && !is_number(kv, 0)) {
        model_fail(&r->in, "mixtures of experts are not supported");
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        kv = model_find(&r->in, others[i].key);
        if (kv != NULL && !is_number(kv, others[i].nothing)) {
            model_fail(&r->in, "%s.%s is not supported, but for %g", r->arch->name,
                       others[i].key, others[i].nothing);
        }
    }
}

static void read_config(reader *r, uint32_t n_vocab)
{
    kern_config *c = &r->m->config;

    c->n_vocab = n_vocab;
    c->n_layers = model_number(&r->in, "block_count", 0, MODEL_MAX_LAYERS);
    c->n_ctx = model_number(&r->in, "context_length", 0, MODEL_MAX_CTX);
    c->rope_halves = r->arch->rope_halves;
    c->d_model = model_number(&r->in, "embedding_length", 0, MODEL_MAX_WIDTH);
    c->d_ff = model_number(&r->in, "feed_forward_length", 0, MODEL_MAX_WIDTH);
    c->n_heads = model_number(&r->in, "attention.head_count", 0, MODEL_MAX_HEADS);
    c->n_kv_heads =
        model_number(&r->in, "attention.head_count_kv", c->n_heads, MODEL_MAX_HEADS);
    c->norm_eps = model_real(&r->in, "attention.layer_norm_rms_epsilon", 0, 1);
    c->rope_base = model_real(&r->in, "rope.freq_base", 10000, 1e12);
    if (r->in.failed) {
        return;
    }
    if (c->n_heads % c->n_kv_heads != 0) {
        model_fail(&r->in, "%u heads cannot share %u pairs of keys and values", c->n_heads,
                   c->n_kv_heads);
        return;
    }
    if (model_find(&r->in, "attention.key_length") == NULL && c->d_model % c->n_heads != 0) {
        model_fail(&r->in, "the width %u is no multiple of %u heads", c->d_model, c->n_heads);
        return;
    }
    if (c->d_model < c->n_heads) {
        model_fail(&r->in, "%u heads are more than the width %u", c->n_heads, c->d_model);
        return;
    }
    c->head_dim =
        model_number(&r->in, "attention.key_length", c->d_model / c->n_heads, MODEL_MAX_WIDTH);
    if (model_number(&r->in, "attention.value_length", c->head_dim, MODEL_MAX_WIDTH) !=
        c->head_dim) {
        model_fail(&r->in, "keys and values of different lengths are not supported");
    }
    if ((uint64_t)c->head_dim * c->n_heads > MODEL_MAX_WIDTH) {
        model_fail(&r->in, "%u heads of %u values are too many", c->n_heads, c->head_dim);
    }
    c->rope_dim = model_number(&r->in, "rope.dimension_count", c->head_dim, c->head_dim);
    if (c->rope_dim % 2 != 0) {
        model_fail(&r->in, "%s.rope.dimension_count is odd", r->arch->name);
    }
}

/* One that only the file knows of is a cap, too: Gemma 3's may have them. */
static float cap_of(reader *r, const char *key, float def)
{
    bool has = def > 0 || model_find(&r->in, key) != NULL;

    return has ? model_real(&r->in, key, def, 1e6) : 0;
}

/* What Gemma has, and the caps and windows of others. */
static void read_scales(reader *r)
{
    kern_config *c = &r->m->config;
    const architecture *arch = r->arch;

    c->gelu = arch->gemma;
    c->embed_scale = arch->gemma ? sqrtf((float)c->d_model) : 0;
    if (arch->layers_27b > 0 && c->n_layers == arch->layers_27b) {
        c->attn_scale = 1 / sqrtf((float)c->d_model / (float)c->n_heads);
    }
    c->attn_cap = cap_of(r, "attn_logit_softcapping", arch->attn_cap);
    c->logit_cap = cap_of(r, "final_logit_softcapping", arch->logit_cap);
    if (arch->base_near > 0) {
        c->rope_base_near = model_real(&r->in, "rope.freq_base_swa", arch->base_near, 1e12);
    }
}

/* A window that nothing in the context exceeds is none. */
static uint32_t window_of(reader *r, uint32_t layer)
{
    const kern_config *c = &r->m->config;
    const gguf_kv *kv = model_find(&r->in, "attention.sliding_window");
    uint32_t pattern = r->arch->window_pattern, window = r->arch->window;
    uint64_t said = 1;

    if ((kv == NULL && window == 0) || (kv != NULL && gguf_as_uint(kv, &said) && said == 0)) {
        return 0;
    }
    window = model_number(&r->in, "attention.sliding_window", window, MODEL_MAX_CTX);
    if (pattern > 0 || model_find(&r->in, "attention.sliding_window_pattern") != NULL) {
        pattern =
            model_number(&r->in, "attention.sliding_window_pattern", pattern, MODEL_MAX_LAYERS);
        if (layer % pattern == pattern - 1) {
            return 0;
        }
        /* with positions of their own they are windows, however long */
        return c->rope_base_near > 0 || window < c->n_ctx ? window : 0;
    }
    return window < c->n_ctx ? window : 0;
}

static void read_attention(reader *r, uint32_t i, kern_layer *l)
{
    const kern_config *c = &r->m->config;
    uint32_t q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    char name[64];

    l->attn_norm = model_vector(&r->in, model_block(name, i, "attn_norm.weight"), c->d_model);
    l->wo = model_matrix(&r->in, model_block(name, i, "attn_output.weight"), c->d_model, q_dim);
    if (r->arch->fused) {
        const gguf_tensor *t = model_tensor(&r->in, model_block(name, i, "attn_qkv.weight"),
                                            (uint64_t)q_dim + 2 * kv_dim, c->d_model);

        l->wq = model_rows(t, 0, q_dim);
        l->wk = model_rows(t, q_dim, kv_dim);
        l->wv = model_rows(t, q_dim + kv_dim, kv_dim);
    } else {
        l->wq = model_matrix(&r->in, model_block(name, i, "attn_q.weight"), q_dim, c->d_model);
        l->wk = model_matrix(&r->in, model_block(name, i, "attn_k.weight"), kv_dim, c->d_model);
        l->wv = model_matrix(&r->in, model_block(name, i, "attn_v.weight"), kv_dim, c->d_model);
    }
    if (r->arch->qkv_bias) {
        l->bq = model_vector(&r->in, model_block(name, i, "attn_q.bias"), q_dim);
        l->bk = model_vector(&r->in, model_block(name, i, "attn_k.bias"), kv_dim);
        l->bv = model_vector(&r->in, model_block(name, i, "attn_v.bias"), kv_dim);
    }
    if (r->arch->qk_norm) {
        l->q_norm =
            model_vector(&r->in, model_block(name, i, "attn_q_norm.weight"), c->head_dim);
        l->k_norm =
            model_vector(&r->in, model_block(name, i, "attn_k_norm.weight"), c->head_dim);
    }
    if (r->arch->post_norm) {
        l->attn_post = model_vector(&r->in, model_block(name, i, "post_attention_norm.weight"),
                                    c->d_model);
    }
    l->window = window_of(r, i);
}

static void read_ffn(reader *r, uint32_t i, kern_layer *l)
{
    const kern_config *c = &r->m->config;
    char name[64];

    l->ffn_norm = model_vector(&r->in, model_block(name, i, "ffn_norm.weight"), c->d_model);
    if (r->arch->fused) {
        const gguf_tensor *t = model_tensor(&r->in, model_block(name, i, "ffn_up.weight"),
                                            2 * (uint64_t)c->d_ff, c->d_model);

        l->w_gate = model_rows(t, 0, c->d_ff);
        l->w_up = model_rows(t, c->d_ff, c->d_ff);
    } else {
        l->w_gate =
            model_matrix(&r->in, model_block(name, i, "ffn_gate.weight"), c->d_ff, c->d_model);
        l->w_up =
            model_matrix(&r->in, model_block(name, i, "ffn_up.weight"), c->d_ff, c->d_model);
    }
    l->w_down =
        model_matrix(&r->in, model_block(name, i, "ffn_down.weight"), c->d_model, c->d_ff);
    if (r->arch->post_norm) {
        l->ffn_post =
            model_vector(&r->in, model_block(name, i, "post_ffw_norm.weight"), c->d_model);
    }
}

static void read_weights(reader *r)
{
    infer_model *m = r->m;
    const kern_config *c = &m->config;
    kern_weights *w = &m->weights;

    m->layers = calloc(c->n_layers, sizeof(*m->layers));
    if (m->layers == NULL) {
        model_fail(&r->in, "out of memory");
        return;
    }
    w->layers = m->layers;
    w->embed = model_matrix(&r->in, "token_embd.weight", c->n_vocab, c->d_model);
    w->out_norm = model_vector(&r->in, "output_norm.weight", c->d_model);
    w->out = w->embed;
    if (gguf_find_tensor(r->in.g, "output.weight") != NULL) {
        w->out = model_matrix(&r->in, "output.weight", c->n_vocab, c->d_model);
    }
    m->rope_factors = calloc(c->rope_dim / 2, sizeof(*m->rope_factors));
    if (m->rope_factors == NULL) {
        model_fail(&r->in, "out of memory");
        return;
    }
    model_rope(&r->in, &m->config, m->rope_factors);
    w->rope_factors = m->rope_factors;
    for (uint32_t i = 0; i < c->n_layers && !r->in.failed; i++) {
        read_attention(r, i, &m->layers[i]);
        read_ffn(r, i, &m->layers[i]);
    }
}

bool infer_model_read(infer_model *m, const gguf *g, uint32_t n_vocab, char *err, size_t errlen)
{
    reader r = {.in = {.g = g, .arch = "", .err = err, .errlen = errlen}, .m = m};

    memset(m, 0, sizeof(*m));
    if (!infer_model_is(g, err, errlen)) {
        return false;
    }
    r.arch = architecture_of(g);
    m->architecture = r.in.arch = r.arch->name;
    check_kind(&r);
    if (!r.in.failed) {
        read_config(&r, n_vocab);
    }
    if (!r.in.failed) {
        read_scales(&r);
        model_tensors_begin(&r.in);
        read_weights(&r);
        model_tensors_end(&r.in);
    }
    m->n_params = r.in.n_params;
    if (r.in.failed) {
        infer_model_free(m);
    }
    return !r.in.failed;
}

void infer_model_fit(infer_model *m, const gguf *g, uint32_t n_ctx)
{
    char err[1]; /* what infer_model_read has accepted */
    model_reader r = {.g = g, .arch = m->architecture, .err = err, .errlen = sizeof(err)};

    m->config.n_ctx = n_ctx;
    model_rope(&r, &m->config, m->rope_factors);
}

bool infer_model_copy(infer_model *to, const infer_model *from)
{
    size_t layers = from->config.n_layers * sizeof(*to->layers);
    size_t factors = from->config.rope_dim / 2 * sizeof(*to->rope_factors);
    bool turned = from->rope_factors != NULL;

    *to = *from;
    to->layers = malloc(layers);
    to->rope_factors = turned ? malloc(factors) : NULL;
    to->weights.layers = to->layers;
    to->weights.rope_factors = to->rope_factors;
    if (to->layers == NULL || (turned && to->rope_factors == NULL)) {
        return false;
    }
    memcpy(to->layers, from->layers, layers);
    if (turned) {
        memcpy(to->rope_factors, from->rope_factors, factors);
    }
    return true;
}

void infer_model_free(infer_model *m)
{
    free(m->layers);
    free(m->rope_factors);
    m->layers = NULL;
    m->rope_factors = NULL;
}
