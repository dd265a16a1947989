/*
 * A chat request in the terms of a local model. What such a model cannot do is
 * refused by name, rather than left out in silence.
 */

#ifndef AIQ_LOCAL_CHAT_H
#define AIQ_LOCAL_CHAT_H

#include "infer/infer.h"
#include "providers/chat_request.h"
#include "providers/local_tools.h"

#define LOCAL_MAX_CHOICES 16

/* Everything in *params and *tools lies in the pool or in the request. False and a 400. */
bool local_chat_params(const chat_request *chat, aiq_pool *pool, infer_params *params,
                       local_tools *tools, aiq_err *err);

/* What the answer must be, by "response_format" and the tools: a reference to its language, or
 * NULL for anything. *begins_so: from its first byte on, without thoughts before. False and a
 * 400 that says what of it we cannot. */
bool local_chat_language(const chat_request *chat, const local_tools *tools, const infer *model,
                         mask_language **out, bool *begins_so, aiq_err *err);

/* How many answers are wanted: 1..LOCAL_MAX_CHOICES, once the parameters are read. */
unsigned local_chat_choices(const chat_request *chat);

/* What a client hears of a request that the model does not take. Returns false. */
bool local_chat_refused(infer_rc rc, const char *why, aiq_err *err);

#endif
