/*
 * The engine's end of the links, inside: one `link` a worker, one `link_end` a
 * loop. Services see job.h only.
 *
 * A link belongs to one loop. Once a turn (a loop_source) its ring is read and
 * frames become calls of the jobs' handlers; what these write goes into our
 * ring unpublished; at the turn's end it is published, the read space is given
 * back, and the ring is armed before the loop sleeps.
 *
 * A slot is in use from OPEN until END or ERROR has been pushed, or CANCEL
 * read. Invariants:
 *
 *     link->slots[s] == j   <=>  j->link == link, j->slot == s
 *     JOB_RUNNING               its handler knows it
 *     JOB_CHECKING              a CHECK: no handler, the keyring is asked
 *     JOB_ASKING                an ASK: no handler, the shared rates are asked
 *     JOB_ENDING                its handler is done with it; something of it (the rest
 *                               of a small reply, END, ERROR) waits for credit or the ring
 *     j->in.promised == j->allowed + received bytes that were not consumed yet
 *     link->promised == the sum of in.promised over the link's jobs
 *
 * Everything in the ring and in a handshake is hostile. A peer that breaks a
 * rule loses its link (link_break()); its jobs are cancelled, others never
 * notice.
 */

#ifndef AIQ_LINK_ROOM_H
#define AIQ_LINK_ROOM_H

#include <sys/types.h>
#include "access/keyring.h"
#include "aiq_link.h"
#include "engine.h"
#include "limits/rates.h"
#include "link/job.h"

/* Frames of one link handled in a turn, so that a busy worker does not keep
 * the others and the sockets waiting. */
#define LINK_BATCH 256

/* The loop spins only while it has at most so many jobs. */
#define LINK_SPIN_JOBS 4
/* After moments in vain, up to 2^6 sleeps for each look. */
#define LINK_VAIN_MAX 6u

/* Once so many jobs at a time are all over, what they held goes back to the system. */
#define LINK_TRIM_JOBS 128
#define LINK_TRIM_MS   200

/* Jobs that may wait to be used again, a loop. */
#define LINK_FREE_JOBS 256

typedef struct aiq_link aiq_link;
typedef struct link_end link_end;
typedef struct link_job link_job;
typedef struct link_counts link_counts;

typedef enum { JOB_RUNNING, JOB_CHECKING, JOB_ASKING, JOB_ENDING } link_job_state;

struct link_job {
    aiq_job job; /* first: an aiq_job * is its link_job * */
    aiq_link *link;
    uint32_t slot, generation;
    link_job_state state;

    /* to the worker; owed things wait for the ring, in this order */
    uint32_t credit;      /* bytes that it lets us send */
    uint32_t owed_credit; /* CREDIT */
    aiq_str owed_head;    /* HEAD's payload, in the pool */
    aiq_str rest;         /* what is left of job_reply_all()'s body, in the pool */
    const aiq_usage *owed_usage;
    bool owes_end;
    aiq_str owed_close;   /* END's payload, of a WebSocket, in the pool */
    aiq_str owed_error;   /* ERROR's payload, in the pool */
    aiq_str owed_verdict; /* VERDICT's, of a CHECK */
    aiq_str owed_answer;  /* ANSWER's, of an ASK */
    bool wants_write;     /* job_write() was short: writable() is due */
    bool waiting;         /* in link->waiting */
    bool stream;          /* HEAD said so */
    bool in_message;      /* its last MESSAGE was not the last of a message */
    bool verifying;       /* GRANT is due */
    aiq_buf owed_token;   /* TOKEN's payload */
    link_job *next;       /* in link->waiting, or among the free ones */

    /* job_keep() */
    bool kept;    /* where it is, link may be NULL: the slot is another's by now */
    bool aborted; /* it is too late for that */
    bool alone;   /* alone.c: there never was a client here, and never a link */
    link_job *next_kept, **prev_kept; /* in end->kept */

    /* from the worker */
    aiq_credit in;
    uint32_t allowed; /* bytes that it may still send */
    int64_t received;
    bool whole;                         /* the body is all here */
    bool closing;                       /* the worker's END of a WebSocket was read */
    bool getting_message, getting_text; /* MESSAGEs: within one, and of which kind */

    /* check.c: the API key's */
    keyring_ask ask;
    bool asking;                        /* end() waits for the keyring's answer */
    bool unsure;                        /* keys have changed since it was asked */
    link_job *next_keyed, **prev_keyed; /* in end->keyed, while running; prev NULL: not */

    rates_question *question; /* of an ASK, in the pool; or NULL */

    /* inner.c: where its reply goes; its link is NULL from the beginning */
    const job_sink *sink; /* NULL: to nginx, or nowhere any more */
    void *sink_arg;

    /* for the log and the counters */
    unsigned status;
    struct endpoint_counts *endpoint;
    int64_t tokens;
};

struct aiq_link {
    aiq_link *next, **prev; /* in end->links */
    link_end *end;
    aiq_ring ring;
    void *mine, *peer; /* AIQ_MAP_SIZE each */
    int fd;            /* wake bytes; -1 without (tests) */
    uv_poll_t *poll;   /* on fd */
    const aiq_policy *policy;
    pid_t pid;
    bool admin;        /* an operator's, by the admin socket */
    uint64_t promised; /* see aiq_credit_due() */
    uint32_t n_jobs;
    link_job *waiting, **last_waiting; /* jobs that owe something, oldest first */
    bool owes_notice, owes_epoch;
    bool wants_epoch;       /* it has asked about keys */
    const char *broken;     /* why this link must be closed; NULL: it is well */
    uint64_t idle_since_ns; /* while draining: since when it has no job */
    link_job *slots[AIQ_SLOTS];
};

struct link_end {
    aiq_loop *loop;
    link_counts *counts;
    void (*on_close)(aiq_loop *loop, void *arg); /* a link has gone; any thread's business */
    void *on_close_arg;
    aiq_link *links;
    loop_source source;
    loop_timer drain_timer, trim_timer;
    bool draining, closing;
    uint32_t n_jobs, n_streams;
    link_job *kept;     /* jobs that go on though their client is gone */
    uint32_t peak_jobs; /* since memory was last given back */
    uint64_t spin_ns;
    bool spinning;      /* looking on, though there was nothing to do */
    unsigned vain;      /* how often that was in vain lately, at most LINK_VAIN_MAX */
    unsigned sleeps;    /* how often to sleep at once before looking on again */
    uint64_t active_ns; /* when a frame last came or went */
    link_job *free_jobs;
    uint32_t n_free_jobs;
    link_job *keyed;     /* running jobs with an API key */
    keyring_ask recheck; /* about recheck_id, one of theirs */
    bool rechecking;
    char recheck_id[KEYRING_NAME];
    size_t recheck_len;
    uint8_t scratch[AIQ_FRAME_MAX]; /* a payload, copied out of the peer's reach */
};

/* What a handshake hands over. The link owns all of it. */
typedef struct {
    void *mine, *peer;
    int fd;
    const aiq_policy *policy;
    pid_t pid;
    bool admin;
} link_parts;

/* link.c: on the loop's thread, or before it runs. */
link_end *link_end_new(aiq_loop *loop, link_counts *counts);
void link_end_free(link_end *end); /* after its links are closed */
aiq_link *link_open(link_end *end, const link_parts *parts);
void link_end_drain(link_end *end);            /* tell workers to leave; no job is cut */
void link_end_close(link_end *end, bool tell); /* cut every job, with an error if `tell` */
void link_break(aiq_link *l, const char *why);
/* Handles what is in the ring; false: the link is closed and gone. */
bool link_turn(aiq_link *l);
loop_mood link_settle(aiq_link *l);
/* Before a push: publishes where there is much already. */
void link_show(aiq_link *l);

/* job.c */
link_job *link_job_new(aiq_link *l, uint32_t slot, uint32_t generation);
void link_job_cancel(link_job *j); /* the worker does not want it any more */
void link_job_cut(link_job *j);    /* the engine leaves */
/* A running one, with its handler. One without a client has nobody to be told. */
void link_job_abort(link_job *j, const aiq_err *err);
void link_job_drop(link_job *j); /* a kept one, with its handler */
void link_job_body(link_job *j, const uint8_t *data, uint32_t n);
void link_job_whole(link_job *j);
/* What both kinds of jobs share. */
link_job *link_job_make(link_end *end);
void link_job_free(link_job *j); /* the slot is free again, the memory unless it is kept */

/* job_output.c */
void link_job_credit(link_job *j, uint32_t n);
bool link_job_flush(link_job *j); /* push what is owed; false: the ring is full */
void link_job_wait(link_job *j);  /* until the worker has read on */
void link_job_unwait(link_job *j);
void link_job_writable(link_job *j);
/* The handler is done with the job, one way or the other; what is owed follows. */
void link_job_finished(link_job *j, const char *result);
/* Pushes what is owed now, or waits for the ring; jobs that wait keep their turn. */
void link_job_settle(link_job *j);
/* A frame's payload in the ring, or NULL: no room. */
uint8_t *link_job_push(link_job *j, aiq_frame_type type, uint8_t flags, size_t len);
void link_job_verdict(link_job *j, const keyring_verdict *v);  /* answers a CHECK */
void link_job_answer(link_job *j, const rates_answer *answer); /* an ASK; NULL: cannot say */

/* inner.c: the sink's part of what is in job_output.c */
void link_inner_end(link_job *j);
void link_inner_fail(link_job *j, const aiq_err *err);

/* message.c */
void link_job_message(link_job *j, uint8_t flags, const uint8_t *data, uint32_t n);
void link_job_closing(link_job *j, const uint8_t *data, uint32_t n);
void link_job_granted(link_job *j, const uint8_t *data, uint32_t n);
void link_job_leave(link_job *j); /* closes a WebSocket, for the engine leaves */

/* link.c: tells the worker the epoch of keys, or owes it. */
void link_push_epoch(aiq_link *l);

/* check.c */
void link_check(aiq_link *l, const aiq_frame *frame, const uint8_t *payload);
/* Asks whether the job's key lives; end() waits for it. False: no, the job has failed. */
bool link_job_vouch(link_job *j);
void link_job_unkey(link_job *j); /* nothing more is asked about it */
void link_end_watch_keys(link_end *end);

/* ask.c */
void link_ask(aiq_link *l, const aiq_frame *frame, const uint8_t *payload);

/* open.c: fills j->job from an OPEN payload. NULL, or what is wrong with it. */
const char *link_job_parse(link_job *j, const uint8_t *payload, uint32_t len);
/* Finds the service's route. False and *err: there is none, the caller may not, or the body is
 * said to be too large. */
bool link_job_route(link_job *j, const char *service, aiq_err *err);

#endif
