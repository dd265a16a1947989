/* An answer in Redis: what is read is what was written, for this key, or nothing. */

#include "unit.h"
#include <stdlib.h>
#include "cache/envelope.h"

static const uint8_t key[LRU_KEY] = "a digest of thirty-two bytes, so";
static const char answer[] = "data: {}\n\n\0and more";

static aiq_buf written(void)
{
    aiq_buf out = {0};

    envelope_write(&out, key, 1763690000123, answer, sizeof(answer));
    return out;
}

static bool reads(const uint8_t *data, size_t len, const uint8_t k[LRU_KEY])
{
    aiq_str value = {(const char *)data, len}, body;
    int64_t stored_ms;

    return envelope_read(value, k, &stored_ms, &body);
}

static void reads_what_was_written(void **state)
{
    aiq_buf out = written();
    aiq_str value = {(char *)out.data, out.len}, body;
    int64_t stored_ms;

    (void)state;
    assert_true(envelope_read(value, key, &stored_ms, &body));
    assert_int_equal(stored_ms, 1763690000123);
    assert_int_equal(body.len, sizeof(answer));
    assert_memory_equal(body.data, answer, sizeof(answer));
    aiq_buf_free(&out);
}

static void every_bit_counts(void **state)
{
    aiq_buf out = written();

    (void)state;
    for (size_t i = 0; i < out.len * 8; i++) {
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(reads(out.data, out.len, key));
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_true(reads(out.data, out.len, key));
    aiq_buf_free(&out);
}

static void a_torn_one_is_none(void **state)
{
    aiq_buf out = written();

    (void)state;
    for (size_t n = 0; n < out.len; n++) {
        uint8_t *part = malloc(n + 1); /* so that the sanitizer sees who reads on */
        memcpy(part, out.data, n);
        assert_false(reads(part, n, key));
        free(part);
    }
    aiq_buf_add(&out, "x", 1);
    assert_false(reads(out.data, out.len, key));
    aiq_buf_free(&out);
}

static void is_none_under_another_key(void **state)
{
    aiq_buf out = written();
    uint8_t other[LRU_KEY];

    (void)state;
    memcpy(other, key, sizeof(other));
    other[31] ^= 1;
    assert_false(reads(out.data, out.len, other));
    aiq_buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(a_torn_one_is_none),
        cmocka_unit_test(is_none_under_another_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
