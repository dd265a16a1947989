/*
 * A replica's thread: each turn is one batch. Under the lock it decides who is in it: those
 * that run, with a page more where they need one, then those that are let in. Then it computes.
 */
#include "infer/draft.h"
#include "infer/infer_impl.h"

/* So many that are in a hurry may be let in before one of flex, where both wait. */
#define FLEX_TURN 3

/* So often one of flex gives its pages to those in a hurry. Then its turn has come: where pages
 * are scarce it would read what it knew again and again, and never end. */
#define FLEX_EVICTIONS 3

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
static uint32_t pick_batch(infer_replica *p)
{
    infer_req **at = &p->running.first;
    uint32_t n = 0;

    while (*at != NULL && n < p->m->opt.max_running) {
        if ((*at)->paused) {
            at = &(*at)->next;
        } else {
            p->reqs[n++] = list_take(&p->running, at);
        }
    }
    return n;
}

/* --- pages; under the lock --- */

static void evict(infer_replica *p, infer_req *r)
{
    infer_drop_context(p, r);
    r->evicted = true;
    r->n_evicted++;
    p->stats.preemptions++;
}

static bool gives_way(const infer_req *r)
{
    return r->flex && r->n_evicted < FLEX_EVICTIONS;
}

/* Whether a has to go before b has. */
static bool yields(const infer_req *a, const infer_req *b)
{
    if (a->paused != b->paused) {
        return a->paused;
    }
    if (gives_way(a) != gives_way(b)) {
        return gives_way(a);
    }
    return a->arrival > b->arrival;
}

/* The first that has to go of the n in the batch and the others that run. */
static infer_req *first_to_go(const infer_replica *p, uint32_t n)
{
    infer_req *first = NULL;

    for (infer_req *r = p->running.first; r != NULL; r = r->next) {
        if (!r->evicted && (first == NULL || yields(r, first))) {
            first = r;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!p->reqs[i]->evicted && (first == NULL || yields(p->reqs[i], first))) {
            first = p->reqs[i];
        }
    }
    return first;
}

/* A page more for each that has filled its last; whoever must go for it is evicted. */
static void grow(infer_replica *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = p->reqs[i];

        while (!r->evicted && !kv_grow(p->pool, &r->kv, r->n_prompt + r->n_answer)) {
            evict(p, first_to_go(p, n));
        }
    }
}

/* Those that were evicted wait. Returns how many of the n are left. */
static uint32_t send_back(infer_replica *p, uint32_t n)
{
    infer_req **at = &p->running.first;
    uint32_t kept = 0;

    while (*at != NULL) {
        if ((*at)->evicted) {
            (*at)->evicted = false;
            infer_wait(p->m, list_take(&p->running, at));
        } else {
            at = &(*at)->next;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = p->reqs[i];

        if (r->evicted) {
            r->evicted = false;
            infer_wait(p->m, r);
        } else {
            p->reqs[kept++] = r;
        }
    }
    return kept;
}

/*
 * Pages for all that r has to read, and one for each of the n in the batch to grow by; those
 * of the paused are taken away for it. False, and r has none, if that is not enough.
 */
static bool make_room(infer_replica *p, infer_req *r, uint32_t n)
{
    uint32_t tokens = r->n_prompt + r->n_answer, want = kv_pages_for(tokens);

    r->pos = kv_begin(p->pool, &r->kv, &r->scope, r->ids, tokens);
    while (want - r->kv.n + n > kv_available(p->pool)) {
        infer_req *other = first_to_go(p, n);

        if (other == NULL || !other->paused) {
            infer_drop_context(p, r);
            return false;
        }
        evict(p, other);
    }
    return kv_grow(p->pool, &r->kv, tokens);
}

/* --- who is let in; under the lock --- */

static bool flex_is_full(const infer_replica *p, uint32_t n)
{
    uint32_t most = p->m->opt.max_running - p->m->opt.max_running / FLEX_SHARE, flex = 0;

    for (uint32_t i = 0; i < n; i++) {
        flex += p->reqs[i]->flex;
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

/* The next that p may have, with n in its batch: a link of its queue; NULL: none. passes: one
 * of flex could have been the next. */
static infer_req **next_waiting(const infer_replica *p, uint32_t n, bool *passes)
{
    infer *m = p->m;
    infer_req **hasty = first_ready(&m->waiting[0]);
    infer_req **flex = flex_is_full(p, n) ? NULL : first_ready(&m->waiting[1]);
    bool is_flex = flex != NULL && (hasty == NULL || m->n_passed >= FLEX_TURN);

    *passes = flex != NULL && !is_flex;
    return is_flex ? flex : hasty;
}

/* Tokens that it need not read. */
static uint32_t known_to(const infer_replica *p, const infer_req *r)
{
    return kv_known(p->pool, &r->scope, r->ids, r->n_prompt + r->n_answer);
}

/* Who lets r in; NULL: nobody has room for it. */
static infer_replica *best_for(infer *m, const infer_req *r)
{
    infer_replica *best = NULL;

    for (uint32_t i = 0; i < m->n_replicas; i++) {
        infer_replica *q = &m->replicas[i];

        if (!q->serves || q->full[r->flex]) {
            continue;
        }
        if (best == NULL || q->stats.running < best->stats.running ||
            (q->stats.running == best->stats.running && known_to(q, r) > known_to(best, r))) {
            best = q;
        }
    }
    return best;
}

/* The replicas that the next ones wait for, if they sleep. */
static void wake_best(infer *m)
{
    for (int flex = 0; flex < 2; flex++) {
        infer_req **at = first_ready(&m->waiting[flex]);
        infer_replica *q = at != NULL ? best_for(m, *at) : NULL;

        if (q != NULL && q->asleep) {
            q->asleep = false;
            pthread_cond_broadcast(&m->hub->wake);
        }
    }
}

/* Lets waiting requests in, in order, while there is room in the batch and for contexts, and no
 * other replica should have them. */
static uint32_t admit(infer_replica *p, uint32_t n)
{
    infer *m = p->m;
    infer_req **at, *r;
    bool passes;

    p->full[0] = p->full[1] = false;
    while (n < m->opt.max_running && (at = next_waiting(p, n, &passes)) != NULL &&
           best_for(m, *at) == p) {
        if (!make_room(p, *at, n)) {
            p->full[0] = true;
            break;
        }
        m->n_passed = passes ? m->n_passed + 1 : 0;
        r = list_take(&m->waiting[(*at)->flex], at);
        m->n_waiting--;
        p->reqs[n++] = r;
        p->stats.running++;
        if (!r->met) {
            r->met = true;
            r->n_cached = r->pos;
            p->stats.prompt_tokens += r->n_prompt;
            p->stats.cached_tokens += r->n_cached;
        }
    }
    p->full[0] |= n == m->opt.max_running;
    p->full[1] = p->full[0] || flex_is_full(p, n);
    return n;
}

/* Those of the batch, and the others that run. */
static uint32_t count_running(const infer_replica *p, uint32_t n)
{
    for (const infer_req *r = p->running.first; r != NULL; r = r->next) {
        n++;
    }
    return n;
}

/* Returns how many are in the batch. */
static uint32_t gather(infer_replica *p)
{
    uint32_t n = pick_batch(p);

    grow(p, n);
    n = send_back(p, n);
    p->stats.running = count_running(p, n);
    n = admit(p, n);
    n = send_back(p, n);
    p->stats.running = count_running(p, n);
    p->stats.drafted_tokens = p->drafted;
    p->stats.accepted_tokens = p->accepted;
    p->stats.pages = kv_size(p->pool);
    p->stats.used = p->stats.pages - kv_available(p->pool);
    if (p->m->n_replicas > 1) {
        wake_best(p->m);
    }
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
static void plan_step(infer_replica *p, uint32_t n)
{
    uint32_t readers[2] = {0}, budget[2];

    for (uint32_t i = 0; i < n; i++) {
        readers[p->reqs[i]->flex] += unread(p->reqs[i]) > 1;
    }
    budget[0] = runner_batch_tokens(p->runner);
    budget[0] /= readers[0] + readers[1] < n ? DECODERS_WAIT : 1;
    budget[1] = budget[0];
    if (readers[0] > 0 && readers[1] > 0) {
        budget[1] /= FLEX_SHARE;
        budget[0] -= budget[1];
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = p->reqs[i];
        kern_seq *s = &p->seqs[i];
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

/* Most tokens that may follow r's, to behind them; returns how many. */
static uint32_t guess(infer_req *r, uint32_t most)
{
    uint32_t all = r->n_prompt + r->n_answer, n;
    int32_t *out = r->ids + all;

    n = draft_find(r->ids, all, most, out);
    if (!infer_is_held(r)) {
        return n;
    }
    n = mask_walk_follow(r->walk, out, n);
    return n > 0 ? n : mask_walk_follow(r->walk, out, mask_walk_only(r->walk, out, most));
}

/*
 * A step reads all weights once, for one token or for a few: while the batch is small those
 * that decode have guesses read with their token. The first guess is small, and it grows with
 * those that were right. In an answer that is held to a language it ends where that forbids it,
 * and where nothing else is guessed it is what the language says itself.
 */
static void add_drafts(infer_replica *p, uint32_t n)
{
    uint32_t left = n < DRAFT_WIDTH ? DRAFT_WIDTH - n : 0;

    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = p->reqs[i];
        uint32_t all = r->n_prompt + r->n_answer, most = r->max_tokens - r->n_answer - 1;

        most = most < left ? most : left;
        most = most < r->n_draft ? most : r->n_draft;
        if (p->seqs[i].n != 1 || p->seqs[i].n_logits != 1 || most == 0) {
            continue;
        }
        most = guess(r, most);
        if (kv_grow(p->pool, &r->kv, all + most)) {
            p->seqs[i].n += most;
            p->seqs[i].n_logits += most;
            left -= most;
        }
    }
}

/* May its next token be chosen at once? Somebody reads, and its mask was made beside the step.
 */
static bool is_ready(infer_req *r)
{
    bool paused;

    pthread_mutex_lock(&r->hub->lock);
    paused = r->paused;
    pthread_mutex_unlock(&r->hub->lock);
    return !paused && (!infer_is_held(r) || mask_walk_is_ready(r->walk));
}

/*
 * Tokens from the logits of s, which has read n_logits - 1 guesses: each token is chosen as if
 * there had been none, and while it is what was guessed, the next logits hold. False: the
 * request is over and must not be touched.
 */
static bool take_tokens(infer_replica *p, infer_req *r, const kern_seq *s, float *logits)
{
    uint32_t drafted = s->n_logits - 1, right = 0;
    bool goes_on = true;

    r->pos += s->n - drafted;
    for (;;) {
        int32_t *next = r->ids + r->n_prompt + r->n_answer, guess = *next;

        kv_note(p->pool, &r->kv, r->ids, r->pos);
        goes_on = infer_take_token(p, r, logits + (size_t)right * p->m->model.config.n_vocab);
        /* a token that the next step begins with is read there, though it was guessed */
        if (!goes_on || right == drafted || *next != guess || !is_ready(r)) {
            break;
        }
        right++;
        r->pos++;
    }
    p->drafted += drafted;
    p->accepted += right;
    if (goes_on && drafted > 0) {
        r->n_draft = right == drafted ? r->n_draft + 1 : (right + r->n_draft + 1) / 2;
        r->n_draft = r->n_draft < DRAFT_WIDTH ? r->n_draft : DRAFT_WIDTH;
    }
    return goes_on;
}

/* False: the replica has ended. */
static bool step(infer_replica *p, uint32_t n)
{
    plan_step(p, n);
    add_drafts(p, n);
    float *logits = runner_step(p->runner, p->seqs, n);
    if (logits == NULL) {
        return infer_move(p, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        infer_req *r = p->reqs[i];

        const kern_seq *s = &p->seqs[i];

        if (s->n_logits == 0) {
            r->pos += s->n;
            kv_note(p->pool, &r->kv, r->ids, r->pos);
            list_append(&p->running, r);
            continue;
        }
        if (take_tokens(p, r, s, logits)) {
            list_append(&p->running, r);
        }
        logits += (size_t)s->n_logits * p->m->model.config.n_vocab;
    }
    return true;
}

void *infer_main(void *arg)
{
    infer_replica *p = arg;
    infer *m = p->m;
    hub *h = m->hub;
    req_list over;
    bool closing, lost, alive = true;
    uint32_t n;

    do {
        list_init(&over);
        pthread_mutex_lock(&h->lock);
        for (;;) {
            closing = m->closing;
            sweep(m, &p->running, &over);
            m->n_waiting -= sweep(m, &m->waiting[0], &over);
            m->n_waiting -= sweep(m, &m->waiting[1], &over);
            lost = p->runner == NULL && m->n_waiting > 0;
            n = p->runner != NULL ? gather(p) : 0;
            if (n > 0 || lost || over.first != NULL || closing) {
                break;
            }
            p->asleep = true;
            pthread_cond_wait(&h->wake, &h->lock);
            p->asleep = false;
        }
        pthread_mutex_unlock(&h->lock);

        while (over.first != NULL) {
            infer_fail(p, list_take(&over, &over.first), "cancelled");
        }
        if (lost) {
            infer_settle_again(p);
        } else if (n > 0) {
            alive = step(p, n);
        }
    } while (alive && !closing);
    return NULL;
}
