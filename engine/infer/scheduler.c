/*
 * The model's thread: each turn is one batch. Under the lock it decides who is in it: those
 * that run, with a page more where they need one, then those that are let in. Then it computes.
 */
#include "infer/draft.h"
#include "infer/infer_impl.h"

/* So many that are in a hurry may be let in before one of flex, where both wait. */
#define FLEX_TURN 3

/* Of the places in a batch, and of the prompt tokens in a step, one in so many is never flex's,
 * or is flex's at least. */
#define FLEX_SHARE 4

/* --- who runs; under the lock --- */

void infer_wait(infer *m, infer_req *r)
{
    req_list *l = &m->waiting[r->flex];
    infer_req **at = &l->first;

    while (*at != NULL && (*at)->arrival < r->arrival) {
        at = &(*at)->next;
    }
    list_insert(l, at, r);
    m->n_waiting++;
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

/* --- pages; under the lock --- */

static void evict(infer *m, infer_req *r)
{
    infer_drop_context(m, r);
    r->evicted = true;
    m->stats.preemptions++;
}

/* Whether a has to go before b has. */
static bool yields(const infer_req *a, const infer_req *b)
{
    if (a->paused != b->paused) {
        return a->paused;
    }
    if (a->flex != b->flex) {
        return a->flex;
    }
    return a->arrival > b->arrival;
}

/* The first that has to go of the n in the batch and the others that run. */
static infer_req *first_to_go(const infer *m, uint32_t n)
{
    infer_req *first = NULL;

    for (infer_req *r = m->running.first; r != NULL; r = r->next) {
        if (!r->evicted && (first == NULL || yields(r, first))) {
            first = r;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!m->reqs[i]->evicted && (first == NULL || yields(m->reqs[i], first))) {
            first = m->reqs[i];
        }
    }
    return first;
}

/* A page more for each that has filled its last; whoever must go for it is evicted. */
static void grow(infer *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];

        while (!r->evicted && !kv_grow(m->pool, &r->kv, r->n_prompt + r->n_answer)) {
            evict(m, first_to_go(m, n));
        }
    }
}

/* Those that were evicted wait. Returns how many of the n are left. */
static uint32_t send_back(infer *m, uint32_t n)
{
    infer_req **at = &m->running.first;
    uint32_t kept = 0;

    while (*at != NULL) {
        if ((*at)->evicted) {
            (*at)->evicted = false;
            infer_wait(m, list_take(&m->running, at));
        } else {
            at = &(*at)->next;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];

        if (r->evicted) {
            r->evicted = false;
            infer_wait(m, r);
        } else {
            m->reqs[kept++] = r;
        }
    }
    return kept;
}

/*
 * Pages for all that r has to read, and one for each of the n in the batch to grow by; those
 * of the paused are taken away for it. False, and r has none, if that is not enough.
 */
static bool make_room(infer *m, infer_req *r, uint32_t n)
{
    uint32_t tokens = r->n_prompt + r->n_answer, want = kv_pages_for(tokens);

    r->pos = kv_begin(m->pool, &r->kv, &r->scope, r->ids, tokens);
    while (want - r->kv.n + n > kv_available(m->pool)) {
        infer_req *other = first_to_go(m, n);

        if (other == NULL || !other->paused) {
            infer_drop_context(m, r);
            return false;
        }
        evict(m, other);
    }
    return kv_grow(m->pool, &r->kv, tokens);
}

/* --- who is let in; under the lock --- */

static bool flex_is_full(const infer *m, uint32_t n)
{
    uint32_t most = m->opt.max_running - m->opt.max_running / FLEX_SHARE, flex = 0;

    for (uint32_t i = 0; i < n; i++) {
        flex += m->reqs[i]->flex;
    }
    return flex >= most;
}

/* The first of a queue that is not paused, NULL: none. */
static infer_req **first_ready(req_list *l)
{
    infer_req **at = &l->first;

    while (*at != NULL && (*at)->paused) {
        at = &(*at)->next;
    }
    return *at != NULL ? at : NULL;
}

/* Lets waiting requests in, in order, while there is room in the batch and for contexts. */
static uint32_t admit(infer *m, uint32_t n)
{
    while (n < m->opt.max_running) {
        infer_req **hasty = first_ready(&m->waiting[0]);
        infer_req **flex = flex_is_full(m, n) ? NULL : first_ready(&m->waiting[1]);
        bool is_flex = flex != NULL && (hasty == NULL || m->n_passed >= FLEX_TURN);
        infer_req **at = is_flex ? flex : hasty, *r;

        if (at == NULL || !make_room(m, *at, n)) {
            break;
        }
        m->n_passed = flex != NULL && !is_flex ? m->n_passed + 1 : 0;
        r = list_take(&m->waiting[is_flex], at);
        m->n_waiting--;
        m->reqs[n++] = r;
        if (!r->met) {
            r->met = true;
            r->n_cached = r->pos;
            m->stats.prompt_tokens += r->n_prompt;
            m->stats.cached_tokens += r->n_cached;
        }
    }
    return n;
}

/* Returns how many are in the batch. */
static uint32_t gather(infer *m)
{
    uint32_t n = pick_batch(m), running;

    grow(m, n);
    n = send_back(m, n);
    n = admit(m, n);
    n = send_back(m, n);
    running = n;
    for (infer_req *r = m->running.first; r != NULL; r = r->next) {
        running++;
    }
    m->stats.running = running;
    m->stats.drafted_tokens = m->drafted;
    m->stats.accepted_tokens = m->accepted;
    m->stats.pages = kv_size(m->pool);
    m->stats.used = m->stats.pages - kv_available(m->pool);
    return n;
}

/* --- one step --- */

/* Tokens that are not in the context yet: one of whoever decodes, more of whoever reads. */
static uint32_t unread(const infer_req *r)
{
    return r->n_prompt + r->n_answer - r->pos;
}

/*
 * Shares the step out among the n requests of the batch: one token for each that decodes, an
 * even part of the prompt tokens for each that still reads; flex together has a smaller one.
 */
static void plan_step(infer *m, uint32_t n)
{
    uint32_t readers[2] = {0}, budget[2];

    for (uint32_t i = 0; i < n; i++) {
        readers[m->reqs[i]->flex] += unread(m->reqs[i]) > 1;
    }
    budget[0] = budget[1] = readers[0] + readers[1] == n ? PROMPT_ALONE : PROMPT_CHUNK;
    if (readers[0] > 0 && readers[1] > 0) {
        budget[1] /= FLEX_SHARE;
        budget[0] -= budget[1];
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];
        kern_seq *s = &m->seqs[i];
        uint32_t left = unread(r);

        *s = (kern_seq){.pages = r->kv.pages, .ids = r->ids + r->pos, .n = left, .pos = r->pos};
        if (left > 1) {
            uint32_t share = budget[r->flex] / readers[r->flex];

            share = share > 0 ? share : 1;
            s->n = left < share ? left : share;
            budget[r->flex] -= s->n < budget[r->flex] ? s->n : budget[r->flex];
            readers[r->flex]--;
        }
        s->n_logits = s->n == left;
    }
}

/*
 * A step reads all weights once, for one token or for a few: while the batch is small those
 * that decode have guesses read with their token. The first guess is small, and it grows with
 * those that were right. An answer in a format is not guessed: its masks are made one by one.
 */
static void add_drafts(infer *m, uint32_t n)
{
    uint32_t left = n < DRAFT_WIDTH ? DRAFT_WIDTH - n : 0;

    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];
        uint32_t all = r->n_prompt + r->n_answer, most = r->max_tokens - r->n_answer - 1;

        most = most < left ? most : left;
        most = most < r->n_draft ? most : r->n_draft;
        if (m->seqs[i].n != 1 || m->seqs[i].n_logits != 1 || r->walk != NULL) {
            continue;
        }
        most = draft_find(r->ids, all, most, r->ids + all);
        if (kv_grow(m->pool, &r->kv, all + most)) {
            m->seqs[i].n += most;
            m->seqs[i].n_logits += most;
            left -= most;
        }
    }
}

static bool is_paused(infer_req *r)
{
    bool paused;

    pthread_mutex_lock(&r->hub->lock);
    paused = r->paused;
    pthread_mutex_unlock(&r->hub->lock);
    return paused;
}

/*
 * Tokens from the logits of s, which has read n_logits - 1 guesses: each token is chosen as if
 * there had been none, and while it is what was guessed, the next logits hold. False: the
 * request is over and must not be touched.
 */
static bool take_tokens(infer *m, infer_req *r, const kern_seq *s, float *logits)
{
    uint32_t drafted = s->n_logits - 1, right = 0;
    bool goes_on = true;

    r->pos += s->n - drafted;
    for (;;) {
        int32_t *next = r->ids + r->n_prompt + r->n_answer, guess = *next;

        kv_note(m->pool, &r->kv, r->ids, r->pos);
        goes_on = infer_take_token(m, r, logits + (size_t)right * m->model.config.n_vocab);
        if (!goes_on || right == drafted || *next != guess) {
            break;
        }
        right++;
        r->pos++;
        if (is_paused(r)) {
            break;
        }
    }
    m->drafted += drafted;
    m->accepted += right;
    if (goes_on && drafted > 0) {
        r->n_draft = right == drafted ? r->n_draft + 1 : (right + r->n_draft + 1) / 2;
        r->n_draft = r->n_draft < DRAFT_WIDTH ? r->n_draft : DRAFT_WIDTH;
    }
    return goes_on;
}

static void step(infer *m, uint32_t n)
{
    float *logits = m->logits;

    plan_step(m, n);
    add_drafts(m, n);
    if (!m->kern->step(m->km, m->seqs, n, m->logits)) {
        infer_move(m, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = m->reqs[i];

        const kern_seq *s = &m->seqs[i];

        if (s->n_logits == 0) {
            r->pos += s->n;
            kv_note(m->pool, &r->kv, r->ids, r->pos);
            list_append(&m->running, r);
            continue;
        }
        if (take_tokens(m, r, s, logits)) {
            list_append(&m->running, r);
        }
        logits += (size_t)s->n_logits * m->model.config.n_vocab;
    }
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
            m->n_waiting -= sweep(m, &m->waiting[0], &over);
            m->n_waiting -= sweep(m, &m->waiting[1], &over);
            lost = m->km == NULL && m->n_waiting > 0;
            n = m->km != NULL ? gather(m) : 0;
            m->stats.waiting = m->n_waiting;
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
