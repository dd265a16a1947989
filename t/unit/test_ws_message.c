/* What a client says on /ws, and how it is told what is wrong. */

#include "unit.h"
#include <string.h>
#include "services/ws/ws_message.h"

static bool parse(ws_message *m, const char *text, aiq_err *err)
{
    *err = (aiq_err){0};
    return ws_message_parse(m, (aiq_str){text, strlen(text)}, err);
}

static void body_is(const char *said, const char *sent)
{
    char text[512];
    aiq_buf body = {0};
    ws_message m;
    aiq_err err;

    snprintf(text, sizeof(text), "{\"type\":\"chat\",\"id\":\"c\",\"body\":%s}", said);
    assert_true(parse(&m, text, &err));
    ws_message_chat(&m, &body);
    assert_int_equal(body.len, strlen(sent));
    assert_memory_equal(body.data, sent, body.len);
    aiq_buf_free(&body);
}

static void a_chat_always_streams(void **state)
{
    body_is("{}", "{\"stream\":true}");
    body_is("{\"model\":\"m\"}", "{\"stream\":true,\"model\":\"m\"}");
    body_is("{\"model\":\"m\",\"stream\":false}", "{\"model\":\"m\",\"stream\":true}");
    body_is("{ \"stream\" : null , \"n\": 1}", "{ \"stream\" : true , \"n\": 1}");
    (void)state;
}

static void reads_every_kind(void **state)
{
    ws_message m;
    aiq_err err;

    assert_true(parse(&m,
                      " {\"type\":\"chat\",\"id\":\"a.b_C-9\",\"body\":{\"a\":1}, \"headers\":"
                      "{\"x-aiq-qos\":\"best-effort\",\"cache-control\":\"no-store\"}}\n",
                      &err));
    assert_int_equal(m.kind, WS_CHAT);
    assert_true(aiq_str_is(m.id, "a.b_C-9"));
    assert_int_equal(m.n_headers, 2);
    assert_true(aiq_str_is(m.headers[0].name, "x-aiq-qos"));
    assert_true(aiq_str_is(m.headers[1].value, "no-store"));
    assert_true(parse(
        &m, "{\"id\":\"r\",\"after\":12,\"stream\":\"strm_1\",\"type\":\"resume\"}", &err));
    assert_int_equal(m.kind, WS_RESUME);
    assert_true(aiq_str_is(m.source, "strm_1"));
    assert_int_equal(m.after, 12);
    assert_true(parse(&m, "{\"type\":\"subscribe\",\"id\":\"s\",\"topic\":\"t\"}", &err));
    assert_int_equal(m.kind, WS_SUBSCRIBE);
    assert_false(m.says_after);
    assert_true(parse(&m, "{\"type\":\"auth\",\"token\":\"a.b.c\"}", &err));
    assert_int_equal(m.kind, WS_AUTH);
    assert_true(aiq_str_is(m.token, "a.b.c"));
    assert_true(parse(&m, "{\"type\":\"ping\"}", &err));
    assert_int_equal(m.id.len, 0);
    (void)state;
}

static void names_the_field(void **state)
{
    static const struct {
        const char *text, *code, *param;
    } cases[] = {
        {"", "invalid_json", ""},
        {"[]", "invalid_json", ""},
        {"{}", "missing_required_parameter", "type"},
        {"{\"type\":1}", "invalid_value", "type"},
        {"{\"type\":\"resume\",\"id\":\"r\"}", "missing_required_parameter", "stream"},
        {"{\"type\":\"resume\",\"id\":\"r\",\"stream\":1}", "invalid_type", "stream"},
        {"{\"type\":\"resume\",\"id\":\"r\",\"stream\":\"a b\"}", "invalid_value", "stream"},
        {"{\"type\":\"resume\",\"id\":\"r\",\"stream\":\"s\",\"after\":-1}", "invalid_value",
         "after"},
        {"{\"type\":\"resume\",\"id\":\"r\",\"stream\":\"s\",\"after\":1.5}", "invalid_value",
         "after"},
        {"{\"type\":\"resume\",\"id\":\"r\",\"stream\":\"s\",\"topic\":\"t\"}",
         "unknown_parameter", "topic"},
        {"{\"type\":\"subscribe\",\"id\":\"r\"}", "missing_required_parameter", "topic"},
        {"{\"type\":\"auth\"}", "missing_required_parameter", "token"},
        {"{\"type\":\"auth\",\"token\":\"\"}", "invalid_value", "token"},
        {"{\"type\":\"chat\",\"id\":\"\",\"body\":{}}", "invalid_value", "id"},
        {"{\"type\":\"chat\",\"id\":\"c\",\"body\":{},\"headers\":{\"authorization\":\"x\"}}",
         "invalid_value", "headers"},
        {"{\"type\":\"chat\",\"id\":\"c\",\"body\":{},\"headers\":{\"x-aiq-qos\":1}}",
         "invalid_value", "headers"},
        {"{\"type\":\"ping\",\"id\":\"a\\u0041\"}", "invalid_value", "id"},
        {"{\"type\":\"ping\",\"what\":1}", "unknown_parameter", ""},
        {" {\"type\":\"ping\",\"what\":1}", "unknown_parameter", ""},
    };
    ws_message m;
    aiq_err err;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (parse(&m, cases[i].text, &err)) {
            fail_msg("taken: %s", cases[i].text);
        }
        assert_int_equal(err.status, 400);
        assert_string_equal(err.code, cases[i].code);
        assert_string_equal(err.param, cases[i].param);
    }
    (void)state;
}

/* So that its error can be told apart from others'. */
static void a_mistake_keeps_its_id(void **state)
{
    ws_message m;
    aiq_err err;

    assert_false(parse(&m, "{\"id\":\"mine\",\"type\":\"sing\"}", &err));
    assert_true(aiq_str_is(m.id, "mine"));
    assert_false(parse(&m, "{\"id\":7,\"type\":\"ping\"}", &err));
    assert_int_equal(m.id.len, 0);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_always_streams),
        cmocka_unit_test(reads_every_kind),
        cmocka_unit_test(names_the_field),
        cmocka_unit_test(a_mistake_keeps_its_id),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
