/*
 * The layers: a decoder's, with norms before its parts, and an encoder's, with norms behind
 * them, of the sum with what went in.
 */
#include "kernels/cuda/cuda.h"

/* So many tokens are worth unpacking weights for the tensor cores; fewer read them once for
 * each eight. BF16 need not be unpacked. */
#define UNPACK_FROM 25
#define BF16_FROM   9

bool layers_by_library(const kern_tensor *w, uint32_t n)
{
    return w->type != KERN_F32 && n >= (w->type == KERN_BF16 ? BF16_FROM : UNPACK_FROM);
}

bool layers_multiply(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
                     bool add)
{
    for (uint32_t i = 0, run; i < n_p; i += run) {
        run = 1;
        while (i + run < n_p && p[i + run].w->type == p[i].w->type) {
            run++;
        }
        if (!layers_by_library(p[i].w, n)) {
            gemv_run(m, x, n, p + i, run, add ? PRODUCT_ADD : PRODUCT_STORE);
        } else if (!gemm_run(m, x, n, p + i, run, add)) {
            return false;
        }
    }
    return true;
}

/* What a block made of the stream goes back to it, by way of a norm where there is one. */
static bool add_to_stream(kern_model *m, const float *x, const kern_tensor *w,
                          const float *norm, uint32_t n)
{
    const product p = {w, norm != NULL ? m->xb : m->x};

    if (!layers_multiply(m, x, n, &p, 1, norm == NULL)) {
        return false;
    }
    if (norm != NULL) {
        ops_norm_add(m, norm, n);
    }
    return true;
}

/* What goes down, to gate. */
static bool widen(kern_model *m, const float *x, const kern_layer *w, uint32_t n)
{
    const product p[] = {{&w->w_gate, m->gate}, {&w->w_up, m->up}};
    bool gated = w->w_gate.data != NULL;

    if (gated && w->b_up == NULL && w->w_gate.type == w->w_up.type &&
        !layers_by_library(&w->w_gate, n)) {
        gemv_run(m, x, n, p, 2, PRODUCT_GATED);
        return true;
    }
    if (!layers_multiply(m, x, n, gated ? p : p + 1, gated ? 2 : 1, false)) {
        return false;
    }
    ops_activate(m, w, n);
    return true;
}

/* What the rows see of each other, to att. */
static bool attend(kern_model *m, const float *x, uint32_t layer, kv_layer kv, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const product qkv[] = {{&w->wq, m->q}, {&w->wk, m->k}, {&w->wv, m->v}};

    if (!layers_multiply(m, x, n, qkv, 3, false)) {
        return false;
    }
    ops_prepare(m, layer, kv, n);
    attention_run(m, layer, kv);
    return true;
}

static bool decoder_layer(kern_model *m, uint32_t layer, kv_layer kv, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];

    ops_norm(m, m->xb, m->x, w->attn_norm, n);
    if (!attend(m, m->xb, layer, kv, n) || !add_to_stream(m, m->att, &w->wo, w->attn_post, n)) {
        return false;
    }
    ops_norm(m, m->xb, m->x, w->ffn_norm, n);
    return widen(m, m->xb, w, n) && add_to_stream(m, m->gate, &w->w_down, w->ffn_post, n);
}

static bool encoder_layer(kern_model *m, uint32_t layer, kv_layer kv, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const product out = {&w->wo, m->xb}, down = {&w->w_down, m->xb};

    if (!attend(m, m->x, layer, kv, n) || !layers_multiply(m, m->att, n, &out, 1, false)) {
        return false;
    }
    ops_add_norm(m, m->xb, w->bo, w->attn_norm, w->attn_norm_b, n);
    if (!widen(m, m->x, w, n) || !layers_multiply(m, m->gate, n, &down, 1, false)) {
        return false;
    }
    ops_add_norm(m, m->xb, w->b_down, w->ffn_norm, w->ffn_norm_b, n);
    return true;
}

bool layers_run(kern_model *m, uint32_t n, bool texts)
{
    const kern_config *c = &m->config;
    kv_layer kv = {m->kv, m->shape, 0};

    if (texts) { /* what a layer has kept is of no use to the next */
        kv = {m->text_kv, {1, c->n_kv_heads, c->head_dim}, 0};
    }
    ops_embed(m, n);
    ops_angles(m, n);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        kv.layer = texts ? 0 : i;
        if (!(c->encoder ? encoder_layer : decoder_layer)(m, i, kv, n)) {
            return false;
        }
    }
    return true;
}
