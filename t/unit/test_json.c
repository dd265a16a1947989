/* The JSON scanner: what it accepts, what it refuses, what it finds. */

#include "unit.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/json.h"

static bool valid(const char *text)
{
    json_error error;
    return json_valid(text, strlen(text), &error);
}

/* Every file of JSONTestSuite: y_ must pass, n_ must not, i_ may do either. */
static void test_suite(void **state)
{
    const char *folder = "../shared/data/JSONTestSuite/test_parsing";
    unsigned accepted = 0, refused = 0;
    DIR *dir = opendir(folder);
    struct dirent *entry;

    (void)state;
    if (dir == NULL) {
        skip();
    }
    while ((entry = readdir(dir)) != NULL) {
        char path[600], text[300000];
        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t n = fread(text, 1, sizeof(text), file);
        fclose(file);

        /* a copy of exact size, so that a sanitizer sees a read beyond it */
        char *exact = memcpy(malloc(n + 1), text, n);
        json_error error;
        bool ok = json_valid(exact, n, &error);
        free(exact);
        if ((entry->d_name[0] == 'y' && !ok) || (entry->d_name[0] == 'n' && ok)) {
            fail_msg("%s: %s", entry->d_name, ok ? "accepted" : error.reason);
        }
        accepted += entry->d_name[0] == 'y';
        refused += entry->d_name[0] == 'n';
    }
    closedir(dir);
    assert_int_equal(accepted, 95);
    assert_int_equal(refused, 188);
}

static void test_refuses(void **state)
{
    static const struct {
        const char *text, *reason;
        size_t offset;
    } cases[] = {
        {"", "unfinished document", 0},
        {"\xef\xbb\xbf{}", "unexpected character", 0},
        {"[1,]", "unexpected character", 3},
        {"{\"a\":1,}", "expected a member name", 7},
        {"{\"a\" 1}", "expected a colon", 5},
        {"[1 2]", "expected a comma or a closing bracket", 3},
        {"[1", "unfinished document", 2},
        {"\"\\x\"", "invalid escape", 1},
        {"\"\\u12g4\"", "invalid \\u escape", 1},
        {"\"\\ud800\"", "lone surrogate", 1},
        {"\"\\udc00\"", "lone surrogate", 1},
        {"\"\\ud800\\u0041\"", "lone surrogate", 1},
        {"\"a\nb\"", "control character in a string", 2},
        {"\"\xc0\x80\"", "invalid UTF-8", 1},
        {"\"\xed\xa0\x80\"", "invalid UTF-8", 1},
        {"\"\xf4\x90\x80\x80\"", "invalid UTF-8", 1},
        {"\"\xe2\x82\"", "invalid UTF-8", 1},
        {"\"abcdefgh\xff\"", "invalid UTF-8", 9},
        {"\"abc", "unfinished string", 4},
        {"\"abc\\", "unfinished string", 4},
        {"01", "text after the end of the document", 1},
        {"1.", "invalid number", 2},
        {"-", "invalid number", 1},
        {"1e+", "invalid number", 3},
        {"nul", "unexpected character", 0},
        {"NaN", "unexpected character", 0},
        {"{} {}", "text after the end of the document", 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_error error;
        assert_false(json_valid(cases[i].text, strlen(cases[i].text), &error));
        assert_string_equal(error.reason, cases[i].reason);
        assert_int_equal(error.offset, cases[i].offset);
    }
}

static void test_nul_byte(void **state)
{
    json_error error;

    (void)state;
    assert_false(json_valid("\"a\0b\"", 5, &error));
    assert_false(json_valid("{}\0", 3, &error));
}

static void test_depth(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 4];
    json_error error;

    (void)state;
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_true(json_valid(text, 2 * JSON_DEPTH_MAX, &error));

    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_false(json_valid(text, 2 * JSON_DEPTH_MAX + 2, &error));
    assert_string_equal(error.reason, "nested too deeply");

    char *deep = malloc(100000);
    memset(deep, '[', 100000);
    assert_false(json_valid(deep, 100000, &error));
    free(deep);
}

static void test_finds_members(void **state)
{
    static const char text[] = " { \"model\" : \"m\\u0041\", \"n\": [1, [2, 3], {}],\n"
                               "\"str\\u0065am\":true, \"x\":{\"model\":1}, \"none\":null } ";
    json_value model, list, stream, absent, none;
    const json_want wants[] = {{"model", &model},
                               {"n", &list},
                               {"stream", &stream},
                               {"absent", &absent},
                               {"none", &none}};
    json_error error;

    (void)state;
    assert_true(json_scan(text, sizeof(text) - 1, wants, 5, &error));
    assert_int_equal(model.type, JSON_STRING);
    assert_true(aiq_str_is(model.text, "\"m\\u0041\""));
    assert_true(json_string_is(&model, "mA"));
    assert_false(json_string_is(&model, "m"));
    assert_false(json_string_is(&model, "mAA"));
    assert_int_equal(list.type, JSON_ARRAY);
    assert_int_equal(list.count, 3);
    assert_true(aiq_str_is(list.text, "[1, [2, 3], {}]"));
    assert_int_equal(stream.type, JSON_TRUE);
    assert_int_equal(absent.type, JSON_NONE);
    assert_int_equal(none.type, JSON_NULL);
}

static void test_duplicates(void **state)
{
    json_value model;
    const json_want want = {"model", &model};
    json_error error;

    (void)state;
    assert_false(json_scan("{\"model\":1,\"mod\\u0065l\":2}", 25, &want, 1, &error));
    assert_string_equal(error.reason, "duplicate member");
    assert_int_equal(error.offset, 11);
    assert_true(json_scan("{\"other\":1,\"other\":2}", 21, &want, 1, &error));
}

static void test_only_objects(void **state)
{
    json_error error;

    (void)state;
    assert_false(json_scan("[]", 2, NULL, 0, &error));
    assert_string_equal(error.reason, "expected an object");
    assert_false(json_scan("", 0, NULL, 0, &error));
    assert_true(json_scan("{}", 2, NULL, 0, &error));
}

static void test_walks(void **state)
{
    static const char text[] = "{\"m\":[ {\"role\":\"user\",\"content\":\"hi\"} , {} , 7 ]}";
    json_value m, element;
    const json_want want = {"m", &m};
    json_error error;
    size_t cursor = 0;
    aiq_str name;

    (void)state;
    assert_true(json_scan(text, sizeof(text) - 1, &want, 1, &error));
    assert_true(json_each(&m, &cursor, NULL, &element));
    assert_int_equal(element.type, JSON_OBJECT);
    assert_int_equal(element.count, 2);

    json_value role = json_member(&element, "role"), none = json_member(&element, "ro");
    assert_true(json_string_is(&role, "user"));
    assert_int_equal(none.type, JSON_NONE);

    size_t inner = 0;
    json_value value;
    assert_true(json_each(&element, &inner, &name, &value));
    assert_true(aiq_str_is(name, "role"));
    assert_true(json_each(&element, &inner, &name, &value));
    assert_true(aiq_str_is(name, "content"));
    assert_false(json_each(&element, &inner, &name, &value));

    assert_true(json_each(&m, &cursor, NULL, &element));
    assert_int_equal(element.count, 0);
    inner = 0;
    assert_false(json_each(&element, &inner, &name, &value));
    assert_true(json_each(&m, &cursor, NULL, &element));
    assert_int_equal(element.type, JSON_NUMBER);
    assert_false(json_each(&m, &cursor, NULL, &element));
}

static void test_finds_members_of_values(void **state)
{
    static const char text[] = "{\"o\":{\"a\":\"\\\\\",\"b\":[{\"a\":1},\"]\\\"\",[ ] ] , "
                               "\"\\u0061\":-1.5e3 ,\"c\":true}}";
    json_value o, a, b, c, d;
    const json_want want = {"o", &o}, wants[] = {{"a", &a}, {"b", &b}, {"c", &c}, {"d", &d}};
    json_error error;

    (void)state;
    assert_true(json_scan(text, sizeof(text) - 1, &want, 1, &error));
    json_members(&o, wants, 4);
    assert_true(aiq_str_is(a.text, "-1.5e3")); /* the last one */
    assert_true(aiq_str_is(b.text, "[{\"a\":1},\"]\\\"\",[ ] ]"));
    assert_int_equal(b.type, JSON_ARRAY);
    assert_int_equal(b.count, 3);
    assert_true(aiq_str_is(c.text, "true"));
    assert_int_equal(d.type, JSON_NONE);
    json_members(&b, wants, 4); /* no object */
    assert_int_equal(a.type, JSON_NONE);
}

static void test_unescapes(void **state)
{
    static const char text[] =
        "{\"s\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u20ac\\ud83d\\ude00\\u0000z\xc3\xa9\"}";
    static const char expected[] = "\"\\/\b\f\n\r\t\xe2\x82\xac\xf0\x9f\x98\x80\0z\xc3\xa9";
    json_value s;
    const json_want want = {"s", &s};
    json_error error;
    aiq_pool *pool = aiq_pool_new();

    (void)state;
    assert_true(json_scan(text, sizeof(text) - 1, &want, 1, &error));
    aiq_str out = json_string(pool, &s);
    assert_int_equal(out.len, sizeof(expected) - 1);
    assert_memory_equal(out.data, expected, sizeof(expected));
    assert_false(json_string_is(&s, "\"\\/\b\f\n\r\t\xe2\x82\xac\xf0\x9f\x98\x80"));
    aiq_pool_free(pool);
}

static json_value number(const char *text)
{
    return (json_value){JSON_NUMBER, {text, strlen(text)}, 0};
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        bool integral;
        int64_t n;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"42", true, 42},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"1e3", true, 1000},
        {"2.0", true, 2},
        {"2.5", false, 0},
        {"1e300", false, 0},
        {"1e999", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_value value = number(cases[i].text);
        int64_t n = 0;
        assert_int_equal(json_int(&value, &n), cases[i].integral);
        assert_true(n == cases[i].n);
    }
    json_value half = number("0.5"), word = {.type = JSON_TRUE, .text = AIQ_STR("true")};
    assert_true(json_real(&half) == 0.5);
    assert_true(isnan(json_real(&word)));

    char digits[200];
    memset(digits, '0', sizeof(digits));
    memcpy(digits, "1.", 2);
    json_value longer = {JSON_NUMBER, {digits, sizeof(digits)}, 0};
    assert_true(json_real(&longer) == 1.0);
}

static void test_quotes(void **state)
{
    aiq_buf b = {0};

    (void)state;
    json_quote(&b, "a\"\\\n\x01\x7f\xe2\x82\xac\xff\xe2\x82z", 13);
    aiq_buf_add(&b, "", 1);
    assert_string_equal((char *)b.data,
                        "\"a\\\"\\\\\\n\\u0001\x7f\xe2\x82\xac\xef\xbf\xbd\xef\xbf\xbd"
                        "\xef\xbf\xbdz\"");
    aiq_buf_free(&b);
}

static void test_quoted_is_valid(void **state)
{
    char every[256];
    aiq_buf b = {0};
    json_error error;

    (void)state;
    for (int i = 0; i < 256; i++) {
        every[i] = (char)i;
    }
    json_quote(&b, every, sizeof(every));
    assert_true(json_valid((char *)b.data, b.len, &error));
    aiq_buf_free(&b);
    assert_true(valid("\"\\u0000\""));
}

/* Strings are skipped in blocks: every byte that may not stand in one is found
 * at every place of a block, and every other byte is passed. */
static void test_every_byte_at_every_place(void **state)
{
    char text[64];
    json_error error;

    (void)state;
    for (size_t at = 1; at < 50; at++) {
        for (int byte = 0; byte < 256; byte++) {
            memset(text, 'x', sizeof(text));
            text[0] = text[51] = '"';
            text[at] = (char)byte;
            bool fine = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
            assert_int_equal(json_valid(text, 52, &error), fine);
            /* a quote ends the string, so what follows is at fault */
            size_t offset = byte == '"' ? at + 1 : at;
            assert_true(fine || error.offset == offset);
        }
    }
}

static void closes(const char *text, const char *expected)
{
    aiq_buf out = {0};

    aiq_buf_text(&out, "x");
    assert_int_equal(json_close((aiq_str){text, strlen(text)}, &out), expected != NULL);
    aiq_buf_add(&out, "", 1);
    assert_string_equal((char *)out.data + 1, expected ? expected : "");
    aiq_buf_free(&out);
}

/* What was cut off is closed behind its last whole value. */
static void test_closes(void **state)
{
    char deep[2 * JSON_DEPTH_MAX] = "{\"a\":";

    (void)state;
    closes("{", "{}");
    closes(" {\"a", " {}");
    closes("{\"a\"", "{}");
    closes("{\"a\":", "{}");
    closes("{\"a\":12", "{}");
    closes("{\"a\":12,", "{\"a\":12}");
    closes("{\"a\":\"b", "{}");
    closes("{\"a\":\"b\"", "{\"a\":\"b\"}");
    closes("{\"a\":\"b\\\"}", "{}");
    closes("{\"a\":[1, 2", "{\"a\":[1]}");
    closes("{\"a\":[\"}\", {\"b\": [", "{\"a\":[\"}\", {\"b\": []}]}");
    closes("{\"a\":[{}, {\"b\": {\"c\"", "{\"a\":[{}, {\"b\": {}}]}");
    closes("{\"a\":1}", "{\"a\":1}");
    closes("{\"a\":1} ", "{\"a\":1}");
    closes("", NULL);
    closes(" ", NULL);
    closes("a", NULL);
    closes("\"a", NULL);
    closes("[1", NULL);
    closes("{}{", NULL);
    closes("{}x", NULL);
    closes("{\"a\":[1}", NULL);
    closes("{a:1,", NULL);
    closes("{\"a\":tru,", NULL);
    memset(deep + 5, '[', JSON_DEPTH_MAX);
    closes(deep, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suite),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_nul_byte),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_finds_members),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_only_objects),
        cmocka_unit_test(test_walks),
        cmocka_unit_test(test_finds_members_of_values),
        cmocka_unit_test(test_unescapes),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_quotes),
        cmocka_unit_test(test_quoted_is_valid),
        cmocka_unit_test(test_every_byte_at_every_place),
        cmocka_unit_test(test_closes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
