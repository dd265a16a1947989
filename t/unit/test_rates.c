/* Rates that engines share: what Redis lets through, and what it is asked. With a real
 * one. */

#include "unit.h"
#include "limits/rates.h"
#include "core/log.h"
#include "engine.h"
#include "redis_server.h"

#define DAY    86400000u
#define HOUR   3600000u
#define SECOND 1000000000ull

static redis_server server;

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    redis_call call;
    rates_question question;
    uint8_t keys[POLICY_RATES][AIQ_LIMIT_KEY]; /* of it */
    loop_timer tick;
    char said[64]; /* a letter for each answer, see letter() */
    rates_answer answer;
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

static bench *begin(unsigned port)
{
    bench *b = calloc(1, sizeof(*b));
    char url[64];

    aiq_log_init(AIQ_LOG_ERROR);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%u/0", port);
    b->engine.options.loops = 1;
    b->engine.metrics = metrics_new();
    b->engine.loops = &b->loop;
    assert_true(loop_init(&b->loop, &b->engine, 0, NULL));
    b->engine.redis = redis_new(&b->engine, url, NULL);
    b->engine.rates = rates_new(&b->engine);
    redis_start(b->engine.redis);
    on_tick(&b->loop, b);
    return b;
}

static void end(bench *b)
{
    loop_timer_stop(&b->loop, &b->tick);
    loop_stop(&b->loop);
    loop_run(&b->loop);
    loop_free(&b->loop);
    rates_free(b->engine.rates);
    redis_free(b->engine.redis);
    metrics_free(b->engine.metrics);
    free(b);
}

static int setup(void **state)
{
    if (server.pid == 0) {
        redis_server_start(&server, NULL);
    }
    *state = begin(server.port);
    wait_up(*state);
    return 0;
}

static int teardown(void **state)
{
    end(*state);
    return 0;
}

static void on_reply(void *arg, const redisReply *reply)
{
    bench *b = arg;

    (void)reply;
    b->done = true;
}

static void tell(bench *b, unsigned n, const aiq_str *words)
{
    b->done = false;
    if (redis_ask(b->engine.redis, &b->loop, &b->call, words, n, on_reply, b)) {
        while (!b->done) {
            uv_run(&b->loop.uv, UV_RUN_ONCE);
        }
    }
}

#define TELL(b, ...)                                                                           \
    tell((b), sizeof((aiq_str[]){__VA_ARGS__}) / sizeof(aiq_str), (aiq_str[]){__VA_ARGS__})

/* p: it passes, w: it waits for its turn, r: it is refused, -: nobody can say. */
static void on_answer(void *arg, const rates_answer *answer)
{
    bench *b = arg;
    char letter = answer == NULL ? '-' : answer->refused ? 'r' : answer->wait_ms ? 'w' : 'p';

    b->said[strlen(b->said)] = letter;
    b->answer = answer ? *answer : (rates_answer){0};
    b->done = true;
}

/* keys: a letter for each rule; 0: it does not count. */
static void begin_asking(bench *b, const policy_rate *rules, const char *keys)
{
    size_t n = strlen(keys);

    for (size_t i = 0; i < n; i++) {
        memset(b->keys[i], keys[i] == '0' ? 0 : keys[i], AIQ_LIMIT_KEY);
    }
    b->done = !rates_ask(&b->question, &b->loop, rules, n, b->keys[0], on_answer, b);
    if (b->done) {
        b->said[strlen(b->said)] = '-';
    }
}

static void ask(bench *b, const policy_rate *rules, const char *keys)
{
    begin_asking(b, rules, keys);
    while (!b->done) {
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

static void times(bench *b, int n, const policy_rate *rules, const char *keys)
{
    for (int i = 0; i < n; i++) {
        ask(b, rules, keys);
    }
}

/* On a machine that is busy an answer may come too late: then all is asked anew. */
static void expect(bench *b, void (*scenario)(bench *b), const char *said)
{
    for (int i = 0; i == 0 || (i < 50 && strcmp(b->said, said) != 0 && strchr(b->said, '-'));
         i++) {
        TELL(b, AIQ_STR("FLUSHALL"));
        memset(b->said, 0, sizeof(b->said));
        scenario(b);
    }
    assert_string_equal(b->said, said);
}

/* So many pass. */

static const policy_rate three = {"three", 3, DAY, 1, 0, false};

static void ask_one_rate(bench *b)
{
    times(b, 5, &three, "a");
    times(b, 1, &three, "b");
}

static void test_as_many_pass_as_the_rate_says(void **state)
{
    bench *b = *state;

    expect(b, ask_one_rate, "ppprrp");
    assert_int_equal(b->answer.rates[0].remaining, 2);
    assert_in_range(b->answer.rates[0].reset_ms, DAY - 60000, DAY);
    assert_int_equal(b->answer.rates[0].wait_ms, 0);
}

static void ask_in_vain(bench *b)
{
    times(b, 4, &three, "a");
}

static void test_who_is_refused_hears_when_to_come(void **state)
{
    bench *b = *state;

    expect(b, ask_in_vain, "pppr");
    assert_int_equal(b->answer.rates[0].remaining, 0);
    assert_int_equal(b->answer.rates[0].refused, 1);
    assert_in_range(b->answer.rates[0].wait_ms, DAY - 60000, DAY + 1);
}

/* In any window, by the test's clock: a request passed between its question and its
 * answer, and the third after it no sooner than a second later. */
static void test_a_window_slides(void **state)
{
    const policy_rate rule = {"second", 3, 1000, 1, 0, false};
    bench *b = *state;
    uint64_t asked[16];
    unsigned n = 0;

    while (n < 12) {
        asked[n] = loop_now_ns();
        memset(b->said, 0, sizeof(b->said));
        ask(b, &rule, "a");
        if (b->said[0] == 'p') {
            uint64_t answered = loop_now_ns();
            assert_true(n < 3 || answered - asked[n - 3] >= SECOND);
            n++;
        } else if (b->said[0] == 'r') {
            usleep(b->answer.rates[0].wait_ms * 1000);
        }
    }
}

/* Several rates. */

static const policy_rate both[] = {{"one", 4, DAY, 1, 0, false}, {"two", 2, DAY, 1, 0, false}};

static void ask_two_rates(bench *b)
{
    times(b, 2, both, "ab");
    times(b, 3, both, "ab"); /* the second refuses */
    times(b, 2, both, "ac"); /* the first has not counted those */
    times(b, 1, both, "ad");
    times(b, 1, both, "0d");
}

static void test_one_that_refuses_charges_none(void **state)
{
    expect(*state, ask_two_rates, "pprrrpprp");
}

static const policy_rate trial[] = {{"one", 3, DAY, 1, 0, false}, {"two", 1, DAY, 1, 0, true}};

static void ask_a_trial(bench *b)
{
    times(b, 4, trial, "ab");
}

static void test_a_dry_run_refuses_nobody(void **state)
{
    bench *b = *state;

    expect(b, ask_a_trial, "pppr");
    assert_int_equal(b->answer.rates[1].refused, 1);
    assert_int_equal(b->answer.rates[0].refused, 1);
}

/* Waiting. */

static void ask_with_burst(bench *b)
{
    const policy_rate rule = {"burst", 2, HOUR, 1, 3, false};

    times(b, 7, &rule, "a");
}

static void test_a_burst_waits_for_its_turn(void **state)
{
    bench *b = *state;

    expect(b, ask_with_burst, "ppwwwrr");
    assert_int_equal(b->answer.rates[0].remaining, 0);
    assert_in_range(b->answer.rates[0].wait_ms, 2 * HOUR - 60000, 2 * HOUR + 2);
}

static void ask_with_two_bursts(bench *b)
{
    const policy_rate rules[] = {{"slow", 1, DAY, 1, 2, false}, {"fast", 3, HOUR, 1, 2, false}};

    times(b, 2, rules, "ab"); /* the second one's turn is in a day, in both windows */
    times(b, 1, rules, "cb"); /* so the fast one has room for another one before it */
    times(b, 1, rules, "db");
}

static void test_a_turn_is_that_of_the_slowest(void **state)
{
    expect(*state, ask_with_two_bursts, "pwpw");
}

/* Above 1,024 times are kept as grains. */

static void ask_much(bench *b)
{
    const policy_rate rule = {"much", 50, DAY, DAY / 1000, 0, false};

    times(b, 51, &rule, "a");
}

static void test_grains_hold_counts(void **state)
{
    char said[64] = "";

    memset(said, 'p', 50);
    said[50] = 'r';
    expect(*state, ask_much, said);
}

/* Redis forgets, lies, hangs. */

static void ask_and_forget(bench *b)
{
    times(b, 2, &three, "a");
    TELL(b, AIQ_STR("SCRIPT"), AIQ_STR("FLUSH"));
    times(b, 2, &three, "a");
}

static void test_a_forgotten_script_is_sent_again(void **state)
{
    expect(*state, ask_and_forget, "pppr");
}

static void ask_what_is_no_window(bench *b)
{
    times(b, 1, &three, "k");
    TELL(b, AIQ_STR("SET"),
         AIQ_STR("{aiq:limit}:three:86400000:6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b"), AIQ_STR("x"));
    times(b, 1, &three, "k");
    times(b, 1, &three, "l");
}

static void test_what_is_no_window_is_no_answer(void **state)
{
    expect(*state, ask_what_is_no_window, "p-p");
}

static void test_nobody_waits_for_redis(void **state)
{
    bench *b = *state;

    memset(b->said, 0, sizeof(b->said));
    kill(server.pid, SIGSTOP);
    ask(b, &three, "a");
    kill(server.pid, SIGCONT);
    assert_string_equal(b->said, "-");
    redis_server_kill(&server);
    memset(b->said, 0, sizeof(b->said));
    ask(b, &three, "a");
    ask(b, &three, "a");
    assert_string_equal(b->said, "--");
    redis_server_start(&server, NULL);
    wait_up(b);
    expect(b, ask_one_rate, "ppprrp");
}

static void test_a_question_is_cancelled(void **state)
{
    const uint8_t key[AIQ_LIMIT_KEY] = "key";
    bench *b = *state;

    memset(b->said, 0, sizeof(b->said));
    assert_true(rates_ask(&b->question, &b->loop, &three, 1, key, on_answer, b));
    rates_cancel(&b->question);
    rates_cancel(&b->question);
    TELL(b, AIQ_STR("PING"));
    assert_string_equal(b->said, "");
}

static void test_without_redis_there_is_no_answer(void **state)
{
    const uint8_t key[AIQ_LIMIT_KEY] = "key";
    bench *b = *state;
    redis *r = b->engine.redis;

    b->engine.redis = NULL;
    assert_false(rates_ask(&b->question, &b->loop, &three, 1, key, on_answer, b));
    rates_cancel(&b->question);
    b->engine.redis = r;
}

/* One that says what it likes. */

static char answer_to(bench *b, int fd, const char *reply)
{
    memset(b->said, 0, sizeof(b->said));
    begin_asking(b, &three, "a");
    assert_int_equal(send(fd, reply, strlen(reply), MSG_NOSIGNAL), strlen(reply));
    while (!b->done) {
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
    return b->said[0];
}

static void test_what_makes_no_sense_is_no_answer(void **state)
{
    static const char *const lies[] = {
        "+OK\r\n",
        "$2\r\nOK\r\n",
        "$-1\r\n",
        ":1\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*2\r\n:0\r\n:0\r\n",
        "*5\r\n:0\r\n:0\r\n:2\r\n:9\r\n:0\r\n",
        "*7\r\n:0\r\n:0\r\n:2\r\n:9\r\n:0\r\n:0\r\n:0\r\n",
        "*6\r\n:-1\r\n:0\r\n:2\r\n:9\r\n:0\r\n:0\r\n",
        "*6\r\n:259200001\r\n:0\r\n:2\r\n:9\r\n:0\r\n:0\r\n",
        "*6\r\n:0\r\n:2\r\n:2\r\n:9\r\n:0\r\n:0\r\n",
        "*6\r\n:0\r\n:0\r\n:4294967296\r\n:9\r\n:0\r\n:0\r\n",
        "*6\r\n:0\r\n:0\r\n:2\r\n:259200001\r\n:0\r\n:0\r\n",
        "*6\r\n:0\r\n:0\r\n:2\r\n:9\r\n:0\r\n:2\r\n",
        "*6\r\n:0\r\n:0\r\n$1\r\n2\r\n:9\r\n:0\r\n:0\r\n",
        "*6\r\n:0\r\n:0\r\n*1\r\n:2\r\n:9\r\n:0\r\n:0\r\n",
    };
    const char *const truth = "*6\r\n:0\r\n:0\r\n:2\r\n:9\r\n:0\r\n:0\r\n";
    int listens = redis_socket(0, REDIS_LISTENS), fd;
    bench *b = begin(redis_port_of(listens));

    (void)state;
    fcntl(listens, F_SETFL, O_NONBLOCK);
    while ((fd = accept(listens, NULL, NULL)) < 0) {
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
    assert_int_equal(send(fd, "+OK\r\n", 5, 0), 5);
    wait_up(b);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        assert_int_equal(answer_to(b, fd, lies[i]), '-');
        while (answer_to(b, fd, truth) != 'p') { /* too late, on a busy machine */
        }
    }
    close(fd);
    close(listens);
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_as_many_pass_as_the_rate_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_is_refused_hears_when_to_come, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_window_slides, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_refuses_charges_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_dry_run_refuses_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_burst_waits_for_its_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_turn_is_that_of_the_slowest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grains_hold_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_forgotten_script_is_sent_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_window_is_no_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_waits_for_redis, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_question_is_cancelled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_redis_there_is_no_answer, setup, teardown),
        cmocka_unit_test(test_what_makes_no_sense_is_no_answer),
    };

    if (!redis_server_is_there()) {
        return 0;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_kill(&server);
    return rc;
}
