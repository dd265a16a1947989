/*
 * An engine with its loops and its socket inside the test's process: no store,
 * no signals. Several may run at once.
 */

#ifndef RUNNING_ENGINE_H
#define RUNNING_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/policy.h"
#include "engine.h"
#include "link/server.h"
#include "services/service.h"

#define RUNNING_LOOPS 2

typedef struct {
    aiq_engine engine;
    aiq_loop main;
    pthread_t threads[RUNNING_LOOPS + 1];
    char policies[128];
    atomic_bool left;
} running_engine;

static void *running_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void running_left(aiq_loop *loop, void *arg)
{
    running_engine *r = arg;

    for (int i = 0; i < RUNNING_LOOPS; i++) {
        loop_stop(&r->engine.loops[i]);
    }
    loop_stop(loop);
    r->left = true;
}

static inline running_engine *running_start(const char *socket, uint64_t id, unsigned drain_s)
{
    running_engine *r = calloc(1, sizeof(*r));
    aiq_err err;

    r->engine.options = (engine_options){
        .socket = socket, .loops = RUNNING_LOOPS, .spin_us = 50, .drain_s = drain_s};
    r->engine.id = id;
    r->engine.started_ns = loop_now_ns();
    r->engine.metrics = metrics_new();
    r->engine.loops = calloc(RUNNING_LOOPS, sizeof(aiq_loop));
    loop_init(&r->main, &r->engine, RUNNING_LOOPS, &err);
    for (unsigned i = 0; i < RUNNING_LOOPS; i++) {
        loop_init(&r->engine.loops[i], &r->engine, i, &err);
    }
    snprintf(r->policies, sizeof(r->policies), "%s.policy", socket);
    r->engine.policies = policy_set_new(r->policies);
    r->engine.links = link_server_new(&r->engine, &r->main);
    service_metrics.init(&r->engine, &err);
    for (unsigned i = 0; i < RUNNING_LOOPS; i++) {
        pthread_create(&r->threads[i], NULL, running_loop, &r->engine.loops[i]);
    }
    if (!link_server_start(r->engine.links, running_left, r, &err)) {
        fprintf(stderr, "# %s\n", err.message);
        abort();
    }
    pthread_create(&r->threads[RUNNING_LOOPS], NULL, running_loop, &r->main);
    return r;
}

static inline void running_leave_message(aiq_loop *loop, void *arg)
{
    (void)arg;
    link_server_leave(loop->engine->links);
}

/* As a signal does. */
static inline void running_leave(running_engine *r)
{
    loop_post(&r->main, running_leave_message, NULL);
}

/* Waits until it has left, and frees it. */
static inline void running_wait(running_engine *r)
{
    for (int i = 0; i <= RUNNING_LOOPS; i++) {
        pthread_join(r->threads[i], NULL);
    }
    link_server_stop(r->engine.links);
    for (int i = 0; i < RUNNING_LOOPS; i++) {
        loop_free(&r->engine.loops[i]);
    }
    loop_free(&r->main);
    link_server_free(r->engine.links);
    policy_set_free(r->engine.policies);
    metrics_free(r->engine.metrics);
    free(r->engine.loops);
    free(r);
}

static inline void running_stop(running_engine *r)
{
    running_leave(r);
    running_leave(r); /* the second time: at once */
    running_wait(r);
}

#endif
