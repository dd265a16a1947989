#include "services/gateway/attempts_impl.h"
#include <stdio.h>
#include <string.h>
#include "core/log.h"
#include "core/retry.h"
#include "services/gateway/gateway.h"

/* A key that was refused rests this long, and one that was limited where the
 * provider does not say for how long. */
#define KEY_REST_NS   60000000000ull
#define LIMIT_REST_NS 5000000000ull

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

/* The failure that the client gets. */

static struct attempt_failure *failure(attempts *a)
{
    if (a->last == NULL) {
        a->last = aiq_pool_alloc(a->job->pool, sizeof(*a->last));
    }
    *a->last = (struct attempt_failure){.target = a->one->target, .provider = a->one->provider};
    return a->last;
}

void attempts_keep_error(attempts *a, const aiq_err *err)
{
    failure(a)->err = *err;
}

void attempts_keep_reply(attempts *a, const provider_reply *reply)
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

/* The next attempt. */

static size_t index_of(const attempts *a)
{
    return (size_t)(a->one->target - a->model->targets);
}

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
    if (!attempts_call(a, err)) {
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
    attempts_swap(a);
    while ((i = target_pick(&q)) >= 0 && !call_target(a, (size_t)i, &err)) {
        q.excluded |= 1u << i;
    }
    if (i < 0) {
        attempts_swap(a);
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
            attempts_keep_error(
                a, &err); /* the first one: what comes later is only the replacement's */
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
    case ATTEMPT_FAULT:
        return after_fault(a, retry_after);
    case ATTEMPT_BROKEN:
        a->limited |= 1u << index_of(a); /* others first, now; here again after a wait */
        return begin(a, retry_after);
    case ATTEMPT_LIMITED:
        return after_limit(a, retry_after);
    case ATTEMPT_DENIED:
        rest_key(a, KEY_REST_NS);
        return with_another_key(a);
    case ATTEMPT_REFUSED_CONTEXT:
        return fall_back(a, a->model->context_fallback);
    case ATTEMPT_REFUSED_CONTENT:
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
    if (end == ATTEMPT_LIMITED || end == ATTEMPT_DENIED) {
        rest_key(a, end == ATTEMPT_DENIED ? KEY_REST_NS
                    : retry_after         ? retry_after * 1000000000ull
                                          : LIMIT_REST_NS);
    }
    *(end == ATTEMPT_LIMITED ? &a->limited : &a->through) |= 1u << index_of(a);
    attempts_swap(a);
}

void attempts_failed(attempts *a, attempt_end end, uint32_t retry_after)
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

/* The first attempt. */

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

bool attempts_first(attempts *a, aiq_err *err)
{
    set_model(a, a->asked);
    if (begin(a, 0) ||
        (does_any_serve(a) == SERVE_TOO_LONG && fall_back(a, a->asked->context_fallback))) {
        return true;
    }
    if (a->last) {
        *err = a->last->err; /* of a call that could not even begin */
        return false;
    }
    return nobody(a, err);
}
