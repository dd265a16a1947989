
#include "ngx_http_aiq.h"


/*
 * A question to the engine before content: may the request go on?  It waits in
 * its phase meanwhile, and who leaves takes his question back.
 *
 * Nobody waits for an engine: where there is none at the moment, or it has no
 * answer, the request goes by what its asker knows itself.  One that is only
 * so busy that the ring has no room is waited for as for its answer.
 */


#define NGX_HTTP_AIQ_QUESTION_TIMEOUT  500   /* ms; the engine's own are less */
#define NGX_HTTP_AIQ_QUESTION_PARKED   1024


static size_t ngx_http_aiq_question_fields(u_char *buf,
    ngx_http_aiq_ctx_t *ctx, ngx_uint_t location, u_char *keys, size_t len);
static ngx_int_t ngx_http_aiq_question_park(ngx_http_aiq_question_t *q,
    u_char *data, size_t len);
static void ngx_http_aiq_question_unpark(ngx_http_aiq_question_t *q);
static void ngx_http_aiq_question_cleanup(void *data);
static void ngx_http_aiq_question_done(ngx_http_aiq_question_t *q);
static void ngx_http_aiq_question_timeout_handler(ngx_event_t *ev);
static void ngx_http_aiq_question_resume_handler(ngx_event_t *ev);


/* a worker's */

static ngx_queue_t  ngx_http_aiq_questions_parked;
static ngx_uint_t   ngx_http_aiq_questions_nparked;
static ngx_queue_t  ngx_http_aiq_questions_done;
static ngx_event_t  ngx_http_aiq_question_resume_event;


ngx_int_t
ngx_http_aiq_question_ask(ngx_http_request_t *r, ngx_http_aiq_ctx_t *ctx,
    ngx_http_aiq_question_t *q, ngx_uint_t location, u_char *keys, size_t len)
{
    u_char               buf[AIQ_CHECK_MAX];
    size_t               n;
    ngx_int_t            rc;
    ngx_http_cleanup_t  *cln;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(q, sizeof(ngx_http_aiq_question_t));

    q->request = r;
    q->answer.status = NGX_HTTP_SERVICE_UNAVAILABLE;
    q->timeout.handler = ngx_http_aiq_question_timeout_handler;
    q->timeout.data = q;
    q->timeout.log = r->connection->log;

    n = ngx_http_aiq_question_fields(buf, ctx, location, keys, len);

    rc = ngx_http_aiq_link_ask(q, buf, n);

    if (rc == NGX_BUSY) {
        rc = ngx_http_aiq_question_park(q, buf, n);
    }

    if (rc != NGX_OK) {
        return NGX_DECLINED;
    }

    q->waiting = 1;

    cln->handler = ngx_http_aiq_question_cleanup;
    cln->data = q;

    ngx_add_timer(&q->timeout, NGX_HTTP_AIQ_QUESTION_TIMEOUT);

    return ngx_http_aiq_phase_wait(r);
}


static size_t
ngx_http_aiq_question_fields(u_char *buf, ngx_http_aiq_ctx_t *ctx,
    ngx_uint_t location, u_char *keys, size_t len)
{
    u_char    *p;
    aiq_ask    ask;

    ngx_memzero(&ask, sizeof(aiq_ask));
    ask.location = (uint32_t) location;

    p = ngx_cpymem(buf, &ask, sizeof(aiq_ask));

    p = aiq_field_put(p, AIQ_FIELD_REQUEST_ID, ctx->request_id.data,
                      (uint16_t) ctx->request_id.len);
    p = aiq_field_put(p, AIQ_FIELD_RATE_KEYS, keys, (uint16_t) len);

    return p - buf;
}


static ngx_int_t
ngx_http_aiq_question_park(ngx_http_aiq_question_t *q, u_char *data,
    size_t len)
{
    if (ngx_http_aiq_questions_nparked == NGX_HTTP_AIQ_QUESTION_PARKED) {
        return NGX_BUSY;
    }

    q->fields.len = len;
    q->fields.data = ngx_pnalloc(q->request->pool, len);
    if (q->fields.data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(q->fields.data, data, len);

    ngx_queue_insert_tail(&ngx_http_aiq_questions_parked, &q->queue);
    ngx_http_aiq_questions_nparked++;
    q->parked = 1;

    return NGX_OK;
}


static void
ngx_http_aiq_question_unpark(ngx_http_aiq_question_t *q)
{
    ngx_queue_remove(&q->queue);
    ngx_http_aiq_questions_nparked--;
    q->parked = 0;
}


ngx_uint_t
ngx_http_aiq_question_parked(void)
{
    return ngx_http_aiq_questions_nparked;
}


/* the oldest first, while there is room */

void
ngx_http_aiq_question_ask_parked(void)
{
    ngx_int_t                 rc;
    ngx_http_aiq_question_t  *q;

    while (!ngx_queue_empty(&ngx_http_aiq_questions_parked)) {

        q = ngx_queue_data(ngx_queue_head(&ngx_http_aiq_questions_parked),
                           ngx_http_aiq_question_t, queue);

        rc = ngx_http_aiq_link_ask(q, q->fields.data, q->fields.len);

        if (rc == NGX_BUSY) {
            return;
        }

        ngx_http_aiq_question_unpark(q);

        if (rc != NGX_OK) {
            ngx_http_aiq_question_done(q);
        }
    }
}


static void
ngx_http_aiq_question_cleanup(void *data)
{
    ngx_http_aiq_question_t *q = data;

    ngx_http_aiq_ctx_t  *ctx;

    if (!q->waiting) {
        return;
    }

    q->waiting = 0;

    ctx = ngx_http_aiq_get_ctx(q->request);
    ngx_str_set(&ctx->status, "client_closed");

    if (q->timeout.timer_set) {
        ngx_del_timer(&q->timeout);
    }

    if (q->link) {
        ngx_http_aiq_link_unask(q, 0);

    } else if (q->parked) {
        ngx_http_aiq_question_unpark(q);

    } else {
        ngx_queue_remove(&q->queue);
    }
}


const char *
ngx_http_aiq_question_answer(ngx_http_aiq_question_t *q,
    ngx_http_aiq_event_t *ev)
{
    u_char                  buf[AIQ_CHECK_MAX];
    const char             *why;
    ngx_http_aiq_answer_t   answer;

    ngx_memcpy(buf, ev->data, ev->len);

    why = ngx_http_aiq_frames_answer(buf, ev->len, &answer);

    if (why) {
        return why;
    }

    q->answer = answer;

    ngx_http_aiq_link_unask(q, 1);
    ngx_http_aiq_question_done(q);

    return NULL;
}


void
ngx_http_aiq_question_lost(ngx_http_aiq_question_t *q)
{
    ngx_http_aiq_link_unask(q, 1);
    ngx_http_aiq_question_done(q);
}


static void
ngx_http_aiq_question_timeout_handler(ngx_event_t *ev)
{
    ngx_http_aiq_question_t  *q;

    q = ev->data;

    if (q->parked) {
        ngx_http_aiq_question_unpark(q);

    } else {
        ngx_http_aiq_link_unask(q, 0);
    }

    ngx_http_aiq_question_done(q);
}


/*
 * The request goes on once the link is in order again: it may take others of
 * its connection with it, and use the link itself.
 */

static void
ngx_http_aiq_question_done(ngx_http_aiq_question_t *q)
{
    if (q->timeout.timer_set) {
        ngx_del_timer(&q->timeout);
    }

    ngx_queue_insert_tail(&ngx_http_aiq_questions_done, &q->queue);

    ngx_post_event(&ngx_http_aiq_question_resume_event, &ngx_posted_events);
}


static void
ngx_http_aiq_question_resume_handler(ngx_event_t *ev)
{
    ngx_queue_t              *queue;
    ngx_http_aiq_question_t  *q;

    while (!ngx_queue_empty(&ngx_http_aiq_questions_done)) {

        queue = ngx_queue_head(&ngx_http_aiq_questions_done);
        q = ngx_queue_data(queue, ngx_http_aiq_question_t, queue);

        ngx_queue_remove(queue);
        q->waiting = 0;

        ngx_http_aiq_phase_resume(q->request);
    }
}


void
ngx_http_aiq_question_init_process(void)
{
    ngx_event_t  *ev;

    ngx_queue_init(&ngx_http_aiq_questions_parked);
    ngx_queue_init(&ngx_http_aiq_questions_done);

    ev = &ngx_http_aiq_question_resume_event;

    ev->handler = ngx_http_aiq_question_resume_handler;
    ev->log = ngx_cycle->log;
}
