/*
 * GET /echo/events?count=100&every=20ms: a stream of numbered events at a pace, made in the
 * engine: what it takes to bring events to clients, without a provider. Each says its number
 * and the monotonic time at which it was made, in nanoseconds: {"n":17,"ns":…}.
 */

#include "services/echo_events.h"

#include <string.h>
#include "services/gateway/outlet.h"

#define COUNT_MAX    1000000000u
#define EVERY_MAX_MS 60000u
#define KEEP         ((size_t)16 << 10)

typedef struct {
    outlet out;
    uint64_t n, count; /* count 0: for ever */
    uint64_t every_ns, due_ns;
    bool held;
    loop_timer timer;
} generator;

/* What is asked. */

/* Digits and, for every, their unit. */
static bool read_number(aiq_str text, bool time, uint64_t most, uint64_t *out)
{
    uint64_t n = 0;
    size_t i = 0;

    for (; i < text.len && i < 10 && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        n = n * 10 + (uint64_t)(text.data[i] - '0');
    }
    const aiq_str unit = {text.data + i, text.len - i};
    *out = time && aiq_str_is(unit, "s") ? n * 1000 : n;
    return i > 0 && *out <= most &&
           (time ? *out > 0 && (aiq_str_is(unit, "s") || aiq_str_is(unit, "ms"))
                 : unit.len == 0);
}

static bool read_args(generator *g, aiq_job *job, aiq_err *err)
{
    aiq_str args = job->args, name, value;
    uint64_t every_ms = 1000;

    while (service_arg(job->pool, &args, &name, &value)) {
        if (aiq_str_is(name, "count") && !read_number(value, false, COUNT_MAX, &g->count)) {
            return aiq_fail_param(err, 400, "invalid_value", "count",
                                  "'count' takes a number of events.");
        }
        if (aiq_str_is(name, "every") && !read_number(value, true, EVERY_MAX_MS, &every_ms)) {
            return aiq_fail_param(err, 400, "invalid_value", "every",
                                  "'every' takes a time of at most 60s, as 20ms.");
        }
    }
    g->every_ns = every_ms * 1000000;
    return true;
}

/* Events. */

static void send_on(generator *g)
{
    outlet_state state = outlet_send(&g->out);

    if (state == OUTLET_LOST || (state == OUTLET_SENT && g->out.ended)) {
        job_end(g->out.job);
    }
}

static void on_due(aiq_loop *loop, void *arg);

static void start(generator *g)
{
    uint64_t now = loop_turn_ns(g->out.job->loop);

    g->due_ns = g->due_ns > now ? g->due_ns : now; /* what was missed is not made up for */
    loop_timer_start(g->out.job->loop, &g->timer, (g->due_ns - now + 999999) / 1000000, on_due,
                     g);
}

static void on_due(aiq_loop *loop, void *arg)
{
    generator *g = arg;

    (void)loop;
    g->n++;
    aiq_buf_printf(&g->out.text, "data: {\"n\":%llu,\"ns\":%llu}\n\n", (unsigned long long)g->n,
                   (unsigned long long)loop_now_ns());
    g->due_ns += g->every_ns;
    (void)outlet_say(&g->out);
    if (g->n == g->count) {
        outlet_end(&g->out);
    } else if (!g->held) {
        start(g);
    }
    send_on(g);
}

static void on_hold(void *arg, bool hold)
{
    generator *g = arg;

    g->held = hold;
    if (hold) {
        loop_timer_stop(g->out.job->loop, &g->timer);
    } else if (!g->out.ended) {
        start(g);
    }
}

/* It goes with its client. */
static void on_watched(void *arg, bool watched)
{
    (void)arg;
    (void)watched;
}

static const stream_producer producer = {.hold = on_hold, .watched = on_watched};

/* The job's handler. */

static void release(void *arg)
{
    generator *g = arg;

    loop_timer_stop(g->out.job->loop, &g->timer);
    outlet_free(&g->out);
}

static void events_end(aiq_job *job)
{
    generator *g = aiq_pool_zalloc(job->pool, sizeof(*g));
    aiq_err err;

    g->out.job = job;
    job->state = g;
    if (!read_args(g, job, &err)) {
        job_fail(job, &err);
        return;
    }
    aiq_pool_cleanup(job->pool, release, g);
    outlet_log(&g->out, KEEP, &producer, g);
    const char *id = stream_id(g->out.log);
    const job_header name = {AIQ_STR("x-aiq-stream"), {id, strlen(id)}};
    job_head(job, &(job_reply){.status = 200,
                               .content_type = "text/event-stream",
                               .content_length = -1,
                               .stream = true,
                               .endless = g->count == 0,
                               .headers = &name,
                               .n_headers = 1});
    g->due_ns = loop_now_ns() + g->every_ns;
    start(g);
}

static void events_writable(aiq_job *job)
{
    send_on(job->state);
}

static void events_cancel(aiq_job *job)
{
    generator *g = job->state;

    if (g) {
        loop_timer_stop(job->loop, &g->timer);
        outlet_end(&g->out);
        outlet_leave(&g->out);
    }
}

const job_handler echo_events = {
    .end = events_end, .writable = events_writable, .cancel = events_cancel};
