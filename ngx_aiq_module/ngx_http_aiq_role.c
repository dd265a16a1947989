
#include "ngx_http_aiq.h"
#include "ngx_http_aiq_jwt.h"


/*
 * "aiq_require_role", in front of any content handler.  In PRECONTENT it is
 * known who asks, and neither "satisfy any" nor a redirect leads past it.
 */


typedef struct {
    ngx_uint_t                   roles;      /* bits; 0: no role is needed */
    u_char                      *file;
    ngx_uint_t                   line;
} ngx_http_aiq_role_loc_conf_t;


static ngx_int_t ngx_http_aiq_role_handler(ngx_http_request_t *r);
static char *ngx_http_aiq_require_role(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static void *ngx_http_aiq_role_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_role_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_aiq_role_init(ngx_conf_t *cf);


static ngx_command_t  ngx_http_aiq_role_commands[] = {

    { ngx_string("aiq_require_role"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_1MORE,
      ngx_http_aiq_require_role,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_aiq_role_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_aiq_role_init,                /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_aiq_role_create_loc_conf,     /* create location configuration */
    ngx_http_aiq_role_merge_loc_conf       /* merge location configuration */
};


ngx_module_t  ngx_http_aiq_role_module = {
    NGX_MODULE_V1,
    &ngx_http_aiq_role_module_ctx,         /* module context */
    ngx_http_aiq_role_commands,            /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_http_aiq_roles[] = {
    ngx_string("admin"),
    ngx_string("developer"),
    ngx_string("user"),
    ngx_string("viewer"),
    ngx_null_string
};


ngx_uint_t
ngx_http_aiq_role_bit(ngx_str_t *name)
{
    ngx_uint_t  i;
    ngx_str_t  *role;

    role = ngx_http_aiq_roles;

    for (i = 0; role[i].len; i++) {
        if (role[i].len == name->len
            && ngx_strncmp(role[i].data, name->data, name->len) == 0)
        {
            return 1 << i;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_aiq_role_handler(ngx_http_request_t *r)
{
    ngx_int_t                      rc;
    ngx_http_aiq_ctx_t            *ctx;
    ngx_http_aiq_role_loc_conf_t  *rlcf;

    static ngx_str_t  code = ngx_string("permission_denied");
    static ngx_str_t  message = ngx_string("The role does not permit this.");

    rlcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_role_module);

    if (rlcf->roles == 0 || r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx && (ngx_http_aiq_role_bit(&ctx->identity.role) & rlcf->roles)) {
        return NGX_DECLINED;
    }

    rc = ngx_http_aiq_deny(r, NGX_HTTP_FORBIDDEN, &code, &message);

    if (rc != NGX_HTTP_FORBIDDEN) {
        return rc;
    }

    return ngx_http_aiq_fail_anywhere(r, ngx_http_aiq_get_ctx(r));
}


static char *
ngx_http_aiq_require_role(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_role_loc_conf_t *rlcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i, bit;

    if (rlcf->roles != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    rlcf->roles = 0;

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        return NGX_CONF_OK;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        bit = ngx_http_aiq_role_bit(&value[i]);

        if (bit == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown role \"%V\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        if (rlcf->roles & bit) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate role \"%V\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        rlcf->roles |= bit;
    }

    /* to whom nothing is forbidden */

    rlcf->roles |= ngx_http_aiq_role_bit(&ngx_http_aiq_roles[0]);

    rlcf->file = cf->conf_file->file.name.data;
    rlcf->line = cf->conf_file->line;

    return NGX_CONF_OK;
}


static void *
ngx_http_aiq_role_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_role_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_role_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->roles = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_aiq_role_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_aiq_role_loc_conf_t *prev = parent;
    ngx_http_aiq_role_loc_conf_t *conf = child;

    ngx_http_aiq_loc_conf_t      *alcf;
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    if (conf->roles == NGX_CONF_UNSET_UINT) {
        conf->file = prev->file;
        conf->line = prev->line;
    }

    ngx_conf_merge_uint_value(conf->roles, prev->roles, 0);

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->roles == 0 || (clcf->name.len == 0 && !clcf->noname)) {
        return NGX_CONF_OK;
    }

    /* merged before: config has this module behind theirs */

    alcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_module);
    jlcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_jwt_module);

    if (alcf->key_realm.len == 0 && jlcf->realm == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "location \"%V\" has neither \"aiq_jwt\" nor "
                      "\"aiq_key\" for \"aiq_require_role\" in %s:%ui",
                      &clcf->name, conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_aiq_role_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    /* before "aiq_limit": who may not is not counted as one who did */

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_aiq_role_handler;

    return NGX_OK;
}
