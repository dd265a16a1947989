#include "cache/lru.h"

#include <stdlib.h>
#include <string.h>
#include "core/pool.h"

/* What malloc keeps for a piece. */
#define OVERHEAD 16

/* A place in the table for so many bytes of the bound. */
#define BYTES_A_PLACE 2048

struct lru {
    lru_entry **table;
    unsigned bits; /* of its size */
    uint64_t seed;
    size_t max; /* without the table */
    lru_entry *newest, *oldest;
    lru_stats stats;
};

lru *lru_new(size_t max, uint64_t seed)
{
    lru *l = aiq_zalloc(sizeof(*l));

    l->bits = 1;
    while (l->bits < 24 && (size_t)2 << l->bits <= max / BYTES_A_PLACE) {
        l->bits++;
    }
    size_t size = sizeof(*l->table) << l->bits;
    l->table = aiq_zalloc(size);
    l->max = max > size ? max - size : 0;
    l->seed = seed | 1;
    return l;
}

void lru_free(lru *l)
{
    lru_entry *e = l->newest;

    while (e) {
        lru_entry *older = e->older;
        lru_entry_unref(e);
        e = older;
    }
    free(l->table);
    free(l);
}

size_t lru_cost(size_t len)
{
    return sizeof(lru_entry) + len + OVERHEAD;
}

lru_entry *lru_entry_new(const uint8_t key[LRU_KEY], const void *data, size_t len,
                         uint64_t now_ms, uint64_t ttl_ms)
{
    lru_entry *e = aiq_alloc(sizeof(*e) + len);

    *e = (lru_entry){.refs = 1, .stored_ms = now_ms, .expires_ms = now_ms + ttl_ms, .len = len};
    memcpy(e->key, key, LRU_KEY);
    if (len) {
        memcpy(e->data, data, len);
    }
    return e;
}

lru_entry *lru_entry_ref(lru_entry *e)
{
    __atomic_add_fetch(&e->refs, 1, __ATOMIC_RELAXED);
    return e;
}

void lru_entry_unref(lru_entry *e)
{
    /* acq_rel: who frees it comes after all who have read it */
    if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        free(e);
    }
}

void lru_unref_all(lru_entry *removed)
{
    while (removed) {
        lru_entry *next = removed->next;
        lru_entry_unref(removed);
        removed = next;
    }
}

/* Where the key's entry is, or would be, referred to. */
static lru_entry **find(const lru *l, const uint8_t key[LRU_KEY])
{
    uint64_t head;

    memcpy(&head, key, sizeof(head));
    /* the product's upper bits depend on all of the key's and of the seed's */
    lru_entry **at = &l->table[head * l->seed >> (64 - l->bits)];
    while (*at && memcmp((*at)->key, key, LRU_KEY) != 0) {
        at = &(*at)->next;
    }
    return at;
}

static void unlink_use(lru *l, lru_entry *e)
{
    *(e->newer ? &e->newer->older : &l->newest) = e->older;
    *(e->older ? &e->older->newer : &l->oldest) = e->newer;
}

static void link_newest(lru *l, lru_entry *e)
{
    e->newer = NULL;
    e->older = l->newest;
    *(l->newest ? &l->newest->newer : &l->oldest) = e;
    l->newest = e;
}

static lru_entry *take_out(lru *l, lru_entry **at)
{
    lru_entry *e = *at;

    *at = e->next;
    unlink_use(l, e);
    l->stats.bytes -= lru_cost(e->len);
    l->stats.entries--;
    return e;
}

lru_entry *lru_get(lru *l, const uint8_t key[LRU_KEY], uint64_t now_ms, uint64_t max_age_ms)
{
    lru_entry **at = find(l, key), *e = *at;

    if (e == NULL) {
        return NULL;
    }
    if (now_ms >= e->expires_ms) {
        lru_entry_unref(take_out(l, at));
        return NULL;
    }
    if (now_ms - e->stored_ms >= max_age_ms) {
        return NULL;
    }
    unlink_use(l, e);
    link_newest(l, e);
    return lru_entry_ref(e);
}

lru_entry *lru_put(lru *l, lru_entry *e)
{
    size_t cost = lru_cost(e->len);
    lru_entry *removed = NULL, **at = find(l, e->key);

    if (cost > l->max) {
        return NULL;
    }
    if (*at) {
        removed = take_out(l, at);
        removed->next = NULL;
    }
    while (l->max - l->stats.bytes < cost) {
        lru_entry *old = take_out(l, find(l, l->oldest->key));
        old->next = removed;
        removed = old;
        l->stats.evictions++;
    }
    at = find(l, e->key);
    e->next = *at;
    *at = lru_entry_ref(e);
    link_newest(l, e);
    l->stats.bytes += cost;
    l->stats.entries++;
    return removed;
}

lru_stats lru_look(const lru *l)
{
    return l->stats;
}
