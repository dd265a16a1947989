/* A client of the endpoints of OpenAI's for sounds and images, files and batches: what they
 * send may be a form, what they get a file or a stream of any type. */

#include <string.h>
#include "providers/rewrite.h"
#include "services/gateway/client.h"
#include "services/gateway/form.h"
#include "services/service.h"

#define MODEL_MAX 256
#define ID_MAX    128
/* Of a number of images. */
#define IMAGES_DIGITS 4

/* How many images are asked for, if the form says so. */
static bool parse_number(chat_request *chat, aiq_str text, aiq_err *err)
{
    if (text.len == 0) {
        return true;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || i == IMAGES_DIGITS) {
            return rewrite_invalid(err, "a number of images", "n");
        }
    }
    chat->n = (json_value){JSON_NUMBER, text, 0};
    return true;
}

static bool parse_fields(chat_request *chat, aiq_pool *pool, const form *f, aiq_err *err)
{
    aiq_str name = f->fields[CLIENT_FORM_MODEL].value;
    aiq_buf quoted = {0};

    if (name.len == 0) {
        return aiq_fail_param(err, 400, "missing_required_parameter", "model",
                              "The parameter 'model' is missing.");
    }
    if (name.len > MODEL_MAX) {
        return rewrite_invalid(err, "the name of a model", "model");
    }
    chat->form_model = name;
    if (!parse_number(chat, f->fields[CLIENT_FORM_N].value, err)) {
        return false;
    }
    json_quote(&quoted, name.data, name.len);
    chat->model = (json_value){
        JSON_STRING, {aiq_pool_copy(pool, quoted.data, quoted.len), quoted.len}, 0};
    aiq_buf_free(&quoted);
    return true;
}

/* What is appended to a provider's url, which ends with "/v1". */
static const char *path_of(const aiq_job *job)
{
    return job->route->path + strlen("/v1");
}

bool client_form_begin(form *f, const aiq_job *job)
{
    static const char *const names[FORM_FIELDS] = {
        [CLIENT_FORM_MODEL] = "model", [CLIENT_FORM_N] = "n"};

    return form_begin(f, job->content_type, names);
}

bool client_form_invalid(const form *f, aiq_err *err)
{
    return aiq_fail(err, 400, "invalid_form", "The request's body is not a valid form: %s.",
                    f->wrong);
}

bool client_form_parse(chat_request *chat, const aiq_job *job, aiq_str body, const form *f,
                       aiq_err *err)
{
    *chat = (chat_request){.body = body,
                           .path = path_of(job),
                           .raw = true,
                           .content_type = job->content_type,
                           .args = job->args,
                           .dialect = AIQ_DIALECT_OPENAI};
    return parse_fields(chat, job->pool, f, err);
}

static bool parse(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    form f;

    if (form_is(job->content_type)) {
        bool ok = client_form_begin(&f, job) && form_read(&f, body, true) == FORM_DONE;
        return ok ? client_form_parse(chat, job, body, &f, err) : client_form_invalid(&f, err);
    }
    bool ok = chat_request_parse_other(chat, path_of(job), body, err);
    chat->stream = false; /* it is not looked into, if the answer is one */
    chat->raw = true;
    chat->args = job->args;
    return ok;
}

/* No slash and no dot: it becomes a part of the path at the provider. */
static bool is_id(aiq_str id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '-' && c != '_') {
            return false;
        }
    }
    return id.len <= ID_MAX;
}

static bool parse_files(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    const size_t n = strlen("/v1");

    if (!is_id(job->path_args[0])) {
        return rewrite_invalid(err, "an id", "id");
    }
    *chat = (chat_request){
        .body = body,
        .path = aiq_pool_printf(job->pool, "%.*s", (int)(job->uri.len - n), job->uri.data + n),
        .raw = true,
        .content_type = job->content_type,
        .method = job->route->method == AIQ_METHOD_GET      ? "GET"
                  : job->route->method == AIQ_METHOD_DELETE ? "DELETE"
                                                            : "POST",
        .args = job->args,
        .dialect = AIQ_DIALECT_OPENAI};
    return true;
}

static void add_event(void *stream, aiq_str data, bool native, aiq_buf *out)
{
    (void)stream;
    (void)native;
    aiq_buf_add(out, data.data, data.len);
}

static void add_end(void *stream, bool native, aiq_buf *out)
{
    (void)stream;
    (void)native;
    (void)out;
}

static bool reply(const aiq_job *job, const chat_request *chat, unsigned status, aiq_str *body,
                  aiq_buf *out)
{
    (void)job;
    (void)chat;
    (void)status;
    (void)body;
    (void)out;
    return true;
}

const client_dialect client_raw = {
    .parse = parse,
    .event = add_event,
    .end = add_end,
    .reply = reply,
};

const client_dialect client_files = {
    .parse = parse_files,
    .event = add_event,
    .end = add_end,
    .reply = reply,
};
