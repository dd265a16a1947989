#include "redis/redis.h"
#include <hiredis/async.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/log.h"
#include "core/retry.h"
#include "engine.h"
#include "redis/redis_url.h"

#define RETRY_BASE_MS 100
#define RETRIES_MAX   6 /* whose wait is 3.2 s, and no other is longer */

#define ADDRESSES_MAX 16 /* of a host that are tried */

/* Of one reply. hiredis allocates them by a number in it. */
#define ELEMENTS_MAX 1024

typedef enum { REDIS_WAITING, REDIS_RESOLVING, REDIS_JOINING, REDIS_UP, REDIS_LEFT } state;

/* One loop's. */
typedef struct {
    redis *redis;
    aiq_loop *loop;
    state state;
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
} connection;

/* Who hears, by a connection of its own. */
typedef struct {
    connection connection;
    const char *name; /* NULL: nobody wants to */
    void (*fn)(void *arg);
    void *arg;
    bool hears;    /* atomic */
    char last[44]; /* the entry's name from which on it asks */
} ear;

struct redis {
    aiq_engine *engine;
    redis_url url;
    unsigned up; /* atomic; connections of loops */
    ear ear;
    metric *connections, *timeouts, *errors, *refused;
    health_component health;
    connection loops[];
};

struct redis_command {
    connection *connection;
    redis_call *call; /* NULL: nobody waits any more */
    size_t bytes;
};

/* on_disconnected() follows, and before it the failure of every command. */
static void close_now(connection *c, const char *why)
{
    c->why = why;
    redisAsyncFree(c->context);
}

/* hiredis' events, by libuv. */

typedef struct {
    uv_poll_t poll; /* first: freed as its handle is closed */
    redisAsyncContext *context;
    int events;
} watch;

static void on_ready(uv_poll_t *poll, int status, int events)
{
    watch *w = (watch *)poll;

    if (status < 0) {
        events = UV_READABLE; /* reading tells hiredis what is wrong */
    }
    if (w->context && events & UV_READABLE) {
        redisAsyncHandleRead(w->context);
    }
    if (w->context && w->context->c.reader->len > REDIS_REPLY_BYTES) {
        close_now(w->context->data, "a reply was too large");
    }
    if (w->context && events & UV_WRITABLE) {
        redisAsyncHandleWrite(w->context);
    }
}

static void set_events(watch *w, int events)
{
    if (events != w->events) {
        w->events = events;
        if (events) {
            uv_poll_start(&w->poll, events, on_ready);
        } else {
            uv_poll_stop(&w->poll);
        }
    }
}

static void add_read(void *arg)
{
    watch *w = arg;

    set_events(w, w->events | UV_READABLE);
}

static void del_read(void *arg)
{
    watch *w = arg;

    set_events(w, w->events & ~UV_READABLE);
}

static void add_write(void *arg)
{
    watch *w = arg;

    set_events(w, w->events | UV_WRITABLE);
}

static void del_write(void *arg)
{
    watch *w = arg;

    set_events(w, w->events & ~UV_WRITABLE);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void end_watch(void *arg)
{
    watch *w = arg;

    w->context = NULL;
    uv_close((uv_handle_t *)&w->poll, on_closed);
}

static bool begin_watch(redisAsyncContext *context, aiq_loop *loop)
{
    watch *w = aiq_zalloc(sizeof(*w));

    if (uv_poll_init(&loop->uv, &w->poll, context->c.fd) != 0) {
        free(w);
        return false;
    }
    w->context = context;
    context->ev.data = w;
    context->ev.addRead = add_read;
    context->ev.delRead = del_read;
    context->ev.addWrite = add_write;
    context->ev.delWrite = del_write;
    context->ev.cleanup = end_watch;
    return true;
}

/* Replies. */

static void *create_array(const redisReadTask *task, int elements)
{
    const redisReplyObjectFunctions *hiredis = task->privdata;

    return elements > ELEMENTS_MAX ? NULL : hiredis->createArray(task, elements);
}

static void bound_replies(connection *c)
{
    redisReader *reader = c->context->c.reader;

    c->functions = *reader->fn;
    c->functions.createArray = create_array;
    reader->privdata = reader->fn;
    reader->fn = &c->functions;
}

/* Commands. */

static void end_call(redis_call *call, const redisReply *reply)
{
    loop_timer_stop(call->loop, &call->timer);
    call->command = NULL;
    call->fn(call->arg, reply);
}

static void on_reply(redisAsyncContext *context, void *data, void *arg)
{
    struct redis_command *command = arg;
    connection *c = command->connection;
    redis_call *call = command->call;
    const redisReply *reply = data;

    (void)context;
    c->n--;
    c->bytes -= command->bytes;
    c->heard_ns = loop_now_ns();
    free(command);
    bool refused = reply && reply->type == REDIS_REPLY_ERROR;
    if (refused) {
        metric_add(c->redis->errors, 1);
        reply = NULL;
    }
    if (call) {
        call->refused = refused;
        end_call(call, reply);
    }
}

/* News. */

static void listen_now(aiq_loop *loop, void *arg);

static void set_hears(redis *r, bool hears)
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
static bool note_last(ear *e, const redisReply *reply)
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
    connection *c = arg;
    ear *e = &c->redis->ear;
    const redisReply *reply = data;

    (void)context;
    if (reply == NULL || c->state != REDIS_UP) {
        return; /* on_disconnected() says the rest */
    }
    if (reply->type != REDIS_REPLY_NIL && !note_last(e, reply)) {
        close_now(c, "that is no news");
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
    close_now(arg, "it does not answer");
}

static void listen_now(aiq_loop *loop, void *arg)
{
    connection *c = arg;
    ear *e = &c->redis->ear;

    loop_timer_start(loop, &c->timer, REDIS_BLOCK_MS + REDIS_SILENT_MS, on_deaf, c);
    redisAsyncCommand(c->context, on_listened, c, "XREAD COUNT %d BLOCK %d STREAMS %s %s",
                      ELEMENTS_MAX / 2, REDIS_BLOCK_MS, e->name, e->last);
}

static void start_listening(connection *c)
{
    listen_now(c->loop, c);
    set_hears(c->redis, true);
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

static struct redis_command *send_words(redis *r, aiq_loop *loop, const aiq_str *words,
                                        unsigned n)
{
    connection *c = &r->loops[loop->index];
    const char *data[REDIS_WORDS];
    size_t lengths[REDIS_WORDS], bytes = 0;

    for (unsigned i = 0; i < n && i < REDIS_WORDS; i++) {
        data[i] = words[i].data;
        lengths[i] = words[i].len;
        bytes += words[i].len;
    }
    if (c->state != REDIS_UP || n > REDIS_WORDS || c->n == REDIS_COMMANDS ||
        bytes > REDIS_BYTES - c->bytes) {
        metric_add(r->refused, 1);
        return NULL;
    }
    struct redis_command *command = aiq_alloc(sizeof(*command));
    *command = (struct redis_command){.connection = c, .bytes = bytes};
    if (redisAsyncCommandArgv(c->context, on_reply, command, (int)n, data, lengths) !=
        REDIS_OK) {
        free(command);
        metric_add(r->refused, 1);
        return NULL;
    }
    c->heard_ns = c->n++ == 0 ? loop_now_ns() : c->heard_ns;
    c->bytes += bytes;
    return command;
}

/* Its answers, if they come at all, come much too late. */
static void close_silent(connection *c)
{
    if (c->state == REDIS_UP && c->n > 0 &&
        loop_now_ns() - c->heard_ns > REDIS_SILENT_MS * 1000000ull) {
        close_now(c, "it does not answer");
    }
}

static void on_late(aiq_loop *loop, void *arg)
{
    redis_call *call = arg;
    connection *c = call->command->connection;

    (void)loop;
    call->command->call = NULL;
    metric_add(c->redis->timeouts, 1);
    end_call(call, NULL);
    close_silent(c);
}

bool redis_ask(redis *r, aiq_loop *loop, redis_call *call, const aiq_str *words, unsigned n,
               void (*fn)(void *arg, const redisReply *reply), void *arg)
{
    struct redis_command *command = send_words(r, loop, words, n);

    *call = (redis_call){.command = command, .loop = loop, .fn = fn, .arg = arg};
    if (command == NULL) {
        return false;
    }
    command->call = call;
    loop_timer_start(loop, &call->timer, REDIS_ANSWER_MS, on_late, call);
    return true;
}

bool redis_tell(redis *r, aiq_loop *loop, const aiq_str *words, unsigned n)
{
    return send_words(r, loop, words, n) != NULL;
}

void redis_cancel(redis_call *call)
{
    if (call->command) {
        loop_timer_stop(call->loop, &call->timer);
        call->command->call = NULL;
        call->command = NULL;
    }
}

/* The connection. */

static void try_now(aiq_loop *loop, void *arg);

static void log_change(const connection *c, aiq_log_level level, const char *what,
                       const char *why)
{
    aiq_log(level, "redis", what, AIQ_S("host", c->redis->url.host),
            AIQ_S("port", c->redis->url.port), AIQ_I("loop", c->loop->index),
            AIQ_S("detail", why));
}

static bool is_ear(const connection *c)
{
    return c == &c->redis->ear.connection;
}

/* It is gone, or was never there. The first time in a row is worth a line. */
static void try_later(connection *c, const char *why)
{
    bool was_up = c->state == REDIS_UP;

    c->context = NULL;
    if (c->state == REDIS_LEFT) {
        return;
    }
    if (was_up && is_ear(c)) {
        set_hears(c->redis, false);
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
static void give_up(connection *c, const char *why)
{
    redisAsyncContext *context = c->context;

    try_later(c, why);
    context->onConnect = NULL; /* that we have left is no news */
    context->onDisconnect = NULL;
    redisAsyncFree(context);
}

static void on_disconnected(const redisAsyncContext *context, int status)
{
    connection *c = context->data;

    try_later(c, status == REDIS_OK ? c->why : context->errstr);
}

static void on_joined(redisAsyncContext *context, void *data, void *arg)
{
    connection *c = arg;
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
            start_listening(c);
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
static void join(connection *c)
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

static void connect_to(connection *c, const struct addrinfo *address)
{
    char host[NI_MAXHOST];

    c->joins = 0;
    if (getnameinfo(address->ai_addr, address->ai_addrlen, host, sizeof(host), NULL, 0,
                    NI_NUMERICHOST) != 0) {
        try_later(c, "no such address");
        return;
    }
    redisAsyncContext *context = redisAsyncConnect(host, atoi(c->redis->url.port));
    if (context == NULL || context->err || !begin_watch(context, c->loop)) {
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
    connection *c = lookup->data;
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
    connection *c = arg;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

    c->state = REDIS_RESOLVING;
    c->lookup.data = c;
    int rc = uv_getaddrinfo(&loop->uv, &c->lookup, on_resolved, c->redis->url.host,
                            c->redis->url.port, &hints);
    if (rc != 0) {
        try_later(c, uv_strerror(rc));
    }
}

/* Life. */

static void leave(aiq_loop *loop, void *arg)
{
    connection *c = arg;
    redisAsyncContext *context = c->context;

    loop_timer_stop(loop, &c->timer);
    c->state = REDIS_LEFT;
    if (context) {
        redisAsyncFree(context);
    }
}

static void begin(aiq_loop *loop, void *arg)
{
    connection *c = arg;

    c->exit.fn = leave;
    c->exit.arg = c;
    loop_at_exit(loop, &c->exit);
    try_now(loop, c);
}

static health_status check(void *arg, char *reason, size_t size)
{
    redis *r = arg;
    unsigned up = __atomic_load_n(&r->up, __ATOMIC_RELAXED), all = r->engine->options.loops;

    if (up == all) {
        return HEALTH_OK;
    }
    snprintf(reason, size, "%u of %u connections", up, all);
    return up ? HEALTH_DEGRADED : HEALTH_DOWN;
}

redis *redis_new(aiq_engine *engine, const char *url, aiq_err *err)
{
    static const char help[] = "Commands that Redis did not answer, or not in time.";
    unsigned loops = engine->options.loops;
    redis *r = aiq_zalloc(sizeof(*r) + loops * sizeof(r->loops[0]));
    const char *password = getenv("REDISCLI_AUTH");

    if (!redis_url_parse(&r->url, url, err)) {
        free(r);
        return NULL;
    }
    if (!r->url.password[0] && password) {
        snprintf(r->url.password, sizeof(r->url.password), "%s", password);
    }
    r->engine = engine;
    for (unsigned i = 0; i < loops; i++) {
        r->loops[i] = (connection){
            .redis = r, .loop = &engine->loops[i], .random = engine->id + i * 0x9e3779b97f4au};
    }
    r->ear.connection =
        (connection){.redis = r, .loop = engine->loops, .random = engine->id ^ 1};
    metric_family *failures = metrics_family(engine->metrics, METRIC_COUNTER,
                                             "aiq_redis_failures_total", help, "reason", NULL);
    r->timeouts = metrics_sample(failures, (const char *[]){"timeout"});
    r->errors = metrics_sample(failures, (const char *[]){"error"});
    r->refused = metrics_sample(failures, (const char *[]){"away"});
    r->connections =
        metrics_sample(metrics_family(engine->metrics, METRIC_GAUGE, "aiq_redis_connections",
                                      "Connections to Redis.", "", NULL),
                       NULL);
    r->health = (health_component){.name = "redis", .check = check, .arg = r};
    engine_add_health(engine, &r->health);
    return r;
}

void redis_start(redis *r)
{
    for (unsigned i = 0; i < r->engine->options.loops; i++) {
        loop_post(&r->engine->loops[i], begin, &r->loops[i]);
    }
    if (r->ear.name) {
        loop_post(&r->engine->loops[0], begin, &r->ear.connection);
    }
}

void redis_free(redis *r)
{
    free(r);
}
