/*
 * What a client is sent. A stream of events goes into a log (streams.h) where its location
 * keeps some (`aiq_stream_buffer`); then the client is a reader of that log, the first of
 * perhaps several, and the producer waits when the fastest of them does. Without a log, and
 * for a whole answer, it goes straight to the client, who alone is waited for.
 *
 * Of the job's loop; lies in the job's memory.
 */

#ifndef AIQ_GATEWAY_OUTLET_H
#define AIQ_GATEWAY_OUTLET_H

#include "link/job.h"
#include "streams/streams.h"

typedef struct {
    aiq_job *job;
    aiq_buf text; /* where what is said next is put together */
    aiq_buf out;  /* what waits for credit; where there is a log, it has the rest */
    stream *log;  /* NULL: nobody can come back */
    bool ended;   /* the log */
    stream_place place;
} outlet;

/* Begins a log of `keep` bytes, with the client at its beginning. */
void outlet_log(outlet *o, size_t keep, const stream_producer *producer, void *arg);

/* What stands in text is to go out; whole events, where there is a log. Returns it as the
 * client gets it, valid until the next call. */
aiq_str outlet_say(outlet *o);
/* Bytes that belong to no event, where they can go at once. */
void outlet_comment(outlet *o, aiq_str text);

typedef enum {
    OUTLET_SENT,
    OUTLET_WAITS, /* for credit: writable() follows */
    OUTLET_LOST   /* the client was so slow that what comes next is not kept any more */
} outlet_state;

/* Sends what the client has credit for. */
outlet_state outlet_send(outlet *o);

/* The client is gone. */
void outlet_leave(outlet *o);

/* Nothing more is said. */
void outlet_end(outlet *o);

void outlet_free(outlet *o);

#endif
