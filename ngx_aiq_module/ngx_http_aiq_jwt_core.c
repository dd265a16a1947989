
#include <stdlib.h>
#include <string.h>

#include "ngx_http_aiq_jwt_core.h"


static int ngx_http_aiq_jwt_depth(const char *text, size_t len);
static int ngx_http_aiq_jwt_time(const json_t *payload, const char *name,
    int64_t *time);


static const signed char  ngx_http_aiq_jwt_base64[256] = {
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 62, -1, -1,
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, -1, -1, -1, -1, -1, -1,
    -1,  0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14,
    15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, -1, -1, -1, -1, 63,
    -1, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40,
    41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1
};


/* Not nginx's own decoder: that one takes padding and spare bits. */

long
ngx_http_aiq_jwt_base64url(const char *text, size_t len, unsigned char *out)
{
    int             value;
    size_t          i;
    unsigned        bits, n;
    unsigned char  *p;

    p = out;
    bits = 0;
    n = 0;

    for (i = 0; i < len; i++) {

        value = ngx_http_aiq_jwt_base64[(unsigned char) text[i]];
        if (value < 0) {
            return -1;
        }

        bits = (bits << 6 | (unsigned) value) & 0xffff;
        n += 6;

        if (n >= 8) {
            n -= 8;
            *p++ = (unsigned char) (bits >> n);
        }
    }

    if (n >= 6 || (bits & ((1u << n) - 1))) {
        return -1;
    }

    return p - out;
}


json_t *
ngx_http_aiq_jwt_json(const char *text, size_t len)
{
    json_t        *json;
    json_error_t   error;

    if (!ngx_http_aiq_jwt_depth(text, len)) {
        return NULL;
    }

    json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);

    if (json && !json_is_object(json)) {
        json_decref(json);
        return NULL;
    }

    return json;
}


/* Jansson's parser calls itself for each level, up to 2048 of them. */

static int
ngx_http_aiq_jwt_depth(const char *text, size_t len)
{
    int     quoted;
    size_t  i, depth;

    quoted = 0;
    depth = 0;

    for (i = 0; i < len; i++) {

        switch (text[i]) {

        case '"':
            quoted = !quoted;
            break;

        case '\\':
            i += (quoted != 0);
            break;

        case '{':
        case '[':
            if (!quoted && ++depth > NGX_HTTP_AIQ_JWT_DEPTH_MAX) {
                return 0;
            }
            break;

        case '}':
        case ']':
            depth -= (!quoted && depth > 0);
            break;

        default:
            break;
        }
    }

    return 1;
}


ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_parse(const char *text, size_t len,
    ngx_http_aiq_jwt_token_t *token)
{
    long            n;
    size_t          header_len;
    json_t         *value;
    const char     *dot, *last, *end;
    unsigned char   header[NGX_HTTP_AIQ_JWT_HEADER_MAX];

    memset(token, 0, sizeof(ngx_http_aiq_jwt_token_t));

    if (len > NGX_HTTP_AIQ_JWT_TOKEN_MAX) {
        return NGX_HTTP_AIQ_JWT_TOO_LARGE;
    }

    end = text + len;

    dot = len ? memchr(text, '.', len) : NULL;
    if (dot == NULL) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    last = memchr(dot + 1, '.', end - (dot + 1));
    if (last == NULL || memchr(last + 1, '.', end - (last + 1))) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    header_len = dot - text;

    if (header_len > NGX_HTTP_AIQ_JWT_HEADER_MAX) {
        return NGX_HTTP_AIQ_JWT_TOO_LARGE;
    }

    n = ngx_http_aiq_jwt_base64url(text, header_len, header);
    if (n < 0) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    token->header = ngx_http_aiq_jwt_json((char *) header, n);
    if (token->header == NULL) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    /* "b64" changes what is signed, and must be listed in "crit" */

    if (json_object_get(token->header, "crit")
        || json_object_get(token->header, "b64"))
    {
        return NGX_HTTP_AIQ_JWT_CRITICAL;
    }

    value = json_object_get(token->header, "alg");
    if (!json_is_string(value)) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    token->alg = ngx_http_aiq_jwt_alg(json_string_value(value),
                                      json_string_length(value));
    if (token->alg == NULL) {
        return NGX_HTTP_AIQ_JWT_ALGORITHM;
    }

    value = json_object_get(token->header, "kid");

    if (value) {
        if (!json_is_string(value)) {
            return NGX_HTTP_AIQ_JWT_MALFORMED;
        }

        token->kid = json_string_value(value);
        token->kid_len = json_string_length(value);
    }

    token->input = text;
    token->input_len = last - text;
    token->payload = dot + 1;
    token->payload_len = last - (dot + 1);

    token->signature = malloc((end - last) / 4 * 3 + 3);
    if (token->signature == NULL) {
        return NGX_HTTP_AIQ_JWT_NO_MEMORY;
    }

    n = ngx_http_aiq_jwt_base64url(last + 1, end - (last + 1),
                                   token->signature);
    if (n < 0) {
        return NGX_HTTP_AIQ_JWT_MALFORMED;
    }

    token->signature_len = n;

    return NGX_HTTP_AIQ_JWT_OK;
}


void
ngx_http_aiq_jwt_free(ngx_http_aiq_jwt_token_t *token)
{
    json_decref(token->header);
    free(token->signature);
}


ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_times(const json_t *payload, ngx_http_aiq_jwt_times_t *times)
{
    if (!ngx_http_aiq_jwt_time(payload, "exp", &times->exp)
        || !ngx_http_aiq_jwt_time(payload, "nbf", &times->nbf)
        || !ngx_http_aiq_jwt_time(payload, "iat", &times->iat)
        || times->exp == -1)
    {
        return NGX_HTTP_AIQ_JWT_CLAIMS;
    }

    return NGX_HTTP_AIQ_JWT_OK;
}


/* A NumericDate may have a fraction; -1 where there is none. */

static int
ngx_http_aiq_jwt_time(const json_t *payload, const char *name, int64_t *time)
{
    double   real;
    json_t  *value;

    value = json_object_get(payload, name);

    if (value == NULL) {
        *time = -1;
        return 1;
    }

    if (json_is_integer(value)) {
        *time = json_integer_value(value);
        return *time >= 0 && *time <= NGX_HTTP_AIQ_JWT_TIME_MAX;
    }

    if (!json_is_real(value)) {
        return 0;
    }

    real = json_real_value(value);

    if (!(real >= 0 && real <= (double) NGX_HTTP_AIQ_JWT_TIME_MAX)) {
        return 0;
    }

    *time = (int64_t) real;

    return 1;
}


ngx_http_aiq_jwt_result_e
ngx_http_aiq_jwt_check_times(const ngx_http_aiq_jwt_times_t *times,
    int64_t now, int64_t leeway, int64_t max_lifetime)
{
    int64_t  start;

    if (now >= times->exp + leeway) {
        return NGX_HTTP_AIQ_JWT_EXPIRED;
    }

    if ((times->nbf != -1 && now + leeway < times->nbf)
        || (times->iat != -1 && now + leeway < times->iat))
    {
        return NGX_HTTP_AIQ_JWT_NOT_YET;
    }

    /* a token that does not say when it was issued could be as old as now */

    start = (times->iat != -1) ? times->iat : now;

    if (max_lifetime && times->exp - start > max_lifetime) {
        return NGX_HTTP_AIQ_JWT_LIFETIME;
    }

    return NGX_HTTP_AIQ_JWT_OK;
}


int
ngx_http_aiq_jwt_claim_has(const json_t *claim, const char *text, size_t len)
{
    size_t   i;
    json_t  *item;

    if (json_is_string(claim)) {
        return json_string_length(claim) == len
               && memcmp(json_string_value(claim), text, len) == 0;
    }

    json_array_foreach(claim, i, item) {
        if (json_is_string(item) && json_string_length(item) == len
            && memcmp(json_string_value(item), text, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}
