#include "services/gateway/outlet.h"

#include <string.h>

void outlet_log(outlet *o, size_t keep, const stream_producer *producer, void *arg)
{
    o->log = stream_new(o->job->loop, o->job->tenant, keep, producer, arg);
    stream_join(o->log, &o->place, 0);
}

bool outlet_guarantee(outlet *o, size_t keep, const stream_producer *producer, void *arg,
                      const durable_request *request, aiq_err *err)
{
    o->guaranteed = true;
    o->log = durable_begin(o->job->loop, o->job->tenant, keep, producer, arg, request, err);
    return o->log != NULL;
}

void outlet_adopt(outlet *o, stream *log, size_t keep, const stream_producer *producer,
                  void *arg)
{
    o->guaranteed = true;
    o->log = log;
    stream_produce(log, keep, producer, arg);
}

static void on_told(void *arg, const stream_piece *piece)
{
    outlet *o = arg;

    aiq_buf_add(&o->out, piece->data.data, piece->data.len);
    o->taking = true;
    o->last = piece->last;
    o->err = piece->err;
    o->more(o->arg);
}

void outlet_follow(outlet *o, void (*more)(void *arg), void *arg)
{
    const char *id = stream_id(o->log);
    const stream_question question = {.id = {id, strlen(id)}, .tenant = o->job->tenant};

    o->more = more;
    o->arg = arg;
    o->reader = stream_read(o->job->loop, &question, on_told, o, &o->err);
}

void outlet_forget(outlet *o)
{
    if (o->guaranteed) {
        outlet_end(o);
        o->log = NULL;
        o->guaranteed = false;
    }
}

void outlet_release(outlet *o)
{
    if (o->log && !o->ended) {
        o->ended = true;
        stream_release(o->log);
    }
}

aiq_str outlet_say(outlet *o)
{
    size_t n = o->text.len;
    aiq_str said = {0};

    if (o->guaranteed && o->log) {
        if (n) {
            stream_add(o->log, o->text.data, n);
        }
    } else if (o->log) {
        uint64_t end = stream_log_end(stream_log_of(o->log));
        stream_add(o->log, o->text.data, n);
        said = stream_log_from(stream_log_of(o->log), end);
    } else {
        aiq_buf_add(&o->out, o->text.data, n);
        said = (aiq_str){(char *)o->out.data + o->out.len - n, n};
    }
    aiq_buf_consume(&o->text, n);
    return said;
}

void outlet_comment(outlet *o, aiq_str text)
{
    if (outlet_send(o) == OUTLET_SENT) {
        aiq_buf_add(&o->out, text.data, text.len);
        outlet_send(o);
    }
}

static bool send_out(outlet *o)
{
    size_t sent = job_write(o->job, o->out.data, o->out.len, true);

    aiq_buf_consume(&o->out, sent);
    return o->out.len == 0;
}

/* The piece is sent. */
static outlet_state send_next(outlet *o)
{
    if (o->err.status) {
        return OUTLET_LOST;
    }
    if (o->taking && !o->last) {
        o->taking = false;
        stream_reader_next(o->reader);
    }
    return o->ended && !o->last ? OUTLET_WAITS : OUTLET_SENT;
}

outlet_state outlet_send(outlet *o)
{
    aiq_str rest;

    if (o->out.len && !send_out(o)) {
        return OUTLET_WAITS;
    }
    if (o->reader) {
        return send_next(o);
    }
    if (o->place.stream == NULL) {
        return OUTLET_SENT;
    }
    if (!stream_rest(&o->place, &rest)) {
        aiq_fail(&o->err, 410, "stream_truncated", "The next events are not kept any more.");
        return OUTLET_LOST;
    }
    size_t sent = rest.len ? job_write(o->job, rest.data, rest.len, true) : 0;
    if (sent) {
        stream_took(&o->place, sent);
    }
    return sent == rest.len ? OUTLET_SENT : OUTLET_WAITS;
}

void outlet_leave(outlet *o)
{
    aiq_buf_consume(&o->out, o->out.len);
    stream_leave(&o->place);
    if (o->reader) {
        stream_reader_leave(o->reader);
        o->reader = NULL;
    }
}

void outlet_end(outlet *o)
{
    if (o->log && !o->ended) {
        o->ended = true;
        stream_end(o->log);
    }
}

void outlet_free(outlet *o)
{
    outlet_end(o);
    outlet_leave(o);
    aiq_buf_free(&o->text);
    aiq_buf_free(&o->out);
}
