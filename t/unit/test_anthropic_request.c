/* A chat request in Anthropic's words, and what cannot be said in them. */

#include "unit.h"
#include <stdio.h>
#include "providers/anthropic_request.h"

#define MODEL "\"model\":\"m\","
#define USER  MODEL "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define OUT   "{\"model\":\"claude\",\"max_tokens\":4096,"
#define OUT_USER                                                                               \
    "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}]"

static aiq_pool *pool;
static char text[8192];

/* The body for Anthropic, or the field at fault. */
static const char *translate(const char *body)
{
    chat_request chat;
    aiq_buf out = {0};
    aiq_err err = {0};

    assert_true(chat_request_parse(&chat, (aiq_str){body, strlen(body)}, &err));
    bool ok = anthropic_request(&chat, "claude", pool, &out, &err);
    if (ok) {
        json_error error;
        assert_true(json_scan((char *)out.data, out.len, NULL, 0, &error));
        assert_in_range(out.len, 1, sizeof(text) - 1);
        memcpy(text, out.data, out.len);
        text[out.len] = '\0';
    } else {
        assert_int_equal(err.status, 400);
        assert_non_null(strstr(err.message, err.param));
        strcpy(text, err.param);
    }
    aiq_buf_free(&out);
    return text;
}

static const char *with_messages(const char *messages)
{
    static char body[4096];

    assert_true(strlen(messages) + 32 < sizeof(body));
    strcat(strcat(strcpy(body, "{" MODEL "\"messages\":["), messages), "]}");
    return translate(body);
}

static void becomes(const char *messages, const char *expected)
{
    char whole[4096];

    strcat(strcat(strcpy(whole, OUT), expected), "}");
    assert_string_equal(with_messages(messages), whole);
}

static void a_question(void **state)
{
    (void)state;
    assert_string_equal(translate("{" USER "}"), OUT OUT_USER "}");
    assert_string_equal(translate("{" USER ",\"stream\":true,\"max_tokens\":7}"),
                        "{\"model\":\"claude\",\"max_tokens\":7," OUT_USER ",\"stream\":true}");
    assert_string_equal(translate("{" USER ",\"max_completion_tokens\":9,\"max_tokens\":7}"),
                        "{\"model\":\"claude\",\"max_tokens\":9," OUT_USER "}");
}

static void system_messages_come_first(void **state)
{
    (void)state;
    becomes(
        "{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"},"
        "{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"c\"}]}",
        "\"system\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"c\"}],"
        "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"}]}]");
}

static void turns_alternate_and_are_never_empty(void **state)
{
    (void)state;
    becomes("{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"},"
            "{\"role\":\"assistant\",\"content\":\"\"},"
            "{\"role\":\"assistant\",\"content\":\"c\\u00e9\"},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},"
            "{\"type\":\"text\",\"text\":\"d\"}]}",
            "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
            "{\"type\":\"text\",\"text\":\"b\"}]},"
            "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"c\\u00e9\"}]},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"d\"}]}]");
}

static void images_and_files(void **state)
{
    (void)state;
    becomes("{\"role\":\"user\",\"content\":["
            "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image\\/png;base64,AA==\","
            "\"detail\":\"auto\"}},"
            "{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/y.png\"}},"
            "{\"type\":\"file\",\"file\":{\"filename\":\"a.pdf\","
            "\"file_data\":\"data:application/pdf;base64,BB==\"}}]}",
            "\"messages\":[{\"role\":\"user\",\"content\":["
            "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
            "\"data\":\"AA==\"}},"
            "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x/y.png\"}},"
            "{\"type\":\"document\",\"source\":{\"type\":\"base64\",\"media_type\":"
            "\"application/pdf\",\"data\":\"BB==\"},\"title\":\"a.pdf\"}]}]");
}

#define PART(part) "{\"role\":\"user\",\"content\":[" part "]}"

static void parts_that_cannot_be_carried(void **state)
{
    (void)state;
    assert_string_equal(with_messages(PART("{\"type\":\"input_audio\"}")),
                        "messages[0].content[0].type");
    assert_string_equal(
        with_messages(PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///x\"}}")),
        "messages[0].content[0].image_url.url");
    assert_string_equal(
        with_messages(PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:,x\"}}")),
        "messages[0].content[0].image_url.url");
    assert_string_equal(
        with_messages(PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/\","
                           "\"detail\":\"high\"}}")),
        "messages[0].content[0].image_url.detail");
    assert_string_equal(with_messages(PART("{\"type\":\"file\",\"file\":{\"file_id\":\"f\"}}")),
                        "messages[0].content[0].file.file_id");
    assert_string_equal(with_messages(PART("{\"type\":\"text\",\"text\":\"x\",\"new\":1}")),
                        "messages[0].content[0].new");
    assert_string_equal(with_messages("{\"role\":\"user\",\"content\":\"x\",\"name\":\"bob\"}"),
                        "messages[0].name");
    assert_string_equal(with_messages("{\"role\":\"function\",\"content\":\"x\"}"),
                        "messages[0].role");
}

#define CALL(id, arguments)                                                                    \
    "{\"id\":\"" id                                                                            \
    "\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":" arguments "}}"
#define USE(id, input)                                                                         \
    "{\"type\":\"tool_use\",\"id\":\"" id "\",\"name\":\"f\",\"input\":" input "}"

static void parallel_calls_and_their_results(void **state)
{
    (void)state;
    becomes(
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" CALL(
            "1",
            "\"{\\\"a\\\": "
            "1}\"") "," CALL("2",
                             "\"\"") "]},"
                                     "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":"
                                     "\"x\"},"
                                     "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":"
                                     "[{\"type\":\"text\",\"text\":\"y\"}]},"
                                     "{\"role\":\"user\",\"content\":\"so?\"}",
        "\"messages\":[{\"role\":\"assistant\",\"content\":[" USE("1", "{\"a\": 1}") "," USE(
            "2", "{}") "]},"
                       "{\"role\":\"user\",\"content\":["
                       "{\"type\":\"tool_result\",\"tool_use_id\":\"1\",\"content\":\"x\"},"
                       "{\"type\":\"tool_result\",\"tool_use_id\":\"2\",\"content\":"
                       "[{\"type\":\"text\",\"text\":\"y\"}]},"
                       "{\"type\":\"text\",\"text\":\"so?\"}]}]");
    assert_string_equal(
        with_messages("{\"role\":\"assistant\",\"tool_calls\":[" CALL("1", "\"[]\"") "]}"),
        "messages[0].tool_calls[0].function.arguments");
    assert_string_equal(with_messages("{\"role\":\"tool\",\"content\":\"x\"}"),
                        "messages[0].tool_call_id");
}

#define TOOL(more) "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"" more "}}]"
#define OUT_TOOL                                                                               \
    OUT OUT_USER ",\"tools\":[{\"name\":\"f\",\"input_schema\":"                               \
                 "{\"type\":\"object\",\"properties\":{}}}]"

static void tools(void **state)
{
    (void)state;
    assert_string_equal(
        translate("{" USER "," TOOL(",\"description\":\"d\",\"strict\":true,"
                                    "\"parameters\":{\"type\":\"object\"}") "}"),
        OUT OUT_USER ",\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":"
                     "{\"type\":\"object\"},\"strict\":true}]}");
    assert_string_equal(translate("{" USER "," TOOL("") "}"), OUT_TOOL "}");
    assert_string_equal(translate("{" USER ",\"tools\":[{\"type\":\"custom\"}]}"),
                        "tools[0].type");
    assert_string_equal(translate("{" USER ",\"functions\":[{\"name\":\"f\"}]}"), "functions");
}

static void choice_of_tools(void **state)
{
    static const char *const cases[][2] = {
        {"\"tool_choice\":\"auto\"", "{\"type\":\"auto\"}"},
        {"\"tool_choice\":\"none\"", "{\"type\":\"none\"}"},
        {"\"tool_choice\":\"required\",\"parallel_tool_calls\":false",
         "{\"type\":\"any\",\"disable_parallel_tool_use\":true}"},
        {"\"parallel_tool_calls\":false",
         "{\"type\":\"auto\",\"disable_parallel_tool_use\":true}"},
        {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
         "{\"type\":\"tool\",\"name\":\"f\"}"},
    };
    char body[1024], expected[1024];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(body, sizeof(body), "{" USER "," TOOL("") ",%s}", cases[i][0]);
        snprintf(expected, sizeof(expected), OUT_TOOL ",\"tool_choice\":%s}", cases[i][1]);
        assert_string_equal(translate(body), expected);
    }
    assert_string_equal(translate("{" USER "," TOOL("") ",\"tool_choice\":{\"type\":\"x\"}}"),
                        "tool_choice");
    assert_string_equal(translate("{" USER ",\"tool_choice\":\"required\"}"), "tool_choice");
}

static void options(void **state)
{
    (void)state;
    assert_string_equal(translate("{" USER ",\"temperature\":0.5,\"top_p\":0.9,\"top_k\":3,"
                                  "\"stop\":\"x\",\"user\":\"u\",\"n\":1,\"seed\":null,"
                                  "\"service_tier\":\"default\"}"),
                        OUT OUT_USER
                        ",\"temperature\":0.5,\"top_p\":0.9,\"top_k\":3,"
                        "\"stop_sequences\":[\"x\"],\"metadata\":{\"user_id\":\"u\"},"
                        "\"service_tier\":\"standard_only\"}");
    assert_string_equal(translate("{" USER ",\"stop\":[\"a\",\"b\"]}"),
                        OUT OUT_USER ",\"stop_sequences\":[\"a\",\"b\"]}");
    assert_string_equal(
        translate("{" USER ",\"reasoning_effort\":\"low\",\"response_format\":"
                  "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{}}}}"),
        OUT OUT_USER ",\"output_config\":{\"effort\":\"low\",\"format\":"
                     "{\"type\":\"json_schema\",\"schema\":{}}}}");
    /* what asks for nothing is no reason to refuse */
    assert_string_equal(
        translate("{" USER ",\"logprobs\":false,\"logit_bias\":{},\"presence_penalty\":0,"
                  "\"response_format\":{\"type\":\"text\"},\"modalities\":[\"text\"],"
                  "\"tools\":[],\"stop\":null,\"reasoning_effort\":\"none\"}"),
        OUT OUT_USER "}");
}

static void options_that_cannot_be_carried(void **state)
{
    static const char *const cases[][2] = {
        {"\"temperature\":1.5", "temperature"},
        {"\"n\":2", "n"},
        {"\"seed\":1", "seed"},
        {"\"logprobs\":true", "logprobs"},
        {"\"top_logprobs\":3", "top_logprobs"},
        {"\"logit_bias\":{\"1\":2}", "logit_bias"},
        {"\"presence_penalty\":0.5", "presence_penalty"},
        {"\"modalities\":[\"text\",\"audio\"]", "modalities"},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format.type"},
        {"\"response_format\":{\"type\":\"json_schema\"}",
         "response_format.json_schema.schema"},
        {"\"reasoning_effort\":\"minimal\"", "reasoning_effort"},
        {"\"service_tier\":\"flex\"", "service_tier"},
        {"\"user\":1", "user"},
        {"\"something_new\":\"x\"", "something_new"},
        {"\"stream\":true,\"stream_options\":{\"include_obfuscation\":true}",
         "stream_options.include_obfuscation"},
    };
    char body[512];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(body, sizeof(body), "{" USER ",%s}", cases[i][0]);
        assert_string_equal(translate(body), cases[i][1]);
    }
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_question),
        cmocka_unit_test(system_messages_come_first),
        cmocka_unit_test(turns_alternate_and_are_never_empty),
        cmocka_unit_test(images_and_files),
        cmocka_unit_test(parts_that_cannot_be_carried),
        cmocka_unit_test(parallel_calls_and_their_results),
        cmocka_unit_test(tools),
        cmocka_unit_test(choice_of_tools),
        cmocka_unit_test(options),
        cmocka_unit_test(options_that_cannot_be_carried),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
