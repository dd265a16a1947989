/*
 * One model on several devices: who gets which request, and what becomes of it where a device
 * fails. Answers are those of a model that is on the CPU, and no text comes twice. The devices
 * are those of the back end for tests, which lies beside this program.
 */
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fake_devices.h"
#include "infer/infer.h"
#include "tiny_model.h"

enum { N = 24, TOKENS = 30, PROMPT = 40 };

typedef struct {
    bool holds; /* it pauses itself with its first text */
    infer_req *req;
    int n_events;
    int n_last;
    infer_event_type last;
    pthread_t thread; /* of the last event: the replica's */
    uint32_t cached;
    size_t len;
    char text[4096];
} client;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static char *path;
static client want[N];

static void on_event(void *arg, const infer_event *ev)
{
    client *c = arg;

    pthread_mutex_lock(&lock);
    c->n_events++;
    c->thread = pthread_self();
    if (ev->type == INFER_TEXT) {
        assert_true(c->len + ev->len < sizeof(c->text));
        memcpy(c->text + c->len, ev->text, ev->len);
        c->len += ev->len;
    } else {
        c->n_last++;
        c->last = ev->type;
        c->cached = ev->cached_tokens;
    }
    while (c->req == NULL) {
        pthread_cond_wait(&news, &lock);
    }
    if (c->holds && ev->type == INFER_TEXT) {
        infer_pause(c->req);
    }
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
}

static infer *open_on(devices *d, uint32_t replicas)
{
    const infer_options opt = {
        .n_threads = 1, .kv_bytes = 65536, .devices = d, .replicas = replicas};
    char err[256];
    infer *m = infer_open(path, &opt, err, sizeof(err));

    if (m == NULL) {
        fail_msg("%s", err);
    }
    return m;
}

static void submit(infer *m, client *c, uint64_t seed, const char *scope)
{
    int32_t ids[PROMPT];
    infer_req *req;
    char err[256];

    for (int i = 0; i < PROMPT; i++) {
        ids[i] = 65 + (int32_t)(seed * 7 + (uint64_t)i * 11) % 26;
    }
    infer_params p = {.ids = ids,
                      .n_ids = PROMPT,
                      .max_tokens = TOKENS,
                      .temperature = 1,
                      .seed = seed,
                      .has_seed = true,
                      .scope = {scope, strlen(scope)}};
    assert_int_equal(infer_submit(m, &p, on_event, c, &req, err, sizeof(err)), INFER_OK);
    pthread_mutex_lock(&lock);
    c->req = req;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
}

static void wait_first(client *c)
{
    pthread_mutex_lock(&lock);
    while (c->n_events == 0) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
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

static uint32_t replicas_of(infer *m)
{
    infer_stats stats;

    infer_get_stats(m, &stats);
    return stats.replicas;
}

/* Until no replica takes itself for one that has something to do. */
static void wait_idle(infer *m)
{
    infer_stats stats;

    do {
        sched_yield();
        infer_get_stats(m, &stats);
    } while (stats.running > 0);
}

static void ask_all(infer *m, client c[N])
{
    memset(c, 0, N * sizeof(*c));
    for (uint64_t i = 0; i < N; i++) {
        submit(m, &c[i], i, "");
    }
    for (int i = 0; i < N; i++) {
        wait_last(&c[i]);
    }
}

static int write_model(void **state)
{
    gw w = {0};
    infer *m;

    (void)state;
    tiny_write(&w, (tiny_model){.tensor_type = GGUF_TENSOR_F32, .seed = 3});
    path = gw_file(&w);
    m = open_on(NULL, 2);
    assert_int_equal(replicas_of(m), 1);
    ask_all(m, want);
    infer_close(m);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    unlink(path);
    free(path);
    return 0;
}

/* All answers are right; failures are as told, soon: who gets how much is the system's affair.
 */
static void check(const char *fake, const char *failures, uint32_t left)
{
    static client got[N];
    devices *d = open_devices(fake);
    infer *m = open_on(d, 2);

    for (int i = 0; i < 2 || (i < 1000 && !told(failures)); i++) {
        ask_all(m, got);
        for (int k = 0; k < N; k++) {
            assert_int_equal(got[k].last, INFER_DONE);
            assert_string_equal(got[k].text, want[k].text);
        }
    }
    assert_int_equal(replicas_of(m), left);
    infer_close(m);
    devices_close(d);
    if (!told(failures)) {
        fail_msg("%s: failed: %s, taken: %s", fake, failed, taken);
    }
}

static void replicas_say_what_one_says(void **state)
{
    (void)state;
    check("devices=2", "", 2);
    assert_string_equal(taken, "fake:0 fake:1 ");
    check("devices=2 only=1 slow=3", "", 2);
}

static void the_others_go_on_without_one(void **state)
{
    (void)state;
    check("devices=2 only=1 lost=1", "fake:1 ", 1);
    check("devices=2 only=0 lost=9", "fake:0 ", 1);
    assert_string_equal(taken, "fake:0 fake:1 ");
    check("devices=2 only=1 oom=20", "fake:1 ", 1);
}

static void one_that_is_free_takes_over(void **state)
{
    (void)state;
    check("devices=3 only=1 lost=9", "fake:1 ", 2);
    assert_string_equal(taken, "fake:0 fake:1 fake:2 ");
}

static void the_last_one_goes_to_the_cpu(void **state)
{
    static client got[N];
    devices *d = open_devices("devices=2 lost=5 oom=12");
    infer *m = open_on(d, 2);

    (void)state;
    ask_all(m, got);
    for (int k = 0; k < N; k++) {
        assert_int_equal(got[k].last, INFER_DONE);
        assert_string_equal(got[k].text, want[k].text);
    }
    assert_int_equal(replicas_of(m), 1);
    infer_close(m);
    devices_close(d);
    assert_string_equal(taken, "fake:0 fake:1 cpu ");
}

static void there_is_one_replica_a_device(void **state)
{
    devices *d = open_devices("");
    infer *m = open_on(d, 3);

    (void)state;
    assert_int_equal(replicas_of(m), 1);
    infer_close(m);
    devices_close(d);
    assert_string_equal(taken, "fake:0 ");
    check("devices=2 load=2", "fake:1 ", 1);
}

/* One replica a device fits, and no more: of the memory a share is never taken. */
static void a_share_of_the_memory_is_taken(void **state)
{
    char fake[64];
    struct stat file;
    devices *d;
    infer *m, *other;

    (void)state;
    assert_int_equal(stat(path, &file), 0);
    snprintf(fake, sizeof(fake), "devices=2 memory=%.0f",
             1.5 * (double)file.st_size / KERN_MEMORY_SHARE);
    d = open_devices(fake);
    m = open_on(d, 2);
    assert_string_equal(taken, "fake:0 fake:1 ");
    other = open_on(d, 2);
    assert_int_equal(replicas_of(other), 1);
    infer_close(other);
    infer_close(m);
    other = open_on(d, 2);
    assert_int_equal(replicas_of(other), 2);
    infer_close(other);
    devices_close(d);
    assert_string_equal(taken, "fake:0 fake:1 cpu fake:0 fake:1 ");
    assert_string_equal(failed, "");
}

/* Four that stay: two at each replica. */
static void the_one_with_the_fewest_gets_the_next(void **state)
{
    static client c[4];
    devices *d = open_devices("devices=2");
    infer *m = open_on(d, 2);
    int same = 0;

    (void)state;
    memset(c, 0, sizeof(c));
    for (uint64_t i = 0; i < 4; i++) {
        c[i].holds = true;
        submit(m, &c[i], i, "");
        wait_first(&c[i]);
        same += pthread_equal(c[i].thread, c[0].thread);
    }
    assert_int_equal(same, 2);
    for (int i = 0; i < 4; i++) {
        infer_cancel(c[i].req);
        wait_last(&c[i]);
    }
    infer_close(m);
    devices_close(d);
}

static void of_equals_the_one_that_read_its_beginning(void **state)
{
    static client other, first, again, stranger;
    devices *d = open_devices("devices=2");
    infer *m = open_on(d, 2);

    (void)state;
    memset(&other, 0, sizeof(other));
    other.holds = true;
    submit(m, &other, 1, "");
    wait_first(&other);
    submit(m, &first, 2, "tenant");
    wait_last(&first);
    assert_false(pthread_equal(first.thread, other.thread));
    infer_cancel(other.req);
    wait_last(&other);

    wait_idle(m);
    submit(m, &again, 2, "tenant");
    wait_last(&again);
    assert_true(pthread_equal(again.thread, first.thread));
    assert_int_equal(again.cached, 32);
    assert_string_equal(again.text, first.text);
    wait_idle(m);
    submit(m, &stranger, 2, "another");
    wait_last(&stranger);
    assert_true(pthread_equal(stranger.thread, other.thread));
    assert_int_equal(stranger.cached, 0);
    infer_close(m);
    devices_close(d);
}

/* Cancelling and closing while devices fail leaves nothing behind. */
static void cancelled_and_closed_while_they_fail(void **state)
{
    static client c[N];

    (void)state;
    for (int lost = 1; lost < 10; lost++) {
        char fake[64];

        snprintf(fake, sizeof(fake), "devices=2 slow=1 lost=%d oom=%d", lost, lost + 1);
        devices *d = open_devices(fake);
        infer *m = open_on(d, 2);

        memset(c, 0, sizeof(c));
        for (uint64_t i = 0; i < N; i++) {
            submit(m, &c[i], i, "");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replicas_say_what_one_says),
        cmocka_unit_test(the_others_go_on_without_one),
        cmocka_unit_test(one_that_is_free_takes_over),
        cmocka_unit_test(the_last_one_goes_to_the_cpu),
        cmocka_unit_test(there_is_one_replica_a_device),
        cmocka_unit_test(a_share_of_the_memory_is_taken),
        cmocka_unit_test(the_one_with_the_fewest_gets_the_next),
        cmocka_unit_test(of_equals_the_one_that_read_its_beginning),
        cmocka_unit_test(cancelled_and_closed_while_they_fail),
    };

    return cmocka_run_group_tests(tests, write_model, remove_model);
}
