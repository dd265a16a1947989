/*
 * One chunk of an OpenAI stream: checked, looked at, and freed of what the
 * client did not ask for. Pure.
 */

#ifndef AIQ_OPENAI_CHUNK_H
#define AIQ_OPENAI_CHUNK_H

#include "providers/provider.h"

/* What has been seen of a stream. */
typedef struct {
    bool done;     /* [DONE] */
    bool finished; /* a finish_reason: the answer is whole even if [DONE] is missing */
    provider_tokens tokens;
} openai_stream;

typedef enum { OPENAI_PASS, OPENAI_DROP, OPENAI_BAD } openai_verdict;

/* *data: the event's data; changed in place where something is taken out.
 * OPENAI_BAD: no JSON, or an error of the provider's; *wrong says so, for the
 * log. wants_usage: the client has asked for the usage. */
openai_verdict openai_chunk(openai_stream *s, aiq_str *data, bool wants_usage,
                            const char **wrong);

/* Does a chunk carry nothing of an answer yet: a role, an empty text, no end? What
 * is no chunk is not empty. */
bool openai_chunk_is_empty(aiq_str data);

/* Of a `usage` member, whatever it is. */
provider_tokens openai_usage(const json_value *usage);

#endif
