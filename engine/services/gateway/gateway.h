/*
 * The gateway: OpenAI's API in front of whoever answers. gateway.c has the
 * routes and what is shared, chat*.c a request's way from its body to its answer,
 * client_*.c how a client speaks and what puts that into other words (messages_*.c,
 * responses_*.c, form.c), attempts.c the way from target to target until one answers,
 * targets.c what is known of them, pick.c which comes first, health_check.c who is
 * sick, counts.c what is counted of them, token_limits.c what a key may use in a time,
 * token_claim.c what of it is shared, token_save.c what is left of that, models.c the list of
 * models, spool.c large bodies.
 *
 * What requests count and keep (metrics, keys) belongs to their loop; what all
 * loops share (local models, targets) has locks of its own.
 */

#ifndef AIQ_GATEWAY_H
#define AIQ_GATEWAY_H

#include "engine.h"
#include "providers/provider.h"
#include "services/gateway/counts.h"
#include "services/service.h"

typedef struct gateway gateway;
typedef struct gateway_loop gateway_loop;

/* Of the loop that a job runs on. */
struct gateway_loop {
    gateway *gateway;
    secrets *secrets;
    counts *counts;
    uint64_t random; /* see gateway_random() */
};

struct gateway {
    aiq_engine *engine;
    struct local_models *models;
    struct targets *targets;
    counts_family *families;
    struct token_limits *limits;
    struct token_save *save;
    gateway_loop *loops;
};

/* chat.c, models.c */
extern const job_handler gateway_chat, gateway_messages, gateway_responses, gateway_passing,
    gateway_raw, gateway_files, gateway_counting, gateway_models, gateway_model;

/* chat.c: goes on with what an engine has left; the job is alone, and this route's. */
struct durable_orphan;
void gateway_go_on(aiq_job *job, const struct durable_orphan *orphan, aiq_str body);

gateway_loop *gateway_of(const aiq_job *job);

/* Spreads load and jitter; no secret hangs on it. On the loop. */
uint64_t gateway_random(gateway_loop *g);

/* models.c: 404 */
void gateway_no_model(aiq_str name, aiq_err *err);

#endif
