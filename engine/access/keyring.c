#include "access/keyring.h"
#include <stdlib.h>
#include <string.h>
#include "core/id.h"
#include "engine.h"

/* A question to the store, and everybody who waits for its answer. */
typedef struct lookup {
    keyring_question question; /* first: the source's answer finds the rest */
    struct lookup *next;
    keyring_ask *asks;
    uint64_t asked_ns;
    unsigned tries;
} lookup;

typedef struct {
    bool known;
    uint32_t epoch;
    uint64_t confirmed_ns;
    keyring_watch_fn watch;
    void *watch_arg;
    lookup *lookups;
    unsigned n_lookups;
    keyring_verdict scratch;
    /* the first place of a set is for what is unknown */
    keyring_entry *sets[KEYRING_SETS][KEYRING_WAYS];
} loop_ring;

struct keyring {
    aiq_engine *engine;
    const keyring_source *source;
    loop_timer timer;
    keyring_question look; /* the look under way, */
    uint64_t asked_ns;     /* and when it began */
    loop_ring *rings;      /* one a loop */
    metric *good, *unknown, *disabled, *unavailable;
};

/* What a look or a change of ours tells a loop. */
typedef struct {
    uint32_t epoch;
    uint64_t asked_ns;
} epoch_message;

static loop_ring *ring_of(const aiq_loop *loop)
{
    return &loop->engine->keyring->rings[loop->index];
}

static bool within(uint64_t since_ns, uint64_t ms)
{
    return loop_now_ns() - since_ns < ms * 1000000;
}

/* The epoch. */

static void hear(aiq_loop *loop, void *arg)
{
    epoch_message message = *(epoch_message *)arg;
    loop_ring *ring = ring_of(loop);
    int32_t ahead = (int32_t)(message.epoch - ring->epoch);

    free(arg);
    if (ring->known && ahead < 0) {
        return; /* a look that began before the change we know of */
    }
    bool changed = !ring->known || ahead > 0;
    ring->known = true;
    ring->epoch = message.epoch;
    ring->confirmed_ns = message.asked_ns;
    if (ring->watch) {
        ring->watch(loop, ring->watch_arg, changed);
    }
}

static void tell_loops(aiq_engine *engine, uint32_t epoch, uint64_t asked_ns)
{
    for (unsigned i = 0; i < engine->options.loops; i++) {
        epoch_message *message = aiq_alloc(sizeof(*message));
        *message = (epoch_message){epoch, asked_ns};
        loop_post(&engine->loops[i], hear, message);
    }
}

static void look(aiq_loop *loop, void *arg)
{
    keyring *k = arg;

    k->asked_ns = loop_now_ns();
    k->look.seen = false;
    if (!k->source->look(loop, &k->look)) {
        keyring_looked(loop, &k->look);
    }
}

void keyring_looked(aiq_loop *loop, keyring_question *question)
{
    keyring *k = loop->engine->keyring;

    /* slower than that, it says too little about now */
    if (question->seen && within(k->asked_ns, KEYRING_LOOK_MS)) {
        tell_loops(k->engine, question->epoch, k->asked_ns);
    }
    loop_timer_start(loop, &k->timer, KEYRING_LOOK_MS, look, k);
}

void keyring_raised(aiq_engine *engine, uint32_t epoch)
{
    tell_loops(engine, epoch, loop_now_ns());
}

bool keyring_epoch(const aiq_loop *loop, uint32_t *epoch)
{
    const loop_ring *ring = ring_of(loop);

    *epoch = ring->epoch;
    return ring->known && within(ring->confirmed_ns, AIQ_EPOCH_MS);
}

void keyring_watch(aiq_loop *loop, keyring_watch_fn fn, void *arg)
{
    loop_ring *ring = ring_of(loop);

    ring->watch = fn;
    ring->watch_arg = arg;
}

/* What is remembered. */

static char *put(char *to, aiq_str *text)
{
    if (text->len) {
        memcpy(to, text->data, text->len);
    }
    text->data = to;
    return to + text->len;
}

keyring_entry *keyring_entry_new(const keyring_verdict *v)
{
    size_t size = v->tenant.len + v->user.len + v->role.len + v->key_id.len + v->models.len;
    keyring_entry *e = aiq_zalloc(sizeof(*e) + size);
    char *to = e->text;

    e->verdict = *v;
    to = put(to, &e->verdict.tenant);
    to = put(to, &e->verdict.user);
    to = put(to, &e->verdict.role);
    to = put(to, &e->verdict.key_id);
    put(to, &e->verdict.models);
    return e;
}

static bool same(const keyring_entry *e, keyring_kind kind, const uint8_t name[KEYRING_NAME])
{
    return e && e->kind == kind && memcmp(e->name, name, KEYRING_NAME) == 0;
}

static keyring_entry **set_of(loop_ring *ring, const uint8_t name[KEYRING_NAME])
{
    uint32_t hash = 2166136261u; /* FNV-1a: ids begin alike */

    for (int i = 0; i < KEYRING_NAME; i++) {
        hash = (hash ^ name[i]) * 16777619u;
    }
    return ring->sets[hash % KEYRING_SETS];
}

static void remember(loop_ring *ring, keyring_entry *e)
{
    keyring_entry **set = set_of(ring, e->name), **place = &set[0];

    if (e->verdict.status != 401) {
        place = &set[1];
        for (int i = 1; i < KEYRING_WAYS; i++) {
            if (same(set[i], e->kind, e->name)) {
                place = &set[i];
                break;
            }
            if (*place && (set[i] == NULL || set[i]->asked_ns < (*place)->asked_ns)) {
                place = &set[i];
            }
        }
    }
    free(*place);
    *place = e;
}

static const keyring_verdict *recall(aiq_loop *loop, keyring_kind kind,
                                     const uint8_t name[KEYRING_NAME])
{
    loop_ring *ring = ring_of(loop);
    keyring_entry **set = set_of(ring, name);
    uint32_t epoch;

    if (!keyring_epoch(loop, &epoch)) {
        return NULL;
    }
    for (int i = 0; i < KEYRING_WAYS; i++) {
        if (!same(set[i], kind, name) || set[i]->verdict.epoch != epoch) {
            continue;
        }
        if (set[i]->verdict.status != 401 || within(set[i]->asked_ns, KEYRING_UNKNOWN_MS)) {
            return &set[i]->verdict;
        }
    }
    return NULL;
}

/* A key whose time is over is no key. */
static const keyring_verdict *now_valid(loop_ring *ring, const keyring_verdict *v)
{
    if (v->status != 200 || v->expires_ms < 0 || v->expires_ms > aiq_now_ms()) {
        return v;
    }
    ring->scratch = (keyring_verdict){.status = 401, .epoch = v->epoch, .expires_ms = -1};
    return &ring->scratch;
}

static const keyring_verdict *cannot_say(const aiq_loop *loop)
{
    loop_ring *ring = ring_of(loop);

    metric_add(loop->engine->keyring->unavailable, 1);
    ring->scratch = (keyring_verdict){.status = 503, .epoch = ring->epoch, .expires_ms = -1};
    return &ring->scratch;
}

/* Questions. */

static void answer(aiq_loop *loop, lookup *l, const keyring_verdict *verdict)
{
    while (l->asks) {
        keyring_ask *ask = l->asks;
        keyring_verdict copy = *verdict; /* the next one may ask anew and use the scratch */
        keyring_forget(ask);
        ask->answer(loop, ask->arg, &copy);
    }
}

static void remove_lookup(loop_ring *ring, lookup *l)
{
    lookup **p = &ring->lookups;

    while (*p != l) {
        p = &(*p)->next;
    }
    *p = l->next;
    ring->n_lookups--;
}

static bool ask_source(aiq_loop *loop, lookup *l)
{
    const keyring_source *source = loop->engine->keyring->source;

    l->asked_ns = loop_now_ns();
    return source && source->look_up(loop, &l->question);
}

/* Of an epoch that has ended while it was on its way. */
static bool outdated(const loop_ring *ring, const keyring_entry *e)
{
    return ring->known && (int32_t)(ring->epoch - e->verdict.epoch) > 0;
}

static void count(const keyring *k, unsigned status)
{
    metric_add(status == 200 ? k->good : status == 403 ? k->disabled : k->unknown, 1);
}

void keyring_found(aiq_loop *loop, keyring_question *question)
{
    lookup *l = (lookup *)question;
    loop_ring *ring = ring_of(loop);
    keyring_entry *e = question->entry;

    question->entry = NULL;
    if (e && outdated(ring, e)) {
        free(e);
        e = NULL;
        if (l->asks && ++l->tries < KEYRING_TRIES && ask_source(loop, l)) {
            return;
        }
    }
    remove_lookup(ring, l);
    if (e) {
        e->kind = question->kind;
        memcpy(e->name, question->name, KEYRING_NAME);
        e->asked_ns = l->asked_ns;
        count(loop->engine->keyring, e->verdict.status);
        answer(loop, l, now_valid(ring, &e->verdict));
        remember(ring, e);
    } else {
        answer(loop, l, cannot_say(loop));
    }
    free(l);
}

static lookup *join(loop_ring *ring, keyring_kind kind, const uint8_t name[KEYRING_NAME])
{
    lookup *l = ring->lookups;

    while (l &&
           (l->question.kind != kind || memcmp(l->question.name, name, KEYRING_NAME) != 0)) {
        l = l->next;
    }
    return l;
}

static lookup *begin(aiq_loop *loop, keyring_kind kind, const uint8_t name[KEYRING_NAME])
{
    loop_ring *ring = ring_of(loop);

    if (ring->n_lookups >= KEYRING_LOOKUPS) {
        return NULL;
    }
    lookup *l = aiq_zalloc(sizeof(*l));
    l->question.kind = kind;
    memcpy(l->question.name, name, KEYRING_NAME);
    if (!ask_source(loop, l)) {
        free(l);
        return NULL;
    }
    l->next = ring->lookups;
    ring->lookups = l;
    ring->n_lookups++;
    return l;
}

const keyring_verdict *keyring_find(aiq_loop *loop, keyring_kind kind, aiq_str name,
                                    keyring_ask *ask)
{
    loop_ring *ring = ring_of(loop);
    uint8_t padded[KEYRING_NAME] = {0};

    if (name.len > KEYRING_NAME || name.len == 0) {
        ring->scratch = (keyring_verdict){.status = 401, .expires_ms = -1};
        return &ring->scratch;
    }
    memcpy(padded, name.data, name.len);
    const keyring_verdict *v = recall(loop, kind, padded);
    if (v) {
        return now_valid(ring, v);
    }
    lookup *l = join(ring, kind, padded);
    if (l == NULL) {
        l = begin(loop, kind, padded);
    }
    if (l == NULL) {
        return cannot_say(loop);
    }
    ask->next = l->asks;
    ask->prev = &l->asks;
    if (ask->next) {
        ask->next->prev = &ask->next;
    }
    l->asks = ask;
    return NULL;
}

void keyring_forget(keyring_ask *ask)
{
    if (ask->prev) {
        *ask->prev = ask->next;
        if (ask->next) {
            ask->next->prev = ask->prev;
        }
        ask->prev = NULL;
    }
}

/* Life. */

keyring *keyring_new(aiq_engine *engine, const keyring_source *source)
{
    keyring *k = aiq_zalloc(sizeof(*k));
    metric_family *lookups =
        metrics_family(engine->metrics, METRIC_COUNTER, "aiq_key_lookups_total",
                       "API keys that the store was asked about.", "result", NULL);

    k->engine = engine;
    k->source = source;
    k->good = metrics_sample(lookups, (const char *[]){"good"});
    k->unknown = metrics_sample(lookups, (const char *[]){"unknown"});
    k->disabled = metrics_sample(lookups, (const char *[]){"disabled"});
    k->unavailable = metrics_sample(lookups, (const char *[]){"unavailable"});
    k->rings = aiq_zalloc(engine->options.loops * sizeof(*k->rings));
    if (source) {
        loop_timer_start(&engine->loops[0], &k->timer, 0, look, k);
    }
    return k;
}

void keyring_free(keyring *k)
{
    if (k == NULL) {
        return;
    }
    for (unsigned i = 0; i < k->engine->options.loops; i++) {
        for (unsigned s = 0; s < KEYRING_SETS; s++) {
            for (unsigned w = 0; w < KEYRING_WAYS; w++) {
                free(k->rings[i].sets[s][w]);
            }
        }
    }
    free(k->rings);
    free(k);
}
