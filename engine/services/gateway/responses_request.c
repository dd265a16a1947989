#include "services/gateway/responses_request.h"
#include <stdio.h>
#include <string.h>
#include "providers/rewrite.h"

#define FIELD_MAX 64

typedef struct {
    aiq_buf *out;
    aiq_err *err;
    uint32_t i;   /* the item of input */
    bool calling; /* an assistant's message is open, in its tool_calls */
} writer;

static bool is_kind(const json_value *object, const char *kind)
{
    json_value type = json_member(object, "type");

    return json_string_is(&type, kind);
}

/* What an error calls a part of the item, with a dot at its end. */
static const char *part_field(const writer *w, uint32_t k, char field[FIELD_MAX])
{
    snprintf(field, FIELD_MAX, "input[%u].content[%u].", w->i, k);
    return field;
}

static void copy_member(writer *w, const json_value *from, const char *name, const char *as)
{
    json_value value = json_member(from, name);

    if (!rewrite_absent(&value)) {
        rewrite_member(w->out, as, &value);
    }
}

/* Messages. */

static void end_calls(writer *w)
{
    if (w->calling) {
        aiq_buf_text(w->out, "]}");
        w->calling = false;
    }
}

static void begin_message(writer *w)
{
    end_calls(w);
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{");
}

static bool add_text_part(writer *w, const json_value *part, const char *field)
{
    static const char *const known[] = {"type", "text", NULL};
    json_value text = json_member(part, "text");

    if (text.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%stext", field);
    }
    if (!rewrite_only(part, known, field, w->err)) {
        return false;
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{\"type\":\"text\"");
    rewrite_member(w->out, "text", &text);
    aiq_buf_text(w->out, "}");
    return true;
}

static bool add_image_part(writer *w, const json_value *part, const char *field)
{
    static const char *const known[] = {"type", "image_url", "detail", NULL};
    json_value url = json_member(part, "image_url");

    if (!rewrite_only(part, known, field, w->err)) {
        return false;
    }
    if (url.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%simage_url", field);
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{\"type\":\"image_url\",\"image_url\":{");
    rewrite_member(w->out, "url", &url);
    copy_member(w, part, "detail", "detail");
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_file_part(writer *w, const json_value *part, const char *field)
{
    static const char *const known[] = {"type", "filename", "file_data", NULL};
    json_value data = json_member(part, "file_data");

    if (!rewrite_only(part, known, field, w->err)) {
        return false;
    }
    if (data.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%sfile_data", field);
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{\"type\":\"file\",\"file\":{");
    copy_member(w, part, "filename", "filename");
    rewrite_member(w->out, "file_data", &data);
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_parts(writer *w, const json_value *content)
{
    json_value part;
    size_t cursor = 0;
    char field[FIELD_MAX];
    bool ok = true;

    aiq_buf_text(w->out, "[");
    for (uint32_t k = 0; ok && json_each(content, &cursor, NULL, &part); k++) {
        part_field(w, k, field);
        if (is_kind(&part, "input_text")) {
            ok = add_text_part(w, &part, field);
        } else if (is_kind(&part, "input_image")) {
            ok = add_image_part(w, &part, field);
        } else if (is_kind(&part, "input_file")) {
            ok = add_file_part(w, &part, field);
        } else {
            ok = rewrite_unsupported(w->err, "%stype", field);
        }
    }
    aiq_buf_text(w->out, "]");
    return ok;
}

/* The texts of an earlier answer as one, without what was annotated in them. */
static bool add_answer(writer *w, const json_value *content)
{
    json_value part;
    size_t cursor = 0;
    char field[FIELD_MAX];

    aiq_buf_text(w->out, "\"");
    for (uint32_t k = 0; json_each(content, &cursor, NULL, &part); k++) {
        bool refusal = is_kind(&part, "refusal");
        json_value text = json_member(&part, refusal ? "refusal" : "text");
        aiq_str raw = rewrite_raw(&text);
        part_field(w, k, field);
        if (!refusal && !is_kind(&part, "output_text") && !is_kind(&part, "input_text")) {
            return rewrite_unsupported(w->err, "%stype", field);
        }
        if (text.type != JSON_STRING) {
            return rewrite_invalid(w->err, "a string", "%s%s", field,
                                   refusal ? "refusal" : "text");
        }
        aiq_buf_add(w->out, raw.data, raw.len);
    }
    aiq_buf_text(w->out, "\"");
    return true;
}

static bool add_message(writer *w, const json_value *item)
{
    static const char *const known[] = {"type",   "role",  "content", "id",
                                        "status", "phase", NULL};
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    json_value role = json_member(item, "role"), content = json_member(item, "content");
    char field[FIELD_MAX];
    size_t i = 0;

    snprintf(field, sizeof(field), "input[%u].", w->i);
    if (!rewrite_only(item, known, field, w->err)) {
        return false;
    }
    while (i < sizeof(roles) / sizeof(roles[0]) && !json_string_is(&role, roles[i])) {
        i++;
    }
    if (i == sizeof(roles) / sizeof(roles[0])) {
        return rewrite_invalid(w->err, "one of user, assistant, system, developer", "%srole",
                               field);
    }
    begin_message(w);
    rewrite_member_word(w->out, "role", roles[i]);
    rewrite_name(w->out, "content");
    if (content.type == JSON_STRING) {
        rewrite_value(w->out, &content);
    } else if (content.type != JSON_ARRAY || content.count == 0) {
        return rewrite_invalid(w->err, "a string or an array of parts", "%scontent", field);
    } else if (!(i == 1 ? add_answer : add_parts)(w, &content)) {
        return false;
    }
    aiq_buf_text(w->out, "}");
    return true;
}

/* Calls of tools, those beside each other in one message. */

static bool add_call(writer *w, const json_value *item)
{
    /* parsed_arguments: the SDK's own, beside the arguments that it has parsed */
    static const char *const known[] = {"type",      "id",     "call_id",          "name",
                                        "arguments", "status", "parsed_arguments", NULL};
    json_value id = json_member(item, "call_id"), name = json_member(item, "name");
    json_value arguments = json_member(item, "arguments");
    char field[FIELD_MAX];

    snprintf(field, sizeof(field), "input[%u].", w->i);
    if (!rewrite_only(item, known, field, w->err)) {
        return false;
    }
    if (id.type != JSON_STRING || name.type != JSON_STRING || arguments.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a call with call_id, name and arguments", "input[%u]",
                               w->i);
    }
    if (!w->calling) {
        rewrite_comma(w->out);
        aiq_buf_text(w->out, "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[");
        w->calling = true;
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{");
    rewrite_member(w->out, "id", &id);
    aiq_buf_text(w->out, ",\"type\":\"function\",\"function\":{");
    rewrite_member(w->out, "name", &name);
    rewrite_member(w->out, "arguments", &arguments);
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_output(writer *w, const json_value *item)
{
    static const char *const known[] = {"type", "id", "call_id", "output", "status", NULL};
    json_value id = json_member(item, "call_id"), output = json_member(item, "output"), part;
    size_t cursor = 0;
    char field[FIELD_MAX];

    snprintf(field, sizeof(field), "input[%u].", w->i);
    if (!rewrite_only(item, known, field, w->err)) {
        return false;
    }
    if (id.type != JSON_STRING || (output.type != JSON_STRING && output.type != JSON_ARRAY)) {
        return rewrite_invalid(w->err, "a result with call_id and output", "input[%u]", w->i);
    }
    begin_message(w);
    aiq_buf_text(w->out, "\"role\":\"tool\"");
    rewrite_member(w->out, "tool_call_id", &id);
    rewrite_name(w->out, "content");
    aiq_buf_text(w->out, "\"");
    aiq_str raw = rewrite_raw(&output);
    aiq_buf_add(w->out, raw.data, raw.len);
    while (json_each(&output, &cursor, NULL, &part)) {
        json_value text = json_member(&part, "text");
        if (!is_kind(&part, "input_text") || text.type != JSON_STRING) {
            return rewrite_unsupported(w->err, "%soutput", field);
        }
        raw = rewrite_raw(&text);
        aiq_buf_add(w->out, raw.data, raw.len);
    }
    aiq_buf_text(w->out, "\"}");
    return true;
}

static bool add_item(writer *w, const json_value *item)
{
    json_value type = json_member(item, "type");

    if (item->type != JSON_OBJECT) {
        return rewrite_invalid(w->err, "an object", "input[%u]", w->i);
    }
    if (rewrite_absent(&type) || json_string_is(&type, "message")) {
        return add_message(w, item);
    }
    if (json_string_is(&type, "function_call")) {
        return add_call(w, item);
    }
    if (json_string_is(&type, "function_call_output")) {
        return add_output(w, item);
    }
    return json_string_is(&type, "reasoning") ||
           rewrite_unsupported(w->err, "input[%u].type", w->i);
}

static bool add_messages(writer *w, const chat_request *chat, const json_value *body)
{
    json_value instructions = json_member(body, "instructions"), item;
    size_t cursor = 0, empty;

    rewrite_name(w->out, "messages");
    aiq_buf_text(w->out, "[");
    empty = w->out->len;
    if (instructions.type == JSON_STRING) {
        aiq_buf_text(w->out, "{\"role\":\"system\"");
        rewrite_member(w->out, "content", &instructions);
        aiq_buf_text(w->out, "}");
    } else if (!rewrite_absent(&instructions)) {
        return rewrite_invalid(w->err, "a string", "instructions");
    }
    if (chat->messages.type == JSON_STRING) {
        begin_message(w);
        aiq_buf_text(w->out, "\"role\":\"user\"");
        rewrite_member(w->out, "content", &chat->messages);
        aiq_buf_text(w->out, "}");
    }
    for (w->i = 0; json_each(&chat->messages, &cursor, NULL, &item); w->i++) {
        if (!add_item(w, &item)) {
            return false;
        }
    }
    end_calls(w);
    if (w->out->len == empty) {
        return rewrite_invalid(w->err, "more than reasoning", "input");
    }
    aiq_buf_text(w->out, "]");
    return true;
}

/* Tools. */

static bool add_tool(writer *w, const json_value *tool, uint32_t k)
{
    static const char *const known[] = {"type",       "name",   "description",
                                        "parameters", "strict", NULL};
    json_value name = json_member(tool, "name");
    char field[FIELD_MAX];

    snprintf(field, sizeof(field), "tools[%u].", k);
    if (!is_kind(tool, "function")) {
        return rewrite_unsupported(w->err, "%stype", field);
    }
    if (name.type != JSON_STRING) {
        return rewrite_invalid(w->err, "a string", "%sname", field);
    }
    if (!rewrite_only(tool, known, field, w->err)) {
        return false;
    }
    rewrite_comma(w->out);
    aiq_buf_text(w->out, "{\"type\":\"function\",\"function\":{");
    rewrite_member(w->out, "name", &name);
    copy_member(w, tool, "description", "description");
    copy_member(w, tool, "parameters", "parameters");
    copy_member(w, tool, "strict", "strict");
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_tool_choice(writer *w, const json_value *choice)
{
    json_value name = json_member(choice, "name");

    if (choice->type == JSON_STRING) {
        rewrite_member(w->out, "tool_choice", choice);
        return true;
    }
    if (!is_kind(choice, "function") || name.type != JSON_STRING) {
        return rewrite_absent(choice) || rewrite_unsupported(w->err, "tool_choice");
    }
    rewrite_name(w->out, "tool_choice");
    aiq_buf_text(w->out, "{\"type\":\"function\",\"function\":{");
    rewrite_member(w->out, "name", &name);
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_tools(writer *w, const json_value *body)
{
    json_value tools = json_member(body, "tools"), choice = json_member(body, "tool_choice");
    json_value tool;
    size_t cursor = 0;

    if (rewrite_asks_nothing(&tools)) {
        return rewrite_absent(&choice) || json_string_is(&choice, "auto") ||
               json_string_is(&choice, "none") || rewrite_unsupported(w->err, "tool_choice");
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
    copy_member(w, body, "parallel_tool_calls", "parallel_tool_calls");
    return add_tool_choice(w, &choice);
}

/* Options. */

static bool add_format(writer *w, const json_value *format)
{
    static const char *const known[] = {"type",        "name",   "schema",
                                        "description", "strict", NULL};

    if (rewrite_absent(format) || is_kind(format, "text")) {
        return true;
    }
    if (is_kind(format, "json_object")) {
        rewrite_member(w->out, "response_format", format);
        return true;
    }
    if (!is_kind(format, "json_schema")) {
        return rewrite_unsupported(w->err, "text.format.type");
    }
    if (!rewrite_only(format, known, "text.format.", w->err)) {
        return false;
    }
    aiq_buf_text(w->out, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{");
    copy_member(w, format, "name", "name");
    copy_member(w, format, "description", "description");
    copy_member(w, format, "schema", "schema");
    copy_member(w, format, "strict", "strict");
    aiq_buf_text(w->out, "}}");
    return true;
}

static bool add_looks(writer *w, const json_value *body)
{
    static const char *const texts[] = {"format", "verbosity", NULL};
    static const char *const thoughts[] = {"effort", "summary", NULL};
    json_value text = json_member(body, "text"), reasoning = json_member(body, "reasoning");
    json_value format = json_member(&text, "format");

    if (!rewrite_only(&text, texts, "text.", w->err) ||
        !rewrite_only(&reasoning, thoughts, "reasoning.", w->err) || !add_format(w, &format)) {
        return false;
    }
    copy_member(w, &text, "verbosity", "verbosity");
    copy_member(w, &reasoning, "effort", "reasoning_effort");
    return true;
}

/* Thoughts are never encrypted here, so who asks for that gets all that there is. */
static bool check_include(const json_value *include, aiq_err *err)
{
    json_value what;
    size_t cursor = 0;

    for (uint32_t k = 0; json_each(include, &cursor, NULL, &what); k++) {
        if (!json_string_is(&what, "reasoning.encrypted_content")) {
            return rewrite_unsupported(err, "include[%u]", k);
        }
    }
    return include->type == JSON_ARRAY || rewrite_asks_nothing(include) ||
           rewrite_unsupported(err, "include");
}

/* What may be asked for, but is not the provider's to know. */
static bool check_rest(const json_value *body, aiq_err *err)
{
    static const char *const nothing[] = {NULL};
    json_value store = json_member(body, "store"),
               options = json_member(body, "stream_options");
    json_value truncation = json_member(body, "truncation");
    json_value include = json_member(body, "include");

    if (!rewrite_asks_nothing(&store)) {
        return rewrite_unsupported(err, "store");
    }
    if (!rewrite_absent(&truncation) && !json_string_is(&truncation, "disabled")) {
        return rewrite_unsupported(err, "truncation");
    }
    return check_include(&include, err) &&
           rewrite_only(&options, nothing, "stream_options.", err);
}

static void add_options(writer *w, const chat_request *chat, const json_value *body)
{
    static const char *const same[] = {
        "temperature",       "top_p",           "user", "service_tier",
        "safety_identifier", "prompt_cache_key"};

    if (chat->cap) {
        rewrite_member_int(w->out, "max_completion_tokens", chat->cap);
    } else if (!rewrite_absent(&chat->max_completion_tokens)) {
        rewrite_member(w->out, "max_completion_tokens", &chat->max_completion_tokens);
    }
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        copy_member(w, body, same[i], same[i]);
    }
    if (chat->stream) {
        aiq_buf_text(w->out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    }
}

static bool write_chat(writer *w, const chat_request *chat)
{
    static const char *const known[] = {"model",
                                        "input",
                                        "instructions",
                                        "max_output_tokens",
                                        "temperature",
                                        "top_p",
                                        "stream",
                                        "stream_options",
                                        "tools",
                                        "tool_choice",
                                        "text",
                                        "parallel_tool_calls",
                                        "reasoning",
                                        "metadata",
                                        "user",
                                        "prompt_cache_key",
                                        "store",
                                        "service_tier",
                                        "safety_identifier",
                                        "include",
                                        "truncation",
                                        NULL};
    json_value body = json_root(chat->body);

    if (!rewrite_only(&body, known, "", w->err) || !check_rest(&body, w->err)) {
        return false;
    }
    aiq_buf_text(w->out, "{");
    rewrite_member(w->out, "model", &chat->model);
    if (!add_messages(w, chat, &body) || !add_tools(w, &body)) {
        return false;
    }
    add_options(w, chat, &body);
    if (!add_looks(w, &body)) {
        return false;
    }
    aiq_buf_text(w->out, "}");
    return true;
}

/* Messages have other numbers here: instructions are one, several items are one. */
static const char *const names[][2] = {{"messages", "input"},
                                       {"max_completion_tokens", "max_output_tokens"},
                                       {"reasoning_effort", "reasoning.effort"},
                                       {"response_format", "text.format"},
                                       {"verbosity", "text.verbosity"},
                                       {NULL, NULL}};

const chat_request *responses_request_translate(const chat_request *chat, aiq_pool *pool,
                                                aiq_err *err)
{
    chat_request *other = aiq_pool_alloc(pool, sizeof(*other));
    aiq_buf out = {0};
    writer w = {.out = &out, .err = err};
    bool ok = write_chat(&w, chat);

    if (ok) {
        aiq_str body = {aiq_pool_copy(pool, out.data, out.len), out.len};
        ok = chat_request_parse(other, body, err);
        other->names = names;
        if (!ok) {
            rewrite_error(err, names);
        }
    }
    aiq_buf_free(&out);
    return ok ? other : NULL;
}

/* What is checked of every request. */

bool responses_request_parse(chat_request *chat, aiq_str body, aiq_err *err)
{
    json_value stream;
    json_error error;
    int64_t n;
    const json_want wants[] = {
        {"model", &chat->model},
        {"input", &chat->messages},
        {"stream", &stream},
        {"max_output_tokens", &chat->max_completion_tokens},
    };

    *chat = (chat_request){.body = body,
                           .dialect = AIQ_DIALECT_RESPONSES,
                           .translate = responses_request_translate};
    if (!json_scan(body.data, body.len, wants, sizeof(wants) / sizeof(wants[0]), &error)) {
        return chat_request_not_json(err, &error);
    }
    if (chat->model.type != JSON_STRING) {
        return rewrite_invalid(err, "a string", "model");
    }
    if (chat->messages.type != JSON_STRING &&
        (chat->messages.type != JSON_ARRAY || chat->messages.count == 0)) {
        return rewrite_invalid(err, "a string or an array of items", "input");
    }
    if (!rewrite_absent(&chat->max_completion_tokens) &&
        (!json_int(&chat->max_completion_tokens, &n) || n < RESPONSES_OUTPUT_MIN ||
         n > INT32_MAX)) {
        return rewrite_invalid(err, "an integer of at least 16", "max_output_tokens");
    }
    if (!rewrite_absent(&stream) && stream.type != JSON_TRUE && stream.type != JSON_FALSE) {
        return rewrite_invalid(err, "a boolean", "stream");
    }
    chat->stream = stream.type == JSON_TRUE;
    return true;
}
