#include "redis/redis_impl.h"
#include <stdlib.h>

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
        redis_close(w->context->data, "a reply was too large");
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

bool redis_watch(redisAsyncContext *context, aiq_loop *loop)
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
