/*
 * Whose an API key is. The store knows; the keyring remembers.
 *
 * Whatever takes something from a key (its end, a lower role, a disabled user)
 * raises the store's epoch of keys in the same transaction. An answer is of the
 * epoch in which it was read, and is remembered while that is the newest epoch
 * and the store has confirmed it within AIQ_EPOCH_MS. So, whichever engine took
 * it away, nothing is granted for longer than that; and while the store does not
 * answer, nothing is granted.
 *
 * Each loop has a ring of its own, bounded, without locks. Loop 0 looks at the
 * epoch every KEYRING_LOOK_MS for all of them. What nobody has is remembered as
 * well, for a shorter time and in less space, so that guessing costs the store
 * little and never drives a real key out.
 */

#ifndef AIQ_KEYRING_H
#define AIQ_KEYRING_H

#include "aiq_frame.h"
#include "core/loop.h"
#include "core/policy.h"
#include "core/pool.h"

#define KEYRING_LOOK_MS    (AIQ_EPOCH_MS / 2)
#define KEYRING_SETS       1024 /* of KEYRING_WAYS each, a loop */
#define KEYRING_WAYS       4
#define KEYRING_LOOKUPS    1024 /* questions to the store under way, a loop; beyond: 503 */
#define KEYRING_UNKNOWN_MS 2000

/* Tries to get an answer of the present epoch; then 503. */
#define KEYRING_TRIES 3

typedef struct keyring keyring;

/* A key is named by the SHA-256 of its text, or by its id. */
typedef enum { KEYRING_HASH, KEYRING_ID } keyring_kind;
#define KEYRING_NAME 32

#define KEYRING_BUDGETS 4 /* of a key: as many as there are units and periods */

typedef struct {
    unsigned status;    /* 200; 401: no such key; 403: disabled; 503: cannot say now */
    uint32_t epoch;     /* in which it was read */
    int64_t expires_ms; /* Unix time; -1: never */
    aiq_str tenant, user, role, key_id;
    aiq_str models;            /* a JSON array of names; empty: every model */
    uint32_t requests, tokens; /* a minute; 0: any number */
    policy_budget budgets[KEYRING_BUDGETS];
    size_t n_budgets;
} keyring_verdict;

/* A question under way, embedded in its owner, who forgets it before it goes. */
typedef struct keyring_ask {
    struct keyring_ask *next, **prev; /* prev NULL: not asked */
    void (*answer)(aiq_loop *loop, void *arg, const keyring_verdict *verdict);
    void *arg;
} keyring_ask;

/* An answer with its texts behind it, one allocation. */
typedef struct {
    keyring_kind kind;
    uint8_t name[KEYRING_NAME];
    uint64_t asked_ns;
    keyring_verdict verdict;
    char text[];
} keyring_entry;

/* A copy of the verdict. Any thread; goes to the keyring with its question. */
keyring_entry *keyring_entry_new(const keyring_verdict *verdict);

/* What the source is asked; the keyring's own. Name: NUL-padded where it is an id. */
typedef struct {
    keyring_kind kind;
    uint8_t name[KEYRING_NAME];
    keyring_entry *entry; /* the source's answer: status 200, 401 or 403; NULL: none */
    bool seen;            /* of look(): epoch is there */
    uint32_t epoch;
} keyring_question;

/* Where the truth is. Each call fills its question, on any thread, and then calls
 * keyring_found() or keyring_looked() on the loop once, later; false: it cannot. */
typedef struct {
    bool (*look_up)(aiq_loop *loop, keyring_question *question);
    bool (*look)(aiq_loop *loop, keyring_question *question);
} keyring_source;

void keyring_found(aiq_loop *loop, keyring_question *question);
void keyring_looked(aiq_loop *loop, keyring_question *question);

/* keys.c: engine->store, and a hash as it stands there. */
extern const keyring_source keyring_store;
#define KEYRING_HEX (2 * KEYRING_NAME + 1)
void keyring_hex(char out[KEYRING_HEX], const uint8_t hash[KEYRING_NAME]);

/* Before the loops run. source NULL: every answer is 503. */
keyring *keyring_new(aiq_engine *engine, const keyring_source *source);
/* After loop_free() of every loop. NULL is fine. */
void keyring_free(keyring *k);

/* The verdict, valid until control returns to the loop; or NULL, and ask->answer comes
 * later. name: KEYRING_NAME bytes of a hash, or an id. On the loop's thread. */
const keyring_verdict *keyring_find(aiq_loop *loop, keyring_kind kind, aiq_str name,
                                    keyring_ask *ask);
/* The answer will not come. Fine also if it was never asked for. */
void keyring_forget(keyring_ask *ask);

/* Calls fn on its loop each time that the store has confirmed the epoch, and at
 * once when it changes. One watcher a loop; before the loops run. */
typedef void (*keyring_watch_fn)(aiq_loop *loop, void *arg, bool changed);
void keyring_watch(aiq_loop *loop, keyring_watch_fn fn, void *arg);

/* The newest epoch that the loop knows of; false: the store has not confirmed it
 * within AIQ_EPOCH_MS. */
bool keyring_epoch(const aiq_loop *loop, uint32_t *epoch);

/* A transaction of ours has raised the epoch. Any thread. */
void keyring_raised(aiq_engine *engine, uint32_t epoch);

#endif
