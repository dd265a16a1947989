#include "infer/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/kv.h"

/* Weights may come from a disk, or a network's, while they are loaded: so slow it may be
 * before that is the device's fault. */
#define LOAD_BYTES_PER_MS 16384

/* All that is touched by calls into the device, and by nobody else while one is under way. */
typedef struct {
    const aiq_kernels *kern;
    uint32_t index;
    uint32_t n_threads;
    kern_device *dev;
    kern_model *km;
    gguf *file;
    infer_model model;
    runner_shape shape;

    /* of a call */
    bool ok;
    char error[256];
    uint32_t n;
    kern_pooling pooling;
    const kern_seq *seqs;   /* [n] */
    const kern_text *texts; /* [n] */
    float *out;             /* [max_rows][row] */

    /* copies of what the caller lends; NULL: it waits as long as the call runs */
    kern_seq *own_seqs;   /* [max_parts] */
    kern_text *own_texts; /* [max_parts] */
    int32_t *ids;         /* [max_batch] */
    uint32_t *pages;      /* [max_parts][kv_pages_for(n_ctx)] */
} machine;

struct runner {
    const runner_places *places;
    const device *place;
    devices_user user;
    machine *m;
    watched *thread; /* NULL: the CPU needs none */
    uint32_t limit_ms;
    bool lost; /* the device, so m must not be touched */
    char error[256];
};

/* --- calls, on the runner's thread --- */

static void take_error(machine *m)
{
    snprintf(m->error, sizeof(m->error), "%s", m->kern->last_error(m->dev));
}

static void call_open(void *own)
{
    machine *m = own;

    m->dev = m->kern->open(m->index, m->n_threads);
    m->ok = m->dev != NULL;
    if (!m->ok) {
        take_error(m);
    }
}

static void call_load(void *own)
{
    machine *m = own;
    const runner_shape *s = &m->shape;

    m->km = m->kern->model_load(m->dev, &m->model.config, &m->model.weights, s->max_batch,
                                s->max_parts, s->n_pages);
    m->out = m->km != NULL ? m->kern->out_alloc(m->dev, (uint64_t)s->max_rows * s->row) : NULL;
    m->ok = m->out != NULL;
    if (!m->ok) {
        take_error(m);
    }
}

static void call_step(void *own)
{
    machine *m = own;

    m->ok = m->kern->step(m->km, m->seqs, m->n, m->out);
    if (!m->ok) {
        take_error(m);
    }
}

static void call_encode(void *own)
{
    machine *m = own;

    m->ok = m->kern->encode(m->km, m->texts, m->n, m->pooling, m->out);
    if (!m->ok) {
        take_error(m);
    }
}

static void end_machine(void *own)
{
    machine *m = own;

    if (m->out != NULL) {
        m->kern->out_free(m->dev, m->out);
    }
    if (m->km != NULL) {
        m->kern->model_free(m->km);
    }
    if (m->dev != NULL) {
        m->kern->close(m->dev);
    }
    infer_model_free(&m->model);
    if (m->file != NULL) {
        gguf_close(m->file);
    }
    free(m->own_seqs);
    free(m->own_texts);
    free(m->ids);
    free(m->pages);
    free(m);
}

/* --- the caller's side --- */

static bool fail(runner *r, const char *why)
{
    snprintf(r->error, sizeof(r->error), "%s", why);
    return false;
}

static bool call(runner *r, void (*what)(void *own), uint32_t limit_ms)
{
    if (r->thread == NULL) {
        what(r->m);
    } else if (
        devices_is_lost(r->places->list, r->place) /* another of its models has found out */ ||
        !watched_call(r->thread, what, limit_ms, r->places->wanted, r->places->arg)) {
        r->lost = true;
        return fail(r, DEVICES_SILENT);
    }
    return r->m->ok || fail(r, r->m->error);
}

static machine *machine_new(const device *place, uint32_t n_threads)
{
    machine *m = calloc(1, sizeof(*m));

    if (m != NULL) {
        m->kern = place->kern;
        m->index = place->index;
        m->n_threads = n_threads;
    }
    return m;
}

/* False: memory, or threads, end. */
static bool make_machine(runner *r)
{
    r->m = machine_new(r->place, r->places->n_threads);
    if (r->m != NULL && r->limit_ms > 0) {
        r->thread = watched_new(r->m, end_machine);
    }
    if (r->m == NULL || (r->limit_ms > 0 && r->thread == NULL)) {
        free(r->m);
        r->m = NULL;
        return fail(r, "out of memory");
    }
    return true;
}

/* A device that is taken becomes a runner with a replica. NULL: it is given back. */
static runner *open_place(const runner_places *places, const device *place,
                          const devices_user *user, runner_fill fill, void *replica, char *err,
                          size_t errlen)
{
    runner *r = calloc(1, sizeof(*r));
    const char *why;

    if (r == NULL) {
        snprintf(err, errlen, "out of memory");
        devices_fail(places->list, place, user, err);
        devices_give(places->list, place, user);
        return NULL;
    }
    *r = (runner){
        .places = places, .place = place, .user = *user, .limit_ms = place->kern->limit_ms};
    why = make_machine(r) && call(r, call_open, r->limit_ms) ? fill(replica, r) : r->error;
    if (why == NULL) {
        return r;
    }
    snprintf(err, errlen, "%s", why);
    runner_close(r, err);
    return NULL;
}

runner *runner_settle(runner_places *places, uint32_t number, uint64_t bytes, bool or_cpu,
                      runner_fill fill, void *replica, char *err, size_t errlen)
{
    const devices_user user = {.model = places->model, .replica = number};
    const device *place;

    while (places->wanted(places->arg)) {
        place = devices_take(places->list, &user, bytes, or_cpu, &places->tried);
        if (place == NULL) {
            return NULL;
        }
        runner *r = open_place(places, place, &user, fill, replica, err, errlen);
        if (r != NULL) {
            return r;
        }
    }
    snprintf(err, errlen, "loading was ended");
    return NULL;
}

uint64_t runner_page_bytes(const runner *r, const kern_config *config)
{
    return r->m->kern->page_bytes(r->m->dev, config);
}

uint32_t runner_batch_tokens(const runner *r)
{
    return r->place->kern->batch_tokens;
}

/* For copies. */
static bool allocate(machine *m)
{
    const runner_shape *s = &m->shape;
    size_t pages = s->n_pages > 0 ? kv_pages_for(m->model.config.n_ctx) : 0;

    m->own_seqs = calloc(s->max_parts, sizeof(*m->own_seqs));
    m->own_texts = calloc(s->max_parts, sizeof(*m->own_texts));
    m->ids = malloc(s->max_batch * sizeof(*m->ids));
    m->pages = malloc((s->max_parts * pages + 1) * sizeof(*m->pages));
    return m->own_seqs != NULL && m->own_texts != NULL && m->ids != NULL && m->pages != NULL;
}

static uint32_t load_limit(const runner *r, const gguf *file)
{
    uint64_t ms = r->limit_ms + gguf_size(file) / LOAD_BYTES_PER_MS;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

bool runner_load(runner *r, const infer_model *model, gguf *file, const runner_shape *shape)
{
    machine *m = r->m;

    m->shape = *shape;
    m->file = gguf_share(file);
    if (!infer_model_copy(&m->model, model) || (r->thread != NULL && !allocate(m))) {
        return fail(r, "out of memory");
    }
    return call(r, call_load, load_limit(r, file));
}

static void copy_seqs(machine *m, const kern_seq *seqs, uint32_t n)
{
    int32_t *ids = m->ids;
    uint32_t *pages = m->pages;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_pages = kv_pages_for(seqs[i].pos + seqs[i].n);

        m->own_seqs[i] = seqs[i];
        m->own_seqs[i].ids = memcpy(ids, seqs[i].ids, seqs[i].n * sizeof(*ids));
        m->own_seqs[i].pages = memcpy(pages, seqs[i].pages, n_pages * sizeof(*pages));
        ids += seqs[i].n;
        pages += n_pages;
    }
    m->seqs = m->own_seqs;
}

float *runner_step(runner *r, const kern_seq *seqs, uint32_t n)
{
    r->m->n = n;
    if (r->thread == NULL) {
        r->m->seqs = seqs;
    } else {
        copy_seqs(r->m, seqs, n);
    }
    return call(r, call_step, r->limit_ms) ? r->m->out : NULL;
}

static void copy_texts(machine *m, const kern_text *texts, uint32_t n)
{
    int32_t *ids = m->ids;

    for (uint32_t i = 0; i < n; i++) {
        m->own_texts[i] = texts[i];
        m->own_texts[i].ids = memcpy(ids, texts[i].ids, texts[i].n * sizeof(*ids));
        ids += texts[i].n;
    }
    m->texts = m->own_texts;
}

float *runner_encode(runner *r, const kern_text *texts, uint32_t n, kern_pooling pooling)
{
    r->m->n = n;
    r->m->pooling = pooling;
    if (r->thread == NULL) {
        r->m->texts = texts;
    } else {
        copy_texts(r->m, texts, n);
    }
    return call(r, call_encode, r->limit_ms) ? r->m->out : NULL;
}

const char *runner_error(const runner *r)
{
    return r->error;
}

void runner_close(runner *r, const char *failure)
{
    if (r->lost) {
        devices_lose(r->places->list, r->place, &r->user);
    } else if (failure != NULL) {
        devices_fail(r->places->list, r->place, &r->user, failure);
    }
    if (r->thread != NULL) {
        bool ended = watched_free(r->thread, r->lost ? 0 : r->limit_ms, r->places->wanted,
                                  r->places->arg);

        if (!ended && !r->lost) {
            devices_lose(r->places->list, r->place, &r->user);
        }
    } else if (r->m != NULL) {
        end_machine(r->m);
    }
    devices_give(r->places->list, r->place, &r->user);
    free(r);
}
