/*
 * Guaranteed streams: their events are in the store before anybody reads one, and another
 * engine goes on with them where theirs has ended.
 *
 * What is added waits for others at most DURABLE_GATHER_MS, then all of a loop's streams are
 * stored in one transaction, and read from there on. One such transaction of a loop is under
 * way at a time; what comes meanwhile goes with the next. Where a stream has more than
 * DURABLE_UNSTORED bytes waiting its producer is held: for the store, never for a reader.
 *
 *     added ──► unstored ──► (store) ──► log, as any stream's (streams.h) ──► readers
 *
 * While the store is away all of that waits, and is tried again. After DURABLE_PATIENCE_MS
 * producers are told; the error that they may add and the end are stored when the store is
 * back. What the store refuses though it is there, DURABLE_TRIES times, is one stream's fault:
 * each is then tried by itself, and that one ends with an error in place of it. So does one of
 * which DURABLE_MOST bytes are stored.
 *
 * An engine that has such streams says every second that it lives, and for how long that is
 * to be believed (DURABLE_LEASE_MS); one that ends takes that back, and whoever finds a dead
 * one (ledger.h) does it for him. The streams of one that does not live any more are taken
 * over, one by one, by whoever is first, and who has had the store for that long himself. What
 * the other one, should it live after all, still adds is refused by the store (its term is
 * over), and it lets the stream go.
 *
 * Readers of a stream that is not here (another engine's, or one that has ended and is not
 * kept in memory any more) ask the store. Once they have all that there is, and it goes on, the
 * stream is followed (follow.c): a copy in memory, which one question to the store brings
 * further for all of its readers. Who stores events announces their stream (store.h), and who
 * hears that asks. Lest something was not heard a copy asks every DURABLE_LOOK_MS without;
 * where nothing is heard, as with SQLite or while that connection is away, every
 * DURABLE_POLL_MS. While the store is away its readers wait. A copy that nobody reads is
 * dropped after DURABLE_LINGER_MS.
 *
 * Streams that have ended are forgotten after DURABLE_KEEP_MS.
 */

#ifndef AIQ_DURABLE_H
#define AIQ_DURABLE_H

#include "store/store.h"
#include "streams/durable_tx.h"
#include "streams/streams.h"

#define DURABLE_GATHER_MS   5
#define DURABLE_UNSTORED    (256u << 10)
#define DURABLE_RETRY_MS    200
#define DURABLE_PATIENCE_MS 10000
#define DURABLE_TRIES       3
#define DURABLE_MOST        ((size_t)64 << 20)
#define DURABLE_LEASE_MS    5000
#define DURABLE_BEAT_MS     1000
#define DURABLE_POLL_MS     100
#define DURABLE_LOOK_MS     5000
#define DURABLE_LINGER_MS   2000
#define DURABLE_COPY        ((size_t)64 << 10) /* bytes of events that one keeps */
#define DURABLE_KEEP_MS     3600000
#define DURABLE_FORGET_MS   60000 /* how often it is looked for such */

typedef struct durable durable; /* an engine's */
typedef struct durable_stream durable_stream;

/* After the store and the streams, before the loops start. */
durable *durable_new(aiq_engine *engine);
/* Hears other engines. False and *err. Before the loops start. */
bool durable_hear(durable *all, aiq_err *err);
/* Stores what waits, and lets others have what goes on. After the loops have ended, before
 * store_stop(). NULL is fine, here and below. */
void durable_stop(durable *all);
/* After store_stop() and loop_flush(), before streams_free(). */
void durable_free(durable *all);

/* A guaranteed stream of this loop; request is what another engine needs to go on with it,
 * copied. The producer's opened() follows; until then nothing is to be added. NULL and *err
 * (503): the store has too much to do. */
stream *durable_begin(aiq_loop *loop, aiq_str tenant, size_t keep,
                      const stream_producer *producer, void *arg,
                      const durable_request *request, aiq_err *err);

/* What the next events are made of, as server-sent events, where another engine could not
 * see that in them. */
void durable_note(stream *s, const void *text, size_t len);

/* Somebody else's stream, from here on ours; texts are valid during the call. */
typedef struct durable_orphan {
    stream *stream;          /* it has no producer yet: stream_produce() */
    uint64_t last;           /* event; 0: there is none */
    aiq_str request, policy; /* of durable_begin() */
    aiq_str source;          /* of all events: as noted, or themselves */
} durable_orphan;
/* Who goes on with it, or ends it; on the stream's loop. Before the loops start. */
void durable_on_orphan(durable *all, void (*fn)(aiq_loop *loop, const durable_orphan *orphan));

/* Reads a page; told() comes on the loop, err NULL: page has the answer. False and *err
 * (503): it does not. page and what it points to stay until then. */
bool durable_read(aiq_loop *loop, durable_page *page, store_done_fn told, void *arg,
                  aiq_err *err);

/* A stream of another engine that has come to event `last`, at least: here from now on, for
 * stream_find(), and followed. Nothing where it is here already. */
void durable_follow(aiq_loop *loop, aiq_str id, aiq_str tenant, uint64_t last);

/* What of a caller is under way on other engines; the same rules, owned->me is set here. False:
 * there is no answer, and told() does not come. */
bool durable_list(aiq_loop *loop, durable_owned *owned, store_done_fn told, void *arg);

/* For streams.c. */
void durable_add(durable_stream *d, const void *text, size_t len);
void durable_end(durable_stream *d);

#endif
