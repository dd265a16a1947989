/*
 * The rows nearest to a query, in one pass over them: each thread scores a few rows at a time
 * and keeps its own best, which are merged at the end. Memory is read once, and that is what
 * it takes: the sums cost less than the reading.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <stdlib.h>

/* Rows that a thread takes at a time: few enough that threads end together, and enough that
 * taking them costs nothing. Their scores are looked at in steps that stay in its cache. */
#define GRAIN 1024
#define STEP  64

/* How far ahead of a row is asked for what follows it, in numbers: 2 KB. The hardware looks
 * ahead, too, but stops at the end of a page. */
#define AHEAD 1024

/* One thread's, on cache lines of its own. The best first. */
typedef struct {
    _Alignas(64) uint32_t n;
    kern_hit hits[KERN_TOPK_MAX];
} best;

struct kern_rows {
    kern_device *dev;
    const uint16_t *data; /* [n][cols] */
    uint32_t n;
    uint32_t cols;
};

typedef struct {
    const kern_rows *rows;
    const float *query;
    uint32_t k;
    best *best; /* [threads] */
} work;

static bool is_before(kern_hit a, kern_hit b)
{
    return a.score > b.score || (a.score == b.score && a.row < b.row);
}

/* Few rows get here: of n in any order about k (1 + ln(n / k)). */
static void insert(best *b, uint32_t k, kern_hit hit)
{
    uint32_t i = b->n < k ? b->n++ : k - 1;

    for (; i > 0 && is_before(hit, b->hits[i - 1]); i--) {
        b->hits[i] = b->hits[i - 1];
    }
    b->hits[i] = hit;
}

static void offer(best *b, uint32_t k, kern_hit hit)
{
    /* false for NaN, too */
    if (b->n == k ? is_before(hit, b->hits[k - 1]) : hit.score == hit.score) {
        insert(b, k, hit);
    }
}

static void score_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const work *w = arg;
    const kern_rows *r = w->rows;
    best *b = &w->best[thread];
    float scores[STEP];

    for (uint32_t at = begin; at < end; at += STEP) {
        uint32_t n = end - at < STEP ? end - at : STEP;

        const uint16_t *first = r->data + (size_t)at * r->cols;
        const cpu_f16_rows some = {first, first + AHEAD, n, r->cols};

        r->dev->ops->dots_f16(scores, n, &some, w->query, 1);
        for (uint32_t i = 0; i < n; i++) {
            offer(b, w->k, (kern_hit){at + i, scores[i]});
        }
    }
}

kern_rows *cpu_rows_load(kern_device *dev, const uint16_t *rows, uint32_t n, uint32_t cols)
{
    kern_rows *r = malloc(sizeof(*r));

    assert(cols >= 1);
    if (r == NULL) {
        dev->error = "out of memory for rows";
        return NULL;
    }
    *r = (kern_rows){dev, rows, n, cols};
    return r;
}

void cpu_rows_free(kern_rows *rows)
{
    free(rows);
}

bool cpu_topk(kern_rows *rows, const float *query, uint32_t k, kern_hit *hits, uint32_t *n_hits)
{
    cpu_pool *pool = rows->dev->pool;
    uint32_t threads = cpu_pool_size(pool);
    best *all = aligned_alloc(64, threads * sizeof(*all));
    work w = {rows, query, k, all};

    assert(k >= 1 && k <= KERN_TOPK_MAX);
    if (all == NULL) {
        rows->dev->error = "out of memory for the best rows";
        return false;
    }
    for (uint32_t i = 0; i < threads; i++) {
        all[i].n = 0;
    }
    cpu_pool_run(pool, rows->n, GRAIN, score_rows, &w);
    for (uint32_t t = 1; t < threads; t++) {
        for (uint32_t i = 0; i < all[t].n; i++) {
            offer(&all[0], k, all[t].hits[i]);
        }
    }
    *n_hits = all[0].n;
    for (uint32_t i = 0; i < all[0].n; i++) {
        hits[i] = all[0].hits[i];
    }
    free(all);
    return true;
}
