#include "infer/masks.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "infer/token_mask.h"

#define QUEUE 128 /* masks that are to be made ahead; more are not */
#define ONLY  64  /* bytes of a text that must come; more are not looked at */

struct mask_language {
    atomic_uint refs;
    mask_language *next; /* the least recently used last; under the lock of masks */
    aiq_str key;         /* "": is not kept */

    pthread_mutex_t lock;
    matcher *matcher;
    mask_walk *walks;
    size_t n_walks, n_masks;
    uint32_t epoch; /* changes with all places */

    matcher *twin; /* of the thread that makes masks ahead; NULL at first */
};

struct mask_walk {
    masks *masks;
    mask_language *language;
    mask_walk *next, **link;
    int32_t at;
};

/* A mask to be made, with a reference. */
typedef struct {
    mask_language *language;
    uint32_t epoch;
    int32_t at;
} job;

struct masks {
    const tokenizer *tokenizer;
    token_order *order;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    mask_language *languages; /* each with a reference */
    job queue[QUEUE];
    uint32_t first, n;
    bool closing;
};

/* --- languages --- */

static mask_language *language_new(aiq_str key, grammar *g)
{
    mask_language *l = aiq_zalloc(sizeof(*l));
    char *copy = aiq_alloc(key.len + 1);

    memcpy(copy, key.data, key.len);
    l->key = (aiq_str){copy, key.len};
    atomic_init(&l->refs, 1);
    pthread_mutex_init(&l->lock, NULL);
    l->matcher = matcher_new(g);
    return l;
}

mask_language *mask_language_ref(mask_language *l)
{
    atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    return l;
}

void mask_language_drop(mask_language *l)
{
    /* release: what this thread did with it comes before; acquire: the last sees all of that */
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1) {
        if (l->twin != NULL) {
            matcher_free(l->twin);
        }
        matcher_free(l->matcher);
        pthread_mutex_destroy(&l->lock);
        free((char *)l->key.data);
        free(l);
    }
}

/* With the lock held. */
static void trim(mask_language *l)
{
    int32_t **places;
    size_t n = 0;

    if (!matcher_is_large(l->matcher) && l->n_masks < MASKS_KEPT) {
        return;
    }
    places = aiq_alloc((l->n_walks + 1) * sizeof(*places));
    for (mask_walk *w = l->walks; w != NULL; w = w->next) {
        if (w->at != MATCHER_DEAD) {
            places[n++] = &w->at;
        }
    }
    matcher_trim(l->matcher, places, n);
    free(places);
    l->n_masks = 0;
    l->epoch++;
}

/* --- a model's languages --- */

/* The link to the language, or to the end of the list. */
static mask_language **find_link(masks *s, aiq_str key)
{
    mask_language **at = &s->languages;

    while (*at != NULL && !aiq_str_eq((*at)->key, key)) {
        at = &(*at)->next;
    }
    return at;
}

static void to_front(masks *s, mask_language **at)
{
    mask_language *l = *at;

    *at = l->next;
    l->next = s->languages;
    s->languages = l;
}

/* The least recently used that nobody uses, where there are too many of those. */
static mask_language *take_idle(masks *s)
{
    mask_language **idle = NULL, *l = NULL;
    size_t n = 0;

    for (mask_language **at = &s->languages; *at != NULL; at = &(*at)->next) {
        if (atomic_load(&(*at)->refs) == 1) {
            idle = at;
            n++;
        }
    }
    if (n > MASKS_IDLE) {
        l = *idle;
        *idle = l->next;
    }
    return l;
}

mask_language *masks_find(masks *s, aiq_str key)
{
    mask_language **at, *l = NULL;

    pthread_mutex_lock(&s->lock);
    at = find_link(s, key);
    if (*at != NULL) {
        l = mask_language_ref(*at);
        to_front(s, at);
    }
    pthread_mutex_unlock(&s->lock);
    return l;
}

mask_language *masks_add(masks *s, aiq_str key, grammar *g)
{
    mask_language *l = language_new(key, g), *idle = NULL;

    if (key.len > MASKS_KEY) {
        return l;
    }
    pthread_mutex_lock(&s->lock);
    if (*find_link(s, key) == NULL) { /* otherwise somebody was faster: this one is not kept */
        l->next = s->languages;
        s->languages = mask_language_ref(l);
        idle = take_idle(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (idle != NULL) {
        mask_language_drop(idle);
    }
    return l;
}

/* --- masks ahead --- */

static bool is_made(const mask_language *l, int32_t at)
{
    return *matcher_slot(l->matcher, at) != NULL;
}

/* The mask of a place, unless it is there. With the language's lock held. */
static void make_ahead(masks *s, mask_language *l, int32_t at)
{
    if (at == MATCHER_DEAD || is_made(l, at)) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (s->n < QUEUE) {
        s->queue[(s->first + s->n++) % QUEUE] = (job){mask_language_ref(l), l->epoch, at};
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

/* The job's place in the twin; MATCHER_DEAD: the mask is there, or the place is gone. */
static int32_t begin_job(const job *j)
{
    mask_language *l = j->language;
    int32_t at = MATCHER_DEAD;

    if (l->twin == NULL) {
        l->twin = matcher_twin(l->matcher);
    } else if (matcher_is_large(l->twin)) {
        matcher_trim(l->twin, NULL, 0);
    }
    pthread_mutex_lock(&l->lock);
    if (l->epoch == j->epoch && !is_made(l, j->at)) {
        at = matcher_import(l->twin, l->matcher, j->at);
    }
    pthread_mutex_unlock(&l->lock);
    return at;
}

static void run(masks *s, const job *j)
{
    mask_language *l = j->language;
    int32_t at = begin_job(j);

    if (at != MATCHER_DEAD) {
        token_mask(s->order, l->twin, at);
        pthread_mutex_lock(&l->lock);
        if (l->epoch == j->epoch && !is_made(l, j->at)) {
            void **from = matcher_slot(l->twin, at);

            *matcher_slot(l->matcher, j->at) = *from;
            *from = NULL;
            l->n_masks++;
        }
        pthread_mutex_unlock(&l->lock);
    }
    mask_language_drop(l);
}

static void *masks_main(void *arg)
{
    const struct sched_param normal = {0};
    masks *s = arg;

    /* whoever wakes it goes on: there are no idle cores where models compute on all of them */
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &normal);

    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->n == 0 && !s->closing) {
            pthread_cond_wait(&s->wake, &s->lock);
        }
        if (s->closing) {
            break;
        }
        job j = s->queue[s->first];
        s->first = (s->first + 1) % QUEUE;
        s->n--;
        pthread_mutex_unlock(&s->lock);
        run(s, &j);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

masks *masks_new(const tokenizer *t)
{
    masks *s = aiq_zalloc(sizeof(*s));
    sigset_t all, before;
    int rc;

    s->tokenizer = t;
    s->order = token_order_new(t);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    sigfillset(&all); /* signals are for the process's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&s->thread, NULL, masks_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        token_order_free(s->order);
        free(s);
        return NULL;
    }
    return s;
}

void masks_free(masks *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    for (; s->n > 0; s->n--) {
        mask_language_drop(s->queue[s->first].language);
        s->first = (s->first + 1) % QUEUE;
    }
    while (s->languages != NULL) {
        mask_language *l = s->languages;

        s->languages = l->next;
        mask_language_drop(l);
    }
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    token_order_free(s->order);
    free(s);
}

size_t masks_words(const masks *s)
{
    return token_mask_words(s->order);
}

/* --- walks --- */

mask_walk *mask_walk_new(masks *s, mask_language *l)
{
    mask_walk *w = aiq_zalloc(sizeof(*w));

    *w = (mask_walk){.masks = s, .language = mask_language_ref(l), .at = MATCHER_START};
    pthread_mutex_lock(&l->lock);
    w->next = l->walks;
    w->link = &l->walks;
    if (w->next != NULL) {
        w->next->link = &w->next;
    }
    l->walks = w;
    l->n_walks++;
    make_ahead(s, l, w->at);
    pthread_mutex_unlock(&l->lock);
    return w;
}

void mask_walk_free(mask_walk *w)
{
    mask_language *l = w->language;

    pthread_mutex_lock(&l->lock);
    *w->link = w->next;
    if (w->next != NULL) {
        w->next->link = w->link;
    }
    l->n_walks--;
    pthread_mutex_unlock(&l->lock);
    mask_language_drop(l);
    free(w);
}

bool mask_walk_text(mask_walk *w, const char *text, size_t len)
{
    mask_language *l = w->language;

    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < len && w->at != MATCHER_DEAD; i++) {
        w->at = matcher_next(l->matcher, w->at, (uint8_t)text[i]);
        trim(l);
    }
    make_ahead(w->masks, l, w->at);
    pthread_mutex_unlock(&l->lock);
    return w->at != MATCHER_DEAD;
}

void mask_walk_mask(mask_walk *w, uint64_t *out)
{
    mask_language *l = w->language;
    size_t size = masks_words(w->masks) * sizeof(*out);

    if (w->at == MATCHER_DEAD) {
        memset(out, 0, size);
        return;
    }
    pthread_mutex_lock(&l->lock);
    l->n_masks += !is_made(l, w->at);
    memcpy(out, token_mask(w->masks->order, l->matcher, w->at), size);
    pthread_mutex_unlock(&l->lock);
}

void mask_walk_token(mask_walk *w, int32_t id)
{
    mask_language *l = w->language;

    pthread_mutex_lock(&l->lock);
    w->at = token_follow(w->masks->tokenizer, l->matcher, w->at, id);
    trim(l);
    make_ahead(w->masks, l, w->at);
    pthread_mutex_unlock(&l->lock);
}

uint32_t mask_walk_only(mask_walk *w, int32_t *out, uint32_t most)
{
    mask_language *l = w->language;
    char text[ONLY];
    size_t len = 0, took;
    uint32_t n = 0;
    int byte;

    pthread_mutex_lock(&l->lock);
    for (int32_t at = w->at; len < ONLY && at != MATCHER_DEAD; len++) {
        byte = matcher_only(l->matcher, at);
        if (byte < 0 || byte == GRAMMAR_TOKEN) {
            break;
        }
        text[len] = (char)byte;
        at = matcher_next(l->matcher, at, (uint8_t)byte);
    }
    trim(l);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < len && n < most; i += took, n++) {
        out[n] = token_longest(w->masks->order, text + i, len - i, &took);
        if (out[n] < 0) {
            break;
        }
    }
    return n;
}

uint32_t mask_walk_follow(mask_walk *w, const int32_t *ids, uint32_t n)
{
    mask_language *l = w->language;
    int32_t at;
    uint32_t good = 0;

    pthread_mutex_lock(&l->lock);
    at = w->at;
    while (good < n && at != MATCHER_DEAD) {
        at = token_follow(w->masks->tokenizer, l->matcher, at, ids[good]);
        make_ahead(w->masks, l, at);
        good += at != MATCHER_DEAD;
    }
    trim(l);
    pthread_mutex_unlock(&l->lock);
    return good;
}

bool mask_walk_is_ready(mask_walk *w)
{
    mask_language *l = w->language;
    bool ready;

    pthread_mutex_lock(&l->lock);
    ready = w->at == MATCHER_DEAD || is_made(l, w->at);
    pthread_mutex_unlock(&l->lock);
    return ready;
}

bool mask_walk_finished(mask_walk *w)
{
    mask_language *l = w->language;
    bool finished;

    pthread_mutex_lock(&l->lock);
    finished = w->at != MATCHER_DEAD && matcher_finished(l->matcher, w->at);
    pthread_mutex_unlock(&l->lock);
    return finished;
}
