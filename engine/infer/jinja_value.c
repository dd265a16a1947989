/* What values are, how they print, compare and combine: Python's rules. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja_impl.h"
#include "infer/unicode.h"

const char jn_foreign[1] = {1};

/* --- failing, steps, memory --- */

value jn_fail(jinja_run *r, const char *format, ...)
{
    va_list ap;

    if (!r->failed) {
        va_start(ap, format);
        vsnprintf(r->error, sizeof(r->error), format, ap);
        va_end(ap);
        r->failed = true;
    }
    return jn_undefined(AIQ_STR(""));
}

bool jn_steps(jinja_run *r, size_t n)
{
    if (r->steps < (int64_t)n) {
        r->steps = 0;
        jn_fail(r, "it takes more than %d steps", JINJA_MAX_STEPS);
        return false;
    }
    r->steps -= (int64_t)n;
    return !r->failed;
}

void *jn_alloc(jinja_run *r, size_t size)
{
    if (size > r->memory) {
        jn_fail(r, "it needs more than %zu MiB of memory", JINJA_MAX_MEMORY >> 20);
        return NULL;
    }
    r->memory -= size;
    /* what is made costs time, too */
    return jn_steps(r, 1 + size / 64) ? aiq_pool_zalloc(r->pool, size + 1) : NULL;
}

/* --- making --- */

value jn_none(void)
{
    return (value){.type = V_NONE};
}

value jn_undefined(aiq_str name)
{
    return (value){.type = V_UNDEFINED, .s = {name.data, NULL, name.len}};
}

value jn_bool(bool b)
{
    return (value){.type = V_BOOL, .b = b};
}

value jn_int(int64_t i)
{
    return (value){.type = V_INT, .i = i};
}

value jn_float(double f)
{
    return (value){.type = V_FLOAT, .f = f};
}

value jn_text(text s)
{
    return (value){.type = V_TEXT, .s = s};
}

value jn_literal(const char *s)
{
    return jn_text((text){s, NULL, strlen(s)});
}

value jn_new_list(jinja_run *r, value_type type)
{
    list *l = jn_alloc(r, sizeof(*l));

    return l != NULL ? (value){.type = type, .l = l} : jn_undefined(AIQ_STR(""));
}

value jn_new_dict(jinja_run *r)
{
    dict *d = jn_alloc(r, sizeof(*d));

    return d != NULL ? (value){.type = V_DICT, .d = d} : jn_undefined(AIQ_STR(""));
}

/* --- text --- */

bool jn_is(text s, const char *literal)
{
    return s.len == strlen(literal) && memcmp(s.p, literal, s.len) == 0;
}

bool jn_same(text a, text b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

text jn_slice(text s, size_t from, size_t to)
{
    bool mixed = s.marks != NULL && s.marks != jn_foreign;

    if (from == to) {
        return (text){"", NULL, 0};
    }
    return (text){s.p + from, mixed ? s.marks + from : s.marks, to - from};
}

size_t jn_char(text s, size_t at)
{
    uint32_t cp;
    int n = utf8_next(s.p + at, s.len - at, &cp);

    return n > 0 ? (size_t)n : 1;
}

size_t jn_chars(text s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len; i += jn_char(s, i)) {
        n++;
    }
    return n;
}

/* Room for n more bytes. What is written for the output counts against its own limit. */
static bool reserve(jinja_run *r, builder *b, size_t n)
{
    size_t cap = b->cap > 0 ? b->cap * 2 : 256;
    char *p;

    if (n <= b->cap - b->len) {
        return jn_steps(r, n / 64);
    }
    cap = cap - b->len < n ? b->len + n : cap;
    p = jn_alloc(r, 2 * cap);
    if (p == NULL) {
        return false;
    }
    if (b->len > 0) {
        memcpy(p, b->p, b->len);
        memcpy(p + cap, b->marks, b->len);
    }
    b->p = p;
    b->marks = p + cap;
    b->cap = cap;
    return true;
}

void jn_add(jinja_run *r, builder *b, text s)
{
    if (s.len == 0 || !reserve(r, b, s.len)) {
        return;
    }
    memcpy(b->p + b->len, s.p, s.len);
    if (s.marks == NULL || s.marks == jn_foreign) {
        memset(b->marks + b->len, s.marks != NULL, s.len);
        b->any_foreign |= s.marks != NULL;
    } else {
        memcpy(b->marks + b->len, s.marks, s.len);
        b->any_foreign = true;
    }
    b->len += s.len;
}

void jn_add_char(jinja_run *r, builder *b, char c, bool foreign)
{
    jn_add(r, b, (text){&c, foreign ? jn_foreign : NULL, 1});
}

void jn_add_clean(jinja_run *r, builder *b, const char *s)
{
    jn_add(r, b, (text){s, NULL, strlen(s)});
}

text jn_finish(const builder *b)
{
    return (text){b->len > 0 ? b->p : "", b->any_foreign ? b->marks : NULL, b->len};
}

/* --- printing --- */

static void add_float(jinja_run *r, builder *b, double f)
{
    char s[40];

    if (!isfinite(f)) {
        jn_add_clean(r, b, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    /* the fewest digits that read back as f; exponents where Python has them */
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(s, sizeof(s), "%.*e", digits - 1, f);
        if (strtod(s, NULL) == f) {
            int exponent = atoi(strchr(s, 'e') + 1);

            if (exponent >= -4 && exponent < 16) {
                int after = digits - 1 - exponent;

                snprintf(s, sizeof(s), "%.*f", after > 1 ? after : 1, f);
            }
            break;
        }
    }
    jn_add_clean(r, b, s);
}

/* Python writes the others as escapes. */
static bool is_printable(uint32_t cp)
{
    return cp == ' ' || (!unicode_is_control(cp) && !unicode_is_space(cp));
}

static void repr_char(jinja_run *r, builder *b, text c, char quote)
{
    const char *name = c.p[0] != '\0' ? strchr("\nn\tt\rr", c.p[0]) : NULL;
    uint32_t cp = 0;
    char hex[12];

    if (c.p[0] == quote || c.p[0] == '\\') {
        jn_add_char(r, b, '\\', true);
        jn_add(r, b, c);
    } else if (name != NULL && c.p[0] < ' ') {
        jn_add_char(r, b, '\\', true);
        jn_add_char(r, b, name[1], true);
    } else if (utf8_next(c.p, c.len, &cp) <= 0 || is_printable(cp)) {
        jn_add(r, b, c);
    } else {
        snprintf(hex, sizeof(hex),
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 cp);
        jn_add_clean(r, b, hex);
    }
}

static void repr_text(jinja_run *r, builder *b, text s)
{
    bool single = s.len > 0 && memchr(s.p, '\'', s.len) != NULL;
    char quote = single && memchr(s.p, '"', s.len) == NULL ? '"' : '\'';

    jn_add_char(r, b, quote, false);
    for (size_t i = 0, n; i < s.len; i += n) {
        n = jn_char(s, i);
        repr_char(r, b, jn_slice(s, i, i + n), quote);
    }
    jn_add_char(r, b, quote, false);
}

static void repr_list(jinja_run *r, builder *b, const value *v)
{
    jn_add_char(r, b, v->type == V_LIST ? '[' : '(', false);
    for (size_t i = 0; i < v->l->n && !r->failed; i++) {
        jn_add_clean(r, b, i > 0 ? ", " : "");
        jn_repr(r, b, &v->l->v[i]);
    }
    jn_add_clean(r, b, v->type == V_LIST ? "]" : v->l->n == 1 ? ",)" : ")");
}

static void repr_dict(jinja_run *r, builder *b, const dict *d)
{
    jn_add_char(r, b, '{', false);
    for (size_t i = 0; i < d->n && !r->failed; i++) {
        jn_add_clean(r, b, i > 0 ? ", " : "");
        jn_repr(r, b, &d->v[i].key);
        jn_add_clean(r, b, ": ");
        jn_repr(r, b, &d->v[i].v);
    }
    jn_add_char(r, b, '}', false);
}

void jn_repr(jinja_run *r, builder *b, const value *v)
{
    char number[32];

    if (r->depth > JINJA_MAX_DEPTH * 4) {
        jn_fail(r, "a value is nested too deep");
        return;
    }
    r->depth++;
    switch (v->type) {
    case V_TEXT:
        repr_text(r, b, v->s);
        break;
    case V_NONE:
        jn_add_clean(r, b, "None");
        break;
    case V_BOOL:
        jn_add_clean(r, b, v->b ? "True" : "False");
        break;
    case V_INT:
        snprintf(number, sizeof(number), "%" PRId64, v->i);
        jn_add_clean(r, b, number);
        break;
    case V_FLOAT:
        add_float(r, b, v->f);
        break;
    case V_LIST:
    case V_TUPLE:
        repr_list(r, b, v);
        break;
    case V_DICT:
    case V_NAMESPACE:
        repr_dict(r, b, v->d);
        break;
    case V_UNDEFINED:
        jn_add_clean(r, b, "Undefined");
        break;
    default:
        jn_fail(r, "%s cannot be printed", jn_type_name(v));
    }
    r->depth--;
}

void jn_print(jinja_run *r, builder *b, const value *v)
{
    if (v->type == V_TEXT) {
        jn_add(r, b, v->s);
    } else if (v->type != V_UNDEFINED) {
        jn_repr(r, b, v);
    }
}

text jn_to_text(jinja_run *r, const value *v)
{
    builder b = {0};

    if (v->type == V_TEXT) {
        return v->s;
    }
    jn_print(r, &b, v);
    return jn_finish(&b);
}

const char *jn_type_name(const value *v)
{
    static const char *const names[] = {
        "an undefined value",
        "none",
        "a boolean",
        "an integer",
        "a float",
        "a string",
        "a list",
        "a tuple",
        "a dict",
        "a namespace",
        "loop",
        "a macro",
        "a method",
        "a function",
    };

    return names[v->type];
}

/* --- lists and dicts --- */

void jn_push(jinja_run *r, list *l, value v)
{
    if (l == NULL || r->failed) {
        return;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap > 0 ? l->cap * 2 : 8;
        value *grown = jn_alloc(r, cap * sizeof(*grown));

        if (grown == NULL) {
            return;
        }
        if (l->n > 0) {
            memcpy(grown, l->v, l->n * sizeof(*grown));
        }
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

const value *jn_find(jinja_run *r, const dict *d, text key)
{
    jn_steps(r, d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        if (d->v[i].key.type == V_TEXT && jn_same(d->v[i].key.s, key)) {
            return &d->v[i].v;
        }
    }
    return NULL;
}

const value *jn_find_value(jinja_run *r, const dict *d, const value *key)
{
    if (key->type == V_TEXT) {
        return jn_find(r, d, key->s);
    }
    for (size_t i = 0; i < d->n; i++) {
        if (d->v[i].key.type != V_TEXT && jn_equal(r, &d->v[i].key, key)) {
            return &d->v[i].v;
        }
    }
    return NULL;
}

void jn_put(jinja_run *r, dict *d, value key, value v)
{
    const value *old;

    if (d == NULL || r->failed) {
        return;
    }
    old = jn_find_value(r, d, &key);
    if (old != NULL) {
        d->v[(size_t)((const pair *)((const char *)old - offsetof(pair, v)) - d->v)].v = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap > 0 ? d->cap * 2 : 4;
        pair *grown = jn_alloc(r, cap * sizeof(*grown));

        if (grown == NULL) {
            return;
        }
        if (d->n > 0) {
            memcpy(grown, d->v, d->n * sizeof(*grown));
        }
        d->v = grown;
        d->cap = cap;
    }
    d->v[d->n++] = (pair){key, v};
}

/* --- truth and order --- */

bool jn_true(const value *v)
{
    switch (v->type) {
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_BOOL:
        return v->b;
    case V_INT:
        return v->i != 0;
    case V_FLOAT:
        return v->f != 0;
    case V_TEXT:
        return v->s.len > 0;
    case V_LIST:
    case V_TUPLE:
        return v->l->n > 0;
    case V_DICT:
        return v->d->n > 0;
    default:
        return true;
    }
}

bool jn_is_number(const value *v)
{
    return v->type == V_BOOL || v->type == V_INT || v->type == V_FLOAT;
}

double jn_number(const value *v)
{
    return v->type == V_FLOAT ? v->f : v->type == V_INT ? (double)v->i : v->b;
}

static int64_t integer(const value *v)
{
    return v->type == V_BOOL ? v->b : v->i;
}

static bool equal_lists(jinja_run *r, const list *a, const list *b)
{
    bool same = a->n == b->n;

    for (size_t i = 0; same && i < a->n; i++) {
        same = jn_equal(r, &a->v[i], &b->v[i]);
    }
    return same;
}

static bool equal_dicts(jinja_run *r, const dict *a, const dict *b)
{
    bool same = a->n == b->n;

    for (size_t i = 0; same && i < a->n; i++) {
        const value *other = jn_find_value(r, b, &a->v[i].key);

        same = other != NULL && jn_equal(r, &a->v[i].v, other);
    }
    return same;
}

bool jn_equal(jinja_run *r, const value *a, const value *b)
{
    bool same = false;

    if (!jn_steps(r, 1) || ++r->depth > JINJA_MAX_DEPTH * 4) {
        jn_fail(r, "a value is nested too deep");
        return false;
    }
    if (jn_is_number(a) && jn_is_number(b)) {
        same = a->type == V_FLOAT || b->type == V_FLOAT ? jn_number(a) == jn_number(b)
                                                        : integer(a) == integer(b);
    } else if (a->type == b->type) {
        switch (a->type) {
        case V_TEXT:
            same = jn_same(a->s, b->s);
            break;
        case V_LIST:
        case V_TUPLE:
            same = equal_lists(r, a->l, b->l);
            break;
        case V_DICT:
            same = equal_dicts(r, a->d, b->d);
            break;
        case V_NONE:
        case V_UNDEFINED:
            same = true;
            break;
        default:
            same = a->d == b->d;
        }
    }
    r->depth--;
    return same;
}

static int compare_text(text a, text b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n > 0 ? memcmp(a.p, b.p, n) : 0;

    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static int compare_lists(jinja_run *r, const list *a, const list *b)
{
    for (size_t i = 0; i < a->n && i < b->n && !r->failed; i++) {
        if (!jn_equal(r, &a->v[i], &b->v[i])) {
            return jn_compare(r, &a->v[i], &b->v[i]);
        }
    }
    return (a->n > b->n) - (a->n < b->n);
}

int jn_compare(jinja_run *r, const value *a, const value *b)
{
    int c = 0;

    if (!jn_steps(r, 1) || ++r->depth > JINJA_MAX_DEPTH * 4) {
        jn_fail(r, "a value is nested too deep");
        return 0;
    }
    if (jn_is_number(a) && jn_is_number(b)) {
        if (a->type == V_FLOAT || b->type == V_FLOAT) {
            c = (jn_number(a) > jn_number(b)) - (jn_number(a) < jn_number(b));
        } else {
            c = (integer(a) > integer(b)) - (integer(a) < integer(b));
        }
    } else if (a->type == V_TEXT && b->type == V_TEXT) {
        c = compare_text(a->s, b->s);
    } else if (a->type == b->type && (a->type == V_LIST || a->type == V_TUPLE)) {
        c = compare_lists(r, a->l, b->l);
    } else {
        jn_fail(r, "%s and %s have no order", jn_type_name(a), jn_type_name(b));
    }
    r->depth--;
    return c;
}

bool jn_contains(jinja_run *r, const value *container, const value *v)
{
    switch (container->type) {
    case V_TEXT:
        if (v->type != V_TEXT) {
            jn_fail(r, "%s cannot be in a string", jn_type_name(v));
            return false;
        }
        jn_steps(r, container->s.len / 64);
        return v->s.len == 0 ||
               memmem(container->s.p, container->s.len, v->s.p, v->s.len) != NULL;
    case V_LIST:
    case V_TUPLE:
        for (size_t i = 0; i < container->l->n && !r->failed; i++) {
            if (jn_equal(r, &container->l->v[i], v)) {
                return true;
            }
        }
        return false;
    case V_DICT:
        return jn_find_value(r, container->d, v) != NULL;
    case V_UNDEFINED:
        return false;
    default:
        jn_fail(r, "nothing can be in %s", jn_type_name(container));
        return false;
    }
}

const list *jn_items(jinja_run *r, const value *v)
{
    value l;

    if (v->type == V_LIST || v->type == V_TUPLE) {
        return v->l;
    }
    l = jn_new_list(r, V_LIST);
    if (r->failed) {
        return NULL;
    }
    if (v->type == V_TEXT) {
        for (size_t i = 0, n; i < v->s.len && !r->failed; i += n) {
            n = jn_char(v->s, i);
            jn_push(r, l.l, jn_text(jn_slice(v->s, i, i + n)));
        }
    } else if (v->type == V_DICT) {
        for (size_t i = 0; i < v->d->n; i++) {
            jn_push(r, l.l, v->d->v[i].key);
        }
    } else if (v->type != V_UNDEFINED) {
        jn_fail(r, "%s cannot be gone over", jn_type_name(v));
    }
    return r->failed ? NULL : l.l;
}

/* --- attributes --- */

static value loop_attribute(jinja_run *r, const loop *l, text name)
{
    /* kept beyond its loop, it says what the last round said */
    size_t n = l->items->n, at = l->at < n ? l->at : n - 1;

    if (jn_is(name, "index")) {
        return jn_int((int64_t)at + 1);
    }
    if (jn_is(name, "index0")) {
        return jn_int((int64_t)at);
    }
    if (jn_is(name, "revindex")) {
        return jn_int((int64_t)(n - at));
    }
    if (jn_is(name, "revindex0")) {
        return jn_int((int64_t)(n - at) - 1);
    }
    if (jn_is(name, "first") || jn_is(name, "last")) {
        return jn_bool(at == (name.p[0] == 'f' ? 0 : n - 1));
    }
    if (jn_is(name, "length")) {
        return jn_int((int64_t)n);
    }
    if (jn_is(name, "previtem")) {
        return at > 0 ? l->items->v[at - 1] : jn_undefined(AIQ_STR("loop.previtem"));
    }
    if (jn_is(name, "nextitem")) {
        return at + 1 < n ? l->items->v[at + 1] : jn_undefined(AIQ_STR("loop.nextitem"));
    }
    return jn_fail(r, "loop.%.*s is not supported", (int)name.len, name.p);
}

value jn_attribute(jinja_run *r, const value *v, text name)
{
    const value *found;
    value *self;

    if (v->type == V_UNDEFINED) {
        return jn_fail(r, "\"%.*s\" is undefined", (int)v->s.len, v->s.p);
    }
    if (v->type == V_LOOP) {
        return loop_attribute(r, v->loop, name);
    }
    if (jn_has_method(v, name)) {
        self = jn_alloc(r, sizeof(*self));
        if (self == NULL) {
            return jn_undefined(AIQ_STR(""));
        }
        *self = *v;
        return (value){.type = V_METHOD, .self = self, .s = name};
    }
    found = v->type == V_DICT || v->type == V_NAMESPACE ? jn_find(r, v->d, name) : NULL;
    return found != NULL ? *found : jn_undefined((aiq_str){name.p, name.len});
}

/* --- for the program around it --- */

static jinja_value *keep(jinja_run *r, value v)
{
    jinja_value *p = jn_alloc(r, sizeof(*p));

    if (p != NULL) {
        *p = v;
    }
    return p;
}

jinja_value *jinja_text(jinja_run *r, const char *p, size_t len, bool foreign)
{
    return keep(r, jn_text((text){len > 0 ? p : "", foreign ? jn_foreign : NULL, len}));
}

jinja_value *jinja_bool(jinja_run *r, bool b)
{
    return keep(r, jn_bool(b));
}

jinja_value *jinja_list(jinja_run *r)
{
    return keep(r, jn_new_list(r, V_LIST));
}

jinja_value *jinja_dict(jinja_run *r)
{
    return keep(r, jn_new_dict(r));
}

/* A value that could not be made is NULL, and the run has failed. */
void jinja_list_add(jinja_run *r, jinja_value *l, const jinja_value *v)
{
    if (l != NULL && v != NULL) {
        jn_push(r, l->l, *v);
    }
}

void jinja_dict_set(jinja_run *r, jinja_value *d, const char *key, const jinja_value *v)
{
    if (d != NULL && v != NULL) {
        jn_put(r, d->d, jn_literal(key), *v);
    }
}
