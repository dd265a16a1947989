/*
 * Who is alive, and who has left something behind. On loop 0, once a second: we say that we
 * live while we have streams that others might take, look whether somebody has left some,
 * and now and then forget what is over for long.
 */

#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "engine.h"
#include "streams/durable_impl.h"

/* That we live. */

typedef struct {
    durable *all;
    int64_t now_ms;
} beat_work;

static bool store_beat(store_db *db, void *arg, aiq_err *err)
{
    beat_work *w = arg;

    return durable_tx_beat(db, w->all->me, w->now_ms + DURABLE_LEASE_MS, err);
}

static void on_beaten(aiq_loop *loop, void *arg, const aiq_err *err)
{
    beat_work *w = arg;

    (void)loop;
    (void)err; /* the next one comes */
    w->all->beating = false;
    free(w);
}

static bool store_forget(store_db *db, void *arg, aiq_err *err)
{
    beat_work *w = arg;

    return durable_tx_forget(db, w->now_ms - DURABLE_KEEP_MS, err);
}

static void on_forgotten(aiq_loop *loop, void *arg, const aiq_err *err)
{
    (void)loop;
    (void)err;
    free(arg);
}

static void write_store(durable *all, store_tx tx, store_done_fn done)
{
    beat_work *w = aiq_zalloc(sizeof(*w));
    aiq_loop *loop = &all->engine->loops[0];
    aiq_err err;

    *w = (beat_work){all, aiq_now_ms()};
    if (!store_write(all->engine->store, loop, tx, w, done, w, &err)) {
        done(loop, w, &err);
    }
}

/* What somebody has left. */

typedef struct {
    durable *all;
    int64_t now_ms;
    durable_claim claim;
} claim_work;

static void claim_free(claim_work *w)
{
    aiq_buf_free(&w->claim.tenant);
    aiq_buf_free(&w->claim.user);
    aiq_buf_free(&w->claim.model);
    aiq_buf_free(&w->claim.request);
    aiq_buf_free(&w->claim.policy);
    aiq_buf_free(&w->claim.source);
    free(w);
}

static bool store_claim(store_db *db, void *arg, aiq_err *err)
{
    claim_work *w = arg;

    return durable_tx_claim(db, w->all->me, w->now_ms, w->now_ms + DURABLE_LEASE_MS, &w->claim,
                            err);
}

static aiq_str text_of(const aiq_buf *b)
{
    return (aiq_str){(char *)b->data, b->len};
}

/* On the stream's loop. */
static void on_claimed(aiq_loop *loop, void *arg, const aiq_err *err)
{
    claim_work *w = arg;
    const durable_claim *c = &w->claim;
    durable *all = w->all;
    stream *s = NULL;

    if (err == NULL && c->taken && !all->stopping) {
        durable_unfollow(loop, (aiq_str){c->lost.id, strlen(c->lost.id)});
        s = stream_adopt(loop, c->lost.id, text_of(&c->tenant), c->last);
    }
    if (s) {
        durable_stream *d =
            durable_make(durable_lane_of(loop), s, c->lost.id, c->term, c->last);
        d->begun = true;
        d->stored = c->source.len;
        stream_title(s, text_of(&c->user), text_of(&c->model));
        metric_add(all->taken, 1);
        aiq_log(AIQ_LOG_WARN, "streams", "took over a stream that an engine had left",
                AIQ_S("stream", c->lost.id), AIQ_I("events", (int64_t)c->last));
        const durable_orphan orphan = {s, c->last, text_of(&c->request), text_of(&c->policy),
                                       text_of(&c->source)};
        all->on_orphan(loop, &orphan);
    }
    claim_free(w);
}

static void take_over(durable *all, const durable_lost *lost)
{
    aiq_str id = {lost->id, strlen(lost->id)};
    aiq_err err;
    aiq_loop *loop = stream_owner(all->engine, id, &err);

    if (loop == NULL) {
        return;
    }
    claim_work *w = aiq_zalloc(sizeof(*w));
    w->all = all;
    w->now_ms = aiq_now_ms();
    w->claim.lost = *lost;
    if (!store_write(all->engine->store, loop, store_claim, w, on_claimed, w, &err)) {
        claim_free(w);
    }
}

typedef struct {
    durable *all;
    int64_t now_ms;
    size_t n;
    durable_lost found[DURABLE_TX_MOST];
} look_work;

static bool store_look(store_db *db, void *arg, aiq_err *err)
{
    look_work *w = arg;

    return durable_tx_find_lost(db, w->all->me, w->now_ms, w->found, &w->n, err);
}

/* Where the store was away nobody could say that he lives: first they all get the time to. */
static void note_contact(durable *all, bool contact)
{
    uint64_t now = loop_now_ns();

    all->contact_ns = !contact ? 0 : all->contact_ns ? all->contact_ns : now;
}

static bool in_contact(const durable *all)
{
    return loop_now_ns() - all->contact_ns > DURABLE_LEASE_MS * 1000000ull;
}

static void on_looked(aiq_loop *loop, void *arg, const aiq_err *err)
{
    look_work *w = arg;

    note_contact(w->all, err == NULL);
    for (size_t i = 0; err == NULL && !engine_leaves(loop->engine) && i < w->n; i++) {
        if (w->found[i].left || in_contact(w->all)) {
            take_over(w->all, &w->found[i]);
        }
    }
    w->all->looking = false;
    free(w);
}

static void look(durable *all, aiq_loop *loop)
{
    look_work *w = aiq_zalloc(sizeof(*w));
    aiq_err err;

    all->looking = true;
    w->all = all;
    w->now_ms = aiq_now_ms();
    if (!store_read(all->engine->store, loop, store_look, w, on_looked, w, &err)) {
        on_looked(loop, w, &err);
    }
}

static void on_beat(aiq_loop *loop, void *arg)
{
    durable *all = arg;
    uint64_t now = loop_now_ns();

    if (!all->beating && __atomic_load_n(&all->n_open, __ATOMIC_RELAXED)) {
        all->beating = true;
        write_store(all, store_beat, on_beaten);
    }
    if (!all->looking && all->on_orphan && !engine_leaves(loop->engine)) {
        look(all, loop);
    }
    if (now - all->forgot_ns > DURABLE_FORGET_MS * 1000000ull) {
        all->forgot_ns = now;
        write_store(all, store_forget, on_forgotten);
    }
    loop_timer_start(loop, &all->beat, DURABLE_BEAT_MS, on_beat, all);
}

void durable_start_beat(durable *all)
{
    loop_post(&all->engine->loops[0], on_beat, all);
}

void durable_on_orphan(durable *all, void (*fn)(aiq_loop *loop, const durable_orphan *orphan))
{
    all->on_orphan = fn;
}
