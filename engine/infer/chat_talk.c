#include "infer/chat_talk.h"

#include <string.h>

#include "core/json.h"

#define MISTRAL_ID 9

typedef struct {
    jinja_run *r;
    aiq_pool *pool;
    const chat_ways *ways;
    const chat_talk *talk;
    jinja_value *list;
    aiq_buf system;  /* what the system message says */
    aiq_buf results; /* of calls, as text: the user's turn that is under way */
} writer;

static json_value list_of(aiq_str text)
{
    return (json_value){JSON_ARRAY, text, 0};
}

static jinja_value *word(const writer *w, const char *text)
{
    return jinja_text(w->r, text, strlen(text), false);
}

static jinja_value *foreign(const writer *w, aiq_str text)
{
    return jinja_text(w->r, text.data, text.len, true);
}

/* The buffer's text, in the pool; the buffer is empty then. */
static aiq_str keep(const writer *w, aiq_buf *text)
{
    aiq_str kept = {aiq_pool_copy(w->pool, text->data, text->len), text->len};

    aiq_buf_free(text);
    return kept;
}

static jinja_value *add_message(writer *w, const char *role, aiq_str content)
{
    jinja_value *message = jinja_dict(w->r);

    jinja_dict_set(w->r, message, "role", word(w, role));
    jinja_dict_set(w->r, message, "content", foreign(w, content));
    jinja_list_add(w->r, w->list, message);
    return message;
}

/* --- calls as the template has them --- */

static bool is_plain(aiq_str id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))) {
            return false;
        }
    }
    return true;
}

/* Mistral's templates insist on ids of nine letters and digits: others get one of their own,
 * the same in a call and its result. */
static jinja_value *id_of(const writer *w, aiq_str id)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    bool mistral = w->ways->format == TOOL_MISTRAL || w->ways->format == TOOL_MISTRAL_NAMED;
    uint64_t hash = 0xcbf29ce484222325;
    char out[MISTRAL_ID];

    if (!mistral || (id.len == MISTRAL_ID && is_plain(id))) {
        return foreign(w, id);
    }
    for (size_t i = 0; i < id.len; i++) {
        hash = (hash ^ (uint8_t)id.data[i]) * 0x100000001b3;
    }
    for (size_t i = 0; i < MISTRAL_ID; i++, hash /= 36) {
        out[i] = digits[hash % 36];
    }
    return foreign(w, (aiq_str){aiq_pool_copy(w->pool, out, MISTRAL_ID), MISTRAL_ID});
}

static aiq_str member_text(const writer *w, const json_value *object, const char *name)
{
    json_value value = json_member(object, name);

    return value.type == JSON_STRING ? json_string(w->pool, &value) : AIQ_STR("");
}

static jinja_value *arguments_of(const writer *w, aiq_str text)
{
    json_value value = {JSON_OBJECT, text, 0};
    json_error error;

    if (w->ways->text_arguments || !json_scan(text.data, text.len, NULL, 0, &error)) {
        return foreign(w, text);
    }
    value = json_root(text);
    return jinja_from_json(w->r, &value);
}

static jinja_value *call_of(const writer *w, const json_value *call)
{
    json_value its = json_member(call, "function");
    jinja_value *out = jinja_dict(w->r), *function = jinja_dict(w->r);

    jinja_dict_set(w->r, function, "name", foreign(w, member_text(w, &its, "name")));
    jinja_dict_set(w->r, function, "arguments",
                   arguments_of(w, member_text(w, &its, "arguments")));
    jinja_dict_set(w->r, out, "id", id_of(w, member_text(w, call, "id")));
    jinja_dict_set(w->r, out, "type", word(w, "function"));
    jinja_dict_set(w->r, out, "function", function);
    return out;
}

/* --- calls as text --- */

static void write_calls(const writer *w, aiq_str calls, aiq_buf *out)
{
    const json_value list = list_of(calls);
    json_value call;
    size_t cursor = 0;

    while (json_each(&list, &cursor, NULL, &call)) {
        json_value its = json_member(&call, "function");
        json_value name = json_member(&its, "name");
        aiq_str arguments = member_text(w, &its, "arguments");

        aiq_buf_text(out, out->len > 0 ? "\n" : "");
        aiq_buf_text(out, "<tool_call>\n{\"name\": ");
        aiq_buf_add(out, name.text.data, name.text.len);
        aiq_buf_text(out, ", \"arguments\": ");
        aiq_buf_add(out, arguments.data, arguments.len);
        aiq_buf_text(out, "}\n</tool_call>");
    }
}

static void write_result(writer *w, const infer_message *m)
{
    aiq_buf_text(&w->results, w->results.len > 0 ? "\n" : "");
    aiq_buf_text(&w->results, "<tool_response>\n");
    aiq_buf_add(&w->results, m->content, m->content_len);
    aiq_buf_text(&w->results, "\n</tool_response>");
}

static void end_results(writer *w)
{
    if (w->results.len > 0) {
        add_message(w, "user", keep(w, &w->results));
    }
}

/* --- messages --- */

static void add_assistant(writer *w, const infer_message *m)
{
    const json_value list = list_of(m->calls);
    aiq_str content = {m->content, m->content_len};
    jinja_value *message, *calls;
    json_value call;
    size_t cursor = 0;

    if (m->calls.len > 0 && !w->ways->calls) {
        aiq_buf text = {0};

        aiq_buf_add(&text, content.data, content.len);
        write_calls(w, m->calls, &text);
        content = keep(w, &text);
    }
    message = add_message(w, "assistant", content);
    if (m->thought.len > 0) {
        jinja_dict_set(w->r, message, "reasoning_content", foreign(w, m->thought));
    }
    if (m->calls.len > 0 && w->ways->calls) {
        calls = jinja_list(w->r);
        while (json_each(&list, &cursor, NULL, &call)) {
            jinja_list_add(w->r, calls, call_of(w, &call));
        }
        jinja_dict_set(w->r, message, "tool_calls", calls);
    }
}

static void add_result(writer *w, const infer_message *m)
{
    jinja_value *message;

    if (!w->ways->calls) {
        write_result(w, m);
        return;
    }
    message = add_message(w, "tool", (aiq_str){m->content, m->content_len});
    jinja_dict_set(w->r, message, "tool_call_id", id_of(w, m->call_id));
    jinja_dict_set(w->r, message, "name", foreign(w, m->name));
}

/* What the user has to say for others: what the system would, and results of calls. */
static aiq_str take_waiting(writer *w)
{
    if (w->system.len > 0 && w->results.len > 0) {
        aiq_buf_text(&w->system, "\n\n");
    }
    aiq_buf_add(&w->system, w->results.data, w->results.len);
    aiq_buf_free(&w->results);
    return keep(w, &w->system);
}

/* In one message, for many templates insist that users and assistants take turns. */
static void add_user(writer *w, const infer_message *m)
{
    aiq_str content = {m->content, m->content_len}, waiting = take_waiting(w);
    aiq_buf both = {0};

    if (waiting.len > 0) {
        aiq_buf_add(&both, waiting.data, waiting.len);
        aiq_buf_text(&both, "\n\n");
        aiq_buf_add(&both, content.data, content.len);
        content = keep(w, &both);
    }
    add_message(w, m->role, content);
}

static bool is(const infer_message *m, const char *role)
{
    return strcmp(m->role, role) == 0;
}

static void say_system(writer *w, const infer_message *m)
{
    aiq_buf_text(&w->system, w->system.len > 0 ? "\n\n" : "");
    aiq_buf_add(&w->system, m->content, m->content_len);
}

static void add(writer *w, const infer_message *m)
{
    if (is(m, "tool")) {
        add_result(w, m);
    } else if (is(m, "user")) {
        add_user(w, m);
    } else if (is(m, "assistant")) {
        end_results(w);
        add_assistant(w, m);
    } else if (!w->ways->system) {
        say_system(w, m); /* with what the user says next */
    } else {
        end_results(w);
        add_message(w, m->role, (aiq_str){m->content, m->content_len});
    }
}

/* What a template does not say of tools itself. */
static void tell_tools(writer *w)
{
    static const char before[] = "You may call these functions:\n";
    static const char behind[] =
        "\nTo call one, answer with:\n<tool_call>\n"
        "{\"name\": \"its name\", \"arguments\": {its arguments}}\n</tool_call>";

    if (w->talk->tools.len > 0 && !w->ways->tools) {
        aiq_buf_text(&w->system, w->system.len > 0 ? "\n\n" : "");
        aiq_buf_text(&w->system, before);
        aiq_buf_add(&w->system, w->talk->tools.data, w->talk->tools.len);
        aiq_buf_text(&w->system, behind);
    }
}

/* The system messages that come first, as one. Returns how many they are. */
static size_t add_system(writer *w)
{
    bool phi = w->ways->format == TOOL_PHI && w->talk->tools.len > 0 && w->ways->tools;
    size_t n = 0;

    for (; n < w->talk->n && is(&w->talk->messages[n], "system"); n++) {
        say_system(w, &w->talk->messages[n]);
    }
    tell_tools(w);
    if ((n > 0 || w->system.len > 0 || phi) && w->ways->system) {
        jinja_value *message = add_message(w, "system", keep(w, &w->system));

        if (phi) { /* its template looks for them there */
            jinja_dict_set(w->r, message, "tools", foreign(w, w->talk->tools));
        }
    }
    return n;
}

void chat_talk_define(jinja_run *r, aiq_pool *pool, const chat_ways *ways,
                      const chat_talk *talk)
{
    writer w = {.r = r, .pool = pool, .ways = ways, .talk = talk, .list = jinja_list(r)};
    aiq_str waiting;

    for (size_t i = add_system(&w); i < talk->n; i++) {
        add(&w, &talk->messages[i]);
    }
    waiting = take_waiting(&w);
    if (waiting.len > 0) {
        add_message(&w, "user", waiting);
    }
    jinja_define(r, "messages", w.list);
    if (talk->tools.len > 0 && ways->tools) {
        const json_value tools = list_of(talk->tools);

        jinja_define(r, "tools", jinja_from_json(r, &tools));
    }
}
