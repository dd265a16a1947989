/* Chunks of an OpenAI stream: what passes, what is taken out, what ends it. */

#include "unit.h"
#include "providers/openai_chunk.h"

static char text[512];
static openai_stream stream;

/* The chunk as it is passed on, "dropped", or what is wrong with it. */
static const char *pass(const char *chunk, bool wants_usage)
{
    const char *wrong = "?";
    aiq_str data = {strcpy(text, chunk), strlen(chunk)};

    switch (openai_chunk(&stream, &data, wants_usage, &wrong)) {
    case OPENAI_PASS:
        assert_ptr_equal(data.data, text);
        text[data.len] = '\0';
        return text;
    case OPENAI_DROP:
        return "dropped";
    default:
        return wrong;
    }
}

static int reset(void **state)
{
    (void)state;
    stream = (openai_stream){.tokens = {-1, -1}};
    return 0;
}

static void usage_in_other_words(void **state)
{
    static const char said[] = "{\"input_tokens\":14,\"output_tokens\":4,\"total_tokens\":18}";
    const json_value usage = {JSON_OBJECT, {said, sizeof(said) - 1}, 3};
    provider_tokens tokens = openai_usage(&usage); /* of an image or a transcription */

    (void)state;
    assert_int_equal(tokens.in, 14);
    assert_int_equal(tokens.out, 4);
    assert_int_equal(tokens.cached, -1);
}

static void takes_unasked_usage_out(void **state)
{
    (void)state;
    assert_string_equal(pass("{\"choices\":[{}],\"usage\":null}", false), "{\"choices\":[{}]}");
    assert_string_equal(pass("{\"usage\":null,\"choices\":[{}]}", false), "{\"choices\":[{}]}");
    assert_string_equal(pass("{\"a\":1 , \"usage\" : null }", false), "{\"a\":1 }");
    assert_string_equal(pass("{\"a\":1,\"usage\": null , \"b\":2}", false),
                        "{\"a\":1, \"b\":2}");
    assert_string_equal(pass("{\"usage\":null}", false), "{}");
    /* a name in disguise is no reason to break the chunk */
    assert_string_equal(pass("{\"\\u0075sage\":null}", false), "{\"\\u0075sage\":null}");
    /* only the member itself, not what looks like it */
    assert_string_equal(
        pass("{\"choices\":[{\"usage\":null}],\"x\":\"\\\"usage\\\":null\"}", false),
        "{\"choices\":[{\"usage\":null}],\"x\":\"\\\"usage\\\":null\"}");
}

static void keeps_what_was_asked_for(void **state)
{
    static const char last[] = "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,"
                               "\"completion_tokens\":4}}";

    (void)state;
    assert_string_equal(pass("{\"choices\":[{}],\"usage\":null}", true),
                        "{\"choices\":[{}],\"usage\":null}");
    assert_string_equal(pass(last, true), last);
    assert_int_equal(stream.tokens.in, 3);
    assert_int_equal(stream.tokens.out, 4);
}

static void counts_what_it_drops(void **state)
{
    (void)state;
    assert_string_equal(pass("{\"choices\":[],\"usage\":{\"prompt_tokens\":3,"
                             "\"completion_tokens\":-4}}",
                             false),
                        "dropped");
    assert_int_equal(stream.tokens.in, 3);
    assert_int_equal(stream.tokens.out, -1); /* no number of tokens */
}

static void usage_beside_text_keeps_the_text(void **state)
{
    (void)state;
    assert_string_equal(
        pass("{\"choices\":[{\"x\":1}],\"usage\":{\"prompt_tokens\":3}}", false),
        "{\"choices\":[{\"x\":1}]}");
    assert_int_equal(stream.tokens.in, 3);
}

static void knows_the_end(void **state)
{
    (void)state;
    assert_string_equal(pass("{\"choices\":[{\"finish_reason\":null}]}", false),
                        "{\"choices\":[{\"finish_reason\":null}]}");
    assert_false(stream.finished);
    pass("{\"choices\":[{},{\"finish_reason\":\"stop\"}]}", false);
    assert_true(stream.finished);
    assert_false(stream.done);
    assert_string_equal(pass("[DONE]", false), "[DONE]");
    assert_true(stream.done);
    assert_string_equal(pass("{\"choices\":[{}]}", false), "dropped");
}

static void refuses_what_is_no_chunk(void **state)
{
    (void)state;
    assert_string_equal(pass("", false), "expected an object");
    assert_string_equal(pass("[1]", false), "expected an object");
    assert_string_equal(pass("{\"id\":\"chatcmpl-mo", false), "unfinished string");
    assert_string_equal(pass("{\"error\":{\"message\":\"x\"}}", false),
                        "an error in the stream");
    assert_string_equal(pass("{\"error\":\"x\"}", false), "an error in the stream");
    assert_string_equal(pass("{\"error\":null}", false), "{\"error\":null}");
    assert_string_equal(pass("{\"usage\":1,\"usage\":2}", false), "duplicate member");
}

static bool is_empty(const char *chunk)
{
    return openai_chunk_is_empty((aiq_str){chunk, strlen(chunk)});
}

static void knows_what_says_nothing_yet(void **state)
{
    static const char *const empty[] = {
        "{\"choices\":[]}",
        "{\"choices\":[{\"delta\":{}}]}",
        ("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
         "\"finish_reason\":null}]}"),
    };
    static const char *const full[] = {
        "[DONE]",
        "{\"choices\":[{\"delta\":{\"content\":\" \"}}]}",
        "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}",
        "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}",
        "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}",
        "{\"choices\":[{\"delta\":{}},{\"delta\":{\"content\":\"x\"}}]}",
        "{\"choices\":[7]}",
        "{\"type\":\"message_start\"}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        assert_true(is_empty(empty[i]));
    }
    for (size_t i = 0; i < sizeof(full) / sizeof(full[0]); i++) {
        assert_false(is_empty(full[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage_in_other_words),
        cmocka_unit_test_setup(takes_unasked_usage_out, reset),
        cmocka_unit_test_setup(keeps_what_was_asked_for, reset),
        cmocka_unit_test_setup(counts_what_it_drops, reset),
        cmocka_unit_test_setup(usage_beside_text_keeps_the_text, reset),
        cmocka_unit_test_setup(knows_the_end, reset),
        cmocka_unit_test_setup(refuses_what_is_no_chunk, reset),
        cmocka_unit_test(knows_what_says_nothing_yet),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
