/*
 * What schemas say of numbers and strings, held by the grammar. The property is the same both
 * ways: a text in the spelling that schema.h tells is of the grammar if, and only if, its value
 * meets the schema.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>

#include "schema_text.h"

/* --- numbers --- */

static uint32_t draw(uint32_t n)
{
    static uint64_t state = 20261122;

    state = state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(state >> 33) % n;
}

/* n thousandths, with so many digits behind the point, of which only zeros are left out. */
static void spell(char *out, size_t size, int n, int digits)
{
    int part = abs(n) % 1000;

    snprintf(out, size, "%s%d.%03d", n < 0 ? "-" : "", abs(n) / 1000, part);
    for (char *end = out + strlen(out); digits < 3; digits++) {
        *--end = '\0';
    }
    if (digits > 3) {
        strcat(out, "0");
    }
    if (out[strlen(out) - 1] == '.') {
        out[strlen(out) - 1] = '\0';
    }
}

/* All thousandths around a range, in all spellings. */
static void check_range(const char *schema, int least, int most)
{
    matcher *m = matcher_of(schema);
    char text[32];

    for (int n = least - 1200; n <= most + 1200;
         n += n < least + 20 || n > most - 20 ? 1 : 37) {
        int fewest = n % 1000 == 0 ? 0 : n % 100 == 0 ? 1 : n % 10 == 0 ? 2 : 3;
        bool meets = n >= least && n <= most;

        for (int digits = fewest; digits <= 4; digits++) {
            spell(text, sizeof(text), n, digits);
            if (is_of(m, text) != meets && !(n == 0 && text[0] == '-')) {
                fail_msg("%s: %s", schema, text);
            }
        }
    }
    matcher_free(m);
}

static void numbers_keep_their_bounds(void **state)
{
    static const char *const names[] = {"minimum", "maximum"};
    char schema[200], low[32], high[32];

    (void)state;
    for (int i = 0; i < 60; i++) {
        int size = i % 3 == 0 ? 3000 : i % 3 == 1 ? 30000 : 300000;
        int least = (int)draw((uint32_t)size) - size / 2, most = least + (int)draw(5000);

        spell(low, sizeof(low), least, 3);
        spell(high, sizeof(high), most, 3);
        snprintf(schema, sizeof(schema), "{\"type\":\"number\",\"%s\":%s,\"%s\":%s}", names[0],
                 low, names[1], high);
        check_range(schema, least, most);
    }
    check_range("{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", 0, 1000);
    check_range("{\"minimum\":-5E-1,\"maximum\":12.5e+0}", -500, 12500);
}

static void bounds_of_any_size(void **state)
{
    static const struct {
        const char *schema, *text;
        bool meets;
    } cases[] = {
        {"{\"type\":\"number\",\"minimum\":0}", "0", true},
        {"{\"type\":\"number\",\"minimum\":0}", "0.000000000000001", true},
        {"{\"type\":\"number\",\"minimum\":0}", "9999999999999999999.999999999999999", true},
        {"{\"type\":\"number\",\"minimum\":0}", "10000000000000000000", false},
        {"{\"type\":\"number\",\"minimum\":0}", "0.0000000000000001", false},
        {"{\"type\":\"number\",\"minimum\":0}", "-0", false},
        {"{\"type\":\"number\",\"minimum\":0}", "-0.5", false},
        {"{\"type\":\"number\",\"minimum\":0}", "1e3", false},
        {"{\"type\":\"number\",\"minimum\":0}", "00", false},
        {"{\"type\":\"number\",\"minimum\":0}", "1.", false},
        {"{\"type\":\"number\",\"minimum\":-1}", "-0.5", true},
        {"{\"type\":\"number\",\"minimum\":-1}", "-0.0", false},
        {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.1}", "0.100", true},
        {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.1}", "0.1000000000000001", false},
        /* more than is written, on either side */
        {"{\"type\":\"number\",\"minimum\":-1e300,\"maximum\":1e300}", "-12.5", true},
        {"{\"type\":\"number\",\"maximum\":99999999999999999999}", "9999999999999999999", true},
        {"{\"type\":\"number\",\"minimum\":1e-300}", "0.000000000000001", true},
        {"{\"type\":\"number\",\"minimum\":1e-300}", "0.0", false},
        {"{\"type\":\"number\",\"maximum\":-1e-300}", "-0.000000000000001", true},
        {"{\"type\":\"number\",\"maximum\":-1e-300}", "0", false},
        {"{\"type\":\"number\",\"minimum\":0e999999999999}", "0", true},
        {"{\"type\":\"number\",\"maximum\":-0}", "0", true},
        /* the next double, whatever the size */
        {"{\"type\":\"number\",\"exclusiveMinimum\":0}", "0", false},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0}", "0.00", false},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0}", "0.000000000000001", true},
        {"{\"type\":\"number\",\"exclusiveMaximum\":0}", "-0.000000000000001", true},
        {"{\"type\":\"number\",\"exclusiveMaximum\":1}", "0.99999999999999", true},
        {"{\"type\":\"number\",\"exclusiveMaximum\":1}", "1.000", false},
        {"{\"type\":\"number\",\"exclusiveMaximum\":1000}", "999.99999999999", true},
        {"{\"type\":\"number\",\"exclusiveMaximum\":1000}", "999.999999999999999", false},
        {"{\"type\":\"number\",\"exclusiveMinimum\":-1000}", "-999.999999999999999", false},
        {"{\"type\":\"number\",\"minimum\":5,\"exclusiveMinimum\":3}", "4", false},
        {"{\"type\":\"number\",\"minimum\":5,\"exclusiveMinimum\":3}", "5.0", true},
        /* integers between fractions */
        {"{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":2.5}", "0", false},
        {"{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":2.5}", "1", true},
        {"{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":2.5}", "2", true},
        {"{\"type\":\"integer\",\"minimum\":0.5,\"maximum\":2.5}", "3", false},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":-1.5,\"maximum\":-0.5}", "-1", true},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":-1.5,\"maximum\":-0.5}", "-2", false},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":-1.5,\"maximum\":-0.5}", "0", false},
        {"{\"type\":\"integer\",\"minimum\":1e3,\"maximum\":1e300}", "999", false},
        {"{\"type\":\"integer\",\"minimum\":1e3,\"maximum\":1e300}", "9223372036854775807",
         true},
        {"{\"type\":\"integer\",\"minimum\":1e3,\"maximum\":1e300}", "9223372036854775808",
         false},
        {"{\"type\":\"integer\",\"exclusiveMaximum\":123456789012345678}", "123456789012345677",
         true},
        {"{\"type\":\"integer\",\"exclusiveMaximum\":123456789012345678}", "123456789012345678",
         false},
        /* of what is no number they say nothing */
        {"{\"type\":[\"number\",\"null\"],\"minimum\":0,\"maximum\":1}", "null", true},
        {"{\"type\":[\"number\",\"null\"],\"minimum\":0,\"maximum\":1}", "2", false},
        {"{\"type\":\"string\",\"minimum\":0}", "\"a\"", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        if (matches(cases[i].schema, cases[i].text) != cases[i].meets) {
            fail_msg("%s: %s", cases[i].schema, cases[i].text);
        }
    }
}

/* --- strings --- */

/* "a\"b": as JSON, in the room. */
static const char *pattern_schema(char *room, size_t size, const char *pattern,
                                  const char *more)
{
    char *p = room + snprintf(room, size, "{\"type\":\"string\"%s,\"pattern\":\"", more);

    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '\\' || *pattern == '"') {
            *p++ = '\\';
        }
        *p++ = *pattern;
    }
    snprintf(p, size - (size_t)(p - room), "\"}");
    return room;
}

static void strings_have_their_lengths(void **state)
{
    static const char least[] = "{\"minLength\":2}";
    static const char most[] = "{\"type\":\"string\",\"maxLength\":2}";
    static const char both[] =
        "{\"type\":[\"string\",\"null\"],\"minLength\":2,\"maxLength\":3}";
    static const struct {
        const char *schema, *text;
        bool meets;
    } cases[] = {
        {least, "\"a\"", false},
        {least, "\"ab\"", true},
        {least, "\"abcdefghij\"", true},
        {most, "\"\"", true},
        {most, "\"ab\"", true},
        {most, "\"abc\"", false},
        {both, "null", true},
        {both, "\"a\"", false},
        {both, "\"abc\"", true},
        {both, "\"abcd\"", false},
        /* a character is one, however it is written */
        {both, "\"\\n\\u00e9\"", true},
        {both, "\"\\n\"", false},
        {both, "\"\xf0\x9f\x98\x80\"", false},
        {both, "\"\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac\"", true},
        {both, "\"\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac!\"", false},
        {both, "\"\\ud83d\\ude00\"", false},
        {both, "\"\\ud83d\\ude00\\ud83d\\ude00\\ud83d\\ude00\"", true},
        {both, "\"\\ud83d\\ude00\\ud83d\\ude00\\ud83d\\ude00\\ud83d\\ude00\"", false},
        {both, "\"\\ud83d\\ud83d\"", false},
        {"{\"type\":\"string\",\"maxLength\":0}", "\"\"", true},
        {"{\"type\":\"string\",\"maxLength\":0}", "\"a\"", false},
        {"{\"type\":\"integer\",\"maxLength\":0}", "12", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        if (matches(cases[i].schema, cases[i].text) != cases[i].meets) {
            fail_msg("%s: %s", cases[i].schema, cases[i].text);
        }
    }
}

/* The longest that may be asked for. */
static void long_strings(void **state)
{
    static char text[SCHEMA_MAX_LENGTH + 4];
    const char *schema = "{\"type\":\"string\",\"minLength\":10000,\"maxLength\":10000}";

    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    text[0] = text[SCHEMA_MAX_LENGTH + 1] = '"';
    text[SCHEMA_MAX_LENGTH + 2] = '\0';
    assert_true(matches(schema, text));
    text[SCHEMA_MAX_LENGTH + 1] = 'a';
    text[SCHEMA_MAX_LENGTH + 2] = '"';
    assert_false(matches(schema, text));
}

static void strings_match_their_pattern(void **state)
{
    static const struct {
        const char *pattern, *text;
        bool meets;
    } cases[] = {
        {"^[A-Z]{2}-\\d{3}$", "AB-123", true},
        {"^[A-Z]{2}-\\d{3}$", "AB-1234", false},
        {"^[A-Z]{2}-\\d{3}$", "xAB-123", false},
        {"[A-Z]{2}", "..AB..", true}, /* anywhere */
        {"[A-Z]{2}", "A.B", false},
        {"", "", true},
        {"^$", "", true},
        {"^$", "a", false},
        {"^a|b$", "ax", true},
        {"^a|b$", "xb", true},
        {"^a|b$", "xbx", false},
        {"^(?:a|bc)*?$", "abcbca", true},
        {"^(?<year>\\d{4})-(\\d\\d)$", "2026-11", true},
        {"^(a*)*$", "aaa", true},
        {"^(a|)+$", "aab", false},
        {"^a{0}b{2,}c{1,2}$", "bbbcc", true},
        {"^a{0}b{2,}c{1,2}$", "bcc", false},
        {"^{a}$", "{a}", true},
        {"^[\\w-]+\\.[^\\s.]$", "a-b.c", true},
        {"^[^]$", "\xf0\x9f\x98\x80", true},
        {"^.$", "\xf0\x9f\x98\x80", true},
        {"^.$", "\\n", false},
        {"^.$", "\\t", true},
        {"^.$", "\xe2\x80\xa8", false}, /* a line separator */
        {"^\\s$", "\xe2\x80\xa8", true},
        {"^\\s$", "\xef\xbb\xbf", true},
        {"^\\S$", "\xe2\x80\xa8", false},
        {"^\\W\\D$", "\xc3\xa9\xc3\xa9", true},
        {"^\\u00e9\\xe9\\u{e9}\xc3\xa9$", "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", true},
        {"^\\ud83d\\ude00$", "\xf0\x9f\x98\x80", true},
        {"^[\\u{1f600}-\\u{1f64f}]$", "\xf0\x9f\x98\x80", true},
        {"^[\\u{1f600}-\\u{1f64f}]$", "\xf0\x9f\x99\x90", false},
        {"^[\\x00-\\x1f\\\\\"]*$", "\\n\\\\\\\"\\u001F\\u0000", true},
        {"^[\\x00-\\x1f\\\\\"]*$", "\\u0020", false},
        {"^[a-z]$", "\\u0061", false}, /* what needs no escape has none */
        {"^\\/\\.\\-$", "/.-", true},
        {"^\\cA[\\b]$", "\\u0001\\b", true},
        {"^(?!.*\\.\\.)[a-z.]+$", "a.b.c", true},
        {"^(?!.*\\.\\.)[a-z.]+$", "a..b", false},
        {"^(?=.*\\d)(?=.*[a-z])(?!x).{3}$", "a1c", true},
        {"^(?=.*\\d)(?=.*[a-z])(?!x).{3}$", "abc", false},
        {"^(?=.*\\d)(?=.*[a-z])(?!x).{3}$", "x1c", false},
        {"^(?!a$)", "ab", true},
        {"^(?!a$)", "a", false},
    };
    char schema[300], text[100];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        pattern_schema(schema, sizeof(schema), cases[i].pattern, "");
        snprintf(text, sizeof(text), "\"%s\"", cases[i].text);
        if (matches(schema, text) != cases[i].meets) {
            fail_msg("%s: %s", cases[i].pattern, text);
        }
    }
    pattern_schema(schema, sizeof(schema), "^(ab)+$", ",\"minLength\":3,\"maxLength\":5");
    assert_false(matches(schema, "\"ab\""));
    assert_true(matches(schema, "\"abab\""));
    assert_false(matches(schema, "\"ababab\""));
}

static void patterns_beyond_us(void **state)
{
    static const char *const cases[][2] = {
        {"(a)\\1", "the schema's 'pattern': backreferences are not supported (at 3)"},
        {"(?<n>a)\\k<n>", "the schema's 'pattern': backreferences are not supported (at 7)"},
        {"\\bword", "the schema's 'pattern': the boundary \\b is not supported (at 0)"},
        {"a\\p{L}", "the schema's 'pattern': the escape \\p is not supported (at 1)"},
        {"a(?=b)", "the schema's 'pattern': a lookahead is supported behind a ^ at the "
                   "beginning only (at 1)"},
        {"(?<!a)b", "the schema's 'pattern': lookbehinds are not supported (at 0)"},
        {"(?i:a)", "the schema's 'pattern': a group (? is of no known kind (at 0)"},
        {"^(?!a)b|c", "the schema's 'pattern': alternatives behind a lookahead are not "
                      "supported (at 7)"},
        {"(a", "the schema's 'pattern': a group is not closed (at 0)"},
        {"a)", "the schema's 'pattern': a group is not opened (at 1)"},
        {"[a", "the schema's 'pattern': a class is not closed (at 0)"},
        {"[b-a]", "the schema's 'pattern': a range of a class is out of order (at 2)"},
        {"*a", "the schema's 'pattern': there is nothing to repeat (at 0)"},
        {"a{2,1}", "the schema's 'pattern': a quantifier's numbers are out of order (at 1)"},
        {"\\ud83d", "the schema's 'pattern': an escape \\u is no character (at 2)"},
        {"(a{1000}){1000}", "the schema's 'pattern': it is too large (at 2)"},
        {"(a|b)*a(a|b){20}$", "the schema's 'pattern' is too large"},
        {"^a[]$", "the schema's 'pattern' and lengths leave no string"},
    };
    char schema[300];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_null(compile(pattern_schema(schema, sizeof(schema), cases[i][0], "")));
        assert_string_equal(err, cases[i][1]);
    }
    assert_null(compile(pattern_schema(schema, sizeof(schema), "^a{3}$", ",\"maxLength\":2")));
    assert_string_equal(err, "the schema's 'pattern' and lengths leave no string");
    assert_null(compile(pattern_schema(schema, sizeof(schema), "^a{3}$", ",\"minLength\":4")));
    assert_string_equal(err, "the schema's 'pattern' and lengths leave no string");
}

/* A class is put in order once for each time that it is repeated. */
static void large_classes_are_work(void **state)
{
    char pattern[2048] = "[", schema[4096];

    (void)state;
    for (int i = 0; i < 500; i++) {
        strcat(pattern, "\\s");
    }
    strcat(pattern, "]{6000}");
    assert_null(compile(pattern_schema(schema, sizeof(schema), pattern, "")));
    assert_string_equal(err, "the schema's 'pattern': it is too large (at 1002)");
}

static void strings_have_their_format(void **state)
{
    static const struct {
        const char *format, *text;
        bool meets;
    } cases[] = {
        {"date-time", "2026-11-22T12:30:00Z", true},
        {"date-time", "2024-02-29T23:59:59.123456+05:30", true},
        {"date-time", "2026-11-22 12:30:00Z", false},
        {"date-time", "2026-11-22T12:30:00", false},
        {"date-time", "2026-11-22T24:00:00Z", false},
        {"date-time", "2026-11-22T12:30:00+24:00", false},
        {"date", "2026-12-31", true},
        {"date", "2026-13-01", false},
        {"date", "2026-00-01", false},
        {"date", "2026-04-31", false},
        {"date", "2026-02-29", false},
        {"date", "2000-02-29", true},
        {"date", "1900-02-29", false},
        {"date", "0000-01-01", false},
        {"date", "2026-1-1", false},
        {"time", "12:30:00.5-08:00", true},
        {"time", "12:30", false},
        {"time", "12:60:00Z", false},
        {"duration", "P3Y6M4DT12H30M5S", true},
        {"duration", "PT1H", true},
        {"duration", "P4W", true},
        {"duration", "P", false},
        {"duration", "P1DT", false},
        {"duration", "P1Y2D", false},
        {"email", "jo.e+x@mail.example.com", true},
        {"email", "joe@localhost", false},
        {"email", ".joe@example.com", false},
        {"email", "j..e@example.com", false},
        {"email", "joe@-example.com", false},
        {"email", "joe", false},
        {"hostname", "a-1.example.com", true},
        {"hostname", "localhost", true},
        {"hostname", "a-.example.com", false},
        {"hostname", "a..b", false},
        {"ipv4", "192.168.0.255", true},
        {"ipv4", "192.168.0.256", false},
        {"ipv4", "192.168.00.1", false},
        {"ipv4", "1.2.3", false},
        {"ipv6", "::", true},
        {"ipv6", "::1", true},
        {"ipv6", "2001:db8::8a2e:370:7334", true},
        {"ipv6", "1:2:3:4:5:6:7:8", true},
        {"ipv6", "1:2:3:4:5:6:7::", true},
        {"ipv6", "1::2::3", false},
        {"ipv6", "1:2:3:4:5:6:7:8:9", false},
        {"ipv6", "12345::", false},
        {"uuid", "123e4567-E89b-12d3-a456-426614174000", true},
        {"uuid", "123e4567e89b12d3a456426614174000", false},
    };
    char schema[100], text[100];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        snprintf(schema, sizeof(schema), "{\"type\":\"string\",\"format\":\"%s\"}",
                 cases[i].format);
        snprintf(text, sizeof(text), "\"%s\"", cases[i].text);
        if (matches(schema, text) != cases[i].meets) {
            fail_msg("%s: %s", cases[i].format, text);
        }
    }
}

/* As zod has an address: all of it holds. */
static void a_format_beside_a_pattern(void **state)
{
    static const char schema[] =
        "{\"type\":\"string\",\"format\":\"email\",\"maxLength\":12,\"pattern\":"
        "\"^(?!\\\\.)(?!.*\\\\.\\\\.)([a-z.]*)@([a-z]+\\\\.)+[a-z]{2,}$\"}";

    (void)state;
    assert_true(matches(schema, "\"a.b@c.de\""));
    assert_false(matches(schema, "\"a.b@c-d.de\"")); /* the pattern */
    assert_false(matches(schema, "\"@c.de\""));      /* the format */
    assert_false(matches(schema, "\"abcdefgh@c.de\""));
    assert_true(matches("{\"type\":\"integer\",\"format\":\"int32\"}", "1"));
}

static void an_unknown_format(void **state)
{
    static const char schema[] = "{\"type\":\"string\",\"format\":\"colour\"}";
    grammar *g = schema_compile(schema, sizeof(schema) - 1, false, err, sizeof(err));
    matcher *m;

    (void)state;
    assert_non_null(g);
    m = matcher_new(g);
    assert_true(is_of(m, "\"\\u0072ed\""));
    matcher_free(m);
    assert_null(compile(schema));
    assert_string_equal(err, "the schema's format 'colour' is not supported");
    assert_null(compile("{\"type\":\"string\",\"format\":7}"));
    assert_string_equal(err, "the schema's 'format' is no string");
}

/* A pattern of a, b and c; both POSIX and we know all that is in it. */
static char *random_pattern(char *p, int depth)
{
    static const char *const atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "[b-c]"};
    static const char *const counts[] = {"*", "+", "?", "{2}", "{0,2}", "{1,}"};

    for (uint32_t terms = 1 + draw(3); terms > 0; terms--) {
        uint32_t which = draw(12);

        if (which >= 7 && depth > 0) {
            *p++ = '(';
            p = random_pattern(p, depth - 1);
            if (draw(2)) {
                *p++ = '|';
                p = random_pattern(p, depth - 1);
            }
            *p++ = ')';
        } else {
            which %= 7;
            p += sprintf(p, "%s", atoms[which]);
        }
        if (draw(3) == 0) {
            p += sprintf(p, "%s", counts[draw(6)]);
        }
    }
    *p = '\0';
    return p;
}

static void patterns_as_posix_has_them(void **state)
{
    enum { PATTERNS = 300, LONGEST = 5 };
    char pattern[400], schema[1000], text[LONGEST + 3];

    (void)state;
    for (int i = 0; i < PATTERNS; i++) {
        regex_t posix;
        grammar *g;
        matcher *m;

        pattern[0] = '^';
        char *end = random_pattern(pattern + draw(2), 2);
        snprintf(end, 2, "%s", draw(2) ? "$" : "");
        assert_int_equal(regcomp(&posix, pattern, REG_EXTENDED | REG_NOSUB), 0);
        g = compile(pattern_schema(schema, sizeof(schema), pattern, ""));
        if (g == NULL) {
            assert_string_equal(err, "the schema's 'pattern' and lengths leave no string");
        }
        m = g != NULL ? matcher_new(g) : NULL;
        for (int n = 0; n < 364; n++) { /* all texts of up to five letters */
            int len = 0;

            for (int k = n; k > 0; k = (k - 1) / 3) {
                text[1 + len++] = (char)('a' + (k - 1) % 3);
            }
            text[1 + len] = '\0';
            bool want = regexec(&posix, text + 1, 0, NULL, 0) == 0;
            text[0] = text[1 + len] = '"';
            text[2 + len] = '\0';
            if ((m != NULL && is_of(m, text)) != want) {
                fail_msg("%s: %s", pattern, text);
            }
        }
        if (m != NULL) {
            matcher_free(m);
        }
        regfree(&posix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_keep_their_bounds),
        cmocka_unit_test(bounds_of_any_size),
        cmocka_unit_test(strings_have_their_lengths),
        cmocka_unit_test(long_strings),
        cmocka_unit_test(strings_match_their_pattern),
        cmocka_unit_test(patterns_beyond_us),
        cmocka_unit_test(patterns_as_posix_has_them),
        cmocka_unit_test(large_classes_are_work),
        cmocka_unit_test(strings_have_their_format),
        cmocka_unit_test(a_format_beside_a_pattern),
        cmocka_unit_test(an_unknown_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
