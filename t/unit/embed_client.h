/* A tiny encoder as a file, and requests for vectors that are waited for. */
#ifndef T_EMBED_CLIENT_H
#define T_EMBED_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer/embedder.h"
#include "tiny_encoder.h"

enum { MEAN = 1, CLS = 2, LAST = 3, D = TINY_ENCODER_WIDTH };

static inline char *make_file(const tiny_encoder *te)
{
    gw w = {0};

    tiny_encoder_write(&w, te);
    return gw_file(&w);
}

static inline embedder *open_file(char *path, const embedder_options *opt)
{
    char err[256] = "";
    embedder *e = embedder_open(path, opt, err, sizeof(err));

    if (e == NULL) {
        fail_msg("%s", err);
    }
    assert_true(embedder_takes(path));
    unlink(path);
    free(path);
    return e;
}

/* --- one request, waited for --- */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int events;
    int order; /* of the last, among those of all */
    embed_rc rc;
    char error[160];
    uint32_t input;
    uint64_t n_tokens;
    uint32_t n;
    float *vectors;
    embed_req *req;
} result;

static atomic_int n_events;

static inline void on_event(void *arg, const embed_event *ev)
{
    result *r = arg;
    size_t bytes = (size_t)r->n * ev->dimensions * sizeof(float);

    pthread_mutex_lock(&r->lock);
    r->events++;
    r->order = atomic_fetch_add(&n_events, 1);
    r->rc = ev->rc;
    r->input = ev->input;
    r->n_tokens = ev->n_tokens;
    snprintf(r->error, sizeof(r->error), "%s", ev->error);
    if (ev->rc == EMBED_OK) {
        r->vectors = malloc(bytes);
        memcpy(r->vectors, ev->vectors, bytes);
    }
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static inline void begin(embedder *e, result *r, const embed_input *inputs, uint32_t n)
{
    char err[160];

    *r = (result){.n = n};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    assert_int_equal(embedder_submit(e, inputs, n, on_event, r, &r->req, err, sizeof(err)),
                     EMBED_OK);
}

static inline void await(result *r)
{
    pthread_mutex_lock(&r->lock);
    while (r->events == 0) {
        pthread_cond_wait(&r->cond, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

static inline void end(result *r)
{
    await(r);
    assert_int_equal(r->events, 1);
    embed_release(r->req);
    free(r->vectors);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
}

static inline embed_input text(const char *s)
{
    return (embed_input){.text = s, .len = strlen(s)};
}

#endif
