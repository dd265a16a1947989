
#include "ngx_http_aiq_charge.h"


/*
 * "aiq_charge": what a request costs that another content handler serves.
 *
 * The engine holds it in PRECONTENT, the request waits for that.  The job of
 * the charge then lasts as long as the request; when that ends, it is due, or
 * not where nobody got anything.  If we die meanwhile, it is due.
 *
 * A request is charged once, by the first location with an "aiq_charge" whose
 * content handler it comes to, whatever internal redirects that one makes.
 */


#define NGX_HTTP_AIQ_CHARGE_TIMEOUT  10000   /* of the engine's answer */


static ngx_int_t ngx_http_aiq_charge_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_charge_sum(ngx_http_request_t *r,
    ngx_http_aiq_charge_t *charge, aiq_charge *sum);
static ngx_int_t ngx_http_aiq_charge_begin(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, aiq_charge *sum);
static ngx_int_t ngx_http_aiq_charge_refuse(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_charge_cleanup(void *data);
static ngx_uint_t ngx_http_aiq_charge_due(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_charge_amount(ngx_str_t *value, aiq_charge *sum);
static char *ngx_http_aiq_charge_missing(ngx_conf_t *cf,
    ngx_http_aiq_loc_conf_t *conf);


static ngx_int_t
ngx_http_aiq_charge_handler(ngx_http_request_t *r)
{
    aiq_charge                  sum;
    ngx_http_aiq_ctx_t         *ctx;
    ngx_http_aiq_loc_conf_t    *alcf;
    ngx_http_aiq_charge_ctx_t  *charge;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    if (alcf->charge_pass == NULL || r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    charge = ctx->charge;

    if (charge == NULL) {

        if (ngx_http_aiq_charge_sum(r, alcf->charge, &sum) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (sum.tokens == 0 && sum.nano_usd == 0) {
            return NGX_DECLINED;
        }

        return ngx_http_aiq_charge_begin(r, ctx, &sum);
    }

    if (charge->waiting) {
        return NGX_AGAIN;
    }

    /* who is refused goes to his error page for nothing */

    if (charge->ctx.job.head || charge->refused) {
        return NGX_DECLINED;
    }

    return ngx_http_aiq_charge_refuse(r, ctx);
}


static ngx_int_t
ngx_http_aiq_charge_sum(ngx_http_request_t *r, ngx_http_aiq_charge_t *charge,
    aiq_charge *sum)
{
    ngx_str_t   value;
    ngx_uint_t  i;

    *sum = charge->fixed;

    for (i = 0; i < charge->nvalues; i++) {

        if (ngx_http_complex_value(r, &charge->values[i], &value) != NGX_OK) {
            return NGX_ERROR;
        }

        if (ngx_http_aiq_charge_amount(&value, sum) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "aiq: invalid charge \"%V\", it must be like "
                          "\"0.002usd\" or \"100tokens\"", &value);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_charge_begin(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    aiq_charge *sum)
{
    ngx_http_cleanup_t         *cln;
    ngx_http_aiq_loc_conf_t    *alcf;
    ngx_http_aiq_charge_ctx_t  *charge;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    charge = ngx_pcalloc(r->pool, sizeof(ngx_http_aiq_charge_ctx_t));
    if (charge == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    charge->ctx.request = r;
    charge->ctx.identity = ctx->identity;
    charge->ctx.request_id = ctx->request_id;
    charge->ctx.traceparent = ctx->traceparent;
    charge->ctx.tracestate = ctx->tracestate;
    charge->ctx.pass = alcf->charge_pass;
    charge->ctx.charging = 1;
    charge->sum = *sum;

    if (ngx_http_aiq_job_init(r, &charge->ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* comes before that of the job */

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_aiq_charge_cleanup;
    cln->data = charge;

    ctx->charge = charge;

    if (ngx_http_aiq_open(r, &charge->ctx) != NGX_OK) {
        return ngx_http_aiq_charge_refuse(r, ctx);
    }

    charge->waiting = 1;

    return ngx_http_aiq_phase_wait(r);
}


static ngx_int_t
ngx_http_aiq_charge_refuse(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_charge_ctx_t  *charge;

    charge = ctx->charge;
    charge->refused = 1;

    if (charge->ctx.failure.status == 0) {

        /* the engine has ended it without a word */
        ngx_http_aiq_set_failure(&charge->ctx, NGX_HTTP_AIQ_BAD_REPLY);
    }

    ctx->failure = charge->ctx.failure;
    ctx->status = ctx->failure.code;

    if (ctx->failure.relayed) {
        ngx_http_aiq_limit_relayed(ctx);

        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "aiq: request \"%V\" refused: %V",
                      &ctx->request_id, &ctx->failure.code);
    }

    return ngx_http_aiq_fail_anywhere(r, ctx);
}


void
ngx_http_aiq_charge_start(ngx_http_aiq_ctx_t *ctx)
{
    if (ngx_http_aiq_open(ctx->request, ctx) != NGX_OK) {
        ngx_http_aiq_charge_run(ctx);
    }
}


const char *
ngx_http_aiq_charge_head(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    u_char               *p;
    aiq_text              n, v;
    ngx_str_t             name, value;
    const char           *why;
    ngx_http_request_t   *r;
    ngx_http_aiq_job_t   *job;
    ngx_http_aiq_head_t   head;

    r = ctx->request;
    job = &ctx->job;

    if (job->failed) {
        return NULL;
    }

    job->head = 1;

    if (job->timeout.timer_set) {
        ngx_del_timer(&job->timeout);
    }

    /* without memory for its headers it goes on without them */

    p = ngx_pnalloc(r->pool, ev->len);
    if (p == NULL) {
        return NULL;
    }

    ngx_memcpy(p, ev->data, ev->len);

    why = ngx_http_aiq_frames_head(p, ev->len, &head);

    if (why) {
        return why;
    }

    while (ngx_http_aiq_frames_header(&head.headers, &n, &v)) {

        name.data = (u_char *) n.data;
        name.len = n.len;
        value.data = (u_char *) v.data;
        value.len = v.len;

        if (ngx_http_aiq_add_header(r, &name, &value) != NGX_OK) {
            break;
        }
    }

    return NULL;
}


void
ngx_http_aiq_charge_run(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_charge_ctx_t  *charge;

    charge = (ngx_http_aiq_charge_ctx_t *) ctx;

    if (!charge->waiting) {

        /* the request goes on, whatever the engine has to say */
        return;
    }

    charge->waiting = 0;

    ngx_http_aiq_phase_resume(ctx->request);
}


static void
ngx_http_aiq_charge_cleanup(void *data)
{
    ngx_http_aiq_charge_ctx_t *charge = data;

    ngx_http_request_t  *r;
    ngx_http_aiq_ctx_t  *ctx;

    r = charge->ctx.request;
    ctx = ngx_http_aiq_get_ctx(r);

    if (charge->waiting) {
        ngx_str_set(&ctx->status, "client_closed");
    }

    if (charge->ctx.job.head && !charge->refused
        && ngx_http_aiq_charge_due(r))
    {
        ctx->usage.tokens_in = charge->sum.tokens;
        ctx->usage.cost_nano_usd = charge->sum.nano_usd;

    } else if (charge->ctx.job.link) {

        /* where there is no room for it, it is due all the same */

        (void) ngx_http_aiq_link_push(&charge->ctx, AIQ_FRAME_END, 0, 0);
    }
}


/*
 * Who gets nothing because something failed pays nothing; who leaves before he
 * gets it does, as others have worked for him.
 */

static ngx_uint_t
ngx_http_aiq_charge_due(ngx_http_request_t *r)
{
    ngx_uint_t  status;

    status = r->err_status ? r->err_status : r->headers_out.status;

    if (status == NGX_HTTP_CLIENT_CLOSED_REQUEST) {
        return 1;
    }

    return r->header_sent && status < NGX_HTTP_INTERNAL_SERVER_ERROR;
}


char *
ngx_http_aiq_charge(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_aiq_charge_t             *charge;
    ngx_http_aiq_main_conf_t          *amcf;
    ngx_http_compile_complex_value_t   ccv;

    if (alcf->charge) {
        return "is duplicate";
    }

    charge = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_charge_t));
    if (charge == NULL) {
        return NGX_CONF_ERROR;
    }

    charge->file = cf->conf_file->file.name.data;
    charge->line = cf->conf_file->line;

    alcf->charge = charge;

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        charge->off = 1;
        return NGX_CONF_OK;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_script_variables_count(&value[i])) {

            ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

            ccv.cf = cf;
            ccv.value = &value[i];
            ccv.complex_value = &charge->values[charge->nvalues++];

            if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
                return NGX_CONF_ERROR;
            }

        } else if (ngx_http_aiq_charge_amount(&value[i], &charge->fixed)
                   != NGX_OK)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid charge \"%V\", it must be like "
                               "\"0.002usd\" or \"100tokens\"", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);
    amcf->charges = 1;

    return NGX_CONF_OK;
}


/* number unit; adds to the sum */

static ngx_int_t
ngx_http_aiq_charge_amount(ngx_str_t *value, aiq_charge *sum)
{
    off_t      tokens;
    int64_t    nano;
    ngx_str_t  number;

    number = *value;

    if (number.len > 3
        && ngx_strncmp(number.data + number.len - 3, "usd", 3) == 0)
    {
        number.len -= 3;

        if (ngx_http_aiq_budget_dollars(&number, &nano) != NGX_OK
            || nano > AIQ_CHARGE_NANO_USD_MAX - sum->nano_usd)
        {
            return NGX_ERROR;
        }

        sum->nano_usd += nano;

        return NGX_OK;
    }

    if (number.len > 6
        && ngx_strncmp(number.data + number.len - 6, "tokens", 6) == 0)
    {
        tokens = ngx_atoof(number.data, number.len - 6);

        if (tokens == NGX_ERROR
            || tokens > AIQ_CHARGE_TOKENS_MAX - sum->tokens)
        {
            return NGX_ERROR;
        }

        sum->tokens += tokens;

        return NGX_OK;
    }

    return NGX_ERROR;
}


char *
ngx_http_aiq_charge_merge(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *prev,
    ngx_http_aiq_loc_conf_t *conf)
{
    ngx_http_aiq_pass_t  *pass;

    static ngx_str_t  service = ngx_string("charge");

    if (conf->charge && !conf->charge->off && conf->pass) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"aiq_charge\" is not for a location with "
                      "\"aiq_pass\" in %s:%ui",
                      conf->charge->file, conf->charge->line);
        return NGX_CONF_ERROR;
    }

    if (conf->charge == NULL) {
        conf->charge = prev->charge;
    }

    if (conf->charge == NULL || conf->charge->off || conf->pass) {
        return NGX_CONF_OK;
    }

    pass = ngx_http_aiq_add_entry(cf, conf, &service, conf->charge->file,
                                  conf->charge->line);
    if (pass == NULL) {
        return NGX_CONF_ERROR;
    }

    pass->timeout = NGX_HTTP_AIQ_CHARGE_TIMEOUT;

    conf->charge_pass = pass;

    return ngx_http_aiq_charge_missing(cf, conf);
}


/* a budget that this charge never counts against */

static char *
ngx_http_aiq_charge_missing(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *conf)
{
    ngx_uint_t              i;
    ngx_http_aiq_budget_t  *budget;

    if (conf->budgets == NULL || conf->charge->nvalues) {
        return NGX_CONF_OK;
    }

    budget = conf->budgets->elts;

    for (i = 0; i < conf->budgets->nelts; i++) {

        if (ngx_strcmp(budget[i].unit, "usd") == 0
            ? conf->charge->fixed.nano_usd : conf->charge->fixed.tokens)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"aiq_charge\" says nothing in %s, which the budget "
                      "in %s:%ui is in, in %s:%ui",
                      budget[i].unit, budget[i].file, budget[i].line,
                      conf->charge->file, conf->charge->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


ngx_uint_t
ngx_http_aiq_charge_has_tokens(ngx_http_aiq_loc_conf_t *conf)
{
    return conf->charge_pass
           && (conf->charge->nvalues || conf->charge->fixed.tokens);
}


ngx_int_t
ngx_http_aiq_charge_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_array_t                *handlers;
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    if (!amcf->charges) {
        return NGX_OK;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    handlers = &cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers;

    if (ngx_array_push(handlers) == NULL) {
        return NGX_ERROR;
    }

    /*
     * the first one runs last: when limits have let the request pass, and
     * "try_files" has led it to where it is served
     */

    h = handlers->elts;
    ngx_memmove(h + 1, h,
                (handlers->nelts - 1) * sizeof(ngx_http_handler_pt));

    *h = ngx_http_aiq_charge_handler;

    return NGX_OK;
}
