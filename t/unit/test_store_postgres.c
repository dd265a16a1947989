/* What is PostgreSQL's own: a server that goes and comes back, and what it refuses. */

#include "unit.h"
#include <pthread.h>
#include "postgres.h"
#include "store.h"

static postgres cluster;

static int setup(void **state)
{
    store_test *t = calloc(1, sizeof(*t));

    *state = t;
    store_test_folder(t);
    postgres_database(&cluster, t->url, sizeof(t->url));
    store_test_open(t);
    return t->store ? 0 : -1;
}

static int teardown(void **state)
{
    store_test_free(*state);
    free(*state);
    return 0;
}

static const char *database(char name[16])
{
    snprintf(name, 16, "t%u", cluster.n_databases);
    return name;
}

static bool write_tx(store_db *db, void *arg, aiq_err *err)
{
    return store_exec(db, err, "INSERT INTO meta (name, value) VALUES ($1, 'x')", "s",
                      *(const char **)arg);
}

static bool read_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *rows = store_query(db, "SELECT COUNT(*) FROM meta WHERE name LIKE 'k%'", "");

    *(int64_t *)arg = store_next(rows) ? store_int(rows, 0) : -1;
    return store_rows_end(rows, err);
}

static health_status health(const store_test *t, char *reason, size_t size)
{
    const health_component *c = engine_health(&t->engine);

    return c->check(c->arg, reason, size);
}

static void a_restart_between_is_not_seen(void **state)
{
    store_test *t = *state;
    const char *first = "k1", *second = "k2";
    int64_t n = 0;

    assert_true(store_test_run(t, true, write_tx, &first));
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_true(postgres_do(&cluster, "stop"));
    assert_true(postgres_do(&cluster, "start"));
    assert_true(store_test_run(t, true, write_tx, &second));
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_int_equal(n, 2);
}

static void comes_back_by_itself(void **state)
{
    store_test *t = *state;
    const char *names[] = {"k1", "k2", "k3", "k4"};
    char reason[400] = "";
    int64_t n = 0;

    assert_true(store_test_run(t, true, write_tx, &names[0]));
    assert_true(postgres_do(&cluster, "kill"));
    assert_false(store_test_run(t, true, write_tx, &names[1]));
    assert_int_equal(t->err.status, 503);
    assert_string_equal(t->err.code, "store_unavailable");
    assert_int_equal(t->err.retry_after, 1);
    assert_false(store_test_run(t, false, read_tx, &n));
    assert_string_equal(t->err.code, "store_unavailable");
    assert_int_equal(health(t, reason, sizeof(reason)), HEALTH_DOWN);
    assert_true(reason[0] != '\0' && strchr(reason, '\n') == NULL);
    assert_true(postgres_do(&cluster, "start"));
    while (health(t, reason, sizeof(reason)) != HEALTH_OK) {
        usleep(1000);
    }
    assert_true(store_test_run(t, true, write_tx, &names[2]));
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_int_equal(n, 2);
}

/* A server that hangs keeps its connections; it is given up all the same. */
static void gives_up_a_silent_server(void **state)
{
    store_test *t = *state;
    const char *names[] = {"k1", "k2"};
    char reason[400] = "";

    assert_true(postgres_do(&cluster, "pause"));
    assert_false(store_test_run(t, true, write_tx, &names[0]));
    assert_string_equal(t->err.code, "store_unavailable");
    assert_int_equal(health(t, reason, sizeof(reason)), HEALTH_DOWN);
    assert_true(postgres_do(&cluster, "resume"));
    while (health(t, reason, sizeof(reason)) != HEALTH_OK) {
        usleep(1000);
    }
    assert_true(store_test_run(t, true, write_tx, &names[1]));
}

/* The server undoes it twice; the third time counts. A sequence does not go back. */
static bool undone_tx(store_db *db, void *arg, aiq_err *err)
{
    const char *name = "k1";

    ++*(int64_t *)arg;
    return write_tx(db, &name, err) && store_exec(db, err, "SELECT twice()", "");
}

static void runs_again_what_the_server_undid(void **state)
{
    store_test *t = *state;
    int64_t runs = 0, n = 0;
    char name[16];

    assert_true(postgres_run(
        &cluster, database(name),
        "CREATE SEQUENCE s; CREATE FUNCTION twice() RETURNS BIGINT LANGUAGE plpgsql AS $$"
        " BEGIN IF nextval('s') <= 2 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF;"
        " RETURN 1; END $$"));
    assert_true(store_test_run(t, true, undone_tx, &runs));
    assert_int_equal(runs, 3);
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_int_equal(n, 1);
}

static bool setting_tx(store_db *db, void *arg, aiq_err *err)
{
    store_rows *rows = store_query(db, "SELECT current_setting('synchronous_commit')", "");

    assert_true(store_next(rows));
    *(bool *)arg = aiq_str_is(store_text(rows, 0), "on");
    return store_rows_end(rows, err);
}

static void commits_are_on_disk_whatever_the_server_says(void **state)
{
    store_test *t = *state;
    char name[16], command[80];
    bool on = false;

    snprintf(command, sizeof(command), "ALTER DATABASE %s SET synchronous_commit = off",
             database(name));
    assert_true(postgres_run(&cluster, "postgres", command));
    store_test_close(t);
    store_test_open(t);
    assert_true(store_test_run(t, true, setting_tx, &on));
    assert_true(on);
}

/* News. */

typedef struct {
    pthread_mutex_t lock;
    unsigned changes, names;
    char last[32];
} ears;

static void on_heard(void *arg, aiq_str name)
{
    ears *e = arg;

    pthread_mutex_lock(&e->lock);
    if (name.data) {
        e->names++;
        snprintf(e->last, sizeof(e->last), "%.*s", (int)name.len, name.data);
    } else {
        e->changes++;
    }
    pthread_mutex_unlock(&e->lock);
}

/* Until that name is heard. How many names were, with it. */
static unsigned hear(ears *e, const char *name)
{
    for (;;) {
        pthread_mutex_lock(&e->lock);
        unsigned n = e->names;
        bool heard = strcmp(e->last, name) == 0;
        pthread_mutex_unlock(&e->lock);
        if (heard) {
            return n;
        }
        usleep(1000);
    }
}

static void wait_for_changes(ears *e, unsigned n)
{
    for (bool there = false; !there; usleep(1000)) {
        pthread_mutex_lock(&e->lock);
        there = e->changes >= n;
        pthread_mutex_unlock(&e->lock);
    }
}

static bool announce_tx(store_db *db, void *arg, aiq_err *err)
{
    (void)err;
    store_announce(db, arg);
    return true;
}

static bool regret_tx(store_db *db, void *arg, aiq_err *err)
{
    store_announce(db, arg);
    return aiq_fail(err, 400, "regret", "It is not done.");
}

/* More than the server takes in one notice. */
static bool announce_many_tx(store_db *db, void *arg, aiq_err *err)
{
    char name[32];

    (void)err;
    for (unsigned i = 0; i < *(unsigned *)arg; i++) {
        snprintf(name, sizeof(name), "name_%020u", i);
        store_announce(db, name);
    }
    return true;
}

static void says_what_was_committed_and_comes_back_to_listen(void **state)
{
    store_test *t = *state;
    ears e = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char regretted[] = "regretted", one[] = "one", two[] = "two";
    unsigned many = 1000;
    char name[16];
    aiq_err err;

    assert_false(store_announces(t->store));
    assert_true(store_hear(t->store, on_heard, &e, &err));
    wait_for_changes(&e, 1);
    assert_true(store_announces(t->store));
    assert_false(store_test_run(t, true, regret_tx, regretted));
    assert_true(store_test_run(t, true, announce_tx, one));
    assert_int_equal(hear(&e, one), 1);
    assert_true(store_test_run(t, true, announce_many_tx, &many));
    assert_int_equal(hear(&e, "name_00000000000000000999"), 1 + many);

    assert_true(postgres_run(&cluster, database(name),
                             "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                             "WHERE query LIKE 'LISTEN%'"));
    wait_for_changes(&e, 3); /* lost, and there again */
    assert_true(store_announces(t->store));
    assert_true(store_test_run(t, true, announce_tx, two));
    hear(&e, two);
    store_stop(t->store); /* before its ears go */
}

static void refuses_a_newer_schema(void **state)
{
    store_test *t = *state;
    aiq_engine engine = {.metrics = metrics_new()};
    aiq_err err = {0};
    char name[16];

    assert_true(
        postgres_run(&cluster, database(name), "UPDATE schema_version SET version = 999"));
    assert_null(store_open(&engine, t->url, &err));
    assert_string_equal(err.code, "store_newer");
    metrics_free(engine.metrics);
}

static void never_tells_the_password(void **state)
{
    static const char *const urls[] = {
        "postgres://u:sesame@/nowhere?host=/nonexistent",
        "postgres://u:sesame@127.0.0.1:1/x",
        "postgres://u:sesame@:port/x",
        "postgres://u:sesame@[x/y?bad",
        "postgresql://u:sesame%zz@host/db",
        "postgres://u@/x?host=/nonexistent&password=sesame",
        "postgres://u@/x?nooption=sesame",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        aiq_engine engine = {.metrics = metrics_new()};
        aiq_err err = {0};
        assert_null(store_open(&engine, urls[i], &err));
        assert_int_equal(err.status, 503);
        assert_null(strstr(err.message, "sesame"));
        assert_null(strstr(err.detail, "sesame"));
        assert_null(strchr(err.detail, '\n'));
        metrics_free(engine.metrics);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_restart_between_is_not_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(comes_back_by_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(gives_up_a_silent_server, setup, teardown),
        cmocka_unit_test_setup_teardown(runs_again_what_the_server_undid, setup, teardown),
        cmocka_unit_test_setup_teardown(commits_are_on_disk_whatever_the_server_says, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(says_what_was_committed_and_comes_back_to_listen, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(refuses_a_newer_schema, setup, teardown),
        cmocka_unit_test(never_tells_the_password),
    };

    if (!postgres_start(&cluster)) {
        puts("1..0 # SKIP there is no PostgreSQL");
        return 0;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    postgres_end(&cluster);
    return failed;
}
