#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/*
 * How often a thread looks for work before it sleeps, about 100 µs. A token of a model takes
 * hundreds of loops of some ten µs; waking a thread for each would cost an eighth of the time.
 */
#define SPINS 2000

typedef struct {
    cpu_pool *pool;
    uint32_t index;
    pthread_t thread;
} worker;

struct cpu_pool {
    /*
     * left counts the chunks of the loop that nobody has taken, undone those that are not
     * finished. Whoever lowers left holds a chunk, so undone is not zero, so the loop is not
     * over and what describes it stays as it is: it is read after left was lowered, never
     * before. A thread that comes late finds nothing, or a chunk of the next loop.
     */
    _Alignas(64) atomic_uint left;
    _Alignas(64) atomic_uint undone;

    /* the loop: written while undone is zero, before left */
    _Alignas(64) cpu_pool_fn fn;
    void *arg;
    uint32_t n;
    uint32_t grain;
    uint32_t n_chunks;

    /* who sleeps raises its flag, then looks once more; who has news for it tells first, then
     * looks at the flag: both sequentially consistent, so one of them sees the other */
    atomic_uint sleepers;
    atomic_bool caller_sleeps;
    pthread_mutex_t lock;
    pthread_cond_t start;
    pthread_cond_t done;
    bool stop; /* under lock */

    uint32_t n_workers; /* the caller is not counted */
    worker *workers;
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void finish_chunk(cpu_pool *p)
{
    if (atomic_fetch_sub(&p->undone, 1) == 1 && atomic_load(&p->caller_sleeps)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

/* False if there was none. */
static bool do_chunk(cpu_pool *p, uint32_t thread)
{
    unsigned left = atomic_load_explicit(&p->left, memory_order_relaxed);
    uint32_t begin;

    do {
        if (left == 0) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(
        &p->left, &left, left - 1, memory_order_acquire, memory_order_relaxed));
    begin = (p->n_chunks - left) * p->grain;
    p->fn(p->arg, begin, p->n - begin < p->grain ? p->n : begin + p->grain, thread);
    finish_chunk(p);
    return true;
}

/* Until there may be work; false: the pool ends. */
static bool wait_for_work(cpu_pool *p)
{
    bool stop;

    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->left, memory_order_relaxed) > 0) {
            return true;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->left) == 0 && !p->stop) {
        pthread_cond_wait(&p->start, &p->lock);
    }
    atomic_fetch_sub(&p->sleepers, 1);
    stop = p->stop;
    pthread_mutex_unlock(&p->lock);
    return !stop;
}

static void *worker_main(void *arg)
{
    worker *w = arg;

    while (wait_for_work(w->pool)) {
        while (do_chunk(w->pool, w->index)) {
        }
    }
    return NULL;
}

cpu_pool *cpu_pool_new(uint32_t n_threads)
{
    cpu_pool *p = aligned_alloc(64, sizeof(*p));

    if (p == NULL) {
        return NULL;
    }
    *p = (cpu_pool){.workers = calloc(n_threads, sizeof(*p->workers))};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    if (p->workers == NULL) {
        cpu_pool_free(p);
        return NULL;
    }
    for (uint32_t i = 1; i < n_threads; i++) {
        worker *w = &p->workers[p->n_workers];

        w->pool = p;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            cpu_pool_free(p);
            return NULL;
        }
        p->n_workers++;
    }
    return p;
}

void cpu_pool_free(cpu_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_workers; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

uint32_t cpu_pool_size(const cpu_pool *p)
{
    return p->n_workers + 1;
}

static void begin_loop(cpu_pool *p)
{
    atomic_store_explicit(&p->undone, p->n_chunks, memory_order_relaxed);
    atomic_store(&p->left, p->n_chunks);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->start);
        pthread_mutex_unlock(&p->lock);
    }
}

/* The others finish what they have; who was held up by the machine gets our processor. */
static void end_loop(cpu_pool *p)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->undone, memory_order_acquire) == 0) {
            return;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->undone) > 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

void cpu_pool_run(cpu_pool *p, uint32_t n, uint32_t grain, cpu_pool_fn fn, void *arg)
{
    if (n <= grain || p->n_workers == 0) {
        fn(arg, 0, n, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    p->grain = grain;
    p->n_chunks = (n + grain - 1) / grain;
    begin_loop(p);
    while (do_chunk(p, 0)) {
    }
    end_loop(p);
}
