#include "link/counts.h"
#include <string.h>

static const char *const methods[] = {
    [0] = "other",
    [AIQ_METHOD_GET] = "GET",
    [AIQ_METHOD_HEAD] = "HEAD",
    [AIQ_METHOD_POST] = "POST",
    [AIQ_METHOD_PUT] = "PUT",
    [AIQ_METHOD_DELETE] = "DELETE",
    [AIQ_METHOD_PATCH] = "PATCH",
    [AIQ_METHOD_OPTIONS] = "OPTIONS",
    [AIQ_METHOD_OTHER] = "other",
};

link_counts *link_counts_new(metrics *m)
{
    unsigned n = 1, at = 0;

    for (const aiq_service *const *s = aiq_services; *s; s++) {
        n += (unsigned)(*s)->n_routes;
    }
    link_counts *c = aiq_zalloc(sizeof(*c) + n * sizeof(c->endpoints[0]));
    c->n_endpoints = n;
    for (const aiq_service *const *s = aiq_services; *s; s++) {
        for (size_t i = 0; i < (*s)->n_routes; i++) {
            const char *path = (*s)->routes[i].path;
            /* where any path will do, the service's name says more */
            c->endpoints[at++].name = strcmp(path, "*") == 0 ? (*s)->name : path;
        }
    }
    c->endpoints[at].name = "other";
    c->requests =
        metrics_family(m, METRIC_COUNTER, "aiq_requests_total",
                       "Requests that ended, by method and route.", "method,endpoint", NULL);
    c->seconds = metrics_family(m, METRIC_HISTOGRAM, "aiq_request_duration_seconds",
                                "Time from a request's arrival in the engine to its end.",
                                "method,endpoint", METRICS_SECONDS);
    c->workers = metrics_sample(metrics_family(m, METRIC_GAUGE, "aiq_link_workers",
                                               "Connected nginx workers.", "", NULL),
                                NULL);
    c->jobs = metrics_sample(metrics_family(m, METRIC_GAUGE, "aiq_jobs_open",
                                            "Requests in the engine now.", "", NULL),
                             NULL);
    c->errors = metrics_sample(
        metrics_family(m, METRIC_COUNTER, "aiq_link_errors_total",
                       "Links closed or refused because the peer broke the protocol.", "",
                       NULL),
        NULL);
    return c;
}

endpoint_counts *link_counts_endpoint(link_counts *c, const aiq_service *service,
                                      const aiq_route *route)
{
    endpoint_counts *e = c->endpoints;

    if (route == NULL) {
        return &c->endpoints[c->n_endpoints - 1];
    }
    for (const aiq_service *const *s = aiq_services; *s != service; s++) {
        e += (*s)->n_routes;
    }
    return e + (route - service->routes);
}

/* Two threads may make the same sample at once: they get the same one. */
static metric *sample(metric **place, metric_family *family, endpoint_counts *e,
                      aiq_method method)
{
    metric *m = __atomic_load_n(place, __ATOMIC_ACQUIRE);

    if (m == NULL) {
        m = metrics_sample(family, (const char *const[]){methods[method], e->name});
        __atomic_store_n(place, m, __ATOMIC_RELEASE);
    }
    return m;
}

void link_counts_request(link_counts *c, endpoint_counts *e, aiq_method method, double seconds)
{
    metric_add(sample(&e->requests[method], c->requests, e, method), 1);
    metric_observe(sample(&e->seconds[method], c->seconds, e, method), seconds);
}
