#include "services/events/reply.h"

#include <string.h>
#include <strings.h>

#define KEEPALIVE_MS 15000

bool event_reply_asked(const aiq_job *job)
{
    static const char type[] = "text/event-stream";
    const char *pos = job->accept.data, *end = pos + job->accept.len;

    for (; end - pos >= (ptrdiff_t)sizeof(type) - 1; pos++) {
        if (strncasecmp(pos, type, sizeof(type) - 1) == 0) {
            return job->method != AIQ_METHOD_HEAD; /* whose reply must end */
        }
    }
    return false;
}

void event_reply_nothing_more(aiq_job *job)
{
    job_reply_all(job, 204, NULL, "", 0);
}

static void on_keepalive(aiq_loop *loop, void *arg)
{
    event_reply *s = arg;
    uint64_t quiet_ms = (loop_turn_ns(s->job->loop) - s->sent_ns) / 1000000,
             wait = KEEPALIVE_MS;

    if (quiet_ms < KEEPALIVE_MS) {
        wait = KEEPALIVE_MS - quiet_ms;
    } else if (s->out.len == 0 && s->rest.len == 0) {
        aiq_buf_text(&s->out, ": keep-alive\n");
        (void)event_reply_send(s);
    }
    loop_timer_start(loop, &s->keepalive, wait, on_keepalive, s);
}

void event_reply_begin(event_reply *s, const job_header *header, bool endless)
{
    job_header headers[2] = {{AIQ_STR("cache-control"), AIQ_STR("no-cache")}};

    if (header) {
        headers[1] = *header;
    }
    job_head(s->job, &(job_reply){.status = 200,
                                  .content_type = "text/event-stream",
                                  .content_length = -1,
                                  .stream = true,
                                  .endless = endless,
                                  .headers = headers,
                                  .n_headers = header ? 2 : 1});
    s->sent_ns = loop_turn_ns(s->job->loop);
    loop_timer_start(s->job->loop, &s->keepalive, KEEPALIVE_MS, on_keepalive, s);
}

void event_reply_retry(event_reply *s)
{
    aiq_buf_printf(&s->out, "retry: %d\n", STREAM_RETRY_MS);
}

void event_reply_failure(event_reply *s, const aiq_err *err)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = err->status,
        .code = {err->code, strlen(err->code)},
        .message = {err->message, strlen(err->message)},
        .request_id = {s->job->request_id.data, s->job->request_id.len},
    };
    size_t n = aiq_error_render(body, AIQ_DIALECT_OWN, &info);

    aiq_buf_printf(&s->out, "event: %s\ndata: %.*s\n\n", err->code, (int)n, body);
}

bool event_reply_send(event_reply *s)
{
    size_t sent = s->out.len ? job_write(s->job, s->out.data, s->out.len, true) : 0;

    s->sent_ns = loop_turn_ns(s->job->loop);
    aiq_buf_consume(&s->out, sent);
    if (s->out.len) {
        return false;
    }
    aiq_buf_free(&s->out); /* a quiet reader holds nothing */
    sent = s->rest.len ? job_write(s->job, s->rest.data, s->rest.len, true) : 0;
    s->rest = (aiq_str){s->rest.data + sent, s->rest.len - sent};
    return s->rest.len == 0;
}

void event_reply_stop(event_reply *s)
{
    loop_timer_stop(s->job->loop, &s->keepalive);
    s->rest.len = 0;
}

void event_reply_end(event_reply *s)
{
    event_reply_stop(s);
    job_end(s->job);
}

void event_reply_free(event_reply *s)
{
    event_reply_stop(s);
    aiq_buf_free(&s->out);
}
