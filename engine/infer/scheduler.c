/* The model's thread: each turn is one batch. */
#include "infer/infer_impl.h"

void infer_wait_again(infer *m, infer_req *r)
{
    pthread_mutex_lock(&m->hub->lock);
    list_prepend(&m->waiting, r);
    m->n_waiting++;
    pthread_mutex_unlock(&m->hub->lock);
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
        infer_move(m, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];

        r->pos += m->seqs[i].n;
        if (m->seqs[i].n_logits == 0) {
            list_append(&m->running, r);
            continue;
        }
        if (infer_take_token(m, r, logits)) {
            list_append(&m->running, r);
        }
        logits += m->model.config.n_vocab;
    }
}

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

void *infer_main(void *arg)
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
            infer_fail(m, list_take(&over, &over.first), "cancelled");
        }
        if (lost) {
            infer_settle_again(m);
        } else if (n > 0) {
            step(m, n);
        }
    } while (!closing);
    return NULL;
}
