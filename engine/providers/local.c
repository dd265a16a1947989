/*
 * The local dialect: a model in this process answers. Its events come on the
 * model's thread; they are gathered in the call and told on the loop, so that a
 * loop that is behind gets several tokens at once instead of a queue of
 * messages. A call lives until its last event has reached the loop, also where
 * the request was cancelled meanwhile.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "providers/local_chat.h"
#include "providers/local_models.h"
#include "providers/provider.h"

typedef struct {
    aiq_loop *loop;
    local_models *models;
    local_model *model;
    infer_req *request;
    provider_events events;
    void *arg;
    bool stream, wants_usage, cancelled, begun;
    aiq_buf prefix; /* what every chunk begins with */
    aiq_buf out;    /* a chunk, or the answer's text so far */

    pthread_mutex_t lock; /* guards the rest: what the model has said */
    aiq_buf text;
    bool told; /* the loop has been told that there is something */
    bool over; /* the last event has come */
    bool failed;
    infer_finish finish;
    provider_tokens tokens;
    char error[160];
} call;

/* On the model's thread. */

static void on_fresh(aiq_loop *loop, void *arg);

static void on_infer(void *arg, const infer_event *event)
{
    call *c = arg;

    pthread_mutex_lock(&c->lock);
    switch (event->type) {
    case INFER_TEXT:
        aiq_buf_add(&c->text, event->text, event->len);
        break;
    case INFER_DONE:
        c->over = true;
        c->finish = event->finish;
        c->tokens = (provider_tokens){event->prompt_tokens, event->completion_tokens, 0, 0, 0};
        break;
    case INFER_FAILED:
        c->over = c->failed = true;
        snprintf(c->error, sizeof(c->error), "%s", event->error);
        break;
    }
    bool tell = !c->told;
    c->told = true;
    /* the last use of c where the loop has been told already: it may free it */
    pthread_mutex_unlock(&c->lock);
    if (tell) {
        loop_post(c->loop, on_fresh, c);
    }
}

/* On the loop. */

static void call_free(call *c)
{
    if (c->request) {
        infer_release(c->request);
    }
    if (c->model) {
        local_models_done(c->models, c->model);
    }
    pthread_mutex_destroy(&c->lock);
    aiq_buf_free(&c->prefix);
    aiq_buf_free(&c->out);
    aiq_buf_free(&c->text);
    free(c);
}

static const char *finish_reason(infer_finish finish)
{
    return finish == INFER_FINISH_LENGTH ? "length" : "stop";
}

static void add_usage(aiq_buf *out, provider_tokens tokens)
{
    aiq_buf_printf(out,
                   "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld}",
                   (long long)tokens.in, (long long)tokens.out,
                   (long long)tokens.in + (long long)tokens.out);
}

/* A chunk: the prefix, its choices, and the usage that it must name. */
static void send_chunk(call *c, const provider_tokens *usage)
{
    if (usage) {
        aiq_buf_text(&c->out, ",\"usage\":");
        add_usage(&c->out, *usage);
    } else if (c->wants_usage) {
        aiq_buf_text(&c->out, ",\"usage\":null");
    }
    aiq_buf_text(&c->out, "}");
    c->events.event(c->arg, (aiq_str){(char *)c->out.data, c->out.len});
    aiq_buf_consume(&c->out, c->out.len);
}

static void send_delta(call *c, const char *field, const char *text, size_t len)
{
    aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
    aiq_buf_printf(&c->out, "[{\"index\":0,\"delta\":{%s", field);
    json_quote(&c->out, text, len);
    aiq_buf_text(&c->out, "},\"logprobs\":null,\"finish_reason\":null}]");
    send_chunk(c, NULL);
}

static void send_text(call *c, const aiq_buf *text)
{
    if (!c->begun) {
        c->begun = true;
        send_delta(c, "\"role\":\"assistant\",\"content\":", "", 0);
    }
    if (text->len) {
        send_delta(c, "\"content\":", (char *)text->data, text->len);
    }
}

static void send_end(call *c)
{
    aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
    aiq_buf_printf(&c->out,
                   "[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
                   finish_reason(c->finish));
    send_chunk(c, NULL);
    if (c->wants_usage) {
        aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
        aiq_buf_text(&c->out, "[]");
        send_chunk(c, &c->tokens);
    }
    c->events.event(c->arg, AIQ_STR("[DONE]"));
    c->events.done(c->arg, c->tokens);
}

static void send_reply(call *c)
{
    provider_reply reply = {.status = 200, .tokens = c->tokens};
    aiq_buf body = {0};

    aiq_buf_add(&body, c->prefix.data, c->prefix.len);
    aiq_buf_text(&body, "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    json_quote(&body, (char *)c->out.data, c->out.len);
    aiq_buf_printf(&body,
                   ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"%s\"}],\"usage\":",
                   finish_reason(c->finish));
    add_usage(&body, c->tokens);
    aiq_buf_text(&body, "}");
    reply.body = (aiq_str){(char *)body.data, body.len};
    c->events.reply(c->arg, &reply);
    aiq_buf_free(&body);
}

static void send_failure(call *c)
{
    aiq_err err;

    aiq_fail(&err, 500, "model_failed", "The model failed.");
    aiq_err_detail(&err, "%s", c->error);
    c->events.failed(c->arg, &err);
}

static void tell(call *c, const aiq_buf *text, bool over)
{
    if (c->stream) {
        if (text->len || (over && !c->failed)) {
            send_text(c, text);
        }
    } else {
        aiq_buf_add(&c->out, text->data, text->len);
    }
    if (!over) {
        return;
    }
    if (c->failed) {
        send_failure(c);
    } else if (c->stream) {
        send_end(c);
    } else {
        send_reply(c);
    }
}

static void on_fresh(aiq_loop *loop, void *arg)
{
    call *c = arg;

    (void)loop;
    pthread_mutex_lock(&c->lock);
    aiq_buf text = c->text;
    bool over = c->over;
    c->text = (aiq_buf){0};
    c->told = false;
    pthread_mutex_unlock(&c->lock);

    if (!c->cancelled) {
        tell(c, &text, over);
    }
    aiq_buf_free(&text);
    if (over) {
        call_free(c);
    }
}

/* Starting. */

static bool refused(infer_rc rc, const char *why, aiq_err *err)
{
    switch (rc) {
    case INFER_BUSY:
        aiq_fail(err, 429, "model_busy", "The model is busy. Try again later.");
        err->retry_after = 1;
        return false;
    case INFER_TOO_LONG:
        return aiq_fail_param(err, 400, "context_length_exceeded", "messages",
                              "The conversation is too long: %s.", why);
    case INFER_NOMEM:
        aiq_fail(err, 503, "model_unavailable", "The model has no memory for this request.");
        aiq_err_detail(err, "%s", why);
        return false;
    default:
        return aiq_fail_param(err, 400, "invalid_value", "messages",
                              "The model cannot take this conversation: %s.", why);
    }
}

/* {"id":…,"object":…,"created":…,"model":…,"choices": */
static void write_prefix(call *c, const chat_request *chat)
{
    uint8_t random[12] = {0};

    if (getrandom(random, sizeof(random), GRND_NONBLOCK) < 0) {
        memcpy(random, &(uint64_t){loop_now_ns()}, sizeof(uint64_t));
    }
    aiq_buf_text(&c->prefix, "{\"id\":\"chatcmpl-");
    for (size_t i = 0; i < sizeof(random); i++) {
        aiq_buf_printf(&c->prefix, "%02x", random[i]);
    }
    aiq_buf_printf(&c->prefix,
                   "\",\"object\":\"chat.completion%s\",\"created\":%lld,\"model\":",
                   c->stream ? ".chunk" : "", (long long)time(NULL));
    aiq_buf_add(&c->prefix, chat->model.text.data, chat->model.text.len);
    aiq_buf_text(&c->prefix, ",\"choices\":");
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    const policy_target *target = request->target;
    char why[200] = "";
    infer_params params;
    infer *model;

    if (!local_chat_params(request->chat, request->pool, &params, err)) {
        return NULL;
    }
    local_model *reference =
        local_models_use(request->models, target->provider, target->model, &model, err);
    if (reference == NULL) {
        return NULL;
    }
    call *c = aiq_zalloc(sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    c->loop = request->loop;
    c->models = request->models;
    c->model = reference;
    c->events = *events;
    c->arg = arg;
    c->stream = request->chat->stream;
    c->wants_usage = chat_request_wants_usage(request->chat);
    write_prefix(c, request->chat);
    infer_rc rc = infer_submit(model, &params, on_infer, c, &c->request, why, sizeof(why));
    if (rc != INFER_OK) {
        c->request = NULL;
        call_free(c);
        refused(rc, why, err);
        return NULL;
    }
    return c;
}

static void cancel(void *arg)
{
    call *c = arg;

    c->cancelled = true;
    infer_cancel(c->request);
}

static void pause_call(void *arg)
{
    infer_pause(((call *)arg)->request);
}

static void resume(void *arg)
{
    infer_resume(((call *)arg)->request);
}

const provider_dialect provider_local = {
    .dialect = "local",
    .speaks = AIQ_DIALECT_OPENAI,
    .start = start,
    .cancel = cancel,
    .pause = pause_call,
    .resume = resume,
};
