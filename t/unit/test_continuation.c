/* What of a stream can be gone on with, and how the next target is asked. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "services/gateway/continuation.h"

static void take(continuation *c, const char *delta)
{
    char chunk[512];
    int n = snprintf(chunk, sizeof(chunk), "{\"choices\":[{\"index\":0,\"delta\":%s}]}", delta);

    continuation_take(c, (aiq_str){chunk, (size_t)n});
}

static void take_raw(continuation *c, const char *event)
{
    continuation_take(c, (aiq_str){event, strlen(event)});
}

static void asks_with_what_was_said(void **state)
{
    static const char body[] = "{\"messages\": [{\"role\":\"user\",\"content\":\"hi\"} ] ,"
                               "\"model\":\"m\",\"stream\":true}";
    continuation c = {.allowed = true};
    aiq_pool *pool = aiq_pool_new();
    chat_request chat, next;
    aiq_err err;

    (void)state;
    assert_true(chat_request_parse(&chat, AIQ_STR(body), &err));
    take(&c, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}");
    assert_false(continuation_request(&c, &chat, pool, &next)); /* nothing was said */
    take(&c, "{\"content\":\"a \\\"b\\\" \\ud83d\\ude00\"}");
    take_raw(&c, "{\"choices\":[],\"usage\":{}}");
    take(&c, "{\"content\":\"\\n\xc3\xa4\"}");
    assert_true(c.allowed);
    assert_true(continuation_request(&c, &chat, pool, &next));
    assert_true(aiq_str_is(next.body,
                           "{\"messages\": [{\"role\":\"user\",\"content\":\"hi\"} ,"
                           "{\"role\":\"assistant\",\"content\":\"a \\\"b\\\" \\ud83d\\ude00"
                           "\\n\xc3\xa4\"}] ,\"model\":\"m\",\"stream\":true}"));
    assert_int_equal(next.messages.count, 2);
    assert_true(next.stream);
    assert_true(next.goes_on && !next.begun);
    chat.begun = true; /* by the client, before what was said */
    assert_true(continuation_request(&c, &chat, pool, &next));
    assert_true(next.goes_on && next.begun);
    aiq_buf_free(&c.text);
    aiq_pool_free(pool);
}

static void plain_text_of_one_choice_only(void **state)
{
    static const char *const deltas[] = {
        "{\"tool_calls\":[{\"index\":0}]}",
        "{\"reasoning_content\":\"hm\"}",
        "{\"refusal\":\"no\"}",
        "{\"content\":[]}",
        "null",
    };
    static const char *const events[] = {
        "{\"type\":\"message_start\"}",
        "{\"choices\":[{\"delta\":{}},{\"delta\":{}}]}",
        "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"a\"}}]}",
        "{\"choices\":[7]}",
        "{\"choices\":{}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(deltas) / sizeof(deltas[0]); i++) {
        continuation c = {.allowed = true};
        take(&c, deltas[i]);
        assert_false(c.allowed);
    }
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        continuation c = {.allowed = true};
        take_raw(&c, events[i]);
        assert_false(c.allowed);
    }
}

static void has_a_limit(void **state)
{
    static char chunk[(64u << 10) + 128];
    continuation c = {.allowed = true};
    int n =
        snprintf(chunk, sizeof(chunk), "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");

    (void)state;
    memset(chunk + n, 'x', 64u << 10);
    strcpy(chunk + n + (64u << 10), "\"}}]}");
    for (int i = 0; i < 100; i++) {
        take_raw(&c, chunk);
    }
    assert_false(c.allowed);
    assert_true(c.text.len <= CONTINUATION_MAX);
    aiq_buf_free(&c.text);
}

static void names_who_goes_on(void **state)
{
    const policy_provider provider = {.name = "a \"b\""};
    const policy_target target = {.provider = &provider, .model = "x"};
    aiq_pool *pool = aiq_pool_new();
    aiq_str mark = continuation_mark(&target, "m", 3, pool);
    json_error wrong;

    (void)state;
    assert_true(json_valid(mark.data, mark.len, &wrong));
    assert_non_null(
        strstr(mark.data, "\"provider\":\"a \\\"b\\\"\",\"model\":\"x\",\"attempt\":3"));
    aiq_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_with_what_was_said),
        cmocka_unit_test(plain_text_of_one_choice_only),
        cmocka_unit_test(has_a_limit),
        cmocka_unit_test(names_who_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
