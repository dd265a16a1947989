/*
 * The HTTP client of a loop: requests to model providers, over connections that
 * are kept and used again.
 *
 * libcurl makes the connections (names, addresses, TLS with verification);
 * requests and responses are ours, because driving a whole transfer through
 * libcurl costs more than everything else that the engine does for a request.
 * A plain connection is taken from libcurl as a descriptor; a TLS one keeps its
 * libcurl handle, which encrypts and decrypts. A connection is registered with
 * the loop once, when it is made.
 *
 * Invariants:
 *  - A request gets exactly one last call, done or failed, unless it is
 *    cancelled; none during http_start().
 *  - A connection of HTTP/1.1 carries one request at a time. It is used again only
 *    after a response that was whole, with nothing behind it. HTTP/2 is in http2.h.
 *  - A request that fails on a connection that was used before, before any byte
 *    of the response, is sent once more on a new connection: the peer has
 *    closed the idle one. Nothing else is ever sent twice.
 *  - Redirects are not followed, cookies not used, nor proxies of the environment.
 *  - Connections are shared only by what goes to one URL the same way (http_via).
 *  - Nothing is read from a paused request's socket: the peer is held up.
 *
 * Everything here belongs to the loop's thread.
 */

#ifndef AIQ_HTTP_H
#define AIQ_HTTP_H

#include <sys/queue.h>
#include "core/loop.h"
#include "core/pool.h"
#include "providers/http_parse.h"

/* Connections of a loop, and idle ones kept of one origin. */
#define HTTP_CONNECTIONS_MAX 8192
#define HTTP_IDLE_MAX        256
#define HTTP_IDLE_MS         60000

/* Bytes read at a time: what a paused request may still be handed. */
#define HTTP_READ_MAX (32u << 10)

typedef struct http_client http_client;
typedef struct http_request http_request;

/* Memory that is filled from its beginning, while requests whose body's pieces lie in it are
 * on their way: they send what is there, and wait for the rest, which is not the peer's fault.
 * Its owner ends its requests before it goes. */
typedef struct http_filling {
    const char *data;
    size_t len, filled;
    LIST_HEAD(http_filling_requests, http_request) requests; /* http.c's own; zeroes */
} http_filling;

/* So much is there now. */
void http_filled(http_filling *filling, size_t filled);

/* How to get there; each may be NULL. Copied. */
typedef struct {
    const char *ca;                            /* PEM file to trust instead of the system's */
    const char *certificate, *certificate_key; /* PEM files: who we are */
    const char *proxy;                         /* URL; connections are tunnelled through it */
    bool http2; /* by prior knowledge for http; for https where the peer agrees to it */
} http_via;

typedef struct {
    const char *method;
    const char *url; /* http or https, without a trailing slash; copied */
    http_via via;
    const char *path;      /* appended to the url's; copied */
    const char *query;     /* what follows "?"; NULL: nothing; copied */
    aiq_str headers;       /* lines, each with its CRLF; copied. Host, User-Agent and
                              Content-Length are added */
    const aiq_str *body;   /* pieces; they and their bytes stay until the last call */
    size_t n_body;         /* 0: no body */
    http_filling *filling; /* in which pieces may lie; NULL: all of them are there */
    uint32_t connect_ms;
    uint32_t first_byte_ms; /* from the whole request sent to the whole head received */
    uint32_t idle_ms;       /* between pieces of the request, and of the body */
    uint32_t total_ms;      /* from http_start() to the end, however steadily it drips */
} http_call;

/* Any of them may cancel the request. Failures: 504 provider_timeout, 502
 * provider_unreachable (no connection), 502 provider_error (reset, cut, no
 * HTTP), 503 overloaded (no connection to spare); err->detail says more. */
typedef struct {
    void (*head)(void *arg, const http_head *head); /* valid during the call */
    void (*body)(void *arg, aiq_str piece);
    void (*done)(void *arg);
    void (*failed)(void *arg, const aiq_err *err);
} http_events;

http_request *http_start(aiq_loop *loop, const http_call *call, const http_events *events,
                         void *arg);

/* Back-pressure: at most HTTP_READ_MAX bytes still come. For a paused request no time passes.
 */
void http_pause(http_request *r);
void http_resume(http_request *r);

/* No call comes any more; the connection is closed. Not after the last call. */
void http_cancel(http_request *r);

#endif
