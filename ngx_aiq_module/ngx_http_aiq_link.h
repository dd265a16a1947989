
/*
 * What the two halves of the link share: ngx_http_aiq_connect.c finds the
 * engine and shakes hands, ngx_http_aiq_link.c carries frames from then on.
 */

#ifndef _NGX_HTTP_AIQ_LINK_H_INCLUDED_
#define _NGX_HTTP_AIQ_LINK_H_INCLUDED_


#include "ngx_http_aiq.h"


/*
 * A link to the engine.  It takes jobs while it is the worker's "current"
 * one; an older one, that the engine wants to be rid of, lives on until its
 * last job is done.
 *
 * A slot is in the list of free slots, or open, or waits with its CANCEL.
 */

struct ngx_http_aiq_link_s {
    ngx_http_aiq_frames_t      frames;
    ngx_connection_t          *connection;
    void                      *mine;         /* AIQ_MAP_SIZE bytes each */
    void                      *peer;
    ngx_event_t                work;         /* posted: push, publish */
    ngx_event_t                timeout;      /* of the handshake */
    ngx_queue_t                queue;
    ngx_queue_t                dirty;        /* jobs with something to do */
    uint32_t                   free;         /* slot + 1 */
    uint32_t                   waiting;      /* slot + 1, oldest first */
    uint32_t                   last_waiting;
    ngx_uint_t                 jobs;
    unsigned                   open:1;       /* the handshake is done */
    unsigned                   draining:1;
    unsigned                   closing:1;
};


/* ngx_http_aiq_connect.c */

/* the link that takes jobs, or NULL */
ngx_http_aiq_link_t *ngx_http_aiq_link_current(void);
/* what waits for a link, or for room on it, goes on as far as there is some */
void ngx_http_aiq_link_resume(ngx_http_aiq_link_t *link);
/* does anything wait for that? */
ngx_uint_t ngx_http_aiq_link_parked(void);
/* it takes none from now on; another is looked for */
void ngx_http_aiq_link_leave(ngx_http_aiq_link_t *link);

/* ngx_http_aiq_link.c */

/* after the handshake */
void ngx_http_aiq_link_start(ngx_http_aiq_link_t *link);
/* fails its jobs and frees it */
void ngx_http_aiq_link_close(ngx_http_aiq_link_t *link);
/* leaves its jobs as they are */
void ngx_http_aiq_link_free(ngx_http_aiq_link_t *link);


#endif /* _NGX_HTTP_AIQ_LINK_H_INCLUDED_ */
