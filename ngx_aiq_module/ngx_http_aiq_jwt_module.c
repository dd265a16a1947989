
#include "ngx_http_aiq_jwt.h"

#include <openssl/sha.h>


static ngx_int_t ngx_http_aiq_jwt_claim_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_jwt_path_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_aiq_jwt_set_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_str_t *names, ngx_uint_t n);

static ngx_int_t ngx_http_aiq_jwt_add_variables(ngx_conf_t *cf);
static void *ngx_http_aiq_jwt_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_aiq_jwt_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_jwt_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static void ngx_http_aiq_jwt_profile(ngx_http_aiq_jwt_loc_conf_t *conf);
static void ngx_http_aiq_jwt_profile_add(u_char *profile,
    ngx_array_t *values);
static void ngx_http_aiq_jwt_chain(u_char *digest, ngx_str_t *text);
static char *ngx_http_aiq_jwt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static ngx_http_complex_value_t *ngx_http_aiq_jwt_value(ngx_conf_t *cf,
    ngx_str_t *value);
static char *ngx_http_aiq_jwt_key_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_http_aiq_jwt_set_t *ngx_http_aiq_jwt_create_set(ngx_conf_t *cf);
static void ngx_http_aiq_jwt_set_cleanup(void *data);
static ngx_int_t ngx_http_aiq_jwt_read_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *text);
static char *ngx_http_aiq_jwt_key_request(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_jwt_names(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_jwt_claim_set(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_jwt_require(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_jwt_identity(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
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


static ngx_int_t
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


/* the hash of everything that was added */

static void
ngx_http_aiq_jwt_chain(u_char *digest, ngx_str_t *text)
{
    u_char  both[2 * NGX_HTTP_AIQ_AUTH_DIGEST];

    ngx_memcpy(both, digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    SHA256(text->data, text->len, both + NGX_HTTP_AIQ_AUTH_DIGEST);
    SHA256(both, sizeof(both), digest);
}


static char *
ngx_http_aiq_jwt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                     *value, token;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    if (jlcf->realm != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    jlcf->token = NULL;
    jlcf->message = 0;

    if (ngx_strcmp(value[1].data, "off") == 0 && cf->args->nelts == 2) {
        jlcf->realm = NULL;
        return NGX_CONF_OK;
    }

    if (cf->args->nelts == 3
        && ngx_strcmp(value[2].data, "token=message") == 0)
    {
        jlcf->message = 1;

    } else if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "token=$", 7) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\"", &value[2]);
            return NGX_CONF_ERROR;
        }

        token.data = value[2].data + 6;
        token.len = value[2].len - 6;

        jlcf->token = ngx_http_aiq_jwt_value(cf, &token);
        if (jlcf->token == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    jlcf->realm = ngx_http_aiq_jwt_value(cf, &value[1]);
    if (jlcf->realm == NULL) {
        return NGX_CONF_ERROR;
    }

    jlcf->file = cf->conf_file->file.name.data;
    jlcf->line = cf->conf_file->line;

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);
    jmcf->enabled = 1;

    return NGX_CONF_OK;
}


static ngx_http_complex_value_t *
ngx_http_aiq_jwt_value(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_http_complex_value_t          *cv;
    ngx_http_compile_complex_value_t   ccv;

    cv = ngx_pcalloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (cv == NULL) {
        return NULL;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv) == NGX_OK ? cv : NULL;
}


static char *
ngx_http_aiq_jwt_key_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    int          rc;
    ngx_str_t   *value, text;
    const char  *error;

    value = cf->args->elts;

    if (ngx_conf_full_name(cf->cycle, &value[1], 1) != NGX_OK
        || ngx_http_aiq_jwt_read_file(cf, &value[1], &text) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (jlcf->set == NULL) {
        jlcf->set = ngx_http_aiq_jwt_create_set(cf);
        if (jlcf->set == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    rc = ngx_http_aiq_jwt_keys_add(jlcf->set->keys, (char *) text.data,
                                   text.len, 1, &error);

    ngx_http_aiq_jwt_chain(jlcf->set->digest, &text);
    ngx_explicit_memzero(text.data, text.len);

    if (rc != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "the key file \"%V\" %s",
                           &value[1], error);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_http_aiq_jwt_set_t *
ngx_http_aiq_jwt_create_set(ngx_conf_t *cf)
{
    ngx_pool_cleanup_t             *cln;
    ngx_http_aiq_jwt_set_t         *set, **sets;
    ngx_http_aiq_jwt_main_conf_t   *jmcf;

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_http_aiq_jwt_set_t));
    if (cln == NULL) {
        return NULL;
    }

    set = cln->data;
    ngx_memzero(set, sizeof(ngx_http_aiq_jwt_set_t));

    set->keys = ngx_http_aiq_jwt_keys_create();
    if (set->keys == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_aiq_jwt_set_cleanup;

    sets = ngx_array_push(&jmcf->sets);
    if (sets == NULL) {
        return NULL;
    }

    *sets = set;

    return set;
}


static void
ngx_http_aiq_jwt_set_cleanup(void *data)
{
    ngx_http_aiq_jwt_set_t *set = data;

    ngx_http_aiq_jwt_keys_free(set->keys);
}


static ngx_int_t
ngx_http_aiq_jwt_read_file(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *text)
{
    off_t            size;
    ssize_t          n;
    ngx_file_t       file;
    ngx_file_info_t  fi;

    ngx_memzero(&file, sizeof(ngx_file_t));

    file.name = *name;
    file.log = cf->log;
    file.fd = ngx_open_file(name->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (file.fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", name);
        return NGX_ERROR;
    }

    n = -1;

    if (ngx_fd_info(file.fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_fd_info_n " \"%V\" failed", name);
        goto done;
    }

    size = ngx_file_size(&fi);

    if (size > NGX_HTTP_AIQ_JWT_KEYSET_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the key file \"%V\" is too large", name);
        goto done;
    }

    text->data = ngx_pnalloc(cf->temp_pool, size + 1);
    if (text->data == NULL) {
        goto done;
    }

    n = ngx_read_file(&file, text->data, size, 0);

    if (n == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_read_file_n " \"%V\" failed", name);
        goto done;
    }

    text->len = n;

done:

    if (ngx_close_file(file.fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, cf->log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", name);
    }

    return n < 0 ? NGX_ERROR : NGX_OK;
}


static char *
ngx_http_aiq_jwt_key_request(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                     *value;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    if (jlcf->remote) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0 || value[1].data[0] != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URI \"%V\", it must begin with \"/\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    jlcf->remote = ngx_http_aiq_jwt_remote_create(cf, &value[1]);
    if (jlcf->remote == NULL) {
        return NGX_CONF_ERROR;
    }

    jmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_jwt_module);
    jmcf->remote = 1;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_jwt_names(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    ngx_str_t     *value, *name;
    ngx_uint_t     i;
    ngx_array_t  **names;

    names = (ngx_array_t **) (p + cmd->offset);

    if (*names != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    *names = ngx_array_create(cf->pool, cf->args->nelts, sizeof(ngx_str_t));
    if (*names == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "empty name");
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(*names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}


static char *
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


static char *
ngx_http_aiq_jwt_require(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t                   *value;
    ngx_uint_t                   i, n, error;
    ngx_http_complex_value_t    *cv, *compiled;
    ngx_http_aiq_jwt_require_t  *require;

    value = cf->args->elts;
    n = cf->args->nelts;
    error = NGX_HTTP_FORBIDDEN;

    if (ngx_strncmp(value[n - 1].data, "error=", 6) == 0) {
        n--;

        if (ngx_strcmp(value[n].data, "error=401") == 0) {
            error = NGX_HTTP_UNAUTHORIZED;

        } else if (ngx_strcmp(value[n].data, "error=403") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", it must be "
                               "\"error=401\" or \"error=403\"", &value[n]);
            return NGX_CONF_ERROR;
        }
    }

    if (jlcf->require == NGX_CONF_UNSET_PTR) {
        jlcf->require = ngx_array_create(cf->pool, 2,
                                         sizeof(ngx_http_aiq_jwt_require_t));
        if (jlcf->require == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    require = ngx_array_push(jlcf->require);
    if (require == NULL) {
        return NGX_CONF_ERROR;
    }

    require->error = error;
    require->values = ngx_array_create(cf->pool, n,
                                       sizeof(ngx_http_complex_value_t));
    if (require->values == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n; i++) {

        /* what is no variable is always true */

        if (value[i].len < 2 || value[i].data[0] != '$') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid variable name \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        cv = ngx_array_push(require->values);
        compiled = ngx_http_aiq_jwt_value(cf, &value[i]);

        if (cv == NULL || compiled == NULL) {
            return NGX_CONF_ERROR;
        }

        *cv = *compiled;
    }

    if (require->values->nelts == 0) {
        return "has nothing to require";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_jwt_identity(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_jwt_loc_conf_t *jlcf = conf;

    ngx_str_t   *value, *claim;
    ngx_uint_t   i, skip;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "tenant=", 7) == 0) {
            claim = &jlcf->tenant;
            skip = 7;

        } else if (ngx_strncmp(value[i].data, "user=", 5) == 0) {
            claim = &jlcf->user;
            skip = 5;

        } else if (ngx_strncmp(value[i].data, "role=", 5) == 0) {
            claim = &jlcf->role;
            skip = 5;

        } else {
            claim = NULL;
            skip = 0;
        }

        if (claim == NULL || value[i].len == skip) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (claim->data) {
            return "is duplicate";
        }

        claim->data = value[i].data + skip;
        claim->len = value[i].len - skip;
    }

    return NGX_CONF_OK;
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
