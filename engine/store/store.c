/*
 * The store's threads: one writer and a few readers, each with a connection of its
 * own, and two queues in front of them.
 *
 *     BEGIN   tx   tx   tx …   COMMIT   done   done   done …
 *
 * Where one of them fails all is undone and they run again, each in a savepoint. Whatever waits
 * when the writer becomes free goes into its next commit, so the more there is to do, the less
 * a commit costs each; nobody waits for company.
 *
 * A thread whose connection is lost fails what comes, without trying for each, and
 * tries again by itself after a while, longer each time. What it tries is a real
 * transaction: a disk is known to have room once something was written to it.
 */

#include "store/store.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "core/log.h"
#include "engine.h"
#include "store/backend.h"
#include "store/news.h"

#define READERS 2
/* Savepoints in one transaction: PostgreSQL keeps 64 of them in shared memory. */
#define BATCH_MAX 64
/* How often a batch is run that the back end undid. */
#define TRIES  5
#define TRY_MS 10
/* Between looks at a back end that is away; grows from the one to the other. */
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 5000

typedef struct task {
    struct task *next;
    store_kind kind;
    aiq_loop *loop;
    store_tx tx;
    store_done_fn done;
    void *tx_arg, *done_arg;
    uint64_t asked_ns;
    bool ok;
    aiq_err err;
} task;

typedef struct {
    pthread_cond_t filled;
    task *first, **last;
    unsigned n;
    metric *length, *seconds;
} queue;

typedef struct {
    store *store;
    store_kind kind;
    pthread_t thread;
    bool running;
    store_db *db;         /* NULL: not connected */
    unsigned failures;    /* in a row */
    uint64_t retry_at_ns; /* failures > 0: not before */
    uint64_t random;
    char reason[sizeof(
        ((aiq_err *)NULL)->detail)]; /* why it is down, or empty; under the store's lock */
} worker;

struct store {
    const store_backend *backend;
    char *url;
    char name[256]; /* the URL without secrets */
    health_component health;
    metric_family *errors;
    store_news *news; /* NULL: nobody hears them, or there are none */

    pthread_mutex_t lock; /* guards the queues, stopping and the workers' reasons */
    bool stopping;
    queue queues[2];             /* by kind */
    worker workers[1 + READERS]; /* the first is the writer */
};

static const char *const kind_names[] = {[STORE_WRITER] = "write", [STORE_READER] = "read"};

/* Tasks. */

static void count_error(store *s, const aiq_err *err)
{
    const char *const values[] = {err->code};

    metric_add(metrics_sample(s->errors, values), 1);
}

static void deliver(aiq_loop *loop, void *arg)
{
    task *t = arg;

    t->done(loop, t->done_arg, t->ok ? NULL : &t->err);
    free(t);
}

static void finish(store *s, task *t)
{
    metric_observe(s->queues[t->kind].seconds, (double)(loop_now_ns() - t->asked_ns) / 1e9);
    loop_post(t->loop, deliver, t);
}

static void finish_all(store *s, task *batch)
{
    while (batch) {
        task *t = batch;
        batch = t->next;
        finish(s, t);
    }
}

static void fail_all(store *s, task *batch, const aiq_err *err)
{
    for (task *t = batch; t; t = t->next) {
        t->ok = false;
        t->err = *err;
        t->err.retry_after = 1;
        count_error(s, err);
    }
    finish_all(s, batch);
}

static bool submit(store *s, task *t, aiq_err *err)
{
    queue *q = &s->queues[t->kind];

    pthread_mutex_lock(&s->lock);
    bool full = q->n >= STORE_QUEUE, taken = !full && !s->stopping;
    if (taken) {
        *q->last = t;
        q->last = &t->next;
        metric_set(q->length, ++q->n);
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&s->lock);
    if (taken) {
        return true;
    }
    free(t);
    aiq_fail(err, 503, full ? "store_busy" : "store_unavailable",
             full ? "The store has too much to do." : "The store is not available.");
    err->retry_after = 1;
    count_error(s, err);
    return false;
}

static task *task_new(store_kind kind, aiq_loop *loop, store_tx tx, void *tx_arg,
                      store_done_fn done, void *done_arg)
{
    task *t = aiq_alloc(sizeof(*t));

    *t = (task){.kind = kind,
                .loop = loop,
                .tx = tx,
                .tx_arg = tx_arg,
                .done = done,
                .done_arg = done_arg,
                .asked_ns = loop_now_ns()};
    return t;
}

bool store_write(store *s, aiq_loop *loop, store_tx tx, void *tx_arg, store_done_fn done,
                 void *done_arg, aiq_err *err)
{
    return submit(s, task_new(STORE_WRITER, loop, tx, tx_arg, done, done_arg), err);
}

bool store_read(store *s, aiq_loop *loop, store_tx tx, void *tx_arg, store_done_fn done,
                void *done_arg, aiq_err *err)
{
    return submit(s, task_new(STORE_READER, loop, tx, tx_arg, done, done_arg), err);
}

/* Up and down. */

static void set_reason(worker *w, const char *reason)
{
    pthread_mutex_lock(&w->store->lock);
    snprintf(w->reason, sizeof(w->reason), "%s", reason);
    pthread_mutex_unlock(&w->store->lock);
}

/* Between a half and the whole of a delay, so that engines do not come back at once. */
static uint64_t jitter(worker *w, uint64_t ms)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return ms / 2 + w->random % (ms / 2 + 1);
}

static void went_down(worker *w, const aiq_err *err)
{
    uint64_t delay = RETRY_MIN_MS;

    for (unsigned i = 0; i < w->failures && delay < RETRY_MAX_MS; i++) {
        delay *= 2;
    }
    delay = delay < RETRY_MAX_MS ? delay : RETRY_MAX_MS;
    w->retry_at_ns = loop_now_ns() + jitter(w, delay) * 1000000;
    if (w->failures++ == 0) {
        aiq_log(AIQ_LOG_ERROR, "store", "the store is not available",
                AIQ_S("store", w->store->name), AIQ_S("kind", kind_names[w->kind]),
                AIQ_S("detail", err->detail));
    }
    set_reason(w, err->detail[0] ? err->detail : err->message);
}

static void went_up(worker *w)
{
    if (w->failures) {
        w->failures = 0;
        aiq_log(AIQ_LOG_INFO, "store", "the store is available again",
                AIQ_S("store", w->store->name), AIQ_S("kind", kind_names[w->kind]));
        set_reason(w, "");
    }
}

static void disconnect(worker *w)
{
    if (w->db) {
        w->store->backend->disconnect(w->db);
        w->db = NULL;
    }
}

static bool reach(worker *w, aiq_err *err)
{
    if (w->db == NULL) {
        w->db = w->store->backend->connect(w->store->url, w->kind, err);
    }
    return w->db != NULL;
}

/* Transactions. */

static void run_task(store_db *db, task *t)
{
    t->err = (aiq_err){0};
    t->ok = t->tx(db, t->tx_arg, &t->err) && db->fault == FAULT_NONE;
    store_db_close_rows(db);
    t->ok = t->ok && db->fault == FAULT_NONE;
    if (!t->ok && t->err.status == 0) {
        t->err = db->err;
    }
}

/* Without savepoints, which cost a round trip each: nearly always all succeed. False: one
 * did not, and what was done so far is to be undone. */
static bool run_all(store_db *db, task *batch)
{
    for (task *t = batch; t; t = t->next) {
        run_task(db, t);
        if (!t->ok) {
            return false;
        }
    }
    return true;
}

/* Each in its savepoint. False: the whole of it is lost. */
static bool run_each(store_db *db, task *batch)
{
    const store_backend *b = db->backend;

    for (task *t = batch; t; t = t->next) {
        if (!b->script(db, t == batch ? "SAVEPOINT tx" : "RELEASE tx; SAVEPOINT tx")) {
            return false;
        }
        run_task(db, t);
        if (db->fault > FAULT_STATEMENT) {
            return false;
        }
        store_db_undone(db);
        if (!t->ok && !b->script(db, "ROLLBACK TO tx")) {
            return false;
        }
    }
    return true;
}

static bool begin(store_db *db, store_kind kind)
{
    aiq_buf_consume(&db->news, db->news.len);
    return db->backend->begin(db, kind);
}

/* One commit for all of them. False: none is done, db->fault says why. *sent: the commit
 * was asked for, so that nobody knows. */
static bool run_batch(store_db *db, store_kind kind, task *batch, bool *sent)
{
    const store_backend *b = db->backend;

    *sent = false;
    if (!begin(db, kind)) {
        return false;
    }
    if (!run_all(db, batch)) {
        if (db->fault > FAULT_STATEMENT) {
            return false;
        }
        store_db_undone(db);
        if (!b->script(db, "ROLLBACK")) {
            return false;
        }
        if (batch->next == NULL) {
            return true;
        }
        if (!begin(db, kind) || !run_each(db, batch)) {
            return false;
        }
    }
    *sent = kind == STORE_WRITER;
    return b->commit(db);
}

static void committed(worker *w, task *batch)
{
    went_up(w);
    for (task *t = batch; t; t = t->next) {
        if (!t->ok && strncmp(t->err.code, "store_", 6) == 0) {
            count_error(w->store, &t->err);
        }
    }
    finish_all(w->store, batch);
}

static void undo(worker *w, unsigned tries)
{
    struct timespec ts = {.tv_nsec = (long)jitter(w, TRY_MS * tries) * 1000000};

    store_db_undone(w->db);
    w->db->backend->script(w->db, "ROLLBACK");
    nanosleep(&ts, NULL);
}

static void run(worker *w, task *batch)
{
    aiq_err err = {0};
    unsigned tries = 0;
    bool sent = false, second = false;

    while (reach(w, &err)) {
        if (run_batch(w->db, w->kind, batch, &sent)) {
            committed(w, batch);
            return;
        }
        err = w->db->err;
        if (w->db->fault == FAULT_AGAIN && ++tries < TRIES) {
            undo(w, tries);
            continue;
        }
        disconnect(w);
        /* a new connection may do: a server that was restarted has closed the old one */
        if (sent || second) {
            break;
        }
        second = true;
    }
    went_down(w, &err);
    fail_all(w->store, batch, &err);
}

/* What is tried where there is nothing to do but to find out whether it works again. */
static bool probe_tx(store_db *db, void *arg, aiq_err *err)
{
    worker *w = arg;

    return w->kind == STORE_READER ||
           store_exec(db, err,
                      "INSERT INTO meta (name, value) VALUES ('probe', $1) "
                      "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                      "s", w->store->backend->name);
}

static void probe(worker *w)
{
    task t = {.kind = w->kind, .tx = probe_tx, .tx_arg = w};
    aiq_err err = {0};
    bool sent;

    if (reach(w, &err)) {
        if (run_batch(w->db, w->kind, &t, &sent) && t.ok) {
            went_up(w);
            return;
        }
        err = w->db->err;
        disconnect(w);
    }
    went_down(w, &err);
}

/* Threads. */

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t due_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(due_ns / 1000000000),
                          .tv_nsec = (long)(due_ns % 1000000000)};

    pthread_cond_timedwait(cond, lock, &ts);
}

/* A batch, or NULL where there is none and the back end should be tried, or the end. */
static task *take(worker *w, bool *end)
{
    store *s = w->store;
    queue *q = &s->queues[w->kind];

    pthread_mutex_lock(&s->lock);
    while (q->n == 0 && !s->stopping && (w->failures == 0 || loop_now_ns() < w->retry_at_ns)) {
        if (w->failures) {
            wait_until(&q->filled, &s->lock, w->retry_at_ns);
        } else {
            pthread_cond_wait(&q->filled, &s->lock);
        }
    }
    /* readers share a queue: a batch of one each */
    unsigned max = w->kind == STORE_WRITER ? BATCH_MAX : 1, n = 0;
    task *batch = q->first, **end_of_batch = &batch;
    for (; n < max && *end_of_batch; n++) {
        end_of_batch = &(*end_of_batch)->next;
    }
    q->first = *end_of_batch;
    *end_of_batch = NULL;
    if (q->first == NULL) {
        q->last = &q->first;
    }
    q->n -= n;
    metric_set(q->length, q->n);
    *end = s->stopping && n == 0;
    pthread_mutex_unlock(&s->lock);
    return batch;
}

static void *serve(void *arg)
{
    worker *w = arg;
    store *s = w->store;
    bool end = false;

    while (!end) {
        task *batch = take(w, &end);
        if (batch && w->failures && loop_now_ns() < w->retry_at_ns) {
            aiq_err err;
            aiq_fail(&err, 503, "store_unavailable", "The store is not available.");
            aiq_err_detail(&err, "%s", w->reason);
            fail_all(s, batch, &err);
        } else if (batch) {
            run(w, batch);
        } else if (!end) {
            probe(w);
        }
    }
    disconnect(w);
    return NULL;
}

/* Life. */

static health_status check(void *arg, char *reason, size_t size)
{
    store *s = arg;
    health_status status = HEALTH_OK;

    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < 1 + READERS && status == HEALTH_OK; i++) {
        if (s->workers[i].reason[0]) {
            status = HEALTH_DOWN;
            snprintf(reason, size, "%s", s->workers[i].reason);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

static const store_backend *backend_of(const char *url)
{
    static const struct {
        const char *prefix;
        const store_backend *backend;
    } known[] = {
        {"sqlite:", &store_sqlite},
        {"postgres://", &store_postgres},
        {"postgresql://", &store_postgres},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strncmp(url, known[i].prefix, strlen(known[i].prefix)) == 0) {
            return known[i].backend;
        }
    }
    return NULL;
}

static void add_metrics(store *s, metrics *m)
{
    metric_family *seconds = metrics_family(
        m, METRIC_HISTOGRAM, "aiq_store_seconds",
        "Duration of transactions, from the question to the commit.", "kind", METRICS_SECONDS);
    metric_family *length = metrics_family(m, METRIC_GAUGE, "aiq_store_queue",
                                           "Transactions that wait.", "kind", NULL);

    s->errors = metrics_family(m, METRIC_COUNTER, "aiq_store_errors_total",
                               "Transactions that the store failed or refused.", "code", NULL);
    for (int kind = 0; kind < 2; kind++) {
        const char *const values[] = {kind_names[kind]};
        s->queues[kind].seconds = metrics_sample(seconds, values);
        s->queues[kind].length = metrics_sample(length, values);
    }
}

static store *store_new(const store_backend *backend, const char *url)
{
    store *s = aiq_zalloc(sizeof(*s));
    pthread_condattr_t monotonic;

    s->backend = backend;
    s->url = strdup(url);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (int kind = 0; kind < 2; kind++) {
        s->queues[kind].last = &s->queues[kind].first;
        pthread_cond_init(&s->queues[kind].filled, &monotonic);
    }
    pthread_condattr_destroy(&monotonic);
    for (unsigned i = 0; i < 1 + READERS; i++) {
        s->workers[i] = (worker){.store = s,
                                 .kind = i == 0 ? STORE_WRITER : STORE_READER,
                                 .random = loop_now_ns() * 2 + 1};
    }
    return s;
}

/* The writer's connection migrates before there is another. */
static bool start(store *s, aiq_err *err)
{
    if (!reach(&s->workers[0], err) || !store_migrate(s->workers[0].db, err)) {
        return false;
    }
    for (unsigned i = 0; i < 1 + READERS; i++) {
        worker *w = &s->workers[i];
        if (!reach(w, err)) {
            return false;
        }
        int rc = pthread_create(&w->thread, NULL, serve, w);
        if (rc != 0) {
            return aiq_fail(err, 500, "thread", "cannot start a thread: %s", strerror(rc));
        }
        w->running = true;
    }
    return true;
}

store *store_open(aiq_engine *engine, const char *url, aiq_err *err)
{
    const store_backend *backend = backend_of(url);
    char name[sizeof(((store *)NULL)->name)];

    if (backend == NULL) {
        aiq_fail(err, 503, "store_invalid", "The store is not of a known kind.");
        aiq_err_detail(err, "--store takes sqlite:PATH or postgres://…");
        return NULL;
    }
    if (!backend->describe(url, name, sizeof(name), err)) {
        return NULL;
    }
    store *s = store_new(backend, url);
    memcpy(s->name, name, sizeof(name));
    add_metrics(s, engine->metrics);
    if (!start(s, err)) {
        char detail[sizeof(err->detail)];
        memcpy(detail, err->detail, sizeof(detail));
        aiq_err_detail(err, "%s: %s", name, detail);
        store_close(s);
        return NULL;
    }
    s->health = (health_component){.name = "store", .critical = true, .check = check, .arg = s};
    engine_add_health(engine, &s->health);
    return s;
}

bool store_hear(store *s, store_heard_fn fn, void *arg, aiq_err *err)
{
    if (s->backend->hear) {
        s->news = store_news_start(s->backend, s->url, s->name, fn, arg, err);
    }
    return s->backend->hear == NULL || s->news;
}

bool store_announces(const store *s)
{
    return s->news && store_news_come(s->news);
}

void store_stop(store *s)
{
    store_news_stop(s->news);
    s->news = NULL;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->queues[STORE_WRITER].filled);
    pthread_cond_broadcast(&s->queues[STORE_READER].filled);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < 1 + READERS; i++) {
        if (s->workers[i].running) {
            pthread_join(s->workers[i].thread, NULL);
            s->workers[i].running = false;
        }
        disconnect(&s->workers[i]);
    }
}

void store_close(store *s)
{
    if (s == NULL) {
        return;
    }
    store_stop(s);
    for (int kind = 0; kind < 2; kind++) {
        pthread_cond_destroy(&s->queues[kind].filled);
    }
    pthread_mutex_destroy(&s->lock);
    free(s->url);
    free(s);
}
