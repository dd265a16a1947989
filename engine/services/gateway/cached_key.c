#include "services/gateway/cached_key.h"

#include <openssl/evp.h>
#include <string.h>
#include "services/service.h"

/* Each part has its length before it, and what may be missing comes last, so no two requests
 * look the same. */

static void add(EVP_MD_CTX *hash, const void *data, uint64_t len)
{
    EVP_DigestUpdate(hash, &len, sizeof(len));
    EVP_DigestUpdate(hash, data, len);
}

static void add_text(EVP_MD_CTX *hash, const char *text)
{
    add(hash, text ? text : "", text ? strlen(text) : 0);
}

static void add_number(EVP_MD_CTX *hash, uint64_t n)
{
    EVP_DigestUpdate(hash, &n, sizeof(n));
}

static void add_target(EVP_MD_CTX *hash, const policy_target *target)
{
    const policy_provider *p = target->provider;

    add_text(hash, p->name);
    add_text(hash, p->dialect);
    add_text(hash, p->url);
    add_text(hash, p->query);
    add_number(hash, p->n_headers);
    for (size_t i = 0; i < p->n_headers; i++) {
        add_text(hash, p->headers[i].name);
        add_text(hash, p->headers[i].value);
    }
    add_number(hash, p->n_models);
    for (size_t i = 0; i < p->n_models; i++) {
        add_text(hash, p->models[i].name);
        add_text(hash, p->models[i].path);
    }
    add_text(hash, target->model);
    add_number(hash, (uint64_t)target->condition);
    add_number(hash, target->max_body);
    add_number(hash, target->noncritical);
}

static void add_model(EVP_MD_CTX *hash, const policy_model *model)
{
    add_number(hash, model ? model->n_targets : 0);
    for (size_t i = 0; model && i < model->n_targets; i++) {
        add_target(hash, &model->targets[i]);
    }
}

void cached_key(uint8_t key[LRU_KEY], const aiq_job *job, const policy_model *model,
                const chat_request *chat, aiq_str hole)
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    const char *end = chat->body.data + chat->body.len;

    EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
    add(hash, job->tenant.data, job->tenant.len);
    add_text(hash, job->route->path);
    if (hole.data) {
        const char *behind = hole.data + hole.len;
        add(hash, chat->body.data, (uint64_t)(hole.data - chat->body.data));
        add(hash, behind, (uint64_t)(end - behind));
    } else {
        add(hash, chat->body.data, chat->body.len);
    }
    add(hash, chat->lines.data, chat->lines.len);
    add_number(hash, job->conditions);
    add_number(hash, job->n_budgets > 0); /* which may cap the answer */
    add_model(hash, model);
    add_model(hash, model->context_fallback);
    add_model(hash, model->content_fallback);
    for (size_t i = 0; i < job->n_headers; i++) {
        if (aiq_str_is(job->headers[i].name, "x-aiq-priority")) {
            add(hash, job->headers[i].value.data, job->headers[i].value.len);
        }
    }
    EVP_DigestFinal_ex(hash, key, NULL);
    EVP_MD_CTX_free(hash);
}
