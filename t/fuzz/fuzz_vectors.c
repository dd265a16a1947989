/* What a file of vectors may say, whatever its digest: it is read whole or refused, within the
 * index's bound, and what was read is written and read again as it is. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors/vectors_file.h"

#define ROOM (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const vectors_clock fuzz_clock = {5000, 1000000};

static void check_item(void *arg, const vectors_item *item)
{
    float query[VECTORS_DIMS] = {1};
    vectors_hit hits[2];

    assert(item->expires_ms > fuzz_clock.now_ms);
    (void)vectors_search(arg, item->partition, query, item->dims, 0, hits, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vectors *v = vectors_new(ROOM, 3, 1), *again = vectors_new(ROOM, 3, 1);
    aiq_buf first = {0}, second = {0};

    if (vectors_read(v, fuzz_clock, (aiq_str){(const char *)data, size})) {
        assert(vectors_look(v).bytes <= ROOM);
        vectors_each(v, check_item, v);
        vectors_write(v, fuzz_clock, &first);
        assert(vectors_read(again, fuzz_clock, (aiq_str){(char *)first.data, first.len}));
        vectors_write(again, fuzz_clock, &second);
        assert(first.len == second.len &&
               (first.len == 0 || memcmp(first.data, second.data, first.len) == 0));
    } else {
        assert(vectors_look(v).vectors == 0);
    }
    aiq_buf_free(&first);
    aiq_buf_free(&second);
    vectors_free(v);
    vectors_free(again);
    return 0;
}
