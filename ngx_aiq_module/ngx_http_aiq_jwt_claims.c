
#include "ngx_http_aiq_jwt.h"


static ngx_int_t ngx_http_aiq_jwt_value_text(ngx_pool_t *pool, json_t *value,
    ngx_str_t *text);
static ngx_int_t ngx_http_aiq_jwt_list_text(ngx_pool_t *pool, json_t *list,
    ngx_str_t *text);


ngx_int_t
ngx_http_aiq_jwt_claim_text(ngx_http_aiq_jwt_ctx_t *ctx, ngx_str_t *names,
    ngx_uint_t n, ngx_str_t *text)
{
    json_t      *value;
    ngx_int_t    rc;
    ngx_uint_t   i;

    if (ctx->claims == NULL) {
        ctx->claims = ngx_http_aiq_jwt_json((char *) ctx->payload.data,
                                            ctx->payload.len);
    }

    value = ctx->claims;

    for (i = 0; i < n; i++) {
        value = json_object_get(value, (char *) names[i].data);
    }

    if (value == NULL || json_is_null(value)) {
        return NGX_DECLINED;
    }

    rc = json_is_array(value)
         ? ngx_http_aiq_jwt_list_text(ctx->request->pool, value, text)
         : ngx_http_aiq_jwt_value_text(ctx->request->pool, value, text);

    /* in a header to a proxied server they would begin another one */

    if (rc == NGX_OK && !aiq_text_clean(text->data, text->len)) {
        return NGX_DECLINED;
    }

    return rc;
}


static ngx_int_t
ngx_http_aiq_jwt_value_text(ngx_pool_t *pool, json_t *value, ngx_str_t *text)
{
    char  *dump;

    if (json_is_string(value)) {
        text->len = json_string_length(value);
        text->data = ngx_pnalloc(pool, text->len);
        if (text->data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(text->data, json_string_value(value), text->len);

        return NGX_OK;
    }

    dump = json_dumps(value, JSON_COMPACT|JSON_ENCODE_ANY);
    if (dump == NULL) {
        return NGX_ERROR;
    }

    text->len = ngx_strlen(dump);
    text->data = ngx_pnalloc(pool, text->len);

    if (text->data) {
        ngx_memcpy(text->data, dump, text->len);
    }

    free(dump);

    return text->data ? NGX_OK : NGX_ERROR;
}


/* with commas between the values, as nginx has lists of headers */

static ngx_int_t
ngx_http_aiq_jwt_list_text(ngx_pool_t *pool, json_t *list, ngx_str_t *text)
{
    u_char     *p;
    size_t      i, n, len;
    ngx_str_t  *values;

    n = json_array_size(list);
    len = n;

    values = ngx_palloc(pool, (n + 1) * sizeof(ngx_str_t));
    if (values == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {

        if (ngx_http_aiq_jwt_value_text(pool, json_array_get(list, i),
                                        &values[i])
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        len += values[i].len;
    }

    p = ngx_pnalloc(pool, len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;

    for (i = 0; i < n; i++) {

        if (i) {
            *p++ = ',';
        }

        p = ngx_cpymem(p, values[i].data, values[i].len);
    }

    text->len = p - text->data;

    return NGX_OK;
}
