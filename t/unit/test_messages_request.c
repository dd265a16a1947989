/* A request of Anthropic's clients in OpenAI's words, and what cannot be said in them. */

#include "unit.h"
#include <stdio.h>
#include "services/gateway/messages_request.h"

#define START "{\"model\":\"m\",\"max_tokens\":9,\"messages\":["
#define USER  "{\"role\":\"user\",\"content\":\"hi\"}"
#define END   ",\"max_completion_tokens\":9"

static aiq_pool *pool;
static char text[8192];

/* The chat request's body, or the field at fault. */
static const char *translate(const char *body)
{
    chat_request chat;
    aiq_err err = {0};

    assert_true(messages_request_parse(&chat, (aiq_str){body, strlen(body)}, &err));
    assert_int_equal(chat.dialect, AIQ_DIALECT_ANTHROPIC);
    const chat_request *other = chat.translate(&chat, pool, &err);
    if (other) {
        assert_int_equal(other->dialect, AIQ_DIALECT_OPENAI);
        assert_int_equal(other->stream, chat.stream);
        assert_in_range(other->body.len, 1, sizeof(text) - 1);
        memcpy(text, other->body.data, other->body.len);
        text[other->body.len] = '\0';
    } else {
        assert_int_equal(err.status, 400);
        assert_non_null(strstr(err.message, err.param));
        strcpy(text, err.param);
    }
    return text;
}

static const char *with_messages(const char *messages)
{
    static char body[4096];

    snprintf(body, sizeof(body), START "%s]}", messages);
    return translate(body);
}

static void becomes(const char *messages, const char *expected)
{
    static char whole[4096];

    snprintf(whole, sizeof(whole), "{\"model\":\"m\",\"messages\":[%s]" END "}", expected);
    assert_string_equal(with_messages(messages), whole);
}

/* What no field of OpenAI's says. */
static const chat_request *translated(const char *body)
{
    chat_request chat;
    aiq_err err;

    assert_true(messages_request_parse(&chat, (aiq_str){body, strlen(body)}, &err));
    const chat_request *other = chat.translate(&chat, pool, &err);
    assert_non_null(other);
    return other;
}

static const chat_request *with_thinking(const char *thinking)
{
    char body[200];

    snprintf(body, sizeof(body), START USER "],\"thinking\":%s}", thinking);
    return translated(body);
}

/* Fields beside those that every request has. */
static const char *with_fields(const char *fields)
{
    static char body[2048];

    snprintf(body, sizeof(body), START USER "],%s}", fields);
    return translate(body);
}

static void fields_become(const char *fields, const char *before, const char *behind)
{
    static char whole[2048];

    snprintf(whole, sizeof(whole), "{\"model\":\"m\",\"messages\":[" USER "]%s" END "%s}",
             before, behind);
    assert_string_equal(with_fields(fields), whole);
}

static void a_question(void **state)
{
    (void)state;
    becomes(USER, USER);
    becomes("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\u00e9\","
            "\"cache_control\":{\"type\":\"ephemeral\"}}]}",
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\u00e9\"}]}");
}

static void the_system_prompt_is_a_message(void **state)
{
    (void)state;
    assert_string_equal(
        with_fields("\"system\":\"s\""),
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"}," USER "]" END
        "}");
    assert_string_equal(with_fields("\"system\":[{\"type\":\"text\",\"text\":\"a\"},"
                                    "{\"type\":\"text\",\"text\":\"b\"}]"),
                        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":"
                        "\"a\\n\\nb\"}," USER "]" END "}");
    assert_string_equal(with_fields("\"system\":[{\"type\":\"image\"}]"), "system[0]");
    assert_string_equal(with_fields("\"system\":1"), "system");
}

static void images_and_documents(void **state)
{
    (void)state;
    becomes(
        "{\"role\":\"user\",\"content\":["
        "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
        "\"data\":\"AA==\"}},"
        "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x/\"}},"
        "{\"type\":\"document\",\"source\":{\"type\":\"base64\",\"media_type\":"
        "\"application/pdf\",\"data\":\"BB==\"}},"
        "{\"type\":\"document\",\"source\":{\"type\":\"text\",\"media_type\":\"text/plain\","
        "\"data\":\"t\"}}]}",
        "{\"role\":\"user\",\"content\":["
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AA==\"}},"
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x/\"}},"
        "{\"type\":\"file\",\"file\":{\"filename\":\"document.pdf\",\"file_data\":"
        "\"data:application/pdf;base64,BB==\"}},"
        "{\"type\":\"text\",\"text\":\"t\"}]}");
}

static void tools_and_their_results(void **state)
{
    (void)state;
    becomes("{\"role\":\"assistant\",\"content\":["
            "{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"},"
            "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"},"
            "{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\",\"input\":{\"x\":\"y\"}},"
            "{\"type\":\"tool_use\",\"id\":\"2\",\"name\":\"g\",\"input\":{}}]},"
            "{\"role\":\"user\",\"content\":["
            "{\"type\":\"text\",\"text\":\"so?\"},"
            "{\"type\":\"tool_result\",\"tool_use_id\":\"1\",\"content\":\"r\"},"
            "{\"type\":\"tool_result\",\"tool_use_id\":\"2\",\"is_error\":true,\"content\":"
            "[{\"type\":\"text\",\"text\":\"no\"}]}]}",
            "{\"role\":\"assistant\",\"content\":\"ab\",\"tool_calls\":["
            "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
            "\"{\\\"x\\\":\\\"y\\\"}\"}},"
            "{\"id\":\"2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":"
            "\"{}\"}}]},"
            "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"},"
            "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"Error: no\"},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"so?\"}]}");
    becomes(
        "{\"role\":\"assistant\",\"content\":["
        "{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\",\"input\":{}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"1\"}]}",
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
        "{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{}\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"\"}");
}

static void blocks_that_cannot_be_carried(void **state)
{
    static const char *const cases[][2] = {
        {"\"user\",\"content\":[{\"type\":\"search_result\"}]", "messages[0].content[0].type"},
        {"\"user\",\"content\":[{\"type\":\"image\",\"source\":{\"type\":\"file\"}}]",
         "messages[0].content[0].source"},
        {"\"user\",\"content\":[{\"type\":\"document\",\"source\":{\"type\":\"url\"}}]",
         "messages[0].content[0].source.type"},
        {"\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]",
         "messages[0].content[0].text"},
        {"\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\",\"citations\":[1]}]",
         "messages[0].content[0].citations"},
        {"\"user\",\"content\":[{\"type\":\"tool_result\"}]",
         "messages[0].content[0].tool_use_id"},
        {"\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"1\",\"content\":"
         "[{\"type\":\"image\"}]}]",
         "messages[0].content[0].content"},
        {"\"assistant\",\"content\":[{\"type\":\"server_tool_use\"}]",
         "messages[0].content[0].type"},
        {"\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"1\",\"name\":\"f\"}]",
         "messages[0].content[0]"},
        {"\"user\",\"content\":\"x\",\"name\":\"bob\"", "messages[0].name"},
    };
    char message[512];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(message, sizeof(message), "{\"role\":%s}", cases[i][0]);
        assert_string_equal(with_messages(message), cases[i][1]);
    }
}

static void answers_that_have_begun(void **state)
{
    static const char answer[] = "{\"role\":\"assistant\",\"content\":\"a\"}";
    char body[300];

    (void)state;
    assert_false(translated(START USER "]}")->begun);
    snprintf(body, sizeof(body), START USER ",%s]}", answer);
    assert_true(translated(body)->begun);
    snprintf(body, sizeof(body), START USER ",%s," USER "]}", answer);
    assert_false(translated(body)->begun);
}

#define TOOL "\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}]"
#define FTOOL                                                                                  \
    ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"          \
    "{\"type\":\"object\"}}}]"

static void tools(void **state)
{
    (void)state;
    fields_become(TOOL, FTOOL, "");
    fields_become("\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"},"
                  "\"cache_control\":{},\"eager_input_streaming\":true}]",
                  FTOOL, "");
    fields_become(TOOL ",\"tool_choice\":{\"type\":\"auto\"}",
                  FTOOL ",\"tool_choice\":\"auto\"", "");
    fields_become(TOOL ",\"tool_choice\":{\"type\":\"any\",\"disable_parallel_tool_use\":true}",
                  FTOOL ",\"parallel_tool_calls\":false,\"tool_choice\":\"required\"", "");
    fields_become(
        TOOL ",\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\"}",
        FTOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "");
    assert_string_equal(with_fields(TOOL ",\"tool_choice\":{\"type\":\"x\"}"), "tool_choice");
    assert_string_equal(with_fields("\"tool_choice\":{\"type\":\"any\"}"), "tool_choice");
    assert_string_equal(with_fields("\"tools\":[{\"type\":\"web_search_20250305\"}]"),
                        "tools[0].type");
    assert_string_equal(with_fields("\"tools\":[{\"name\":\"f\"}]"), "tools[0]");
}

static void options(void **state)
{
    (void)state;
    fields_become(
        "\"temperature\":0.5,\"top_p\":1,\"top_k\":4,\"stop_sequences\":[\"x\"],"
        "\"metadata\":{\"user_id\":\"u\"},\"service_tier\":\"standard_only\"",
        "",
        ",\"temperature\":0.5,\"top_p\":1,\"top_k\":4,\"stop\":[\"x\"],\"user\":\"u\","
        "\"service_tier\":\"default\"");
    fields_become("\"stream\":true", "",
                  ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    fields_become("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":2000}", "",
                  ",\"reasoning_effort\":\"low\"");
    fields_become("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":32000}", "",
                  ",\"reasoning_effort\":\"high\"");
    fields_become("\"thinking\":{\"type\":\"disabled\"}", "", "");
    assert_true(with_thinking("{\"type\":\"disabled\"}")->no_thoughts);
    assert_false(with_thinking("{\"type\":\"disabled\"}")->wants_thoughts);
    assert_false(with_thinking("{\"type\":\"adaptive\"}")->no_thoughts);
    assert_true(with_thinking("{\"type\":\"adaptive\"}")->wants_thoughts);
    assert_true(with_thinking("{\"type\":\"enabled\"}")->wants_thoughts);
    assert_false(with_thinking("null")->no_thoughts);
    assert_false(with_thinking("null")->wants_thoughts);
    fields_become(
        "\"output_config\":{\"effort\":\"medium\",\"format\":{\"type\":\"json_schema\","
        "\"schema\":{}}}",
        "",
        ",\"reasoning_effort\":\"medium\",\"response_format\":{\"type\":\"json_schema\","
        "\"json_schema\":{\"name\":\"answer\",\"strict\":true,\"schema\":{}}}");
    assert_string_equal(with_fields("\"mcp_servers\":[{}]"), "mcp_servers");
    assert_string_equal(with_fields("\"service_tier\":\"x\""), "service_tier");
    assert_string_equal(with_fields("\"output_config\":{\"format\":{\"type\":\"x\"}}"),
                        "output_config.format");
    /* what OpenAI's own rules refuse */
    assert_string_equal(with_fields("\"stop_sequences\":[\"1\",\"2\",\"3\",\"4\",\"5\"]"),
                        "stop_sequences");
    assert_string_equal(with_fields("\"stop_sequences\":\"1\""), "stop_sequences");
    assert_string_equal(with_fields("\"temperature\":3"), "temperature");
    /* and Anthropic's */
    assert_string_equal(with_fields("\"temperature\":1.1"), "temperature");
    fields_become("\"temperature\":1", "", ",\"temperature\":1");
    fields_become("\"temperature\":null,\"cache_control\":{\"type\":\"ephemeral\"}", "", "");
}

static void an_empty_message(void **state)
{
    (void)state;
    assert_string_equal(with_messages("{\"role\":\"user\",\"content\":[]}"),
                        "messages[0].content");
}

/* What is to be counted has no limit, and nobody has looked at it yet. */
static void what_is_counted(void **state)
{
    static const char body[] =
        "{\"model\":\"m\",\"system\":\"S\",\"messages\":[" USER "]," TOOL "}";
    chat_request chat = {.body = {body, sizeof(body) - 1}, .dialect = AIQ_DIALECT_ANTHROPIC};
    const json_want wants[] = {{"model", &chat.model}};
    static const char expected[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"S\"}," USER "]" FTOOL
        "}";
    json_error wrong;
    aiq_err err;

    (void)state;
    assert_true(json_scan(body, sizeof(body) - 1, wants, 1, &wrong));
    const chat_request *other = messages_request_translate_count(&chat, pool, &err);
    assert_non_null(other);
    assert_int_equal(other->body.len, sizeof(expected) - 1);
    assert_memory_equal(other->body.data, expected, sizeof(expected) - 1);
    chat.body = AIQ_STR("{\"model\":\"m\",\"messages\":[{\"role\":\"x\",\"content\":\"\"}]}");
    assert_null(messages_request_translate_count(&chat, pool, &err));
    assert_string_equal(err.param, "messages[0].role");
    chat.body = AIQ_STR("{\"model\":\"m\"}");
    assert_null(messages_request_translate_count(&chat, pool, &err));
    assert_string_equal(err.param, "messages");
}

static const char *refused(const char *body)
{
    chat_request chat;
    static aiq_err err;

    assert_false(messages_request_parse(&chat, (aiq_str){body, strlen(body)}, &err));
    assert_int_equal(err.status, 400);
    return err.param;
}

static void what_every_request_needs(void **state)
{
    (void)state;
    assert_string_equal(refused("[]"), "");
    assert_string_equal(refused("{\"max_tokens\":1,\"messages\":[" USER "]}"), "model");
    assert_string_equal(refused("{\"model\":\"m\",\"messages\":[" USER "]}"), "max_tokens");
    assert_string_equal(refused("{\"model\":\"m\",\"max_tokens\":0,\"messages\":[" USER "]}"),
                        "max_tokens");
    assert_string_equal(refused("{\"model\":\"m\",\"max_tokens\":1}"), "messages");
    assert_string_equal(refused(START "]}"), "messages");
    assert_string_equal(refused(START "{\"role\":\"system\",\"content\":\"x\"}]}"),
                        "messages[0].role");
    assert_string_equal(refused(START "{\"role\":\"user\"}]}"), "messages[0].content");
    assert_string_equal(refused(START USER "],\"stream\":1}"), "stream");
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
        cmocka_unit_test(the_system_prompt_is_a_message),
        cmocka_unit_test(images_and_documents),
        cmocka_unit_test(tools_and_their_results),
        cmocka_unit_test(blocks_that_cannot_be_carried),
        cmocka_unit_test(answers_that_have_begun),
        cmocka_unit_test(tools),
        cmocka_unit_test(options),
        cmocka_unit_test(an_empty_message),
        cmocka_unit_test(what_is_counted),
        cmocka_unit_test(what_every_request_needs),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
