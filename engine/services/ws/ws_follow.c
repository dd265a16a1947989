/* Streams and topics on /ws: read along, or on from where a connection was cut. */

#include <stdlib.h>
#include <string.h>
#include "core/json.h"
#include "services/ws/ws.h"
#include "streams/stream_reader.h"
#include "streams/topics.h"

typedef struct {
    ws_flow flow; /* first */
    stream_reader *reader;
    bool started;
    bool failed; /* the stream has said so */
} follow_flow;

static void over(follow_flow *f)
{
    f->flow.ws->n_follows--;
    stream_reader_leave(f->reader);
    ws_flow_end(&f->flow);
}

/* An event as stream_log_json() writes it. Of a topic its data is a value, of a stream what
 * was said, as a string. */
static void say_event(follow_flow *f, aiq_str line, aiq_pool *pool)
{
    json_value seq, type, time, data;
    const json_want wants[] = {
        {"seq", &seq}, {"type", &type}, {"timestamp", &time}, {"data", &data}};
    int64_t number = 0;
    json_error wrong;

    if (!json_scan(line.data, line.len, wants, 4, &wrong) || !json_int(&seq, &number)) {
        return; /* not ours */
    }
    aiq_str name = json_string(pool, &type), at = json_string(pool, &time);
    f->flow.seq = (uint64_t)number;
    if (f->flow.topic) {
        ws_say(f->flow.ws, &(ws_event){.type = "event",
                                       .flow = &f->flow,
                                       .name = name,
                                       .time = at,
                                       .data = data.text});
        return;
    }
    aiq_str said = json_string(pool, &data);
    if (!aiq_str_is(said, "[DONE]")) { /* which the stream's end says */
        name = aiq_str_is(name, "message") ? AIQ_STR("") : name;
        f->failed |= !ws_say_delta(&f->flow, name, at, said);
    }
}

static void say_events(follow_flow *f, aiq_str events)
{
    const char *pos = events.data, *end = pos + events.len, *newline;
    aiq_pool *pool = aiq_pool_new();

    for (; pos < end && (newline = memchr(pos, '\n', (size_t)(end - pos))) != NULL;
         pos = newline + 1) {
        say_event(f, (aiq_str){pos, (size_t)(newline - pos)}, pool);
    }
    aiq_pool_free(pool);
}

/* The next piece, once there is room for it. */
static void read_on(follow_flow *f)
{
    f->flow.stalled = !ws_has_room(f->flow.ws);
    if (!f->flow.stalled) {
        stream_reader_next(f->reader);
    }
}

static void on_told(void *arg, const stream_piece *piece)
{
    follow_flow *f = arg;
    ws *w = f->flow.ws;

    if (!f->started && piece->err.status == 0) {
        f->started = true;
        if (piece->data.len == 0) {
            f->flow.seq = piece->next;
        }
        ws_say(w, &(ws_event){.type = "started", .flow = &f->flow});
    }
    if (piece->gap) {
        ws_say(w, &(ws_event){.type = "gap", .flow = &f->flow});
    }
    say_events(f, piece->data);
    if (piece->err.status) {
        ws_say_error(w, &f->flow, AIQ_STR(""), &piece->err);
    } else if (piece->last && !f->failed) {
        f->flow.seq = piece->next;
        ws_say(w, &(ws_event){.type = "done", .flow = &f->flow});
    }
    if (piece->last) {
        over(f);
    } else {
        read_on(f);
    }
    ws_flush(w);
}

/* The flow. */

static void wake(ws_flow *flow)
{
    read_on((follow_flow *)flow);
}

static void leave(ws_flow *flow, bool stop)
{
    const aiq_job *job = flow->ws->job;

    if (stop && !flow->topic) {
        stream_stop(job->loop, (aiq_str){flow->source, strlen(flow->source)}, job->tenant);
    }
    over((follow_flow *)flow);
}

bool ws_follow(ws *w, const ws_message *m, aiq_err *err)
{
    static const ws_flow_kind kind = {wake, leave};
    const stream_question question = {
        .id = m->source,
        .tenant = w->job->tenant,
        .topic = m->kind == WS_SUBSCRIBE,
        .after = m->after,
        .from_now = m->kind == WS_SUBSCRIBE && !m->says_after,
        .objects = true,
    };

    if (question.topic && !topic_may_read(w->job->role, m->source)) {
        return aiq_fail(err, 403, "permission_denied", "This topic is for admins.");
    }
    follow_flow *f = aiq_zalloc(sizeof(*f));
    f->reader = stream_read(w->job->loop, &question, on_told, f, err);
    if (f->reader == NULL) {
        free(f);
        return false;
    }
    f->flow.kind = &kind;
    f->flow.topic = question.topic;
    f->flow.seq = m->after;
    memcpy(f->flow.source, m->source.data, m->source.len);
    w->n_follows++;
    ws_flow_add(w, &f->flow, m);
    return true;
}
