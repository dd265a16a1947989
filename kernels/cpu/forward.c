/*
 * One step of the Llama family: every row of the batch is one token of some sequence. Matrices
 * are multiplied for all rows together; attention looks at each row's own sequence.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>

/* As many values of rows are, in operations that only pass over them. */
#define ROWS_VALUES (16 * 1024)

uint32_t cpu_row_grain(size_t values_per_row)
{
    return (uint32_t)(ROWS_VALUES / values_per_row) + 1;
}

/* Looks up the tokens and the angles of their positions. Returns the number of rows. */
static uint32_t embed(kern_model *m, const kern_seq *seqs, uint32_t n_seqs)
{
    const kern_config *c = &m->config;
    uint32_t half = c->rope_dim / 2, row = 0;

    for (uint32_t s = 0; s < n_seqs; s++) {
        m->seqs[s] = (cpu_sequence){seqs[s].pages, row, seqs[s].n, seqs[s].pos};
        for (uint32_t t = 0; t < seqs[s].n; t++, row++) {
            float *x = m->x + (size_t)row * c->d_model;
            const float *e = cpu_row(m->dev->ops, &m->weights.embed, (size_t)seqs[s].ids[t], x);

            for (uint32_t i = 0; i < c->d_model; i++) {
                x[i] = e[i] * c->embed_scale;
            }
            m->seq_of[row] = s;
            cpu_angles(m->rope + (size_t)row * half * 2, m->rope_freq, half, seqs[s].pos + t,
                       c->rope_scale);
            if (m->rope_near != NULL) {
                cpu_angles(m->rope_near + (size_t)row * half * 2, m->rope_freq_near, half,
                           seqs[s].pos + t, 1);
            }
        }
    }
    return row;
}

void cpu_angles(float *rope, const double *freq, uint32_t half, uint32_t pos, float scale)
{
    for (uint32_t i = 0; i < half; i++) {
        rope[2 * i] = (float)cos(pos * freq[i]) * scale;
        rope[2 * i + 1] = (float)sin(pos * freq[i]) * scale;
    }
}

static void attention(kern_model *m, uint32_t layer, uint32_t n_seqs, uint32_t n)
{
    size_t head = (size_t)KERN_PAGE * m->config.head_dim, all = head * m->config.n_kv_heads;
    bool near = m->layers[layer].window > 0 && m->rope_near != NULL;
    const cpu_attending in = {
        .keys = m->kv + layer * 2 * all,
        .values = m->kv + layer * 2 * all + all,
        .page_stride = m->page_size,
        .head_stride = head,
        .rope = near ? m->rope_near : m->rope,
        .n_rows = n,
        .n_seqs = n_seqs,
    };

    cpu_attend_all(m, &in, layer);
}

typedef struct {
    kern_model *m;
    const float *x; /* [n][d_model], what becomes xb */
    const float *weight;
} norm_job;

static void norm_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const norm_job *j = arg;
    size_t d = j->m->config.d_model;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        cpu_rms_norm(j->m->dev->ops, j->m->xb + i * d, j->x + i * d, j->weight, d,
                     j->m->config.norm_eps);
    }
}

static void norm_rows(kern_model *m, const float *x, const float *weight, uint32_t n)
{
    norm_job j = {.m = m, .x = x, .weight = weight};

    cpu_pool_run(m->dev->pool, n, cpu_row_grain(m->config.d_model), norm_some, &j);
}

static void add_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    kern_model *m = arg;
    size_t d = m->config.d_model;

    (void)thread;
    m->dev->ops->axpy(m->x + begin * d, 1.0f, m->xb + begin * d, (end - begin) * d);
}

/* x += what the block has made in xb, normed where a layer does that */
static void add_rows(kern_model *m, const float *post, uint32_t n)
{
    if (post != NULL) {
        norm_rows(m, m->xb, post, n);
    }
    cpu_pool_run(m->dev->pool, n, cpu_row_grain(m->config.d_model), add_some, m);
}

static void attention_block(kern_model *m, uint32_t layer, uint32_t n_seqs, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const cpu_product qkv[] = {{m->q, &w->wq}, {m->k, &w->wk}, {m->v, &w->wv}};
    const cpu_product out = {m->xb, &w->wo};

    norm_rows(m, m->x, w->attn_norm, n);
    cpu_matmul(m, m->xb, n, qkv, 3);
    attention(m, layer, n_seqs, n);
    cpu_matmul(m, m->att, n, &out, 1);
    add_rows(m, w->attn_post, n);
}

static void ffn_block(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const cpu_ops *ops = m->dev->ops;
    const cpu_gated gated = {&w->w_gate, &w->w_up, m->config.gelu ? ops->geglu : ops->swiglu};
    const cpu_product down = {m->xb, &w->w_down};

    norm_rows(m, m->x, w->ffn_norm, n);
    cpu_matmul_gated(m, m->xb, n, &gated, &down);
    add_rows(m, w->ffn_post, n);
}

/* Only the rows that somebody asked for go through the large output matrix. */
static void output(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    const kern_config *c = &m->config;
    const cpu_product out = {logits, &m->weights.out};
    uint32_t row = 0, n = 0;

    for (uint32_t s = 0; s < n_seqs; s++) {
        row += seqs[s].n;
        for (uint32_t i = seqs[s].n_logits; i > 0; i--, n++) {
            cpu_rms_norm(m->dev->ops, m->xb + (size_t)n * c->d_model,
                         m->x + (size_t)(row - i) * c->d_model, m->weights.out_norm, c->d_model,
                         c->norm_eps);
        }
    }
    if (n > 0) {
        cpu_matmul(m, m->xb, n, &out, 1);
    }
    if (c->logit_cap > 0) {
        m->dev->ops->cap(logits, c->logit_cap, (size_t)n * c->n_vocab);
    }
}

bool cpu_step(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, float *logits)
{
    uint32_t n;

    assert(n_seqs <= m->max_seqs);
    n = embed(m, seqs, n_seqs);
    m->encoding = false;
    for (uint32_t layer = 0; layer < m->config.n_layers; layer++) {
        attention_block(m, layer, n_seqs, n);
        ffn_block(m, layer, n);
    }
    output(m, seqs, n_seqs, logits);
    return true;
}
