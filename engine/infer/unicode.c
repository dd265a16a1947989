#include "infer/unicode.h"

#include "infer/unicode_tables.h"

int utf8_next(const char *p, size_t n, uint32_t *cp)
{
    const uint8_t *s = (const uint8_t *)p;
    uint8_t lo = 0x80, hi = 0xbf;
    int len;

    if (s[0] < 0x80) {
        *cp = s[0];
        return 1;
    }
    if (s[0] < 0xc2 || s[0] > 0xf4) {
        return -1;
    }
    len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    *cp = s[0] & (0xffu >> (len + 1));

    /* the second byte's range shuts out overlong forms, surrogates, beyond U+10FFFF */
    lo = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : lo;
    hi = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : hi;
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n) {
            return 0;
        }
        if (s[i] < lo || s[i] > hi) {
            return -i;
        }
        *cp = *cp << 6 | (s[i] & 0x3f);
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

static bool in_ranges(const uint32_t (*ranges)[2], size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (cp > ranges[mid][1]) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n && cp >= ranges[lo][0];
}

bool unicode_is_letter(uint32_t cp)
{
    return in_ranges(letters, sizeof(letters) / sizeof(*letters), cp);
}

bool unicode_is_number(uint32_t cp)
{
    return in_ranges(numbers, sizeof(numbers) / sizeof(*numbers), cp);
}

bool unicode_is_space(uint32_t cp)
{
    return in_ranges(spaces, sizeof(spaces) / sizeof(*spaces), cp);
}
