/* Jobs that the engine asks itself for, see job.h. They have no link: whoever asks is their
 * reader, and what would go into a ring goes to a sink. */

#include <assert.h>
#include <string.h>
#include "link/link.h"
#include "link/route.h"

static aiq_str copy(aiq_pool *pool, aiq_str text)
{
    return (aiq_str){aiq_pool_copy(pool, text.data, text.len), text.len};
}

/* Who asks, and what nginx found out about the request. */
static void take_caller(aiq_job *job, const aiq_job *other)
{
    aiq_pool *pool = job->pool;
    size_t keys = other->location->n_limits * AIQ_LIMIT_KEY;
    size_t hashes = other->n_hashes * sizeof(other->hashes[0]);

    job->traceparent = copy(pool, other->traceparent);
    job->tracestate = copy(pool, other->tracestate);
    job->remote_addr = copy(pool, other->remote_addr);
    job->tenant = copy(pool, other->tenant);
    job->user = copy(pool, other->user);
    job->role = copy(pool, other->role);
    job->key_id = copy(pool, other->key_id);
    job->conditions = other->conditions;
    job->n_hashes = other->n_hashes;
    if (hashes) {
        job->hashes = memcpy(aiq_pool_alloc(pool, hashes), other->hashes, hashes);
    }
    if (keys) {
        job->limit_keys = memcpy(aiq_pool_alloc(pool, keys), other->limit_keys, keys);
    }
}

static void take_location(aiq_job *job, const aiq_job *other)
{
    job->policy = other->policy;
    job->location = other->location;
    job->budgets = job->location->budgets;
    job->n_budgets = job->location->n_budgets;
    job->limits = job->location->limits;
    job->n_limits = job->location->n_limits;
}

static void take_question(link_job *j, const job_question *question)
{
    aiq_job *job = &j->job;
    job_header *headers = aiq_pool_alloc(job->pool, question->n_headers * sizeof(*headers) + 1);

    for (size_t i = 0; i < question->n_headers; i++) {
        headers[i].name = copy(job->pool, question->headers[i].name);
        headers[i].value = copy(job->pool, question->headers[i].value);
    }
    job->headers = headers;
    job->n_headers = question->n_headers;
    job->method = question->method;
    job->method_name = job->args = job->accept = AIQ_STR("");
    job->uri = copy(job->pool, question->uri);
    job->request_id = copy(job->pool, question->request_id);
    job->content_type = AIQ_STR("application/json");
    job->body_length = (int64_t)question->body_length;
}

aiq_job *job_inner(const aiq_job *other, const job_question *question, const job_sink *sink,
                   void *arg, aiq_err *err)
{
    link_job *j = link_job_make(other->loop->links);

    take_location(&j->job, other);
    take_caller(&j->job, other);
    take_question(j, question);
    if (!link_job_route(j, question->service, err)) {
        link_job_free(j);
        return NULL;
    }
    j->sink = sink;
    j->sink_arg = arg;
    return &j->job;
}

void job_inner_start(aiq_job *job, aiq_str body)
{
    link_job *j = (link_job *)job;
    const job_handler *handler = job->route->handler;

    if (!link_job_vouch(j)) {
        return;
    }
    if (handler->open) {
        handler->open(job);
    }
    if (handler->body && body.len) {
        handler->body(job, (const uint8_t *)body.data, body.len);
    }
    j->whole = true;
    if (!j->asking && handler->end) {
        handler->end(job);
    }
}

void job_inner_writable(aiq_job *job)
{
    link_job *j = (link_job *)job;

    if (j->wants_write) {
        j->wants_write = false;
        job->route->handler->writable(job);
    }
}

void job_inner_leave(aiq_job *job, bool now)
{
    link_job *j = (link_job *)job;

    assert(j->sink && j->state == JOB_RUNNING);
    j->aborted |= now;
    link_job_cancel(j);
}

/* The job goes before the sink hears of it: what that does then cannot meet the job again. */

void link_inner_end(link_job *j)
{
    const job_sink *sink = j->sink;
    void *arg = j->sink_arg;

    link_job_free(j);
    sink->end(arg);
}

void link_inner_fail(link_job *j, const aiq_err *err)
{
    const job_sink *sink = j->sink;
    const aiq_err why = *err; /* which may lie in the job's pool */
    void *arg = j->sink_arg;

    link_job_free(j);
    sink->failed(arg, &why);
}
