#include "services/gateway/similar.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include "infer/lexical.h"
#include "providers/local_models.h"
#include "services/gateway/cached_key.h"
#include "services/gateway/gateway.h"

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

/* Who makes the vector. A model of the same name may be another file after a reload. */

typedef struct {
    local_models *models;
    local_model *reference;
    embedder *embedder;
} maker;

static bool find_maker(const aiq_job *job, maker *m)
{
    const policy_target *target = job->location->semantic->embed->targets;
    aiq_err err;

    m->models = gateway_of(job)->gateway->models;
    m->reference = local_models_use_embedder(m->models, target->provider, target->model,
                                             &m->embedder, &err);
    return m->reference != NULL;
}

static void drop_maker(const maker *m)
{
    local_models_done(m->models, m->reference);
}

static void add_maker(uint8_t key[VECTORS_KEY], const char *name, const embedder_info *info)
{
    aiq_buf all = {0};

    aiq_buf_add(&all, key, VECTORS_KEY);
    aiq_buf_add(&all, name, strlen(name) + 1);
    if (info) {
        aiq_buf_printf(&all, "%s %s %u %llu %llu", info->architecture, info->name,
                       info->dimensions, (unsigned long long)info->n_params,
                       (unsigned long long)info->file_bytes);
    }
    EVP_Digest(all.data, all.len, key, NULL, EVP_sha256(), NULL);
    aiq_buf_free(&all);
}

/* False: the model is not there, or not yet. One that is the built-in embedder under a name of
 * its own is that. */
static bool add_embedder(const aiq_job *job, uint8_t key[VECTORS_KEY], gate_mode *mode)
{
    const policy_model *model = job->location->semantic->embed;
    embedder_info info;
    maker m;

    *mode = GATE_STRICT;
    if (model == NULL) {
        add_maker(key, LEXICAL_NAME, NULL);
        return true;
    }
    if (!find_maker(job, &m)) {
        return false;
    }
    embedder_get_info(m.embedder, &info);
    if (strcmp(info.architecture, LEXICAL_NAME) != 0) {
        *mode = GATE_LOOSE;
    }
    add_maker(key, model->name, &info);
    drop_maker(&m);
    return true;
}

semantic_question *similar_question(const aiq_job *job, const policy_model *model,
                                    const chat_request *chat)
{
    const policy_semantic *rules = job->location->semantic;
    json_value body = json_root(chat->body), text;
    uint8_t partition[VECTORS_KEY];
    gate_mode mode;

    if (chat->path || chat->goes_on || chat->said.len || !find_text(chat, &text) ||
        text.text.len > GATE_TEXT_MAX || (!rules->tools && has_tools(&body)) ||
        (!rules->temperature && is_drawn(&body))) {
        return NULL;
    }
    cached_key(partition, job, model, chat, text.text);
    return add_embedder(job, partition, &mode)
               ? semantic_question_new(partition, job->tenant, json_string(job->pool, &text),
                                       mode)
               : NULL;
}

/* The vector of a model. A call lives until its end has reached the loop. */

struct similar_call {
    aiq_loop *loop;
    maker maker;
    semantic_question *question;
    embed_req *request;
    float *vector; /* written by the embedder before the loop is told */
    uint32_t dims;
    void (*told)(void *arg); /* NULL: nobody waits */
    void *arg;
};

static void free_call(similar_call *c)
{
    if (c->request) {
        embed_release(c->request);
    }
    drop_maker(&c->maker);
    semantic_question_unref(c->question);
    free(c->vector);
    free(c);
}

static void on_made(aiq_loop *loop, void *arg)
{
    similar_call *c = arg;

    (void)loop;
    if (c->told) {
        if (c->vector) {
            semantic_question_made(c->question, c->vector, c->dims);
        }
        c->told(c->arg);
    }
    free_call(c);
}

/* On the embedder's thread. */
static void on_event(void *arg, const embed_event *event)
{
    similar_call *c = arg;

    if (event->rc == EMBED_OK) {
        size_t size = event->dimensions * sizeof(*c->vector);
        c->vector = aiq_alloc(size);
        memcpy(c->vector, event->vectors, size);
        c->dims = event->dimensions;
    }
    loop_post(c->loop, on_made, c); /* the last use of c: the loop may free it */
}

similar_call *similar_make(const aiq_job *job, semantic_question *q, void (*told)(void *arg),
                           void *arg)
{
    aiq_str text = semantic_question_text(q);
    const embed_input input = {.text = text.data, .len = text.len};
    char why[160];
    maker m;

    if (semantic_question_ready(q) || !find_maker(job, &m)) {
        return NULL;
    }
    similar_call *c = aiq_zalloc(sizeof(*c));
    *c = (similar_call){.loop = job->loop,
                        .maker = m,
                        .question = semantic_question_ref(q),
                        .told = told,
                        .arg = arg};
    if (embedder_submit(m.embedder, &input, 1, on_event, c, &c->request, why, sizeof(why)) !=
        EMBED_OK) {
        c->request = NULL;
        free_call(c);
        return NULL;
    }
    return c;
}

void similar_cancel(similar_call *call)
{
    call->told = NULL;
    embed_cancel(call->request);
}
