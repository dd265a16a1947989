/*
 * What a request costs that nginx serves without us (aiq_charge): held from its budgets and
 * limits of tokens before anybody serves it, settled when it has ended. A job that lasts as
 * long as the request:
 *
 *     OPEN     what it costs, AIQ_FIELD_CHARGE
 *     HEAD     it is held; ERROR: it is not, and why
 *     CANCEL   the request has ended: it is charged. So it is where the worker dies, for
 *              nobody can say then that its client got nothing
 *     END      nothing was served: what was held is free again. CANCEL follows
 *
 * An engine that dies with it leaves it to the ledger, which charges it, too.
 */

#include "engine.h"
#include "ledger/ledger.h"
#include "services/gateway/gateway.h"
#include "services/gateway/token_claim.h"
#include "services/service.h"

typedef struct {
    ledger_call call; /* first: a charge is its call */
    aiq_job *job;
    token_claim claim;
    bool held; /* else it waits for others */
} charge;

static ledger *ledger_of(const aiq_job *job)
{
    return job->loop->engine->ledger;
}

/* Nothing of it is used. */
static void let_go(charge *c)
{
    token_claim_settle(&c->claim, 0);
    ledger_drop(ledger_of(c->job), &c->call);
}

static void settle(charge *c)
{
    const aiq_job *job = c->job;
    const ledger_result result = {
        .status = 200,
        .provider = "charge",
        .target = "-",
        .used = {.input = job->charge.tokens, .nano_usd = job->charge.nano_usd},
        .duration_us = (int64_t)((loop_now_ns() - job->started_ns) / 1000),
        .first_token_us = -1,
    };

    token_claim_settle(&c->claim, job->charge.tokens);
    ledger_settle(ledger_of(job), &c->call, &result);
}

static void reply(charge *c)
{
    aiq_job *job = c->job;
    job_header headers[TOKEN_STATE_HEADERS + 1];
    char tokens[TOKEN_STATE_TEXT];
    size_t n = token_state_headers(&c->claim.state, headers, tokens);

    c->held = true;
    if (ledger_warns(ledger_of(job), &c->call)) {
        headers[n++] = (job_header){AIQ_STR("x-aiq-budget"), AIQ_STR("more than 80% used")};
    }
    /* a stream: the loop does not spin for what lasts as long as others take */
    job_head(job, &(job_reply){.status = 200,
                               .content_length = -1,
                               .stream = true,
                               .headers = headers,
                               .n_headers = n});
}

static void refuse(charge *c, const aiq_err *err)
{
    job_header headers[TOKEN_STATE_HEADERS];
    char tokens[TOKEN_STATE_TEXT];

    token_claim_settle(&c->claim, 0);
    job_fail_with(c->job, err, headers, token_state_headers(&c->claim.state, headers, tokens));
}

static void on_ready(ledger_call *call, const aiq_err *refused)
{
    charge *c = (charge *)call;

    if (refused) {
        refuse(c, refused);
    } else {
        reply(c);
    }
}

static void begin(charge *c)
{
    aiq_job *job = c->job;
    const ledger_order order = {
        .tenant = job->tenant,
        .user = job->user,
        .key_id = job->key_id,
        .request_id = job->request_id,
        .model = "-",
        .most = {.input = job->charge.tokens, .nano_usd = job->charge.nano_usd},
        .budgets = job->budgets,
        .n_budgets = job->n_budgets,
    };
    aiq_err err;

    switch (ledger_begin(ledger_of(job), &c->call, &order, job->loop, on_ready, &err)) {
    case LEDGER_BEGUN:
        reply(c);
        break;
    case LEDGER_REFUSED:
        refuse(c, &err);
        break;
    case LEDGER_WAITS:
        break;
    }
}

static void on_claimed(void *arg, const aiq_err *refused)
{
    charge *c = arg;

    if (refused) {
        refuse(c, refused);
    } else {
        begin(c);
    }
}

static void charge_end(aiq_job *job)
{
    charge *c = aiq_pool_zalloc(job->pool, sizeof(*c));
    aiq_err err;

    c->job = job;
    if (!job->charged) {
        aiq_fail(&err, 404, "not_found", "Nothing is served here.");
        job_fail(job, &err);
        return;
    }
    job->state = c;
    switch (token_claim_begin(&c->claim, job, job->charge.tokens, on_claimed, c, &err)) {
    case CLAIM_HELD:
        begin(c);
        break;
    case CLAIM_REFUSED:
        refuse(c, &err);
        break;
    case CLAIM_WAITS:
        break;
    }
}

static void charge_release(aiq_job *job)
{
    if (job->state) {
        let_go(job->state);
        job->state = NULL;
    }
}

static void charge_cancel(aiq_job *job)
{
    charge *c = job->state;

    if (c && c->held) {
        settle(c);
    } else if (c) {
        let_go(c);
    }
}

static const job_handler handler = {
    .end = charge_end,
    .release = charge_release,
    .cancel = charge_cancel,
};

static const aiq_route routes[] = {
    {0, "*", PERMIT_NONE, &handler, "Charges for what others serve (aiq_charge)"},
};

const aiq_service service_charge = {
    .name = "charge",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
