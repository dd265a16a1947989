#include "providers/anthropic_answer.h"
#include <stdio.h>
#include <string.h>
#include "aiq_error.h"
#include "providers/rewrite.h"

#define NAME_MAX_BYTES 256 /* of an id or a model's name */

/* Usage. */

static void read_count(const json_value *usage, const char *name, int64_t *count)
{
    json_value value = json_member(usage, name);
    int64_t n = provider_count(&value);

    if (n >= 0) {
        *count = n;
    }
}

void anthropic_add_usage(anthropic_usage *usage, const json_value *value)
{
    json_value details = json_member(value, "output_tokens_details");

    read_count(value, "input_tokens", &usage->in);
    read_count(value, "cache_read_input_tokens", &usage->cache_read);
    read_count(value, "cache_creation_input_tokens", &usage->cache_written);
    read_count(value, "output_tokens", &usage->out);
    read_count(&details, "thinking_tokens", &usage->thinking);
}

static int64_t or_none(int64_t n)
{
    return n < 0 ? 0 : n;
}

provider_tokens anthropic_tokens(const anthropic_usage *usage)
{
    provider_tokens tokens = {-1, usage->out, usage->cache_read, usage->thinking};

    if (usage->in >= 0) {
        tokens.in = usage->in + or_none(usage->cache_read) + or_none(usage->cache_written);
    }
    return tokens;
}

static void write_usage(aiq_buf *out, const anthropic_usage *usage)
{
    provider_tokens tokens = anthropic_tokens(usage);

    rewrite_name(out, "usage");
    aiq_buf_text(out, "{");
    rewrite_member_int(out, "prompt_tokens", or_none(tokens.in));
    rewrite_member_int(out, "completion_tokens", or_none(tokens.out));
    rewrite_member_int(out, "total_tokens", or_none(tokens.in) + or_none(tokens.out));
    rewrite_name(out, "prompt_tokens_details");
    aiq_buf_text(out, "{");
    rewrite_member_int(out, "cached_tokens", or_none(usage->cache_read));
    aiq_buf_text(out, "}");
    if (usage->thinking >= 0) {
        rewrite_name(out, "completion_tokens_details");
        aiq_buf_text(out, "{");
        rewrite_member_int(out, "reasoning_tokens", usage->thinking);
        aiq_buf_text(out, "}");
    }
    aiq_buf_text(out, "}");
}

/* Words. */

static const char *finish_reason(const json_value *stop)
{
    static const char *const reasons[][2] = {
        {"max_tokens", "length"},
        {"model_context_window_exceeded", "length"},
        {"tool_use", "tool_calls"},
        {"refusal", "content_filter"},
    };

    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (json_string_is(stop, reasons[i][0])) {
            return reasons[i][1];
        }
    }
    return "stop"; /* end_turn, stop_sequence, pause_turn, and what is new */
}

static unsigned error_status(const json_value *type)
{
    static const struct {
        const char *type;
        unsigned status;
    } known[] = {
        {"invalid_request_error", 400}, {"authentication_error", 401},
        {"billing_error", 402},         {"permission_error", 403},
        {"not_found_error", 404},       {"request_too_large", 413},
        {"rate_limit_error", 429},      {"timeout_error", 504},
        {"overloaded_error", 529},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (json_string_is(type, known[i].type)) {
            return known[i].status;
        }
    }
    return 500;
}

/* What begins a completion or each of its chunks. False: no message. */
static bool write_head(aiq_buf *out, const json_value *message, const char *object,
                       int64_t created)
{
    json_value id = json_member(message, "id"), model = json_member(message, "model");

    if (id.type != JSON_STRING || id.text.len > NAME_MAX_BYTES || model.type != JSON_STRING ||
        model.text.len > NAME_MAX_BYTES) {
        return false;
    }
    aiq_buf_text(out, "{");
    rewrite_member(out, "id", &id);
    rewrite_member_word(out, "object", object);
    rewrite_member_int(out, "created", created);
    rewrite_member(out, "model", &model);
    rewrite_name(out, "choices");
    aiq_buf_text(out, "[");
    return true;
}

/* A stream. */

void anthropic_stream_init(anthropic_stream *s, int64_t created, bool wants_usage)
{
    *s = (anthropic_stream){
        .usage = {-1, -1, -1, -1, -1}, .created = created, .wants_usage = wants_usage};
}

void anthropic_stream_free(anthropic_stream *s)
{
    aiq_buf_free(&s->head);
    aiq_buf_free(&s->out);
}

static void begin_chunk(anthropic_stream *s)
{
    aiq_buf_add(&s->out, s->head.data, s->head.len);
}

/* The end of a chunk with a choice, behind its delta. */
static void end_chunk(anthropic_stream *s, const char *reason)
{
    if (reason) {
        aiq_buf_printf(&s->out, ",\"finish_reason\":\"%s\"}]", reason);
    } else {
        aiq_buf_text(&s->out, ",\"finish_reason\":null}]");
    }
    aiq_buf_text(&s->out, s->wants_usage ? ",\"usage\":null}" : "}");
}

static void begin_delta(anthropic_stream *s)
{
    begin_chunk(s);
    aiq_buf_text(&s->out, "{\"index\":0,\"delta\":{");
}

static void end_delta(anthropic_stream *s)
{
    aiq_buf_text(&s->out, "}");
    end_chunk(s, NULL);
}

static void text_chunk(anthropic_stream *s, const char *name, const json_value *text)
{
    if (text->type == JSON_STRING && text->text.len > 2) {
        begin_delta(s);
        rewrite_member(&s->out, name, text);
        end_delta(s);
    }
}

static bool bad(aiq_err *err, const char *detail)
{
    aiq_fail(err, 502, "provider_error", "The provider gave no valid reply.");
    aiq_err_detail(err, "%s", detail);
    return false;
}

static bool on_start(anthropic_stream *s, const json_value *message, aiq_err *err)
{
    json_value usage = json_member(message, "usage");

    if (s->head.len || !write_head(&s->head, message, "chat.completion.chunk", s->created)) {
        return bad(err, "message_start without a message, or two of them");
    }
    anthropic_add_usage(&s->usage, &usage);
    begin_delta(s);
    aiq_buf_text(&s->out, "\"role\":\"assistant\",\"content\":\"\"");
    end_delta(s);
    return true;
}

static bool on_block(anthropic_stream *s, uint32_t index, const json_value *block, aiq_err *err)
{
    json_value type = json_member(block, "type"), text = json_member(block, "text");
    json_value id = json_member(block, "id"), name = json_member(block, "name");
    json_value thinking = json_member(block, "thinking");

    if (json_string_is(&type, "text")) {
        text_chunk(s, "content", &text);
    } else if (json_string_is(&type, "thinking")) {
        text_chunk(s, "reasoning_content", &thinking);
    }
    if (!json_string_is(&type, "tool_use")) {
        return true;
    }
    if (s->n_tools == ANTHROPIC_TOOLS_MAX || id.type != JSON_STRING ||
        name.type != JSON_STRING) {
        return bad(err, "too many calls of tools, or one without id or name");
    }
    s->blocks[s->n_tools] = index;
    begin_delta(s);
    aiq_buf_printf(&s->out, "\"tool_calls\":[{\"index\":%u", s->n_tools++);
    rewrite_member(&s->out, "id", &id);
    aiq_buf_text(&s->out, ",\"type\":\"function\",\"function\":{");
    rewrite_member(&s->out, "name", &name);
    aiq_buf_text(&s->out, ",\"arguments\":\"\"}}]");
    end_delta(s);
    return true;
}

static bool on_input(anthropic_stream *s, uint32_t index, const json_value *json, aiq_err *err)
{
    uint32_t tool = 0;

    while (tool < s->n_tools && s->blocks[tool] != index) {
        tool++;
    }
    if (json->type != JSON_STRING) {
        return bad(err, "input_json_delta without partial_json");
    }
    if (tool < s->n_tools && json->text.len > 2) { /* else one of the server's own tools */
        begin_delta(s);
        aiq_buf_printf(&s->out, "\"tool_calls\":[{\"index\":%u,\"function\":{", tool);
        rewrite_member(&s->out, "arguments", json);
        aiq_buf_text(&s->out, "}}]");
        end_delta(s);
    }
    return true;
}

static bool on_delta(anthropic_stream *s, uint32_t index, const json_value *delta, aiq_err *err)
{
    json_value type = json_member(delta, "type"), text = json_member(delta, "text");
    json_value json = json_member(delta, "partial_json");
    json_value thinking = json_member(delta, "thinking");

    if (json_string_is(&type, "input_json_delta")) {
        return on_input(s, index, &json, err);
    }
    if (json_string_is(&type, "text_delta")) {
        text_chunk(s, "content", &text);
    } else if (json_string_is(&type, "thinking_delta")) {
        text_chunk(s, "reasoning_content", &thinking);
    }
    return true;
}

static void on_stop_reason(anthropic_stream *s, const json_value *delta)
{
    json_value stop = json_member(delta, "stop_reason");

    if (stop.type == JSON_STRING && !s->finished) {
        s->finished = true;
        begin_delta(s);
        aiq_buf_text(&s->out, "}");
        end_chunk(s, finish_reason(&stop));
    }
}

/* Fills chunks with what is in out. */
static void hand_out(anthropic_stream *s, aiq_str chunks[2], size_t *n)
{
    if (s->out.len) {
        chunks[(*n)++] = (aiq_str){(char *)s->out.data, s->out.len};
    }
}

void anthropic_end(anthropic_stream *s, aiq_str chunks[2], size_t *n)
{
    *n = 0;
    s->out.len = 0;
    s->done = true;
    if (s->native) {
        chunks[(*n)++] = AIQ_STR("{\"type\":\"message_stop\"}");
        return;
    }
    if (s->wants_usage) {
        begin_chunk(s);
        aiq_buf_text(&s->out, "]");
        write_usage(&s->out, &s->usage);
        aiq_buf_text(&s->out, "}");
    }
    hand_out(s, chunks, n);
    chunks[(*n)++] = AIQ_STR("[DONE]");
}

static bool on_error(const json_value *error, aiq_err *err)
{
    json_value type = json_member(error, "type");
    aiq_str name = rewrite_raw(&type);

    if (json_string_is(&type, "overloaded_error")) {
        aiq_fail(err, 503, "provider_overloaded", "The provider has too much to do.");
    } else if (json_string_is(&type, "rate_limit_error")) {
        aiq_fail(err, 429, "provider_limited", "The provider takes no more requests for now.");
    } else {
        aiq_fail(err, 502, "provider_error", "The provider broke its reply off with an error.");
    }
    aiq_err_detail(err, "an error in the stream: %.*s", name.len < 64 ? (int)name.len : 64,
                   name.data);
    return false;
}

/* What is told of a stream that passes as it came. */
static void look_at(anthropic_stream *s, const json_value *type, const json_value *message,
                    const json_value *delta, const json_value *usage)
{
    json_value first = json_member(message, "usage"), stop = json_member(delta, "stop_reason");

    anthropic_add_usage(&s->usage, &first);
    anthropic_add_usage(&s->usage, usage);
    s->finished |= stop.type == JSON_STRING;
    s->done = json_string_is(type, "message_stop");
}

bool anthropic_event(anthropic_stream *s, aiq_str data, aiq_str chunks[2], size_t *n,
                     aiq_err *err)
{
    json_value type, message, index, block, delta, usage, error;
    json_error why;
    const json_want wants[] = {
        {"type", &type},   {"message", &message}, {"index", &index},        {"delta", &delta},
        {"usage", &usage}, {"error", &error},     {"content_block", &block}};
    int64_t at = 0;
    bool ok = true;

    *n = 0;
    s->out.len = 0;
    if (s->done) {
        return true; /* nothing comes behind the end */
    }
    if (!json_scan(data.data, data.len, wants, sizeof(wants) / sizeof(wants[0]), &why)) {
        return bad(err, why.reason);
    }
    if (json_string_is(&type, "error")) {
        return on_error(&error, err);
    }
    if (s->native) {
        look_at(s, &type, &message, &delta, &usage);
        chunks[(*n)++] = data;
        return true;
    }
    if (json_string_is(&type, "ping")) {
        return true;
    }
    if (s->head.len == 0 && !json_string_is(&type, "message_start")) {
        return bad(err, "an event before message_start");
    }
    if (index.type != JSON_NONE && (!json_int(&index, &at) || at < 0 || at > UINT32_MAX)) {
        return bad(err, "an index that is none");
    }
    if (json_string_is(&type, "message_start")) {
        ok = on_start(s, &message, err);
    } else if (json_string_is(&type, "content_block_start")) {
        ok = on_block(s, (uint32_t)at, &block, err);
    } else if (json_string_is(&type, "content_block_delta")) {
        ok = on_delta(s, (uint32_t)at, &delta, err);
    } else if (json_string_is(&type, "message_delta")) {
        anthropic_add_usage(&s->usage, &usage);
        on_stop_reason(s, &delta);
    } else if (json_string_is(&type, "message_stop")) {
        anthropic_end(s, chunks, n);
        return true;
    }
    hand_out(s, chunks, n);
    return ok;
}

/* A whole message. */

/* The texts of all blocks of a kind as one string, or null. Two strings' raw texts in a
 * row are that of the strings in a row. */
static void write_joined(aiq_buf *out, const char *name, const json_value *content,
                         const char *kind, const char *member)
{
    json_value block;
    size_t cursor = 0, start;

    rewrite_name(out, name);
    aiq_buf_text(out, "\"");
    start = out->len;
    while (json_each(content, &cursor, NULL, &block)) {
        json_value type = json_member(&block, "type"), text = json_member(&block, member);
        if (json_string_is(&type, kind)) {
            aiq_str raw = rewrite_raw(&text);
            aiq_buf_add(out, raw.data, raw.len);
        }
    }
    if (out->len == start) {
        out->len--;
        aiq_buf_text(out, "null");
    } else {
        aiq_buf_text(out, "\"");
    }
}

static bool is_kind(const json_value *block, const char *kind)
{
    json_value type = json_member(block, "type");

    return json_string_is(&type, kind);
}

static uint32_t count_kind(const json_value *content, const char *kind)
{
    json_value block;
    size_t cursor = 0;
    uint32_t n = 0;

    while (json_each(content, &cursor, NULL, &block)) {
        n += is_kind(&block, kind);
    }
    return n;
}

static bool write_tool_calls(aiq_buf *out, const json_value *content)
{
    json_value block;
    size_t cursor = 0;

    if (count_kind(content, "tool_use") == 0) {
        return true;
    }
    rewrite_name(out, "tool_calls");
    aiq_buf_text(out, "[");
    while (json_each(content, &cursor, NULL, &block)) {
        json_value id = json_member(&block, "id"), name = json_member(&block, "name");
        json_value input = json_member(&block, "input");
        if (!is_kind(&block, "tool_use")) {
            continue;
        }
        if (id.type != JSON_STRING || name.type != JSON_STRING || input.type != JSON_OBJECT) {
            return false;
        }
        rewrite_comma(out);
        aiq_buf_text(out, "{");
        rewrite_member(out, "id", &id);
        aiq_buf_text(out, ",\"type\":\"function\",\"function\":{");
        rewrite_member(out, "name", &name);
        rewrite_member_text(out, "arguments", input.text);
        aiq_buf_text(out, "}}");
    }
    aiq_buf_text(out, "]");
    return true;
}

bool anthropic_completion(aiq_str body, int64_t created, aiq_buf *out, provider_tokens *tokens,
                          const char **wrong)
{
    json_value content, stop, usage, root;
    json_error error;
    const json_want wants[] = {
        {"content", &content}, {"stop_reason", &stop}, {"usage", &usage}};
    anthropic_usage counts = {-1, -1, -1, -1, -1};

    if (!json_scan(body.data, body.len, wants, 3, &error)) {
        *wrong = error.reason;
        return false;
    }
    root = json_root(body);
    *wrong = "no message";
    if (content.type != JSON_ARRAY || !write_head(out, &root, "chat.completion", created)) {
        return false;
    }
    anthropic_add_usage(&counts, &usage);
    *tokens = anthropic_tokens(&counts);
    aiq_buf_text(out, "{\"index\":0,\"message\":{\"role\":\"assistant\"");
    write_joined(out, "content", &content, "text", "text");
    if (count_kind(&content, "thinking")) {
        write_joined(out, "reasoning_content", &content, "thinking", "thinking");
    }
    if (!write_tool_calls(out, &content)) {
        return false;
    }
    aiq_buf_printf(out, ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
                   finish_reason(&stop));
    write_usage(out, &counts);
    aiq_buf_text(out, "}");
    return true;
}

bool anthropic_error(aiq_str body, aiq_buf *out)
{
    json_value error;
    json_error wrong;
    const json_want wants[] = {{"error", &error}};

    if (!json_scan(body.data, body.len, wants, 1, &wrong) || error.type != JSON_OBJECT) {
        return false;
    }
    json_value type = json_member(&error, "type"), message = json_member(&error, "message");
    if (type.type != JSON_STRING || message.type != JSON_STRING) {
        return false;
    }
    aiq_buf_text(out, "{\"error\":{");
    rewrite_member(out, "message", &message);
    rewrite_member_word(out, "type", aiq_error_type(AIQ_DIALECT_OPENAI, error_status(&type)));
    aiq_buf_text(out, ",\"param\":null");
    rewrite_member(out, "code", &type);
    aiq_buf_text(out, "}}");
    return true;
}

bool anthropic_event_is_empty(aiq_str data)
{
    json_value type;
    json_error why;
    const json_want wants[] = {{"type", &type}};

    return json_scan(data.data, data.len, wants, 1, &why) &&
           (json_string_is(&type, "message_start") || json_string_is(&type, "ping") ||
            json_string_is(&type, "content_block_start"));
}
