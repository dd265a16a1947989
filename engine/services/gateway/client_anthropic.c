/* A client of Anthropic's Messages API. Its SDK goes by the event: lines. */

#include <string.h>
#include "providers/rewrite.h"
#include "services/gateway/client.h"
#include "services/gateway/messages_answer.h"
#include "services/gateway/messages_request.h"

/* What such a client says of itself, for a provider of the same dialect. */
static aiq_str head_lines(const aiq_job *job)
{
    static const char version[] = "anthropic-version", fallback[] = "2023-06-01";
    aiq_buf out = {0};
    bool said = false;

    for (size_t i = 0; i < job->n_headers; i++) {
        const job_header *h = &job->headers[i];
        said |= aiq_str_is(h->name, version);
        if (aiq_str_is(h->name, version) || aiq_str_is(h->name, "anthropic-beta")) {
            aiq_buf_add(&out, h->name.data, h->name.len);
            aiq_buf_text(&out, ": ");
            aiq_buf_add(&out, h->value.data, h->value.len);
            aiq_buf_text(&out, "\r\n");
        }
    }
    if (!said) {
        aiq_buf_printf(&out, "%s: %s\r\n", version, fallback);
    }
    aiq_str lines = {aiq_pool_copy(job->pool, out.data, out.len), out.len};
    aiq_buf_free(&out);
    return lines;
}

static bool parse(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    if (!messages_request_parse(chat, body, err)) {
        return false;
    }
    chat->lines = head_lines(job);
    return true;
}

/* A provider of the same dialect checks what it counts, a local model what translate() makes of
 * it; others cannot count. */
static bool parse_count(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    json_error error;
    const json_want wants[] = {{"model", &chat->model}};

    *chat = (chat_request){.body = body,
                           .path = "/messages/count_tokens",
                           .dialect = AIQ_DIALECT_ANTHROPIC,
                           .lines = head_lines(job),
                           .translate = messages_request_translate_count};
    if (!json_scan(body.data, body.len, wants, 1, &error)) {
        return chat_request_not_json(err, &error);
    }
    return chat->model.type == JSON_STRING || rewrite_invalid(err, "a string", "model");
}

static void add_named(aiq_str type, aiq_str data, aiq_buf *out)
{
    aiq_buf_text(out, "event: ");
    aiq_buf_add(out, type.data, type.len);
    aiq_buf_text(out, "\n");
    client_add_data(out, data);
}

static void add_event(void *stream, aiq_str data, bool native, aiq_buf *out)
{
    json_value type;
    json_error error;
    const json_want wants[] = {{"type", &type}};

    if (!native) {
        messages_chunk(stream, data, out);
    } else if (json_scan(data.data, data.len, wants, 1, &error)) {
        add_named(rewrite_raw(&type), data, out);
    }
}

static void add_end(void *stream, bool native, aiq_buf *out)
{
    if (!native) {
        messages_end(stream, out);
    }
}

static void add_error(void *stream, aiq_str body, aiq_buf *out)
{
    (void)stream;
    add_named(AIQ_STR("error"), body, out);
}

static void release(void *stream)
{
    messages_free(stream);
}

/* OpenAI's error in Anthropic's envelope. */
static bool add_refusal(const aiq_job *job, unsigned status, aiq_str body, aiq_buf *out)
{
    json_value error;
    json_error wrong;
    const json_want wants[] = {{"error", &error}};
    char text[AIQ_ERROR_BODY_MAX];

    if (!json_scan(body.data, body.len, wants, 1, &wrong)) {
        return false;
    }
    json_value value = json_member(&error, "message");
    aiq_str message = json_string(job->pool, &value);
    const aiq_error_info info = {
        .status = status,
        .message = {message.data, message.len},
        .request_id = {job->request_id.data, job->request_id.len},
    };
    aiq_buf_add(out, text, aiq_error_render(text, AIQ_DIALECT_ANTHROPIC, &info));
    return true;
}

static bool reply(const aiq_job *job, const chat_request *chat, unsigned status, aiq_str *body,
                  aiq_buf *out)
{
    (void)chat;
    bool ok = status == 200 ? messages_completion(*body, job->pool, out)
                            : add_refusal(job, status, *body, out);

    *body = (aiq_str){(char *)out->data, out->len};
    return ok;
}

const client_dialect client_anthropic = {
    .parse = parse,
    .stream_size = sizeof(messages_stream),
    .event = add_event,
    .end = add_end,
    .error = add_error,
    .release = release,
    .reply = reply,
};

const client_dialect client_counting = {
    .parse = parse_count,
    .error = add_error,
    .reply = reply,
};
