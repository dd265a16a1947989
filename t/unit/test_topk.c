/*
 * The rows nearest to a query: against float64 over all rows, for every version of the CPU's
 * operations, every number of threads and odd shapes; by CUDA's own sources in their emulation,
 * and on its devices where there are some. Equal rows come in their order, what is not a number
 * never comes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/devices.h"
#include "kernels/cpu/cpu.h"
#include "quant_ref.h"

enum { F16_NAN = 0x7e00, F16_ONE = 0x3c00, F16_MINUS_ONE = 0xbc00 };

/* Back ends that search, the portable one first. */
static const aiq_kernels *kernels[3];
static uint32_t n_kernels;

/* Of all sizes, subnormal ones, too; none infinite. */
static void fill(uint16_t *rows, size_t n, float *query, size_t cols, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        int bits = (int)(ref_uniform(seed) * 0x7bff);

        rows[i] = (uint16_t)(bits < 0 ? 0x8000 | -bits : bits);
    }
    for (size_t i = 0; i < cols; i++) {
        query[i] = (float)ref_uniform(seed);
    }
}

/* A row's product with the query, and that of their sizes. */
static double exact(const uint16_t *row, const float *query, size_t cols, double *size)
{
    double sum = 0;

    *size = 0;
    for (size_t i = 0; i < cols; i++) {
        double v = ref_f16((const uint8_t *)&row[i]) * (double)query[i];

        sum += v;
        *size += fabs(v);
    }
    return sum;
}

static void scores_are_those_of_float64(void **state)
{
    static uint16_t rows[9 * 1030];
    static float x[1030];
    uint64_t seed = 7;

    (void)state;
    fill(rows, 9 * 1030, x, 1030, &seed);
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        static const size_t cols[] = {1, 3, 8, 15, 16, 17, 31, 32, 33, 100, 384, 1030};

        for (size_t c = 0; c < sizeof(cols) / sizeof(*cols); c++) {
            const cpu_f16_rows all = {rows, rows, 9, cols[c]};
            float out[10];

            out[9] = 123;
            (*o)->dots_f16(out, 9, &all, x, 1);
            assert_true(out[9] == 123);
            for (size_t r = 0; r < 9; r++) {
                double size, want = exact(rows + r * cols[c], x, cols[c], &size);

                assert_true(fabs(out[r] - want) <= 1e-6 * size);
            }
        }
    }
}

/* One search of rows that are loaded for it. */
static uint32_t search(const aiq_kernels *kern, kern_device *dev, const uint16_t *rows,
                       uint32_t n, uint32_t cols, const float *query, uint32_t k,
                       kern_hit *hits)
{
    kern_rows *loaded = kern->rows_load(dev, rows, n, cols);
    uint32_t n_hits = 99;

    if (loaded == NULL || !kern->topk(loaded, query, k, hits, &n_hits)) {
        fail_msg("%s: %s", kern->name, kern->last_error(dev));
    }
    kern->rows_free(loaded);
    return n_hits;
}

static void rows_of_any_width(void **state)
{
    static const uint32_t cols[] = {1, 7, 8, 12, 768, 1000};
    enum { N = 70, K = 10 };
    static uint16_t rows[N * 1000];
    static float query[1000];
    uint64_t seed = 11;

    (void)state;
    for (uint32_t b = 0; b < n_kernels; b++) {
        kern_device *dev = kernels[b]->open(0, 1);

        for (size_t c = 0; c < sizeof(cols) / sizeof(*cols); c++) {
            kern_hit hits[K];
            double size, better;

            fill(rows, (size_t)N * cols[c], query, cols[c], &seed);
            assert_int_equal(search(kernels[b], dev, rows, N, cols[c], query, K, hits), K);
            for (uint32_t h = 0; h < K; h++) {
                double want =
                    exact(rows + (size_t)hits[h].row * cols[c], query, cols[c], &size);

                if (!(fabs(hits[h].score - want) <= 1e-6 * size)) {
                    fail_msg("%s, %u columns: %g, not %g", kernels[b]->name, cols[c],
                             hits[h].score, want);
                }
                assert_true(h == 0 || hits[h].score <= hits[h - 1].score);
            }
            better = 0;
            for (uint32_t r = 0; r < N; r++) {
                better += exact(rows + (size_t)r * cols[c], query, cols[c], &size) >
                          hits[K - 1].score + 1e-6 * size;
            }
            assert_true(better < K);
        }
        kernels[b]->close(dev);
    }
}

/* Rows of -1, 0 and 1: sums are exact, and many are equal. */
static int64_t *ternary(uint16_t *rows, uint32_t n, uint32_t cols, float *query, uint64_t seed)
{
    int64_t *sums = calloc(n + 1, sizeof(*sums));

    for (uint32_t i = 0; i < cols; i++) {
        query[i] = (float)(int)(ref_uniform(&seed) * 3);
    }
    for (size_t i = 0; i < (size_t)n * cols; i++) {
        int w = (int)(ref_uniform(&seed) * 2);

        rows[i] = w == 0 ? 0 : w > 0 ? F16_ONE : F16_MINUS_ONE;
        sums[i / cols] += w * (int64_t)query[i % cols];
    }
    return sums;
}

static void one_search(const aiq_kernels *kern, kern_device *dev, uint32_t n, uint32_t cols,
                       uint32_t k)
{
    uint16_t *rows = malloc(((size_t)n * cols + 1) * sizeof(*rows));
    float *query = malloc(cols * sizeof(*query));
    int64_t *sums = ternary(rows, n, cols, query, (uint64_t)n * 1000 + cols * 10 + k);
    uint32_t want = n < k ? n : k;
    kern_hit hits[KERN_TOPK_MAX];

    assert_int_equal(search(kern, dev, rows, n, cols, query, k, hits), want);
    for (uint32_t h = 0; h < want; h++) {
        uint32_t first = 0;

        for (uint32_t r = 1; r < n; r++) { /* the first of the largest that is left */
            first = sums[r] > sums[first] ? r : first;
        }
        assert_int_equal(hits[h].row, first);
        assert_true((int64_t)hits[h].score == sums[first]);
        sums[first] = INT64_MIN;
    }
    free(rows);
    free(query);
    free(sums);
}

static void searches(const aiq_kernels *kern, uint32_t threads)
{
    static const struct {
        uint32_t n, cols, k;
    } of[] = {{0, 5, 1},
              {1, 5, 1},
              {1, 5, KERN_TOPK_MAX},
              {63, 33, KERN_TOPK_MAX},
              {65, 33, KERN_TOPK_MAX},
              {400, 8, 32},
              {400, 16, 33},
              {1024, 7, 10},
              {5001, 16, 1},
              {5001, 17, KERN_TOPK_MAX}};
    kern_device *dev = kern->open(0, threads);

    for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++) {
        one_search(kern, dev, of[i].n, of[i].cols, of[i].k);
    }
    kern->close(dev);
}

static void the_nearest_are_found(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        searches(&aiq_kernels_cpu, threads);
    }
    for (uint32_t b = 1; b < n_kernels; b++) {
        searches(kernels[b], 1);
    }
}

/* Rows stay for as many searches as are asked of them, none of which sees another's. */
static void rows_are_searched_again(void **state)
{
    const uint16_t rows[] = {F16_MINUS_ONE, F16_ONE, 0};
    const float query[] = {1, -1};

    (void)state;
    for (uint32_t b = 0; b < n_kernels; b++) {
        kern_device *dev = kernels[b]->open(0, 1);
        kern_rows *loaded = kernels[b]->rows_load(dev, rows, 3, 1);

        for (uint32_t i = 0; i < 4; i++) {
            uint32_t n, k = i < 2 ? 3 : 1;
            kern_hit hits[3];

            assert_true(kernels[b]->topk(loaded, &query[i % 2], k, hits, &n));
            assert_int_equal(n, k);
            assert_int_equal(hits[0].row, 1 - i % 2);
            assert_true(hits[0].score == 1);
        }
        kernels[b]->rows_free(loaded);
        kernels[b]->rows_free(NULL);
        kernels[b]->close(dev);
    }
}

static void what_is_no_number_never_comes(void **state)
{
    uint16_t rows[] = {F16_NAN, F16_ONE, F16_NAN, F16_MINUS_ONE, 0x7c00 /* infinity */, 0xfc00};
    const float one = 1, not_a_number = NAN;
    kern_hit hits[6];

    (void)state;
    for (uint32_t b = 0; b < n_kernels; b++) {
        kern_device *dev = kernels[b]->open(0, 1);

        assert_int_equal(search(kernels[b], dev, rows, 6, 1, &one, 6, hits), 4);
        assert_int_equal(hits[0].row, 4);
        assert_int_equal(hits[1].row, 1);
        assert_int_equal(hits[2].row, 3);
        assert_int_equal(hits[3].row, 5);
        assert_true(isinf(hits[3].score) && hits[3].score < 0);
        assert_int_equal(search(kernels[b], dev, rows, 3, 1, &one, 3, hits), 1);
        assert_int_equal(search(kernels[b], dev, rows, 6, 1, &not_a_number, 3, hits), 0);
        kernels[b]->close(dev);
    }
}

static void add_kernels(const char *name, const char *folder, devices **d)
{
    *d = devices_open(name, folder, NULL, NULL);
    if (devices_count(*d) > 1) { /* the CPU is always there */
        kernels[n_kernels++] = devices_at(*d, 0)->kern;
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_float64),
        cmocka_unit_test(rows_of_any_width),
        cmocka_unit_test(the_nearest_are_found),
        cmocka_unit_test(rows_are_searched_again),
        cmocka_unit_test(what_is_no_number_never_comes),
    };
    const char *own = dirname(argv[0]);
    char folder[512];
    devices *emulated, *real;
    int rc;

    (void)argc;
    kernels[n_kernels++] = &aiq_kernels_cpu;
    snprintf(folder, sizeof(folder), "%s/cuda", own);
    add_kernels("emulated", folder, &emulated);
    snprintf(folder, sizeof(folder), "%s/..", own);
    add_kernels("cuda", folder, &real);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    devices_close(emulated);
    devices_close(real);
    return rc;
}
