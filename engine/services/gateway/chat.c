/*
 * A chat request, from its body to its answer:
 *
 *     receiving   the body goes to the spool
 *     waiting     checked; the same is being asked for another client (cached.h)
 *     replaying   an earlier answer is sent; nobody is asked, nothing is held
 *     holding     checked; its budgets may have to wait for others (bill.h)
 *     opening     a guaranteed stream begins in the store
 *     calling     checked, given to the model's targets (attempts.h); events pass as they
 *                 come
 *     ending      the provider is done; what waits for credit is sent, then END
 *
 * Where the client leaves while a provider is at work, the request goes on without it. A
 * stream that others can read or come back to is produced for them; once nobody has read it
 * for the location's `aiq_stream_grace`, or where nobody can, it is abandoned: for at most
 * `aiq_abort_drain` the provider is still heard, for it says what is to be paid. One that is
 * not paid is stopped at once.
 *
 * A guaranteed stream (guaranteed.h) is in the store before anybody is asked (opening), and
 * so is each event before the client gets it; it goes on without a client to its end, and
 * where the engine leaves, or dies, the next one goes on with it.
 *
 * The head of a stream is sent with its first event (or first keep-alive, in whichever
 * state that is), so that whatever fails before that is a plain error reply with its
 * status, and an event after it.
 */

#include <stdio.h>
#include <string.h>
#include "core/log.h"
#include "services/gateway/attempts.h"
#include "services/gateway/bill.h"
#include "services/gateway/cached.h"
#include "services/gateway/client.h"
#include "services/gateway/gateway.h"
#include "services/gateway/guaranteed.h"
#include "services/gateway/outlet.h"
#include "services/gateway/spool.h"
#include "services/gateway/token_limits.h"
#include "services/gateway/way.h"

/* A comment this often while nothing is there to be said, so that nobody between us and
 * the client takes the stream for dead. */
#define KEEPALIVE_MS 15000

/* How often, and for how long, it is tried to go on with what another engine has left. */
#define AGAIN_MS 1000
#define GO_ON_MS 300000

typedef enum {
    CHAT_RECEIVING,
    CHAT_WAITING,
    CHAT_REPLAYING,
    CHAT_HOLDING,
    CHAT_OPENING,
    CHAT_CALLING,
    CHAT_ENDING
} chat_state;

typedef struct {
    aiq_job *job;
    chat_state state;
    spool *spool;
    aiq_str body;
    chat_request request;
    chat_request *asked; /* the request, or what is left of it */
    const client_dialect *client;
    void *stream; /* the client dialect's own */
    const policy_model *model;
    cached cached;
    bill bill;
    int64_t cost;     /* nano-USD; -1: not known */
    token_hold hold;  /* of limits */
    int64_t probable; /* tokens; what it holds */
    attempts attempts;
    outlet outlet;
    bool guaranteed;
    aiq_str left;   /* by another engine: what its events were made of; data NULL: it is ours */
    aiq_buf source; /* the same of an event of ours */
    bool paused;
    bool gone;      /* the client is; the job is kept */
    bool abandoned; /* and nobody else is there */
    uint64_t first_ns, sent_ns;
    loop_timer keepalive;
    loop_timer alone; /* how long it still goes on without anybody */
} chat;

/* Ending. Each of these may free the chat: it lies in the job's pool. */

static void stop_timers(chat *c)
{
    loop_timer_stop(c->job->loop, &c->keepalive);
    loop_timer_stop(c->job->loop, &c->alone);
}

static void finish(chat *c)
{
    stop_timers(c);
    (c->gone ? job_release : job_end)(c->job);
}

static uint64_t clock_ms(const chat *c)
{
    return loop_turn_ns(c->job->loop) / 1000000;
}

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

static void count_answer(const chat *c, provider_tokens tokens)
{
    const counts_answer answer = {
        .tokens = tokens,
        .seconds = seconds_between(c->job->started_ns, loop_now_ns()),
        .first = seconds_between(c->job->started_ns, c->first_ns),
    };

    counts_answered(gateway_of(c->job)->counts, c->attempts.one->target,
                    c->attempts.asked->name, &answer);
}

/* What a provider says may be anything. */
static int64_t sum_of(provider_tokens tokens)
{
    return tokens.in < INT32_MAX && tokens.out < INT32_MAX ? tokens.in + tokens.out : INT32_MAX;
}

static void settle(chat *c, unsigned status, provider_tokens tokens, bool produced)
{
    bool known = tokens.in >= 0 && tokens.out >= 0;
    token_limits_settle(&c->hold,
                        known      ? sum_of(tokens)
                        : produced ? c->probable
                                   : 0,
                        clock_ms(c));
    c->cost =
        bill_settle(&c->bill, c->attempts.one->target, status, tokens, produced, c->first_ns);
    if (status == 200) {
        count_answer(c, tokens);
    }
}

static void report_usage(chat *c, provider_tokens tokens)
{
    const aiq_usage usage = {
        .tokens_in = tokens.in,
        .tokens_out = tokens.out,
        .first_token_us =
            c->first_ns ? (int64_t)((c->first_ns - c->job->started_ns) / 1000) : -1,
        .cost_nano_usd = c->cost,
    };

    job_usage(c->job, &usage);
}

/* Output. */

static void set_paused(chat *c, bool paused)
{
    if (paused != c->paused && attempts_running(&c->attempts)) {
        c->paused = paused;
        (paused ? attempts_pause : attempts_resume)(&c->attempts);
    }
}

/* It reads its stream more slowly than others do. Those go on. */
static void lose_client(chat *c)
{
    aiq_err err = c->outlet.err;

    outlet_leave(&c->outlet);
    loop_timer_stop(c->job->loop, &c->keepalive);
    if (c->state == CHAT_CALLING) {
        c->gone = job_keep(c->job);
    }
    job_fail(c->job, &err);
}

static void flush(chat *c)
{
    outlet_state state = outlet_send(&c->outlet);

    c->sent_ns = loop_turn_ns(c->job->loop);
    if (state == OUTLET_LOST) {
        lose_client(c);
        return;
    }
    if (c->outlet.log == NULL) {
        set_paused(c, state == OUTLET_WAITS);
    }
    if (c->state == CHAT_ENDING && state == OUTLET_SENT) {
        finish(c);
    }
}

/* All is said. */
static void end(chat *c)
{
    outlet_say(&c->outlet);
    outlet_end(&c->outlet);
    c->state = CHAT_ENDING;
    flush(c);
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

static void say_error(chat *c, const aiq_err *err)
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

static void hold(chat *c);

static void on_again(aiq_loop *loop, void *arg)
{
    (void)loop;
    hold(arg);
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
    token_limits_settle(&c->hold, 0, clock_ms(c));
    bill_drop(&c->bill);
    c->state = CHAT_WAITING;
    loop_timer_start(c->job->loop, &c->alone, AGAIN_MS, on_again, c);
    return true;
}

/* The end without an answer; whoever was asked is settled with. */
static void refuse(chat *c, const aiq_err *err)
{
    if (ask_again(c, err)) {
        return;
    }
    char limits[TOKEN_STATE_TEXT];
    job_header headers[TOKEN_STATE_HEADERS];

    cached_drop(&c->cached);
    token_limits_settle(&c->hold, 0, clock_ms(c));
    bill_drop(&c->bill);
    if (c->job->head_sent) {
        log_failure(c, err);
    }
    if (c->abandoned) {
        finish(c);
        return;
    }
    if (!hears_events(c)) {
        stop_timers(c);
        job_fail_with(c->job, err, headers,
                      token_state_headers(&c->hold.state, headers, limits));
        return;
    }
    say_error(c, err);
    report_usage(c, PROVIDER_TOKENS_UNKNOWN);
    end(c);
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
    reply.n_headers += token_state_headers(&c->hold.state, headers + reply.n_headers, limits);
    if (a->answered) { /* and not a keep-alive's head, before anybody has answered */
        reply.n_headers += way_headers(a, headers + reply.n_headers, way);
    }
    job_head(c->job, &reply);
}

/* The readers of its log. */

static void on_hold(void *arg, bool hold)
{
    set_paused(arg, hold);
}

static void on_alone(aiq_loop *loop, void *arg);
static void on_stop(void *arg);

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

static void on_stored(void *arg)
{
    flush(arg);
}

static void begin_stream(chat *c)
{
    static const stream_producer producer = {
        .hold = on_hold, .watched = on_watched, .stop = on_stop};
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
        outlet_log(&c->outlet, keep, &producer, c);
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
    flush(c);
}

static void on_stream_done(void *arg, provider_tokens tokens)
{
    chat *c = arg;

    if (c->abandoned) {
        settle(c, 499, tokens, true);
        finish(c);
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
    settle(c, 200, tokens, true);
    report_usage(c, tokens);
    end(c);
}

static void on_failed(void *arg, const aiq_err *err);

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
    settle(c, c->abandoned ? 499 : reply->status, reply->tokens, reply->status == 200);
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
    report_usage(c, reply->tokens);
    end(c);
}

static void on_failed(void *arg, const aiq_err *err)
{
    chat *c = arg;

    settle(c, err->status, PROVIDER_TOKENS_UNKNOWN, c->bill.produced > 0);
    refuse(c, err);
}

/* The request. */

void gateway_no_model(aiq_str name, aiq_err *err)
{
    bool plain = name.len <= 128;

    for (size_t i = 0; plain && i < name.len; i++) {
        plain = name.data[i] > ' ' && name.data[i] < 0x7f;
    }
    if (plain) {
        aiq_fail_param(err, 404, "model_not_found", "model", "The model '%.*s' does not exist.",
                       (int)name.len, name.data);
    } else {
        aiq_fail_param(err, 404, "model_not_found", "model", "This model does not exist.");
    }
}

static void on_lost(void *arg, const policy_target *target)
{
    chat *c = arg;

    bill_broke_off(&c->bill, target);
}

static void call_model(chat *c)
{
    static const provider_events events = {on_reply, on_event, on_stream_done, on_failed};
    aiq_err err;

    c->state = CHAT_CALLING;
    if (!attempts_start(&c->attempts, c->job, c->model, c->asked, &events, on_lost, c, &err)) {
        refuse(c, &err);
    }
}

/* A guaranteed stream. */

static void on_opened(void *arg, const aiq_err *err)
{
    chat *c = arg;

    if (err) {
        refuse(c, err);
    } else {
        call_model(c);
    }
}

static void stop_calling(chat *c);

/* The store has not taken its events for long, or another engine has it. */
static void on_unstored(void *arg, const aiq_err *err)
{
    chat *c = arg;

    stop_calling(c);
    if (err) {
        say_error(c, err);
        outlet_say(&c->outlet);
        outlet_end(&c->outlet);
    } else {
        outlet_release(&c->outlet);
    }
    c->state = CHAT_ENDING;
    if (c->gone) {
        finish(c);
    } else if (err || !c->job->head_sent) {
        aiq_err unknown;
        aiq_fail(&unknown, 503, "store_unavailable", "The store is not available.");
        stop_timers(c);
        job_fail(c->job, err ? err : &unknown);
    }
}

static const stream_producer guaranteed_producer = {.hold = on_hold,
                                                    .watched = on_watched,
                                                    .stop = on_stop,
                                                    .opened = on_opened,
                                                    .lost = on_unstored};

static void open_stream(chat *c)
{
    aiq_buf memory = {0};
    const durable_request request = guaranteed_request(c->job, c->body, &memory);
    aiq_err err;

    c->state = CHAT_OPENING;
    if (!outlet_guarantee(&c->outlet, c->job->location->stream_buffer, &guaranteed_producer, c,
                          &request, &err)) {
        refuse(c, &err);
    }
    aiq_buf_free(&memory);
}

static void begin(chat *c)
{
    if (c->guaranteed && c->outlet.log == NULL) {
        open_stream(c);
    } else {
        call_model(c);
    }
}

static void on_held(bill *b, const aiq_err *refused)
{
    chat *c = b->job->state;

    if (refused) {
        refuse(c, refused);
    } else {
        begin(c);
    }
}

/* Files and batches are no model's, but lie with a provider. A key that may use some models
 * only may not use them: a batch can name any. */
static bool find_files(chat *c, aiq_err *err)
{
    c->model = c->job->location->files;
    if (c->model == NULL) {
        return aiq_fail(err, 400, "unsupported_endpoint",
                        "No provider keeps files and batches for this location.");
    }
    return c->job->models.len == 0 ||
           aiq_fail(err, 403, "permission_denied",
                    "This API key is for some models only, and has no files and batches.");
}

static bool find_model(chat *c, aiq_err *err)
{
    if (c->request.model.type == JSON_NONE) {
        return find_files(c, err);
    }
    aiq_str name = json_string(c->job->pool, &c->request.model);

    c->model = policy_find_model(c->job->policy, name.data, name.len);
    if (c->model == NULL || !job_may_use(c->job, c->model->name)) {
        gateway_no_model(name, err);
        return false;
    }
    return true;
}

/* Four bytes are about a token; who sets no limit gets answers of a thousand or so. */
static bool hold_tokens(chat *c, aiq_err *err)
{
    const aiq_job *job = c->job;
    request_bound bound = {0};
    aiq_err unbounded;

    if (job->n_limits == 0) {
        return true;
    }
    (void)request_bound_of(c->asked, &bound, &unbounded); /* what has none counts after */
    c->probable = bound.input / 4 + (bound.cap ? bound.output / 4 : bound.output);
    c->probable = c->probable < INT32_MAX ? c->probable : INT32_MAX;
    return token_limits_hold(gateway_of(c->job)->gateway->limits, &c->hold, job->limits,
                             job->n_limits, job->limit_keys, c->probable, clock_ms(c), err);
}

static void hold(chat *c)
{
    aiq_err err;

    if (!hold_tokens(c, &err)) {
        refuse(c, &err);
        return;
    }
    c->state = CHAT_HOLDING;
    switch (bill_begin(&c->bill, c->job, c->model, c->asked,
                       attempts_may_pay_more(c->job, c->model, c->asked), on_held, &err)) {
    case LEDGER_BEGUN:
        begin(c);
        break;
    case LEDGER_REFUSED:
        refuse(c, &err);
        break;
    case LEDGER_WAITS:
        break;
    }
}

static void send_replay(chat *c)
{
    if (cached_send(&c->cached)) {
        job_end(c->job);
    }
}

static void replay(chat *c)
{
    stop_timers(c);
    c->state = CHAT_REPLAYING;
    bill_replayed(c->job, c->model);
    cached_reply(&c->cached, c->model->name);
    if (c->outlet.out.len) { /* a keep-alive */
        aiq_buf_add(&c->outlet.text, c->cached.left.data, c->cached.left.len);
        end(c);
    } else {
        send_replay(c);
    }
}

static void on_cached(aiq_job *job)
{
    chat *c = job->state;

    (c->cached.entry ? replay : hold)(c);
}

/* What another engine has begun. */
static void go_on(chat *c)
{
    continuation said = {.allowed = true};
    bool whole = guaranteed_replay(c->left, c->client, c->stream, &said);
    aiq_err err;

    if (!whole && c->left.len) {
        c->asked = guaranteed_rest(c->job, c->model, &c->request, &said, &err);
    }
    aiq_buf_free(&said.text);
    if (whole) {
        end(c);
    } else if (c->asked) {
        hold(c);
    } else {
        err.retryable = false;
        refuse(c, &err);
    }
}

static void on_body_whole(aiq_job *job, aiq_str body, const aiq_err *wrong)
{
    chat *c = job->state;
    aiq_err err;

    if (wrong) {
        refuse(c, wrong);
        return;
    }
    c->body = body;
    c->asked = &c->request;
    if (!c->client->parse(&c->request, job, body, &err) || !find_model(c, &err) ||
        !guaranteed_wanted(job, &c->request, &c->guaranteed, &err)) {
        refuse(c, &err);
        return;
    }
    if (c->request.stream) {
        c->stream = aiq_pool_zalloc(job->pool, c->client->stream_size);
        if (c->client->begin) {
            c->client->begin(c->stream, &c->request);
        }
        c->sent_ns = loop_turn_ns(c->job->loop);
    }
    if (c->left.data) {
        go_on(c);
        return;
    }
    if (c->request.stream) {
        loop_timer_start(job->loop, &c->keepalive, KEEPALIVE_MS, on_keepalive, c);
    }
    if (c->request.raw || c->guaranteed) {
        hold(c); /* what is no JSON is not kept; nor is what has a place of its own */
        return;
    }
    switch (cached_begin(&c->cached, job, c->model, &c->request, on_cached)) {
    case CACHED_HIT:
        replay(c);
        break;
    case CACHED_CALL:
        hold(c);
        break;
    case CACHED_WAITS:
        c->state = CHAT_WAITING;
        break;
    }
}

/* The job's handler. */

static void release(void *arg)
{
    chat *c = arg;

    if (c->stream && c->client->release) {
        c->client->release(c->stream);
    }
    aiq_buf_free(&c->source);
    cached_free(&c->cached);
    spool_free(c->spool);
    outlet_free(&c->outlet);
}

static void open_for(aiq_job *job, const client_dialect *client)
{
    chat *c = aiq_pool_zalloc(job->pool, sizeof(*c));

    c->job = c->outlet.job = job;
    c->client = client;
    c->cost = -1;
    job->state = c;
    c->spool = spool_new(job, on_body_whole);
    aiq_pool_cleanup(job->pool, release, c);
}

static void chat_open(aiq_job *job)
{
    open_for(job, &client_openai);
}

static void messages_open(aiq_job *job)
{
    open_for(job, &client_anthropic);
}

static void responses_open(aiq_job *job)
{
    open_for(job, &client_responses);
}

static void files_open(aiq_job *job)
{
    open_for(job, &client_files);
}

static void raw_open(aiq_job *job)
{
    open_for(job, &client_raw);
}

static void passing_open(aiq_job *job)
{
    open_for(job, &client_passing);
}

static void counting_open(aiq_job *job)
{
    open_for(job, &client_counting);
}

static void chat_body(aiq_job *job, const uint8_t *data, size_t n)
{
    spool_add(((chat *)job->state)->spool, data, n);
}

static void chat_end(aiq_job *job)
{
    spool_end(((chat *)job->state)->spool);
}

static void chat_writable(aiq_job *job)
{
    chat *c = job->state;

    (c->state == CHAT_REPLAYING ? send_replay : flush)(c);
}

/* For who reads it: this was not its end. */
static void break_off(chat *c)
{
    aiq_err err;

    if (c->outlet.log && !c->outlet.ended) {
        aiq_fail(&err, 504, "stream_abandoned", "This stream was given up before its end.");
        say_error(c, &err);
        outlet_say(&c->outlet);
        outlet_end(&c->outlet);
    }
}

/* The provider bills what it has done by now, and nobody will say what that is. */
static void stop_calling(chat *c)
{
    if (attempts_running(&c->attempts)) {
        bool at_work = c->attempts.one->call != NULL;
        attempts_cancel(&c->attempts);
        settle(c, 499, PROVIDER_TOKENS_UNKNOWN, at_work);
    }
}

static void stop(chat *c)
{
    if (c->guaranteed && engine_leaves(c->job->loop->engine)) {
        outlet_release(&c->outlet);
    } else {
        break_off(c);
    }
    stop_timers(c); /* also that for who leaves with the stream's last event */
    cached_drop(&c->cached);
    if (c->state == CHAT_HOLDING || c->state == CHAT_OPENING) {
        token_limits_settle(&c->hold, 0, clock_ms(c));
        bill_drop(&c->bill);
    } else {
        stop_calling(c);
    }
}

static void on_drained(aiq_loop *loop, void *arg)
{
    (void)loop;
    stop(arg);
    finish(arg);
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
        finish(c);
    }
}

static void on_alone(aiq_loop *loop, void *arg)
{
    (void)loop;
    abandon(arg);
}

static void chat_cancel(aiq_job *job)
{
    chat *c = job->state;
    bool under_way = c->state == CHAT_OPENING ||
                     (c->state == CHAT_CALLING && attempts_running(&c->attempts));

    if (!under_way || !job_keep(job)) {
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
        flush(c);
    }
}

void gateway_go_on(aiq_job *job, const durable_orphan *orphan, aiq_str body)
{
    job->route->handler->open(job);

    chat *c = job->state;
    c->gone = c->guaranteed = true;
    c->left = (aiq_str){aiq_pool_copy(job->pool, orphan->source.data, orphan->source.len),
                        orphan->source.len};
    outlet_adopt(&c->outlet, orphan->stream, job->location->stream_buffer, &guaranteed_producer,
                 c);
    job->route->handler->body(job, (const uint8_t *)body.data, body.len);
    job_alone_start(job);
}

#define HANDLER(open_fn)                                                                       \
    {                                                                                          \
        .open = (open_fn), .body = chat_body, .end = chat_end, .writable = chat_writable,      \
        .cancel = chat_cancel                                                                  \
    }

const job_handler gateway_chat = HANDLER(chat_open);
const job_handler gateway_messages = HANDLER(messages_open);
const job_handler gateway_responses = HANDLER(responses_open);
const job_handler gateway_raw = HANDLER(raw_open);
const job_handler gateway_files = HANDLER(files_open);
const job_handler gateway_passing = HANDLER(passing_open);
const job_handler gateway_counting = HANDLER(counting_open);
