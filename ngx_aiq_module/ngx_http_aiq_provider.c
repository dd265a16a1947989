
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_ATTEMPTS_MAX  100
#define NGX_HTTP_AIQ_REPLICAS_MAX  15    /* devices of an engine */
#define NGX_HTTP_AIQ_KEYS_MAX      64


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   nelts;        /* with the name; 0: at least two, 1: any */
    ngx_uint_t   remote;       /* unsigned  remote:1; */
    char      *(*set)(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider);
} ngx_http_aiq_provider_option_t;


static char *ngx_http_aiq_provider_option(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_aiq_provider_dialect(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_url(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_key(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_model(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_replicas(ngx_conf_t *cf, ngx_str_t *value,
    ngx_uint_t *replicas);
static char *ngx_http_aiq_provider_header(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_query(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_lacks(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_ca(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_certificate(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_proxy(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_http_version(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_timeout(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_retry(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_breaker(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_health_check(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_count(ngx_conf_t *cf, ngx_str_t *value,
    size_t prefix, ngx_uint_t *count);
static char *ngx_http_aiq_provider_check(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);


static ngx_http_aiq_provider_option_t  ngx_http_aiq_provider_options[] = {
    { ngx_string("dialect"), 2, 0, ngx_http_aiq_provider_dialect },
    { ngx_string("url"), 2, 1, ngx_http_aiq_provider_url },
    { ngx_string("key"), 0, 1, ngx_http_aiq_provider_key },
    { ngx_string("model"), 0, 0, ngx_http_aiq_provider_model },
    { ngx_string("header"), 3, 1, ngx_http_aiq_provider_header },
    { ngx_string("query"), 2, 1, ngx_http_aiq_provider_query },
    { ngx_string("lacks"), 0, 1, ngx_http_aiq_provider_lacks },
    { ngx_string("ca"), 2, 1, ngx_http_aiq_provider_ca },
    { ngx_string("certificate"), 3, 1, ngx_http_aiq_provider_certificate },
    { ngx_string("proxy"), 2, 1, ngx_http_aiq_provider_proxy },
    { ngx_string("http_version"), 2, 1, ngx_http_aiq_provider_http_version },
    { ngx_string("timeout"), 0, 1, ngx_http_aiq_provider_timeout },
    { ngx_string("retry"), 0, 0, ngx_http_aiq_provider_retry },
    { ngx_string("health_check"), 1, 1, ngx_http_aiq_provider_health_check },
    { ngx_string("breaker"), 0, 0, ngx_http_aiq_provider_breaker },
    { ngx_null_string, 0, 0, NULL }
};


char *
ngx_http_aiq_provider(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_main_conf_t *amcf = conf;

    char                     *rv;
    ngx_str_t                *value;
    ngx_uint_t                i;
    ngx_conf_t                save;
    ngx_http_aiq_provider_t  *provider;

    value = cf->args->elts;

    if (ngx_http_aiq_check_name(cf, "provider", &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        if (provider[i].name.len == value[1].len
            && ngx_strncmp(provider[i].name.data, value[1].data, value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate provider \"%V\"", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    provider = ngx_array_push(&amcf->providers);
    if (provider == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(provider, sizeof(ngx_http_aiq_provider_t));

    provider->name = value[1];
    provider->connect = NGX_CONF_UNSET_MSEC;
    provider->first_byte = NGX_CONF_UNSET_MSEC;
    provider->idle = NGX_CONF_UNSET_MSEC;
    provider->total = NGX_CONF_UNSET_MSEC;
    provider->attempts = NGX_CONF_UNSET_UINT;
    provider->backoff = NGX_CONF_UNSET_MSEC;
    provider->failures = NGX_CONF_UNSET_UINT;
    provider->open = NGX_CONF_UNSET_MSEC;

    if (ngx_array_init(&provider->keys, cf->pool, 2, sizeof(ngx_str_t))
        != NGX_OK
        || ngx_array_init(&provider->models, cf->pool, 4,
                          sizeof(ngx_http_aiq_local_model_t))
           != NGX_OK
        || ngx_array_init(&provider->headers, cf->pool, 4,
                          sizeof(ngx_keyval_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    save = *cf;
    cf->handler = ngx_http_aiq_provider_option;
    cf->handler_conf = (void *) provider;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_aiq_provider_check(cf, provider);
}


static char *
ngx_http_aiq_provider_option(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_http_aiq_provider_t *provider = conf;

    char                            *rv;
    ngx_str_t                       *value;
    ngx_http_aiq_provider_option_t  *option;

    value = cf->args->elts;

    for (option = ngx_http_aiq_provider_options; option->name.len; option++) {

        if (value[0].len != option->name.len
            || ngx_strncmp(value[0].data, option->name.data, value[0].len)
               != 0)
        {
            continue;
        }

        if (option->nelts > 1 ? cf->args->nelts != option->nelts
                              : cf->args->nelts + option->nelts < 2)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid number of arguments in \"%V\"",
                               &value[0]);
            return NGX_CONF_ERROR;
        }

        if (option->remote && provider->remote == NULL) {
            provider->remote = &option->name;
        }

        rv = option->set(cf, provider);

        if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
            return rv;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", &value[0], rv);
        return NGX_CONF_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown parameter \"%V\" in \"aiq_provider\"",
                       &value[0]);
    return NGX_CONF_ERROR;
}


static char *
ngx_http_aiq_provider_dialect(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value;

    if (provider->dialect.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "openai") != 0
        && ngx_strcmp(value[1].data, "anthropic") != 0
        && ngx_strcmp(value[1].data, "local") != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown dialect \"%V\", "
                           "it must be \"openai\", \"anthropic\" or \"local\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    provider->dialect = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_url(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value;

    if (provider->url.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    return ngx_http_aiq_check_url(&value[1], &provider->url);
}


static char *
ngx_http_aiq_provider_key(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    char        *rv;
    ngx_str_t   *value, *key, header;
    ngx_uint_t   i;

    value = cf->args->elts;

    if (cf->args->nelts > 3) {
        return "has an invalid number of arguments";
    }

    rv = ngx_http_aiq_check_secret(&value[1]);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    key = provider->keys.elts;

    for (i = 0; i < provider->keys.nelts; i++) {
        if (key[i].len == value[1].len
            && ngx_strncmp(key[i].data, value[1].data, value[1].len) == 0)
        {
            return "is duplicate";
        }
    }

    if (provider->keys.nelts == NGX_HTTP_AIQ_KEYS_MAX) {
        return "is given too often, there can be 64";
    }

    ngx_str_null(&header);

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "header=", 7) != 0) {
            return "has an unknown parameter, it can be \"header=\"";
        }

        header.data = value[2].data + 7;
        header.len = value[2].len - 7;

        if (ngx_http_aiq_check_word(&header, "-_") != NGX_OK) {
            return "has an invalid name of a header";
        }
    }

    if (provider->keys.nelts
        && (header.len != provider->key_header.len
            || (header.len
                && ngx_strncmp(header.data, provider->key_header.data,
                               header.len)
                   != 0)))
    {
        return "must have the same \"header=\" as the others";
    }

    provider->key_header = header;

    key = ngx_array_push(&provider->keys);
    if (key == NULL) {
        return NGX_CONF_ERROR;
    }

    *key = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_model(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    char                        *rv;
    ngx_str_t                   *value;
    ngx_uint_t                   i, n;
    ngx_http_aiq_local_model_t  *model;

    value = cf->args->elts;

    /* without the parameters */

    for (n = 2; n < cf->args->nelts; n++) {

        if (ngx_strncmp(value[n].data, "replicas=", 9) == 0) {
            break;
        }
    }

    if (n > 3) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"model\"");
        return NGX_CONF_ERROR;
    }

    if (ngx_http_aiq_check_name(cf, "model", &value[1]) != NGX_OK
        || (n == 3
            && ngx_http_aiq_check_name(cf, "path", &value[2]) != NGX_OK))
    {
        return NGX_CONF_ERROR;
    }

    model = provider->models.elts;

    for (i = 0; i < provider->models.nelts; i++) {
        if (model[i].name.len == value[1].len
            && ngx_strncmp(model[i].name.data, value[1].data, value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate model \"%V\"", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    model = ngx_array_push(&provider->models);
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    model->name = value[1];
    model->replicas = 0;

    for (i = n; i < cf->args->nelts; i++) {
        rv = ngx_http_aiq_provider_replicas(cf, &value[i], &model->replicas);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (n == 3) {
        model->path = value[2];

        if (ngx_strncmp(model->path.data, "builtin:", 8) == 0) {

            if (ngx_strcmp(model->path.data, "builtin:lexical") != 0) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "there is no model \"%V\", only "
                                   "\"builtin:lexical\"", &model->path);
                return NGX_CONF_ERROR;
            }

            if (model->replicas) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "\"%V\" computes on no device and cannot "
                                   "have \"replicas\"", &model->path);
                return NGX_CONF_ERROR;
            }

            return NGX_CONF_OK;
        }

        if (ngx_conf_full_name(cf->cycle, &model->path, 1) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    /* a file of this name in the engine's folder of models */

    model->path.len = model->name.len + sizeof(".gguf") - 1;
    model->path.data = ngx_pnalloc(cf->pool, model->path.len);
    if (model->path.data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_sprintf(model->path.data, "%V.gguf", &model->name);

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_replicas(ngx_conf_t *cf, ngx_str_t *value,
    ngx_uint_t *replicas)
{
    ngx_int_t  n;

    if (ngx_strncmp(value->data, "replicas=", 9) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown parameter \"%V\"", value);
        return NGX_CONF_ERROR;
    }

    if (*replicas) {
        return "is duplicate";
    }

    n = ngx_atoi(value->data + 9, value->len - 9);

    if (n < 1 || n > NGX_HTTP_AIQ_REPLICAS_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid number in \"%V\", "
                           "it must be between 1 and %d", value,
                           NGX_HTTP_AIQ_REPLICAS_MAX);
        return NGX_CONF_ERROR;
    }

    *replicas = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_header(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t     *value;
    ngx_uint_t     i;
    ngx_keyval_t  *header;

    static ngx_str_t  own[] = {
        ngx_string("accept"),
        ngx_string("connection"),
        ngx_string("content-length"),
        ngx_string("content-type"),
        ngx_string("expect"),
        ngx_string("host"),
        ngx_string("te"),
        ngx_string("trailer"),
        ngx_string("transfer-encoding"),
        ngx_string("upgrade"),
        ngx_string("user-agent"),
        ngx_null_string
    };

    value = cf->args->elts;

    if (ngx_http_aiq_check_word(&value[1], "-_") != NGX_OK) {
        return "has an invalid name";
    }

    if (ngx_http_aiq_check_name(cf, "header", &value[2]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (value[1].len == sizeof("authorization") - 1
        && ngx_strncasecmp(value[1].data, (u_char *) "authorization",
                           value[1].len)
           == 0)
    {
        return "cannot have credentials, use \"key\"";
    }

    for (i = 0; own[i].len; i++) {
        if (value[1].len == own[i].len
            && ngx_strncasecmp(value[1].data, own[i].data, own[i].len) == 0)
        {
            return "names one that the engine writes itself";
        }
    }

    header = ngx_array_push(&provider->headers);
    if (header == NULL) {
        return NGX_CONF_ERROR;
    }

    header->key = value[1];
    header->value = value[2];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_query(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    u_char     *p, *last;
    ngx_str_t  *value;

    if (provider->query.data) {
        return "is duplicate";
    }

    value = cf->args->elts;
    last = value[1].data + value[1].len;

    for (p = value[1].data; p < last; p++) {
        if (*p <= 0x20 || *p >= 0x7f || *p == '"' || *p == '\\' || *p == '#'
            || *p == '?')
        {
            return "has characters that a URL must encode";
        }
    }

    if (value[1].len == 0) {
        return "is empty";
    }

    provider->query = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_lacks(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "stream_options") == 0) {
            provider->no_stream_options = 1;

        } else if (ngx_strcmp(value[i].data, "max_completion_tokens") == 0) {
            provider->no_max_completion_tokens = 1;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown parameter "
                               "\"%V\", it must be \"stream_options\" or "
                               "\"max_completion_tokens\"", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_ca(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value;

    value = cf->args->elts;

    return ngx_http_aiq_set_file(cf, &value[1], &provider->ca);
}


static char *
ngx_http_aiq_provider_certificate(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    char       *rv;
    ngx_str_t  *value;

    value = cf->args->elts;

    rv = ngx_http_aiq_set_file(cf, &value[1], &provider->certificate);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_aiq_set_file(cf, &value[2], &provider->certificate_key);
}


static char *
ngx_http_aiq_provider_proxy(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value;

    if (provider->proxy.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    return ngx_http_aiq_check_url(&value[1], &provider->proxy);
}


static char *
ngx_http_aiq_provider_http_version(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value;

    if (provider->http_version) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "1.1") == 0) {
        provider->http_version = 1;

    } else if (ngx_strcmp(value[1].data, "2") == 0) {
        provider->http_version = 2;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\", "
                           "it must be \"1.1\" or \"2\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_timeout(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    char        *rv;
    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "connect=", 8) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 8, &provider->connect);

        } else if (ngx_strncmp(value[i].data, "first_byte=", 11) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 11,
                                       &provider->first_byte);

        } else if (ngx_strncmp(value[i].data, "idle=", 5) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 5, &provider->idle);

        } else if (ngx_strncmp(value[i].data, "total=", 6) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 6, &provider->total);

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_retry(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    char        *rv;
    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (provider->attempts != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || n > NGX_HTTP_AIQ_ATTEMPTS_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of attempts \"%V\", "
                           "it must be between 1 and 100", &value[1]);
        return NGX_CONF_ERROR;
    }

    provider->attempts = n;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "backoff=", 8) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        rv = ngx_http_aiq_set_time(cf, &value[i], 8, &provider->backoff);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_breaker(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    char        *rv;
    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "failures=", 9) == 0) {

            if (provider->failures != NGX_CONF_UNSET_UINT) {
                return "is duplicate";
            }

            n = ngx_atoi(value[i].data + 9, value[i].len - 9);

            if (n < 1 || n > 1000000) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid number in \"%V\", it must be "
                                   "between 1 and 1000000", &value[i]);
                return NGX_CONF_ERROR;
            }

            provider->failures = n;
            continue;
        }

        if (ngx_strncmp(value[i].data, "open=", 5) == 0) {

            rv = ngx_http_aiq_set_time(cf, &value[i], 5, &provider->open);

            if (rv != NGX_CONF_OK) {
                return rv;
            }

            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown parameter \"%V\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_health_check(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    char        *rv;
    u_char      *p;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (provider->check_uri.data) {
        return "is duplicate";
    }

    ngx_str_set(&provider->check_uri, "/models");
    provider->check_interval = NGX_CONF_UNSET_MSEC;
    provider->check_timeout = NGX_CONF_UNSET_MSEC;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "uri=", 4) == 0) {
            provider->check_uri.data = value[i].data + 4;
            provider->check_uri.len = value[i].len - 4;

            if (value[i].data[4] != '/') {
                return "has a \"uri\" that does not begin with \"/\"";
            }

            for (p = value[i].data + 4; *p; p++) {
                if (*p <= 0x20 || *p >= 0x7f || *p == '"' || *p == '\\'
                    || *p == '?' || *p == '#')
                {
                    return "has characters that a URL must encode";
                }
            }

            rv = NGX_CONF_OK;

        } else if (ngx_strncmp(value[i].data, "interval=", 9) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 9,
                                       &provider->check_interval);

        } else if (ngx_strncmp(value[i].data, "timeout=", 8) == 0) {
            rv = ngx_http_aiq_set_time(cf, &value[i], 8,
                                       &provider->check_timeout);

        } else if (ngx_strncmp(value[i].data, "fails=", 6) == 0) {
            rv = ngx_http_aiq_provider_count(cf, &value[i], 6,
                                             &provider->check_fails);

        } else if (ngx_strncmp(value[i].data, "passes=", 7) == 0) {
            rv = ngx_http_aiq_provider_count(cf, &value[i], 7,
                                             &provider->check_passes);

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    ngx_conf_init_msec_value(provider->check_interval, 5000);
    ngx_conf_init_msec_value(provider->check_timeout, 5000);

    if (provider->check_fails == 0) {
        provider->check_fails = 1;
    }

    if (provider->check_passes == 0) {
        provider->check_passes = 1;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_count(ngx_conf_t *cf, ngx_str_t *value, size_t prefix,
    ngx_uint_t *count)
{
    ngx_int_t  n;

    if (*count) {
        return "is duplicate";
    }

    n = ngx_atoi(value->data + prefix, value->len - prefix);

    if (n < 1 || n > 1000000) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid number in \"%V\", "
                           "it must be between 1 and 1000000", value);
        return NGX_CONF_ERROR;
    }

    *count = n;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_check(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    char  *why;

    why = NULL;

    if (provider->dialect.len == 0) {
        why = "has no \"dialect\"";

    } else if (provider->dialect.data[0] == 'l') {

        if (provider->remote) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "provider \"%V\" "
                               "is local and cannot have a \"%V\"",
                               &provider->name, provider->remote);
            return NGX_CONF_ERROR;
        }

        if (provider->models.nelts == 0) {
            why = "is local and has no \"model\"";
        }

    } else if (provider->url.len == 0) {
        why = "has no \"url\"";

    } else if ((provider->no_stream_options
                || provider->no_max_completion_tokens)
               && provider->dialect.data[0] != 'o')
    {
        why = "does not speak \"openai\" and cannot have a \"lacks\"";

    } else if (provider->models.nelts) {
        why = "is not local and cannot have a \"model\", "
              "see \"aiq_model\"";
    }

    if (why) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "provider \"%V\" %s",
                           &provider->name, why);
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_msec_value(provider->connect, 10000);
    ngx_conf_init_msec_value(provider->first_byte, 30000);
    ngx_conf_init_msec_value(provider->idle, 30000);
    ngx_conf_init_msec_value(provider->total, 600000);
    ngx_conf_init_uint_value(provider->attempts, 5);
    ngx_conf_init_msec_value(provider->backoff, 2000);
    ngx_conf_init_uint_value(provider->failures, 5);
    ngx_conf_init_msec_value(provider->open, 30000);

    return NGX_CONF_OK;
}
