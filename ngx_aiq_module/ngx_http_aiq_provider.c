
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_TIMEOUT_MAX  (24 * 3600 * 1000)


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   nelts;        /* arguments with the name; 0: at least two */
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
static char *ngx_http_aiq_provider_timeout(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_provider_check(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider);
static char *ngx_http_aiq_model_target(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static ngx_int_t ngx_http_aiq_check_name(ngx_conf_t *cf, char *what,
    ngx_str_t *name);
static ngx_int_t ngx_http_aiq_check_word(ngx_str_t *s, char *more);


static ngx_http_aiq_provider_option_t  ngx_http_aiq_provider_options[] = {
    { ngx_string("dialect"), 2, ngx_http_aiq_provider_dialect },
    { ngx_string("url"), 2, ngx_http_aiq_provider_url },
    { ngx_string("key"), 2, ngx_http_aiq_provider_key },
    { ngx_string("model"), 3, ngx_http_aiq_provider_model },
    { ngx_string("timeout"), 0, ngx_http_aiq_provider_timeout },
    { ngx_null_string, 0, NULL }
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

    if (ngx_array_init(&provider->models, cf->pool, 4,
                       sizeof(ngx_http_aiq_local_model_t))
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

        if (option->nelts ? cf->args->nelts != option->nelts
                          : cf->args->nelts < 2)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid number of arguments in \"%V\"",
                               &value[0]);
            return NGX_CONF_ERROR;
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
        && ngx_strcmp(value[1].data, "local") != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown dialect \"%V\", "
                           "it must be \"openai\" or \"local\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    provider->dialect = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_url(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    size_t      scheme;
    u_char     *p, *host, *last;
    ngx_str_t  *value;

    if (provider->url.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strncmp(value[1].data, "https://", 8) == 0) {
        scheme = 8;

    } else if (ngx_strncmp(value[1].data, "http://", 7) == 0) {
        scheme = 7;

    } else {
        return "must begin with \"http://\" or \"https://\"";
    }

    host = value[1].data + scheme;
    last = value[1].data + value[1].len;

    while (last > host && last[-1] == '/') {
        last--;
    }

    if (last == host || *host == '/' || *host == ':') {
        return "has no host";
    }

    for (p = host; p < last; p++) {

        if (*p <= 0x20 || *p >= 0x7f || *p == '"' || *p == '\\') {
            return "has characters that a URL must encode";
        }

        if (*p == '?' || *p == '#') {
            return "cannot have arguments or a fragment, "
                   "the path of the request is appended to it";
        }
    }

    for (p = host; p < last && *p != '/'; p++) {
        if (*p == '@') {
            return "cannot have credentials, use \"key\"";
        }
    }

    provider->url.data = value[1].data;
    provider->url.len = last - value[1].data;

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_key(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t  *value, name;

    if (provider->key.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strncmp(value[1].data, "env:", 4) == 0) {
        name.data = value[1].data + 4;
        name.len = value[1].len - 4;

        if (ngx_http_aiq_check_word(&name, "_") != NGX_OK) {
            return "has an invalid name of an environment variable";
        }

    } else if (ngx_strncmp(value[1].data, "file:", 5) == 0) {
        name.data = value[1].data + 5;
        name.len = value[1].len - 5;

        if (ngx_http_aiq_check_word(&name, "._-") != NGX_OK
            || name.data[0] == '.')
        {
            return "has an invalid name of a file, it must be a plain name "
                   "below the engine's folder of secrets";
        }

    } else {
        /* might be the key itself, which must not get into logs */
        return "cannot be written here, it is named: \"env:NAME\" is an "
               "environment variable of the engine, \"file:NAME\" a file in "
               "its folder of secrets";
    }

    provider->key = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_model(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider)
{
    ngx_str_t                   *value;
    ngx_uint_t                   i;
    ngx_http_aiq_local_model_t  *model;

    value = cf->args->elts;

    if (ngx_http_aiq_check_name(cf, "model", &value[1]) != NGX_OK
        || ngx_http_aiq_check_name(cf, "path", &value[2]) != NGX_OK)
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
    model->path = value[2];

    if (ngx_conf_full_name(cf->cycle, &model->path, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_provider_timeout(ngx_conf_t *cf,
    ngx_http_aiq_provider_t *provider)
{
    ngx_int_t    ms;
    ngx_str_t   *value, s;
    ngx_uint_t   i;
    ngx_msec_t  *timeout;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "connect=", 8) == 0) {
            timeout = &provider->connect;
            s.data = value[i].data + 8;

        } else if (ngx_strncmp(value[i].data, "first_byte=", 11) == 0) {
            timeout = &provider->first_byte;
            s.data = value[i].data + 11;

        } else if (ngx_strncmp(value[i].data, "idle=", 5) == 0) {
            timeout = &provider->idle;
            s.data = value[i].data + 5;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (*timeout != NGX_CONF_UNSET_MSEC) {
            return "is duplicate";
        }

        s.len = value[i].data + value[i].len - s.data;

        ms = ngx_parse_time(&s, 0);

        if (ms == NGX_ERROR || ms < 1 || ms > NGX_HTTP_AIQ_TIMEOUT_MAX) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid time in \"%V\", "
                               "it must be between 1ms and 1d", &value[i]);
            return NGX_CONF_ERROR;
        }

        *timeout = (ngx_msec_t) ms;
    }

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

        if (provider->url.len) {
            why = "is local and cannot have a \"url\"";

        } else if (provider->key.len) {
            why = "is local and cannot have a \"key\"";

        } else if (provider->connect != NGX_CONF_UNSET_MSEC
                   || provider->first_byte != NGX_CONF_UNSET_MSEC
                   || provider->idle != NGX_CONF_UNSET_MSEC)
        {
            why = "is local and cannot have a \"timeout\"";

        } else if (provider->models.nelts == 0) {
            why = "is local and has no \"model\"";
        }

    } else if (provider->url.len == 0) {
        why = "has no \"url\"";

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

    return NGX_CONF_OK;
}


char *
ngx_http_aiq_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_main_conf_t *amcf = conf;

    char                  *rv;
    ngx_str_t             *value;
    ngx_uint_t             i;
    ngx_conf_t             save;
    ngx_http_aiq_model_t  *model;

    value = cf->args->elts;

    if (ngx_http_aiq_check_name(cf, "model", &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        if (model[i].name.len == value[1].len
            && ngx_strncmp(model[i].name.data, value[1].data, value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate model \"%V\"",
                               &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    model = ngx_array_push(&amcf->models);
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(model, sizeof(ngx_http_aiq_model_t));

    model->name = value[1];

    save = *cf;
    cf->handler = ngx_http_aiq_model_target;
    cf->handler_conf = (void *) model;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (model->provider.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "model \"%V\" has no "
                           "\"target\"", &model->name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_model_target(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_http_aiq_model_t *model = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    if (ngx_strcmp(value[0].data, "target") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown parameter \"%V\" in \"aiq_model\"",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (model->provider.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "model \"%V\" has a second \"target\", this "
                           "version takes one, without failover",
                           &model->name);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts < 2) {
        return "invalid number of arguments in \"target\"";
    }

    if (ngx_http_aiq_check_name(cf, "provider", &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    model->provider = value[1];
    model->file = cf->conf_file->file.name.data;
    model->line = cf->conf_file->line;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "model=", 6) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (model->model.data) {
            return "\"model\" is duplicate";
        }

        model->model.data = value[i].data + 6;
        model->model.len = value[i].len - 6;

        if (ngx_http_aiq_check_name(cf, "model", &model->model) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (model->model.len == 0) {
        model->model = model->name;
    }

    return NGX_CONF_OK;
}


/* What becomes a string of the document must be UTF-8 without controls. */

static ngx_int_t
ngx_http_aiq_check_name(ngx_conf_t *cf, char *what, ngx_str_t *name)
{
    aiq_text  text;

    text.data = (const char *) name->data;
    text.len = name->len;

    if (name->len == 0
        || !ngx_http_aiq_frames_clean(name->data, name->len)
        || !ngx_http_aiq_frames_utf8(text))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid %s \"%V\"",
                           what, name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_check_word(ngx_str_t *s, char *more)
{
    u_char  ch;
    size_t  i;

    for (i = 0; i < s->len; i++) {
        ch = s->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9') || ngx_strchr(more, ch)))
        {
            return NGX_ERROR;
        }
    }

    return s->len ? NGX_OK : NGX_ERROR;
}


/* Targets may stand before their providers. */

ngx_int_t
ngx_http_aiq_check_targets(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t                   i, n;
    ngx_http_aiq_model_t        *model;
    ngx_http_aiq_provider_t     *provider;
    ngx_http_aiq_local_model_t  *local;

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {

        provider = amcf->providers.elts;

        for (n = 0; n < amcf->providers.nelts; n++) {
            if (provider[n].name.len == model[i].provider.len
                && ngx_strncmp(provider[n].name.data, model[i].provider.data,
                               model[i].provider.len)
                   == 0)
            {
                break;
            }
        }

        if (n == amcf->providers.nelts) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "unknown provider \"%V\" in %s:%ui",
                          &model[i].provider, model[i].file, model[i].line);
            return NGX_ERROR;
        }

        provider = &provider[n];

        if (provider->models.nelts == 0) {
            continue;
        }

        local = provider->models.elts;

        for (n = 0; n < provider->models.nelts; n++) {
            if (local[n].name.len == model[i].model.len
                && ngx_strncmp(local[n].name.data, model[i].model.data,
                               model[i].model.len)
                   == 0)
            {
                break;
            }
        }

        if (n == provider->models.nelts) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "provider \"%V\" has no model \"%V\" in %s:%ui",
                          &provider->name, &model[i].model,
                          model[i].file, model[i].line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
