/* Pools, growing buffers and error values. */

#include "unit.h"
#include <stdio.h>
#include <stdlib.h>
#include "core/err.h"
#include "core/pool.h"

static void test_alloc_is_aligned_and_apart(void **state)
{
    aiq_pool *pool = aiq_pool_new();
    uint8_t *last = NULL;

    (void)state;
    for (size_t size = 1; size < 5000; size = size * 2 + 1) {
        uint8_t *p = aiq_pool_alloc(pool, size);
        assert_int_equal((uintptr_t)p % 16, 0);
        assert_ptr_not_equal(p, last);
        memset(p, 0xab, size);
        last = p;
    }
    uint8_t *zeros = aiq_pool_zalloc(pool, 100);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(zeros[i], 0);
    }
    aiq_pool_free(pool);
}

static void test_small_after_large(void **state)
{
    aiq_pool *pool = aiq_pool_new();
    char *a = aiq_pool_copy(pool, "first", 5);
    char *large = aiq_pool_alloc(pool, 1 << 20);
    char *b = aiq_pool_printf(pool, "%s %d", "second", 2);

    (void)state;
    memset(large, 'x', 1 << 20);
    assert_string_equal(a, "first");
    assert_string_equal(b, "second 2");
    /* the large piece did not take the first block's rest away */
    assert_true(b > a && b - a < 8192);
    aiq_pool_free(pool);
}

static int order[3], ran;

static void note(void *arg)
{
    order[ran++] = *(int *)arg;
}

static void test_cleanups_run_backwards_once(void **state)
{
    aiq_pool *pool = aiq_pool_new();
    int one = 1, two = 2, three = 3;

    (void)state;
    ran = 0;
    aiq_pool_cleanup(pool, note, &one);
    aiq_pool_cleanup(pool, note, &two);
    aiq_pool_reset(pool);
    assert_int_equal(ran, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 1);
    aiq_pool_cleanup(pool, note, &three);
    aiq_pool_free(pool);
    assert_int_equal(ran, 3);
    assert_int_equal(order[2], 3);
}

static void test_reset_gives_the_same_memory(void **state)
{
    aiq_pool *pool = aiq_pool_new();
    void *first = aiq_pool_alloc(pool, 64);

    (void)state;
    aiq_pool_alloc(pool, 100000);
    aiq_pool_reset(pool);
    assert_ptr_equal(aiq_pool_alloc(pool, 64), first);
    aiq_pool_free(pool);
    aiq_pool_free(NULL);
}

/* The next request's memory is what this one's was, whatever others have taken meanwhile. */
static void test_reset_keeps_a_block(void **state)
{
    aiq_pool *pool = aiq_pool_new();
    void *before[8], *others[2];
    bool same = false;

    (void)state;
    for (int i = 0; i < 8; i++) {
        before[i] = aiq_pool_alloc(pool, 2000);
    }
    aiq_pool_reset(pool);
    others[0] = aiq_alloc(8192);
    others[1] = aiq_alloc(8192);
    void *after = aiq_pool_alloc(pool, 2000);
    for (int i = 0; i < 8; i++) {
        same |= after == before[i];
    }
    assert_true(same);
    memset(after, 'x', 2000);
    free(others[0]);
    free(others[1]);
    aiq_pool_free(pool);
}

static void test_buf_is_a_queue(void **state)
{
    aiq_buf b = {0};
    uint32_t in = 0, out = 0;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 1 + round % 7; i++, in++) {
            aiq_buf_add(&b, &in, sizeof(in));
        }
        for (int i = 0; i < round % 5 && out < in; i++, out++) {
            uint32_t value;
            memcpy(&value, b.data, sizeof(value));
            assert_int_equal(value, out);
            aiq_buf_consume(&b, sizeof(value));
        }
    }
    assert_int_equal(b.len, (in - out) * sizeof(in));
    aiq_buf_consume(&b, b.len);
    assert_ptr_equal(b.data, b.base);
    aiq_buf_free(&b);
    aiq_buf_free(&b);
}

static void test_buf_stays_small_as_a_queue(void **state)
{
    aiq_buf b = {0};
    char piece[1000] = {0};

    (void)state;
    for (int i = 0; i < 100000; i++) {
        aiq_buf_add(&b, piece, sizeof(piece));
        aiq_buf_consume(&b, i ? sizeof(piece) : 0);
    }
    assert_int_equal(b.len, sizeof(piece));
    assert_true(b.size <= 8192);
    aiq_buf_free(&b);
}

static void test_buf_text(void **state)
{
    aiq_buf b = {0};

    (void)state;
    aiq_buf_text(&b, "a");
    aiq_buf_printf(&b, "%d%s", 42, "z");
    aiq_buf_add(&b, NULL, 0);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "a42z", 4);
    aiq_buf_free(&b);
}

static void test_put_decimal(void **state)
{
    static const struct {
        uint64_t n;
        const char *text;
    } cases[] = {{0, "0"}, {7, "7"}, {10, "10"}, {UINT64_MAX, "18446744073709551615"}};
    char out[21];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        *aiq_put_decimal(out, cases[i].n) = '\0';
        assert_string_equal(out, cases[i].text);
    }
}

static void test_err_fields(void **state)
{
    aiq_err err = {.retry_after = 9, .detail = "old"};

    (void)state;
    assert_false(aiq_fail_param(&err, 400, "invalid_type", "messages", "%d is no array", 7));
    assert_int_equal(err.status, 400);
    assert_string_equal(err.code, "invalid_type");
    assert_string_equal(err.param, "messages");
    assert_string_equal(err.message, "7 is no array");
    assert_string_equal(err.detail, "");
    assert_false(err.retryable);
    assert_int_equal(err.retry_after, 0);
    aiq_err_detail(&err, "errno %d", 5);
    assert_string_equal(err.detail, "errno 5");
    assert_false(aiq_fail(NULL, 500, "x", "y"));
    aiq_err_detail(NULL, "x");
}

static void test_err_retryable(void **state)
{
    static const unsigned yes[] = {408, 429, 500, 502, 503, 504}, no[] = {400, 401, 404, 501};
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        aiq_fail(&err, yes[i], "c", "m");
        assert_true(err.retryable);
    }
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
        aiq_fail(&err, no[i], "c", "m");
        assert_false(err.retryable);
    }
}

static void test_err_cuts_between_characters(void **state)
{
    aiq_err err;
    char text[400];

    (void)state;
    for (size_t lead = 0; lead < 3; lead++) {
        memset(text, 'a', lead);
        for (size_t i = lead; i + 3 < sizeof(text); i += 3) {
            memcpy(text + i, "\xe2\x82\xac", 4);
        }
        aiq_fail(&err, 400, "c", "%s", text);
        size_t n = strlen(err.message);
        assert_int_equal((n - lead) % 3, 0);
        assert_true(n >= sizeof(err.message) - 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc_is_aligned_and_apart),
        cmocka_unit_test(test_small_after_large),
        cmocka_unit_test(test_cleanups_run_backwards_once),
        cmocka_unit_test(test_reset_gives_the_same_memory),
        cmocka_unit_test(test_reset_keeps_a_block),
        cmocka_unit_test(test_buf_is_a_queue),
        cmocka_unit_test(test_buf_stays_small_as_a_queue),
        cmocka_unit_test(test_buf_text),
        cmocka_unit_test(test_put_decimal),
        cmocka_unit_test(test_err_fields),
        cmocka_unit_test(test_err_retryable),
        cmocka_unit_test(test_err_cuts_between_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
