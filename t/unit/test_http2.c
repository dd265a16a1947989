/* Requests over HTTP/2, and peers that do what one would rather they did not. */

#include "unit.h"
#include "core/loop.h"
#include "http2_peer.h"
#include "providers/http2.h"

#define SECOND 1000000000ull

typedef struct {
    aiq_loop loop;
    http2_peer peer;
    loop_timer tick; /* so that waiting ends */
    uint32_t first_byte_ms;
} bench;

typedef struct {
    http_request *http; /* NULL: it is over */
    bool pauses;        /* at the first piece */
    unsigned heads, status, pieces, failures;
    int64_t length;
    uint64_t body;
    bool garbled, done;
    aiq_err err;
} request;

static void on_head(void *arg, const http_head *head)
{
    request *r = arg;

    r->heads++;
    r->status = head->status;
    r->length = head->length;
}

static void on_body(void *arg, aiq_str piece)
{
    request *r = arg;

    for (size_t i = 0; i < piece.len; i++) {
        r->garbled |= piece.data[i] != (char)('a' + (r->body + i) % 26);
    }
    r->body += piece.len;
    if (r->pieces++ == 0 && r->pauses) {
        http_pause(r->http);
    }
}

static void on_done(void *arg)
{
    request *r = arg;

    r->done = true;
    r->http = NULL;
}

static void on_failed(void *arg, const aiq_err *err)
{
    request *r = arg;

    r->failures++;
    r->err = *err;
    r->http = NULL;
}

static const http_events events = {on_head, on_body, on_done, on_failed};

static void on_tick(aiq_loop *loop, void *arg)
{
    bench *b = arg;

    loop_timer_start(loop, &b->tick, 5, on_tick, b);
}

static int setup(void **state)
{
    bench *b = calloc(1, sizeof(*b));

    *state = b;
    b->first_byte_ms = 30000;
    assert_true(loop_init(&b->loop, NULL, 0, NULL));
    peer_start(&b->peer, &b->loop.uv);
    on_tick(&b->loop, b);
    return 0;
}

static void turn(bench *b)
{
    uv_run(&b->loop.uv, UV_RUN_ONCE);
}

static int teardown(void **state)
{
    bench *b = *state;

    peer_stop(&b->peer);
    while (b->peer.open) {
        turn(b);
    }
    loop_timer_stop(&b->loop, &b->tick);
    loop_stop(&b->loop);
    loop_run(&b->loop);
    loop_free(&b->loop);
    free(b);
    return 0;
}

#define wait_until(b, condition)                                                               \
    do {                                                                                       \
        uint64_t end_ns = loop_now_ns() + 60 * SECOND;                                         \
        while (!(condition)) {                                                                 \
            assert_true(loop_now_ns() < end_ns);                                               \
            turn(b);                                                                           \
        }                                                                                      \
    } while (0)

static void start_with(bench *b, request *r, const char *path, const aiq_str *body, size_t n)
{
    char url[64];
    http_call call = {
        .method = "POST",
        .url = url,
        .via = {.http2 = true},
        .path = path,
        .headers = AIQ_STR("Content-Type: application/json\r\nAuthorization: Bearer k\r\n"),
        .body = body,
        .n_body = n,
        .connect_ms = 30000,
        .first_byte_ms = b->first_byte_ms,
        .idle_ms = 30000,
        .total_ms = 60000,
    };

    snprintf(url, sizeof(url), "http://127.0.0.1:%u", b->peer.port);
    r->http = http_start(&b->loop, &call, &events, r);
    assert_non_null(r->http);
    assert_int_equal(r->failures + r->heads, 0);
}

static void start(bench *b, request *r, const char *path)
{
    static const aiq_str body[] = {{"{\"a\":", 5}, {"1}", 2}};

    start_with(b, r, path, body, 2);
}

static void finish(bench *b, request *r)
{
    wait_until(b, r->http == NULL);
    assert_int_equal(r->done + r->failures, 1);
    assert_false(r->garbled);
}

static void works(bench *b)
{
    request r = {0};

    start(b, &r, "/ok");
    finish(b, &r);
    assert_true(r.done);
    assert_int_equal(r.heads, 1);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.length, 100);
    assert_int_equal(r.body, 100);
}

static void fails(bench *b, const char *path, const char *code, const char *detail)
{
    request r = {0};

    start(b, &r, path);
    finish(b, &r);
    assert_int_equal(r.failures, 1);
    assert_string_equal(r.err.code, code);
    assert_true(r.err.retryable);
    assert_non_null(strstr(r.err.detail, detail));
}

/* Until what the peer has sent so far has been read. */
static void wait_for_quiet(bench *b)
{
    for (peer_conn *c = b->peer.conns; c; c = c->next) {
        wait_until(b, uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) == 0);
    }
    for (int i = 0; i < 20; i++) {
        turn(b);
    }
}

static void test_many_at_once(void **state)
{
    request r[60] = {0};
    bench *b = *state;

    works(b);
    for (int i = 0; i < 60; i++) {
        start(b, &r[i], "/ok");
    }
    for (int i = 0; i < 60; i++) {
        finish(b, &r[i]);
        assert_true(r[i].done);
    }
    assert_int_equal(b->peer.accepted, 2); /* it takes 50 at a time */
    works(b);
    assert_int_equal(b->peer.accepted, 2);
    assert_int_equal(b->peer.resets, 0);
}

static void test_pause(void **state)
{
    request paused = {.pauses = true}, other = {0};
    bench *b = *state;

    start(b, &paused, "/large");
    wait_until(b, b->peer.body_sent >= HTTP2_WINDOW);
    start(b, &other, "/large");
    finish(b, &other);
    assert_int_equal(other.body, PEER_LARGE);
    assert_int_equal(b->peer.body_sent, PEER_LARGE + HTTP2_WINDOW);
    assert_true(paused.body <= HTTP_READ_MAX);

    paused.pauses = false;
    http_resume(paused.http);
    finish(b, &paused);
    assert_int_equal(paused.body, PEER_LARGE);
    assert_int_equal(b->peer.accepted, 1);
}

/* What came before it broke is not lost, however late it is taken. */
static void test_broken_in_a_pause(void **state)
{
    request r = {.pauses = true};
    bench *b = *state;

    start(b, &r, "/large");
    wait_until(b, b->peer.body_sent >= HTTP2_WINDOW);
    wait_for_quiet(b);
    peer_stop(&b->peer);
    wait_until(b, b->peer.open == 0);
    wait_for_quiet(b);
    assert_int_equal(r.failures, 0);
    http_resume(r.http);
    finish(b, &r);
    assert_int_equal(r.body, HTTP2_WINDOW);
    assert_string_equal(r.err.code, "provider_error");
}

static void test_whole_in_a_pause(void **state)
{
    request r = {.pauses = true};
    bench *b = *state;

    start(b, &r, "/large");
    wait_until(b, b->peer.body_sent >= HTTP2_WINDOW);
    while (b->peer.body_sent < PEER_LARGE) { /* a window at a time, to the end */
        r.pieces = 0;
        http_resume(r.http);
        wait_until(b, r.pieces);
    }
    wait_until(b, r.http == NULL || r.pieces);
    while (r.http) {
        http_resume(r.http);
        turn(b);
    }
    assert_true(r.done);
    assert_int_equal(r.body, PEER_LARGE);
    assert_false(r.garbled);
}

static void test_refused(void **state)
{
    request r = {0};
    bench *b = *state;

    b->peer.refusals = 3;
    works(b);
    assert_int_equal(b->peer.requests, 4);
    b->peer.refusals = 100;
    fails(b, "/ok", "provider_error", "the stream was reset: REFUSED_STREAM");
    assert_int_equal(b->peer.requests, 8); /* not for ever */
    b->peer.refusals = 0;
    start(b, &r, "/ok");
    finish(b, &r);
    assert_true(r.done);
}

static void test_goaway(void **state)
{
    request unseen = {0}, last = {0};
    bench *b = *state;

    works(b);
    start(b, &unseen, "/unseen");
    finish(b, &unseen);
    assert_true(unseen.done); /* on another connection */
    assert_int_equal(b->peer.accepted, 2);

    start(b, &last, "/last");
    finish(b, &last);
    assert_true(last.done); /* what was seen is finished */
    wait_until(b, b->peer.open == 0);
    works(b);
    assert_int_equal(b->peer.accepted, 3);
}

static void test_closed(void **state)
{
    bench *b = *state;

    fails(b, "/close", "provider_error", "the connection was closed");
    assert_int_equal(b->peer.requests, 1);
    works(b);
    fails(b, "/close", "provider_error", "the connection was closed");
    assert_int_equal(b->peer.requests, 4); /* once more, for the connection was idle before */
}

static void test_reset(void **state)
{
    request other = {.pauses = true};
    bench *b = *state;

    start(b, &other, "/large");
    wait_until(b, other.pieces);
    fails(b, "/reset", "provider_error", "the stream was reset: INTERNAL_ERROR");
    fails(b, "/head", "provider_error", "too long a head");
    fails(b, "/status", "provider_error", "no status");
    fails(b, "/hints", "provider_error", "a response that was not asked for");
    http_resume(other.http);
    finish(b, &other);
    assert_int_equal(other.body, PEER_LARGE);
    assert_int_equal(b->peer.accepted, 1);
}

static void test_no_http2(void **state)
{
    bench *b = *state;

    fails(b, "/garbage", "provider_error", "broke HTTP/2's rules");
    works(b);
    assert_int_equal(b->peer.accepted, 2);
}

static void test_cancel(void **state)
{
    request r = {.pauses = true}, waiting = {0};
    bench *b = *state;

    start(b, &waiting, "/ok"); /* before there is a connection */
    http_cancel(waiting.http);
    start(b, &r, "/large");
    wait_until(b, r.pieces);
    http_cancel(r.http);
    wait_until(b, b->peer.resets);
    assert_int_equal(b->peer.last_reset, NGHTTP2_CANCEL);
    works(b);
    assert_int_equal(b->peer.accepted, 1);
    assert_int_equal(b->peer.requests, 2);
}

/* A peer that is there no more says nothing. */
static void test_dead_connection(void **state)
{
    request running = {.pauses = true};
    bench *b = *state;

    start(b, &running, "/large");
    wait_until(b, b->peer.body_sent >= HTTP2_WINDOW);
    wait_for_quiet(b);
    b->first_byte_ms = 50;
    fails(b, "/silent", "provider_timeout", "no reply in time");
    b->first_byte_ms = 30000;
    assert_int_equal(b->peer.accepted, 1);
    works(b);
    assert_int_equal(b->peer.accepted, 2);
    http_resume(running.http); /* it was not dead at all */
    finish(b, &running);
    assert_int_equal(running.body, PEER_LARGE);
    wait_until(b, b->peer.open == 1);
}

/* A reply before the request has been taken. */
static void test_early(void **state)
{
    static char large[100000];
    const aiq_str body = {large, sizeof(large)};
    request r = {0};
    bench *b = *state;

    memset(large, 'x', sizeof(large));
    b->peer.no_window = true;
    start(b, &r, "/silent"); /* the first window is HTTP's own, before any SETTINGS */
    wait_until(b, b->peer.requests);
    http_cancel(r.http);
    start_with(b, &r, "/early", &body, 1);
    finish(b, &r);
    assert_true(r.done);
    assert_int_equal(r.body, 100);
    wait_until(b, b->peer.resets == 2);
    assert_int_equal(b->peer.last_reset, NGHTTP2_CANCEL);
    assert_int_equal(b->peer.accepted, 1);
}

static void test_leaving(void **state)
{
    request r = {0}, waiting = {0};
    bench *b = *state;

    start(b, &r, "/silent");
    wait_until(b, b->peer.requests);
    start(b, &waiting, "/ok");
    loop_stop(&b->loop);
    loop_run(&b->loop);
    assert_string_equal(r.err.code, "engine_leaving");
    assert_int_equal(waiting.failures + waiting.done, 1);
}

static void test_head(void **state)
{
    nghttp2_nv *fields;
    char *text;
    size_t n = http2_head(AIQ_STR("GET /a%20b?c=d HTTP/1.1\r\nHost: h:1\r\nX-Two:  a: b\r\n"),
                          true, &text, &fields);
    const char *expect[][2] = {{":method", "GET"},
                               {":scheme", "https"},
                               {":path", "/a%20b?c=d"},
                               {":authority", "h:1"},
                               {"x-two", "a: b"}};

    (void)state;
    assert_int_equal(n, 5);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(fields[i].namelen, strlen(expect[i][0]));
        assert_memory_equal(fields[i].name, expect[i][0], fields[i].namelen);
        assert_int_equal(fields[i].valuelen, strlen(expect[i][1]));
        assert_memory_equal(fields[i].value, expect[i][1], fields[i].valuelen);
    }
    free(fields);
    free(text);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(test_many_at_once),
        test(test_pause),
        test(test_broken_in_a_pause),
        test(test_whole_in_a_pause),
        test(test_refused),
        test(test_goaway),
        test(test_closed),
        test(test_reset),
        test(test_no_http2),
        test(test_cancel),
        test(test_dead_connection),
        test(test_early),
        test(test_leaving),
        cmocka_unit_test(test_head),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
