#include "services/gateway/cached.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "cache/entry.h"
#include "cache/envelope.h"
#include "core/log.h"
#include "engine.h"
#include "services/gateway/cached_key.h"

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

/* What is like it. */

static void settle_miss(cached *k)
{
    miss(k);
    k->ready(k->job);
}

static void on_like(void *arg, const semantic_hit *hit)
{
    cached *k = arg;

    k->like = NULL;
    loop_timer_stop(k->job->loop, &k->wait);
    if (hit->answer == NULL) {
        cache_counts(k->cache, CACHE_COUNT_SEMANTIC_MISS);
        settle_miss(k);
        return;
    }
    k->near = *hit;
    k->entry = hit->answer;
    cache_leave(k->ticket); /* for the others it is their own question */
    k->ticket = NULL;
    cache_counts(k->cache, CACHE_COUNT_SEMANTIC_HIT);
    decide(k, "SEMANTIC", CACHE_COUNT_MISS);
    k->ready(k->job);
}

static void stop_looking(cached *k)
{
    if (k->making) {
        similar_cancel(k->making);
    }
    if (k->like) {
        semantic_cancel(k->like);
    }
    k->making = NULL;
    k->like = NULL;
}

static void on_like_late(aiq_loop *loop, void *arg)
{
    cached *k = arg;

    (void)loop;
    stop_looking(k);
    settle_miss(k);
}

/* Of a request that does not wait for it, and may be over first. */
typedef struct {
    cache *cache;
    char request_id[65];
} trial;

static void on_trial(void *arg, const semantic_hit *hit)
{
    trial *t = arg;
    char id[SEMANTIC_ID_SIZE];

    cache_counts(t->cache, hit->answer ? CACHE_COUNT_DRY_RUN_HIT : CACHE_COUNT_DRY_RUN_MISS);
    if (hit->answer) {
        semantic_write_id(id, hit->id);
        aiq_log(AIQ_LOG_INFO, "gateway", "the semantic cache would have answered",
                AIQ_S("request_id", t->request_id), AIQ_S("entry", id),
                AIQ_R("similarity", hit->similarity));
        lru_entry_unref(hit->answer);
    }
    free(t);
}

static void try_only(const cached *k, semantic *s, double threshold)
{
    trial *t = aiq_zalloc(sizeof(*t));
    aiq_str id = k->job->request_id;

    t->cache = k->cache;
    memcpy(t->request_id, id.data, id.len < 64 ? id.len : 64);
    if (semantic_ask(s, k->job->loop, k->question, threshold, k->job->location->cache_ttl_ms,
                     on_trial, t) == NULL) {
        free(t);
    }
}

/* False: nobody looks. */
static bool ask_like(cached *k)
{
    const policy_semantic *rules = k->job->location->semantic;
    semantic *s = k->job->loop->engine->semantic;
    double threshold = (double)rules->threshold / POLICY_COSINE;

    if (!semantic_question_ready(k->question)) {
        return false;
    }
    if (rules->dry_run) {
        try_only(k, s, threshold);
        return false;
    }
    k->like = semantic_ask(s, k->job->loop, k->question, threshold,
                           k->job->location->cache_ttl_ms, on_like, k);
    return k->like != NULL;
}

static void on_made(void *arg)
{
    cached *k = arg;

    k->making = NULL;
    if (!ask_like(k) && !k->job->location->semantic->dry_run) {
        loop_timer_stop(k->job->loop, &k->wait);
        settle_miss(k);
    }
}

/* Of a request that gets no answer from here, but leaves one. */
static void on_made_to_keep(void *arg)
{
    ((cached *)arg)->making = NULL;
}

/* False: it does not wait. Before it goes out, and only where it leads. */
static bool look_for_like(cached *k)
{
    if (k->question == NULL) {
        return false;
    }
    k->making = similar_make(k->job, k->question, on_made, k);
    if ((k->making == NULL && !ask_like(k)) || k->job->location->semantic->dry_run) {
        return false;
    }
    loop_timer_start(k->job->loop, &k->wait, CACHED_LIKE_MS, on_like_late, k);
    return true;
}

static void on_told(void *arg, lru_entry *entry)
{
    cached *k = arg;

    loop_timer_stop(k->job->loop, &k->wait);
    k->entry = entry;
    if (entry) {
        k->ticket = NULL;
        decide(k, "HIT", CACHE_COUNT_HIT);
        k->ready(k->job);
    } else if (!look_for_like(k)) {
        settle_miss(k);
    }
}

static void on_waited_long(aiq_loop *loop, void *arg)
{
    cached *k = arg;

    (void)loop;
    cache_leave(k->ticket);
    k->ticket = NULL;
    settle_miss(k);
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
        k->ready(k->job);
        return;
    }
    cache_counts(k->cache, CACHE_COUNT_REDIS_MISS);
    if (!look_for_like(k)) {
        settle_miss(k);
    }
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
    cached_key(k->key, job, model, chat, (aiq_str){0});
    if (job->location->semantic && job->loop->engine->semantic) {
        k->question = similar_question(job, model, chat);
    }
    if (asks_for(job, "no-cache")) {
        decide(k, "BYPASS", CACHE_COUNT_BYPASS);
        k->keeps = true;
        k->making = k->question ? similar_make(job, k->question, on_made_to_keep, k) : NULL;
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
        if (look_into_redis(k) || look_for_like(k)) {
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
    char age[24], id[SEMANTIC_ID_SIZE], similarity[16];

    entry_read(k->entry->data, k->entry->len, &parts); /* it was one when it was kept */
    k->left = parts.body;
    int n =
        snprintf(age, sizeof(age), "%llu", (unsigned long long)(cache_age_ms(k->entry) / 1000));
    job_header headers[7] = {
        {AIQ_STR("x-aiq-cache"), {k->job->cache, strlen(k->job->cache)}},
        {AIQ_STR("age"), {age, (size_t)n}},
        {AIQ_STR("x-aiq-provider"), parts.provider},
        {AIQ_STR("x-aiq-model"), parts.model},
        {AIQ_STR("x-aiq-cost"), AIQ_STR("0.000000000")},
    };
    size_t n_headers = 5;
    if (k->near.id) {
        semantic_write_id(id, k->near.id);
        n = snprintf(similarity, sizeof(similarity), "%.4f", k->near.similarity);
        headers[n_headers++] =
            (job_header){AIQ_STR("x-aiq-cache-entry"), {id, SEMANTIC_ID_SIZE - 1}};
        headers[n_headers++] =
            (job_header){AIQ_STR("x-aiq-cache-similarity"), {similarity, (size_t)n}};
    }
    const job_reply reply = {
        .status = 200,
        .content_type = parts.stream ? "text/event-stream" : "application/json",
        .content_length = parts.stream ? -1 : (int64_t)k->left.len,
        .stream = parts.stream,
        .headers = headers,
        .n_headers = n_headers,
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
    if (k->question && semantic_question_ready(k->question)) {
        semantic_put(k->job->loop->engine->semantic, k->question, answer,
                     k->job->location->cache_ttl_ms);
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
    stop_looking(k);
    if (k->ticket) {
        loop_timer_stop(k->job->loop, &k->wait);
        cache_leave(k->ticket);
        k->ticket = NULL;
    }
}

void cached_free(cached *k)
{
    cached_drop(k);
    if (k->question) {
        semantic_question_unref(k->question);
    }
    if (k->entry) {
        lru_entry_unref(k->entry);
    }
}
