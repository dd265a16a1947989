/* How many tokens of an answer are thoughts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "infer/thoughts.h"

/* Tokens with bars between them. */
static void has(thoughts_place at, const char *tokens, uint32_t want)
{
    thoughts t = {.at = at};

    for (const char *p = tokens; *p != '\0';) {
        size_t n = strcspn(p, "|");

        thoughts_take(&t, p, n);
        p += n + (p[n] == '|');
    }
    assert_int_equal(thoughts_tokens(&t), want);
}

static void an_answer_without(void **state)
{
    (void)state;
    has(THOUGHTS_MAY_BEGIN, "", 0);
    has(THOUGHTS_MAY_BEGIN, "a|b|</think>|c", 0);
    has(THOUGHTS_MAY_BEGIN, " |\n", 0);
    has(THOUGHTS_MAY_BEGIN, "<thin|g>|a", 0);
    has(THOUGHTS_MAY_BEGIN, "<|<think>|a", 0);
    has(THOUGHTS_MAY_BEGIN, "a|<think>|b|</think>", 0);
    has(THOUGHTS_OVER, "<think>|a|</think>|b", 0);
}

static void an_answer_that_begins_with_one(void **state)
{
    (void)state;
    has(THOUGHTS_MAY_BEGIN, "<think>|a|b|</think>|c|d", 4);
    has(THOUGHTS_MAY_BEGIN, "<|th|ink|>\n|a|<|/think|>\n\n|b", 8);
    has(THOUGHTS_MAY_BEGIN, "\n|<think>|a", 3);
    has(THOUGHTS_MAY_BEGIN, "<think>a</think>b|c", 1);
    has(THOUGHTS_MAY_BEGIN, "<think>|</think>|<think>|a|</think>", 2);
}

static void a_prompt_that_ends_in_one(void **state)
{
    (void)state;
    has(THOUGHTS_WITHIN, "a|b", 2);
    has(THOUGHTS_WITHIN, "a|</think|>|b", 3);
    has(THOUGHTS_WITHIN, "<|<|</think>|b", 3);
    has(THOUGHTS_WITHIN, "</</think>|b", 1);
}

/* How much of a token stands before the answer. */
static void what_ends_a_thought_can_go_on(void **state)
{
    thoughts t = {.at = THOUGHTS_WITHIN};

    (void)state;
    assert_int_equal(thoughts_take(&t, "a</think", 8), 8);
    assert_int_equal(thoughts_take(&t, ">{", 2), 1);
    assert_int_equal(t.at, THOUGHTS_OVER);
    assert_int_equal(thoughts_take(&t, "}", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_ends_a_thought_can_go_on),
        cmocka_unit_test(an_answer_without),
        cmocka_unit_test(an_answer_that_begins_with_one),
        cmocka_unit_test(a_prompt_that_ends_in_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
