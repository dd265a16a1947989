#include "limits/rates.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "engine.h"
#include "rates_lua.h" /* made by the build: rates_lua[], the script */

/* Of a zone's name; what is longer is cut, in every engine alike. */
#define ZONE_MAX   128
#define WINDOW_MAX (sizeof("{aiq:limit}:::") + ZONE_MAX + 10 + 2 * AIQ_LIMIT_KEY)
#define RULE_MAX   64

struct rates {
    script *script;
    bool told; /* atomic: that there is no Redis */
    metric *answered, *unanswered;
};

rates *rates_new(aiq_engine *engine)
{
    rates *r = aiq_zalloc(sizeof(*r));
    metric_family *asked = metrics_family(
        engine->metrics, METRIC_COUNTER, "aiq_shared_limit_questions_total",
        "Requests that limits shared in Redis were asked about.", "result", NULL);

    r->script = script_new(engine, rates_lua, sizeof(rates_lua) - 1);
    r->answered = metrics_sample(asked, (const char *[]){"answered"});
    r->unanswered = metrics_sample(asked, (const char *[]){"unanswered"});
    return r;
}

void rates_free(rates *r)
{
    if (r) {
        script_free(r->script);
        free(r);
    }
}

static bool counts(const uint8_t *key)
{
    static const uint8_t none[AIQ_LIMIT_KEY];

    return memcmp(key, none, AIQ_LIMIT_KEY) != 0;
}

static aiq_str window_name(char text[WINDOW_MAX], const policy_rate *rule, const uint8_t *key)
{
    int n = snprintf(text, WINDOW_MAX, "{aiq:limit}:%.*s:%u:", ZONE_MAX, rule->zone,
                     rule->window_ms);

    for (int i = 0; i < AIQ_LIMIT_KEY; i++) {
        n += snprintf(text + n, WINDOW_MAX - (size_t)n, "%02x", key[i]);
    }
    return (aiq_str){text, (size_t)n};
}

static aiq_str rule_text(char text[RULE_MAX], const policy_rate *rule)
{
    int n = snprintf(text, RULE_MAX, "%u %u %u %u %d", rule->requests, rule->window_ms,
                     rule->grain_ms, rule->burst, rule->dry_run);

    return (aiq_str){text, (size_t)n};
}

static void on_answer(void *arg, const redisReply *reply);

static bool send_question(rates_question *q)
{
    char names[POLICY_RATES][WINDOW_MAX], rules[POLICY_RATES][RULE_MAX], n_keys[8];
    aiq_str words[3 + 2 * POLICY_RATES];
    unsigned n = 0;

    for (size_t i = 0; i < q->n; i++) {
        if (counts(q->keys + i * AIQ_LIMIT_KEY)) {
            words[3 + n] = window_name(names[n], &q->rules[i], q->keys + i * AIQ_LIMIT_KEY);
            n++;
        }
    }
    for (size_t i = 0, rule = 0; i < q->n; i++) {
        if (counts(q->keys + i * AIQ_LIMIT_KEY)) {
            words[3 + n + rule] = rule_text(rules[rule], &q->rules[i]);
            rule++;
        }
    }
    script_words(&q->run, words);
    words[2] = (aiq_str){n_keys, (size_t)snprintf(n_keys, sizeof(n_keys), "%u", n)};
    return redis_ask(q->run.loop->engine->redis, q->run.loop, &q->run.call, words, 3 + 2 * n,
                     on_answer, q);
}

/* A number of the answer; what cannot be one makes the whole answer none. */
static bool number(const redisReply *reply, size_t i, int64_t max, uint32_t *out)
{
    const redisReply *element = reply->element[i];

    if (element->type != REDIS_REPLY_INTEGER || element->integer < 0 ||
        element->integer > max) {
        return false;
    }
    *out = (uint32_t)element->integer;
    return true;
}

static bool read_answer(const rates_question *q, const redisReply *reply, rates_answer *answer)
{
    uint32_t refused;
    size_t at = 2;

    *answer = (rates_answer){0};
    for (size_t i = 0; i < q->n; i++) {
        at += counts(q->keys + i * AIQ_LIMIT_KEY) ? 4 : 0;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != at ||
        !number(reply, 0, AIQ_WAIT_MAX_MS, &answer->wait_ms) ||
        !number(reply, 1, 1, &refused)) {
        return false;
    }
    answer->refused = refused;
    at = 2;
    for (size_t i = 0; i < q->n; i++) {
        aiq_rate *rate = &answer->rates[i];
        if (!counts(q->keys + i * AIQ_LIMIT_KEY)) {
            continue;
        }
        if (!number(reply, at, UINT32_MAX, &rate->remaining) ||
            !number(reply, at + 1, AIQ_WAIT_MAX_MS, &rate->reset_ms) ||
            !number(reply, at + 2, AIQ_WAIT_MAX_MS, &rate->wait_ms) ||
            !number(reply, at + 3, 1, &rate->refused)) {
            return false;
        }
        at += 4;
    }
    return true;
}

static void on_answer(void *arg, const redisReply *reply)
{
    rates_question *q = arg;
    rates *r = q->run.loop->engine->rates;
    rates_answer answer;

    if (script_forgotten(&q->run, reply) && send_question(q)) {
        return;
    }
    bool readable = reply && read_answer(q, reply, &answer);
    metric_add(readable ? r->answered : r->unanswered, 1);
    q->fn(q->arg, readable ? &answer : NULL);
}

static bool has_redis(const aiq_engine *engine)
{
    if (engine->redis == NULL && engine->rates &&
        !__atomic_exchange_n(&engine->rates->told, true, __ATOMIC_RELAXED)) {
        aiq_log(AIQ_LOG_WARN, "limits",
                "limits are shared, but there is no --redis: each nginx counts for itself");
    }
    return engine->redis && engine->rates;
}

bool rates_ask(rates_question *q, aiq_loop *loop, const policy_rate *rules, size_t n,
               const uint8_t *keys, void (*fn)(void *arg, const rates_answer *answer),
               void *arg)
{
    *q = (rates_question){.rules = rules, .n = n, .keys = keys, .fn = fn, .arg = arg};
    if (!has_redis(loop->engine)) {
        return false;
    }
    script_begin(&q->run, loop->engine->rates->script, loop);
    bool sent = send_question(q);
    if (!sent) {
        metric_add(loop->engine->rates->unanswered, 1);
    }
    return sent;
}

void rates_cancel(rates_question *q)
{
    redis_cancel(&q->run.call);
}
