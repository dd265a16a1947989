
#include "ngx_http_aiq_jwt.h"


/*
 * A token is verified once and then remembered, in shared memory, by a hash of
 * it, of the keys and of what the location asks of its claims; so another key
 * set or another location remembers nothing of it.  Times and requirements are
 * checked for each request.
 */


#define NGX_HTTP_AIQ_JWT_DIGESTS  (3 * NGX_HTTP_AIQ_AUTH_DIGEST)


typedef struct {
    ngx_http_aiq_jwt_times_t     times;
    uint16_t                     tenant;
    uint16_t                     user;
    uint16_t                     role;
    uint16_t                     payload;
} ngx_http_aiq_jwt_packed_t;


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
