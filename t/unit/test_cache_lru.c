/* What the cache keeps, for how long, and what goes first. The clock is the test's. */

#include "unit.h"

#include <stdio.h>
#include "cache/lru.h"

#define ROOM(n, len) ((n)*lru_cost(len) + 2 * sizeof(void *)) /* and the smallest table */
#define EVER         UINT64_MAX

static void make_key(uint8_t key[LRU_KEY], unsigned n)
{
    memset(key, 0, LRU_KEY);
    memcpy(key, &n, sizeof(n));
}

static void put(lru *l, unsigned n, size_t len, uint64_t now, uint64_t ttl)
{
    uint8_t key[LRU_KEY], data[4096];

    make_key(key, n);
    memset(data, (int)n, sizeof(data));
    lru_entry *e = lru_entry_new(key, data, len, now, ttl);
    lru_unref_all(lru_put(l, e));
    lru_entry_unref(e);
}

static bool has(lru *l, unsigned n, uint64_t now, uint64_t max_age)
{
    uint8_t key[LRU_KEY];

    make_key(key, n);
    lru_entry *e = lru_get(l, key, now, max_age);
    if (e) {
        assert_memory_equal(e->key, key, LRU_KEY);
        assert_true(e->len == 0 ||
                    (e->data[0] == (uint8_t)n && e->data[e->len - 1] == (uint8_t)n));
        lru_entry_unref(e);
    }
    return e != NULL;
}

static void an_entry_lasts_for_its_time(void **state)
{
    lru *l = lru_new(1 << 20, 7);

    (void)state;
    put(l, 1, 10, 1000, 500);
    assert_false(has(l, 2, 1000, EVER));
    assert_true(has(l, 1, 1000, EVER));
    assert_true(has(l, 1, 1499, EVER));
    assert_false(has(l, 1, 1500, EVER));
    assert_int_equal(lru_look(l).entries, 0); /* and is gone */
    assert_int_equal(lru_look(l).bytes, 0);
    assert_int_equal(lru_look(l).evictions, 0);
    lru_free(l);
}

static void who_wants_it_younger_does_not_get_it(void **state)
{
    lru *l = lru_new(1 << 20, 7);

    (void)state;
    put(l, 1, 10, 1000, 500);
    assert_true(has(l, 1, 1099, 100));
    assert_false(has(l, 1, 1100, 100));
    assert_true(has(l, 1, 1100, EVER)); /* others do */
    lru_free(l);
}

static void the_least_recently_used_goes_first(void **state)
{
    lru *l = lru_new(ROOM(3, 100), 7);

    (void)state;
    put(l, 1, 100, 0, 1000);
    put(l, 2, 100, 0, 1000);
    put(l, 3, 100, 0, 1000);
    assert_true(has(l, 1, 1, EVER)); /* read: so 2 is the oldest */
    put(l, 4, 100, 1, 1000);
    assert_false(has(l, 2, 1, EVER));
    assert_true(has(l, 1, 1, EVER) && has(l, 3, 1, EVER) && has(l, 4, 1, EVER));
    assert_int_equal(lru_look(l).evictions, 1);
    lru_free(l);
}

static void a_large_one_takes_the_room_of_several(void **state)
{
    lru *l = lru_new(ROOM(4, 100), 7);

    (void)state;
    for (unsigned i = 1; i <= 4; i++) {
        put(l, i, 100, 0, 1000);
    }
    put(l, 5, 200, 0, 1000);
    assert_false(has(l, 1, 0, EVER) || has(l, 2, 0, EVER));
    assert_true(has(l, 4, 0, EVER) && has(l, 5, 0, EVER));
    lru_free(l);
}

static void a_new_value_replaces_the_old_one(void **state)
{
    lru *l = lru_new(1 << 20, 7);

    (void)state;
    put(l, 1, 100, 0, 10);
    put(l, 1, 50, 5, 10);
    assert_int_equal(lru_look(l).entries, 1);
    assert_int_equal(lru_look(l).bytes, lru_cost(50));
    assert_true(has(l, 1, 14, EVER));
    lru_free(l);
}

static void what_is_too_large_displaces_nothing(void **state)
{
    lru *l = lru_new(ROOM(2, 100), 7), *none = lru_new(0, 7);

    (void)state;
    put(l, 1, 100, 0, 10);
    put(l, 2, 1000, 0, 10);
    assert_true(has(l, 1, 0, EVER));
    assert_false(has(l, 2, 0, EVER));
    put(none, 1, 0, 0, 10);
    assert_false(has(none, 1, 0, EVER));
    lru_free(l);
    lru_free(none);
}

static void an_evicted_entry_can_still_be_read(void **state)
{
    lru *l = lru_new(ROOM(1, 100), 7);
    uint8_t key[LRU_KEY];

    (void)state;
    put(l, 1, 100, 0, 10);
    make_key(key, 1);
    lru_entry *e = lru_get(l, key, 0, EVER);
    put(l, 2, 100, 0, 10);
    assert_false(has(l, 1, 0, EVER));
    lru_free(l);
    assert_int_equal(e->data[99], 1);
    lru_entry_unref(e);
}

static uint64_t bytes_of(lru *l, unsigned keys)
{
    uint64_t bytes = 0;
    uint8_t key[LRU_KEY];

    for (unsigned n = 0; n < keys; n++) {
        make_key(key, n);
        lru_entry *e = lru_get(l, key, 0, EVER);
        if (e) {
            bytes += lru_cost(e->len);
            lru_entry_unref(e);
        }
    }
    return bytes;
}

/* With sizes and keys from a generator. */
static void the_bound_always_holds(void **state)
{
    enum { KEYS = 50, MAX = 20000 };
    lru *l = lru_new(MAX, 7);
    uint64_t random = 88172645463325252ull;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if (random >> 32 & 1) {
            put(l, (unsigned)(random % KEYS), random >> 40 & 0xfff, 0, 1);
        } else {
            has(l, (unsigned)(random % KEYS), 0, EVER);
        }
        assert_true(lru_look(l).bytes <= MAX);
        if (i % 100 == 0) {
            assert_int_equal(lru_look(l).bytes, bytes_of(l, KEYS));
        }
    }
    assert_true(lru_look(l).evictions > 1000);
    lru_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_lasts_for_its_time),
        cmocka_unit_test(who_wants_it_younger_does_not_get_it),
        cmocka_unit_test(the_least_recently_used_goes_first),
        cmocka_unit_test(a_large_one_takes_the_room_of_several),
        cmocka_unit_test(a_new_value_replaces_the_old_one),
        cmocka_unit_test(what_is_too_large_displaces_nothing),
        cmocka_unit_test(an_evicted_entry_can_still_be_read),
        cmocka_unit_test(the_bound_always_holds),
    };
    return cmocka_run_group_tests_name("cache_lru", tests, NULL, NULL);
}
