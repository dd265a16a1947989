#include "streams/stream_log.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "core/json.h"

/* A stream may be longer than 4 GB, what is kept of it is not: differences count. */
typedef struct {
    uint32_t place, ms;
} mark;

#define NUMBER_MAX 20 /* digits */

void stream_log_init(stream_log *log)
{
    *log = (stream_log){.first = 1};
}

void stream_log_objects(stream_log *log, uint64_t before)
{
    assert(stream_log_end(log) == 0);
    log->objects = true;
    log->first = before + 1;
}

void stream_log_go_on(stream_log *log, uint64_t number)
{
    log->first = number;
}

void stream_log_free(stream_log *log)
{
    aiq_buf_free(&log->bytes);
    aiq_buf_free(&log->marks);
}

static size_t count(const stream_log *log)
{
    return log->marks.len / sizeof(mark);
}

static mark mark_at(const stream_log *log, size_t i)
{
    mark m;

    memcpy(&m, log->marks.data + i * sizeof(m), sizeof(m));
    return m;
}

/* Where event i begins, in the bytes; i == count(): their end. */
static size_t offset(const stream_log *log, size_t i)
{
    return i == count(log) ? log->bytes.len
                           : (uint32_t)(mark_at(log, i).place - (uint32_t)log->start);
}

uint64_t stream_log_end(const stream_log *log)
{
    return log->start + log->bytes.len;
}

uint64_t stream_log_last(const stream_log *log)
{
    return log->first + count(log) - 1;
}

/* Adding. */

static void add_one(stream_log *log, const char *text, size_t len, int64_t now_ms)
{
    static const char retry[] = "retry: ", id[] = "id: ";
    char *to = (char *)aiq_buf_reserve(&log->bytes,
                                       len + sizeof(retry) + sizeof(id) + 2 * (NUMBER_MAX + 1));
    char *p = to;
    uint64_t number = stream_log_last(log) + 1;

    if (stream_log_end(log) == 0) {
        log->began_ms = now_ms;
    }
    if (number == 1) {
        p = mempcpy(p, retry, sizeof(retry) - 1);
        p = aiq_put_decimal(p, STREAM_RETRY_MS);
        *p++ = '\n';
    }
    int64_t ms = now_ms > log->began_ms ? now_ms - log->began_ms : 0; /* clocks are set, too */
    const mark m = {(uint32_t)stream_log_end(log), (uint32_t)ms};
    p = mempcpy(p, id, sizeof(id) - 1);
    p = aiq_put_decimal(p, number);
    *p++ = '\n';
    p = mempcpy(p, text, len);
    log->bytes.len += (size_t)(p - to);
    aiq_buf_add(&log->marks, &m, sizeof(m));
}

/* Behind the empty line that ends the first event; NULL: none does. */
static const char *event_end(const char *pos, const char *end)
{
    const char *line = pos;

    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        if (++line < end && *line == '\n') {
            return line + 1;
        }
    }
    return NULL;
}

void stream_log_add(stream_log *log, const void *text, size_t len, int64_t now_ms)
{
    const char *pos = text, *end = pos + len, *next;

    for (; (next = event_end(pos, end)) != NULL; pos = next) {
        add_one(log, pos, (size_t)(next - pos), now_ms);
    }
}

bool stream_log_go_along(stream_log *log, const stream_log *other)
{
    uint64_t next = stream_log_last(log) + 1;
    size_t n = count(other), i = next > other->first ? (size_t)(next - other->first) : 0;

    if (n > 0 && next < other->first) {
        return false;
    }
    for (; i < n; i++) {
        size_t at = offset(other, i);
        int64_t ms = other->began_ms + mark_at(other, i).ms;
        if (stream_log_end(log) == 0) {
            log->began_ms = ms;
        }
        const mark m = {(uint32_t)stream_log_end(log),
                        (uint32_t)(ms > log->began_ms ? ms - log->began_ms : 0)};
        aiq_buf_add(&log->bytes, other->bytes.data + at, offset(other, i + 1) - at);
        aiq_buf_add(&log->marks, &m, sizeof(m));
    }
    return true;
}

size_t stream_log_count(const void *text, size_t len)
{
    const char *pos = text, *end = pos + len;
    size_t n = 0;

    for (; (pos = event_end(pos, end)) != NULL; n++) {
    }
    return n;
}

void stream_log_trim(stream_log *log, uint64_t keep, size_t most)
{
    size_t n = 0, total = count(log), drop = 0;

    while (n < total && log->bytes.len - drop > most &&
           log->start + offset(log, n + 1) <= keep) {
        drop = offset(log, ++n);
    }
    if (n == 0) {
        return;
    }
    log->first += n;
    log->start += drop;
    aiq_buf_consume(&log->bytes, drop);
    aiq_buf_consume(&log->marks, n * sizeof(mark));
}

/* Reading. */

bool stream_log_find(const stream_log *log, uint64_t after, uint64_t *place)
{
    assert(after <= stream_log_last(log));
    if (after + 1 < log->first) {
        return false;
    }
    *place = log->start + offset(log, (size_t)(after + 1 - log->first));
    return true;
}

aiq_str stream_log_from(const stream_log *log, uint64_t place)
{
    assert(place >= log->start && place <= stream_log_end(log));
    size_t skip = (size_t)(place - log->start);

    if (skip == log->bytes.len) {
        return (aiq_str){"", 0}; /* a log that never had an event has no bytes to point to */
    }
    return (aiq_str){(const char *)log->bytes.data + skip, log->bytes.len - skip};
}

/* How many of the events from i on. */
static size_t whole_events(const stream_log *log, size_t i, size_t most)
{
    size_t total = count(log), n = i < total;

    while (i + n < total && offset(log, i + n + 1) - offset(log, i) <= most) {
        n++;
    }
    return n;
}

uint64_t stream_log_events(const stream_log *log, uint64_t after, size_t most, aiq_buf *out)
{
    assert(after + 1 >= log->first && after <= stream_log_last(log));
    size_t i = (size_t)(after + 1 - log->first), n = whole_events(log, i, most);

    if (n) {
        aiq_buf_add(out, log->bytes.data + offset(log, i), offset(log, i + n) - offset(log, i));
    }
    return after + n;
}

void stream_log_time(aiq_buf *out, int64_t ms)
{
    time_t seconds = ms / 1000;
    struct tm tm;
    char text[32];

    gmtime_r(&seconds, &tm);
    size_t n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    aiq_buf_add(out, text, n);
    aiq_buf_printf(out, ".%03dZ", (int)(ms % 1000));
}

static void add_json(const stream_log *log, size_t i, aiq_buf *data, aiq_buf *out)
{
    const char *pos = (const char *)log->bytes.data + offset(log, i);
    const char *end = (const char *)log->bytes.data + offset(log, i + 1), *newline;
    aiq_str type = AIQ_STR("message"), value;
    unsigned long long number = log->first + i;
    bool first = true;

    if (log->objects) {
        newline = memchr(pos, '\n', (size_t)(end - pos)); /* behind "id:" */
        pos = newline + 1 + strlen("data: ");
        aiq_buf_add(out, pos, (size_t)(end - pos) - strlen("\n\n"));
        return;
    }
    aiq_buf_consume(data, data->len);
    for (; (newline = memchr(pos, '\n', (size_t)(end - pos))) != NULL; pos = newline + 1) {
        aiq_str line = {pos, (size_t)(newline - pos)};
        if (aiq_str_after(line, "data: ", &value)) {
            aiq_buf_add(data, "\n", first ? 0 : 1);
            aiq_buf_add(data, value.data, value.len);
            first = false;
        } else {
            aiq_str_after(line, "event: ", &type);
        }
    }
    aiq_buf_printf(out, "{\"seq\":%llu,\"type\":", number);
    json_quote(out, type.data, type.len);
    aiq_buf_text(out, ",\"timestamp\":\"");
    stream_log_time(out, log->began_ms + mark_at(log, i).ms);
    aiq_buf_text(out, "\",\"data\":");
    json_quote(out, (const char *)data->data, data->len);
    aiq_buf_text(out, "}");
}

uint64_t stream_log_json(const stream_log *log, uint64_t after, size_t most, aiq_buf *out)
{
    assert(after + 1 >= log->first && after <= stream_log_last(log));
    size_t i = (size_t)(after + 1 - log->first), n = whole_events(log, i, most);
    aiq_buf data = {0};

    for (size_t k = 0; k < n; k++) {
        add_json(log, i + k, &data, out);
        aiq_buf_text(out, "\n");
    }
    aiq_buf_free(&data);
    return after + n;
}

size_t stream_log_memory(const stream_log *log)
{
    return log->bytes.size + log->marks.size;
}
