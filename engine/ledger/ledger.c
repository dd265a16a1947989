#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/json.h"
#include "core/log.h"
#include "ledger/impl.h"
#include "streams/topics.h"

#define HEARTBEAT 15000 /* ms between looks at leases and dead engines */

aiq_str ledger_copy(aiq_str text)
{
    char *copy = aiq_alloc(text.len + 1);

    memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    return (aiq_str){copy, text.len};
}

static __int128 price_of(int64_t n, int64_t price)
{
    return n > 0 && price > 0 ? (__int128)n * price : 0;
}

int64_t ledger_cost(const policy_price *price, const journal_usage *usage,
                    const ledger_units *units)
{
    int64_t cached = usage->cached > 0 ? usage->cached : 0;
    __int128 millionths = price_of(usage->input - cached, price->input) +
                          price_of(cached, price->cached) +
                          price_of(usage->output, price->output) +
                          price_of(units->characters, price->characters) +
                          price_of(units->images, price->image) * 1000000 +
                          price_of(units->sound_ms, price->minute) * 1000000 / 60000;
    __int128 cost = (millionths + 500000) / 1000000;

    return cost > INT64_MAX ? INT64_MAX : (int64_t)cost;
}

size_t ledger_write_usd(char text[LEDGER_USD_SIZE], int64_t nano_usd)
{
    char *p = aiq_put_decimal(text, (uint64_t)nano_usd / 1000000000);
    /* the one before the nine decimals keeps their zeroes, and makes way for the point */
    char *end = aiq_put_decimal(p, 1000000000 + (uint64_t)nano_usd % 1000000000);

    *p = '.';
    return (size_t)(end - text);
}

int64_t ledger_clock_ms(void)
{
    return (int64_t)(loop_now_ns() / 1000000);
}

aiq_loop *ledger_home(ledger *l)
{
    return &l->engine->loops[0];
}

void ledger_unrecorded(ledger *l, const aiq_err *why, aiq_err *err)
{
    metric_add(l->refused_unrecorded, 1);
    aiq_fail(err, 503, "ledger_unavailable", "Usage cannot be recorded now.");
    aiq_err_detail(err, "%s", why->detail[0] ? why->detail : why->message);
    err->retry_after = 1;
}

/* A call. */

static void put_text(char *out, size_t size, aiq_str text)
{
    size_t n = text.len < size - 1 ? text.len : size - 1;

    if (n) { /* else data may be NULL */
        memcpy(out, text.data, n);
    }
    out[n] = '\0';
}

static void put_name(char *out, size_t size, const char *name)
{
    put_text(out, size, (aiq_str){name, strlen(name)});
}

int64_t ledger_share_of(policy_unit unit, const journal_usage *usage)
{
    if (unit == POLICY_USD) {
        return usage->nano_usd > 0 ? usage->nano_usd : 0;
    }
    return (usage->input > 0 ? usage->input : 0) + (usage->output > 0 ? usage->output : 0);
}

static void write_entry(journal_entry *e, const ledger_order *order)
{
    e->started_ms = aiq_id(e->id, "use_"); /* the store finds events of a time by their ids */
    put_text(e->request_id, sizeof(e->request_id), order->request_id);
    put_text(e->tenant, sizeof(e->tenant), order->tenant);
    put_text(e->user, sizeof(e->user), order->user);
    put_text(e->key_id, sizeof(e->key_id), order->key_id);
    put_name(e->model, sizeof(e->model), order->model);
    e->most = order->most;
}

ledger_answer ledger_begin(ledger *l, ledger_call *call, const ledger_order *order,
                           aiq_loop *loop,
                           void (*ready)(ledger_call *call, const aiq_err *refused),
                           aiq_err *err)
{
    aiq_err full;

    *call = (ledger_call){.loop = loop, .ready = ready};
    pthread_mutex_lock(&l->lock);
    call->entry = journal_take(l->journal, &full);
    pthread_mutex_unlock(&l->lock);
    if (call->entry == NULL) {
        ledger_unrecorded(l, &full, err);
        return LEDGER_REFUSED;
    }
    write_entry(call->entry, order);
    pthread_mutex_lock(&l->lock);
    ledger_answer answer = accounts_hold(l, call, order, err);
    if (answer == LEDGER_REFUSED) {
        accounts_forget(l, call->entry, call->accounts);
        call->entry = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    return answer;
}

/* More than was held is spent all the same; it stands in the log for whoever wonders. */
static void note_overdraft(ledger *l, const journal_entry *e, const budget_account *a,
                           const journal_budget *b)
{
    metric_add(l->overdrafts, 1);
    aiq_log(AIQ_LOG_WARN, "ledger", "a call used more than it could",
            AIQ_S("request_id", e->request_id), AIQ_S("account", a->id), AIQ_I("held", b->held),
            AIQ_I("used", b->used));
}

static void add_amount(aiq_buf *out, policy_unit unit, int64_t amount)
{
    char text[LEDGER_USD_SIZE];

    if (unit == POLICY_USD) {
        aiq_buf_add(out, text, ledger_write_usd(text, amount > 0 ? amount : 0));
    } else {
        aiq_buf_printf(out, "%" PRId64, amount);
    }
}

void ledger_tell(ledger *l, const budget_account *a, const char *type)
{
    aiq_buf out = {0};

    aiq_buf_text(&out, "{\"account\":");
    json_quote(&out, a->id, strlen(a->id));
    aiq_buf_text(&out, ",\"limit\":\"");
    add_amount(&out, a->unit, budget_limit(a));
    aiq_buf_text(&out, "\",\"spent\":\"");
    add_amount(&out, a->unit, a->spent + a->used);
    aiq_buf_text(&out, "\"}");
    topic_publish(l->engine, a->tenant, AIQ_STR(TOPIC_BUDGETS), (aiq_str){type, strlen(type)},
                  (aiq_str){(char *)out.data, out.len});
    aiq_buf_free(&out);
}

static void note_warning(ledger *l, budget_account *a)
{
    if (!a->warned && budget_warns(a)) {
        a->warned = true;
        metric_add(l->warnings, 1);
        ledger_tell(l, a, "budget.warning");
        aiq_log(AIQ_LOG_WARN, "ledger", "80 % of a budget are used", AIQ_S("account", a->id),
                AIQ_I("limit", budget_limit(a)), AIQ_I("spent", a->spent + a->used));
    }
}

static bool any_warns(const ledger_call *call)
{
    for (size_t i = 0; i < call->entry->n_budgets; i++) {
        if (budget_warns(call->accounts[i])) {
            return true;
        }
    }
    return false;
}

static void write_result(journal_entry *e, const ledger_result *result)
{
    put_name(e->provider, sizeof(e->provider), result->provider);
    put_name(e->target, sizeof(e->target), result->target);
    e->used = result->used;
    e->status = result->status;
    e->estimated = result->estimated;
    e->duration_us = result->duration_us;
    e->first_token_us = result->first_token_us;
}

bool ledger_settle(ledger *l, ledger_call *call, const ledger_result *result)
{
    journal_entry *e = call->entry;

    write_result(e, result);
    for (size_t i = 0; i < e->n_budgets; i++) {
        e->budgets[i].used = ledger_share_of((policy_unit)e->budgets[i].unit, &e->used);
        if (e->budgets[i].used > e->budgets[i].held) {
            note_overdraft(l, e, call->accounts[i], &e->budgets[i]);
        }
    }
    journal_publish(e, JOURNAL_SETTLED);
    pthread_mutex_lock(&l->lock);
    accounts_release(l, call);
    for (size_t i = 0; i < e->n_budgets; i++) {
        note_warning(l, call->accounts[i]);
    }
    bool warns = any_warns(call);
    storing_add(l, call);
    pthread_mutex_unlock(&l->lock);
    call->state = CALL_NONE;
    call->entry = NULL;
    return warns;
}

void ledger_note(ledger *l, const ledger_order *order, const ledger_result *result)
{
    ledger_call call = {0};
    aiq_err full;

    pthread_mutex_lock(&l->lock);
    if (l->n_settled < LEDGER_BEHIND) {
        call.entry = journal_take(l->journal, &full);
    }
    pthread_mutex_unlock(&l->lock);
    if (call.entry == NULL) {
        metric_add(l->let_go, 1);
        return;
    }
    write_entry(call.entry, order);
    call.entry->n_budgets = 0;
    write_result(call.entry, result);
    journal_publish(call.entry, JOURNAL_SETTLED);
    pthread_mutex_lock(&l->lock);
    storing_add(l, &call);
    pthread_mutex_unlock(&l->lock);
}

void ledger_drop(ledger *l, ledger_call *call)
{
    pthread_mutex_lock(&l->lock);
    bool holds = call->entry && call->state != CALL_WAITING;
    accounts_leave(l, call);
    if (holds) {
        accounts_release(l, call);
    }
    if (call->entry) {
        accounts_forget(l, call->entry, call->accounts);
    }
    pthread_mutex_unlock(&l->lock);
    call->state = CALL_NONE;
    call->entry = NULL;
}

bool ledger_warns(ledger *l, const ledger_call *call)
{
    if (call->entry->n_budgets == 0) {
        return false;
    }
    pthread_mutex_lock(&l->lock);
    bool warns = any_warns(call);
    pthread_mutex_unlock(&l->lock);
    return warns;
}

void ledger_budgets_changed(ledger *l)
{
    pthread_mutex_lock(&l->lock);
    accounts_renew(l);
    pthread_mutex_unlock(&l->lock);
}

static void beat(aiq_loop *loop, void *arg)
{
    ledger *l = arg;

    ledger_budgets_changed(l);
    storing_recover(l, loop);
    loop_timer_start(loop, &l->heartbeat, HEARTBEAT, beat, l);
}

/* Life. */

static void make_metrics(ledger *l, metrics *m)
{
    metric_family *refused =
        metrics_family(m, METRIC_COUNTER, "aiq_budget_refused_total",
                       "Calls of models that were refused, by why.", "reason", NULL);

    l->refused_spent = metrics_sample(refused, (const char *[]){"exceeded"});
    l->refused_reserved = metrics_sample(refused, (const char *[]){"reserved"});
    l->refused_unrecorded = metrics_sample(refused, (const char *[]){"unavailable"});
    l->warnings = metrics_sample(
        metrics_family(m, METRIC_COUNTER, "aiq_budget_warnings_total",
                       "Budgets of which 80 % were used, once a period.", "", NULL),
        NULL);
    l->overdrafts = metrics_sample(
        metrics_family(m, METRIC_COUNTER, "aiq_budget_overdrafts_total",
                       "Calls that used more than their request allowed.", "", NULL),
        NULL);
    l->let_go = metrics_sample(metrics_family(m, METRIC_COUNTER, "aiq_usage_let_go_total",
                                              "Answers from the cache that were not recorded.",
                                              "", NULL),
                               NULL);
    l->pending = metrics_sample(
        metrics_family(m, METRIC_GAUGE, "aiq_usage_pending",
                       "Calls of models that have ended and are not in the store yet.", "",
                       NULL),
        NULL);
}

ledger *ledger_open(aiq_engine *engine, const char *folder, aiq_err *err)
{
    ledger *l = aiq_zalloc(sizeof(*l));
    unsigned n = engine->options.loops;

    l->engine = engine;
    l->journal = journal_new(folder, engine->id, err);
    if (l->journal == NULL) {
        free(l);
        return NULL;
    }
    l->folder = (char *)ledger_copy((aiq_str){folder, strlen(folder)}).data;
    pthread_mutex_init(&l->lock, NULL);
    l->ready = aiq_zalloc(n * sizeof(*l->ready));
    l->last_ready = aiq_alloc(n * sizeof(*l->last_ready));
    for (unsigned i = 0; i < n; i++) {
        l->last_ready[i] = &l->ready[i];
    }
    make_metrics(l, engine->metrics);
    loop_post(ledger_home(l), beat, l);
    return l;
}

void ledger_stop(ledger *l)
{
    if (l) {
        storing_finish(l);
    }
}

void ledger_close(ledger *l)
{
    if (l == NULL) {
        return;
    }
    accounts_free(l);
    journal_free(l->journal);
    rmdir(l->folder); /* unless somebody's journal is there */
    pthread_mutex_destroy(&l->lock);
    free(l->settled);
    free(l->ready);
    free(l->last_ready);
    free(l->folder);
    free(l);
}
