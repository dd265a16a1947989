/*
 * Threads that share out one loop at a time. The caller is one of them. Items are taken in
 * chunks from a common counter, so a thread that the machine holds up delays nobody by more
 * than one chunk. Between loops the others look for work for some 100 µs, then they sleep: a
 * model that answers nothing costs nothing.
 */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include <stdint.h>

typedef struct cpu_pool cpu_pool;

/* Items [begin, end); thread is below the pool's size. */
typedef void (*cpu_pool_fn)(void *arg, uint32_t begin, uint32_t end, uint32_t thread);

/* NULL if memory or threads are short. */
cpu_pool *cpu_pool_new(uint32_t n_threads);
void cpu_pool_free(cpu_pool *pool);
uint32_t cpu_pool_size(const cpu_pool *pool);

/* Runs fn over [0, n) in chunks of at most grain items and returns when all is done. A loop
 * of one chunk runs on the caller's thread alone. */
void cpu_pool_run(cpu_pool *pool, uint32_t n, uint32_t grain, cpu_pool_fn fn, void *arg);

#endif
