/*
 * A chat request in OpenAI's shape: what every dialect starts from. It is
 * checked whole once, here; fields that nobody knows stay in the body and go to
 * the provider as they came. A client of another dialect fills in what it has of
 * these fields.
 *
 * All values are slices of the body, which must stay as long as the request.
 */

#ifndef AIQ_CHAT_REQUEST_H
#define AIQ_CHAT_REQUEST_H

#include "aiq_error.h"
#include "core/err.h"
#include "core/json.h"

typedef struct chat_request {
    aiq_str body;              /* a JSON object */
    json_value model;          /* a string */
    json_value messages;       /* an array, not empty, of objects with a role and content */
    json_value stream_options; /* an object, null or absent */
    json_value include_usage;  /* of stream_options: true, false, null or absent */
    json_value max_tokens, max_completion_tokens; /* positive, null or absent; so the rest */
    json_value temperature;                       /* 0..2 */
    json_value top_p;                             /* 0..1 */
    json_value n;                                 /* positive */
    json_value seed;                              /* an integer */
    json_value stop;                              /* a string, or up to 4 */
    json_value prompt, best_of; /* of the older completions: anything; positive */
    json_value input;           /* of what is no chat: anything */
    bool stream;
    bool plain; /* the content of every message is one string; false where nobody has looked */
    aiq_str said; /* of its answer before, as JSON has it between quotes: what is asked for is
                     the rest; empty: nothing */
    bool no_thoughts;  /* the client wants none; in OpenAI's words only some models know that */
    bool prompt_first; /* a stream's first chunk shall say how long the prompt is, if that is
                          known by then; other clients might add it to what the last one says */
    bool goes_on;      /* the last message is the assistant's own so far */
    bool begun; /* the last message (before that one) is the assistant's, and its API answers
                   with what comes behind it; in OpenAI's words only local models know that */
    bool wants_thoughts; /* asked for: an answer that has begun cannot have any */
    uint32_t cap; /* the most tokens of an answer where the request names none; 0: no matter */

    /* Another endpoint than that of chats: what is appended to a provider's url. The body
     * is not looked into then, but for the fields above that are there. NULL: a chat. */
    const char *path;
    /* Of such a request: its body may be a form, and its answer anything. Both pass as they
     * come, but for the model's name. */
    bool raw;
    aiq_str content_type;         /* of the body; empty: JSON */
    const char *method;           /* NULL: POST */
    aiq_str form_model;           /* in a form, where the model's name stands */
    aiq_str args;                 /* the query string; maybe empty */
    struct http_filling *filling; /* where the body comes in; NULL: it is there (http.h) */

    /* Of a client that does not speak OpenAI's dialect: a provider of the same dialect
     * gets the body as it came, the others what translate() makes of it. */
    aiq_dialect dialect; /* of body and of what the answer shall be */
    aiq_str lines;       /* of the request's head, for such a provider; maybe empty */
    const struct chat_request *(*translate)(const struct chat_request *chat, aiq_pool *pool,
                                            aiq_err *err); /* NULL and a 400: it cannot */
    /* Of what translate() has made: what the client calls its fields, for rewrite_error();
     * NULL: as they are called here. */
    const char *const (*names)[2];
} chat_request;

/* 400: the body is no JSON object, whatever the dialect. Returns false. */
bool chat_request_not_json(aiq_err *err, const json_error *error);

/* False and a 400 in *err, which names the field. Pure. */
bool chat_request_parse(chat_request *chat, aiq_str body, aiq_err *err);

/* The same for another endpoint of OpenAI's, where the body need only say a model. */
bool chat_request_parse_other(chat_request *chat, const char *path, aiq_str body, aiq_err *err);

/* Is its answer made of tokens? Of what is no chat only the older completions' is. */
bool chat_request_generates(const chat_request *chat);

/* Does the client want the usage of a stream? */
bool chat_request_wants_usage(const chat_request *chat);

#endif
