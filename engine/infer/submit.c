/* What is asked for becomes a request: checked, rendered, tokenized, queued. */
#include "infer/infer_impl.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

__attribute__((format(printf, 4, 5))) static infer_rc refuse(infer_rc rc, char *err,
                                                             size_t errlen, const char *format,
                                                             ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(err, errlen, format, args);
    va_end(args);
    return rc;
}

static infer_rc out_of_memory(char *err, size_t errlen)
{
    return refuse(INFER_NOMEM, err, errlen, "out of memory");
}

static infer_rc check_sampling(const infer *m, const infer_params *p, char *err, size_t errlen)
{
    if (!(p->temperature >= 0 && p->temperature <= 2)) {
        return refuse(INFER_INVALID, err, errlen, "temperature is not between 0 and 2");
    }
    if (!(p->top_p >= 0 && p->top_p <= 1)) {
        return refuse(INFER_INVALID, err, errlen, "top_p is not between 0 and 1");
    }
    if (!(p->min_p >= 0 && p->min_p < 1)) {
        return refuse(INFER_INVALID, err, errlen, "min_p is not between 0 and 1");
    }
    if (!(p->repetition >= 0 && p->repetition <= 10)) {
        return refuse(INFER_INVALID, err, errlen, "repetition_penalty is not between 0 and 10");
    }
    if (!(fabsf(p->frequency) <= 2 && fabsf(p->presence) <= 2)) {
        return refuse(INFER_INVALID, err, errlen, "a penalty is not between -2 and 2");
    }
    if (p->top_logprobs > INFER_MAX_TOP || p->n_bias > INFER_MAX_BIAS) {
        return refuse(INFER_INVALID, err, errlen, "more than %d top_logprobs or %d biases",
                      INFER_MAX_TOP, INFER_MAX_BIAS);
    }
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= m->model.config.n_vocab ||
            !isfinite(p->bias[i].bias)) {
            return refuse(INFER_INVALID, err, errlen, "logit_bias: %d is not a token",
                          p->bias[i].id);
        }
    }
    return INFER_OK;
}

static infer_rc check_params(const infer *m, const infer_params *p, char *err, size_t errlen)
{
    if ((p->n_messages > 0) == (p->n_ids > 0)) {
        return refuse(INFER_INVALID, err, errlen, "the prompt is empty");
    }
    if (p->n_messages > 0 && m->chat == NULL) {
        return refuse(INFER_INVALID, err, errlen, "the model cannot chat: %s", m->no_chat);
    }
    if (p->n_stop > INFER_MAX_STOP) {
        return refuse(INFER_INVALID, err, errlen, "more than %d stop strings", INFER_MAX_STOP);
    }
    for (size_t i = 0; i < p->n_stop; i++) {
        size_t len = strlen(p->stop[i]);

        if (len == 0 || len > INFER_MAX_STOP_LEN) {
            return refuse(INFER_INVALID, err, errlen, "a stop string is empty or too long");
        }
    }
    for (size_t i = 0; i < p->n_ids; i++) {
        if (p->ids[i] < 0 || (uint32_t)p->ids[i] >= m->model.config.n_vocab) {
            return refuse(INFER_INVALID, err, errlen, "%d is not a token", p->ids[i]);
        }
    }
    return check_sampling(m, p, err, errlen);
}

static infer_rc too_long(const infer *m, char *err, size_t errlen)
{
    return refuse(INFER_TOO_LONG, err, errlen,
                  "the prompt does not fit the model's context of %u tokens", m->n_ctx);
}

static bool known_role(const char *role)
{
    return strcmp(role, "user") == 0 || strcmp(role, "assistant") == 0 ||
           strcmp(role, "system") == 0 || strcmp(role, "tool") == 0;
}

static uint64_t bytes_of(const infer_message *message)
{
    return (uint64_t)message->content_len + message->thought.len + message->calls.len;
}

/* The messages at the end that the template does not show: what begins the answer. */
static size_t n_behind(const infer_params *p)
{
    return (size_t)p->begun + p->goes_on;
}

/* Their texts, behind what the template has made. *n_said: tokens of an answer that goes on. */
static bool add_behind(const infer *m, const infer_params *p, tokenizer_ids *ids,
                       uint32_t *n_said)
{
    const infer_message *end = p->messages + p->n_messages;
    size_t before = ids->n;

    for (const infer_message *i = end - n_behind(p); i < end; i++) {
        before = ids->n;
        if (!tokenizer_encode(m->tok, i->content, i->content_len, false, ids)) {
            return false;
        }
    }
    *n_said = p->goes_on ? (uint32_t)(ids->n - before) : 0;
    return true;
}

/* r: how many of the ids are of an answer that goes on, and whether it begins in a thought. */
static infer_rc render(const infer *m, const infer_params *p, tokenizer_ids *ids, infer_req *r,
                       char *err, size_t errlen)
{
    const chat_talk talk = {p->messages, p->n_messages - n_behind(p), p->tools, p->effort};
    uint64_t most = (uint64_t)m->n_ctx * tokenizer_max_piece(m->tok);
    uint64_t bytes = p->tools.len;
    char why[256];

    for (size_t i = 0; i < p->n_messages; i++) {
        if (!known_role(p->messages[i].role)) {
            return refuse(INFER_INVALID, err, errlen,
                          "a message's role is none of system, user, assistant, tool");
        }
        bytes += bytes_of(&p->messages[i]);
    }
    if (bytes > most) {
        return too_long(m, err, errlen);
    }
    ids->limit = m->n_ctx;
    chat_rc rc =
        chat_render(m->chat, m->tok, &talk, most, ids, &r->is_thought, why, sizeof(why));
    if (rc == CHAT_OK && p->begun && r->is_thought) {
        return refuse(INFER_INVALID, err, errlen,
                      "it thinks first, so the last message cannot begin its answer");
    }
    if (rc == CHAT_OK && !add_behind(m, p, ids, &r->n_said)) {
        rc = CHAT_TOO_LONG;
    }
    r->is_thought = r->is_thought && !p->goes_on;
    switch (rc) {
    case CHAT_OK:
        return INFER_OK;
    case CHAT_TOO_LONG:
        return ids->n == ids->limit ? too_long(m, err, errlen) : out_of_memory(err, errlen);
    default:
        return refuse(INFER_INVALID, err, errlen, "the model's chat template: %s", why);
    }
}

/* *n: of the ids that render() has made, or of p's own. INFER_OK: there is room behind them. */
static infer_rc read_prompt(const infer *m, const infer_params *p, tokenizer_ids *ids,
                            size_t *n, infer_req *r, char *err, size_t errlen)
{
    infer_rc rc = p->n_messages > 0 ? render(m, p, ids, r, err, errlen) : INFER_OK;

    *n = p->n_messages > 0 ? ids->n : p->n_ids;
    return rc == INFER_OK && *n >= m->n_ctx ? too_long(m, err, errlen) : rc;
}

/* The prompt's ids, and room behind them for the answer's. */
static infer_rc make_prompt(const infer *m, const infer_params *p, infer_req *r, char *err,
                            size_t errlen)
{
    tokenizer_ids ids = {0};
    uint32_t room;
    size_t n;
    infer_rc rc = read_prompt(m, p, &ids, &n, r, err, errlen);
    const int32_t *from = p->n_messages > 0 ? ids.v : p->ids;

    if (rc != INFER_OK) {
        free(ids.v);
        return rc;
    }
    assert(n > 0 && from != NULL);
    room = m->n_ctx - (uint32_t)n;
    r->n_prompt = (uint32_t)n;
    uint32_t most = p->max_tokens > r->n_said ? p->max_tokens - r->n_said : 1;
    r->max_tokens = p->max_tokens == 0 || most > room ? room : most;
    r->ids = malloc((n + r->max_tokens) * sizeof(*r->ids));
    if (r->ids != NULL) {
        memcpy(r->ids, from, n * sizeof(*r->ids));
    }
    free(ids.v);
    r->kv.pages = malloc(kv_pages_for(r->n_prompt + r->max_tokens) * sizeof(*r->kv.pages));
    return r->ids != NULL && r->kv.pages != NULL ? INFER_OK : out_of_memory(err, errlen);
}

/* The language is the whole answer's, with what has been said of it. */
static bool walk_behind(const infer_params *p, mask_walk *walk)
{
    const infer_message *end = p->messages + p->n_messages;
    bool ok = true;

    for (const infer_message *i = end - n_behind(p); ok && i < end; i++) {
        ok = mask_walk_text(walk, i->content, i->content_len);
    }
    return ok;
}

static infer_rc fill_request(const infer *m, const infer_params *p, infer_req *r, char *err,
                             size_t errlen)
{
    r->sampler = (sampler){.temperature = p->temperature,
                           .top_k = p->top_k,
                           .top_p = p->top_p,
                           .min_p = p->min_p,
                           .repetition = p->repetition,
                           .frequency = p->frequency,
                           .presence = p->presence,
                           .state = p->seed};
    r->shows_marks = p->shows_marks;
    r->flex = p->flex;
    r->n_draft = DRAFT_WIDTH / 2;
    r->scope = kv_scope(p->scope.data, p->scope.len);
    r->scores.wanted = p->logprobs;
    r->scores.n_top = p->logprobs ? p->top_logprobs : 0;
    if (r->scores.n_top > m->model.config.n_vocab) {
        r->scores.n_top = m->model.config.n_vocab;
    }
    if (p->n_bias > 0) {
        r->bias = malloc(p->n_bias * sizeof(*r->bias));
        if (r->bias == NULL) {
            return out_of_memory(err, errlen);
        }
        memcpy(r->bias, p->bias, p->n_bias * sizeof(*r->bias));
        r->sampler.bias = r->bias;
        r->sampler.n_bias = p->n_bias;
    }
    if (!p->has_seed &&
        getrandom(&r->sampler.state, sizeof(r->sampler.state), 0) != sizeof(r->sampler.state)) {
        return refuse(INFER_NOMEM, err, errlen, "no random seed: %s", strerror(errno));
    }
    for (; r->n_stop < p->n_stop; r->n_stop++) {
        r->stop[r->n_stop] = strdup(p->stop[r->n_stop]);
        if (r->stop[r->n_stop] == NULL) {
            return out_of_memory(err, errlen);
        }
    }
    r->answer.stop = (const char *const *)r->stop;
    r->answer.n_stop = r->n_stop;
    infer_rc rc = make_prompt(m, p, r, err, errlen);
    if (p->thinks && !p->goes_on) {
        r->thoughts.at = r->is_thought ? THOUGHTS_WITHIN : THOUGHTS_MAY_BEGIN;
    }
    sampler_skip(&r->sampler, r->n_said);
    if (rc == INFER_OK && r->walk != NULL && !walk_behind(p, r->walk)) {
        return refuse(INFER_INVALID, err, errlen,
                      "the answer that goes on is not in the format that is asked for");
    }
    return rc;
}

/* A flood of flex leaves those in a hurry a place to wait. Under the lock. */
static bool is_full(const infer *m, const infer_req *r)
{
    uint32_t most = m->opt.max_waiting, n_flex = 0;

    for (const infer_req *f = m->waiting[1].first; r->flex && f != NULL; f = f->next) {
        n_flex++;
    }
    return m->n_waiting >= most || n_flex >= most - most / FLEX_SHARE;
}

/* Queues a request that is ready: from here on a replica's thread may end it any time. */
static infer_rc enqueue(infer *m, infer_req *r, infer_req **out, char *err, size_t errlen)
{
    hub *h = m->hub;
    bool full;

    pthread_mutex_lock(&h->lock);
    full = is_full(m, r);
    if (!full) {
        r->hub = h;
        r->refs = 2;
        h->refs++;
        r->arrival = m->arrivals++;
        infer_wait(m, r);
        *out = r;
        pthread_cond_broadcast(&h->wake); /* who lets it in is the replicas' to know */
    }
    pthread_mutex_unlock(&h->lock);
    return full ? refuse(INFER_BUSY, err, errlen, "too many requests wait for the model")
                : INFER_OK;
}

infer_rc infer_count(const infer *m, const infer_params *p, uint32_t *n_prompt, char *err,
                     size_t errlen)
{
    infer_rc rc = check_params(m, p, err, errlen);
    tokenizer_ids ids = {0};
    infer_req unused = {0};
    size_t n = 0;

    if (rc == INFER_OK) {
        rc = read_prompt(m, p, &ids, &n, &unused, err, errlen);
    }
    free(ids.v);
    *n_prompt = (uint32_t)n;
    return rc;
}

infer_rc infer_submit(infer *m, const infer_params *p, infer_cb cb, void *arg, infer_req **out,
                      char *err, size_t errlen)
{
    infer_rc rc = check_params(m, p, err, errlen);
    infer_req *r = rc == INFER_OK ? calloc(1, sizeof(*r)) : NULL;

    if (r == NULL) {
        return rc == INFER_OK ? out_of_memory(err, errlen) : rc;
    }
    if (p->language != NULL) {
        r->walk = mask_walk_new(m->masks, p->language);
    }
    r->cb = cb;
    r->arg = arg;
    rc = fill_request(m, p, r, err, errlen);
    if (rc == INFER_OK) {
        rc = enqueue(m, r, out, err, errlen);
    }
    if (rc != INFER_OK) {
        infer_req_free(r);
    }
    return rc;
}
