/* Texts as vectors of their words: what is near, what is far, and that neither ever changes. */
#include "unit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer/lexical.h"

static uint32_t embed(const char *text, float v[LEXICAL_DIM])
{
    uint32_t n = UINT32_MAX;

    assert_true(lexical_embed(text, strlen(text), v, &n));
    return n;
}

static double cosine(const char *a, const char *b)
{
    float x[LEXICAL_DIM], y[LEXICAL_DIM];
    double sum = 0;

    embed(a, x);
    embed(b, y);
    for (size_t i = 0; i < LEXICAL_DIM; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

static void test_what_shares_words_is_near(void **state)
{
    static const struct {
        const char *text, *near, *far;
    } cases[] = {
        {"How do I reset my password?", "How can I reset the password of my account?",
         "What is the weather like in Paris?"},
        {"Where are the metrics?", "Where do I find the metrics?", "Does it need a GPU?"},
        {"What is the capital of France?", "France's capital is what city?",
         "How much does a kilogram of apples cost?"},
        {"Cancel my subscription", "I want to cancel the subscriptions that I have",
         "My invoice is missing"},
        {"Wie lange dauert der Versand?", "Wie lange dauert es bis zur Lieferung des Versands?",
         "Kann ich per Kreditkarte bezahlen?"},
        {"日本の首都はどこですか", "日本の首都を教えてください", "今日は雨が降るでしょう"},
        {"configuration of the workers", "configuring a worker", "the price of the tickets"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        double near = cosine(cases[i].text, cases[i].near);
        double far = cosine(cases[i].text, cases[i].far);

        if (!(near > far + 0.05 && near > 0.3)) {
            fail_msg("%s: near %.3f, far %.3f", cases[i].text, near, far);
        }
    }
}

static void test_case_accents_and_punctuation_change_nothing(void **state)
{
    (void)state;
    assert_true(cosine("Où est l'Été?", "ou est L ETE") > 0.999999);
    assert_true(cosine("  nginx,\n\tworkers! ", "Nginx WORKERS") > 0.999999);
}

static void test_order_and_numbers_do(void **state)
{
    (void)state;
    assert_true(cosine("dog bites man", "man bites dog") < 0.99);
    assert_true(cosine("invoice 2023", "invoice 2024") < 0.9);
}

/* What comes a hundred times counts ten times. */
static void test_repeated_words_count_less(void **state)
{
    char spam[8 * 100 + 16] = "metrics";

    (void)state;
    for (size_t i = 0; i < 100; i++) {
        strcat(spam, " offers");
    }
    assert_true(cosine(spam, "metrics") > 0.05);
    assert_true(cosine(spam, "offers offers") > 0.9);
}

static void test_length_is_one(void **state)
{
    static const char *const texts[] = {"a", "a b", "What is aiq?", "+", "🦙", "日本"};
    float v[LEXICAL_DIM];

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        double sum = 0;

        embed(texts[i], v);
        for (size_t k = 0; k < LEXICAL_DIM; k++) {
            sum += (double)v[k] * (double)v[k];
        }
        assert_true(fabs(sum - 1) < 1e-6);
    }
}

static void test_words_are_counted(void **state)
{
    float v[LEXICAL_DIM];

    (void)state;
    assert_int_equal(embed("What is aiq?", v), 3);
    assert_int_equal(embed("日本 1+1", v), 5);
    assert_int_equal(embed("don't", v), 2);
}

static void test_without_a_word_all_is_zero(void **state)
{
    static const char *const texts[] = {"", " \t\n", "?!", "\xff\xfe", "\xcc\x81", "\xe2\x82"};
    float v[LEXICAL_DIM];

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        assert_int_equal(embed(texts[i], v), 0);
        for (size_t k = 0; k < LEXICAL_DIM; k++) {
            assert_true(v[k] == 0);
        }
    }
}

static void test_ill_formed_text(void **state)
{
    float v[LEXICAL_DIM];
    char text[600];
    unsigned seed = 7;

    (void)state;
    assert_true(cosine("a\xff\xff word\xc3", "a word") > 0.999999);
    assert_true(cosine("a\0word", "a") > 0.999999);
    for (int round = 0; round < 2000; round++) {
        size_t n = (size_t)rand_r(&seed) % sizeof(text);

        for (size_t i = 0; i < n; i++) {
            text[i] = (char)rand_r(&seed);
        }
        assert_true(lexical_embed(text, n, v, NULL));
        for (size_t k = 0; k < LEXICAL_DIM; k++) {
            assert_true(v[k] >= -1 && v[k] <= 1);
        }
    }
}

/* Whatever takes most memory a byte: signs, which are words, and characters that fold to more.
 */
static void test_longest_texts(void **state)
{
    static const char *const parts[] = {"+", "a+", "a", "\xef\xac\x83", "\xc2\xa9", "a "};
    char *text = malloc(LEXICAL_MAX_TEXT + 1);
    float v[LEXICAL_DIM];
    uint32_t n;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        for (size_t k = 0; k <= LEXICAL_MAX_TEXT; k++) {
            text[k] = parts[i][k % strlen(parts[i])];
        }
        assert_true(lexical_embed(text, LEXICAL_MAX_TEXT, v, &n));
        assert_true(n > 0);
        assert_false(lexical_embed(text, LEXICAL_MAX_TEXT + 1, v, &n));
    }
    free(text);
}

/* A stored vector means something only as long as this holds; otherwise it is another name. */
static void test_the_same_bits_for_ever(void **state)
{
    static const char text[] = "Was kostet 1 kg Äpfel? 日本, \xf0\x9f\xa6\x99 & don't don't!";
    float v[LEXICAL_DIM];
    uint64_t sum = 0;

    (void)state;
    assert_string_equal(LEXICAL_NAME, "aiq-lexical-1");
    assert_int_equal(embed(text, v), 12);
    for (size_t i = 0; i < LEXICAL_DIM; i++) {
        uint32_t bits;

        memcpy(&bits, &v[i], sizeof(bits));
        if ((bits & 0x7fffffff) != 0) { /* either zero */
            sum = (sum ^ (bits + i)) * 0x100000001b3;
        }
    }
    assert_int_equal(sum, 0xbf0c22ad7e3f37ca);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_shares_words_is_near),
        cmocka_unit_test(test_case_accents_and_punctuation_change_nothing),
        cmocka_unit_test(test_order_and_numbers_do),
        cmocka_unit_test(test_repeated_words_count_less),
        cmocka_unit_test(test_length_is_one),
        cmocka_unit_test(test_words_are_counted),
        cmocka_unit_test(test_without_a_word_all_is_zero),
        cmocka_unit_test(test_ill_formed_text),
        cmocka_unit_test(test_longest_texts),
        cmocka_unit_test(test_the_same_bits_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
