/* The store's file: made, migrated once, refused where it is not ours, and waited for. */

#include "unit.h"
#include <sqlite3.h>
#include <stdio.h>
#include "store.h"

static int setup(void **state)
{
    store_test *t = calloc(1, sizeof(*t));

    *state = t;
    store_test_folder(t);
    snprintf(t->url, sizeof(t->url), "sqlite:%s/db", t->folder);
    return 0;
}

static int teardown(void **state)
{
    store_test_free(*state);
    free(*state);
    return 0;
}

static const char *path_of(const store_test *t)
{
    return t->url + strlen("sqlite:");
}

static int run(const store_test *t, const char *sql)
{
    sqlite3 *db;
    int rc;

    assert_int_equal(sqlite3_open(path_of(t), &db), SQLITE_OK);
    rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_close(db);
    return rc;
}

static void keeps_what_is_there(void **state)
{
    store_test *t = *state;

    store_test_open(t);
    store_test_close(t);
    assert_int_equal(run(t, "INSERT INTO meta VALUES ('k', 'v')"), SQLITE_OK);
    store_test_open(t);
    assert_non_null(t->store);
    store_test_close(t);
    assert_int_equal(run(t, "INSERT INTO meta VALUES ('k', 'w')"), SQLITE_CONSTRAINT);
    store_test_open(t);
}

static void refused(store_test *t, const char *url, const char *code)
{
    aiq_err err = {0};

    assert_null(store_open(&t->engine, url, &err));
    assert_string_equal(err.code, code);
    assert_null(engine_health(&t->engine));
}

static void refuses_what_is_not_ours(void **state)
{
    store_test *t = *state;
    FILE *out;

    t->engine.metrics = metrics_new();
    refused(t, "sqlite:/nonexistent/folder/db", "store_unavailable");
    refused(t, "sqlite:", "store_invalid");
    refused(t, "mysql:x", "store_invalid");
    assert_int_equal(run(t, "PRAGMA user_version = 999"), SQLITE_OK);
    refused(t, t->url, "store_newer");
    out = fopen(path_of(t), "w");
    fputs("this is no database, whatever its name says, and it is long enough to tell", out);
    fclose(out);
    refused(t, t->url, "store_unavailable");
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

/* Somebody else's lock is waited for, not for ever; reads go on; it comes back by
 * itself, though nobody asks. */
static void outlives_a_lock(void **state)
{
    store_test *t = *state;
    char reason[128] = "";
    int64_t n = 0;
    const char *first = "k1", *second = "k2";
    sqlite3 *other;

    store_test_open(t);
    assert_int_equal(sqlite3_open(path_of(t), &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_false(store_test_run(t, true, write_tx, &first));
    assert_int_equal(t->err.status, 503);
    assert_string_equal(t->err.code, "store_unavailable");
    assert_int_equal(health(t, reason, sizeof(reason)), HEALTH_DOWN);
    assert_string_equal(reason, "database is locked");
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_int_equal(n, 0);
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    while (health(t, reason, sizeof(reason)) != HEALTH_OK) {
        usleep(1000);
    }
    assert_true(store_test_run(t, true, write_tx, &second));
    assert_true(store_test_run(t, false, read_tx, &n));
    assert_int_equal(n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keeps_what_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_what_is_not_ours, setup, teardown),
        cmocka_unit_test_setup_teardown(outlives_a_lock, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
