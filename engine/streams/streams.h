/*
 * Streams: what is said bit by bit is a numbered log of events (stream_log.h), and whoever
 * may read it does so at a pace of its own, from where it was.
 *
 * A stream belongs to the loop that produces it, and its id names that loop and the engine:
 * so every loop finds it, and no engine takes another's for its own. Readers of its own loop
 * have a place in it; those of any loop are a stream_reader (stream_reader.h), which is
 * told by messages. There is no lock.
 *
 * What is kept. Of the log at most `keep` bytes, the latest; but nothing is dropped that the
 * fastest reader has still to read, for the producer waits for that one: it is to hold once
 * half of `keep` is unread. The other half is behind that reader, for one who was cut off
 * and comes back. A reader that is slower, so that its place is not kept any more, is told
 * so: it delays nobody. After the last event a stream is kept for STREAM_KEEP_MS, and as
 * long as it has readers.
 *
 * A guaranteed stream (durable.h) is different in this: nobody reads an event before the
 * store has it, its producer waits for the store and never for a reader, and goes on without
 * one; who is slower than what is kept here reads on from the store.
 *
 * A loop's streams together take at most their part of the memory that streams_new() is
 * given. Where that is not enough, those go first that are over and have no reader, the
 * oldest first; then those that go on keep only what is unread. Their readers may take as
 * much as a quarter of that memory besides.
 */

#ifndef AIQ_STREAMS_H
#define AIQ_STREAMS_H

#include "core/loop.h"
#include "streams/stream_log.h"

#define STREAM_KEEP_MS 60000

typedef struct streams streams; /* of an engine */
typedef struct stream stream;
struct durable_stream; /* durable.h */

/* memory: bytes, of all loops. Main thread, before the loops start. Never NULL. */
streams *streams_new(aiq_engine *engine, size_t memory);
/* After the loops' threads, the links and the services have ended. NULL is fine. */
void streams_free(streams *all);

/* Who produces a stream; on its loop. */
typedef struct {
    void (*hold)(void *arg, bool hold);       /* wait for the readers; go on. NULL: it waits for
                                                 nobody, and what is kept is kept for nobody */
    void (*watched)(void *arg, bool watched); /* the first reader has come, the last has gone */
    void (*stop)(void *arg);                  /* end it, whoever reads; NULL: it cannot */

    /* Of a guaranteed stream. opened: the store has it (err NULL), or does not take it.
     * lost: nothing is to be added any more, for the store has not taken its events for long
     * (an error may be added, and the end), or another engine has it (err NULL: then it is
     * gone when this returns). */
    void (*opened)(void *arg, const aiq_err *err);
    void (*lost)(void *arg, const aiq_err *err);
} stream_producer;

/* A stream of this loop, for readers of the tenant. Valid until stream_end(), and for those
 * who have a place in it until they leave. */
stream *stream_new(aiq_loop *loop, aiq_str tenant, size_t keep, const stream_producer *producer,
                   void *arg);
const char *stream_id(const stream *s);

/* Whose it is and of which model, both copied, for streams_of(); until it ends. Once. */
void stream_title(stream *s, aiq_str user, aiq_str model);

/* Streams of the loop that are under way and have a title: valid during each(). */
typedef struct {
    const char *id;
    aiq_str model;
    uint64_t last; /* event; 0: there was none yet */
    int64_t began_ms;
    bool guaranteed;
} stream_info;
void streams_of(aiq_loop *loop, aiq_str tenant, aiq_str user,
                void (*each)(void *arg, const stream_info *info), void *arg);

/* stream_log_objects() of its log. */
void stream_objects(stream *s, uint64_t before);

/* Events as stream_log_add() takes them. May call the producer. */
void stream_add(stream *s, const void *text, size_t len);

/* Nothing more comes; the producer is not called any more. */
void stream_end(stream *s);

/* Asks whoever produces it to end it now, for all its readers; nothing happens where it has
 * ended, or is another tenant's. Any loop. */
void stream_stop(aiq_loop *loop, aiq_str id, aiq_str tenant);

/* A guaranteed one is left as it is, for another engine to go on with. */
void stream_release(stream *s);

/* For durable.c. A stream made by another engine, of which events up to `last` are stored;
 * its producer follows by stream_produce(). NULL: it is here already. */
stream *stream_adopt(aiq_loop *loop, const char *id, aiq_str tenant, uint64_t last);
void stream_produce(stream *s, size_t keep, const stream_producer *producer, void *arg);
/* What is added and ended goes this way from now on; NULL: nobody adds to it here … */
void stream_guarantee(stream *s, struct durable_stream *d);
struct durable_stream *stream_durable(const stream *s);
/* … and comes back: for the readers, what is stored; that this was all; and that another
 * engine has it, where it is gone. */
void stream_stored(stream *s, const void *text, size_t len, int64_t ms);
void stream_over(stream *s);
/* The same for a copy of another engine's: what that has stored. False: there is a gap. */
bool stream_copied(stream *s, const stream_log *stored);
void stream_moved(stream *s);
const stream_producer *stream_producer_of(const stream *s, void **arg); /* NULL: it has ended */

/* A reader on the stream's loop; embedded in its owner, who leaves before it goes. */
typedef struct stream_place {
    stream *stream; /* NULL: it reads none */
    uint64_t at;
    void (*more)(struct stream_place *place); /* there is more, or the end; may be NULL */
    struct stream_place *next, **prev;
} stream_place;

/* From `at` on, which is kept (stream_log_find()). May call the producer. */
void stream_join(stream *s, stream_place *place, uint64_t at);
/* Fine where it reads none. May call the producer. */
void stream_leave(stream_place *place);

/* All that it has not read; valid until the next stream_add(). False: the beginning of that
 * is not kept any more. */
bool stream_rest(const stream_place *place, aiq_str *rest);
/* It has read so many bytes. May call the producer. */
void stream_took(stream_place *place, size_t n);

/* For readers. NULL: there is none, or it is another tenant's. */
stream *stream_find(aiq_loop *loop, aiq_str id, aiq_str tenant);
const stream_log *stream_log_of(const stream *s);
bool stream_ended(const stream *s);
bool stream_guaranteed(const stream *s);
bool stream_has_moved(const stream *s); /* its readers have to leave, and ask the store */
unsigned stream_readers(const stream *s);

/* What readers at one place share (stream_reader.c); the stream's last reader leaves none. */
struct stream_cut **stream_cut_of(stream *s);
/* stream_reader.c: the last reader has left, which may not be one of its own. */
void stream_cut_drop(struct stream_cut **cut);
/* A reader of that size comes; false: there is no memory for another. */
bool stream_reader_room(aiq_loop *loop, size_t size);
/* It has gone. */
void stream_reader_gone(aiq_loop *loop, size_t size);
/* Do the loop's streams take more than they may? */
bool streams_full(const aiq_loop *loop);

/* The loop that has the stream, or would; NULL and *err (404): it is no stream's id. */
aiq_loop *stream_owner(aiq_engine *engine, aiq_str id, aiq_err *err);

#endif
