/* Loops: messages, hooks, sources and timers. */

#include "unit.h"
#include <pthread.h>
#include <stdlib.h>
#include "core/loop.h"

static int setup(void **state)
{
    aiq_loop *loop = calloc(1, sizeof(*loop));

    *state = loop;
    return loop_init(loop, NULL, 0, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
    loop_free(*state);
    free(*state);
    return 0;
}

static void stop(aiq_loop *loop, void *arg)
{
    (void)arg;
    loop_stop(loop);
}

/* Messages of several threads: all arrive, each thread's in order. */

enum { THREADS = 4, MESSAGES = 20000 };

typedef struct {
    aiq_loop *loop;
    uint32_t seen[THREADS], total;
} inbox_test;

static inbox_test inbox;

static void on_message(aiq_loop *loop, void *arg)
{
    uintptr_t value = (uintptr_t)arg;
    uint32_t thread = value >> 24, n = value & 0xffffff;

    assert_int_equal(inbox.seen[thread], n);
    inbox.seen[thread]++;
    if (++inbox.total == THREADS * MESSAGES) {
        loop_stop(loop);
    }
}

static void *post_many(void *arg)
{
    for (uintptr_t i = 0; i < MESSAGES; i++) {
        loop_post(inbox.loop, on_message, (void *)((uintptr_t)arg << 24 | i));
    }
    return NULL;
}

static void test_messages(void **state)
{
    pthread_t threads[THREADS];

    inbox = (inbox_test){.loop = *state};
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, post_many, (void *)i);
    }
    loop_run(*state);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(inbox.seen[i], MESSAGES);
    }
}

static void count(aiq_loop *loop, void *arg)
{
    (void)loop;
    ++*(int *)arg;
}

static void test_messages_after_the_stop_are_run(void **state)
{
    aiq_loop loop;
    int n = 0;

    (void)state;
    assert_true(loop_init(&loop, NULL, 0, NULL));
    loop_stop(&loop);
    loop_run(&loop);
    loop_post(&loop, count, &n);
    loop_free(&loop);
    assert_int_equal(n, 1);
}

/* Hooks run once, at the end of the turn, after what follows in that turn. */

static int trace[8], traced;
static loop_hook first_hook, second_hook;

static void trace_fn(aiq_loop *loop, void *arg)
{
    (void)loop;
    trace[traced++] = (int)(uintptr_t)arg;
}

static void hook_again(aiq_loop *loop, void *arg)
{
    trace_fn(loop, arg);
    second_hook = (loop_hook){.fn = trace_fn, .arg = (void *)4};
    loop_at_end(loop, &second_hook);
    loop_stop(loop);
}

static void ask_hook(aiq_loop *loop, void *arg)
{
    trace_fn(loop, arg);
    first_hook = (loop_hook){.fn = hook_again, .arg = (void *)3};
    loop_at_end(loop, &first_hook);
    loop_at_end(loop, &first_hook);
}

static void test_hooks(void **state)
{
    traced = 0;
    loop_post(*state, ask_hook, (void *)1);
    loop_post(*state, trace_fn, (void *)2);
    loop_run(*state);
    assert_int_equal(traced, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(trace[i], i + 1);
    }
}

/* A source that does not want to sleep is asked again without an event. */

static void source_turn(aiq_loop *loop, void *arg)
{
    if (++*(int *)arg == 50) {
        loop_stop(loop);
    }
}

static loop_mood source_settle(aiq_loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
    return LOOP_POLL;
}

static void test_source_polls(void **state)
{
    int turns = 0;
    loop_source source = {.turn = source_turn, .settle = source_settle, .arg = &turns};

    loop_add_source(*state, &source);
    loop_run(*state);
    assert_true(turns >= 50);
}

static void test_exit_hooks_run_backwards(void **state)
{
    loop_hook a = {.fn = trace_fn, .arg = (void *)1}, b = {.fn = trace_fn, .arg = (void *)2};

    traced = 0;
    loop_at_exit(*state, &a);
    loop_at_exit(*state, &b);
    loop_stop(*state);
    loop_run(*state);
    assert_int_equal(traced, 2);
    assert_int_equal(trace[0], 2);
    assert_int_equal(trace[1], 1);
}

/* Timers: in order of their due time, whatever the order of start and stop. */

enum { TIMERS = 500 };
static loop_timer timers[TIMERS];
static uint64_t last_due;
static int fired;

static void on_due(aiq_loop *loop, void *arg)
{
    loop_timer *timer = arg;

    (void)loop;
    assert_true(timer->due_ns >= last_due);
    assert_true(timer->due_ns <= loop_now_ns());
    assert_int_equal(timer->heap_index, 0);
    last_due = timer->due_ns;
    fired++;
}

static void test_timers(void **state)
{
    loop_timer end = {0};
    int expected = 0;

    srand(1);
    last_due = 0;
    fired = 0;
    memset(timers, 0, sizeof(timers));
    for (int i = 0; i < TIMERS; i++) {
        loop_timer_start(*state, &timers[i], (uint64_t)(rand() % 40), on_due, &timers[i]);
    }
    for (int i = 0; i < TIMERS; i += 3) {
        loop_timer_stop(*state, &timers[i]);
        loop_timer_stop(*state, &timers[i]);
    }
    for (int i = 0; i < TIMERS; i += 6) {
        loop_timer_start(*state, &timers[i], (uint64_t)(rand() % 40), on_due, &timers[i]);
    }
    for (int i = 0; i < TIMERS; i++) {
        expected += timers[i].heap_index != 0;
    }
    loop_timer_start(*state, &end, 45, stop, NULL);
    loop_run(*state);
    assert_int_equal(fired, expected);
}

static void restart(aiq_loop *loop, void *arg)
{
    if (++fired < 5) {
        loop_timer_start(loop, arg, 0, restart, arg);
    } else {
        loop_stop(loop);
    }
}

static void test_timer_starts_itself(void **state)
{
    loop_timer timer = {0};

    fired = 0;
    loop_timer_start(*state, &timer, 1, restart, &timer);
    loop_run(*state);
    assert_int_equal(fired, 5);
}

static void test_an_earlier_timer_wins(void **state)
{
    loop_timer late = {0}, soon = {0};

    fired = 0;
    loop_timer_start(*state, &late, 3600 * 1000, count, &fired);
    loop_timer_start(*state, &soon, 5, stop, NULL);
    loop_run(*state);
    assert_int_equal(fired, 0);
    loop_timer_stop(*state, &late);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test(test_messages_after_the_stop_are_run),
        cmocka_unit_test_setup_teardown(test_hooks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_source_polls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exit_hooks_run_backwards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer_starts_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_earlier_timer_wins, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
