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
#include "infer/tokenizer.h"
#include "providers/local_answer.h"
#include "providers/local_chat.h"
#include "providers/local_models.h"
#include "providers/provider.h"

typedef struct call call;

/* One of the answers that a request asked for. */
typedef struct {
    call *call;
    local_answer *answer;
    infer_req *request;
    bool over; /* the loop knows its end */

    /* what the model has said, guarded by the call's lock */
    aiq_buf text;
    aiq_buf logprobs; /* objects with commas between them */
    bool ended, failed;
    infer_finish finish;
    const char *stop; /* the request's */
    provider_tokens tokens;
} choice;

struct call {
    aiq_loop *loop;
    local_models *models;
    local_model *model;
    const tokenizer *tokenizer;
    local_writer writer;
    bool cancelled;
    unsigned n, running;
    choice *choices;       /* [n] */
    choice *fresh;         /* [n] scratch */
    local_answer *answers; /* [n] */

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
        ch->tokens.in = event->prompt_tokens;
        ch->tokens.cached = event->cached_tokens;
        aiq_buf_add(&ch->text, event->text, event->len);
        add_tokens(&ch->logprobs, c->tokenizer, event);
        break;
    case INFER_DONE:
        ch->ended = true;
        ch->finish = event->finish;
        ch->stop = event->stop;
        ch->tokens = (provider_tokens){.in = event->prompt_tokens,
                                       .out = event->completion_tokens,
                                       .cached = event->cached_tokens,
                                       .reasoning = event->thought_tokens};
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
        local_answer_free(&c->answers[i]);
        aiq_buf_free(&ch->text);
        aiq_buf_free(&ch->logprobs);
    }
    if (c->model) {
        local_models_done(c->models, c->model);
    }
    pthread_mutex_destroy(&c->lock);
    local_writer_free(&c->writer);
    free(c->choices);
    free(c->fresh);
    free(c->answers);
    free(c);
}

/* The prompt is one, the answers are several. */
static provider_tokens all_tokens(const call *c)
{
    provider_tokens tokens = c->choices[0].tokens;

    for (unsigned i = 1; i < c->n; i++) {
        tokens.out += c->choices[i].tokens.out;
        tokens.reasoning += c->choices[i].tokens.reasoning;
    }
    return tokens;
}

static void send_failure(call *c)
{
    aiq_err err;

    aiq_fail(&err, 500, "model_failed", "The model failed.");
    aiq_err_detail(&err, "%s", c->error);
    c->writer.events.failed(c->writer.arg, &err);
}

static void cancel(void *arg);

/* What one answer has become since the last time. */
static void tell(choice *ch, const choice *fresh)
{
    if (fresh->text.len || fresh->logprobs.len) {
        local_answer_say(ch->answer, &fresh->text, &fresh->logprobs);
    }
    if (fresh->ended && !fresh->failed) {
        local_answer_end(ch->answer, fresh->finish, fresh->stop);
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
    } else if (c->running == 0) {
        local_answers_done(c->answers, c->n, all_tokens(c));
    }
}

static void take(choice *ch, choice *fresh)
{
    call *c = ch->call;

    if (ch->over) {
        return;
    }
    if (!c->cancelled) {
        c->writer.prompt = fresh->tokens;
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
    local_writer_init(&c->writer, request->chat, events, arg);
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

/* How what the model says is taken apart. */
static tool_options options_of(const local_tools *tools, const infer_params *params,
                               const infer *model, bool begins_so)
{
    infer_model_info info;

    infer_info(model, &info);
    return (tool_options){
        .format = info.tool_format,
        .names = tools->names,
        .n_names = tools->n,
        .one = tools->one || tools->named,
        .thinks = info.thinks && !begins_so && !params->begun,
        .goes_on = params->goes_on || params->begun,
    };
}

/* Submits the answers one by one. */
static bool submit(call *c, infer *model, infer_params *params, tool_options *options,
                   aiq_err *err)
{
    char why[200] = "";

    for (unsigned i = 0; i < c->n; i++) {
        choice *ch = &c->choices[i];
        infer_rc rc = infer_submit(model, params, on_infer, ch, &ch->request, why, sizeof(why));

        if (rc != INFER_OK) {
            ch->request = NULL;
            break_off(c, i);
            return local_chat_refused(rc, why, err);
        }
        options->is_thought = infer_is_thought(ch->request);
        local_answer_init(ch->answer, &c->writer, i, params->shows_marks ? options : NULL);
        params->seed++; /* other answers draw other numbers */
    }
    return true;
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    const policy_target *target = request->target;
    infer_params params;
    local_tools tools;
    bool begins_so, ok;
    infer *model;

    if (!local_chat_params(request->chat, request->pool, &params, &tools, err)) {
        return NULL;
    }
    local_model *reference =
        local_models_use(request->models, target->provider, target->model, &model, err);
    if (reference == NULL) {
        return NULL;
    }
    if (!check_bias(&params, model, err) ||
        !local_chat_language(request->chat, &tools, model, &params.language, &begins_so, err)) {
        local_models_done(request->models, reference);
        return NULL;
    }
    params.scope = request->tenant;
    params.flex = params.flex || request->batch;
    tool_options options = options_of(&tools, &params, model, begins_so);
    params.thinks = options.thinks;
    params.shows_marks = options.thinks || options.n_names > 0;
    call *c = call_new(request, events, arg);
    c->model = reference;
    c->tokenizer = infer_tokenizer(model);
    c->writer.wants_logprobs = params.logprobs;
    c->n = c->running = local_chat_choices(request->chat);
    c->choices = aiq_zalloc(c->n * sizeof(*c->choices));
    c->fresh = aiq_zalloc(c->n * sizeof(*c->fresh));
    c->answers = aiq_zalloc(c->n * sizeof(*c->answers));
    for (unsigned i = 0; i < c->n; i++) {
        c->choices[i].call = c;
        c->choices[i].answer = &c->answers[i];
    }
    ok = submit(c, model, &params, &options, err);
    if (params.language) {
        mask_language_drop(params.language);
    }
    return ok ? c : NULL;
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
