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

static void those_of_a_time_lie_between_it_and_the_next(void **state)
{
    char id[AIQ_ID_SIZE], from[AIQ_ID_SIZE], to[AIQ_ID_SIZE];
    int64_t ms = aiq_id(id, "use_");

    (void)state;
    assert_in_range(ms, aiq_now_ms() - 60000, aiq_now_ms());
    aiq_id_at(from, "use_", ms);
    aiq_id_at(to, "use_", ms + 1);
    assert_true(strcmp(from, id) <= 0 && strcmp(id, to) < 0);
    aiq_id_at(from, "use_", INT64_MIN);
    aiq_id_at(to, "use_", INT64_MAX);
    assert_string_equal(from, "use_0000000000");
    assert_string_equal(to, "use_ZZZZZZZZZZ");
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

static void one_that_is_owned_names_its_owner(void **state)
{
    char id[AIQ_ID_SIZE], other[AIQ_ID_SIZE];
    uint32_t owner = 0;

    (void)state;
    aiq_id_owned(id, "x_", 0x3fffffff);
    aiq_id_owned(other, "x_", 0x3fffffff);
    assert_int_equal(strlen(id), 28);
    assert_string_not_equal(id, other);
    assert_true(aiq_id_owner(id, 28, "x_", &owner));
    assert_int_equal(owner, 0x3fffffff);
    aiq_id_owned(id, "x_", 5 << 10 | 1);
    assert_true(aiq_id_owner(id, 28, "x_", &owner));
    assert_int_equal(owner, 5 << 10 | 1);
}

static void what_is_no_such_id_has_no_owner(void **state)
{
    char id[AIQ_ID_SIZE];
    uint32_t owner;

    (void)state;
    aiq_id_owned(id, "x_", 1);
    assert_false(aiq_id_owner(id, 27, "x_", &owner));
    assert_false(aiq_id_owner(id, 28, "y_", &owner));
    assert_false(aiq_id_owner("", 0, "x_", &owner));
    id[27] = 'u'; /* not in the alphabet */
    assert_false(aiq_id_owner(id, 28, "x_", &owner));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_a_prefix_and_26_digits),
        cmocka_unit_test(sorts_by_time),
        cmocka_unit_test(those_of_a_time_lie_between_it_and_the_next),
        cmocka_unit_test(no_two_are_the_same),
        cmocka_unit_test(one_that_is_owned_names_its_owner),
        cmocka_unit_test(what_is_no_such_id_has_no_owner),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
