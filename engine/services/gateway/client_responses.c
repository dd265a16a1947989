/* A client of OpenAI's Responses API, which no provider here is asked in: see
 * responses_request.h. */

#include <time.h>
#include "services/gateway/client.h"
#include "services/gateway/responses_answer.h"
#include "services/gateway/responses_request.h"

static bool parse(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err)
{
    (void)job;
    return responses_request_parse(chat, body, err);
}

static void begin(void *stream, const chat_request *chat)
{
    responses_begin(stream, chat, (int64_t)time(NULL));
}

static void add_event(void *stream, aiq_str data, bool native, aiq_buf *out)
{
    (void)native;
    responses_chunk(stream, data, out);
}

static void add_end(void *stream, bool native, aiq_buf *out)
{
    (void)native;
    responses_end(stream, out);
}

static void add_error(void *stream, aiq_str body, aiq_buf *out)
{
    responses_error(stream, body, out);
}

static void release(void *stream)
{
    responses_free(stream);
}

/* An error is OpenAI's already. */
static bool reply(const aiq_job *job, const chat_request *chat, unsigned status, aiq_str *body,
                  aiq_buf *out)
{
    (void)job;
    if (status != 200) {
        return true;
    }
    if (!responses_completion(*body, chat, (int64_t)time(NULL), out)) {
        return false;
    }
    *body = (aiq_str){(char *)out->data, out->len};
    return true;
}

const client_dialect client_responses = {
    .parse = parse,
    .stream_size = sizeof(responses_stream),
    .begin = begin,
    .event = add_event,
    .end = add_end,
    .error = add_error,
    .release = release,
    .reply = reply,
};
