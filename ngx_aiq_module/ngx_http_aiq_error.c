
#include "ngx_http_aiq_ws.h"


/*
 * Errors come in the client's dialect.  Those that the module or nginx itself
 * raises take nginx's way: finalizing with a status looks for "error_page"
 * first, and only where there is none a page is made, which the filters here
 * replace.  What the service itself says is no error of nginx's and goes out
 * directly, like the reply of a proxied server.
 */


typedef struct {
    ngx_uint_t     status;
    ngx_str_t      code;
    ngx_str_t      message;
    ngx_uint_t     retry_after;
} ngx_http_aiq_error_t;


static void ngx_http_aiq_error_info(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_uint_t status, aiq_error_info *info);
static ngx_int_t ngx_http_aiq_error_render(ngx_http_request_t *r,
    ngx_http_aiq_pass_t *pass, aiq_error_info *info, ngx_str_t *body,
    aiq_dialect *dialect);
static ngx_uint_t ngx_http_aiq_has_error_page(ngx_http_request_t *r,
    ngx_uint_t status);
static ngx_int_t ngx_http_aiq_add_relayed_headers(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_add_retry_headers(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_refuse_ws(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_replace_page(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_pass_t *pass);
static ngx_int_t ngx_http_aiq_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);


static ngx_http_aiq_error_t  ngx_http_aiq_errors[] = {

    /* in the order of ngx_http_aiq_reason_e */

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("engine_unavailable"),
      ngx_string("The service is not available at the moment."), 1 },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("link_full"),
      ngx_string("The service has too many requests at the moment."), 1 },

    { NGX_HTTP_BAD_GATEWAY, ngx_string("engine_lost"),
      ngx_string("The service stopped while it served this request."), 0 },

    { NGX_HTTP_GATEWAY_TIME_OUT, ngx_string("engine_timeout"),
      ngx_string("The service did not answer in time."), 0 },

    { NGX_HTTP_REQUEST_ENTITY_TOO_LARGE, ngx_string("body_too_large"),
      ngx_string("The request body is too large."), 0 },

    { 431, ngx_string("headers_too_large"),
      ngx_string("The request's URI and headers are too large."), 0 },

    { NGX_HTTP_BAD_REQUEST, ngx_string("invalid_header"),
      ngx_string("A header of the request has invalid characters."), 0 },

    { NGX_HTTP_BAD_GATEWAY, ngx_string("bad_reply"),
      ngx_string("The service sent a reply that makes no sense."), 0 },

    { NGX_HTTP_INTERNAL_SERVER_ERROR, ngx_string("internal_error"),
      ngx_string("The server failed to process the request."), 0 },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("missing_api_key"),
      ngx_string("The request has no API key."), 0 },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_api_key"),
      ngx_string("The API key is not valid."), 0 },

    { NGX_HTTP_FORBIDDEN, ngx_string("disabled_api_key"),
      ngx_string("The API key is disabled."), 0 },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("key_unverified"),
      ngx_string("The server cannot verify API keys right now."), 1 },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("token_revoked"),
      ngx_string("The token's key is not accepted any more."), 0 },

    { NGX_HTTP_BAD_REQUEST, ngx_string("invalid_handshake"),
      ngx_string("The handshake of the WebSocket is not valid."), 0 },

    { 426, ngx_string("websocket_version"),
      ngx_string("Only version 13 of WebSocket is spoken here."), 0 },

    { NGX_HTTP_FORBIDDEN, ngx_string("origin_not_allowed"),
      ngx_string("Pages of this origin may not open a WebSocket here."), 0 },

    /* nginx's own, by status */

    { NGX_HTTP_BAD_REQUEST, ngx_string("bad_request"),
      ngx_string("The request is not valid HTTP."), 0 },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("unauthorized"),
      ngx_string("The request has no valid credentials."), 0 },

    { NGX_HTTP_FORBIDDEN, ngx_string("forbidden"),
      ngx_string("The request is not allowed."), 0 },

    { NGX_HTTP_NOT_FOUND, ngx_string("not_found"),
      ngx_string("There is nothing at this path."), 0 },

    { NGX_HTTP_NOT_ALLOWED, ngx_string("method_not_allowed"),
      ngx_string("The method is not allowed here."), 0 },

    { NGX_HTTP_REQUEST_TIME_OUT, ngx_string("request_timeout"),
      ngx_string("The request did not come in time."), 0 },

    { NGX_HTTP_LENGTH_REQUIRED, ngx_string("length_required"),
      ngx_string("The request needs a Content-Length."), 0 },

    { NGX_HTTP_REQUEST_URI_TOO_LARGE, ngx_string("uri_too_long"),
      ngx_string("The request's URI is too long."), 0 },

    { NGX_HTTP_UNSUPPORTED_MEDIA_TYPE, ngx_string("unsupported_media_type"),
      ngx_string("The content type is not supported."), 0 },

    { NGX_HTTP_TOO_MANY_REQUESTS, ngx_string("rate_limited"),
      ngx_string("There were too many requests."), 0 },

    { NGX_HTTP_NOT_IMPLEMENTED, ngx_string("not_implemented"),
      ngx_string("The server does not support this request."), 0 },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("unavailable"),
      ngx_string("The server is not available at the moment."), 0 },

    { 0, ngx_null_string, ngx_null_string, 0 }
};


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_str_t *
ngx_http_aiq_reason_code(ngx_uint_t reason)
{
    return &ngx_http_aiq_errors[reason].code;
}


void
ngx_http_aiq_set_failure(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_reason_e reason)
{
    ngx_uint_t               level;
    ngx_http_aiq_error_t    *error;
    ngx_http_aiq_failure_t  *failure;

    error = &ngx_http_aiq_errors[reason];
    failure = &ctx->failure;

    ngx_memzero(failure, sizeof(ngx_http_aiq_failure_t));

    failure->status = error->status;
    failure->code = error->code;
    failure->message = error->message;
    failure->retry_after = error->retry_after;

    ctx->status = error->code;

    if (ctx->pass && ctx->pass->fail) {
        /* a probe is no request that fails */
        return;
    }

    ngx_http_aiq_count_refused(reason);

    level = (error->status < 500) ? NGX_LOG_INFO : NGX_LOG_ERR;

    ngx_log_error(level, ctx->request->connection->log, 0,
                  "aiq: request \"%V\" failed: %V",
                  &ctx->request_id, &error->code);
}


ngx_int_t
ngx_http_aiq_refuse(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason)
{
    ngx_http_aiq_set_failure(ctx, reason);

    return ngx_http_aiq_fail(r, ctx);
}


ngx_int_t
ngx_http_aiq_fail(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t       body;
    aiq_dialect     dialect;
    aiq_error_info  info;

    if (ctx->job.head) {
        /* of a reply that nobody will see */
        ngx_http_clean_header(r);
    }

    if (ctx->pass->fail) {
        return ctx->pass->fail(r, ctx);
    }

    if (!ctx->failure.relayed) {
        return ctx->failure.status;
    }

    ngx_http_aiq_error_info(r, ctx, ctx->failure.status, &info);

    if (ngx_http_aiq_error_render(r, ctx->pass, &info, &body, &dialect)
        != NGX_OK
        || ngx_http_aiq_add_relayed_headers(r, ctx) != NGX_OK
        || ngx_http_aiq_add_retry_headers(r, ctx) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_aiq_send(r, ctx, ctx->failure.status, "application/json",
                             &body);
}


ngx_int_t
ngx_http_aiq_fail_anywhere(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_str_t                 body;
    aiq_dialect               dialect;
    aiq_error_info            info;
    ngx_http_aiq_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    if (alcf->pass || ngx_http_aiq_has_error_page(r, ctx->failure.status)) {
        return ctx->failure.status;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_aiq_error_info(r, ctx, ctx->failure.status, &info);

    if (ngx_http_aiq_error_render(r, NULL, &info, &body, &dialect) != NGX_OK
        || ngx_http_aiq_add_relayed_headers(r, ctx) != NGX_OK
        || ngx_http_aiq_add_retry_headers(r, ctx) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_finalize_request(r, ngx_http_aiq_send(r, ctx, ctx->failure.status,
                                                   "application/json", &body));

    return NGX_DONE;
}


/* as nginx looks for it */

static ngx_uint_t
ngx_http_aiq_has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (r->error_page || clcf->error_pages == NULL || r->uri_changes == 0) {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if (page[i].status == (ngx_int_t) status) {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_aiq_error_event(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_str_t *event)
{
    u_char          *p;
    ngx_str_t        body, type;
    aiq_dialect      dialect;
    aiq_error_info   info;

    ngx_http_aiq_error_info(r, ctx, ctx->failure.status, &info);

    if (ngx_http_aiq_error_render(r, ctx->pass, &info, &body, &dialect)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_null(&type);

    if (dialect == AIQ_DIALECT_RESPONSES) {
        /* there the data, too, say what they are */
        ngx_str_set(&type, "{\"type\":\"error\",");
        body.data++;
        body.len--;
    }

    p = ngx_pnalloc(r->pool, sizeof("\n\nevent: error\ndata: \n\n") + type.len
                             + body.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    event->data = p;

    if (ctx->job.in_event) {
        /* the rest of it will not come */
        p = ngx_cpymem(p, "\n\n", 2);
    }

    p = ngx_sprintf(p, "%sdata: %V%V\n\n",
                    dialect == AIQ_DIALECT_OPENAI ? "" : "event: error\n",
                    &type, &body);

    event->len = p - event->data;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_deny(ngx_http_request_t *r, ngx_uint_t status, ngx_str_t *code,
    ngx_str_t *message)
{
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(&ctx->failure, sizeof(ngx_http_aiq_failure_t));

    ctx->failure.status = status;
    ctx->failure.code = *code;
    ctx->failure.message = *message;

    ctx->status = *code;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "aiq: request \"%V\" denied: %V: %V",
                  &ctx->request_id, code, message);

    return status;
}


static void
ngx_http_aiq_error_info(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t status, aiq_error_info *info)
{
    ngx_http_aiq_error_t    *error;
    ngx_http_aiq_failure_t  *failure;

    ngx_memzero(info, sizeof(aiq_error_info));

    info->status = status;
    info->request_id.data = (char *) ctx->request_id.data;
    info->request_id.len = ctx->request_id.len;

    failure = &ctx->failure;

    if (failure->status == status) {
        info->code.data = (char *) failure->code.data;
        info->code.len = failure->code.len;
        info->message.data = (char *) failure->message.data;
        info->message.len = failure->message.len;
        info->param.data = (char *) failure->param.data;
        info->param.len = failure->param.len;
        return;
    }

    /* body_too_large says the same, whoever finds out */

    if (status == NGX_HTTP_REQUEST_ENTITY_TOO_LARGE) {
        error = &ngx_http_aiq_errors[NGX_HTTP_AIQ_BODY_TOO_LARGE];

    } else {
        error = &ngx_http_aiq_errors[NGX_HTTP_AIQ_REASONS];

        while (error->status && error->status != status) {
            error++;
        }

        if (error->status == 0) {
            error = &ngx_http_aiq_errors[status < 500
                                         ? NGX_HTTP_AIQ_REASONS
                                         : NGX_HTTP_AIQ_INTERNAL_ERROR];
        }
    }

    info->code.data = (char *) error->code.data;
    info->code.len = error->code.len;
    info->message.data = (char *) error->message.data;
    info->message.len = error->message.len;
}


static ngx_int_t
ngx_http_aiq_error_render(ngx_http_request_t *r, ngx_http_aiq_pass_t *pass,
    aiq_error_info *info, ngx_str_t *body, aiq_dialect *dialect)
{
    char       text[AIQ_ERROR_BODY_MAX];
    aiq_text   service, path;
    ngx_str_t  uri;

    *dialect = AIQ_DIALECT_OWN;

    if (pass) {
        if (ngx_http_aiq_uri(r, pass, &uri) != NGX_OK) {
            return NGX_ERROR;
        }

        service.data = (char *) pass->service.data;
        service.len = pass->service.len;
        path.data = (char *) uri.data;
        path.len = uri.len;

        *dialect = aiq_dialect_of(service, path);
    }

    body->len = aiq_error_render(text, *dialect, info);

    body->data = ngx_pnalloc(r->pool, body->len);
    if (body->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(body->data, text, body->len);

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_send(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t status, char *type, ngx_str_t *body)
{
    u_char       *p;
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    ctx->own = 1;

    p = (u_char *) ngx_strchr(type, ';');

    r->headers_out.status = status;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = p ? (size_t) (p - (u_char *) type)
                                        : r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.content_length_n = body->len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = body->data;
    b->last = body->data + body->len;
    b->memory = body->len ? 1 : 0;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


ngx_int_t
ngx_http_aiq_add_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key = *name;
    h->value = *value;
    h->lowcase_key = name->data;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    if (name->len == sizeof("content-encoding") - 1
        && ngx_strncmp(name->data, "content-encoding", name->len) == 0)
    {
        /* so that "gzip" leaves it alone */
        r->headers_out.content_encoding = h;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_add_relayed_headers(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx)
{
    aiq_text    n, v;
    ngx_str_t   name, value;

    while (ngx_http_aiq_frames_header(&ctx->failure.headers, &n, &v)) {
        name.data = (u_char *) n.data;
        name.len = n.len;
        value.data = (u_char *) v.data;
        value.len = v.len;

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* whether and when it is worth asking again, as the SDKs understand it */

static ngx_int_t
ngx_http_aiq_add_retry_headers(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t  name, value;

    if (ctx->failure.status == 402) {
        ngx_str_set(&name, "x-should-retry");
        ngx_str_set(&value, "false");

        return ngx_http_aiq_add_header(r, &name, &value);
    }

    if (ctx->failure.retry_after == 0) {
        return NGX_OK;
    }

    ngx_str_set(&name, "Retry-After");

    value.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%ui", ctx->failure.retry_after)
                - value.data;

    return ngx_http_aiq_add_header(r, &name, &value);
}


static ngx_int_t
ngx_http_aiq_header_filter(ngx_http_request_t *r)
{
    ngx_str_t                 name;
    ngx_http_aiq_ctx_t       *ctx;
    ngx_http_aiq_pass_t      *pass;
    ngx_http_aiq_loc_conf_t  *alcf;

    if (r != r->main) {
        return ngx_http_next_header_filter(r);
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);
    pass = alcf->pass;

    /* in other locations only what "error_page" has led there */

    ctx = pass ? ngx_http_aiq_need_ctx(r) : ngx_http_aiq_get_ctx(r);

    if (ctx == NULL) {
        return pass ? NGX_ERROR : ngx_http_next_header_filter(r);
    }

    if (ctx->ws && ctx->ws->open) {
        return ngx_http_aiq_refuse_ws(r, ctx);
    }

    if (pass || ctx->pass) {
        ngx_str_set(&name, "X-Request-Id");

        if (ngx_http_aiq_add_header(r, &name, &ctx->request_id) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    /*
     * A page of nginx's own?  After a redirect by "error_page" the status
     * stays while the configuration may answer with a text of its own.
     */

    if (pass && !ctx->own && r->err_status >= NGX_HTTP_BAD_REQUEST
        && (!r->error_page || ctx->failure.status)
        && ngx_http_aiq_replace_page(r, ctx, pass) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


/* What refuses it comes too late for a status. */

static ngx_int_t
ngx_http_aiq_refuse_ws(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t       message;
    ngx_uint_t      status;
    aiq_error_info  info;

    status = r->err_status ? r->err_status : r->headers_out.status;

    ngx_http_aiq_error_info(r, ctx, status, &info);

    if (ctx->status.len == 0) {
        ctx->status.data = (u_char *) info.code.data;
        ctx->status.len = info.code.len;
    }

    message.data = (u_char *) info.message.data;
    message.len = info.message.len;

    return ngx_http_aiq_ws_refused(r, ctx, status, &message);
}


static ngx_int_t
ngx_http_aiq_replace_page(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_pass_t *pass)
{
    aiq_dialect     dialect;
    aiq_error_info  info;

    ngx_http_aiq_error_info(r, ctx, r->err_status, &info);

    if (ngx_http_aiq_error_render(r, pass, &info, &ctx->error_body, &dialect)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->status.len == 0) {
        ctx->status.data = (u_char *) info.code.data;
        ctx->status.len = info.code.len;
    }

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.content_length_n = ctx->error_body.len;

    return ngx_http_aiq_add_retry_headers(r, ctx);
}


static ngx_int_t
ngx_http_aiq_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t           *b;
    ngx_chain_t          out;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_aiq_module);

    if (in == NULL || ctx == NULL || ctx->error_body.len == 0 || r != r->main)
    {
        return ngx_http_next_body_filter(r, in);
    }

    /* nginx passes its page at once, or only an end where it has none */

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->error_body.data;
    b->last = ctx->error_body.data + ctx->error_body.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    ngx_str_null(&ctx->error_body);

    return ngx_http_next_body_filter(r, &out);
}


ngx_int_t
ngx_http_aiq_filter_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_aiq_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_aiq_body_filter;

    return NGX_OK;
}
