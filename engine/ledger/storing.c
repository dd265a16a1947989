#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "ledger/impl.h"
#include "ledger/transactions.h"

#define BATCH  2048 /* events of one transaction: about 10 ms of the store's writer */
#define GATHER 10   /* ms that settled calls wait for others */
#define RETRY  500  /* ms after the store has failed */

typedef struct {
    ledger *ledger;
    journal *dead; /* whose events these are; NULL: ours */
    ledger_batch batch;
    settled_call *calls; /* of ours, as many as the batch's events */
} flush_work;

static void flush(aiq_loop *loop, void *arg);

static void flush_free(flush_work *w)
{
    free(w->batch.events);
    free(w->calls);
    free(w);
}

/* Takes what is stored out of the queue; it was put there in one piece. */
static void remove_stored(ledger *l, const flush_work *w)
{
    size_t at = 0, n = w->batch.n;

    while (l->settled[at].entry != w->calls[0].entry) {
        at++;
    }
    memmove(l->settled + at, l->settled + at + n,
            (l->n_settled - at - n) * sizeof(*l->settled));
    l->n_settled -= n;
    metric_set(l->pending, (int64_t)l->n_settled);
}

/* Loop 0, without the lock. */
static void flushed(aiq_loop *loop, void *arg, const aiq_err *err)
{
    flush_work *w = arg;
    ledger *l = w->ledger;

    pthread_mutex_lock(&l->lock);
    l->storing -= w->batch.n;
    if (err == NULL) {
        for (size_t i = 0; i < w->batch.n; i++) {
            journal_entry *e = w->calls[i].entry;
            for (size_t k = 0; k < e->n_budgets; k++) {
                budget_stored(w->calls[i].accounts[k], e->budgets[k].used);
            }
            accounts_forget(l, e, w->calls[i].accounts);
        }
        remove_stored(l, w);
    }
    size_t left = l->n_settled - l->storing;
    l->flush_posted = left > 0;
    pthread_mutex_unlock(&l->lock);
    if (left > 0) {
        /* the store says in /health what is wrong; what is settled stays where it is */
        uint64_t gather = left < BATCH ? GATHER : 0;
        loop_timer_start(loop, &l->flush_timer, err ? RETRY : gather, flush, l);
    }
    flush_free(w);
}

static bool flush_transaction(store_db *db, void *arg, aiq_err *err)
{
    flush_work *w = arg;

    return ledger_store_events(db, &w->batch, err);
}

static void fill_event(ledger_event *event, const settled_call *call)
{
    const journal_entry *e = call->entry;

    event->entry = e;
    event->n_shares = e->n_budgets;
    for (size_t i = 0; i < e->n_budgets; i++) {
        event->shares[i] = (ledger_share){call->accounts[i]->id, e->budgets[i].used};
    }
}

/* At most so many of those that are not on their way yet; NULL: there are none. */
static flush_work *take_settled(ledger *l, size_t most)
{
    flush_work *w = NULL;

    pthread_mutex_lock(&l->lock);
    size_t left = l->n_settled - l->storing, n = left < most ? left : most;
    if (n > 0) {
        w = aiq_zalloc(sizeof(*w));
        w->ledger = l;
        w->batch.engine = l->engine->id;
        w->batch.n = n;
        w->calls = aiq_alloc(n * sizeof(*w->calls));
        memcpy(w->calls, l->settled + l->storing, n * sizeof(*w->calls));
        l->storing += n;
    }
    pthread_mutex_unlock(&l->lock);
    return w;
}

static void store_settled(ledger *l, aiq_loop *loop, size_t most)
{
    flush_work *w = take_settled(l, most);
    aiq_err err;

    if (w == NULL) {
        return;
    }
    w->batch.events = aiq_alloc(w->batch.n * sizeof(*w->batch.events));
    for (size_t i = 0; i < w->batch.n; i++) {
        fill_event(&w->batch.events[i], &w->calls[i]);
    }
    if (!store_write(l->engine->store, loop, flush_transaction, w, flushed, w, &err)) {
        flushed(loop, w, &err);
    }
}

static void flush(aiq_loop *loop, void *arg)
{
    ledger *l = arg;

    if (l->storing == 0) {
        store_settled(l, loop, BATCH);
    }
}

static void flush_soon(aiq_loop *loop, void *arg)
{
    ledger *l = arg;

    loop_timer_start(loop, &l->flush_timer, GATHER, flush, l);
}

void storing_add(ledger *l, const ledger_call *call)
{
    if (l->n_settled == l->settled_size) {
        l->settled_size = l->settled_size ? l->settled_size * 2 : 256;
        l->settled = realloc(l->settled, l->settled_size * sizeof(*l->settled));
        if (l->settled == NULL) {
            abort(); /* as aiq_alloc() does */
        }
    }
    settled_call *s = &l->settled[l->n_settled++];
    s->entry = call->entry;
    memcpy(s->accounts, call->accounts, sizeof(s->accounts));
    metric_set(l->pending, (int64_t)l->n_settled);
    if (!l->flush_posted) {
        l->flush_posted = true;
        loop_post(ledger_home(l), flush_soon, l);
    }
}

void storing_finish(ledger *l)
{
    store_settled(l, ledger_home(l), SIZE_MAX);
}

/* What a dead engine left. Loop 0. */

static void recovered(aiq_loop *loop, void *arg, const aiq_err *err)
{
    flush_work *w = arg;
    size_t n = w->batch.n;

    (void)loop;
    if (err) {
        journal_release(w->dead); /* another look comes with the next heartbeat */
    } else {
        aiq_log(AIQ_LOG_WARN, "ledger", "stored what a dead engine had left",
                AIQ_I("events", (int64_t)n));
        journal_bury(w->dead);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < w->batch.events[i].n_shares; k++) {
            free((char *)w->batch.events[i].shares[k].account);
        }
        free((journal_entry *)w->batch.events[i].entry);
    }
    flush_free(w);
}

/* An entry as it should be stored: what was under way is taken to have used all it
 * could. */
static void adopt_entry(void *arg, const journal_entry *left)
{
    ledger_batch *batch = arg;
    journal_entry *e = aiq_alloc(sizeof(*e));
    bool held = left->state == JOURNAL_HELD;

    *e = *left;
    if (held) {
        e->used = e->most;
        e->used.cached = e->used.reasoning = -1;
        e->provider[0] = e->target[0] = '\0'; /* nobody knows who was asked */
        e->status = 0;
        e->estimated = 1;
        e->duration_us = e->first_token_us = -1;
    }
    batch->events = realloc(batch->events, (batch->n + 1) * sizeof(*batch->events));
    if (batch->events == NULL) {
        abort();
    }
    ledger_event *event = &batch->events[batch->n++];
    *event = (ledger_event){.entry = e};
    for (uint32_t i = 0; i < e->n_budgets; i++) {
        const journal_budget *b = &e->budgets[i];
        aiq_buf id = {0};
        aiq_str user = {e->user, strlen(e->user)}, key = {e->key_id, strlen(e->key_id)};
        if (b->scope > POLICY_KEY || b->unit > POLICY_USD || b->period > POLICY_MONTH) {
            continue; /* a damaged file */
        }
        budget_account_id(&id, (policy_scope)b->scope, (aiq_str){e->tenant, strlen(e->tenant)},
                          b->scope == POLICY_USER ? user : key, (policy_unit)b->unit,
                          (policy_period)b->period, b->starts_ms);
        event->shares[event->n_shares++] = (ledger_share){
            ledger_copy((aiq_str){(char *)id.data, id.len}).data, held ? b->held : b->used};
        aiq_buf_free(&id);
    }
}

void storing_recover(ledger *l, aiq_loop *loop)
{
    journal *dead = journal_find_dead(l->folder);
    aiq_err err;

    if (dead == NULL) {
        return;
    }
    flush_work *w = aiq_zalloc(sizeof(*w));
    w->ledger = l;
    w->dead = dead;
    w->batch.engine = journal_engine(dead);
    w->batch.dead = true;
    journal_each(dead, adopt_entry, &w->batch);
    if (!store_write(l->engine->store, loop, flush_transaction, w, recovered, w, &err)) {
        recovered(loop, w, &err);
    }
}
