#include "services/gateway/cached.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "engine.h"
#include "services/service.h"

/* An entry is a body, who it is of, and this. */
typedef struct {
    uint16_t stream, provider_len, model_len;
} entry_tail;

/* The key. Each part has its length before it, so no two requests look the same. */

static void add(EVP_MD_CTX *hash, const void *data, uint64_t len)
{
    EVP_DigestUpdate(hash, &len, sizeof(len));
    EVP_DigestUpdate(hash, data, len);
}

static void add_text(EVP_MD_CTX *hash, const char *text)
{
    add(hash, text ? text : "", text ? strlen(text) : 0);
}

static void add_number(EVP_MD_CTX *hash, uint64_t n)
{
    EVP_DigestUpdate(hash, &n, sizeof(n));
}

static void add_target(EVP_MD_CTX *hash, const policy_target *target)
{
    const policy_provider *p = target->provider;

    add_text(hash, p->name);
    add_text(hash, p->dialect);
    add_text(hash, p->url);
    add_text(hash, p->query);
    add_number(hash, p->n_headers);
    for (size_t i = 0; i < p->n_headers; i++) {
        add_text(hash, p->headers[i].name);
        add_text(hash, p->headers[i].value);
    }
    add_number(hash, p->n_models);
    for (size_t i = 0; i < p->n_models; i++) {
        add_text(hash, p->models[i].name);
        add_text(hash, p->models[i].path);
    }
    add_text(hash, target->model);
    add_number(hash, (uint64_t)target->condition);
    add_number(hash, target->max_body);
    add_number(hash, target->noncritical);
}

static void add_model(EVP_MD_CTX *hash, const policy_model *model)
{
    add_number(hash, model ? model->n_targets : 0);
    for (size_t i = 0; model && i < model->n_targets; i++) {
        add_target(hash, &model->targets[i]);
    }
}

static void make_key(uint8_t key[LRU_KEY], const aiq_job *job, const policy_model *model,
                     const chat_request *chat)
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();

    EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
    add(hash, job->tenant.data, job->tenant.len);
    add_text(hash, job->route->path);
    add(hash, chat->body.data, chat->body.len);
    add(hash, chat->lines.data, chat->lines.len);
    add_number(hash, job->conditions);
    add_number(hash, job->location->n_budgets > 0); /* which may cap the answer */
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, "x-aiq-priority")) {
            add(hash, job->headers[i].value.data, job->headers[i].value.len);
        }
    }
    add_model(hash, model);
    add_model(hash, model->context_fallback);
    add_model(hash, model->content_fallback);
    EVP_DigestFinal_ex(hash, key, NULL);
    EVP_MD_CTX_free(hash);
}

/* The beginning. */

/* Has the header's list this word, with or without an argument? */
static bool list_has(aiq_str list, const char *word)
{
    size_t len = strlen(word);

    while (list.len) {
        const char *comma = memchr(list.data, ',', list.len);
        size_t n = comma ? (size_t)(comma - list.data) : list.len;
        const char *item = list.data, *end = item + n;
        while (item < end && (*item == ' ' || *item == '\t')) {
            item++;
        }
        if ((size_t)(end - item) >= len && strncasecmp(item, word, len) == 0 &&
            (item + len == end || item[len] == ' ' || item[len] == '\t' || item[len] == '=')) {
            return true;
        }
        n += comma != NULL;
        list.data += n;
        list.len -= n;
    }
    return false;
}

static bool asks_for(const aiq_job *job, const char *word)
{
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, "cache-control") &&
            list_has(job->headers[i].value, word)) {
            return true;
        }
    }
    return false;
}

static void decide(cached *k, const char *word, cache_count count)
{
    k->word = word;
    cache_counts(k->cache, count);
}

static void miss(cached *k)
{
    decide(k, "MISS", CACHE_COUNT_MISS);
    k->keeps = true;
}

static void on_told(void *arg, lru_entry *entry)
{
    cached *k = arg;

    loop_timer_stop(k->job->loop, &k->wait);
    k->entry = entry;
    if (entry) {
        k->ticket = NULL;
        decide(k, "HIT", CACHE_COUNT_HIT);
    } else {
        miss(k);
    }
    k->ready(k->job);
}

static void on_waited_long(aiq_loop *loop, void *arg)
{
    cached *k = arg;

    (void)loop;
    cache_leave(k->ticket);
    k->ticket = NULL;
    miss(k);
    k->ready(k->job);
}

cached_way cached_begin(cached *k, aiq_job *job, const policy_model *model,
                        const chat_request *chat, void (*ready)(aiq_job *job))
{
    uint32_t ttl_ms = job->location->cache_ttl_ms;

    if (ttl_ms == 0) {
        return CACHED_CALL;
    }
    k->job = job;
    k->cache = job->loop->engine->cache;
    k->ready = ready;
    if (asks_for(job, "no-store")) {
        decide(k, "BYPASS", CACHE_COUNT_BYPASS);
        return CACHED_CALL;
    }
    make_key(k->key, job, model, chat);
    if (asks_for(job, "no-cache")) {
        decide(k, "BYPASS", CACHE_COUNT_BYPASS);
        k->keeps = true;
        return CACHED_CALL;
    }
    switch (cache_ask(k->cache, job->loop, k->key, ttl_ms, on_told, k, &k->ticket, &k->entry)) {
    case CACHE_HIT:
        decide(k, "HIT", CACHE_COUNT_HIT);
        return CACHED_HIT;
    case CACHE_WAITS:
        loop_timer_start(job->loop, &k->wait, CACHED_WAIT_MS, on_waited_long, k);
        return CACHED_WAITS;
    default:
        miss(k);
        return CACHED_CALL;
    }
}

/* A hit. */

bool cached_send(cached *k)
{
    size_t sent = job_write(k->job, k->left.data, k->left.len, true);

    k->left.data += sent;
    k->left.len -= sent;
    return k->left.len == 0;
}

void cached_reply(cached *k, const char *model)
{
    const char *end = (const char *)k->entry->data + k->entry->len;
    entry_tail tail;
    char age[24];

    memcpy(&tail, end - sizeof(tail), sizeof(tail));
    aiq_str target = {end - sizeof(tail) - tail.model_len, tail.model_len};
    aiq_str provider = {target.data - tail.provider_len, tail.provider_len};
    k->left.data = (const char *)k->entry->data;
    k->left.len = (size_t)(provider.data - k->left.data);
    int n =
        snprintf(age, sizeof(age), "%llu", (unsigned long long)(cache_age_ms(k->entry) / 1000));
    const job_header headers[] = {
        {AIQ_STR("x-aiq-cache"), AIQ_STR("HIT")},        {AIQ_STR("age"), {age, (size_t)n}},
        {AIQ_STR("x-aiq-provider"), provider},           {AIQ_STR("x-aiq-model"), target},
        {AIQ_STR("x-aiq-cost"), AIQ_STR("0.000000000")},
    };
    const job_reply reply = {
        .status = 200,
        .content_type = tail.stream ? "text/event-stream" : "application/json",
        .content_length = tail.stream ? -1 : (int64_t)k->left.len,
        .stream = tail.stream,
        .headers = headers,
        .n_headers = sizeof(headers) / sizeof(headers[0]),
        .model = model,
        .provider = aiq_pool_copy(k->job->pool, provider.data, provider.len),
    };
    const aiq_usage usage = {.first_token_us =
                                 (int64_t)((loop_now_ns() - k->job->started_ns) / 1000)};

    job_head(k->job, &reply);
    job_usage(k->job, &usage);
}

/* An answer to keep. */

void cached_keep(cached *k, const uint8_t *data, size_t n)
{
    if (!k->keeps) {
        return;
    }
    if (k->kept.len + n > CACHED_MAX) {
        cached_drop(k);
        return;
    }
    aiq_buf_add(&k->kept, data, n);
}

void cached_done(cached *k, const policy_target *target, bool stream)
{
    const char *provider = target->provider->name;
    const entry_tail tail = {.stream = stream,
                             .provider_len = (uint16_t)strlen(provider),
                             .model_len = (uint16_t)strlen(target->model)};

    if (!k->keeps) {
        return;
    }
    aiq_buf_add(&k->kept, provider, tail.provider_len);
    aiq_buf_add(&k->kept, target->model, tail.model_len);
    aiq_buf_add(&k->kept, &tail, sizeof(tail));
    if (k->ticket) {
        cache_settle(k->ticket, k->kept.data, k->kept.len, k->job->location->cache_ttl_ms);
        k->ticket = NULL;
    } else {
        cache_put(k->cache, k->key, k->kept.data, k->kept.len, k->job->location->cache_ttl_ms);
    }
    cached_drop(k);
}

/* The end. */

void cached_drop(cached *k)
{
    k->keeps = false;
    aiq_buf_free(&k->kept);
    if (k->ticket) {
        loop_timer_stop(k->job->loop, &k->wait);
        cache_leave(k->ticket);
        k->ticket = NULL;
    }
}

void cached_free(cached *k)
{
    cached_drop(k);
    if (k->entry) {
        lru_entry_unref(k->entry);
    }
}
