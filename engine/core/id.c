#include "core/id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define TIME_CHARS 10
#define ULID_CHARS 26

int64_t aiq_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void aiq_id(char out[AIQ_ID_SIZE], const char *prefix)
{
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; /* Crockford's base 32 */
    size_t n = strnlen(prefix, AIQ_ID_SIZE - 1 - ULID_CHARS);
    uint64_t ms = (uint64_t)aiq_now_ms();
    uint8_t random[ULID_CHARS - TIME_CHARS]; /* 5 bits of each byte */

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        perror("getrandom"); /* never, once the system has started */
        abort();
    }
    char *p = mempcpy(out, prefix, n);
    for (int i = TIME_CHARS - 1; i >= 0; i--) {
        p[i] = digits[ms & 31];
        ms >>= 5;
    }
    for (int i = 0; i < ULID_CHARS - TIME_CHARS; i++) {
        p[TIME_CHARS + i] = digits[random[i] & 31];
    }
    p[ULID_CHARS] = '\0';
}
