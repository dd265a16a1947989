/* GET /metrics: everything that was counted, in Prometheus' text format. */

#include "engine.h"
#include "services/service.h"

static void metrics_end(aiq_job *job)
{
    aiq_engine *engine = job->loop->engine;
    aiq_buf out = {0};

    metric_set(engine->uptime, (int64_t)((loop_now_ns() - engine->started_ns) / 1000000000u));
    metrics_render(engine->metrics, &out);
    job_reply_all(job, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.len);
    aiq_buf_free(&out);
}

static bool metrics_init(aiq_engine *engine, aiq_err *err)
{
    (void)err;
    engine->uptime =
        metrics_sample(metrics_family(engine->metrics, METRIC_GAUGE, "aiq_uptime_seconds",
                                      "Seconds since the engine's start.", "", NULL),
                       NULL);
    return true;
}

static const job_handler handler = {.end = metrics_end};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "*", PERMIT_NONE, &handler, "Metrics in Prometheus' text format"},
};

const aiq_service service_metrics = {
    .name = "metrics",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
    .init = metrics_init,
};
