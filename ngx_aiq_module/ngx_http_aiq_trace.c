
#include "ngx_http_aiq.h"

#include <sys/random.h>


#define NGX_HTTP_AIQ_TRACESTATE_MAX  512


static void ngx_http_aiq_ctx_cleanup(void *data);
static ngx_int_t ngx_http_aiq_set_request_id(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_str_t *header);
static void ngx_http_aiq_set_trace(ngx_http_aiq_ctx_t *ctx, ngx_str_t *header);
static ngx_int_t ngx_http_aiq_set_tracestate(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static ngx_int_t ngx_http_aiq_traceparent_valid(ngx_str_t *s);
static ngx_int_t ngx_http_aiq_hex(u_char *p, size_t n);
static void ngx_http_aiq_random(u_char *p, size_t n);


static u_char  ngx_http_aiq_hex_digits[] = "0123456789abcdef";


ngx_http_aiq_ctx_t *
ngx_http_aiq_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;
    ngx_http_aiq_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_aiq_module);

    if (ctx == NULL && (r->internal || r->filter_finalize)) {

        /* an internal redirect has wiped the contexts */

        for (cln = r->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_http_aiq_ctx_cleanup) {
                ctx = cln->data;
                ngx_http_set_ctx(r, ctx, ngx_http_aiq_module);
                break;
            }
        }
    }

    return ctx;
}


ngx_http_aiq_ctx_t *
ngx_http_aiq_need_ctx(ngx_http_request_t *r)
{
    ngx_str_t            id, parent;
    ngx_uint_t           i, parents;
    ngx_list_part_t     *part;
    ngx_table_elt_t     *h;
    ngx_pool_cleanup_t  *cln;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx) {
        return ctx;
    }

    r = r->main;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_aiq_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_aiq_ctx_t));

    ctx->request = r;
    ctx->usage.tokens_in = -1;
    ctx->usage.tokens_out = -1;
    ctx->usage.first_token_us = -1;
    ctx->usage.cost_nano_usd = -1;

    ngx_str_null(&id);
    ngx_str_null(&parent);
    parents = 0;

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

        if (h[i].key.len == 12
            && ngx_strncmp(h[i].lowcase_key, "x-request-id", 12) == 0)
        {
            id = h[i].value;

        } else if (h[i].key.len == 11
                   && ngx_strncmp(h[i].lowcase_key, "traceparent", 11) == 0)
        {
            parent = h[i].value;
            parents++;
        }
    }

    if (ngx_http_aiq_set_request_id(r, ctx, &id) != NGX_OK) {
        return NULL;
    }

    if (parents == 1 && ngx_http_aiq_traceparent_valid(&parent) == NGX_OK) {
        ngx_http_aiq_set_trace(ctx, &parent);

        if (ngx_http_aiq_set_tracestate(r, ctx) != NGX_OK) {
            return NULL;
        }

    } else {
        ngx_http_aiq_set_trace(ctx, NULL);
    }

    cln->handler = ngx_http_aiq_ctx_cleanup;

    ngx_http_set_ctx(r, ctx, ngx_http_aiq_module);

    return ctx;
}


/* A mark to find the context by; what it holds is freed with the pool. */

static void
ngx_http_aiq_ctx_cleanup(void *data)
{
}


static ngx_int_t
ngx_http_aiq_set_request_id(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_str_t *header)
{
    u_char      *p, ch, bits[10];
    size_t       i;
    uint64_t     ms, high, low;
    ngx_time_t  *tp;

    static u_char  base32[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    for (i = 0; i < header->len; i++) {
        ch = header->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9')
              || ch == '.' || ch == '_' || ch == '-'))
        {
            break;
        }
    }

    if (header->len > 0 && header->len <= NGX_HTTP_AIQ_REQUEST_ID_LEN
        && i == header->len)
    {
        ctx->request_id = *header;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, sizeof("req_") - 1 + 26);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->request_id.data = p;
    ctx->request_id.len = sizeof("req_") - 1 + 26;

    p = ngx_cpymem(p, "req_", sizeof("req_") - 1);

    /* ULID: 48 bits of time, 80 random bits, in 26 digits of Crockford's */

    tp = ngx_timeofday();
    ms = (uint64_t) tp->sec * 1000 + tp->msec;

    ngx_http_aiq_random(bits, sizeof(bits));

    high = 0;
    low = 0;

    for (i = 0; i < 5; i++) {
        high = high << 8 | bits[i];
        low = low << 8 | bits[i + 5];
    }

    for (i = 0; i < 10; i++) {
        *p++ = base32[(ms >> (45 - 5 * i)) & 31];
    }

    for (i = 0; i < 8; i++) {
        *p++ = base32[(high >> (35 - 5 * i)) & 31];
    }

    for (i = 0; i < 8; i++) {
        *p++ = base32[(low >> (35 - 5 * i)) & 31];
    }

    return NGX_OK;
}


/*
 * The engine sees us as its parent: the trace goes on, the span is new.  Of
 * the flags only "sampled" is defined, the rest must not be passed on.
 */

static void
ngx_http_aiq_set_trace(ngx_http_aiq_ctx_t *ctx, ngx_str_t *header)
{
    u_char  *p, bits[24];

    p = ctx->traceparent_data;

    ctx->traceparent.data = p;
    ctx->traceparent.len = NGX_HTTP_AIQ_TRACEPARENT_LEN;

    ngx_http_aiq_random(bits, sizeof(bits));

    p = ngx_cpymem(p, "00-", 3);

    if (header) {
        p = ngx_cpymem(p, header->data + 3, 32);

    } else {
        bits[0] |= 1;
        p = ngx_hex_dump(p, bits, 16);
    }

    *p++ = '-';

    bits[16] |= 1;      /* zero is no id */
    p = ngx_hex_dump(p, bits + 16, 8);

    *p++ = '-';
    *p++ = '0';
    *p = (header == NULL || ngx_strchr("13579bdf", header->data[54])) ? '1'
                                                                    : '0';
}


static ngx_int_t
ngx_http_aiq_set_tracestate(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    u_char           *p;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    p = NULL;

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

        if (h[i].key.len != 10
            || ngx_strncmp(h[i].lowcase_key, "tracestate", 10) != 0
            || h[i].value.len == 0)
        {
            continue;
        }

        /* several are one list, in their order */

        if (ctx->tracestate.len + 1 + h[i].value.len
            > NGX_HTTP_AIQ_TRACESTATE_MAX
            || !aiq_text_clean(h[i].value.data, h[i].value.len))
        {
            ctx->tracestate.len = 0;
            break;
        }

        if (ctx->tracestate.len == 0) {
            ctx->tracestate = h[i].value;
            continue;
        }

        if (p == NULL) {
            p = ngx_pnalloc(r->pool, NGX_HTTP_AIQ_TRACESTATE_MAX);
            if (p == NULL) {
                return NGX_ERROR;
            }

            ngx_memcpy(p, ctx->tracestate.data, ctx->tracestate.len);
            ctx->tracestate.data = p;
        }

        p = ctx->tracestate.data + ctx->tracestate.len;
        *p++ = ',';
        p = ngx_cpymem(p, h[i].value.data, h[i].value.len);
        ctx->tracestate.len = p - ctx->tracestate.data;
    }

    return NGX_OK;
}


/* W3C Trace Context: version 00 strictly, later ones by their known part. */

static ngx_int_t
ngx_http_aiq_traceparent_valid(ngx_str_t *s)
{
    size_t   i, zeros;
    u_char  *p;

    p = s->data;

    if (s->len < NGX_HTTP_AIQ_TRACEPARENT_LEN
        || ngx_http_aiq_hex(p, 2) != NGX_OK || p[2] != '-'
        || ngx_http_aiq_hex(p + 3, 32) != NGX_OK || p[35] != '-'
        || ngx_http_aiq_hex(p + 36, 16) != NGX_OK || p[52] != '-'
        || ngx_http_aiq_hex(p + 53, 2) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    if (p[0] == 'f' && p[1] == 'f') {
        return NGX_DECLINED;
    }

    if (s->len > NGX_HTTP_AIQ_TRACEPARENT_LEN
        && ((p[0] == '0' && p[1] == '0') || p[55] != '-'))
    {
        return NGX_DECLINED;
    }

    for (i = 3, zeros = 0; i < 35; i++) {
        zeros += (p[i] == '0');
    }

    if (zeros == 32) {
        return NGX_DECLINED;
    }

    for (i = 36, zeros = 0; i < 52; i++) {
        zeros += (p[i] == '0');
    }

    return zeros == 16 ? NGX_DECLINED : NGX_OK;
}


static ngx_int_t
ngx_http_aiq_hex(u_char *p, size_t n)
{
    while (n--) {
        if (ngx_strlchr(ngx_http_aiq_hex_digits, ngx_http_aiq_hex_digits + 16,
                        *p++)
            == NULL)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


/* The kernel's, many at a time: a system call for every request would show. */

static void
ngx_http_aiq_random(u_char *p, size_t n)
{
    static u_char  buf[256];    /* more than that could come short */
    static size_t  left;

    size_t  i;

    if (left < n) {
        left = sizeof(buf);

        if (getrandom(buf, sizeof(buf), GRND_NONBLOCK) != sizeof(buf)) {

            /* early after boot; ids must differ, nobody relies on more */

            for (i = 0; i < sizeof(buf); i++) {
                buf[i] = (u_char) (ngx_random() >> 8);
            }
        }
    }

    left -= n;
    ngx_memcpy(p, buf + left, n);
}
