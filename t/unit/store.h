/*
 * A store in a test: an engine without loops of its own, one loop that the test turns
 * by hand, and a back end in a folder of its own.
 */

#ifndef UNIT_STORE_H
#define UNIT_STORE_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine.h"
#include "store/store.h"

typedef struct {
    char folder[64], url[160];
    aiq_engine engine;
    aiq_loop loop;
    store *store;
    unsigned done; /* calls of store_test_done() */
    bool ok;       /* what the last one said */
    aiq_err err;
} store_test;

static inline void store_test_open(store_test *t)
{
    aiq_err err = {0};

    t->engine = (aiq_engine){.metrics = metrics_new()};
    t->store = store_open(&t->engine, t->url, &err);
    if (t->store == NULL) {
        fprintf(stderr, "# %s %s\n", err.message, err.detail);
    }
}

static inline void store_test_close(store_test *t)
{
    store_close(t->store);
    metrics_free(t->engine.metrics);
    t->store = NULL;
}

static inline void store_test_done(aiq_loop *loop, void *arg, const aiq_err *err)
{
    store_test *t = arg;

    (void)loop;
    t->done++;
    t->ok = err == NULL;
    t->err = err ? *err : (aiq_err){0};
}

/* Turns the loop until so many are done. */
static inline void store_test_wait(store_test *t, unsigned done)
{
    while (t->done < done) {
        uv_run(&t->loop.uv, UV_RUN_ONCE);
    }
}

/* One transaction, waited for. */
static inline bool store_test_run(store_test *t, bool write, store_tx tx, void *arg)
{
    aiq_err err;
    bool taken = write ? store_write(t->store, &t->loop, tx, arg, store_test_done, t, &err)
                       : store_read(t->store, &t->loop, tx, arg, store_test_done, t, &err);

    if (!taken) {
        t->err = err;
        return false;
    }
    store_test_wait(t, t->done + 1);
    return t->ok;
}

/* A folder that the server's user gets through. */
static inline void store_test_folder(store_test *t)
{
    snprintf(t->folder, sizeof(t->folder), "/tmp/aiq-store-XXXXXX");
    if (mkdtemp(t->folder) == NULL || chmod(t->folder, 0755) != 0 ||
        !loop_init(&t->loop, &t->engine, 0, NULL)) {
        abort();
    }
}

static inline void store_test_free(store_test *t)
{
    char command[128];

    store_test_close(t);
    loop_free(&t->loop);
    snprintf(command, sizeof(command), "rm -rf %s", t->folder);
    if (system(command) != 0) {
        abort();
    }
}

#endif
