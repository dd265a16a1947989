/* What can be called: methods of strings, dicts and lists, and the functions. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "infer/jinja_impl.h"
#include "infer/unicode.h"

#define MAX_RANGE 100000

typedef value (*method)(jinja_run *r, const value *self, const args *a);

typedef struct {
    const char *name;
    method fn;
} entry;

/* --- arguments --- */

/* The string at a position; false, and the run has failed, if it is something else. */
static bool want_text(jinja_run *r, const args *a, size_t at, text *out)
{
    if (at < a->n && a->v[at].type == V_TEXT) {
        *out = a->v[at].s;
        return true;
    }
    jn_fail(r, "a method needs a string");
    return false;
}

static int64_t count_arg(jinja_run *r, const args *a, size_t at, const char *name)
{
    const value *v = jn_arg(a, at, name);

    if (v != NULL && v->type != V_INT) {
        jn_fail(r, "%s must be an integer", name);
    }
    return v != NULL && v->type == V_INT ? v->i : -1;
}

/* --- strings --- */

static bool is_blank(text s, size_t at, size_t n)
{
    uint32_t cp = 0;

    return utf8_next(s.p + at, n, &cp) > 0 &&
           (unicode_is_space(cp) || (cp >= 0x1c && cp <= 0x1f));
}

static bool is_stripped(text s, size_t at, size_t n, const text *chars)
{
    return chars == NULL ? is_blank(s, at, n)
                         : chars->len > 0 && memmem(chars->p, chars->len, s.p + at, n) != NULL;
}

text jn_strip(text s, const text *chars, bool left, bool right)
{
    size_t from = 0, to = s.len;

    while (left && from < to) {
        size_t n = jn_char(s, from);

        if (!is_stripped(s, from, n, chars)) {
            break;
        }
        from += n;
    }
    while (right && to > from) {
        size_t at = to - 1;

        while (at > from && ((uint8_t)s.p[at] & 0xc0) == 0x80) {
            at--;
        }
        if (!is_stripped(s, at, to - at, chars)) {
            break;
        }
        to = at;
    }
    return jn_slice(s, from, to);
}

static value strip(jinja_run *r, const value *self, const args *a, bool left, bool right)
{
    text chars;

    if (a->n == 0 || a->v[0].type == V_NONE) {
        return jn_text(jn_strip(self->s, NULL, left, right));
    }
    return want_text(r, a, 0, &chars) ? jn_text(jn_strip(self->s, &chars, left, right))
                                      : jn_none();
}

static value m_strip(jinja_run *r, const value *self, const args *a)
{
    return strip(r, self, a, true, true);
}

static value m_lstrip(jinja_run *r, const value *self, const args *a)
{
    return strip(r, self, a, true, false);
}

static value m_rstrip(jinja_run *r, const value *self, const args *a)
{
    return strip(r, self, a, false, true);
}

/* Words between white space; behind the last split what is left stays whole. */
static value split_blanks(jinja_run *r, text s, int64_t max)
{
    value out = jn_new_list(r, V_LIST);

    for (s = jn_strip(s, NULL, true, false); s.len > 0 && !r->failed;
         s = jn_strip(s, NULL, true, false)) {
        size_t end = 0;

        if (max >= 0 && (int64_t)out.l->n == max) {
            jn_push(r, out.l, jn_text(s));
            break;
        }
        while (end < s.len && !is_blank(s, end, jn_char(s, end))) {
            end += jn_char(s, end);
        }
        jn_push(r, out.l, jn_text(jn_slice(s, 0, end)));
        s = jn_slice(s, end, s.len);
    }
    return out;
}

static size_t find(text s, size_t from, text what)
{
    const char *p =
        what.len == 0 ? s.p + from : memmem(s.p + from, s.len - from, what.p, what.len);

    return p != NULL ? (size_t)(p - s.p) : SIZE_MAX;
}

/* The last occurrence that ends by to. */
static size_t find_last(text s, size_t to, text what)
{
    for (size_t i = to + 1 - (what.len < to + 1 ? what.len : to + 1); i > 0; i--) {
        if (what.len <= to && memcmp(s.p + i - 1, what.p, what.len) == 0 &&
            i - 1 + what.len <= to) {
            return i - 1;
        }
    }
    return SIZE_MAX;
}

static value m_split(jinja_run *r, const value *self, const args *a)
{
    const value *sep = jn_arg(a, 0, "sep");
    int64_t max = count_arg(r, a, 1, "maxsplit");
    value out;
    size_t from = 0, at;

    if (sep == NULL || sep->type == V_NONE) {
        return split_blanks(r, self->s, max);
    }
    if (sep->type != V_TEXT || sep->s.len == 0) {
        return jn_fail(r, "split needs a string that is not empty");
    }
    out = jn_new_list(r, V_LIST);
    while (!r->failed && (max < 0 || (int64_t)out.l->n < max) &&
           (at = find(self->s, from, sep->s)) != SIZE_MAX) {
        jn_push(r, out.l, jn_text(jn_slice(self->s, from, at)));
        from = at + sep->s.len;
    }
    jn_push(r, out.l, jn_text(jn_slice(self->s, from, self->s.len)));
    return out;
}

static value m_rsplit(jinja_run *r, const value *self, const args *a)
{
    int64_t max = count_arg(r, a, 1, "maxsplit");
    value out = jn_new_list(r, V_LIST);
    size_t to = self->s.len, at;
    text sep;

    if (!want_text(r, a, 0, &sep) || sep.len == 0 || r->failed) {
        return jn_fail(r, "rsplit needs a string that is not empty");
    }
    while (!r->failed && (max < 0 || (int64_t)out.l->n < max) &&
           (at = find_last(self->s, to, sep)) != SIZE_MAX) {
        jn_steps(r, (to - at) / 8);
        jn_push(r, out.l, jn_text(jn_slice(self->s, at + sep.len, to)));
        to = at;
    }
    jn_push(r, out.l, jn_text(jn_slice(self->s, 0, to)));
    for (size_t i = 0; !r->failed && i < out.l->n / 2; i++) {
        value v = out.l->v[i];

        out.l->v[i] = out.l->v[out.l->n - 1 - i];
        out.l->v[out.l->n - 1 - i] = v;
    }
    return out;
}

static value m_splitlines(jinja_run *r, const value *self, const args *a)
{
    value out = jn_new_list(r, V_LIST);
    text s = self->s;
    size_t from = 0;

    (void)a;
    for (size_t i = 0; i < s.len && !r->failed; i++) {
        if (s.p[i] == '\n' || s.p[i] == '\r') {
            jn_push(r, out.l, jn_text(jn_slice(s, from, i)));
            i += s.p[i] == '\r' && i + 1 < s.len && s.p[i + 1] == '\n';
            from = i + 1;
        }
    }
    if (from < s.len) {
        jn_push(r, out.l, jn_text(jn_slice(s, from, s.len)));
    }
    return out;
}

static bool has_affix(text s, text affix, bool end)
{
    return affix.len <= s.len &&
           jn_same(end ? jn_slice(s, s.len - affix.len, s.len) : jn_slice(s, 0, affix.len),
                   affix);
}

/* One of several will do, too. */
static value affix(jinja_run *r, const value *self, const args *a, bool end)
{
    text s;

    if (a->n > 0 && a->v[0].type == V_TUPLE) {
        for (size_t i = 0; i < a->v[0].l->n; i++) {
            const value *v = &a->v[0].l->v[i];

            if (v->type == V_TEXT && has_affix(self->s, v->s, end)) {
                return jn_bool(true);
            }
        }
        return jn_bool(false);
    }
    return want_text(r, a, 0, &s) ? jn_bool(has_affix(self->s, s, end)) : jn_none();
}

static value m_startswith(jinja_run *r, const value *self, const args *a)
{
    return affix(r, self, a, false);
}

static value m_endswith(jinja_run *r, const value *self, const args *a)
{
    return affix(r, self, a, true);
}

static value m_removeprefix(jinja_run *r, const value *self, const args *a)
{
    text s;

    if (!want_text(r, a, 0, &s)) {
        return jn_none();
    }
    return jn_text(has_affix(self->s, s, false) ? jn_slice(self->s, s.len, self->s.len)
                                                : self->s);
}

static value m_removesuffix(jinja_run *r, const value *self, const args *a)
{
    text s;

    if (!want_text(r, a, 0, &s)) {
        return jn_none();
    }
    return jn_text(has_affix(self->s, s, true) ? jn_slice(self->s, 0, self->s.len - s.len)
                                               : self->s);
}

value jn_replace(jinja_run *r, text s, text from, text to, int64_t count)
{
    builder b = {0};
    size_t done = 0, at;

    if (from.len == 0) {
        return jn_fail(r, "nothing cannot be replaced");
    }
    while (!r->failed && count != 0 && (at = find(s, done, from)) != SIZE_MAX) {
        jn_add(r, &b, jn_slice(s, done, at));
        jn_add(r, &b, to);
        done = at + from.len;
        count -= count > 0;
        jn_steps(r, 1);
    }
    jn_add(r, &b, jn_slice(s, done, s.len));
    return jn_text(jn_finish(&b));
}

static value m_replace(jinja_run *r, const value *self, const args *a)
{
    text from, to;

    if (!want_text(r, a, 0, &from) || !want_text(r, a, 1, &to)) {
        return jn_none();
    }
    return jn_replace(r, self->s, from, to, count_arg(r, a, 2, "count"));
}

static value m_find(jinja_run *r, const value *self, const args *a)
{
    size_t at;
    text s;

    if (!want_text(r, a, 0, &s)) {
        return jn_none();
    }
    at = find(self->s, 0, s);
    return jn_int(at == SIZE_MAX ? -1 : (int64_t)jn_chars(jn_slice(self->s, 0, at)));
}

static value m_rfind(jinja_run *r, const value *self, const args *a)
{
    size_t at;
    text s;

    if (!want_text(r, a, 0, &s)) {
        return jn_none();
    }
    at = find_last(self->s, self->s.len, s);
    return jn_int(at == SIZE_MAX ? -1 : (int64_t)jn_chars(jn_slice(self->s, 0, at)));
}

static value m_count(jinja_run *r, const value *self, const args *a)
{
    int64_t n = 0;
    text s;

    if (!want_text(r, a, 0, &s)) {
        return jn_none();
    }
    if (s.len == 0) {
        return jn_int((int64_t)jn_chars(self->s) + 1);
    }
    for (size_t at = 0; (at = find(self->s, at, s)) != SIZE_MAX; at += s.len) {
        n++;
    }
    return jn_int(n);
}

static value m_join(jinja_run *r, const value *self, const args *a)
{
    const list *l = a->n > 0 ? jn_items(r, &a->v[0]) : NULL;
    builder b = {0};

    if (l == NULL) {
        return jn_fail(r, "join needs a list");
    }
    for (size_t i = 0; i < l->n && !r->failed; i++) {
        if (l->v[i].type != V_TEXT) {
            return jn_fail(r, "join needs strings");
        }
        if (i > 0) {
            jn_add(r, &b, self->s);
        }
        jn_add(r, &b, l->v[i].s);
    }
    return jn_text(jn_finish(&b));
}

/* ASCII only: upper, lower, the first letter of all, of each run of letters, or of each word
 * behind a blank, a hyphen or a bracket. */
typedef enum { TO_UPPER, TO_LOWER, TO_CAPITALIZED, TO_TITLE, TO_TITLE_WORDS } letter_case;

static value recase(jinja_run *r, text s, letter_case to)
{
    builder b = {0};
    bool inside = false;

    for (size_t i = 0; i < s.len && !r->failed; i++) {
        char c = s.p[i];
        bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
        bool upper =
            to == TO_UPPER || (to == TO_CAPITALIZED && i == 0) || (to >= TO_TITLE && !inside);
        text piece = jn_slice(s, i, i + 1);
        char changed = (char)(upper ? c & ~0x20 : c | 0x20);

        if (letter) {
            piece.p = &changed;
        }
        jn_add(r, &b, piece);
        inside = to == TO_TITLE ? letter || (uint8_t)c >= 0x80
                                : c != '\0' && strchr(" \t\n\v\f\r-({[<", c) == NULL;
    }
    return jn_text(jn_finish(&b));
}

text jn_title(jinja_run *r, text s)
{
    return recase(r, s, TO_TITLE_WORDS).s;
}

static value m_upper(jinja_run *r, const value *self, const args *a)
{
    (void)a;
    return recase(r, self->s, TO_UPPER);
}

static value m_lower(jinja_run *r, const value *self, const args *a)
{
    (void)a;
    return recase(r, self->s, TO_LOWER);
}

static value m_capitalize(jinja_run *r, const value *self, const args *a)
{
    (void)a;
    return recase(r, self->s, TO_CAPITALIZED);
}

static value m_title(jinja_run *r, const value *self, const args *a)
{
    (void)a;
    return recase(r, self->s, TO_TITLE);
}

static value m_isdigit(jinja_run *r, const value *self, const args *a)
{
    (void)r;
    (void)a;
    for (size_t i = 0; i < self->s.len; i++) {
        if (self->s.p[i] < '0' || self->s.p[i] > '9') {
            return jn_bool(false);
        }
    }
    return jn_bool(self->s.len > 0);
}

static const entry text_methods[] = {
    {"strip", m_strip},
    {"lstrip", m_lstrip},
    {"rstrip", m_rstrip},
    {"split", m_split},
    {"rsplit", m_rsplit},
    {"splitlines", m_splitlines},
    {"startswith", m_startswith},
    {"endswith", m_endswith},
    {"removeprefix", m_removeprefix},
    {"removesuffix", m_removesuffix},
    {"replace", m_replace},
    {"find", m_find},
    {"rfind", m_rfind},
    {"count", m_count},
    {"join", m_join},
    {"upper", m_upper},
    {"lower", m_lower},
    {"capitalize", m_capitalize},
    {"title", m_title},
    {"isdigit", m_isdigit},
    {NULL, NULL},
};

/* --- dicts and lists --- */

static value m_items(jinja_run *r, const value *self, const args *a)
{
    value out = jn_new_list(r, V_LIST);

    (void)a;
    for (size_t i = 0; i < self->d->n && !r->failed; i++) {
        value two = jn_new_list(r, V_TUPLE);

        if (!r->failed) {
            jn_push(r, two.l, self->d->v[i].key);
            jn_push(r, two.l, self->d->v[i].v);
            jn_push(r, out.l, two);
        }
    }
    return out;
}

static value m_keys(jinja_run *r, const value *self, const args *a)
{
    value out = jn_new_list(r, V_LIST);

    (void)a;
    for (size_t i = 0; i < self->d->n && !r->failed; i++) {
        jn_push(r, out.l, self->d->v[i].key);
    }
    return out;
}

static value m_values(jinja_run *r, const value *self, const args *a)
{
    value out = jn_new_list(r, V_LIST);

    (void)a;
    for (size_t i = 0; i < self->d->n && !r->failed; i++) {
        jn_push(r, out.l, self->d->v[i].v);
    }
    return out;
}

static value m_get(jinja_run *r, const value *self, const args *a)
{
    const value *found;

    if (a->n == 0) {
        return jn_fail(r, "get needs a key");
    }
    found = jn_find_value(r, self->d, &a->v[0]);
    if (found != NULL) {
        return *found;
    }
    return a->n > 1 ? a->v[1] : jn_none();
}

static const entry dict_methods[] = {
    {"items", m_items}, {"keys", m_keys}, {"values", m_values}, {"get", m_get}, {NULL, NULL},
};

static value list_find(jinja_run *r, const value *self, const args *a, bool all)
{
    int64_t n = 0;

    for (size_t i = 0; a->n > 0 && i < self->l->n && !r->failed; i++) {
        if (jn_equal(r, &self->l->v[i], &a->v[0])) {
            if (!all) {
                return jn_int((int64_t)i);
            }
            n++;
        }
    }
    return all ? jn_int(n) : jn_fail(r, "the list has no such element");
}

static value m_index(jinja_run *r, const value *self, const args *a)
{
    return list_find(r, self, a, false);
}

static value m_list_count(jinja_run *r, const value *self, const args *a)
{
    return list_find(r, self, a, true);
}

static const entry list_methods[] = {
    {"index", m_index},
    {"count", m_list_count},
    {NULL, NULL},
};

static method find_method(const value *v, text name)
{
    const entry *e = v->type == V_TEXT                         ? text_methods
                     : v->type == V_DICT                       ? dict_methods
                     : v->type == V_LIST || v->type == V_TUPLE ? list_methods
                                                               : NULL;

    while (e != NULL && e->name != NULL && !jn_is(name, e->name)) {
        e++;
    }
    return e != NULL ? e->fn : NULL;
}

bool jn_has_method(const value *v, text name)
{
    return find_method(v, name) != NULL;
}

value jn_call_method(jinja_run *r, const value *self, text name, const args *a)
{
    return find_method(self, name)(r, self, a);
}

/* --- functions --- */

static value f_range(jinja_run *r, const value *self, const args *a)
{
    value out = jn_new_list(r, V_LIST);
    int64_t bounds[3] = {0, 0, 1}, n = 0;

    (void)self;
    for (size_t i = 0; i < a->n && i < 3; i++) {
        if (a->v[i].type != V_INT || a->v[i].i > INT32_MAX || a->v[i].i < INT32_MIN) {
            return jn_fail(r, "range needs integers");
        }
        bounds[i] = a->v[i].i;
    }
    if (a->n == 1) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    if (a->n == 0 || bounds[2] == 0) {
        return jn_fail(r, "range needs a bound, and a step that is not 0");
    }
    for (int64_t i = bounds[0]; !r->failed && (bounds[2] > 0 ? i < bounds[1] : i > bounds[1]);
         i += bounds[2]) {
        if (++n > MAX_RANGE) {
            return jn_fail(r, "a range has more than %d elements", MAX_RANGE);
        }
        jn_push(r, out.l, jn_int(i));
    }
    return out;
}

static value from_names(jinja_run *r, const args *a, value_type type)
{
    value out = jn_new_dict(r);

    if (a->n > 0 && a->v[0].type == V_DICT) {
        for (size_t i = 0; i < a->v[0].d->n && !r->failed; i++) {
            jn_put(r, out.d, a->v[0].d->v[i].key, a->v[0].d->v[i].v);
        }
    }
    for (size_t i = 0; i < a->names->n && !r->failed; i++) {
        jn_put(r, out.d, a->names->v[i].key, a->names->v[i].v);
    }
    if (!r->failed) {
        out.type = type;
    }
    return out;
}

static value f_namespace(jinja_run *r, const value *self, const args *a)
{
    (void)self;
    return from_names(r, a, V_NAMESPACE);
}

static value f_dict(jinja_run *r, const value *self, const args *a)
{
    (void)self;
    return from_names(r, a, V_DICT);
}

static value f_raise_exception(jinja_run *r, const value *self, const args *a)
{
    text s = a->n > 0 ? jn_to_text(r, &a->v[0]) : (text){"", NULL, 0};

    (void)self;
    r->raised = !r->failed;
    return jn_fail(r, "%.*s", (int)(s.len < 200 ? s.len : 200), s.p);
}

static value f_strftime_now(jinja_run *r, const value *self, const args *a)
{
    char format[64], out[256];
    struct tm tm;
    text s;
    char *copy;
    size_t n;

    (void)self;
    if (!want_text(r, a, 0, &s) || s.len >= sizeof(format)) {
        return jn_fail(r, "strftime_now needs a short format");
    }
    memcpy(format, s.p, s.len);
    format[s.len] = '\0';
    localtime_r(&r->now, &tm);
    n = strftime(out, sizeof(out), format, &tm);
    copy = jn_alloc(r, n);
    if (copy == NULL) {
        return jn_none();
    }
    memcpy(copy, out, n);
    return jn_text((text){copy, s.marks != NULL ? jn_foreign : NULL, n});
}

static const entry functions[] = {
    {"range", f_range},
    {"namespace", f_namespace},
    {"dict", f_dict},
    {"raise_exception", f_raise_exception},
    {"strftime_now", f_strftime_now},
    {NULL, NULL},
};

static method find_function(text name)
{
    const entry *e = functions;

    while (e->name != NULL && !jn_is(name, e->name)) {
        e++;
    }
    return e->fn;
}

bool jn_has_function(text name)
{
    return find_function(name) != NULL;
}

value jn_call_function(jinja_run *r, text name, const args *a)
{
    return find_function(name)(r, NULL, a);
}
