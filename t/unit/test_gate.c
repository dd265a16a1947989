/* Which questions ask the same, and what makes the difference where they do not. */

#include "unit.h"

#include <stdio.h>
#include "cache/gate.h"
#include "cache/semantic.h"

static gate_verdict between(const char *a, const char *b, gate_mode mode)
{
    aiq_buf x = {0}, y = {0};

    assert_true(gate_make((aiq_str){a, strlen(a)}, &x));
    assert_true(gate_make((aiq_str){b, strlen(b)}, &y));
    gate_verdict v =
        gate_compare((aiq_str){(char *)x.data, x.len}, (aiq_str){(char *)y.data, y.len}, mode);
    aiq_buf_free(&x);
    aiq_buf_free(&y);
    return v;
}

static void check_by(gate_mode mode, const char *a, const char *b, gate_verdict want)
{
    gate_verdict one = between(a, b, mode), other = between(b, a, mode);

    if (one != want || other != want) {
        fail_msg("\"%s\" and \"%s\": %s and %s, not %s", a, b, gate_name(one), gate_name(other),
                 gate_name(want));
    }
}

static void check(const char *a, const char *b, gate_verdict want)
{
    check_by(GATE_STRICT, a, b, want);
}

static void other_words_for_the_same(void **state)
{
    static const char *const cases[][2] = {
        {"What is the capital of France?", "what's the capital of France"},
        {"What is the capital of France?", "Please tell me what the capital of France is."},
        {"How do I reset my password?", "I want to know how I can reset my password, thanks!"},
        {"How to cook rice", "how can I cook rice?"},
        {"Will you please explain rain?", "explain rain"},
        {"Hi! Can you tell me who wrote Faust?", "Who wrote Faust?"},
        {"Can dogs eat grapes?", "can a dog eat grapes"},
        {"Which cities sell boxes of glass", "which city sell box of glass"},
        {"It costs 1,000.50 dollars", "it costs 1000.5 dollars"},
        {"I ran 5 km in two days", "i ran 5km in 2 days"},
        {"What does \xe2\x80\x9c"
         "foo bar\xe2\x80\x9d mean?",
         "What does \"foo bar\" mean"},
        {"Why don\xe2\x80\x99t cats swim?", "why don't cats swim"},
        {"Why can't cats swim?", "why cannot cats swim"},
        {"caf\xc3\xa9 in Z\xc3\xbcrich?", "caf\xc3\xa9 in Z\xc3\xbcrich"},
        {"Is it so -- or not?", "is it -- or not"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        check(cases[i][0], cases[i][1], GATE_SAME);
        check_by(GATE_LOOSE, cases[i][0], cases[i][1], GATE_SAME);
    }
}

static void what_makes_the_difference(void **state)
{
    static const struct {
        const char *a, *b;
        gate_verdict verdict;
    } cases[] = {
        {"Give me 5 facts", "Give me 6 facts", GATE_NUMBERS},
        {"from 3 to 5", "from 5 to 3", GATE_NUMBERS},
        {"in two days", "in three days", GATE_NUMBERS},
        {"1.5 litres", "15 litres", GATE_NUMBERS},
        {"is 1,2,3 a list", "is 123 a list", GATE_NUMBERS},
        {"what is -5 squared", "what is 5 squared", GATE_NUMBERS},
        {"what is 5!", "what is 5", GATE_NUMBERS},
        {"5 kg", "5 lb", GATE_NUMBERS},
        {"5%", "5", GATE_NUMBERS},
        {"which birds can fly", "which birds cannot fly", GATE_NEGATION},
        {"does it rain", "doesn't it rain", GATE_NEGATION},
        {"with sugar", "without sugar", GATE_NEGATION},
        {"I did it", "I didn't do it", GATE_NEGATION},
        {"trains to Rome", "trains to Oslo", GATE_NAMES},
        {"say \"yes sir\"", "say \"no sir\"", GATE_NAMES},
        {"say \"x y\"", "say \"X y\"", GATE_NAMES},
        {"call foo_bar", "call foo_baz", GATE_NAMES},
        {"at 05:30", "at 05:40", GATE_NAMES},
        {"since 2024-01-02", "since 2024-02-01", GATE_NAMES},
        {"what is 3 + 4", "what is 3 * 4", GATE_NUMBERS},
        {"does C++ have it", "does C# have it", GATE_NAMES},
        {"flights to the sea", "flights from the sea", GATE_WORDS},
        {"who is king", "who was king", GATE_WORDS},
        {"my name", "your name", GATE_WORDS},
        {"turn it on", "turn it off", GATE_WORDS},
        {"very very old", "very old", GATE_WORDS},
        {"why a", "why b", GATE_WORDS},
        {"does the dog bite the man", "does the man bite the dog", GATE_ORDER},
        {"from Rome to Oslo", "from Oslo to Rome", GATE_ORDER},
        {"can you help them", "can they help you", GATE_WORDS},
        {"can dogs swim", "do dogs swim", GATE_WORDS},
        {"can dogs swim", "would dogs swim", GATE_WORDS},
        {"can't dogs swim", "won't dogs swim", GATE_WORDS},
        {"ist das nicht gut", "ist das gut", GATE_NEGATION},
        {"\xe4\xbd\xa0\xe5\xa5\xbd", "\xe4\xbd\xa0\xe5\x9d\x8f", GATE_WORDS},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        check(cases[i].a, cases[i].b, cases[i].verdict);
    }
}

/* Of a model that knows what words mean. */
static void loose_gates_let_other_words_pass(void **state)
{
    static const struct {
        const char *a, *b;
        gate_verdict verdict;
    } cases[] = {
        {"How do I cancel my Uber subscription?",
         "What are the steps to end my Uber subscription?", GATE_SAME},
        {"big cities of Spain", "large towns in Spain", GATE_SAME},
        {"big cities of Spain", "large towns in Peru", GATE_NAMES},
        {"big cities", "no large towns", GATE_NEGATION},
        {"5 big cities", "6 large towns", GATE_NUMBERS},
        {"walk 5 km", "run 5 miles", GATE_NUMBERS},
        {"enable the alarm", "disable the alarm clock", GATE_WORDS},
        {"turn the heating on", "turn off the heating", GATE_WORDS},
        {"who is the king", "who was their king", GATE_WORDS},
        {"mail to the bank", "mail from a bank", GATE_WORDS},
        {"why does the dog chase the cat", "what makes the cat chase the dog", GATE_WORDS},
        {"how does the dog chase the cat", "how can the cat hunt the dog", GATE_ORDER},
        {"gro\xc3\x9f", "riesig", GATE_WORDS}, /* another language: to the letter */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        check_by(GATE_LOOSE, cases[i].a, cases[i].b, cases[i].verdict);
    }
}

static void what_is_none_to_compare(void **state)
{
    static char many[GATE_TEXT_MAX + 1];
    aiq_buf list = {0};

    (void)state;
    assert_false(gate_make(AIQ_STR(""), &list));
    assert_false(gate_make(AIQ_STR(" ?! . "), &list));
    assert_false(gate_make(AIQ_STR("Hi! Thanks."), &list));
    memset(many, 'x', sizeof(many));
    assert_false(gate_make((aiq_str){many, 300}, &list)); /* too long a word */
    for (size_t i = 1; i < sizeof(many); i += 2) {
        many[i] = ' ';
    }
    aiq_buf_free(&list);
    assert_true(gate_make((aiq_str){many, (size_t)2 * GATE_WORDS_MAX}, &list));
    aiq_buf_free(&list);
    assert_false(gate_make((aiq_str){many, (size_t)2 * GATE_WORDS_MAX + 1}, &list));
    aiq_buf_free(&list);
    memset(many, ' ', sizeof(many));
    many[0] = 'x';
    assert_true(gate_make((aiq_str){many, GATE_TEXT_MAX}, &list));
    assert_false(gate_make((aiq_str){many, GATE_TEXT_MAX + 1}, &list));
    aiq_buf_free(&list);
}

static void ids_are_read_as_written(void **state)
{
    static const char *const wrong[] = {"",
                                        "ent_",
                                        "ent_0123456789abcde",
                                        "ent_0123456789abcdef0",
                                        "ent_0123456789ABCDEF",
                                        "abc_0123456789abcdef"};
    char text[SEMANTIC_ID_SIZE];
    uint64_t id;

    (void)state;
    semantic_write_id(text, 0x0123456789abcdef);
    assert_string_equal(text, "ent_0123456789abcdef");
    assert_true(semantic_read_id((aiq_str){text, strlen(text)}, &id));
    assert_true(id == 0x0123456789abcdef);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        assert_false(semantic_read_id((aiq_str){wrong[i], strlen(wrong[i])}, &id));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_words_for_the_same),
        cmocka_unit_test(what_makes_the_difference),
        cmocka_unit_test(loose_gates_let_other_words_pass),
        cmocka_unit_test(what_is_none_to_compare),
        cmocka_unit_test(ids_are_read_as_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
