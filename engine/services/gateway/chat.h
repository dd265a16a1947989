/*
 * A chat request, from its body to its answer:
 *
 *     receiving   the body goes to the spool; a large form goes on, to the next states and
 *                 to its provider, while it comes
 *     waiting     checked; the same is being asked for another client (cached.h)
 *     replaying   an earlier answer is sent; nobody is asked, nothing is held
 *     holding     checked; its limits of tokens may have to be asked about (token_claim.h),
 *                 its budgets to wait for others (bill.h)
 *     opening     a guaranteed stream begins in the store
 *     calling     checked, given to the model's targets (attempts.h); events pass as they
 *                 come
 *     ending      the provider is done; what waits for credit is sent, then END
 *
 * chat.c has what comes before the call, chat_upload.c what comes while the body does,
 * chat_pay.c what is held for the call and charged, chat_answer.c what the client is told,
 * chat_leave.c what happens when he goes.
 *
 * Where the client leaves while a provider is at work, the request goes on without it. A
 * stream that others can read or come back to is produced for them; once nobody has read it
 * for the location's `aiq_stream_grace`, or where nobody can, it is abandoned: for at most
 * `aiq_abort_drain` the provider is still heard, for it says what is to be paid. One that is
 * not paid is stopped at once.
 *
 * A guaranteed stream (guaranteed.h) is in the store before anybody is asked (opening), and
 * so is each event before the client gets it; it goes on without a client to its end, and
 * where the engine leaves, or dies, the next one goes on with it.
 *
 * The head of a stream is sent with its first event (or first keep-alive, in whichever
 * state that is), so that whatever fails before that is a plain error reply with its
 * status, and an event after it.
 *
 * Of the job's loop; lies in the job's memory, which goes with the job's end: what is said to
 * end a chat may free it.
 */

#ifndef AIQ_GATEWAY_CHAT_H
#define AIQ_GATEWAY_CHAT_H

#include "services/gateway/attempts.h"
#include "services/gateway/bill.h"
#include "services/gateway/cached.h"
#include "services/gateway/client.h"
#include "services/gateway/gateway.h"
#include "services/gateway/guaranteed.h"
#include "services/gateway/outlet.h"
#include "services/gateway/spool.h"
#include "services/gateway/token_claim.h"
#include "providers/http.h"

typedef enum {
    CHAT_RECEIVING,
    CHAT_WAITING,
    CHAT_REPLAYING,
    CHAT_HOLDING,
    CHAT_OPENING,
    CHAT_CALLING,
    CHAT_ENDING
} chat_state;

/* What is known of a form that comes. */
typedef struct {
    form form;
    http_filling filling;
    bool begun; /* its provider gets it, or waits for its turn */
    bool whole;
} upload;

typedef struct {
    aiq_job *job;
    chat_state state;
    spool *spool;
    upload *upload; /* a form that may be sent while it comes; NULL: it is not */
    aiq_str body;
    chat_request request;
    chat_request *asked; /* the request, or what is left of it */
    const client_dialect *client;
    void *stream; /* the client dialect's own */
    const policy_model *model;
    cached cached;
    bill bill;
    int64_t cost;      /* nano-USD; -1: not known */
    token_claim claim; /* of limits */
    int64_t probable;  /* tokens; what it holds */
    attempts attempts;
    outlet outlet;
    bool guaranteed;
    aiq_str left;   /* by another engine: what its events were made of; data NULL: it is ours */
    aiq_buf source; /* the same of an event of ours */
    bool paused;
    bool gone;      /* the client is; the job is kept */
    bool abandoned; /* and nobody else is there */
    uint64_t first_ns, sent_ns;
    loop_timer keepalive;
    loop_timer alone; /* how long it still goes on without anybody */
} chat;

/* chat.c */

/* Is there such a model, may the caller use it, and as he wishes? False and *err. */
bool chat_admit(chat *c, aiq_err *err);
/* All is held: it begins. */
void chat_held(chat *c);
/* Its model is asked. */
void chat_call(chat *c);

/* chat_upload.c */

/* Before the body comes. */
void chat_upload_open(chat *c);
/* It is there. False: nobody has been asked yet. */
bool chat_upload_end(chat *c, aiq_str body, const aiq_err *wrong);

/* chat_pay.c */

/* From its limits of tokens and its budgets; chat_held() follows, or chat_refuse(). */
void chat_hold(chat *c);
/* Nobody was asked: what is held is free again. Fine where nothing is. */
void chat_let_go(chat *c);
/* Who was asked has ended with this status; see bill_settle(). */
void chat_settle(chat *c, unsigned status, provider_tokens tokens, bool produced);
/* Tells the worker what it has used. */
void chat_report(chat *c, provider_tokens tokens);

/* chat_answer.c */

extern const provider_events chat_answers;
/* See attempts_start(). */
void chat_lost(void *arg, const policy_target *target);
/* From here on the client gets keep-alives while there is nothing else. */
void chat_keep_alive(chat *c);
/* Sends what the client has credit for. */
void chat_flush(chat *c);
/* All is said. */
void chat_last(chat *c);
/* An error as what is said next. */
void chat_say_error(chat *c, const aiq_err *err);
/* The end without an answer; whoever was asked is settled with. */
void chat_refuse(chat *c, const aiq_err *err);
void chat_set_paused(chat *c, bool paused);

/* chat_leave.c */

extern const stream_producer chat_producer, chat_guaranteed;
/* The job's end. */
void chat_finish(chat *c);
void chat_stop_timers(chat *c);
/* Who was asked is not asked any more; settled with. */
void chat_stop_calling(chat *c);
/* It reads its stream more slowly than others do. Those go on. */
void chat_lose_client(chat *c);
void chat_cancel(aiq_job *job);

#endif
