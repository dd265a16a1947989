/* What a chat holds before anybody is asked, and what it has used in the end. */

#include "services/gateway/chat.h"

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

    token_claim_settle(&c->claim, known ? sum_of(tokens) : produced ? c->probable : 0);
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
    token_claim_settle(&c->claim, 0);
    bill_drop(&c->bill);
}

/* Four bytes are about a token; who sets no limit gets answers of a thousand or so. */
static int64_t probable_tokens(const chat *c)
{
    request_bound bound = {0};
    aiq_err unbounded;

    (void)request_bound_of(c->asked, &bound, &unbounded); /* what has none counts after */
    int64_t tokens = bound.input / 4 + (bound.cap ? bound.output / 4 : bound.output);
    return tokens < INT32_MAX ? tokens : INT32_MAX;
}

static void on_paid(bill *b, const aiq_err *refused)
{
    chat *c = b->job->state;

    if (refused) {
        chat_refuse(c, refused);
    } else {
        chat_held(c);
    }
}

static void hold_bill(chat *c)
{
    aiq_err err;

    switch (bill_begin(&c->bill, c->job, c->model, c->asked,
                       attempts_may_pay_more(c->job, c->model, c->asked), on_paid, &err)) {
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

static void on_claimed(void *arg, const aiq_err *refused)
{
    chat *c = arg;

    if (refused) {
        chat_refuse(c, refused);
    } else {
        hold_bill(c);
    }
}

void chat_hold(chat *c)
{
    aiq_err err;

    c->state = CHAT_HOLDING;
    c->probable = c->job->n_limits ? probable_tokens(c) : 0;
    switch (token_claim_begin(&c->claim, c->job, c->probable, on_claimed, c, &err)) {
    case CLAIM_HELD:
        hold_bill(c);
        break;
    case CLAIM_REFUSED:
        chat_refuse(c, &err);
        break;
    case CLAIM_WAITS:
        break;
    }
}
