/* A chat on /ws: a job of the gateway, whose server-sent events become events of ours. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/json.h"
#include "ledger/ledger.h"
#include "services/ws/ws.h"
#include "streams/streams.h"

/* A reply that is no stream is an error, which a provider may have worded. */
#define BODY_MAX 65536

typedef struct {
    ws_flow flow; /* first */
    aiq_job *job;
    bool plain;   /* its reply is no stream but … */
    aiq_buf body; /* … this, with … */
    unsigned status;
    bool failed; /* it has said so */
    aiq_usage usage;
} chat_flow;

static void over(chat_flow *c)
{
    ws *w = c->flow.ws;

    w->n_chats--;
    aiq_buf_free(&c->body);
    ws_flow_end(&c->flow);
}

/* The reply's head. */

static void on_head(void *arg, const job_reply *reply)
{
    chat_flow *c = arg;
    aiq_buf data = {0};

    c->status = reply->status;
    c->plain = !reply->stream;
    if (c->plain) {
        return;
    }
    aiq_buf_text(&data, "{\"headers\":{");
    for (size_t i = 0; i < reply->n_headers; i++) {
        const job_header *h = &reply->headers[i];
        if (aiq_str_is(h->name, "x-aiq-stream") && h->value.len < sizeof(c->flow.source)) {
            memcpy(c->flow.source, h->value.data, h->value.len);
        }
        aiq_buf_text(&data, i ? "," : "");
        json_quote(&data, h->name.data, h->name.len);
        aiq_buf_text(&data, ":");
        json_quote(&data, h->value.data, h->value.len);
    }
    aiq_buf_text(&data, "}}");
    ws_say(c->flow.ws, &(ws_event){.type = "started",
                                   .flow = &c->flow,
                                   .data = {(char *)data.data, data.len}});
    aiq_buf_free(&data);
    ws_flush(c->flow.ws);
}

/* Its events. They are ours: the gateway wrote them line by line. */

static uint64_t number(aiq_str text)
{
    uint64_t n = 0;

    for (size_t i = 0; i < text.len && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        n = n * 10 + (uint64_t)(text.data[i] - '0');
    }
    return n;
}

/* An event's lines, without the empty one. */
static void on_event(chat_flow *c, const char *pos, const char *end)
{
    aiq_str name = AIQ_STR(""), data = AIQ_STR(""), value;
    aiq_buf lines = {0};
    const char *newline;
    bool has_data = false;

    c->flow.seq++;
    for (; (newline = memchr(pos, '\n', (size_t)(end - pos))) != NULL; pos = newline + 1) {
        aiq_str line = {pos, (size_t)(newline - pos)};
        if (aiq_str_after(line, "id: ", &value)) {
            c->flow.seq = number(value);
        } else if (aiq_str_after(line, "event: ", &value)) {
            name = value;
        } else if (aiq_str_after(line, "data: ", &value) && !has_data) {
            has_data = true;
            data = value;
        } else if (aiq_str_after(line, "data: ", &value)) {
            aiq_buf_add(&lines, data.data, lines.len ? 0 : data.len);
            aiq_buf_text(&lines, "\n");
            aiq_buf_add(&lines, value.data, value.len);
        }
    }
    if (lines.len) {
        data = (aiq_str){(char *)lines.data, lines.len};
    }
    if (has_data && !aiq_str_is(data, "[DONE]")) { /* which on_end() says, with the usage */
        c->failed |= !ws_say_delta(&c->flow, name, AIQ_STR(""), data);
    }
    aiq_buf_free(&lines);
}

/* Behind the first event or comment; NULL: it is not whole. */
static const char *first_end(const char *pos, const char *end)
{
    const char *line = pos;

    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        line++;
        if (*pos == ':' || (line < end && *line == '\n')) {
            return *pos == ':' ? line : line + 1;
        }
    }
    return NULL;
}

static size_t take_body(chat_flow *c, const char *data, size_t n)
{
    size_t room = BODY_MAX - c->body.len;

    aiq_buf_add(&c->body, data, n < room ? n : room);
    return n;
}

static size_t on_write(void *arg, const char *data, size_t n)
{
    chat_flow *c = arg;
    const char *pos = data, *end = data + n, *next;

    if (c->plain) {
        return take_body(c, data, n);
    }
    while (pos < end && ws_has_room(c->flow.ws)) {
        next = first_end(pos, end);
        if (next && *pos != ':') {
            on_event(c, pos, next - 1);
        }
        pos = next ? next : end; /* what is not whole is let go, as a log does */
    }
    c->flow.stalled = pos < end;
    ws_flush(c->flow.ws);
    return (size_t)(pos - data);
}

/* Its end. */

static void on_usage(void *arg, const aiq_usage *usage)
{
    ((chat_flow *)arg)->usage = *usage;
}

static void add_count(aiq_buf *out, const char *name, int64_t n)
{
    if (n >= 0) {
        aiq_buf_printf(out, "\"%s\":%lld,", name, (long long)n);
    } else {
        aiq_buf_printf(out, "\"%s\":null,", name);
    }
}

static void say_done(chat_flow *c)
{
    char usd[LEDGER_USD_SIZE];
    aiq_buf data = {0};

    aiq_buf_text(&data, "{\"usage\":{");
    add_count(&data, "tokens_in", c->usage.tokens_in);
    add_count(&data, "tokens_out", c->usage.tokens_out);
    add_count(&data, "first_token_us", c->usage.first_token_us);
    if (c->usage.cost_nano_usd >= 0) {
        size_t n = ledger_write_usd(usd, c->usage.cost_nano_usd);
        aiq_buf_printf(&data, "\"cost_usd\":\"%.*s\"}}", (int)n, usd);
    } else {
        aiq_buf_text(&data, "\"cost_usd\":null}}");
    }
    ws_say(
        c->flow.ws,
        &(ws_event){.type = "done", .flow = &c->flow, .data = {(char *)data.data, data.len}});
    aiq_buf_free(&data);
}

/* The error that a provider has answered with, in its words. */
static void say_body(chat_flow *c)
{
    json_value error;
    const json_want want = {"error", &error};
    json_error wrong;
    aiq_buf data = {0};
    aiq_err err;

    if (!json_scan((char *)c->body.data, c->body.len, &want, 1, &wrong) ||
        error.type != JSON_OBJECT) {
        aiq_fail(&err, c->status >= 400 ? c->status : 502, "provider_error",
                 "The provider gave no valid reply.");
        ws_say_error(c->flow.ws, &c->flow, AIQ_STR(""), &err);
        return;
    }
    aiq_buf_text(&data, "{\"error\":");
    aiq_buf_add(&data, error.text.data, error.text.len);
    aiq_buf_printf(&data, ",\"status\":%u}", c->status);
    ws_say(
        c->flow.ws,
        &(ws_event){.type = "error", .flow = &c->flow, .data = {(char *)data.data, data.len}});
    aiq_buf_free(&data);
}

static void on_end(void *arg)
{
    chat_flow *c = arg;
    ws *w = c->flow.ws;

    if (c->plain) {
        say_body(c);
    } else if (!c->failed) {
        say_done(c);
    }
    over(c);
    ws_flush(w);
}

static void on_failed(void *arg, const aiq_err *err)
{
    chat_flow *c = arg;
    ws *w = c->flow.ws;

    ws_say_error(w, &c->flow, AIQ_STR(""), err);
    over(c);
    ws_flush(w);
}

/* The flow. */

static void wake(ws_flow *flow)
{
    job_inner_writable(((chat_flow *)flow)->job);
}

static void leave(ws_flow *flow, bool stop)
{
    chat_flow *c = (chat_flow *)flow;
    const aiq_job *job = flow->ws->job;

    job_inner_leave(c->job, false);
    if (stop && flow->source[0]) {
        stream_stop(job->loop, (aiq_str){flow->source, strlen(flow->source)}, job->tenant);
    }
    over(c);
}

bool ws_chat(ws *w, const ws_message *m, aiq_err *err)
{
    static const job_sink sink = {on_head, on_write, on_usage, on_end, on_failed};
    static const ws_flow_kind kind = {wake, leave};
    char request_id[65];
    aiq_buf body = {0};

    /* the connection's with a number, so that the logs of both are found */
    int n = snprintf(request_id, sizeof(request_id), "%.*s.%llu",
                     w->job->request_id.len < 44 ? (int)w->job->request_id.len : 44,
                     w->job->request_id.data, (unsigned long long)++w->chats);
    ws_message_chat(m, &body);
    chat_flow *c = aiq_zalloc(sizeof(*c));
    const job_question question = {
        .service = "gateway",
        .method = AIQ_METHOD_POST,
        .uri = AIQ_STR("/v1/chat/completions"),
        .request_id = {request_id, (size_t)n},
        .headers = m->headers,
        .n_headers = m->n_headers,
        .body_length = body.len,
    };
    c->flow.kind = &kind;
    c->usage = (aiq_usage){-1, -1, -1, -1};
    aiq_job *job = c->job = job_inner(w->job, &question, &sink, c, err);
    if (job) {
        w->n_chats++;
        ws_flow_add(w, &c->flow, m);
        job_inner_start(job, (aiq_str){(char *)body.data, body.len});
    } else {
        free(c);
    }
    aiq_buf_free(&body);
    return job != NULL;
}
