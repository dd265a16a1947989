/*
 * One step of the Llama family: every row of the batch is one token of some sequence. Matrices
 * are multiplied for all rows together; attention looks at each row's own sequence.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Attention over this many cached values is worth a thread of its own. */
#define MIN_CHUNK_VALUES (128 * 1024)

/* From so many tokens of a sequence on its attention goes in tiles, if its matrices may. */
#define TILED_FROM 16

/* As many values of rows are, in operations that only pass over them. */
#define ROWS_VALUES (16 * 1024)

/* Rows of the batch that one thread takes at a time: enough to be worth it. */
static uint32_t row_grain(size_t values_per_row)
{
    return (uint32_t)(ROWS_VALUES / values_per_row) + 1;
}

/* One head's keys of a page, [KERN_PAGE][head_dim]; its values are values_after() further. */
static float *page_keys(const kern_model *m, uint32_t layer, uint32_t page, uint32_t head)
{
    size_t of_head = (size_t)KERN_PAGE * m->config.head_dim;

    return m->kv + page * m->page_size +
           ((size_t)layer * 2 * m->config.n_kv_heads + head) * of_head;
}

static size_t values_after(const kern_config *c)
{
    return (size_t)c->n_kv_heads * KERN_PAGE * c->head_dim;
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

            for (uint32_t i = 0; i < c->d_model; i++) {
                x[i] = e[i] * c->embed_scale;
            }
            m->rows[row] =
                (cpu_row_at){.pages = seqs[s].pages, .pos = seqs[s].pos + t, .seq = &seqs[s]};
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

void cpu_rotate(const kern_config *c, float *x, uint32_t n_heads, const float *rope)
{
    uint32_t half = c->rope_dim / 2, step = c->rope_halves ? 1 : 2;
    uint32_t apart = c->rope_halves ? half : 1;

    for (uint32_t h = 0; h < n_heads; h++) {
        float *p = x + (size_t)h * c->head_dim;

        for (uint32_t i = 0; i < half; i++, p += step) {
            float a = p[0], b = p[apart], cs = rope[2 * i], sn = rope[2 * i + 1];

            p[0] = a * cs - b * sn;
            p[apart] = a * sn + b * cs;
        }
    }
}

void cpu_bias_and_norm(const kern_model *m, float *x, uint32_t n_heads, const float *bias,
                       const float *norm)
{
    const kern_config *c = &m->config;
    const cpu_ops *ops = m->dev->ops;

    if (bias != NULL) {
        ops->axpy(x, 1.0f, bias, (size_t)n_heads * c->head_dim);
    }
    for (uint32_t h = 0; h < n_heads && norm != NULL; h++) {
        float *head = x + (size_t)h * c->head_dim;

        cpu_rms_norm(ops, head, head, norm, c->head_dim, c->norm_eps);
    }
}

typedef struct {
    kern_model *m;
    uint32_t layer;
    bool tiles; /* long parts of sequences may be attended in tiles */
    const kern_seq *seqs;
    uint32_t n_seqs;
} attention_job;

/* Puts a token's keys and values, [n_kv_heads][head_dim], where they belong. */
static void store(const kern_model *m, uint32_t layer, const cpu_row_at *at, const float *k,
                  const float *v)
{
    const kern_config *c = &m->config;
    size_t at_page = (size_t)(at->pos % KERN_PAGE) * c->head_dim;

    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        float *keys = page_keys(m, layer, at->pages[at->pos / KERN_PAGE], h) + at_page;

        memcpy(keys, k + (size_t)h * c->head_dim, c->head_dim * sizeof(*k));
        memcpy(keys + values_after(c), v + (size_t)h * c->head_dim, c->head_dim * sizeof(*v));
    }
}

static void rotate_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const attention_job *j = arg;
    kern_model *m = j->m;
    const kern_config *c = &m->config;
    const kern_layer *w = &m->layers[j->layer];
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const float *angles = w->window > 0 && m->rope_near ? m->rope_near : m->rope;
        const float *rope = angles + i * c->rope_dim;
        const cpu_row_at *at = &m->rows[i];
        float *q = m->q + i * c->n_heads * c->head_dim;
        float *k = m->k + i * kv_dim, *v = m->v + i * kv_dim;

        cpu_bias_and_norm(m, q, c->n_heads, w->bq, w->q_norm);
        cpu_bias_and_norm(m, k, c->n_kv_heads, w->bk, w->k_norm);
        cpu_bias_and_norm(m, v, c->n_kv_heads, w->bv, NULL);
        cpu_rotate(c, q, c->n_heads, rope);
        cpu_rotate(c, k, c->n_kv_heads, rope);
        store(m, j->layer, at, k, v);
    }
}

static void rotate_and_store(kern_model *m, uint32_t layer, uint32_t n)
{
    attention_job j = {.m = m, .layer = layer};

    cpu_pool_run(m->dev->pool, n, row_grain(m->config.d_model), rotate_some, &j);
}

/* Scores of q with the first n keys of a page. */
static void score_page(const cpu_ops *ops, float *scores, const float *q, const float *k,
                       uint32_t n, uint32_t head_dim)
{
    uint32_t t = 0;

    for (; t + 4 <= n; t += 4) {
        ops->dot4(scores + t, q, k + (size_t)t * head_dim, head_dim, head_dim);
    }
    for (; t < n; t++) {
        scores[t] = ops->dot(q, k + (size_t)t * head_dim, head_dim);
    }
}

/* Attention of one head of one token to all up to itself, or to its window. */
static void attend_row(const kern_model *m, uint32_t layer, const cpu_row_at *at,
                       uint32_t kv_head, const float *q, float *out, float *scores)
{
    const kern_config *c = &m->config;
    const cpu_ops *ops = m->dev->ops;
    uint32_t n = at->pos + 1, window = m->layers[layer].window;
    uint32_t first = window > 0 && n > window ? n - window : 0;

    for (uint32_t t = first - first % KERN_PAGE; t < n; t += KERN_PAGE) {
        const float *k = page_keys(m, layer, at->pages[t / KERN_PAGE], kv_head);

        score_page(ops, scores + t, q, k, n - t < KERN_PAGE ? n - t : KERN_PAGE, c->head_dim);
    }
    for (uint32_t t = first; t < n; t++) {
        scores[t] *= c->attn_scale;
    }
    if (c->attn_cap > 0) {
        ops->cap(scores + first, c->attn_cap, n - first);
    }
    ops->softmax(scores + first, n - first);
    memset(out, 0, c->head_dim * sizeof(*out));
    for (uint32_t t = first; t < n; t++) {
        const float *v = page_keys(m, layer, at->pages[t / KERN_PAGE], kv_head) +
                         values_after(c) + (size_t)(t % KERN_PAGE) * c->head_dim;

        ops->axpy(out, scores[t], v, c->head_dim);
    }
}

/* Tiles know neither caps nor windows. */
static bool in_tiles(const attention_job *j, const kern_seq *s)
{
    uint32_t window = j->m->layers[j->layer].window;

    return j->tiles && s->n >= TILED_FROM && (window == 0 || s->pos + s->n <= window);
}

/* Items are (row, head) pairs. */
static void attention_heads(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const attention_job *j = arg;
    kern_model *m = j->m;
    const kern_config *c = &m->config;
    uint32_t group = c->n_heads / c->n_kv_heads;
    float *scores = m->scores + (size_t)thread * c->n_ctx;

    for (uint32_t item = begin; item < end; item++) {
        const cpu_row_at *at = &m->rows[item / c->n_heads];
        size_t first = (size_t)item * c->head_dim;

        if (in_tiles(j, at->seq)) {
            continue;
        }
        attend_row(m, j->layer, at, item % c->n_heads / group, m->q + first, m->att + first,
                   scores);
    }
}

/* Blocks of columns of the sequences that are attended in tiles, all kv heads of each. */
static uint32_t blocks_of(const attention_job *j, const kern_seq *s)
{
    const kern_config *c = &j->m->config;

    if (!in_tiles(j, s)) {
        return 0;
    }
    return (uint32_t)j->m->dev->ops->attend->blocks(s->n, c->n_heads / c->n_kv_heads) *
           c->n_kv_heads;
}

static void attend_block(const attention_job *j, const kern_seq *s, size_t row, uint32_t block,
                         uint32_t thread)
{
    kern_model *m = j->m;
    const kern_config *c = &m->config;
    uint32_t group = c->n_heads / c->n_kv_heads, head = block % c->n_kv_heads;
    size_t q_dim = (size_t)c->n_heads * c->head_dim, first = (size_t)head * group * c->head_dim;
    const cpu_attention a = {
        .q = m->q + row * q_dim + first,
        .out = m->att + row * q_dim + first,
        .k = page_keys(m, j->layer, 0, head),
        .v = page_keys(m, j->layer, 0, head) + values_after(c),
        .pages = s->pages,
        .page_stride = m->page_size,
        .row_stride = c->head_dim,
        .q_stride = q_dim,
        .head_dim = c->head_dim,
        .n_heads = group,
        .n = s->n,
        .pos = s->pos,
        .scale = c->attn_scale,
    };

    m->dev->ops->attend->attend(&a, block / c->n_kv_heads, m->tiles + thread * m->tiles_bytes);
}

static void attention_blocks(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const attention_job *j = arg;
    size_t row = 0;

    for (uint32_t s = 0; s < j->n_seqs && begin < end; s++) {
        uint32_t n = blocks_of(j, &j->seqs[s]);

        for (; begin < n && begin < end; begin++) {
            attend_block(j, &j->seqs[s], row, begin, thread);
        }
        begin = begin > n ? begin - n : 0;
        end = end > n ? end - n : 0;
        row += j->seqs[s].n;
    }
}

static void attention(kern_model *m, const kern_seq *seqs, uint32_t n_seqs, uint32_t layer,
                      uint32_t n)
{
    const kern_config *c = &m->config;
    attention_job j = {.m = m, .layer = layer, .seqs = seqs, .n_seqs = n_seqs};
    uint32_t longest = 1, rows = 0, blocks = 0;

    j.tiles = cpu_in_tiles(m, m->layers[layer].wq.type) && c->attn_cap == 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t more = blocks_of(&j, &seqs[s]), end = seqs[s].pos + seqs[s].n;

        blocks += more;
        rows += more == 0 ? seqs[s].n : 0;
        longest = end > longest ? end : longest;
    }
    if (blocks > 0) {
        cpu_pool_run(m->dev->pool, blocks, 1, attention_blocks, &j);
    }
    if (rows > 0) {
        uint32_t grain = MIN_CHUNK_VALUES / (longest * c->head_dim) + 1;

        cpu_pool_run(m->dev->pool, n * c->n_heads, grain, attention_heads, &j);
    }
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

    cpu_pool_run(m->dev->pool, n, row_grain(m->config.d_model), norm_some, &j);
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
    cpu_pool_run(m->dev->pool, n, row_grain(m->config.d_model), add_some, m);
}

static void gate_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    kern_model *m = arg;
    size_t ff = m->config.d_ff;

    (void)thread;
    (m->config.gelu ? m->dev->ops->geglu : m->dev->ops->swiglu)(
        m->gate + begin * ff, m->up + begin * ff, (end - begin) * ff);
}

static void attention_block(kern_model *m, const kern_seq *seqs, uint32_t n_seqs,
                            uint32_t layer, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const cpu_product qkv[] = {{m->q, &w->wq}, {m->k, &w->wk}, {m->v, &w->wv}};
    const cpu_product out = {m->xb, &w->wo};

    norm_rows(m, m->x, w->attn_norm, n);
    cpu_matmul(m, m->xb, n, qkv, 3);
    rotate_and_store(m, layer, n);
    attention(m, seqs, n_seqs, layer, n);
    cpu_matmul(m, m->att, n, &out, 1);
    add_rows(m, w->attn_post, n);
}

static void ffn_block(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_layer *w = &m->layers[layer];
    const cpu_product gate_up[] = {{m->gate, &w->w_gate}, {m->up, &w->w_up}};
    const cpu_product down = {m->xb, &w->w_down};

    norm_rows(m, m->x, w->ffn_norm, n);
    cpu_matmul(m, m->xb, n, gate_up, 2);
    cpu_pool_run(m->dev->pool, n, row_grain(m->config.d_ff), gate_some, m);
    cpu_matmul(m, m->gate, n, &down, 1);
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
    uint32_t n = embed(m, seqs, n_seqs);

    m->f16_in_tiles = false;
    for (uint32_t layer = 0; layer < m->config.n_layers; layer++) {
        attention_block(m, seqs, n_seqs, layer, n);
        ffn_block(m, layer, n);
    }
    output(m, seqs, n_seqs, logits);
    return true;
}
