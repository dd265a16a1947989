
#include "ngx_http_aiq_link.h"
#include "ngx_http_aiq_ws.h"

#include <sys/mman.h>


/*
 * A turn takes many frames in, which costs little, and runs few requests, which
 * mostly costs a write each, in the order in which they got something to do.
 * So where more comes than can be written, it is the frames of a request that
 * gather behind its turn, and go out together; not the ring that fills.
 */

#define NGX_HTTP_AIQ_FRAMES  4096
#define NGX_HTTP_AIQ_RUNS    256


static void ngx_http_aiq_link_read_handler(ngx_event_t *rev);
static ngx_int_t ngx_http_aiq_link_drain_socket(ngx_http_aiq_link_t *link);
static ngx_int_t ngx_http_aiq_link_process(ngx_http_aiq_link_t *link,
    ngx_uint_t max);
static void ngx_http_aiq_link_event(ngx_http_aiq_link_t *link,
    ngx_http_aiq_event_t *ev);
static void ngx_http_aiq_link_notice(ngx_http_aiq_link_t *link,
    ngx_http_aiq_event_t *ev);
static void ngx_http_aiq_link_leave_jobs(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_mark(ngx_http_aiq_link_t *link,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_link_run_dirty(ngx_http_aiq_link_t *link,
    ngx_uint_t max);
static ngx_int_t ngx_http_aiq_link_settle(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_wake(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_push_waiting(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_work_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_lost(ngx_http_aiq_link_t *link,
    const char *why);
static ngx_int_t ngx_http_aiq_link_question(void *owner, aiq_frame_type type,
    aiq_frame_type answer, u_char *data, size_t len,
    ngx_http_aiq_link_t **out, uint32_t *slot);

static ngx_int_t ngx_http_aiq_slot_get(ngx_http_aiq_link_t *link,
    uint32_t *slot);
static void ngx_http_aiq_slot_close(ngx_http_aiq_link_t *link, uint32_t slot,
    ngx_uint_t ended);
static void ngx_http_aiq_slot_free(ngx_http_aiq_link_t *link, uint32_t slot);
static void ngx_http_aiq_slot_wait(ngx_http_aiq_link_t *link, uint32_t slot);


void
ngx_http_aiq_link_start(ngx_http_aiq_link_t *link)
{
    ngx_connection_t  *c;

    c = link->connection;

    aiq_ring_init(&link->frames.ring, link->mine, link->peer);
    link->open = 1;

    c->read->handler = ngx_http_aiq_link_read_handler;

    /* nginx closes what is idle when it leaves: so what has no end hears of it */
    c->idle = 1;

    link->work.handler = ngx_http_aiq_link_work_handler;
    link->work.data = c;
    link->work.log = c->log;

    /*
     * arms the ring; the engine may have spoken already, or gone: of what came
     * with its welcome there is no other event
     */

    ngx_post_event(c->read, &ngx_posted_events);
}


static void
ngx_http_aiq_link_read_handler(ngx_event_t *rev)
{
    ngx_int_t             rc;
    ngx_connection_t     *c;
    ngx_http_aiq_link_t  *link;

    c = rev->data;
    link = c->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, rev->log, 0, "http aiq link, jobs:%ui",
                   link->jobs);

    if (c->close) {
        c->close = 0;
        ngx_http_aiq_link_leave_jobs(link);
    }

    rc = ngx_http_aiq_link_drain_socket(link);

    if (rc == NGX_ERROR) {

        /* what the engine has said before its end counts */

        link->closing = 1;

        (void) ngx_http_aiq_link_process(link,
                                         AIQ_RING_SIZE / sizeof(aiq_frame));
        ngx_http_aiq_link_lost(link, "the engine has gone");
        return;
    }

    if (ngx_http_aiq_link_process(link, NGX_HTTP_AIQ_FRAMES) == NGX_AGAIN
        || ngx_http_aiq_link_settle(link) == NGX_AGAIN
        || rc == NGX_AGAIN)
    {
        /* others first; nobody will wake us for what is there already */
        ngx_post_event(rev, &ngx_posted_next_events);
    }

    if (link->frames.ring.broken) {
        ngx_http_aiq_link_lost(link, link->frames.broken);
        return;
    }

    if (link->draining && link->jobs == 0 && link->waiting == 0) {
        ngx_http_aiq_link_close(link);
    }
}


/* NGX_OK, NGX_AGAIN: the engine floods us, NGX_ERROR: it has gone */

static ngx_int_t
ngx_http_aiq_link_drain_socket(ngx_http_aiq_link_t *link)
{
    char         buf[64];
    ssize_t      n;
    ngx_err_t    err;
    ngx_uint_t   i;

    for (i = 0; i < 16; i++) {

        n = recv(link->connection->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n == 0) {
            return NGX_ERROR;
        }

        if (n == -1) {
            err = ngx_socket_errno;

            if (err == NGX_EINTR) {
                continue;
            }

            link->connection->read->ready = 0;

            return err == NGX_EAGAIN
                   ? ngx_handle_read_event(link->connection->read, 0)
                   : NGX_ERROR;
        }
    }

    return NGX_AGAIN;
}


/* NGX_AGAIN: there may be more */

static ngx_int_t
ngx_http_aiq_link_process(ngx_http_aiq_link_t *link, ngx_uint_t max)
{
    int                   rc;
    ngx_uint_t            i;
    ngx_http_aiq_event_t  ev;

    rc = 0;

    for (i = 0; i < max && !link->frames.ring.broken; i++) {

        rc = ngx_http_aiq_frames_next(&link->frames, &ev);

        if (rc <= 0) {
            break;
        }

        ngx_http_aiq_link_event(link, &ev);
    }

    ngx_http_aiq_link_run_dirty(link, NGX_HTTP_AIQ_RUNS);

    return (rc > 0 || !ngx_queue_empty(&link->dirty)) ? NGX_AGAIN : NGX_OK;
}


static void
ngx_http_aiq_link_event(ngx_http_aiq_link_t *link, ngx_http_aiq_event_t *ev)
{
    const char          *why;
    ngx_http_aiq_ctx_t  *ctx;

    if (ev->type == AIQ_FRAME_NOTICE) {
        ngx_http_aiq_link_notice(link, ev);
        return;
    }

    if (ev->type == AIQ_FRAME_VERDICT || ev->type == AIQ_FRAME_ANSWER) {
        why = (ev->type == AIQ_FRAME_VERDICT)
              ? ngx_http_aiq_check_verdict(ev->job, ev)
              : ngx_http_aiq_question_answer(ev->job, ev);

        if (why) {
            link->frames.ring.broken = 1;
            link->frames.broken = why;
        }

        return;
    }

    ctx = ev->job;

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "http aiq frame %d of slot %uD, %uD bytes, flags %d",
                   (int) ev->type, ev->slot, ev->len, (int) ev->flags);

    why = ngx_http_aiq_job_event(ctx, ev);

    if (why) {
        link->frames.ring.broken = 1;
        link->frames.broken = why;
        return;
    }

    ngx_http_aiq_link_mark(link, ctx);
}


static void
ngx_http_aiq_link_notice(ngx_http_aiq_link_t *link, ngx_http_aiq_event_t *ev)
{
    if (link->draining) {
        return;
    }

    if (ev->number == AIQ_NOTICE_EPOCH) {
        ngx_http_aiq_check_epoch(ev->epoch);
        return;
    }

    if (ev->number != AIQ_NOTICE_DRAIN) {
        return;
    }

    /* it wants to leave: its successor gets what comes from now on */

    ngx_log_error(NGX_LOG_NOTICE, link->connection->log, 0,
                  "aiq: the engine is leaving, %ui requests go on with it",
                  link->jobs);

    link->draining = 1;

    ngx_http_aiq_link_leave(link);
    ngx_http_aiq_link_leave_jobs(link);
}


static void
ngx_http_aiq_link_leave_jobs(ngx_http_aiq_link_t *link)
{
    uint32_t              i;
    ngx_http_aiq_ctx_t   *ctx;
    ngx_http_aiq_slot_t  *slot;

    for (i = 0; i < link->frames.nslots; i++) {
        slot = &link->frames.slots[i];

        if (slot->job == NULL || slot->answer) {
            continue;
        }

        if (slot->websocket) {
            ngx_http_aiq_ws_leave(slot->job);
            continue;
        }

        ctx = slot->job;

        if (ctx->job.endless) {
            ngx_http_aiq_link_mark(link, ctx);
        }
    }
}


static void
ngx_http_aiq_link_mark(ngx_http_aiq_link_t *link, ngx_http_aiq_ctx_t *ctx)
{
    if (!ctx->job.dirty) {
        ctx->job.dirty = 1;
        ngx_queue_insert_tail(&link->dirty, &ctx->job.queue);
    }
}


static void
ngx_http_aiq_link_run_dirty(ngx_http_aiq_link_t *link, ngx_uint_t max)
{
    ngx_uint_t           i;
    ngx_queue_t         *q;
    ngx_http_aiq_ctx_t  *ctx;

    for (i = 0; i < max && !ngx_queue_empty(&link->dirty); i++) {
        q = ngx_queue_head(&link->dirty);
        ctx = (ngx_http_aiq_ctx_t *)
                  ((u_char *) q - offsetof(ngx_http_aiq_ctx_t, job.queue));

        ngx_queue_remove(q);
        ctx->job.dirty = 0;

        if (ctx->job.link && (link->closing || link->frames.ring.broken)) {
            /* it will fail at once, maybe with nothing sent yet */
            continue;
        }

        ngx_http_aiq_job_run(ctx);
    }
}


/*
 * Shows the engine what we have written and read, and prepares to sleep.
 * NGX_AGAIN: it has gone on meanwhile, don't.
 */

static ngx_int_t
ngx_http_aiq_link_settle(ngx_http_aiq_link_t *link)
{
    aiq_ring    *ring;
    ngx_int_t    rc;
    ngx_uint_t   wake;

    ring = &link->frames.ring;
    rc = NGX_OK;

    if (link->waiting) {
        ngx_http_aiq_link_push_waiting(link);
    }

    if (link->waiting == 0) {
        ngx_http_aiq_link_resume(link);
    }

    wake = aiq_ring_publish(ring);
    wake |= aiq_ring_release(ring);

    if (wake) {
        ngx_http_aiq_link_wake(link);
    }

    if (!aiq_ring_arm(ring)) {
        rc = NGX_AGAIN;
    }

    if ((link->waiting || ngx_http_aiq_link_parked())
        && !aiq_ring_arm_space(ring))
    {
        rc = NGX_AGAIN;
    }

    return rc;
}


static void
ngx_http_aiq_link_wake(ngx_http_aiq_link_t *link)
{
    /* EAGAIN: there are wakes enough; the socket's end the read handler sees */

    (void) send(link->connection->fd, "", 1, MSG_DONTWAIT|MSG_NOSIGNAL);
}


static void
ngx_http_aiq_link_push_waiting(ngx_http_aiq_link_t *link)
{
    uint32_t              n;
    ngx_http_aiq_slot_t  *slot;

    while (link->waiting) {

        n = link->waiting - 1;
        slot = &link->frames.slots[n];

        if (slot->job) {
            if (ngx_http_aiq_job_push(slot->job) == NGX_AGAIN) {
                return;
            }

        } else if (slot->cancel) {
            if (aiq_ring_push(&link->frames.ring, AIQ_FRAME_CANCEL, 0, n,
                              slot->generation, 0)
                == NULL)
            {
                return;
            }
        }

        link->waiting = slot->next;
        slot->waiting = 0;
        slot->next = 0;

        if (slot->job == NULL) {
            slot->cancel = 0;
            ngx_http_aiq_slot_free(link, n);
        }
    }
}


/* Once a turn of the event loop, so that many requests share one wake. */

static void
ngx_http_aiq_link_work_handler(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_http_aiq_link_t  *link;

    c = ev->data;
    link = c->data;

    ngx_http_aiq_link_run_dirty(link, NGX_HTTP_AIQ_RUNS);

    if (ngx_http_aiq_link_settle(link) == NGX_AGAIN
        || !ngx_queue_empty(&link->dirty))
    {
        ngx_post_event(c->read, &ngx_posted_next_events);
    }

    if (link->frames.ring.broken) {
        ngx_http_aiq_link_lost(link, link->frames.broken);
        return;
    }

    if (link->draining && link->jobs == 0 && link->waiting == 0) {
        ngx_http_aiq_link_close(link);
    }
}


static void
ngx_http_aiq_link_lost(ngx_http_aiq_link_t *link, const char *why)
{
    ngx_log_error(NGX_LOG_ERR, link->connection->log, 0,
                  "aiq: link to the engine closed with %ui requests on it: %s",
                  link->jobs, why ? why : "it reads more than there is");

    ngx_http_aiq_link_close(link);
}


void
ngx_http_aiq_link_close(ngx_http_aiq_link_t *link)
{
    uint32_t              i;
    ngx_http_aiq_slot_t  *slot;

    ngx_queue_remove(&link->queue);
    link->closing = 1;

    ngx_http_aiq_link_run_dirty(link, NGX_MAX_UINT32_VALUE);

    if (link->open && !link->draining) {
        ngx_http_aiq_check_forget();
    }

    ngx_http_aiq_link_leave(link);

    /* any of them may take others of its client's connection with it */

    for (i = 0; i < link->frames.nslots; i++) {
        slot = &link->frames.slots[i];

        if (slot->job && slot->answer == AIQ_FRAME_VERDICT) {
            ngx_http_aiq_check_lost(slot->job, link->frames.ring.broken);

        } else if (slot->job && slot->answer) {
            ngx_http_aiq_question_lost(slot->job);

        } else if (slot->job) {
            ngx_http_aiq_job_lost(slot->job);
        }
    }

    ngx_http_aiq_link_free(link);
}


void
ngx_http_aiq_link_free(ngx_http_aiq_link_t *link)
{
    if (link->timeout.timer_set) {
        ngx_del_timer(&link->timeout);
    }

    if (link->work.posted) {
        ngx_delete_posted_event(&link->work);
    }

    ngx_close_connection(link->connection);

    munmap(link->mine, AIQ_MAP_SIZE);

    if (link->peer) {
        munmap(link->peer, AIQ_MAP_SIZE);
    }

    if (link->frames.slots) {
        ngx_free(link->frames.slots);
    }

    ngx_free(link);
}


ngx_int_t
ngx_http_aiq_link_attach(ngx_http_aiq_ctx_t *ctx)
{
    uint32_t              n;
    ngx_http_aiq_link_t  *link;

    link = ngx_http_aiq_link_current();

    if (link == NULL) {
        return NGX_DECLINED;
    }

    if (ngx_http_aiq_link_crowded()) {
        return NGX_BUSY;
    }

    if (ngx_http_aiq_slot_get(link, &n) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_aiq_frames_open(&link->frames, n, ctx);

    ctx->job.link = link;
    ctx->job.slot = n;
    ctx->job.credit = AIQ_WINDOW;

    link->jobs++;
    ngx_http_aiq_count_jobs(1);

    return NGX_OK;
}


void
ngx_http_aiq_link_detach(ngx_http_aiq_ctx_t *ctx, ngx_uint_t ended)
{
    ngx_http_aiq_link_t  *link;

    link = ctx->job.link;
    ctx->job.link = NULL;

    ngx_http_aiq_count_jobs(-1);
    ngx_http_aiq_slot_close(link, ctx->job.slot, ended);
}


ngx_int_t
ngx_http_aiq_link_check(ngx_http_aiq_check_t *check)
{
    u_char  data[4 + sizeof(check->digest)];

    (void) aiq_field_put(data, AIQ_FIELD_KEY_HASH, check->digest,
                         sizeof(check->digest));

    return ngx_http_aiq_link_question(check, AIQ_FRAME_CHECK,
                                      AIQ_FRAME_VERDICT, data, sizeof(data),
                                      &check->link, &check->slot);
}


ngx_int_t
ngx_http_aiq_link_ask(ngx_http_aiq_question_t *q, u_char *data, size_t len)
{
    return ngx_http_aiq_link_question(q, AIQ_FRAME_ASK, AIQ_FRAME_ANSWER,
                                      data, len, &q->link, &q->slot);
}


static ngx_int_t
ngx_http_aiq_link_question(void *owner, aiq_frame_type type,
    aiq_frame_type answer, u_char *data, size_t len,
    ngx_http_aiq_link_t **out, uint32_t *slot)
{
    u_char               *p;
    uint32_t              n;
    ngx_http_aiq_link_t  *link;

    link = ngx_http_aiq_link_current();

    if (link == NULL) {
        return NGX_DECLINED;
    }

    if (ngx_http_aiq_slot_get(link, &n) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_aiq_frames_ask(&link->frames, n, owner, answer);
    link->jobs++;

    p = aiq_ring_push(&link->frames.ring, type, 0, n,
                      link->frames.slots[n].generation, (uint32_t) len);

    if (p == NULL) {
        ngx_http_aiq_slot_close(link, n, 1);
        return NGX_BUSY;
    }

    ngx_memcpy(p, data, len);

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }

    *out = link;
    *slot = n;

    return NGX_OK;
}


void
ngx_http_aiq_link_uncheck(ngx_http_aiq_check_t *check, ngx_uint_t ended)
{
    ngx_http_aiq_link_t  *link;

    link = check->link;
    check->link = NULL;

    ngx_http_aiq_slot_close(link, check->slot, ended);
}


void
ngx_http_aiq_link_unask(ngx_http_aiq_question_t *q, ngx_uint_t ended)
{
    ngx_http_aiq_link_t  *link;

    link = q->link;
    q->link = NULL;

    ngx_http_aiq_slot_close(link, q->slot, ended);
}


static void
ngx_http_aiq_slot_close(ngx_http_aiq_link_t *link, uint32_t n,
    ngx_uint_t ended)
{
    ngx_http_aiq_slot_t  *slot;

    ngx_http_aiq_frames_close(&link->frames, n);
    link->jobs--;

    slot = &link->frames.slots[n];

    if (link->closing) {
        return;
    }

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }

    if (!ended
        && (slot->waiting
            || aiq_ring_push(&link->frames.ring, AIQ_FRAME_CANCEL, 0, n,
                             slot->generation, 0)
               == NULL))
    {
        slot->cancel = 1;
        ngx_http_aiq_slot_wait(link, n);
    }

    if (!slot->waiting) {
        ngx_http_aiq_slot_free(link, n);
    }
}


/*
 * NULL: the ring has no room.  Then nothing is posted: the work handler itself
 * tries again what waits, and would never come to an end.
 */

u_char *
ngx_http_aiq_link_push(ngx_http_aiq_ctx_t *ctx, aiq_frame_type type,
    ngx_uint_t flags, size_t len)
{
    u_char               *p;
    uint32_t              n;
    aiq_ring             *ring;
    ngx_http_aiq_link_t  *link;

    link = ctx->job.link;
    ring = &link->frames.ring;
    n = ctx->job.slot;

    if (aiq_ring_due(ring) && aiq_ring_publish(ring)) {
        ngx_http_aiq_link_wake(link);
    }

    p = aiq_ring_push(ring, type, (uint8_t) flags, n,
                      link->frames.slots[n].generation, (uint32_t) len);

    if (p && !link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }

    return p;
}


ngx_uint_t
ngx_http_aiq_link_room(ngx_http_aiq_ctx_t *ctx, size_t len)
{
    uint32_t  need;

    /* with a filler up to the wrap, which is shorter */

    need = 2 * aiq_frame_span((uint32_t) len);

    return aiq_ring_room(&ctx->job.link->frames.ring, need) >= need;
}


uint32_t
ngx_http_aiq_link_tail(ngx_http_aiq_ctx_t *ctx)
{
    return ctx->job.link->frames.ring.tail;
}


/* Takes back what was pushed since and is not published. */

void
ngx_http_aiq_link_unpush(ngx_http_aiq_ctx_t *ctx, uint32_t tail)
{
    ctx->job.link->frames.ring.tail = tail;
}


/* Has ngx_http_aiq_job_run() called at the end of this turn. */

void
ngx_http_aiq_link_dirty(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_link_t  *link;

    link = ctx->job.link;

    ngx_http_aiq_link_mark(link, ctx);

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }
}


void
ngx_http_aiq_link_wait(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_slot_wait(ctx->job.link, ctx->job.slot);
}


void
ngx_http_aiq_link_upgrade(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_frames_upgrade(&ctx->job.link->frames, ctx->job.slot);
}


void
ngx_http_aiq_link_granted(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_frames_granted(&ctx->job.link->frames, ctx->job.slot);
}


ngx_uint_t
ngx_http_aiq_link_leaving(ngx_http_aiq_ctx_t *ctx)
{
    return ngx_exiting || (ctx->job.link && ctx->job.link->draining);
}


void
ngx_http_aiq_link_consumed(ngx_http_aiq_ctx_t *ctx, size_t n)
{
    uint32_t                grant;
    ngx_http_aiq_job_t     *job;
    ngx_http_aiq_slot_t    *slot;
    ngx_http_aiq_frames_t  *frames;

    job = &ctx->job;
    frames = &job->link->frames;
    slot = &frames->slots[job->slot];

    ngx_http_aiq_frames_consumed(frames, job->slot, n);

    if (job->left >= 0 && job->left <= (off_t) slot->allowed) {
        /* what is yet to come is covered */
        return;
    }

    grant = ngx_http_aiq_frames_grant(frames, job->slot);

    if (grant) {
        job->grant += grant;

        if (!slot->waiting && ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
            ngx_http_aiq_slot_wait(job->link, job->slot);
        }
    }
}


/* The table grows as it is needed; 16,384 slots would be 800K. */

static ngx_int_t
ngx_http_aiq_slot_get(ngx_http_aiq_link_t *link, uint32_t *n)
{
    uint32_t               i, nslots;
    ngx_http_aiq_slot_t   *slots;
    ngx_http_aiq_frames_t *frames;

    frames = &link->frames;

    if (link->free == 0) {

        nslots = frames->nslots ? frames->nslots * 2 : 64;

        if (nslots > AIQ_SLOTS) {
            return NGX_DECLINED;
        }

        slots = ngx_calloc(nslots * sizeof(ngx_http_aiq_slot_t),
                           link->connection->log);
        if (slots == NULL) {
            return NGX_ERROR;
        }

        if (frames->slots) {
            ngx_memcpy(slots, frames->slots,
                       frames->nslots * sizeof(ngx_http_aiq_slot_t));
            ngx_free(frames->slots);
        }

        frames->slots = slots;

        /* the first of them on top */

        for (i = nslots; i > frames->nslots; i--) {
            ngx_http_aiq_slot_free(link, i - 1);
        }

        frames->nslots = nslots;
    }

    *n = link->free - 1;
    link->free = frames->slots[*n].next;
    frames->slots[*n].next = 0;

    return NGX_OK;
}


static void
ngx_http_aiq_slot_free(ngx_http_aiq_link_t *link, uint32_t n)
{
    link->frames.slots[n].next = link->free;
    link->free = n + 1;
}


static void
ngx_http_aiq_slot_wait(ngx_http_aiq_link_t *link, uint32_t n)
{
    ngx_http_aiq_slot_t  *slots;

    slots = link->frames.slots;

    if (slots[n].waiting) {
        return;
    }

    slots[n].waiting = 1;
    slots[n].next = 0;

    if (link->waiting) {
        slots[link->last_waiting - 1].next = n + 1;

    } else {
        link->waiting = n + 1;
    }

    link->last_waiting = n + 1;

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }
}
