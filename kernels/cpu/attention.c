/*
 * What stands between the products with wq, wk and wv and the one with wo, in a step and in
 * encode: heads are made ready, keys and values kept, and every token attends, in tiles where
 * its part of the sequence is long enough and the machine has them, by itself otherwise.
 *
 * By itself a token looks at its keys in spans, which threads share: one head of keys and of
 * values is read once for all heads of queries that look at it. Spans end where positions are
 * multiples of CPU_SPAN, whoever takes them, and are joined in their order: neither company
 * nor the number of threads changes a result.
 */
#include "kernels/cpu/cpu.h"

#include <string.h>

/* So many products with cached values are worth a thread of their own. */
#define MIN_CHUNK_VALUES (64 * 1024)

/* From so many tokens of a sequence on its attention goes in tiles, if its matrices may. */
#define TILED_FROM 16

typedef struct {
    kern_model *m;
    const cpu_attending *in;
    const kern_layer *layer;
    bool may_tile;
    uint32_t n_spans; /* of the model's, in use */
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

static void scale_queries(const kern_config *c, float *q)
{
    for (size_t i = 0; i < (size_t)c->n_heads * c->head_dim; i++) {
        q[i] *= c->attn_scale;
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
        scale_queries(c, q);
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
        .cap = c->attn_cap,
    };
}

static bool in_tiles(const job *j, const cpu_sequence *s)
{
    return j->may_tile && s->n >= TILED_FROM;
}

/* --- in tiles --- */

/* A sequence's: blocks of each head of keys. */
static uint32_t blocks_of(const job *j, const cpu_sequence *s)
{
    const kern_config *c = &j->m->config;

    if (!in_tiles(j, s)) {
        return 0;
    }
    return (uint32_t)j->m->dev->ops->attend->blocks(s->n, c->n_heads / c->n_kv_heads) *
           c->n_kv_heads;
}

static void attend_blocks(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    uint32_t before = 0, n_kv_heads = m->config.n_kv_heads;

    for (uint32_t s = 0; s < j->in->n_seqs && before < end; s++) {
        uint32_t n = blocks_of(j, &m->seqs[s]), block = begin > before ? begin - before : 0;

        for (; block < n && before + block < end; block++) {
            const cpu_attention a = of_head(j, &m->seqs[s], block % n_kv_heads);

            m->dev->ops->attend->attend(&a, block / n_kv_heads,
                                        m->tiles + thread * m->tiles_bytes);
        }
        before += n;
    }
}

static void attend_in_tiles(job *j)
{
    uint32_t n = 0;

    for (uint32_t s = 0; s < j->in->n_seqs; s++) {
        n += blocks_of(j, &j->m->seqs[s]);
    }
    cpu_pool_run(j->m->dev->pool, n, 1, attend_blocks, j);
}

/* --- in spans --- */

/* What lies in one page from the t-th token on, and is before end. */
static cpu_f16_rows rows_from(const cpu_attention *a, const uint16_t *base, size_t t,
                              size_t end)
{
    size_t n = KERN_PAGE - t % KERN_PAGE;
    const uint16_t *page = base + cpu_page_at(a->pages, a->page_stride, t);

    return (cpu_f16_rows){
        .at = page + t % KERN_PAGE * a->head_dim,
        .next = t + n < end ? base + cpu_page_at(a->pages, a->page_stride, t + n) : page,
        .n = end - t < n ? end - t : n,
        .cols = a->head_dim,
    };
}

/*
 * Of one token's queries, [n_heads][head_dim], to keys that it sees: out is [n_heads][head_dim]
 * and shares are of the span; the logarithm of what they are shares of is at log, for each
 * head log_stride further.
 */
static void attend_span(const cpu_ops *ops, const cpu_attention *a, const float *q,
                        const cpu_span *s, float *scores, float *out, float *log,
                        size_t log_stride)
{
    size_t from = s->first - s->first % KERN_PAGE, before = s->first - from;
    cpu_f16_rows rows;

    for (size_t t = from; t < s->end; t += KERN_PAGE) {
        rows = rows_from(a, a->k, t, s->end);
        ops->dots_f16(scores + (t - from), CPU_SPAN, &rows, q, a->n_heads);
    }
    for (size_t h = 0; h < a->n_heads; h++) {
        float *x = scores + h * CPU_SPAN + before;

        if (a->cap > 0) {
            ops->cap(x, a->cap, s->end - s->first);
        }
        log[h * log_stride] = ops->softmax(x, s->end - s->first);
    }
    memset(out, 0, a->n_heads * a->head_dim * sizeof(*out));
    for (size_t t = s->first; t < s->end; t += rows.n) {
        rows = rows_from(a, a->v, t, s->end);
        ops->sums_f16(out, scores + (t - from), CPU_SPAN, &rows, a->n_heads);
    }
}

/* How many spans, from the i-th on, are of the same row. */
static uint32_t spans_of_row(const job *j, uint32_t i)
{
    const cpu_span *spans = j->m->spans;
    uint32_t end = i + 1;

    while (end < j->n_spans && spans[end].row == spans[i].row) {
        end++;
    }
    return end - i;
}

/* A span that is the only one of its row gives the result, others what join_spans wants. */
static void attend_spans(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    const kern_config *c = &m->config;
    size_t group = c->n_heads / c->n_kv_heads, q_dim = (size_t)c->n_heads * c->head_dim;

    for (uint32_t item = begin; item < end; item++) {
        uint32_t i = item / c->n_kv_heads, head = item % c->n_kv_heads;
        const cpu_span *s = &m->spans[i];
        const cpu_sequence *seq = &m->seqs[m->seq_of[s->row]];
        const cpu_attention a = of_head(j, seq, head);
        size_t q = (s->row - seq->row) * q_dim;
        float *out = m->span_out + i * q_dim + head * group * c->head_dim;

        attend_span(m->dev->ops, &a, a.q + q, s, m->scores + thread * group * CPU_SPAN,
                    s->alone ? a.out + q : out, m->span_log + head * group * m->max_spans + i,
                    m->max_spans);
    }
}

/* Items are heads of queries: shares of a span are weighed by the span's of the whole. */
static void join_spans(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const kern_model *m = j->m;
    const cpu_ops *ops = m->dev->ops;
    size_t dim = m->config.head_dim, q_dim = m->config.n_heads * dim;

    (void)thread;
    for (uint32_t head = begin; head < end; head++) {
        float *log = m->span_log + head * m->max_spans;

        for (uint32_t i = 0, n; i < j->n_spans; i += n) {
            float *out = m->att + m->spans[i].row * q_dim + head * dim;

            n = spans_of_row(j, i);
            if (m->spans[i].alone) {
                continue;
            }
            ops->softmax(log + i, n);
            memset(out, 0, dim * sizeof(*out));
            for (uint32_t k = i; k < i + n; k++) {
                ops->axpy(out, log[k], m->span_out + k * q_dim + head * dim, dim);
            }
        }
    }
}

/* The spans of what a row sees are added to the list; false if they have no room there. */
static bool add_spans(job *j, uint32_t row)
{
    const kern_model *m = j->m;
    const cpu_sequence *s = &m->seqs[m->seq_of[row]];
    uint32_t window = j->layer->window;
    uint32_t end = m->config.encoder ? s->n : s->pos + row - s->row + 1;
    uint32_t first = window > 0 && end > window ? end - window : 0;
    uint32_t n = (end - 1) / CPU_SPAN - first / CPU_SPAN + 1;

    if (n > m->max_spans - j->n_spans) {
        return false;
    }
    for (uint32_t t = first, next; t < end; t = next) {
        next = t - t % CPU_SPAN + CPU_SPAN;
        next = next < end ? next : end;
        m->spans[j->n_spans++] = (cpu_span){row, t, next, n == 1};
    }
    return true;
}

static uint32_t grain_of(size_t values)
{
    return (uint32_t)(MIN_CHUNK_VALUES / values) + 1;
}

static void run_spans(job *j)
{
    const kern_config *c = &j->m->config;
    uint32_t longest = 1;
    bool join = false;

    for (uint32_t i = 0; i < j->n_spans; i++) {
        uint32_t n = j->m->spans[i].end - j->m->spans[i].first;

        longest = n > longest ? n : longest;
        join |= !j->m->spans[i].alone;
    }
    cpu_pool_run(j->m->dev->pool, j->n_spans * c->n_kv_heads,
                 grain_of((size_t)longest * c->head_dim * (c->n_heads / c->n_kv_heads)),
                 attend_spans, j);
    if (join) {
        cpu_pool_run(j->m->dev->pool, c->n_heads, grain_of((size_t)j->n_spans * c->head_dim),
                     join_spans, j);
    }
}

/* As many rows at a time as the list has room for. */
static void attend_in_spans(job *j)
{
    const kern_model *m = j->m;
    uint32_t row = 0;

    while (row < j->in->n_rows) {
        j->n_spans = 0;
        while (row < j->in->n_rows &&
               (in_tiles(j, &m->seqs[m->seq_of[row]]) || add_spans(j, row))) {
            row++;
        }
        run_spans(j);
    }
}

void cpu_attend_all(kern_model *m, const cpu_attending *in, uint32_t layer)
{
    job j = {.m = m, .in = in, .layer = &m->layers[layer]};

    j.may_tile = m->dev->ops->attend != NULL && cpu_in_tiles(m, j.layer->wq.type);
    cpu_pool_run(m->dev->pool, in->n_rows, cpu_row_grain(m->config.d_model), prepare_rows, &j);
    attend_in_tiles(&j);
    attend_in_spans(&j);
}
