#include "infer/unicode.h"

#include <stdlib.h>

typedef struct {
    uint32_t first;
    uint32_t last;
    uint32_t step; /* 1 or 2 */
    int32_t delta; /* to what it becomes, or DROPPED */
    uint32_t more; /* a second character, or 0 */
} fold;

#define DROPPED INT32_MIN

#include "infer/unicode_fold.h"
#include "infer/unicode_tables.h"

#define COUNT(table) (sizeof(table) / sizeof(*(table)))

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

size_t utf8_put(uint32_t cp, char out[4])
{
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)(n == 1 ? cp : (0xf00u >> n & 0xf0) | cp);
    return n;
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
    return cp < 0x80 ? (cp | 0x20) - 'a' < 26 : in_ranges(letters, COUNT(letters), cp);
}

bool unicode_is_upper(uint32_t cp)
{
    return in_ranges(upper, COUNT(upper), cp);
}

bool unicode_is_lower(uint32_t cp)
{
    return in_ranges(lower, COUNT(lower), cp);
}

bool unicode_is_mark(uint32_t cp)
{
    return in_ranges(marks, COUNT(marks), cp);
}

bool unicode_is_number(uint32_t cp)
{
    return cp < 0x80 ? cp - '0' < 10 : in_ranges(numbers, COUNT(numbers), cp);
}

bool unicode_is_punctuation(uint32_t cp)
{
    return in_ranges(punctuation, COUNT(punctuation), cp);
}

bool unicode_is_control(uint32_t cp)
{
    return in_ranges(controls, COUNT(controls), cp);
}

bool unicode_is_space(uint32_t cp)
{
    return in_ranges(spaces, COUNT(spaces), cp);
}

/* Syllables of Hangul are computed (Unicode, 3.12). */
static size_t fold_hangul(uint32_t syllable, uint32_t out[3])
{
    uint32_t tail = syllable % 28;

    out[0] = 0x1100 + syllable / (21 * 28);
    out[1] = 0x1161 + syllable / 28 % 21;
    out[2] = 0x11a7 + tail;
    return tail == 0 ? 2 : 3;
}

static int compare_fold(const void *key, const void *element)
{
    uint32_t cp = *(const uint32_t *)key;
    const fold *f = element;

    return (cp > f->last) - (cp < f->first);
}

size_t unicode_fold(uint32_t cp, uint32_t out[3])
{
    const fold *f;

    if (cp < 0x80) {
        out[0] = cp - 'A' < 26 ? cp | 0x20 : cp;
        return 1;
    }
    if (cp - 0xac00 < 11172) {
        return fold_hangul(cp - 0xac00, out);
    }
    f = bsearch(&cp, folds, COUNT(folds), sizeof(*folds), compare_fold);
    out[0] = cp;
    if (f == NULL || (cp - f->first) % f->step != 0) {
        return 1;
    }
    if (f->delta == DROPPED) {
        return 0;
    }
    out[0] = (uint32_t)((int64_t)cp + f->delta);
    out[1] = f->more;
    return f->more == 0 ? 1 : 2;
}
