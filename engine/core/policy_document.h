/* Inside policy.c's room: from the document's text to the policy. */

#ifndef AIQ_POLICY_DOCUMENT_H
#define AIQ_POLICY_DOCUMENT_H

#include "core/policy.h"
#include "core/pool.h"

/* Fills in all but sha256; what it points to lies in the pool. */
bool policy_read_document(aiq_policy *policy, aiq_pool *pool, const char *text, size_t len,
                          aiq_err *err);

#endif
