
#include "ngx_http_aiq_limit.h"


/*
 * Shared limits.  The engine is asked about all that a request needs at once:
 * it counts them in Redis, all or none.  Where it has no answer in time, each
 * limit goes by its own zone again, with this nginx's part of the rate, or
 * fails.
 */


#define NGX_HTTP_AIQ_LIMIT_CALM  5000   /* ms */


static size_t ngx_http_aiq_limit_rate_keys(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, u_char *keys);
static void ngx_http_aiq_limit_answered(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx);
static void ngx_http_aiq_limit_alone(ngx_http_aiq_limit_use_t *use);
static void ngx_http_aiq_limit_notice(ngx_http_request_t *r,
    ngx_uint_t answered);


/* a worker's: has it said that there are no answers, and the last of them */

static ngx_uint_t  ngx_http_aiq_limit_is_alone;
static ngx_msec_t  ngx_http_aiq_limit_unanswered;


ngx_int_t
ngx_http_aiq_limit_ask(ngx_http_request_t *r, ngx_http_aiq_limit_ctx_t *ctx)
{
    u_char                          keys[AIQ_RATES_MAX * AIQ_LIMIT_KEY];
    size_t                          len;
    ngx_int_t                       rc;
    ngx_http_aiq_limit_loc_conf_t  *llcf;

    if (ctx->question.waiting) {
        return NGX_AGAIN;
    }

    if (!ctx->asked) {
        llcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_limit_module);

        len = ngx_http_aiq_limit_rate_keys(r, ctx, keys);

        rc = ngx_http_aiq_question_ask(r, ngx_http_aiq_get_ctx(r),
                                       &ctx->question, llcf->entry, keys, len);

        if (rc != NGX_DECLINED) {
            ctx->asked = (rc == NGX_AGAIN);
            return rc;
        }
    }

    ctx->asked = 0;

    ngx_http_aiq_limit_answered(r, ctx);

    return NGX_OK;
}


/* In the policy's order; zeroes where a limit does not count the request. */

static size_t
ngx_http_aiq_limit_rate_keys(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, u_char *keys)
{
    ngx_uint_t                       i, n;
    ngx_http_aiq_limit_t           **limit;
    ngx_http_aiq_limit_use_t        *use;
    ngx_http_aiq_limit_zone_t       *zone;
    ngx_http_aiq_limit_loc_conf_t   *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_limit_module);

    limit = llcf->limits->elts;
    n = 0;

    for (i = 0; i < llcf->limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;
        n += (limit[i]->shared && zone->tokens == 0);
    }

    ngx_memzero(keys, n * AIQ_LIMIT_KEY);

    use = ctx->uses.elts;

    for (i = ctx->uses.nelts - ctx->shared; i < ctx->uses.nelts; i++) {
        ngx_http_aiq_limit_digest(&use[i].key,
                                  keys + use[i].index * AIQ_LIMIT_KEY);
    }

    return n * AIQ_LIMIT_KEY;
}


static void
ngx_http_aiq_limit_answered(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx)
{
    ngx_uint_t                 i, answered;
    ngx_http_aiq_answer_t     *answer;
    ngx_http_aiq_limit_use_t  *use;

    answer = &ctx->question.answer;
    answered = (answer->status != NGX_HTTP_SERVICE_UNAVAILABLE);

    use = ctx->uses.elts;

    for (i = ctx->uses.nelts - ctx->shared; i < ctx->uses.nelts; i++) {

        if (answered && use[i].index < answer->nrates) {
            use[i].rate = answer->rates[use[i].index];
            use[i].told = 1;

        } else {
            ngx_http_aiq_limit_alone(&use[i]);
        }
    }

    ngx_http_aiq_limit_notice(r, answered);
}


static void
ngx_http_aiq_limit_alone(ngx_http_aiq_limit_use_t *use)
{
    (void) ngx_atomic_fetch_add(&use->zone->sh->alone, 1);

    if (use->limit->nodes == 0) {
        use->closed = 1;
        return;
    }

    /* the grain stays that of the zone, in which its times are kept */

    use->rule.limit /= use->limit->nodes;
}


/* Now and then an answer comes too late: that is not over at the next one. */

static void
ngx_http_aiq_limit_notice(ngx_http_request_t *r, ngx_uint_t answered)
{
    if (answered) {

        if (ngx_http_aiq_limit_is_alone
            && ngx_current_msec - ngx_http_aiq_limit_unanswered
               >= NGX_HTTP_AIQ_LIMIT_CALM)
        {
            ngx_http_aiq_limit_is_alone = 0;

            ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0,
                          "aiq: shared limits are counted for all nginx again");
        }

        return;
    }

    ngx_http_aiq_limit_unanswered = ngx_current_msec;

    if (!ngx_http_aiq_limit_is_alone) {
        ngx_http_aiq_limit_is_alone = 1;

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "aiq: no answer about shared limits, this nginx goes by "
                      "what it knows itself");
    }
}
