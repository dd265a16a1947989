/*
 * Where contexts share a small pool of pages: whoever must give its pages away goes on later as
 * if nothing had been; what was read for one is not read again for another of its scope;
 * whoever is in a hurry goes before whoever is not, which goes on, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "infer_client.h"
#include "kernels/aiq_kernels.h"

enum { PAGE_BYTES = 2 * 2 * 32 * 2 * KERN_PAGE, OF_CTX = TINY_CTX / KERN_PAGE };

/* As long as the context: so the pool is of one and a half. */
static infer *open_small(void)
{
    return open_tiny((infer_options){.kv_bytes = PAGE_BYTES * OF_CTX * 3 / 2});
}

/* With contexts of so many tokens. */
static infer *open_long(uint32_t n_ctx, infer_options opt)
{
    tiny_model tm = {
        .tensor_type = GGUF_TENSOR_F32, .seed = 3, .skip_key = "llama.context_length"};
    gw w = {0};
    char *path;
    infer *m;

    tiny_write(&w, tm);
    gw_u32(&w, "llama.context_length", n_ctx);
    path = gw_file(&w);
    opt.n_threads = 2;
    m = infer_open(path, &opt, err, sizeof(err));
    unlink(path);
    free(path);
    assert_non_null(m);
    return m;
}

static void fill(int32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((seed * 31 + i * 7) % 256);
    }
}

static void same(const client *a, const client *b)
{
    assert_int_equal(a->last.type, INFER_DONE);
    assert_int_equal(a->last.finish, b->last.finish);
    assert_int_equal(a->last.completion_tokens, b->last.completion_tokens);
    assert_memory_equal(a->ids, b->ids, sizeof(a->ids));
    assert_int_equal(a->len, b->len);
    assert_memory_equal(a->text, b->text, a->len);
}

static void preemption_changes_nothing(void **state)
{
    enum { N = 8 };
    infer *small = open_small(), *large = open_tiny((infer_options){0});
    static client c[N], alone;
    static int32_t ids[N][TINY_CTX];
    infer_params p[N];
    infer_stats stats;

    (void)state;
    memset(c, 0, sizeof(c));
    for (uint32_t i = 0; i < N; i++) {
        fill(ids[i], TINY_CTX, i);
        p[i] = (infer_params){.ids = ids[i],
                              .n_ids = 1 + i * 9,
                              .temperature = i % 2 ? 1.0f : 0,
                              .frequency = 0.5f,
                              .seed = i,
                              .has_seed = true};
        submit(small, &c[i], p[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        wait_last(&c[i]);
    }
    infer_get_stats(small, &stats);
    assert_int_equal(stats.pages, OF_CTX * 3 / 2);
    assert_true(stats.preemptions > 0);
    for (uint32_t i = 0; i < N; i++) {
        memset(&alone, 0, sizeof(alone));
        submit(large, &alone, p[i]);
        wait_last(&alone);
        same(&c[i], &alone);
    }
    infer_get_stats(large, &stats);
    assert_int_equal(stats.preemptions, 0);
    infer_close(small);
    infer_close(large);
}

/* One that nobody reads has a context only as long as nobody else needs it. */
static void the_paused_give_way(void **state)
{
    infer *m = open_small();
    client slow = {.pause_after = 2}, other = {0};
    int32_t ids[TINY_CTX];
    infer_params p = {.ids = ids, .n_ids = 100};
    infer_stats stats;

    (void)state;
    fill(ids, TINY_CTX, 1);
    submit(m, &slow, p);
    wait_texts(&slow, 2);
    p.scope = AIQ_STR("another, so nothing is shared");
    submit(m, &other, p);
    wait_last(&other);
    assert_int_equal(slow.n_last, 0);
    infer_get_stats(m, &stats);
    assert_true(stats.preemptions > 0);
    infer_resume(slow.req);
    wait_last(&slow);
    same(&slow, &other);
    infer_close(m);
}

static void what_was_read_is_not_read_again(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client first = {0}, again = {0}, other = {0}, talk = {0};
    int32_t ids[TINY_CTX];
    infer_params p = {.ids = ids,
                      .n_ids = 50,
                      .max_tokens = 40,
                      .temperature = 1,
                      .has_seed = true,
                      .scope = AIQ_STR("a")};
    infer_stats stats;

    (void)state;
    fill(ids, TINY_CTX, 2);
    submit(m, &first, p);
    wait_last(&first);
    assert_int_equal(first.last.cached_tokens, 0);
    submit(m, &again, p);
    wait_last(&again);
    assert_int_equal(again.last.cached_tokens, 48);
    same(&first, &again);
    p.scope = AIQ_STR("b");
    submit(m, &other, p);
    wait_last(&other);
    assert_int_equal(other.last.cached_tokens, 0);
    same(&first, &other);

    /* a conversation goes on: its answer was never a prompt. The last token is not in a page.
     */
    memcpy(ids + 50, first.ids, first.last.completion_tokens * sizeof(*ids));
    p.n_ids = 50 + first.last.completion_tokens;
    p.scope = AIQ_STR("a");
    submit(m, &talk, p);
    wait_last(&talk);
    assert_int_equal(talk.last.cached_tokens, (p.n_ids - 1) / KERN_PAGE * KERN_PAGE);
    infer_get_stats(m, &stats);
    assert_int_equal(stats.cached_tokens, 48 + talk.last.cached_tokens);
    assert_int_equal(stats.prompt_tokens, 3 * 50 + p.n_ids);
    infer_close(m);
}

/* Who is cancelled has no pages any more when the next is let in. */
static void the_cancelled_have_no_pages(void **state)
{
    infer *m = open_small();
    client gone = {.pause_after = 1}, next = {0};
    int32_t ids[TINY_CTX];
    infer_params p = {.ids = ids, .n_ids = 100};
    infer_stats stats;

    (void)state;
    fill(ids, TINY_CTX, 1);
    submit(m, &gone, p);
    wait_texts(&gone, 1);
    infer_cancel(gone.req);
    wait_last(&gone);
    p.scope = AIQ_STR("another");
    submit(m, &next, p);
    wait_last(&next);
    infer_get_stats(m, &stats);
    assert_int_equal(stats.preemptions, 0);
    infer_close(m);
}

/* Of a place that becomes free three go to those in a hurry before one goes to flex. */
static void flex_waits_and_is_served(void **state)
{
    enum { EACH = 6 };
    static const int order[2 * EACH] = {0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1};
    infer *m = open_tiny((infer_options){.max_running = 1});
    static client c[2][EACH];
    client first = {.held = true};
    uint32_t begin;

    (void)state;
    memset(c, 0, sizeof(c));
    submit(m, &first, params(1));
    wait_texts(&first, 1);
    for (int flex = 1; flex >= 0; flex--) {
        for (int i = 0; i < EACH; i++) {
            infer_params p = params(3);

            p.flex = flex;
            submit(m, &c[flex][i], p);
        }
    }
    let_go(&first);
    wait_last(&first);
    for (int i = 0; i < EACH; i++) {
        wait_last(&c[0][i]);
        wait_last(&c[1][i]);
    }
    begin = first.rank + 1;
    for (int rank = 0, seen[2] = {0}; rank < 2 * EACH; rank++) {
        int flex = order[rank];

        assert_int_equal(c[flex][seen[flex]++].rank, begin + (uint32_t)rank);
    }
    infer_close(m);
}

/* A quarter of the batch is never flex's: one in a hurry need not wait for the end of any. */
static void flex_leaves_room(void **state)
{
    enum { FLEX = 6 };
    infer *m = open_tiny((infer_options){.max_running = 4});
    static client c[FLEX];
    client first = {.held = true}, hasty = {0};
    infer_params p = params(0);

    (void)state;
    memset(c, 0, sizeof(c));
    c[0].held = true;
    submit(m, &first, params(1));
    wait_texts(&first, 1);
    p.flex = true;
    for (int i = 0; i < FLEX; i++) {
        submit(m, &c[i], p);
    }
    let_go(&first);
    wait_last(&first);
    wait_texts(&c[0], 1);
    submit(m, &hasty, params(1));
    let_go(&c[0]);
    wait_last(&hasty);
    for (int i = 0; i < FLEX; i++) {
        wait_last(&c[i]);
        assert_true(hasty.rank < c[i].rank);
    }
    infer_close(m);
}

/* Those in a hurry take the pages of flex whenever they need one, and there is always another
 * of them. All are there from the beginning, so who ends when is the scheduler's choice alone.
 */
static void flex_ends_though_pages_are_scarce(void **state)
{
    enum { HASTY = 100, CTX = 1024, PAGES = 100, SOON = 80 };
    static const sampler_bias no_end[] = {{TINY_END_OF_TEXT, -100}, {TINY_IM_END, -100}};
    static client hasty[HASTY];
    infer *m = open_long(
        CTX, (infer_options){.kv_bytes = PAGE_BYTES * PAGES, .max_waiting = HASTY + 2});
    client first = {.held = true}, flex = {0};
    int32_t ids[CTX];
    char scope[16];

    (void)state;
    memset(hasty, 0, sizeof(hasty));
    fill(ids, CTX, 1);
    submit(m, &first, params(1));
    wait_texts(&first, 1);
    infer_params p = {
        .ids = ids, .n_ids = 900, .max_tokens = 120, .bias = no_end, .n_bias = 2, .flex = true};
    submit(m, &flex, p);
    p.flex = false;
    for (uint32_t i = 0; i < HASTY; i++) {
        snprintf(scope, sizeof(scope), "%u", i);
        p.scope = (aiq_str){scope, strlen(scope)}; /* nothing is shared */
        p.n_ids = 10;
        p.max_tokens = 100 + i % 16;
        submit(m, &hasty[i], p);
    }
    let_go(&first);
    wait_last(&first);
    wait_last(&flex);
    for (uint32_t i = 0; i < HASTY; i++) {
        wait_last(&hasty[i]);
    }
    assert_int_equal(flex.last.type, INFER_DONE);
    assert_in_range(flex.rank - first.rank, 1, SOON);
    infer_close(m);
}

/* A quarter of the queue is never flex's either. */
static void flex_leaves_room_to_wait(void **state)
{
    enum { FLEX = 3 };
    infer *m = open_tiny((infer_options){.max_running = 1, .max_waiting = 4});
    client first = {.held = true}, c[FLEX] = {0}, hasty = {0};
    infer_params p = params(1);
    infer_req *none;

    (void)state;
    submit(m, &first, p);
    wait_texts(&first, 1);
    p.flex = true;
    for (int i = 0; i < FLEX; i++) {
        submit(m, &c[i], p);
    }
    assert_int_equal(infer_submit(m, &p, on_event, NULL, &none, err, sizeof(err)), INFER_BUSY);
    submit(m, &hasty, params(1));
    let_go(&first);
    wait_last(&first);
    wait_last(&hasty);
    for (int i = 0; i < FLEX; i++) {
        wait_last(&c[i]);
        assert_true(hasty.rank < c[i].rank);
    }
    infer_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(the_paused_give_way),
        cmocka_unit_test(what_was_read_is_not_read_again),
        cmocka_unit_test(the_cancelled_have_no_pages),
        cmocka_unit_test(flex_waits_and_is_served),
        cmocka_unit_test(flex_leaves_room),
        cmocka_unit_test(flex_ends_though_pages_are_scarce),
        cmocka_unit_test(flex_leaves_room_to_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
