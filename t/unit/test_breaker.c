/* The breaker's states, with a clock of the test's own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/breaker.h"

#define SECOND 1000000000ull

static breaker make(uint64_t now)
{
    breaker b;

    breaker_init(&b);
    breaker_set(&b, 5, 30000);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(breaker_admit(&b, now), BREAKER_PASS);
        assert_int_equal(breaker_failure(&b, false, now), i == 4);
    }
    assert_int_equal(breaker_look(&b), BREAKER_OPEN);
    return b;
}

static void opens_after_five_failures_in_a_row(void **state)
{
    breaker b;

    (void)state;
    breaker_init(&b);
    breaker_set(&b, 5, 30000);
    for (int i = 0; i < 4; i++) {
        assert_false(breaker_failure(&b, false, 0));
    }
    assert_false(breaker_success(&b, false)); /* and the row begins anew */
    for (int i = 0; i < 4; i++) {
        assert_false(breaker_failure(&b, false, 0));
    }
    assert_int_equal(breaker_look(&b), BREAKER_CLOSED);
    assert_true(breaker_failure(&b, false, 0));
    assert_int_equal(breaker_look(&b), BREAKER_OPEN);
    breaker_free(&b);
}

static void stays_open_for_thirty_seconds(void **state)
{
    uint64_t t = 1000 * SECOND;
    breaker b = make(t);

    (void)state;
    assert_int_equal(breaker_admit(&b, t), BREAKER_REFUSE);
    assert_int_equal(breaker_wait_ns(&b, t + 10 * SECOND), 20 * SECOND);
    assert_int_equal(breaker_admit(&b, t + 30 * SECOND - 1), BREAKER_REFUSE);
    assert_false(breaker_admits(&b, t + 30 * SECOND - 1));
    assert_true(breaker_admits(&b, t + 30 * SECOND));
    assert_int_equal(breaker_look(&b), BREAKER_OPEN); /* looking changes nothing */
    assert_int_equal(breaker_admit(&b, t + 30 * SECOND), BREAKER_TEST);
    breaker_free(&b);
}

static void lets_one_request_test(void **state)
{
    uint64_t t = 31 * SECOND;
    breaker b = make(0);

    (void)state;
    assert_int_equal(breaker_admit(&b, t), BREAKER_TEST);
    assert_int_equal(breaker_look(&b), BREAKER_HALF_OPEN);
    assert_int_equal(breaker_admit(&b, t), BREAKER_REFUSE);
    assert_int_equal(breaker_admit(&b, t + SECOND), BREAKER_REFUSE);
    assert_true(breaker_success(&b, true));
    assert_int_equal(breaker_look(&b), BREAKER_CLOSED);
    assert_int_equal(breaker_admit(&b, t + SECOND), BREAKER_PASS);
    breaker_free(&b);
}

static void a_failed_test_opens_again(void **state)
{
    uint64_t t = 31 * SECOND;
    breaker b = make(0);

    (void)state;
    assert_int_equal(breaker_admit(&b, t), BREAKER_TEST);
    assert_true(breaker_failure(&b, true, t + SECOND));
    assert_int_equal(breaker_look(&b), BREAKER_OPEN);
    assert_int_equal(breaker_admit(&b, t + 30 * SECOND), BREAKER_REFUSE);
    assert_int_equal(breaker_admit(&b, t + 31 * SECOND), BREAKER_TEST);
    breaker_free(&b);
}

static void only_the_test_decides(void **state)
{
    uint64_t t = 31 * SECOND;
    breaker b = make(0);

    (void)state;
    assert_false(breaker_success(&b, false)); /* begun before it opened */
    assert_int_equal(breaker_look(&b), BREAKER_OPEN);
    assert_int_equal(breaker_admit(&b, t), BREAKER_TEST);
    assert_false(breaker_failure(&b, false, t));
    assert_false(breaker_success(&b, false));
    assert_int_equal(breaker_look(&b), BREAKER_HALF_OPEN);
    breaker_free(&b);
}

static void a_test_without_an_end_is_repeated(void **state)
{
    uint64_t t = 31 * SECOND;
    breaker b = make(0);

    (void)state;
    assert_int_equal(breaker_admit(&b, t), BREAKER_TEST);
    breaker_abandon(&b, true, t);
    assert_int_equal(breaker_admit(&b, t), BREAKER_TEST);
    assert_int_equal(breaker_admit(&b, t + 30 * SECOND - 1), BREAKER_REFUSE);
    assert_int_equal(breaker_admit(&b, t + 30 * SECOND), BREAKER_TEST); /* it was lost */
    breaker_free(&b);
}

static void new_parameters_count_at_once(void **state)
{
    breaker b = make(100 * SECOND);

    (void)state;
    breaker_set(&b, 2, 1000);
    assert_int_equal(breaker_wait_ns(&b, 100 * SECOND), SECOND);
    assert_int_equal(breaker_admit(&b, 101 * SECOND), BREAKER_TEST);
    assert_true(breaker_success(&b, true));
    assert_false(breaker_failure(&b, false, 0));
    assert_true(breaker_failure(&b, false, 0));
    breaker_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_after_five_failures_in_a_row),
        cmocka_unit_test(stays_open_for_thirty_seconds),
        cmocka_unit_test(lets_one_request_test),
        cmocka_unit_test(a_failed_test_opens_again),
        cmocka_unit_test(only_the_test_decides),
        cmocka_unit_test(a_test_without_an_end_is_repeated),
        cmocka_unit_test(new_parameters_count_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
