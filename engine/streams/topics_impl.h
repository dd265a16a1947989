/*
 * What topics.c (topics and their events) and topics_shared.c (those of several engines) share.
 *
 * With Redis a topic is one log for all engines, and Redis' (topics.lua): it numbers, and keeps
 * what an engine keeps, TOPIC_BYTES and TOPIC_KEEP_MS. An engine has a copy of those that it
 * has anything to do with. What one engine publishes goes to Redis, and what comes back goes
 * into the copy, with all that others have published before it. Of the rest it hears by the
 * news: who is in there is asked for. Each loop that has topics looks at them when the engine
 * hears that there are some (redis_hear()), and every TOPIC_LOOK_MS without; every
 * TOPIC_NEWS_MS while it cannot hear.
 *
 * While Redis is away nothing can be published (503, after TOPIC_TRIES; it may have come there
 * all the same), and nobody begins to read a topic that is not here yet; who reads goes on to,
 * and gets what there was as soon as it is back. What the engine itself says meanwhile is lost.
 * Where Redis has forgotten, or the copy is too far behind, the copy begins anew, and its
 * readers hear of the gap.
 */

#ifndef AIQ_TOPICS_IMPL_H
#define AIQ_TOPICS_IMPL_H

#include "core/id.h"
#include "core/metrics.h"
#include "limits/script.h"
#include "streams/topics.h"

#define TOPIC_BUCKETS  4096
#define TOPIC_NEWS_MS  50
#define TOPIC_LOOK_MS  2000
#define TOPIC_TOUCH_MS (TOPIC_KEEP_MS / 3)
#define TOPIC_TRY_MS   100
#define TOPIC_TRIES    20
#define TOPIC_FETCHES  256 /* topics that are asked for at once */
#define TOPIC_ENTRY    44  /* of the name of an entry in the news */

typedef struct topic_table topic_table;

typedef struct topic {
    struct topic *next; /* in its bucket */
    topic_table *table;
    stream *stream;
    struct topic *older, *newer; /* of those that nobody reads */
    bool idle;                   /* it is one of them, … */
    uint64_t since_ns;           /* … so long */
    bool ready;                  /* its numbers are those that all have */
    bool stale;                  /* there may be more of it, which is to be asked for */
    script_run run;              /* by which it is */
    uint32_t hash;
    size_t tenant_len, name_len;
    char text[]; /* both */
} topic;

struct topic_question {
    aiq_loop *home; /* NULL: nobody wants to know */
    topic_told told;
    void *arg;
    uint64_t seq;
    aiq_err err;
    /* with Redis */
    script_run run;
    loop_timer again;
    unsigned tries;
    char id[AIQ_ID_SIZE];
    topic_question *next, **prev; /* in its table */
    aiq_str tenant, name, type, data;
    char text[]; /* of all four */
};

/* Of a loop. */
struct topic_table {
    topics *all;
    aiq_loop *loop;
    unsigned n;
    topic *oldest, *newest; /* idle ones */
    loop_timer expiry;
    /* with Redis */
    topic_question *asked;
    loop_timer poll;
    redis_call call;
    char news[TOPIC_ENTRY]; /* the last that was looked at; empty: none yet */
    bool away;              /* they were not there the last time */
    bool told;              /* atomic; there are some: the loop is going to look */
    bool again;             /* there were, while it looked */
    bool some_stale;
    uint64_t touched_ns; /* when all were asked for, so that Redis does not forget them */
    bool ended;          /* the loop */
    loop_hook exit;
    topic *buckets[TOPIC_BUCKETS];
};

struct topics {
    aiq_engine *engine;
    metric *open, *events, *refusals, *evictions;
    script *script;       /* NULL: there is no Redis */
    uint64_t look_ms;     /* TOPIC_LOOK_MS */
    topic_table tables[]; /* one a loop */
};

/* topics.c */

/* What an event is without its number, and the end: what topic_take() takes. */
void topic_event_text(aiq_buf *out, const topic_question *q);
/* The event with that number, if it is not there yet. */
void topic_take(topic *t, uint64_t number, aiq_str text);
/* It has come to that number, whatever was before. */
void topic_restart(topic *t, uint64_t number);
topic *topic_find(const topic_table *in, aiq_str tenant, aiq_str name);
/* The answer; q is gone. */
void topic_answer(topic_question *q);

/* topics_shared.c; of the topic's loop, and where there is Redis. */

/* Before the loops run. */
void topic_shared_start(topic_table *in);
/* It was made; it goes. */
void topic_shared_begin(topic *t);
void topic_shared_end(topic *t);
/* topic_answer() follows. */
void topic_shared_publish(topic_table *in, topic_question *q);

#endif
