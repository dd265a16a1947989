/* Running a compiled template: expressions to values, statements to text. */
#include "infer/jinja.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja_impl.h"

#define MAX_ARGS       16
#define MAX_EVAL_DEPTH (JINJA_MAX_DEPTH * 2)

struct jinja {
    aiq_pool *pool;
    const node *root;
};

static value eval(jinja_run *r, const node *n);
static void exec(jinja_run *r, const node *n);

/* One level deeper: the machine's stack is not ours to use up. */
static bool nest(jinja_run *r)
{
    if (r->depth >= MAX_EVAL_DEPTH) {
        jn_fail(r, "it is nested too deep");
        return false;
    }
    r->depth++;
    return true;
}

/* --- variables --- */

static text text_of(aiq_str s)
{
    return (text){s.data, NULL, s.len};
}

static void assign(jinja_run *r, aiq_str name, value v)
{
    jn_put(r, &r->scope->vars, jn_text(text_of(name)), v);
}

static value look_up(jinja_run *r, aiq_str name)
{
    text key = text_of(name);

    for (const scope *s = r->scope; s != NULL; s = s->up) {
        const value *v = jn_find(r, &s->vars, key);

        if (v != NULL) {
            return *v;
        }
    }
    if (jn_has_function(key)) {
        return (value){.type = V_FUNCTION, .s = key};
    }
    return jn_undefined(name);
}

/* --- calls --- */

const value *jn_arg(const args *a, size_t at, const char *name)
{
    if (at < a->n) {
        return &a->v[at];
    }
    for (size_t i = 0; i < a->names->n; i++) {
        if (jn_is(a->names->v[i].key.s, name)) {
            return &a->names->v[i].v;
        }
    }
    return NULL;
}

/* The arguments of a call, which begin at kid 1. */
typedef struct {
    value v[MAX_ARGS];
    dict names;
    args all;
} evaluated;

static bool eval_args(jinja_run *r, const node *n, evaluated *e)
{
    size_t at = 0;

    e->names = (dict){0};
    for (size_t i = 1; i < n->n && !r->failed; i++) {
        const node *kid = n->kid[i];

        if (kid->kind == N_KEYWORD) {
            jn_put(r, &e->names, jn_text(text_of(kid->name)), eval(r, kid->kid[0]));
        } else if (at == MAX_ARGS) {
            jn_fail(r, "a call has more than %d arguments", MAX_ARGS);
        } else {
            e->v[at++] = eval(r, kid);
        }
    }
    e->all = (args){e->v, at, &e->names};
    return !r->failed;
}

static text captured(jinja_run *r, const node *body)
{
    builder b = {0}, *before = r->out;

    r->out = &b;
    exec(r, body);
    r->out = before;
    return jn_finish(&b);
}

/* A macro sees the template's variables and its arguments, not its caller's. */
static value call_macro(jinja_run *r, const node *macro, const args *a)
{
    scope own = {.up = &r->root}, *before = r->scope;
    value out;

    if (a->n > macro->n - 1) {
        return jn_fail(r, "%.*s gets too many arguments", (int)macro->name.len,
                       macro->name.data);
    }
    r->scope = &own;
    for (size_t i = 1; i < macro->n && !r->failed; i++) {
        const node *parameter = macro->kid[i];
        const value *v = i - 1 < a->n ? &a->v[i - 1] : NULL;

        if (v == NULL) {
            v = jn_find(r, a->names, text_of(parameter->name));
        }
        if (v != NULL) {
            assign(r, parameter->name, *v);
        } else if (parameter->kind == N_KEYWORD) {
            assign(r, parameter->name, eval(r, parameter->kid[0]));
        } else {
            assign(r, parameter->name, jn_undefined(parameter->name));
        }
    }
    out = jn_text(captured(r, macro->kid[0]));
    r->scope = before;
    return out;
}

value jn_call(jinja_run *r, const value *f, const args *a)
{
    switch (f->type) {
    case V_MACRO:
        return call_macro(r, f->macro, a);
    case V_METHOD:
        return jn_call_method(r, f->self, f->s, a);
    case V_FUNCTION:
        return jn_call_function(r, f->s, a);
    case V_UNDEFINED:
        return jn_fail(r, "\"%.*s\" is undefined", (int)f->s.len, f->s.p);
    default:
        return jn_fail(r, "%s cannot be called", jn_type_name(f));
    }
}

/* --- expressions --- */

static bool compare(jinja_run *r, operation op, const value *a, const value *b)
{
    switch (op) {
    case OP_EQ:
        return jn_equal(r, a, b);
    case OP_NE:
        return !jn_equal(r, a, b);
    case OP_LT:
        return jn_compare(r, a, b) < 0;
    case OP_LE:
        return jn_compare(r, a, b) <= 0;
    case OP_GT:
        return jn_compare(r, a, b) > 0;
    case OP_GE:
        return jn_compare(r, a, b) >= 0;
    case OP_IN:
        return jn_contains(r, b, a);
    default:
        return !jn_contains(r, b, a);
    }
}

static value eval_call(jinja_run *r, const node *n)
{
    value of = eval(r, n->kid[0]);
    evaluated e;

    if (!eval_args(r, n, &e)) {
        return jn_none();
    }
    r->line = n->line;
    if (n->kind == N_FILTER) {
        return ((const filter_entry *)n->impl)->fn(r, &of, &e.all);
    }
    if (n->kind == N_TEST) {
        return jn_bool(((const test_entry *)n->impl)->fn(r, &of, &e.all));
    }
    return jn_call(r, &of, &e.all);
}

static value eval_list(jinja_run *r, const node *n)
{
    value out = jn_new_list(r, n->kind == N_LIST ? V_LIST : V_TUPLE);

    for (size_t i = 0; i < n->n && !r->failed; i++) {
        jn_push(r, out.l, eval(r, n->kid[i]));
    }
    return out;
}

static value eval_dict(jinja_run *r, const node *n)
{
    value out = jn_new_dict(r);

    for (size_t i = 0; i + 1 < n->n && !r->failed; i += 2) {
        value key = eval(r, n->kid[i]);

        if (key.type == V_LIST || key.type == V_DICT) {
            return jn_fail(r, "%s cannot be a key", jn_type_name(&key));
        }
        jn_put(r, out.d, key, eval(r, n->kid[i + 1]));
    }
    return out;
}

static value eval_slice(jinja_run *r, const node *n)
{
    value of = eval(r, n->kid[0]), bounds[3];

    for (int i = 0; i < 3; i++) {
        bounds[i] = n->kid[i + 1] != NULL ? eval(r, n->kid[i + 1]) : jn_none();
    }
    return r->failed ? jn_none() : jn_cut(r, &of, &bounds[0], &bounds[1], &bounds[2]);
}

static value eval_sign(jinja_run *r, const node *n)
{
    value v = eval(r, n->kid[0]), zero = jn_int(0);

    if (!jn_is_number(&v)) {
        return r->failed ? v : jn_fail(r, "%s has no sign", jn_type_name(&v));
    }
    if (n->kind == N_POSITIVE) {
        return v;
    }
    return v.type == V_FLOAT ? jn_float(-v.f) : jn_binary(r, OP_SUB, &zero, &v);
}

static value eval_two(jinja_run *r, const node *n)
{
    value a = eval(r, n->kid[0]), b;

    if ((n->kind == N_AND && !jn_true(&a)) || (n->kind == N_OR && jn_true(&a))) {
        return a;
    }
    b = eval(r, n->kid[1]);
    r->line = n->line;
    if (r->failed || n->kind == N_AND || n->kind == N_OR) {
        return b;
    }
    if (n->kind == N_ITEM) {
        return jn_subscript(r, &a, &b);
    }
    return n->kind == N_BINARY ? jn_binary(r, n->op, &a, &b)
                               : jn_bool(compare(r, n->op, &a, &b));
}

static value eval_if_else(jinja_run *r, const node *n)
{
    value condition = eval(r, n->kid[1]);

    if (jn_true(&condition)) {
        return eval(r, n->kid[0]);
    }
    return n->n > 2 ? eval(r, n->kid[2]) : jn_undefined(AIQ_STR(""));
}

static value eval_kind(jinja_run *r, const node *n)
{
    value v;

    switch (n->kind) {
    case N_LITERAL:
        return n->v;
    case N_NAME:
        return look_up(r, n->name);
    case N_LIST:
    case N_TUPLE:
        return eval_list(r, n);
    case N_DICT:
        return eval_dict(r, n);
    case N_ATTR:
        v = eval(r, n->kid[0]);
        r->line = n->line;
        return r->failed ? v : jn_attribute(r, &v, text_of(n->name));
    case N_SLICE:
        return eval_slice(r, n);
    case N_CALL:
    case N_FILTER:
    case N_TEST:
        return eval_call(r, n);
    case N_NOT:
        v = eval(r, n->kid[0]);
        return jn_bool(!jn_true(&v));
    case N_NEGATIVE:
    case N_POSITIVE:
        return eval_sign(r, n);
    case N_IF_ELSE:
        return eval_if_else(r, n);
    default:
        return eval_two(r, n);
    }
}

static value eval(jinja_run *r, const node *n)
{
    value v;

    if (!jn_steps(r, 1)) {
        return jn_none();
    }
    if (!nest(r)) {
        return jn_none();
    }
    r->line = n->line;
    v = eval_kind(r, n);
    r->depth--;
    return r->failed ? jn_none() : v;
}

/* --- statements --- */

static void unpack(jinja_run *r, const node *target, value v)
{
    const list *l;
    value *space;

    if (target->kind == N_NAME) {
        assign(r, target->name, v);
        return;
    }
    if (target->kind == N_ATTR) {
        value of = eval(r, target->kid[0]);

        if (of.type != V_NAMESPACE) {
            jn_fail(r, "only a namespace's attributes can be set");
            return;
        }
        space = &of;
        jn_put(r, space->d, jn_text(text_of(target->name)), v);
        return;
    }
    l = jn_items(r, &v);
    if (l == NULL || l->n != target->n) {
        jn_fail(r, "%zu values cannot be %zu variables", l != NULL ? l->n : 0, target->n);
        return;
    }
    for (size_t i = 0; i < target->n; i++) {
        assign(r, target->kid[i]->name, l->v[i]);
    }
}

/* The elements that meet the loop's condition. */
static const list *selected(jinja_run *r, const node *n, const list *all)
{
    scope own = {.up = r->scope};
    value out;

    if (n->kid[2] == NULL || all == NULL) {
        return all;
    }
    out = jn_new_list(r, V_LIST);
    for (size_t i = 0; i < all->n && !r->failed; i++) {
        value keep;

        own.vars.n = 0;
        r->scope = &own;
        unpack(r, n->kid[0], all->v[i]);
        keep = eval(r, n->kid[2]);
        r->scope = own.up;
        if (jn_true(&keep)) {
            jn_push(r, out.l, all->v[i]);
        }
    }
    return r->failed ? NULL : out.l;
}

static void rounds(jinja_run *r, const node *n, loop *l)
{
    bool leave = false;

    for (; !leave && l->at < l->items->n && jn_steps(r, 1); l->at++) {
        /* each round has variables of its own */
        r->scope->vars.n = 0;
        assign(r, AIQ_STR("loop"), (value){.type = V_LOOP, .loop = l});
        unpack(r, n->kid[0], l->items->v[l->at]);
        exec(r, n->kid[3]);
        leave = r->interrupt != NULL && strcmp(r->interrupt, "break") == 0;
        r->interrupt = NULL;
    }
}

static void exec_for(jinja_run *r, const node *n)
{
    value over = eval(r, n->kid[1]);
    const list *items = r->failed ? NULL : selected(r, n, jn_items(r, &over));
    scope own = {.up = r->scope};
    loop *l = items != NULL ? jn_alloc(r, sizeof(*l)) : NULL;

    if (l == NULL) {
        return;
    }
    l->items = items;
    r->scope = &own;
    if (items->n == 0 && n->kid[4] != NULL) {
        exec(r, n->kid[4]);
    } else {
        rounds(r, n, l);
    }
    r->scope = own.up;
}

static void exec_if(jinja_run *r, const node *n)
{
    value condition = eval(r, n->kid[0]);

    if (r->failed) {
        return;
    }
    if (jn_true(&condition)) {
        exec(r, n->kid[1]);
    } else if (n->kid[2] != NULL) {
        exec(r, n->kid[2]);
    }
}

static void exec_set_body(jinja_run *r, const node *n)
{
    scope own = {.up = r->scope};
    text body;

    r->scope = &own;
    body = captured(r, n->kid[1]);
    r->scope = own.up;
    unpack(r, n->kid[0], jn_text(body));
}

static void output(jinja_run *r, const value *v)
{
    jn_print(r, r->out, v);
    if (r->out->len > r->max_out) {
        jn_fail(r, "the text is longer than %zu bytes", r->max_out);
    }
}

static void exec(jinja_run *r, const node *n)
{
    value v;

    if (!jn_steps(r, 1) || !nest(r)) {
        return;
    }
    r->line = n->line;
    switch (n->kind) {
    case N_BLOCK:
        for (size_t i = 0; i < n->n && !r->failed && r->interrupt == NULL; i++) {
            exec(r, n->kid[i]);
        }
        break;
    case N_TEXT:
        output(r, &n->v);
        break;
    case N_OUTPUT:
        v = eval(r, n->kid[0]);
        output(r, &v);
        break;
    case N_FOR:
        exec_for(r, n);
        break;
    case N_IF:
        exec_if(r, n);
        break;
    case N_SET:
        v = eval(r, n->kid[1]);
        if (!r->failed) {
            unpack(r, n->kid[0], v);
        }
        break;
    case N_SET_BODY:
        exec_set_body(r, n);
        break;
    case N_MACRO:
        assign(r, n->name, (value){.type = V_MACRO, .macro = n});
        break;
    default:
        r->interrupt = n->kind == N_BREAK ? "break" : "continue";
    }
    r->depth--;
}

/* --- life --- */

jinja *jinja_new(const char *source, size_t len, char *err, size_t errlen)
{
    aiq_pool *pool = aiq_pool_new();
    compiler c = {.pool = pool, .err = err, .errlen = errlen};
    token *tokens = jn_scan(&c, source, len);
    const node *root = tokens != NULL ? jn_parse(&c, tokens) : NULL;
    jinja *t;

    if (root == NULL) {
        aiq_pool_free(pool);
        return NULL;
    }
    t = aiq_pool_alloc(pool, sizeof(*t));
    *t = (jinja){pool, root};
    return t;
}

void jinja_free(jinja *t)
{
    aiq_pool_free(t->pool);
}

jinja_run *jinja_run_new(time_t now)
{
    aiq_pool *pool = aiq_pool_new();
    jinja_run *r = aiq_pool_zalloc(pool, sizeof(*r));

    r->pool = pool;
    r->memory = JINJA_MAX_MEMORY;
    r->steps = JINJA_MAX_STEPS;
    r->now = now;
    r->scope = &r->root;
    return r;
}

void jinja_run_free(jinja_run *r)
{
    aiq_pool_free(r->pool);
}

void jinja_define(jinja_run *r, const char *name, const jinja_value *v)
{
    if (v != NULL) {
        jn_put(r, &r->root.vars, jn_literal(name), *v);
    }
}

bool jinja_render(const jinja *t, jinja_run *r, size_t max_len, jinja_output *out, char *err,
                  size_t errlen)
{
    builder b = {0};

    r->out = &b;
    r->max_out = max_len;
    exec(r, t->root);
    r->out = NULL;
    if (!r->failed && b.len > 0) {
        *out = (jinja_output){b.p, b.marks, b.len};
    } else {
        *out = (jinja_output){"", "", 0};
    }
    if (r->failed && r->raised) {
        snprintf(err, errlen, "%s", r->error);
    } else if (r->failed) {
        snprintf(err, errlen, "line %u: %s", r->line, r->error);
    }
    return !r->failed;
}
