/*
 * Where a replica is: on a device that has no other replica of the model, on the next one when
 * that fails, or nowhere. Only one that is alone goes to the CPU: the others are faster.
 */
#include "infer/infer_impl.h"

#include <stdio.h>

#define MAX_PAGES ((uint64_t)1 << 24)

/* From now on, or no longer, it takes requests. */
static void serve(infer_replica *p, bool serves)
{
    pthread_mutex_lock(&p->m->hub->lock);
    p->serves = serves;
    p->full[0] = p->full[1] = false;
    if (!serves) {
        p->stats.pages = p->stats.used = p->stats.running = 0;
    }
    pthread_mutex_unlock(&p->m->hub->lock);
}

void infer_leave(infer_replica *p, const char *failure)
{
    if (p->serves) {
        serve(p, false);
    }
    if (p->pool != NULL) {
        kv_pool_free(p->pool);
        p->pool = NULL;
    }
    if (p->runner != NULL) {
        runner_close(p->runner, failure);
        p->runner = NULL;
    }
}

/* Pages for all contexts that can run, and as many for what may be wanted again, as far as the
 * memory set aside goes. */
static uint64_t wished_pages(const infer *m, uint64_t page_bytes)
{
    uint64_t most = 2 * (uint64_t)m->opt.max_running * kv_pages_for(m->model.config.n_ctx);
    uint64_t n = m->opt.kv_bytes / page_bytes;

    n = n < most ? n : most;
    return n < MAX_PAGES ? n : MAX_PAGES;
}

/* What a device needs room for. Its pages are as large as the CPU's, as far as is known before
 * it is opened. */
static uint64_t wished_bytes(const infer *m)
{
    uint64_t page_bytes = aiq_kernels_cpu.page_bytes(NULL, &m->model.config);

    return gguf_size(m->file) + wished_pages(m, page_bytes) * page_bytes;
}

/*
 * Pages of an opened device. The first one says how long contexts may be; another has pages for
 * one of that length at least, so whoever was let in can go on.
 */
static uint32_t count_pages(const infer_replica *p, const runner *r)
{
    infer *m = p->m;
    const kern_config *c = &m->model.config;
    uint64_t n = wished_pages(m, runner_page_bytes(r, c));

    n = n > kv_pages_for(m->n_ctx) ? n : kv_pages_for(m->n_ctx);
    if (m->n_ctx == 0) {
        m->n_ctx = n * KERN_PAGE < c->n_ctx ? (uint32_t)n * KERN_PAGE : c->n_ctx;
        infer_model_fit(&m->model, m->file, m->n_ctx);
    }
    return (uint32_t)n;
}

static bool is_closing(infer *m)
{
    pthread_mutex_lock(&m->hub->lock);
    bool closing = m->closing;
    pthread_mutex_unlock(&m->hub->lock);
    return closing;
}

/* Whether what a device does is still wanted; while the model is opened, its owner says so. */
static bool is_wanted(void *arg)
{
    infer *m = arg;

    if (m->opening && m->opt.progress != NULL) {
        return m->opt.progress(m->opt.progress_arg, 100);
    }
    return !is_closing(m);
}

static const char *fill(void *replica, runner *r)
{
    infer_replica *p = replica;
    infer *m = p->m;
    uint32_t n_pages = count_pages(p, r);

    if (n_pages == 0) {
        return "not a page of a context fits the memory set aside for them";
    }
    const runner_shape shape = {
        .max_batch = m->opt.max_running + runner_batch_tokens(r) + DRAFT_WIDTH,
        .max_parts = m->opt.max_running,
        .max_rows = m->opt.max_running + DRAFT_WIDTH,
        .row = m->model.config.n_vocab,
        .n_pages = n_pages,
    };
    if (!runner_load(r, &m->model, m->file, &shape)) {
        return runner_error(r);
    }
    p->pool = kv_pool_new(n_pages);
    return p->pool != NULL ? NULL : "out of memory";
}

static bool settle(infer_replica *p, bool or_cpu, char *err, size_t errlen)
{
    infer *m = p->m;
    uint32_t number = (uint32_t)(p - m->replicas) + 1;

    p->runner =
        runner_settle(&m->places, number, wished_bytes(m), or_cpu, fill, p, err, errlen);
    if (p->runner != NULL) {
        serve(p, true);
    }
    return p->runner != NULL;
}

bool infer_place_all(infer *m, char *err, size_t errlen)
{
    m->places = (runner_places){.list = m->opt.devices,
                                .model = m->opt.label,
                                .n_threads = m->opt.n_threads,
                                .wanted = is_wanted,
                                .arg = m};
    m->opening = true;
    while (m->n_replicas < m->opt.replicas &&
           settle(&m->replicas[m->n_replicas], m->n_replicas == 0, err, errlen)) {
        m->n_replicas++;
    }
    m->opening = false;
    m->n_alive = m->n_replicas;
    return m->n_replicas > 0;
}

/* Gives up all that wait, for no device has the model. */
static void fail_waiting(infer_replica *p, const char *why)
{
    infer *m = p->m;
    req_list over;

    list_init(&over);
    pthread_mutex_lock(&m->hub->lock);
    list_move(&over, &m->waiting[0]);
    list_move(&over, &m->waiting[1]);
    m->n_waiting = 0;
    pthread_mutex_unlock(&m->hub->lock);
    while (over.first != NULL) {
        infer_fail(p, list_take(&over, &over.first), why);
    }
}

/* All of p's requests wait; the n of the batch are in no list. What they have in their contexts
 * is gone, so where they go on they read their prompt and what they have said anew. */
static void give_up_requests(infer_replica *p, uint32_t n)
{
    infer *m = p->m;

    pthread_mutex_lock(&m->hub->lock);
    for (uint32_t i = 0; i < n; i++) {
        list_append(&p->running, p->reqs[i]);
    }
    while (p->running.first != NULL) {
        infer_req *r = list_take(&p->running, &p->running.first);

        infer_drop_context(p, r);
        infer_wait(m, r);
    }
    pthread_cond_broadcast(&m->hub->wake);
    pthread_mutex_unlock(&m->hub->lock);
}

/* Whether this replica may end, for others live. */
static bool end_for_others(infer *m)
{
    bool others;

    pthread_mutex_lock(&m->hub->lock);
    others = m->n_alive > 1 && !m->closing;
    m->n_alive -= others;
    pthread_mutex_unlock(&m->hub->lock);
    return others;
}

bool infer_move(infer_replica *p, uint32_t n)
{
    infer *m = p->m;
    char why[256];

    snprintf(why, sizeof(why), "%s", runner_error(p->runner));
    serve(p, false);
    give_up_requests(p, n);
    infer_leave(p, why);
    if (is_closing(m) || settle(p, false, why, sizeof(why))) {
        return true;
    }
    if (end_for_others(m)) {
        return false;
    }
    if (!settle(p, true, why, sizeof(why))) {
        fail_waiting(p, why);
    }
    return true;
}

void infer_settle_again(infer_replica *p)
{
    infer *m = p->m;
    char why[256] = "";

    m->places.tried = 0; /* the others have ended */
    if (!settle(p, true, why, sizeof(why))) {
        fail_waiting(p, why);
    }
}
