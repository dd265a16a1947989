
#include "ngx_http_aiq_limit.h"


/*
 * A zone in shared memory: a node for each key.  A node without requests that
 * are being served lies in the queue of idle ones, and when its window is
 * empty, it may make room for another; no other may, as its key would begin
 * anew.
 *
 * Requests that are being served are counted for each worker apart, so that
 * those of a killed worker can be told from others.  A worker is known by its
 * slot in the master's process table and by a number that no other one ever
 * had: its successor in the slot ends its shares, and so does its process that
 * is no more.  That is looked at only when a limit is reached, or a zone full.
 */


#define NGX_HTTP_AIQ_LIMIT_EVICT    16      /* nodes at once */
#define NGX_HTTP_AIQ_LIMIT_ROUNDS   64      /* of evictions for one node */
#define NGX_HTTP_AIQ_LIMIT_MARKS    4       /* at first */
#define NGX_HTTP_AIQ_LIMIT_SHARES   2


typedef struct {
    uint64_t                      id;
    ngx_pid_t                     pid;
} ngx_http_aiq_limit_worker_t;


typedef struct {
    ngx_atomic_t                  last_id;
    ngx_http_aiq_limit_worker_t   worker[NGX_MAX_PROCESSES];
} ngx_http_aiq_limit_workers_t;


typedef struct {
    uint64_t                      id;        /* of the worker */
    ngx_uint_t                    slot;
    ngx_uint_t                    count;     /* 0: it is nobody's */
} ngx_http_aiq_limit_share_t;


struct ngx_http_aiq_limit_node_s {
    ngx_rbtree_node_t             node;
    ngx_queue_t                   queue;
    ngx_http_aiq_limit_window_t   window;
    ngx_http_aiq_limit_share_t   *shares;
    ngx_uint_t                    nshares;
    ngx_uint_t                    conns;     /* of all shares */
    uint64_t                      refused;   /* when, by all nginx together */
    aiq_rate                      rate;      /* and what they said */
    uint16_t                      len;
    u_char                        data[1];
};


static ngx_http_aiq_limit_node_t *ngx_http_aiq_limit_find(
    ngx_http_aiq_limit_use_t *use);
static ngx_http_aiq_limit_node_t *ngx_http_aiq_limit_create(
    ngx_http_aiq_limit_use_t *use, uint64_t now);
static ngx_uint_t ngx_http_aiq_limit_full(ngx_http_aiq_limit_use_t *use,
    uint64_t now);
static ngx_int_t ngx_http_aiq_limit_room(ngx_http_aiq_limit_use_t *use,
    uint64_t now);
static ngx_int_t ngx_http_aiq_limit_share_room(ngx_http_aiq_limit_use_t *use,
    uint64_t now);
static ngx_http_aiq_limit_share_t *ngx_http_aiq_limit_share(
    ngx_http_aiq_limit_node_t *ln, ngx_uint_t any);
static void *ngx_http_aiq_limit_alloc(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep, size_t size, uint64_t now);
static ngx_uint_t ngx_http_aiq_limit_evict(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep, uint64_t now, ngx_uint_t max);
static ngx_uint_t ngx_http_aiq_limit_sweep(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep);
static void ngx_http_aiq_limit_bury(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *ln);
static void ngx_http_aiq_limit_free(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *ln);
static void ngx_http_aiq_limit_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);


static ngx_http_aiq_limit_workers_t  *ngx_http_aiq_limit_workers;


uint64_t
ngx_http_aiq_limit_now(void)
{
    struct timespec  ts;

    /* workers have read the time that nginx remembers at different times */

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


void
ngx_http_aiq_limit_check(ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    ngx_http_aiq_limit_zone_t  *zone;
    ngx_http_aiq_limit_node_t  *ln;

    zone = use->zone;

    use->status = NGX_HTTP_AIQ_LIMIT_REJECTED;
    use->reason = NGX_HTTP_AIQ_LIMIT_FULL;
    use->turn = now;

    if (use->closed) {
        use->reason = NGX_HTTP_AIQ_LIMIT_NO_ANSWER;
        return;
    }

    ln = ngx_http_aiq_limit_find(use);

    if (ln == NULL) {
        ln = ngx_http_aiq_limit_create(use, now);
    }

    use->node = ln;

    if (ln == NULL) {
        return;
    }

    ngx_http_aiq_limit_slide(&ln->window, &use->rule, now);

    if (zone->conn && ln->conns >= zone->conn) {
        ngx_http_aiq_limit_bury(zone, ln);

        if (ln->conns >= zone->conn) {
            use->reason = NGX_HTTP_AIQ_LIMIT_CONN;
            return;
        }
    }

    if (use->rule.limit) {
        if (ngx_http_aiq_limit_full(use, now)) {
            use->reason = NGX_HTTP_AIQ_LIMIT_RATE;
            return;
        }

        if (ngx_http_aiq_limit_room(use, now) != NGX_OK) {
            return;
        }
    }

    if (zone->conn && ngx_http_aiq_limit_share_room(use, now) != NGX_OK) {
        return;
    }

    use->status = (use->turn > now) ? NGX_HTTP_AIQ_LIMIT_DELAYED
                                    : NGX_HTTP_AIQ_LIMIT_PASSED;
}


/* Finds the turn; is there one, with so many that wait? */

static ngx_uint_t
ngx_http_aiq_limit_full(ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    ngx_http_aiq_limit_window_t  *window;

    if (use->told) {
        use->turn = now + use->rate.wait_ms;

        if (use->rate.refused && !use->recalled) {
            use->node->refused = now;
            use->node->rate = use->rate;
        }

        return use->rate.refused;
    }

    window = &use->node->window;
    use->turn = ngx_http_aiq_limit_turn(window, &use->rule, now);

    if (use->limit->paced && window->total >= use->limit->delay) {
        use->turn = ngx_http_aiq_limit_pace(window, &use->rule, use->turn);
    }

    return use->turn > now
           && ngx_http_aiq_limit_waiting(window, &use->rule, now,
                                         use->limit->burst)
              >= use->limit->burst;
}


void
ngx_http_aiq_limit_charge(ngx_http_aiq_limit_use_t *use, uint64_t time)
{
    ngx_http_aiq_limit_node_t   *ln;
    ngx_http_aiq_limit_zone_t   *zone;
    ngx_http_aiq_limit_share_t  *share;

    ln = use->node;
    zone = use->zone;

    if (use->rule.limit) {
        ngx_http_aiq_limit_add(&ln->window, &use->rule, time);
        use->time = time;
        use->charged = 1;
    }

    if (zone->conn) {
        share = ngx_http_aiq_limit_share(ln, 1);

        share->id = ngx_http_aiq_limit_workers->worker[ngx_process_slot].id;
        share->slot = ngx_process_slot;
        share->count++;

        ln->conns++;
        use->conn = 1;
    }

    ngx_queue_remove(&ln->queue);
    ngx_queue_insert_head(ln->conns ? &zone->sh->busy : &zone->sh->idle,
                          &ln->queue);
}


void
ngx_http_aiq_limit_state(ngx_http_aiq_limit_use_t *use, uint64_t now,
    ngx_http_aiq_limit_info_t *info)
{
    ngx_http_aiq_limit_rule_t    *rule;
    ngx_http_aiq_limit_window_t  *window;

    rule = &use->rule;
    window = &use->node->window;

    info->limit = rule->limit;

    if (use->told) {
        info->remaining = use->rate.remaining;
        info->reset = use->rate.reset_ms;
        return;
    }

    info->remaining = (window->total < rule->limit)
                      ? rule->limit - window->total : 0;
    info->reset = ngx_http_aiq_limit_reset(window, rule, now);
}


/*
 * Without a burst the turn that Redis has told comes when it comes: until then
 * a flood of requests need not be asked about.  But not for long: Redis may
 * have been told to forget, or the rate may be another one.
 */

ngx_uint_t
ngx_http_aiq_limit_recall(ngx_http_aiq_limit_use_t *use)
{
    uint64_t                    passed;
    ngx_http_aiq_limit_node_t  *ln;

    if (use->limit->burst || use->limit->dry_run) {
        return 0;
    }

    ngx_shmtx_lock(&use->zone->shpool->mutex);

    ln = ngx_http_aiq_limit_find(use);

    if (ln && ln->refused) {
        passed = ngx_http_aiq_limit_now() - ln->refused;

        if (passed < NGX_HTTP_AIQ_LIMIT_RECALL && passed < ln->rate.wait_ms) {
            use->rate = ln->rate;
            use->rate.wait_ms -= passed;
            use->rate.reset_ms -= ngx_min(passed, use->rate.reset_ms);
            use->told = 1;
            use->recalled = 1;
        }
    }

    ngx_shmtx_unlock(&use->zone->shpool->mutex);

    return use->recalled;
}


void
ngx_http_aiq_limit_return_rate(ngx_http_aiq_limit_use_t *use)
{
    ngx_http_aiq_limit_node_t  *ln;
    ngx_http_aiq_limit_zone_t  *zone;

    zone = use->zone;
    use->charged = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    ln = ngx_http_aiq_limit_find(use);

    if (ln) {
        ngx_http_aiq_limit_slide(&ln->window, &use->rule,
                                 ngx_http_aiq_limit_now());
        ngx_http_aiq_limit_remove(&ln->window, &use->rule, use->time);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_aiq_limit_return_conn(ngx_http_aiq_limit_use_t *use)
{
    ngx_http_aiq_limit_node_t   *ln;
    ngx_http_aiq_limit_zone_t   *zone;
    ngx_http_aiq_limit_share_t  *share;

    zone = use->zone;
    use->conn = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    ln = ngx_http_aiq_limit_find(use);
    share = ln ? ngx_http_aiq_limit_share(ln, 0) : NULL;

    if (share == NULL) {
        ngx_shmtx_unlock(&zone->shpool->mutex);

        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "aiq: zone \"%V\" lost count of a key", &zone->name);
        return;
    }

    share->count--;
    ln->conns--;

    if (ln->conns == 0) {
        ngx_http_aiq_limit_slide(&ln->window, &use->rule,
                                 ngx_http_aiq_limit_now());

        if (ln->window.total) {
            ngx_queue_remove(&ln->queue);
            ngx_queue_insert_head(&zone->sh->idle, &ln->queue);

        } else {
            ngx_http_aiq_limit_free(zone, ln);
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static ngx_http_aiq_limit_node_t *
ngx_http_aiq_limit_find(ngx_http_aiq_limit_use_t *use)
{
    ngx_int_t                   rc;
    ngx_rbtree_node_t          *node, *sentinel;
    ngx_http_aiq_limit_node_t  *ln;

    node = use->zone->sh->rbtree.root;
    sentinel = use->zone->sh->rbtree.sentinel;

    while (node != sentinel) {

        if (use->hash != node->key) {
            node = (use->hash < node->key) ? node->left : node->right;
            continue;
        }

        ln = (ngx_http_aiq_limit_node_t *) node;

        rc = ngx_memn2cmp(use->key.data, ln->data, use->key.len, ln->len);

        if (rc == 0) {
            return ln;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


static ngx_http_aiq_limit_node_t *
ngx_http_aiq_limit_create(ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    size_t                      size;
    ngx_http_aiq_limit_zone_t  *zone;
    ngx_http_aiq_limit_node_t  *ln;

    zone = use->zone;

    if (use->key.len > 65535) {
        return NULL;
    }

    /* two go for one that comes, so that what expires goes in time */

    (void) ngx_http_aiq_limit_evict(zone, NULL, now, 2);

    size = offsetof(ngx_http_aiq_limit_node_t, data) + use->key.len;

    ln = ngx_http_aiq_limit_alloc(zone, NULL, size, now);
    if (ln == NULL) {
        return NULL;
    }

    ngx_memzero(ln, size);

    ln->node.key = use->hash;
    ln->len = (uint16_t) use->key.len;
    ngx_memcpy(ln->data, use->key.data, use->key.len);

    ngx_rbtree_insert(&zone->sh->rbtree, &ln->node);
    ngx_queue_insert_tail(&zone->sh->idle, &ln->queue);

    return ln;
}


/* for one mark more */

static ngx_int_t
ngx_http_aiq_limit_room(ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    size_t                        size;
    ngx_http_aiq_limit_mark_t    *marks, *old;
    ngx_http_aiq_limit_window_t  *window;

    window = &use->node->window;

    if (ngx_http_aiq_limit_fits(window)) {
        return NGX_OK;
    }

    old = window->marks;
    size = old ? 2 * window->size : NGX_HTTP_AIQ_LIMIT_MARKS;

    marks = ngx_http_aiq_limit_alloc(use->zone, use->node,
                                     size * sizeof(ngx_http_aiq_limit_mark_t),
                                     now);
    if (marks == NULL) {
        return NGX_ERROR;
    }

    ngx_http_aiq_limit_move(window, marks, (uint32_t) size);

    if (old) {
        ngx_slab_free_locked(use->zone->shpool, old);
    }

    return NGX_OK;
}


/* for this worker's share */

static ngx_int_t
ngx_http_aiq_limit_share_room(ngx_http_aiq_limit_use_t *use, uint64_t now)
{
    size_t                       n;
    ngx_http_aiq_limit_node_t   *ln;
    ngx_http_aiq_limit_share_t  *shares;

    ln = use->node;

    if (ngx_http_aiq_limit_share(ln, 1)) {
        return NGX_OK;
    }

    n = ln->nshares ? 2 * ln->nshares : NGX_HTTP_AIQ_LIMIT_SHARES;

    shares = ngx_http_aiq_limit_alloc(use->zone, ln,
                                      n * sizeof(ngx_http_aiq_limit_share_t),
                                      now);
    if (shares == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(shares, n * sizeof(ngx_http_aiq_limit_share_t));

    if (ln->shares) {
        ngx_memcpy(shares, ln->shares,
                   ln->nshares * sizeof(ngx_http_aiq_limit_share_t));
        ngx_slab_free_locked(use->zone->shpool, ln->shares);
    }

    ln->shares = shares;
    ln->nshares = n;

    return NGX_OK;
}


/* this worker's; any: or one that is nobody's */

static ngx_http_aiq_limit_share_t *
ngx_http_aiq_limit_share(ngx_http_aiq_limit_node_t *ln, ngx_uint_t any)
{
    uint64_t                     id;
    ngx_uint_t                   i;
    ngx_http_aiq_limit_share_t  *free;

    id = ngx_http_aiq_limit_workers->worker[ngx_process_slot].id;
    free = NULL;

    for (i = 0; i < ln->nshares; i++) {

        if (ln->shares[i].count == 0) {
            free = &ln->shares[i];

        } else if (ln->shares[i].id == id) {
            return &ln->shares[i];
        }
    }

    return any ? free : NULL;
}


static void *
ngx_http_aiq_limit_alloc(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep, size_t size, uint64_t now)
{
    void        *p;
    ngx_uint_t   n;

    for (n = 0; n < NGX_HTTP_AIQ_LIMIT_ROUNDS; n++) {

        p = ngx_slab_alloc_locked(zone->shpool, size);

        if (p) {
            return p;
        }

        if (ngx_http_aiq_limit_evict(zone, keep, now,
                                     NGX_HTTP_AIQ_LIMIT_EVICT)
            == 0
            && ngx_http_aiq_limit_sweep(zone, keep) == 0)
        {
            break;
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_aiq_limit_evict(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep, uint64_t now, ngx_uint_t max)
{
    ngx_uint_t                  n;
    ngx_queue_t                *q, *prev;
    ngx_http_aiq_limit_node_t  *ln;

    n = 0;

    for (q = ngx_queue_last(&zone->sh->idle);
         q != ngx_queue_sentinel(&zone->sh->idle) && n < max;
         q = prev)
    {
        prev = ngx_queue_prev(q);
        ln = ngx_queue_data(q, ngx_http_aiq_limit_node_t, queue);

        if (ln == keep) {
            continue;
        }

        ngx_http_aiq_limit_slide(&ln->window, &zone->rule, now);

        if (ln->window.total) {
            break;
        }

        ngx_http_aiq_limit_free(zone, ln);
        n++;
    }

    return n;
}


/* Nodes whose requests died with their workers are idle. */

static ngx_uint_t
ngx_http_aiq_limit_sweep(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *keep)
{
    ngx_uint_t                  i, n;
    ngx_queue_t                *q;
    ngx_http_aiq_limit_node_t  *ln;

    n = 0;

    for (i = 0; i < NGX_HTTP_AIQ_LIMIT_EVICT; i++) {

        if (ngx_queue_empty(&zone->sh->busy)) {
            break;
        }

        q = ngx_queue_last(&zone->sh->busy);
        ln = ngx_queue_data(q, ngx_http_aiq_limit_node_t, queue);

        if (ln != keep) {
            ngx_http_aiq_limit_bury(zone, ln);

            if (ln->conns == 0) {
                n++;
                continue;
            }
        }

        ngx_queue_remove(q);
        ngx_queue_insert_head(&zone->sh->busy, q);
    }

    return n;
}


/* takes the shares of dead workers away */

static void
ngx_http_aiq_limit_bury(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *ln)
{
    ngx_uint_t                    i;
    ngx_http_aiq_limit_share_t   *share;
    ngx_http_aiq_limit_worker_t  *worker;

    for (i = 0; i < ln->nshares; i++) {
        share = &ln->shares[i];

        if (share->count == 0) {
            continue;
        }

        worker = &ngx_http_aiq_limit_workers->worker[share->slot];

        if (worker->id == share->id
            && (kill(worker->pid, 0) == 0 || ngx_errno != NGX_ESRCH))
        {
            continue;
        }

        ln->conns -= share->count;
        share->count = 0;

        if (ln->conns == 0) {
            ngx_queue_remove(&ln->queue);
            ngx_queue_insert_tail(&zone->sh->idle, &ln->queue);
        }
    }
}


static void
ngx_http_aiq_limit_free(ngx_http_aiq_limit_zone_t *zone,
    ngx_http_aiq_limit_node_t *ln)
{
    ngx_queue_remove(&ln->queue);
    ngx_rbtree_delete(&zone->sh->rbtree, &ln->node);

    if (ln->window.marks) {
        ngx_slab_free_locked(zone->shpool, ln->window.marks);
    }

    if (ln->shares) {
        ngx_slab_free_locked(zone->shpool, ln->shares);
    }

    ngx_slab_free_locked(zone->shpool, ln);
}


static void
ngx_http_aiq_limit_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t          **p;
    ngx_http_aiq_limit_node_t   *ln, *lnt;

    for ( ;; ) {

        if (node->key != temp->key) {
            p = (node->key < temp->key) ? &temp->left : &temp->right;

        } else {
            ln = (ngx_http_aiq_limit_node_t *) node;
            lnt = (ngx_http_aiq_limit_node_t *) temp;

            p = (ngx_memn2cmp(ln->data, lnt->data, ln->len, lnt->len) < 0)
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


ngx_int_t
ngx_http_aiq_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_aiq_limit_zone_t *ozone = data;

    size_t                      len;
    ngx_http_aiq_limit_zone_t  *zone;

    zone = shm_zone->data;

    if (ozone) {
        if (zone->key.value.len != ozone->key.value.len
            || ngx_strncmp(zone->key.value.data, ozone->key.value.data,
                           zone->key.value.len)
               != 0)
        {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "aiq_limit_zone \"%V\" uses the \"%V\" key "
                          "while previously it used the \"%V\" key",
                          &shm_zone->shm.name, &zone->key.value,
                          &ozone->key.value);
            return NGX_ERROR;
        }

        zone->sh = ozone->sh;
        zone->shpool = ozone->shpool;

        return NGX_OK;
    }

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        return NGX_OK;
    }

    zone->sh = ngx_slab_calloc(zone->shpool,
                               sizeof(ngx_http_aiq_limit_shctx_t));
    if (zone->sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = zone->sh;

    ngx_rbtree_init(&zone->sh->rbtree, &zone->sh->sentinel,
                    ngx_http_aiq_limit_insert_value);

    ngx_queue_init(&zone->sh->idle);
    ngx_queue_init(&zone->sh->busy);

    len = sizeof(" in aiq_limit_zone \"\"") + shm_zone->shm.name.len;

    zone->shpool->log_ctx = ngx_slab_alloc(zone->shpool, len);
    if (zone->shpool->log_ctx == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(zone->shpool->log_ctx, " in aiq_limit_zone \"%V\"%Z",
                &shm_zone->shm.name);

    /* the handler says it, with the request */
    zone->shpool->log_nomem = 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_limit_init_workers(ngx_shm_zone_t *shm_zone, void *data)
{
    return ngx_http_aiq_init_counters(shm_zone, data,
                                      sizeof(ngx_http_aiq_limit_workers_t));
}


void
ngx_http_aiq_limit_init_process(ngx_shm_zone_t *workers)
{
    ngx_http_aiq_limit_worker_t  *worker;

    ngx_http_aiq_limit_workers = workers->data;

    worker = &ngx_http_aiq_limit_workers->worker[ngx_process_slot];

    worker->id = ngx_atomic_fetch_add(&ngx_http_aiq_limit_workers->last_id, 1)
                 + 1;
    worker->pid = ngx_pid;
}
