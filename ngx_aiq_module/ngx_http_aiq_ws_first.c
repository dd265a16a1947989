
#include "ngx_http_aiq_ws.h"
#include "ngx_http_aiq_jwt.h"


/*
 * "aiq_jwt ... token=message": a page can send no header with a WebSocket, and
 * what is in its URL ends up in logs.  So the 101 is sent in the ACCESS phase,
 * which then waits for the first message,
 *
 *     {"type": "auth", "token": "..."}
 *
 * and goes on with the token as if it had come with the request: limits by
 * identity are checked behind it, and nothing is at the engine before.  What
 * comes after that message waits, unread but for what one read has brought.
 * Whatever refuses the request now does so by a Close.
 */


#define NGX_HTTP_AIQ_WS_FIRST  (NGX_HTTP_AIQ_JWT_TOKEN_MAX + 1024)


static void ngx_http_aiq_ws_first_cleanup(void *data);
static ngx_int_t ngx_http_aiq_ws_first_copy(ngx_http_aiq_ws_t *ws);
static ngx_int_t ngx_http_aiq_ws_first_inflate(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws);
static ngx_int_t ngx_http_aiq_ws_first_parse(ngx_http_request_t *r,
    ngx_http_aiq_ws_t *ws);
static ngx_int_t ngx_http_aiq_ws_first_token(ngx_http_request_t *r,
    json_t *message, ngx_str_t *token);
static ngx_int_t ngx_http_aiq_ws_first_wrong(ngx_http_aiq_ws_t *ws,
    ngx_uint_t code, const char *why);


ngx_int_t
ngx_http_aiq_ws_first(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_aiq_ctx_t       *ctx;
    ngx_http_cleanup_t       *cln;
    ngx_http_aiq_loc_conf_t  *alcf;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->ws) {
        return ctx->ws->first ? NGX_AGAIN : NGX_OK;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    ctx->pass = alcf->pass;

    rc = ngx_http_aiq_ws_handshake(r, ctx);

    if (rc == NGX_DECLINED) {
        return NGX_DECLINED;
    }

    if (rc != NGX_OK) {
        ngx_http_finalize_request(r, rc);
        return NGX_DONE;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        ctx->ws = NULL;
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_aiq_ws_first_cleanup;
    cln->data = ctx->ws;

    if (ngx_http_aiq_ws_open(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    /* what refuses it has to come by the header filter */

    r->header_sent = 0;
    ctx->ws->first = 1;

    ngx_add_timer(&ctx->ws->timer, ctx->ws->conf->token_timeout);
    ngx_post_event(r->connection->read, &ngx_posted_events);

    return NGX_AGAIN;
}


static void
ngx_http_aiq_ws_first_cleanup(void *data)
{
    ngx_http_aiq_ws_free(data);
}


/* NGX_OK: the piece is taken, NGX_DECLINED: its code and why say what is wrong */

ngx_int_t
ngx_http_aiq_ws_first_piece(ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_uint_t           last;
    ngx_http_aiq_ws_t   *ws;
    ngx_http_request_t  *r;

    ws = ctx->ws;
    r = ctx->request;

    if (ws->piece.opcode == NGX_HTTP_AIQ_WS_BINARY) {
        ngx_str_set(&ctx->status, "missing_token");
        return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_UNSUPPORTED,
                                           "The first message must be text.");
    }

    if (ws->text == NULL) {
        ws->text = ngx_palloc(r->pool, NGX_HTTP_AIQ_WS_FIRST);
        if (ws->text == NULL) {
            return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_INTERNAL,
                                               "no memory");
        }
    }

    last = ws->piece.last;

    rc = ws->piece.compressed ? ngx_http_aiq_ws_first_inflate(r, ws)
                              : ngx_http_aiq_ws_first_copy(ws);

    if (rc != NGX_OK || !last) {
        return rc;
    }

    rc = ngx_http_aiq_ws_first_parse(r, ws);

    ngx_pfree(r->pool, ws->text);
    ws->text = NULL;

    if (rc != NGX_OK) {
        ngx_str_set(&ctx->status, "missing_token");
        return rc;
    }

    ws->first = 0;
    ngx_http_aiq_count_message(0);

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_first_copy(ngx_http_aiq_ws_t *ws)
{
    if (ws->piece.len > NGX_HTTP_AIQ_WS_FIRST - ws->len) {
        return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_TOO_BIG,
                                           "The first message is too large.");
    }

    ngx_memcpy(ws->text + ws->len, ws->piece.data, ws->piece.len);
    ws->len += ws->piece.len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_first_inflate(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws)
{
    int     rc;
    size_t  size;

    if (ws->piece.first && ngx_http_aiq_ws_begin_inflate(r, ws) != NGX_OK) {
        return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_INTERNAL,
                                           "no memory");
    }

    do {
        size = NGX_HTTP_AIQ_WS_FIRST - ws->len;

        if (size == 0) {
            return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_TOO_BIG,
                                              "The first message is too large."
                                              );
        }

        rc = ngx_http_aiq_ws_inflate(ws->inflate, ws->limits.max_message,
                                     &ws->piece, ws->text + ws->len, &size);

        if (rc == NGX_HTTP_AIQ_WS_INFLATE_BAD) {
            return NGX_DECLINED;
        }

        ws->len += size;

    } while (rc == NGX_HTTP_AIQ_WS_INFLATE_MORE);

    if (rc == NGX_HTTP_AIQ_WS_INFLATE_LAST) {
        ngx_http_aiq_ws_end_inflate(ws);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_first_parse(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws)
{
    json_t     *message;
    ngx_int_t   rc;

    message = ngx_http_aiq_jwt_json((char *) ws->text, ws->len);

    rc = message ? ngx_http_aiq_ws_first_token(r, message, &ws->token)
                 : NGX_DECLINED;

    json_decref(message);

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    if (rc == NGX_ERROR) {
        return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_INTERNAL,
                                           "no memory");
    }

    return ngx_http_aiq_ws_first_wrong(ws, NGX_HTTP_AIQ_WS_POLICY,
                                       "The first message must be an \"auth\" "
                                       "with a token.");
}


static ngx_int_t
ngx_http_aiq_ws_first_token(ngx_http_request_t *r, json_t *message,
    ngx_str_t *token)
{
    char        *type;
    json_t      *value;
    ngx_uint_t   fields;

    type = (char *) json_string_value(json_object_get(message, "type"));
    value = json_object_get(message, "token");
    fields = 2 + json_is_string(json_object_get(message, "id"));

    if (type == NULL || ngx_strcmp(type, "auth") != 0
        || json_string_length(value) == 0
        || json_object_size(message) != fields)
    {
        return NGX_DECLINED;
    }

    token->len = json_string_length(value);

    token->data = ngx_pnalloc(r->pool, token->len);
    if (token->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(token->data, json_string_value(value), token->len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_first_wrong(ngx_http_aiq_ws_t *ws, ngx_uint_t code,
    const char *why)
{
    ws->piece.code = (uint16_t) code;
    ws->piece.why = why;

    return NGX_DECLINED;
}


void
ngx_http_aiq_ws_first_done(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    ngx_del_timer(&ctx->ws->timer);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


ngx_int_t
ngx_http_aiq_ws_refused(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t status, ngx_str_t *message)
{
    if (!ctx->ws->closed) {
        ngx_http_aiq_ws_close(ctx, ngx_http_aiq_ws_code(status), message->data,
                              message->len);

        /* goes on until the client has closed, too */

        r->main->count++;
        ngx_post_event(&ctx->ws->timer, &ngx_posted_events);
    }

    r->headers_out.status = NGX_HTTP_SWITCHING_PROTOCOLS;
    r->err_status = 0;
    r->header_sent = 1;
    r->header_only = 1;

    return NGX_OK;
}
