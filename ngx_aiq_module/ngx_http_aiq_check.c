
#include "ngx_http_aiq_key.h"


/*
 * Whose is a key?  The engine knows; it is asked with the SHA-256 of the key,
 * and what it says is remembered for all workers.
 *
 * An entry of the cache holds in one generation.  A new one begins with each
 * epoch of keys that the engine names, and also where it was lost or has not
 * named its epoch for AIQ_EPOCH_MS: nobody knows what has happened meanwhile.
 *
 * Requests with the same key wait for one CHECK.  It is not theirs: it goes on
 * when they leave.
 */


#define NGX_HTTP_AIQ_CHECK_BUCKETS    256

#define NGX_HTTP_AIQ_CHECK_TIMEOUT    5000   /* of a CHECK */
#define NGX_HTTP_AIQ_CHECK_ASKS       3      /* where it comes to nothing */
#define NGX_HTTP_AIQ_CHECK_PARKED     1024
#define NGX_HTTP_AIQ_CHECK_PARK_TIME  1000

/* seconds that an answer is remembered at most */
#define NGX_HTTP_AIQ_CHECK_VALID      60
#define NGX_HTTP_AIQ_CHECK_REFUSED    5


typedef struct {
    uint64_t                     generation;
    ngx_msec_t                   named;      /* when the epoch was */
    uint32_t                     epoch;
    ngx_uint_t                   known;      /* unsigned known:1 */
} ngx_http_aiq_check_shctx_t;


typedef struct {
    ngx_http_aiq_check_shctx_t  *sh;
    ngx_slab_pool_t             *shpool;
} ngx_http_aiq_check_zone_t;


/* in its bucket until it is done */

typedef struct {
    ngx_http_aiq_check_t         check;      /* must be first */
    ngx_queue_t                  queue;
    ngx_queue_t                  waiting;    /* ngx_http_aiq_key_wait_t */
    ngx_event_t                  timeout;
    ngx_uint_t                   asks;
    ngx_uint_t                   parked;     /* unsigned parked:1 */
    size_t                       len;
    u_char                       answer[NGX_HTTP_AIQ_KEY_ANSWER_MAX];
} ngx_http_aiq_key_check_t;


static ngx_int_t ngx_http_aiq_check_get(u_char *digest,
    ngx_http_aiq_key_check_t **out);
static ngx_int_t ngx_http_aiq_check_start(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_check_unpark(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_check_wait_cleanup(void *data);
static void ngx_http_aiq_check_remember(ngx_http_aiq_key_check_t *check,
    ngx_uint_t status);
static ngx_uint_t ngx_http_aiq_check_stale(ngx_http_aiq_verdict_t *verdict,
    ngx_http_aiq_check_shctx_t *now);
static void ngx_http_aiq_check_answer(ngx_http_aiq_key_check_t *check,
    ngx_http_aiq_verdict_t *verdict, uint64_t generation);
static void ngx_http_aiq_check_fail(ngx_http_aiq_key_check_t *check,
    ngx_uint_t status);
static void ngx_http_aiq_check_done(ngx_http_aiq_key_check_t *check);
static void ngx_http_aiq_check_timeout_handler(ngx_event_t *ev);
static void ngx_http_aiq_check_resume_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_aiq_check_now(ngx_http_aiq_check_shctx_t *now);
static ngx_int_t ngx_http_aiq_check_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);


/* a worker's */

static ngx_http_aiq_main_conf_t  *ngx_http_aiq_check_conf;
static ngx_queue_t    ngx_http_aiq_checks[NGX_HTTP_AIQ_CHECK_BUCKETS];
static ngx_uint_t     ngx_http_aiq_check_nparked;
static ngx_queue_t    ngx_http_aiq_check_answered;
static ngx_event_t    ngx_http_aiq_check_resume_event;


ngx_int_t
ngx_http_aiq_check_recall(ngx_http_request_t *r, u_char *digest,
    ngx_str_t *answer)
{
    ngx_int_t                   rc;
    ngx_http_aiq_key_answer_t   a;
    ngx_http_aiq_check_shctx_t  now;

    if (!ngx_http_aiq_check_now(&now)) {
        return NGX_DECLINED;
    }

    rc = ngx_http_aiq_auth_cache_lookup(ngx_http_aiq_check_conf->auth_zone,
                                        NGX_HTTP_AIQ_AUTH_KEY, digest,
                                        r->pool, answer);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_memcpy(&a, answer->data, sizeof(ngx_http_aiq_key_answer_t));

    return a.generation == now.generation ? NGX_OK : NGX_DECLINED;
}


ngx_int_t
ngx_http_aiq_check_ask(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    u_char *digest)
{
    ngx_int_t                  rc;
    ngx_http_cleanup_t        *cln;
    ngx_http_aiq_key_wait_t   *wait;
    ngx_http_aiq_key_check_t  *check;

    wait = ngx_pcalloc(r->pool, sizeof(ngx_http_aiq_key_wait_t));
    if (wait == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_aiq_check_wait_cleanup;
    cln->data = wait;

    rc = ngx_http_aiq_check_get(digest, &check);

    if (rc != NGX_OK) {
        return rc;
    }

    wait->ctx = ctx;
    wait->waiting = 1;
    ngx_queue_insert_tail(&check->waiting, &wait->queue);

    ctx->key_wait = wait;

    return ngx_http_aiq_phase_wait(r);
}


/* A question that is under way, or a new one: ngx_http_aiq_check_start(). */

static ngx_int_t
ngx_http_aiq_check_get(u_char *digest, ngx_http_aiq_key_check_t **out)
{
    ngx_int_t                  rc;
    ngx_queue_t               *q, *bucket;
    ngx_http_aiq_key_check_t  *check;

    bucket = &ngx_http_aiq_checks[digest[0] % NGX_HTTP_AIQ_CHECK_BUCKETS];

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

    check->timeout.handler = ngx_http_aiq_check_timeout_handler;
    check->timeout.data = check;
    check->timeout.log = ngx_cycle->log;

    rc = ngx_http_aiq_check_start(check);

    if (rc != NGX_OK) {
        ngx_free(check);
        return rc;
    }

    ngx_queue_insert_head(bucket, &check->queue);

    *out = check;

    return NGX_OK;
}


/*
 * NGX_OK: it will be answered, or waits for that; NGX_DECLINED: there is no
 * link to the engine, NGX_BUSY: there is no room on it
 */

static ngx_int_t
ngx_http_aiq_check_start(ngx_http_aiq_key_check_t *check)
{
    ngx_int_t  rc;

    if (check->asks == NGX_HTTP_AIQ_CHECK_ASKS) {
        return NGX_DECLINED;
    }

    rc = ngx_http_aiq_link_check(&check->check);

    if (rc == NGX_OK) {
        check->asks++;

        ngx_http_aiq_check_unpark(check);

        ngx_add_timer(&check->timeout, NGX_HTTP_AIQ_CHECK_TIMEOUT);
        return NGX_OK;
    }

    if (check->parked) {
        return NGX_OK;
    }

    if (rc != NGX_ERROR && ngx_http_aiq_link_expected()
        && ngx_http_aiq_check_nparked < NGX_HTTP_AIQ_CHECK_PARKED)
    {
        check->parked = 1;
        ngx_http_aiq_check_nparked++;

        ngx_add_timer(&check->timeout, NGX_HTTP_AIQ_CHECK_PARK_TIME);
        return NGX_OK;
    }

    return rc == NGX_DECLINED ? NGX_DECLINED : NGX_BUSY;
}


static void
ngx_http_aiq_check_unpark(ngx_http_aiq_key_check_t *check)
{
    if (check->parked) {
        check->parked = 0;
        ngx_http_aiq_check_nparked--;
    }
}


static void
ngx_http_aiq_check_wait_cleanup(void *data)
{
    ngx_http_aiq_key_wait_t *wait = data;

    if (wait->waiting) {
        ngx_queue_remove(&wait->queue);
        wait->waiting = 0;

        ngx_str_set(&wait->ctx->status, "client_closed");
    }
}


const char *
ngx_http_aiq_check_verdict(ngx_http_aiq_check_t *data,
    ngx_http_aiq_event_t *ev)
{
    u_char                       buf[AIQ_CHECK_MAX];
    ngx_uint_t                   known;
    const char                  *why;
    ngx_http_aiq_verdict_t       verdict;
    ngx_http_aiq_key_check_t    *check;
    ngx_http_aiq_check_shctx_t   now;

    check = (ngx_http_aiq_key_check_t *) data;

    ngx_memcpy(buf, ev->data, ev->len);

    why = ngx_http_aiq_frames_verdict(buf, ev->len, &verdict);

    if (why) {
        return why;
    }

    ngx_http_aiq_link_uncheck(&check->check, 1);

    known = ngx_http_aiq_check_now(&now);

    if (known && ngx_http_aiq_check_stale(&verdict, &now)) {

        if (ngx_http_aiq_check_start(check) != NGX_OK) {
            ngx_http_aiq_check_fail(check, NGX_HTTP_SERVICE_UNAVAILABLE);
        }

        return NULL;
    }

    ngx_http_aiq_check_answer(check, &verdict, now.generation);

    if (known && verdict.epoch == now.epoch) {
        ngx_http_aiq_check_remember(check, verdict.status);
    }

    ngx_http_aiq_check_done(check);

    return NULL;
}


static void
ngx_http_aiq_check_remember(ngx_http_aiq_key_check_t *check,
    ngx_uint_t status)
{
    time_t     valid;
    ngx_str_t  answer;

    if (status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        return;
    }

    valid = (status == NGX_HTTP_OK) ? NGX_HTTP_AIQ_CHECK_VALID
                                    : NGX_HTTP_AIQ_CHECK_REFUSED;

    answer.data = check->answer;
    answer.len = check->len;

    (void) ngx_http_aiq_auth_cache_insert(ngx_http_aiq_check_conf->auth_zone,
                                          NGX_HTTP_AIQ_AUTH_KEY,
                                          check->check.digest, &answer,
                                          ngx_time() + valid);
}


/* It was looked up before a change that we have heard of. */

static ngx_uint_t
ngx_http_aiq_check_stale(ngx_http_aiq_verdict_t *verdict,
    ngx_http_aiq_check_shctx_t *now)
{
    return verdict->status != 503
           && (int32_t) (verdict->epoch - now->epoch) < 0;
}


static void
ngx_http_aiq_check_answer(ngx_http_aiq_key_check_t *check,
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
    a.rate = verdict->rate;
    a.status = (uint16_t) verdict->status;

    p = check->answer + sizeof(ngx_http_aiq_key_answer_t);

    for (i = 0; i < 4; i++) {
        a.len[i] = (uint16_t) text[i]->len;

        if (text[i]->len) {
            p = ngx_cpymem(p, text[i]->data, text[i]->len);
        }
    }

    ngx_memcpy(check->answer, &a, sizeof(ngx_http_aiq_key_answer_t));

    check->len = p - check->answer;
}


/* Nobody can say. */

static void
ngx_http_aiq_check_fail(ngx_http_aiq_key_check_t *check, ngx_uint_t status)
{
    ngx_http_aiq_verdict_t  verdict;

    ngx_memzero(&verdict, sizeof(ngx_http_aiq_verdict_t));
    verdict.status = status;

    ngx_http_aiq_check_answer(check, &verdict, 0);
    ngx_http_aiq_check_done(check);
}


/*
 * The requests go on once the link is in order again: they may take others of
 * their connection with them, and use the link themselves.
 */

static void
ngx_http_aiq_check_done(ngx_http_aiq_key_check_t *check)
{
    if (check->timeout.timer_set) {
        ngx_del_timer(&check->timeout);
    }

    ngx_queue_remove(&check->queue);
    ngx_queue_insert_tail(&ngx_http_aiq_check_answered, &check->queue);

    ngx_post_event(&ngx_http_aiq_check_resume_event, &ngx_posted_events);
}


void
ngx_http_aiq_check_lost(ngx_http_aiq_check_t *data, ngx_uint_t broken)
{
    ngx_http_aiq_key_check_t  *check;

    check = (ngx_http_aiq_key_check_t *) data;

    ngx_http_aiq_link_uncheck(&check->check, 1);

    /* it may be this question that the engine cannot answer */

    if (broken || ngx_http_aiq_check_start(check) != NGX_OK) {
        ngx_http_aiq_check_fail(check, NGX_HTTP_SERVICE_UNAVAILABLE);
    }
}


ngx_uint_t
ngx_http_aiq_check_parked(void)
{
    return ngx_http_aiq_check_nparked;
}


void
ngx_http_aiq_check_ask_parked(void)
{
    ngx_uint_t                 i;
    ngx_queue_t               *q, *next, *bucket;
    ngx_http_aiq_key_check_t  *check;

    if (ngx_http_aiq_check_nparked == 0) {
        return;
    }

    for (i = 0; i < NGX_HTTP_AIQ_CHECK_BUCKETS; i++) {

        bucket = &ngx_http_aiq_checks[i];

        for (q = ngx_queue_head(bucket);
             q != ngx_queue_sentinel(bucket);
             q = next)
        {
            next = ngx_queue_next(q);
            check = ngx_queue_data(q, ngx_http_aiq_key_check_t, queue);

            if (check->parked) {
                (void) ngx_http_aiq_check_start(check);
            }
        }
    }
}


static void
ngx_http_aiq_check_timeout_handler(ngx_event_t *ev)
{
    ngx_uint_t                 status;
    ngx_http_aiq_key_check_t  *check;

    check = ev->data;
    status = NGX_HTTP_SERVICE_UNAVAILABLE;

    if (check->parked) {
        ngx_http_aiq_check_unpark(check);

        if (ngx_http_aiq_link_up()) {
            status = NGX_HTTP_AIQ_KEY_NO_ROOM;
        }

    } else {
        ngx_log_error(NGX_LOG_ERR, ev->log, 0,
                      "aiq: the engine does not say whose an API key is");

        ngx_http_aiq_link_uncheck(&check->check, 0);
    }

    ngx_http_aiq_check_fail(check, status);
}


static void
ngx_http_aiq_check_resume_handler(ngx_event_t *ev)
{
    ngx_queue_t               *q;
    ngx_http_request_t        *r;
    ngx_http_aiq_key_wait_t   *wait;
    ngx_http_aiq_key_check_t  *check;

    while (!ngx_queue_empty(&ngx_http_aiq_check_answered)) {

        q = ngx_queue_head(&ngx_http_aiq_check_answered);
        check = ngx_queue_data(q, ngx_http_aiq_key_check_t, queue);

        if (ngx_queue_empty(&check->waiting)) {
            ngx_queue_remove(&check->queue);
            ngx_free(check);
            continue;
        }

        q = ngx_queue_head(&check->waiting);
        wait = ngx_queue_data(q, ngx_http_aiq_key_wait_t, queue);

        ngx_queue_remove(&wait->queue);
        wait->waiting = 0;

        r = wait->ctx->request;

        wait->answer.data = ngx_pnalloc(r->pool, check->len);

        if (wait->answer.data) {
            ngx_memcpy(wait->answer.data, check->answer, check->len);
            wait->answer.len = check->len;
        }

        ngx_http_aiq_phase_resume(r);
    }
}


/* Is the epoch known?  Then which is it, and which generation? */

static ngx_uint_t
ngx_http_aiq_check_now(ngx_http_aiq_check_shctx_t *now)
{
    ngx_http_aiq_check_zone_t  *zone;

    zone = ngx_http_aiq_check_conf->key_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);
    *now = *zone->sh;
    ngx_shmtx_unlock(&zone->shpool->mutex);

    /* another worker's time may be ahead of ours */

    return now->known
           && (ngx_msec_int_t) (ngx_current_msec - now->named) <= AIQ_EPOCH_MS;
}


void
ngx_http_aiq_check_epoch(uint32_t epoch)
{
    ngx_uint_t                   known;
    ngx_http_aiq_check_zone_t   *zone;
    ngx_http_aiq_check_shctx_t  *sh;

    if (ngx_http_aiq_check_conf == NULL) {
        return;
    }

    zone = ngx_http_aiq_check_conf->key_zone->data;
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
ngx_http_aiq_check_forget(void)
{
    ngx_http_aiq_check_zone_t  *zone;

    if (ngx_http_aiq_check_conf == NULL) {
        return;
    }

    zone = ngx_http_aiq_check_conf->key_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);
    zone->sh->known = 0;
    ngx_shmtx_unlock(&zone->shpool->mutex);
}


ngx_int_t
ngx_http_aiq_check_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_str_t  name;

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

    amcf->key_zone->init = ngx_http_aiq_check_init_zone;
    amcf->key_zone->data = ngx_pcalloc(cf->pool,
                                       sizeof(ngx_http_aiq_check_zone_t));
    if (amcf->key_zone->data == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_check_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_aiq_check_zone_t *ozone = data;

    ngx_http_aiq_check_zone_t  *zone;

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

    zone->sh = ngx_slab_calloc(zone->shpool,
                               sizeof(ngx_http_aiq_check_shctx_t));
    if (zone->sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = zone->sh;

    /* not that of another engine's, whose entries are in the same cache */

    zone->sh->generation = (uint64_t) ngx_time() << 32
                           | (uint32_t) ngx_random();

    return NGX_OK;
}


void
ngx_http_aiq_check_init_process(ngx_http_aiq_main_conf_t *amcf)
{
    ngx_uint_t    i;
    ngx_event_t  *ev;

    if (amcf->key_zone == NULL) {
        return;
    }

    ngx_http_aiq_check_conf = amcf;

    for (i = 0; i < NGX_HTTP_AIQ_CHECK_BUCKETS; i++) {
        ngx_queue_init(&ngx_http_aiq_checks[i]);
    }

    ngx_queue_init(&ngx_http_aiq_check_answered);

    ev = &ngx_http_aiq_check_resume_event;

    ev->handler = ngx_http_aiq_check_resume_handler;
    ev->log = ngx_cycle->log;
}
