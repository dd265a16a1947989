#include "core/id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define MS_CHARS    10
#define NS_CHARS    4
#define OWNER_CHARS 6
#define ULID_CHARS  26
#define MS_MAX      ((1ll << 5 * MS_CHARS) - 1)

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

/* One call of the kernel for many ids. More than 256 bytes of it might come short. */
static char *add_random(char *p, size_t n)
{
    static _Thread_local uint8_t random[256]; /* 5 bits of each byte */
    static _Thread_local size_t left;

    if (left < n) {
        left = sizeof(random);
        if (getrandom(random, left, 0) != (ssize_t)left) {
            perror("getrandom"); /* never, once the system has started */
            abort();
        }
    }
    left -= n;
    for (size_t i = 0; i < n; i++) {
        *p++ = digits[random[left + i] & 31];
    }
    *p = '\0';
    return p;
}

static char *add_prefix(char *out, const char *prefix)
{
    return mempcpy(out, prefix, strnlen(prefix, AIQ_ID_SIZE - 1 - ULID_CHARS));
}

int64_t aiq_id(char out[AIQ_ID_SIZE], const char *prefix)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    int64_t ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    char *p = add_prefix(out, prefix);
    p = add_number(p, (uint64_t)ms, MS_CHARS);
    p = add_number(p, (uint64_t)now.tv_nsec % 1000000, NS_CHARS);
    add_random(p, ULID_CHARS - MS_CHARS - NS_CHARS);
    return ms;
}

void aiq_id_at(char out[AIQ_ID_SIZE], const char *prefix, int64_t ms)
{
    ms = ms > 0 ? ms : 0;
    ms = ms < MS_MAX ? ms : MS_MAX;
    *add_number(add_prefix(out, prefix), (uint64_t)ms, MS_CHARS) = '\0';
}

void aiq_id_owned(char out[AIQ_ID_SIZE], const char *prefix, uint32_t owner)
{
    char *p = add_prefix(out, prefix);

    p = add_number(p, (uint64_t)aiq_now_ms(), MS_CHARS);
    p = add_number(p, owner, OWNER_CHARS);
    add_random(p, ULID_CHARS - MS_CHARS - OWNER_CHARS);
}

bool aiq_id_owner(const char *id, size_t len, const char *prefix, uint32_t *owner)
{
    size_t n = strlen(prefix);

    if (len != n + ULID_CHARS || memcmp(id, prefix, n) != 0) {
        return false;
    }
    *owner = 0;
    for (size_t i = 0; i < ULID_CHARS; i++) {
        const char *digit = memchr(digits, id[n + i], sizeof(digits) - 1);
        if (digit == NULL) {
            return false;
        }
        if (i >= MS_CHARS && i < MS_CHARS + OWNER_CHARS) {
            *owner = *owner << 5 | (uint32_t)(digit - digits);
        }
    }
    return true;
}
