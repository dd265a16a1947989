/*
 * A job's output. What a service writes goes straight into the ring; what finds no
 * room there is owed: it stays in the job, the job waits in its link's list, and
 * link_job_flush() pushes it in its order once the worker has read on.
 */

#include <assert.h>
#include <string.h>
#include "core/log.h"
#include "link/counts.h"
#include "link/link.h"

/* One DATA frame. Smaller than a window, so that a reader starts before a
 * writer has finished. */
#define DATA_MAX 32768u

/* The ring. */

void link_job_wait(link_job *j)
{
    aiq_link *l = j->link;

    if (!j->waiting) {
        j->waiting = true;
        j->wants_write = true; /* job_room() is 0 from here on */
        j->next = NULL;
        *l->last_waiting = j;
        l->last_waiting = &j->next;
    }
}

void link_job_unwait(link_job *j)
{
    aiq_link *l = j->link;
    link_job **p = &l->waiting;

    while (*p != j) {
        p = &(*p)->next;
    }
    *p = j->next;
    if (l->last_waiting == &j->next) {
        l->last_waiting = p;
    }
    j->waiting = false;
}

uint8_t *link_job_push(link_job *j, aiq_frame_type type, uint8_t flags, size_t len)
{
    link_show(j->link);
    return aiq_ring_push(&j->link->ring, (uint8_t)type, flags, j->slot, j->generation,
                         (uint32_t)len);
}

static bool push_copy(link_job *j, aiq_frame_type type, const void *data, size_t len)
{
    uint8_t *to = link_job_push(j, type, 0, len);

    if (to == NULL) {
        return false;
    }
    if (len) {
        memcpy(to, data, len);
    }
    return true;
}

/* As much as credit and the ring take now. */
static size_t push_data(link_job *j, const uint8_t *data, size_t n, bool flush)
{
    size_t sent = 0;

    while (sent < n && j->credit > 0) {
        size_t len = n - sent;
        len = len < j->credit ? len : j->credit;
        len = len < DATA_MAX ? len : DATA_MAX;
        uint8_t flags = flush && sent + len == n ? AIQ_DATA_FLUSH : 0;
        uint8_t *to = link_job_push(j, AIQ_FRAME_DATA, flags, len);
        if (to == NULL) {
            link_job_wait(j);
            break;
        }
        memcpy(to, data + sent, len);
        j->credit -= (uint32_t)len;
        sent += len;
    }
    return sent;
}

/* Everything that a job owes, in the order in which the worker must see it. */
bool link_job_flush(link_job *j)
{
    if (j->owed_credit) {
        if (!push_copy(j, AIQ_FRAME_CREDIT, &j->owed_credit, sizeof(j->owed_credit))) {
            return false;
        }
        j->owed_credit = 0;
    }
    if (j->owed_head.data) {
        if (!push_copy(j, AIQ_FRAME_HEAD, j->owed_head.data, j->owed_head.len)) {
            return false;
        }
        j->owed_head = (aiq_str){0};
    }
    if (j->rest.len && j->credit) {
        size_t n = push_data(j, (const uint8_t *)j->rest.data, j->rest.len, false);
        j->rest.data += n;
        j->rest.len -= n;
        if (j->rest.len && j->credit) {
            return false;
        }
    }
    if (j->rest.len) {
        return true; /* the ring has room, credit is missing: CREDIT comes back here */
    }
    if (j->owed_token.len) {
        if (!push_copy(j, AIQ_FRAME_TOKEN, j->owed_token.data, j->owed_token.len)) {
            return false;
        }
        aiq_buf_free(&j->owed_token);
    }
    if (j->owed_usage) {
        if (!push_copy(j, AIQ_FRAME_USAGE, j->owed_usage, sizeof(*j->owed_usage))) {
            return false;
        }
        j->owed_usage = NULL;
    }
    if (j->owes_end && !push_copy(j, AIQ_FRAME_END, j->owed_close.data, j->owed_close.len)) {
        return false;
    }
    if (j->owed_error.data &&
        !push_copy(j, AIQ_FRAME_ERROR, j->owed_error.data, j->owed_error.len)) {
        return false;
    }
    if (j->owed_verdict.data &&
        !push_copy(j, AIQ_FRAME_VERDICT, j->owed_verdict.data, j->owed_verdict.len)) {
        return false;
    }
    if (j->owed_answer.data &&
        !push_copy(j, AIQ_FRAME_ANSWER, j->owed_answer.data, j->owed_answer.len)) {
        return false;
    }
    if (j->owes_end || j->owed_error.data || j->owed_verdict.data || j->owed_answer.data) {
        link_job_free(j);
    }
    return true;
}

void link_job_settle(link_job *j)
{
    if (j->waiting || !link_job_flush(j)) {
        link_job_wait(j);
    }
}

/* A request's end. */

static const char *text_of(aiq_job *job, aiq_str s)
{
    return s.len ? aiq_pool_copy(job->pool, s.data, s.len) : NULL;
}

/* The second part of 00-<32 digits>-<16 digits>-<2 digits>. */
static const char *trace_of(aiq_job *job)
{
    return job->traceparent.len == 55 ? aiq_pool_copy(job->pool, job->traceparent.data + 3, 32)
                                      : NULL;
}

void link_job_finished(link_job *j, const char *result)
{
    aiq_job *job = &j->job;
    double seconds = (double)(loop_now_ns() - job->started_ns) / 1e9;

    j->state = JOB_ENDING;
    j->wants_write = false;
    link_job_unkey(j);
    link_counts_request(job->loop->links->counts, j->endpoint, job->method, seconds);
    aiq_log(AIQ_LOG_DEBUG, "link", result, AIQ_S("request_id", text_of(job, job->request_id)),
            AIQ_S("trace_id", trace_of(job)), AIQ_S("uri", text_of(job, job->uri)),
            AIQ_I("status", j->status), AIQ_R("duration_ms", seconds * 1e3),
            AIQ_S("cache", job->cache),
            j->tokens ? AIQ_I("tokens_used", j->tokens) : AIQ_S("tokens_used", NULL));
}

/* The service's side. */

/* Adds a field if the payload stays within its limit. */
static void add_field(aiq_buf *out, size_t max, uint16_t id, const char *data, size_t len)
{
    if (len <= UINT16_MAX && out->len + aiq_field_span(len) <= max) {
        uint8_t *p = aiq_buf_reserve(out, aiq_field_span(len));
        aiq_field_put(p, id, data, (uint16_t)len);
        out->len += aiq_field_span(len);
    }
}

static void add_text(aiq_buf *out, size_t max, uint16_t id, const char *text)
{
    if (text && *text) {
        add_field(out, max, id, text, strlen(text));
    }
}

/* HEAD and ERROR are built on the stack: small, and mostly copied to the ring
 * at once. */
static aiq_buf stack_buf(uint8_t *memory, size_t size)
{
    return (aiq_buf){.data = memory, .base = memory, .size = size};
}

static void add_header(aiq_buf *out, size_t max, const job_header *header)
{
    char line[AIQ_HEAD_MAX];
    size_t len = header->name.len + 2 + header->value.len;

    if (len <= sizeof(line)) {
        memcpy(line, header->name.data, header->name.len);
        memcpy(line + header->name.len, ": ", 2);
        memcpy(line + header->name.len + 2, header->value.data, header->value.len);
        add_field(out, max, AIQ_FIELD_HEADER, line, len);
    }
}

aiq_str job_header_value(const aiq_job *job, const char *name)
{
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, name)) {
            return job->headers[i].value;
        }
    }
    return (aiq_str){"", 0};
}

void job_head(aiq_job *job, const job_reply *reply)
{
    link_job *j = (link_job *)job;
    uint8_t memory[AIQ_HEAD_MAX];
    aiq_buf out = stack_buf(memory, sizeof(memory));
    aiq_head head = {.status = (uint16_t)reply->status,
                     .flags = (reply->stream ? AIQ_HEAD_STREAM : 0) |
                              (reply->endless ? AIQ_HEAD_ENDLESS : 0),
                     .content_length = reply->content_length};

    if (j->state != JOB_RUNNING) {
        return;
    }
    assert(!job->head_sent);
    job->head_sent = true;
    j->status = reply->status;
    j->stream = reply->stream;
    job->loop->links->n_streams += reply->stream;
    if (j->sink) {
        j->sink->head(j->sink_arg, reply);
        return;
    }
    aiq_buf_add(&out, &head, sizeof(head));
    add_text(&out, AIQ_HEAD_MAX, AIQ_FIELD_CONTENT_TYPE, reply->content_type);
    add_text(&out, AIQ_HEAD_MAX, AIQ_FIELD_MODEL, reply->model);
    add_text(&out, AIQ_HEAD_MAX, AIQ_FIELD_PROVIDER, reply->provider);
    for (size_t i = 0; i < reply->n_headers; i++) {
        add_header(&out, AIQ_HEAD_MAX, &reply->headers[i]);
    }
    j->credit -= (uint32_t)out.len; /* HEAD is first and smaller than a window */
    if (j->waiting || !push_copy(j, AIQ_FRAME_HEAD, out.data, out.len)) {
        j->owed_head = (aiq_str){aiq_pool_copy(job->pool, out.data, out.len), out.len};
        link_job_wait(j);
    }
}

size_t job_room(const aiq_job *job)
{
    const link_job *j = (const link_job *)job;

    if (j->sink) {
        return j->state == JOB_RUNNING && !j->wants_write ? AIQ_WINDOW_ACTIVE : 0;
    }
    return j->state == JOB_RUNNING && !j->waiting ? j->credit : 0;
}

size_t job_write(aiq_job *job, const void *data, size_t n, bool flush)
{
    link_job *j = (link_job *)job;
    size_t sent = 0;

    if (j->state != JOB_RUNNING) {
        return 0;
    }
    assert(job->head_sent);
    if (j->sink) {
        sent = j->sink->write(j->sink_arg, data, n);
    } else if (!j->waiting) {
        sent = push_data(j, data, n, flush);
    }
    j->wants_write = sent < n;
    return sent;
}

void job_usage(aiq_job *job, const aiq_usage *usage)
{
    link_job *j = (link_job *)job;

    if (j->state != JOB_RUNNING) {
        return;
    }
    j->tokens = (usage->tokens_in > 0 ? usage->tokens_in : 0) +
                (usage->tokens_out > 0 ? usage->tokens_out : 0);
    if (j->sink) {
        j->sink->usage(j->sink_arg, usage);
        return;
    }
    j->owed_usage = memcpy(aiq_pool_alloc(job->pool, sizeof(*usage)), usage, sizeof(*usage));
}

static void end_reply(link_job *j)
{
    if (j->sink) {
        link_inner_end(j);
    } else {
        j->owes_end = true;
        link_job_settle(j);
    }
}

void job_end(aiq_job *job)
{
    link_job *j = (link_job *)job;

    if (j->state == JOB_RUNNING) {
        assert(job->head_sent);
        link_job_finished(j, "request done");
        end_reply(j);
    }
}

/* What is our fault or a provider's, and what somebody was not allowed: who asks an operator
 * about that has the request's id. What a client has got wrong is its own. */
static void log_failure(aiq_job *job, const aiq_err *err)
{
    bool ours = err->status >= 500;
    aiq_log_level level = ours ? AIQ_LOG_WARN : AIQ_LOG_INFO;

    if ((!ours && err->status != 402 && err->status != 403 && err->status != 429) ||
        !aiq_log_enabled(level)) {
        return;
    }
    aiq_log(level, "link", ours ? "request failed" : "request rejected",
            AIQ_S("request_id", text_of(job, job->request_id)),
            AIQ_S("trace_id", trace_of(job)), AIQ_S("tenant", text_of(job, job->tenant)),
            AIQ_I("status", err->status), AIQ_S("code", err->code),
            AIQ_S("error", err->message), AIQ_S("detail", err->detail[0] ? err->detail : NULL),
            AIQ_R("duration_ms", (double)(loop_now_ns() - job->started_ns) / 1e6));
}

void job_fail(aiq_job *job, const aiq_err *err)
{
    job_fail_with(job, err, NULL, 0);
}

void job_fail_with(aiq_job *job, const aiq_err *err, const job_header *headers, size_t n)
{
    link_job *j = (link_job *)job;
    uint8_t memory[AIQ_ERROR_MAX];
    aiq_buf out = stack_buf(memory, sizeof(memory));
    aiq_failure failure = {.status = err->status, .retry_after = err->retry_after};

    if (j->state != JOB_RUNNING) {
        return;
    }
    log_failure(job, err);
    if (j->sink) {
        j->status = err->status;
        link_job_finished(j, "request refused");
        link_inner_fail(j, err);
        return;
    }
    aiq_buf_add(&out, &failure, sizeof(failure));
    add_text(&out, AIQ_ERROR_MAX, AIQ_FIELD_CODE, err->code);
    add_text(&out, AIQ_ERROR_MAX, AIQ_FIELD_MESSAGE, err->message);
    add_text(&out, AIQ_ERROR_MAX, AIQ_FIELD_PARAM, err->param);
    for (size_t i = 0; i < n; i++) {
        add_header(&out, AIQ_ERROR_MAX, &headers[i]);
    }
    j->status = err->status;
    link_job_finished(j, "request refused");
    j->owed_error = (aiq_str){aiq_pool_copy(job->pool, out.data, out.len), out.len};
    link_job_settle(j);
}

static void add_str(aiq_buf *out, size_t max, uint16_t id, aiq_str text)
{
    if (text.len) {
        add_field(out, max, id, text.data, text.len);
    }
}

void link_job_verdict(link_job *j, const keyring_verdict *v)
{
    const aiq_verdict verdict = {
        .status = (uint16_t)v->status, .epoch = v->epoch, .expires_ms = v->expires_ms};
    uint8_t memory[AIQ_CHECK_MAX];
    aiq_buf out = stack_buf(memory, sizeof(memory));

    aiq_buf_add(&out, &verdict, sizeof(verdict));
    if (v->status == 200) {
        add_str(&out, AIQ_CHECK_MAX, AIQ_FIELD_TENANT, v->tenant);
        add_str(&out, AIQ_CHECK_MAX, AIQ_FIELD_USER, v->user);
        add_str(&out, AIQ_CHECK_MAX, AIQ_FIELD_ROLE, v->role);
        add_str(&out, AIQ_CHECK_MAX, AIQ_FIELD_KEY_ID, v->key_id);
        if (v->requests) {
            add_str(&out, AIQ_CHECK_MAX, AIQ_FIELD_KEY_RATE,
                    (aiq_str){(const char *)&v->requests, sizeof(v->requests)});
        }
    }
    j->state = JOB_ENDING;
    j->owed_verdict = (aiq_str){aiq_pool_copy(j->job.pool, out.data, out.len), out.len};
    link_job_settle(j);
}

void link_job_answer(link_job *j, const rates_answer *a)
{
    const aiq_answer answer = {
        .status = a == NULL    ? 503
                  : a->refused ? 429
                               : 200,
        .wait_ms = a ? a->wait_ms : 0,
    };
    uint8_t memory[AIQ_CHECK_MAX];
    aiq_buf out = stack_buf(memory, sizeof(memory));

    aiq_buf_add(&out, &answer, sizeof(answer));
    if (a) {
        add_field(&out, AIQ_CHECK_MAX, AIQ_FIELD_RATES, (const char *)a->rates,
                  j->job.location->n_rates * sizeof(a->rates[0]));
    }
    aiq_log(AIQ_LOG_DEBUG, "link", "question answered",
            AIQ_S("request_id", text_of(&j->job, j->job.request_id)),
            AIQ_I("status", answer.status), AIQ_I("wait_ms", answer.wait_ms));
    j->state = JOB_ENDING;
    j->owed_answer = (aiq_str){aiq_pool_copy(j->job.pool, out.data, out.len), out.len};
    link_job_settle(j);
}

void job_reply_all(aiq_job *job, unsigned status, const char *content_type, const void *body,
                   size_t n)
{
    link_job *j = (link_job *)job;
    const job_reply reply = {
        .status = status, .content_type = content_type, .content_length = (int64_t)n};

    if (j->state != JOB_RUNNING) {
        return;
    }
    job_head(job, &reply);
    size_t sent = job_write(job, body, n, false);
    if (sent < n) {
        j->rest =
            (aiq_str){aiq_pool_copy(job->pool, (const char *)body + sent, n - sent), n - sent};
    }
    link_job_finished(j, "request done");
    end_reply(j);
}

void link_job_credit(link_job *j, uint32_t n)
{
    if (n > UINT32_MAX / 2 || j->credit + n > UINT32_MAX / 2) {
        link_break(j->link, "CREDIT beyond reason");
        return;
    }
    j->wants_write |= j->credit == 0;
    j->credit += n;
    if (j->state == JOB_ENDING) {
        link_job_settle(j);
    } else {
        link_job_writable(j);
    }
}

/* Tells the handler that there is room again, where it has seen that there was
 * none. */
void link_job_writable(link_job *j)
{
    if (j->wants_write && !j->waiting && j->credit > 0 && j->job.head_sent) {
        j->wants_write = false;
        if (j->job.route->handler->writable) {
            j->job.route->handler->writable(&j->job);
        }
    }
}
