/* A client of OpenAI's API: everything is in its words already. */

#include <string.h>
#include "services/gateway/client.h"
#include "services/service.h"

void client_add_data(aiq_buf *out, aiq_str data)
{
    const char *pos = data.data, *end = pos + data.len;

    for (;;) {
        const char *line = memchr(pos, '\n', (size_t)(end - pos));
        aiq_buf_add(out, "data: ", 6);
        aiq_buf_add(out, pos, (size_t)((line ? line : end) - pos));
        aiq_buf_add(out, "\n", 1);
        if (line == NULL) {
            break;
        }
        pos = line + 1;
    }
    aiq_buf_add(out, "\n", 1);
}

static bool parse(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    (void)job;
    return chat_request_parse(chat, body, err);
}

/* /v1/embeddings and the like: a path behind the provider's url, which ends with /v1. */
static bool parse_other(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    return chat_request_parse_other(chat, job->route->path + strlen("/v1"), body, err);
}

static void add_event(void *stream, aiq_str data, bool native, aiq_buf *out)
{
    (void)stream;
    (void)native;
    client_add_data(out, data);
}

static void add_end(void *stream, bool native, aiq_buf *out)
{
    (void)stream;
    (void)native;
    (void)out;
}

static void add_error(void *stream, aiq_str body, aiq_buf *out)
{
    (void)stream;
    client_add_data(out, body);
}

static bool reply(const aiq_job *job, const chat_request *chat, unsigned status, aiq_str *body,
                  aiq_buf *out)
{
    (void)chat;
    (void)job;
    (void)status;
    (void)body;
    (void)out;
    return true;
}

const client_dialect client_openai = {
    .parse = parse,
    .event = add_event,
    .end = add_end,
    .error = add_error,
    .reply = reply,
};

const client_dialect client_passing = {
    .parse = parse_other,
    .event = add_event,
    .end = add_end,
    .error = add_error,
    .reply = reply,
};
