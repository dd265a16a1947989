/* OpenAI's chat answers in the words of its Responses API. */

#include "unit.h"
#include "recorded.h"
#include <stdio.h>
#include <stdlib.h>
#include "providers/sse.h"
#include "services/gateway/responses_answer.h"

static const chat_request asked = {.body = AIQ_STR("{\"model\":\"m\",\"instructions\":\"i\",\n"
                                                   "\"metadata\":{\r\n\"a\":\"b\"}}")};
static responses_stream stream;
static aiq_buf noted;

/* The events in out: "event: " and what stands before an event's own members is checked
 * and left out. */
static const char *note(aiq_buf *out)
{
    static unsigned number;

    noted.len = 0;
    aiq_buf_add(out, "", 1);
    for (char *pos = (char *)out->data; *pos;) {
        char type[64], again[128];
        assert_int_equal(sscanf(pos, "event: %63s\n", type), 1);
        number = strcmp(type, "response.created") == 0 ? 0 : number + 1;
        snprintf(again, sizeof(again), "data: {\"type\":\"%s\",\"sequence_number\":%u", type,
                 number);
        pos = strchr(pos, '\n') + 1;
        assert_memory_equal(pos, again, strlen(again));
        char *end = strchr(pos, '\n');
        assert_non_null(end);
        assert_int_equal(end[1], '\n');
        json_error error;
        assert_true(json_valid(pos + 6, (size_t)(end - pos - 6), &error));
        aiq_buf_printf(&noted, "%s%.*s\n", strncmp(type, "response.", 9) == 0 ? type + 9 : type,
                       (int)(end - pos - (long)strlen(again)), pos + strlen(again));
        pos = end + 2;
    }
    aiq_buf_add(&noted, "", 1);
    aiq_buf_free(out);
    return (char *)noted.data;
}

static const char *events(const char *chunk)
{
    aiq_buf out = {0};

    responses_chunk(&stream, (aiq_str){chunk, strlen(chunk)}, &out);
    return note(&out);
}

static int setup(void **state)
{
    (void)state;
    stream = (responses_stream){0};
    responses_begin(&stream, &asked, 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    responses_free(&stream);
    aiq_buf_free(&noted);
    return 0;
}

#define CHUNK(delta, finish)                                                                   \
    "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{" delta                \
    "},\"finish_reason\":" finish "}]}"
#define DELTA(delta) CHUNK(delta, "null")

#define RESPONSE(status, why, output, usage)                                                   \
    "\"response\":{\"id\":\"resp_c\",\"object\":\"response\",\"created_at\":7,\"status\":"     \
    "\"" status "\",\"error\":null,\"incomplete_details\":" why ",\"model\":\"m\","            \
    "\"instructions\":\"i\",\"max_output_tokens\":null,\"metadata\":{  \"a\":\"b\"},"          \
    "\"parallel_tool_calls\":true,\"reasoning\":{\"effort\":null,\"summary\":null},"           \
    "\"service_tier\":\"auto\",\"temperature\":1,\"text\":{\"format\":{\"type\":\"text\"}},"   \
    "\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":1,\"user\":null,"                         \
    "\"previous_response_id\":null,\"store\":false,\"truncation\":\"disabled\","               \
    "\"background\":false,\"output\":[" output "],\"usage\":" usage "}"
#define USAGE(in, cached, out, thought, all)                                                   \
    "{\"input_tokens\":" in ",\"input_tokens_details\":{\"cached_tokens\":" cached             \
    "},\"output_tokens\":" out ",\"output_tokens_details\":{\"reasoning_tokens\":" thought     \
    "},\"total_tokens\":" all "}"
#define NO_USAGE USAGE("0", "0", "0", "0", "0")
#define FIRST                                                                                  \
    "created," RESPONSE("in_progress", "null", "", "null") "}\nin_progress," RESPONSE(         \
        "in_progress", "null", "", "null") "}\n"

#define ADDED(i, item) "output_item.added,\"output_index\":" i ",\"item\":{" item "}}\n"
#define DONE(i, item)  "output_item.done,\"output_index\":" i ",\"item\":{" item "}}\n"
#define ITEM(prefix, i, place)                                                                 \
    ",\"item_id\":\"" prefix "_c_" i "\",\"output_index\":" i ",\"" place "\":0"

#define PART(text)                                                                             \
    "{\"type\":\"output_text\",\"text\":\"" text "\",\"annotations\":[],\"logprobs\":[]}"
#define MESSAGE(i, status, parts)                                                              \
    "\"type\":\"message\",\"id\":\"msg_c_" i "\",\"status\":\"" status                         \
    "\",\"role\":\"assistant\",\"content\":[" parts "]"
#define TEXT(i)                                                                                \
    ADDED(i, MESSAGE(i, "in_progress", ""))                                                    \
    "content_part.added" ITEM("msg", i, "content_index") ",\"part\":" PART("") "}\n"
#define SAY(i, text)                                                                           \
    "output_text.delta" ITEM("msg", i, "content_index") ",\"delta\":\"" text                   \
                                                        "\",\"logprobs\":[]}\n"
#define SAID(i, text, status)                                                                  \
    "output_text.done" ITEM(                                                                   \
        "msg", i,                                                                              \
        "content_index") ",\"text\":\"" text "\",\"logprobs\":[]}\n"                           \
                         "content_part.done" ITEM(                                             \
                             "msg", i,                                                         \
                             "content_index") ",\"part\":" PART(text) "}\n" DONE(i,            \
                                                                                 MESSAGE(      \
                                                                                     i,        \
                                                                                     status,   \
                                                                                     PART(     \
                                                                                         text)))

static void a_text(void **state)
{
    (void)state;
    assert_string_equal(events(DELTA("\"role\":\"assistant\",\"content\":\"\"")), FIRST);
    assert_string_equal(events(DELTA("\"content\":\"a\\n\"")), TEXT("0") SAY("0", "a\\n"));
    assert_string_equal(events(DELTA("\"content\":\"b\"")), SAY("0", "b"));
    /* the end waits for the usage, which comes last */
    assert_string_equal(events(CHUNK("", "\"stop\"")), "");
    assert_string_equal(
        events("{\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,"
               "\"prompt_tokens_details\":{\"cached_tokens\":4},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":3}}}"),
        "");
    assert_string_equal(events("[DONE]"), SAID("0", "a\\nb", "completed") "completed," RESPONSE(
                                              "completed", "null",
                                              "{" MESSAGE("0", "completed", PART("a\\nb")) "}",
                                              USAGE("9", "4", "5", "3", "14")) "}\n");
    assert_string_equal(events(DELTA("\"content\":\"c\"")), "");
}

static void an_answer_that_was_cut(void **state)
{
    (void)state;
    events(DELTA("\"content\":\"a\""));
    events(CHUNK("", "\"length\""));
    assert_string_equal(events("[DONE]"),
                        SAID("0", "a", "incomplete") "incomplete," RESPONSE(
                            "incomplete", "{\"reason\":\"max_output_tokens\"}",
                            "{" MESSAGE("0", "incomplete", PART("a")) "}", NO_USAGE) "}\n");
}

#define THOUGHT(i, parts) "\"type\":\"reasoning\",\"id\":\"rs_c_" i "\",\"summary\":[" parts "]"
#define SUMMARY(text)     "{\"type\":\"summary_text\",\"text\":\"" text "\"}"

static void a_thought_then_a_refusal(void **state)
{
    (void)state;
    events(DELTA("\"role\":\"assistant\""));
    assert_string_equal(
        events(DELTA("\"reasoning_content\":\"hm\"")),
        ADDED("0", THOUGHT("0", "")) "reasoning_summary_part.added" ITEM(
            "rs", "0",
            "summary_index") ",\"part\":" SUMMARY("") "}\n"
                                                      "reasoning_summary_text."
                                                      "delta" ITEM(
                                                          "rs", "0",
                                                          "summary_index") ",\"delta\":\"hm\"}"
                                                                           "\n");
    const char *got = events(DELTA("\"refusal\":\"no\""));
    assert_non_null(strstr(got, DONE("0", THOUGHT("0", SUMMARY("hm")))
                                    ADDED("1", MESSAGE("1", "in_progress", ""))));
    assert_non_null(strstr(got, "refusal.delta" ITEM("msg", "1", "content_index") ",\"delta\":"
                                                                                  "\"no\"}\n"));
    assert_non_null(
        strstr(events("[DONE]"),
               "[{" THOUGHT("0", SUMMARY("hm")) "},{" MESSAGE(
                   "1", "completed", "{\"type\":\"refusal\",\"refusal\":\"no\"}") "}]"));
}

#define CALL_CHUNK(i, id)                                                                      \
    DELTA("\"tool_calls\":[{\"index\":" i ",\"id\":\"" id "\",\"type\":\"function\","          \
          "\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]")
#define ARGS_CHUNK(i, text)                                                                    \
    DELTA("\"tool_calls\":[{\"index\":" i ",\"function\":{\"arguments\":\"" text "\"}}]")
#define CALL(i, id, status, args)                                                              \
    "\"type\":\"function_call\",\"id\":\"fc_c_" i "\",\"status\":\"" status                    \
    "\",\"call_id\":\"" id "\",\"name\":\"f\",\"arguments\":\"" args "\""
#define ARGS(i, text)                                                                          \
    "function_call_arguments.delta,\"item_id\":\"fc_c_" i "\",\"output_index\":" i             \
    ",\"delta\":\"" text "\"}\n"
#define CALLED(i, id, args)                                                                    \
    "function_call_arguments.done,\"item_id\":\"fc_c_" i "\",\"output_index\":" i              \
    ",\"name\":\"f\",\"arguments\":\"" args "\"}\n" DONE(i, CALL(i, id, "completed", args))

static void calls_in_turn(void **state)
{
    (void)state;
    events(DELTA("\"content\":\"a\""));
    assert_string_equal(events(CALL_CHUNK("0", "t0")),
                        SAID("0", "a", "completed")
                            ADDED("1", CALL("1", "t0", "in_progress", "")));
    assert_string_equal(events(CALL_CHUNK("1", "t1")),
                        ADDED("2", CALL("2", "t1", "in_progress", "")));
    assert_string_equal(events(ARGS_CHUNK("0", "{")), ARGS("1", "{"));
    assert_string_equal(events(ARGS_CHUNK("1", "{\\\"")), ARGS("2", "{\\\""));
    assert_string_equal(events(ARGS_CHUNK("0", "}")), ARGS("1", "}"));
    assert_string_equal(events(ARGS_CHUNK("1", "\\\":1}")), ARGS("2", "\\\":1}"));
    events(CHUNK("", "\"tool_calls\""));
    const char *got = events("[DONE]");
    assert_memory_equal(got, CALLED("1", "t0", "{}") CALLED("2", "t1", "{\\\"\\\":1}"),
                        sizeof(CALLED("1", "t0", "{}") CALLED("2", "t1", "{\\\"\\\":1}")) - 1);
    assert_non_null(
        strstr(got, "[{" MESSAGE("0", "completed", PART("a")) "},{" CALL(
                        "1", "t0", "completed", "{}") "},{" CALL("2", "t1", "completed",
                                                                 "{\\\"\\\":1}") "}]"));
}

static void errors(void **state)
{
    aiq_buf out = {0};

    (void)state;
    events(DELTA("\"content\":\"a\""));
    responses_error(&stream,
                    AIQ_STR("{\"error\":{\"message\":\"m\",\n\"type\":\"t\",\"param\":null,"
                            "\"code\":\"c\"}}"),
                    &out);
    assert_string_equal(note(&out),
                        "error,\"code\":\"c\",\"message\":\"m\",\"param\":null,\"error\":"
                        "{\"message\":\"m\", \"type\":\"t\",\"param\":null,\"code\":\"c\"}}\n");
    assert_string_equal(events("[DONE]"), "");
}

static void too_much_is_an_error(void **state)
{
    char *chunk = malloc((1u << 20) + 200);
    const char *got = "";

    (void)state;
    int n = sprintf(chunk, "{\"choices\":[{\"delta\":{\"content\":\"");
    memset(chunk + n, 'x', 1u << 20);
    strcpy(chunk + n + (1u << 20), "\"}}]}");
    for (int i = 0; i < 16; i++) {
        assert_null(strstr(events(chunk), "answer_too_long"));
    }
    got = events(chunk);
    assert_memory_equal(got, "error,", 6);
    assert_non_null(strstr(got, "answer_too_long"));
    assert_string_equal(events("[DONE]"), "");
    free(chunk);
    teardown(state);
    setup(state);
    for (int i = 0; i < RESPONSES_ITEMS_MAX; i++) {
        char call[160];
        sprintf(call, "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":%d}]}}]}", i);
        assert_non_null(strstr(events(call), "output_item.added"));
    }
    assert_memory_equal(events("{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}"), "error,", 6);
}

static const char *whole(const char *body)
{
    aiq_buf out = {0};

    noted.len = 0;
    if (!responses_completion((aiq_str){body, strlen(body)}, &asked, 7, &out)) {
        aiq_buf_free(&out);
        return "";
    }
    aiq_buf_printf(&noted, "\"response\":%.*s", (int)out.len, (char *)out.data);
    aiq_buf_add(&noted, "", 1);
    aiq_buf_free(&out);
    return (char *)noted.data;
}

static void whole_answers(void **state)
{
    (void)state;
    assert_string_equal(
        whole("{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"message\":{\"content\":\"a\","
              "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"t\",\"function\":"
              "{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}],"
              "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}"),
        RESPONSE("completed", "null",
                 "{" THOUGHT("0", SUMMARY("hm")) "},{" MESSAGE(
                     "1", "completed", PART("a")) "},{" CALL("2", "t", "completed", "{}") "}",
                 USAGE("3", "0", "2", "0", "5")));
    assert_string_equal(
        whole("{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"message\":{\"content\":\"a\"},"
              "\"finish_reason\":\"content_filter\"}]}"),
        RESPONSE("incomplete", "{\"reason\":\"content_filter\"}",
                 "{" MESSAGE("0", "incomplete", PART("a")) "}", NO_USAGE));
    assert_string_equal(whole("{\"choices\":[]}"), "");
    assert_string_equal(whole("x"), "");
}

/* Recorded streams. */

static void feed(sse_parser *p, const uint8_t *data, size_t n, aiq_buf *out)
{
    const uint8_t *pos = data, *end = data + n;
    sse_event e;

    while (sse_next(p, &pos, end, &e) == SSE_EVENT) {
        responses_chunk(&stream, e.data, out);
    }
}

static aiq_buf replay(const uint8_t *data, size_t n, size_t split)
{
    sse_parser p;
    aiq_buf out = {0};

    sse_init(&p);
    teardown(NULL);
    setup(NULL);
    feed(&p, data, split, &out);
    feed(&p, data + split, n - split, &out);
    responses_end(&stream, &out);
    sse_free(&p);
    return out;
}

static void is_closed(aiq_buf *result)
{
    const char *all = note(result);

    assert_true(strstr(all, "\ncompleted,") || strstr(all, "\nincomplete,"));
}

static void recorded_streams_at_every_split(void **state)
{
    (void)state;
    recorded_at_every_split("../shared/data/openai-sse/*.sse", replay, is_closed);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_text),
        TEST(an_answer_that_was_cut),
        TEST(a_thought_then_a_refusal),
        TEST(calls_in_turn),
        TEST(errors),
        TEST(too_much_is_an_error),
        TEST(whole_answers),
        TEST(recorded_streams_at_every_split),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
