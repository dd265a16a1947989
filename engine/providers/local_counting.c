/*
 * How many tokens a prompt would have, in Anthropic's words, as the model in this process
 * would read it. It is rendered and tokenized where a chat's prompt is, on the loop; the
 * reply follows in the loop's next turn, for none may come during start().
 */

#include <stdlib.h>
#include "providers/local_chat.h"
#include "providers/local_models.h"
#include "providers/provider.h"
#include "providers/rewrite.h"

typedef struct {
    provider_events events;
    void *arg;
    bool cancelled;
    uint32_t n;
} call;

static void on_counted(aiq_loop *loop, void *arg)
{
    call *c = arg;
    aiq_buf body = {0};

    (void)loop;
    if (!c->cancelled) {
        aiq_buf_printf(&body, "{\"input_tokens\":%u}", c->n);
        const provider_reply reply = {
            .status = 200, .body = {(char *)body.data, body.len}}; /* to count costs nothing */
        c->events.reply(c->arg, &reply);
    }
    aiq_buf_free(&body);
    free(c);
}

static bool count(const provider_request *request, const infer_params *params, uint32_t *n,
                  aiq_err *err)
{
    const policy_target *target = request->target;
    char why[200] = "";
    infer *model;
    local_model *reference =
        local_models_use(request->models, target->provider, target->model, &model, err);

    if (reference == NULL) {
        return false;
    }
    infer_rc rc = infer_count(model, params, n, why, sizeof(why));
    local_models_done(request->models, reference);
    return rc == INFER_OK || local_chat_refused(rc, why, err);
}

static void *start(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err)
{
    const chat_request *chat = request->chat->translate(request->chat, request->pool, err);
    infer_params params;
    local_tools tools;
    uint32_t n;

    if (chat == NULL) {
        return NULL;
    }
    if (!local_chat_params(chat, request->pool, &params, &tools, err) ||
        !count(request, &params, &n, err)) {
        rewrite_error(err, chat->names);
        return NULL;
    }
    call *c = aiq_alloc(sizeof(*c));
    *c = (call){.events = *events, .arg = arg, .n = n};
    loop_post(request->loop, on_counted, c);
    return c;
}

static void cancel(void *arg)
{
    call *c = arg;

    c->cancelled = true;
}

/* It is no stream. */
static void nothing(void *arg)
{
    (void)arg;
}

const provider_dialect provider_local_counting = {
    .dialect = "local",
    .path = "/messages/count_tokens",
    .speaks = AIQ_DIALECT_ANTHROPIC,
    .has_paths = true,
    .start = start,
    .cancel = cancel,
    .pause = nothing,
    .resume = nothing,
};
