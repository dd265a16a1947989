/*
 * One step of the Llama family: every row of the batch is one token of some sequence. Matrices
 * are multiplied for all rows together; attention looks at each row's own sequence.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Attention over this many cached values is worth a thread of its own. */
#define MIN_CHUNK_VALUES (128 * 1024)

static float *layer_k(const kern_kv *kv, uint32_t layer, uint32_t pos)
{
    return kv->k + ((size_t)layer * kv->capacity + pos) * kv->kv_dim;
}

static float *layer_v(const kern_kv *kv, uint32_t layer, uint32_t pos)
{
    return kv->v + ((size_t)layer * kv->capacity + pos) * kv->kv_dim;
}

/* Looks up the tokens and the angles of their positions. Returns the number of rows. */
static uint32_t embed(kern_model *m, const kern_seq *seqs, uint32_t n_seqs)
{
    const kern_config *c = &m->config;
    uint32_t half = c->rope_dim / 2, row = 0;

    for (uint32_t s = 0; s < n_seqs; s++) {
        for (uint32_t t = 0; t < seqs[s].n; t++, row++) {
            float *x = m->x + (size_t)row * c->d_model;
            const float *e = cpu_row(m->dev->ops, &m->weights.embed, (size_t)seqs[s].ids[t], x);

            if (e != x) {
                memcpy(x, e, c->d_model * sizeof(*x));
            }
            m->rows[row] = (cpu_row_at){.kv = seqs[s].kv, .pos = seqs[s].pos + t};
            for (uint32_t i = 0; i < half; i++) {
                double angle = m->rows[row].pos * m->rope_freq[i];
                float *r = m->rope + ((size_t)row * half + i) * 2;

                r[0] = (float)cos(angle);
                r[1] = (float)sin(angle);
            }
        }
    }
    return row;
}

/* Rotates each head's first rope_dim values, pair (2i, 2i+1) by the angle of i. */
static void rotate(const kern_config *c, float *x, uint32_t n_heads, const float *rope)
{
    for (uint32_t h = 0; h < n_heads; h++) {
        float *p = x + (size_t)h * c->head_dim;

        for (uint32_t i = 0; i < c->rope_dim; i += 2) {
            float a = p[i], b = p[i + 1], cs = rope[i], sn = rope[i + 1];

            p[i] = a * cs - b * sn;
            p[i + 1] = a * sn + b * cs;
        }
    }
}

static void rotate_and_store(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_config *c = &m->config;
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;

    for (uint32_t i = 0; i < n; i++) {
        const float *rope = m->rope + (size_t)i * c->rope_dim;
        const cpu_row_at *at = &m->rows[i];

        rotate(c, m->q + (size_t)i * c->n_heads * c->head_dim, c->n_heads, rope);
        rotate(c, m->k + i * kv_dim, c->n_kv_heads, rope);
        memcpy(layer_k(at->kv, layer, at->pos), m->k + i * kv_dim, kv_dim * sizeof(float));
        memcpy(layer_v(at->kv, layer, at->pos), m->v + i * kv_dim, kv_dim * sizeof(float));
    }
}

typedef struct {
    kern_model *m;
    uint32_t layer;
} attention_job;

/* Items are (row, head) pairs: causal attention of one head of one token. */
static void attention_heads(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const attention_job *j = arg;
    kern_model *m = j->m;
    const kern_config *c = &m->config;
    const cpu_ops *ops = m->dev->ops;
    uint32_t group = c->n_heads / c->n_kv_heads;
    float *scores = m->scores + (size_t)thread * c->n_ctx;
    float scale = 1.0f / sqrtf((float)c->head_dim);

    for (uint32_t item = begin; item < end; item++) {
        uint32_t head = item % c->n_heads;
        const cpu_row_at *at = &m->rows[item / c->n_heads];
        const float *q = m->q + (size_t)item * c->head_dim;
        size_t shared = (size_t)(head / group) * c->head_dim;
        const float *k = layer_k(at->kv, j->layer, 0) + shared;
        const float *v = layer_v(at->kv, j->layer, 0) + shared;
        float *out = m->att + (size_t)item * c->head_dim;

        for (uint32_t t = 0; t <= at->pos; t++) {
            scores[t] = ops->dot(q, k + (size_t)t * at->kv->kv_dim, c->head_dim) * scale;
        }
        cpu_softmax(scores, at->pos + 1);
        memset(out, 0, c->head_dim * sizeof(*out));
        for (uint32_t t = 0; t <= at->pos; t++) {
            ops->axpy(out, scores[t], v + (size_t)t * at->kv->kv_dim, c->head_dim);
        }
    }
}

static void attention(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_config *c = &m->config;
    attention_job j = {.m = m, .layer = layer};
    uint32_t longest = 1, grain;

    for (uint32_t i = 0; i < n; i++) {
        longest = m->rows[i].pos >= longest ? m->rows[i].pos + 1 : longest;
    }
    grain = MIN_CHUNK_VALUES / (longest * c->head_dim) + 1;
    cpu_pool_run(m->dev->pool, n * c->n_heads, grain, attention_heads, &j);
}

static void norm_rows(kern_model *m, float *y, const float *x, const float *weight, uint32_t n)
{
    size_t d = m->config.d_model;

    for (uint32_t i = 0; i < n; i++) {
        cpu_rms_norm(y + i * d, x + i * d, weight, d, m->config.norm_eps);
    }
}

/* x += y, both [n][d_model] */
static void add_rows(kern_model *m, float *x, const float *y, uint32_t n)
{
    m->dev->ops->axpy(x, 1.0f, y, (size_t)n * m->config.d_model);
}

static void attention_block(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];

    norm_rows(m, m->xb, m->x, w->attn_norm, n);
    cpu_matmul(m, m->q, m->xb, &w->wq, n);
    cpu_matmul(m, m->k, m->xb, &w->wk, n);
    cpu_matmul(m, m->v, m->xb, &w->wv, n);
    rotate_and_store(m, layer, n);
    attention(m, layer, n);
    cpu_matmul(m, m->xb, m->att, &w->wo, n);
    add_rows(m, m->x, m->xb, n);
}

static void ffn_block(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];

    norm_rows(m, m->xb, m->x, w->ffn_norm, n);
    cpu_matmul(m, m->gate, m->xb, &w->w_gate, n);
    cpu_matmul(m, m->up, m->xb, &w->w_up, n);
    cpu_swiglu(m->gate, m->up, (size_t)n * m->config.d_ff);
    cpu_matmul(m, m->xb, m->gate, &w->w_down, n);
    add_rows(m, m->x, m->xb, n);
}

/* Only the rows that somebody asked for go through the large output matrix. */
static void output(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    const kern_config *c = &m->config;
    uint32_t row = 0, n = 0;

    for (uint32_t s = 0; s < n_seqs; s++) {
        row += seqs[s].n;
        if (seqs[s].logits) {
            cpu_rms_norm(m->xb + (size_t)n * c->d_model, m->x + (size_t)(row - 1) * c->d_model,
                         m->weights.out_norm, c->d_model, c->norm_eps);
            n++;
        }
    }
    if (n > 0) {
        cpu_matmul(m, logits, m->xb, &m->weights.out, n);
    }
}

bool cpu_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    uint32_t n = embed(m, seqs, n_seqs);

    for (uint32_t layer = 0; layer < m->config.n_layers; layer++) {
        attention_block(m, layer, n);
        ffn_block(m, layer, n);
    }
    output(m, seqs, n_seqs, logits);
    return true;
}
