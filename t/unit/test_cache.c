/* Who leads, who waits and who is told what, one step at a time; then many at once on
 * several loops, where nothing may be lost and no two lead the same. */

#include "unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "cache/cache.h"
#include "engine.h"

#define LOOPS 3
#define EVER  UINT64_MAX

static const uint8_t key[LRU_KEY] = {1};

typedef struct {
    aiq_engine engine;
    aiq_loop loops[LOOPS];
} fixture;

static fixture *make(size_t size)
{
    fixture *f = calloc(1, sizeof(*f));
    aiq_err err;

    f->engine.metrics = metrics_new();
    f->engine.id = 7;
    for (unsigned i = 0; i < LOOPS; i++) {
        assert_true(loop_init(&f->loops[i], &f->engine, i, &err));
    }
    f->engine.cache = cache_new(&f->engine, size);
    return f;
}

static void end(fixture *f)
{
    for (unsigned i = 0; i < LOOPS; i++) {
        loop_free(&f->loops[i]);
    }
    cache_free(f->engine.cache);
    metrics_free(f->engine.metrics);
    free(f);
}

/* One that asks; what it was told comes with flush(). */
typedef struct {
    cache_ticket *ticket;
    lru_entry *entry;
    int told;
} asker;

static void on_told(void *arg, lru_entry *entry)
{
    asker *a = arg;

    a->told++;
    a->entry = entry;
}

static cache_answer ask(fixture *f, asker *a)
{
    return cache_ask(f->engine.cache, &f->loops[0], key, EVER, on_told, a, &a->ticket,
                     &a->entry);
}

static void settle(cache_ticket *ticket, const char *text)
{
    lru_entry *answer = cache_answer_new(key, text, strlen(text), 0, 1000);

    cache_settle(ticket, answer);
    lru_entry_unref(answer);
}

static void flush(fixture *f)
{
    loop_flush(&f->loops[0]);
}

static void assert_got(asker *a, const char *text)
{
    assert_non_null(a->entry);
    assert_int_equal(a->entry->len, strlen(text));
    assert_memory_equal(a->entry->data, text, strlen(text));
    lru_entry_unref(a->entry);
    a->entry = NULL;
}

static void the_first_leads_and_the_others_get_its_answer(void **state)
{
    fixture *f = make(1 << 20);
    asker a[4] = {0};

    (void)state;
    assert_int_equal(ask(f, &a[0]), CACHE_LEADS);
    assert_int_equal(ask(f, &a[1]), CACHE_WAITS);
    assert_int_equal(ask(f, &a[2]), CACHE_WAITS);
    settle(a[0].ticket, "yes");
    flush(f);
    assert_int_equal(a[0].told, 0);
    assert_got(&a[1], "yes");
    assert_got(&a[2], "yes");
    assert_int_equal(ask(f, &a[3]), CACHE_HIT);
    assert_got(&a[3], "yes");
    end(f);
}

static void those_who_wait_are_told_what_is_too_large_to_keep(void **state)
{
    fixture *f = make(0);
    asker a[3] = {0};

    (void)state;
    ask(f, &a[0]);
    ask(f, &a[1]);
    settle(a[0].ticket, "yes");
    flush(f);
    assert_got(&a[1], "yes");
    assert_int_equal(ask(f, &a[2]), CACHE_LEADS);
    cache_leave(a[2].ticket);
    end(f);
}

static void the_one_that_has_waited_longest_follows(void **state)
{
    fixture *f = make(1 << 20);
    asker a[4] = {0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        ask(f, &a[i]);
    }
    cache_leave(a[1].ticket); /* one that waits */
    cache_leave(a[0].ticket); /* the leader */
    flush(f);
    assert_int_equal(a[1].told, 0);
    assert_int_equal(a[2].told, 1);
    assert_null(a[2].entry);
    assert_int_equal(a[3].told, 0);
    settle(a[2].ticket, "late");
    flush(f);
    assert_got(&a[3], "late");
    end(f);
}

/* Each has been called, but leaves before the message is there. */
static void who_leaves_meanwhile_is_not_told(void **state)
{
    fixture *f = make(1 << 20);
    asker a[4] = {0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        ask(f, &a[i]);
    }
    cache_leave(a[0].ticket);
    cache_leave(a[1].ticket); /* was to lead: so the next one does */
    flush(f);
    flush(f);
    assert_int_equal(a[1].told, 0);
    assert_int_equal(a[2].told, 1);
    settle(a[2].ticket, "yes");
    cache_leave(a[3].ticket); /* was to get it */
    flush(f);
    assert_int_equal(a[3].told, 0);
    assert_int_equal(ask(f, &a[0]), CACHE_HIT);
    assert_got(&a[0], "yes");
    end(f);
}

static void so_many_wait_and_no_more(void **state)
{
    fixture *f = make(1 << 20);
    asker *a = calloc(CACHE_WAITERS + 2, sizeof(*a));

    (void)state;
    assert_int_equal(ask(f, &a[0]), CACHE_LEADS);
    for (int i = 1; i <= CACHE_WAITERS; i++) {
        assert_int_equal(ask(f, &a[i]), CACHE_WAITS);
    }
    assert_int_equal(ask(f, &a[CACHE_WAITERS + 1]), CACHE_ALONE);
    for (int i = CACHE_WAITERS; i >= 1; i--) {
        cache_leave(a[i].ticket);
    }
    assert_int_equal(ask(f, &a[1]), CACHE_WAITS);
    cache_leave(a[1].ticket);
    cache_leave(a[0].ticket);
    assert_int_equal(ask(f, &a[0]), CACHE_LEADS);
    cache_leave(a[0].ticket);
    end(f);
    free(a);
}

/* Many at once: each loop has some that ask again and again. */

#define BUSY   20 /* on a loop */
#define ROUNDS 200
#define KEYS   5

static atomic_int leading[KEYS], two_led, done;

typedef struct {
    fixture *f;
    aiq_loop *loop;
    loop_timer timer;
    cache_ticket *ticket;
    unsigned key, rounds, random;
    bool leads;
} busy;

static void next_round(busy *b);

static unsigned draw(busy *b, unsigned n)
{
    b->random = b->random * 1664525 + 1013904223;
    return (b->random >> 16) % n;
}

static void on_time(aiq_loop *loop, void *arg)
{
    busy *b = arg;
    cache_ticket *ticket = b->ticket;
    const uint8_t digest[LRU_KEY] = {(uint8_t)b->key};

    (void)loop;
    b->ticket = NULL;
    if (b->leads) {
        atomic_fetch_sub(&leading[b->key], 1);
    }
    if (b->leads && draw(b, 3)) {
        lru_entry *answer = cache_answer_new(digest, &b->key, sizeof(b->key), 0, 1);
        cache_settle(ticket, answer);
        lru_entry_unref(answer);
    } else {
        cache_leave(ticket);
    }
    next_round(b);
}

static void lead(busy *b)
{
    b->leads = true;
    if (atomic_fetch_add(&leading[b->key], 1) != 0) {
        atomic_store(&two_led, 1);
    }
    loop_timer_start(b->loop, &b->timer, draw(b, 2), on_time, b);
}

static void on_busy_told(void *arg, lru_entry *entry)
{
    busy *b = arg;

    loop_timer_stop(b->loop, &b->timer);
    if (entry == NULL) {
        lead(b);
        return;
    }
    assert_memory_equal(entry->data, &b->key, sizeof(b->key));
    lru_entry_unref(entry);
    b->ticket = NULL;
    next_round(b);
}

static void on_next(aiq_loop *loop, void *arg)
{
    busy *b = arg;
    uint8_t digest[LRU_KEY] = {0};
    lru_entry *entry;

    b->key = draw(b, KEYS);
    b->leads = false;
    digest[0] = (uint8_t)b->key;
    switch (cache_ask(b->f->engine.cache, loop, digest, EVER, on_busy_told, b, &b->ticket,
                      &entry)) {
    case CACHE_HIT:
        lru_entry_unref(entry);
        next_round(b);
        break;
    case CACHE_LEADS:
        lead(b);
        break;
    case CACHE_WAITS: /* some leave soon, some after they were told */
        loop_timer_start(loop, &b->timer, draw(b, 4) ? 10000 : draw(b, 3), on_time, b);
        break;
    case CACHE_ALONE:
        fail();
    }
}

static void next_round(busy *b)
{
    if (++b->rounds <= ROUNDS) {
        loop_post(b->loop, on_next, b);
    } else if (atomic_fetch_add(&done, 1) + 1 == LOOPS * BUSY) {
        for (unsigned i = 0; i < LOOPS; i++) {
            loop_stop(&b->f->loops[i]);
        }
    }
}

static void *run_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void many_at_once(void **state)
{
    fixture *f = make(1 << 20);
    busy *all = calloc(LOOPS * BUSY, sizeof(*all));
    pthread_t threads[LOOPS];

    (void)state;
    for (unsigned i = 0; i < LOOPS * BUSY; i++) {
        all[i] = (busy){.f = f, .loop = &f->loops[i % LOOPS], .random = i};
        next_round(&all[i]);
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, run_loop, &f->loops[i]), 0);
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(done, LOOPS * BUSY);
    assert_int_equal(two_led, 0);
    end(f);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_leads_and_the_others_get_its_answer),
        cmocka_unit_test(those_who_wait_are_told_what_is_too_large_to_keep),
        cmocka_unit_test(the_one_that_has_waited_longest_follows),
        cmocka_unit_test(who_leaves_meanwhile_is_not_told),
        cmocka_unit_test(so_many_wait_and_no_more),
        cmocka_unit_test(many_at_once),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
