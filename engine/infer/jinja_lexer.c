/*
 * Source to tokens. White space around tags is settled here, as trim_blocks and lstrip_blocks
 * say: a line break behind a block is dropped, and so is the indentation before one; '-' at a
 * tag's end drops all white space on that side, '+' keeps it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja_impl.h"
#include "infer/unicode.h"

typedef struct {
    compiler *c;
    const char *p;
    size_t len;
    size_t at;
    uint32_t line;
    token *tokens;
    size_t n;
    size_t cap;
    bool line_begins; /* what comes is at the beginning of a line */
    unsigned open;    /* brackets inside the tag */
} lexer;

bool jn_error(compiler *c, uint32_t line, const char *format, ...)
{
    va_list ap;
    int n;

    if (!c->failed) {
        n = snprintf(c->err, c->errlen, "line %u: ", line);
        va_start(ap, format);
        vsnprintf(c->err + n, c->errlen - (size_t)n, format, ap);
        va_end(ap);
        c->failed = true;
    }
    return false;
}

static token *push(lexer *x, token_type type)
{
    if (x->n == x->cap) {
        size_t cap = x->cap > 0 ? x->cap * 2 : 256;
        token *grown = aiq_pool_zalloc(x->c->pool, cap * sizeof(*grown));

        if (x->n > 0) {
            memcpy(grown, x->tokens, x->n * sizeof(*grown));
        }
        x->tokens = grown;
        x->cap = cap;
    }
    x->tokens[x->n] = (token){.type = type, .line = x->line};
    return &x->tokens[x->n++];
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool starts(const lexer *x, const char *s)
{
    size_t n = strlen(s);

    return n <= x->len - x->at && memcmp(x->p + x->at, s, n) == 0;
}

static void advance(lexer *x, size_t n)
{
    for (; n > 0; n--) {
        x->line += x->p[x->at++] == '\n';
    }
}

/* The bytes before the tag at end that stay. */
static size_t trimmed(const lexer *x, size_t from, size_t end, char sign, bool block)
{
    size_t i = end;

    if (sign == '-') {
        while (i > from && is_space(x->p[i - 1])) {
            i--;
        }
        return i;
    }
    if (sign == '+' || !block) {
        return end;
    }
    while (i > from && is_space(x->p[i - 1]) && x->p[i - 1] != '\n') {
        i--;
    }
    return (i > from && x->p[i - 1] == '\n') || (i == from && x->line_begins) ? i : end;
}

static size_t find_tag(const lexer *x)
{
    for (size_t i = x->at; i + 1 < x->len; i++) {
        if (x->p[i] == '{' && memchr("{%#", x->p[i + 1], 3) != NULL) {
            return i;
        }
    }
    return x->len;
}

/* Behind a tag that ended with or without '-' (or '+'). */
static void after_tag(lexer *x, char sign, bool block)
{
    x->line_begins = false;
    if (sign == '-') {
        while (x->at < x->len && is_space(x->p[x->at])) {
            x->line_begins = x->p[x->at] == '\n';
            advance(x, 1);
        }
    } else if (block && sign != '+' && x->at < x->len && x->p[x->at] == '\n') {
        advance(x, 1);
        x->line_begins = true;
    }
}

static bool comment(lexer *x)
{
    const char *end = memmem(x->p + x->at, x->len - x->at, "#}", 2);
    char sign;

    if (end == NULL) {
        return jn_error(x->c, x->line, "a comment does not end");
    }
    sign = end[-1];
    advance(x, (size_t)(end + 2 - (x->p + x->at)));
    after_tag(x, sign, true);
    return true;
}

/* Text up to the next tag, and the tag's beginning. */
static bool outside(lexer *x)
{
    size_t from = x->at, tag = find_tag(x), end = tag;
    char kind = 0, sign = 0;
    token *t;

    if (tag < x->len) {
        kind = x->p[tag + 1];
        sign = tag + 2 < x->len ? x->p[tag + 2] : 0;
        end = trimmed(x, from, tag, sign, kind != '{');
    }
    if (end > from) {
        t = push(x, T_DATA);
        t->s = (aiq_str){x->p + from, end - from};
    }
    advance(x, tag - from);
    if (tag == x->len) {
        return true;
    }
    advance(x, 2);
    if (kind == '#') {
        return comment(x);
    }
    advance(x, sign == '-' || (sign == '+' && kind == '%'));
    push(x, kind == '%' ? T_BLOCK_BEGIN : T_OUTPUT_BEGIN);
    x->open = 0;
    return true;
}

static bool is_name(char c, bool first)
{
    return c == '_' || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
           (!first && c >= '0' && c <= '9');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits(const lexer *x, size_t i)
{
    while (i < x->len &&
           (is_digit(x->p[i]) || (x->p[i] == '_' && i + 1 < x->len && is_digit(x->p[i + 1])))) {
        i++;
    }
    return i;
}

static bool number(lexer *x)
{
    size_t end = digits(x, x->at), n = 0;
    char copy[64];
    bool real = false;
    token *t;

    if (end + 1 < x->len && x->p[end] == '.' && is_digit(x->p[end + 1])) {
        end = digits(x, end + 1);
        real = true;
    }
    if (end < x->len && (x->p[end] | 0x20) == 'e') {
        size_t i = end + 1 + (end + 1 < x->len && strchr("+-", x->p[end + 1]) != NULL);

        if (i < x->len && is_digit(x->p[i])) {
            end = digits(x, i);
            real = true;
        }
    }
    for (size_t i = x->at; i < end && n + 1 < sizeof(copy); i++) {
        copy[n] = x->p[i];
        n += x->p[i] != '_';
    }
    copy[n] = '\0';
    t = push(x, real ? T_FLOAT : T_INT);
    errno = 0;
    t->f = strtod(copy, NULL);
    t->i = real ? 0 : strtoll(copy, NULL, 10);
    if ((!real && errno == ERANGE) || end - x->at >= sizeof(copy)) {
        return jn_error(x->c, x->line, "a number is too large");
    }
    advance(x, end - x->at);
    return true;
}

/* The character of \x, \u and \U with so many digits; false: there are fewer. */
static bool hex(const char *p, size_t len, size_t n, uint32_t *cp)
{
    *cp = 0;
    for (size_t i = 0; i < n; i++) {
        char c = i < len ? (char)(p[i] | 0x20) : 0;

        if (!is_digit(c) && !(c >= 'a' && c <= 'f')) {
            return false;
        }
        *cp = *cp << 4 | (uint32_t)(is_digit(c) ? c - '0' : c - 'a' + 10);
    }
    return *cp <= 0x10ffff && (*cp < 0xd800 || *cp > 0xdfff);
}

/* One escape at p, behind its backslash, into out. Returns the bytes read, 0: a bad one. */
static size_t unescape(const char *p, size_t len, char *out, size_t *n)
{
    static const char names[] = "ntr\\'\"abfv0", values[] = "\n\t\r\\'\"\a\b\f\v";
    const char *found = strchr(names, p[0]);
    size_t n_hex = p[0] == 'x' ? 2 : p[0] == 'u' ? 4 : p[0] == 'U' ? 8 : 0;
    uint32_t cp;

    if (p[0] == '\n') {
        return 1;
    }
    if (n_hex > 0) {
        if (!hex(p + 1, len - 1, n_hex, &cp)) {
            return 0;
        }
        *n += utf8_put(cp, out + *n);
        return 1 + n_hex;
    }
    if (p[0] != '\0' && found != NULL) {
        out[(*n)++] = values[found - names];
        return 1;
    }
    /* Python keeps the backslash of what is no escape */
    out[(*n)++] = '\\';
    out[(*n)++] = p[0];
    return 1;
}

static bool string(lexer *x)
{
    char quote = x->p[x->at];
    size_t i = x->at + 1, n = 0, step;
    char *out;
    token *t;

    while (i < x->len && x->p[i] != quote) {
        i += x->p[i] == '\\' ? 2 : 1;
    }
    if (i >= x->len) {
        return jn_error(x->c, x->line, "a string does not end");
    }
    out = aiq_pool_alloc(x->c->pool, i - x->at + 1);
    for (size_t k = x->at + 1; k < i;) {
        if (x->p[k] != '\\') {
            out[n++] = x->p[k++];
            continue;
        }
        step = unescape(x->p + k + 1, i - k - 1, out, &n);
        if (step == 0) {
            return jn_error(x->c, x->line, "a string has a malformed escape");
        }
        k += 1 + step;
    }
    t = push(x, T_STRING);
    t->s = (aiq_str){out, n};
    advance(x, i + 1 - x->at);
    return true;
}

static bool sign(lexer *x)
{
    static const char *const all[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*",
                                      "/",  "%",  "~",  "<",  ">",  "=",  "|", ".", ",",
                                      ":",  "(",  ")",  "[",  "]",  "{",  "}"};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (starts(x, all[i])) {
            token *t = push(x, T_SIGN);

            t->s = (aiq_str){all[i], strlen(all[i])};
            x->open += strchr("([{", all[i][0]) != NULL;
            x->open -= x->open > 0 && strchr(")]}", all[i][0]) != NULL;
            advance(x, t->s.len);
            return true;
        }
    }
    return jn_error(x->c, x->line, "an unexpected character in a tag");
}

/* Is the tag's end here? Then it is behind us. */
static bool tag_end(lexer *x, bool block)
{
    const char *end = block ? "%}" : "}}";
    char s = x->p[x->at];
    size_t skip = s == '-' || (s == '+' && block) ? 1 : 0;

    if (x->open > 0 || x->len - x->at < skip + 2 || memcmp(x->p + x->at + skip, end, 2) != 0) {
        return false;
    }
    push(x, block ? T_BLOCK_END : T_OUTPUT_END);
    advance(x, skip + 2);
    after_tag(x, skip > 0 ? s : 0, block);
    return true;
}

static bool inside(lexer *x, bool block)
{
    char c;

    while (x->at < x->len) {
        c = x->p[x->at];
        if (is_space(c)) {
            advance(x, 1);
        } else if (tag_end(x, block)) {
            return true;
        } else if (is_name(c, true)) {
            size_t end = x->at;
            token *t = push(x, T_NAME);

            while (end < x->len && is_name(x->p[end], false)) {
                end++;
            }
            t->s = (aiq_str){x->p + x->at, end - x->at};
            advance(x, end - x->at);
        } else if (is_digit(c)) {
            number(x);
        } else if (c == '\'' || c == '"') {
            string(x);
        } else {
            sign(x);
        }
        if (x->c->failed) {
            return false;
        }
    }
    return jn_error(x->c, x->line, "a tag does not end");
}

/* Line breaks as \n, and without the last one. */
static void normalise(lexer *x, const char *source, size_t len)
{
    char *out = aiq_pool_alloc(x->c->pool, len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r') {
            out[n++] = '\n';
            i += i + 1 < len && source[i + 1] == '\n';
        } else {
            out[n++] = source[i];
        }
    }
    x->p = out;
    x->len = n > 0 && out[n - 1] == '\n' ? n - 1 : n;
}

token *jn_scan(compiler *c, const char *source, size_t len)
{
    lexer x = {.c = c, .line = 1, .line_begins = true};

    if (len > JINJA_MAX_SOURCE) {
        jn_error(c, 1, "the template is longer than %zu bytes", JINJA_MAX_SOURCE);
        return NULL;
    }
    normalise(&x, source, len);
    while (!c->failed && x.at < x.len) {
        outside(&x);
        if (!c->failed && x.n > 0 && x.tokens[x.n - 1].type == T_BLOCK_BEGIN) {
            inside(&x, true);
        } else if (!c->failed && x.n > 0 && x.tokens[x.n - 1].type == T_OUTPUT_BEGIN) {
            inside(&x, false);
        }
    }
    push(&x, T_END);
    return c->failed ? NULL : x.tokens;
}
