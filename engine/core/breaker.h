/*
 * A circuit breaker: who fails again and again is left alone for a while.
 *
 *     CLOSED --- failures_max failures in a row ---> OPEN
 *     OPEN ----- open_ms later, with the next request ---> HALF_OPEN
 *     HALF_OPEN  that one request is the test; all others are refused
 *                it succeeds ---> CLOSED;  it fails ---> OPEN again
 *
 * A request asks breaker_admit() before it begins, and tells how it ended with
 * one of success, failure and abandon. The clock is the caller's. Any thread: a
 * closed breaker without failures costs a load at each end, all else a lock.
 */

#ifndef AIQ_BREAKER_H
#define AIQ_BREAKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { BREAKER_CLOSED, BREAKER_HALF_OPEN, BREAKER_OPEN } breaker_state;

typedef struct {
    pthread_mutex_t lock;
    breaker_state state; /* atomic; changed under the lock */
    uint32_t failures;   /* atomic; in a row, while closed */
    uint32_t failures_max;
    uint64_t open_ns;  /* atomic */
    uint64_t since_ns; /* atomic; when it opened, or when its test began; open_ns later there
                          may be a test, for one that tells nothing so long is lost */
} breaker;

void breaker_init(breaker *b);
void breaker_free(breaker *b);
/* The parameters, from now on; also while it is in use. */
void breaker_set(breaker *b, uint32_t failures_max, uint32_t open_ms);

typedef enum { BREAKER_PASS, BREAKER_TEST, BREAKER_REFUSE } breaker_verdict;

/* Would admit() let a request pass? Changes nothing. */
bool breaker_admits(const breaker *b, uint64_t now_ns);
breaker_verdict breaker_admit(breaker *b, uint64_t now_ns);

/* The end of a request; test: admit() said BREAKER_TEST. True: the state has changed by
 * it. What began before a change says nothing about the time after it and is ignored. */
bool breaker_success(breaker *b, bool test);
bool breaker_failure(breaker *b, bool test, uint64_t now_ns);
/* It ended without telling anything: its client left. The next one is the test. */
void breaker_abandon(breaker *b, bool test, uint64_t now_ns);

breaker_state breaker_look(const breaker *b);
/* Nanoseconds until a request may be admitted; 0: now. */
uint64_t breaker_wait_ns(const breaker *b, uint64_t now_ns);

#endif
