/*
 * A link without sockets: the engine's end of one, and its rings' other side, which is the
 * test. The memory of each ring is mapped twice, as two processes would have it.
 */

#ifndef LINK_ENDS_H
#define LINK_ENDS_H

#include "unit.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "access/keyring.h"
#include "core/log.h"
#include "link/counts.h"
#include "link/link.h"

typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    link_counts *counts;
    aiq_link *link;
    aiq_ring worker;
} ends;

/* The engine's view goes with the link, ours stays. */
static inline void map_twice(void **engine, void **worker)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, AIQ_MAP_SIZE), 0);
    *engine = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *worker = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

static inline void connect_worker(ends *e, const char *policy)
{
    link_parts parts = {.fd = -1};
    void *mine, *peer;

    map_twice(&parts.mine, &peer);
    map_twice(&parts.peer, &mine);
    parts.policy = policy_parse(policy, strlen(policy), NULL);
    aiq_ring_init(&e->worker, mine, peer);
    e->link = link_open(e->loop.links, &parts);
}

static inline void unmap_worker(const aiq_ring *worker)
{
    munmap(worker->mine, AIQ_MAP_SIZE);
    munmap((void *)worker->peer, AIQ_MAP_SIZE);
}

/* One loop, which nobody runs. */
static inline ends *ends_new(void)
{
    ends *e = calloc(1, sizeof(*e));

    aiq_log_init(AIQ_LOG_ERROR);
    e->engine.metrics = metrics_new();
    e->engine.options.loops = 1;
    e->engine.loops = &e->loop;
    loop_init(&e->loop, &e->engine, 0, NULL);
    return e;
}

/* Its links, and a worker. */
static inline void ends_open(ends *e, const char *policy)
{
    e->counts = link_counts_new(e->engine.metrics);
    e->loop.links = link_end_new(&e->loop, e->counts);
    connect_worker(e, policy);
}

/* No job is left. */
static inline void ends_close(ends *e)
{
    link_end_close(e->loop.links, false);
    assert_int_equal(e->loop.links->n_jobs, 0);
    assert_int_equal(e->loop.links->n_streams, 0);
}

static inline void ends_free(ends *e)
{
    link_end_free(e->loop.links);
    unmap_worker(&e->worker);
    loop_free(&e->loop);
    keyring_free(e->engine.keyring);
    free(e->counts);
    metrics_free(e->engine.metrics);
    free(e);
}

static inline void push_flags(ends *e, int type, uint8_t flags, uint32_t slot,
                              uint32_t generation, const void *data, size_t n)
{
    void *to = aiq_ring_push(&e->worker, (uint8_t)type, flags, slot, generation, (uint32_t)n);

    assert_non_null(to);
    if (n) {
        memcpy(to, data, n);
    }
}

static inline void push(ends *e, int type, uint32_t slot, uint32_t generation, const void *data,
                        size_t n)
{
    push_flags(e, type, 0, slot, generation, data, n);
}

/* A turn of the engine; false: it has closed the link. */
static inline bool turn(ends *e)
{
    aiq_ring_publish(&e->worker);
    aiq_ring_release(&e->worker);
    if (!link_turn(e->link)) {
        e->link = NULL;
        return false;
    }
    link_settle(e->link);
    return true;
}

/* The next frame from the engine must be of this type. */
static inline const uint8_t *expect(ends *e, int type, uint32_t slot, aiq_frame *frame)
{
    const uint8_t *payload = NULL;

    assert_int_equal(aiq_ring_next(&e->worker, frame, &payload), 1);
    assert_int_equal(frame->type, type);
    assert_int_equal(frame->slot, slot);
    return payload;
}

static inline void expect_nothing(ends *e)
{
    aiq_frame frame;
    const uint8_t *payload;

    assert_int_equal(aiq_ring_next(&e->worker, &frame, &payload), 0);
}

#endif
