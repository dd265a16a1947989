#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "ledger/impl.h"
#include "ledger/transactions.h"

#define ASK_AGAIN 100 /* ms, while calls wait for what others hold */

/* Accounts. The lock is held in what follows, unless said otherwise. */

static aiq_str subject_of(const ledger_order *order, policy_scope scope)
{
    return scope == POLICY_TENANT ? AIQ_STR("")
           : scope == POLICY_USER ? order->user
                                  : order->key_id;
}

static uint32_t hash_bytes(uint32_t hash, const void *data, size_t n)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ p[i]) * 16777619u; /* FNV-1a */
    }
    return hash;
}

static budget_account *account_new(const policy_budget *budget, aiq_str tenant, aiq_str subject,
                                   int64_t now_ms)
{
    budget_account *a = aiq_zalloc(sizeof(*a));
    aiq_buf id = {0};

    a->scope = budget->scope;
    a->unit = budget->unit;
    a->period = budget->period;
    a->span = budget_span_at(budget->period, now_ms);
    a->tenant = ledger_copy(tenant);
    a->subject = ledger_copy(subject);
    a->own_limit = INT64_MAX;
    a->last_waiting = &a->waiting;
    budget_account_id(&id, a->scope, tenant, subject, a->unit, a->period, a->span.starts_ms);
    a->id = (char *)ledger_copy((aiq_str){(char *)id.data, id.len}).data;
    aiq_buf_free(&id);
    return a;
}

static void account_free(budget_account *a)
{
    free((char *)a->tenant.data);
    free((char *)a->subject.data);
    free(a->id);
    free(a);
}

/* The account of the present period. */
static budget_account *find_account(ledger *l, const policy_budget *budget,
                                    const ledger_order *order, int64_t now_ms)
{
    aiq_str subject = subject_of(order, budget->scope);
    uint32_t seed = 2166136261u ^ (uint32_t)budget->scope << 2 ^ (uint32_t)budget->unit << 1 ^
                    (uint32_t)budget->period;
    uint32_t hash = hash_bytes(hash_bytes(seed, order->tenant.data, order->tenant.len),
                               subject.data, subject.len);
    budget_account **first = &l->accounts[hash % LEDGER_BUCKETS], *a;

    for (a = *first; a; a = a->next) {
        if (a->hash == hash && a->scope == budget->scope && a->unit == budget->unit &&
            a->period == budget->period && now_ms >= a->span.starts_ms &&
            now_ms < a->span.ends_ms && aiq_str_eq(a->tenant, order->tenant) &&
            aiq_str_eq(a->subject, subject)) {
            break;
        }
    }
    if (a == NULL) {
        a = account_new(budget, order->tenant, subject, now_ms);
        a->hash = hash;
        a->next = *first;
        *first = a;
    }
    a->limit = budget->amount;
    return a;
}

/* Calls that wait. */

static void enqueue(ledger *l, budget_account *a, ledger_call *call)
{
    call->state = CALL_WAITING;
    call->waits_for = a;
    call->next = NULL;
    *a->last_waiting = call;
    a->last_waiting = &call->next;
    l->n_waiting++;
}

static void dequeue(ledger *l, ledger_call *call)
{
    budget_account *a = call->waits_for;
    ledger_call **p = &a->waiting;

    while (*p != call) {
        p = &(*p)->next;
    }
    *p = call->next;
    if (call->next == NULL) {
        a->last_waiting = p;
    }
    call->waits_for = NULL;
    l->n_waiting--;
}

/* Without the lock, on the calls' loop. */
static void deliver(aiq_loop *loop, void *arg)
{
    ledger *l = arg;

    for (;;) {
        pthread_mutex_lock(&l->lock);
        ledger_call *call = l->ready[loop->index];
        if (call) {
            l->ready[loop->index] = call->next;
            if (call->next == NULL) {
                l->last_ready[loop->index] = &l->ready[loop->index];
            }
            call->state = call->refused.status ? CALL_NONE : CALL_BEGUN;
        }
        pthread_mutex_unlock(&l->lock);
        if (call == NULL) {
            return;
        }
        call->ready(call, call->refused.status ? &call->refused : NULL);
    }
}

/* The call goes on, or is refused where call->refused says so. */
static void make_ready(ledger *l, ledger_call *call)
{
    unsigned loop = call->loop->index;

    if (call->refused.status) {
        accounts_forget(l, call->entry, call->accounts);
        call->entry = NULL;
    }
    call->state = CALL_READY;
    call->next = NULL;
    if (l->ready[loop] == NULL) {
        loop_post(call->loop, deliver, l);
    }
    *l->last_ready[loop] = call;
    l->last_ready[loop] = &call->next;
}

/* Refusals. */

static void refuse_spent(ledger *l, budget_account *a, aiq_err *err)
{
    static const char *const scopes[] = {"tenant", "user", "API key"};

    metric_add(l->refused_spent, 1);
    if (!a->refused) {
        a->refused = true;
        ledger_tell(l, a, "budget.exceeded");
    }
    aiq_fail(err, 402, "budget_exceeded", "The budget of this %s for this %s is used up.",
             scopes[a->scope], a->period == POLICY_DAY ? "day" : "month");
    aiq_err_detail(err, "%.200s: limit %" PRId64 ", spent %" PRId64, a->id, budget_limit(a),
                   a->spent + a->used);
    err->retryable = false;
}

static void refuse_reserved(ledger *l, const budget_account *a, aiq_err *err)
{
    metric_add(l->refused_reserved, 1);
    aiq_fail(err, 429, "budget_reserved",
             "What is left of the budget is held by other requests; try again.");
    aiq_err_detail(err, "%.200s", a->id);
    err->retry_after = 1;
}

static void refuse_nobody(policy_scope scope, aiq_err *err)
{
    aiq_fail(err, 403, "identity_required",
             scope == POLICY_KEY ? "There is a budget for each API key here: use one."
                                 : "There is a budget for each user here: say who you are.");
}

/* Holding. */

/* The first of a call's accounts that does not cover it, and what it answers. */
static budget_account *lacking(const ledger_call *call, int64_t now_ms, budget_answer *answer)
{
    budget_account *lacks = NULL;

    *answer = BUDGET_FITS;
    for (size_t i = 0; i < call->entry->n_budgets; i++) {
        budget_account *a = call->accounts[i];
        budget_answer one = budget_look(a, call->entry->budgets[i].held, now_ms);
        if (one > *answer) {
            *answer = one;
            lacks = a;
        }
    }
    return lacks;
}

static void hold(ledger_call *call)
{
    for (size_t i = 0; i < call->entry->n_budgets; i++) {
        budget_hold(call->accounts[i], call->entry->budgets[i].held);
    }
    journal_publish(call->entry, JOURNAL_HELD);
}

static void ask(ledger *l, budget_account *a, int64_t amount, int64_t now_ms);
static void need_tick(ledger *l);

static int64_t needs(const ledger_call *call, const budget_account *a)
{
    for (size_t i = 0; i < call->entry->n_budgets; i++) {
        if (call->accounts[i] == a) {
            return call->entry->budgets[i].held;
        }
    }
    return 0;
}

/* Lets go on whoever fits by now, in the order in which they came: a large call is
 * not overtaken for ever by small ones. */
static void serve(ledger *l, budget_account *a, int64_t now_ms)
{
    ledger_call *call;

    while ((call = a->waiting) != NULL) {
        budget_answer answer;
        budget_account *lacks = lacking(call, now_ms, &answer);

        if (answer == BUDGET_LACKS && lacks == a) {
            return;
        }
        dequeue(l, call);
        if (answer == BUDGET_LACKS) {
            enqueue(l, lacks, call);
            ask(l, lacks, needs(call, lacks), now_ms);
            continue;
        }
        if (answer == BUDGET_SPENT) {
            refuse_spent(l, lacks, &call->refused);
        } else {
            hold(call);
        }
        make_ready(l, call);
    }
}

static void refuse_waiting(ledger *l, budget_account *a, const aiq_err *why)
{
    ledger_call *call;

    while ((call = a->waiting) != NULL) {
        dequeue(l, call);
        ledger_unrecorded(l, why, &call->refused);
        make_ready(l, call);
    }
}

/* Leases. */

typedef struct {
    ledger *ledger;
    budget_account *account;
    int64_t asked_ms; /* loop clock: the lease lasts from here */
    ledger_lease lease;
} lease_question;

/* Loop 0, without the lock. */
static void lease_answered(aiq_loop *loop, void *arg, const aiq_err *err)
{
    lease_question *q = arg;
    ledger *l = q->ledger;
    budget_account *a = q->account;
    int64_t now = ledger_clock_ms();

    (void)loop;
    pthread_mutex_lock(&l->lock);
    if (err) {
        budget_unanswered(a);
        refuse_waiting(l, a, err);
    } else {
        a->own_limit = q->lease.own_limit;
        budget_answered(a, q->lease.leased, q->lease.spent,
                        q->asked_ms + BUDGET_LEASE_MS - BUDGET_MARGIN_MS);
        bool more = budget_free(a, now) > 0;
        serve(l, a, now);
        if (more && a->waiting) { /* else what is left is held by others: see tick() */
            ask(l, a, needs(a->waiting, a), now);
        }
    }
    pthread_mutex_unlock(&l->lock);
    free(q);
}

static bool lease_transaction(store_db *db, void *arg, aiq_err *err)
{
    lease_question *q = arg;

    return ledger_store_lease(db, &q->lease, err);
}

static void send_question(aiq_loop *loop, void *arg)
{
    lease_question *q = arg;
    aiq_err err;

    if (!store_write(q->ledger->engine->store, loop, lease_transaction, q, lease_answered, q,
                     &err)) {
        lease_answered(loop, q, &err);
    }
}

/* amount 0: renews the lease, or gives back what nobody has used since the last look. */
static void ask(ledger *l, budget_account *a, int64_t amount, int64_t now_ms)
{
    if (a->asking) {
        return;
    }
    lease_question *q = aiq_zalloc(sizeof(*q));
    q->ledger = l;
    q->account = a;
    q->asked_ms = now_ms;
    q->lease = (ledger_lease){
        .engine = l->engine->id,
        .account = a->id,
        .question = budget_ask(a, amount, now_ms),
        .now_ms = aiq_now_ms(),
    };
    loop_post(ledger_home(l), send_question, q);
}

/* While calls wait: once the rest is held by others, only time tells. Loop 0. */

static void tick_account(ledger *l, budget_account *a, int64_t now_ms)
{
    ledger_call *call, *next;

    for (call = a->waiting; call; call = next) {
        next = call->next;
        if (now_ms >= call->deadline_ms) {
            dequeue(l, call);
            refuse_reserved(l, a, &call->refused);
            make_ready(l, call);
        }
    }
    serve(l, a, now_ms);
    if (a->waiting) {
        ask(l, a, needs(a->waiting, a), now_ms);
    }
}

static void tick(aiq_loop *loop, void *arg)
{
    ledger *l = arg;
    int64_t now = ledger_clock_ms();

    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < LEDGER_BUCKETS && l->n_waiting; i++) {
        for (budget_account *a = l->accounts[i]; a; a = a->next) {
            if (a->waiting) {
                tick_account(l, a, now);
            }
        }
    }
    bool again = l->n_waiting > 0;
    l->tick_posted = again;
    pthread_mutex_unlock(&l->lock);
    if (again) {
        loop_timer_start(loop, &l->tick_timer, ASK_AGAIN, tick, l);
    }
}

static void start_tick(aiq_loop *loop, void *arg)
{
    ledger *l = arg;

    loop_timer_start(loop, &l->tick_timer, ASK_AGAIN, tick, l);
}

static void need_tick(ledger *l)
{
    if (!l->tick_posted) {
        l->tick_posted = true;
        loop_post(ledger_home(l), start_tick, l);
    }
}

/* Calls. */

/* False: a budget is one of nobody's, who must not spend it. */
static bool find_budgets(ledger *l, ledger_call *call, const ledger_order *order, aiq_err *err)
{
    journal_entry *e = call->entry;

    e->n_budgets = 0;
    for (size_t i = 0; i < order->n_budgets; i++) {
        const policy_budget *b = &order->budgets[i];
        if (b->scope != POLICY_TENANT && subject_of(order, b->scope).len == 0) {
            refuse_nobody(b->scope, err);
            return false;
        }
        budget_account *a = find_account(l, b, order, e->started_ms);
        a->calls++;
        call->accounts[e->n_budgets] = a;
        e->budgets[e->n_budgets++] = (journal_budget){
            .scope = (uint8_t)a->scope,
            .unit = (uint8_t)a->unit,
            .period = (uint8_t)a->period,
            .starts_ms = a->span.starts_ms,
            .held = ledger_share_of(a->unit, &order->most),
        };
    }
    return true;
}

ledger_answer accounts_hold(ledger *l, ledger_call *call, const ledger_order *order,
                            aiq_err *err)
{
    int64_t now = ledger_clock_ms();
    budget_answer answer;

    if (!find_budgets(l, call, order, err)) {
        return LEDGER_REFUSED;
    }
    budget_account *lacks = lacking(call, now, &answer);
    if (answer == BUDGET_FITS) {
        hold(call);
        call->state = CALL_BEGUN;
        return LEDGER_BEGUN;
    }
    if (answer == BUDGET_SPENT) {
        refuse_spent(l, lacks, err);
        return LEDGER_REFUSED;
    }
    if (l->n_waiting == LEDGER_WAITING) {
        refuse_reserved(l, lacks, err);
        return LEDGER_REFUSED;
    }
    call->deadline_ms = now + LEDGER_WAIT_MS;
    bool first = lacks->waiting == NULL;
    enqueue(l, lacks, call);
    if (first) {
        ask(l, lacks, needs(call, lacks), now);
    }
    need_tick(l);
    return LEDGER_WAITS;
}

/* What the call held is free again, but for what it used. */
void accounts_release(ledger *l, ledger_call *call)
{
    int64_t now_ms = ledger_clock_ms();
    const journal_entry *e = call->entry;

    for (size_t i = 0; i < e->n_budgets; i++) {
        budget_account *a = call->accounts[i];
        budget_settle(a, e->budgets[i].held, e->budgets[i].used);
        serve(l, a, now_ms);
    }
}

static void unready(ledger *l, ledger_call *call)
{
    ledger_call **p = &l->ready[call->loop->index];

    while (*p != call) {
        p = &(*p)->next;
    }
    *p = call->next;
    if (call->next == NULL) {
        l->last_ready[call->loop->index] = p;
    }
}

/* Leases that are used are renewed, others given back. */

/* The store knows as much, and a warning is not said twice in a period. */
static bool rests(const budget_account *a, int64_t now_ms)
{
    return a->calls == 0 && a->leased == 0 && !a->active && !a->asking &&
           ((!a->warned && !a->refused) || now_ms >= a->span.ends_ms);
}

void accounts_renew(ledger *l)
{
    int64_t now = ledger_clock_ms(), unix_ms = aiq_now_ms();

    for (size_t i = 0; i < LEDGER_BUCKETS; i++) {
        for (budget_account **p = &l->accounts[i], *a; (a = *p) != NULL;) {
            if (rests(a, unix_ms)) {
                *p = a->next;
                account_free(a);
                continue;
            }
            if (a->leased > 0 || a->active || a->own_limit < INT64_MAX) {
                ask(l, a, 0, now);
            }
            p = &a->next;
        }
    }
}

void accounts_forget(ledger *l, journal_entry *entry, budget_account *const *accounts)
{
    for (size_t i = 0; i < entry->n_budgets; i++) {
        accounts[i]->calls--;
    }
    journal_give_back(l->journal, entry);
}

void accounts_leave(ledger *l, ledger_call *call)
{
    if (call->state == CALL_WAITING) {
        dequeue(l, call);
    } else if (call->state == CALL_READY) {
        unready(l, call);
    }
}

void accounts_free(ledger *l)
{
    for (size_t i = 0; i < LEDGER_BUCKETS; i++) {
        while (l->accounts[i]) {
            budget_account *a = l->accounts[i];
            l->accounts[i] = a->next;
            account_free(a);
        }
    }
}
