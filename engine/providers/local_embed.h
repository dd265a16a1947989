/*
 * A request for vectors, from OpenAI's words to an embedder's and back. Pure.
 */

#ifndef AIQ_LOCAL_EMBED_H
#define AIQ_LOCAL_EMBED_H

#include "core/err.h"
#include "infer/embedder.h"
#include "providers/chat_request.h"

typedef struct {
    embed_input *inputs; /* [n], in the pool and the body */
    uint32_t n;
    bool single; /* 'input' is one text, or the tokens of one */
    bool base64; /* the answer's vectors shall be */
} local_embed_request;

/* False and a 400 that names the field. dimensions: of the model's vectors. */
bool local_embed_read(const chat_request *chat, aiq_pool *pool, uint32_t dimensions,
                      local_embed_request *out, aiq_err *err);

/* Appends the answer of a request that went well. model is JSON. */
void local_embed_write(aiq_buf *out, const local_embed_request *request, aiq_str model,
                       const embed_event *event);

/* What the client hears of one that did not: a 400 that names the input, or 5xx, or 429.
 * Returns false. */
bool local_embed_failed(aiq_err *err, const local_embed_request *request, embed_rc rc,
                        uint32_t input, const char *why);

#endif
