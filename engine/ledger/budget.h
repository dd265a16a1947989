/*
 * Budgets: how much a tenant, user or key may use in a day or a month, over all
 * engines. The store is the truth: an account there knows what was spent, and what is
 * leased to engines. An engine holds the most that a call may cost out of its lease,
 * in memory; it never promises what is not durably its own, so all engines together
 * never promise more than the budget.
 *
 *     limit >= spent + the leases of all engines             (in the store)
 *     lease  = held by calls + used but not stored + free    (in this engine)
 *
 * A lease is asked for in portions of what a call needs, smaller as the budget nears
 * its end, and given back when it cannot be used. A call that does not fit waits
 * while calls under way may yet turn out cheaper, but not where the budget is spent.
 *
 * This file is the arithmetic: no store, no clock, no thread of its own. The ledger's
 * lock covers it.
 */

#ifndef AIQ_BUDGET_H
#define AIQ_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/policy.h"
#include "core/pool.h"

/* How long a lease lasts, and how long before its end nothing of it is used. */
#define BUDGET_LEASE_MS  60000
#define BUDGET_MARGIN_MS 10000

/* An account's period: its first moment and that of the next, Unix time, UTC. */
typedef struct {
    int64_t starts_ms, ends_ms;
} budget_span;
budget_span budget_span_at(policy_period period, int64_t now_ms);

/* A budget's name in the store: "tenant/acme/usd/month". Names are escaped, so no user
 * can be named like another tenant's. subject: the user's name or the key's id; the
 * tenant's own budget has none. */
void budget_name(aiq_buf *out, policy_scope scope, aiq_str tenant, aiq_str subject,
                 policy_unit unit, policy_period period);

/* Its account in one period: "tenant/acme/usd/month/2026-11". */
void budget_account_id(aiq_buf *out, policy_scope scope, aiq_str tenant, aiq_str subject,
                       policy_unit unit, policy_period period, int64_t starts_ms);

typedef struct budget_account {
    struct budget_account *next; /* of the same hash */
    uint32_t hash;
    policy_scope scope;
    policy_unit unit;
    policy_period period;
    budget_span span;
    aiq_str tenant, subject;
    char *id;               /* in the store */
    int64_t limit;          /* as the newest request's location has it */
    int64_t own_limit;      /* as the store has it; INT64_MAX: it has none */
    int64_t spent;          /* by everybody, as the store last said */
    int64_t leased;         /* to us, durably */
    int64_t lease_until_ms; /* loop clock: nothing of it is used after this */
    int64_t held, used;     /* of leased */
    int64_t stored;         /* of what was used when the lease was asked for, by now */
    unsigned calls;         /* that know it: it stays until they are stored */
    bool asking;            /* the lease is about to change: nothing is taken from it */
    bool active;            /* something was held since the last look */
    bool warned;            /* 80 % were said */
    bool refused;           /* it was said that a call did not fit */
    struct ledger_call *waiting, **last_waiting;
} budget_account;

/* The stricter one. */
int64_t budget_limit(const budget_account *a);

/* What is left of the lease for another call. */
int64_t budget_free(const budget_account *a, int64_t now_ms);

typedef enum {
    BUDGET_FITS,  /* now */
    BUDGET_LACKS, /* the lease does not cover it: ask the store */
    BUDGET_SPENT  /* it cannot fit any more in this period */
} budget_answer;
budget_answer budget_look(const budget_account *a, int64_t amount, int64_t now_ms);

void budget_hold(budget_account *a, int64_t amount);
/* The call is over: it held so much and used so much. */
void budget_settle(budget_account *a, int64_t held, int64_t used);

/* The store has what a call used. */
void budget_stored(budget_account *a, int64_t used);

/* What the store is asked for. */
typedef struct {
    int64_t limit;
    int64_t keep;   /* held + used: stays leased whatever happens */
    int64_t amount; /* of the call that lacks it; 0: only renew or give back */
    int64_t free;   /* may be kept where amount is 0 */
} budget_question;

/* Puts the question; until the answer nothing is taken from the lease. What is used by
 * then may reach the store before the question or after it: questions and usages are
 * told to the store, and answered, in one order. */
budget_question budget_ask(budget_account *a, int64_t amount, int64_t now_ms);
/* The answer, what was spent when it was given, and until when it holds. */
void budget_answered(budget_account *a, int64_t leased, int64_t spent, int64_t until_ms);
/* There is none. */
void budget_unanswered(budget_account *a);

/* The lease that the store grants: spent and others are what it knows then. */
int64_t budget_grant(const budget_question *q, int64_t spent, int64_t others);

/* Has four fifths of the budget gone? */
bool budget_warns(const budget_account *a);

#endif
