/* Anthropic's answers in OpenAI's words. */

#include "unit.h"
#include "recorded.h"
#include <stdio.h>
#include <stdlib.h>
#include "providers/anthropic_answer.h"
#include "providers/openai_chunk.h"
#include "providers/sse.h"

#define START                                                                                  \
    "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"c\",\"usage\":"     \
    "{\"input_tokens\":10,\"cache_read_input_tokens\":5,\"cache_creation_input_tokens\":2,"    \
    "\"output_tokens\":1}}}"
#define HEAD                                                                                   \
    "{\"id\":\"msg_1\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"c\","    \
    "\"choices\":["
#define CHUNK(delta) HEAD "{\"index\":0,\"delta\":{" delta "},\"finish_reason\":null}]}\n"
#define FIRST        CHUNK("\"role\":\"assistant\",\"content\":\"\"")

static anthropic_stream stream;
static aiq_buf noted;

/* What an event makes: its chunks, each on a line, or what is wrong. */
static const char *event(const char *data)
{
    aiq_str chunks[2];
    size_t n;
    aiq_err err = {0};

    noted.len = 0;
    if (anthropic_event(&stream, (aiq_str){data, strlen(data)}, chunks, &n, &err)) {
        for (size_t i = 0; i < n; i++) {
            aiq_buf_add(&noted, chunks[i].data, chunks[i].len);
            aiq_buf_text(&noted, "\n");
        }
    } else {
        aiq_buf_printf(&noted, "%u %s", err.status, err.detail);
    }
    aiq_buf_add(&noted, "", 1);
    return (char *)noted.data;
}

static int setup(void **state)
{
    (void)state;
    anthropic_stream_init(&stream, 7, false);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    anthropic_stream_free(&stream);
    aiq_buf_free(&noted);
    return 0;
}

static void text_in_pieces(void **state)
{
    (void)state;
    assert_string_equal(event(START), FIRST);
    assert_string_equal(event("{\"type\":\"content_block_start\",\"index\":0,"
                              "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}"),
                        "");
    assert_string_equal(event("{\"type\": \"ping\"}"), "");
    assert_string_equal(event("{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
                              "{\"type\":\"text_delta\",\"text\":\"a\\n\\u00e9\"}}"),
                        CHUNK("\"content\":\"a\\n\\u00e9\""));
    assert_string_equal(event("{\"type\":\"content_block_stop\",\"index\":0}"), "");
    assert_false(stream.finished);
    assert_string_equal(event("{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":"
                              "\"end_turn\"},\"usage\":{\"output_tokens\":6}}"),
                        HEAD "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n");
    assert_true(stream.finished);
    assert_string_equal(event("{\"type\":\"message_stop\"}"), "[DONE]\n");
    assert_true(stream.done);
    assert_string_equal(event("rubbish"), "");

    provider_tokens tokens = anthropic_tokens(&stream.usage);
    assert_int_equal(tokens.in, 17);
    assert_int_equal(tokens.out, 6);
}

#define TOOL_START(index, id)                                                                  \
    "{\"type\":\"content_block_start\",\"index\":" index ",\"content_block\":{\"type\":"       \
    "\"tool_use\",\"id\":\"" id "\",\"name\":\"f\",\"input\":{}}}"
#define TOOL_DELTA(index, json)                                                                \
    "{\"type\":\"content_block_delta\",\"index\":" index ",\"delta\":{\"type\":"               \
    "\"input_json_delta\",\"partial_json\":" json "}}"

static void calls_are_counted_apart_from_blocks(void **state)
{
    (void)state;
    event(START);
    assert_string_equal(
        event(TOOL_START("1", "t1")),
        CHUNK("\"tool_calls\":[{\"index\":0,\"id\":\"t1\",\"type\":"
              "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]"));
    assert_string_equal(
        event(TOOL_START("4", "t2")),
        CHUNK("\"tool_calls\":[{\"index\":1,\"id\":\"t2\",\"type\":"
              "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]"));
    assert_string_equal(event(TOOL_DELTA("1", "\"\"")), "");
    assert_string_equal(event(TOOL_DELTA("1", "\"{\\\"a\"")),
                        CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":"
                              "\"{\\\"a\"}}]"));
    assert_string_equal(event(TOOL_DELTA("4", "\"{}\"")),
                        CHUNK("\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":"
                              "\"{}\"}}]"));
    assert_string_equal(event(TOOL_DELTA("3", "\"{}\"")), ""); /* a tool of the server's */
}

static void too_many_calls_are_an_error(void **state)
{
    char start[256];

    (void)state;
    event(START);
    for (int i = 0; i < ANTHROPIC_TOOLS_MAX; i++) {
        snprintf(start, sizeof(start),
                 "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":"
                 "\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}",
                 i);
        assert_string_not_equal(event(start), "");
    }
    assert_string_equal(event(TOOL_START("200", "t")),
                        "502 too many calls of tools, or one without id or name");
}

static void thinking_is_apart_from_the_text(void **state)
{
    (void)state;
    event(START);
    assert_string_equal(event("{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
                              "{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}"),
                        CHUNK("\"reasoning_content\":\"hm\""));
    assert_string_equal(event("{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
                              "{\"type\":\"signature_delta\",\"signature\":\"x\"}}"),
                        "");
}

static void stop_reasons(void **state)
{
    static const char *const cases[][2] = {
        {"end_turn", "stop"},         {"stop_sequence", "stop"},
        {"pause_turn", "stop"},       {"max_tokens", "length"},
        {"tool_use", "tool_calls"},   {"model_context_window_exceeded", "length"},
        {"refusal", "content_filter"}};
    char delta[160], expected[256];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        setup(state);
        event(START);
        snprintf(delta, sizeof(delta),
                 "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%s\"}}",
                 cases[i][0]);
        snprintf(expected, sizeof(expected),
                 HEAD "{\"index\":0,\"delta\":{},\"finish_reason\":\"%s\"}]}\n", cases[i][1]);
        assert_string_equal(event(delta), expected);
        teardown(state);
    }
}

static void usage_where_it_was_asked_for(void **state)
{
    (void)state;
    stream.wants_usage = true;
    assert_non_null(strstr(event(START), ",\"usage\":null}"));
    event("{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":"
          "{\"input_tokens\":20,\"output_tokens\":6,\"output_tokens_details\":"
          "{\"thinking_tokens\":4}}}");
    assert_string_equal(event("{\"type\":\"message_stop\"}"), HEAD
                        "],\"usage\":{\"prompt_tokens\":27,\"completion_tokens\":6,"
                        "\"total_tokens\":33,\"prompt_tokens_details\":{\"cached_tokens\":5},"
                        "\"completion_tokens_details\":{\"reasoning_tokens\":4}}}\n"
                        "[DONE]\n");
}

static void what_is_no_event_is_an_error(void **state)
{
    (void)state;
    assert_string_equal(event("x"), "502 expected an object");
    assert_string_equal(event("{\"type\":\"content_block_delta\"}"),
                        "502 an event before message_start");
    assert_string_equal(event("{\"type\":\"message_start\",\"message\":{\"id\":1}}"),
                        "502 message_start without a message, or two of them");
    event(START);
    assert_string_equal(event(START), "502 message_start without a message, or two of them");
    assert_string_equal(event("{\"type\":\"content_block_delta\",\"index\":-1}"),
                        "502 an index that is none");
    assert_string_equal(event(TOOL_DELTA("0", "3")),
                        "502 input_json_delta without partial_json");
    assert_string_equal(event("{\"type\":\"something_new\",\"index\":0}"), "");
}

static void errors_in_the_stream(void **state)
{
    (void)state;
    assert_string_equal(event("{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                              "\"message\":\"x\"}}"),
                        "503 an error in the stream: overloaded_error");
    assert_string_equal(event("{\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}"),
                        "502 an error in the stream: api_error");
}

static const char *whole(const char *body)
{
    aiq_buf out = {0};
    provider_tokens tokens;
    const char *wrong = NULL;
    static char text[2048];

    if (anthropic_completion((aiq_str){body, strlen(body)}, 7, &out, &tokens, &wrong)) {
        memcpy(text, out.data, out.len);
        text[out.len] = '\0';
        assert_int_equal(tokens.in, 3);
        assert_int_equal(tokens.out, 4);
    } else {
        strcpy(text, wrong);
    }
    aiq_buf_free(&out);
    return text;
}

#define WHOLE(content, stop)                                                                   \
    "{\"id\":\"msg_1\",\"type\":\"message\",\"model\":\"c\",\"content\":[" content "],"        \
    "\"stop_reason\":\"" stop "\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}"
#define COMPLETION(message, finish)                                                            \
    "{\"id\":\"msg_1\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"c\","          \
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\"," message                   \
    ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"" finish "\"}],\"usage\":"       \
    "{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7,"                         \
    "\"prompt_tokens_details\":{\"cached_tokens\":0}}}"

static void whole_answers(void **state)
{
    (void)state;
    assert_string_equal(whole(WHOLE("{\"type\":\"text\",\"text\":\"a\"},"
                                    "{\"type\":\"text\",\"text\":\"\\n\"}",
                                    "end_turn")),
                        COMPLETION("\"content\":\"a\\n\"", "stop"));
    assert_string_equal(
        whole(WHOLE("{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"},"
                    "{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"a\":1}}",
                    "tool_use")),
        COMPLETION("\"content\":null,\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":"
                   "\"t\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                   "\"{\\\"a\\\":1}\"}}]",
                   "tool_calls"));
    assert_string_equal(whole("{\"content\":\"x\"}"), "no message");
    assert_string_equal(whole("[]"), "expected an object");
}

static void errors(void **state)
{
    static const char body[] = "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\","
                               "\"message\":\"model: x\"},\"request_id\":\"r\"}";
    aiq_buf out = {0};

    (void)state;
    assert_true(anthropic_error((aiq_str){body, sizeof(body) - 1}, &out));
    aiq_buf_add(&out, "", 1);
    assert_string_equal(
        (char *)out.data,
        "{\"error\":{\"message\":\"model: x\",\"type\":"
        "\"invalid_request_error\",\"param\":null,\"code\":\"not_found_error\"}}");
    assert_false(anthropic_error(AIQ_STR("{\"error\":\"x\"}"), &out));
    aiq_buf_free(&out);
}

/* Recorded streams. */

static void feed(sse_parser *p, const uint8_t *data, size_t n, aiq_buf *out)
{
    const uint8_t *pos = data, *end = data + n;
    openai_stream check = {0};
    sse_event e;
    aiq_str chunks[2];
    const char *wrong = NULL;
    size_t k;
    aiq_err err;

    while (data ? sse_next(p, &pos, end, &e) == SSE_EVENT : sse_end(p, &e) == SSE_EVENT) {
        assert_true(anthropic_event(&stream, e.data, chunks, &k, &err));
        for (size_t i = 0; i < k; i++) {
            aiq_str chunk = chunks[i];
            assert_int_not_equal(openai_chunk(&check, &chunk, true, &wrong), OPENAI_BAD);
            aiq_buf_add(out, chunk.data, chunk.len);
            aiq_buf_text(out, "\n");
        }
        if (data == NULL) {
            return;
        }
    }
}

static aiq_buf replay(const uint8_t *data, size_t n, size_t split)
{
    sse_parser p;
    aiq_buf out = {0};

    sse_init(&p);
    anthropic_stream_init(&stream, 7, true);
    feed(&p, data, split, &out);
    feed(&p, data + split, n - split, &out);
    feed(&p, NULL, 0, &out);
    assert_true(stream.done);
    assert_memory_equal(out.data + out.len - 7, "[DONE]\n", 7);
    anthropic_stream_free(&stream);
    sse_free(&p);
    return out;
}

static void recorded_streams_at_every_split(void **state)
{
    (void)state;
    recorded_at_every_split("../shared/data/anthropic-sse/*s*.[st][sx][et]", replay, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(text_in_pieces),
        TEST(calls_are_counted_apart_from_blocks),
        TEST(too_many_calls_are_an_error),
        TEST(thinking_is_apart_from_the_text),
        cmocka_unit_test(stop_reasons),
        TEST(usage_where_it_was_asked_for),
        TEST(what_is_no_event_is_an_error),
        TEST(errors_in_the_stream),
        cmocka_unit_test(whole_answers),
        cmocka_unit_test(errors),
        cmocka_unit_test(recorded_streams_at_every_split),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
