#include "infer/answer.h"

#include <stdlib.h>
#include <string.h>

#include "infer/unicode.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

static bool append(answer *a, const char *p, size_t n)
{
    if (n > a->cap - a->len) {
        size_t cap = (a->len + n) * 2;
        char *text = realloc(a->text, cap);

        if (text == NULL) {
            return false;
        }
        a->text = text;
        a->cap = cap;
    }
    memcpy(a->text + a->len, p, n);
    a->len += n;
    return true;
}

/* One byte more of the character under way. */
static bool push_byte(answer *a, char byte)
{
    uint32_t cp;
    int n;

    a->part[a->part_len++] = byte;
    while (a->part_len > 0) {
        n = utf8_next(a->part, a->part_len, &cp);
        if (n == 0) {
            break;
        }
        if (!(n > 0 ? append(a, a->part, (size_t)n) : append(a, REPLACEMENT, 3))) {
            return false;
        }
        n = n > 0 ? n : -n;
        a->part_len -= (size_t)n;
        memmove(a->part, a->part + n, a->part_len);
    }
    return true;
}

/* Cuts the text before the first stop string in it, if there is one. */
static void cut_at_stop(answer *a)
{
    for (size_t i = 0; i < a->len; i++) {
        for (size_t s = 0; s < a->n_stop; s++) {
            size_t n = strlen(a->stop[s]);

            if (n <= a->len - i && memcmp(a->text + i, a->stop[s], n) == 0) {
                a->len = i;
                a->stopped = a->stop[s];
                return;
            }
        }
    }
}

bool answer_push(answer *a, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!push_byte(a, bytes[i])) {
            return false;
        }
    }
    cut_at_stop(a);
    return true;
}

bool answer_end(answer *a)
{
    if (a->part_len > 0 && !a->stopped) {
        a->part_len = 0;
        if (!append(a, REPLACEMENT, 3)) {
            return false;
        }
    }
    a->n_stop = 0;
    return true;
}

size_t answer_ready(const answer *a)
{
    if (a->stopped) {
        return a->len;
    }
    for (size_t i = 0; i < a->len; i++) {
        for (size_t s = 0; s < a->n_stop; s++) {
            if (strncmp(a->stop[s], a->text + i, a->len - i) == 0) {
                return i;
            }
        }
    }
    return a->len;
}

void answer_drop(answer *a, size_t n)
{
    a->len -= n;
    if (a->len > 0) {
        memmove(a->text, a->text + n, a->len);
    }
}

void answer_free(answer *a)
{
    free(a->text);
}
