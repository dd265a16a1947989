/*
 * What the link counts, and the one line that a finished request may log.
 * Requests are counted once, when their job ends, under the method and the
 * route's template; both are bounded by tables of ours, never by a caller.
 */

#ifndef AIQ_LINK_COUNTS_H
#define AIQ_LINK_COUNTS_H

#include "engine.h"
#include "link/job.h"
#include "link/route.h"

typedef struct endpoint_counts {
    const char *name;
    metric *requests[AIQ_METHOD_OTHER + 1]; /* made at their first use */
    metric *seconds[AIQ_METHOD_OTHER + 1];
} endpoint_counts;

typedef struct link_counts {
    metric_family *requests, *seconds;
    metric *workers, *jobs, *errors;
    unsigned n_endpoints;
    endpoint_counts endpoints[]; /* one a route, in the services' order; the last is "other" */
} link_counts;

/* Main thread, before the loops start. Free with free(). */
link_counts *link_counts_new(metrics *m);

/* Any thread. service or route NULL: "other". */
endpoint_counts *link_counts_endpoint(link_counts *c, const aiq_service *service,
                                      const aiq_route *route);
void link_counts_request(link_counts *c, endpoint_counts *e, aiq_method method, double seconds);

#endif
