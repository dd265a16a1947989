#include "store/store.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/pool.h"
#include "engine.h"
#include "store_migrations.h" /* made by the build: store_migrations[], in order */

#define BUSY_MS    5000
#define URL_PREFIX "sqlite:"
#define MIGRATIONS (sizeof(store_migrations) / sizeof(store_migrations[0]))

struct store {
    sqlite3 *db;
    health_component health;
};

static bool failed(store *s, const char *path, aiq_err *err)
{
    aiq_fail(err, 503, "store_unavailable", "The store cannot be opened.");
    aiq_err_detail(err, "%s: %s", path,
                   s->db != NULL ? sqlite3_errmsg(s->db) : "out of memory");
    return false;
}

/* How many migrations the file has seen; -1: it cannot be read. */
static int schema_version(sqlite3 *db)
{
    sqlite3_stmt *statement;
    int version = -1;

    if (sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        version = sqlite3_column_int(statement, 0);
    }
    sqlite3_finalize(statement);
    return version;
}

static bool migrate(store *s, const char *path, aiq_err *err)
{
    int version = schema_version(s->db);

    if (version < 0) {
        return failed(s, path, err);
    }
    if ((size_t)version > MIGRATIONS) {
        aiq_fail(err, 503, "store_newer", "The store was made by a newer engine.");
        aiq_err_detail(err, "%s has schema version %d, this engine knows %zu", path, version,
                       MIGRATIONS);
        return false;
    }
    for (size_t i = (size_t)version; i < MIGRATIONS; i++) {
        char done[64];

        snprintf(done, sizeof(done), "PRAGMA user_version = %zu", i + 1);
        if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
            sqlite3_exec(s->db, store_migrations[i], NULL, NULL, NULL) != SQLITE_OK ||
            sqlite3_exec(s->db, done, NULL, NULL, NULL) != SQLITE_OK ||
            sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) {
            return failed(s, path, err);
        }
    }
    return true;
}

static bool open_file(store *s, const char *path, aiq_err *err)
{
    static const char settings[] = "PRAGMA journal_mode = WAL;"
                                   "PRAGMA synchronous = NORMAL;"
                                   "PRAGMA foreign_keys = ON;";
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;

    if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(s->db, BUSY_MS) != SQLITE_OK ||
        sqlite3_exec(s->db, settings, NULL, NULL, NULL) != SQLITE_OK) {
        return failed(s, path, err);
    }
    return migrate(s, path, err);
}

/* The file was readable and migrated when the engine started, and nothing
 * writes to it yet that could have failed since. */
static health_status check(void *arg, char *reason, size_t size)
{
    (void)arg;
    (void)reason;
    (void)size;
    return HEALTH_OK;
}

store *store_open(aiq_engine *engine, const char *url, aiq_err *err)
{
    const size_t prefix = sizeof(URL_PREFIX) - 1;
    store *s;

    if (strncmp(url, URL_PREFIX, prefix) != 0 || url[prefix] == '\0') {
        aiq_fail(err, 503, "store_invalid", "The store is not of a known kind.");
        aiq_err_detail(err, "--store takes sqlite:PATH, not \"%s\"", url);
        return NULL;
    }
    s = aiq_zalloc(sizeof(*s));
    if (!open_file(s, url + prefix, err)) {
        store_close(s);
        return NULL;
    }
    s->health = (health_component){.name = "store", .critical = true, .check = check};
    engine_add_health(engine, &s->health);
    return s;
}

void store_close(store *s)
{
    if (s != NULL) {
        sqlite3_close(s->db);
        free(s);
    }
}
