
#include "ngx_http_aiq.h"


#define NGX_HTTP_AIQ_METRICS_TIMEOUT  5000
#define NGX_HTTP_AIQ_METRICS_TYPE     "text/plain; version=0.0.4; charset=utf-8"


/*
 * Counters of all workers.  What a worker has open is under its slot in the
 * master's process table, with its id: a killed worker's entry does not count,
 * and its successor begins at zero.
 */

typedef struct {
    ngx_atomic_t                 pid;
    ngx_atomic_t                 jobs;
    ngx_atomic_t                 websockets;
} ngx_http_aiq_worker_t;


/* of WebSockets: codes from 1000 on; those of applications are the last one */

#define NGX_HTTP_AIQ_CLOSES  16


typedef struct {
    ngx_atomic_t                 refused[NGX_HTTP_AIQ_REASONS];
    ngx_atomic_t                 reconnects;
    ngx_atomic_t                 messages[2];    /* received, sent */
    ngx_atomic_t                 closes[NGX_HTTP_AIQ_CLOSES];
    ngx_http_aiq_worker_t        workers[NGX_MAX_PROCESSES];
} ngx_http_aiq_counters_t;


static ngx_int_t ngx_http_aiq_metrics_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_aiq_metrics_tail(ngx_http_request_t *r,
    ngx_str_t *tail);
static ngx_int_t ngx_http_aiq_metrics_fail(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_active(ngx_atomic_uint_t *jobs,
    ngx_atomic_uint_t *websockets);
static ngx_int_t ngx_http_aiq_init_zone(ngx_shm_zone_t *shm_zone, void *data);


static ngx_http_aiq_counters_t  *ngx_http_aiq_counters;


char *
ngx_http_aiq_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_aiq_loc_conf_t *alcf = conf;

    char  *rv;

    static ngx_str_t  service = ngx_string("metrics");

    rv = ngx_http_aiq_add_pass(cf, alcf, &service,
                               ngx_http_aiq_metrics_handler);

    if (rv == NGX_CONF_OK) {
        alcf->pass->timeout = NGX_HTTP_AIQ_METRICS_TIMEOUT;
        alcf->pass->fail = ngx_http_aiq_metrics_fail;
        alcf->pass->tail = ngx_http_aiq_metrics_tail;
    }

    return rv;
}


static ngx_int_t
ngx_http_aiq_metrics_handler(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_http_aiq_ask(r);
}


/* The module's families, after those of the engine. */

static ngx_int_t
ngx_http_aiq_metrics_tail(ngx_http_request_t *r, ngx_str_t *tail)
{
    u_char             *p;
    size_t              len;
    ngx_str_t           limits;
    ngx_uint_t          i;
    ngx_atomic_uint_t   jobs, websockets;

    static char  gauges[] =
        "# HELP aiq_engine_up Whether the worker that answers has a link to "
        "the engine.\n"
        "# TYPE aiq_engine_up gauge\n"
        "aiq_engine_up %ui\n"
        "# HELP aiq_active_connections Requests that the workers have open at "
        "the engine.\n"
        "# TYPE aiq_active_connections gauge\n"
        "aiq_active_connections %uA\n"
        "# HELP aiq_link_reconnects_total Links to the engine that workers "
        "made anew.\n"
        "# TYPE aiq_link_reconnects_total counter\n"
        "aiq_link_reconnects_total %uA\n"
        "# HELP aiq_refused_total Requests that failed between nginx and the "
        "engine.\n"
        "# TYPE aiq_refused_total counter\n";

    static char  refused[] = "aiq_refused_total{reason=\"%V\"} %uA\n";

    static char  websocket[] =
        "# HELP aiq_websockets Open WebSockets.\n"
        "# TYPE aiq_websockets gauge\n"
        "aiq_websockets %uA\n"
        "# HELP aiq_websocket_messages_total Messages of WebSockets.\n"
        "# TYPE aiq_websocket_messages_total counter\n"
        "aiq_websocket_messages_total{direction=\"received\"} %uA\n"
        "aiq_websocket_messages_total{direction=\"sent\"} %uA\n"
        "# HELP aiq_websocket_closes_total WebSockets that ended, by the code "
        "that nginx sent; 1006: the connection was lost, 3000: an "
        "application's code.\n"
        "# TYPE aiq_websocket_closes_total counter\n";

    static char  closes[] = "aiq_websocket_closes_total{code=\"%ui\"} %uA\n";

    len = sizeof(gauges) + sizeof(websocket) + 6 * NGX_ATOMIC_T_LEN
          + NGX_HTTP_AIQ_CLOSES * (sizeof(closes) + 2 * NGX_ATOMIC_T_LEN)
          + NGX_HTTP_AIQ_REASONS * (sizeof(refused) + 64 + NGX_ATOMIC_T_LEN);

    if (ngx_http_aiq_limit_metrics(r, &limits) != NGX_OK) {
        return NGX_ERROR;
    }

    len += limits.len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    tail->data = p;

    ngx_http_aiq_active(&jobs, &websockets);

    p = ngx_sprintf(p, gauges, ngx_http_aiq_link_up(), jobs,
                    ngx_http_aiq_counters->reconnects);

    for (i = 0; i < NGX_HTTP_AIQ_REASONS; i++) {
        p = ngx_sprintf(p, refused, ngx_http_aiq_reason_code(i),
                        ngx_http_aiq_counters->refused[i]);
    }

    p = ngx_sprintf(p, websocket, websockets,
                    ngx_http_aiq_counters->messages[0],
                    ngx_http_aiq_counters->messages[1]);

    for (i = 0; i < NGX_HTTP_AIQ_CLOSES; i++) {

        if (ngx_http_aiq_counters->closes[i]) {
            p = ngx_sprintf(p, closes,
                            i == NGX_HTTP_AIQ_CLOSES - 1 ? 3000 : 1000 + i,
                            ngx_http_aiq_counters->closes[i]);
        }
    }

    if (limits.len) {
        p = ngx_cpymem(p, limits.data, limits.len);
    }

    tail->len = p - tail->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_metrics_fail(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx)
{
    ngx_str_t  body;

    if (ngx_http_aiq_metrics_tail(r, &body) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_aiq_send(r, ctx, NGX_HTTP_OK, NGX_HTTP_AIQ_METRICS_TYPE,
                             &body);
}


static void
ngx_http_aiq_active(ngx_atomic_uint_t *jobs, ngx_atomic_uint_t *websockets)
{
    ngx_uint_t              i;
    ngx_http_aiq_worker_t  *worker;

    *jobs = 0;
    *websockets = 0;

    for (i = 0; i < NGX_MAX_PROCESSES; i++) {
        worker = &ngx_http_aiq_counters->workers[i];

        if ((worker->jobs || worker->websockets)
            && kill((ngx_pid_t) worker->pid, 0) == 0)
        {
            *jobs += worker->jobs;
            *websockets += worker->websockets;
        }
    }
}


void
ngx_http_aiq_count_refused(ngx_http_aiq_reason_e reason)
{
    (void) ngx_atomic_fetch_add(&ngx_http_aiq_counters->refused[reason], 1);
}


void
ngx_http_aiq_count_reconnect(void)
{
    (void) ngx_atomic_fetch_add(&ngx_http_aiq_counters->reconnects, 1);
}


void
ngx_http_aiq_count_jobs(ngx_int_t n)
{
    /* nobody else writes it */
    ngx_http_aiq_counters->workers[ngx_process_slot].jobs += n;
}


void
ngx_http_aiq_count_websockets(ngx_int_t n)
{
    ngx_http_aiq_counters->workers[ngx_process_slot].websockets += n;
}


void
ngx_http_aiq_count_message(ngx_uint_t sent)
{
    (void) ngx_atomic_fetch_add(&ngx_http_aiq_counters->messages[sent], 1);
}


void
ngx_http_aiq_count_close(ngx_uint_t code)
{
    code = ngx_min(code - 1000, NGX_HTTP_AIQ_CLOSES - 1);

    (void) ngx_atomic_fetch_add(&ngx_http_aiq_counters->closes[code], 1);
}


ngx_int_t
ngx_http_aiq_metrics_init(ngx_conf_t *cf, ngx_http_aiq_main_conf_t *amcf)
{
    static ngx_str_t  name = ngx_string("aiq_counters");

    amcf->zone = ngx_shared_memory_add(cf, &name,
                                       sizeof(ngx_http_aiq_counters_t)
                                       + 8 * ngx_pagesize,
                                       &ngx_http_aiq_module);
    if (amcf->zone == NULL) {
        return NGX_ERROR;
    }

    amcf->zone->init = ngx_http_aiq_init_zone;
    amcf->zone->data = NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_http_aiq_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    return ngx_http_aiq_init_counters(shm_zone, data,
                                      sizeof(ngx_http_aiq_counters_t));
}


ngx_int_t
ngx_http_aiq_init_counters(ngx_shm_zone_t *shm_zone, void *data, size_t size)
{
    ngx_slab_pool_t  *shpool;

    if (data) {
        shm_zone->data = data;
        return NGX_OK;
    }

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        shm_zone->data = shpool->data;
        return NGX_OK;
    }

    shm_zone->data = ngx_slab_calloc(shpool, size);
    if (shm_zone->data == NULL) {
        return NGX_ERROR;
    }

    shpool->data = shm_zone->data;

    return NGX_OK;
}


void
ngx_http_aiq_metrics_init_process(ngx_http_aiq_main_conf_t *amcf)
{
    ngx_http_aiq_worker_t  *worker;

    ngx_http_aiq_counters = amcf->zone->data;

    worker = &ngx_http_aiq_counters->workers[ngx_process_slot];

    worker->jobs = 0;
    worker->websockets = 0;
    worker->pid = ngx_pid;
}
