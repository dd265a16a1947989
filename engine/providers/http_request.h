/*
 * A request, between http.c (its life, its time, its owner's calls) and what
 * carries it: http1.c, a connection of its own, or http2.c, a stream of one that
 * it shares.
 */

#ifndef AIQ_HTTP_REQUEST_H
#define AIQ_HTTP_REQUEST_H

#include "providers/http_conn.h"

typedef enum {
    REQUEST_CONNECTING,
    REQUEST_SENDING,
    REQUEST_WAITING, /* for the head */
    REQUEST_READING  /* the body */
} request_state;

struct http_request {
    http_client *client;
    http_origin *origin;
    http_conn *conn; /* NULL: none could be had, on_timer() tells; or its stream is over */
    TAILQ_ENTRY(http_request) link; /* in conn->requests, if that is shared */
    http_request *next, **prev;
    http_events events;
    void *arg;
    request_state state;
    bool received; /* a byte of the response has come */
    bool refused;  /* the peer takes no more of the request: its reply may say why */
    bool paused, in_call, cancelled;
    loop_timer timer;
    loop_timer again;  /* reads on what TLS holds, which makes no socket readable */
    uint64_t since_ns; /* the last sign of life, for the state's time-out */
    uint64_t ends_ns;  /* when it must be over */
    uint64_t paused_ns;
    uint32_t connect_ms, first_byte_ms, idle_ms;
    http_parser parser;
    aiq_buf head; /* the request's */
    const aiq_str *body;
    size_t n_body;
    http_filling *filling;
    LIST_ENTRY(http_request) fed; /* in filling->requests */
    bool starved;                 /* the next byte of the body is not there yet */
    uint64_t starved_ns;
    size_t sent, length; /* of head and body together */
    int32_t stream;      /* of HTTP/2; 0: none */
    uint8_t interim;     /* responses before the one that counts */
    bool whole;          /* the reply; what is held of it may still be to be told */
    uint8_t resent;      /* so often */
    char broken[64];     /* why there will be no more of the reply than is held */
    aiq_buf held;        /* came while it was paused */
    uint64_t reads;      /* of its connection, when it was sent */
    aiq_err early;       /* what is to be told, but not within http_start() */
};

/* http.c */

void request_set_state(http_request *r, request_state state);
/* Copies what is to be sent next; the whole request where it is a usual one, so
 * that it goes out in one write. 0, before its end: it is starved. */
size_t request_gather(http_request *r, uint8_t *out, size_t size);
/* Calls of the owner. False: it has cancelled the request, which is gone. */
bool request_head(http_request *r, const http_head *head);
bool request_body(http_request *r, aiq_str piece);
/* The last calls: the request is gone. */
void request_done(http_request *r);
void request_fail(http_request *r, unsigned status, const char *code, const char *message,
                  const char *detail);
void request_fail_broken(http_request *r, const char *detail);
/* There is no connection to spare. Told later, for nobody is called back before
 * http_start() returns. */
void request_refuse(http_request *r);

/* http1.c: on a connection of its own. */

/* Over an idle connection or a new one. */
void http1_start(http_request *r);
void http1_connected(http_conn *c);
void http1_ready(http_conn *c, int events);
/* It is not starved any more. */
void http1_feed(http_request *r);
void http1_pause(http_request *r);
void http1_resume(http_request *r);

#endif
