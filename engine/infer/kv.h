/*
 * Which pages of keys and values are whose: a back end has a pool of them (aiq_kernels.h) and
 * knows their numbers only. The model's thread.
 */
#ifndef INFER_KV_H
#define INFER_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"

typedef struct kv_pool kv_pool;

/* What a sequence has. */
typedef struct {
    uint32_t *pages; /* [n] the first KERN_PAGE tokens are in the first, and so on */
    uint32_t n;
} kv_seq;

/* NULL: no memory. */
kv_pool *kv_pool_new(uint32_t n_pages);
void kv_pool_free(kv_pool *pool);

/* Pages for n tokens. */
static inline uint32_t kv_pages_for(uint32_t n)
{
    return n / KERN_PAGE + (n % KERN_PAGE > 0);
}

/* Pages that nobody has. */
uint32_t kv_available(const kv_pool *pool);

/* Until s has room for n tokens; there is room in s->pages for so many, too. False, and nothing
 * is taken, if fewer are available. */
bool kv_grow(kv_pool *pool, kv_seq *s, uint32_t n);

/* Gives all of them back. */
void kv_drop(kv_pool *pool, kv_seq *s);

#endif
