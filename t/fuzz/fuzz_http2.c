/*
 * A provider that says what it likes over HTTP/2, to two requests of which one takes
 * what comes a piece at a time. Each gets one last call at most, in the right order,
 * and what is held for one is bounded.
 *
 *     u8      so many bytes come at a time, and one more
 *     u8      bit 0: the second request is cancelled after four of them; bit 1: frames
 *     bytes   from the provider; the requests are its streams 1 and 3
 *
 * Frames are written in short, so that what is changed in one moves no other: one byte each
 * for type, flags, stream and length, then the payload. Settings go before them.
 */

#include <assert.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "providers/http2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    http_request *http; /* NULL: it is over */
    bool slow, has_head;
} request;

static void on_head(void *arg, const http_head *head)
{
    request *r = arg;

    assert(!r->has_head && r->http);
    r->has_head = true;
    assert(head->status >= 200 && head->status <= 599);
    assert(head->n_fields <= HTTP_FIELDS_MAX);
    for (size_t i = 0; i < head->n_fields; i++) {
        assert(memchr(head->fields[i].value.data, '\n', head->fields[i].value.len) == NULL);
    }
}

static void on_body(void *arg, aiq_str piece)
{
    request *r = arg;

    assert(r->has_head && r->http);
    assert(piece.len > 0 && piece.len <= HTTP_READ_MAX);
    assert(r->http->held.len <= HTTP2_WINDOW);
    if (r->slow) {
        http_pause(r->http);
    }
}

static void on_done(void *arg)
{
    request *r = arg;

    assert(r->has_head && r->http);
    r->http = NULL;
}

static void on_failed(void *arg, const aiq_err *err)
{
    request *r = arg;

    assert(r->http && err->status >= 500);
    r->http = NULL;
}

static void start(aiq_loop *loop, request *r)
{
    static const http_events events = {on_head, on_body, on_done, on_failed};
    static const aiq_str body = {"{}", 2};
    const http_call call = {.method = "POST",
                            .url = "http://127.0.0.1:9",
                            .via = {.http2 = true},
                            .path = "/",
                            .body = &body,
                            .n_body = 1,
                            .connect_ms = 60000,
                            .first_byte_ms = 60000,
                            .idle_ms = 60000,
                            .total_ms = 60000};

    r->http = http_start(loop, &call, &events, r);
}

/* In place of the connection that libcurl was asked for. Returns the provider's end. */
static int connect_now(aiq_loop *loop)
{
    http_conn *c = loop->http->origins->shared;
    int pair[2];

    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    connect_drop(c);
    c->fd = pair[0];
    c->stolen = c->http2 = true;
    http_connected(c);
    return pair[1];
}

static void turn(aiq_loop *loop, int fd)
{
    char sink[65536];

    for (int i = 0; i < 3; i++) {
        uv_run(&loop->uv, UV_RUN_NOWAIT);
    }
    while (recv(fd, sink, sizeof(sink), 0) > 0) {
    }
}

static void write_frame(aiq_buf *out, const uint8_t head[4], const uint8_t *payload, size_t n)
{
    const uint8_t long_head[9] = {0, 0, (uint8_t)n, head[0], head[1], 0, 0, 0, head[2]};

    aiq_buf_add(out, long_head, sizeof(long_head));
    aiq_buf_add(out, payload, n);
}

static void write_frames(aiq_buf *out, const uint8_t *pos, const uint8_t *end)
{
    static const uint8_t settings[4] = {NGHTTP2_SETTINGS};

    write_frame(out, settings, NULL, 0);
    while (end - pos >= 4) {
        const uint8_t *payload = pos + 4;
        size_t left = (size_t)(end - payload), n = pos[3] < left ? pos[3] : left;
        write_frame(out, pos, payload, n);
        pos = payload + n;
    }
}

static void run(const uint8_t *pos, const uint8_t *end, size_t step, bool cancels)
{
    request r[2] = {{.slow = true}, {0}};
    aiq_loop loop;

    assert(loop_init(&loop, NULL, 0, NULL));
    start(&loop, &r[0]);
    start(&loop, &r[1]);
    int fd = connect_now(&loop);
    for (int i = 0; pos < end; i++) {
        size_t n = (size_t)(end - pos) < step ? (size_t)(end - pos) : step;
        ssize_t sent = send(fd, pos, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            break;
        }
        pos += sent;
        turn(&loop, fd);
        if (i == 4 && cancels && r[1].http) {
            http_cancel(r[1].http);
            r[1].http = NULL;
        }
        if (r[0].http) {
            http_resume(r[0].http);
        }
    }
    close(fd);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
    loop_stop(&loop);
    loop_run(&loop); /* who is still waiting is told now */
    assert(r[0].http == NULL && r[1].http == NULL);
    loop_free(&loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    aiq_buf text = {0};

    if (size < 3 || size > 65536) {
        return 0;
    }
    if (data[1] & 2) {
        write_frames(&text, data + 2, data + size);
    } else {
        aiq_buf_add(&text, data + 2, size - 2);
    }
    size_t step = 1u + data[0] < text.len / 32 ? text.len / 32 : 1u + data[0];
    run(text.data, text.data + text.len, step, data[1] & 1);
    aiq_buf_free(&text);
    return 0;
}
