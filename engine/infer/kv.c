#include "infer/kv.h"

#include <assert.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    kv_key key;      /* where it can be found */
    uint32_t owners; /* sequences */
    bool found;      /* it can be */
    uint32_t next;   /* of its bucket */
    uint32_t older;  /* where idle: its neighbours; the oldest is end's newer */
    uint32_t newer;
} page;

/* Memory is touched as late as can be: that of pages that were never used is none. */
struct kv_pool {
    uint32_t n_pages;
    uint32_t n_touched; /* pages below it were in use once */
    uint32_t n_free;    /* of those */
    uint32_t n_idle;
    uint32_t mask;
    uint32_t *free;    /* [n_free] the last is taken first */
    uint32_t *buckets; /* [mask + 1] 0: empty, otherwise a page's number and 1 */
    page *pages;       /* [n_pages + 1] the last is the end of the idle */

    /* held by the owner's thread where it changes what can be found, and by others to look */
    pthread_mutex_t finding;
};

kv_pool *kv_pool_new(uint32_t n_pages)
{
    kv_pool *pool = calloc(1, sizeof(*pool));

    if (pool == NULL) {
        return NULL;
    }
    pthread_mutex_init(&pool->finding, NULL);
    pool->n_pages = n_pages;
    while (pool->mask < n_pages) {
        pool->mask = pool->mask * 2 + 1;
    }
    pool->free = calloc(n_pages, sizeof(*pool->free));
    pool->buckets = calloc((size_t)pool->mask + 1, sizeof(*pool->buckets));
    pool->pages = calloc((size_t)n_pages + 1, sizeof(*pool->pages));
    if (pool->free == NULL || pool->buckets == NULL || pool->pages == NULL) {
        kv_pool_free(pool);
        return NULL;
    }
    pool->pages[n_pages].older = pool->pages[n_pages].newer = n_pages;
    return pool;
}

void kv_pool_free(kv_pool *pool)
{
    free(pool->free);
    free(pool->buckets);
    free(pool->pages);
    pthread_mutex_destroy(&pool->finding);
    free(pool);
}

uint32_t kv_size(const kv_pool *pool)
{
    return pool->n_pages;
}

uint32_t kv_available(const kv_pool *pool)
{
    return pool->n_free + pool->n_idle + pool->n_pages - pool->n_touched;
}

/* --- keys --- */

static kv_key hash(const void *text, size_t len)
{
    kv_key key;

    SHA256(text, len, key.bytes);
    return key;
}

/* Twice, so that no name has the key of a page. */
kv_key kv_scope(const void *name, size_t len)
{
    kv_key key = hash(name, len);

    return hash(&key, sizeof(key));
}

static kv_key next_key(const kv_key *before, const int32_t *ids)
{
    uint8_t text[sizeof(kv_key) + KERN_PAGE * sizeof(*ids)];

    memcpy(text, before, sizeof(*before));
    memcpy(text + sizeof(*before), ids, KERN_PAGE * sizeof(*ids));
    return hash(text, sizeof(text));
}

static uint32_t *bucket_of(kv_pool *pool, const kv_key *key)
{
    uint32_t n;

    memcpy(&n, key->bytes, sizeof(n));
    return &pool->buckets[n & pool->mask];
}

/* The link to the page of this key: 0 if there is none. */
static uint32_t *find(kv_pool *pool, const kv_key *key)
{
    uint32_t *link = bucket_of(pool, key);

    while (*link != 0 && memcmp(&pool->pages[*link - 1].key, key, sizeof(*key)) != 0) {
        link = &pool->pages[*link - 1].next;
    }
    return link;
}

/* --- idle pages --- */

static void rest(kv_pool *pool, uint32_t n)
{
    page *p = &pool->pages[n], *end = &pool->pages[pool->n_pages];

    p->older = end->older;
    p->newer = pool->n_pages;
    pool->pages[p->older].newer = n;
    end->older = n;
    pool->n_idle++;
}

static void wake(kv_pool *pool, uint32_t n)
{
    page *p = &pool->pages[n];

    pool->pages[p->older].newer = p->newer;
    pool->pages[p->newer].older = p->older;
    pool->n_idle--;
}

/* --- sequences --- */

static uint32_t take(kv_pool *pool)
{
    uint32_t n;

    if (pool->n_free > 0) {
        n = pool->free[--pool->n_free];
    } else if (pool->n_touched < pool->n_pages) {
        n = pool->n_touched++;
    } else {
        uint32_t *link;

        assert(pool->n_idle > 0);
        n = pool->pages[pool->n_pages].newer;
        pthread_mutex_lock(&pool->finding);
        link = find(pool, &pool->pages[n].key);
        assert(*link == n + 1);
        *link = pool->pages[n].next;
        pool->pages[n].found = false;
        pthread_mutex_unlock(&pool->finding);
        wake(pool, n);
    }
    pool->pages[n].owners = 1;
    return n;
}

uint32_t kv_begin(kv_pool *pool, kv_seq *s, const kv_key *scope, const int32_t *ids, uint32_t n)
{
    assert(s->n == 0 && n > 0);
    s->key = *scope;
    s->n_known = 0;
    while ((s->n + 1) * KERN_PAGE < n) {
        kv_key key = next_key(&s->key, ids + s->n * KERN_PAGE);
        uint32_t *link = find(pool, &key), found = *link - 1;

        if (*link == 0) {
            break;
        }
        if (pool->pages[found].owners++ == 0) {
            wake(pool, found);
        }
        s->pages[s->n++] = found;
        s->key = key;
    }
    s->n_known = s->n;
    return s->n * KERN_PAGE;
}

uint32_t kv_known(kv_pool *pool, const kv_key *scope, const int32_t *ids, uint32_t n)
{
    kv_key key = *scope;
    uint32_t known = 0;

    pthread_mutex_lock(&pool->finding);
    while ((known + 1) * KERN_PAGE < n) {
        key = next_key(&key, ids + known * KERN_PAGE);
        if (*find(pool, &key) == 0) {
            break;
        }
        known++;
    }
    pthread_mutex_unlock(&pool->finding);
    return known * KERN_PAGE;
}

bool kv_grow(kv_pool *pool, kv_seq *s, uint32_t n)
{
    uint32_t want = kv_pages_for(n);

    if (want > s->n && want - s->n > kv_available(pool)) {
        return false;
    }
    while (s->n < want) {
        s->pages[s->n++] = take(pool);
    }
    return true;
}

void kv_note(kv_pool *pool, kv_seq *s, const int32_t *ids, uint32_t n)
{
    while (s->n_known < n / KERN_PAGE) {
        uint32_t i = s->n_known++;
        page *p = &pool->pages[s->pages[i]];
        uint32_t *link;

        s->key = next_key(&s->key, ids + i * KERN_PAGE);
        pthread_mutex_lock(&pool->finding);
        link = find(pool, &s->key);
        if (*link == 0) { /* else somebody was faster, and this one is nobody else's */
            p->key = s->key;
            p->found = true;
            p->next = 0;
            *link = s->pages[i] + 1;
        }
        pthread_mutex_unlock(&pool->finding);
    }
}

/* From the last to the first: the end of a sequence is wanted again less than its beginning. */
void kv_drop(kv_pool *pool, kv_seq *s)
{
    while (s->n > 0) {
        uint32_t n = s->pages[--s->n];
        page *p = &pool->pages[n];

        assert(p->owners > 0);
        if (--p->owners > 0) {
            continue;
        }
        if (p->found) {
            rest(pool, n);
        } else {
            pool->free[pool->n_free++] = n;
        }
    }
    s->n_known = 0;
}
