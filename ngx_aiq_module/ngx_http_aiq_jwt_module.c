
#include "ngx_http_aiq_jwt.h"


static void *ngx_http_aiq_jwt_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_aiq_jwt_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_jwt_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static void ngx_http_aiq_jwt_profile(ngx_http_aiq_jwt_loc_conf_t *conf);
static void ngx_http_aiq_jwt_profile_add(u_char *profile,
    ngx_array_t *values);
static char *ngx_http_aiq_jwt_check_key_cache(ngx_conf_t *cf, void *post,
    void *data);
static ngx_int_t ngx_http_aiq_jwt_init(ngx_conf_t *cf);
static void ngx_http_aiq_jwt_digest_cleanup(void *data);
static ngx_int_t ngx_http_aiq_jwt_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_aiq_jwt_init_process(ngx_cycle_t *cycle);


static ngx_conf_post_t  ngx_http_aiq_jwt_key_cache_post =
    { ngx_http_aiq_jwt_check_key_cache };


static ngx_command_t  ngx_http_aiq_jwt_commands[] = {

    { ngx_string("aiq_jwt"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_TAKE12,
      ngx_http_aiq_jwt,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_jwt_key_file"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_aiq_jwt_key_file,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_jwt_key_request"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_aiq_jwt_key_request,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_jwt_key_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_sec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_jwt_loc_conf_t, key_cache),
      &ngx_http_aiq_jwt_key_cache_post },

    { ngx_string("aiq_jwt_leeway"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_sec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_jwt_loc_conf_t, leeway),
      NULL },

    { ngx_string("aiq_jwt_max_lifetime"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_sec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_jwt_loc_conf_t, max_lifetime),
      NULL },

    { ngx_string("aiq_jwt_audience"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_aiq_jwt_names,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_jwt_loc_conf_t, audience),
      NULL },

    { ngx_string("aiq_jwt_issuer"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_aiq_jwt_names,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_jwt_loc_conf_t, issuer),
      NULL },

    { ngx_string("aiq_jwt_claim_set"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_aiq_jwt_claim_set,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_jwt_require"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_1MORE,
      ngx_http_aiq_jwt_require,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_jwt_identity"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE123,
      ngx_http_aiq_jwt_identity,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_aiq_jwt_module_ctx = {
    ngx_http_aiq_jwt_add_variables,        /* preconfiguration */
    ngx_http_aiq_jwt_init,                 /* postconfiguration */

    ngx_http_aiq_jwt_create_main_conf,     /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_aiq_jwt_create_loc_conf,      /* create location configuration */
    ngx_http_aiq_jwt_merge_loc_conf        /* merge location configuration */
};


ngx_module_t  ngx_http_aiq_jwt_module = {
    NGX_MODULE_V1,
    &ngx_http_aiq_jwt_module_ctx,          /* module context */
    ngx_http_aiq_jwt_commands,             /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_aiq_jwt_init_module,          /* init module */
    ngx_http_aiq_jwt_init_process,         /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_http_aiq_jwt_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    jmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_jwt_main_conf_t));
    if (jmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     jmcf->zone = NULL;
     *     jmcf->sha256 = NULL;
     *     jmcf->watch = NULL;
     *     jmcf->enabled = 0;
     *     jmcf->remote = 0;
     */

    if (ngx_array_init(&jmcf->sets, cf->pool, 4,
                       sizeof(ngx_http_aiq_jwt_set_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return jmcf;
}


static void *
ngx_http_aiq_jwt_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_jwt_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_jwt_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->set = NULL;
     *     conf->remote = NULL;
     *     conf->tenant = { 0, NULL };
     *     conf->user = { 0, NULL };
     *     conf->role = { 0, NULL };
     *     conf->profile = { 0 };
     *     conf->file = NULL;
     *     conf->line = 0;
     */

    conf->realm = NGX_CONF_UNSET_PTR;
    conf->token = NGX_CONF_UNSET_PTR;
    conf->message = NGX_CONF_UNSET;
    conf->key_cache = NGX_CONF_UNSET;
    conf->leeway = NGX_CONF_UNSET;
    conf->max_lifetime = NGX_CONF_UNSET;
    conf->audience = NGX_CONF_UNSET_PTR;
    conf->issuer = NGX_CONF_UNSET_PTR;
    conf->require = NGX_CONF_UNSET_PTR;

    return conf;
}


static char *
ngx_http_aiq_jwt_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_aiq_jwt_loc_conf_t *prev = parent;
    ngx_http_aiq_jwt_loc_conf_t *conf = child;

    /* a location that says where its keys are has no others */

    if (conf->set == NULL && conf->remote == NULL) {
        conf->set = prev->set;
        conf->remote = prev->remote;
    }

    if (conf->file == NULL) {
        conf->file = prev->file;
        conf->line = prev->line;
    }

    ngx_conf_merge_ptr_value(conf->realm, prev->realm, NULL);
    ngx_conf_merge_ptr_value(conf->token, prev->token, NULL);
    ngx_conf_merge_value(conf->message, prev->message, 0);
    ngx_conf_merge_sec_value(conf->key_cache, prev->key_cache, 300);
    ngx_conf_merge_sec_value(conf->leeway, prev->leeway, 10);
    ngx_conf_merge_sec_value(conf->max_lifetime, prev->max_lifetime, 3600);
    ngx_conf_merge_ptr_value(conf->audience, prev->audience, NULL);
    ngx_conf_merge_ptr_value(conf->issuer, prev->issuer, NULL);
    ngx_conf_merge_ptr_value(conf->require, prev->require, NULL);
    ngx_conf_merge_str_value(conf->tenant, prev->tenant, "");
    ngx_conf_merge_str_value(conf->user, prev->user, "");
    ngx_conf_merge_str_value(conf->role, prev->role, "");

    if (conf->realm && conf->set == NULL && conf->remote == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"aiq_jwt_key_file\" or \"aiq_jwt_key_request\" "
                      "is defined for \"aiq_jwt\" in %s:%ui",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    ngx_http_aiq_jwt_profile(conf);

    return NGX_CONF_OK;
}


static void
ngx_http_aiq_jwt_profile(ngx_http_aiq_jwt_loc_conf_t *conf)
{
    ngx_http_aiq_jwt_profile_add(conf->profile, conf->audience);
    ngx_http_aiq_jwt_profile_add(conf->profile, conf->issuer);
    ngx_http_aiq_jwt_chain(conf->profile, &conf->tenant);
    ngx_http_aiq_jwt_chain(conf->profile, &conf->user);
    ngx_http_aiq_jwt_chain(conf->profile, &conf->role);
}


static void
ngx_http_aiq_jwt_profile_add(u_char *profile, ngx_array_t *values)
{
    ngx_str_t   *value, end;
    ngx_uint_t   i;

    if (values) {
        value = values->elts;

        for (i = 0; i < values->nelts; i++) {
            ngx_http_aiq_jwt_chain(profile, &value[i]);
        }
    }

    ngx_str_null(&end);
    ngx_http_aiq_jwt_chain(profile, &end);
}


static char *
ngx_http_aiq_jwt_check_key_cache(ngx_conf_t *cf, void *post, void *data)
{
    time_t *seconds = data;

    if (*seconds < 1) {
        return "must be at least 1s";
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_init(ngx_conf_t *cf)
{
    ngx_pool_cleanup_t            *cln;
    ngx_http_handler_pt           *h;
    ngx_http_core_main_conf_t     *cmcf;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);

    if (!jmcf->enabled) {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    /* SHA256() looks it up each time, which costs as much as a token's hash */

    jmcf->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (jmcf->sha256 == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "EVP_MD_fetch() failed");
        return NGX_ERROR;
    }

    cln->handler = ngx_http_aiq_jwt_digest_cleanup;
    cln->data = jmcf->sha256;

    jmcf->zone = ngx_http_aiq_auth_cache_zone(cf);
    if (jmcf->zone == NULL
        || ngx_http_aiq_jwt_watch_init(cf, jmcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_ACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_aiq_jwt_access_handler;

    if (jmcf->remote) {
        ngx_http_aiq_jwt_remote_filter_init();
    }

    return NGX_OK;
}


static void
ngx_http_aiq_jwt_digest_cleanup(void *data)
{
    EVP_MD_free(data);
}


static ngx_int_t
ngx_http_aiq_jwt_init_module(ngx_cycle_t *cycle)
{
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    jmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_aiq_jwt_module);

    if (jmcf && jmcf->watch) {
        ngx_http_aiq_jwt_watch_files(jmcf, cycle->log);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_init_process(ngx_cycle_t *cycle)
{
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    jmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_aiq_jwt_module);

    if (jmcf && jmcf->watch) {
        ngx_http_aiq_jwt_watch_init_process(jmcf, cycle->log);
    }

    return NGX_OK;
}
