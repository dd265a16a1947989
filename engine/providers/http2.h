/*
 * HTTP/2 to providers: many requests on one connection. As with HTTP/1.1 libcurl
 * makes the connections; nghttp2 has the protocol, and what it decodes comes and
 * goes through conn_recv() and conn_send(). libcurl's own transfers are of no use
 * here: in 7.88 a stream whose data is not taken stops all others of its
 * connection, so one slow client would stop everybody's.
 *
 * Invariants:
 *  - A shared connection is in its origin's list from the moment it is begun.
 *    Requests wait on it while it connects and are its streams afterwards.
 *  - The window of the connection is given back at once, that of a stream when its
 *    owner has taken the data. So a paused request holds at most HTTP2_WINDOW bytes,
 *    and stops nobody else.
 *  - A connection that takes no more requests (its peer is going away, or has not
 *    been heard of during a whole time-out) serves those it has, then is closed.
 *  - Nothing is closed from within nghttp2: callbacks mark, flush() does.
 *  - What a peer says it has not looked at is sent again, a few times, and once what
 *    it has closed an idle connection on; nothing else ever is.
 *
 * Where the peer of a TLS connection does not agree to HTTP/2, what waits goes on
 * with http1.c.
 */

#ifndef AIQ_HTTP2_H
#define AIQ_HTTP2_H

#include <nghttp2/nghttp2.h>
#include "providers/http_request.h"

#define HTTP2_WINDOW            (256u << 10) /* of a stream */
#define HTTP2_CONNECTION_WINDOW (16u << 20)
#define HTTP2_STREAMS_MAX       1000 /* of a connection, whatever its peer allows */
#define HTTP2_ROOM              100  /* what is expected of a peer that has not said more */
#define HTTP2_CONNECTIONS_MAX   64   /* of an origin; then streams wait for their turn */

/* On a connection that is there, or is to be. */
void http2_start(http_request *r);
void http2_connected(http_conn *c);
void http2_ready(http_conn *c, int events);
/* Hands on what came during the pause. */
void http2_resume(http_request *r);
/* More of its body is there. */
void http2_feed(http_request *r);
/* Takes a request off its shared connection; the peer is told to stop. */
void http2_leave(http_request *r);
/* The request has timed out: it may be the connection that is dead. */
void http2_suspect(const http_request *r);
/* A connection's part of it, when it is closed. */
void http2_close(http_conn *c);

/* http2_head.c: a head as HTTP/1.1 has it, without its empty line, to nghttp2's fields,
 * which point into text and are to be freed together with it. Returns their number. */
size_t http2_head(aiq_str head, bool https, char **text, nghttp2_nv **fields);

#endif
