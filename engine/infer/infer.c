/*
 * The model's thread and its queue.
 *
 * A request passes through three places: waiting (in the queue, bounded), running (it has
 * context memory; its prompt is being read, or it decodes) and over. Only the model's thread
 * moves requests; others leave wishes (cancelled, paused) under the lock and wake it. The lock
 * is held for list work only, never while computing or calling back.
 */
#include "infer/infer.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "infer/answer.h"
#include "infer/chat.h"
#include "infer/devices.h"
#include "infer/gguf.h"
#include "infer/kv.h"
#include "infer/model.h"
#include "infer/sampler.h"
#include "infer/scores.h"
#include "infer/token_mask.h"
#include "infer/tokenizer.h"
#include "kernels/aiq_kernels.h"

#define DEFAULT_RUNNING 16
#define MAX_RUNNING     64
#define DEFAULT_WAITING 256
#define DEFAULT_KV      ((uint64_t)1 << 30)
#define MAX_THREADS     256
#define MAX_STOP_LEN    1024
#define MAX_PAGES       ((uint64_t)1 << 24)

/* Prompt tokens of one step, all requests together: while others decode, the longest that they
 * wait; while nobody does, so many that weights are not unpacked for a few. */
#define PROMPT_CHUNK 64
#define PROMPT_ALONE 256

/* What requests and the model's thread share; it outlives the model where requests do. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    unsigned refs; /* the model and each request; under lock */
} hub;

struct infer_req {
    hub *hub;
    infer_req *next; /* in waiting or running */

    /* under the hub's lock */
    unsigned refs; /* the model's thread and the caller */
    bool cancelled;
    bool paused;

    /* the model's thread only, once submitted */
    infer_cb cb;
    void *arg;
    int32_t *ids;      /* [n_ctx_needed] the prompt, then the answer as it comes */
    uint32_t n_prompt; /* with n_said, … */
    uint32_t n_said;   /* … tokens of the answer that were there before */
    uint32_t n_answer;
    uint32_t max_tokens; /* at least 1; n_prompt + max_tokens <= n_ctx */
    uint32_t pos;        /* tokens in kv */
    kv_seq kv;           /* empty while it waits */
    sampler sampler;
    sampler_bias *bias; /* [sampler.n_bias] */
    scores scores;
    matcher *matcher; /* NULL: the answer may be anything */
    int32_t place;    /* in it */
    bool shows_marks;
    bool is_thought;
    answer answer;
    char *stop[INFER_MAX_STOP];
    size_t n_stop;
};

typedef struct {
    infer_req *first;
    infer_req **last;
} req_list;

struct infer {
    hub *hub;
    pthread_t thread;
    infer_options opt;

    gguf *file;
    char *name;
    tokenizer *tok;
    token_order *order;
    infer_model model;
    chat_template *chat; /* NULL: no_chat says why */
    char no_chat[160];
    tool_format tool_format;
    bool thinks;
    int32_t marks[TOOL_MAX_MARKS]; /* [n_marks] control tokens: marks of calls and thoughts */
    uint32_t n_marks;

    /* where it computes; the model's thread, once that runs */
    const device *place;
    uint32_t tried; /* devices, see devices_take */
    const aiq_kernels *kern;
    kern_device *dev;
    kern_model *km; /* NULL: no device has it */
    kv_pool *pool;  /* of the pages there */
    uint32_t n_ctx; /* the model's, or what the first device has memory for; never changes */

    /* under the hub's lock */
    req_list waiting;
    uint32_t n_waiting;
    bool closing;

    /* the model's thread only */
    req_list running;           /* whoever was in a step goes to the end */
    kern_seq *seqs;             /* [max_running] the batch */
    infer_req **reqs;           /* [max_running] whose they are */
    float *logits;              /* [max_running][n_vocab] */
    float *raw;                 /* [n_vocab] logits before sampling, for log-probabilities */
    sampler_candidate *scratch; /* [n_vocab] */
    uint32_t *counts;           /* [n_vocab] all 0 */
};

/* --- lists --- */

static void list_init(req_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_prepend(req_list *l, infer_req *r)
{
    r->next = l->first;
    if (l->first == NULL) {
        l->last = &r->next;
    }
    l->first = r;
}

static void list_append(req_list *l, infer_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

/* Takes *at, a link of the list, out of it. */
static infer_req *list_take(req_list *l, infer_req **at)
{
    infer_req *r = *at;

    *at = r->next;
    if (r->next == NULL) {
        l->last = at;
    }
    return r;
}

/* --- hub and request lifetimes --- */

static hub *hub_new(void)
{
    hub *h = calloc(1, sizeof(*h));

    if (h != NULL) {
        pthread_mutex_init(&h->lock, NULL);
        pthread_cond_init(&h->wake, NULL);
        h->refs = 1;
    }
    return h;
}

static void hub_drop(hub *h)
{
    unsigned refs;

    pthread_mutex_lock(&h->lock);
    refs = --h->refs;
    pthread_mutex_unlock(&h->lock);
    if (refs == 0) {
        pthread_cond_destroy(&h->wake);
        pthread_mutex_destroy(&h->lock);
        free(h);
    }
}

static void req_free(infer_req *r)
{
    for (size_t i = 0; i < r->n_stop; i++) {
        free(r->stop[i]);
    }
    answer_free(&r->answer);
    if (r->matcher != NULL) {
        matcher_free(r->matcher);
    }
    scores_free(&r->scores);
    free(r->bias);
    free(r->kv.pages);
    free(r->ids);
    free(r);
}

static void req_drop(infer_req *r)
{
    hub *h = r->hub;
    unsigned refs;

    pthread_mutex_lock(&h->lock);
    refs = --r->refs;
    pthread_mutex_unlock(&h->lock);
    if (refs == 0) {
        req_free(r);
        hub_drop(h);
    }
}

static void req_wish(infer_req *r, bool *wish, bool value)
{
    pthread_mutex_lock(&r->hub->lock);
    *wish = value;
    pthread_cond_signal(&r->hub->wake);
    pthread_mutex_unlock(&r->hub->lock);
}

void infer_cancel(infer_req *r)
{
    req_wish(r, &r->cancelled, true);
}

void infer_pause(infer_req *r)
{
    req_wish(r, &r->paused, true);
}

void infer_resume(infer_req *r)
{
    req_wish(r, &r->paused, false);
}

bool infer_is_thought(const infer_req *r)
{
    return r->is_thought;
}

void infer_release(infer_req *r)
{
    req_drop(r);
}

/* --- the end of a request; the model's thread --- */

static void drop_context(infer *m, infer_req *r)
{
    if (r->kv.n > 0) {
        kv_drop(m->pool, &r->kv);
    }
    r->pos = 0;
}

static void finish(infer *m, infer_req *r, const infer_event *ev)
{
    drop_context(m, r);
    r->cb(r->arg, ev);
    req_drop(r);
}

static void finish_failed(infer *m, infer_req *r, const char *error)
{
    infer_event ev = {.type = INFER_FAILED, .error = error};

    finish(m, r, &ev);
}

static void emit_ready(infer_req *r)
{
    infer_event ev = {
        .type = INFER_TEXT, .text = r->answer.text, .len = answer_ready(&r->answer)};

    if (ev.len > 0) {
        scores_give(&r->scores, &ev);
        r->cb(r->arg, &ev);
        answer_drop(&r->answer, ev.len);
    }
}

static void finish_done(infer *m, infer_req *r, infer_finish why)
{
    infer_event ev = {.type = INFER_DONE, .finish = why};

    if (!answer_end(&r->answer)) {
        finish_failed(m, r, "out of memory");
        return;
    }
    emit_ready(r);
    ev.prompt_tokens = r->n_prompt - r->n_said;
    ev.completion_tokens = r->n_said + r->n_answer;
    ev.ids = r->ids + ev.prompt_tokens;
    scores_give(&r->scores, &ev);
    finish(m, r, &ev);
}

/* --- devices --- */

/* Takes the model from where it is. It has no contexts there any more. */
static void leave(infer *m)
{
    if (m->pool != NULL) {
        kv_pool_free(m->pool);
        m->pool = NULL;
    }
    if (m->km != NULL) {
        m->kern->model_free(m->km);
        m->km = NULL;
    }
    if (m->dev != NULL) {
        m->kern->close(m->dev);
        m->dev = NULL;
    }
    if (m->place != NULL) {
        devices_give(m->opt.devices, m->place);
        m->place = NULL;
    }
}

/*
 * Pages of an opened device: for all contexts that can run, and as many for what may be wanted
 * again, as far as the memory set aside goes. The first device says how long contexts may be;
 * another has pages for one of that length at least, so whoever was let in can go on.
 */
static uint32_t count_pages(infer *m)
{
    const kern_config *c = &m->model.config;
    uint64_t most = 2 * (uint64_t)m->opt.max_running * kv_pages_for(c->n_ctx);
    uint64_t n = m->opt.kv_bytes / m->kern->page_bytes(m->dev, c);

    n = n < most ? n : most;
    n = n < MAX_PAGES ? n : MAX_PAGES;
    n = n > kv_pages_for(m->n_ctx) ? n : kv_pages_for(m->n_ctx);
    if (m->n_ctx == 0) {
        m->n_ctx = n * KERN_PAGE < c->n_ctx ? (uint32_t)n * KERN_PAGE : c->n_ctx;
    }
    return (uint32_t)n;
}

static bool load(infer *m, char *err, size_t errlen)
{
    uint32_t n_pages;

    m->dev = m->kern->open(m->place->index, m->opt.n_threads);
    if (m->dev == NULL) {
        snprintf(err, errlen, "%s", m->kern->last_error(NULL));
        return false;
    }
    n_pages = count_pages(m);
    if (n_pages == 0) {
        snprintf(err, errlen, "not a page of a context fits the memory set aside for them");
        return false;
    }
    m->pool = kv_pool_new(n_pages);
    if (m->pool == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    m->km = m->kern->model_load(m->dev, &m->model.config, &m->model.weights,
                                m->opt.max_running + PROMPT_ALONE, n_pages);
    if (m->km == NULL) {
        snprintf(err, errlen, "%s", m->kern->last_error(m->dev));
    }
    return m->km != NULL;
}

/* Puts the model on the next device that has room for it. */
static bool settle(infer *m, char *err, size_t errlen)
{
    while ((m->place = devices_take(m->opt.devices, gguf_size(m->file), &m->tried)) != NULL) {
        m->kern = m->place->kern;
        if (load(m, err, errlen)) {
            return true;
        }
        devices_fail(m->opt.devices, m->place, err);
        leave(m);
    }
    return false;
}

/* Back to the head of the queue: its turn to run comes first, with a context of its own. */
static void wait_again(infer *m, infer_req *r)
{
    pthread_mutex_lock(&m->hub->lock);
    list_prepend(&m->waiting, r);
    m->n_waiting++;
    pthread_mutex_unlock(&m->hub->lock);
}

/*
 * The device has failed. What the n of the batch and all others have in their contexts is gone
 * with it: on the next device they read their prompt and what they have said anew, and go on;
 * nothing is said twice. Without a next one they are over.
 */
static void move(infer *m, uint32_t n)
{
    req_list homeless;
    char why[256];
    bool settled;

    list_init(&homeless);
    for (uint32_t i = 0; i < n; i++) {
        list_append(&m->running, m->reqs[i]);
    }
    while (m->running.first != NULL) {
        list_prepend(&homeless, list_take(&m->running, &m->running.first));
        drop_context(m, homeless.first);
    }
    snprintf(why, sizeof(why), "%s", m->kern->last_error(m->dev));
    devices_fail(m->opt.devices, m->place, why);
    leave(m);
    settled = settle(m, why, sizeof(why));
    while (homeless.first != NULL) {
        infer_req *r = list_take(&homeless, &homeless.first);

        if (settled) {
            wait_again(m, r);
        } else {
            finish_failed(m, r, why);
        }
    }
}

/* No device had the model when it was wanted last: all are asked again, and if it is in vain,
 * so has everybody waited. */
static void settle_again(infer *m)
{
    req_list waiting;
    char why[256] = "";

    m->tried = 0;
    if (settle(m, why, sizeof(why))) {
        return;
    }
    pthread_mutex_lock(&m->hub->lock);
    waiting = m->waiting;
    list_init(&m->waiting);
    m->n_waiting = 0;
    pthread_mutex_unlock(&m->hub->lock);
    while (waiting.first != NULL) {
        finish_failed(m, list_take(&waiting, &waiting.first), why);
    }
}

/* --- one step --- */

/* The next token's id, -1: the logits make no sense, -2: memory ends. */
static int32_t sample(infer *m, infer_req *r, float *logits)
{
    uint32_t n = m->model.config.n_vocab;
    sampler_context context = {.ids = r->ids,
                               .n_prompt = r->n_prompt - r->n_said,
                               .n_answer = r->n_said + r->n_answer};
    int32_t id;

    if (r->scores.wanted) {
        if (!scores_look(&r->scores, logits, n)) {
            return -2;
        }
        memcpy(m->raw, logits, n * sizeof(*logits));
    }
    if (r->matcher != NULL) {
        r->place = matcher_trim(r->matcher, r->place);
        context.mask = token_mask(m->order, r->matcher, r->place);
    }
    id = sampler_pick(&r->sampler, &context, logits, n, m->scratch, m->counts);
    if (id >= 0 && r->scores.wanted && !tokenizer_is_end(m->tok, id)) {
        scores_choose(&r->scores, id, m->raw[id]);
    }
    return id;
}

/* What the answer says with a token. */
static const char *text_of(const infer *m, const infer_req *r, int32_t id, size_t *len)
{
    for (uint32_t i = 0; r->shows_marks && i < m->n_marks; i++) {
        if (m->marks[i] == id) {
            return tokenizer_name(m->tok, id, len);
        }
    }
    return tokenizer_piece(m->tok, id, len);
}

/* The token that follows. False: the request is over and must not be touched. */
static bool take_token(infer *m, infer_req *r, float *logits)
{
    int32_t id = sample(m, r, logits);
    const char *piece;
    size_t len;

    if (id == -2) {
        finish_failed(m, r, "out of memory");
        return false;
    }
    if (id < 0) {
        finish_failed(m, r,
                      r->matcher != NULL ? "no token continues the answer in its format"
                                         : "the model computed something that is not a number");
        return false;
    }
    if (tokenizer_is_end(m->tok, id)) {
        finish_done(m, r, INFER_FINISH_STOP);
        return false;
    }
    r->ids[r->n_prompt + r->n_answer++] = id;
    if (r->matcher != NULL) {
        r->place = token_follow(m->tok, r->matcher, r->place, id);
    }
    piece = text_of(m, r, id, &len);
    if (!answer_push(&r->answer, piece, len)) {
        finish_failed(m, r, "out of memory");
        return false;
    }
    if (r->answer.stopped || (r->matcher != NULL && matcher_finished(r->matcher, r->place))) {
        finish_done(m, r, INFER_FINISH_STOP);
        return false;
    }
    if (r->n_answer == r->max_tokens) {
        finish_done(m, r, INFER_FINISH_LENGTH);
        return false;
    }
    emit_ready(r);
    return true;
}

/* Tokens that are not in the context yet: one of whoever decodes, more of whoever reads. */
static uint32_t unread(const infer_req *r)
{
    return r->n_prompt + r->n_answer - r->pos;
}

/*
 * Shares the step out among the n requests of the batch: one token for each that decodes, an
 * even part of the prompt tokens for each that still reads.
 */
static void plan_step(infer *m, uint32_t n)
{
    uint32_t readers = 0, budget;

    for (uint32_t i = 0; i < n; i++) {
        readers += unread(m->reqs[i]) > 1;
    }
    budget = readers == n ? PROMPT_ALONE : PROMPT_CHUNK;
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];
        kern_seq *s = &m->seqs[i];
        uint32_t left = unread(r);

        *s = (kern_seq){.pages = r->kv.pages, .ids = r->ids + r->pos, .n = left, .pos = r->pos};
        if (left > 1) {
            uint32_t share = budget / readers;

            s->n = left < share ? left : share;
            budget -= s->n;
            readers--;
        }
        s->n_logits = s->n == left;
    }
}

static void step(infer *m, uint32_t n)
{
    float *logits = m->logits;

    plan_step(m, n);
    if (!m->kern->step(m->km, m->seqs, n, m->logits)) {
        move(m, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];

        r->pos += m->seqs[i].n;
        if (m->seqs[i].n_logits == 0) {
            list_append(&m->running, r);
            continue;
        }
        if (take_token(m, r, logits)) {
            list_append(&m->running, r);
        }
        logits += m->model.config.n_vocab;
    }
}

/* --- the model's thread --- */

/* Moves the cancelled (or all, when closing) of a list to the end of over. */
static uint32_t sweep(infer *m, req_list *l, req_list *over)
{
    infer_req **at = &l->first;
    uint32_t n = 0;

    while (*at != NULL) {
        if ((*at)->cancelled || m->closing) {
            list_append(over, list_take(l, at));
            n++;
        } else {
            at = &(*at)->next;
        }
    }
    return n;
}

/*
 * Takes up to max_running requests that are not paused out of running, the longest unserved
 * first, into reqs. Returns how many.
 */
static uint32_t pick_batch(infer *m)
{
    infer_req **at = &m->running.first;
    uint32_t n = 0;

    while (*at != NULL && n < m->opt.max_running) {
        if ((*at)->paused) {
            at = &(*at)->next;
        } else {
            m->reqs[n++] = list_take(&m->running, at);
        }
    }
    return n;
}

/* Lets waiting requests in, in order, while there is room in the batch and for contexts. */
static uint32_t admit(infer *m, uint32_t n)
{
    while (m->waiting.first != NULL && n < m->opt.max_running) {
        infer_req *r = m->waiting.first;

        if (!kv_grow(m->pool, &r->kv, r->n_prompt + r->max_tokens)) {
            break;
        }
        m->reqs[n++] = list_take(&m->waiting, &m->waiting.first);
        m->n_waiting--;
    }
    return n;
}

static void *model_main(void *arg)
{
    infer *m = arg;
    hub *h = m->hub;
    req_list over;
    bool closing, lost;
    uint32_t n;

    do {
        list_init(&over);
        pthread_mutex_lock(&h->lock);
        for (;;) {
            closing = m->closing;
            sweep(m, &m->running, &over);
            m->n_waiting -= sweep(m, &m->waiting, &over);
            lost = m->km == NULL && m->waiting.first != NULL;
            n = m->km != NULL ? admit(m, pick_batch(m)) : 0;
            if (n > 0 || lost || over.first != NULL || closing) {
                break;
            }
            pthread_cond_wait(&h->wake, &h->lock);
        }
        pthread_mutex_unlock(&h->lock);

        while (over.first != NULL) {
            finish_failed(m, list_take(&over, &over.first), "cancelled");
        }
        if (lost) {
            settle_again(m);
        } else if (n > 0) {
            step(m, n);
        }
    } while (!closing);
    return NULL;
}

/* --- submitting --- */

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

        if (len == 0 || len > MAX_STOP_LEN) {
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

/* r: how many of the ids are of an answer that goes on, and whether it begins in a thought. */
static infer_rc render(const infer *m, const infer_params *p, tokenizer_ids *ids, infer_req *r,
                       char *err, size_t errlen)
{
    size_t n = p->n_messages - p->goes_on, without = 0;
    const chat_talk talk = {p->messages, n, p->tools};
    const infer_message *last = p->goes_on ? &p->messages[n] : NULL;
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
    without = ids->n;
    if (rc == CHAT_OK && last &&
        !tokenizer_encode(m->tok, last->content, last->content_len, false, ids)) {
        rc = CHAT_TOO_LONG;
    }
    r->n_said = (uint32_t)(ids->n - without);
    r->is_thought = r->is_thought && !last;
    switch (rc) {
    case CHAT_OK:
        return INFER_OK;
    case CHAT_TOO_LONG:
        return ids->n == ids->limit ? too_long(m, err, errlen) : out_of_memory(err, errlen);
    default:
        return refuse(INFER_INVALID, err, errlen, "the model's chat template: %s", why);
    }
}

/* The prompt's ids, and room behind them for the answer's. */
static infer_rc make_prompt(const infer *m, const infer_params *p, infer_req *r, char *err,
                            size_t errlen)
{
    uint32_t n_ctx = m->n_ctx, room;
    tokenizer_ids ids = {0};
    infer_rc rc = p->n_messages > 0 ? render(m, p, &ids, r, err, errlen) : INFER_OK;
    size_t n = p->n_messages > 0 ? ids.n : p->n_ids;
    const int32_t *from = p->n_messages > 0 ? ids.v : p->ids;

    if (rc == INFER_OK && n >= n_ctx) {
        rc = too_long(m, err, errlen);
    }
    if (rc != INFER_OK) {
        free(ids.v);
        return rc;
    }
    assert(n > 0 && from != NULL);
    room = n_ctx - (uint32_t)n;
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

/* What was said of the answer before: false if its format does not allow it. */
static bool follow(infer_req *r, const infer_message *said)
{
    for (size_t i = 0; r->matcher != NULL && i < said->content_len; i++) {
        r->place = matcher_next(r->matcher, r->place, (uint8_t)said->content[i]);
        if (r->place == MATCHER_DEAD) {
            return false;
        }
        r->place = matcher_trim(r->matcher, r->place);
    }
    return true;
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
    sampler_skip(&r->sampler, r->n_said);
    if (rc == INFER_OK && p->goes_on && !follow(r, &p->messages[p->n_messages - 1])) {
        return refuse(INFER_INVALID, err, errlen,
                      "the answer that goes on is not in the format that is asked for");
    }
    return rc;
}

/* Queues a request that is ready: from here on the model's thread may end it any time. */
static infer_rc enqueue(infer *m, infer_req *r, infer_req **out, char *err, size_t errlen)
{
    hub *h = m->hub;
    bool full;

    pthread_mutex_lock(&h->lock);
    full = m->n_waiting >= m->opt.max_waiting;
    if (!full) {
        r->hub = h;
        r->refs = 2;
        h->refs++;
        list_append(&m->waiting, r);
        m->n_waiting++;
        *out = r;
        pthread_cond_signal(&h->wake);
    }
    pthread_mutex_unlock(&h->lock);
    return full ? refuse(INFER_BUSY, err, errlen, "too many requests wait for the model")
                : INFER_OK;
}

infer_rc infer_submit(infer *m, const infer_params *p, infer_cb cb, void *arg, infer_req **out,
                      char *err, size_t errlen)
{
    infer_rc rc = check_params(m, p, err, errlen);
    infer_req *r = rc == INFER_OK ? calloc(1, sizeof(*r)) : NULL;

    if (r == NULL) {
        if (p->grammar != NULL) {
            grammar_free(p->grammar);
        }
        return rc == INFER_OK ? out_of_memory(err, errlen) : rc;
    }
    if (p->grammar != NULL) {
        r->matcher = matcher_new(p->grammar);
        r->place = MATCHER_START;
    }
    r->cb = cb;
    r->arg = arg;
    rc = fill_request(m, p, r, err, errlen);
    if (rc == INFER_OK) {
        rc = enqueue(m, r, out, err, errlen);
    }
    if (rc != INFER_OK) {
        req_free(r);
    }
    return rc;
}

/* --- opening and closing --- */

static uint32_t cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < MAX_THREADS ? (uint32_t)n : MAX_THREADS;
}

static bool set_options(infer *m, const infer_options *opt, char *err, size_t errlen)
{
    infer_options *o = &m->opt;

    *o = *opt;
    o->n_threads = o->n_threads > 0 ? o->n_threads : cores();
    o->max_running = o->max_running > 0 ? o->max_running : DEFAULT_RUNNING;
    o->max_waiting = o->max_waiting > 0 ? o->max_waiting : DEFAULT_WAITING;
    o->kv_bytes = o->kv_bytes > 0 ? o->kv_bytes : DEFAULT_KV;
    if (o->n_threads > MAX_THREADS || o->max_running > MAX_RUNNING) {
        snprintf(err, errlen, "at most %d threads and %d requests at once", MAX_THREADS,
                 MAX_RUNNING);
        return false;
    }
    return true;
}

/* Marks that are text in this vocabulary need no care. */
static void find_marks(infer *m)
{
    for (const char *const *mark = tool_marks(m->tool_format); *mark != NULL; mark++) {
        int32_t id = tokenizer_find(m->tok, *mark, strlen(*mark));
        size_t len = 0;

        if (id != TOKENIZER_NONE && !tokenizer_is_end(m->tok, id)) {
            tokenizer_piece(m->tok, id, &len);
            if (len == 0) {
                m->marks[m->n_marks++] = id;
            }
        }
    }
}

static bool read_file(infer *m, const char *path, char *err, size_t errlen)
{
    const gguf_kv *kv;
    gguf_str name = {.p = "", .len = 0};

    m->file = gguf_open(path, err, errlen);
    if (m->file == NULL) {
        return false;
    }
    m->tok = tokenizer_new(m->file, err, errlen);
    if (m->tok == NULL ||
        !infer_model_read(&m->model, m->file, tokenizer_n_vocab(m->tok), err, errlen)) {
        return false;
    }
    m->order = token_order_new(m->tok);
    m->chat = chat_template_new(m->file, m->tok, m->no_chat, sizeof(m->no_chat));
    if (m->chat != NULL) {
        m->tool_format = chat_tool_format(m->chat, &m->thinks);
        find_marks(m);
    }
    kv = gguf_find(m->file, "general.name");
    if (kv != NULL) {
        gguf_as_str(kv, &name);
    }
    m->name = strndup(name.p, name.len);
    if (m->opt.progress != NULL &&
        !gguf_read_ahead(m->file, m->opt.progress, m->opt.progress_arg)) {
        snprintf(err, errlen, "loading was ended");
        return false;
    }
    return m->name != NULL;
}

static bool alloc_batch(infer *m)
{
    size_t n = m->opt.max_running, n_vocab = m->model.config.n_vocab;

    m->seqs = calloc(n, sizeof(*m->seqs));
    m->reqs = calloc(n, sizeof(infer_req *));
    m->logits = malloc(n * n_vocab * sizeof(*m->logits));
    m->raw = malloc(n_vocab * sizeof(*m->raw));
    m->scratch = malloc(n_vocab * sizeof(*m->scratch));
    m->counts = calloc(n_vocab, sizeof(*m->counts));
    m->hub = hub_new();
    return m->seqs != NULL && m->reqs != NULL && m->logits != NULL && m->raw != NULL &&
           m->scratch != NULL && m->counts != NULL && m->hub != NULL;
}

/* Signals are for the process's own threads, so ours are born with all of them blocked. */
static bool start(infer *m, char *err, size_t errlen)
{
    sigset_t all, before;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (settle(m, err, errlen)) {
        rc = pthread_create(&m->thread, NULL, model_main, m);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        snprintf(err, errlen, "no thread for the model: %s", strerror(rc));
    }
    return m->km != NULL && rc == 0;
}

static void free_all(infer *m)
{
    leave(m);
    infer_model_free(&m->model);
    if (m->chat != NULL) {
        chat_template_free(m->chat);
    }
    if (m->order != NULL) {
        token_order_free(m->order);
    }
    if (m->tok != NULL) {
        tokenizer_free(m->tok);
    }
    if (m->file != NULL) {
        gguf_close(m->file);
    }
    if (m->hub != NULL) {
        hub_drop(m->hub);
    }
    free(m->name);
    free(m->seqs);
    free(m->reqs);
    free(m->logits);
    free(m->raw);
    free(m->scratch);
    free(m->counts);
    free(m);
}

infer *infer_open(const char *path, const infer_options *opt, char *err, size_t errlen)
{
    infer *m = calloc(1, sizeof(*m));

    snprintf(err, errlen, "out of memory");
    if (m == NULL) {
        return NULL;
    }
    list_init(&m->waiting);
    list_init(&m->running);
    if (!set_options(m, opt, err, errlen) || !read_file(m, path, err, errlen) ||
        !alloc_batch(m) || !start(m, err, errlen)) {
        free_all(m);
        return NULL;
    }
    return m;
}

void infer_close(infer *m)
{
    pthread_mutex_lock(&m->hub->lock);
    m->closing = true;
    pthread_cond_signal(&m->hub->wake);
    pthread_mutex_unlock(&m->hub->lock);
    pthread_join(m->thread, NULL);
    free_all(m);
}

void infer_info(const infer *m, infer_model_info *info)
{
    *info = (infer_model_info){
        .name = m->name,
        .architecture = m->model.architecture,
        .n_ctx = m->n_ctx,
        .n_vocab = m->model.config.n_vocab,
        .n_params = m->model.n_params,
        .file_bytes = gguf_size(m->file),
        .chat = m->chat != NULL,
        .tool_format = m->tool_format,
        .thinks = m->thinks,
    };
}

const tokenizer *infer_tokenizer(const infer *m)
{
    return m->tok;
}
