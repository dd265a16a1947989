/* A loop's connection to Redis: with a real one that is killed, stopped and started again,
 * and with a hostile one. */

#include "unit.h"
#include "redis/redis.h"
#include "engine.h"
#include "redis_server.h"

#define SECOND 1000000000ull

static redis_server server;

/* An engine of one loop that the test turns by hand. */

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    redis *redis;
    redis_call call;
    loop_timer tick;
    unsigned answers;
    int type; /* of the last answer; -1: none came */
    char text[64];
    long long number;
    size_t len;
} bench;

static void on_tick(aiq_loop *loop, void *arg)
{
    bench *b = arg;

    loop_timer_start(loop, &b->tick, 5, on_tick, b);
}

static bench *begin(const char *url)
{
    bench *b = calloc(1, sizeof(*b));

    b->engine.options.loops = 1;
    b->engine.metrics = metrics_new();
    b->engine.loops = &b->loop;
    b->engine.id = 42;
    assert_true(loop_init(&b->loop, &b->engine, 0, NULL));
    b->redis = redis_new(&b->engine, url, NULL);
    assert_non_null(b->redis);
    redis_start(b->redis);
    on_tick(&b->loop, b);
    return b;
}

static bench *begin_at(unsigned port, const char *user)
{
    char url[96];

    snprintf(url, sizeof(url), "redis://%s127.0.0.1:%u/0", user, port);
    return begin(url);
}

static void end(bench *b)
{
    loop_timer_stop(&b->loop, &b->tick);
    loop_stop(&b->loop);
    loop_run(&b->loop);
    loop_free(&b->loop);
    redis_free(b->redis);
    metrics_free(b->engine.metrics);
    free(b);
}

static void turn(bench *b)
{
    uv_run(&b->loop.uv, UV_RUN_ONCE);
}

static health_status health(bench *b)
{
    char reason[64];
    const health_component *c = engine_health(&b->engine);

    return c->check(c->arg, reason, sizeof(reason));
}

static void wait_for_health(bench *b, health_status wanted)
{
    uint64_t end_ns = loop_now_ns() + 60 * SECOND;

    while (health(b) != wanted) {
        assert_true(loop_now_ns() < end_ns);
        turn(b);
    }
}

static void on_answer(void *arg, const redisReply *reply)
{
    bench *b = arg;

    b->answers++;
    b->type = reply ? reply->type : -1;
    if (reply && reply->type == REDIS_REPLY_STRING) {
        b->len = reply->len;
        memcpy(b->text, reply->str,
               reply->len < sizeof(b->text) ? reply->len : sizeof(b->text));
    }
    b->number = reply ? reply->integer : 0;
}

static bool send_words(bench *b, unsigned n, const aiq_str *words)
{
    return redis_ask(b->redis, &b->loop, &b->call, words, n, on_answer, b);
}

#define SEND(b, ...)                                                                           \
    send_words((b), sizeof((aiq_str[]){__VA_ARGS__}) / sizeof(aiq_str),                        \
               (aiq_str[]){__VA_ARGS__})

static void wait_for_answer(bench *b)
{
    unsigned before = b->answers;

    while (b->answers == before) {
        turn(b);
    }
}

/* On a machine that is busy an answer may come too late: then it is asked for again. */
#define ASK(b, ...)                                                                            \
    do {                                                                                       \
        assert_true(SEND((b), __VA_ARGS__));                                                   \
        wait_for_answer(b);                                                                    \
    } while ((b)->type == -1)

static int need_server(void **state)
{
    (void)state;
    if (!redis_server_is_there()) {
        return 0;
    }
    redis_server_kill(&server);
    redis_server_start(&server, NULL);
    return 0;
}

static void skip_without_server(void)
{
    if (!redis_server_is_there()) {
        skip();
    }
}

static void answers_what_it_was_told(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);

    ASK(b, AIQ_STR("GET"), AIQ_STR("key"));
    assert_int_equal(b->type, REDIS_REPLY_NIL);
    const aiq_str set[] = {AIQ_STR("SET"), AIQ_STR("key"), AIQ_STR("a\0b\r\n"), AIQ_STR("PX"),
                           AIQ_STR("60000")};
    assert_true(redis_tell(b->redis, &b->loop, set, 5));
    ASK(b, AIQ_STR("GET"), AIQ_STR("key"));
    assert_int_equal(b->type, REDIS_REPLY_STRING);
    assert_int_equal(b->len, 5);
    assert_memory_equal(b->text, "a\0b\r\n", 5);
    ASK(b, AIQ_STR("EVAL"), AIQ_STR("return redis.call('STRLEN', KEYS[1]) * ARGV[1]"),
        AIQ_STR("1"), AIQ_STR("key"), AIQ_STR("3"));
    assert_int_equal(b->type, REDIS_REPLY_INTEGER);
    assert_int_equal(b->number, 15);
    end(b);
}

static void an_error_is_no_answer(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);
    assert_true(SEND(b, AIQ_STR("GET")));
    wait_for_answer(b);
    assert_int_equal(b->type, -1);
    assert_int_equal(health(b), HEALTH_OK);
    end(b);
}

static void nothing_comes_after_cancel(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);
    assert_true(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    redis_cancel(&b->call);
    redis_cancel(&b->call);
    assert_true(SEND(b, AIQ_STR("ECHO"), AIQ_STR("later")));
    wait_for_answer(b);
    assert_int_equal(b->answers, 1); /* of the second, whatever it is */
    assert_true(b->type == -1 || memcmp(b->text, "later", 5) == 0);
    assert_true(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    redis_cancel(&b->call);
    end(b); /* with a command on its way */
}

static void nobody_waits_for_one_that_hangs(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);
    kill(server.pid, SIGSTOP);
    while (health(b) == HEALTH_OK) { /* until the connection is given up */
        if (SEND(b, AIQ_STR("GET"), AIQ_STR("key"))) {
            wait_for_answer(b);
            assert_int_equal(b->type, -1);
        }
    }
    assert_false(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    kill(server.pid, SIGCONT);
    wait_for_health(b, HEALTH_OK);
    ASK(b, AIQ_STR("ECHO"), AIQ_STR("again"));
    assert_memory_equal(b->text, "again", 5);
    end(b);
}

static void comes_back_after_a_crash(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);
    kill(server.pid, SIGSTOP);
    assert_true(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    redis_server_kill(&server);
    wait_for_answer(b);
    assert_int_equal(b->type, -1);
    wait_for_health(b, HEALTH_DOWN);
    assert_false(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    redis_server_start(&server, NULL);
    wait_for_health(b, HEALTH_OK);
    ASK(b, AIQ_STR("ECHO"), AIQ_STR("again"));
    assert_memory_equal(b->text, "again", 5);
    end(b);
}

static void shows_its_password(void **state)
{
    (void)state;
    skip_without_server();
    redis_server_kill(&server);
    redis_server_start(&server, "s@cret");

    bench *b = begin_at(server.port, ":s%40cret@");
    wait_for_health(b, HEALTH_OK);
    ASK(b, AIQ_STR("ECHO"), AIQ_STR("x"));
    end(b);
    b = begin_at(server.port, "default:s%40cret@");
    wait_for_health(b, HEALTH_OK);
    end(b);
    setenv("REDISCLI_AUTH", "s@cret", 1);
    b = begin_at(server.port, "");
    wait_for_health(b, HEALTH_OK);
    end(b);
    unsetenv("REDISCLI_AUTH");

    b = begin_at(server.port, ":wrong@");
    for (int i = 0; i < 50; i++) {
        turn(b);
        assert_int_equal(health(b), HEALTH_DOWN);
    }
    end(b);
    redis_server_kill(&server);
    redis_server_start(&server, NULL);
}

static void more_than_the_bound_is_refused(void **state)
{
    (void)state;
    skip_without_server();
    bench *b = begin_at(server.port, "");
    char *large = calloc(1, REDIS_BYTES / 4);
    const aiq_str words[] = {AIQ_STR("SET"), AIQ_STR("k"), {large, REDIS_BYTES / 4}};
    unsigned n = 0;

    wait_for_health(b, HEALTH_OK);
    while (redis_tell(b->redis, &b->loop, words, 3)) {
        n++;
    }
    assert_int_equal(n, 3);
    while (!redis_tell(b->redis, &b->loop, words, 3)) {
        turn(b); /* until there is room again */
    }
    free(large);
    end(b);
}

/* One that says what it likes. */
static void replies_are_bounded(const char *begins, char fills)
{
    int listens = redis_socket(0, REDIS_LISTENS);
    bench *b = begin_at(redis_port_of(listens), "");
    char piece[4096];
    size_t sent = 0;

    fcntl(listens, F_SETFL, O_NONBLOCK);
    int fd;
    while ((fd = accept(listens, NULL, NULL)) < 0) {
        turn(b);
    }
    const char hello[] = "+OK\r\n";
    assert_int_equal(send(fd, hello, 5, 0), 5);
    wait_for_health(b, HEALTH_OK);
    assert_true(SEND(b, AIQ_STR("GET"), AIQ_STR("key")));
    send(fd, begins, strlen(begins), 0);
    memset(piece, fills, sizeof(piece));
    while (health(b) == HEALTH_OK && sent < 64 << 20) {
        ssize_t n = fills ? send(fd, piece, sizeof(piece), MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        turn(b);
    }
    assert_int_not_equal(health(b), HEALTH_OK);
    assert_true(sent < 16 << 20);
    close(fd);
    close(listens);
    end(b);
}

static void a_large_reply_ends_the_connection(void **state)
{
    (void)state;
    replies_are_bounded("$500000000\r\n", 'x');
}

static void a_line_without_end_ends_the_connection(void **state)
{
    (void)state;
    replies_are_bounded("+", 'x');
}

static void an_array_of_many_ends_the_connection(void **state)
{
    (void)state;
    replies_are_bounded("*2000000000\r\n", 0);
}

static void nonsense_ends_the_connection(void **state)
{
    (void)state;
    replies_are_bounded("HTTP/1.1 400 Bad Request\r\n\r\n", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(answers_what_it_was_told, need_server),
        cmocka_unit_test_setup(an_error_is_no_answer, need_server),
        cmocka_unit_test_setup(nothing_comes_after_cancel, need_server),
        cmocka_unit_test_setup(nobody_waits_for_one_that_hangs, need_server),
        cmocka_unit_test_setup(comes_back_after_a_crash, need_server),
        cmocka_unit_test_setup(shows_its_password, need_server),
        cmocka_unit_test_setup(more_than_the_bound_is_refused, need_server),
        cmocka_unit_test(a_large_reply_ends_the_connection),
        cmocka_unit_test(a_line_without_end_ends_the_connection),
        cmocka_unit_test(an_array_of_many_ends_the_connection),
        cmocka_unit_test(nonsense_ends_the_connection),
    };

    signal(SIGPIPE, SIG_IGN);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_kill(&server);
    return failed;
}
