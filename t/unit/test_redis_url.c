/* Which URLs of Redis are understood, and how. */

#include "unit.h"
#include "redis/redis_url.h"

static const struct {
    const char *text, *host, *port, *user, *password;
    unsigned database;
} good[] = {
    {"redis://localhost", "localhost", "6379", "", "", 0},
    {"redis://localhost/", "localhost", "6379", "", "", 0},
    {"redis://10.0.0.1:7000/3", "10.0.0.1", "7000", "", "", 3},
    {"redis://[::1]", "::1", "6379", "", "", 0},
    {"redis://[fe80::1]:7000/12", "fe80::1", "7000", "", "", 12},
    {"redis://:secret@cache", "cache", "6379", "", "secret", 0},
    {"redis://aiq:secret@cache:1/0", "cache", "1", "aiq", "secret", 0},
    {"redis://a%40b:p%3a%2F%40@cache", "cache", "6379", "a@b", "p:/@", 0},
    {"redis://aiq:p@ss@cache", "cache", "6379", "aiq", "p@ss", 0},
};

static const char *const bad[] = {
    "",
    "redis:",
    "redis://",
    "localhost:6379",
    "http://localhost",
    "rediss://localhost",
    "redis://:6379",
    "redis://localhost:",
    "redis://localhost:0",
    "redis://localhost:65536",
    "redis://localhost:6379x",
    "redis://localhost:000000006379",
    "redis://localhost/x",
    "redis://localhost/1/2",
    "redis://localhost/99999999999999999999",
    "redis://[::1",
    "redis://[::1]7000",
    "redis://user@localhost",
    "redis://:%4@localhost",
    "redis://:%zz@localhost",
    "redis://:%00@localhost",
};

static void good_ones(void **state)
{
    redis_url url;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!redis_url_parse(&url, good[i].text, &err)) {
            fail_msg("%s: %s", good[i].text, err.message);
        }
        assert_string_equal(url.host, good[i].host);
        assert_string_equal(url.port, good[i].port);
        assert_string_equal(url.user, good[i].user);
        assert_string_equal(url.password, good[i].password);
        assert_int_equal(url.database, good[i].database);
    }
}

static void bad_ones(void **state)
{
    redis_url url;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (redis_url_parse(&url, bad[i], &err)) {
            fail_msg("%s is taken", bad[i]);
        }
    }
}

static void long_ones(void **state)
{
    char text[1024];
    redis_url url;

    (void)state;
    memset(text, 'x', sizeof(text));
    memcpy(text, "redis://", 8);
    text[8 + 255] = '\0';
    assert_true(redis_url_parse(&url, text, NULL));
    text[8 + 255] = 'x';
    text[8 + 256] = '\0';
    assert_false(redis_url_parse(&url, text, NULL));
    memcpy(text + 8 + 256, "@host", 6);
    text[8] = ':';
    assert_true(redis_url_parse(&url, text, NULL));
    text[8 + 256] = 'x';
    memcpy(text + 8 + 257, "@host", 6);
    assert_false(redis_url_parse(&url, text, NULL));
}

static void says_that_tls_is_not_possible(void **state)
{
    redis_url url;
    aiq_err err;

    (void)state;
    assert_false(redis_url_parse(&url, "rediss://:secret@localhost", &err));
    assert_non_null(strstr(err.message, "TLS"));
    assert_null(strstr(err.message, "secret@"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_ones),
        cmocka_unit_test(bad_ones),
        cmocka_unit_test(long_ones),
        cmocka_unit_test(says_that_tls_is_not_possible),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
