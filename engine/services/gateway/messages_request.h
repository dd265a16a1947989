/*
 * A request of Anthropic's Messages API, checked as far as every provider needs
 * it, and put in OpenAI's words for those that do not speak Anthropic's. Pure.
 *
 *     system                      a system message
 *     tool_use, tool_result       tool_calls, messages of the role tool
 *     image, document             image_url and file parts
 *     max_tokens                  max_completion_tokens
 *     stop_sequences              stop
 *     thinking, output_config     reasoning_effort, response_format
 *     metadata.user_id            user
 *
 * Thinking of earlier answers is not repeated: it is signed for the model that had
 * it. cache_control and eager_input_streaming are left out, for others cache, and
 * stream a tool's input, unasked. What else OpenAI's dialect cannot say is a 400 that
 * names the field.
 */

#ifndef AIQ_MESSAGES_REQUEST_H
#define AIQ_MESSAGES_REQUEST_H

#include "providers/chat_request.h"

/* False and a 400, which names the field. */
bool messages_request_parse(chat_request *chat, aiq_str body, aiq_err *err);

/* For chat_request.translate. */
const chat_request *messages_request_translate(const chat_request *chat, aiq_pool *pool,
                                               aiq_err *err);

/* The same of a request that is to be counted, of which nothing was checked before. */
const chat_request *messages_request_translate_count(const chat_request *chat, aiq_pool *pool,
                                                     aiq_err *err);

#endif
