/* One link: frames in, frames out, its life. Jobs are in job.c. */

#include "link/link.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "core/log.h"
#include "link/counts.h"
#include "link/route.h"

/* While draining: how long a link without a job is kept for the worker to
 * close it. A worker that has read the notice opens nothing more on it. */
#define LEAVE_NS      1000000000ull
#define LEAVE_LOOK_MS 200

/* The end of links. */

static void count_out(aiq_link *l)
{
    link_end *end = l->end;

    metric_add(end->counts->workers, -1);
    if (end->on_close) {
        end->on_close(end->loop, end->on_close_arg);
    }
}

static void on_poll_closed(uv_handle_t *handle)
{
    free(handle);
}

/* Every job is gone; so goes the link. */
static void link_free(aiq_link *l)
{
    *l->prev = l->next;
    if (l->next) {
        l->next->prev = l->prev;
    }
    if (l->poll) {
        uv_close((uv_handle_t *)l->poll, on_poll_closed);
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    munmap(l->mine, AIQ_MAP_SIZE);
    munmap(l->peer, AIQ_MAP_SIZE);
    count_out(l);
    policy_unref(l->policy);
    free(l);
}

static void cancel_jobs(aiq_link *l)
{
    for (uint32_t i = 0; i < AIQ_SLOTS && l->n_jobs; i++) {
        if (l->slots[i]) {
            link_job_cancel(l->slots[i]);
        }
    }
}

void link_break(aiq_link *l, const char *why)
{
    if (l->broken == NULL) {
        l->broken = why;
        metric_add(l->end->counts->errors, 1);
        aiq_log(AIQ_LOG_WARN, "link", "worker broke the protocol, link closed",
                AIQ_S("reason", why), AIQ_I("pid", l->pid));
    }
}

static void on_peer_gone(aiq_link *l)
{
    aiq_log(l->admin ? AIQ_LOG_DEBUG : AIQ_LOG_INFO, "link",
            l->admin ? "operator gone" : "worker gone", AIQ_I("pid", l->pid),
            AIQ_I("jobs", l->n_jobs));
    cancel_jobs(l);
    link_free(l);
}

/* The socket: wake bytes, or the peer's end. */

static void on_socket(uv_poll_t *poll, int status, int events)
{
    aiq_link *l = poll->data;
    char bytes[64];
    ssize_t n = 1;

    (void)events;
    if (status < 0) {
        on_peer_gone(l);
        return;
    }
    /* A message is a byte; a worker that floods us gets its turn, not more. What
     * the bytes are about is seen when the ring is read, later in this turn. */
    for (int i = 0; i < 64 && n > 0; i++) {
        n = recv(l->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    }
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        on_peer_gone(l);
    }
}

static void wake_peer(aiq_link *l)
{
    if (l->fd >= 0) {
        /* EAGAIN: the socket is full of wakes. Its end: on_socket() will see. */
        ssize_t n = send(l->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n;
    }
}

aiq_link *link_open(link_end *end, const link_parts *parts)
{
    aiq_link *l = aiq_zalloc(sizeof(*l));

    l->end = end;
    l->mine = parts->mine;
    l->peer = parts->peer;
    l->fd = parts->fd;
    l->policy = parts->policy;
    l->pid = parts->pid;
    l->admin = parts->admin;
    l->last_waiting = &l->waiting;
    aiq_ring_init(&l->ring, l->mine, l->peer);
    l->next = end->links;
    l->prev = &end->links;
    if (l->next) {
        l->next->prev = &l->next;
    }
    end->links = l;
    metric_add(end->counts->workers, 1);
    if (l->fd >= 0) {
        l->poll = aiq_zalloc(sizeof(*l->poll));
        l->poll->data = l;
        uv_poll_init(&end->loop->uv, l->poll, l->fd);
        uv_poll_start(l->poll, UV_READABLE | UV_DISCONNECT, on_socket);
    }
    l->owes_notice = end->draining;
    return l;
}

/* Frames from the worker. */

static void open_job(aiq_link *l, const aiq_frame *frame, const uint8_t *payload)
{
    if (l->slots[frame->slot]) {
        link_break(l, "OPEN on a slot in use");
        return;
    }
    link_job *j = link_job_new(l, frame->slot, frame->generation);
    aiq_job *job = &j->job;
    const char *wrong = link_job_parse(j, payload, frame->len);
    if (wrong) {
        link_break(l, wrong);
        return;
    }
    aiq_err err;
    if (!link_job_route(j, job->location->service, &err)) {
        job_fail(job, &err);
        return;
    }
    if (job->websocket && !job->route->handler->message) {
        aiq_fail(&err, 400, "no_websocket", "There is no WebSocket at this path.");
        job_fail(job, &err);
        return;
    }
    if (!link_job_vouch(j)) {
        return;
    }
    bool empty = job->body_length == 0;
    if (job->route->handler->open) {
        job->route->handler->open(job);
    }
    /* open() may have ended the job: only the slot knows */
    if (empty && l->slots[frame->slot] == j) {
        link_job_whole(j);
    }
}

static void frame_of_job(aiq_link *l, link_job *j, const aiq_frame *frame,
                         const uint8_t *payload)
{
    uint32_t n;

    if ((j->state == JOB_CHECKING || j->state == JOB_ASKING) &&
        frame->type != AIQ_FRAME_CANCEL) {
        link_break(l, "a frame that no question takes");
        return;
    }
    switch (frame->type) {
    case AIQ_FRAME_BODY:
        /* out of the worker's reach before anybody reads it */
        memcpy(l->end->scratch, payload, frame->len);
        link_job_body(j, l->end->scratch, frame->len);
        break;
    case AIQ_FRAME_MESSAGE:
        memcpy(l->end->scratch, payload, frame->len);
        link_job_message(j, frame->flags, l->end->scratch, frame->len);
        break;
    case AIQ_FRAME_END:
        if (j->job.websocket) {
            memcpy(l->end->scratch, payload, frame->len);
            link_job_closing(j, l->end->scratch, frame->len);
        } else {
            link_job_whole(j);
        }
        break;
    case AIQ_FRAME_GRANT:
        memcpy(l->end->scratch, payload, frame->len);
        link_job_granted(j, l->end->scratch, frame->len);
        break;
    case AIQ_FRAME_CANCEL:
        link_job_cancel(j);
        break;
    case AIQ_FRAME_CREDIT:
        if (frame->len != sizeof(n)) {
            link_break(l, "CREDIT of a wrong length");
            break;
        }
        memcpy(&n, payload, sizeof(n));
        link_job_credit(j, n);
        break;
    default:
        link_break(l, "a frame of an unknown type");
    }
}

static void handle_frame(aiq_link *l, const aiq_frame *frame, const uint8_t *payload)
{
    if (frame->slot >= AIQ_SLOTS) {
        link_break(l, "a slot out of range");
        return;
    }
    if (frame->type == AIQ_FRAME_OPEN) {
        open_job(l, frame, payload);
        return;
    }
    if (frame->type == AIQ_FRAME_CHECK) {
        link_check(l, frame, payload);
        return;
    }
    if (frame->type == AIQ_FRAME_ASK) {
        link_ask(l, frame, payload);
        return;
    }
    link_job *j = l->slots[frame->slot];
    /* a frame of a job that has ended meanwhile is not an error */
    if (j && j->generation == frame->generation) {
        frame_of_job(l, j, frame, payload);
    }
}

static bool push_notice(aiq_link *l, const uint32_t *words, uint32_t size)
{
    void *to = aiq_ring_push(&l->ring, AIQ_FRAME_NOTICE, 0, 0, 0, size);

    if (to) {
        memcpy(to, words, size);
    }
    return to != NULL;
}

static void push_drain(aiq_link *l)
{
    const uint32_t words[] = {AIQ_NOTICE_DRAIN};

    l->owes_notice = !push_notice(l, words, sizeof(words));
}

void link_push_epoch(aiq_link *l)
{
    uint32_t words[] = {AIQ_NOTICE_EPOCH, 0};

    /* what waited too long for the ring is not said any more */
    l->owes_epoch =
        keyring_epoch(l->end->loop, &words[1]) && !push_notice(l, words, sizeof(words));
}

/* What waited for the ring, oldest first, as far as it goes now. */
static void flush_waiting(aiq_link *l)
{
    link_job *j;

    if (l->owes_notice) {
        push_drain(l);
    }
    if (l->owes_epoch) {
        link_push_epoch(l);
    }
    while ((j = l->waiting) != NULL) {
        uint32_t slot = j->slot;
        if (!link_job_flush(j)) {
            break;
        }
        if (l->slots[slot] != j) {
            continue; /* that was its end */
        }
        link_job_unwait(j);
        link_job_writable(j);
        if (l->slots[slot] == j && j->waiting) {
            break; /* its handler has filled the ring again: the others' turn is next */
        }
    }
}

bool link_turn(aiq_link *l)
{
    aiq_frame frame;
    const uint8_t *payload;
    int rc = 1;

    for (int i = 0; i < LINK_BATCH && l->broken == NULL; i++) {
        rc = aiq_ring_next(&l->ring, &frame, &payload);
        if (rc != 1) {
            break;
        }
        handle_frame(l, &frame, payload);
    }
    if (l->broken == NULL && (l->waiting || l->owes_notice || l->owes_epoch)) {
        flush_waiting(l);
    }
    if (l->ring.broken) {
        link_break(l, "indices or a frame that lead outside the ring");
    }
    if (l->broken) {
        cancel_jobs(l);
        link_free(l);
        return false;
    }
    return true;
}

void link_show(aiq_link *l)
{
    if (aiq_ring_due(&l->ring) && aiq_ring_publish(&l->ring)) {
        wake_peer(l);
    }
}

/* Publishes, gives back what was read, arms. The loop may sleep when nothing
 * has come meanwhile. */
loop_mood link_settle(aiq_link *l)
{
    aiq_ring *r = &l->ring;
    bool moved = r->published != r->tail || r->released != r->head;

    if (moved) {
        bool wake = aiq_ring_publish(r);
        wake |= aiq_ring_release(r);
        if (wake) {
            wake_peer(l);
        }
        l->end->active_ns = loop_now_ns();
        if (l->end->spinning) {
            l->end->spinning = false;
            l->end->vain -= l->end->vain > 0;
        }
    }
    if (r->broken || !aiq_ring_empty(r)) {
        return LOOP_POLL;
    }
    return LOOP_SLEEP;
}

static loop_mood link_arm(aiq_link *l)
{
    if (!aiq_ring_arm(&l->ring)) {
        return LOOP_POLL;
    }
    if ((l->waiting || l->owes_notice || l->owes_epoch) && !aiq_ring_arm_space(&l->ring)) {
        return LOOP_POLL;
    }
    return LOOP_SLEEP;
}

/* The loop's end. */

static void end_turn(aiq_loop *loop, void *arg)
{
    link_end *end = arg;

    (void)loop;
    for (aiq_link *l = end->links, *next; l; l = next) {
        next = l->next;
        link_turn(l);
    }
}

/* Waking an idle processor costs more than the whole request, so with few jobs
 * the loop looks on for a moment, also after the last one: its caller may have
 * another. That pays only if something comes within the moment. On a busy
 * machine it does not: looking takes the processor from whoever would send it.
 * So each moment in vain doubles how often the loop sleeps at once before it
 * looks on again, and each other one takes that back. Not for streams: they
 * leave time to sleep between frames. */
static bool wants_spin(link_end *end)
{
    if (end->n_jobs > LINK_SPIN_JOBS || end->n_streams) {
        end->spinning = false;
        return false;
    }
    bool in_time = loop_now_ns() - end->active_ns < end->spin_ns;
    if (end->spinning && !in_time) {
        end->vain += end->vain < LINK_VAIN_MAX;
        end->sleeps = 1u << end->vain;
    }
    if (!end->spinning && in_time && end->sleeps) {
        end->sleeps--;
        return false;
    }
    end->spinning = in_time;
    return in_time;
}

static loop_mood end_settle(aiq_loop *loop, void *arg)
{
    link_end *end = arg;
    loop_mood mood = LOOP_SLEEP;

    (void)loop;
    for (aiq_link *l = end->links; l; l = l->next) {
        if (link_settle(l) == LOOP_POLL) {
            mood = LOOP_POLL;
        }
    }
    if (mood == LOOP_POLL || wants_spin(end)) {
        return LOOP_POLL; /* unarmed: no worker sends wakes while we look anyway */
    }
    for (aiq_link *l = end->links; l; l = l->next) {
        if (link_arm(l) == LOOP_POLL) {
            mood = LOOP_POLL;
        }
    }
    return mood;
}

link_end *link_end_new(aiq_loop *loop, link_counts *counts)
{
    link_end *end = aiq_zalloc(sizeof(*end));

    end->loop = loop;
    end->counts = counts;
    end->spin_ns = loop->engine->options.spin_us * 1000ull;
    end->source = (loop_source){.turn = end_turn, .settle = end_settle, .arg = end};
    loop_add_source(loop, &end->source);
    if (loop->engine->keyring) {
        link_end_watch_keys(end);
    }
    return end;
}

void link_end_free(link_end *end)
{
    while (end->free_jobs) {
        link_job *j = end->free_jobs;
        end->free_jobs = j->next;
        aiq_pool_free(j->job.pool);
        free(j);
    }
    free(end);
}

/* Workers close a link once they have read the notice and its last job is
 * done. One that does not is not waited for. */
static void close_idle(aiq_loop *loop, void *arg)
{
    link_end *end = arg;
    uint64_t now = loop_now_ns();

    for (aiq_link *l = end->links, *next; l; l = next) {
        next = l->next;
        if (l->n_jobs || l->owes_notice) {
            l->idle_since_ns = 0;
        } else if (l->idle_since_ns == 0) {
            l->idle_since_ns = now;
        } else if (now - l->idle_since_ns > LEAVE_NS) {
            link_free(l);
        }
    }
    loop_timer_start(loop, &end->drain_timer, LEAVE_LOOK_MS, close_idle, end);
}

void link_end_drain(link_end *end)
{
    end->draining = true;
    for (aiq_link *l = end->links; l; l = l->next) {
        l->owes_notice = true; /* pushed in this turn */
    }
    close_idle(end->loop, end);
}

void link_end_close(link_end *end, bool tell)
{
    end->closing = true;
    loop_timer_stop(end->loop, &end->drain_timer);
    while (end->links) {
        aiq_link *l = end->links;
        for (uint32_t i = 0; tell && i < AIQ_SLOTS && l->n_jobs; i++) {
            if (l->slots[i]) {
                link_job_cut(l->slots[i]);
            }
        }
        link_settle(l);
        cancel_jobs(l);
        link_free(l);
    }
    while (end->kept) {
        link_job_drop(end->kept);
    }
    loop_timer_stop(end->loop, &end->trim_timer);
    keyring_forget(&end->recheck);
}
