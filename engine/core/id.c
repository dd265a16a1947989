#include "core/id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define MS_CHARS   10
#define NS_CHARS   4
#define ULID_CHARS 26

int64_t aiq_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; /* Crockford's base 32 */

static char *add_number(char *p, uint64_t number, unsigned n)
{
    for (unsigned i = n; i-- > 0; number >>= 5) {
        p[i] = digits[number & 31];
    }
    return p + n;
}

void aiq_id(char out[AIQ_ID_SIZE], const char *prefix)
{
    size_t n = strnlen(prefix, AIQ_ID_SIZE - 1 - ULID_CHARS);
    uint8_t random[ULID_CHARS - MS_CHARS - NS_CHARS]; /* 5 bits of each byte */
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        perror("getrandom"); /* never, once the system has started */
        abort();
    }
    char *p = mempcpy(out, prefix, n);
    p = add_number(p, (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000, MS_CHARS);
    p = add_number(p, (uint64_t)now.tv_nsec % 1000000, NS_CHARS);
    for (size_t i = 0; i < sizeof(random); i++) {
        *p++ = digits[random[i] & 31];
    }
    *p = '\0';
}
