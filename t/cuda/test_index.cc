/* The arithmetic of kernels/cuda/index.h, by enumeration. */
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
extern "C" {
#include <cmocka.h>
}

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/index.h"

/* Every value of every token has a place of its own, and all places of the pages are used. */
static void pages_are_filled_without_overlap(void **)
{
    const kv_shape s = {3, 2, 8};
    const uint32_t pages[] = {4, 0, 3, 1, 2}, n_pages = 5;
    uint64_t size = n_pages * kv_page_values(s);
    uint8_t *used = (uint8_t *)calloc(size, 1);

    assert_int_equal(kv_page_values(s), 3 * 2 * 2 * KERN_PAGE * 8);
    for (uint32_t pos = 0; pos < n_pages * KERN_PAGE; pos++) {
        for (uint32_t i = 0; i < 3 * 2 * 2; i++) {
            uint64_t at = kv_at(s, pages, pos, i / 4, i / 2 % 2, i % 2);

            assert_int_equal(at / kv_page_values(s), pages[pos / KERN_PAGE]);
            for (uint32_t d = 0; d < 8; d++) {
                assert_true(at + d < size);
                assert_int_equal(used[at + d]++, 0);
            }
        }
    }
    free(used);
}

/* The tokens of a page lie together for one head: what attention reads in one go. */
static void tokens_of_a_page_lie_together(void **)
{
    const kv_shape s = {2, 4, 64};
    const uint32_t pages[] = {7, 1};

    assert_int_equal(kv_at(s, pages, 5, 1, KV_VALUES, 3) + 64,
                     kv_at(s, pages, 6, 1, KV_VALUES, 3));
}

static void check_split(uint32_t first, uint32_t end, uint32_t parts)
{
    uint32_t at = first, n = split_count(first, end, parts);

    assert_true(n >= 1 && n <= parts);
    for (uint32_t i = 0; i < parts; i++) {
        token_range r = split_range(first, end, parts, i);

        assert_int_equal(r.begin < r.end, i < n);
        if (i < n) {
            assert_int_equal(r.begin, at);
            assert_true(i == 0 || r.begin % KERN_PAGE == 0);
            assert_true(r.end == end || r.end - r.begin >= SPLIT_LEAST - KERN_PAGE + 1);
            at = r.end;
        }
    }
    assert_int_equal(at, end);
}

/* The parts cover the tokens in order, none twice, the used ones first. */
static void splits_cover_a_sequence(void **)
{
    for (uint32_t parts = 1; parts <= 33; parts += parts < 4 ? 1 : 7) {
        for (uint32_t end = 1; end < 3000; end += end < 300 ? 1 : 97) {
            for (uint32_t first = 0; first < end; first += 1 + end / 5) {
                check_split(first, end, parts);
            }
        }
    }
    check_split(0, 131072, 32);
    check_split(131072 - 4096, 131072, 32);
}

static void windows(void **)
{
    assert_int_equal(window_first(0, 0), 0);
    assert_int_equal(window_first(500, 0), 0);
    assert_int_equal(window_first(3, 4), 0);
    assert_int_equal(window_first(4, 4), 1);
    assert_int_equal(window_first(9, 1), 9);
}

/* A record is as large as the step or a little larger, and the largest takes the largest. */
static void few_records_play_all_steps(void **)
{
    uint32_t records = 0, before = 0;

    for (uint32_t n = 1; n <= GRAPH_ROWS; n++) {
        uint32_t r = recorded_rows(n);

        assert_true(r >= n && r <= GRAPH_ROWS && r >= before);
        assert_int_equal(recorded_rows(r), r);
        records += r != before;
        before = r;
    }
    assert_int_equal(records, 16);
}

/* Keys come as scores and rows do, and hold both. */
static void keys_of_rows_are_in_order(void **)
{
    const float scores[] = {-INFINITY, -3e38f, -1.5f, -1,    -1e-45f, 0,
                            1e-45f,    1,      1.5f,  3e38f, INFINITY};
    const uint32_t row[] = {UINT32_MAX - 1, 0x80000000, 7, 0}; /* the lower is the better */
    uint64_t before = 0;

    for (float score : scores) {
        for (uint32_t r : row) {
            uint64_t key = topk_key(score, r);

            assert_true(key > before);
            assert_true(topk_key_score(key) == score);
            assert_int_equal(topk_key_row(key), r);
            before = key;
        }
    }
    assert_true(topk_key(-0.0f, 3) == topk_key(0.0f, 3));
    assert_true(topk_key(NAN, 0) == 0 && topk_key(-NAN, 5) == 0);
}

/* Each row is in one group, however many there are, and is where no other is. */
static void groups_of_rows(void **)
{
    const uint32_t counts[] = {
        0, 1, TOPK_ROWS, TOPK_ROWS + 1, UINT32_MAX - TOPK_ROWS, UINT32_MAX - 1, UINT32_MAX};

    for (uint32_t n : counts) {
        uint32_t groups = topk_groups(n);

        assert_true((uint64_t)groups * TOPK_ROWS >= n);
        assert_true(n == 0 || topk_row(groups - 1, 0) < n);
        for (uint32_t i = 1; n > 0 && i < TOPK_ROWS; i++) {
            assert_true(topk_row(groups - 1, i) == topk_row(groups - 1, 0) + i);
            assert_true(topk_row(groups - 1, i) > topk_row(groups - 1, 0));
        }
    }
    assert_true(topk_at(UINT32_MAX, UINT32_MAX) == 0xfffffffe00000001);
    assert_true(topk_at(3000000, 768) == 2304000000);
    assert_true(topk_at(6000000, 768) == 4608000000);
}

static void rows(void **)
{
    assert_int_equal(row_bytes(KERN_F32, 256), 1024);
    assert_int_equal(row_bytes(KERN_F16, 256), 512);
    assert_int_equal(row_bytes(KERN_BF16, 256), 512);
    assert_int_equal(row_bytes(KERN_Q8_0, 256), 272);
    assert_int_equal(row_bytes(KERN_Q4_0, 256), 144);
    assert_int_equal(row_bytes(KERN_Q4_K, 256), 144);
    assert_int_equal(row_bytes(KERN_Q5_K, 256), 176);
    assert_int_equal(row_bytes(KERN_Q6_K, 256), 210);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_filled_without_overlap),
        cmocka_unit_test(tokens_of_a_page_lie_together),
        cmocka_unit_test(splits_cover_a_sequence),
        cmocka_unit_test(windows),
        cmocka_unit_test(few_records_play_all_steps),
        cmocka_unit_test(keys_of_rows_are_in_order),
        cmocka_unit_test(groups_of_rows),
        cmocka_unit_test(rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
