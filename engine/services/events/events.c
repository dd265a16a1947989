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

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "core/json.h"
#include "services/ws/ws.h"
#include "streams/stream_reader.h"

#define WAIT_MAX_MS  60000
#define KEEPALIVE_MS 15000

typedef struct {
    aiq_job *job;
    stream_reader *reader; /* NULL: there is none yet */
    stream_question question;
    aiq_buf out;  /* what waits for credit, … */
    aiq_str rest; /* … and behind it, of the reader's piece */
    bool taking;  /* a piece: the next one is asked for once it is sent */
    bool last;    /* it is the last */
    uint64_t sent_ns;
    loop_timer keepalive;
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
    while (args.len) {
        const char *amp = memchr(args.data, '&', args.len);
        aiq_str one = {args.data, amp ? (size_t)(amp - args.data) : args.len};
        args =
            (aiq_str){one.data + one.len + (amp != NULL), args.len - one.len - (amp != NULL)};

        const char *is = memchr(one.data, '=', one.len);
        aiq_str name = {one.data, is ? (size_t)(is - one.data) : one.len};
        aiq_str value = {is ? is + 1 : "", is ? one.len - name.len - 1 : 0};
        if ((aiq_str_is(name, "after") && !take_after(r, value, err)) ||
            (aiq_str_is(name, "wait") && !take_wait(r, value, err))) {
            return false;
        }
    }
    return true;
}

static bool accepts_events(const aiq_job *job)
{
    static const char type[] = "text/event-stream";
    const char *pos = job->accept.data, *end = pos + job->accept.len;

    for (; end - pos >= (ptrdiff_t)sizeof(type) - 1; pos++) {
        if (strncasecmp(pos, type, sizeof(type) - 1) == 0) {
            return job->method != AIQ_METHOD_HEAD; /* whose reply must end */
        }
    }
    return false;
}

/* The header is of a client that was cut off, and later than what its URL says. */
static bool read_question(reading *r, aiq_err *err)
{
    const aiq_job *job = r->job;

    r->question.id = job->path_args[0];
    r->question.tenant = job->tenant;
    r->question.once = !accepts_events(job);
    r->question.from_now = r->question.topic;
    if (r->question.topic && !topic_may_read(job->role, r->question.id)) {
        return aiq_fail(err, 403, "permission_denied", "Topics of this name are for admins.");
    }
    if (!take_args(r, job->args, err)) {
        return false;
    }
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, "last-event-id") && job->headers[i].value.len) {
            return take_after(r, job->headers[i].value, err);
        }
    }
    return true;
}

/* Events. */

/* False: it waits for credit. */
static bool send_out(reading *r)
{
    size_t sent = r->out.len ? job_write(r->job, r->out.data, r->out.len, true) : 0;

    aiq_buf_consume(&r->out, sent);
    if (r->out.len) {
        return false;
    }
    aiq_buf_free(&r->out); /* a quiet reader holds nothing */
    sent = r->rest.len ? job_write(r->job, r->rest.data, r->rest.len, true) : 0;
    r->rest = (aiq_str){r->rest.data + sent, r->rest.len - sent};
    return r->rest.len == 0;
}

static void flush(reading *r)
{
    bool sent = send_out(r);

    r->sent_ns = loop_now_ns();
    if (!sent || !r->taking) {
        return;
    }
    r->taking = false;
    if (r->last) {
        loop_timer_stop(r->job->loop, &r->keepalive);
        job_end(r->job);
    } else {
        stream_reader_next(r->reader);
    }
}

static void on_keepalive(aiq_loop *loop, void *arg)
{
    reading *r = arg;
    uint64_t quiet_ms = (loop_now_ns() - r->sent_ns) / 1000000, wait = KEEPALIVE_MS;

    if (quiet_ms < KEEPALIVE_MS) {
        wait = KEEPALIVE_MS - quiet_ms;
    } else if (r->out.len == 0 && r->rest.len == 0) {
        aiq_buf_text(&r->out, ": keep-alive\n");
        flush(r);
    }
    loop_timer_start(loop, &r->keepalive, wait, on_keepalive, r);
}

static void begin_events(reading *r, const stream_piece *piece)
{
    const stream_question *q = &r->question;
    const job_header headers[] = {{AIQ_STR("cache-control"), AIQ_STR("no-cache")},
                                  {AIQ_STR("x-aiq-stream"), q->id}};

    job_head(r->job, &(job_reply){.status = 200,
                                  .content_type = "text/event-stream",
                                  .content_length = -1,
                                  .stream = true,
                                  .endless = q->topic,
                                  .headers = headers,
                                  .n_headers = q->topic ? 1 : 2});
    if (q->after || q->topic) { /* else it is the first event's */
        aiq_buf_printf(&r->out, "retry: %d\n", STREAM_RETRY_MS);
    }
    if (q->from_now) {
        unsigned long long now = piece->next;
        aiq_buf_printf(&r->out,
                       "id: %llu\nevent: state\ndata: {\"topic\":\"%.*s\",\"seq\":%llu}\n\n",
                       now, (int)q->id.len, q->id.data, now);
    }
    r->sent_ns = loop_now_ns();
    loop_timer_start(r->job->loop, &r->keepalive, KEEPALIVE_MS, on_keepalive, r);
}

/* In the middle of a stream. */
static void add_failure(reading *r, const aiq_err *err)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = err->status,
        .code = {err->code, strlen(err->code)},
        .message = {err->message, strlen(err->message)},
        .request_id = {r->job->request_id.data, r->job->request_id.len},
    };
    size_t n = aiq_error_render(body, AIQ_DIALECT_OWN, &info);

    aiq_buf_printf(&r->out, "event: %s\ndata: %.*s\n\n", err->code, (int)n, body);
}

static void on_events(reading *r, const stream_piece *piece)
{
    if (!r->job->head_sent && piece->done && piece->data.len == 0) {
        job_reply_all(r->job, 204, NULL, "",
                      0); /* so that an EventSource does not come again */
        return;
    }
    if (!r->job->head_sent) {
        begin_events(r, piece);
    }
    if (piece->gap) {
        aiq_err gap;
        aiq_fail(&gap, 410, "stream_truncated",
                 "What came before the next event is not kept any more.");
        add_failure(r, &gap);
    }
    if (piece->err.status) {
        add_failure(r, &piece->err);
    }
    r->rest = piece->data;
    r->taking = true;
    r->last = piece->last;
    flush(r);
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
    aiq_buf *out = &r->out;

    aiq_buf_text(out, "{\"data\":[");
    add_list(out, piece->data);
    aiq_buf_printf(out, "],\"done\":%s,%s\"next\":%llu}\n", piece->done ? "true" : "false",
                   piece->gap ? "\"truncated\":true," : "", (unsigned long long)piece->next);
    job_reply_all(r->job, 200, "application/json", out->data, out->len);
}

static void on_told(void *arg, const stream_piece *piece)
{
    reading *r = arg;

    if (piece->err.status && !r->job->head_sent) {
        job_fail(r->job, &piece->err);
    } else {
        (r->question.once ? on_page : on_events)(r, piece);
    }
}

/* The job's handler. */

static void release(void *arg)
{
    reading *r = arg;

    loop_timer_stop(r->job->loop, &r->keepalive);
    if (r->reader) {
        stream_reader_leave(r->reader);
    }
    aiq_buf_free(&r->out);
}

static void begin(aiq_job *job, bool topic)
{
    reading *r = aiq_pool_zalloc(job->pool, sizeof(*r));
    aiq_err err;

    r->job = job;
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
    flush(job->state);
}

/* So that who has left holds no place while its job waits for the ring. */
static void events_cancel(aiq_job *job)
{
    reading *r = job->state;

    if (r && r->reader) {
        stream_reader_leave(r->reader);
        r->reader = NULL;
        r->rest.len = 0;
        r->taking = false;
    }
}

static const job_handler stream_handler = {
    .end = read_stream, .writable = events_writable, .cancel = events_cancel};
static const job_handler topic_handler = {
    .end = read_topic, .writable = events_writable, .cancel = events_cancel};
static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "/v1/streams/{id}", PERMIT_READ, &stream_handler,
     "A stream's events, again and as they come"},
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
