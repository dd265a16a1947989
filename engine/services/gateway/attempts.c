#include "services/gateway/attempts.h"
#include <stdio.h>
#include <string.h>
#include "core/log.h"
#include "core/retry.h"
#include "providers/anthropic_answer.h"
#include "providers/openai_chunk.h"
#include "services/gateway/gateway.h"

/* A key that was refused rests this long, and one that was limited where the
 * provider does not say for how long. */
#define KEY_REST_NS   60000000000ull
#define LIMIT_REST_NS 5000000000ull

/* A provider's content type; a longer one is not repeated. */
#define TYPE_MAX 127

/* Events before the first token; beyond that they are let go. */
#define HELD_MAX 16384

typedef enum {
    ANSWER,
    FAULT,
    BROKEN, /* after the first token, where another target may go on */
    LIMITED,
    DENIED,
    REFUSED_CONTEXT,
    REFUSED_CONTENT,
    OURS /* our own failure: it says nothing about the provider */
} attempt_end;

/* What a client gets if nothing better comes. */
struct attempt_failure {
    const policy_target *target; /* whose it is */
    const provider_dialect *provider;
    bool is_reply;
    aiq_err err;
    provider_reply reply; /* its body is a copy */
};

/* NUL-terminated. */
static const char *printable_id(const attempts *a, char id[65])
{
    snprintf(id, 65, "%.*s", (int)(a->job->request_id.len < 64 ? a->job->request_id.len : 64),
             a->job->request_id.data);
    return id;
}

/* Ends of attempts. */

static void tell_breaker(attempts *a, attempt_end end)
{
    uint64_t now = loop_turn_ns(a->job->loop);
    bool changed = false;

    switch (end) {
    case ANSWER:
    case REFUSED_CONTEXT:
    case REFUSED_CONTENT:
        changed = breaker_success(&a->one->state->breaker, a->one->test);
        break;
    case FAULT:
    case BROKEN:
    case LIMITED:
    case DENIED:
        changed = breaker_failure(&a->one->state->breaker, a->one->test, now);
        break;
    case OURS:
        breaker_abandon(&a->one->state->breaker, a->one->test, now);
        break;
    }
    a->one->test = false;
    if (changed) {
        target_changed(gateway_of(a->job)->gateway->targets, a->one->state, a->job->request_id);
    }
}

/* Counts, and closes the attempt. */
static void end_attempt(attempts *a, unsigned status, attempt_end end)
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
    if (!a->answered || end != ANSWER) {
        tell_breaker(a, end);
    }
}

static attempt_end end_of_error(const aiq_err *err)
{
    if (strcmp(err->code, "provider_auth_failed") == 0) {
        return DENIED;
    }
    if (err->status == 429) {
        return LIMITED;
    }
    if (err->status >= 500) {
        return err->retryable ? FAULT : OURS;
    }
    return strcmp(err->code, "context_length_exceeded") == 0 ? REFUSED_CONTEXT : ANSWER;
}

static attempt_end end_of_reply(const provider_reply *reply)
{
    switch (reply->refusal) {
    case PROVIDER_TOO_LONG:
        return REFUSED_CONTEXT;
    case PROVIDER_AGAINST_RULES:
        return REFUSED_CONTENT;
    default:
        return reply->status == 429 ? LIMITED : ANSWER;
    }
}

static struct attempt_failure *failure(attempts *a)
{
    if (a->last == NULL) {
        a->last = aiq_pool_alloc(a->job->pool, sizeof(*a->last));
    }
    *a->last = (struct attempt_failure){.target = a->one->target, .provider = a->one->provider};
    return a->last;
}

static void keep_error(attempts *a, const aiq_err *err)
{
    failure(a)->err = *err;
}

static void keep_reply(attempts *a, const provider_reply *reply)
{
    struct attempt_failure *f = failure(a);

    f->is_reply = true;
    f->reply = *reply;
    f->reply.body.data = aiq_pool_copy(a->job->pool, reply->body.data, reply->body.len);
}

static void tell_client(attempts *a)
{
    a->answered = true;
    a->one->target = a->last->target; /* others may have been in vain after it */
    a->one->provider = a->last->provider;
    if (a->last->is_reply) {
        a->events.reply(a->arg, &a->last->reply);
    } else {
        a->events.failed(a->arg, &a->last->err);
    }
}

/* Who serves it. */

/* A better reason is a greater one. */
typedef enum { SERVE_NO_CONDITION, SERVE_TOO_LONG, SERVE_NONCRITICAL, SERVES } serves;

static serves does_serve(const attempts *a, const policy_target *target)
{
    if (target->condition >= 0 && !(a->job->conditions >> target->condition & 1)) {
        return SERVE_NO_CONDITION;
    }
    if (target->max_body && a->chat->body.len > target->max_body) {
        return SERVE_TOO_LONG;
    }
    return target->noncritical && !a->batch ? SERVE_NONCRITICAL : SERVES;
}

/* What the nearest of its targets says. */
static serves does_any_serve(const attempts *a)
{
    serves best = SERVE_NO_CONDITION;

    for (size_t i = 0; i < a->model->n_targets; i++) {
        serves one = does_serve(a, &a->model->targets[i]);
        best = one > best ? one : best;
    }
    return best;
}

static void set_model(attempts *a, const policy_model *model)
{
    a->model = model;
    a->through = a->limited = 0;
    for (size_t i = 0; i < model->n_targets; i++) {
        a->through |= does_serve(a, &model->targets[i]) == SERVES ? 0 : 1u << i;
    }
    memset(a->made, 0, sizeof(a->made));
}

/* Two at once. */

static void swap(attempts *a)
{
    attempt *one = a->one;

    a->one = a->rival;
    a->rival = one;
}

/* The other one was quicker, or the client is gone. */
static void cancel_rival(attempts *a)
{
    void *call = a->rival->call;

    loop_timer_stop(a->job->loop, &a->hedge);
    if (call == NULL) {
        return;
    }
    swap(a);
    end_attempt(a, 499, OURS);
    a->lost(a->arg, a->one->target);
    a->one->provider->cancel(call);
    swap(a);
}

/* The next attempt. */

static size_t index_of(const attempts *a)
{
    return (size_t)(a->one->target - a->model->targets);
}

static bool start_call(attempts *a, aiq_err *err);
static void start_hedge(attempts *a);

/* False: this target cannot take it; *err says why where it is not the breaker. */
static bool call_target(attempts *a, size_t i, aiq_err *err)
{
    const policy_target *target = &a->model->targets[i];
    uint64_t now = loop_now_ns();
    breaker_verdict verdict = breaker_admit(&target_of(target)->breaker, now);

    if (verdict == BREAKER_REFUSE) {
        a->through |= 1u << i; /* another request is its test */
        return false;
    }
    if (target != a->one->target) {
        a->one->keys_tried = 0;
    }
    a->one->target = target;
    a->one->state = target_of(target);
    a->one->test = verdict == BREAKER_TEST;
    if (a->one->test) {
        target_changed(gateway_of(a->job)->gateway->targets, a->one->state, a->job->request_id);
    }
    a->one->key = target_key(target->provider, a->one->keys_tried, true, now);
    a->one->keys_tried |= a->one->key >= 0 ? 1ull << a->one->key : 0;
    a->one->called_ns = now;
    a->one->spoke = false;
    a->one->number = ++a->n;
    a->made[i]++;
    if (!start_call(a, err)) {
        bool later = err->status == 429 || err->retry_after > 0;
        *(later ? &a->limited : &a->through) |= 1u << i;
        return false;
    }
    start_hedge(a);
    return true;
}

static target_question question(const attempts *a)
{
    return (target_question){
        .model = a->model,
        .excluded = a->through | a->limited,
        .hash = a->model->key < a->job->n_hashes ? a->job->hashes[a->model->key] : 0,
        .now_ns = loop_turn_ns(a->job->loop),
        .random = gateway_random(gateway_of(a->job)),
    };
}

/* Asks one more, so that `one` and `rival` run; false: there is nobody to ask. */
static bool ask_another(attempts *a)
{
    target_question q = question(a);
    aiq_err err;
    int i;

    q.excluded |= 1u << index_of(a);
    swap(a);
    while ((i = target_pick(&q)) >= 0 && !call_target(a, (size_t)i, &err)) {
        q.excluded |= 1u << i;
    }
    if (i < 0) {
        swap(a);
    }
    return i >= 0;
}

static void on_hedge(aiq_loop *loop, void *arg)
{
    attempts *a = arg;
    const policy_target *slow = a->one->target;
    char id[65];

    (void)loop;
    if (ask_another(a)) {
        aiq_log(AIQ_LOG_INFO, "gateway", "another target is asked as well",
                AIQ_S("request_id", printable_id(a, id)),
                AIQ_S("provider", slow->provider->name), AIQ_S("model", a->asked->name),
                AIQ_S("next", a->one->target->provider->name));
    }
}

/* After a call has begun. Only for the model that was asked for: it is for its targets that
 * the bill holds enough for two (attempts_may_pay_more). */
static void start_hedge(attempts *a)
{
    if (a->asked->hedge_ms && a->model == a->asked && a->rival->call == NULL && !a->continued) {
        loop_timer_start(a->job->loop, &a->hedge, a->asked->hedge_ms, on_hedge, a);
    }
}

static void on_wait_over(aiq_loop *loop, void *arg);

/* Another attempt after a wait, at this target or (pick) any; false: there is no time or
 * no attempt left. */
static bool wait_for(attempts *a, size_t target, uint32_t retry_after, bool pick)
{
    const policy_provider *p = a->model->targets[target].provider;
    uint64_t past_ms = (loop_now_ns() - a->started_ns) / 1000000;
    uint64_t wait_ms = retry_wait_ms(a->made[target], p->backoff_ms, retry_after,
                                     gateway_random(gateway_of(a->job)));

    if (a->made[target] >= p->attempts || past_ms + wait_ms > a->model->retry_timeout_ms) {
        return false;
    }
    a->again = pick ? -1 : (int)target;
    loop_timer_start(a->job->loop, &a->wait, wait_ms, on_wait_over, a);
    return true;
}

/* The next target now, or a limited one later. Otherwise *a->last has the last failure, if
 * there was one. */
static bool begin(attempts *a, uint32_t retry_after)
{
    int i;

    for (;;) {
        const target_question q = question(a);
        i = target_pick(&q);
        if (i < 0) {
            break;
        }
        aiq_err err = {0};
        if (call_target(a, (size_t)i, &err)) {
            return true;
        }
        if (err.status && a->last == NULL) {
            keep_error(a, &err); /* the first one: what comes later is only the replacement's */
        }
        retry_after = err.retry_after > retry_after ? err.retry_after : retry_after;
    }
    return a->limited && wait_for(a, (size_t)__builtin_ctz(a->limited), retry_after, true);
}

static void on_wait_over(aiq_loop *loop, void *arg)
{
    attempts *a = arg;
    aiq_err err = {0};

    (void)loop;
    a->limited = 0;
    a->one->keys_tried = 0;
    if ((a->again < 0 || !call_target(a, (size_t)a->again, &err)) && !begin(a, 0)) {
        tell_client(a);
    }
}

/* What an attempt's end leads to; false: to nothing. */

static bool after_fault(attempts *a, uint32_t retry_after)
{
    size_t here = index_of(a);

    if (breaker_admits(&a->one->state->breaker, loop_now_ns()) &&
        wait_for(a, here, retry_after, false)) {
        return true;
    }
    a->through |= 1u << here;
    return begin(a, 0);
}

static void rest_key(attempts *a, uint64_t ns)
{
    if (a->one->key >= 0) {
        target_rest_key(a->one->target->provider, a->one->key, loop_now_ns() + ns);
    }
}

static bool with_another_key(attempts *a)
{
    uint64_t now = loop_now_ns();
    aiq_err err;

    return a->one->key >= 0 &&
           target_key(a->one->target->provider, a->one->keys_tried, false, now) >= 0 &&
           call_target(a, index_of(a), &err);
}

static bool after_limit(attempts *a, uint32_t retry_after)
{
    rest_key(a, retry_after ? retry_after * 1000000000ull : LIMIT_REST_NS);
    if (with_another_key(a)) {
        return true;
    }
    a->limited |= 1u << index_of(a);
    return begin(a, retry_after);
}

static bool fall_back(attempts *a, const policy_model *model)
{
    if (model == NULL || a->model != a->asked) {
        return false;
    }
    set_model(a, model);
    return begin(a, 0);
}

static bool another(attempts *a, attempt_end end, uint32_t retry_after)
{
    uint64_t past_ns = loop_now_ns() - a->started_ns;

    if (a->draining || past_ns > a->model->retry_timeout_ms * 1000000ull) {
        return false;
    }
    switch (end) {
    case FAULT:
        return after_fault(a, retry_after);
    case BROKEN:
        a->limited |= 1u << index_of(a); /* others first, now; here again after a wait */
        return begin(a, retry_after);
    case LIMITED:
        return after_limit(a, retry_after);
    case DENIED:
        rest_key(a, KEY_REST_NS);
        return with_another_key(a);
    case REFUSED_CONTEXT:
        return fall_back(a, a->model->context_fallback);
    case REFUSED_CONTENT:
        return fall_back(a, a->model->content_fallback);
    default:
        return false;
    }
}

static void log_failure(const attempts *a, const policy_target *target, unsigned number)
{
    const struct attempt_failure *f = a->last;
    char id[65];

    aiq_log(AIQ_LOG_WARN, "gateway", "attempt failed", AIQ_S("request_id", printable_id(a, id)),
            AIQ_S("provider", target->provider->name), AIQ_S("model", a->asked->name),
            AIQ_I("attempt", number),
            AIQ_I("status", f->is_reply ? f->reply.status : f->err.status),
            AIQ_S("code", f->is_reply ? NULL : f->err.code),
            AIQ_S("detail", f->is_reply        ? NULL
                            : f->err.detail[0] ? f->err.detail
                                               : f->err.message),
            AIQ_S("next", a->one->call ? a->one->target->provider->name : "a wait"));
}

/* The other one has it alone now, and this target is not asked again while that lasts. */
static void leave_to_rival(attempts *a, attempt_end end, uint32_t retry_after)
{
    if (end == LIMITED || end == DENIED) {
        rest_key(a, end == DENIED ? KEY_REST_NS
                    : retry_after ? retry_after * 1000000000ull
                                  : LIMIT_REST_NS);
    }
    *(end == LIMITED ? &a->limited : &a->through) |= 1u << index_of(a);
    swap(a);
}

/* After keep_error() or keep_reply(). */
static void attempt_failed(attempts *a, attempt_end end, uint32_t retry_after)
{
    const policy_target *target = a->one->target;
    unsigned number = a->one->number;

    loop_timer_stop(a->job->loop, &a->hedge);
    if (a->rival->call) {
        leave_to_rival(a, end, retry_after);
        log_failure(a, target, number);
    } else if (another(a, end, retry_after)) {
        log_failure(a, target, number);
    } else {
        tell_client(a);
    }
}

/* The provider's events. */

/* Makes `one` the attempt that it is an event of. */
static attempts *event_of(attempt *of)
{
    if (of->all->one != of) {
        swap(of->all);
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
    tell_breaker(a, ANSWER);
    a->answered = a->one->spoke = true;
    cancel_rival(a);
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
    end_attempt(a, 200, ANSWER);
    a->events.done(a->arg, tokens);
}

static void on_reply(void *arg, const provider_reply *reply)
{
    attempts *a = event_of(arg);
    attempt_end end = end_of_reply(reply);

    if (end == ANSWER) {
        if (reply->status == 200) {
            answer(a);
        }
        cancel_rival(a);
        end_attempt(a, reply->status, ANSWER);
        a->answered = true;
        a->events.reply(a->arg, reply);
        return;
    }
    end_attempt(a, reply->status, end);
    keep_reply(a, reply);
    attempt_failed(a, end, reply->retry_after);
}

static void on_failed(void *arg, const aiq_err *err)
{
    attempts *a = event_of(arg);
    attempt_end end = end_of_error(err);

    end_attempt(a, err->status, end);
    if (a->answered) {
        if (end != FAULT || !go_on_elsewhere(a)) {
            a->events.failed(a->arg, err);
            return;
        }
        end = BROKEN;
    }
    keep_error(a, err);
    attempt_failed(a, end, err->retry_after);
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

static bool start_call(attempts *a, aiq_err *err)
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
    } else {
        aiq_fail(err, 503, "provider_unknown", "This server does not speak to this provider.");
        aiq_err_detail(err, "provider %s: dialect %s", p->name, p->dialect);
    }
    if (a->one->call == NULL) {
        end_attempt(a, err->status, OURS); /* nobody was called */
        return false;
    }
    if (a->paused) {
        a->one->provider->pause(a->one->call);
    }
    return true;
}

/* The interface. */

static bool says(const aiq_job *job, const char *header, const char *value)
{
    return aiq_str_is(job_header_value(job, header), value);
}

static void release(void *arg)
{
    attempts *a = arg;

    aiq_buf_free(&a->one->held);
    aiq_buf_free(&a->rival->held);
    aiq_buf_free(&a->more.text);
}

/* Why there was no attempt at all. */
static bool nobody(const attempts *a, aiq_err *err)
{
    switch (does_any_serve(a)) {
    case SERVE_NO_CONDITION: /* for this client it does not exist */
        gateway_no_model((aiq_str){a->asked->name, strlen(a->asked->name)}, err);
        aiq_err_detail(err, "no condition of its targets holds");
        return false;
    case SERVE_TOO_LONG:
        return aiq_fail_param(err, 400, "context_length_exceeded", "messages",
                              "The request is too long for this model.");
    case SERVE_NONCRITICAL:
        return aiq_fail_param(err, 400, "priority_required", "x-aiq-priority",
                              "This model serves only requests with 'X-AIQ-Priority: batch'.");
    default:
        aiq_fail(err, 503, "providers_unavailable",
                 "No provider of this model can be called at present. Try again later.");
        err->retry_after = target_wait(a->model, loop_now_ns());
        return false;
    }
}

static bool may_go_on(const aiq_job *job, const chat_request *chat)
{
    return chat->stream && chat->dialect == AIQ_DIALECT_OPENAI &&
           says(job, "x-aiq-continue", "allow");
}

bool attempts_may_pay_more(const aiq_job *job, const policy_model *model,
                           const chat_request *chat)
{
    return model->hedge_ms || may_go_on(job, chat);
}

/* Somebody else has begun the answer, on another engine. */
static bool go_on_from(attempts *a, aiq_err *err)
{
    chat_request *chat = aiq_pool_alloc(a->job->pool, sizeof(*chat));

    a->more.allowed = true;
    aiq_buf_add(&a->more.text, a->asked_chat->said.data, a->asked_chat->said.len);
    if (!continuation_request(&a->more, a->asked_chat, a->job->pool, chat)) {
        return aiq_fail(err, 500, "stream_broken_off", "Nobody can go on with this stream.");
    }
    a->more.allowed = may_go_on(a->job, a->asked_chat);
    a->chat = chat;
    a->continued = true;
    return true;
}

bool attempts_start(attempts *a, aiq_job *job, const policy_model *model,
                    const chat_request *chat, const provider_events *events,
                    void (*lost)(void *arg, const policy_target *target), void *arg,
                    aiq_err *err)
{
    aiq_buf_free(&a->more.text); /* of a start before */
    *a = (attempts){
        .job = job,
        .asked = model,
        .asked_chat = chat,
        .chat = chat,
        .events = *events,
        .lost = lost,
        .arg = arg,
        .batch = says(job, "x-aiq-priority", "batch"),
        .started_ns = loop_now_ns(),
        .again = -1,
    };
    a->one = &a->pair[0];
    a->rival = &a->pair[1];
    a->one->all = a->rival->all = a;
    if (chat->stream) {
        a->more.allowed = may_go_on(job, chat);
        aiq_pool_cleanup(job->pool, release, a);
    }
    if (chat->said.len && !go_on_from(a, err)) {
        return false;
    }
    set_model(a, model);
    if (begin(a, 0) ||
        (does_any_serve(a) == SERVE_TOO_LONG && fall_back(a, model->context_fallback))) {
        return true;
    }
    if (a->last) {
        *err = a->last->err; /* of a call that could not even begin */
        return false;
    }
    return nobody(a, err);
}

bool attempts_native(const attempts *a)
{
    return a->chat->dialect != AIQ_DIALECT_OPENAI &&
           a->chat->dialect == a->one->provider->speaks;
}

bool attempts_running(const attempts *a)
{
    return a->one && (a->one->call || a->wait.heap_index != 0);
}

void attempts_cancel(attempts *a)
{
    const provider_dialect *provider = a->one->provider;
    void *call = a->one->call;

    cancel_rival(a);
    loop_timer_stop(a->job->loop, &a->wait);
    if (call) {
        end_attempt(a, 499, a->answered ? ANSWER : OURS);
        provider->cancel(call);
    }
}

bool attempts_drain(attempts *a)
{
    if (a->one->call == NULL || !a->one->provider->bills) {
        return false;
    }
    a->draining = true;
    a->more.allowed = false;
    cancel_rival(a);
    attempts_resume(a);
    return true;
}

void attempts_pause(attempts *a)
{
    a->paused = true;
    for (size_t i = 0; i < 2; i++) {
        if (a->pair[i].call) {
            a->pair[i].provider->pause(a->pair[i].call);
        }
    }
}

void attempts_resume(attempts *a)
{
    a->paused = false;
    for (size_t i = 0; i < 2; i++) {
        if (a->pair[i].call) {
            a->pair[i].provider->resume(a->pair[i].call);
        }
    }
}

uint64_t attempts_overhead_ns(const attempts *a, uint64_t since_ns)
{
    uint64_t now = loop_now_ns(), calling = a->calling_ns;

    calling += a->one->call ? now - a->busy_ns : 0;
    return now - since_ns - calling;
}
