/*
 * Answers of OpenAI's chat API in the words of its Responses API: the chunks of a stream
 * as typed, numbered events, a whole completion as a response. Pure.
 *
 * An answer is a list of items: a thought, a message with a text or a refusal, a call of a
 * tool. A thought or a message ends where another item begins. The arguments of several
 * calls may come in turn, so calls end with the stream. Each item is told whole at its end,
 * and all of them once more with the last event, which waits for the usage; so what has
 * been said is kept here until then.
 */

#ifndef AIQ_RESPONSES_ANSWER_H
#define AIQ_RESPONSES_ANSWER_H

#include "providers/chat_request.h"

#define RESPONSES_ITEMS_MAX 128         /* what is beyond is an error, as is … */
#define RESPONSES_TEXT_MAX  (16u << 20) /* … an answer of more bytes than this */

typedef enum {
    RESPONSES_MESSAGE,
    RESPONSES_REFUSAL,
    RESPONSES_THOUGHT,
    RESPONSES_CALL
} responses_kind;

/* Texts as JSON has them between quotes. */
typedef struct {
    responses_kind kind;
    bool ended, cut; /* cut: by a limit, not by its own end */
    int64_t index;   /* of a call, OpenAI's */
    aiq_buf text;    /* or a call's arguments */
    aiq_buf name;    /* of a call: its call_id, then its name … */
    size_t id_len;   /* … and where that begins */
} responses_item;

typedef struct {
    const chat_request *chat; /* the client's */
    int64_t created;          /* s since 1970 */
    bool started, ended;
    uint32_t sequence; /* of the next event */
    uint32_t n_items;
    size_t bytes;           /* of all texts */
    aiq_buf id, model;      /* of the chat's answer */
    const char *incomplete; /* why the answer is not whole; NULL: it is */
    int64_t in, cached, out, reasoning;
    responses_item items[RESPONSES_ITEMS_MAX];
} responses_stream;

/* chat lives as long as the stream. The stream begins zeroed. */
void responses_begin(responses_stream *s, const chat_request *chat, int64_t now);
void responses_free(responses_stream *s);

/* Appends the events that a chunk makes, "[DONE]" being one. A chunk that is none makes
 * nothing: the provider's dialect has refused it before. */
void responses_chunk(responses_stream *s, aiq_str data, aiq_buf *out);

/* The stream is whole: what [DONE] makes, if that has not come. */
void responses_end(responses_stream *s, aiq_buf *out);

/* The event that ends a stream in an error; body: in the envelope of OpenAI's errors. */
void responses_error(responses_stream *s, aiq_str body, aiq_buf *out);

/* A whole completion. False: it is none. */
bool responses_completion(aiq_str body, const chat_request *chat, int64_t now, aiq_buf *out);

#endif
