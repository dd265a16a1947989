/* What keys have used of their token limits goes from engine to engine. */

#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/loop.h"
#include "services/gateway/token_save.h"

#define HOUR 3600000

static const uint8_t ann[AIQ_LIMIT_KEY] = {0xab, 1}, bob[AIQ_LIMIT_KEY] = {2};
static const policy_limit rule = {.zone = "z", .tokens = 1000, .window_ms = HOUR, .keys = 10};

static char folder[] = "/tmp/aiq-tokens-XXXXXX", name[64];

/* An engine with what it needs here. */
typedef struct {
    aiq_engine engine;
    token_limits *limits;
    token_save *save;
} node;

static void begin(node *n, uint64_t id)
{
    *n = (node){.engine = {.options = {.socket = name}, .id = id, .metrics = metrics_new()}};
    n->limits = token_limits_new(n->engine.metrics);
    n->save = token_save_start(&n->engine, n->limits);
}

static void end(node *n)
{
    token_save_stop(n->save);
    token_limits_free(n->limits);
    metrics_free(n->engine.metrics);
}

static uint64_t now(void)
{
    return loop_now_ns() / 1000000;
}

/* A request that holds and uses so many; what is left, or -1: refused. */
static int64_t use(node *n, const uint8_t *key, int64_t held, int64_t used)
{
    token_hold h;
    aiq_err err;

    if (!token_limits_hold(n->limits, &h, &rule, 1, key, held, now(), &err)) {
        return -1;
    }
    token_limits_settle(&h, used, now());
    return h.state.remaining;
}

static unsigned files(void)
{
    char command[128];
    unsigned n = 0;

    snprintf(command, sizeof(command), "ls %s.tokens | wc -l", name);
    FILE *p = popen(command, "r");
    assert_int_equal(fscanf(p, "%u", &n), 1);
    pclose(p);
    return n;
}

/* Until the thread of the node has done it. */
static bool comes(node *n, const uint8_t *key, int64_t left)
{
    for (int i = 0; i < 2000; i++) {
        if (use(n, key, 0, 0) == left) {
            return true;
        }
        usleep(10000);
    }
    return false;
}

static int make_folder(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(name, sizeof(name), "%s/s", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char command[64];
    (void)state;

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void from_one_that_ends_to_the_next(void **state)
{
    node n;
    (void)state;

    begin(&n, 1);
    assert_int_equal(use(&n, ann, 500, 300), 700);
    assert_int_equal(use(&n, bob, 10, 10), 990);
    end(&n);
    assert_int_equal(files(), 1);
    begin(&n, 2);
    assert_int_equal(use(&n, ann, 50, 50), 650);
    assert_int_equal(use(&n, bob, 0, 0), 990);
    assert_int_equal(use(&n, ann, 651, 0), -1);
    end(&n);
    begin(&n, 3);
    assert_int_equal(use(&n, ann, 0, 0), 650);
    end(&n);
}

/* It hands over what it has, and what it settles later follows at its end. */
static void from_one_that_leaves_to_one_that_runs(void **state)
{
    node old, new;
    token_hold h;
    aiq_err err;
    (void)state;

    begin(&old, 4);
    assert_int_equal(use(&old, ann, 0, 0), 650);
    assert_true(token_limits_hold(old.limits, &h, &rule, 1, ann, 400, now(), &err));
    begin(&new, 5);
    assert_int_equal(use(&new, ann, 0, 0), 1000);
    __atomic_store_n(&old.engine.leaving, true, __ATOMIC_RELAXED);
    assert_true(comes(&new, ann, 250)); /* what is held counts */
    assert_int_equal(use(&new, ann, 50, 50), 200);
    token_limits_settle(&h, 100, now());
    end(&old);
    assert_true(comes(&new, ann, 500));
    end(&new);
}

static void from_one_that_was_killed(void **state)
{
    node n;
    int ready[2];
    char byte, path[128];
    (void)state;

    snprintf(path, sizeof(path), "%s.tokens/%016x", name, 6);
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        begin(&n, 6);
        if (use(&n, ann, 100, 100) != 400 || write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    begin(&n, 7); /* while the other one lives what is its own is not taken */
    assert_int_equal(use(&n, ann, 0, 0), 1000);
    while (access(path, F_OK) != 0) { /* it saves each second */
        usleep(10000);
    }
    assert_int_equal(use(&n, ann, 0, 0), 1000);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(comes(&n, ann, 400));
    end(&n);
    close(ready[0]);
    close(ready[1]);
}

static void put(const char *file, const char *text)
{
    char path[128];

    snprintf(path, sizeof(path), "%s.tokens/%s", name, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void what_is_no_count_is_passed_over(void **state)
{
    const long long wall = (long long)time(NULL) * 1000;
    char text[2048];
    node n;
    (void)state;

    snprintf(text, sizeof(text),
             "\n"
             "z\n"
             "z 0b000000000000000000000000000000 3600000\n"
             "z 0b0000000000000000000000000000 3600000 %lld:100\n"
             "z 0B000000000000000000000000000000 3600000 %lld:100\n"
             "z 0b000000000000000000000000000000 999 %lld:100\n"
             "z 0b000000000000000000000000000000 3600000 %lld\n"
             "z 0b000000000000000000000000000000 3600000 %lld:1x :5 %lld: -:- 1:100 "
             "99999999999999999999:100 %lld:7 %lld:-3\n"
             "z 0b000000000000000000000000000000 3600000 %lld:100",
             wall, wall, wall, wall, wall, wall, wall, wall, wall);
    put("00000000000000aa-0.left", text);
    put("00000000000000ab", text);
    put("garbage", text);
    begin(&n, 8);
    const uint8_t key[AIQ_LIMIT_KEY] = {0x0b};
    assert_int_equal(use(&n, key, 0, 0), 996);
    end(&n);
}

static void without_a_folder_nothing_is_saved(void **state)
{
    node n;
    (void)state;

    snprintf(name, sizeof(name), "%s/none/s", folder);
    begin(&n, 9);
    assert_int_equal(use(&n, ann, 1, 1), 999);
    end(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_one_that_ends_to_the_next),
        cmocka_unit_test(from_one_that_leaves_to_one_that_runs),
        cmocka_unit_test(from_one_that_was_killed),
        cmocka_unit_test(what_is_no_count_is_passed_over),
        cmocka_unit_test(without_a_folder_nothing_is_saved),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
