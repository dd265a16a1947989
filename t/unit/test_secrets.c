/* Provider keys: where they come from, and what cannot be reached. */

#include "unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "providers/secrets.h"

static char folder[64];

static void write_key(const char *name, const char *text, size_t n)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

/* The key, or why there is none. */
static const char *get(const char *name, const char *below)
{
    static char out[SECRET_MAX + 1];
    secrets *s = secrets_new(below);
    aiq_err err = {0};
    aiq_str key;

    if (secrets_get(s, name, &key, &err)) {
        snprintf(out, sizeof(out), "%.*s", (int)key.len, key.data);
    } else {
        assert_int_equal(err.status, 503);
        assert_string_equal(err.code, "provider_key_missing");
        assert_null(strstr(err.message, folder));
        snprintf(out, sizeof(out), "%s", err.detail);
    }
    secrets_free(s);
    return out;
}

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/aiq-secrets-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
    char command[96];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void from_the_environment(void **state)
{
    (void)state;
    setenv("AIQ_TEST_KEY", "sk-1", 1);
    assert_string_equal(get("env:AIQ_TEST_KEY", NULL), "sk-1");
    setenv("AIQ_TEST_KEY", "", 1);
    assert_non_null(strstr(get("env:AIQ_TEST_KEY", NULL), "empty"));
    setenv("AIQ_TEST_KEY", "a\r\nX-Header: b", 1);
    assert_non_null(strstr(get("env:AIQ_TEST_KEY", NULL), "characters that no key has"));
    unsetenv("AIQ_TEST_KEY");
    assert_non_null(strstr(get("env:AIQ_TEST_KEY", NULL), "not in the engine's environment"));
}

static void from_a_file(void **state)
{
    char longest[SECRET_MAX + 1];

    (void)state;
    write_key("a.key", "sk-2\n", 5);
    assert_string_equal(get("file:a.key", folder), "sk-2");
    write_key("b.key", "sk-3\r\n\n", 7);
    assert_string_equal(get("file:b.key", folder), "sk-3");
    write_key("c.key", "", 0);
    assert_non_null(strstr(get("file:c.key", folder), "empty"));
    write_key("d.key", "a b", 3);
    assert_non_null(strstr(get("file:d.key", folder), "characters that no key has"));
    memset(longest, 'x', sizeof(longest));
    write_key("e.key", longest, SECRET_MAX);
    assert_int_equal(strlen(get("file:e.key", folder)), SECRET_MAX);
    write_key("f.key", longest, SECRET_MAX + 1);
    assert_non_null(strstr(get("file:f.key", folder), "at most 4 KB"));
    assert_non_null(strstr(get("file:none", folder), "No such file"));
    assert_non_null(strstr(get("file:a.key", NULL), "without --secrets"));
    assert_non_null(strstr(get("sk-4", folder), "neither"));
}

static void not_from_outside_the_folder(void **state)
{
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/inside", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    write_key("outside.key", "sk-5", 4);
    write_key("inside/a.key", "sk-6", 4);
    snprintf(path, sizeof(path), "%s/inside/link", folder);
    assert_int_equal(symlink("../outside.key", path), 0);
    snprintf(path, sizeof(path), "%s/inside/near", folder);
    assert_int_equal(symlink("a.key", path), 0);
    snprintf(path, sizeof(path), "%s/inside", folder);

    assert_string_equal(get("file:a.key", path), "sk-6");
    assert_string_equal(get("file:near", path), "sk-6"); /* as mounted secrets are */
    assert_non_null(strstr(get("file:../outside.key", path), "cross-device"));
    assert_non_null(strstr(get("file:link", path), "cross-device"));
    assert_non_null(strstr(get("file:/etc/passwd", path), "cross-device"));
    assert_non_null(strstr(get("file:.", path), "not a file"));
}

static void a_changed_file_is_read_again(void **state)
{
    secrets *s = secrets_new(folder);
    aiq_err err;
    aiq_str key;

    (void)state;
    write_key("g.key", "", 0);
    assert_false(secrets_get(s, "file:g.key", &key, &err));
    /* what is missing is looked for each time */
    write_key("g.key", "sk-7", 4);
    assert_true(secrets_get(s, "file:g.key", &key, &err));
    assert_true(aiq_str_is(key, "sk-7"));
    write_key("g.key", "sk-88", 5);
    for (int i = 0; i < 5000 && aiq_str_is(key, "sk-7"); i++) {
        usleep(1000);
        assert_true(secrets_get(s, "file:g.key", &key, &err));
    }
    assert_true(aiq_str_is(key, "sk-88"));
    secrets_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_the_environment),
        cmocka_unit_test(from_a_file),
        cmocka_unit_test(not_from_outside_the_folder),
        cmocka_unit_test(a_changed_file_is_read_again),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
