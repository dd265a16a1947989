
#include "ngx_http_aiq_limit.h"

#include <openssl/sha.h>


typedef struct {
    ngx_uint_t     status;
    ngx_str_t      code;
    ngx_str_t      message;
} ngx_http_aiq_limit_refusal_t;


static ngx_int_t ngx_http_aiq_limit_handler(ngx_http_request_t *r,
    ngx_uint_t late);
static ngx_int_t ngx_http_aiq_limit_find_all(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t late);
static ngx_int_t ngx_http_aiq_limit_apply(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t first, ngx_uint_t n);
static ngx_int_t ngx_http_aiq_limit_shared(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx);
static ngx_http_aiq_limit_ctx_t *ngx_http_aiq_limit_need_ctx(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_limit_find_uses(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t late, ngx_uint_t shared);
static ngx_int_t ngx_http_aiq_limit_find_key(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx);
static ngx_uint_t ngx_http_aiq_limit_used(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_zone_t *zone);
static ngx_int_t ngx_http_aiq_limit_has_identity(ngx_http_request_t *r,
    ngx_http_aiq_limit_zone_t *zone);
static ngx_http_aiq_limit_use_t *ngx_http_aiq_limit_decide(
    ngx_http_aiq_limit_ctx_t *ctx, ngx_http_aiq_limit_use_t *use,
    ngx_uint_t n);
static ngx_http_aiq_limit_use_t *ngx_http_aiq_limit_verdict(
    ngx_http_aiq_limit_use_t *use, ngx_uint_t n, uint64_t *turn);
static void ngx_http_aiq_limit_count(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_use_t *use);
static void ngx_http_aiq_limit_tell(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_use_t *use, uint64_t now);
static void ngx_http_aiq_limit_log(ngx_http_request_t *r,
    ngx_http_aiq_limit_use_t *use, ngx_uint_t n);
static ngx_int_t ngx_http_aiq_limit_refuse(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_http_aiq_limit_reason_e reason);
static ngx_int_t ngx_http_aiq_limit_wait(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx);
static void ngx_http_aiq_limit_wake(ngx_http_request_t *r);
static void ngx_http_aiq_limit_return(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_uint_t rates);
static void ngx_http_aiq_limit_cleanup(void *data);


/* in the order of ngx_http_aiq_limit_reason_e */

static ngx_http_aiq_limit_refusal_t  ngx_http_aiq_limit_refusals[] = {

    { NGX_HTTP_TOO_MANY_REQUESTS, ngx_string("rate_limit_exceeded"),
      ngx_string("Too many requests in a time; try again later.") },

    { NGX_HTTP_TOO_MANY_REQUESTS, ngx_string("concurrency_limit_exceeded"),
      ngx_string("Too many requests at a time; try again when one of them "
                 "has ended.") },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("limit_zone_full"),
      ngx_string("The server cannot count this request at the moment.") },

    { NGX_HTTP_FORBIDDEN, ngx_string("identity_required"),
      ngx_string("The request has no identity that its limits are counted "
                 "by.") },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("limit_unavailable"),
      ngx_string("The server cannot count this request at the moment.") }
};


ngx_int_t
ngx_http_aiq_limit_preaccess_handler(ngx_http_request_t *r)
{
    return ngx_http_aiq_limit_handler(r, 0);
}


ngx_int_t
ngx_http_aiq_limit_precontent_handler(ngx_http_request_t *r)
{
    return ngx_http_aiq_limit_handler(r, 1);
}


static ngx_int_t
ngx_http_aiq_limit_handler(ngx_http_request_t *r, ngx_uint_t late)
{
    ngx_int_t                       rc;
    ngx_uint_t                      first;
    ngx_http_aiq_ctx_t             *actx;
    ngx_http_aiq_limit_ctx_t       *ctx;
    ngx_http_aiq_limit_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_limit_module);

    actx = ngx_http_aiq_get_ctx(r);

    if ((llcf->limits == NULL && (actx == NULL || actx->identity.key_rate == 0))
        || r != r->main)
    {
        return NGX_DECLINED;
    }

    ctx = ngx_http_aiq_limit_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->waiting) {
        rc = ngx_http_aiq_limit_wait(r, ctx);

        return (rc == NGX_DECLINED) ? ngx_http_aiq_limit_shared(r, ctx) : rc;
    }

    if (ctx->asked) {
        return ngx_http_aiq_limit_shared(r, ctx);
    }

    if (ctx->refused) {
        return NGX_DECLINED;
    }

    first = ctx->uses.nelts;

    rc = ngx_http_aiq_limit_find_all(r, ctx, late);

    if (rc == NGX_DECLINED) {
        return ngx_http_aiq_limit_refuse(r, ctx,
                                         NGX_HTTP_AIQ_LIMIT_NO_IDENTITY);
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_aiq_limit_apply(r, ctx, first,
                                  ctx->uses.nelts - ctx->shared - first);

    return (rc == NGX_DECLINED) ? ngx_http_aiq_limit_shared(r, ctx) : rc;
}


/* What is shared comes last.  NGX_DECLINED: there is no identity. */

static ngx_int_t
ngx_http_aiq_limit_find_all(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t late)
{
    ngx_int_t   rc;
    ngx_uint_t  n;

    rc = ngx_http_aiq_limit_find_uses(r, ctx, late, 0);

    if (rc != NGX_OK || !late) {
        return rc;
    }

    rc = ngx_http_aiq_limit_find_key(r, ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    n = ctx->uses.nelts;

    rc = ngx_http_aiq_limit_find_uses(r, ctx, late, 1);

    ctx->shared = ctx->uses.nelts - n;

    return rc;
}


/* NGX_DECLINED: they let it through */

static ngx_int_t
ngx_http_aiq_limit_apply(ngx_http_request_t *r, ngx_http_aiq_limit_ctx_t *ctx,
    ngx_uint_t first, ngx_uint_t n)
{
    ngx_http_aiq_limit_use_t  *use, *refused;

    if (n == 0) {
        return NGX_DECLINED;
    }

    use = ctx->uses.elts;
    use += first;

    refused = ngx_http_aiq_limit_decide(ctx, use, n);

    ngx_http_aiq_limit_log(r, use, n);

    if (refused) {
        return ngx_http_aiq_limit_refuse(r, ctx, refused->reason);
    }

    return ctx->waiting ? ngx_http_aiq_limit_wait(r, ctx) : NGX_DECLINED;
}


static ngx_int_t
ngx_http_aiq_limit_shared(ngx_http_request_t *r, ngx_http_aiq_limit_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i, n, first;
    ngx_http_aiq_limit_use_t  *use;

    n = ctx->shared;

    if (n == 0) {
        return NGX_DECLINED;
    }

    use = ctx->uses.elts;
    first = ctx->uses.nelts - n;

    for (i = first; i < ctx->uses.nelts && !ctx->asked; i++) {

        if (ngx_http_aiq_limit_recall(&use[i])) {
            return ngx_http_aiq_limit_apply(r, ctx, i, 1);
        }
    }

    rc = ngx_http_aiq_limit_ask(r, ctx);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->shared = 0;

    return ngx_http_aiq_limit_apply(r, ctx, first, n);
}


static ngx_http_aiq_limit_ctx_t *
ngx_http_aiq_limit_need_ctx(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t        *actx;
    ngx_pool_cleanup_t        *cln;
    ngx_http_aiq_limit_ctx_t  *ctx;

    /* it outlives internal redirects */

    actx = ngx_http_aiq_need_ctx(r);
    if (actx == NULL) {
        return NULL;
    }

    if (actx->limit) {
        return actx->limit;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_aiq_limit_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_aiq_limit_ctx_t));

    if (ngx_array_init(&ctx->uses, r->pool, 4,
                       sizeof(ngx_http_aiq_limit_use_t))
        != NGX_OK)
    {
        return NULL;
    }

    ctx->request = r;
    cln->handler = ngx_http_aiq_limit_cleanup;
    actx->limit = ctx;

    return ctx;
}


/* NGX_DECLINED: there is no identity */

static ngx_int_t
ngx_http_aiq_limit_find_uses(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t late, ngx_uint_t shared)
{
    ngx_int_t                        rc;
    ngx_str_t                        key;
    ngx_uint_t                       i, index;
    ngx_http_aiq_limit_t           **limit;
    ngx_http_aiq_limit_use_t        *use;
    ngx_http_aiq_limit_zone_t       *zone;
    ngx_http_aiq_limit_loc_conf_t   *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_limit_module);

    if (llcf->limits == NULL) {
        return NGX_OK;
    }

    limit = llcf->limits->elts;
    index = 0;

    for (i = 0; i < llcf->limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        /* of tokens the engine asks, not we */

        if ((limit[i]->shared && zone->tokens == 0) != shared) {
            continue;
        }

        if (shared) {
            index++;

        } else if (zone->late != late) {
            continue;
        }

        if (ngx_http_aiq_limit_used(ctx, zone)) {
            continue;
        }

        rc = ngx_http_aiq_limit_has_identity(r, zone);

        if (rc == NGX_DECLINED && limit[i]->dry_run) {
            continue;
        }

        if (rc != NGX_OK) {
            return rc;
        }

        if (ngx_http_complex_value(r, &zone->key, &key) != NGX_OK) {
            return NGX_ERROR;
        }

        if (key.len == 0 || zone->tokens) {
            continue;
        }

        use = ngx_array_push(&ctx->uses);
        if (use == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(use, sizeof(ngx_http_aiq_limit_use_t));

        use->limit = limit[i];
        use->zone = zone;
        use->rule = zone->rule;
        use->key = key;
        use->hash = ngx_crc32_short(key.data, key.len);
        use->index = index - 1;
    }

    return NGX_OK;
}


/* the API key's own rate; its zone comes last in the order of locks */

static ngx_int_t
ngx_http_aiq_limit_find_key(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx)
{
    ngx_http_aiq_ctx_t              *actx;
    ngx_http_aiq_limit_use_t        *use;
    ngx_http_aiq_limit_zone_t       *zone;
    ngx_http_aiq_limit_main_conf_t  *lmcf;

    actx = ngx_http_aiq_get_ctx(r);

    if (actx->identity.key_rate == 0) {
        return NGX_OK;
    }

    lmcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_limit_module);
    zone = lmcf->key.shm_zone->data;

    if (ngx_http_aiq_limit_used(ctx, zone)) {
        return NGX_OK;
    }

    use = ngx_array_push(&ctx->uses);
    if (use == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(use, sizeof(ngx_http_aiq_limit_use_t));

    use->limit = &lmcf->key;
    use->zone = zone;
    use->key = actx->identity.key_id;
    use->hash = ngx_crc32_short(use->key.data, use->key.len);

    ngx_http_aiq_limit_rule(&use->rule, actx->identity.key_rate, 60 * 1000);

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_limit_keys(ngx_http_request_t *r, u_char *keys, ngx_uint_t *n)
{
    u_char                      *p;
    ngx_str_t                    key;
    ngx_uint_t                   i;
    ngx_http_aiq_limit_t       **limit;
    ngx_http_aiq_loc_conf_t     *alcf;
    ngx_http_aiq_limit_zone_t   *zone;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    *n = 0;

    if (alcf->limits == NULL) {
        return NGX_OK;
    }

    limit = alcf->limits->elts;

    for (i = 0; i < alcf->limits->nelts; i++) {
        zone = limit[i]->shm_zone->data;

        if (zone->tokens == 0) {
            continue;
        }

        if (ngx_http_complex_value(r, &zone->key, &key) != NGX_OK) {
            return NGX_ERROR;
        }

        p = keys + (*n)++ * AIQ_LIMIT_KEY;

        ngx_memzero(p, AIQ_LIMIT_KEY);

        if (key.len) {
            ngx_http_aiq_limit_digest(&key, p);
        }
    }

    return NGX_OK;
}


void
ngx_http_aiq_limit_digest(ngx_str_t *key, u_char *p)
{
    u_char  digest[SHA256_DIGEST_LENGTH];

    SHA256(key->data, key->len, digest);
    ngx_memcpy(p, digest, AIQ_LIMIT_KEY);
}


static ngx_uint_t
ngx_http_aiq_limit_used(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_zone_t *zone)
{
    ngx_uint_t                 i;
    ngx_http_aiq_limit_use_t  *use;

    use = ctx->uses.elts;

    for (i = 0; i < ctx->uses.nelts; i++) {
        if (use[i].zone == zone) {
            return 1;
        }
    }

    return 0;
}


/* A key without its identity is all strangers' together. */

static ngx_int_t
ngx_http_aiq_limit_has_identity(ngx_http_request_t *r,
    ngx_http_aiq_limit_zone_t *zone)
{
    ngx_int_t                  *index;
    ngx_uint_t                  i;
    ngx_http_variable_value_t  *vv;

    index = zone->identity.elts;

    for (i = 0; i < zone->identity.nelts; i++) {
        vv = ngx_http_get_flushed_variable(r, index[i]);

        if (vv == NULL) {
            return NGX_ERROR;
        }

        if (vv->not_found || vv->len == 0) {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


/*
 * Checks, and charges all or none.  The zones are sorted by name, so that no
 * two workers lock them in a different order.
 */

static ngx_http_aiq_limit_use_t *
ngx_http_aiq_limit_decide(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_use_t *use, ngx_uint_t n)
{
    uint64_t                   now, turn;
    ngx_uint_t                 i;
    ngx_http_aiq_limit_use_t  *refused;

    for (i = 0; i < n; i++) {
        ngx_shmtx_lock(&use[i].zone->shpool->mutex);
    }

    now = ngx_http_aiq_limit_now();

    for (i = 0; i < n; i++) {
        ngx_http_aiq_limit_check(&use[i], now);
    }

    turn = now;
    refused = ngx_http_aiq_limit_verdict(use, n, &turn);

    for (i = 0; i < n; i++) {

        if (!refused && use[i].status != NGX_HTTP_AIQ_LIMIT_REJECTED) {
            ngx_http_aiq_limit_charge(&use[i], ngx_max(turn, use[i].turn));
        }

        if (!refused || use[i].status == NGX_HTTP_AIQ_LIMIT_REJECTED) {
            ngx_http_aiq_limit_count(ctx, &use[i]);
        }

        ngx_http_aiq_limit_tell(ctx, &use[i], now);
    }

    for (i = 0; i < n; i++) {
        ngx_shmtx_unlock(&use[i].zone->shpool->mutex);
    }

    ctx->turn = turn;
    ctx->waiting = (!refused && turn > now);

    return refused;
}


/* the first that refuses, or NULL and when the last one lets it through */

static ngx_http_aiq_limit_use_t *
ngx_http_aiq_limit_verdict(ngx_http_aiq_limit_use_t *use, ngx_uint_t n,
    uint64_t *turn)
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {

        if (use[i].limit->dry_run) {
            continue;
        }

        if (use[i].status == NGX_HTTP_AIQ_LIMIT_REJECTED) {
            return &use[i];
        }

        *turn = ngx_max(*turn, use[i].turn);
    }

    return NULL;
}


static void
ngx_http_aiq_limit_count(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_use_t *use)
{
    ngx_http_aiq_limit_status_e  status;

    status = use->status;

    if (use->limit->dry_run) {

        if (status == NGX_HTTP_AIQ_LIMIT_REJECTED) {
            status = NGX_HTTP_AIQ_LIMIT_REJECTED_DRY_RUN;

        } else if (status == NGX_HTTP_AIQ_LIMIT_DELAYED) {
            status = NGX_HTTP_AIQ_LIMIT_DELAYED_DRY_RUN;
        }
    }

    use->zone->sh->counts[status]++;

    if (use->status == NGX_HTTP_AIQ_LIMIT_REJECTED
        && use->reason == NGX_HTTP_AIQ_LIMIT_FULL)
    {
        use->zone->sh->full++;
    }

    ctx->counted = 1;
    ctx->status = ngx_max(ctx->status, status);
}


/* for headers: what has least remaining, and when all would let it through */

static void
ngx_http_aiq_limit_tell(ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    uint64_t                    retry;
    ngx_http_aiq_limit_info_t  *info, state;

    if (use->limit->dry_run) {
        return;
    }

    info = &ctx->info;

    if (use->status == NGX_HTTP_AIQ_LIMIT_REJECTED) {
        retry = (use->reason == NGX_HTTP_AIQ_LIMIT_RATE) ? use->turn - now
                                                         : 1000;
        info->retry = ngx_max(info->retry, retry);
    }

    if (use->node == NULL || use->rule.limit == 0) {
        return;
    }

    ngx_http_aiq_limit_state(use, now, &state);

    if (info->limit == 0
        || state.remaining < info->remaining
        || (state.remaining == info->remaining && state.reset > info->reset))
    {
        info->limit = state.limit;
        info->remaining = state.remaining;
        info->reset = state.reset;
    }
}


static void
ngx_http_aiq_limit_log(ngx_http_request_t *r, ngx_http_aiq_limit_use_t *use,
    ngx_uint_t n)
{
    ngx_uint_t                      i, level;
    ngx_str_t                      *id;
    ngx_http_aiq_ctx_t             *actx;
    ngx_http_aiq_limit_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_limit_module);
    actx = ngx_http_aiq_get_ctx(r);
    id = &actx->request_id;

    for (i = 0; i < n; i++) {

        if (use[i].status == NGX_HTTP_AIQ_LIMIT_DELAYED) {

            /* as for limit_req, a level below */

            level = (llcf->log_level == NGX_LOG_INFO) ? NGX_LOG_INFO
                                                      : llcf->log_level + 1;

            ngx_log_error(level, r->connection->log, 0,
                          "aiq: request \"%V\" waits%s, zone \"%V\"", id,
                          use[i].limit->dry_run ? ", dry run" : "",
                          &use[i].zone->name);

        } else if (use[i].status == NGX_HTTP_AIQ_LIMIT_REJECTED) {

            level = llcf->log_level;

            if (use[i].reason == NGX_HTTP_AIQ_LIMIT_FULL) {
                level = NGX_LOG_ERR;
            }

            ngx_log_error(level, r->connection->log, 0,
                          "aiq: request \"%V\" refused%s: %V, zone \"%V\"",
                          id, use[i].limit->dry_run ? ", dry run" : "",
                          &ngx_http_aiq_limit_refusals[use[i].reason].code,
                          &use[i].zone->name);
        }
    }
}


static ngx_int_t
ngx_http_aiq_limit_refuse(ngx_http_request_t *r, ngx_http_aiq_limit_ctx_t *ctx,
    ngx_http_aiq_limit_reason_e reason)
{
    ngx_http_aiq_ctx_t            *actx;
    ngx_http_aiq_limit_refusal_t  *refusal;

    /* what the phase before has charged */
    ngx_http_aiq_limit_return(ctx, 1);

    ctx->refused = 1;
    ctx->counted = 1;
    ctx->status = NGX_HTTP_AIQ_LIMIT_REJECTED;

    actx = ngx_http_aiq_get_ctx(r);
    refusal = &ngx_http_aiq_limit_refusals[reason];

    ngx_memzero(&actx->failure, sizeof(ngx_http_aiq_failure_t));

    actx->failure.status = refusal->status;
    actx->failure.code = refusal->code;
    actx->failure.message = refusal->message;

    actx->status = refusal->code;

    if (refusal->status == NGX_HTTP_TOO_MANY_REQUESTS) {
        ngx_http_aiq_limit_hit(r);
    }

    if (reason == NGX_HTTP_AIQ_LIMIT_NO_IDENTITY) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "aiq: request \"%V\" refused: %V",
                      &actx->request_id, &refusal->code);
    }

    return ngx_http_aiq_fail_anywhere(r, actx);
}


void
ngx_http_aiq_limit_relayed(ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t               *code;
    ngx_http_aiq_failure_t  *failure;

    failure = &ctx->failure;
    code = &ngx_http_aiq_limit_refusals[NGX_HTTP_AIQ_LIMIT_RATE].code;

    if (ctx->limit == NULL || failure->code.len != code->len
        || ngx_memcmp(failure->code.data, code->data, code->len) != 0)
    {
        return;
    }

    ctx->limit->counted = 1;
    ctx->limit->status = NGX_HTTP_AIQ_LIMIT_REJECTED;
    ctx->limit->info.retry = (uint64_t) failure->retry_after * 1000;

    ngx_http_aiq_limit_hit(ctx->request);
}


static ngx_int_t
ngx_http_aiq_limit_wait(ngx_http_request_t *r, ngx_http_aiq_limit_ctx_t *ctx)
{
    uint64_t  now;

    now = ngx_http_aiq_limit_now();

    /* a timer goes by the time that the worker remembers */

    if (now >= ctx->turn) {
        ctx->waiting = 0;
        return NGX_DECLINED;
    }

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_aiq_limit_wake;

    r->connection->write->delayed = 1;
    ngx_add_timer(r->connection->write, (ngx_msec_t) (ctx->turn - now));

    return NGX_AGAIN;
}


static void
ngx_http_aiq_limit_wake(ngx_http_request_t *r)
{
    ngx_event_t  *wev;

    wev = r->connection->write;

    if (wev->delayed) {

        if (ngx_handle_write_event(wev, 0) != NGX_OK) {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        }

        return;
    }

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


/* rates: as if the request had never come */

static void
ngx_http_aiq_limit_return(ngx_http_aiq_limit_ctx_t *ctx, ngx_uint_t rates)
{
    ngx_uint_t                 i;
    ngx_http_aiq_limit_use_t  *use;

    use = ctx->uses.elts;

    for (i = 0; i < ctx->uses.nelts; i++) {

        if (use[i].charged && rates) {
            ngx_http_aiq_limit_return_rate(&use[i]);
        }

        if (use[i].conn) {
            ngx_http_aiq_limit_return_conn(&use[i]);
        }
    }
}


static void
ngx_http_aiq_limit_cleanup(void *data)
{
    ngx_http_aiq_limit_ctx_t *ctx = data;

    /* who leaves while he waits leaves his turn to others */
    ngx_http_aiq_limit_return(ctx, ctx->waiting);
}
