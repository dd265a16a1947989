/*
 * A worker that writes what it likes into its memory: the engine's frame reader
 * and the jobs behind it. Without sockets; the ring lies against a page that
 * nobody may touch, so a read beyond its end is seen.
 *
 *     u16     how far before the ring's end the first frame lies, in 16 bytes
 *     u32     bytes that the tail claims beyond what was written (mostly 0)
 *     turns:  u16 length, its top bit: the worker reads what it was sent, the next:
 *             a key is revoked;
 *             bytes, written to the ring, then a turn of the engine
 */

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "access/keyring.h"
#include "core/log.h"
#include "link/counts.h"
#include "link/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GUARD 4096

static const char policy_text[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],\"locations\":["
    "{\"service\":\"echo\",\"max_body\":0,\"websocket\":true},{\"service\":\"health\",\"max_"
    "body\":100},"
    "{\"service\":\"nothing\",\"max_body\":0,\"rates\":[{\"zone\":\"z\",\"requests\":1,"
    "\"window_ms\":1000,\"grain_ms\":1,\"burst\":0,\"dry_run\":false}]}]}";

/* What stays between inputs. */
typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    link_counts *counts;
    const aiq_policy *policy;
    keyring_question *asked[KEYRING_LOOKUPS]; /* by the keyring, answered after the turn */
    unsigned n_asked;
    uint32_t epoch;
} fixture;

static fixture *fixture_get(void);

/* Whose a key is its name says: the first byte. */

static bool look_up(aiq_loop *loop, keyring_question *question)
{
    fixture *f = fixture_get();

    (void)loop;
    if (question->name[0] == 0xff) {
        return false;
    }
    f->asked[f->n_asked++] = question;
    return true;
}

static bool look(aiq_loop *loop, keyring_question *question)
{
    (void)loop;
    (void)question;
    return true;
}

static const keyring_source source = {look_up, look};

static void answer_keys(fixture *f)
{
    keyring_verdict v = {.epoch = f->epoch,
                         .expires_ms = -1,
                         .tenant = AIQ_STR("acme"),
                         .user = AIQ_STR("u"),
                         .role = AIQ_STR("user"),
                         .key_id = AIQ_STR("key_1")};

    while (f->n_asked) {
        keyring_question *q = f->asked[--f->n_asked];
        v.status = q->name[0] & 1 ? 200 : 401;
        v.epoch = f->epoch - (q->name[0] >> 1 & 1);
        v.requests = q->name[1];
        v.tokens = q->name[2];
        v.n_budgets = q->name[3] % (KEYRING_BUDGETS + 1);
        q->entry = keyring_entry_new(&v);
        keyring_found(&f->loop, q);
    }
}

static fixture *fixture_get(void)
{
    static fixture *f;

    if (f == NULL) {
        f = calloc(1, sizeof(*f));
        aiq_log_init(AIQ_LOG_ERROR);
        f->engine.metrics = metrics_new();
        f->engine.options.loops = 1;
        f->engine.loops = &f->loop;
        loop_init(&f->loop, &f->engine, 0, NULL);
        f->engine.keyring = keyring_new(&f->engine, &source);
        f->counts = link_counts_new(f->engine.metrics);
        f->loop.links = link_end_new(&f->loop, f->counts);
        f->policy = policy_parse(policy_text, sizeof(policy_text) - 1, NULL);
    }
    return f;
}

/* Memory with a guard behind it. */
static uint8_t *guarded(void)
{
    uint8_t *map = mmap(NULL, AIQ_MAP_SIZE + GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert(map != MAP_FAILED);
    mprotect(map + AIQ_MAP_SIZE, GUARD, PROT_NONE);
    return map;
}

static void change_keys(fixture *f)
{
    keyring_raised(&f->engine, ++f->epoch);
    loop_flush(&f->loop);
}

static void check_invariants(const aiq_link *l)
{
    uint64_t promised = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < AIQ_SLOTS && n < l->n_jobs; i++) {
        const link_job *j = l->slots[i];
        if (j) {
            assert(j->slot == i && j->link == l);
            assert(j->allowed <= j->in.promised);
            promised += j->in.promised;
            n++;
        }
    }
    assert(n == l->n_jobs && n == l->end->n_jobs);
    assert(promised == l->promised);
}

static uint32_t take(const uint8_t **data, size_t *size, size_t n)
{
    uint32_t value = 0;

    if (*size < n) {
        *size = 0;
        return 0;
    }
    memcpy(&value, *data, n);
    *data += n;
    *size -= n;
    return value;
}

static void write_ring(uint8_t *map, uint32_t at, const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        map[AIQ_RING_OFFSET + ((at + i) & (AIQ_RING_SIZE - 1))] = data[i];
    }
}

/* False: the engine has closed the link. */
static bool one_turn(fixture *f, aiq_link *l, bool keys_change)
{
    if (!link_turn(l)) {
        return false;
    }
    answer_keys(f);
    if (keys_change) {
        change_keys(f);
    }
    link_settle(l);
    check_invariants(l);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fixture *f = fixture_get();
    uint8_t *mine = guarded(), *peer = guarded();
    aiq_side *worker = (aiq_side *)peer;
    const aiq_side *engine = (const aiq_side *)mine;
    link_parts parts = {.mine = mine, .peer = peer, .fd = -1, .policy = policy_ref(f->policy)};
    aiq_link *l = link_open(f->loop.links, &parts);
    /* what the last input left behind is of an epoch that has ended */
    change_keys(f);
    uint32_t at = AIQ_RING_SIZE - 16 * take(&data, &size, 2);
    uint32_t claim = take(&data, &size, 4);

    worker->tail = l->ring.head = l->ring.released = at;
    while (size > 0 && l) {
        uint32_t n = take(&data, &size, 2);
        bool reads = n & 0x8000, keys_change = n & 0x4000;
        n &= 0x3fff;
        n = n < size ? n : (uint32_t)size;
        write_ring(peer, at, data, n);
        data += n;
        size -= n;
        at += n;
        worker->tail = at + claim;
        if (reads) {
            worker->head = engine->tail;
        }
        l = one_turn(f, l, keys_change) ? l : NULL;
    }
    link_end_close(f->loop.links, false);
    answer_keys(f);
    munmap(mine + AIQ_MAP_SIZE, GUARD);
    munmap(peer + AIQ_MAP_SIZE, GUARD);
    return 0;
}
