/* WebSockets on a link: MESSAGE and END, see aiq_frame.h. */

#include <assert.h>
#include <string.h>
#include "link/link.h"
#include "link/route.h"

/* One MESSAGE. Smaller than a window, so that a reader starts before a writer has
 * finished. */
#define PIECE_MAX 32768u

/* Output. */

void job_accept(aiq_job *job)
{
    assert(job->websocket);
    job_head(job, &(job_reply){.status = 101, .content_length = -1, .stream = true});
}

/* Pushes one frame of the piece; false: no credit, or the ring is full. */
static bool push_piece(link_job *j, job_message_piece *piece)
{
    if (j->credit < AIQ_MESSAGE_COST || (piece->len && j->credit == AIQ_MESSAGE_COST)) {
        return false;
    }
    size_t len = piece->len;
    len = len < j->credit - AIQ_MESSAGE_COST ? len : j->credit - AIQ_MESSAGE_COST;
    len = len < PIECE_MAX ? len : PIECE_MAX;
    bool last = piece->last && len == piece->len;
    uint8_t flags = j->in_message ? AIQ_MESSAGE_MORE
                    : piece->text ? AIQ_MESSAGE_TEXT
                                  : AIQ_MESSAGE_BINARY;
    uint8_t *to = link_job_push(j, AIQ_FRAME_MESSAGE,
                                (uint8_t)(flags | (last ? AIQ_MESSAGE_FIN : 0)), len);
    if (to == NULL) {
        link_job_wait(j);
        return false;
    }
    if (len) {
        memcpy(to, piece->data, len);
    }
    piece->data += len;
    piece->len -= len;
    j->credit -= (uint32_t)(len + AIQ_MESSAGE_COST);
    j->in_message = !last;
    return true;
}

bool job_message(aiq_job *job, job_message_piece *piece)
{
    link_job *j = (link_job *)job;

    if (j->state != JOB_RUNNING) {
        return true;
    }
    assert(job->websocket && job->head_sent);
    j->wants_write = true;
    if (j->waiting) {
        return false;
    }
    do {
        if (!push_piece(j, piece)) {
            return false;
        }
    } while (piece->len);
    j->wants_write = false;
    return true;
}

void job_verify(aiq_job *job, aiq_str token)
{
    link_job *j = (link_job *)job;

    if (j->state != JOB_RUNNING) {
        return;
    }
    assert(job->websocket && job->head_sent && !j->verifying);
    assert(token.len > 0 && token.len <= AIQ_TOKEN_MAX);
    j->verifying = true;
    aiq_buf_add(&j->owed_token, token.data, token.len);
    link_job_settle(j);
}

void job_close(aiq_job *job, unsigned code, const char *reason)
{
    link_job *j = (link_job *)job;
    char payload[AIQ_CLOSE_MAX];
    aiq_close why = {.code = (uint16_t)code};
    size_t len = reason ? strlen(reason) : 0;

    if (j->state != JOB_RUNNING) {
        return;
    }
    assert(job->websocket && job->head_sent);
    if (len > sizeof(payload) - sizeof(why)) {
        len = sizeof(payload) - sizeof(why);
        while (len > 0 && ((unsigned char)reason[len] & 0xc0) == 0x80) {
            len--; /* not within a character */
        }
    }
    memcpy(payload, &why, sizeof(why));
    if (len) {
        memcpy(payload + sizeof(why), reason, len);
    }
    len += sizeof(why);
    link_job_finished(j, "WebSocket closed");
    j->owed_close = (aiq_str){aiq_pool_copy(job->pool, payload, len), len};
    j->owes_end = true;
    link_job_settle(j);
}

/* The handler is not asked. */
static void close_for(link_job *j, unsigned code, const char *reason)
{
    /* what the handler still calls must not end the job under our feet */
    j->state = JOB_ENDING;
    if (j->job.route->handler->cancel) {
        j->job.route->handler->cancel(&j->job);
    }
    j->state = JOB_RUNNING;
    job_close(&j->job, code, reason);
}

void link_job_leave(link_job *j)
{
    close_for(j, 1012, "The server restarts, connect again.");
}

/* Input. */

void link_job_message(link_job *j, uint8_t flags, const uint8_t *data, uint32_t n)
{
    aiq_job *job = &j->job;
    uint8_t opcode = flags & AIQ_MESSAGE_OPCODE;
    bool first = opcode == AIQ_MESSAGE_TEXT || opcode == AIQ_MESSAGE_BINARY;

    if (!job->websocket || !job->head_sent || j->closing) {
        link_break(j->link, "MESSAGE where there is no WebSocket");
        return;
    }
    if ((first ? j->getting_message : opcode != AIQ_MESSAGE_MORE || !j->getting_message) ||
        flags & ~(AIQ_MESSAGE_OPCODE | AIQ_MESSAGE_FIN)) {
        link_break(j->link, "MESSAGE with a wrong opcode");
        return;
    }
    if (j->allowed < AIQ_MESSAGE_COST || n > j->allowed - AIQ_MESSAGE_COST) {
        link_break(j->link, "MESSAGE beyond its credit");
        return;
    }
    j->allowed -= n + AIQ_MESSAGE_COST;
    j->getting_message = !(flags & AIQ_MESSAGE_FIN);
    if (first) {
        j->getting_text = opcode == AIQ_MESSAGE_TEXT;
    }
    if (j->state == JOB_RUNNING) {
        const job_message_piece piece = {data, n, j->getting_text, !j->getting_message};
        job->route->handler->message(job, &piece);
    }
}

void link_job_closing(link_job *j, const uint8_t *data, uint32_t n)
{
    aiq_job *job = &j->job;
    aiq_close why;

    if (!job->head_sent || j->closing || n < sizeof(why) || n > AIQ_CLOSE_MAX) {
        link_break(j->link, "END of a WebSocket twice or of a wrong length");
        return;
    }
    memcpy(&why, data, sizeof(why));
    j->closing = true;
    if (j->state != JOB_RUNNING) {
        return;
    }
    if (job->route->handler->closing) {
        job->route->handler->closing(job, why.code);
    } else {
        close_for(j, why.code, NULL);
    }
}

static void copy_text(char *to, size_t size, const uint8_t *data, uint16_t len)
{
    size_t n = len < size ? len : size - 1;

    memcpy(to, data, n);
    to[n] = '\0';
}

/* False: it is wrong. */
static bool read_grant(aiq_job *job, job_grant *grant, aiq_fields fields)
{
    aiq_err *err = &grant->err;
    const uint8_t *data;
    uint16_t id, len;
    int rc;

    while ((rc = aiq_field_next(&fields, &id, &data, &len)) == 1) {
        if (len == 0 || len > AIQ_IDENTITY_MAX || !aiq_text_clean(data, len)) {
            return false;
        }
        if (id == AIQ_FIELD_CODE) {
            copy_text(err->code, sizeof(err->code), data, len);
        } else if (id == AIQ_FIELD_MESSAGE) {
            copy_text(err->message, sizeof(err->message), data, len);
        } else if (id == AIQ_FIELD_ROLE && err->status == 0 &&
                   !aiq_str_eq(job->role, (aiq_str){(const char *)data, len})) {
            job->role = (aiq_str){aiq_pool_copy(job->pool, data, len), len};
        }
    }
    return rc == 0;
}

void link_job_granted(link_job *j, const uint8_t *data, uint32_t n)
{
    aiq_job *job = &j->job;
    aiq_grant answer;
    job_grant grant = {0};

    if (!j->verifying || n < sizeof(answer) || n > AIQ_CHECK_MAX) {
        link_break(j->link, "GRANT of nothing, or of a wrong length");
        return;
    }
    memcpy(&answer, data, sizeof(answer));
    j->verifying = false;
    if (answer.status != 200) {
        aiq_fail(&grant.err, answer.status, "invalid_token", "The token is not valid.");
    }
    grant.expires_ms = answer.expires_ms;
    if (!read_grant(job, &grant, (aiq_fields){data + sizeof(answer), data + n})) {
        link_break(j->link, "GRANT with a wrong field");
        return;
    }
    if (j->state == JOB_RUNNING) {
        job->route->handler->granted(job, &grant);
    }
}
