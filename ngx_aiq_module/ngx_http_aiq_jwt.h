
/*
 * JSON Web Tokens in the ACCESS phase: what the files of the module share.
 */

#ifndef _NGX_HTTP_AIQ_JWT_H_INCLUDED_
#define _NGX_HTTP_AIQ_JWT_H_INCLUDED_


#include "ngx_http_aiq.h"
#include "ngx_http_aiq_auth_cache.h"
#include "ngx_http_aiq_jwt_core.h"

#include <openssl/evp.h>


#define NGX_HTTP_AIQ_JWT_YEAR_9999  253402300799


/* keys from files, never changed after the configuration was read */

typedef struct {
    ngx_http_aiq_jwt_keys_t     *keys;
    u_char                       digest[NGX_HTTP_AIQ_AUTH_DIGEST];
} ngx_http_aiq_jwt_set_t;


/*
 * Keys that a subrequest brings; each worker asks for itself.  The set of the
 * last answer that was one is kept, "digest" says which that is.
 */

typedef struct {
    ngx_str_t                    uri;
    ngx_http_aiq_jwt_set_t       set;        /* keys: NULL before the first */
    ngx_msec_t                   fetched;
    ngx_msec_t                   tried;
    ngx_atomic_uint_t            changes;    /* of all workers, at "tried" */
    ngx_queue_t                  waiting;    /* ngx_http_aiq_jwt_ctx_t */
    unsigned                     tried_once:1;
    unsigned                     busy:1;
    unsigned                     failed:1;   /* the last time */
} ngx_http_aiq_jwt_remote_t;


/* reasons to refuse beyond those of ngx_http_aiq_jwt_result_e */

typedef enum {
    NGX_HTTP_AIQ_JWT_ABSENT = NGX_HTTP_AIQ_JWT_NO_MEMORY + 1,
    NGX_HTTP_AIQ_JWT_ROLE,
    NGX_HTTP_AIQ_JWT_REQUIRED_401,
    NGX_HTTP_AIQ_JWT_REQUIRED_403,
    NGX_HTTP_AIQ_JWT_NO_KEYS,
    NGX_HTTP_AIQ_JWT_OTHER,
    NGX_HTTP_AIQ_JWT_UNWANTED
} ngx_http_aiq_jwt_reason_e;


typedef struct {
    ngx_uint_t                   status;
    ngx_str_t                    code;
    ngx_str_t                    message;
    char                        *error;      /* of RFC 6750 */
} ngx_http_aiq_jwt_denial_t;


/* what is known of a token that passed; its strings are in one piece */

typedef struct {
    ngx_http_aiq_jwt_times_t     times;
    ngx_str_t                    tenant;
    ngx_str_t                    user;
    ngx_str_t                    role;
    ngx_str_t                    payload;
} ngx_http_aiq_jwt_verified_t;


typedef struct ngx_http_aiq_jwt_loc_conf_s  ngx_http_aiq_jwt_loc_conf_t;


struct ngx_http_aiq_jwt_ctx_s {
    ngx_http_request_t          *request;

    /* the token that passed */
    ngx_str_t                    payload;
    json_t                      *claims;     /* the same, once it is needed */
    time_t                       expires;    /* 0: nobody asks */
    ngx_pool_t                  *pool;       /* of the last one that was shown
                                                later, or NULL */

    /* to verify it again, when the keys have changed */
    ngx_http_aiq_jwt_loc_conf_t *conf;       /* NULL: it is in no queue */
    ngx_str_t                    token;
    ngx_queue_t                  passed;

    /* where the request has to do with the keys being fetched */
    ngx_http_aiq_jwt_remote_t   *remote;
    ngx_queue_t                  queue;
    u_char                      *body;
    size_t                       body_len;
    size_t                       body_size;
    unsigned                     asked:1;    /* no second time */
    unsigned                     waiting:1;
    unsigned                     owner:1;    /* it has the subrequest */
    unsigned                     overflow:1;
};


typedef struct {
    ngx_array_t                 *values;     /* ngx_http_complex_value_t */
    ngx_uint_t                   error;
} ngx_http_aiq_jwt_require_t;


typedef struct {
    ngx_shm_zone_t              *zone;
    EVP_MD                      *sha256;
    ngx_shm_zone_t              *watch;      /* NULL: not enabled */
    ngx_array_t                  sets;       /* ngx_http_aiq_jwt_set_t * */
    ngx_uint_t                   enabled;    /* unsigned  enabled:1; */
    ngx_uint_t                   remote;     /* unsigned  remote:1; */
} ngx_http_aiq_jwt_main_conf_t;


struct ngx_http_aiq_jwt_loc_conf_s {
    ngx_http_complex_value_t    *realm;      /* NULL: off */
    ngx_http_complex_value_t    *token;      /* NULL: Authorization */
    ngx_flag_t                   message;    /* the token is in the first */
    ngx_http_aiq_jwt_set_t      *set;
    ngx_http_aiq_jwt_remote_t   *remote;
    time_t                       key_cache;
    time_t                       leeway;
    time_t                       max_lifetime;
    ngx_array_t                 *audience;   /* ngx_str_t */
    ngx_array_t                 *issuer;     /* ngx_str_t */
    ngx_array_t                 *require;    /* ngx_http_aiq_jwt_require_t */
    ngx_str_t                    tenant;     /* claims for the identity */
    ngx_str_t                    user;
    ngx_str_t                    role;
    u_char                       profile[NGX_HTTP_AIQ_AUTH_DIGEST];
    u_char                      *file;
    ngx_uint_t                   line;
};


/* ngx_http_aiq_jwt_conf.c */

char *ngx_http_aiq_jwt(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_aiq_jwt_key_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_aiq_jwt_key_request(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_aiq_jwt_names(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_aiq_jwt_require(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_aiq_jwt_identity(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
/* makes the digest the hash of everything that was added */
void ngx_http_aiq_jwt_chain(u_char *digest, ngx_str_t *text);

/* ngx_http_aiq_jwt_access.c */

ngx_int_t ngx_http_aiq_jwt_access_handler(ngx_http_request_t *r);
/* NGX_OK, NGX_ERROR, or the status of the first requirement that fails */
ngx_int_t ngx_http_aiq_jwt_required(ngx_http_request_t *r,
    ngx_http_aiq_jwt_loc_conf_t *jlcf);
/* when it ends */
time_t ngx_http_aiq_jwt_end(ngx_http_aiq_jwt_verified_t *v,
    ngx_http_aiq_jwt_loc_conf_t *jlcf);
ngx_http_aiq_jwt_denial_t *ngx_http_aiq_jwt_denial(ngx_uint_t why);

/* ngx_http_aiq_jwt_verify.c */

/* is the token good, by what the location asks of it and the keys there are? */
ngx_http_aiq_jwt_result_e ngx_http_aiq_jwt_authenticate(ngx_http_request_t *r,
    ngx_pool_t *pool, ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token,
    ngx_http_aiq_jwt_verified_t *v);

/* ngx_http_aiq_jwt_remote.c */

ngx_http_aiq_jwt_remote_t *ngx_http_aiq_jwt_remote_create(ngx_conf_t *cf,
    ngx_str_t *uri);

/*
 * Keys that are older than max_age are renewed, and used for as long again
 * where that fails.  "unknown": newer ones are wanted.
 *
 * NGX_OK: there are keys, and that is all there can be; NGX_AGAIN: the handler
 * runs again when they are there; NGX_DECLINED: there are none;
 * NGX_ERROR: no memory.
 */
ngx_int_t ngx_http_aiq_jwt_remote_get(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_remote_t *remote, ngx_msec_t max_age,
    ngx_uint_t unknown);

/* what the request's end means to others that wait */
void ngx_http_aiq_jwt_remote_leave(ngx_http_aiq_jwt_ctx_t *ctx);
void ngx_http_aiq_jwt_remote_filter_init(void);

/* ngx_http_aiq_jwt_watch.c */

ngx_int_t ngx_http_aiq_jwt_watch_init(ngx_conf_t *cf,
    ngx_http_aiq_jwt_main_conf_t *jmcf);
void ngx_http_aiq_jwt_watch_init_process(ngx_http_aiq_jwt_main_conf_t *jmcf,
    ngx_log_t *log);
/*
 * From a token that passed on, until ngx_http_aiq_jwt_unwatch(): what it has
 * open at the engine ends when its key is taken back.
 */
void ngx_http_aiq_jwt_watch(ngx_http_aiq_jwt_ctx_t *ctx,
    ngx_http_aiq_jwt_loc_conf_t *jlcf, ngx_str_t *token);
void ngx_http_aiq_jwt_unwatch(ngx_http_aiq_jwt_ctx_t *ctx);
/* in the master, when nothing can refuse the configuration any more */
void ngx_http_aiq_jwt_watch_files(ngx_http_aiq_jwt_main_conf_t *jmcf,
    ngx_log_t *log);
/* other keys have come; old: NULL where they are the first */
void ngx_http_aiq_jwt_watch_fetched(ngx_http_aiq_jwt_remote_t *remote,
    ngx_http_aiq_jwt_keys_t *old, ngx_http_aiq_jwt_keys_t *new);
/* how often keys were taken back, as far as any worker knows */
ngx_atomic_uint_t ngx_http_aiq_jwt_watch_changes(void);

/* ngx_http_aiq_jwt_claims.c */

/* "$aiq_jwt_claim_name" */
ngx_int_t ngx_http_aiq_jwt_add_variables(ngx_conf_t *cf);
char *ngx_http_aiq_jwt_claim_set(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


extern ngx_module_t  ngx_http_aiq_jwt_module;


#endif /* _NGX_HTTP_AIQ_JWT_H_INCLUDED_ */
