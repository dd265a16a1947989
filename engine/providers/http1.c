#include <errno.h>
#include <string.h>
#include "providers/http_request.h"

static void read_now(aiq_loop *loop, void *arg);

/* Sending. */

static bool retry(http_request *r);

/* False: the request is gone, or on another connection. */
static bool send_more(http_request *r)
{
    http_client *client = r->client;

    while (r->sent < r->length) {
        size_t n = request_gather(r, client->out, sizeof(client->out));
        if (n == 0) {
            conn_watch(r->conn, r->paused ? 0 : UV_READABLE);
            return true;
        }
        ssize_t sent = conn_send(r->conn, client->out, n);
        if (sent == -EAGAIN || sent == -EINTR) {
            conn_watch(r->conn, r->conn->events | UV_READABLE | UV_WRITABLE);
            return true;
        }
        if (sent < 0 && retry(r)) {
            return false;
        }
        if (sent < 0) {
            r->refused = true;
            break;
        }
        r->sent += (size_t)sent;
        r->since_ns = loop_turn_ns(client->loop);
    }
    conn_watch(r->conn, r->paused ? 0 : UV_READABLE);
    if (r->state == REQUEST_SENDING) {
        request_set_state(r, REQUEST_WAITING);
    }
    return true;
}

static void send_on(http_request *r, http_conn *c)
{
    r->conn = c;
    c->request = r;
    r->sent = 0;
    http_parser_init(&r->parser, r->client->fields);
    request_set_state(r, REQUEST_SENDING);
    send_more(r);
}

/* Asks for a connection of its own. */
static void connect_for(http_request *r)
{
    http_conn *c = http_connect(r->client, r->origin, r->connect_ms);

    if (c == NULL) {
        request_refuse(r);
        return;
    }
    r->conn = c;
    c->request = r;
    request_set_state(r, REQUEST_CONNECTING);
}

/* The peer closed a connection that was idle before this request came to it. */
static bool retry(http_request *r)
{
    http_conn *c = r->conn;

    if (!c->used || r->received) {
        return false;
    }
    c->request = NULL;
    conn_close(c);
    r->conn = NULL;
    http_parser_free(&r->parser);
    connect_for(r);
    return true;
}

void http1_feed(http_request *r)
{
    if (r->conn && !r->conn->connecting && !r->refused) {
        send_more(r);
    }
}

void http1_connected(http_conn *c)
{
    send_on(c->request, c);
}

void http1_start(http_request *r)
{
    http_conn *c = conn_take_idle(r->origin);

    if (c) {
        send_on(r, c);
    } else {
        connect_for(r);
    }
}

/* Receiving. */

/* clean: nothing came behind the response. */
static void response_done(http_request *r, bool clean)
{
    http_conn *c = r->conn;

    if (clean && r->parser.keep_alive && r->sent == r->length && !r->refused) {
        c->request = NULL;
        r->conn = NULL;
        conn_keep(c);
    }
    request_done(r);
}

/* What was read. False: nothing more is to be read for now, the connection may be gone. */
static bool take(http_conn *c, const uint8_t *data, size_t n)
{
    http_request *r = c->request;
    const uint8_t *pos = data, *end = data + n;
    aiq_str piece;

    r->received = true;
    r->since_ns = r->state == REQUEST_READING ? loop_turn_ns(c->client->loop) : r->since_ns;
    for (;;) {
        switch (http_parse(&r->parser, &pos, end, &piece)) {
        case HTTP_MORE:
            return !r->paused;
        case HTTP_HEAD:
            if (!request_head(r, &r->parser.head)) {
                return false;
            }
            break;
        case HTTP_BODY:
            if (!request_body(r, piece)) {
                return false;
            }
            break;
        case HTTP_DONE:
            response_done(r, pos == end);
            return false;
        case HTTP_BAD:
            request_fail_broken(r, r->parser.reason);
            return false;
        }
    }
}

static void ended(http_request *r, ssize_t rc)
{
    if (rc == 0 && r->received && http_parse_end(&r->parser) == HTTP_DONE) {
        response_done(r, false);
    } else if (!retry(r)) {
        request_fail_broken(r, rc < 0 ? strerror((int)-rc)
                               : r->parser.reason
                                   ? r->parser.reason
                                   : "the connection was closed without a reply");
    }
}

/* Is there more to read that no event will tell of? */
static bool reads_unasked(const http_conn *c)
{
    return c->easy || c->failed;
}

/* A bounded number of reads a turn, so that a fast peer leaves time for others. */
#define READS_MAX 8

static void read_some(http_conn *c)
{
    http_client *client = c->client;
    http_request *r = c->request;

    for (int i = 0; i < READS_MAX; i++) {
        ssize_t n = conn_recv(c, client->in, sizeof(client->in));
        if (n == -EINTR || (n == -EAGAIN && !c->failed)) {
            return;
        }
        if (n <= 0) {
            ended(r, n);
            return;
        }
        if (!take(c, client->in, (size_t)n)) {
            return;
        }
        /* A short read has emptied a socket, but not what TLS may hold. */
        if (!reads_unasked(c) && (size_t)n < sizeof(client->in)) {
            return;
        }
    }
    if (reads_unasked(c)) {
        loop_timer_start(client->loop, &r->again, 0, read_now, r);
    }
}

static void read_now(aiq_loop *loop, void *arg)
{
    http_request *r = arg;

    (void)loop;
    if (!r->paused) {
        read_some(r->conn);
    }
}

void http1_ready(http_conn *c, int events)
{
    http_request *r = c->request;

    if (events & UV_WRITABLE && !send_more(r)) {
        return;
    }
    if (events & UV_READABLE) {
        read_some(c);
    }
}

void http1_pause(http_request *r)
{
    if (!r->conn->connecting) {
        conn_watch(r->conn, r->conn->events & ~UV_READABLE);
    }
}

void http1_resume(http_request *r)
{
    if (!r->conn->connecting) {
        conn_watch(r->conn, r->conn->events | UV_READABLE);
        if (reads_unasked(r->conn)) {
            loop_timer_start(r->client->loop, &r->again, 0, read_now, r);
        }
    }
}
