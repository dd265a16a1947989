/*
 * How a client speaks: what chat*.c need to know of its dialect. Requests become
 * a chat_request, answers come as a provider gives them: in OpenAI's words, or
 * (native) in the client's own, as they shall pass.
 */

#ifndef AIQ_GATEWAY_CLIENT_H
#define AIQ_GATEWAY_CLIENT_H

#include "link/job.h"
#include "providers/chat_request.h"
#include "services/gateway/form.h"

typedef struct {
    /* False and a 400 in *err. What it makes lies in the job's pool. */
    bool (*parse)(chat_request *chat, const aiq_job *job, aiq_str body, aiq_err *err);

    /* Of a stream, zeroed at its start; in the job's pool. */
    size_t stream_size;
    void (*begin)(void *stream, const chat_request *chat); /* NULL: zero is all; so … */
    void (*release)(void *stream);                         /* … here */
    /* Append to out what an event, or the stream's end, is to the client. */
    void (*event)(void *stream, aiq_str data, bool native, aiq_buf *out);
    void (*end)(void *stream, bool native, aiq_buf *out);
    /* Appends an error, in the client's envelope, that ends the stream. NULL: the
     * connection is closed instead. */
    void (*error)(void *stream, aiq_str body, aiq_buf *out);

    /* A whole answer, or an error of the provider's about the request: what the client
     * shall get of it. Where it is not body itself it is appended to out. False: the
     * provider's answer is none. */
    bool (*reply)(const aiq_job *job, const chat_request *chat, unsigned status, aiq_str *body,
                  aiq_buf *out);
} client_dialect;

extern const client_dialect client_openai, client_anthropic, client_responses;

/* Of the endpoints of OpenAI's that pass as they come, those of them whose bodies may be forms
 * and whose answers may be anything, and of count_tokens. */
extern const client_dialect client_passing, client_raw, client_files, client_counting;

/* A form of client_raw, as it comes. False: it is none; see client_form_invalid(). */
enum { CLIENT_FORM_MODEL, CLIENT_FORM_N }; /* its fields */
bool client_form_begin(form *f, const aiq_job *job);
/* What parse() makes of it, as far as its fields were found. */
bool client_form_parse(chat_request *chat, const aiq_job *job, aiq_str body, const form *f,
                       aiq_err *err);
/* 400: it could be read in two ways. Returns false. */
bool client_form_invalid(const form *f, aiq_err *err);

/* "data:" lines of an event, and the empty line. */
void client_add_data(aiq_buf *out, aiq_str data);

#endif
