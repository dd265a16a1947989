/*
 * A local model's answers in OpenAI's objects: chunks of a stream as the model speaks, or one
 * completion at the end. Where a request has tools, or the model thinks, what it says is taken
 * apart (infer/tool_calls.h): calls become "tool_calls", thoughts "reasoning_content".
 *
 * In a completion, a call whose arguments are no JSON is told as text; in a stream it has been
 * told by then, and does not count for the finish_reason. An answer that a stop string has
 * ended names it as "stop_reason", which OpenAI's API does not have: vLLM says so, too, and
 * Anthropic's clients must be told.
 */

#ifndef AIQ_LOCAL_ANSWER_H
#define AIQ_LOCAL_ANSWER_H

#include "infer/infer.h"
#include "infer/tool_calls.h"
#include "providers/provider.h"

/* What the answers of a request share. */
typedef struct {
    provider_events events;
    void *arg;
    bool stream, wants_usage, wants_logprobs;
    bool tells_prompt;      /* the next chunk says how long the prompt is */
    provider_tokens prompt; /* before anything is said: its tokens */
    char id[25];            /* letters and digits */
    aiq_buf prefix;         /* what every object begins with */
    aiq_buf out;            /* a chunk */
} local_writer;

typedef struct {
    local_writer *writer;
    unsigned index;
    tool_parser *parser; /* NULL: all is text */
    bool begun;          /* its role has been sent */
    unsigned calls;      /* whole ones */
    infer_finish finish;
    const char *stop; /* what it ended before; NULL: nothing */
    aiq_buf logprobs; /* of what was not told yet: objects with commas between them */

    /* of what is no stream: so far */
    aiq_buf text, thought, tool_calls, arguments;
    size_t call_at; /* where the call under way begins in tool_calls */
} local_answer;

/* Copies what it needs of the request. */
void local_writer_init(local_writer *w, const chat_request *chat, const provider_events *events,
                       void *arg);
void local_writer_free(local_writer *w);

/* options: NULL where all is text; they and what they point to stay as long as the answer. */
void local_answer_init(local_answer *a, local_writer *w, unsigned index,
                       const tool_options *options);
void local_answer_free(local_answer *a);

/* More of what the model says, with the log-probabilities that belong to it. */
void local_answer_say(local_answer *a, const aiq_buf *text, const aiq_buf *logprobs);
/* stop: the stop string that ended it, which stays until all have ended; NULL: none. */
void local_answer_end(local_answer *a, infer_finish finish, const char *stop);

/* All n have ended: the last events. */
void local_answers_done(const local_answer *answers, unsigned n, provider_tokens tokens);

#endif
