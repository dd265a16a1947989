/*
 * Limits of tokens that hold for all engines together: Redis counts them (tokens.lua), in one
 * step for all windows of a request, by its own clock. As with those of one engine
 * (token_limits.h) what a request will probably use is held before, and what it did use counts
 * in the end.
 *
 * A window is three keys of Redis, "{aiq:limit}:tokens:ZONE:WINDOW:KEY:…", and goes when
 * nothing is in it any more. What an engine that dies has held is free again after
 * SHARED_LEASE_MS: who lives renews what it holds.
 *
 * Nobody waits for a Redis that is away or slow (redis.h). What was used meanwhile is told to
 * it when it is there again, while it counts; of requests that it never heard of a sum, one a
 * key and a step of its window. That it is told twice does no harm: but that something was told
 * is known for a while only, so what was on its way is told again for at most SHARED_TELL_MS.
 *
 * On the loop's thread, unless it says otherwise.
 */

#ifndef AIQ_SHARED_TOKENS_H
#define AIQ_SHARED_TOKENS_H

#include "aiq_frame.h"
#include "core/id.h"
#include "core/policy.h"
#include "limits/script.h"

#define SHARED_LEASE_MS 60000
#define SHARED_TELL_MS  30000 /* less than a lease: so long it is known what was told */
#define SHARED_TELLING  4096  /* such requests and sums at a time, of one loop; no others */

typedef struct shared_tokens shared_tokens;

/* How the window with the fewest left stands. */
typedef struct {
    uint64_t wait_ms;         /* 0: it is held */
    const policy_limit *rule; /* that refuses it */
    int64_t limit, remaining;
    int64_t reset_ms; /* until it is empty */
} shared_answer;

/* A request's hold, embedded in its owner. All zeroes: nothing. */
typedef struct {
    script_run run;
    shared_tokens *shared; /* NULL: nothing was asked, or all is said */
    const policy_limit *rules;
    size_t n;
    const uint8_t *keys;
    int64_t tokens;
    bool asked; /* Redis may hold it */
    char id[AIQ_ID_SIZE];
    uint64_t began_ns;
    loop_timer renewal;
    void (*fn)(void *arg, const shared_answer *answer);
    void *arg;
} shared_hold;

/* Before the loops run. */
shared_tokens *shared_tokens_new(aiq_engine *engine);
/* After them. NULL is fine. */
void shared_tokens_free(shared_tokens *s);

/* Holds from all windows or from none; fn follows, never before this has returned, with NULL
 * where nobody can say now. False: nobody can say now, and fn does not come. rules, and their
 * keys of AIQ_LIMIT_KEY bytes, are the owner's to keep. More than a limit is held as all of
 * it. */
bool shared_tokens_hold(shared_hold *h, aiq_loop *loop, const policy_limit *rules, size_t n,
                        const uint8_t *keys, int64_t tokens,
                        void (*fn)(void *arg, const shared_answer *answer), void *arg);

/* The request has used so many, whatever was answered, and fn does not come any more. Fine
 * where nothing was asked, and a second time. */
void shared_tokens_settle(shared_hold *h, int64_t used);

#endif
