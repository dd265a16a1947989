#include "limits/shared_tokens.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include "core/log.h"
#include "engine.h"
#include "tokens_lua.h" /* made by the build: tokens_lua[], the script */

#define RENEW_MS  (SHARED_LEASE_MS / 3)
#define TELL_MS   1000 /* between tries */
#define BUCKETS   1024
#define STEPS     60  /* of a window, as in tokens.lua */
#define ZONE_MAX  128 /* of a zone's name; what is longer is cut, in every engine alike */
#define KEY_MAX   (sizeof("{aiq:limit}:tokens::::leases") + ZONE_MAX + 10 + 2 * AIQ_LIMIT_KEY)
#define RULE_MAX  64
#define PARTS     3 /* keys of a window */
#define ARGUMENTS 4 /* before those of windows */
#define WORDS     (3 + ARGUMENTS + (PARTS + 1) * POLICY_LIMITS)

/* What Redis' numbers take: its scripts count in doubles. */
#define MOST (1LL << 53)

_Static_assert(WORDS <= REDIS_WORDS, "a command has room for all limits of a request");

/* What is told until Redis has it: that a request has ended, and what it used. Where Redis
 * never heard of the request, all that matters is what its key has used in a step of a window:
 * that is one sum for many requests. */
typedef struct telling {
    TAILQ_ENTRY(telling) link;
    LIST_ENTRY(telling) sum; /* in its bucket, if it is one */
    script_run run;
    shared_tokens *shared;
    loop_timer again;
    uint64_t began_ns;
    uint64_t sent_ns;  /* first; 0: never */
    uint64_t requests; /* one, or those that make the sum */
    int64_t used;
    char id[AIQ_ID_SIZE];
    uint8_t keys[POLICY_LIMITS][AIQ_LIMIT_KEY];
    policy_limit rules[POLICY_LIMITS];
    char zones[POLICY_LIMITS][ZONE_MAX + 1]; /* a policy may go before it is told */
    size_t n;
} telling;

LIST_HEAD(telling_sums, telling);

typedef struct {
    TAILQ_HEAD(telling_list, telling) tellings;
    struct telling_sums sums[BUCKETS]; /* by the first bytes of their keys, which are digests */
    size_t n;
    loop_hook exit;
    bool begun;
} tellings;

struct shared_tokens {
    script *script;
    metric *answered, *unanswered, *untold;
    bool told; /* atomic: that there is no Redis */
    tellings loops[];
};

shared_tokens *shared_tokens_new(aiq_engine *engine)
{
    size_t loops = engine->options.loops;
    shared_tokens *s = aiq_zalloc(sizeof(*s) + loops * sizeof(s->loops[0]));
    metric_family *asked = metrics_family(
        engine->metrics, METRIC_COUNTER, "aiq_shared_token_questions_total",
        "Requests that limits of tokens shared in Redis were asked about.", "result", NULL);

    s->script = script_new(engine, tokens_lua, sizeof(tokens_lua) - 1);
    s->answered = metrics_sample(asked, (const char *[]){"answered"});
    s->unanswered = metrics_sample(asked, (const char *[]){"unanswered"});
    s->untold = metrics_sample(
        metrics_family(engine->metrics, METRIC_COUNTER, "aiq_shared_token_lost_total",
                       "Requests, in a window each, whose tokens Redis could not be told.", "",
                       NULL),
        NULL);
    for (size_t i = 0; i < loops; i++) {
        TAILQ_INIT(&s->loops[i].tellings);
    }
    return s;
}

void shared_tokens_free(shared_tokens *s)
{
    if (s) {
        script_free(s->script);
        free(s);
    }
}

/* A command. */

static size_t write_key(char text[KEY_MAX], const policy_limit *rule, const uint8_t *key,
                        const char *part)
{
    int n = snprintf(text, KEY_MAX, "{aiq:limit}:tokens:%.*s:%u:", ZONE_MAX, rule->zone,
                     rule->window_ms);

    for (int i = 0; i < AIQ_LIMIT_KEY; i++) {
        n += snprintf(text + n, KEY_MAX - (size_t)n, "%02x", key[i]);
    }
    n += snprintf(text + n, KEY_MAX - (size_t)n, ":%s", part);
    return (size_t)n;
}

/* What is common to all: the request's windows, its id, its tokens. */
typedef struct {
    const char *verb, *id;
    const policy_limit *rules;
    size_t n;
    const uint8_t *keys;
    uint64_t age_ms;
    int64_t tokens;
} command;

typedef struct {
    char keys[PARTS * POLICY_LIMITS][KEY_MAX], rules[POLICY_LIMITS][RULE_MAX];
    char numbers[3][24];
    aiq_str words[WORDS];
} command_text;

static aiq_str number_text(char text[24], uint64_t number)
{
    return (aiq_str){text, (size_t)snprintf(text, 24, "%llu", (unsigned long long)number)};
}

static int64_t bounded(int64_t n)
{
    return n < 0 ? 0 : n < MOST ? n : MOST;
}

/* The number of words. */
static unsigned write_command(command_text *t, const script_run *run, const command *c)
{
    static const char *const parts[PARTS] = {"slots", "holds", "leases"};
    aiq_str *word = t->words + 2;

    script_words(run, t->words);
    *word++ = number_text(t->numbers[0], PARTS * c->n);
    for (size_t i = 0; i < PARTS * c->n; i++) {
        const uint8_t *key = c->keys + i / PARTS * AIQ_LIMIT_KEY;
        size_t len = write_key(t->keys[i], &c->rules[i / PARTS], key, parts[i % PARTS]);
        *word++ = (aiq_str){t->keys[i], len};
    }
    *word++ = (aiq_str){c->verb, strlen(c->verb)};
    *word++ = (aiq_str){c->id, strlen(c->id)};
    *word++ = number_text(t->numbers[1], SHARED_LEASE_MS);
    *word++ = number_text(t->numbers[2], c->age_ms);
    for (size_t i = 0; i < c->n; i++) {
        int n = snprintf(t->rules[i], RULE_MAX, "%lld %u %lld",
                         (long long)bounded(c->rules[i].tokens), c->rules[i].window_ms,
                         (long long)bounded(c->tokens));
        *word++ = (aiq_str){t->rules[i], (size_t)n};
    }
    return (unsigned)(word - t->words);
}

static bool send_command(script_run *run, const command *c,
                         void (*fn)(void *arg, const redisReply *reply), void *arg)
{
    command_text text;
    unsigned n = write_command(&text, run, c);

    return redis_ask(run->loop->engine->redis, run->loop, &run->call, text.words, n, fn, arg);
}

/* Holding. */

static void on_renewal(aiq_loop *loop, void *arg)
{
    shared_hold *h = arg;
    command_text text;
    const command renew = {"renew", h->id, h->rules, h->n, h->keys, 0, 0};

    script_begin(&h->run, h->shared->script, loop);
    unsigned n = write_command(&text, &h->run, &renew);
    redis_tell(loop->engine->redis, loop, text.words, n);
    loop_timer_start(loop, &h->renewal, RENEW_MS, on_renewal, h);
}

/* What leaves its window before its lease ends needs no renewal. */
static void renew(shared_hold *h)
{
    bool lasts = false;

    for (size_t i = 0; i < h->n; i++) {
        lasts |= h->rules[i].window_ms > SHARED_LEASE_MS / 2;
    }
    if (lasts) {
        loop_timer_start(h->run.loop, &h->renewal, RENEW_MS, on_renewal, h);
    }
}

static bool number_at(const redisReply *reply, size_t i, int64_t max, int64_t *out)
{
    const redisReply *element = reply->element[i];

    *out = element->integer;
    return element->type == REDIS_REPLY_INTEGER && *out >= 0 && *out <= max;
}

/* False: it is none. */
static bool read_answer(const shared_hold *h, const redisReply *reply, shared_answer *answer)
{
    int64_t wait, by, left, reset;

    *answer = (shared_answer){0};
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 + 2 * h->n ||
        !number_at(reply, 0, AIQ_WAIT_MAX_MS, &wait) ||
        !number_at(reply, 1, (int64_t)h->n, &by) || (wait == 0) != (by == 0)) {
        return false;
    }
    answer->wait_ms = (uint64_t)wait;
    answer->rule = by ? &h->rules[by - 1] : NULL;
    for (size_t i = 0; i < h->n; i++) {
        if (!number_at(reply, 2 + 2 * i, h->rules[i].tokens, &left) ||
            !number_at(reply, 3 + 2 * i, AIQ_WAIT_MAX_MS, &reset)) {
            return false;
        }
        if (answer->limit == 0 || left < answer->remaining) {
            answer->limit = h->rules[i].tokens;
            answer->remaining = left;
            answer->reset_ms = reset;
        }
    }
    return true;
}

static bool ask(shared_hold *h);

static void on_held(void *arg, const redisReply *reply)
{
    shared_hold *h = arg;
    shared_answer answer;

    if (script_forgotten(&h->run, reply) && ask(h)) {
        return;
    }
    bool readable = reply && read_answer(h, reply, &answer);
    metric_add(readable ? h->shared->answered : h->shared->unanswered, 1);
    if (readable && answer.wait_ms == 0) {
        renew(h);
    } else if (readable) {
        h->shared = NULL; /* there is nothing to settle */
    }
    h->fn(h->arg, readable ? &answer : NULL);
}

static bool ask(shared_hold *h)
{
    const command hold = {"hold", h->id, h->rules, h->n, h->keys, 0, h->tokens};

    return send_command(&h->run, &hold, on_held, h);
}

static bool has_redis(const aiq_engine *engine)
{
    if (engine->redis == NULL && engine->shared_tokens &&
        !__atomic_exchange_n(&engine->shared_tokens->told, true, __ATOMIC_RELAXED)) {
        aiq_log(AIQ_LOG_WARN, "limits",
                "limits of tokens are shared, but there is no --redis: each engine counts for "
                "itself");
    }
    return engine->redis && engine->shared_tokens;
}

bool shared_tokens_hold(shared_hold *h, aiq_loop *loop, const policy_limit *rules, size_t n,
                        const uint8_t *keys, int64_t tokens,
                        void (*fn)(void *arg, const shared_answer *answer), void *arg)
{
    *h = (shared_hold){.rules = rules,
                       .n = n,
                       .keys = keys,
                       .tokens = tokens,
                       .began_ns = loop_now_ns(),
                       .fn = fn,
                       .arg = arg};
    if (!has_redis(loop->engine)) {
        return false;
    }
    h->shared = loop->engine->shared_tokens;
    aiq_id(h->id, "");
    script_begin(&h->run, h->shared->script, loop);
    h->asked = ask(h);
    if (!h->asked) {
        metric_add(h->shared->unanswered, 1);
    }
    return h->asked;
}

/* Telling. */

static void end_telling(telling *t)
{
    tellings *all = &t->shared->loops[t->run.loop->index];

    loop_timer_stop(t->run.loop, &t->again);
    redis_cancel(&t->run.call);
    TAILQ_REMOVE(&all->tellings, t, link);
    if (t->sum.le_prev) {
        LIST_REMOVE(t, sum);
    }
    all->n--;
    free(t);
}

static void on_exit_loop(aiq_loop *loop, void *arg)
{
    shared_tokens *s = arg;

    while (!TAILQ_EMPTY(&s->loops[loop->index].tellings)) {
        end_telling(TAILQ_FIRST(&s->loops[loop->index].tellings));
    }
}

static void on_again(aiq_loop *loop, void *arg);

/* In ns: how long what is used counts, and a step of that. */

static uint64_t window_ns(const policy_limit *rule)
{
    return rule->window_ms * 1000000ull;
}

static uint64_t step_of(const policy_limit *rule, uint64_t time_ns)
{
    return time_ns / (window_ns(rule) / STEPS);
}

/* What was on its way may have come, and that is known for a while only; what was not is to be
 * told while it counts. */
static bool is_over(const telling *t)
{
    uint64_t now = loop_now_ns(), longest = 0;

    for (size_t i = 0; i < t->n; i++) {
        longest = window_ns(&t->rules[i]) > longest ? window_ns(&t->rules[i]) : longest;
    }
    return t->sent_ns ? now - t->sent_ns > SHARED_TELL_MS * 1000000ull
                      : now - t->began_ns > longest + longest / STEPS;
}

static void tell_later(telling *t)
{
    if (!is_over(t)) {
        loop_timer_start(t->run.loop, &t->again, TELL_MS, on_again, t);
        return;
    }
    if (t->sent_ns) {
        metric_add(t->shared->untold, (int64_t)(t->requests * t->n));
    }
    end_telling(t);
}

static bool tell(telling *t);

static void on_told(void *arg, const redisReply *reply)
{
    telling *t = arg;

    if (script_forgotten(&t->run, reply) && tell(t)) {
        return;
    }
    if (reply) {
        end_telling(t);
    } else {
        tell_later(t);
    }
}

static bool tell(telling *t)
{
    const command settle = {"settle", t->id,      t->rules,
                            t->n,     t->keys[0], (loop_now_ns() - t->began_ns) / 1000000,
                            t->used};
    bool sent = send_command(&t->run, &settle, on_told, t);

    t->sent_ns = sent && t->sent_ns == 0 ? loop_now_ns() : t->sent_ns;
    return sent;
}

static void on_again(aiq_loop *loop, void *arg)
{
    telling *t = arg;

    script_begin(&t->run, t->shared->script, loop);
    if (!tell(t)) {
        tell_later(t);
    }
}

/* NULL: there are too many. Of n windows of the hold from this one on. */
static telling *telling_new(shared_tokens *s, const shared_hold *h, size_t from, size_t n)
{
    tellings *all = &s->loops[h->run.loop->index];

    if (all->n == SHARED_TELLING) {
        metric_add(s->untold, (int64_t)n);
        return NULL;
    }
    telling *t = aiq_zalloc(sizeof(*t));
    t->shared = s;
    t->began_ns = h->began_ns;
    t->n = n;
    memcpy(t->keys, h->keys + from * AIQ_LIMIT_KEY, n * AIQ_LIMIT_KEY);
    for (size_t i = 0; i < n; i++) {
        snprintf(t->zones[i], sizeof(t->zones[i]), "%s", h->rules[from + i].zone);
        t->rules[i] = h->rules[from + i];
        t->rules[i].zone = t->zones[i];
    }
    TAILQ_INSERT_TAIL(&all->tellings, t, link);
    all->n++;
    return t;
}

static void add_request(telling *t, int64_t used)
{
    t->requests++;
    t->used = bounded(t->used + bounded(used));
}

static struct telling_sums *bucket_of(tellings *all, const uint8_t *key)
{
    return &all->sums[(key[0] << 8 | key[1]) % BUCKETS];
}

/* A sum that was not sent yet, of the same key in the same step of the same window. */
static telling *find_sum(tellings *all, const shared_hold *h, size_t i)
{
    const policy_limit *rule = &h->rules[i];
    const uint8_t *key = h->keys + i * AIQ_LIMIT_KEY;

    for (telling *t = LIST_FIRST(bucket_of(all, key)); t; t = LIST_NEXT(t, sum)) {
        if (t->sent_ns == 0 && memcmp(t->keys[0], key, AIQ_LIMIT_KEY) == 0 &&
            t->rules[0].window_ms == rule->window_ms &&
            step_of(rule, t->began_ns) == step_of(rule, h->began_ns) &&
            strncmp(t->zones[0], rule->zone, ZONE_MAX) == 0) {
            return t;
        }
    }
    return NULL;
}

/* Redis never heard of the request. */
static void add_to_sum(shared_tokens *s, const shared_hold *h, size_t i, int64_t used)
{
    aiq_loop *loop = h->run.loop;
    tellings *all = &s->loops[loop->index];
    telling *t = find_sum(all, h, i);

    if (t) {
        add_request(t, used);
        return;
    }
    t = telling_new(s, h, i, 1);
    if (t) {
        aiq_id(t->id, "");
        LIST_INSERT_HEAD(bucket_of(all, t->keys[0]), t, sum);
        add_request(t, used);
        on_again(loop, t);
    }
}

static void tell_request(shared_tokens *s, const shared_hold *h, int64_t used)
{
    telling *t = telling_new(s, h, 0, h->n);

    if (t) {
        memcpy(t->id, h->id, sizeof(t->id));
        add_request(t, used);
        on_again(h->run.loop, t);
    }
}

static void be_told_of_the_end(shared_tokens *s, aiq_loop *loop)
{
    tellings *all = &s->loops[loop->index];

    if (!all->begun) {
        all->begun = true;
        all->exit = (loop_hook){.fn = on_exit_loop, .arg = s};
        loop_at_exit(loop, &all->exit);
    }
}

void shared_tokens_settle(shared_hold *h, int64_t used)
{
    shared_tokens *s = h->shared;

    if (s == NULL) {
        return;
    }
    h->shared = NULL;
    redis_cancel(&h->run.call);
    loop_timer_stop(h->run.loop, &h->renewal);
    be_told_of_the_end(s, h->run.loop);
    if (h->asked) {
        tell_request(s, h, used);
        return;
    }
    for (size_t i = 0; used > 0 && i < h->n; i++) {
        add_to_sum(s, h, i, used);
    }
}
