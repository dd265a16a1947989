/* Log lines are JSON whatever is put into them. */

#include "unit.h"
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>
#include "core/json.h"
#include "core/log.h"

static char line[20000];

/* Runs one call with stderr going to a file and keeps what was written. */
#define CAPTURE(call)                                                                          \
    do {                                                                                       \
        FILE *file = tmpfile();                                                                \
        int saved = dup(STDERR_FILENO);                                                        \
        dup2(fileno(file), STDERR_FILENO);                                                     \
        call;                                                                                  \
        dup2(saved, STDERR_FILENO);                                                            \
        close(saved);                                                                          \
        rewind(file);                                                                          \
        line[fread(line, 1, sizeof(line) - 1, file)] = '\0';                                   \
        fclose(file);                                                                          \
    } while (0)

static json_value member(const char *name)
{
    json_value value;
    const json_want want = {name, &value};
    json_error error;

    assert_true(json_scan(line, strlen(line), &want, 1, &error));
    return value;
}

static void test_fields(void **state)
{
    (void)state;
    aiq_log_init(AIQ_LOG_INFO);
    CAPTURE(aiq_log(AIQ_LOG_WARN, "link", "say \"hi\"\n", AIQ_S("text", "a\tb"),
                    AIQ_S("absent", NULL), AIQ_I("n", -5), AIQ_R("x", 0.25),
                    AIQ_R("nan", NAN)));
    assert_int_equal(line[strlen(line) - 1], '\n');
    json_value level = member("level"), service = member("service"), text = member("text"),
               message = member("message"), n = member("n"), x = member("x"),
               nan = member("nan"), absent = member("absent"), time = member("timestamp");
    int64_t number;
    assert_true(json_string_is(&level, "warn"));
    assert_true(json_string_is(&service, "link"));
    assert_true(json_string_is(&message, "say \"hi\"\n"));
    assert_true(json_string_is(&text, "a\tb"));
    assert_true(json_int(&n, &number) && number == -5);
    assert_true(json_real(&x) == 0.25);
    assert_int_equal(nan.type, JSON_NULL);
    assert_int_equal(absent.type, JSON_NONE);
    assert_int_equal(time.text.len, strlen("\"2026-01-02T03:04:05.678901Z\""));
}

static void test_level(void **state)
{
    aiq_log_level level;

    (void)state;
    aiq_log_init(AIQ_LOG_WARN);
    CAPTURE(aiq_log(AIQ_LOG_INFO, "core", "quiet"));
    assert_string_equal(line, "");
    CAPTURE(aiq_log(AIQ_LOG_ERROR, "core", "loud"));
    assert_non_null(strstr(line, "loud"));
    assert_true(aiq_log_parse_level("debug", &level) && level == AIQ_LOG_DEBUG);
    assert_false(aiq_log_parse_level("loud", &level));
}

static void test_long_and_broken_text(void **state)
{
    char text[9000];

    (void)state;
    aiq_log_init(AIQ_LOG_INFO);
    for (size_t i = 0; i + 3 < sizeof(text); i += 3) {
        memcpy(text + i, "\xe2\x82\xac", 4);
    }
    CAPTURE(aiq_log(AIQ_LOG_INFO, "core", text, AIQ_S("bad", "\xff\xfe")));
    json_value message = member("message"), bad = member("bad");
    assert_int_equal(message.text.len, 2046 + 2);
    assert_true(json_string_is(&bad, "\xef\xbf\xbd\xef\xbf\xbd"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_long_and_broken_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
