/*
 * /ws: chats, streams and topics over one WebSocket (docs/websocket.md).
 *
 * ws_message.c reads what the client says, ws.c answers it, ws_chat.c has the chats and
 * ws_follow.c the streams and topics that are read along. Both are flows: each has a name of
 * the client's choosing and ends with one event that says so. ws_event.c writes the events, and
 * keeps those that wait for the client.
 *
 * A chat is a job that the engine asks itself for (job_inner()): the gateway's own code at this
 * very location, so the limits of tokens, budgets, cache and times of the location, and the
 * caller's role, hold for it as for a request.
 *
 * Bounds. A client that does not read stops what it reads: from WS_OUT_MOST bytes of events on
 * that wait for it, flows are not asked for more, and no more of its messages are read. So one
 * connection holds at most that, an event or a piece (STREAM_PIECE) more for each of its flows,
 * and a message.
 *
 * Of the job's loop.
 */

#ifndef AIQ_WS_H
#define AIQ_WS_H

#include "core/id.h"
#include "link/job.h"
#include "services/ws/ws_message.h"
#include "streams/stream_list.h"

#define WS_OUT_MOST    65536u
#define WS_CHATS_MAX   16
#define WS_FOLLOWS_MAX 64
/* Of a connection; more ends it. */
#define WS_MESSAGES_A_SECOND 100
#define WS_MISTAKES_A_MINUTE 30
#define WS_TOKENS_A_MINUTE   10
#define WS_HEARTBEAT_MS      20000 /* how often a client should ask for a pong */

extern const job_handler ws_handler;

typedef struct ws ws;
typedef struct ws_flow ws_flow;

typedef struct {
    void (*wake)(ws_flow *flow); /* it was stalled: there is room again */
    /* Nothing more is sent of it; it frees what it holds. stop: also for who else reads it. */
    void (*leave)(ws_flow *flow, bool stop);
} ws_flow_kind;

/* Embedded as the first member of its owner, which is one piece of malloc's. */
struct ws_flow {
    const ws_flow_kind *kind;
    ws *ws;
    ws_flow *next;
    bool stalled;
    char id[WS_NAME_MAX + 1];
    char source[WS_NAME_MAX + 1]; /* the stream's id, or … */
    bool topic;                   /* … a topic's name; empty: neither */
    uint64_t seq;                 /* of the last event of it */
};

struct ws {
    aiq_job *job;
    aiq_buf in;            /* the beginning of a message */
    bool skipping;         /* it is too large */
    aiq_buf out;           /* events, each behind its length (u32) */
    size_t owed;           /* credit, for what was read */
    stream_lister *lister; /* until it has told: the first event is not said yet */
    uint64_t seq;          /* of the connection's own events */
    uint64_t chats;
    ws_flow *flows;
    unsigned n_chats, n_follows;
    uint64_t second, minute, auth_minute;
    unsigned messages, mistakes, auths; /* in these */
    bool verifying;                     /* a token, of … */
    char auth_id[WS_NAME_MAX + 1];      /* … this message */
};

/* ws_event.c */

typedef struct {
    const char *type;
    const ws_flow *flow; /* NULL: the connection's own, then … */
    aiq_str id;          /* … the client's name for what it answers, or none */
    aiq_str name;        /* of the event in its stream; empty: none */
    aiq_str time;        /* RFC 3339; empty: now */
    aiq_str data;        /* JSON; empty: {} */
} ws_event;

void ws_say(ws *w, const ws_event *event);
/* An error about what has this id, which may be empty; or (flow) its last event. */
void ws_say_error(ws *w, const ws_flow *flow, aiq_str id, const aiq_err *err);
/* What a stream has as an event's data; false: that it has failed, which is its last event. */
bool ws_say_delta(const ws_flow *flow, aiq_str name, aiq_str time, aiq_str data);
bool ws_has_room(const ws *w);
/* Sends what the client takes. */
void ws_flush(ws *w);

/* Flows. */

void ws_flow_add(ws *w, ws_flow *flow, const ws_message *m);
/* It is over: frees it. */
void ws_flow_end(ws_flow *flow);

/* ws_chat.c, ws_follow.c: false and *err where it did not begin. */
bool ws_chat(ws *w, const ws_message *m, aiq_err *err);
bool ws_follow(ws *w, const ws_message *m, aiq_err *err);

#endif
