/* The ring alone, both ends in one process: what fits into it, and when. */

#include <stdlib.h>
#include "unit.h"
#include "aiq_frame.h"
#include "aiq_link.h"

typedef struct {
    void *mine, *peer;
    aiq_ring writer, reader;
} ends;

static int setup(void **state)
{
    ends *e = calloc(1, sizeof(*e));

    e->mine = calloc(1, AIQ_MAP_SIZE);
    e->peer = calloc(1, AIQ_MAP_SIZE);
    aiq_ring_init(&e->writer, e->mine, e->peer);
    aiq_ring_init(&e->reader, e->peer, e->mine);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    ends *e = *state;

    free(e->mine);
    free(e->peer);
    free(e);
    return 0;
}

static void *push(ends *e, uint32_t len)
{
    return aiq_ring_push(&e->writer, AIQ_FRAME_BODY, 0, 1, 1, len);
}

/* All that is there; how many frames. */
static size_t read_all(ends *e)
{
    const uint8_t *payload;
    aiq_frame frame;
    size_t n = 0;

    aiq_ring_publish(&e->writer);
    while (aiq_ring_next(&e->reader, &frame, &payload) == 1) {
        n++;
    }
    assert_false(e->reader.broken);
    aiq_ring_release(&e->reader);
    return n;
}

/* nginx takes up to 512 events a turn and publishes at its end, wherever the ring was. */
static void a_turn_fits_at_any_time(void **state)
{
    for (unsigned before = 0; before < 1000; before += 7) {
        for (unsigned i = 0; i < before; i++) {
            assert_non_null(push(*state, 1400));
        }
        assert_int_equal(read_all(*state), before);
        for (unsigned i = 0; i < 512; i++) {
            assert_non_null(push(*state, 1400));
        }
        assert_int_equal(read_all(*state), 512);
        teardown(state);
        setup(state);
    }
}

static void a_full_ring_takes_no_more_until_it_is_read(void **state)
{
    ends *e = *state;
    size_t n = 0;

    while (push(e, 1000)) {
        n++;
    }
    assert_in_range(n, AIQ_RING_SIZE / 1100, AIQ_RING_SIZE / 1000);
    assert_int_equal(read_all(e), n);
    assert_non_null(push(e, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_turn_fits_at_any_time, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_ring_takes_no_more_until_it_is_read, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
