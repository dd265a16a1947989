/*
 * PostgreSQL.
 *
 * Writes of all engines take turns: a writer's transaction begins with the advisory lock
 * WRITE_LOCK and keeps it until its commit. So READ COMMITTED, with which a statement sees
 * all that was committed before it, has nobody to be disturbed by, and a transaction
 * means what it means on SQLite. Serializable transactions instead would conflict over the
 * same few rows (an account, an epoch) and repeat whole batches; the lock is fair, and
 * group commit keeps its cost at one flush for up to a batch of transactions.
 *
 * No call waits without end: the server gives up a statement and an idle transaction,
 * so that an engine which hangs frees the lock, and we give up a server that says nothing.
 *
 * Integers and texts are sent in binary with their types, so that the server guesses none.
 */

#include <endian.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/backend.h"

#define WRITE_LOCK "6383985" /* "aiq" */
/* After the server should have given up by itself: statement_timeout below. */
#define ANSWER_MS 12000

/* Of a notice: what the server takes is shorter than 8,000 bytes. */
#define NEWS_CHANNEL "aiq_news"
#define NEWS_BYTES   7900

#define OID_INT8 20
#define OID_TEXT 25

typedef struct {
    store_db base;
    PGconn *conn;
    store_kind kind;
} pg_db;

typedef struct {
    store_rows base;
    char name[16];
    PGresult *result;
    int row;
} pg_rows;

static PGconn *conn_of(const store_db *db)
{
    return ((const pg_db *)db)->conn;
}

/* Errors. */

/* libpq's are made for a terminal: several lines, tabs. */
static void one_line(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
    for (char *p = out; *p; p++) {
        if (*p == '\n' || *p == '\t') {
            *p = p[1] ? ' ' : '\0';
        }
    }
}

static bool starts(const char *state, const char *class)
{
    return strncmp(state, class, strlen(class)) == 0;
}

/* https://www.postgresql.org/docs/current/errcodes-appendix.html */
static store_fault fault_of(const pg_db *db, const char *state)
{
    static const char *const lost[] = {
        "08",    /* connection */
        "0A000", /* a plan that a newer engine's migration made invalid */
        "26000", /* a statement that a pooler prepared elsewhere */
        "53",    /* resources: disk full, memory, connections */
        "55P03", /* another writer holds the lock for too long */
        "57P",   /* shut down */
        "58",    /* the server's system */
        "XX",    /* the server itself */
    };

    if (starts(state, "40001") || starts(state, "40P01")) {
        return FAULT_AGAIN;
    }
    /* read only: of a reader it is its own fault, of a writer a server that stands by */
    if (starts(state, "25006") && db->kind == STORE_WRITER) {
        return FAULT_LOST;
    }
    for (size_t i = 0; i < sizeof(lost) / sizeof(lost[0]); i++) {
        if (starts(state, lost[i])) {
            return FAULT_LOST;
        }
    }
    return FAULT_STATEMENT;
}

/* The primary message alone: its detail may quote values. */
static bool failed(store_db *base, const PGresult *result)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *message = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    char detail[sizeof(((aiq_err *)NULL)->detail)];

    if (state == NULL || PQstatus(conn_of(base)) != CONNECTION_OK) {
        one_line(detail, sizeof(detail), message ? message : PQerrorMessage(conn_of(base)));
        return store_db_fault(base, FAULT_LOST, detail);
    }
    one_line(detail, sizeof(detail), message ? message : state);
    if (starts(state, "23")) {
        return store_db_conflict(base, detail);
    }
    return store_db_fault(base, fault_of((const pg_db *)base, state), detail);
}

/* Question and answer. */

static uint64_t now_ms(void)
{
    return loop_now_ns() / 1000000;
}

/* Waits for the socket until the time is over. */
static bool await(PGconn *conn, short events, uint64_t end_ms)
{
    struct pollfd fd = {.fd = PQsocket(conn), .events = events};
    int n;

    do {
        uint64_t now = now_ms();
        n = now < end_ms ? poll(&fd, 1, (int)(end_ms - now)) : 0;
    } while (n < 0 && errno == EINTR);
    return n > 0;
}

/* The next result; NULL: there is no more, or *silent. */
static PGresult *next_result(PGconn *conn, uint64_t end_ms, bool *silent)
{
    int unsent;

    while ((unsent = PQflush(conn)) == 1 || (unsent == 0 && PQisBusy(conn))) {
        if (!await(conn, unsent ? POLLIN | POLLOUT : POLLIN, end_ms)) {
            *silent = true;
            return NULL;
        }
        if (!PQconsumeInput(conn)) {
            break; /* PQgetResult() says why */
        }
    }
    return PQgetResult(conn);
}

/* Reads all that answers what was sent: the last result, or NULL and the mark. */
static PGresult *answer(store_db *db, int sent)
{
    PGconn *conn = conn_of(db);
    PGresult *last = NULL, *result;
    uint64_t end_ms = now_ms() + ANSWER_MS;
    bool silent = false;

    if (!sent) {
        failed(db, NULL);
        return NULL;
    }
    while ((result = next_result(conn, end_ms, &silent)) != NULL) {
        ExecStatusType status = PQresultStatus(result);
        if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
            failed(db, result);
        }
        PQclear(last);
        last = result;
    }
    if (silent) {
        store_db_fault(db, FAULT_LOST, "the server does not answer");
    } else if (last == NULL) {
        failed(db, NULL);
    }
    if (db->fault != FAULT_NONE) {
        PQclear(last);
        return NULL;
    }
    return last;
}

/* Connections. */

static const char *option_of(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword; options++) {
        if (strcmp(options->keyword, keyword) == 0) {
            return options->val && *options->val ? options->val : NULL;
        }
    }
    return NULL;
}

static bool pg_describe(const char *url, char *out, size_t size, aiq_err *err)
{
    PQconninfoOption *options = PQconninfoParse(url, NULL);

    if (options == NULL) {
        /* libpq would say where, and quote it */
        aiq_fail(err, 503, "store_invalid", "The store's URL cannot be read.");
        aiq_err_detail(err, "--store takes postgres://USER@HOST:PORT/DATABASE?option=value");
        return false;
    }
    const char *host = option_of(options, "host"), *port = option_of(options, "port");
    const char *dbname = option_of(options, "dbname");
    snprintf(out, size, "postgres://%s%s%s/%s", host ? host : "", port ? ":" : "",
             port ? port : "", dbname ? dbname : "");
    PQconninfoFree(options);
    return true;
}

static void no_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

static void pg_disconnect(store_db *db)
{
    store_db_forget(db);
    PQfinish(conn_of(db));
    free(db);
}

static bool pg_script(store_db *db, const char *sql)
{
    PGresult *result = answer(db, PQsendQuery(conn_of(db), sql));

    PQclear(result);
    return result != NULL;
}

static store_db *pg_connect(const char *url, store_kind kind, aiq_err *err)
{
    /* Before dbname: defaults that the URL may change. After it: ours. A connection that
     * cannot write is of no use to a reader either, for it may lie behind. */
    static const char *const keys[] = {"connect_timeout",      "keepalives_idle",
                                       "keepalives_interval",  "keepalives_count",
                                       "tcp_user_timeout",     "application_name",
                                       "target_session_attrs", "dbname",
                                       "client_encoding",      NULL};
    const char *const values[] = {"3",          "10",         "3", "3",    "10000",
                                  "aiq-engine", "read-write", url, "UTF8", NULL};
    static const char settings[] =
        "SET client_min_messages = warning;"
        "SET standard_conforming_strings = on;"
        "SET lock_timeout = '5s';"
        "SET statement_timeout = '10s';"
        "SET idle_in_transaction_session_timeout = '10s';"
        /* what is told as stored is; a stronger setting of the server stays */
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') IN ('off', 'local')";
    pg_db *db = aiq_zalloc(sizeof(*db));
    char detail[sizeof(((aiq_err *)NULL)->detail)];

    db->base.backend = &store_postgres;
    db->kind = kind;
    db->conn = PQconnectdbParams(keys, values, 1);
    PQsetNoticeReceiver(db->conn, no_notice, NULL);
    if (PQstatus(db->conn) != CONNECTION_OK || PQsetnonblocking(db->conn, 1) != 0) {
        one_line(detail, sizeof(detail), PQerrorMessage(db->conn));
    } else if (pg_script(&db->base, settings)) {
        return &db->base;
    } else {
        one_line(detail, sizeof(detail), db->base.err.detail);
    }
    aiq_fail(err, 503, "store_unavailable", "The store is not available.");
    aiq_err_detail(err, "%s", detail);
    pg_disconnect(&db->base);
    return NULL;
}

static bool pg_begin(store_db *db, store_kind kind)
{
    return pg_script(db, kind == STORE_WRITER
                             ? "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
                               "SELECT pg_advisory_xact_lock(" WRITE_LOCK ")"
                             : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
}

/* Names need no quotes; as many as fit go into a notice. All of it is one question, so they
 * cost no round trip. The server lets transactions with notices commit one by one: so do we. */
static bool pg_commit(store_db *db)
{
    const char *news = (char *)db->news.data;
    aiq_buf sql = {0};

    for (size_t at = 0, n; at < db->news.len; at += n) {
        n = db->news.len - at;
        if (n > NEWS_BYTES) {
            const char *end = memrchr(news + at, ' ', NEWS_BYTES);
            n = (size_t)(end + 1 - (news + at));
        }
        aiq_buf_printf(&sql, "NOTIFY " NEWS_CHANNEL ", '%.*s';", (int)n, news + at);
    }
    aiq_buf_add(&sql, "COMMIT", sizeof("COMMIT"));
    bool ok = pg_script(db, (char *)sql.data);
    aiq_buf_free(&sql);
    return ok;
}

/* The table has one row; before the first migration there is none. */
static bool pg_version(store_db *db, int64_t *version)
{
    if (!pg_script(db, "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")) {
        return false;
    }
    store_rows *rows = store_query(db, "SELECT version FROM schema_version", "");
    *version = store_next(rows) ? store_int(rows, 0) : 0;
    return store_rows_end(rows, NULL);
}

static bool pg_set_version(store_db *db, int64_t version)
{
    return store_exec(db, NULL, "DELETE FROM schema_version", "") &&
           store_exec(db, NULL, "INSERT INTO schema_version (version) VALUES ($1)", "i",
                      version);
}

/* Statements. */

static void pg_unprepare(store_rows *rows)
{
    PQclear(((pg_rows *)rows)->result);
    free(rows);
}

static store_rows *pg_prepare(store_db *db, const char *sql, const char *types)
{
    pg_rows *rows = aiq_zalloc(sizeof(*rows));
    Oid oids[STORE_PARAMS_MAX];
    int n = 0;

    for (; types[n]; n++) {
        oids[n] = types[n] == 'i' ? OID_INT8 : OID_TEXT;
    }
    snprintf(rows->name, sizeof(rows->name), "s%u", db->n_statements);
    PGresult *result = answer(db, PQsendPrepare(conn_of(db), rows->name, sql, n, oids));
    if (result == NULL) {
        free(rows);
        return NULL;
    }
    PQclear(result);
    return &rows->base;
}

static bool pg_run(store_rows *base, const store_value *values)
{
    pg_rows *rows = (pg_rows *)base;
    const char *texts[STORE_PARAMS_MAX];
    uint64_t numbers[STORE_PARAMS_MAX];
    int lengths[STORE_PARAMS_MAX], formats[STORE_PARAMS_MAX];

    for (unsigned i = 0; i < base->n_params; i++) {
        formats[i] = 1;
        texts[i] = values[i].text.data;
        lengths[i] = (int)values[i].text.len;
        if (values[i].type == 'i') {
            numbers[i] = htobe64((uint64_t)values[i].number);
            texts[i] = (const char *)&numbers[i];
            lengths[i] = sizeof(numbers[i]);
        }
    }
    rows->result =
        answer(base->db, PQsendQueryPrepared(conn_of(base->db), rows->name, (int)base->n_params,
                                             texts, lengths, formats, 0));
    rows->row = -1;
    return rows->result != NULL;
}

static bool pg_next(store_rows *base)
{
    pg_rows *rows = (pg_rows *)base;

    if (rows->row + 1 >= PQntuples(rows->result)) {
        return false;
    }
    rows->row++;
    return true;
}

static aiq_str pg_text(const store_rows *base, unsigned column)
{
    const pg_rows *rows = (const pg_rows *)base;

    if (PQgetisnull(rows->result, rows->row, (int)column)) {
        return (aiq_str){0};
    }
    return (aiq_str){PQgetvalue(rows->result, rows->row, (int)column),
                     (size_t)PQgetlength(rows->result, rows->row, (int)column)};
}

/* SQLite's comparisons are numbers, PostgreSQL's are booleans. */
static int64_t pg_number(const store_rows *base, unsigned column)
{
    aiq_str text = pg_text(base, column);

    if (text.data == NULL) {
        return 0;
    }
    return text.data[0] == 't' ? 1 : strtoll(text.data, NULL, 10);
}

static int64_t pg_reset(store_rows *base)
{
    pg_rows *rows = (pg_rows *)base;
    int64_t changed = rows->result ? strtoll(PQcmdTuples(rows->result), NULL, 10) : 0;

    PQclear(rows->result);
    rows->result = NULL;
    return changed;
}

/* News. */

static bool pg_listen(store_db *db)
{
    return pg_script(db, "LISTEN " NEWS_CHANNEL);
}

static bool pg_hear(store_db *db, int wake, void (*fn)(void *arg, aiq_str names), void *arg)
{
    PGconn *conn = conn_of(db);
    struct pollfd fds[] = {{.fd = PQsocket(conn), .events = POLLIN},
                           {.fd = wake, .events = POLLIN}};
    PGnotify *notice;

    while ((notice = PQnotifies(conn)) != NULL) { /* with the answer to LISTEN, perhaps */
        fn(arg, (aiq_str){notice->extra, strlen(notice->extra)});
        PQfreemem(notice);
    }
    if (poll(fds, 2, -1) < 0 && errno != EINTR) {
        return store_db_fault(db, FAULT_LOST, strerror(errno));
    }
    if (fds[0].revents && !PQconsumeInput(conn)) {
        return failed(db, NULL);
    }
    return true;
}

const store_backend store_postgres = {
    .name = "postgres",
    .describe = pg_describe,
    .connect = pg_connect,
    .disconnect = pg_disconnect,
    .begin = pg_begin,
    .script = pg_script,
    .commit = pg_commit,
    .version = pg_version,
    .set_version = pg_set_version,
    .prepare = pg_prepare,
    .unprepare = pg_unprepare,
    .run = pg_run,
    .next = pg_next,
    .number = pg_number,
    .text = pg_text,
    .reset = pg_reset,
    .listen = pg_listen,
    .hear = pg_hear,
};
