
/*
 * nginx's side of aiq: directives and the policy made of them, who asks and how
 * much he may, and the way of a request to the engine and back.  One concern a
 * file; here is what all of them share, by file.  Of the engine's sources only
 * engine/include is known here.
 */

#ifndef _NGX_HTTP_AIQ_H_INCLUDED_
#define _NGX_HTTP_AIQ_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_aiq_frames.h"


#define NGX_HTTP_AIQ_REQUEST_ID_LEN   64
#define NGX_HTTP_AIQ_TRACEPARENT_LEN  55


typedef struct ngx_http_aiq_charge_s    ngx_http_aiq_charge_t;
typedef struct ngx_http_aiq_charge_ctx_s  ngx_http_aiq_charge_ctx_t;
typedef struct ngx_http_aiq_ctx_s       ngx_http_aiq_ctx_t;
typedef struct ngx_http_aiq_jwt_ctx_s   ngx_http_aiq_jwt_ctx_t;
typedef struct ngx_http_aiq_key_wait_s  ngx_http_aiq_key_wait_t;
typedef struct ngx_http_aiq_limit_ctx_s ngx_http_aiq_limit_ctx_t;
typedef struct ngx_http_aiq_link_s      ngx_http_aiq_link_t;
typedef struct ngx_http_aiq_pass_s      ngx_http_aiq_pass_t;
typedef struct ngx_http_aiq_ws_s        ngx_http_aiq_ws_t;


/* of targets; worker processes look at it, see ngx_http_aiq_handler.c */

typedef struct {
    ngx_str_t                  text;
    ngx_http_complex_value_t   value;
} ngx_http_aiq_value_t;


/* what nginx.conf says, on its way into the policy document */

typedef struct {
    ngx_str_t                  name;
    ngx_str_t                  path;
    ngx_uint_t                 replicas;     /* 0: not given */
} ngx_http_aiq_local_model_t;


typedef struct {
    ngx_str_t                  name;
    ngx_str_t                  dialect;
    ngx_str_t                  url;
    ngx_array_t                keys;         /* ngx_str_t */
    ngx_str_t                  key_header;   /* empty: Authorization */
    ngx_array_t                models;       /* ngx_http_aiq_local_model_t */
    ngx_array_t                headers;      /* ngx_keyval_t */
    ngx_str_t                  query;
    ngx_str_t                  ca;
    ngx_str_t                  certificate;
    ngx_str_t                  certificate_key;
    ngx_str_t                  proxy;
    ngx_msec_t                 connect;
    ngx_msec_t                 first_byte;
    ngx_msec_t                 idle;
    ngx_msec_t                 total;
    ngx_uint_t                 attempts;
    ngx_msec_t                 backoff;
    ngx_uint_t                 failures;     /* of the breaker */
    ngx_msec_t                 open;
    ngx_str_t                  check_uri;    /* empty: no "health_check" */
    ngx_msec_t                 check_interval;
    ngx_msec_t                 check_timeout;
    ngx_uint_t                 check_fails;
    ngx_uint_t                 check_passes;
    ngx_str_t                 *remote;       /* an option not for local ones */
    unsigned                   no_stream_options:1;
    unsigned                   no_max_completion_tokens:1;
    unsigned                   http_version:2;
} ngx_http_aiq_provider_t;


typedef struct {
    ngx_str_t                  provider;
    ngx_str_t                  model;        /* the provider's name of it */
    ngx_uint_t                 weight;
    int64_t                    input;        /* nano-USD per million tokens */
    int64_t                    cached;
    int64_t                    output;
    int64_t                    characters;   /* nano-USD per million, too */
    int64_t                    image;        /* nano-USD each */
    int64_t                    minute;
    ngx_int_t                  condition;    /* of "conditions", or -1 */
    off_t                      max_body;     /* 0: any */
    u_char                    *file;
    ngx_uint_t                 line;
    unsigned                   backup:1;
    unsigned                   noncritical:1;
} ngx_http_aiq_target_t;


typedef struct {
    ngx_str_t                  name;
    ngx_array_t                targets;      /* ngx_http_aiq_target_t */
    ngx_str_t                  policy;
    ngx_int_t                  key;          /* of "hashes", or -1 */
    ngx_str_t                  context;      /* models to fall back to */
    ngx_str_t                  content;
    ngx_msec_t                 retry_timeout;
    ngx_msec_t                 hedge;        /* 0: none */
    u_char                    *file;
    ngx_uint_t                 line;
} ngx_http_aiq_model_t;


typedef struct {
    ngx_str_t                  engine;       /* path of the socket */
    ngx_array_t                providers;    /* ngx_http_aiq_provider_t */
    ngx_array_t                models;       /* ngx_http_aiq_model_t */
    ngx_array_t                passes;       /* ngx_http_aiq_pass_t * */
    ngx_array_t                conditions;   /* ngx_http_aiq_value_t */
    ngx_array_t                hashes;       /* ngx_http_aiq_value_t */

    ngx_str_t                  policy;       /* path of the document */
    u_char                     sha256[32];

    ngx_shm_zone_t            *zone;
    ngx_shm_zone_t            *auth_zone;    /* see "aiq_auth_cache" */
    ngx_shm_zone_t            *key_zone;     /* NULL: no "aiq_key" */

    u_char                    *key_file;     /* of the first "aiq_key" */
    ngx_uint_t                 key_line;
    ngx_uint_t                 charges;      /* unsigned charges:1 */
} ngx_http_aiq_main_conf_t;


/* "aiq_budget", in the words of the policy document */

typedef struct {
    char                      *scope;
    char                      *unit;
    char                      *period;
    int64_t                    amount;       /* tokens or nano-dollars */
    u_char                    *file;
    ngx_uint_t                 line;
} ngx_http_aiq_budget_t;

#define NGX_HTTP_AIQ_BUDGETS_LEN  512


/* "aiq_files" */

typedef struct {
    ngx_str_t                  provider;
    u_char                    *file;
    ngx_uint_t                 line;
} ngx_http_aiq_files_t;


/* "aiq_cache semantic" */

typedef struct {
    ngx_str_t                  embed;        /* a model; empty: "lexical" */
    u_char                    *file;
    ngx_uint_t                 line;

    ngx_uint_t                 threshold;    /* 10000 corresponds to 1 */

    unsigned                   tools:1;
    unsigned                   temperature:1;
    unsigned                   dry_run:1;
} ngx_http_aiq_semantic_t;


typedef struct {
    ngx_http_aiq_pass_t       *pass;
    ngx_array_t               *budgets;      /* ngx_http_aiq_budget_t */
    ngx_http_aiq_charge_t     *charge;       /* "aiq_charge"; or NULL */
    ngx_http_aiq_pass_t       *charge_pass;  /* NULL: nothing is charged */
    ngx_http_aiq_files_t      *files;
    off_t                      max_body_size;
    ngx_msec_t                 read_timeout;
    ngx_msec_t                 cache_ttl;    /* 0: "aiq_cache off" */
    ngx_http_aiq_semantic_t   *semantic;     /* goes with it; or NULL */
    size_t                     stream_buffer;
    ngx_msec_t                 stream_grace;
    ngx_msec_t                 abort_drain;
    ngx_str_t                  key_realm;    /* empty: "aiq_key off" */
    ngx_array_t               *limits;       /* see "aiq_limit"; or NULL */
} ngx_http_aiq_loc_conf_t;


typedef ngx_int_t (*ngx_http_aiq_fail_pt)(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
typedef ngx_int_t (*ngx_http_aiq_tail_pt)(ngx_http_request_t *r,
    ngx_str_t *tail);


/* a location whose requests go to a service */

struct ngx_http_aiq_pass_s {
    ngx_str_t                  service;
    ngx_str_t                  location;     /* name of the location */
    ngx_str_t                  prefix;       /* replaces it, if not empty */
    ngx_uint_t                 index;        /* in the policy's locations */
    ngx_http_aiq_loc_conf_t   *conf;

    /* set by aiq_health and aiq_metrics */
    ngx_msec_t                 timeout;      /* instead of aiq_read_timeout */
    ngx_http_aiq_fail_pt       fail;         /* answers instead of an error */
    ngx_http_aiq_tail_pt       tail;         /* to append to the reply */

    u_char                    *file;
    ngx_uint_t                 line;
    ngx_uint_t                 websocket;    /* unsigned  websocket:1; */
};


typedef enum {
    NGX_HTTP_AIQ_ENGINE_UNAVAILABLE = 0,
    NGX_HTTP_AIQ_LINK_FULL,
    NGX_HTTP_AIQ_ENGINE_LOST,
    NGX_HTTP_AIQ_ENGINE_TIMEOUT,
    NGX_HTTP_AIQ_BODY_TOO_LARGE,
    NGX_HTTP_AIQ_HEADERS_TOO_LARGE,
    NGX_HTTP_AIQ_INVALID_HEADER,
    NGX_HTTP_AIQ_BAD_REPLY,
    NGX_HTTP_AIQ_INTERNAL_ERROR,
    NGX_HTTP_AIQ_MISSING_API_KEY,
    NGX_HTTP_AIQ_INVALID_API_KEY,
    NGX_HTTP_AIQ_DISABLED_API_KEY,
    NGX_HTTP_AIQ_KEY_UNVERIFIED,
    NGX_HTTP_AIQ_TOKEN_REVOKED,
    NGX_HTTP_AIQ_INVALID_HANDSHAKE,
    NGX_HTTP_AIQ_WEBSOCKET_VERSION,
    NGX_HTTP_AIQ_ORIGIN_NOT_ALLOWED,
    NGX_HTTP_AIQ_REASONS
} ngx_http_aiq_reason_e;


/* why a request fails, in words for its caller */

typedef struct {
    ngx_uint_t                 status;
    ngx_str_t                  code;
    ngx_str_t                  message;
    ngx_str_t                  param;
    ngx_uint_t                 retry_after;
    aiq_fields                 headers;      /* of a relayed one */
    unsigned                   relayed:1;    /* the service's own reply */
} ngx_http_aiq_failure_t;


/* a request's time at the engine */

typedef struct {
    ngx_http_aiq_link_t       *link;         /* NULL: not open there */
    uint32_t                   slot;

    /* the request's body */
    ngx_chain_t               *body;         /* where sending stands */
    off_t                      offset;       /* in its first buffer */
    off_t                      body_length;
    off_t                      unsent;       /* of body_length */
    uint32_t                   credit;       /* bytes that the engine takes */
    uint32_t                   grant;        /* CREDIT that is owed to it */

    /* the reply */
    ngx_chain_t               *out;          /* to go to the filters */
    ngx_chain_t              **last_out;
    ngx_buf_t                 *last_buf;     /* of out */
    ngx_chain_t               *busy;         /* what the client must take yet */
    ngx_chain_t               *free;
    size_t                     held;         /* bytes in out and busy */
    size_t                     consumed;     /* not told to the link yet */
    off_t                      left;         /* of the length in HEAD, or -1 */
    ngx_int_t                  broken;       /* what reading the body came to */

    ngx_event_t                timeout;
    ngx_queue_t                queue;        /* parked or dirty */

    unsigned                   parked:1;
    unsigned                   dirty:1;
    unsigned                   owes_end:1;   /* END after the body */
    unsigned                   follows:1;    /* the body is sent as it comes */
    unsigned                   head:1;
    unsigned                   stream:1;
    unsigned                   endless:1;
    unsigned                   in_event:1;   /* a stream stands inside an event */
    unsigned                   flush:1;
    unsigned                   end:1;
    unsigned                   failed:1;     /* ctx->failure tells why */
} ngx_http_aiq_job_t;


/* a question to the engine: whose is the API key with this SHA-256? */

typedef struct {
    ngx_http_aiq_link_t       *link;         /* NULL: it is not asked now */
    uint32_t                   slot;
    u_char                     digest[32];
} ngx_http_aiq_check_t;


/* a question to the engine: may the request go on to its content? */

typedef struct {
    ngx_http_aiq_link_t       *link;         /* NULL: it is not asked now */
    uint32_t                   slot;
    ngx_http_request_t        *request;
    ngx_queue_t                queue;        /* parked, or answered */
    ngx_event_t                timeout;
    ngx_str_t                  fields;       /* what is to be asked */
    ngx_http_aiq_answer_t      answer;       /* when it waits no more */
    unsigned                   waiting:1;
    unsigned                   parked:1;     /* for room in the ring */
} ngx_http_aiq_question_t;


/* who asks; set in the ACCESS phase, values of at most AIQ_IDENTITY_MAX bytes */

typedef struct {
    ngx_str_t                  tenant;
    ngx_str_t                  user;
    ngx_str_t                  role;
    ngx_str_t                  key_id;       /* empty: not by an API key */
    uint32_t                   key_rate;     /* requests a minute; 0: any */
} ngx_http_aiq_identity_t;


struct ngx_http_aiq_ctx_s {
    ngx_http_request_t        *request;
    ngx_http_aiq_identity_t    identity;
    ngx_http_aiq_key_wait_t   *key_wait;
    ngx_http_aiq_jwt_ctx_t    *jwt;          /* NULL: no token yet */
    ngx_http_aiq_limit_ctx_t  *limit;        /* NULL: no "aiq_limit" yet */
    ngx_http_aiq_charge_ctx_t *charge;       /* NULL: nothing was charged */
    ngx_http_aiq_pass_t       *pass;
    ngx_http_aiq_job_t         job;
    ngx_http_aiq_ws_t         *ws;           /* NULL: no WebSocket */
    ngx_http_aiq_failure_t     failure;
    ngx_str_t                  error_body;   /* replaces nginx's error page */
    unsigned                   own:1;        /* the reply is the module's */
    unsigned                   revoked:1;    /* its token, before it began */
    unsigned                   charging:1;   /* a ngx_http_aiq_charge_ctx_t */

    ngx_str_t                  request_id;
    ngx_str_t                  traceparent;
    ngx_str_t                  tracestate;
    u_char                     traceparent_data[NGX_HTTP_AIQ_TRACEPARENT_LEN];

    /* for variables */
    ngx_str_t                  status;
    ngx_str_t                  model;
    ngx_str_t                  provider;
    ngx_str_t                  cache;        /* HIT, MISS, BYPASS, or empty */
    aiq_usage                  usage;
};


/* ngx_http_aiq_module.c */

/* a location without a content handler of its own, nor others in it */
ngx_uint_t ngx_http_aiq_serves_files(ngx_http_core_loc_conf_t *clcf);

char *ngx_http_aiq_add_pass(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *alcf,
    ngx_str_t *service, ngx_http_handler_pt handler);

/* an entry for it in the policy, of this service; NULL: no memory */
ngx_http_aiq_pass_t *ngx_http_aiq_add_entry(ngx_conf_t *cf,
    ngx_http_aiq_loc_conf_t *alcf, ngx_str_t *service, u_char *file,
    ngx_uint_t line);
/*
 * The location's entry in the policy, made where nothing is passed from it, so
 * that the engine knows what holds there; NULL: no memory
 */
ngx_http_aiq_pass_t *ngx_http_aiq_need_entry(ngx_conf_t *cf,
    ngx_http_aiq_loc_conf_t *alcf, u_char *file, ngx_uint_t line);

/* ngx_http_aiq_variable.c */

ngx_int_t ngx_http_aiq_add_variables(ngx_conf_t *cf);

/* ngx_http_aiq_provider.c */

char *ngx_http_aiq_provider(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* ngx_http_aiq_value.c; what returns a "char *" returns what a setter does */

char *ngx_http_aiq_check_url(ngx_str_t *value, ngx_str_t *url);
char *ngx_http_aiq_check_secret(ngx_str_t *value);
ngx_int_t ngx_http_aiq_check_name(ngx_conf_t *cf, char *what, ngx_str_t *name);
/* letters, digits and what is in "more" */
ngx_int_t ngx_http_aiq_check_word(ngx_str_t *s, char *more);
char *ngx_http_aiq_set_file(ngx_conf_t *cf, ngx_str_t *value, ngx_str_t *file);
/* of "value" behind its prefix */
char *ngx_http_aiq_set_time(ngx_conf_t *cf, ngx_str_t *value, size_t prefix,
    ngx_msec_t *time);

char *ngx_http_aiq_check_time(ngx_conf_t *cf, void *post, void *data);
char *ngx_http_aiq_check_buffer(ngx_conf_t *cf, void *post, void *data);

/* ngx_http_aiq_model.c */

char *ngx_http_aiq_model(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_aiq_check_models(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);

/* ngx_http_aiq_policy.c */

ngx_int_t ngx_http_aiq_policy_init(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
void ngx_http_aiq_policy_prune(ngx_cycle_t *cycle,
    ngx_http_aiq_main_conf_t *amcf);
void ngx_http_aiq_policy_remove(ngx_http_aiq_main_conf_t *amcf);

/* ngx_http_aiq_connect.c */

ngx_int_t ngx_http_aiq_link_init(ngx_cycle_t *cycle,
    ngx_http_aiq_main_conf_t *amcf);
void ngx_http_aiq_link_exit(void);
ngx_uint_t ngx_http_aiq_link_up(void);
ngx_uint_t ngx_http_aiq_link_expected(void);
/* NGX_DECLINED: it would not be served anyway */
ngx_int_t ngx_http_aiq_link_park(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_link_unpark(ngx_http_aiq_ctx_t *ctx);
/* others wait for room already: who comes now is behind them */
ngx_uint_t ngx_http_aiq_link_crowded(void);

/* ngx_http_aiq_link.c */

/*
 * NGX_OK: the job has a slot, NGX_DECLINED: there is no link to open it on,
 * NGX_BUSY: others wait for room on it, NGX_ERROR: there are no slots
 */
ngx_int_t ngx_http_aiq_link_attach(ngx_http_aiq_ctx_t *ctx);
/* ended: the engine has ended the job; else it is told that we have */
void ngx_http_aiq_link_detach(ngx_http_aiq_ctx_t *ctx, ngx_uint_t ended);

/*
 * NGX_OK: the engine is asked, NGX_DECLINED: there is no link, NGX_BUSY: there
 * is no room on it, NGX_ERROR: there are no slots
 */
ngx_int_t ngx_http_aiq_link_check(ngx_http_aiq_check_t *check);
/* ended: by its VERDICT or with its link; else the engine need not answer */
void ngx_http_aiq_link_uncheck(ngx_http_aiq_check_t *check, ngx_uint_t ended);
/* the same for an ASK with this payload */
ngx_int_t ngx_http_aiq_link_ask(ngx_http_aiq_question_t *q, u_char *data,
    size_t len);
void ngx_http_aiq_link_unask(ngx_http_aiq_question_t *q, ngx_uint_t ended);

u_char *ngx_http_aiq_link_push(ngx_http_aiq_ctx_t *ctx, aiq_frame_type type,
    ngx_uint_t flags, size_t len);
/* a frame of this length would find room now */
ngx_uint_t ngx_http_aiq_link_room(ngx_http_aiq_ctx_t *ctx, size_t len);
void ngx_http_aiq_link_unpush(ngx_http_aiq_ctx_t *ctx, uint32_t tail);
uint32_t ngx_http_aiq_link_tail(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_link_dirty(ngx_http_aiq_ctx_t *ctx);
/* calls ngx_http_aiq_job_push() when the engine has read on */
void ngx_http_aiq_link_wait(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_link_consumed(ngx_http_aiq_ctx_t *ctx, size_t n);
/* HEAD has made it a WebSocket */
void ngx_http_aiq_link_upgrade(ngx_http_aiq_ctx_t *ctx);
/* its GRANT is in the ring */
void ngx_http_aiq_link_granted(ngx_http_aiq_ctx_t *ctx);
/* nginx, or the engine at this link, wants to leave */
ngx_uint_t ngx_http_aiq_link_leaving(ngx_http_aiq_ctx_t *ctx);

/* ngx_http_aiq_handler.c */

ngx_int_t ngx_http_aiq_handler(ngx_http_request_t *r);
/* the same for a location of the module's own, without a body */
ngx_int_t ngx_http_aiq_ask(ngx_http_request_t *r);
/* a parked request, when the link is there and has room */
void ngx_http_aiq_start(ngx_http_aiq_ctx_t *ctx);
/*
 * NGX_OK: the job is open, or parked; NGX_ERROR: ctx->failure says why it is
 * not
 */
ngx_int_t ngx_http_aiq_open(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx);
ngx_int_t ngx_http_aiq_uri(ngx_http_request_t *r, ngx_http_aiq_pass_t *pass,
    ngx_str_t *uri);

/* ngx_http_aiq_job.c */

ngx_int_t ngx_http_aiq_job_init(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
ngx_msec_t ngx_http_aiq_job_timeout(ngx_http_aiq_ctx_t *ctx);
ngx_int_t ngx_http_aiq_job_push(ngx_http_aiq_ctx_t *ctx);
const char *ngx_http_aiq_job_event(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_event_t *ev);
void ngx_http_aiq_job_lost(ngx_http_aiq_ctx_t *ctx);
/* who asked for it may not any more */
void ngx_http_aiq_job_revoke(ngx_http_aiq_ctx_t *ctx);

/* ngx_http_aiq_job_output.c */

ngx_int_t ngx_http_aiq_job_append(ngx_http_request_t *r,
    ngx_http_aiq_job_t *job, const u_char *data, size_t len);
void ngx_http_aiq_job_run(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_job_writer(ngx_http_request_t *r);

/* ngx_http_aiq_body.c: a body that is sent as it comes */
ngx_uint_t ngx_http_aiq_body_follows(ngx_http_request_t *r);
ngx_int_t ngx_http_aiq_body_more(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_body_hold(ngx_http_aiq_ctx_t *ctx);
void ngx_http_aiq_body_reader(ngx_http_request_t *r);

/* ngx_http_aiq_key.c */

char *ngx_http_aiq_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_aiq_key_init(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
/*
 * Where "aiq_jwt" and "aiq_key" stand in one location, either suffices: who
 * shows an API key, whatever else, is for "aiq_key", all others for "aiq_jwt".
 */
ngx_uint_t ngx_http_aiq_key_shown(ngx_http_request_t *r);
ngx_uint_t ngx_http_aiq_jwt_wanted(ngx_http_request_t *r);
/* when the token that has let the request in ends; 0: there is none */
time_t ngx_http_aiq_jwt_expires(ngx_http_request_t *r);

/* ngx_http_aiq_role.c */

/* a bit for each role; 0: there is no such role */
ngx_uint_t ngx_http_aiq_role_bit(ngx_str_t *name);

/* ngx_http_aiq_check.c */

void ngx_http_aiq_check_init_process(ngx_http_aiq_main_conf_t *amcf);
/* NULL, or why the link must be closed */
const char *ngx_http_aiq_check_verdict(ngx_http_aiq_check_t *check,
    ngx_http_aiq_event_t *ev);
/* broken: the engine broke a rule; else it is gone, its successor is asked */
void ngx_http_aiq_check_lost(ngx_http_aiq_check_t *check, ngx_uint_t broken);
/* questions that wait for a link, or for room on it, are asked */
void ngx_http_aiq_check_ask_parked(void);
ngx_uint_t ngx_http_aiq_check_parked(void);
/* the engine has named its epoch of keys */
void ngx_http_aiq_check_epoch(uint32_t epoch);
/* the engine was lost: what is remembered holds no more */
void ngx_http_aiq_check_forget(void);

/* ngx_http_aiq_question.c */

/*
 * NGX_AGAIN: the phases are run again when q->answer is there, and until then
 * q stays where it is; NGX_DECLINED: there is nobody to ask.  keys: for
 * AIQ_FIELD_RATE_KEYS.
 */
ngx_int_t ngx_http_aiq_question_ask(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_http_aiq_question_t *q, ngx_uint_t location,
    u_char *keys, size_t len);
/* NULL, or why the link must be closed */
const char *ngx_http_aiq_question_answer(ngx_http_aiq_question_t *q,
    ngx_http_aiq_event_t *ev);
/* its link is gone */
void ngx_http_aiq_question_lost(ngx_http_aiq_question_t *q);
/* those that wait for room on the link are asked */
void ngx_http_aiq_question_ask_parked(void);
ngx_uint_t ngx_http_aiq_question_parked(void);
void ngx_http_aiq_question_init_process(void);

/* ngx_http_aiq_error.c */

ngx_int_t ngx_http_aiq_refuse(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason);
/* the word for clients, logs and metrics */
ngx_str_t *ngx_http_aiq_reason_code(ngx_uint_t reason);
void ngx_http_aiq_set_failure(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_reason_e reason);
ngx_int_t ngx_http_aiq_fail(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx);
/*
 * What a handler before the CONTENT phase returns to refuse, in any location:
 * where nothing is passed, the reply is an envelope too, not nginx's page.
 */
ngx_int_t ngx_http_aiq_fail_anywhere(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx);
/*
 * What an access handler that refuses returns, and what its caller reads; with
 * "satisfy any" it counts only if no other one lets the request pass.
 */
ngx_int_t ngx_http_aiq_deny(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *code, ngx_str_t *message);
/* "event", as the client's dialect has it */
ngx_int_t ngx_http_aiq_error_event(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, ngx_str_t *event);
/* a whole reply of the module's own; what to finalize the request with */
ngx_int_t ngx_http_aiq_send(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t status, char *type, ngx_str_t *body);
ngx_int_t ngx_http_aiq_add_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value);
ngx_int_t ngx_http_aiq_filter_init(ngx_conf_t *cf);

/* ngx_http_aiq_trace.c */

ngx_http_aiq_ctx_t *ngx_http_aiq_get_ctx(ngx_http_request_t *r);
/* the same, but made where there is none; NULL: no memory */
ngx_http_aiq_ctx_t *ngx_http_aiq_need_ctx(ngx_http_request_t *r);

/* ngx_http_aiq_budget.c */

char *ngx_http_aiq_budget(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
u_char *ngx_http_aiq_budget_document(u_char *p, ngx_array_t *budgets);
/* up to nine decimals, exactly */
ngx_int_t ngx_http_aiq_budget_dollars(ngx_str_t *value, int64_t *nano);

/* ngx_http_aiq_charge.c */

char *ngx_http_aiq_charge(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
/* when "pass" and "budgets" are merged */
char *ngx_http_aiq_charge_merge(ngx_conf_t *cf, ngx_http_aiq_loc_conf_t *prev,
    ngx_http_aiq_loc_conf_t *conf);
/* has a limit of tokens something to count here? */
ngx_uint_t ngx_http_aiq_charge_has_tokens(ngx_http_aiq_loc_conf_t *conf);
ngx_int_t ngx_http_aiq_charge_init(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);

/* ngx_http_aiq_phase.c */

/* NGX_AGAIN: the request stays in its phase, and ends if its client leaves */
ngx_int_t ngx_http_aiq_phase_wait(ngx_http_request_t *r);
/* it goes through its phases again, and may be gone on return */
void ngx_http_aiq_phase_resume(ngx_http_request_t *r);

/* ngx_http_aiq_cache.c */

char *ngx_http_aiq_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_aiq_cache_check(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
u_char *ngx_http_aiq_cache_document(u_char *p,
    ngx_http_aiq_semantic_t *semantic);

/* ngx_http_aiq_health.c */

char *ngx_http_aiq_health(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* ngx_http_aiq_metrics.c */

char *ngx_http_aiq_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_aiq_metrics_init(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
/* a zone that is one block of zeroes, which lives on over reloads */
ngx_int_t ngx_http_aiq_init_counters(ngx_shm_zone_t *shm_zone, void *data,
    size_t size);
void ngx_http_aiq_metrics_init_process(ngx_http_aiq_main_conf_t *amcf);
void ngx_http_aiq_count_refused(ngx_http_aiq_reason_e reason);
void ngx_http_aiq_count_reconnect(void);
void ngx_http_aiq_count_jobs(ngx_int_t n);
void ngx_http_aiq_count_websockets(ngx_int_t n);
void ngx_http_aiq_count_message(ngx_uint_t sent);
/* 1006: without a Close */
void ngx_http_aiq_count_close(ngx_uint_t code);

/* ngx_http_aiq_limit_module.c */

/* of a location, for the policy document: limits that the engine counts */
size_t ngx_http_aiq_limit_document_len(ngx_array_t *limits);
u_char *ngx_http_aiq_limit_document(u_char *p, ngx_array_t *limits);
/* ngx_http_aiq_limit_metrics.c */

/* the engine has failed the request: was it by a limit of tokens? */
void ngx_http_aiq_limit_relayed(ngx_http_aiq_ctx_t *ctx);
/* families of metrics */
ngx_int_t ngx_http_aiq_limit_metrics(ngx_http_request_t *r, ngx_str_t *text);

/* ngx_http_aiq_limit_handler.c */

/* the keys of these limits, for AIQ_FIELD_LIMIT_KEYS; NGX_ERROR: no memory */
ngx_int_t ngx_http_aiq_limit_keys(ngx_http_request_t *r, u_char *keys,
    ngx_uint_t *n);


extern ngx_module_t  ngx_http_aiq_module;


#endif /* _NGX_HTTP_AIQ_H_INCLUDED_ */
