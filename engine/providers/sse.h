/*
 * A parser of event streams (WHATWG HTML, "server-sent events"), fed with bytes
 * as they come: lines end with LF, CRLF or CR, split wherever the network
 * likes; a byte-order mark is skipped. Bytes are not checked to be UTF-8:
 * whoever reads the data does that.
 *
 * A line and an event hold at most SSE_MAX bytes, so that a peer that never
 * ends one cannot make us hold more.
 */

#ifndef AIQ_SSE_H
#define AIQ_SSE_H

#include "core/pool.h"

#define SSE_MAX (1u << 20)

/* Valid until the next call. */
typedef struct {
    aiq_str type; /* empty: "message" */
    aiq_str data; /* its lines joined by LF */
    aiq_str id;   /* the last one seen */
} sse_event;

typedef enum { SSE_MORE, SSE_EVENT, SSE_TOO_LONG } sse_result;

typedef struct {
    aiq_buf line; /* the start of a line that came in pieces */
    aiq_buf data, type, id;
    int64_t retry_ms; /* what the peer asked for; -1: nothing */
    uint8_t bom;      /* bytes of the byte-order mark seen; 3: past it */
    bool after_cr;    /* an LF now belongs to the CR before it */
    bool told;        /* data and type are those of an event that was handed out */
} sse_parser;

void sse_init(sse_parser *p);
void sse_free(sse_parser *p);

/* SSE_MORE: all bytes are used up. SSE_TOO_LONG: nothing more comes of this stream. */
sse_result sse_next(sse_parser *p, const uint8_t **pos, const uint8_t *end, sse_event *event);

/* The stream has ended: an event that lacks its empty line, which browsers drop
 * and providers send. */
sse_result sse_end(sse_parser *p, sse_event *event);

#endif
