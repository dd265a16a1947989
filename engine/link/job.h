/*
 * The engine's end of a job: what a service sees of a request. A job belongs
 * to its loop's thread. It is open from its handler's open() to job_end(),
 * job_fail() or cancel(), whichever is first; after that nothing of it may be
 * touched (its pool is freed), unless it is kept (job_keep()).
 *
 * Output. job_write() takes what the worker's credit allows and returns how
 * much that was; the rest is the service's to keep and to offer again in
 * writable(). That is the whole back-pressure: a service that stops reading
 * its source while job_room() is 0 holds no more than it chose to.
 * Input. body() hands over a piece that is valid during the call; the client is
 * sent credit for it once the service calls job_consumed(), so a service that
 * cannot keep up does not call it yet. A body beyond the location's max_body
 * never reaches the service: the link has refused it (413).
 *
 * WebSocket. A job with `websocket` is accepted by job_accept(), from end() on: nginx
 * answers 101 and from then on messages go both ways. They come in pieces by
 * message(), valid during the call, each to be consumed as a body's piece with
 * job_message_cost(); text is valid UTF-8 as a whole, a piece may end within a
 * character. nginx bounds a message's length (aiq_websocket_max_message), but who
 * gathers pieces sets a bound of his own: the link's credit does not. A reader that
 * falls behind is seen by job_message() returning false: the service bounds what it
 * keeps for him, or closes with 1013. Frames, pings and the closing handshake are
 * nginx's.
 */

#ifndef AIQ_JOB_H
#define AIQ_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "aiq_error.h"
#include "aiq_frame.h"
#include "core/err.h"
#include "core/loop.h"
#include "core/policy.h"
#include "core/pool.h"

typedef struct aiq_job aiq_job;

/* A piece of a WebSocket's message. */
typedef struct {
    const uint8_t *data;
    size_t len;
    bool text; /* else binary; the same for every piece of a message */
    bool last; /* the message ends with this piece */
} job_message_piece;

/* What nginx says of a token. */
typedef struct {
    aiq_err err;        /* status 0: it is good, job->role may be another now */
    int64_t expires_ms; /* Unix time */
} job_grant;

/* What a service does not need it leaves NULL. */
typedef struct {
    void (*open)(aiq_job *job);                                /* the request's head is here */
    void (*body)(aiq_job *job, const uint8_t *data, size_t n); /* a piece of its body */
    void (*end)(aiq_job *job);      /* the body is whole; always comes */
    void (*writable)(aiq_job *job); /* room again after a short write */
    void (*cancel)(aiq_job *job);   /* the client or the worker is gone: stop, release */
    /* WebSocket; a route without message() is none */
    void (*message)(aiq_job *job, const job_message_piece *piece);
    /* the client wants to close, or nginx for a reload (1012): no message comes any more.
     * The service sends what it still has and calls job_close(). NULL: closed at once. */
    void (*closing)(aiq_job *job, unsigned code);
    void (*granted)(aiq_job *job, const job_grant *grant); /* answers job_verify() */
    /* a charge (aiq_frame.h) is not due; cancel() follows */
    void (*release)(aiq_job *job);
} job_handler;

typedef struct {
    aiq_str name, value; /* name in lower case */
} job_header;

struct aiq_job {
    aiq_loop *loop;
    aiq_pool *pool; /* freed with the job */
    const aiq_policy *policy;
    const policy_location *location;
    const struct aiq_route *route;
    void *state; /* the handler's own */

    aiq_method method;
    aiq_str method_name, uri, args, request_id, traceparent, tracestate, remote_addr;
    aiq_str content_type, accept;
    aiq_str tenant, user, role; /* never NULL: "default", "", "user" where nobody said */
    aiq_str key_id;             /* empty: no API key was used */
    aiq_str models;         /* what the key allows, a JSON array; empty: all. From end() on */
    uint64_t conditions;    /* which of the policy's hold, a bit each */
    const uint32_t *hashes; /* of the policy's keys */
    size_t n_hashes;
    /* the location's, and from end() on the API key's own, too */
    const policy_budget *budgets;
    size_t n_budgets;
    const policy_limit *limits;
    size_t n_limits;
    const uint8_t *limit_keys; /* of each limit AIQ_LIMIT_KEY bytes */
    const job_header *headers;
    size_t n_headers;
    aiq_charge charge; /* of the service charge, where there is one: */
    bool charged;
    aiq_str path_args[4]; /* what the route's {…} segments matched */
    aiq_dialect dialect;
    int64_t body_length; /* -1: not known */
    const char *cache;   /* for the log: X-AIQ-Cache; NULL: the cache has no part in it */
    uint64_t started_ns;
    bool websocket;
    int64_t expires_ms; /* of a WebSocket: when its caller's token ends, Unix time; 0: never */
    bool head_sent;
};

typedef struct {
    unsigned status;
    const char *content_type; /* NULL: none */
    int64_t content_length;   /* -1: not known */
    bool stream;              /* an event stream: never buffered */
    bool endless;             /* nginx ends it when it leaves, or the engine does */
    const job_header *headers;
    size_t n_headers;
    const char *model, *provider; /* for nginx's variables, or NULL */
} job_reply;

/* What the request says in a header, by its name in lower case; empty where it has none. */
aiq_str job_header_value(const aiq_job *job, const char *name);

/* Does the caller's API key, if there is one, allow the model? From end() on. */
bool job_may_use(const aiq_job *job, const char *model);

/* Is it known what the caller's API key, if there is one, allows? From end() on it is. */
bool job_is_vouched(const aiq_job *job);

/* The reply's head; once. */
void job_head(aiq_job *job, const job_reply *reply);

/* Bytes that the worker's credit lets job_write() take; it takes fewer when the
 * ring is full. 0 while something of this job waits for the ring. writable()
 * follows a 0 as it follows a short write, once the head is sent. */
size_t job_room(const aiq_job *job);

/* Sends up to n bytes and returns how many were taken. flush: the client
 * should see them now. A short count means writable() will be called. */
size_t job_write(aiq_job *job, const void *data, size_t n, bool flush);

void job_consumed(aiq_job *job, size_t n);
void job_usage(aiq_job *job, const aiq_usage *usage);

/* WebSocket: 101, then messages. */
void job_accept(aiq_job *job);

/* Sends of the piece what credit and ring take and moves it on by so much. True: all of
 * it is sent. False: writable() follows, offer the rest again. The pieces of one message
 * follow each other with the same `text`. */
bool job_message(aiq_job *job, job_message_piece *piece);

/* What a piece of so many bytes is to job_consumed(). */
static inline size_t job_message_cost(size_t len)
{
    return len + AIQ_MESSAGE_COST;
}

/* Asks nginx whether a token is good and the same caller's; granted() follows. The WebSocket
 * lasts as long as the token then. 1 to AIQ_TOKEN_MAX bytes; one at a time. */
void job_verify(aiq_job *job, aiq_str token);

/* Ends a WebSocket that was accepted, the job is gone: 1000, 1001, 1008, 1011, 1012,
 * 1013, 3000..4999 (RFC 6455, 7.4), or what closing() was told. The reason, NULL or UTF-8 for
 * the client, is cut after 123 bytes. */
void job_close(aiq_job *job, unsigned code, const char *reason);

/* The end; the job is gone when these return. job_fail() before the head is an
 * error reply in the client's dialect; after it, the reply is cut. */
void job_end(aiq_job *job);
void job_fail(aiq_job *job, const aiq_err *err);
/* The same with headers, for an error reply. */
void job_fail_with(aiq_job *job, const aiq_err *err, const job_header *headers, size_t n);

/* For work that outlives the client: from here to job_release() the job and its pool stay,
 * whatever becomes of the reply; once that is over, writing comes to nothing. In cancel(),
 * or while the job is open. Where the engine leaves, cancel() comes (again), and the job is
 * gone when that returns. False: there is no going on, for the engine leaves or the caller
 * may not any more. */
bool job_keep(aiq_job *job);
void job_release(aiq_job *job);

/*
 * A job that the engine asks itself for, on behalf of another: who asks, by which key, and what
 * the location allows are the other's, and its reply goes to a sink instead of to nginx. To its
 * handler it is like any other job.
 *
 * The sink's calls come while the handler is at work: they must not end the job. After end()
 * or failed() it is gone. The other one's handler leaves it (job_inner_leave()) before it ends.
 */
typedef struct {
    void (*head)(void *arg, const job_reply *reply);
    /* How many of the bytes it has taken; of a stream some of the first whole events, else all.
     * After less than all job_inner_writable() is due. */
    size_t (*write)(void *arg, const char *data, size_t n);
    void (*usage)(void *arg, const aiq_usage *usage);
    void (*end)(void *arg);
    void (*failed)(void *arg, const aiq_err *err);
} job_sink;

/* What is asked, of a route whose open() and body() do not end a job. All of it is copied. */
typedef struct {
    const char *service;
    aiq_method method;
    aiq_str uri, request_id;
    const job_header *headers;
    size_t n_headers;
    size_t body_length;
} job_question;

/* NULL and *err: there is no such route, or the caller may not. Nothing happens before
 * job_inner_start(), which may call the sink, also for the job's end. */
aiq_job *job_inner(const aiq_job *other, const job_question *question, const job_sink *sink,
                   void *arg, aiq_err *err);
void job_inner_start(aiq_job *job, aiq_str body);
/* The sink has room again. */
void job_inner_writable(aiq_job *job);
/* Nobody listens any more, as when a client leaves. The sink is not called again. now: nor does
 * the job go on without (job_keep()). */
void job_inner_leave(aiq_job *job, bool now);

/*
 * A job that has no client: one of another engine's, which goes on here. Its output comes to
 * nothing. It is kept until it is released, or cancelled as kept ones are.
 */

/* Takes over the reference to the policy. What was asked for is still to be filled in, in the
 * job's pool. */
aiq_job *job_alone(aiq_loop *loop, const aiq_policy *policy);
/* Finds its route with the service, which its location need not name: a WebSocket's chats are
 * the gateway's, too. False and *err: there is none any more; job_release(). */
bool job_alone_route(aiq_job *job, const char *service, aiq_err *err);
/* After its handler's open() and body(): end() follows where its API key, if it has one,
 * still lives; else cancel(), and the job is gone. */
void job_alone_start(aiq_job *job);

/* A whole small reply at once: head, body, end. The body is copied and sent as
 * credit allows. The job is gone when this returns. */
void job_reply_all(aiq_job *job, unsigned status, const char *content_type, const void *body,
                   size_t n);

#endif
