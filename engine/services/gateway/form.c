#include "services/gateway/form.h"
#include <string.h>
#include <strings.h>

#define BOUNDARY_MAX 70 /* RFC 2046 */

typedef struct {
    const char *pos, *end;
    char delimiter[BOUNDARY_MAX + 3]; /* "--" and the boundary */
    size_t len;                       /* of the delimiter */
    const char **wrong;
} reader;

/* What a part's headers say. */
typedef struct {
    aiq_str name;
    bool file, encoded;
} part;

static bool bad(reader *r, const char *why)
{
    *r->wrong = why;
    return false;
}

static bool is_word(aiq_str text, const char *word)
{
    return text.len == strlen(word) && strncasecmp(text.data, word, text.len) == 0;
}

/* Parameters: name=value or name="value", each behind a semicolon. */

static aiq_str trim(const char *from, const char *to)
{
    while (from < to && (*from == ' ' || *from == '\t')) {
        from++;
    }
    while (to > from && (to[-1] == ' ' || to[-1] == '\t')) {
        to--;
    }
    return (aiq_str){from, (size_t)(to - from)};
}

/* The next one of *rest, which is left behind it. False: it is none. */
static bool next_param(aiq_str *rest, aiq_str *name, aiq_str *value)
{
    const char *pos = rest->data, *end = pos + rest->len, *last;
    const char *equals = memchr(pos, '=', rest->len);

    if (*pos != ';' || equals == NULL) {
        return false;
    }
    *name = trim(pos + 1, equals);
    pos = equals + 1;
    if (pos < end && *pos == '"') {
        last = memchr(pos + 1, '"', (size_t)(end - pos - 1));
        if (last == NULL) {
            return false;
        }
        *value = (aiq_str){pos + 1, (size_t)(last - pos - 1)};
        last++;
    } else {
        last = memchr(pos, ';', (size_t)(end - pos));
        last = last ? last : end;
        *value = trim(pos, last);
    }
    *rest = trim(last, end);
    return rest->len == 0 || *rest->data == ';';
}

/* A header's value up to its parameters. */
static aiq_str first_word(aiq_str value, aiq_str *rest)
{
    const char *end = value.data + value.len;
    const char *semicolon = value.len ? memchr(value.data, ';', value.len) : NULL;

    semicolon = semicolon ? semicolon : end;
    *rest = (aiq_str){semicolon, (size_t)(end - semicolon)};
    return trim(value.data, semicolon);
}

bool form_is(aiq_str content_type)
{
    aiq_str rest;

    return is_word(first_word(content_type, &rest), "multipart/form-data");
}

static bool is_boundary(aiq_str text)
{
    static const char marks[] = "'()+_,-./:=?";

    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!plain && (c == '\0' || !strchr(marks, c))) {
            return false;
        }
    }
    return text.len > 0 && text.len <= BOUNDARY_MAX;
}

static bool read_boundary(reader *r, aiq_str content_type)
{
    aiq_str rest, name, value, boundary = {0};

    if (!is_word(first_word(content_type, &rest), "multipart/form-data")) {
        return bad(r, "no multipart/form-data");
    }
    while (rest.len) {
        if (!next_param(&rest, &name, &value)) {
            return bad(r, "a broken content type");
        }
        if (is_word(name, "boundary")) {
            if (boundary.len) {
                return bad(r, "two boundaries");
            }
            boundary = value;
        }
    }
    if (!is_boundary(boundary)) {
        return bad(r, "no boundary");
    }
    memcpy(r->delimiter, "--", 2);
    memcpy(r->delimiter + 2, boundary.data, boundary.len);
    r->len = boundary.len + 2;
    return true;
}

/* Parts. */

static bool read_disposition(reader *r, aiq_str value, part *p)
{
    aiq_str rest, name, text;

    if (p->name.data) {
        return bad(r, "two dispositions of one part");
    }
    if (memchr(value.data, '\\', value.len)) {
        return bad(r, "a backslash in a part's disposition");
    }
    if (!is_word(first_word(value, &rest), "form-data")) {
        return bad(r, "a part that is no form-data");
    }
    while (rest.len) {
        if (!next_param(&rest, &name, &text)) {
            return bad(r, "a broken disposition");
        }
        if (is_word(name, "filename") || is_word(name, "filename*")) {
            p->file = true;
        } else if (!is_word(name, "name") || p->name.data || memchr(text.data, '%', text.len)) {
            return bad(r, "an unclear name");
        } else {
            p->name = text;
        }
    }
    return p->name.data ? true : bad(r, "a part without a name");
}

static bool read_header(reader *r, aiq_str line, part *p)
{
    const char *colon = memchr(line.data, ':', line.len), *end = line.data + line.len;

    if (colon == NULL || *line.data == ' ' || *line.data == '\t') {
        return bad(r, "a broken header of a part");
    }
    if (memchr(line.data, '\n', line.len) || memchr(line.data, '\r', line.len) ||
        memchr(line.data, '\0', line.len)) {
        return bad(r, "a control character in a part's header");
    }
    aiq_str name = {line.data, (size_t)(colon - line.data)};
    if (is_word(name, "content-disposition")) {
        return read_disposition(r, trim(colon + 1, end), p);
    }
    p->encoded |= is_word(name, "content-transfer-encoding");
    return true;
}

/* Up to the empty line and over it. */
static bool read_headers(reader *r, part *p)
{
    const char *start = r->pos;

    for (;;) {
        const char *line = r->pos;
        const char *crlf = memmem(line, (size_t)(r->end - line), "\r\n", 2);
        if (crlf == NULL || crlf - start > FORM_HEADER_MAX) {
            return bad(r, "a part whose headers do not end");
        }
        r->pos = crlf + 2;
        if (crlf == line) {
            return p->name.data ? true : bad(r, "a part without a name");
        }
        if (!read_header(r, (aiq_str){line, (size_t)(crlf - line)}, p)) {
            return false;
        }
    }
}

/* Over the next delimiter; *content: what stands before it. */
static bool read_content(reader *r, aiq_str *content)
{
    const char *start = r->pos;
    const char *at = memmem(start, (size_t)(r->end - start), r->delimiter, r->len);

    if (at == NULL || at - start < 2 || memcmp(at - 2, "\r\n", 2) != 0) {
        return bad(r, at ? "a boundary inside a part" : "a part that does not end");
    }
    *content = (aiq_str){start, (size_t)(at - 2 - start)};
    r->pos = at + r->len;
    return true;
}

/* Behind a delimiter: is it the last one? */
static bool at_end(const reader *r)
{
    size_t left = (size_t)(r->end - r->pos);

    return (left == 2 && memcmp(r->pos, "--", 2) == 0) ||
           (left == 4 && memcmp(r->pos, "--\r\n", 4) == 0);
}

static bool read_parts(reader *r, const char *name, aiq_str *value)
{
    bool found = false;

    for (unsigned n = 0; !at_end(r); n++) {
        part p = {0};
        aiq_str content;
        if (n == FORM_PARTS_MAX) {
            return bad(r, "too many parts");
        }
        if (r->end - r->pos < 2 || memcmp(r->pos, "\r\n", 2) != 0) {
            return bad(r, "a broken boundary");
        }
        r->pos += 2;
        if (!read_headers(r, &p) || !read_content(r, &content)) {
            return false;
        }
        if (!is_word(p.name, name)) {
            continue;
        }
        if (found || p.file || p.encoded) {
            return bad(r, found ? "a field that comes twice" : "a field that is no plain text");
        }
        found = true;
        *value = content;
    }
    return true;
}

bool form_field(aiq_str body, aiq_str content_type, const char *name, aiq_str *value,
                const char **wrong)
{
    reader r = {.pos = body.data, .end = body.data + body.len, .wrong = wrong};

    *value = (aiq_str){0};
    if (!read_boundary(&r, content_type)) {
        return false;
    }
    if (body.len < r.len || memcmp(r.pos, r.delimiter, r.len) != 0) {
        return bad(&r, "no boundary at the start");
    }
    r.pos += r.len;
    return read_parts(&r, name, value);
}
