/*
 * GET /api/v1/models and /api/v1/providers: the models and providers of the configuration,
 * and who of them can be asked now, as far as this engine knows. They are the policy's, of
 * the caller's location, and nothing is stored; a caller whose API key is for some models
 * sees these, and their providers. Where a provider is, and what its keys are called, nobody
 * sees.
 */

#include <inttypes.h>
#include <string.h>
#include "ledger/ledger.h"
#include "services/control/control.h"
#include "services/gateway/targets.h"

typedef struct {
    aiq_job *job;
    uint64_t now_ns;
    int64_t skip, limit; /* of the page */
    int64_t n;           /* items seen */
    bool more;
    aiq_buf out;
} listing;

static const char *const breakers[] = {"closed", "half_open", "open"};

static bool begin(listing *l, aiq_job *job, aiq_err *err)
{
    control_args args = {.limit = CONTROL_PAGE,
                         .limit_max = CONTROL_PAGE_MAX,
                         .after = AIQ_STR(""),
                         .no_tenant = true};

    *l = (listing){.job = job, .now_ns = loop_now_ns()};
    if (!control_read_args(job->pool, job->args, &args, err) ||
        !control_offset(args.after, &l->skip, err)) {
        return false;
    }
    l->limit = args.limit;
    aiq_buf_text(&l->out, "{\"data\":[");
    return true;
}

/* Is the next item one of this page? */
static bool item(listing *l)
{
    int64_t at = l->n++;

    l->more = l->more || at >= l->skip + l->limit;
    if (l->more || at < l->skip) {
        return false;
    }
    aiq_buf_text(&l->out, at > l->skip ? "," : "");
    return true;
}

static void end(listing *l)
{
    if (l->more) {
        aiq_buf_printf(&l->out, "],\"next\":\"%" PRId64 "\"}\n", l->skip + l->limit);
    } else {
        aiq_buf_text(&l->out, "],\"next\":null}\n");
    }
    job_reply_all(l->job, 200, "application/json", l->out.data, l->out.len);
    aiq_buf_free(&l->out);
}

static void add_name(aiq_buf *out, const char *member, const char *name)
{
    aiq_buf_printf(out, "\"%s\":", member);
    if (name) {
        json_quote(out, name, strlen(name));
    } else {
        aiq_buf_text(out, "null");
    }
}

/* Whole seconds until it may be asked again. */
static void add_wait(aiq_buf *out, uint64_t wait_ns)
{
    if (wait_ns) {
        aiq_buf_printf(out, ",\"retry_after\":%llu",
                       (unsigned long long)((wait_ns + 999999999) / 1000000000));
    }
}

/* Models. */

static bool can_answer(const policy_target *target, uint64_t now_ns)
{
    const target_state *state = target_of(target);

    return breaker_admits(&state->breaker, now_ns) && target_well(state) &&
           target_rested(target->provider, now_ns);
}

static const char *model_status(const policy_model *model, uint64_t now_ns)
{
    size_t able = 0;

    for (size_t i = 0; i < model->n_targets; i++) {
        able += can_answer(&model->targets[i], now_ns);
    }
    return able == model->n_targets ? "healthy" : able ? "degraded" : "unhealthy";
}

/* USD for a million tokens. */
static void add_price(aiq_buf *out, const char *member, int64_t nano_usd)
{
    char text[LEDGER_USD_SIZE];

    if (nano_usd < 0) {
        aiq_buf_printf(out, "\"%s\":null", member);
    } else {
        int n = (int)ledger_write_usd(text, nano_usd);
        aiq_buf_printf(out, "\"%s\":\"%.*s\"", member, n, text);
    }
}

static void add_target(aiq_buf *out, const policy_target *target, uint64_t now_ns)
{
    const target_state *state = target_of(target);
    const policy_price *price = &target->price;

    aiq_buf_text(out, "{");
    add_name(out, "provider", target->provider->name);
    aiq_buf_text(out, ",");
    add_name(out, "model", target->model);
    aiq_buf_printf(out, ",\"status\":\"%s\",\"breaker\":\"%s\"",
                   can_answer(target, now_ns) ? "healthy" : "unhealthy",
                   breakers[breaker_look(&state->breaker)]);
    add_wait(out, breaker_wait_ns(&state->breaker, now_ns));
    aiq_buf_text(out, ",\"price\":{");
    add_price(out, "input", price->input);
    aiq_buf_text(out, ",");
    add_price(out, "cached", price->cached);
    aiq_buf_text(out, ",");
    add_price(out, "output", price->output);
    aiq_buf_text(out, ",");
    add_price(out, "characters", price->characters);
    aiq_buf_text(out, ",");
    add_price(out, "image", price->image);
    aiq_buf_text(out, ",");
    add_price(out, "minute", price->minute);
    aiq_buf_printf(out, "},\"weight\":%u,\"backup\":%s,\"noncritical\":%s,\"conditional\":%s}",
                   target->weight, target->backup ? "true" : "false",
                   target->noncritical ? "true" : "false",
                   target->condition >= 0 || target->max_body ? "true" : "false");
}

static void add_model(aiq_buf *out, const policy_model *model, uint64_t now_ns)
{
    static const char *const policies[] = {"order", "weight", "latency", "cost", "hash"};

    aiq_buf_text(out, "{");
    add_name(out, "name", model->name);
    aiq_buf_printf(out, ",\"status\":\"%s\",\"policy\":\"%s\",\"fallback\":{",
                   model_status(model, now_ns), policies[model->order]);
    add_name(out, "context", model->context_fallback ? model->context_fallback->name : NULL);
    aiq_buf_text(out, ",");
    add_name(out, "content", model->content_fallback ? model->content_fallback->name : NULL);
    aiq_buf_text(out, "},\"targets\":[");
    for (size_t i = 0; i < model->n_targets; i++) {
        aiq_buf_text(out, i ? "," : "");
        add_target(out, &model->targets[i], now_ns);
    }
    aiq_buf_text(out, "]}");
}

static void models_end(aiq_job *job)
{
    const aiq_policy *policy = job->policy;
    listing l;
    aiq_err err;

    if (!begin(&l, job, &err)) {
        job_fail(job, &err);
        return;
    }
    for (size_t i = 0; i < policy->n_models && !l.more; i++) {
        if (job_may_use(job, policy->models[i].name) && item(&l)) {
            add_model(&l.out, &policy->models[i], l.now_ns);
        }
    }
    end(&l);
}

/* Providers. */

static const char *provider_status(const provider_look *look, size_t n_keys,
                                   const char **reason)
{
    *reason = look->sick                       ? "its health check fails"
              : n_keys && look->rest == n_keys ? "all of its keys rest"
              : look->key_missing              ? "a key is missing"
              : look->worst != BREAKER_CLOSED  ? "a circuit breaker is open"
              : look->rest                     ? "a key rests"
                                               : NULL;
    return *reason == NULL                                  ? "healthy"
           : look->sick || (n_keys && look->rest == n_keys) ? "unhealthy"
                                                            : "degraded";
}

static void add_keys(aiq_buf *out, const policy_provider *provider, uint64_t now_ns)
{
    aiq_buf_text(out, "\"keys\":[");
    for (size_t i = 0; i < provider->n_keys; i++) {
        uint64_t rests_ns = target_key_rests(provider, i, now_ns);
        aiq_buf_printf(out, "%s{\"status\":\"%s\"", i ? "," : "",
                       rests_ns ? "resting" : "ready");
        add_wait(out, rests_ns);
        aiq_buf_text(out, "}");
    }
    aiq_buf_text(out, "]");
}

static void add_provider(aiq_buf *out, const policy_provider *provider, uint64_t now_ns)
{
    provider_look look = target_look(provider, now_ns);
    const char *reason, *status = provider_status(&look, provider->n_keys, &reason);
    const char *version = provider->url == NULL ? NULL : provider->http2 ? "2" : "1.1";

    aiq_buf_text(out, "{");
    add_name(out, "name", provider->name);
    aiq_buf_text(out, ",");
    add_name(out, "dialect", provider->dialect);
    aiq_buf_text(out, ",");
    add_name(out, "http_version", version);
    aiq_buf_printf(out, ",\"status\":\"%s\",", status);
    add_name(out, "reason", reason);
    aiq_buf_printf(out, ",\"breaker\":\"%s\",", breakers[look.worst]);
    add_keys(out, provider, now_ns);
    aiq_buf_text(out, "}");
}

/* By index: has the caller a model of it? */
static bool *seen_providers(const aiq_job *job)
{
    const aiq_policy *policy = job->policy;
    bool *seen = aiq_pool_zalloc(job->pool, policy->n_providers + 1);

    for (size_t i = 0; i < policy->n_models; i++) {
        const policy_model *model = &policy->models[i];
        size_t n = job_may_use(job, model->name) ? model->n_targets : 0;
        for (size_t k = 0; k < n; k++) {
            seen[model->targets[k].provider - policy->providers] = true;
        }
    }
    return seen;
}

static void providers_end(aiq_job *job)
{
    const aiq_policy *policy = job->policy;
    const bool *seen = job->models.len ? seen_providers(job) : NULL;
    listing l;
    aiq_err err;

    if (!begin(&l, job, &err)) {
        job_fail(job, &err);
        return;
    }
    for (size_t i = 0; i < policy->n_providers && !l.more; i++) {
        if ((seen == NULL || seen[i]) && item(&l)) {
            add_provider(&l.out, &policy->providers[i], l.now_ns);
        }
    }
    end(&l);
}

const job_handler control_models = {.end = models_end};
const job_handler control_providers = {.end = providers_end};
