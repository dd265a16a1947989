
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_TARGETS_MAX  32
#define NGX_HTTP_AIQ_WEIGHT_MAX   65535
/* nano-USD per million tokens: a USD a token */
#define NGX_HTTP_AIQ_PRICE_MAX    1000000000000000


static char *ngx_http_aiq_model_option(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_aiq_model_target(ngx_conf_t *cf,
    ngx_http_aiq_model_t *model);
static char *ngx_http_aiq_model_target_option(ngx_conf_t *cf,
    ngx_http_aiq_target_t *target, ngx_str_t *value);
static char *ngx_http_aiq_model_price(ngx_conf_t *cf, ngx_str_t *value,
    size_t prefix, int64_t *price);
static char *ngx_http_aiq_model_value(ngx_conf_t *cf, ngx_str_t *text,
    ngx_array_t *values, ngx_uint_t max, ngx_int_t *number);
static char *ngx_http_aiq_model_policy(ngx_conf_t *cf,
    ngx_http_aiq_model_t *model);
static char *ngx_http_aiq_model_fallback(ngx_conf_t *cf,
    ngx_http_aiq_model_t *model);
static ngx_int_t ngx_http_aiq_model_check_target(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_http_aiq_model_t *model,
    ngx_http_aiq_target_t *target);
static ngx_int_t ngx_http_aiq_model_check_fallback(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_http_aiq_model_t *model,
    ngx_str_t *name);
static ngx_http_aiq_model_t *ngx_http_aiq_model_find(
    ngx_http_aiq_main_conf_t *amcf, ngx_str_t *name);


char *
ngx_http_aiq_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_main_conf_t *amcf = conf;

    char                  *rv;
    ngx_str_t             *value;
    ngx_conf_t             save;
    ngx_http_aiq_model_t  *model;

    value = cf->args->elts;

    if (ngx_http_aiq_check_name(cf, "model", &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_aiq_model_find(amcf, &value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate model \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    model = ngx_array_push(&amcf->models);
    if (model == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(model, sizeof(ngx_http_aiq_model_t));

    model->name = value[1];
    model->file = cf->conf_file->file.name.data;
    model->line = cf->conf_file->line;
    model->key = -1;
    model->retry_timeout = NGX_CONF_UNSET_MSEC;
    model->hedge = NGX_CONF_UNSET_MSEC;

    if (ngx_array_init(&model->targets, cf->pool, 2,
                       sizeof(ngx_http_aiq_target_t))
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    save = *cf;
    cf->handler = ngx_http_aiq_model_option;
    cf->handler_conf = (void *) model;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (model->targets.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "model \"%V\" has no "
                           "\"target\"", &model->name);
        return NGX_CONF_ERROR;
    }

    if (model->policy.len == 0) {
        ngx_str_set(&model->policy, "order");
    }

    if (model->hedge != NGX_CONF_UNSET_MSEC && model->targets.nelts == 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"hedge\" of model \"%V\" "
                           "needs another \"target\"", &model->name);
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_msec_value(model->retry_timeout, 60000);
    ngx_conf_init_msec_value(model->hedge, 0);

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_model_option(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_http_aiq_model_t *model = conf;

    char       *rv;
    ngx_str_t  *value;

    value = cf->args->elts;

    if (cf->args->nelts < 2
        || (cf->args->nelts > 2
            && (ngx_strcmp(value[0].data, "retry_timeout") == 0
                || ngx_strcmp(value[0].data, "hedge") == 0)))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\"", &value[0]);
        return NGX_CONF_ERROR;
    }

    if (ngx_strcmp(value[0].data, "target") == 0) {
        rv = ngx_http_aiq_model_target(cf, model);

    } else if (ngx_strcmp(value[0].data, "policy") == 0) {
        rv = ngx_http_aiq_model_policy(cf, model);

    } else if (ngx_strcmp(value[0].data, "fallback") == 0) {
        rv = ngx_http_aiq_model_fallback(cf, model);

    } else if (ngx_strcmp(value[0].data, "retry_timeout") == 0) {
        rv = ngx_http_aiq_set_time(cf, &value[1], 0, &model->retry_timeout);

    } else if (ngx_strcmp(value[0].data, "hedge") == 0) {
        rv = ngx_http_aiq_set_time(cf, &value[1], 0, &model->hedge);

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown parameter \"%V\" in \"aiq_model\"",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", &value[0], rv);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_aiq_model_target(ngx_conf_t *cf, ngx_http_aiq_model_t *model)
{
    char                   *rv;
    ngx_str_t              *value;
    ngx_uint_t              i;
    ngx_http_aiq_target_t  *target;

    value = cf->args->elts;

    if (ngx_http_aiq_check_name(cf, "provider", &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (model->targets.nelts == NGX_HTTP_AIQ_TARGETS_MAX) {
        return "is given too often, there can be 32";
    }

    target = ngx_array_push(&model->targets);
    if (target == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(target, sizeof(ngx_http_aiq_target_t));

    target->provider = value[1];
    target->input = NGX_CONF_UNSET;
    target->cached = NGX_CONF_UNSET;
    target->output = NGX_CONF_UNSET;
    target->characters = NGX_CONF_UNSET;
    target->image = NGX_CONF_UNSET;
    target->minute = NGX_CONF_UNSET;
    target->condition = -1;
    target->file = cf->conf_file->file.name.data;
    target->line = cf->conf_file->line;

    for (i = 2; i < cf->args->nelts; i++) {

        rv = ngx_http_aiq_model_target_option(cf, target, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (target->cached != NGX_CONF_UNSET && target->input == NGX_CONF_UNSET) {
        return "has a price of \"cached\" tokens, but none of \"input\"";
    }

    if (target->model.len == 0) {
        target->model = model->name;
    }

    if (target->weight == 0) {
        target->weight = 1;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_model_target_option(ngx_conf_t *cf, ngx_http_aiq_target_t *target,
    ngx_str_t *value)
{
    ngx_int_t                  n;
    ngx_str_t                  s;
    ngx_http_aiq_main_conf_t  *amcf;

    if (ngx_strncmp(value->data, "model=", 6) == 0) {

        if (target->model.data) {
            return "has a duplicate \"model\"";
        }

        target->model.data = value->data + 6;
        target->model.len = value->len - 6;

        if (ngx_http_aiq_check_name(cf, "model", &target->model) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "weight=", 7) == 0) {

        if (target->weight) {
            return "has a duplicate \"weight\"";
        }

        n = ngx_atoi(value->data + 7, value->len - 7);

        if (n < 1 || n > NGX_HTTP_AIQ_WEIGHT_MAX) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid number in "
                               "\"%V\", it must be between 1 and 65535",
                               value);
            return NGX_CONF_ERROR;
        }

        target->weight = n;

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "input=", 6) == 0) {
        return ngx_http_aiq_model_price(cf, value, 6, &target->input);
    }

    if (ngx_strncmp(value->data, "cached=", 7) == 0) {
        return ngx_http_aiq_model_price(cf, value, 7, &target->cached);
    }

    if (ngx_strncmp(value->data, "output=", 7) == 0) {
        return ngx_http_aiq_model_price(cf, value, 7, &target->output);
    }

    if (ngx_strncmp(value->data, "characters=", 11) == 0) {
        return ngx_http_aiq_model_price(cf, value, 11, &target->characters);
    }

    if (ngx_strncmp(value->data, "image=", 6) == 0) {
        return ngx_http_aiq_model_price(cf, value, 6, &target->image);
    }

    if (ngx_strncmp(value->data, "minute=", 7) == 0) {
        return ngx_http_aiq_model_price(cf, value, 7, &target->minute);
    }

    if (ngx_strncmp(value->data, "if=", 3) == 0) {

        if (target->condition != -1) {
            return "has a duplicate \"if\"";
        }

        s.data = value->data + 3;
        s.len = value->len - 3;

        amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);

        return ngx_http_aiq_model_value(cf, &s, &amcf->conditions,
                                        AIQ_CONDITIONS_MAX,
                                        &target->condition);
    }

    if (ngx_strncmp(value->data, "max_body=", 9) == 0) {

        if (target->max_body) {
            return "has a duplicate \"max_body\"";
        }

        s.data = value->data + 9;
        s.len = value->len - 9;

        target->max_body = ngx_parse_offset(&s);

        if (target->max_body <= 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid size in \"%V\"", value);
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "backup") == 0) {
        target->backup = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "noncritical") == 0) {
        target->noncritical = 1;
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown parameter \"%V\"",
                       value);

    return NGX_CONF_ERROR;
}


/* USD, to the nano-USD */

static char *
ngx_http_aiq_model_price(ngx_conf_t *cf, ngx_str_t *value, size_t prefix,
    int64_t *price)
{
    ngx_int_t  n;

    if (*price != NGX_CONF_UNSET) {
        return "has a duplicate price";
    }

    n = ngx_atofp(value->data + prefix, value->len - prefix, 9);

    if (n < 0 || n > NGX_HTTP_AIQ_PRICE_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid price in \"%V\", "
                           "it must be USD with at most 9 decimals, up to "
                           "1000000", value);
        return NGX_CONF_ERROR;
    }

    *price = n;

    return NGX_CONF_OK;
}


/* The same text is looked at once for a request, however often it is used. */

static char *
ngx_http_aiq_model_value(ngx_conf_t *cf, ngx_str_t *text, ngx_array_t *values,
    ngx_uint_t max, ngx_int_t *number)
{
    ngx_uint_t                         i;
    ngx_http_aiq_value_t              *value;
    ngx_http_compile_complex_value_t   ccv;

    if (text->len == 0) {
        return "has an empty value";
    }

    value = values->elts;

    for (i = 0; i < values->nelts; i++) {
        if (value[i].text.len == text->len
            && ngx_strncmp(value[i].text.data, text->data, text->len) == 0)
        {
            *number = i;
            return NGX_CONF_OK;
        }
    }

    if (values->nelts == max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "too many different values "
                           "\"%V\", there can be %ui of its kind",
                           text, max);
        return NGX_CONF_ERROR;
    }

    *number = values->nelts;

    value = ngx_array_push(values);
    if (value == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(value, sizeof(ngx_http_aiq_value_t));
    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    value->text = *text;

    ccv.cf = cf;
    ccv.value = text;
    ccv.complex_value = &value->value;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_aiq_model_policy(ngx_conf_t *cf, ngx_http_aiq_model_t *model)
{
    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_http_aiq_main_conf_t  *amcf;

    static ngx_str_t  policies[] = {
        ngx_string("order"),
        ngx_string("weight"),
        ngx_string("latency"),
        ngx_string("cost"),
        ngx_string("hash"),
        ngx_null_string
    };

    if (model->policy.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 0; policies[i].len; i++) {
        if (policies[i].len == value[1].len
            && ngx_strncmp(policies[i].data, value[1].data, value[1].len) == 0)
        {
            model->policy = value[1];
            break;
        }
    }

    if (model->policy.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown policy \"%V\", it "
                           "must be \"order\", \"weight\", \"latency\", "
                           "\"cost\" or \"hash\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts != (value[1].data[0] == 'h' ? 3 : 2)) {
        return "has an invalid number of arguments, \"hash\" needs a key "
               "and no other one has any";
    }

    if (value[1].data[0] != 'h') {
        return NGX_CONF_OK;
    }

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);

    return ngx_http_aiq_model_value(cf, &value[2], &amcf->hashes,
                                    AIQ_HASHES_MAX, &model->key);
}


static char *
ngx_http_aiq_model_fallback(ngx_conf_t *cf, ngx_http_aiq_model_t *model)
{
    size_t       prefix;
    ngx_str_t   *value, *name;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "context=", 8) == 0) {
            name = &model->context;
            prefix = 8;

        } else if (ngx_strncmp(value[i].data, "content=", 8) == 0) {
            name = &model->content;
            prefix = 8;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown parameter \"%V\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (name->data) {
            return "is duplicate";
        }

        name->data = value[i].data + prefix;
        name->len = value[i].len - prefix;

        if (ngx_http_aiq_check_name(cf, "model", name) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* Targets may stand before their providers, and fallbacks before their models. */

ngx_int_t
ngx_http_aiq_check_models(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t              i, n;
    ngx_http_aiq_model_t   *model;
    ngx_http_aiq_target_t  *target;

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {

        target = model[i].targets.elts;

        for (n = 0; n < model[i].targets.nelts; n++) {
            if (ngx_http_aiq_model_check_target(cf, amcf, &model[i],
                                                &target[n])
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }

        if (ngx_http_aiq_model_check_fallback(cf, amcf, &model[i],
                                              &model[i].context)
            != NGX_OK
            || ngx_http_aiq_model_check_fallback(cf, amcf, &model[i],
                                                 &model[i].content)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_model_check_target(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf,
    ngx_http_aiq_model_t *model, ngx_http_aiq_target_t *target)
{
    ngx_uint_t                   n;
    ngx_http_aiq_provider_t     *provider;
    ngx_http_aiq_local_model_t  *local;

    provider = amcf->providers.elts;

    for (n = 0; n < amcf->providers.nelts; n++) {
        if (provider[n].name.len == target->provider.len
            && ngx_strncmp(provider[n].name.data, target->provider.data,
                           target->provider.len)
               == 0)
        {
            break;
        }
    }

    if (n == amcf->providers.nelts) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "unknown provider \"%V\" in %s:%ui",
                      &target->provider, target->file, target->line);
        return NGX_ERROR;
    }

    provider = &provider[n];

    if (provider->models.nelts == 0) {

        if (model->policy.data[0] == 'c'
            && (target->input == NGX_CONF_UNSET
                || target->output == NGX_CONF_UNSET))
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"policy cost\" of model \"%V\" needs \"input=\" "
                          "and \"output=\" in %s:%ui",
                          &model->name, target->file, target->line);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    local = provider->models.elts;

    for (n = 0; n < provider->models.nelts; n++) {
        if (local[n].name.len == target->model.len
            && ngx_strncmp(local[n].name.data, target->model.data,
                           target->model.len)
               == 0)
        {
            return NGX_OK;
        }
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "provider \"%V\" has no model \"%V\" in %s:%ui",
                  &provider->name, &target->model, target->file, target->line);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_aiq_model_check_fallback(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf, ngx_http_aiq_model_t *model,
    ngx_str_t *name)
{
    ngx_http_aiq_model_t  *other;

    if (name->len == 0) {
        return NGX_OK;
    }

    other = ngx_http_aiq_model_find(amcf, name);

    if (other == NULL || other == model) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"fallback\" of model \"%V\" leads to %s \"%V\" "
                      "in %s:%ui", &model->name,
                      other ? "itself," : "an unknown model", name,
                      model->file, model->line);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_http_aiq_model_t *
ngx_http_aiq_model_find(ngx_http_aiq_main_conf_t *amcf, ngx_str_t *name)
{
    ngx_uint_t             i;
    ngx_http_aiq_model_t  *model;

    model = amcf->models.elts;

    for (i = 0; i < amcf->models.nelts; i++) {
        if (model[i].name.len == name->len
            && ngx_strncmp(model[i].name.data, name->data, name->len) == 0)
        {
            return &model[i];
        }
    }

    return NULL;
}
