/*
 * What of a request the semantic cache may look for (cache/semantic.h): the text of the last
 * message, where that is a user's and nothing but text. All the rest of the request is its
 * partition, with who makes its vector: the built-in embedder, or a local model.
 *
 * There is none of a request with tools, whose answer may be an act, nor of one whose answer
 * is drawn at random, unless the location says `tools` and `temperature`.
 */

#ifndef AIQ_GATEWAY_SIMILAR_H
#define AIQ_GATEWAY_SIMILAR_H

#include "cache/semantic.h"
#include "link/job.h"
#include "providers/chat_request.h"

/* The question, with one reference; NULL: there is none to look for. On the job's loop; so the
 * rest. */
semantic_question *similar_question(const aiq_job *job, const policy_model *model,
                                    const chat_request *chat);

typedef struct similar_call similar_call;

/* Has the model make the question's vector, where it is one that does; told() follows, whether
 * that went well or not (semantic_question_ready()). NULL: it does not, for nothing is to be
 * made, or the model has too much to do. */
similar_call *similar_make(const aiq_job *job, semantic_question *q, void (*told)(void *arg),
                           void *arg);
/* told() does not come any more. */
void similar_cancel(similar_call *call);

#endif
