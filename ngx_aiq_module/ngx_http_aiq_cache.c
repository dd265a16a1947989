
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_CACHE_TTL  3600000

/* 10000 corresponds to a cosine of 1; the engine's POLICY_COSINE */
#define NGX_HTTP_AIQ_CACHE_NEAR  5000


static char *ngx_http_aiq_cache_semantic(ngx_conf_t *cf,
    ngx_http_aiq_loc_conf_t *alcf);
static ngx_uint_t ngx_http_aiq_cache_embeds(ngx_http_aiq_main_conf_t *amcf,
    ngx_str_t *name);


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
                       "\"semantic[=threshold] embed=model ...\", or \"off\"");

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

    semantic->file = cf->conf_file->file.name.data;
    semantic->line = cf->conf_file->line;
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
            ngx_str_null(&semantic->embed);
            embed = 1;
            continue;
        }

        if (ngx_strncmp(value[i].data, "embed=", 6) == 0 && value[i].len > 6) {
            semantic->embed.data = value[i].data + 6;
            semantic->embed.len = value[i].len - 6;
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
        return "must name what questions are compared by: "
               "\"embed=lexical\", or a model";
    }

    if (semantic->threshold == 0) {

        if (semantic->embed.len) {
            return "must have a threshold with a model: \"semantic=0.95\"";
        }

        semantic->threshold = NGX_HTTP_AIQ_CACHE_NEAR;
    }

    if (alcf->cache_ttl == NGX_CONF_UNSET_MSEC) {
        alcf->cache_ttl = NGX_HTTP_AIQ_CACHE_TTL;
    }

    alcf->semantic = semantic;

    return NGX_CONF_OK;
}


/* "embed" may name a model that comes after it */

ngx_int_t
ngx_http_aiq_cache_check(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t                i;
    ngx_http_aiq_pass_t     **pass;
    ngx_http_aiq_semantic_t  *semantic;

    pass = amcf->passes.elts;

    for (i = 0; i < amcf->passes.nelts; i++) {

        semantic = pass[i]->conf->semantic;

        if (semantic == NULL || semantic->embed.len == 0
            || ngx_http_aiq_cache_embeds(amcf, &semantic->embed))
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%V\" is no model of a \"local\" provider in %s:%ui",
                      &semantic->embed, semantic->file, semantic->line);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* is its first target a model that the engine runs? */

static ngx_uint_t
ngx_http_aiq_cache_embeds(ngx_http_aiq_main_conf_t *amcf, ngx_str_t *name)
{
    ngx_str_t                *wanted;
    ngx_uint_t                i;
    ngx_http_aiq_model_t     *model;
    ngx_http_aiq_target_t    *target;
    ngx_http_aiq_provider_t  *provider;

    wanted = NULL;
    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        if (model[i].name.len == name->len
            && ngx_strncmp(model[i].name.data, name->data, name->len) == 0)
        {
            target = model[i].targets.elts;
            wanted = &target->provider;
            break;
        }
    }

    if (wanted == NULL) {
        return 0;
    }

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        if (provider[i].name.len == wanted->len
            && ngx_strncmp(provider[i].name.data, wanted->data, wanted->len)
               == 0)
        {
            return provider[i].models.nelts > 0;
        }
    }

    return 0;
}


u_char *
ngx_http_aiq_cache_document(u_char *p, ngx_http_aiq_semantic_t *semantic)
{
    if (semantic == NULL) {
        return p;
    }

    p = ngx_sprintf(p, ",\"semantic\":{\"threshold\":%ui",
                    semantic->threshold);

    if (semantic->embed.len) {
        p = ngx_sprintf(p, ",\"embed\":\"");
        p = (u_char *) ngx_escape_json(p, semantic->embed.data,
                                       semantic->embed.len);
        *p++ = '"';
    }

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
