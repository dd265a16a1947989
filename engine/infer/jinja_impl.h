/* Inside the templates: values, the tree that the parser makes, the state of a run. */
#ifndef INFER_JINJA_IMPL_H
#define INFER_JINJA_IMPL_H

#include "infer/jinja.h"

typedef struct jinja_value value;
typedef struct node node;

/* A string. marks is NULL where no byte is foreign, jn_foreign where all are, else [len]. */
typedef struct {
    const char *p;
    const char *marks;
    size_t len;
} text;

extern const char jn_foreign[1];

typedef enum {
    V_UNDEFINED, /* s names what is not there; may be empty */
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_TEXT,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_NAMESPACE, /* a dict that can be changed */
    V_LOOP,
    V_MACRO,
    V_METHOD,  /* of *self, named by s */
    V_FUNCTION /* named by s */
} value_type;

typedef struct list {
    value *v;
    size_t n;
    size_t cap;
} list;

typedef struct pair pair;

typedef struct dict {
    pair *v;
    size_t n;
    size_t cap;
} dict;

typedef struct {
    const list *items;
    size_t at;
} loop;

struct jinja_value {
    value_type type;
    union {
        bool b;
        int64_t i;
        double f;
        list *l;
        dict *d;
        const loop *loop;
        const node *macro;
        const value *self;
    };
    text s; /* TEXT; names of others */
};

struct pair {
    value key;
    value v;
};

typedef enum {
    /* expressions */
    N_LITERAL, /* v */
    N_NAME,    /* name */
    N_LIST,
    N_TUPLE,
    N_DICT,   /* key, value, key, value … */
    N_ATTR,   /* kid.name */
    N_ITEM,   /* kid[kid] */
    N_SLICE,  /* kid[kid:kid:kid]; parts may be NULL */
    N_CALL,   /* kid(args) */
    N_FILTER, /* kid|name(args); kid is NULL in a filter that map names */
    N_TEST,   /* kid is name(args) */
    N_NOT,
    N_AND,
    N_OR,
    N_NEGATIVE,
    N_POSITIVE,
    N_BINARY,  /* kid op kid */
    N_COMPARE, /* kid op kid; chains are joined by N_AND */
    N_IF_ELSE, /* kid if kid else kid (or NULL) */
    N_KEYWORD, /* name=kid, in args */
    /* statements */
    N_TEXT,     /* v */
    N_OUTPUT,   /* kid */
    N_BLOCK,    /* statements in order */
    N_FOR,      /* target, iterable, condition or NULL, body, else or NULL */
    N_IF,       /* condition, body, else or NULL */
    N_SET,      /* target, value */
    N_SET_BODY, /* target, body */
    N_MACRO,    /* name; body, then parameters: N_NAME, or N_KEYWORD with a default */
    N_BREAK,
    N_CONTINUE
} node_kind;

typedef enum {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOOR,
    OP_MOD,
    OP_POW,
    OP_CONCAT,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
} operation;

struct node {
    node_kind kind;
    operation op;
    uint32_t line;
    aiq_str name;
    value v;
    node **kid;
    size_t n;
    size_t cap;
    const void *impl; /* FILTER, TEST: found when compiled */
};

/* --- lexer --- */

typedef enum {
    T_END,
    T_DATA, /* outside of tags */
    T_OUTPUT_BEGIN,
    T_OUTPUT_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_INT,
    T_FLOAT,
    T_STRING,
    T_SIGN
} token_type;

typedef struct {
    token_type type;
    uint32_t line;
    aiq_str s; /* DATA, NAME, SIGN, STRING (unescaped) */
    int64_t i;
    double f;
} token;

typedef struct {
    aiq_pool *pool; /* of the template */
    char *err;
    size_t errlen;
    bool failed;
} compiler;

/* Notes the first error. Returns false. */
bool jn_error(compiler *c, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The tokens, the last of which is T_END; NULL: c has failed. */
token *jn_scan(compiler *c, const char *source, size_t len);

/* The whole template as a N_BLOCK; NULL: c has failed. */
node *jn_parse(compiler *c, token *tokens);

/* --- a run --- */

typedef struct scope {
    dict vars;
    struct scope *up;
} scope;

/* A text under way. */
typedef struct {
    char *p;
    char *marks;
    size_t len;
    size_t cap;
    bool any_foreign;
} builder;

struct jinja_run {
    aiq_pool *pool;
    size_t memory; /* bytes that are left */
    int64_t steps; /* that are left */
    size_t max_out;
    int depth;
    uint32_t line; /* of what is evaluated */
    time_t now;
    scope root;
    scope *scope;
    builder *out;
    const char *interrupt; /* "break", "continue" */
    bool failed;
    bool raised; /* by raise_exception */
    char error[256];
};

typedef struct {
    const value *v; /* [n] by position */
    size_t n;
    const dict *names; /* by name */
} args;

/* The argument at a position, or by its name; NULL: not given. */
const value *jn_arg(const args *a, size_t at, const char *name);

/* Notes the first error. Returns an undefined value. */
value jn_fail(jinja_run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Takes n steps; false (and the run has failed) if they are not left. */
bool jn_steps(jinja_run *r, size_t n);

/* From the run's memory, zeroed; NULL (and the run has failed) if that is used up. */
void *jn_alloc(jinja_run *r, size_t size);

/* --- values (jinja_value.c) --- */

value jn_none(void);
value jn_undefined(aiq_str name);
value jn_bool(bool b);
value jn_int(int64_t i);
value jn_float(double f);
value jn_text(text s);
value jn_literal(const char *s); /* borrowed */
value jn_new_list(jinja_run *r, value_type type);
value jn_new_dict(jinja_run *r);

bool jn_is(text s, const char *literal);
bool jn_same(text a, text b);
text jn_slice(text s, size_t from, size_t to); /* bytes */
size_t jn_char(text s, size_t at);             /* length of the character at a byte */
size_t jn_chars(text s);

void jn_add(jinja_run *r, builder *b, text s);
void jn_add_char(jinja_run *r, builder *b, char c, bool foreign);
void jn_add_clean(jinja_run *r, builder *b, const char *s);
text jn_finish(const builder *b);
/* As Python's str() and repr() have it. */
void jn_print(jinja_run *r, builder *b, const value *v);
void jn_repr(jinja_run *r, builder *b, const value *v);
text jn_to_text(jinja_run *r, const value *v);

void jn_push(jinja_run *r, list *l, value v);
const value *jn_find(jinja_run *r, const dict *d, text key);
const value *jn_find_value(jinja_run *r, const dict *d, const value *key);
void jn_put(jinja_run *r, dict *d, value key, value v);

bool jn_true(const value *v);
bool jn_is_number(const value *v);
double jn_number(const value *v);
bool jn_equal(jinja_run *r, const value *a, const value *b);
/* <0, 0, >0; fails the run where they have no order. */
int jn_compare(jinja_run *r, const value *a, const value *b);
bool jn_contains(jinja_run *r, const value *container, const value *v);
/* What a loop goes over, as a list; NULL (and the run has failed): it cannot. */
const list *jn_items(jinja_run *r, const value *v);
const char *jn_type_name(const value *v);

/* v.name, or v[name] where there is no such attribute; undefined where there is neither. */
value jn_attribute(jinja_run *r, const value *v, text name);

/* --- operators, calls --- */

value jn_binary(jinja_run *r, operation op, const value *a, const value *b);
value jn_subscript(jinja_run *r, const value *v, const value *key);
value jn_cut(jinja_run *r, const value *v, const value *from, const value *to,
             const value *step);
value jn_call(jinja_run *r, const value *f, const args *a);

/* Methods of values and functions (jinja_methods.c). */
bool jn_has_method(const value *v, text name);
value jn_call_method(jinja_run *r, const value *self, text name, const args *a);
bool jn_has_function(text name);
value jn_call_function(jinja_run *r, text name, const args *a);
/* Without the characters at its ends; chars NULL: white space. */
text jn_strip(text s, const text *chars, bool left, bool right);
text jn_title(jinja_run *r, text s); /* the filter; the method has another idea of words */
value jn_replace(jinja_run *r, text s, text from, text to, int64_t count);

/* Filters and tests (jinja_filters.c); NULL: none of that name. */
typedef value (*jn_filter)(jinja_run *r, const value *v, const args *a);
typedef bool (*jn_test)(jinja_run *r, const value *v, const args *a);
typedef struct {
    const char *name;
    jn_filter fn;
} filter_entry;
typedef struct {
    const char *name;
    jn_test fn;
} test_entry;
const filter_entry *jn_find_filter(aiq_str name);
const test_entry *jn_find_test(aiq_str name);

/* JSON as Python's json.dumps writes it (jinja_json.c). */
value jn_tojson(jinja_run *r, const value *v, const args *a);

#endif
