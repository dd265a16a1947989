
#include "ngx_http_aiq.h"
#include "ngx_http_aiq_auth_cache.h"


#define NGX_HTTP_AIQ_AUTH_CACHE_SIZE  (4 * 1024 * 1024)

/* so many may have to go before a page of the right size is free */
#define NGX_HTTP_AIQ_AUTH_EVICT       64


typedef struct {
    ngx_rbtree_node_t            node;
    ngx_queue_t                  queue;
    time_t                       expires;
    uint16_t                     len;
    u_char                       ns;
    u_char                       digest[NGX_HTTP_AIQ_AUTH_DIGEST];
    u_char                       value[1];
} ngx_http_aiq_auth_node_t;


typedef struct {
    ngx_rbtree_t                 rbtree;
    ngx_rbtree_node_t            sentinel;
    ngx_queue_t                  queue;      /* the most recently used first */
} ngx_http_aiq_auth_shctx_t;


typedef struct {
    ngx_http_aiq_auth_shctx_t   *sh;
    ngx_slab_pool_t             *shpool;
} ngx_http_aiq_auth_cache_t;


static ngx_int_t ngx_http_aiq_auth_cache_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static void ngx_http_aiq_auth_cache_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_int_t ngx_http_aiq_auth_cache_cmp(ngx_http_aiq_auth_node_t *an,
    ngx_uint_t ns, u_char *digest);
static ngx_http_aiq_auth_node_t *ngx_http_aiq_auth_cache_find(
    ngx_http_aiq_auth_cache_t *cache, ngx_uint_t ns, u_char *digest);
static void ngx_http_aiq_auth_cache_free(ngx_http_aiq_auth_cache_t *cache,
    ngx_http_aiq_auth_node_t *an);
static ngx_rbtree_key_t ngx_http_aiq_auth_cache_key(u_char *digest);
static ngx_int_t ngx_http_aiq_auth_cache_init(ngx_conf_t *cf,
    ngx_shm_zone_t *zone, size_t size);


static ngx_str_t  ngx_http_aiq_auth_cache_name = ngx_string("aiq_auth_cache");


ngx_int_t
ngx_http_aiq_auth_cache_lookup(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest, ngx_pool_t *pool,
    ngx_str_t *value)
{
    ngx_int_t                   rc;
    ngx_http_aiq_auth_node_t   *an;
    ngx_http_aiq_auth_cache_t  *cache;

    cache = zone->data;
    rc = NGX_DECLINED;

    ngx_shmtx_lock(&cache->shpool->mutex);

    an = ngx_http_aiq_auth_cache_find(cache, ns, digest);

    if (an && an->expires <= ngx_time()) {
        ngx_http_aiq_auth_cache_free(cache, an);

    } else if (an) {
        ngx_queue_remove(&an->queue);
        ngx_queue_insert_head(&cache->sh->queue, &an->queue);

        value->len = an->len;
        value->data = ngx_pnalloc(pool, an->len);

        if (value->data) {
            ngx_memcpy(value->data, an->value, an->len);
            rc = NGX_OK;

        } else {
            rc = NGX_ERROR;
        }
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);

    return rc;
}


ngx_int_t
ngx_http_aiq_auth_cache_insert(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest, ngx_str_t *value,
    time_t expires)
{
    size_t                      size;
    ngx_uint_t                  n;
    ngx_queue_t                *q;
    ngx_http_aiq_auth_node_t   *an;
    ngx_http_aiq_auth_cache_t  *cache;

    if (value->len > NGX_HTTP_AIQ_AUTH_VALUE_MAX) {
        return NGX_DECLINED;
    }

    cache = zone->data;
    size = offsetof(ngx_http_aiq_auth_node_t, value) + value->len;

    ngx_shmtx_lock(&cache->shpool->mutex);

    an = ngx_http_aiq_auth_cache_find(cache, ns, digest);

    if (an) {
        ngx_http_aiq_auth_cache_free(cache, an);
    }

    an = ngx_slab_alloc_locked(cache->shpool, size);

    for (n = 0; an == NULL && n < NGX_HTTP_AIQ_AUTH_EVICT; n++) {

        if (ngx_queue_empty(&cache->sh->queue)) {
            break;
        }

        q = ngx_queue_last(&cache->sh->queue);

        ngx_http_aiq_auth_cache_free(cache,
                           ngx_queue_data(q, ngx_http_aiq_auth_node_t, queue));

        an = ngx_slab_alloc_locked(cache->shpool, size);
    }

    if (an == NULL) {
        ngx_shmtx_unlock(&cache->shpool->mutex);
        return NGX_DECLINED;
    }

    an->node.key = ngx_http_aiq_auth_cache_key(digest);
    an->expires = expires;
    an->len = (uint16_t) value->len;
    an->ns = (u_char) ns;
    ngx_memcpy(an->digest, digest, NGX_HTTP_AIQ_AUTH_DIGEST);
    ngx_memcpy(an->value, value->data, value->len);

    ngx_rbtree_insert(&cache->sh->rbtree, &an->node);
    ngx_queue_insert_head(&cache->sh->queue, &an->queue);

    ngx_shmtx_unlock(&cache->shpool->mutex);

    return NGX_OK;
}


void
ngx_http_aiq_auth_cache_remove(ngx_shm_zone_t *zone,
    ngx_http_aiq_auth_ns_e ns, u_char *digest)
{
    ngx_http_aiq_auth_node_t   *an;
    ngx_http_aiq_auth_cache_t  *cache;

    cache = zone->data;

    ngx_shmtx_lock(&cache->shpool->mutex);

    an = ngx_http_aiq_auth_cache_find(cache, ns, digest);

    if (an) {
        ngx_http_aiq_auth_cache_free(cache, an);
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


static ngx_http_aiq_auth_node_t *
ngx_http_aiq_auth_cache_find(ngx_http_aiq_auth_cache_t *cache, ngx_uint_t ns,
    u_char *digest)
{
    ngx_int_t                  rc;
    ngx_rbtree_key_t           key;
    ngx_rbtree_node_t         *node, *sentinel;
    ngx_http_aiq_auth_node_t  *an;

    key = ngx_http_aiq_auth_cache_key(digest);

    node = cache->sh->rbtree.root;
    sentinel = cache->sh->rbtree.sentinel;

    while (node != sentinel) {

        if (key != node->key) {
            node = (key < node->key) ? node->left : node->right;
            continue;
        }

        an = (ngx_http_aiq_auth_node_t *) node;

        rc = ngx_http_aiq_auth_cache_cmp(an, ns, digest);

        if (rc == 0) {
            return an;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


static void
ngx_http_aiq_auth_cache_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t         **p;
    ngx_http_aiq_auth_node_t   *an;

    an = (ngx_http_aiq_auth_node_t *) node;

    for ( ;; ) {

        if (node->key != temp->key) {
            p = (node->key < temp->key) ? &temp->left : &temp->right;

        } else {
            p = (ngx_http_aiq_auth_cache_cmp((ngx_http_aiq_auth_node_t *) temp,
                                             an->ns, an->digest)
                 < 0)
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


static ngx_int_t
ngx_http_aiq_auth_cache_cmp(ngx_http_aiq_auth_node_t *an, ngx_uint_t ns,
    u_char *digest)
{
    if (ns != an->ns) {
        return (ns < an->ns) ? -1 : 1;
    }

    return ngx_memcmp(digest, an->digest, NGX_HTTP_AIQ_AUTH_DIGEST);
}


static void
ngx_http_aiq_auth_cache_free(ngx_http_aiq_auth_cache_t *cache,
    ngx_http_aiq_auth_node_t *an)
{
    ngx_queue_remove(&an->queue);
    ngx_rbtree_delete(&cache->sh->rbtree, &an->node);
    ngx_slab_free_locked(cache->shpool, an);
}


static ngx_rbtree_key_t
ngx_http_aiq_auth_cache_key(u_char *digest)
{
    ngx_rbtree_key_t  key;

    ngx_memcpy(&key, digest, sizeof(ngx_rbtree_key_t));

    return key;
}


char *
ngx_http_aiq_auth_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ssize_t          size;
    ngx_str_t       *value;
    ngx_shm_zone_t  *zone;

    value = cf->args->elts;

    size = ngx_parse_size(&value[1]);

    if (size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\", at least %ui is needed",
                           &value[1], 8 * ngx_pagesize);
        return NGX_CONF_ERROR;
    }

    zone = ngx_shared_memory_add(cf, &ngx_http_aiq_auth_cache_name, 0,
                                 &ngx_http_aiq_module);
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (zone->data) {
        return "is duplicate";
    }

    if (ngx_http_aiq_auth_cache_init(cf, zone, size) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


ngx_shm_zone_t *
ngx_http_aiq_auth_cache_zone(ngx_conf_t *cf)
{
    ngx_shm_zone_t  *zone;

    zone = ngx_shared_memory_add(cf, &ngx_http_aiq_auth_cache_name, 0,
                                 &ngx_http_aiq_module);

    if (zone && zone->data == NULL
        && ngx_http_aiq_auth_cache_init(cf, zone,
                                        NGX_HTTP_AIQ_AUTH_CACHE_SIZE)
           != NGX_OK)
    {
        return NULL;
    }

    return zone;
}


static ngx_int_t
ngx_http_aiq_auth_cache_init(ngx_conf_t *cf, ngx_shm_zone_t *zone, size_t size)
{
    ngx_http_aiq_auth_cache_t  *cache;

    cache = ngx_pcalloc(cf->pool, sizeof(ngx_http_aiq_auth_cache_t));
    if (cache == NULL) {
        return NGX_ERROR;
    }

    zone->shm.size = size;
    zone->init = ngx_http_aiq_auth_cache_init_zone;
    zone->data = cache;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_auth_cache_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_aiq_auth_cache_t *ocache = data;

    ngx_http_aiq_auth_cache_t  *cache;

    cache = shm_zone->data;
    cache->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (ocache) {
        cache->sh = ocache->sh;
        return NGX_OK;
    }

    if (shm_zone->shm.exists) {
        cache->sh = cache->shpool->data;
        return NGX_OK;
    }

    cache->sh = ngx_slab_alloc(cache->shpool,
                               sizeof(ngx_http_aiq_auth_shctx_t));
    if (cache->sh == NULL) {
        return NGX_ERROR;
    }

    cache->shpool->data = cache->sh;

    ngx_rbtree_init(&cache->sh->rbtree, &cache->sh->sentinel,
                    ngx_http_aiq_auth_cache_insert_value);

    ngx_queue_init(&cache->sh->queue);

    /* a full cache is no fault */
    cache->shpool->log_nomem = 0;

    return NGX_OK;
}
