#include "core/breaker.h"

static breaker_state load_state(const breaker *b)
{
    return __atomic_load_n(&b->state, __ATOMIC_ACQUIRE);
}

/* Of one that is not closed: when there may be a test. */
static uint64_t due(const breaker *b)
{
    return __atomic_load_n(&b->since_ns, __ATOMIC_RELAXED) +
           __atomic_load_n(&b->open_ns, __ATOMIC_RELAXED);
}

/* Under the lock. since_ns before the state: who sees the state must not see an old time. */
static void change(breaker *b, breaker_state state, uint64_t since_ns)
{
    __atomic_store_n(&b->since_ns, since_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&b->failures, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&b->state, state, __ATOMIC_RELEASE);
}

void breaker_init(breaker *b)
{
    *b = (breaker){.failures_max = UINT32_MAX};
    pthread_mutex_init(&b->lock, NULL);
}

void breaker_free(breaker *b)
{
    pthread_mutex_destroy(&b->lock);
}

void breaker_set(breaker *b, uint32_t failures_max, uint32_t open_ms)
{
    pthread_mutex_lock(&b->lock);
    b->failures_max = failures_max;
    __atomic_store_n(&b->open_ns, open_ms * 1000000ull, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&b->lock);
}

uint64_t breaker_wait_ns(const breaker *b, uint64_t now_ns)
{
    uint64_t at = load_state(b) == BREAKER_CLOSED ? 0 : due(b);

    return at > now_ns ? at - now_ns : 0;
}

bool breaker_admits(const breaker *b, uint64_t now_ns)
{
    return breaker_wait_ns(b, now_ns) == 0;
}

breaker_verdict breaker_admit(breaker *b, uint64_t now_ns)
{
    breaker_verdict verdict = BREAKER_REFUSE;

    if (load_state(b) == BREAKER_CLOSED) {
        return BREAKER_PASS;
    }
    pthread_mutex_lock(&b->lock);
    if (b->state == BREAKER_CLOSED) {
        verdict = BREAKER_PASS;
    } else if (due(b) <= now_ns) {
        change(b, BREAKER_HALF_OPEN, now_ns);
        verdict = BREAKER_TEST;
    }
    pthread_mutex_unlock(&b->lock);
    return verdict;
}

bool breaker_success(breaker *b, bool test)
{
    bool changed;

    if (!test && __atomic_load_n(&b->failures, __ATOMIC_RELAXED) == 0) {
        return false;
    }
    pthread_mutex_lock(&b->lock);
    changed = test && b->state == BREAKER_HALF_OPEN;
    if (changed || b->state == BREAKER_CLOSED) {
        change(b, BREAKER_CLOSED, 0);
    }
    pthread_mutex_unlock(&b->lock);
    return changed;
}

bool breaker_failure(breaker *b, bool test, uint64_t now_ns)
{
    bool changed = false;

    pthread_mutex_lock(&b->lock);
    if (b->state == BREAKER_CLOSED) {
        uint32_t failures = b->failures + 1;
        __atomic_store_n(&b->failures, failures, __ATOMIC_RELAXED);
        changed = failures >= b->failures_max;
    } else {
        changed = test && b->state == BREAKER_HALF_OPEN;
    }
    if (changed) {
        change(b, BREAKER_OPEN, now_ns);
    }
    pthread_mutex_unlock(&b->lock);
    return changed;
}

void breaker_abandon(breaker *b, bool test, uint64_t now_ns)
{
    if (test) {
        pthread_mutex_lock(&b->lock);
        if (b->state == BREAKER_HALF_OPEN) {
            change(b, BREAKER_OPEN, now_ns - b->open_ns); /* due at once */
        }
        pthread_mutex_unlock(&b->lock);
    }
}

breaker_state breaker_look(const breaker *b)
{
    return load_state(b);
}
