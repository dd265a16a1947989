/*
 * What a request holds from its limits of tokens: first from those of this engine
 * (token_limits.h), then, all or none, from those that engines share (limits/shared_tokens.h).
 *
 * Where nobody can say what all engines together have used, the limit that says so refuses, and
 * one of N nodes has an N-th of the tokens in this engine's own windows. What others let
 * through counts there, too, so that they are right when it comes to that.
 *
 * Of the job's loop; lies in the job's memory.
 */

#ifndef AIQ_GATEWAY_TOKEN_CLAIM_H
#define AIQ_GATEWAY_TOKEN_CLAIM_H

#include "limits/shared_tokens.h"
#include "services/gateway/token_limits.h"

/* Some of a request's limits, with their keys in the same order. */
typedef struct {
    policy_limit *rules;
    uint8_t *keys;
    size_t n;
} claim_rules;

/* All zeroes: nothing is held. */
typedef struct {
    aiq_job *job;
    int64_t tokens;
    claim_rules all;      /* that are shared */
    claim_rules parted;   /* those of them with nodes, and this one's part of the tokens */
    token_hold own, part; /* of those that are not shared; of parted */
    shared_hold shared;
    token_state together; /* how all engines' tightest window stands */
    bool alone;           /* nobody could say: part decides */
    token_state state;    /* of the tightest, when it was held or refused, then settled */
    void (*ready)(void *arg, const aiq_err *refused);
    void *arg;
} token_claim;

typedef enum { CLAIM_HELD, CLAIM_REFUSED, CLAIM_WAITS } claim_answer;

/* From all of the job's limits or from none. Refused: *err is as token_limits_hold() says, or
 * 503 limit_unavailable. CLAIM_WAITS: ready() follows; refused: NULL where it is held. */
claim_answer token_claim_begin(token_claim *c, aiq_job *job, int64_t tokens,
                               void (*ready)(void *arg, const aiq_err *refused), void *arg,
                               aiq_err *err);

/* The request has used so many, and ready() does not come any more. Fine where nothing is
 * held, and a second time. */
void token_claim_settle(token_claim *c, int64_t used);

#endif
