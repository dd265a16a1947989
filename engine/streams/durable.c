#include "streams/durable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "aiq_error.h"
#include "core/log.h"
#include "engine.h"
#include "streams/durable_impl.h"

/* Life of a stream. */

static void stream_state_free(durable_stream *d)
{
    metric_add(d->lane->all->open, -1);
    metric_add(d->lane->all->unstored, -(int64_t)d->waiting);
    __atomic_sub_fetch(&d->lane->all->n_open, 1, __ATOMIC_RELAXED);
    if (d->next) {
        d->next->prev = d->prev;
    }
    *d->prev = d->next;
    aiq_buf_free(&d->text);
    aiq_buf_free(&d->source);
    free(d);
}

durable_stream *durable_make(durable_lane *lane, stream *s, const char *id, int64_t term,
                             uint64_t last)
{
    durable_stream *d = aiq_zalloc(sizeof(*d));

    d->lane = lane;
    d->stream = s;
    snprintf(d->id, sizeof(d->id), "%s", id);
    d->term = term;
    d->next_event = last + 1;
    d->next = lane->streams;
    d->prev = &lane->streams;
    if (d->next) {
        d->next->prev = &d->next;
    }
    lane->streams = d;
    metric_add(lane->all->open, 1);
    __atomic_add_fetch(&lane->all->n_open, 1, __ATOMIC_RELAXED);
    stream_guarantee(s, d);
    return d;
}

durable_lane *durable_lane_of(const aiq_loop *loop)
{
    return &loop->engine->durable->lanes[loop->index];
}

/* What waits. */

static void flush(aiq_loop *loop, void *arg);

static void flush_soon(durable_lane *lane, uint64_t ms)
{
    if (lane->work == NULL && lane->timer.heap_index == 0) {
        loop_timer_start(lane->loop, &lane->timer, ms, flush, lane);
    }
}

static void set_waiting(durable_stream *d)
{
    size_t now = d->text.len + d->source.len;

    metric_add(d->lane->all->unstored, (int64_t)now - (int64_t)d->waiting);
    d->waiting = now;
}

static void set_pace(durable_stream *d)
{
    void *arg;
    const stream_producer *producer = stream_producer_of(d->stream, &arg);
    bool hold = d->waiting > DURABLE_UNSTORED;

    if (producer && hold != d->held) {
        d->held = hold;
        producer->hold(arg, hold);
    }
}

void durable_note(stream *s, const void *text, size_t len)
{
    durable_stream *d = stream_durable(s);

    if (d) {
        aiq_buf_add(&d->source, text, len);
    }
}

void durable_add(durable_stream *d, const void *text, size_t len)
{
    aiq_buf_add(&d->text, text, len);
    set_waiting(d);
    flush_soon(d->lane, DURABLE_GATHER_MS);
    set_pace(d);
}

void durable_end(durable_stream *d)
{
    d->ends = true;
    flush_soon(d->lane, DURABLE_GATHER_MS);
}

/* Storing. */

/* What is on its way to the store: of each stream, in the batches' order, … */
struct durable_work {
    durable_lane *lane;
    durable_work *next; /* once it is over */
    unsigned refusals;
    char me[DURABLE_NAME];
    size_t n;
    durable_stream **streams;
    durable_batch *batches;
    aiq_buf *texts; /* … two, which the batches point to */
};

static void work_free(durable_work *w)
{
    for (size_t i = 0; i < 2 * w->n; i++) {
        aiq_buf_free(&w->texts[i]);
    }
    free(w->streams);
    free(w->batches);
    free(w->texts);
    free(w);
}

static bool waits(const durable_stream *d)
{
    return d->begun && !d->refused && !d->told_end && (d->text.len || d->ends);
}

static void take_one(durable_work *w, durable_stream *d)
{
    aiq_buf *texts = &w->texts[2 * w->n];
    size_t n = d->text.len ? stream_log_count(d->text.data, d->text.len) : 0;

    texts[0] = d->text;
    texts[1] = d->source;
    d->text = d->source = (aiq_buf){0};
    set_waiting(d);
    d->told_end = d->ends;
    w->streams[w->n] = d;
    w->batches[w->n] = (durable_batch){
        .id = d->id,
        .term = d->term,
        .first = d->next_event,
        .last = d->next_event + n - 1,
        .ms = aiq_now_ms(),
        .events = {(char *)texts[0].data, n ? texts[0].len : 0},
        .source = {texts[1].len ? (char *)texts[1].data : NULL, texts[1].len},
        .ends = d->ends,
    };
    d->next_event += n;
    w->n++;
}

/* NULL: nothing waits. */
static durable_work *take_work(durable_lane *lane)
{
    size_t n = 0;

    for (const durable_stream *d = lane->streams; d; d = d->next) {
        n += waits(d);
    }
    if (n == 0) {
        return NULL;
    }
    durable_work *w = aiq_zalloc(sizeof(*w));
    w->lane = lane;
    memcpy(w->me, lane->all->me, sizeof(w->me));
    w->streams = aiq_alloc(n * sizeof(*w->streams));
    w->batches = aiq_alloc(n * sizeof(*w->batches));
    w->texts = aiq_zalloc(2 * n * sizeof(*w->texts));
    for (durable_stream *d = lane->streams; d; d = d->next) {
        if (waits(d)) {
            take_one(w, d);
        }
    }
    return w;
}

/* The same, a stream each, in a row. */
static durable_work *split(durable_work *w)
{
    durable_work *first = NULL;

    for (size_t i = w->n; i-- > 0;) {
        durable_work *one = aiq_zalloc(sizeof(*one));
        *one = (durable_work){.lane = w->lane, .next = first, .n = 1};
        memcpy(one->me, w->me, sizeof(one->me));
        one->streams = aiq_alloc(sizeof(*one->streams));
        one->batches = aiq_alloc(sizeof(*one->batches));
        one->texts = aiq_alloc(2 * sizeof(*one->texts));
        one->streams[0] = w->streams[i];
        one->batches[0] = w->batches[i];
        memcpy(one->texts, &w->texts[2 * i], 2 * sizeof(*one->texts));
        first = one;
    }
    w->n = 0; /* its texts are theirs */
    work_free(w);
    return first;
}

static bool store_work(store_db *db, void *arg, aiq_err *err)
{
    durable_work *w = arg;

    return durable_tx_add(db, w->me, w->batches, w->n, err);
}

/* Another engine has it. */
static void let_go(durable_stream *d)
{
    stream *s = d->stream;
    void *arg;
    const stream_producer *producer = stream_producer_of(s, &arg);

    aiq_log(AIQ_LOG_WARN, "streams", "a stream is another engine's by now",
            AIQ_S("stream", d->id));
    d->refused = true;
    if (producer) {
        producer->lost(arg, NULL);
    }
    stream_state_free(d);
    stream_moved(s);
}

/* One that never ends would fill the store. */
static void limit(durable_stream *d)
{
    void *arg;
    const stream_producer *producer = stream_producer_of(d->stream, &arg);
    aiq_err err;

    if (d->stored > DURABLE_MOST && !d->full && producer) {
        d->full = true;
        aiq_fail(&err, 413, "stream_too_long", "A guaranteed stream may have %zu MB.",
                 DURABLE_MOST >> 20);
        producer->lost(arg, &err);
    }
}

static void stored_one(durable_stream *d, const durable_batch *b)
{
    stream *s = d->stream;

    if (!b->taken) {
        let_go(d);
        return;
    }
    metric_add(d->lane->all->stored, (int64_t)(b->last + 1 - b->first));
    d->stored += b->events.len;
    if (b->events.len) {
        stream_stored(s, b->events.data, b->events.len, b->ms);
    }
    if (b->ends) {
        stream_state_free(d);
        stream_over(s);
    } else {
        set_pace(d);
        limit(d);
    }
}

/* The store does not take them for so long that their producers had better know. */
static void tell_all(durable_lane *lane, const aiq_err *err)
{
    aiq_log(AIQ_LOG_ERROR, "streams", "the store does not take the events of streams",
            AIQ_S("detail", err->detail[0] ? err->detail : err->message));
    for (durable_stream *d = lane->streams, *next; d; d = next) {
        void *arg;
        const stream_producer *producer = stream_producer_of(d->stream, &arg);
        next = d->next;
        if (producer && d->begun) {
            producer->lost(arg, err);
        }
    }
}

static void submit(durable_work *w);

static void go_on(durable_lane *lane)
{
    if (lane->work) {
        submit(lane->work);
    } else {
        flush_soon(lane, DURABLE_GATHER_MS);
    }
}

/* Who has nobody any more to say it. */
static void say_error(durable_stream *d, const aiq_err *err)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = err->status,
        .code = {err->code, strlen(err->code)},
        .message = {err->message, strlen(err->message)},
    };
    size_t n = aiq_error_render(body, AIQ_DIALECT_OWN, &info);

    aiq_buf_printf(&d->text, "event: error\ndata: %.*s\n\n", (int)n, body);
    d->ends = true;
}

/* What the store refuses of it is let go; an error takes its place, and ends it. Should the
 * store refuse that, too, it is said to those who read it here. */
static void refuse(durable_stream *d, const durable_batch *b, const aiq_err *err)
{
    stream *s = d->stream;
    void *arg;
    const stream_producer *producer = stream_producer_of(s, &arg);

    aiq_log(AIQ_LOG_ERROR, "streams", "the store refuses a stream's events",
            AIQ_S("stream", d->id),
            AIQ_S("detail", err->detail[0] ? err->detail : err->message));
    aiq_buf_free(&d->text);
    aiq_buf_free(&d->source);
    set_waiting(d);
    d->next_event = b->first;
    d->told_end = false;
    if (d->failed) {
        say_error(d, err);
        stream_stored(s, d->text.data, d->text.len, aiq_now_ms());
        stream_state_free(d);
        stream_over(s);
        return;
    }
    d->failed = true;
    if (producer) {
        producer->lost(arg, err);
    } else {
        say_error(d, err);
    }
}

/* By the store, which is there. */
static void on_refused(durable_work *w, const aiq_err *err)
{
    durable_lane *lane = w->lane;

    if (w->n > 1) {
        lane->work = split(w);
        submit(lane->work);
    } else if (++w->refusals < DURABLE_TRIES) {
        loop_timer_start(lane->loop, &lane->timer, DURABLE_RETRY_MS, flush, lane);
    } else {
        lane->work = w->next;
        refuse(w->streams[0], &w->batches[0], err);
        work_free(w);
        go_on(lane);
    }
}

static void on_stored(aiq_loop *loop, void *arg, const aiq_err *err)
{
    durable_work *w = arg;
    durable_lane *lane = w->lane;
    uint64_t now = loop_now_ns();

    (void)loop;
    if (err && err->status != 503 && !lane->all->stopping) {
        on_refused(w, err);
        return;
    }
    if (err && !lane->all->stopping) {
        lane->failing_ns = lane->failing_ns ? lane->failing_ns : now;
        if (!lane->told && now - lane->failing_ns > DURABLE_PATIENCE_MS * 1000000ull) {
            lane->told = true;
            tell_all(lane, err);
        }
        loop_timer_start(lane->loop, &lane->timer, DURABLE_RETRY_MS, flush, lane);
        return;
    }
    lane->failing_ns = 0;
    lane->told = false;
    lane->work = lane->work == w ? w->next : lane->work;
    for (size_t i = 0; !lane->all->stopping && i < w->n; i++) {
        stored_one(w->streams[i], &w->batches[i]);
    }
    work_free(w);
    if (!lane->all->stopping) {
        go_on(lane);
    }
}

static void submit(durable_work *w)
{
    aiq_err err;

    if (!store_write(w->lane->all->engine->store, w->lane->loop, store_work, w, on_stored, w,
                     &err)) {
        on_stored(w->lane->loop, w, &err);
    }
}

/* The same once more, where it has failed. */
static void flush(aiq_loop *loop, void *arg)
{
    durable_lane *lane = arg;

    (void)loop;
    if (lane->work == NULL) {
        lane->work = take_work(lane);
    }
    if (lane->work) {
        submit(lane->work);
    }
}

/* Beginning. */

typedef struct {
    durable_stream *d;
    char me[DURABLE_NAME], id[AIQ_ID_SIZE];
    int64_t until_ms;
    durable_request request;
    aiq_str tenant;
    aiq_buf texts; /* of both */
} beginning;

static bool store_beginning(store_db *db, void *arg, aiq_err *err)
{
    beginning *b = arg;

    return durable_tx_begin(db, b->me, b->until_ms, b->id, b->tenant, &b->request, err);
}

static void beginning_free(beginning *b)
{
    aiq_buf_free(&b->texts);
    free(b);
}

/* All of them are copied. */
static void keep_texts(beginning *b, aiq_str tenant, const durable_request *r)
{
    const aiq_str from[] = {tenant, r->request, r->policy_id, r->policy, r->user, r->model};
    aiq_str *to[] = {&b->tenant,         &b->request.request, &b->request.policy_id,
                     &b->request.policy, &b->request.user,    &b->request.model};
    const size_t n = sizeof(from) / sizeof(from[0]);
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        aiq_buf_add(&b->texts, from[i].data, from[i].len);
    }
    for (size_t i = 0; i < n; i++) {
        *to[i] = (aiq_str){(char *)b->texts.data + at, from[i].len};
        at += from[i].len;
    }
}

/* It never was. */
static void undo(durable_stream *d)
{
    stream *s = d->stream;

    stream_state_free(d);
    stream_moved(s);
}

static void on_begun(aiq_loop *loop, void *arg, const aiq_err *err)
{
    beginning *b = arg;
    durable_stream *d = b->d;
    void *producer_arg;
    const stream_producer *producer = stream_producer_of(d->stream, &producer_arg);

    (void)loop;
    beginning_free(b);
    d->begun = err == NULL;
    d->refused = err != NULL;
    if (producer) {
        producer->opened(producer_arg, err);
    }
    if (err) {
        undo(d);
    } else if (d->ends) {
        flush_soon(d->lane, 0);
    }
}

stream *durable_begin(aiq_loop *loop, aiq_str tenant, size_t keep,
                      const stream_producer *producer, void *arg,
                      const durable_request *request, aiq_err *err)
{
    durable_lane *lane = durable_lane_of(loop);
    stream *s = stream_new(loop, tenant, keep, producer, arg);
    beginning *b = aiq_zalloc(sizeof(*b));

    stream_title(s, request->user, request->model);
    b->d = durable_make(lane, s, stream_id(s), 1, 0);
    memcpy(b->me, lane->all->me, sizeof(b->me));
    memcpy(b->id, b->d->id, sizeof(b->id));
    b->until_ms = aiq_now_ms() + DURABLE_LEASE_MS;
    keep_texts(b, tenant, request);
    if (!store_write(loop->engine->store, loop, store_beginning, b, on_begun, b, err)) {
        undo(b->d);
        beginning_free(b);
        return NULL;
    }
    return s;
}

/* Reading. */

static bool read_page(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_read(db, arg, err);
}

bool durable_read(aiq_loop *loop, durable_page *page, store_done_fn told, void *arg,
                  aiq_err *err)
{
    if (loop->engine->durable == NULL) {
        return aiq_fail(err, 404, "stream_not_found", "There is no such stream.");
    }
    return store_read(loop->engine->store, loop, read_page, page, told, arg, err);
}

static bool read_list(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_list(db, arg, err);
}

bool durable_list(aiq_loop *loop, durable_owned *owned, store_done_fn told, void *arg)
{
    durable *all = loop->engine->durable;
    aiq_err err; /* is no matter: the list is as long as it can be */

    if (all == NULL) {
        return false;
    }
    owned->me = all->me;
    return store_read(loop->engine->store, loop, read_list, owned, told, arg, &err);
}

/* Life. */

static metric *only(metric_family *family)
{
    return metrics_sample(family, NULL);
}

durable *durable_new(aiq_engine *engine)
{
    durable *all = aiq_zalloc(sizeof(*all));
    metrics *m = engine->metrics;

    all->engine = engine;
    snprintf(all->me, sizeof(all->me), "%016llx", (unsigned long long)engine->id);
    all->open = only(metrics_family(m, METRIC_GAUGE, "aiq_streams_guaranteed",
                                    "Guaranteed streams that go on here.", "", NULL));
    all->unstored =
        only(metrics_family(m, METRIC_GAUGE, "aiq_streams_unstored_bytes",
                            "Of guaranteed streams, what waits for the store.", "", NULL));
    all->stored =
        only(metrics_family(m, METRIC_COUNTER, "aiq_streams_stored_events_total",
                            "Events of guaranteed streams that were stored.", "", NULL));
    all->taken =
        only(metrics_family(m, METRIC_COUNTER, "aiq_streams_taken_over_total",
                            "Guaranteed streams that another engine had left.", "", NULL));
    all->followed = only(metrics_family(m, METRIC_GAUGE, "aiq_streams_followed",
                                        "Guaranteed streams of other engines that are read "
                                        "here.",
                                        "", NULL));
    all->look_ms = DURABLE_LOOK_MS;
    all->lanes = aiq_zalloc(engine->options.loops * sizeof(*all->lanes));
    for (unsigned i = 0; i < engine->options.loops; i++) {
        all->lanes[i] = (durable_lane){.all = all, .loop = &engine->loops[i]};
        durable_init_copies(&all->lanes[i]);
    }
    durable_start_beat(all);
    return all;
}

static bool store_leave(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_leave(db, ((durable *)arg)->me, err);
}

static void on_left(aiq_loop *loop, void *arg, const aiq_err *err)
{
    (void)loop;
    (void)arg;
    (void)err; /* then the lease ends by itself */
}

void durable_stop(durable *all)
{
    aiq_err err;

    if (all == NULL) {
        return;
    }
    all->stopping = true;
    for (unsigned i = 0; i < all->engine->options.loops; i++) {
        durable_lane *lane = &all->lanes[i];
        durable_work *w = lane->work;
        if (w && lane->timer.heap_index == 0) {
            w = w->next; /* it is on its way */
        }
        for (durable_work *next; w; w = next) { /* what has failed before: once more */
            next = w->next;
            submit(w);
        }
        durable_work *rest = take_work(lane);
        if (rest) {
            submit(rest);
        }
        loop_timer_stop(lane->loop, &lane->timer);
    }
    store_write(all->engine->store, &all->engine->loops[0], store_leave, all, on_left, NULL,
                &err);
}

void durable_free(durable *all)
{
    if (all == NULL) {
        return;
    }
    for (unsigned i = 0; i < all->engine->options.loops; i++) {
        durable_lane *lane = &all->lanes[i];
        loop_timer_stop(lane->loop, &lane->timer);
        while (lane->streams) {
            stream_state_free(lane->streams);
        }
        durable_free_copies(lane);
    }
    loop_timer_stop(&all->engine->loops[0], &all->beat);
    free(all->lanes);
    free(all);
}
