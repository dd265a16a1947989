#include "infer/watched.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Waiting goes by steps, and each counts once: a process that was stopped meanwhile, or a
 * machine, must not take its own absence for the device's. */
#define STEP_MS 100

struct watched {
    pthread_t thread;
    void *own;
    void (*end)(void *own);

    pthread_mutex_t lock;
    pthread_cond_t work; /* call or leaving is set */
    pthread_cond_t done; /* call is NULL again, or the thread has ended */

    /* under lock */
    void (*call)(void *own); /* NULL: none is under way */
    bool leaving;            /* no call will come */
    bool ended;              /* own is freed */
    bool left;               /* nobody waits for the thread, which frees this */
};

static void free_watched(watched *w)
{
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->done);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void run_calls(watched *w)
{
    pthread_mutex_lock(&w->lock);
    for (;;) {
        void (*call)(void *own) = w->call;

        if (call != NULL) {
            pthread_mutex_unlock(&w->lock);
            call(w->own);
            pthread_mutex_lock(&w->lock);
            w->call = NULL;
            pthread_cond_signal(&w->done);
        } else if (w->leaving) {
            break;
        } else {
            pthread_cond_wait(&w->work, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
}

static void *watched_main(void *arg)
{
    watched *w = arg;
    bool left;

    run_calls(w);
    w->end(w->own);
    pthread_mutex_lock(&w->lock);
    w->ended = true;
    left = w->left;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
    if (left) {
        free_watched(w);
    }
    return NULL;
}

watched *watched_new(void *own, void (*end)(void *own))
{
    watched *w = calloc(1, sizeof(*w));
    pthread_condattr_t clock;

    if (w == NULL) {
        return NULL;
    }
    w->own = own;
    w->end = end;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->work, &clock);
    pthread_cond_init(&w->done, &clock);
    pthread_condattr_destroy(&clock);
    if (pthread_create(&w->thread, NULL, watched_main, w) != 0) {
        free_watched(w);
        return NULL;
    }
    return w;
}

/* Waits for the thread so long at most; false: that was all of it. Under the lock. */
static bool wait_for(watched *w, uint32_t ms)
{
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += ms % 1000 * 1000000L;
    if (end.tv_nsec >= 1000000000L) {
        end.tv_nsec -= 1000000000L;
        end.tv_sec++;
    }
    return pthread_cond_timedwait(&w->done, &w->lock, &end) != ETIMEDOUT;
}

static bool is_idle(const watched *w)
{
    return w->leaving ? w->ended : w->call == NULL;
}

/* Under the lock, but to ask. */
static bool wait_idle(watched *w, uint32_t limit_ms, watched_wanted wanted, void *arg)
{
    uint32_t left = limit_ms;

    while (!is_idle(w) && left > 0) {
        uint32_t ms = left < STEP_MS ? left : STEP_MS;

        if (wait_for(w, ms)) {
            continue;
        }
        left -= ms;
        if (wanted == NULL) {
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        bool goes_on = wanted(arg);
        pthread_mutex_lock(&w->lock);
        if (!goes_on) {
            left = left < WATCHED_GRACE_MS ? left : WATCHED_GRACE_MS;
            wanted = NULL;
        }
    }
    return is_idle(w);
}

bool watched_call(watched *w, void (*call)(void *own), uint32_t limit_ms, watched_wanted wanted,
                  void *arg)
{
    bool returned;

    pthread_mutex_lock(&w->lock);
    w->call = call;
    pthread_cond_signal(&w->work);
    returned = wait_idle(w, limit_ms, wanted, arg);
    pthread_mutex_unlock(&w->lock);
    return returned;
}

bool watched_free(watched *w, uint32_t limit_ms, watched_wanted wanted, void *arg)
{
    pthread_t thread = w->thread;
    bool ended;

    pthread_mutex_lock(&w->lock);
    bool given_up = w->call != NULL;
    w->leaving = true;
    pthread_cond_signal(&w->work);
    ended = wait_idle(w, given_up ? 0 : limit_ms, wanted, arg);
    w->left = !ended;
    pthread_mutex_unlock(&w->lock);
    if (ended) {
        pthread_join(thread, NULL);
        free_watched(w);
    } else {
        pthread_detach(thread);
    }
    return ended;
}
