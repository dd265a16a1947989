/* Filters and tests. Those that a method does are the method. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja_impl.h"

static const dict no_names;
static const args no_args = {.names = &no_names};

static value call_method(jinja_run *r, const value *v, const char *name, const args *a)
{
    value s = jn_text(jn_to_text(r, v));

    return r->failed ? jn_none() : jn_call_method(r, &s, (text){name, NULL, strlen(name)}, a);
}

/* --- strings --- */

static value f_upper(jinja_run *r, const value *v, const args *a)
{
    return call_method(r, v, "upper", a);
}

static value f_lower(jinja_run *r, const value *v, const args *a)
{
    return call_method(r, v, "lower", a);
}

static value f_capitalize(jinja_run *r, const value *v, const args *a)
{
    return call_method(r, v, "capitalize", a);
}

static value f_title(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return jn_text(jn_title(r, jn_to_text(r, v)));
}

static value f_trim(jinja_run *r, const value *v, const args *a)
{
    const value *chars = jn_arg(a, 0, "chars");
    text s = jn_to_text(r, v);

    if (chars != NULL && chars->type != V_TEXT && chars->type != V_NONE) {
        return jn_fail(r, "trim: chars must be a string");
    }
    return jn_text(
        jn_strip(s, chars != NULL && chars->type == V_TEXT ? &chars->s : NULL, true, true));
}

static value f_replace(jinja_run *r, const value *v, const args *a)
{
    const value *count = jn_arg(a, 2, "count"), *from = jn_arg(a, 0, "old"),
                *to = jn_arg(a, 1, "new");

    if (from == NULL || to == NULL) {
        return jn_fail(r, "replace needs two strings");
    }
    return jn_replace(r, jn_to_text(r, v), jn_to_text(r, from), jn_to_text(r, to),
                      count != NULL && count->type == V_INT ? count->i : -1);
}

static value f_string(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return jn_text(jn_to_text(r, v));
}

static value f_safe(jinja_run *r, const value *v, const args *a)
{
    return f_string(r, v, a);
}

static value f_escape(jinja_run *r, const value *v, const args *a)
{
    static const char *const all[][2] = {
        {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
    value s = jn_text(jn_to_text(r, v));

    (void)a;
    for (size_t i = 0; i < sizeof(all) / sizeof(*all) && !r->failed; i++) {
        s = jn_replace(r, s.s, (text){all[i][0], NULL, 1},
                       (text){all[i][1], NULL, strlen(all[i][1])}, -1);
    }
    return s;
}

static value f_indent(jinja_run *r, const value *v, const args *a)
{
    const value *width = jn_arg(a, 0, "width"), *first = jn_arg(a, 1, "first"),
                *blank = jn_arg(a, 2, "blank");
    value four = jn_int(4), space = jn_literal(" "), fill;
    bool at_first = true;
    text s = jn_to_text(r, v), line;
    builder b = {0};

    fill = width != NULL && width->type == V_TEXT
               ? *width
               : jn_binary(r, OP_MUL, &space, width != NULL ? width : &four);
    for (size_t from = 0, to; from <= s.len && !r->failed; from = to + 1, at_first = false) {
        const char *end = from < s.len ? memchr(s.p + from, '\n', s.len - from) : NULL;

        to = end != NULL ? (size_t)(end - s.p) : s.len;
        line = jn_slice(s, from, to);
        if (!at_first) {
            jn_add(r, &b, jn_slice(s, from - 1, from));
        }
        if (at_first ? first != NULL && jn_true(first)
                     : line.len > 0 || (blank != NULL && jn_true(blank))) {
            jn_add(r, &b, fill.s);
        }
        jn_add(r, &b, line);
    }
    return jn_text(jn_finish(&b));
}

/* --- numbers --- */

static value f_int(jinja_run *r, const value *v, const args *a)
{
    const value *otherwise = jn_arg(a, 0, "default");
    char copy[64], *end;
    text s;
    int64_t i;

    if (jn_is_number(v)) {
        if (v->type == V_FLOAT && (!isfinite(v->f) || fabs(v->f) > 9e18)) {
            return jn_fail(r, "an integer is too large");
        }
        return jn_int(v->type == V_FLOAT ? (int64_t)v->f : v->type == V_INT ? v->i : v->b);
    }
    s = v->type == V_TEXT ? jn_strip(v->s, NULL, true, true) : (text){"", NULL, 0};
    if (s.len > 0 && s.len < sizeof(copy)) {
        memcpy(copy, s.p, s.len);
        copy[s.len] = '\0';
        errno = 0;
        i = strtoll(copy, &end, 10);
        if (*end == '\0' && errno == 0) {
            return jn_int(i);
        }
        double f = strtod(copy, &end);
        if (*end == '\0' && fabs(f) < 9e18) {
            return jn_int((int64_t)f);
        }
    }
    return otherwise != NULL ? *otherwise : jn_int(0);
}

static value f_float(jinja_run *r, const value *v, const args *a)
{
    const value *otherwise = jn_arg(a, 0, "default");
    char copy[64], *end;
    double f;

    (void)r;
    if (jn_is_number(v)) {
        return jn_float(jn_number(v));
    }
    if (v->type == V_TEXT && v->s.len > 0 && v->s.len < sizeof(copy)) {
        memcpy(copy, v->s.p, v->s.len);
        copy[v->s.len] = '\0';
        f = strtod(copy, &end);
        if (*end == '\0') {
            return jn_float(f);
        }
    }
    return otherwise != NULL ? *otherwise : jn_float(0);
}

static value f_abs(jinja_run *r, const value *v, const args *a)
{
    value zero = jn_int(0);

    (void)a;
    if (!jn_is_number(v)) {
        return jn_fail(r, "%s has no absolute value", jn_type_name(v));
    }
    return jn_number(v) < 0 ? jn_binary(r, OP_SUB, &zero, v) : *v;
}

/* The number's own digits decide, as Python has it, not those of its product with 10 ** n. */
static double round_to(double f, int64_t places)
{
    char digits[400];

    if (places > 60 || !isfinite(f)) {
        return f;
    }
    snprintf(digits, sizeof(digits), "%.*f", (int)places, f);
    return strtod(digits, NULL);
}

static value f_round(jinja_run *r, const value *v, const args *a)
{
    const value *precision = jn_arg(a, 0, "precision"), *how = jn_arg(a, 1, "method");
    int64_t places = precision != NULL && precision->type == V_INT ? precision->i : 0;
    double scale, f;

    if (!jn_is_number(v) || (precision != NULL && precision->type != V_INT)) {
        return jn_fail(r, "round needs numbers");
    }
    scale = pow(10, (double)places);
    f = jn_number(v) * scale;
    if (how != NULL && how->type == V_TEXT && jn_is(how->s, "ceil")) {
        return jn_float(ceil(f) / scale);
    }
    if (how != NULL && how->type == V_TEXT && jn_is(how->s, "floor")) {
        return jn_float(floor(f) / scale);
    }
    if (v->type != V_FLOAT && places >= 0) {
        return jn_int(v->type == V_INT ? v->i : v->b);
    }
    return jn_float(places >= 0 ? round_to(v->f, places) : nearbyint(f) / scale);
}

/* --- any value --- */

static value f_default(jinja_run *r, const value *v, const args *a)
{
    const value *otherwise = jn_arg(a, 0, "default_value"), *boolean = jn_arg(a, 1, "boolean");

    (void)r;
    if (v->type == V_UNDEFINED || (boolean != NULL && jn_true(boolean) && !jn_true(v))) {
        return otherwise != NULL ? *otherwise : jn_literal("");
    }
    return *v;
}

static value f_length(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    switch (v->type) {
    case V_UNDEFINED:
        return jn_int(0);
    case V_TEXT:
        jn_steps(r, v->s.len / 64);
        return jn_int((int64_t)jn_chars(v->s));
    case V_LIST:
    case V_TUPLE:
        return jn_int((int64_t)v->l->n);
    case V_DICT:
        return jn_int((int64_t)v->d->n);
    default:
        return jn_fail(r, "%s has no length", jn_type_name(v));
    }
}

/* --- lists --- */

static value f_list(jinja_run *r, const value *v, const args *a)
{
    const list *l = jn_items(r, v);
    value out = jn_new_list(r, V_LIST);

    (void)a;
    for (size_t i = 0; !r->failed && i < l->n; i++) {
        jn_push(r, out.l, l->v[i]);
    }
    return out;
}

static value end_of(jinja_run *r, const value *v, bool last)
{
    const list *l = jn_items(r, v);

    if (l == NULL || l->n == 0) {
        return jn_undefined(AIQ_STR("an empty list's element"));
    }
    return l->v[last ? l->n - 1 : 0];
}

static value f_first(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return end_of(r, v, false);
}

static value f_last(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return end_of(r, v, true);
}

/* a.b.0 of v, as filters name it; v itself where no attribute is given. */
static value by_path(jinja_run *r, value v, const value *path)
{
    text rest;

    if (path == NULL || path->type == V_NONE) {
        return v;
    }
    if (path->type == V_INT) {
        return jn_subscript(r, &v, path);
    }
    if (path->type != V_TEXT) {
        return jn_fail(r, "an attribute must be a string");
    }
    for (rest = path->s; rest.len > 0 && !r->failed;) {
        const char *dot = memchr(rest.p, '.', rest.len);
        size_t n = dot != NULL ? (size_t)(dot - rest.p) : rest.len;
        value key = jn_text(jn_slice(rest, 0, n)), number = f_int(r, &key, &no_args);

        if (n > 0 && rest.p[0] >= '0' && rest.p[0] <= '9') {
            key = number;
        }
        v = jn_subscript(r, &v, &key);
        rest = jn_slice(rest, dot != NULL ? n + 1 : n, rest.len);
    }
    return v;
}

static value f_join(jinja_run *r, const value *v, const args *a)
{
    const value *d = jn_arg(a, 0, "d"), *attribute = jn_arg(a, 1, "attribute");
    const list *l = jn_items(r, v);
    builder b = {0};

    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value item = by_path(r, l->v[i], attribute);

        if (i > 0 && d != NULL) {
            jn_print(r, &b, d);
        }
        jn_print(r, &b, &item);
    }
    return jn_text(jn_finish(&b));
}

static value f_reverse(jinja_run *r, const value *v, const args *a)
{
    value none = jn_none(), back = jn_int(-1), l;

    (void)a;
    if (v->type == V_TEXT) {
        return jn_cut(r, v, &none, &none, &back);
    }
    l = f_list(r, v, &no_args);
    return r->failed ? l : jn_cut(r, &l, &none, &none, &back);
}

static value folded(jinja_run *r, value v, bool fold)
{
    return fold && v.type == V_TEXT ? f_lower(r, &v, &no_args) : v;
}

typedef struct {
    value key;
    value v;
    size_t at;
} sortable;

typedef struct {
    jinja_run *r;
    int sign;
} sort_order;

/* Equals keep their order, backwards too. */
static int by_sort_key(const void *x, const void *y, void *arg)
{
    const sort_order *order = arg;
    const sortable *a = x, *b = y;
    int c = order->r->failed ? 0 : order->sign * jn_compare(order->r, &a->key, &b->key);

    return c != 0 ? c : (a->at > b->at) - (a->at < b->at);
}

static value sort(jinja_run *r, const list *l, const value *attribute, bool fold, bool reverse)
{
    sortable *all = l != NULL ? jn_alloc(r, l->n * sizeof(*all)) : NULL;
    value out = jn_new_list(r, V_LIST);
    sort_order order = {r, reverse ? -1 : 1};

    if (all == NULL || r->failed) {
        return jn_none();
    }
    for (size_t i = 0; i < l->n; i++) {
        all[i] = (sortable){folded(r, by_path(r, l->v[i], attribute), fold), l->v[i], i};
    }
    qsort_r(all, l->n, sizeof(*all), by_sort_key, &order);
    for (size_t i = 0; i < l->n; i++) {
        jn_push(r, out.l, all[i].v);
    }
    return out;
}

static bool flag(const args *a, size_t at, const char *name)
{
    const value *v = jn_arg(a, at, name);

    return v != NULL && jn_true(v);
}

static value f_sort(jinja_run *r, const value *v, const args *a)
{
    return sort(r, jn_items(r, v), jn_arg(a, 2, "attribute"), !flag(a, 1, "case_sensitive"),
                flag(a, 0, "reverse"));
}

static value f_items(jinja_run *r, const value *v, const args *a)
{
    if (v->type == V_UNDEFINED) {
        return jn_new_list(r, V_LIST);
    }
    if (v->type != V_DICT) {
        return jn_fail(r, "%s has no items", jn_type_name(v));
    }
    return jn_call_method(r, v, (text){"items", NULL, 5}, a);
}

static value f_dictsort(jinja_run *r, const value *v, const args *a)
{
    const value *by = jn_arg(a, 1, "by");
    value at = jn_int(by != NULL && by->type == V_TEXT && jn_is(by->s, "value")),
          items = f_items(r, v, &no_args);

    return r->failed
               ? items
               : sort(r, items.l, &at, !flag(a, 0, "case_sensitive"), flag(a, 2, "reverse"));
}

static value f_unique(jinja_run *r, const value *v, const args *a)
{
    const value *attribute = jn_arg(a, 1, "attribute");
    bool fold = !flag(a, 0, "case_sensitive");
    const list *l = jn_items(r, v);
    value seen = jn_new_list(r, V_LIST), out = jn_new_list(r, V_LIST);

    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value key = folded(r, by_path(r, l->v[i], attribute), fold);

        if (!jn_contains(r, &seen, &key)) {
            jn_push(r, seen.l, key);
            jn_push(r, out.l, l->v[i]);
        }
    }
    return out;
}

static value f_sum(jinja_run *r, const value *v, const args *a)
{
    const value *attribute = jn_arg(a, 0, "attribute"), *start = jn_arg(a, 1, "start");
    const list *l = jn_items(r, v);
    value out = start != NULL ? *start : jn_int(0);

    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value item = by_path(r, l->v[i], attribute);

        out = jn_binary(r, OP_ADD, &out, &item);
    }
    return out;
}

static value extreme(jinja_run *r, const value *v, const args *a, int sign)
{
    const value *attribute = jn_arg(a, 1, "attribute");
    bool fold = !flag(a, 0, "case_sensitive");
    const list *l = jn_items(r, v);
    value best = jn_undefined(AIQ_STR("an empty list's element")), best_key = best;

    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value key = folded(r, by_path(r, l->v[i], attribute), fold);

        if (i == 0 || sign * jn_compare(r, &key, &best_key) > 0) {
            best = l->v[i];
            best_key = key;
        }
    }
    return best;
}

static value f_max(jinja_run *r, const value *v, const args *a)
{
    return extreme(r, v, a, 1);
}

static value f_min(jinja_run *r, const value *v, const args *a)
{
    return extreme(r, v, a, -1);
}

/* What follows the first skip arguments. */
static args rest_of(const args *a, size_t skip)
{
    size_t n = a->n < skip ? a->n : skip;

    return (args){a->v + n, a->n - n, a->names};
}

static value f_map(jinja_run *r, const value *v, const args *a)
{
    const value *attribute = jn_arg(a, SIZE_MAX, "attribute"),
                *otherwise = jn_arg(a, SIZE_MAX, "default");
    const filter_entry *f = NULL;
    const list *l = jn_items(r, v);
    value out = jn_new_list(r, V_LIST);
    args rest = rest_of(a, 1);

    if (attribute == NULL) {
        f = a->n > 0 && a->v[0].type == V_TEXT
                ? jn_find_filter((aiq_str){a->v[0].s.p, a->v[0].s.len})
                : NULL;
        if (f == NULL) {
            return jn_fail(r, "map needs an attribute or the name of a filter");
        }
    }
    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value item = f != NULL ? f->fn(r, &l->v[i], &rest) : by_path(r, l->v[i], attribute);

        jn_push(r, out.l, item.type == V_UNDEFINED && otherwise != NULL ? *otherwise : item);
    }
    return out;
}

/* Elements whose attribute (or themselves) meet a test, or what is true without one. */
static value choose(jinja_run *r, const value *v, const args *a, bool attribute, bool keep)
{
    size_t at = attribute ? 1 : 0;
    args rest = rest_of(a, at + 1);
    const value *name = a->n > at ? &a->v[at] : NULL;
    const test_entry *t = name != NULL && name->type == V_TEXT
                              ? jn_find_test((aiq_str){name->s.p, name->s.len})
                              : NULL;
    const list *l = jn_items(r, v);
    value out = jn_new_list(r, V_LIST);

    if ((name != NULL && t == NULL) || (attribute && a->n == 0)) {
        return jn_fail(r, "the name of a test is missing or not supported");
    }
    for (size_t i = 0; !r->failed && i < l->n; i++) {
        value item = attribute ? by_path(r, l->v[i], &a->v[0]) : l->v[i];

        if ((t != NULL ? t->fn(r, &item, &rest) : jn_true(&item)) == keep) {
            jn_push(r, out.l, l->v[i]);
        }
    }
    return out;
}

static value f_select(jinja_run *r, const value *v, const args *a)
{
    return choose(r, v, a, false, true);
}

static value f_reject(jinja_run *r, const value *v, const args *a)
{
    return choose(r, v, a, false, false);
}

static value f_selectattr(jinja_run *r, const value *v, const args *a)
{
    return choose(r, v, a, true, true);
}

static value f_rejectattr(jinja_run *r, const value *v, const args *a)
{
    return choose(r, v, a, true, false);
}

const filter_entry *jn_find_filter(aiq_str name)
{
    static const filter_entry all[] = {
        {"abs", f_abs},
        {"capitalize", f_capitalize},
        {"count", f_length},
        {"d", f_default},
        {"default", f_default},
        {"dictsort", f_dictsort},
        {"e", f_escape},
        {"escape", f_escape},
        {"first", f_first},
        {"float", f_float},
        {"indent", f_indent},
        {"int", f_int},
        {"items", f_items},
        {"join", f_join},
        {"last", f_last},
        {"length", f_length},
        {"list", f_list},
        {"lower", f_lower},
        {"map", f_map},
        {"max", f_max},
        {"min", f_min},
        {"reject", f_reject},
        {"rejectattr", f_rejectattr},
        {"replace", f_replace},
        {"reverse", f_reverse},
        {"round", f_round},
        {"safe", f_safe},
        {"select", f_select},
        {"selectattr", f_selectattr},
        {"sort", f_sort},
        {"string", f_string},
        {"sum", f_sum},
        {"title", f_title},
        {"tojson", jn_tojson},
        {"trim", f_trim},
        {"unique", f_unique},
        {"upper", f_upper},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (aiq_str_is(name, all[i].name)) {
            return &all[i];
        }
    }
    return NULL;
}

/* --- tests --- */

#define TYPE_TEST(name, condition)                                                             \
    static bool name(jinja_run *r, const value *v, const args *a)                              \
    {                                                                                          \
        (void)r;                                                                               \
        (void)a;                                                                               \
        return condition;                                                                      \
    }

TYPE_TEST(t_defined, v->type != V_UNDEFINED)
TYPE_TEST(t_undefined, v->type == V_UNDEFINED)
TYPE_TEST(t_none, v->type == V_NONE)
TYPE_TEST(t_string, v->type == V_TEXT)
TYPE_TEST(t_mapping, v->type == V_DICT)
TYPE_TEST(t_sequence, v->type == V_TEXT || v->type == V_LIST || v->type == V_TUPLE ||
                          v->type == V_DICT || v->type == V_UNDEFINED)
TYPE_TEST(t_number, jn_is_number(v))
TYPE_TEST(t_integer, v->type == V_INT)
TYPE_TEST(t_float, v->type == V_FLOAT)
TYPE_TEST(t_boolean, v->type == V_BOOL)
TYPE_TEST(t_true, v->type == V_BOOL && v->b)
TYPE_TEST(t_false, v->type == V_BOOL && !v->b)
TYPE_TEST(t_callable, v->type == V_MACRO || v->type == V_METHOD || v->type == V_FUNCTION)

static bool divides(jinja_run *r, const value *v, int64_t by, int64_t rest)
{
    if (v->type != V_INT || by == 0) {
        jn_fail(r, "only integers are odd, even or divisible");
        return false;
    }
    return by == -1 || (v->i % by + (v->i % by < 0 ? llabs(by) : 0)) == rest;
}

static bool t_odd(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return divides(r, v, 2, 1);
}

static bool t_even(jinja_run *r, const value *v, const args *a)
{
    (void)a;
    return divides(r, v, 2, 0);
}

static bool t_divisibleby(jinja_run *r, const value *v, const args *a)
{
    return divides(r, v, a->n > 0 && a->v[0].type == V_INT ? a->v[0].i : 0, 0);
}

static const value *other(jinja_run *r, const args *a)
{
    if (a->n == 0) {
        jn_fail(r, "a test lacks its argument");
        return NULL;
    }
    return &a->v[0];
}

static bool t_eq(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_equal(r, v, o);
}

static bool t_ne(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && !jn_equal(r, v, o);
}

static bool t_lt(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_compare(r, v, o) < 0;
}

static bool t_le(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_compare(r, v, o) <= 0;
}

static bool t_gt(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_compare(r, v, o) > 0;
}

static bool t_ge(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_compare(r, v, o) >= 0;
}

static bool t_in(jinja_run *r, const value *v, const args *a)
{
    const value *o = other(r, a);

    return o != NULL && jn_contains(r, o, v);
}

const test_entry *jn_find_test(aiq_str name)
{
    static const test_entry all[] = {
        {"defined", t_defined},
        {"undefined", t_undefined},
        {"none", t_none},
        {"string", t_string},
        {"mapping", t_mapping},
        {"iterable", t_sequence},
        {"sequence", t_sequence},
        {"number", t_number},
        {"integer", t_integer},
        {"float", t_float},
        {"boolean", t_boolean},
        {"true", t_true},
        {"false", t_false},
        {"callable", t_callable},
        {"odd", t_odd},
        {"even", t_even},
        {"divisibleby", t_divisibleby},
        {"eq", t_eq},
        {"equalto", t_eq},
        {"sameas", t_eq},
        {"ne", t_ne},
        {"lt", t_lt},
        {"lessthan", t_lt},
        {"le", t_le},
        {"gt", t_gt},
        {"greaterthan", t_gt},
        {"ge", t_ge},
        {"==", t_eq},
        {"!=", t_ne},
        {"<", t_lt},
        {"<=", t_le},
        {">", t_gt},
        {">=", t_ge},
        {"in", t_in},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (aiq_str_is(name, all[i].name)) {
            return &all[i];
        }
    }
    return NULL;
}
