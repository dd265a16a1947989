
/*
 * The worker's reading of the engine's frames: whatever comes out of this
 * room has been checked.  Knows nothing of nginx, so that a fuzzer can drive
 * it.  The layout of frames and the rules are in engine/include.
 *
 * A slot is free, or open (its job may be NULL: then only its CANCEL is owed
 * and what still comes for it is dropped).  A slot that was opened for a CHECK
 * or an ASK takes nothing but its VERDICT or ANSWER.  Invariants of an open slot:
 *
 *     slot->allowed <= slot->credit.promised
 *     frames->promised is the sum of credit.promised over the open slots
 */

#ifndef _NGX_HTTP_AIQ_FRAMES_H_INCLUDED_
#define _NGX_HTTP_AIQ_FRAMES_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>

#include <aiq_link.h>
#include <aiq_frame.h>
#include <aiq_error.h>


typedef struct {
    void                  *job;
    uint32_t               generation;
    uint32_t               next;        /* slot + 1, in one of the link's lists */
    aiq_credit             credit;
    uint32_t               allowed;     /* bytes that the engine may still send */
    uint8_t                answer;      /* the frame that a question waits for */
    unsigned               head:1;      /* HEAD was read */
    unsigned               usage:1;     /* USAGE was read */
    unsigned               websocket:1; /* HEAD has made it one */
    unsigned               message:1;   /* within one, of MESSAGEs */
    unsigned               waiting:1;   /* in the link's list of waiting slots */
    unsigned               token:1;     /* TOKEN was read, GRANT is due */
    unsigned               cancel:1;    /* CANCEL is owed */
} ngx_http_aiq_slot_t;


typedef struct {
    aiq_ring               ring;
    ngx_http_aiq_slot_t   *slots;
    uint32_t               nslots;
    uint64_t               promised;
    const char            *broken;      /* why the link must be closed, or NULL */
} ngx_http_aiq_frames_t;


typedef struct {
    uint8_t                type;        /* aiq_frame_type */
    uint8_t                flags;
    uint32_t               slot;
    void                  *job;

    /*
     * HEAD, DATA, MESSAGE, TOKEN, ERROR, VERDICT, ANSWER, END of a WebSocket:
     * in the ring, to be copied before it is parsed
     */
    const uint8_t         *data;
    uint32_t               len;

    uint32_t               number;      /* CREDIT, NOTICE */
    uint32_t               epoch;       /* NOTICE of one */
    aiq_usage              usage;       /* USAGE */
} ngx_http_aiq_event_t;


typedef struct {
    unsigned               status;
    unsigned               stream:1;
    unsigned               endless:1;
    int64_t                content_length;
    aiq_text               content_type;
    aiq_text               model;
    aiq_text               provider;
    aiq_fields             headers;     /* for ngx_http_aiq_frames_header() */
} ngx_http_aiq_head_t;


typedef struct {
    unsigned               status;      /* 200, 401, 403, 503 */
    uint32_t               epoch;
    int64_t                expires_ms;

    /* of at most AIQ_IDENTITY_MAX bytes, without control characters */
    aiq_text               tenant;      /* never empty where the status is 200 */
    aiq_text               user;
    aiq_text               role;        /* nor these */
    aiq_text               key_id;

    uint32_t               rate;        /* requests a minute; 0: any number */
} ngx_http_aiq_verdict_t;


typedef struct {
    unsigned               status;      /* 200, 429, 503 */
    uint32_t               wait;        /* ms */
    uint32_t               nrates;
    aiq_rate               rates[AIQ_RATES_MAX];
} ngx_http_aiq_answer_t;


void ngx_http_aiq_frames_open(ngx_http_aiq_frames_t *f, uint32_t slot,
    void *job);
/* the same for a question: nothing but this frame may come */
void ngx_http_aiq_frames_ask(ngx_http_aiq_frames_t *f, uint32_t slot,
    void *question, aiq_frame_type answer);
void ngx_http_aiq_frames_close(ngx_http_aiq_frames_t *f, uint32_t slot);
/* its HEAD said 101: a WebSocket from here on */
void ngx_http_aiq_frames_upgrade(ngx_http_aiq_frames_t *f, uint32_t slot);

/* its TOKEN is answered */
void ngx_http_aiq_frames_granted(ngx_http_aiq_frames_t *f, uint32_t slot);

/* 1: an event, 0: nothing there, -1: f->broken says what the engine did */
int ngx_http_aiq_frames_next(ngx_http_aiq_frames_t *f,
    ngx_http_aiq_event_t *ev);

/*
 * The client has taken len bytes of the reply in slot n, or so much of
 * messages' cost; then, the credit that is due to the engine for it, mostly 0.
 */
void ngx_http_aiq_frames_consumed(ngx_http_aiq_frames_t *f, uint32_t n,
    size_t len);
uint32_t ngx_http_aiq_frames_grant(ngx_http_aiq_frames_t *f, uint32_t n);

/* payloads that were copied out of the ring; NULL, or what is wrong with them */
const char *ngx_http_aiq_frames_head(const uint8_t *data, size_t len,
    ngx_http_aiq_head_t *head);
const char *ngx_http_aiq_frames_error(const uint8_t *data, size_t len,
    aiq_error_info *e, uint32_t *retry_after, aiq_fields *headers);
const char *ngx_http_aiq_frames_verdict(const uint8_t *data, size_t len,
    ngx_http_aiq_verdict_t *v);
const char *ngx_http_aiq_frames_answer(const uint8_t *data, size_t len,
    ngx_http_aiq_answer_t *a);

/*
 * The next header that may go to the client as it is; 0 after the last one.
 * Invalid ones and those that are nginx's own affair are skipped.
 */
int ngx_http_aiq_frames_header(aiq_fields *headers, aiq_text *name,
    aiq_text *value);
int ngx_http_aiq_frames_utf8(aiq_text s);


#endif /* _NGX_HTTP_AIQ_FRAMES_H_INCLUDED_ */
