/*
 * Pages of keys and values: who has them, who finds them again, and which are taken first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "infer/kv.h"

enum { PAGES = 8, TOKENS = PAGES * KERN_PAGE };

/* A sequence and what it says: tokens that count up from some number. */
typedef struct {
    kv_seq s;
    uint32_t pages[PAGES];
    int32_t ids[TOKENS];
} seq;

static kv_key scope;

static seq *make(int32_t from)
{
    seq *q = calloc(1, sizeof(*q));

    q->s.pages = q->pages;
    for (int i = 0; i < TOKENS; i++) {
        q->ids[i] = from + i;
    }
    return q;
}

/* Reads n tokens; returns how many of them were there already. */
static uint32_t read_tokens(kv_pool *pool, seq *q, uint32_t n)
{
    uint32_t found = kv_begin(pool, &q->s, &scope, q->ids, n);

    assert_true(kv_grow(pool, &q->s, n));
    kv_note(pool, &q->s, q->ids, n);
    return found;
}

static void pages_come_and_go(void **state)
{
    kv_pool *pool = kv_pool_new(PAGES);
    seq *a = make(0), *b = make(1000);
    bool taken[PAGES] = {false};

    (void)state;
    assert_int_equal(kv_available(pool), PAGES);
    kv_begin(pool, &a->s, &scope, a->ids, 1);
    kv_begin(pool, &b->s, &scope, b->ids, 1);
    assert_true(kv_grow(pool, &a->s, 5 * KERN_PAGE));
    assert_true(kv_grow(pool, &b->s, 2 * KERN_PAGE + 1));
    assert_int_equal(kv_available(pool), 0);
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = i < 5 ? a->pages[i] : b->pages[i - 5];

        assert_true(page < PAGES && !taken[page]);
        taken[page] = true;
    }
    assert_true(kv_grow(pool, &b->s, 3 * KERN_PAGE));
    assert_false(kv_grow(pool, &b->s, 3 * KERN_PAGE + 1));
    assert_int_equal(b->s.n, 3);
    kv_drop(pool, &a->s);
    assert_int_equal(kv_available(pool), 5);
    assert_true(kv_grow(pool, &b->s, TOKENS));
    kv_drop(pool, &b->s);
    assert_int_equal(kv_available(pool), PAGES);
    free(a);
    free(b);
    kv_pool_free(pool);
}

static void a_beginning_is_found(void **state)
{
    kv_pool *pool = kv_pool_new(PAGES);
    seq *a = make(0), *b = make(0), *c = make(0), *other = make(0);
    kv_key mine = kv_scope("mine", 4), yours = kv_scope("yours", 5);

    (void)state;
    scope = mine;
    assert_int_equal(read_tokens(pool, a, 40), 0);
    assert_int_equal(read_tokens(pool, b, 40), 32);
    assert_memory_equal(a->pages, b->pages, 2 * sizeof(*a->pages));
    assert_int_not_equal(a->pages[2], b->pages[2]);
    assert_int_equal(kv_available(pool), PAGES - 4);

    /* another in its second page; never the last token of all; nobody else's */
    c->ids[20] = -1;
    assert_int_equal(read_tokens(pool, c, 40), 16);
    kv_drop(pool, &c->s);
    assert_int_equal(kv_begin(pool, &c->s, &mine, a->ids, 32), 16);
    kv_drop(pool, &c->s);
    assert_int_equal(kv_begin(pool, &c->s, &mine, a->ids, 33), 32);
    kv_drop(pool, &c->s);
    scope = yours;
    assert_int_equal(read_tokens(pool, other, 40), 0);
    kv_drop(pool, &other->s);

    /* those that are gone are found, too */
    kv_drop(pool, &a->s);
    kv_drop(pool, &b->s);
    assert_int_equal(kv_available(pool), PAGES);
    assert_int_equal(kv_begin(pool, &c->s, &mine, b->ids, 100), 32);
    assert_int_equal(kv_available(pool), PAGES - 2);
    free(a);
    free(b);
    free(c);
    free(other);
    kv_pool_free(pool);
}

/* The page that was wanted last stays longest, and a beginning stays longer than its end. */
static void the_oldest_is_taken(void **state)
{
    kv_pool *pool = kv_pool_new(PAGES);
    seq *a = make(0), *b = make(1000), *c = make(2000);

    (void)state;
    read_tokens(pool, a, 4 * KERN_PAGE);
    read_tokens(pool, b, 4 * KERN_PAGE);
    kv_drop(pool, &a->s);
    kv_drop(pool, &b->s);
    assert_int_equal(read_tokens(pool, c, 3 * KERN_PAGE), 0);
    assert_int_equal(kv_begin(pool, &a->s, &scope, a->ids, TOKENS), KERN_PAGE);
    assert_int_equal(kv_begin(pool, &b->s, &scope, b->ids, TOKENS), 4 * KERN_PAGE);
    assert_int_equal(kv_available(pool), 0);
    assert_false(kv_grow(pool, &a->s, 2 * KERN_PAGE));
    free(a);
    free(b);
    free(c);
    kv_pool_free(pool);
}

/* Many turns of a few conversations: each page is somewhere, and its tokens are what they were
 * when it was noted. */
static void no_page_is_lost(void **state)
{
    enum { SEQS = 5, TURNS = 20000 };
    kv_pool *pool = kv_pool_new(PAGES);
    static int32_t inside[PAGES][KERN_PAGE];
    seq *q[SEQS];
    uint32_t seed = 1;

    (void)state;
    for (int i = 0; i < SEQS; i++) {
        q[i] = make(i % 3 * 1000);
    }
    for (int turn = 0; turn < TURNS; turn++) {
        seed = seed * 1664525 + 1013904223;
        seq *s = q[(seed >> 8) % SEQS];
        uint32_t n = 1 + (seed >> 16) % TOKENS, all = 0, found;

        kv_drop(pool, &s->s);
        s->ids[n - 1] = (int32_t)(seed >> 28);
        found = kv_begin(pool, &s->s, &scope, s->ids, n);
        for (uint32_t i = 0; i < found; i++) {
            assert_int_equal(inside[s->pages[i / KERN_PAGE]][i % KERN_PAGE], s->ids[i]);
        }
        if (!kv_grow(pool, &s->s, n)) {
            kv_drop(pool, &s->s);
            continue;
        }
        for (uint32_t i = found; i < n; i++) {
            inside[s->pages[i / KERN_PAGE]][i % KERN_PAGE] = s->ids[i];
        }
        kv_note(pool, &s->s, s->ids, n);
        for (uint32_t page = 0; page < PAGES; page++) {
            bool has = false;

            for (int i = 0; i < SEQS; i++) {
                for (uint32_t k = 0; k < q[i]->s.n; k++) {
                    has = has || q[i]->pages[k] == page;
                }
            }
            all += has;
        }
        assert_int_equal(all + kv_available(pool), PAGES);
    }
    for (int i = 0; i < SEQS; i++) {
        kv_drop(pool, &q[i]->s);
        free(q[i]);
    }
    assert_int_equal(kv_available(pool), PAGES);
    kv_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_and_go),
        cmocka_unit_test(a_beginning_is_found),
        cmocka_unit_test(the_oldest_is_taken),
        cmocka_unit_test(no_page_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
