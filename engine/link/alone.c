/* Jobs without a client. To who counts and to who waits for jobs they are like others. */

#include <stdlib.h>
#include "link/counts.h"
#include "link/link.h"
#include "link/route.h"

aiq_job *job_alone(aiq_loop *loop, const aiq_policy *policy)
{
    link_end *end = loop->links;
    link_job *j = aiq_zalloc(sizeof(*j));

    j->job = (aiq_job){.loop = loop,
                       .pool = aiq_pool_new(),
                       .policy = policy,
                       .body_length = -1,
                       .started_ns = loop_now_ns()};
    j->state = JOB_ENDING; /* to who writes */
    j->alone = j->kept = j->whole = true;
    j->next_kept = end->kept;
    j->prev_kept = &end->kept;
    if (end->kept) {
        end->kept->prev_kept = &j->next_kept;
    }
    end->kept = j;
    end->n_jobs++;
    end->peak_jobs = end->n_jobs > end->peak_jobs ? end->n_jobs : end->peak_jobs;
    metric_add(end->counts->jobs, 1);
    return &j->job;
}

bool job_alone_route(aiq_job *job, const char *service, aiq_err *err)
{
    return link_job_route((link_job *)job, service, err);
}

void job_alone_start(aiq_job *job)
{
    link_job *j = (link_job *)job;

    if (!link_job_vouch(j)) {
        link_job_abort(j, NULL);
    } else if (!j->asking) {
        job->route->handler->end(job);
    }
}
