/*
 * What a vector of the semantic cache leads to: whose it is, the question's words (gate.h), and
 * the answer (entry.h). Pure.
 */

#ifndef AIQ_CACHE_SEMANTIC_ENTRY_H
#define AIQ_CACHE_SEMANTIC_ENTRY_H

#include <stdint.h>
#include "core/pool.h"

#define SEMANTIC_TENANT 32 /* bytes of a digest */

typedef struct {
    const uint8_t *tenant; /* [SEMANTIC_TENANT] */
    aiq_str words, answer;
} semantic_entry;

void semantic_entry_write(aiq_buf *out, const semantic_entry *entry);

/* False: it is none; what comes from a file may be anything. The parts are of data. */
bool semantic_entry_read(aiq_str data, semantic_entry *entry);

#endif
