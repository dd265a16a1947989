/*
 * The store: what must outlive the process. One interface, two back ends:
 * SQLite, a file beside the engine's socket, and PostgreSQL for several engines.
 *
 * Work is brought as a function that runs inside a transaction on one of the
 * store's threads; what it found out or did comes back as a message to the loop.
 *
 *     write   one thread. Transactions that wait together share one commit; one's
 *             failure undoes only its own work.
 *             done() comes after that commit is on disk, for every one of them:
 *             there is no faster kind of write that a crash may undo, for sharing
 *             the commit already makes it cheap.
 *     read    other threads, which never wait for writers. One snapshot a
 *             transaction; it contains every write whose done() has been called.
 *
 * Writes of all engines that share a store come one after the other, on both
 * back ends: a transaction may read, decide and write, and nothing changes in
 * between. It may be run again where it was undone, by the back end or because one
 * failed that shares its commit; so it sets what it answers anew each time and touches
 * nothing outside but its arg.
 *
 * The queues are bounded (STORE_QUEUE): beyond, 503 store_busy at once. While
 * the back end is away (locked, disk full, no connection) requests fail with 503
 * store_unavailable, /health says why, and the store tries again by itself. After
 * a 503 a write may have been committed all the same where the connection broke in
 * the commit: whoever repeats it names its rows so that they are not made twice.
 *
 * Engines that share a store tell each other by it: a transaction announces names, and
 * every engine hears those of each that was committed, and nothing else. PostgreSQL does
 * that; SQLite has nothing that wakes another process, so who waits for another engine's
 * writes looks now and then. That is no loss: several engines share a file only while one
 * takes over from another.
 *
 * The schema is the sequence of migrations/NNN_*.sql, built into the binary, one
 * text for both back ends: TEXT, BIGINT and INTEGER columns, no deferred
 * constraints. Each is applied in a transaction of its own together with its
 * number; a schema that a newer engine has migrated further is refused.
 */

#ifndef AIQ_STORE_H
#define AIQ_STORE_H

#include "core/err.h"
#include "core/loop.h"
#include "core/pool.h"

#define STORE_QUEUE 4096 /* transactions that may wait, of each kind */

typedef struct store store;
typedef struct store_db store_db;     /* the transaction that a function runs in */
typedef struct store_rows store_rows; /* what a statement answers */

/* In a transaction, on a store's thread. False and *err: all of it is undone, and
 * done() gets *err. The same where a statement failed, whatever it returns. */
typedef bool (*store_tx)(store_db *db, void *arg, aiq_err *err);
/* On the loop's thread. err NULL: committed. */
typedef void (*store_done_fn)(aiq_loop *loop, void *arg, const aiq_err *err);

/* url: "sqlite:PATH" (made where there is none) or "postgres://…" as libpq reads it.
 * Migrates it, registers the health component "store" and metrics. Blocks: main
 * thread, before the loops start. NULL and *err, whose detail says what to do and
 * holds no password. */
store *store_open(aiq_engine *engine, const char *url, aiq_err *err);

/* fn hears what is announced, by this engine as well, on a thread of its own that it may
 * not keep waiting. name.data NULL: from now on (store_announces()), or not any more; or
 * once more after that, so that something may have been missed. Nothing with a back end
 * that announces nothing. Once, before the loops start; ends with store_stop(). */
typedef void (*store_heard_fn)(void *arg, aiq_str name);
bool store_hear(store *s, store_heard_fn fn, void *arg, aiq_err *err);
/* Is it heard at present what is announced? Any thread. */
bool store_announces(const store *s);

/* Runs what waits, then refuses. Main thread, after the loops have ended and before
 * what the done functions touch is freed; loop_flush() then calls them. */
void store_stop(store *s);

/* After store_stop() or without it. NULL is fine. */
void store_close(store *s);

/* Runs tx(db, tx_arg) inside a transaction, then done(loop, done_arg). Any thread;
 * never blocks. False and *err (503): refused, neither is called. */
bool store_write(store *s, aiq_loop *loop, store_tx tx, void *tx_arg, store_done_fn done,
                 void *done_arg, aiq_err *err);
bool store_read(store *s, aiq_loop *loop, store_tx tx, void *tx_arg, store_done_fn done,
                void *done_arg, aiq_err *err);

/* Statements, for transactions.
 *
 * sql is a literal: a statement is prepared once and found again by its address. It
 * names parameters $1, $2, … and is written so that SQLite and PostgreSQL read it alike
 * (ON CONFLICT, RETURNING). types has a letter for each parameter, in their order:
 *     i  int64_t (not int)
 *     t  aiq_str, text in UTF-8 without NUL; its data NULL: NULL
 *     s  const char *, the same; NULL: NULL
 */

/* One that answers nothing. */
bool store_exec(store_db *db, aiq_err *err, const char *sql, const char *types, ...);
/* Rows that the last store_exec() inserted, changed or deleted. */
int64_t store_changed(const store_db *db);

/* All engines hear the name once the transaction is committed; also, rarely, where only
 * others were that shared its commit. A letter, digit or '_' each; in writes. */
void store_announce(store_db *db, const char *name);

/* One that answers rows. Never NULL; ended with store_rows_end(), on every way. The
 * same sql may not be asked again before. */
store_rows *store_query(store_db *db, const char *sql, const char *types, ...);
/* False: no more rows, or it failed. */
bool store_next(store_rows *rows);
/* Of the present row, columns from 0; text is valid until the next call for these
 * rows. NULL reads as 0 and as data NULL; so does all where there is no row. */
int64_t store_int(const store_rows *rows, unsigned column);
aiq_str store_text(const store_rows *rows, unsigned column);
/* False and *err where the statement failed. A constraint violated: 409 store_conflict. */
bool store_rows_end(store_rows *rows, aiq_err *err);

#endif
