
/*
 * The frames of RFC 6455, as a server reads and writes them.  Knows nothing of
 * nginx, so that tests and a fuzzer can drive it.
 *
 * The reader takes bytes however they were cut, unmasks them where they lie,
 * and keeps nothing of a message but its length and the state of its UTF-8: a
 * message comes in pieces.  Only the payload of a control frame, of at most
 * 125 bytes, is gathered.  Whatever comes out has been checked.
 */

#ifndef _NGX_HTTP_AIQ_WS_FRAME_H_INCLUDED_
#define _NGX_HTTP_AIQ_WS_FRAME_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


#define NGX_HTTP_AIQ_WS_MORE       0x0
#define NGX_HTTP_AIQ_WS_TEXT       0x1
#define NGX_HTTP_AIQ_WS_BINARY     0x2
#define NGX_HTTP_AIQ_WS_CLOSE      0x8
#define NGX_HTTP_AIQ_WS_PING       0x9
#define NGX_HTTP_AIQ_WS_PONG       0xa

#define NGX_HTTP_AIQ_WS_FIN        0x80
#define NGX_HTTP_AIQ_WS_RSV1       0x40

/* of a control frame */
#define NGX_HTTP_AIQ_WS_CONTROL    125
/* of a header that the server writes */
#define NGX_HTTP_AIQ_WS_HEADER     10

/* RFC 6455, 7.4.1, and IANA's registry */

#define NGX_HTTP_AIQ_WS_NORMAL       1000
#define NGX_HTTP_AIQ_WS_GOING_AWAY   1001
#define NGX_HTTP_AIQ_WS_PROTOCOL     1002
#define NGX_HTTP_AIQ_WS_UNSUPPORTED  1003
#define NGX_HTTP_AIQ_WS_NO_CODE      1005
#define NGX_HTTP_AIQ_WS_ABNORMAL     1006
#define NGX_HTTP_AIQ_WS_BAD_DATA     1007
#define NGX_HTTP_AIQ_WS_POLICY       1008
#define NGX_HTTP_AIQ_WS_TOO_BIG      1009
#define NGX_HTTP_AIQ_WS_INTERNAL     1011
#define NGX_HTTP_AIQ_WS_RESTART      1012
#define NGX_HTTP_AIQ_WS_TRY_LATER    1013


/* what a character needs yet, see ngx_http_aiq_ws_utf8(); zero: nothing */

typedef struct {
    uint8_t                left;        /* bytes */
    uint8_t                low;         /* of the next one */
    uint8_t                high;
} ngx_http_aiq_ws_utf8_t;


typedef struct {
    uint64_t               max_message; /* bytes; 0: any */
    uint32_t               max_fragments;
    unsigned               deflate:1;   /* RSV1 is negotiated */
} ngx_http_aiq_ws_limits_t;


typedef struct {
    uint64_t               left;        /* of the frame's payload */
    uint64_t               message;     /* bytes, with this frame whole */
    uint32_t               fragments;
    uint8_t                header[14];
    uint8_t                have;        /* bytes of the header */
    uint8_t                mask[4];     /* rotated to the next byte */
    uint8_t                opcode;      /* of the frame */
    uint8_t                nfill;
    uint8_t                fill[NGX_HTTP_AIQ_WS_CONTROL];
    ngx_http_aiq_ws_utf8_t utf8;
    unsigned               fin:1;
    unsigned               payload:1;   /* the header is read */
    unsigned               open:1;      /* within a message */
    unsigned               text:1;      /* the message is text */
    unsigned               compressed:1;
    unsigned               first:1;     /* nothing of it has come out */
} ngx_http_aiq_ws_reader_t;


/* a piece of a message, or a whole control frame */

typedef struct {
    uint8_t                opcode;      /* TEXT, BINARY; CLOSE, PING, PONG */
    uint8_t               *data;
    size_t                 len;
    unsigned               first:1;     /* of its message */
    unsigned               last:1;
    unsigned               compressed:1;

    /* CLOSE */
    unsigned               code;        /* 1005: none */

    /* of an error */
    const char            *why;
} ngx_http_aiq_ws_event_t;


/*
 * Reads from *pos on and moves it.  1: an event, whose data lie before *pos or
 * in the reader until the next call, 0: all bytes are read, -1: the client
 * has broken a rule, ev->code says which close code that is, ev->why in words.
 */
int ngx_http_aiq_ws_read(ngx_http_aiq_ws_reader_t *rd,
    const ngx_http_aiq_ws_limits_t *limits, uint8_t **pos, uint8_t *last,
    ngx_http_aiq_ws_event_t *ev);

/* Writes a header that begins with the byte "first", returns its end. */
uint8_t *ngx_http_aiq_ws_header(uint8_t *p, uint8_t first, uint64_t len);

/* 0: no UTF-8 (RFC 3629); s->left: bytes that its last character lacks */
int ngx_http_aiq_ws_utf8(ngx_http_aiq_ws_utf8_t *s, const uint8_t *p,
    size_t len);

/* may an endpoint send this code? */
int ngx_http_aiq_ws_valid_code(unsigned code);


#endif /* _NGX_HTTP_AIQ_WS_FRAME_H_INCLUDED_ */
