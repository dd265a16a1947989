
#include "ngx_http_aiq.h"


static ngx_int_t ngx_http_aiq_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_trace_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_service_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_text_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_number_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_ttft_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_cost_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_http_variable_t  ngx_http_aiq_vars[] = {

    { ngx_string("aiq_request_id"), NULL, ngx_http_aiq_id_variable, 0, 0, 0 },

    { ngx_string("aiq_trace_id"), NULL, ngx_http_aiq_trace_id_variable,
      0, 0, 0 },

    { ngx_string("aiq_service"), NULL, ngx_http_aiq_service_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_status"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, status), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_tenant"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, identity.tenant), NGX_HTTP_VAR_NOCACHEABLE,
      0 },

    { ngx_string("aiq_user"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, identity.user), NGX_HTTP_VAR_NOCACHEABLE,
      0 },

    { ngx_string("aiq_role"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, identity.role), NGX_HTTP_VAR_NOCACHEABLE,
      0 },

    { ngx_string("aiq_key_id"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, identity.key_id), NGX_HTTP_VAR_NOCACHEABLE,
      0 },

    { ngx_string("aiq_model"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, model), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_provider"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, provider), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_tokens_in"), NULL, ngx_http_aiq_number_variable,
      offsetof(ngx_http_aiq_ctx_t, usage.tokens_in),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_tokens_out"), NULL, ngx_http_aiq_number_variable,
      offsetof(ngx_http_aiq_ctx_t, usage.tokens_out),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_cache"), NULL, ngx_http_aiq_text_variable,
      offsetof(ngx_http_aiq_ctx_t, cache), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_ttft"), NULL, ngx_http_aiq_ttft_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("aiq_cost"), NULL, ngx_http_aiq_cost_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_aiq_id_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = ctx->request_id.data;
    v->len = ctx->request_id.len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_trace_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = ctx->traceparent.data + 3;
    v->len = 32;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_service_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_aiq_ctx_t       *ctx;
    ngx_http_aiq_pass_t      *pass;
    ngx_http_aiq_loc_conf_t  *alcf;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx && ctx->pass) {
        pass = ctx->pass;

    } else {
        alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);
        pass = alcf->pass;
    }

    if (pass == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = pass->service.data;
    v->len = pass->service.len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_text_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    ngx_str_t           *s;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    s = (ngx_str_t *) ((u_char *) ctx + data);

    if (s->len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = s->data;
    v->len = s->len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_number_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    int64_t              n;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    n = *(int64_t *) ((u_char *) ctx + data);

    if (n < 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%L", n) - p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = p;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ttft_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char              *p;
    int64_t              us;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL || ctx->usage.first_token_us < 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN + 4);
    if (p == NULL) {
        return NGX_ERROR;
    }

    us = ctx->usage.first_token_us;

    v->len = ngx_sprintf(p, "%L.%03L", us / 1000000, us / 1000 % 1000) - p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = p;

    return NGX_OK;
}


/* in USD, to the nano-dollar */

static ngx_int_t
ngx_http_aiq_cost_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char              *p;
    int64_t              nano;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL || ctx->usage.cost_nano_usd < 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN + 10);
    if (p == NULL) {
        return NGX_ERROR;
    }

    nano = ctx->usage.cost_nano_usd;

    v->len = ngx_sprintf(p, "%L.%09L", nano / 1000000000, nano % 1000000000)
             - p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = p;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_aiq_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}
