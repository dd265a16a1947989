
#include "ngx_http_aiq_charge.h"
#include "ngx_http_aiq_ws.h"


/* writes OPEN's fields, or only counts them where pos is NULL */

typedef struct {
    u_char        *pos;
    size_t         len;
    uint64_t       conditions;
    uint32_t       hashes[AIQ_HASHES_MAX];
    ngx_uint_t     nhashes;
    u_char         limit_keys[AIQ_LIMITS_MAX * AIQ_LIMIT_KEY];
    ngx_uint_t     nlimit_keys;
    unsigned       accept:1;
    unsigned       invalid:1;
} ngx_http_aiq_open_t;


static ngx_int_t ngx_http_aiq_init_request(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t **ctx);
static ngx_int_t ngx_http_aiq_without_body(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_begin(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_watch_client(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_open_values(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_open_t *open);
static void ngx_http_aiq_open_fields(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_str_t *uri, ngx_http_aiq_open_t *open);
static void ngx_http_aiq_open_identity(ngx_http_aiq_identity_t *identity,
    ngx_http_aiq_open_t *open);
static void ngx_http_aiq_open_headers(ngx_http_request_t *r,
    ngx_http_aiq_open_t *open);
static ngx_uint_t ngx_http_aiq_passed_header(ngx_table_elt_t *h);
static void ngx_http_aiq_open_text(ngx_http_aiq_open_t *open, uint16_t id,
    ngx_str_t *value);
static void ngx_http_aiq_open_bytes(ngx_http_aiq_open_t *open, uint16_t id,
    void *data, size_t len);
static void ngx_http_aiq_open_header(ngx_http_aiq_open_t *open,
    ngx_table_elt_t *h);
static uint8_t ngx_http_aiq_method(ngx_http_request_t *r);


ngx_int_t
ngx_http_aiq_handler(ngx_http_request_t *r)
{
    off_t                max;
    ngx_int_t            rc;
    ngx_http_aiq_ctx_t  *ctx;

    rc = ngx_http_aiq_init_request(r, &ctx);
    if (rc != NGX_OK) {
        return rc;
    }

    max = ctx->pass->conf->max_body_size;

    if (max && r->headers_in.content_length_n > max) {
        return ngx_http_aiq_refuse(r, ctx, NGX_HTTP_AIQ_BODY_TOO_LARGE);
    }

    if (!ngx_http_aiq_link_up() && !ngx_http_aiq_link_expected()) {
        return ngx_http_aiq_refuse(r, ctx, NGX_HTTP_AIQ_ENGINE_UNAVAILABLE);
    }

    rc = ngx_http_aiq_ws_handshake(r, ctx);

    if (rc == NGX_OK) {
        return ngx_http_aiq_without_body(r, ctx);
    }

    if (rc != NGX_DECLINED) {
        return rc;
    }

    r->request_body_no_buffering = ngx_http_aiq_body_follows(r);

    rc = ngx_http_read_client_request_body(r, ngx_http_aiq_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


ngx_int_t
ngx_http_aiq_ask(ngx_http_request_t *r)
{
    ngx_int_t            rc;
    ngx_http_aiq_ctx_t  *ctx;

    rc = ngx_http_aiq_init_request(r, &ctx);
    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_http_aiq_without_body(r, ctx);
}


static ngx_int_t
ngx_http_aiq_without_body(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t  rc;

    r->main->count++;

    rc = ngx_http_aiq_begin(r, ctx);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }

    return NGX_DONE;
}


static ngx_int_t
ngx_http_aiq_init_request(ngx_http_request_t *r, ngx_http_aiq_ctx_t **out)
{
    ngx_http_aiq_ctx_t       *ctx;
    ngx_http_aiq_loc_conf_t  *alcf;

    if (r != r->main) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "\"aiq_pass\" does not serve subrequests");
        return NGX_HTTP_NOT_IMPLEMENTED;
    }

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    ctx->pass = alcf->pass;

    /* of an access handler that another one has outvoted */
    ngx_memzero(&ctx->failure, sizeof(ngx_http_aiq_failure_t));
    ngx_str_null(&ctx->status);

    *out = ctx;

    return ngx_http_aiq_job_init(r, ctx);
}


static void
ngx_http_aiq_body_handler(ngx_http_request_t *r)
{
    off_t                max;
    ngx_int_t            rc;
    ngx_chain_t         *cl;
    ngx_http_aiq_ctx_t  *ctx;
    ngx_http_aiq_job_t  *job;

    ctx = ngx_http_aiq_get_ctx(r);
    job = &ctx->job;

    if (r->reading_body) {
        job->follows = 1;
        job->body = r->request_body->bufs;
        job->body_length = r->headers_in.content_length_n;
        job->unsent = job->body_length;
        r->request_body->bufs = NULL;

    } else if (r->request_body) {
        job->body = r->request_body->bufs;

        for (cl = job->body; cl; cl = cl->next) {
            job->body_length += ngx_buf_size(cl->buf);
        }

        job->unsent = job->body_length;
    }

    max = ctx->pass->conf->max_body_size;

    if (max && job->body_length > max) {

        /* came without its length */
        rc = ngx_http_aiq_refuse(r, ctx, NGX_HTTP_AIQ_BODY_TOO_LARGE);

    } else {
        rc = ngx_http_aiq_begin(r, ctx);
    }

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }
}


void
ngx_http_aiq_start(ngx_http_aiq_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    if (ctx->charging) {
        ngx_http_aiq_charge_start(ctx);
        return;
    }

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    rc = ngx_http_aiq_begin(r, ctx);

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }

    ngx_http_run_posted_requests(c);
}


/* NGX_DONE: the request is on its way; else what to finalize it with */

static ngx_int_t
ngx_http_aiq_begin(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    if (ctx->revoked) {
        return ngx_http_aiq_refuse(r, ctx, NGX_HTTP_AIQ_TOKEN_REVOKED);
    }

    if (ngx_http_aiq_open(r, ctx) != NGX_OK) {
        return ngx_http_aiq_fail(r, ctx);
    }

    ngx_http_aiq_watch_client(r);

    return NGX_DONE;
}


ngx_int_t
ngx_http_aiq_open(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    u_char               *p;
    ngx_int_t             rc;
    ngx_str_t             uri;
    aiq_open              head;
    ngx_http_aiq_job_t   *job;
    ngx_http_aiq_open_t   open;

    job = &ctx->job;

    ngx_memzero(&open, sizeof(ngx_http_aiq_open_t));
    open.len = sizeof(aiq_open);

    if (ngx_http_aiq_uri(r, ctx->pass, &uri) != NGX_OK
        || ngx_http_aiq_open_values(r, ctx, &open) != NGX_OK)
    {
        ngx_http_aiq_set_failure(ctx, NGX_HTTP_AIQ_INTERNAL_ERROR);
        return NGX_ERROR;
    }

    ngx_http_aiq_open_fields(r, ctx, &uri, &open);

    if (open.invalid) {
        ngx_http_aiq_set_failure(ctx, NGX_HTTP_AIQ_INVALID_HEADER);
        return NGX_ERROR;
    }

    if (open.len > AIQ_OPEN_MAX) {
        ngx_http_aiq_set_failure(ctx, NGX_HTTP_AIQ_HEADERS_TOO_LARGE);
        return NGX_ERROR;
    }

    p = NULL;

    rc = ngx_http_aiq_link_attach(ctx);

    if (rc == NGX_OK) {
        p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_OPEN, 0, open.len);

        if (p == NULL) {
            ngx_http_aiq_link_detach(ctx, 1);
            rc = NGX_BUSY;
        }
    }

    if ((rc == NGX_DECLINED || rc == NGX_BUSY)
        && ctx->pass->fail == NULL && ngx_http_aiq_link_park(ctx) == NGX_OK)
    {
        return NGX_OK;
    }

    if (rc != NGX_OK) {
        ngx_http_aiq_set_failure(ctx, rc == NGX_DECLINED
                                      ? NGX_HTTP_AIQ_ENGINE_UNAVAILABLE
                                      : NGX_HTTP_AIQ_LINK_FULL);
        return NGX_ERROR;
    }

    ngx_memzero(&head, sizeof(aiq_open));
    head.location = (uint32_t) ctx->pass->index;
    head.method = ngx_http_aiq_method(r);
    head.body_length = job->body_length;
    head.flags = ctx->ws ? AIQ_OPEN_WEBSOCKET : 0;
#if (NGX_HTTP_SSL)
    head.secure = (r->connection->ssl != NULL);
#endif

    open.pos = ngx_cpymem(p, &head, sizeof(aiq_open));
    open.accept = 0;

    ngx_http_aiq_open_fields(r, ctx, &uri, &open);

    if (job->body_length) {
        job->owes_end = 1;

        if (ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
            ngx_http_aiq_link_wait(ctx);
        }
    }

    ngx_add_timer(&job->timeout, ngx_http_aiq_job_timeout(ctx));

    return NGX_OK;
}


static void
ngx_http_aiq_watch_client(ngx_http_request_t *r)
{
    ngx_event_t  *rev;

    r->read_event_handler = r->reading_body ? ngx_http_aiq_body_reader
                                            : ngx_http_test_reading;
    r->write_event_handler = ngx_http_aiq_job_writer;

    rev = r->connection->read;

    if (rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);

    } else {
        /* a failure is seen when the reply is written */
        (void) ngx_handle_read_event(rev, 0);
    }
}


/* The URI as the service sees it, see "aiq_pass". */

ngx_int_t
ngx_http_aiq_uri(ngx_http_request_t *r, ngx_http_aiq_pass_t *pass,
    ngx_str_t *uri)
{
    u_char  *p;
    size_t   len;

    if (pass->prefix.len == 0 || !r->valid_location
        || r->uri.len < pass->location.len)
    {
        *uri = r->uri;
        return NGX_OK;
    }

    len = r->uri.len - pass->location.len;

    uri->len = pass->prefix.len + len;
    uri->data = ngx_pnalloc(r->pool, uri->len);
    if (uri->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(uri->data, pass->prefix.data, pass->prefix.len);
    ngx_memcpy(p, r->uri.data + pass->location.len, len);

    return NGX_OK;
}


/*
 * What targets are chosen by: "if=" and "policy hash" of "aiq_model"; what
 * tokens are counted by: "aiq_limit".
 */

static ngx_int_t
ngx_http_aiq_open_values(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_open_t *open)
{
    ngx_str_t                  s;
    ngx_uint_t                 i;
    ngx_http_aiq_value_t      *value;
    ngx_http_aiq_main_conf_t  *amcf;

    if (ctx->charging) {
        return ngx_http_aiq_limit_keys(r, open->limit_keys,
                                       &open->nlimit_keys);
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_module);

    value = amcf->conditions.elts;

    for (i = 0; i < amcf->conditions.nelts; i++) {

        if (ngx_http_complex_value(r, &value[i].value, &s) != NGX_OK) {
            return NGX_ERROR;
        }

        if (s.len && (s.len != 1 || s.data[0] != '0')) {
            open->conditions |= (uint64_t) 1 << i;
        }
    }

    value = amcf->hashes.elts;

    for (i = 0; i < amcf->hashes.nelts; i++) {

        if (ngx_http_complex_value(r, &value[i].value, &s) != NGX_OK) {
            return NGX_ERROR;
        }

        open->hashes[i] = ngx_murmur_hash2(s.data, s.len);
    }

    open->nhashes = amcf->hashes.nelts;

    return ngx_http_aiq_limit_keys(r, open->limit_keys, &open->nlimit_keys);
}


static void
ngx_http_aiq_open_fields(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_str_t *uri, ngx_http_aiq_open_t *open)
{
    int64_t          expires;
    ngx_table_elt_t  protocol;

    ngx_http_aiq_open_text(open, AIQ_FIELD_URI, uri);

    if (ngx_http_aiq_method(r) == AIQ_METHOD_OTHER) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_METHOD, &r->method_name);
    }

    ngx_http_aiq_open_text(open, AIQ_FIELD_REQUEST_ID, &ctx->request_id);
    ngx_http_aiq_open_text(open, AIQ_FIELD_TRACEPARENT, &ctx->traceparent);

    if (ctx->tracestate.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_TRACESTATE, &ctx->tracestate);
    }

    ngx_http_aiq_open_text(open, AIQ_FIELD_REMOTE_ADDR,
                           &r->connection->addr_text);

    ngx_http_aiq_open_identity(&ctx->identity, open);

    if (open->nlimit_keys) {
        ngx_http_aiq_open_bytes(open, AIQ_FIELD_LIMIT_KEYS, open->limit_keys,
                                open->nlimit_keys * AIQ_LIMIT_KEY);
    }

    if (ctx->charging) {

        /* what the client says is for others */

        ngx_http_aiq_open_bytes(open, AIQ_FIELD_CHARGE,
                                &((ngx_http_aiq_charge_ctx_t *) ctx)->sum,
                                sizeof(aiq_charge));
        return;
    }

    if (r->args.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_ARGS, &r->args);
    }

    if (r->headers_in.content_type && r->headers_in.content_type->value.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_CONTENT_TYPE,
                               &r->headers_in.content_type->value);
    }

    if (open->conditions) {
        ngx_http_aiq_open_bytes(open, AIQ_FIELD_CONDITIONS, &open->conditions,
                                sizeof(uint64_t));
    }

    if (open->nhashes) {
        ngx_http_aiq_open_bytes(open, AIQ_FIELD_HASHES, open->hashes,
                                open->nhashes * sizeof(uint32_t));
    }

    ngx_http_aiq_open_headers(r, open);

    expires = ctx->ws ? (int64_t) ngx_http_aiq_jwt_expires(r) * 1000 : 0;

    if (expires) {
        ngx_http_aiq_open_bytes(open, AIQ_FIELD_EXPIRES, &expires,
                                sizeof(int64_t));
    }

    if (ctx->ws && ctx->ws->protocol.len) {
        ngx_str_set(&protocol.key, "sec-websocket-protocol");
        protocol.lowcase_key = protocol.key.data;
        protocol.value = ctx->ws->protocol;

        ngx_http_aiq_open_header(open, &protocol);
    }
}


static void
ngx_http_aiq_open_identity(ngx_http_aiq_identity_t *identity,
    ngx_http_aiq_open_t *open)
{
    if (identity->tenant.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_TENANT, &identity->tenant);
    }

    if (identity->user.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_USER, &identity->user);
    }

    if (identity->role.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_ROLE, &identity->role);
    }

    if (identity->key_id.len) {
        ngx_http_aiq_open_text(open, AIQ_FIELD_KEY_ID, &identity->key_id);
    }
}


static void
ngx_http_aiq_open_headers(ngx_http_request_t *r, ngx_http_aiq_open_t *open)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (ngx_http_aiq_passed_header(&h[i])) {
            ngx_http_aiq_open_header(open, &h[i]);

        } else if (!open->accept && h[i].key.len == 6 && h[i].value.len
                   && ngx_strncmp(h[i].lowcase_key, "accept", 6) == 0)
        {
            ngx_http_aiq_open_text(open, AIQ_FIELD_ACCEPT, &h[i].value);
            open->accept = 1;
        }
    }
}


static ngx_uint_t
ngx_http_aiq_passed_header(ngx_table_elt_t *h)
{
    u_char  *p;

    p = h->lowcase_key;

    switch (p[0]) {

    case 'x':
        return h->key.len > 6 && ngx_strncmp(p, "x-aiq-", 6) == 0;

    case 'o':
        return h->key.len > 7 && ngx_strncmp(p, "openai-", 7) == 0;

    case 'a':
        return h->key.len > 10 && ngx_strncmp(p, "anthropic-", 10) == 0;

    case 'c':
        return h->key.len == 13 && ngx_strncmp(p, "cache-control", 13) == 0;

    case 'l':
        return h->key.len == 13 && ngx_strncmp(p, "last-event-id", 13) == 0;

    case 'i':
        return h->key.len == 15 && ngx_strncmp(p, "idempotency-key", 15) == 0;

    default:
        return 0;
    }
}


static void
ngx_http_aiq_open_text(ngx_http_aiq_open_t *open, uint16_t id,
    ngx_str_t *value)
{
    if (open->pos) {
        open->pos = aiq_field_put(open->pos, id, value->data,
                                  (uint16_t) value->len);
        return;
    }

    /* the URI was decoded, any byte may be in it */

    if (id != AIQ_FIELD_URI && !aiq_text_clean(value->data, value->len)) {
        open->invalid = 1;
    }

    open->len += aiq_field_span(value->len);
}


static void
ngx_http_aiq_open_bytes(ngx_http_aiq_open_t *open, uint16_t id, void *data,
    size_t len)
{
    if (open->pos) {
        open->pos = aiq_field_put(open->pos, id, data, (uint16_t) len);
        return;
    }

    open->len += aiq_field_span(len);
}


static void
ngx_http_aiq_open_header(ngx_http_aiq_open_t *open, ngx_table_elt_t *h)
{
    size_t    i, n;
    u_char   *p;
    uint16_t  id, len;

    n = h->key.len + 2 + h->value.len;

    if (open->pos) {
        id = AIQ_FIELD_HEADER;
        len = (uint16_t) n;

        p = ngx_cpymem(open->pos, &id, sizeof(uint16_t));
        p = ngx_cpymem(p, &len, sizeof(uint16_t));
        p = ngx_cpymem(p, h->lowcase_key, h->key.len);
        *p++ = ':';
        *p++ = ' ';
        open->pos = ngx_cpymem(p, h->value.data, h->value.len);
        return;
    }

    for (i = 0; i < h->key.len; i++) {
        if (h->lowcase_key[i] != '-' && h->lowcase_key[i] != '_'
            && !(h->lowcase_key[i] >= '0' && h->lowcase_key[i] <= '9')
            && !(h->lowcase_key[i] >= 'a' && h->lowcase_key[i] <= 'z'))
        {
            open->invalid = 1;
            return;
        }
    }

    if (!aiq_text_clean(h->value.data, h->value.len)) {
        open->invalid = 1;
        return;
    }

    open->len += aiq_field_span(n);
}


static uint8_t
ngx_http_aiq_method(ngx_http_request_t *r)
{
    switch (r->method) {

    case NGX_HTTP_GET:
        return AIQ_METHOD_GET;

    case NGX_HTTP_HEAD:
        return AIQ_METHOD_HEAD;

    case NGX_HTTP_POST:
        return AIQ_METHOD_POST;

    case NGX_HTTP_PUT:
        return AIQ_METHOD_PUT;

    case NGX_HTTP_DELETE:
        return AIQ_METHOD_DELETE;

    case NGX_HTTP_PATCH:
        return AIQ_METHOD_PATCH;

    case NGX_HTTP_OPTIONS:
        return AIQ_METHOD_OPTIONS;

    default:
        return AIQ_METHOD_OTHER;
    }
}
