
/*
 * permessage-deflate (RFC 7692) as far as it reads what a client says: its
 * offer, and its messages.  Knows nothing of nginx, so that tests and a fuzzer
 * can drive it.
 *
 * There is no context takeover, so nothing is left of a message when it ends.
 * What comes out of one is bounded as it comes, never by what goes in.
 */

#ifndef _NGX_HTTP_AIQ_WS_INFLATE_H_INCLUDED_
#define _NGX_HTTP_AIQ_WS_INFLATE_H_INCLUDED_


#include <zlib.h>

#include "ngx_http_aiq_ws_frame.h"


#define NGX_HTTP_AIQ_WS_BITS     15


/* a message on its way in; all zeroes before it */

typedef struct {
    z_stream                   z;
    ngx_http_aiq_ws_utf8_t     utf8;
    uint64_t                   len;
    uint8_t                    tail;         /* of what senders leave out */
    unsigned                   begun:1;      /* the engine has some of it */
    unsigned                   pending:1;    /* more comes out without input */
} ngx_http_aiq_ws_inflate_t;


/* what has become of a piece */

#define NGX_HTTP_AIQ_WS_INFLATE_BAD     -1   /* the code and why say it */
#define NGX_HTTP_AIQ_WS_INFLATE_PIECE   0    /* it is all out */
#define NGX_HTTP_AIQ_WS_INFLATE_MORE    1    /* it is not, there was no room */
#define NGX_HTTP_AIQ_WS_INFLATE_LAST    2    /* it is, and so is the message */


/*
 * Which window the first offer that we can take leaves us, 9 to 15, and
 * whether it named one; 0: there is none
 */
unsigned ngx_http_aiq_ws_offer(const uint8_t *p, size_t len, unsigned *named);

/* 0: no memory */
int ngx_http_aiq_ws_inflate_begin(ngx_http_aiq_ws_inflate_t *in);
void ngx_http_aiq_ws_inflate_end(ngx_http_aiq_ws_inflate_t *in);

/*
 * Inflates a piece of a message, from ev->data on and moves it, into "out"
 * with room for *size bytes, and says how many have come.
 */
int ngx_http_aiq_ws_inflate(ngx_http_aiq_ws_inflate_t *in,
    uint64_t max_message, ngx_http_aiq_ws_event_t *ev, uint8_t *out,
    size_t *size);


#endif /* _NGX_HTTP_AIQ_WS_INFLATE_H_INCLUDED_ */
