/*
 * A reader of a stream, on any loop. It asks the stream's loop for pieces, one at a time:
 * the next is not sent before the last was taken, so a slow reader holds one piece and
 * nobody up. A stream of many small events comes in pieces of many.
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
    uint64_t after;     /* the number of the last event that it has; 0: none */
    bool once;          /* one piece, as JSON (stream_log_json()), and that is all … */
    uint32_t wait_ms;   /* … for which it waits so long where there is nothing yet */
} stream_question;

typedef struct {
    aiq_str data;  /* whole events; may be empty; valid during the call */
    uint64_t next; /* asked once: the number of the last of them */
    bool done;     /* the stream has ended, and these were its last */
    bool last;     /* there will be no other piece: done, asked once, or … */
    aiq_err err;   /* … (status != 0) why not. 404 stream_not_found, 410 stream_truncated: the
                      next event is not kept any more, 400: it has not come to `after`, 429:
                      too many readers */
} stream_piece;

/* On the loop that asked; the first comes as soon as the stream is found, though it may be
 * empty, but for what is asked once. */
typedef void (*stream_told)(void *arg, const stream_piece *piece);

/* The reader, or NULL and *err: it is no stream's id. No call comes before this returns. */
stream_reader *stream_read(aiq_loop *loop, const stream_question *question, stream_told told,
                           void *arg, aiq_err *err);
/* The last piece was taken: the next, when there is one. */
void stream_reader_next(stream_reader *reader);
/* No call comes any more, and the reader is gone. Always, also after the last piece. */
void stream_reader_leave(stream_reader *reader);

#endif
