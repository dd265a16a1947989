/*
 * Replicas: each takes batches from what runs, and computes them on its device.
 *
 * A replica whose device fails goes on on one that has no other replica. Where there is none it
 * ends and leaves its batch to the others, for a device that works is faster than the CPU;
 * only the last one goes there. So nothing is lost, nothing is computed into an answer twice,
 * and vectors lie where their text was in the request, whoever makes them.
 */
#include "infer/embedder_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RUNNING 16

/* --- where --- */

/* Devices that cannot encode. */
static uint32_t unfit(const embedder *e)
{
    uint32_t set = 0;

    for (uint32_t i = 0; e->opt.devices != NULL && i < devices_count(e->opt.devices); i++) {
        if (devices_at(e->opt.devices, i)->kern->encode == NULL) {
            set |= (uint32_t)1 << i;
        }
    }
    return set;
}

/* Whether what a device does is still wanted; while the model is opened, its owner says so. */
static bool is_wanted(void *arg)
{
    embedder *e = arg;

    if (e->opening && e->opt.progress != NULL) {
        return e->opt.progress(e->opt.progress_arg, 100);
    }
    pthread_mutex_lock(&e->lock);
    bool closing = e->closing;
    pthread_mutex_unlock(&e->lock);
    return !closing;
}

/* failure: the device's, NULL: none. */
static void leave(embed_replica *p, const char *failure)
{
    if (p->runner != NULL) {
        runner_close(p->runner, failure);
        p->runner = NULL;
    }
}

static const char *fill(void *replica, runner *r)
{
    const embedder *e = ((embed_replica *)replica)->e;
    uint32_t tokens = runner_batch_tokens(r);
    const runner_shape shape = {
        .max_batch = e->max_tokens > tokens ? e->max_tokens : tokens,
        .max_parts = EMBED_BATCH_TEXTS,
        .max_rows = EMBED_BATCH_TEXTS,
        .row = e->dimensions,
    };

    return runner_load(r, &e->model.model, e->file, &shape) ? NULL : runner_error(r);
}

static bool settle(embed_replica *p, bool or_cpu, char *err, size_t errlen)
{
    embedder *e = p->e;
    uint32_t number = (uint32_t)(p - e->replicas) + 1;

    p->runner =
        runner_settle(&e->places, number, gguf_size(e->file), or_cpu, fill, p, err, errlen);
    return p->runner != NULL;
}

bool embed_place_all(embedder *e, char *err, size_t errlen)
{
    uint32_t want = e->opt.replicas;

    e->replicas = calloc(want, sizeof(*e->replicas));
    if (e->replicas == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    e->places = (runner_places){.list = e->opt.devices,
                                .tried = unfit(e),
                                .model = e->opt.label,
                                .n_threads = e->opt.n_threads,
                                .wanted = is_wanted,
                                .arg = e};
    e->opening = true;
    while (e->n_replicas < want) {
        embed_replica *p = &e->replicas[e->n_replicas];

        p->e = e;
        if (!settle(p, e->n_replicas == 0, err, errlen)) {
            break;
        }
        e->n_replicas++;
    }
    e->opening = false;
    e->n_alive = e->n_replicas;
    return e->n_replicas > 0;
}

void embed_leave_all(embedder *e)
{
    for (uint32_t i = 0; i < e->n_replicas; i++) {
        leave(&e->replicas[i], NULL);
    }
    free(e->replicas);
}

/* --- what; under the lock --- */

static void end_request(embedder *e, embed_req *r)
{
    embed_append(&e->over, r);
    pthread_cond_signal(&e->to_read);
}

/* Once no replica has a text of it, and none will. */
static void end_if_done(embedder *e, embed_req *r)
{
    if (r->n_done == r->n_started && (r->given_up || r->n_started == r->n)) {
        e->n_running--;
        end_request(e, r);
    }
}

static void admit(embedder *e)
{
    while (e->waiting.first != NULL && e->n_running < MAX_RUNNING) {
        embed_req *r = embed_take(&e->waiting);

        r->vectors = malloc((size_t)r->n * e->dimensions * sizeof(float));
        if (r->vectors == NULL) {
            embed_fail(r, EMBED_NOMEM, 0, "out of memory");
            end_request(e, r);
        } else {
            embed_append(&e->running, r);
            e->n_running++;
        }
    }
}

/* The first that runs, without those that are over; NULL: none. */
static embed_req *first_running(embedder *e)
{
    for (;;) {
        admit(e);
        if (e->running.first == NULL || !embed_is_over(e->running.first)) {
            return e->running.first;
        }
        embed_req *r = embed_take(&e->running);

        r->given_up = true;
        end_if_done(e, r);
    }
}

/* Of a batch; one that has no device yet may get any. */
static uint32_t most_tokens(const embed_replica *p)
{
    return p->runner != NULL ? runner_batch_tokens(p->runner) : aiq_kernels_cpu.batch_tokens;
}

/* One text of each running request in turn, as many as fit. */
static void plan_batch(embed_replica *p)
{
    embedder *e = p->e;
    uint32_t tokens = 0, most = most_tokens(p);
    embed_req *r;

    p->n = 0;
    while (p->n < EMBED_BATCH_TEXTS && tokens < most && (r = first_running(e)) != NULL) {
        const kern_text *text = &r->texts[r->n_started];

        if (p->n > 0 && text->n > most - tokens) {
            break;
        }
        embed_take(&e->running);
        p->batch[p->n] = *text;
        p->whose[p->n] = r;
        p->which[p->n++] = r->n_started++;
        tokens += text->n;
        if (r->n_started < r->n) {
            embed_append(&e->running, r);
        }
    }
}

/* What another has left. */
static void take_left(embed_replica *p)
{
    const embed_replica *from = p->e->left;

    p->e->left = from->next;
    p->n = from->n;
    memcpy(p->batch, from->batch, sizeof(p->batch));
    memcpy(p->whose, from->whose, sizeof(p->whose));
    memcpy(p->which, from->which, sizeof(p->which));
}

/* Waits until there is a batch. False: it is closing, and there is none. */
static bool next_batch(embed_replica *p)
{
    embedder *e = p->e;

    pthread_mutex_lock(&e->lock);
    for (;;) {
        if (e->left != NULL) {
            take_left(p);
        } else {
            plan_batch(p);
        }
        if (p->n > 0 || e->closing) {
            break;
        }
        pthread_cond_wait(&e->to_run, &e->lock);
    }
    if (e->running.first != NULL || e->left != NULL) {
        pthread_cond_signal(&e->to_run); /* for the next replica */
    }
    pthread_mutex_unlock(&e->lock);
    return p->n > 0;
}

/* --- a batch --- */

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

/* The last n of the batch are done; out: their vectors, NULL: they have failed, and why. */
static void give_back(embed_replica *p, uint32_t n, float *out, const char *why)
{
    embedder *e = p->e;
    size_t d = e->dimensions;
    bool sound[EMBED_BATCH_TEXTS];

    p->n -= n;
    embed_req **whose = p->whose + p->n;
    const uint32_t *which = p->which + p->n;
    for (uint32_t i = 0; i < n && out != NULL; i++) {
        sound[i] = normalize(out + i * d, e->dimensions);
        memcpy(whose[i]->vectors + which[i] * d, out + i * d, d * sizeof(float));
    }
    pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < n; i++) {
        embed_req *r = whose[i];

        if (out == NULL) {
            embed_fail(r, EMBED_FAILED, 0, why);
        } else if (!sound[i]) {
            embed_fail(r, EMBED_FAILED, 0, "the model computed something that is not a number");
        }
        r->n_done++;
        end_if_done(e, r);
    }
    if (e->waiting.first != NULL) {
        pthread_cond_signal(&e->to_run); /* there may be room for it now */
    }
    pthread_mutex_unlock(&e->lock);
}

/* Its device has failed, and there is no other: whether other replicas take its batch. */
static bool end_for_others(embed_replica *p)
{
    embedder *e = p->e;
    bool others;

    pthread_mutex_lock(&e->lock);
    others = e->n_alive > 1 && !e->closing;
    if (others) {
        e->n_alive--;
        p->next = e->left;
        e->left = p;
        pthread_cond_signal(&e->to_run);
    }
    pthread_mutex_unlock(&e->lock);
    return others;
}

/* No device had the model when it was wanted last, and the other replicas have ended: all are
 * asked again. */
static bool settle_again(embed_replica *p, char *err, size_t errlen)
{
    p->e->places.tried = unfit(p->e);
    return settle(p, true, err, errlen);
}

/* How many of the batch's last texts go into one call: all, unless they were gathered for a
 * device that takes more at once. */
static uint32_t count_last(const embed_replica *p)
{
    uint32_t n = 1, tokens = p->batch[p->n - 1].n, most = most_tokens(p);

    while (n < p->n && tokens + p->batch[p->n - n - 1].n <= most) {
        n++;
        tokens += p->batch[p->n - n].n;
    }
    return n;
}

/* False: the replica has ended. */
static bool run_batch(embed_replica *p)
{
    char why[160] = "";
    bool placed = p->runner != NULL || settle_again(p, why, sizeof(why));

    while (placed && p->n > 0) {
        uint32_t n = count_last(p);
        float *out = runner_encode(p->runner, p->batch + p->n - n, n, p->e->model.pooling);

        if (out != NULL) {
            give_back(p, n, out, NULL);
            continue;
        }
        snprintf(why, sizeof(why), "%s", runner_error(p->runner));
        leave(p, why);
        placed = settle(p, false, why, sizeof(why));
        if (!placed && end_for_others(p)) {
            return false;
        }
        placed = placed || settle(p, true, why, sizeof(why));
    }
    if (p->n > 0) {
        give_back(p, p->n, NULL, why);
    }
    return true;
}

void *embed_main(void *arg)
{
    embed_replica *p = arg;

    while (next_batch(p) && run_batch(p)) {
    }
    return NULL;
}
