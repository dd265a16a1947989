/*
 * Which devices there are, who gets which, and what a library may be that is none. The back end
 * is the one for tests, which lies beside this program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infer/devices.h"

/* What was told, as "event name" lines: + found, ! lacking, x failed, > taken, < left. */
static char told[1024], why_not[1024];

static const devices_user user = {.model = "one", .replica = 1};

static void on_event(void *arg, devices_event event, const char *name, const char *why,
                     const devices_user *whose)
{
    size_t n = strlen(told);

    (void)arg;
    assert_true(whose == NULL || whose == &user);
    snprintf(told + n, sizeof(told) - n, "%c%s ", "!+><x"[event], name);
    if (event == DEVICES_LACKING) {
        snprintf(why_not, sizeof(why_not), "%s", why);
    }
}

static devices *open_list(const char *list, const char *folder, const char *fake)
{
    told[0] = why_not[0] = '\0';
    setenv("AIQ_FAKE", fake, 1);
    assert_true(devices_valid(list));
    return devices_open(list, folder, on_event, NULL);
}

static void check_found(const char *list, const char *fake, const char *events)
{
    devices_close(open_list(list, NULL, fake));
    assert_string_equal(told, events);
}

static void lists(void **state)
{
    static const char *const wrong[] = {
        "",     ",",    "cuda,",  "cuda:", "cuda:x", "cuda:16",          "cuda:1x",
        "CUDA", "../x", "auto:1", "cpu:1", "a b",    "abcdefghijklmnop", "cuda:999999999999"};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        if (devices_valid(wrong[i])) {
            fail_msg("\"%s\" is taken for a list", wrong[i]);
        }
    }
    assert_true(devices_valid("cuda:15,cpu:0,cpu,auto,a1"));
}

static void the_cpu_is_last_and_always_there(void **state)
{
    (void)state;
    check_found("cpu", "", "+cpu ");
    check_found("cpu,fake", "", "+fake:0 +cpu ");
    check_found("fake", "devices=3", "+fake:0 +fake:1 +fake:2 +cpu ");
    check_found("fake:2,fake:0,fake", "devices=3", "+fake:2 +fake:0 +fake:1 +cpu ");
    check_found("fake:3", "devices=3", "!fake +cpu ");
    check_found("fake", "score=0", "!fake +cpu ");
    check_found(
        "fake,fake", "devices=99",
        "+fake:0 +fake:1 +fake:2 +fake:3 +fake:4 +fake:5 +fake:6 +fake:7 +fake:8 +fake:9 "
        "+fake:10 +fake:11 +fake:12 +fake:13 +fake:14 !fake +cpu ");
}

static void auto_is_the_highest_score(void **state)
{
    (void)state;
    check_found("auto", "devices=2", "+fake:0 +fake:1 +cpu ");
    check_found("auto", "score=0", "+cpu ");
    devices_close(open_list("auto", "/nowhere", ""));
    assert_string_equal(told, "+cpu ");
}

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void check_lacking(const char *list, const char *folder, const char *fake,
                          const char *says)
{
    devices_close(open_list(list, folder, fake));
    if (strchr(told, '!') == NULL || strstr(told, "+cpu ") == NULL ||
        strstr(why_not, says) == NULL) {
        fail_msg("%s: %s: %s", list, told, why_not);
    }
}

static void what_is_no_back_end_is_done_without(void **state)
{
    char folder[] = "/tmp/aiq-test-XXXXXX", path[64];

    (void)state;
    assert_non_null(mkdtemp(folder));
    write_file(folder, "libaiq_text.so", "this is no library\n");
    snprintf(path, sizeof(path), "%s/libaiq_other.so", folder);
    assert_int_equal(symlink("/lib/x86_64-linux-gnu/libm.so.6", path), 0);

    check_lacking("gone", folder, "", "there is no libaiq_gone.so");
    check_lacking("text", folder, "", "libaiq_text.so");
    check_lacking("other", folder, "", "is no back end");
    check_lacking("fake", NULL, "abi=3", "is of version 3, not");

    devices_close(open_list("auto", folder, ""));
    assert_string_equal(told, "+cpu ");
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof(path), "%s/libaiq_text.so", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static const char *take(devices *d, uint64_t bytes, uint32_t *tried)
{
    const device *dev = devices_take(d, &user, bytes, true, tried);

    return dev != NULL ? dev->name : "none";
}

static void the_fewest_models_then_the_next(void **state)
{
    devices *d = open_list("fake", NULL, "devices=2 memory=1250");
    uint32_t one = 0, two = 0, three = 0, large = 0;

    (void)state;
    assert_string_equal(take(d, 1000, &one), "fake:0");
    assert_string_equal(take(d, 1000, &two), "fake:1");
    devices_give(d, devices_at(d, 0), &user);
    assert_string_equal(take(d, 1000, &three), "fake:0");
    assert_string_equal(take(d, 1001, &large), "cpu");
    assert_string_equal(take(d, 1001, &large), "none");

    assert_string_equal(take(d, 0, &one), "fake:1");
    assert_string_equal(take(d, 0, &one), "cpu");
    assert_string_equal(take(d, 0, &one), "none");

    one = 0;
    assert_non_null(devices_take(d, &user, 0, false, &one));
    assert_non_null(devices_take(d, &user, 0, false, &one));
    assert_null(devices_take(d, &user, 0, false, &one));
    assert_string_equal(take(d, 0, &one), "cpu");
    devices_close(d);
}

static void without_a_list_the_cpu(void **state)
{
    uint32_t tried = 0;

    (void)state;
    assert_null(devices_take(NULL, &user, 1, false, &tried));
    assert_string_equal(take(NULL, 1, &tried), "cpu");
    assert_string_equal(take(NULL, 1, &tried), "none");
}

/* Three looks are those of devices_open: at both, and at the place behind them. */
static void a_device_that_does_not_answer_is_nobodys(void **state)
{
    devices *d;
    uint32_t tried = 0;

    (void)state;
    check_found("fake", "limit=500 hangprobe=1", "!fake +cpu ");
    assert_string_equal(why_not, "it does not answer");
    d = open_list("fake", NULL, "devices=2 limit=500 hangprobe=4");
    assert_false(devices_hang(d));
    told[0] = '\0';
    for (int i = 0; i < 3; i++) {
        tried = 0;
        devices_give(d, devices_take(d, &user, 0, true, &tried), &user);
    }
    assert_string_equal(told, "xfake:0 >fake:1 <fake:1 >fake:1 <fake:1 >fake:1 <fake:1 ");
    assert_true(devices_is_lost(d, devices_at(d, 0)));
    assert_false(devices_is_lost(d, devices_at(d, 1)));
    assert_true(devices_hang(d));
    devices_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists),
        cmocka_unit_test(the_cpu_is_last_and_always_there),
        cmocka_unit_test(auto_is_the_highest_score),
        cmocka_unit_test(what_is_no_back_end_is_done_without),
        cmocka_unit_test(the_fewest_models_then_the_next),
        cmocka_unit_test(without_a_list_the_cpu),
        cmocka_unit_test(a_device_that_does_not_answer_is_nobodys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
