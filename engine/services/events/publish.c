/*
 * POST /v1/topics/{name} with {"type":…,"data":…}: 202 and the event's number once it is in
 * the topic's log.
 */

#include "core/json.h"
#include "services/events/events.h"

#define BODY_MAX (64u << 10)

typedef struct {
    aiq_job *job;
    aiq_buf body;
    topic_question *asked; /* NULL: not yet, or it was answered */
} publishing;

static void release(void *arg)
{
    publishing *p = arg;

    if (p->asked) {
        topic_forget(p->asked);
    }
    aiq_buf_free(&p->body);
}

static void publish_open(aiq_job *job)
{
    publishing *p = aiq_pool_zalloc(job->pool, sizeof(*p));

    p->job = job;
    job->state = p;
    aiq_pool_cleanup(job->pool, release, p);
}

static void publish_body(aiq_job *job, const uint8_t *data, size_t n)
{
    publishing *p = job->state;
    aiq_err err;

    if (p->body.len + n > BODY_MAX) {
        aiq_fail(&err, 413, "body_too_large", "An event has at most %u bytes.", BODY_MAX);
        job_fail(job, &err);
        return;
    }
    aiq_buf_add(&p->body, data, n);
    job_consumed(job, n);
}

/* No field but these two. */
static bool is_known(aiq_str name, aiq_err *err)
{
    return aiq_str_is(name, "type") || aiq_str_is(name, "data") ||
           aiq_fail(err, 400, "unknown_parameter",
                    "An event has 'type' and 'data', nothing else.");
}

static bool read_event(publishing *p, aiq_str *type, aiq_str *data, aiq_err *err)
{
    const aiq_str text = {(char *)p->body.data, p->body.len};
    json_value kind, value, each, whole;
    const json_want wants[] = {{"type", &kind}, {"data", &value}};
    json_error wrong;
    aiq_str name;

    if (!json_scan(text.data, text.len, wants, 2, &wrong)) {
        return aiq_fail(err, 400, "invalid_json", "The body is no JSON object: %s at byte %zu.",
                        wrong.reason, wrong.offset);
    }
    whole = json_root(text);
    for (size_t cursor = 0; json_each(&whole, &cursor, &name, &each);) {
        if (!is_known(name, err)) {
            return false;
        }
    }
    if (kind.type == JSON_STRING) {
        *type = json_string(p->job->pool, &kind);
    }
    if (kind.type != JSON_STRING || type->len == 0 || type->len > TOPIC_TYPE_MAX) {
        return aiq_fail_param(err, 400, "invalid_value", "type",
                              "'type' must be a text of 1 to %d bytes.", TOPIC_TYPE_MAX);
    }
    *data = value.text;
    return value.type != JSON_NONE ||
           aiq_fail_param(err, 400, "missing_required_parameter", "data", "'data' is missing.");
}

static void on_told(void *arg, uint64_t seq, const aiq_err *err)
{
    publishing *p = arg;

    p->asked = NULL;
    if (err->status) {
        job_fail(p->job, err);
        return;
    }
    aiq_buf_consume(&p->body, p->body.len);
    aiq_buf_printf(&p->body, "{\"seq\":%llu}\n", (unsigned long long)seq);
    job_reply_all(p->job, 202, "application/json", p->body.data, p->body.len);
}

static void publish_end(aiq_job *job)
{
    publishing *p = job->state;
    aiq_str name = job->path_args[0], type, data;
    aiq_err err;

    if (!topic_may_publish(name)) {
        aiq_fail(&err, 403, "permission_denied",
                 "Topics whose names begin with 'aiq.' are the engine's own.");
    } else if (topic_owner(job->loop->engine, job->tenant, name, &err) &&
               read_event(p, &type, &data, &err)) {
        p->asked = topic_ask(job->loop, job->tenant, name, type, data, on_told, p);
        return;
    }
    job_fail(job, &err);
}

static void publish_cancel(aiq_job *job)
{
    publishing *p = job->state;

    if (p->asked) {
        topic_forget(p->asked);
        p->asked = NULL;
    }
}

const job_handler events_publish = {
    .open = publish_open, .body = publish_body, .end = publish_end, .cancel = publish_cancel};
