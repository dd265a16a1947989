/*
 * Provider keys. A policy names them, the engine alone reads them:
 *
 *     env:NAME     from the engine's environment
 *     file:NAME    a file below the --secrets folder; read again when it has
 *                  changed (looked at once a second at most)
 *
 * A name cannot lead out of the folder, by .. or by a link. At most SECRET_MAX
 * bytes; a line end at the end is dropped; a key with control characters in
 * it counts as missing. Keys are never logged and stand in no message.
 */

#ifndef AIQ_SECRETS_H
#define AIQ_SECRETS_H

#include "core/err.h"
#include "core/pool.h"

#define SECRET_MAX 4096

/* One per loop, used by its thread. */
typedef struct secrets secrets;

/* folder: of file: names; NULL: there is none. Borrowed. */
secrets *secrets_new(const char *folder);
void secrets_free(secrets *s);

/* The key by its name. The slice is valid until the next call. False: missing,
 * err->detail says why. */
bool secrets_get(secrets *s, const char *name, aiq_str *key, aiq_err *err);

#endif
