/*
 * Values by 32-byte keys, for a time, within a bound of bytes; the least recently
 * used go first. Pure: no clock and no lock of its own.
 *
 * Invariants: the sum of what the entries cost, and with it the memory of the table
 * behind them, never exceeds the bound; an entry is in the table and in the order of
 * use, or in neither. An entry never changes once it is put, so whoever holds a
 * reference reads it without a lock, for as long as it likes: what was evicted
 * meanwhile is freed with its last reference.
 *
 * Keys are digests of what clients send, who could look for such that meet in one
 * place of the table; `seed` is what they cannot know.
 */

#ifndef AIQ_LRU_H
#define AIQ_LRU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LRU_KEY 32

typedef struct lru lru;

typedef struct lru_entry {
    struct lru_entry *next;          /* in its place of the table, or among the removed */
    struct lru_entry *newer, *older; /* in the order of use */
    unsigned refs;
    uint64_t stored_ms, expires_ms;
    uint8_t key[LRU_KEY];
    size_t len;
    uint8_t data[];
} lru_entry;

/* max: bytes. Never NULL. */
lru *lru_new(size_t max, uint64_t seed);
/* Entries that are referred to stay. */
void lru_free(lru *l);

/* A copy of data, with one reference: the caller's. */
lru_entry *lru_entry_new(const uint8_t key[LRU_KEY], const void *data, size_t len,
                         uint64_t now_ms, uint64_t ttl_ms);
/* Any thread. */
lru_entry *lru_entry_ref(lru_entry *e);
void lru_entry_unref(lru_entry *e);

/* The entry, with a reference for the caller, and now the most recently used one; NULL:
 * there is none, or it is older than max_age_ms, or than its own time. */
lru_entry *lru_get(lru *l, const uint8_t key[LRU_KEY], uint64_t now_ms, uint64_t max_age_ms);

/* Puts it, with a reference of its own, in place of one with the same key; the return
 * value is what had to go for it, a list by `next` for lru_unref_all(), outside of any
 * lock. One that is larger than the bound is not put. */
lru_entry *lru_put(lru *l, lru_entry *e);
void lru_unref_all(lru_entry *removed);

typedef struct {
    size_t bytes, entries;
    uint64_t evictions; /* for want of room */
} lru_stats;
lru_stats lru_look(const lru *l);

/* Bytes that an entry of this length costs. */
size_t lru_cost(size_t len);

#endif
