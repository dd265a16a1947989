#include "services/gateway/similar.h"

#include <openssl/evp.h>
#include <string.h>
#include "infer/lexical.h"
#include "services/gateway/cached_key.h"

/* The only element. */
static bool only(const json_value *array, json_value *element)
{
    size_t cursor = 0;

    return array->type == JSON_ARRAY && array->count == 1 &&
           json_each(array, &cursor, NULL, element);
}

static bool last(const json_value *array, json_value *element)
{
    size_t cursor = 0;

    while (json_each(array, &cursor, NULL, element)) {
    }
    return array->count > 0;
}

static bool is_text_part(const json_value *part)
{
    json_value type = json_member(part, "type");

    return json_string_is(&type, "text") || json_string_is(&type, "input_text");
}

/* Where in the body the text lies, quotes included. */
static bool find_text(const chat_request *chat, json_value *text)
{
    json_value message, role, part;

    if (chat->messages.type == JSON_STRING) { /* of the Responses API */
        *text = chat->messages;
        return true;
    }
    if (chat->messages.type != JSON_ARRAY || !last(&chat->messages, &message)) {
        return false;
    }
    role = json_member(&message, "role");
    *text = json_member(&message, "content");
    if (!json_string_is(&role, "user")) {
        return false;
    }
    if (only(text, &part) && part.type == JSON_OBJECT && is_text_part(&part)) {
        *text = json_member(&part, "text");
    }
    return text->type == JSON_STRING;
}

static bool is_given(const json_value *value)
{
    return value->type > JSON_NULL && !(value->type == JSON_ARRAY && value->count == 0);
}

static bool has_tools(const json_value *body)
{
    json_value tools, functions, servers, search;
    const json_want wants[] = {{"tools", &tools},
                               {"functions", &functions},
                               {"mcp_servers", &servers},
                               {"web_search_options", &search}};

    json_members(body, wants, sizeof(wants) / sizeof(wants[0]));
    return is_given(&tools) || is_given(&functions) || is_given(&servers) || is_given(&search);
}

/* Where it is not said, providers take 1. */
static bool is_drawn(const json_value *body)
{
    json_value temperature = json_member(body, "temperature");

    return temperature.type != JSON_NUMBER || json_real(&temperature) > 0;
}

static void add_embedder(uint8_t key[VECTORS_KEY])
{
    uint8_t both[VECTORS_KEY + sizeof(LEXICAL_NAME)];

    memcpy(both, key, VECTORS_KEY);
    memcpy(both + VECTORS_KEY, LEXICAL_NAME, sizeof(LEXICAL_NAME));
    EVP_Digest(both, sizeof(both), key, NULL, EVP_sha256(), NULL);
}

semantic_question *similar_question(const aiq_job *job, const policy_model *model,
                                    const chat_request *chat)
{
    const policy_semantic *rules = job->location->semantic;
    json_value body = json_root(chat->body), text;
    uint8_t partition[VECTORS_KEY];

    if (chat->path || chat->goes_on || chat->said.len || !find_text(chat, &text) ||
        text.text.len > GATE_TEXT_MAX || (!rules->tools && has_tools(&body)) ||
        (!rules->temperature && is_drawn(&body))) {
        return NULL;
    }
    cached_key(partition, job, model, chat, text.text);
    add_embedder(partition);
    return semantic_question_new(partition, job->tenant, json_string(job->pool, &text));
}
