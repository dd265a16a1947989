#include "cache/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "core/pool.h"
#include "engine.h"

#define FLIGHT_BITS 12

typedef struct flight {
    struct flight *next;         /* in its place of the table */
    cache_ticket *first, **last; /* who waits, the longest first */
    unsigned n;
    uint8_t key[LRU_KEY];
} flight;

struct cache_ticket {
    cache *cache;
    flight *flight;
    aiq_loop *loop;
    cache_ticket *next;
    cache_told told;
    void *arg;
    lru_entry *entry; /* to be told */
    bool called;      /* a message to its loop is under way; under the lock */
    bool leads, left; /* of its loop */
};

struct cache {
    pthread_mutex_t lock;
    lru *answers;
    flight *flights[1u << FLIGHT_BITS];
    uint64_t seed;
    metric *counts[CACHE_COUNTS], *evictions, *bytes, *entries;
};

static uint64_t now_ms(void)
{
    return loop_now_ns() / 1000000;
}

uint64_t cache_age_ms(const lru_entry *entry)
{
    return now_ms() - entry->stored_ms;
}

static metric *of(metric_family *family, const char *name)
{
    return metrics_sample(family, (const char *[]){name});
}

static void add_metrics(cache *c, metrics *m)
{
    metric_family *hits =
        metrics_family(m, METRIC_COUNTER, "aiq_cache_hits_total",
                       "Requests that an earlier answer was good for.", "cache_name", NULL);
    metric_family *misses =
        metrics_family(m, METRIC_COUNTER, "aiq_cache_misses_total",
                       "Requests without an earlier answer.", "cache_name", NULL);

    c->counts[CACHE_COUNT_HIT] = of(hits, "memory");
    c->counts[CACHE_COUNT_MISS] = of(misses, "memory");
    c->counts[CACHE_COUNT_REDIS_HIT] = of(hits, "redis");
    c->counts[CACHE_COUNT_REDIS_MISS] = of(misses, "redis");
    c->counts[CACHE_COUNT_SEMANTIC_HIT] = of(hits, "semantic");
    c->counts[CACHE_COUNT_SEMANTIC_MISS] = of(misses, "semantic");
    c->counts[CACHE_COUNT_DRY_RUN_HIT] = of(hits, "semantic_dry_run");
    c->counts[CACHE_COUNT_DRY_RUN_MISS] = of(misses, "semantic_dry_run");
    c->counts[CACHE_COUNT_BYPASS] =
        of(metrics_family(m, METRIC_COUNTER, "aiq_cache_bypasses_total",
                          "Requests that wanted no earlier answer.", "cache_name", NULL),
           "memory");
    c->evictions = of(metrics_family(m, METRIC_COUNTER, "aiq_cache_evictions_total",
                                     "Answers that made room for others.", "cache_name", NULL),
                      "memory");
    c->bytes = of(metrics_family(m, METRIC_GAUGE, "aiq_cache_bytes",
                                 "What the answers that are kept take.", "cache_name", NULL),
                  "memory");
    c->entries = of(metrics_family(m, METRIC_GAUGE, "aiq_cache_entries",
                                   "Answers that are kept.", "cache_name", NULL),
                    "memory");
}

cache *cache_new(aiq_engine *engine, size_t size)
{
    cache *c = aiq_zalloc(sizeof(*c));

    pthread_mutex_init(&c->lock, NULL);
    c->seed = engine->id | 1;
    c->answers = lru_new(size, engine->id);
    add_metrics(c, engine->metrics);
    return c;
}

void cache_free(cache *c)
{
    if (c) {
        lru_free(c->answers);
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

void cache_counts(cache *c, cache_count what)
{
    metric_add(c->counts[what], 1);
}

/* Flights. All of these under the lock. */

static flight **find_flight(cache *c, const uint8_t key[LRU_KEY])
{
    uint64_t head;

    memcpy(&head, key, sizeof(head));
    flight **at = &c->flights[head * c->seed >> (64 - FLIGHT_BITS)];
    while (*at && memcmp((*at)->key, key, LRU_KEY) != 0) {
        at = &(*at)->next;
    }
    return at;
}

static flight *begin_flight(flight **at, const uint8_t key[LRU_KEY])
{
    flight *f = aiq_zalloc(sizeof(*f));

    memcpy(f->key, key, LRU_KEY);
    f->last = &f->first;
    *at = f;
    return f;
}

/* Who waits, to be called. */
static cache_ticket *end_flight(cache *c, flight *f)
{
    cache_ticket *first = f->first;

    *find_flight(c, f->key) = f->next;
    free(f);
    return first;
}

static cache_ticket *first_of(flight *f)
{
    cache_ticket *t = f->first;

    f->first = t->next;
    f->last = f->first ? f->last : &f->first;
    f->n--;
    t->next = NULL;
    return t;
}

static void take_out(flight *f, cache_ticket *t)
{
    cache_ticket **at = &f->first;

    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    f->last = t->next ? f->last : at;
    f->n--;
}

/* Tickets. */

static cache_ticket *ticket_new(cache *c, aiq_loop *loop, cache_told told, void *arg)
{
    cache_ticket *t = aiq_zalloc(sizeof(*t));

    t->cache = c;
    t->loop = loop;
    t->told = told;
    t->arg = arg;
    return t;
}

cache_answer cache_ask(cache *c, aiq_loop *loop, const uint8_t key[LRU_KEY],
                       uint64_t max_age_ms, cache_told told, void *arg, cache_ticket **ticket,
                       lru_entry **entry)
{
    cache_answer answer = CACHE_HIT;

    pthread_mutex_lock(&c->lock);
    *entry = lru_get(c->answers, key, now_ms(), max_age_ms);
    if (*entry == NULL) {
        flight **at = find_flight(c, key);
        answer = *at == NULL                ? CACHE_LEADS
                 : (*at)->n < CACHE_WAITERS ? CACHE_WAITS
                                            : CACHE_ALONE;
        if (answer != CACHE_ALONE) {
            cache_ticket *t = *ticket = ticket_new(c, loop, told, arg);
            t->leads = answer == CACHE_LEADS;
            t->flight = t->leads ? begin_flight(at, key) : *at;
            if (!t->leads) {
                *t->flight->last = t;
                t->flight->last = &t->next;
                t->flight->n++;
            }
        }
    }
    pthread_mutex_unlock(&c->lock);
    return answer;
}

static void on_called(aiq_loop *loop, void *arg)
{
    cache_ticket *t = arg;
    lru_entry *entry = t->entry;

    (void)loop;
    t->leads = entry == NULL;
    if (entry == NULL) {
        if (t->left) {
            cache_leave(t); /* the next one's turn */
        } else {
            t->told(t->arg, NULL);
        }
        return;
    }
    if (t->left) {
        lru_entry_unref(entry);
    } else {
        t->told(t->arg, entry);
    }
    free(t);
}

/* With entry: each has a reference of its own. */
static void call_all(cache_ticket *t, lru_entry *entry)
{
    while (t) {
        cache_ticket *next = t->next; /* once posted, it may be gone */
        t->entry = lru_entry_ref(entry);
        loop_post(t->loop, on_called, t);
        t = next;
    }
}

static lru_entry *put(cache *c, lru_entry *e)
{
    lru_entry *removed = lru_put(c->answers, e);
    lru_stats stats = lru_look(c->answers);

    metric_set(c->bytes, (int64_t)stats.bytes);
    metric_set(c->entries, (int64_t)stats.entries);
    metric_set(c->evictions, (int64_t)stats.evictions);
    return removed;
}

lru_entry *cache_answer_new(const uint8_t key[LRU_KEY], const void *data, size_t len,
                            uint64_t age_ms, uint64_t ttl_ms)
{
    return lru_entry_new(key, data, len, now_ms() - age_ms, ttl_ms);
}

void cache_settle(cache_ticket *ticket, lru_entry *answer)
{
    cache *c = ticket->cache;

    pthread_mutex_lock(&c->lock);
    lru_entry *removed = put(c, answer);
    cache_ticket *waiting = end_flight(c, ticket->flight);
    for (cache_ticket *t = waiting; t; t = t->next) {
        t->called = true;
    }
    pthread_mutex_unlock(&c->lock);
    lru_unref_all(removed);
    call_all(waiting, answer);
    free(ticket);
}

static void leave_lead(cache_ticket *ticket)
{
    cache *c = ticket->cache;
    cache_ticket *next = NULL;

    pthread_mutex_lock(&c->lock);
    if (ticket->flight->first) {
        next = first_of(ticket->flight);
        next->called = true;
    } else {
        end_flight(c, ticket->flight);
    }
    pthread_mutex_unlock(&c->lock);
    if (next) {
        loop_post(next->loop, on_called, next);
    }
    free(ticket);
}

void cache_leave(cache_ticket *ticket)
{
    cache *c = ticket->cache;

    if (ticket->leads) {
        leave_lead(ticket);
        return;
    }
    pthread_mutex_lock(&c->lock);
    ticket->left = true; /* for on_called(), where that is under way */
    bool called = ticket->called;
    if (!called) {
        take_out(ticket->flight, ticket);
    }
    pthread_mutex_unlock(&c->lock);
    if (!called) {
        free(ticket);
    }
}

void cache_put(cache *c, lru_entry *answer)
{
    pthread_mutex_lock(&c->lock);
    lru_entry *removed = put(c, answer);
    pthread_mutex_unlock(&c->lock);
    lru_unref_all(removed);
}
