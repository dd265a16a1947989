/*
 * How many texts a second become vectors: TEXTS texts of WORDS words by the model, twice, of
 * which the second counts.
 *
 *     embed MODEL THREADS TEXTS WORDS
 *
 * Words are "w5" to "w30004", those of t/bench/model. Prints {"texts_per_second": N}.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "infer/embedder.h"

enum { REQUEST = 32, MAX_WORD = 8 };

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t left;
    embed_rc rc;
} progress;

static void on_event(void *arg, const embed_event *ev)
{
    progress *p = arg;

    pthread_mutex_lock(&p->lock);
    p->rc = ev->rc != EMBED_OK ? ev->rc : p->rc;
    p->left--;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char *make_text(size_t i, size_t words)
{
    char *text = malloc(words * MAX_WORD + 1), *p = text;

    for (size_t w = 0; w < words; w++) {
        p += sprintf(p, "w%zu ", 5 + (i * 131 + w) * 7919 % 30000);
    }
    return text;
}

/* All texts, in requests of REQUEST. False: one failed. */
static bool run(embedder *e, const embed_input *inputs, size_t n)
{
    size_t requests = (n + REQUEST - 1) / REQUEST;
    progress p = {
        .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER, .left = requests};
    embed_req **reqs = calloc(requests, sizeof(embed_req *));
    char err[160];

    for (size_t i = 0; i < requests; i++) {
        size_t from = i * REQUEST, some = n - from < REQUEST ? n - from : REQUEST;

        if (embedder_submit(e, inputs + from, (uint32_t)some, on_event, &p, &reqs[i], err,
                            sizeof(err)) != EMBED_OK) {
            fprintf(stderr, "%s\n", err);
            exit(1);
        }
    }
    pthread_mutex_lock(&p.lock);
    while (p.left > 0) {
        pthread_cond_wait(&p.cond, &p.lock);
    }
    pthread_mutex_unlock(&p.lock);
    for (size_t i = 0; i < requests; i++) {
        embed_release(reqs[i]);
    }
    free(reqs);
    return p.rc == EMBED_OK;
}

int main(int argc, char **argv)
{
    size_t n = argc == 5 ? strtoul(argv[3], NULL, 10) : 0;
    size_t words = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;
    embedder_options opt = {.max_waiting = (uint32_t)n};
    embed_input *inputs = calloc(n + 1, sizeof(*inputs));
    double seconds = 0;
    char err[256];
    embedder *e;

    if (n == 0 || words == 0) {
        fprintf(stderr, "usage: embed MODEL THREADS TEXTS WORDS\n");
        return 2;
    }
    opt.n_threads = (uint32_t)strtoul(argv[2], NULL, 10);
    e = embedder_open(argv[1], &opt, err, sizeof(err));
    if (e == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], err);
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        inputs[i].text = make_text(i, words);
        inputs[i].len = strlen(inputs[i].text);
    }
    for (int i = 0; i < 2; i++) {
        double start = now();

        if (!run(e, inputs, n)) {
            fprintf(stderr, "a request failed\n");
            return 1;
        }
        seconds = now() - start;
    }
    printf("{\"texts_per_second\":%.2f}\n", (double)n / seconds);
    embedder_close(e);
    for (size_t i = 0; i < n; i++) {
        free((char *)inputs[i].text);
    }
    free(inputs);
    return 0;
}
