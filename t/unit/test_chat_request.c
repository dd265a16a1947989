/* What a chat request is found to be. The refusals of HTTP are in t/gw_validation.t. */

#include "unit.h"
#include <stdio.h>
#include "providers/chat_request.h"

static bool parse(chat_request *chat, const char *text, aiq_err *err)
{
    memset(err, 0, sizeof(*err));
    return chat_request_parse(chat, (aiq_str){text, strlen(text)}, err);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void finds_the_fields(void **state)
{
    chat_request chat;
    aiq_err err;
    int64_t n;

    (void)state;
    assert_true(parse(&chat,
                      " {\"model\" : \"a\\u0062\", " MESSAGES ",\"stream\":true,"
                      "\"stream_options\":{\"include_usage\":true},\"max_tokens\":7,"
                      "\"temperature\":0.5,\"stop\":[\"x\"],\"seed\":-1} ",
                      &err));
    assert_true(json_string_is(&chat.model, "ab"));
    assert_int_equal(chat.messages.count, 1);
    assert_true(chat.stream && chat_request_wants_usage(&chat));
    assert_true(json_int(&chat.max_tokens, &n) && n == 7);
    assert_int_equal(chat.temperature.type, JSON_NUMBER);
    assert_int_equal(chat.stop.count, 1);
    assert_int_equal(chat.n.type, JSON_NONE);
}

static void null_is_absent(void **state)
{
    chat_request chat;
    aiq_err err;

    (void)state;
    assert_true(parse(&chat,
                      "{\"model\":\"m\"," MESSAGES ",\"stream\":null,\"stream_options\":null,"
                      "\"max_tokens\":null,\"max_completion_tokens\":null,\"temperature\":null,"
                      "\"top_p\":null,\"n\":null,\"seed\":null,\"stop\":null}",
                      &err));
    assert_false(chat.stream || chat_request_wants_usage(&chat));
}

static void accepts_every_role(void **state)
{
    static const char *const messages[] = {
        "{\"role\":\"system\",\"content\":\"x\"}",
        "{\"role\":\"developer\",\"content\":\"x\"}",
        "{\"role\":\"assistant\",\"tool_calls\":[]}",
        "{\"role\":\"assistant\",\"content\":null}",
        "{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":\"1\"}",
        "{\"role\":\"function\",\"content\":null,\"name\":\"f\"}",
        ("{\"role\":\"us\\u0065r\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},"
         "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}]}"),
    };
    char text[512];
    chat_request chat;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"messages\":[%s]}", messages[i]);
        if (!parse(&chat, text, &err)) {
            fail_msg("%s: %s", messages[i], err.message);
        }
    }
}

static void names_the_field_at_fault(void **state)
{
    static const struct {
        const char *text, *param, *code;
    } cases[] = {
        {"{" MESSAGES "}", "model", "missing_required_parameter"},
        {"{\"model\":null," MESSAGES "}", "model", "invalid_type"},
        {"{\"model\":\"m\",\"messages\":{}}", "messages", "invalid_type"},
        {"{\"model\":\"m\",\"messages\":[]}", "messages", "invalid_value"},
        {"{\"model\":\"m\",\"messages\":[[]]}", "messages[0]", "invalid_type"},
        {"{\"model\":\"m\"," MESSAGES ",\"temperature\":-0.1}", "temperature", "invalid_value"},
        {"{\"model\":\"m\"," MESSAGES ",\"max_tokens\":1.5}", "max_tokens", "invalid_value"},
        {"{\"model\":\"m\"," MESSAGES ",\"max_tokens\":4294967296}", "max_tokens",
         "invalid_value"},
        {"{\"model\":\"m\"," MESSAGES ",\"stop\":{}}", "stop", "invalid_type"},
    };
    chat_request chat;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(parse(&chat, cases[i].text, &err));
        assert_int_equal(err.status, 400);
        assert_string_equal(err.param, cases[i].param);
        assert_string_equal(err.code, cases[i].code);
    }
}

static void says_where_json_ends(void **state)
{
    chat_request chat;
    aiq_err err;

    (void)state;
    assert_false(parse(&chat, "{\"model\":\"m\",}", &err));
    assert_string_equal(err.code, "invalid_json");
    assert_non_null(strstr(err.message, "at byte 13"));
    assert_string_equal(err.param, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_fields),     cmocka_unit_test(null_is_absent),
        cmocka_unit_test(accepts_every_role),   cmocka_unit_test(names_the_field_at_fault),
        cmocka_unit_test(says_where_json_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
