/*
 * A request of OpenAI's Responses API, put in the words of its chat API, which every
 * provider here understands or is translated from. Pure.
 *
 *     instructions                a system message before all others
 *     input                       messages; a text is one of the user's
 *     function_call, …_output     tool_calls of one assistant's message, messages of role tool
 *     max_output_tokens           max_completion_tokens
 *     text.format, .verbosity     response_format, verbosity
 *     reasoning.effort            reasoning_effort
 *     tools, tool_choice          the same, nested as chats have it
 *
 * Nothing is kept between requests, so what refers to an earlier one (store: true,
 * previous_response_id, conversation, item_reference) is a 400 that names the field, as
 * are OpenAI's own tools and whatever else a chat cannot say. Reasoning items of earlier
 * answers are not repeated: they are the model's that had them.
 */

#ifndef AIQ_RESPONSES_REQUEST_H
#define AIQ_RESPONSES_REQUEST_H

#include "providers/chat_request.h"

/* As OpenAI has it. */
#define RESPONSES_OUTPUT_MIN 16

/* False and a 400, which names the field. */
bool responses_request_parse(chat_request *chat, aiq_str body, aiq_err *err);

/* For chat_request.translate. */
const chat_request *responses_request_translate(const chat_request *chat, aiq_pool *pool,
                                                aiq_err *err);

#endif
