
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_CACHE_TTL  3600000


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

    if (ngx_strcmp(value[1].data, "exact") != 0) {
        goto invalid;
    }

    if (cf->args->nelts == 2) {
        alcf->cache_ttl = NGX_HTTP_AIQ_CACHE_TTL;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value[2].data, "ttl=", 4) == 0) {
        return ngx_http_aiq_set_time(cf, &value[2], 4, &alcf->cache_ttl);
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameters of \"aiq_cache\", they must be "
                       "\"exact\", \"exact ttl=time\", or \"off\"");

    return NGX_CONF_ERROR;
}
