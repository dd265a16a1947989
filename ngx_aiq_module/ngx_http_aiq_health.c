
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_HEALTH_TIMEOUT  1000


static ngx_int_t ngx_http_aiq_health_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_health_fail(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);


char *
ngx_http_aiq_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    char  *rv;

    static ngx_str_t  service = ngx_string("health");

    rv = ngx_http_aiq_add_pass(cf, alcf, &service,
                               ngx_http_aiq_health_handler);

    if (rv == NGX_CONF_OK) {
        alcf->pass->timeout = NGX_HTTP_AIQ_HEALTH_TIMEOUT;
        alcf->pass->fail = ngx_http_aiq_health_fail;
    }

    return rv;
}


static ngx_int_t
ngx_http_aiq_health_handler(ngx_http_request_t *r)
{
    ngx_int_t            rc;
    ngx_str_t            body;
    ngx_http_aiq_ctx_t  *ctx;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    if (r->uri.len < 5
        || ngx_strncmp(r->uri.data + r->uri.len - 5, "/live", 5) != 0)
    {
        return ngx_http_aiq_ask(r);
    }

    /* that we can say so is all there is to say */

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&body, "{\"status\":\"ok\"}\n");

    return ngx_http_aiq_send(r, ctx, NGX_HTTP_OK, "application/json", &body);
}


/* The engine's document, as it would be if the engine knew. */

static ngx_int_t
ngx_http_aiq_health_fail(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    u_char     *p;
    ngx_str_t   body;

    static char  format[] =
        "{\"status\":\"unhealthy\",\"components\":["
        "{\"name\":\"engine\",\"critical\":true,\"status\":\"unhealthy\","
        "\"reason\":\"%s\"}]}\n";

    p = ngx_pnalloc(r->pool, sizeof(format) + sizeof("not connected"));
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body.data = p;
    body.len = ngx_sprintf(p, format, ngx_http_aiq_link_up()
                                      ? "no answer" : "not connected")
               - p;

    return ngx_http_aiq_send(r, ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                             "application/json", &body);
}
