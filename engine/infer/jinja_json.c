/* JSON out, as Python's json.dumps writes it, and in. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja_impl.h"
#include "infer/unicode.h"

typedef struct {
    jinja_run *r;
    builder b;
    text indent; /* of one level; p NULL: all on one line */
    text item;   /* between elements */
    text colon;
    bool ascii;
    bool sorted;
} writer;

static void write_value(writer *w, const value *v, int level);

static void add_ascii(writer *w, uint32_t cp)
{
    char s[16];

    if (cp >= 0x10000) {
        cp -= 0x10000;
        snprintf(s, sizeof(s), "\\u%04x\\u%04x", 0xd800 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
    } else {
        snprintf(s, sizeof(s), "\\u%04x", cp);
    }
    jn_add_clean(w->r, &w->b, s);
}

static void write_text(writer *w, text s)
{
    static const char names[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    size_t n;

    jn_add_char(w->r, &w->b, '"', false);
    for (size_t i = 0; i < s.len && !w->r->failed; i += n) {
        char c = s.p[i];
        uint32_t cp = (uint8_t)c;
        const char *name = NULL;

        n = 1;
        for (const char *p = names; *p != '\0' && name == NULL; p += 2) {
            name = *p == c ? p + 1 : NULL;
        }
        if (name != NULL) {
            jn_add_char(w->r, &w->b, '\\', true);
            jn_add_char(w->r, &w->b, *name, true);
        } else if ((uint8_t)c < ' ') {
            add_ascii(w, cp);
        } else if (w->ascii && (uint8_t)c >= 0x80) {
            n = jn_char(s, i);
            utf8_next(s.p + i, s.len - i, &cp);
            add_ascii(w, cp);
        } else {
            jn_add(w->r, &w->b, jn_slice(s, i, i + 1));
        }
    }
    jn_add_char(w->r, &w->b, '"', false);
}

static void new_line(writer *w, int level)
{
    if (w->indent.p == NULL) {
        return;
    }
    jn_add_char(w->r, &w->b, '\n', false);
    for (int i = 0; i < level; i++) {
        jn_add(w->r, &w->b, w->indent);
    }
}

static void write_list(writer *w, const list *l, int level)
{
    jn_add_char(w->r, &w->b, '[', false);
    for (size_t i = 0; i < l->n && !w->r->failed; i++) {
        if (i > 0) {
            jn_add(w->r, &w->b, w->item);
        }
        new_line(w, level + 1);
        write_value(w, &l->v[i], level + 1);
    }
    if (l->n > 0) {
        new_line(w, level);
    }
    jn_add_char(w->r, &w->b, ']', false);
}

/* Keys are strings in JSON. */
static void write_key(writer *w, const value *key)
{
    writer inner = *w;

    if (key->type == V_TEXT) {
        write_text(w, key->s);
        return;
    }
    inner.b = (builder){0};
    write_value(&inner, key, 0);
    write_text(w, jn_finish(&inner.b));
}

static int by_key(const void *a, const void *b, void *arg)
{
    return jn_compare(arg, &(*(const pair *const *)a)->key, &(*(const pair *const *)b)->key);
}

static void write_dict(writer *w, const dict *d, int level)
{
    const pair **order = jn_alloc(w->r, d->n * sizeof(*order));

    if (order == NULL) {
        return;
    }
    for (size_t i = 0; i < d->n; i++) {
        order[i] = &d->v[i];
    }
    if (w->sorted) {
        qsort_r(order, d->n, sizeof(*order), by_key, w->r);
    }
    jn_add_char(w->r, &w->b, '{', false);
    for (size_t i = 0; i < d->n && !w->r->failed; i++) {
        if (i > 0) {
            jn_add(w->r, &w->b, w->item);
        }
        new_line(w, level + 1);
        write_key(w, &order[i]->key);
        jn_add(w->r, &w->b, w->colon);
        write_value(w, &order[i]->v, level + 1);
    }
    if (d->n > 0) {
        new_line(w, level);
    }
    jn_add_char(w->r, &w->b, '}', false);
}

static void write_float(writer *w, const value *v)
{
    if (isfinite(v->f)) {
        jn_repr(w->r, &w->b, v);
    } else {
        jn_add_clean(w->r, &w->b, isnan(v->f) ? "NaN" : v->f > 0 ? "Infinity" : "-Infinity");
    }
}

static void write_value(writer *w, const value *v, int level)
{
    if (level > JINJA_MAX_DEPTH || !jn_steps(w->r, 1)) {
        jn_fail(w->r, "a value is nested too deep");
        return;
    }
    switch (v->type) {
    case V_NONE:
        jn_add_clean(w->r, &w->b, "null");
        break;
    case V_BOOL:
        jn_add_clean(w->r, &w->b, v->b ? "true" : "false");
        break;
    case V_INT:
        jn_repr(w->r, &w->b, v);
        break;
    case V_FLOAT:
        write_float(w, v);
        break;
    case V_TEXT:
        write_text(w, v->s);
        break;
    case V_LIST:
    case V_TUPLE:
        write_list(w, v->l, level);
        break;
    case V_DICT:
        write_dict(w, v->d, level);
        break;
    default:
        jn_fail(w->r, "%s cannot be written as JSON", jn_type_name(v));
    }
}

static void set_indent(writer *w, const value *indent)
{
    builder b = {0};

    if (indent == NULL || indent->type == V_NONE) {
        return;
    }
    if (indent->type == V_TEXT) {
        w->indent = indent->s;
    } else if (indent->type == V_INT && indent->i <= 64) {
        for (int64_t i = 0; i < indent->i; i++) {
            jn_add_char(w->r, &b, ' ', false);
        }
        w->indent = jn_finish(&b);
    } else {
        jn_fail(w->r, "tojson: indent must be a string, or an integer up to 64");
    }
    w->item = (text){",", NULL, 1};
}

static bool is_text(const value *v)
{
    return v->type == V_TEXT;
}

value jn_tojson(jinja_run *r, const value *v, const args *a)
{
    writer w = {.r = r, .item = {", ", NULL, 2}, .colon = {": ", NULL, 2}};
    const value *ascii = jn_arg(a, 0, "ensure_ascii");
    const value *separators = jn_arg(a, 2, "separators");
    const value *sorted = jn_arg(a, 3, "sort_keys");

    set_indent(&w, jn_arg(a, 1, "indent"));
    w.ascii = ascii != NULL && jn_true(ascii);
    w.sorted = sorted != NULL && jn_true(sorted);
    if (separators != NULL && separators->type != V_NONE) {
        if ((separators->type != V_TUPLE && separators->type != V_LIST) ||
            separators->l->n != 2 || !is_text(&separators->l->v[0]) ||
            !is_text(&separators->l->v[1])) {
            return jn_fail(r, "tojson: separators must be two strings");
        }
        w.item = separators->l->v[0].s;
        w.colon = separators->l->v[1].s;
    }
    write_value(&w, v, 0);
    return jn_text(jn_finish(&w.b));
}

/* --- in --- */

static value from_json(jinja_run *r, const json_value *json);

static value from_string(jinja_run *r, const json_value *json)
{
    aiq_str s;

    /* what is unescaped is not longer */
    if (json->text.len > r->memory) {
        return jn_fail(r, "it needs more than %zu MiB of memory", JINJA_MAX_MEMORY >> 20);
    }
    r->memory -= json->text.len;
    s = json_string(r->pool, json);
    return jn_text((text){s.data, jn_foreign, s.len});
}

static value from_number(const json_value *json)
{
    int64_t i;

    if (memchr(json->text.data, '.', json->text.len) == NULL &&
        memchr(json->text.data, 'e', json->text.len) == NULL &&
        memchr(json->text.data, 'E', json->text.len) == NULL && json_int(json, &i)) {
        return jn_int(i);
    }
    return jn_float(json_real(json));
}

static value from_members(jinja_run *r, const json_value *json)
{
    value out = json->type == JSON_ARRAY ? jn_new_list(r, V_LIST) : jn_new_dict(r);
    json_value element;
    size_t cursor = 0;
    aiq_str name;

    while (!r->failed && json_each(json, &cursor, &name, &element)) {
        if (json->type == JSON_ARRAY) {
            jn_push(r, out.l, from_json(r, &element));
        } else {
            const json_value key = {JSON_STRING, {name.data - 1, name.len + 2}, 0};

            jn_put(r, out.d, from_string(r, &key), from_json(r, &element));
        }
    }
    return out;
}

static value from_json(jinja_run *r, const json_value *json)
{
    switch (json->type) {
    case JSON_TRUE:
    case JSON_FALSE:
        return jn_bool(json->type == JSON_TRUE);
    case JSON_NUMBER:
        return from_number(json);
    case JSON_STRING:
        return from_string(r, json);
    case JSON_ARRAY:
    case JSON_OBJECT:
        return from_members(r, json);
    default:
        return jn_none();
    }
}

jinja_value *jinja_from_json(jinja_run *r, const json_value *json)
{
    value v = from_json(r, json);
    jinja_value *p = jn_alloc(r, sizeof(*p));

    if (p != NULL) {
        *p = v;
    }
    return p;
}
