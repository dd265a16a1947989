
#include "ngx_http_aiq_key.h"
#include "ngx_http_aiq_ws.h"

#include <openssl/evp.h>


/* "aiq_key": API keys in the ACCESS phase */


#define NGX_HTTP_AIQ_KEY_MAX  256


static ngx_int_t ngx_http_aiq_key_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_key_find(ngx_http_request_t *r, ngx_str_t *key);
static ngx_uint_t ngx_http_aiq_key_valid(ngx_str_t *key);
static ngx_int_t ngx_http_aiq_key_apply(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_str_t *answer);
static ngx_int_t ngx_http_aiq_key_deny(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_reason_e reason);


static ngx_int_t
ngx_http_aiq_key_handler(ngx_http_request_t *r)
{
    u_char                    digest[NGX_HTTP_AIQ_AUTH_DIGEST];
    ngx_int_t                 rc;
    ngx_str_t                 key, answer;
    ngx_http_aiq_ctx_t       *ctx;
    ngx_http_aiq_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    if (alcf->key_realm.len == 0) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_aiq_need_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->key_wait) {
        if (ctx->key_wait->waiting) {
            return NGX_AGAIN;
        }

        answer = ctx->key_wait->answer;
        ctx->key_wait = NULL;

        return ngx_http_aiq_key_apply(r, ctx, &answer);
    }

    rc = ngx_http_aiq_key_find(r, &key);

    if (rc == NGX_DECLINED && ngx_http_aiq_jwt_wanted(r)) {
        return NGX_DECLINED;
    }

    ngx_memzero(&ctx->identity, sizeof(ngx_http_aiq_identity_t));

    if (rc == NGX_DECLINED) {
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_MISSING_API_KEY);
    }

    if (!ngx_http_aiq_key_valid(&key)) {
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_INVALID_API_KEY);
    }

    if (EVP_Digest(key.data, key.len, digest, NULL, EVP_sha256(), NULL) != 1) {
        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "EVP_Digest() failed");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_aiq_check_recall(r, digest, &answer);

    if (rc == NGX_DECLINED) {
        rc = ngx_http_aiq_check_ask(r, ctx, digest);
    }

    switch (rc) {

    case NGX_OK:
        return ngx_http_aiq_key_apply(r, ctx, &answer);

    case NGX_AGAIN:
        return NGX_AGAIN;

    case NGX_DECLINED:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_ENGINE_UNAVAILABLE);

    case NGX_BUSY:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_LINK_FULL);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


ngx_uint_t
ngx_http_aiq_key_shown(ngx_http_request_t *r)
{
    ngx_str_t                 key;
    ngx_http_aiq_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    return alcf->key_realm.len && ngx_http_aiq_key_find(r, &key) == NGX_OK;
}


/* Two keys that differ are an invalid one. */

static ngx_int_t
ngx_http_aiq_key_find(ngx_http_request_t *r, ngx_str_t *key)
{
    u_char              *p, *last;
    ngx_uint_t           i;
    ngx_list_part_t     *part;
    ngx_table_elt_t     *h;
    ngx_http_aiq_ctx_t  *ctx;

    ngx_str_null(key);

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        p = h[i].value.data;
        last = p + h[i].value.len;

        if (h[i].key.len == 13
            && ngx_strncmp(h[i].lowcase_key, "authorization", 13) == 0)
        {
            if (h[i].value.len < 7
                || ngx_strncasecmp(p, (u_char *) "bearer ", 7) != 0)
            {
                continue;
            }

            for (p += 7; p < last && *p == ' '; p++) { /* void */ }

        } else if (h[i].key.len != 9
                   || ngx_strncmp(h[i].lowcase_key, "x-api-key", 9) != 0)
        {
            continue;
        }

        if (last - p < 4 || ngx_strncmp(p, "aiq_", 4) != 0) {
            continue;
        }

        if (key->data && (key->len != (size_t) (last - p)
                          || ngx_memcmp(key->data, p, key->len) != 0))
        {
            key->len = 0;
            return NGX_OK;
        }

        key->data = p;
        key->len = last - p;
    }

    if (key->data == NULL) {
        ctx = ngx_http_aiq_get_ctx(r);

        /* of its first message */

        if (ctx && ctx->ws && ctx->ws->token.len >= 4
            && ngx_strncmp(ctx->ws->token.data, "aiq_", 4) == 0)
        {
            *key = ctx->ws->token;
        }
    }

    return key->data ? NGX_OK : NGX_DECLINED;
}


/* What cannot be a key is not asked for. */

static ngx_uint_t
ngx_http_aiq_key_valid(ngx_str_t *key)
{
    u_char  *p, *last;

    last = key->data + key->len;

    for (p = key->data; p < last; p++) {
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')
              || (*p >= '0' && *p <= '9') || *p == '_' || *p == '-'))
        {
            return 0;
        }
    }

    return key->len > 0 && key->len <= NGX_HTTP_AIQ_KEY_MAX;
}


static ngx_int_t
ngx_http_aiq_key_apply(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_str_t *answer)
{
    u_char                     *p;
    ngx_uint_t                  i;
    ngx_time_t                 *tp;
    ngx_str_t                  *value[4];
    ngx_http_aiq_key_answer_t   a;

    if (answer->len == 0) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(&a, answer->data, sizeof(ngx_http_aiq_key_answer_t));

    switch (a.status) {

    case 200:
        break;

    case 401:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_INVALID_API_KEY);

    case 403:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_DISABLED_API_KEY);

    case NGX_HTTP_AIQ_KEY_NO_ROOM:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_LINK_FULL);

    default:
        return ngx_http_aiq_key_deny(r, ctx,
                                     ngx_http_aiq_link_up()
                                     ? NGX_HTTP_AIQ_KEY_UNVERIFIED
                                     : NGX_HTTP_AIQ_ENGINE_UNAVAILABLE);
    }

    tp = ngx_timeofday();

    if (a.expires_ms >= 0
        && a.expires_ms <= (int64_t) tp->sec * 1000 + (int64_t) tp->msec)
    {
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_INVALID_API_KEY);
    }

    value[0] = &ctx->identity.tenant;
    value[1] = &ctx->identity.user;
    value[2] = &ctx->identity.role;
    value[3] = &ctx->identity.key_id;

    p = answer->data + sizeof(ngx_http_aiq_key_answer_t);

    for (i = 0; i < 4; i++) {
        value[i]->data = p;
        value[i]->len = a.len[i];
        p += a.len[i];
    }

    ctx->identity.key_rate = a.rate;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_key_deny(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason)
{
    u_char                   *p;
    size_t                    len;
    ngx_table_elt_t          *h;
    ngx_http_aiq_loc_conf_t  *alcf;

    ngx_http_aiq_set_failure(ctx, reason);

    if (ctx->failure.status != NGX_HTTP_UNAUTHORIZED) {
        return ctx->failure.status;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_http_aiq_module);

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    h->hash = 0;

    len = sizeof("Bearer realm=\"\", error=\"invalid_token\"") - 1
          + alcf->key_realm.len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    ngx_str_set(&h->key, "WWW-Authenticate");
    h->value.data = p;

    /* RFC 6750, 3.1: no error where no credentials came */

    p = ngx_sprintf(p, "Bearer realm=\"%V\"%s", &alcf->key_realm,
                    reason == NGX_HTTP_AIQ_MISSING_API_KEY
                    ? "" : ", error=\"invalid_token\"");

    h->value.len = p - h->value.data;

    r->headers_out.www_authenticate = h;

    return NGX_HTTP_UNAUTHORIZED;
}


char *
ngx_http_aiq_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    u_char                    *p, *last;
    ngx_str_t                 *value;
    ngx_http_aiq_main_conf_t  *amcf;

    if (alcf->key_realm.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        ngx_str_set(&alcf->key_realm, "");
        return NGX_CONF_OK;
    }

    last = value[1].data + value[1].len;

    for (p = value[1].data; p < last; p++) {
        if (*p < 0x20 || *p > 0x7e || *p == '"' || *p == '\\') {
            break;
        }
    }

    if (value[1].len == 0 || p < last) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid realm \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    alcf->key_realm = value[1];

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_aiq_module);

    if (amcf->key_file == NULL) {
        amcf->key_file = cf->conf_file->file.name.data;
        amcf->key_line = cf->conf_file->line;
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_aiq_key_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    if (amcf->key_file == NULL) {
        return NGX_OK;
    }

    if (amcf->engine.len == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"aiq_engine\" is defined for \"aiq_key\" in %s:%ui",
                      amcf->key_file, amcf->key_line);
        return NGX_ERROR;
    }

    if (ngx_http_aiq_check_init(cf, amcf) != NGX_OK) {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_ACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_aiq_key_handler;

    return NGX_OK;
}
