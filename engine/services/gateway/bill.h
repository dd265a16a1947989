/*
 * What a request costs: held from its budgets before anybody is asked, settled when
 * it has ended. One hold serves all attempts, for they come one after the other: it
 * is what the dearest of the model's targets could take, once for each of them where one
 * goes on with another's broken stream.
 */

#ifndef AIQ_GATEWAY_BILL_H
#define AIQ_GATEWAY_BILL_H

#include "ledger/ledger.h"
#include "link/job.h"
#include "providers/provider.h"
#include "services/gateway/bound.h"

typedef struct bill {
    ledger_call call; /* first: a bill is its call */
    ledger *ledger;
    aiq_job *job;
    request_bound bound;
    bool raw;   /* paid for by what is made, or by what its provider says */
    bool open;  /* held, or waiting for that */
    bool warns; /* once settled */
    uint64_t started_ns;
    uint64_t produced;    /* events of a stream, for an estimate: about a token each */
    journal_usage broken; /* what streams took that broke off, and others went on with */
    /* On the job's loop, after LEDGER_WAITS; refused: NULL where it may go on. */
    void (*ready)(struct bill *bill, const aiq_err *refused);
} bill;

/* Sets chat->cap where a budget needs it. See ledger_begin() for the rest; LEDGER_REFUSED
 * also where the request's cost has no bound (400) or its model no price (503). The bill
 * lies in the job's memory. */
ledger_answer bill_begin(bill *b, aiq_job *job, const policy_model *model, chat_request *chat,
                         bool may_go_on, void (*ready)(bill *b, const aiq_err *refused),
                         aiq_err *err);

/* This target's stream has broken off, and another one goes on with it. */
void bill_broke_off(bill *b, const policy_target *target);

/* The request has ended with this status; nano-USD, or -1 where the target has no price.
 * target: who answered, or was asked last. tokens: as the provider says; where it does
 * not although it was at work (produced), they are estimated. */
int64_t bill_settle(bill *b, const policy_target *target, unsigned status,
                    provider_tokens tokens, bool produced, uint64_t first_ns);

/* An earlier answer is sent again: for nothing, but usage tells of it. On the job's loop. */
void bill_replayed(const aiq_job *job, const policy_model *model);

/* Nobody was asked. Fine where nothing is held. */
void bill_drop(bill *b);

/* Has one of its budgets used 80 %? */
bool bill_warns(const bill *b);

#endif
