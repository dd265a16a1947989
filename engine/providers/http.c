#include "providers/http.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine.h"
#include "providers/http2.h"

static void on_timer(aiq_loop *loop, void *arg);

/* The client of a loop. */

static void close_idle(aiq_loop *loop, void *arg)
{
    http_client *client = arg;
    uint64_t now = loop_now_ns();

    for (http_origin *o = client->origins, *next; o; o = next) {
        next = o->next;
        o->refs++; /* its last connection must not take it away here */
        for (http_conn *c = o->idle, *after; c; c = after) {
            after = c->next;
            if (now - c->idle_since_ns >= HTTP_IDLE_MS * 1000000ull) {
                conn_close(c);
            }
        }
        for (http_conn *c = o->shared, *after; c; c = after) {
            after = c->next;
            if (c->session && c->n_requests == 0 &&
                now - c->idle_since_ns >= HTTP_IDLE_MS * 1000000ull) {
                conn_close(c);
            }
        }
        origin_unref(client, o);
    }
    if (client->n_connections) {
        loop_timer_start(loop, &client->idle_timer, HTTP_IDLE_MS / 4, close_idle, client);
    }
}

static void finish(http_request *r);

/* The loop leaves. Whoever still has a request has been told by then, or is now. */
static void client_free(aiq_loop *loop, void *arg)
{
    http_client *client = arg;
    aiq_err err;

    aiq_fail(&err, 503, "engine_leaving", "The server is shutting down.");
    err.retryable = false; /* by us */
    while (client->requests) {
        http_request *r = client->requests;
        http_events events = r->events;
        void *owner = r->arg;
        finish(r);
        events.failed(owner, &err);
    }
    for (http_origin *o = client->origins, *next; o; o = next) {
        next = o->next;
        o->refs++;
        while (o->idle) {
            conn_close(o->idle);
        }
        while (o->shared) {
            conn_close(o->shared);
        }
        origin_unref(client, o);
    }
    loop_timer_stop(loop, &client->idle_timer);
    connect_free(client);
    loop->http = NULL;
    free(client);
}

static http_client *client_of(aiq_loop *loop)
{
    if (loop->http == NULL) {
        http_client *client = aiq_zalloc(sizeof(*client));
        client->loop = loop;
        client->exit = (loop_hook){.fn = client_free, .arg = client};
        connect_init(client);
        loop->http = client;
        loop_at_exit(loop, &client->exit);
    }
    return loop->http;
}

/* The end of a request. */

static void request_free(http_request *r)
{
    http_parser_free(&r->parser);
    aiq_buf_free(&r->head);
    aiq_buf_free(&r->held);
    free(r);
}

/* Takes the request out of everything; its memory goes once no call of it runs. */
static void finish(http_request *r)
{
    loop_timer_stop(r->client->loop, &r->timer);
    loop_timer_stop(r->client->loop, &r->again);
    if (r->conn && r->conn->shared) {
        http2_leave(r);
    } else if (r->conn) {
        r->conn->request = NULL;
        conn_close(r->conn);
    }
    if (r->origin) {
        origin_unref(r->client, r->origin);
    }
    if (r->filling) {
        LIST_REMOVE(r, fed);
        r->filling = NULL;
    }
    *r->prev = r->next;
    if (r->next) {
        r->next->prev = r->prev;
    }
    r->cancelled = true;
    if (!r->in_call) {
        request_free(r);
    }
}

void http_cancel(http_request *r)
{
    finish(r);
}

static void fail_with(http_request *r, const aiq_err *err)
{
    http_events events = r->events;
    void *arg = r->arg;

    finish(r);
    events.failed(arg, err);
}

void request_fail(http_request *r, unsigned status, const char *code, const char *message,
                  const char *detail)
{
    aiq_err err;

    aiq_fail(&err, status, code, "%s", message);
    aiq_err_detail(&err, "%s: %s", r->origin->host, detail);
    fail_with(r, &err);
}

void request_done(http_request *r)
{
    http_events events = r->events;
    void *arg = r->arg;

    finish(r);
    events.done(arg);
}

void request_fail_broken(http_request *r, const char *detail)
{
    request_fail(r, 502, "provider_error",
                 r->state == REQUEST_READING
                     ? "The provider's reply broke off or was malformed."
                     : "The provider gave no valid reply.",
                 detail);
}

/* Time. One timer a request; where it fires early it is set anew, so a sign of
 * life costs only a clock reading. */

static uint64_t limit_ns(const http_request *r)
{
    uint32_t ms = r->idle_ms;

    if (r->state == REQUEST_CONNECTING) {
        ms = r->connect_ms;
    } else if (r->state == REQUEST_WAITING) {
        ms = r->first_byte_ms;
    }
    return ms * 1000000ull;
}

static uint64_t due_ns(const http_request *r)
{
    uint64_t due = r->since_ns + limit_ns(r);

    return r->paused || r->starved || due < r->ends_ns ? due : r->ends_ns;
}

static void start_timer(http_request *r, uint64_t now)
{
    uint64_t due = due_ns(r);

    loop_timer_start(r->client->loop, &r->timer, due > now ? (due - now) / 1000000 + 1 : 0,
                     on_timer, r);
}

void request_set_state(http_request *r, request_state state)
{
    r->state = state;
    r->since_ns = loop_turn_ns(r->client->loop);
    if (r->timer.heap_index == 0 || r->timer.due_ns > due_ns(r)) {
        start_timer(r, r->since_ns);
    }
}

static void on_timer(aiq_loop *loop, void *arg)
{
    static const char *const what[] = {
        [REQUEST_CONNECTING] = "no connection in time",
        [REQUEST_SENDING] = "the request was not taken in time",
        [REQUEST_WAITING] = "no reply in time",
        [REQUEST_READING] = "nothing more of the reply in time",
    };
    http_request *r = arg;
    uint64_t now = loop_now_ns();

    (void)loop;
    if (r->early.status) {
        aiq_err err = r->early;
        fail_with(r, &err);
        return;
    }
    if (r->paused || r->starved) {
        r->since_ns = now; /* its silence is our doing */
    }
    if (now < due_ns(r)) {
        start_timer(r, now);
        return;
    }
    http2_suspect(r);
    request_fail(r, 504, "provider_timeout", "The provider did not answer in time.",
                 now < r->ends_ns ? what[r->state] : "the whole reply did not come in time");
}

static void tell_later(http_request *r)
{
    loop_timer_start(r->client->loop, &r->timer, 0, on_timer, r);
}

void request_refuse(http_request *r)
{
    aiq_fail(&r->early, 503, "overloaded", "The server has no connection to spare.");
    r->early.retryable = false; /* no provider is to blame */
    tell_later(r);
}

/* The owner's calls. */

/* False: it has cancelled the request. */
static bool called(http_request *r)
{
    r->in_call = false;
    if (r->cancelled) {
        request_free(r);
        return false;
    }
    return true;
}

bool request_head(http_request *r, const http_head *head)
{
    request_set_state(r, REQUEST_READING);
    r->in_call = true;
    r->events.head(r->arg, head);
    return called(r);
}

bool request_body(http_request *r, aiq_str piece)
{
    r->in_call = true;
    r->events.body(r->arg, piece);
    return called(r);
}

/* Sending. */

/* How much of a piece is there. */
static size_t there(const http_filling *filling, aiq_str piece)
{
    if (filling == NULL || piece.data < filling->data ||
        piece.data >= filling->data + filling->len) {
        return piece.len;
    }
    size_t at = (size_t)(piece.data - filling->data);
    size_t n = filling->filled > at ? filling->filled - at : 0;
    return n < piece.len ? n : piece.len;
}

static void set_starved(http_request *r, bool starved)
{
    if (starved == r->starved) {
        return;
    }
    r->starved = starved;
    if (starved) {
        r->starved_ns = loop_now_ns();
    } else {
        r->since_ns = loop_now_ns();
        r->ends_ns += r->since_ns - r->starved_ns;
    }
}

size_t request_gather(http_request *r, uint8_t *out, size_t size)
{
    size_t skip = r->sent, n = 0;

    for (size_t i = 0; i <= r->n_body && n < size; i++) {
        aiq_str part = i ? r->body[i - 1] : (aiq_str){(char *)r->head.data, r->head.len};
        if (skip >= part.len) {
            skip -= part.len;
            continue;
        }
        size_t ready = there(r->filling, part), left = ready > skip ? ready - skip : 0;
        size_t len = left < size - n ? left : size - n;
        memcpy(out + n, part.data + skip, len);
        n += len;
        if (ready < part.len) {
            break;
        }
        skip = 0;
    }
    set_starved(r, n == 0 && r->sent < r->length);
    return n;
}

/* Nobody is called back: what comes of it is seen when the connection is ready. */
void http_filled(http_filling *filling, size_t filled)
{
    filling->filled = filled;
    for (http_request *r = LIST_FIRST(&filling->requests); r; r = LIST_NEXT(r, fed)) {
        if (r->starved) {
            set_starved(r, false);
            (r->conn && r->conn->shared ? http2_feed : http1_feed)(r);
        }
    }
}

/* Connections. */

http_conn *http_connect(http_client *client, http_origin *origin, uint32_t timeout_ms)
{
    http_conn *c;

    if (client->n_connections == HTTP_CONNECTIONS_MAX) {
        return NULL;
    }
    c = conn_new(client, origin);
    if (!connect_start(c, timeout_ms)) {
        conn_close(c);
        return NULL;
    }
    if (client->idle_timer.heap_index == 0) {
        loop_timer_start(client->loop, &client->idle_timer, HTTP_IDLE_MS / 4, close_idle,
                         client);
    }
    return c;
}

void http_connected(http_conn *c)
{
    if (c->origin->via.http2) {
        http2_connected(c);
    } else {
        http1_connected(c);
    }
}

static void fail_unconnected(http_request *r, CURLcode code, const char *detail)
{
    if (code == CURLE_OPERATION_TIMEDOUT) {
        request_fail(r, 504, "provider_timeout", "The provider did not answer in time.",
                     detail);
    } else {
        request_fail(r, 502, "provider_unreachable", "The provider cannot be reached.", detail);
    }
}

void http_unconnected(http_conn *c, CURLcode code)
{
    char detail[CURL_ERROR_SIZE];

    snprintf(detail, sizeof(detail), "%s", c->error[0] ? c->error : curl_easy_strerror(code));
    if (!c->shared) {
        fail_unconnected(c->request, code, detail);
        return;
    }
    while (TAILQ_FIRST(&c->requests)) {
        fail_unconnected(TAILQ_FIRST(&c->requests), code, detail);
    }
    conn_close(c);
}

void http_ready(http_conn *c, int events)
{
    if (c->session) {
        http2_ready(c, events);
    } else if (c->request) {
        http1_ready(c, events);
    } else {
        conn_close(c); /* idle: its peer has closed it, or says what nobody asked */
    }
}

/* Pauses. */

void http_pause(http_request *r)
{
    if (!r->paused) {
        r->paused = true;
        r->paused_ns = loop_now_ns();
        if (r->conn && !r->conn->shared) {
            http1_pause(r);
        }
    }
}

void http_resume(http_request *r)
{
    if (r->paused) {
        r->paused = false;
        r->since_ns = loop_now_ns();
        r->ends_ns += r->since_ns - r->paused_ns;
        if (r->conn && !r->conn->shared) {
            http1_resume(r);
        } else {
            http2_resume(r);
        }
    }
}

/* Starting. */

static void add_number(aiq_buf *out, size_t n)
{
    char text[20], *p = text + sizeof(text);

    do {
        *--p = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    aiq_buf_add(out, p, (size_t)(text + sizeof(text) - p));
}

static void write_head(http_request *r, const http_call *call)
{
    aiq_buf *out = &r->head;

    aiq_buf_reserve(out, 512 + call->headers.len);
    aiq_buf_text(out, call->method);
    aiq_buf_text(out, " ");
    aiq_buf_text(out, r->origin->path);
    aiq_buf_text(out, call->path);
    if (call->query) {
        aiq_buf_text(out, "?");
        aiq_buf_text(out, call->query);
    }
    aiq_buf_text(out, " HTTP/1.1\r\nHost: ");
    aiq_buf_text(out, r->origin->host);
    aiq_buf_text(out, "\r\nUser-Agent: aiq/" AIQ_VERSION "\r\n");
    aiq_buf_add(out, call->headers.data, call->headers.len);
    size_t body = 0;
    for (size_t i = 0; i < call->n_body; i++) {
        body += call->body[i].len;
    }
    if (call->n_body) {
        aiq_buf_text(out, "Content-Length: ");
        add_number(out, body);
        aiq_buf_text(out, "\r\n");
    }
    aiq_buf_text(out, "\r\n");
    r->length = out->len + body;
}

static http_request *request_new(http_client *client, const http_call *call,
                                 const http_events *events, void *arg)
{
    http_request *r = aiq_zalloc(sizeof(*r));

    r->client = client;
    r->events = *events;
    r->arg = arg;
    r->connect_ms = call->connect_ms;
    r->first_byte_ms = call->first_byte_ms;
    r->idle_ms = call->idle_ms;
    r->ends_ns = loop_turn_ns(client->loop) + call->total_ms * 1000000ull;
    r->body = call->body;
    r->n_body = call->n_body;
    r->filling = call->filling;
    if (r->filling) {
        LIST_INSERT_HEAD(&r->filling->requests, r, fed);
    }
    r->next = client->requests;
    r->prev = &client->requests;
    if (r->next) {
        r->next->prev = &r->next;
    }
    client->requests = r;
    return r;
}

http_request *http_start(aiq_loop *loop, const http_call *call, const http_events *events,
                         void *arg)
{
    http_client *client = client_of(loop);
    http_request *r = request_new(client, call, events, arg);

    r->origin = origin_get(client, call->url, &call->via);
    if (r->origin == NULL) {
        aiq_fail(&r->early, 502, "provider_unreachable", "The provider cannot be reached.");
        aiq_err_detail(&r->early, "no valid URL: %s", call->url);
        tell_later(r);
        return r;
    }
    write_head(r, call);
    if (r->origin->via.http2) {
        http2_start(r);
    } else {
        http1_start(r);
    }
    return r;
}
