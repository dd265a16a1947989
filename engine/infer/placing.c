/* Where a model is: on a device, on the next one when that fails, or nowhere. */
#include "infer/infer_impl.h"

#include <stdio.h>

#define MAX_PAGES ((uint64_t)1 << 24)

void infer_leave(infer *m)
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
        infer_model_fit(&m->model, m->file, m->n_ctx);
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
                                m->opt.max_running + PROMPT_ALONE + DRAFT_WIDTH, n_pages);
    if (m->km == NULL) {
        snprintf(err, errlen, "%s", m->kern->last_error(m->dev));
    }
    return m->km != NULL;
}

bool infer_settle(infer *m, char *err, size_t errlen)
{
    while ((m->place = devices_take(m->opt.devices, gguf_size(m->file), &m->tried)) != NULL) {
        m->kern = m->place->kern;
        if (load(m, err, errlen)) {
            return true;
        }
        devices_fail(m->opt.devices, m->place, err);
        infer_leave(m);
    }
    return false;
}

/*
 * The device has failed. What the n of the batch and all others have in their contexts is gone
 * with it: on the next device they read their prompt and what they have said anew, and go on;
 * nothing is said twice. Without a next one they are over.
 */
void infer_move(infer *m, uint32_t n)
{
    req_list homeless;
    char why[256];
    bool settled;

    list_init(&homeless);
    for (uint32_t i = 0; i < n; i++) {
        list_append(&m->running, m->reqs[i]);
    }
    while (m->running.first != NULL) {
        infer_req *r = list_take(&m->running, &m->running.first);

        infer_drop_context(m, r);
        list_append(&homeless, r);
    }
    snprintf(why, sizeof(why), "%s", m->kern->last_error(m->dev));
    devices_fail(m->opt.devices, m->place, why);
    infer_leave(m);
    settled = infer_settle(m, why, sizeof(why));
    while (!settled && homeless.first != NULL) {
        infer_fail(m, list_take(&homeless, &homeless.first), why);
    }
    pthread_mutex_lock(&m->hub->lock);
    while (homeless.first != NULL) {
        infer_wait(m, list_take(&homeless, &homeless.first));
    }
    pthread_mutex_unlock(&m->hub->lock);
}

void infer_settle_again(infer *m)
{
    req_list waiting[2];
    char why[256] = "";

    m->tried = 0;
    if (infer_settle(m, why, sizeof(why))) {
        return;
    }
    pthread_mutex_lock(&m->hub->lock);
    for (int flex = 0; flex < 2; flex++) {
        list_init(&waiting[flex]);
        list_move(&waiting[flex], &m->waiting[flex]);
    }
    m->n_waiting = 0;
    pthread_mutex_unlock(&m->hub->lock);
    for (int flex = 0; flex < 2; flex++) {
        while (waiting[flex].first != NULL) {
            infer_fail(m, list_take(&waiting[flex], &waiting[flex].first), why);
        }
    }
}
