/*
 * What a client is sent. A stream of events goes into a log (streams.h) where its location
 * keeps some (`aiq_stream_buffer`); then the client is a reader of that log, the first of
 * perhaps several, and the producer waits when the fastest of them does. Without a log, and
 * for a whole answer, it goes straight to the client, who alone is waited for.
 *
 * Of a guaranteed stream the client is a reader as any other (stream_reader.h): he gets what
 * is stored, and nobody waits for him.
 *
 * Of the job's loop; lies in the job's memory.
 */

#ifndef AIQ_GATEWAY_OUTLET_H
#define AIQ_GATEWAY_OUTLET_H

#include "link/job.h"
#include "streams/durable.h"
#include "streams/stream_reader.h"

typedef struct outlet {
    aiq_job *job;
    aiq_buf text; /* where what is said next is put together */
    aiq_buf out;  /* what waits for credit; where there is a log, it has the rest */
    stream *log;  /* NULL: nobody can come back */
    bool ended;   /* the log */
    stream_place place;
    /* guaranteed */
    bool guaranteed;
    stream_reader *reader; /* NULL: the client is not sent anything yet, or any more */
    bool taking;           /* a piece of it: the next is asked for once it is sent */
    bool last;             /* it is the last */
    aiq_err err;           /* of OUTLET_LOST */
    void (*more)(void *arg);
    void *arg;
} outlet;

/* Begins a log of `keep` bytes, with the client at its beginning. */
void outlet_log(outlet *o, size_t keep, const stream_producer *producer, void *arg);

/* Begins a guaranteed one: its producer's opened() follows. request: see durable_begin().
 * False and *err. */
bool outlet_guarantee(outlet *o, size_t keep, const stream_producer *producer, void *arg,
                      const durable_request *request, aiq_err *err);
/* Goes on with one that another engine has left. */
void outlet_adopt(outlet *o, stream *log, size_t keep, const stream_producer *producer,
                  void *arg);
/* The client reads a guaranteed one, from its beginning: the head is sent. more: outlet_send()
 * has something to do. */
void outlet_follow(outlet *o, void (*more)(void *arg), void *arg);
/* There will be no stream after all, but one answer. */
void outlet_forget(outlet *o);
/* The engine leaves a guaranteed one to another. */
void outlet_release(outlet *o);

/* What stands in text is to go out; whole events, where there is a log. Returns it as the
 * client gets it, valid until the next call; nothing, of a guaranteed one. */
aiq_str outlet_say(outlet *o);
/* Bytes that belong to no event, where they can go at once. */
void outlet_comment(outlet *o, aiq_str text);

typedef enum {
    OUTLET_SENT,
    OUTLET_WAITS, /* for credit: writable() follows; or for the store: more() follows */
    OUTLET_LOST   /* the client was so slow that what comes next is not kept any more, or it
                     cannot be had: err */
} outlet_state;

/* Sends what the client has credit for. */
outlet_state outlet_send(outlet *o);

/* The client is gone. */
void outlet_leave(outlet *o);

/* Nothing more is said. */
void outlet_end(outlet *o);

void outlet_free(outlet *o);

#endif
