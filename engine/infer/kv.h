/*
 * Which pages of keys and values are whose: a back end has a pool of them (aiq_kernels.h) and
 * knows their numbers only. One thread, but for kv_known.
 *
 * What a full page holds depends on its tokens and on all before them, so it is known by a
 * chain: SHA-256 of the key of the page before it, or of whoever may share, and its own tokens.
 * Sequences with the same beginning have the same pages, one that ended leaves its pages to be
 * found again, and those that were not wanted for the longest time are taken for others.
 *
 * Invariants: a page that can be found is full and is not written any more; a page is free,
 * idle (nobody's, but can be found) or has as many owners as it is in sequences.
 */
#ifndef INFER_KV_H
#define INFER_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"

typedef struct kv_pool kv_pool;

typedef struct {
    uint8_t bytes[32];
} kv_key;

/* What a sequence has. */
typedef struct {
    uint32_t *pages; /* [n] the first KERN_PAGE tokens are in the first, and so on */
    uint32_t n;
    uint32_t n_known; /* of these, the first whose key is reckoned */
    kv_key key;       /* of the last of them */
} kv_seq;

/* NULL: no memory. */
kv_pool *kv_pool_new(uint32_t n_pages);
void kv_pool_free(kv_pool *pool);

/* Pages for n tokens. */
static inline uint32_t kv_pages_for(uint32_t n)
{
    return n / KERN_PAGE + (n % KERN_PAGE > 0);
}

uint32_t kv_size(const kv_pool *pool);

/* Pages that nobody has. */
uint32_t kv_available(const kv_pool *pool);

/* The key of all who may share pages. */
kv_key kv_scope(const void *name, size_t len);

/*
 * Begins s, which has no pages, with those that hold the beginning of ids, [n]. Returns how
 * many tokens these are; at least the last of the n is not among them. There is room in
 * s->pages for all n.
 */
uint32_t kv_begin(kv_pool *pool, kv_seq *s, const kv_key *scope, const int32_t *ids,
                  uint32_t n);

/* How many tokens kv_begin would find. Any thread. */
uint32_t kv_known(kv_pool *pool, const kv_key *scope, const int32_t *ids, uint32_t n);

/* Until s has room for n tokens; there is room in s->pages for so many, too. False, and nothing
 * is taken, if fewer are available. */
bool kv_grow(kv_pool *pool, kv_seq *s, uint32_t n);

/* The first n of ids are in s's pages now, and do not change: others may find them. */
void kv_note(kv_pool *pool, kv_seq *s, const int32_t *ids, uint32_t n);

/* Gives all of them back. */
void kv_drop(kv_pool *pool, kv_seq *s);

#endif
