/*
 * A request and the exact cache, where its location has one (`aiq_cache`).
 *
 * What is kept is what the client was sent, under a digest of everything that has a say
 * in it: the tenant, the endpoint, the request's body to the byte, the headers that go to
 * a provider or choose one, and the model's targets as the policy has them. A stream and
 * a whole answer are two entries, for "stream" is in the body. Only a whole answer of
 * status 200 is kept: no error, nothing that broke off or that a second target went on
 * with, nothing beyond CACHED_MAX.
 *
 * `Cache-Control: no-store` in a request: it neither gets an answer that was kept nor
 * leaves one; no-cache: it gets none, but its own replaces it.
 *
 * One that waits for another's answer gets it when that is whole, streams too; after
 * CACHED_WAIT_MS it goes its own way.
 *
 * Where the engine has a Redis, the one that would go out looks there first, while the
 * others wait for it as they would for its answer; and what is kept is kept there, too.
 *
 * Where the location has a semantic cache, too, it is asked last: by the one that would go
 * out now, and has a question (similar.h). An answer to another question is not kept under
 * this one's digest, so each time it is given it is known for what it is.
 *
 * Of the job's loop; lies in the job's memory.
 */

#ifndef AIQ_GATEWAY_CACHED_H
#define AIQ_GATEWAY_CACHED_H

#include "cache/cache.h"
#include "link/job.h"
#include "redis/redis.h"
#include "providers/chat_request.h"
#include "services/gateway/similar.h"

#define CACHED_MAX     (1u << 20)
#define CACHED_WAIT_MS 30000
#define CACHED_LIKE_MS 1000 /* for the semantic cache, and for a model that makes a vector */

typedef struct {
    aiq_job *job;
    cache *cache;         /* NULL: the request has nothing to do with it */
    cache_ticket *ticket; /* it leads or waits; NULL: neither */
    bool keeps;           /* what it is answered is to be kept */
    aiq_buf kept;         /* the entry as it grows */
    lru_entry *entry;     /* a hit */
    aiq_str left;         /* of its body, to be sent */
    uint8_t key[LRU_KEY];
    loop_timer wait;
    redis_call look;             /* into Redis */
    semantic_question *question; /* NULL: there is none to look for */
    similar_call *making;        /* its vector */
    semantic_call *like;         /* who looks for it */
    semantic_hit near;           /* what was found */
    void (*ready)(aiq_job *job); /* after CACHED_WAITS */
} cached;

typedef enum { CACHED_CALL, CACHED_HIT, CACHED_WAITS } cached_way;

/* CACHED_HIT: cached_reply() is all that is to do. CACHED_WAITS: ready() follows, and
 * whether it is a hit then says k->entry. */
cached_way cached_begin(cached *k, aiq_job *job, const policy_model *model,
                        const chat_request *chat, void (*ready)(aiq_job *job));

/* The head of a hit, where none is sent yet; cached_send() follows. model: the client's
 * name of it. */
void cached_reply(cached *k, const char *model);
/* What the client has credit for; true: that was all. */
bool cached_send(cached *k);

/* A piece of the answer, as the client gets it. */
void cached_keep(cached *k, const uint8_t *data, size_t n);
/* The answer, of status 200, is whole. */
void cached_done(cached *k, const policy_target *target, bool stream);

/* There is nothing to keep, or nobody to wait any longer. Always before the job's end. */
void cached_drop(cached *k);
void cached_free(cached *k);

#endif
