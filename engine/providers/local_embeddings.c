/*
 * Vectors of texts from a model in this process. The event comes on the embedder's
 * reader, which writes the answer too: of two thousand texts it is tens of
 * megabytes, which no loop should wait for. A call lives until its end has reached
 * the loop, also where the request was cancelled meanwhile.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "providers/local_embed.h"
#include "providers/local_models.h"
#include "providers/provider.h"

typedef struct {
    aiq_loop *loop;
    local_models *models;
    local_model *model;
    provider_events events;
    void *arg;
    bool cancelled;
    embed_req *request;
    local_embed_request wants; /* without the inputs */
    aiq_buf name;              /* of the model, as JSON has it */

    /* written by the reader before the loop is told */
    embed_rc rc;
    aiq_err err;
    aiq_buf body;
    uint64_t n_tokens;
} call;

static void call_free(call *c)
{
    if (c->request) {
        embed_release(c->request);
    }
    local_models_done(c->models, c->model);
    aiq_buf_free(&c->name);
    aiq_buf_free(&c->body);
    free(c);
}

static void on_end(aiq_loop *loop, void *arg)
{
    call *c = arg;

    (void)loop;
    if (c->cancelled) {
        call_free(c);
        return;
    }
    if (c->rc == EMBED_OK) {
        const provider_reply reply = {
            .status = 200,
            .body = {(char *)c->body.data, c->body.len},
            .tokens = {(int64_t)c->n_tokens, 0, 0, 0, 0},
        };
        c->events.reply(c->arg, &reply);
    } else {
        c->events.failed(c->arg, &c->err);
    }
    call_free(c);
}

/* On the reader's thread. */
static void on_event(void *arg, const embed_event *event)
{
    call *c = arg;
    aiq_str name = {(char *)c->name.data, c->name.len};

    c->rc = event->rc;
    c->n_tokens = event->n_tokens;
    if (event->rc == EMBED_OK) {
        local_embed_write(&c->body, &c->wants, name, event);
    } else {
        local_embed_failed(&c->err, &c->wants, event->rc, event->input, event->error);
    }
    loop_post(c->loop, on_end, c); /* the last use of c: the loop may free it */
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    const policy_target *target = request->target;
    aiq_str name = request->chat->model.text;
    local_embed_request wants;
    embedder_info info;
    embedder *model;
    char why[160] = "";
    call *c;

    local_model *reference = local_models_use_embedder(request->models, target->provider,
                                                       target->model, &model, err);
    if (reference == NULL) {
        return NULL;
    }
    embedder_get_info(model, &info);
    if (!local_embed_read(request->chat, request->pool, info.dimensions, &wants, err)) {
        local_models_done(request->models, reference);
        return NULL;
    }
    c = aiq_zalloc(sizeof(*c));
    c->loop = request->loop;
    c->models = request->models;
    c->model = reference;
    c->events = *events;
    c->arg = arg;
    c->wants = wants;
    c->wants.inputs = NULL; /* the pool's */
    aiq_buf_add(&c->name, name.data, name.len);
    embed_rc rc = embedder_submit(model, wants.inputs, wants.n, on_event, c, &c->request, why,
                                  sizeof(why));
    if (rc != EMBED_OK) {
        call_free(c);
        local_embed_failed(err, &wants, rc, 0, why);
        return NULL;
    }
    return c;
}

static void cancel(void *arg)
{
    call *c = arg;

    c->cancelled = true;
    embed_cancel(c->request);
}

/* There are no streams of vectors. */
static void nothing(void *arg)
{
    (void)arg;
}

const provider_dialect provider_local_embeddings = {
    .dialect = "local",
    .path = "/embeddings",
    .speaks = AIQ_DIALECT_OPENAI,
    .has_paths = true,
    .start = start,
    .cancel = cancel,
    .pause = nothing,
    .resume = nothing,
};
