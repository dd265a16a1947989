/*
 * A reply of server-sent events: its head, the comments that keep it alive while nothing
 * happens, and what of it waits for credit. Embedded in its job's memory; of the job's loop.
 */

#ifndef AIQ_EVENTS_REPLY_H
#define AIQ_EVENTS_REPLY_H

#include "services/events/events.h"

typedef struct {
    aiq_job *job;
    aiq_buf out;  /* what waits for credit, … */
    aiq_str rest; /* … and behind it, borrowed */
    uint64_t sent_ns;
    loop_timer keepalive;
} event_reply;

/* Does the client accept events? */
bool event_reply_asked(const aiq_job *job);
/* A reply that tells an EventSource not to come again. The job is gone. */
void event_reply_nothing_more(aiq_job *job);

/* The head, with a header or NULL. endless: see job_reply. */
void event_reply_begin(event_reply *s, const job_header *header, bool endless);
/* How long to wait before coming again. */
void event_reply_retry(event_reply *s);
/* An event of the error's name. */
void event_reply_failure(event_reply *s, const aiq_err *err);
/* out and rest, as far as they go. False: they wait for credit, writable() follows. */
bool event_reply_send(event_reply *s);
/* The end; the job is gone. */
void event_reply_end(event_reply *s);
/* Nothing is sent any more, for the client has gone. */
void event_reply_stop(event_reply *s);
/* Before the job's memory goes. */
void event_reply_free(event_reply *s);

#endif
