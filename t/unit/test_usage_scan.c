/* The usage in an event stream that passes unread. */

#include "unit.h"
#include <string.h>
#include "providers/usage_scan.h"

static provider_tokens scan(const char *text, size_t n)
{
    usage_scan s = {0};
    size_t size = strlen(text);

    for (size_t at = 0; at < size; at += n) {
        usage_scan_add(&s, (aiq_str){text + at, size - at < n ? size - at : n});
    }
    return usage_scan_tokens(&s);
}

#define USAGE                                                                                  \
    "{\"input_tokens\":14,\"output_tokens\":4,\"details\":{\"a\":[1,2,{\"b\":\"},\"}]}}"

static void it_is_found_where_it_stands(void **state)
{
    static const char *const found[] = {
        "data: {\"type\":\"x\",\"usage\":" USAGE "}\n\n",
        "data:{\"usage\":" USAGE ",\"more\":[]}\n\n",
        "event: x\r\ndata: {\"b64\":\"a\\\"b{}\" , \"usage\" : " USAGE " }\r\n\r\n",
        "data: {\"usage\":" USAGE "}\n\ndata: {\"type\":\"y\"}\n\n",
        "data: {\"usage\":{\"input_tokens\":1}}\n\ndata: {\"usage\":" USAGE "}\n\n",
        "data: {\"broken\ndata: {\"usage\":" USAGE "}",
        "data: {\"usages\":1,\"a\":{\"usage\":1},\"usage\":" USAGE "}\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i++) {
        for (size_t n = 1; n <= strlen(found[i]); n++) { /* however it is cut */
            provider_tokens tokens = scan(found[i], n);
            assert_int_equal(tokens.in, 14);
            assert_int_equal(tokens.out, 4);
        }
    }
}

static void what_is_none(void **state)
{
    static const char *const none[] = {
        "",
        "data: {\"usage\":null}\n\n",
        "data: {\"usage\":\"" USAGE,
        "data: {\"type\":\"usage\",\"a\":" USAGE "}\n\n",
        "data: {\"a\":{\"usage\":" USAGE "}}\n\n",
        "data: {\"a\":\"\\\"usage\\\":"
        "{}\"}\n\n",
        "data: {\"usage\":{\"input_tokens\":14,\n\"output_tokens\":4}}\n\n",
        "data: {\"usage\":" USAGE "}\n\ndata: {\"usage\":{\"input_tokens\"}}\n\n",
        "data: {\"usage\":" USAGE,
        "\"usage\":" USAGE "\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        assert_int_equal(scan(none[i], 1000).in, -1);
        assert_int_equal(scan(none[i], 1).out, -1);
    }
}

static void it_is_not_kept_beyond_its_limit(void **state)
{
    usage_scan s = {0};
    (void)state;

    usage_scan_add(&s, AIQ_STR("data: {\"usage\":{\"a\":\""));
    for (int i = 0; i < 2 * USAGE_SCAN_MAX; i++) {
        usage_scan_add(&s, AIQ_STR("x"));
    }
    usage_scan_add(&s, AIQ_STR("\",\"input_tokens\":14}}\n"));
    assert_int_equal(usage_scan_tokens(&s).in, -1);
    usage_scan_add(&s, AIQ_STR("data: {\"usage\":" USAGE "}\n"));
    assert_int_equal(usage_scan_tokens(&s).in, 14);
}

static void a_sound_has_a_length(void **state)
{
    (void)state;
    assert_int_equal(
        scan("data: {\"usage\":{\"type\":\"duration\",\"seconds\":2.5}}\n", 9).sound_ms, 2500);
    assert_int_equal(scan("data: {\"usage\":{\"seconds\":-1}}\n", 9).sound_ms, 0);
    assert_int_equal(scan("data: {\"usage\":{\"seconds\":1e300}}\n", 9).sound_ms, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_found_where_it_stands),
        cmocka_unit_test(what_is_none),
        cmocka_unit_test(it_is_not_kept_beyond_its_limit),
        cmocka_unit_test(a_sound_has_a_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
