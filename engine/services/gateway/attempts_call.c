#include "services/gateway/attempts_impl.h"
#include <string.h>
#include "providers/anthropic_answer.h"
#include "providers/openai_chunk.h"
#include "providers/rewrite.h"
#include "services/gateway/gateway.h"

/* A provider's content type; a longer one is not repeated. */
#define TYPE_MAX 127

/* Events before the first token; beyond that they are let go. */
#define HELD_MAX 16384

/* A call's end. */

static void tell_breaker(attempts *a, attempt_end end)
{
    uint64_t now = loop_turn_ns(a->job->loop);
    bool changed = false;

    switch (end) {
    case ATTEMPT_ANSWER:
    case ATTEMPT_REFUSED_CONTEXT:
    case ATTEMPT_REFUSED_CONTENT:
        changed = breaker_success(&a->one->state->breaker, a->one->test);
        break;
    case ATTEMPT_FAULT:
    case ATTEMPT_BROKEN:
    case ATTEMPT_LIMITED:
    case ATTEMPT_DENIED:
        changed = breaker_failure(&a->one->state->breaker, a->one->test, now);
        break;
    case ATTEMPT_OURS:
        breaker_abandon(&a->one->state->breaker, a->one->test, now);
        break;
    }
    a->one->test = false;
    if (changed) {
        target_changed(gateway_of(a->job)->gateway->targets, a->one->state, a->job->request_id);
    }
}

void attempts_end_call(attempts *a, unsigned status, attempt_end end)
{
    uint64_t now = loop_now_ns(), took = now - a->one->called_ns;

    a->one->call = NULL;
    a->calling_ns += a->rival->call ? 0 : now - a->busy_ns;
    aiq_buf_free(&a->one->held);
    if (a->model->order == POLICY_LATENCY) {
        __atomic_sub_fetch(&a->one->state->in_flight, 1, __ATOMIC_RELAXED);
        if (!a->one->spoke) {
            target_waited(a->one->state, took, now);
        }
    }
    counts_attempt(gateway_of(a->job)->counts, a->one->target, a->asked->name, status,
                   (double)took / 1e9);
    if (!a->answered || end != ATTEMPT_ANSWER) {
        tell_breaker(a, end);
    }
}

static attempt_end end_of_error(const aiq_err *err)
{
    if (strcmp(err->code, "provider_auth_failed") == 0) {
        return ATTEMPT_DENIED;
    }
    if (err->status == 429) {
        return ATTEMPT_LIMITED;
    }
    if (err->status >= 500) {
        return err->retryable ? ATTEMPT_FAULT : ATTEMPT_OURS;
    }
    return strcmp(err->code, "context_length_exceeded") == 0 ? ATTEMPT_REFUSED_CONTEXT
                                                             : ATTEMPT_ANSWER;
}

static attempt_end end_of_reply(const provider_reply *reply)
{
    switch (reply->refusal) {
    case PROVIDER_TOO_LONG:
        return ATTEMPT_REFUSED_CONTEXT;
    case PROVIDER_AGAINST_RULES:
        return ATTEMPT_REFUSED_CONTENT;
    default:
        return reply->status == 429 ? ATTEMPT_LIMITED : ATTEMPT_ANSWER;
    }
}

/* Two at once. */

void attempts_swap(attempts *a)
{
    attempt *one = a->one;

    a->one = a->rival;
    a->rival = one;
}

void attempts_cancel_rival(attempts *a)
{
    void *call = a->rival->call;

    loop_timer_stop(a->job->loop, &a->hedge);
    if (call == NULL) {
        return;
    }
    attempts_swap(a);
    attempts_end_call(a, 499, ATTEMPT_OURS);
    a->lost(a->arg, a->one->target);
    a->one->provider->cancel(call);
    attempts_swap(a);
}

/* The provider's events. */

/* Makes `one` the attempt that it is an event of. */
static attempts *event_of(attempt *of)
{
    if (of->all->one != of) {
        attempts_swap(of->all);
    }
    return of->all;
}

static void pass_event(attempts *a, aiq_str data)
{
    if (a->more.allowed) {
        continuation_take(&a->more, data);
    }
    a->events.event(a->arg, data);
}

static void pass_held(attempts *a)
{
    size_t at = 0, n;

    while (at < a->one->held.len) {
        memcpy(&n, a->one->held.data + at, sizeof(n));
        pass_event(a, (aiq_str){(char *)a->one->held.data + at + sizeof(n), n});
        at += sizeof(n) + n;
    }
}

/* The answer has begun: nobody else can give it any more. */
static void answer(attempts *a)
{
    tell_breaker(a, ATTEMPT_ANSWER);
    a->answered = a->one->spoke = true;
    attempts_cancel_rival(a);
    if (a->model->order == POLICY_LATENCY) {
        uint64_t now = loop_now_ns();
        target_measured(a->one->state, now - a->one->called_ns, now);
    }
    if (a->continued) { /* the stream has begun already, and its role is told */
        a->events.event(a->arg,
                        continuation_mark(a->one->target, a->asked->name, a->n, a->job->pool));
    } else {
        pass_held(a);
    }
    aiq_buf_free(&a->one->held);
}

/* Makes ready for another target to go on. */
static bool go_on_elsewhere(attempts *a)
{
    chat_request *chat = aiq_pool_alloc(a->job->pool, sizeof(*chat));

    if (!continuation_request(&a->more, a->asked_chat, a->job->pool, chat)) {
        return false;
    }
    a->lost(a->arg, a->one->target);
    a->chat = chat;
    a->answered = false;
    a->continued = true;
    a->started_ns = loop_now_ns(); /* for retry_timeout: what went well does not count */
    return true;
}

static void on_type(void *arg, aiq_str content_type)
{
    attempt *of = arg;

    if (content_type.len == 0 || content_type.len > TYPE_MAX) {
        content_type = AIQ_STR("application/octet-stream");
    }
    of->type =
        aiq_pool_printf(of->all->job->pool, "%.*s", (int)content_type.len, content_type.data);
}

static void on_event(void *arg, aiq_str data)
{
    attempts *a = event_of(arg);

    if (!a->answered) {
        if (a->one->type == NULL && a->one->held.len + data.len < HELD_MAX &&
            (attempts_native(a) ? anthropic_event_is_empty : openai_chunk_is_empty)(data)) {
            aiq_buf_add(&a->one->held, &data.len, sizeof(data.len));
            aiq_buf_add(&a->one->held, data.data, data.len);
            return;
        }
        answer(a);
    }
    pass_event(a, data);
}

static void on_done(void *arg, provider_tokens tokens)
{
    attempts *a = event_of(arg);

    if (!a->answered) {
        answer(a);
    }
    attempts_end_call(a, 200, ATTEMPT_ANSWER);
    a->events.done(a->arg, tokens);
}

static void on_reply(void *arg, const provider_reply *reply)
{
    attempts *a = event_of(arg);
    attempt_end end = end_of_reply(reply);

    if (end == ATTEMPT_ANSWER) {
        if (reply->status == 200) {
            answer(a);
        }
        attempts_cancel_rival(a);
        attempts_end_call(a, reply->status, ATTEMPT_ANSWER);
        a->answered = true;
        a->events.reply(a->arg, reply);
        return;
    }
    attempts_end_call(a, reply->status, end);
    attempts_keep_reply(a, reply);
    attempts_failed(a, end, reply->retry_after);
}

static void on_failed(void *arg, const aiq_err *err)
{
    attempts *a = event_of(arg);
    attempt_end end = end_of_error(err);

    attempts_end_call(a, err->status, end);
    if (a->answered) {
        if (end != ATTEMPT_FAULT || !go_on_elsewhere(a)) {
            a->events.failed(a->arg, err);
            return;
        }
        end = ATTEMPT_BROKEN;
    }
    attempts_keep_error(a, err);
    attempts_failed(a, end, err->retry_after);
}

/* The request as this provider may have it; NULL and *err: it cannot be put so. */
static const chat_request *request_for(attempts *a, aiq_err *err)
{
    const chat_request *chat = a->chat;

    if (chat->path &&
        (!a->one->provider->has_paths || chat->dialect != a->one->provider->speaks)) {
        aiq_fail_param(err, 400, "unsupported_endpoint", "model",
                       "The provider of this model has no '%s'.", chat->path);
        return NULL;
    }
    if (chat->dialect == AIQ_DIALECT_OPENAI || chat->dialect == a->one->provider->speaks) {
        return chat;
    }
    if (a->translated == NULL) {
        a->translated = chat->translate(chat, a->job->pool, err);
    }
    return a->translated;
}

bool attempts_call(attempts *a, aiq_err *err)
{
    static const provider_events events = {on_reply, on_event, on_done, on_failed, on_type};
    const policy_provider *p = a->one->target->provider;
    gateway_loop *g = gateway_of(a->job);
    provider_request request = {
        .loop = a->job->loop,
        .pool = a->job->pool,
        .tenant = a->job->tenant,
        .batch = a->batch,
        .target = a->one->target,
        .key = a->one->key >= 0 ? p->keys[a->one->key] : NULL,
        .secrets = g->secrets,
        .models = g->gateway->models,
    };

    a->busy_ns = a->rival->call ? a->busy_ns : a->one->called_ns;
    if (a->model->order == POLICY_LATENCY) {
        __atomic_add_fetch(&a->one->state->in_flight, 1, __ATOMIC_RELAXED);
    }
    a->one->provider = provider_find(p->dialect, a->chat->path);
    if (a->one->provider) {
        request.chat = request_for(a, err);
        a->one->call =
            request.chat ? a->one->provider->start(&request, &events, a->one, err) : NULL;
        if (a->one->call == NULL && request.chat && request.chat->names) {
            rewrite_error(err, request.chat->names);
        }
    } else {
        aiq_fail(err, 503, "provider_unknown", "This server does not speak to this provider.");
        aiq_err_detail(err, "provider %s: dialect %s", p->name, p->dialect);
    }
    if (a->one->call == NULL) {
        attempts_end_call(a, err->status, ATTEMPT_OURS); /* nobody was called */
        return false;
    }
    if (a->paused) {
        a->one->provider->pause(a->one->call);
    }
    return true;
}
