/* Limits of tokens: held before, settled after, never more than the limit in a window. */

#include "unit.h"

#include "services/gateway/token_limits.h"

#define MINUTE 60000
#define STEP   (MINUTE / LIMIT_SLOTS)

static const uint8_t ann[AIQ_LIMIT_KEY] = {1}, bob[AIQ_LIMIT_KEY] = {2},
                     cid[AIQ_LIMIT_KEY] = {3};
static const policy_limit rule = {.zone = "z", .tokens = 1000, .window_ms = MINUTE, .keys = 2};

static metrics *m;
static token_limits *limits;

static int make(void **state)
{
    (void)state;
    m = metrics_new();
    limits = token_limits_new(m);
    return 0;
}

static int destroy(void **state)
{
    (void)state;
    token_limits_free(limits);
    metrics_free(m);
    return 0;
}

/* Seconds to wait where it is refused, else 0. */
static unsigned hold(token_hold *h, const uint8_t *key, int64_t tokens, uint64_t now)
{
    aiq_err err = {0};

    if (token_limits_hold(limits, h, &rule, 1, key, tokens, now, &err)) {
        return 0;
    }
    assert_null(h->limits);
    assert_true(err.retry_after > 0);
    return err.retry_after;
}

static void what_was_not_used_is_free_again(void **state)
{
    token_hold a, b;
    (void)state;

    assert_int_equal(hold(&a, ann, 600, 0), 0);
    assert_int_equal(a.state.limit, 1000);
    assert_int_equal(a.state.remaining, 400);
    assert_int_equal(hold(&b, ann, 500, 1), 61);
    token_limits_settle(&a, 100, 2);
    assert_int_equal(a.state.remaining, 900);
    assert_int_equal(hold(&b, ann, 500, 3), 0);
    token_limits_settle(&b, 0, 4);
    assert_int_equal(b.state.remaining, 900);
    token_limits_settle(&b, 500, 5); /* once is enough */
    assert_int_equal(hold(&a, ann, 900, 6), 0);
}

static void what_was_used_beyond_counts(void **state)
{
    token_hold h;
    (void)state;

    assert_int_equal(hold(&h, ann, 10, 0), 0);
    token_limits_settle(&h, INT64_MAX, 1);
    assert_int_equal(h.state.remaining, 0);
    assert_int_equal(hold(&h, ann, 1, MINUTE), 1);
    assert_int_equal(hold(&h, ann, 1, MINUTE + STEP), 0);
}

static void more_than_the_limit_waits_for_an_empty_window(void **state)
{
    token_hold h;
    (void)state;

    assert_int_equal(hold(&h, ann, 1, 0), 0);
    token_limits_settle(&h, 1, 1);
    assert_int_equal(hold(&h, ann, 5000, 1000), 60);
    assert_int_equal(hold(&h, ann, 5000, MINUTE + STEP), 0);
    assert_int_equal(h.state.remaining, 0);
}

static void never_more_in_a_minute(void **state)
{
    uint64_t times[4000];
    size_t n = 0;
    token_hold h;
    (void)state;

    for (uint64_t now = 7; now < 10 * MINUTE; now += 311) {
        if (hold(&h, ann, 30, now) == 0) {
            token_limits_settle(&h, 30, now + 5);
            times[n++] = now;
        }
    }
    for (size_t i = 33; i < n; i++) {
        assert_true(times[i] - times[i - 33] >= MINUTE); /* 34 x 30 > 1000 */
    }
    assert_in_range(n, 33 * 9, 33 * 10 + 1);
}

static void an_end_after_the_window_changes_nothing(void **state)
{
    token_hold h, other;
    (void)state;

    assert_int_equal(hold(&h, ann, 1000, 0), 0);
    assert_int_equal(hold(&other, ann, 1000, 2 * MINUTE), 0);
    token_limits_settle(&h, 0, 2 * MINUTE + 1);
    assert_int_equal(hold(&h, ann, 1, 2 * MINUTE + 2), 61);
}

static void keys_are_apart_and_so_many(void **state)
{
    token_hold a, b, c;
    (void)state;

    assert_int_equal(hold(&a, ann, 1000, 0), 0);
    assert_int_equal(hold(&b, bob, 1000, 0), 0);
    assert_int_equal(hold(&c, cid, 1, 0), 1); /* the zone is full */
    token_limits_settle(&a, 1, 1);
    assert_int_equal(hold(&c, cid, 1, 2), 1); /* ann's still counts */
    assert_int_equal(hold(&c, cid, 1, 2 * MINUTE), 0);
}

static void all_or_none(void **state)
{
    static const policy_limit two[] = {
        {.zone = "y", .tokens = 100, .window_ms = MINUTE, .keys = 9},
        {.zone = "z", .tokens = 1000, .window_ms = MINUTE, .keys = 9}};
    uint8_t keys[2 * AIQ_LIMIT_KEY] = {5, [AIQ_LIMIT_KEY] = 6}, first[sizeof(keys)] = {5};
    token_hold h;
    aiq_err err;
    (void)state;

    assert_true(token_limits_hold(limits, &h, two, 2, keys, 60, 0, &err));
    assert_int_equal(h.state.limit, 100); /* the tightest */
    assert_int_equal(h.state.remaining, 40);
    for (int i = 0; i < 50; i++) {
        assert_false(token_limits_hold(limits, &h, two, 2, keys, 60, 1, &err));
        assert_string_equal(err.code, "rate_limit_exceeded");
        assert_int_equal(err.status, 429);
    }
    keys[0] = 7;
    assert_true(token_limits_hold(limits, &h, two, 2, keys, 100, 2, &err));
    assert_true(
        token_limits_hold(limits, &h, two, 2, first, 40, 2, &err)); /* not by the second */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make, destroy)
    const struct CMUnitTest tests[] = {
        TEST(what_was_not_used_is_free_again),
        TEST(what_was_used_beyond_counts),
        TEST(more_than_the_limit_waits_for_an_empty_window),
        TEST(never_more_in_a_minute),
        TEST(an_end_after_the_window_changes_nothing),
        TEST(keys_are_apart_and_so_many),
        TEST(all_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
