/*
 * Tools in a chat request for a local model: "tools", "tool_choice", "parallel_tool_calls", and
 * the messages that call them and answer for them. What is wrong is a 400; its sentence says
 * what in words that clients of every dialect know, its param where in OpenAI's.
 */

#ifndef AIQ_LOCAL_TOOLS_H
#define AIQ_LOCAL_TOOLS_H

#include "infer/infer.h"
#include "infer/tool_grammar.h"
#include "providers/chat_request.h"

#define LOCAL_MAX_TOOLS 128
#define LOCAL_MAX_NAME  64
#define LOCAL_MAX_CALLS 128 /* of one message */

typedef struct {
    aiq_str list;      /* what the model is told: JSON; empty: none, or none may be called */
    tool_shape *tools; /* [n] */
    aiq_str *names;    /* [n] */
    size_t n;
    bool required;           /* one must be called, */
    const tool_shape *named; /* this one; NULL: any */
    bool one;                /* at most one */
} local_tools;

/* Everything in *out lies in the pool or in the request. False and a 400. */
bool local_tools_read(const chat_request *chat, aiq_pool *pool, local_tools *out, aiq_err *err);

/* An assistant's thoughts and calls, or what a tool's message answers; i is the message's
 * place. caller: the last message in front of it that calls, or NULL. False and a 400. */
bool local_tools_message(const json_value *object, uint32_t i, const infer_message *caller,
                         aiq_pool *pool, infer_message *message, aiq_err *err);

#endif
