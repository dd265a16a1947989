/*
 * Topics: what is said to all who want to hear it. A topic is a stream (streams.h) with a
 * name within a tenant, which anybody publishes to: its first event or its first reader
 * makes it. Its events are JSON objects:
 *
 *     {"type":"deploy","data":…,"timestamp":"2026-11-21T12:30:00.250Z","seq":1763728200250001}
 *
 * Nobody is waited for: a reader who falls behind what is kept goes on with the first event
 * that is, and is told of the gap. Numbers are consecutive and begin with the microseconds
 * of the time when the topic is made, so that those of a topic that was forgotten, or of an
 * engine that has ended, do not come again: who comes back with one of these hears of a gap.
 *
 * A topic belongs to the loop hash(tenant, name) mod N of its engine. It keeps TOPIC_BYTES,
 * the latest, and is forgotten TOPIC_KEEP_MS after its last event or reader, whichever is
 * later. Each loop has up to TOPICS_MAX of them, TOPICS_TENANT_MAX of a tenant: a tenant who
 * has as many is refused another, unless one is empty and unread; at the first bound, or where
 * streams take all of their memory, those go that nobody reads, the longest unused first.
 *
 * With Redis (topics_impl.h) a topic is that of all engines, with the same numbers, which then
 * are Redis'.
 *
 * The engine's own topics begin with "aiq.", those with "aiq.admin." are for admins.
 */

#ifndef AIQ_TOPICS_H
#define AIQ_TOPICS_H

#include "streams/streams.h"

#define TOPIC_NAME_MAX    64
#define TOPIC_TYPE_MAX    64
#define TOPIC_BYTES       ((size_t)256 << 10)
#define TOPIC_KEEP_MS     600000
#define TOPICS_MAX        4096
#define TOPICS_TENANT_MAX 256

/* Of the tenant "default": circuit breakers, "breaker". */
#define TOPIC_PROVIDERS "aiq.admin.providers"
/* Of the tenant "default": "model.loading", "model.ready", "model.failed", "model.closed". */
#define TOPIC_MODELS "aiq.admin.models"
/* Of each tenant: "budget.warning" at 80 %, "budget.exceeded" at the first refusal. */
#define TOPIC_BUDGETS "aiq.admin.budgets"

typedef struct topics topics;

/* After streams_new(). Main thread, before the loops start. Never NULL. */
topics *topics_new(aiq_engine *engine);
/* Hears of what other engines say; where there is Redis, between redis_new() and
 * redis_start(). */
void topics_hear(topics *all);
/* Before streams_free(). NULL is fine. */
void topics_free(topics *all);

/* Names are of A-Z a-z 0-9 . _ - and 1 to TOPIC_NAME_MAX long. */
bool topic_is_name(aiq_str name);
/* May this role read it, may it publish to it? */
bool topic_may_read(aiq_str role, aiq_str name);
bool topic_may_publish(aiq_str name);

/* `data` is a JSON value that was validated, of TOPIC_BYTES at most. Copies all of it. Any
 * thread. Nothing where the engine has no topics, as in tests of other rooms. */
void topic_publish(aiq_engine *engine, aiq_str tenant, aiq_str name, aiq_str type,
                   aiq_str data);

/* The same with an answer: the event's number, or err->status != 0: 429 too_many_topics. */
typedef struct topic_question topic_question;
typedef void (*topic_told)(void *arg, uint64_t seq, const aiq_err *err);
topic_question *topic_ask(aiq_loop *loop, aiq_str tenant, aiq_str name, aiq_str type,
                          aiq_str data, topic_told told, void *arg);
/* It is not told any more. Not after it was. */
void topic_forget(topic_question *question);

/* For readers. The loop, or NULL and *err: it is no name. */
aiq_loop *topic_owner(aiq_engine *engine, aiq_str tenant, aiq_str name, aiq_err *err);
/* Finds or makes it, on that loop. NULL and *err: too_many_topics, or (status 0) it will be
 * there in a moment. */
stream *topic_stream(aiq_loop *loop, aiq_str tenant, aiq_str name, aiq_err *err);

#endif
