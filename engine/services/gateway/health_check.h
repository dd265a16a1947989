/*
 * Active health checks: a GET of a provider now and then, where `health_check` of its
 * aiq_provider says so. It passes with a 2xx, and with a 429, which says nothing about
 * others' requests. After so many failures in a row the provider is sick, and its targets are
 * not picked until so many have passed; breakers look at requests and know nothing of it.
 *
 * Of the loop that starts the checks (targets.c), but for what is said to be atomic.
 */

#ifndef AIQ_HEALTH_CHECK_H
#define AIQ_HEALTH_CHECK_H

#include "core/loop.h"
#include "core/metrics.h"
#include "core/policy.h"
#include "providers/http.h"
#include "providers/secrets.h"

typedef struct {
    const char *name;                /* of the provider */
    const policy_provider *provider; /* as the newest policy has it; NULL: is not checked */
    metric *up;                      /* 0: it is sick */
    bool sick;                       /* atomic */
    http_request *http;              /* NULL: none is under way */
    policy_check rules;              /* of that */
    unsigned status;                 /* of its reply */
    uint32_t fails, passes;          /* in a row */
    uint64_t due_ns;                 /* when the next one begins */
} health_check;

/* With this key; NULL: the provider has none. Not while one is under way. Nothing of provider
 * is kept. */
void health_check_start(health_check *check, aiq_loop *loop, secrets *s, const char *key);

/* The provider is not checked any more, and so is well. Not while one is under way. */
void health_check_forget(health_check *check);

#endif
