
/*
 * Limits of requests, in front of any location.  A zone counts by a key, over
 * all workers: how many requests were let through in a sliding window
 * ("rate=") and how many are being served now ("conn=").
 *
 *   - Keys that need no identity are checked in PREACCESS, all others in
 *     PRECONTENT, when it is known who asks and "satisfy any" is through.
 *   - Those of one phase are checked together, with all their zones locked,
 *     before one of them is charged; if PRECONTENT refuses, what PREACCESS
 *     has charged is given back.  A refused request is charged nowhere.
 *   - An API key may have a rate of its own.  It is counted by the key's id in
 *     a zone that "aiq_key" brings along, wherever the key is used.
 *   - A shared limit is counted for all nginx together, by the engine in Redis
 *     (PRECONTENT, after the others).  What that lets through is counted in
 *     the zone as well, so that this worker's nginx can go on alone, with its
 *     part of the rate, where the engine or Redis has no answer.
 *   - What counts tokens is the engine's, shared or not: it is told the limits
 *     of a location in its policy, and the keys of a request as it is opened.
 *   - A zone counts a request once, whatever internal redirects it takes, and
 *     no subrequests.  Who is refused goes to its error page uncounted.
 */

#ifndef _NGX_HTTP_AIQ_LIMIT_H_INCLUDED_
#define _NGX_HTTP_AIQ_LIMIT_H_INCLUDED_


#include "ngx_http_aiq.h"
#include "ngx_http_aiq_limit_window.h"


#define NGX_HTTP_AIQ_LIMIT_RATE_MAX   1000000000
#define NGX_HTTP_AIQ_LIMIT_BURST_MAX  1024
#define NGX_HTTP_AIQ_LIMIT_WAIT_MAX   86400000      /* ms */
#define NGX_HTTP_AIQ_LIMITS_MAX       16            /* in a location */
#define NGX_HTTP_AIQ_LIMIT_TENANTS    256           /* in metrics */
#define NGX_HTTP_AIQ_LIMIT_TENANT_LEN 64
#define NGX_HTTP_AIQ_LIMIT_TOKEN_KEY  1024          /* bytes in the engine */
#define NGX_HTTP_AIQ_LIMIT_KEY_ZONE   (10 * 1024 * 1024)
#define NGX_HTTP_AIQ_LIMIT_RECALL     1000          /* ms */


/* what becomes of a request, in the order of its weight */

typedef enum {
    NGX_HTTP_AIQ_LIMIT_PASSED = 0,
    NGX_HTTP_AIQ_LIMIT_DELAYED_DRY_RUN,
    NGX_HTTP_AIQ_LIMIT_DELAYED,
    NGX_HTTP_AIQ_LIMIT_REJECTED_DRY_RUN,
    NGX_HTTP_AIQ_LIMIT_REJECTED,
    NGX_HTTP_AIQ_LIMIT_STATUSES
} ngx_http_aiq_limit_status_e;


/* why it is refused */

typedef enum {
    NGX_HTTP_AIQ_LIMIT_RATE = 0,
    NGX_HTTP_AIQ_LIMIT_CONN,
    NGX_HTTP_AIQ_LIMIT_FULL,
    NGX_HTTP_AIQ_LIMIT_NO_IDENTITY,
    NGX_HTTP_AIQ_LIMIT_NO_ANSWER
} ngx_http_aiq_limit_reason_e;


typedef struct ngx_http_aiq_limit_node_s  ngx_http_aiq_limit_node_t;


typedef struct {
    ngx_rbtree_t                   rbtree;
    ngx_rbtree_node_t              sentinel;
    ngx_queue_t                    idle;     /* the last charged first */
    ngx_queue_t                    busy;     /* have requests now */
    ngx_atomic_uint_t              counts[NGX_HTTP_AIQ_LIMIT_STATUSES];
    ngx_atomic_uint_t              full;
    ngx_atomic_uint_t              alone;    /* shared, without an answer */
} ngx_http_aiq_limit_shctx_t;


typedef struct {
    ngx_http_aiq_limit_shctx_t    *sh;
    ngx_slab_pool_t               *shpool;
    ngx_str_t                      name;
    ngx_http_complex_value_t       key;
    ngx_array_t                    identity; /* ngx_int_t, variables in key */
    ngx_http_aiq_limit_rule_t      rule;     /* limit is 0: no "rate=" */
    ngx_uint_t                     conn;     /* 0: no "conn=" */
    ngx_uint_t                     tokens;   /* 0: it counts requests */
    ngx_msec_t                     window;   /* of tokens */
    unsigned                       late:1;   /* PRECONTENT */
} ngx_http_aiq_limit_zone_t;


/* an "aiq_limit" */

typedef struct {
    ngx_shm_zone_t                *shm_zone;
    ngx_uint_t                     burst;
    ngx_uint_t                     delay;    /* of a window's, from here on */
    ngx_uint_t                     nodes;    /* 0: fail closed */
    unsigned                       paced:1;  /* it has a delay */
    unsigned                       dry_run:1;
    unsigned                       shared:1;
    unsigned                       fail_closed:1;
    u_char                        *file;
    ngx_uint_t                     line;
} ngx_http_aiq_limit_t;


/* whom limits have refused; what has no place here is other */

typedef struct {
    ngx_atomic_uint_t              count;
    ngx_uint_t                     len;
    u_char                         name[NGX_HTTP_AIQ_LIMIT_TENANT_LEN];
} ngx_http_aiq_limit_tenant_t;


typedef struct {
    ngx_atomic_t                   other;
    ngx_uint_t                     n;
    ngx_http_aiq_limit_tenant_t    tenant[NGX_HTTP_AIQ_LIMIT_TENANTS];
} ngx_http_aiq_limit_hits_t;


typedef struct {
    ngx_array_t                    zones;    /* ngx_http_aiq_limit_zone_t * */
    ngx_array_t                    limits;   /* ngx_http_aiq_limit_t *, all */
    ngx_shm_zone_t                *workers;  /* NULL: no zones */
    ngx_shm_zone_t                *hits;
    ngx_http_aiq_limit_t           key;      /* for rates of API keys */
} ngx_http_aiq_limit_main_conf_t;


typedef struct {
    ngx_array_t                   *limits;   /* ngx_http_aiq_limit_t * */
    ngx_uint_t                     log_level;
    ngx_uint_t                     entry;    /* in the policy's locations */
} ngx_http_aiq_limit_loc_conf_t;


/* a request and a zone */

typedef struct {
    ngx_http_aiq_limit_t          *limit;
    ngx_http_aiq_limit_zone_t     *zone;
    ngx_http_aiq_limit_rule_t      rule;     /* the zone's, or the API key's */
    ngx_str_t                      key;
    uint32_t                       hash;

    /* of a shared one */
    ngx_uint_t                     index;    /* among the location's */
    aiq_rate                       rate;     /* what all nginx together say */
    unsigned                       told:1;   /* they do */
    unsigned                       recalled:1;  /* they did */
    unsigned                       closed:1; /* they do not, and so it fails */

    /* what the check says; node is valid as long as the zone is locked */
    ngx_http_aiq_limit_node_t     *node;
    ngx_http_aiq_limit_status_e    status;
    ngx_http_aiq_limit_reason_e    reason;
    uint64_t                       turn;

    uint64_t                       time;     /* charged with it */
    unsigned                       charged:1;
    unsigned                       conn:1;   /* is charged */
} ngx_http_aiq_limit_use_t;


/* what headers tell of the tightest zone */

typedef struct {
    ngx_uint_t                     limit;    /* 0: nothing */
    ngx_uint_t                     remaining;
    uint64_t                       reset;    /* ms */
    uint64_t                       retry;    /* ms; 0: it is not refused */
} ngx_http_aiq_limit_info_t;


struct ngx_http_aiq_limit_ctx_s {
    ngx_http_request_t            *request;
    ngx_array_t                    uses;     /* ngx_http_aiq_limit_use_t */
    ngx_http_aiq_limit_info_t      info;
    ngx_http_aiq_limit_status_e    status;
    uint64_t                       turn;     /* of a waiting request */

    ngx_http_aiq_question_t        question;
    ngx_uint_t                     shared;   /* the last uses, yet to decide */

    unsigned                       asked:1;  /* about them */
    unsigned                       counted:1;
    unsigned                       waiting:1;
    unsigned                       refused:1;
};


/* ngx_http_aiq_limit_conf.c */

char *ngx_http_aiq_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_aiq_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* ngx_http_aiq_limit_handler.c */

ngx_int_t ngx_http_aiq_limit_preaccess_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_aiq_limit_precontent_handler(ngx_http_request_t *r);

/* AIQ_LIMIT_KEY bytes that stand for it */
void ngx_http_aiq_limit_digest(ngx_str_t *key, u_char *p);

/* ngx_http_aiq_limit_shared.c */

/*
 * NGX_OK: the shared uses know what all nginx together say, or how they go on
 * without; NGX_AGAIN: the handler is called again then
 */
ngx_int_t ngx_http_aiq_limit_ask(ngx_http_request_t *r,
    ngx_http_aiq_limit_ctx_t *ctx);

/* ngx_http_aiq_limit_headers.c */

void ngx_http_aiq_limit_filter_init(void);

/* ngx_http_aiq_limit_metrics.c */

/* a limit has refused the request */
void ngx_http_aiq_limit_hit(ngx_http_request_t *r);
ngx_int_t ngx_http_aiq_limit_init_hits(ngx_shm_zone_t *shm_zone, void *data);

/* ngx_http_aiq_limit_zone.c */

ngx_int_t ngx_http_aiq_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data);
ngx_int_t ngx_http_aiq_limit_init_workers(ngx_shm_zone_t *shm_zone,
    void *data);
void ngx_http_aiq_limit_init_process(ngx_shm_zone_t *workers);

/* ms of a clock that all workers share; under a zone's lock it only grows */
uint64_t ngx_http_aiq_limit_now(void);

/*
 * Both with the zone locked.  The check finds memory for the charge, so that
 * this cannot fail.
 */
void ngx_http_aiq_limit_check(ngx_http_aiq_limit_use_t *use, uint64_t now);
void ngx_http_aiq_limit_charge(ngx_http_aiq_limit_use_t *use, uint64_t time);
void ngx_http_aiq_limit_state(ngx_http_aiq_limit_use_t *use, uint64_t now,
    ngx_http_aiq_limit_info_t *info);

/*
 * 1: it is known that a shared limit refuses this, as it has just refused
 * another.  The zone must not be locked.
 */
ngx_uint_t ngx_http_aiq_limit_recall(ngx_http_aiq_limit_use_t *use);

/* gives back what was charged; the zone must not be locked */
void ngx_http_aiq_limit_return_rate(ngx_http_aiq_limit_use_t *use);
void ngx_http_aiq_limit_return_conn(ngx_http_aiq_limit_use_t *use);


extern ngx_module_t  ngx_http_aiq_limit_module;

/* in the order of ngx_http_aiq_limit_status_e */
extern ngx_str_t  ngx_http_aiq_limit_statuses[];


#endif /* _NGX_HTTP_AIQ_LIMIT_H_INCLUDED_ */
