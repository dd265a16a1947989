/* What durable.c (events into the store), follow.c (those of other engines out of it) and
 * takeover.c (who is alive) share. */

#ifndef AIQ_DURABLE_IMPL_H
#define AIQ_DURABLE_IMPL_H

#include <pthread.h>
#include "core/metrics.h"
#include "streams/durable.h"

#define DURABLE_NAME 17 /* of an engine, in the store: its id, hexadecimal */

typedef struct durable_lane durable_lane;
typedef struct durable_work durable_work;
typedef struct durable_copy durable_copy;

#define DURABLE_BUCKETS 1024

struct durable_stream {
    durable_lane *lane;
    stream *stream;
    char id[AIQ_ID_SIZE];
    int64_t term;
    uint64_t next_event;  /* number of the next one that goes to the store */
    aiq_buf text, source; /* not on their way yet */
    size_t waiting;       /* bytes of both, as counted */
    size_t stored;        /* bytes of events */
    bool begun, ends;
    bool told_end; /* the end is on its way */
    bool refused;  /* the store does not have it, or not for us */
    bool held;
    bool failed; /* it ends with an error for what the store has refused, … */
    bool full;   /* … or because there is enough of it */
    durable_stream *next, **prev; /* in lane->streams */
};

/* Of a loop. */
struct durable_lane {
    durable *all;
    aiq_loop *loop;
    durable_stream *streams;
    durable_work *work; /* on its way; or it has failed, and the timer runs; others behind it */
    loop_timer timer;   /* until flush() */
    uint64_t failing_ns; /* since when the store does not take any; 0: it does */
    bool told;           /* producers, of that */
    /* follow.c. The lock is for who hears: the loop alone changes the table, and holds it for
     * that. */
    pthread_mutex_t lock;
    durable_copy *copies[DURABLE_BUCKETS];
    bool posted; /* the loop is going to look at what was heard */
};

struct durable {
    aiq_engine *engine;
    char me[DURABLE_NAME];
    durable_lane *lanes; /* one a loop */
    metric *open, *unstored, *stored, *taken, *followed;
    unsigned n_open; /* atomic */
    bool stopping;
    uint64_t look_ms; /* DURABLE_LOOK_MS */
    void (*on_orphan)(aiq_loop *loop, const durable_orphan *orphan);
    /* takeover.c: loop 0 */
    loop_timer beat;
    bool beating, looking;
    uint64_t contact_ns; /* since when the store answers; 0: it does not */
    uint64_t forgot_ns;
};

durable_lane *durable_lane_of(const aiq_loop *loop);
durable_stream *durable_make(durable_lane *lane, stream *s, const char *id, int64_t term,
                             uint64_t last);

/* follow.c */
void durable_init_copies(durable_lane *lane);
/* There is none any more. */
void durable_unfollow(aiq_loop *loop, aiq_str id);
void durable_free_copies(durable_lane *lane);

/* takeover.c */
void durable_start_beat(durable *all);

#endif
