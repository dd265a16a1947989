
#include "ngx_http_aiq_limit.h"


/* "aiq_limit_zone" and "aiq_limit", read as nginx reads its configuration */


static char *ngx_http_aiq_limit_zone_shm(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *name, ssize_t *size);
static char *ngx_http_aiq_limit_zone_rate(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_aiq_limit_zone_t *zone);
static ngx_int_t ngx_http_aiq_limit_zone_key(ngx_conf_t *cf,
    ngx_http_aiq_limit_zone_t *zone, ngx_str_t *value);
static ngx_uint_t ngx_http_aiq_limit_early(ngx_str_t *name);
static char *ngx_http_aiq_limit_add_limit(ngx_conf_t *cf,
    ngx_http_aiq_limit_loc_conf_t *llcf, ngx_http_aiq_limit_t *limit);


/*
 * Variables that are what they are from the request's beginning, whoever asks;
 * those that end with "_" stand for all that begin so.  Any other variable may
 * depend on an identity: as one of this module's, or through "map" or "set".
 */

static ngx_str_t  ngx_http_aiq_limit_early_vars[] = {
    ngx_string("binary_remote_addr"),
    ngx_string("remote_addr"),
    ngx_string("realip_remote_addr"),
    ngx_string("proxy_protocol_addr"),
    ngx_string("server_addr"),
    ngx_string("server_name"),
    ngx_string("server_port"),
    ngx_string("host"),
    ngx_string("scheme"),
    ngx_string("request_method"),
    ngx_string("request_uri"),
    ngx_string("uri"),
    ngx_string("args"),
    ngx_string("arg_"),
    ngx_string("http_"),
    ngx_string("cookie_"),
    ngx_string("ssl_"),
    ngx_null_string
};


char *
ngx_http_aiq_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_limit_main_conf_t *lmcf = conf;

    char                        *rv;
    ssize_t                      size;
    ngx_int_t                    n;
    ngx_str_t                   *value, name;
    ngx_uint_t                   i;
    ngx_shm_zone_t              *shm_zone;
    ngx_http_aiq_limit_zone_t   *zone, **p;

    value = cf->args->elts;

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_limit_zone_t));
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    size = 0;
    ngx_str_null(&name);
    ngx_http_aiq_limit_rule(&zone->rule, 0, 0);

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "zone=", 5) == 0) {

            rv = ngx_http_aiq_limit_zone_shm(cf, &value[i], &name, &size);
            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "rate=", 5) == 0) {

            rv = ngx_http_aiq_limit_zone_rate(cf, &value[i], zone);
            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "conn=", 5) == 0) {

            n = ngx_atoi(value[i].data + 5, value[i].len - 5);

            if (n <= 0 || n > NGX_HTTP_AIQ_LIMIT_RATE_MAX) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid number of requests \"%V\"",
                                   &value[i]);
                return NGX_CONF_ERROR;
            }

            zone->conn = n;

            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    if (name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have \"zone\" parameter",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    if (zone->tokens && zone->conn) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"conn\" needs a zone without a rate of tokens");
        return NGX_CONF_ERROR;
    }

    if (zone->rule.limit == 0 && zone->conn == 0 && zone->tokens == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have \"rate\" or \"conn\" parameter",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_aiq_limit_zone_key(cf, zone, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, size,
                                     &ngx_http_aiq_limit_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "zone \"%V\" is duplicate",
                           &name);
        return NGX_CONF_ERROR;
    }

    p = ngx_array_push(&lmcf->zones);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    *p = zone;

    zone->name = name;
    shm_zone->init = ngx_http_aiq_limit_init_zone;
    shm_zone->data = zone;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_limit_zone_shm(ngx_conf_t *cf, ngx_str_t *value, ngx_str_t *name,
    ssize_t *size)
{
    u_char     *p;
    ngx_str_t   s;

    name->data = value->data + 5;
    name->len = 0;

    p = (u_char *) ngx_strchr(name->data, ':');

    if (p) {
        name->len = p - name->data;

        s.data = p + 1;
        s.len = value->data + value->len - s.data;

        *size = ngx_parse_size(&s);
    }

    /* the name is a label in metrics, too */

    if (name->len == 0 || *size == NGX_ERROR
        || ngx_http_aiq_check_word(name, "_-") != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone \"%V\", it must be "
                           "\"zone=name:size\"", value);
        return NGX_CONF_ERROR;
    }

    if (*size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is too small", value);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_limit_zone_rate(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_aiq_limit_zone_t *zone)
{
    u_char      *p;
    ngx_int_t    n;
    ngx_uint_t   length;

    p = value->data + value->len - 3;
    length = 0;
    n = NGX_ERROR;

    if (value->len > 8) {

        if (p[1] == '/' && (p[0] == 'r' || p[0] == 't')) {

            switch (p[2]) {

            case 's':
                length = 1000;
                break;

            case 'm':
                length = 60 * 1000;
                break;

            case 'h':
                length = 60 * 60 * 1000;
                break;

            case 'd':
                length = 24 * 60 * 60 * 1000;
                break;
            }
        }

        n = ngx_atoi(value->data + 5, value->len - 8);
    }

    if (length == 0 || n <= 0 || n > NGX_HTTP_AIQ_LIMIT_RATE_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid rate \"%V\", it must be a number of "
                           "requests and \"r/s\", \"r/m\", \"r/h\" or "
                           "\"r/d\", or of tokens and \"t/s\" and so on",
                           value);
        return NGX_CONF_ERROR;
    }

    if (p[0] == 't') {
        zone->tokens = n;
        zone->window = length;
        zone->late = 1;

    } else {
        ngx_http_aiq_limit_rule(&zone->rule, (uint32_t) n, (uint32_t) length);
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_aiq_limit_zone_key(ngx_conf_t *cf, ngx_http_aiq_limit_zone_t *zone,
    ngx_str_t *value)
{
    ngx_int_t                         *index;
    ngx_uint_t                        *flush;
    ngx_http_variable_t               *var;
    ngx_http_core_main_conf_t         *cmcf;
    ngx_http_compile_complex_value_t   ccv;

    if (ngx_array_init(&zone->identity, cf->pool, 1, sizeof(ngx_int_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = &zone->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    var = cmcf->variables.elts;

    flush = zone->key.flushes;

    if (flush == NULL) {
        /* the same for all */
        return NGX_OK;
    }

    for ( /* void */ ; *flush != (ngx_uint_t) -1; flush++) {

        if (!ngx_http_aiq_limit_early(&var[*flush].name)) {
            zone->late = 1;
        }

        if (var[*flush].name.len < 4
            || ngx_strncmp(var[*flush].name.data, "aiq_", 4) != 0)
        {
            continue;
        }

        index = ngx_array_push(&zone->identity);
        if (index == NULL) {
            return NGX_ERROR;
        }

        *index = *flush;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_aiq_limit_early(ngx_str_t *name)
{
    ngx_str_t  *var;

    for (var = ngx_http_aiq_limit_early_vars; var->len; var++) {

        if (name->len < var->len
            || ngx_strncmp(name->data, var->data, var->len) != 0)
        {
            continue;
        }

        if (name->len == var->len || var->data[var->len - 1] == '_') {
            return 1;
        }
    }

    return 0;
}


char *
ngx_http_aiq_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_limit_loc_conf_t *llcf = conf;

    ngx_int_t              burst, delay, nodes;
    ngx_str_t             *value, name;
    ngx_uint_t             i;
    ngx_http_aiq_limit_t  *limit;

    value = cf->args->elts;

    limit = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_limit_t));
    if (limit == NULL) {
        return NGX_CONF_ERROR;
    }

    limit->file = cf->conf_file->file.name.data;
    limit->line = cf->conf_file->line;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "zone=", 5) == 0 && value[i].len > 5) {

            name.data = value[i].data + 5;
            name.len = value[i].len - 5;

            limit->shm_zone = ngx_shared_memory_add(cf, &name, 0,
                                                  &ngx_http_aiq_limit_module);
            if (limit->shm_zone == NULL) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "burst=", 6) == 0) {

            burst = ngx_atoi(value[i].data + 6, value[i].len - 6);

            if (burst <= 0 || burst > NGX_HTTP_AIQ_LIMIT_BURST_MAX) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid burst value \"%V\", it must be "
                                   "between 1 and %i",
                                   &value[i], NGX_HTTP_AIQ_LIMIT_BURST_MAX);
                return NGX_CONF_ERROR;
            }

            limit->burst = burst;

            continue;
        }

        if (ngx_strncmp(value[i].data, "delay=", 6) == 0) {

            delay = ngx_atoi(value[i].data + 6, value[i].len - 6);

            if (delay < 0) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid delay value \"%V\"", &value[i]);
                return NGX_CONF_ERROR;
            }

            limit->delay = delay;
            limit->paced = 1;

            continue;
        }

        if (ngx_strcmp(value[i].data, "nodelay") == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "there is no \"nodelay\": without \"burst\" "
                               "requests are let through at once, or refused");
            return NGX_CONF_ERROR;
        }

        if (ngx_strncmp(value[i].data, "nodes=", 6) == 0) {

            nodes = ngx_atoi(value[i].data + 6, value[i].len - 6);

            if (nodes <= 0) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid number of nodes \"%V\"",
                                   &value[i]);
                return NGX_CONF_ERROR;
            }

            limit->nodes = nodes;

            continue;
        }

        if (ngx_strcmp(value[i].data, "dry_run") == 0) {
            limit->dry_run = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "shared") == 0) {
            limit->shared = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "fail_closed") == 0) {
            limit->fail_closed = 1;
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    if (limit->shm_zone == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" must have \"zone\" parameter", &cmd->name);
        return NGX_CONF_ERROR;
    }

    if (limit->paced && (limit->burst == 0 || limit->shared)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"delay\" needs \"burst\", and is not for what "
                           "is \"shared\"");
        return NGX_CONF_ERROR;
    }

    /* what happens without Redis is nobody's guess */

    if (limit->shared != (limit->nodes || limit->fail_closed)
        || (limit->nodes && limit->fail_closed))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"shared\" must have either \"nodes=number\" or "
                           "\"fail_closed\", and these are for nothing else");
        return NGX_CONF_ERROR;
    }

    return ngx_http_aiq_limit_add_limit(cf, llcf, limit);
}


/* sorted by name, which is the order of locks */

static char *
ngx_http_aiq_limit_add_limit(ngx_conf_t *cf,
    ngx_http_aiq_limit_loc_conf_t *llcf, ngx_http_aiq_limit_t *limit)
{
    ngx_int_t                         rc;
    ngx_str_t                        *a, *b;
    ngx_uint_t                        i;
    ngx_http_aiq_limit_t            **p;
    ngx_http_aiq_limit_main_conf_t   *lmcf;

    if (llcf->limits == NULL) {
        llcf->limits = ngx_array_create(cf->pool, 4,
                                        sizeof(ngx_http_aiq_limit_t *));
        if (llcf->limits == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (llcf->limits->nelts == NGX_HTTP_AIQ_LIMITS_MAX) {
        return "is one too many";
    }

    p = ngx_array_push(llcf->limits);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    p = llcf->limits->elts;
    a = &limit->shm_zone->shm.name;

    for (i = llcf->limits->nelts - 1; i > 0; i--) {
        b = &p[i - 1]->shm_zone->shm.name;

        rc = ngx_memn2cmp(a->data, b->data, a->len, b->len);

        if (rc == 0) {
            return "is duplicate";
        }

        if (rc > 0) {
            break;
        }

        p[i] = p[i - 1];
    }

    p[i] = limit;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_limit_module);

    p = ngx_array_push(&lmcf->limits);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    *p = limit;

    return NGX_CONF_OK;
}
