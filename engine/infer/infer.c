/* A loaded model from its opening to its end, and what others wish of its requests. */
#include "infer/infer_impl.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_RUNNING 16
#define MAX_RUNNING     64
#define DEFAULT_WAITING 256
#define DEFAULT_KV      ((uint64_t)1 << 30)
#define MAX_THREADS     256

/* --- lifetimes --- */

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

void infer_drop_walk(infer_req *r)
{
    if (r->walk != NULL) {
        mask_walk_free(r->walk);
        r->walk = NULL;
    }
}

void infer_req_free(infer_req *r)
{
    for (size_t i = 0; i < r->n_stop; i++) {
        free(r->stop[i]);
    }
    answer_free(&r->answer);
    infer_drop_walk(r);
    scores_free(&r->scores);
    free(r->bias);
    free(r->kv.pages);
    free(r->ids);
    free(r);
}

void infer_req_drop(infer_req *r)
{
    hub *h = r->hub;
    unsigned refs;

    pthread_mutex_lock(&h->lock);
    refs = --r->refs;
    pthread_mutex_unlock(&h->lock);
    if (refs == 0) {
        infer_req_free(r);
        hub_drop(h);
    }
}

static void req_wish(infer_req *r, bool *wish, bool value)
{
    pthread_mutex_lock(&r->hub->lock);
    *wish = value;
    pthread_cond_broadcast(&r->hub->wake);
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
    infer_req_drop(r);
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
    o->replicas = o->replicas > 0 ? o->replicas : 1;
    o->replicas = o->replicas < DEVICES_MAX ? o->replicas : DEVICES_MAX;
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
    if (!infer_model_is(m->file, err, errlen)) {
        return false;
    }
    m->tok = tokenizer_new(m->file, err, errlen);
    if (m->tok == NULL ||
        !infer_model_read(&m->model, m->file, tokenizer_n_vocab(m->tok), err, errlen)) {
        return false;
    }
    m->masks = masks_new(m->tok);
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
    return m->name != NULL && m->masks != NULL;
}

static bool alloc_batch(infer_replica *p)
{
    const infer *m = p->m;
    size_t n = m->opt.max_running, n_vocab = m->model.config.n_vocab;

    p->seqs = calloc(n, sizeof(*p->seqs));
    p->reqs = calloc(n, sizeof(infer_req *));
    p->mask = malloc(masks_words(m->masks) * sizeof(*p->mask));
    p->raw = malloc(n_vocab * sizeof(*p->raw));
    p->scratch = malloc(n_vocab * sizeof(*p->scratch));
    p->counts = calloc(n_vocab, sizeof(*p->counts));
    return p->seqs != NULL && p->reqs != NULL && p->mask != NULL && p->raw != NULL &&
           p->scratch != NULL && p->counts != NULL;
}

static void free_batch(infer_replica *p)
{
    free(p->seqs);
    free(p->reqs);
    free(p->mask);
    free(p->raw);
    free(p->scratch);
    free(p->counts);
}

static bool alloc_replicas(infer *m)
{
    m->hub = hub_new();
    m->replicas = calloc(m->opt.replicas, sizeof(*m->replicas));
    if (m->hub == NULL || m->replicas == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < m->opt.replicas; i++) {
        m->replicas[i].m = m;
        list_init(&m->replicas[i].running);
        if (!alloc_batch(&m->replicas[i])) {
            return false;
        }
    }
    return true;
}

/* Of the first n replicas. */
static void end_threads(infer *m, uint32_t n)
{
    pthread_mutex_lock(&m->hub->lock);
    m->closing = true;
    pthread_cond_broadcast(&m->hub->wake);
    pthread_mutex_unlock(&m->hub->lock);
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(m->replicas[i].thread, NULL);
    }
}

/* Signals are for the process's own threads, so ours are born with all of them blocked. */
static bool start(infer *m, char *err, size_t errlen)
{
    sigset_t all, before;
    uint32_t n = 0;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool placed = infer_place_all(m, err, errlen);
    while (placed && rc == 0 && n < m->n_replicas) {
        rc = pthread_create(&m->replicas[n].thread, NULL, infer_main, &m->replicas[n]);
        n += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        snprintf(err, errlen, "no thread for the model: %s", strerror(rc));
        end_threads(m, n);
    }
    return placed && rc == 0;
}

static void free_all(infer *m)
{
    for (uint32_t i = 0; m->replicas != NULL && i < m->opt.replicas; i++) {
        infer_leave(&m->replicas[i], NULL);
        free_batch(&m->replicas[i]);
    }
    free(m->replicas);
    infer_model_free(&m->model);
    if (m->chat != NULL) {
        chat_template_free(m->chat);
    }
    if (m->masks != NULL) {
        masks_free(m->masks);
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
    free(m);
}

infer *infer_open(const char *path, const infer_options *opt, char *err, size_t errlen)
{
    infer *m = calloc(1, sizeof(*m));

    snprintf(err, errlen, "out of memory");
    if (m == NULL) {
        return NULL;
    }
    list_init(&m->waiting[0]);
    list_init(&m->waiting[1]);
    if (!set_options(m, opt, err, errlen) || !read_file(m, path, err, errlen) ||
        !alloc_replicas(m) || !start(m, err, errlen)) {
        free_all(m);
        return NULL;
    }
    return m;
}

void infer_close(infer *m)
{
    end_threads(m, m->n_replicas);
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

masks *infer_masks(const infer *m)
{
    return m->masks;
}

void infer_get_stats(const infer *m, infer_stats *stats)
{
    *stats = (infer_stats){0};
    pthread_mutex_lock(&m->hub->lock);
    stats->waiting = m->n_waiting;
    for (uint32_t i = 0; i < m->n_replicas; i++) {
        const infer_stats *one = &m->replicas[i].stats;

        stats->replicas += m->replicas[i].serves;
        stats->pages += one->pages;
        stats->used += one->used;
        stats->running += one->running;
        stats->prompt_tokens += one->prompt_tokens;
        stats->cached_tokens += one->cached_tokens;
        stats->preemptions += one->preemptions;
        stats->drafted_tokens += one->drafted_tokens;
        stats->accepted_tokens += one->accepted_tokens;
    }
    pthread_mutex_unlock(&m->hub->lock);
}

const tokenizer *infer_tokenizer(const infer *m)
{
    return m->tok;
}
