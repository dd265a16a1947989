/* From logits to a token: greedy, the cuts, the distribution, the seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>

#include "infer/sampler.h"

enum { N = 6, DRAWS = 40000 };

static sampler_candidate scratch[N];

/* Relative frequencies of ids under s. */
static void frequencies(sampler s, const float *logits, double out[N])
{
    for (int i = 0; i < N; i++) {
        out[i] = 0;
    }
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = sampler_pick(&s, logits, N, scratch);

        assert_in_range(id, 0, N - 1);
        out[id] += 1.0 / DRAWS;
    }
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
    assert_int_equal(sampler_pick(&s, logits, N, scratch), 1);
    logits[5] = 6;
    assert_int_equal(sampler_pick(&s, logits, N, scratch), 5);
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
        int32_t x = sampler_pick(&a, logits, N, scratch);

        assert_int_equal(x, sampler_pick(&b, logits, N, scratch));
        same += x == sampler_pick(&c, logits, N, scratch);
    }
    assert_in_range(same, 2, 50);
}

static void what_is_no_number_is_an_error(void **state)
{
    float logits[N] = {1, 2, NAN, 3, 4, 5};
    sampler s = {.temperature = 1};

    (void)state;
    assert_int_equal(sampler_pick(&s, logits, N, scratch), -1);
    logits[2] = INFINITY;
    assert_int_equal(sampler_pick(&s, logits, N, scratch), -1);
    for (int i = 0; i < N; i++) {
        logits[i] = -INFINITY;
    }
    assert_int_equal(sampler_pick(&s, logits, N, scratch), -1);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
