
#include "ngx_http_aiq_ws.h"

#include <ngx_sha1.h>


/* RFC 6455, 4.2: the client's half of the handshake, and ours. */


typedef struct {
    ngx_str_t                  key;
    ngx_str_t                  version;
    ngx_str_t                  origin;
    ngx_uint_t                 keys;
    ngx_uint_t                 versions;
    ngx_uint_t                 origins;
    ngx_uint_t                 upgrade;      /* in "Connection" */
    ngx_uint_t                 bits;         /* of permessage-deflate */
    unsigned                   names_bits;
} ngx_http_aiq_ws_headers_t;


static ngx_uint_t ngx_http_aiq_ws_wanted(ngx_http_request_t *r);
static void ngx_http_aiq_ws_headers(ngx_http_request_t *r,
    ngx_http_aiq_ws_loc_conf_t *wlcf, ngx_http_aiq_ws_headers_t *h,
    ngx_str_t *protocol);
static ngx_uint_t ngx_http_aiq_ws_header_is(ngx_table_elt_t *h, char *name,
    size_t len);
static char *ngx_http_aiq_ws_invalid(ngx_http_request_t *r,
    ngx_http_aiq_ws_headers_t *h);
static ngx_uint_t ngx_http_aiq_ws_token(ngx_str_t *list, ngx_str_t *token);
static ngx_uint_t ngx_http_aiq_ws_next(ngx_str_t *list, ngx_str_t *token);
static void ngx_http_aiq_ws_choose(ngx_str_t *offer, ngx_array_t *protocols,
    ngx_str_t *protocol);
static ngx_uint_t ngx_http_aiq_ws_may(ngx_http_request_t *r,
    ngx_array_t *origins, ngx_str_t *origin);
static ngx_uint_t ngx_http_aiq_ws_same(ngx_http_request_t *r,
    ngx_str_t *origin);
static ngx_int_t ngx_http_aiq_ws_refuse(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_reason_e reason, char *message);
static ngx_int_t ngx_http_aiq_ws_make(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_ws_loc_conf_t *wlcf,
    ngx_str_t *key, ngx_str_t *protocol);


static ngx_str_t  ngx_http_aiq_ws_name = ngx_string("websocket");


ngx_int_t
ngx_http_aiq_ws_handshake(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    char                        *invalid;
    ngx_str_t                    name, value, protocol;
    ngx_http_aiq_ws_headers_t    h;
    ngx_http_aiq_ws_loc_conf_t  *wlcf;

    if (ctx->ws) {
        /* its first message had the token */
        return NGX_OK;
    }

    wlcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_ws_module);

    if (!wlcf->enable || !ngx_http_aiq_ws_wanted(r)) {
        return NGX_DECLINED;
    }

    ngx_memzero(&h, sizeof(ngx_http_aiq_ws_headers_t));
    ngx_str_null(&protocol);

    ngx_http_aiq_ws_headers(r, wlcf, &h, &protocol);

    if (h.versions != 1 || h.version.len != 2
        || ngx_strncmp(h.version.data, "13", 2) != 0)
    {
        ngx_str_set(&name, "Sec-WebSocket-Version");
        ngx_str_set(&value, "13");

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_http_aiq_ws_refuse(r, ctx, NGX_HTTP_AIQ_WEBSOCKET_VERSION,
                                      NULL);
    }

    invalid = ngx_http_aiq_ws_invalid(r, &h);

    if (invalid) {
        return ngx_http_aiq_ws_refuse(r, ctx, NGX_HTTP_AIQ_INVALID_HANDSHAKE,
                                      invalid);
    }

    if (h.origins && (h.origins > 1
                      || !ngx_http_aiq_ws_may(r, wlcf->origins, &h.origin)))
    {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "aiq: WebSocket of the origin \"%V\"", &h.origin);

        return ngx_http_aiq_ws_refuse(r, ctx, NGX_HTTP_AIQ_ORIGIN_NOT_ALLOWED,
                                      NULL);
    }

    if (ngx_http_aiq_ws_make(r, ctx, wlcf, &h.key, &protocol) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->ws->bits = (uint8_t) h.bits;
    ctx->ws->names_bits = h.names_bits;
    ctx->ws->limits.deflate = (h.bits != 0);

    return NGX_OK;
}


static ngx_uint_t
ngx_http_aiq_ws_wanted(ngx_http_request_t *r)
{
    if (r->headers_in.upgrade == NULL || r->http_version > NGX_HTTP_VERSION_11)
    {
        return 0;
    }

    return ngx_http_aiq_ws_token(&r->headers_in.upgrade->value,
                                 &ngx_http_aiq_ws_name);
}


static void
ngx_http_aiq_ws_headers(ngx_http_request_t *r,
    ngx_http_aiq_ws_loc_conf_t *wlcf, ngx_http_aiq_ws_headers_t *h,
    ngx_str_t *protocol)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    static ngx_str_t  upgrade = ngx_string("upgrade");

    part = &r->headers_in.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        if (ngx_http_aiq_ws_header_is(&header[i], "sec-websocket-key", 17)) {
            h->key = header[i].value;
            h->keys++;

        } else if (ngx_http_aiq_ws_header_is(&header[i],
                                             "sec-websocket-version", 21))
        {
            h->version = header[i].value;
            h->versions++;

        } else if (ngx_http_aiq_ws_header_is(&header[i], "connection", 10)) {
            h->upgrade |= ngx_http_aiq_ws_token(&header[i].value, &upgrade);

        } else if (ngx_http_aiq_ws_header_is(&header[i], "origin", 6)) {
            h->origin = header[i].value;
            h->origins++;

        } else if (wlcf->deflate && h->bits == 0
                   && ngx_http_aiq_ws_header_is(&header[i],
                                                "sec-websocket-extensions",
                                                24))
        {
            h->bits = ngx_http_aiq_ws_offer(header[i].value.data,
                                            header[i].value.len,
                                            &h->names_bits);

        } else if (protocol->len == 0 && wlcf->protocols
                   && ngx_http_aiq_ws_header_is(&header[i],
                                                "sec-websocket-protocol", 22))
        {
            ngx_http_aiq_ws_choose(&header[i].value, wlcf->protocols,
                                   protocol);
        }
    }
}


static ngx_uint_t
ngx_http_aiq_ws_header_is(ngx_table_elt_t *h, char *name, size_t len)
{
    return h->key.len == len && ngx_strncmp(h->lowcase_key, name, len) == 0;
}


static char *
ngx_http_aiq_ws_invalid(ngx_http_request_t *r, ngx_http_aiq_ws_headers_t *h)
{
    u_char     buf[18];
    ngx_str_t  dst;

    if (r->method != NGX_HTTP_GET || r->http_version != NGX_HTTP_VERSION_11) {
        return "A WebSocket begins with GET and HTTP/1.1.";
    }

    if (r->headers_in.content_length_n > 0 || r->headers_in.chunked) {
        return "A WebSocket does not begin with a body.";
    }

    if (!h->upgrade) {
        return "A WebSocket needs \"Connection: Upgrade\".";
    }

    dst.data = buf;

    if (h->keys != 1 || h->key.len != 24
        || ngx_decode_base64(&dst, &h->key) != NGX_OK || dst.len != 16)
    {
        return "A WebSocket needs one Sec-WebSocket-Key of 16 bytes.";
    }

    return NULL;
}


static ngx_uint_t
ngx_http_aiq_ws_token(ngx_str_t *list, ngx_str_t *token)
{
    ngx_str_t  left, s;

    left = *list;

    while (ngx_http_aiq_ws_next(&left, &s)) {

        if (s.len == token->len
            && ngx_strncasecmp(s.data, token->data, s.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* takes the next of what commas separate out of the list */

static ngx_uint_t
ngx_http_aiq_ws_next(ngx_str_t *list, ngx_str_t *token)
{
    u_char  *p, *last;

    p = list->data;
    last = p + list->len;

    while (p < last && (*p == ',' || *p == ' ' || *p == '\t')) {
        p++;
    }

    token->data = p;

    while (p < last && *p != ',') {
        p++;
    }

    list->data = p;
    list->len = last - p;

    while (p > token->data && (p[-1] == ' ' || p[-1] == '\t')) {
        p--;
    }

    token->len = p - token->data;

    return token->len != 0;
}


/* the client's order is that of its preference */

static void
ngx_http_aiq_ws_choose(ngx_str_t *offer, ngx_array_t *protocols,
    ngx_str_t *protocol)
{
    ngx_str_t    left, s, *name;
    ngx_uint_t   i;

    left = *offer;
    name = protocols->elts;

    while (ngx_http_aiq_ws_next(&left, &s)) {

        for (i = 0; i < protocols->nelts; i++) {

            if (s.len == name[i].len
                && ngx_strncmp(s.data, name[i].data, s.len) == 0)
            {
                *protocol = name[i];
                return;
            }
        }
    }
}


/*
 * Only browsers send an Origin, and send the user's cookies from whatever page
 * they show: without a list a page must be of this very host.
 */

static ngx_uint_t
ngx_http_aiq_ws_may(ngx_http_request_t *r, ngx_array_t *origins,
    ngx_str_t *origin)
{
    ngx_str_t   *s;
    ngx_uint_t   i;

    if (origins == NULL) {
        return ngx_http_aiq_ws_same(r, origin);
    }

    s = origins->elts;

    for (i = 0; i < origins->nelts; i++) {

        if (ngx_strcmp(s[i].data, "any") == 0
            || (ngx_strcmp(s[i].data, "same") == 0
                && ngx_http_aiq_ws_same(r, origin))
            || (s[i].len == origin->len
                && ngx_strncasecmp(s[i].data, origin->data, s[i].len) == 0))
        {
            return 1;
        }
    }

    return 0;
}


/* the port that a scheme implies may be missing on either side */

static ngx_uint_t
ngx_http_aiq_ws_same(ngx_http_request_t *r, ngx_str_t *origin)
{
    size_t      skip;
    char       *port;
    ngx_str_t   o, h;

    if (r->headers_in.host == NULL) {
        return 0;
    }

    if (origin->len > 7
        && ngx_strncasecmp(origin->data, (u_char *) "http://", 7) == 0)
    {
        skip = 7;
        port = ":80";

    } else if (origin->len > 8
               && ngx_strncasecmp(origin->data, (u_char *) "https://", 8) == 0)
    {
        skip = 8;
        port = ":443";

    } else {
        return 0;
    }

    o.data = origin->data + skip;
    o.len = origin->len - skip;
    h = r->headers_in.host->value;

    skip = ngx_strlen(port);

    if (o.len > skip && ngx_strncmp(o.data + o.len - skip, port, skip) == 0) {
        o.len -= skip;
    }

    if (h.len > skip && ngx_strncmp(h.data + h.len - skip, port, skip) == 0) {
        h.len -= skip;
    }

    return o.len == h.len && ngx_strncasecmp(o.data, h.data, o.len) == 0;
}


static ngx_int_t
ngx_http_aiq_ws_refuse(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason, char *message)
{
    ngx_http_aiq_set_failure(ctx, reason);

    if (message) {
        ctx->failure.message.data = (u_char *) message;
        ctx->failure.message.len = ngx_strlen(message);
    }

    return ngx_http_aiq_fail(r, ctx);
}


static ngx_int_t
ngx_http_aiq_ws_make(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_ws_loc_conf_t *wlcf, ngx_str_t *key, ngx_str_t *protocol)
{
    u_char              hash[20];
    ngx_str_t           src, dst;
    ngx_sha1_t          sha1;
    ngx_http_aiq_ws_t  *ws;

    static u_char  guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

    ws = ngx_pcalloc(r->pool, sizeof(ngx_http_aiq_ws_t));
    if (ws == NULL) {
        return NGX_ERROR;
    }

    ws->conf = wlcf;
    ws->protocol = *protocol;
    ws->limits.max_message = wlcf->max_message;
    ws->limits.max_fragments = (uint32_t) wlcf->max_fragments;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, key->data, key->len);
    ngx_sha1_update(&sha1, guid, sizeof(guid) - 1);
    ngx_sha1_final(hash, &sha1);

    src.data = hash;
    src.len = sizeof(hash);
    dst.data = ws->accept;

    ngx_encode_base64(&dst, &src);

    ctx->ws = ws;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_ws_answer(ngx_http_request_t *r, ngx_http_aiq_ws_t *ws)
{
    ngx_int_t  rc;
    ngx_str_t  name, value;

    static char  extension[] = "permessage-deflate; server_no_context_takeover"
                               "; client_no_context_takeover";
    static char  window[] = "; server_max_window_bits=";

    ngx_str_set(&name, "Upgrade");

    if (ngx_http_aiq_add_header(r, &name, &ngx_http_aiq_ws_name) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&name, "Sec-WebSocket-Accept");
    value.data = ws->accept;
    value.len = sizeof(ws->accept);

    if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ws->protocol.len) {
        ngx_str_set(&name, "Sec-WebSocket-Protocol");

        if (ngx_http_aiq_add_header(r, &name, &ws->protocol) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ws->bits) {
        ngx_str_set(&name, "Sec-WebSocket-Extensions");

        value.data = ngx_pnalloc(r->pool, sizeof(extension) + NGX_INT_T_LEN
                                          + sizeof(window) - 1);
        if (value.data == NULL) {
            return NGX_ERROR;
        }

        value.len = ngx_sprintf(value.data, "%s", extension) - value.data;

        if (ws->names_bits) {
            value.len = ngx_sprintf(value.data + value.len, "%s%ui", window,
                                    (ngx_uint_t) ws->bits) - value.data;
        }

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    r->headers_out.status = NGX_HTTP_SWITCHING_PROTOCOLS;
    r->keepalive = 0;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_send_special(r, NGX_HTTP_FLUSH) == NGX_ERROR ? NGX_ERROR
                                                                 : NGX_OK;
}
