/*
 * A request's body as one piece of memory. Small bodies are collected; from
 * SPOOL_MEMORY on they go to an unlinked file, written by libuv's threads so
 * that a slow disk holds no loop up, and mapped once they are whole. What
 * waits to be written is bounded by the job's window: the client gets credit
 * for what is in the file.
 *
 * Whoever can do with a part of it, and knows how long it will be, has the file
 * mapped from the start, and is told as it grows.
 */

#ifndef AIQ_SPOOL_H
#define AIQ_SPOOL_H

#include "link/job.h"

#define SPOOL_MEMORY (256u << 10)

typedef struct spool spool;

/* whole: called once after spool_end(), maybe at once; err is NULL where the
 * body is there. Not called any more after spool_free(). */
typedef void (*spool_fn)(aiq_job *job, aiq_str body, const aiq_err *err);

spool *spool_new(aiq_job *job, spool_fn whole);
/* Also while a write is under way. The body is gone then. */
void spool_free(spool *s);

/* Before anything of the body: grown is called whenever more of it is there, the first
 * `filled` bytes of `body`, which is all of its length and stays where it is. It may end the
 * job. False: the body's length is not known, it is a small one, or the file cannot be had;
 * then there is only whole. */
bool spool_follow(spool *s, void (*grown)(aiq_job *job, aiq_str body, size_t filled));

void spool_add(spool *s, const uint8_t *data, size_t n);
void spool_end(spool *s);

#endif
