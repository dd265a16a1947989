#include "ledger/transactions.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void engine_name(char out[17], uint64_t engine)
{
    snprintf(out, 17, "%016" PRIx64, engine);
}

/* Events. */

/* True and *fresh: the store did not have it yet. */
static bool add_event(store_db *db, const journal_entry *e, bool *fresh, aiq_err *err)
{
    static const char sql[] =
        "INSERT INTO usage_events (id, time_ms, request_id, tenant, user_name, key_id, model, "
        "provider, target, status, tokens_in, tokens_cached, tokens_out, tokens_reasoning, "
        "cost_nano_usd, estimated, duration_us, first_token_us) VALUES ($1, $2, $3, $4, $5, "
        "$6, "
        "$7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT (id) DO NOTHING";
    bool ok = store_exec(db, err, sql, "sisssssssiiiiiiiii", e->id, e->started_ms,
                         e->request_id, e->tenant, e->user, e->key_id, e->model, e->provider,
                         e->target, (int64_t)e->status, e->used.input, e->used.cached,
                         e->used.output, e->used.reasoning, e->used.nano_usd,
                         (int64_t)(e->estimated != 0), e->duration_us, e->first_token_us);

    *fresh = ok && store_changed(db) > 0;
    return ok;
}

static bool spend(store_db *db, const char *engine, const char *account, int64_t used,
                  aiq_err *err)
{
    static const char account_sql[] =
        "INSERT INTO budget_accounts (id, spent) VALUES ($1, $2) "
        "ON CONFLICT (id) DO UPDATE SET spent = budget_accounts.spent + excluded.spent";
    static const char lease_sql[] =
        "UPDATE budget_leases SET amount = CASE WHEN amount > $1 THEN amount - $1 ELSE 0 END "
        "WHERE account = $2 AND engine = $3";

    return store_exec(db, err, account_sql, "si", account, used) &&
           store_exec(db, err, lease_sql, "iss", used, account, engine);
}

static int by_account(const void *a, const void *b)
{
    return strcmp(((const ledger_share *)a)->account, ((const ledger_share *)b)->account);
}

/* Mostly one event after the other takes from the same account. */
static size_t add_shares(ledger_share *shares, size_t n, const ledger_event *event)
{
    for (size_t i = 0; i < event->n_shares; i++) {
        if (n > 0 && shares[n - 1].account == event->shares[i].account) {
            shares[n - 1].used += event->shares[i].used;
        } else {
            shares[n++] = event->shares[i];
        }
    }
    return n;
}

/* What each account gave, once an account, always in the same order: so engines that
 * share a store never wait for each other in a circle. */
static bool spend_all(store_db *db, const char *engine, ledger_share *shares, size_t n,
                      aiq_err *err)
{
    qsort(shares, n, sizeof(*shares), by_account);
    for (size_t i = 0; i < n;) {
        const char *account = shares[i].account;
        int64_t used = 0;
        for (; i < n && strcmp(shares[i].account, account) == 0; i++) {
            used += shares[i].used;
        }
        if (!spend(db, engine, account, used, err)) {
            return false;
        }
    }
    return true;
}

/* Nobody needs to wait until its leases have run out; its streams' neither. */
static bool bury_engine(store_db *db, const char *engine, aiq_err *err)
{
    return store_exec(db, err, "DELETE FROM budget_leases WHERE engine = $1", "s", engine) &&
           store_exec(db, err, "DELETE FROM engines WHERE id = $1", "s", engine);
}

bool ledger_store_events(store_db *db, const ledger_batch *batch, aiq_err *err)
{
    ledger_share *shares = aiq_alloc((batch->n * JOURNAL_BUDGETS + 1) * sizeof(*shares));
    size_t n = 0;
    char engine[17];
    bool ok = true, fresh;

    engine_name(engine, batch->engine);
    for (size_t i = 0; ok && i < batch->n; i++) {
        const ledger_event *event = &batch->events[i];
        ok = add_event(db, event->entry, &fresh, err);
        if (ok && fresh) {
            n = add_shares(shares, n, event);
        }
    }
    ok = ok && spend_all(db, engine, shares, n, err) &&
         (!batch->dead || bury_engine(db, engine, err));
    free(shares);
    return ok;
}

/* Leases. */

static bool read_number(store_rows *rows, int64_t *number, aiq_err *err)
{
    *number = store_next(rows) ? store_int(rows, 0) : 0;
    return store_rows_end(rows, err);
}

/* The account's name without its period is that of its budget. */
static bool read_own_limit(store_db *db, ledger_lease *l, aiq_err *err)
{
    aiq_str name = {l->account, (size_t)(strrchr(l->account, '/') - l->account)};
    store_rows *rows = store_query(db, "SELECT amount FROM budgets WHERE name = $1", "t", name);

    l->own_limit = store_next(rows) ? store_int(rows, 0) : INT64_MAX;
    return store_rows_end(rows, err);
}

bool ledger_store_lease(store_db *db, ledger_lease *l, aiq_err *err)
{
    static const char spent_sql[] = "SELECT spent FROM budget_accounts WHERE id = $1";
    static const char over_sql[] =
        "DELETE FROM budget_leases WHERE account = $1 AND expires_ms < $2";
    static const char others_sql[] = "SELECT COALESCE(SUM(amount), 0) FROM budget_leases WHERE "
                                     "account = $1 AND engine <> $2";
    static const char set_sql[] =
        "INSERT INTO budget_leases (account, engine, amount, expires_ms) VALUES ($1, $2, $3, "
        "$4) "
        "ON CONFLICT (account, engine) DO UPDATE SET amount = excluded.amount, "
        "expires_ms = excluded.expires_ms";
    int64_t others;
    char engine[17];

    engine_name(engine, l->engine);
    if (!store_exec(db, err, over_sql, "si", l->account, l->now_ms) ||
        !read_number(store_query(db, spent_sql, "s", l->account), &l->spent, err) ||
        !read_number(store_query(db, others_sql, "ss", l->account, engine), &others, err)) {
        return false;
    }
    if (!read_own_limit(db, l, err)) {
        return false;
    }
    if (l->own_limit < l->question.limit) {
        l->question.limit = l->own_limit;
    }
    l->leased = budget_grant(&l->question, l->spent, others);
    if (l->leased == 0) {
        return store_exec(db, err,
                          "DELETE FROM budget_leases WHERE account = $1 AND engine = $2", "ss",
                          l->account, engine);
    }
    return store_exec(db, err, set_sql, "ssii", l->account, engine, l->leased,
                      l->now_ms + BUDGET_LEASE_MS);
}
