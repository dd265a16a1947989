
/*
 * JSON Web Tokens: key sets (RFC 7517), compact signatures (RFC 7515, 7518,
 * 8037), claims (RFC 7519).  Knows nothing of nginx, so that unit tests and a
 * fuzzer can drive it.  All primitives are OpenSSL's.
 *
 * A token passes by these rules, each tested:
 *
 *   - The key says which algorithms it takes; the token only names one of
 *     them.  A secret takes HS*, an RSA key RS* and PS*, and so on, so a public
 *     key is never a secret, and there is no "none".
 *   - One encoding: base64url without padding and without spare bits set, JSON
 *     without duplicate names.  Whatever differs by a bit is another token.
 *   - Nothing critical is ignored: "crit" is refused, as is "b64".
 *   - Weak keys verify nothing: RSA below 2048 bits, secrets shorter than
 *     their hash.
 *
 * Sizes are bounded before anything is allocated or parsed.
 */

#ifndef _NGX_HTTP_AIQ_JWT_CORE_H_INCLUDED_
#define _NGX_HTTP_AIQ_JWT_CORE_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>

#include <jansson.h>


#define NGX_HTTP_AIQ_JWT_TOKEN_MAX    16384
#define NGX_HTTP_AIQ_JWT_HEADER_MAX   4096     /* of the token, encoded */
#define NGX_HTTP_AIQ_JWT_DEPTH_MAX    16       /* of JSON */
#define NGX_HTTP_AIQ_JWT_KEYS_MAX     64       /* in a set */
#define NGX_HTTP_AIQ_JWT_KEYSET_MAX   262144   /* bytes of a set */
#define NGX_HTTP_AIQ_JWT_PRINT        32       /* a key's fingerprint */
#define NGX_HTTP_AIQ_JWT_TRIES        8        /* keys for one token */
#define NGX_HTTP_AIQ_JWT_TIME_MAX     253402300799  /* the year 9999 */


typedef struct ngx_http_aiq_jwt_keys_s  ngx_http_aiq_jwt_keys_t;
typedef struct ngx_http_aiq_jwt_alg_s   ngx_http_aiq_jwt_alg_t;


typedef enum {
    NGX_HTTP_AIQ_JWT_OK = 0,
    NGX_HTTP_AIQ_JWT_MALFORMED,
    NGX_HTTP_AIQ_JWT_TOO_LARGE,
    NGX_HTTP_AIQ_JWT_ALGORITHM,      /* none that any key could have */
    NGX_HTTP_AIQ_JWT_CRITICAL,
    NGX_HTTP_AIQ_JWT_UNKNOWN_KEY,    /* another key set may help */
    NGX_HTTP_AIQ_JWT_SIGNATURE,
    NGX_HTTP_AIQ_JWT_CLAIMS,         /* no exp, or times that are none */
    NGX_HTTP_AIQ_JWT_EXPIRED,
    NGX_HTTP_AIQ_JWT_NOT_YET,
    NGX_HTTP_AIQ_JWT_LIFETIME,
    NGX_HTTP_AIQ_JWT_AUDIENCE,
    NGX_HTTP_AIQ_JWT_ISSUER,
    NGX_HTTP_AIQ_JWT_NO_MEMORY
} ngx_http_aiq_jwt_result_e;


/* a token that was taken apart, which says nothing about its signature */

typedef struct {
    const ngx_http_aiq_jwt_alg_t  *alg;
    json_t                        *header;
    const char                    *kid;          /* in header, or NULL */
    size_t                         kid_len;

    const char                    *input;        /* what is signed */
    size_t                         input_len;
    const char                    *payload;      /* encoded, in the token */
    size_t                         payload_len;

    unsigned char                 *signature;
    size_t                         signature_len;
} ngx_http_aiq_jwt_token_t;


/* seconds since 1970; -1: the token does not say */

typedef struct {
    int64_t                        exp;
    int64_t                        nbf;
    int64_t                        iat;
} ngx_http_aiq_jwt_times_t;


/*
 * ngx_http_aiq_jwt_keys.c
 *
 * A set, empty; then the keys of a JWKS, or of a single JWK, are added.
 * Those of unknown types or for other uses are skipped, private parts are not
 * looked at.  -1: *error says what is wrong, and nothing was added; with
 * "strict" that is also a weak or a broken key, else it is skipped.
 */
ngx_http_aiq_jwt_keys_t *ngx_http_aiq_jwt_keys_create(void);
void ngx_http_aiq_jwt_keys_free(ngx_http_aiq_jwt_keys_t *keys);
int ngx_http_aiq_jwt_keys_add(ngx_http_aiq_jwt_keys_t *keys, const char *text,
    size_t len, int strict, const char **error);
size_t ngx_http_aiq_jwt_keys_count(const ngx_http_aiq_jwt_keys_t *keys);

/*
 * The fingerprint of a key, NGX_HTTP_AIQ_JWT_PRINT bytes, says which it is and
 * what for: of the n-th of a set, or of the one that has signed; NULL: none has.
 */
const unsigned char *ngx_http_aiq_jwt_keys_print(
    const ngx_http_aiq_jwt_keys_t *keys, size_t n);
const unsigned char *ngx_http_aiq_jwt_keys_signer(
    const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token);

/* the algorithm of that name, or NULL */
const ngx_http_aiq_jwt_alg_t *ngx_http_aiq_jwt_alg(const char *name,
    size_t len);

/* OK, UNKNOWN_KEY, SIGNATURE or NO_MEMORY */
ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_keys_verify(
    const ngx_http_aiq_jwt_keys_t *keys,
    const ngx_http_aiq_jwt_token_t *token);


/*
 * ngx_http_aiq_jwt_core.c
 *
 * The token's text must live as long as what it was parsed into, which is to
 * be freed in any case.
 */
ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_parse(const char *text, size_t len,
    ngx_http_aiq_jwt_token_t *token);
void ngx_http_aiq_jwt_free(ngx_http_aiq_jwt_token_t *token);

ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_times(const json_t *payload,
    ngx_http_aiq_jwt_times_t *times);

/* max_lifetime: seconds, 0 is no limit */
ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_check_times(
    const ngx_http_aiq_jwt_times_t *times, int64_t now, int64_t leeway,
    int64_t max_lifetime);

/* Is the claim this text, or a list with it? */
int ngx_http_aiq_jwt_claim_has(const json_t *claim, const char *text,
    size_t len);

/* Where valid, the decoded length; -1: not base64url as RFC 7515 has it. */
long ngx_http_aiq_jwt_base64url(const char *text, size_t len,
    unsigned char *out);

/* JSON that is an object, within the bounds: json_decref() it; NULL: it is not. */
json_t *ngx_http_aiq_jwt_json(const char *text, size_t len);


#endif /* _NGX_HTTP_AIQ_JWT_CORE_H_INCLUDED_ */
