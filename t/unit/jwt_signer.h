/* Signs tokens, for tests: one key for each kind, and its public part as a JWK. */

#ifndef JWT_SIGNER_H
#define JWT_SIGNER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#define SIGNER_SECRET "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static inline void signer_base64url(const void *data, size_t n, char *out)
{
    EVP_EncodeBlock((unsigned char *)out, data, (int)n);
    out[strcspn(out, "=")] = '\0';
    for (char *p = out; *p != '\0'; p++) {
        *p = (char)(*p == '+' ? '-' : *p == '/' ? '_' : *p);
    }
}

/* ES256 → P-256; HS* have no EVP_PKEY. The caller frees it. */
static inline EVP_PKEY *signer_key(const char *alg)
{
    switch (alg[0] == 'E' ? alg[2] : alg[0]) {
    case 'R':
    case 'P':
        return EVP_RSA_gen(2048);
    case '2':
        return EVP_EC_gen("P-256");
    case '3':
        return EVP_EC_gen("P-384");
    case '5':
        return EVP_EC_gen("P-521");
    case 'D':
        return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    default:
        return NULL;
    }
}

static inline void signer_number(EVP_PKEY *key, const char *name, int size, char *out)
{
    unsigned char bytes[1024];
    BIGNUM *n = NULL;

    EVP_PKEY_get_bn_param(key, name, &n);
    size = size != 0 ? size : BN_num_bytes(n);
    BN_bn2binpad(n, bytes, size);
    signer_base64url(bytes, (size_t)size, out);
    BN_free(n);
}

/* more: further members, such as ,"kid":"a" */
static inline char *signer_jwk(const char *alg, EVP_PKEY *key, const char *more, char *out)
{
    static const char *const curves[] = {"P-256", "P-384", "P-521"};
    static const int sizes[] = {32, 48, 66};
    unsigned char raw[32];
    char a[2048], b[2048];
    size_t n = sizeof(raw);
    int curve = alg[2] == '2' ? 0 : alg[2] == '3' ? 1 : 2;

    if (alg[0] == 'H') {
        signer_base64url(SIGNER_SECRET, strlen(SIGNER_SECRET), a);
        sprintf(out, "{\"kty\":\"oct\",\"k\":\"%s\"%s}", a, more);
    } else if (alg[0] == 'R' || alg[0] == 'P') {
        signer_number(key, OSSL_PKEY_PARAM_RSA_N, 0, a);
        signer_number(key, OSSL_PKEY_PARAM_RSA_E, 0, b);
        sprintf(out, "{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"%s\"%s}", a, b, more);
    } else if (alg[1] == 'S') {
        signer_number(key, OSSL_PKEY_PARAM_EC_PUB_X, sizes[curve], a);
        signer_number(key, OSSL_PKEY_PARAM_EC_PUB_Y, sizes[curve], b);
        sprintf(out, "{\"kty\":\"EC\",\"crv\":\"%s\",\"x\":\"%s\",\"y\":\"%s\"%s}",
                curves[curve], a, b, more);
    } else {
        EVP_PKEY_get_raw_public_key(key, raw, &n);
        signer_base64url(raw, n, a);
        sprintf(out, "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"%s\"%s}", a, more);
    }
    return out;
}

static inline const char *signer_md(const char *alg)
{
    return alg[2] == '2'   ? "SHA256"
           : alg[2] == '3' ? "SHA384"
           : alg[2] == '5' ? "SHA512"
                           : NULL;
}

/* The signature of text as alg has it; its length. */
static inline size_t signer_sign(const char *alg, EVP_PKEY *key, const void *text, size_t len,
                                 unsigned char *out)
{
    static const int sizes[] = {32, 48, 66};
    size_t n = 1024;
    unsigned mac_len = 0;
    EVP_PKEY_CTX *pctx;

    if (alg[0] == 'H') {
        HMAC(EVP_get_digestbyname(signer_md(alg)), SIGNER_SECRET, (int)strlen(SIGNER_SECRET),
             text, len, out, &mac_len);
        return mac_len;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_DigestSignInit_ex(ctx, &pctx, signer_md(alg), NULL, NULL, key, NULL);
    if (alg[0] == 'P') {
        EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING);
        EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST);
    }
    EVP_DigestSign(ctx, out, &n, text, len);
    EVP_MD_CTX_free(ctx);
    if (alg[0] == 'E' && alg[1] == 'S') {
        int size = sizes[alg[2] == '2' ? 0 : alg[2] == '3' ? 1 : 2];
        const unsigned char *der = out;
        ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)n);
        BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, size);
        BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + size, size);
        ECDSA_SIG_free(sig);
        n = (size_t)size * 2;
    }
    return n;
}

/* A token of this header and payload into out. */
static inline char *signer_token(const char *alg, EVP_PKEY *key, const char *header,
                                 const char *payload, char *out)
{
    unsigned char signature[1024];

    signer_base64url(header, strlen(header), out);
    strcat(out, ".");
    signer_base64url(payload, strlen(payload), out + strlen(out));
    size_t n = signer_sign(alg, key, out, strlen(out), signature);
    strcat(out, ".");
    signer_base64url(signature, n, out + strlen(out));
    return out;
}

#endif
