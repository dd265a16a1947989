/* The store: the same behaviour on both back ends. */

#include "unit.h"
#include <pthread.h>
#include "core/json.h"
#include "postgres.h"
#include "store.h"

static const char create_t[] =
    "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, n BIGINT NOT NULL)";
static const char insert_t[] = "INSERT INTO t (id, name, n) VALUES ($1, $2, $3)";
static const char count_t[] = "SELECT COUNT(*) FROM t";

static bool create_tx(store_db *db, void *arg, aiq_err *err)
{
    (void)arg;
    return store_exec(db, err, create_t, "");
}

static bool insert_tx(store_db *db, void *arg, aiq_err *err)
{
    int64_t id = *(int64_t *)arg;

    return store_exec(db, err, insert_t, "isi", id, "a name", id * 10);
}

static bool count_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *rows = store_query(db, count_t, "");

    *(int64_t *)arg = store_next(rows) ? store_int(rows, 0) : -1;
    return store_rows_end(rows, err);
}

static int64_t count(store_test *t)
{
    int64_t n = -1;

    assert_true(store_test_run(t, false, count_tx, &n));
    return n;
}

/* Rows and values. */

static bool values_tx(store_db *db, void *arg, aiq_err *err)
{
    static const char insert[] = "INSERT INTO t (n, id, name) VALUES ($3, $1, $2) "
                                 "RETURNING name, id, n";
    static const char select[] = "SELECT id, name, n FROM t WHERE n > $1 ORDER BY id LIMIT $2";
    store_rows *r =
        store_query(db, insert, "iti", INT64_MAX, (aiq_str){"gr\xc3\xbcn!!", 5}, INT64_MIN);

    (void)arg;
    assert_true(store_next(r));
    assert_true(aiq_str_is(store_text(r, 0), "gr\xc3\xbcn"));
    assert_true(store_int(r, 1) == INT64_MAX);
    assert_true(store_int(r, 2) == INT64_MIN);
    assert_false(store_next(r));
    assert_true(store_rows_end(r, err));

    assert_true(store_exec(db, err, insert_t, "isi", (int64_t)1, NULL, (int64_t)7));
    assert_int_equal(store_changed(db), 1);
    assert_true(store_exec(db, err, insert_t, "isi", (int64_t)2, "", (int64_t)8));
    r = store_query(db, select, "ii", (int64_t)0, (int64_t)10);
    assert_true(store_next(r));
    assert_int_equal(store_int(r, 0), 1);
    assert_null(store_text(r, 1).data);
    assert_true(store_next(r));
    assert_int_equal(store_int(r, 0), 2);
    assert_non_null(store_text(r, 1).data);
    assert_int_equal(store_text(r, 1).len, 0);
    assert_false(store_next(r));
    return store_rows_end(r, err);
}

static void stores_and_reads_values(void **state)
{
    store_test *t = *state;

    assert_true(store_test_run(t, true, values_tx, NULL));
    assert_int_equal(count(t), 3);
}

/* A row of one statement, a change by another, and rows that nobody ends. */
static bool nested_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *r = store_query(db, "SELECT id FROM t ORDER BY id", "");

    (void)arg;
    while (store_next(r)) {
        if (!store_exec(db, err, "UPDATE t SET n = n + $2 WHERE id = $1", "ii", store_int(r, 0),
                        (int64_t)1)) {
            return false;
        }
        assert_int_equal(store_changed(db), 1);
    }
    assert_true(store_exec(db, err, "UPDATE t SET n = 0 WHERE id = $1", "i", (int64_t)99));
    assert_int_equal(store_changed(db), 0);
    return true;
}

static void changes_while_it_reads(void **state)
{
    store_test *t = *state;

    for (int64_t id = 1; id <= 3; id++) {
        assert_true(store_test_run(t, true, insert_tx, &id));
    }
    assert_true(store_test_run(t, true, nested_tx, NULL));
    assert_true(store_test_run(t, true, nested_tx, NULL));
}

static bool text_tx(store_db *db, void *arg, aiq_err *err)
{
    return store_exec(db, err, insert_t, "iti", (int64_t)1, *(aiq_str *)arg, (int64_t)1);
}

static void refuses_text_that_is_none(void **state)
{
    static const aiq_str bad[] = {AIQ_STR("a\0b"),
                                  AIQ_STR("\xff"),
                                  AIQ_STR("\xc3"),
                                  AIQ_STR("\xed\xa0\x80"),
                                  AIQ_STR("\xe0\x80\x80"),
                                  AIQ_STR("\xf4\x90\x80\x80"),
                                  AIQ_STR("eight, a\0eight"),
                                  AIQ_STR("eight, and \xff.")};
    aiq_str good = AIQ_STR("\xf0\x9f\x90\x98 \xed\x9f\xbf");
    store_test *t = *state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        aiq_str text = bad[i];
        assert_false(store_test_run(t, true, text_tx, &text));
        assert_string_equal(t->err.code, "store_error");
    }
    assert_true(store_test_run(t, true, text_tx, &good));
}

/* Failures. */

static bool refusing_tx(store_db *db, void *arg, aiq_err *err)
{
    return insert_tx(db, arg, err) && aiq_fail(err, 404, "not_found", "No.");
}

static void undoes_what_refuses(void **state)
{
    store_test *t = *state;
    int64_t id = 1;

    assert_false(store_test_run(t, true, refusing_tx, &id));
    assert_int_equal(t->err.status, 404);
    assert_int_equal(count(t), 0);
}

static void names_a_conflict(void **state)
{
    store_test *t = *state;
    int64_t id = 1;

    assert_true(store_test_run(t, true, insert_tx, &id));
    assert_false(store_test_run(t, true, insert_tx, &id));
    assert_int_equal(t->err.status, 409);
    assert_string_equal(t->err.code, "store_conflict");
    assert_int_equal(count(t), 1);
}

static bool read_something;

/* It goes on after a failed statement, reads rows that are not there, and claims to be fine. */
static bool careless_tx(store_db *db, void *arg, aiq_err *err)
{
    int64_t other = 77;

    (void)err;
    store_exec(db, NULL, "INSERT INTO nowhere (x) VALUES ($1)", "i", (int64_t)1);
    store_rows *rows = store_query(db, count_t, "");
    read_something = store_next(rows) || store_int(rows, 0) || store_text(rows, 0).data;
    store_rows_end(rows, NULL);
    insert_tx(db, &other, NULL);
    return insert_tx(db, arg, NULL) || true;
}

static void an_overlooked_error_commits_nothing(void **state)
{
    store_test *t = *state;
    int64_t id = 1;

    assert_false(store_test_run(t, true, careless_tx, &id));
    assert_false(read_something);
    assert_string_equal(t->err.code, "store_error");
    assert_non_null(strstr(t->err.detail, "nowhere"));
    assert_int_equal(count(t), 0);
    assert_true(store_test_run(t, true, insert_tx, &id));
}

static bool writing_read_tx(store_db *db, void *arg, aiq_err *err)
{
    return insert_tx(db, arg, err);
}

static void readers_cannot_write(void **state)
{
    store_test *t = *state;
    int64_t id = 1;

    assert_false(store_test_run(t, false, writing_read_tx, &id));
    assert_string_equal(t->err.code, "store_error");
    assert_int_equal(count(t), 0);
}

/* Group commit. A transaction holds the writer until the others wait. */

typedef struct {
    store_test *test;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool inside, go;
} gate;

static bool gate_tx(store_db *db, void *arg, aiq_err *err)
{
    gate *g = arg;

    (void)db;
    (void)err;
    pthread_mutex_lock(&g->lock);
    g->inside = true;
    pthread_cond_broadcast(&g->changed);
    while (!g->go) {
        pthread_cond_wait(&g->changed, &g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return true;
}

static void gate_close(gate *g, store_test *t)
{
    aiq_err err;

    *g = (gate){.test = t};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    assert_true(store_write(t->store, &t->loop, gate_tx, g, store_test_done, t, &err));
    pthread_mutex_lock(&g->lock);
    while (!g->inside) {
        pthread_cond_wait(&g->changed, &g->lock);
    }
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->go = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static void gate_free(gate *g)
{
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->changed);
}

enum { MANY = 200 };

typedef struct {
    store_test *test;
    int64_t id;
    unsigned order; /* in which it was done */
    unsigned status;
} item;

static bool item_tx(store_db *db, void *arg, aiq_err *err)
{
    item *i = arg;

    if (i->id % 5 == 0) {
        return insert_tx(db, &i->id, err) && aiq_fail(err, 404, "not_found", "No.");
    }
    if (i->id % 7 == 0) {
        int64_t first = 1; /* is there */
        return insert_tx(db, &i->id, err) && insert_tx(db, &first, err);
    }
    return insert_tx(db, &i->id, err);
}

static void item_done(aiq_loop *loop, void *arg, const aiq_err *err)
{
    item *i = arg;

    (void)loop;
    i->order = i->test->done++;
    i->status = err ? err->status : 200;
}

static void one_failure_leaves_the_rest(void **state)
{
    store_test *t = *state;
    static item items[MANY];
    int64_t expected = 0;
    gate g;
    aiq_err err;

    gate_close(&g, t);
    for (int64_t i = 0; i < MANY; i++) {
        items[i] = (item){.test = t, .id = i + 1};
        assert_true(
            store_write(t->store, &t->loop, item_tx, &items[i], item_done, &items[i], &err));
    }
    gate_open(&g);
    store_test_wait(t, MANY + 1);
    for (unsigned i = 0; i < MANY; i++) {
        int64_t id = items[i].id;
        unsigned status = id % 5 == 0 ? 404 : id % 7 == 0 ? 409 : 200;
        assert_int_equal(items[i].status, status);
        assert_int_equal(items[i].order, i + 1);
        expected += status == 200;
    }
    assert_int_equal(count(t), expected);
    gate_free(&g);
}

static void reads_do_not_wait_for_writes(void **state)
{
    store_test *t = *state;
    int64_t id = 1;
    gate g;

    assert_true(store_test_run(t, true, insert_tx, &id));
    gate_close(&g, t);
    assert_int_equal(count(t), 1);
    gate_open(&g);
    store_test_wait(t, 3);
    gate_free(&g);
}

static void refuses_what_is_too_much(void **state)
{
    store_test *t = *state;
    int64_t ignored;
    unsigned taken = 0;
    aiq_err err = {0};
    gate g;

    gate_close(&g, t);
    while (store_write(t->store, &t->loop, count_tx, &ignored, store_test_done, t, &err)) {
        taken++;
    }
    assert_int_equal(taken, STORE_QUEUE);
    assert_int_equal(err.status, 503);
    assert_string_equal(err.code, "store_busy");
    gate_open(&g);
    store_test_wait(t, taken + 1);
    assert_true(store_test_run(t, true, count_tx, &ignored));
    gate_free(&g);
}

static void stop_ends_what_waits(void **state)
{
    store_test *t = *state;
    static item items[10];
    aiq_err err = {0};

    for (int64_t i = 0; i < 10; i++) {
        items[i] = (item){.test = t, .id = i + 1};
        assert_true(store_write(t->store, &t->loop, insert_tx, &items[i].id, item_done,
                                &items[i], &err));
    }
    store_stop(t->store);
    assert_false(
        store_write(t->store, &t->loop, insert_tx, &items[0].id, item_done, &items[0], &err));
    assert_string_equal(err.code, "store_unavailable");
    loop_flush(&t->loop);
    assert_int_equal(t->done, 10);
    store_test_close(t);
    store_test_open(t);
    assert_int_equal(count(t), 10);
}

/* Several engines. */

static bool add_one_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *rows = store_query(db, "SELECT n FROM t WHERE id = 1", "");
    int64_t n = store_next(rows) ? store_int(rows, 0) : 0;

    (void)arg;
    return store_rows_end(rows, err) &&
           store_exec(db, err, "UPDATE t SET n = $1 WHERE id = 1", "i", n + 1);
}

static bool sum_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *rows = store_query(db, "SELECT SUM(n), EXISTS (SELECT 1 FROM t) FROM t", "");

    *(int64_t *)arg = store_next(rows) ? store_int(rows, 0) : -1;
    assert_int_equal(store_int(rows, 1), 1);
    return store_rows_end(rows, err);
}

/* Two stores on the same data read, decide and write; no write is lost. */
static void writers_of_two_engines_take_turns(void **state)
{
    store_test *t = *state;
    store_test other = {0};
    int64_t id = 1, sum;
    aiq_err err;

    assert_true(store_test_run(t, true, insert_tx, &id));
    memcpy(other.url, t->url, sizeof(other.url));
    store_test_open(&other);
    assert_non_null(other.store);
    for (int i = 0; i < 100; i++) {
        assert_true(
            store_write(t->store, &t->loop, add_one_tx, NULL, store_test_done, t, &err));
        assert_true(
            store_write(other.store, &t->loop, add_one_tx, NULL, store_test_done, t, &err));
    }
    store_test_wait(t, 201);
    assert_true(t->ok);
    assert_true(store_test_run(t, false, sum_tx, &sum));
    assert_int_equal(sum, 10 + 200);
    store_test_close(&other);
}

static void *open_another(void *arg)
{
    store_test *t = arg;

    store_test_open(t);
    return NULL;
}

/* The schema is made once. */
static void engines_start_at_once(void **state)
{
    store_test *t = *state, others[4] = {0};
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        memcpy(others[i].url, t->url, sizeof(t->url));
        pthread_create(&threads[i], NULL, open_another, &others[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_non_null(others[i].store);
    }
    for (int i = 0; i < 4; i++) {
        store_test_close(&others[i]);
    }
}

/* What the operator sees. */

static void tells_its_state(void **state)
{
    store_test *t = *state;
    int64_t id = 1;
    aiq_buf out = {0};
    char reason[64] = "";
    const health_component *health = engine_health(&t->engine);

    assert_true(store_test_run(t, true, insert_tx, &id));
    assert_false(store_test_run(t, true, insert_tx, &id));
    assert_int_equal(count(t), 1);
    assert_string_equal(health->name, "store");
    assert_int_equal(health->check(health->arg, reason, sizeof(reason)), HEALTH_OK);
    assert_string_equal(reason, "");
    metrics_render(t->engine.metrics, &out);
    aiq_buf_add(&out, "", 1);
    assert_non_null(strstr((char *)out.data, "aiq_store_seconds_count{kind=\"read\"} 1\n"));
    assert_non_null(strstr((char *)out.data, "aiq_store_seconds_count{kind=\"write\"} 3\n"));
    assert_non_null(strstr((char *)out.data, "aiq_store_queue{kind=\"write\"} 0\n"));
    assert_non_null(
        strstr((char *)out.data, "aiq_store_errors_total{code=\"store_conflict\"} 1\n"));
    aiq_buf_free(&out);
}

/* Back ends. */

static int sqlite_setup(void **state)
{
    store_test *t = calloc(1, sizeof(*t));

    *state = t;
    store_test_folder(t);
    snprintf(t->url, sizeof(t->url), "sqlite:%s/db", t->folder);
    return 0;
}

static int setup_table(store_test *t)
{
    store_test_open(t);
    if (t->store == NULL || !store_test_run(t, true, create_tx, NULL)) {
        return -1;
    }
    t->done = 0;
    return 0;
}

static int sqlite_open(void **state)
{
    sqlite_setup(state);
    return setup_table(*state);
}

/* One cluster for all, a database for each. */

static postgres cluster;

static int postgres_open(void **state)
{
    store_test *t = calloc(1, sizeof(*t));

    *state = t;
    store_test_folder(t);
    postgres_database(&cluster, t->url, sizeof(t->url));
    return setup_table(t);
}

static int teardown(void **state)
{
    store_test *t = *state;

    store_test_free(t);
    free(t);
    return 0;
}

#define SUITE(backend, fn)                                                                     \
    {                                                                                          \
#backend ": " #fn, (fn), backend##_open, teardown, NULL                                \
    }
#define SUITES(backend)                                                                        \
    SUITE(backend, stores_and_reads_values), SUITE(backend, changes_while_it_reads),           \
        SUITE(backend, refuses_text_that_is_none), SUITE(backend, undoes_what_refuses),        \
        SUITE(backend, names_a_conflict), SUITE(backend, an_overlooked_error_commits_nothing), \
        SUITE(backend, readers_cannot_write), SUITE(backend, one_failure_leaves_the_rest),     \
        SUITE(backend, reads_do_not_wait_for_writes),                                          \
        SUITE(backend, refuses_what_is_too_much), SUITE(backend, stop_ends_what_waits),        \
        SUITE(backend, writers_of_two_engines_take_turns),                                     \
        SUITE(backend, engines_start_at_once), SUITE(backend, tells_its_state)

int main(void)
{
    const struct CMUnitTest tests[] = {SUITES(sqlite), SUITES(postgres)};
    const size_t n = sizeof(tests) / sizeof(tests[0]);
    bool both = postgres_start(&cluster);
    int failed = _cmocka_run_group_tests("store", tests, both ? n : n / 2, NULL, NULL);

    postgres_end(&cluster);
    return failed;
}
