/*
 * What makes two requests the same for the cache: a digest of everything that has a say in the
 * answer (cached.h). Pure.
 */

#ifndef AIQ_GATEWAY_CACHED_KEY_H
#define AIQ_GATEWAY_CACHED_KEY_H

#include "cache/lru.h"
#include "link/job.h"
#include "providers/chat_request.h"

/* hole: a part of the body that may be another one; empty, with data NULL: none. */
void cached_key(uint8_t key[LRU_KEY], const aiq_job *job, const policy_model *model,
                const chat_request *chat, aiq_str hole);

#endif
