#include "services/gateway/messages_answer.h"
#include <string.h>
#include "providers/rewrite.h"

#define NAME_MAX_BYTES 256 /* of an id or a model's name */

/* Words and numbers. */

static const char *stop_reason(const json_value *finish)
{
    static const char *const reasons[][2] = {
        {"length", "max_tokens"},
        {"tool_calls", "tool_use"},
        {"function_call", "tool_use"},
        {"content_filter", "refusal"},
    };

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (json_string_is(finish, reasons[i][0])) {
            return reasons[i][1];
        }
    }
    return "end_turn";
}

/* The stop sequence that ended the choice, where who answers says it: JSON_NONE where he does
 * not, or none has. */
static json_value stop_sequence(const json_value *choice)
{
    json_value finish = json_member(choice, "finish_reason");
    json_value stop = json_member(choice, "stop_reason");

    return json_string_is(&finish, "stop") && stop.type == JSON_STRING ? stop : (json_value){0};
}

static void write_stop(aiq_buf *out, const char *reason, aiq_str sequence)
{
    rewrite_member_word(out, "stop_reason", sequence.len ? "stop_sequence" : reason);
    rewrite_name(out, "stop_sequence");
    aiq_buf_add(out, sequence.len ? sequence.data : "null", sequence.len ? sequence.len : 4);
}

static int64_t count_of(const json_value *object, const char *name)
{
    json_value value = json_member(object, name);
    int64_t n;

    return json_int(&value, &n) && n > 0 ? n : 0;
}

static void read_usage(const json_value *usage, int64_t *in, int64_t *cached, int64_t *out)
{
    json_value details = json_member(usage, "prompt_tokens_details");

    *cached = count_of(&details, "cached_tokens");
    *in = count_of(usage, "prompt_tokens");
    *out = count_of(usage, "completion_tokens");
    if (*cached > *in) {
        *cached = *in;
    }
}

/* Anthropic counts what came from a cache apart. */
static void write_usage(aiq_buf *out, int64_t in, int64_t cached, int64_t generated)
{
    rewrite_name(out, "usage");
    aiq_buf_text(out, "{");
    rewrite_member_int(out, "input_tokens", in - cached);
    rewrite_member_int(out, "cache_creation_input_tokens", 0);
    rewrite_member_int(out, "cache_read_input_tokens", cached);
    rewrite_member_int(out, "output_tokens", generated);
    aiq_buf_text(out, "}");
}

/* A string member, or the other word where it is none or too long to be repeated. */
static void copy_name(aiq_buf *out, const char *name, const json_value *object,
                      const char *otherwise)
{
    json_value value = json_member(object, name);

    if (value.type == JSON_STRING && value.text.len <= NAME_MAX_BYTES) {
        rewrite_member(out, name, &value);
    } else {
        rewrite_member_word(out, name, otherwise);
    }
}

/* Events. */

static void begin_event(aiq_buf *out, const char *type)
{
    aiq_buf_text(out, "event: ");
    aiq_buf_text(out, type);
    aiq_buf_text(out, "\ndata: {\"type\":\"");
    aiq_buf_text(out, type);
    aiq_buf_text(out, "\"");
}

static void end_event(aiq_buf *out)
{
    aiq_buf_text(out, "}\n\n");
}

static void begin_message(messages_stream *s, const json_value *chunk, aiq_buf *out)
{
    s->started = true;
    begin_event(out, "message_start");
    rewrite_name(out, "message");
    aiq_buf_text(out, "{");
    copy_name(out, "id", chunk, "msg");
    aiq_buf_text(out, ",\"type\":\"message\",\"role\":\"assistant\"");
    copy_name(out, "model", chunk, "");
    aiq_buf_text(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null");
    write_usage(out, s->in, s->cached, s->out);
    aiq_buf_text(out, "}");
    end_event(out);
}

static void stop_block(uint32_t block, aiq_buf *out)
{
    begin_event(out, "content_block_stop");
    rewrite_member_int(out, "index", block);
    end_event(out);
}

static void close_text(messages_stream *s, aiq_buf *out)
{
    if (s->kind != MESSAGES_NO_BLOCK) {
        stop_block(s->block, out);
        s->kind = MESSAGES_NO_BLOCK;
    }
}

static bool is_whole(const messages_tool *tool)
{
    return tool->begun && tool->depth == 0;
}

/* all: also those whose arguments are not whole. */
static void close_tools(messages_stream *s, bool all, aiq_buf *out)
{
    for (uint32_t i = 0; i < s->n_tools; i++) {
        messages_tool *tool = &s->tools[i];
        if (tool->open && (all || is_whole(tool))) {
            stop_block(tool->block, out);
            tool->open = false;
        }
    }
}

static void begin_delta(uint32_t block, const char *type, aiq_buf *out)
{
    begin_event(out, "content_block_delta");
    rewrite_member_int(out, "index", block);
    rewrite_name(out, "delta");
    aiq_buf_text(out, "{");
    rewrite_member_word(out, "type", type);
}

static void end_delta(aiq_buf *out)
{
    aiq_buf_text(out, "}");
    end_event(out);
}

static void begin_text(messages_stream *s, messages_kind kind, aiq_buf *out)
{
    close_text(s, out);
    close_tools(s, false, out);
    s->kind = kind;
    s->block = s->n_blocks++;
    begin_event(out, "content_block_start");
    rewrite_member_int(out, "index", s->block);
    rewrite_name(out, "content_block");
    aiq_buf_text(out, kind == MESSAGES_TEXT
                          ? "{\"type\":\"text\",\"text\":\"\"}"
                          : "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    end_event(out);
}

static void add_text(messages_stream *s, messages_kind kind, const json_value *text,
                     aiq_buf *out)
{
    if (text->type != JSON_STRING || text->text.len == 2) {
        return;
    }
    if (s->kind != kind) {
        begin_text(s, kind, out);
    }
    if (kind == MESSAGES_TEXT) {
        begin_delta(s->block, "text_delta", out);
        rewrite_member(out, "text", text);
    } else {
        begin_delta(s->block, "thinking_delta", out);
        rewrite_member(out, "thinking", text);
    }
    end_delta(out);
}

/* Calls of tools. */

/* The raw text of a JSON string inside a JSON string: a quote is \" there, and the
 * backslash of an escape \\. Providers are not known to write them as \u0022 and \u005c. */
static void follow_arguments(messages_tool *tool, aiq_str raw)
{
    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.data[i];
        if (c == '\\' && i + 1 < raw.len) {
            c = raw.data[++i];
            if (c != '"' && c != '\\') {
                c = ' ';
            }
        }
        if (tool->escaped) {
            tool->escaped = false;
        } else if (tool->in_string) {
            tool->escaped = c == '\\';
            tool->in_string = c != '"';
        } else if (c == '"') {
            tool->in_string = true;
        } else if (c == '{' || c == '[') {
            tool->begun = true;
            tool->depth++;
        } else if ((c == '}' || c == ']') && tool->depth) {
            tool->depth--;
        }
    }
}

static messages_tool *begin_tool(messages_stream *s, int64_t index, const json_value *call,
                                 aiq_buf *out)
{
    json_value function = json_member(call, "function");

    if (s->n_tools == MESSAGES_TOOLS_MAX) {
        return NULL;
    }
    close_text(s, out);
    close_tools(s, false, out);
    messages_tool *tool = &s->tools[s->n_tools++];
    *tool = (messages_tool){.index = index, .block = s->n_blocks++, .open = true};
    begin_event(out, "content_block_start");
    rewrite_member_int(out, "index", tool->block);
    rewrite_name(out, "content_block");
    aiq_buf_text(out, "{\"type\":\"tool_use\"");
    copy_name(out, "id", call, "call");
    copy_name(out, "name", &function, "");
    aiq_buf_text(out, ",\"input\":{}}");
    end_event(out);
    return tool;
}

static messages_tool *find_tool(messages_stream *s, int64_t index)
{
    for (uint32_t i = s->n_tools; i > 0; i--) {
        if (s->tools[i - 1].index == index) {
            return &s->tools[i - 1];
        }
    }
    return NULL;
}

static void add_call(messages_stream *s, const json_value *call, aiq_buf *out)
{
    json_value at = json_member(call, "index"), function = json_member(call, "function");
    json_value arguments = json_member(&function, "arguments");
    int64_t index = 0;

    json_int(&at, &index);
    messages_tool *tool = find_tool(s, index);
    if (tool == NULL) {
        tool = begin_tool(s, index, call, out);
    }
    if (tool == NULL || !tool->open || arguments.type != JSON_STRING ||
        arguments.text.len == 2) {
        return;
    }
    follow_arguments(tool, rewrite_raw(&arguments));
    begin_delta(tool->block, "input_json_delta", out);
    rewrite_member(out, "partial_json", &arguments);
    end_delta(out);
}

/* Chunks. */

static void add_delta(messages_stream *s, const json_value *delta, aiq_buf *out)
{
    json_value calls = json_member(delta, "tool_calls"), call;
    json_value thought = json_member(delta, "reasoning_content");
    json_value content = json_member(delta, "content"), refusal = json_member(delta, "refusal");
    size_t cursor = 0;

    if (thought.type == JSON_NONE) {
        thought = json_member(delta, "reasoning"); /* as some providers call it */
    }
    add_text(s, MESSAGES_THINKING, &thought, out);
    add_text(s, MESSAGES_TEXT, &content, out);
    add_text(s, MESSAGES_TEXT, &refusal, out);
    if (refusal.type == JSON_STRING && refusal.text.len > 2) {
        s->stop_reason = "refusal";
    }
    while (json_each(&calls, &cursor, NULL, &call)) {
        add_call(s, &call, out);
    }
}

void messages_chunk(messages_stream *s, aiq_str data, aiq_buf *out)
{
    json_value choices, choice, usage;
    json_error error;
    const json_want wants[] = {{"choices", &choices}, {"usage", &usage}};
    size_t cursor = 0;

    if (aiq_str_is(data, "[DONE]")) {
        messages_end(s, out);
        return;
    }
    if (s->ended || !json_scan(data.data, data.len, wants, 2, &error)) {
        return;
    }
    if (usage.type == JSON_OBJECT) {
        read_usage(&usage, &s->in, &s->cached, &s->out);
    }
    if (!s->started) {
        json_value chunk = json_root(data);
        begin_message(s, &chunk, out);
    }
    if (!json_each(&choices, &cursor, NULL, &choice)) {
        return;
    }
    json_value delta = json_member(&choice, "delta");
    json_value finish = json_member(&choice, "finish_reason");
    add_delta(s, &delta, out);
    if (finish.type == JSON_STRING && s->stop_reason == NULL) {
        json_value stop = stop_sequence(&choice);
        s->stop_reason = stop_reason(&finish);
        aiq_buf_add(&s->stop_sequence, stop.text.data, stop.text.len);
    }
}

void messages_free(messages_stream *s)
{
    aiq_buf_free(&s->stop_sequence);
}

void messages_end(messages_stream *s, aiq_buf *out)
{
    if (!s->started || s->ended) {
        return;
    }
    s->ended = true;
    close_text(s, out);
    close_tools(s, true, out);
    begin_event(out, "message_delta");
    rewrite_name(out, "delta");
    aiq_buf_text(out, "{");
    write_stop(out, s->stop_reason ? s->stop_reason : "end_turn",
               (aiq_str){(char *)s->stop_sequence.data, s->stop_sequence.len});
    aiq_buf_text(out, "}");
    write_usage(out, s->in, s->cached, s->out);
    end_event(out);
    begin_event(out, "message_stop");
    end_event(out);
}

/* A whole completion. */

static void add_whole_text(aiq_buf *out, const json_value *text)
{
    if (text->type == JSON_STRING && text->text.len > 2) {
        rewrite_comma(out);
        aiq_buf_text(out, "{\"type\":\"text\"");
        rewrite_member(out, "text", text);
        aiq_buf_text(out, "}");
    }
}

/* cut: the arguments may have ended before their end. An input is an object all the same, as
 * far as they came; that it is not whole is what the stop_reason says. */
static bool add_input(aiq_buf *out, aiq_str arguments, bool cut)
{
    json_error error;

    rewrite_name(out, "input");
    if (arguments.len == 0) {
        aiq_buf_text(out, "{}");
        return true;
    }
    if (!json_scan(arguments.data, arguments.len, NULL, 0, &error)) {
        return cut && json_close(arguments, out);
    }
    aiq_buf_add(out, arguments.data, arguments.len);
    return true;
}

static bool add_whole_call(aiq_buf *out, const json_value *call, aiq_pool *pool, bool cut)
{
    json_value function = json_member(call, "function");
    json_value arguments = json_member(&function, "arguments");

    rewrite_comma(out);
    aiq_buf_text(out, "{\"type\":\"tool_use\"");
    copy_name(out, "id", call, "call");
    copy_name(out, "name", &function, "");
    if (!add_input(out, json_string(pool, &arguments), cut)) {
        return false;
    }
    aiq_buf_text(out, "}");
    return true;
}

static bool add_whole(aiq_buf *out, const json_value *message, aiq_pool *pool, bool cut)
{
    json_value thought = json_member(message, "reasoning_content"), call;
    json_value content = json_member(message, "content");
    json_value refusal = json_member(message, "refusal");
    json_value calls = json_member(message, "tool_calls");
    size_t cursor = 0;

    rewrite_name(out, "content");
    aiq_buf_text(out, "[");
    if (thought.type == JSON_NONE) {
        thought = json_member(message, "reasoning");
    }
    if (thought.type == JSON_STRING && thought.text.len > 2) {
        aiq_buf_text(out, "{\"type\":\"thinking\"");
        rewrite_member(out, "thinking", &thought);
        aiq_buf_text(out, ",\"signature\":\"\"}");
    }
    add_whole_text(out, &content);
    add_whole_text(out, &refusal);
    while (json_each(&calls, &cursor, NULL, &call)) {
        if (!add_whole_call(out, &call, pool, cut)) {
            return false;
        }
    }
    aiq_buf_text(out, "]");
    return true;
}

bool messages_completion(aiq_str body, aiq_pool *pool, aiq_buf *out)
{
    json_value choices, choice = {0}, usage;
    json_error error;
    const json_want wants[] = {{"choices", &choices}, {"usage", &usage}};
    int64_t in, cached, generated;
    size_t cursor = 0;

    if (!json_scan(body.data, body.len, wants, 2, &error) ||
        !json_each(&choices, &cursor, NULL, &choice)) {
        return false;
    }
    json_value root = json_root(body), message = json_member(&choice, "message");
    json_value finish = json_member(&choice, "finish_reason");
    json_value refusal = json_member(&message, "refusal");
    json_value stop = stop_sequence(&choice);
    bool refused = refusal.type == JSON_STRING && refusal.text.len > 2;
    aiq_buf_text(out, "{");
    copy_name(out, "id", &root, "msg");
    aiq_buf_text(out, ",\"type\":\"message\",\"role\":\"assistant\"");
    copy_name(out, "model", &root, "");
    if (!add_whole(out, &message, pool, json_string_is(&finish, "length"))) {
        return false;
    }
    write_stop(out, refused ? "refusal" : stop_reason(&finish), stop.text);
    read_usage(&usage, &in, &cached, &generated);
    write_usage(out, in, cached, generated);
    aiq_buf_text(out, "}");
    return true;
}
