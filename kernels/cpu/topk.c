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

typedef struct {
    const cpu_ops *ops;
    const kern_topk *job;
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

static void rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const work *w = arg;
    const kern_topk *job = w->job;
    best *b = &w->best[thread];
    float scores[STEP];

    for (uint32_t at = begin; at < end; at += STEP) {
        uint32_t n = end - at < STEP ? end - at : STEP;

        const uint16_t *first = job->rows + (size_t)at * job->cols;
        const cpu_f16_rows some = {first, first + AHEAD, n, job->cols};

        w->ops->dots_f16(scores, n, &some, job->query, 1);
        for (uint32_t i = 0; i < n; i++) {
            offer(b, job->k, (kern_hit){at + i, scores[i]});
        }
    }
}

bool cpu_topk(kern_device *dev, const kern_topk *job, kern_hit *hits, uint32_t *n_hits)
{
    uint32_t threads = cpu_pool_size(dev->pool);
    best *all = aligned_alloc(64, threads * sizeof(*all));
    work w = {dev->ops, job, all};

    assert(job->k >= 1 && job->k <= KERN_TOPK_MAX && job->cols >= 1);
    if (all == NULL) {
        dev->error = "out of memory for the best rows";
        return false;
    }
    for (uint32_t i = 0; i < threads; i++) {
        all[i].n = 0;
    }
    cpu_pool_run(dev->pool, job->n, GRAIN, rows, &w);
    for (uint32_t t = 1; t < threads; t++) {
        for (uint32_t i = 0; i < all[t].n; i++) {
            offer(&all[0], job->k, all[t].hits[i]);
        }
    }
    *n_hits = all[0].n;
    for (uint32_t i = 0; i < all[0].n; i++) {
        hits[i] = all[0].hits[i];
    }
    free(all);
    return true;
}
