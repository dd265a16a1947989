/*
 * store: durable transactions a second through the store, and what the same database
 * does where each is committed by itself.
 *
 *     store [-n TRANSACTIONS] URL
 *
 * A transaction inserts one row of about 150 bytes. 1, 8 and 64 of them are open all the
 * time, each of which begins anew when it is told to be on disk. Beside it the database's
 * own client inserts the same rows, one commit each, over one connection. The result is
 * one JSON object on stdout, in transactions a second.
 */

#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "measure.h"
#include "store/store.h"

#define TEXT                                                                                   \
    "a text of a hundred and some bytes, which is about what a usage event has to say of "     \
    "its tenant, its key and its model"

static const char create[] = "CREATE TABLE IF NOT EXISTS bench (id BIGINT PRIMARY KEY, "
                             "tenant TEXT NOT NULL, n BIGINT NOT NULL)";
static const char insert[] = "INSERT INTO bench (id, tenant, n) VALUES ($1, $2, $3)";

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    store *store;
    int64_t next_id;
    unsigned to_start, open;
} bench;

static bool create_tx(store_db *db, void *arg, aiq_err *err)
{
    (void)arg;
    return store_exec(db, err, create, "");
}

/* May run again: the id is taken when it is asked for, not here. */
typedef struct {
    bench *bench;
    int64_t id;
} client;

static bool insert_tx(store_db *db, void *arg, aiq_err *err)
{
    const client *c = arg;

    return store_exec(db, err, insert, "isi", c->id, TEXT, c->id);
}

static void done(aiq_loop *loop, void *arg, const aiq_err *err);

static void ask(bench *b, client *c, store_tx tx)
{
    aiq_err err;

    c->id = ++b->next_id;
    b->to_start--;
    b->open++;
    if (!store_write(b->store, &b->loop, tx, c, done, c, &err)) {
        die("%s", err.message);
    }
}

static void done(aiq_loop *loop, void *arg, const aiq_err *err)
{
    client *c = arg;

    (void)loop;
    if (err) {
        die("%s: %s", err->message, err->detail);
    }
    c->bench->open--;
    if (c->bench->to_start) {
        ask(c->bench, c, insert_tx);
    }
}

static void turn(bench *b)
{
    while (b->open) {
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

/* n transactions, so many of them open. */
static double through_store(bench *b, unsigned clients, unsigned n)
{
    client all[64];
    uint64_t begin = now_ns(CLOCK_MONOTONIC);

    b->to_start = n;
    for (unsigned i = 0; i < clients; i++) {
        all[i].bench = b;
        ask(b, &all[i], insert_tx);
    }
    turn(b);
    return n / ((double)(now_ns(CLOCK_MONOTONIC) - begin) / 1e9);
}

/* The same without the store. */

static double sqlite_alone(const char *path, int64_t id, unsigned n)
{
    sqlite3 *db;
    sqlite3_stmt *statement;

    if (sqlite3_open(path, &db) != SQLITE_OK ||
        sqlite3_exec(db, "PRAGMA synchronous = FULL", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, insert, -1, &statement, NULL) != SQLITE_OK) {
        die("%s", sqlite3_errmsg(db));
    }
    sqlite3_bind_text(statement, 2, TEXT, -1, SQLITE_STATIC);
    uint64_t begin = now_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < n; i++) {
        sqlite3_bind_int64(statement, 1, ++id);
        sqlite3_bind_int64(statement, 3, id);
        if (sqlite3_step(statement) != SQLITE_DONE) {
            die("%s", sqlite3_errmsg(db));
        }
        sqlite3_reset(statement);
    }
    double rate = n / ((double)(now_ns(CLOCK_MONOTONIC) - begin) / 1e9);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return rate;
}

static double postgres_alone(const char *url, int64_t id, unsigned n)
{
    PGconn *conn = PQconnectdb(url);

    PQclear(PQprepare(conn, "insert", insert, 3, NULL));
    uint64_t begin = now_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < n; i++) {
        char number[24];
        snprintf(number, sizeof(number), "%lld", (long long)++id);
        const char *const values[] = {number, TEXT, number};
        PGresult *result = PQexecPrepared(conn, "insert", 3, values, NULL, NULL, 0);
        if (PQresultStatus(result) != PGRES_COMMAND_OK) {
            die("%s", PQerrorMessage(conn));
        }
        PQclear(result);
    }
    double rate = n / ((double)(now_ns(CLOCK_MONOTONIC) - begin) / 1e9);
    PQfinish(conn);
    return rate;
}

int main(int argc, char **argv)
{
    bench b = {0};
    aiq_err err;
    unsigned n = 1000;
    int option;

    while ((option = getopt(argc, argv, "n:")) != -1) {
        n = option == 'n' ? (unsigned)strtoul(optarg, NULL, 10) : 0;
    }
    if (optind + 1 != argc || n < 64) {
        die("usage: store [-n TRANSACTIONS] URL, at least 64 of them");
    }
    const char *url = argv[optind];
    b.engine.metrics = metrics_new();
    if (!loop_init(&b.loop, &b.engine, 0, &err) ||
        (b.store = store_open(&b.engine, url, &err)) == NULL) {
        die("%s %s", err.message, err.detail);
    }
    client first = {.bench = &b};
    b.to_start = 1;
    ask(&b, &first, create_tx);
    turn(&b);

    double one = through_store(&b, 1, n);
    double eight = through_store(&b, 8, 2 * n);
    double many = through_store(&b, 64, 8 * n);
    double alone = strncmp(url, "sqlite:", 7) == 0 ? sqlite_alone(url + 7, b.next_id, n)
                                                   : postgres_alone(url, b.next_id, n);
    printf("{\"1\":%.0f,\"8\":%.0f,\"64\":%.0f,\"alone\":%.0f}\n", one, eight, many, alone);
    store_close(b.store);
    loop_free(&b.loop);
    metrics_free(b.engine.metrics);
    return 0;
}
