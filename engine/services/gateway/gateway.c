#include "services/gateway/gateway.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "providers/local_models.h"
#include "services/gateway/targets.h"

/* Counters, found by name without a lock. Names come from policies alone, so
 * their number is bounded; across reloads they stay the same texts, not the
 * same pointers. */
struct sample {
    struct sample *next;
    uint32_t hash;
    unsigned status;
    char *provider, *model;
    metric *requests, *latency;
};

static uint32_t hash_text(uint32_t hash, const char *text)
{
    for (; *text; text++) {
        hash = (hash ^ (uint8_t)*text) * 16777619u; /* FNV-1a */
    }
    return hash;
}

static struct sample *sample_new(gateway_loop *g, const char *provider, const char *model,
                                 unsigned status)
{
    struct sample *s = aiq_zalloc(sizeof(*s));
    char code[12];

    snprintf(code, sizeof(code), "%u", status);
    s->status = status;
    s->provider = strcpy(aiq_alloc(strlen(provider) + 1), provider);
    s->model = strcpy(aiq_alloc(strlen(model) + 1), model);
    s->requests = metrics_sample(g->gateway->requests, (const char *[]){provider, model, code});
    s->latency = metrics_sample(g->gateway->latency, (const char *[]){provider, model});
    return s;
}

void gateway_count(gateway_loop *g, const policy_target *target, const char *model,
                   unsigned status, double seconds)
{
    const char *provider = target->provider->name;
    uint32_t hash = hash_text(hash_text(2166136261u ^ status, provider), model);
    struct sample **first = &g->samples[hash % (sizeof(g->samples) / sizeof(g->samples[0]))];
    struct sample *s = *first;

    while (s && (s->hash != hash || s->status != status || strcmp(s->provider, provider) != 0 ||
                 strcmp(s->model, model) != 0)) {
        s = s->next;
    }
    if (s == NULL) {
        s = sample_new(g, provider, model, status);
        s->hash = hash;
        s->next = *first;
        *first = s;
    }
    metric_add(s->requests, 1);
    metric_observe(s->latency, seconds);
}

uint64_t gateway_random(gateway_loop *g)
{
    g->random ^= g->random << 13; /* xorshift64 */
    g->random ^= g->random >> 7;
    g->random ^= g->random << 17;
    return g->random;
}

gateway_loop *gateway_of(const aiq_job *job)
{
    return &job->loop->engine->gateway->loops[job->loop->index];
}

static void policy_added(void *arg, const aiq_policy *policy)
{
    gateway *g = arg;

    local_models_add(g->models, policy);
    targets_add(g->targets, policy);
}

static void policy_removed(void *arg, const aiq_policy *policy)
{
    gateway *g = arg;

    local_models_remove(g->models, policy);
    targets_remove(g->targets, policy);
}

static bool init(aiq_engine *engine, aiq_err *err)
{
    gateway *g = aiq_zalloc(sizeof(*g));

    engine->gateway = g;
    g->engine = engine;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return aiq_fail(err, 500, "curl", "libcurl cannot be set up");
    }
    g->requests = metrics_family(engine->metrics, METRIC_COUNTER, "llm_requests_total",
                                 "Calls of models.", "provider,model,status", NULL);
    g->latency = metrics_family(engine->metrics, METRIC_HISTOGRAM, "llm_latency_seconds",
                                "From the call of a model to its end.", "provider,model",
                                METRICS_SECONDS);
    g->loops = aiq_zalloc(engine->options.loops * sizeof(*g->loops));
    for (unsigned i = 0; i < engine->options.loops; i++) {
        g->loops[i].gateway = g;
        g->loops[i].secrets = secrets_new(engine->options.secrets);
        g->loops[i].random = (engine->id ^ i * 0x9e3779b97f4a7c15u) | 1;
    }
    g->targets = targets_new(engine);
    g->models = local_models_new(engine, err);
    if (g->models == NULL) {
        return false;
    }
    policy_set_watch(engine->policies, &(policy_watch){policy_added, policy_removed, g});
    return true;
}

static void loop_release(gateway_loop *g)
{
    for (size_t i = 0; i < sizeof(g->samples) / sizeof(g->samples[0]); i++) {
        while (g->samples[i]) {
            struct sample *s = g->samples[i];
            g->samples[i] = s->next;
            free(s->provider);
            free(s->model);
            free(s);
        }
    }
    secrets_free(g->secrets);
}

static void release(aiq_engine *engine)
{
    gateway *g = engine->gateway;

    if (g == NULL) {
        return;
    }
    for (unsigned i = 0; g->loops && i < engine->options.loops; i++) {
        loop_release(&g->loops[i]);
    }
    if (g->models) {
        local_models_free(g->models);
    }
    if (g->targets) {
        targets_free(g->targets);
    }
    curl_global_cleanup();
    free(g->loops);
    free(g);
    engine->gateway = NULL;
}

static const aiq_route routes[] = {
    {AIQ_METHOD_POST, "/v1/chat/completions", PERMIT_EXECUTE, &gateway_chat,
     "An answer to a chat, whole or as a stream"},
    {AIQ_METHOD_POST, "/v1/messages", PERMIT_EXECUTE, &gateway_messages,
     "The same in Anthropic's words"},
    {AIQ_METHOD_POST, "/v1/messages/count_tokens", PERMIT_EXECUTE, &gateway_counting,
     "How many tokens a message would have"},
    {AIQ_METHOD_POST, "/v1/responses", PERMIT_EXECUTE, &gateway_responses,
     "The same in the words of OpenAI's Responses API"},
    {AIQ_METHOD_POST, "/v1/completions", PERMIT_EXECUTE, &gateway_passing,
     "A text continued, from an openai provider"},
    {AIQ_METHOD_POST, "/v1/embeddings", PERMIT_EXECUTE, &gateway_passing,
     "Vectors of texts, from an openai provider"},
    {AIQ_METHOD_POST, "/v1/moderations", PERMIT_EXECUTE, &gateway_passing,
     "Whether texts keep to the rules, from an openai provider"},
    {AIQ_METHOD_GET, "/v1/models", PERMIT_READ, &gateway_models, "The models on offer"},
    {AIQ_METHOD_GET, "/v1/models/{id...}", PERMIT_READ, &gateway_model, "One model"},
};

const aiq_service service_gateway = {
    .name = "gateway",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
    .init = init,
    .free = release,
};
