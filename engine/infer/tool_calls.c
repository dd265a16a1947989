#include "infer/tool_calls.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"

#define MAX_HELD 64 /* white space; and what stands between a bare name and its arguments */

typedef enum {
    IN_TEXT,
    IN_THOUGHT,
    AT_CALLS, /* behind a mark */
    AT_ITEM,  /* of a list, before a call */
    AT_KEY,   /* of a call, or its end */
    IN_KEY,
    BEHIND_KEY,   /* before the colon */
    AT_VALUE,     /* behind it */
    IN_NAME,      /* the value of "name" */
    IN_ARGUMENTS, /* the value of "arguments" */
    IN_OTHER,     /* any other value */
    BEHIND_VALUE, /* of a call, or its end */
    BEHIND_CALL,
    IN_BARE_NAME /* and behind it, before the arguments */
} place;

typedef enum { OTHER_MEMBER, THE_NAME, THE_ARGUMENTS } member;

/* Places in raw. */
typedef struct {
    bool told; /* its name is known, and said */
    bool done; /* so are its arguments; raw begins behind them */
    bool bare; /* name[ARGS]{…} */
    size_t key;
    member member; /* what the key is */
    size_t name;
    size_t name_len;     /* 0: it has not ended */
    size_t arguments;    /* 0: they have not begun */
    size_t arguments_to; /* 0: they have not ended */
    size_t arguments_told;
} call;

struct tool_parser {
    tool_options options;
    tool_piece_fn fn;
    void *arg;
    place at;
    bool began;   /* something was said or called */
    bool drop_ws; /* white space behind a mark */
    bool list;    /* of calls */
    bool behind;  /* a call: its closing mark may come */
    uint32_t n;   /* calls told */
    aiq_buf raw;  /* held back; or of a call, since its mark or the call before */
    aiq_buf out;  /* text, or a thought, that was not told yet */
    call call;

    /* of a JSON value */
    uint32_t depth;
    bool in_string, escaped;
};

/* --- formats --- */

typedef struct {
    const char *open[2];
    const char *close; /* NULL: none */
} marks;

static const marks formats[] = {
    [TOOL_HERMES] = {{"<tool_call>"}, "</tool_call>"},
    [TOOL_MISTRAL] = {{"[TOOL_CALLS]"}, NULL},
    [TOOL_MISTRAL_NAMED] = {{"[TOOL_CALLS]"}, NULL},
    [TOOL_LLAMA] = {{"<|python_tag|>"}, NULL},
    [TOOL_PHI] = {{"<|tool_call|>", "functools"}, "<|/tool_call|>"},
};

static const char think_open[] = "<think>", think_close[] = "</think>";

static bool has(aiq_str text, const char *words)
{
    return memmem(text.data, text.len, words, strlen(words)) != NULL;
}

tool_format tool_format_of(aiq_str template)
{
    if (has(template, "<tool_call>")) {
        return TOOL_HERMES;
    }
    if (has(template, "[TOOL_CALLS]")) {
        return has(template, "[ARGS]") ? TOOL_MISTRAL_NAMED : TOOL_MISTRAL;
    }
    if (has(template, "<|python_tag|>") ||
        (has(template, "<|start_header_id|>") && has(template, "\"parameters\""))) {
        return TOOL_LLAMA;
    }
    return has(template, "<|tool|>") || has(template, "functools") ? TOOL_PHI : TOOL_HERMES;
}

const char *const *tool_marks(tool_format format)
{
    static const char *const marks_of[][TOOL_MAX_MARKS] = {
        [TOOL_HERMES] = {"<tool_call>", "</tool_call>", think_open, think_close},
        [TOOL_MISTRAL] = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", think_open, think_close},
        [TOOL_MISTRAL_NAMED] = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", think_open, think_close},
        [TOOL_LLAMA] = {"<|python_tag|>", think_open, think_close},
        [TOOL_PHI] = {"<|tool_call|>", "<|/tool_call|>", think_open, think_close},
    };

    return marks_of[format];
}

/* --- telling --- */

static void flush_out(tool_parser *p)
{
    tool_piece piece = {.type = p->at == IN_THOUGHT ? TOOL_THOUGHT : TOOL_TEXT,
                        .text = {(const char *)p->out.data, p->out.len}};

    if (p->out.len > 0) {
        p->fn(p->arg, &piece);
        aiq_buf_consume(&p->out, p->out.len);
    }
}

static void go(tool_parser *p, place to)
{
    flush_out(p);
    p->at = to;
}

/* The first n bytes of raw are said. */
static void say(tool_parser *p, size_t n)
{
    p->began = p->began || p->at != IN_THOUGHT;
    p->behind = false;
    aiq_buf_add(&p->out, p->raw.data, n);
    aiq_buf_consume(&p->raw, n);
}

static aiq_str slice(const tool_parser *p, size_t from, size_t to)
{
    return (aiq_str){(const char *)p->raw.data + from, to - from};
}

static void tell(tool_parser *p, tool_piece_type type, aiq_str text, bool whole)
{
    const tool_piece piece = {.type = type, .call = p->n - 1, .text = text, .whole = whole};

    if (!p->options.one || p->n == 1) {
        p->fn(p->arg, &piece);
    }
}

/* What is known of the arguments and was not told. */
static void tell_arguments(tool_parser *p)
{
    call *c = &p->call;
    size_t to = c->arguments_to > 0 ? c->arguments_to : p->raw.len;

    size_t from = c->arguments_told > 0 ? c->arguments_told : c->arguments;

    if (c->told && !c->done && from > 0 && to > from) {
        tell(p, TOOL_ARGUMENTS, slice(p, from, to), false);
        c->arguments_told = to;
    }
}

/* What was held back is no call of ours after all. */
static void give_up(tool_parser *p)
{
    if (p->call.told && !p->call.done) {
        tell_arguments(p);
        tell(p, TOOL_END, slice(p, 0, p->raw.len), false);
        aiq_buf_consume(&p->raw, p->raw.len);
    }
    p->call = (call){0};
    go(p, IN_TEXT);
    say(p, p->raw.len);
}

/* Name and arguments are known. */
static void end_call(tool_parser *p)
{
    call *c = &p->call;
    json_error error;
    aiq_str text = AIQ_STR("{}");

    if (c->arguments > 0) {
        tell_arguments(p);
        text = slice(p, c->arguments, c->arguments_to);
    } else {
        tell(p, TOOL_ARGUMENTS, text, false);
    }
    tell(p, TOOL_END, slice(p, 0, p->raw.len), json_scan(text.data, text.len, NULL, 0, &error));
    c->done = true;
    aiq_buf_consume(&p->raw, p->raw.len);
}

/* The name is known: where it is a tool's, the call is told. */
static bool name_call(tool_parser *p)
{
    call *c = &p->call;
    aiq_str name = slice(p, c->name, c->name + c->name_len);

    for (size_t i = 0; i < p->options.n_names; i++) {
        if (aiq_str_eq(p->options.names[i], name)) {
            p->n++;
            p->began = c->told = true;
            tell(p, TOOL_CALL, name, false);
            tell_arguments(p);
            return true;
        }
    }
    return false;
}

/* --- text and thoughts --- */

static bool is_ws(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

typedef enum { NO_MARK, PART_OF_MARK, OPENS, CLOSES, THOUGHT_OPENS, THOUGHT_CLOSES } mark;

/* Is held, which is not empty, the mark? Or its beginning? */
static mark look_for(aiq_str held, const char *text, mark which, mark before)
{
    size_t len = text != NULL ? strlen(text) : 0;

    if (before > PART_OF_MARK || held.len > len || memcmp(text, held.data, held.len) != 0) {
        return before;
    }
    return held.len == len ? which : PART_OF_MARK;
}

static mark find_mark(const tool_parser *p, aiq_str held)
{
    const marks *m = &formats[p->options.format];
    bool first = !p->began && !p->options.goes_on;
    mark found = NO_MARK;

    if (p->at == IN_THOUGHT) {
        return look_for(held, think_close, THOUGHT_CLOSES, found);
    }
    if (p->options.thinks && first) {
        found = look_for(held, think_open, THOUGHT_OPENS, found);
    }
    if (p->options.n_names > 0) {
        found = look_for(held, m->open[0], OPENS, found);
        found = look_for(held, m->open[1], OPENS, found);
        if (p->behind) {
            found = look_for(held, m->close, CLOSES, found);
        }
        if (p->options.format == TOOL_LLAMA && first && held.len == 1 && held.data[0] == '{') {
            found = OPENS;
        }
    }
    return found;
}

static void begin_object(tool_parser *p)
{
    p->call = (call){0};
    go(p, AT_KEY);
}

static void take_mark(tool_parser *p, mark found)
{
    bool bare = p->raw.data[p->raw.len - 1] == '{';

    switch (found) {
    case OPENS:
        p->list = false;
        p->call = (call){0};
        go(p, bare ? AT_KEY : AT_CALLS);
        return;
    case THOUGHT_OPENS:
        go(p, IN_THOUGHT);
        break;
    case THOUGHT_CLOSES:
        go(p, IN_TEXT);
        p->options.thinks = false;
        break;
    default:
        p->behind = false;
    }
    p->drop_ws = true;
    aiq_buf_consume(&p->raw, p->raw.len);
}

/* raw: white space, and behind that what may be the beginning of a mark. */
static void sift(tool_parser *p)
{
    while (p->raw.len > 0) {
        const char *text = (const char *)p->raw.data;
        size_t ws = 0;
        mark found;

        while (ws < p->raw.len && is_ws(text[ws])) {
            ws++;
        }
        if (p->drop_ws && ws > 0) {
            aiq_buf_consume(&p->raw, ws);
            continue;
        }
        if (ws == p->raw.len) {
            if (ws > MAX_HELD) {
                say(p, ws);
            }
            return;
        }
        p->drop_ws = false;
        found = find_mark(p, (aiq_str){text + ws, p->raw.len - ws});
        if (found == PART_OF_MARK) {
            return;
        }
        if (found != NO_MARK) {
            take_mark(p, found);
            return;
        }
        say(p, ws + 1);
    }
}

/* --- calls --- */

/* Of a value that is an object or a list: has it ended with this byte? */
static bool follow_value(tool_parser *p, char c)
{
    if (p->escaped) {
        p->escaped = false;
    } else if (p->in_string) {
        p->escaped = c == '\\';
        p->in_string = c != '"';
    } else if (c == '"') {
        p->in_string = true;
    } else if (c == '{' || c == '[') {
        p->depth++;
    } else if ((c == '}' || c == ']') && p->depth > 0) {
        return --p->depth == 0;
    }
    return false;
}

/* Behind a mark: a list of calls, a call, or a name. */
static void take_first(tool_parser *p, char c)
{
    tool_format format = p->options.format;

    if (c == '{') {
        begin_object(p);
    } else if (c == '[') {
        p->list = true;
        p->at = AT_ITEM;
    } else if ((format == TOOL_MISTRAL || format == TOOL_MISTRAL_NAMED) && !is_ws(c)) {
        p->call.bare = true;
        p->call.name = p->raw.len - 1;
        p->at = IN_BARE_NAME;
    } else if (!is_ws(c)) {
        give_up(p);
    }
}

static void take_item(tool_parser *p, char c)
{
    if (c == '{') {
        begin_object(p);
    } else if (!is_ws(c)) {
        give_up(p);
    }
}

static void end_object(tool_parser *p)
{
    if (p->call.told && !p->call.done) {
        end_call(p); /* without arguments */
    }
    if (!p->call.done) {
        give_up(p);
        return;
    }
    aiq_buf_consume(&p->raw, p->raw.len);
    p->call = (call){0};
    p->behind = true;
    p->at = BEHIND_CALL;
}

static void take_key(tool_parser *p, char c)
{
    if (c == '"') {
        p->call.key = p->raw.len;
        p->at = IN_KEY;
    } else if (c == '}') {
        end_object(p);
    } else if (!is_ws(c)) {
        give_up(p);
    }
}

static void end_key(tool_parser *p)
{
    call *k = &p->call;
    aiq_str key = slice(p, k->key, p->raw.len - 1);

    k->member = OTHER_MEMBER;
    if (k->done) {
        /* what may still come does not matter */
    } else if (aiq_str_is(key, "name") && k->name_len == 0) {
        k->member = THE_NAME;
    } else if ((aiq_str_is(key, "arguments") || aiq_str_is(key, "parameters")) &&
               k->arguments == 0) {
        k->member = THE_ARGUMENTS;
    }
    p->at = BEHIND_KEY;
}

/* The end of a value that is none of ours; of a number or a word, the byte behind it. */
static void take_other(tool_parser *p, char c)
{
    bool scalar = p->depth == 0 && !p->in_string;

    if (follow_value(p, c)) {
        p->at = BEHIND_VALUE;
    } else if (scalar && (c == ',' || c == '}')) {
        if (c == ',') {
            p->at = AT_KEY;
        } else {
            end_object(p);
        }
    }
}

static void begin_value(tool_parser *p, char c)
{
    call *k = &p->call;

    p->depth = 0;
    p->in_string = p->escaped = false;
    if (is_ws(c)) {
        return;
    }
    if (k->member == THE_NAME && c == '"') {
        k->name = p->raw.len;
        p->at = IN_NAME;
    } else if (k->member == THE_ARGUMENTS && c == '{') {
        k->arguments = p->raw.len - 1;
        follow_value(p, c);
        p->at = IN_ARGUMENTS;
    } else if (k->member == OTHER_MEMBER) {
        p->at = IN_OTHER;
        take_other(p, c);
    } else {
        give_up(p);
    }
}

static void take_name(tool_parser *p, char c)
{
    if (c != '"') {
        return;
    }
    p->call.name_len = p->raw.len - 1 - p->call.name;
    if (!name_call(p)) {
        give_up(p);
        return;
    }
    if (p->call.arguments_to > 0) {
        end_call(p);
    }
    p->at = BEHIND_VALUE;
}

static void take_arguments(tool_parser *p, char c)
{
    call *k = &p->call;
    bool bare = k->bare;

    if (!follow_value(p, c)) {
        return;
    }
    k->arguments_to = p->raw.len;
    if (k->told) {
        end_call(p);
    }
    if (bare) {
        p->call = (call){0};
        p->behind = true;
        go(p, IN_TEXT);
    } else {
        p->at = BEHIND_VALUE;
    }
}

static void take_comma(tool_parser *p, char c)
{
    if (c == ',') {
        p->at = AT_KEY;
    } else if (c == '}') {
        end_object(p);
    } else if (!is_ws(c)) {
        give_up(p);
    }
}

/* Another call, or the end of them. */
static void take_next(tool_parser *p, char c)
{
    if (p->list && c == ',') {
        p->at = AT_ITEM;
    } else if (p->list && c == ']') {
        aiq_buf_consume(&p->raw, p->raw.len);
        go(p, IN_TEXT);
    } else if (!p->list && c == '{') {
        begin_object(p);
    } else if (!is_ws(c) && (p->list || p->options.format != TOOL_LLAMA || c != ';')) {
        go(p, IN_TEXT);
        sift(p);
    }
}

static bool is_name_byte(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           c == '_' || c == '-' || c == '.';
}

/* name[ARGS]{, name[CALL_ID]…[ARGS]{, name{ */
static void take_bare_name(tool_parser *p, char c)
{
    call *k = &p->call;
    size_t end = p->raw.len - 1;

    if (k->name_len == 0 && !is_name_byte(c)) {
        k->name_len = end - k->name;
    }
    if (c == '{' && k->name_len > 0 && name_call(p)) {
        k->arguments = end;
        p->depth = 0;
        p->in_string = p->escaped = false;
        follow_value(p, c);
        p->at = IN_ARGUMENTS;
    } else if (end - k->name > 2 * MAX_HELD ||
               !(is_name_byte(c) || is_ws(c) || c == '[' || c == ']') ||
               (k->name_len == 0 && end > k->name && !is_name_byte(c))) {
        give_up(p);
    }
}

static void take_byte(tool_parser *p, char c)
{
    aiq_buf_add(&p->raw, &c, 1);
    switch (p->at) {
    case IN_TEXT:
    case IN_THOUGHT:
        sift(p);
        break;
    case AT_CALLS:
        take_first(p, c);
        break;
    case AT_ITEM:
        take_item(p, c);
        break;
    case AT_KEY:
        take_key(p, c);
        break;
    case IN_KEY:
        if (c == '"') {
            end_key(p);
        }
        break;
    case BEHIND_KEY:
        if (c == ':') {
            p->at = AT_VALUE;
        } else if (!is_ws(c)) {
            give_up(p);
        }
        break;
    case AT_VALUE:
        begin_value(p, c);
        break;
    case IN_NAME:
        take_name(p, c);
        break;
    case IN_ARGUMENTS:
        take_arguments(p, c);
        break;
    case IN_OTHER:
        take_other(p, c);
        break;
    case BEHIND_VALUE:
        take_comma(p, c);
        break;
    case BEHIND_CALL:
        take_next(p, c);
        break;
    case IN_BARE_NAME:
        take_bare_name(p, c);
        break;
    }
}

/* --- the whole --- */

tool_parser *tool_parser_new(const tool_options *options, tool_piece_fn fn, void *arg)
{
    tool_parser *p = aiq_zalloc(sizeof(*p));

    p->options = *options;
    p->fn = fn;
    p->arg = arg;
    p->at = options->thinks && options->is_thought ? IN_THOUGHT : IN_TEXT;
    return p;
}

void tool_parser_free(tool_parser *p)
{
    aiq_buf_free(&p->raw);
    aiq_buf_free(&p->out);
    free(p);
}

void tool_parser_push(tool_parser *p, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        take_byte(p, text[i]);
    }
    flush_out(p);
    tell_arguments(p);
}

void tool_parser_end(tool_parser *p)
{
    size_t ws = 0;

    if (p->call.told && !p->call.done) {
        give_up(p);
    }
    while (ws < p->raw.len && is_ws((char)p->raw.data[ws])) {
        ws++;
    }
    /* white space behind a call or a thought, or what came behind a call's arguments, is none
     * of the answer */
    if (p->call.done || (ws == p->raw.len && (p->n > 0 || p->at == IN_THOUGHT))) {
        aiq_buf_consume(&p->raw, p->raw.len);
    }
    if (p->at != IN_THOUGHT) {
        p->at = IN_TEXT;
    }
    if (p->raw.len > 0) {
        say(p, p->raw.len);
    }
    flush_out(p);
}
