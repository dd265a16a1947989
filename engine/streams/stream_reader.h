/*
 * A reader of a stream or a topic (topics.h), on any loop. It asks the stream's loop for
 * pieces, one at a time: the next is not sent before the last was taken, so a slow reader holds
 * one piece and nobody up. A stream of many small events comes in pieces of many. A piece is
 * shared by all who read it; nothing is copied for each of them.
 *
 * What is not kept of a guaranteed stream (durable.h), or is another engine's, comes from the
 * store, and the reader goes over to memory where that has caught up.
 *
 * What both loops need travels with the messages: of two threads that know a reader, only
 * the one whose turn it is touches what is said between them.
 */

#ifndef AIQ_STREAM_READER_H
#define AIQ_STREAM_READER_H

#include "streams/streams.h"

/* Bytes of events in a piece; a single event may be larger. */
#define STREAM_PIECE 32768u

typedef struct stream_reader stream_reader;

typedef struct {
    aiq_str id, tenant; /* copied */
    bool topic;         /* id is a topic's name, which topic_may_read() */
    uint64_t after;     /* the number of the last event that it has; 0: none */
    bool from_now;      /* instead: only what is still to come */
    bool objects;       /* as JSON, a line each (stream_log_json()), not as on the wire */
    bool once;          /* one piece, of objects, and that is all … */
    uint32_t wait_ms;   /* … for which it waits so long where there is nothing yet */
} stream_question;

typedef struct {
    aiq_str data;  /* whole events; may be empty; valid until the next call of this room */
    uint64_t next; /* the number of the last of them, or of the last one before them */
    bool gap;      /* of a topic: what is missing before them is not kept any more */
    bool done;     /* the stream has ended, and these were its last */
    bool last;     /* there will be no other piece: done, asked once, or … */
    aiq_err err;   /* … (status != 0) why not. 404 stream_not_found, 410 stream_truncated: the
                      next event is not kept any more, 400: it has not come to `after`, 429
                      too_many_readers, too_many_topics, 503: the store does not answer */
} stream_piece;

/* On the loop that asked; the first comes as soon as the stream is found, though it may be
 * empty, but for what is asked once. */
typedef void (*stream_told)(void *arg, const stream_piece *piece);

/* The reader, or NULL and *err: it is no stream's id, no topic's name. No call comes before
 * this returns. */
stream_reader *stream_read(aiq_loop *loop, const stream_question *question, stream_told told,
                           void *arg, aiq_err *err);
/* The last piece was taken: the next, when there is one. */
void stream_reader_next(stream_reader *reader);
/* No call comes any more, and the reader is gone. Always, also after the last piece. */
void stream_reader_leave(stream_reader *reader);

#endif
