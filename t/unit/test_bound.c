/* The most that a request may use, and what it costs in the end. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "ledger/ledger.h"
#include "services/gateway/bound.h"

static bool bound(const char *body, request_bound *b, aiq_err *err)
{
    chat_request chat;

    assert_true(chat_request_parse(&chat, (aiq_str){body, strlen(body)}, err));
    return request_bound_of(&chat, b, err);
}

#define CHAT(more)                                                                             \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" more "}"

static void is_what_the_request_says(void **state)
{
    static const struct {
        const char *body;
        int64_t output, cap;
    } cases[] = {
        {CHAT(""), BOUND_OUTPUT, BOUND_OUTPUT},
        {CHAT(",\"max_tokens\":7"), 7, 0},
        {CHAT(",\"max_completion_tokens\":8"), 8, 0},
        {CHAT(",\"max_completion_tokens\":8,\"max_tokens\":7"), 8, 0},
        {CHAT(",\"max_completion_tokens\":7,\"max_tokens\":8"), 8, 0},
        {CHAT(",\"max_tokens\":null"), BOUND_OUTPUT, BOUND_OUTPUT},
        {CHAT(",\"max_tokens\":7,\"n\":3"), 21, 0},
        {CHAT(",\"n\":2"), 2 * BOUND_OUTPUT, BOUND_OUTPUT},
        {CHAT(",\"max_tokens\":2147483647,\"n\":2147483647"), INT32_MAX, 0},
    };
    request_bound b;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_true(bound(cases[i].body, &b, &err));
        assert_int_equal(b.input, strlen(cases[i].body));
        assert_int_equal(b.output, cases[i].output);
        assert_int_equal(b.cap, cases[i].cap);
    }
}

static void of_endpoints_that_are_no_chats(void **state)
{
    static const struct {
        const char *path, *more;
        int64_t output, cap;
    } cases[] = {
        {"/embeddings", "", 0, 0},
        {"/embeddings", ",\"input\":[\"a\",\"b\"]", 0, 0},
        {"/moderations", "", 0, 0},
        {"/completions", ",\"prompt\":\"a\"", BOUND_OUTPUT, BOUND_OUTPUT},
        {"/completions", ",\"max_tokens\":7", 7, 0},
        {"/completions", ",\"max_tokens\":7,\"n\":2,\"best_of\":3", 21, 0},
        {"/completions", ",\"max_tokens\":7,\"prompt\":[\"a\",\"b\"]", 14, 0},
        {"/completions", ",\"max_tokens\":7,\"prompt\":[[1,2],[3],[4]],\"n\":2", 42, 0},
        {"/completions", ",\"max_tokens\":7,\"prompt\":[1,2,3]", 7, 0}, /* tokens of one */
        {"/completions", ",\"max_tokens\":7,\"prompt\":[]", 7, 0},
        {"/completions", ",\"max_tokens\":1,\"best_of\":2147483647,\"prompt\":[\"\",\"\"]",
         INT32_MAX, 0},
    };
    chat_request chat;
    request_bound b;
    aiq_err err;
    char body[128];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(body, sizeof(body), "{\"model\":\"m\"%s}", cases[i].more);
        assert_true(chat_request_parse_other(&chat, cases[i].path,
                                             (aiq_str){body, strlen(body)}, &err));
        assert_true(request_bound_of(&chat, &b, &err));
        assert_int_equal(b.input, strlen(body));
        assert_int_equal(b.output, cases[i].output);
        assert_int_equal(b.cap, cases[i].cap);
    }
}

static void not_of_sounds_and_images(void **state)
{
    chat_request chat = {.raw = true, .path = "/audio/speech", .body = AIQ_STR("{}")};
    request_bound b;
    aiq_err err = {0};

    (void)state;
    assert_false(request_bound_of(&chat, &b, &err));
    assert_int_equal(err.status, 400);
    assert_string_equal(err.code, "unbounded_request");
}

static void an_image_has_none(void **state)
{
    request_bound b;
    aiq_err err = {0};

    (void)state;
    assert_false(bound("{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"x\"},"
                       "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                       "{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y\"}}]}]}",
                       &b, &err));
    assert_int_equal(err.status, 400);
    assert_string_equal(err.param, "messages[1].content[1]");
    assert_true(bound("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":"
                      "[{\"type\":\"text\",\"text\":\"image_url\"}]}]}",
                      &b, &err));
}

/* 2.50, 1.25 and 10 USD for a million tokens. */
static const policy_price price = {2500000000, 1250000000, 10000000000, -1, -1, -1};
static const ledger_units none;

/* The usual parsers take the last of several members with one name. */
static void an_image_behind_a_text_has_none(void **state)
{
    request_bound b;
    aiq_err err;

    (void)state;
    assert_false(bound("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\","
                       "\"c\\u006fntent\":[{\"type\":\"text\",\"text\":\"\",\"type\":"
                       "\"image_url\",\"image_url\":{\"url\":\"https://x/y\"}}]}]}",
                       &b, &err));
    assert_string_equal(err.code, "unbounded_request");
    assert_string_equal(err.param, "messages[0].content[0]");
}

static void costs_to_the_nano_dollar(void **state)
{
    static const struct {
        journal_usage usage;
        int64_t nano;
    } cases[] = {
        {{.input = 1000, .cached = 0, .output = 500}, 2500000 + 5000000},
        {{.input = 1000, .cached = 400, .output = 0}, 600 * 2500 + 400 * 1250},
        {{.input = 1000, .cached = -1, .output = -1}, 2500000},
        {{.input = -1, .cached = -1, .output = -1}, 0},
        {{.input = 10, .cached = 20, .output = 0}, 20 * 1250}, /* nonsense of a provider's */
        {{.input = INT64_MAX, .cached = 0, .output = INT64_MAX}, INT64_MAX},
    };
    const policy_price tenth = {100000, -1, 500000,
                                -1,     -1, -1}; /* of a nano-dollar a token, and half */

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(ledger_cost(&price, &cases[i].usage, &none), cases[i].nano);
    }
    /* rounded half up, once for the whole event */
    assert_int_equal(ledger_cost(&tenth, &(journal_usage){.input = 4, .output = 0}, &none), 0);
    assert_int_equal(ledger_cost(&tenth, &(journal_usage){.input = 5, .output = 0}, &none), 1);
    assert_int_equal(ledger_cost(&tenth, &(journal_usage){.input = 5, .output = 2}, &none), 2);
}

static void nothing_costs_more_than_its_bound(void **state)
{
    const policy_price dear = {1000000, 5000000, 2000000,
                               -1,      -1,      -1}; /* cached ones cost more */
    request_bound b = {.input = 100, .output = 50};
    journal_usage most = request_most(&b, &dear);

    (void)state;
    for (int64_t cached = 0; cached <= 100; cached += 10) {
        journal_usage used = {.input = 100, .cached = cached, .output = 50};
        assert_true(ledger_cost(&dear, &used, &none) <= most.nano_usd);
    }
}

static ledger_units units(const char *path, const char *body)
{
    chat_request chat;
    aiq_err err;

    assert_true(chat_request_parse_other(&chat, path, (aiq_str){body, strlen(body)}, &err));
    chat.raw = true;
    return request_units(&chat);
}

static void what_is_made_is_counted(void **state)
{
    static const struct {
        const char *input;
        int64_t n;
    } spoken[] = {
        {"\"\"", 0},
        {"\"Hello\"", 5},
        {"\"\\n\\\"\\\\\\u00e4\"", 4},
        {"\"\\ud83d\\ude00\\uDBFF\\uDFFF\"", 2}, /* pairs of surrogates */
        {"\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"", 3},
        {"[\"a\"]", 0},
    };
    char body[128];

    (void)state;
    for (size_t i = 0; i < sizeof(spoken) / sizeof(spoken[0]); i++) {
        snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":%s}", spoken[i].input);
        assert_int_equal(units("/audio/speech", body).characters, spoken[i].n);
        assert_int_equal(units("/audio/speech", body).images, 0);
    }
    assert_int_equal(units("/audio/speech", "{\"model\":\"m\"}").characters, 0);
    assert_int_equal(units("/images/generations", "{\"model\":\"m\"}").images, 1);
    assert_int_equal(units("/images/edits", "{\"model\":\"m\",\"n\":3}").images, 3);
    assert_int_equal(units("/images/edits", "{\"model\":\"m\",\"n\":2147483647}").images,
                     INT32_MAX);
    assert_int_equal(units("/audio/other", "{\"model\":\"m\",\"n\":3}").images, 0);
}

static void what_is_made_has_its_price(void **state)
{
    const policy_price all = {-1, -1, -1, 15000000000, 40000000, 6000000};
    const policy_price most = {0, 0, 0, 1000000000000000, 1000000000000000, 1000000000000000};
    const journal_usage nothing = {0};

    (void)state;
    assert_int_equal(ledger_cost(&all, &nothing, &(ledger_units){.characters = 3}), 45000);
    assert_int_equal(ledger_cost(&all, &nothing, &(ledger_units){.images = 2}), 80000000);
    assert_int_equal(ledger_cost(&all, &nothing, &(ledger_units){.sound_ms = 90000}), 9000000);
    assert_int_equal(ledger_cost(&all, &nothing, &(ledger_units){.sound_ms = 1}), 100);
    assert_int_equal(
        ledger_cost(&most, &nothing, &(ledger_units){INT32_MAX, INT32_MAX, INT32_MAX}),
        INT64_MAX);
    assert_true(request_units_paid(&(ledger_units){.images = 1}, &all));
    assert_true(request_units_paid(&(ledger_units){.characters = 1}, &all));
    assert_false(request_units_paid(&(ledger_units){.images = 1}, &price));
    assert_false(request_units_paid(&(ledger_units){.images = 1}, &most)); /* by tokens, too */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_what_the_request_says),
        cmocka_unit_test(of_endpoints_that_are_no_chats),
        cmocka_unit_test(not_of_sounds_and_images),
        cmocka_unit_test(an_image_has_none),
        cmocka_unit_test(an_image_behind_a_text_has_none),
        cmocka_unit_test(costs_to_the_nano_dollar),
        cmocka_unit_test(nothing_costs_more_than_its_bound),
        cmocka_unit_test(what_is_made_is_counted),
        cmocka_unit_test(what_is_made_has_its_price),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
