/* Tokens that engines count together: what Redis lets through, what is told to it, and what
 * becomes of what nobody tells. With a real one. */

#include "unit.h"
#include "core/log.h"
#include "engine.h"
#include "limits/shared_tokens.h"
#include "redis_server.h"

#define DAY    86400000u
#define HOUR   3600000u
#define SECOND 1000000000ull

static redis_server server;

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    redis_call call;
    loop_timer tick;
    char said[64]; /* a letter for each answer, see on_answer() */
    shared_answer answer;
    long long number; /* Redis' answer */
    bool done;
} bench;

static void on_tick(aiq_loop *loop, void *arg)
{
    bench *b = arg;

    loop_timer_start(loop, &b->tick, 5, on_tick, b);
}

static void wait_up(bench *b)
{
    char reason[64];
    const health_component *c = engine_health(&b->engine);
    uint64_t end_ns = loop_now_ns() + 60 * SECOND;

    while (c->check(c->arg, reason, sizeof(reason)) != HEALTH_OK) {
        assert_true(loop_now_ns() < end_ns);
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

static int setup(void **state)
{
    bench *b = calloc(1, sizeof(*b));
    char url[64];

    if (server.pid == 0) {
        redis_server_start(&server, NULL);
    }
    aiq_log_init(AIQ_LOG_ERROR);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%u/0", server.port);
    b->engine.options.loops = 1;
    b->engine.metrics = metrics_new();
    b->engine.loops = &b->loop;
    assert_true(loop_init(&b->loop, &b->engine, 0, NULL));
    b->engine.redis = redis_new(&b->engine, url, NULL);
    b->engine.shared_tokens = shared_tokens_new(&b->engine);
    redis_start(b->engine.redis);
    on_tick(&b->loop, b);
    wait_up(b);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;

    loop_timer_stop(&b->loop, &b->tick);
    loop_stop(&b->loop);
    loop_run(&b->loop);
    loop_free(&b->loop);
    shared_tokens_free(b->engine.shared_tokens);
    redis_free(b->engine.redis);
    metrics_free(b->engine.metrics);
    free(b);
    return 0;
}

static void on_reply(void *arg, const redisReply *reply)
{
    bench *b = arg;

    b->number = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer
                : reply && reply->str                       ? strtoll(reply->str, NULL, 10)
                                                            : -1;
    b->done = true;
}

static long long redis_says(bench *b, unsigned n, const aiq_str *words)
{
    b->done = false;
    if (redis_ask(b->engine.redis, &b->loop, &b->call, words, n, on_reply, b)) {
        while (!b->done) {
            uv_run(&b->loop.uv, UV_RUN_ONCE);
        }
    }
    return b->number;
}

#define REDIS(b, ...)                                                                          \
    redis_says((b), sizeof((aiq_str[]){__VA_ARGS__}) / sizeof(aiq_str),                        \
               (aiq_str[]){__VA_ARGS__})

/* h: it is held, r: refused, -: nobody can say. */
static void on_answer(void *arg, const shared_answer *answer)
{
    bench *b = arg;

    b->said[strlen(b->said)] = answer == NULL ? '-' : answer->wait_ms ? 'r' : 'h';
    b->answer = answer ? *answer : (shared_answer){0};
    b->done = true;
}

static const policy_limit day = {
    .zone = "day", .tokens = 1000, .window_ms = DAY, .keys = 9, .shared = true};
static const policy_limit both[] = {
    {.zone = "day", .tokens = 1000, .window_ms = DAY, .keys = 9, .shared = true},
    {.zone = "hour", .tokens = 100, .window_ms = HOUR, .keys = 9, .shared = true}};

static uint8_t keys[8][2][AIQ_LIMIT_KEY];

/* key: a letter for each rule */
static void hold(bench *b, shared_hold *h, const policy_limit *rules, const char *key,
                 int64_t tokens)
{
    uint8_t *k = keys[*key - 'a'][0];

    for (size_t i = 0; key[i]; i++) {
        memset(k + i * AIQ_LIMIT_KEY, key[i], AIQ_LIMIT_KEY);
    }
    b->done = !shared_tokens_hold(h, &b->loop, rules, strlen(key), k, tokens, on_answer, b);
    if (b->done) {
        b->said[strlen(b->said)] = '-';
    }
    while (!b->done) {
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

/* Redis has been told all. */
static void settle(bench *b, shared_hold *h, int64_t used)
{
    shared_tokens_settle(h, used);
    assert_null(h->shared);
    REDIS(b, AIQ_STR("PING"));
}

/* On a machine that is busy an answer may come too late: then all is asked anew. */
static void expect(bench *b, void (*scenario)(bench *b), const char *said)
{
    for (int i = 0; i == 0 || (i < 50 && strcmp(b->said, said) != 0 && strchr(b->said, '-'));
         i++) {
        REDIS(b, AIQ_STR("FLUSHALL"));
        memset(b->said, 0, sizeof(b->said));
        scenario(b);
    }
    assert_string_equal(b->said, said);
}

static void hold_and_settle(bench *b)
{
    shared_hold one = {0}, two = {0};

    hold(b, &one, &day, "a", 600);
    hold(b, &two, &day, "a", 500);
    settle(b, &one, 100);
    hold(b, &two, &day, "a", 500);
    settle(b, &two, 500);
    settle(b, &two, 500);
    hold(b, &one, &day, "a", 400);
    settle(b, &one, 0);
}

static void what_was_not_used_is_free_again(void **state)
{
    expect(*state, hold_and_settle, "hrhh");
    bench *b = *state;
    assert_int_equal(b->answer.limit, 1000);
    assert_int_equal(b->answer.remaining, 0);
    assert_in_range(b->answer.reset_ms, DAY - DAY / 60, DAY);
}

static void be_refused(bench *b)
{
    shared_hold one = {0}, two = {0};

    hold(b, &one, &day, "b", 1000);
    hold(b, &two, &day, "b", 1);
    settle(b, &one, 0);
}

static void who_is_refused_hears_when_to_come(void **state)
{
    bench *b = *state;

    expect(b, be_refused, "hr");
    assert_ptr_equal(b->answer.rule, &day);
    assert_int_equal(b->answer.remaining, 0);
    assert_in_range(b->answer.wait_ms, DAY, DAY + DAY / 60);
}

static void hold_from_both(bench *b)
{
    shared_hold one = {0}, two = {0}, three = {0};

    hold(b, &one, both, "cc", 60);
    hold(b, &two, both, "cc", 60);
    hold(b, &three, both, "cd", 60);
    settle(b, &one, 60);
    settle(b, &three, 60);
    hold(b, &two, both, "ce", 60);
    settle(b, &two, 60);
}

static void all_windows_or_none(void **state)
{
    bench *b = *state;

    expect(b, hold_from_both, "hrhh");
    assert_int_equal(b->answer.remaining, 40); /* the second: of the first 820 are left */
    assert_int_equal(b->answer.limit, 100);
}

static void hold_too_much(bench *b)
{
    shared_hold one = {0}, two = {0};

    hold(b, &one, &day, "f", 5000);
    hold(b, &two, &day, "f", 1);
    settle(b, &one, INT64_MAX); /* a provider may say anything */
    hold(b, &two, &day, "f", 1);
}

static void more_than_the_limit_is_all_of_it(void **state)
{
    expect(*state, hold_too_much, "hrr");
}

/* What Redis has, of the day's window of key 'g'. */
#define WINDOW "{aiq:limit}:tokens:day:86400000:67676767676767676767676767676767:"

static void leave_it(bench *b)
{
    shared_hold dead = {0}, other = {0};

    hold(b, &dead, &day, "g", 900);
    hold(b, &other, &day, "g", 200);
    if (dead.shared == NULL) {
        return;
    }
    /* a minute later, if nobody renews it */
    REDIS(b, AIQ_STR("ZADD"), AIQ_STR(WINDOW "leases"), AIQ_STR("1"),
          {dead.id, strlen(dead.id)});
    hold(b, &other, &day, "g", 200);
    settle(b, &other, 200);
    /* and it was not dead after all */
    settle(b, &dead, 700);
    hold(b, &other, &day, "g", 101);
    hold(b, &other, &day, "g", 100);
    settle(b, &other, 0);
}

static void what_the_dead_hold_is_free_and_what_was_used_counts(void **state)
{
    expect(*state, leave_it, "hrhrh");
}

static void come_and_go(bench *b)
{
    shared_hold one = {0};

    hold(b, &one, &day, "g", 10);
    settle(b, &one, 5);
}

static void nothing_stays_for_ever(void **state)
{
    bench *b = *state;

    expect(b, come_and_go, "h");
    assert_int_equal(REDIS(b, AIQ_STR("DBSIZE")), 3);
    assert_in_range(REDIS(b, AIQ_STR("PTTL"), AIQ_STR(WINDOW "slots")), DAY, DAY + HOUR);
    assert_in_range(REDIS(b, AIQ_STR("PTTL"), AIQ_STR(WINDOW "holds")), DAY, DAY + HOUR);
    assert_in_range(REDIS(b, AIQ_STR("PTTL"), AIQ_STR(WINDOW "leases")), DAY, DAY + HOUR);
    assert_int_equal(REDIS(b, AIQ_STR("ZCARD"), AIQ_STR(WINDOW "leases")), 1);
}

static void what_is_no_window_is_no_answer(void **state)
{
    bench *b = *state;
    shared_hold one = {0};

    REDIS(b, AIQ_STR("FLUSHALL"));
    REDIS(b, AIQ_STR("SET"), AIQ_STR(WINDOW "slots"), AIQ_STR("x"));
    hold(b, &one, &day, "g", 10);
    shared_tokens_settle(&one, 0);
    REDIS(b, AIQ_STR("FLUSHALL"));
    REDIS(b, AIQ_STR("HSET"), AIQ_STR(WINDOW "slots"), AIQ_STR("x"), AIQ_STR("y"));
    hold(b, &one, &day, "g", 10);
    shared_tokens_settle(&one, 0);
    assert_string_equal(b->said, "--");
}

static void without_redis_there_is_no_answer(void **state)
{
    bench *b = *state;
    redis *r = b->engine.redis;
    shared_hold one = {0};

    b->engine.redis = NULL;
    hold(b, &one, &day, "g", 10);
    shared_tokens_settle(&one, 10);
    assert_string_equal(b->said, "-");
    b->engine.redis = r;
}

/* Redis is away, and what was used meanwhile is told once it is back. */
static void what_was_used_without_redis_is_told_later(void **state)
{
    bench *b = *state;
    shared_hold one = {0}, two = {0};
    uint64_t end_ns = loop_now_ns() + 60 * SECOND;

    redis_server_kill(&server);
    hold(b, &one, &day, "h", 700);
    assert_string_equal(b->said, "-");
    shared_tokens_settle(&one, 650);
    redis_server_start(&server, NULL);
    wait_up(b);
    while (b->answer.remaining != 300) {
        assert_true(loop_now_ns() < end_ns);
        hold(b, &two, &day, "h", 50);
        shared_tokens_settle(&two, 0);
        memset(b->said, 0, sizeof(b->said));
    }
}

/* However many requests they are: of a key it is one sum. */
static void a_crowd_without_redis_is_told_later(void **state)
{
    static const policy_limit wide[] = {
        {.zone = "wide", .tokens = 1000000, .window_ms = DAY, .keys = 9, .shared = true},
        {.zone = "hours", .tokens = 2000000, .window_ms = HOUR, .keys = 9, .shared = true}};
    bench *b = *state;
    shared_hold one = {0}, two = {0};
    uint64_t end_ns = loop_now_ns() + 60 * SECOND;

    redis_server_kill(&server);
    for (int i = 0; i < SHARED_TELLING + 904; i++) {
        hold(b, &one, wide, "fg", 700);
        assert_string_equal(b->said, "-");
        shared_tokens_settle(&one, 10);
        memset(b->said, 0, sizeof(b->said));
    }
    redis_server_start(&server, NULL);
    wait_up(b);
    while (b->answer.remaining != 1000000 - 50000 - 1) {
        assert_true(loop_now_ns() < end_ns);
        hold(b, &two, wide, "fg", 1);
        shared_tokens_settle(&two, 0);
        memset(b->said, 0, sizeof(b->said));
    }
}

/* Not enough for anything but its end. */
static void whoever_leaves_while_he_asks_holds_nothing(void **state)
{
    bench *b = *state;
    shared_hold one = {0};

    REDIS(b, AIQ_STR("FLUSHALL"));
    memset(keys[0], 'a', sizeof(keys[0]));
    assert_true(shared_tokens_hold(&one, &b->loop, &day, 1, keys[0][0], 1000, on_answer, b));
    shared_tokens_settle(&one, 0);
    uint64_t end_ns = loop_now_ns() + 60 * SECOND;
    do {
        assert_true(loop_now_ns() < end_ns);
        memset(b->said, 0, sizeof(b->said));
        hold(b, &one, &day, "a", 1000);
    } while (strcmp(b->said, "h") != 0);
    shared_tokens_settle(&one, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_not_used_is_free_again, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_refused_hears_when_to_come, setup, teardown),
        cmocka_unit_test_setup_teardown(all_windows_or_none, setup, teardown),
        cmocka_unit_test_setup_teardown(more_than_the_limit_is_all_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_dead_hold_is_free_and_what_was_used_counts,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_stays_for_ever, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_window_is_no_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(without_redis_there_is_no_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_used_without_redis_is_told_later, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_crowd_without_redis_is_told_later, setup, teardown),
        cmocka_unit_test_setup_teardown(whoever_leaves_while_he_asks_holds_nothing, setup,
                                        teardown),
    };

    if (!redis_server_is_there()) {
        return 0;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_kill(&server);
    return failed;
}
