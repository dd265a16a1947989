/*
 * A model whose device fails goes on elsewhere: the answers are those of a model that never had
 * to move, and no text comes twice. The devices are those of the back end for tests, which lies
 * beside this program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>

#include "infer/devices.h"
#include "infer/infer.h"
#include "tiny_model.h"

enum { N = 6, TOKENS = 30 };

typedef struct {
    infer_req *req;
    infer_event_type last;
    int n_last;
    size_t len;
    char text[4096];
    char error[128];
} client;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static char told[1024];

static void on_event(void *arg, const infer_event *ev)
{
    client *c = arg;

    pthread_mutex_lock(&lock);
    if (ev->type == INFER_TEXT) {
        assert_true(c->len + ev->len < sizeof(c->text));
        memcpy(c->text + c->len, ev->text, ev->len);
        c->len += ev->len;
    } else {
        c->n_last++;
        c->last = ev->type;
        snprintf(c->error, sizeof(c->error), "%s", ev->type == INFER_FAILED ? ev->error : "");
    }
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
}

/* "x" and the device's name for each failure */
static void on_device(void *arg, devices_event event, const char *name, const char *why,
                      const devices_user *user)
{
    size_t n = strlen(told);

    (void)arg;
    (void)why;
    (void)user;
    if (event == DEVICES_FAILED) {
        snprintf(told + n, sizeof(told) - n, "x%s ", name);
    }
}

static infer *try_tiny(const infer_options *opt, char *err, size_t errlen)
{
    gw w = {0};
    char *path;
    infer *m;

    tiny_write(&w, (tiny_model){.tensor_type = GGUF_TENSOR_F32, .seed = 3});
    path = gw_file(&w);
    m = infer_open(path, opt, err, errlen);
    unlink(path);
    free(path);
    return m;
}

static infer *open_tiny(devices *d)
{
    char err[256];
    infer *m = try_tiny(&(infer_options){.n_threads = 1, .devices = d}, err, sizeof(err));

    if (m == NULL) {
        fail_msg("%s", err);
    }
    return m;
}

static void submit(infer *m, client *c, uint64_t seed, uint32_t max_tokens)
{
    int32_t ids[20];
    char err[256];

    for (int i = 0; i < 20; i++) {
        ids[i] = 65 + (int32_t)(seed * 7 + (uint64_t)i * 11) % 26;
    }
    infer_params p = {.ids = ids,
                      .n_ids = 1 + seed * 3,
                      .max_tokens = max_tokens,
                      .temperature = 1,
                      .seed = seed,
                      .has_seed = true};
    assert_int_equal(infer_submit(m, &p, on_event, c, &c->req, err, sizeof(err)), INFER_OK);
}

static void wait_last(client *c)
{
    pthread_mutex_lock(&lock);
    while (c->n_last == 0) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
    infer_release(c->req);
    assert_int_equal(c->n_last, 1);
}

static void ask_all(infer *m, client c[N])
{
    memset(c, 0, N * sizeof(*c));
    for (uint64_t i = 0; i < N; i++) {
        submit(m, &c[i], i, TOKENS);
    }
    for (int i = 0; i < N; i++) {
        wait_last(&c[i]);
    }
}

/* Answers on these devices are the CPU's; failures were as told. */
static void check_answers(const char *list, const char *fake, const char *failures)
{
    static client want[N], got[N];
    devices *d;
    infer *m = open_tiny(NULL);

    ask_all(m, want);
    infer_close(m);
    setenv("AIQ_FAKE", fake, 1);
    told[0] = '\0';
    d = devices_open(list, NULL, on_device, NULL);
    m = open_tiny(d);
    ask_all(m, got);
    infer_close(m);
    devices_close(d);
    assert_string_equal(told, failures);
    for (int i = 0; i < N; i++) {
        assert_int_equal(got[i].last, INFER_DONE);
        assert_true(want[i].len > 0);
        assert_string_equal(got[i].text, want[i].text);
    }
}

static void another_device_says_the_same(void **state)
{
    (void)state;
    check_answers("fake", "", "");
}

static void a_lost_device_leaves_its_answers_to_the_next(void **state)
{
    (void)state;
    check_answers("fake", "lost=1", "xfake:0 ");
    check_answers("fake", "lost=9", "xfake:0 ");
    check_answers("fake", "devices=2 lost=9", "xfake:0 ");
}

static void memory_that_ends_does_so_too(void **state)
{
    (void)state;
    check_answers("fake", "oom=12", "xfake:0 ");
    check_answers("fake", "load=1", "xfake:0 ");
    check_answers("fake", "devices=3 load=1 oom=8", "xfake:0 xfake:1 ");
}

static void what_has_no_room_goes_to_the_cpu(void **state)
{
    (void)state;
    check_answers("fake", "memory=1000", "");
    /* 0.4 MB of weights and 1 MB of contexts, of 1 MB and of 2 */
    check_answers("fake", "memory=1250000", "");
    check_answers("fake", "memory=2500000 oom=12", "xfake:0 ");
}

static void a_model_that_moved_is_found_by_the_next_request(void **state)
{
    static client c[N];
    devices *d;
    infer *m;

    (void)state;
    setenv("AIQ_FAKE", "lost=4", 1);
    told[0] = '\0';
    d = devices_open("fake", NULL, on_device, NULL);
    m = open_tiny(d);
    for (int i = 0; i < 3; i++) {
        ask_all(m, c);
        for (int k = 0; k < N; k++) {
            assert_int_equal(c[k].last, INFER_DONE);
        }
    }
    infer_close(m);
    devices_close(d);
    assert_string_equal(told, "xfake:0 ");
}

/* The longest prompt, of 16 tokens, is read in four steps, and the fifth fails. */
static void prompts_are_cut_as_the_device_says(void **state)
{
    static client c[2];
    devices *d;
    infer *m;

    (void)state;
    setenv("AIQ_FAKE", "batch=4 lost=5", 1);
    for (int i = 0; i < 2; i++) {
        told[0] = '\0';
        d = devices_open("fake", NULL, on_device, NULL);
        m = open_tiny(d);
        c[i] = (client){0};
        submit(m, &c[i], 5, 1 + (uint32_t)i);
        wait_last(&c[i]);
        infer_close(m);
        devices_close(d);
        assert_string_equal(told, i == 0 ? "" : "xfake:0 ");
        setenv("AIQ_FAKE", "lost=5 batch=4", 1); /* counts anew */
    }
}

/* Cancelling and closing while a model moves leaves nothing behind. */
static void cancelled_and_closed_while_it_moves(void **state)
{
    static client c[N];
    devices *d;
    infer *m;

    (void)state;
    for (int lost = 1; lost < 8; lost++) {
        char setting[64];

        snprintf(setting, sizeof(setting), "slow=1 lost=%d", lost);
        setenv("AIQ_FAKE", setting, 1);
        d = devices_open("fake", NULL, on_device, NULL);
        m = open_tiny(d);
        memset(c, 0, sizeof(c));
        for (uint64_t i = 0; i < N; i++) {
            submit(m, &c[i], i, TOKENS);
            if (i % 2 == 0) {
                infer_cancel(c[i].req);
            }
        }
        wait_last(&c[0]);
        infer_close(m);
        devices_close(d);
        for (int i = 1; i < N; i++) {
            wait_last(&c[i]);
        }
    }
}

/* --- devices that hang --- */

static int count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int n = 0;

    while ((entry = readdir(dir)) != NULL) {
        n += entry->d_name[0] != '.';
    }
    closedir(dir);
    return n;
}

/* Until then a device that hangs does, and then its thread is awaited: so many are left, two of
 * each model. */
static void let_it_return(const char *until, int threads)
{
    int fd = open(until, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
    while (count_threads() > threads) {
        usleep(1000);
    }
    unlink(until);
}

static void name_until(char until[64])
{
    snprintf(until, 64, "/tmp/aiq-until-%d", (int)getpid());
    setenv("AIQ_FAKE_UNTIL", until, 1);
}

static void a_device_that_hangs_leaves_its_answers_to_the_next(void **state)
{
    char until[64];

    (void)state;
    name_until(until);
    check_answers("fake", "limit=1000 hang=9", "xfake:0 ");
    let_it_return(until, 1);
    check_answers("fake", "devices=2 limit=1000 hang=1", "xfake:0 ");
    let_it_return(until, 1);
}

static void one_that_hangs_with_a_model_too(void **state)
{
    char until[64];

    (void)state;
    name_until(until);
    check_answers("fake", "devices=2 limit=1000 hangload=1", "xfake:0 ");
    let_it_return(until, 1);
    check_answers("fake", "devices=2 limit=1000 lost=4 hangfree=1", "xfake:0 xfake:0 ");
    let_it_return(until, 1);
    check_answers("fake", "limit=1000 hangfree=1", "xfake:0 ");
    let_it_return(until, 1);
}

/* Its thread comes back while the model still runs; the device is not taken again. */
static void one_that_returns_late_changes_nothing(void **state)
{
    static client c[N];
    char until[64];
    devices *d;
    infer *m;

    (void)state;
    name_until(until);
    setenv("AIQ_FAKE", "limit=1000 hang=9", 1);
    told[0] = '\0';
    d = devices_open("fake", NULL, on_device, NULL);
    m = open_tiny(d);
    ask_all(m, c);
    let_it_return(until, 3);
    ask_all(m, c);
    infer_close(m);
    m = open_tiny(d);
    ask_all(m, c);
    infer_close(m);
    devices_close(d);
    for (int i = 0; i < N; i++) {
        assert_int_equal(c[i].last, INFER_DONE);
    }
    assert_string_equal(told, "xfake:0 ");
}

/* A model leaves a device that another one has found silent, at its next step. */
static void all_models_leave_it(void **state)
{
    static client c[N];
    char until[64];
    devices *d;
    infer *m[2];

    (void)state;
    name_until(until);
    setenv("AIQ_FAKE", "limit=1000 hang=4", 1);
    told[0] = '\0';
    d = devices_open("fake", NULL, on_device, NULL);
    m[0] = open_tiny(d);
    m[1] = open_tiny(d);
    ask_all(m[0], c);
    assert_string_equal(told, "xfake:0 ");
    ask_all(m[1], c);
    assert_string_equal(told, "xfake:0 xfake:0 ");
    let_it_return(until, 5);
    infer_close(m[0]);
    infer_close(m[1]);
    devices_close(d);
}

/* Whoever closes a model does not wait for the limit. */
static void closed_while_it_hangs(void **state)
{
    static client c[N];
    char until[64], hangs[80];
    devices *d;
    infer *m;

    (void)state;
    name_until(until);
    snprintf(hangs, sizeof(hangs), "%s-hangs", until);
    setenv("AIQ_FAKE_HANGS", hangs, 1);
    setenv("AIQ_FAKE", "hang=3", 1);
    told[0] = '\0';
    d = devices_open("fake", NULL, on_device, NULL);
    m = open_tiny(d);
    memset(c, 0, sizeof(c));
    submit(m, &c[0], 1, TOKENS);
    submit(m, &c[1], 2, TOKENS);
    while (access(hangs, F_OK) != 0) {
        usleep(1000);
    }
    unlink(hangs);
    infer_close(m);
    devices_close(d);
    for (int i = 0; i < 2; i++) {
        wait_last(&c[i]);
        assert_int_equal(c[i].last, INFER_FAILED);
        assert_string_equal(c[i].error, "cancelled");
    }
    let_it_return(until, 1);
}

static const char *ended_by; /* a file */

static bool until_it_hangs(void *arg, unsigned percent)
{
    (void)arg;
    (void)percent;
    return access(ended_by, F_OK) != 0;
}

/* Nor does whoever ends its loading, which goes on nowhere else then, the CPU included. */
static void ended_while_its_loading_hangs(void **state)
{
    char until[64], hangs[80], err[160];
    infer_options opt = {.n_threads = 1, .progress = until_it_hangs};

    (void)state;
    name_until(until);
    snprintf(hangs, sizeof(hangs), "%s-hangs", until);
    ended_by = hangs;
    setenv("AIQ_FAKE_HANGS", hangs, 1);
    setenv("AIQ_FAKE", "devices=2 hangload=1", 1);
    told[0] = '\0';
    opt.devices = devices_open("fake", NULL, on_device, NULL);
    assert_null(try_tiny(&opt, err, sizeof(err)));
    assert_string_equal(err, "loading was ended");
    assert_string_equal(told, "xfake:0 ");
    unlink(hangs);
    devices_close(opt.devices);
    let_it_return(until, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_device_says_the_same),
        cmocka_unit_test(a_lost_device_leaves_its_answers_to_the_next),
        cmocka_unit_test(memory_that_ends_does_so_too),
        cmocka_unit_test(what_has_no_room_goes_to_the_cpu),
        cmocka_unit_test(a_model_that_moved_is_found_by_the_next_request),
        cmocka_unit_test(prompts_are_cut_as_the_device_says),
        cmocka_unit_test(cancelled_and_closed_while_it_moves),
        cmocka_unit_test(a_device_that_hangs_leaves_its_answers_to_the_next),
        cmocka_unit_test(one_that_hangs_with_a_model_too),
        cmocka_unit_test(one_that_returns_late_changes_nothing),
        cmocka_unit_test(all_models_leave_it),
        cmocka_unit_test(closed_while_it_hangs),
        cmocka_unit_test(ended_while_its_loading_hangs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
