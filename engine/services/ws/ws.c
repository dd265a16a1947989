#include "services/ws/ws.h"

#include <stdlib.h>
#include <string.h>
#include "core/json.h"
#include "streams/stream_log.h"

/* Where nginx.conf sets no bound for a body. */
#define MESSAGE_MAX (1u << 20)

static void add_expiry(aiq_buf *data, int64_t ms)
{
    if (ms) {
        aiq_buf_text(data, ",\"expires_at\":\"");
        stream_log_time(data, ms);
        aiq_buf_text(data, "\"");
    }
}

/* What the caller has under way, the latest first. */
static void add_streams(aiq_buf *data, const stream_list *list)
{
    aiq_buf_text(data, ",\"streams\":[");
    for (size_t i = 0; i < list->n; i++) {
        const stream_entry *e = &list->of[i];
        aiq_buf_printf(data, "%s{\"stream\":\"%s\",\"model\":", i ? "," : "", e->id);
        json_quote(data, e->model, strlen(e->model));
        aiq_buf_printf(data, ",\"seq\":%llu,\"started_at\":\"", (unsigned long long)e->last);
        stream_log_time(data, e->began_ms);
        aiq_buf_printf(data, "\",\"qos\":\"%s\"}",
                       e->guaranteed ? "guaranteed" : "best-effort");
    }
    aiq_buf_text(data, "]");
}

/* The first event. */
static void say_state(ws *w, const stream_list *list)
{
    const aiq_job *job = w->job;
    aiq_buf data = {0};

    aiq_buf_text(&data, "{\"connection\":");
    json_quote(&data, job->request_id.data, job->request_id.len);
    aiq_buf_text(&data, ",\"tenant\":");
    json_quote(&data, job->tenant.data, job->tenant.len);
    aiq_buf_text(&data, ",\"user\":");
    json_quote(&data, job->user.data, job->user.len);
    aiq_buf_text(&data, ",\"role\":");
    json_quote(&data, job->role.data, job->role.len);
    add_expiry(&data, job->expires_ms);
    add_streams(&data, list);
    aiq_buf_printf(&data,
                   ",\"heartbeat_ms\":%d,\"limits\":{\"chats\":%d,\"streams\":%d,"
                   "\"messages_per_second\":%d}}",
                   WS_HEARTBEAT_MS, WS_CHATS_MAX, WS_FOLLOWS_MAX, WS_MESSAGES_A_SECOND);
    ws_say(w, &(ws_event){.type = "state", .data = {(char *)data.data, data.len}});
    aiq_buf_free(&data);
}

/* Flows. */

static ws_flow *find_flow(const ws *w, aiq_str id)
{
    ws_flow *flow = w->flows;

    while (flow && !aiq_str_is(id, flow->id)) {
        flow = flow->next;
    }
    return flow;
}

static void append_flow(ws *w, ws_flow *flow)
{
    ws_flow **at = &w->flows;

    while (*at) {
        at = &(*at)->next;
    }
    flow->next = NULL;
    *at = flow;
}

static void take_off(ws_flow *flow)
{
    ws_flow **at = &flow->ws->flows;

    while (*at != flow) {
        at = &(*at)->next;
    }
    *at = flow->next;
}

void ws_flow_add(ws *w, ws_flow *flow, const ws_message *m)
{
    flow->ws = w;
    memcpy(flow->id, m->id.data, m->id.len);
    append_flow(w, flow);
}

void ws_flow_end(ws_flow *flow)
{
    take_off(flow);
    free(flow);
}

static void leave_all(ws *w)
{
    while (w->flows) {
        w->flows->kind->leave(w->flows, false);
    }
}

/* Each gets its turn, also where there is room for one at a time only. */
static void wake_flows(ws *w)
{
    ws_flow *flow = w->flows;

    while (flow && ws_has_room(w)) {
        if (!flow->stalled) {
            flow = flow->next;
            continue;
        }
        flow->stalled = false;
        take_off(flow);
        append_flow(w, flow);
        flow->kind->wake(flow);
        flow = w->flows; /* it may be over, and others with it */
    }
}

/* Messages. */

static bool leave_flow(ws *w, const ws_message *m, aiq_err *err)
{
    ws_flow *flow = find_flow(w, m->id);
    bool stop = m->kind == WS_CANCEL;

    if (flow == NULL) {
        return aiq_fail_param(err, 404, "not_found", "id", "Nothing of this id is under way.");
    }
    ws_say(w, &(ws_event){.type = stop ? "cancelled" : "unsubscribed", .flow = flow});
    flow->kind->leave(flow, stop);
    return true;
}

static bool begin_flow(ws *w, const ws_message *m, aiq_err *err)
{
    bool chat = m->kind == WS_CHAT;

    if (find_flow(w, m->id)) {
        return aiq_fail_param(err, 409, "id_in_use", "id", "What has this id is under way.");
    }
    if (chat && w->n_chats >= WS_CHATS_MAX) {
        return aiq_fail(err, 429, "too_many_chats",
                        "This connection has %d chats under way, which is as many as it may.",
                        WS_CHATS_MAX);
    }
    if (!chat && w->n_follows >= WS_FOLLOWS_MAX) {
        return aiq_fail(err, 429, "too_many_streams",
                        "This connection reads %d streams and topics along, which is as many "
                        "as it may.",
                        WS_FOLLOWS_MAX);
    }
    return (chat ? ws_chat : ws_follow)(w, m, err);
}

/* Counts what comes in a time; false: that is too much. */
static bool within(uint64_t *since, uint64_t length, unsigned *count, unsigned most)
{
    uint64_t now = loop_now_ns() / 1000000000 / length;

    if (now != *since) {
        *since = now;
        *count = 0;
    }
    return ++*count <= most;
}

/* The keys are nginx's. */
static bool verify(ws *w, const ws_message *m, aiq_err *err)
{
    if (w->verifying || !within(&w->auth_minute, 60, &w->auths, WS_TOKENS_A_MINUTE)) {
        return aiq_fail(err, 429, "rate_limit_exceeded",
                        "A connection may show %d tokens a minute, one at a time.",
                        WS_TOKENS_A_MINUTE);
    }
    w->verifying = true;
    memcpy(w->auth_id, m->id.data, m->id.len);
    w->auth_id[m->id.len] = '\0';
    job_verify(w->job, m->token);
    return true;
}

static bool answer(ws *w, const ws_message *m, aiq_err *err)
{
    switch (m->kind) {
    case WS_CHAT:
    case WS_RESUME:
    case WS_SUBSCRIBE:
        return begin_flow(w, m, err);
    case WS_CANCEL:
    case WS_UNSUBSCRIBE:
        return leave_flow(w, m, err);
    case WS_PING:
        ws_say(w, &(ws_event){.type = "pong", .id = m->id});
        break;
    case WS_AUTH:
        return verify(w, m, err);
    }
    return true;
}

static size_t message_max(const ws *w)
{
    uint64_t max = w->job->location->max_body;

    return max && max < SIZE_MAX ? (size_t)max : MESSAGE_MAX;
}

static bool understand(ws *w, ws_message *m, aiq_str text, bool is_text, aiq_err *err)
{
    *m = (ws_message){0};
    if (w->skipping) {
        return aiq_fail(err, 413, "message_too_large", "A message may have %zu bytes.",
                        message_max(w));
    }
    if (!is_text) {
        return aiq_fail(err, 400, "invalid_json", "A message is a text.");
    }
    return ws_message_parse(m, text, err);
}

static void close_for(ws *w, const char *why)
{
    leave_all(w);
    job_close(w->job, 1008, why);
}

/* False: the connection is over. */
static bool take_message(ws *w, aiq_str text, bool is_text)
{
    ws_message m;
    aiq_err err;

    if (!within(&w->second, 1, &w->messages, WS_MESSAGES_A_SECOND)) {
        close_for(w, "too many messages");
        return false;
    }
    if (understand(w, &m, text, is_text, &err) && answer(w, &m, &err)) {
        return true;
    }
    if (!within(&w->minute, 60, &w->mistakes, WS_MISTAKES_A_MINUTE)) {
        close_for(w, "too many mistakes");
        return false;
    }
    ws_say_error(w, NULL, m.id, &err);
    return true;
}

/* The job's handler. */

static void ws_writable(aiq_job *job)
{
    ws *w = job->state;

    ws_flush(w);
    wake_flows(w);
    ws_flush(w);
}

/* What was said in answer to messages that came meanwhile follows. */
static void on_listed(void *arg, const stream_list *list)
{
    ws *w = arg;
    aiq_buf rest = w->out;
    uint64_t seq = w->seq;

    w->lister = NULL;
    w->out = (aiq_buf){0};
    w->seq = 0;
    say_state(w, list);
    w->seq = seq;
    if (rest.len) {
        aiq_buf_add(&w->out, rest.data, rest.len);
    }
    aiq_buf_free(&rest);
    ws_writable(w->job);
}

static void release(void *arg)
{
    ws *w = arg;

    if (w->lister) {
        stream_list_forget(w->lister);
    }
    aiq_buf_free(&w->in);
    aiq_buf_free(&w->out);
}

static void ws_end(aiq_job *job)
{
    aiq_err err;

    if (!job->websocket) {
        aiq_fail(&err, 426, "upgrade_required", "This path takes WebSockets only.");
        job_fail(job, &err);
        return;
    }
    ws *w = aiq_pool_zalloc(job->pool, sizeof(*w));
    w->job = job;
    job->state = w;
    aiq_pool_cleanup(job->pool, release, w);
    job_accept(job);
    w->seq = 1; /* which the state gets */
    w->lister = stream_list_ask(job->loop, job->tenant, job->user, on_listed, w);
}

static void ws_piece(aiq_job *job, const job_message_piece *piece)
{
    ws *w = job->state;
    aiq_str text = {(const char *)piece->data, piece->len};

    w->owed += job_message_cost(piece->len);
    w->skipping |= piece->len > message_max(w) - w->in.len;
    if (w->skipping) {
        aiq_buf_free(&w->in);
    } else if (w->in.len || !piece->last) {
        aiq_buf_add(&w->in, piece->data, piece->len);
        text = (aiq_str){(char *)w->in.data, w->in.len};
    }
    if (piece->last) {
        if (!take_message(w, text, piece->text)) {
            return;
        }
        aiq_buf_free(&w->in);
        w->skipping = false;
    }
    ws_flush(w);
}

static void ws_granted(aiq_job *job, const job_grant *grant)
{
    ws *w = job->state;
    aiq_str id = {w->auth_id, strlen(w->auth_id)};
    aiq_buf data = {0};

    w->verifying = false;
    if (grant->err.status) {
        ws_say_error(w, NULL, id, &grant->err);
    } else {
        aiq_buf_text(&data, "{\"role\":");
        json_quote(&data, job->role.data, job->role.len);
        add_expiry(&data, grant->expires_ms);
        aiq_buf_text(&data, "}");
        ws_say(w, &(ws_event){.type = "auth", .id = id, .data = {(char *)data.data, data.len}});
        aiq_buf_free(&data);
    }
    ws_flush(w);
}

static void ws_closing(aiq_job *job, unsigned code)
{
    leave_all(job->state);
    job_close(job, code, NULL);
}

static void ws_cancel(aiq_job *job)
{
    if (job->state) {
        leave_all(job->state);
    }
}

const job_handler ws_handler = {.end = ws_end,
                                .writable = ws_writable,
                                .message = ws_piece,
                                .closing = ws_closing,
                                .granted = ws_granted,
                                .cancel = ws_cancel};
