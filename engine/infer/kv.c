#include "infer/kv.h"

#include <assert.h>
#include <stdlib.h>

struct kv_pool {
    uint32_t n_pages;
    uint32_t n_touched; /* pages below it were in use once: memory is taken as late as can be */
    uint32_t n_free;
    uint32_t free[]; /* [n_free] of those below n_touched; the last is taken first */
};

kv_pool *kv_pool_new(uint32_t n_pages)
{
    kv_pool *pool = calloc(1, sizeof(*pool) + (size_t)n_pages * sizeof(*pool->free));

    if (pool != NULL) {
        pool->n_pages = n_pages;
    }
    return pool;
}

void kv_pool_free(kv_pool *pool)
{
    free(pool);
}

uint32_t kv_available(const kv_pool *pool)
{
    return pool->n_free + pool->n_pages - pool->n_touched;
}

bool kv_grow(kv_pool *pool, kv_seq *s, uint32_t n)
{
    uint32_t want = kv_pages_for(n);

    if (want > s->n && want - s->n > kv_available(pool)) {
        return false;
    }
    while (s->n < want) {
        s->pages[s->n++] = pool->n_free > 0 ? pool->free[--pool->n_free] : pool->n_touched++;
    }
    return true;
}

void kv_drop(kv_pool *pool, kv_seq *s)
{
    assert(s->n <= pool->n_touched - pool->n_free);
    while (s->n > 0) {
        pool->free[pool->n_free++] = s->pages[--s->n];
    }
}
