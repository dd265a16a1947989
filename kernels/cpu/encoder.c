/*
 * Whole texts at once, of which nothing is kept: what embeddings are made of. Rows of the batch
 * are the tokens of one text after the other. A text's keys and values are all in the batch.
 *
 * Two kinds of layers: a decoder's, with norms before its parts and attention to what came
 * before, and an encoder's, with norms behind them and attention to the whole text.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>

typedef struct {
    kern_model *m;
    const kern_text *texts;
    uint32_t n_texts;
    uint32_t n; /* rows */
    uint32_t layer;
    kern_pooling pooling;
    float *out;
} job;

/* Loops over all rows of the batch. */
static void each_row(job *j, cpu_pool_fn fn)
{
    cpu_pool_run(j->m->dev->pool, j->n, cpu_row_grain(j->m->config.d_model), fn, j);
}

/* --- what goes in --- */

/* Adds row r of w to x. */
static void add_row(const kern_model *m, float *x, const kern_tensor *w, size_t r,
                    float *scratch)
{
    if (w->data != NULL) {
        m->dev->ops->axpy(x, 1.0f, cpu_row(m->dev->ops, w, r, scratch), w->cols);
    }
}

static void look_up_token(kern_model *m, size_t row, int32_t id, uint32_t pos, float *scratch)
{
    const kern_weights *w = &m->weights;
    uint32_t half = m->config.rope_dim / 2;
    float *x = m->x + row * m->config.d_model;

    memset(x, 0, m->config.d_model * sizeof(*x));
    add_row(m, x, &w->embed, (size_t)id, scratch);
    add_row(m, x, &w->positions, pos, scratch);
    add_row(m, x, &w->segments, 0, scratch);
    if (m->config.encoder) {
        m->dev->ops->layer_norm(x, w->embed_norm, w->embed_norm_b, m->config.d_model,
                                m->config.norm_eps);
    }
    cpu_angles(m->rope + row * half * 2, m->rope_freq, half, pos, 1);
}

/* Items are texts. */
static void look_up(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    float *scratch = cpu_float_rows(j->m, thread);

    for (uint32_t t = begin; t < end; t++) {
        for (uint32_t i = 0; i < j->texts[t].n; i++) {
            look_up_token(j->m, j->m->seqs[t].row + i, j->texts[t].ids[i], i, scratch);
            j->m->seq_of[j->m->seqs[t].row + i] = t;
        }
    }
}

/* Whole texts need no pages, but heads whose rows follow each other. */
static void attention(const job *j)
{
    kern_model *m = j->m;
    const cpu_product out = {m->xb, &m->layers[j->layer].wo};
    size_t dim = m->config.head_dim, head = m->max_batch * dim;
    const cpu_attending in = {
        .keys = m->fresh,
        .values = m->fresh + head * m->config.n_kv_heads,
        .page_stride = KERN_PAGE * dim,
        .head_stride = head,
        .rope = m->rope,
        .n_rows = j->n,
        .n_seqs = j->n_texts,
    };

    cpu_attend_all(m, &in, j->layer);
    cpu_matmul(m, m->att, j->n, &out, 1);
}

/* --- what stands between the products --- */

static void norm_rows(void *arg, uint32_t begin, uint32_t end, const float *weight)
{
    const job *j = arg;
    const kern_model *m = j->m;
    size_t d = m->config.d_model;

    for (size_t i = begin; i < end; i++) {
        cpu_rms_norm(m->dev->ops, m->xb + i * d, m->x + i * d, weight, d, m->config.norm_eps);
    }
}

static void norm_for_attention(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;

    (void)thread;
    norm_rows(arg, begin, end, j->m->layers[j->layer].attn_norm);
}

static void norm_for_ffn(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;

    (void)thread;
    norm_rows(arg, begin, end, j->m->layers[j->layer].ffn_norm);
}

/* x += xb, which is a part's result, and its bias; an encoder norms the sum. */
static void add_rows(const job *j, uint32_t begin, uint32_t end, const float *added,
                     const float *weight, const float *bias)
{
    const kern_model *m = j->m;
    const cpu_ops *ops = m->dev->ops;
    size_t d = m->config.d_model;

    for (size_t i = begin; i < end; i++) {
        float *x = m->x + i * d;

        ops->axpy(x, 1.0f, m->xb + i * d, d);
        if (added != NULL) {
            ops->axpy(x, 1.0f, added, d);
        }
        if (m->config.encoder) {
            ops->layer_norm(x, weight, bias, d, m->config.norm_eps);
        }
    }
}

static void add_attention(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_layer *w = &j->m->layers[j->layer];

    (void)thread;
    add_rows(j, begin, end, w->bo, w->attn_norm, w->attn_norm_b);
}

static void add_ffn(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_layer *w = &j->m->layers[j->layer];

    (void)thread;
    add_rows(j, begin, end, w->b_down, w->ffn_norm, w->ffn_norm_b);
}

/* up becomes what goes down. */
static void activate(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    const kern_layer *w = &m->layers[j->layer];
    size_t ff = m->config.d_ff;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *up = m->up + i * ff;

        if (w->b_up != NULL) {
            m->dev->ops->axpy(up, 1.0f, w->b_up, ff);
        }
        if (w->w_gate.data == NULL) {
            m->dev->ops->gelu(up, ff);
        } else {
            m->dev->ops->swiglu(m->gate + i * ff, up, ff);
        }
    }
}

static void feed_forward(job *j, const float *x)
{
    kern_model *m = j->m;
    const kern_layer *w = &m->layers[j->layer];
    const bool gated = w->w_gate.data != NULL;
    const cpu_product up[] = {{m->up, &w->w_up}, {m->gate, &w->w_gate}};
    const cpu_product down = {m->xb, &w->w_down};

    cpu_matmul(m, x, j->n, up, gated ? 2 : 1);
    each_row(j, activate);
    cpu_matmul(m, gated ? m->gate : m->up, j->n, &down, 1);
    each_row(j, add_ffn);
}

static void run_layer(job *j)
{
    kern_model *m = j->m;
    const kern_layer *w = &m->layers[j->layer];
    const cpu_product qkv[] = {{m->q, &w->wq}, {m->k, &w->wk}, {m->v, &w->wv}};
    const float *x = m->config.encoder ? m->x : m->xb;

    if (!m->config.encoder) {
        each_row(j, norm_for_attention);
    }
    cpu_matmul(m, x, j->n, qkv, 3);
    attention(j);
    each_row(j, add_attention);
    if (!m->config.encoder) {
        each_row(j, norm_for_ffn);
    }
    feed_forward(j, x);
}

/* --- what comes out --- */

/* A row's last hidden state. */
static const float *state_of(const kern_model *m, size_t row)
{
    size_t d = m->config.d_model;

    if (m->config.encoder) {
        return m->x + row * d;
    }
    cpu_rms_norm(m->dev->ops, m->xb + row * d, m->x + row * d, m->weights.out_norm, d,
                 m->config.norm_eps);
    return m->xb + row * d;
}

/* Items are texts. */
static void pool(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    size_t d = m->config.d_model;

    (void)thread;
    for (uint32_t t = begin; t < end; t++) {
        bool mean = j->pooling == KERN_POOL_MEAN;
        uint32_t n = j->texts[t].n, from = j->pooling == KERN_POOL_LAST ? n - 1 : 0;
        uint32_t to = mean ? n : from + 1;

        memset(j->out + t * d, 0, d * sizeof(float));
        for (uint32_t i = from; i < to; i++) {
            m->dev->ops->axpy(j->out + t * d, 1.0f / (float)(to - from),
                              state_of(m, m->seqs[t].row + i), d);
        }
    }
}

bool cpu_encode(kern_model *m, const kern_text *texts, uint32_t n_texts, kern_pooling pooling,
                float *out)
{
    job j = {.m = m, .texts = texts, .n_texts = n_texts, .pooling = pooling, .out = out};

    assert(n_texts <= m->max_seqs);
    for (uint32_t t = 0; t < n_texts; t++) {
        assert(texts[t].n >= 1 && texts[t].n <= m->config.n_ctx);
        m->seqs[t] = (cpu_sequence){.row = j.n, .n = texts[t].n};
        j.n += texts[t].n;
    }
    assert(j.n <= m->max_batch);
    m->encoding = true;
    cpu_pool_run(m->dev->pool, n_texts, 1, look_up, &j);
    for (j.layer = 0; j.layer < m->config.n_layers; j.layer++) {
        run_layer(&j);
    }
    cpu_pool_run(m->dev->pool, n_texts, 1, pool, &j);
    return true;
}
