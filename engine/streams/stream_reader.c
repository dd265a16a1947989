#include "streams/stream_reader.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "core/id.h"
#include "engine.h"
#include "streams/durable.h"
#include "streams/topics.h"

/* How often one is looked for that is not ready yet. */
#define TOPIC_POLL_MS 5
#define TOPIC_POLLS   400

/* Whole events. Those who read on from the same place in the same form are given the same
 * one: an event for many readers is copied once, whatever loop they are of. */
typedef struct stream_cut {
    atomic_uint refs;
    bool objects;
    uint64_t after, last; /* numbers: of the event before it and of its last one */
    uint64_t to;          /* place */
    aiq_buf bytes;
} stream_cut;

/* Of those that have to ask it. */
typedef struct {
    durable_page page;
    loop_timer poll;
} store_part;

struct stream_reader {
    stream_place place; /* first; of the owner's loop, as what follows */
    bool waits;         /* for the reader to take a piece */
    bool gap;           /* to be told */
    bool counted;       /* by stream_reader_room() */
    uint64_t number;    /* of the last event that it has */
    loop_timer timer;   /* asked once: how long it waits */

    bool stored;       /* what comes next is to be had from the store, if at all */
    bool asking;       /* which is being asked */
    bool late;         /* the timer has run */
    bool gone;         /* it goes once the store has answered */
    bool sent;         /* it has had a piece */
    uint16_t polls;    /* for a topic */
    store_part *store; /* NULL: it was not asked yet */

    aiq_loop *home, *owner;
    stream_question question; /* its texts lie here */
    stream_told told;         /* of its home, as the next two */
    void *arg;
    bool left;

    /* of whose turn it is: a piece */
    stream_cut *cut; /* NULL: it is empty */
    uint64_t next;
    bool told_gap, done, last;
    aiq_err *err; /* NULL: none. The others are many, and a failure large */
    char texts[];
};

/* Pieces. */

void stream_cut_drop(stream_cut **cut)
{
    /* acquire: what the others did with it is over before it is freed; release: so is what
     * this one did */
    if (*cut && atomic_fetch_sub_explicit(&(*cut)->refs, 1, memory_order_acq_rel) == 1) {
        aiq_buf_free(&(*cut)->bytes);
        free(*cut);
    }
    *cut = NULL;
}

static bool objects(const stream_reader *r)
{
    return r->question.objects || r->question.once;
}

static stream_cut *make_cut(stream_reader *r, const stream_log *log)
{
    stream_cut *cut = aiq_zalloc(sizeof(*cut));

    atomic_init(&cut->refs, 1);
    cut->objects = objects(r);
    cut->after = r->number;
    cut->last = (cut->objects ? stream_log_json : stream_log_events)(log, r->number,
                                                                     STREAM_PIECE, &cut->bytes);
    (void)stream_log_find(log, cut->last, &cut->to); /* it is kept */
    return cut;
}

/* Is it what the reader would be given, or as good? */
static bool fits(const stream_cut *cut, const stream_reader *r, const stream_log *log)
{
    return cut && cut->objects == objects(r) && cut->after == r->number &&
           (cut->last == stream_log_last(log) || cut->bytes.len >= STREAM_PIECE / 2);
}

static void take_cut(stream_reader *r)
{
    stream *s = r->place.stream;
    const stream_log *log = stream_log_of(s);
    stream_cut **shared = stream_cut_of(s);

    if (!fits(*shared, r, log)) {
        stream_cut_drop(shared);
        r->cut = make_cut(r, log);
        if (stream_readers(s) == 1) {
            return;
        }
        *shared = r->cut;
    } else {
        r->cut = *shared;
    }
    atomic_fetch_add_explicit(&r->cut->refs, 1, memory_order_relaxed);
}

/* On the stream's loop. */

static void on_piece(aiq_loop *loop, void *arg);

static void on_gone(aiq_loop *loop, void *arg);

static void leave(stream_reader *r)
{
    loop_timer_stop(r->owner, &r->timer);
    if (r->store) {
        loop_timer_stop(r->owner, &r->store->poll);
    }
    stream_leave(&r->place);
    if (r->counted) {
        r->counted = false;
        stream_reader_gone(r->owner, sizeof(*r));
    }
}

static void send_piece(stream_reader *r)
{
    r->waits = r->sent = true;
    r->next = r->number;
    r->told_gap = r->gap;
    r->gap = false;
    if (r->last) {
        leave(r);
    }
    loop_post(r->home, on_piece, r);
}

static void refuse(stream_reader *r, const aiq_err *err)
{
    r->err = aiq_alloc(sizeof(*err));
    *r->err = *err;
    r->last = true;
    send_piece(r);
}

static bool truncated(const stream_log *log, aiq_err *err)
{
    return aiq_fail(err, 410, "stream_truncated",
                    "The next events are not kept any more; the first that is has the "
                    "number %llu.",
                    (unsigned long long)log->first);
}

/* From the first event that is kept. */
static void skip(stream_reader *r, const stream_log *log)
{
    r->place.at = log->start;
    r->number = log->first - 1;
    r->gap = true;
}

static void take_events(stream_reader *r)
{
    const stream *s = r->place.stream;
    const stream_log *log = stream_log_of(s);

    if (r->number < stream_log_last(log)) {
        take_cut(r);
        r->number = r->cut->last;
        stream_took(&r->place, r->cut->to - r->place.at);
    }
    r->done = stream_ended(s) && r->number == stream_log_last(log);
    r->last = r->done || r->question.once;
    send_piece(r);
}

static void ask_store(stream_reader *r);

static void begin(stream_reader *r, bool at_once);

/* What comes next is not kept here. */
static void miss(stream_reader *r, const stream_log *log)
{
    if (r->question.topic) {
        skip(r, log);
    } else {
        aiq_err err;
        truncated(log, &err);
        refuse(r, &err);
    }
}

/* What is there; at_once: also where that is nothing. */
static void pump(stream_reader *r, bool at_once)
{
    const stream *s = r->place.stream;
    aiq_str rest;

    if (r->waits || s == NULL) {
        return;
    }
    bool kept = stream_rest(&r->place, &rest);
    if (!kept && stream_guaranteed(s)) {
        stream_leave(&r->place);
        ask_store(r);
        return;
    }
    if (!kept) {
        miss(r, stream_log_of(s));
    }
    if (r->waits) {
        return;
    }
    if (at_once || r->gap || r->number < stream_log_last(stream_log_of(s)) || stream_ended(s)) {
        take_events(r);
    }
}

static void on_more(stream_place *place)
{
    stream_reader *r = (stream_reader *)place;

    if (!stream_has_moved(place->stream)) {
        pump(r, false);
        return;
    }
    stream_leave(&r->place);
    r->stored = true;
    if (!r->waits && r->question.topic) {
        begin(r, false);
    } else if (!r->waits) {
        ask_store(r);
    }
}

static void on_waited(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    r->late = true;
    pump(r, true);
}

/* From the store. */

static bool join(stream_reader *r, aiq_err *err);

static void on_poll(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;
    const stream_question *q = &r->question;

    (void)loop;
    begin(r, q->topic && (r->late || !q->once || q->wait_ms == 0));
}

static void need_store(stream_reader *r)
{
    if (r->store == NULL) {
        r->store = aiq_zalloc(sizeof(*r->store));
    }
}

/* A place in memory, for it may have come to this engine meanwhile; else the store. A topic
 * will be there in a moment. */
static void begin(stream_reader *r, bool at_once)
{
    aiq_err err;

    if (join(r, &err)) {
        pump(r, at_once);
    } else if (err.status) {
        refuse(r, &err);
    } else if (r->question.topic && r->polls++ == TOPIC_POLLS) {
        aiq_fail(&err, 503, "topics_unavailable", "The topic cannot be read at the moment.");
        refuse(r, &err);
    } else if (r->question.topic) {
        need_store(r);
        loop_timer_start(r->owner, &r->store->poll, TOPIC_POLL_MS, on_poll, r);
    } else {
        ask_store(r);
    }
}

/* The page has the answer; false: *err. */
static bool is_there(const stream_reader *r, const durable_page *page, aiq_err *err)
{
    if (!page->found) {
        return aiq_fail(err, 404, "stream_not_found",
                        "There is no such stream, or not any more: it is over since a while, "
                        "or the engine that had it has ended.");
    }
    return r->number <= page->last ||
           aiq_fail_param(err, 400, "invalid_value", "after",
                          "The stream has not come to this event yet.");
}

/* All that there is has been read, and it goes on. Where the stream is here it may not have
 * come so far yet. */
static void wait_for_more(stream_reader *r)
{
    const stream_question *q = &r->question;
    aiq_err err;

    durable_follow(r->owner, q->id, q->tenant, r->number);
    if (join(r, &err)) {
        pump(r, !r->sent && !q->once);
    } else if (err.status) {
        refuse(r, &err);
    } else {
        loop_timer_start(r->owner, &r->store->poll, DURABLE_POLL_MS, on_poll, r);
    }
}

static void take_page(stream_reader *r, const durable_page *page)
{
    bool fresh = stream_log_end(&page->log) > 0;
    bool in_time = !r->question.once || (r->question.wait_ms && !r->late);

    if (fresh) {
        r->cut = make_cut(r, &page->log);
        r->number = r->cut->last;
    }
    r->done = page->ended && r->number == page->last;
    if (!fresh && !r->done && in_time) {
        wait_for_more(r);
        return;
    }
    r->last = r->done || r->question.once;
    send_piece(r);
}

static void on_answered(aiq_loop *loop, void *arg, const aiq_err *failure)
{
    stream_reader *r = arg;
    durable_page *page = &r->store->page;
    stream_log log = page->log; /* once the answer is posted the reader may go */
    aiq_err err;

    (void)loop;
    r->asking = false;
    if (r->gone) {
        loop_post(r->home, on_gone, r);
    } else if (failure) {
        refuse(r, failure);
    } else if (!is_there(r, page, &err)) {
        refuse(r, &err);
    } else {
        take_page(r, page);
    }
    stream_log_free(&log);
}

static void ask_store(stream_reader *r)
{
    const stream_question *q = &r->question;
    aiq_err err;

    r->stored = true;
    need_store(r);
    durable_page *page = &r->store->page;
    *page = (durable_page){.tenant = q->tenant, .after = r->number, .most = STREAM_PIECE};
    memcpy(page->id, q->id.data, q->id.len); /* of an id's length, for it has an owner */
    r->asking = durable_read(r->owner, page, on_answered, r, &err);
    if (!r->asking) {
        refuse(r, &err);
    }
}

/* Where it begins. A topic goes on for whoever comes, also where what he had is of an engine
 * that ended. */
static bool find_place(stream_reader *r, const stream_log *log, bool guaranteed, aiq_err *err)
{
    stream_question *q = &r->question;

    r->number = q->from_now ? stream_log_last(log) : r->number;
    q->from_now = false; /* should it look for a place once more */
    if (r->number <= stream_log_last(log) && stream_log_find(log, r->number, &r->place.at)) {
        return true;
    }
    if (q->topic) {
        bool had = r->number != 0; /* else he asks for those that there are */
        skip(r, log);
        r->gap = had;
        return true;
    }
    if (guaranteed) {
        return false; /* the store may have what is not here any more, or not yet */
    }
    if (r->number > stream_log_last(log)) {
        return aiq_fail_param(err, 400, "invalid_value", "after",
                              "The stream has not come to this event yet.");
    }
    return truncated(log, err);
}

/* False: the store may know (err->status 0), or *err says why not. */
static bool join(stream_reader *r, aiq_err *err)
{
    const stream_question *q = &r->question;
    err->status = 0;
    stream *s = q->topic ? topic_stream(r->owner, q->tenant, q->id, err)
                         : stream_find(r->owner, q->id, q->tenant);

    if (s == NULL || !find_place(r, stream_log_of(s), stream_guaranteed(s), err)) {
        return false;
    }
    if (!r->counted && !stream_reader_room(r->owner, sizeof(*r))) {
        return aiq_fail(err, 429, "too_many_readers",
                        "The readers of all streams take what memory they may (see "
                        "--stream-memory).");
    }
    r->counted = true;
    r->stored = false;
    r->place.more = on_more;
    stream_join(s, &r->place, r->place.at);
    return true;
}

static void on_ask(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;
    bool waits = r->question.once && r->question.wait_ms;

    if (waits) {
        loop_timer_start(loop, &r->timer, r->question.wait_ms, on_waited, r);
    }
    begin(r, !waits);
}

static void on_next(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    stream_cut_drop(&r->cut);
    r->waits = false;
    if (r->stored) {
        begin(r, false);
    } else {
        pump(r, false);
    }
}

static void on_gone(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    stream_cut_drop(&r->cut);
    free(r->err);
    free(r->store);
    free(r);
}

static void on_leave(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    leave(r);
    r->gone = true;
    if (!r->asking) {
        loop_post(r->home, on_gone, r); /* behind a piece that is under way */
    }
}

/* At home. */

static void on_piece(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;
    stream_piece piece = {
        .data = {"", 0}, .next = r->next, .gap = r->told_gap, .done = r->done, .last = r->last};

    (void)loop;
    if (r->cut) {
        piece.data = (aiq_str){(char *)r->cut->bytes.data, r->cut->bytes.len};
    }
    if (r->err) {
        piece.err = *r->err;
    }
    if (!r->left) {
        r->told(r->arg, &piece);
    }
}

stream_reader *stream_read(aiq_loop *loop, const stream_question *question, stream_told told,
                           void *arg, aiq_err *err)
{
    const stream_question *q = question;
    aiq_loop *owner = q->topic ? topic_owner(loop->engine, q->tenant, q->id, err)
                               : stream_owner(loop->engine, q->id, err);

    if (owner == NULL) {
        return NULL;
    }
    stream_reader *r = aiq_zalloc(sizeof(*r) + q->id.len + q->tenant.len);
    r->home = loop;
    r->owner = owner;
    r->question = *q;
    r->number = q->after;
    r->question.id.data = memcpy(r->texts, q->id.data, q->id.len);
    r->question.tenant.data = memcpy(r->texts + q->id.len, q->tenant.data, q->tenant.len);
    r->told = told;
    r->arg = arg;
    loop_post(owner, on_ask, r);
    return r;
}

void stream_reader_next(stream_reader *reader)
{
    loop_post(reader->owner, on_next, reader);
}

void stream_reader_leave(stream_reader *reader)
{
    reader->left = true;
    loop_post(reader->owner, on_leave, reader);
}
