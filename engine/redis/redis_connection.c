#include "redis/redis_impl.h"
#include <netdb.h>
#include <stdlib.h>
#include "core/log.h"
#include "core/retry.h"

#define RETRY_BASE_MS 100
#define RETRIES_MAX   6 /* whose wait is 3.2 s, and no other is longer */

#define ADDRESSES_MAX 16 /* of a host that are tried */

/* on_disconnected() follows. */
void redis_close(redis_connection *c, const char *why)
{
    c->why = why;
    redisAsyncFree(c->context);
}

/* Replies. */

static void *create_array(const redisReadTask *task, int elements)
{
    const redisReplyObjectFunctions *hiredis = task->privdata;

    return elements > REDIS_ELEMENTS_MAX ? NULL : hiredis->createArray(task, elements);
}

static void bound_replies(redis_connection *c)
{
    redisReader *reader = c->context->c.reader;

    c->functions = *reader->fn;
    c->functions.createArray = create_array;
    reader->privdata = reader->fn;
    reader->fn = &c->functions;
}

/* Coming and going. */

static void try_now(aiq_loop *loop, void *arg);

static void log_change(const redis_connection *c, aiq_log_level level, const char *what,
                       const char *why)
{
    aiq_log(level, "redis", what, AIQ_S("host", c->redis->url.host),
            AIQ_S("port", c->redis->url.port), AIQ_I("loop", c->loop->index),
            AIQ_S("detail", why));
}

static bool is_ear(const redis_connection *c)
{
    return c == &c->redis->ear.connection;
}

/* It is gone, or was never there. The first time in a row is worth a line. */
static void try_later(redis_connection *c, const char *why)
{
    bool was_up = c->state == REDIS_UP;

    c->context = NULL;
    if (c->state == REDIS_LEFT) {
        return;
    }
    if (was_up && is_ear(c)) {
        redis_set_hears(c->redis, false);
    } else if (was_up) {
        __atomic_sub_fetch(&c->redis->up, 1, __ATOMIC_RELAXED);
        metric_add(c->redis->connections, -1);
    }
    if (was_up || c->tries == 0) {
        log_change(c, AIQ_LOG_WARN, was_up ? "connection lost" : "cannot connect", why);
    }
    c->state = REDIS_WAITING;
    c->tries += c->tries < RETRIES_MAX;
    c->random = c->random * 6364136223846793005u + 1442695040888963407u;
    loop_timer_start(c->loop, &c->timer,
                     retry_wait_ms(c->tries, RETRY_BASE_MS, 0, c->random >> 32), try_now, c);
}

/* While joining. */
static void give_up(redis_connection *c, const char *why)
{
    redisAsyncContext *context = c->context;

    try_later(c, why);
    context->onConnect = NULL; /* that we have left is no news */
    context->onDisconnect = NULL;
    redisAsyncFree(context);
}

static void on_disconnected(const redisAsyncContext *context, int status)
{
    redis_connection *c = context->data;

    try_later(c, status == REDIS_OK ? c->why : context->errstr);
}

static void on_joined(redisAsyncContext *context, void *data, void *arg)
{
    redis_connection *c = arg;
    const redisReply *reply = data;

    (void)context;
    if (c->state != REDIS_JOINING || reply == NULL) {
        return; /* on_disconnected() says the rest */
    }
    if (reply->type == REDIS_REPLY_ERROR) {
        give_up(c, reply->str);
        return;
    }
    if (--c->joins == 0) {
        loop_timer_stop(c->loop, &c->timer);
        c->state = REDIS_UP;
        c->tries = 0;
        log_change(c, AIQ_LOG_INFO, "connected", NULL);
        if (is_ear(c)) {
            redis_start_listening(c);
            return;
        }
        __atomic_add_fetch(&c->redis->up, 1, __ATOMIC_RELAXED);
        metric_add(c->redis->connections, 1);
    }
}

static void on_connected(const redisAsyncContext *context, int status)
{
    if (status != REDIS_OK) {
        try_later(context->data, context->errstr); /* hiredis frees the context */
    }
}

static void on_slow(aiq_loop *loop, void *arg)
{
    (void)loop;
    give_up(arg, "it does not answer");
}

/* Sent before the connection stands; hiredis keeps it until then. */
static void join(redis_connection *c)
{
    const redis_url *url = &c->redis->url;

    if (url->password[0]) {
        c->joins++;
        if (url->user[0]) {
            redisAsyncCommand(c->context, on_joined, c, "AUTH %s %s", url->user, url->password);
        } else {
            redisAsyncCommand(c->context, on_joined, c, "AUTH %s", url->password);
        }
    }
    c->joins++; /* also where it is 0: the answer to it says that all is well */
    redisAsyncCommand(c->context, on_joined, c, "SELECT %u", url->database);
}

static void connect_to(redis_connection *c, const struct addrinfo *address)
{
    char host[NI_MAXHOST];

    c->joins = 0;
    if (getnameinfo(address->ai_addr, address->ai_addrlen, host, sizeof(host), NULL, 0,
                    NI_NUMERICHOST) != 0) {
        try_later(c, "no such address");
        return;
    }
    redisAsyncContext *context = redisAsyncConnect(host, atoi(c->redis->url.port));
    if (context == NULL || context->err || !redis_watch(context, c->loop)) {
        try_later(c, context ? context->errstr : "no memory");
        if (context) {
            redisAsyncFree(context);
        }
        return;
    }
    c->state = REDIS_JOINING;
    c->context = context;
    context->data = c;
    bound_replies(c);
    redisAsyncSetConnectCallback(context, on_connected);
    redisAsyncSetDisconnectCallback(context, on_disconnected);
    loop_timer_start(c->loop, &c->timer, REDIS_CONNECT_MS, on_slow, c);
    join(c);
}

static void on_resolved(uv_getaddrinfo_t *lookup, int status, struct addrinfo *first)
{
    redis_connection *c = lookup->data;
    const struct addrinfo *address = first;

    if (c->state != REDIS_RESOLVING) { /* the loop has left */
        uv_freeaddrinfo(first);
        return;
    }
    if (status != 0) {
        try_later(c, uv_strerror(status));
        return;
    }
    for (unsigned i = c->lookups++ % ADDRESSES_MAX; i > 0; i--) { /* another one each time */
        address = address->ai_next ? address->ai_next : first;
    }
    connect_to(c, address);
    uv_freeaddrinfo(first);
}

static void try_now(aiq_loop *loop, void *arg)
{
    redis_connection *c = arg;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

    c->state = REDIS_RESOLVING;
    c->lookup.data = c;
    int rc = uv_getaddrinfo(&loop->uv, &c->lookup, on_resolved, c->redis->url.host,
                            c->redis->url.port, &hints);
    if (rc != 0) {
        try_later(c, uv_strerror(rc));
    }
}

static void leave(aiq_loop *loop, void *arg)
{
    redis_connection *c = arg;
    redisAsyncContext *context = c->context;

    loop_timer_stop(loop, &c->timer);
    c->state = REDIS_LEFT;
    if (context) {
        redisAsyncFree(context);
    }
}

void redis_connect(aiq_loop *loop, void *arg)
{
    redis_connection *c = arg;

    c->exit.fn = leave;
    c->exit.arg = c;
    loop_at_exit(loop, &c->exit);
    try_now(loop, c);
}
