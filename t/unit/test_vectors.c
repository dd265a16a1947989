/* What an index finds, forgets and leaves to the next engine. The clock is the test's. */

#include "unit.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vectors/vectors_file.h"

#define ROOM (1u << 20)
#define DIMS 4

/* A vector that is told from others by one number. */
static bool put(vectors *v, unsigned part, uint64_t id, float x, uint64_t expires_ms)
{
    const float numbers[DIMS] = {x, 1, 0, 0};
    uint16_t row[DIMS];
    char text[32];
    vectors_item item = {.id = id, .dims = DIMS, .row = row, .expires_ms = expires_ms};

    vectors_round(row, numbers, DIMS);
    item.data =
        (aiq_str){text, (size_t)snprintf(text, sizeof(text), "data of %u", (unsigned)id)};
    memset(item.partition, (int)part, VECTORS_KEY);
    return vectors_add(v, &item);
}

static uint32_t find(vectors *v, unsigned part, uint64_t now_ms, vectors_hit *hits, uint32_t n)
{
    const float query[DIMS] = {1, 0, 0, 0};
    uint8_t key[VECTORS_KEY];

    memset(key, (int)part, sizeof(key));
    return vectors_search(v, key, query, DIMS, now_ms, hits, n);
}

static uint64_t best(vectors *v, unsigned part, uint64_t now_ms)
{
    vectors_hit hit;
    char text[32];

    if (find(v, part, now_ms, &hit, 1) == 0) {
        return 0;
    }
    snprintf(text, sizeof(text), "data of %u", (unsigned)hit.item.id);
    assert_true(aiq_str_is(hit.item.data, text));
    return hit.item.id;
}

static void the_nearest_of_a_partition_is_found(void **state)
{
    vectors *v = vectors_new(ROOM, 7, 1);
    vectors_hit hits[VECTORS_HITS];

    (void)state;
    assert_int_equal(best(v, 1, 0), 0);
    for (unsigned i = 1; i <= 20; i++) {
        assert_true(put(v, i % 2, i, (float)i / 32, VECTORS_EVER));
    }
    assert_int_equal(best(v, 0, 0), 20);
    assert_int_equal(best(v, 1, 0), 19);
    assert_int_equal(best(v, 2, 0), 0);
    assert_int_equal(find(v, 1, 0, hits, 3), 3);
    assert_int_equal(hits[2].item.id, 15);
    assert_true(hits[2].score == 15.0f / 32);
    assert_int_equal(find(v, 1, 0, hits, VECTORS_HITS), 10);
    put(v, 1, 19, 0, VECTORS_EVER); /* another one with its id */
    assert_int_equal(best(v, 1, 0), 17);
    put(v, 0, 17, 2, VECTORS_EVER); /* and elsewhere */
    assert_int_equal(best(v, 1, 0), 15);
    assert_int_equal(best(v, 0, 0), 17);
    assert_int_equal(vectors_look(v).vectors, 20);
    assert_int_equal(vectors_look(v).partitions, 2);
    vectors_free(v);
}

static void what_is_removed_is_gone(void **state)
{
    vectors *v = vectors_new(ROOM, 7, 1);

    (void)state;
    for (unsigned i = 1; i <= 1000; i++) {
        put(v, i % 3, i, (float)i / 1024, VECTORS_EVER);
    }
    for (unsigned i = 1000; i > 0; i--) {
        assert_int_equal(best(v, i % 3, 0), i);
        assert_true(vectors_remove(v, i));
        assert_false(vectors_remove(v, i));
    }
    assert_int_equal(vectors_look(v).bytes, 0);
    assert_int_equal(vectors_look(v).partitions, 0);
    vectors_free(v);
}

static void a_vector_lasts_for_its_time(void **state)
{
    vectors *v = vectors_new(ROOM, 7, 1);

    (void)state;
    put(v, 1, 1, 0.5f, 100);
    put(v, 1, 2, 0.4f, 50);
    put(v, 1, 3, 0.3f, VECTORS_EVER);
    put(v, 1, 4, 0.6f, 60);
    put(v, 2, 5, 0.1f, 60);
    assert_int_equal(best(v, 1, 59), 4);
    assert_int_equal(best(v, 1, 60), 1);
    assert_int_equal(vectors_look(v).vectors, 3);
    assert_int_equal(best(v, 1, 100), 3);
    assert_int_equal(best(v, 2, 60), 0);
    assert_int_equal(vectors_look(v).partitions, 1);
    vectors_free(v);
}

static void memory_is_bounded_and_the_least_used_goes(void **state)
{
    vectors *v = vectors_new(64 << 10, 7, 1);
    vectors_item item;

    (void)state;
    for (unsigned i = 1; i <= 5000; i++) {
        assert_true(put(v, i % 7, i, 0.5f, VECTORS_EVER));
        assert_true(vectors_look(v).bytes <= 64 << 10);
        vectors_use(v, 1);
    }
    assert_true(vectors_look(v).evictions > 1000);
    assert_true(vectors_look(v).vectors > 100);
    assert_true(vectors_get(v, 1, &item));
    assert_true(vectors_get(v, 5000, &item));
    assert_false(vectors_get(v, 2, &item));
    vectors_free(v);
}

static void what_does_not_fit_is_refused(void **state)
{
    vectors *v = vectors_new(64 << 10, 7, 1), *none = vectors_new(0, 7, 1);
    static char large[64 << 10];
    uint16_t row[DIMS] = {0};
    vectors_item item = {.id = 9, .dims = DIMS, .row = row, .data = {large, sizeof(large)}};
    const float query[DIMS + 1] = {1};
    vectors_hit hit;

    (void)state;
    assert_false(vectors_add(v, &item));
    item.data.len = 1;
    assert_false(vectors_add(none, &item));
    item.dims = 0;
    assert_false(vectors_add(v, &item));
    item.dims = VECTORS_DIMS + 1;
    assert_false(vectors_add(v, &item));
    item.dims = DIMS;
    item.expires_ms = VECTORS_EVER;
    assert_true(vectors_add(v, &item));
    item.id = 10;
    item.dims = DIMS - 1;
    assert_false(vectors_add(v, &item));
    assert_int_equal(vectors_search(v, item.partition, query, DIMS + 1, 0, &hit, 1), 0);
    assert_int_equal(vectors_search(v, item.partition, query, DIMS, 0, &hit, 1), 1);
    vectors_free(v);
    vectors_free(none);
}

static void numbers_are_rounded_to_the_nearest(void **state)
{
    static const struct {
        float from;
        uint16_t to;
    } cases[] = {
        {0, 0},
        {-0.0f, 0x8000},
        {1, 0x3c00},
        {-2, 0xc000},
        {1 + 1 / 2048.0f, 0x3c00}, /* halves: to the even one */
        {1 + 3 / 2048.0f, 0x3c02},
        {1 + 1.01f / 2048, 0x3c01},
        {65504, 0x7bff},
        {65519, 0x7bff},
        {65520, 0x7c00},
        {INFINITY, 0x7c00},
        {-INFINITY, 0xfc00},
        {NAN, 0x7e00},
        {0x1p-14f, 0x0400},
        {0x1p-24f, 0x0001},
        {0x1p-25f, 0x0000},
        {0x1.8p-24f, 0x0002},
        {-0x1.01p-25f, 0x8001},
        {0x1.fffp-15f, 0x0400},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint16_t got;

        vectors_round(&got, &cases[i].from, 1);
        assert_int_equal(got, cases[i].to);
    }
}

static void what_was_saved_is_there_again(void **state)
{
    vectors *v = vectors_new(ROOM, 7, 1), *again = vectors_new(ROOM, 8, 1);
    char path[] = "/tmp/test_vectors.XXXXXX";
    vectors_item item;
    aiq_err err;
    struct stat st;

    (void)state;
    close(mkstemp(path));
    put(v, 1, 1, 0.1f, 2000);
    put(v, 1, 2, 0.2f, VECTORS_EVER);
    put(v, 2, 3, 0.3f, 1000); /* expires now */
    put(v, 1, 4, 0.4f, 6000);
    vectors_use(v, 1);
    assert_true(vectors_save(v, (vectors_clock){1000, 1000000}, path, &err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    put(again, 1, 2, 0.9f, VECTORS_EVER); /* stays as it is */
    /* another clock, 500 ms later */
    assert_true(vectors_load(again, (vectors_clock){70000, 1000500}, path, ROOM, &err));
    assert_int_equal(vectors_look(again).vectors, 3);
    assert_int_equal(best(again, 1, 70000), 2);
    assert_true(vectors_get(again, 4, &item));
    assert_int_equal(item.expires_ms, 74500);
    assert_int_equal(70000 - item.stored_ms, 1500); /* since 0 */
    assert_true(aiq_str_is(item.data, "data of 4"));
    assert_true(vectors_get(again, 1, &item));
    assert_int_equal(item.expires_ms, 70500);

    assert_false(vectors_load(again, (vectors_clock){0, 0}, path, 100, &err));
    unlink(path);
    assert_true(vectors_load(again, (vectors_clock){0, 0}, path, ROOM, &err));
    vectors_free(v);
    vectors_free(again);
}

/* Any byte that is another, any part that is missing. */
static void a_damaged_file_is_refused_whole(void **state)
{
    vectors *v = vectors_new(ROOM, 7, 1);
    const vectors_clock clock = {1000, 1000000};
    char path[] = "/tmp/test_vectors.XXXXXX";
    uint8_t bytes[1024];
    aiq_err err;

    (void)state;
    close(mkstemp(path));
    put(v, 1, 1, 0.1f, VECTORS_EVER);
    put(v, 1, 2, 0.1f, VECTORS_EVER);
    assert_true(vectors_save(v, clock, path, &err));
    vectors_free(v);
    int fd = open(path, O_RDWR);
    size_t size = (size_t)read(fd, bytes, sizeof(bytes));
    assert_true(size > 100 && size < sizeof(bytes));
    v = vectors_new(ROOM, 7, 1);
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 4;
        assert_int_equal(pwrite(fd, bytes, size, 0), (ssize_t)size);
        assert_false(vectors_load(v, clock, path, ROOM, &err));
        bytes[i] ^= 4;
    }
    assert_int_equal(pwrite(fd, bytes, size, 0), (ssize_t)size);
    for (size_t i = size; i-- > 0;) {
        assert_int_equal(ftruncate(fd, (off_t)i), 0);
        assert_false(vectors_load(v, clock, path, ROOM, &err));
    }
    assert_int_equal(vectors_look(v).vectors, 0);
    close(fd);
    unlink(path);
    vectors_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_of_a_partition_is_found),
        cmocka_unit_test(what_is_removed_is_gone),
        cmocka_unit_test(a_vector_lasts_for_its_time),
        cmocka_unit_test(memory_is_bounded_and_the_least_used_goes),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(numbers_are_rounded_to_the_nearest),
        cmocka_unit_test(what_was_saved_is_there_again),
        cmocka_unit_test(a_damaged_file_is_refused_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
