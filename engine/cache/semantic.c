#include "cache/semantic.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cache/cache.h"
#include "cache/semantic_entry.h"
#include "core/id.h"
#include "core/log.h"
#include "engine.h"
#include "infer/lexical.h"
#include "vectors/vectors_file.h"

#define TICK_MS     1000  /* between looks for another engine's file */
#define SAVE_MS     60000 /* between writings */
#define THREADS_MAX 4     /* that search */

struct semantic_question {
    unsigned refs;
    uint8_t partition[VECTORS_KEY];
    uint8_t tenant[SEMANTIC_TENANT];
    gate_mode mode;
    float *vector; /* [dims] of a model; NULL: there is none yet */
    uint32_t dims;
    aiq_buf words;
    size_t len;
    char text[];
};

typedef enum { ASK, JUDGE, PUT } call_kind;

struct semantic_call {
    semantic_call *next;
    call_kind kind;
    semantic_question *question;     /* of ASK and PUT */
    lru_entry *answer;               /* of PUT */
    uint8_t tenant[SEMANTIC_TENANT]; /* of JUDGE */
    uint64_t id;                     /* the same */
    bool right;                      /* the same */
    double threshold;
    uint64_t max_age_ms; /* of PUT: how old it may become */
    semantic_hit hit;
    aiq_loop *loop;
    semantic_told told; /* of the loop alone; NULL: who asked has gone */
    void *arg;
};

struct semantic {
    aiq_engine *engine;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    semantic_call *first, **last; /* under the lock; so the next two */
    unsigned n;
    bool ends;

    /* of the thread */
    vectors *index;
    size_t size;
    char path[PATH_MAX];
    struct stat known; /* the file that was read or written last */
    bool changed, left;
    uint64_t saved_ms;
    metric *refused[GATE_VERDICTS], *judged[2], *entries, *bytes, *evictions;
};

static uint64_t now_ms(void)
{
    return loop_now_ns() / 1000000;
}

static void digest_tenant(aiq_str tenant, uint8_t out[SEMANTIC_TENANT])
{
    EVP_Digest(tenant.data, tenant.len, out, NULL, EVP_sha256(), NULL);
}

/* Ids. */

void semantic_write_id(char out[SEMANTIC_ID_SIZE], uint64_t id)
{
    snprintf(out, SEMANTIC_ID_SIZE, "ent_%016" PRIx64, id);
}

bool semantic_read_id(aiq_str text, uint64_t *id)
{
    aiq_str digits;

    if (!aiq_str_after(text, "ent_", &digits) || digits.len != 16) {
        return false;
    }
    *id = 0;
    for (size_t i = 0; i < digits.len; i++) {
        const char *at = memchr("0123456789abcdef", digits.data[i], 16);
        if (at == NULL) {
            return false;
        }
        *id = *id << 4 | (uint64_t)(at - "0123456789abcdef");
    }
    return true;
}

/* Questions. */

semantic_question *semantic_question_new(const uint8_t partition[VECTORS_KEY], aiq_str tenant,
                                         aiq_str text, gate_mode mode)
{
    aiq_buf words = {0};

    if (text.len > GATE_TEXT_MAX || !gate_make(text, &words)) {
        aiq_buf_free(&words);
        return NULL;
    }
    semantic_question *q = aiq_alloc(sizeof(*q) + text.len);
    *q = (semantic_question){.refs = 1, .mode = mode, .words = words, .len = text.len};
    memcpy(q->partition, partition, VECTORS_KEY);
    memcpy(q->text, text.data, text.len);
    digest_tenant(tenant, q->tenant);
    return q;
}

void semantic_question_made(semantic_question *q, const float *vector, uint32_t dims)
{
    if (q->vector == NULL && dims > 0 && dims <= VECTORS_DIMS) {
        q->vector = aiq_alloc(dims * sizeof(*q->vector));
        memcpy(q->vector, vector, dims * sizeof(*q->vector));
        q->dims = dims;
    }
}

bool semantic_question_ready(const semantic_question *q)
{
    return q->mode == GATE_STRICT || q->vector != NULL;
}

aiq_str semantic_question_text(const semantic_question *q)
{
    return (aiq_str){q->text, q->len};
}

semantic_question *semantic_question_ref(semantic_question *q)
{
    __atomic_add_fetch(&q->refs, 1, __ATOMIC_RELAXED);
    return q;
}

void semantic_question_unref(semantic_question *q)
{
    /* acq_rel: who frees it comes after all who have read it */
    if (__atomic_sub_fetch(&q->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        aiq_buf_free(&q->words);
        free(q->vector);
        free(q);
    }
}

/* Calls, on the side of the loops. */

static void free_call(semantic_call *call)
{
    if (call->question) {
        semantic_question_unref(call->question);
    }
    if (call->answer) {
        lru_entry_unref(call->answer);
    }
    if (call->hit.answer) {
        lru_entry_unref(call->hit.answer);
    }
    free(call);
}

/* Answers to be kept may be large: fewer of them wait. */
static bool give(semantic *s, semantic_call *call)
{
    unsigned most = call->kind == PUT ? SEMANTIC_PUTS : SEMANTIC_QUEUE;

    pthread_mutex_lock(&s->lock);
    bool room = s->n < most;
    if (room) {
        *s->last = call;
        s->last = &call->next;
        s->n++;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (!room) {
        free_call(call);
    }
    return room;
}

semantic_call *semantic_ask(semantic *s, aiq_loop *loop, semantic_question *q, double threshold,
                            uint64_t max_age_ms, semantic_told told, void *arg)
{
    semantic_call *call = aiq_alloc(sizeof(*call));

    *call = (semantic_call){.kind = ASK,
                            .question = semantic_question_ref(q),
                            .threshold = threshold,
                            .max_age_ms = max_age_ms,
                            .loop = loop,
                            .told = told,
                            .arg = arg};
    return give(s, call) ? call : NULL;
}

semantic_call *semantic_judge(semantic *s, aiq_loop *loop, aiq_str tenant, uint64_t id,
                              bool right, semantic_told told, void *arg)
{
    semantic_call *call = aiq_alloc(sizeof(*call));

    *call = (semantic_call){
        .kind = JUDGE, .id = id, .right = right, .loop = loop, .told = told, .arg = arg};
    digest_tenant(tenant, call->tenant);
    return give(s, call) ? call : NULL;
}

void semantic_put(semantic *s, semantic_question *q, lru_entry *answer, uint64_t ttl_ms)
{
    semantic_call *call = aiq_alloc(sizeof(*call));

    *call = (semantic_call){.kind = PUT,
                            .question = semantic_question_ref(q),
                            .answer = lru_entry_ref(answer),
                            .max_age_ms = ttl_ms};
    give(s, call);
}

void semantic_cancel(semantic_call *call)
{
    call->told = NULL;
}

static void on_done(aiq_loop *loop, void *arg)
{
    semantic_call *call = arg;

    (void)loop;
    if (call->told) {
        semantic_hit hit = call->hit;
        call->hit.answer = NULL; /* the callee's */
        call->told(call->arg, &hit);
    }
    free_call(call);
}

/* The index, on the thread. */

static void show_size(const semantic *s)
{
    vectors_stats stats = vectors_look(s->index);

    metric_set(s->entries, (int64_t)stats.vectors);
    metric_set(s->bytes, (int64_t)stats.bytes);
    metric_set(s->evictions, (int64_t)stats.evictions);
}

/* What a question looks like for the index. */
typedef struct {
    const float *numbers; /* [dims] */
    uint32_t dims;        /* 0: it cannot be told */
    float lexical[LEXICAL_DIM];
} look_of;

static void make_look(look_of *l, const semantic_question *q)
{
    l->numbers = q->vector ? q->vector : l->lexical;
    l->dims = q->dims;
    if (q->vector == NULL && lexical_embed(q->text, q->len, l->lexical, NULL)) {
        l->dims = LEXICAL_DIM;
    }
}

static uint32_t near(semantic *s, const semantic_question *q, const look_of *l,
                     vectors_hit *hits, uint32_t n)
{
    return vectors_search(s->index, q->partition, l->numbers, l->dims, now_ms(), hits, n);
}

static bool is_answer(semantic *s, const semantic_call *call, const vectors_item *item)
{
    const aiq_buf *words = &call->question->words;
    semantic_entry e;

    if (now_ms() - item->stored_ms >= call->max_age_ms ||
        !semantic_entry_read(item->data, &e)) {
        return false;
    }
    gate_verdict verdict =
        gate_compare((aiq_str){(char *)words->data, words->len}, e.words, call->question->mode);
    if (verdict != GATE_SAME) {
        metric_add(s->refused[verdict], 1);
    }
    return verdict == GATE_SAME;
}

static void look(semantic *s, semantic_call *call)
{
    vectors_hit hits[SEMANTIC_NEAR];
    semantic_entry e;
    look_of l;

    make_look(&l, call->question);
    uint32_t n = near(s, call->question, &l, hits, SEMANTIC_NEAR);
    for (uint32_t i = 0; i < n && (double)hits[i].score >= call->threshold; i++) {
        const vectors_item *item = &hits[i].item;
        if (is_answer(s, call, item) && semantic_entry_read(item->data, &e)) {
            uint64_t age_ms = now_ms() - item->stored_ms;
            call->hit.answer = cache_answer_new(item->partition, e.answer.data, e.answer.len,
                                                age_ms, item->expires_ms - item->stored_ms);
            call->hit.similarity = (double)hits[i].score < 1 ? (double)hits[i].score : 1;
            call->hit.id = item->id;
            vectors_use(s->index, item->id);
            return;
        }
    }
}

/* The same question in the same place: its answer is replaced. */
static uint64_t id_of(semantic *s, const semantic_question *q, const look_of *l)
{
    vectors_hit hit;
    semantic_entry e;
    uint64_t id = 0;

    if (near(s, q, l, &hit, 1) == 1 && semantic_entry_read(hit.item.data, &e) &&
        aiq_str_eq(e.words, (aiq_str){(char *)q->words.data, q->words.len})) {
        return hit.item.id;
    }
    while (id == 0) {
        if (getrandom(&id, sizeof(id), 0) != sizeof(id)) {
            id = loop_now_ns();
        }
    }
    return id;
}

static void keep(semantic *s, const semantic_call *call)
{
    const semantic_question *q = call->question;
    const semantic_entry e = {.tenant = q->tenant,
                              .words = {(char *)q->words.data, q->words.len},
                              .answer = {(char *)call->answer->data, call->answer->len}};
    uint16_t row[VECTORS_DIMS];
    aiq_buf data = {0};
    look_of l;

    make_look(&l, q);
    vectors_item item = {.id = id_of(s, q, &l), .dims = l.dims, .row = row};
    vectors_round(row, l.numbers, l.dims);
    memcpy(item.partition, q->partition, VECTORS_KEY);
    semantic_entry_write(&data, &e);
    item.data = (aiq_str){(char *)data.data, data.len};
    item.stored_ms = call->answer->stored_ms;
    item.expires_ms = item.stored_ms + call->max_age_ms;
    vectors_add(s->index, &item); /* where it fits */
    aiq_buf_free(&data);
    s->changed = true;
}

static void judge(semantic *s, semantic_call *call)
{
    vectors_item item;
    semantic_entry e;

    if (!vectors_get(s->index, call->id, &item) || !semantic_entry_read(item.data, &e) ||
        memcmp(e.tenant, call->tenant, SEMANTIC_TENANT) != 0) {
        return;
    }
    call->hit.id = call->id;
    metric_add(s->judged[call->right], 1);
    if (!call->right) {
        vectors_remove(s->index, call->id);
        s->changed = true;
        s->saved_ms = 0; /* a file that still has it goes with the next tick */
    }
}

/* Files. */

static vectors_clock both_clocks(void)
{
    return (vectors_clock){now_ms(), (uint64_t)aiq_now_ms()};
}

static void log_failure(const aiq_err *err)
{
    aiq_log(AIQ_LOG_WARN, "cache", err->message, AIQ_S("detail", err->detail));
}

static void read_file(semantic *s)
{
    struct stat st;
    aiq_err err;

    if (stat(s->path, &st) != 0 ||
        (st.st_ino == s->known.st_ino && st.st_mtim.tv_sec == s->known.st_mtim.tv_sec &&
         st.st_mtim.tv_nsec == s->known.st_mtim.tv_nsec)) {
        return;
    }
    s->known = st;
    if (!vectors_load(s->index, both_clocks(), s->path, 2 * s->size, &err)) {
        log_failure(&err);
    }
    show_size(s);
}

static void write_file(semantic *s)
{
    aiq_err err;

    s->saved_ms = now_ms();
    if (!s->changed) {
        return;
    }
    s->changed = false;
    if (!vectors_save(s->index, both_clocks(), s->path, &err)) {
        log_failure(&err);
    } else if (stat(s->path, &s->known) != 0) {
        s->known = (struct stat){0};
    }
}

/* One that leaves writes what it has for the next, which is there already. */
static void tick(semantic *s)
{
    if (engine_leaves(s->engine)) {
        if (!s->left) {
            write_file(s);
        }
        s->left = true;
        return;
    }
    read_file(s);
    if (now_ms() - s->saved_ms >= SAVE_MS) {
        write_file(s);
    }
}

/* The thread. */

/* NULL: a tick is due, or the end. */
static semantic_call *take(semantic *s, uint64_t until_ms)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};

    pthread_mutex_lock(&s->lock);
    while (s->first == NULL && !s->ends &&
           pthread_cond_timedwait(&s->wake, &s->lock, &until) != ETIMEDOUT) {
    }
    semantic_call *call = s->first;
    if (call) {
        s->first = call->next;
        s->last = s->first ? s->last : &s->first;
        s->n--;
    }
    pthread_mutex_unlock(&s->lock);
    return call;
}

static void serve(semantic *s, semantic_call *call)
{
    switch (call->kind) {
    case ASK:
        look(s, call);
        break;
    case JUDGE:
        judge(s, call);
        break;
    case PUT:
        keep(s, call);
        break;
    }
    show_size(s);
    if (call->kind == PUT) {
        free_call(call);
    } else {
        loop_post(call->loop, on_done, call);
    }
}

static bool ends(semantic *s)
{
    pthread_mutex_lock(&s->lock);
    bool e = s->ends && s->first == NULL;
    pthread_mutex_unlock(&s->lock);
    return e;
}

static void *run(void *arg)
{
    semantic *s = arg;
    uint64_t next_ms = now_ms() + TICK_MS;

    read_file(s);
    s->saved_ms = now_ms();
    while (!ends(s)) {
        semantic_call *call = take(s, next_ms);
        if (call) {
            serve(s, call);
        }
        if (now_ms() >= next_ms) {
            tick(s);
            next_ms = now_ms() + TICK_MS;
        }
    }
    if (!s->left) { /* else the next engine may have written its own */
        write_file(s);
    }
    return NULL;
}

/* Life. */

static metric *one(metric_family *family)
{
    return metrics_sample(family, NULL);
}

static void add_metrics(semantic *s, metrics *m)
{
    metric_family *refused = metrics_family(
        m, METRIC_COUNTER, "aiq_semantic_refused_total",
        "Answers to questions that were near, but asked something else.", "difference", NULL);
    metric_family *judged = metrics_family(
        m, METRIC_COUNTER, "aiq_semantic_feedback_total",
        "What clients said of answers from the semantic cache.", "correct", NULL);

    for (int i = GATE_SAME + 1; i < GATE_VERDICTS; i++) {
        s->refused[i] = metrics_sample(refused, (const char *[]){gate_name((gate_verdict)i)});
    }
    s->judged[false] = metrics_sample(judged, (const char *[]){"false"});
    s->judged[true] = metrics_sample(judged, (const char *[]){"true"});
    s->entries =
        one(metrics_family(m, METRIC_GAUGE, "aiq_semantic_entries",
                           "Questions whose answers the semantic cache has.", "", NULL));
    s->bytes =
        one(metrics_family(m, METRIC_GAUGE, "aiq_semantic_bytes", "What they take.", "", NULL));
    s->evictions = one(metrics_family(m, METRIC_COUNTER, "aiq_semantic_evictions_total",
                                      "Questions that made room for others.", "", NULL));
}

static uint32_t threads(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static void free_semantic(semantic *s)
{
    vectors_free(s->index);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

semantic *semantic_start(aiq_engine *engine, size_t size)
{
    semantic *s = size ? aiq_zalloc(sizeof(*s)) : NULL;
    pthread_condattr_t attr;

    if (s == NULL) {
        return NULL;
    }
    s->engine = engine;
    s->size = size;
    s->last = &s->first;
    s->index = vectors_new(size, engine->id, threads());
    snprintf(s->path, sizeof(s->path), "%s.vectors", engine->options.socket);
    add_metrics(s, engine->metrics);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (s->index == NULL || pthread_create(&s->thread, NULL, run, s) != 0) {
        aiq_log(AIQ_LOG_ERROR, "cache", "there is no semantic cache: no thread for it");
        free_semantic(s);
        return NULL;
    }
    return s;
}

void semantic_stop(semantic *s)
{
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->ends = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    free_semantic(s);
}
