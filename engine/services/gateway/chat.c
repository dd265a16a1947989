/* A chat request up to its call: see chat.h. */

#include "services/gateway/chat.h"

/* The request. */

/* Files and batches are no model's, but lie with a provider. A key that may use some models
 * only may not use them: a batch can name any. */
static bool find_files(chat *c, aiq_err *err)
{
    c->model = c->job->location->files;
    if (c->model == NULL) {
        return aiq_fail(err, 400, "unsupported_endpoint",
                        "No provider keeps files and batches for this location.");
    }
    return c->job->models.len == 0 ||
           aiq_fail(err, 403, "permission_denied",
                    "This API key is for some models only, and has no files and batches.");
}

static bool find_model(chat *c, aiq_err *err)
{
    if (c->request.model.type == JSON_NONE) {
        return find_files(c, err);
    }
    aiq_str name = json_string(c->job->pool, &c->request.model);

    c->model = policy_find_model(c->job->policy, name.data, name.len);
    if (c->model == NULL || !job_may_use(c->job, c->model->name)) {
        gateway_no_model(name, err);
        return false;
    }
    return true;
}

bool chat_admit(chat *c, aiq_err *err)
{
    return find_model(c, err) && guaranteed_wanted(c->job, &c->request, &c->guaranteed, err);
}

/* An earlier answer. */

static void send_replay(chat *c)
{
    if (cached_send(&c->cached)) {
        job_end(c->job);
    }
}

static void replay(chat *c)
{
    chat_stop_timers(c);
    c->state = CHAT_REPLAYING;
    bill_replayed(c->job, c->model);
    cached_reply(&c->cached, c->model->name);
    if (c->outlet.out.len) { /* a keep-alive */
        aiq_buf_add(&c->outlet.text, c->cached.left.data, c->cached.left.len);
        chat_last(c);
    } else {
        send_replay(c);
    }
}

static void on_cached(aiq_job *job)
{
    chat *c = job->state;

    (c->cached.entry ? replay : chat_hold)(c);
}

/* The body is there. */

/* What another engine has begun. */
static void go_on(chat *c)
{
    continuation said = {.allowed = true};
    bool whole = guaranteed_replay(c->left, c->client, c->stream, &said);
    aiq_err err;

    if (!whole && c->left.len) {
        c->asked = guaranteed_rest(c->job, c->model, &c->request, &said, &err);
    }
    aiq_buf_free(&said.text);
    if (whole) {
        chat_last(c);
    } else if (c->asked) {
        chat_hold(c);
    } else {
        err.retryable = false;
        chat_refuse(c, &err);
    }
}

static void on_body_whole(aiq_job *job, aiq_str body, const aiq_err *wrong)
{
    chat *c = job->state;
    aiq_err err;

    if (chat_upload_end(c, body, wrong)) {
        return;
    }
    if (wrong) {
        chat_refuse(c, wrong);
        return;
    }
    c->body = body;
    c->asked = &c->request;
    if (!c->client->parse(&c->request, job, body, &err) || !chat_admit(c, &err)) {
        chat_refuse(c, &err);
        return;
    }
    if (c->request.stream) {
        c->stream = aiq_pool_zalloc(job->pool, c->client->stream_size);
        if (c->client->begin) {
            c->client->begin(c->stream, &c->request);
        }
        c->sent_ns = loop_turn_ns(c->job->loop);
    }
    if (c->left.data) {
        go_on(c);
        return;
    }
    if (c->request.stream) {
        chat_keep_alive(c);
    }
    if (c->request.raw || c->guaranteed) {
        chat_hold(c); /* what is no JSON is not kept; nor is what has a place of its own */
        return;
    }
    switch (cached_begin(&c->cached, job, c->model, &c->request, on_cached)) {
    case CACHED_HIT:
        replay(c);
        break;
    case CACHED_CALL:
        chat_hold(c);
        break;
    case CACHED_WAITS:
        c->state = CHAT_WAITING;
        break;
    }
}

/* All is held. */

static void open_stream(chat *c)
{
    aiq_buf memory = {0};
    const durable_request request = guaranteed_request(c->job, c->model, c->body, &memory);
    aiq_err err;

    c->state = CHAT_OPENING;
    if (!outlet_guarantee(&c->outlet, c->job->location->stream_buffer, &chat_guaranteed, c,
                          &request, &err)) {
        chat_refuse(c, &err);
    }
    aiq_buf_free(&memory);
}

void chat_held(chat *c)
{
    if (c->guaranteed && c->outlet.log == NULL) {
        open_stream(c);
    } else {
        chat_call(c);
    }
}

void chat_call(chat *c)
{
    aiq_err err;

    c->state = CHAT_CALLING;
    if (!attempts_start(&c->attempts, c->job, c->model, c->asked, &chat_answers, chat_lost, c,
                        &err)) {
        chat_refuse(c, &err);
    }
}

/* The job's handler. */

static void release(void *arg)
{
    chat *c = arg;

    if (c->stream && c->client->release) {
        c->client->release(c->stream);
    }
    token_claim_settle(&c->claim, 0);
    aiq_buf_free(&c->source);
    cached_free(&c->cached);
    spool_free(c->spool);
    outlet_free(&c->outlet);
}

static void open_for(aiq_job *job, const client_dialect *client)
{
    chat *c = aiq_pool_zalloc(job->pool, sizeof(*c));

    c->job = c->outlet.job = job;
    c->client = client;
    c->cost = -1;
    job->state = c;
    c->spool = spool_new(job, on_body_whole);
    aiq_pool_cleanup(job->pool, release, c);
    chat_upload_open(c);
}

static void chat_open(aiq_job *job)
{
    open_for(job, &client_openai);
}

static void messages_open(aiq_job *job)
{
    open_for(job, &client_anthropic);
}

static void responses_open(aiq_job *job)
{
    open_for(job, &client_responses);
}

static void files_open(aiq_job *job)
{
    open_for(job, &client_files);
}

static void raw_open(aiq_job *job)
{
    open_for(job, &client_raw);
}

static void passing_open(aiq_job *job)
{
    open_for(job, &client_passing);
}

static void counting_open(aiq_job *job)
{
    open_for(job, &client_counting);
}

static void chat_body(aiq_job *job, const uint8_t *data, size_t n)
{
    spool_add(((chat *)job->state)->spool, data, n);
}

static void chat_end(aiq_job *job)
{
    spool_end(((chat *)job->state)->spool);
}

static void chat_writable(aiq_job *job)
{
    chat *c = job->state;

    (c->state == CHAT_REPLAYING ? send_replay : chat_flush)(c);
}

void gateway_go_on(aiq_job *job, const durable_orphan *orphan, aiq_str body)
{
    job->route->handler->open(job);

    chat *c = job->state;
    c->gone = c->guaranteed = true;
    c->left = (aiq_str){aiq_pool_copy(job->pool, orphan->source.data, orphan->source.len),
                        orphan->source.len};
    outlet_adopt(&c->outlet, orphan->stream, job->location->stream_buffer, &chat_guaranteed, c);
    job->route->handler->body(job, (const uint8_t *)body.data, body.len);
    job_alone_start(job);
}

#define HANDLER(open_fn)                                                                       \
    {                                                                                          \
        .open = (open_fn), .body = chat_body, .end = chat_end, .writable = chat_writable,      \
        .cancel = chat_cancel                                                                  \
    }

const job_handler gateway_chat = HANDLER(chat_open);
const job_handler gateway_messages = HANDLER(messages_open);
const job_handler gateway_responses = HANDLER(responses_open);
const job_handler gateway_raw = HANDLER(raw_open);
const job_handler gateway_files = HANDLER(files_open);
const job_handler gateway_passing = HANDLER(passing_open);
const job_handler gateway_counting = HANDLER(counting_open);
