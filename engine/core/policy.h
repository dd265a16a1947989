/*
 * A policy: what nginx.conf says about providers, models and locations, as the
 * master wrote it. An immutable JSON document in `<socket>.policy/`, named
 * `<sha256>.json`; a worker names it in its handshake, so several generations
 * live side by side while nginx reloads. The engine reads only a file whose
 * SHA-256 is its name and that the worker's user cannot write (unless that
 * user is the engine's own: then there is no border to guard).
 *
 *     {"aiq": 1, "epoch": 1763690000000000,
 *      "providers": [{"name": "openai", "dialect": "openai",
 *                     "attempts": 5, "backoff_ms": 2000,
 *                     "breaker_failures": 5, "breaker_open_ms": 30000,
 *                     "url": "https://api.openai.com/v1", "keys": ["env:OPENAI_API_KEY"],
 *                     "headers": [{"name": "OpenAI-Project", "value": "p"}],
 *                     "connect_ms": 10000, "first_byte_ms": 30000, "idle_ms": 30000,
 *                     "total_ms": 600000},
 *                    {"name": "local", "dialect": "local",
 *                     "attempts": 5, "backoff_ms": 2000,
 *                     "breaker_failures": 5, "breaker_open_ms": 30000,
 *                     "models": [{"name": "demo", "path": "/usr/share/aiq/demo.gguf"}]}],
 *      "models":    [{"name": "gpt", "policy": "order", "retry_timeout_ms": 60000,
 *                     "hedge_ms": 500, "context_fallback": "demo",
 *                     "targets": [{"provider": "openai", "model": "gpt-4o", "weight": 1,
 *                                  "input": 2500000000, "output": 10000000000,
 *                                  "condition": 0, "max_body": 65536},
 *                                 {"provider": "local", "model": "demo", "weight": 1,
 *                                  "backup": true, "noncritical": true}]}, …],
 *      "locations": [{"service": "gateway", "max_body": 10485760, "websocket": true,
 *                     "budgets": [{"scope": "tenant", "unit": "usd", "period": "month",
 *                                  "amount": 200000000000}],
 *                     "limits": [{"zone": "tokens", "tokens": 50000, "window_ms": 60000,
 *                                 "keys": 8192}],
 *                     "rates": [{"zone": "user", "requests": 20, "window_ms": 60000,
 *                                "grain_ms": 1, "burst": 5, "dry_run": false}],
 *                     "files": "openai"}]}
 *
 * A provider may also have "key_header", "query", "no_stream_options",
 * "no_max_completion_tokens", "ca", "certificate", "certificate_key", "proxy",
 * "http2": true and "check": {"uri": "/models", "interval_ms": 5000, "timeout_ms": 5000,
 * "fails": 1, "passes": 1}, and a model whose policy is "hash" has the number of its "key".
 * Conditions and keys are numbers, for nginx looks at them: OPEN says what they are for a
 * request (AIQ_FIELD_CONDITIONS, AIQ_FIELD_HASHES). epoch is the master's clock in microseconds
 * when it read the configuration: what the process shares takes its parameters from the
 * highest.
 */

#ifndef AIQ_POLICY_H
#define AIQ_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "aiq_frame.h"
#include "core/err.h"

#define POLICY_TARGETS_MAX 32
#define POLICY_KEYS_MAX    64

/* As many devices as --device can name. */
#define POLICY_REPLICAS_MAX 15

typedef struct {
    const char *name, *path;
    uint32_t replicas; /* on so many devices, at least 1 */
} policy_local_model;

typedef struct {
    const char *name, *value;
} policy_header;

/* An active health check of a provider. */
typedef struct {
    const char *uri; /* appended to the provider's url; NULL: there is no check */
    uint32_t interval_ms, timeout_ms;
    uint32_t fails, passes; /* in a row, to be sick, and to be well again */
} policy_check;

typedef struct {
    const char *name;
    const char *dialect;     /* "openai", "anthropic", "local" */
    const char *url;         /* without a trailing slash; NULL for local */
    const char *const *keys; /* each "env:NAME" or "file:NAME", never the secret */
    size_t n_keys;           /* at most POLICY_KEYS_MAX */
    const char *key_header;  /* carries the key; NULL: the dialect's own */
    const policy_header *headers;
    size_t n_headers;
    const char *query; /* of every request, without "?"; this and the next may be NULL */
    bool no_stream_options, no_max_completion_tokens; /* its API does not know them */
    const char *ca, *certificate, *certificate_key;   /* PEM files */
    const char *proxy;                                /* URL */
    bool http2;
    uint32_t connect_ms, first_byte_ms, idle_ms, total_ms;
    uint32_t attempts, backoff_ms;              /* core/retry.h */
    uint32_t breaker_failures, breaker_open_ms; /* core/breaker.h */
    policy_check check;
    const policy_local_model *models;
    size_t n_models;
    void **shared; /* for who watches the set: see policy_watch */
} policy_provider;

/* Nano-USD; -1: not known. A configuration without a price for cached tokens charges
 * them as input. */
typedef struct {
    int64_t input, cached, output; /* per million tokens */
    int64_t characters;            /* per million, of what is spoken */
    int64_t image;                 /* each that is made */
    int64_t minute;                /* of sound that is heard */
} policy_price;

#define POLICY_NO_PRICE ((policy_price){-1, -1, -1, -1, -1, -1})

typedef struct {
    const policy_provider *provider;
    const char *model; /* the provider's name of it */
    uint32_t weight;
    policy_price price;
    int condition;     /* its number; it must hold for a request. -1: none */
    uint64_t max_body; /* only for requests of so many bytes; 0: of any size */
    bool backup;       /* only where the others are of no use */
    bool noncritical;  /* only for requests that say that they are not */
    void **shared;
} policy_target;

typedef enum {
    POLICY_ORDER,
    POLICY_WEIGHT,
    POLICY_LATENCY,
    POLICY_COST,
    POLICY_HASH
} policy_order;

typedef struct policy_model {
    const char *name; /* the client's name of it */
    const policy_target *targets;
    size_t n_targets; /* 1 to POLICY_TARGETS_MAX */
    policy_order order;
    unsigned key;              /* of POLICY_HASH: its number */
    uint32_t retry_timeout_ms; /* no attempt begins later */
    uint32_t hedge_ms;         /* then another one is asked as well; 0: never */
    /* who answers what this one's context is too short for, or what its provider's
     * rules refuse; may be NULL */
    const struct policy_model *context_fallback, *content_fallback;
} policy_model;

typedef enum { POLICY_TENANT, POLICY_USER, POLICY_KEY } policy_scope;
typedef enum { POLICY_TOKENS, POLICY_USD } policy_unit;
typedef enum { POLICY_DAY, POLICY_MONTH } policy_period;

/* How much each tenant, user or key may use in each day or month (UTC). */
typedef struct {
    policy_scope scope;
    policy_unit unit;
    policy_period period;
    int64_t amount; /* tokens or nano-USD, positive */
} policy_budget;

#define POLICY_BUDGETS 4 /* of one location */

/* How many tokens each key may use in any time so long. OPEN has the keys, in the order of
 * the limits (AIQ_FIELD_LIMIT_KEYS). */
typedef struct {
    const char *zone;
    int64_t tokens;     /* positive */
    uint32_t window_ms; /* a second or more */
    uint32_t keys;      /* that the zone has room for, of all locations */
    bool shared;        /* of all engines together; where nobody can say how many that is … */
    uint32_t nodes;     /* … each of so many has its part; 0: then nobody may */
} policy_limit;

#define POLICY_LIMITS AIQ_LIMITS_MAX /* of one location */

/* How many requests each key may make in any time so long, of all nginx together. ASK has
 * the keys, in the order of the rates (AIQ_FIELD_RATE_KEYS). */
typedef struct {
    const char *zone;
    uint32_t requests, window_ms;
    uint32_t grain_ms; /* times are kept so exactly */
    uint32_t burst;    /* so many may wait for their turn */
    bool dry_run;      /* counts, but refuses nobody */
} policy_rate;

#define POLICY_RATES AIQ_RATES_MAX /* of one location */

/* Questions in other words, of a location with an exact cache. */
typedef struct {
    const policy_model *embed; /* makes vectors, by its first target, of a local provider; NULL:
                                  the built-in embedder does */
    uint32_t threshold;        /* of the cosine, in ten-thousandths */
    bool tools;                /* also of requests with tools, */
    bool temperature;          /* and of those whose answers are drawn at random */
    bool dry_run;              /* only says what it would have answered */
} policy_semantic;

#define POLICY_COSINE 10000 /* of a threshold: 1 */

typedef struct {
    const char *service;
    bool websocket;                  /* it may have some */
    uint64_t max_body;               /* bytes; 0: no limit */
    uint32_t cache_ttl_ms;           /* of the exact cache; 0: it is off */
    const policy_semantic *semantic; /* NULL: there is none */
    uint32_t stream_buffer;   /* bytes of a stream that are kept; 0: it cannot be read again */
    uint32_t stream_grace_ms; /* how long one goes on without a reader */
    uint32_t abort_drain_ms;  /* how long a provider's usage is waited for then */
    const policy_budget *budgets;
    size_t n_budgets;
    const policy_limit *limits;
    size_t n_limits;
    const policy_rate *rates;
    size_t n_rates;
    const policy_model *files; /* who keeps files and batches, as a model; NULL: nobody */
} policy_location;

typedef struct aiq_policy {
    uint8_t sha256[32];
    uint64_t epoch;
    const policy_provider *providers;
    size_t n_providers;
    const policy_model *models; /* sorted by name */
    size_t n_models;
    const policy_location *locations;
    size_t n_locations;
    const char *text; /* the document */
    size_t text_len;
} aiq_policy;

/* The policies in use, of one engine. */
typedef struct policy_set policy_set;

/* folder: where the documents lie. Never NULL; the folder is opened at each use. */
policy_set *policy_set_new(const char *folder);
/* After the last policy_unref(). */
void policy_set_free(policy_set *set);

/* Tells one room of every policy that comes into use and of its going. Calls
 * come on any thread, one at a time, and must not block nor use the set. Main
 * thread, before the first policy_get().
 *
 * added() may tie what outlives a policy to its providers and targets: it sets
 * their *shared, which is NULL before and stays as it is afterwards. */
typedef struct {
    void (*added)(void *arg, const aiq_policy *policy);
    void (*removed)(void *arg, const aiq_policy *policy);
    void *arg;
} policy_watch;
void policy_set_watch(policy_set *set, const policy_watch *watch);

/* A reference to the policy named by sha256, read at its first use. peer: the
 * worker's user. Any thread; reads a small file. NULL and *err where it is
 * missing, unsafe or invalid. */
const aiq_policy *policy_get(policy_set *set, const uint8_t sha256[32], uid_t peer,
                             aiq_err *err);
/* The same for a document that was read that way before, by this engine or another, and kept
 * since where only engines can write. */
const aiq_policy *policy_get_text(policy_set *set, const char *text, size_t len, aiq_err *err);
const aiq_policy *policy_ref(const aiq_policy *policy);
void policy_unref(const aiq_policy *policy);

/* Parses a document; for tests and fuzzing. Free with policy_unref(). */
const aiq_policy *policy_parse(const char *text, size_t len, aiq_err *err);

const policy_model *policy_find_model(const aiq_policy *policy, const char *name, size_t len);

#endif
