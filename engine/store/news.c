#include "store/news.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "core/log.h"
#include "core/retry.h"

#define RETRY_BASE_MS 100
#define RETRIES_MAX   6 /* whose wait is 3.2 s, and no other is longer */

struct store_news {
    const store_backend *backend;
    const char *url, *name;
    store_heard_fn fn;
    void *arg;
    pthread_t thread;
    int wake;
    bool stopping, come; /* atomic */
    unsigned tries;      /* in vain, in a row; counted up to RETRIES_MAX */
    uint64_t random;
};

static bool stops(const store_news *n)
{
    return __atomic_load_n(&n->stopping, __ATOMIC_RELAXED);
}

/* The state first: who is told looks at it. */
static void change(store_news *n, bool come)
{
    __atomic_store_n(&n->come, come, __ATOMIC_RELAXED);
    n->fn(n->arg, (aiq_str){0});
}

bool store_news_come(const store_news *n)
{
    return __atomic_load_n(&n->come, __ATOMIC_RELAXED);
}

static void on_names(void *arg, aiq_str names)
{
    store_news *n = arg;
    const char *at = names.data, *end = names.data + names.len, *space;

    while ((space = memchr(at, ' ', (size_t)(end - at))) != NULL) {
        if (space > at) {
            n->fn(n->arg, (aiq_str){at, (size_t)(space - at)});
        }
        at = space + 1;
    }
}

/* The first time in a row is worth a line. */
static void went_down(store_news *n, const aiq_err *err)
{
    if (n->tries == 0 && !stops(n)) {
        aiq_log(AIQ_LOG_WARN, "store", "cannot hear other engines", AIQ_S("store", n->name),
                AIQ_S("detail", err->detail[0] ? err->detail : err->message));
    }
    n->tries += n->tries < RETRIES_MAX;
}

static void wait_awhile(store_news *n)
{
    struct pollfd fd = {.fd = n->wake, .events = POLLIN};

    n->random = n->random * 6364136223846793005u + 1442695040888963407u;
    poll(&fd, 1, (int)retry_wait_ms(n->tries, RETRY_BASE_MS, 0, n->random >> 32));
}

/* Until it is lost, or the end. False and *err: it was not to be had. */
static void hear(store_news *n)
{
    aiq_err err = {0};
    store_db *db = n->backend->connect(n->url, STORE_READER, &err);

    if (db && n->backend->listen(db)) {
        if (n->tries) {
            aiq_log(AIQ_LOG_INFO, "store", "hears other engines again",
                    AIQ_S("store", n->name));
        }
        n->tries = 0;
        change(n, true);
        while (!stops(n) && n->backend->hear(db, n->wake, on_names, n)) {
        }
        change(n, false);
    }
    went_down(n, db ? &db->err : &err);
    if (db) {
        n->backend->disconnect(db);
    }
}

static void *serve(void *arg)
{
    store_news *n = arg;

    while (!stops(n)) {
        hear(n);
        if (!stops(n)) {
            wait_awhile(n);
        }
    }
    return NULL;
}

static void news_free(store_news *n)
{
    if (n->wake >= 0) {
        close(n->wake);
    }
    free(n);
}

store_news *store_news_start(const store_backend *backend, const char *url, const char *name,
                             store_heard_fn fn, void *arg, aiq_err *err)
{
    store_news *n = aiq_zalloc(sizeof(*n));
    int rc = 0;

    *n = (store_news){.backend = backend,
                      .url = url,
                      .name = name,
                      .fn = fn,
                      .arg = arg,
                      .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                      .random = loop_now_ns()};
    if (n->wake < 0 || (rc = pthread_create(&n->thread, NULL, serve, n)) != 0) {
        aiq_fail(err, 500, "thread", "cannot start a thread: %s",
                 strerror(n->wake < 0 ? errno : rc));
        news_free(n);
        return NULL;
    }
    return n;
}

void store_news_stop(store_news *n)
{
    const uint64_t one = 1;

    if (n == NULL) {
        return;
    }
    __atomic_store_n(&n->stopping, true, __ATOMIC_RELAXED);
    if (write(n->wake, &one, sizeof(one)) != sizeof(one)) {
        abort(); /* of an eventfd that nobody else writes to */
    }
    pthread_join(n->thread, NULL);
    news_free(n);
}
