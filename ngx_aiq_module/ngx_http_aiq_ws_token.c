
#include "ngx_http_aiq_ws.h"
#include "ngx_http_aiq_jwt.h"


/*
 * Another token for an open WebSocket.  It holds from then on, in place of
 * the one before: for the time of the connection, the role, what is logged, and
 * when keys are taken back.  One that is refused changes nothing.
 *
 * What is kept of it lies in a pool of its own, for a connection may see many.
 */


static ngx_uint_t ngx_http_aiq_ws_renew(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_pool_t *pool, ngx_str_t *token);
static ngx_uint_t ngx_http_aiq_ws_may_renew(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_http_aiq_jwt_verified_t *v);


void
ngx_http_aiq_ws_show(ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_event_t *ev)
{
    ngx_str_t                   token;
    ngx_uint_t                  why;
    ngx_pool_t                 *pool;
    ngx_http_aiq_ws_t          *ws;
    ngx_http_request_t         *r;
    ngx_http_aiq_jwt_denial_t  *denial;

    ws = ctx->ws;
    r = ctx->request;

    if (ws->leaving || !ws->open) {
        return;
    }

    why = NGX_HTTP_AIQ_JWT_NO_KEYS;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, r->connection->log);

    if (pool) {
        token.len = ev->len;
        token.data = ngx_pnalloc(pool, ev->len);

        if (token.data) {
            ngx_memcpy(token.data, ev->data, ev->len);
            why = ngx_http_aiq_ws_renew(r, ctx, pool, &token);
        }
    }

    if (why != NGX_HTTP_AIQ_JWT_OK && pool) {
        ngx_destroy_pool(pool);
    }

    denial = ngx_http_aiq_jwt_denial(why);

    ws->granted = why == NGX_HTTP_AIQ_JWT_OK ? NGX_HTTP_OK : denial->status;
    ws->grant_code = denial->code;
    ws->grant_message = denial->message;
    ws->owes_grant = 1;

    if (ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
        ngx_http_aiq_link_wait(ctx);
    }
}


/* NGX_HTTP_AIQ_JWT_OK: the pool is kept; else why not */

static ngx_uint_t
ngx_http_aiq_ws_renew(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_pool_t *pool, ngx_str_t *token)
{
    ngx_uint_t                    why;
    ngx_http_aiq_jwt_ctx_t       *jwt;
    ngx_http_aiq_jwt_verified_t   v;
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    jwt = ctx->jwt;
    jlcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_jwt_module);

    if (jwt == NULL || jwt->expires == 0) {
        return NGX_HTTP_AIQ_JWT_UNWANTED;
    }

    if (jlcf->set == NULL
        && (jlcf->remote == NULL || jlcf->remote->set.keys == NULL))
    {
        return NGX_HTTP_AIQ_JWT_NO_KEYS;
    }

    why = ngx_http_aiq_jwt_authenticate(r, pool, jlcf, token, &v);

    if (why == NGX_HTTP_AIQ_JWT_NO_MEMORY) {
        return NGX_HTTP_AIQ_JWT_NO_KEYS;
    }

    if (why == NGX_HTTP_AIQ_JWT_OK) {
        why = ngx_http_aiq_ws_may_renew(r, ctx, jlcf, &v);
    }

    if (why != NGX_HTTP_AIQ_JWT_OK) {
        return why;
    }

    ctx->identity.role = v.role;

    jwt->expires = ngx_http_aiq_jwt_end(&v, jlcf);

    ngx_http_aiq_jwt_unwatch(jwt);
    ngx_http_aiq_jwt_watch(jwt, jlcf, token);

    if (jwt->pool) {
        ngx_destroy_pool(jwt->pool);
    }

    jwt->pool = pool;

    ctx->ws->expires = jwt->expires;

    ngx_http_aiq_ws_set_timer(ctx->ws);

    return NGX_HTTP_AIQ_JWT_OK;
}


/* Where it may, its claims are those of the request. */

static ngx_uint_t
ngx_http_aiq_ws_may_renew(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_http_aiq_jwt_verified_t *v)
{
    json_t                   *claims;
    ngx_int_t                 rc;
    ngx_str_t                 payload;
    ngx_http_aiq_jwt_ctx_t   *jwt;
    ngx_http_aiq_identity_t  *identity;

    jwt = ctx->jwt;
    identity = &ctx->identity;

    if (v->tenant.len != identity->tenant.len
        || ngx_memcmp(v->tenant.data, identity->tenant.data, v->tenant.len)
           != 0
        || v->user.len != identity->user.len
        || ngx_memcmp(v->user.data, identity->user.data, v->user.len) != 0)
    {
        return NGX_HTTP_AIQ_JWT_OTHER;
    }

    if (ngx_http_aiq_role_bit(&v->role) == 0) {
        return NGX_HTTP_AIQ_JWT_ROLE;
    }

    claims = jwt->claims;
    payload = jwt->payload;

    jwt->claims = NULL;
    jwt->payload = v->payload;

    rc = ngx_http_aiq_jwt_required(r, jlcf);

    if (rc == NGX_OK) {
        json_decref(claims);
        return NGX_HTTP_AIQ_JWT_OK;
    }

    json_decref(jwt->claims);

    jwt->claims = claims;
    jwt->payload = payload;

    return rc == NGX_HTTP_UNAUTHORIZED ? NGX_HTTP_AIQ_JWT_REQUIRED_401
                                       : NGX_HTTP_AIQ_JWT_REQUIRED_403;
}


ngx_int_t
ngx_http_aiq_ws_push_grant(ngx_http_aiq_ctx_t *ctx)
{
    size_t              size;
    u_char             *p;
    aiq_grant           grant;
    ngx_http_aiq_ws_t  *ws;

    ws = ctx->ws;

    size = sizeof(aiq_grant);
    size += ws->granted == NGX_HTTP_OK
            ? aiq_field_span(ctx->identity.role.len)
            : aiq_field_span(ws->grant_code.len)
              + aiq_field_span(ws->grant_message.len);

    p = ngx_http_aiq_link_push(ctx, AIQ_FRAME_GRANT, 0, size);
    if (p == NULL) {
        return NGX_AGAIN;
    }

    ngx_memzero(&grant, sizeof(aiq_grant));

    grant.status = (uint16_t) ws->granted;
    grant.expires_ms = (int64_t) ws->expires * 1000;

    p = ngx_cpymem(p, &grant, sizeof(aiq_grant));

    if (ws->granted == NGX_HTTP_OK) {
        aiq_field_put(p, AIQ_FIELD_ROLE, ctx->identity.role.data,
                      (uint16_t) ctx->identity.role.len);

    } else {
        p = aiq_field_put(p, AIQ_FIELD_CODE, ws->grant_code.data,
                          (uint16_t) ws->grant_code.len);
        aiq_field_put(p, AIQ_FIELD_MESSAGE, ws->grant_message.data,
                      (uint16_t) ws->grant_message.len);
    }

    ws->owes_grant = 0;

    ngx_http_aiq_link_granted(ctx);

    return NGX_OK;
}
