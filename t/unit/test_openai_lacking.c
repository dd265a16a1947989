/* What a provider gets that lacks some of OpenAI's members. */

#include "unit.h"
#include "providers/openai_lacking.h"

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"stream_options\"}]"

static aiq_pool *pool;

static int setup(void **state)
{
    (void)state;
    pool = aiq_pool_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    aiq_pool_free(pool);
    return 0;
}

static const chat_request *made(const policy_provider *provider, const char *text)
{
    chat_request *chat = aiq_pool_zalloc(pool, sizeof(*chat));
    aiq_err err;

    assert_true(chat_request_parse(chat, (aiq_str){text, strlen(text)}, &err));
    return openai_without(chat, provider, pool);
}

static void becomes(const policy_provider *provider, const char *text, const char *expected)
{
    const chat_request *chat = made(provider, text);

    assert_string_equal(aiq_pool_copy(pool, chat->body.data, chat->body.len), expected);
    assert_true(json_string_is(&chat->model, "m"));
    assert_in_range(chat->model.text.data, chat->body.data, chat->body.data + chat->body.len);
}

static void who_lacks_nothing_gets_it_as_it_came(void **state)
{
    static const policy_provider all;
    static const char text[] =
        " {\"model\" : \"m\", " MESSAGES ", \"max_completion_tokens\":1}";
    const chat_request *chat = made(&all, text);

    (void)state;
    assert_ptr_equal(chat->body.data, text);
}

static void leaves_stream_options_out(void **state)
{
    static const policy_provider provider = {.no_stream_options = true};

    (void)state;
    becomes(&provider,
            "{\"stream_options\":{\"include_usage\":true}, \"model\":\"m\"," MESSAGES
            ",\"stream\":true, \"stream_options2\":1}",
            "{\"model\":\"m\"," MESSAGES ",\"stream\":true,\"stream_options2\":1}");
    const chat_request *chat = made(&provider, "{\"model\":\"m\"," MESSAGES ",\"stream\":true,"
                                               "\"stream_options\":{\"include_usage\":true}}");
    assert_int_equal(chat->stream_options.type, JSON_NONE);
    assert_int_equal(chat->include_usage.type, JSON_NONE);
    assert_true(chat->stream);
}

static void a_limit_keeps_its_number(void **state)
{
    static const policy_provider provider = {.no_max_completion_tokens = true};

    (void)state;
    becomes(&provider, "{\"model\":\"m\",\"max_completion_tokens\":7," MESSAGES "}",
            "{\"model\":\"m\",\"max_tokens\":7," MESSAGES "}");
    becomes(&provider,
            "{\"max_tokens\":9,\"model\":\"m\",\"max_completion_tokens\":7," MESSAGES "}",
            "{\"model\":\"m\",\"max_tokens\":7," MESSAGES "}");
    becomes(&provider,
            "{\"max_tokens\":9,\"model\":\"m\",\"max_completion_tokens\":null," MESSAGES "}",
            "{\"max_tokens\":9,\"model\":\"m\"," MESSAGES "}");
    const chat_request *chat =
        made(&provider, "{\"model\":\"m\",\"max_completion_tokens\":7," MESSAGES "}");
    assert_int_equal(chat->max_completion_tokens.type, JSON_NONE);
    assert_int_equal(chat->max_tokens.type, JSON_NUMBER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_lacks_nothing_gets_it_as_it_came),
        cmocka_unit_test(leaves_stream_options_out),
        cmocka_unit_test(a_limit_keeps_its_number),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
