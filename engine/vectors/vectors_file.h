/*
 * An index as a file: what was kept outlives the engine.
 *
 * A file is a head with a digest of all that follows, and the vectors, the least recently used
 * first. One that was cut, or of which a byte is another, is refused whole. Times are Unix
 * times in it, for the clock that entries expire by begins with the machine.
 *
 * Blocking: not on a loop.
 */

#ifndef AIQ_VECTORS_FILE_H
#define AIQ_VECTORS_FILE_H

#include "core/err.h"
#include "vectors/vectors.h"

typedef struct {
    uint64_t now_ms;  /* of entries */
    uint64_t unix_ms; /* the same moment */
} vectors_clock;

/* Appends all that has not expired. */
void vectors_write(const vectors *v, vectors_clock clock, aiq_buf *out);
/* Adds what was written; false: it was not, and nothing is added. What is there already stays
 * as it is. Pure. */
bool vectors_read(vectors *v, vectors_clock clock, aiq_str text);

/* Whole or not at all, for whoever looks; readable for the engine's user alone. */
bool vectors_save(const vectors *v, vectors_clock clock, const char *path, aiq_err *err);
/* A file that is not there is none to refuse. max: bytes of the largest one that is read. */
bool vectors_load(vectors *v, vectors_clock clock, const char *path, size_t max, aiq_err *err);

#endif
