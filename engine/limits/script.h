/*
 * A script that Redis runs as one step. Redis knows it by a digest of its text, and is sent the
 * text itself only where it may not have it: the first time on a loop's connection, and when it
 * says that it has forgotten.
 */

#ifndef AIQ_SCRIPT_H
#define AIQ_SCRIPT_H

#include "redis/redis.h"

typedef struct script script;

/* text stays. Before the loops run. */
script *script_new(const aiq_engine *engine, const char *text, size_t len);
/* NULL is fine. */
void script_free(script *s);

/* A command that runs it; embedded in its owner, as its call is. */
typedef struct {
    redis_call call;
    script *script;
    aiq_loop *loop;
    bool whole; /* the text goes with it */
} script_run;

/* On the loop; so the next two. */
void script_begin(script_run *run, script *s, aiq_loop *loop);
/* Its first two words: how it is called, and itself. */
void script_words(const script_run *run, aiq_str words[2]);
/* Of every reply, first: true: the script was not there, and the command is to be sent anew. */
bool script_forgotten(script_run *run, const redisReply *reply);

#endif
