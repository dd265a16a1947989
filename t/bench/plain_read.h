/*
 * A plain read of memory by some threads: what any work on so many bytes costs at least.
 */

#ifndef BENCH_PLAIN_READ_H
#define BENCH_PLAIN_READ_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include "measure.h"

#define PLAIN_READ_THREADS 256

typedef struct {
    const uint64_t *data;
    size_t n;
    uint64_t sum; /* keeps the compiler from leaving the loop out */
} plain_part;

static inline void *plain_add_up(void *arg)
{
    plain_part *p = arg;
    uint64_t sums[8] = {0};

    for (size_t i = 0; i + 8 <= p->n; i += 8) {
        __builtin_prefetch(p->data + i + 128);
        for (size_t j = 0; j < 8; j++) {
            sums[j] += p->data[i + j];
        }
    }
    for (size_t j = 0; j < 8; j++) {
        p->sum += sums[j];
    }
    return NULL;
}

/* GB/s of one pass. data: whole words; at most PLAIN_READ_THREADS. */
static inline double plain_read(const void *data, size_t bytes, int threads)
{
    size_t share = bytes / (size_t)threads / 64 * 64;
    pthread_t ids[PLAIN_READ_THREADS];
    plain_part parts[PLAIN_READ_THREADS];
    uint64_t start = now_ns(CLOCK_MONOTONIC);

    for (int i = 0; i < threads; i++) {
        parts[i] = (plain_part){
            .data = (const uint64_t *)(const void *)((const char *)data + share * (size_t)i),
            .n = share / 8};
        if (pthread_create(&ids[i], NULL, plain_add_up, &parts[i]) != 0) {
            die("no thread to read with");
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
    return (double)(share * (size_t)threads) / (double)(now_ns(CLOCK_MONOTONIC) - start);
}

#endif
