/*
 * What is done to guaranteed streams in the store: one transaction a function, named after
 * what it does (migrations/007_streams.sql has the tables). `me` is the engine's name there.
 * Times are Unix milliseconds. On the store's threads.
 */

#ifndef AIQ_DURABLE_TX_H
#define AIQ_DURABLE_TX_H

#include "core/id.h"
#include "store/store.h"
#include "streams/stream_list.h"
#include "streams/stream_log.h"

/* Streams that are looked for, or forgotten, at a time. */
#define DURABLE_TX_MOST 64

/* Events that are to be added to a stream. */
typedef struct {
    const char *id;
    int64_t term;
    uint64_t first, last; /* numbers; first == last + 1: there are none */
    int64_t ms;
    aiq_str events, source; /* without numbers; source.data NULL: events say it */
    bool ends;
    bool taken; /* the answer. False: the stream is another engine's */
} durable_batch;

/* The engine lives until then; so do its streams belong to it. */
bool durable_tx_beat(store_db *db, const char *me, int64_t until_ms, aiq_err *err);
/* It has ended, and others may take what it has left. */
bool durable_tx_leave(store_db *db, const char *me, aiq_err *err);

/* What another engine needs to go on with a stream. */
typedef struct {
    aiq_str request;
    aiq_str policy_id, policy; /* many requests' */
    aiq_str user, model;       /* for who asks what he has under way */
} durable_request;
bool durable_tx_begin(store_db *db, const char *me, int64_t until_ms, const char *id,
                      aiq_str tenant, const durable_request *request, aiq_err *err);

/* Adds them, and announces their streams, or finds that it has done that before; a stream that
 * ends without any event is forgotten. */
bool durable_tx_add(store_db *db, const char *me, durable_batch *batches, size_t n,
                    aiq_err *err);

/* A stream that belongs to nobody alive. */
typedef struct {
    char id[AIQ_ID_SIZE];
    int64_t term;
    bool left; /* the engine is known to be gone; else it has not said for long that it lives */
} durable_lost;
bool durable_tx_find_lost(store_db *db, const char *me, int64_t now_ms,
                          durable_lost found[DURABLE_TX_MOST], size_t *n, aiq_err *err);

/* A stream that is taken over, and all that is known of it; the buffers are the caller's. */
typedef struct {
    durable_lost lost;
    bool taken; /* false: somebody was faster, or it has ended */
    int64_t term;
    uint64_t last;
    aiq_buf tenant, user, model, request, policy;
    aiq_buf source; /* of all events, as server-sent events */
} durable_claim;
bool durable_tx_claim(store_db *db, const char *me, int64_t now_ms, int64_t until_ms,
                      durable_claim *claim, aiq_err *err);

/* What a reader asks, and its answer. */
typedef struct {
    char id[AIQ_ID_SIZE];
    aiq_str tenant;
    uint64_t after;
    size_t most; /* bytes of events, about */
    bool found, ended;
    uint64_t last;  /* event of all; 0: there is none */
    stream_log log; /* those behind `after`, or from one before it on; its owner frees it */
} durable_page;
bool durable_tx_read(store_db *db, durable_page *page, aiq_err *err);

/* What of a caller is under way on other engines. */
typedef struct {
    aiq_str tenant, user;
    const char *me;
    size_t n;
    stream_entry of[STREAM_LIST_MOST]; /* the latest first */
} durable_owned;
bool durable_tx_list(store_db *db, durable_owned *owned, aiq_err *err);

/* Forgets streams that ended before then, and engines that have long been gone; at most
 * DURABLE_TX_MOST at a time. */
bool durable_tx_forget(store_db *db, int64_t before_ms, aiq_err *err);

#endif
