/*
 * GET /v1/streams?ids=a,b&topics=x: several streams and topics over one connection, as
 * server-sent events. An EventSource tells its page of an event no more than its type, data
 * and id, so the data says of which stream it is:
 *
 *     id: 18.2.1763728200250001
 *     data: {"stream":"strm_…","seq":18,"type":…,"timestamp":…,"data":…}
 *
 * and the id is where all of them are, in the order in which they were asked for: a number
 * each, "-" for one that is over, "*" for a topic of which only the future is asked. So a
 * client that comes back with its last id continues each of them exactly.
 *
 * First comes "state" with all their places, as soon as each is found. Then they take turns.
 */

#include <string.h>
#include "core/json.h"
#include "services/events/reply.h"

#define FOLLOW_MAX 32
#define OUT_MAX    16384u /* of frames made at a time */

typedef struct follow follow;

/* One of them. */
typedef struct source {
    follow *all;
    stream_reader *reader; /* NULL: it was not read */
    stream_question question;
    bool known;         /* where it begins, … */
    bool over;          /* nothing more comes of it */
    uint64_t number;    /* … the last event that the client was told */
    stream_piece piece; /* valid while it is in line */
    struct source *next;
} source;

struct follow {
    event_reply reply;
    unsigned n, unknown, open;
    source *first, **last; /* in line, with a piece each */
    source *sources;
};

/* What is asked. */

typedef struct {
    unsigned n, n_streams; /* which stand first */
    aiq_str ids[FOLLOW_MAX];
} naming;

/* The piece of a text before the separator; false: there is none left. */
static bool cut(aiq_str *text, char separator, aiq_str *piece)
{
    if (text->data == NULL) {
        return false;
    }
    const char *at = memchr(text->data, separator, text->len);
    *piece = (aiq_str){text->data, at ? (size_t)(at - text->data) : text->len};
    *text = at ? (aiq_str){at + 1, text->len - piece->len - 1} : (aiq_str){NULL, 0};
    return true;
}

static bool add_names(naming *names, aiq_str text, const char *param, aiq_err *err)
{
    aiq_str name;

    while (cut(&text, ',', &name)) {
        if (name.len && names->n == FOLLOW_MAX) {
            return aiq_fail_param(err, 400, "invalid_value", param,
                                  "A connection follows at most %d streams and topics.",
                                  FOLLOW_MAX);
        }
        if (name.len) {
            names->ids[names->n++] = name;
        }
    }
    return true;
}

static void make_sources(follow *f, const naming *names)
{
    f->n = names->n;
    f->sources = aiq_pool_zalloc(f->reply.job->pool, f->n * sizeof(*f->sources));
    for (unsigned i = 0; i < f->n; i++) {
        bool topic = i >= names->n_streams;
        f->sources[i] = (source){.all = f,
                                 .question = {.id = names->ids[i],
                                              .tenant = f->reply.job->tenant,
                                              .topic = topic,
                                              .from_now = topic,
                                              .objects = true}};
    }
}

static bool take_place(source *s, aiq_str text)
{
    stream_question *q = &s->question;

    if (aiq_str_is(text, "-")) {
        s->over = true;
        return true;
    }
    if (aiq_str_is(text, "*")) {
        return q->topic;
    }
    q->from_now = false;
    q->after = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || i == 18) {
            return false;
        }
        q->after = q->after * 10 + (uint64_t)(text.data[i] - '0');
    }
    return text.len > 0;
}

static bool take_places(follow *f, aiq_str text, aiq_err *err)
{
    aiq_str place;
    unsigned n = 0;

    while (cut(&text, '.', &place)) {
        if (n == f->n || !take_place(&f->sources[n++], place)) {
            n = FOLLOW_MAX + 1;
            break;
        }
    }
    return n == f->n || aiq_fail_param(err, 400, "invalid_value", "after",
                                       "'after' and 'Last-Event-ID' take an id of this very "
                                       "connection: a place for each of its streams.");
}

static bool read_question(follow *f, aiq_err *err)
{
    const aiq_job *job = f->reply.job;
    aiq_str args = job->args, name, value, ids = {NULL, 0}, about = {NULL, 0},
            after = {NULL, 0};
    naming names = {0};

    while (service_arg(job->pool, &args, &name, &value)) {
        ids = aiq_str_is(name, "ids") ? value : ids;
        about = aiq_str_is(name, "topics") ? value : about;
        after = aiq_str_is(name, "after") ? value : after;
    }
    if (!add_names(&names, ids, "ids", err)) {
        return false;
    }
    names.n_streams = names.n;
    if (!add_names(&names, about, "topics", err)) {
        return false;
    }
    if (names.n == 0) {
        return aiq_fail_param(err, 400, "missing_required_parameter", "ids",
                              "'ids' or 'topics' must name what to read, with commas.");
    }
    if (!event_reply_asked(job)) {
        return aiq_fail(err, 406, "not_acceptable",
                        "Several streams at once are read as text/event-stream alone.");
    }
    aiq_str last = job_header_value(job, "last-event-id");
    make_sources(f, &names);
    after = last.len ? last : after;
    return after.data == NULL || take_places(f, after, err);
}

/* Frames. */

static void add_id(follow *f)
{
    aiq_buf *out = &f->reply.out;

    aiq_buf_text(out, "id: ");
    for (unsigned i = 0; i < f->n; i++) {
        const source *s = &f->sources[i];
        uint8_t *to = aiq_buf_reserve(out, 21);
        char *end = (char *)to;
        if (i) {
            *end++ = '.';
        }
        if (s->over) {
            *end++ = '-';
        } else {
            end = aiq_put_decimal(end, s->number);
        }
        out->len += (size_t)(end - (char *)to);
    }
    aiq_buf_text(out, "\n");
}

static void add_name(aiq_buf *out, const source *s)
{
    aiq_buf_text(out, s->question.topic ? "{\"topic\":" : "{\"stream\":");
    json_quote(out, s->question.id.data, s->question.id.len);
    aiq_buf_text(out, ",");
}

/* members: the rest of the object, without its first brace. */
static void add_frame(source *s, const char *members, size_t n)
{
    aiq_buf *out = &s->all->reply.out;

    add_id(s->all);
    aiq_buf_text(out, "data: ");
    add_name(out, s);
    aiq_buf_add(out, members, n);
    aiq_buf_text(out, "\n\n");
}

static void add_words(source *s, const char *members)
{
    add_frame(s, members, strlen(members));
}

static void add_error(source *s)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_err *err = &s->piece.err;
    aiq_str id = s->all->reply.job->request_id;
    const aiq_error_info info = {.status = err->status,
                                 .code = {err->code, strlen(err->code)},
                                 .message = {err->message, strlen(err->message)},
                                 .request_id = {id.data, id.len}};

    add_frame(s, body + 1, aiq_error_render(body, AIQ_DIALECT_OWN, &info) - 1);
}

/* Of its piece, as much as is made at a time. */
static void add_events(source *s)
{
    aiq_str *lines = &s->piece.data;

    if (s->piece.gap) {
        s->piece.gap = false;
        add_words(s, "\"truncated\":true}");
    }
    while (lines->len && s->all->reply.out.len < OUT_MAX) {
        const char *newline = memchr(lines->data, '\n', lines->len);
        size_t n = (size_t)(newline - lines->data);
        s->number++;
        add_frame(s, lines->data + 1, n - 1);
        *lines = (aiq_str){newline + 1, lines->len - n - 1};
    }
}

/* Turns. */

static void put_in_line(source *s)
{
    s->next = NULL;
    *s->all->last = s;
    s->all->last = &s->next;
}

static source *next_in_line(follow *f)
{
    source *s = f->first;

    f->first = s->next;
    if (f->first == NULL) {
        f->last = &f->first;
    }
    return s;
}

static void end_source(source *s)
{
    s->over = true;
    s->all->open--;
    if (s->piece.err.status) {
        add_error(s);
    } else {
        add_words(s, "\"done\":true}");
    }
}

static void go_on(follow *f)
{
    while (event_reply_send(&f->reply) && f->first) {
        source *s = next_in_line(f);
        add_events(s);
        if (s->piece.data.len) {
            put_in_line(s);
        } else if (s->piece.last) {
            end_source(s);
        } else {
            stream_reader_next(s->reader);
        }
    }
    if (f->open == 0 && f->reply.out.len == 0) {
        event_reply_end(&f->reply);
    }
}

static bool has_topics(const follow *f)
{
    return f->sources[f->n - 1].question.topic; /* they stand last */
}

static void begin(follow *f)
{
    aiq_buf *out = &f->reply.out;

    event_reply_begin(&f->reply, NULL, has_topics(f));
    event_reply_retry(&f->reply);
    add_id(f);
    aiq_buf_text(out, "event: state\ndata: {\"streams\":[");
    for (unsigned i = 0; i < f->n; i++) {
        const source *s = &f->sources[i];
        aiq_buf_text(out, i ? "," : "");
        add_name(out, s);
        aiq_buf_printf(out, "\"seq\":%llu%s}", (unsigned long long)s->number,
                       s->over ? ",\"done\":true" : "");
    }
    aiq_buf_text(out, "]}\n\n");
}

static void take_piece(source *s, const stream_piece *piece)
{
    follow *f = s->all;
    size_t n = 0;

    for (size_t i = 0; i < piece->data.len; i++) {
        n += piece->data.data[i] == '\n';
    }
    s->piece = *piece;
    s->number = piece->next - n;
    f->unknown -= !s->known;
    s->known = true;
    put_in_line(s);
}

static void on_told(void *arg, const stream_piece *piece)
{
    source *s = arg;
    follow *f = s->all;

    take_piece(s, piece);
    if (f->unknown) {
        return;
    }
    if (!f->reply.job->head_sent) {
        begin(f);
    }
    go_on(f);
}

/* The job's handler. */

static bool may_read(const source *s, aiq_err *err)
{
    return !s->question.topic || topic_may_read(s->all->reply.job->role, s->question.id) ||
           aiq_fail(err, 403, "permission_denied", "Topics of this name are for admins.");
}

/* What cannot be read is one of its events. */
static void open_source(source *s)
{
    stream_piece none = {.last = true};

    if (may_read(s, &none.err)) {
        s->reader = stream_read(s->all->reply.job->loop, &s->question, on_told, s, &none.err);
    }
    if (s->reader == NULL) {
        take_piece(s, &none);
    }
}

static void open_all(follow *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        f->open += !f->sources[i].over;
    }
    f->unknown = f->open;
    if (f->open == 0) {
        event_reply_nothing_more(f->reply.job);
        return;
    }
    for (unsigned i = 0; i < f->n; i++) {
        if (!f->sources[i].over) {
            open_source(&f->sources[i]);
        }
    }
    if (f->unknown == 0) { /* none of them can be */
        begin(f);
        go_on(f);
    }
}

static void leave_all(follow *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->sources[i].reader) {
            stream_reader_leave(f->sources[i].reader);
            f->sources[i].reader = NULL;
        }
    }
}

static void release(void *arg)
{
    follow *f = arg;

    leave_all(f);
    event_reply_free(&f->reply);
}

static void follow_end(aiq_job *job)
{
    follow *f = aiq_pool_zalloc(job->pool, sizeof(*f));
    aiq_err err;

    f->reply.job = job;
    f->last = &f->first;
    job->state = f;
    aiq_pool_cleanup(job->pool, release, f);
    if (read_question(f, &err)) {
        open_all(f);
    } else {
        job_fail(job, &err);
    }
}

static void follow_writable(aiq_job *job)
{
    go_on(job->state);
}

static void follow_cancel(aiq_job *job)
{
    follow *f = job->state;

    if (f) {
        leave_all(f);
        f->first = NULL;
        f->last = &f->first;
        f->open = 1; /* nobody is to be told of the end */
        event_reply_stop(&f->reply);
    }
}

const job_handler events_follow = {
    .end = follow_end, .writable = follow_writable, .cancel = follow_cancel};
