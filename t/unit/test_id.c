/* Ids: their form, their order, and that no two are the same. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/id.h"

static void has_a_prefix_and_26_digits(void **state)
{
    char id[AIQ_ID_SIZE];

    (void)state;
    aiq_id(id, "run_");
    assert_memory_equal(id, "run_0", 5); /* until the year 3084 */
    assert_int_equal(strlen(id), 30);
    assert_int_equal(strspn(id + 4, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), 26);
}

static void sorts_by_time(void **state)
{
    static char ids[4096][AIQ_ID_SIZE];

    (void)state;
    for (size_t i = 0; i < 4096; i++) { /* many of them in one millisecond */
        aiq_id(ids[i], "");
        assert_true(i == 0 || strcmp(ids[i - 1], ids[i]) < 0);
    }
}

static void no_two_are_the_same(void **state)
{
    static char ids[4096][AIQ_ID_SIZE];

    (void)state;
    for (size_t i = 0; i < 4096; i++) {
        aiq_id(ids[i], "x_");
        for (size_t j = i > 64 ? i - 64 : 0; j < i; j++) {
            assert_string_not_equal(ids[i], ids[j]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_a_prefix_and_26_digits),
        cmocka_unit_test(sorts_by_time),
        cmocka_unit_test(no_two_are_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
