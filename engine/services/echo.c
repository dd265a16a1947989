/*
 * Sends a request's body back as it comes, with its content type, and a WebSocket's
 * messages: the shortest way through everything, for tests and measurements.
 * Constant memory: the client gets credit for what has been sent on.
 */

#include <string.h>
#include "services/echo_events.h"

typedef struct {
    aiq_buf held; /* received, not sent yet: at most a window */
    bool whole;
    unsigned closing; /* the WebSocket's closing code, once held is sent; 0: it is open */
} echo;

/* Before each piece of a message in held. */
typedef struct {
    uint32_t len;
    bool text, last;
} echo_piece;

static void echo_release(void *arg)
{
    aiq_buf_free(&((echo *)arg)->held);
}

static void echo_open(aiq_job *job)
{
    echo *e = aiq_pool_zalloc(job->pool, sizeof(*e));
    const char *type = "application/octet-stream";

    job->state = e;
    aiq_pool_cleanup(job->pool, echo_release, e);
    if (job->websocket) {
        return;
    }
    if (job->content_type.len) {
        type = aiq_pool_copy(job->pool, job->content_type.data, job->content_type.len);
    }
    job_head(job, &(job_reply){.status = 200,
                               .content_type = job->body_length ? type : NULL,
                               .content_length = job->body_length});
}

static void echo_body(aiq_job *job, const uint8_t *data, size_t n)
{
    echo *e = job->state;
    size_t sent = e->held.len ? 0 : job_write(job, data, n, false);

    aiq_buf_add(&e->held, data + sent, n - sent);
    if (sent) {
        job_consumed(job, sent);
    }
}

/* False: the reader is behind. */
static bool send_piece(aiq_job *job, job_message_piece *piece)
{
    size_t len = piece->len;
    bool whole = job_message(job, piece);
    size_t sent = len - piece->len;

    if (whole || sent) {
        job_consumed(job, whole ? job_message_cost(sent) : sent);
    }
    return whole;
}

static void echo_message(aiq_job *job, const job_message_piece *piece)
{
    echo *e = job->state;
    job_message_piece rest = *piece;

    if (e->held.len || !send_piece(job, &rest)) {
        echo_piece head = {(uint32_t)rest.len, rest.text, rest.last};
        aiq_buf_add(&e->held, &head, sizeof(head));
        aiq_buf_add(&e->held, rest.data, rest.len);
    }
}

/* What is held of messages, as far as it goes. */
static void send_held(aiq_job *job)
{
    echo *e = job->state;
    echo_piece head;

    while (e->held.len) {
        memcpy(&head, e->held.data, sizeof(head));
        job_message_piece piece = {e->held.data + sizeof(head), head.len, head.text, head.last};
        bool whole = send_piece(job, &piece);
        size_t sent = head.len - piece.len;
        if (!whole) {
            /* what is left moves its head on */
            head.len = (uint32_t)piece.len;
            memcpy(e->held.data + sent, &head, sizeof(head));
            aiq_buf_consume(&e->held, sent);
            return;
        }
        aiq_buf_consume(&e->held, sizeof(head) + sent);
    }
    aiq_buf_free(&e->held); /* an idle WebSocket holds nothing */
    if (e->closing) {
        job_close(job, e->closing, NULL);
    }
}

static void echo_closing(aiq_job *job, unsigned code)
{
    echo *e = job->state;

    e->closing = code;
    if (e->held.len == 0) {
        job_close(job, code, NULL);
    }
}

static void echo_writable(aiq_job *job)
{
    echo *e = job->state;

    if (job->websocket) {
        send_held(job);
        return;
    }
    size_t sent = job_write(job, e->held.data, e->held.len, false);

    aiq_buf_consume(&e->held, sent);
    if (sent) {
        job_consumed(job, sent);
    }
    if (e->whole && e->held.len == 0) {
        job_end(job);
    }
}

static void echo_end(aiq_job *job)
{
    echo *e = job->state;

    if (job->websocket) {
        job_accept(job);
        return;
    }
    e->whole = true;
    if (e->held.len == 0) {
        job_end(job);
    }
}

static const job_handler handler = {.open = echo_open,
                                    .body = echo_body,
                                    .end = echo_end,
                                    .writable = echo_writable,
                                    .message = echo_message,
                                    .closing = echo_closing};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "/echo/events", PERMIT_NONE, &echo_events,
     "Numbered events at a pace, for measurements"},
    {0, "*", PERMIT_NONE, &handler, "The request's body, or a WebSocket's messages, back"},
};

const aiq_service service_echo = {
    .name = "echo",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
