/*
 * SQLite. WAL, so that readers neither wait nor are waited for; synchronous FULL on
 * the writer, so that a commit is on disk when it is told: WAL with NORMAL may lose the
 * latest ones when the machine goes down.
 *
 * "$1" is a named parameter to SQLite; names are looked up once, when the statement is
 * prepared. Whatever is wrong with the file or its disk makes the connection useless
 * here: SQLite may have undone the transaction by itself, and a new connection finds out
 * what is true now.
 */

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/backend.h"

#define URL_PREFIX "sqlite:"
#define BUSY_MS    1000

typedef struct {
    store_db base;
    sqlite3 *handle;
    store_kind kind;
} sqlite_db;

typedef struct {
    store_rows base;
    sqlite3_stmt *statement;
    bool row; /* run() has stepped to a row that next() has not given yet */
    int index[STORE_PARAMS_MAX];
} sqlite_rows;

static sqlite3 *handle_of(const store_db *db)
{
    return ((const sqlite_db *)db)->handle;
}

static sqlite3_stmt *statement_of(const store_rows *rows)
{
    return ((const sqlite_rows *)rows)->statement;
}

static bool failed(store_db *db)
{
    sqlite3 *handle = handle_of(db);
    const char *message = sqlite3_errmsg(handle);

    switch (sqlite3_errcode(handle) & 0xff) {
    case SQLITE_CONSTRAINT:
        return store_db_conflict(db, message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_PROTOCOL:
    case SQLITE_PERM:
    case SQLITE_NOMEM:
        return store_db_fault(db, FAULT_LOST, message);
    case SQLITE_READONLY: /* of a reader it is query_only that speaks */
        return store_db_fault(
            db, ((sqlite_db *)db)->kind == STORE_READER ? FAULT_STATEMENT : FAULT_LOST,
            message);
    default:
        return store_db_fault(db, FAULT_STATEMENT, message);
    }
}

/* Connections. */

static bool sqlite_describe(const char *url, char *out, size_t size, aiq_err *err)
{
    if (url[strlen(URL_PREFIX)] == '\0') {
        aiq_fail(err, 503, "store_invalid", "The store is not of a known kind.");
        aiq_err_detail(err, "--store sqlite:PATH lacks its path");
        return false;
    }
    snprintf(out, size, "%s", url + strlen(URL_PREFIX));
    return true;
}

static void sqlite_disconnect(store_db *db)
{
    store_db_forget(db);
    sqlite3_close(handle_of(db));
    free(db);
}

static store_db *sqlite_connect(const char *url, store_kind kind, aiq_err *err)
{
    static const char *const settings[] = {
        [STORE_WRITER] = "PRAGMA journal_mode = WAL;"
                         "PRAGMA synchronous = FULL;"
                         "PRAGMA cache_size = -512;" /* KB: what is written is mostly new */
                         "PRAGMA foreign_keys = ON;",
        [STORE_READER] = "PRAGMA query_only = ON;"
                         "SELECT COUNT(*) FROM sqlite_schema;", /* opens the file */
    };
    /* the writer comes first and makes it */
    const int flags = kind == STORE_WRITER ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
                                           : SQLITE_OPEN_READWRITE;
    sqlite_db *db = aiq_zalloc(sizeof(*db));

    db->base.backend = &store_sqlite;
    db->kind = kind;
    /* of the process; without it no allocation takes a lock. Refused once SQLite is in use */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    if (sqlite3_open_v2(url + strlen(URL_PREFIX), &db->handle, flags | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(db->handle, BUSY_MS) != SQLITE_OK ||
        sqlite3_exec(db->handle, settings[kind], NULL, NULL, NULL) != SQLITE_OK) {
        aiq_fail(err, 503, "store_unavailable", "The store cannot be opened.");
        aiq_err_detail(err, "%s", db->handle ? sqlite3_errmsg(db->handle) : "out of memory");
        sqlite_disconnect(&db->base);
        return NULL;
    }
    return &db->base;
}

static bool sqlite_script(store_db *db, const char *sql)
{
    return sqlite3_exec(handle_of(db), sql, NULL, NULL, NULL) == SQLITE_OK || failed(db);
}

static bool sqlite_commit(store_db *db)
{
    return sqlite_script(db, "COMMIT");
}

static bool sqlite_begin(store_db *db, store_kind kind)
{
    return sqlite_script(db, kind == STORE_WRITER ? "BEGIN IMMEDIATE" : "BEGIN");
}

static bool sqlite_version(store_db *db, int64_t *version)
{
    sqlite3_stmt *statement = NULL;
    bool ok = sqlite3_prepare_v2(handle_of(db), "PRAGMA user_version", -1, &statement, NULL) ==
                  SQLITE_OK &&
              sqlite3_step(statement) == SQLITE_ROW;

    if (ok) {
        *version = sqlite3_column_int64(statement, 0);
    } else {
        failed(db);
    }
    sqlite3_finalize(statement);
    return ok;
}

static bool sqlite_set_version(store_db *db, int64_t version)
{
    char sql[64];

    snprintf(sql, sizeof(sql), "PRAGMA user_version = %lld", (long long)version);
    return sqlite_script(db, sql);
}

/* Statements. */

static void sqlite_unprepare(store_rows *rows)
{
    sqlite3_finalize(statement_of(rows));
    free(rows);
}

static store_rows *sqlite_prepare(store_db *db, const char *sql, const char *types)
{
    sqlite_rows *rows = aiq_zalloc(sizeof(*rows));
    unsigned n = (unsigned)strlen(types);
    char name[16];

    if (sqlite3_prepare_v3(handle_of(db), sql, -1, SQLITE_PREPARE_PERSISTENT, &rows->statement,
                           NULL) != SQLITE_OK) {
        failed(db);
        sqlite_unprepare(&rows->base);
        return NULL;
    }
    for (unsigned i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "$%u", i + 1);
        rows->index[i] = sqlite3_bind_parameter_index(rows->statement, name);
    }
    if ((unsigned)sqlite3_bind_parameter_count(rows->statement) != n) {
        store_db_fault(db, FAULT_STATEMENT, "types and parameters of a statement differ");
        sqlite_unprepare(&rows->base);
        return NULL;
    }
    return &rows->base;
}

static int bind_value(const sqlite_rows *rows, unsigned i, const store_value *value)
{
    if (value->type == 'i') {
        return sqlite3_bind_int64(rows->statement, rows->index[i], value->number);
    }
    if (value->text.data == NULL) {
        return sqlite3_bind_null(rows->statement, rows->index[i]);
    }
    /* a statement that answers nothing is done with its first step, before run() returns;
     * another's later ones may come when the caller's memory is gone */
    return sqlite3_bind_text64(
        rows->statement, rows->index[i], value->text.data, value->text.len,
        sqlite3_column_count(rows->statement) ? SQLITE_TRANSIENT : SQLITE_STATIC, SQLITE_UTF8);
}

static bool step(sqlite_rows *rows)
{
    int rc = sqlite3_step(rows->statement);

    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        failed(rows->base.db);
    }
    return rc == SQLITE_ROW;
}

static bool sqlite_run(store_rows *base, const store_value *values)
{
    sqlite_rows *rows = (sqlite_rows *)base;

    for (unsigned i = 0; i < base->n_params; i++) {
        if (bind_value(rows, i, &values[i]) != SQLITE_OK) {
            return failed(base->db);
        }
    }
    rows->row = step(rows);
    return base->db->fault == FAULT_NONE;
}

/* run() has taken the first step, so that a statement has done its work even where
 * nobody asks for its rows. */
static bool sqlite_next(store_rows *base)
{
    sqlite_rows *rows = (sqlite_rows *)base;
    bool first = rows->row;

    rows->row = false;
    return first || (sqlite3_stmt_busy(rows->statement) && step(rows));
}

static int64_t sqlite_number(const store_rows *rows, unsigned column)
{
    return sqlite3_column_int64(statement_of(rows), (int)column);
}

static aiq_str sqlite_text(const store_rows *rows, unsigned column)
{
    const unsigned char *text = sqlite3_column_text(statement_of(rows), (int)column);

    return (aiq_str){(const char *)text,
                     (size_t)sqlite3_column_bytes(statement_of(rows), (int)column)};
}

static int64_t sqlite_reset(store_rows *rows)
{
    /* its error was seen when it was stepped */
    sqlite3_reset(statement_of(rows));
    return sqlite3_changes64(handle_of(rows->db));
}

const store_backend store_sqlite = {
    .name = "sqlite",
    .describe = sqlite_describe,
    .connect = sqlite_connect,
    .disconnect = sqlite_disconnect,
    .begin = sqlite_begin,
    .script = sqlite_script,
    .commit = sqlite_commit,
    .version = sqlite_version,
    .set_version = sqlite_set_version,
    .prepare = sqlite_prepare,
    .unprepare = sqlite_unprepare,
    .run = sqlite_run,
    .next = sqlite_next,
    .number = sqlite_number,
    .text = sqlite_text,
    .reset = sqlite_reset,
};
