/*
 * What the parts of an embedder share.
 *
 * A request passes through four places: reading (its inputs become tokens, on the reader's
 * thread), waiting and running (it has memory for its vectors; replicas take its texts) and
 * over (the reader gives its event). A request is in one list, or in threads' hands; it is in
 * running while it has texts that no replica has taken. Others leave a wish, `cancelled`, which
 * both kinds of threads look at in its turn: while a request is in a list they do not sleep.
 *
 *   embedder.c     requests, the reader, opening and closing
 *   embed_run.c    replicas: batches, and the device of each
 *   embed_model.c  the file
 */
#ifndef INFER_EMBEDDER_IMPL_H
#define INFER_EMBEDDER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "infer/devices.h"
#include "infer/embed_model.h"
#include "infer/embedder.h"
#include "infer/runner.h"
#include "infer/tokenizer.h"

/* Of a batch, which has as many tokens as its device is quickest with, or one text. */
#define EMBED_BATCH_TEXTS 256

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
    float *vectors;   /* [n][dimensions] */

    /* under the embedder's lock, where it runs */
    uint32_t n_started; /* texts that a replica has taken, … */
    uint32_t n_done;    /* … and has given back as vectors */
    bool given_up;      /* no more are taken */

    embed_rc rc;
    uint32_t input; /* that rc is about */
    uint64_t n_tokens;
    char error[160];
};

typedef struct {
    embed_req *first;
    embed_req **last;
} embed_list;

/* The weights on one device, and the thread that computes there. */
typedef struct embed_replica embed_replica;

struct embed_replica {
    embedder *e;
    pthread_t thread;
    runner *runner; /* NULL: no device has it */

    /* its batch; once it has ended what it leaves to others, with next under the lock */
    uint32_t n;
    kern_text batch[EMBED_BATCH_TEXTS];
    embed_req *whose[EMBED_BATCH_TEXTS];
    uint32_t which[EMBED_BATCH_TEXTS]; /* of its texts */
    embed_replica *next;
};

struct embedder {
    pthread_t reader;
    embedder_options opt;
    uint32_t dimensions;
    uint32_t max_tokens; /* of an input */

    /* NULL, all of them: it is the lexical one */
    gguf *file;
    char *name;
    tokenizer *tok;
    embed_model model;
    embed_replica *replicas;
    uint32_t n_replicas;
    runner_places places;
    bool opening; /* placed by embedder_open, as yet */

    pthread_mutex_t lock;
    pthread_cond_t to_read; /* reading or over has something */
    pthread_cond_t to_run;  /* waiting, running or left has something, or it is closing */
    embed_list reading;
    embed_list waiting;
    embed_list running;
    embed_list over;
    embed_replica *left; /* that have ended, and left a batch */
    uint32_t n_under_way;
    uint32_t n_running; /* those in running, and those of which texts are in a batch */
    uint32_t n_alive;   /* replicas that have not ended */
    bool closing;
    bool model_ended; /* so nothing comes from there any more */
};

/* --- lists --- */

static inline void embed_list_init(embed_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static inline void embed_append(embed_list *l, embed_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static inline embed_req *embed_take(embed_list *l)
{
    embed_req *r = l->first;

    l->first = r->next;
    if (r->next == NULL) {
        l->last = &l->first;
    }
    return r;
}

/* --- embedder.c --- */

/* Where it fails its first reason stays. Returns false. Under the lock, where it runs. */
bool embed_fail(embed_req *r, embed_rc rc, uint32_t input, const char *error);

/* Whether nothing more is to be done for it. The same. */
bool embed_is_over(embed_req *r);

/* --- embed_run.c --- */

/* The replicas that are asked for, as far as there are devices for them: one at least. Blocks.
 * False: there is none, err says why. */
bool embed_place_all(embedder *e, char *err, size_t errlen);
void embed_leave_all(embedder *e);

/* A replica's thread. */
void *embed_main(void *replica);

#endif
