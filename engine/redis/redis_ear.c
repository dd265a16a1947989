#include "redis/redis_impl.h"
#include <string.h>

static void listen_now(aiq_loop *loop, void *arg);

void redis_set_hears(redis *r, bool hears)
{
    if (r->ear.hears != hears) {
        __atomic_store_n(&r->ear.hears, hears, __ATOMIC_RELAXED);
        r->ear.fn(r->ear.arg);
    }
}

static const redisReply *element(const redisReply *array, size_t i)
{
    return array && array->type == REDIS_REPLY_ARRAY && i < array->elements ? array->element[i]
                                                                            : NULL;
}

/* [[stream, [[name, fields], …]]]: the last name. */
static bool note_last(redis_ear *e, const redisReply *reply)
{
    const redisReply *entries = element(element(reply, 0), 1);
    const redisReply *name = element(element(entries, entries ? entries->elements - 1 : 0), 0);

    if (name == NULL || name->type != REDIS_REPLY_STRING || name->len >= sizeof(e->last)) {
        return false;
    }
    memcpy(e->last, name->str, name->len + 1);
    return true;
}

/* Nothing for so long: the same question again. */
static void on_listened(redisAsyncContext *context, void *data, void *arg)
{
    redis_connection *c = arg;
    redis_ear *e = &c->redis->ear;
    const redisReply *reply = data;

    (void)context;
    if (reply == NULL || c->state != REDIS_UP) {
        return; /* on_disconnected() says the rest */
    }
    if (reply->type != REDIS_REPLY_NIL && !note_last(e, reply)) {
        redis_close(c, "that is no news");
        return;
    }
    loop_timer_start(c->loop, &c->timer, REDIS_GATHER_MS, listen_now, c);
    if (reply->type != REDIS_REPLY_NIL) {
        e->fn(e->arg);
    }
}

static void on_deaf(aiq_loop *loop, void *arg)
{
    (void)loop;
    redis_close(arg, "it does not answer");
}

static void listen_now(aiq_loop *loop, void *arg)
{
    redis_connection *c = arg;
    redis_ear *e = &c->redis->ear;

    loop_timer_start(loop, &c->timer, REDIS_BLOCK_MS + REDIS_SILENT_MS, on_deaf, c);
    redisAsyncCommand(c->context, on_listened, c, "XREAD COUNT %d BLOCK %d STREAMS %s %s",
                      REDIS_ELEMENTS_MAX / 2, REDIS_BLOCK_MS, e->name, e->last);
}

void redis_start_listening(redis_connection *c)
{
    listen_now(c->loop, c);
    redis_set_hears(c->redis, true);
}

void redis_hear(redis *r, const char *name, void (*fn)(void *arg), void *arg)
{
    r->ear.name = name;
    r->ear.fn = fn;
    r->ear.arg = arg;
    memcpy(r->ear.last, "0-0", sizeof("0-0")); /* what there is, too: nothing lies between */
}

bool redis_hears(const redis *r)
{
    return __atomic_load_n(&r->ear.hears, __ATOMIC_RELAXED);
}
