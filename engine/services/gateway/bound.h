/*
 * The most that a request may use: what its budgets hold while it is under way. Pure.
 */

#ifndef AIQ_GATEWAY_BOUND_H
#define AIQ_GATEWAY_BOUND_H

#include "core/policy.h"
#include "ledger/journal.h"
#include "providers/chat_request.h"

/* Tokens of an answer whose request sets no limit: the request gets this one. */
#define BOUND_OUTPUT 4096

typedef struct {
    int64_t input, output; /* tokens; of all choices together */
    int64_t cap;           /* 0, or what the request must be given as its limit */
} request_bound;

/* A token stands for at least one byte of the request, so its length bounds the
 * prompt. False and a 400 that names the part which nothing bounds: an image, a sound,
 * a file. */
bool request_bound_of(const chat_request *chat, request_bound *bound, aiq_err *err);

/* The same in money, at a target's prices. */
journal_usage request_most(const request_bound *bound, const policy_price *price);

#endif
