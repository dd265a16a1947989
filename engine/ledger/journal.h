/*
 * The journal: the calls of models that are under way, in a file mapped into
 * memory. A call is written down before its provider is asked and struck out once
 * the store has its usage; so what an engine knew when it was killed is still
 * there for the next one, at the price of a few stores to memory. (The page cache
 * outlives a process, not the machine: with the power go at most the calls of the
 * last moments.)
 *
 * An entry is free, then held (with the most it may cost), then settled (with what
 * it did cost), then free again. Each step is published by the entry's state, last,
 * so whoever reads after a kill sees whole steps only.
 *
 * A folder has a file an engine, named by its id and locked by it for as long as it
 * lives. Whoever gets the lock of another's file has found a dead engine's.
 */

#ifndef AIQ_JOURNAL_H
#define AIQ_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "aiq_frame.h"
#include "core/err.h"
#include "core/id.h"

#define JOURNAL_BUDGETS 8     /* that one call may count against: its location's, its key's */
#define JOURNAL_ENTRIES 65536 /* calls at once, of one engine */

typedef enum { JOURNAL_FREE, JOURNAL_HELD, JOURNAL_SETTLED } journal_state;

/* What a call used. -1: not known. */
typedef struct {
    int64_t input;     /* tokens of the prompt, cached ones included */
    int64_t cached;    /* of input */
    int64_t output;    /* tokens of the answer, reasoning included */
    int64_t reasoning; /* of output */
    int64_t nano_usd;
} journal_usage;

/* A budget that a call counts against: whose follows from the entry. */
typedef struct {
    uint8_t scope, unit, period; /* policy.h */
    int64_t starts_ms;           /* the period's first moment, Unix */
    int64_t held, used;          /* tokens or nano-USD */
} journal_budget;

typedef struct {
    uint32_t state; /* journal_state */
    uint32_t n_budgets;
    /* held */
    char id[AIQ_ID_SIZE];
    char request_id[68];
    char tenant[AIQ_IDENTITY_MAX + 1], user[AIQ_IDENTITY_MAX + 1], key_id[68];
    char model[132];
    int64_t started_ms; /* Unix */
    journal_usage most;
    journal_budget budgets[JOURNAL_BUDGETS];
    /* settled */
    char provider[132], target[132];
    journal_usage used;
    int64_t duration_us, first_token_us;
    uint32_t status;
    uint32_t estimated; /* used is not what the provider said */
} journal_entry;

typedef struct journal journal;

/* Makes this engine's file. NULL and *err where the folder cannot be used. */
journal *journal_new(const char *folder, uint64_t engine, aiq_err *err);
/* The file stays where it has entries left, for the next engine; else it goes. */
void journal_free(journal *j);

/* An entry to fill in, or NULL and *err: too many calls, no space. Publish it with
 * journal_publish(). Not thread-safe: the ledger's lock covers both. */
journal_entry *journal_take(journal *j, aiq_err *err);
void journal_give_back(journal *j, journal_entry *e);

/* Makes the entry's present step the one that a successor sees. Any thread. */
void journal_publish(journal_entry *e, journal_state state);

/* A dead engine's journal, or NULL: there is none (any more). Entries that are not
 * free are handed to each() by journal_each(); journal_bury() deletes the file. */
journal *journal_find_dead(const char *folder);
uint64_t journal_engine(const journal *j);
void journal_each(journal *j, void (*each)(void *arg, const journal_entry *e), void *arg);
void journal_bury(journal *j);
/* Leaves it for another look. */
void journal_release(journal *j);

#endif
