/*
 * Who answers a chat request: one dialect a file, all behind one interface. A
 * call belongs to its loop's thread and lives in the request's pool; it is over
 * with its last event (reply, done or failed) or with cancel().
 *
 * No event comes during start(). A failure is retryable where the provider is to
 * blame for it. The names of hosts and keys never stand in an
 * error's message, only in its detail.
 */

#ifndef AIQ_PROVIDER_H
#define AIQ_PROVIDER_H

#include "aiq_error.h"
#include "core/loop.h"
#include "core/policy.h"
#include "core/pool.h"
#include "providers/chat_request.h"
#include "providers/http.h"
#include "providers/secrets.h"

typedef struct {
    int64_t in, out;           /* -1: not known */
    int64_t cached, reasoning; /* of in and of out */
    int64_t sound_ms;          /* what it heard; 0: not known, or nothing */
} provider_tokens;

#define PROVIDER_TOKENS_UNKNOWN ((provider_tokens){-1, -1, -1, -1, 0})

/* What a provider says it has counted; -1 where that is no count. It may say anything: more
 * than 2^31-1 is believed up to that, so whoever adds up some of them stays within 64 bits. */
int64_t provider_count(const json_value *value);

/* Why a provider refuses a request that another model might serve. */
typedef enum {
    PROVIDER_NO_REFUSAL,
    PROVIDER_TOO_LONG,
    PROVIDER_AGAINST_RULES
} provider_refusal;

typedef struct {
    unsigned status;      /* 200, or that of an error which is the caller's own */
    aiq_str body;         /* JSON; valid during the call */
    uint32_t retry_after; /* seconds; 0: none */
    provider_tokens tokens;
    provider_refusal refusal;
} provider_reply;

/* arg: what start() was given. */
typedef struct {
    void (*reply)(void *arg, const provider_reply *reply); /* the whole answer; last */
    void (*event)(void *arg, aiq_str data);                /* of a stream, "[DONE]" included */
    void (*done)(void *arg, provider_tokens tokens);       /* the stream is whole; last */
    void (*failed)(void *arg, const aiq_err *err);         /* last */
    /* Of a raw request: its answer passes unread, and is of this type. What is called events
     * are its pieces then. Valid during the call. */
    void (*type)(void *arg, aiq_str content_type);
} provider_events;

typedef struct {
    aiq_loop *loop;
    aiq_pool *pool; /* the request's */
    aiq_str tenant; /* who asks */
    bool batch;     /* and is in no hurry */
    const policy_target *target;
    const char *key; /* one of its provider's, by name; NULL: it has none */
    const chat_request *chat;
    secrets *secrets;            /* this loop's */
    struct local_models *models; /* local_models.h */
} provider_request;

typedef struct {
    const char *dialect;
    const char *path;     /* it is for requests with this chat_request.path; NULL: for others */
    aiq_dialect speaks;   /* requests of clients of this dialect are not translated, nor are
                             the answers to them */
    bool has_paths;       /* takes requests with a chat_request.path */
    bool bills;           /* for what it has done, and says at the end what that is */
    const char *key_line; /* what stands before the key in its header; with name and colon */
    const char *lines;    /* of every request's head; "": none */
    /* The call, or NULL and *err: then there is no event. */
    void *(*start)(const provider_request *request, const provider_events *events, void *arg,
                   aiq_err *err);
    void (*cancel)(void *call);
    /* Back-pressure of streams. A few events may still come. */
    void (*pause)(void *call);
    void (*resume)(void *call);
} provider_dialect;

extern const provider_dialect provider_openai, provider_anthropic, provider_local,
    provider_local_embeddings, provider_local_counting;

/* For dialects over HTTP. The key's text, valid until the next one is asked for, empty
 * where the request has none; false and *err: it is missing. */
bool provider_key(const provider_request *request, aiq_str *key, aiq_err *err);

/* The lines of a request's head, in the request's pool: types, the dialect's own lines,
 * the key after the dialect's own words for it, and what the configuration adds. */
aiq_str provider_headers(const provider_request *request, const char *key_line, aiq_str key,
                         aiq_str lines);

/* The lines of a request without a body, with this of the provider's keys (NULL: it has
 * none). In the pool. False and *err: the key is missing. */
bool provider_check_headers(const policy_provider *provider, const char *key, secrets *s,
                            aiq_pool *pool, aiq_str *lines, aiq_err *err);

/* A POST to the provider, its headers and body still to come. */
http_call provider_call(const policy_provider *provider, const char *path);

/* Verbs of a dialect whose calls begin with their http_request *; it is NULL where there is
 * none, or none any more. */
void provider_cancel(void *call);
void provider_pause(void *call);
void provider_resume(void *call);

/* What follows "?": what the client has there, where it may, and what the configuration adds.
 * In the request's pool; NULL: nothing. */
const char *provider_query(const provider_request *request);

/* Of an answer's head: is this its content type? Its Retry-After in seconds; 0: none. */
bool provider_is_type(const http_head *head, const char *type);
uint32_t provider_retry_after(const http_head *head);

/* For requests with this chat_request.path. NULL: no such dialect. */
const provider_dialect *provider_find(const char *dialect, const char *path);

#endif
