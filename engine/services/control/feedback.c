/* /api/v1/cache/entries/{id}/feedback: whether an answer of the semantic cache was right. The
 * tenant's own entries only, for whoever may ask; no transaction. */

#include <string.h>
#include "cache/semantic.h"
#include "engine.h"
#include "services/control/control.h"

#define BODY_MAX 1024u

typedef struct {
    aiq_job *job;
    semantic_call *call; /* under way */
    uint64_t id;
    bool right, too_large;
    size_t len;
    char body[BODY_MAX];
} feedback;

static void release(void *arg)
{
    feedback *f = arg;

    if (f->call) {
        semantic_cancel(f->call);
    }
}

static void feedback_open(aiq_job *job)
{
    feedback *f = aiq_pool_zalloc(job->pool, sizeof(*f));

    f->job = job;
    job->state = f;
    aiq_pool_cleanup(job->pool, release, f);
}

static void feedback_body(aiq_job *job, const uint8_t *data, size_t n)
{
    feedback *f = job->state;

    job_consumed(job, n);
    if (n > BODY_MAX - f->len) {
        f->too_large = true;
        return;
    }
    memcpy(f->body + f->len, data, n);
    f->len += n;
}

static bool absent(aiq_err *err)
{
    return aiq_fail(err, 404, "not_found", "There is no such entry in the cache.");
}

static void on_judged(void *arg, const semantic_hit *hit)
{
    feedback *f = arg;
    aiq_buf out = {0};
    char id[SEMANTIC_ID_SIZE];
    aiq_err err;

    f->call = NULL;
    if (hit->id == 0) {
        absent(&err);
        job_fail(f->job, &err);
        return;
    }
    semantic_write_id(id, hit->id);
    aiq_buf_printf(&out, "{\"id\":\"%s\",\"correct\":%s,\"removed\":%s}\n", id,
                   f->right ? "true" : "false", f->right ? "false" : "true");
    job_reply_all(f->job, 200, "application/json", out.data, out.len);
    aiq_buf_free(&out);
}

static bool begin(feedback *f, aiq_err *err)
{
    semantic *s = f->job->loop->engine->semantic;
    control_value correct = {0};
    const control_field fields[] = {{"correct", FIELD_BOOL, true, &correct}};

    if (f->too_large) {
        return aiq_fail(err, 413, "body_too_large", "The request body is larger than %u bytes.",
                        BODY_MAX);
    }
    if (!control_fields(f->job->pool, (aiq_str){f->body, f->len}, fields, 1, err)) {
        return false;
    }
    f->right = correct.truth;
    if (s == NULL || !semantic_read_id(f->job->path_args[0], &f->id)) {
        return absent(err);
    }
    f->call = semantic_judge(s, f->job->loop, f->job->tenant, f->id, f->right, on_judged, f);
    return f->call || aiq_fail(err, 503, "overloaded", "The cache has too much to do.");
}

static void feedback_end(aiq_job *job)
{
    aiq_err err;

    if (!begin(job->state, &err)) {
        job_fail(job, &err);
    }
}

const job_handler control_feedback = {
    .open = feedback_open, .body = feedback_body, .end = feedback_end};
