/*
 * Whole texts at once, of which nothing is kept: what embeddings are made of. Rows of the batch
 * are the tokens of one text after the other. A text's keys and values are all in the batch, so
 * attention reads them where the products have put them.
 *
 * Two kinds of layers: a decoder's, with norms before its parts and attention to what came
 * before, and an encoder's, with norms behind them and attention to the whole text.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>

/* Tokens whose attention is one item of a head's work, where it does not go in tiles. */
#define QUERIES 32

/* From so many tokens of a text on its attention goes in tiles, if its matrices may. */
#define TILED_FROM 16

/* Values that one thread takes at a time, in operations that only pass over them. */
#define MIN_CHUNK_VALUES (16 * 1024)

typedef struct {
    kern_model *m;
    const kern_text *texts;
    uint32_t n_texts;
    uint32_t n; /* rows */
    uint32_t layer;
    bool tiles; /* long texts are attended in tiles */
    kern_pooling pooling;
    float *out;
} job;

/* Loops over all rows of the batch. */
static void each_row(job *j, cpu_pool_fn fn)
{
    cpu_pool_run(j->m->dev->pool, j->n, MIN_CHUNK_VALUES / j->m->config.d_model + 1, fn, j);
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
    float *scratch = j->m->wrow + (size_t)thread * j->m->wrow_len;

    for (uint32_t t = begin; t < end; t++) {
        for (uint32_t i = 0; i < j->texts[t].n; i++) {
            look_up_token(j->m, j->m->firsts[t] + i, j->texts[t].ids[i], i, scratch);
        }
    }
}

/* --- attention --- */

static void prepare_heads(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    kern_model *m = j->m;
    const kern_config *c = &m->config;
    const kern_layer *w = &m->layers[j->layer];
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const float *rope = m->rope + i * c->rope_dim;
        float *q = m->q + i * c->n_heads * c->head_dim;
        float *k = m->k + i * kv_dim, *v = m->v + i * kv_dim;

        cpu_bias_and_norm(m, q, c->n_heads, w->bq, w->q_norm);
        cpu_bias_and_norm(m, k, c->n_kv_heads, w->bk, w->k_norm);
        cpu_bias_and_norm(m, v, c->n_kv_heads, w->bv, NULL);
        cpu_rotate(c, q, c->n_heads, rope);
        cpu_rotate(c, k, c->n_kv_heads, rope);
    }
}

/* Some queries of one head of a text of n tokens, whose first row is first. */
static void attend(const kern_model *m, size_t first, uint32_t n, uint32_t head, uint32_t begin,
                   uint32_t end, float *scores)
{
    const kern_config *c = &m->config;
    const cpu_ops *ops = m->dev->ops;
    size_t q_dim = (size_t)c->n_heads * c->head_dim;
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;
    size_t shared =
        first * kv_dim + (size_t)(head / (c->n_heads / c->n_kv_heads)) * c->head_dim;
    const float *k = m->k + shared, *v = m->v + shared;

    for (uint32_t i = begin; i < end; i++) {
        size_t at = (first + i) * q_dim + (size_t)head * c->head_dim;
        uint32_t seen = c->encoder ? n : i + 1, t = 0;
        float *out = m->att + at;

        for (; t + 4 <= seen; t += 4) {
            ops->dot4(scores + t, m->q + at, k + t * kv_dim, kv_dim, c->head_dim);
        }
        for (; t < seen; t++) {
            scores[t] = ops->dot(m->q + at, k + t * kv_dim, c->head_dim);
        }
        for (t = 0; t < seen; t++) {
            scores[t] *= c->attn_scale;
        }
        ops->softmax(scores, seen);
        memset(out, 0, c->head_dim * sizeof(*out));
        for (t = 0; t < seen; t++) {
            ops->axpy(out, scores[t], v + t * kv_dim, c->head_dim);
        }
    }
}

/* Block `block` of those of all heads, in tiles. */
static void attend_block(const job *j, uint32_t t, uint32_t block, uint32_t thread)
{
    const kern_model *m = j->m;
    const kern_config *c = &m->config;
    uint32_t group = c->n_heads / c->n_kv_heads, head = block % c->n_kv_heads;
    size_t q_dim = (size_t)c->n_heads * c->head_dim,
           kv_dim = (size_t)c->n_kv_heads * c->head_dim;
    size_t q = m->firsts[t] * q_dim + (size_t)head * group * c->head_dim;
    size_t kv = m->firsts[t] * kv_dim + (size_t)head * c->head_dim;
    const cpu_attention a = {
        .q = m->q + q,
        .out = m->att + q,
        .k = m->k + kv,
        .v = m->v + kv,
        .page_stride = KERN_PAGE * kv_dim,
        .row_stride = kv_dim,
        .q_stride = q_dim,
        .head_dim = c->head_dim,
        .n_heads = group,
        .n = j->texts[t].n,
        .both_ways = c->encoder,
        .scale = c->attn_scale,
    };

    m->dev->ops->attend->attend(&a, block / c->n_kv_heads, m->tiles + thread * m->tiles_bytes);
}

static bool in_tiles(const job *j, uint32_t t)
{
    return j->tiles && j->texts[t].n >= TILED_FROM;
}

static uint32_t items_of(const job *j, uint32_t t)
{
    const kern_config *c = &j->m->config;
    uint32_t n = j->texts[t].n;

    if (in_tiles(j, t)) {
        return (uint32_t)j->m->dev->ops->attend->blocks(n, c->n_heads / c->n_kv_heads) *
               c->n_kv_heads;
    }
    return (n + QUERIES - 1) / QUERIES * c->n_heads;
}

static void attend_item(const job *j, uint32_t t, uint32_t item, uint32_t thread)
{
    uint32_t n = j->texts[t].n, blocks = (n + QUERIES - 1) / QUERIES;
    uint32_t from = item % blocks * QUERIES;

    if (in_tiles(j, t)) {
        attend_block(j, t, item, thread);
        return;
    }
    attend(j->m, j->m->firsts[t], n, item / blocks, from,
           n - from < QUERIES ? n : from + QUERIES,
           j->m->scores + (size_t)thread * j->m->config.n_ctx);
}

/* Items are blocks of heads of texts, those of a text beside each other. */
static void attend_items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    uint32_t before = 0;

    for (uint32_t t = 0; t < j->n_texts && before < end; t++) {
        uint32_t n = items_of(j, t), item = begin > before ? begin - before : 0;

        for (; item < n && before + item < end; item++) {
            attend_item(j, t, item, thread);
        }
        before += n;
    }
}

static void attention(job *j)
{
    const kern_layer *w = &j->m->layers[j->layer];
    const cpu_product out = {j->m->xb, &w->wo};
    uint32_t items = 0;

    j->tiles = cpu_in_tiles(j->m, w->wq.type);
    each_row(j, prepare_heads);
    for (uint32_t t = 0; t < j->n_texts; t++) {
        items += items_of(j, t);
    }
    cpu_pool_run(j->m->dev->pool, items, 1, attend_items, j);
    cpu_matmul(j->m, j->m->att, j->n, &out, 1);
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
                              state_of(m, m->firsts[t] + i), d);
        }
    }
}

bool cpu_encode(kern_model *m, const kern_text *texts, uint32_t n_texts, kern_pooling pooling,
                float *out)
{
    job j = {.m = m, .texts = texts, .n_texts = n_texts, .pooling = pooling, .out = out};

    for (uint32_t t = 0; t < n_texts; t++) {
        assert(texts[t].n >= 1 && texts[t].n <= m->config.n_ctx);
        m->firsts[t] = j.n;
        j.n += texts[t].n;
    }
    assert(j.n <= m->max_batch);
    m->f16_in_tiles = true;
    cpu_pool_run(m->dev->pool, n_texts, 1, look_up, &j);
    for (j.layer = 0; j.layer < m->config.n_layers; j.layer++) {
        run_layer(&j);
    }
    cpu_pool_run(m->dev->pool, n_texts, 1, pool, &j);
    return true;
}
