/* GET /metrics: everything that was counted, in Prometheus' text format. */

#include "engine.h"
#include "services/service.h"

static void metrics_end(aiq_job *job)
{
    aiq_buf out = {0};

    metrics_render(job->loop->engine->metrics, &out);
    job_reply_all(job, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
    aiq_buf_free(&out);
}

static const job_handler handler = {.end = metrics_end};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "*", PERMIT_NONE, &handler, "Metrics in Prometheus' text format"},
};

const aiq_service service_metrics = {
    .name = "metrics",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
