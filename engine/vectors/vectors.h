/*
 * Vectors, each with what it leads to, found again by nearness: the index behind the semantic
 * cache, and behind whatever else looks for what is like something.
 *
 * A search sees one partition, named by a key that says all that must be equal: who may see
 * it, and what made the vector. The rows of a partition lie behind each other, so that a
 * search is one exact pass over them (topk of kernels/aiq_kernels.h): no training, no
 * parameters, and what was added or removed is so at once.
 *
 * Invariants: all vectors of a partition have as many numbers; the sum of what is kept, with
 * the tables, never exceeds the bound: who was added or used least recently goes first; of an
 * id there is at most one vector; what has expired is not found.
 *
 * Pure but for threads that compute: no clock, no lock. One owner at a time.
 */

#ifndef AIQ_VECTORS_H
#define AIQ_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/pool.h"
#include "kernels/aiq_kernels.h"

#define VECTORS_KEY  32
#define VECTORS_DIMS 8192
#define VECTORS_HITS KERN_TOPK_MAX
#define VECTORS_EVER UINT64_MAX /* as expires_ms: never */

typedef struct vectors vectors;

typedef struct {
    uint64_t id;
    uint8_t partition[VECTORS_KEY];
    uint32_t dims;       /* from 1 to VECTORS_DIMS */
    const uint16_t *row; /* [dims], f16 */
    aiq_str data;        /* what it leads to */
    uint64_t stored_ms, expires_ms;
} vectors_item;

typedef struct {
    float score; /* the dot product: of vectors of length 1, how near they are */
    vectors_item item;
} vectors_hit;

/* max: bytes; 0: nothing is kept. threads: that search, the owner's included. NULL: there is
 * no memory, or no threads. */
vectors *vectors_new(size_t max, uint64_t seed, uint32_t threads);
/* NULL is fine. */
void vectors_free(vectors *v);

/* The nearest f16. What is too large becomes infinite. */
void vectors_round(uint16_t *row, const float *x, uint32_t dims);

/* Keeps a copy in place of one with the same id. False: it is larger than the bound, or its
 * dims are none of the partition's, or of any. */
bool vectors_add(vectors *v, const vectors_item *item);

/* False: there is none with this id. What get() and search() give stays until the next call
 * that adds or removes, or searches. */
bool vectors_remove(vectors *v, uint64_t id);
bool vectors_get(const vectors *v, uint64_t id, vectors_item *item);
/* It was of use: others go first. */
void vectors_use(vectors *v, uint64_t id);

/* The nearest of a partition, the best first; n of them at most, which is from 1 to
 * VECTORS_HITS. Returns how many. */
uint32_t vectors_search(vectors *v, const uint8_t partition[VECTORS_KEY], const float *query,
                        uint32_t dims, uint64_t now_ms, vectors_hit *hits, uint32_t n);

/* All of them, the least recently used first. fn changes nothing. */
typedef void (*vectors_fn)(void *arg, const vectors_item *item);
void vectors_each(const vectors *v, vectors_fn fn, void *arg);

typedef struct {
    size_t bytes, vectors, partitions;
    uint64_t evictions; /* for want of room */
} vectors_stats;
vectors_stats vectors_look(const vectors *v);

#endif
