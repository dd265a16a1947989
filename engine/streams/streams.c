#include "streams/streams.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include "core/id.h"
#include "engine.h"
#include "streams/durable.h"

#define PREFIX      "strm_"
#define BUCKETS     4096
#define LOOP_BITS   10
#define ENGINE_BITS 20
#define EXPIRY_MS   1000 /* how often it is looked who was kept long enough */
/* Once the streams have taken so much and nobody can come back to any of them, what they
 * took goes back to the system. */
#define TRIM_PEAK ((size_t)8 << 20)

typedef struct table table;

/* Of a stream that is under way. */
typedef struct title {
    stream *stream;
    struct title *next, **prev; /* in its table */
    int64_t began_ms;
    size_t user_len, model_len;
    char texts[]; /* both */
} title;

struct stream {
    stream *next; /* in its bucket */
    table *table;
    char id[AIQ_ID_SIZE];
    stream_log log;
    size_t keep;
    size_t memory;                   /* as accounted */
    const stream_producer *producer; /* NULL: nothing more comes from it */
    void *arg;
    struct durable_stream *durable; /* who stores what is added; NULL: nobody */
    bool guaranteed;
    bool moved; /* to another engine */
    bool ended; /* and its readers may know */
    bool held;
    uint64_t front; /* place of the fastest reader, or of the one that left last */
    stream_place *places;
    unsigned n_places;
    struct stream_cut *cut;
    title *title;          /* or NULL */
    stream *older, *newer; /* of those that have ended and have no reader */
    bool idle;             /* it is one of them, … */
    uint64_t since_ns;     /* … so long */
    size_t tenant_len;
    char tenant[];
};

/* Of a loop. */
struct table {
    streams *all;
    aiq_loop *loop;
    size_t memory, most, peak;
    size_t readers;          /* bytes that they take */
    stream *oldest, *newest; /* idle ones */
    title *titles;
    loop_timer expiry;
    stream *buckets[BUCKETS];
};

struct streams {
    aiq_engine *engine;
    metric *open, *kept, *bytes, *evictions;
    table *tables; /* one a loop */
};

/* Life of all. */

static metric *only(metric_family *family)
{
    return metrics_sample(family, NULL);
}

streams *streams_new(aiq_engine *engine, size_t memory)
{
    streams *all = aiq_zalloc(sizeof(*all));
    metrics *m = engine->metrics;
    unsigned n = engine->options.loops;

    all->engine = engine;
    all->open = only(metrics_family(m, METRIC_GAUGE, "aiq_streams_open",
                                    "Streams that are being produced, or followed.", "", NULL));
    all->kept = only(metrics_family(m, METRIC_GAUGE, "aiq_streams_kept",
                                    "Streams that are over and can still be read.", "", NULL));
    all->bytes = only(metrics_family(m, METRIC_GAUGE, "aiq_streams_bytes",
                                     "What all streams take.", "", NULL));
    all->evictions =
        only(metrics_family(m, METRIC_COUNTER, "aiq_streams_evictions_total",
                            "Streams that were dropped early for want of memory.", "", NULL));
    all->tables = aiq_zalloc(n * sizeof(*all->tables));
    for (unsigned i = 0; i < n; i++) {
        all->tables[i] = (table){.all = all, .loop = &engine->loops[i], .most = memory / n};
    }
    return all;
}

static table *table_of(const aiq_loop *loop)
{
    return &loop->engine->streams->tables[loop->index];
}

/* What a stream takes. */

static void account(stream *s, size_t memory)
{
    if (memory != s->memory) {
        s->table->memory += memory - s->memory;
        s->table->peak = s->table->memory > s->table->peak ? s->table->memory : s->table->peak;
        metric_add(s->table->all->bytes, (int64_t)memory - (int64_t)s->memory);
        s->memory = memory;
    }
}

static size_t memory_of(const stream *s)
{
    return sizeof(*s) + s->tenant_len + stream_log_memory(&s->log);
}

/* The table. An id's end is random. */

static stream **bucket(table *t, const char *id)
{
    const char *end = id + strlen(PREFIX) + 16;
    uint32_t hash = 0;

    for (int i = 0; i < 10; i++) {
        hash = hash * 33 + (uint8_t)end[i];
    }
    return &t->buckets[hash % BUCKETS];
}

static void take_off_idle(stream *s)
{
    table *t = s->table;

    if (!s->idle) {
        return;
    }
    *(s->older ? &s->older->newer : &t->oldest) = s->newer;
    *(s->newer ? &s->newer->older : &t->newest) = s->older;
    s->older = s->newer = NULL;
    s->idle = false;
}

void stream_title(stream *s, aiq_str user, aiq_str model)
{
    title *t = aiq_zalloc(sizeof(*t) + user.len + model.len);

    t->stream = s;
    t->began_ms = aiq_now_ms();
    t->user_len = user.len;
    t->model_len = model.len;
    if (user.len) {
        memcpy(t->texts, user.data, user.len);
    }
    if (model.len) {
        memcpy(t->texts + user.len, model.data, model.len);
    }
    t->next = s->table->titles;
    t->prev = &s->table->titles;
    if (t->next) {
        t->next->prev = &t->next;
    }
    s->table->titles = s->title = t;
}

static void drop_title(stream *s)
{
    title *t = s->title;

    if (t) {
        *t->prev = t->next;
        if (t->next) {
            t->next->prev = t->prev;
        }
        s->title = NULL;
        free(t);
    }
}

void streams_of(aiq_loop *loop, aiq_str tenant, aiq_str user,
                void (*each)(void *arg, const stream_info *info), void *arg)
{
    for (const title *t = table_of(loop)->titles; t; t = t->next) {
        const stream *s = t->stream;
        if (aiq_str_eq((aiq_str){t->texts, t->user_len}, user) &&
            aiq_str_eq((aiq_str){s->tenant, s->tenant_len}, tenant)) {
            each(arg, &(stream_info){.id = s->id,
                                     .model = {t->texts + t->user_len, t->model_len},
                                     .last = stream_log_last(&s->log),
                                     .began_ms = t->began_ms,
                                     .guaranteed = s->guaranteed});
        }
    }
}

static void drop(stream *s)
{
    table *t = s->table;
    stream **at = bucket(t, s->id);

    drop_title(s);
    take_off_idle(s);
    while (*at != s) {
        at = &(*at)->next;
    }
    *at = s->next;
    account(s, 0);
    metric_add(s->ended ? t->all->kept : t->all->open, -1);
    stream_log_free(&s->log);
    free(s);
}

static void on_expiry(aiq_loop *loop, void *arg)
{
    table *t = arg;
    uint64_t now = loop_now_ns();

    while (t->oldest && now - t->oldest->since_ns >= STREAM_KEEP_MS * 1000000ull) {
        drop(t->oldest);
    }
    if (t->oldest) {
        loop_timer_start(loop, &t->expiry, EXPIRY_MS, on_expiry, t);
    } else if (t->peak >= TRIM_PEAK) {
        t->peak = 0;
        malloc_trim(0); /* which keeps what lies between pieces that live on */
    }
}

/* It has ended, and its last reader has left. */
static void put_on_idle(stream *s)
{
    table *t = s->table;

    s->idle = true;
    s->since_ns = loop_now_ns();
    s->older = t->newest;
    *(t->newest ? &t->newest->newer : &t->oldest) = s;
    t->newest = s;
    if (t->expiry.heap_index == 0) {
        loop_timer_start(t->loop, &t->expiry, EXPIRY_MS, on_expiry, t);
    }
}

static void make_room(table *t)
{
    while (t->memory > t->most && t->oldest) {
        metric_add(t->all->evictions, 1);
        drop(t->oldest);
    }
}

void streams_free(streams *all)
{
    unsigned n = all ? all->engine->options.loops : 0;

    /* readers have left; their owners hear of it, and they of that */
    for (unsigned i = 0; i < 2 * n; i++) {
        loop_flush(&all->engine->loops[i % n]);
    }
    for (unsigned i = 0; i < n; i++) {
        table *t = &all->tables[i];
        loop_timer_stop(t->loop, &t->expiry);
        for (size_t k = 0; k < BUCKETS; k++) {
            while (t->buckets[k]) { /* idle, or guaranteed and left to another engine */
                drop(t->buckets[k]);
            }
        }
    }
    if (all) {
        free(all->tables);
        free(all);
    }
}

/* Ids. */

static uint32_t engine_tag(const aiq_engine *engine)
{
    return (uint32_t)engine->id & ((1u << ENGINE_BITS) - 1);
}

/* One that was made elsewhere is looked for where it would be, were it taken over. */
static unsigned loop_of_stranger(const aiq_engine *engine, aiq_str id)
{
    uint32_t hash = 0;

    for (size_t i = 0; i < id.len; i++) {
        hash = hash * 33 + (uint8_t)id.data[i];
    }
    return hash % engine->options.loops;
}

aiq_loop *stream_owner(aiq_engine *engine, aiq_str id, aiq_err *err)
{
    uint32_t owner;

    if (!aiq_id_owner(id.data, id.len, PREFIX, &owner)) {
        aiq_fail(err, 404, "stream_not_found", "There is no such stream.");
        return NULL;
    }
    unsigned i = owner & ((1u << LOOP_BITS) - 1);
    if (owner >> LOOP_BITS != engine_tag(engine) || i >= engine->options.loops) {
        i = loop_of_stranger(engine, id);
    }
    return &engine->loops[i];
}

static stream *find(aiq_loop *loop, aiq_str id)
{
    stream *s = *bucket(table_of(loop), id.data);

    while (s && memcmp(s->id, id.data, id.len) != 0) {
        s = s->next;
    }
    return s;
}

stream *stream_find(aiq_loop *loop, aiq_str id, aiq_str tenant)
{
    stream *s = find(loop, id);

    return s && aiq_str_eq((aiq_str){s->tenant, s->tenant_len}, tenant) ? s : NULL;
}

/* A stream. */

void stream_objects(stream *s, uint64_t before)
{
    stream_log_objects(&s->log, before);
}

/* id: NULL: a new one. */
static stream *make(aiq_loop *loop, const char *id, aiq_str tenant)
{
    table *t = table_of(loop);
    stream *s = aiq_zalloc(sizeof(*s) + tenant.len);

    s->table = t;
    s->tenant_len = tenant.len;
    memcpy(s->tenant, tenant.data, tenant.len);
    stream_log_init(&s->log);
    if (id) {
        memcpy(s->id, id, strlen(id) + 1);
    } else {
        aiq_id_owned(s->id, PREFIX, engine_tag(loop->engine) << LOOP_BITS | loop->index);
    }
    stream **at = bucket(t, s->id);
    s->next = *at;
    *at = s;
    metric_add(t->all->open, 1);
    return s;
}

stream *stream_new(aiq_loop *loop, aiq_str tenant, size_t keep, const stream_producer *producer,
                   void *arg)
{
    stream *s = make(loop, NULL, tenant);

    stream_produce(s, keep, producer, arg);
    return s;
}

stream *stream_adopt(aiq_loop *loop, const char *id, aiq_str tenant, uint64_t last)
{
    if (find(loop, (aiq_str){id, strlen(id)})) {
        return NULL;
    }
    stream *s = make(loop, id, tenant);
    stream_log_go_on(&s->log, last + 1);
    return s;
}

void stream_produce(stream *s, size_t keep, const stream_producer *producer, void *arg)
{
    s->keep = keep;
    s->producer = producer;
    s->arg = arg;
}

void stream_guarantee(stream *s, struct durable_stream *d)
{
    s->durable = d;
    s->guaranteed = true;
}

struct durable_stream *stream_durable(const stream *s)
{
    return s->durable;
}

const stream_producer *stream_producer_of(const stream *s, void **arg)
{
    *arg = s->arg;
    return s->producer;
}

const char *stream_id(const stream *s)
{
    return s->id;
}

const stream_log *stream_log_of(const stream *s)
{
    return &s->log;
}

bool stream_ended(const stream *s)
{
    return s->ended;
}

bool stream_guaranteed(const stream *s)
{
    return s->guaranteed;
}

bool stream_has_moved(const stream *s)
{
    return s->moved;
}

unsigned stream_readers(const stream *s)
{
    return s->n_places;
}

struct stream_cut **stream_cut_of(stream *s)
{
    return &s->cut;
}

bool stream_reader_room(aiq_loop *loop, size_t size)
{
    table *t = table_of(loop);

    if (t->readers + size > t->most / 4) {
        return false;
    }
    t->readers += size;
    return true;
}

void stream_reader_gone(aiq_loop *loop, size_t size)
{
    table_of(loop)->readers -= size;
}

bool streams_full(const aiq_loop *loop)
{
    const table *t = table_of(loop);

    return t->memory > t->most;
}

/* The fastest reader has left; those that are as far as it was are often many. */
static void find_front(stream *s)
{
    uint64_t front = 0, most = s->front;

    for (const stream_place *place = s->places; place && front < most; place = place->next) {
        front = place->at > front ? place->at : front;
    }
    s->front = s->places ? front : most;
}

/* Whether they are read yet or not: those of a guaranteed stream are stored. */
static bool keeps_unread(const stream *s)
{
    return !s->guaranteed && (s->producer == NULL || s->producer->hold);
}

/* Has the producer to wait? Of a guaranteed stream it does, for the store alone. */
static void set_pace(stream *s)
{
    bool hold = stream_log_end(&s->log) - s->front > s->keep / 2;

    if (s->producer && s->producer->hold && !s->guaranteed && hold != s->held) {
        s->held = hold;
        s->producer->hold(s->arg, hold);
    }
}

static void wake(stream *s)
{
    stream_place *place = s->places;

    while (place) {
        stream_place *next = place->next; /* it may leave */
        if (place->more) {
            place->more(place);
        }
        place = next;
    }
}

static void has_grown(stream *s)
{
    table *t = s->table;
    uint64_t unread = keeps_unread(s) ? s->front : UINT64_MAX;

    account(s, memory_of(s));
    make_room(t);
    stream_log_trim(&s->log, unread, t->memory > t->most ? 0 : s->keep);
    wake(s);
    set_pace(s);
}

void stream_stored(stream *s, const void *text, size_t len, int64_t ms)
{
    stream_log_add(&s->log, text, len, ms);
    has_grown(s);
}

bool stream_copied(stream *s, const stream_log *stored)
{
    uint64_t end = stream_log_end(&s->log);
    bool ok = stream_log_go_along(&s->log, stored);

    if (stream_log_end(&s->log) > end) {
        has_grown(s);
    }
    return ok;
}

void stream_add(stream *s, const void *text, size_t len)
{
    if (s->durable) {
        durable_add(s->durable, text, len);
    } else {
        stream_stored(s, text, len, aiq_now_ms());
    }
}

void stream_over(stream *s)
{
    metric_add(s->table->all->open, -1);
    metric_add(s->table->all->kept, 1);
    s->durable = NULL;
    s->ended = true;
    drop_title(s);
    wake(s);
    if (s->places == NULL && !s->idle) {
        put_on_idle(s);
    }
}

void stream_end(stream *s)
{
    s->producer = NULL;
    if (s->durable) {
        durable_end(s->durable);
    } else {
        stream_over(s);
    }
}

void stream_release(stream *s)
{
    s->producer = NULL;
}

/* Its readers leave, and ask the store. */
void stream_moved(stream *s)
{
    s->producer = NULL;
    s->moved = true;
    while (s->places) {
        s->places->more(s->places);
    }
    drop(s);
}

/* From any loop. */
typedef struct {
    char id[AIQ_ID_SIZE];
    size_t tenant_len;
    char tenant[];
} stop_message;

static void on_stop(aiq_loop *loop, void *arg)
{
    stop_message *m = arg;
    stream *s =
        stream_find(loop, (aiq_str){m->id, strlen(m->id)}, (aiq_str){m->tenant, m->tenant_len});

    if (s && s->producer && s->producer->stop) {
        s->producer->stop(s->arg);
    }
    free(m);
}

void stream_stop(aiq_loop *loop, aiq_str id, aiq_str tenant)
{
    aiq_loop *owner = stream_owner(loop->engine, id, NULL);

    if (owner) {
        stop_message *m = aiq_zalloc(sizeof(*m) + tenant.len);
        memcpy(m->id, id.data, id.len); /* of an id's length, for it has an owner */
        m->tenant_len = tenant.len;
        memcpy(m->tenant, tenant.data, tenant.len);
        loop_post(owner, on_stop, m);
    }
}

/* Readers on its loop. */

void stream_join(stream *s, stream_place *place, uint64_t at)
{
    place->stream = s;
    place->at = at;
    place->next = s->places;
    place->prev = &s->places;
    if (s->places) {
        s->places->prev = &place->next;
    }
    s->places = place;
    if (s->n_places == 0 || at > s->front) {
        s->front = at; /* who was there and left waits for nothing */
    }
    take_off_idle(s);
    if (++s->n_places == 1 && s->producer) {
        s->producer->watched(s->arg, true);
    }
    set_pace(s);
}

void stream_leave(stream_place *place)
{
    stream *s = place->stream;

    if (s == NULL) {
        return;
    }
    *place->prev = place->next;
    if (place->next) {
        place->next->prev = place->prev;
    }
    place->stream = NULL;
    s->n_places--;
    if (place->at == s->front) {
        find_front(s);
    }
    set_pace(s);
    if (s->places) {
        return;
    }
    stream_cut_drop(&s->cut);
    if (s->producer) {
        s->producer->watched(s->arg, false);
    } else if (s->ended) {
        put_on_idle(s);
    }
}

bool stream_rest(const stream_place *place, aiq_str *rest)
{
    const stream_log *log = &place->stream->log;

    if (place->at < log->start) {
        return false;
    }
    *rest = stream_log_from(log, place->at);
    return true;
}

void stream_took(stream_place *place, size_t n)
{
    stream *s = place->stream;

    place->at += n;
    s->front = place->at > s->front ? place->at : s->front;
    set_pace(s);
}
