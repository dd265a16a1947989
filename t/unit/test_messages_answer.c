/* OpenAI's answers in Anthropic's words. */

#include "unit.h"
#include "recorded.h"
#include <stdio.h>
#include <stdlib.h>
#include "providers/sse.h"
#include "services/gateway/messages_answer.h"

static messages_stream stream;
static aiq_buf noted;

/* The events of a chunk: without "event: " and the type inside the data, which are checked. */
static const char *events(const char *chunk)
{
    aiq_buf out = {0};

    noted.len = 0;
    messages_chunk(&stream, (aiq_str){chunk, strlen(chunk)}, &out);
    aiq_buf_add(&out, "", 1);
    for (char *pos = (char *)out.data; *pos;) {
        char type[32], again[64];
        assert_int_equal(sscanf(pos, "event: %31s\n", type), 1);
        snprintf(again, sizeof(again), "data: {\"type\":\"%s\"", type);
        pos = strchr(pos, '\n') + 1;
        assert_memory_equal(pos, again, strlen(again));
        char *end = strstr(pos, "\n\n");
        assert_non_null(end);
        aiq_buf_printf(&noted, "%s%.*s\n", type, (int)(end - pos - (long)strlen(again)),
                       pos + strlen(again));
        json_error error;
        assert_true(json_valid(pos + 6, (size_t)(end - pos - 6), &error));
        pos = end + 2;
    }
    aiq_buf_add(&noted, "", 1);
    aiq_buf_free(&out);
    return (char *)noted.data;
}

static int setup(void **state)
{
    (void)state;
    stream = (messages_stream){0};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    messages_free(&stream);
    aiq_buf_free(&noted);
    return 0;
}

#define CHUNK(delta, finish)                                                                   \
    "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{" delta                \
    "},\"finish_reason\":" finish "}]}"
#define DELTA(delta) CHUNK(delta, "null")
#define FIRST                                                                                  \
    "message_start,\"message\":{\"id\":\"c\",\"type\":\"message\",\"role\":\"assistant\","     \
    "\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":"    \
    "{\"input_tokens\":0,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"     \
    "\"output_tokens\":0}}}\n"
#define BEGIN(i, block) "content_block_start,\"index\":" i ",\"content_block\":{" block "}}\n"
#define TEXT(i)         BEGIN(i, "\"type\":\"text\",\"text\":\"\"")
#define SAY(i, text)                                                                           \
    "content_block_delta,\"index\":" i ",\"delta\":{\"type\":\"text_delta\",\"text\":\"" text  \
    "\"}}\n"
#define STOP(i) "content_block_stop,\"index\":" i "}\n"
#define LAST(reason, in, cached, out)                                                          \
    "message_delta,\"delta\":{\"stop_reason\":\"" reason "\",\"stop_sequence\":null},"         \
    "\"usage\":{\"input_tokens\":" in ",\"cache_creation_input_tokens\":0,"                    \
    "\"cache_read_input_tokens\":" cached ",\"output_tokens\":" out "}}\nmessage_stop}\n"

static void a_text(void **state)
{
    (void)state;
    assert_string_equal(events(DELTA("\"role\":\"assistant\",\"content\":\"\"")), FIRST);
    assert_string_equal(events(DELTA("\"content\":\"a\\n\"")), TEXT("0") SAY("0", "a\\n"));
    assert_string_equal(events(DELTA("\"content\":\"b\"")), SAY("0", "b"));
    /* the end waits for the usage, which comes last */
    assert_string_equal(events(CHUNK("", "\"stop\"")), "");
    assert_string_equal(events("{\"choices\":[],\"usage\":{\"prompt_tokens\":9,"
                               "\"completion_tokens\":2,\"prompt_tokens_details\":"
                               "{\"cached_tokens\":4}}}"),
                        "");
    assert_string_equal(events("[DONE]"), STOP("0") LAST("end_turn", "5", "4", "2"));
    assert_string_equal(events(DELTA("\"content\":\"c\"")), "");
}

/* Where the first chunk knows how long the prompt is, so does the first event. */
static void a_prompt_that_is_known_at_once(void **state)
{
    (void)state;
    assert_non_null(
        strstr(events("{\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":9,"
                      "\"completion_tokens\":0,\"prompt_tokens_details\":"
                      "{\"cached_tokens\":4}}}"),
               "\"input_tokens\":5,\"cache_creation_input_tokens\":0,"
               "\"cache_read_input_tokens\":4,\"output_tokens\":0"));
}

static void stop_reasons(void **state)
{
    static const char *const cases[][2] = {{"stop", "end_turn"},
                                           {"length", "max_tokens"},
                                           {"tool_calls", "tool_use"},
                                           {"content_filter", "refusal"},
                                           {"something_new", "end_turn"}};
    char chunk[160], expected[64];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        setup(state);
        snprintf(chunk, sizeof(chunk),
                 "{\"choices\":[{\"delta\":{},\"finish_reason\":\"%s\"}]}", cases[i][0]);
        events(chunk);
        snprintf(expected, sizeof(expected), "\"stop_reason\":\"%s\"", cases[i][1]);
        assert_non_null(strstr(events("[DONE]"), expected));
    }
}

/* As a local model tells it, and vLLM, whose stop_reason may be a token's id, too. */
static void stop_sequences(void **state)
{
    static const char *const cases[][2] = {
        {"\"stop\",\"stop_reason\":\"\\n\\u00e9\"",
         "\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"\\n\\u00e9\""},
        {"\"stop\",\"stop_reason\":null",
         "\"stop_reason\":\"end_turn\",\"stop_sequence\":null"},
        {"\"stop\",\"stop_reason\":7", "\"stop_reason\":\"end_turn\",\"stop_sequence\":null"},
        {"\"tool_calls\",\"stop_reason\":\"x\"",
         "\"stop_reason\":\"tool_use\",\"stop_sequence\":null"}};
    char chunk[160];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        aiq_pool *pool = aiq_pool_new();
        aiq_buf out = {0};

        setup(state);
        snprintf(chunk, sizeof(chunk), "{\"choices\":[{\"delta\":{},\"finish_reason\":%s}]}",
                 cases[i][0]);
        events(chunk);
        assert_non_null(strstr(events("[DONE]"), cases[i][1]));
        messages_free(&stream);
        assert_true(messages_completion((aiq_str){chunk, strlen(chunk)}, pool, &out));
        aiq_buf_add(&out, "", 1);
        assert_non_null(strstr((char *)out.data, cases[i][1]));
        aiq_buf_free(&out);
        aiq_pool_free(pool);
    }
}

static void thoughts_come_before_the_text(void **state)
{
    (void)state;
    events(DELTA("\"role\":\"assistant\""));
    assert_string_equal(
        events(DELTA("\"reasoning_content\":\"hm\"")),
        BEGIN(
            "0",
            "\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"") "content_block_delta,"
                                                                          "\"index\":0,"
                                                                          "\"delta\":{\"type\":"
                                                                          "\"thinking_delta\","
                                                                          "\"thinking\":\"hm\"}"
                                                                          "}\n");
    assert_string_equal(events(DELTA("\"content\":\"a\"")), STOP("0") TEXT("1") SAY("1", "a"));
}

static void a_refusal_is_a_text(void **state)
{
    (void)state;
    events(DELTA("\"role\":\"assistant\""));
    assert_string_equal(events(DELTA("\"refusal\":\"no\"")), TEXT("0") SAY("0", "no"));
    events(CHUNK("", "\"stop\""));
    assert_non_null(strstr(events("[DONE]"), "\"stop_reason\":\"refusal\""));
}

#define CALL(i, id)                                                                            \
    DELTA("\"tool_calls\":[{\"index\":" i ",\"id\":\"" id "\",\"type\":\"function\","          \
          "\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]")
#define ARGS(i, text)                                                                          \
    DELTA("\"tool_calls\":[{\"index\":" i ",\"function\":{\"arguments\":\"" text "\"}}]")
#define USE(i, id)                                                                             \
    BEGIN(i, "\"type\":\"tool_use\",\"id\":\"" id "\",\"name\":\"f\",\"input\":{}")
#define INPUT(i, text)                                                                         \
    "content_block_delta,\"index\":" i ",\"delta\":{\"type\":\"input_json_delta\","            \
    "\"partial_json\":\"" text "\"}}\n"

static void calls_one_after_the_other(void **state)
{
    (void)state;
    events(DELTA("\"content\":\"a\""));
    assert_string_equal(events(CALL("0", "t0")), STOP("0") USE("1", "t0"));
    assert_string_equal(events(ARGS("0", "{\\\"a\\\": \\\"}")),
                        INPUT("1", "{\\\"a\\\": \\\"}"));
    assert_string_equal(events(ARGS("0", "\\\\\\\"[\\\"}")), INPUT("1", "\\\\\\\"[\\\"}"));
    assert_string_equal(events(CALL("1", "t1")), STOP("1") USE("2", "t1"));
    assert_string_equal(events(ARGS("1", "{}")), INPUT("2", "{}"));
    events(CHUNK("", "\"tool_calls\""));
    assert_string_equal(events("[DONE]"), STOP("2") LAST("tool_use", "0", "0", "0"));
}

static void calls_in_turn_stay_open(void **state)
{
    (void)state;
    events(DELTA("\"role\":\"assistant\""));
    assert_string_equal(events(CALL("0", "t0")), USE("0", "t0"));
    assert_string_equal(events(CALL("1", "t1")), USE("1", "t1"));
    assert_string_equal(events(ARGS("0", "{")), INPUT("0", "{"));
    assert_string_equal(events(ARGS("1", "{}")), INPUT("1", "{}"));
    assert_string_equal(events(ARGS("0", "}")), INPUT("0", "}"));
    assert_string_equal(events("[DONE]"), STOP("0") STOP("1") LAST("end_turn", "0", "0", "0"));
}

static void whole_answers(void **state)
{
    static const char body[] =
        "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"message\":{\"content\":\"a\","
        "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"t\",\"function\":{\"name\":"
        "\"f\","
        "\"arguments\":\"{\\\"x\\\":1}\"}}]},\"finish_reason\":\"tool_calls\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}";
    static const char wrong[] = "{\"choices\":[{\"message\":{\"tool_calls\":[{\"id\":\"t\","
                                "\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}";
    aiq_pool *pool = aiq_pool_new();
    aiq_buf out = {0};

    (void)state;
    assert_true(messages_completion((aiq_str){body, sizeof(body) - 1}, pool, &out));
    aiq_buf_add(&out, "", 1);
    assert_string_equal(
        (char *)out.data,
        "{\"id\":\"c\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":"
        "["
        "{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"\"},"
        "{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"x\":1}}],"
        "\"stop_reason\":\"tool_use\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":3,"
        "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":2}"
        "}");
    assert_false(messages_completion((aiq_str){wrong, sizeof(wrong) - 1}, pool, &out));
    assert_false(messages_completion(AIQ_STR("{\"choices\":[]}"), pool, &out));
    assert_false(messages_completion(AIQ_STR("x"), pool, &out));
    aiq_buf_free(&out);
    aiq_pool_free(pool);
}

/* The input of a call in a whole answer. */
static const char *input_of(const char *arguments, const char *finish)
{
    static char input[200];
    char body[400];
    aiq_pool *pool = aiq_pool_new();
    aiq_buf out = {0};
    int n = snprintf(body, sizeof(body),
                     "{\"choices\":[{\"message\":{\"tool_calls\":[{\"id\":\"t\",\"function\":"
                     "{\"name\":\"f\",\"arguments\":\"%s\"}}]},\"finish_reason\":\"%s\"}]}",
                     arguments, finish);

    strcpy(input, "refused");
    if (messages_completion((aiq_str){body, (size_t)n}, pool, &out)) {
        aiq_buf_add(&out, "", 1);
        const char *from = strstr((char *)out.data, "\"input\":");
        const char *to = strstr(from, "],\"stop_reason\":\"max_tokens\"");
        assert_non_null(to);
        snprintf(input, sizeof(input), "%.*s", (int)(to - from), from);
    }
    aiq_buf_free(&out);
    aiq_pool_free(pool);
    return input;
}

/* What max_tokens has cut off is an object all the same. */
static void a_call_that_was_cut_off(void **state)
{
    (void)state;
    assert_string_equal(input_of("", "length"), "\"input\":{}}");
    assert_string_equal(input_of("{", "length"), "\"input\":{}}");
    assert_string_equal(input_of("{\\\"x\\\":[1,2],\\\"y\\\":\\\"a", "length"),
                        "\"input\":{\"x\":[1,2]}}");
    assert_string_equal(input_of("{\\\"x\\\":1}", "length"), "\"input\":{\"x\":1}}");
    assert_string_equal(input_of("{\\\"x\\\":1", "tool_calls"), "refused");
    assert_string_equal(input_of("x", "length"), "refused");
}

/* Recorded streams. */

static void feed(sse_parser *p, const uint8_t *data, size_t n, aiq_buf *out)
{
    const uint8_t *pos = data, *end = data + n;
    sse_event e;

    while (sse_next(p, &pos, end, &e) == SSE_EVENT) {
        messages_chunk(&stream, e.data, out);
    }
}

static aiq_buf replay(const uint8_t *data, size_t n, size_t split)
{
    static const char last[] = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    sse_parser p;
    aiq_buf out = {0};

    sse_init(&p);
    stream = (messages_stream){0};
    feed(&p, data, split, &out);
    feed(&p, data + split, n - split, &out);
    messages_end(&stream, &out);
    assert_memory_equal(out.data + out.len - (sizeof(last) - 1), last, sizeof(last) - 1);
    sse_free(&p);
    return out;
}

static void recorded_streams_at_every_split(void **state)
{
    (void)state;
    recorded_at_every_split("../shared/data/openai-sse/*.sse", replay, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_text),
        TEST(a_prompt_that_is_known_at_once),
        TEST(stop_reasons),
        TEST(stop_sequences),
        TEST(thoughts_come_before_the_text),
        TEST(a_refusal_is_a_text),
        TEST(calls_one_after_the_other),
        TEST(calls_in_turn_stay_open),
        cmocka_unit_test(whole_answers),
        cmocka_unit_test(a_call_that_was_cut_off),
        cmocka_unit_test(recorded_streams_at_every_split),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
