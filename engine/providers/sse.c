#include "providers/sse.h"
#include <string.h>

void sse_init(sse_parser *p)
{
    *p = (sse_parser){.retry_ms = -1};
}

void sse_free(sse_parser *p)
{
    aiq_buf_free(&p->line);
    aiq_buf_free(&p->data);
    aiq_buf_free(&p->type);
    aiq_buf_free(&p->id);
}

static aiq_str str(const aiq_buf *b)
{
    return (aiq_str){(const char *)b->data, b->len};
}

static void set(aiq_buf *b, aiq_str value)
{
    aiq_buf_consume(b, b->len);
    aiq_buf_add(b, value.data, value.len);
}

static void set_retry(sse_parser *p, aiq_str value)
{
    int64_t ms = 0;

    for (size_t i = 0; i < value.len; i++) {
        if (value.data[i] < '0' || value.data[i] > '9' || i > 9) {
            return;
        }
        ms = ms * 10 + (value.data[i] - '0');
    }
    if (value.len) {
        p->retry_ms = ms;
    }
}

static sse_result add_data(sse_parser *p, aiq_str value)
{
    if (p->data.len + value.len + 1 > SSE_MAX) {
        return SSE_TOO_LONG;
    }
    aiq_buf_add(&p->data, value.data, value.len);
    aiq_buf_add(&p->data, "\n", 1);
    return SSE_MORE;
}

static sse_result dispatch(sse_parser *p, sse_event *event)
{
    p->told = true;
    if (p->data.len == 0) {
        return SSE_MORE;
    }
    *event = (sse_event){.type = str(&p->type), .data = str(&p->data), .id = str(&p->id)};
    event->data.len--; /* the last LF is no part of it */
    return SSE_EVENT;
}

/* A line without its end. */
static sse_result take_line(sse_parser *p, aiq_str line, sse_event *event)
{
    if (line.len == 0) {
        return dispatch(p, event);
    }
    const char *colon = memchr(line.data, ':', line.len);
    aiq_str name = {line.data, colon ? (size_t)(colon - line.data) : line.len};
    aiq_str value = {NULL, 0};

    if (colon) {
        value = (aiq_str){colon + 1, line.len - name.len - 1};
        if (value.len && value.data[0] == ' ') {
            value.data++;
            value.len--;
        }
    }
    if (aiq_str_is(name, "data")) {
        return add_data(p, value);
    }
    if (aiq_str_is(name, "event")) {
        set(&p->type, value);
    } else if (aiq_str_is(name, "id")) {
        if (value.len == 0 || memchr(value.data, '\0', value.len) == NULL) {
            set(&p->id, value);
        }
    } else if (aiq_str_is(name, "retry")) {
        set_retry(p, value);
    }
    return SSE_MORE; /* a comment, or a field of no meaning */
}

/* Consumes a byte-order mark, byte by byte; false once the stream is past it. */
static bool skip_bom(sse_parser *p, const uint8_t **pos, const uint8_t *end)
{
    static const uint8_t mark[] = {0xef, 0xbb, 0xbf};

    while (p->bom < 3 && *pos < end) {
        if (**pos != mark[p->bom]) {
            /* what looked like one is the start of the first line */
            aiq_buf_add(&p->line, mark, p->bom);
            p->bom = 3;
            break;
        }
        p->bom++;
        ++*pos;
    }
    return p->bom < 3;
}

static const uint8_t *find_line_end(const uint8_t *pos, const uint8_t *end)
{
    const uint8_t *lf = memchr(pos, '\n', (size_t)(end - pos));
    const uint8_t *cr = memchr(pos, '\r', (size_t)((lf ? lf : end) - pos));

    return cr ? cr : lf;
}

/* Forgets the event that was handed out. */
static void forget(sse_parser *p)
{
    if (p->told) {
        aiq_buf_consume(&p->data, p->data.len);
        aiq_buf_consume(&p->type, p->type.len);
        p->told = false;
    }
}

sse_result sse_next(sse_parser *p, const uint8_t **pos, const uint8_t *end, sse_event *event)
{
    if (skip_bom(p, pos, end)) {
        return SSE_MORE;
    }
    while (*pos < end) {
        if (p->after_cr && **pos == '\n') {
            p->after_cr = false;
            ++*pos;
            continue;
        }
        p->after_cr = false;
        forget(p);
        const uint8_t *stop = find_line_end(*pos, end);
        aiq_str line = {(const char *)*pos, (size_t)((stop ? stop : end) - *pos)};
        bool whole = p->line.len == 0;
        if (p->line.len + line.len > SSE_MAX) {
            return SSE_TOO_LONG;
        }
        *pos = stop ? stop + 1 : end;
        if (!whole || stop == NULL) {
            aiq_buf_add(&p->line, line.data, line.len);
            line = str(&p->line);
        }
        if (stop == NULL) {
            return SSE_MORE;
        }
        p->after_cr = *stop == '\r';
        sse_result result = take_line(p, line, event);
        aiq_buf_consume(&p->line, p->line.len);
        if (result != SSE_MORE) {
            return result;
        }
    }
    return SSE_MORE;
}

sse_result sse_end(sse_parser *p, sse_event *event)
{
    forget(p);
    if (p->line.len) {
        sse_result result = take_line(p, str(&p->line), event);
        aiq_buf_consume(&p->line, p->line.len);
        if (result != SSE_MORE) {
            return result;
        }
    }
    return p->told ? SSE_MORE : dispatch(p, event);
}
