/*
 * One turn of a loop, in libuv's order: timers, then our prepare callback,
 * then the wait for descriptors and their callbacks. The prepare callback is
 * the one place between "all events are handled" and "sleep", so everything
 * that must happen once a turn happens there: sources are looked at, hooks
 * run, sources settle, the timer is set. Whoever must not sleep keeps the idle handle active,
 * which makes the wait return at once.
 */

#include "core/loop.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "core/pool.h"

typedef struct {
    loop_fn fn;
    void *arg;
} message;

typedef struct {
    message *items;
    size_t n, size;
} message_list;

struct loop_state {
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer;
    bool leaving;

    pthread_mutex_t lock; /* guards inbox: the one thing that other threads touch */
    message_list inbox;
    message_list work; /* inbox's other half: swapped, so posting allocates nothing */

    loop_hook *hooks, **last_hook;
    loop_hook *exits;
    loop_source *sources;

    loop_timer **heap; /* heap[1] is due first; heap[0] is unused */
    uint32_t n_timers, heap_size;
    uint64_t timer_due_ns; /* what the uv_timer is set to; 0: not running */
};

uint64_t loop_now_ns(void)
{
    return uv_hrtime();
}

/* Messages. */

static void list_add(message_list *list, message m)
{
    if (list->n == list->size) {
        list->size = list->size ? list->size * 2 : 64;
        message *items = aiq_alloc(list->size * sizeof(*items));
        if (list->n) {
            memcpy(items, list->items, list->n * sizeof(*items));
        }
        free(list->items);
        list->items = items;
    }
    list->items[list->n++] = m;
}

void loop_post(aiq_loop *loop, loop_fn fn, void *arg)
{
    struct loop_state *s = loop->state;

    pthread_mutex_lock(&s->lock);
    bool first = s->inbox.n == 0;
    list_add(&s->inbox, (message){fn, arg});
    pthread_mutex_unlock(&s->lock);
    /* the one that found it empty wakes the loop for all that follow */
    if (first) {
        uv_async_send(&s->wake);
    }
}

static void run_messages(aiq_loop *loop)
{
    struct loop_state *s = loop->state;

    pthread_mutex_lock(&s->lock);
    message_list work = s->inbox;
    s->inbox = s->work;
    s->work = (message_list){0};
    pthread_mutex_unlock(&s->lock);

    for (size_t i = 0; i < work.n; i++) {
        work.items[i].fn(loop, work.items[i].arg);
    }
    work.n = 0;
    s->work = work;
}

static void on_wake(uv_async_t *handle)
{
    run_messages(handle->data);
}

/* Hooks and sources. */

void loop_at_end(aiq_loop *loop, loop_hook *hook)
{
    struct loop_state *s = loop->state;

    if (!hook->queued) {
        hook->queued = true;
        hook->next = NULL;
        *s->last_hook = hook;
        s->last_hook = &hook->next;
    }
}

void loop_at_exit(aiq_loop *loop, loop_hook *hook)
{
    hook->next = loop->state->exits;
    loop->state->exits = hook;
}

void loop_add_source(aiq_loop *loop, loop_source *source)
{
    source->next = loop->state->sources;
    loop->state->sources = source;
}

static void run_hooks(aiq_loop *loop)
{
    struct loop_state *s = loop->state;

    while (s->hooks) {
        loop_hook *hook = s->hooks;
        s->hooks = hook->next;
        if (s->hooks == NULL) {
            s->last_hook = &s->hooks;
        }
        hook->queued = false;
        hook->fn(loop, hook->arg);
    }
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle;
}

static void set_timer(aiq_loop *loop);

static void on_prepare(uv_prepare_t *handle)
{
    aiq_loop *loop = handle->data;
    struct loop_state *s = loop->state;
    loop_mood mood = LOOP_SLEEP;

    for (loop_source *source = s->sources; source; source = source->next) {
        source->turn(loop, source->arg);
    }
    run_hooks(loop);
    for (loop_source *source = s->sources; source; source = source->next) {
        if (source->settle(loop, source->arg) == LOOP_POLL) {
            mood = LOOP_POLL;
        }
    }
    if (mood == LOOP_POLL) {
        uv_idle_start(&s->idle, on_idle);
    } else {
        uv_idle_stop(&s->idle);
    }
    set_timer(loop);
}

/* Timers. */

static void heap_put(struct loop_state *s, uint32_t i, loop_timer *timer)
{
    s->heap[i] = timer;
    timer->heap_index = i;
}

static void sift_up(struct loop_state *s, uint32_t i, loop_timer *timer)
{
    for (; i > 1 && s->heap[i / 2]->due_ns > timer->due_ns; i /= 2) {
        heap_put(s, i, s->heap[i / 2]);
    }
    heap_put(s, i, timer);
}

static void sift_down(struct loop_state *s, uint32_t i, loop_timer *timer)
{
    for (uint32_t child; (child = i * 2) <= s->n_timers; i = child) {
        if (child < s->n_timers && s->heap[child + 1]->due_ns < s->heap[child]->due_ns) {
            child++;
        }
        if (s->heap[child]->due_ns >= timer->due_ns) {
            break;
        }
        heap_put(s, i, s->heap[child]);
    }
    heap_put(s, i, timer);
}

void loop_timer_stop(aiq_loop *loop, loop_timer *timer)
{
    uint32_t i = timer->heap_index;

    if (i == 0) {
        return;
    }
    struct loop_state *s = loop->state;
    assert(i <= s->n_timers && s->heap[i] == timer);
    loop_timer *last = s->heap[s->n_timers--];
    timer->heap_index = 0;
    if (last == timer) {
        return;
    }
    if (i > 1 && s->heap[i / 2]->due_ns > last->due_ns) {
        sift_up(s, i, last);
    } else {
        sift_down(s, i, last);
    }
}

void loop_timer_start(aiq_loop *loop, loop_timer *timer, uint64_t ms, loop_fn fn, void *arg)
{
    struct loop_state *s = loop->state;

    loop_timer_stop(loop, timer);
    timer->due_ns = loop_now_ns() + ms * 1000000;
    timer->fn = fn;
    timer->arg = arg;
    if (s->n_timers + 1 >= s->heap_size) {
        s->heap_size = s->heap_size ? s->heap_size * 2 : 64;
        loop_timer **heap = aiq_alloc(s->heap_size * sizeof(loop_timer *));
        if (s->n_timers) {
            memcpy(heap, s->heap, (s->n_timers + 1) * sizeof(loop_timer *));
        }
        free(s->heap);
        s->heap = heap;
    }
    sift_up(s, ++s->n_timers, timer);
}

static void on_timer(uv_timer_t *handle)
{
    aiq_loop *loop = handle->data;
    struct loop_state *s = loop->state;
    uint64_t now = loop_now_ns();

    s->timer_due_ns = 0;
    /* A timer that a callback starts is due after `now`, so this ends. */
    while (s->n_timers && s->heap[1]->due_ns <= now) {
        loop_timer *timer = s->heap[1];
        loop_timer_stop(loop, timer);
        timer->fn(loop, timer->arg);
    }
}

/* Once a turn, and only where the first due time moved forward: starting and
 * stopping a request's timers touches the heap alone. One that was stopped
 * leaves the uv_timer to fire for nothing. */
static void set_timer(aiq_loop *loop)
{
    struct loop_state *s = loop->state;

    if (s->n_timers == 0) {
        return;
    }
    uint64_t due = s->heap[1]->due_ns, now = loop_now_ns();
    if (s->timer_due_ns && s->timer_due_ns <= due) {
        return;
    }
    uv_update_time(&loop->uv);
    uv_timer_start(&s->timer, on_timer, due > now ? (due - now + 999999) / 1000000 : 0, 0);
    s->timer_due_ns = due;
}

/* Life. */

bool loop_init(aiq_loop *loop, aiq_engine *engine, unsigned index, aiq_err *err)
{
    *loop = (aiq_loop){.engine = engine, .index = index};
    int rc = uv_loop_init(&loop->uv);
    if (rc < 0) {
        return aiq_fail(err, 500, "loop", "cannot make an event loop: %s", uv_strerror(rc));
    }
    struct loop_state *s = loop->state = aiq_zalloc(sizeof(*s));
    pthread_mutex_init(&s->lock, NULL);
    s->last_hook = &s->hooks;
    rc = uv_async_init(&loop->uv, &s->wake, on_wake);
    if (rc < 0) {
        uv_loop_close(&loop->uv);
        pthread_mutex_destroy(&s->lock);
        free(s);
        loop->state = NULL;
        return aiq_fail(err, 500, "loop", "cannot make an event loop: %s", uv_strerror(rc));
    }
    uv_prepare_init(&loop->uv, &s->prepare);
    uv_idle_init(&loop->uv, &s->idle);
    uv_timer_init(&loop->uv, &s->timer);
    s->wake.data = s->prepare.data = s->timer.data = loop;
    uv_prepare_start(&s->prepare, on_prepare);
    return true;
}

static void on_stop(aiq_loop *loop, void *arg)
{
    (void)arg;
    loop->state->leaving = true;
    uv_stop(&loop->uv);
}

void loop_stop(aiq_loop *loop)
{
    loop_post(loop, on_stop, NULL);
}

void loop_run(aiq_loop *loop)
{
    struct loop_state *s = loop->state;

    while (!s->leaving) {
        uv_run(&loop->uv, UV_RUN_DEFAULT);
    }
    while (s->exits) {
        loop_hook *hook = s->exits;
        s->exits = hook->next;
        hook->fn(loop, hook->arg);
    }
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    /* what rooms made they have closed in their exit hooks; these are ours */
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

void loop_flush(aiq_loop *loop)
{
    while (loop->state->inbox.n) {
        run_messages(loop);
    }
}

void loop_free(aiq_loop *loop)
{
    struct loop_state *s = loop->state;

    if (s == NULL) {
        return;
    }
    loop_flush(loop);
    uv_walk(&loop->uv, close_handle, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0) {
    }
    uv_loop_close(&loop->uv);
    pthread_mutex_destroy(&s->lock);
    free(s->inbox.items);
    free(s->work.items);
    free(s->heap);
    free(s);
    loop->state = NULL;
}
