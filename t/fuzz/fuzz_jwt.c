/*
 * Any bytes as a key set, a token and a payload, divided by newlines. No token of
 * an attacker's passes with a key that is not theirs; whatever passes has one
 * spelling only.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_aiq_module/ngx_http_aiq_jwt_core.c" /* NOLINT(bugprone-suspicious-include) */
#include "ngx_aiq_module/ngx_http_aiq_jwt_keys.c" /* NOLINT(bugprone-suspicious-include) */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* RFC 8037, A.2: nobody here has its private part */
static const char foreign[] = "{\"kty\":\"OKP\",\"crv\":\"Ed25519\","
                              "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}";

/* The signed message of RFC 8037, A.4, is the only one known. */
static const char signed_message[] = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";

/* A copy of exact size up to the next newline, so that a read beyond it is seen. */
static char *part(const uint8_t **data, size_t *size, size_t *len)
{
    const uint8_t *end = memchr(*data, '\n', *size);
    size_t n = end != NULL ? (size_t)(end - *data) : *size;
    char *copy = malloc(n + (n == 0));

    memcpy(copy, *data, n);
    *data += n + (end != NULL);
    *size -= n + (end != NULL);
    *len = n;
    return copy;
}

static int verify(const ngx_http_aiq_jwt_keys_t *keys, const char *text, size_t len)
{
    ngx_http_aiq_jwt_token_t token;
    int rc = ngx_http_aiq_jwt_parse(text, len, &token);

    if (rc == NGX_HTTP_AIQ_JWT_OK) {
        assert(token.input_len + 1 <= len && len <= NGX_HTTP_AIQ_JWT_TOKEN_MAX);
        rc = ngx_http_aiq_jwt_keys_verify(keys, &token);
        unsigned char *payload = malloc(token.payload_len / 4 * 3 + 3);
        long n = ngx_http_aiq_jwt_base64url(token.payload, token.payload_len, payload);
        assert(n <= (long)token.payload_len);
        json_decref(n < 0 ? NULL : ngx_http_aiq_jwt_json((char *)payload, (size_t)n));
        free(payload);
    }
    ngx_http_aiq_jwt_free(&token);
    return rc;
}

static void check_payload(const char *text, size_t len)
{
    ngx_http_aiq_jwt_times_t times;
    json_t *json = ngx_http_aiq_jwt_json(text, len);

    if (json != NULL && ngx_http_aiq_jwt_times(json, &times) == NGX_HTTP_AIQ_JWT_OK) {
        assert(times.exp >= 0 && times.nbf >= -1 && times.iat >= -1);
        int rc = ngx_http_aiq_jwt_check_times(&times, 1000, 10, 3600);
        assert(rc != NGX_HTTP_AIQ_JWT_OK || (times.exp > 990 && times.nbf <= 1010));
    }
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ngx_http_aiq_jwt_keys_t *other;
    const char *error = NULL;
    size_t set_len, token_len, payload_len;

    if (size > 65536) {
        return 0;
    }
    if (other == NULL) {
        other = ngx_http_aiq_jwt_keys_create();
        ngx_http_aiq_jwt_keys_add(other, foreign, sizeof(foreign) - 1, 1, &error);
    }
    char *set = part(&data, &size, &set_len);
    char *token = part(&data, &size, &token_len);
    char *payload = part(&data, &size, &payload_len);
    ngx_http_aiq_jwt_keys_t *keys = ngx_http_aiq_jwt_keys_create();

    if (ngx_http_aiq_jwt_keys_add(keys, set, set_len, 0, &error) == 0) {
        assert(ngx_http_aiq_jwt_keys_count(keys) > 0);
    } else {
        assert(error != NULL && ngx_http_aiq_jwt_keys_count(keys) == 0);
    }
    verify(keys, token, token_len);
    if (verify(other, token, token_len) == NGX_HTTP_AIQ_JWT_OK) {
        assert(token_len == sizeof(signed_message) - 1 + 87);
        assert(memcmp(token, signed_message, sizeof(signed_message) - 1) == 0);
    }
    check_payload(payload, payload_len);
    ngx_http_aiq_jwt_keys_free(keys);
    free(set);
    free(token);
    free(payload);
    return 0;
}
