
/*
 * "aiq_charge" for those who carry its job: ngx_http_aiq_job.c and the link
 * know it as a context of its own, with "charging" set.
 */

#ifndef _NGX_HTTP_AIQ_CHARGE_H_INCLUDED_
#define _NGX_HTTP_AIQ_CHARGE_H_INCLUDED_


#include "ngx_http_aiq.h"


struct ngx_http_aiq_charge_s {
    aiq_charge                 fixed;
    ngx_http_complex_value_t   values[2];    /* added to it */
    ngx_uint_t                 nvalues;
    u_char                    *file;
    ngx_uint_t                 line;
    unsigned                   off:1;
};


/* beside the request's own context and job */

struct ngx_http_aiq_charge_ctx_s {
    ngx_http_aiq_ctx_t         ctx;          /* must be first */
    aiq_charge                 sum;
    unsigned                   waiting:1;    /* for the engine's answer */
    unsigned                   refused:1;
};


/* a parked one, when the link is there */
void ngx_http_aiq_charge_start(ngx_http_aiq_ctx_t *ctx);
/* NULL, or why the link must be closed */
const char *ngx_http_aiq_charge_head(ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_event_t *ev);
/* its job has the engine's answer, or has failed */
void ngx_http_aiq_charge_run(ngx_http_aiq_ctx_t *ctx);


#endif /* _NGX_HTTP_AIQ_CHARGE_H_INCLUDED_ */
