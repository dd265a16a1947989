/*
 * GET /health: the state of every component that registered, and of the whole.
 * A component only tells what its owner last found out, so this cannot hang
 * on a dependency.
 */

#include <string.h>

#include "core/json.h"
#include "engine.h"
#include "services/service.h"

static const char *const words[] = {"healthy", "degraded", "unhealthy"};

/* One component, and what it makes of the whole. */
static health_status add_component(aiq_buf *out, const health_component *c, bool first)
{
    char reason[256] = "";
    health_status status = c->check(c->arg, reason, sizeof(reason));

    aiq_buf_text(out, first ? "{\"name\":" : ",{\"name\":");
    json_quote(out, c->name, strlen(c->name));
    aiq_buf_printf(out, ",\"critical\":%s,\"status\":\"%s\"", c->critical ? "true" : "false",
                   words[status]);
    if (reason[0] != '\0') {
        aiq_buf_text(out, ",\"reason\":");
        json_quote(out, reason, strlen(reason));
    }
    int percent = c->percent != NULL ? c->percent(c->arg) : -1;
    if (percent >= 0) {
        aiq_buf_printf(out, ",\"percent\":%d", percent);
    }
    aiq_buf_text(out, "}");
    /* what is not critical can only degrade the whole */
    return status == HEALTH_DOWN && !c->critical ? HEALTH_DEGRADED : status;
}

static void health_end(aiq_job *job)
{
    aiq_engine *engine = job->loop->engine;
    health_status whole = HEALTH_OK;
    aiq_buf parts = {0}, out = {0};

    for (const health_component *c = engine_health(engine); c != NULL; c = c->next) {
        health_status status = add_component(&parts, c, parts.len == 0);

        whole = status > whole ? status : whole;
    }
    aiq_buf_printf(&out,
                   "{\"status\":\"%s\",\"version\":\"%s\",\"uptime_seconds\":%llu,"
                   "\"components\":[%.*s]}\n",
                   words[whole], AIQ_VERSION,
                   (unsigned long long)((loop_now_ns() - engine->started_ns) / 1000000000u),
                   (int)parts.len, (const char *)parts.data);
    job_reply_all(job, whole == HEALTH_DOWN ? 503 : 200, "application/json", out.data, out.len);
    aiq_buf_free(&parts);
    aiq_buf_free(&out);
}

static const job_handler handler = {.end = health_end};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "*", PERMIT_NONE, &handler, "State of the engine and its parts"},
};

const aiq_service service_health = {
    .name = "health",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
