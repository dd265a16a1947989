
#include "ngx_http_aiq_limit.h"


/* a line of llm_rate_limit_hits_total */
#define NGX_HTTP_AIQ_LIMIT_HIT_LEN                                            \
    (sizeof("llm_rate_limit_hits_total{tenant_id=\"\"} \n")                   \
     + NGX_HTTP_AIQ_LIMIT_TENANT_LEN + NGX_ATOMIC_T_LEN)


static u_char *ngx_http_aiq_limit_tenants(u_char *p, ngx_shm_zone_t *shm_zone);


void
ngx_http_aiq_limit_hit(ngx_http_request_t *r)
{
    ngx_str_t                        name;
    ngx_uint_t                       i;
    ngx_slab_pool_t                 *shpool;
    ngx_http_aiq_ctx_t              *ctx;
    ngx_http_aiq_limit_hits_t       *hits;
    ngx_http_aiq_limit_tenant_t     *tenant;
    ngx_http_aiq_limit_main_conf_t  *lmcf;

    lmcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_limit_module);

    if (lmcf->hits == NULL) {
        return;
    }

    ctx = ngx_http_aiq_get_ctx(r);
    name = ctx->identity.tenant;

    if (name.len == 0) {
        /* no null pointer */
        ngx_str_set(&name, "");
    }

    hits = lmcf->hits->data;
    shpool = (ngx_slab_pool_t *) lmcf->hits->shm.addr;

    /* names come from callers: only so many, and no others, become labels */

    if (name.len
        && (name.len > NGX_HTTP_AIQ_LIMIT_TENANT_LEN
            || ngx_http_aiq_check_word(&name, "._-") != NGX_OK))
    {
        (void) ngx_atomic_fetch_add(&hits->other, 1);
        return;
    }

    ngx_shmtx_lock(&shpool->mutex);

    for (i = 0; i < hits->n; i++) {
        tenant = &hits->tenant[i];

        if (tenant->len == name.len
            && ngx_memcmp(tenant->name, name.data, name.len) == 0)
        {
            break;
        }
    }

    if (i == NGX_HTTP_AIQ_LIMIT_TENANTS) {
        (void) ngx_atomic_fetch_add(&hits->other, 1);

    } else {
        tenant = &hits->tenant[i];

        if (i == hits->n) {
            tenant->len = name.len;
            ngx_memcpy(tenant->name, name.data, name.len);
            hits->n++;
        }

        tenant->count++;
    }

    ngx_shmtx_unlock(&shpool->mutex);
}


static u_char *
ngx_http_aiq_limit_tenants(u_char *p, ngx_shm_zone_t *shm_zone)
{
    ngx_str_t                   name;
    ngx_uint_t                  i;
    ngx_slab_pool_t            *shpool;
    ngx_http_aiq_limit_hits_t  *hits;

    static char  line[] = "llm_rate_limit_hits_total{tenant_id=\"%V\"} %uA\n";

    hits = shm_zone->data;
    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    ngx_shmtx_lock(&shpool->mutex);

    for (i = 0; i < hits->n; i++) {
        name.data = hits->tenant[i].name;
        name.len = hits->tenant[i].len;

        p = ngx_sprintf(p, line, &name, hits->tenant[i].count);
    }

    ngx_shmtx_unlock(&shpool->mutex);

    if (hits->other) {
        ngx_str_set(&name, "other");
        p = ngx_sprintf(p, line, &name, hits->other);
    }

    return p;
}


ngx_int_t
ngx_http_aiq_limit_metrics(ngx_http_request_t *r, ngx_str_t *text)
{
    u_char                           *p;
    size_t                            len;
    ngx_uint_t                        i, n;
    ngx_http_aiq_limit_zone_t       **zone;
    ngx_http_aiq_limit_main_conf_t   *lmcf;

    static char  head[] =
        "# HELP aiq_limit_total Requests that a zone counted, by what became "
        "of them.\n"
        "# TYPE aiq_limit_total counter\n";

    static char  full[] =
        "# HELP aiq_limit_full_total Requests that a zone had no memory to "
        "count, and refused.\n"
        "# TYPE aiq_limit_full_total counter\n";

    static char  count[] =
        "aiq_limit_total{zone=\"%V\",status=\"%V\"} %uA\n";

    static char  full_count[] = "aiq_limit_full_total{zone=\"%V\"} %uA\n";

    static char  alone[] =
        "# HELP aiq_limit_unshared_total Requests of a shared limit that had "
        "no answer.\n"
        "# TYPE aiq_limit_unshared_total counter\n";

    static char  alone_count[] = "aiq_limit_unshared_total{zone=\"%V\"} %uA\n";

    static char  hits[] =
        "# HELP llm_rate_limit_hits_total Requests that a limit refused, by "
        "tenant.\n"
        "# TYPE llm_rate_limit_hits_total counter\n";

    ngx_str_null(text);

    lmcf = ngx_http_get_module_main_conf(r, ngx_http_aiq_limit_module);
    zone = lmcf->zones.elts;

    if (lmcf->zones.nelts == 0) {
        return NGX_OK;
    }

    len = sizeof(head) + sizeof(full) + sizeof(alone) + sizeof(hits)
          + (NGX_HTTP_AIQ_LIMIT_TENANTS + 1) * NGX_HTTP_AIQ_LIMIT_HIT_LEN;

    for (i = 0; i < lmcf->zones.nelts; i++) {
        len += NGX_HTTP_AIQ_LIMIT_STATUSES
               * (sizeof(count) + sizeof("REJECTED_DRY_RUN")
                  + zone[i]->name.len + NGX_ATOMIC_T_LEN)
               + sizeof(full_count) + zone[i]->name.len + NGX_ATOMIC_T_LEN
               + sizeof(alone_count) + zone[i]->name.len + NGX_ATOMIC_T_LEN;
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;

    p = ngx_cpymem(p, head, sizeof(head) - 1);

    for (i = 0; i < lmcf->zones.nelts; i++) {
        for (n = 0; n < NGX_HTTP_AIQ_LIMIT_STATUSES; n++) {
            p = ngx_sprintf(p, count, &zone[i]->name,
                            &ngx_http_aiq_limit_statuses[n],
                            zone[i]->sh->counts[n]);
        }
    }

    p = ngx_cpymem(p, full, sizeof(full) - 1);

    for (i = 0; i < lmcf->zones.nelts; i++) {
        p = ngx_sprintf(p, full_count, &zone[i]->name, zone[i]->sh->full);
    }

    p = ngx_cpymem(p, alone, sizeof(alone) - 1);

    for (i = 0; i < lmcf->zones.nelts; i++) {
        p = ngx_sprintf(p, alone_count, &zone[i]->name, zone[i]->sh->alone);
    }

    p = ngx_cpymem(p, hits, sizeof(hits) - 1);
    p = ngx_http_aiq_limit_tenants(p, lmcf->hits);

    text->len = p - text->data;

    return NGX_OK;
}


ngx_int_t
ngx_http_aiq_limit_init_hits(ngx_shm_zone_t *shm_zone, void *data)
{
    return ngx_http_aiq_init_counters(shm_zone, data,
                                      sizeof(ngx_http_aiq_limit_hits_t));
}
