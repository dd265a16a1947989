/*
 * How fast threads can read a file that is in memory: what a model's tokens cost at least.
 *
 *     read FILE THREADS
 *
 * prints {"gbps":GB/s}, of the best of some passes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define PASSES      7
#define MAX_THREADS 256

typedef struct {
    const uint64_t *data;
    size_t n;
    uint64_t sum; /* keeps the compiler from leaving the loop out */
} part;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *add_up(void *arg)
{
    part *p = arg;
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

static double pass(part *parts, int n, size_t bytes)
{
    pthread_t threads[MAX_THREADS];
    double start = now();

    for (int i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, add_up, &parts[i]) != 0) {
            perror("pthread_create");
            exit(1);
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    return (double)bytes / (now() - start) / 1e9;
}

int main(int argc, char **argv)
{
    int n = argc == 3 ? atoi(argv[2]) : 0, fd = n > 0 ? open(argv[1], O_RDONLY) : -1;
    part parts[MAX_THREADS];
    struct stat st;
    double best = 0;
    const char *data;
    size_t share;

    if (fd < 0 || n > MAX_THREADS || fstat(fd, &st) != 0) {
        fprintf(stderr, "usage: read FILE THREADS\n");
        return 2;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED) {
        perror(argv[1]);
        return 1;
    }
    share = (size_t)st.st_size / (size_t)n / 64 * 64;
    for (int i = 0; i < n; i++) {
        parts[i] = (part){.data = (const uint64_t *)(const void *)(data + share * (size_t)i),
                          .n = share / 8};
    }
    for (int i = 0; i < PASSES; i++) {
        double rate = pass(parts, n, share * (size_t)n);

        best = rate > best ? rate : best;
    }
    printf("{\"gbps\":%.2f}\n", best);
    return 0;
}
