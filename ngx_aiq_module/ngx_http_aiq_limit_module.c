
#include "ngx_http_aiq_limit.h"


static ngx_int_t ngx_http_aiq_limit_status_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

static ngx_int_t ngx_http_aiq_limit_add_variables(ngx_conf_t *cf);
static void *ngx_http_aiq_limit_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_limit_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_http_aiq_limit_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_aiq_limit_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_aiq_limit_find_entry(ngx_conf_t *cf,
    ngx_http_aiq_limit_loc_conf_t *prev, ngx_http_aiq_limit_loc_conf_t *conf,
    ngx_http_aiq_loc_conf_t *alcf);
static ngx_int_t ngx_http_aiq_limit_check_tokens(ngx_conf_t *cf,
    ngx_array_t *limits);
static ngx_int_t ngx_http_aiq_limit_key_zone(ngx_conf_t *cf,
    ngx_http_aiq_limit_main_conf_t *lmcf);
static ngx_int_t ngx_http_aiq_limit_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_aiq_limit_worker_init(ngx_cycle_t *cycle);


static ngx_conf_enum_t  ngx_http_aiq_limit_log_levels[] = {
    { ngx_string("info"), NGX_LOG_INFO },
    { ngx_string("notice"), NGX_LOG_NOTICE },
    { ngx_string("warn"), NGX_LOG_WARN },
    { ngx_string("error"), NGX_LOG_ERR },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_aiq_limit_commands[] = {

    { ngx_string("aiq_limit_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE3|NGX_CONF_TAKE4,
      ngx_http_aiq_limit_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_limit"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF
                        |NGX_CONF_1MORE,
      ngx_http_aiq_limit,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("aiq_limit_log_level"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_aiq_limit_loc_conf_t, log_level),
      &ngx_http_aiq_limit_log_levels },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_aiq_limit_module_ctx = {
    ngx_http_aiq_limit_add_variables,      /* preconfiguration */
    ngx_http_aiq_limit_init,               /* postconfiguration */

    ngx_http_aiq_limit_create_main_conf,   /* create main configuration */
    ngx_http_aiq_limit_init_main_conf,     /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_aiq_limit_create_loc_conf,    /* create location configuration */
    ngx_http_aiq_limit_merge_loc_conf      /* merge location configuration */
};


ngx_module_t  ngx_http_aiq_limit_module = {
    NGX_MODULE_V1,
    &ngx_http_aiq_limit_module_ctx,        /* module context */
    ngx_http_aiq_limit_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_aiq_limit_worker_init,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_http_aiq_limit_vars[] = {

    { ngx_string("aiq_limit_status"), NULL, ngx_http_aiq_limit_status_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


/* in the order of ngx_http_aiq_limit_status_e */

ngx_str_t  ngx_http_aiq_limit_statuses[] = {
    ngx_string("PASSED"),
    ngx_string("DELAYED_DRY_RUN"),
    ngx_string("DELAYED"),
    ngx_string("REJECTED_DRY_RUN"),
    ngx_string("REJECTED")
};


static ngx_int_t
ngx_http_aiq_limit_status_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t           *status;
    ngx_http_aiq_ctx_t  *ctx;

    ctx = ngx_http_aiq_get_ctx(r);

    if (ctx == NULL || ctx->limit == NULL || !ctx->limit->counted) {
        v->not_found = 1;
        return NGX_OK;
    }

    status = &ngx_http_aiq_limit_statuses[ctx->limit->status];

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = status->data;
    v->len = status->len;

    return NGX_OK;
}


size_t
ngx_http_aiq_limit_document_len(ngx_array_t *limits)
{
    /* of a limit or a rate, whichever it is */

    static char  record[] = ",{\"zone\":\"\",\"requests\":,\"window_ms\":,"
                            "\"grain_ms\":,\"burst\":,\"dry_run\":false}";

    size_t                   len;
    ngx_uint_t               i;
    ngx_http_aiq_limit_t   **limit;

    if (limits == NULL) {
        return 0;
    }

    len = sizeof(",\"limits\":[],\"rates\":[]");
    limit = limits->elts;

    for (i = 0; i < limits->nelts; i++) {
        len += sizeof(record) + limit[i]->shm_zone->shm.name.len
               + 4 * NGX_INT64_LEN;
    }

    return len;
}


u_char *
ngx_http_aiq_limit_document(u_char *p, ngx_array_t *limits)
{
    ngx_uint_t                   i, n;
    ngx_http_aiq_limit_t       **limit;
    ngx_http_aiq_limit_zone_t   *zone;

    if (limits == NULL) {
        return p;
    }

    p = ngx_sprintf(p, ",\"limits\":[");

    limit = limits->elts;
    n = 0;

    for (i = 0; i < limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (zone->tokens == 0) {
            continue;
        }

        p = ngx_sprintf(p, "%s{\"zone\":\"%V\",\"tokens\":%ui,"
                        "\"window_ms\":%M,\"keys\":%uz",
                        n++ ? "," : "", &zone->name, zone->tokens,
                        zone->window,
                        limit[i]->shm_zone->shm.size
                        / NGX_HTTP_AIQ_LIMIT_TOKEN_KEY);

        if (limit[i]->shared) {
            p = ngx_sprintf(p, ",\"nodes\":%ui", limit[i]->nodes);
        }

        *p++ = '}';
    }

    p = ngx_sprintf(p, "],\"rates\":[");

    n = 0;

    for (i = 0; i < limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (!limit[i]->shared || zone->tokens) {
            continue;
        }

        p = ngx_sprintf(p, "%s{\"zone\":\"%V\",\"requests\":%uD,"
                        "\"window_ms\":%uD,\"grain_ms\":%uD,"
                        "\"burst\":%ui,\"dry_run\":%s}",
                        n++ ? "," : "", &zone->name, zone->rule.limit,
                        zone->rule.length, zone->rule.grain, limit[i]->burst,
                        limit[i]->dry_run ? "true" : "false");
    }

    return ngx_sprintf(p, "]");
}


static ngx_int_t
ngx_http_aiq_limit_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_aiq_limit_vars; v->name.len; v++) {
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
ngx_http_aiq_limit_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_limit_main_conf_t  *lmcf;

    lmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_limit_main_conf_t));
    if (lmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     lmcf->workers = NULL;
     *     lmcf->hits = NULL;
     *     lmcf->key = { 0 };
     */

    if (ngx_array_init(&lmcf->zones, cf->pool, 4,
                       sizeof(ngx_http_aiq_limit_zone_t *))
        != NGX_OK
        || ngx_array_init(&lmcf->limits, cf->pool, 8,
                          sizeof(ngx_http_aiq_limit_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return lmcf;
}


/* when all zones were seen */

static char *
ngx_http_aiq_limit_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_aiq_limit_main_conf_t *lmcf = conf;

    uint64_t                     wait;
    ngx_uint_t                   i, rate;
    ngx_http_aiq_limit_t       **limit;
    ngx_http_aiq_limit_rule_t   *rule;
    ngx_http_aiq_limit_zone_t   *zone;

    limit = lmcf->limits.elts;

    for (i = 0; i < lmcf->limits.nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (zone == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "no \"aiq_limit_zone\" is defined for the zone "
                          "\"%V\" in %s:%ui", &limit[i]->shm_zone->shm.name,
                          limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        if (zone->tokens && (limit[i]->burst || limit[i]->dry_run)) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"burst\" and \"dry_run\" are not for a rate of "
                          "tokens in %s:%ui", limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        rule = &zone->rule;

        rate = zone->tokens ? zone->tokens : rule->limit;

        if (limit[i]->shared && (rate == 0 || zone->conn)) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"shared\" needs a zone with a rate and nothing "
                          "else in %s:%ui", limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        if (limit[i]->nodes > rate) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"nodes\" is more than the rate has %s for "
                          "in %s:%ui", zone->tokens ? "tokens" : "requests",
                          limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        if (limit[i]->burst == 0) {
            continue;
        }

        if (rule->limit == 0) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"burst\" needs a zone with \"rate\" in %s:%ui",
                          limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        if (limit[i]->paced && limit[i]->delay >= rule->limit) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"delay\" must be less than the rate's number in "
                          "%s:%ui", limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }

        wait = ((uint64_t) limit[i]->burst + rule->limit - 1) / rule->limit
               * rule->length;

        if (wait > NGX_HTTP_AIQ_LIMIT_WAIT_MAX) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "with so large a \"burst\" requests would wait "
                          "longer than a day in %s:%ui",
                          limit[i]->file, limit[i]->line);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static void *
ngx_http_aiq_limit_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_aiq_limit_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_limit_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->limits = NULL;
     */

    conf->log_level = NGX_CONF_UNSET_UINT;
    conf->entry = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_aiq_limit_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_aiq_limit_loc_conf_t *prev = parent;
    ngx_http_aiq_limit_loc_conf_t *conf = child;

    ngx_http_aiq_loc_conf_t  *alcf;

    if (conf->limits == NULL) {
        conf->limits = prev->limits;

    } else if (ngx_http_aiq_limit_check_tokens(cf, conf->limits) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    alcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_module);
    alcf->limits = conf->limits;

    if (ngx_http_aiq_limit_find_entry(cf, prev, conf, alcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_conf_merge_uint_value(conf->log_level, prev->log_level, NGX_LOG_WARN);

    return NGX_CONF_OK;
}


/* by which the engine knows what is shared here */

static ngx_int_t
ngx_http_aiq_limit_find_entry(ngx_conf_t *cf,
    ngx_http_aiq_limit_loc_conf_t *prev, ngx_http_aiq_limit_loc_conf_t *conf,
    ngx_http_aiq_loc_conf_t *alcf)
{
    ngx_uint_t                   i, n;
    ngx_http_aiq_pass_t         *entry;
    ngx_http_aiq_limit_t       **limit, *shared;
    ngx_http_aiq_limit_zone_t   *zone;

    if (conf->limits == NULL) {
        return NGX_OK;
    }

    limit = conf->limits->elts;
    shared = NULL;
    n = 0;

    for (i = 0; i < conf->limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (limit[i]->shared && zone && zone->tokens == 0) {
            shared = limit[i];
            n++;
        }
    }

    if (n == 0) {
        return NGX_OK;
    }

    if (n > AIQ_RATES_MAX) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "more than %d shared limits on this level in %s:%ui",
                      AIQ_RATES_MAX, shared->file, shared->line);
        return NGX_ERROR;
    }

    if (conf->limits == prev->limits && alcf->pass == NULL
        && prev->entry != NGX_CONF_UNSET_UINT)
    {
        conf->entry = prev->entry;
        return NGX_OK;
    }

    entry = ngx_http_aiq_need_entry(cf, alcf, shared->file, shared->line);
    if (entry == NULL) {
        return NGX_ERROR;
    }

    conf->entry = entry->index;

    return NGX_OK;
}


/* only the gateway knows of tokens, and events, which asks it */

static ngx_int_t
ngx_http_aiq_limit_check_tokens(ngx_conf_t *cf, ngx_array_t *limits)
{
    ngx_uint_t                   i, n;
    ngx_http_aiq_limit_t       **limit;
    ngx_http_aiq_loc_conf_t     *alcf;
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_aiq_limit_zone_t   *zone;

    alcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_aiq_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    limit = limits->elts;
    n = 0;

    for (i = 0; i < limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (zone == NULL || zone->tokens == 0) {
            continue;
        }

        if ((clcf->handler || ngx_http_aiq_serves_files(clcf))
            && (alcf->pass == NULL
                || (ngx_strcmp(alcf->pass->service.data, "gateway") != 0
                    && ngx_strcmp(alcf->pass->service.data, "events") != 0))
            && !ngx_http_aiq_charge_has_tokens(alcf))
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "a rate of tokens has nothing to count in a "
                          "location without \"aiq_pass gateway\" or "
                          "\"aiq_charge\" of tokens in %s:%ui",
                          limit[i]->file, limit[i]->line);
            return NGX_ERROR;
        }

        if (++n > AIQ_LIMITS_MAX) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "more than %d rates of tokens on this level "
                          "in %s:%ui", AIQ_LIMITS_MAX,
                          limit[i]->file, limit[i]->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* keys come and go, so they have no "aiq_limit_zone" of the configuration */

static ngx_int_t
ngx_http_aiq_limit_key_zone(ngx_conf_t *cf,
    ngx_http_aiq_limit_main_conf_t *lmcf)
{
    ngx_shm_zone_t              *shm_zone;
    ngx_http_aiq_main_conf_t    *amcf;
    ngx_http_aiq_limit_zone_t   *zone, **p;

    static ngx_str_t  name = ngx_string("aiq_key");

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);

    if (amcf->key_file == NULL) {
        return NGX_OK;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, NGX_HTTP_AIQ_LIMIT_KEY_ZONE,
                                     &ngx_http_aiq_limit_module);
    if (shm_zone == NULL) {
        return NGX_ERROR;
    }

    if (shm_zone->data) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "the zone \"%V\" is that of \"aiq_key\" in %s:%ui",
                      &name, amcf->key_file, amcf->key_line);
        return NGX_ERROR;
    }

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_limit_zone_t));
    p = ngx_array_push(&lmcf->zones);

    if (zone == NULL || p == NULL) {
        return NGX_ERROR;
    }

    *p = zone;

    zone->name = name;
    zone->late = 1;
    ngx_str_set(&zone->key.value, "$aiq_key_id");

    /* each key has its own; by this one they are forgotten, none too early */

    ngx_http_aiq_limit_rule(&zone->rule, AIQ_KEY_RATE_MAX, 60 * 1000);

    shm_zone->init = ngx_http_aiq_limit_init_zone;
    shm_zone->data = zone;

    lmcf->key.shm_zone = shm_zone;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_limit_init(ngx_conf_t *cf)
{
    ngx_array_t                     *handlers;
    ngx_http_handler_pt             *h;
    ngx_http_core_main_conf_t       *cmcf;
    ngx_http_aiq_limit_main_conf_t  *lmcf;

    static ngx_str_t  workers = ngx_string("aiq_limit_workers");
    static ngx_str_t  hits = ngx_string("aiq_limit_hits");

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_limit_module);

    if (ngx_http_aiq_limit_key_zone(cf, lmcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (lmcf->zones.nelts == 0) {
        return NGX_OK;
    }

    lmcf->workers = ngx_shared_memory_add(cf, &workers,
                                          NGX_MAX_PROCESSES * 16
                                          + 8 * ngx_pagesize,
                                          &ngx_http_aiq_limit_module);

    lmcf->hits = ngx_shared_memory_add(cf, &hits,
                                       sizeof(ngx_http_aiq_limit_hits_t)
                                       + 8 * ngx_pagesize,
                                       &ngx_http_aiq_limit_module);

    if (lmcf->workers == NULL || lmcf->hits == NULL) {
        return NGX_ERROR;
    }

    lmcf->workers->init = ngx_http_aiq_limit_init_workers;
    lmcf->hits->init = ngx_http_aiq_limit_init_hits;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    handlers = &cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers;

    if (ngx_array_push(handlers) == NULL) {
        return NGX_ERROR;
    }

    /* the first one runs last: when realip has found the client's address */

    h = handlers->elts;
    ngx_memmove(h + 1, h,
                (handlers->nelts - 1) * sizeof(ngx_http_handler_pt));

    *h = ngx_http_aiq_limit_preaccess_handler;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_aiq_limit_precontent_handler;

    ngx_http_aiq_limit_filter_init();

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_limit_worker_init(ngx_cycle_t *cycle)
{
    ngx_http_aiq_limit_main_conf_t  *lmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    lmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_aiq_limit_module);

    if (lmcf && lmcf->workers) {
        ngx_http_aiq_limit_init_process(lmcf->workers);
    }

    return NGX_OK;
}
