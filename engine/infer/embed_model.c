#include "infer/embed_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/model_reader.h"

/* As files name them. */
enum { POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST };

static bool is_encoder(const gguf *g)
{
    gguf_str name = model_architecture(g);

    return model_str_is(name, "bert") || model_str_is(name, "nomic-bert");
}

/* With what its keys begin with. */
static model_reader reader_of(const gguf *g, char arch[64], char *err, size_t errlen)
{
    gguf_str name = model_architecture(g);
    size_t n = name.len < 63 ? name.len : 0;

    memcpy(arch, name.p, n);
    arch[n] = '\0';
    return (model_reader){.g = g, .arch = arch, .err = err, .errlen = errlen};
}

bool embed_model_is(const gguf *g)
{
    char arch[64], err[1];
    model_reader r = reader_of(g, arch, err, sizeof(err));
    const gguf_kv *kv = model_find(&r, "pooling_type");
    uint64_t pooling = POOLING_NONE;

    if (kv != NULL) {
        gguf_as_uint(kv, &pooling);
    }
    return is_encoder(g) || pooling != POOLING_NONE;
}

static void read_pooling(model_reader *r, kern_pooling *out)
{
    const gguf_kv *kv = model_find(r, "pooling_type");
    uint64_t pooling = POOLING_NONE;

    if (kv != NULL) {
        gguf_as_uint(kv, &pooling);
    }
    switch (pooling) {
    case POOLING_MEAN:
        *out = KERN_POOL_MEAN;
        break;
    case POOLING_CLS:
        *out = KERN_POOL_FIRST;
        break;
    case POOLING_LAST:
        *out = KERN_POOL_LAST;
        break;
    default: {
        char shown[GGUF_SHOWN];

        model_fail(r, "%s.pooling_type is none of mean, CLS and last",
                   gguf_show(model_architecture(r->g), shown));
    }
    }
}

/* --- BERT's family --- */

static void read_config(model_reader *r, kern_config *c, uint32_t n_vocab)
{
    const gguf_kv *causal = model_find(r, "attention.causal");
    bool learned = strcmp(r->arch, "bert") == 0, looks_back = false;

    c->encoder = true;
    c->n_vocab = n_vocab;
    c->n_layers = model_number(r, "block_count", 0, MODEL_MAX_LAYERS);
    c->n_ctx = model_number(r, "context_length", 0, MODEL_MAX_CTX);
    c->d_model = model_number(r, "embedding_length", 0, MODEL_MAX_WIDTH);
    c->d_ff = model_number(r, "feed_forward_length", 0, MODEL_MAX_WIDTH);
    c->n_heads = c->n_kv_heads = model_number(r, "attention.head_count", 0, MODEL_MAX_HEADS);
    c->norm_eps = model_real(r, "attention.layer_norm_epsilon", 0, 1);
    c->rope_base = model_real(r, "rope.freq_base", 10000, 1e12);
    if (r->failed) {
        return;
    }
    if (c->d_model % c->n_heads != 0 || c->d_model / c->n_heads % 2 != 0) {
        model_fail(r, "the width %u cannot be shared by %u heads", c->d_model, c->n_heads);
        return;
    }
    c->head_dim = c->d_model / c->n_heads;
    c->rope_dim = learned ? 0 : c->head_dim;
    c->rope_halves = true;
    if (causal != NULL && (!gguf_as_bool(causal, &looks_back) || looks_back)) {
        model_fail(r, "an encoder that only looks back is not supported");
    }
    if (model_find(r, "rope.scaling.type") != NULL || model_find(r, "expert_count") != NULL) {
        model_fail(r, "scaled rotary positions and mixtures of experts are not supported");
    }
}

static const float *vector_if_any(model_reader *r, const char *name, uint32_t n)
{
    return gguf_find_tensor(r->g, name) != NULL ? model_vector(r, name, n) : NULL;
}

static void read_attention(model_reader *r, const kern_config *c, uint32_t i, kern_layer *l)
{
    uint32_t d = c->d_model;
    char name[64];

    if (gguf_find_tensor(r->g, model_block(name, i, "attn_qkv.weight")) != NULL) {
        const gguf_tensor *t = model_tensor(r, name, 3 * (uint64_t)d, d);
        const float *b = vector_if_any(r, model_block(name, i, "attn_qkv.bias"), 3 * d);

        l->wq = model_rows(t, 0, d);
        l->wk = model_rows(t, d, d);
        l->wv = model_rows(t, 2 * d, d);
        l->bq = b;
        l->bk = b != NULL ? b + d : NULL;
        l->bv = b != NULL ? b + 2 * (size_t)d : NULL;
    } else {
        l->wq = model_matrix(r, model_block(name, i, "attn_q.weight"), d, d);
        l->wk = model_matrix(r, model_block(name, i, "attn_k.weight"), d, d);
        l->wv = model_matrix(r, model_block(name, i, "attn_v.weight"), d, d);
        l->bq = vector_if_any(r, model_block(name, i, "attn_q.bias"), d);
        l->bk = vector_if_any(r, model_block(name, i, "attn_k.bias"), d);
        l->bv = vector_if_any(r, model_block(name, i, "attn_v.bias"), d);
    }
    l->wo = model_matrix(r, model_block(name, i, "attn_output.weight"), d, d);
    l->bo = vector_if_any(r, model_block(name, i, "attn_output.bias"), d);
    l->attn_norm = model_vector(r, model_block(name, i, "attn_output_norm.weight"), d);
    l->attn_norm_b = model_vector(r, model_block(name, i, "attn_output_norm.bias"), d);
}

static void read_ffn(model_reader *r, const kern_config *c, uint32_t i, kern_layer *l)
{
    char name[64];

    if (gguf_find_tensor(r->g, model_block(name, i, "ffn_gate.weight")) != NULL) {
        l->w_gate = model_matrix(r, name, c->d_ff, c->d_model);
    }
    l->w_up = model_matrix(r, model_block(name, i, "ffn_up.weight"), c->d_ff, c->d_model);
    l->b_up = vector_if_any(r, model_block(name, i, "ffn_up.bias"), c->d_ff);
    l->w_down = model_matrix(r, model_block(name, i, "ffn_down.weight"), c->d_model, c->d_ff);
    l->b_down = vector_if_any(r, model_block(name, i, "ffn_down.bias"), c->d_model);
    l->ffn_norm = model_vector(r, model_block(name, i, "layer_output_norm.weight"), c->d_model);
    l->ffn_norm_b = model_vector(r, model_block(name, i, "layer_output_norm.bias"), c->d_model);
}

static void read_weights(model_reader *r, infer_model *m)
{
    const kern_config *c = &m->config;
    const gguf_tensor *segments = gguf_find_tensor(r->g, "token_types.weight");
    kern_weights *w = &m->weights;

    m->layers = calloc(c->n_layers, sizeof(*m->layers));
    if (m->layers == NULL) {
        model_fail(r, "out of memory");
        return;
    }
    w->layers = m->layers;
    w->embed = model_matrix(r, "token_embd.weight", c->n_vocab, c->d_model);
    w->embed_norm = model_vector(r, "token_embd_norm.weight", c->d_model);
    w->embed_norm_b = model_vector(r, "token_embd_norm.bias", c->d_model);
    if (c->rope_dim == 0) {
        w->positions = model_matrix(r, "position_embd.weight", c->n_ctx, c->d_model);
    }
    if (segments != NULL) {
        w->segments =
            model_rows(model_tensor(r, "token_types.weight", segments->rows, c->d_model), 0, 1);
    }
    for (uint32_t i = 0; i < c->n_layers && !r->failed; i++) {
        read_attention(r, c, i, &m->layers[i]);
        read_ffn(r, c, i, &m->layers[i]);
    }
}

/* What encode knows of decoders: Gemma's scales, caps and windows are none of it. */
static bool is_plain(const infer_model *m)
{
    const kern_config *c = &m->config;
    bool plain = c->embed_scale == 0 && c->attn_scale == 0 && c->attn_cap == 0 && !c->gelu &&
                 c->rope_scale == 0 && c->rope_base_near == 0;

    for (uint32_t i = 0; i < c->n_layers; i++) {
        const kern_layer *l = &m->layers[i];

        plain = plain && l->attn_post == NULL && l->ffn_post == NULL &&
                (l->window == 0 || l->window >= c->n_ctx);
    }
    return plain;
}

static bool read_decoder(infer_model *m, const gguf *g, uint32_t n_vocab, char *err,
                         size_t errlen)
{
    if (!infer_model_read(m, g, n_vocab, err, errlen)) {
        return false;
    }
    if (!is_plain(m)) {
        snprintf(err, errlen,
                 "vectors of texts from a model of this architecture (%s) are "
                 "not supported",
                 m->architecture);
        infer_model_free(m);
        return false;
    }
    return true;
}

bool embed_model_read(embed_model *m, const gguf *g, uint32_t n_vocab, char *err, size_t errlen)
{
    char arch[64];
    model_reader r = reader_of(g, arch, err, errlen);
    infer_model *model = &m->model;

    memset(m, 0, sizeof(*m));
    read_pooling(&r, &m->pooling);
    if (r.failed) {
        return false;
    }
    if (!is_encoder(g)) {
        return read_decoder(model, g, n_vocab, err, errlen);
    }
    model->architecture = strcmp(arch, "bert") == 0 ? "bert" : "nomic-bert";
    read_config(&r, &model->config, n_vocab);
    if (!r.failed) {
        model_tensors_begin(&r);
        read_weights(&r, model);
        model_tensors_end(&r);
    }
    model->n_params = r.n_params;
    if (r.failed) {
        infer_model_free(model);
    }
    return !r.failed;
}

void embed_model_free(embed_model *m)
{
    infer_model_free(&m->model);
}
