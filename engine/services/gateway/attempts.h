/*
 * A request's way through its model's targets, until one answers:
 *
 *     picking    a target by the model's policy, a key of its provider
 *     calling    its provider has the request
 *     waiting    it failed; the same or another target is called again later
 *     answering  the first token has passed: nobody else can answer any more
 *
 * What an attempt's end leads to:
 *
 *     an answer, any 4xx but those below        it is the client's
 *     time-out, broken connection, 5xx (FAULT)  again here after a wait, `retry` times in
 *                                               all; then the next target
 *     429 (LIMITED)                             the next target, at once; where there is
 *                                               none, again here after a wait
 *     401, 403: our key is refused (DENIED)     at once with another of the provider's keys,
 *                                               if it has one; else it is the client's 502
 *     too long, against the rules (REFUSED)     the model's fallback for that, if it has one
 *
 * After the first token another target goes on only where the client allows it
 * (continuation.h): at once, and with what has been said so far.
 *
 * Where the model has a `hedge` and no token has come for so long, the next target is
 * asked as well. Whoever answers first wins, the other is cancelled, which its breaker takes
 * for nothing and its latency for at least as long as it was given; one that fails leaves
 * the other alone.
 *
 * Targets that do not serve the request (their condition does not hold, it is too long
 * for them, or they are noncritical and it is not) are of no use from the start.
 *
 * No attempt begins after the model's retry_timeout; when none is left, the last
 * failure is the client's. A request's headers, body and keys are made anew for
 * each attempt, so nothing of one provider's reaches another.
 *
 * Of the job's loop; lies in the job's memory.
 */

#ifndef AIQ_ATTEMPTS_H
#define AIQ_ATTEMPTS_H

#include "link/job.h"
#include "providers/provider.h"
#include "services/gateway/continuation.h"
#include "services/gateway/targets.h"

typedef struct attempts attempts;

/* A call of a provider. */
typedef struct {
    attempts *all;
    const policy_target *target;
    target_state *state;
    const provider_dialect *provider;
    void *call;          /* the provider's; NULL: it is over */
    unsigned number;     /* of all, from 1 */
    int key;             /* of the provider's; -1: none */
    uint64_t keys_tried; /* at this target, a bit each */
    bool test;           /* it is the one that decides about an open breaker */
    bool spoke;          /* its first token has come, or its answer */
    uint64_t called_ns;
    aiq_buf held;     /* events before the first token, each with its length before it */
    const char *type; /* of a raw answer; NULL: it is none */
} attempt;

struct attempts {
    aiq_job *job;
    const policy_model *asked; /* what the client asked for */
    const policy_model *model; /* asked, or its fallback */
    const chat_request *asked_chat;
    const chat_request *chat;       /* asked_chat, or how to go on with it */
    const chat_request *translated; /* for providers of another dialect; NULL: not yet */
    provider_events events;
    void (*lost)(void *arg, const policy_target *target); /* see attempts_start */
    void *arg;
    bool batch; /* the client can do with less: noncritical targets may answer */

    attempt pair[2];
    attempt *one;   /* who answers, whose event this is, or who was asked last */
    attempt *rival; /* is asked as well; has a call only while `one` has */
    bool answered;  /* the first token has passed, or the whole answer */
    bool paused, draining;
    continuation more;
    bool continued; /* another target's stream has broken off before */

    /* all of them */
    unsigned n;
    uint8_t made[POLICY_TARGETS_MAX]; /* at each target */
    uint32_t through, limited;        /* targets, a bit each: of no use; said 429 */
    uint64_t started_ns, calling_ns;  /* when the first began; time spent in calls */
    uint64_t busy_ns;                 /* since when there is a call */
    struct attempt_failure *last;     /* NULL: none has failed */
    int again;                        /* the target that is waited for; -1: any */
    loop_timer wait, hedge;
};

/* Begins, the first time with all zeroes; the events are those of a provider's call, and as
 * there none comes before this has returned. lost: what `target` has done so far is not the
 * answer, or not its end, although it will be paid for: its stream is broken and another one is
 * about to go on with it, or another one was quicker. False and *err: nobody could be asked. a,
 * chat and what events' arg points to live as long as the job. */
bool attempts_start(attempts *a, aiq_job *job, const policy_model *model,
                    const chat_request *chat, const provider_events *events,
                    void (*lost)(void *arg, const policy_target *target), void *arg,
                    aiq_err *err);

/* May more than one target have to be paid? Each at most once. */
bool attempts_may_pay_more(const aiq_job *job, const policy_model *model,
                           const chat_request *chat);

/* The client is gone. Not after the last event. */
void attempts_cancel(attempts *a);

/* The same, but who is at work may end it and say what that costs; nobody else begins.
 * False: nobody is, or it costs nothing; there is nothing to wait for. */
bool attempts_drain(attempts *a);

void attempts_pause(attempts *a);
void attempts_resume(attempts *a);

/* Is it on its way, so that events may still come? */
bool attempts_running(const attempts *a);

/* Is the answer in the client's own dialect, and not in OpenAI's? */
bool attempts_native(const attempts *a);

/* Nanoseconds since `since_ns` that no provider is to blame for. */
uint64_t attempts_overhead_ns(const attempts *a, uint64_t since_ns);

#endif
