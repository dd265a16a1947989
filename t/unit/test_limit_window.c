/* The sliding window of aiq_limit: at most `limit` in any `length`, by its own clock. */

#include "unit.h"

#include <stdlib.h>

/* the module's files are built by nginx's own build */
#include "ngx_aiq_module/ngx_http_aiq_limit_window.c" /* NOLINT(bugprone-suspicious-include) */

typedef ngx_http_aiq_limit_rule_t rule_t;
typedef ngx_http_aiq_limit_window_t window_t;

#define MINUTE 60000

/* A window that grows as the zone's do. */
static void make_room(window_t *w)
{
    if (!ngx_http_aiq_limit_fits(w)) {
        ngx_http_aiq_limit_mark_t *old = w->marks;
        uint32_t size = w->size ? 2 * w->size : 4;
        ngx_http_aiq_limit_mark_t *marks = calloc(size, sizeof(*marks));

        assert_non_null(marks);
        ngx_http_aiq_limit_move(w, marks, size);
        free(old);
    }
}

/* When a request at `now` is let through, or 0: refused, `burst` wait already. */
static uint64_t ask(window_t *w, rule_t *rule, uint64_t now, uint32_t burst)
{
    uint64_t turn;

    ngx_http_aiq_limit_slide(w, rule, now);
    turn = ngx_http_aiq_limit_turn(w, rule, now);
    assert_true(turn >= now);
    if (turn > now && ngx_http_aiq_limit_waiting(w, rule, now, burst) >= burst) {
        return 0;
    }
    make_room(w);
    ngx_http_aiq_limit_add(w, rule, turn);
    return turn;
}

/* As that, with a pace for all above `delay`. */
static uint64_t ask_paced(window_t *w, rule_t *rule, uint64_t now, uint32_t burst,
                          uint32_t delay)
{
    uint64_t turn;

    ngx_http_aiq_limit_slide(w, rule, now);
    turn = ngx_http_aiq_limit_turn(w, rule, now);
    if (w->total >= delay) {
        uint64_t window = turn;

        turn = ngx_http_aiq_limit_pace(w, rule, turn);
        assert_true(turn >= window);
    }
    if (turn > now && ngx_http_aiq_limit_waiting(w, rule, now, burst) >= burst) {
        return 0;
    }
    make_room(w);
    ngx_http_aiq_limit_add(w, rule, turn);
    return turn;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* No `limit` + 1 of the times lie within less than `length`. */
static void assert_never_more(uint64_t *times, size_t n, const rule_t *rule)
{
    qsort(times, n, sizeof(times[0]), by_time);
    for (size_t i = rule->limit; i < n; i++) {
        assert_true(times[i] - times[i - rule->limit] >= rule->length);
    }
}

static void the_limit_at_once_then_none(void **state)
{
    rule_t rule;
    window_t w = {0};
    uint64_t t = 5000;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 100, MINUTE);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(ask(&w, &rule, t, 0), t);
    }
    assert_int_equal(ask(&w, &rule, t, 0), 0);
    assert_int_equal(ask(&w, &rule, t + MINUTE, 0), 0); /* a part of the ms may be missing */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(ask(&w, &rule, t + MINUTE + 1, 0), t + MINUTE + 1);
    }
    assert_int_equal(ask(&w, &rule, t + MINUTE + 1, 0), 0);
    free(w.marks);
}

/* A fixed window would let 200 through around its edge. */
static void the_edge_of_a_minute_is_none(void **state)
{
    rule_t rule;
    window_t w = {0};
    int passed = 0;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 100, MINUTE);
    for (uint64_t t = MINUTE - 100; t < MINUTE + 100; t++) {
        passed += ask(&w, &rule, t, 0) != 0;
    }
    assert_int_equal(passed, 100);
    free(w.marks);
}

/* D7: a counter whose life each request prolongs never comes to an end. */
static void steady_traffic_is_let_through_at_the_limit(void **state)
{
    rule_t rule;
    window_t w = {0};
    int passed = 0;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 20, MINUTE);
    for (uint64_t t = MINUTE; t < 11 * MINUTE; t += 100) {
        passed += ask(&w, &rule, t, 0) != 0;
    }
    assert_in_range(passed, 199, 200);
    free(w.marks);
}

static void a_refused_request_does_not_count(void **state)
{
    rule_t rule;
    window_t w = {0};
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 1, 1000);
    assert_int_equal(ask(&w, &rule, 10000, 0), 10000);
    for (uint64_t t = 10000; t <= 11000; t++) {
        assert_int_equal(ask(&w, &rule, t, 0), 0);
    }
    assert_int_equal(ask(&w, &rule, 11001, 0), 11001);
    free(w.marks);
}

static void so_many_may_wait_for_their_turn(void **state)
{
    rule_t rule;
    window_t w = {0};
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 1, 1000);
    assert_int_equal(ask(&w, &rule, 5000, 3), 5000);
    assert_int_equal(ask(&w, &rule, 5000, 3), 6001);
    assert_int_equal(ask(&w, &rule, 5001, 3), 7002);
    assert_int_equal(ask(&w, &rule, 5002, 3), 8003);
    assert_int_equal(ask(&w, &rule, 5003, 3), 0);
    assert_int_equal(ask(&w, &rule, 6000, 3), 0);
    assert_int_equal(ask(&w, &rule, 6001, 3), 9004); /* one has left the queue */
    free(w.marks);
}

static void what_is_taken_back_is_free_again(void **state)
{
    rule_t rule;
    window_t w = {0};
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 3, 1000);
    assert_int_equal(ask(&w, &rule, 100, 0), 100);
    assert_int_equal(ask(&w, &rule, 200, 0), 200);
    assert_int_equal(ask(&w, &rule, 200, 0), 200);
    assert_int_equal(ask(&w, &rule, 300, 0), 0);
    ngx_http_aiq_limit_remove(&w, &rule, 100);
    ngx_http_aiq_limit_remove(&w, &rule, 100); /* it is gone already */
    assert_int_equal(ask(&w, &rule, 300, 0), 300);
    assert_int_equal(ask(&w, &rule, 300, 0), 0);
    ngx_http_aiq_limit_remove(&w, &rule, 200);
    assert_int_equal(ask(&w, &rule, 301, 0), 301);
    assert_int_equal(ask(&w, &rule, 301, 0), 0);
    assert_int_equal(w.total, 3);
    free(w.marks);
}

static void the_reset_is_the_last_one_s(void **state)
{
    rule_t rule;
    window_t w = {0};
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 3, 1000);
    assert_int_equal(ngx_http_aiq_limit_reset(&w, &rule, 100), 0);
    ask(&w, &rule, 100, 0);
    ask(&w, &rule, 400, 0);
    assert_int_equal(ngx_http_aiq_limit_reset(&w, &rule, 500), 900);
    free(w.marks);
}

/* Above 1,024 a request counts up to a thousandth of the window longer. */
static void above_the_exact_it_errs_towards_rejecting(void **state)
{
    rule_t rule;
    window_t w = {0};
    uint64_t t = MINUTE + 1;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 5000, MINUTE);
    assert_int_equal(rule.grain, 60);
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(ask(&w, &rule, t, 0), t);
    }
    assert_int_equal(ask(&w, &rule, t + MINUTE, 0), 0);
    assert_int_equal(ask(&w, &rule, t + MINUTE + 60, 0), t + MINUTE + 60);
    free(w.marks);
}

static void memory_stays_in_bounds(void **state)
{
    rule_t rule;
    window_t w = {0};
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 1000000, 86400000);
    for (uint64_t t = 1; t < 3 * 86400000ULL; t += 4000) {
        ask(&w, &rule, t, 0);
    }
    assert_in_range(w.size, 1000, 2048);
    free(w.marks);

    memset(&w, 0, sizeof(w));
    ngx_http_aiq_limit_rule(&rule, 5, 1000);
    for (uint64_t t = 1; t < 1000000; t++) {
        ask(&w, &rule, t, 4);
    }
    assert_in_range(w.size, 8, 16);
    free(w.marks);
}

/* 32 bits of milliseconds pass in 49 days. */
static void an_old_window_is_empty(void **state)
{
    rule_t rule;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 1, 1000);
    for (uint64_t later = 1001; later < 1ULL << 40; later = later * 3 / 2) {
        window_t w = {0};

        ask(&w, &rule, 77, 0);
        assert_int_equal(ask(&w, &rule, 77 + later, 0), 77 + later);
        free(w.marks);
    }

    window_t w = {0};
    uint64_t t = (1ULL << 32) - 500;

    assert_int_equal(ask(&w, &rule, t, 0), t);
    assert_int_equal(ask(&w, &rule, t + 1000, 0), 0);
    assert_int_equal(ask(&w, &rule, t + 1001, 0), t + 1001);
    free(w.marks);
}

static void above_the_delay_they_come_at_an_even_pace(void **state)
{
    rule_t rule;
    window_t w = {0};
    const uint64_t t = 1000000;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 100, MINUTE);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ask_paced(&w, &rule, t, 3, 10), t);
    }
    for (uint64_t i = 1; i <= 3; i++) {
        assert_int_equal(ask_paced(&w, &rule, t, 3, 10), t + i * 600);
    }
    assert_int_equal(ask_paced(&w, &rule, t, 3, 10), 0);
    assert_int_equal(ask_paced(&w, &rule, t + 600, 3, 10), t + 2400);
    /* behind the pace: at once */
    assert_int_equal(ask_paced(&w, &rule, t + 5000, 3, 10), t + 5000);
    /* the first ten are forgotten */
    assert_int_equal(ask_paced(&w, &rule, t + 70000, 3, 10), t + 70000);
    assert_int_equal(ask_paced(&w, &rule, t + 70000, 3, 10), t + 70000);
    free(w.marks);
}

static void who_waits_longer_for_another_reason_holds_none_up(void **state)
{
    rule_t rule;
    window_t w = {0};
    const uint64_t t = 1000000;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 10, 1000);
    make_room(&w);
    ngx_http_aiq_limit_add(&w, &rule, t + 350);
    assert_int_equal(ask_paced(&w, &rule, t, 9, 0), t);
    assert_int_equal(ask_paced(&w, &rule, t, 9, 0), t + 100);
    assert_int_equal(ask_paced(&w, &rule, t, 9, 0), t + 200);
    /* 300 is less than a step from 350 */
    assert_int_equal(ask_paced(&w, &rule, t, 9, 0), t + 450);
    free(w.marks);
}

static void a_pace_of_more_than_one_in_a_grain(void **state)
{
    rule_t rule;
    window_t w = {0};
    const uint64_t t = 600000;
    (void)state;

    ngx_http_aiq_limit_rule(&rule, 3000, MINUTE); /* three in each 60 ms */
    for (uint64_t i = 0; i < 12; i++) {
        assert_int_equal(ask_paced(&w, &rule, t, 1000, 0), t + i / 3 * 60);
    }
    free(w.marks);
}

/* Arrivals in bursts, some delayed here or by another zone, some taken back: whatever
 * is let through in the end is never more than the limit in any window. */
static void never_more_whatever_happens(void **state)
{
    static const struct {
        uint32_t limit, length;
    } rules[] = {{1, 1000}, {7, 1000}, {100, MINUTE}, {1024, MINUTE}, {3000, MINUTE}};
    enum { MAX = 60000 };
    uint64_t *times = malloc(MAX * sizeof(*times));
    uint32_t seed = 20260101;
    (void)state;

    assert_non_null(times);
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        rule_t rule;
        window_t w = {0};
        size_t n = 0;
        uint64_t now = 1ULL << 31;

        ngx_http_aiq_limit_rule(&rule, rules[i].limit, rules[i].length);
        for (int k = 0; k < 200000 && n < MAX; k++) {
            uint64_t turn;
            uint32_t dice;

            seed = seed * 1664525 + 1013904223;
            dice = seed >> 16;
            now += dice % 5 ? dice % 3 : dice % (2 * rule.length / rule.limit + 2);

            ngx_http_aiq_limit_slide(&w, &rule, now);
            turn = ngx_http_aiq_limit_turn(&w, &rule, now);
            if (dice % 3 == 0) {
                turn = ngx_http_aiq_limit_pace(&w, &rule, turn);
            }
            if (turn > now && ngx_http_aiq_limit_waiting(&w, &rule, now, 5) >= 5) {
                continue;
            }
            if (dice % 11 == 0) {
                turn += dice % rule.length; /* another zone's turn is later */
            }
            make_room(&w);
            ngx_http_aiq_limit_add(&w, &rule, turn);
            if (dice % 13 == 0) {
                ngx_http_aiq_limit_remove(&w, &rule, turn);
                continue;
            }
            times[n++] = turn;
        }
        assert_true(n > 1000);
        assert_never_more(times, n, &rule);
        free(w.marks);
    }
    free(times);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_at_once_then_none),
        cmocka_unit_test(the_edge_of_a_minute_is_none),
        cmocka_unit_test(steady_traffic_is_let_through_at_the_limit),
        cmocka_unit_test(a_refused_request_does_not_count),
        cmocka_unit_test(so_many_may_wait_for_their_turn),
        cmocka_unit_test(what_is_taken_back_is_free_again),
        cmocka_unit_test(the_reset_is_the_last_one_s),
        cmocka_unit_test(above_the_exact_it_errs_towards_rejecting),
        cmocka_unit_test(memory_stays_in_bounds),
        cmocka_unit_test(an_old_window_is_empty),
        cmocka_unit_test(above_the_delay_they_come_at_an_even_pace),
        cmocka_unit_test(who_waits_longer_for_another_reason_holds_none_up),
        cmocka_unit_test(a_pace_of_more_than_one_in_a_grain),
        cmocka_unit_test(never_more_whatever_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
