/* What is guessed to follow: what followed the same words before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "infer/draft.h"

/* Letters for tokens. */
static void follows(const char *said, uint32_t most, const char *want)
{
    int32_t ids[64], out[64];
    uint32_t n = (uint32_t)strlen(said), got;

    for (uint32_t i = 0; i < n; i++) {
        ids[i] = said[i];
    }
    got = draft_find(ids, n, most, out);
    assert_int_equal(got, strlen(want));
    for (uint32_t i = 0; i < got; i++) {
        assert_int_equal(out[i], want[i]);
    }
}

static void what_followed_before(void **state)
{
    (void)state;
    follows("", 4, "");
    follows("aa", 4, "");
    follows("abcdef", 4, "");
    follows("abcdab", 4, "cdab");
    follows("abcdab", 2, "cd");
    follows("abcdab", 0, "");
    follows("aaa", 4, "aaaa");
    follows("abab", 5, "ababa");
    follows("xab1yab2ab", 3, "2ab");
    follows("xab1yab2xab", 4, "1yab");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_followed_before)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
