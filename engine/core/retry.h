/*
 * When to try again: exponential back-off with jitter. The first attempt is made
 * at once, the second `base` after the first has failed, the third twice that
 * later, and so on: 0, 2, 4, 8, 16 s for 2 s. Each wait is drawn from ±25 % around
 * that, so that what failed together does not come back together. Pure.
 */

#ifndef AIQ_RETRY_H
#define AIQ_RETRY_H

#include <stdint.h>

/* Milliseconds from the failure of attempt `failed` (1: the first) to the next.
 * retry_after: seconds that the other side asked for, 0: none; the longer wait
 * counts. random: any number, evenly drawn. */
uint64_t retry_wait_ms(unsigned failed, uint32_t base_ms, uint32_t retry_after,
                       uint64_t random);

#endif
