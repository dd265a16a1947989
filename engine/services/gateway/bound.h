/*
 * The most that a request may use: what its budgets hold while it is under way. Pure.
 */

#ifndef AIQ_GATEWAY_BOUND_H
#define AIQ_GATEWAY_BOUND_H

#include "core/policy.h"
#include "ledger/ledger.h"
#include "providers/chat_request.h"

/* Tokens of an answer whose request sets no limit: the request gets this one. */
#define BOUND_OUTPUT 4096

typedef struct {
    int64_t input, output; /* tokens; of all choices together, up to INT32_MAX: a provider is
                              not believed more either */
    int64_t cap;           /* 0, or what the request must be given as its limit */
    ledger_units units;    /* of a raw request, which then is bounded by these alone */
} request_bound;

/* What a raw request asks for: images, characters to be spoken. */
ledger_units request_units(const chat_request *chat);

/* 400: what bounds this request is not known. Returns false. */
bool request_unbounded(aiq_err *err);

/* Is the target paid for by what bounds a raw request? */
bool request_units_paid(const ledger_units *units, const policy_price *price);

/* A token stands for at least one byte of the request, so its length bounds the
 * prompt. False and a 400 that names the part which nothing bounds: an image, a sound,
 * a file. */
bool request_bound_of(const chat_request *chat, request_bound *bound, aiq_err *err);

/* The same in money, at a target's prices. */
journal_usage request_most(const request_bound *bound, const policy_price *price);

#endif
