/*
 * What the ledger does to the store: one transaction a function, run on the store's
 * thread. Each may be repeated without harm, for the answer to a commit can get lost.
 * Private to this room.
 */

#ifndef AIQ_LEDGER_TRANSACTIONS_H
#define AIQ_LEDGER_TRANSACTIONS_H

#include "ledger/budget.h"
#include "ledger/journal.h"
#include "store/store.h"

/* Of one budget of one event; account and used are the batch's to keep. */
typedef struct {
    const char *account;
    int64_t used;
} ledger_share;

typedef struct {
    const journal_entry *entry;
    ledger_share shares[JOURNAL_BUDGETS];
    size_t n_shares;
} ledger_event;

/* Events, and what they take from the accounts and from the engine's leases. */
typedef struct {
    uint64_t engine;
    bool dead; /* the engine is: its leases end with its events */
    ledger_event *events;
    size_t n;
} ledger_batch;
bool ledger_store_events(store_db *db, const ledger_batch *batch, aiq_err *err);

/* Sets a lease, see budget_grant(). */
typedef struct {
    uint64_t engine;
    const char *account;
    budget_question question;
    int64_t now_ms; /* Unix */
    /* the answer */
    int64_t leased, spent;
    int64_t own_limit; /* of the account in the store; INT64_MAX: it has none */
} ledger_lease;
bool ledger_store_lease(store_db *db, ledger_lease *lease, aiq_err *err);

#endif
