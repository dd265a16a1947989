/*
 * A request as an API of OpenAI's kind may have it that refuses members it does not
 * know, as Mistral's does: what `lacks` of its aiq_provider names is left out, and
 * max_completion_tokens becomes max_tokens, which it was before. Pure.
 */

#ifndef AIQ_OPENAI_LACKING_H
#define AIQ_OPENAI_LACKING_H

#include "core/policy.h"
#include "providers/chat_request.h"

/* chat itself where the provider lacks nothing; else in the pool. */
const chat_request *openai_without(const chat_request *chat, const policy_provider *provider,
                                   aiq_pool *pool);

#endif
