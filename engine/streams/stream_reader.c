#include "streams/stream_reader.h"

#include <stdlib.h>
#include <string.h>
#include "core/id.h"

struct stream_reader {
    stream_place place; /* first; of the owner's loop, as the next two */
    bool waits;         /* for the reader to take a piece */
    loop_timer timer;

    aiq_loop *home, *owner;
    char id[AIQ_ID_SIZE];
    stream_question question; /* its texts lie here */
    stream_told told;         /* of its home, as the next two */
    void *arg;
    bool left;

    aiq_buf data; /* of whose turn it is, as the next one */
    stream_piece piece;
    char tenant[];
};

/* On the stream's loop. */

static void on_piece(aiq_loop *loop, void *arg);

static void send_piece(stream_reader *r)
{
    r->piece.data = (aiq_str){(char *)r->data.data, r->data.len};
    if (r->piece.last) {
        loop_timer_stop(r->owner, &r->timer);
        stream_leave(&r->place);
    }
    loop_post(r->home, on_piece, r);
}

static void refuse(stream_reader *r)
{
    r->waits = true;
    aiq_buf_consume(&r->data, r->data.len);
    r->piece.last = true;
    send_piece(r);
}

static bool truncated(stream_reader *r, const stream_log *log)
{
    return aiq_fail(&r->piece.err, 410, "stream_truncated",
                    "The next events are not kept any more; the first that is has the "
                    "number %llu.",
                    (unsigned long long)log->first);
}

static void take_json(stream_reader *r)
{
    const stream_log *log = stream_log_of(r->place.stream);
    uint64_t at = 0;

    r->piece.next = stream_log_json(log, r->question.after, STREAM_PIECE, &r->data);
    r->piece.done = stream_ended(r->place.stream) && r->piece.next == stream_log_last(log);
    r->piece.last = true;
    (void)stream_log_find(log, r->piece.next, &at); /* it is kept */
    stream_took(&r->place, at - r->place.at);
    send_piece(r);
}

static void take_events(stream_reader *r)
{
    const stream *s = r->place.stream;
    const stream_log *log = stream_log_of(s);
    aiq_str events = stream_log_events(log, r->place.at, STREAM_PIECE);

    aiq_buf_add(&r->data, events.data, events.len);
    stream_took(&r->place, events.len);
    r->piece.done = r->piece.last = stream_ended(s) && r->place.at == stream_log_end(log);
    send_piece(r);
}

/* What is there; at_once: also where that is nothing. */
static void pump(stream_reader *r, bool at_once)
{
    aiq_str rest;

    if (r->waits || r->place.stream == NULL) {
        return;
    }
    if (!stream_rest(&r->place, &rest)) {
        truncated(r, stream_log_of(r->place.stream));
        refuse(r);
    } else if (rest.len || at_once || stream_ended(r->place.stream)) {
        r->waits = true;
        aiq_buf_consume(&r->data, r->data.len);
        (r->question.once ? take_json : take_events)(r);
    }
}

static void on_more(stream_place *place)
{
    pump((stream_reader *)place, false);
}

static void on_waited(aiq_loop *loop, void *arg)
{
    (void)loop;
    pump(arg, true);
}

static bool join(stream_reader *r)
{
    stream *s = stream_find(r->owner, r->question.id, r->question.tenant);
    aiq_err *err = &r->piece.err;
    uint64_t at;

    if (s == NULL) {
        return aiq_fail(err, 404, "stream_not_found",
                        "There is no such stream, or not any more.");
    }
    const stream_log *log = stream_log_of(s);
    if (r->question.after > stream_log_last(log)) {
        return aiq_fail_param(err, 400, "invalid_value", "after",
                              "The stream has not come to this event yet.");
    }
    if (!stream_log_find(log, r->question.after, &at)) {
        return truncated(r, log);
    }
    if (stream_readers(s) >= STREAM_READERS_MAX) {
        return aiq_fail(err, 429, "too_many_readers", "This stream has too many readers.");
    }
    r->place.more = on_more;
    stream_join(s, &r->place, at);
    return true;
}

static void on_ask(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    if (!join(r)) {
        refuse(r);
    } else if (!r->question.once || r->question.wait_ms == 0) {
        pump(r, true);
    } else {
        loop_timer_start(loop, &r->timer, r->question.wait_ms, on_waited, r);
        pump(r, false);
    }
}

static void on_next(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    r->waits = false;
    pump(r, false);
}

static void on_gone(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    aiq_buf_free(&r->data);
    free(r);
}

static void on_leave(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    loop_timer_stop(loop, &r->timer);
    stream_leave(&r->place);
    loop_post(r->home, on_gone, r); /* behind a piece that is under way */
}

/* At home. */

static void on_piece(aiq_loop *loop, void *arg)
{
    stream_reader *r = arg;

    (void)loop;
    if (!r->left) {
        r->told(r->arg, &r->piece);
    }
}

stream_reader *stream_read(aiq_loop *loop, const stream_question *question, stream_told told,
                           void *arg, aiq_err *err)
{
    aiq_loop *owner = stream_owner(loop->engine, question->id, err);

    if (owner == NULL) {
        return NULL;
    }
    stream_reader *r = aiq_zalloc(sizeof(*r) + question->tenant.len);
    r->home = loop;
    r->owner = owner;
    r->question = *question;
    r->question.id.data = memcpy(r->id, question->id.data, question->id.len);
    r->question.tenant.data = memcpy(r->tenant, question->tenant.data, question->tenant.len);
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
