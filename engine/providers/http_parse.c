#include "providers/http_parse.h"
#include <string.h>
#include <strings.h>

/* Beyond this a length is a lie. */
#define LENGTH_MAX    (1ll << 50)
#define EXTENSION_MAX 1024
#define TRAILER_MAX   8192

static http_event bad(http_parser *p, const char *reason)
{
    p->reason = reason;
    p->state = HTTP_ENDED;
    p->keep_alive = false;
    return HTTP_BAD;
}

/* RFC 9110, 5.6.2 */
static bool is_token(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_text(uint8_t c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

static bool is_word(aiq_str s, const char *word)
{
    return s.len == strlen(word) && strncasecmp(s.data, word, s.len) == 0;
}

/* Is the word an element of a comma-separated list? */
static bool lists(aiq_str s, const char *word)
{
    while (s.len) {
        const char *comma = memchr(s.data, ',', s.len);
        aiq_str element = {s.data, comma ? (size_t)(comma - s.data) : s.len};
        s.data += element.len + (comma != NULL);
        s.len -= element.len + (comma != NULL);
        while (element.len && (*element.data == ' ' || *element.data == '\t')) {
            element.data++;
            element.len--;
        }
        while (element.len && (element.data[element.len - 1] == ' ' ||
                               element.data[element.len - 1] == '\t')) {
            element.len--;
        }
        if (is_word(element, word)) {
            return true;
        }
    }
    return false;
}

static bool parse_status(http_parser *p, aiq_str line)
{
    const uint8_t *s = (const uint8_t *)line.data;

    if (line.len < 12 || memcmp(s, "HTTP/1.", 7) != 0 || (s[7] != '0' && s[7] != '1') ||
        s[8] != ' ' || (line.len > 12 && s[12] != ' ')) {
        return false;
    }
    p->head.status = 0;
    for (int i = 9; i < 12; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return false;
        }
        p->head.status = p->head.status * 10 + (s[i] - '0');
    }
    for (size_t i = 12; i < line.len; i++) {
        if (!is_text(s[i])) {
            return false;
        }
    }
    p->keep_alive = s[7] == '1';
    return p->head.status >= 100 && p->head.status <= 599;
}

static bool parse_field(http_field *field, aiq_str line)
{
    const uint8_t *s = (const uint8_t *)line.data;
    size_t name = 0, start, end = line.len;

    while (name < line.len && is_token(s[name])) {
        name++;
    }
    if (name == 0 || name == line.len || s[name] != ':') {
        return false;
    }
    for (start = name + 1; start < end && (s[start] == ' ' || s[start] == '\t'); start++) {
    }
    while (end > start && (s[end - 1] == ' ' || s[end - 1] == '\t')) {
        end--;
    }
    for (size_t i = start; i < end; i++) {
        if (!is_text(s[i])) {
            return false;
        }
    }
    field->name = (aiq_str){line.data, name};
    field->value = (aiq_str){line.data + start, end - start};
    return true;
}

bool http_parse_length(aiq_str value, int64_t *length)
{
    *length = 0;
    for (size_t i = 0; i < value.len; i++) {
        if (value.data[i] < '0' || value.data[i] > '9' || *length > LENGTH_MAX) {
            return false;
        }
        *length = *length * 10 + (value.data[i] - '0');
    }
    return value.len > 0;
}

/* What the fields say about the body's end and the connection's. */
static const char *parse_framing(http_parser *p)
{
    for (size_t i = 0; i < p->head.n_fields; i++) {
        const http_field *f = &p->fields[i];
        if (is_word(f->name, "content-length")) {
            if (p->head.length >= 0) {
                return "two lengths";
            }
            if (!http_parse_length(f->value, &p->head.length)) {
                return "an invalid length";
            }
        } else if (is_word(f->name, "transfer-encoding")) {
            if (p->chunked || !is_word(f->value, "chunked")) {
                return "an unknown transfer coding";
            }
            p->chunked = true;
        } else if (is_word(f->name, "connection") && lists(f->value, "close")) {
            p->keep_alive = false;
        }
    }
    if (p->chunked && p->head.length >= 0) {
        return "a length beside a transfer coding";
    }
    return NULL;
}

/* The whole head, its empty line included. NULL, or what is wrong. */
static const char *parse_lines(http_parser *p, const char *head, size_t len)
{
    const char *pos = head, *end = head + len - 2;
    bool first = true;

    p->head = (http_head){.fields = p->fields, .length = -1};
    p->chunked = false;
    while (pos < end) {
        const char *stop = memmem(pos, (size_t)(end - pos), "\r\n", 2);
        aiq_str line = {pos, (size_t)(stop - pos)};
        pos = stop + 2;
        if (first) {
            if (!parse_status(p, line)) {
                return "an invalid status line";
            }
            first = false;
            continue;
        }
        if (p->head.n_fields == HTTP_FIELDS_MAX) {
            return "too many header fields";
        }
        if (!parse_field(&p->fields[p->head.n_fields++], line)) {
            return "an invalid header field";
        }
    }
    return parse_framing(p);
}

static http_event head_done(http_parser *p, const char *head, size_t len)
{
    const char *wrong = parse_lines(p, head, len);
    unsigned status = p->head.status;

    if (wrong) {
        return bad(p, wrong);
    }
    if (status < 200) {
        p->held.len = 0;
        p->held.data = p->held.base;
        return status == 101 || p->interim++ == HTTP_INTERIM_MAX
                   ? bad(p, "an interim response that was not asked for")
                   : HTTP_MORE;
    }
    p->state = HTTP_BODY_START;
    return HTTP_HEAD;
}

/* Is what has come so far the start of a response? Says so before a peer that
 * speaks something else is waited for. */
static bool starts_well(const uint8_t *data, size_t n)
{
    static const char start[] = "HTTP/1.";

    return memcmp(data, start, n < sizeof(start) - 1 ? n : sizeof(start) - 1) == 0;
}

/* HTTP_MORE with bytes left: an interim response was skipped. */
static http_event parse_head(http_parser *p, const uint8_t **pos, const uint8_t *end)
{
    size_t n = (size_t)(end - *pos), before = p->held.len;
    const uint8_t *data = *pos, *stop;

    if (before == 0 && (stop = memmem(data, n, "\r\n\r\n", 4)) != NULL) {
        size_t len = (size_t)(stop + 4 - data);
        *pos += len;
        return len > HTTP_HEAD_MAX ? bad(p, "too long a head")
                                   : head_done(p, (const char *)data, len);
    }
    n = n < HTTP_HEAD_MAX + 1 - before ? n : HTTP_HEAD_MAX + 1 - before;
    aiq_buf_add(&p->held, data, n);
    *pos += n;
    if (!starts_well(p->held.data, p->held.len)) {
        return bad(p, "no HTTP response");
    }
    size_t from = before > 3 ? before - 3 : 0;
    stop = memmem(p->held.data + from, p->held.len - from, "\r\n\r\n", 4);
    if (stop == NULL) {
        return p->held.len > HTTP_HEAD_MAX ? bad(p, "too long a head") : HTTP_MORE;
    }
    size_t len = (size_t)(stop + 4 - p->held.data);
    *pos -= p->held.len - len;
    return head_done(p, (const char *)p->held.data, len);
}

static http_event ended(http_parser *p)
{
    p->state = HTTP_ENDED;
    return HTTP_DONE;
}

static http_event body_start(http_parser *p)
{
    aiq_buf_free(&p->held);
    if (p->head.status == 204 || p->head.status == 304 || p->head.length == 0) {
        return ended(p);
    }
    if (p->chunked) {
        p->state = HTTP_IN_CHUNK_SIZE;
        p->left = p->line = p->digits = 0;
    } else if (p->head.length > 0) {
        p->state = HTTP_IN_LENGTH;
        p->left = (uint64_t)p->head.length;
    } else {
        p->state = HTTP_IN_REST;
        p->keep_alive = false;
    }
    return HTTP_MORE;
}

static http_event take(http_parser *p, const uint8_t **pos, const uint8_t *end, aiq_str *piece)
{
    size_t n = (size_t)(end - *pos);

    if (p->state != HTTP_IN_REST) {
        n = n < p->left ? n : (size_t)p->left;
        p->left -= n;
    }
    *piece = (aiq_str){(const char *)*pos, n};
    *pos += n;
    return HTTP_BODY;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static http_event chunk_size(http_parser *p, uint8_t c)
{
    int digit = hex_digit(c);

    if (digit >= 0) {
        if (p->left > LENGTH_MAX / 16) {
            return bad(p, "an invalid chunk size");
        }
        p->left = p->left * 16 + (uint64_t)digit;
        p->digits = 1;
        return HTTP_MORE;
    }
    if (!p->digits || (c != '\r' && c != ';' && c != ' ' && c != '\t')) {
        return bad(p, "an invalid chunk size");
    }
    p->line_cr = c == '\r';
    p->state = HTTP_IN_CHUNK_EXTENSION;
    return HTTP_MORE;
}

static http_event chunk_extension(http_parser *p, uint8_t c)
{
    if (p->line_cr) {
        if (c != '\n') {
            return bad(p, "an invalid chunk size");
        }
        p->state = p->left ? HTTP_IN_CHUNK : HTTP_IN_TRAILER;
        p->line = 0;
        p->line_cr = false;
        p->line_empty = true;
        return HTTP_MORE;
    }
    p->line_cr = c == '\r';
    if (!p->line_cr && (!is_text(c) || ++p->line > EXTENSION_MAX)) {
        return bad(p, "an invalid chunk extension");
    }
    return HTTP_MORE;
}

/* Trailers are of no interest: only their end is. */
static http_event trailer(http_parser *p, uint8_t c)
{
    if (++p->line > TRAILER_MAX) {
        return bad(p, "too long trailers");
    }
    if (p->line_cr) {
        if (c != '\n') {
            return bad(p, "an invalid trailer");
        }
        if (p->line_empty) {
            return ended(p);
        }
        p->line_cr = false;
        p->line_empty = true;
        return HTTP_MORE;
    }
    p->line_cr = c == '\r';
    if (!p->line_cr) {
        p->line_empty = false;
        if (!is_text(c)) {
            return bad(p, "an invalid trailer");
        }
    }
    return HTTP_MORE;
}

/* One byte of what surrounds chunks. */
static http_event framing(http_parser *p, uint8_t c)
{
    switch (p->state) {
    case HTTP_IN_CHUNK_SIZE:
        return chunk_size(p, c);
    case HTTP_IN_CHUNK_EXTENSION:
        return chunk_extension(p, c);
    case HTTP_IN_CHUNK_CR:
        p->state = HTTP_IN_CHUNK_LF;
        return c == '\r' ? HTTP_MORE : bad(p, "a chunk longer than its size");
    case HTTP_IN_CHUNK_LF:
        p->state = HTTP_IN_CHUNK_SIZE;
        p->left = p->line = p->digits = 0;
        return c == '\n' ? HTTP_MORE : bad(p, "a chunk longer than its size");
    default:
        return trailer(p, c);
    }
}

/* A step: HTTP_MORE means go on while there are bytes. */
static http_event step(http_parser *p, const uint8_t **pos, const uint8_t *end, aiq_str *piece)
{
    switch (p->state) {
    case HTTP_IN_HEAD:
        return parse_head(p, pos, end);
    case HTTP_IN_LENGTH:
        return p->left == 0 ? ended(p) : take(p, pos, end, piece);
    case HTTP_IN_REST:
        return take(p, pos, end, piece);
    case HTTP_IN_CHUNK:
        if (p->left == 0) {
            p->state = HTTP_IN_CHUNK_CR;
            return HTTP_MORE;
        }
        return take(p, pos, end, piece);
    default:
        return framing(p, *(*pos)++);
    }
}

http_event http_parse(http_parser *p, const uint8_t **pos, const uint8_t *end, aiq_str *piece)
{
    if (p->state == HTTP_BODY_START) {
        http_event event = body_start(p);
        if (event != HTTP_MORE) {
            return event;
        }
    }
    if (p->state == HTTP_IN_LENGTH && p->left == 0) {
        return ended(p);
    }
    while (*pos < end && p->state != HTTP_ENDED) {
        http_event event = step(p, pos, end, piece);
        if (event != HTTP_MORE) {
            return event;
        }
    }
    return HTTP_MORE;
}

http_event http_parse_end(http_parser *p)
{
    if (p->state == HTTP_IN_REST) {
        return ended(p);
    }
    return bad(p, p->state == HTTP_IN_HEAD ? "the end of the connection before a response"
                                           : "the end of the connection within the response");
}

void http_parser_init(http_parser *p, http_field fields[HTTP_FIELDS_MAX])
{
    *p = (http_parser){.fields = fields, .head = {.length = -1}};
}

void http_parser_free(http_parser *p)
{
    aiq_buf_free(&p->held);
}

aiq_str http_head_get(const http_head *head, const char *name)
{
    for (size_t i = 0; i < head->n_fields; i++) {
        if (is_word(head->fields[i].name, name)) {
            return head->fields[i].value;
        }
    }
    return (aiq_str){0};
}
