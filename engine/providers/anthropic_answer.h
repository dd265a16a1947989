/*
 * Anthropic's answers in OpenAI's words: the events of a stream as chunks, a
 * whole message as a completion, an error as an error. Pure.
 *
 *     text         content
 *     tool_use     tool_calls; Anthropic counts all blocks, OpenAI the tools alone
 *     thinking     reasoning_content, as other providers call it
 *     other blocks nothing: they are not for the reader
 *
 * The usage of a stream comes in two parts (message_start, message_delta), the
 * later one counting all; what was read from a cache or written to it is part
 * of the prompt's tokens.
 */

#ifndef AIQ_ANTHROPIC_ANSWER_H
#define AIQ_ANTHROPIC_ANSWER_H

#include "providers/provider.h"

#define ANTHROPIC_TOOLS_MAX 128 /* calls in one answer */

/* -1: not said */
typedef struct {
    int64_t in, cache_read, cache_written, out, thinking;
} anthropic_usage;

typedef struct {
    aiq_buf head; /* how every chunk begins */
    aiq_buf out;  /* the chunks of the last event */
    anthropic_usage usage;
    int64_t created;                      /* seconds since 1970 */
    uint32_t blocks[ANTHROPIC_TOOLS_MAX]; /* of each tool, the index of its block */
    uint32_t n_tools;
    bool native; /* events pass as they came; they are only looked at */
    bool wants_usage;
    bool finished; /* a stop reason: the answer is whole even if message_stop is missing */
    bool done;     /* message_stop */
} anthropic_stream;

void anthropic_stream_init(anthropic_stream *s, int64_t created, bool wants_usage);
void anthropic_stream_free(anthropic_stream *s);

/* An event's data. The chunks that it makes, "[DONE]" among them, are *n texts in
 * chunks, valid until the next call. False: no event, or an error of the provider's,
 * whose kind is in err->status and code; err->detail says what was wrong. */
bool anthropic_event(anthropic_stream *s, aiq_str data, aiq_str chunks[2], size_t *n,
                     aiq_err *err);

/* The end of a stream whose message_stop is missing: as anthropic_event(). */
void anthropic_end(anthropic_stream *s, aiq_str chunks[2], size_t *n);

/* Does an event come before the first token, whatever follows it? */
bool anthropic_event_is_empty(aiq_str data);

provider_tokens anthropic_tokens(const anthropic_usage *usage);
/* Of a `usage` member, whatever it is: what it says replaces what is known. */
void anthropic_add_usage(anthropic_usage *usage, const json_value *value);

/* A whole message. False and the reason: it is none. */
bool anthropic_completion(aiq_str body, int64_t created, aiq_buf *out, provider_tokens *tokens,
                          const char **wrong);

/* The body of an error. False: it is none. */
bool anthropic_error(aiq_str body, aiq_buf *out);

#endif
