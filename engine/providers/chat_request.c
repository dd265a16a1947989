#include "providers/chat_request.h"
#include <stdio.h>
#include <string.h>

static const char *const roles[] = {"system",    "developer", "user",
                                    "assistant", "tool",      "function"};

#define STOP_MAX 4

/* With its article, as a message says it. */
static const char *type_name(json_type type)
{
    static const char *const names[] = {
        [JSON_NONE] = "nothing",    [JSON_NULL] = "null",        [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean", [JSON_NUMBER] = "a number",  [JSON_STRING] = "a string",
        [JSON_ARRAY] = "an array",  [JSON_OBJECT] = "an object",
    };

    return names[type];
}

static bool missing(aiq_err *err, const char *param)
{
    return aiq_fail_param(err, 400, "missing_required_parameter", param,
                          "The parameter '%s' is missing.", param);
}

static bool wrong_type(aiq_err *err, const char *param, const char *expected, json_type type)
{
    return aiq_fail_param(err, 400, "invalid_type", param, "'%s' must be %s, not %s.", param,
                          expected, type_name(type));
}

static bool wrong_value(aiq_err *err, const char *param, const char *expected)
{
    return aiq_fail_param(err, 400, "invalid_value", param, "'%s' must be %s.", param,
                          expected);
}

static bool absent(const json_value *value)
{
    return value->type == JSON_NONE || value->type == JSON_NULL;
}

static bool check_real(const json_value *value, const char *param, double min, double max,
                       const char *expected, aiq_err *err)
{
    if (absent(value)) {
        return true;
    }
    if (value->type != JSON_NUMBER) {
        return wrong_type(err, param, "a number", value->type);
    }
    double x = json_real(value);
    return (x >= min && x <= max) || wrong_value(err, param, expected);
}

static bool check_positive(const json_value *value, const char *param, aiq_err *err)
{
    int64_t n;

    if (absent(value)) {
        return true;
    }
    if (value->type != JSON_NUMBER) {
        return wrong_type(err, param, "an integer", value->type);
    }
    if (!json_int(value, &n) || n < 1 || n > INT32_MAX) {
        return wrong_value(err, param, "a positive integer");
    }
    return true;
}

static bool check_seed(const json_value *value, aiq_err *err)
{
    int64_t n;

    if (absent(value)) {
        return true;
    }
    if (value->type != JSON_NUMBER) {
        return wrong_type(err, "seed", "an integer", value->type);
    }
    return json_int(value, &n) || wrong_value(err, "seed", "an integer of 64 bits");
}

static bool check_stop(const json_value *value, aiq_err *err)
{
    json_value element;
    size_t cursor = 0;

    if (absent(value) || value->type == JSON_STRING) {
        return true;
    }
    if (value->type != JSON_ARRAY) {
        return wrong_type(err, "stop", "a string or an array of strings", value->type);
    }
    if (value->count > STOP_MAX) {
        return wrong_value(err, "stop", "at most 4 strings");
    }
    while (json_each(value, &cursor, NULL, &element)) {
        if (element.type != JSON_STRING) {
            return wrong_type(err, "stop", "a string or an array of strings", element.type);
        }
    }
    return true;
}

/* Messages. */

static bool known_role(const json_value *role)
{
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (json_string_is(role, roles[i])) {
            return true;
        }
    }
    return false;
}

static bool check_parts(const json_value *content, const char *param, aiq_err *err)
{
    char name[64];
    json_value part;
    size_t cursor = 0;

    if (content->count == 0) {
        return wrong_value(err, param, "a string or an array that is not empty");
    }
    for (uint32_t i = 0; json_each(content, &cursor, NULL, &part); i++) {
        snprintf(name, sizeof(name), "%s[%u]", param, i);
        if (part.type != JSON_OBJECT) {
            return wrong_type(err, name, "an object", part.type);
        }
        json_value type = json_member(&part, "type");
        snprintf(name, sizeof(name), "%s[%u].type", param, i);
        if (type.type == JSON_NONE) {
            return missing(err, name);
        }
        if (type.type != JSON_STRING) {
            return wrong_type(err, name, "a string", type.type);
        }
        json_value text = json_member(&part, "text");
        snprintf(name, sizeof(name), "%s[%u].text", param, i);
        if (json_string_is(&type, "text") && text.type != JSON_STRING) {
            return text.type == JSON_NONE ? missing(err, name)
                                          : wrong_type(err, name, "a string", text.type);
        }
    }
    return true;
}

static bool check_content(const json_value *content, bool may_be_null, const char *param,
                          aiq_err *err)
{
    switch (content->type) {
    case JSON_STRING:
        return true;
    case JSON_ARRAY:
        return check_parts(content, param, err);
    case JSON_NONE:
        return may_be_null || missing(err, param);
    case JSON_NULL:
        return may_be_null || wrong_type(err, param, "a string or an array", JSON_NULL);
    default:
        return wrong_type(err, param, "a string or an array", content->type);
    }
}

/* A name is written only where it is needed, for an error. */
static const char *message_param(char name[48], uint32_t i, const char *field)
{
    snprintf(name, 48, "messages[%u]%s", i, field);
    return name;
}

static bool check_message(const json_value *message, uint32_t i, bool *plain, aiq_err *err)
{
    json_value role, content;
    const json_want wants[] = {{"role", &role}, {"content", &content}};
    char name[48];

    if (message->type != JSON_OBJECT) {
        return wrong_type(err, message_param(name, i, ""), "an object", message->type);
    }
    json_members(message, wants, 2);
    if (role.type == JSON_NONE) {
        return missing(err, message_param(name, i, ".role"));
    }
    if (role.type != JSON_STRING) {
        return wrong_type(err, message_param(name, i, ".role"), "a string", role.type);
    }
    if (!known_role(&role)) {
        return wrong_value(err, message_param(name, i, ".role"),
                           "one of system, developer, user, assistant, tool, function");
    }
    if (content.type == JSON_STRING) {
        return true;
    }
    *plain = false;
    bool may_be_null = json_string_is(&role, "assistant") || json_string_is(&role, "function");
    return check_content(&content, may_be_null, message_param(name, i, ".content"), err);
}

static bool check_messages(chat_request *chat, aiq_err *err)
{
    const json_value *messages = &chat->messages;
    json_value message;
    size_t cursor = 0;

    if (messages->type == JSON_NONE) {
        return missing(err, "messages");
    }
    if (messages->type != JSON_ARRAY) {
        return wrong_type(err, "messages", "an array of objects", messages->type);
    }
    if (messages->count == 0) {
        return wrong_value(err, "messages", "an array that is not empty");
    }
    chat->plain = true;
    for (uint32_t i = 0; json_each(messages, &cursor, NULL, &message); i++) {
        if (!check_message(&message, i, &chat->plain, err)) {
            return false;
        }
    }
    return true;
}

/* The whole. */

static bool check_model(const json_value *model, aiq_err *err)
{
    if (model->type == JSON_NONE) {
        return missing(err, "model");
    }
    if (model->type != JSON_STRING) {
        return wrong_type(err, "model", "a string", model->type);
    }
    return true;
}

static bool check_stream(chat_request *chat, const json_value *stream, aiq_err *err)
{
    const json_value *options = &chat->stream_options;

    if (!absent(stream) && stream->type != JSON_TRUE && stream->type != JSON_FALSE) {
        return wrong_type(err, "stream", "a boolean", stream->type);
    }
    chat->stream = stream->type == JSON_TRUE;
    if (absent(options)) {
        return true;
    }
    if (options->type != JSON_OBJECT) {
        return wrong_type(err, "stream_options", "an object", options->type);
    }
    if (!chat->stream) {
        return aiq_fail_param(err, 400, "invalid_value", "stream_options",
                              "'stream_options' is allowed only where 'stream' is true.");
    }
    chat->include_usage = json_member(options, "include_usage");
    json_type type = chat->include_usage.type;
    if (!absent(&chat->include_usage) && type != JSON_TRUE && type != JSON_FALSE) {
        return wrong_type(err, "stream_options.include_usage", "a boolean", type);
    }
    return true;
}

static bool check_options(const chat_request *chat, aiq_err *err)
{
    return check_positive(&chat->max_tokens, "max_tokens", err) &&
           check_positive(&chat->max_completion_tokens, "max_completion_tokens", err) &&
           check_positive(&chat->n, "n", err) &&
           check_real(&chat->temperature, "temperature", 0, 2, "between 0 and 2", err) &&
           check_real(&chat->top_p, "top_p", 0, 1, "between 0 and 1", err) &&
           check_seed(&chat->seed, err) && check_stop(&chat->stop, err);
}

bool chat_request_not_json(aiq_err *err, const json_error *error)
{
    return aiq_fail(err, 400, "invalid_json",
                    "The request's body is not a valid JSON object: %s at byte %zu.",
                    error->reason, error->offset);
}

bool chat_request_parse(chat_request *chat, aiq_str body, aiq_err *err)
{
    json_value stream;
    json_error error;
    const json_want wants[] = {
        {"model", &chat->model},
        {"messages", &chat->messages},
        {"stream", &stream},
        {"stream_options", &chat->stream_options},
        {"max_tokens", &chat->max_tokens},
        {"max_completion_tokens", &chat->max_completion_tokens},
        {"temperature", &chat->temperature},
        {"top_p", &chat->top_p},
        {"n", &chat->n},
        {"seed", &chat->seed},
        {"stop", &chat->stop},
    };

    *chat = (chat_request){.body = body, .dialect = AIQ_DIALECT_OPENAI};
    if (!json_scan(body.data, body.len, wants, sizeof(wants) / sizeof(wants[0]), &error)) {
        return chat_request_not_json(err, &error);
    }
    return check_model(&chat->model, err) && check_messages(chat, err) &&
           check_stream(chat, &stream, err) && check_options(chat, err);
}

bool chat_request_parse_other(chat_request *chat, const char *path, aiq_str body, aiq_err *err)
{
    json_value stream;
    json_error error;
    const json_want wants[] = {
        {"model", &chat->model},
        {"stream", &stream},
        {"stream_options", &chat->stream_options},
        {"max_tokens", &chat->max_tokens},
        {"n", &chat->n},
        {"best_of", &chat->best_of},
        {"prompt", &chat->prompt},
        {"input", &chat->input},
    };

    *chat = (chat_request){.body = body, .path = path, .dialect = AIQ_DIALECT_OPENAI};
    if (!json_scan(body.data, body.len, wants, sizeof(wants) / sizeof(wants[0]), &error)) {
        return chat_request_not_json(err, &error);
    }
    return check_model(&chat->model, err) && check_stream(chat, &stream, err) &&
           check_positive(&chat->max_tokens, "max_tokens", err) &&
           check_positive(&chat->n, "n", err) && check_positive(&chat->best_of, "best_of", err);
}

bool chat_request_generates(const chat_request *chat)
{
    return chat->path == NULL || strcmp(chat->path, "/completions") == 0;
}

bool chat_request_wants_usage(const chat_request *chat)
{
    return chat->include_usage.type == JSON_TRUE;
}
