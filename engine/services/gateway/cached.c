#include "services/gateway/cached.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "cache/entry.h"
#include "cache/envelope.h"
#include "engine.h"
#include "services/service.h"

/* The key. Each part has its length before it, and what may be missing comes last, so no
 * two requests look the same. */

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
    add_number(hash, job->n_budgets > 0); /* which may cap the answer */
    add_model(hash, model);
    add_model(hash, model->context_fallback);
    add_model(hash, model->content_fallback);
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, "x-aiq-priority")) {
            add(hash, job->headers[i].value.data, job->headers[i].value.len);
        }
    }
    EVP_DigestFinal_ex(hash, key, NULL);
    EVP_MD_CTX_free(hash);
}

/* What the request and its answer come to. */

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
    k->job->cache = word;
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

/* Redis. */

#define REDIS_NAME_LEN (sizeof("aiq:cache:") - 1 + 2 * LRU_KEY)

static aiq_str redis_name(const cached *k, char name[REDIS_NAME_LEN + 1])
{
    int n = snprintf(name, REDIS_NAME_LEN + 1, "aiq:cache:");

    for (int i = 0; i < LRU_KEY; i++) {
        n += snprintf(name + n, 3, "%02x", k->key[i]);
    }
    return (aiq_str){name, (size_t)n};
}

static int64_t unix_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static lru_entry *entry_of(const cached *k, const redisReply *reply)
{
    uint64_t ttl_ms = k->job->location->cache_ttl_ms;
    cache_entry parts;
    int64_t stored_ms;
    aiq_str data;

    if (reply == NULL || reply->type != REDIS_REPLY_STRING ||
        !envelope_read((aiq_str){reply->str, reply->len}, k->key, &stored_ms, &data) ||
        !entry_read(data.data, data.len, &parts)) {
        return NULL;
    }
    int64_t now = unix_ms(); /* another machine's clock may be ahead */
    uint64_t age_ms = stored_ms < now ? (uint64_t)now - (uint64_t)stored_ms : 0;
    return age_ms < ttl_ms ? cache_answer_new(k->key, data.data, data.len, age_ms, ttl_ms)
                           : NULL;
}

static void on_looked(void *arg, const redisReply *reply)
{
    cached *k = arg;

    k->entry = entry_of(k, reply);
    if (k->entry) {
        cache_settle(k->ticket, k->entry);
        k->ticket = NULL;
        cache_counts(k->cache, CACHE_COUNT_REDIS_HIT);
        decide(k, "HIT", CACHE_COUNT_MISS);
    } else {
        cache_counts(k->cache, CACHE_COUNT_REDIS_MISS);
        miss(k);
    }
    k->ready(k->job);
}

/* False: there is none, or not now. */
static bool look_into_redis(cached *k)
{
    redis *r = k->job->loop->engine->redis;
    char name[REDIS_NAME_LEN + 1];
    const aiq_str words[] = {AIQ_STR("GET"), redis_name(k, name)};

    return r && redis_ask(r, k->job->loop, &k->look, words, 2, on_looked, k);
}

static void put_into_redis(const cached *k)
{
    redis *r = k->job->loop->engine->redis;
    char name[REDIS_NAME_LEN + 1], ttl[12];
    aiq_buf value = {0};

    if (r == NULL) {
        return;
    }
    int n = snprintf(ttl, sizeof(ttl), "%u", k->job->location->cache_ttl_ms);
    envelope_write(&value, k->key, unix_ms(), k->kept.data, k->kept.len);
    const aiq_str words[] = {AIQ_STR("SET"),
                             redis_name(k, name),
                             {(char *)value.data, value.len},
                             AIQ_STR("PX"),
                             {ttl, (size_t)n}};
    redis_tell(r, k->job->loop, words, 5);
    aiq_buf_free(&value);
}

/* The beginning. */

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
    case CACHE_LEADS:
        if (look_into_redis(k)) {
            return CACHED_WAITS;
        }
        break;
    case CACHE_ALONE:
        break;
    }
    miss(k);
    return CACHED_CALL;
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
    cache_entry parts = {0};
    char age[24];

    entry_read(k->entry->data, k->entry->len, &parts); /* it was one when it was kept */
    k->left = parts.body;
    int n =
        snprintf(age, sizeof(age), "%llu", (unsigned long long)(cache_age_ms(k->entry) / 1000));
    const job_header headers[] = {
        {AIQ_STR("x-aiq-cache"), AIQ_STR("HIT")},        {AIQ_STR("age"), {age, (size_t)n}},
        {AIQ_STR("x-aiq-provider"), parts.provider},     {AIQ_STR("x-aiq-model"), parts.model},
        {AIQ_STR("x-aiq-cost"), AIQ_STR("0.000000000")},
    };
    const job_reply reply = {
        .status = 200,
        .content_type = parts.stream ? "text/event-stream" : "application/json",
        .content_length = parts.stream ? -1 : (int64_t)k->left.len,
        .stream = parts.stream,
        .headers = headers,
        .n_headers = sizeof(headers) / sizeof(headers[0]),
        .model = model,
        .provider = aiq_pool_copy(k->job->pool, parts.provider.data, parts.provider.len),
    };
    const aiq_usage usage = {.first_token_us =
                                 (int64_t)((loop_now_ns() - k->job->started_ns) / 1000)};

    if (!k->job->head_sent) { /* with a keep-alive, while it waited */
        job_head(k->job, &reply);
    }
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
    if (!k->keeps) {
        return;
    }
    entry_finish(&k->kept, target->provider->name, target->model, stream);
    lru_entry *answer =
        cache_answer_new(k->key, k->kept.data, k->kept.len, 0, k->job->location->cache_ttl_ms);
    if (k->ticket) {
        cache_settle(k->ticket, answer);
        k->ticket = NULL;
    } else {
        cache_put(k->cache, answer);
    }
    lru_entry_unref(answer);
    put_into_redis(k);
    cached_drop(k);
}

/* The end. */

void cached_drop(cached *k)
{
    k->keeps = false;
    aiq_buf_free(&k->kept);
    redis_cancel(&k->look);
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
