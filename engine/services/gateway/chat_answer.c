/* What a chat's client is told: the provider's events in the client's words. */

#include <stdio.h>
#include <string.h>
#include "core/log.h"
#include "services/gateway/chat.h"
#include "services/gateway/way.h"

/* A comment this often while nothing is there to be said, so that nobody between us and
 * the client takes the stream for dead. */
#define KEEPALIVE_MS 15000

/* How often, and for how long, it is tried to go on with what another engine has left. */
#define AGAIN_MS 1000
#define GO_ON_MS 300000

/* Output. */

void chat_set_paused(chat *c, bool paused)
{
    if (paused != c->paused && attempts_running(&c->attempts)) {
        c->paused = paused;
        (paused ? attempts_pause : attempts_resume)(&c->attempts);
    }
}

void chat_flush(chat *c)
{
    outlet_state state = outlet_send(&c->outlet);

    c->sent_ns = loop_turn_ns(c->job->loop);
    if (state == OUTLET_LOST) {
        chat_lose_client(c);
        return;
    }
    if (c->outlet.log == NULL) {
        chat_set_paused(c, state == OUTLET_WAITS);
    }
    if (c->state == CHAT_ENDING && state == OUTLET_SENT) {
        chat_finish(c);
    }
}

void chat_last(chat *c)
{
    outlet_say(&c->outlet);
    outlet_end(&c->outlet);
    c->state = CHAT_ENDING;
    chat_flush(c);
}

/* Who answers, or was asked last; NULL: nobody was asked. */
static const policy_target *target_asked(const chat *c)
{
    return c->attempts.one ? c->attempts.one->target : NULL;
}

static void log_failure(const chat *c, const aiq_err *err)
{
    const policy_target *asked = target_asked(c);
    char id[65];
    size_t n = c->job->request_id.len < 64 ? c->job->request_id.len : 64;

    memcpy(id, c->job->request_id.data, n);
    id[n] = '\0';
    aiq_log(AIQ_LOG_WARN, "gateway", "call of a model failed", AIQ_S("request_id", id),
            AIQ_S("provider", asked ? asked->provider->name : NULL),
            AIQ_S("model", c->model->name), AIQ_I("attempt", c->attempts.n),
            AIQ_I("status", err->status), AIQ_S("code", err->code),
            AIQ_S("detail", err->detail[0] ? err->detail : err->message));
}

void chat_say_error(chat *c, const aiq_err *err)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = err->status,
        .code = {err->code, strlen(err->code)},
        .message = {err->message, strlen(err->message)},
        .param = {err->param, strlen(err->param)},
        .request_id = {c->job->request_id.data, c->job->request_id.len},
    };
    aiq_str text = {body, aiq_error_render(body, c->job->dialect, &info)};

    c->client->error(c->stream, text, &c->outlet.text);
}

/* Is there anybody to whom an error is an event? Of a guaranteed stream that is also who will
 * come back. Nothing can be said in the middle of an answer that may be anything. */
static bool hears_events(const chat *c)
{
    return c->client->error && (c->job->head_sent || (c->gone && c->outlet.log));
}

static void on_again(aiq_loop *loop, void *arg)
{
    (void)loop;
    chat_hold(arg);
}

/* What another engine has left is not given up at once: a model may still be on its way into
 * memory, and many may want to go on at a time. */
static bool ask_again(chat *c, const aiq_err *err)
{
    uint64_t since_ns = loop_now_ns() - c->job->started_ns;

    if (c->left.data == NULL || c->first_ns || !err->retryable ||
        since_ns > GO_ON_MS * 1000000ull) {
        return false;
    }
    chat_let_go(c);
    c->state = CHAT_WAITING;
    loop_timer_start(c->job->loop, &c->alone, AGAIN_MS, on_again, c);
    return true;
}

void chat_refuse(chat *c, const aiq_err *err)
{
    if (ask_again(c, err)) {
        return;
    }
    char limits[TOKEN_STATE_TEXT];
    job_header headers[TOKEN_STATE_HEADERS];

    cached_drop(&c->cached);
    chat_let_go(c);
    if (c->job->head_sent) {
        log_failure(c, err);
    }
    if (c->abandoned) {
        chat_finish(c);
        return;
    }
    if (!hears_events(c)) {
        chat_stop_timers(c);
        job_fail_with(c->job, err, headers,
                      token_state_headers(&c->claim.state, headers, limits));
        return;
    }
    chat_say_error(c, err);
    chat_report(c, PROVIDER_TOKENS_UNKNOWN);
    chat_last(c);
}

static void send_head(chat *c, unsigned status, const char *type, int64_t length,
                      uint32_t retry_after)
{
    const attempts *a = &c->attempts;
    const policy_target *asked = target_asked(c);
    char seconds[12], way[WAY_SIZE], cost[LEDGER_USD_SIZE], limits[TOKEN_STATE_TEXT];
    job_header headers[12];
    job_reply reply = {
        .status = status,
        .content_type = type,
        .content_length = length,
        .stream = strncmp(type, "text/event-stream", 17) == 0,
        .headers = headers,
        .model = c->model->name,
        .provider = asked ? asked->provider->name : NULL,
    };

    if (retry_after) {
        int n = snprintf(seconds, sizeof(seconds), "%u", retry_after);
        headers[reply.n_headers++] = (job_header){AIQ_STR("retry-after"), {seconds, (size_t)n}};
    } else if (reply.stream) {
        headers[reply.n_headers++] =
            (job_header){AIQ_STR("cache-control"), AIQ_STR("no-cache")};
    }
    if (c->outlet.log && reply.stream) {
        const char *id = stream_id(c->outlet.log);
        headers[reply.n_headers++] = (job_header){AIQ_STR("x-aiq-stream"), {id, strlen(id)}};
    }
    if (c->job->cache) {
        headers[reply.n_headers++] =
            (job_header){AIQ_STR("x-aiq-cache"), {c->job->cache, strlen(c->job->cache)}};
    }
    if (bill_warns(&c->bill)) {
        headers[reply.n_headers++] =
            (job_header){AIQ_STR("x-aiq-budget"), AIQ_STR("more than 80% used")};
    }
    if (c->cost >= 0) { /* of a whole answer; a stream's is known at its end */
        headers[reply.n_headers++] =
            (job_header){AIQ_STR("x-aiq-cost"), {cost, ledger_write_usd(cost, c->cost)}};
    }
    reply.n_headers += token_state_headers(&c->claim.state, headers + reply.n_headers, limits);
    if (a->answered) { /* and not a keep-alive's head, before anybody has answered */
        reply.n_headers += way_headers(a, headers + reply.n_headers, way);
    }
    job_head(c->job, &reply);
}

static void on_stored(void *arg)
{
    chat_flush(arg);
}

static void begin_stream(chat *c)
{
    size_t keep = c->job->location->stream_buffer;

    if (c->job->head_sent || c->gone) {
        return;
    }
    if (c->guaranteed) {
        outlet_follow(&c->outlet, on_stored, c);
        send_head(c, 200, "text/event-stream", -1, 0);
        return;
    }
    /* while it waits for another's answer, that may be what it gets, numbered already */
    if (keep && !c->request.raw && c->state == CHAT_CALLING) {
        outlet_log(&c->outlet, keep, &chat_producer, c);
        stream_title(c->outlet.log, c->job->user,
                     (aiq_str){c->model->name, strlen(c->model->name)});
    }
    const char *type = c->attempts.one ? c->attempts.one->type : NULL;
    send_head(c, 200, type ? type : "text/event-stream", -1, 0);
}

/* No empty line ends it: there are clients that take that for an event. */
static void on_keepalive(aiq_loop *loop, void *arg)
{
    chat *c = arg;
    uint64_t quiet_ms = (loop_turn_ns(loop) - c->sent_ns) / 1000000, wait = KEEPALIVE_MS;

    if (quiet_ms < KEEPALIVE_MS) {
        wait = KEEPALIVE_MS - quiet_ms;
    } else if (!c->guaranteed || c->state >= CHAT_CALLING) { /* else it has no name yet */
        begin_stream(c);
        outlet_comment(&c->outlet, AIQ_STR(": keep-alive\n"));
        c->sent_ns = loop_turn_ns(c->job->loop);
    }
    loop_timer_start(loop, &c->keepalive, wait, on_keepalive, c);
}

void chat_keep_alive(chat *c)
{
    loop_timer_start(c->job->loop, &c->keepalive, KEEPALIVE_MS, on_keepalive, c);
}

/* The provider's events. */

/* What the client's dialect has made of one. */
static void say(chat *c)
{
    aiq_str said = outlet_say(&c->outlet);

    cached_keep(&c->cached, (const uint8_t *)said.data, said.len);
}

/* What another engine could not see in a client's events. */
static void note_source(chat *c, aiq_str data)
{
    if (c->guaranteed && c->client->stream_size && !attempts_native(&c->attempts)) {
        client_add_data(&c->source, data);
        durable_note(c->outlet.log, c->source.data, c->source.len);
        aiq_buf_consume(&c->source, c->source.len);
    }
}

static void on_event(void *arg, aiq_str data)
{
    chat *c = arg;

    if (c->first_ns == 0) {
        c->first_ns = loop_now_ns();
    }
    c->bill.produced++;
    if (c->abandoned) {
        return;
    }
    begin_stream(c);
    note_source(c, data);
    c->client->event(c->stream, data, attempts_native(&c->attempts), &c->outlet.text);
    say(c);
    chat_flush(c);
}

static void on_stream_done(void *arg, provider_tokens tokens)
{
    chat *c = arg;

    if (c->abandoned) {
        chat_settle(c, 499, tokens, true);
        chat_finish(c);
        return;
    }
    begin_stream(c);
    c->client->end(c->stream, attempts_native(&c->attempts), &c->outlet.text);
    say(c);
    if (c->attempts.continued) {
        cached_drop(&c->cached); /* two have said it */
    } else {
        cached_done(&c->cached, c->attempts.one->target, true);
    }
    chat_settle(c, 200, tokens, true);
    chat_report(c, tokens);
    chat_last(c);
}

static void on_failed(void *arg, const aiq_err *err)
{
    chat *c = arg;

    chat_settle(c, err->status, PROVIDER_TOKENS_UNKNOWN, c->bill.produced > 0);
    chat_refuse(c, err);
}

static void send_whole(chat *c, const provider_reply *reply, aiq_str body)
{
    if (c->abandoned) {
        return;
    }
    send_head(c, reply->status, "application/json", (int64_t)body.len,
              reply->status == 200 ? 0 : reply->retry_after);
    size_t sent = job_write(c->job, body.data, body.len, true);
    aiq_buf_add(&c->outlet.text, body.data + sent, body.len - sent);
}

static void on_reply(void *arg, const provider_reply *reply)
{
    chat *c = arg;
    aiq_str body = reply->body;
    aiq_buf own = {0};
    aiq_err err;

    if (!attempts_native(&c->attempts) &&
        !c->client->reply(c->job, &c->request, reply->status, &body, &own)) {
        aiq_buf_free(&own);
        aiq_fail(&err, 502, "provider_error", "The provider gave no valid reply.");
        on_failed(c, &err);
        return;
    }
    c->first_ns = loop_now_ns();
    c->bill.produced = reply->body.len / 4;
    chat_settle(c, c->abandoned ? 499 : reply->status, reply->tokens, reply->status == 200);
    if (hears_events(c)) { /* after a keep-alive, or of a stream that will be read */
        c->client->error(c->stream, body, &c->outlet.text);
    } else {
        outlet_forget(&c->outlet);
        if (reply->status == 200) {
            cached_keep(&c->cached, (const uint8_t *)body.data, body.len);
            cached_done(&c->cached, c->attempts.one->target, false);
        }
        cached_drop(&c->cached);
        send_whole(c, reply, body);
    }
    aiq_buf_free(&own);
    chat_report(c, reply->tokens);
    chat_last(c);
}

void chat_lost(void *arg, const policy_target *target)
{
    chat *c = arg;

    bill_broke_off(&c->bill, target);
}

const provider_events chat_answers = {
    .reply = on_reply,
    .event = on_event,
    .done = on_stream_done,
    .failed = on_failed,
};
