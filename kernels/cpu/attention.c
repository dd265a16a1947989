/*
 * What stands between the products with wq, wk and wv and the one with wo, in a step and in
 * encode: heads are made ready, keys and values kept, and every token attends, in tiles where
 * its part of the sequence is long enough and the machine has them, by itself otherwise.
 */
#include "kernels/cpu/cpu.h"

#include <string.h>

/* Attention over this many cached values is worth a thread of its own. */
#define MIN_CHUNK_VALUES (128 * 1024)

/* From so many tokens of a sequence on its attention goes in tiles, if its matrices may. */
#define TILED_FROM 16

typedef struct {
    kern_model *m;
    const cpu_attending *in;
    const kern_layer *layer;
    bool may_tile;
    bool tiles; /* the items are of the sequences in tiles, or of the others */
} job;

/* --- heads --- */

static void bias_and_norm(const kern_model *m, float *x, uint32_t n_heads, const float *bias,
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

/* Turns each head's first rope_dim values, pair i by its angle: rope is [rope_dim / 2][cos,
 * sin]. */
static void rotate(const kern_config *c, float *x, uint32_t n_heads, const float *rope)
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

/* Where one head has its keys, or values, of a sequence. */
static size_t head_at(const job *j, const cpu_sequence *s, size_t head)
{
    size_t first = s->pages == NULL ? s->row : 0;

    return head * j->in->head_stride + first * j->m->config.head_dim;
}

/* Keeps a row's keys and values, [n_kv_heads][head_dim]. */
static void keep(const job *j, size_t row)
{
    const kern_model *m = j->m;
    size_t n_heads = m->config.n_kv_heads, dim = m->config.head_dim;
    const cpu_sequence *s = &m->seqs[m->seq_of[row]];
    size_t t = s->pos + row - s->row;

    for (size_t h = 0; h < n_heads; h++) {
        size_t from = (row * n_heads + h) * dim;
        size_t to = head_at(j, s, h) + cpu_page_at(s->pages, j->in->page_stride, t) +
                    t % KERN_PAGE * dim;

        m->dev->ops->to_f16(j->in->keys + to, m->k + from, dim);
        m->dev->ops->to_f16(j->in->values + to, m->v + from, dim);
    }
}

static void prepare_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    const kern_config *c = &m->config;
    const kern_layer *w = j->layer;
    size_t kv_dim = (size_t)c->n_kv_heads * c->head_dim;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        const float *rope = j->in->rope + i * c->rope_dim;
        float *q = m->q + i * c->n_heads * c->head_dim;
        float *k = m->k + i * kv_dim, *v = m->v + i * kv_dim;

        bias_and_norm(m, q, c->n_heads, w->bq, w->q_norm);
        bias_and_norm(m, k, c->n_kv_heads, w->bk, w->k_norm);
        bias_and_norm(m, v, c->n_kv_heads, w->bv, NULL);
        rotate(c, q, c->n_heads, rope);
        rotate(c, k, c->n_kv_heads, rope);
        keep(j, i);
    }
}

/* --- attention --- */

static cpu_attention of_head(const job *j, const cpu_sequence *s, size_t head)
{
    const kern_model *m = j->m;
    const kern_config *c = &m->config;
    size_t group = c->n_heads / c->n_kv_heads, q_dim = (size_t)c->n_heads * c->head_dim;
    size_t q = s->row * q_dim + head * group * c->head_dim, kv = head_at(j, s, head);

    return (cpu_attention){
        .q = m->q + q,
        .out = m->att + q,
        .k = j->in->keys + kv,
        .v = j->in->values + kv,
        .pages = s->pages,
        .page_stride = j->in->page_stride,
        .q_stride = q_dim,
        .head_dim = c->head_dim,
        .n_heads = group,
        .n = s->n,
        .pos = s->pos,
        .window = j->layer->window,
        .both_ways = c->encoder,
        .scale = c->attn_scale,
        .cap = c->attn_cap,
    };
}

/* The i-th token and one head that looks at a's keys. */
static void attend_token(const cpu_ops *ops, const cpu_attention *a, size_t i, size_t head,
                         float *scores)
{
    size_t q = i * a->q_stride + head * a->head_dim, n;
    size_t end = a->both_ways ? a->pos + a->n : a->pos + i + 1;
    size_t first = a->window > 0 && end > a->window ? end - a->window : 0;

    for (size_t t = first - first % KERN_PAGE; t < end; t += KERN_PAGE) {
        const uint16_t *k = a->k + cpu_page_at(a->pages, a->page_stride, t);

        n = end - t < KERN_PAGE ? end - t : KERN_PAGE;
        ops->dots_f16(scores + t, k, n, a->head_dim, a->q + q);
    }
    for (size_t t = first; t < end; t++) {
        scores[t] *= a->scale;
    }
    if (a->cap > 0) {
        ops->cap(scores + first, a->cap, end - first);
    }
    ops->softmax(scores + first, end - first);
    memset(a->out + q, 0, a->head_dim * sizeof(*a->out));
    for (size_t t = first; t < end; t += n) {
        const uint16_t *v =
            a->v + cpu_page_at(a->pages, a->page_stride, t) + t % KERN_PAGE * a->head_dim;

        n = KERN_PAGE - t % KERN_PAGE;
        n = end - t < n ? end - t : n;
        ops->sum_f16(a->out + q, scores + t, v, n, a->head_dim);
    }
}

static bool in_tiles(const job *j, const cpu_sequence *s)
{
    return j->may_tile && s->n >= TILED_FROM;
}

/* A sequence's: blocks of each head of keys, or pairs of a head of keys and a token. */
static uint32_t items_of(const job *j, const cpu_sequence *s)
{
    const kern_config *c = &j->m->config;

    if (in_tiles(j, s) != j->tiles) {
        return 0;
    }
    return j->tiles
               ? (uint32_t)j->m->dev->ops->attend->blocks(s->n, c->n_heads / c->n_kv_heads) *
                     c->n_kv_heads
               : s->n * c->n_heads;
}

static void attend_item(const job *j, const cpu_sequence *s, uint32_t item, uint32_t thread)
{
    const kern_model *m = j->m;
    const kern_config *c = &m->config;
    uint32_t group = c->n_heads / c->n_kv_heads, head = item % c->n_heads;

    if (j->tiles) {
        const cpu_attention a = of_head(j, s, item % c->n_kv_heads);

        m->dev->ops->attend->attend(&a, item / c->n_kv_heads,
                                    m->tiles + thread * m->tiles_bytes);
    } else {
        const cpu_attention a = of_head(j, s, head / group);

        attend_token(m->dev->ops, &a, item / c->n_heads, head % group,
                     m->scores + (size_t)thread * c->n_ctx);
    }
}

static void attend_items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    uint32_t before = 0;

    for (uint32_t s = 0; s < j->in->n_seqs && before < end; s++) {
        const cpu_sequence *seq = &j->m->seqs[s];
        uint32_t n = items_of(j, seq), item = begin > before ? begin - before : 0;

        for (; item < n && before + item < end; item++) {
            attend_item(j, seq, item, thread);
        }
        before += n;
    }
}

static void attend_sequences(job *j, bool tiles)
{
    const kern_model *m = j->m;
    uint32_t n = 0, longest = 1;

    j->tiles = tiles;
    for (uint32_t s = 0; s < j->in->n_seqs; s++) {
        uint32_t end = m->seqs[s].pos + m->seqs[s].n;

        n += items_of(j, &m->seqs[s]);
        longest = end > longest ? end : longest;
    }
    if (n > 0) {
        uint32_t grain = MIN_CHUNK_VALUES / (longest * m->config.head_dim) + 1;

        cpu_pool_run(m->dev->pool, n, tiles ? 1 : grain, attend_items, j);
    }
}

void cpu_attend_all(kern_model *m, const cpu_attending *in, uint32_t layer)
{
    job j = {.m = m, .in = in, .layer = &m->layers[layer]};

    j.may_tile = cpu_in_tiles(m, j.layer->wq.type);
    cpu_pool_run(m->dev->pool, in->n_rows, cpu_row_grain(m->config.d_model), prepare_rows, &j);
    attend_sequences(&j, true);
    attend_sequences(&j, false);
}
