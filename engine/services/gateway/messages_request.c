#include "services/gateway/messages_request.h"
#include <stdio.h>
#include <string.h>
#include "providers/rewrite.h"

typedef struct {
    aiq_pool *pool;
    aiq_buf *out;
    aiq_err *err;
    uint32_t i; /* the message */
    bool begun; /* the last one is the assistant's */
} writer;

static bool is_kind(const json_value *block, const char *kind)
{
    json_value type = json_member(block, "type");

    return json_string_is(&type, kind);
}

/* What an error calls a block of the message, with a dot at its end. */
static const char *block_field(const writer *w, uint32_t k, char field[48])
{
    snprintf(field, 48, "messages[%u].content[%u].", w->i, k);
    return field;
}

/* Parts of a user's message. */

static void begin_part(writer *w, const char *type)
{
    rewrite_comma(w->out);
    aiq_buf_printf(w->out, "{\"type\":\"%s\"", type);
}

static bool add_text_part(writer *w, const json_value *text, const char *field)
{
    if (text->type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%stext", field);
    }
    begin_part(w, "text");
    rewrite_member(w->out, "text", text);
    aiq_buf_text(w->out, "}");
    return true;
}

/* A URL for what a `source` is: data: for base64. False: it is something else. */
static bool add_url(writer *w, const char *name, const json_value *source)
{
    json_value type = json_member(source, "media_type"), data = json_member(source, "data");
    json_value url = json_member(source, "url");

    if (is_kind(source, "url") && url.type == JSON_STRING) {
        rewrite_member(w->out, name, &url);
        return true;
    }
    if (!is_kind(source, "base64") || type.type != JSON_STRING || data.type != JSON_STRING) {
        return false;
    }
    aiq_str media = rewrite_raw(&type), text = rewrite_raw(&data);
    rewrite_name(w->out, name);
    aiq_buf_text(w->out, "\"data:");
    aiq_buf_add(w->out, media.data, media.len);
    aiq_buf_text(w->out, ";base64,");
    aiq_buf_add(w->out, text.data, text.len);
    aiq_buf_text(w->out, "\"");
    return true;
}

static bool add_image(writer *w, const json_value *block, const char *field)
{
    static const char *const known[] = {"type", "source", "cache_control", NULL};
    json_value source = json_member(block, "source");

    if (!rewrite_only(block, known, field, w->err)) {
        return false;
    }
    begin_part(w, "image_url");
    rewrite_name(w->out, "image_url");
    aiq_buf_text(w->out, "{");
    if (!add_url(w, "url", &source)) {
        return rewrite_unsupported(w->err, "%ssource", field);
    }
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_document(writer *w, const json_value *block, const char *field)
{
    static const char *const known[] = {"type", "source", "title", "cache_control", NULL};
    json_value source = json_member(block, "source"), title = json_member(block, "title");
    json_value text = json_member(&source, "data");

    if (!rewrite_only(block, known, field, w->err)) {
        return false;
    }
    if (is_kind(&source, "text")) {
        return add_text_part(w, &text, field);
    }
    if (!is_kind(&source, "base64")) {
        return rewrite_unsupported(w->err, "%ssource.type", field);
    }
    begin_part(w, "file");
    rewrite_name(w->out, "file");
    aiq_buf_text(w->out, "{");
    if (title.type == JSON_STRING) {
        rewrite_member(w->out, "filename", &title);
    } else {
        rewrite_member_word(w->out, "filename", "document.pdf");
    }
    if (!add_url(w, "file_data", &source)) {
        return rewrite_unsupported(w->err, "%ssource", field);
    }
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_user_part(writer *w, const json_value *block, uint32_t k)
{
    static const char *const known[] = {"type", "text", "cache_control", NULL};
    json_value text = json_member(block, "text");
    char field[48];

    block_field(w, k, field);
    if (is_kind(block, "image")) {
        return add_image(w, block, field);
    }
    if (is_kind(block, "document")) {
        return add_document(w, block, field);
    }
    if (!is_kind(block, "text")) {
        return rewrite_unsupported(w->err, "%stype", field);
    }
    return rewrite_only(block, known, field, w->err) && add_text_part(w, &text, field);
}

/* Messages. */

static void begin_message(writer *w, const char *role)
{
    rewrite_comma(w->out);
    aiq_buf_printf(w->out, "{\"role\":\"%s\"", role);
}

/* A tool's result: text alone, for OpenAI takes no more. */
static bool add_tool_result(writer *w, const json_value *block, uint32_t k)
{
    static const char *const known[] = {"type",     "tool_use_id",   "content",
                                        "is_error", "cache_control", NULL};
    json_value id = json_member(block, "tool_use_id"), content = json_member(block, "content");
    json_value failed = json_member(block, "is_error"), part;
    const char *mark = failed.type == JSON_TRUE ? "Error: " : "";
    size_t cursor = 0;
    char field[48];

    block_field(w, k, field);
    if (!rewrite_only(block, known, field, w->err)) {
        return false;
    }
    if (id.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%stool_use_id", field);
    }
    begin_message(w, "tool");
    rewrite_member(w->out, "tool_call_id", &id);
    rewrite_name(w->out, "content");
    aiq_buf_printf(w->out, "\"%s", mark);
    aiq_str raw = rewrite_raw(&content);
    aiq_buf_add(w->out, raw.data, raw.len);
    while (json_each(&content, &cursor, NULL, &part)) {
        json_value text = json_member(&part, "text");
        if (!is_kind(&part, "text")) {
            return rewrite_unsupported(w->err, "%scontent", field);
        }
        raw = rewrite_raw(&text);
        aiq_buf_add(w->out, raw.data, raw.len);
    }
    aiq_buf_text(w->out, "\"}");
    return true;
}

static bool add_tool_results(writer *w, const json_value *content)
{
    json_value block;
    size_t cursor = 0;

    for (uint32_t k = 0; json_each(content, &cursor, NULL, &block); k++) {
        if (is_kind(&block, "tool_result") && !add_tool_result(w, &block, k)) {
            return false;
        }
    }
    return true;
}

/* The results of tools come first, as OpenAI wants them right behind the calls. */
static bool add_user(writer *w, const json_value *content)
{
    json_value block;
    size_t cursor = 0, start;

    if (content->type == JSON_STRING) {
        begin_message(w, "user");
        rewrite_member(w->out, "content", content);
        aiq_buf_text(w->out, "}");
        return true;
    }
    if (content->count == 0) {
        return rewrite_invalid(w->err, "an array that is not empty", "messages[%u].content",
                               w->i);
    }
    if (!add_tool_results(w, content)) {
        return false;
    }
    start = w->out->len;
    begin_message(w, "user");
    rewrite_name(w->out, "content");
    aiq_buf_text(w->out, "[");
    size_t empty = w->out->len;
    for (uint32_t k = 0; json_each(content, &cursor, NULL, &block); k++) {
        if (!is_kind(&block, "tool_result") && !add_user_part(w, &block, k)) {
            return false;
        }
    }
    if (w->out->len == empty) {
        w->out->len = start;
    } else {
        aiq_buf_text(w->out, "]}");
    }
    return true;
}

static bool add_tool_use(writer *w, const json_value *block, uint32_t k)
{
    json_value id = json_member(block, "id"), name = json_member(block, "name");
    json_value input = json_member(block, "input");

    if (id.type != JSON_STRING || name.type != JSON_STRING || input.type != JSON_OBJECT) {
        return rewrite_invalid(w->err, "a tool_use block with id, name and input",
                               "messages[%u].content[%u]", w->i, k);
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{");
    rewrite_member(w->out, "id", &id);
    aiq_buf_text(w->out, ",\"type\":\"function\",\"function\":{");
    rewrite_member(w->out, "name", &name);
    rewrite_member_text(w->out, "arguments", input.text);
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool check_assistant_block(writer *w, const json_value *block, uint32_t k)
{
    static const char *const known[] = {"text", "tool_use", "thinking", "redacted_thinking"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (is_kind(block, known[i])) {
            return true;
        }
    }
    return rewrite_unsupported(w->err, "messages[%u].content[%u].type", w->i, k);
}

/* The texts as one; null where there is none. */
static bool add_assistant_text(writer *w, const json_value *content)
{
    json_value block;
    size_t cursor = 0, start;

    rewrite_name(w->out, "content");
    start = w->out->len;
    aiq_buf_text(w->out, "\"");
    for (uint32_t k = 0; json_each(content, &cursor, NULL, &block); k++) {
        json_value text = json_member(&block, "text");
        if (!check_assistant_block(w, &block, k)) {
            return false;
        }
        if (is_kind(&block, "text")) {
            aiq_str raw = rewrite_raw(&text);
            aiq_buf_add(w->out, raw.data, raw.len);
        }
    }
    if (w->out->len == start + 1) {
        w->out->len = start;
        aiq_buf_text(w->out, "null");
    } else {
        aiq_buf_text(w->out, "\"");
    }
    return true;
}

static bool add_assistant(writer *w, const json_value *content)
{
    json_value block;
    size_t cursor = 0, start;

    begin_message(w, "assistant");
    if (content->type == JSON_STRING) {
        rewrite_member(w->out, "content", content);
        aiq_buf_text(w->out, "}");
        return true;
    }
    if (!add_assistant_text(w, content)) {
        return false;
    }
    start = w->out->len;
    rewrite_name(w->out, "tool_calls");
    aiq_buf_text(w->out, "[");
    size_t empty = w->out->len;
    for (uint32_t k = 0; json_each(content, &cursor, NULL, &block); k++) {
        if (is_kind(&block, "tool_use") && !add_tool_use(w, &block, k)) {
            return false;
        }
    }
    if (w->out->len == empty) {
        w->out->len = start;
    } else {
        aiq_buf_text(w->out, "]");
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_message(writer *w, const json_value *message)
{
    static const char *const known[] = {"role", "content", NULL};
    json_value role = json_member(message, "role"), content = json_member(message, "content");
    char field[24];

    snprintf(field, sizeof(field), "messages[%u].", w->i);
    if (!rewrite_only(message, known, field, w->err)) {
        return false;
    }
    return json_string_is(&role, "user") ? add_user(w, &content) : add_assistant(w, &content);
}

/* One message, its texts a paragraph each. */
static bool add_system(writer *w, const json_value *system)
{
    json_value block;
    size_t cursor = 0;

    if (rewrite_asks_nothing(system)) {
        return true;
    }
    if (system->type != JSON_STRING && system->type != JSON_ARRAY) {
        return rewrite_invalid(w->err, "a string or an array of text blocks", "system");
    }
    begin_message(w, "system");
    rewrite_name(w->out, "content");
    if (system->type == JSON_STRING) {
        rewrite_value(w->out, system);
    } else {
        aiq_buf_text(w->out, "\"");
        for (uint32_t k = 0; json_each(system, &cursor, NULL, &block); k++) {
            json_value text = json_member(&block, "text");
            aiq_str raw = rewrite_raw(&text);
            if (!is_kind(&block, "text") || text.type != JSON_STRING) {
                return rewrite_invalid(w->err, "a text block", "system[%u]", k);
            }
            aiq_buf_text(w->out, k ? "\\n\\n" : "");
            aiq_buf_add(w->out, raw.data, raw.len);
        }
        aiq_buf_text(w->out, "\"");
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_messages(writer *w, const json_value *body)
{
    json_value messages = json_member(body, "messages"), system = json_member(body, "system");
    json_value message;
    size_t cursor = 0;

    rewrite_name(w->out, "messages");
    aiq_buf_text(w->out, "[");
    if (!add_system(w, &system)) {
        return false;
    }
    for (w->i = 0; json_each(&messages, &cursor, NULL, &message); w->i++) {
        json_value role = json_member(&message, "role");
        w->begun = json_string_is(&role, "assistant");
        if (!add_message(w, &message)) {
            return false;
        }
    }
    aiq_buf_text(w->out, "]");
    return true;
}

/* Tools. */

static bool add_tool(writer *w, const json_value *tool, uint32_t k)
{
    static const char *const known[] = {
        "type",   "name",          "description",           "input_schema",
        "strict", "cache_control", "eager_input_streaming", NULL};
    json_value type = json_member(tool, "type"), name = json_member(tool, "name");
    json_value description = json_member(tool, "description");
    json_value schema = json_member(tool, "input_schema"), strict = json_member(tool, "strict");
    char field[24];

    if (!rewrite_absent(&type) && !json_string_is(&type, "custom")) {
        return rewrite_unsupported(w->err, "tools[%u].type", k);
    }
    snprintf(field, sizeof(field), "tools[%u].", k);
    if (!rewrite_only(tool, known, field, w->err)) {
        return false;
    }
    if (name.type != JSON_STRING || schema.type != JSON_OBJECT) {
        return rewrite_invalid(w->err, "a tool with a name and an input_schema", "tools[%u]",
                               k);
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{\"type\":\"function\",\"function\":{");
    rewrite_member(w->out, "name", &name);
    if (!rewrite_absent(&description)) {
        rewrite_member(w->out, "description", &description);
    }
    rewrite_member(w->out, "parameters", &schema);
    if (strict.type == JSON_TRUE) {
        rewrite_member(w->out, "strict", &strict);
    }
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_tool_choice(writer *w, const json_value *choice)
{
    static const char *const words[][2] = {
        {"auto", "auto"}, {"any", "required"}, {"none", "none"}};
    json_value alone = json_member(choice, "disable_parallel_tool_use");
    json_value name = json_member(choice, "name");

    if (alone.type == JSON_TRUE) {
        aiq_buf_text(w->out, ",\"parallel_tool_calls\":false");
    }
    if (is_kind(choice, "tool") && name.type == JSON_STRING) {
        rewrite_name(w->out, "tool_choice");
        aiq_buf_text(w->out, "{\"type\":\"function\",\"function\":{");
        rewrite_member(w->out, "name", &name);
        aiq_buf_text(w->out, "}}");
        return true;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (is_kind(choice, words[i][0])) {
            rewrite_member_word(w->out, "tool_choice", words[i][1]);
            return true;
        }
    }
    return rewrite_absent(choice) || rewrite_unsupported(w->err, "tool_choice");
}

static bool add_tools(writer *w, const json_value *body)
{
    json_value tools = json_member(body, "tools"), choice = json_member(body, "tool_choice");
    json_value tool;
    size_t cursor = 0;

    if (rewrite_asks_nothing(&tools)) {
        return rewrite_absent(&choice) || is_kind(&choice, "auto") ||
               is_kind(&choice, "none") || rewrite_unsupported(w->err, "tool_choice");
    }
    if (tools.type != JSON_ARRAY) {
        return rewrite_invalid(w->err, "an array", "tools");
    }
    rewrite_name(w->out, "tools");
    aiq_buf_text(w->out, "[");
    for (uint32_t k = 0; json_each(&tools, &cursor, NULL, &tool); k++) {
        if (!add_tool(w, &tool, k)) {
            return false;
        }
    }
    aiq_buf_text(w->out, "]");
    return add_tool_choice(w, &choice);
}

/* Options. */

static void copy_member(writer *w, const json_value *body, const char *name, const char *as)
{
    json_value value = json_member(body, name);

    if (!rewrite_absent(&value)) {
        rewrite_member(w->out, as, &value);
    }
}

/* Thoughts are bounded by tokens here and by words there. */
static const char *effort_of(const json_value *thinking)
{
    json_value budget = json_member(thinking, "budget_tokens");
    int64_t n;

    if (!is_kind(thinking, "enabled") || !json_int(&budget, &n)) {
        return NULL; /* disabled; or adaptive, which is what models do unasked */
    }
    return n < 4096 ? "low" : n < 16384 ? "medium" : "high";
}

static bool add_output(writer *w, const json_value *body)
{
    static const char *const known[] = {"effort", "format", NULL};
    json_value thinking = json_member(body, "thinking");
    json_value config = json_member(body, "output_config");
    json_value effort = json_member(&config, "effort"), format = json_member(&config, "format");
    json_value schema = json_member(&format, "schema");
    const char *word = effort_of(&thinking);

    if (!rewrite_only(&config, known, "output_config.", w->err)) {
        return false;
    }
    if (!rewrite_absent(&effort)) {
        rewrite_member(w->out, "reasoning_effort", &effort);
    } else if (word) {
        rewrite_member_word(w->out, "reasoning_effort", word);
    }
    if (rewrite_absent(&format)) {
        return true;
    }
    if (!is_kind(&format, "json_schema") || schema.type != JSON_OBJECT) {
        return rewrite_unsupported(w->err, "output_config.format");
    }
    aiq_buf_text(w->out, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
                         "{\"name\":\"answer\",\"strict\":true");
    rewrite_member(w->out, "schema", &schema);
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_options(writer *w, const chat_request *chat, const json_value *body)
{
    json_value metadata = json_member(body, "metadata"),
               tier = json_member(body, "service_tier"),
               stop = json_member(body, "stop_sequences"),
               temperature = json_member(body, "temperature");

    if (!rewrite_absent(&stop) && stop.type != JSON_ARRAY) {
        return rewrite_invalid(w->err, "an array of strings", "stop_sequences");
    }
    if (!rewrite_absent(&chat->max_tokens)) { /* else it is to be counted */
        rewrite_member(w->out, "max_completion_tokens", &chat->max_tokens);
    }
    if (json_real(&temperature) > 1) { /* OpenAI's go on up to 2 */
        return rewrite_invalid(w->err, "a number from 0 to 1", "temperature");
    }
    copy_member(w, body, "temperature", "temperature");
    copy_member(w, body, "top_p", "top_p");
    copy_member(w, body, "top_k", "top_k");
    copy_member(w, body, "stop_sequences", "stop");
    copy_member(w, &metadata, "user_id", "user");
    if (json_string_is(&tier, "standard_only")) {
        rewrite_member_word(w->out, "service_tier", "default");
    } else if (!rewrite_absent(&tier) && !json_string_is(&tier, "auto")) {
        return rewrite_unsupported(w->err, "service_tier");
    }
    if (chat->stream) {
        aiq_buf_text(w->out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
    return true;
}

static bool write_chat(writer *w, const chat_request *chat)
{
    static const char *const known[] = {
        "model",         "messages", "max_tokens",  "system",         "stream",
        "temperature",   "top_p",    "top_k",       "stop_sequences", "metadata",
        "service_tier",  "tools",    "tool_choice", "output_config",  "thinking",
        "cache_control", NULL};
    json_value body = json_root(chat->body);

    if (!rewrite_only(&body, known, "", w->err)) {
        return false;
    }
    aiq_buf_text(w->out, "{");
    rewrite_member(w->out, "model", &chat->model);
    if (!add_messages(w, &body) || !add_tools(w, &body) || !add_options(w, chat, &body) ||
        !add_output(w, &body)) {
        return false;
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static void read_thinking(const chat_request *chat, chat_request *other)
{
    json_value body = json_root(chat->body), thinking = json_member(&body, "thinking");

    other->no_thoughts = is_kind(&thinking, "disabled");
    other->wants_thoughts = is_kind(&thinking, "enabled") || is_kind(&thinking, "adaptive");
}

/* Messages have other numbers here: a system prompt is one, each tool's result is one. */
static const char *const names[][2] = {{"messages", "messages"},
                                       {"max_completion_tokens", "max_tokens"},
                                       {"stop", "stop_sequences"},
                                       {"reasoning_effort", "output_config.effort"},
                                       {"response_format", "output_config.format"},
                                       {NULL, NULL}};

const chat_request *messages_request_translate(const chat_request *chat, aiq_pool *pool,
                                               aiq_err *err)
{
    chat_request *other = aiq_pool_alloc(pool, sizeof(*other));
    aiq_buf out = {0};
    writer w = {.pool = pool, .out = &out, .err = err};
    bool ok = write_chat(&w, chat);

    if (ok) {
        aiq_str body = {aiq_pool_copy(pool, out.data, out.len), out.len};
        ok = chat_request_parse(other, body, err);
        other->prompt_first = chat->stream;
        other->begun = w.begun;
        read_thinking(chat, other);
        other->names = names;
        if (!ok) {
            rewrite_error(err, names);
        }
    }
    aiq_buf_free(&out);
    return ok ? other : NULL;
}

/* What is checked of every request. */

static bool check_messages(const json_value *messages, aiq_err *err)
{
    json_value message;
    size_t cursor = 0;

    if (messages->type != JSON_ARRAY || messages->count == 0) {
        return rewrite_invalid(err, "an array that is not empty", "messages");
    }
    for (uint32_t i = 0; json_each(messages, &cursor, NULL, &message); i++) {
        json_value role = json_member(&message, "role");
        json_value content = json_member(&message, "content");
        if (!json_string_is(&role, "user") && !json_string_is(&role, "assistant")) {
            return rewrite_invalid(err, "one of user, assistant", "messages[%u].role", i);
        }
        if (content.type != JSON_STRING && content.type != JSON_ARRAY) {
            return rewrite_invalid(err, "a string or an array of blocks",
                                   "messages[%u].content", i);
        }
    }
    return true;
}

bool messages_request_parse(chat_request *chat, aiq_str body, aiq_err *err)
{
    json_value stream;
    json_error error;
    int64_t n;
    const json_want wants[] = {
        {"model", &chat->model},
        {"messages", &chat->messages},
        {"stream", &stream},
        {"max_tokens", &chat->max_tokens},
    };

    *chat = (chat_request){.body = body,
                           .dialect = AIQ_DIALECT_ANTHROPIC,
                           .translate = messages_request_translate};
    if (!json_scan(body.data, body.len, wants, sizeof(wants) / sizeof(wants[0]), &error)) {
        return chat_request_not_json(err, &error);
    }
    if (chat->model.type != JSON_STRING) {
        return rewrite_invalid(err, "a string", "model");
    }
    if (!json_int(&chat->max_tokens, &n) || n < 1 || n > INT32_MAX) {
        return rewrite_invalid(err, "a positive integer", "max_tokens");
    }
    if (!rewrite_absent(&stream) && stream.type != JSON_TRUE && stream.type != JSON_FALSE) {
        return rewrite_invalid(err, "a boolean", "stream");
    }
    chat->stream = stream.type == JSON_TRUE;
    return check_messages(&chat->messages, err);
}

const chat_request *messages_request_translate_count(const chat_request *chat, aiq_pool *pool,
                                                     aiq_err *err)
{
    json_value body = json_root(chat->body), messages = json_member(&body, "messages");

    return check_messages(&messages, err) ? messages_request_translate(chat, pool, err) : NULL;
}
