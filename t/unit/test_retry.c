/* The schedule of attempts: 0, 2, 4, 8, 16 s, give or take a quarter. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/retry.h"

static void doubles_from_two_seconds(void **state)
{
    static const uint64_t waits[] = {2000, 4000, 8000, 16000};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t lowest = UINT64_MAX, highest = 0, sum = 0;
        for (uint64_t random = 0; random < 100000; random++) {
            uint64_t ms = retry_wait_ms(i + 1, 2000, 0, random);
            lowest = ms < lowest ? ms : lowest;
            highest = ms > highest ? ms : highest;
            sum += ms;
        }
        assert_int_equal(lowest, waits[i] - waits[i] / 4);
        assert_int_equal(highest, waits[i] + waits[i] / 4);
        assert_in_range(sum / 100000, waits[i] * 98 / 100, waits[i] * 102 / 100);
    }
}

static void honours_a_longer_retry_after(void **state)
{
    (void)state;
    assert_int_equal(retry_wait_ms(1, 2000, 60, 7), 60000);
    assert_in_range(retry_wait_ms(5, 2000, 1, 7), 24000, 40000);
}

static void has_an_end(void **state)
{
    const uint64_t day = 24ull * 3600 * 1000;

    (void)state;
    assert_in_range(retry_wait_ms(100, UINT32_MAX, 0, UINT64_MAX), 1, day + day / 4);
    assert_in_range(retry_wait_ms(100, 1, 0, 0), day - day / 4, day);
    assert_in_range(retry_wait_ms(1, 1, 0, UINT64_MAX), 0, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doubles_from_two_seconds),
        cmocka_unit_test(honours_a_longer_retry_after),
        cmocka_unit_test(has_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
