/*
 * Questions about API keys over a link without sockets: CHECK and VERDICT, what
 * is remembered and for how long, the epoch's notices, and jobs whose key goes.
 * The test is the worker, and the store that the keyring asks.
 */

#include "link_ends.h"
#include "services/service.h"

#define KEY_ID "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"

/* The service. */

static struct {
    char events[64]; /* o open, b body, e end, c cancel */
    aiq_job *job;
} probe;

static void probe_open(aiq_job *job)
{
    strcat(probe.events, "o");
    probe.job = job;
}

static void probe_body(aiq_job *job, const uint8_t *data, size_t n)
{
    (void)data;
    strcat(probe.events, "b");
    job_consumed(job, n);
}

static void probe_end(aiq_job *job)
{
    (void)job;
    strcat(probe.events, "e");
}

static void probe_cancel(aiq_job *job)
{
    (void)job;
    strcat(probe.events, "c");
}

static const job_handler handler = {probe_open, probe_body, probe_end, NULL, probe_cancel};
static const aiq_route routes[] = {{0, "*", PERMIT_NONE, &handler, "Probe"}};
static const aiq_service service = {.name = "probe", .routes = routes, .n_routes = 1};
const aiq_service *const aiq_services[] = {&service, NULL};

/* The source: it notes what it is asked and answers when the test says so. */

static struct {
    keyring_question *asked[KEYRING_LOOKUPS + 8];
    unsigned n;
    bool away;
} source;

static bool source_look_up(aiq_loop *loop, keyring_question *question)
{
    (void)loop;
    if (source.away) {
        return false;
    }
    source.asked[source.n++] = question;
    return true;
}

static bool source_look(aiq_loop *loop, keyring_question *question)
{
    (void)loop;
    (void)question;
    return true; /* the epoch comes by keyring_raised() here */
}

static const keyring_source test_source = {source_look_up, source_look};

/* The two ends. */

static const char policy[] = "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],"
                             "\"locations\":[{\"service\":\"probe\",\"max_body\":0},"
                             "{\"service\":\"probe\",\"max_body\":0,\"budgets\":["
                             "{\"scope\":\"key\",\"unit\":\"usd\",\"period\":\"day\","
                             "\"amount\":5},{\"scope\":\"tenant\",\"unit\":\"tokens\","
                             "\"period\":\"day\",\"amount\":6}],\"limits\":[{\"zone\":\"z\","
                             "\"tokens\":7,\"window_ms\":1000,\"keys\":8}]}]}";

static int setup(void **state)
{
    memset(&probe, 0, sizeof(probe));
    memset(&source, 0, sizeof(source));
    ends *e = ends_new();
    e->engine.keyring = keyring_new(&e->engine, &test_source);
    ends_open(e, policy);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    ends *e = *state;

    ends_close(e);
    assert_null(e->loop.links->keyed);
    while (source.n) { /* answers that come late find nobody, and do no harm */
        keyring_found(&e->loop, source.asked[--source.n]);
    }
    ends_free(e);
    return 0;
}

static void push_check(ends *e, uint32_t slot, char key)
{
    uint8_t payload[64], hash[32];

    memset(hash, key, sizeof(hash));
    uint8_t *end = aiq_field_put(payload, AIQ_FIELD_KEY_HASH, hash, sizeof(hash));
    push(e, AIQ_FRAME_CHECK, slot, 1, payload, (size_t)(end - payload));
}

static bool check(ends *e, uint32_t slot, char key)
{
    push_check(e, slot, key);
    return turn(e);
}

/* The engine hears of an epoch now. */
static void epoch_is(ends *e, uint32_t epoch)
{
    keyring_raised(&e->engine, epoch);
    loop_flush(&e->loop);
    assert_true(turn(e));
}

static keyring_verdict good(uint32_t epoch)
{
    return (keyring_verdict){.status = 200,
                             .epoch = epoch,
                             .expires_ms = -1,
                             .tenant = AIQ_STR("acme"),
                             .user = AIQ_STR("alice"),
                             .role = AIQ_STR("developer"),
                             .key_id = AIQ_STR(KEY_ID),
                             .models = AIQ_STR("[\"small\",\"l\\u0061rge\"]")};
}

/* Answers the oldest question. */
static void say(ends *e, keyring_verdict verdict)
{
    keyring_question *q = source.asked[0];

    assert_int_not_equal(source.n, 0);
    source.n--;
    memmove(source.asked, source.asked + 1, source.n * sizeof(source.asked[0]));
    q->entry = keyring_entry_new(&verdict);
    keyring_found(&e->loop, q);
    assert_true(turn(e));
}

static void say_status(ends *e, unsigned status, uint32_t epoch)
{
    say(e, (keyring_verdict){.status = status, .epoch = epoch, .expires_ms = -1});
}

/* Frames. */

static void expect_epoch(ends *e, uint32_t epoch)
{
    aiq_frame frame;
    uint32_t words[2];

    memcpy(words, expect(e, AIQ_FRAME_NOTICE, 0, &frame), sizeof(words));
    assert_int_equal(frame.len, 8);
    assert_int_equal(words[0], AIQ_NOTICE_EPOCH);
    assert_int_equal(words[1], epoch);
}

static void expect_verdict(ends *e, uint32_t slot, unsigned status, uint32_t epoch)
{
    static const char *const identity[] = {"acme", "alice", "developer", KEY_ID};
    aiq_frame frame;
    aiq_verdict verdict;
    const uint8_t *payload = expect(e, AIQ_FRAME_VERDICT, slot, &frame), *data;
    aiq_fields fields = {payload + sizeof(verdict), payload + frame.len};
    uint16_t id, len;
    unsigned n = 0;

    memcpy(&verdict, payload, sizeof(verdict));
    assert_int_equal(verdict.status, status);
    assert_int_equal(verdict.epoch, epoch);
    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        assert_int_equal(id, AIQ_FIELD_TENANT + n);
        assert_int_equal(len, strlen(identity[n]));
        assert_memory_equal(data, identity[n], len);
        n++;
    }
    assert_int_equal(n, status == 200 ? 4 : 0);
}

/* 0: the verdict has none. */
static uint32_t rate_of(ends *e, uint32_t slot)
{
    aiq_frame frame;
    const uint8_t *payload = expect(e, AIQ_FRAME_VERDICT, slot, &frame), *data;
    aiq_fields fields = {payload + sizeof(aiq_verdict), payload + frame.len};
    uint16_t id, len;
    uint32_t rate = 0;

    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        if (id == AIQ_FIELD_KEY_RATE) {
            assert_int_equal(len, sizeof(rate));
            memcpy(&rate, data, sizeof(rate));
        }
    }
    return rate;
}

static void expect_failure(ends *e, unsigned status, const char *code)
{
    aiq_frame frame;
    aiq_failure failure;
    const uint8_t *payload = expect(e, AIQ_FRAME_ERROR, 1, &frame);

    memcpy(&failure, payload, sizeof(failure));
    assert_int_equal(failure.status, status);
    assert_non_null(memmem(payload, frame.len, code, strlen(code)));
}

/* CHECK. */

static void test_a_verdict_carries_the_identity(void **state)
{
    ends *e = *state;

    epoch_is(e, 7);
    expect_nothing(e); /* this worker has asked nothing: it needs no notices */
    assert_true(check(e, 3, 'k'));
    expect_epoch(e, 7);
    expect_nothing(e);
    say(e, good(7));
    expect_verdict(e, 3, 200, 7);
    assert_null(e->link->slots[3]);
}

static void test_a_verdict_carries_the_rate_of_requests(void **state)
{
    ends *e = *state;
    keyring_verdict v = good(1);

    assert_true(check(e, 3, 'k'));
    say(e, v);
    assert_int_equal(rate_of(e, 3), 0);
    v.requests = 60;
    assert_true(check(e, 3, 'r'));
    say(e, v);
    assert_int_equal(rate_of(e, 3), 60);
}

static void test_a_verdict_is_remembered_for_its_epoch(void **state)
{
    ends *e = *state;

    epoch_is(e, 7);
    check(e, 3, 'k');
    expect_epoch(e, 7);
    say(e, good(7));
    expect_verdict(e, 3, 200, 7);
    epoch_is(e, 7);
    expect_epoch(e, 7);
    check(e, 3, 'k');
    expect_verdict(e, 3, 200, 7);
    assert_int_equal(source.n, 0);
    epoch_is(e, 8);
    expect_epoch(e, 8);
    check(e, 3, 'k');
    assert_int_equal(source.n, 1);
}

static void test_nothing_is_remembered_before_the_epoch_is_known(void **state)
{
    ends *e = *state;

    for (int i = 0; i < 2; i++) {
        check(e, 3, 'k');
        assert_int_equal(source.n, 1);
        say(e, good(7));
        expect_verdict(e, 3, 200, 7);
    }
    expect_nothing(e);
}

static void test_one_question_for_all_who_ask_it(void **state)
{
    ends *e = *state;

    push_check(e, 1, 'k');
    push_check(e, 2, 'k');
    check(e, 3, 'x');
    assert_int_equal(source.n, 2);
    say(e, good(1));
    expect_verdict(e, 2, 200, 1);
    expect_verdict(e, 1, 200, 1);
    say_status(e, 401, 1);
    expect_verdict(e, 3, 401, 1);
}

static void test_an_answer_of_an_old_epoch_is_asked_for_again(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    epoch_is(e, 9);
    expect_epoch(e, 9);
    say(e, good(8)); /* read before the change */
    expect_nothing(e);
    assert_int_equal(source.n, 1);
    say_status(e, 401, 9);
    expect_verdict(e, 3, 401, 9);
}

static void test_a_source_that_lags_ends_in_503(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    epoch_is(e, 9);
    expect_epoch(e, 9);
    for (int i = 0; i < KEYRING_TRIES; i++) {
        say(e, good(8));
    }
    expect_verdict(e, 3, 503, 9);
}

static void test_who_is_disabled(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    say_status(e, 403, 1);
    expect_verdict(e, 3, 403, 1);
}

static void test_a_key_whose_time_is_over(void **state)
{
    ends *e = *state;
    keyring_verdict v = good(1);

    v.expires_ms = 1;
    check(e, 3, 'k');
    say(e, v);
    expect_verdict(e, 3, 401, 1);
}

static void test_the_source_is_away(void **state)
{
    ends *e = *state;

    source.away = true;
    check(e, 3, 'k');
    expect_verdict(e, 3, 503, 0);
    assert_null(e->link->slots[3]);
}

static void test_questions_are_bounded(void **state)
{
    ends *e = *state;

    for (uint32_t i = 0; i < KEYRING_LOOKUPS; i++) {
        uint8_t payload[64], hash[32] = {(uint8_t)i, (uint8_t)(i >> 8)};
        uint8_t *end = aiq_field_put(payload, AIQ_FIELD_KEY_HASH, hash, sizeof(hash));
        push(e, AIQ_FRAME_CHECK, i, 1, payload, (size_t)(end - payload));
        assert_true(turn(e));
    }
    assert_int_equal(source.n, KEYRING_LOOKUPS);
    check(e, KEYRING_LOOKUPS, 'k');
    expect_verdict(e, KEYRING_LOOKUPS, 503, 0);
}

static void test_the_worker_cancels(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    push(e, AIQ_FRAME_CANCEL, 3, 1, NULL, 0);
    assert_true(turn(e));
    assert_null(e->link->slots[3]);
    say(e, good(1));
    expect_nothing(e);
}

static void test_the_link_goes_before_the_answer(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    link_end_close(e->loop.links, false);
    keyring_verdict v = good(1);
    source.asked[0]->entry = keyring_entry_new(&v);
    keyring_found(&e->loop, source.asked[0]);
    source.n = 0;
}

static void test_an_engine_that_leaves(void **state)
{
    ends *e = *state;

    check(e, 3, 'k');
    link_end_close(e->loop.links, true);
    expect_verdict(e, 3, 503, 0);
}

static void test_wrong_checks_break_the_link(void **state)
{
    static const struct {
        uint16_t id, len;
        int type;
    } wrong[] = {
        {AIQ_FIELD_KEY_HASH, 31, AIQ_FRAME_CHECK},
        {AIQ_FIELD_KEY_HASH, 33, AIQ_FRAME_CHECK},
        {AIQ_FIELD_TENANT, 32, AIQ_FRAME_CHECK},
        {0, 0, AIQ_FRAME_CHECK},
        {0, 0, AIQ_FRAME_BODY},
        {0, 0, AIQ_FRAME_END},
        {0, 0, AIQ_FRAME_CREDIT},
    };
    ends *e = *state;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint8_t payload[64], data[64] = {0}, *end = payload;

        if (wrong[i].type != AIQ_FRAME_CHECK) {
            push_check(e, 3, 'k');
        }
        if (wrong[i].id) {
            end = aiq_field_put(payload, wrong[i].id, data, wrong[i].len);
        }
        push(e, wrong[i].type, 3, 1, payload, (size_t)(end - payload));
        assert_false(turn(e));
        teardown(state);
        setup(state);
        e = *state;
    }
    check(e, 3, 'k');
    assert_false(check(e, 3, 'k')); /* a slot in use */
}

/* Jobs with a key. */

static void push_open(ends *e, int64_t length, const char *key_id)
{
    const aiq_open open = {.method = length ? AIQ_METHOD_POST : AIQ_METHOD_GET,
                           .body_length = length};
    uint8_t payload[256], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, AIQ_FIELD_KEY_ID, key_id, (uint16_t)strlen(key_id));
    push(e, AIQ_FRAME_OPEN, 1, 1, payload, (size_t)(end - payload));
}

static void test_a_job_ends_its_body_once_its_key_is_vouched_for(void **state)
{
    ends *e = *state;

    push_open(e, 3, KEY_ID);
    push(e, AIQ_FRAME_BODY, 1, 1, "abc", 3);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(probe.events, "ob");
    assert_memory_equal(source.asked[0]->name, KEY_ID, strlen(KEY_ID));
    say(e, good(1));
    assert_string_equal(probe.events, "obe");
    assert_true(job_may_use(probe.job, "small"));
    assert_true(job_may_use(probe.job, "large"));
    assert_false(job_may_use(probe.job, "larger"));
}

static void test_a_key_that_is_remembered_costs_no_wait(void **state)
{
    ends *e = *state;

    epoch_is(e, 1);
    push_open(e, 0, KEY_ID);
    assert_true(turn(e));
    expect_epoch(e, 1);
    say(e, good(1));
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    push_open(e, 0, KEY_ID);
    assert_true(turn(e));
    assert_int_equal(source.n, 0);
    assert_string_equal(probe.events, "oecoe");
}

/* In the location that has two budgets and a limit. */
static void push_open_limited(ends *e)
{
    const aiq_open open = {.location = 1, .method = AIQ_METHOD_GET};
    uint8_t payload[256], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, AIQ_FIELD_KEY_ID, KEY_ID, sizeof(KEY_ID) - 1);
    end = aiq_field_put(end, AIQ_FIELD_LIMIT_KEYS, "0123456789abcdef", AIQ_LIMIT_KEY);
    push(e, AIQ_FRAME_OPEN, 1, 1, payload, (size_t)(end - payload));
    assert_true(turn(e));
}

static void test_the_keys_limit_and_budgets_join_those_of_the_location(void **state)
{
    ends *e = *state;
    keyring_verdict v = good(1);

    v.tokens = 50;
    v.budgets[0] = (policy_budget){POLICY_KEY, POLICY_USD, POLICY_DAY, 9}; /* has one */
    v.budgets[1] = (policy_budget){POLICY_KEY, POLICY_USD, POLICY_MONTH, 10};
    v.n_budgets = 2;
    push_open_limited(e);
    say(e, v);
    assert_string_equal(probe.events, "oe");
    assert_int_equal(probe.job->n_budgets, 3);
    assert_int_equal(probe.job->budgets[0].amount, 5);
    assert_int_equal(probe.job->budgets[1].amount, 6);
    assert_int_equal(probe.job->budgets[2].amount, 10);
    assert_int_equal(probe.job->n_limits, 2);
    assert_int_equal(probe.job->limits[0].tokens, 7);
    assert_int_equal(probe.job->limits[1].tokens, 50);
    assert_int_equal(probe.job->limits[1].window_ms, 60000);
    assert_memory_equal(probe.job->limit_keys, "0123456789abcdef", AIQ_LIMIT_KEY);
    assert_memory_not_equal(probe.job->limit_keys + AIQ_LIMIT_KEY, "0123456789abcdef",
                            AIQ_LIMIT_KEY);
}

static void test_a_key_without_limits_leaves_the_locations(void **state)
{
    ends *e = *state;

    push_open_limited(e);
    say(e, good(1));
    assert_int_equal(probe.job->n_budgets, 2);
    assert_int_equal(probe.job->n_limits, 1);
}

static void test_a_job_of_no_key_may_use_everything(void **state)
{
    ends *e = *state;

    push_open(e, 0, "");
    assert_true(turn(e));
    assert_string_equal(probe.events, "oe");
    assert_true(job_may_use(probe.job, "anything"));
}

static void test_a_job_whose_key_is_gone(void **state)
{
    ends *e = *state;

    push_open(e, 0, KEY_ID);
    assert_true(turn(e));
    say_status(e, 401, 1);
    assert_string_equal(probe.events, "oc");
    expect_failure(e, 401, "key_revoked");
}

static void test_a_job_while_the_source_is_away(void **state)
{
    ends *e = *state;

    source.away = true;
    push_open(e, 0, KEY_ID);
    assert_true(turn(e));
    assert_string_equal(probe.events, "");
    expect_failure(e, 503, "key_unverified");
}

static void test_a_key_id_that_is_none(void **state)
{
    ends *e = *state;

    push_open(e, 0, "key_0123456789012345678901234567890");
    assert_true(turn(e));
    expect_failure(e, 401, "key_revoked");
    assert_int_equal(source.n, 0);
}

static void start_job(ends *e)
{
    epoch_is(e, 1);
    push_open(e, 0, KEY_ID);
    assert_true(turn(e));
    expect_epoch(e, 1);
    say(e, good(1));
    assert_string_equal(probe.events, "oe");
}

static void test_a_running_job_ends_with_its_key(void **state)
{
    ends *e = *state;

    start_job(e);
    epoch_is(e, 2);
    expect_epoch(e, 2);
    assert_int_equal(source.n, 1);
    say_status(e, 401, 2);
    assert_string_equal(probe.events, "oec");
    expect_failure(e, 401, "key_revoked");
    assert_null(e->link->slots[1]);
}

static void test_a_running_job_outlives_other_changes(void **state)
{
    ends *e = *state;

    start_job(e);
    epoch_is(e, 2);
    say(e, good(2));
    assert_string_equal(probe.events, "oe");
    epoch_is(e, 2); /* no change: nothing is asked */
    assert_int_equal(source.n, 0);
}

static void test_a_running_job_while_the_source_is_away(void **state)
{
    ends *e = *state;

    start_job(e);
    source.away = true;
    epoch_is(e, 2);
    assert_string_equal(probe.events, "oe");
    source.away = false;
    epoch_is(e, 2); /* it answers again */
    say_status(e, 403, 2);
    assert_string_equal(probe.events, "oec");
}

static void test_a_job_ends_before_its_key_is_looked_at_again(void **state)
{
    ends *e = *state;

    start_job(e);
    epoch_is(e, 2);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    assert_true(turn(e));
    say_status(e, 401, 2);
    assert_string_equal(probe.events, "oec");
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_verdict_carries_the_identity),
        TEST(test_a_verdict_carries_the_rate_of_requests),
        TEST(test_a_verdict_is_remembered_for_its_epoch),
        TEST(test_nothing_is_remembered_before_the_epoch_is_known),
        TEST(test_one_question_for_all_who_ask_it),
        TEST(test_an_answer_of_an_old_epoch_is_asked_for_again),
        TEST(test_a_source_that_lags_ends_in_503),
        TEST(test_who_is_disabled),
        TEST(test_a_key_whose_time_is_over),
        TEST(test_the_source_is_away),
        TEST(test_questions_are_bounded),
        TEST(test_the_worker_cancels),
        TEST(test_the_link_goes_before_the_answer),
        TEST(test_an_engine_that_leaves),
        TEST(test_wrong_checks_break_the_link),
        TEST(test_a_job_ends_its_body_once_its_key_is_vouched_for),
        TEST(test_a_key_that_is_remembered_costs_no_wait),
        TEST(test_the_keys_limit_and_budgets_join_those_of_the_location),
        TEST(test_a_key_without_limits_leaves_the_locations),
        TEST(test_a_job_of_no_key_may_use_everything),
        TEST(test_a_job_whose_key_is_gone),
        TEST(test_a_job_while_the_source_is_away),
        TEST(test_a_key_id_that_is_none),
        TEST(test_a_running_job_ends_with_its_key),
        TEST(test_a_running_job_outlives_other_changes),
        TEST(test_a_running_job_while_the_source_is_away),
        TEST(test_a_job_ends_before_its_key_is_looked_at_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
