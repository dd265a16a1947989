/* GET /v1/models and /v1/models/{id}: the policy's models, as OpenAI lists them, or Anthropic
 * where its client asks; and what is said of one that there is none of. */

#include <string.h>
#include <time.h>
#include "core/json.h"
#include "services/gateway/gateway.h"

void gateway_no_model(aiq_str name, aiq_err *err)
{
    bool plain = name.len <= 128;

    for (size_t i = 0; plain && i < name.len; i++) {
        plain = name.data[i] > ' ' && name.data[i] < 0x7f;
    }
    if (plain) {
        aiq_fail_param(err, 404, "model_not_found", "model", "The model '%.*s' does not exist.",
                       (int)name.len, name.data);
    } else {
        aiq_fail_param(err, 404, "model_not_found", "model", "This model does not exist.");
    }
}

/* The paths are the same; its clients say which version of its API they speak. */
static bool is_anthropic(const aiq_job *job)
{
    return job_header_value(job, "anthropic-version").len > 0;
}

/* What nobody knows of a model is null. */
static void add_anthropic(aiq_buf *out, const aiq_job *job, const policy_model *model)
{
    time_t created = (time_t)(job->policy->epoch / 1000000);
    struct tm tm;
    char text[32];

    gmtime_r(&created, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    aiq_buf_text(out, "{\"type\":\"model\",\"id\":");
    json_quote(out, model->name, strlen(model->name));
    aiq_buf_text(out, ",\"display_name\":");
    json_quote(out, model->name, strlen(model->name));
    aiq_buf_printf(out,
                   ",\"created_at\":\"%s\",\"capabilities\":null,\"max_input_tokens\":null,"
                   "\"max_tokens\":null}",
                   text);
}

static void add_model(aiq_buf *out, const aiq_job *job, const policy_model *model)
{
    const char *owner = model->targets[0].provider->name;

    if (is_anthropic(job)) {
        add_anthropic(out, job, model);
        return;
    }
    aiq_buf_text(out, "{\"id\":");
    json_quote(out, model->name, strlen(model->name));
    aiq_buf_printf(out, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":",
                   (unsigned long long)(job->policy->epoch / 1000000));
    json_quote(out, owner, strlen(owner));
    aiq_buf_text(out, "}");
}

static void reply(aiq_job *job, aiq_buf *out)
{
    job_reply_all(job, 200, "application/json", out->data, out->len);
    aiq_buf_free(out);
}

static void add_id(aiq_buf *out, const char *name, const policy_model *model)
{
    aiq_buf_printf(out, ",\"%s\":", name);
    if (model) {
        json_quote(out, model->name, strlen(model->name));
    } else {
        aiq_buf_text(out, "null");
    }
}

static void list_end(aiq_job *job)
{
    const policy_model *first = NULL, *last = NULL;
    aiq_buf out = {0};

    aiq_buf_text(&out, is_anthropic(job) ? "{\"data\":[" : "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < job->policy->n_models; i++) {
        const policy_model *model = &job->policy->models[i];
        if (job_may_use(job, model->name)) {
            aiq_buf_text(&out, first ? "," : "");
            add_model(&out, job, model);
            first = first ? first : model;
            last = model;
        }
    }
    aiq_buf_text(&out, "]");
    if (is_anthropic(job)) { /* it is one page */
        aiq_buf_text(&out, ",\"has_more\":false");
        add_id(&out, "first_id", first);
        add_id(&out, "last_id", last);
    }
    aiq_buf_text(&out, "}");
    reply(job, &out);
}

static void one_end(aiq_job *job)
{
    aiq_str id = job->path_args[0];
    const policy_model *model = policy_find_model(job->policy, id.data, id.len);
    aiq_buf out = {0};

    if (model == NULL || !job_may_use(job, model->name)) {
        aiq_err err;
        gateway_no_model(id, &err);
        job_fail(job, &err);
        return;
    }
    add_model(&out, job, model);
    reply(job, &out);
}

const job_handler gateway_models = {.end = list_end};
const job_handler gateway_model = {.end = one_end};
