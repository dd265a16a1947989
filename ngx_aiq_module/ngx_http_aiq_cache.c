
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_CACHE_TTL  3600000

/* 10000 corresponds to a cosine of 1; the engine's POLICY_COSINE */
#define NGX_HTTP_AIQ_CACHE_NEAR  5000


static char *ngx_http_aiq_cache_semantic(ngx_conf_t *cf,
    ngx_http_aiq_loc_conf_t *alcf);


char *
ngx_http_aiq_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    ngx_str_t  *value;

    if (alcf->cache_ttl != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0 && cf->args->nelts == 2) {
        alcf->cache_ttl = 0;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value[1].data, "semantic", 8) == 0) {
        return ngx_http_aiq_cache_semantic(cf, alcf);
    }

    if (ngx_strcmp(value[1].data, "exact") != 0) {
        goto invalid;
    }

    if (cf->args->nelts == 2) {
        alcf->cache_ttl = NGX_HTTP_AIQ_CACHE_TTL;
        return NGX_CONF_OK;
    }

    if (cf->args->nelts == 3 && ngx_strncmp(value[2].data, "ttl=", 4) == 0) {
        return ngx_http_aiq_set_time(cf, &value[2], 4, &alcf->cache_ttl);
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameters of \"aiq_cache\", they must be "
                       "\"exact\", \"exact ttl=time\", "
                       "\"semantic[=threshold] embed=lexical ...\", or \"off\"");

    return NGX_CONF_ERROR;
}


static char *
ngx_http_aiq_cache_semantic(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *alcf)
{
    char                     *rv;
    ngx_int_t                 n;
    ngx_str_t                *value;
    ngx_uint_t                i, embed;
    ngx_http_aiq_semantic_t  *semantic;

    semantic = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_semantic_t));
    if (semantic == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    semantic->threshold = NGX_HTTP_AIQ_CACHE_NEAR;
    embed = 0;

    if (value[1].len > 8) {
        n = value[1].data[8] == '=' ? ngx_atofp(value[1].data + 9,
                                                value[1].len - 9, 4)
                                    : NGX_ERROR;

        if (n == NGX_ERROR || n == 0 || n > 10000) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid threshold in \"%V\", it must be "
                               "above 0, and 1 at most", &value[1]);
            return NGX_CONF_ERROR;
        }

        semantic->threshold = n;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "embed=lexical") == 0) {
            embed = 1;
            continue;
        }

        if (ngx_strncmp(value[i].data, "ttl=", 4) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 4, &alcf->cache_ttl);
            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        if (ngx_strcmp(value[i].data, "tools") == 0) {
            semantic->tools = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "temperature") == 0) {
            semantic->temperature = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "dry_run") == 0) {
            semantic->dry_run = 1;
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    if (!embed) {
        return "must name what questions are compared by: \"embed=lexical\"";
    }

    if (alcf->cache_ttl == NGX_CONF_UNSET_MSEC) {
        alcf->cache_ttl = NGX_HTTP_AIQ_CACHE_TTL;
    }

    alcf->semantic = semantic;

    return NGX_CONF_OK;
}


u_char *
ngx_http_aiq_cache_document(u_char *p, ngx_http_aiq_semantic_t *semantic)
{
    if (semantic == NULL) {
        return p;
    }

    p = ngx_sprintf(p, ",\"semantic\":{\"threshold\":%ui",
                    semantic->threshold);

    if (semantic->tools) {
        p = ngx_sprintf(p, ",\"tools\":true");
    }

    if (semantic->temperature) {
        p = ngx_sprintf(p, ",\"temperature\":true");
    }

    if (semantic->dry_run) {
        p = ngx_sprintf(p, ",\"dry_run\":true");
    }

    *p++ = '}';

    return p;
}
