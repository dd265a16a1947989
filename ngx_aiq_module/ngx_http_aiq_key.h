
/*
 * What the two halves of "aiq_key" share: ngx_http_aiq_key.c says what a key
 * opens, ngx_http_aiq_check.c finds out whose it is.
 */

#ifndef _NGX_HTTP_AIQ_KEY_H_INCLUDED_
#define _NGX_HTTP_AIQ_KEY_H_INCLUDED_


#include "ngx_http_aiq.h"
#include "ngx_http_aiq_auth_cache.h"


/* an answer, as it is remembered: this, then tenant, user, role and key id */

#define NGX_HTTP_AIQ_KEY_NO_ROOM  1          /* a status: the link was full */


typedef struct {
    uint64_t                    generation;
    int64_t                     expires_ms;
    uint32_t                    rate;
    uint16_t                    status;
    uint16_t                    len[4];
} ngx_http_aiq_key_answer_t;


#define NGX_HTTP_AIQ_KEY_ANSWER_MAX                                           \
    (sizeof(ngx_http_aiq_key_answer_t) + 4 * AIQ_IDENTITY_MAX)


/* a request that waits for one */

struct ngx_http_aiq_key_wait_s {
    ngx_queue_t                 queue;
    ngx_http_aiq_ctx_t         *ctx;
    ngx_str_t                   answer;      /* empty: no memory for it */
    ngx_uint_t                  waiting;     /* unsigned waiting:1 */
};


ngx_int_t ngx_http_aiq_check_init(ngx_conf_t *cf,
    ngx_http_aiq_main_conf_t *amcf);
/* NGX_OK: the answer is remembered, NGX_DECLINED: it must be asked for */
ngx_int_t ngx_http_aiq_check_recall(ngx_http_request_t *r, u_char *digest,
    ngx_str_t *answer);
/*
 * NGX_AGAIN: the phases are run again when ctx->key_wait has the answer,
 * NGX_DECLINED: there is no link to the engine, NGX_BUSY: no room on it
 */
ngx_int_t ngx_http_aiq_check_ask(ngx_http_request_t *r,
    ngx_http_aiq_ctx_t *ctx, u_char *digest);


#endif /* _NGX_HTTP_AIQ_KEY_H_INCLUDED_ */
