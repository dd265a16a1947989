/*
 * The queue and its two threads.
 *
 * A request passes through four places: reading (its inputs become tokens, on the reader's
 * thread), waiting and running (it has memory for its vectors; the model's thread takes its
 * texts) and over (the reader gives its event). A request is in one list, or in a thread's
 * hands, so only who has it looks at it; others leave a wish, `cancelled`, which both threads
 * look at in its turn: while a request is in a list they do not sleep.
 */
#include "infer/embedder.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/embed_model.h"
#include "infer/lexical.h"
#include "infer/tokenizer.h"

#define DEFAULT_WAITING 256
#define MAX_RUNNING     16
#define MAX_THREADS     256

/* Tokens of a batch, but for a text that is longer alone: more are no faster. */
#define BATCH_TOKENS 256
#define BATCH_TEXTS  256

struct embed_req {
    embed_req *next;
    atomic_uint refs; /* the embedder and the caller */
    atomic_bool cancelled;

    embed_cb cb;
    void *arg;
    embed_input *inputs; /* [n], into copy */
    char *copy;
    uint32_t n;
    uint32_t n_read;
    kern_text *texts; /* [n] those that were read; their ids are ours */
    uint32_t n_started;
    uint32_t n_done;
    float *vectors; /* [n][dimensions] */

    embed_rc rc;
    uint32_t input; /* that rc is about */
    uint64_t n_tokens;
    char error[160];
};

typedef struct {
    embed_req *first;
    embed_req **last;
} req_list;

struct embedder {
    pthread_t reader;
    pthread_t thread; /* the model's */
    embedder_options opt;
    uint32_t dimensions;
    uint32_t max_tokens; /* of an input */

    /* NULL, all of them: it is the lexical one */
    gguf *file;
    char *name;
    tokenizer *tok;
    embed_model model;
    kern_device *dev;
    kern_model *km;

    pthread_mutex_t lock;
    pthread_cond_t to_read; /* reading or over has something */
    pthread_cond_t to_run;  /* waiting has something */
    req_list reading;
    req_list waiting;
    req_list over;
    uint32_t n_under_way;
    bool closing;
    bool model_ended; /* so nothing comes from there any more */

    /* the model's thread only */
    req_list running;
    uint32_t n_running;
    kern_text batch[BATCH_TEXTS];
    embed_req *whose[BATCH_TEXTS];
    uint32_t which[BATCH_TEXTS]; /* of its texts */
    float *out;                  /* [BATCH_TEXTS][dimensions] */
};

static const aiq_kernels *const kernels = &aiq_kernels_cpu;

/* --- lists --- */

static void list_init(req_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_append(req_list *l, embed_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static embed_req *list_take(req_list *l)
{
    embed_req *r = l->first;

    l->first = r->next;
    if (r->next == NULL) {
        l->last = &l->first;
    }
    return r;
}

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
static bool req_fail(embed_req *r, embed_rc rc, uint32_t input, const char *error)
{
    if (r->rc == EMBED_OK) {
        r->rc = rc;
        r->input = input;
        snprintf(r->error, sizeof(r->error), "%s", error);
    }
    return false;
}

/* Whether nothing more is to be done for it. */
static bool is_over(embed_req *r)
{
    if (atomic_load(&r->cancelled)) {
        req_fail(r, EMBED_CANCELLED, 0, "cancelled");
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

/* The vector so far, divided by its length. What is not a number fails. */
static bool normalize(float *v, uint32_t n)
{
    double square = 0;

    for (uint32_t i = 0; i < n; i++) {
        square += (double)v[i] * (double)v[i];
    }
    for (uint32_t i = 0; i < n && square > 0; i++) {
        v[i] = (float)((double)v[i] / sqrt(square));
    }
    return isfinite(square);
}

/* --- the reader --- */

static bool out_of_memory(embed_req *r)
{
    return req_fail(r, EMBED_NOMEM, 0, "out of memory");
}

static bool push_ids(const embedder *e, embed_req *r, const embed_input *in, tokenizer_ids *out)
{
    for (size_t i = 0; i < in->n_ids; i++) {
        if (in->ids[i] < 0 || (uint32_t)in->ids[i] >= tokenizer_n_vocab(e->tok)) {
            return req_fail(r, EMBED_INVALID, r->n_read, "the model has no token of this id");
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
        return req_fail(r, EMBED_INVALID, r->n_read, "it has no tokens");
    }
    if (!ok && ids.n == ids.limit) {
        char why[64];

        snprintf(why, sizeof(why), "it has more than %u tokens", e->max_tokens);
        return req_fail(r, EMBED_TOO_LONG, r->n_read, why);
    }
    return ok || out_of_memory(r);
}

/* Input n_read as its vector. */
static bool read_words(const embedder *e, embed_req *r)
{
    const embed_input *in = &r->inputs[r->n_read];
    uint32_t n_words;

    if (in->text == NULL) {
        return req_fail(r, EMBED_INVALID, r->n_read, "this model takes texts, not tokens");
    }
    if (in->len > LEXICAL_MAX_TEXT) {
        return req_fail(r, EMBED_TOO_LONG, r->n_read, "it has more than 65536 bytes");
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

    if (is_over(r)) {
        return;
    }
    if (in->text != NULL ? in->len == 0 : in->n_ids == 0) {
        req_fail(r, EMBED_INVALID, r->n_read, "it is empty");
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
    embed_req *r = list_take(&e->reading);

    pthread_mutex_unlock(&e->lock);
    read_one(e, r);
    pthread_mutex_lock(&e->lock);
    if (e->closing && !is_answered(e, r)) {
        req_fail(r, EMBED_CANCELLED, 0, "cancelled");
    }
    if (is_answered(e, r)) {
        list_append(&e->over, r);
    } else if (r->n_read < r->n) {
        list_append(&e->reading, r);
    } else {
        list_append(&e->waiting, r);
        pthread_cond_signal(&e->to_run);
    }
}

static void *reader_main(void *arg)
{
    embedder *e = arg;

    pthread_mutex_lock(&e->lock);
    for (;;) {
        if (e->over.first != NULL) {
            embed_req *r = list_take(&e->over);

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

/* --- the model's thread --- */

/* The lock is held, here and in the rest up to plan_batch. */
static void end_request(embedder *e, embed_req *r)
{
    list_append(&e->over, r);
    pthread_cond_signal(&e->to_read);
}

static void admit(embedder *e)
{
    while (e->waiting.first != NULL && e->n_running < MAX_RUNNING) {
        embed_req *r = list_take(&e->waiting);

        r->vectors = malloc((size_t)r->n * e->dimensions * sizeof(float));
        if (r->vectors == NULL) {
            out_of_memory(r);
            end_request(e, r);
        } else {
            list_append(&e->running, r);
            e->n_running++;
        }
    }
}

/* One text of each running request in turn, as many as fit. Returns how many. */
static uint32_t plan_batch(embedder *e)
{
    uint32_t n = 0, tokens = 0;

    admit(e);
    while (e->running.first != NULL && n < BATCH_TEXTS) {
        embed_req *r = e->running.first;
        const kern_text *text = &r->texts[r->n_started];

        if (n > 0 && text->n > BATCH_TOKENS - tokens) {
            break;
        }
        list_take(&e->running);
        if (r->n_started == r->n_done && is_over(r)) {
            end_request(e, r);
            e->n_running--;
            continue;
        }
        e->batch[n] = *text;
        e->whose[n] = r;
        e->which[n++] = r->n_started++;
        tokens += text->n;
        if (r->n_started < r->n) {
            list_append(&e->running, r);
        }
        if (tokens >= BATCH_TOKENS) {
            break;
        }
    }
    return n;
}

static void run_batch(embedder *e, uint32_t n)
{
    size_t d = e->dimensions;
    bool ok = kernels->encode(e->km, e->batch, n, e->model.pooling, e->out);

    for (uint32_t i = 0; i < n; i++) {
        embed_req *r = e->whose[i];
        float *v = e->out + i * d;

        if (!ok) {
            req_fail(r, EMBED_FAILED, 0, kernels->last_error(e->dev));
        } else if (!normalize(v, e->dimensions)) {
            req_fail(r, EMBED_FAILED, 0, "the model computed something that is not a number");
        }
        memcpy(r->vectors + e->which[i] * d, v, d * sizeof(*v));
    }
    pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < n; i++) {
        embed_req *r = e->whose[i];

        if (++r->n_done == r->n) {
            end_request(e, r);
            e->n_running--;
        }
    }
    pthread_mutex_unlock(&e->lock);
}

static void *model_main(void *arg)
{
    embedder *e = arg;
    uint32_t n;

    for (;;) {
        pthread_mutex_lock(&e->lock);
        while ((n = plan_batch(e)) == 0 && !e->closing) {
            if (e->waiting.first == NULL) {
                pthread_cond_wait(&e->to_run, &e->lock);
            }
        }
        pthread_mutex_unlock(&e->lock);
        if (n == 0) {
            return NULL;
        }
        run_batch(e, n);
    }
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
        list_append(&e->reading, r);
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
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->to_read, NULL);
    pthread_cond_init(&e->to_run, NULL);
    list_init(&e->reading);
    list_init(&e->waiting);
    list_init(&e->running);
    list_init(&e->over);
    return e;
}

static void embedder_free(embedder *e)
{
    if (e->km != NULL) {
        kernels->model_free(e->km);
    }
    if (e->dev != NULL) {
        kernels->close(e->dev);
    }
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
    free(e->out);
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
    const kern_config *c = &e->model.model.config;
    uint32_t most = c->n_ctx < EMBED_MAX_TOKENS ? c->n_ctx : EMBED_MAX_TOKENS;

    e->dimensions = c->d_model;
    e->max_tokens = most;
    e->out = malloc((size_t)BATCH_TEXTS * e->dimensions * sizeof(float));
    if (e->out == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    e->dev = kernels->open(0, e->opt.n_threads);
    if (e->dev != NULL) {
        e->km = kernels->model_load(e->dev, c, &e->model.model.weights,
                                    most > BATCH_TOKENS ? most : BATCH_TOKENS, 0);
    }
    if (e->km == NULL) {
        snprintf(err, errlen, "%s", kernels->last_error(e->dev));
    }
    return e->km != NULL;
}

/* False: there is no thread. */
static bool start(embedder *e, char *err, size_t errlen)
{
    int rc = pthread_create(&e->reader, NULL, reader_main, e);
    bool reads = rc == 0;

    e->model_ended = e->km == NULL;
    if (reads && e->km != NULL) {
        rc = pthread_create(&e->thread, NULL, model_main, e);
    }
    if (rc == 0) {
        return true;
    }
    snprintf(err, errlen, "no thread for the model: %s", strerror(rc));
    if (reads) {
        pthread_mutex_lock(&e->lock);
        e->closing = e->model_ended = true;
        pthread_cond_signal(&e->to_read);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->reader, NULL);
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

static void cancel_all(req_list *l)
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
    pthread_cond_signal(&e->to_run);
    pthread_mutex_unlock(&e->lock);
    if (e->km != NULL) {
        pthread_join(e->thread, NULL);
    }
    pthread_mutex_lock(&e->lock);
    e->model_ended = true;
    pthread_cond_signal(&e->to_read);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->reader, NULL);
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
