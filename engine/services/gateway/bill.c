#include "services/gateway/bill.h"

#include <string.h>
#include "engine.h"

/* English text; an estimate where a provider says nothing. */
#define BYTES_A_TOKEN 4

static bool has_price(const policy_target *target)
{
    return target->price.input >= 0 || target->price.output >= 0 ||
           strcmp(target->provider->dialect, "local") == 0;
}

/* The dearest of all that may answer. */
static bool most_of_model(const request_bound *bound, const policy_model *model, bool money,
                          journal_usage *most, aiq_err *err)
{
    for (size_t i = 0; model && i < model->n_targets; i++) {
        const policy_target *target = &model->targets[i];
        journal_usage one = request_most(bound, &target->price);
        if (bound->units.images || bound->units.characters) {
            if (!request_units_paid(&bound->units, &target->price)) {
                return request_unbounded(err);
            }
        } else if (money && !has_price(target)) {
            aiq_fail(err, 503, "price_missing",
                     "The model '%.100s' has no price, and there is a budget in USD here.",
                     model->name);
            aiq_err_detail(err, "its target %s has none", target->provider->name);
            return false;
        }
        if (one.nano_usd >= most->nano_usd) {
            *most = one;
        }
    }
    return true;
}

/* Each target may be asked to go on with what all before it have said. */
static void add_going_on(request_bound *bound, const policy_model *model)
{
    int64_t n = (int64_t)model->n_targets;

    bound->input = n * (bound->input + n * bound->output);
    bound->output *= n;
}

static size_t in_money(const aiq_job *job)
{
    size_t n = 0;

    for (size_t i = 0; i < job->n_budgets; i++) {
        n += job->budgets[i].unit == POLICY_USD;
    }
    return n;
}

/* Without budgets there is nothing to bound, and the request goes out as it came. */
static bool find_most(bill *b, const policy_model *model, chat_request *chat, bool may_go_on,
                      journal_usage *most, aiq_err *err)
{
    size_t money = in_money(b->job);
    request_bound all;

    *most = (journal_usage){.input = -1, .cached = -1, .output = -1, .reasoning = -1};
    if (b->job->n_budgets == 0) {
        b->bound.input = (int64_t)(chat->body.len + chat->said.len);
        b->bound.units = request_units(chat);
        return true;
    }
    if (chat->raw && money < b->job->n_budgets) {
        return request_unbounded(err);
    }
    if (!request_bound_of(chat, &b->bound, err)) {
        return false;
    }
    chat->cap = (uint32_t)b->bound.cap;
    all = b->bound;
    if (may_go_on) {
        add_going_on(&all, model);
    }
    return most_of_model(&all, model, money > 0, most, err) &&
           most_of_model(&all, model->context_fallback, money > 0, most, err) &&
           most_of_model(&all, model->content_fallback, money > 0, most, err);
}

static void on_ready(ledger_call *call, const aiq_err *refused)
{
    bill *b = (bill *)call;

    b->open = refused == NULL;
    b->ready(b, refused);
}

ledger_answer bill_begin(bill *b, aiq_job *job, const policy_model *model, chat_request *chat,
                         bool may_go_on, void (*ready)(bill *b, const aiq_err *refused),
                         aiq_err *err)
{
    ledger_order order = {
        .tenant = job->tenant,
        .user = job->user,
        .key_id = job->key_id,
        .request_id = job->request_id,
        .model = model->name,
        .budgets = job->budgets,
        .n_budgets = job->n_budgets,
    };

    *b = (bill){.ledger = job->loop->engine->ledger,
                .job = job,
                .raw = chat->raw,
                .started_ns = loop_now_ns(),
                .ready = ready};
    if (!find_most(b, model, chat, may_go_on, &order.most, err)) {
        return LEDGER_REFUSED;
    }
    ledger_answer answer = ledger_begin(b->ledger, &b->call, &order, job->loop, on_ready, err);
    b->open = answer != LEDGER_REFUSED;
    return answer;
}

static int64_t at_most(int64_t n, int64_t most)
{
    return most > 0 && n > most ? most : n;
}

/* Since a stream has begun, or broken off. */
static void estimate(const bill *b, journal_usage *used)
{
    if (used->input < 0) {
        used->input = b->bound.input / BYTES_A_TOKEN;
    }
    if (used->output < 0) {
        used->output = at_most((int64_t)b->produced, b->bound.output);
    }
}

void bill_broke_off(bill *b, const policy_target *target)
{
    journal_usage used = {.input = -1, .cached = -1, .output = -1, .reasoning = -1};

    estimate(b, &used);
    b->broken.input += used.input;
    b->broken.output += used.output;
    b->broken.nano_usd += ledger_cost(&target->price, &used, &(ledger_units){0});
    b->produced = 0;
}

/* By what a provider alone can tell: tokens, or how long a sound was. */
static bool is_metered(const policy_price *price)
{
    return price->input >= 0 || price->output >= 0 || price->minute >= 0;
}

/* Nothing of it can be estimated. */
static bool settle_raw(const policy_target *target, provider_tokens tokens, journal_usage *used)
{
    bool told = tokens.in >= 0 || tokens.sound_ms > 0;

    used->input = used->input > 0 ? used->input : 0;
    used->output = used->output > 0 ? used->output : 0;
    return !told && is_metered(&target->price);
}

static bool has_any_price(const policy_price *price)
{
    return is_metered(price) || price->characters >= 0 || price->image >= 0;
}

static void add_broken(const bill *b, journal_usage *used)
{
    used->input = b->broken.input + (used->input > 0 ? used->input : 0);
    used->output = b->broken.output + (used->output > 0 ? used->output : 0);
    used->nano_usd += b->broken.nano_usd;
}

int64_t bill_settle(bill *b, const policy_target *target, unsigned status,
                    provider_tokens tokens, bool produced, uint64_t first_ns)
{
    uint64_t now = loop_now_ns();
    ledger_result result = {
        .status = status,
        .provider = target->provider->name,
        .target = target->model,
        .used = {tokens.in, tokens.cached, tokens.out, tokens.reasoning, 0},
        .estimated = produced && (tokens.in < 0 || tokens.out < 0),
        .duration_us = (int64_t)((now - b->started_ns) / 1000),
        .first_token_us = first_ns ? (int64_t)((first_ns - b->started_ns) / 1000) : -1,
    };

    bool broken = b->broken.input > 0;
    ledger_units units = produced ? b->bound.units : (ledger_units){0};

    if (!b->open) {
        return -1;
    }
    if (b->raw) {
        result.estimated = settle_raw(target, tokens, &result.used) && produced;
    } else if (result.estimated) {
        estimate(b, &result.used);
    }
    units.sound_ms = tokens.sound_ms;
    /* a provider may lie, and sums over the store's events must stay numbers */
    result.used.nano_usd =
        at_most(ledger_cost(&target->price, &result.used, &units), AIQ_CHARGE_NANO_USD_MAX);
    if (broken) {
        result.estimated = true;
        add_broken(b, &result.used);
    }
    b->open = false;
    b->warns = ledger_settle(b->ledger, &b->call, &result);
    return has_any_price(&target->price) ? result.used.nano_usd : -1;
}

void bill_replayed(const aiq_job *job, const policy_model *model)
{
    int64_t us = (int64_t)((loop_now_ns() - job->started_ns) / 1000);
    const ledger_order order = {
        .tenant = job->tenant,
        .user = job->user,
        .key_id = job->key_id,
        .request_id = job->request_id,
        .model = model->name,
    };
    const ledger_result result = {
        .status = 200,
        .provider = "cache",
        .target = "",
        .duration_us = us,
        .first_token_us = us,
    };

    ledger_note(job->loop->engine->ledger, &order, &result);
}

void bill_drop(bill *b)
{
    if (b->open) {
        b->open = false;
        ledger_drop(b->ledger, &b->call);
    }
}

bool bill_warns(const bill *b)
{
    return b->open ? ledger_warns(b->ledger, &b->call) : b->warns;
}
