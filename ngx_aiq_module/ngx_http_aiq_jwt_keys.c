
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "ngx_http_aiq_jwt_core.h"


#define NGX_HTTP_AIQ_JWT_RSA_MIN     2048
#define NGX_HTTP_AIQ_JWT_RSA_MAX     8192     /* bits; time grows with them */
#define NGX_HTTP_AIQ_JWT_VALUE_MAX   2048     /* bytes of a key's member */
#define NGX_HTTP_AIQ_JWT_COORD_MAX   66       /* bytes, P-521 */


typedef enum {
    NGX_HTTP_AIQ_JWT_HMAC = 0,
    NGX_HTTP_AIQ_JWT_RSA,
    NGX_HTTP_AIQ_JWT_PSS,
    NGX_HTTP_AIQ_JWT_EC,
    NGX_HTTP_AIQ_JWT_ED25519
} ngx_http_aiq_jwt_kind_e;


struct ngx_http_aiq_jwt_alg_s {
    const char                    *name;
    ngx_http_aiq_jwt_kind_e        kind;
    const char                    *md;
    size_t                         size;   /* of HMAC and secret, coordinate */
    const char                    *curve;  /* its name in JWK */
    const char                    *group;  /* its name for OpenSSL */
};


typedef struct {
    unsigned                       algs;   /* bits, by index of the algorithm */
    EVP_PKEY                      *pkey;   /* NULL: a secret */
    unsigned char                 *secret;
    size_t                         secret_len;
    char                          *kid;    /* NULL: has none */
    size_t                         kid_len;
    unsigned char                  print[NGX_HTTP_AIQ_JWT_PRINT];
} ngx_http_aiq_jwt_key_t;


struct ngx_http_aiq_jwt_keys_s {
    size_t                         n;
    ngx_http_aiq_jwt_key_t         keys[NGX_HTTP_AIQ_JWT_KEYS_MAX];
};


typedef struct {
    const char                    *name;
    const char                    *(*load)(const json_t *jwk,
                                           ngx_http_aiq_jwt_key_t *key);
} ngx_http_aiq_jwt_type_t;


static const char *ngx_http_aiq_jwt_add_key(ngx_http_aiq_jwt_keys_t *keys,
    const json_t *jwk);
static int ngx_http_aiq_jwt_key_used(const json_t *jwk);
static const char *ngx_http_aiq_jwt_key_restrict(const json_t *jwk,
    ngx_http_aiq_jwt_key_t *key);
static const char *ngx_http_aiq_jwt_load_oct(const json_t *jwk,
    ngx_http_aiq_jwt_key_t *key);
static const char *ngx_http_aiq_jwt_load_rsa(const json_t *jwk,
    ngx_http_aiq_jwt_key_t *key);
static const char *ngx_http_aiq_jwt_load_ec(const json_t *jwk,
    ngx_http_aiq_jwt_key_t *key);
static const char *ngx_http_aiq_jwt_load_okp(const json_t *jwk,
    ngx_http_aiq_jwt_key_t *key);
static long ngx_http_aiq_jwt_key_member(const json_t *jwk, const char *name,
    unsigned char *out);
static EVP_PKEY *ngx_http_aiq_jwt_pkey(const char *type, OSSL_PARAM_BLD *bld);
static const char *ngx_http_aiq_jwt_key_fingerprint(
    ngx_http_aiq_jwt_key_t *key);
static unsigned ngx_http_aiq_jwt_algs_of(ngx_http_aiq_jwt_kind_e kind);
static void ngx_http_aiq_jwt_key_free(ngx_http_aiq_jwt_key_t *key);
static const ngx_http_aiq_jwt_key_t *ngx_http_aiq_jwt_keys_find(
    const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token, unsigned *tries);
static int ngx_http_aiq_jwt_verify_key(const ngx_http_aiq_jwt_key_t *key,
    const ngx_http_aiq_jwt_token_t *token);
static int ngx_http_aiq_jwt_verify_hmac(const ngx_http_aiq_jwt_key_t *key,
    const ngx_http_aiq_jwt_token_t *token);
static unsigned char *ngx_http_aiq_jwt_ecdsa_der(
    const ngx_http_aiq_jwt_token_t *token, size_t *len);


/* the index is a bit in a key's "algs" */

static const ngx_http_aiq_jwt_alg_t  ngx_http_aiq_jwt_algs[] = {
    { "HS256", NGX_HTTP_AIQ_JWT_HMAC, "SHA256", 32, NULL, NULL },
    { "HS384", NGX_HTTP_AIQ_JWT_HMAC, "SHA384", 48, NULL, NULL },
    { "HS512", NGX_HTTP_AIQ_JWT_HMAC, "SHA512", 64, NULL, NULL },
    { "RS256", NGX_HTTP_AIQ_JWT_RSA, "SHA256", 0, NULL, NULL },
    { "RS384", NGX_HTTP_AIQ_JWT_RSA, "SHA384", 0, NULL, NULL },
    { "RS512", NGX_HTTP_AIQ_JWT_RSA, "SHA512", 0, NULL, NULL },
    { "PS256", NGX_HTTP_AIQ_JWT_PSS, "SHA256", 0, NULL, NULL },
    { "PS384", NGX_HTTP_AIQ_JWT_PSS, "SHA384", 0, NULL, NULL },
    { "PS512", NGX_HTTP_AIQ_JWT_PSS, "SHA512", 0, NULL, NULL },
    { "ES256", NGX_HTTP_AIQ_JWT_EC, "SHA256", 32, "P-256", "prime256v1" },
    { "ES384", NGX_HTTP_AIQ_JWT_EC, "SHA384", 48, "P-384", "secp384r1" },
    { "ES512", NGX_HTTP_AIQ_JWT_EC, "SHA512", 66, "P-521", "secp521r1" },
    { "EdDSA", NGX_HTTP_AIQ_JWT_ED25519, NULL, 32, "Ed25519", NULL },
    { NULL, 0, NULL, 0, NULL, NULL }
};


static const ngx_http_aiq_jwt_type_t  ngx_http_aiq_jwt_types[] = {
    { "oct", ngx_http_aiq_jwt_load_oct },
    { "RSA", ngx_http_aiq_jwt_load_rsa },
    { "EC", ngx_http_aiq_jwt_load_ec },
    { "OKP", ngx_http_aiq_jwt_load_okp },
    { NULL, NULL }
};


/* a key that is none for us, which is no error */
static const char  ngx_http_aiq_jwt_skip[] = "has no key that can be used";


const ngx_http_aiq_jwt_alg_t *
ngx_http_aiq_jwt_alg(const char *name, size_t len)
{
    const ngx_http_aiq_jwt_alg_t  *alg;

    for (alg = ngx_http_aiq_jwt_algs; alg->name; alg++) {
        if (strlen(alg->name) == len && memcmp(alg->name, name, len) == 0) {
            return alg;
        }
    }

    return NULL;
}


ngx_http_aiq_jwt_keys_t *
ngx_http_aiq_jwt_keys_create(void)
{
    return calloc(1, sizeof(ngx_http_aiq_jwt_keys_t));
}


void
ngx_http_aiq_jwt_keys_free(ngx_http_aiq_jwt_keys_t *keys)
{
    size_t  i;

    if (keys == NULL) {
        return;
    }

    for (i = 0; i < keys->n; i++) {
        ngx_http_aiq_jwt_key_free(&keys->keys[i]);
    }

    free(keys);
}


size_t
ngx_http_aiq_jwt_keys_count(const ngx_http_aiq_jwt_keys_t *keys)
{
    return keys->n;
}


const unsigned char *
ngx_http_aiq_jwt_keys_print(const ngx_http_aiq_jwt_keys_t *keys, size_t n)
{
    return keys->keys[n].print;
}


int
ngx_http_aiq_jwt_keys_add(ngx_http_aiq_jwt_keys_t *keys, const char *text,
    size_t len, int strict, const char **error)
{
    size_t       i, before;
    json_t      *json, *list, *jwk;
    const char  *rv;

    if (len > NGX_HTTP_AIQ_JWT_KEYSET_MAX) {
        *error = "is too large";
        return -1;
    }

    json = ngx_http_aiq_jwt_json(text, len);
    if (json == NULL) {
        *error = "is not valid JSON";
        return -1;
    }

    before = keys->n;
    rv = ngx_http_aiq_jwt_skip;

    list = json_object_get(json, "keys");

    if (list == NULL) {
        rv = ngx_http_aiq_jwt_add_key(keys, json);
    }

    json_array_foreach(list, i, jwk) {
        rv = ngx_http_aiq_jwt_add_key(keys, jwk);

        if (strict && rv && rv != ngx_http_aiq_jwt_skip) {
            break;
        }
    }

    json_decref(json);

    if (strict && rv && rv != ngx_http_aiq_jwt_skip) {

        while (keys->n > before) {
            ngx_http_aiq_jwt_key_free(&keys->keys[--keys->n]);
        }

        *error = rv;
        return -1;
    }

    if (keys->n == before) {
        *error = rv;
        return -1;
    }

    return 0;
}


/* NULL: added; ngx_http_aiq_jwt_skip, or what is wrong with it */

static const char *
ngx_http_aiq_jwt_add_key(ngx_http_aiq_jwt_keys_t *keys, const json_t *jwk)
{
    json_t                         *value;
    const char                     *rv;
    ngx_http_aiq_jwt_key_t         *key;
    const ngx_http_aiq_jwt_type_t  *type;

    value = json_object_get(jwk, "kty");

    for (type = ngx_http_aiq_jwt_types; type->name; type++) {
        if (json_is_string(value)
            && ngx_http_aiq_jwt_claim_has(value, type->name,
                                          strlen(type->name)))
        {
            break;
        }
    }

    if (type->name == NULL || !ngx_http_aiq_jwt_key_used(jwk)) {
        return ngx_http_aiq_jwt_skip;
    }

    if (keys->n == NGX_HTTP_AIQ_JWT_KEYS_MAX) {
        return "has too many keys";
    }

    key = &keys->keys[keys->n];
    memset(key, 0, sizeof(ngx_http_aiq_jwt_key_t));

    rv = type->load(jwk, key);

    if (rv == NULL) {
        rv = ngx_http_aiq_jwt_key_restrict(jwk, key);
    }

    if (rv == NULL) {
        rv = ngx_http_aiq_jwt_key_fingerprint(key);
    }

    if (rv) {
        ngx_http_aiq_jwt_key_free(key);

        /* nginx takes what is left there for its own TLS errors */
        ERR_clear_error();

        return rv;
    }

    keys->n++;

    return NULL;
}


static int
ngx_http_aiq_jwt_key_used(const json_t *jwk)
{
    json_t  *use, *ops;

    use = json_object_get(jwk, "use");
    ops = json_object_get(jwk, "key_ops");

    if (use && !(json_is_string(use)
                 && strcmp(json_string_value(use), "sig") == 0))
    {
        return 0;
    }

    return ops == NULL
           || (json_is_array(ops)
               && ngx_http_aiq_jwt_claim_has(ops, "verify", 6));
}


/* "alg" and "kid", which every type has */

static const char *
ngx_http_aiq_jwt_key_restrict(const json_t *jwk, ngx_http_aiq_jwt_key_t *key)
{
    json_t                        *value;
    const ngx_http_aiq_jwt_alg_t  *alg;

    value = json_object_get(jwk, "alg");

    if (value) {
        alg = json_is_string(value)
              ? ngx_http_aiq_jwt_alg(json_string_value(value),
                                     json_string_length(value))
              : NULL;

        if (alg == NULL) {
            return ngx_http_aiq_jwt_skip;
        }

        key->algs &= 1u << (alg - ngx_http_aiq_jwt_algs);

        if (key->algs == 0) {
            return alg->kind == NGX_HTTP_AIQ_JWT_HMAC && key->pkey == NULL
                   ? "has a secret that is too short for its algorithm"
                   : "has a key of another type than its algorithm";
        }
    }

    value = json_object_get(jwk, "kid");

    if (value == NULL) {
        return NULL;
    }

    if (!json_is_string(value)) {
        return "has a key with a \"kid\" that is no string";
    }

    key->kid_len = json_string_length(value);
    key->kid = malloc(key->kid_len + 1);
    if (key->kid == NULL) {
        return "needs more memory than there is";
    }

    memcpy(key->kid, json_string_value(value), key->kid_len);

    return NULL;
}


static const char *
ngx_http_aiq_jwt_key_fingerprint(ngx_http_aiq_jwt_key_t *key)
{
    int             n, ok;
    EVP_MD_CTX     *ctx;
    unsigned char  *der;

    der = NULL;
    n = key->pkey ? i2d_PUBKEY(key->pkey, &der) : 0;

    ctx = EVP_MD_CTX_new();

    ok = n >= 0 && ctx
         && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1
         && EVP_DigestUpdate(ctx, &key->algs, sizeof(key->algs)) == 1
         && EVP_DigestUpdate(ctx, &key->kid_len, sizeof(key->kid_len)) == 1
         && EVP_DigestUpdate(ctx, key->kid, key->kid_len) == 1
         && EVP_DigestUpdate(ctx, key->secret, key->secret_len) == 1
         && EVP_DigestUpdate(ctx, der, n) == 1
         && EVP_DigestFinal_ex(ctx, key->print, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    OPENSSL_free(der);

    return ok ? NULL : "needs more memory than there is";
}


static const char *
ngx_http_aiq_jwt_load_oct(const json_t *jwk, ngx_http_aiq_jwt_key_t *key)
{
    long                           n;
    unsigned                       i;
    unsigned char                  value[NGX_HTTP_AIQ_JWT_VALUE_MAX];
    const ngx_http_aiq_jwt_alg_t  *alg;

    n = ngx_http_aiq_jwt_key_member(jwk, "k", value);
    if (n < 0) {
        return "has a secret that is not valid";
    }

    /* RFC 7518, 3.2: at least the size of the hash */

    for (i = 0; ngx_http_aiq_jwt_algs[i].name; i++) {
        alg = &ngx_http_aiq_jwt_algs[i];

        if (alg->kind == NGX_HTTP_AIQ_JWT_HMAC && alg->size <= (size_t) n) {
            key->algs |= 1u << i;
        }
    }

    if (key->algs == 0) {
        OPENSSL_cleanse(value, sizeof(value));
        return "has a secret that is too short, 32 bytes are needed";
    }

    key->secret = malloc(n);

    if (key->secret) {
        memcpy(key->secret, value, n);
        key->secret_len = n;
    }

    OPENSSL_cleanse(value, sizeof(value));

    return key->secret ? NULL : "needs more memory than there is";
}


static const char *
ngx_http_aiq_jwt_load_rsa(const json_t *jwk, ngx_http_aiq_jwt_key_t *key)
{
    int              bits;
    long             n_len, e_len;
    BIGNUM          *n, *e;
    OSSL_PARAM_BLD  *bld;
    unsigned char    n_value[NGX_HTTP_AIQ_JWT_VALUE_MAX];
    unsigned char    e_value[NGX_HTTP_AIQ_JWT_VALUE_MAX];

    n_len = ngx_http_aiq_jwt_key_member(jwk, "n", n_value);
    e_len = ngx_http_aiq_jwt_key_member(jwk, "e", e_value);

    if (n_len < 0 || e_len < 0) {
        return "has an RSA key that is not valid";
    }

    n = BN_bin2bn(n_value, (int) n_len, NULL);
    e = BN_bin2bn(e_value, (int) e_len, NULL);
    bld = OSSL_PARAM_BLD_new();
    bits = n ? BN_num_bits(n) : 0;

    /* with 1 as exponent anybody can sign */

    if (bits >= NGX_HTTP_AIQ_JWT_RSA_MIN && bits <= NGX_HTTP_AIQ_JWT_RSA_MAX
        && e && BN_is_odd(e) && !BN_is_one(e) && BN_num_bits(e) <= 64
        && bld
        && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, n)
        && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, e))
    {
        key->pkey = ngx_http_aiq_jwt_pkey("RSA", bld);
    }

    OSSL_PARAM_BLD_free(bld);
    BN_free(n);
    BN_free(e);

    if (bits < NGX_HTTP_AIQ_JWT_RSA_MIN) {
        return "has an RSA key that is too weak, 2048 bits are needed";
    }

    key->algs = ngx_http_aiq_jwt_algs_of(NGX_HTTP_AIQ_JWT_RSA)
                | ngx_http_aiq_jwt_algs_of(NGX_HTTP_AIQ_JWT_PSS);

    return key->pkey ? NULL : "has an RSA key that is not valid";
}


static const char *
ngx_http_aiq_jwt_load_ec(const json_t *jwk, ngx_http_aiq_jwt_key_t *key)
{
    long                           x_len, y_len;
    json_t                        *crv;
    OSSL_PARAM_BLD                *bld;
    unsigned char                  x[NGX_HTTP_AIQ_JWT_VALUE_MAX];
    unsigned char                  y[NGX_HTTP_AIQ_JWT_VALUE_MAX];
    unsigned char                  point[1 + 2 * NGX_HTTP_AIQ_JWT_COORD_MAX];
    const ngx_http_aiq_jwt_alg_t  *alg;

    crv = json_object_get(jwk, "crv");

    for (alg = ngx_http_aiq_jwt_algs; alg->name; alg++) {
        if (alg->kind == NGX_HTTP_AIQ_JWT_EC && json_is_string(crv)
            && strcmp(json_string_value(crv), alg->curve) == 0)
        {
            break;
        }
    }

    if (alg->name == NULL) {
        return ngx_http_aiq_jwt_skip;
    }

    x_len = ngx_http_aiq_jwt_key_member(jwk, "x", x);
    y_len = ngx_http_aiq_jwt_key_member(jwk, "y", y);

    if (x_len != (long) alg->size || y_len != (long) alg->size) {
        return "has an EC key that is not valid";
    }

    point[0] = POINT_CONVERSION_UNCOMPRESSED;
    memcpy(point + 1, x, alg->size);
    memcpy(point + 1 + alg->size, y, alg->size);

    bld = OSSL_PARAM_BLD_new();

    if (bld
        && OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME,
                                           alg->group, 0)
        && OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY,
                                            point, 1 + 2 * alg->size))
    {
        key->pkey = ngx_http_aiq_jwt_pkey("EC", bld);
    }

    OSSL_PARAM_BLD_free(bld);

    key->algs = 1u << (alg - ngx_http_aiq_jwt_algs);

    return key->pkey ? NULL : "has an EC key that is not valid";
}


static const char *
ngx_http_aiq_jwt_load_okp(const json_t *jwk, ngx_http_aiq_jwt_key_t *key)
{
    long            n;
    json_t         *crv;
    unsigned char   x[NGX_HTTP_AIQ_JWT_VALUE_MAX];

    crv = json_object_get(jwk, "crv");

    if (!json_is_string(crv)
        || strcmp(json_string_value(crv), "Ed25519") != 0)
    {
        return ngx_http_aiq_jwt_skip;
    }

    n = ngx_http_aiq_jwt_key_member(jwk, "x", x);

    if (n == 32) {
        key->pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x, n);
    }

    key->algs = ngx_http_aiq_jwt_algs_of(NGX_HTTP_AIQ_JWT_ED25519);

    return key->pkey ? NULL : "has an Ed25519 key that is not valid";
}


/* Into NGX_HTTP_AIQ_JWT_VALUE_MAX bytes; the length, or -1. */

static long
ngx_http_aiq_jwt_key_member(const json_t *jwk, const char *name,
    unsigned char *out)
{
    json_t  *value;

    value = json_object_get(jwk, name);

    if (!json_is_string(value) || json_string_length(value) == 0
        || json_string_length(value) > NGX_HTTP_AIQ_JWT_VALUE_MAX)
    {
        return -1;
    }

    return ngx_http_aiq_jwt_base64url(json_string_value(value),
                                      json_string_length(value), out);
}


static EVP_PKEY *
ngx_http_aiq_jwt_pkey(const char *type, OSSL_PARAM_BLD *bld)
{
    EVP_PKEY      *pkey;
    OSSL_PARAM    *params;
    EVP_PKEY_CTX  *ctx, *check;

    pkey = NULL;
    check = NULL;

    params = OSSL_PARAM_BLD_to_param(bld);
    ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);

    if (params && ctx && EVP_PKEY_fromdata_init(ctx) == 1
        && EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) == 1)
    {
        check = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);
    }

    if (check == NULL || EVP_PKEY_public_check(check) != 1) {
        EVP_PKEY_free(pkey);
        pkey = NULL;
    }

    EVP_PKEY_CTX_free(check);
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);

    return pkey;
}


static unsigned
ngx_http_aiq_jwt_algs_of(ngx_http_aiq_jwt_kind_e kind)
{
    unsigned  i, algs;

    algs = 0;

    for (i = 0; ngx_http_aiq_jwt_algs[i].name; i++) {
        if (ngx_http_aiq_jwt_algs[i].kind == kind) {
            algs |= 1u << i;
        }
    }

    return algs;
}


static void
ngx_http_aiq_jwt_key_free(ngx_http_aiq_jwt_key_t *key)
{
    EVP_PKEY_free(key->pkey);

    if (key->secret) {
        OPENSSL_cleanse(key->secret, key->secret_len);
    }

    free(key->secret);
    free(key->kid);
}


/*
 * A "kid" that both have must be the same; where one has none, the key may
 * be the one.  The number of tries is bounded, for each takes its time.
 */

ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_keys_verify(const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token)
{
    unsigned  tries;

    if (ngx_http_aiq_jwt_keys_find(keys, token, &tries)) {
        return NGX_HTTP_AIQ_JWT_OK;
    }

    return tries ? NGX_HTTP_AIQ_JWT_SIGNATURE : NGX_HTTP_AIQ_JWT_UNKNOWN_KEY;
}


const unsigned char *
ngx_http_aiq_jwt_keys_signer(const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token)
{
    unsigned                       tries;
    const ngx_http_aiq_jwt_key_t  *key;

    key = ngx_http_aiq_jwt_keys_find(keys, token, &tries);

    return key ? key->print : NULL;
}


static const ngx_http_aiq_jwt_key_t *
ngx_http_aiq_jwt_keys_find(const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token, unsigned *tries)
{
    int                            rc;
    size_t                         i;
    unsigned                       alg;
    const ngx_http_aiq_jwt_key_t  *key;

    alg = 1u << (token->alg - ngx_http_aiq_jwt_algs);
    *tries = 0;

    for (i = 0; i < keys->n && *tries < NGX_HTTP_AIQ_JWT_TRIES; i++) {
        key = &keys->keys[i];

        if (!(key->algs & alg)) {
            continue;
        }

        if (token->kid && key->kid
            && (token->kid_len != key->kid_len
                || memcmp(token->kid, key->kid, key->kid_len) != 0))
        {
            continue;
        }

        (*tries)++;

        rc = ngx_http_aiq_jwt_verify_key(key, token);

        ERR_clear_error();

        if (rc) {
            return key;
        }
    }

    return NULL;
}


/* 1: it is the key's signature; 0: it is not, or could not be found out */

static int
ngx_http_aiq_jwt_verify_key(const ngx_http_aiq_jwt_key_t *key,
    const ngx_http_aiq_jwt_token_t *token)
{
    int                            ok;
    size_t                         len;
    EVP_MD_CTX                    *ctx;
    EVP_PKEY_CTX                  *pctx;
    unsigned char                 *signature;
    const ngx_http_aiq_jwt_alg_t  *alg;

    alg = token->alg;

    if (alg->kind == NGX_HTTP_AIQ_JWT_HMAC) {
        return ngx_http_aiq_jwt_verify_hmac(key, token);
    }

    signature = token->signature;
    len = token->signature_len;

    if (alg->kind == NGX_HTTP_AIQ_JWT_EC) {
        signature = ngx_http_aiq_jwt_ecdsa_der(token, &len);
        if (signature == NULL) {
            return 0;
        }
    }

    ctx = EVP_MD_CTX_new();

    ok = ctx
         && EVP_DigestVerifyInit_ex(ctx, &pctx, alg->md, NULL, NULL, key->pkey,
                                    NULL)
            == 1;

    if (ok && alg->kind == NGX_HTTP_AIQ_JWT_PSS) {
        ok = EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1
             && EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST)
                == 1;
    }

    ok = ok
         && EVP_DigestVerify(ctx, signature, len,
                             (const unsigned char *) token->input,
                             token->input_len)
            == 1;

    EVP_MD_CTX_free(ctx);

    if (signature != token->signature) {
        OPENSSL_free(signature);
    }

    return ok;
}


static int
ngx_http_aiq_jwt_verify_hmac(const ngx_http_aiq_jwt_key_t *key,
    const ngx_http_aiq_jwt_token_t *token)
{
    unsigned int   len;
    unsigned char  mac[EVP_MAX_MD_SIZE];

    if (token->signature_len != token->alg->size) {
        return 0;
    }

    return HMAC(EVP_get_digestbyname(token->alg->md), key->secret,
                (int) key->secret_len, (const unsigned char *) token->input,
                token->input_len, mac, &len)
           && len == token->alg->size
           && CRYPTO_memcmp(mac, token->signature, len) == 0;
}


/* JOSE has r and s one after the other, OpenSSL wants them in DER. */

static unsigned char *
ngx_http_aiq_jwt_ecdsa_der(const ngx_http_aiq_jwt_token_t *token, size_t *len)
{
    int             n;
    size_t          size;
    BIGNUM         *r, *s;
    ECDSA_SIG      *sig;
    unsigned char  *der;

    size = token->alg->size;

    if (token->signature_len != 2 * size) {
        return NULL;
    }

    r = BN_bin2bn(token->signature, (int) size, NULL);
    s = BN_bin2bn(token->signature + size, (int) size, NULL);
    sig = ECDSA_SIG_new();

    if (r == NULL || s == NULL || sig == NULL
        || ECDSA_SIG_set0(sig, r, s) != 1)
    {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return NULL;
    }

    der = NULL;
    n = i2d_ECDSA_SIG(sig, &der);

    ECDSA_SIG_free(sig);

    if (n <= 0) {
        return NULL;
    }

    *len = n;

    return der;
}
