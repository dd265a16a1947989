/*
 * The rows nearest to a query: against float64 over all rows, for every version of the CPU's
 * operations, every number of threads and odd shapes. Equal rows come in their order, what is
 * not a number never comes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "quant_ref.h"

enum { F16_NAN = 0x7e00, F16_ONE = 0x3c00, F16_MINUS_ONE = 0xbc00 };

static void scores_are_those_of_float64(void **state)
{
    static uint16_t rows[9 * 1030];
    static float x[1030];
    uint64_t seed = 7;

    (void)state;
    for (size_t i = 0; i < 9 * 1030; i++) {
        int bits = (int)(ref_uniform(&seed) * 0x7bff); /* subnormal ones, too; none infinite */

        rows[i] = (uint16_t)(bits < 0 ? 0x8000 | -bits : bits);
    }
    for (size_t i = 0; i < 1030; i++) {
        x[i] = (float)ref_uniform(&seed);
    }
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        static const size_t cols[] = {1, 3, 8, 15, 16, 17, 31, 32, 33, 100, 384, 1030};

        for (size_t c = 0; c < sizeof(cols) / sizeof(*cols); c++) {
            const cpu_f16_rows all = {rows, rows, 9, cols[c]};
            float out[10];

            out[9] = 123;
            (*o)->dots_f16(out, 9, &all, x, 1);
            assert_true(out[9] == 123);
            for (size_t r = 0; r < 9; r++) {
                double want = 0, size = 0;

                for (size_t i = 0; i < cols[c]; i++) {
                    double v = ref_f16((const uint8_t *)&rows[r * cols[c] + i]) * (double)x[i];

                    want += v;
                    size += fabs(v);
                }
                assert_true(fabs(out[r] - want) <= 1e-6 * size);
            }
        }
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

static void one_search(kern_device *dev, uint32_t n, uint32_t cols, uint32_t k)
{
    uint16_t *rows = malloc(((size_t)n * cols + 1) * sizeof(*rows));
    float *query = malloc(cols * sizeof(*query));
    int64_t *sums = ternary(rows, n, cols, query, (uint64_t)n * 1000 + cols * 10 + k);
    const kern_topk job = {rows, n, cols, query, k};
    uint32_t n_hits = 99, want = n < k ? n : k;
    kern_hit hits[KERN_TOPK_MAX];

    assert_true(aiq_kernels_cpu.topk(dev, &job, hits, &n_hits));
    assert_int_equal(n_hits, want);
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

static void the_nearest_are_found(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        kern_device *dev = aiq_kernels_cpu.open(0, threads);

        one_search(dev, 0, 5, 1);
        one_search(dev, 1, 5, 1);
        one_search(dev, 1, 5, KERN_TOPK_MAX);
        one_search(dev, 63, 33, KERN_TOPK_MAX);
        one_search(dev, 65, 33, KERN_TOPK_MAX);
        one_search(dev, 1024, 7, 10);
        one_search(dev, 5001, 16, 1);
        one_search(dev, 5001, 17, KERN_TOPK_MAX);
        aiq_kernels_cpu.close(dev);
    }
}

static void what_is_no_number_never_comes(void **state)
{
    uint16_t rows[] = {F16_NAN, F16_ONE, F16_NAN, F16_MINUS_ONE, 0x7c00 /* infinity */};
    kern_device *dev = aiq_kernels_cpu.open(0, 1);
    const float one = 1, not_a_number = NAN;
    kern_hit hits[3];
    uint32_t n;

    (void)state;
    assert_true(aiq_kernels_cpu.topk(dev, &(kern_topk){rows, 5, 1, &one, 3}, hits, &n));
    assert_int_equal(n, 3);
    assert_int_equal(hits[0].row, 4);
    assert_int_equal(hits[1].row, 1);
    assert_int_equal(hits[2].row, 3);
    assert_true(aiq_kernels_cpu.topk(dev, &(kern_topk){rows, 3, 1, &one, 3}, hits, &n));
    assert_int_equal(n, 1);
    assert_true(
        aiq_kernels_cpu.topk(dev, &(kern_topk){rows, 5, 1, &not_a_number, 3}, hits, &n));
    assert_int_equal(n, 0);
    aiq_kernels_cpu.close(dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_float64),
        cmocka_unit_test(the_nearest_are_found),
        cmocka_unit_test(what_is_no_number_never_comes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
