#include "services/gateway/token_claim.h"

#include <string.h>
#include "services/gateway/gateway.h"

static token_limits *limits_of(const token_claim *c)
{
    return c->job->loop->engine->gateway->limits;
}

static uint64_t clock_ms(const token_claim *c)
{
    return loop_turn_ns(c->job->loop) / 1000000;
}

/* Which limits. */

static bool is_shared(const aiq_job *job, size_t i)
{
    static const uint8_t none[AIQ_LIMIT_KEY];

    return job->limits[i].shared &&
           memcmp(job->limit_keys + i * AIQ_LIMIT_KEY, none, AIQ_LIMIT_KEY) != 0;
}

static claim_rules rules_new(const aiq_job *job)
{
    return (claim_rules){
        .rules = aiq_pool_alloc(job->pool, job->n_limits * sizeof(policy_limit)),
        .keys = aiq_pool_alloc(job->pool, job->n_limits * AIQ_LIMIT_KEY),
    };
}

static void rules_add(claim_rules *r, const policy_limit *rule, const uint8_t *key)
{
    r->rules[r->n] = *rule;
    memcpy(r->keys + r->n * AIQ_LIMIT_KEY, key, AIQ_LIMIT_KEY);
    r->n++;
}

/* own: those that are not shared. */
static void sort(token_claim *c, claim_rules *own)
{
    const aiq_job *job = c->job;

    *own = rules_new(job);
    c->all = rules_new(job);
    c->parted = rules_new(job);
    for (size_t i = 0; i < job->n_limits; i++) {
        const policy_limit *rule = &job->limits[i];
        const uint8_t *key = job->limit_keys + i * AIQ_LIMIT_KEY;
        if (!is_shared(job, i)) {
            rules_add(own, rule, key);
            continue;
        }
        rules_add(&c->all, rule, key);
        if (rule->nodes) {
            rules_add(&c->parted, rule, key);
            c->parted.rules[c->parted.n - 1].tokens /= rule->nodes;
        }
    }
}

/* How they stand. */

static void tighten(token_state *state, const token_state *other)
{
    if (other->limit && (state->limit == 0 || other->remaining < state->remaining)) {
        *state = *other;
    }
}

static void take_state(token_claim *c)
{
    c->state = c->own.state;
    tighten(&c->state, c->alone ? &c->part.state : &c->together);
}

/* Redis is told of it, but has not said how its window stands then. */
static void use_together(token_claim *c, int64_t used)
{
    token_state *s = &c->together;
    int64_t held = c->tokens < s->limit ? c->tokens : s->limit;

    s->remaining = used < held + s->remaining ? held + s->remaining - used : 0;
    s->remaining = s->remaining < s->limit ? s->remaining : s->limit;
}

/* Answers. */

static bool refuse_away(const policy_limit *rule, aiq_err *err)
{
    aiq_fail(err, 503, "limit_unavailable",
             "The server cannot count this request at the moment.");
    aiq_err_detail(err, "zone %.200s", rule->zone);
    err->retry_after = 1;
    return false;
}

/* By what this engine knows itself. */
static bool hold_part(token_claim *c, aiq_err *err)
{
    for (size_t i = 0; i < c->all.n; i++) {
        if (c->all.rules[i].nodes == 0) {
            return refuse_away(&c->all.rules[i], err);
        }
    }
    c->alone = true;
    bool fits = token_limits_hold(limits_of(c), &c->part, c->parted.rules, c->parted.n,
                                  c->parted.keys, c->tokens, clock_ms(c), err);
    take_state(c);
    return fits;
}

/* By what all engines together have used. */
static bool take_answer(token_claim *c, const shared_answer *answer, aiq_err *err)
{
    c->together = (token_state){answer->limit, answer->remaining, answer->reset_ms};
    take_state(c);
    if (answer->wait_ms) {
        token_limits_refuse(limits_of(c), answer->rule, answer->wait_ms, err);
        return false;
    }
    token_limits_note(limits_of(c), &c->part, c->parted.rules, c->parted.n, c->parted.keys,
                      c->tokens, clock_ms(c));
    return true;
}

static void on_answer(void *arg, const shared_answer *answer)
{
    token_claim *c = arg;
    aiq_err err;

    if (answer ? take_answer(c, answer, &err) : hold_part(c, &err)) {
        c->ready(c->arg, NULL);
    } else {
        c->ready(c->arg, &err);
    }
}

/* The interface. */

static bool hold_own(token_claim *c, const policy_limit *rules, size_t n, const uint8_t *keys,
                     aiq_err *err)
{
    bool fits = n == 0 || token_limits_hold(limits_of(c), &c->own, rules, n, keys, c->tokens,
                                            clock_ms(c), err);
    take_state(c);
    return fits;
}

claim_answer token_claim_begin(token_claim *c, aiq_job *job, int64_t tokens,
                               void (*ready)(void *arg, const aiq_err *refused), void *arg,
                               aiq_err *err)
{
    claim_rules own;
    bool shared = false;

    *c = (token_claim){.job = job, .tokens = tokens, .ready = ready, .arg = arg};
    for (size_t i = 0; i < job->n_limits; i++) {
        shared |= is_shared(job, i);
    }
    if (!shared) {
        return hold_own(c, job->limits, job->n_limits, job->limit_keys, err) ? CLAIM_HELD
                                                                             : CLAIM_REFUSED;
    }
    sort(c, &own);
    if (!hold_own(c, own.rules, own.n, own.keys, err)) {
        return CLAIM_REFUSED;
    }
    if (shared_tokens_hold(&c->shared, job->loop, c->all.rules, c->all.n, c->all.keys, tokens,
                           on_answer, c)) {
        return CLAIM_WAITS;
    }
    return hold_part(c, err) ? CLAIM_HELD : CLAIM_REFUSED;
}

void token_claim_settle(token_claim *c, int64_t used)
{
    if (c->job == NULL) {
        return;
    }
    bool held = c->shared.shared != NULL;

    token_limits_settle(&c->own, used, clock_ms(c));
    token_limits_settle(&c->part, used, clock_ms(c));
    shared_tokens_settle(&c->shared, used);
    if (held) {
        use_together(c, used);
    }
    take_state(c);
    c->job = NULL;
}
