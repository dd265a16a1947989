#include "services/gateway/guaranteed.h"

#include <string.h>
#include <strings.h>
#include "core/log.h"
#include "engine.h"
#include "providers/sse.h"
#include "services/gateway/gateway.h"

#define QOS "x-aiq-qos"

bool guaranteed_wanted(const aiq_job *job, const chat_request *chat, bool *wanted, aiq_err *err)
{
    aiq_str qos = job_header_value(job, QOS);

    *wanted = aiq_str_is(qos, "guaranteed");
    if (!*wanted) {
        return qos.len == 0 || aiq_str_is(qos, "best-effort") ||
               aiq_fail_param(err, 400, "invalid_value", QOS,
                              "'" QOS "' is best-effort or guaranteed.");
    }
    if (!chat->stream || chat->raw) {
        return aiq_fail_param(err, 400, "invalid_value", QOS,
                              "Only a stream can be guaranteed: it takes \"stream\": true.");
    }
    return job->location->stream_buffer > 0 ||
           aiq_fail_param(err, 400, "invalid_value", QOS,
                          "Streams are not kept here, and cannot be guaranteed.");
}

/* The document. */

static void add_name(aiq_buf *out, const char *name)
{
    aiq_buf_printf(out, "%s\"%s\":", out->data[out->len - 1] == '{' ? "" : ",", name);
}

static void add_text(aiq_buf *out, const char *name, aiq_str text)
{
    add_name(out, name);
    json_quote(out, text.data, text.len);
}

static void add_number(aiq_buf *out, const char *name, int64_t n)
{
    add_name(out, name);
    aiq_buf_printf(out, "%lld", (long long)n);
}

static void add_headers(aiq_buf *out, const aiq_job *job)
{
    add_name(out, "headers");
    aiq_buf_text(out, "[");
    for (size_t i = 0; i < job->n_headers; i++) {
        aiq_buf_text(out, i ? ",[" : "[");
        json_quote(out, job->headers[i].name.data, job->headers[i].name.len);
        aiq_buf_text(out, ",");
        json_quote(out, job->headers[i].value.data, job->headers[i].value.len);
        aiq_buf_text(out, "]");
    }
    aiq_buf_text(out, "]");
}

static void write_request(aiq_buf *out, const aiq_job *job, aiq_str body)
{
    aiq_buf_text(out, "{");
    add_number(out, "location", job->location - job->policy->locations);
    add_number(out, "method", job->method);
    add_text(out, "uri", job->uri);
    add_text(out, "args", job->args);
    add_text(out, "request_id", job->request_id);
    add_text(out, "traceparent", job->traceparent);
    add_text(out, "content_type", job->content_type);
    add_text(out, "tenant", job->tenant);
    add_text(out, "user", job->user);
    add_text(out, "role", job->role);
    add_text(out, "key_id", job->key_id);
    add_number(out, "conditions", (int64_t)job->conditions);
    add_name(out, "hashes");
    for (size_t i = 0; i < job->n_hashes; i++) {
        aiq_buf_printf(out, "%s%u", i ? "," : "[", job->hashes[i]);
    }
    aiq_buf_text(out, job->n_hashes ? "]" : "[]");
    add_headers(out, job);
    add_text(out, "body", body);
    aiq_buf_text(out, "}");
}

durable_request guaranteed_request(const aiq_job *job, const policy_model *model, aiq_str body,
                                   aiq_buf *memory)
{
    const aiq_policy *policy = job->policy;
    size_t id = 0;

    for (; id < sizeof(policy->sha256); id++) {
        aiq_buf_printf(memory, "%02x", policy->sha256[id]);
    }
    write_request(memory, job, body);
    const char *text = (char *)memory->data;
    return (durable_request){.request = {text + 2 * id, memory->len - 2 * id},
                             .policy_id = {text, 2 * id},
                             .policy = {policy->text, policy->text_len},
                             .user = job->user,
                             .model = {model->name, strlen(model->name)}};
}

/* The values of a document. */
typedef struct {
    json_value location, method, uri, args, request_id, traceparent, content_type;
    json_value tenant, user, role, key_id, conditions, hashes, headers, body;
} document;

static bool scan(aiq_str text, document *d)
{
    json_error error;
    const json_want wants[] = {
        {"location", &d->location},
        {"method", &d->method},
        {"uri", &d->uri},
        {"args", &d->args},
        {"request_id", &d->request_id},
        {"traceparent", &d->traceparent},
        {"content_type", &d->content_type},
        {"tenant", &d->tenant},
        {"user", &d->user},
        {"role", &d->role},
        {"key_id", &d->key_id},
        {"conditions", &d->conditions},
        {"hashes", &d->hashes},
        {"headers", &d->headers},
        {"body", &d->body},
    };
    const size_t n = sizeof(wants) / sizeof(wants[0]);

    if (!json_scan(text.data, text.len, wants, n, &error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        json_type type = wants[i].value == &d->hashes || wants[i].value == &d->headers
                             ? JSON_ARRAY
                         : wants[i].value == &d->location || wants[i].value == &d->method ||
                                 wants[i].value == &d->conditions
                             ? JSON_NUMBER
                             : JSON_STRING;
        if (wants[i].value->type != type) {
            return false;
        }
    }
    return true;
}

static void read_headers(aiq_job *job, const json_value *list)
{
    job_header *headers = aiq_pool_zalloc(job->pool, (list->count + 1) * sizeof(*headers));
    json_value pair, value;
    size_t cursor = 0;

    job->headers = headers;
    while (json_each(list, &cursor, NULL, &pair)) {
        size_t at = 0, n = 0;
        while (n < 2 && json_each(&pair, &at, NULL, &value)) {
            aiq_str text = json_string(job->pool, &value);
            *(n++ ? &headers[job->n_headers].value : &headers[job->n_headers].name) = text;
        }
        job->n_headers++;
    }
}

static void read_hashes(aiq_job *job, const json_value *list)
{
    uint32_t *hashes = aiq_pool_zalloc(job->pool, (list->count + 1) * sizeof(*hashes));
    json_value value;
    size_t cursor = 0;
    int64_t n;

    job->hashes = hashes;
    while (json_each(list, &cursor, NULL, &value) && json_int(&value, &n)) {
        hashes[job->n_hashes++] = (uint32_t)n;
    }
}

static void fill(aiq_job *job, const document *d)
{
    aiq_pool *pool = job->pool;
    int64_t n = 0;

    json_int(&d->method, &n);
    job->method = (aiq_method)n;
    job->uri = json_string(pool, &d->uri);
    job->args = json_string(pool, &d->args);
    job->request_id = json_string(pool, &d->request_id);
    job->traceparent = json_string(pool, &d->traceparent);
    job->content_type = json_string(pool, &d->content_type);
    job->tenant = json_string(pool, &d->tenant);
    job->user = json_string(pool, &d->user);
    job->role = json_string(pool, &d->role);
    job->key_id = json_string(pool, &d->key_id);
    json_int(&d->conditions, &n);
    job->conditions = (uint64_t)n;
    read_hashes(job, &d->hashes);
    read_headers(job, &d->headers);
    /* its limits have counted it */
    job->budgets = job->location->budgets;
    job->n_budgets = job->location->n_budgets;
}

static bool unreadable(aiq_err *err)
{
    return aiq_fail(err, 500, "stream_broken_off", "Nobody can go on with this stream.");
}

static const aiq_policy *policy_of(aiq_engine *engine, aiq_str text, aiq_err *err)
{
    aiq_err why;
    const aiq_policy *policy = policy_get_text(engine->policies, text.data, text.len, &why);

    if (policy == NULL) {
        unreadable(err);
        aiq_err_detail(err, "%s", why.detail[0] ? why.detail : why.message);
    }
    return policy;
}

aiq_job *guaranteed_job(aiq_loop *loop, const durable_orphan *orphan, aiq_str *body,
                        aiq_err *err)
{
    const aiq_policy *policy;
    document d;
    int64_t i;

    if (!scan(orphan->request, &d) || !json_int(&d.location, &i)) {
        unreadable(err);
        return NULL;
    }
    policy = policy_of(loop->engine, orphan->policy, err);
    if (policy == NULL) {
        return NULL;
    }
    if (i < 0 || (size_t)i >= policy->n_locations) {
        policy_unref(policy);
        unreadable(err);
        return NULL;
    }
    aiq_job *job = job_alone(loop, policy);
    job->location = &policy->locations[i];
    fill(job, &d);
    *body = json_string(job->pool, &d.body);
    if (!job_alone_route(job, "gateway", err)) {
        job_release(job);
        return NULL;
    }
    return job;
}

/* What was said. */

/* The last event, in any dialect that a provider speaks. */
static bool is_last(aiq_str data)
{
    json_value type;
    json_error error;
    const json_want wants[] = {{"type", &type}};

    return aiq_str_is(data, "[DONE]") || (json_scan(data.data, data.len, wants, 1, &error) &&
                                          json_string_is(&type, "message_stop"));
}

bool guaranteed_replay(aiq_str source, const client_dialect *client, void *state,
                       continuation *said)
{
    const uint8_t *pos = (const uint8_t *)source.data, *end = pos + source.len;
    aiq_buf nothing = {0};
    sse_parser parser;
    sse_event event;
    bool done = false;

    sse_init(&parser);
    while (!done && sse_next(&parser, &pos, end, &event) == SSE_EVENT) {
        done = is_last(event.data);
        if (!done) {
            continuation_take(said, event.data);
        }
        client->event(state, event.data, false, &nothing);
        aiq_buf_consume(&nothing, nothing.len);
    }
    sse_free(&parser);
    aiq_buf_free(&nothing);
    return done;
}

static bool is_local(const policy_model *model)
{
    for (size_t i = 0; i < model->n_targets; i++) {
        if (strcmp(model->targets[i].provider->dialect, "local") != 0) {
            return false;
        }
    }
    return true;
}

chat_request *guaranteed_rest(const aiq_job *job, const policy_model *model,
                              const chat_request *chat, const continuation *said, aiq_err *err)
{
    chat_request *rest = aiq_pool_alloc(job->pool, sizeof(*rest));

    if (!said->allowed ||
        !(is_local(model) || aiq_str_is(job_header_value(job, "x-aiq-continue"), "allow"))) {
        aiq_fail(err, 502, "stream_broken_off",
                 "The engine that produced this stream has ended, and nobody may go on.");
        return NULL;
    }
    if (chat->dialect != AIQ_DIALECT_OPENAI) {
        chat = chat->translate ? chat->translate(chat, job->pool, err) : NULL;
        if (chat == NULL) {
            return NULL;
        }
    }
    *rest = *chat;
    rest->said =
        (aiq_str){aiq_pool_copy(job->pool, said->text.data, said->text.len), said->text.len};
    return rest;
}

/* How its client speaks, as far as the request tells. */
static aiq_dialect dialect_of(aiq_str request)
{
    aiq_pool *pool = aiq_pool_new();
    json_value uri = {0};
    json_error wrong;
    const json_want wants[] = {{"uri", &uri}};
    aiq_str path = json_scan(request.data, request.len, wants, 1, &wrong)
                       ? json_string(pool, &uri)
                       : AIQ_STR("");
    aiq_dialect dialect =
        aiq_dialect_of((aiq_text){"gateway", 7}, (aiq_text){path.data, path.len});

    aiq_pool_free(pool);
    return dialect;
}

/* Nobody can be asked to go on: who reads it is told. */
static void give_up(stream *s, aiq_str request, const aiq_err *why)
{
    static const stream_producer nobody = {0};
    const bool anthropic = dialect_of(request) == AIQ_DIALECT_ANTHROPIC;
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = why->status,
        .code = {why->code, strlen(why->code)},
        .message = {why->message, strlen(why->message)},
    };
    aiq_str text = {
        body,
        aiq_error_render(body, anthropic ? AIQ_DIALECT_ANTHROPIC : AIQ_DIALECT_OPENAI, &info)};
    aiq_buf out = {0};

    aiq_log(AIQ_LOG_WARN, "gateway", "nobody can go on with a stream",
            AIQ_S("stream", stream_id(s)), AIQ_S("code", why->code),
            AIQ_S("detail", why->detail[0] ? why->detail : why->message));
    (anthropic ? &client_anthropic : &client_openai)->error(NULL, text, &out);
    stream_produce(s, 0, &nobody, NULL);
    stream_add(s, out.data, out.len);
    stream_end(s);
    aiq_buf_free(&out);
}

void guaranteed_orphan(aiq_loop *loop, const durable_orphan *orphan)
{
    aiq_str body;
    aiq_err err;
    aiq_job *job = guaranteed_job(loop, orphan, &body, &err);

    if (job == NULL) {
        give_up(orphan->stream, orphan->request, &err);
        return;
    }
    gateway_go_on(job, orphan, body);
}
