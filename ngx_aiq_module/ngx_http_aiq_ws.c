
#include "ngx_http_aiq_ws.h"


#define NGX_HTTP_AIQ_WS_BUFFER  16384   /* read at once */
#define NGX_HTTP_AIQ_WS_READS   16      /* a turn */
#define NGX_HTTP_AIQ_WS_PIECE   32768
#define NGX_HTTP_AIQ_WS_LOOK    86400000 /* ms */


static ngx_int_t ngx_http_aiq_ws_begin(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);

static ngx_int_t ngx_http_aiq_ws_receive(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_ws_keep(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws, u_char *pos, u_char *last);
static ngx_int_t ngx_http_aiq_ws_parse(ngx_http_aiq_ctx_t *ctx, u_char **pos,
    u_char *last);
static void ngx_http_aiq_ws_refuse(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_ws_event_t *ev);
static void ngx_http_aiq_ws_control(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_ws_event_t *ev);
static ngx_int_t ngx_http_aiq_ws_deliver(ngx_http_aiq_ctx_t *ctx);

static void ngx_http_aiq_ws_start_leaving(ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t code, const u_char *reason, size_t len);
static void ngx_http_aiq_ws_failed(ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_ws_timer_handler(ngx_event_t *ev);
static void ngx_http_aiq_ws_set_reason(ngx_http_aiq_ws_t *ws, ngx_uint_t code,
    const u_char *reason, size_t len);


/* what is read is parsed at once, so all connections of a worker share it */

static u_char  ngx_http_aiq_ws_buffer[NGX_HTTP_AIQ_WS_BUFFER];


void
ngx_http_aiq_ws_accept(ngx_http_aiq_ctx_t *ctx)
{
    ctx->ws->accepted = 1;

    ngx_http_aiq_link_upgrade(ctx);

    if (ctx->job.timeout.timer_set) {
        ngx_del_timer(&ctx->job.timeout);
    }
}


ngx_int_t
ngx_http_aiq_ws_turn(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;

    if (!ws->begun && !ws->first && !ws->closed) {

        if (ctx->job.failed) {
            return ngx_http_aiq_fail(r, ctx);
        }

        if (ngx_http_aiq_ws_begin(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->job.failed) {
        ngx_http_aiq_ws_failed(ctx);

    } else if (ctx->job.end) {
        ngx_http_aiq_ws_close(ctx, ws->code, ws->reason, ws->reason_len);
    }

    if (ngx_http_aiq_ws_receive(r, ctx) != NGX_OK
        || ws->broken
        || ngx_http_aiq_ws_flush(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!ws->done || ws->out) {
        return NGX_DONE;
    }

    /* else what it has sent meanwhile would reset our Close away */

    r->lingering_close = !ws->heard_close && !r->connection->timedout;

    ngx_http_aiq_ws_free(ws);

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_ws_open(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_buf_t                 *b;
    ngx_connection_t          *c;
    ngx_http_aiq_ws_t         *ws;
    ngx_http_core_loc_conf_t  *clcf;

    ws = ctx->ws;
    c = r->connection;

    if (ngx_http_aiq_ws_answer(r, ws) != NGX_OK) {
        return NGX_ERROR;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->tcp_nodelay && ngx_tcp_nodelay(c) != NGX_OK) {
        return NGX_ERROR;
    }

    r->read_event_handler = ngx_http_aiq_ws_handler;
    r->write_event_handler = ngx_http_aiq_ws_writer;

    ws->open = 1;
    ngx_http_aiq_count_websockets(1);

    ws->timer.handler = ngx_http_aiq_ws_timer_handler;
    ws->timer.data = c;
    ws->timer.log = c->log;

    /* what has come behind the handshake */

    b = r->header_in;

    if (b->pos < b->last) {

        if (ngx_http_aiq_ws_keep(r, ws, b->pos, b->last) != NGX_OK) {
            return NGX_ERROR;
        }

        b->pos = b->last;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_begin(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;

    ctx->own = 1;
    ctx->job.left = -1;

    if (!ws->open && ngx_http_aiq_ws_open(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    r->header_sent = 1;
    r->read_event_handler = ngx_http_aiq_ws_handler;
    r->write_event_handler = ngx_http_aiq_ws_writer;

    ws->begun = 1;
    ws->heard = ngx_current_msec;
    ws->active = ngx_current_msec;
    ws->expires = ngx_http_aiq_jwt_expires(r);

    ngx_http_aiq_ws_set_timer(ws);

    if (ngx_http_aiq_link_leaving(ctx)) {
        ngx_http_aiq_ws_leave(ctx);
    }

    return NGX_OK;
}


void
ngx_http_aiq_ws_handler(ngx_http_request_t *r)
{
    ngx_int_t            rc;
    ngx_uint_t           first;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);
    first = ctx->ws->first;

    rc = ngx_http_aiq_ws_turn(r, ctx);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);

    } else if (first && !ctx->ws->first) {
        ngx_http_aiq_ws_first_done(r);
    }
}


void
ngx_http_aiq_ws_writer(ngx_http_request_t *r)
{
    ngx_event_t         *wev;
    ngx_http_aiq_ctx_t  *ctx;

    static ngx_str_t  reason = ngx_string("Messages were not taken in time.");

    wev = r->connection->write;

    if (wev->timedout) {
        wev->timedout = 0;

        ctx = ngx_http_aiq_get_ctx(r);

        if (ctx->ws->closed) {
            ngx_http_finalize_request(r, NGX_HTTP_REQUEST_TIME_OUT);
            return;
        }

        ngx_http_aiq_ws_close(ctx, NGX_HTTP_AIQ_WS_TRY_LATER, reason.data,
                              reason.len);
    }

    ngx_http_aiq_ws_handler(r);
}


/* NGX_ERROR: there is nobody any more */

static ngx_int_t
ngx_http_aiq_ws_receive(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    u_char             *pos, *last;
    ssize_t             n;
    ngx_uint_t          i;
    ngx_event_t        *rev;
    ngx_connection_t   *c;
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;
    c = r->connection;
    rev = c->read;

    if (ws->in) {

        if (ngx_http_aiq_ws_parse(ctx, &ws->pos, ws->last) == NGX_AGAIN) {
            return NGX_OK;
        }

        ngx_free(ws->in);
        ws->in = NULL;
    }

    for (i = 0; rev->ready && !ws->heard_close && !ws->done; i++) {

        if (i == NGX_HTTP_AIQ_WS_READS) {
            /* others first */
            ngx_post_event(rev, &ngx_posted_next_events);
            return NGX_OK;
        }

        n = c->recv(c, ngx_http_aiq_ws_buffer, NGX_HTTP_AIQ_WS_BUFFER);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR || n == 0) {

            if (ctx->status.len == 0) {
                ngx_str_set(&ctx->status, "client_closed");
            }

            return NGX_ERROR;
        }

        ws->heard = ngx_current_msec;
        ws->pinged = 0;

        pos = ngx_http_aiq_ws_buffer;
        last = pos + n;

        if (ngx_http_aiq_ws_parse(ctx, &pos, last) == NGX_AGAIN) {

            if (ws->has_piece) {
                pos = ws->piece.data;
            }

            if (ngx_http_aiq_ws_keep(r, ws, pos, last) != NGX_OK) {
                return NGX_ERROR;
            }

            break;
        }
    }

    return ngx_handle_read_event(rev, 0);
}


/* a piece that was not delivered comes first in it */

static ngx_int_t
ngx_http_aiq_ws_keep(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws, u_char *pos,
    u_char *last)
{
    ws->in = ngx_alloc(last - pos + 1, r->connection->log);
    if (ws->in == NULL) {
        return NGX_ERROR;
    }

    ws->last = ngx_cpymem(ws->in, pos, last - pos);
    ws->pos = ws->in;

    if (ws->has_piece) {
        ws->piece.data = ws->in;
        ws->pos += ws->piece.len;
    }

    return NGX_OK;
}


/* NGX_AGAIN: the engine does not take more now */

static ngx_int_t
ngx_http_aiq_ws_parse(ngx_http_aiq_ctx_t *ctx, u_char **pos, u_char *last)
{
    int                       rc;
    ngx_http_aiq_ws_t        *ws;
    ngx_http_aiq_ws_event_t   ev;

    ws = ctx->ws;

    while (!ws->heard_close && !ws->done) {

        if (ws->has_piece) {

            switch (ngx_http_aiq_ws_deliver(ctx)) {

            case NGX_AGAIN:
                return NGX_AGAIN;

            case NGX_DECLINED:
                ngx_http_aiq_ws_refuse(ctx, &ws->piece);
                return NGX_OK;
            }

            ws->has_piece = 0;
        }

        if (!ws->begun && !ws->first && !ws->closed) {
            /* what follows is for the service, which has not accepted it yet */
            return NGX_AGAIN;
        }

        rc = ngx_http_aiq_ws_read(&ws->reader, &ws->limits, pos, last, &ev);

        if (rc == 0) {
            return NGX_OK;
        }

        if (rc < 0) {
            ngx_http_aiq_ws_refuse(ctx, &ev);
            return NGX_OK;
        }

        if (ev.opcode & 0x8) {
            ngx_http_aiq_ws_control(ctx, &ev);

        } else if (!ws->leaving) {
            ws->piece = ev;
            ws->has_piece = 1;
            ws->active = ngx_current_msec;
        }
    }

    return NGX_OK;
}


static void
ngx_http_aiq_ws_refuse(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_ws_event_t *ev)
{
    ngx_http_aiq_ws_close(ctx, ev->code, (u_char *) ev->why,
                          ngx_strlen(ev->why));

    /* nothing that it may say yet matters */
    ctx->ws->done = 1;
}


static void
ngx_http_aiq_ws_control(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_ws_event_t *ev)
{
    ngx_http_aiq_ws_t  *ws;

    static ngx_str_t  reason = ngx_string("too many control frames");

    ws = ctx->ws;

    if (ev->opcode == NGX_HTTP_AIQ_WS_CLOSE) {
        ws->heard_close = 1;

        if (ws->closed) {
            ws->done = 1;

        } else if (!ws->leaving) {
            ngx_http_aiq_ws_start_leaving(ctx, ev->code, ev->data, ev->len);
        }

        return;
    }

    if (ws->second != ngx_time()) {
        ws->second = ngx_time();
        ws->controls = 0;
    }

    if (ws->conf->control_rate && ++ws->controls > ws->conf->control_rate) {
        ngx_http_aiq_ws_close(ctx, NGX_HTTP_AIQ_WS_POLICY, reason.data,
                              reason.len);
        ws->done = 1;
        return;
    }

    if (ev->opcode != NGX_HTTP_AIQ_WS_PING || ws->closed) {
        return;
    }

    if (ws->out == NULL || ctx->request->connection->write->ready) {
        ngx_http_aiq_ws_append(ctx, NGX_HTTP_AIQ_WS_FIN|NGX_HTTP_AIQ_WS_PONG,
                               ev->data, ev->len);
        return;
    }

    /* who does not read gets one pong later, RFC 6455, 5.5.3 */

    ngx_memcpy(ws->pong, ev->data, ev->len);
    ws->pong_len = (uint8_t) ev->len;
    ws->owes_pong = 1;
}


static ngx_int_t
ngx_http_aiq_ws_deliver(ngx_http_aiq_ctx_t *ctx)
{
    size_t                    size;
    u_char                   *p;
    ngx_uint_t                flags;
    ngx_http_aiq_ws_t        *ws;
    ngx_http_aiq_job_t       *job;
    ngx_http_aiq_ws_event_t  *ev;

    ws = ctx->ws;
    ev = &ws->piece;
    job = &ctx->job;

    if (ws->first) {
        return ngx_http_aiq_ws_first_piece(ctx);
    }

    if (job->link == NULL) {
        return NGX_OK;
    }

    if (ev->compressed) {
        return ngx_http_aiq_ws_deliver_inflated(ctx->request, ctx);
    }

    do {
        if (job->credit < AIQ_MESSAGE_COST
            || (ev->len && job->credit == AIQ_MESSAGE_COST))
        {
            return NGX_AGAIN;
        }

        size = ngx_min(job->credit - AIQ_MESSAGE_COST, NGX_HTTP_AIQ_WS_PIECE);
        size = ngx_min(size, ev->len);

        flags = ev->first ? ev->opcode : AIQ_MESSAGE_MORE;

        if (ev->last && size == ev->len) {
            flags |= AIQ_MESSAGE_FIN;
        }

        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_MESSAGE, flags, size);

        if (p == NULL) {
            ws->full = size + 1;
            ngx_http_aiq_link_wait(ctx);
            return NGX_AGAIN;
        }

        ngx_memcpy(p, ev->data, size);

        job->credit -= size + AIQ_MESSAGE_COST;
        ev->data += size;
        ev->len -= size;
        ev->first = 0;

    } while (ev->len);

    if (ev->last) {
        ngx_http_aiq_count_message(0);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_ws_push(ngx_http_aiq_ctx_t *ctx)
{
    u_char              *p;
    uint16_t             code;
    ngx_http_aiq_ws_t   *ws;
    ngx_http_aiq_job_t  *job;

    ws = ctx->ws;
    job = &ctx->job;

    if (ws->full) {

        if (!ngx_http_aiq_link_room(ctx, ws->full)) {
            return NGX_AGAIN;
        }

        /* goes on reading there */

        ws->full = 0;
        ngx_http_aiq_link_dirty(ctx);
    }

    if (ws->owes_grant && ngx_http_aiq_ws_push_grant(ctx) == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (job->owes_end) {
        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_END, 0,
                                   sizeof(aiq_close) + ws->reason_len);
        if (p == NULL) {
            return NGX_AGAIN;
        }

        code = (uint16_t) ws->code;

        p = ngx_cpymem(p, &code, sizeof(aiq_close));
        ngx_memcpy(p, ws->reason, ws->reason_len);

        job->owes_end = 0;
    }

    return NGX_OK;
}


void
ngx_http_aiq_ws_message(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    size_t              len;
    u_char             *deflated;
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;

    ws->cost += ev->len + AIQ_MESSAGE_COST;
    ws->active = ngx_current_msec;

    len = 0;
    deflated = NULL;

    if (ws->bits && (ev->flags & AIQ_MESSAGE_FIN)
        && (ev->flags & AIQ_MESSAGE_OPCODE) != AIQ_MESSAGE_MORE)
    {
        len = ngx_http_aiq_ws_deflate(ws->bits, ev->data, ev->len, &deflated);
    }

    /* the flags are the first byte of a frame */

    if (len) {
        ngx_http_aiq_ws_append(ctx, ev->flags | NGX_HTTP_AIQ_WS_RSV1,
                               deflated, len);

    } else {
        ngx_http_aiq_ws_append(ctx, ev->flags, ev->data, ev->len);
    }

    if (ev->flags & AIQ_MESSAGE_FIN) {
        ngx_http_aiq_count_message(1);
    }
}


void
ngx_http_aiq_ws_end(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    uint16_t                 code;
    ngx_http_aiq_ws_utf8_t   utf8;

    ngx_memzero(&utf8, sizeof(ngx_http_aiq_ws_utf8_t));
    ngx_memcpy(&code, ev->data, sizeof(aiq_close));

    if (code != NGX_HTTP_AIQ_WS_NO_CODE && !ngx_http_aiq_ws_valid_code(code)) {
        code = NGX_HTTP_AIQ_WS_INTERNAL;
    }

    if (code == ctx->ws->code && ev->len == sizeof(aiq_close)) {
        /* ours, said back: so is its reason */
        return;
    }

    ngx_http_aiq_ws_set_reason(ctx->ws, code, ev->data + sizeof(aiq_close),
                               ev->len - sizeof(aiq_close));

    if (!ngx_http_aiq_ws_utf8(&utf8, ctx->ws->reason, ctx->ws->reason_len)
        || utf8.left)
    {
        ctx->ws->reason_len = 0;
    }
}


void
ngx_http_aiq_ws_leave(ngx_http_aiq_ctx_t *ctx)
{
    static ngx_str_t  reason =
                          ngx_string("The server restarts, connect again.");

    if (ctx->ws->open && !ctx->ws->leaving) {
        ngx_http_aiq_ws_start_leaving(ctx, NGX_HTTP_AIQ_WS_RESTART,
                                      reason.data, reason.len);
    }
}


/* The service has the last word, if it is quick. */

static void
ngx_http_aiq_ws_start_leaving(ngx_http_aiq_ctx_t *ctx, ngx_uint_t code,
    const u_char *reason, size_t len)
{
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;

    if (ws->first) {
        ngx_http_aiq_ws_close(ctx, code, reason, len);
        return;
    }

    ws->leaving = 1;
    ws->has_piece = 0;
    ws->full = 0;
    ws->owes_grant = 0;

    ngx_http_aiq_ws_set_reason(ws, code, reason, len);

    ngx_add_timer(&ws->timer, ws->conf->close_timeout);

    if (ctx->job.link == NULL) {
        /* it has ended in this very turn */
        return;
    }

    ctx->job.owes_end = 1;

    if (ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
        ngx_http_aiq_link_wait(ctx);
    }
}


static void
ngx_http_aiq_ws_failed(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_failure_t  *failure;

    failure = &ctx->failure;

    ngx_http_aiq_ws_close(ctx, ngx_http_aiq_ws_code(failure->status),
                          failure->message.data, failure->message.len);
}


ngx_uint_t
ngx_http_aiq_ws_code(ngx_uint_t status)
{
    switch (status) {

    case NGX_HTTP_UNAUTHORIZED:
    case 402:
    case NGX_HTTP_FORBIDDEN:
    case NGX_HTTP_TOO_MANY_REQUESTS:
        return NGX_HTTP_AIQ_WS_POLICY;

    case NGX_HTTP_REQUEST_ENTITY_TOO_LARGE:
        return NGX_HTTP_AIQ_WS_TOO_BIG;

    case NGX_HTTP_BAD_GATEWAY:
        return NGX_HTTP_AIQ_WS_RESTART;

    case NGX_HTTP_SERVICE_UNAVAILABLE:
        return NGX_HTTP_AIQ_WS_TRY_LATER;

    default:
        return NGX_HTTP_AIQ_WS_INTERNAL;
    }
}


void
ngx_http_aiq_ws_close(ngx_http_aiq_ctx_t *ctx, ngx_uint_t code,
    const u_char *reason, size_t len)
{
    u_char               payload[NGX_HTTP_AIQ_WS_CONTROL];
    size_t               size;
    ngx_http_aiq_ws_t   *ws;
    ngx_http_aiq_job_t  *job;

    ws = ctx->ws;
    job = &ctx->job;

    if (ws->closed) {
        return;
    }

    ngx_http_aiq_ws_set_reason(ws, code, reason, len);

    ws->leaving = 1;
    ws->closed = 1;
    ws->has_piece = 0;
    ws->full = 0;
    ws->owes_pong = 0;
    ws->owes_grant = 0;

    if (job->dirty) {
        ngx_queue_remove(&job->queue);
        job->dirty = 0;
    }

    if (job->link) {
        ngx_http_aiq_link_detach(ctx, 0);
    }

    size = 0;

    if (code != NGX_HTTP_AIQ_WS_NO_CODE) {
        payload[0] = (u_char) (code >> 8);
        payload[1] = (u_char) code;
        ngx_memcpy(payload + 2, ws->reason, ws->reason_len);
        size = 2 + ws->reason_len;
    }

    ngx_http_aiq_ws_append(ctx, NGX_HTTP_AIQ_WS_FIN|NGX_HTTP_AIQ_WS_CLOSE,
                           payload, size);

    if (ws->heard_close) {
        ws->done = 1;
    }

    if (ctx->status.len == 0) {

        if (code == NGX_HTTP_AIQ_WS_PROTOCOL
            || (code >= NGX_HTTP_AIQ_WS_BAD_DATA
                && code <= NGX_HTTP_AIQ_WS_TOO_BIG)
            || code == NGX_HTTP_AIQ_WS_TRY_LATER)
        {
            ngx_str_set(&ctx->status, "websocket_error");

        } else {
            ngx_str_set(&ctx->status, "ok");
        }
    }

    ngx_http_aiq_count_close(code);

    ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log, 0,
                  "aiq: WebSocket \"%V\" closes with %ui: \"%*s\"",
                  &ctx->request_id, code, (size_t) ws->reason_len, ws->reason);

    ngx_add_timer(&ws->timer, ws->conf->close_timeout);
}


static void
ngx_http_aiq_ws_timer_handler(ngx_event_t *ev)
{
    ngx_msec_t           now;
    ngx_connection_t    *c;
    ngx_http_aiq_ws_t   *ws;
    ngx_http_aiq_ctx_t  *ctx;
    ngx_http_request_t  *r;

    static ngx_str_t  late = ngx_string("The token did not come in time.");
    static ngx_str_t  expired = ngx_string("The token has expired.");
    static ngx_str_t  idle = ngx_string("There was no message for long.");
    static ngx_str_t  dead = ngx_string("There was no pong.");

    c = ev->data;
    ctx = ngx_http_aiq_get_ctx(c->data);
    ws = ctx->ws;
    now = ngx_current_msec;

    r = c->data;

    if (!ev->timedout) {
        /* ngx_http_aiq_ws_refused(), and the request's end since then */
        r->read_event_handler = ngx_http_aiq_ws_handler;
        r->write_event_handler = ngx_http_aiq_ws_writer;

    } else if (ws->closed) {
        /* nor does it answer */
        c->timedout = 1;
        ngx_http_aiq_ws_free(ws);
        ws->done = 1;

    } else if (ws->first) {
        ngx_str_set(&ctx->status, "missing_token");
        ngx_http_aiq_ws_close(ctx, NGX_HTTP_AIQ_WS_POLICY, late.data,
                              late.len);

    } else if (ws->leaving) {
        /* nor does the service */
        ngx_http_aiq_ws_close(ctx, ws->code, ws->reason, ws->reason_len);

    } else if (ws->expires && ngx_time() >= ws->expires) {
        ngx_str_set(&ctx->status, "token_expired");
        ngx_http_aiq_ws_start_leaving(ctx, NGX_HTTP_AIQ_WS_POLICY,
                                      expired.data, expired.len);

    } else if (ws->conf->idle_timeout
               && now - ws->active >= ws->conf->idle_timeout)
    {
        ngx_http_aiq_ws_start_leaving(ctx, NGX_HTTP_AIQ_WS_GOING_AWAY,
                                      idle.data, idle.len);

    } else {

        if (ws->in) {
            /* it may have said something that waits behind what we hold */
            ws->heard = now;
        }

        if (ws->conf->ping && now - ws->heard >= ws->conf->ping) {

            if (ws->pinged) {
                ngx_http_aiq_ws_close(ctx, NGX_HTTP_AIQ_WS_POLICY, dead.data,
                                      dead.len);

            } else {
                ws->pinged = 1;
                ws->heard = now;
                ngx_http_aiq_ws_append(ctx, NGX_HTTP_AIQ_WS_FIN
                                            |NGX_HTTP_AIQ_WS_PING,
                                       (u_char *) "", 0);
            }
        }

        if (!ws->closed) {
            ngx_http_aiq_ws_set_timer(ws);
        }
    }

    ev->timedout = 0;

    ngx_http_set_log_request(c->log, r);

    ngx_http_aiq_ws_handler(r);
    ngx_http_run_posted_requests(c);
}


/* what happens meanwhile is looked at when it has run off */

void
ngx_http_aiq_ws_set_timer(ngx_http_aiq_ws_t *ws)
{
    ngx_msec_int_t  next, left;

    if (ws->conf->ping == 0 && ws->conf->idle_timeout == 0
        && ws->expires == 0)
    {
        return;
    }

    next = NGX_HTTP_AIQ_WS_LOOK;

    if (ws->conf->ping) {
        left = (ngx_msec_int_t) (ws->heard + ws->conf->ping
                                 - ngx_current_msec);
        next = ngx_min(next, left);
    }

    if (ws->conf->idle_timeout) {
        left = (ngx_msec_int_t) (ws->active + ws->conf->idle_timeout
                                 - ngx_current_msec);
        next = ngx_min(next, left);
    }

    if (ws->expires && ws->expires - ngx_time() < next / 1000) {
        next = (ngx_msec_int_t) (ws->expires - ngx_time()) * 1000;
    }

    ngx_add_timer(&ws->timer, ngx_max(next, 1));
}


static void
ngx_http_aiq_ws_set_reason(ngx_http_aiq_ws_t *ws, ngx_uint_t code,
    const u_char *reason, size_t len)
{
    if (len > sizeof(ws->reason)) {
        len = sizeof(ws->reason);

        while (len && (reason[len] & 0xc0) == 0x80) {
            len--;
        }
    }

    ws->code = code;

    ngx_memmove(ws->reason, reason, len);
    ws->reason_len = (uint8_t) len;
}


void
ngx_http_aiq_ws_free(ngx_http_aiq_ws_t *ws)
{
    if (ws->open && !ws->counted) {
        ws->counted = 1;
        ngx_http_aiq_count_websockets(-1);

        if (!ws->closed) {
            ngx_http_aiq_count_close(NGX_HTTP_AIQ_WS_ABNORMAL);
        }
    }

    if (ws->timer.timer_set) {
        ngx_del_timer(&ws->timer);
    }

    if (ws->timer.posted) {
        ngx_delete_posted_event(&ws->timer);
    }

    ngx_http_aiq_ws_end_inflate(ws);

    if (ws->in) {
        ngx_free(ws->in);
        ws->in = NULL;
    }

    ngx_http_aiq_ws_discard(ws);
}
