
#include "ngx_http_aiq.h"

#include <openssl/evp.h>


#define NGX_HTTP_AIQ_POLICIES     16
#define NGX_HTTP_AIQ_TIMEOUT_MAX  (24 * 3600 * 1000)


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   nelts;        /* arguments with the name; 0: at least two */
    char      *(*set)(ngx_conf_t *cf, ngx_http_aiq_provider_t *provider);
} ngx_http_aiq_provider_option_t;


typedef struct {
    u_char       sha256[2 * 32];
    int64_t      mtime;        /* nanoseconds */
} ngx_http_aiq_policy_file_t;


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
static ngx_int_t ngx_http_aiq_check_targets(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);

static ngx_int_t ngx_http_aiq_policy_document(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *document);
static size_t ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf);
static u_char *ngx_http_aiq_policy_provider(u_char *p,
    ngx_http_aiq_provider_t *provider);
static u_char *ngx_http_aiq_policy_string(u_char *p, char *key,
    ngx_str_t *value);
static ngx_int_t ngx_http_aiq_policy_write(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *document);
static ngx_int_t ngx_http_aiq_policy_failed(ngx_conf_t *cf, char *what,
    u_char *name);
static ngx_int_t ngx_libc_cdecl ngx_http_aiq_policy_cmp(const void *one,
    const void *two);


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

static ngx_int_t
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


/*
 * The document is written here and not in init_module: there a failure would
 * end the master, here it keeps the configuration that runs.
 */

ngx_int_t
ngx_http_aiq_policy_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_str_t  document;

    if (ngx_http_aiq_check_targets(cf, amcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (amcf->engine.len == 0 || ngx_test_config
        || ngx_process == NGX_PROCESS_SIGNALLER)
    {
        return NGX_OK;
    }

    if (ngx_http_aiq_policy_document(cf, amcf, &document) != NGX_OK) {
        return NGX_ERROR;
    }

    if (EVP_Digest(document.data, document.len, amcf->sha256, NULL,
                   EVP_sha256(), NULL)
        != 1)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "EVP_Digest() failed");
        return NGX_ERROR;
    }

    return ngx_http_aiq_policy_write(cf, amcf, &document);
}


static ngx_int_t
ngx_http_aiq_policy_document(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf,
    ngx_str_t *document)
{
    u_char                    *p;
    ngx_uint_t                 i;
    struct timeval             tv;
    ngx_http_aiq_model_t      *model;
    ngx_http_aiq_pass_t      **pass;
    ngx_http_aiq_provider_t   *provider;

    p = ngx_pnalloc(cf->pool, ngx_http_aiq_policy_size(amcf));
    if (p == NULL) {
        return NGX_ERROR;
    }

    document->data = p;

    ngx_gettimeofday(&tv);

    p = ngx_sprintf(p, "{\"aiq\":1,\"epoch\":%uL,\"providers\":[",
                    (uint64_t) tv.tv_sec * 1000000 + tv.tv_usec);

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_provider(p, &provider[i]);
        *p++ = '}';
    }

    p = ngx_sprintf(p, "],\n\"models\":[");

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_string(p, "name", &model[i].name);
        p = ngx_sprintf(p, ",\"targets\":[{");
        p = ngx_http_aiq_policy_string(p, "provider", &model[i].provider);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "model", &model[i].model);
        p = ngx_sprintf(p, "}]}");
    }

    p = ngx_sprintf(p, "],\n\"locations\":[");

    pass = amcf->passes.elts;

    for (i = 0; i < amcf->passes.nelts; i++) {
        p = ngx_sprintf(p, i ? ",\n{" : "\n{");
        p = ngx_http_aiq_policy_string(p, "service", &pass[i]->service);
        p = ngx_sprintf(p, ",\"max_body\":%O}", pass[i]->conf->max_body_size);
    }

    p = ngx_sprintf(p, "]}\n");

    document->len = p - document->data;

    return NGX_OK;
}


/* An upper bound; 256 bytes cover what stands around the strings of a record. */

static size_t
ngx_http_aiq_policy_size(ngx_http_aiq_main_conf_t *amcf)
{
    size_t                       size, n;
    ngx_uint_t                   i, k;
    ngx_http_aiq_model_t        *model;
    ngx_http_aiq_provider_t     *provider;
    ngx_http_aiq_local_model_t  *local;

    n = 1 + amcf->providers.nelts + amcf->models.nelts + amcf->passes.nelts;
    size = 0;

    provider = amcf->providers.elts;

    for (i = 0; i < amcf->providers.nelts; i++) {
        size += provider[i].name.len + provider[i].url.len
                + provider[i].key.len;

        local = provider[i].models.elts;
        n += provider[i].models.nelts;

        for (k = 0; k < provider[i].models.nelts; k++) {
            size += local[k].name.len + local[k].path.len;
        }
    }

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        size += model[i].name.len + model[i].provider.len
                + model[i].model.len;
    }

    for (i = 0; i < amcf->passes.nelts; i++) {
        size += ((ngx_http_aiq_pass_t **) amcf->passes.elts)[i]->service.len;
    }

    /* an escaped character takes at most 6 bytes */

    return n * 256 + size * 6;
}


static u_char *
ngx_http_aiq_policy_provider(u_char *p, ngx_http_aiq_provider_t *provider)
{
    ngx_uint_t                   i;
    ngx_http_aiq_local_model_t  *model;

    p = ngx_http_aiq_policy_string(p, "name", &provider->name);
    *p++ = ',';
    p = ngx_http_aiq_policy_string(p, "dialect", &provider->dialect);

    if (provider->url.len) {
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "url", &provider->url);

        if (provider->key.len) {
            *p++ = ',';
            p = ngx_http_aiq_policy_string(p, "key", &provider->key);
        }

        return ngx_sprintf(p, ",\"connect_ms\":%M,\"first_byte_ms\":%M,"
                           "\"idle_ms\":%M",
                           provider->connect, provider->first_byte,
                           provider->idle);
    }

    p = ngx_sprintf(p, ",\"models\":[");

    model = provider->models.elts;

    for (i = 0; i < provider->models.nelts; i++) {
        p = ngx_sprintf(p, i ? ",{" : "{");
        p = ngx_http_aiq_policy_string(p, "name", &model[i].name);
        *p++ = ',';
        p = ngx_http_aiq_policy_string(p, "path", &model[i].path);
        *p++ = '}';
    }

    *p++ = ']';

    return p;
}


static u_char *
ngx_http_aiq_policy_string(u_char *p, char *key, ngx_str_t *value)
{
    p = ngx_sprintf(p, "\"%s\":\"", key);
    p = (u_char *) ngx_escape_json(p, value->data, value->len);
    *p++ = '"';

    return p;
}


static ngx_int_t
ngx_http_aiq_policy_write(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf,
    ngx_str_t *document)
{
    u_char    *p, *folder, *temp;
    size_t     len;
    ssize_t    n;
    ngx_fd_t   fd;

    len = amcf->engine.len + sizeof(".policy/") + 2 * 32 + sizeof(".json");

    folder = ngx_pnalloc(cf->pool, len);
    temp = ngx_pnalloc(cf->pool, len + sizeof(".") + NGX_INT64_LEN);
    p = ngx_pnalloc(cf->pool, len);

    if (folder == NULL || temp == NULL || p == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(folder, "%V.policy%Z", &amcf->engine);

    amcf->policy.data = p;
    p = ngx_sprintf(p, "%s/", folder);
    p = ngx_hex_dump(p, amcf->sha256, 32);
    p = ngx_sprintf(p, ".json%Z");
    amcf->policy.len = p - amcf->policy.data - 1;

    ngx_sprintf(temp, "%V.%P%Z", &amcf->policy, ngx_pid);

    if (ngx_create_dir(folder, 0755) == NGX_FILE_ERROR
        && ngx_errno != NGX_EEXIST)
    {
        return ngx_http_aiq_policy_failed(cf, "make the folder", folder);
    }

    fd = ngx_open_file(temp, NGX_FILE_WRONLY, NGX_FILE_TRUNCATE, 0644);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_aiq_policy_failed(cf, "write", temp);
    }

    n = ngx_write_fd(fd, document->data, document->len);

    /* the engine's user reads it, whatever our umask is */

    if (n == (ssize_t) document->len && fchmod(fd, 0644) == 0
        && ngx_rename_file(temp, amcf->policy.data) != NGX_FILE_ERROR)
    {
        ngx_close_file(fd);
        return NGX_OK;
    }

    (void) ngx_http_aiq_policy_failed(cf, "write", amcf->policy.data);

    ngx_close_file(fd);
    (void) ngx_delete_file(temp);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_aiq_policy_failed(ngx_conf_t *cf, char *what, u_char *name)
{
    ngx_log_error(NGX_LOG_EMERG, cf->log, ngx_errno,
                  "cannot %s \"%s\" of the policy for the engine; the folder "
                  "of the engine's socket must exist and nginx's master must "
                  "be allowed to write there",
                  what, name);

    return NGX_ERROR;
}


/*
 * Old workers that still serve may have to connect anew, so documents of the
 * last configurations stay.
 */

void
ngx_http_aiq_policy_prune(ngx_cycle_t *cycle, ngx_http_aiq_main_conf_t *amcf)
{
    u_char                      *name;
    ngx_dir_t                    dir;
    ngx_str_t                    folder;
    ngx_uint_t                   i;
    ngx_array_t                  files;
    ngx_pool_t                  *pool;
    ngx_http_aiq_policy_file_t  *file;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, cycle->log);
    if (pool == NULL) {
        return;
    }

    folder.len = amcf->policy.len - (sizeof("/.json") - 1 + 2 * 32);
    folder.data = ngx_pnalloc(pool, folder.len + 1);
    name = ngx_pnalloc(pool, amcf->policy.len + 1);

    if (folder.data == NULL || name == NULL
        || ngx_array_init(&files, pool, 2 * NGX_HTTP_AIQ_POLICIES,
                          sizeof(ngx_http_aiq_policy_file_t))
           != NGX_OK)
    {
        goto done;
    }

    ngx_cpystrn(folder.data, amcf->policy.data, folder.len + 1);

    if (ngx_open_dir(&folder, &dir) == NGX_ERROR) {
        goto done;
    }

    while (ngx_read_dir(&dir) == NGX_OK) {

        if (ngx_de_namelen(&dir) != 2 * 32 + sizeof(".json") - 1
            || ngx_strcmp(ngx_de_name(&dir) + 2 * 32, ".json") != 0)
        {
            continue;
        }

        ngx_sprintf(name, "%V/%s%Z", &folder, ngx_de_name(&dir));

        if (ngx_de_info(name, &dir) == NGX_FILE_ERROR) {
            continue;
        }

        file = ngx_array_push(&files);
        if (file == NULL) {
            break;
        }

        ngx_memcpy(file->sha256, ngx_de_name(&dir), 2 * 32);
        file->mtime = (int64_t) dir.info.st_mtim.tv_sec * 1000000000
                      + dir.info.st_mtim.tv_nsec;
    }

    ngx_close_dir(&dir);

    ngx_sort(files.elts, files.nelts, sizeof(ngx_http_aiq_policy_file_t),
             ngx_http_aiq_policy_cmp);

    file = files.elts;

    for (i = NGX_HTTP_AIQ_POLICIES; i < files.nelts; i++) {

        ngx_sprintf(name, "%V/%*s.json%Z", &folder, (size_t) 2 * 32,
                    file[i].sha256);

        if (ngx_strcmp(name, amcf->policy.data) != 0) {
            (void) ngx_delete_file(name);
        }
    }

done:

    ngx_destroy_pool(pool);
}


static ngx_int_t ngx_libc_cdecl
ngx_http_aiq_policy_cmp(const void *one, const void *two)
{
    ngx_http_aiq_policy_file_t  *first, *second;

    first = (ngx_http_aiq_policy_file_t *) one;
    second = (ngx_http_aiq_policy_file_t *) two;

    return (first->mtime < second->mtime) - (first->mtime > second->mtime);
}


void
ngx_http_aiq_policy_remove(ngx_http_aiq_main_conf_t *amcf)
{
    (void) ngx_delete_file(amcf->policy.data);
}
