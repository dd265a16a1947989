/*
 * What of a request the semantic cache may look for (cache/semantic.h): the text of the last
 * message, where that is a user's and nothing but text. All the rest of the request is its
 * partition, with the embedder's name.
 *
 * There is none of a request with tools, whose answer may be an act, nor of one whose answer
 * is drawn at random, unless the location says `tools` and `temperature`.
 */

#ifndef AIQ_GATEWAY_SIMILAR_H
#define AIQ_GATEWAY_SIMILAR_H

#include "cache/semantic.h"
#include "link/job.h"
#include "providers/chat_request.h"

/* The question, with one reference; NULL: there is none to look for. */
semantic_question *similar_question(const aiq_job *job, const policy_model *model,
                                    const chat_request *chat);

#endif
