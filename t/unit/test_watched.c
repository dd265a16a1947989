/* Calls that take too long are given up, and what they are about lives as long as they do. */
#include "unit.h"

#include <semaphore.h>
#include <stdlib.h>

#include "infer/watched.h"

#define LONG 600000

/* Both are static, so a thread that is left behind has them. */
static sem_t go_on, ended;

typedef struct {
    int calls;
} thing;

static void count(void *own)
{
    ((thing *)own)->calls++;
}

static void wait_and_count(void *own)
{
    sem_wait(&go_on);
    count(own);
}

static void end(void *own)
{
    free(own);
    sem_post(&ended);
}

static void end_slowly(void *own)
{
    sem_wait(&go_on);
    end(own);
}

static watched *begin(thing **own, void (*how)(void *own))
{
    watched *w;

    *own = calloc(1, sizeof(**own));
    sem_init(&go_on, 0, 0);
    sem_init(&ended, 0, 0);
    w = watched_new(*own, how);
    assert_non_null(w);
    return w;
}

static void a_call_is_waited_for(void **state)
{
    thing *own;
    watched *w = begin(&own, end);

    (void)state;
    for (int i = 1; i < 100; i++) {
        assert_true(watched_call(w, count, LONG, NULL, NULL));
        assert_int_equal(own->calls, i);
    }
    assert_true(watched_free(w, LONG, NULL, NULL));
    assert_int_equal(sem_trywait(&ended), 0);
}

/* What it is about is freed once it has returned, not before. */
static void one_that_takes_too_long_is_given_up(void **state)
{
    thing *own;
    watched *w = begin(&own, end);

    (void)state;
    assert_true(watched_call(w, count, LONG, NULL, NULL));
    assert_false(watched_call(w, wait_and_count, 150, NULL, NULL));
    assert_false(watched_free(w, LONG, NULL, NULL));
    assert_int_equal(sem_trywait(&ended), -1);
    sem_post(&go_on);
    sem_wait(&ended);
}

static void one_that_returns_before_the_end_is_freed_with_it(void **state)
{
    thing *own;
    watched *w = begin(&own, end);

    (void)state;
    assert_false(watched_call(w, wait_and_count, 150, NULL, NULL));
    sem_post(&go_on);
    watched_free(w, LONG, NULL, NULL); /* true or not: who is first is the system's affair */
    sem_wait(&ended);
}

static bool wanted_a_few_times(void *arg)
{
    return --*(int *)arg > 0;
}

static void one_that_is_not_wanted_is_given_up_soon(void **state)
{
    thing *own;
    watched *w = begin(&own, end);
    int times = 3;

    (void)state;
    assert_false(watched_call(w, wait_and_count, LONG, wanted_a_few_times, &times));
    assert_int_equal(times, 0);
    assert_false(watched_free(w, LONG, NULL, NULL));
    sem_post(&go_on);
    sem_wait(&ended);
}

static void an_end_that_takes_too_long_is_given_up(void **state)
{
    thing *own;
    watched *w = begin(&own, end_slowly);

    (void)state;
    assert_true(watched_call(w, count, LONG, NULL, NULL));
    assert_false(watched_free(w, 150, NULL, NULL));
    sem_post(&go_on);
    sem_wait(&ended);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_is_waited_for),
        cmocka_unit_test(one_that_takes_too_long_is_given_up),
        cmocka_unit_test(one_that_returns_before_the_end_is_freed_with_it),
        cmocka_unit_test(one_that_is_not_wanted_is_given_up_soon),
        cmocka_unit_test(an_end_that_takes_too_long_is_given_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
