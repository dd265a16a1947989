#include "services/gateway/form.h"
#include <string.h>
#include <strings.h>

typedef form_part part;

static bool fail(form *r, const char *why)
{
    r->wrong = why;
    return false;
}

static form_result bad(form *r, const char *why)
{
    r->wrong = why;
    return FORM_BAD;
}

/* More may come. */
static form_result more(form *r, const char *or_why)
{
    return r->last ? bad(r, or_why) : FORM_MORE;
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
    return text.len > 0 && text.len <= FORM_BOUNDARY_MAX;
}

static bool read_boundary(form *r, aiq_str content_type)
{
    aiq_str rest, name, value, boundary = {0};

    if (!is_word(first_word(content_type, &rest), "multipart/form-data")) {
        return fail(r, "no multipart/form-data");
    }
    while (rest.len) {
        if (!next_param(&rest, &name, &value)) {
            return fail(r, "a broken content type");
        }
        if (is_word(name, "boundary")) {
            if (boundary.len) {
                return fail(r, "two boundaries");
            }
            boundary = value;
        }
    }
    if (!is_boundary(boundary)) {
        return fail(r, "no boundary");
    }
    memcpy(r->delimiter, "--", 2);
    memcpy(r->delimiter + 2, boundary.data, boundary.len);
    r->len = boundary.len + 2;
    return true;
}

/* Parts. */

static bool read_disposition(form *r, aiq_str value, part *p)
{
    aiq_str rest, name, text;

    if (p->name.data) {
        return fail(r, "two dispositions of one part");
    }
    if (memchr(value.data, '\\', value.len)) {
        return fail(r, "a backslash in a part's disposition");
    }
    if (!is_word(first_word(value, &rest), "form-data")) {
        return fail(r, "a part that is no form-data");
    }
    while (rest.len) {
        if (!next_param(&rest, &name, &text)) {
            return fail(r, "a broken disposition");
        }
        if (is_word(name, "filename") || is_word(name, "filename*")) {
            p->file = true;
        } else if (!is_word(name, "name") || p->name.data || memchr(text.data, '%', text.len)) {
            return fail(r, "an unclear name");
        } else {
            p->name = text;
        }
    }
    return p->name.data ? true : fail(r, "a part without a name");
}

static bool read_header(form *r, aiq_str line, part *p)
{
    const char *colon = memchr(line.data, ':', line.len), *end = line.data + line.len;

    if (colon == NULL || *line.data == ' ' || *line.data == '\t') {
        return fail(r, "a broken header of a part");
    }
    if (memchr(line.data, '\n', line.len) || memchr(line.data, '\r', line.len) ||
        memchr(line.data, '\0', line.len)) {
        return fail(r, "a control character in a part's header");
    }
    aiq_str name = {line.data, (size_t)(colon - line.data)};
    if (is_word(name, "content-disposition")) {
        return read_disposition(r, trim(colon + 1, end), p);
    }
    p->encoded |= is_word(name, "content-transfer-encoding");
    return true;
}

/* A part's headers, up to the empty line and over it. */
static form_result read_headers(form *r)
{
    for (;;) {
        const char *line = r->data + r->pos;
        const char *crlf = memmem(line, r->n - r->pos, "\r\n", 2);
        size_t seen = crlf ? (size_t)(crlf - r->data) : r->n - (r->n > r->pos);
        if (seen - r->start > FORM_HEADER_MAX) {
            return bad(r, "a part whose headers do not end");
        }
        if (crlf == NULL) {
            return more(r, "a part whose headers do not end");
        }
        r->pos = seen + 2;
        if (crlf == line) {
            return r->part.name.data ? FORM_DONE : bad(r, "a part without a name");
        }
        if (!read_header(r, (aiq_str){line, (size_t)(crlf - line)}, &r->part)) {
            return FORM_BAD;
        }
    }
}

/* A part's content, over the next delimiter; *content: what stands before it. */
static form_result read_content(form *r, aiq_str *content)
{
    const char *start = r->data + r->start;
    const char *at = memmem(r->data + r->pos, r->n - r->pos, r->delimiter, r->len);

    if (at == NULL) {
        /* it may have begun */
        size_t from = r->n - r->start < r->len ? r->start : r->n - r->len + 1;
        r->pos = from > r->pos ? from : r->pos;
        return more(r, "a part that does not end");
    }
    if (at - start < 2 || memcmp(at - 2, "\r\n", 2) != 0) {
        return bad(r, "a boundary inside a part");
    }
    *content = (aiq_str){start, (size_t)(at - 2 - start)};
    r->pos = (size_t)(at - r->data) + r->len;
    return FORM_DONE;
}

static form_result take_field(form *r, aiq_str content)
{
    for (size_t i = 0; i < FORM_FIELDS && r->fields[i].name; i++) {
        form_field *field = &r->fields[i];
        if (!is_word(r->part.name, field->name)) {
            continue;
        }
        if (field->found || r->part.file || r->part.encoded) {
            return bad(r, field->found ? "a field that comes twice"
                                       : "a field that is no plain text");
        }
        field->found = true;
        field->value = content;
    }
    return FORM_DONE;
}

/* What follows a delimiter: another part, or the end. */
static form_result read_next(form *r)
{
    const char *wrong = r->parts == FORM_PARTS_MAX ? "too many parts" : "a broken boundary";
    const char *at = r->data + r->pos;

    if (r->n - r->pos < 2) {
        return more(r, wrong);
    }
    if (memcmp(at, "--", 2) == 0) {
        r->pos += 2;
        r->state = FORM_AT_END;
        return FORM_DONE;
    }
    if (r->parts == FORM_PARTS_MAX || memcmp(at, "\r\n", 2) != 0) {
        return bad(r, wrong);
    }
    r->parts++;
    r->pos += 2;
    r->start = r->pos;
    r->part = (form_part){0};
    r->state = FORM_IN_HEADERS;
    return FORM_DONE;
}

/* Nothing may follow but the end of the line. */
static form_result read_end(form *r)
{
    size_t left = r->n - r->pos;
    const char *wrong = r->parts == FORM_PARTS_MAX ? "too many parts" : "a broken boundary";

    if (left > 2 || memcmp(r->data + r->pos, "\r\n", left) != 0 || (r->last && left == 1)) {
        return bad(r, wrong);
    }
    return FORM_MORE;
}

static form_result read_start(form *r)
{
    if (r->n < r->len) {
        return more(r, "no boundary at the start");
    }
    if (memcmp(r->data, r->delimiter, r->len) != 0) {
        return bad(r, "no boundary at the start");
    }
    r->pos = r->len;
    r->state = FORM_AFTER_DELIMITER;
    return FORM_DONE;
}

/* DONE: a step further. */
static form_result step(form *r)
{
    aiq_str content;
    form_result result;

    switch (r->state) {
    case FORM_AT_START:
        return read_start(r);
    case FORM_AFTER_DELIMITER:
        return read_next(r);
    case FORM_IN_HEADERS:
        result = read_headers(r);
        if (result == FORM_DONE) {
            r->start = r->pos;
            r->state = FORM_IN_CONTENT;
        }
        return result;
    case FORM_IN_CONTENT:
        result = read_content(r, &content);
        if (result == FORM_DONE) {
            r->state = FORM_AFTER_DELIMITER;
            result = take_field(r, content);
        }
        return result;
    default:
        return read_end(r);
    }
}

bool form_begin(form *r, aiq_str content_type, const char *const *names)
{
    *r = (form){0};
    for (size_t i = 0; i < FORM_FIELDS && names[i]; i++) {
        r->fields[i].name = names[i];
    }
    return read_boundary(r, content_type);
}

form_result form_read(form *r, aiq_str body, bool last)
{
    form_result result = FORM_DONE;

    r->data = body.data ? body.data : "";
    r->n = body.len;
    r->last = last;
    while (result == FORM_DONE) {
        result = step(r);
    }
    if (result == FORM_MORE && last) {
        return FORM_DONE;
    }
    return result;
}
