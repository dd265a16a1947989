/*
 * What the benchmark programs share: a clock, a histogram, and a way to give up.
 */

#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Log-linear: 64 steps an octave, so a percentile is right to 1.6 %. */
#define HISTOGRAM_STEPS   64u
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * 40)

typedef struct {
    uint64_t count, max;
    uint32_t bucket[HISTOGRAM_BUCKETS];
} histogram;

static inline void histogram_add(histogram *h, uint64_t ns)
{
    uint64_t v = ns;
    uint32_t octave = 0;

    while (v >= 2 * HISTOGRAM_STEPS) {
        v >>= 1;
        octave++;
    }
    uint32_t i = octave * HISTOGRAM_STEPS + (uint32_t)v;
    h->bucket[i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1]++;
    h->count++;
    h->max = ns > h->max ? ns : h->max;
}

/* The value below which this share of the samples lies, in microseconds. */
static inline double histogram_at(const histogram *h, double share)
{
    uint64_t want = (uint64_t)((double)h->count * share), seen = 0;

    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > want) {
            uint32_t octave = i < 2 * HISTOGRAM_STEPS ? 0 : i / HISTOGRAM_STEPS - 1;
            double step = (double)(1ull << octave);
            return ((double)(i - octave * HISTOGRAM_STEPS) + 0.5) * step / 1000.0;
        }
    }
    return (double)h->max / 1000.0;
}

static inline uint64_t now_ns(clockid_t clock)
{
    struct timespec ts;

    if (clock_gettime(clock, &ts) != 0) {
        return 0;
    }
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

#endif
