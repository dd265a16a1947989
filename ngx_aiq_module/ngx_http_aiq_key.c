
#include "ngx_http_aiq.h"
#include "ngx_http_aiq_auth_cache.h"

#include <openssl/evp.h>


/*
 * API keys.  The engine knows whose a key is; it is asked with the SHA-256 of
 * the key, and what it says is remembered for all workers.
 *
 * An entry of the cache holds in one generation.  A new one begins with each
 * epoch of keys that the engine names, and also where it was lost or has not
 * named its epoch for AIQ_EPOCH_MS: nobody knows what has happened meanwhile.
 *
 * While the engine is asked, the request stands in the ACCESS phase.  Requests
 * with the same key wait for one CHECK.  It is not theirs: it goes on when they
 * leave.
 */


#define NGX_HTTP_AIQ_KEY_MAX        256
#define NGX_HTTP_AIQ_KEY_BUCKETS    256

#define NGX_HTTP_AIQ_KEY_TIMEOUT    5000   /* of a CHECK */
#define NGX_HTTP_AIQ_KEY_ASKS       3      /* where it comes to nothing */
#define NGX_HTTP_AIQ_KEY_PARKED     1024
#define NGX_HTTP_AIQ_KEY_PARK_TIME  1000

/* seconds that an answer is remembered at most */
#define NGX_HTTP_AIQ_KEY_VALID      60
#define NGX_HTTP_AIQ_KEY_REFUSED    5


/* an answer, in the cache: this, then tenant, user, role and key id */

typedef struct {
    uint64_t                    generation;
    int64_t                     expires_ms;
    uint16_t                    status;
    uint16_t                    len[4];
} ngx_http_aiq_key_answer_t;


#define NGX_HTTP_AIQ_KEY_ANSWER_MAX                                           \
    (sizeof(ngx_http_aiq_key_answer_t) + 4 * AIQ_IDENTITY_MAX)


typedef struct {
    uint64_t                    generation;
    ngx_msec_t                  named;       /* when the epoch was */
    uint32_t                    epoch;
    ngx_uint_t                  known;       /* unsigned known:1 */
} ngx_http_aiq_key_shctx_t;


typedef struct {
    ngx_http_aiq_key_shctx_t   *sh;
    ngx_slab_pool_t            *shpool;
} ngx_http_aiq_key_zone_t;


/* in its bucket until it is done */

typedef struct {
    ngx_http_aiq_check_t        check;       /* must be first */
    ngx_queue_t                 queue;
    ngx_queue_t                 waiting;     /* ngx_http_aiq_key_wait_t */
    ngx_event_t                 timeout;
    ngx_uint_t                  asks;
    ngx_uint_t                  parked;      /* unsigned parked:1 */
    size_t                      len;
    u_char                      answer[NGX_HTTP_AIQ_KEY_ANSWER_MAX];
} ngx_http_aiq_key_check_t;


/* a request that waits for it */

struct ngx_http_aiq_key_wait_s {
    ngx_queue_t                 queue;
    ngx_http_aiq_ctx_t         *ctx;
    ngx_http_aiq_key_check_t   *check;       /* NULL: there is an answer */
    ngx_str_t                   answer;      /* empty: no memory for it */
};


static ngx_int_t ngx_http_aiq_key_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_aiq_key_valid(ngx_str_t *key);
static ngx_int_t ngx_http_aiq_key_recall(ngx_http_request_t *r,
    u_char *digest, ngx_str_t *answer);
static ngx_int_t ngx_http_aiq_key_apply(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_str_t *answer);
static ngx_int_t ngx_http_aiq_key_deny(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_reason_e reason);
static ngx_int_t ngx_http_aiq_key_ask(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, u_char *digest);
static ngx_int_t ngx_http_aiq_key_check(u_char *digest,
    ngx_http_aiq_key_check_t **out);
static ngx_int_t ngx_http_aiq_key_start(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_key_unpark(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_key_wait_cleanup(void *data);
static ngx_uint_t ngx_http_aiq_key_stale(ngx_http_aiq_verdict_t *verdict,
    ngx_http_aiq_key_shctx_t *now);
static void ngx_http_aiq_key_write_answer(ngx_http_aiq_key_check_t *check,
    ngx_http_aiq_verdict_t *verdict, uint64_t generation);
static void ngx_http_aiq_key_fail(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_key_done(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_key_timeout_handler(ngx_event_t *ev);
static void ngx_http_aiq_key_resume_handler(ngx_event_t *ev);
static void ngx_http_aiq_key_resume(ngx_http_request_t *r);
static ngx_uint_t ngx_http_aiq_key_now(ngx_http_aiq_key_shctx_t *now);
static ngx_int_t ngx_http_aiq_key_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);


/* a worker's */

static ngx_http_aiq_main_conf_t  *ngx_http_aiq_key_conf;
static ngx_queue_t    ngx_http_aiq_key_checks[NGX_HTTP_AIQ_KEY_BUCKETS];
static ngx_uint_t     ngx_http_aiq_key_nparked;
static ngx_queue_t    ngx_http_aiq_key_answered;
static ngx_event_t    ngx_http_aiq_key_resume_event;


static ngx_int_t
ngx_http_aiq_key_handler(ngx_http_request_t *r)
{
    u_char                    digest[NGX_HTTP_AIQ_AUTH_DIGEST];
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
        if (ctx->key_wait->check) {
            return NGX_AGAIN;
        }

        answer = ctx->key_wait->answer;
        ctx->key_wait = NULL;

        return ngx_http_aiq_key_apply(r, ctx, &answer);
    }

    ngx_memzero(&ctx->identity, sizeof(ngx_http_aiq_identity_t));

    if (ngx_http_aiq_key_shown(r, &key) != NGX_OK) {
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

    switch (ngx_http_aiq_key_recall(r, digest, &answer)) {

    case NGX_OK:
        return ngx_http_aiq_key_apply(r, ctx, &answer);

    case NGX_DECLINED:
        return ngx_http_aiq_key_ask(r, ctx, digest);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


/* Two keys that differ are an invalid one. */

ngx_int_t
ngx_http_aiq_key_shown(ngx_http_request_t *r, ngx_str_t *key)
{
    u_char           *p, *last;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

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
ngx_http_aiq_key_recall(ngx_http_request_t *r, u_char *digest,
    ngx_str_t *answer)
{
    ngx_int_t                   rc;
    ngx_http_aiq_key_shctx_t    now;
    ngx_http_aiq_key_answer_t   a;

    if (!ngx_http_aiq_key_now(&now)) {
        return NGX_DECLINED;
    }

    rc = ngx_http_aiq_auth_cache_lookup(ngx_http_aiq_key_conf->auth_zone,
                                        NGX_HTTP_AIQ_AUTH_KEY, digest,
                                        r->pool, answer);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_memcpy(&a, answer->data, sizeof(ngx_http_aiq_key_answer_t));

    return a.generation == now.generation ? NGX_OK : NGX_DECLINED;
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


static ngx_int_t
ngx_http_aiq_key_ask(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    u_char *digest)
{
    ngx_int_t                  rc;
    ngx_event_t               *rev;
    ngx_http_cleanup_t        *cln;
    ngx_http_aiq_key_wait_t   *wait;
    ngx_http_aiq_key_check_t  *check;

    wait = ngx_pcalloc(r->pool, sizeof(ngx_http_aiq_key_wait_t));
    if (wait == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_aiq_key_wait_cleanup;
    cln->data = wait;

    rc = ngx_http_aiq_key_check(digest, &check);

    switch (rc) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_ENGINE_UNAVAILABLE);

    case NGX_BUSY:
        return ngx_http_aiq_key_deny(r, ctx, NGX_HTTP_AIQ_LINK_FULL);

    default: /* NGX_ERROR */
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    wait->ctx = ctx;
    wait->check = check;
    ngx_queue_insert_tail(&check->waiting, &wait->queue);

    ctx->key_wait = wait;

    /* the client may leave */

    rev = r->connection->read;

    if (rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);

    } else if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    return NGX_AGAIN;
}


/* The question that is under way, or a new one; see ngx_http_aiq_key_start(). */

static ngx_int_t
ngx_http_aiq_key_check(u_char *digest, ngx_http_aiq_key_check_t **out)
{
    ngx_int_t                  rc;
    ngx_queue_t               *q, *bucket;
    ngx_http_aiq_key_check_t  *check;

    bucket = &ngx_http_aiq_key_checks[digest[0] % NGX_HTTP_AIQ_KEY_BUCKETS];

    for (q = ngx_queue_head(bucket);
         q != ngx_queue_sentinel(bucket);
         q = ngx_queue_next(q))
    {
        check = ngx_queue_data(q, ngx_http_aiq_key_check_t, queue);

        if (ngx_memcmp(check->check.digest, digest, NGX_HTTP_AIQ_AUTH_DIGEST)
            == 0)
        {
            *out = check;
            return NGX_OK;
        }
    }

    check = ngx_calloc(sizeof(ngx_http_aiq_key_check_t), ngx_cycle->log);
    if (check == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(check->check.digest, digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    ngx_queue_init(&check->waiting);

    check->timeout.handler = ngx_http_aiq_key_timeout_handler;
    check->timeout.data = check;
    check->timeout.log = ngx_cycle->log;

    rc = ngx_http_aiq_key_start(check);

    if (rc != NGX_OK) {
        ngx_free(check);
        return rc;
    }

    ngx_queue_insert_head(bucket, &check->queue);

    *out = check;

    return NGX_OK;
}


/*
 * NGX_OK: it will be answered, NGX_DECLINED: there is no link to the engine,
 * NGX_BUSY: there is no room on it
 */

static ngx_int_t
ngx_http_aiq_key_start(ngx_http_aiq_key_check_t *check)
{
    ngx_int_t  rc;

    if (check->asks == NGX_HTTP_AIQ_KEY_ASKS) {
        return NGX_DECLINED;
    }

    check->asks++;

    rc = ngx_http_aiq_link_check(&check->check);

    if (rc == NGX_OK) {
        ngx_add_timer(&check->timeout, NGX_HTTP_AIQ_KEY_TIMEOUT);
        return NGX_OK;
    }

    if (rc == NGX_DECLINED && ngx_http_aiq_link_expected()
        && ngx_http_aiq_key_nparked < NGX_HTTP_AIQ_KEY_PARKED)
    {
        check->parked = 1;
        ngx_http_aiq_key_nparked++;

        ngx_add_timer(&check->timeout, NGX_HTTP_AIQ_KEY_PARK_TIME);
        return NGX_OK;
    }

    return rc;
}


static void
ngx_http_aiq_key_unpark(ngx_http_aiq_key_check_t *check)
{
    if (check->parked) {
        check->parked = 0;
        ngx_http_aiq_key_nparked--;
    }
}


static void
ngx_http_aiq_key_wait_cleanup(void *data)
{
    ngx_http_aiq_key_wait_t *wait = data;

    if (wait->check) {
        ngx_queue_remove(&wait->queue);
        wait->check = NULL;

        ngx_str_set(&wait->ctx->status, "client_closed");
    }
}


const char *
ngx_http_aiq_key_verdict(ngx_http_aiq_check_t *data, ngx_http_aiq_event_t *ev)
{
    u_char                      buf[AIQ_CHECK_MAX];
    ngx_str_t                   answer;
    ngx_uint_t                  known;
    const char                 *why;
    ngx_http_aiq_verdict_t      verdict;
    ngx_http_aiq_key_shctx_t    now;
    ngx_http_aiq_key_check_t   *check;

    check = (ngx_http_aiq_key_check_t *) data;

    ngx_memcpy(buf, ev->data, ev->len);

    why = ngx_http_aiq_frames_verdict(buf, ev->len, &verdict);

    if (why) {
        return why;
    }

    ngx_http_aiq_link_uncheck(&check->check, 1);

    known = ngx_http_aiq_key_now(&now);

    if (known && ngx_http_aiq_key_stale(&verdict, &now)) {

        if (ngx_http_aiq_key_start(check) != NGX_OK) {
            ngx_http_aiq_key_fail(check);
        }

        return NULL;
    }

    ngx_http_aiq_key_write_answer(check, &verdict, now.generation);

    if (known && verdict.epoch == now.epoch && verdict.status != 503) {
        answer.data = check->answer;
        answer.len = check->len;

        (void) ngx_http_aiq_auth_cache_insert(ngx_http_aiq_key_conf->auth_zone,
                                              NGX_HTTP_AIQ_AUTH_KEY,
                                              check->check.digest, &answer,
                                              ngx_time()
                                              + (verdict.status == 200
                                                 ? NGX_HTTP_AIQ_KEY_VALID
                                                 : NGX_HTTP_AIQ_KEY_REFUSED));
    }

    ngx_http_aiq_key_done(check);

    return NULL;
}


/* It was looked up before a change that we have heard of. */

static ngx_uint_t
ngx_http_aiq_key_stale(ngx_http_aiq_verdict_t *verdict,
    ngx_http_aiq_key_shctx_t *now)
{
    return verdict->status != 503
           && (int32_t) (verdict->epoch - now->epoch) < 0;
}


static void
ngx_http_aiq_key_write_answer(ngx_http_aiq_key_check_t *check,
    ngx_http_aiq_verdict_t *verdict, uint64_t generation)
{
    u_char                      *p;
    ngx_uint_t                   i;
    const aiq_text              *text[4];
    ngx_http_aiq_key_answer_t    a;

    text[0] = &verdict->tenant;
    text[1] = &verdict->user;
    text[2] = &verdict->role;
    text[3] = &verdict->key_id;

    ngx_memzero(&a, sizeof(ngx_http_aiq_key_answer_t));

    a.generation = generation;
    a.expires_ms = verdict->expires_ms;
    a.status = (uint16_t) verdict->status;

    p = check->answer + sizeof(ngx_http_aiq_key_answer_t);

    for (i = 0; i < 4; i++) {
        a.len[i] = (uint16_t) text[i]->len;
        p = ngx_cpymem(p, text[i]->data, text[i]->len);
    }

    ngx_memcpy(check->answer, &a, sizeof(ngx_http_aiq_key_answer_t));

    check->len = p - check->answer;
}


/* Nobody can say: 503. */

static void
ngx_http_aiq_key_fail(ngx_http_aiq_key_check_t *check)
{
    ngx_http_aiq_verdict_t  verdict;

    ngx_memzero(&verdict, sizeof(ngx_http_aiq_verdict_t));
    verdict.status = NGX_HTTP_SERVICE_UNAVAILABLE;

    ngx_http_aiq_key_write_answer(check, &verdict, 0);
    ngx_http_aiq_key_done(check);
}


/*
 * The requests go on once the link is in order again: they may take others of
 * their connection with them, and use the link themselves.
 */

static void
ngx_http_aiq_key_done(ngx_http_aiq_key_check_t *check)
{
    if (check->timeout.timer_set) {
        ngx_del_timer(&check->timeout);
    }

    ngx_queue_remove(&check->queue);
    ngx_queue_insert_tail(&ngx_http_aiq_key_answered, &check->queue);

    ngx_post_event(&ngx_http_aiq_key_resume_event, &ngx_posted_events);
}


void
ngx_http_aiq_key_lost(ngx_http_aiq_check_t *data, ngx_uint_t broken)
{
    ngx_http_aiq_key_check_t  *check;

    check = (ngx_http_aiq_key_check_t *) data;

    ngx_http_aiq_link_uncheck(&check->check, 1);

    /* it may be this question that the engine cannot answer */

    if (broken || ngx_http_aiq_key_start(check) != NGX_OK) {
        ngx_http_aiq_key_fail(check);
    }
}


void
ngx_http_aiq_key_linked(void)
{
    ngx_uint_t                 i;
    ngx_queue_t               *q, *next, *bucket;
    ngx_http_aiq_key_check_t  *check;

    if (ngx_http_aiq_key_nparked == 0) {
        return;
    }

    for (i = 0; i < NGX_HTTP_AIQ_KEY_BUCKETS; i++) {

        bucket = &ngx_http_aiq_key_checks[i];

        for (q = ngx_queue_head(bucket);
             q != ngx_queue_sentinel(bucket);
             q = next)
        {
            next = ngx_queue_next(q);
            check = ngx_queue_data(q, ngx_http_aiq_key_check_t, queue);

            if (!check->parked) {
                continue;
            }

            ngx_http_aiq_key_unpark(check);

            if (ngx_http_aiq_key_start(check) != NGX_OK) {
                ngx_http_aiq_key_fail(check);
            }
        }
    }
}


static void
ngx_http_aiq_key_timeout_handler(ngx_event_t *ev)
{
    ngx_http_aiq_key_check_t  *check;

    check = ev->data;

    if (check->parked) {
        ngx_http_aiq_key_unpark(check);

    } else {
        ngx_log_error(NGX_LOG_ERR, ev->log, 0,
                      "aiq: the engine does not say whose an API key is");

        ngx_http_aiq_link_uncheck(&check->check, 0);
    }

    ngx_http_aiq_key_fail(check);
}


static void
ngx_http_aiq_key_resume_handler(ngx_event_t *ev)
{
    ngx_queue_t               *q;
    ngx_http_request_t        *r;
    ngx_http_aiq_key_wait_t   *wait;
    ngx_http_aiq_key_check_t  *check;

    while (!ngx_queue_empty(&ngx_http_aiq_key_answered)) {

        q = ngx_queue_head(&ngx_http_aiq_key_answered);
        check = ngx_queue_data(q, ngx_http_aiq_key_check_t, queue);

        if (ngx_queue_empty(&check->waiting)) {
            ngx_queue_remove(&check->queue);
            ngx_free(check);
            continue;
        }

        q = ngx_queue_head(&check->waiting);
        wait = ngx_queue_data(q, ngx_http_aiq_key_wait_t, queue);

        ngx_queue_remove(&wait->queue);
        wait->check = NULL;

        r = wait->ctx->request;

        wait->answer.data = ngx_pnalloc(r->pool, check->len);

        if (wait->answer.data) {
            ngx_memcpy(wait->answer.data, check->answer, check->len);
            wait->answer.len = check->len;
        }

        ngx_http_aiq_key_resume(r);
    }
}


static void
ngx_http_aiq_key_resume(ngx_http_request_t *r)
{
    ngx_connection_t  *c;

    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);

    } else {
        r->read_event_handler = ngx_http_block_reading;
        r->write_event_handler = ngx_http_core_run_phases;

        ngx_http_core_run_phases(r);
    }

    ngx_http_run_posted_requests(c);
}


/* Is the epoch known?  Then which is it, and which generation? */

static ngx_uint_t
ngx_http_aiq_key_now(ngx_http_aiq_key_shctx_t *now)
{
    ngx_http_aiq_key_zone_t  *zone;

    zone = ngx_http_aiq_key_conf->key_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);
    *now = *zone->sh;
    ngx_shmtx_unlock(&zone->shpool->mutex);

    /* another worker's time may be ahead of ours */

    return now->known
           && (ngx_msec_int_t) (ngx_current_msec - now->named) <= AIQ_EPOCH_MS;
}


void
ngx_http_aiq_key_epoch(uint32_t epoch)
{
    ngx_uint_t                 known;
    ngx_http_aiq_key_zone_t   *zone;
    ngx_http_aiq_key_shctx_t  *sh;

    if (ngx_http_aiq_key_conf == NULL) {
        return;
    }

    zone = ngx_http_aiq_key_conf->key_zone->data;
    sh = zone->sh;

    ngx_shmtx_lock(&zone->shpool->mutex);

    known = sh->known
            && (ngx_msec_int_t) (ngx_current_msec - sh->named) <= AIQ_EPOCH_MS;

    if (!known || (int32_t) (epoch - sh->epoch) > 0) {
        sh->known = 1;
        sh->epoch = epoch;
        sh->generation++;
    }

    /* an earlier one is of a link that is late */

    if (epoch == sh->epoch) {
        sh->named = ngx_current_msec;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_aiq_key_forget(void)
{
    ngx_http_aiq_key_zone_t  *zone;

    if (ngx_http_aiq_key_conf == NULL) {
        return;
    }

    zone = ngx_http_aiq_key_conf->key_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);
    zone->sh->known = 0;
    ngx_shmtx_unlock(&zone->shpool->mutex);
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
    ngx_str_t                   name;
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

    amcf->auth_zone = ngx_http_aiq_auth_cache_zone(cf);
    if (amcf->auth_zone == NULL) {
        return NGX_ERROR;
    }

    /* another engine counts in another way */

    name.len = sizeof("aiq_key:") - 1 + amcf->engine.len;
    name.data = ngx_pnalloc(cf->pool, name.len);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(name.data, "aiq_key:%V", &amcf->engine);

    amcf->key_zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize,
                                           &ngx_http_aiq_module);
    if (amcf->key_zone == NULL) {
        return NGX_ERROR;
    }

    amcf->key_zone->init = ngx_http_aiq_key_init_zone;
    amcf->key_zone->data = ngx_pcalloc(cf->pool,
                                       sizeof(ngx_http_aiq_key_zone_t));
    if (amcf->key_zone->data == NULL) {
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


static ngx_int_t
ngx_http_aiq_key_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_aiq_key_zone_t *ozone = data;

    ngx_http_aiq_key_zone_t  *zone;

    zone = shm_zone->data;
    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (ozone) {
        zone->sh = ozone->sh;
        return NGX_OK;
    }

    if (shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        return NGX_OK;
    }

    zone->sh = ngx_slab_calloc(zone->shpool, sizeof(ngx_http_aiq_key_shctx_t));
    if (zone->sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = zone->sh;

    /* not that of another engine's, whose entries are in the same cache */

    zone->sh->generation = (uint64_t) ngx_time() << 32 | (uint32_t) ngx_random();

    return NGX_OK;
}


void
ngx_http_aiq_key_init_process(ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t  i;

    if (amcf->key_zone == NULL) {
        return;
    }

    ngx_http_aiq_key_conf = amcf;

    for (i = 0; i < NGX_HTTP_AIQ_KEY_BUCKETS; i++) {
        ngx_queue_init(&ngx_http_aiq_key_checks[i]);
    }

    ngx_queue_init(&ngx_http_aiq_key_answered);

    ngx_http_aiq_key_resume_event.handler = ngx_http_aiq_key_resume_handler;
    ngx_http_aiq_key_resume_event.log = ngx_cycle->log;
}
