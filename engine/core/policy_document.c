#include "core/policy_document.h"

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include "aiq_frame.h"

#define VERSION           1
#define MS_MAX            (24u * 3600 * 1000)
#define STREAM_BUFFER_MAX (64u << 20)
/* As the module has them. */
#define ATTEMPTS_MAX 100
#define FAILURES_MAX 1000000
#define PRICE_MAX    1000000000000000
#define REQUESTS_MAX 1000000000
#define BURST_MAX    1024

/* What is being read, and where errors go. */
typedef struct {
    aiq_pool *pool;
    aiq_policy *policy;
    aiq_err *err;
} reader;

static bool invalid(reader *r, const char *what, const char *key)
{
    return aiq_fail(r->err, 503, "policy_invalid", "The policy document's %s has no valid %s.",
                    what, key);
}

static bool copy_text(reader *r, const json_t *value, const char *what, const char *key,
                      const char **out)
{
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        json_string_length(value) > PATH_MAX ||
        strlen(json_string_value(value)) != json_string_length(value)) {
        return invalid(r, what, key);
    }
    *out = aiq_pool_copy(r->pool, json_string_value(value), json_string_length(value));
    return true;
}

static bool read_text(reader *r, const json_t *object, const char *what, const char *key,
                      bool required, const char **out)
{
    const json_t *value = json_object_get(object, key);

    *out = NULL;
    return (value == NULL && !required) || copy_text(r, value, what, key, out);
}

static bool read_number(reader *r, const json_t *object, const char *what, const char *key,
                        uint32_t max, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > max) {
        return invalid(r, what, key);
    }
    *out = (uint32_t)json_integer_value(value);
    return true;
}

/* One of a few words; its place among them. */
static bool read_word(reader *r, const json_t *object, const char *what, const char *key,
                      const char *const *words, unsigned *out)
{
    const json_t *value = json_object_get(object, key);

    for (unsigned i = 0; json_is_string(value) && words[i]; i++) {
        if (strcmp(json_string_value(value), words[i]) == 0) {
            *out = i;
            return true;
        }
    }
    return invalid(r, what, key);
}

static bool read_flag(reader *r, const json_t *object, const char *what, const char *key,
                      bool *out)
{
    const json_t *value = json_object_get(object, key);

    *out = json_is_true(value);
    return value == NULL || json_is_boolean(value) || invalid(r, what, key);
}

static bool read_price(reader *r, const json_t *object, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(object, key);

    *out = json_is_integer(value) ? json_integer_value(value) : -1;
    return value == NULL || (*out >= 0 && *out <= PRICE_MAX) || invalid(r, "target", key);
}

/* One of fewer than max; -1: none. */
static bool read_index(reader *r, const json_t *object, const char *what, const char *key,
                       int max, int *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;

    *out = n >= 0 && n < max ? (int)n : -1;
    return value == NULL || *out >= 0 || invalid(r, what, key);
}

/* 0: none. */
static bool read_size(reader *r, const json_t *object, const char *what, const char *key,
                      uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;

    *out = n > 0 ? (uint64_t)n : 0;
    return value == NULL || n > 0 || invalid(r, what, key);
}

/* The array `key`, and zeroed memory for one record of `size` bytes an element. */
static bool read_array(reader *r, const json_t *object, const char *what, const char *key,
                       size_t size, const json_t **array, size_t *n, void *records)
{
    *array = json_object_get(object, key);
    if (!json_is_array(*array)) {
        return invalid(r, what, key);
    }
    *n = json_array_size(*array);
    *(void **)records = aiq_pool_zalloc(r->pool, (*n + 1) * size);
    return true;
}

static bool read_local_models(reader *r, const json_t *object, policy_provider *provider)
{
    policy_local_model *models;
    const json_t *array;

    if (!read_array(r, object, "provider", "models", sizeof(*models), &array,
                    &provider->n_models, &models)) {
        return false;
    }
    for (size_t i = 0; i < provider->n_models; i++) {
        const json_t *model = json_array_get(array, i);

        if (!read_text(r, model, "local model", "name", true, &models[i].name) ||
            !read_text(r, model, "local model", "path", true, &models[i].path)) {
            return false;
        }
        models[i].replicas = 1;
        if (json_object_get(model, "replicas") != NULL &&
            !read_number(r, model, "local model", "replicas", POLICY_REPLICAS_MAX,
                         &models[i].replicas)) {
            return false;
        }
    }
    provider->models = models;
    return true;
}

static bool read_keys(reader *r, const json_t *object, policy_provider *provider)
{
    const char **keys;
    const json_t *array;

    if (!read_array(r, object, "provider", "keys", sizeof(*keys), &array, &provider->n_keys,
                    &keys)) {
        return false;
    }
    if (provider->n_keys > POLICY_KEYS_MAX) {
        return invalid(r, "provider", "keys");
    }
    for (size_t i = 0; i < provider->n_keys; i++) {
        if (!copy_text(r, json_array_get(array, i), "provider", "keys", &keys[i])) {
            return false;
        }
    }
    provider->keys = keys;
    return true;
}

/* A line end in a header would let the document write requests of its own. */
static bool is_field(const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool read_headers(reader *r, const json_t *object, policy_provider *provider)
{
    policy_header *headers;
    const json_t *array;

    if (!read_array(r, object, "provider", "headers", sizeof(*headers), &array,
                    &provider->n_headers, &headers)) {
        return false;
    }
    for (size_t i = 0; i < provider->n_headers; i++) {
        const json_t *header = json_array_get(array, i);

        if (!read_text(r, header, "header", "name", true, &headers[i].name) ||
            !read_text(r, header, "header", "value", true, &headers[i].value)) {
            return false;
        }
        if (!is_field(headers[i].name) || !is_field(headers[i].value)) {
            return invalid(r, "provider", "headers");
        }
    }
    provider->headers = headers;
    return true;
}

static bool read_check(reader *r, const json_t *object, policy_check *check)
{
    const json_t *member = json_object_get(object, "check");

    return member == NULL ||
           (read_text(r, member, "check", "uri", true, &check->uri) &&
            (is_field(check->uri) || invalid(r, "check", "uri")) &&
            read_number(r, member, "check", "interval_ms", MS_MAX, &check->interval_ms) &&
            read_number(r, member, "check", "timeout_ms", MS_MAX, &check->timeout_ms) &&
            read_number(r, member, "check", "fails", FAILURES_MAX, &check->fails) &&
            read_number(r, member, "check", "passes", FAILURES_MAX, &check->passes));
}

static bool read_remote(reader *r, const json_t *object, policy_provider *provider)
{
    return read_text(r, object, "provider", "url", true, &provider->url) &&
           read_keys(r, object, provider) && read_headers(r, object, provider) &&
           read_check(r, object, &provider->check) &&
           read_text(r, object, "provider", "key_header", false, &provider->key_header) &&
           read_text(r, object, "provider", "query", false, &provider->query) &&
           read_flag(r, object, "provider", "no_stream_options",
                     &provider->no_stream_options) &&
           read_flag(r, object, "provider", "no_max_completion_tokens",
                     &provider->no_max_completion_tokens) &&
           read_text(r, object, "provider", "ca", false, &provider->ca) &&
           read_text(r, object, "provider", "certificate", false, &provider->certificate) &&
           read_text(r, object, "provider", "certificate_key", false,
                     &provider->certificate_key) &&
           read_text(r, object, "provider", "proxy", false, &provider->proxy) &&
           read_flag(r, object, "provider", "http2", &provider->http2) &&
           read_number(r, object, "provider", "connect_ms", MS_MAX, &provider->connect_ms) &&
           read_number(r, object, "provider", "first_byte_ms", MS_MAX,
                       &provider->first_byte_ms) &&
           read_number(r, object, "provider", "idle_ms", MS_MAX, &provider->idle_ms) &&
           read_number(r, object, "provider", "total_ms", MS_MAX, &provider->total_ms);
}

static bool read_provider(reader *r, const json_t *object, policy_provider *provider)
{
    if (!read_text(r, object, "provider", "name", true, &provider->name) ||
        !read_text(r, object, "provider", "dialect", true, &provider->dialect) ||
        !read_number(r, object, "provider", "attempts", ATTEMPTS_MAX, &provider->attempts) ||
        !read_number(r, object, "provider", "backoff_ms", MS_MAX, &provider->backoff_ms) ||
        !read_number(r, object, "provider", "breaker_failures", FAILURES_MAX,
                     &provider->breaker_failures) ||
        !read_number(r, object, "provider", "breaker_open_ms", MS_MAX,
                     &provider->breaker_open_ms)) {
        return false;
    }
    provider->shared = aiq_pool_zalloc(r->pool, sizeof(void *));
    return strcmp(provider->dialect, "local") == 0 ? read_local_models(r, object, provider)
                                                   : read_remote(r, object, provider);
}

static bool read_providers(reader *r, const json_t *document)
{
    policy_provider *providers;
    const json_t *array;

    if (!read_array(r, document, "root", "providers", sizeof(*providers), &array,
                    &r->policy->n_providers, &providers)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_providers; i++) {
        if (!read_provider(r, json_array_get(array, i), &providers[i])) {
            return false;
        }
    }
    r->policy->providers = providers;
    return true;
}

static const policy_provider *find_provider(const aiq_policy *policy, const char *name)
{
    for (size_t i = 0; i < policy->n_providers; i++) {
        if (strcmp(policy->providers[i].name, name) == 0) {
            return &policy->providers[i];
        }
    }
    return NULL;
}

static bool read_target(reader *r, const json_t *object, policy_target *target)
{
    const char *name;

    if (!read_text(r, object, "target", "provider", true, &name) ||
        !read_text(r, object, "target", "model", true, &target->model) ||
        !read_number(r, object, "target", "weight", UINT16_MAX, &target->weight) ||
        !read_price(r, object, "input", &target->price.input) ||
        !read_price(r, object, "cached", &target->price.cached) ||
        !read_price(r, object, "output", &target->price.output) ||
        !read_price(r, object, "characters", &target->price.characters) ||
        !read_price(r, object, "image", &target->price.image) ||
        !read_price(r, object, "minute", &target->price.minute) ||
        !read_index(r, object, "target", "condition", AIQ_CONDITIONS_MAX, &target->condition) ||
        !read_size(r, object, "target", "max_body", &target->max_body) ||
        !read_flag(r, object, "target", "backup", &target->backup) ||
        !read_flag(r, object, "target", "noncritical", &target->noncritical)) {
        return false;
    }
    if (target->price.cached < 0) {
        target->price.cached = target->price.input;
    }
    target->shared = aiq_pool_zalloc(r->pool, sizeof(void *));
    target->provider = find_provider(r->policy, name);
    return target->provider || invalid(r, "target", "provider");
}

static bool read_model(reader *r, const json_t *object, policy_model *model)
{
    static const char *const orders[] = {"order", "weight", "latency", "cost", "hash", NULL};
    policy_target *targets;
    const json_t *array;
    unsigned order;
    int key;

    if (!read_text(r, object, "model", "name", true, &model->name) ||
        !read_word(r, object, "model", "policy", orders, &order) ||
        !read_index(r, object, "model", "key", AIQ_HASHES_MAX, &key) ||
        !read_number(r, object, "model", "retry_timeout_ms", MS_MAX,
                     &model->retry_timeout_ms) ||
        (json_object_get(object, "hedge_ms") &&
         !read_number(r, object, "model", "hedge_ms", MS_MAX, &model->hedge_ms)) ||
        !read_array(r, object, "model", "targets", sizeof(*targets), &array, &model->n_targets,
                    &targets)) {
        return false;
    }
    if (model->n_targets == 0 || model->n_targets > POLICY_TARGETS_MAX) {
        return invalid(r, "model", "targets");
    }
    if ((order == POLICY_HASH) != (key >= 0)) {
        return invalid(r, "model", "key");
    }
    for (size_t i = 0; i < model->n_targets; i++) {
        if (!read_target(r, json_array_get(array, i), &targets[i])) {
            return false;
        }
    }
    model->targets = targets;
    model->order = (policy_order)order;
    model->key = key >= 0 ? (unsigned)key : 0;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const policy_model *)a)->name, ((const policy_model *)b)->name);
}

static bool read_fallback(reader *r, const json_t *object, const char *key,
                          const policy_model **out)
{
    const char *name;

    if (!read_text(r, object, "model", key, false, &name)) {
        return false;
    }
    *out = name ? policy_find_model(r->policy, name, strlen(name)) : NULL;
    return name == NULL || *out != NULL || invalid(r, "model", key);
}

/* Once the models can be found. */
static bool read_fallbacks(reader *r, const json_t *array, policy_model *models)
{
    for (size_t i = 0; i < r->policy->n_models; i++) {
        const json_t *object = json_array_get(array, i);
        const char *name = json_string_value(json_object_get(object, "name"));
        policy_model *model = bsearch(&(policy_model){.name = name}, models,
                                      r->policy->n_models, sizeof(*models), by_name);

        if (!read_fallback(r, object, "context_fallback", &model->context_fallback) ||
            !read_fallback(r, object, "content_fallback", &model->content_fallback)) {
            return false;
        }
    }
    return true;
}

static bool read_models(reader *r, const json_t *document)
{
    policy_model *models;
    const json_t *array;

    if (!read_array(r, document, "root", "models", sizeof(*models), &array,
                    &r->policy->n_models, &models)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_models; i++) {
        if (!read_model(r, json_array_get(array, i), &models[i])) {
            return false;
        }
    }
    qsort(models, r->policy->n_models, sizeof(*models), by_name);
    for (size_t i = 1; i < r->policy->n_models; i++) {
        if (by_name(&models[i - 1], &models[i]) == 0) {
            return invalid(r, "root", "models: a name occurs twice, so it");
        }
    }
    r->policy->models = models;
    return read_fallbacks(r, array, models);
}

static bool read_budget(reader *r, const json_t *object, policy_budget *budget)
{
    static const char *const scopes[] = {"tenant", "user", "key", NULL};
    static const char *const units[] = {"tokens", "usd", NULL};
    static const char *const periods[] = {"day", "month", NULL};
    const json_t *amount = json_object_get(object, "amount");
    unsigned scope, unit, period;

    if (!read_word(r, object, "budget", "scope", scopes, &scope) ||
        !read_word(r, object, "budget", "unit", units, &unit) ||
        !read_word(r, object, "budget", "period", periods, &period)) {
        return false;
    }
    if (!json_is_integer(amount) || json_integer_value(amount) < 1) {
        return invalid(r, "budget", "amount");
    }
    *budget = (policy_budget){(policy_scope)scope, (policy_unit)unit, (policy_period)period,
                              json_integer_value(amount)};
    return true;
}

static bool read_budgets(reader *r, const json_t *object, policy_location *location)
{
    policy_budget *budgets;
    const json_t *array;

    if (json_object_get(object, "budgets") == NULL) {
        return true;
    }
    if (!read_array(r, object, "location", "budgets", sizeof(*budgets), &array,
                    &location->n_budgets, &budgets)) {
        return false;
    }
    if (location->n_budgets > POLICY_BUDGETS) {
        return invalid(r, "location", "number of budgets");
    }
    for (size_t i = 0; i < location->n_budgets; i++) {
        if (!read_budget(r, json_array_get(array, i), &budgets[i])) {
            return false;
        }
    }
    location->budgets = budgets;
    return true;
}

static bool read_limit(reader *r, const json_t *object, policy_limit *limit)
{
    const json_t *tokens = json_object_get(object, "tokens");
    const json_t *window = json_object_get(object, "window_ms");
    const json_t *keys = json_object_get(object, "keys");
    const json_t *nodes = json_object_get(object, "nodes");

    if (!read_text(r, object, "limit", "zone", true, &limit->zone)) {
        return false;
    }
    if (!json_is_integer(tokens) || json_integer_value(tokens) < 1 ||
        json_integer_value(tokens) > INT64_MAX / 4) {
        return invalid(r, "limit", "tokens");
    }
    if (!json_is_integer(window) || json_integer_value(window) < 1000 ||
        json_integer_value(window) > 86400000) {
        return invalid(r, "limit", "window_ms");
    }
    if (!json_is_integer(keys) || json_integer_value(keys) < 1 ||
        json_integer_value(keys) > UINT32_MAX) {
        return invalid(r, "limit", "keys");
    }
    if (nodes && (!json_is_integer(nodes) || json_integer_value(nodes) < 0 ||
                  json_integer_value(nodes) > UINT32_MAX ||
                  json_integer_value(nodes) > json_integer_value(tokens))) {
        return invalid(r, "limit", "nodes");
    }
    limit->shared = nodes != NULL;
    limit->nodes = (uint32_t)json_integer_value(nodes);
    limit->tokens = json_integer_value(tokens);
    limit->window_ms = (uint32_t)json_integer_value(window);
    limit->keys = (uint32_t)json_integer_value(keys);
    return true;
}

static bool read_limits(reader *r, const json_t *object, policy_location *location)
{
    policy_limit *limits;
    const json_t *array;

    if (json_object_get(object, "limits") == NULL) {
        return true;
    }
    if (!read_array(r, object, "location", "limits", sizeof(*limits), &array,
                    &location->n_limits, &limits)) {
        return false;
    }
    if (location->n_limits > POLICY_LIMITS) {
        return invalid(r, "location", "number of limits");
    }
    for (size_t i = 0; i < location->n_limits; i++) {
        if (!read_limit(r, json_array_get(array, i), &limits[i])) {
            return false;
        }
    }
    location->limits = limits;
    return true;
}

static bool read_rate(reader *r, const json_t *object, policy_rate *rate)
{
    const json_t *burst = json_object_get(object, "burst");
    const json_t *dry_run = json_object_get(object, "dry_run");

    if (!read_text(r, object, "rate", "zone", true, &rate->zone) ||
        !read_number(r, object, "rate", "requests", REQUESTS_MAX, &rate->requests) ||
        !read_number(r, object, "rate", "window_ms", MS_MAX, &rate->window_ms) ||
        !read_number(r, object, "rate", "grain_ms", rate->window_ms, &rate->grain_ms)) {
        return false;
    }
    if (!json_is_integer(burst) || json_integer_value(burst) < 0 ||
        json_integer_value(burst) > BURST_MAX) {
        return invalid(r, "rate", "burst");
    }
    if (!json_is_boolean(dry_run)) {
        return invalid(r, "rate", "dry_run");
    }
    rate->burst = (uint32_t)json_integer_value(burst);
    rate->dry_run = json_is_true(dry_run);
    return true;
}

static bool read_rates(reader *r, const json_t *object, policy_location *location)
{
    policy_rate *rates;
    const json_t *array;

    if (json_object_get(object, "rates") == NULL) {
        return true;
    }
    if (!read_array(r, object, "location", "rates", sizeof(*rates), &array, &location->n_rates,
                    &rates)) {
        return false;
    }
    if (location->n_rates > POLICY_RATES) {
        return invalid(r, "location", "number of rates");
    }
    for (size_t i = 0; i < location->n_rates; i++) {
        if (!read_rate(r, json_array_get(array, i), &rates[i])) {
            return false;
        }
    }
    location->rates = rates;
    return true;
}

/* Never asked twice for the same: what makes a file or a batch would make two. */
static bool read_files(reader *r, const json_t *object, const policy_model **files)
{
    const char *name;

    if (!read_text(r, object, "location", "files", false, &name)) {
        return false;
    }
    if (name == NULL) {
        return true;
    }
    policy_target *target = aiq_pool_zalloc(r->pool, sizeof(*target));
    policy_model *model = aiq_pool_zalloc(r->pool, sizeof(*model));
    *target = (policy_target){.provider = find_provider(r->policy, name),
                              .model = "files",
                              .weight = 1,
                              .price = POLICY_NO_PRICE,
                              .condition = -1,
                              .shared = aiq_pool_zalloc(r->pool, sizeof(void *))};
    *model = (policy_model){.name = "files", .targets = target, .n_targets = 1};
    *files = model;
    return target->provider || invalid(r, "location", "files");
}

/* A number of a location; 0 where it is missing. */
static bool read_option(reader *r, const json_t *object, const char *key, uint32_t max,
                        uint32_t *out)
{
    return json_object_get(object, key) == NULL ||
           read_number(r, object, "location", key, max, out);
}

static bool read_streams(reader *r, const json_t *object, policy_location *location)
{
    return read_option(r, object, "stream_buffer", STREAM_BUFFER_MAX,
                       &location->stream_buffer) &&
           read_option(r, object, "stream_grace_ms", MS_MAX, &location->stream_grace_ms) &&
           read_option(r, object, "abort_drain_ms", MS_MAX, &location->abort_drain_ms);
}

static bool read_embed(reader *r, const json_t *object, const policy_model **out)
{
    const char *name;

    if (!read_text(r, object, "semantic", "embed", false, &name) || name == NULL) {
        return name == NULL && json_object_get(object, "embed") == NULL;
    }
    *out = policy_find_model(r->policy, name, strlen(name));
    return (*out && (*out)->targets->provider->n_models > 0) || invalid(r, "semantic", "embed");
}

static bool read_semantic(reader *r, const json_t *location, const policy_semantic **out)
{
    const json_t *object = json_object_get(location, "semantic");
    policy_semantic *semantic;

    if (object == NULL) {
        return true;
    }
    *out = semantic = aiq_pool_zalloc(r->pool, sizeof(*semantic));
    return read_embed(r, object, &semantic->embed) &&
           read_number(r, object, "semantic", "threshold", POLICY_COSINE,
                       &semantic->threshold) &&
           read_flag(r, object, "semantic", "tools", &semantic->tools) &&
           read_flag(r, object, "semantic", "temperature", &semantic->temperature) &&
           read_flag(r, object, "semantic", "dry_run", &semantic->dry_run);
}

static bool read_locations(reader *r, const json_t *document)
{
    policy_location *locations;
    const json_t *array;

    if (!read_array(r, document, "root", "locations", sizeof(*locations), &array,
                    &r->policy->n_locations, &locations)) {
        return false;
    }
    for (size_t i = 0; i < r->policy->n_locations; i++) {
        const json_t *object = json_array_get(array, i);
        const json_t *max_body = json_object_get(object, "max_body");

        if (!read_text(r, object, "location", "service", true, &locations[i].service)) {
            return false;
        }
        if (!json_is_integer(max_body) || json_integer_value(max_body) < 0) {
            return invalid(r, "location", "max_body");
        }
        locations[i].max_body = (uint64_t)json_integer_value(max_body);
        if (!read_flag(r, object, "location", "websocket", &locations[i].websocket) ||
            !read_option(r, object, "cache_ttl_ms", MS_MAX, &locations[i].cache_ttl_ms) ||
            !read_semantic(r, object, &locations[i].semantic) ||
            !read_streams(r, object, &locations[i])) {
            return false;
        }
        if (!read_budgets(r, object, &locations[i]) || !read_limits(r, object, &locations[i]) ||
            !read_rates(r, object, &locations[i]) ||
            !read_files(r, object, &locations[i].files)) {
            return false;
        }
    }
    r->policy->locations = locations;
    return true;
}

static bool read_document(reader *r, const json_t *document)
{
    const json_t *version = json_object_get(document, "aiq");
    const json_t *epoch = json_object_get(document, "epoch");

    if (!json_is_integer(version) || json_integer_value(version) != VERSION) {
        return invalid(r, "root", "version (module and engine are not of one build)");
    }
    if (!json_is_integer(epoch) || json_integer_value(epoch) < 0) {
        return invalid(r, "root", "epoch");
    }
    r->policy->epoch = (uint64_t)json_integer_value(epoch);
    return read_providers(r, document) && read_models(r, document) &&
           read_locations(r, document);
}

bool policy_read_document(aiq_policy *policy, aiq_pool *pool, const char *text, size_t len,
                          aiq_err *err)
{
    reader r = {.pool = pool, .policy = policy, .err = err};
    json_error_t where;
    json_t *document = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);

    if (document == NULL) {
        aiq_fail(err, 503, "policy_invalid", "The policy document is not JSON.");
        aiq_err_detail(err, "%s at byte %d", where.text, where.position);
        return false;
    }
    bool ok = read_document(&r, document);
    json_decref(document);
    return ok;
}
