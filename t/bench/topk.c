/*
 * The nearest of many vectors, beside a plain read of the same memory by as many threads.
 *
 *     topk ROWS COLUMNS K THREADS
 *
 * prints {"topk_ms":…,"read_ms":…}: the best of some passes of each, taken in turn.
 */
#include <string.h>
#include "kernels/aiq_kernels.h"
#include "plain_read.h"

#define PASSES 15

/* f16 of random signs and sizes from 1/16 to 1/8. */
static void fill(uint16_t *rows, size_t n)
{
    uint64_t s = 1;

    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        rows[i] = (uint16_t)(0x2c00 | (s >> 54) | (s >> 33 & 0x8000));
    }
}

static double search_ms(kern_rows *rows, const float *query, uint32_t k)
{
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    kern_hit hits[KERN_TOPK_MAX];
    uint32_t n;

    if (!aiq_kernels_cpu.topk(rows, query, k, hits, &n) || n != k) {
        die("topk: %u of %u rows", n, k);
    }
    return (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e6;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        die("usage: topk ROWS COLUMNS K THREADS");
    }
    uint32_t n = (uint32_t)atoi(argv[1]), cols = (uint32_t)atoi(argv[2]);
    uint32_t k = (uint32_t)atoi(argv[3]);
    size_t bytes = ((size_t)n * cols * 2 + 63) & ~(size_t)63;
    uint16_t *rows = aligned_alloc(64, bytes);
    float *query = calloc(cols, sizeof(*query));
    int threads = atoi(argv[4]);
    kern_device *dev = aiq_kernels_cpu.open(0, (uint32_t)threads);
    kern_rows *of = dev != NULL ? aiq_kernels_cpu.rows_load(dev, rows, n, cols) : NULL;
    double best = 1e9, read = 1e9;

    if (rows == NULL || query == NULL || of == NULL) {
        die("topk: out of memory");
    }
    fill(rows, bytes / 2);
    for (uint32_t i = 0; i < cols; i++) {
        query[i] = i % 3 ? 0.5f : -0.5f;
    }
    for (int i = 0; i < PASSES; i++) {
        double ms = search_ms(of, query, k);
        best = ms < best ? ms : best;
        ms = (double)bytes / 1e6 / plain_read(rows, bytes, threads);
        read = ms < read ? ms : read;
    }
    printf("{\"topk_ms\":%.3f,\"read_ms\":%.3f}\n", best, read);
    aiq_kernels_cpu.rows_free(of);
    aiq_kernels_cpu.close(dev);
    free(rows);
    free(query);
    return 0;
}
