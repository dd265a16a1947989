#include "providers/local_chat.h"
#include <stdio.h>
#include <string.h>
#include "infer/schema.h"

#define TOP_K_MAX 1000000

static bool unsupported(aiq_err *err, const char *param)
{
    return aiq_fail_param(err, 400, "unsupported_parameter", param,
                          "This model does not support '%s' with this value.", param);
}

static bool invalid(aiq_err *err, const char *param, const char *expected)
{
    return aiq_fail_param(err, 400, "invalid_value", param, "'%s' must be %s.", param,
                          expected);
}

/* What asks for nothing: absent, null, false, 0, [] and {}. */
static bool asks_nothing(const json_value *value)
{
    switch (value->type) {
    case JSON_NONE:
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_NUMBER:
        return json_real(value) == 0;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return value->count == 0;
    default:
        return false;
    }
}

static bool is_text_only(const json_value *modalities)
{
    json_value element;
    size_t cursor = 0;

    while (json_each(modalities, &cursor, NULL, &element)) {
        if (!json_string_is(&element, "text")) {
            return false;
        }
    }
    return modalities->type == JSON_ARRAY;
}

/* Fields that change what a good answer is. Others (user, metadata, store, …) do not. */
static bool check_field(aiq_str name, const json_value *value, aiq_err *err)
{
    static const char *const nothing[] = {
        "functions",
        "audio",
        "prediction",
    };

    for (size_t i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++) {
        if (aiq_str_is(name, nothing[i])) {
            return asks_nothing(value) || unsupported(err, nothing[i]);
        }
    }
    if (aiq_str_is(name, "web_search_options")) { /* {} asks for it, too */
        return value->type == JSON_NULL || unsupported(err, "web_search_options");
    }
    if (aiq_str_is(name, "modalities")) {
        return asks_nothing(value) || is_text_only(value) || unsupported(err, "modalities");
    }
    return true;
}

static bool read_count(const json_value *value, const char *name, int64_t most, uint32_t *out,
                       aiq_err *err)
{
    int64_t n;

    if (value->type == JSON_NULL) {
        return true;
    }
    if (value->type != JSON_NUMBER || !json_int(value, &n) || n < 0 || n > most) {
        return aiq_fail_param(err, 400, "invalid_value", name,
                              "'%s' must be an integer from 0 to %lld.", name, (long long)most);
    }
    *out = (uint32_t)n;
    return true;
}

static bool read_real(const json_value *value, const char *name, double least, double most,
                      float *out, aiq_err *err)
{
    if (value->type == JSON_NULL) {
        return true;
    }
    if (value->type != JSON_NUMBER || json_real(value) < least || json_real(value) > most) {
        return aiq_fail_param(err, 400, "invalid_value", name,
                              "'%s' must be a number from %g to %g.", name, least, most);
    }
    *out = (float)json_real(value);
    return true;
}

static bool read_logprobs(const json_value *value, infer_params *params, aiq_err *err)
{
    if (value->type != JSON_NULL && value->type != JSON_TRUE && value->type != JSON_FALSE) {
        return invalid(err, "logprobs", "a boolean");
    }
    params->logprobs = value->type == JSON_TRUE;
    return true;
}

/* The words that OpenAI's API has, and one of Anthropic's; what they mean is the template's
 * matter. */
static bool read_effort(const json_value *value, infer_params *params, aiq_err *err)
{
    static const char *const words[] = {"none", "minimal", "low", "medium",
                                        "high", "xhigh",   "max"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (json_string_is(value, words[i])) {
            params->effort = words[i];
        }
    }
    return params->effort != NULL || value->type == JSON_NULL ||
           invalid(err, "reasoning_effort",
                   "one of none, minimal, low, medium, high, xhigh and max");
}

/* {"token id": bias} */
static bool read_bias(const json_value *value, aiq_pool *pool, infer_params *params,
                      aiq_err *err)
{
    sampler_bias *list;
    json_value bias;
    size_t cursor = 0;
    aiq_str name;

    if (value->type == JSON_NULL) {
        return true;
    }
    if (value->type != JSON_OBJECT || value->count > INFER_MAX_BIAS) {
        return invalid(err, "logit_bias", "an object with at most 1024 members");
    }
    list = aiq_pool_zalloc(pool, (value->count + 1) * sizeof(*list));
    while (json_each(value, &cursor, &name, &bias)) {
        const json_value id = {JSON_NUMBER, name, 0};
        int64_t n;

        if (name.len == 0 || strspn(name.data, "0123456789") < name.len || name.len > 9 ||
            !json_int(&id, &n) || bias.type != JSON_NUMBER || json_real(&bias) < -100 ||
            json_real(&bias) > 100) {
            return invalid(err, "logit_bias",
                           "made of tokens' ids and biases from -100 to 100");
        }
        list[params->n_bias++] = (sampler_bias){(int32_t)n, (float)json_real(&bias)};
    }
    params->bias = list;
    return true;
}

/* "flex": others may go first. */
static bool read_tier(const json_value *value, infer_params *params, aiq_err *err)
{
    static const char *const tiers[] = {"auto", "default", "priority", "scale", "flex"};
    bool known = value->type == JSON_NULL;

    for (size_t i = 0; i < sizeof(tiers) / sizeof(tiers[0]); i++) {
        known |= json_string_is(value, tiers[i]);
    }
    params->flex = json_string_is(value, "flex");
    return known || invalid(err, "service_tier", "auto, default, flex, priority or scale");
}

/* Fields that say how, and when, to answer. */
static bool read_field(aiq_str name, const json_value *value, aiq_pool *pool,
                       infer_params *params, aiq_err *err)
{
    const struct {
        const char *name;
        double least, most;
        float *out;
    } reals[] = {
        {"min_p", 0, 0.999, &params->min_p},
        {"repetition_penalty", 0.01, 10, &params->repetition},
        {"frequency_penalty", -2, 2, &params->frequency},
        {"presence_penalty", -2, 2, &params->presence},
    };

    for (size_t i = 0; i < sizeof(reals) / sizeof(reals[0]); i++) {
        if (aiq_str_is(name, reals[i].name)) {
            return read_real(value, reals[i].name, reals[i].least, reals[i].most, reals[i].out,
                             err);
        }
    }
    if (aiq_str_is(name, "reasoning_effort")) {
        return read_effort(value, params, err);
    }
    if (aiq_str_is(name, "top_k")) {
        return read_count(value, "top_k", TOP_K_MAX, &params->top_k, err);
    }
    if (aiq_str_is(name, "top_logprobs")) {
        return read_count(value, "top_logprobs", INFER_MAX_TOP, &params->top_logprobs, err);
    }
    if (aiq_str_is(name, "logprobs")) {
        return read_logprobs(value, params, err);
    }
    if (aiq_str_is(name, "service_tier")) {
        return read_tier(value, params, err);
    }
    return !aiq_str_is(name, "logit_bias") || read_bias(value, pool, params, err);
}

/* What the answer must meet. */
typedef struct {
    aiq_str schema; /* empty: it may be any text */
    bool strict;
} answer_format;

static bool read_format(const chat_request *chat, answer_format *out, aiq_err *err)
{
    const json_value body = json_root(chat->body);
    json_value format = json_member(&body, "response_format"), type, schema, strict;

    *out = (answer_format){.schema = AIQ_STR("")};
    if (asks_nothing(&format)) {
        return true;
    }
    if (format.type != JSON_OBJECT) {
        return invalid(err, "response_format", "an object");
    }
    type = json_member(&format, "type");
    if (type.type != JSON_STRING) {
        return invalid(err, "response_format", "an object with a 'type'");
    }
    if (json_string_is(&type, "text")) {
        return true;
    }
    if (json_string_is(&type, "json_object")) {
        out->schema = AIQ_STR("{\"type\":\"object\"}");
        return true;
    }
    if (!json_string_is(&type, "json_schema")) {
        return unsupported(err, "response_format");
    }
    schema = json_member(&format, "json_schema");
    strict = schema.type == JSON_OBJECT ? json_member(&schema, "strict") : schema;
    schema = schema.type == JSON_OBJECT ? json_member(&schema, "schema") : schema;
    if (schema.type != JSON_OBJECT) {
        return invalid(err, "response_format", "an object whose 'json_schema' has a 'schema'");
    }
    *out = (answer_format){schema.text, strict.type == JSON_TRUE};
    return true;
}

static bool any_strict(const local_tools *tools)
{
    for (size_t i = 0; i < tools->n; i++) {
        if (tools->tools[i].strict) {
            return true;
        }
    }
    return false;
}

/* A schema alone is looked at first: an error about it names its field. */
static grammar *format_grammar(const answer_format *format, aiq_err *err)
{
    char why[160];
    grammar *g = schema_compile(format->schema.data, format->schema.len, format->strict, why,
                                sizeof(why));

    if (g == NULL) {
        aiq_fail_param(err, 400, "invalid_value", "response_format", "'response_format': %s.",
                       why);
    }
    return g;
}

static grammar *tools_grammar(const local_tools *tools, const answer_format *format,
                              const infer *model, aiq_err *err)
{
    infer_model_info info;
    char why[200];

    infer_info(model, &info);
    const tool_language language = {
        .format = info.tool_format,
        .tokenizer = infer_tokenizer(model),
        .tools = tools->named ? tools->named : tools->tools,
        .n = tools->named ? 1 : tools->n,
        .required = tools->required,
        .one = tools->one || tools->named,
        .answer = format->schema,
        .answer_strict = format->strict,
    };
    grammar *g = tool_grammar_new(&language, why, sizeof(why));
    if (g == NULL) {
        aiq_fail_param(err, 400, "invalid_value", "tools", "'tools': %s.", why);
    }
    return g;
}

/* Everything that the grammar is made of. */
static void write_key(aiq_buf *key, const local_tools *tools, const answer_format *format)
{
    aiq_str named = tools->named ? tools->named->name : AIQ_STR("");

    aiq_buf_printf(key, "%d%d%d%d %.*s\n", any_strict(tools), tools->required, tools->one,
                   format->strict, (int)named.len, named.data);
    aiq_buf_add(key, format->schema.data, format->schema.len);
    aiq_buf_text(key, "\n");
    aiq_buf_add(key, tools->list.data, tools->list.len);
}

/* NULL, and a 400. */
static grammar *make_grammar(const local_tools *tools, const answer_format *format,
                             const infer *model, aiq_err *err)
{
    grammar *g;

    if (format->schema.len > 0) {
        g = format_grammar(format, err);
        if (g == NULL || tools->n == 0) {
            return g;
        }
        grammar_free(g);
    }
    return tools_grammar(tools, format, model, err);
}

static bool find_language(const local_tools *tools, const answer_format *format,
                          const infer *model, mask_language **out, aiq_err *err)
{
    aiq_buf text = {0};
    grammar *g = NULL;

    write_key(&text, tools, format);
    aiq_str key = {(char *)text.data, text.len};
    *out = masks_find(infer_masks(model), key);
    if (*out == NULL) {
        g = make_grammar(tools, format, model, err);
    }
    if (g != NULL) {
        *out = masks_add(infer_masks(model), key, g);
    }
    aiq_buf_free(&text);
    return *out != NULL;
}

bool local_chat_language(const chat_request *chat, const local_tools *tools, const infer *model,
                         mask_language **out, bool *begins_so, aiq_err *err)
{
    answer_format format;

    *out = NULL;
    if (!read_format(chat, &format, err)) {
        return false;
    }
    *begins_so = format.schema.len > 0 || tools->required;
    if (*begins_so || any_strict(tools)) {
        return find_language(tools, &format, model, out, err);
    }
    if (tools->one && tools->n > 0) {
        /* it ends with its call, rather than speak on in vain; where that cannot be said,
         * calls behind the first are left out (tool_calls.h) */
        (void)find_language(tools, &format, model, out, err);
    }
    return true;
}

static bool check_fields(const chat_request *chat, aiq_pool *pool, infer_params *params,
                         aiq_err *err)
{
    const json_value object = json_root(chat->body);
    json_value value;
    size_t cursor = 0;
    aiq_str name;

    while (json_each(&object, &cursor, &name, &value)) {
        if (!check_field(name, &value, err) || !read_field(name, &value, pool, params, err)) {
            return false;
        }
    }
    if (params->top_logprobs > 0 && !params->logprobs) {
        return invalid(err, "top_logprobs", "used with 'logprobs' that is true");
    }
    return true;
}

static const char *role_of(const json_value *role)
{
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"},
                                           {"tool", "tool"}};

    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (json_string_is(role, roles[i][0])) {
            return roles[i][1];
        }
    }
    return NULL;
}

/* The parts' texts, joined; what the assistant refused is one. False: one is none. */
static bool join_parts(const json_value *content, aiq_pool *pool, aiq_str *text)
{
    aiq_buf out = {0};
    json_value part;
    size_t cursor = 0;
    bool ok = true;

    while (ok && json_each(content, &cursor, NULL, &part)) {
        json_value type = json_member(&part, "type");
        bool refusal = json_string_is(&type, "refusal");
        json_value value = json_member(&part, refusal ? "refusal" : "text");
        ok = refusal || json_string_is(&type, "text");
        if (ok) {
            aiq_str piece = json_string(pool, &value);
            aiq_buf_add(&out, piece.data, piece.len);
        }
    }
    *text = (aiq_str){aiq_pool_copy(pool, out.data, out.len), out.len};
    aiq_buf_free(&out);
    return ok;
}

static bool role_is(const infer_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static bool read_message(const json_value *object, uint32_t i, const infer_message *caller,
                         aiq_pool *pool, infer_message *message, aiq_err *err)
{
    json_value role = json_member(object, "role"), content = json_member(object, "content");
    aiq_str text = {"", 0};
    char param[48];

    message->role = role_of(&role);
    if (message->role == NULL) {
        snprintf(param, sizeof(param), "messages[%u].role", i);
        return unsupported(err, param);
    }
    if (content.type == JSON_STRING) {
        text = json_string(pool, &content);
    } else if (content.type == JSON_ARRAY && !join_parts(&content, pool, &text)) {
        snprintf(param, sizeof(param), "messages[%u].content", i);
        return aiq_fail_param(
            err, 400, "unsupported_parameter", param,
            "'%s' has a part that is not text, and this model reads no other.", param);
    }
    message->content = text.data;
    message->content_len = text.len;
    return role_is(message, "user") || role_is(message, "system") ||
           local_tools_message(object, i, caller, pool, message, err);
}

static bool read_messages(const chat_request *chat, aiq_pool *pool, infer_params *params,
                          aiq_err *err)
{
    infer_message *messages =
        aiq_pool_zalloc(pool, chat->messages.count * sizeof(infer_message));
    const infer_message *caller = NULL;
    json_value object;
    size_t cursor = 0;
    uint32_t n = 0;

    while (json_each(&chat->messages, &cursor, NULL, &object)) {
        if (!read_message(&object, n, caller, pool, &messages[n], err)) {
            return false;
        }
        caller = messages[n].calls.len > 0 ? &messages[n] : caller;
        n++;
    }
    params->messages = messages;
    params->n_messages = n;
    return true;
}

/* Stop strings go to the model as C strings, without a NUL inside. */
static bool add_stop(const json_value *value, aiq_pool *pool, infer_params *params,
                     const char **list, aiq_err *err)
{
    aiq_str text = json_string(pool, value);

    if (text.len == 0 || text.len > INFER_MAX_STOP_LEN || memchr(text.data, '\0', text.len)) {
        return invalid(err, "stop", "made of strings of 1 to 1024 bytes, without a NUL");
    }
    list[params->n_stop++] = text.data;
    return true;
}

static bool read_stop(const chat_request *chat, aiq_pool *pool, infer_params *params,
                      aiq_err *err)
{
    const char **list = aiq_pool_alloc(pool, INFER_MAX_STOP * sizeof(const char *));
    json_value element;
    size_t cursor = 0;

    params->stop = list;
    if (chat->stop.type == JSON_STRING) {
        return add_stop(&chat->stop, pool, params, list, err);
    }
    while (json_each(&chat->stop, &cursor, NULL, &element)) {
        if (!add_stop(&element, pool, params, list, err)) {
            return false;
        }
    }
    return true;
}

static void read_numbers(const chat_request *chat, infer_params *params)
{
    int64_t n;

    params->temperature =
        chat->temperature.type == JSON_NUMBER ? (float)json_real(&chat->temperature) : 1.0f;
    params->top_p = chat->top_p.type == JSON_NUMBER ? (float)json_real(&chat->top_p) : 1.0f;
    if (params->top_p == 0) {
        params->top_p = 1e-6f; /* the best token alone; to the sampler 0 means off */
    }
    if (chat->seed.type == JSON_NUMBER && json_int(&chat->seed, &n)) {
        params->seed = (uint64_t)n;
        params->has_seed = true;
    }
    params->max_tokens = chat->cap;
    if (json_int(&chat->max_tokens, &n)) {
        params->max_tokens = (uint32_t)n;
    }
    if (json_int(&chat->max_completion_tokens, &n)) {
        params->max_tokens = (uint32_t)n;
    }
}

static bool begun_badly(aiq_err *err, const char *param, const char *why)
{
    return aiq_fail_param(err, 400, "invalid_value", param, "%s", why);
}

/* The text that an answer begins with. White space at its end would be a token of its own,
 * where models have it at the beginning of the next word. */
static bool check_beginning(const infer_message *begun, aiq_err *err)
{
    static const char ws[] = " \t\n\v\f\r";

    if (begun->calls.len > 0) {
        return begun_badly(err, "messages",
                           "messages: final assistant content cannot have tool calls");
    }
    if (begun->content_len == 0) {
        return begun_badly(err, "messages",
                           "messages: final assistant content cannot be empty");
    }
    if (memchr(ws, begun->content[begun->content_len - 1], sizeof(ws) - 1)) {
        return begun_badly(
            err, "messages",
            "messages: final assistant content cannot end with trailing whitespace");
    }
    return true;
}

/* What the whole answer must be cannot be said of the rest of one. */
static bool check_begun(const chat_request *chat, const infer_params *params,
                        const local_tools *tools, aiq_err *err)
{
    const size_t last = params->n_messages - 1 - params->goes_on;
    answer_format format;

    if (!read_format(chat, &format, err)) {
        return false;
    }
    if (format.schema.len > 0) {
        return begun_badly(err, "response_format",
                           "'response_format' cannot be used where the last message is the "
                           "assistant's.");
    }
    if (tools->required || tools->named) {
        return begun_badly(err, "tool_choice",
                           "'tool_choice' cannot ask for a call where the last message is the "
                           "assistant's.");
    }
    if (chat->wants_thoughts) {
        return begun_badly(err, "thinking",
                           "'thinking' cannot be enabled where the last message is the "
                           "assistant's.");
    }
    return check_beginning(&params->messages[last], err);
}

unsigned local_chat_choices(const chat_request *chat)
{
    int64_t n;

    return json_int(&chat->n, &n) ? (unsigned)n : 1;
}

bool local_chat_params(const chat_request *chat, aiq_pool *pool, infer_params *params,
                       local_tools *tools, aiq_err *err)
{
    int64_t n;

    *params = (infer_params){0};
    if (json_int(&chat->n, &n) && n > LOCAL_MAX_CHOICES) {
        return invalid(err, "n", "at most 16 with this model");
    }
    if (!check_fields(chat, pool, params, err) || !local_tools_read(chat, pool, tools, err) ||
        !read_messages(chat, pool, params, err) || !read_stop(chat, pool, params, err)) {
        return false;
    }
    read_numbers(chat, params);
    params->effort = chat->no_thoughts || chat->begun ? "none" : params->effort;
    params->tools = tools->list;
    params->goes_on = chat->goes_on;
    params->begun = chat->begun;
    return !chat->begun || check_begun(chat, params, tools, err);
}

bool local_chat_refused(infer_rc rc, const char *why, aiq_err *err)
{
    switch (rc) {
    case INFER_BUSY:
        aiq_fail(err, 429, "model_busy", "The model is busy. Try again later.");
        err->retry_after = 1;
        return false;
    case INFER_TOO_LONG:
        return aiq_fail_param(err, 400, "context_length_exceeded", "messages",
                              "The conversation is too long: %s.", why);
    case INFER_NOMEM:
        aiq_fail(err, 503, "model_unavailable", "The model has no memory for this request.");
        aiq_err_detail(err, "%s", why);
        return false;
    default:
        return aiq_fail_param(err, 400, "invalid_value", "messages",
                              "The model cannot take this conversation: %s.", why);
    }
}
