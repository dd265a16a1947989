/*
 * What a back end offers to the store, and what both share: a connection with its
 * prepared statements. Nothing here is seen outside engine/store/.
 *
 * A connection belongs to one thread. A failure leaves its mark in db->fault, and
 * from there on no statement runs until store_db_undone(): so a transaction that
 * overlooks an error cannot commit half of its work. The worst fault counts.
 */

#ifndef AIQ_STORE_BACKEND_H
#define AIQ_STORE_BACKEND_H

#include "store/store.h"

#define STORE_PARAMS_MAX 32
#define STORE_NAME_MAX   64 /* of a name that is announced, with its end */

typedef enum {
    FAULT_NONE,
    FAULT_STATEMENT, /* this transaction's own: what shared its commit is not touched */
    FAULT_AGAIN,     /* the back end undid everything; the same may now succeed */
    FAULT_LOST,      /* the connection is of no use; a new one may be */
} store_fault;

/* A parameter. Text has no NUL and is borrowed until the statement has run. */
typedef struct {
    char type; /* 'i' or 't' */
    int64_t number;
    aiq_str text;
} store_value;

/* A prepared statement and the rows of its latest run; a back end's own begins with it. */
struct store_rows {
    store_db *db;
    const char *sql;
    unsigned n_params;
    bool open;  /* between store_query() and store_rows_end() */
    bool there; /* it stands at a row */
};

typedef enum { STORE_WRITER, STORE_READER } store_kind;

typedef struct {
    const char *name;

    /* The URL without secrets, for logs. False and *err where it is none of ours. */
    bool (*describe)(const char *url, char *out, size_t size, aiq_err *err);
    /* Blocks for a few seconds at most. NULL and *err. */
    store_db *(*connect)(const char *url, store_kind kind, aiq_err *err);
    void (*disconnect)(store_db *db);

    /* A transaction: the writer's waits until no other engine writes. */
    bool (*begin)(store_db *db, store_kind kind);
    /* SQL without parameters and answers, several statements where wanted. */
    bool (*script)(store_db *db, const char *sql);
    /* Ends a transaction well, and db->news is heard with that. */
    bool (*commit)(store_db *db);
    /* The number of migrations that the schema has seen, within a transaction. */
    bool (*version)(store_db *db, int64_t *version);
    bool (*set_version)(store_db *db, int64_t version);

    /* Statements. prepare: types as for store_query(), at most STORE_PARAMS_MAX; NULL and
     * the mark. run: all of it is done, even where next() does not ask for the rows. */
    store_rows *(*prepare)(store_db *db, const char *sql, const char *types);
    void (*unprepare)(store_rows *rows);
    bool (*run)(store_rows *rows, const store_value *values);
    bool (*next)(store_rows *rows);
    int64_t (*number)(const store_rows *rows, unsigned column);
    aiq_str (*text)(const store_rows *rows, unsigned column);
    /* Ends the rows; how many the statement changed. */
    int64_t (*reset)(store_rows *rows);

    /* News; NULL: there are none. listen: from now on this connection gets them, and is for
     * nothing else. hear: waits for some, or until there is something to read from `wake`;
     * false and the mark: it is lost. names: as in db->news. */
    bool (*listen)(store_db *db);
    bool (*hear)(store_db *db, int wake, void (*fn)(void *arg, aiq_str names), void *arg);
} store_backend;

extern const store_backend store_sqlite, store_postgres;

/* A connection; a back end's own begins with it. */
struct store_db {
    const store_backend *backend;
    store_fault fault;
    aiq_err err; /* of the fault */
    int64_t changed;
    aiq_buf news; /* that the transaction announces: names, a space behind each */
    store_rows **statements;
    unsigned n_statements, statements_size, n_open;
    store_rows *broken; /* what store_query() gives where nothing can run */
};

/* Marks a fault; always false. The message and code that callers see follow from it,
 * detail is for the log. */
bool store_db_fault(store_db *db, store_fault fault, const char *detail);
/* A constraint was violated: FAULT_STATEMENT, 409. */
bool store_db_conflict(store_db *db, const char *detail);

/* Ends the rows that a transaction left open. */
void store_db_close_rows(store_db *db);
/* What the mark stood for is undone. */
void store_db_undone(store_db *db);
/* Frees the statements: for disconnect(). */
void store_db_forget(store_db *db);

/* Brings the schema up to the newest migration. Blocks. */
bool store_migrate(store_db *db, aiq_err *err);

#endif
