#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct {
    cpu_pool *pool;
    uint32_t index;
    pthread_t thread;
} worker;

struct cpu_pool {
    pthread_mutex_t lock;
    pthread_cond_t start;
    pthread_cond_t done;

    /* under lock; round counts the loops, so that a worker joins each at most once */
    uint32_t round;
    uint32_t busy;
    bool stop;

    /* written before round moves, read after: the lock orders them */
    cpu_pool_fn fn;
    void *arg;
    uint32_t n;
    uint32_t grain;
    atomic_uint next;

    uint32_t n_workers; /* the caller is not counted */
    worker *workers;
};

static void take_chunks(cpu_pool *p, uint32_t thread)
{
    for (;;) {
        uint32_t begin = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);

        if (begin >= p->n) {
            return;
        }
        p->fn(p->arg, begin, p->n - begin < p->grain ? p->n : begin + p->grain, thread);
    }
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    cpu_pool *p = w->pool;
    uint32_t seen = 0;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->round == seen && !p->stop) {
            pthread_cond_wait(&p->start, &p->lock);
        }
        if (p->stop) {
            break;
        }
        seen = p->round;
        pthread_mutex_unlock(&p->lock);
        take_chunks(p, w->index);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0) {
            pthread_cond_signal(&p->done);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

cpu_pool *cpu_pool_new(uint32_t n_threads)
{
    cpu_pool *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    p->workers = calloc(n_threads, sizeof(*p->workers));
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
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);

    pthread_mutex_lock(&p->lock);
    p->busy = p->n_workers;
    p->round++;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);

    take_chunks(p, 0);

    pthread_mutex_lock(&p->lock);
    while (p->busy > 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}
