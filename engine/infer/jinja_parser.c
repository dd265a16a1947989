/*
 * Tokens to a tree, by recursive descent: one function per level of binding, in Jinja's order.
 * What a statement, filter or test is called is checked here, so that a template that we do
 * not know is refused when the model is loaded.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "infer/jinja_impl.h"

typedef struct {
    compiler *c;
    token *t; /* the next token */
    int depth;
    int loops; /* around what is parsed */
} parser;

static node *expression(parser *p);
static node *unary(parser *p, bool with_filters);
static node *block(parser *p, const char *const *ends);

static node *fail(parser *p, const char *format, ...)
{
    char what[128];
    va_list ap;

    va_start(ap, format);
    vsnprintf(what, sizeof(what), format, ap);
    va_end(ap);
    jn_error(p->c, p->t->line, "%s", what);
    return NULL;
}

static node *new_node(parser *p, node_kind kind)
{
    node *n = aiq_pool_zalloc(p->c->pool, sizeof(*n));

    n->kind = kind;
    n->line = p->t->line;
    return n;
}

static void add(parser *p, node *n, node *kid)
{
    if (n->n == n->cap) {
        size_t cap = n->cap > 0 ? n->cap * 2 : 4;
        node **grown = aiq_pool_zalloc(p->c->pool, cap * sizeof(*grown));

        if (n->n > 0) {
            memcpy(grown, n->kid, n->n * sizeof(*grown));
        }
        n->kid = grown;
        n->cap = cap;
    }
    n->kid[n->n++] = kid;
}

static node *parent(parser *p, node_kind kind, node *a, node *b)
{
    node *n = new_node(p, kind);

    add(p, n, a);
    if (b != NULL) {
        add(p, n, b);
    }
    return n;
}

/* --- tokens --- */

static bool at(const parser *p, token_type type, const char *s)
{
    return p->t->type == type && aiq_str_is(p->t->s, s);
}

static bool at_sign(const parser *p, const char *s)
{
    return at(p, T_SIGN, s);
}

static bool at_name(const parser *p, const char *s)
{
    return at(p, T_NAME, s);
}

static bool take(parser *p, token_type type, const char *s)
{
    bool here = at(p, type, s);

    p->t += here;
    return here;
}

static bool take_sign(parser *p, const char *s)
{
    return take(p, T_SIGN, s);
}

static bool take_name(parser *p, const char *s)
{
    return take(p, T_NAME, s);
}

static bool want_sign(parser *p, const char *s)
{
    if (take_sign(p, s)) {
        return true;
    }
    fail(p, "\"%s\" is missing", s);
    return false;
}

static bool want(parser *p, token_type type, const char *what)
{
    if (p->t->type == type) {
        p->t++;
        return true;
    }
    fail(p, "%s is missing", what);
    return false;
}

/* Nesting goes through here; paired with leave(). */
static bool enter(parser *p)
{
    if (++p->depth > JINJA_MAX_DEPTH) {
        fail(p, "nested more than %d deep", JINJA_MAX_DEPTH);
    }
    return !p->c->failed;
}

static node *leave(parser *p, node *n)
{
    p->depth--;
    return p->c->failed ? NULL : n;
}

/* --- expressions --- */

static node *literal(parser *p, value v)
{
    node *n = new_node(p, N_LITERAL);

    n->v = v;
    return n;
}

static node *name_or_constant(parser *p)
{
    static const char *const names[] = {"true", "True", "false", "False", "none", "None"};
    node *n = new_node(p, N_NAME);

    n->name = p->t->s;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (aiq_str_is(p->t->s, names[i])) {
            n->kind = N_LITERAL;
            n->v = i < 4 ? jn_bool(i < 2) : jn_none();
        }
    }
    p->t++;
    return n;
}

/* Strings next to each other are one. */
static node *strings(parser *p)
{
    size_t len = 0, n = 0;
    char *out;

    for (const token *t = p->t; t->type == T_STRING; t++) {
        len += t->s.len;
    }
    out = aiq_pool_alloc(p->c->pool, len + 1);
    for (; p->t->type == T_STRING; p->t++) {
        if (p->t->s.len > 0) {
            memcpy(out + n, p->t->s.data, p->t->s.len);
        }
        n += p->t->s.len;
    }
    return literal(p, jn_text((text){out, NULL, n}));
}

/* Expressions up to the closing sign, which is taken. */
static void items(parser *p, node *n, const char *end)
{
    while (!p->c->failed && !take_sign(p, end)) {
        if (n->n > 0 && !want_sign(p, ",")) {
            return;
        }
        if (take_sign(p, end)) {
            return;
        }
        add(p, n, expression(p));
    }
}

static node *parentheses(parser *p)
{
    node *first, *tuple;

    if (take_sign(p, ")")) {
        return new_node(p, N_TUPLE);
    }
    first = expression(p);
    if (take_sign(p, ")")) {
        return first;
    }
    tuple = parent(p, N_TUPLE, first, NULL);
    items(p, tuple, ")");
    return tuple;
}

static node *dictionary(parser *p)
{
    node *n = new_node(p, N_DICT);

    while (!p->c->failed && !take_sign(p, "}")) {
        if (n->n > 0 && !want_sign(p, ",")) {
            break;
        }
        if (take_sign(p, "}")) {
            break;
        }
        add(p, n, expression(p));
        if (want_sign(p, ":")) {
            add(p, n, expression(p));
        }
    }
    return n;
}

static node *primary(parser *p)
{
    token *t = p->t;
    node *n;

    switch (t->type) {
    case T_NAME:
        return name_or_constant(p);
    case T_STRING:
        return strings(p);
    case T_INT:
        p->t++;
        return literal(p, jn_int(t->i));
    case T_FLOAT:
        p->t++;
        return literal(p, jn_float(t->f));
    default:
        break;
    }
    if (take_sign(p, "(")) {
        return parentheses(p);
    }
    if (take_sign(p, "[")) {
        n = new_node(p, N_LIST);
        items(p, n, "]");
        return n;
    }
    if (take_sign(p, "{")) {
        return dictionary(p);
    }
    return fail(p, "an expression is missing");
}

/* (a, name=b), its first sign taken; appended to n. */
static void arguments(parser *p, node *n)
{
    bool first = true;

    while (!p->c->failed && !take_sign(p, ")")) {
        if (!first && !want_sign(p, ",")) {
            return;
        }
        if (!first && take_sign(p, ")")) {
            return;
        }
        first = false;
        if (p->t->type == T_NAME && p->t[1].type == T_SIGN && aiq_str_is(p->t[1].s, "=")) {
            node *keyword = new_node(p, N_KEYWORD);

            keyword->name = p->t->s;
            p->t += 2;
            add(p, keyword, expression(p));
            add(p, n, keyword);
        } else {
            add(p, n, expression(p));
        }
    }
}

/* [i] or [from:to:step], its first sign taken. */
static node *subscript(parser *p, node *of)
{
    node *n = parent(p, N_ITEM, of, NULL);

    add(p, n, at_sign(p, ":") ? NULL : expression(p));
    while (!p->c->failed && n->n < 4 && take_sign(p, ":")) {
        n->kind = N_SLICE;
        add(p, n, at_sign(p, ":") || at_sign(p, "]") ? NULL : expression(p));
    }
    want_sign(p, "]");
    while (n->kind == N_SLICE && n->n < 4) {
        add(p, n, NULL);
    }
    return n;
}

/* .name, or .0, which is [0] */
static node *attribute(parser *p, node *of)
{
    node *n = parent(p, p->t->type == T_INT ? N_ITEM : N_ATTR, of, NULL);

    if (n->kind == N_ITEM) {
        add(p, n, primary(p));
        return n;
    }
    n->name = p->t->s;
    want(p, T_NAME, "an attribute's name");
    return n;
}

static node *postfix(parser *p, node *n)
{
    while (!p->c->failed) {
        if (take_sign(p, ".")) {
            n = attribute(p, n);
        } else if (take_sign(p, "[")) {
            n = subscript(p, n);
        } else if (take_sign(p, "(")) {
            n = parent(p, N_CALL, n, NULL);
            arguments(p, n);
        } else {
            break;
        }
    }
    return n;
}

static node *filter(parser *p, node *of)
{
    node *n = parent(p, N_FILTER, of, NULL);

    n->name = p->t->s;
    n->impl = p->t->type == T_NAME ? jn_find_filter(n->name) : NULL;
    if (n->impl == NULL) {
        return fail(p, "the filter \"%.*s\" is not supported", (int)n->name.len, n->name.data);
    }
    p->t++;
    if (take_sign(p, "(")) {
        arguments(p, n);
    }
    return n;
}

/* A test's argument may stand without parentheses. */
static bool at_argument(const parser *p)
{
    static const char *const others[] = {"else", "or", "and", "if", "in", "not", "is"};

    if (p->t->type == T_NAME) {
        for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
            if (at_name(p, others[i])) {
                return false;
            }
        }
        return true;
    }
    return p->t->type == T_STRING || p->t->type == T_INT || p->t->type == T_FLOAT ||
           at_sign(p, "[") || at_sign(p, "{");
}

static node *test(parser *p, node *of)
{
    bool negated = take_name(p, "not");
    node *n = parent(p, N_TEST, of, NULL);

    n->name = p->t->s;
    n->impl = p->t->type == T_NAME ? jn_find_test(n->name) : NULL;
    if (n->impl == NULL) {
        return fail(p, "the test \"%.*s\" is not supported", (int)n->name.len, n->name.data);
    }
    p->t++;
    if (take_sign(p, "(")) {
        arguments(p, n);
    } else if (at_argument(p)) {
        add(p, n, postfix(p, primary(p)));
    }
    return negated ? parent(p, N_NOT, n, NULL) : n;
}

static node *filters(parser *p, node *n)
{
    while (!p->c->failed) {
        if (take_sign(p, "|")) {
            n = filter(p, n);
        } else if (take_name(p, "is")) {
            n = test(p, n);
        } else if (take_sign(p, "(")) {
            n = parent(p, N_CALL, n, NULL);
            arguments(p, n);
        } else {
            break;
        }
    }
    return n;
}

static node *unary(parser *p, bool with_filters)
{
    node *n;

    if (!enter(p)) {
        return leave(p, NULL);
    }
    if (take_sign(p, "-")) {
        n = parent(p, N_NEGATIVE, unary(p, false), NULL);
    } else if (take_sign(p, "+")) {
        n = parent(p, N_POSITIVE, unary(p, false), NULL);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    return leave(p, with_filters && !p->c->failed ? filters(p, n) : n);
}

typedef struct {
    const char *sign;
    operation op;
} binary_sign;

/* From the loosest to the tightest; all bind to the left. */
static const binary_sign levels[][5] = {
    {{"+", OP_ADD}, {"-", OP_SUB}},
    {{"~", OP_CONCAT}},
    {{"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOOR}, {"%", OP_MOD}},
    {{"**", OP_POW}},
};

enum { N_LEVELS = sizeof(levels) / sizeof(*levels) };

static const binary_sign *take_binary(parser *p, int level)
{
    for (const binary_sign *b = levels[level]; b->sign != NULL; b++) {
        if (take_sign(p, b->sign)) {
            return b;
        }
    }
    return NULL;
}

static node *binary(parser *p, int level)
{
    node *n = level + 1 < N_LEVELS ? binary(p, level + 1) : unary(p, true);
    const binary_sign *b;

    while (!p->c->failed && (b = take_binary(p, level)) != NULL) {
        n = parent(p, N_BINARY, n,
                   level + 1 < N_LEVELS ? binary(p, level + 1) : unary(p, true));
        n->op = b->op;
    }
    return n;
}

static bool take_comparison(parser *p, operation *op)
{
    static const binary_sign all[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                                      {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        if (take_sign(p, all[i].sign)) {
            *op = all[i].op;
            return true;
        }
    }
    if (take_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (at_name(p, "not") && p->t[1].type == T_NAME && aiq_str_is(p->t[1].s, "in")) {
        p->t += 2;
        *op = OP_NOT_IN;
        return true;
    }
    return false;
}

/* a < b < c is a < b and b < c. */
static node *comparison(parser *p)
{
    node *left = binary(p, 0), *all = NULL;
    operation op;

    while (!p->c->failed && take_comparison(p, &op)) {
        node *right = binary(p, 0), *n = parent(p, N_COMPARE, left, right);

        n->op = op;
        all = all == NULL ? n : parent(p, N_AND, all, n);
        left = right;
    }
    return all != NULL ? all : left;
}

static node *negation(parser *p)
{
    node *n;

    if (!take_name(p, "not")) {
        return comparison(p);
    }
    if (!enter(p)) {
        return leave(p, NULL);
    }
    n = parent(p, N_NOT, negation(p), NULL);
    return leave(p, n);
}

static node *conjunction(parser *p)
{
    node *n = negation(p);

    while (!p->c->failed && take_name(p, "and")) {
        n = parent(p, N_AND, n, negation(p));
    }
    return n;
}

static node *disjunction(parser *p)
{
    node *n = conjunction(p);

    while (!p->c->failed && take_name(p, "or")) {
        n = parent(p, N_OR, n, conjunction(p));
    }
    return n;
}

static node *expression(parser *p)
{
    node *n;

    if (!enter(p)) {
        return leave(p, NULL);
    }
    n = disjunction(p);
    while (!p->c->failed && take_name(p, "if")) {
        n = parent(p, N_IF_ELSE, n, disjunction(p));
        if (take_name(p, "else")) {
            add(p, n, expression(p));
        }
    }
    return leave(p, n);
}

/* a, b without parentheses is a tuple. */
static node *expressions(parser *p)
{
    node *n = expression(p);

    if (!at_sign(p, ",")) {
        return n;
    }
    n = parent(p, N_TUPLE, n, NULL);
    while (!p->c->failed && take_sign(p, ",")) {
        if (p->t->type != T_BLOCK_END && p->t->type != T_OUTPUT_END) {
            add(p, n, expression(p));
        }
    }
    return n;
}

/* --- statements --- */

static bool end_tag(parser *p)
{
    return want(p, T_BLOCK_END, "the end of the tag");
}

/* The statements up to {% end %}, which is taken. */
static node *body(parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    node *n = block(p, ends);

    if (p->c->failed) {
        return NULL;
    }
    p->t++;
    end_tag(p);
    return n;
}

/* A name, names with commas, or name.attribute. */
static node *target(parser *p, bool attributes)
{
    bool brackets = take_sign(p, "(");
    node *n = NULL, *tuple = NULL;

    do {
        n = new_node(p, N_NAME);
        n->name = p->t->s;
        if (!want(p, T_NAME, "a variable's name")) {
            return NULL;
        }
        if (tuple != NULL) {
            add(p, tuple, n);
        } else if (at_sign(p, ",")) {
            tuple = parent(p, N_TUPLE, n, NULL);
        }
    } while (take_sign(p, ","));
    if (brackets) {
        want_sign(p, ")");
    }
    if (tuple == NULL && attributes && take_sign(p, ".")) {
        n = parent(p, N_ATTR, n, NULL);
        n->name = p->t->s;
        want(p, T_NAME, "an attribute's name");
    }
    return tuple != NULL ? tuple : n;
}

static node *for_loop(parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    node *n = new_node(p, N_FOR), *over, *condition = NULL;

    add(p, n, target(p, false));
    if (!p->c->failed && !take_name(p, "in")) {
        return fail(p, "\"in\" is missing");
    }
    /* an "if" behind it is the loop's */
    over = disjunction(p);
    if (take_name(p, "if")) {
        condition = expression(p);
    }
    if (at_name(p, "recursive")) {
        return fail(p, "recursive loops are not supported");
    }
    end_tag(p);
    add(p, n, over);
    add(p, n, condition);
    p->loops++;
    add(p, n, block(p, ends));
    p->loops--;
    if (p->c->failed) {
        return NULL;
    }
    if (take_name(p, "else")) {
        end_tag(p);
        add(p, n, body(p, "endfor"));
    } else {
        p->t++;
        end_tag(p);
        add(p, n, NULL);
    }
    return n;
}

/* Behind "if" or "elif". */
static node *condition(parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    node *n = new_node(p, N_IF);

    if (!enter(p)) {
        return leave(p, NULL);
    }
    add(p, n, expression(p));
    end_tag(p);
    add(p, n, block(p, ends));
    if (p->c->failed) {
        return leave(p, NULL);
    }
    if (take_name(p, "elif")) {
        add(p, n, condition(p));
    } else if (take_name(p, "else")) {
        end_tag(p);
        add(p, n, body(p, "endif"));
    } else {
        p->t++;
        end_tag(p);
        add(p, n, NULL);
    }
    return leave(p, n);
}

static node *set(parser *p)
{
    node *n = parent(p, N_SET, target(p, true), NULL);

    if (p->c->failed) {
        return NULL;
    }
    if (take_sign(p, "=")) {
        add(p, n, expressions(p));
        end_tag(p);
        return n;
    }
    if (at_sign(p, "|")) {
        return fail(p, "filters of set blocks are not supported");
    }
    n->kind = N_SET_BODY;
    end_tag(p);
    add(p, n, body(p, "endset"));
    return n;
}

static node *macro(parser *p)
{
    node *n = new_node(p, N_MACRO), *parameters = new_node(p, N_LIST);
    int loops = p->loops;

    n->name = p->t->s;
    if (!want(p, T_NAME, "the macro's name") || !want_sign(p, "(")) {
        return NULL;
    }
    while (!p->c->failed && !take_sign(p, ")")) {
        node *parameter = new_node(p, N_NAME);

        if (parameters->n > 0 && !want_sign(p, ",")) {
            return NULL;
        }
        parameter->name = p->t->s;
        want(p, T_NAME, "a parameter's name");
        if (take_sign(p, "=")) {
            parameter->kind = N_KEYWORD;
            add(p, parameter, expression(p));
        }
        add(p, parameters, parameter);
    }
    end_tag(p);
    p->loops = 0; /* a macro's body is in no loop of its caller's */
    add(p, n, body(p, "endmacro"));
    p->loops = loops;
    for (size_t i = 0; i < parameters->n; i++) {
        add(p, n, parameters->kid[i]);
    }
    return n;
}

static node *jump(parser *p, node_kind kind)
{
    if (p->loops == 0) {
        return fail(p, "break or continue outside of a loop");
    }
    end_tag(p);
    return new_node(p, kind);
}

static node *statement(parser *p)
{
    if (take_name(p, "for")) {
        return for_loop(p);
    }
    if (take_name(p, "if")) {
        return condition(p);
    }
    if (take_name(p, "set")) {
        return set(p);
    }
    if (take_name(p, "macro")) {
        return macro(p);
    }
    if (take_name(p, "break")) {
        return jump(p, N_BREAK);
    }
    if (take_name(p, "continue")) {
        return jump(p, N_CONTINUE);
    }
    if (take_name(p, "generation")) {
        /* marks what the model said, for training */
        end_tag(p);
        return body(p, "endgeneration");
    }
    if (p->t->type != T_NAME) {
        return fail(p, "a statement is missing");
    }
    return fail(p, "the statement \"%.*s\" is not supported", (int)p->t->s.len, p->t->s.data);
}

static bool at_end(const parser *p, const char *const *ends)
{
    for (; *ends != NULL; ends++) {
        if (at_name(p, *ends)) {
            return true;
        }
    }
    return false;
}

/* Statements up to a tag that begins with one of ends; this name is the next token then. NULL
 * ends: up to the template's end. */
static node *block(parser *p, const char *const *ends)
{
    node *n = new_node(p, N_BLOCK);

    if (!enter(p)) {
        return leave(p, NULL);
    }
    while (!p->c->failed) {
        token *t = p->t;

        if (t->type == T_END) {
            while (ends != NULL && ends[1] != NULL) {
                ends++; /* the last closes it, those before are parts */
            }
            if (ends != NULL) {
                fail(p, "\"%s\" is missing", ends[0]);
            }
            break;
        }
        p->t++;
        if (t->type == T_DATA) {
            node *data = new_node(p, N_TEXT);

            data->v = jn_text((text){t->s.data, NULL, t->s.len});
            add(p, n, data);
        } else if (t->type == T_OUTPUT_BEGIN) {
            add(p, n, parent(p, N_OUTPUT, expressions(p), NULL));
            want(p, T_OUTPUT_END, "the end of the tag");
        } else if (ends != NULL && at_end(p, ends)) {
            break;
        } else {
            add(p, n, statement(p));
        }
    }
    return leave(p, n);
}

node *jn_parse(compiler *c, token *tokens)
{
    parser p = {.c = c, .t = tokens};

    return block(&p, NULL);
}
