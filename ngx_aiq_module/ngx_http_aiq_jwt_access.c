
#include "ngx_http_aiq_jwt.h"
#include "ngx_http_aiq_ws.h"


/* the ACCESS phase: whose request it is, by its token */


static ngx_uint_t ngx_http_aiq_jwt_waits(ngx_http_request_t *r);
static void ngx_http_aiq_jwt_forget(ngx_http_request_t *r);
static ngx_http_aiq_jwt_ctx_t *ngx_http_aiq_jwt_need_ctx(
    ngx_http_request_t *r);
static void ngx_http_aiq_jwt_cleanup(void *data);
static ngx_int_t ngx_http_aiq_jwt_find(ngx_http_request_t *r,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token);
static ngx_int_t ngx_http_aiq_jwt_bearer(ngx_http_request_t *r,
    ngx_str_t *token);
static ngx_int_t ngx_http_aiq_jwt_admit(ngx_http_request_t *r,
    ngx_http_aiq_jwt_ctx_t *ctx, ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_http_aiq_jwt_verified_t *v);
static ngx_int_t ngx_http_aiq_jwt_deny(ngx_http_request_t *r,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_uint_t why);


/* in the order of ngx_http_aiq_jwt_result_e and ngx_http_aiq_jwt_reason_e */

static ngx_http_aiq_jwt_denial_t  ngx_http_aiq_jwt_denials[] = {

    { 0, ngx_null_string, ngx_null_string, NULL },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is not a signed JSON Web Token."),
      "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is too large."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token's algorithm is not accepted."),
      "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token has an extension that is not supported."),
      "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token's key is not known."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token's signature is not valid."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token's claims are not valid."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token has expired."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is not valid yet."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is valid for too long."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is for another audience."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is from another issuer."), "invalid_token" },

    /* NGX_HTTP_AIQ_JWT_NO_MEMORY is no denial */
    { 0, ngx_null_string, ngx_null_string, NULL },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("missing_token"),
      ngx_string("The request has no token."), NULL },

    { NGX_HTTP_FORBIDDEN, ngx_string("permission_denied"),
      ngx_string("The token's role is not known."), "insufficient_scope" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token does not meet the requirements."),
      "invalid_token" },

    { NGX_HTTP_FORBIDDEN, ngx_string("permission_denied"),
      ngx_string("The token does not permit this."), "insufficient_scope" },

    { NGX_HTTP_SERVICE_UNAVAILABLE, ngx_string("jwt_keys_unavailable"),
      ngx_string("The keys to verify tokens are not available."), NULL },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The token is another caller's."), "invalid_token" },

    { NGX_HTTP_UNAUTHORIZED, ngx_string("invalid_token"),
      ngx_string("The connection was not opened with a token."),
      "invalid_token" }
};


ngx_int_t
ngx_http_aiq_jwt_access_handler(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_str_t                     token;
    ngx_http_aiq_jwt_ctx_t       *ctx;
    ngx_http_aiq_loc_conf_t      *alcf;
    ngx_http_aiq_jwt_result_e     result;
    ngx_http_aiq_jwt_verified_t   v;
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    jlcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_jwt_module);

    if (jlcf->realm == NULL || ngx_http_aiq_key_shown(r)) {
        return NGX_DECLINED;
    }

    if (jlcf->message) {
        rc = ngx_http_aiq_ws_first(r);

        if (rc != NGX_OK && rc != NGX_DECLINED) {
            return rc;
        }

        if (ngx_http_aiq_key_shown(r)) {
            return NGX_DECLINED;
        }
    }

    if (ngx_http_aiq_jwt_waits(r)) {
        return NGX_AGAIN;
    }

    ngx_http_aiq_jwt_forget(r);

    rc = ngx_http_aiq_jwt_find(r, jlcf, &token);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc != NGX_OK) {
        return ngx_http_aiq_jwt_deny(r, jlcf, rc);
    }

    /* another kind of credential, nothing to ask for keys for */

    if (ngx_strlchr(token.data, token.data + token.len, '.') == NULL) {
        return ngx_http_aiq_jwt_deny(r, jlcf, NGX_HTTP_AIQ_JWT_MALFORMED);
    }

    ctx = ngx_http_aiq_jwt_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (jlcf->remote) {
        rc = ngx_http_aiq_jwt_remote_get(ctx, jlcf->remote,
                                         jlcf->key_cache * 1000, 0);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        if (rc == NGX_ERROR) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (rc == NGX_DECLINED) {
            return ngx_http_aiq_jwt_deny(r, jlcf, NGX_HTTP_AIQ_JWT_NO_KEYS);
        }
    }

    result = ngx_http_aiq_jwt_authenticate(r, r->pool, jlcf, &token, &v);

    if (result == NGX_HTTP_AIQ_JWT_UNKNOWN_KEY && jlcf->remote) {
        rc = ngx_http_aiq_jwt_remote_get(ctx, jlcf->remote,
                                         jlcf->key_cache * 1000, 1);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }
    }

    if (result == NGX_HTTP_AIQ_JWT_NO_MEMORY) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (result != NGX_HTTP_AIQ_JWT_OK) {
        return ngx_http_aiq_jwt_deny(r, jlcf, result);
    }

    rc = ngx_http_aiq_jwt_admit(r, ctx, jlcf, &v);

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    if (rc == NGX_OK && alcf->pass) {
        ctx->expires = ngx_http_aiq_jwt_end(&v, jlcf);
        ngx_http_aiq_jwt_watch(ctx, jlcf, &token);
    }

    return rc;
}


/* as far as anybody can write a date */

time_t
ngx_http_aiq_jwt_end(ngx_http_aiq_jwt_verified_t *v,
    ngx_http_aiq_jwt_loc_conf_t *jlcf)
{
    return ngx_min(v->times.exp, NGX_HTTP_AIQ_JWT_YEAR_9999) + jlcf->leeway;
}


time_t
ngx_http_aiq_jwt_expires(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t  *actx;

    actx = ngx_http_aiq_get_ctx(r);

    return actx->jwt ? actx->jwt->expires : 0;
}


ngx_http_aiq_jwt_denial_t *
ngx_http_aiq_jwt_denial(ngx_uint_t why)
{
    return &ngx_http_aiq_jwt_denials[why];
}


ngx_uint_t
ngx_http_aiq_jwt_wanted(ngx_http_request_t *r)
{
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    jlcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_jwt_module);

    return jlcf->realm != NULL;
}


/* Events of the connection may run the phases before there are keys. */

static ngx_uint_t
ngx_http_aiq_jwt_waits(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t  *actx;

    actx = ngx_http_aiq_get_ctx(r);

    return actx && actx->jwt && (actx->jwt->waiting || actx->jwt->owner);
}


/* Who it was at another location, before a redirect, does not count here. */

static void
ngx_http_aiq_jwt_forget(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t  *actx;

    actx = ngx_http_aiq_get_ctx(r);

    if (actx == NULL) {
        return;
    }

    ngx_memzero(&actx->identity, sizeof(ngx_http_aiq_identity_t));
    actx->revoked = 0;

    if (actx->jwt) {
        json_decref(actx->jwt->claims);
        actx->jwt->claims = NULL;
        actx->jwt->payload.len = 0;
        actx->jwt->expires = 0;

        ngx_http_aiq_jwt_unwatch(actx->jwt);
    }
}


static ngx_http_aiq_jwt_ctx_t *
ngx_http_aiq_jwt_need_ctx(ngx_http_request_t *r)
{
    ngx_http_aiq_ctx_t      *actx;
    ngx_pool_cleanup_t      *cln;
    ngx_http_aiq_jwt_ctx_t  *ctx;

    actx = ngx_http_aiq_need_ctx(r);
    if (actx == NULL) {
        return NULL;
    }

    if (actx->jwt) {
        return actx->jwt;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_aiq_jwt_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_aiq_jwt_ctx_t));

    ctx->request = r;
    cln->handler = ngx_http_aiq_jwt_cleanup;

    actx->jwt = ctx;

    return ctx;
}


static void
ngx_http_aiq_jwt_cleanup(void *data)
{
    ngx_http_aiq_jwt_ctx_t *ctx = data;

    ngx_http_aiq_jwt_remote_leave(ctx);
    ngx_http_aiq_jwt_unwatch(ctx);
    json_decref(ctx->claims);

    if (ctx->pool) {
        ngx_destroy_pool(ctx->pool);
    }
}


/* NGX_OK: there is a token; NGX_ERROR; else why there is none */

static ngx_int_t
ngx_http_aiq_jwt_find(ngx_http_request_t *r, ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_str_t *token)
{
    ngx_http_aiq_ctx_t  *actx;

    if (jlcf->message) {
        actx = ngx_http_aiq_get_ctx(r);

        if (actx == NULL || actx->ws == NULL) {
            return NGX_HTTP_AIQ_JWT_ABSENT;
        }

        *token = actx->ws->token;

        return NGX_OK;
    }

    if (jlcf->token == NULL) {
        return ngx_http_aiq_jwt_bearer(r, token);
    }

    if (ngx_http_complex_value(r, jlcf->token, token) != NGX_OK) {
        return NGX_ERROR;
    }

    return token->len ? NGX_OK : NGX_HTTP_AIQ_JWT_ABSENT;
}


static ngx_int_t
ngx_http_aiq_jwt_bearer(ngx_http_request_t *r, ngx_str_t *token)
{
    u_char  *p, *last;

    /* nginx has refused two of them */

    if (r->headers_in.authorization == NULL) {
        return NGX_HTTP_AIQ_JWT_ABSENT;
    }

    p = r->headers_in.authorization->value.data;
    last = p + r->headers_in.authorization->value.len;

    if (last - p <= (ssize_t) sizeof("Bearer ") - 1
        || ngx_strncasecmp(p, (u_char *) "Bearer ", sizeof("Bearer ") - 1)
           != 0)
    {
        return NGX_HTTP_AIQ_JWT_ABSENT;
    }

    p += sizeof("Bearer ") - 1;

    while (p < last && *p == ' ') {
        p++;
    }

    while (p < last && *(last - 1) == ' ') {
        last--;
    }

    if (p == last) {
        return NGX_HTTP_AIQ_JWT_ABSENT;
    }

    token->data = p;
    token->len = last - p;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_admit(ngx_http_request_t *r, ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_http_aiq_jwt_verified_t *v)
{
    ngx_int_t                  rc;
    ngx_http_aiq_ctx_t        *actx;
    ngx_http_core_loc_conf_t  *clcf;

    if (ngx_http_aiq_role_bit(&v->role) == 0) {
        return ngx_http_aiq_jwt_deny(r, jlcf, NGX_HTTP_AIQ_JWT_ROLE);
    }

    ctx->payload = v->payload;

    actx = ngx_http_aiq_get_ctx(r);

    actx->identity.tenant = v->tenant;
    actx->identity.user = v->user;
    actx->identity.role = v->role;
    ngx_str_null(&actx->identity.key_id);
    actx->identity.key_rate = 0;

    rc = ngx_http_aiq_jwt_required(r, jlcf);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc != NGX_OK) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (clcf->satisfy == NGX_HTTP_SATISFY_ANY) {

            /* whatever else lets it pass does not vouch for the token */

            ngx_http_aiq_jwt_forget(r);
        }

        return ngx_http_aiq_jwt_deny(r, jlcf,
                                     rc == NGX_HTTP_UNAUTHORIZED
                                     ? NGX_HTTP_AIQ_JWT_REQUIRED_401
                                     : NGX_HTTP_AIQ_JWT_REQUIRED_403);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_jwt_required(ngx_http_request_t *r,
    ngx_http_aiq_jwt_loc_conf_t *jlcf)
{
    ngx_str_t                    value;
    ngx_uint_t                   i, k;
    ngx_http_complex_value_t    *cv;
    ngx_http_aiq_jwt_require_t  *require;

    if (jlcf->require == NULL) {
        return NGX_OK;
    }

    require = jlcf->require->elts;

    for (i = 0; i < jlcf->require->nelts; i++) {

        cv = require[i].values->elts;

        for (k = 0; k < require[i].values->nelts; k++) {

            if (ngx_http_complex_value(r, &cv[k], &value) != NGX_OK) {
                return NGX_ERROR;
            }

            if (value.len == 0 || (value.len == 1 && value.data[0] == '0')) {
                return require[i].error;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_deny(ngx_http_request_t *r, ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_uint_t why)
{
    u_char                     *p;
    size_t                      len;
    ngx_str_t                   realm;
    ngx_table_elt_t            *h;
    ngx_http_aiq_jwt_denial_t  *denial;

    denial = &ngx_http_aiq_jwt_denials[why];

    if (denial->status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        return ngx_http_aiq_deny(r, denial->status, &denial->code,
                                 &denial->message);
    }

    if (ngx_http_complex_value(r, jlcf->realm, &realm) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = sizeof("Bearer realm=\"\"") - 1 + realm.len;

    if (denial->error) {
        len += sizeof(", error=\"\", error_description=\"\"") - 1
               + ngx_strlen(denial->error) + denial->message.len;
    }

    p = ngx_pnalloc(r->pool, len);
    h = ngx_list_push(&r->headers_out.headers);

    if (p == NULL || h == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    h->hash = 1;
    ngx_str_set(&h->key, "WWW-Authenticate");
    h->lowcase_key = (u_char *) "www-authenticate";
    h->value.data = p;
    h->value.len = len;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    p = ngx_sprintf(p, "Bearer realm=\"%V\"", &realm);

    if (denial->error) {
        ngx_sprintf(p, ", error=\"%s\", error_description=\"%V\"",
                    denial->error, &denial->message);
    }

    /* nginx takes it back where "satisfy any" lets the request pass */

    r->headers_out.www_authenticate = h;

    return ngx_http_aiq_deny(r, denial->status, &denial->code,
                             &denial->message);
}
