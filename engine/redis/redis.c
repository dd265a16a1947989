#include "redis/redis_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct redis_command {
    redis_connection *connection;
    redis_call *call; /* NULL: nobody waits any more */
    size_t bytes;
};

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
    redis_connection *c = command->connection;
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

static struct redis_command *send_words(redis *r, aiq_loop *loop, const aiq_str *words,
                                        unsigned n)
{
    redis_connection *c = &r->loops[loop->index];
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
static void close_silent(redis_connection *c)
{
    if (c->state == REDIS_UP && c->n > 0 &&
        loop_now_ns() - c->heard_ns > REDIS_SILENT_MS * 1000000ull) {
        redis_close(c, "it does not answer");
    }
}

static void on_late(aiq_loop *loop, void *arg)
{
    redis_call *call = arg;
    redis_connection *c = call->command->connection;

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

/* Life. */

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
        r->loops[i] = (redis_connection){
            .redis = r, .loop = &engine->loops[i], .random = engine->id + i * 0x9e3779b97f4au};
    }
    r->ear.connection =
        (redis_connection){.redis = r, .loop = engine->loops, .random = engine->id ^ 1};
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
        loop_post(&r->engine->loops[i], redis_connect, &r->loops[i]);
    }
    if (r->ear.name) {
        loop_post(&r->engine->loops[0], redis_connect, &r->ear.connection);
    }
}

void redis_free(redis *r)
{
    free(r);
}
