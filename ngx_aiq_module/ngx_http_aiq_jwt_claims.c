
#include "ngx_http_aiq_jwt.h"


static ngx_int_t ngx_http_aiq_jwt_claim_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_jwt_path_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_jwt_set_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_str_t *names, ngx_uint_t n);
static ngx_int_t ngx_http_aiq_jwt_claim_text(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_str_t *names, ngx_uint_t n, ngx_str_t *text);
static ngx_int_t ngx_http_aiq_jwt_value_text(ngx_pool_t *pool, json_t *value,
    ngx_str_t *text);
static ngx_int_t ngx_http_aiq_jwt_list_text(ngx_pool_t *pool, json_t *list,
    ngx_str_t *text);


static ngx_http_variable_t  ngx_http_aiq_jwt_vars[] = {

    { ngx_string("aiq_jwt_claim_"), NULL, ngx_http_aiq_jwt_claim_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE|NGX_HTTP_VAR_PREFIX, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_aiq_jwt_claim_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t *name = (ngx_str_t *) data;

    ngx_str_t  claim;

    claim.len = name->len - (sizeof("aiq_jwt_claim_") - 1);
    claim.data = ngx_pnalloc(r->pool, claim.len + 1);
    if (claim.data == NULL) {
        return NGX_ERROR;
    }

    ngx_cpystrn(claim.data, name->data + sizeof("aiq_jwt_claim_") - 1,
                claim.len + 1);

    return ngx_http_aiq_jwt_set_variable(r, v, &claim, 1);
}


static ngx_int_t
ngx_http_aiq_jwt_path_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_array_t *names = (ngx_array_t *) data;

    return ngx_http_aiq_jwt_set_variable(r, v, names->elts, names->nelts);
}


static ngx_int_t
ngx_http_aiq_jwt_set_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_str_t *names, ngx_uint_t n)
{
    ngx_int_t            rc;
    ngx_str_t            text;
    ngx_http_aiq_ctx_t  *actx;

    actx = ngx_http_aiq_get_ctx(r);

    rc = NGX_DECLINED;

    if (actx && actx->jwt && actx->jwt->payload.len) {
        rc = ngx_http_aiq_jwt_claim_text(actx->jwt, names, n, &text);
    }

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (rc == NGX_DECLINED) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = text.data;
    v->len = text.len;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_jwt_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_aiq_jwt_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


char *
ngx_http_aiq_jwt_claim_set(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t            *value, *name;
    ngx_uint_t            i;
    ngx_array_t          *names;
    ngx_http_variable_t  *var;

    value = cf->args->elts;

    if (value[1].len < 2 || value[1].data[0] != '$') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid variable name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    value[1].len--;
    value[1].data++;

    var = ngx_http_add_variable(cf, &value[1], NGX_HTTP_VAR_NOCACHEABLE);
    if (var == NULL) {
        return NGX_CONF_ERROR;
    }

    names = ngx_array_create(cf->pool, cf->args->nelts - 2, sizeof(ngx_str_t));
    if (names == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        name = ngx_array_push(names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    var->get_handler = ngx_http_aiq_jwt_path_variable;
    var->data = (uintptr_t) names;

    return NGX_CONF_OK;
}


/* at a path of names; NGX_DECLINED: there is none */

static ngx_int_t
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
