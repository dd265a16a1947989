/* What attempts.c (the interface), attempts_next.c (whom to ask next, and when) and
 * attempts_call.c (one call: its beginning, its events, its end) share. */

#ifndef AIQ_ATTEMPTS_IMPL_H
#define AIQ_ATTEMPTS_IMPL_H

#include "services/gateway/attempts.h"

typedef enum {
    ATTEMPT_ANSWER,
    ATTEMPT_FAULT,
    ATTEMPT_BROKEN, /* after the first token, where another target may go on */
    ATTEMPT_LIMITED,
    ATTEMPT_DENIED,
    ATTEMPT_REFUSED_CONTEXT,
    ATTEMPT_REFUSED_CONTENT,
    ATTEMPT_OURS /* our own failure: it says nothing about the provider */
} attempt_end;

/* attempts_next.c */

/* See attempts_start(). */
bool attempts_first(attempts *a, aiq_err *err);
/* What the client gets if nothing better comes. */
void attempts_keep_error(attempts *a, const aiq_err *err);
void attempts_keep_reply(attempts *a, const provider_reply *reply);
/* The call of `one` has ended, and its failure is kept: another attempt follows, or the
 * client's answer. */
void attempts_failed(attempts *a, attempt_end end, uint32_t retry_after);

/* attempts_call.c */

/* Calls the target of `one`, with its key. False and *err: it cannot take the request; the
 * attempt is over. */
bool attempts_call(attempts *a, aiq_err *err);
/* Counts, and closes the attempt of `one`. */
void attempts_end_call(attempts *a, unsigned status, attempt_end end);
/* `one` is the other one now. */
void attempts_swap(attempts *a);
/* The other one was quicker, or the client is gone. Fine where there is none. */
void attempts_cancel_rival(attempts *a);

#endif
