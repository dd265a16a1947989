/* The text of an answer on its way out: whole characters, stop strings, whatever the pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "infer/answer.h"
#include "infer/unicode.h"

/* What comes out if text goes in by pieces of n bytes; checks each part on its way. */
static char *pass(const char *text, size_t len, size_t n, const char *const *stop,
                  size_t n_stop, const char **stopped)
{
    answer a = {.stop = stop, .n_stop = n_stop};
    char *out = calloc(1, len * 3 + 1);
    size_t at = 0;

    for (size_t i = 0; i < len && !a.stopped; i += n) {
        size_t ready;

        assert_true(answer_push(&a, text + i, len - i < n ? len - i : n));
        ready = answer_ready(&a);
        for (size_t j = 0; j < ready;) {
            uint32_t cp;
            int step = utf8_next(a.text + j, ready - j, &cp);

            assert_true(step > 0);
            j += (size_t)step;
        }
        for (size_t j = 0; j < ready; j++) {
            out[at++] = a.text[j];
        }
        answer_drop(&a, ready);
    }
    assert_true(answer_end(&a));
    for (size_t j = 0; j < answer_ready(&a); j++) {
        out[at++] = a.text[j];
    }
    *stopped = a.stopped;
    answer_free(&a);
    return out;
}

static void expect(const char *text, const char *const *stop, size_t n_stop, const char *want,
                   const char *want_stopped)
{
    const char *stopped;

    for (size_t n = 1; n <= strlen(text); n++) {
        char *got = pass(text, strlen(text), n, stop, n_stop, &stopped);

        assert_string_equal(got, want);
        assert_ptr_equal(stopped, want_stopped);
        free(got);
    }
}

static void characters_stay_whole(void **state)
{
    (void)state;
    expect("", NULL, 0, "", NULL);
    expect("plain", NULL, 0, "plain", NULL);
    expect("Führer 我想 🦙!", NULL, 0, "Führer 我想 🦙!", NULL);
}

static void broken_bytes_are_replaced(void **state)
{
    (void)state;
    expect("a\xff"
           "b",
           NULL, 0,
           "a\xef\xbf\xbd"
           "b",
           NULL);
    expect("\xe6\x88", NULL, 0, "\xef\xbf\xbd", NULL);
    expect("\xe6\x88x", NULL, 0, "\xef\xbf\xbdx", NULL);
    expect("\xf0\x9f\xe6\x88\x91", NULL, 0, "\xef\xbf\xbd\xe6\x88\x91", NULL);
    expect("\xc0\xaf", NULL, 0, "\xef\xbf\xbd\xef\xbf\xbd", NULL);
    expect("\xed\xa0\x80", NULL, 0, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", NULL);
}

static void stop_strings_end_the_text(void **state)
{
    static const char *const one[] = {"END"};
    static const char *const two[] = {"stop now", "now!"};
    static const char *const accent[] = {"é"};

    (void)state;
    expect("before END after", one, 1, "before ", one[0]);
    expect("END", one, 1, "", one[0]);
    expect("EEND", one, 1, "E", one[0]);
    expect("ENENEND", one, 1, "ENEN", one[0]);
    expect("no EN", one, 1, "no EN", NULL);
    expect("please stop now!", two, 2, "please ", two[0]);
    expect("stop stop now", two, 2, "stop ", two[0]);
    expect("right now!", two, 2, "right ", two[1]);
    expect("café", accent, 1, "caf", accent[0]);
}

static void a_possible_stop_is_kept_back(void **state)
{
    static const char *const stop[] = {"\n\nUser:"};
    answer a = {.stop = stop, .n_stop = 1};

    (void)state;
    assert_true(answer_push(&a, "hello\n\nUs", 9));
    assert_int_equal(answer_ready(&a), 5);
    answer_drop(&a, 5);
    assert_true(answer_push(&a, "e it", 4));
    assert_int_equal(answer_ready(&a), 8);
    assert_memory_equal(a.text, "\n\nUse it", 8);
    answer_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_stay_whole),
        cmocka_unit_test(broken_bytes_are_replaced),
        cmocka_unit_test(stop_strings_end_the_text),
        cmocka_unit_test(a_possible_stop_is_kept_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
