/*
 * The gateway: OpenAI's API in front of whoever answers. gateway.c has the
 * routes and what is shared, chat.c a chat request's way from its body to its
 * answer, models.c the list of models, keys.c whether providers have keys, spool.c
 * large bodies.
 *
 * What requests count and keep (metrics, keys) belongs to their loop; what all
 * loops share (local models, health) has locks of its own.
 */

#ifndef AIQ_GATEWAY_H
#define AIQ_GATEWAY_H

#include "engine.h"
#include "providers/provider.h"
#include "services/service.h"

typedef struct gateway gateway;
typedef struct gateway_loop gateway_loop;

/* Of the loop that a job runs on. */
struct gateway_loop {
    gateway *gateway;
    secrets *secrets;
    struct sample *samples[64]; /* metrics by provider, model and status; chained */
};

struct gateway {
    aiq_engine *engine;
    struct local_models *models;
    struct key_health *keys;
    metric_family *requests, *latency;
    gateway_loop *loops;
};

/* chat.c, models.c */
extern const job_handler gateway_chat, gateway_models, gateway_model;

/* Counts a call of a model that has ended. On the job's loop. */
void gateway_count(gateway_loop *g, const policy_target *target, const char *model,
                   unsigned status, double seconds);

gateway_loop *gateway_of(const aiq_job *job);

/* keys.c: looks whether the keys that a policy names are there, and says so in
 * /health. Any thread, one at a time. */
void gateway_check_keys(gateway *g, const aiq_policy *policy);
void gateway_free_keys(gateway *g);

/* 404 */
void gateway_no_model(aiq_str name, aiq_err *err);

#endif
