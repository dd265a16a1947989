/*
 * What schemas say of numbers and strings, held by the grammar. The property is the same both
 * ways: a text in the spelling that schema.h tells is of the grammar if, and only if, its value
 * meets the schema.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_keep_their_bounds),
        cmocka_unit_test(bounds_of_any_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
