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
#include "infer/tokenizer.h"
#include "providers/local_chat.h"
#include "providers/local_models.h"
#include "providers/provider.h"

typedef struct call call;

/* One of the answers that a request asked for. */
typedef struct {
    call *call;
    unsigned index;
    infer_req *request;
    bool begun;                    /* its role has been sent */
    bool over;                     /* the loop knows its end */
    aiq_buf whole, whole_logprobs; /* of what is no stream: so far */

    /* what the model has said, guarded by the call's lock */
    aiq_buf text;
    aiq_buf logprobs; /* objects with commas between them */
    bool ended, failed;
    infer_finish finish;
    provider_tokens tokens;
} choice;

struct call {
    aiq_loop *loop;
    local_models *models;
    local_model *model;
    const tokenizer *tokenizer;
    provider_events events;
    void *arg;
    bool stream, wants_usage, wants_logprobs, cancelled;
    aiq_buf prefix; /* what every chunk begins with */
    aiq_buf out;    /* a chunk */
    unsigned n, running;
    choice *choices; /* [n] */
    choice *fresh;   /* [n] scratch */

    pthread_mutex_t lock;
    bool told; /* the loop has been told that there is something */
    char error[160];
};

/* On the model's thread. */

static void on_fresh(aiq_loop *loop, void *arg);

/* {"token":…,"logprob":…,"bytes":[…] without the closing brace. */
static void add_scored(aiq_buf *out, const tokenizer *t, infer_scored scored)
{
    size_t len;
    const char *piece = tokenizer_piece(t, scored.id, &len);

    aiq_buf_text(out, "{\"token\":");
    json_quote(out, piece, len);
    /* JSON has no infinity */
    aiq_buf_printf(out, ",\"logprob\":%.9g,\"bytes\":[",
                   scored.logprob > -9999 ? (double)scored.logprob : -9999.0);
    for (size_t i = 0; i < len; i++) {
        aiq_buf_printf(out, i ? ",%u" : "%u", (uint8_t)piece[i]);
    }
    aiq_buf_text(out, "]");
}

static void add_tokens(aiq_buf *out, const tokenizer *t, const infer_event *event)
{
    for (size_t i = 0; i < event->n_tokens; i++) {
        aiq_buf_text(out, out->len ? "," : "");
        add_scored(out, t, event->tokens[i].chosen);
        aiq_buf_text(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < event->n_top; k++) {
            aiq_buf_text(out, k ? "," : "");
            add_scored(out, t, event->tokens[i].top[k]);
            aiq_buf_text(out, "}");
        }
        aiq_buf_text(out, "]}");
    }
}

static void on_infer(void *arg, const infer_event *event)
{
    choice *ch = arg;
    call *c = ch->call;

    pthread_mutex_lock(&c->lock);
    switch (event->type) {
    case INFER_TEXT:
        aiq_buf_add(&ch->text, event->text, event->len);
        add_tokens(&ch->logprobs, c->tokenizer, event);
        break;
    case INFER_DONE:
        ch->ended = true;
        ch->finish = event->finish;
        ch->tokens = (provider_tokens){event->prompt_tokens, event->completion_tokens, 0, 0, 0};
        add_tokens(&ch->logprobs, c->tokenizer, event);
        break;
    case INFER_FAILED:
        ch->ended = ch->failed = true;
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
    for (unsigned i = 0; i < c->n; i++) {
        choice *ch = &c->choices[i];

        if (ch->request) {
            infer_release(ch->request);
        }
        aiq_buf_free(&ch->whole);
        aiq_buf_free(&ch->whole_logprobs);
        aiq_buf_free(&ch->text);
        aiq_buf_free(&ch->logprobs);
    }
    if (c->model) {
        local_models_done(c->models, c->model);
    }
    pthread_mutex_destroy(&c->lock);
    aiq_buf_free(&c->prefix);
    aiq_buf_free(&c->out);
    free(c->choices);
    free(c->fresh);
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

static void add_logprobs(aiq_buf *out, const call *c, const aiq_buf *logprobs)
{
    if (!c->wants_logprobs) {
        aiq_buf_text(out, "\"logprobs\":null");
        return;
    }
    aiq_buf_text(out, "\"logprobs\":{\"content\":[");
    aiq_buf_add(out, logprobs->data, logprobs->len);
    aiq_buf_text(out, "],\"refusal\":null}");
}

static void send_delta(choice *ch, const char *field, const aiq_buf *text,
                       const aiq_buf *logprobs)
{
    call *c = ch->call;

    aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
    aiq_buf_printf(&c->out, "[{\"index\":%u,\"delta\":{%s", ch->index, field);
    json_quote(&c->out, (const char *)text->data, text->len);
    aiq_buf_text(&c->out, "},");
    add_logprobs(&c->out, c, logprobs);
    aiq_buf_text(&c->out, ",\"finish_reason\":null}]");
    send_chunk(c, NULL);
}

static void send_text(choice *ch, const aiq_buf *text, const aiq_buf *logprobs)
{
    const aiq_buf nothing = {0};

    if (!ch->begun) {
        ch->begun = true;
        send_delta(ch, "\"role\":\"assistant\",\"content\":", &nothing, &nothing);
    }
    if (text->len || logprobs->len) {
        send_delta(ch, "\"content\":", text, logprobs);
    }
}

static void send_finish(choice *ch)
{
    call *c = ch->call;

    aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
    aiq_buf_printf(&c->out,
                   "[{\"index\":%u,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
                   ch->index, finish_reason(ch->finish));
    send_chunk(c, NULL);
}

/* The prompt is one, the answers are several. */
static provider_tokens all_tokens(const call *c)
{
    provider_tokens tokens = c->choices[0].tokens;

    for (unsigned i = 1; i < c->n; i++) {
        tokens.out += c->choices[i].tokens.out;
    }
    return tokens;
}

static void send_end(call *c)
{
    provider_tokens tokens = all_tokens(c);

    if (c->wants_usage) {
        aiq_buf_add(&c->out, c->prefix.data, c->prefix.len);
        aiq_buf_text(&c->out, "[]");
        send_chunk(c, &tokens);
    }
    c->events.event(c->arg, AIQ_STR("[DONE]"));
    c->events.done(c->arg, tokens);
}

static void send_reply(call *c)
{
    provider_reply reply = {.status = 200, .tokens = all_tokens(c)};
    aiq_buf body = {0};

    aiq_buf_add(&body, c->prefix.data, c->prefix.len);
    for (unsigned i = 0; i < c->n; i++) {
        choice *ch = &c->choices[i];

        aiq_buf_printf(&body,
                       "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":",
                       i ? "," : "[", i);
        json_quote(&body, (char *)ch->whole.data, ch->whole.len);
        aiq_buf_text(&body, ",\"refusal\":null},");
        add_logprobs(&body, c, &ch->whole_logprobs);
        aiq_buf_printf(&body, ",\"finish_reason\":\"%s\"}", finish_reason(ch->finish));
    }
    aiq_buf_text(&body, "],\"usage\":");
    add_usage(&body, reply.tokens);
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

static void cancel(void *arg);

/* What one answer has become since the last time. */
static void tell(choice *ch, const choice *fresh)
{
    call *c = ch->call;

    if (c->stream) {
        if (fresh->text.len || fresh->logprobs.len || (fresh->ended && !fresh->failed)) {
            send_text(ch, &fresh->text, &fresh->logprobs);
        }
        if (fresh->ended && !fresh->failed) {
            send_finish(ch);
        }
        return;
    }
    aiq_buf_add(&ch->whole, fresh->text.data, fresh->text.len);
    if (fresh->logprobs.len) {
        aiq_buf_text(&ch->whole_logprobs, ch->whole_logprobs.len ? "," : "");
        aiq_buf_add(&ch->whole_logprobs, fresh->logprobs.data, fresh->logprobs.len);
    }
}

/* An answer has ended: where it was the last, or has failed, so has the call. */
static void end_choice(call *c, bool failed)
{
    c->running--;
    if (c->cancelled) {
        return;
    }
    if (failed) {
        cancel(c);
        send_failure(c);
    } else if (c->running == 0 && c->stream) {
        send_end(c);
    } else if (c->running == 0) {
        send_reply(c);
    }
}

static void take(choice *ch, choice *fresh)
{
    call *c = ch->call;

    if (ch->over) {
        return;
    }
    if (!c->cancelled) {
        tell(ch, fresh);
    }
    aiq_buf_free(&fresh->text);
    aiq_buf_free(&fresh->logprobs);
    if (fresh->ended) {
        ch->over = true;
        end_choice(c, fresh->failed);
    }
}

/* What all answers have become is taken at once: where the last of them has ended by then,
 * nothing comes any more, and nobody is told again. */
static void on_fresh(aiq_loop *loop, void *arg)
{
    call *c = arg;

    (void)loop;
    pthread_mutex_lock(&c->lock);
    c->told = false;
    for (unsigned i = 0; i < c->n; i++) {
        c->fresh[i] = c->choices[i];
        c->choices[i].text = c->choices[i].logprobs = (aiq_buf){0};
    }
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->n; i++) {
        take(&c->choices[i], &c->fresh[i]);
    }
    if (c->running == 0) {
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

static bool check_bias(const infer_params *params, const infer *model, aiq_err *err)
{
    infer_model_info info;

    infer_info(model, &info);
    for (size_t i = 0; i < params->n_bias; i++) {
        if ((uint32_t)params->bias[i].id >= info.n_vocab) {
            return aiq_fail_param(err, 400, "invalid_value", "logit_bias",
                                  "'logit_bias' names token %d, but the model has %u.",
                                  params->bias[i].id, info.n_vocab);
        }
    }
    return true;
}

static call *call_new(const provider_request *request, const provider_events *events, void *arg)
{
    call *c = aiq_zalloc(sizeof(*c));

    pthread_mutex_init(&c->lock, NULL);
    c->loop = request->loop;
    c->models = request->models;
    c->events = *events;
    c->arg = arg;
    c->stream = request->chat->stream;
    c->wants_usage = chat_request_wants_usage(request->chat);
    write_prefix(c, request->chat);
    return c;
}

/* Only the first n answers were submitted: they end as cancelled ones do, and the call with
 * them. */
static void break_off(call *c, unsigned n)
{
    c->n = c->running = n;
    cancel(c);
    if (n == 0) {
        call_free(c);
    }
}

/* Submits the answers one by one. */
static bool submit(call *c, infer *model, infer_params *params, const chat_request *chat,
                   aiq_err *err)
{
    char why[200] = "";

    for (unsigned i = 0; i < c->n; i++) {
        choice *ch = &c->choices[i];
        infer_rc rc;

        if (!local_chat_grammar(chat, &params->grammar, err)) {
            break_off(c, i);
            return false;
        }
        rc = infer_submit(model, params, on_infer, ch, &ch->request, why, sizeof(why));
        if (rc != INFER_OK) {
            ch->request = NULL;
            break_off(c, i);
            return refused(rc, why, err);
        }
        params->seed++; /* other answers draw other numbers */
    }
    return true;
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    const policy_target *target = request->target;
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
    if (!check_bias(&params, model, err)) {
        local_models_done(request->models, reference);
        return NULL;
    }
    call *c = call_new(request, events, arg);
    c->model = reference;
    c->tokenizer = infer_tokenizer(model);
    c->wants_logprobs = params.logprobs;
    c->n = c->running = local_chat_choices(request->chat);
    c->choices = aiq_zalloc(c->n * sizeof(*c->choices));
    c->fresh = aiq_zalloc(c->n * sizeof(*c->fresh));
    for (unsigned i = 0; i < c->n; i++) {
        c->choices[i].call = c;
        c->choices[i].index = i;
    }
    return submit(c, model, &params, request->chat, err) ? c : NULL;
}

static void cancel(void *arg)
{
    call *c = arg;

    c->cancelled = true;
    for (unsigned i = 0; i < c->n; i++) {
        if (c->choices[i].request) {
            infer_cancel(c->choices[i].request);
        }
    }
}

static void pause_call(void *arg)
{
    call *c = arg;

    for (unsigned i = 0; i < c->n; i++) {
        infer_pause(c->choices[i].request);
    }
}

static void resume(void *arg)
{
    call *c = arg;

    for (unsigned i = 0; i < c->n; i++) {
        infer_resume(c->choices[i].request);
    }
}

const provider_dialect provider_local = {
    .dialect = "local",
    .speaks = AIQ_DIALECT_OPENAI,
    .start = start,
    .cancel = cancel,
    .pause = pause_call,
    .resume = resume,
};
