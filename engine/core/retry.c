#include "core/retry.h"

#define WAIT_MAX_MS (24ull * 3600 * 1000)

uint64_t retry_wait_ms(unsigned failed, uint32_t base_ms, uint32_t retry_after, uint64_t random)
{
    uint64_t wait = base_ms, asked = retry_after * 1000ull;

    for (unsigned i = 1; i < failed && wait < WAIT_MAX_MS; i++) {
        wait *= 2;
    }
    wait = wait < WAIT_MAX_MS ? wait : WAIT_MAX_MS;
    wait = wait - wait / 4 + random % (wait / 2 + 1);
    return wait > asked ? wait : asked;
}
