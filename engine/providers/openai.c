/*
 * The openai dialect: any upstream with OpenAI's API.
 *
 * The request goes out as it came, but for two places: the model's name is the
 * target's, and a stream always reports its usage, for we account for it; what
 * the client did not ask for is taken out of the answer again (openai_chunk.c).
 * The answer's JSON is checked, never written anew.
 *
 * What the provider says about the client's request (4xx) is passed on; what it
 * says about us (401, 403) or itself (5xx, redirects, HTML) is a 502.
 */

#include <stdio.h>
#include <string.h>
#include "providers/http.h"
#include "providers/openai_chunk.h"
#include "providers/openai_lacking.h"
#include "providers/provider.h"
#include "providers/sse.h"
#include "providers/usage_scan.h"

#define REPLY_MAX (64u << 20) /* embeddings of 2,048 texts are 32 MB */
#define ERROR_MAX (64u << 10)
#define KEY_LINE  "Authorization: Bearer "

typedef struct {
    http_request *http; /* first, for provider_cancel() and its like */
    const policy_provider *provider;
    aiq_pool *pool;
    provider_events events;
    void *arg;
    bool stream, wants_usage, generates;
    bool reading_events;
    bool raw, passing; /* may pass what is no JSON; does so */
    bool no_model;     /* so there is no usage to look for in what passes */
    usage_scan *scan;  /* or it is looked for here; NULL: there is none */
    aiq_str pieces[7]; /* the request's body */
    unsigned status;
    uint32_t retry_after;
    aiq_buf body; /* of an answer that is no stream */
    sse_parser sse;
    openai_stream state;
} call;

/* Failing. */

static void fail_with(call *c, const aiq_err *err)
{
    provider_cancel(c);
    c->events.failed(c->arg, err);
}

static void fail(call *c, const char *code, const char *message, const char *detail)
{
    aiq_err err;

    aiq_fail(&err, 502, code, "%s", message);
    aiq_err_detail(&err, "provider %s: %s", c->provider->name, detail);
    err.retry_after = c->retry_after;
    fail_with(c, &err);
}

static void fail_status(call *c, const char *code, const char *message)
{
    char detail[32];

    snprintf(detail, sizeof(detail), "status %u", c->status);
    fail(c, code, message, detail);
}

static void fail_garbled(call *c, const char *detail)
{
    fail(c, "provider_error", "The provider gave no valid reply.", detail);
}

/* The request. */

static size_t add_piece(call *c, size_t n, const char *from, const char *to)
{
    if (to > from) {
        c->pieces[n++] = (aiq_str){from, (size_t)(to - from)};
    }
    return n;
}

typedef struct {
    const char *at, *end; /* this part of the body … */
    aiq_str put;          /* … becomes this */
} edit;

/* Where the request must say that a stream ends with its usage. */
static edit usage_edit(const chat_request *chat)
{
    const json_value *options = &chat->stream_options, *usage = &chat->include_usage;
    const char *brace = memchr(chat->body.data, '{', chat->body.len), *start = brace + 1;

    if (options->type == JSON_NONE) {
        return (edit){start, start, AIQ_STR("\"stream_options\":{\"include_usage\":true},")};
    }
    if (options->type == JSON_NULL || options->count == 0) {
        return (edit){options->text.data, options->text.data + options->text.len,
                      AIQ_STR("{\"include_usage\":true}")};
    }
    if (usage->type == JSON_NONE) {
        start = options->text.data + 1;
        return (edit){start, start, AIQ_STR("\"include_usage\":true,")};
    }
    return (edit){usage->text.data, usage->text.data + usage->text.len, AIQ_STR("true")};
}

static edit model_edit(const chat_request *chat, const policy_target *target, aiq_pool *pool)
{
    aiq_buf name = {0};

    if (chat->form_model.data) {
        const char *at = chat->form_model.data;
        return (edit){at, at + chat->form_model.len, {target->model, strlen(target->model)}};
    }
    json_quote(&name, target->model, strlen(target->model));
    aiq_str put = {aiq_pool_copy(pool, name.data, name.len), name.len};
    aiq_buf_free(&name);
    return (edit){chat->model.text.data, chat->model.text.data + chat->model.text.len, put};
}

/* Where the request must say how long the answer may be. older: under its older name, for
 * the older completions and some providers know no other. */
static edit cap_edit(const chat_request *chat, bool older, aiq_pool *pool)
{
    const json_value *most = &chat->max_completion_tokens;
    const char *brace = memchr(chat->body.data, '{', chat->body.len), *start = brace + 1;
    const char *name = "max_completion_tokens";

    if (older) {
        most = &chat->max_tokens;
        name = "max_tokens";
    }
    char *text = aiq_pool_alloc(pool, 64), *end = text;
    if (most->type == JSON_NULL) {
        end = aiq_put_decimal(end, chat->cap);
        return (edit){
            most->text.data, most->text.data + most->text.len, {text, (size_t)(end - text)}};
    }
    end = stpcpy(stpcpy(stpcpy(end, "\""), name), "\":");
    end = stpcpy(aiq_put_decimal(end, chat->cap), ",");
    return (edit){start, start, {text, (size_t)(end - text)}};
}

/* Puts an edit behind those that come before it in the body. */
static void add_edit(edit *edits, size_t *n, edit new)
{
    size_t at = (*n)++;

    for (; at > 0 && edits[at - 1].at > new.at; at--) {
        edits[at] = edits[at - 1];
    }
    edits[at] = new;
}

static size_t write_body(call *c, const provider_request *request)
{
    const chat_request *chat =
        c->raw ? request->chat : openai_without(request->chat, c->provider, request->pool);
    const char *pos = chat->body.data, *end = pos + chat->body.len;
    edit edits[3] = {0};
    size_t n_edits = 0, n = 0;

    if (chat->model.type != JSON_NONE &&
        !json_string_is(&chat->model, request->target->model)) {
        add_edit(edits, &n_edits, model_edit(chat, request->target, request->pool));
    }
    if (chat->stream && !c->provider->no_stream_options && !chat_request_wants_usage(chat)) {
        add_edit(edits, &n_edits, usage_edit(chat));
    }
    if (chat->cap) {
        add_edit(
            edits, &n_edits,
            cap_edit(chat, chat->path || c->provider->no_max_completion_tokens, request->pool));
    }
    for (size_t i = 0; i < n_edits; i++) {
        n = add_piece(c, n, pos, edits[i].at);
        n = add_piece(c, n, edits[i].put.data, edits[i].put.data + edits[i].put.len);
        pos = edits[i].end;
    }
    return add_piece(c, n, pos, end);
}

/* The answer's head. */

static void on_head(void *arg, const http_head *head)
{
    call *c = arg;

    c->status = head->status;
    c->retry_after = provider_retry_after(head);
    if (head->status == 401 || head->status == 403) {
        fail_status(c, "provider_auth_failed",
                    "The provider did not accept this server's key.");
    } else if (head->status >= 500 || (head->status != 200 && head->status < 400)) {
        fail_status(c, "provider_error", "The provider failed.");
    } else if (head->status == 200 && c->stream) {
        if (provider_is_type(head, "text/event-stream")) {
            c->reading_events = true;
        } else {
            fail_garbled(c, "no event stream");
        }
    } else if (head->status == 200 && c->raw &&
               (c->no_model || !provider_is_type(head, "application/json"))) {
        c->passing = true;
        if (!c->no_model && provider_is_type(head, "text/event-stream")) {
            c->scan = aiq_pool_zalloc(c->pool, sizeof(*c->scan));
        }
        c->events.type(c->arg, http_head_get(head, "content-type"));
    } else {
        size_t expected = head->length > 0 && head->length < 65536 ? (size_t)head->length : 0;
        aiq_buf_reserve(&c->body, expected);
    }
}

/* A stream. */

/* False: the call is over. */
static bool pass_event(call *c, const sse_event *event)
{
    const char *wrong = NULL;
    aiq_str data = event->data;

    switch (openai_chunk(&c->state, &data, c->wants_usage, &wrong)) {
    case OPENAI_PASS:
        c->events.event(c->arg, data);
        return c->http != NULL;
    case OPENAI_DROP:
        return true;
    default:
        fail(c, "provider_error", "The provider broke its reply off with an error.", wrong);
        return false;
    }
}

static void on_stream(call *c, aiq_str piece)
{
    const uint8_t *pos = (const uint8_t *)piece.data, *end = pos + piece.len;
    sse_event event;
    sse_result result;

    while ((result = sse_next(&c->sse, &pos, end, &event)) == SSE_EVENT) {
        if (!pass_event(c, &event)) {
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

    c->http = NULL;
    if (!c->state.done && sse_end(&c->sse, &event) == SSE_EVENT) {
        const char *wrong = NULL;
        aiq_str data = event.data;
        openai_verdict verdict = openai_chunk(&c->state, &data, c->wants_usage, &wrong);
        if (verdict == OPENAI_BAD) {
            fail_garbled(c, wrong);
            return;
        }
        if (verdict == OPENAI_PASS) {
            c->events.event(c->arg, data);
        }
    }
    if (c->state.done || c->state.finished) {
        c->events.done(c->arg, c->state.tokens);
    } else {
        fail(c, "provider_error", "The provider broke its reply off.",
             "the stream ended without [DONE]");
    }
}

/* A whole answer. */

static void on_body(void *arg, aiq_str piece)
{
    call *c = arg;

    if (c->reading_events) {
        on_stream(c, piece);
        return;
    }
    if (c->passing) {
        if (c->scan) {
            usage_scan_add(c->scan, piece);
        }
        c->events.event(c->arg, piece);
        return;
    }
    if (c->body.len + piece.len > (c->status == 200 ? REPLY_MAX : ERROR_MAX)) {
        fail_garbled(c, "too long a reply");
        return;
    }
    aiq_buf_add(&c->body, piece.data, piece.len);
}

/* By OpenAI's own words and Azure's. */
static provider_refusal refusal_of(const json_value *error)
{
    json_value code = json_member(error, "code");

    if (json_string_is(&code, "context_length_exceeded")) {
        return PROVIDER_TOO_LONG;
    }
    if (json_string_is(&code, "content_policy_violation") ||
        json_string_is(&code, "content_filter")) {
        return PROVIDER_AGAINST_RULES;
    }
    return PROVIDER_NO_REFUSAL;
}

static void reply_done(call *c)
{
    json_value usage, error;
    json_error wrong;
    const json_want wants[] = {{"usage", &usage}, {"error", &error}};
    provider_reply reply = {.status = c->status, .retry_after = c->retry_after};

    c->http = NULL;
    reply.body = (aiq_str){(char *)c->body.data, c->body.len};
    if (!json_scan(reply.body.data, reply.body.len, wants, 2, &wrong)) {
        fail_garbled(c, wrong.reason);
        return;
    }
    if ((c->status != 200) != (error.type == JSON_OBJECT)) {
        fail_garbled(c, "an error that is none, or the reverse");
        return;
    }
    reply.tokens = openai_usage(&usage);
    if (!c->generates && reply.tokens.out < 0) {
        reply.tokens.out = 0; /* an embedding's usage says nothing of an answer */
    }
    if (c->status != 200) {
        reply.refusal = refusal_of(&error);
    }
    c->events.reply(c->arg, &reply);
}

static void passed(call *c)
{
    provider_tokens tokens = PROVIDER_TOKENS_UNKNOWN;

    c->http = NULL;
    if (c->no_model) {
        tokens = (provider_tokens){0}; /* a file costs nothing */
    } else if (c->scan) {
        tokens = usage_scan_tokens(c->scan);
    }
    c->events.done(c->arg, tokens);
}

static void on_done(void *arg)
{
    call *c = arg;

    if (c->reading_events) {
        stream_done(c);
    } else if (c->passing) {
        passed(c);
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
        c->events.done(c->arg, c->state.tokens);
    } else {
        c->events.failed(c->arg, err);
    }
}

/* The interface. */

static void release(void *arg)
{
    call *c = arg;

    aiq_buf_free(&c->body);
    sse_free(&c->sse);
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    static const http_events http = {on_head, on_body, on_done, on_failed};
    const policy_provider *p = request->target->provider;
    call *c = aiq_pool_zalloc(request->pool, sizeof(*c));
    aiq_str key = {0};

    c->provider = p;
    c->pool = request->pool;
    c->events = *events;
    c->arg = arg;
    c->stream = request->chat->stream;
    c->generates = chat_request_generates(request->chat);
    c->raw = request->chat->raw;
    c->no_model = request->chat->model.type == JSON_NONE;
    c->wants_usage = chat_request_wants_usage(request->chat);
    c->state.tokens = PROVIDER_TOKENS_UNKNOWN;
    sse_init(&c->sse);
    if (!provider_key(request, &key, err)) {
        return NULL;
    }
    aiq_pool_cleanup(request->pool, release, c);
    const char *path = request->chat->path;
    http_call out = provider_call(p, path ? path : "/chat/completions");
    out.method = request->chat->method ? request->chat->method : out.method;
    out.query = provider_query(request);
    out.headers = provider_headers(request, KEY_LINE, key, AIQ_STR(""));
    out.body = c->pieces;
    out.n_body = write_body(c, request);
    out.filling = request->chat->filling;
    c->http = http_start(request->loop, &out, &http, c);
    return c;
}

const provider_dialect provider_openai = {
    .dialect = "openai",
    .speaks = AIQ_DIALECT_OPENAI,
    .has_paths = true,
    .bills = true,
    .key_line = KEY_LINE,
    .lines = "",
    .start = start,
    .cancel = provider_cancel,
    .pause = provider_pause,
    .resume = provider_resume,
};
