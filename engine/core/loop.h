/*
 * A loop is one thread with its own libuv loop, links, provider connections
 * and timers; loops share nothing and exchange messages. Everything in the
 * engine that is not said to be for "any thread" belongs to the loop that
 * made it.
 */

#ifndef AIQ_LOOP_H
#define AIQ_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include "core/err.h"

typedef struct aiq_engine aiq_engine; /* what the process shares: engine.h */
typedef struct aiq_loop aiq_loop;

struct aiq_loop {
    uv_loop_t uv;
    unsigned index;
    aiq_engine *engine;
    struct http_client *http; /* providers/: this loop's connections; NULL until used */
    struct link_end *links;   /* link/: this loop's links */
    struct loop_state *state; /* core/: the message queue and the turn's hooks */
};

typedef void (*loop_fn)(aiq_loop *loop, void *arg);

/* False and a log line's worth in *err where the system gives no descriptors. */
bool loop_init(aiq_loop *loop, aiq_engine *engine, unsigned index, aiq_err *err);
/* Runs the loop in the calling thread until loop_stop(), then its exit hooks. */
void loop_run(aiq_loop *loop);
/* Asks the loop to leave once this turn is over. Any thread. */
void loop_stop(aiq_loop *loop);
/* Runs what other threads have posted since loop_run() returned: for a room that
 * has just ended its threads. Main thread. */
void loop_flush(aiq_loop *loop);
/* After loop_run(), or instead of it. */
void loop_free(aiq_loop *loop);

/* Runs fn(loop, arg) on the loop's thread, exactly once: at the latest in
 * loop_free(). Any thread; never blocks; messages of one thread to one loop keep
 * their order. */
void loop_post(aiq_loop *loop, loop_fn fn, void *arg);

/* Runs fn once at the end of the present turn, after all events were handled:
 * where a room flushes what it gathered. The caller owns the hook; it may be
 * asked for again once it has run. */
typedef struct loop_hook {
    struct loop_hook *next;
    loop_fn fn;
    void *arg;
    bool queued;
} loop_hook;
void loop_at_end(aiq_loop *loop, loop_hook *hook);

/* Something that is looked at once a turn, before the loop sleeps: the links'
 * rings. turn() handles what has come; settle() comes after every hook has run,
 * hands over what was gathered and says whether the loop may sleep. LOOP_POLL:
 * only look at the descriptors, and come back at once. settle() calls nobody. */
typedef enum { LOOP_SLEEP, LOOP_POLL } loop_mood;
typedef struct loop_source {
    struct loop_source *next;
    void (*turn)(aiq_loop *loop, void *arg);
    loop_mood (*settle)(aiq_loop *loop, void *arg);
    void *arg;
} loop_source;
void loop_add_source(aiq_loop *loop, loop_source *source);

/* Runs fn on the loop's thread when the loop leaves, the last added first: where
 * a room closes its handles. The caller owns the hook. */
void loop_at_exit(aiq_loop *loop, loop_hook *hook);

/* Nanoseconds, monotonic. */
uint64_t loop_now_ns(void);

/* The same clock as it was when the present turn woke up, in whole milliseconds: costs no
 * reading, and will do wherever a turn more or less is no matter. The loop's thread. */
static inline uint64_t loop_turn_ns(const aiq_loop *loop)
{
    return uv_now(&loop->uv) * 1000000;
}

/* A one-shot timer embedded in its owner; milliseconds. Stopping one that does
 * not run is fine. The owner stops it before its memory goes. A heap of plain
 * structs behind one uv_timer, so that a request's timers cost no handle. */
typedef struct loop_timer {
    uint64_t due_ns;
    uint32_t heap_index; /* 0: not running */
    loop_fn fn;
    void *arg;
} loop_timer;
void loop_timer_start(aiq_loop *loop, loop_timer *timer, uint64_t ms, loop_fn fn, void *arg);
void loop_timer_stop(aiq_loop *loop, loop_timer *timer);

#endif
