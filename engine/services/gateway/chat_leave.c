/* Who reads a chat's answer, and what becomes of it when they leave. */

#include "engine.h"
#include "services/gateway/chat.h"

void chat_stop_timers(chat *c)
{
    loop_timer_stop(c->job->loop, &c->keepalive);
    loop_timer_stop(c->job->loop, &c->alone);
}

void chat_finish(chat *c)
{
    chat_stop_timers(c);
    (c->gone ? job_release : job_end)(c->job);
}

/* Nobody has its request whole, so nobody is at work. */
static bool is_coming(const chat *c)
{
    return c->upload && !c->upload->whole;
}

/* The provider bills what it has done by now, and nobody will say what that is. */
void chat_stop_calling(chat *c)
{
    if (attempts_running(&c->attempts)) {
        bool at_work = c->attempts.one->call != NULL && !is_coming(c);
        attempts_cancel(&c->attempts);
        chat_settle(c, 499, PROVIDER_TOKENS_UNKNOWN, at_work);
    }
}

/* For who reads it: this was not its end. */
static void break_off(chat *c)
{
    aiq_err err;

    if (c->outlet.log && !c->outlet.ended) {
        aiq_fail(&err, 504, "stream_abandoned", "This stream was given up before its end.");
        chat_say_error(c, &err);
        outlet_say(&c->outlet);
        outlet_end(&c->outlet);
    }
}

static void stop(chat *c)
{
    if (c->guaranteed && engine_leaves(c->job->loop->engine)) {
        outlet_release(&c->outlet);
    } else {
        break_off(c);
    }
    chat_stop_timers(c); /* also that for who leaves with the stream's last event */
    cached_drop(&c->cached);
    if (c->state == CHAT_HOLDING || c->state == CHAT_OPENING) {
        chat_let_go(c);
    } else {
        chat_stop_calling(c);
    }
}

static void on_drained(aiq_loop *loop, void *arg)
{
    (void)loop;
    stop(arg);
    chat_finish(arg);
}

/* Nobody reads it, nor will: but the provider may still say what it costs. */
static void abandon(chat *c)
{
    uint32_t drain_ms = c->job->location->abort_drain_ms;

    c->abandoned = true;
    break_off(c);
    if (drain_ms && c->state == CHAT_CALLING && attempts_drain(&c->attempts)) {
        if (c->request.stream) {
            cached_drop(&c->cached);
        }
        loop_timer_start(c->job->loop, &c->alone, drain_ms, on_drained, c);
    } else {
        stop(c);
        chat_finish(c);
    }
}

static void on_alone(aiq_loop *loop, void *arg)
{
    (void)loop;
    abandon(arg);
}

/* The client. */

void chat_lose_client(chat *c)
{
    aiq_err err = c->outlet.err;

    outlet_leave(&c->outlet);
    loop_timer_stop(c->job->loop, &c->keepalive);
    if (c->state == CHAT_CALLING) {
        c->gone = job_keep(c->job);
    }
    job_fail(c->job, &err);
}

void chat_cancel(aiq_job *job)
{
    chat *c = job->state;
    bool under_way = c->state == CHAT_OPENING ||
                     (c->state == CHAT_CALLING && attempts_running(&c->attempts));

    if (!under_way || is_coming(c) || !job_keep(job)) {
        stop(c);
        return;
    }
    c->gone = true;
    loop_timer_stop(job->loop, &c->keepalive);
    outlet_leave(&c->outlet);
    if (c->outlet.log == NULL) {
        abandon(c);
    }
}

/* The readers of its log, and the store. */

static void on_hold(void *arg, bool hold)
{
    chat_set_paused(arg, hold);
}

static void on_watched(void *arg, bool watched)
{
    chat *c = arg;

    if (c->guaranteed) {
        return;
    }
    if (watched) {
        loop_timer_stop(c->job->loop, &c->alone);
    } else {
        loop_timer_start(c->job->loop, &c->alone, c->job->location->stream_grace_ms, on_alone,
                         c);
    }
}

/* A reader has asked for it. */
static void on_stop(void *arg)
{
    chat *c = arg;

    if (c->gone) {
        loop_timer_stop(c->job->loop, &c->alone);
        abandon(c);
    } else {
        break_off(c);
        stop(c);
        c->state = CHAT_ENDING;
        chat_flush(c);
    }
}

static void on_opened(void *arg, const aiq_err *err)
{
    chat *c = arg;

    if (err) {
        chat_refuse(c, err);
    } else {
        chat_call(c);
    }
}

/* The store has not taken its events for long, or another engine has it. */
static void on_unstored(void *arg, const aiq_err *err)
{
    chat *c = arg;

    chat_stop_calling(c);
    if (err) {
        chat_say_error(c, err);
        outlet_say(&c->outlet);
        outlet_end(&c->outlet);
    } else {
        outlet_release(&c->outlet);
    }
    c->state = CHAT_ENDING;
    if (c->gone) {
        chat_finish(c);
    } else if (err || !c->job->head_sent) {
        aiq_err unknown;
        aiq_fail(&unknown, 503, "store_unavailable", "The store is not available.");
        chat_stop_timers(c);
        job_fail(c->job, err ? err : &unknown);
    }
}

const stream_producer chat_producer = {.hold = on_hold, .watched = on_watched, .stop = on_stop};

const stream_producer chat_guaranteed = {.hold = on_hold,
                                         .watched = on_watched,
                                         .stop = on_stop,
                                         .opened = on_opened,
                                         .lost = on_unstored};
