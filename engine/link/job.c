/* A job's life, and its body. */

#include <assert.h>
#include <malloc.h>
#include <stdlib.h>
#include "link/counts.h"
#include "link/link.h"

/* Life. */

link_job *link_job_make(link_end *end)
{
    link_job *j = end->free_jobs;
    aiq_pool *pool;

    if (j) {
        end->free_jobs = j->next;
        end->n_free_jobs--;
        pool = j->job.pool;
    } else {
        j = aiq_alloc(sizeof(*j));
        pool = aiq_pool_new();
    }
    *j = (link_job){
        .job = {.loop = end->loop, .pool = pool, .started_ns = loop_now_ns()},
        .endpoint = link_counts_endpoint(end->counts, NULL, NULL),
    };
    end->n_jobs++;
    end->peak_jobs = end->n_jobs > end->peak_jobs ? end->n_jobs : end->peak_jobs;
    metric_add(end->counts->jobs, 1);
    return j;
}

link_job *link_job_new(aiq_link *l, uint32_t slot, uint32_t generation)
{
    link_job *j = link_job_make(l->end);

    j->job.policy = l->policy;
    j->link = l;
    j->slot = slot;
    j->generation = generation;
    j->credit = AIQ_WINDOW;
    j->in.promised = AIQ_WINDOW;
    j->allowed = AIQ_WINDOW;
    l->promised += AIQ_WINDOW;
    l->slots[slot] = j;
    l->n_jobs++;
    return j;
}

/* A job that is used again would hide from the sanitizer who still holds it. */
static bool may_keep(const link_end *end)
{
#ifdef __SANITIZE_ADDRESS__
    (void)end;
    return false;
#else
    return end->n_free_jobs < LINK_FREE_JOBS;
#endif
}

/* malloc keeps what lies between pieces that live on. */
static void give_memory_back(aiq_loop *loop, void *arg)
{
    (void)loop;
    (void)arg;
    malloc_trim(0);
}

/* The memory is free again. */
static void dispose(link_job *j)
{
    link_end *end = j->job.loop->links;

    end->n_jobs--;
    end->n_streams -= j->stream;
    metric_add(end->counts->jobs, -1);
    if (may_keep(end)) {
        aiq_pool_reset(j->job.pool);
        j->next = end->free_jobs;
        end->free_jobs = j;
        end->n_free_jobs++;
    } else {
        aiq_pool_free(j->job.pool);
        free(j);
    }
    if (end->n_jobs == 0 && end->peak_jobs >= LINK_TRIM_JOBS) {
        end->peak_jobs = 0;
        loop_timer_start(end->loop, &end->trim_timer, LINK_TRIM_MS, give_memory_back, NULL);
    }
}

static void leave_link(link_job *j)
{
    aiq_link *l = j->link;

    if (j->waiting) {
        link_job_unwait(j);
    }
    l->promised -= j->in.promised;
    l->slots[j->slot] = NULL;
    l->n_jobs--;
    j->link = NULL;
}

void link_job_free(link_job *j)
{
    link_job_unkey(j);
    if (j->question) {
        rates_cancel(j->question);
    }
    if (j->link) {
        leave_link(j);
    }
    j->sink = NULL;
    aiq_buf_free(&j->owed_token);
    if (!j->kept) {
        dispose(j);
    }
}

bool job_keep(aiq_job *job)
{
    link_job *j = (link_job *)job;
    link_end *end = job->loop->links;

    if (end->closing || j->aborted) {
        return false;
    }
    if (!j->kept) {
        j->kept = true;
        policy_ref(job->policy); /* the link's may go */
        j->next_kept = end->kept;
        j->prev_kept = &end->kept;
        if (end->kept) {
            end->kept->prev_kept = &j->next_kept;
        }
        end->kept = j;
    }
    return true;
}

void job_release(aiq_job *job)
{
    link_job *j = (link_job *)job;
    const aiq_policy *policy = job->policy;

    *j->prev_kept = j->next_kept;
    if (j->next_kept) {
        j->next_kept->prev_kept = j->prev_kept;
    }
    j->kept = false;
    if (j->alone) {
        link_job_unkey(j);
    }
    if (j->link == NULL && j->sink == NULL) {
        dispose(j); /* what it holds may look at the policy */
    }
    policy_unref(policy);
}

void link_job_drop(link_job *j)
{
    if (j->job.route->handler->cancel) {
        j->job.route->handler->cancel(&j->job);
    }
    job_release(&j->job);
}

void link_job_cancel(link_job *j)
{
    if (j->state == JOB_RUNNING) {
        j->status = 499;
        link_job_finished(j, "request cancelled");
        if (j->job.route && j->job.route->handler->cancel) {
            j->job.route->handler->cancel(&j->job);
        }
    }
    link_job_free(j);
}

void link_job_abort(link_job *j, const aiq_err *err)
{
    /* what the handler still calls must not end the job under our feet */
    j->state = JOB_ENDING;
    j->aborted = true;
    if (j->alone) {
        link_job_drop(j);
        return;
    }
    if (j->job.route && j->job.route->handler->cancel) {
        j->job.route->handler->cancel(&j->job);
    }
    j->state = JOB_RUNNING;
    job_fail(&j->job, err);
}

void link_job_cut(link_job *j)
{
    aiq_err err;

    switch (j->state) {
    case JOB_RUNNING:
        if (j->job.websocket && j->job.head_sent) {
            link_job_leave(j);
            break;
        }
        aiq_fail(&err, 503, "engine_leaving", "The server is shutting down.");
        err.retry_after = 1;
        link_job_abort(j, &err);
        break;
    case JOB_CHECKING:
        link_job_verdict(j, &(keyring_verdict){.status = 503, .expires_ms = -1});
        break;
    case JOB_ASKING:
        link_job_answer(j, NULL);
        break;
    case JOB_ENDING:
        /* a small reply whose reader has stopped reading */
        link_job_free(j);
        break;
    }
}

/* Input. */

/* No more credit where the rest of the body is covered: most requests need none. */
static bool needs_credit(const link_job *j)
{
    const aiq_job *job = &j->job;

    if (job->websocket) {
        return !j->closing;
    }
    return !j->whole &&
           (job->body_length < 0 || job->body_length - j->received > (int64_t)j->allowed);
}

void job_consumed(aiq_job *job, size_t n)
{
    link_job *j = (link_job *)job;
    aiq_link *l = j->link;

    if (j->state != JOB_RUNNING || j->sink) {
        return;
    }
    assert(n <= j->in.promised - j->allowed);
    j->in.promised -= (uint32_t)n;
    l->promised -= n;
    if (!needs_credit(j)) {
        return;
    }
    uint32_t grant = aiq_credit_due(&j->in, &l->promised);
    j->allowed += grant;
    j->owed_credit += grant;
    if (j->owed_credit) {
        link_job_settle(j);
    }
}

void link_job_body(link_job *j, const uint8_t *data, uint32_t n)
{
    aiq_job *job = &j->job;

    if (n > j->allowed) {
        link_break(j->link, "BODY beyond its credit");
        return;
    }
    if (j->whole || (job->body_length >= 0 && n > job->body_length - j->received)) {
        link_break(j->link, "BODY beyond its length");
        return;
    }
    j->allowed -= n;
    j->received += n;
    if (j->state != JOB_RUNNING) {
        return;
    }
    uint64_t max = job->location->max_body;
    if (max && (uint64_t)j->received > max) {
        aiq_err err;
        aiq_fail(&err, 413, "body_too_large", "The request body is larger than %llu bytes.",
                 (unsigned long long)max);
        job_fail(job, &err);
    } else if (job->route->handler->body) {
        job->route->handler->body(job, data, n);
    } else {
        job_consumed(job, n);
    }
}

void link_job_whole(link_job *j)
{
    if (j->whole && j->job.route && j->job.route->handler->release) {
        if (j->state == JOB_RUNNING) {
            j->job.route->handler->release(&j->job);
        }
        return;
    }
    if (j->whole || (j->job.body_length >= 0 && j->received != j->job.body_length)) {
        link_break(j->link, "END before the body's end");
        return;
    }
    j->whole = true;
    if (j->state == JOB_RUNNING && !j->asking && j->job.route->handler->end) {
        j->job.route->handler->end(&j->job);
    }
}
