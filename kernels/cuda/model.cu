/*
 * A model on the device: its weights, copied once in one piece, and the memory of its steps, in
 * another. Both are laid out by a function that runs twice: to count, and to place.
 */
#include "kernels/cuda/cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whoever adds to these looks here first: what is not computed must be refused. */
static_assert(sizeof(kern_config) == 80 && sizeof(kern_layer) == 288 &&
              sizeof(kern_weights) == 136);

struct arena {
    uint8_t *base; /* NULL: only counts */
    uint64_t used;
};

static void *take(arena *a, uint64_t bytes)
{
    void *p = a->base != NULL ? a->base + a->used : NULL;

    a->used += (bytes + 255) & ~(uint64_t)255; /* whatever vector is read from it */
    return p;
}

template <typename T> static void place(arena *a, T **p, uint64_t count)
{
    *p = (T *)take(a, count * sizeof(T));
}

/* --- weights --- */

struct loader {
    kern_device *dev;
    arena to;
    bool ok;
};

static const void *put(loader *l, const void *from, uint64_t bytes)
{
    void *to = from != NULL ? take(&l->to, bytes) : NULL;

    if (to != NULL && l->ok) {
        l->ok = device_check(
            l->dev, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, l->dev->stream),
            "copying weights");
    }
    return to;
}

static kern_tensor put_tensor(loader *l, kern_tensor w)
{
    w.data = put(l, w.data, row_bytes(w.type, w.cols) * w.rows);
    return w;
}

static const float *put_floats(loader *l, const float *from, uint64_t n)
{
    return (const float *)put(l, from, n * sizeof(float));
}

static void put_layer(loader *l, const kern_config *c, kern_layer *to, const kern_layer *from)
{
    uint64_t q_dim = (uint64_t)c->n_heads * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->n_kv_heads * c->head_dim;

    *to = *from;
    to->attn_norm = put_floats(l, from->attn_norm, c->d_model);
    to->wq = put_tensor(l, from->wq);
    to->wk = put_tensor(l, from->wk);
    to->wv = put_tensor(l, from->wv);
    to->bq = put_floats(l, from->bq, q_dim);
    to->bk = put_floats(l, from->bk, kv_dim);
    to->bv = put_floats(l, from->bv, kv_dim);
    to->q_norm = put_floats(l, from->q_norm, c->head_dim);
    to->k_norm = put_floats(l, from->k_norm, c->head_dim);
    to->wo = put_tensor(l, from->wo);
    to->ffn_norm = put_floats(l, from->ffn_norm, c->d_model);
    to->w_gate = put_tensor(l, from->w_gate);
    to->w_up = put_tensor(l, from->w_up);
    to->w_down = put_tensor(l, from->w_down);
    to->attn_post = put_floats(l, from->attn_post, c->d_model);
    to->ffn_post = put_floats(l, from->ffn_post, c->d_model);
    to->bo = put_floats(l, from->bo, c->d_model);
    to->b_up = put_floats(l, from->b_up, c->d_ff);
    to->b_down = put_floats(l, from->b_down, c->d_model);
    to->attn_norm_b = put_floats(l, from->attn_norm_b, c->d_model);
    to->ffn_norm_b = put_floats(l, from->ffn_norm_b, c->d_model);
}

/* Copies into m what the host has; with an arena without memory it only counts. */
static void put_weights(loader *l, kern_model *m, const kern_weights *from)
{
    m->weights.embed = put_tensor(l, from->embed);
    m->weights.out_norm = put_floats(l, from->out_norm, m->config.d_model);
    m->weights.out = from->out;
    if (from->out.data == from->embed.data) {
        m->weights.out.data = m->weights.embed.data;
    } else {
        m->weights.out = put_tensor(l, from->out);
    }
    m->weights.positions = put_tensor(l, from->positions);
    m->weights.segments = put_tensor(l, from->segments);
    m->weights.embed_norm = put_floats(l, from->embed_norm, m->config.d_model);
    m->weights.embed_norm_b = put_floats(l, from->embed_norm_b, m->config.d_model);
    for (uint32_t i = 0; i < m->config.n_layers; i++) {
        put_layer(l, &m->config, &m->layers[i], &from->layers[i]);
    }
}

/* --- the memory of the steps --- */

static uint32_t longest_row(const kern_config *c)
{
    return most(most(c->d_model, c->d_ff), c->n_heads * c->head_dim);
}

/* A slice of the widest matrix fits; none needs more than all of it. */
static uint64_t unpacked_values(const kern_config *c)
{
    uint64_t row = longest_row(c), rows = most(row, c->n_vocab);
    uint64_t values = UNPACKED / sizeof(uint16_t);

    values = (rows + SLICE) * row < values ? (rows + SLICE) * row : values;
    return values > SLICE * row ? values : SLICE * row;
}

static uint64_t row_numbers(const kern_model *m)
{
    return (uint64_t)m->max_batch * ROW_ARRAYS + m->max_pages;
}

static void place_state(arena *a, kern_model *m)
{
    const kern_config *c = &m->config;
    uint64_t n = m->max_batch;
    uint64_t q_dim = (uint64_t)c->n_heads * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->n_kv_heads * c->head_dim;
    uint64_t parts = (uint64_t)least(SPLIT_ROWS, m->max_batch) * c->n_heads * SPLITS;

    place(a, &m->kv, m->n_pages > 0 ? (m->n_pages + 1) * kv_page_values(m->shape) : 0);
    place(a, &m->text_kv, 2 * divide_up(m->max_batch, KERN_PAGE) * KERN_PAGE * kv_dim);
    place(a, &m->rope_freq, c->rope_dim);
    place(a, &m->row_numbers, row_numbers(m));
    place(a, &m->x, n * c->d_model);
    place(a, &m->xb, n * c->d_model);
    place(a, &m->q, n * q_dim);
    place(a, &m->k, n * kv_dim);
    place(a, &m->v, n * kv_dim);
    place(a, &m->att, n * q_dim);
    place(a, &m->gate, n * c->d_ff);
    place(a, &m->up, n * c->d_ff);
    place(a, &m->rope, 2 * n * c->rope_dim);
    place(a, &m->parts, parts * c->head_dim);
    place(a, &m->parts_of, parts * 2);
    place(a, &m->logits, c->encoder ? 0 : (uint64_t)least(OUT_ROWS, n) * c->n_vocab);
    place(a, &m->rounded, n * longest_row(c));
    place(a, &m->unpacked, m->n_unpacked);
}

/* Frequencies of layers that look far, then of those that look near. */
static bool put_frequencies(kern_model *m, const float *factors)
{
    const kern_config *c = &m->config;
    uint32_t half = c->rope_dim / 2;
    double *freq = (double *)malloc((2 * half + 1) * sizeof(*freq));
    float near = c->rope_base_near != 0 ? c->rope_base_near : c->rope_base;
    bool ok;

    if (freq == NULL) {
        snprintf(m->dev->error, sizeof(m->dev->error), "out of memory");
        return false;
    }
    for (uint32_t i = 0; i < half; i++) {
        freq[i] = pow(c->rope_base, -2.0 * i / c->rope_dim);
        freq[half + i] = pow(near, -2.0 * i / c->rope_dim);
        if (factors != NULL) {
            freq[i] /= factors[i];
        }
    }
    ok = device_check(m->dev,
                      cudaMemcpyAsync(m->rope_freq, freq, 2 * half * sizeof(*freq),
                                      cudaMemcpyHostToDevice, m->dev->stream),
                      "copying frequencies") &&
         device_check(m->dev, cudaStreamSynchronize(m->dev->stream), "copying weights");
    free(freq);
    return ok;
}

/* --- loading --- */

/* Why a model is not for this back end, or NULL. */
static const char *refusal(const kern_config *c)
{
    if (c->head_dim > HEAD_MAX || c->head_dim % CHUNK != 0) {
        return "its heads are no multiple of 8 wide, or wider than 256";
    }
    if (c->d_model % CHUNK != 0 || c->d_ff % CHUNK != 0) {
        return "a width is no multiple of 8";
    }
    return NULL;
}

static bool allocate(kern_model *m, const kern_weights *weights)
{
    kern_device *dev = m->dev;
    loader l = {dev, {}, true};
    arena state = {};

    put_weights(&l, m, weights);
    place_state(&state, m);
    if (!device_has_room(dev, l.to.used + state.used, "the model takes") ||
        !device_check(dev, cudaMalloc((void **)&m->weights_memory, l.to.used),
                      "taking memory for weights") ||
        !device_check(dev, cudaMalloc((void **)&m->state_memory, state.used),
                      "taking memory for contexts") ||
        !device_check(dev,
                      cudaMallocHost((void **)&m->host_rows, row_numbers(m) * sizeof(uint32_t)),
                      "taking memory")) {
        return false;
    }
    l.to = {m->weights_memory, 0};
    put_weights(&l, m, weights);
    state = {m->state_memory, 0};
    place_state(&state, m);
    return l.ok && put_frequencies(m, weights->rope_factors);
}

uint64_t model_page_bytes(const kern_device *dev, const kern_config *c)
{
    kv_shape shape = {c->n_layers, c->n_kv_heads, c->head_dim};

    (void)dev;
    return kv_page_values(shape) * sizeof(uint16_t);
}

kern_model *model_load(kern_device *dev, const kern_config *config, const kern_weights *weights,
                       uint32_t max_batch, uint32_t max_seqs, uint32_t n_pages)
{
    const char *why = refusal(config);
    kern_model *m = why == NULL ? (kern_model *)calloc(1, sizeof(*m)) : NULL;

    snprintf(dev->error, sizeof(dev->error), "%s", why != NULL ? why : "out of memory");
    if (m == NULL) {
        return NULL;
    }
    m->dev = dev;
    m->config = *config;
    m->max_batch = max_batch;
    m->n_pages = n_pages;
    m->max_pages = most(max_seqs * least(divide_up(config->n_ctx, KERN_PAGE), n_pages) + 1,
                        divide_up(max_batch, KERN_PAGE));
    m->shape = {config->n_layers, config->n_kv_heads, config->head_dim};
    m->n_unpacked = unpacked_values(config);
    m->layers = (kern_layer *)calloc(config->n_layers, sizeof(*m->layers));
    m->seen = (uint8_t *)calloc(GRAPH_ROWS + 1, 1);
    m->play = (cudaGraphExec_t *)calloc(GRAPH_ROWS + 1, sizeof(*m->play));
    if (m->layers == NULL || m->seen == NULL || m->play == NULL ||
        !device_check(dev, cudaSetDevice((int)dev->index), "choosing the device") ||
        !allocate(m, weights)) {
        model_free(m);
        return NULL;
    }
    dev->error[0] = '\0';
    return m;
}

void model_free(kern_model *m)
{
    cudaSetDevice((int)m->dev->index);
    cudaStreamSynchronize(m->dev->stream);
    for (uint32_t i = 0; m->play != NULL && i <= GRAPH_ROWS; i++) {
        if (m->play[i] != NULL) {
            cudaGraphExecDestroy(m->play[i]);
        }
    }
    cudaFree(m->weights_memory);
    cudaFree(m->state_memory);
    cudaFreeHost(m->host_rows);
    free(m->layers);
    free(m->seen);
    free(m->play);
    free(m);
}
