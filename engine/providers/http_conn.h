/*
 * Connections, between http.c and http1.c (requests), http_conn.c (their bytes
 * and their rest) and http_connect.c (their making). An http_conn is made for a request
 * and belongs to it or to its origin's idle list; conn_close() ends it.
 *
 *     c->request != NULL   busy: made for it, or serving it
 *     c->connecting        libcurl works on it; c->fd is -1
 *     c->shared            in its origin's list of such; c->requests are its own
 *     otherwise            c is in its origin's idle list, its peer is watched
 */

#ifndef AIQ_HTTP_CONN_H
#define AIQ_HTTP_CONN_H

#include <curl/curl.h>
#include <sys/queue.h>
#include "providers/http.h"

typedef struct http_conn http_conn;
typedef struct http2_session http2_session;
typedef TAILQ_HEAD(http_requests, http_request) http_requests;

/* Where requests of one url go, and how. Lives while it has connections or requests. */
typedef struct http_origin {
    struct http_origin *next;
    char *url;     /* as in http_call: with via the key */
    http_via via;  /* its texts are ours */
    char *connect; /* for libcurl: scheme, host, port */
    char *host;    /* the Host field's value */
    char *path;    /* what the url begins every path with */
    bool https, tls_proxy;
    bool tls;        /* libcurl keeps the connection, for it encrypts */
    bool http1_only; /* it was offered HTTP/2 and took HTTP/1.1 */
    uint32_t refs;
    http_conn *idle; /* the one used last first: its peer keeps it longest */
    uint32_t n_idle;
    http_conn *shared; /* connections of HTTP/2, and those that are to be */
    uint32_t n_shared;
    uint32_t room; /* streams that a connection has had room for */
} http_origin;

struct http_conn {
    http_client *client;
    http_origin *origin;
    http_request *request;
    http_conn *next, **prev; /* in origin->idle or origin->shared */
    bool shared;
    bool http2;             /* what its peer has agreed to */
    http_requests requests; /* of a shared one: its streams, or who waits for it */
    uint32_t n_requests;
    http2_session *session; /* of a shared one, once it is connected */
    int fd;
    int events; /* what poll watches */
    uv_poll_t *poll;
    CURL *easy; /* while connecting; kept for TLS */
    bool connecting, stolen;
    bool proxied; /* TLS with the proxy has begun: the next is with the provider */
    bool used;    /* has served a request */
    bool failed;  /* the loop watches it no more: what came before the error is still to be read
                   */
    uint64_t idle_since_ns;
    char error[CURL_ERROR_SIZE];
};

struct http_client {
    aiq_loop *loop;
    CURLM *multi;
    loop_timer multi_timer, idle_timer;
    loop_hook exit;
    http_origin *origins;
    http_request *requests;
    uint32_t n_connections;
    http_field fields[HTTP_FIELDS_MAX]; /* of the head being looked at */
    uint8_t in[HTTP_READ_MAX];
    uint8_t out[64u << 10];
};

/* http_connect.c */
void connect_init(http_client *client);
void connect_free(http_client *client);
/* Begins; http_connected() or http_unconnected() follows, not at once. False: no memory. */
bool connect_start(http_conn *c, uint32_t timeout_ms);
/* Takes libcurl's part of a connection down. */
void connect_drop(http_conn *c);

/* http_conn.c */
http_conn *conn_new(http_client *client, http_origin *origin);
http_conn *conn_take_idle(http_origin *origin);
void conn_keep(http_conn *c); /* to the idle list, or closed where it is full */
/* To its origin's list of shared ones, and out of it. */
void conn_share(http_conn *c);
void conn_unshare(http_conn *c);
void conn_close(http_conn *c);
void conn_watch(http_conn *c, int events);
/* Bytes moved; 0: the peer has closed (recv); -EAGAIN: not now; another -errno. */
ssize_t conn_send(http_conn *c, const void *data, size_t n);
ssize_t conn_recv(http_conn *c, void *data, size_t n);

/* A reference, or NULL: no url. */
http_origin *origin_get(http_client *client, const char *url, const http_via *via);
void origin_unref(http_client *client, http_origin *origin);

/* http.c */

/* A new one, or NULL: there is none to spare. Of what happens on it the others tell. */
http_conn *http_connect(http_client *client, http_origin *origin, uint32_t timeout_ms);
void http_connected(http_conn *c);
void http_unconnected(http_conn *c, CURLcode code);
void http_ready(http_conn *c, int events);

#endif
