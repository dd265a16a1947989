/*
 * The anthropic dialect: any upstream with Anthropic's Messages API.
 *
 * A client of OpenAI's is translated, its request and the answer to it
 * (anthropic_request.h, anthropic_answer.h). A client of Anthropic's passes as it
 * came, but for the model's name: fields that nobody here knows work.
 *
 * What the provider says about the client's request (4xx) is passed on; what it
 * says about us (401, 403) or itself (5xx, redirects, HTML) is a 502, except that
 * it has too much to do (529), which is as good as a 503.
 */

#include <stdio.h>
#include <string.h>
#include <time.h>
#include "providers/anthropic_answer.h"
#include "providers/anthropic_request.h"
#include "providers/http.h"
#include "providers/provider.h"
#include "providers/rewrite.h"
#include "providers/sse.h"

#define REPLY_MAX (16u << 20)
#define ERROR_MAX (64u << 10)
#define KEY_LINE  "x-api-key: "
#define VERSION   "anthropic-version: 2023-06-01\r\n"

typedef struct {
    http_request *http; /* first, for provider_cancel() and its like */
    const policy_provider *provider;
    provider_events events;
    void *arg;
    bool stream, native;
    bool other; /* no message is asked for, but another endpoint */
    bool reading_events;
    aiq_buf request;
    aiq_str pieces[3]; /* the request's body: of request, or around a new name */
    unsigned status;
    uint32_t retry_after;
    aiq_buf body; /* of an answer that is no stream */
    sse_parser sse;
    anthropic_stream state;
} call;

/* Failing. */

static void fail_with(call *c, aiq_err *err)
{
    char detail[sizeof(err->detail)];

    snprintf(detail, sizeof(detail), "%s", err->detail);
    aiq_err_detail(err, "provider %s: %s", c->provider->name, detail);
    err->retry_after = c->retry_after;
    provider_cancel(c);
    c->events.failed(c->arg, err);
}

static void fail(call *c, unsigned status, const char *code, const char *message,
                 const char *detail)
{
    aiq_err err;

    aiq_fail(&err, status, code, "%s", message);
    aiq_err_detail(&err, "%s", detail);
    fail_with(c, &err);
}

static void fail_garbled(call *c, const char *detail)
{
    fail(c, 502, "provider_error", "The provider gave no valid reply.", detail);
}

/* The answer's head. */

static void on_head(void *arg, const http_head *head)
{
    call *c = arg;
    char detail[32];

    c->status = head->status;
    snprintf(detail, sizeof(detail), "status %u", head->status);
    c->retry_after = provider_retry_after(head);
    if (head->status == 401 || head->status == 403) {
        fail(c, 502, "provider_auth_failed", "The provider did not accept this server's key.",
             detail);
    } else if (head->status == 529) {
        fail(c, 503, "provider_overloaded", "The provider has too much to do.", detail);
    } else if (head->status >= 500 || (head->status != 200 && head->status < 400)) {
        fail(c, 502, "provider_error", "The provider failed.", detail);
    } else if (head->status == 200 && c->stream) {
        if (provider_is_type(head, "text/event-stream")) {
            c->reading_events = true;
        } else {
            fail_garbled(c, "no event stream");
        }
    } else {
        size_t expected = head->length > 0 && head->length < 65536 ? (size_t)head->length : 0;
        aiq_buf_reserve(&c->body, expected);
    }
}

/* A stream. */

/* False: it was wrong, and the call is over. */
static bool pass_event(call *c, aiq_str data)
{
    aiq_str chunks[2];
    size_t n;
    aiq_err err = {0};

    if (!anthropic_event(&c->state, data, chunks, &n, &err)) {
        fail_with(c, &err);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        c->events.event(c->arg, chunks[i]);
    }
    return true;
}

static void on_stream(call *c, aiq_str piece)
{
    const uint8_t *pos = (const uint8_t *)piece.data, *end = pos + piece.len;
    sse_event event;
    sse_result result;

    while ((result = sse_next(&c->sse, &pos, end, &event)) == SSE_EVENT) {
        if (!pass_event(c, event.data) || c->http == NULL) {
            return;
        }
    }
    if (result == SSE_TOO_LONG) {
        fail_garbled(c, "an event of more than 1 MiB");
    }
}

static void stream_done(call *c)
{
    sse_event event;
    aiq_str chunks[2];
    size_t n = 0;

    c->http = NULL;
    if (!c->state.done && sse_end(&c->sse, &event) == SSE_EVENT && !pass_event(c, event.data)) {
        return;
    }
    if (!c->state.done && !c->state.finished) {
        fail(c, 502, "provider_error", "The provider broke its reply off.",
             "the stream ended without message_stop");
        return;
    }
    if (!c->state.done) {
        anthropic_end(&c->state, chunks, &n);
    }
    for (size_t i = 0; i < n; i++) {
        c->events.event(c->arg, chunks[i]);
    }
    c->events.done(c->arg, anthropic_tokens(&c->state.usage));
}

/* A whole answer. */

static void on_body(void *arg, aiq_str piece)
{
    call *c = arg;

    if (c->reading_events) {
        on_stream(c, piece);
        return;
    }
    if (c->body.len + piece.len > (c->status == 200 ? REPLY_MAX : ERROR_MAX)) {
        fail_garbled(c, "too long a reply");
        return;
    }
    aiq_buf_add(&c->body, piece.data, piece.len);
}

/* Anthropic has no code for it, only a sentence. */
static provider_refusal refusal_of(aiq_str body)
{
    static const char too_long[] = "prompt is too long";

    return memmem(body.data, body.len, too_long, sizeof(too_long) - 1) ? PROVIDER_TOO_LONG
                                                                       : PROVIDER_NO_REFUSAL;
}

static void reply_done(call *c)
{
    aiq_str body = {(char *)c->body.data, c->body.len};
    provider_reply reply = {
        .status = c->status, .retry_after = c->retry_after, .tokens = PROVIDER_TOKENS_UNKNOWN};
    const char *wrong = "an error that is none";
    aiq_buf out = {0};
    bool ok;

    c->http = NULL;
    if (c->status == 200 && c->other) {
        json_error error;
        ok = json_scan(body.data, body.len, NULL, 0, &error);
        wrong = "no JSON";
        reply.tokens = (provider_tokens){0}; /* to count costs nothing */
    } else if (c->status == 200) {
        ok = anthropic_completion(body, (int64_t)time(NULL), &out, &reply.tokens, &wrong);
    } else {
        ok = anthropic_error(body, &out);
        reply.refusal = refusal_of(body);
    }
    reply.body = c->native ? body : (aiq_str){(char *)out.data, out.len};
    if (ok) {
        c->events.reply(c->arg, &reply);
    } else {
        fail_garbled(c, wrong);
    }
    aiq_buf_free(&out);
}

static void on_done(void *arg)
{
    call *c = arg;

    if (c->reading_events) {
        stream_done(c);
    } else {
        reply_done(c);
    }
}

static void on_failed(void *arg, const aiq_err *err)
{
    call *c = arg;

    c->http = NULL;
    if (c->state.done) {
        /* the answer was whole; how the connection ends is no concern of the client's */
        c->events.done(c->arg, anthropic_tokens(&c->state.usage));
    } else {
        c->events.failed(c->arg, err);
    }
}

/* The request. */

/* As the client sent it, but for the model's name. */
static size_t native_body(call *c, const chat_request *chat, const char *model)
{
    const char *at = chat->model.text.data, *start = chat->body.data;
    const char *behind = at + chat->model.text.len;

    json_quote(&c->request, model, strlen(model));
    c->pieces[0] = (aiq_str){start, (size_t)(at - start)};
    c->pieces[1] = (aiq_str){(char *)c->request.data, c->request.len};
    c->pieces[2] = (aiq_str){behind, chat->body.len - (size_t)(behind - start)};
    return 3;
}

static bool write_body(call *c, const provider_request *request, http_call *out, aiq_err *err)
{
    const char *model = request->target->model;

    out->body = c->pieces;
    if (c->native) {
        out->n_body = native_body(c, request->chat, model);
        return true;
    }
    if (!anthropic_request(request->chat, model, request->pool, &c->request, err)) {
        return false;
    }
    c->pieces[0] = (aiq_str){(char *)c->request.data, c->request.len};
    out->n_body = 1;
    return true;
}

/* Which words of the API are meant; a client of Anthropic's says so itself. */
static aiq_str lines(const chat_request *chat, bool native)
{
    return native ? chat->lines : AIQ_STR(VERSION);
}

/* The interface. */

static void release(void *arg)
{
    call *c = arg;

    aiq_buf_free(&c->request);
    aiq_buf_free(&c->body);
    sse_free(&c->sse);
    anthropic_stream_free(&c->state);
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    static const http_events http = {on_head, on_body, on_done, on_failed};
    const chat_request *chat = request->chat;
    call *c = aiq_pool_zalloc(request->pool, sizeof(*c));
    http_call out =
        provider_call(request->target->provider, chat->path ? chat->path : "/messages");
    aiq_str key;

    c->provider = request->target->provider;
    c->events = *events;
    c->arg = arg;
    c->stream = chat->stream;
    c->other = chat->path != NULL;
    c->native = chat->dialect == AIQ_DIALECT_ANTHROPIC;
    sse_init(&c->sse);
    anthropic_stream_init(&c->state, (int64_t)time(NULL), chat_request_wants_usage(chat));
    c->state.native = c->native;
    aiq_pool_cleanup(request->pool, release, c);
    if (!write_body(c, request, &out, err) || !provider_key(request, &key, err)) {
        return NULL;
    }
    out.headers = provider_headers(request, KEY_LINE, key, lines(chat, c->native));
    c->http = http_start(request->loop, &out, &http, c);
    return c;
}

const provider_dialect provider_anthropic = {
    .dialect = "anthropic",
    .speaks = AIQ_DIALECT_ANTHROPIC,
    .has_paths = true,
    .bills = true,
    .key_line = KEY_LINE,
    .lines = VERSION,
    .start = start,
    .cancel = provider_cancel,
    .pause = provider_pause,
    .resume = provider_resume,
};
