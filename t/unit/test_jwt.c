/* Tokens: what is signed by one of the keys passes, and nothing else. */

#include "unit.h"
#include "jws_vectors.h"
#include "jwt_signer.h"

/* the module's files are built by nginx's own build */
#include "ngx_aiq_module/ngx_http_aiq_jwt_core.c" /* NOLINT(bugprone-suspicious-include) */
#include "ngx_aiq_module/ngx_http_aiq_jwt_keys.c" /* NOLINT(bugprone-suspicious-include) */

typedef ngx_http_aiq_jwt_keys_t keys_t;

#define OK            NGX_HTTP_AIQ_JWT_OK
#define MALFORMED     NGX_HTTP_AIQ_JWT_MALFORMED
#define TOO_LARGE     NGX_HTTP_AIQ_JWT_TOO_LARGE
#define ALGORITHM     NGX_HTTP_AIQ_JWT_ALGORITHM
#define CRITICAL      NGX_HTTP_AIQ_JWT_CRITICAL
#define UNKNOWN_KEY   NGX_HTTP_AIQ_JWT_UNKNOWN_KEY
#define BAD_SIGNATURE NGX_HTTP_AIQ_JWT_SIGNATURE
#define CLAIMS        NGX_HTTP_AIQ_JWT_CLAIMS
#define EXPIRED       NGX_HTTP_AIQ_JWT_EXPIRED
#define NOT_YET       NGX_HTTP_AIQ_JWT_NOT_YET
#define LIFETIME      NGX_HTTP_AIQ_JWT_LIFETIME

static const char *const algs[] = {"HS256", "HS384", "HS512", "RS256", "RS384",
                                   "RS512", "PS256", "PS384", "PS512", "ES256",
                                   "ES384", "ES512", "EdDSA"};
#define ALGS (sizeof(algs) / sizeof(algs[0]))

static EVP_PKEY *pkeys[ALGS];

static int make_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALGS; i++) {
        bool rsa = i > 3 && i <= 8;
        pkeys[i] = rsa ? pkeys[3] : signer_key(algs[i]);
    }
    return 0;
}

static int free_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALGS; i++) {
        if (i <= 3 || i > 8) {
            EVP_PKEY_free(pkeys[i]);
        }
    }
    return 0;
}

static keys_t *keys_of(const char *jwks)
{
    const char *error = NULL;
    keys_t *keys = ngx_http_aiq_jwt_keys_create();

    if (ngx_http_aiq_jwt_keys_add(keys, jwks, strlen(jwks), 1, &error) != 0) {
        fail_msg("%s: %.100s", error, jwks);
    }
    return keys;
}

static keys_t *key_of(size_t i, const char *more)
{
    char jwk[4096];

    return keys_of(signer_jwk(algs[i], pkeys[i], more, jwk));
}

static int verify(const keys_t *keys, const char *text, size_t len)
{
    ngx_http_aiq_jwt_token_t token;
    /* on the heap and of exact size, so that a read beyond it is seen */
    char *copy = malloc(len + (len == 0));

    memcpy(copy, text, len);
    int rc = ngx_http_aiq_jwt_parse(copy, len, &token);
    if (rc == OK) {
        rc = ngx_http_aiq_jwt_keys_verify(keys, &token);
    }
    ngx_http_aiq_jwt_free(&token);
    free(copy);
    return rc;
}

static void verifies_to(const keys_t *keys, const char *token, int expected)
{
    int rc = verify(keys, token, strlen(token));

    if (rc != expected) {
        fail_msg("%d, not %d: %.200s", rc, expected, token);
    }
}

static void published_signatures(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(jws_vectors) / sizeof(jws_vectors[0]); i++) {
        keys_t *keys = keys_of(jws_vectors[i].key);
        int rc = verify(keys, jws_vectors[i].token, strlen(jws_vectors[i].token));
        if (rc != OK) {
            fail_msg("%s: %d", jws_vectors[i].name, rc);
        }
        ngx_http_aiq_jwt_keys_free(keys);
    }
}

static void every_algorithm_with_its_own_key_only(void **state)
{
    char header[100], token[4096];

    (void)state;
    for (size_t i = 0; i < ALGS; i++) {
        sprintf(header, "{\"alg\":\"%s\"}", algs[i]);
        signer_token(algs[i], pkeys[i], header, "{\"exp\":1}", token);
        for (size_t k = 0; k < ALGS; k++) {
            keys_t *keys = key_of(k, "");
            /* one secret takes HS*, one RSA key takes RS* and PS* */
            bool own = i == k || (i < 3 && k < 3) || (i >= 3 && i <= 8 && k >= 3 && k <= 8);
            verifies_to(keys, token, own ? OK : UNKNOWN_KEY);
            ngx_http_aiq_jwt_keys_free(keys);
        }
    }
}

static void every_mutation_of_a_token_fails(void **state)
{
    static const size_t kinds[] = {0, 3, 6, 9, 12};
    char header[100], token[4096];

    (void)state;
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        size_t i = kinds[k];
        keys_t *keys = key_of(i, "");
        sprintf(header, "{\"alg\":\"%s\",\"typ\":\"JWT\"}", algs[i]);
        signer_token(algs[i], pkeys[i], header, "{\"exp\":1,\"sub\":\"a\"}", token);
        size_t len = strlen(token);
        assert_int_equal(verify(keys, token, len), OK);
        for (size_t at = 0; at < len; at++) {
            char was = token[at];
            for (int bit = 0; bit < 8; bit++) {
                token[at] = (char)(was ^ (1 << bit));
                assert_int_not_equal(verify(keys, token, len), OK);
            }
            for (const char *p = "A_-.=/+ "; *p != '\0'; p++) {
                token[at] = *p;
                assert_true(*p == was || verify(keys, token, len) != OK);
            }
            token[at] = was;
            /* and every shorter one */
            assert_int_not_equal(verify(keys, token, at), OK);
        }
        /* one byte more, at any place */
        for (size_t at = 0; at <= len; at++) {
            char longer[4096];
            memcpy(longer, token, at);
            memcpy(longer + at + 1, token + at, len - at);
            for (const char *p = "A_=.\n"; *p != '\0'; p++) {
                longer[at] = *p;
                assert_int_not_equal(verify(keys, longer, len + 1), OK);
            }
        }
        ngx_http_aiq_jwt_keys_free(keys);
    }
}

static void a_public_key_is_no_secret(void **state)
{
    char jwk[4096], pem[4096], token[4096], signature[1024];
    unsigned char mac[64];
    unsigned n;
    BIO *bio = BIO_new(BIO_s_mem());
    keys_t *keys = key_of(3, "");

    (void)state;
    PEM_write_bio_PUBKEY(bio, pkeys[3]);
    int len = BIO_read(bio, pem, sizeof(pem));
    BIO_free(bio);
    signer_jwk("RS256", pkeys[3], "", jwk);
    for (int i = 0; i < 2; i++) {
        strcpy(token, "");
        signer_base64url("{\"alg\":\"HS256\"}", 15, token);
        strcat(token, ".eyJleHAiOjF9");
        HMAC(EVP_sha256(), i ? pem : jwk, i ? len : (int)strlen(jwk), (unsigned char *)token,
             strlen(token), mac, &n);
        signer_base64url(mac, n, signature);
        strcat(token, ".");
        strcat(token, signature);
        verifies_to(keys, token, UNKNOWN_KEY);
    }
    ngx_http_aiq_jwt_keys_free(keys);
}

static void the_key_names_its_algorithm(void **state)
{
    char token[4096];
    keys_t *keys = key_of(3, ",\"alg\":\"RS256\",\"kid\":\"a\"");

    (void)state;
    verifies_to(keys, signer_token("RS256", pkeys[3], "{\"alg\":\"RS256\"}", "{}", token), OK);
    verifies_to(keys, signer_token("RS512", pkeys[3], "{\"alg\":\"RS512\"}", "{}", token),
                UNKNOWN_KEY);
    verifies_to(keys, signer_token("PS256", pkeys[3], "{\"alg\":\"PS256\"}", "{}", token),
                UNKNOWN_KEY);
    /* signed with another than it says */
    verifies_to(keys, signer_token("PS256", pkeys[3], "{\"alg\":\"RS256\"}", "{}", token),
                BAD_SIGNATURE);
    ngx_http_aiq_jwt_keys_free(keys);
}

static void none_is_no_algorithm(void **state)
{
    static const char *const headers[] = {
        "{\"alg\":\"none\"}",   "{\"alg\":\"None\"}",   "{\"alg\":\"NONE\"}",
        "{\"alg\":\"nOnE\"}",   "{\"alg\":\"\"}",       "{\"alg\":\"hs256\"}",
        "{\"alg\":\"ES256K\"}", "{\"alg\":\"RSA1_5\"}", "{\"alg\":\"dir\"}",
        "{\"alg\":\"HS256 \"}",
    };
    static const char *const malformed[] = {
        "{}",
        "{\"alg\":null}",
        "{\"alg\":[\"HS256\"]}",
        "{\"alg\":256}",
        "[]",
        "\"HS256\"",
        "",
        "{\"alg\":\"none\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\"} x",
        "{\"alg\":\"HS256\",\"kid\":7}",
        "{\"alg\":\"HS256\\u0000\"}",
    };
    char token[4096];
    keys_t *keys = key_of(0, "");

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        signer_token("HS256", NULL, headers[i], "{\"exp\":1}", token);
        verifies_to(keys, token, ALGORITHM);
        strrchr(token, '.')[1] = '\0';
        verifies_to(keys, token, ALGORITHM);
    }
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        verifies_to(keys, signer_token("HS256", NULL, malformed[i], "{\"exp\":1}", token),
                    MALFORMED);
    }
    ngx_http_aiq_jwt_keys_free(keys);
}

static void nothing_critical_is_ignored(void **state)
{
    static const char *const headers[] = {
        "{\"alg\":\"HS256\",\"crit\":[\"exp\"],\"exp\":1}",
        "{\"alg\":\"HS256\",\"crit\":[]}",
        "{\"alg\":\"HS256\",\"b64\":false,\"crit\":[\"b64\"]}",
        "{\"alg\":\"HS256\",\"b64\":true}",
    };
    char token[4096];
    keys_t *keys = key_of(0, "");

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        verifies_to(keys, signer_token("HS256", NULL, headers[i], "{}", token), CRITICAL);
    }
    ngx_http_aiq_jwt_keys_free(keys);
}

static void keys_in_the_token_are_not_used(void **state)
{
    char jwk[4096], header[8192], token[16384];
    EVP_PKEY *own = signer_key("ES256");
    keys_t *keys = key_of(9, "");

    (void)state;
    sprintf(header, "{\"alg\":\"ES256\",\"jwk\":%s}", signer_jwk("ES256", own, "", jwk));
    verifies_to(keys, signer_token("ES256", own, header, "{}", token), BAD_SIGNATURE);
    EVP_PKEY_free(own);
    ngx_http_aiq_jwt_keys_free(keys);
}

static void the_shape_of_a_token(void **state)
{
    static const char *const texts[] = {"",
                                        ".",
                                        "..",
                                        "...",
                                        "a",
                                        "a.b",
                                        "e30.e30.",
                                        "e30.e30.e30",
                                        "a.b.c.d.e",
                                        "eyJhbGciOiJIUzI1NiJ9..",
                                        "eyJhbGciOiJIUzI1NiJ9.e30.\xff"};
    char token[4096];
    keys_t *keys = key_of(0, "");

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_not_equal(verify(keys, texts[i], strlen(texts[i])), OK);
    }
    /* ECDSA in DER, as other libraries have it, is no JWS */
    ngx_http_aiq_jwt_keys_free(keys);
    keys = key_of(9, "");
    unsigned char der[200];
    char text[300];
    size_t n = sizeof(der);
    signer_base64url("{\"alg\":\"ES256\"}", 15, token);
    strcat(token, ".e30");
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_DigestSignInit_ex(ctx, NULL, "SHA256", NULL, NULL, pkeys[9], NULL);
    EVP_DigestSign(ctx, der, &n, (unsigned char *)token, strlen(token));
    EVP_MD_CTX_free(ctx);
    signer_base64url(der, n, text);
    strcat(token, ".");
    strcat(token, text);
    verifies_to(keys, token, BAD_SIGNATURE);
    /* r = s = 0 */
    memset(der, 0, 64);
    signer_base64url(der, 64, text);
    strcpy(strrchr(token, '.') + 1, text);
    verifies_to(keys, token, BAD_SIGNATURE);
    ngx_http_aiq_jwt_keys_free(keys);
}

static void sizes_are_bounded(void **state)
{
    char *text = malloc(40000);
    keys_t *keys = key_of(0, "");

    (void)state;
    memset(text, 'A', 40000);
    assert_int_equal(verify(keys, text, 16385), TOO_LARGE);
    text[5000] = text[5001] = '.';
    assert_int_equal(verify(keys, text, 16384), TOO_LARGE);
    free(text);
    ngx_http_aiq_jwt_keys_free(keys);
}

static void depth_is_bounded(void **state)
{
    char text[64];

    (void)state;
    for (int depth = 1; depth <= 20; depth++) {
        sprintf(text, "{\"a\":%.*s%.*s}", depth - 1, "[[[[[[[[[[[[[[[[[[[[", depth - 1,
                "]]]]]]]]]]]]]]]]]]]]");
        if (depth == 1) {
            strcpy(text, "{}");
        }
        json_t *json = ngx_http_aiq_jwt_json(text, strlen(text));
        assert_int_equal(json != NULL, depth <= 16);
        json_decref(json);
    }
    const char *quoted = "{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[[[[[[[[[[[\"}";
    json_t *json = ngx_http_aiq_jwt_json(quoted, strlen(quoted));
    assert_non_null(json);
    json_decref(json);
}

static void base64url_has_one_spelling(void **state)
{
    unsigned char out[16];
    static const struct {
        const char *text;
        long len;
    } cases[] = {{"", 0},     {"Zg", 1},    {"Zm8", 2},    {"Zm9v", 3},  {"Zh", -1},
                 {"Zm9", -1}, {"Z", -1},    {"Zm9vY", -1}, {"Zg==", -1}, {"Zg=", -1},
                 {"Z g", -1}, {"Zg\n", -1}, {"-_-_", 3},   {"+/+/", -1}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(ngx_http_aiq_jwt_base64url(cases[i].text, strlen(cases[i].text), out),
                         cases[i].len);
    }
}

static void sets_are_searched_by_kid(void **state)
{
    char a[4096], b[4096], c[4096], set[16384], token[4096];
    EVP_PKEY *old = signer_key("ES256");

    (void)state;
    sprintf(set, "{\"keys\":[%s,%s,%s]}", signer_jwk("ES256", old, ",\"kid\":\"old\"", a),
            signer_jwk("ES256", pkeys[9], ",\"kid\":\"new\"", b),
            signer_jwk("EdDSA", pkeys[12], "", c));
    keys_t *keys = keys_of(set);
    assert_int_equal(ngx_http_aiq_jwt_keys_count(keys), 3);
    signer_token("ES256", pkeys[9], "{\"alg\":\"ES256\",\"kid\":\"new\"}", "{}", token);
    verifies_to(keys, token, OK);
    signer_token("ES256", pkeys[9], "{\"alg\":\"ES256\"}", "{}", token);
    verifies_to(keys, token, OK);
    signer_token("ES256", pkeys[9], "{\"alg\":\"ES256\",\"kid\":\"old\"}", "{}", token);
    verifies_to(keys, token, BAD_SIGNATURE);
    signer_token("ES256", pkeys[9], "{\"alg\":\"ES256\",\"kid\":\"newer\"}", "{}", token);
    verifies_to(keys, token, UNKNOWN_KEY);
    /* a key without a kid is asked whatever the token says */
    signer_token("EdDSA", pkeys[12], "{\"alg\":\"EdDSA\",\"kid\":\"x\"}", "{}", token);
    verifies_to(keys, token, OK);
    ngx_http_aiq_jwt_keys_free(keys);
    EVP_PKEY_free(old);
}

/* All algorithms' keys in one set; more: for each. */
static keys_t *all_keys(const char *more)
{
    static char set[32768];
    char jwk[4096];
    size_t n = (size_t)sprintf(set, "{\"keys\":[");

    for (size_t i = 0; i < ALGS; i++) {
        n += (size_t)sprintf(set + n, "%s%s", i ? "," : "",
                             signer_jwk(algs[i], pkeys[i], more, jwk));
    }
    strcpy(set + n, "]}");
    return keys_of(set);
}

static void a_key_is_known_by_its_fingerprint(void **state)
{
    keys_t *keys = all_keys(""), *same = all_keys(""), *named = all_keys(",\"kid\":\"x\"");
    char header[64], text[4096];

    (void)state;
    for (size_t i = 0; i < ALGS; i++) {
        const unsigned char *print = ngx_http_aiq_jwt_keys_print(keys, i);
        ngx_http_aiq_jwt_token_t token;
        for (size_t k = 0; k < ALGS; k++) {
            assert_int_equal(memcmp(print, ngx_http_aiq_jwt_keys_print(same, k),
                                    NGX_HTTP_AIQ_JWT_PRINT) == 0,
                             pkeys[i] == pkeys[k]); /* HS* have one secret */
            assert_memory_not_equal(print, ngx_http_aiq_jwt_keys_print(named, k),
                                    NGX_HTTP_AIQ_JWT_PRINT);
        }
        sprintf(header, "{\"alg\":\"%s\"}", algs[i]);
        signer_token(algs[i], pkeys[i], header, "{}", text);
        assert_int_equal(ngx_http_aiq_jwt_parse(text, strlen(text), &token), OK);
        assert_memory_equal(ngx_http_aiq_jwt_keys_signer(keys, &token), print,
                            NGX_HTTP_AIQ_JWT_PRINT);
        token.signature[0] ^= 1;
        assert_null(ngx_http_aiq_jwt_keys_signer(keys, &token));
        ngx_http_aiq_jwt_free(&token);
    }
    ngx_http_aiq_jwt_keys_free(keys);
    ngx_http_aiq_jwt_keys_free(same);
    ngx_http_aiq_jwt_keys_free(named);
}

static void a_token_is_tried_with_few_keys(void **state)
{
    char jwk[4096], token[4096];
    char *set = malloc(NGX_HTTP_AIQ_JWT_KEYSET_MAX);
    EVP_PKEY *other = signer_key("ES256");

    (void)state;
    signer_token("ES256", pkeys[9], "{\"alg\":\"ES256\"}", "{}", token);
    for (int n = 7; n <= 8; n++) {
        strcpy(set, "{\"keys\":[");
        for (int i = 0; i < n; i++) {
            strcat(set, signer_jwk("ES256", other, "", jwk));
            strcat(set, ",");
        }
        strcat(set, signer_jwk("ES256", pkeys[9], "", jwk));
        strcat(set, "]}");
        keys_t *keys = keys_of(set);
        verifies_to(keys, token, n == 7 ? OK : BAD_SIGNATURE);
        ngx_http_aiq_jwt_keys_free(keys);
    }
    EVP_PKEY_free(other);
    free(set);
}

static void key_sets_that_are_refused(void **state)
{
    static const char weak[] = "is too short";
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"", "is not valid JSON"},
        {"[]", "is not valid JSON"},
        {"{\"keys\":[],\"keys\":[]}", "is not valid JSON"},
        {"{}", "has no key"},
        {"{\"keys\":[]}", "has no key"},
        {"{\"keys\":7}", "has no key"},
        {"{\"keys\":[7,null,{}]}", "has no key"},
        {"{\"kty\":\"other\",\"k\":\"AAAA\"}", "has no key"},
        {"{\"kty\":\"oct\",\"use\":\"enc\",\"k\":\"AAAA\"}", "has no key"},
        {"{\"kty\":\"oct\",\"key_ops\":[\"sign\"],\"k\":\"AAAA\"}", "has no key"},
        {"{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"}", "has no key"},
        {"{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AA\"}", "has no key"},
        {"{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}", "is too short"},
        {"{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZQ\"}", weak},
        {"{\"kty\":\"oct\",\"alg\":\"HS512\","
         "\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\"}",
         weak},
        {"{\"kty\":\"oct\",\"alg\":\"RS256\","
         "\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\"}",
         "of another type"},
        {"{\"kty\":\"oct\",\"k\":\"not base64\"}", "is not valid"},
        {"{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}", "is too weak"},
        {"{\"kty\":\"RSA\",\"e\":\"AQAB\"}", "is not valid"},
        {"{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"}", "is not valid"},
        /* RFC 7515, A.3 with another y: not on the curve */
        {"{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
         "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
         "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a4\"}",
         "is not valid"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *error = "";
        keys_t *keys = ngx_http_aiq_jwt_keys_create();
        int rc =
            ngx_http_aiq_jwt_keys_add(keys, cases[i].text, strlen(cases[i].text), 1, &error);
        if (rc != -1 || strstr(error, cases[i].error) == NULL) {
            fail_msg("\"%s\" for %s", error, cases[i].text);
        }
        assert_int_equal(ngx_http_aiq_jwt_keys_count(keys), 0);
        ngx_http_aiq_jwt_keys_free(keys);
    }
}

static void weak_rsa_keys_are_refused(void **state)
{
    char jwk[4096];
    const char *error;
    keys_t *keys = ngx_http_aiq_jwt_keys_create();
    EVP_PKEY *small = EVP_RSA_gen(1024);

    (void)state;
    signer_jwk("RS256", small, "", jwk);
    assert_int_equal(ngx_http_aiq_jwt_keys_add(keys, jwk, strlen(jwk), 1, &error), -1);
    assert_non_null(strstr(error, "2048 bits"));
    EVP_PKEY_free(small);
    /* with the exponent 1 everything is its own signature */
    signer_jwk("RS256", pkeys[3], "", jwk);
    memcpy(strstr(jwk, "AQAB"), "AAAB", 4);
    assert_int_equal(ngx_http_aiq_jwt_keys_add(keys, jwk, strlen(jwk), 1, &error), -1);
    assert_int_equal(ngx_http_aiq_jwt_keys_count(keys), 0);
    ngx_http_aiq_jwt_keys_free(keys);
}

static void a_fetched_set_loses_only_its_bad_keys(void **state)
{
    char jwk[4096], set[8192];
    const char *error;
    keys_t *keys = ngx_http_aiq_jwt_keys_create();

    (void)state;
    sprintf(
        set,
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"},{\"kty\":\"new\"},%s,{\"kty\":\"RSA\"}]}",
        signer_jwk("EdDSA", pkeys[12], "", jwk));
    assert_int_equal(ngx_http_aiq_jwt_keys_add(keys, set, strlen(set), 1, &error), -1);
    assert_int_equal(ngx_http_aiq_jwt_keys_count(keys), 0);
    assert_int_equal(ngx_http_aiq_jwt_keys_add(keys, set, strlen(set), 0, &error), 0);
    assert_int_equal(ngx_http_aiq_jwt_keys_count(keys), 1);
    ngx_http_aiq_jwt_keys_free(keys);
}

static int times(const char *payload, int64_t now, int64_t leeway, int64_t max)
{
    ngx_http_aiq_jwt_times_t t;
    json_t *json = ngx_http_aiq_jwt_json(payload, strlen(payload));

    assert_non_null(json);
    int rc = ngx_http_aiq_jwt_times(json, &t);
    json_decref(json);
    return rc != OK ? rc : (int)ngx_http_aiq_jwt_check_times(&t, now, leeway, max);
}

static void times_have_exact_edges(void **state)
{
    (void)state;
    assert_int_equal(times("{\"exp\":1000}", 999, 0, 0), OK);
    assert_int_equal(times("{\"exp\":1000}", 1000, 0, 0), EXPIRED);
    assert_int_equal(times("{\"exp\":1000}", 1009, 10, 0), OK);
    assert_int_equal(times("{\"exp\":1000}", 1010, 10, 0), EXPIRED);
    assert_int_equal(times("{\"exp\":1000.9}", 1000, 0, 0), EXPIRED);
    assert_int_equal(times("{\"exp\":2000,\"nbf\":1000}", 1000, 0, 0), OK);
    assert_int_equal(times("{\"exp\":2000,\"nbf\":1000}", 999, 0, 0), NOT_YET);
    assert_int_equal(times("{\"exp\":2000,\"nbf\":1000}", 990, 10, 0), OK);
    assert_int_equal(times("{\"exp\":2000,\"nbf\":1000}", 989, 10, 0), NOT_YET);
    assert_int_equal(times("{\"exp\":2000,\"iat\":1000}", 999, 0, 0), NOT_YET);
    assert_int_equal(times("{\"exp\":2000,\"iat\":1000}", 999, 1, 0), OK);
    assert_int_equal(times("{\"exp\":4600,\"iat\":1000}", 1000, 0, 3600), OK);
    assert_int_equal(times("{\"exp\":4601,\"iat\":1000}", 4000, 0, 3600), LIFETIME);
    assert_int_equal(times("{\"exp\":4600}", 1000, 0, 3600), OK);
    assert_int_equal(times("{\"exp\":4601}", 1000, 0, 3600), LIFETIME);
    assert_int_equal(times("{\"exp\":253402300799}", 1000, 0, 0), OK);
}

static void times_that_are_none(void **state)
{
    static const char *const payloads[] = {
        "{}",
        "{\"exp\":null}",
        "{\"exp\":\"1000\"}",
        "{\"exp\":true}",
        "{\"exp\":-1}",
        "{\"exp\":253402300800}",
        "{\"exp\":9223372036854775807}",
        "{\"exp\":1e300}",
        "{\"exp\":-0.5}",
        "{\"exp\":1000,\"nbf\":\"0\"}",
        "{\"exp\":1000,\"iat\":[]}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
        assert_int_equal(times(payloads[i], 10, 0, 0), CLAIMS);
    }
}

static void claims_may_be_lists(void **state)
{
    json_t *json =
        json_loads("{\"list\":[\"a\",7,\"bc\"],\"text\":\"a\",\"number\":7}", 0, NULL);
    json_t *list = json_object_get(json, "list"), *text = json_object_get(json, "text");

    (void)state;
    assert_true(ngx_http_aiq_jwt_claim_has(text, "a", 1));
    assert_false(ngx_http_aiq_jwt_claim_has(text, "ab", 2));
    assert_true(ngx_http_aiq_jwt_claim_has(list, "bc", 2));
    assert_false(ngx_http_aiq_jwt_claim_has(list, "b", 1));
    assert_false(ngx_http_aiq_jwt_claim_has(json_object_get(json, "number"), "7", 1));
    assert_false(ngx_http_aiq_jwt_claim_has(NULL, "7", 1));
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_signatures),
        cmocka_unit_test(every_algorithm_with_its_own_key_only),
        cmocka_unit_test(every_mutation_of_a_token_fails),
        cmocka_unit_test(a_public_key_is_no_secret),
        cmocka_unit_test(the_key_names_its_algorithm),
        cmocka_unit_test(none_is_no_algorithm),
        cmocka_unit_test(nothing_critical_is_ignored),
        cmocka_unit_test(keys_in_the_token_are_not_used),
        cmocka_unit_test(the_shape_of_a_token),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(base64url_has_one_spelling),
        cmocka_unit_test(sets_are_searched_by_kid),
        cmocka_unit_test(a_key_is_known_by_its_fingerprint),
        cmocka_unit_test(a_token_is_tried_with_few_keys),
        cmocka_unit_test(key_sets_that_are_refused),
        cmocka_unit_test(weak_rsa_keys_are_refused),
        cmocka_unit_test(a_fetched_set_loses_only_its_bad_keys),
        cmocka_unit_test(times_have_exact_edges),
        cmocka_unit_test(times_that_are_none),
        cmocka_unit_test(claims_may_be_lists),
    };

    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
