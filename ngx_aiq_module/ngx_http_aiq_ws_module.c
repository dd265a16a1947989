
#include "ngx_http_aiq_ws.h"
#include "ngx_http_aiq_jwt.h"


static char *ngx_http_aiq_ws_enable(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_ws_origin(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_ws_protocol(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_ws_list(ngx_conf_t *cf, ngx_array_t **list);
static void *ngx_http_aiq_ws_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_ws_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_aiq_ws_check(ngx_conf_t *cf, void *post, void *data);

static void ngx_http_aiq_ws_exit_process(ngx_cycle_t *cycle);

static ngx_int_t ngx_http_aiq_ws_add_variable(ngx_conf_t *cf);
static ngx_int_t ngx_http_aiq_ws_close_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_conf_post_t  ngx_http_aiq_ws_check_post = { ngx_http_aiq_ws_check };


static ngx_command_t  ngx_http_aiq_ws_commands[] = {

    { ngx_string("aiq_websocket"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_aiq_ws_enable,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_websocket_origin"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_aiq_ws_origin,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_websocket_protocol"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_aiq_ws_protocol,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_websocket_max_message"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, max_message),
      NULL },

    { ngx_string("aiq_websocket_max_fragments"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, max_fragments),
      &ngx_http_aiq_ws_check_post },

    { ngx_string("aiq_websocket_control_rate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, control_rate),
      NULL },

    { ngx_string("aiq_websocket_token_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, token_timeout),
      NULL },

    { ngx_string("aiq_websocket_ping"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, ping),
      NULL },

    { ngx_string("aiq_websocket_idle_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, idle_timeout),
      NULL },

    { ngx_string("aiq_websocket_close_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, close_timeout),
      NULL },

    { ngx_string("aiq_websocket_deflate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_ws_loc_conf_t, deflate),
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_aiq_ws_module_ctx = {
    ngx_http_aiq_ws_add_variable,          /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_aiq_ws_create_loc_conf,       /* create location configuration */
    ngx_http_aiq_ws_merge_loc_conf         /* merge location configuration */
};


ngx_module_t  ngx_http_aiq_ws_module = {
    NGX_MODULE_V1,
    &ngx_http_aiq_ws_module_ctx,           /* module context */
    ngx_http_aiq_ws_commands,              /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_aiq_ws_exit_process,          /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_http_aiq_ws_var = {
    ngx_string("aiq_websocket_close"), NULL, ngx_http_aiq_ws_close_variable,
    0, NGX_HTTP_VAR_NOCACHEABLE, 0
};


static ngx_int_t
ngx_http_aiq_ws_add_variable(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var;

    var = ngx_http_add_variable(cf, &ngx_http_aiq_ws_var.name,
                                ngx_http_aiq_ws_var.flags);
    if (var == NULL) {
        return NGX_ERROR;
    }

    var->get_handler = ngx_http_aiq_ws_var.get_handler;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_ws_close_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL || ctx->ws == NULL || !ctx->ws->closed) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%ui", ctx->ws->code) - p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = p;

    return NGX_OK;
}


static char *
ngx_http_aiq_ws_enable(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_ws_loc_conf_t *wlcf = conf;

    if (wlcf->enable != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    wlcf->enable = 1;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_ws_origin(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_ws_loc_conf_t *wlcf = conf;

    char        *rv;
    u_char      *p;
    ngx_str_t   *origin;
    ngx_uint_t   i;

    rv = ngx_http_aiq_ws_list(cf, &wlcf->origins);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    origin = wlcf->origins->elts;

    for (i = 0; i < wlcf->origins->nelts; i++) {

        if (ngx_strcmp(origin[i].data, "any") == 0
            || ngx_strcmp(origin[i].data, "same") == 0)
        {
            continue;
        }

        /* as browsers write it: no path, not even "/" */

        p = (u_char *) ngx_strstr(origin[i].data, "://");

        if (p == NULL || p == origin[i].data || p[3] == '\0'
            || ngx_strchr(p + 3, '/'))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid origin \"%V\", it must be "
                               "\"scheme://host\", \"scheme://host:port\", "
                               "\"same\" or \"any\"", &origin[i]);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_ws_protocol(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_ws_loc_conf_t *wlcf = conf;

    char        *rv;
    ngx_str_t   *name;
    ngx_uint_t   i;

    rv = ngx_http_aiq_ws_list(cf, &wlcf->protocols);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    name = wlcf->protocols->elts;

    for (i = 0; i < wlcf->protocols->nelts; i++) {

        /* a token of HTTP */

        if (ngx_http_aiq_check_word(&name[i], "!#$%&'*+-.^_`|~") != NGX_OK) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid protocol \"%V\"", &name[i]);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_ws_list(ngx_conf_t *cf, ngx_array_t **list)
{
    ngx_str_t   *value, *s;
    ngx_uint_t   i;

    if (*list != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    *list = ngx_array_create(cf->pool, cf->args->nelts - 1, sizeof(ngx_str_t));
    if (*list == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        s = ngx_array_push(*list);
        *s = value[i];
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_ws_check(ngx_conf_t *cf, void *post, void *data)
{
    ngx_int_t  *n = data;

    if ((uint64_t) *n > UINT32_MAX) {
        return "is too large";
    }

    return NGX_CONF_OK;
}


static void *
ngx_http_aiq_ws_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_ws_loc_conf_t  *wlcf;

    wlcf = ngx_palloc(cf->pool, sizeof(ngx_http_aiq_ws_loc_conf_t));
    if (wlcf == NULL) {
        return NULL;
    }

    wlcf->enable = NGX_CONF_UNSET;
    wlcf->origins = NGX_CONF_UNSET_PTR;
    wlcf->protocols = NGX_CONF_UNSET_PTR;
    wlcf->max_message = NGX_CONF_UNSET_SIZE;
    wlcf->max_fragments = NGX_CONF_UNSET;
    wlcf->control_rate = NGX_CONF_UNSET;
    wlcf->token_timeout = NGX_CONF_UNSET_MSEC;
    wlcf->ping = NGX_CONF_UNSET_MSEC;
    wlcf->idle_timeout = NGX_CONF_UNSET_MSEC;
    wlcf->close_timeout = NGX_CONF_UNSET_MSEC;
    wlcf->deflate = NGX_CONF_UNSET;

    return wlcf;
}


static char *
ngx_http_aiq_ws_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_aiq_ws_loc_conf_t *prev = parent;
    ngx_http_aiq_ws_loc_conf_t *conf = child;

    ngx_http_aiq_loc_conf_t      *alcf;
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    alcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->enable == 1 && clcf->handler != ngx_http_aiq_handler) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"aiq_websocket\" in a location without \"aiq_pass\": "
                      "\"%V\"", &clcf->name);
        return NGX_CONF_ERROR;
    }

    ngx_conf_merge_value(conf->enable, prev->enable, 0);

    jlcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_jwt_module);

    if (jlcf->realm && jlcf->message && !conf->enable && clcf->name.len) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"token=message\" of \"aiq_jwt\" in %s:%ui needs "
                      "\"aiq_websocket\" in the location \"%V\"",
                      jlcf->file, jlcf->line, &clcf->name);
        return NGX_CONF_ERROR;
    }

    if (conf->enable && alcf->pass) {
        alcf->pass->websocket = 1;
    }

    ngx_conf_merge_ptr_value(conf->origins, prev->origins, NULL);
    ngx_conf_merge_ptr_value(conf->protocols, prev->protocols, NULL);
    ngx_conf_merge_size_value(conf->max_message, prev->max_message,
                              1024 * 1024);
    ngx_conf_merge_value(conf->max_fragments, prev->max_fragments, 1024);
    ngx_conf_merge_value(conf->control_rate, prev->control_rate, 100);
    ngx_conf_merge_msec_value(conf->token_timeout, prev->token_timeout, 10000);
    ngx_conf_merge_msec_value(conf->ping, prev->ping, 30000);
    ngx_conf_merge_msec_value(conf->idle_timeout, prev->idle_timeout, 0);
    ngx_conf_merge_msec_value(conf->close_timeout, prev->close_timeout, 5000);
    ngx_conf_merge_value(conf->deflate, prev->deflate, 0);

    return NGX_CONF_OK;
}


static void
ngx_http_aiq_ws_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_aiq_ws_deflate_exit();
}
