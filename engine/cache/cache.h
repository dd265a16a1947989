/*
 * The exact cache of all loops: answers by the digest of what was asked (lru.h), and
 * who asks the same at the same time.
 *
 * One mutex guards it all. It is held for a look into a table and a few links, never
 * for a copy nor to free what was evicted, so no loop waits on another for long.
 *
 * Single flight: who finds no answer leads, and those who ask the same meanwhile wait
 * for it. A leader that ends without an answer to keep is followed by who has waited
 * longest, and only by that one. So at most one request of a flight is out at a time,
 * whatever becomes of it. How many wait is bounded (CACHE_WAITERS); how long is up to
 * those who wait.
 */

#ifndef AIQ_CACHE_H
#define AIQ_CACHE_H

#include "cache/lru.h"
#include "core/loop.h"

#define CACHE_WAITERS 1024

typedef struct cache cache;
typedef struct cache_ticket cache_ticket; /* of one that leads or waits */

/* size: bytes; 0: nothing is kept. Main thread, before the loops start. Never NULL. */
cache *cache_new(aiq_engine *engine, size_t size);
/* After the loops' end. NULL is fine. */
void cache_free(cache *c);

typedef enum {
    CACHE_HIT,   /* *entry */
    CACHE_LEADS, /* *ticket, for cache_settle() or cache_leave() */
    CACHE_WAITS, /* *ticket; told() comes, unless cache_leave() does before */
    CACHE_ALONE  /* too many wait already */
} cache_answer;

/* On the loop that asked. An entry: here is the answer, with a reference for the callee,
 * and the ticket is gone. NULL: the ticket leads now. */
typedef void (*cache_told)(void *arg, lru_entry *entry);

/* max_age_ms: an older answer is none. On `loop`; so the next two. */
cache_answer cache_ask(cache *c, aiq_loop *loop, const uint8_t key[LRU_KEY],
                       uint64_t max_age_ms, cache_told told, void *arg, cache_ticket **ticket,
                       lru_entry **entry);

/* An answer that came age_ms ago, and may become ttl_ms old; data is copied. With one
 * reference, the caller's. Any thread. */
lru_entry *cache_answer_new(const uint8_t key[LRU_KEY], const void *data, size_t len,
                            uint64_t age_ms, uint64_t ttl_ms);

/* The leader's answer, for those who wait and those to come. The ticket is gone, the
 * reference is still the caller's. */
void cache_settle(cache_ticket *ticket, lru_entry *answer);

/* Of a leader: there is no answer to keep; of one that waits: not any longer. The ticket
 * is gone, and told() does not come. */
void cache_leave(cache_ticket *ticket);

/* An answer that nobody waits for. Any thread. */
void cache_put(cache *c, lru_entry *answer);

/* What became of a request; and of a look into Redis, or for a question like it, of one that
 * was a miss before. Any thread. */
typedef enum {
    CACHE_COUNT_HIT,
    CACHE_COUNT_MISS,
    CACHE_COUNT_BYPASS,
    CACHE_COUNT_REDIS_HIT,
    CACHE_COUNT_REDIS_MISS,
    CACHE_COUNT_SEMANTIC_HIT,
    CACHE_COUNT_SEMANTIC_MISS,
    CACHE_COUNT_DRY_RUN_HIT,
    CACHE_COUNT_DRY_RUN_MISS,
    CACHE_COUNTS
} cache_count;
void cache_counts(cache *c, cache_count what);

/* Milliseconds since the answer was kept. */
uint64_t cache_age_ms(const lru_entry *entry);

#endif
