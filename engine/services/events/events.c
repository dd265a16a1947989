/*
 * GET /v1/streams/{id}: a stream (streams/streams.h) read again, or along with others.
 * Where the client accepts text/event-stream it gets the events as they came and come,
 * from the one after its Last-Event-ID or ?after=; anybody else asks for JSON, one page
 * at a time, and may wait for the next event (?wait=20s).
 *
 * GET /v1/topics/{name}: the same of a topic (streams/topics.h), from now on where nobody
 * says after which event. Its first event, "state", tells where that is: who is cut off
 * before another has come continues from there.
 */

#include "services/events/events.h"

#include <string.h>
#include "services/events/reply.h"
#include "services/ws/ws.h"

#define WAIT_MAX_MS 60000

typedef struct {
    event_reply reply;
    stream_reader *reader; /* NULL: there is none yet */
    stream_question question;
    bool taking; /* a piece: the next one is asked for once it is sent */
    bool last;   /* it is the last */
} reading;

/* What is asked. */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* As many digits as may be read without care. */
static bool number(aiq_str *text, uint64_t *out)
{
    size_t n = 0;

    *out = 0;
    for (; n < text->len && n < 18 && is_digit(text->data[n]); n++) {
        *out = *out * 10 + (uint64_t)(text->data[n] - '0');
    }
    *text = (aiq_str){text->data + n, text->len - n};
    return n > 0;
}

static bool take_after(reading *r, aiq_str text, aiq_err *err)
{
    r->question.from_now = false;
    return (number(&text, &r->question.after) && text.len == 0) ||
           aiq_fail_param(err, 400, "invalid_value", "after",
                          "'after' and 'Last-Event-ID' take the number of an event.");
}

static bool take_wait(reading *r, aiq_str text, aiq_err *err)
{
    uint64_t n;

    if (number(&text, &n) && n <= WAIT_MAX_MS) {
        n *= aiq_str_is(text, "ms") ? 1 : 1000;
        if (n <= WAIT_MAX_MS &&
            (text.len == 0 || aiq_str_is(text, "s") || aiq_str_is(text, "ms"))) {
            r->question.wait_ms = (uint32_t)n;
            return true;
        }
    }
    return aiq_fail_param(err, 400, "invalid_value", "wait",
                          "'wait' takes a time of at most 60s, as 20s or 500ms.");
}

static bool take_args(reading *r, aiq_str args, aiq_err *err)
{
    aiq_str name, value;

    while (service_arg(r->reply.job->pool, &args, &name, &value)) {
        if ((aiq_str_is(name, "after") && !take_after(r, value, err)) ||
            (aiq_str_is(name, "wait") && !take_wait(r, value, err))) {
            return false;
        }
    }
    return true;
}

/* The header is of a client that was cut off, and later than what its URL says. */
static bool read_question(reading *r, aiq_err *err)
{
    const aiq_job *job = r->reply.job;
    aiq_str last = job_header_value(job, "last-event-id");

    r->question.id = job->path_args[0];
    r->question.tenant = job->tenant;
    r->question.once = !event_reply_asked(job);
    r->question.from_now = r->question.topic;
    if (r->question.topic && !topic_may_read(job->role, r->question.id)) {
        return aiq_fail(err, 403, "permission_denied", "Topics of this name are for admins.");
    }
    return take_args(r, job->args, err) && (last.len == 0 || take_after(r, last, err));
}

/* Events. */

static void go_on(reading *r)
{
    if (!event_reply_send(&r->reply) || !r->taking) {
        return;
    }
    r->taking = false;
    if (r->last) {
        event_reply_end(&r->reply);
    } else {
        stream_reader_next(r->reader);
    }
}

static void begin_events(reading *r, const stream_piece *piece)
{
    const stream_question *q = &r->question;
    const job_header name = {AIQ_STR("x-aiq-stream"), q->id};

    event_reply_begin(&r->reply, q->topic ? NULL : &name, q->topic);
    if (q->after || q->topic) { /* else it is the first event's */
        event_reply_retry(&r->reply);
    }
    if (q->from_now) {
        unsigned long long now = piece->next;
        aiq_buf_printf(&r->reply.out,
                       "id: %llu\nevent: state\ndata: {\"topic\":\"%.*s\",\"seq\":%llu}\n\n",
                       now, (int)q->id.len, q->id.data, now);
    }
}

static void on_events(reading *r, const stream_piece *piece)
{
    aiq_job *job = r->reply.job;

    if (!job->head_sent && piece->done && piece->data.len == 0) {
        event_reply_nothing_more(job);
        return;
    }
    if (!job->head_sent) {
        begin_events(r, piece);
    }
    if (piece->gap) {
        aiq_err gap;
        aiq_fail(&gap, 410, "stream_truncated",
                 "What came before the next event is not kept any more.");
        event_reply_failure(&r->reply, &gap);
    }
    if (piece->err.status) {
        event_reply_failure(&r->reply, &piece->err);
    }
    r->reply.rest = piece->data;
    r->taking = true;
    r->last = piece->last;
    go_on(r);
}

/* A line each; a comma between them. */
static void add_list(aiq_buf *out, aiq_str lines)
{
    size_t at = out->len;

    aiq_buf_add(out, lines.data, lines.len ? lines.len - 1 : 0);
    for (; at < out->len; at++) {
        out->data[at] = out->data[at] == '\n' ? ',' : out->data[at];
    }
}

static void on_page(reading *r, const stream_piece *piece)
{
    aiq_buf *out = &r->reply.out;

    aiq_buf_text(out, "{\"data\":[");
    add_list(out, piece->data);
    aiq_buf_printf(out, "],\"done\":%s,%s\"next\":%llu}\n", piece->done ? "true" : "false",
                   piece->gap ? "\"truncated\":true," : "", (unsigned long long)piece->next);
    job_reply_all(r->reply.job, 200, "application/json", out->data, out->len);
}

static void on_told(void *arg, const stream_piece *piece)
{
    reading *r = arg;

    if (piece->err.status && !r->reply.job->head_sent) {
        job_fail(r->reply.job, &piece->err);
    } else {
        (r->question.once ? on_page : on_events)(r, piece);
    }
}

/* The job's handler. */

static void release(void *arg)
{
    reading *r = arg;

    if (r->reader) {
        stream_reader_leave(r->reader);
    }
    event_reply_free(&r->reply);
}

static void begin(aiq_job *job, bool topic)
{
    reading *r = aiq_pool_zalloc(job->pool, sizeof(*r));
    aiq_err err;

    r->reply.job = job;
    r->question.topic = topic;
    job->state = r;
    aiq_pool_cleanup(job->pool, release, r);
    if (read_question(r, &err)) {
        r->reader = stream_read(job->loop, &r->question, on_told, r, &err);
    }
    if (r->reader == NULL) {
        job_fail(job, &err);
    }
}

static void read_stream(aiq_job *job)
{
    begin(job, false);
}

static void read_topic(aiq_job *job)
{
    begin(job, true);
}

static void events_writable(aiq_job *job)
{
    go_on(job->state);
}

/* So that who has left holds no place while its job waits for the ring. */
static void events_cancel(aiq_job *job)
{
    reading *r = job->state;

    if (r && r->reader) {
        stream_reader_leave(r->reader);
        r->reader = NULL;
        r->taking = false;
        event_reply_stop(&r->reply);
    }
}

static const job_handler stream_handler = {
    .end = read_stream, .writable = events_writable, .cancel = events_cancel};
static const job_handler topic_handler = {
    .end = read_topic, .writable = events_writable, .cancel = events_cancel};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "/v1/streams/{id}", PERMIT_READ, &stream_handler,
     "A stream's events, again and as they come"},
    {AIQ_METHOD_GET, "/v1/streams", PERMIT_READ, &events_follow,
     "Several streams and topics over one connection"},
    {AIQ_METHOD_GET, "/v1/topics/{name}", PERMIT_READ, &topic_handler,
     "A topic's events as they come"},
    {AIQ_METHOD_POST, "/v1/topics/{name}", PERMIT_WRITE, &events_publish,
     "Publishes an event to a topic"},
    {AIQ_METHOD_GET, "/ws", PERMIT_READ, &ws_handler, "Chats and streams over one WebSocket"},
};

const aiq_service service_events = {
    .name = "events",
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};
