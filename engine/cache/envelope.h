/*
 * An answer as it lies in Redis: when it was kept, a digest, and the answer. The digest
 * is also of the key that it lies under, so that neither a torn value nor one that was
 * copied from another key passes for an answer. Who can write to Redis can make one: it
 * guards against accidents. Pure.
 */

#ifndef AIQ_ENVELOPE_H
#define AIQ_ENVELOPE_H

#include "cache/lru.h"
#include "core/pool.h"

/* Appends it. stored_ms: Unix time. */
void envelope_write(aiq_buf *out, const uint8_t key[LRU_KEY], int64_t stored_ms,
                    const void *data, size_t len);

/* False: it is none, or not of this key. data: a part of value. */
bool envelope_read(aiq_str value, const uint8_t key[LRU_KEY], int64_t *stored_ms,
                   aiq_str *data);

#endif
