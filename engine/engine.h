/*
 * The engine's context: what its threads share. One per process, made by
 * main.c, passed to whoever needs it; there is no other global state.
 */

#ifndef AIQ_ENGINE_H
#define AIQ_ENGINE_H

#include "core/loop.h"
#include "core/metrics.h"

#define AIQ_VERSION "0.1.0"

typedef struct {
    const char *socket;       /* path */
    const char *socket_group; /* or NULL */
    const char *admin_socket; /* path, or NULL: none */
    const char *store;        /* "sqlite:PATH" or "postgres://…" */
    const char *models;       /* folder below which local models lie, or NULL: any path */
    unsigned models_idle_s;   /* local models that nobody uses so long are closed; 0: never */
    const char *secrets;      /* folder of `key file:NAME`, or NULL */
    const char *device;       /* "cpu", "cuda:0,cuda:1", … */
    const char *kernels;      /* folder of their libraries, or NULL */
    size_t cache_size;        /* of answers in memory, bytes */
    size_t semantic_size;     /* of the semantic cache, bytes */
    size_t stream_memory;     /* for what can be read again of streams, bytes */
    const char *redis;        /* "redis://…", or NULL: none */
    unsigned loops;
    unsigned spin_us;
    unsigned drain_s; /* how long a leaving engine waits for its jobs */
} engine_options;

typedef enum { HEALTH_OK, HEALTH_DEGRADED, HEALTH_DOWN } health_status;

/* A part that /health reports. check() may be called on any loop, must return
 * at once (it tells what its owner last found out, it does not go and look),
 * and writes a short reason where the part is not OK. */
typedef struct health_component {
    const char *name;
    bool critical;
    health_status (*check)(void *arg, char *reason, size_t size);
    int (*percent)(void *arg); /* how far it is with getting ready, -1: it is not at that; or
                                  NULL: it never is */
    void *arg;
    struct health_component *next;
} health_component;

struct aiq_engine {
    engine_options options;
    metrics *metrics;
    metric *uptime;
    aiq_loop *loops; /* options.loops of them */
    uint64_t id;     /* random; names this process */
    uint64_t started_ns;
    bool leaving;                /* atomic; it takes no more jobs */
    bool driver_hangs;           /* once the models are closed: a thread may never return */
    health_component *health;    /* see engine_add_health() */
    struct policy_set *policies; /* core/policy.h */
    struct link_server *links;
    struct store *store;
    struct ledger *ledger;
    struct keyring *keyring;             /* access/keyring.h */
    struct cache *cache;                 /* cache/cache.h */
    struct semantic *semantic;           /* cache/semantic.h; NULL: none */
    struct redis *redis;                 /* redis/redis.h; NULL: none */
    struct streams *streams;             /* streams/streams.h */
    struct topics *topics;               /* streams/topics.h */
    struct durable *durable;             /* streams/durable.h */
    struct rates *rates;                 /* limits/rates.h */
    struct shared_tokens *shared_tokens; /* limits/shared_tokens.h */
    struct gateway *gateway;
};

/* What can be left to the next engine is. Any thread. */
bool engine_leaves(const aiq_engine *engine);

/* Any thread; the component lives as long as the engine. */
void engine_add_health(aiq_engine *engine, health_component *component);

/* The first component. Any thread: components are only ever added in front. */
const health_component *engine_health(const aiq_engine *engine);

#endif
