
#include "ngx_http_aiq_limit.h"


/*
 * What is left of the tightest limit, in the words of OpenAI's API; the
 * official SDKs wait by "retry-after-ms".  An upstream's own headers of these
 * names would tell of other limits than the client's.
 */


static ngx_int_t ngx_http_aiq_limit_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_limit_set_number(ngx_http_request_t *r,
    ngx_str_t *name, uint64_t n);
static ngx_int_t ngx_http_aiq_limit_set_duration(ngx_http_request_t *r,
    ngx_str_t *name, uint64_t ms);
static ngx_int_t ngx_http_aiq_limit_set(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);


static ngx_str_t  ngx_http_aiq_limit_limit_name =
    ngx_string("x-ratelimit-limit-requests");
static ngx_str_t  ngx_http_aiq_limit_remaining_name =
    ngx_string("x-ratelimit-remaining-requests");
static ngx_str_t  ngx_http_aiq_limit_reset_name =
    ngx_string("x-ratelimit-reset-requests");
static ngx_str_t  ngx_http_aiq_limit_retry_ms_name =
    ngx_string("retry-after-ms");
static ngx_str_t  ngx_http_aiq_limit_retry_name =
    ngx_string("Retry-After");


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_int_t
ngx_http_aiq_limit_header_filter(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t         *ctx;
    ngx_http_aiq_limit_info_t  *info;

    ctx = (r == r->main) ? ngx_http_aiq_get_ctx(r) : NULL;

    if (ctx == NULL || ctx->limit == NULL) {
        return ngx_http_next_header_filter(r);
    }

    info = &ctx->limit->info;

    if (info->limit
        && (ngx_http_aiq_limit_set_number(r, &ngx_http_aiq_limit_limit_name,
                                          info->limit)
            != NGX_OK
            || ngx_http_aiq_limit_set_number(r,
                                            &ngx_http_aiq_limit_remaining_name,
                                            info->remaining)
               != NGX_OK
            || ngx_http_aiq_limit_set_duration(r,
                                               &ngx_http_aiq_limit_reset_name,
                                               info->reset)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (info->retry
        && (ngx_http_aiq_limit_set_number(r, &ngx_http_aiq_limit_retry_name,
                                          (info->retry + 999) / 1000)
            != NGX_OK
            || ngx_http_aiq_limit_set_number(r,
                                             &ngx_http_aiq_limit_retry_ms_name,
                                             info->retry)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_aiq_limit_set_number(ngx_http_request_t *r, ngx_str_t *name,
    uint64_t n)
{
    ngx_str_t  value;

    value.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%uL", n) - value.data;

    return ngx_http_aiq_limit_set(r, name, &value);
}


/* 20ms, 1s, 6m0s, 1h0m0s; rounded up */

static ngx_int_t
ngx_http_aiq_limit_set_duration(ngx_http_request_t *r, ngx_str_t *name,
    uint64_t ms)
{
    u_char     *p;
    uint64_t    s;
    ngx_str_t   value;

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN + sizeof("h00m00s"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    s = (ms + 999) / 1000;

    if (ms < 1000) {
        p = ngx_sprintf(p, "%uLms", ms);

    } else {
        if (s >= 3600) {
            p = ngx_sprintf(p, "%uLh", s / 3600);
        }

        if (s >= 60) {
            p = ngx_sprintf(p, "%uLm", s / 60 % 60);
        }

        p = ngx_sprintf(p, "%uLs", s % 60);
    }

    value.len = p - value.data;

    return ngx_http_aiq_limit_set(r, name, &value);
}


static ngx_int_t
ngx_http_aiq_limit_set(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_out.headers.part;
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

        if (h[i].key.len == name->len
            && ngx_strncasecmp(h[i].key.data, name->data, name->len) == 0)
        {
            h[i].hash = 0;
        }
    }

    return ngx_http_aiq_add_header(r, name, value);
}


void
ngx_http_aiq_limit_filter_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_aiq_limit_header_filter;
}
