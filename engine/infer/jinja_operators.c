/* Operators and subscripts, by Python's rules. */
#include <math.h>
#include <string.h>

#include "infer/jinja_impl.h"

static value arithmetic(jinja_run *r, operation op, double a, double b)
{
    switch (op) {
    case OP_ADD:
        return jn_float(a + b);
    case OP_SUB:
        return jn_float(a - b);
    case OP_MUL:
        return jn_float(a * b);
    case OP_POW:
        return jn_float(pow(a, b));
    default:
        break;
    }
    if (b == 0) {
        return jn_fail(r, "division by zero");
    }
    if (op == OP_DIV) {
        return jn_float(a / b);
    }
    if (op == OP_FLOOR) {
        return jn_float(floor(a / b));
    }
    double rest = fmod(a, b);
    return jn_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

/* Python rounds towards minus infinity. */
static value divide(jinja_run *r, operation op, int64_t a, int64_t b)
{
    int64_t quotient, rest;

    if (b == 0) {
        return jn_fail(r, "division by zero");
    }
    if (b == -1 && a == INT64_MIN) {
        return jn_fail(r, "an integer is too large");
    }
    quotient = a / b;
    rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    return jn_int(op == OP_FLOOR ? quotient : rest);
}

static bool power(int64_t base, int64_t exponent, int64_t *out)
{
    bool ok = true;

    *out = 1;
    if (base == 0 || base == 1 || base == -1) {
        *out = exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base;
        return true;
    }
    for (; ok && exponent > 0; exponent--) {
        ok = !__builtin_mul_overflow(*out, base, out);
    }
    return ok;
}

static value integers(jinja_run *r, operation op, int64_t a, int64_t b)
{
    int64_t out = 0;
    bool ok = true;

    switch (op) {
    case OP_ADD:
        ok = !__builtin_add_overflow(a, b, &out);
        break;
    case OP_SUB:
        ok = !__builtin_sub_overflow(a, b, &out);
        break;
    case OP_MUL:
        ok = !__builtin_mul_overflow(a, b, &out);
        break;
    case OP_POW:
        if (b < 0) {
            return arithmetic(r, op, (double)a, (double)b);
        }
        ok = power(a, b, &out);
        break;
    case OP_DIV:
        return arithmetic(r, op, (double)a, (double)b);
    default:
        return divide(r, op, a, b);
    }
    return ok ? jn_int(out) : jn_fail(r, "an integer is too large");
}

static value join_lists(jinja_run *r, const value *a, const value *b)
{
    value out = jn_new_list(r, a->type);

    for (size_t i = 0; i < a->l->n && !r->failed; i++) {
        jn_push(r, out.l, a->l->v[i]);
    }
    for (size_t i = 0; i < b->l->n && !r->failed; i++) {
        jn_push(r, out.l, b->l->v[i]);
    }
    return out;
}

static value repeat(jinja_run *r, const value *v, int64_t times)
{
    value l = v->type == V_TEXT ? jn_none() : jn_new_list(r, v->type);
    builder b = {0};

    for (; times > 0 && jn_steps(r, 1); times--) {
        if (v->type == V_TEXT) {
            jn_add(r, &b, v->s);
        } else {
            for (size_t i = 0; i < v->l->n && !r->failed; i++) {
                jn_push(r, l.l, v->l->v[i]);
            }
        }
    }
    return v->type == V_TEXT ? jn_text(jn_finish(&b)) : l;
}

static bool is_sequence(const value *v)
{
    return v->type == V_TEXT || v->type == V_LIST || v->type == V_TUPLE;
}

static value concat(jinja_run *r, const value *a, const value *b)
{
    builder out = {0};

    jn_print(r, &out, a);
    jn_print(r, &out, b);
    return jn_text(jn_finish(&out));
}

value jn_binary(jinja_run *r, operation op, const value *a, const value *b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};

    if (op == OP_CONCAT) {
        return concat(r, a, b);
    }
    for (int i = 0; i < 2; i++) {
        const value *v = i == 0 ? a : b;

        if (v->type == V_UNDEFINED) {
            return jn_fail(r, "\"%.*s\" is undefined", (int)v->s.len, v->s.p);
        }
    }
    if (jn_is_number(a) && jn_is_number(b)) {
        if (a->type == V_FLOAT || b->type == V_FLOAT) {
            return arithmetic(r, op, jn_number(a), jn_number(b));
        }
        return integers(r, op, a->type == V_BOOL ? a->b : a->i,
                        b->type == V_BOOL ? b->b : b->i);
    }
    if (op == OP_ADD && a->type == V_TEXT && b->type == V_TEXT) {
        return concat(r, a, b);
    }
    if (op == OP_ADD && a->type == b->type && is_sequence(a)) {
        return join_lists(r, a, b);
    }
    if (op == OP_MUL && is_sequence(a) && b->type == V_INT) {
        return repeat(r, a, b->i);
    }
    if (op == OP_MUL && is_sequence(b) && a->type == V_INT) {
        return repeat(r, b, a->i);
    }
    return jn_fail(r, "%s %s %s is not supported", jn_type_name(a), signs[op], jn_type_name(b));
}

/* --- subscripts --- */

/* Characters as a list, or the list itself. */
static const list *elements(jinja_run *r, const value *v)
{
    return is_sequence(v) ? jn_items(r, v) : NULL;
}

value jn_subscript(jinja_run *r, const value *v, const value *key)
{
    const value *found;
    const list *l;

    if (v->type == V_UNDEFINED) {
        return jn_fail(r, "\"%.*s\" is undefined", (int)v->s.len, v->s.p);
    }
    if (v->type == V_DICT || v->type == V_NAMESPACE) {
        found = jn_find_value(r, v->d, key);
        if (found != NULL) {
            return *found;
        }
    }
    if (key->type == V_INT && (l = elements(r, v)) != NULL) {
        int64_t i = key->i < 0 ? key->i + (int64_t)l->n : key->i;

        return i >= 0 && i < (int64_t)l->n ? l->v[i] : jn_undefined(AIQ_STR("element"));
    }
    return key->type == V_TEXT ? jn_attribute(r, v, key->s) : jn_undefined(AIQ_STR("element"));
}

/* A bound of a slice inside [low, high]. */
static int64_t bound(jinja_run *r, const value *v, int64_t n, int64_t otherwise, int64_t low,
                     int64_t high)
{
    int64_t i;

    if (v->type == V_NONE) {
        return otherwise;
    }
    if (v->type != V_INT) {
        jn_fail(r, "a slice needs integers");
        return 0;
    }
    i = v->i < 0 ? v->i + n : v->i;
    return i < low ? low : i > high ? high : i;
}

value jn_cut(jinja_run *r, const value *v, const value *from, const value *to,
             const value *step)
{
    const list *l = elements(r, v);
    int64_t n, by, i, end;
    value out;

    if (l == NULL) {
        return jn_fail(r, "%s cannot be sliced", jn_type_name(v));
    }
    n = (int64_t)l->n;
    by = step->type == V_NONE ? 1 : step->type == V_INT ? step->i : 0;
    if (by == 0 || by > n + 1 || by < -n - 1) {
        by = by > 0 ? n + 1 : by < 0 ? -n - 1 : 0;
    }
    if (by == 0) {
        return jn_fail(r, "a slice's step must be an integer that is not 0");
    }
    i = by > 0 ? bound(r, from, n, 0, 0, n) : bound(r, from, n, n - 1, -1, n - 1);
    end = by > 0 ? bound(r, to, n, n, 0, n) : bound(r, to, n, -1, -1, n - 1);
    out = jn_new_list(r, v->type == V_TEXT ? V_LIST : v->type);
    builder b = {0};
    for (; !r->failed && (by > 0 ? i < end : i > end); i += by) {
        if (v->type == V_TEXT) {
            jn_add(r, &b, l->v[i].s);
        } else {
            jn_push(r, out.l, l->v[i]);
        }
    }
    return v->type == V_TEXT ? jn_text(jn_finish(&b)) : out;
}
