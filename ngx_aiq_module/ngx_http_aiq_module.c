
#include "ngx_http_aiq_charge.h"
#include "ngx_http_aiq_auth_cache.h"


#define NGX_HTTP_AIQ_BATCH_MEMORY  (1024 * 1024)


static char *ngx_http_aiq_files(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_engine(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_aiq_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static void *ngx_http_aiq_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_aiq_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_aiq_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_aiq_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_aiq_init_process(ngx_cycle_t *cycle);
static void ngx_http_aiq_exit_process(ngx_cycle_t *cycle);
static void ngx_http_aiq_exit_master(ngx_cycle_t *cycle);


static ngx_conf_post_t  ngx_http_aiq_time_post = { ngx_http_aiq_check_time };

static ngx_conf_post_t  ngx_http_aiq_buffer_post =
    { ngx_http_aiq_check_buffer };


static ngx_command_t  ngx_http_aiq_commands[] = {

    { ngx_string("aiq_engine"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_aiq_engine,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_provider"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_aiq_provider,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_model"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_aiq_model,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_pass"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_aiq_pass,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_health"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_aiq_health,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_metrics"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_aiq_metrics,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_abort_drain"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_loc_conf_t, abort_drain),
      &ngx_http_aiq_time_post },

    { ngx_string("aiq_auth_cache"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_aiq_auth_cache,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_budget"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_aiq_budget,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_charge"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_aiq_charge,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_aiq_cache,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_files"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_aiq_files,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_key"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_TAKE1,
      ngx_http_aiq_key,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_max_body_size"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_off_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_loc_conf_t, max_body_size),
      NULL },

    { ngx_string("aiq_read_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_loc_conf_t, read_timeout),
      NULL },

    { ngx_string("aiq_stream_buffer"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_loc_conf_t, stream_buffer),
      &ngx_http_aiq_buffer_post },

    { ngx_string("aiq_stream_grace"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_loc_conf_t, stream_grace),
      &ngx_http_aiq_time_post },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_aiq_module_ctx = {
    ngx_http_aiq_add_variables,            /* preconfiguration */
    ngx_http_aiq_init,                     /* postconfiguration */

    ngx_http_aiq_create_main_conf,         /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_aiq_create_loc_conf,          /* create location configuration */
    ngx_http_aiq_merge_loc_conf            /* merge location configuration */
};


ngx_module_t  ngx_http_aiq_module = {
    NGX_MODULE_V1,
    &ngx_http_aiq_module_ctx,              /* module context */
    ngx_http_aiq_commands,                 /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_aiq_init_module,              /* init module */
    ngx_http_aiq_init_process,             /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_aiq_exit_process,             /* exit process */
    ngx_http_aiq_exit_master,              /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_http_aiq_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_main_conf_t  *amcf;

    amcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_main_conf_t));
    if (amcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     amcf->engine = { 0, NULL };
     *     amcf->policy = { 0, NULL };
     *     amcf->sha256 = { 0 };
     *     amcf->zone = NULL;
     *     amcf->auth_zone = NULL;
     *     amcf->key_zone = NULL;
     *     amcf->key_file = NULL;
     *     amcf->charges = 0;
     */

    if (ngx_array_init(&amcf->providers, cf->pool, 4,
                       sizeof(ngx_http_aiq_provider_t))
        != NGX_OK
        || ngx_array_init(&amcf->models, cf->pool, 8,
                          sizeof(ngx_http_aiq_model_t))
           != NGX_OK
        || ngx_array_init(&amcf->conditions, cf->pool, 4,
                          sizeof(ngx_http_aiq_value_t))
           != NGX_OK
        || ngx_array_init(&amcf->hashes, cf->pool, 1,
                          sizeof(ngx_http_aiq_value_t))
           != NGX_OK
        || ngx_array_init(&amcf->passes, cf->pool, 8,
                          sizeof(ngx_http_aiq_pass_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return amcf;
}


static void *
ngx_http_aiq_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_loc_conf_t  *alcf;

    alcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_loc_conf_t));
    if (alcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     alcf->pass = NULL;
     *     alcf->budgets = NULL;
     *     alcf->charge = NULL;
     *     alcf->charge_pass = NULL;
     *     alcf->files = NULL;
     *     alcf->semantic = NULL;
     *     alcf->key_realm = { 0, NULL };
     */

    alcf->max_body_size = NGX_CONF_UNSET;
    alcf->cache_ttl = NGX_CONF_UNSET_MSEC;
    alcf->read_timeout = NGX_CONF_UNSET_MSEC;
    alcf->stream_buffer = NGX_CONF_UNSET_SIZE;
    alcf->stream_grace = NGX_CONF_UNSET_MSEC;
    alcf->abort_drain = NGX_CONF_UNSET_MSEC;

    return alcf;
}


static char *
ngx_http_aiq_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_aiq_loc_conf_t *prev = parent;
    ngx_http_aiq_loc_conf_t *conf = child;

    ngx_http_aiq_budget_t     *budget;
    ngx_http_aiq_charge_t     *charge;
    ngx_http_core_loc_conf_t  *clcf;

    ngx_conf_merge_off_value(conf->max_body_size, prev->max_body_size,
                             10 * 1024 * 1024);
    ngx_conf_merge_msec_value(conf->read_timeout, prev->read_timeout, 300000);

    if (conf->cache_ttl == NGX_CONF_UNSET_MSEC) {
        conf->semantic = prev->semantic;
    }

    ngx_conf_merge_msec_value(conf->cache_ttl, prev->cache_ttl, 0);
    ngx_conf_merge_size_value(conf->stream_buffer, prev->stream_buffer,
                              256 * 1024);
    ngx_conf_merge_msec_value(conf->stream_grace, prev->stream_grace, 10000);
    ngx_conf_merge_msec_value(conf->abort_drain, prev->abort_drain, 5000);
    ngx_conf_merge_str_value(conf->key_realm, prev->key_realm, "");

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    charge = conf->charge ? conf->charge : prev->charge;

    if (conf->budgets
        && (clcf->handler ? clcf->handler != ngx_http_aiq_handler
                          : ngx_http_aiq_serves_files(clcf))
        && (charge == NULL || charge->off || conf->pass))
    {
        budget = conf->budgets->elts;

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"aiq_budget\" has nothing to count in a location "
                      "without \"aiq_pass\" or \"aiq_charge\" in %s:%ui",
                      budget->file, budget->line);
        return NGX_CONF_ERROR;
    }

    if (conf->budgets == NULL) {
        conf->budgets = prev->budgets;
    }

    if (conf->files == NULL) {
        conf->files = prev->files;
    }

    /* "if" and "limit_except" stand inside a location and are part of it */

    if (clcf->noname && clcf->handler == NULL && conf->pass == NULL) {
        conf->pass = prev->pass;

        if (clcf->lmt_excpt && conf->pass) {
            clcf->handler = ngx_http_aiq_handler;
        }
    }

    return ngx_http_aiq_charge_merge(cf, prev, conf);
}


ngx_uint_t
ngx_http_aiq_serves_files(ngx_http_core_loc_conf_t *clcf)
{
    /* what is for locations in it, or in an "if", is not for this one */

    return clcf->handler == NULL && clcf->locations == NULL && clcf->name.len;
}


static char *
ngx_http_aiq_files(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    ngx_str_t  *value;

    if (alcf->files) {
        return "is duplicate";
    }

    alcf->files = ngx_palloc(cf->pool, sizeof(ngx_http_aiq_files_t));
    if (alcf->files == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    alcf->files->provider = value[1];
    alcf->files->file = cf->conf_file->file.name.data;
    alcf->files->line = cf->conf_file->line;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_engine(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_main_conf_t *amcf = conf;

    ngx_str_t           *value, path;
    struct sockaddr_un   sun;

    if (amcf->engine.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strncmp(value[1].data, "unix:", 5) != 0 || value[1].len == 5) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid engine \"%V\", it must be \"unix:path\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    path.data = value[1].data + 5;
    path.len = value[1].len - 5;

    if (ngx_conf_full_name(cf->cycle, &path, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (path.len >= sizeof(sun.sun_path)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the path \"%V\" is too long for a unix socket, "
                           "%uz bytes are possible",
                           &path, sizeof(sun.sun_path) - 1);
        return NGX_CONF_ERROR;
    }

    amcf->engine = path;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    char                      *rv;
    u_char                     ch;
    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_http_core_loc_conf_t  *clcf;

    value = cf->args->elts;

    for (i = 0; i < value[1].len; i++) {
        ch = value[1].data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
              || ch == '-' || ch == '_'))
        {
            break;
        }
    }

    if (value[1].len == 0 || i < value[1].len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid service name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    rv = ngx_http_aiq_add_pass(cf, alcf, &value[1], ngx_http_aiq_handler);

    if (rv != NGX_CONF_OK || cf->args->nelts == 2) {
        return rv;
    }

    if (value[2].len == 0 || value[2].data[0] != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid prefix \"%V\", it must begin with \"/\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->named
#if (NGX_PCRE)
        || clcf->regex
#endif
        )
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"aiq_pass\" cannot have a prefix in a location "
                           "given by regular expression or in a named "
                           "location");
        return NGX_CONF_ERROR;
    }

    alcf->pass->prefix = value[2];

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_add_pass(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *alcf,
    ngx_str_t *service, ngx_http_handler_pt handler)
{
    ngx_http_core_loc_conf_t  *clcf;

    if (alcf->pass) {
        return "is duplicate";
    }

    alcf->pass = ngx_http_aiq_add_entry(cf, alcf, service,
                                        cf->conf_file->file.name.data,
                                        cf->conf_file->line);
    if (alcf->pass == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    clcf->handler = handler;

    if (clcf->name.len && clcf->name.data[clcf->name.len - 1] == '/') {
        clcf->auto_redirect = 1;
    }

    return NGX_CONF_OK;
}


ngx_http_aiq_pass_t *
ngx_http_aiq_need_entry(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *alcf,
    u_char *file, ngx_uint_t line)
{
    /* the engine has no such service, so nobody can open a request there */

    static ngx_str_t  service = ngx_string("limits");

    if (alcf->pass) {
        return alcf->pass;
    }

    return ngx_http_aiq_add_entry(cf, alcf, &service, file, line);
}


ngx_http_aiq_pass_t *
ngx_http_aiq_add_entry(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *alcf,
    ngx_str_t *service, u_char *file, ngx_uint_t line)
{
    ngx_http_aiq_pass_t       *pass, **p;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_aiq_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    pass = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_pass_t));
    if (pass == NULL) {
        return NULL;
    }

    p = ngx_array_push(&amcf->passes);
    if (p == NULL) {
        return NULL;
    }

    *p = pass;

    pass->service = *service;
    pass->location = clcf->name;
    pass->index = amcf->passes.nelts - 1;
    pass->conf = alcf;
    pass->file = file;
    pass->line = line;

    return pass;
}


static ngx_int_t
ngx_http_aiq_init(ngx_conf_t *cf)
{
    ngx_http_aiq_pass_t       **pass;
    ngx_http_aiq_main_conf_t   *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);

    if (amcf->passes.nelts && amcf->engine.len == 0) {
        pass = amcf->passes.elts;

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"aiq_engine\" is defined for the service \"%V\" "
                      "in %s:%ui",
                      &pass[0]->service, pass[0]->file, pass[0]->line);
        return NGX_ERROR;
    }

    if (ngx_http_aiq_key_init(cf, amcf) != NGX_OK
        || ngx_http_aiq_charge_init(cf, amcf) != NGX_OK
        || ngx_http_aiq_policy_init(cf, amcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (amcf->engine.len == 0) {
        return NGX_OK;
    }

    if (ngx_http_aiq_metrics_init(cf, amcf) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_aiq_filter_init(cf);
}


static ngx_int_t
ngx_http_aiq_init_module(ngx_cycle_t *cycle)
{
    ngx_http_aiq_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_aiq_module);

    if (amcf && amcf->policy.len && !ngx_test_config) {
        ngx_http_aiq_policy_prune(cycle, amcf);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_init_process(ngx_cycle_t *cycle)
{
    void                      *p;
    ngx_http_aiq_main_conf_t  *amcf;

    /* cache managers and loaders run this too */

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    amcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_aiq_module);

    if (amcf == NULL || amcf->engine.len == 0) {
        return NGX_OK;
    }

    /*
     * the engine's answers come in batches, and what their requests held is
     * freed at once; glibc gives the end of the heap back as soon as 128k of
     * it are free, or twice as much as the largest mapped block was that has
     * been freed so far: this one, so that a batch finds the memory of the
     * one before it
     */

    p = ngx_alloc(NGX_HTTP_AIQ_BATCH_MEMORY / 2, cycle->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_free(p);

    ngx_http_aiq_metrics_init_process(amcf);
    ngx_http_aiq_check_init_process(amcf);
    ngx_http_aiq_question_init_process();

    return ngx_http_aiq_link_init(cycle, amcf);
}


static void
ngx_http_aiq_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_aiq_link_exit();
}


static void
ngx_http_aiq_exit_master(ngx_cycle_t *cycle)
{
    ngx_http_aiq_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_aiq_module);

    if (amcf && amcf->policy.len) {
        ngx_http_aiq_policy_remove(amcf);
    }
}
