/*
 * Streams of other engines that somebody reads here. A copy is a stream whose producer asks
 * the store: when its stream was announced, and now and then without.
 *
 *     another engine stores ──► announced ──► marked (any thread) ──► its loop asks ──► copy
 *
 * One question of a copy is under way at a time; what is heard meanwhile makes one more. What
 * is heard is a mark on the copy, so there is never more of it than there are copies, and what
 * is announced and not followed costs a look into a table.
 */

#include <stdlib.h>
#include <string.h>
#include "engine.h"
#include "streams/durable_impl.h"
#include "streams/stream_reader.h"

struct durable_copy {
    durable_copy *next; /* in its bucket */
    durable_lane *lane;
    stream *stream; /* NULL: it was dropped, and goes once the store has answered */
    loop_timer timer;
    bool heard; /* atomic */
    bool watched;
    bool asking;
    bool stale; /* there may be more: it was heard while it was asking, or nobody read it */
    durable_page page;
    char tenant[];
};

/* The table. An id's end is random. */

static durable_copy **bucket(durable_lane *lane, aiq_str id)
{
    uint32_t hash = 0;

    for (size_t i = id.len > 10 ? id.len - 10 : 0; i < id.len; i++) {
        hash = hash * 33 + (uint8_t)id.data[i];
    }
    return &lane->copies[hash % DURABLE_BUCKETS];
}

static durable_copy *find(durable_lane *lane, aiq_str id)
{
    durable_copy *c = *bucket(lane, id);

    while (c && !aiq_str_is(id, c->page.id)) {
        c = c->next;
    }
    return c;
}

static void put_in(durable_copy *c)
{
    durable_copy **at = bucket(c->lane, (aiq_str){c->page.id, strlen(c->page.id)});

    pthread_mutex_lock(&c->lane->lock);
    c->next = *at;
    *at = c;
    pthread_mutex_unlock(&c->lane->lock);
    metric_add(c->lane->all->followed, 1);
}

static void take_out(durable_copy *c)
{
    durable_copy **at = bucket(c->lane, (aiq_str){c->page.id, strlen(c->page.id)});

    pthread_mutex_lock(&c->lane->lock);
    while (*at != c) {
        at = &(*at)->next;
    }
    *at = c->next;
    pthread_mutex_unlock(&c->lane->lock);
    metric_add(c->lane->all->followed, -1);
}

/* What is heard. */

static void look(durable_copy *c);

static void on_heard(aiq_loop *loop, void *arg)
{
    durable_lane *lane = arg;

    (void)loop;
    pthread_mutex_lock(&lane->lock);
    lane->posted = false;
    pthread_mutex_unlock(&lane->lock);
    for (size_t i = 0; i < DURABLE_BUCKETS; i++) {
        for (durable_copy *c = lane->copies[i]; c; c = c->next) {
            if (__atomic_exchange_n(&c->heard, false, __ATOMIC_RELAXED)) {
                look(c);
            }
        }
    }
}

/* Has the lane to be told? */
static bool mark(durable_lane *lane, durable_copy *c)
{
    bool first = !lane->posted;

    __atomic_store_n(&c->heard, true, __ATOMIC_RELAXED);
    lane->posted = true;
    return first;
}

static bool mark_all(durable_lane *lane)
{
    bool first = false;

    for (size_t i = 0; i < DURABLE_BUCKETS; i++) {
        for (durable_copy *c = lane->copies[i]; c; c = c->next) {
            first |= mark(lane, c);
        }
    }
    return first;
}

static void hear(durable_lane *lane, aiq_str id)
{
    pthread_mutex_lock(&lane->lock);
    durable_copy *c = id.data ? find(lane, id) : NULL;
    bool post = c ? mark(lane, c) : id.data == NULL && mark_all(lane);
    pthread_mutex_unlock(&lane->lock);
    if (post) {
        loop_post(lane->loop, on_heard, lane);
    }
}

/* On the store's thread. */
static void on_name(void *arg, aiq_str name)
{
    durable *all = arg;
    aiq_loop *loop;
    aiq_err err;

    if (name.data == NULL) { /* all of them are to look, and to wait as long as is right now */
        for (unsigned i = 0; i < all->engine->options.loops; i++) {
            hear(&all->lanes[i], name);
        }
    } else if ((loop = stream_owner(all->engine, name, &err)) != NULL) {
        hear(durable_lane_of(loop), name);
    }
}

bool durable_hear(durable *all, aiq_err *err)
{
    return store_hear(all->engine->store, on_name, all, err);
}

/* A copy. */

static void drop(durable_copy *c)
{
    stream *s = c->stream;

    take_out(c);
    loop_timer_stop(c->lane->loop, &c->timer);
    c->stream = NULL;
    stream_moved(s);
    if (!c->asking) {
        free(c);
    }
}

static void on_timer(aiq_loop *loop, void *arg)
{
    durable_copy *c = arg;

    (void)loop;
    if (c->watched) {
        look(c);
    } else {
        drop(c);
    }
}

static void rest(durable_copy *c)
{
    const durable *all = c->lane->all;
    uint64_t ms = !c->watched                           ? DURABLE_LINGER_MS
                  : store_announces(all->engine->store) ? all->look_ms
                                                        : DURABLE_POLL_MS;

    loop_timer_start(c->lane->loop, &c->timer, ms, on_timer, c);
}

static void on_end(durable_copy *c)
{
    stream *s = c->stream;

    take_out(c);
    free(c);
    stream_end(s);
}

static void take_page(durable_copy *c)
{
    const durable_page *p = &c->page;

    if (!p->found || !stream_copied(c->stream, &p->log)) {
        drop(c); /* its readers ask for themselves */
        return;
    }
    bool all = stream_log_last(stream_log_of(c->stream)) == p->last;
    c->stale |= !all;
    if (p->ended && all) {
        on_end(c);
    } else if (c->stale && c->watched) {
        look(c);
    } else {
        rest(c);
    }
}

static void on_read(aiq_loop *loop, void *arg, const aiq_err *err)
{
    durable_copy *c = arg;
    stream_log log = c->page.log;

    (void)loop;
    c->asking = false;
    if (c->stream == NULL) {
        free(c);
    } else if (err) {
        rest(c);
    } else {
        take_page(c);
    }
    stream_log_free(&log);
}

static void look(durable_copy *c)
{
    durable_page *p = &c->page;
    aiq_err err;

    if (c->asking || !c->watched) {
        c->stale = true;
        return;
    }
    c->stale = false;
    loop_timer_stop(c->lane->loop, &c->timer);
    p->after = stream_log_last(stream_log_of(c->stream));
    p->log = (stream_log){0};
    c->asking = durable_read(c->lane->loop, p, on_read, c, &err);
    if (!c->asking) {
        rest(c);
    }
}

/* Its stream must not go now: a reader is about to leave it. */
static void on_watched(void *arg, bool watched)
{
    durable_copy *c = arg;

    c->watched = watched;
    if (watched && c->stale) {
        look(c);
    } else if (!c->asking) {
        rest(c);
    }
}

static const stream_producer producer = {.watched = on_watched};

void durable_follow(aiq_loop *loop, aiq_str id, aiq_str tenant, uint64_t last)
{
    durable_lane *lane = durable_lane_of(loop);
    durable_copy *c = find(lane, id);

    if (c && stream_log_last(stream_log_of(c->stream)) < last) {
        look(c);
    }
    if (c || stream_find(loop, id, tenant)) {
        return;
    }
    c = aiq_zalloc(sizeof(*c) + tenant.len);
    c->lane = lane;
    c->stale = true; /* since somebody asked for `last` */
    c->page.most = STREAM_PIECE;
    c->page.tenant = (aiq_str){memcpy(c->tenant, tenant.data, tenant.len), tenant.len};
    memcpy(c->page.id, id.data, id.len); /* of an id's length, for it has an owner */
    c->stream = stream_adopt(loop, c->page.id, tenant, last);
    if (c->stream == NULL) {
        free(c); /* another tenant's, which its reader is told */
        return;
    }
    stream_guarantee(c->stream, NULL);
    stream_produce(c->stream, DURABLE_COPY, &producer, c);
    put_in(c);
    rest(c);
}

void durable_unfollow(aiq_loop *loop, aiq_str id)
{
    durable_copy *c = find(durable_lane_of(loop), id);

    if (c) {
        drop(c);
    }
}

void durable_init_copies(durable_lane *lane)
{
    pthread_mutex_init(&lane->lock, NULL);
}

void durable_free_copies(durable_lane *lane)
{
    for (size_t i = 0; i < DURABLE_BUCKETS; i++) {
        while (lane->copies[i]) {
            durable_copy *c = lane->copies[i];
            take_out(c);
            loop_timer_stop(lane->loop, &c->timer);
            stream_release(c->stream); /* its readers are still to leave it */
            free(c);
        }
    }
    pthread_mutex_destroy(&lane->lock);
}
