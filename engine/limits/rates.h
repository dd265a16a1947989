/*
 * Rates of requests that hold for all nginx together: Redis counts them (rates.lua), in
 * one step for all rates of a request, by its own clock. The rules are the policy's; a
 * worker says by which key each of them counts.
 *
 * A window is a key of Redis, "{aiq:limit}:ZONE:WINDOW:KEY", and goes when nothing is in it
 * any more. The braces are for a cluster: what one script touches must lie in one place.
 *
 * Nobody waits for a Redis that is away or slow (redis.h): then there is no answer, and
 * the worker goes by what it knows itself.
 */

#ifndef AIQ_RATES_H
#define AIQ_RATES_H

#include "aiq_frame.h"
#include "core/policy.h"
#include "limits/script.h"

typedef struct rates rates;

typedef struct {
    bool refused;
    uint32_t wait_ms; /* where it is not: its turn comes then */
    aiq_rate rates[POLICY_RATES];
} rates_answer;

/* A question, embedded in its owner, who cancels it before its memory goes. */
typedef struct {
    script_run run;
    const policy_rate *rules;
    size_t n;
    const uint8_t *keys;
    /* answer: NULL: nobody can say now */
    void (*fn)(void *arg, const rates_answer *answer);
    void *arg;
} rates_question;

/* Before the loops run. */
rates *rates_new(aiq_engine *engine);
/* NULL is fine. */
void rates_free(rates *r);

/* Asks, and counts the request where it may pass; fn follows, never before this has
 * returned. False: nobody can say now, and fn does not come. rules, and keys of
 * AIQ_LIMIT_KEY bytes for each of them (all zeroes: it does not count), are the owner's
 * to keep. On the loop; so the next one. */
bool rates_ask(rates_question *q, aiq_loop *loop, const policy_rate *rules, size_t n,
               const uint8_t *keys, void (*fn)(void *arg, const rates_answer *answer),
               void *arg);

/* fn does not come any more. Fine where it has, or was never asked. */
void rates_cancel(rates_question *q);

#endif
