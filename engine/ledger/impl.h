/*
 * The ledger's insides, shared by its files:
 *
 *     ledger.c        a call, from its begin to its end
 *     accounts.c      who may hold what, who waits for it, and the leases
 *     storing.c       what has ended goes to the store; what dead engines left, too
 *     transactions.c  what those do in the store
 *     budget.c        an account's arithmetic
 *     journal.c       what outlives the process
 */

#ifndef AIQ_LEDGER_IMPL_H
#define AIQ_LEDGER_IMPL_H

#include <pthread.h>
#include "engine.h"
#include "ledger/ledger.h"

#define LEDGER_BUCKETS 1024u

typedef enum { CALL_NONE, CALL_WAITING, CALL_READY, CALL_BEGUN } call_state;

/* A settled call, until the store has it. */
typedef struct {
    journal_entry *entry;
    budget_account *accounts[JOURNAL_BUDGETS];
} settled_call;

struct ledger {
    aiq_engine *engine;
    char *folder;
    pthread_mutex_t lock; /* all that follows, but for what is said to be loop 0's */
    journal *journal;
    budget_account *accounts[LEDGER_BUCKETS];
    unsigned n_waiting;
    ledger_call **ready, ***last_ready; /* of each loop: calls that may go on */
    settled_call *settled;              /* a queue; the oldest first */
    size_t n_settled, settled_size;
    bool flush_posted, tick_posted;
    /* loop 0's */
    size_t storing; /* of settled, at its front: on their way to the store */
    loop_timer flush_timer, tick_timer, heartbeat;
    metric *pending, *let_go, *overdrafts, *warnings;
    metric *refused_spent, *refused_reserved, *refused_unrecorded;
};

/* Milliseconds of the loops' clock. */
int64_t ledger_clock_ms(void);
/* Where the ledger's own work is done. */
aiq_loop *ledger_home(ledger *l);
/* Owned by the caller. */
aiq_str ledger_copy(aiq_str text);
/* An event of the topic of its tenant's budgets. */
void ledger_tell(ledger *l, const budget_account *a, const char *type);
/* 503. */
void ledger_unrecorded(ledger *l, const aiq_err *why, aiq_err *err);

/* accounts.c. The lock is held. */

/* Nobody needs a call's entry any more, nor through it these accounts. */
void accounts_forget(ledger *l, journal_entry *entry, budget_account *const *accounts);

/* Finds the call's accounts, and holds its most from them if it can. The call's entry
 * is written; LEDGER_REFUSED leaves it to the caller. */
ledger_answer accounts_hold(ledger *l, ledger_call *call, const ledger_order *order,
                            aiq_err *err);
/* The call has ended and used what its entry says. */
void accounts_release(ledger *l, ledger_call *call);
/* The call does not wait any more. */
void accounts_leave(ledger *l, ledger_call *call);
/* Renews leases that are used, gives others back; accounts that rest are freed. */
void accounts_renew(ledger *l);
/* At the end. */
void accounts_free(ledger *l);

/* What a call takes of a budget in this unit. */
int64_t ledger_share_of(policy_unit unit, const journal_usage *usage);

/* storing.c */

/* The call goes to the store with others, soon. The lock is held. */
void storing_add(ledger *l, const ledger_call *call);
/* All that is left, at once. After the loops have ended. */
void storing_finish(ledger *l);
/* Stores what a dead engine left, if there is one. Loop 0. */
void storing_recover(ledger *l, aiq_loop *loop);

#endif
