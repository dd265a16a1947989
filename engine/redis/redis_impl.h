/* What redis.c (commands and their answers), redis_connection.c (how a connection comes and
 * goes), redis_ear.c (news) and redis_watch.c (hiredis' events, by libuv) share. */

#ifndef AIQ_REDIS_IMPL_H
#define AIQ_REDIS_IMPL_H

#include <hiredis/async.h>
#include "engine.h"
#include "redis/redis.h"
#include "redis/redis_url.h"

/* Of one reply. hiredis allocates them by a number in it. */
#define REDIS_ELEMENTS_MAX 1024

typedef enum {
    REDIS_WAITING,
    REDIS_RESOLVING,
    REDIS_JOINING,
    REDIS_UP,
    REDIS_LEFT
} redis_state;

/* One loop's. */
typedef struct {
    redis *redis;
    aiq_loop *loop;
    redis_state state;
    redisAsyncContext *context; /* while joining and up */
    uv_getaddrinfo_t lookup;
    loop_timer timer; /* the time limit of joining, or when to try again */
    loop_hook exit;
    unsigned tries; /* in vain, in a row; counted up to RETRIES_MAX */
    unsigned lookups;
    unsigned joins;    /* replies still to come before it is up */
    unsigned n;        /* commands on their way */
    size_t bytes;      /* of them */
    uint64_t heard_ns; /* when it last said something, or had nothing to say */
    const char *why;   /* we close it */
    uint64_t random;
    redisReplyObjectFunctions functions;
} redis_connection;

/* Who hears, by a connection of its own. */
typedef struct {
    redis_connection connection;
    const char *name; /* NULL: nobody wants to */
    void (*fn)(void *arg);
    void *arg;
    bool hears;    /* atomic */
    char last[44]; /* the entry's name from which on it asks */
} redis_ear;

struct redis {
    aiq_engine *engine;
    redis_url url;
    unsigned up; /* atomic; connections of loops */
    redis_ear ear;
    metric *connections, *timeouts, *errors, *refused;
    health_component health;
    redis_connection loops[];
};

/* redis_connection.c */

/* Keeps a connection (arg) up until the loop's end. */
void redis_connect(aiq_loop *loop, void *arg);
/* Of one that is connected: every command fails, and it is tried again later; from within one
 * of hiredis' callbacks once that has returned. */
void redis_close(redis_connection *c, const char *why);

/* redis_ear.c */

/* The ear's connection has come; it goes with redis_set_hears(false). */
void redis_start_listening(redis_connection *c);
void redis_set_hears(redis *r, bool hears);

/* redis_watch.c */

/* Gives the context its events until it is freed. context->data is a redis_connection. False:
 * its descriptor cannot be watched. */
bool redis_watch(redisAsyncContext *context, aiq_loop *loop);

#endif
