#include "providers/anthropic_request.h"
#include <stdio.h>
#include <string.h>
#include "providers/rewrite.h"

typedef struct {
    aiq_pool *pool;
    aiq_buf *out;
    aiq_err *err;
    const char *role; /* of the turn that is being written; NULL: none yet */
    uint32_t i;       /* the message */
} writer;

/* Turns and blocks. */

static void end_turn(writer *w)
{
    if (w->role) {
        aiq_buf_text(w->out, "]}");
    }
}

/* The start of a block, in a turn of this role. */
static void begin_block(writer *w, const char *role, const char *type)
{
    if (w->role == NULL || strcmp(w->role, role) != 0) {
        end_turn(w);
        rewrite_comma(w->out);
        aiq_buf_printf(w->out, "{\"role\":\"%s\",\"content\":[", role);
        w->role = role;
    }
    rewrite_comma(w->out);
    aiq_buf_printf(w->out, "{\"type\":\"%s\"", type);
}

static void add_text(writer *w, const char *role, const json_value *text)
{
    if (text->text.len > 2) {
        begin_block(w, role, "text");
        rewrite_member(w->out, "text", text);
        aiq_buf_text(w->out, "}");
    }
}

/* data:TYPE;base64,DATA. False: it is something else. */
static bool split_data_url(aiq_str url, aiq_str *type, aiq_str *data)
{
    static const char scheme[] = "data:", coding[] = ";base64";
    const size_t n = sizeof(scheme) - 1, m = sizeof(coding) - 1;
    const char *comma = memchr(url.data, ',', url.len);

    if (comma == NULL || url.len < n || memcmp(url.data, scheme, n) != 0) {
        return false;
    }
    size_t head = (size_t)(comma - url.data) - n;
    if (head <= m || memcmp(comma - m, coding, m) != 0) {
        return false;
    }
    const char *start = url.data + n, *semicolon = memchr(start, ';', head);
    *type = (aiq_str){start, (size_t)(semicolon - start)};
    *data = (aiq_str){comma + 1, url.len - (size_t)(comma + 1 - url.data)};
    return true;
}

static bool starts_with(aiq_str text, const char *prefix)
{
    size_t n = strlen(prefix);

    return text.len > n && memcmp(text.data, prefix, n) == 0;
}

/* The `source` of an image or document, from a URL. */
static bool add_source(writer *w, aiq_str url)
{
    aiq_str type, data;

    rewrite_name(w->out, "source");
    if (split_data_url(url, &type, &data)) {
        aiq_buf_text(w->out, "{\"type\":\"base64\"");
        rewrite_member_text(w->out, "media_type", type);
        rewrite_member_text(w->out, "data", data);
    } else if (starts_with(url, "https://") || starts_with(url, "http://")) {
        aiq_buf_text(w->out, "{\"type\":\"url\"");
        rewrite_member_text(w->out, "url", url);
    } else {
        return false;
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool is_auto(const json_value *value)
{
    return rewrite_absent(value) || json_string_is(value, "auto");
}

static bool add_image(writer *w, const json_value *part, uint32_t k)
{
    static const char *const known[] = {"url", "detail", NULL};
    json_value image = json_member(part, "image_url"), url = json_member(&image, "url");
    json_value detail = json_member(&image, "detail");
    char field[48];

    snprintf(field, sizeof(field), "messages[%u].content[%u].image_url.", w->i, k);
    if (!is_auto(&detail)) {
        return rewrite_unsupported(w->err, "%sdetail", field);
    }
    if (!rewrite_only(&image, known, field, w->err)) {
        return false;
    }
    begin_block(w, "user", "image");
    if (!add_source(w, json_string(w->pool, &url))) {
        return rewrite_invalid(w->err, "a data: URL in base64, or an http: or https: URL",
                               "%surl", field);
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_file(writer *w, const json_value *part, uint32_t k)
{
    static const char *const known[] = {"file_data", "filename", NULL};
    json_value file = json_member(part, "file"), data = json_member(&file, "file_data");
    json_value name = json_member(&file, "filename");
    char field[48];

    snprintf(field, sizeof(field), "messages[%u].content[%u].file.", w->i, k);
    if (!rewrite_only(&file, known, field, w->err)) {
        return false;
    }
    begin_block(w, "user", "document");
    if (!add_source(w, json_string(w->pool, &data))) {
        return rewrite_invalid(w->err, "a data: URL in base64", "%sfile_data", field);
    }
    if (name.type == JSON_STRING) {
        rewrite_member(w->out, "title", &name);
    }
    aiq_buf_text(w->out, "}");
    return true;
}

/* Messages. */

static bool add_part(writer *w, const char *role, const json_value *part, uint32_t k)
{
    static const char *const known[] = {"type", "text", "refusal", "image_url", "file", NULL};
    json_value type = json_member(part, "type"), text = json_member(part, "text");
    bool user = strcmp(role, "user") == 0;
    char field[48];

    snprintf(field, sizeof(field), "messages[%u].content[%u].", w->i, k);
    if (!rewrite_only(part, known, field, w->err)) {
        return false;
    }
    if (!user && json_string_is(&type, "refusal")) {
        text = json_member(part, "refusal");
    } else if (user && json_string_is(&type, "image_url")) {
        return add_image(w, part, k);
    } else if (user && json_string_is(&type, "file")) {
        return add_file(w, part, k);
    } else if (!json_string_is(&type, "text")) {
        return rewrite_unsupported(w->err, "%stype", field);
    }
    if (text.type == JSON_STRING) {
        add_text(w, role, &text);
    }
    return true;
}

static bool add_content(writer *w, const char *role, const json_value *content)
{
    json_value part;
    size_t cursor = 0;

    if (content->type == JSON_STRING) {
        add_text(w, role, content);
        return true;
    }
    for (uint32_t k = 0; json_each(content, &cursor, NULL, &part); k++) {
        if (!add_part(w, role, &part, k)) {
            return false;
        }
    }
    return true;
}

/* A function's arguments: JSON in a string; none at all where it takes none. */
static bool add_input(writer *w, const json_value *arguments)
{
    aiq_str text = json_string(w->pool, arguments);
    json_error error;

    if (arguments->type != JSON_STRING) {
        return false;
    }
    if (text.len == 0) {
        text = AIQ_STR("{}");
    }
    if (!json_scan(text.data, text.len, NULL, 0, &error)) {
        return false;
    }
    rewrite_name(w->out, "input");
    aiq_buf_add(w->out, text.data, text.len);
    return true;
}

static bool add_tool_call(writer *w, const json_value *call, uint32_t k)
{
    json_value id = json_member(call, "id"), type = json_member(call, "type");
    json_value function = json_member(call, "function");
    json_value name = json_member(&function, "name");
    json_value arguments = json_member(&function, "arguments");

    if (!rewrite_absent(&type) && !json_string_is(&type, "function")) {
        return rewrite_unsupported(w->err, "messages[%u].tool_calls[%u].type", w->i, k);
    }
    if (id.type != JSON_STRING || name.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a call with an id and a function's name",
                               "messages[%u].tool_calls[%u]", w->i, k);
    }
    begin_block(w, "assistant", "tool_use");
    rewrite_member(w->out, "id", &id);
    rewrite_member(w->out, "name", &name);
    if (!add_input(w, &arguments)) {
        return rewrite_invalid(w->err, "a JSON object in a string",
                               "messages[%u].tool_calls[%u].function.arguments", w->i, k);
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_assistant(writer *w, const json_value *message)
{
    json_value content = json_member(message, "content");
    json_value refusal = json_member(message, "refusal");
    json_value calls = json_member(message, "tool_calls"), call;
    size_t cursor = 0;

    if (!add_content(w, "assistant", &content)) {
        return false;
    }
    if (refusal.type == JSON_STRING) {
        add_text(w, "assistant", &refusal);
    }
    for (uint32_t k = 0; json_each(&calls, &cursor, NULL, &call); k++) {
        if (!add_tool_call(w, &call, k)) {
            return false;
        }
    }
    return true;
}

/* Text alone: what a system message or a tool's result may be. */
static bool add_texts(writer *w, const json_value *content)
{
    json_value part;
    size_t cursor = 0;

    for (uint32_t k = 0; json_each(content, &cursor, NULL, &part); k++) {
        json_value type = json_member(&part, "type"), text = json_member(&part, "text");
        if (!json_string_is(&type, "text")) {
            return rewrite_unsupported(w->err, "messages[%u].content[%u].type", w->i, k);
        }
        if (text.text.len > 2) {
            rewrite_comma(w->out);
            aiq_buf_text(w->out, "{\"type\":\"text\"");
            rewrite_member(w->out, "text", &text);
            aiq_buf_text(w->out, "}");
        }
    }
    return true;
}

static bool add_tool_result(writer *w, const json_value *message)
{
    json_value id = json_member(message, "tool_call_id");
    json_value content = json_member(message, "content");

    if (id.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "messages[%u].tool_call_id", w->i);
    }
    begin_block(w, "user", "tool_result");
    rewrite_member(w->out, "tool_use_id", &id);
    rewrite_name(w->out, "content");
    if (content.type == JSON_STRING) {
        rewrite_value(w->out, &content);
    } else {
        aiq_buf_text(w->out, "[");
        if (!add_texts(w, &content)) {
            return false;
        }
        aiq_buf_text(w->out, "]");
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool is_system(const json_value *role)
{
    return json_string_is(role, "system") || json_string_is(role, "developer");
}

static bool add_message(writer *w, const json_value *message)
{
    static const char *const known[] = {
        "role", "content", "refusal", "tool_calls", "tool_call_id", "reasoning_content", NULL};
    json_value role = json_member(message, "role"), content = json_member(message, "content");
    char field[24];

    snprintf(field, sizeof(field), "messages[%u].", w->i);
    if (!rewrite_only(message, known, field, w->err)) {
        return false;
    }
    if (is_system(&role)) {
        return true; /* add_system() has it */
    }
    if (json_string_is(&role, "user")) {
        return add_content(w, "user", &content);
    }
    if (json_string_is(&role, "assistant")) {
        return add_assistant(w, message);
    }
    return json_string_is(&role, "tool")
               ? add_tool_result(w, message)
               : rewrite_unsupported(w->err, "messages[%u].role", w->i);
}

static bool add_messages(writer *w, const json_value *messages)
{
    json_value message;
    size_t cursor = 0;

    rewrite_name(w->out, "messages");
    aiq_buf_text(w->out, "[");
    for (w->i = 0; json_each(messages, &cursor, NULL, &message); w->i++) {
        if (!add_message(w, &message)) {
            return false;
        }
    }
    end_turn(w);
    aiq_buf_text(w->out, "]");
    return true;
}

static bool add_system(writer *w, const json_value *messages)
{
    json_value message;
    size_t cursor = 0, start = w->out->len;

    rewrite_name(w->out, "system");
    aiq_buf_text(w->out, "[");
    size_t empty = w->out->len;
    for (w->i = 0; json_each(messages, &cursor, NULL, &message); w->i++) {
        json_value role = json_member(&message, "role");
        json_value content = json_member(&message, "content");
        if (!is_system(&role)) {
            continue;
        }
        if (content.type == JSON_ARRAY) {
            if (!add_texts(w, &content)) {
                return false;
            }
        } else if (content.text.len > 2) {
            rewrite_comma(w->out);
            aiq_buf_text(w->out, "{\"type\":\"text\"");
            rewrite_member(w->out, "text", &content);
            aiq_buf_text(w->out, "}");
        }
    }
    if (w->out->len == empty) {
        w->out->len = start;
    } else {
        aiq_buf_text(w->out, "]");
    }
    return true;
}

/* Tools. */

static bool add_tool(writer *w, const json_value *tool, uint32_t k)
{
    static const char *const known[] = {"name", "description", "parameters", "strict", NULL};
    json_value type = json_member(tool, "type"), function = json_member(tool, "function");
    json_value name = json_member(&function, "name");
    json_value description = json_member(&function, "description");
    json_value parameters = json_member(&function, "parameters");
    json_value strict = json_member(&function, "strict");
    char field[32];

    if (!json_string_is(&type, "function")) {
        return rewrite_unsupported(w->err, "tools[%u].type", k);
    }
    snprintf(field, sizeof(field), "tools[%u].function.", k);
    if (!rewrite_only(&function, known, field, w->err)) {
        return false;
    }
    if (name.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%sname", field);
    }
    if (!rewrite_absent(&parameters) && parameters.type != JSON_OBJECT) {
        return rewrite_invalid(w->err, "an object", "%sparameters", field);
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{");
    rewrite_member(w->out, "name", &name);
    if (!rewrite_absent(&description)) {
        rewrite_member(w->out, "description", &description);
    }
    if (parameters.type == JSON_OBJECT && parameters.count) {
        rewrite_member(w->out, "input_schema", &parameters);
    } else {
        aiq_buf_text(w->out, ",\"input_schema\":{\"type\":\"object\",\"properties\":{}}");
    }
    if (strict.type == JSON_TRUE) {
        rewrite_member(w->out, "strict", &strict);
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_tool_choice(writer *w, const json_value *choice, const json_value *parallel)
{
    bool alone = parallel->type == JSON_FALSE;
    const char *type = NULL;
    json_value name = {0};

    if (rewrite_absent(choice) && !alone) {
        return true;
    }
    if (is_auto(choice)) {
        type = "auto";
    } else if (json_string_is(choice, "none")) {
        type = "none";
        alone = false;
    } else if (json_string_is(choice, "required")) {
        type = "any";
    } else {
        json_value function = json_member(choice, "function");
        json_value kind = json_member(choice, "type");
        name = json_member(&function, "name");
        type = json_string_is(&kind, "function") && name.type == JSON_STRING ? "tool" : NULL;
    }
    if (type == NULL) {
        return rewrite_unsupported(w->err, "tool_choice");
    }
    rewrite_name(w->out, "tool_choice");
    aiq_buf_printf(w->out, "{\"type\":\"%s\"", type);
    if (name.type == JSON_STRING) {
        rewrite_member(w->out, "name", &name);
    }
    if (alone) {
        aiq_buf_text(w->out, ",\"disable_parallel_tool_use\":true");
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_tools(writer *w, const json_value *body)
{
    json_value tools = json_member(body, "tools"), tool;
    json_value choice = json_member(body, "tool_choice");
    json_value parallel = json_member(body, "parallel_tool_calls");
    size_t cursor = 0;

    if (rewrite_asks_nothing(&tools)) {
        return is_auto(&choice) || json_string_is(&choice, "none") ||
               rewrite_unsupported(w->err, "tool_choice");
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
    return add_tool_choice(w, &choice, &parallel);
}

/* Options. */

static void add_max_tokens(writer *w, const chat_request *chat)
{
    if (!rewrite_absent(&chat->max_completion_tokens)) {
        rewrite_member(w->out, "max_tokens", &chat->max_completion_tokens);
    } else if (!rewrite_absent(&chat->max_tokens)) {
        rewrite_member(w->out, "max_tokens", &chat->max_tokens);
    } else {
        rewrite_member_int(w->out, "max_tokens", chat->cap ? chat->cap : ANTHROPIC_MAX_TOKENS);
    }
}

static bool add_sampling(writer *w, const chat_request *chat, const json_value *body)
{
    json_value top_k = json_member(body, "top_k");

    if (chat->temperature.type == JSON_NUMBER) {
        if (json_real(&chat->temperature) > 1) {
            return rewrite_unsupported(w->err, "temperature");
        }
        rewrite_member(w->out, "temperature", &chat->temperature);
    }
    if (chat->top_p.type == JSON_NUMBER) {
        rewrite_member(w->out, "top_p", &chat->top_p);
    }
    if (!rewrite_absent(&top_k)) {
        rewrite_member(w->out, "top_k", &top_k);
    }
    if (!rewrite_asks_nothing(&chat->stop)) {
        bool one = chat->stop.type == JSON_STRING;
        rewrite_name(w->out, "stop_sequences");
        aiq_buf_text(w->out, one ? "[" : "");
        rewrite_value(w->out, &chat->stop);
        aiq_buf_text(w->out, one ? "]" : "");
    }
    return true;
}

static bool is_effort(const json_value *effort)
{
    static const char *const known[] = {"low", "medium", "high", "xhigh", "max"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (json_string_is(effort, known[i])) {
            return true;
        }
    }
    return false;
}

/* How the answer shall look, and how much thought goes into it. */
static bool add_output_config(writer *w, const json_value *body)
{
    json_value format = json_member(body, "response_format");
    json_value effort = json_member(body, "reasoning_effort");
    json_value type = json_member(&format, "type");
    json_value outer = json_member(&format, "json_schema");
    json_value schema = json_member(&outer, "schema");
    bool structured = json_string_is(&type, "json_schema"), thinks;

    if (!rewrite_absent(&format) && !structured && !json_string_is(&type, "text")) {
        return rewrite_unsupported(w->err, "response_format.type");
    }
    if (structured && schema.type != JSON_OBJECT) {
        return rewrite_invalid(w->err, "an object", "response_format.json_schema.schema");
    }
    thinks = !rewrite_absent(&effort) && !json_string_is(&effort, "none");
    if (thinks && !is_effort(&effort)) {
        return rewrite_unsupported(w->err, "reasoning_effort");
    }
    if (!structured && !thinks) {
        return true;
    }
    rewrite_name(w->out, "output_config");
    aiq_buf_text(w->out, "{");
    if (thinks) {
        rewrite_member(w->out, "effort", &effort);
    }
    if (structured) {
        rewrite_name(w->out, "format");
        aiq_buf_text(w->out, "{\"type\":\"json_schema\"");
        rewrite_member(w->out, "schema", &schema);
        aiq_buf_text(w->out, "}");
    }
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_user(writer *w, const json_value *body)
{
    json_value user = json_member(body, "user");
    json_value tier = json_member(body, "service_tier");

    if (user.type == JSON_STRING) {
        rewrite_name(w->out, "metadata");
        aiq_buf_text(w->out, "{");
        rewrite_member(w->out, "user_id", &user);
        aiq_buf_text(w->out, "}");
    } else if (!rewrite_absent(&user)) {
        return rewrite_invalid(w->err, "a string", "user");
    }
    if (json_string_is(&tier, "default")) {
        rewrite_member_word(w->out, "service_tier", "standard_only");
    } else if (!is_auto(&tier)) {
        return rewrite_unsupported(w->err, "service_tier");
    }
    return true;
}

/* Fields whose only value that Anthropic knows is the one they have anyway. */
static bool check_defaults(writer *w, const chat_request *chat, const json_value *body)
{
    static const char *const options[] = {"include_usage", NULL};
    json_value modalities = json_member(body, "modalities"), mode;
    json_value verbosity = json_member(body, "verbosity");
    int64_t n;
    size_t cursor = 0;

    if (json_int(&chat->n, &n) && n > 1) {
        return rewrite_unsupported(w->err, "n");
    }
    while (json_each(&modalities, &cursor, NULL, &mode)) {
        if (!json_string_is(&mode, "text")) {
            return rewrite_unsupported(w->err, "modalities");
        }
    }
    if (!rewrite_absent(&verbosity) && !json_string_is(&verbosity, "medium")) {
        return rewrite_unsupported(w->err, "verbosity");
    }
    if (!rewrite_absent(&chat->seed)) {
        return rewrite_unsupported(w->err, "seed");
    }
    return rewrite_only(&chat->stream_options, options, "stream_options.", w->err);
}

bool anthropic_request(const chat_request *chat, const char *model, aiq_pool *pool,
                       aiq_buf *out, aiq_err *err)
{
    static const char *const known[] = {"model",
                                        "messages",
                                        "stream",
                                        "stream_options",
                                        "max_tokens",
                                        "top_p",
                                        "temperature",
                                        "max_completion_tokens",
                                        "n",
                                        "seed",
                                        "stop",
                                        "top_k",
                                        "tools",
                                        "tool_choice",
                                        "modalities",
                                        "parallel_tool_calls",
                                        "user",
                                        "service_tier",
                                        "verbosity",
                                        "reasoning_effort",
                                        "response_format",
                                        NULL};
    json_value body = json_root(chat->body);
    writer w = {.pool = pool, .out = out, .err = err};

    if (!rewrite_only(&body, known, "", err) || !check_defaults(&w, chat, &body)) {
        return false;
    }
    aiq_buf_text(out, "{");
    rewrite_member_text(out, "model", (aiq_str){model, strlen(model)});
    add_max_tokens(&w, chat);
    if (!add_system(&w, &chat->messages) || !add_messages(&w, &chat->messages) ||
        !add_tools(&w, &body) || !add_sampling(&w, chat, &body) ||
        !add_output_config(&w, &body) || !add_user(&w, &body)) {
        return false;
    }
    if (chat->stream) {
        aiq_buf_text(out, ",\"stream\":true");
    }
    aiq_buf_text(out, "}");
    return true;
}
