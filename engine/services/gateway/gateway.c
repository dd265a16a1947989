#include "services/gateway/gateway.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "providers/local_models.h"
#include "services/gateway/guaranteed.h"
#include "services/gateway/targets.h"
#include "services/gateway/token_limits.h"
#include "services/gateway/token_save.h"

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
    g->families = counts_families(engine->metrics);
    g->loops = aiq_zalloc(engine->options.loops * sizeof(*g->loops));
    for (unsigned i = 0; i < engine->options.loops; i++) {
        g->loops[i].gateway = g;
        g->loops[i].counts = counts_new(g->families);
        g->loops[i].secrets = secrets_new(engine->options.secrets);
        g->loops[i].random = (engine->id ^ i * 0x9e3779b97f4a7c15u) | 1;
    }
    g->targets = targets_new(engine);
    g->limits = token_limits_new(engine->metrics);
    g->save = token_save_start(engine, g->limits);
    g->models = local_models_new(engine, err);
    if (g->models == NULL) {
        return false;
    }
    durable_on_orphan(engine->durable, guaranteed_orphan);
    policy_set_watch(engine->policies, &(policy_watch){policy_added, policy_removed, g});
    return true;
}

static void loop_release(gateway_loop *g)
{
    counts_free(g->counts);
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
    token_save_stop(g->save);
    token_limits_free(g->limits);
    curl_global_cleanup();
    free(g->families);
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
    {AIQ_METHOD_POST, "/v1/embeddings", PERMIT_EXECUTE, &gateway_passing, "Vectors of texts"},
    {AIQ_METHOD_POST, "/v1/moderations", PERMIT_EXECUTE, &gateway_passing,
     "Whether texts keep to the rules, from an openai provider"},
    {AIQ_METHOD_POST, "/v1/audio/speech", PERMIT_EXECUTE, &gateway_raw,
     "A text spoken, by an openai provider"},
    {AIQ_METHOD_POST, "/v1/audio/transcriptions", PERMIT_EXECUTE, &gateway_raw,
     "What was said, written by an openai provider"},
    {AIQ_METHOD_POST, "/v1/audio/translations", PERMIT_EXECUTE, &gateway_raw,
     "The same in English"},
    {AIQ_METHOD_POST, "/v1/images/generations", PERMIT_EXECUTE, &gateway_raw,
     "Images from a text, by an openai provider"},
    {AIQ_METHOD_POST, "/v1/images/edits", PERMIT_EXECUTE, &gateway_raw,
     "Images changed, by an openai provider"},
    {AIQ_METHOD_POST, "/v1/images/variations", PERMIT_EXECUTE, &gateway_raw,
     "Images like another one, by an openai provider"},
    {AIQ_METHOD_POST, "/v1/files", PERMIT_EXECUTE, &gateway_files, "Keeps a file"},
    {AIQ_METHOD_GET, "/v1/files", PERMIT_READ, &gateway_files, "The files"},
    {AIQ_METHOD_GET, "/v1/files/{id}", PERMIT_READ, &gateway_files, "One file"},
    {AIQ_METHOD_GET, "/v1/files/{id}/content", PERMIT_READ, &gateway_files, "What is in it"},
    {AIQ_METHOD_DELETE, "/v1/files/{id}", PERMIT_WRITE, &gateway_files, "Removes it"},
    {AIQ_METHOD_POST, "/v1/batches", PERMIT_EXECUTE, &gateway_files, "Begins a batch"},
    {AIQ_METHOD_GET, "/v1/batches", PERMIT_READ, &gateway_files, "The batches"},
    {AIQ_METHOD_GET, "/v1/batches/{id}", PERMIT_READ, &gateway_files, "One batch"},
    {AIQ_METHOD_POST, "/v1/batches/{id}/cancel", PERMIT_EXECUTE, &gateway_files, "Ends it"},
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
