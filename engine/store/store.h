/*
 * The store: what must outlive the process. One interface; the back end is
 * SQLite, a file beside the engine's socket unless told otherwise.
 *
 * The schema is the sequence of migrations/NNN_*.sql, built into the binary.
 * SQLite's user_version says how many have been applied; each is applied in a
 * transaction of its own together with that number, so an interrupted start
 * leaves a whole schema of some version. A file that a newer engine has
 * migrated further is refused, never guessed at.
 */

#ifndef AIQ_STORE_H
#define AIQ_STORE_H

#include "core/err.h"
#include "engine.h"

typedef struct store store;

/* url: "sqlite:PATH". Makes the file where there is none, migrates it, and
 * registers the health component "store". Blocks: before the loops start. NULL
 * and *err, whose detail says what to do. */
store *store_open(aiq_engine *engine, const char *url, aiq_err *err);

/* After the loops have ended. NULL is fine. */
void store_close(store *s);

#endif
