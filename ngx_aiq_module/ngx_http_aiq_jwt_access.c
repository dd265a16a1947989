
#include "ngx_http_aiq_jwt.h"
#include "ngx_http_aiq_ws.h"


/*
 * The ACCESS phase: a token is verified once and then remembered, in shared
 * memory, by a hash of it, of the keys and of what the location asks of its
 * claims; so another key set or another location remembers nothing of it.
 * Times and requirements are checked for each request.
 */


#define NGX_HTTP_AIQ_JWT_DIGESTS  (3 * NGX_HTTP_AIQ_AUTH_DIGEST)


typedef struct {
    ngx_http_aiq_jwt_times_t     times;
    uint16_t                     tenant;
    uint16_t                     user;
    uint16_t                     role;
    uint16_t                     payload;
} ngx_http_aiq_jwt_packed_t;


static ngx_uint_t ngx_http_aiq_jwt_waits(ngx_http_request_t *r);
static void ngx_http_aiq_jwt_forget(ngx_http_request_t *r);
static ngx_http_aiq_jwt_ctx_t *ngx_http_aiq_jwt_need_ctx(
    ngx_http_request_t *r);
static void ngx_http_aiq_jwt_cleanup(void *data);
static ngx_int_t ngx_http_aiq_jwt_find(ngx_http_request_t *r,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token);
static ngx_int_t ngx_http_aiq_jwt_bearer(ngx_http_request_t *r,
    ngx_str_t *token);
static ngx_int_t ngx_http_aiq_jwt_digest(ngx_http_request_t *r,
    ngx_pool_t *pool, ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token,
    u_char *digest);
static ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_verify(ngx_pool_t *pool,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token,
    ngx_http_aiq_jwt_verified_t *v);
static ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_verify_signature(
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_http_aiq_jwt_token_t *token);
static ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_check_claims(
    ngx_pool_t *pool, ngx_http_aiq_jwt_loc_conf_t *jlcf, json_t *claims,
    ngx_http_aiq_jwt_verified_t *v);
static ngx_uint_t ngx_http_aiq_jwt_one_of(json_t *claim, ngx_array_t *values);
static ngx_int_t ngx_http_aiq_jwt_identity_claim(ngx_pool_t *pool,
    json_t *claims, ngx_str_t *name, char *standard, ngx_str_t *text);
static ngx_int_t ngx_http_aiq_jwt_pack(ngx_pool_t *pool,
    ngx_http_aiq_jwt_verified_t *v, ngx_str_t *value);
static void ngx_http_aiq_jwt_unpack(ngx_str_t *value,
    ngx_http_aiq_jwt_verified_t *v);
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


ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_authenticate(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token,
    ngx_http_aiq_jwt_verified_t *v)
{
    u_char                         digest[NGX_HTTP_AIQ_AUTH_DIGEST];
    ngx_int_t                      rc;
    ngx_str_t                      value;
    ngx_http_aiq_jwt_result_e      result;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    if (token->len > NGX_HTTP_AIQ_JWT_TOKEN_MAX) {
        return NGX_HTTP_AIQ_JWT_TOO_LARGE;
    }

    jmcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_jwt_module);

    if (ngx_http_aiq_jwt_digest(r, pool, jlcf, token, digest) != NGX_OK) {
        return NGX_HTTP_AIQ_JWT_NO_MEMORY;
    }

    rc = ngx_http_aiq_auth_cache_lookup(jmcf->zone, NGX_HTTP_AIQ_AUTH_JWT,
                                        digest, pool, &value);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_AIQ_JWT_NO_MEMORY;
    }

    if (rc == NGX_OK) {
        ngx_http_aiq_jwt_unpack(&value, v);

        return ngx_http_aiq_jwt_check_times(&v->times, ngx_time(),
                                            jlcf->leeway, jlcf->max_lifetime);
    }

    result = ngx_http_aiq_jwt_verify(pool, jlcf, token, v);

    if (result == NGX_HTTP_AIQ_JWT_OK) {
        result = ngx_http_aiq_jwt_check_times(&v->times, ngx_time(),
                                              jlcf->leeway,
                                              jlcf->max_lifetime);
    }

    if (result == NGX_HTTP_AIQ_JWT_OK) {

        if (ngx_http_aiq_jwt_pack(pool, v, &value) != NGX_OK) {
            return NGX_HTTP_AIQ_JWT_NO_MEMORY;
        }

        /* where there is no room, it is verified each time */

        (void) ngx_http_aiq_auth_cache_insert(jmcf->zone,
                                              NGX_HTTP_AIQ_AUTH_JWT, digest,
                                              &value,
                                              v->times.exp + jlcf->leeway);
    }

    return result;
}


static ngx_int_t
ngx_http_aiq_jwt_digest(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token, u_char *digest)
{
    u_char                        *p, *start;
    ngx_http_aiq_jwt_main_conf_t  *jmcf;

    start = ngx_pnalloc(pool, NGX_HTTP_AIQ_JWT_DIGESTS + token->len);
    if (start == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(start, NGX_HTTP_AIQ_JWT_DIGESTS);

    p = ngx_cpymem(start, jlcf->profile, NGX_HTTP_AIQ_AUTH_DIGEST);

    if (jlcf->set) {
        ngx_memcpy(p, jlcf->set->digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    }

    p += NGX_HTTP_AIQ_AUTH_DIGEST;

    if (jlcf->remote) {
        ngx_memcpy(p, jlcf->remote->set.digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    }

    p += NGX_HTTP_AIQ_AUTH_DIGEST;
    p = ngx_cpymem(p, token->data, token->len);

    jmcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_jwt_module);

    if (EVP_Digest(start, p - start, digest, NULL, jmcf->sha256, NULL) != 1) {
        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "EVP_Digest() failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_verify(ngx_pool_t *pool, ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_str_t *text, ngx_http_aiq_jwt_verified_t *v)
{
    long                        n;
    json_t                     *claims;
    ngx_http_aiq_jwt_token_t    token;
    ngx_http_aiq_jwt_result_e   result;

    ngx_memzero(v, sizeof(ngx_http_aiq_jwt_verified_t));

    claims = NULL;

    result = ngx_http_aiq_jwt_parse((char *) text->data, text->len, &token);

    if (result == NGX_HTTP_AIQ_JWT_OK) {
        result = ngx_http_aiq_jwt_verify_signature(jlcf, &token);
    }

    if (result == NGX_HTTP_AIQ_JWT_OK) {

        v->payload.data = ngx_pnalloc(pool, token.payload_len + 1);

        if (v->payload.data == NULL) {
            result = NGX_HTTP_AIQ_JWT_NO_MEMORY;

        } else {
            n = ngx_http_aiq_jwt_base64url(token.payload, token.payload_len,
                                           v->payload.data);
            v->payload.len = (n < 0) ? 0 : n;

            claims = ngx_http_aiq_jwt_json((char *) v->payload.data,
                                           v->payload.len);

            result = claims ? ngx_http_aiq_jwt_check_claims(pool, jlcf, claims,
                                                            v)
                            : NGX_HTTP_AIQ_JWT_MALFORMED;
        }
    }

    json_decref(claims);
    ngx_http_aiq_jwt_free(&token);

    return result;
}


static ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_verify_signature(ngx_http_aiq_jwt_loc_conf_t *jlcf,
    ngx_http_aiq_jwt_token_t *token)
{
    ngx_http_aiq_jwt_result_e  result, remote;

    result = NGX_HTTP_AIQ_JWT_UNKNOWN_KEY;

    if (jlcf->set) {
        result = ngx_http_aiq_jwt_keys_verify(jlcf->set->keys, token);
    }

    if (result == NGX_HTTP_AIQ_JWT_OK || jlcf->remote == NULL) {
        return result;
    }

    remote = ngx_http_aiq_jwt_keys_verify(jlcf->remote->set.keys, token);

    return (remote == NGX_HTTP_AIQ_JWT_UNKNOWN_KEY) ? result : remote;
}


static ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_check_claims(ngx_pool_t *pool,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, json_t *claims,
    ngx_http_aiq_jwt_verified_t *v)
{
    char                       *tenant;
    ngx_http_aiq_jwt_result_e   result;

    result = ngx_http_aiq_jwt_times(claims, &v->times);
    if (result != NGX_HTTP_AIQ_JWT_OK) {
        return result;
    }

    if (!ngx_http_aiq_jwt_one_of(json_object_get(claims, "aud"),
                                 jlcf->audience))
    {
        return NGX_HTTP_AIQ_JWT_AUDIENCE;
    }

    if (json_is_array(json_object_get(claims, "iss"))
        || !ngx_http_aiq_jwt_one_of(json_object_get(claims, "iss"),
                                    jlcf->issuer))
    {
        return NGX_HTTP_AIQ_JWT_ISSUER;
    }

    ngx_str_set(&v->tenant, "default");
    ngx_str_set(&v->user, "");
    ngx_str_set(&v->role, "user");

    tenant = json_object_get(claims, "tenant") ? "tenant" : "tenant_id";

    if (ngx_http_aiq_jwt_identity_claim(pool, claims, &jlcf->tenant, tenant,
                                        &v->tenant)
        != NGX_OK
        || ngx_http_aiq_jwt_identity_claim(pool, claims, &jlcf->user, "sub",
                                           &v->user)
           != NGX_OK
        || ngx_http_aiq_jwt_identity_claim(pool, claims, &jlcf->role, "role",
                                           &v->role)
           != NGX_OK)
    {
        return NGX_HTTP_AIQ_JWT_CLAIMS;
    }

    return NGX_HTTP_AIQ_JWT_OK;
}


static ngx_uint_t
ngx_http_aiq_jwt_one_of(json_t *claim, ngx_array_t *values)
{
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (values == NULL) {
        return 1;
    }

    value = values->elts;

    for (i = 0; i < values->nelts; i++) {
        if (ngx_http_aiq_jwt_claim_has(claim, (char *) value[i].data,
                                       value[i].len))
        {
            return 1;
        }
    }

    return 0;
}


/* Where the claim is not there, text stays.  NGX_ERROR: nobody is called so. */

static ngx_int_t
ngx_http_aiq_jwt_identity_claim(ngx_pool_t *pool, json_t *claims,
    ngx_str_t *name, char *standard, ngx_str_t *text)
{
    json_t  *value;

    value = json_object_get(claims, name->len ? (char *) name->data : standard);

    if (value == NULL) {
        return NGX_OK;
    }

    if (json_is_integer(value)) {
        text->data = ngx_pnalloc(pool, NGX_INT64_LEN);
        if (text->data == NULL) {
            return NGX_ERROR;
        }

        text->len = ngx_sprintf(text->data, "%L",
                                (int64_t) json_integer_value(value))
                    - text->data;

        return NGX_OK;
    }

    if (!json_is_string(value)) {
        return NGX_ERROR;
    }

    text->len = json_string_length(value);

    if (text->len == 0 || text->len > AIQ_IDENTITY_MAX
        || !aiq_text_clean(json_string_value(value), text->len))
    {
        return NGX_ERROR;
    }

    text->data = ngx_pnalloc(pool, text->len);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(text->data, json_string_value(value), text->len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_jwt_pack(ngx_pool_t *pool, ngx_http_aiq_jwt_verified_t *v,
    ngx_str_t *value)
{
    u_char                     *p;
    ngx_http_aiq_jwt_packed_t   packed;

    ngx_memzero(&packed, sizeof(ngx_http_aiq_jwt_packed_t));

    packed.times = v->times;
    packed.tenant = (uint16_t) v->tenant.len;
    packed.user = (uint16_t) v->user.len;
    packed.role = (uint16_t) v->role.len;
    packed.payload = (uint16_t) v->payload.len;

    value->len = sizeof(ngx_http_aiq_jwt_packed_t) + v->tenant.len
                 + v->user.len + v->role.len + v->payload.len;

    value->data = ngx_pnalloc(pool, value->len);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(value->data, &packed, sizeof(ngx_http_aiq_jwt_packed_t));
    p = ngx_cpymem(p, v->tenant.data, v->tenant.len);
    p = ngx_cpymem(p, v->user.data, v->user.len);
    p = ngx_cpymem(p, v->role.data, v->role.len);
    ngx_memcpy(p, v->payload.data, v->payload.len);

    return NGX_OK;
}


static void
ngx_http_aiq_jwt_unpack(ngx_str_t *value, ngx_http_aiq_jwt_verified_t *v)
{
    u_char                     *p;
    ngx_http_aiq_jwt_packed_t   packed;

    ngx_memcpy(&packed, value->data, sizeof(ngx_http_aiq_jwt_packed_t));

    p = value->data + sizeof(ngx_http_aiq_jwt_packed_t);

    v->times = packed.times;

    v->tenant.data = p;
    v->tenant.len = packed.tenant;
    p += packed.tenant;

    v->user.data = p;
    v->user.len = packed.user;
    p += packed.user;

    v->role.data = p;
    v->role.len = packed.role;
    p += packed.role;

    v->payload.data = p;
    v->payload.len = packed.payload;
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
