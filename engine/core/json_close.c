#include "core/json.h"

typedef struct {
    char closers[JSON_DEPTH_MAX]; /* of what is open */
    size_t depth;
    size_t end, end_depth; /* behind the last value that is whole, and what is open there */
    bool name;             /* the next string is a member's */
    bool in_string, escaped;
} reading;

static void is_whole(reading *r, size_t end)
{
    r->end = end;
    r->end_depth = r->depth;
}

static void read_string(reading *r, char c, size_t at)
{
    if (r->escaped) {
        r->escaped = false;
    } else if (c == '\\') {
        r->escaped = true;
    } else if (c == '"') {
        r->in_string = false;
        if (!r->name) {
            is_whole(r, at + 1);
        }
    }
}

/* False: no object goes on so. */
static bool read_bracket(reading *r, char c, size_t at)
{
    if (c == '{' || c == '[') {
        if (r->depth == JSON_DEPTH_MAX || (r->depth == 0 && (c == '[' || r->end > 0))) {
            return false;
        }
        r->closers[r->depth++] = c == '{' ? '}' : ']';
        r->name = c == '{';
    } else if (r->depth == 0 || r->closers[--r->depth] != c) {
        return false;
    }
    is_whole(r, at + 1);
    return true;
}

static bool read_byte(reading *r, char c, size_t at)
{
    if (r->in_string) {
        read_string(r, c, at);
        return true;
    }
    switch (c) {
    case '{':
    case '[':
    case '}':
    case ']':
        return read_bracket(r, c, at);
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return true;
    case '"':
        r->in_string = true;
        break;
    case ':':
        r->name = false;
        break;
    case ',':
        is_whole(r, at); /* also a number or a word, of which nothing else shows the end */
        r->name = r->depth > 0 && r->closers[r->depth - 1] == '}';
        break;
    default:
        break;
    }
    return r->depth > 0;
}

bool json_close(aiq_str text, aiq_buf *out)
{
    reading r = {0};
    json_error error;
    size_t from = out->len;

    for (size_t i = 0; i < text.len; i++) {
        if (!read_byte(&r, text.data[i], i)) {
            return false;
        }
    }
    if (r.end == 0) {
        return false;
    }
    aiq_buf_add(out, text.data, r.end);
    while (r.end_depth > 0) {
        aiq_buf_add(out, &r.closers[--r.end_depth], 1);
    }
    if (json_scan((char *)out->data + from, out->len - from, NULL, 0, &error)) {
        return true;
    }
    out->len = from;
    return false;
}
