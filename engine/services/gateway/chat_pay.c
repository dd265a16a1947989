/* What a chat holds before anybody is asked, and what it has used in the end. */

#include "services/gateway/chat.h"

static uint64_t clock_ms(const chat *c)
{
    return loop_turn_ns(c->job->loop) / 1000000;
}

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

static void count_answer(const chat *c, provider_tokens tokens)
{
    const counts_answer answer = {
        .tokens = tokens,
        .seconds = seconds_between(c->job->started_ns, loop_now_ns()),
        .first = seconds_between(c->job->started_ns, c->first_ns),
    };

    counts_answered(gateway_of(c->job)->counts, c->attempts.one->target,
                    c->attempts.asked->name, &answer);
}

/* What a provider says may be anything. */
static int64_t sum_of(provider_tokens tokens)
{
    return tokens.in < INT32_MAX && tokens.out < INT32_MAX ? tokens.in + tokens.out : INT32_MAX;
}

void chat_settle(chat *c, unsigned status, provider_tokens tokens, bool produced)
{
    bool known = tokens.in >= 0 && tokens.out >= 0;
    token_limits_settle(&c->hold,
                        known      ? sum_of(tokens)
                        : produced ? c->probable
                                   : 0,
                        clock_ms(c));
    c->cost =
        bill_settle(&c->bill, c->attempts.one->target, status, tokens, produced, c->first_ns);
    if (status == 200) {
        count_answer(c, tokens);
    }
}

void chat_report(chat *c, provider_tokens tokens)
{
    const aiq_usage usage = {
        .tokens_in = tokens.in,
        .tokens_out = tokens.out,
        .first_token_us =
            c->first_ns ? (int64_t)((c->first_ns - c->job->started_ns) / 1000) : -1,
        .cost_nano_usd = c->cost,
    };

    job_usage(c->job, &usage);
}

void chat_let_go(chat *c)
{
    token_limits_settle(&c->hold, 0, clock_ms(c));
    bill_drop(&c->bill);
}

/* Four bytes are about a token; who sets no limit gets answers of a thousand or so. */
static bool hold_tokens(chat *c, aiq_err *err)
{
    const aiq_job *job = c->job;
    request_bound bound = {0};
    aiq_err unbounded;

    if (job->n_limits == 0) {
        return true;
    }
    (void)request_bound_of(c->asked, &bound, &unbounded); /* what has none counts after */
    c->probable = bound.input / 4 + (bound.cap ? bound.output / 4 : bound.output);
    c->probable = c->probable < INT32_MAX ? c->probable : INT32_MAX;
    return token_limits_hold(gateway_of(c->job)->gateway->limits, &c->hold, job->limits,
                             job->n_limits, job->limit_keys, c->probable, clock_ms(c), err);
}

static void on_held(bill *b, const aiq_err *refused)
{
    chat *c = b->job->state;

    if (refused) {
        chat_refuse(c, refused);
    } else {
        chat_held(c);
    }
}

void chat_hold(chat *c)
{
    aiq_err err;

    if (!hold_tokens(c, &err)) {
        chat_refuse(c, &err);
        return;
    }
    c->state = CHAT_HOLDING;
    switch (bill_begin(&c->bill, c->job, c->model, c->asked,
                       attempts_may_pay_more(c->job, c->model, c->asked), on_held, &err)) {
    case LEDGER_BEGUN:
        chat_held(c);
        break;
    case LEDGER_REFUSED:
        chat_refuse(c, &err);
        break;
    case LEDGER_WAITS:
        break;
    }
}
