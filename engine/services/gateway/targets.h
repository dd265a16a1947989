/*
 * What the engine knows of providers and their targets beyond one request and
 * one policy: breakers, latencies, keys that rest, missing keys. It is tied to
 * policies through their `shared` slots, so that a request finds it with one
 * load, and it survives reloads: a provider is known by its name, a target by
 * its provider's and its model's. Breakers take their parameters from the
 * policy of the highest epoch. Names come from policies alone, so their number
 * is bounded and nothing is forgotten before the engine ends.
 *
 * Any thread, unless it says otherwise.
 */

#ifndef AIQ_TARGETS_H
#define AIQ_TARGETS_H

#include "core/breaker.h"
#include "core/policy.h"
#include "engine.h"

typedef struct targets targets;
typedef struct provider_state provider_state;

typedef struct target_state {
    struct target_state *next;
    provider_state *provider;
    char *model;
    breaker breaker;
    /* for `policy latency`; atomic */
    uint64_t latency_ns;  /* moving average of the time to the first token */
    uint64_t measured_ns; /* when it was last told */
    uint32_t in_flight;
} target_state;

/* Main thread, at start-up and after the loops have run. */
targets *targets_new(aiq_engine *engine);
void targets_free(targets *t);

/* For policy_watch. Begins health checks, and looks whether the keys are there, too. */
void targets_add(targets *t, const aiq_policy *policy);
void targets_remove(targets *t, const aiq_policy *policy);

/* False: its provider's health checks say that it is sick. */
bool target_well(const target_state *s);

target_state *target_of(const policy_target *target);

/* Is there a key that does not rest? True where the provider has none. */
bool target_rested(const policy_provider *provider, uint64_t now_ns);
/* The next of a provider's keys, in turn, that is not in `tried` (a bit each): one that does
 * not rest, or else one that does where `resting` says so. Its index, or -1. */
int target_key(const policy_provider *provider, uint64_t tried, bool resting, uint64_t now_ns);
/* It was refused or limited: others are used first until then. */
void target_rest_key(const policy_provider *provider, int key, uint64_t until_ns);

/* For people. */
typedef struct {
    bool sick, key_missing;
    size_t rest; /* so many of its keys do */
    breaker_state worst;
} provider_look;
provider_look target_look(const policy_provider *provider, uint64_t now_ns);
/* Nanoseconds until the key is used as others are; 0: it does not rest. */
uint64_t target_key_rests(const policy_provider *provider, size_t key, uint64_t now_ns);

/* The first token came after so long. */
void target_measured(target_state *s, uint64_t latency_ns, uint64_t now_ns);
/* It was let go, or has failed, without a token for so long: it takes at least that. */
void target_waited(target_state *s, uint64_t waited_ns, uint64_t now_ns);
/* What it may take now: the average, halved for each 10 s without a measurement, so that a
 * slow target is looked at again, times the requests under way. */
uint64_t target_latency(const target_state *s, uint64_t now_ns);

/* The state of a target's breaker has changed: the log and the metric. */
void target_changed(targets *t, target_state *s, aiq_str request_id);

/* Which target comes next; -1: none. Of the model's targets those are looked at
 * that are not in `excluded` (a bit each) and whose breaker admits. hash: of the key of
 * POLICY_HASH; random: any number, evenly drawn. */
typedef struct {
    const policy_model *model;
    uint32_t excluded, hash;
    uint64_t now_ns, random;
} target_question;
int target_pick(const target_question *q);

/* Seconds until the first of the model's targets may be asked again; at least 1. */
uint32_t target_wait(const policy_model *model, uint64_t now_ns);

#endif
