/* The store's file: made, migrated once, and refused where it is not ours. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "engine.h"
#include "store/store.h"

static char folder[64], url[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/aiq-store-XXXXXX");
    snprintf(url, sizeof(url), "sqlite:%s/db", mkdtemp(folder));
    return 0;
}

static int remove_folder(void **state)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char path[128];

    (void)state;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/db%s", folder, suffixes[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static int run(const char *sql)
{
    sqlite3 *db;
    int rc;

    assert_int_equal(sqlite3_open(url + strlen("sqlite:"), &db), SQLITE_OK);
    rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_close(db);
    return rc;
}

static void makes_and_migrates_its_file(void **state)
{
    aiq_engine engine = {0};
    aiq_err err = {0};
    store *s = store_open(&engine, url, &err);

    (void)state;
    assert_non_null(s);
    assert_non_null(engine_health(&engine));
    store_close(s);
    assert_int_equal(run("INSERT INTO meta VALUES ('k', 'v')"), SQLITE_OK);
}

static void keeps_what_is_there(void **state)
{
    aiq_engine engine = {0};
    aiq_err err = {0};

    (void)state;
    store_close(store_open(&engine, url, &err));
    assert_int_equal(run("INSERT INTO meta VALUES ('k', 'v')"), SQLITE_OK);
    store_close(store_open(&engine, url, &err));
    assert_int_equal(run("INSERT INTO meta VALUES ('k', 'w')"), SQLITE_CONSTRAINT);
}

static void refuses_a_newer_schema(void **state)
{
    aiq_engine engine = {0};
    aiq_err err = {0};

    (void)state;
    assert_int_equal(run("PRAGMA user_version = 999"), SQLITE_OK);
    assert_null(store_open(&engine, url, &err));
    assert_string_equal(err.code, "store_newer");
    assert_null(engine_health(&engine));
}

static void refuses_what_it_cannot_open(void **state)
{
    aiq_engine engine = {0};
    aiq_err err = {0};
    FILE *out = fopen(url + strlen("sqlite:"), "w");

    (void)state;
    fputs("this is no database, whatever its name says, and it is long enough to tell", out);
    fclose(out);
    assert_null(store_open(&engine, url, &err));
    assert_null(store_open(&engine, "sqlite:/nonexistent/folder/db", &err));
    assert_null(store_open(&engine, "sqlite:", &err));
    assert_null(store_open(&engine, "mysql:x", &err));
    assert_non_null(strstr(err.detail, "sqlite:PATH"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(makes_and_migrates_its_file, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(keeps_what_is_there, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(refuses_a_newer_schema, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(refuses_what_it_cannot_open, make_folder,
                                        remove_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
