/*
 * Requests from their submission to their event, the reader, opening and closing.
 */
#include "infer/embedder_impl.h"

#include <assert.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/lexical.h"

#define DEFAULT_WAITING 256
#define MAX_THREADS     256

/* --- requests --- */

static void req_drop(embed_req *r)
{
    if (atomic_fetch_sub(&r->refs, 1) > 1) {
        return;
    }
    for (uint32_t i = 0; i < r->n && r->texts != NULL; i++) {
        free((void *)r->texts[i].ids);
    }
    free(r->texts);
    free(r->vectors);
    free(r->inputs);
    free(r->copy);
    free(r);
}

void embed_cancel(embed_req *r)
{
    atomic_store(&r->cancelled, true);
}

void embed_release(embed_req *r)
{
    req_drop(r);
}

/* Where it fails its first reason stays. Returns false. */
bool embed_fail(embed_req *r, embed_rc rc, uint32_t input, const char *error)
{
    if (r->rc == EMBED_OK) {
        r->rc = rc;
        r->input = input;
        snprintf(r->error, sizeof(r->error), "%s", error);
    }
    return false;
}

/* Whether nothing more is to be done for it. */
bool embed_is_over(embed_req *r)
{
    if (atomic_load(&r->cancelled)) {
        embed_fail(r, EMBED_CANCELLED, 0, "cancelled");
    }
    return r->rc != EMBED_OK;
}

static void give_event(embedder *e, embed_req *r)
{
    embed_event ev = {
        .rc = r->rc,
        .error = r->error,
        .input = r->input,
        .vectors = r->vectors,
        .dimensions = e->dimensions,
        .n_tokens = r->n_tokens,
    };

    r->cb(r->arg, &ev);
    req_drop(r);
}

/* --- the reader --- */

static bool out_of_memory(embed_req *r)
{
    return embed_fail(r, EMBED_NOMEM, 0, "out of memory");
}

static bool push_ids(const embedder *e, embed_req *r, const embed_input *in, tokenizer_ids *out)
{
    for (size_t i = 0; i < in->n_ids; i++) {
        if (in->ids[i] < 0 || (uint32_t)in->ids[i] >= tokenizer_n_vocab(e->tok)) {
            return embed_fail(r, EMBED_INVALID, r->n_read, "the model has no token of this id");
        }
        if (!tokenizer_ids_push(out, in->ids[i])) {
            return false;
        }
    }
    return true;
}

/* With the tokens that begin and end a text, once each. */
static bool tokenize(const embedder *e, embed_req *r, const embed_input *in, tokenizer_ids *out)
{
    int32_t bos = tokenizer_bos(e->tok), eos = tokenizer_eos(e->tok);
    bool begun = in->text == NULL && in->ids[0] == bos;

    if (bos != TOKENIZER_NONE && !begun && !tokenizer_ids_push(out, bos)) {
        return false;
    }
    if (in->text == NULL ? !push_ids(e, r, in, out)
                         : !tokenizer_encode(e->tok, in->text, in->len, false, out)) {
        return false;
    }
    return eos == TOKENIZER_NONE || (out->n > 0 && out->v[out->n - 1] == eos) ||
           tokenizer_ids_push(out, eos);
}

/* Input n_read as tokens. */
static bool read_tokens(const embedder *e, embed_req *r)
{
    tokenizer_ids ids = {.limit = e->max_tokens};
    bool ok = tokenize(e, r, &r->inputs[r->n_read], &ids);

    r->texts[r->n_read] = (kern_text){ids.v, (uint32_t)ids.n};
    r->n_tokens += ids.n;
    if (ok && ids.n == 0) {
        return embed_fail(r, EMBED_INVALID, r->n_read, "it has no tokens");
    }
    if (!ok && ids.n == ids.limit) {
        char why[64];

        snprintf(why, sizeof(why), "it has more than %u tokens", e->max_tokens);
        return embed_fail(r, EMBED_TOO_LONG, r->n_read, why);
    }
    return ok || out_of_memory(r);
}

/* Input n_read as its vector. */
static bool read_words(const embedder *e, embed_req *r)
{
    const embed_input *in = &r->inputs[r->n_read];
    uint32_t n_words;

    if (in->text == NULL) {
        return embed_fail(r, EMBED_INVALID, r->n_read, "this model takes texts, not tokens");
    }
    if (in->len > LEXICAL_MAX_TEXT) {
        return embed_fail(r, EMBED_TOO_LONG, r->n_read, "it has more than 65536 bytes");
    }
    if (!lexical_embed(in->text, in->len, r->vectors + (size_t)r->n_read * e->dimensions,
                       &n_words)) {
        return out_of_memory(r);
    }
    r->n_tokens += n_words;
    return true;
}

static void read_one(const embedder *e, embed_req *r)
{
    const embed_input *in = &r->inputs[r->n_read];

    if (embed_is_over(r)) {
        return;
    }
    if (in->text != NULL ? in->len == 0 : in->n_ids == 0) {
        embed_fail(r, EMBED_INVALID, r->n_read, "it is empty");
    } else if (e->tok != NULL ? read_tokens(e, r) : read_words(e, r)) {
        r->n_read++;
    }
}

static bool is_answered(const embedder *e, const embed_req *r)
{
    return r->rc != EMBED_OK || (e->tok == NULL && r->n_read == r->n);
}

/* The lock is held, but for the work. */
static void read_turn(embedder *e)
{
    embed_req *r = embed_take(&e->reading);

    pthread_mutex_unlock(&e->lock);
    read_one(e, r);
    pthread_mutex_lock(&e->lock);
    if (e->closing && !is_answered(e, r)) {
        embed_fail(r, EMBED_CANCELLED, 0, "cancelled");
    }
    if (is_answered(e, r)) {
        embed_append(&e->over, r);
    } else if (r->n_read < r->n) {
        embed_append(&e->reading, r);
    } else {
        embed_append(&e->waiting, r);
        pthread_cond_signal(&e->to_run);
    }
}

static void *reader_main(void *arg)
{
    embedder *e = arg;

    pthread_mutex_lock(&e->lock);
    for (;;) {
        if (e->over.first != NULL) {
            embed_req *r = embed_take(&e->over);

            e->n_under_way--;
            pthread_mutex_unlock(&e->lock);
            give_event(e, r);
            pthread_mutex_lock(&e->lock);
        } else if (e->reading.first != NULL) {
            read_turn(e);
        } else if (e->closing && e->model_ended) {
            break;
        } else {
            pthread_cond_wait(&e->to_read, &e->lock);
        }
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* --- submitting --- */

static size_t align(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

/* Everything that the caller lends. False: memory ends. */
static bool copy_inputs(embed_req *r, const embed_input *inputs)
{
    size_t bytes = 1, at = 0;

    for (uint32_t i = 0; i < r->n; i++) {
        bytes += align(inputs[i].text != NULL ? inputs[i].len : inputs[i].n_ids * 4);
    }
    r->inputs = calloc(r->n, sizeof(*r->inputs));
    r->texts = calloc(r->n, sizeof(*r->texts));
    r->copy = malloc(bytes);
    if (r->inputs == NULL || r->texts == NULL || r->copy == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < r->n; i++) {
        const embed_input *in = &inputs[i];
        size_t n = in->text != NULL ? in->len : in->n_ids * 4;
        char *p = r->copy + at;

        if (n > 0) {
            memcpy(p, in->text != NULL ? (const void *)in->text : in->ids, n);
        }
        r->inputs[i] = (embed_input){.len = in->len, .n_ids = in->n_ids};
        if (in->text != NULL) {
            r->inputs[i].text = p;
        } else {
            r->inputs[i].ids = (const int32_t *)(const void *)p;
        }
        at += align(n);
    }
    return true;
}

static embed_req *req_new(const embedder *e, const embed_input *inputs, uint32_t n, embed_cb cb,
                          void *arg)
{
    embed_req *r = calloc(1, sizeof(*r));

    if (r == NULL) {
        return NULL;
    }
    atomic_init(&r->refs, 1);
    r->cb = cb;
    r->arg = arg;
    r->n = n;
    if (e->tok == NULL) {
        r->vectors = malloc((size_t)n * e->dimensions * sizeof(float));
    }
    if (!copy_inputs(r, inputs) || (e->tok == NULL && r->vectors == NULL)) {
        req_drop(r);
        return NULL;
    }
    return r;
}

embed_rc embedder_submit(embedder *e, const embed_input *inputs, uint32_t n, embed_cb cb,
                         void *arg, embed_req **out, char *err, size_t errlen)
{
    embed_req *r;
    bool full;

    assert(n >= 1 && n <= EMBED_MAX_INPUTS);
    r = req_new(e, inputs, n, cb, arg);
    if (r == NULL) {
        snprintf(err, errlen, "out of memory");
        return EMBED_NOMEM;
    }
    pthread_mutex_lock(&e->lock);
    full = e->n_under_way >= e->opt.max_waiting;
    if (!full) {
        atomic_store(&r->refs, 2);
        *out = r;
        e->n_under_way++;
        embed_append(&e->reading, r);
        pthread_cond_signal(&e->to_read);
    }
    pthread_mutex_unlock(&e->lock);
    if (full) {
        req_drop(r);
        snprintf(err, errlen, "too many requests wait for the model");
        return EMBED_BUSY;
    }
    return EMBED_OK;
}

/* --- opening and closing --- */

static uint32_t cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < MAX_THREADS ? (uint32_t)n : MAX_THREADS;
}

bool embedder_takes(const char *path)
{
    char err[160];
    gguf *g = gguf_open(path, err, sizeof(err));
    bool takes = g != NULL && embed_model_is(g);

    if (g != NULL) {
        gguf_close(g);
    }
    return takes;
}

static embedder *embedder_new(const embedder_options *opt)
{
    embedder *e = calloc(1, sizeof(*e));

    if (e == NULL) {
        return NULL;
    }
    e->opt = *opt;
    e->opt.n_threads = opt->n_threads > 0 ? opt->n_threads : cores();
    e->opt.n_threads = e->opt.n_threads < MAX_THREADS ? e->opt.n_threads : MAX_THREADS;
    e->opt.max_waiting = opt->max_waiting > 0 ? opt->max_waiting : DEFAULT_WAITING;
    e->opt.replicas = opt->replicas > 0 ? opt->replicas : 1;
    e->opt.replicas = e->opt.replicas < DEVICES_MAX ? e->opt.replicas : DEVICES_MAX;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->to_read, NULL);
    pthread_cond_init(&e->to_run, NULL);
    embed_list_init(&e->reading);
    embed_list_init(&e->waiting);
    embed_list_init(&e->running);
    embed_list_init(&e->over);
    return e;
}

static void embedder_free(embedder *e)
{
    embed_leave_all(e);
    embed_model_free(&e->model);
    if (e->tok != NULL) {
        tokenizer_free(e->tok);
    }
    if (e->file != NULL) {
        gguf_close(e->file);
    }
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->to_read);
    pthread_cond_destroy(&e->to_run);
    free(e->name);
    free(e);
}

static bool read_file(embedder *e, const char *path, char *err, size_t errlen)
{
    const gguf_kv *kv;
    gguf_str name = {.p = "", .len = 0};

    e->file = gguf_open(path, err, errlen);
    if (e->file == NULL) {
        return false;
    }
    e->tok = tokenizer_new(e->file, err, errlen);
    if (e->tok == NULL ||
        !embed_model_read(&e->model, e->file, tokenizer_n_vocab(e->tok), err, errlen)) {
        return false;
    }
    kv = gguf_find(e->file, "general.name");
    if (kv != NULL) {
        gguf_as_str(kv, &name);
    }
    e->name = strndup(name.p, name.len);
    if (e->opt.progress != NULL &&
        !gguf_read_ahead(e->file, e->opt.progress, e->opt.progress_arg)) {
        snprintf(err, errlen, "loading was ended");
        return false;
    }
    return e->name != NULL;
}

static bool load(embedder *e, char *err, size_t errlen)
{
    uint32_t n_ctx = e->model.model.config.n_ctx;

    e->dimensions = e->model.model.config.d_model;
    e->max_tokens = n_ctx < EMBED_MAX_TOKENS ? n_ctx : EMBED_MAX_TOKENS;
    return embed_place_all(e, err, errlen);
}

/* No more comes from the replicas, [n] of which have a thread: the reader ends with its work.
 */
static void end_threads(embedder *e, uint32_t n)
{
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->to_run);
    pthread_mutex_unlock(&e->lock);
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(e->replicas[i].thread, NULL);
    }
    pthread_mutex_lock(&e->lock);
    e->model_ended = true;
    pthread_cond_signal(&e->to_read);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->reader, NULL);
}

/* False: there is no thread. */
static bool start(embedder *e, char *err, size_t errlen)
{
    int rc = pthread_create(&e->reader, NULL, reader_main, e);
    bool reads = rc == 0;
    uint32_t n = 0;

    while (rc == 0 && n < e->n_replicas) {
        rc = pthread_create(&e->replicas[n].thread, NULL, embed_main, &e->replicas[n]);
        n += rc == 0;
    }
    if (rc == 0) {
        return true;
    }
    snprintf(err, errlen, "no thread for the model: %s", strerror(rc));
    if (reads) {
        end_threads(e, n);
    }
    return false;
}

/* Signals are for the process's own threads, so ours are born with all of them blocked. */
static embedder *open_with(const char *path, const embedder_options *opt, char *err,
                           size_t errlen)
{
    embedder *e = embedder_new(opt);
    sigset_t all, before;
    bool ok = e != NULL;

    if (!ok) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (path != NULL) {
        ok = read_file(e, path, err, errlen) && load(e, err, errlen);
    } else {
        e->dimensions = LEXICAL_DIM;
    }
    ok = ok && start(e, err, errlen);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!ok) {
        embedder_free(e);
        return NULL;
    }
    return e;
}

embedder *embedder_open(const char *path, const embedder_options *opt, char *err, size_t errlen)
{
    return open_with(path, opt, err, errlen);
}

embedder *embedder_open_lexical(const embedder_options *opt, char *err, size_t errlen)
{
    return open_with(NULL, opt, err, errlen);
}

static void cancel_all(embed_list *l)
{
    for (embed_req *r = l->first; r != NULL; r = r->next) {
        embed_cancel(r);
    }
}

void embedder_close(embedder *e)
{
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    cancel_all(&e->reading);
    cancel_all(&e->waiting);
    cancel_all(&e->running);
    pthread_mutex_unlock(&e->lock);
    end_threads(e, e->n_replicas);
    embedder_free(e);
}

void embedder_get_info(const embedder *e, embedder_info *info)
{
    bool lexical = e->tok == NULL;

    *info = (embedder_info){
        .name = lexical ? "" : e->name,
        .architecture = lexical ? LEXICAL_NAME : e->model.model.architecture,
        .dimensions = e->dimensions,
        .n_ctx = e->max_tokens,
        .n_params = e->model.model.n_params,
        .file_bytes = lexical ? 0 : gguf_size(e->file),
    };
}

uint32_t embedder_replicas(embedder *e)
{
    pthread_mutex_lock(&e->lock);
    uint32_t n = e->n_alive;
    pthread_mutex_unlock(&e->lock);
    return n;
}
