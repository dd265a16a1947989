#include "services/gateway/attempts.h"
#include "services/gateway/attempts_impl.h"

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
    return attempts_first(a, err);
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

    attempts_cancel_rival(a);
    loop_timer_stop(a->job->loop, &a->wait);
    if (call) {
        attempts_end_call(a, 499, a->answered ? ATTEMPT_ANSWER : ATTEMPT_OURS);
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
    attempts_cancel_rival(a);
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
