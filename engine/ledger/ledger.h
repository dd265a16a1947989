/*
 * The ledger: what every call of a model used and cost, and whether whoever asks may
 * still spend that. A call is begun with the most it may use, which its budgets hold,
 * and settled with what it did use; its event goes to the store with others in one
 * transaction, together with what its budgets have spent. So the accounts equal the
 * sum of the events, to the token and the nano-dollar, whenever one looks.
 *
 * Between begin and the store's commit a call stands in the journal. An engine that
 * starts looks for journals of dead ones: what they had settled is stored as it is,
 * what was under way at its most, marked as an estimate.
 *
 * Where the store is away, calls go on until the journal or the leases are used up;
 * then they are refused (503). Nothing is forgotten, nothing is guessed at.
 *
 * Any loop may call. One lock covers the accounts and the journal's free list: it is
 * held for well under a microsecond, which is less than a message to an owner costs.
 */

#ifndef AIQ_LEDGER_H
#define AIQ_LEDGER_H

#include "core/loop.h"
#include "ledger/budget.h"
#include "ledger/journal.h"

typedef struct ledger ledger;

/* How long a call waits for others to turn out cheaper than they might have been. */
#define LEDGER_WAIT_MS 5000
/* Calls that wait, of one engine. */
#define LEDGER_WAITING 4096
/* Events that are not in the store yet, when those that cost nothing are let go. */
#define LEDGER_BEHIND (JOURNAL_ENTRIES / 4)

/* Recovers what dead engines left in `folder`; blocks. After the store, before the
 * loops start. NULL and *err where the folder cannot be used. */
ledger *ledger_open(aiq_engine *engine, const char *folder, aiq_err *err);
/* Hands the store what is settled. After the loops have ended, before store_stop().
 * NULL is fine, here and below. */
void ledger_stop(ledger *l);
/* After store_stop() and loop_flush(). What the store would not take stays in the journal
 * for the next engine. */
void ledger_close(ledger *l);

/* What is not paid for by tokens. */
typedef struct {
    int64_t characters, images; /* to be spoken, to be made */
    int64_t sound_ms;           /* heard */
} ledger_units;

/* Nano-USD, rounded half up once. What has no price or is not known costs nothing. */
int64_t ledger_cost(const policy_price *price, const journal_usage *usage,
                    const ledger_units *units);

/* Nano-USD, at least 0, as USD with all nine decimals; the length. No NUL. */
#define LEDGER_USD_SIZE 32
size_t ledger_write_usd(char text[LEDGER_USD_SIZE], int64_t nano_usd);

/* What is about to be called. Texts are copied. */
typedef struct {
    aiq_str tenant, user, key_id, request_id;
    const char *model;
    journal_usage most; /* input, output, nano_usd; the rest is not looked at */
    const policy_budget *budgets;
    size_t n_budgets;
} ledger_order;

/* A call; its owner embeds it and keeps it until it is settled or dropped. */
typedef struct ledger_call {
    journal_entry *entry;
    budget_account *accounts[JOURNAL_BUDGETS];
    aiq_loop *loop;
    /* On the call's loop, after LEDGER_WAITING: refused is NULL where it may begin. */
    void (*ready)(struct ledger_call *call, const aiq_err *refused);
    struct ledger_call *next; /* that waits for the same account */
    budget_account *waits_for;
    int64_t deadline_ms;
    aiq_err refused;
    unsigned state;
} ledger_call;

/* REFUSED, and *err: 402 budget_exceeded, 429 budget_reserved (the rest is held by
 * others), 503 where it cannot be recorded. */
typedef enum { LEDGER_BEGUN, LEDGER_WAITS, LEDGER_REFUSED } ledger_answer;
ledger_answer ledger_begin(ledger *l, ledger_call *call, const ledger_order *order,
                           aiq_loop *loop,
                           void (*ready)(ledger_call *call, const aiq_err *refused),
                           aiq_err *err);

/* How a call that was begun ended. */
typedef struct {
    unsigned status;
    const char *provider, *target; /* who was called */
    journal_usage used;
    bool estimated;                      /* used is not what the provider said */
    int64_t duration_us, first_token_us; /* -1: there was none */
} ledger_result;
/* True: one of its budgets has used 80 % by now. */
bool ledger_settle(ledger *l, ledger_call *call, const ledger_result *result);

/* What was answered without a call: an event that costs nothing, and that no budget is asked
 * for. While the store is behind, such ones are let go, before they crowd out what must not
 * be lost. */
void ledger_note(ledger *l, const ledger_order *order, const ledger_result *result);

/* The call was not made after all, or its owner does not wait any more. ready() does
 * not come. */
void ledger_drop(ledger *l, ledger_call *call);

/* Budgets in the store have changed: looks at once, where other engines do within 15 s.
 * Any thread. */
void ledger_budgets_changed(ledger *l);

/* Has one of the call's budgets used 80 %? While the call is begun. */
bool ledger_warns(ledger *l, const ledger_call *call);

#endif
