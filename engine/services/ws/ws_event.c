/* Events of /ws, and those of them that wait for the client. */

#include <string.h>
#include "core/json.h"
#include "services/ws/ws.h"
#include "streams/stream_log.h"

static void add_member(aiq_buf *out, const char *name, aiq_str text)
{
    if (text.len) {
        aiq_buf_printf(out, ",\"%s\":", name);
        json_quote(out, text.data, text.len);
    }
}

static aiq_str text_of(const char *text)
{
    return (aiq_str){text, strlen(text)};
}

void ws_say(ws *w, const ws_event *e)
{
    const ws_flow *flow = e->flow;
    unsigned long long seq = flow ? flow->seq : ++w->seq;
    size_t start = w->out.len;
    uint32_t len = 0;

    aiq_buf_add(&w->out, &len, sizeof(len));
    aiq_buf_printf(&w->out, "{\"type\":\"%s\"", e->type);
    add_member(&w->out, "id", flow ? text_of(flow->id) : e->id);
    if (flow) {
        add_member(&w->out, flow->topic ? "topic" : "stream", text_of(flow->source));
    }
    aiq_buf_printf(&w->out, ",\"seq\":%llu,\"timestamp\":\"", seq);
    if (e->time.len) {
        aiq_buf_add(&w->out, e->time.data, e->time.len);
    } else {
        stream_log_time(&w->out, aiq_now_ms());
    }
    aiq_buf_text(&w->out, "\"");
    add_member(&w->out, "event", e->name);
    aiq_buf_text(&w->out, ",\"data\":");
    aiq_buf_add(&w->out, e->data.len ? e->data.data : "{}", e->data.len ? e->data.len : 2);
    aiq_buf_text(&w->out, "}");
    len = (uint32_t)(w->out.len - start - sizeof(len));
    memcpy(w->out.data + start, &len, sizeof(len));
}

void ws_say_error(ws *w, const ws_flow *flow, aiq_str id, const aiq_err *err)
{
    char body[AIQ_ERROR_BODY_MAX];
    const aiq_error_info info = {
        .status = err->status,
        .code = {err->code, strlen(err->code)},
        .message = {err->message, strlen(err->message)},
        .param = {err->param, strlen(err->param)},
        .request_id = {w->job->request_id.data, w->job->request_id.len},
    };
    size_t n = aiq_error_render(body, AIQ_DIALECT_OWN, &info);
    aiq_buf data = {0};

    aiq_buf_add(&data, body, n - 1);
    aiq_buf_printf(&data, ",\"status\":%u", err->status);
    if (err->retry_after) {
        aiq_buf_printf(&data, ",\"retry_after\":%u", err->retry_after);
    }
    aiq_buf_text(&data, "}");
    ws_say(w,
           &(ws_event){
               .type = "error", .flow = flow, .id = id, .data = {(char *)data.data, data.len}});
    aiq_buf_free(&data);
}

bool ws_say_delta(const ws_flow *flow, aiq_str name, aiq_str time, aiq_str data)
{
    static const char error[] = "{\"error\":"; /* as the gateway writes it */
    aiq_buf text = {0};
    json_error wrong;

    /* what the provider said is passed on as JSON where it is some */
    if (!json_valid(data.data, data.len, &wrong)) {
        json_quote(&text, data.data, data.len);
        data = (aiq_str){(char *)text.data, text.len};
    }
    bool failed = data.len >= sizeof(error) && memcmp(data.data, error, sizeof(error) - 1) == 0;
    ws_say(flow->ws, &(ws_event){.type = failed ? "error" : "delta",
                                 .flow = flow,
                                 .name = name,
                                 .time = time,
                                 .data = data});
    aiq_buf_free(&text);
    return !failed;
}

/* What waits. */

bool ws_has_room(const ws *w)
{
    return w->out.len < WS_OUT_MOST;
}

static bool send_one(ws *w)
{
    uint32_t len;

    memcpy(&len, w->out.data, sizeof(len));
    job_message_piece piece = {w->out.data + sizeof(len), len, true, true};
    if (job_message(w->job, &piece)) {
        aiq_buf_consume(&w->out, sizeof(len) + len);
        return true;
    }
    size_t sent = len - piece.len;
    len = (uint32_t)piece.len; /* what is left moves its length on */
    memcpy(w->out.data + sent, &len, sizeof(len));
    aiq_buf_consume(&w->out, sent);
    return false;
}

void ws_flush(ws *w)
{
    if (w->lister) {
        return; /* the state comes first */
    }
    while (w->out.len && send_one(w)) {
    }
    if (w->out.len == 0) {
        aiq_buf_free(&w->out); /* an idle WebSocket holds nothing */
    }
    if (w->owed && ws_has_room(w)) {
        size_t owed = w->owed;
        w->owed = 0;
        job_consumed(w->job, owed);
    }
}
