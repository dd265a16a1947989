/*
 * What the parts of a loaded model share.
 *
 * A request passes through three places: waiting (in the queue, bounded, which all replicas
 * share), running (a replica has context memory for it; its prompt is being read, or it
 * decodes) and over. Only replicas' threads move requests; others leave wishes (cancelled,
 * paused) under the lock and wake them. The lock is held for list work only, never while
 * computing or calling back.
 *
 * Who waits is let in by the replica that has the fewest requests, of those that have room for
 * it; of equals, by the one that has read most of its beginning, for a chat's next turn is
 * where its last one was. More than equals is not asked of a prefix: what is read again once
 * costs less than a replica that others wait for. A replica that is not the one leaves the
 * request alone, and wakes the one if it sleeps.
 *
 *   infer.c       opening, closing, what others wish of a request
 *   submit.c      what is asked for becomes a request; on its caller's thread
 *   scheduler.c   a replica's thread: who runs, and how much of it
 *   placing.c     the device where a replica is, and the next one
 *   generation.c  from logits to tokens, events and the end
 *   kv.c          pages of keys and values
 *   draft.c       guesses of what comes next
 */
#ifndef INFER_IMPL_H
#define INFER_IMPL_H

#include <pthread.h>

#include "infer/answer.h"
#include "infer/chat.h"
#include "infer/devices.h"
#include "infer/gguf.h"
#include "infer/infer.h"
#include "infer/kv.h"
#include "infer/model.h"
#include "infer/runner.h"
#include "infer/scores.h"
#include "infer/thoughts.h"
#include "infer/masks.h"
#include "infer/tokenizer.h"
#include "kernels/aiq_kernels.h"

/* Prompt tokens of one step, all requests together: as many as the device is quickest with, and
 * while others decode only this part of them, for so long they wait. */
#define DECODERS_WAIT 4

/* Of the places in a batch and in the queue, and of the prompt tokens in a step, one in so many
 * is never flex's, or is flex's at least. */
#define FLEX_SHARE 4

/*
 * Tokens of a step in which drafts may have a part: beyond, those that decode fill the machine.
 * Up to so many, activations are rounded as for one (aiq_kernels.h, step), so what differs with
 * drafts is the order of sums, and that of packed weights only.
 */
#define DRAFT_WIDTH 6

/* What requests and the replicas' threads share; it outlives the model where requests do. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    unsigned refs; /* the model and each request; under lock */
} hub;

struct infer_req {
    hub *hub;
    infer_req *next; /* in waiting or running */

    /* under the hub's lock */
    unsigned refs; /* the model and the caller */
    bool cancelled;
    bool paused;

    /* the thread's whose list it is in, once submitted */
    infer_cb cb;
    void *arg;
    bool flex;
    bool evicted;       /* its context was taken away in this turn */
    uint32_t n_evicted; /* turns in which it was */
    bool met;           /* it was let in before */
    uint64_t arrival;   /* counts from the first request on */
    int32_t *ids;       /* [n_prompt + max_tokens] the prompt, then the answer as it comes */
    uint32_t n_prompt;  /* with n_said, … */
    uint32_t n_said;    /* … tokens of the answer that were there before */
    uint32_t n_answer;
    uint32_t max_tokens; /* at least 1; n_prompt + max_tokens <= n_ctx */
    uint32_t pos;        /* tokens in kv */
    kv_seq kv;           /* empty while it waits */
    kv_key scope;        /* whose pages it may find */
    uint32_t n_draft;    /* tokens that a draft may have */
    uint32_t n_cached;   /* tokens of the prompt that were found when it was let in */
    sampler sampler;
    sampler_bias *bias; /* [sampler.n_bias] */
    scores scores;
    mask_walk *walk; /* NULL: the answer may be anything */
    bool shows_marks;
    bool is_thought;
    thoughts thoughts;
    answer answer;
    char *stop[INFER_MAX_STOP];
    size_t n_stop;
};

typedef struct {
    infer_req *first;
    infer_req **last;
} req_list;

/* The weights on one device, and the thread that computes there. */
typedef struct {
    infer *m;
    pthread_t thread;

    /* where it computes; its thread, once that runs */
    runner *runner; /* NULL: no device has it */
    kv_pool *pool;  /* of the pages there */

    /* under the hub's lock */
    bool serves;       /* it has a device, and pool may be asked what it knows */
    bool asleep;       /* nobody has woken it */
    bool full[2];      /* it has no room for the next of either queue, as of its last turn */
    infer_stats stats; /* but for what is the queue's */

    /* its thread only */
    req_list running;           /* whoever was in a step goes to the end */
    kern_seq *seqs;             /* [max_running] the batch */
    infer_req **reqs;           /* [max_running] whose they are */
    uint64_t drafted;           /* tokens */
    uint64_t accepted;          /* of these */
    uint64_t *mask;             /* [masks_words] tokens that may come */
    float *raw;                 /* [n_vocab] logits before sampling, for log-probabilities */
    sampler_candidate *scratch; /* [n_vocab] */
    uint32_t *counts;           /* [n_vocab] all 0 */
} infer_replica;

struct infer {
    hub *hub;
    infer_options opt;

    gguf *file;
    char *name;
    tokenizer *tok;
    masks *masks;
    infer_model model;
    chat_template *chat; /* NULL: no_chat says why */
    char no_chat[160];
    tool_format tool_format;
    bool thinks;
    int32_t marks[TOOL_MAX_MARKS]; /* [n_marks] control tokens: marks of calls and thoughts */
    uint32_t n_marks;
    uint32_t n_ctx; /* the model's, or what the first device has memory for; never changes */

    infer_replica *replicas;
    uint32_t n_replicas;
    runner_places places;
    bool opening; /* placed by infer_open, as yet */

    /* under the hub's lock */
    uint32_t n_alive;    /* replicas whose thread has not ended */
    req_list waiting[2]; /* those that are flex in the second; by arrival */
    uint32_t n_waiting;
    uint32_t n_passed; /* let in since one of flex was, while such waited */
    uint64_t arrivals;
    bool closing;
};

/* --- lists --- */

static inline void list_init(req_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static inline void list_append(req_list *l, infer_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

/* Puts r before *at, a link of the list. */
static inline void list_insert(req_list *l, infer_req **at, infer_req *r)
{
    r->next = *at;
    *at = r;
    if (r->next == NULL) {
        l->last = &r->next;
    }
}

/* Takes *at, a link of the list, out of it. */
static inline infer_req *list_take(req_list *l, infer_req **at)
{
    infer_req *r = *at;

    *at = r->next;
    if (r->next == NULL) {
        l->last = at;
    }
    return r;
}

/* All of from, to the end of l. */
static inline void list_move(req_list *l, req_list *from)
{
    while (from->first != NULL) {
        list_append(l, list_take(from, &from->first));
    }
}

/* --- infer.c --- */

void infer_drop_walk(infer_req *r);
void infer_req_free(infer_req *r); /* one that was never submitted */
void infer_req_drop(infer_req *r);

/* --- scheduler.c --- */

void *infer_main(void *replica);

/* Into the queue, where its arrival puts it. Under the hub's lock. */
void infer_wait(infer *m, infer_req *r);

/* --- placing.c --- */

/* The replicas that are asked for, as far as there are devices for them: one at least. False:
 * there is none, err says why. */
bool infer_place_all(infer *m, char *err, size_t errlen);

/* Takes a replica from where it is. It has no contexts there any more. failure: the device's;
 * NULL: none. */
void infer_leave(infer_replica *p, const char *failure);

/* The device has failed at a step of p->reqs, [n]; its requests wait for the next, or for other
 * replicas. False: there are such, and this one has ended. Its own thread. */
bool infer_move(infer_replica *p, uint32_t n);

/* No device had the model when it was wanted last: all are asked again, and if it is in vain,
 * so has everybody waited. The same. */
void infer_settle_again(infer_replica *p);

/* --- generation.c; the replica's thread --- */

/* Must the next token be one of the language? Thoughts in front of the answer are none of it.
 */
bool infer_is_held(const infer_req *r);

/* The token that follows, from its logits. False: the request is over and must not be touched.
 */
bool infer_take_token(infer_replica *p, infer_req *r, float *logits);

/* Tells its end and lets go of it. */
void infer_fail(infer_replica *p, infer_req *r, const char *error);

void infer_drop_context(infer_replica *p, infer_req *r);

#endif
