/* Topics of two engines that share Redis: what is said at one is heard at the other, which
 * looks by itself once an hour; nothing is missed where connections are cut. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "redis/redis.h"
#include "redis_server.h"
#include "streams/stream_reader.h"
#include "streams/topics_impl.h"

#define LOOPS 2
#define ACME  AIQ_STR("acme")
#define NEWS  AIQ_STR("news")
#define HOUR  3600000

typedef struct {
    aiq_engine engine;
    aiq_loop loops[LOOPS];
} one;

typedef struct {
    one there, here; /* who says, who reads */
    char url[48];
    uint64_t seq; /* of the last answer */
    bool answered;
    stream_reader *reader;
    aiq_buf got;
    uint64_t next;
    bool refused;
} fixture;

static redis_server server;

static void start(one *o, const char *url)
{
    aiq_engine *e = &o->engine;
    aiq_err err;

    e->metrics = metrics_new();
    e->options.loops = LOOPS;
    e->options.redis = url;
    e->loops = o->loops;
    for (unsigned i = 0; i < LOOPS; i++) {
        assert_true(loop_init(&o->loops[i], e, i, &err));
    }
    e->streams = streams_new(e, 1 << 20);
    e->topics = topics_new(e);
    e->topics->look_ms = HOUR;
    e->redis = redis_new(e, url, &err);
    assert_non_null(e->redis);
    topics_hear(e->topics);
    redis_start(e->redis);
}

static void end(one *o)
{
    for (unsigned i = 0; i < LOOPS; i++) {
        loop_stop(&o->loops[i]);
        loop_run(&o->loops[i]); /* what is to be done at its exit */
    }
    topics_free(o->engine.topics);
    streams_free(o->engine.streams);
    redis_free(o->engine.redis);
    for (unsigned i = 0; i < LOOPS; i++) {
        loop_free(&o->loops[i]);
    }
    metrics_free(o->engine.metrics);
}

static void turn(fixture *f)
{
    for (unsigned i = 0; i < LOOPS; i++) {
        uv_run(&f->there.loops[i].uv, UV_RUN_NOWAIT);
        uv_run(&f->here.loops[i].uv, UV_RUN_NOWAIT);
    }
    usleep(100);
}

static void wait_until_heard(fixture *f)
{
    while (!redis_hears(f->here.engine.redis)) {
        turn(f);
    }
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));

    *state = f;
    redis_server_start(&server, NULL);
    snprintf(f->url, sizeof(f->url), "redis://127.0.0.1:%u/0", server.port);
    start(&f->there, f->url);
    start(&f->here, f->url);
    wait_until_heard(f);
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;

    stream_reader_leave(f->reader);
    end(&f->here);
    end(&f->there);
    aiq_buf_free(&f->got);
    free(f);
    redis_server_kill(&server);
    return 0;
}

static void on_said(void *arg, uint64_t seq, const aiq_err *err)
{
    fixture *f = arg;

    f->answered = true;
    f->seq = err->status ? 0 : seq;
}

static void say(fixture *f, unsigned n)
{
    char data[16];
    const aiq_str text = {data, (size_t)snprintf(data, sizeof(data), "%u", n)};

    do { /* Redis may be away */
        f->answered = false;
        topic_ask(&f->there.loops[0], ACME, NEWS, AIQ_STR("t"), text, on_said, f);
        while (!f->answered) {
            turn(f);
        }
    } while (f->seq == 0);
}

static void on_told(void *arg, const stream_piece *piece)
{
    fixture *f = arg;

    f->refused = piece->err.status != 0;
    if (f->refused) {
        return;
    }
    assert_false(piece->gap);
    f->next = piece->next;
    aiq_buf_add(&f->got, piece->data.data, piece->data.len);
    stream_reader_next(f->reader);
}

static void begin_to_read(fixture *f)
{
    const stream_question q = {
        .id = NEWS, .tenant = ACME, .topic = true, .from_now = true, .objects = true};
    aiq_err err;

    say(f, 0);
    f->reader = stream_read(&f->here.loops[0], &q, on_told, f, &err);
    while (f->next < f->seq) {
        turn(f);
        if (f->refused) { /* Redis is slow where others are at work on the machine */
            stream_reader_leave(f->reader);
            f->refused = false;
            f->reader = stream_read(&f->here.loops[0], &q, on_told, f, &err);
        }
    }
}

static void read_on(fixture *f)
{
    while (f->next < f->seq) {
        turn(f);
    }
}

/* Numbers from 1 to n, each once, in order. */
static bool has_all(const fixture *f, unsigned n)
{
    const char *at = (char *)f->got.data, *to = at + f->got.len;
    char want[32];

    for (unsigned i = 1; i <= n; i++) {
        size_t len = (size_t)snprintf(want, sizeof(want), "\"data\":%u,", i);
        const char *next = memmem(at, (size_t)(to - at), "\"data\":", 7);
        if (next == NULL || memcmp(next, want, len) != 0) {
            return false;
        }
        at = next + len;
    }
    return memmem(at, (size_t)(to - at), "\"data\":", 7) == NULL;
}

static void each_event_is_heard(void **state)
{
    fixture *f = *state;

    begin_to_read(f);
    for (unsigned n = 1; n <= 20; n++) {
        say(f, n);
        read_on(f);
    }
    assert_true(has_all(f, 20));
}

static void cut_all(void)
{
    char command[128];

    snprintf(command, sizeof(command),
             "redis-cli -p %u CLIENT KILL TYPE normal SKIPME yes >/dev/null", server.port);
    assert_int_equal(system(command), 0);
}

static void nothing_is_missed_where_connections_are_cut(void **state)
{
    fixture *f = *state;

    begin_to_read(f);
    for (unsigned n = 1; n <= 4; n++) {
        cut_all();
        say(f, n);
        read_on(f);
    }
    wait_until_heard(f);
    say(f, 5);
    read_on(f);
    assert_true(has_all(f, 5));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_event_is_heard),
        TEST(nothing_is_missed_where_connections_are_cut),
    };

    if (!redis_server_is_there()) {
        puts("1..0 # SKIP there is no redis-server");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
