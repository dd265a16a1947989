/* A request of OpenAI's Responses API as a chat, and what a chat cannot say. */

#include "unit.h"
#include <stdio.h>
#include "services/gateway/responses_request.h"

#define START "{\"model\":\"m\",\"messages\":["
#define USER  "{\"role\":\"user\",\"content\":\"hi\"}"

static aiq_pool *pool;
static char text[8192];

/* The chat's body, or the field at fault. */
static const char *translate_capped(const char *body, uint32_t cap)
{
    chat_request chat;
    aiq_err err = {0};
    const chat_request *other = NULL;

    if (responses_request_parse(&chat, (aiq_str){body, strlen(body)}, &err)) {
        assert_int_equal(chat.dialect, AIQ_DIALECT_RESPONSES);
        chat.cap = cap;
        other = chat.translate(&chat, pool, &err);
    }
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

static const char *translate(const char *body)
{
    return translate_capped(body, 0);
}

static void items_become(const char *items, const char *expected)
{
    char body[4096], whole[4096];

    snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":[%s]}", items);
    snprintf(whole, sizeof(whole), START "%s]}", expected);
    assert_string_equal(translate(body), whole);
}

static void items_fail(const char *items, const char *field)
{
    char body[4096];

    snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":[%s]}", items);
    assert_string_equal(translate(body), field);
}

/* Fields beside those that every request has. */
static void fields_become(const char *fields, const char *expected)
{
    char body[4096], whole[4096];

    snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":\"hi\",%s}", fields);
    snprintf(whole, sizeof(whole), START USER "]%s}", expected);
    assert_string_equal(translate(body), whole);
}

static void fields_fail(const char *fields, const char *field)
{
    char body[4096];

    snprintf(body, sizeof(body), "{\"model\":\"m\",\"input\":\"hi\",%s}", fields);
    assert_string_equal(translate(body), field);
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

static void texts(void **state)
{
    (void)state;
    fields_become("\"user\":null", "");
    assert_string_equal(
        translate("{\"model\":\"m\",\"input\":\"hi\",\"instructions\":\"Be\\n\"}"),
        START "{\"role\":\"system\",\"content\":\"Be\\n\"}," USER "]}");
    items_become("{\"role\":\"user\",\"content\":\"hi\"}", USER);
    items_become(
        "{\"type\":\"message\",\"role\":\"developer\",\"content\":"
        "[{\"type\":\"input_text\",\"text\":\"a\"}]}," USER,
        "{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}," USER);
    items_become(USER
                 ",{\"type\":\"message\",\"id\":\"msg_1\",\"status\":\"completed\",\"role\":"
                 "\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"a\\\"\","
                 "\"annotations\":[{}]},{\"type\":\"refusal\",\"refusal\":\"b\"}]}",
                 USER ",{\"role\":\"assistant\",\"content\":\"a\\\"b\"}");
}

static void images_and_files(void **state)
{
    (void)state;
    items_become(
        "{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"image_url\":\"data:x\","
        "\"detail\":\"low\"},{\"type\":\"input_file\",\"filename\":\"f\",\"file_data\":\"data:"
        "y\"}]}",
        "{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:"
        "x\","
        "\"detail\":\"low\"}},{\"type\":\"file\",\"file\":{\"filename\":\"f\",\"file_data\":"
        "\"data:y\"}}]}");
    items_fail("{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"\"},"
               "{\"type\":\"input_image\",\"file_id\":\"f\"}]}",
               "input[0].content[1].file_id");
    items_fail("{\"role\":\"user\",\"content\":[{\"type\":\"input_file\",\"file_url\":\"f\"}]}",
               "input[0].content[0].file_url");
    items_fail("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}",
               "input[0].content[0].type");
}

#define ITEM_CALL(id)                                                                          \
    "{\"type\":\"function_call\",\"id\":\"fc_1\",\"status\":\"completed\",\"call_id\":\"" id   \
    "\",\"name\":\"f\",\"arguments\":\"{}\"}"
#define ITEM_OUTPUT(id)                                                                        \
    "{\"type\":\"function_call_output\",\"call_id\":\"" id "\",\"output\":\"sun\"}"
#define CALLS(calls) "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" calls "]}"
#define CALL(id)                                                                               \
    "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"     \
    "\"{}\"}}"
#define OUTPUT(id) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"sun\"}"

static void calls_and_their_results(void **state)
{
    (void)state;
    items_become(
        USER
        "," ITEM_CALL("a") ",{\"type\":\"reasoning\",\"id\":\"rs\",\"summary\":[]}," ITEM_CALL(
            "b") "," ITEM_OUTPUT("b") "," ITEM_OUTPUT("a") "," USER,
        USER "," CALLS(CALL("a") "," CALL("b")) "," OUTPUT("b") "," OUTPUT("a") "," USER);
    items_become(ITEM_CALL("a") "," ITEM_OUTPUT("a") "," ITEM_CALL("b"),
                 CALLS(CALL("a")) "," OUTPUT("a") "," CALLS(CALL("b")));
    items_become("{\"type\":\"function_call_output\",\"call_id\":\"a\",\"output\":"
                 "[{\"type\":\"input_text\",\"text\":\"sun\"}]}",
                 OUTPUT("a"));
    items_fail("{\"type\":\"function_call_output\",\"call_id\":\"a\",\"output\":"
               "[{\"type\":\"input_image\",\"image_url\":\"x\"}]}",
               "input[0].output");
    items_fail(USER ",{\"type\":\"function_call\",\"name\":\"f\"}", "input[1]");
}

static void tools(void **state)
{
    (void)state;
    fields_become(
        "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\"},\"strict\":true}],\"tool_choice\":"
        "{\"type\":\"function\",\"name\":\"f\"},\"parallel_tool_calls\":false",
        ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"description\":\"d\",\"parameters\":{\"type\":\"object\"},\"strict\":true}}],"
        "\"parallel_tool_calls\":false,\"tool_choice\":{\"type\":\"function\","
        "\"function\":{\"name\":\"f\"}}");
    fields_become("\"tools\":[],\"tool_choice\":\"auto\",\"parallel_tool_calls\":true", "");
    fields_fail("\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type");
    fields_fail("\"tool_choice\":\"required\"", "tool_choice");
    fields_fail("\"tools\":[{\"type\":\"function\",\"name\":\"f\"}],\"tool_choice\":"
                "{\"type\":\"allowed_tools\"}",
                "tool_choice");
}

static void options(void **state)
{
    (void)state;
    fields_become(
        "\"max_output_tokens\":16,\"temperature\":0.5,\"top_p\":0.25,\"user\":\"u\"",
        ",\"max_completion_tokens\":16,\"temperature\":0.5,\"top_p\":0.25,\"user\":\"u\"");
    fields_become("\"stream\":true",
                  ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    fields_become("\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"},\"text\":"
                  "{\"verbosity\":\"low\",\"format\":{\"type\":\"text\"}}",
                  ",\"verbosity\":\"low\",\"reasoning_effort\":\"low\"");
    fields_become(
        "\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"strict\":true,"
        "\"schema\":{\"a\":1}}}",
        ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\","
        "\"schema\":{\"a\":1},\"strict\":true}}");
    fields_become("\"text\":{\"format\":{\"type\":\"json_object\"}}",
                  ",\"response_format\":{\"type\":\"json_object\"}");
    fields_become("\"store\":false,\"metadata\":{\"a\":\"b\"},\"truncation\":\"disabled\","
                  "\"include\":[\"reasoning.encrypted_content\"],\"background\":false,"
                  "\"previous_response_id\":null",
                  "");
    assert_string_equal(translate_capped("{\"model\":\"m\",\"input\":\"hi\"}", 4096),
                        START USER "],\"max_completion_tokens\":4096}");
}

static void what_a_chat_cannot_say(void **state)
{
    static const char *const cases[][2] = {
        {"\"store\":true", "store"},
        {"\"previous_response_id\":\"resp_1\"", "previous_response_id"},
        {"\"conversation\":\"c\"", "conversation"},
        {"\"background\":true", "background"},
        {"\"prompt\":{\"id\":\"p\"}", "prompt"},
        {"\"truncation\":\"auto\"", "truncation"},
        {"\"include\":[\"message.output_text.logprobs\"]", "include[0]"},
        {"\"include\":\"x\"", "include"},
        {"\"top_logprobs\":2", "top_logprobs"},
        {"\"max_tool_calls\":2", "max_tool_calls"},
        {"\"stream_options\":{\"include_obfuscation\":true}",
         "stream_options.include_obfuscation"},
        {"\"text\":{\"format\":{\"type\":\"grammar\"}}", "text.format.type"},
        {"\"reasoning\":{\"generate_summary\":\"auto\"}", "reasoning.generate_summary"},
        {"\"instructions\":[{}]", "instructions"},
        {"\"max_output_tokens\":15", "max_output_tokens"},
        {"\"max_output_tokens\":\"16\"", "max_output_tokens"},
        {"\"stream\":1", "stream"},
        {"\"temperature\":3", "temperature"},
        {"\"something_new\":1", "something_new"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fields_fail(cases[i][0], cases[i][1]);
    }
    items_fail("{\"type\":\"item_reference\",\"id\":\"x\"}", "input[0].type");
    items_fail("{\"type\":\"reasoning\",\"summary\":[]}", "input");
    items_fail("{\"role\":\"tool\",\"content\":\"x\"}", "input[0].role");
    items_fail("{\"role\":\"user\",\"content\":[]}", "input[0].content");
    items_fail("7", "input[0]");
    items_fail("", "input");
    assert_string_equal(translate("{\"input\":\"hi\"}"), "model");
    assert_string_equal(translate("{\"model\":\"m\"}"), "input");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(texts), TEST(images_and_files), TEST(calls_and_their_results),
        TEST(tools), TEST(options),          TEST(what_a_chat_cannot_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
