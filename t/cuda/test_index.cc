/* The arithmetic of kernels/cuda/index.h, by enumeration. */
#include <csetjmp>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
extern "C" {
#include <cmocka.h>
}

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
        cmocka_unit_test(rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
