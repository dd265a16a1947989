/*
 * Guaranteed streams (`X-AIQ-QoS: guaranteed`): what another engine needs to go on with one
 * (streams/durable.h): a document, and the policy; and how it does so.
 *
 *     {"location": 3, "method": 2, "uri": "/v1/chat/completions",
 *      "tenant": "default", …, "headers": [["x-aiq-continue", "allow"]], "body": "{…}"}
 *
 * What has been said is read back from what the events were made of; then the rest is asked for
 * as continuation.h has it: of local models, or where the client allows it. Whatever is in the
 * way ends the stream with an error event.
 */

#ifndef AIQ_GATEWAY_GUARANTEED_H
#define AIQ_GATEWAY_GUARANTEED_H

#include "services/gateway/client.h"
#include "services/gateway/continuation.h"
#include "streams/durable.h"

/* Does the request want one? False and a 400 in *err: it says what nobody knows, or is not
 * answered by a stream that is kept. */
bool guaranteed_wanted(const aiq_job *job, const chat_request *chat, bool *wanted,
                       aiq_err *err);

/* The request's texts lie in *memory, which the caller frees, and in the job. */
durable_request guaranteed_request(const aiq_job *job, const policy_model *model, aiq_str body,
                                   aiq_buf *memory);

/* The job that goes on, to be started (job_alone_start()); *body lies in its pool. NULL and
 * *err. */
aiq_job *guaranteed_job(aiq_loop *loop, const durable_orphan *orphan, aiq_str *body,
                        aiq_err *err);

/* Brings a client dialect's stream (client.h) to where it was, and gathers what was said. True:
 * that was all of it. */
bool guaranteed_replay(aiq_str source, const client_dialect *client, void *state,
                       continuation *said);

/* The request with what was said, for attempts_start(). NULL and *err: nobody may go on. */
chat_request *guaranteed_rest(const aiq_job *job, const policy_model *model,
                              const chat_request *chat, const continuation *said, aiq_err *err);

/* durable_on_orphan() */
void guaranteed_orphan(aiq_loop *loop, const durable_orphan *orphan);

#endif
