
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_BUDGETS      4
#define NGX_HTTP_AIQ_NANO         1000000000
#define NGX_HTTP_AIQ_TOKENS_MAX   1000000000000000
#define NGX_HTTP_AIQ_DOLLARS_MAX  1000000000


static ngx_int_t ngx_http_aiq_budget_amount(ngx_str_t *value,
    ngx_http_aiq_budget_t *budget);
static char *ngx_http_aiq_budget_word(ngx_str_t *value, char **words);


static char  *ngx_http_aiq_scopes[] = { "tenant", "user", "key", NULL };
static char  *ngx_http_aiq_periods[] = { "day", "month", NULL };


char *
ngx_http_aiq_budget(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    ngx_str_t              *value;
    ngx_uint_t              i;
    ngx_http_aiq_budget_t  *budget, *other;

    value = cf->args->elts;

    if (alcf->budgets == NULL) {
        alcf->budgets = ngx_array_create(cf->pool, NGX_HTTP_AIQ_BUDGETS,
                                         sizeof(ngx_http_aiq_budget_t));
        if (alcf->budgets == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (alcf->budgets->nelts == NGX_HTTP_AIQ_BUDGETS) {
        return "has more than 4 budgets on this level";
    }

    budget = ngx_array_push(alcf->budgets);
    if (budget == NULL) {
        return NGX_CONF_ERROR;
    }

    budget->file = cf->conf_file->file.name.data;
    budget->line = cf->conf_file->line;

    budget->scope = ngx_http_aiq_budget_word(&value[1], ngx_http_aiq_scopes);

    if (budget->scope == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid scope \"%V\", it must be \"tenant\", "
                           "\"user\", or \"key\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_aiq_budget_amount(&value[2], budget) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid budget \"%V\", it must be like "
                           "\"200usd/month\" or \"50000tokens/day\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    other = alcf->budgets->elts;

    for (i = 0; i < alcf->budgets->nelts - 1; i++) {
        if (other[i].scope == budget->scope && other[i].unit == budget->unit
            && other[i].period == budget->period)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate budget of a %s in %s a %s",
                               budget->scope, budget->unit, budget->period);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* number unit "/" period */

static ngx_int_t
ngx_http_aiq_budget_amount(ngx_str_t *value, ngx_http_aiq_budget_t *budget)
{
    u_char     *p, *last;
    ngx_str_t   number, unit, period;

    p = value->data;
    last = p + value->len;

    number.data = p;

    while (p < last && ((*p >= '0' && *p <= '9') || *p == '.')) {
        p++;
    }

    number.len = p - number.data;
    unit.data = p;

    while (p < last && *p != '/') {
        p++;
    }

    if (p == last) {
        return NGX_ERROR;
    }

    unit.len = p++ - unit.data;
    period.data = p;
    period.len = last - p;

    budget->period = ngx_http_aiq_budget_word(&period, ngx_http_aiq_periods);

    if (budget->period == NULL) {
        return NGX_ERROR;
    }

    if (unit.len == 3 && ngx_strncmp(unit.data, "usd", 3) == 0) {
        budget->unit = "usd";

        return (ngx_http_aiq_budget_dollars(&number, &budget->amount) == NGX_OK
                && budget->amount)
               ? NGX_OK : NGX_ERROR;
    }

    if (unit.len == 6 && ngx_strncmp(unit.data, "tokens", 6) == 0) {
        budget->unit = "tokens";
        budget->amount = ngx_atoof(number.data, number.len);

        if (budget->amount > 0 && budget->amount <= NGX_HTTP_AIQ_TOKENS_MAX) {
            return NGX_OK;
        }
    }

    return NGX_ERROR;
}


ngx_int_t
ngx_http_aiq_budget_dollars(ngx_str_t *value, int64_t *nano)
{
    u_char   *p, *last;
    off_t     dollars;
    int64_t   unit;

    p = value->data;
    last = p + value->len;

    while (p < last && *p != '.') {
        p++;
    }

    dollars = ngx_atoof(value->data, p - value->data);

    if (dollars == NGX_ERROR || dollars > NGX_HTTP_AIQ_DOLLARS_MAX) {
        return NGX_ERROR;
    }

    *nano = (int64_t) dollars * NGX_HTTP_AIQ_NANO;

    if (p < last && ++p == last) {
        return NGX_ERROR;
    }

    for (unit = NGX_HTTP_AIQ_NANO / 10; p < last; unit /= 10) {
        if (*p < '0' || *p > '9' || unit == 0) {
            return NGX_ERROR;
        }

        *nano += (*p++ - '0') * unit;
    }

    return NGX_OK;
}


static char *
ngx_http_aiq_budget_word(ngx_str_t *value, char **words)
{
    ngx_uint_t  i;

    for (i = 0; words[i]; i++) {
        if (value->len == ngx_strlen(words[i])
            && ngx_strncmp(value->data, words[i], value->len) == 0)
        {
            return words[i];
        }
    }

    return NULL;
}


/* at most NGX_HTTP_AIQ_BUDGETS_LEN bytes */

u_char *
ngx_http_aiq_budget_document(u_char *p, ngx_array_t *budgets)
{
    ngx_uint_t              i;
    ngx_http_aiq_budget_t  *budget;

    if (budgets == NULL) {
        return p;
    }

    p = ngx_sprintf(p, ",\"budgets\":[");

    budget = budgets->elts;

    for (i = 0; i < budgets->nelts; i++) {
        p = ngx_sprintf(p, "%s{\"scope\":\"%s\",\"unit\":\"%s\","
                        "\"period\":\"%s\",\"amount\":%L}",
                        i ? "," : "", budget[i].scope, budget[i].unit,
                        budget[i].period, budget[i].amount);
    }

    *p++ = ']';

    return p;
}
