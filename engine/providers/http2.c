#include "providers/http2.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READS_MAX   8           /* of a connection in a turn, so that others have theirs */
#define OUT_MAX     (64u << 10) /* gathered for one write */
#define RESENDS_MAX 3           /* of what the peer says it has not looked at */

struct http2_session {
    http_conn *conn;
    nghttp2_session *peer;
    bool closing;      /* takes no more requests */
    bool deaf;         /* takes no more of what we send; it may have said why */
    uint64_t heard_ns; /* its last sign of life */
    uint64_t reads;    /* so many of them */
    loop_timer flush;  /* at the end of a turn, for all streams together */
    loop_timer again;  /* reads on what TLS holds, which makes no socket readable */
    aiq_buf out;       /* filled only when empty: TLS sends the same bytes again */
    /* the head that is coming, of whichever stream: there is one at a time */
    unsigned status;
    size_t head_len, n_fields;
    http_field fields[HTTP_FIELDS_MAX];
    char head[HTTP_HEAD_MAX];
};

static void flush(aiq_loop *loop, void *arg);
static void read_again(aiq_loop *loop, void *arg);

static void flush_later(http2_session *s)
{
    if (s->flush.heap_index == 0) {
        loop_timer_start(s->conn->client->loop, &s->flush, 0, flush, s);
    }
}

/* How many streams its peer allows; until it has said so, what is usual. */
static uint32_t room(const http_conn *c)
{
    uint32_t n = nghttp2_session_get_remote_settings(c->session->peer,
                                                     NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    return n < HTTP2_STREAMS_MAX ? n : HTTP2_STREAMS_MAX;
}

/* Streams. */

void http2_leave(http_request *r)
{
    http_conn *c = r->conn;
    http2_session *s = c->session;

    TAILQ_REMOVE(&c->requests, r, link);
    if (--c->n_requests == 0) {
        c->idle_since_ns = loop_now_ns();
    }
    r->conn = NULL;
    if (r->stream) {
        nghttp2_session_set_stream_user_data(s->peer, r->stream, NULL);
        if (!r->whole || r->sent < r->length) {
            nghttp2_submit_rst_stream(s->peer, NGHTTP2_FLAG_NONE, r->stream, NGHTTP2_CANCEL);
        }
        r->stream = 0;
        flush_later(s);
    }
}

/* Its stream is over before its reply was; r->broken says why. resends: how often it may
 * be sent anew. */
static void lost(http_request *r, unsigned resends)
{
    http2_leave(r);
    if (r->resent < resends && !r->received) {
        r->resent++;
        r->broken[0] = '\0';
        http2_start(r);
    } else if (r->held.len == 0) {
        request_fail_broken(r, r->broken);
    }
}

static void whole(http_request *r)
{
    r->whole = true;
    if (r->held.len == 0) {
        request_done(r);
    }
}

/* What was held, piece by piece; and then how it ended, if it did. */
static void hand_on(aiq_loop *loop, void *arg)
{
    http_request *r = arg;
    size_t n = r->held.len < HTTP_READ_MAX ? r->held.len : HTTP_READ_MAX;

    if (r->paused) {
        return;
    }
    if (!request_body(r, (aiq_str){(char *)r->held.data, n})) {
        return;
    }
    aiq_buf_consume(&r->held, n);
    if (r->stream) {
        nghttp2_session_consume_stream(r->conn->session->peer, r->stream, n);
        flush_later(r->conn->session);
    }
    if (r->held.len) {
        loop_timer_start(loop, &r->again, 0, hand_on, r);
    } else if (r->whole) {
        request_done(r);
    } else if (r->broken[0]) {
        request_fail_broken(r, r->broken);
    }
}

void http2_resume(http_request *r)
{
    if (r->held.len) {
        loop_timer_start(r->client->loop, &r->again, 0, hand_on, r);
    }
}

static ssize_t read_body(nghttp2_session *peer, int32_t stream, uint8_t *out, size_t size,
                         uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    http_request *r = nghttp2_session_get_stream_user_data(peer, stream);

    (void)source;
    (void)arg;
    if (r == NULL) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* it has left */
    }
    size_t n = request_gather(r, out, size);
    if (r->starved) {
        return NGHTTP2_ERR_DEFERRED;
    }
    r->sent += n;
    r->since_ns = loop_now_ns();
    if (r->sent == r->length) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        request_set_state(r, REQUEST_WAITING);
    }
    return (ssize_t)n;
}

void http2_feed(http_request *r)
{
    if (r->stream) {
        nghttp2_session_resume_data(r->conn->session->peer, r->stream);
        flush_later(r->conn->session);
    }
}

static void send_on(http_request *r, http_conn *c)
{
    http2_session *s = c->session;
    nghttp2_data_provider body = {.read_callback = read_body};
    aiq_str head = {(char *)r->head.data, r->head.len - 2};
    nghttp2_nv *fields;
    char *text;

    size_t n = http2_head(head, c->origin->https, &text, &fields);
    int32_t stream =
        nghttp2_submit_request(s->peer, NULL, fields, n, r->n_body ? &body : NULL, r);
    free(fields);
    free(text);
    if (stream < 0) {
        s->closing = true;
        http2_leave(r);
        request_refuse(r);
        return;
    }
    r->stream = stream;
    r->reads = s->reads;
    r->sent = r->head.len;
    request_set_state(r, r->n_body ? REQUEST_SENDING : REQUEST_WAITING);
    flush_later(s);
}

/* The reply's head. */

static int on_begin_head(nghttp2_session *peer, const nghttp2_frame *frame, void *arg)
{
    http2_session *s = arg;

    (void)peer;
    (void)frame;
    s->status = 0;
    s->head_len = s->n_fields = 0;
    return 0;
}

/* Its stream is reset. */
static int refuse(http_request *r, const char *why)
{
    snprintf(r->broken, sizeof(r->broken), "%s", why);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* nghttp2 has looked at names and values: RFC 9113, 8.2.1. */
static int on_field(nghttp2_session *peer, const nghttp2_frame *frame, const uint8_t *name,
                    size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                    void *arg)
{
    http2_session *s = arg;
    http_request *r = nghttp2_session_get_stream_user_data(peer, frame->hd.stream_id);

    (void)flags;
    if (r == NULL) {
        return 0;
    }
    if (name_len == 7 && memcmp(name, ":status", 7) == 0 && value_len == 3) {
        s->status = (value[0] - '0') * 100u + (value[1] - '0') * 10u + (value[2] - '0');
        return s->status < 100 ? refuse(r, "no status") : 0; /* nghttp2 takes any digits */
    }
    if (s->n_fields == HTTP_FIELDS_MAX || name_len > sizeof(s->head) - s->head_len ||
        value_len > sizeof(s->head) - s->head_len - name_len) {
        return refuse(r, "too long a head");
    }
    char *at = s->head + s->head_len;
    memcpy(at, name, name_len);
    memcpy(at + name_len, value, value_len);
    s->fields[s->n_fields++] = (http_field){{at, name_len}, {at + name_len, value_len}};
    s->head_len += name_len + value_len;
    return 0;
}

/* False: the request has left. */
static bool head_done(http2_session *s, http_request *r)
{
    http_head head = {s->status, s->fields, s->n_fields, -1};

    if (s->status == 0) {
        return true; /* trailers are of no interest */
    }
    if (s->status < 200 && s->status != 101 && r->interim++ < HTTP_INTERIM_MAX) {
        return true;
    }
    if (s->status < 200 || s->status > 599) {
        snprintf(r->broken, sizeof(r->broken), "a response that was not asked for");
        lost(r, 0);
        return false;
    }
    if (!http_parse_length(http_head_get(&head, "content-length"), &head.length)) {
        head.length = -1;
    }
    return request_head(r, &head);
}

/* What comes. */

static int on_data(nghttp2_session *peer, uint8_t flags, int32_t stream, const uint8_t *data,
                   size_t len, void *arg)
{
    http2_session *s = arg;
    http_request *r = nghttp2_session_get_stream_user_data(peer, stream);

    (void)flags;
    nghttp2_session_consume_connection(peer, len);
    if (r == NULL) {
        return 0;
    }
    r->since_ns = s->heard_ns;
    if (r->paused || r->held.len) {
        aiq_buf_add(&r->held, data, len);
    } else if (request_body(r, (aiq_str){(const char *)data, len})) {
        nghttp2_session_consume_stream(peer, stream, len);
    }
    return 0;
}

static int on_frame(nghttp2_session *peer, const nghttp2_frame *frame, void *arg)
{
    http2_session *s = arg;
    http_request *r = nghttp2_session_get_stream_user_data(peer, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_GOAWAY) {
        s->closing = true;
    } else if (frame->hd.type == NGHTTP2_SETTINGS) {
        s->conn->origin->room = room(s->conn);
    }
    if (r == NULL || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) {
        return 0;
    }
    r->received = true;
    if (frame->hd.type == NGHTTP2_HEADERS && !head_done(s, r)) {
        return 0;
    }
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
        whole(r);
    }
    return 0;
}

/* Also of streams that were never opened, for the peer has gone away meanwhile. */
static int on_stream_close(nghttp2_session *peer, int32_t stream, uint32_t error, void *arg)
{
    http_request *r = nghttp2_session_get_stream_user_data(peer, stream);

    (void)arg;
    if (r == NULL) {
        return 0;
    }
    r->stream = 0;
    if (r->whole) {
        http2_leave(r); /* what is held does not need it */
        return 0;
    }
    if (!r->broken[0]) {
        snprintf(r->broken, sizeof(r->broken), "the stream was reset: %s",
                 nghttp2_http2_strerror(error));
    }
    lost(r, error == NGHTTP2_REFUSED_STREAM ? RESENDS_MAX : 0);
    return 0;
}

/* Sessions. */

static nghttp2_session *peer_new(http2_session *s)
{
    static const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, HTTP2_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HTTP_HEAD_MAX},
    };
    nghttp2_session_callbacks *calls = NULL;
    nghttp2_option *options = NULL;
    nghttp2_session *peer = NULL;

    if (nghttp2_session_callbacks_new(&calls) == 0 && nghttp2_option_new(&options) == 0) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin_head);
        nghttp2_session_callbacks_set_on_header_callback(calls, on_field);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
        nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame);
        nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_stream_close);
        nghttp2_option_set_no_auto_window_update(options, 1);
        nghttp2_session_client_new2(&peer, calls, s, options);
    }
    nghttp2_session_callbacks_del(calls);
    nghttp2_option_del(options);
    if (peer && (nghttp2_submit_settings(peer, NGHTTP2_FLAG_NONE, settings,
                                         sizeof(settings) / sizeof(settings[0])) != 0 ||
                 nghttp2_session_set_local_window_size(peer, NGHTTP2_FLAG_NONE, 0,
                                                       HTTP2_CONNECTION_WINDOW) != 0)) {
        nghttp2_session_del(peer);
        peer = NULL;
    }
    return peer;
}

void http2_close(http_conn *c)
{
    http2_session *s = c->session;

    if (s) {
        loop_timer_stop(c->client->loop, &s->flush);
        loop_timer_stop(c->client->loop, &s->again);
        nghttp2_session_del(s->peer);
        aiq_buf_free(&s->out);
        free(s);
        c->session = NULL;
    }
}

/* The connection is of no more use to anybody. */
static void fail_all(http_conn *c, const char *why)
{
    http2_session *s = c->session;
    http_request *r;

    s->closing = true;
    while ((r = TAILQ_FIRST(&c->requests)) != NULL) {
        r->stream = 0;
        if (!r->broken[0]) {
            snprintf(r->broken, sizeof(r->broken), "%s", why);
        }
        lost(r, s->reads && s->reads == r->reads ? 1 : 0);
    }
    conn_close(c);
}

/* Closes it where nothing more is to come. */
static void settle(http2_session *s)
{
    http_conn *c = s->conn;

    if (!nghttp2_session_want_read(s->peer) && !nghttp2_session_want_write(s->peer)) {
        fail_all(c, "the connection broke HTTP/2's rules");
    } else if (s->closing && c->n_requests == 0) {
        conn_close(c);
    }
}

static void fill(http2_session *s)
{
    const uint8_t *data;
    ssize_t n;

    while (s->out.len < OUT_MAX && (n = nghttp2_session_mem_send(s->peer, &data)) > 0) {
        aiq_buf_add(&s->out, data, (size_t)n);
    }
}

static void flush(aiq_loop *loop, void *arg)
{
    http2_session *s = arg;
    http_conn *c = s->conn;

    (void)loop;
    while (!s->deaf) {
        if (s->out.len == 0) {
            fill(s);
        }
        if (s->out.len == 0) {
            break;
        }
        ssize_t sent = conn_send(c, s->out.data, s->out.len);
        if (sent == -EAGAIN || sent == -EINTR) {
            conn_watch(c, UV_READABLE | UV_WRITABLE);
            return;
        }
        if (sent < 0) {
            s->deaf = s->closing = true;
        } else {
            aiq_buf_consume(&s->out, (size_t)sent);
        }
    }
    conn_watch(c, UV_READABLE);
    settle(s);
}

static void read_some(http_conn *c)
{
    http_client *client = c->client;
    http2_session *s = c->session;
    bool unasked = c->easy || c->failed; /* is there more that no event will tell of? */

    for (int i = 0; i < READS_MAX; i++) {
        ssize_t n = conn_recv(c, client->in, sizeof(client->in));
        if (n == -EINTR || (n == -EAGAIN && !c->failed)) {
            unasked = false;
            break;
        }
        if (n <= 0) {
            fail_all(c, n == 0 ? "the connection was closed" : "the connection failed");
            return;
        }
        s->heard_ns = loop_now_ns();
        s->reads++;
        n = nghttp2_session_mem_recv(s->peer, client->in, (size_t)n);
        if (n < 0) {
            fail_all(c, nghttp2_strerror((int)n));
            return;
        }
        if (!unasked && (size_t)n < sizeof(client->in)) {
            break;
        }
    }
    if (unasked) {
        loop_timer_start(client->loop, &s->again, 0, read_again, c);
    }
    flush_later(s);
}

static void read_again(aiq_loop *loop, void *arg)
{
    (void)loop;
    read_some(arg);
}

void http2_ready(http_conn *c, int events)
{
    if (events & UV_WRITABLE) {
        flush_later(c->session);
    }
    if (events & UV_READABLE) {
        read_some(c);
    }
}

void http2_suspect(const http_request *r)
{
    http2_session *s = r->conn ? r->conn->session : NULL;

    if (s && s->heard_ns <= r->since_ns) {
        s->closing = true;
    }
}

/* Connections. */

static bool is_open(const http_conn *c)
{
    return c->session && !c->session->closing &&
           nghttp2_session_check_request_allowed(c->session->peer);
}

/* NULL: there shall be another one. */
static http_conn *pick(const http_origin *o)
{
    http_conn *coming = NULL, *least = NULL;

    for (http_conn *c = o->shared; c; c = c->next) {
        if (c->connecting && c->n_requests < o->room) {
            coming = c;
        } else if (is_open(c)) {
            if (c->n_requests < room(c)) {
                return c;
            }
            least = least == NULL || c->n_requests < least->n_requests ? c : least;
        }
    }
    if (coming) {
        return coming;
    }
    return o->n_shared < HTTP2_CONNECTIONS_MAX ? NULL : least;
}

static void join(http_request *r, http_conn *c)
{
    TAILQ_INSERT_TAIL(&c->requests, r, link);
    c->n_requests++;
    r->conn = c;
    if (c->session) {
        send_on(r, c);
    } else {
        request_set_state(r, REQUEST_CONNECTING);
    }
}

void http2_start(http_request *r)
{
    http_conn *c = pick(r->origin);

    if (c == NULL && r->origin->http1_only) {
        http1_start(r);
        return;
    }
    if (c == NULL) {
        c = http_connect(r->client, r->origin, r->connect_ms);
        if (c == NULL) {
            request_refuse(r);
            return;
        }
        conn_share(c);
    }
    join(r, c);
}

/* The peer speaks HTTP/1.1 only. */
static void go_back(http_conn *c)
{
    http_request *r;

    c->origin->http1_only = true;
    if (c->request) {
        http1_connected(c);
        return;
    }
    conn_unshare(c);
    while ((r = TAILQ_FIRST(&c->requests)) != NULL) {
        http2_leave(r);
        if (c->request) {
            http1_start(r);
        } else {
            c->request = r;
            r->conn = c;
        }
    }
    if (c->request) {
        http1_connected(c);
    } else {
        conn_keep(c);
    }
}

void http2_connected(http_conn *c)
{
    http2_session *s;
    http_request *r;

    if (!c->http2) {
        go_back(c);
        return;
    }
    c->origin->http1_only = false;
    s = aiq_zalloc(sizeof(*s));
    s->conn = c;
    s->peer = peer_new(s);
    if (s->peer == NULL) {
        free(s);
        http_unconnected(c, CURLE_OUT_OF_MEMORY);
        return;
    }
    c->session = s;
    c->idle_since_ns = loop_now_ns();
    r = c->request;
    if (r) { /* of a peer that spoke HTTP/1.1 only before */
        c->request = NULL;
        conn_share(c);
        join(r, c);
    } else {
        for (r = TAILQ_FIRST(&c->requests); r; r = TAILQ_NEXT(r, link)) {
            send_on(r, c);
        }
    }
    flush(c->client->loop, s); /* at once: see collect() in http_connect.c */
}
