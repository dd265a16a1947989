/* Jobs without a client. To who counts and to who waits for jobs they are like others. */

#include <stdlib.h>
#include "link/counts.h"
#include "link/link.h"
#include "services/service.h"

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

bool job_alone_route(aiq_job *job, aiq_err *err)
{
    const aiq_service *service = service_find(job->location->service);

    if (service == NULL) {
        return aiq_fail(err, 503, "service_unknown",
                        "This server does not offer this service.");
    }
    job->dialect = aiq_dialect_of((aiq_text){service->name, strlen(service->name)},
                                  (aiq_text){job->uri.data, job->uri.len});
    job->route = service_route(service, job, err);
    return job->route != NULL;
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
