/*
 * Sends a request's body back as it comes, with its content type: the shortest
 * way through everything, for tests and measurements. Constant memory: the
 * client gets credit for what has been sent on.
 */

#include "services/service.h"

typedef struct {
    aiq_buf held; /* received, not sent yet: at most a window */
    bool whole;
} echo;

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

static void echo_writable(aiq_job *job)
{
    echo *e = job->state;
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

    e->whole = true;
    if (e->held.len == 0) {
        job_end(job);
    }
}

static const job_handler handler = {
    .open = echo_open, .body = echo_body, .end = echo_end, .writable = echo_writable};
static const aiq_route routes[] = {
    {0, "*", PERMIT_NONE, &handler, "The request's body, back as it came"},
};

const aiq_service service_echo = {
    .name = "echo",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
