
/*
 * WebSockets.  ngx_http_aiq_ws_handshake.c says which requests are one and
 * writes the answer, ngx_http_aiq_ws.c carries messages once the service has
 * accepted it, ngx_http_aiq_ws_output.c has what waits for the client,
 * ngx_http_aiq_ws_first.c takes what lets it in from its first message, and
 * ngx_http_aiq_ws_token.c renews that.
 */

#ifndef _NGX_HTTP_AIQ_WS_H_INCLUDED_
#define _NGX_HTTP_AIQ_WS_H_INCLUDED_


#include "ngx_http_aiq.h"
#include "ngx_http_aiq_ws_frame.h"
#include "ngx_http_aiq_ws_inflate.h"


typedef struct ngx_http_aiq_ws_buf_s  ngx_http_aiq_ws_buf_t;


typedef struct {
    ngx_flag_t                 enable;
    ngx_array_t               *origins;      /* ngx_str_t; NULL: the same */
    ngx_array_t               *protocols;    /* ngx_str_t */
    size_t                     max_message;
    ngx_int_t                  max_fragments;
    ngx_int_t                  control_rate; /* a second */
    ngx_msec_t                 token_timeout;
    ngx_msec_t                 ping;
    ngx_msec_t                 idle_timeout;
    ngx_msec_t                 close_timeout;
    ngx_flag_t                 deflate;
} ngx_http_aiq_ws_loc_conf_t;


/*
 * A WebSocket opens with HEAD, or before that, in the ACCESS phase, where its
 * first message has the token.  It ends in steps, each of them once:
 *
 *     leaving   END is told to the engine: the client wants to close, or we;
 *               nothing more goes there
 *     closed    the job is over, our Close is in "out"
 *     done      nothing more from the client matters: when "out" is empty, the
 *               connection ends
 */

struct ngx_http_aiq_ws_s {
    ngx_http_aiq_ws_loc_conf_t  *conf;
    ngx_str_t                    protocol;
    u_char                       accept[28];
    uint8_t                      bits;        /* of our window; 0: no deflate */

    /* from the client */
    ngx_http_aiq_ws_reader_t     reader;
    ngx_http_aiq_ws_limits_t     limits;
    ngx_http_aiq_ws_event_t      piece;       /* on its way to the engine */
    ngx_http_aiq_ws_inflate_t   *inflate;     /* within a message */
    size_t                       full;        /* bytes that wait for the ring */
    u_char                      *in;          /* what must wait */
    u_char                      *pos;         /* in it, behind the piece */
    u_char                      *last;
    ngx_int_t                    controls;    /* in this second */
    time_t                       second;

    /* the first message, where it has the token */
    u_char                      *text;
    size_t                       len;
    ngx_str_t                    token;

    /* to the client */
    ngx_http_aiq_ws_buf_t       *out;
    ngx_http_aiq_ws_buf_t       *last_out;
    size_t                       cost;        /* credit of what is in out */
    u_char                       pong[NGX_HTTP_AIQ_WS_CONTROL];
    uint8_t                      pong_len;

    ngx_event_t                  timer;
    ngx_msec_t                   heard;       /* when anything has come */
    ngx_msec_t                   active;      /* when a message came or went */
    time_t                       expires;     /* the client's token; 0: never */

    ngx_uint_t                   granted;     /* of GRANT: its status, ... */
    ngx_str_t                    grant_code;  /* and where that is not 200 */
    ngx_str_t                    grant_message;

    ngx_uint_t                   code;        /* of END, then of our Close */
    u_char                       reason[NGX_HTTP_AIQ_WS_CONTROL - 2];
    uint8_t                      reason_len;

    unsigned                     names_bits:1;
    unsigned                     accepted:1;  /* by HEAD */
    unsigned                     open:1;      /* the 101 is sent */
    unsigned                     first:1;     /* its first message is awaited */
    unsigned                     begun:1;     /* messages go to the service */
    unsigned                     has_piece:1;
    unsigned                     owes_pong:1;
    unsigned                     owes_grant:1;
    unsigned                     pinged:1;    /* and nothing heard since */
    unsigned                     heard_close:1; /* the client's */
    unsigned                     leaving:1;
    unsigned                     closed:1;
    unsigned                     done:1;
    unsigned                     broken:1;    /* no memory */
    unsigned                     counted:1;   /* not open any more */
};


/* ngx_http_aiq_ws_handshake.c */

/*
 * NGX_DECLINED: it is no WebSocket, NGX_OK: it is one, ctx->ws is made; else
 * what to finalize the request with
 */
ngx_int_t ngx_http_aiq_ws_handshake(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
/* sends the answer */
ngx_int_t ngx_http_aiq_ws_answer(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws);

/* ngx_http_aiq_ws.c */

/* sends the answer, before the service has accepted it where "first" */
ngx_int_t ngx_http_aiq_ws_open(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx);
/* the service has accepted it */
void ngx_http_aiq_ws_accept(ngx_http_aiq_ctx_t *ctx);
/* MESSAGE and END of the engine; ngx_http_aiq_ws_turn() follows */
void ngx_http_aiq_ws_message(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev);
void ngx_http_aiq_ws_end(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev);
/* what the engine should get, when the ring has room; NGX_AGAIN: it has none */
ngx_int_t ngx_http_aiq_ws_push(ngx_http_aiq_ctx_t *ctx);
/* NGX_DONE: the connection goes on; else what to finalize the request with */
ngx_int_t ngx_http_aiq_ws_turn(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx);
/* our Close, for what the engine has no word in any more */
void ngx_http_aiq_ws_close(ngx_http_aiq_ctx_t *ctx, ngx_uint_t code,
    const u_char *reason, size_t len);
/* the code that says what a status says */
ngx_uint_t ngx_http_aiq_ws_code(ngx_uint_t status);
/* the read and write event handlers of the request */
void ngx_http_aiq_ws_handler(ngx_http_request_t *r);
void ngx_http_aiq_ws_writer(ngx_http_request_t *r);
/* nginx or the engine wants to leave: the client shall connect anew */
void ngx_http_aiq_ws_leave(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_ws_free(ngx_http_aiq_ws_t *ws);
/* looks again at what there is to wait for */
void ngx_http_aiq_ws_set_timer(ngx_http_aiq_ws_t *ws);

/* ngx_http_aiq_ws_first.c */

/*
 * In the ACCESS phase.  NGX_OK: the first message is here, ws->token;
 * NGX_DECLINED: it is no WebSocket; else what the phase's handler returns, which
 * runs again once it is here.
 */
ngx_int_t ngx_http_aiq_ws_first(ngx_http_request_t *r);
/* as ngx_http_aiq_ws_deliver() in ngx_http_aiq_ws.c */
ngx_int_t ngx_http_aiq_ws_first_piece(ngx_http_aiq_ctx_t *ctx);
/* it is here: the phases go on */
void ngx_http_aiq_ws_first_done(ngx_http_request_t *r);
/* in place of a reply's header, which would come behind the 101: a Close */
ngx_int_t ngx_http_aiq_ws_refused(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_uint_t status, ngx_str_t *message);

/* ngx_http_aiq_ws_token.c */

/* TOKEN of the engine: the client shows another one */
void ngx_http_aiq_ws_show(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev);
/* GRANT, when the ring has room; NGX_AGAIN: it has none */
ngx_int_t ngx_http_aiq_ws_push_grant(ngx_http_aiq_ctx_t *ctx);

/* ngx_http_aiq_ws_output.c */

/* adds a frame; "first" is its first byte */
void ngx_http_aiq_ws_append(ngx_http_aiq_ctx_t *ctx, ngx_uint_t first,
    const u_char *data, size_t len);
/* what the client takes now; credit for the engine, and the timer of sending */
ngx_int_t ngx_http_aiq_ws_flush(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_ws_discard(ngx_http_aiq_ws_t *ws);

/* ngx_http_aiq_ws_deflate.c */

/* as ngx_http_aiq_ws_deliver() in ngx_http_aiq_ws.c, inflated */
ngx_int_t ngx_http_aiq_ws_deliver_inflated(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
ngx_int_t ngx_http_aiq_ws_begin_inflate(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws);
void ngx_http_aiq_ws_end_inflate(ngx_http_aiq_ws_t *ws);
/* a whole message, into memory that holds until the next; 0: not worth it */
size_t ngx_http_aiq_ws_deflate(ngx_uint_t bits, const u_char *data, size_t len,
    u_char **deflated);
void ngx_http_aiq_ws_deflate_exit(void);


extern ngx_module_t  ngx_http_aiq_ws_module;


#endif /* _NGX_HTTP_AIQ_WS_H_INCLUDED_ */
