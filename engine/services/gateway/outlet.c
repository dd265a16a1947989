#include "services/gateway/outlet.h"

void outlet_log(outlet *o, size_t keep, const stream_producer *producer, void *arg)
{
    o->log = stream_new(o->job->loop, o->job->tenant, keep, producer, arg);
    stream_join(o->log, &o->place, 0);
}

aiq_str outlet_say(outlet *o)
{
    size_t n = o->text.len;
    aiq_str said;

    if (o->log) {
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

outlet_state outlet_send(outlet *o)
{
    aiq_str rest;

    if (o->out.len && !send_out(o)) {
        return OUTLET_WAITS;
    }
    if (o->place.stream == NULL) {
        return OUTLET_SENT;
    }
    if (!stream_rest(&o->place, &rest)) {
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
    stream_leave(&o->place);
    aiq_buf_free(&o->text);
    aiq_buf_free(&o->out);
}
