/*
 * Redis: what engines share and may lose. One connection a loop, kept up from the start:
 *
 *     waiting     it was lost or refused; the next try comes later, each wait longer
 *     resolving   the host's addresses are looked up; each try takes another of them
 *     joining     connecting, then AUTH and SELECT (REDIS_CONNECT_MS for all of it)
 *     up          commands go out
 *
 * Nobody waits for Redis: while it is not up a command fails at once, and what has not
 * been answered after REDIS_ANSWER_MS has failed, too. One that says nothing at all for
 * REDIS_SILENT_MS has its connection closed. What may be on its way is bounded in number
 * and in bytes, a reply in bytes; what a reply says is as hostile as any other input.
 */

#ifndef AIQ_REDIS_H
#define AIQ_REDIS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include "core/loop.h"
#include "core/pool.h"

#define REDIS_CONNECT_MS  1000
#define REDIS_ANSWER_MS   50
#define REDIS_SILENT_MS   1000
#define REDIS_COMMANDS    4096       /* on their way, of one loop */
#define REDIS_BYTES       (16 << 20) /* of them */
#define REDIS_REPLY_BYTES (2 << 20)
#define REDIS_WORDS       32   /* of one command */
#define REDIS_BLOCK_MS    2000 /* how long redis_hear()'s question waits for news */
#define REDIS_GATHER_MS   5    /* between two of them */

typedef struct redis redis;

/* url: see redis_url.h. Where it has no password, the environment's REDISCLI_AUTH is it.
 * NULL and *err: it is none. Main thread, before the loops start. */
redis *redis_new(aiq_engine *engine, const char *url, aiq_err *err);
/* Hears of a stream's new entries: loop 0 has one connection more, which waits for them
 * (XREAD BLOCK), so nobody has to look for them again and again. fn comes on loop 0 when there
 * are some, at most every REDIS_GATHER_MS, and when that connection has come or gone. Once,
 * for one stream, before redis_start(); name is borrowed. */
void redis_hear(redis *r, const char *name, void (*fn)(void *arg), void *arg);
/* Does it hear at present? Any thread. */
bool redis_hears(const redis *r);

/* Connects, once the loops run. Main thread. */
void redis_start(redis *r);
/* After the loops' end. NULL is fine. */
void redis_free(redis *r);

/* Embedded in its owner, who cancels it before its memory goes. */
typedef struct redis_call {
    struct redis_command *command; /* NULL: over */
    bool refused;                  /* it was answered, with an error */
    aiq_loop *loop;
    loop_timer timer;
    /* reply: valid during the call; NULL: no answer in time, or an error. */
    void (*fn)(void *arg, const redisReply *reply);
    void *arg;
} redis_call;

/* Sends a command on the loop's connection; fn follows, never before this has returned.
 * False: it cannot be sent now, and fn does not come. The words are copied. On the loop;
 * so the next two. */
bool redis_ask(redis *r, aiq_loop *loop, redis_call *call, const aiq_str *words, unsigned n,
               void (*fn)(void *arg, const redisReply *reply), void *arg);

/* The same where nobody cares for the answer. */
bool redis_tell(redis *r, aiq_loop *loop, const aiq_str *words, unsigned n);

/* fn does not come any more. Fine where it has. */
void redis_cancel(redis_call *call);

#endif
