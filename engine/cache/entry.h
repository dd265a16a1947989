/*
 * An answer as it is kept: its body as the client was sent it, who gave it, and whether it
 * is a stream. Pure.
 */

#ifndef AIQ_CACHE_ENTRY_H
#define AIQ_CACHE_ENTRY_H

#include <stdbool.h>
#include "core/json.h"
#include "core/pool.h"

typedef struct {
    aiq_str body;            /* never empty */
    aiq_str provider, model; /* printable */
    bool stream;
} cache_entry;

/* Appends what follows the body. Names are shorter than 64 KB. */
void entry_finish(aiq_buf *out, const char *provider, const char *model, bool stream);

/* False: it is none; what comes from Redis may be anything. The parts are of data. */
bool entry_read(const void *data, size_t len, cache_entry *entry);

#endif
