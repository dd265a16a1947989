/*
 * Another target goes on with what a broken stream has begun, where the client
 * has said `X-AIQ-Continue: allow`: it gets the conversation with the text so far
 * as the assistant's last message. That works for plain text of one choice; with
 * a tool call, a refusal or thoughts in it, a stream that breaks is broken.
 */

#ifndef AIQ_CONTINUATION_H
#define AIQ_CONTINUATION_H

#include "core/policy.h"
#include "providers/chat_request.h"

#define CONTINUATION_MAX (1u << 20)

typedef struct {
    bool allowed; /* and still possible */
    aiq_buf text; /* what the client has got, as JSON has it between quotes */
} continuation;

/* An event that goes to the client, of a stream that chat asks for. */
void continuation_take(continuation *c, aiq_str event);

/* What the next target is asked; in the pool. False: there is nothing to go on with. */
bool continuation_request(const continuation *c, const chat_request *chat, aiq_pool *pool,
                          chat_request *out);

/* The event between the two parts: a chunk without choices that names who goes on. */
aiq_str continuation_mark(const policy_target *target, const char *model, unsigned attempt,
                          aiq_pool *pool);

#endif
