/*
 * A loaded tiny model of noise, and clients of it that keep what they are told.
 */
#ifndef T_INFER_CLIENT_H
#define T_INFER_CLIENT_H

#include <pthread.h>

#include "infer/infer.h"
#include "infer/unicode.h"
#include "tiny_model.h"

static char err[256];

/* What a request said so far. One lock serves them all. */
typedef struct {
    infer_req *req;
    infer_event last;
    size_t len;
    uint32_t n_texts;
    uint32_t pause_after; /* pauses itself at this many texts; 0: never */
    bool held;            /* its first event holds the model's thread until it is let go */
    int n_last;
    uint32_t rank;          /* among those that ended */
    uint32_t all_when_over; /* texts of all requests when this one ended */
    int32_t ids[TINY_CTX];
    char error[128];
    char text[4096];
} client;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static uint32_t all_texts;
static uint32_t all_over;

static inline void check_utf8(const char *p, size_t n)
{
    assert_true(n > 0);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int step = utf8_next(p + i, n - i, &cp);

        assert_true(step > 0);
        i += (size_t)step;
    }
}

static inline void on_event(void *arg, const infer_event *ev)
{
    client *c = arg;

    pthread_mutex_lock(&lock);
    if (ev->type == INFER_TEXT) {
        check_utf8(ev->text, ev->len);
        assert_true(c->len + ev->len < sizeof(c->text));
        memcpy(c->text + c->len, ev->text, ev->len);
        c->len += ev->len;
        c->n_texts++;
        all_texts++;
        if (c->n_texts == c->pause_after) {
            infer_pause(c->req);
        }
    } else {
        c->n_last++;
        c->rank = all_over++;
        c->last = *ev;
        c->all_when_over = all_texts;
        if (ev->type == INFER_DONE) {
            memcpy(c->ids, ev->ids, ev->completion_tokens * sizeof(*ev->ids));
        } else {
            snprintf(c->error, sizeof(c->error), "%s", ev->error);
        }
    }
    pthread_cond_broadcast(&news);
    while (c->held) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static inline void let_go(client *c)
{
    pthread_mutex_lock(&lock);
    c->held = false;
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&lock);
}

static inline infer *open_model(tiny_model tm, infer_options opt)
{
    gw w = {0};
    char *path;
    infer *m;

    tm.tensor_type = GGUF_TENSOR_F32;
    tm.seed = 3;
    tiny_write(&w, tm);
    path = gw_file(&w);
    opt.n_threads = 2;
    m = infer_open(path, &opt, err, sizeof(err));
    unlink(path);
    free(path);
    if (m == NULL) {
        fail_msg("%s", err);
    }
    return m;
}

static inline infer *open_tiny(infer_options opt)
{
    return open_model((tiny_model){0}, opt);
}

static const int32_t prompt[] = {72, 101, 108, 108, 111};

static inline infer_params params(uint32_t max_tokens)
{
    return (infer_params){.ids = prompt, .n_ids = 5, .max_tokens = max_tokens};
}

static inline void submit(infer *m, client *c, infer_params p)
{
    infer_rc rc;

    pthread_mutex_lock(&lock); /* so that c->req is there before the first event */
    rc = infer_submit(m, &p, on_event, c, &c->req, err, sizeof(err));
    pthread_mutex_unlock(&lock);
    if (rc != INFER_OK) {
        fail_msg("%s", err);
    }
}

static inline void wait_last(client *c)
{
    pthread_mutex_lock(&lock);
    while (c->n_last == 0) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
    infer_release(c->req);
}

static inline void wait_texts(client *c, uint32_t n)
{
    pthread_mutex_lock(&lock);
    while (c->n_texts < n && c->n_last == 0) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
}

#endif
