
#include "ngx_http_aiq_jwt.h"

#include <openssl/sha.h>


/*
 * What a token has let in ends when its key is taken back.  Whoever finds that
 * out tells all workers, old ones included, through shared memory:
 *
 *   - "files" are the keys of all "aiq_jwt_key_file" of the newest
 *     configuration, whose "epoch" they have; the master writes them down once
 *     nothing can refuse it any more.
 *   - "withdrawn" are keys that some "aiq_jwt_key_request" has brought before
 *     and does not bring any more; "changes" counts them.  The oldest make
 *     room: each worker looks every second, while it has something to watch.
 *
 * Keys are known by their fingerprints.
 */


#define NGX_HTTP_AIQ_JWT_WITHDRAWN  256
#define NGX_HTTP_AIQ_JWT_LOOK       1000     /* ms */
#define NGX_HTTP_AIQ_JWT_BATCH      32       /* tokens verified in one turn */


typedef struct {
    ngx_atomic_t                   epoch;
    ngx_atomic_t                   changes;
    u_char                        *files;    /* NULL: not known */
    ngx_uint_t                     nfiles;
    ngx_uint_t                     next;     /* of withdrawn */
    u_char                         withdrawn[NGX_HTTP_AIQ_JWT_WITHDRAWN]
                                            [NGX_HTTP_AIQ_JWT_PRINT];
} ngx_http_aiq_jwt_watch_shctx_t;


typedef struct {
    ngx_http_aiq_jwt_watch_shctx_t  *sh;
    ngx_slab_pool_t                 *shpool;
    ngx_atomic_uint_t                epoch;  /* of this configuration */
} ngx_http_aiq_jwt_watch_zone_t;


static ngx_int_t ngx_http_aiq_jwt_watch_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_uint_t ngx_http_aiq_jwt_watch_has(ngx_http_aiq_jwt_keys_t *keys,
    const u_char *print);
static void ngx_http_aiq_jwt_watch_name(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print, u_char *name);
static u_char *ngx_http_aiq_jwt_watch_find(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print);
static void ngx_http_aiq_jwt_watch_withdraw(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print);
static void ngx_http_aiq_jwt_watch_restore(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print);
static void ngx_http_aiq_jwt_watch_timer_handler(ngx_event_t *ev);
static void ngx_http_aiq_jwt_watch_doubt(void);
static void ngx_http_aiq_jwt_watch_doubt_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_aiq_jwt_watch_vouched(ngx_http_aiq_jwt_ctx_t *ctx);
static ngx_uint_t ngx_http_aiq_jwt_watch_in_files(const u_char *print);
static ngx_uint_t ngx_http_aiq_jwt_watch_withdrawn(
    ngx_http_aiq_jwt_remote_t *remote, const u_char *print);


/* a worker's */

static ngx_http_aiq_jwt_watch_zone_t  *ngx_http_aiq_jwt_watched;
static ngx_queue_t          ngx_http_aiq_jwt_passed;
static ngx_queue_t          ngx_http_aiq_jwt_doubted;
static ngx_event_t          ngx_http_aiq_jwt_timer;
static ngx_event_t          ngx_http_aiq_jwt_doubt;
static ngx_connection_t     ngx_http_aiq_jwt_dummy;  /* for debug logs */
static ngx_atomic_uint_t    ngx_http_aiq_jwt_seen_epoch;
static ngx_atomic_uint_t    ngx_http_aiq_jwt_seen_changes;


ngx_int_t
ngx_http_aiq_jwt_watch_init(ngx_conf_t *cf, ngx_http_aiq_jwt_main_conf_t *jmcf)
{
    ngx_str_t  name = ngx_string("aiq_jwt_keys");

    jmcf->watch = ngx_shared_memory_add(cf, &name, 32 * ngx_pagesize,
                                        &ngx_http_aiq_jwt_module);
    if (jmcf->watch == NULL) {
        return NGX_ERROR;
    }

    jmcf->watch->init = ngx_http_aiq_jwt_watch_init_zone;
    jmcf->watch->data = ngx_pcalloc(cf->pool,
                                    sizeof(ngx_http_aiq_jwt_watch_zone_t));

    return jmcf->watch->data ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_aiq_jwt_watch_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_aiq_jwt_watch_zone_t *ozone = data;

    ngx_http_aiq_jwt_watch_zone_t  *zone;

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
                               sizeof(ngx_http_aiq_jwt_watch_shctx_t));
    if (zone->sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = zone->sh;

    return NGX_OK;
}


/* in the master, when the configuration is the one that holds */

void
ngx_http_aiq_jwt_watch_files(ngx_http_aiq_jwt_main_conf_t *jmcf,
    ngx_log_t *log)
{
    u_char                          *p, *files;
    size_t                           i;
    ngx_uint_t                       k, n;
    ngx_http_aiq_jwt_set_t         **set;
    ngx_http_aiq_jwt_watch_zone_t   *zone;

    zone = jmcf->watch->data;
    set = jmcf->sets.elts;
    n = 0;

    for (k = 0; k < jmcf->sets.nelts; k++) {
        n += ngx_http_aiq_jwt_keys_count(set[k]->keys);
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (zone->sh->files) {
        ngx_slab_free_locked(zone->shpool, zone->sh->files);
    }

    files = ngx_slab_alloc_locked(zone->shpool,
                                  n * NGX_HTTP_AIQ_JWT_PRINT + 1);
    p = files;

    for (k = 0; p && k < jmcf->sets.nelts; k++) {
        for (i = 0; i < ngx_http_aiq_jwt_keys_count(set[k]->keys); i++) {
            p = ngx_cpymem(p, ngx_http_aiq_jwt_keys_print(set[k]->keys, i),
                           NGX_HTTP_AIQ_JWT_PRINT);
        }
    }

    zone->sh->files = files;
    zone->sh->nfiles = n;
    zone->epoch = ++zone->sh->epoch;

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (files == NULL) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "aiq: %ui keys are too many to tell old workers of", n);
    }
}


void
ngx_http_aiq_jwt_watch_init_process(ngx_http_aiq_jwt_main_conf_t *jmcf,
    ngx_log_t *log)
{
    ngx_http_aiq_jwt_watch_zone_t  *zone;

    zone = jmcf->watch->data;

    ngx_http_aiq_jwt_watched = zone;
    ngx_http_aiq_jwt_seen_epoch = zone->epoch;
    ngx_http_aiq_jwt_seen_changes = zone->sh->changes;

    ngx_queue_init(&ngx_http_aiq_jwt_passed);
    ngx_queue_init(&ngx_http_aiq_jwt_doubted);

    ngx_http_aiq_jwt_dummy.fd = (ngx_socket_t) -1;

    ngx_http_aiq_jwt_timer.handler = ngx_http_aiq_jwt_watch_timer_handler;
    ngx_http_aiq_jwt_timer.data = &ngx_http_aiq_jwt_dummy;
    ngx_http_aiq_jwt_timer.log = log;
    ngx_http_aiq_jwt_timer.cancelable = 1;

    ngx_http_aiq_jwt_doubt.handler = ngx_http_aiq_jwt_watch_doubt_handler;
    ngx_http_aiq_jwt_doubt.data = &ngx_http_aiq_jwt_dummy;
    ngx_http_aiq_jwt_doubt.log = log;
}


void
ngx_http_aiq_jwt_watch(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token)
{
    ctx->conf = jlcf;
    ctx->token = *token;

    ngx_queue_insert_tail(&ngx_http_aiq_jwt_passed, &ctx->passed);

    if (!ngx_http_aiq_jwt_timer.timer_set) {
        ngx_add_timer(&ngx_http_aiq_jwt_timer, NGX_HTTP_AIQ_JWT_LOOK);
    }
}


void
ngx_http_aiq_jwt_unwatch(ngx_http_aiq_jwt_ctx_t *ctx)
{
    if (ctx->conf) {
        ctx->conf = NULL;
        ngx_queue_remove(&ctx->passed);
    }
}


void
ngx_http_aiq_jwt_watch_fetched(ngx_http_aiq_jwt_remote_t *remote,
    ngx_http_aiq_jwt_keys_t *old, ngx_http_aiq_jwt_keys_t *new)
{
    size_t         i;
    const u_char  *print;

    ngx_shmtx_lock(&ngx_http_aiq_jwt_watched->shpool->mutex);

    for (i = 0; old && i < ngx_http_aiq_jwt_keys_count(old); i++) {
        print = ngx_http_aiq_jwt_keys_print(old, i);

        if (!ngx_http_aiq_jwt_watch_has(new, print)) {
            ngx_http_aiq_jwt_watch_withdraw(remote, print);
        }
    }

    /* one that comes back holds again */

    for (i = 0; i < ngx_http_aiq_jwt_keys_count(new); i++) {
        ngx_http_aiq_jwt_watch_restore(remote,
                                       ngx_http_aiq_jwt_keys_print(new, i));
    }

    ngx_shmtx_unlock(&ngx_http_aiq_jwt_watched->shpool->mutex);

    ngx_http_aiq_jwt_watch_doubt();
}


static ngx_uint_t
ngx_http_aiq_jwt_watch_has(ngx_http_aiq_jwt_keys_t *keys, const u_char *print)
{
    size_t  i;

    for (i = 0; i < ngx_http_aiq_jwt_keys_count(keys); i++) {
        if (ngx_memcmp(ngx_http_aiq_jwt_keys_print(keys, i), print,
                       NGX_HTTP_AIQ_JWT_PRINT)
            == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* What one issuer withdraws another may have. */

static void
ngx_http_aiq_jwt_watch_name(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print, u_char *name)
{
    u_char  both[NGX_HTTP_AIQ_AUTH_DIGEST + NGX_HTTP_AIQ_JWT_PRINT];

    SHA256(remote->uri.data, remote->uri.len, both);
    ngx_memcpy(both + NGX_HTTP_AIQ_AUTH_DIGEST, print, NGX_HTTP_AIQ_JWT_PRINT);
    SHA256(both, sizeof(both), name);
}


/* The zone is locked; NULL: it is not withdrawn. */

static u_char *
ngx_http_aiq_jwt_watch_find(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print)
{
    u_char                           name[NGX_HTTP_AIQ_JWT_PRINT];
    ngx_uint_t                       i;
    ngx_http_aiq_jwt_watch_shctx_t  *sh;

    sh = ngx_http_aiq_jwt_watched->sh;

    ngx_http_aiq_jwt_watch_name(remote, print, name);

    for (i = 0; i < NGX_HTTP_AIQ_JWT_WITHDRAWN; i++) {
        if (ngx_memcmp(sh->withdrawn[i], name, sizeof(name)) == 0) {
            return sh->withdrawn[i];
        }
    }

    return NULL;
}


static void
ngx_http_aiq_jwt_watch_withdraw(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print)
{
    ngx_http_aiq_jwt_watch_shctx_t  *sh;

    sh = ngx_http_aiq_jwt_watched->sh;

    if (ngx_http_aiq_jwt_watch_find(remote, print)) {
        return;
    }

    ngx_http_aiq_jwt_watch_name(remote, print, sh->withdrawn[sh->next]);

    sh->next = (sh->next + 1) % NGX_HTTP_AIQ_JWT_WITHDRAWN;
    sh->changes++;
}


static void
ngx_http_aiq_jwt_watch_restore(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print)
{
    u_char  *entry;

    entry = ngx_http_aiq_jwt_watch_find(remote, print);

    if (entry) {
        ngx_memzero(entry, NGX_HTTP_AIQ_JWT_PRINT);
    }
}


ngx_atomic_uint_t
ngx_http_aiq_jwt_watch_changes(void)
{
    return ngx_http_aiq_jwt_watched->sh->changes;
}


static void
ngx_http_aiq_jwt_watch_timer_handler(ngx_event_t *ev)
{
    ngx_http_aiq_jwt_watch_shctx_t  *sh;

    sh = ngx_http_aiq_jwt_watched->sh;

    if (sh->epoch != ngx_http_aiq_jwt_seen_epoch
        || sh->changes != ngx_http_aiq_jwt_seen_changes)
    {
        ngx_http_aiq_jwt_watch_doubt();
    }

    if (!ngx_queue_empty(&ngx_http_aiq_jwt_passed)
        || !ngx_queue_empty(&ngx_http_aiq_jwt_doubted))
    {
        ngx_add_timer(ev, NGX_HTTP_AIQ_JWT_LOOK);
    }
}


static void
ngx_http_aiq_jwt_watch_doubt(void)
{
    ngx_http_aiq_jwt_seen_epoch = ngx_http_aiq_jwt_watched->sh->epoch;
    ngx_http_aiq_jwt_seen_changes = ngx_http_aiq_jwt_watched->sh->changes;

    if (ngx_queue_empty(&ngx_http_aiq_jwt_passed)) {
        return;
    }

    ngx_queue_add(&ngx_http_aiq_jwt_doubted, &ngx_http_aiq_jwt_passed);
    ngx_queue_init(&ngx_http_aiq_jwt_passed);

    if (!ngx_http_aiq_jwt_doubt.posted) {
        ngx_post_event(&ngx_http_aiq_jwt_doubt, &ngx_posted_next_events);
    }
}


/* Signatures take their time: so not all of them in one turn. */

static void
ngx_http_aiq_jwt_watch_doubt_handler(ngx_event_t *ev)
{
    ngx_uint_t               n;
    ngx_queue_t             *q;
    ngx_http_aiq_jwt_ctx_t  *ctx;

    for (n = 0; n < NGX_HTTP_AIQ_JWT_BATCH; n++) {

        if (ngx_queue_empty(&ngx_http_aiq_jwt_doubted)) {
            return;
        }

        q = ngx_queue_head(&ngx_http_aiq_jwt_doubted);
        ctx = ngx_queue_data(q, ngx_http_aiq_jwt_ctx_t, passed);

        ngx_queue_remove(q);

        if (ngx_http_aiq_jwt_watch_vouched(ctx)) {
            ngx_queue_insert_tail(&ngx_http_aiq_jwt_passed, q);
            continue;
        }

        ctx->conf = NULL;

        ngx_http_aiq_job_revoke(ngx_http_aiq_get_ctx(ctx->request));
    }

    ngx_post_event(ev, &ngx_posted_next_events);
}


/* Would a token that has passed still be accepted by its keys? */

static ngx_uint_t
ngx_http_aiq_jwt_watch_vouched(ngx_http_aiq_jwt_ctx_t *ctx)
{
    ngx_uint_t                    vouched;
    const u_char                 *print;
    ngx_http_aiq_jwt_token_t      token;
    ngx_http_aiq_jwt_loc_conf_t  *jlcf;

    jlcf = ctx->conf;
    vouched = 0;

    if (ngx_http_aiq_jwt_parse((char *) ctx->token.data, ctx->token.len,
                               &token)
        == NGX_HTTP_AIQ_JWT_OK)
    {
        if (jlcf->set) {
            print = ngx_http_aiq_jwt_keys_signer(jlcf->set->keys, &token);
            vouched = print && ngx_http_aiq_jwt_watch_in_files(print);
        }

        if (!vouched && jlcf->remote && jlcf->remote->set.keys) {
            print = ngx_http_aiq_jwt_keys_signer(jlcf->remote->set.keys,
                                                 &token);
            vouched = print
                      && !ngx_http_aiq_jwt_watch_withdrawn(jlcf->remote, print);
        }
    }

    ngx_http_aiq_jwt_free(&token);

    return vouched;
}


static ngx_uint_t
ngx_http_aiq_jwt_watch_in_files(const u_char *print)
{
    ngx_uint_t                       i, found;
    ngx_http_aiq_jwt_watch_zone_t   *zone;
    ngx_http_aiq_jwt_watch_shctx_t  *sh;

    zone = ngx_http_aiq_jwt_watched;
    sh = zone->sh;

    ngx_shmtx_lock(&zone->shpool->mutex);

    /* ours is the newest, or nobody knows what the newest has */

    found = (sh->epoch == zone->epoch || sh->files == NULL);

    for (i = 0; !found && i < sh->nfiles; i++) {
        found = ngx_memcmp(sh->files + i * NGX_HTTP_AIQ_JWT_PRINT, print,
                           NGX_HTTP_AIQ_JWT_PRINT)
                == 0;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return found;
}


static ngx_uint_t
ngx_http_aiq_jwt_watch_withdrawn(ngx_http_aiq_jwt_remote_t *remote,
    const u_char *print)
{
    ngx_uint_t  found;

    ngx_shmtx_lock(&ngx_http_aiq_jwt_watched->shpool->mutex);

    found = ngx_http_aiq_jwt_watch_find(remote, print) != NULL;

    ngx_shmtx_unlock(&ngx_http_aiq_jwt_watched->shpool->mutex);

    return found;
}
