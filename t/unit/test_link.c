/* A link without sockets: frames in, calls of handlers, frames out. */

#include <stdio.h>
#include "link_probe.h"

/* Requests. */
static void test_request_without_a_body(void **state)
{
    ends *e = *state;
    aiq_frame frame;
    aiq_head head;

    p.on_end = answer;
    push_request(e, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "oe");
    memcpy(&head, expect(e, AIQ_FRAME_HEAD, 1, &frame), sizeof(head));
    assert_int_equal(head.status, 200);
    assert_int_equal(head.content_length, 5);
    assert_memory_equal(expect(e, AIQ_FRAME_DATA, 1, &frame), "hello", 5);
    expect(e, AIQ_FRAME_END, 1, &frame);
    assert_null(e->link->slots[1]);
    assert_int_equal(e->link->promised, 0);
}

static void look_at_fields(aiq_job *job)
{
    assert_true(aiq_str_is(job->uri, "/probe"));
    assert_true(aiq_str_is(job->request_id, "req_1"));
    assert_true(aiq_str_is(job->tenant, "acme"));
    assert_true(aiq_str_is(job->role, "user"));
    assert_int_equal(job->n_headers, 1);
    assert_true(aiq_str_is(job->headers[0].name, "x-aiq-a"));
    assert_true(aiq_str_is(job->headers[0].value, "1 2"));
    assert_int_equal(job->conditions, 5);
    assert_int_equal(job->n_hashes, 2);
    assert_int_equal(job->hashes[1], 9);
    assert_string_equal(job->location->service, "probe");
    assert_int_equal(job->dialect, AIQ_DIALECT_OWN);
    answer(job);
}

static void test_fields(void **state)
{
    p.on_end = look_at_fields;
    push_request(*state, 0);
    assert_true(turn(*state));
    assert_string_equal(p.events, "oe");
}

static void test_body_comes_in_pieces(void **state)
{
    ends *e = *state;

    p.on_end = answer;
    push_request(e, 6);
    push(e, AIQ_FRAME_BODY, 1, 1, "abc", 3);
    assert_true(turn(e));
    assert_string_equal(p.events, "ob");
    push(e, AIQ_FRAME_BODY, 1, 1, "def", 3);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "obbe");
    assert_memory_equal(p.body, "abcdef", 6);
}

static void test_a_job_may_end_in_open(void **state)
{
    ends *e = *state;

    p.on_open = answer;
    push_request(e, 3);
    push(e, AIQ_FRAME_BODY, 1, 1, "abc", 3);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "o");
    /* what still came for it was dropped, and the slot is free */
    push_open(e, 1, 2, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    assert_true(turn(e));
    assert_string_equal(p.events, "oo");
}

static void test_refusals(void **state)
{
    ends *e = *state;

    push_open(e, 1, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/elsewhere");
    push_open(e, 2, 1, &(aiq_open){.method = AIQ_METHOD_PUT}, "/probe");
    push_open(e, 3, 1, &(aiq_open){.location = 1, .method = AIQ_METHOD_GET}, "/probe");
    push_open(e, 4, 1, &(aiq_open){.location = 2, .method = AIQ_METHOD_POST, .body_length = 11},
              "/probe");
    push_open(e, 5, 1, &(aiq_open){.location = 2, .method = AIQ_METHOD_POST, .body_length = -1},
              "/probe");
    push(e, AIQ_FRAME_BODY, 5, 1, "01234567890", 11);
    assert_true(turn(e));
    expect_failure(e, 1, 404, "not_found");
    expect_failure(e, 2, 405, "method_not_allowed");
    expect_failure(e, 3, 503, "service_unknown");
    expect_failure(e, 4, 413, "body_too_large");
    expect_failure(e, 5, 413, "body_too_large");
    expect_nothing(e);
}

static void test_failure_after_the_head(void **state)
{
    ends *e = *state;
    aiq_frame frame;
    aiq_err err;

    push_request(e, -1);
    assert_true(turn(e));
    job_head(p.job, &(job_reply){.status = 200, .content_length = -1});
    aiq_fail(&err, 502, "provider_error", "It broke.");
    job_fail(p.job, &err);
    assert_true(turn(e));
    expect(e, AIQ_FRAME_HEAD, 1, &frame);
    expect_failure(e, 1, 502, "provider_error");
}

static void test_usage_precedes_the_end(void **state)
{
    ends *e = *state;
    aiq_usage usage = {3, 4, -1, 0};
    aiq_frame frame;

    push_request(e, -1);
    assert_true(turn(e));
    job_usage(p.job, &usage);
    job_head(p.job, &(job_reply){.status = 200, .content_length = -1, .stream = true});
    assert_int_equal(e->loop.links->n_streams, 1);
    assert_int_equal(job_write(p.job, "x", 1, true), 1);
    job_end(p.job);
    assert_true(turn(e));
    expect(e, AIQ_FRAME_HEAD, 1, &frame);
    expect(e, AIQ_FRAME_DATA, 1, &frame);
    assert_int_equal(frame.flags, AIQ_DATA_FLUSH);
    assert_memory_equal(expect(e, AIQ_FRAME_USAGE, 1, &frame), &usage, sizeof(usage));
    expect(e, AIQ_FRAME_END, 1, &frame);
}

/* Credit. */

/* The worker need not wait for the end of a long turn. */
static void test_much_is_shown_at_once(void **state)
{
    static const char data[AIQ_RING_SHOW];
    ends *e = *state;
    aiq_frame frame;

    push_request(e, -1);
    assert_true(turn(e));
    job_head(p.job, &(job_reply){.status = 200, .content_length = -1});
    assert_int_equal(job_write(p.job, "little", 6, true), 6);
    expect_nothing(e);
    assert_int_equal(job_write(p.job, data, sizeof(data), true), sizeof(data));
    assert_int_equal(job_write(p.job, "more", 4, true), 4);
    expect(e, AIQ_FRAME_HEAD, 1, &frame);
    assert_memory_equal(expect(e, AIQ_FRAME_DATA, 1, &frame), "little", 6);
    expect(e, AIQ_FRAME_DATA, 1, &frame);
    assert_int_equal(frame.len, sizeof(data));
    expect_nothing(e);
    assert_true(turn(e));
    assert_memory_equal(expect(e, AIQ_FRAME_DATA, 1, &frame), "more", 4);
    job_end(p.job);
}

static void test_output_stays_within_credit(void **state)
{
    static uint8_t text[3 * AIQ_WINDOW];
    ends *e = *state;
    aiq_frame frame;
    uint32_t more = 100;

    push_request(e, -1);
    assert_true(turn(e));
    job_head(p.job, &(job_reply){.status = 200, .content_length = -1});
    size_t room = job_room(p.job);
    assert_true(room < AIQ_WINDOW && room >= AIQ_WINDOW - 64);
    assert_int_equal(job_write(p.job, text, sizeof(text), false), room);
    assert_int_equal(job_room(p.job), 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "o");

    push(e, AIQ_FRAME_CREDIT, 1, 1, &more, sizeof(more));
    assert_true(turn(e));
    assert_string_equal(p.events, "ow");
    assert_int_equal(job_write(p.job, text, 60, false), 60);
    /* nothing was refused, so nothing is announced */
    push(e, AIQ_FRAME_CREDIT, 1, 1, &more, sizeof(more));
    assert_true(turn(e));
    assert_string_equal(p.events, "ow");
    expect(e, AIQ_FRAME_HEAD, 1, &frame);
    expect(e, AIQ_FRAME_DATA, 1, &frame);
    assert_int_equal(frame.len, room);
    expect(e, AIQ_FRAME_DATA, 1, &frame);
    assert_int_equal(frame.len, 60);
}

static void answer_large(aiq_job *job)
{
    static char text[5 * AIQ_WINDOW];

    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char)('a' + i % 23);
    }
    job_reply_all(job, 200, NULL, text, sizeof(text));
}

static void test_a_reply_larger_than_the_window(void **state)
{
    ends *e = *state;
    aiq_frame frame = {0};
    const uint8_t *payload;
    uint32_t more = 1000;
    size_t got = 0;

    p.on_end = answer_large;
    push_request(e, 0);
    assert_true(turn(e));
    expect(e, AIQ_FRAME_HEAD, 1, &frame);
    for (int i = 0; i < 100 && frame.type != AIQ_FRAME_END; i++) {
        while (aiq_ring_next(&e->worker, &frame, &payload) == 1 &&
               frame.type == AIQ_FRAME_DATA) {
            for (uint32_t k = 0; k < frame.len; k++, got++) {
                assert_int_equal(payload[k], 'a' + got % 23);
            }
        }
        push(e, AIQ_FRAME_CREDIT, 1, 1, &more, sizeof(more));
        assert_true(turn(e));
    }
    assert_int_equal(frame.type, AIQ_FRAME_END);
    assert_int_equal(got, 5 * AIQ_WINDOW);
}

static void test_input_is_granted_as_it_is_consumed(void **state)
{
    static uint8_t text[AIQ_WINDOW];
    ends *e = *state;
    aiq_frame frame;
    uint32_t grant;

    push_request(e, -1);
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
    assert_true(turn(e));
    expect_nothing(e);
    assert_int_equal(e->link->promised, AIQ_WINDOW);

    job_consumed(p.job, AIQ_WINDOW);
    assert_true(turn(e));
    memcpy(&grant, expect(e, AIQ_FRAME_CREDIT, 1, &frame), sizeof(grant));
    assert_int_equal(grant, AIQ_WINDOW_ACTIVE);
    assert_int_equal(e->link->promised, AIQ_WINDOW_ACTIVE);
}

static void test_what_is_held_counts_as_promised(void **state)
{
    static uint8_t text[AIQ_WINDOW];
    ends *e = *state;
    aiq_frame frame;
    uint32_t grant;

    push_request(e, -1);
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
    assert_true(turn(e));
    job_consumed(p.job, 1);
    assert_true(turn(e));
    memcpy(&grant, expect(e, AIQ_FRAME_CREDIT, 1, &frame), sizeof(grant));
    assert_int_equal(grant, AIQ_WINDOW_ACTIVE - (AIQ_WINDOW - 1));
}

static void test_no_credit_where_the_rest_is_covered(void **state)
{
    ends *e = *state;
    static uint8_t text[5000];

    push_request(e, 6000);
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
    assert_true(turn(e));
    job_consumed(p.job, sizeof(text));
    assert_true(turn(e));
    expect_nothing(e);
}

static void test_a_service_without_body_consumes_it(void **state)
{
    static uint8_t text[AIQ_WINDOW];
    ends *e = *state;
    aiq_frame frame;

    push_open(e, 1, 1, &(aiq_open){.method = AIQ_METHOD_POST, .body_length = -1}, "/sink");
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
    assert_true(turn(e));
    expect(e, AIQ_FRAME_CREDIT, 1, &frame);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "e");
}

/* The end of jobs. */

/* Work that outlives its client. */

static aiq_job *kept;

static void keep(aiq_job *job)
{
    kept = job_keep(job) ? job : NULL;
}

static void released(void *arg)
{
    note(arg, "r");
}

static void keep_from_the_start(aiq_job *job)
{
    aiq_pool_cleanup(job->pool, released, job);
    keep(job);
}

static void test_a_job_may_outlive_its_client(void **state)
{
    ends *e = *state;

    p.on_cancel = keep;
    push_request(e, -1);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    push_open(e, 1, 2, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    assert_true(turn(e));
    assert_string_equal(p.events, "ocoe"); /* the slot is another's */
    assert_non_null(kept);
    assert_int_equal(e->loop.links->n_jobs, 2);

    assert_int_equal(job_write(kept, "x", 1, true), 0);
    assert_int_equal(job_room(kept), 0);
    job_end(kept);
    expect_nothing(e);
    job_release(kept);
    assert_int_equal(e->loop.links->n_jobs, 1);
}

static void test_it_may_outlive_its_link(void **state)
{
    ends *e = *state;

    p.on_cancel = keep;
    push_request(e, -1);
    assert_true(turn(e));
    push(e, 99, 1, 1, NULL, 0); /* no such frame */
    assert_false(turn(e));
    assert_string_equal(kept->policy->locations[0].service, "probe");
    assert_int_equal(e->loop.links->n_jobs, 1);
    job_release(kept);
}

static void test_it_may_outlive_its_reply(void **state)
{
    ends *e = *state;

    p.on_open = keep_from_the_start;
    p.on_end = answer;
    push_request(e, 0);
    assert_true(turn(e));
    assert_null(e->link->slots[1]);
    assert_string_equal(p.events, "oe");
    job_release(kept);
    assert_string_equal(p.events, "oer");
}

static void test_but_not_the_engine(void **state)
{
    ends *e = *state;

    p.on_cancel = keep;
    push_request(e, -1);
    push_open(e, 2, 1, &(aiq_open){.method = AIQ_METHOD_POST, .body_length = -1}, "/probe");
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_non_null(kept);
    assert_string_equal(p.events, "ooc");
    link_end_close(e->loop.links, true);
    assert_string_equal(p.events, "ooccc"); /* both of them */
    assert_null(kept);
    assert_int_equal(e->loop.links->n_jobs, 0);
}

static void test_cancel(void **state)
{
    ends *e = *state;

    push_request(e, -1);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    push_open(e, 1, 2, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    assert_true(turn(e));
    assert_string_equal(p.events, "ocoe");
    expect_nothing(e);
}

static void test_end_releases_a_charge(void **state)
{
    const aiq_open open = {.method = AIQ_METHOD_GET};
    ends *e = *state;

    push_open(e, 1, 1, &open, "/charge");
    assert_true(turn(e));
    assert_string_equal(p.events, "e");
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "erc");
    push_open(e, 1, 2, &open, "/charge");
    push(e, AIQ_FRAME_CANCEL, 1, 2, NULL, 0);
    assert_true(turn(e));
    assert_string_equal(p.events, "ercec");
}

static void test_frames_of_an_older_generation_are_dropped(void **state)
{
    ends *e = *state;

    push_open(e, 1, 7, &(aiq_open){.method = AIQ_METHOD_POST, .body_length = -1}, "/probe");
    push(e, AIQ_FRAME_BODY, 1, 6, "old", 3);
    push(e, AIQ_FRAME_CANCEL, 1, 6, NULL, 0);
    push(e, AIQ_FRAME_BODY, 2, 1, "none", 4);
    assert_true(turn(e));
    assert_string_equal(p.events, "o");
}

static void test_the_link_takes_its_jobs_along(void **state)
{
    ends *e = *state;

    push_request(e, -1);
    assert_true(turn(e));
    link_end_close(e->loop.links, false);
    assert_string_equal(p.events, "oc");
    assert_null(e->loop.links->links);
}

static void test_leaving_cuts_with_an_error(void **state)
{
    ends *e = *state;

    push_request(e, -1);
    assert_true(turn(e));
    link_end_close(e->loop.links, true);
    assert_string_equal(p.events, "oc");
    expect_failure(e, 1, 503, "engine_leaving");
}

static void test_draining_tells_the_worker(void **state)
{
    ends *e = *state;
    aiq_frame frame;
    uint32_t notice;

    push_request(e, -1);
    assert_true(turn(e));
    link_end_drain(e->loop.links);
    assert_true(turn(e));
    memcpy(&notice, expect(e, AIQ_FRAME_NOTICE, 0, &frame), sizeof(notice));
    assert_int_equal(notice, AIQ_NOTICE_DRAIN);
    /* a job that was on its way is still served */
    p.on_end = answer;
    push_open(e, 2, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    assert_true(turn(e));
    expect(e, AIQ_FRAME_HEAD, 2, &frame);
}

/* A full ring. */

enum { MANY = 1200 };

static void test_a_full_ring_delays_and_loses_nothing(void **state)
{
    static size_t got[MANY];
    static bool ended[MANY];
    ends *e = *state;
    aiq_frame frame;
    const uint8_t *payload;
    unsigned n_ended = 0;

    memset(got, 0, sizeof(got));
    p.on_end = p.on_writable = write_window;
    for (uint32_t i = 0; i < MANY; i++) {
        p.events[0] = '\0';
        push_open(e, i, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
        assert_true(turn(e));
    }
    assert_non_null(e->link->waiting);
    for (int i = 0; i < MANY && n_ended < MANY; i++) {
        while (aiq_ring_next(&e->worker, &frame, &payload) == 1) {
            assert_false(ended[frame.slot]);
            got[frame.slot] += frame.type == AIQ_FRAME_DATA ? frame.len : 0;
            ended[frame.slot] = frame.type == AIQ_FRAME_END;
            n_ended += frame.type == AIQ_FRAME_END;
        }
        p.events[0] = '\0';
        assert_true(turn(e));
    }
    assert_int_equal(n_ended, MANY);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(got[i], 4096);
    }
    assert_null(e->link->waiting);
    assert_int_equal(e->link->promised, 0);
}

static void test_a_cancelled_job_leaves_the_waiting_list(void **state)
{
    ends *e = *state;
    uint32_t waiting = 0;

    p.on_end = p.on_writable = write_window;
    for (uint32_t i = 0; i < MANY; i++) {
        p.events[0] = '\0';
        push_open(e, i, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
        assert_true(turn(e));
    }
    for (uint32_t i = 0; i < MANY; i++) {
        p.events[0] = '\0';
        push(e, AIQ_FRAME_CANCEL, i, 1, NULL, 0);
    }
    for (int i = 0; i < MANY / LINK_BATCH + 1; i++) {
        assert_true(turn(e));
        p.events[0] = '\0';
    }
    for (link_job *j = e->link->waiting; j; j = j->next) {
        waiting++;
    }
    assert_int_equal(waiting, 0);
    assert_int_equal(e->link->n_jobs, 0);
}

/* Questions before content. */

static void test_without_redis_nobody_can_say(void **state)
{
    ends *e = *state;
    aiq_answer answer;
    aiq_frame frame;

    push_ask(e, 1, SHARED, AIQ_LIMIT_KEY);
    push(e, AIQ_FRAME_CANCEL, 1, 1, NULL, 0); /* too late, and no harm */
    push_ask(e, 1, SHARED, AIQ_LIMIT_KEY);
    assert_true(turn(e));
    for (int i = 0; i < 2; i++) {
        memcpy(&answer, expect(e, AIQ_FRAME_ANSWER, 1, &frame), sizeof(answer));
        assert_int_equal(frame.len, sizeof(answer));
        assert_int_equal(answer.status, 503);
    }
    assert_null(e->link->slots[1]);
}
int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_request_without_a_body),
        TEST(test_fields),
        TEST(test_body_comes_in_pieces),
        TEST(test_a_job_may_end_in_open),
        TEST(test_refusals),
        TEST(test_failure_after_the_head),
        TEST(test_usage_precedes_the_end),
        TEST(test_much_is_shown_at_once),
        TEST(test_output_stays_within_credit),
        TEST(test_a_reply_larger_than_the_window),
        TEST(test_input_is_granted_as_it_is_consumed),
        TEST(test_what_is_held_counts_as_promised),
        TEST(test_no_credit_where_the_rest_is_covered),
        TEST(test_a_service_without_body_consumes_it),
        TEST(test_cancel),
        TEST(test_end_releases_a_charge),
        TEST(test_a_job_may_outlive_its_client),
        TEST(test_it_may_outlive_its_link),
        TEST(test_it_may_outlive_its_reply),
        TEST(test_but_not_the_engine),
        TEST(test_without_redis_nobody_can_say),
        TEST(test_frames_of_an_older_generation_are_dropped),
        TEST(test_the_link_takes_its_jobs_along),
        TEST(test_leaving_cuts_with_an_error),
        TEST(test_draining_tells_the_worker),
        TEST(test_a_full_ring_delays_and_loses_nothing),
        TEST(test_a_cancelled_job_leaves_the_waiting_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
