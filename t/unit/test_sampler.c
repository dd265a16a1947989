/* From logits to a token: greedy, the cuts, the distribution, the seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "infer/sampler.h"

enum { N = 6, DRAWS = 40000 };

static sampler_candidate scratch[N];
static uint32_t counts[N];
static const sampler_context nothing_said;

/* A copy of the logits goes in, for they are changed. */
static int32_t pick(sampler *s, const sampler_context *context, const float *logits)
{
    float copy[N];
    int32_t id;

    memcpy(copy, logits, sizeof(copy));
    id = sampler_pick(s, context, copy, N, scratch, counts);
    for (int i = 0; i < N; i++) {
        assert_int_equal(counts[i], 0);
    }
    return id;
}

/* Relative frequencies of ids under s. */
static void frequencies_in(sampler s, const sampler_context *context, const float *logits,
                           double out[N])
{
    for (int i = 0; i < N; i++) {
        out[i] = 0;
    }
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = pick(&s, context, logits);

        assert_in_range(id, 0, N - 1);
        out[id] += 1.0 / DRAWS;
    }
}

static void frequencies(sampler s, const float *logits, double out[N])
{
    frequencies_in(s, &nothing_said, logits, out);
}

static void near(double got, double want)
{
    if (fabs(got - want) > 0.015) {
        fail_msg("frequency %g, want %g", got, want);
    }
}

static void greedy_takes_the_first_of_the_best(void **state)
{
    float logits[N] = {1, 5, 3, 5, -1, 0};
    sampler s = {.temperature = 0};

    (void)state;
    assert_int_equal(pick(&s, &nothing_said, logits), 1);
    logits[5] = 6;
    assert_int_equal(pick(&s, &nothing_said, logits), 5);
}

static void temperature_scales(void **state)
{
    const float logits[N] = {logf(4), logf(3), logf(2), logf(1), -INFINITY, -INFINITY};
    const double cold[] = {16, 9, 4, 1};
    double f[N];

    (void)state;
    frequencies((sampler){.temperature = 1, .state = 1}, logits, f);
    for (int i = 0; i < 4; i++) {
        near(f[i], (4 - i) / 10.0);
    }
    assert_true(f[4] == 0 && f[5] == 0);
    frequencies((sampler){.temperature = 0.5f, .state = 2}, logits, f);
    for (int i = 0; i < 4; i++) {
        near(f[i], cold[i] / 30);
    }
}

static void top_k_keeps_k(void **state)
{
    const float logits[N] = {logf(1), logf(3), logf(2), logf(4), logf(0.5f), logf(0.25f)};
    double f[N];

    (void)state;
    frequencies((sampler){.temperature = 1, .top_k = 2, .state = 3}, logits, f);
    near(f[3], 4.0 / 7);
    near(f[1], 3.0 / 7);
    assert_true(f[0] + f[2] + f[4] + f[5] == 0);
    frequencies((sampler){.temperature = 1, .top_k = 1, .state = 3}, logits, f);
    assert_true(f[3] > 0.999);
}

static void top_p_keeps_the_nucleus(void **state)
{
    const float logits[N] = {logf(1), logf(3), logf(2), logf(4), -INFINITY, -INFINITY};
    double f[N];

    (void)state;
    frequencies((sampler){.temperature = 1, .top_p = 0.65f, .state = 4}, logits, f);
    near(f[3], 4.0 / 7);
    near(f[1], 3.0 / 7);
    assert_true(f[0] + f[2] == 0);
    frequencies((sampler){.temperature = 1, .top_p = 0.75f, .state = 5}, logits, f);
    near(f[2], 2.0 / 9);
    assert_true(f[0] == 0);
    frequencies((sampler){.temperature = 1, .top_p = 1e-6f, .state = 6}, logits, f);
    assert_true(f[3] > 0.999);
}

static void both_cuts(void **state)
{
    const float logits[N] = {logf(1), logf(3), logf(2), logf(4), -INFINITY, -INFINITY};
    double f[N];

    /* of the best three (4, 3, 2) the nucleus of 0.7 is (4, 3) */
    (void)state;
    frequencies((sampler){.temperature = 1, .top_k = 3, .top_p = 0.7f, .state = 7}, logits, f);
    near(f[3], 4.0 / 7);
    near(f[1], 3.0 / 7);
}

static void seeds_repeat(void **state)
{
    const float logits[N] = {1, 1, 1, 1, 1, 1};
    sampler a = {.temperature = 1, .state = 42}, b = a, c = {.temperature = 1, .state = 43};
    int same = 0;

    (void)state;
    for (int i = 0; i < 100; i++) {
        int32_t x = pick(&a, &nothing_said, logits);

        assert_int_equal(x, pick(&b, &nothing_said, logits));
        same += x == pick(&c, &nothing_said, logits);
    }
    assert_in_range(same, 2, 50);
}

static void what_is_no_number_is_an_error(void **state)
{
    float logits[N] = {1, 2, NAN, 3, 4, 5};
    sampler s = {.temperature = 1};

    (void)state;
    assert_int_equal(pick(&s, &nothing_said, logits), -1);
    logits[2] = INFINITY;
    assert_int_equal(pick(&s, &nothing_said, logits), -1);
    for (int i = 0; i < N; i++) {
        logits[i] = -INFINITY;
    }
    assert_int_equal(pick(&s, &nothing_said, logits), -1);
}

/* --- all steps together, against a plain version of them in float64 --- */

static int by_weight(const void *a, const void *b, void *arg)
{
    const double *w = arg;
    int x = *(const int *)a, y = *(const int *)b;

    return w[x] != w[y] ? (w[x] < w[y] ? 1 : -1) : x - y;
}

static int times(const int32_t *ids, uint32_t n, int id)
{
    int found = 0;

    for (uint32_t i = 0; i < n; i++) {
        found += ids[i] == id;
    }
    return found;
}

/* The probability of each token. */
static void reference(const sampler *s, const sampler_context *c, const float *logits,
                      double out[N])
{
    double w[N], max = -INFINITY, sum = 0, reached = 0;
    int order[N], kept = N;

    for (int i = 0; i < N; i++) {
        int in_answer = times(c->ids + c->n_prompt, c->n_answer, i);

        w[i] = logits[i];
        for (size_t k = 0; k < s->n_bias; k++) {
            w[i] += s->bias[k].id == i ? s->bias[k].bias : 0;
        }
        if (s->repetition > 0 && times(c->ids, c->n_prompt + c->n_answer, i) > 0) {
            w[i] = w[i] > 0 ? w[i] / s->repetition : w[i] * s->repetition;
        }
        w[i] -= s->frequency * in_answer + (in_answer > 0 ? s->presence : 0);
        if (c->mask != NULL && !(c->mask[0] >> i & 1)) {
            w[i] = -INFINITY;
        }
        max = fmax(max, w[i]);
    }
    for (int i = 0; i < N; i++) {
        w[i] = exp((w[i] - max) / s->temperature);
        order[i] = i;
        out[i] = 0;
    }
    qsort_r(order, N, sizeof(*order), by_weight, w);
    kept = s->top_k > 0 && s->top_k < N ? (int)s->top_k : N;
    for (int i = 0; i < kept; i++) {
        sum += w[order[i]];
    }
    for (int i = 0; s->top_p > 0 && s->top_p < 1 && i < kept; i++) {
        reached += w[order[i]];
        if (reached >= s->top_p * sum) {
            kept = i + 1;
        }
    }
    while (w[order[kept - 1]] < s->min_p * w[order[0]]) {
        kept--;
    }
    sum = 0;
    for (int i = 0; i < kept; i++) {
        sum += w[order[i]];
    }
    for (int i = 0; i < kept; i++) {
        out[order[i]] = w[order[i]] / sum;
    }
}

static float one_of(const float *values, size_t n)
{
    return values[(size_t)rand() % n];
}

#define ONE_OF(...) one_of((const float[]){__VA_ARGS__}, sizeof((float[]){__VA_ARGS__}) / 4)

static void as_the_reference_has_it(void **state)
{
    (void)state;
    srand(5);
    for (int round = 0; round < 60; round++) {
        int32_t ids[8];
        uint64_t mask = 0x2d;
        float logits[N];
        double got[N], want[N];
        const sampler_bias bias[] = {{2, 1.5f}, {4, -100}};
        sampler_context c = {.ids = ids, .n_prompt = 4, .n_answer = (uint32_t)rand() % 5};
        sampler s = {.temperature = ONE_OF(0.5f, 1, 1.7f),
                     .top_k = (uint32_t)ONE_OF(0, 0, 3, 5),
                     .top_p = ONE_OF(0, 0, 0.55f, 0.83f),
                     .min_p = ONE_OF(0, 0, 0.11f, 0.37f),
                     .repetition = ONE_OF(0, 0, 1.3f, 0.8f),
                     .frequency = ONE_OF(0, 0, 0.4f, -0.3f),
                     .presence = ONE_OF(0, 0, 0.6f, -0.5f),
                     .bias = bias,
                     .n_bias = (size_t)ONE_OF(0, 2),
                     .state = (uint64_t)round};

        for (int i = 0; i < 8; i++) {
            ids[i] = rand() % N;
        }
        for (int i = 0; i < N; i++) {
            logits[i] = (float)(rand() % 4001) / 1000 - 2;
        }
        c.mask = rand() % 3 == 0 ? &mask : NULL;
        frequencies_in(s, &c, logits, got);
        reference(&s, &c, logits, want);
        for (int i = 0; i < N; i++) {
            if (fabs(got[i] - want[i]) > 0.015 || (want[i] == 0) != (got[i] == 0)) {
                fail_msg("round %d: token %d: %g, want %g", round, i, got[i], want[i]);
            }
        }
    }
}

static void masks_bind_the_greedy_too(void **state)
{
    const float logits[N] = {1, 5, 3, 4, -1, 0};
    uint64_t mask = 1 << 0 | 1 << 2 | 1 << 5;
    sampler_context c = {.mask = &mask};
    sampler s = {.temperature = 0};

    (void)state;
    assert_int_equal(pick(&s, &c, logits), 2);
    mask = 0;
    assert_int_equal(pick(&s, &c, logits), -1);
}

static void log_probabilities(void **state)
{
    const float logits[N] = {1, 5, 3, 5, -INFINITY, 2};
    int32_t top[N];
    double sum = 0, log_sum = sampler_log_sum(logits, N);

    (void)state;
    for (int i = 0; i < N; i++) {
        sum += exp(logits[i] - log_sum);
    }
    assert_true(fabs(sum - 1) < 1e-12);
    sampler_top(logits, N, 4, top);
    assert_memory_equal(top, ((const int32_t[]){1, 3, 2, 5}), 4 * sizeof(*top));
    sampler_top(logits, N, N, top);
    assert_memory_equal(top, ((const int32_t[]){1, 3, 2, 5, 0, 4}), sizeof(top));
    sampler_top(logits, N, 0, top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_best),
        cmocka_unit_test(temperature_scales),
        cmocka_unit_test(top_k_keeps_k),
        cmocka_unit_test(top_p_keeps_the_nucleus),
        cmocka_unit_test(both_cuts),
        cmocka_unit_test(seeds_repeat),
        cmocka_unit_test(what_is_no_number_is_an_error),
        cmocka_unit_test(as_the_reference_has_it),
        cmocka_unit_test(masks_bind_the_greedy_too),
        cmocka_unit_test(log_probabilities),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
