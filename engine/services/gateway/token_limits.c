#include "services/gateway/token_limits.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024u
/* What has expired goes when others come: so many at a time. */
#define EVICT 2

/* So many windows may be there for those that an earlier engine has left to be added. */
#define SAVED_WINDOWS 65536u

/* Of a request: what a provider says may be anything. */
#define MOST (1LL << 40)

/* One bucket more than slots: the oldest counts until its last token has left. */
#define RING (LIMIT_SLOTS + 1)

typedef struct zone {
    struct zone *next;
    char *name;
    uint32_t windows;
} zone;

struct token_window {
    token_window *next;          /* in its bucket */
    token_window *newer, *older; /* of all, by their last use */
    zone *zone;
    uint8_t key[AIQ_LIMIT_KEY];
    uint32_t window_ms;
    uint32_t holds;
    uint64_t slot; /* the newest */
    int64_t used[RING], total;
};

struct token_limits {
    pthread_mutex_t lock;
    token_window *buckets[BUCKETS];
    token_window *newest, *oldest;
    zone *zones; /* as many as configurations ever named */
    size_t n_windows;
    uint64_t changes;
    metric *refused;
};

token_limits *token_limits_new(metrics *m)
{
    token_limits *t = aiq_zalloc(sizeof(*t));

    pthread_mutex_init(&t->lock, NULL);
    t->refused =
        metrics_sample(metrics_family(m, METRIC_COUNTER, "aiq_token_limit_refused_total",
                                      "Requests that a limit of tokens refused.", "", NULL),
                       NULL);
    return t;
}

void token_limits_free(token_limits *t)
{
    if (t == NULL) {
        return;
    }
    while (t->newest) {
        token_window *w = t->newest;
        t->newest = w->older;
        free(w);
    }
    while (t->zones) {
        zone *z = t->zones;
        t->zones = z->next;
        free(z->name);
        free(z);
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Windows. The lock is held in what follows. */

static uint64_t slot_ms(const token_window *w)
{
    return w->window_ms / LIMIT_SLOTS;
}

/* Forgets what has left the window by then. */
static void slide(token_window *w, uint64_t now_ms)
{
    uint64_t slot = now_ms / slot_ms(w), steps = slot > w->slot ? slot - w->slot : 0;

    for (uint64_t i = 1; i <= steps && i <= RING; i++) {
        int64_t *used = &w->used[(w->slot + i) % RING];
        w->total -= *used;
        *used = 0;
    }
    w->slot += steps;
}

/* Other loops' clocks may be a little ahead: the newest slot is what counts. */
static void add(token_window *w, uint64_t slot, int64_t tokens)
{
    if (w->slot - slot < RING) {
        w->used[slot % RING] += tokens;
        w->total += tokens;
    }
}

/* Until so many tokens have left the window. */
static uint64_t wait_ms(const token_window *w, int64_t tokens, uint64_t now_ms)
{
    uint64_t oldest = w->slot >= RING - 1 ? w->slot - (RING - 1) : 0;

    for (uint64_t slot = oldest; slot <= w->slot; slot++) {
        tokens -= w->used[slot % RING];
        if (tokens <= 0) {
            uint64_t leaves = (slot + RING) * slot_ms(w);
            return leaves > now_ms ? leaves - now_ms : 1;
        }
    }
    return w->window_ms; /* held by those that have not ended */
}

static void unlink_window(token_limits *t, token_window *w)
{
    *(w->newer ? &w->newer->older : &t->newest) = w->older;
    *(w->older ? &w->older->newer : &t->oldest) = w->newer;
}

static void link_newest(token_limits *t, token_window *w)
{
    w->newer = NULL;
    w->older = t->newest;
    *(t->newest ? &t->newest->newer : &t->oldest) = w;
    t->newest = w;
}

static token_window **bucket_of(token_limits *t, const uint8_t *key)
{
    uint32_t hash;

    memcpy(&hash, key, sizeof(hash)); /* a hash already */
    return &t->buckets[hash % BUCKETS];
}

static void evict(token_limits *t, uint64_t now_ms)
{
    for (int n = 0; n < EVICT && t->oldest; n++) {
        token_window *w = t->oldest, **p = bucket_of(t, w->key);

        slide(w, now_ms);
        if (w->holds || w->total > 0) {
            return;
        }
        while (*p != w) {
            p = &(*p)->next;
        }
        *p = w->next;
        unlink_window(t, w);
        w->zone->windows--;
        t->n_windows--;
        free(w);
    }
}

static zone *find_zone(token_limits *t, const char *name)
{
    zone *z = t->zones;

    while (z && strcmp(z->name, name) != 0) {
        z = z->next;
    }
    if (z == NULL) {
        z = aiq_zalloc(sizeof(*z));
        z->name = strcpy(aiq_alloc(strlen(name) + 1), name);
        z->next = t->zones;
        t->zones = z;
    }
    return z;
}

/* NULL: there are as many of its zone as there may be. */
static token_window *find_window(token_limits *t, const char *name, uint32_t window_ms,
                                 uint32_t keys, const uint8_t *key, uint64_t now_ms)
{
    token_window **first = bucket_of(t, key), *w = *first;

    while (w && (memcmp(w->key, key, AIQ_LIMIT_KEY) != 0 || w->window_ms != window_ms ||
                 strcmp(w->zone->name, name) != 0)) {
        w = w->next;
    }
    if (w) {
        unlink_window(t, w);
    } else {
        evict(t, now_ms);
        zone *z = find_zone(t, name);
        if (z->windows >= keys) {
            return NULL;
        }
        z->windows++;
        t->n_windows++;
        w = aiq_zalloc(sizeof(*w));
        w->zone = z;
        memcpy(w->key, key, AIQ_LIMIT_KEY);
        w->window_ms = window_ms;
        w->slot = now_ms / slot_ms(w);
        w->next = *first;
        *first = w;
    }
    link_newest(t, w);
    slide(w, now_ms);
    return w;
}

static bool is_empty(const uint8_t *key)
{
    static const uint8_t none[AIQ_LIMIT_KEY];

    return memcmp(key, none, AIQ_LIMIT_KEY) == 0;
}

static bool refuse_full(const policy_limit *limit, aiq_err *err)
{
    aiq_fail(err, 503, "limit_zone_full",
             "The server cannot count this request at the moment.");
    aiq_err_detail(err, "zone %.200s", limit->zone);
    err->retry_after = 1;
    return false;
}

static void refuse_rate(const policy_limit *limit, uint64_t ms, aiq_err *err)
{
    aiq_fail(err, 429, "rate_limit_exceeded", "Too many tokens in a time; try again later.");
    aiq_err_detail(err, "zone %.200s", limit->zone);
    err->retry_after = (uint32_t)((ms + 999) / 1000);
}

/* NULL: there is no room for it. */
static token_window *hold_window(token_hold *hold, size_t i, const uint8_t *key, int64_t tokens,
                                 uint64_t now_ms)
{
    const policy_limit *rule = &hold->rules[i];
    token_window *w =
        find_window(hold->limits, rule->zone, rule->window_ms, rule->keys, key, now_ms);

    if (w) {
        w->holds++; /* it stays while others are looked for */
        hold->windows[i] = w;
        hold->tokens[i] = tokens < rule->tokens ? tokens : rule->tokens;
        hold->slots[i] = w->slot;
    }
    return w;
}

/* Finds the windows and looks whether all have room; err says when the last one will. */
static bool look(token_hold *hold, const uint8_t *keys, int64_t tokens, uint64_t now_ms,
                 aiq_err *err)
{
    uint64_t latest = 0;

    for (size_t i = 0; i < hold->n; i++) {
        const policy_limit *rule = &hold->rules[i];
        if (is_empty(keys + i * AIQ_LIMIT_KEY)) {
            continue;
        }
        token_window *w = hold_window(hold, i, keys + i * AIQ_LIMIT_KEY, tokens, now_ms);
        if (w == NULL) {
            return refuse_full(rule, err);
        }
        int64_t excess = w->total + hold->tokens[i] - rule->tokens;
        uint64_t ms = excess > 0 ? wait_ms(w, excess, now_ms) : 0;
        if (ms > latest) {
            latest = ms;
            refuse_rate(rule, ms, err);
        }
    }
    return latest == 0;
}

static int64_t reset_ms(const token_window *w, uint64_t now_ms)
{
    for (uint64_t i = 0; i < RING && i <= w->slot; i++) {
        if (w->used[(w->slot - i) % RING] > 0) {
            return (int64_t)((w->slot - i + LIMIT_SLOTS) * slot_ms(w) - now_ms);
        }
    }
    return 0;
}

static token_state state_of(const token_hold *hold, uint64_t now_ms)
{
    token_state state = {0};

    for (size_t i = 0; i < hold->n; i++) {
        token_window *w = hold->windows[i];
        if (w) {
            slide(w, now_ms);
            int64_t left = hold->rules[i].tokens - w->total;
            left = left > 0 ? left : 0;
            if (state.limit == 0 || left < state.remaining) {
                int64_t ms = reset_ms(w, now_ms);
                state = (token_state){hold->rules[i].tokens, left, ms > 0 ? ms : 0};
            }
        }
    }
    return state;
}

static void let_go(token_hold *hold)
{
    for (size_t i = 0; i < hold->n; i++) {
        if (hold->windows[i]) {
            hold->windows[i]->holds--;
        }
    }
    hold->limits = NULL;
}

static void add_all(token_hold *hold)
{
    for (size_t i = 0; i < hold->n; i++) {
        if (hold->windows[i]) {
            add(hold->windows[i], hold->slots[i], hold->tokens[i]);
        }
    }
}

/* The lock is not held any more. */

bool token_limits_hold(token_limits *t, token_hold *hold, const policy_limit *rules, size_t n,
                       const uint8_t *keys, int64_t tokens, uint64_t now_ms, aiq_err *err)
{
    *hold = (token_hold){.limits = t, .rules = rules, .n = n};
    pthread_mutex_lock(&t->lock);
    t->changes++;
    bool fits = look(hold, keys, tokens, now_ms, err);
    if (fits) {
        add_all(hold);
    }
    hold->state = state_of(hold, now_ms);
    if (!fits) {
        metric_add(t->refused, 1);
        let_go(hold);
    }
    pthread_mutex_unlock(&t->lock);
    return fits;
}

void token_limits_refuse(token_limits *t, const policy_limit *rule, uint64_t wait_ms,
                         aiq_err *err)
{
    metric_add(t->refused, 1);
    refuse_rate(rule, wait_ms, err);
}

void token_limits_note(token_limits *t, token_hold *hold, const policy_limit *rules, size_t n,
                       const uint8_t *keys, int64_t tokens, uint64_t now_ms)
{
    *hold = (token_hold){.limits = t, .rules = rules, .n = n};
    pthread_mutex_lock(&t->lock);
    t->changes++;
    for (size_t i = 0; i < n; i++) {
        hold_window(hold, i, keys + i * AIQ_LIMIT_KEY, tokens, now_ms);
    }
    add_all(hold);
    pthread_mutex_unlock(&t->lock);
}

void token_limits_settle(token_hold *hold, int64_t used, uint64_t now_ms)
{
    token_limits *t = hold->limits;

    if (t == NULL) {
        return;
    }
    used = used < MOST ? used : MOST;
    pthread_mutex_lock(&t->lock);
    t->changes++;
    for (size_t i = 0; i < hold->n; i++) {
        if (hold->windows[i]) {
            add(hold->windows[i], hold->slots[i], used - hold->tokens[i]);
        }
    }
    hold->state = state_of(hold, now_ms);
    let_go(hold);
    pthread_mutex_unlock(&t->lock);
}

/* For who saves them. */

uint64_t token_limits_changes(token_limits *t)
{
    pthread_mutex_lock(&t->lock);
    uint64_t changes = t->changes;
    pthread_mutex_unlock(&t->lock);
    return changes;
}

static bool copy_window(token_window *w, bool take, token_counts *out)
{
    *out = (token_counts){.zone = w->zone->name, .window_ms = w->window_ms};
    memcpy(out->key, w->key, AIQ_LIMIT_KEY);
    for (uint64_t i = 0; i < RING && i <= w->slot; i++) {
        uint64_t slot = w->slot - i;
        int64_t *used = &w->used[slot % RING];
        if (*used) {
            out->steps[out->n].begin_ms = slot * slot_ms(w);
            out->steps[out->n++].tokens = *used;
        }
        if (take) {
            w->total -= *used;
            *used = 0;
        }
    }
    return out->n > 0 && strlen(out->zone) <= TOKEN_ZONE_MAX;
}

/* A whole bucket at once: so each window is seen once, whoever comes and goes. */
static size_t copy_bucket(token_limits *t, unsigned bucket, bool take, uint64_t now_ms,
                          aiq_buf *out)
{
    token_counts one;

    aiq_buf_consume(out, out->len);
    pthread_mutex_lock(&t->lock);
    for (token_window *w = t->buckets[bucket]; w; w = w->next) {
        slide(w, now_ms);
        if (copy_window(w, take, &one)) {
            aiq_buf_add(out, &one, sizeof(one));
        }
    }
    pthread_mutex_unlock(&t->lock);
    return out->len / sizeof(one);
}

void token_limits_each(token_limits *t, uint64_t now_ms, bool take,
                       void (*fn)(void *arg, const token_counts *counts), void *arg)
{
    aiq_buf some = {0};

    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        size_t n = copy_bucket(t, bucket, take, now_ms, &some);
        for (size_t i = 0; i < n; i++) {
            fn(arg, (const token_counts *)(void *)some.data + i);
        }
    }
    aiq_buf_free(&some);
}

void token_limits_add(token_limits *t, const token_counts *counts, uint64_t age_ms,
                      int64_t tokens, uint64_t now_ms)
{
    uint32_t keys;

    if (age_ms > counts->window_ms + counts->window_ms / LIMIT_SLOTS) {
        return; /* it has left the window */
    }
    tokens = tokens < -MOST ? -MOST : tokens < MOST ? tokens : MOST;
    pthread_mutex_lock(&t->lock);
    keys = t->n_windows < SAVED_WINDOWS ? SAVED_WINDOWS : 0; /* no new one */
    token_window *w =
        find_window(t, counts->zone, counts->window_ms, keys, counts->key, now_ms);
    if (w) {
        /* the step after the one that it fell into: not shorter than it must */
        uint64_t at_ms = now_ms > age_ms ? now_ms - age_ms : 0;
        uint64_t slot = (at_ms + slot_ms(w) - 1) / slot_ms(w);
        add(w, slot < w->slot ? slot : w->slot, tokens);
        t->changes++;
    }
    pthread_mutex_unlock(&t->lock);
}

/* 20ms, 1s, 6m0s, 1h0m0s; rounded up. */
static int write_duration(char *text, size_t size, int64_t ms)
{
    int64_t s = (ms + 999) / 1000;

    if (ms < 1000) {
        return snprintf(text, size, "%" PRId64 "ms", ms);
    }
    if (s < 60) {
        return snprintf(text, size, "%" PRId64 "s", s);
    }
    if (s < 3600) {
        return snprintf(text, size, "%" PRId64 "m%" PRId64 "s", s / 60, s % 60);
    }
    return snprintf(text, size, "%" PRId64 "h%" PRId64 "m%" PRId64 "s", s / 3600, s / 60 % 60,
                    s % 60);
}

size_t token_state_headers(const token_state *state, job_header *headers,
                           char text[TOKEN_STATE_TEXT])
{
    const size_t size = TOKEN_STATE_TEXT;

    if (state->limit == 0) {
        return 0;
    }
    size_t a = (size_t)snprintf(text, size, "%" PRId64, state->limit);
    size_t b = a + (size_t)snprintf(text + a, size - a, "%" PRId64, state->remaining);
    size_t c = b + (size_t)write_duration(text + b, size - b, state->reset_ms);

    headers[0] = (job_header){AIQ_STR("x-ratelimit-limit-tokens"), {text, a}};
    headers[1] = (job_header){AIQ_STR("x-ratelimit-remaining-tokens"), {text + a, b - a}};
    headers[2] = (job_header){AIQ_STR("x-ratelimit-reset-tokens"), {text + b, c - b}};
    return TOKEN_STATE_HEADERS;
}
