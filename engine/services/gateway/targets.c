#include "services/gateway/targets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/json.h"
#include "core/log.h"
#include "providers/secrets.h"
#include "services/gateway/gateway.h"
#include "services/gateway/health_check.h"
#include "streams/topics.h"

/* How soon a new provider is checked. */
#define CHECKS_MS 1000

/* One of a provider's keys, known by its name. */
typedef struct key_state {
    struct key_state *next;
    char *name;
    uint64_t rests_until_ns; /* atomic */
} key_state;

struct provider_state {
    provider_state *next;
    targets *all;
    char *name, *title;
    target_state *targets; /* only ever added in front */
    key_state *keys;
    uint32_t turn;       /* atomic; of the keys */
    bool current;        /* atomic; the newest policy names it */
    bool missing;        /* atomic; one of its keys is not there */
    breaker_state worst; /* of its targets; atomic, changed under the lock */
    metric *breaker;
    health_component health;
    health_check check; /* its provider under the lock, the rest of the first loop */
};

struct targets {
    aiq_engine *engine;
    pthread_mutex_t lock; /* of the lists, and of who writes a metric */
    provider_state *providers;
    metric_family *breakers, *up;
    uint64_t epoch; /* the highest */
    bool checks;    /* the first loop looks for health checks that are due */
    loop_timer timer;
};

/* What a policy's provider points to. */
typedef struct {
    provider_state *state;
    key_state *keys[]; /* as many as the policy's provider has */
} binding;

static char *copy(const char *text)
{
    return strcpy(aiq_alloc(strlen(text) + 1), text);
}

targets *targets_new(aiq_engine *engine)
{
    targets *t = aiq_zalloc(sizeof(*t));

    t->engine = engine;
    pthread_mutex_init(&t->lock, NULL);
    t->breakers =
        metrics_family(engine->metrics, METRIC_GAUGE, "llm_circuit_breaker_state",
                       "Circuit breaker: 0 closed, 1 half open, 2 open.", "provider", NULL);
    t->up = metrics_family(engine->metrics, METRIC_GAUGE, "aiq_provider_up",
                           "0 where the provider's health check fails.", "provider", NULL);
    return t;
}

static void provider_free(provider_state *p)
{
    while (p->targets) {
        target_state *s = p->targets;
        p->targets = s->next;
        breaker_free(&s->breaker);
        free(s->model);
        free(s);
    }
    while (p->keys) {
        key_state *k = p->keys;
        p->keys = k->next;
        free(k->name);
        free(k);
    }
    free(p->name);
    free(p->title);
    free(p);
}

void targets_free(targets *t)
{
    loop_timer_stop(&t->engine->loops[0], &t->timer);
    while (t->providers) {
        provider_state *p = t->providers;
        t->providers = p->next;
        provider_free(p);
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Health, as the newest policy has it. */

static health_status check(void *arg, char *reason, size_t size)
{
    provider_state *p = arg;

    if (!__atomic_load_n(&p->current, __ATOMIC_RELAXED)) {
        return HEALTH_OK; /* what no policy names is nobody's concern */
    }
    if (__atomic_load_n(&p->missing, __ATOMIC_RELAXED)) {
        snprintf(reason, size, "a key is missing");
        return HEALTH_DEGRADED;
    }
    if (__atomic_load_n(&p->check.sick, __ATOMIC_RELAXED)) {
        snprintf(reason, size, "it is sick: its health check fails");
        return HEALTH_DEGRADED;
    }
    if (__atomic_load_n(&p->worst, __ATOMIC_RELAXED) != BREAKER_CLOSED) {
        snprintf(reason, size, "it fails: its circuit breaker is open");
        return HEALTH_DEGRADED;
    }
    return HEALTH_OK;
}

/* Policies come. Under the lock. */

static provider_state *provider_get(targets *t, const char *name)
{
    provider_state *p = t->providers;

    while (p && strcmp(p->name, name) != 0) {
        p = p->next;
    }
    if (p == NULL) {
        p = aiq_zalloc(sizeof(*p));
        p->all = t;
        p->name = copy(name);
        p->title = aiq_alloc(strlen(name) + sizeof("provider "));
        strcpy(stpcpy(p->title, "provider "), name);
        p->breaker = metrics_sample(t->breakers, (const char *[]){name});
        p->check.name = p->name;
        p->check.up = metrics_sample(t->up, (const char *[]){name});
        metric_set(p->check.up, 1);
        p->health = (health_component){.name = p->title, .check = check, .arg = p};
        p->next = t->providers;
        t->providers = p;
        engine_add_health(t->engine, &p->health);
    }
    return p;
}

static key_state *key_get(provider_state *p, const char *name)
{
    key_state *k = p->keys;

    while (k && strcmp(k->name, name) != 0) {
        k = k->next;
    }
    if (k == NULL) {
        k = aiq_zalloc(sizeof(*k));
        k->name = copy(name);
        k->next = p->keys;
        p->keys = k;
    }
    return k;
}

static target_state *target_get(provider_state *p, const char *model)
{
    target_state *s = p->targets;

    while (s && strcmp(s->model, model) != 0) {
        s = s->next;
    }
    if (s == NULL) {
        s = aiq_zalloc(sizeof(*s));
        s->provider = p;
        s->model = copy(model);
        breaker_init(&s->breaker);
        s->next = p->targets;
        p->targets = s;
    }
    return s;
}

static bool any_missing(secrets *s, const policy_provider *p)
{
    bool missing = false;

    for (size_t i = 0; i < p->n_keys; i++) {
        aiq_err err;
        aiq_str key;
        if (!secrets_get(s, p->keys[i], &key, &err)) {
            missing = true;
            aiq_log(AIQ_LOG_WARN, "gateway", "a provider's key is missing",
                    AIQ_S("provider", p->name), AIQ_S("detail", err.detail));
        }
    }
    return missing;
}

static void provider_add(targets *t, const policy_provider *p, secrets *s, bool newest)
{
    binding *b = aiq_alloc(sizeof(*b) + p->n_keys * sizeof(b->keys[0]));
    bool missing = any_missing(s, p);

    b->state = provider_get(t, p->name);
    for (size_t i = 0; i < p->n_keys; i++) {
        b->keys[i] = key_get(b->state, p->keys[i]);
    }
    *p->shared = b;
    if (newest) {
        __atomic_store_n(&b->state->missing, missing, __ATOMIC_RELAXED);
        __atomic_store_n(&b->state->current, true, __ATOMIC_RELAXED);
        b->state->check.provider = p->check.uri ? p : NULL;
    }
}

static void begin_checks(aiq_loop *loop, void *arg);

/* Those of the newest policy, and no others. */
static void checks_changed(targets *t)
{
    bool any = false;

    for (provider_state *p = t->providers; p; p = p->next) {
        any |= p->check.provider != NULL;
    }
    if (any && !t->checks) {
        t->checks = true;
        loop_post(&t->engine->loops[0], begin_checks, t->engine);
    }
}

static void model_add(const policy_model *model, bool newest)
{
    for (size_t i = 0; i < model->n_targets; i++) {
        const policy_target *target = &model->targets[i];
        const policy_provider *p = target->provider;
        target_state *s = target_get(((binding *)*p->shared)->state, target->model);

        *target->shared = s;
        if (newest) {
            breaker_set(&s->breaker, p->breaker_failures, p->breaker_open_ms);
        }
    }
}

void targets_add(targets *t, const aiq_policy *policy)
{
    secrets *s = secrets_new(t->engine->options.secrets);

    pthread_mutex_lock(&t->lock);
    bool newest = policy->epoch >= t->epoch;
    if (newest) {
        t->epoch = policy->epoch;
        for (provider_state *p = t->providers; p; p = p->next) {
            __atomic_store_n(&p->current, false, __ATOMIC_RELAXED);
            p->check.provider = NULL;
        }
    }
    for (size_t i = 0; i < policy->n_providers; i++) {
        provider_add(t, &policy->providers[i], s, newest);
    }
    for (size_t i = 0; i < policy->n_models; i++) {
        model_add(&policy->models[i], newest);
    }
    for (size_t i = 0; i < policy->n_locations; i++) {
        if (policy->locations[i].files) {
            model_add(policy->locations[i].files, newest);
        }
    }
    checks_changed(t);
    pthread_mutex_unlock(&t->lock);
    secrets_free(s);
}

void targets_remove(targets *t, const aiq_policy *policy)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < policy->n_providers; i++) {
        binding *b = *policy->providers[i].shared;
        if (b->state->check.provider == &policy->providers[i]) {
            b->state->check.provider = NULL;
        }
        free(b);
    }
    checks_changed(t);
    pthread_mutex_unlock(&t->lock);
}

/* Health checks. */

static bool rests(const binding *b, size_t key, uint64_t now_ns)
{
    return __atomic_load_n(&b->keys[key]->rests_until_ns, __ATOMIC_RELAXED) > now_ns;
}

/* The first that does not rest. It is not a request's turn. */
static const char *key_for_check(const policy_provider *provider, uint64_t now_ns)
{
    const binding *b = *provider->shared;

    for (size_t i = 0; i < provider->n_keys; i++) {
        if (!rests(b, i, now_ns)) {
            return provider->keys[i];
        }
    }
    return provider->n_keys ? provider->keys[0] : NULL;
}

static void start_checks(aiq_loop *loop, void *arg)
{
    targets *t = arg;
    uint64_t now = loop_now_ns(), next = now + CHECKS_MS * 1000000ull;

    pthread_mutex_lock(&t->lock); /* which keeps the policies, too */
    for (provider_state *p = t->providers; p; p = p->next) {
        health_check *check = &p->check;
        if (check->http) {
            continue;
        }
        if (check->provider == NULL) {
            health_check_forget(check);
        } else if (check->due_ns <= now) {
            health_check_start(check, loop, t->engine->gateway->loops[0].secrets,
                               key_for_check(check->provider, now));
        }
        if (check->provider && check->http == NULL && check->due_ns < next) {
            next = check->due_ns;
        }
    }
    pthread_mutex_unlock(&t->lock);
    loop_timer_start(loop, &t->timer, next > now ? (next - now) / 1000000 + 1 : 1, start_checks,
                     t);
}

/* The message may come when all is over, and the gateway gone. */
static void begin_checks(aiq_loop *loop, void *arg)
{
    const aiq_engine *engine = arg;

    if (engine->gateway) {
        start_checks(loop, engine->gateway->targets);
    }
}

/* Requests. */

bool target_well(const target_state *s)
{
    return !__atomic_load_n(&s->provider->check.sick, __ATOMIC_RELAXED);
}

target_state *target_of(const policy_target *target)
{
    return *target->shared;
}

bool target_rested(const policy_provider *provider, uint64_t now_ns)
{
    const binding *b = *provider->shared;
    size_t n = provider->n_keys, i = 0;

    while (i < n && rests(b, i, now_ns)) {
        i++;
    }
    return n == 0 || i < n;
}

int target_key(const policy_provider *provider, uint64_t tried, bool resting, uint64_t now_ns)
{
    binding *b = *provider->shared;
    size_t n = provider->n_keys, first = 0;
    int last = -1;

    if (n > 1) {
        first = __atomic_fetch_add(&b->state->turn, 1, __ATOMIC_RELAXED) % n;
    }
    for (size_t i = 0; i < n; i++) {
        size_t key = (first + i) % n;
        if (tried >> key & 1) {
            continue;
        }
        if (!rests(b, key, now_ns)) {
            return (int)key;
        }
        last = (int)key;
    }
    return resting ? last : -1;
}

void target_rest_key(const policy_provider *provider, int key, uint64_t until_ns)
{
    binding *b = *provider->shared;

    __atomic_store_n(&b->keys[key]->rests_until_ns, until_ns, __ATOMIC_RELAXED);
}

uint64_t target_key_rests(const policy_provider *provider, size_t key, uint64_t now_ns)
{
    const binding *b = *provider->shared;
    uint64_t until = __atomic_load_n(&b->keys[key]->rests_until_ns, __ATOMIC_RELAXED);

    return until > now_ns ? until - now_ns : 0;
}

provider_look target_look(const policy_provider *provider, uint64_t now_ns)
{
    const provider_state *p = ((const binding *)*provider->shared)->state;
    provider_look look = {
        .sick = __atomic_load_n(&p->check.sick, __ATOMIC_RELAXED),
        .key_missing = __atomic_load_n(&p->missing, __ATOMIC_RELAXED),
        .worst = __atomic_load_n(&p->worst, __ATOMIC_RELAXED),
    };

    for (size_t i = 0; i < provider->n_keys; i++) {
        look.rest += target_key_rests(provider, i, now_ns) > 0;
    }
    return look;
}

void target_measured(target_state *s, uint64_t latency_ns, uint64_t now_ns)
{
    uint64_t old = __atomic_load_n(&s->latency_ns, __ATOMIC_RELAXED);

    /* Two threads at once lose one sample: it is an estimate. */
    __atomic_store_n(&s->latency_ns, old ? old - old / 8 + latency_ns / 8 : latency_ns,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&s->measured_ns, now_ns, __ATOMIC_RELAXED);
}

/* The average, faded. */
static uint64_t latency_by_now(const target_state *s, uint64_t now_ns)
{
    uint64_t latency = __atomic_load_n(&s->latency_ns, __ATOMIC_RELAXED);
    uint64_t at = __atomic_load_n(&s->measured_ns, __ATOMIC_RELAXED);
    uint64_t halvings = now_ns > at ? (now_ns - at) / 10000000000ull : 0;

    return halvings < 64 ? latency >> halvings : 0;
}

/* What is faded and too good is as it was. */
void target_waited(target_state *s, uint64_t waited_ns, uint64_t now_ns)
{
    uint64_t known = __atomic_load_n(&s->latency_ns, __ATOMIC_RELAXED);

    if (waited_ns > latency_by_now(s, now_ns)) {
        target_measured(s, waited_ns > known ? waited_ns : known, now_ns);
    }
}

uint64_t target_latency(const target_state *s, uint64_t now_ns)
{
    return latency_by_now(s, now_ns) * (1 + __atomic_load_n(&s->in_flight, __ATOMIC_RELAXED));
}

static void tell_topic(aiq_engine *engine, const char *provider, const char *model,
                       const char *state)
{
    aiq_buf out = {0};

    aiq_buf_text(&out, "{\"provider\":");
    json_quote(&out, provider, strlen(provider));
    aiq_buf_text(&out, ",\"model\":");
    json_quote(&out, model, strlen(model));
    aiq_buf_printf(&out, ",\"state\":\"%s\"}", state);
    topic_publish(engine, AIQ_STR("default"), AIQ_STR(TOPIC_PROVIDERS), AIQ_STR("breaker"),
                  (aiq_str){(char *)out.data, out.len});
    aiq_buf_free(&out);
}

void target_changed(targets *t, target_state *s, aiq_str request_id)
{
    static const char *const words[] = {"closed", "half open", "open"};
    provider_state *p = s->provider;
    char id[65];

    pthread_mutex_lock(&t->lock);
    breaker_state now = breaker_look(&s->breaker), worst = now;
    for (const target_state *each = p->targets; each; each = each->next) {
        breaker_state state = breaker_look(&each->breaker);
        worst = state > worst ? state : worst;
    }
    __atomic_store_n(&p->worst, worst, __ATOMIC_RELAXED);
    metric_set(p->breaker, worst);
    pthread_mutex_unlock(&t->lock);
    snprintf(id, sizeof(id), "%.*s", (int)(request_id.len < 64 ? request_id.len : 64),
             request_id.data);
    aiq_log(now == BREAKER_OPEN ? AIQ_LOG_WARN : AIQ_LOG_INFO, "gateway",
            "circuit breaker has changed", AIQ_S("request_id", id), AIQ_S("provider", p->name),
            AIQ_S("model", s->model), AIQ_S("state", words[now]));
    tell_topic(t->engine, p->name, s->model, words[now]);
}
