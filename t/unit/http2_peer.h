/*
 * A provider that speaks HTTP/2 without TLS on the test's own loop, and does what a
 * request's path says. Bodies are the letters a to z again and again, so that what is
 * lost or doubled shows.
 */

#ifndef HTTP2_PEER_H
#define HTTP2_PEER_H

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define PEER_LARGE (2u << 20)

typedef struct {
    uv_tcp_t listener;
    unsigned port;
    struct peer_conn *conns;
    unsigned accepted, open, requests, resets;
    uint32_t last_reset; /* the code of the client's last RST_STREAM */
    unsigned refusals;   /* so many requests are refused from now on */
    uint64_t body_sent;  /* bytes of bodies */
    bool no_window;      /* for bodies of requests */
    bool deaf;           /* what comes is thrown away, and nothing said */
} http2_peer;

typedef struct peer_stream {
    char path[64];
    size_t sent, size; /* of the body */
    bool reset, trailer;
    struct peer_stream *next;
} peer_stream;

typedef struct peer_conn {
    uv_tcp_t tcp;
    http2_peer *peer;
    nghttp2_session *session;
    struct peer_conn *next;
    peer_stream *streams; /* all that there were */
    bool closing;
} peer_conn;

static void peer_closed(uv_handle_t *handle)
{
    peer_conn *c = handle->data, **p = &c->peer->conns;

    while (*p != c) {
        p = &(*p)->next;
    }
    *p = c->next;
    c->peer->open--;
    nghttp2_session_del(c->session);
    for (peer_stream *s = c->streams, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    free(c);
}

static void peer_close(peer_conn *c)
{
    if (!c->closing) {
        c->closing = true;
        uv_close((uv_handle_t *)&c->tcp, peer_closed);
    }
}

static void peer_written(uv_write_t *write, int status)
{
    (void)status;
    free(write);
}

static void peer_write(peer_conn *c, const void *data, size_t n)
{
    uv_write_t *write = malloc(sizeof(*write) + n);
    uv_buf_t buf = uv_buf_init(memcpy(write + 1, data, n), (unsigned)n);

    uv_write(write, (uv_stream_t *)&c->tcp, &buf, 1, peer_written);
}

static void peer_flush(peer_conn *c)
{
    const uint8_t *data;
    ssize_t n;

    while (!c->closing && (n = nghttp2_session_mem_send(c->session, &data)) > 0) {
        peer_write(c, data, (size_t)n);
    }
}

static ssize_t peer_body(nghttp2_session *session, int32_t id, uint8_t *out, size_t size,
                         uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    static const nghttp2_nv trailer = {(uint8_t *)"x-end", (uint8_t *)"1", 5, 1, 0};
    peer_stream *s = source->ptr;
    peer_conn *c = arg;
    size_t n = s->size - s->sent < size ? s->size - s->sent : size;

    if (n == 0 && s->reset) {
        nghttp2_submit_rst_stream(session, 0, id, NGHTTP2_INTERNAL_ERROR);
        return NGHTTP2_ERR_DEFERRED;
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)('a' + (s->sent + i) % 26);
    }
    s->sent += n;
    c->peer->body_sent += n;
    if (s->sent == s->size && !s->reset) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->trailer) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            nghttp2_submit_trailer(session, id, &trailer, 1);
        }
    }
    return (ssize_t)n;
}

static nghttp2_nv peer_field(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0};
}

static void peer_reply(peer_conn *c, int32_t id, peer_stream *s, size_t size)
{
    nghttp2_data_provider body = {.source.ptr = s, .read_callback = peer_body};
    char length[16];

    snprintf(length, sizeof(length), "%zu", size);
    nghttp2_nv fields[] = {peer_field(":status", "200"), peer_field("content-length", length)};
    s->size = size;
    nghttp2_submit_response(c->session, id, fields, s->reset ? 1 : 2, &body);
}

static void peer_long_head(peer_conn *c, int32_t id)
{
    static char value[4000];
    nghttp2_nv fields[20] = {peer_field(":status", "200")};

    memset(value, 'v', sizeof(value) - 1);
    for (int i = 1; i < 20; i++) {
        fields[i] = peer_field("x-long", value);
    }
    nghttp2_submit_response(c->session, id, fields, 20, NULL);
}

static void peer_serve(peer_conn *c, int32_t id, peer_stream *s)
{
    const nghttp2_nv hint = peer_field(":status", "103"), none = peer_field(":status", "026");

    c->peer->requests++;
    if (c->peer->refusals) {
        c->peer->refusals--;
        nghttp2_submit_rst_stream(c->session, 0, id, NGHTTP2_REFUSED_STREAM);
    } else if (strcmp(s->path, "/ok") == 0) {
        nghttp2_submit_headers(c->session, 0, id, NULL, &hint, 1, NULL);
        s->trailer = true;
        peer_reply(c, id, s, 100);
    } else if (strcmp(s->path, "/large") == 0) {
        peer_reply(c, id, s, PEER_LARGE);
    } else if (strcmp(s->path, "/reset") == 0) {
        s->reset = true;
        peer_reply(c, id, s, 1000);
    } else if (strcmp(s->path, "/head") == 0) {
        peer_long_head(c, id);
    } else if (strcmp(s->path, "/status") == 0) {
        nghttp2_submit_headers(c->session, NGHTTP2_FLAG_END_STREAM, id, NULL, &none, 1, NULL);
    } else if (strcmp(s->path, "/hints") == 0) {
        for (int i = 0; i < 20; i++) {
            nghttp2_submit_headers(c->session, 0, id, NULL, &hint, 1, NULL);
        }
    } else if (strcmp(s->path, "/unseen") == 0 && c->peer->accepted == 1) {
        nghttp2_submit_goaway(c->session, 0, id - 2, NGHTTP2_NO_ERROR, NULL, 0);
    } else if (strcmp(s->path, "/unseen") == 0) {
        peer_reply(c, id, s, 100);
    } else if (strcmp(s->path, "/last") == 0) {
        nghttp2_submit_goaway(c->session, 0, id, NGHTTP2_NO_ERROR, NULL, 0);
        peer_reply(c, id, s, 100);
    } else if (strcmp(s->path, "/close") == 0) {
        peer_close(c);
    } else if (strcmp(s->path, "/garbage") == 0) {
        peer_write(c, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    } else if (strcmp(s->path, "/early") == 0) {
        peer_reply(c, id, s, 100);
    } /* "/silent" */
}

static int peer_on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    peer_stream *s = calloc(1, sizeof(*s));
    peer_conn *c = arg;

    s->next = c->streams;
    c->streams = s;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, s);
    return 0;
}

static int peer_on_field(nghttp2_session *session, const nghttp2_frame *frame,
                         const uint8_t *name, size_t name_len, const uint8_t *value,
                         size_t value_len, uint8_t flags, void *arg)
{
    peer_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    (void)arg;
    if (name_len == 5 && memcmp(name, ":path", 5) == 0) {
        snprintf(s->path, sizeof(s->path), "%.*s", (int)value_len, (const char *)value);
    }
    return 0;
}

static int peer_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    peer_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    peer_conn *c = arg;

    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        c->peer->resets++;
        c->peer->last_reset = frame->rst_stream.error_code;
    } else if (s && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM ||
                     (frame->hd.type == NGHTTP2_HEADERS && strcmp(s->path, "/early") == 0))) {
        peer_serve(c, frame->hd.stream_id, s);
    }
    return 0;
}

static void peer_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    static char data[65536];

    (void)handle;
    (void)size;
    *buf = uv_buf_init(data, sizeof(data));
}

static void peer_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    peer_conn *c = stream->data;

    if (n < 0 || (!c->peer->deaf &&
                  nghttp2_session_mem_recv(c->session, (uint8_t *)buf->base, (size_t)n) < 0)) {
        peer_close(c);
    } else if (!c->peer->deaf) {
        peer_flush(c);
    }
}

static void peer_accept(uv_stream_t *listener, int status)
{
    http2_peer *peer = listener->data;
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 50},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0}};
    peer_conn *c = calloc(1, sizeof(*c));
    nghttp2_session_callbacks *calls;
    nghttp2_option *options;

    (void)status;
    c->peer = peer;
    c->next = peer->conns;
    peer->conns = c;
    peer->accepted++;
    peer->open++;
    uv_tcp_init(listener->loop, &c->tcp);
    c->tcp.data = c;
    uv_accept(listener, (uv_stream_t *)&c->tcp);
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, peer_on_begin);
    nghttp2_session_callbacks_set_on_header_callback(calls, peer_on_field);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, peer_on_frame);
    nghttp2_option_new(&options);
    nghttp2_option_set_max_send_header_block_length(options, 1u << 20);
    nghttp2_session_server_new2(&c->session, calls, c, options);
    nghttp2_session_callbacks_del(calls);
    nghttp2_option_del(options);
    nghttp2_submit_settings(c->session, 0, settings, peer->no_window ? 2 : 1);
    uv_read_start((uv_stream_t *)&c->tcp, peer_alloc, peer_read);
    peer_flush(c);
}

static inline void peer_start(http2_peer *peer, uv_loop_t *loop)
{
    struct sockaddr_in address;
    int len = sizeof(address);

    *peer = (http2_peer){0};
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, &peer->listener);
    peer->listener.data = peer;
    uv_tcp_bind(&peer->listener, (struct sockaddr *)&address, 0);
    uv_listen((uv_stream_t *)&peer->listener, 64, peer_accept);
    uv_tcp_getsockname(&peer->listener, (struct sockaddr *)&address, &len);
    peer->port = ntohs(address.sin_port);
}

/* Its connections, too. They are gone some turns later. */
static inline void peer_stop(http2_peer *peer)
{
    for (peer_conn *c = peer->conns; c; c = c->next) {
        peer_close(c);
    }
    if (!uv_is_closing((uv_handle_t *)&peer->listener)) {
        uv_close((uv_handle_t *)&peer->listener, NULL);
    }
}

#endif
