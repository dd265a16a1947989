#include "providers/local_tools.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "infer/schema.h"
#include "providers/rewrite.h"

/* place: printf's, with one %u for i. */
__attribute__((format(printf, 4, 5))) static bool wrong(aiq_err *err, const char *place,
                                                        uint32_t i, const char *format, ...)
{
    char param[64], message[200];
    const char *number = strstr(place, "%u");
    va_list ap;

    snprintf(param, sizeof(param), "%.*s%u%s", (int)(number - place), place, i, number + 2);
    va_start(ap, format);
    vsnprintf(message, sizeof(message), format, ap);
    va_end(ap);
    return aiq_fail_param(err, 400, "invalid_value", param, "%s.", message);
}

/* --- tools --- */

/* OpenAI's rule. A name has no escapes then, and is the same in every format. */
static bool is_name(aiq_str name)
{
    static const char allowed[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";
    size_t n = 0;

    while (n < name.len && memchr(allowed, name.data[n], sizeof(allowed) - 1) != NULL) {
        n++;
    }
    return n == name.len && n > 0 && n <= LOCAL_MAX_NAME;
}

static const tool_shape *find(const local_tools *tools, aiq_str name)
{
    for (size_t i = 0; i < tools->n; i++) {
        if (aiq_str_eq(tools->names[i], name)) {
            return &tools->tools[i];
        }
    }
    return NULL;
}

/* One that is none is wrong where nothing is held to it, too: the model would be told it. */
static bool check_schema(const json_value *schema, uint32_t i, aiq_str name, aiq_err *err)
{
    char why[100];

    if (rewrite_absent(schema)) {
        return true;
    }
    if (schema->type != JSON_OBJECT) {
        return wrong(err, "tools[%u].function.parameters", i,
                     "The schema of tool '%.*s' must be an object", (int)name.len, name.data);
    }
    return schema_check(schema->text, why, sizeof(why)) ||
           wrong(err, "tools[%u].function.parameters", i,
                 "The schema of tool '%.*s' is none: %s", (int)name.len, name.data, why);
}

static bool read_function(const json_value *function, local_tools *out, aiq_err *err)
{
    uint32_t i = (uint32_t)out->n;
    json_value name = json_member(function, "name"), strict = json_member(function, "strict");
    json_value schema = json_member(function, "parameters");
    tool_shape *tool = &out->tools[i];

    tool->name = rewrite_raw(&name);
    if (!is_name(tool->name)) {
        return wrong(err, "tools[%u].function.name", i,
                     "Tool %u must have a name of 1 to %d letters, digits, '_' and '-'", i,
                     LOCAL_MAX_NAME);
    }
    if (find(out, tool->name)) {
        return wrong(err, "tools[%u].function.name", i,
                     "Tool %u has the name of another, '%.*s'", i, (int)tool->name.len,
                     tool->name.data);
    }
    if (!check_schema(&schema, i, tool->name, err)) {
        return false;
    }
    if (!rewrite_absent(&strict) && strict.type != JSON_TRUE && strict.type != JSON_FALSE) {
        return wrong(err, "tools[%u].function.strict", i,
                     "'strict' of tool '%.*s' must be a "
                     "boolean",
                     (int)tool->name.len, tool->name.data);
    }
    tool->schema = schema.type == JSON_OBJECT ? schema.text : AIQ_STR("");
    tool->strict = strict.type == JSON_TRUE;
    out->names[i] = tool->name;
    out->n++;
    return true;
}

static bool read_list(const json_value *list, aiq_pool *pool, local_tools *out, aiq_err *err)
{
    json_value tool;
    size_t cursor = 0;

    if (list->type != JSON_ARRAY || list->count > LOCAL_MAX_TOOLS) {
        return rewrite_invalid(err, "an array of at most 128 tools", "tools");
    }
    out->list = list->text;
    out->tools = aiq_pool_zalloc(pool, list->count * sizeof(*out->tools));
    out->names = aiq_pool_zalloc(pool, list->count * sizeof(*out->names));
    for (uint32_t i = 0; json_each(list, &cursor, NULL, &tool); i++) {
        json_value type = json_member(&tool, "type"), function = json_member(&tool, "function");

        if (!json_string_is(&type, "function")) {
            return wrong(err, "tools[%u].type", i, "Tool %u must be of type 'function'", i);
        }
        if (function.type != JSON_OBJECT) {
            return wrong(err, "tools[%u].function", i, "Tool %u must have an object 'function'",
                         i);
        }
        if (!read_function(&function, out, err)) {
            return false;
        }
    }
    return true;
}

static bool read_choice(const json_value *choice, local_tools *out, aiq_err *err)
{
    json_value type = json_member(choice, "type"), function = json_member(choice, "function");
    json_value name = json_member(&function, "name");

    if (rewrite_absent(choice) || json_string_is(choice, "auto")) {
        return true;
    }
    if (json_string_is(choice, "none")) {
        *out = (local_tools){0};
        return true;
    }
    if (out->n == 0) {
        return aiq_fail_param(err, 400, "invalid_value", "tool_choice",
                              "'tool_choice' is allowed only where there are tools.");
    }
    out->required = true;
    if (json_string_is(choice, "required")) {
        return true;
    }
    if (!json_string_is(&type, "function")) {
        return rewrite_invalid(err, "'auto', 'none', 'required' or the name of a function",
                               "tool_choice");
    }
    out->named = find(out, rewrite_raw(&name));
    return out->named != NULL || aiq_fail_param(err, 400, "invalid_value", "tool_choice",
                                                "'tool_choice' must name one of the tools.");
}

bool local_tools_read(const chat_request *chat, aiq_pool *pool, local_tools *out, aiq_err *err)
{
    const json_value body = json_root(chat->body);
    json_value list, choice, parallel;
    const json_want wants[] = {
        {"tools", &list}, {"tool_choice", &choice}, {"parallel_tool_calls", &parallel}};

    *out = (local_tools){0};
    json_members(&body, wants, sizeof(wants) / sizeof(wants[0]));
    if (!rewrite_asks_nothing(&list) && !read_list(&list, pool, out, err)) {
        return false;
    }
    if (!rewrite_absent(&parallel) && parallel.type != JSON_TRUE &&
        parallel.type != JSON_FALSE) {
        return rewrite_invalid(err, "a boolean", "parallel_tool_calls");
    }
    out->one = parallel.type == JSON_FALSE;
    return read_choice(&choice, out, err);
}

/* --- messages --- */

/* Each has an id, and a function with a name and arguments. */
static bool check_calls(const json_value *calls, uint32_t i, aiq_err *err)
{
    static const char place[] = "messages[%u].tool_calls";
    json_value call;
    size_t cursor = 0;

    if (calls->type != JSON_ARRAY || calls->count > LOCAL_MAX_CALLS) {
        return wrong(err, place, i, "'messages[%u].tool_calls' must be an array of at most %d",
                     i, LOCAL_MAX_CALLS);
    }
    for (uint32_t k = 0; json_each(calls, &cursor, NULL, &call); k++) {
        json_value id = json_member(&call, "id"), its = json_member(&call, "function");
        json_value name = json_member(&its, "name"), arguments = json_member(&its, "arguments");

        if (id.type != JSON_STRING || its.type != JSON_OBJECT) {
            return wrong(err, place, i,
                         "'messages[%u].tool_calls': call %u must have an id and a function", i,
                         k);
        }
        if (name.type != JSON_STRING || arguments.type != JSON_STRING) {
            return wrong(err, place, i,
                         "'messages[%u].tool_calls': call %u must have a name, and arguments "
                         "as a string of JSON",
                         i, k);
        }
    }
    return true;
}

/* The name of the function that was called with this id; NONE: there is no such call. */
static json_value called(const infer_message *caller, aiq_str id)
{
    const json_value calls = {JSON_ARRAY, caller != NULL ? caller->calls : AIQ_STR("[]"), 0};
    json_value call;
    size_t cursor = 0;

    while (json_each(&calls, &cursor, NULL, &call)) {
        json_value its = json_member(&call, "function"), value = json_member(&call, "id");

        if (aiq_str_eq(rewrite_raw(&value), id)) {
            return json_member(&its, "name");
        }
    }
    return (json_value){0};
}

static bool read_result(const json_value *object, uint32_t i, const infer_message *caller,
                        aiq_pool *pool, infer_message *message, aiq_err *err)
{
    static const char place[] = "messages[%u].tool_call_id";
    json_value id = json_member(object, "tool_call_id"), name;

    if (id.type != JSON_STRING) {
        return wrong(err, place, i,
                     "'messages[%u].tool_call_id' must say which call it is the result of", i);
    }
    name = called(caller, rewrite_raw(&id));
    if (name.type == JSON_NONE) {
        return wrong(err, place, i,
                     "'messages[%u].tool_call_id' names a call that was not made", i);
    }
    message->call_id = json_string(pool, &id);
    message->name = json_string(pool, &name);
    return true;
}

bool local_tools_message(const json_value *object, uint32_t i, const infer_message *caller,
                         aiq_pool *pool, infer_message *message, aiq_err *err)
{
    json_value calls, thought;
    const json_want wants[] = {{"tool_calls", &calls}, {"reasoning_content", &thought}};

    if (strcmp(message->role, "tool") == 0) {
        return read_result(object, i, caller, pool, message, err);
    }
    json_members(object, wants, 2);
    if (thought.type == JSON_STRING) {
        message->thought = json_string(pool, &thought);
    }
    if (rewrite_asks_nothing(&calls)) {
        return true;
    }
    message->calls = calls.text;
    return check_calls(&calls, i, err);
}
