/*
 * A chat request in Anthropic's words: what POST /messages takes. Pure.
 *
 *     system and developer messages   `system`, in their order, wherever they stood
 *     tool messages                   tool_result blocks of one user turn
 *     tool_calls                      tool_use blocks, the arguments as an object
 *     images, files                   image and document blocks, from data: or https:
 *     max_completion_tokens           max_tokens, which Anthropic always wants
 *     response_format json_schema     output_config.format
 *     reasoning_effort                output_config.effort
 *     user                            metadata.user_id
 *
 * Turns of the same role are joined, and texts that are empty left out, as
 * Anthropic refuses both. `reasoning_content` of earlier answers says nothing to
 * a model that has not signed it, so it is not repeated. What else Anthropic
 * cannot do is a 400 that names the field.
 */

#ifndef AIQ_ANTHROPIC_REQUEST_H
#define AIQ_ANTHROPIC_REQUEST_H

#include "providers/chat_request.h"

/* Where a request bounds its answer by nothing: what every model of Anthropic's takes. */
#define ANTHROPIC_MAX_TOKENS 4096

/* Appends the body to out. False and a 400 in *err; out holds rubbish then. */
bool anthropic_request(const chat_request *chat, const char *model, aiq_pool *pool,
                       aiq_buf *out, aiq_err *err);

#endif
