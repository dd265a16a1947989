/*
 * A link without sockets: frames in, calls of handlers, frames out. The test is
 * the worker, and has a service table of its own.
 */

#include "unit.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/log.h"
#include "link/counts.h"
#include "link/link.h"
#include "services/service.h"

/* The service: it notes what happens and does what the test has asked for. */

typedef struct {
    char events[256]; /* o open, b body, e end, w writable, c cancel */
    aiq_job *job;
    uint8_t body[200000];
    size_t n_body;
    void (*on_open)(aiq_job *job);
    void (*on_body)(aiq_job *job, const uint8_t *data, size_t n);
    void (*on_end)(aiq_job *job);
    void (*on_writable)(aiq_job *job);
    void (*on_cancel)(aiq_job *job);
} probe;

static probe p;

static void note(aiq_job *job, const char *what)
{
    strcat(p.events, what);
    p.job = job;
}

static void probe_open(aiq_job *job)
{
    note(job, "o");
    if (p.on_open) {
        p.on_open(job);
    }
}

static void probe_body(aiq_job *job, const uint8_t *data, size_t n)
{
    note(job, "b");
    if (p.n_body + n <= sizeof(p.body)) {
        memcpy(p.body + p.n_body, data, n);
    }
    p.n_body += n;
    if (p.on_body) {
        p.on_body(job, data, n);
    }
}

static void probe_end(aiq_job *job)
{
    note(job, "e");
    if (p.on_end) {
        p.on_end(job);
    }
}

static void probe_writable(aiq_job *job)
{
    note(job, "w");
    if (p.on_writable) {
        p.on_writable(job);
    }
}

static void probe_cancel(aiq_job *job)
{
    note(job, "c");
    if (p.on_cancel) {
        p.on_cancel(job);
    }
}

static void probe_release(aiq_job *job)
{
    note(job, "r");
}

static const job_handler charge = {
    .end = probe_end, .release = probe_release, .cancel = probe_cancel};
static const job_handler handler = {probe_open, probe_body, probe_end, probe_writable,
                                    probe_cancel};
static const job_handler sink = {.end = probe_end};
static const aiq_route routes[] = {{AIQ_METHOD_POST, "/probe", PERMIT_NONE, &handler, "Probe"},
                                   {AIQ_METHOD_GET, "/probe", PERMIT_NONE, &handler, "Probe"},
                                   {AIQ_METHOD_POST, "/sink", PERMIT_NONE, &sink, "Sink"},
                                   {AIQ_METHOD_GET, "/charge", PERMIT_NONE, &charge, "Due"}};
static const aiq_service service = {.name = "probe", .routes = routes, .n_routes = 4};
const aiq_service *const aiq_services[] = {&service, NULL};

const aiq_service *service_find(const char *name)
{
    return strcmp(name, "probe") == 0 ? &service : NULL;
}

/* The two ends. */

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    link_counts *counts;
    aiq_link *link;
    aiq_ring worker;
} ends;

static const char policy[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],\"locations\":["
    "{\"service\":\"probe\",\"max_body\":0},{\"service\":\"nothing\",\"max_body\":0},"
    "{\"service\":\"probe\",\"max_body\":10},"
    "{\"service\":\"probe\",\"max_body\":0,\"limits\":["
    "{\"zone\":\"z\",\"tokens\":9,\"window_ms\":1000,\"keys\":9}]},"
    "{\"service\":\"limits\",\"max_body\":0,\"rates\":["
    "{\"zone\":\"z\",\"requests\":1,\"window_ms\":1000,\"grain_ms\":1,\"burst\":0,"
    "\"dry_run\":false}]}]}";

#define SHARED 4 /* the last location */

/* The same memory twice: the engine's view goes with the link, ours stays. */
static void map_twice(void **engine, void **worker)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, AIQ_MAP_SIZE), 0);
    *engine = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *worker = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

static void connect_worker(ends *e)
{
    link_parts parts = {.fd = -1};
    void *mine, *peer;

    map_twice(&parts.mine, &peer);
    map_twice(&parts.peer, &mine);
    parts.policy = policy_parse(policy, strlen(policy), NULL);
    aiq_ring_init(&e->worker, mine, peer);
    e->link = link_open(e->loop.links, &parts);
}

static void unmap_worker(const aiq_ring *worker)
{
    munmap(worker->mine, AIQ_MAP_SIZE);
    munmap((void *)worker->peer, AIQ_MAP_SIZE);
}

static int setup(void **state)
{
    ends *e = calloc(1, sizeof(*e));

    *state = e;
    memset(&p, 0, sizeof(p));
    aiq_log_init(AIQ_LOG_ERROR);
    e->engine.metrics = metrics_new();
    loop_init(&e->loop, &e->engine, 0, NULL);
    e->counts = link_counts_new(e->engine.metrics);
    e->loop.links = link_end_new(&e->loop, e->counts);
    connect_worker(e);
    return 0;
}

static int teardown(void **state)
{
    ends *e = *state;

    link_end_close(e->loop.links, false);
    assert_int_equal(e->loop.links->n_jobs, 0);
    assert_int_equal(e->loop.links->n_streams, 0);
    link_end_free(e->loop.links);
    unmap_worker(&e->worker);
    loop_free(&e->loop);
    free(e->counts);
    metrics_free(e->engine.metrics);
    free(e);
    return 0;
}

static void push(ends *e, int type, uint32_t slot, uint32_t generation, const void *data,
                 size_t n)
{
    void *to = aiq_ring_push(&e->worker, (uint8_t)type, 0, slot, generation, (uint32_t)n);

    assert_non_null(to);
    if (n) {
        memcpy(to, data, n);
    }
}

static void push_open(ends *e, uint32_t slot, uint32_t generation, const aiq_open *open,
                      const char *uri)
{
    uint8_t payload[256], *end = payload + sizeof(*open);

    memcpy(payload, open, sizeof(*open));
    end = aiq_field_put(end, AIQ_FIELD_URI, uri, (uint16_t)strlen(uri));
    end = aiq_field_put(end, AIQ_FIELD_REQUEST_ID, "req_1", 5);
    end = aiq_field_put(end, AIQ_FIELD_TENANT, "acme", 4);
    end = aiq_field_put(end, 999, "unknown", 7);
    end = aiq_field_put(end, AIQ_FIELD_HEADER, "x-aiq-a: 1 2", 12);
    end = aiq_field_put(end, AIQ_FIELD_CONDITIONS, &(uint64_t){5}, sizeof(uint64_t));
    end = aiq_field_put(end, AIQ_FIELD_HASHES, (uint32_t[]){8, 9}, 2 * sizeof(uint32_t));
    push(e, AIQ_FRAME_OPEN, slot, generation, payload, (size_t)(end - payload));
}

/* A request for slot 1, generation 1, at /probe. */
static void push_request(ends *e, int64_t length)
{
    const aiq_open open = {.method = length ? AIQ_METHOD_POST : AIQ_METHOD_GET,
                           .body_length = length};

    push_open(e, 1, 1, &open, "/probe");
}

/* A turn of the engine; false: it has closed the link. */
static bool turn(ends *e)
{
    aiq_ring_publish(&e->worker);
    aiq_ring_release(&e->worker);
    if (!link_turn(e->link)) {
        e->link = NULL;
        return false;
    }
    link_settle(e->link);
    return true;
}

/* The next frame from the engine must be of this type. */
static const uint8_t *expect(ends *e, int type, uint32_t slot, aiq_frame *frame)
{
    const uint8_t *payload = NULL;

    assert_int_equal(aiq_ring_next(&e->worker, frame, &payload), 1);
    assert_int_equal(frame->type, type);
    assert_int_equal(frame->slot, slot);
    return payload;
}

static void expect_nothing(ends *e)
{
    aiq_frame frame;
    const uint8_t *payload;

    assert_int_equal(aiq_ring_next(&e->worker, &frame, &payload), 0);
}

static void expect_failure(ends *e, uint32_t slot, unsigned status, const char *code)
{
    aiq_frame frame;
    aiq_failure failure;
    const uint8_t *payload = expect(e, AIQ_FRAME_ERROR, slot, &frame), *data;
    aiq_fields fields = {payload + sizeof(failure), payload + frame.len};
    uint16_t id, len;

    memcpy(&failure, payload, sizeof(failure));
    assert_int_equal(failure.status, status);
    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        if (id == AIQ_FIELD_CODE) {
            assert_int_equal(len, strlen(code));
            assert_memory_equal(data, code, len);
            return;
        }
    }
    fail();
}

/* Requests. */

static void answer(aiq_job *job)
{
    job_reply_all(job, 200, "text/plain", "hello", 5);
}

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

static void write_window(aiq_job *job)
{
    static uint8_t text[AIQ_WINDOW];
    size_t *sent = job->state;

    if (sent == NULL) {
        job_head(job, &(job_reply){.status = 200, .content_length = -1});
        job->state = sent = aiq_pool_zalloc(job->pool, sizeof(*sent));
    }
    *sent += job_write(job, text, 4096 - *sent, false);
    if (*sent == 4096) {
        job_end(job);
    }
}

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

static void push_ask(ends *e, uint32_t slot, uint32_t location, uint16_t key)
{
    static const uint8_t keys[AIQ_LIMIT_KEY + 1] = "key";
    const aiq_ask ask = {.location = location};
    uint8_t payload[128], *end = payload + sizeof(ask);

    memcpy(payload, &ask, sizeof(ask));
    end = aiq_field_put(end, AIQ_FIELD_REQUEST_ID, "req-1", 5);
    end = aiq_field_put(end, AIQ_FIELD_RATE_KEYS, keys, key);
    push(e, AIQ_FRAME_ASK, slot, 1, payload, (size_t)(end - payload));
}

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

/* Workers that break the rules: the link goes, its jobs are cancelled. */

typedef struct {
    const char *what;
    void (*act)(ends *e);
} crime;

static void bad_slot(ends *e)
{
    push(e, AIQ_FRAME_OPEN, AIQ_SLOTS, 1, "", 0);
}

static void busy_slot(ends *e)
{
    push_request(e, -1);
    push_request(e, -1);
}

static void bad_location(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.location = 3, .method = AIQ_METHOD_GET}, "/probe");
}

static void bad_method(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.method = 9}, "/probe");
}

static void bad_length(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.method = AIQ_METHOD_GET, .body_length = -2}, "/probe");
}

static void short_open(ends *e)
{
    push(e, AIQ_FRAME_OPEN, 2, 1, "1234", 4);
}

static void long_open(ends *e)
{
    static uint8_t payload[AIQ_OPEN_MAX + 16];

    payload[4] = AIQ_METHOD_GET;
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, sizeof(payload));
}

static void field_outside(ends *e)
{
    uint8_t payload[sizeof(aiq_open) + 8] = {[4] = AIQ_METHOD_GET};
    const uint16_t field[2] = {AIQ_FIELD_URI, 5};

    memcpy(payload + sizeof(aiq_open), field, 4);
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, sizeof(payload));
}

static void no_uri(ends *e)
{
    aiq_open open = {.method = AIQ_METHOD_GET};

    push(e, AIQ_FRAME_OPEN, 2, 1, &open, sizeof(open));
}

static void bad_header(ends *e)
{
    aiq_open open = {.method = AIQ_METHOD_GET};
    uint8_t payload[64], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, AIQ_FIELD_HEADER, "x-a: 1\r\nhost: evil", 18);
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, (size_t)(end - payload));
}

static void push_numbers(ends *e, uint16_t id, uint16_t len)
{
    static const uint8_t numbers[64];
    aiq_open open = {.method = AIQ_METHOD_GET};
    uint8_t payload[128], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, id, numbers, len);
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, (size_t)(end - payload));
}

static void short_conditions(ends *e)
{
    push_numbers(e, AIQ_FIELD_CONDITIONS, 7);
}

static void half_a_hash(ends *e)
{
    push_numbers(e, AIQ_FIELD_HASHES, 6);
}

static void too_many_hashes(ends *e)
{
    push_numbers(e, AIQ_FIELD_HASHES, (AIQ_HASHES_MAX + 1) * sizeof(uint32_t));
}

static void keys_without_limits(ends *e)
{
    push_numbers(e, AIQ_FIELD_LIMIT_KEYS, AIQ_LIMIT_KEY);
}

static void half_a_charge(ends *e)
{
    push_numbers(e, AIQ_FIELD_CHARGE, 8);
}

static void limits_without_keys(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.location = 3, .method = AIQ_METHOD_GET}, "/probe");
}

static void short_ask(ends *e)
{
    push(e, AIQ_FRAME_ASK, 2, 1, "1234", 4);
}

static void ask_about_nothing(ends *e)
{
    push_ask(e, 2, SHARED + 1, AIQ_LIMIT_KEY);
}

static void ask_without_a_key(ends *e)
{
    push_ask(e, 2, SHARED, AIQ_LIMIT_KEY + 1);
}

static void ask_in_a_job(ends *e)
{
    push_request(e, -1);
    push_ask(e, 1, SHARED, AIQ_LIMIT_KEY);
}

static void over_credit(ends *e)
{
    static uint8_t text[AIQ_WINDOW + 1];

    push_request(e, -1);
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
}

static void over_length(ends *e)
{
    push_request(e, 3);
    push(e, AIQ_FRAME_BODY, 1, 1, "1234", 4);
}

static void early_end(ends *e)
{
    push_request(e, 3);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
}

static void second_end(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
}

static void body_after_end(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_BODY, 1, 1, "x", 1);
}

static void short_credit(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_CREDIT, 1, 1, "x", 1);
}

static void endless_credit(ends *e)
{
    const uint32_t more = UINT32_MAX;

    push_request(e, -1);
    push(e, AIQ_FRAME_CREDIT, 1, 1, &more, sizeof(more));
}

static void unknown_type(ends *e)
{
    push_request(e, -1);
    push(e, 200, 1, 1, NULL, 0);
}

static void tail_too_far(ends *e)
{
    e->worker.mine->tail = AIQ_RING_SIZE + 16;
}

static void half_a_header(ends *e)
{
    e->worker.mine->tail = 8;
}

static void frame_beyond_tail(ends *e)
{
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    ((aiq_frame *)e->worker.tx)->len = 100;
}

static void frame_too_long(ends *e)
{
    for (int i = 0; i < 3; i++) {
        assert_non_null(aiq_ring_push(&e->worker, AIQ_FRAME_END, 0, 1, 1, AIQ_FRAME_MAX));
    }
    ((aiq_frame *)e->worker.tx)->len = AIQ_FRAME_MAX + 16;
}

static void head_too_far(ends *e)
{
    p.on_end = p.on_writable = write_window;
    e->worker.mine->head = 1; /* beyond what the engine has written */
    e->link->ring.peer_head = e->link->ring.tail - AIQ_RING_SIZE; /* so that it looks */
    push_open(e, 1, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    aiq_ring_publish(&e->worker);
}

static void test_crimes(void **state)
{
    static const crime crimes[] = {
        {"a slot out of range", bad_slot},
        {"a slot in use", busy_slot},
        {"an unknown location", bad_location},
        {"an unknown method", bad_method},
        {"a negative length", bad_length},
        {"a short OPEN", short_open},
        {"a long OPEN", long_open},
        {"a field that leads outside", field_outside},
        {"no URI", no_uri},
        {"a line end in a header", bad_header},
        {"conditions too short", short_conditions},
        {"half a hash", half_a_hash},
        {"too many hashes", too_many_hashes},
        {"keys without limits", keys_without_limits},
        {"limits without keys", limits_without_keys},
        {"a short ASK", short_ask},
        {"an ASK about nothing", ask_about_nothing},
        {"an ASK without a key", ask_without_a_key},
        {"an ASK in a job", ask_in_a_job},
        {"half a charge", half_a_charge},
        {"BODY beyond credit", over_credit},
        {"BODY beyond length", over_length},
        {"END too early", early_end},
        {"END twice", second_end},
        {"BODY after END", body_after_end},
        {"a short CREDIT", short_credit},
        {"endless credit", endless_credit},
        {"an unknown type", unknown_type},
        {"a tail beyond the ring", tail_too_far},
        {"half a frame header", half_a_header},
        {"a frame beyond the tail", frame_beyond_tail},
        {"a frame beyond AIQ_FRAME_MAX", frame_too_long},
        {"a head beyond our tail", head_too_far},
    };
    ends *e = *state;

    for (size_t i = 0; i < sizeof(crimes) / sizeof(crimes[0]); i++) {
        aiq_link *honest = e->link;
        aiq_ring honest_worker = e->worker;

        memset(&p, 0, sizeof(p));
        connect_worker(e);
        crimes[i].act(e);
        if (turn(e)) {
            fail_msg("%s: the link lives on", crimes[i].what);
        }
        assert_true(strchr(p.events, 'o') == NULL || strchr(p.events, 'c') != NULL);

        memset(&p, 0, sizeof(p));
        unmap_worker(&e->worker);
        e->link = honest;
        e->worker = honest_worker;
        p.on_end = answer;
        push_open(e, 1, (uint32_t)i, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
        assert_true(turn(e));
        assert_string_equal(p.events, "oe");
    }
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
        TEST(test_crimes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
