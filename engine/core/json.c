/*
 * One recursive descent validates, and on the way notes type, extent and count of
 * what it passes; what walks over the values later checks nothing again. The recursion is
 * bounded by JSON_DEPTH_MAX. Strings are most of a chat request's bytes, so they are skipped
 * sixteen or eight at a time up to the next byte that means something.
 */

#include "core/json.h"
#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

typedef struct {
    const uint8_t *pos, *end;
    unsigned depth;
    const char *reason; /* why it is not JSON; pos is where */
} scanner;

#define ONES  0x0101010101010101ull
#define HIGHS 0x8080808080808080ull

static bool fail(scanner *s, const char *reason)
{
    s->reason = reason;
    return false;
}

/* The first byte that is a quote, a backslash, a control character or part of
 * a multi-byte character; end where there is none. */
static const uint8_t *skip_plain(const uint8_t *p, const uint8_t *end)
{
#ifdef __SSE2__
    while (end - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i stops = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                                     _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
        /* the comparison is signed: bytes from 0x80 on are below 0x20 as well */
        stops = _mm_or_si128(stops, _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)));
        unsigned marks = (unsigned)_mm_movemask_epi8(stops);
        if (marks) {
            return p + __builtin_ctz(marks);
        }
        p += 16;
    }
#endif
    while (end - p >= 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        x = le64toh(x);
        uint64_t quote = x ^ (ONES * '"');
        uint64_t slash = x ^ (ONES * '\\');
        /* The usual "is there a zero byte" trick. A borrow can mark bytes above
         * a true one by mistake, never the lowest marked one. */
        uint64_t marks = (((x - ONES * 0x20) & ~x) | ((quote - ONES) & ~quote) |
                          ((slash - ONES) & ~slash) | x) &
                         HIGHS;
        if (marks) {
            return p + (__builtin_ctzll(marks) >> 3);
        }
        p += 8;
    }
    while (p < end && *p >= 0x20 && *p != '"' && *p != '\\' && *p < 0x80) {
        p++;
    }
    return p;
}

/* Length of the well-formed UTF-8 sequence at p (Unicode, table 3-7), or 0.
 * *p >= 0x80. */
static unsigned utf8_length(const uint8_t *p, const uint8_t *end)
{
    size_t left = (size_t)(end - p);
    uint8_t low = 0x80, high = 0xbf;
    unsigned n;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 3;
        low = p[0] == 0xe0 ? 0xa0 : 0x80;  /* no overlong form */
        high = p[0] == 0xed ? 0x9f : 0xbf; /* no surrogate */
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        low = p[0] == 0xf0 ? 0x90 : 0x80;
        high = p[0] == 0xf4 ? 0x8f : 0xbf; /* nothing above U+10FFFF */
    } else {
        return 0;
    }
    if (left < n || p[1] < low || p[1] > high) {
        return 0;
    }
    for (unsigned i = 2; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

static void skip_space(scanner *s)
{
    while (s->pos < s->end &&
           (*s->pos == ' ' || *s->pos == '\n' || *s->pos == '\r' || *s->pos == '\t')) {
        s->pos++;
    }
}

/* Four hexadecimal digits at p, or -1. */
static int hex4(const uint8_t *p, const uint8_t *end)
{
    int n = 0;

    if (end - p < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i], digit;
        if (c >= '0' && c <= '9') {
            digit = (uint8_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (uint8_t)((c | 0x20) - 'a' + 10);
        } else {
            return -1;
        }
        n = n << 4 | digit;
    }
    return n;
}

/* At a backslash. A lone surrogate is refused: what it stands for cannot be
 * written in UTF-8, so no reader would agree with another on it. */
static bool scan_escape(scanner *s)
{
    if (s->end - s->pos < 2) {
        return fail(s, "unfinished string");
    }
    switch (s->pos[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        s->pos += 2;
        return true;
    case 'u':
        break;
    default:
        return fail(s, "invalid escape");
    }
    int unit = hex4(s->pos + 2, s->end);
    if (unit < 0) {
        return fail(s, "invalid \\u escape");
    }
    if (unit >= 0xdc00 && unit <= 0xdfff) {
        return fail(s, "lone surrogate");
    }
    if (unit >= 0xd800 && unit <= 0xdbff) {
        if (s->end - s->pos < 12 || s->pos[6] != '\\' || s->pos[7] != 'u') {
            return fail(s, "lone surrogate");
        }
        int low = hex4(s->pos + 8, s->end);
        if (low < 0xdc00 || low > 0xdfff) {
            return fail(s, "lone surrogate");
        }
        s->pos += 6;
    }
    s->pos += 6;
    return true;
}

/* At the opening quote. */
static bool scan_string(scanner *s)
{
    s->pos++;
    for (;;) {
        s->pos = skip_plain(s->pos, s->end);
        if (s->pos == s->end) {
            return fail(s, "unfinished string");
        }
        uint8_t c = *s->pos;
        if (c == '"') {
            s->pos++;
            return true;
        }
        if (c == '\\') {
            if (!scan_escape(s)) {
                return false;
            }
        } else if (c < 0x20) {
            return fail(s, "control character in a string");
        } else {
            unsigned n = utf8_length(s->pos, s->end);
            if (n == 0) {
                return fail(s, "invalid UTF-8");
            }
            s->pos += n;
        }
    }
}

static bool scan_digits(scanner *s)
{
    const uint8_t *start = s->pos;

    while (s->pos < s->end && *s->pos >= '0' && *s->pos <= '9') {
        s->pos++;
    }
    return s->pos > start;
}

static bool scan_number(scanner *s)
{
    if (*s->pos == '-') {
        s->pos++;
    }
    if (s->pos < s->end && *s->pos == '0') {
        s->pos++;
    } else if (!scan_digits(s)) {
        return fail(s, "invalid number");
    }
    if (s->pos < s->end && *s->pos == '.') {
        s->pos++;
        if (!scan_digits(s)) {
            return fail(s, "invalid number");
        }
    }
    if (s->pos < s->end && (*s->pos | 0x20) == 'e') {
        s->pos++;
        if (s->pos < s->end && (*s->pos == '+' || *s->pos == '-')) {
            s->pos++;
        }
        if (!scan_digits(s)) {
            return fail(s, "invalid number");
        }
    }
    return true;
}

static bool scan_word(scanner *s, const char *word, size_t len)
{
    if ((size_t)(s->end - s->pos) < len || memcmp(s->pos, word, len) != 0) {
        return fail(s, "unexpected character");
    }
    s->pos += len;
    return true;
}

static bool scan_value(scanner *s, json_value *value);

/* After an element: is there another? False at the closing bracket, or with a
 * reason. */
static bool scan_comma(scanner *s, uint8_t close)
{
    skip_space(s);
    if (s->pos == s->end) {
        return fail(s, "unfinished document");
    }
    if (*s->pos == close) {
        s->pos++;
        return false;
    }
    if (*s->pos != ',') {
        return fail(s, "expected a comma or a closing bracket");
    }
    s->pos++;
    skip_space(s);
    return true;
}

/* After an opening bracket: is the container empty? */
static bool scan_close(scanner *s, uint8_t close)
{
    skip_space(s);
    if (s->pos < s->end && *s->pos == close) {
        s->pos++;
        return true;
    }
    return false;
}

static bool scan_array(scanner *s, uint32_t *count)
{
    json_value element;

    s->pos++;
    if (scan_close(s, ']')) {
        return true;
    }
    do {
        if (!scan_value(s, &element)) {
            return false;
        }
        ++*count;
    } while (scan_comma(s, ']'));
    return s->reason == NULL;
}

/* The name of a member and its colon; the raw text between the quotes. */
static bool scan_name(scanner *s, aiq_str *name)
{
    const uint8_t *start = s->pos + 1;

    if (s->pos == s->end || *s->pos != '"') {
        return fail(s, "expected a member name");
    }
    if (!scan_string(s)) {
        return false;
    }
    *name = (aiq_str){(const char *)start, (size_t)(s->pos - 1 - start)};
    skip_space(s);
    if (s->pos == s->end || *s->pos != ':') {
        return fail(s, "expected a colon");
    }
    s->pos++;
    skip_space(s);
    return true;
}

/* Is the raw text of a validated string, unescaped, the literal? */
static bool raw_is(aiq_str raw, const char *literal);

static const json_want *find_want(const json_want *wants, size_t n, aiq_str name)
{
    for (size_t i = 0; i < n; i++) {
        if (raw_is(name, wants[i].name)) {
            return &wants[i];
        }
    }
    return NULL;
}

static bool scan_object(scanner *s, uint32_t *count, const json_want *wants, size_t n)
{
    json_value value;
    aiq_str name;

    s->pos++;
    if (scan_close(s, '}')) {
        return true;
    }
    do {
        const uint8_t *start = s->pos;
        if (!scan_name(s, &name) || !scan_value(s, &value)) {
            return false;
        }
        ++*count;
        const json_want *want = n ? find_want(wants, n, name) : NULL;
        if (want) {
            if (want->value->type != JSON_NONE) {
                s->pos = start;
                return fail(s, "duplicate member");
            }
            *want->value = value;
        }
    } while (scan_comma(s, '}'));
    return s->reason == NULL;
}

static bool scan_container(scanner *s, json_value *value, const json_want *wants, size_t n)
{
    bool ok;

    if (s->depth == JSON_DEPTH_MAX) {
        return fail(s, "nested too deeply");
    }
    s->depth++;
    if (value->type == JSON_OBJECT) {
        ok = scan_object(s, &value->count, wants, n);
    } else {
        ok = scan_array(s, &value->count);
    }
    s->depth--;
    return ok;
}

/* At the value's first byte. */
static bool scan_value(scanner *s, json_value *value)
{
    const uint8_t *start = s->pos;
    bool ok;

    if (s->pos == s->end) {
        return fail(s, "unfinished document");
    }
    value->count = 0;
    switch (*s->pos) {
    case '"':
        value->type = JSON_STRING;
        ok = scan_string(s);
        break;
    case '{':
        value->type = JSON_OBJECT;
        ok = scan_container(s, value, NULL, 0);
        break;
    case '[':
        value->type = JSON_ARRAY;
        ok = scan_container(s, value, NULL, 0);
        break;
    case 't':
        value->type = JSON_TRUE;
        ok = scan_word(s, "true", 4);
        break;
    case 'f':
        value->type = JSON_FALSE;
        ok = scan_word(s, "false", 5);
        break;
    case 'n':
        value->type = JSON_NULL;
        ok = scan_word(s, "null", 4);
        break;
    case '-':
    case '0' ... '9':
        value->type = JSON_NUMBER;
        ok = scan_number(s);
        break;
    default:
        return fail(s, "unexpected character");
    }
    value->text = (aiq_str){(const char *)start, (size_t)(s->pos - start)};
    return ok;
}

/* The end of a document: nothing but white space may follow. */
static bool finish(scanner *s, bool ok, const char *text, json_error *error)
{
    if (ok) {
        skip_space(s);
        if (s->pos < s->end) {
            ok = fail(s, "text after the end of the document");
        }
    }
    if (!ok) {
        error->reason = s->reason;
        error->offset = (size_t)(s->pos - (const uint8_t *)text);
    }
    return ok;
}

bool json_scan(const char *text, size_t len, const json_want *wants, size_t n,
               json_error *error)
{
    scanner s = {(const uint8_t *)text, (const uint8_t *)text + len, 0, NULL};
    json_value value = {.type = JSON_OBJECT};

    for (size_t i = 0; i < n; i++) {
        *wants[i].value = (json_value){0};
    }
    skip_space(&s);
    if (s.pos == s.end || *s.pos != '{') {
        return finish(&s, fail(&s, "expected an object"), text, error);
    }
    return finish(&s, scan_container(&s, &value, wants, n), text, error);
}

bool json_valid(const char *text, size_t len, json_error *error)
{
    scanner s = {(const uint8_t *)text, (const uint8_t *)text + len, 0, NULL};
    json_value value;

    skip_space(&s);
    return finish(&s, scan_value(&s, &value), text, error);
}

/* Through a text that was validated before: only where its values end is to be found, and
 * strings are passed as fast as memchr() finds quotes. */

/* At the opening quote. */
static void pass_string(scanner *s)
{
    const uint8_t *quote = s->pos, *slash;

    do {
        quote = memchr(quote + 1, '"', (size_t)(s->end - quote - 1));
        if (quote == NULL) {
            s->pos = s->end;
            return;
        }
        for (slash = quote; slash[-1] == '\\'; slash--) {
        }
    } while ((quote - slash) % 2 == 1); /* escaped; pairs of backslashes are their own */
    s->pos = quote + 1;
}

/* At the opening bracket. */
static void pass_container(scanner *s, uint32_t *count)
{
    unsigned depth = 1;

    s->pos++;
    skip_space(s);
    /* the first element; each comma tells of another */
    *count = s->pos < s->end && *s->pos != '}' && *s->pos != ']';
    while (depth > 0 && s->pos < s->end) {
        uint8_t c = *s->pos;
        if (c == '"') {
            pass_string(s);
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        *count += c == ',' && depth == 1;
        s->pos++;
    }
}

static json_type type_of(uint8_t first)
{
    switch (first) {
    case '"':
        return JSON_STRING;
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

static bool pass_value(scanner *s, json_value *value)
{
    const uint8_t *start = s->pos;

    if (s->pos == s->end) {
        return false;
    }
    *value = (json_value){.type = type_of(*start)};
    if (value->type == JSON_STRING) {
        pass_string(s);
    } else if (value->type == JSON_OBJECT || value->type == JSON_ARRAY) {
        pass_container(s, &value->count);
    } else {
        while (s->pos<s->end && * s->pos> ' ' && *s->pos != ',' && *s->pos != '}' &&
               *s->pos != ']') {
            s->pos++;
        }
    }
    value->text = (aiq_str){(const char *)start, (size_t)(s->pos - start)};
    return true;
}

json_value json_root(aiq_str text)
{
    const char *start = memchr(text.data, '{', text.len);

    return (json_value){JSON_OBJECT, {start, text.len - (size_t)(start - text.data)}, 0};
}

bool json_each(const json_value *container, size_t *cursor, aiq_str *name, json_value *value)
{
    const uint8_t *start = (const uint8_t *)container->text.data;
    bool object = container->type == JSON_OBJECT;
    aiq_str ignored;

    if (!object && container->type != JSON_ARRAY) {
        return false; /* an absent value has no text */
    }
    scanner s = {start + *cursor, start + container->text.len, 0, NULL};
    if (*cursor == 0) {
        s.pos++;
        if (scan_close(&s, object ? '}' : ']')) {
            return false;
        }
    } else if (!scan_comma(&s, object ? '}' : ']')) {
        return false;
    }
    if ((object && !scan_name(&s, name ? name : &ignored)) || !pass_value(&s, value)) {
        return false;
    }
    *cursor = (size_t)(s.pos - start);
    return true;
}

void json_members(const json_value *object, const json_want *wants, size_t n)
{
    json_value value;
    size_t cursor = 0;
    aiq_str name;

    for (size_t i = 0; i < n; i++) {
        *wants[i].value = (json_value){0};
    }
    while (object->type == JSON_OBJECT && json_each(object, &cursor, &name, &value)) {
        const json_want *want = find_want(wants, n, name);
        if (want) {
            *want->value = value;
        }
    }
}

json_value json_member(const json_value *object, const char *name)
{
    json_value value;

    json_members(object, &(json_want){name, &value}, 1);
    return value;
}

static unsigned put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* Decodes the escape at raw (validated) into out; *n is its length in out.
 * Returns how many bytes of raw it took. */
static size_t unescape_one(const char *raw, char out[4], unsigned *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const uint8_t *p = (const uint8_t *)raw;

    if (raw[1] != 'u') {
        out[0] = to[strchr(from, raw[1]) - from];
        *n = 1;
        return 2;
    }
    uint32_t c = (uint32_t)hex4(p + 2, p + 6);
    if (c < 0xd800 || c > 0xdfff) {
        *n = put_utf8(out, c);
        return 6;
    }
    uint32_t low = (uint32_t)hex4(p + 8, p + 12);
    *n = put_utf8(out, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
    return 12;
}

static bool raw_is(aiq_str raw, const char *literal)
{
    size_t i = 0;

    while (i < raw.len && raw.data[i] != '\\') {
        if (raw.data[i] != *literal) {
            return false; /* also at the literal's end: raw holds no NUL */
        }
        i++;
        literal++;
    }
    while (i < raw.len) {
        char c[4];
        unsigned n = 1;
        if (raw.data[i] == '\\') {
            i += unescape_one(raw.data + i, c, &n);
        } else {
            c[0] = raw.data[i++];
        }
        if (strnlen(literal, n) < n || memcmp(literal, c, n) != 0) {
            return false;
        }
        literal += n;
    }
    return *literal == '\0';
}

static aiq_str between_quotes(const json_value *value)
{
    return (aiq_str){value->text.data + 1, value->text.len - 2};
}

aiq_str json_string(aiq_pool *pool, const json_value *value)
{
    if (value->type != JSON_STRING) {
        return (aiq_str){"", 0};
    }
    aiq_str raw = between_quotes(value);
    char *text = aiq_pool_alloc(pool, raw.len + 1), *out = text;
    const char *p = raw.data, *end = raw.data + raw.len;

    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        size_t n = (size_t)((slash ? slash : end) - p);
        memcpy(out, p, n);
        out += n;
        p += n;
        if (slash) {
            unsigned width;
            char c[4];
            p += unescape_one(p, c, &width);
            memcpy(out, c, width);
            out += width;
        }
    }
    *out = '\0';
    return (aiq_str){text, (size_t)(out - text)};
}

bool json_string_is(const json_value *value, const char *literal)
{
    return value->type == JSON_STRING && raw_is(between_quotes(value), literal);
}

bool json_int(const json_value *value, int64_t *out)
{
    if (value->type != JSON_NUMBER) {
        return false;
    }
    const char *p = value->text.data, *end = p + value->text.len;
    bool negative = *p == '-';
    int64_t n = 0; /* counted downwards: INT64_MIN has no positive twin */

    for (p += negative; p < end && *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_sub_overflow(n, *p - '0', &n)) {
            return false;
        }
    }
    if (p < end) {
        /* 1e3 and 2.0 are integers too, where a double holds them exactly */
        double real = json_real(value);
        if (!(fabs(real) <= 9007199254740992.0) || real != floor(real)) {
            return false;
        }
        *out = (int64_t)real;
        return true;
    }
    if (!negative && n == INT64_MIN) {
        return false;
    }
    *out = negative ? n : -n;
    return true;
}

double json_real(const json_value *value)
{
    char text[64];

    if (value->type != JSON_NUMBER) {
        return NAN;
    }
    /* The text is not NUL-terminated. 63 digits are more than a double tells
     * apart; a longer number is rare enough to copy elsewhere. */
    if (value->text.len < sizeof(text)) {
        memcpy(text, value->text.data, value->text.len);
        text[value->text.len] = '\0';
        return strtod(text, NULL);
    }
    char *copy = aiq_alloc(value->text.len + 1);
    memcpy(copy, value->text.data, value->text.len);
    copy[value->text.len] = '\0';
    double real = strtod(copy, NULL);
    free(copy);
    return real;
}

void json_quote(aiq_buf *out, const char *data, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    static const char names[0x20] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    const uint8_t *p = (const uint8_t *)(len ? data : ""), *end = p + len;

    aiq_buf_reserve(out, len + 2);
    aiq_buf_text(out, "\"");
    while (p < end) {
        const uint8_t *stop = skip_plain(p, end);
        aiq_buf_add(out, p, (size_t)(stop - p));
        p = stop;
        if (p == end) {
            break;
        }
        unsigned n = *p >= 0x80 ? utf8_length(p, end) : 1;
        if (n == 0) {
            aiq_buf_text(out, "\xef\xbf\xbd");
            n = 1;
        } else if (*p >= 0x80) {
            aiq_buf_add(out, p, n);
        } else if (*p >= 0x20) {
            aiq_buf_add(out, (const char[]){'\\', (char)*p}, 2);
        } else if (names[*p]) {
            aiq_buf_add(out, (const char[]){'\\', names[*p]}, 2);
        } else {
            aiq_buf_add(out, (const char[]){'\\', 'u', '0', '0', hex[*p >> 4], hex[*p & 15]},
                        6);
        }
        p += n;
    }
    aiq_buf_text(out, "\"");
}
