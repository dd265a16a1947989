/* Guaranteed streams: nothing is read before it is stored, what is stored reads as it was, a
 * batch counts once, and who is not a stream's engine any more adds nothing. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "store.h"
#include "streams/durable_impl.h"

#define MINE AIQ_STR("mine")

typedef struct {
    store_test store; /* first */
    /* the producer's */
    int opened, lost, held;
    bool err;
} fixture;

static const durable_request request = {AIQ_STR("{\"q\":1}"), AIQ_STR("abc"), AIQ_STR("{}"),
                                        AIQ_STR("ann"), AIQ_STR("demo")};

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    store_test *t = &f->store;

    *state = f;
    store_test_folder(t);
    snprintf(t->url, sizeof(t->url), "sqlite:%s/db", t->folder);
    store_test_open(t);
    t->engine.id = 7;
    t->engine.loops = &t->loop;
    t->engine.options.loops = 1;
    t->engine.store = t->store;
    t->engine.streams = streams_new(&t->engine, 1 << 20);
    t->engine.durable = durable_new(&t->engine);
    t->loop.engine = &t->engine;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    store_test *t = &f->store;

    durable_stop(t->engine.durable);
    store_stop(t->store);
    loop_flush(&t->loop);
    durable_free(t->engine.durable);
    streams_free(t->engine.streams);
    store_test_free(t);
    free(f);
    return 0;
}

static void on_opened(void *arg, const aiq_err *err)
{
    fixture *f = arg;

    f->opened++;
    f->err = err != NULL;
}

static void on_lost(void *arg, const aiq_err *err)
{
    fixture *f = arg;

    f->lost++;
    f->err = err != NULL;
}

static void on_hold(void *arg, bool hold)
{
    ((fixture *)arg)->held += hold ? 1 : -1;
}

static void on_watched(void *arg, bool watched)
{
    (void)arg;
    (void)watched;
}

static const stream_producer producer = {
    .hold = on_hold, .watched = on_watched, .opened = on_opened, .lost = on_lost};

static void turn(fixture *f)
{
    uv_run(&f->store.loop.uv, UV_RUN_ONCE);
}

static stream *begin(fixture *f)
{
    aiq_err err;
    stream *s = durable_begin(&f->store.loop, MINE, 64 << 10, &producer, f, &request, &err);

    assert_non_null(s);
    while (f->opened == 0) {
        turn(f);
    }
    assert_false(f->err);
    f->opened = 0;
    return s;
}

static void add(stream *s, const char *text)
{
    stream_add(s, text, strlen(text));
}

static void wait_for(fixture *f, const stream *s, uint64_t last)
{
    while (stream_log_last(stream_log_of(s)) < last) {
        turn(f);
    }
}

static bool read_tx(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_read(db, arg, err);
}

static durable_page read_page(fixture *f, const char *id, aiq_str tenant, uint64_t after)
{
    durable_page page = {.tenant = tenant, .after = after, .most = 1 << 20};

    snprintf(page.id, sizeof(page.id), "%s", id);
    assert_true(store_test_run(&f->store, false, read_tx, &page));
    return page;
}

static void nothing_is_there_before_it_is_stored(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);

    add(s, "data: a\n\ndata: b\n\n");
    assert_int_equal(stream_log_last(stream_log_of(s)), 0);
    wait_for(f, s, 2);
    durable_page page = read_page(f, stream_id(s), MINE, 0);
    assert_true(page.found && !page.ended);
    assert_int_equal(page.last, 2);
    stream_log_free(&page.log);
    stream_end(s);
    assert_false(stream_ended(s));
    while (!stream_ended(s)) {
        turn(f);
    }
    page = read_page(f, stream_id(s), MINE, 2);
    assert_true(page.ended && stream_log_end(&page.log) == 0);
}

static void what_is_stored_reads_as_it_was(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);

    add(s, "data: a\n\n");
    wait_for(f, s, 1);
    add(s, "event: x\ndata: b\n\ndata: c\n\n");
    wait_for(f, s, 3);
    durable_page page = read_page(f, stream_id(s), MINE, 0);
    const stream_log *log = stream_log_of(s);
    assert_int_equal(page.log.bytes.len, log->bytes.len);
    assert_memory_equal(page.log.bytes.data, log->bytes.data, log->bytes.len);
    stream_log_free(&page.log);
    page = read_page(f, stream_id(s), AIQ_STR("other"), 0);
    assert_false(page.found);
    stream_end(s);
}

static void who_ends_without_an_event_is_forgotten(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    char id[AIQ_ID_SIZE];

    snprintf(id, sizeof(id), "%s", stream_id(s));
    stream_end(s);
    while (!stream_ended(s)) {
        turn(f);
    }
    assert_false(read_page(f, id, MINE, 0).found);
}

static void its_producer_waits_for_the_store(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    char *text = malloc(DURABLE_UNSTORED + 64);

    memset(text, 'x', DURABLE_UNSTORED + 60);
    memcpy(text, "data: ", 6);
    memcpy(text + DURABLE_UNSTORED + 58, "\n\n", 2);
    stream_add(s, text, DURABLE_UNSTORED + 60);
    assert_int_equal(f->held, 1);
    wait_for(f, s, 1);
    assert_int_equal(f->held, 0);
    stream_end(s);
    free(text);
}

/* What the store refuses. */

static void wait_for_end(fixture *f, const stream *s)
{
    while (!stream_ended(s)) {
        turn(f);
    }
}

static bool contains(const stream *s, const char *text)
{
    const aiq_buf *bytes = &stream_log_of(s)->bytes;

    return memmem(bytes->data, bytes->len, text, strlen(text)) != NULL;
}

/* No UTF-8: what the store refuses though it is there. */
#define POISON "data: \xff\n\n"

static void what_the_store_refuses_ends_its_stream_and_no_other(void **state)
{
    fixture *f = *state;
    stream *good = begin(f), *bad = begin(f);

    add(good, "data: a\n\n");
    add(bad, "data: b\n\n");
    wait_for(f, good, 1);
    wait_for(f, bad, 1);
    add(good, "data: c\n\n");
    add(bad, POISON);
    while (f->lost == 0) {
        turn(f);
    }
    assert_true(f->err);
    add(bad, "data: sorry\n\n");
    stream_end(bad);
    wait_for_end(f, bad);
    wait_for(f, good, 2);
    assert_true(contains(bad, "id: 2\ndata: sorry\n") && contains(good, "id: 2\ndata: c\n"));
    durable_page page = read_page(f, stream_id(bad), MINE, 0);
    assert_true(page.ended && page.last == 2);
    stream_log_free(&page.log);
    add(good, "data: d\n\n");
    wait_for(f, good, 3);
    stream_end(good);
}

static void also_where_nobody_is_there_to_say_so(void **state)
{
    fixture *f = *state;
    stream *s = begin(f), *again = begin(f);

    add(s, "data: a\n\n" POISON);
    stream_end(s);
    wait_for_end(f, s);
    assert_int_equal(f->lost, 0);
    assert_true(contains(s, "id: 1\nevent: error\n") && contains(s, "store_error"));
    durable_page page = read_page(f, stream_id(s), MINE, 0);
    assert_true(page.ended && page.last == 1);
    stream_log_free(&page.log);

    add(again, POISON);
    while (f->lost == 0) {
        turn(f);
    }
    add(again, POISON); /* as if its producer could say nothing else */
    stream_end(again);
    wait_for_end(f, again);
    assert_true(contains(again, "event: error\n"));
}

static void a_stream_that_does_not_end_is_ended(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    const size_t n = 8u << 20;
    char *text = malloc(n + 1);

    memset(text, 'x', n);
    memcpy(text, "data: ", 6);
    memcpy(text + n - 2, "\n\n", 2);
    for (uint64_t i = 1; f->lost == 0; i++) {
        assert_true(i <= DURABLE_MOST / n + 1);
        stream_add(s, text, n);
        wait_for(f, s, i);
    }
    assert_true(f->err);
    stream_end(s);
    wait_for_end(f, s);
    free(text);
}

static void producers_are_told_of_a_store_that_is_away_for_long(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    durable_lane *lane = &f->store.engine.durable->lanes[0];
    store *there = f->store.store;

    store_stop(there); /* it takes nothing any more: 503 */
    add(s, "data: a\n\n");
    while (lane->failing_ns == 0) {
        turn(f);
    }
    assert_int_equal(f->lost, 0);
    lane->failing_ns -= (DURABLE_PATIENCE_MS + 1) * 1000000ull;
    while (f->lost == 0) {
        turn(f);
    }
    assert_true(f->err);
    turn(f);
    assert_int_equal(f->lost, 1); /* once */
    assert_int_equal(stream_log_last(stream_log_of(s)), 0);
}

/* The transactions, with another engine. */

typedef struct {
    const char *me;
    durable_batch batch;
} adding;

static bool add_tx(store_db *db, void *arg, aiq_err *err)
{
    adding *a = arg;

    return durable_tx_add(db, a->me, &a->batch, 1, err);
}

static bool add_batch(fixture *f, const char *me, const char *id, int64_t term, uint64_t first,
                      uint64_t last)
{
    adding a = {me,
                {.id = id,
                 .term = term,
                 .first = first,
                 .last = last,
                 .ms = 1,
                 .events = AIQ_STR("data: a\n\n")}};

    assert_true(store_test_run(&f->store, true, add_tx, &a));
    return a.batch.taken;
}

static const char me[] = "0000000000000007";

static void a_batch_counts_once_and_leaves_no_gap(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);

    assert_true(add_batch(f, me, stream_id(s), 1, 1, 1));
    assert_true(add_batch(f, me, stream_id(s), 1, 1, 1)); /* its answer was lost */
    assert_false(add_batch(f, me, stream_id(s), 1, 3, 3));
    assert_false(add_batch(f, "other", stream_id(s), 1, 2, 2));
    assert_false(add_batch(f, me, stream_id(s), 2, 2, 2));
    durable_page page = read_page(f, stream_id(s), MINE, 0);
    assert_int_equal(stream_log_last(&page.log), 1);
    stream_log_free(&page.log);
    stream_end(s);
}

static bool claim_tx(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_claim(db, "other", INT64_MAX / 2, INT64_MAX / 2, arg, err);
}

static bool list_tx(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_list(db, arg, err);
}

static void free_claim(durable_claim *c)
{
    aiq_buf_free(&c->tenant);
    aiq_buf_free(&c->user);
    aiq_buf_free(&c->model);
    aiq_buf_free(&c->request);
    aiq_buf_free(&c->policy);
    aiq_buf_free(&c->source);
}

static bool is(const aiq_buf *text, const char *want)
{
    return text->len == strlen(want) && memcmp(text->data, want, text->len) == 0;
}

static void who_is_not_its_engine_any_more_lets_it_go(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    durable_claim claim = {.lost = {.term = 1}};

    add(s, "data: a\n\n");
    wait_for(f, s, 1);
    durable_note(s, "data: made of b\n\n", 17);
    add(s, "data: b\n\n");
    wait_for(f, s, 2);
    snprintf(claim.lost.id, sizeof(claim.lost.id), "%s", stream_id(s));
    assert_true(store_test_run(&f->store, true, claim_tx, &claim));
    assert_true(claim.taken && claim.last == 2 && claim.term == 2);
    assert_true(is(&claim.tenant, "mine") && is(&claim.request, "{\"q\":1}"));
    assert_true(is(&claim.policy, "{}"));
    assert_true(is(&claim.user, "ann") && is(&claim.model, "demo"));
    durable_owned owned = {.tenant = MINE, .user = AIQ_STR("ann"), .me = me};
    assert_true(store_test_run(&f->store, false, list_tx, &owned));
    assert_int_equal(owned.n, 1); /* it is another engine's */
    assert_string_equal(owned.of[0].id, stream_id(s));
    assert_string_equal(owned.of[0].model, "demo");
    assert_int_equal(owned.of[0].last, 2);
    owned.me = "other";
    assert_true(store_test_run(&f->store, false, list_tx, &owned));
    assert_int_equal(owned.n, 0);
    assert_true(is(&claim.source, "data: a\n\ndata: made of b\n\n"));
    assert_true(store_test_run(&f->store, true, claim_tx, &claim));
    assert_false(claim.taken); /* somebody was faster */
    free_claim(&claim);

    add(s, "data: c\n\n");
    while (f->lost == 0) {
        turn(f);
    }
    assert_false(f->err);
    assert_null(stream_find(&f->store.loop, (aiq_str){claim.lost.id, 31}, MINE));
    durable_page page = read_page(f, claim.lost.id, MINE, 0);
    assert_int_equal(page.last, 2);
    stream_log_free(&page.log);
}

typedef struct {
    int64_t now_ms;
    size_t n;
    durable_lost found[DURABLE_TX_MOST];
} looking;

static bool look_tx(store_db *db, void *arg, aiq_err *err)
{
    looking *l = arg;

    return durable_tx_find_lost(db, "other", l->now_ms, l->found, &l->n, err);
}

static bool leave_tx(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_leave(db, arg, err);
}

static void an_engine_that_says_nothing_or_goodbye_has_left_its_streams(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    looking l = {.now_ms = 0};

    assert_true(store_test_run(&f->store, false, look_tx, &l));
    assert_int_equal(l.n, 0);
    l.now_ms = INT64_MAX;
    assert_true(store_test_run(&f->store, false, look_tx, &l));
    assert_true(l.n == 1 && !l.found[0].left);
    assert_string_equal(l.found[0].id, stream_id(s));
    l.now_ms = 0;
    assert_true(store_test_run(&f->store, true, leave_tx, (void *)me));
    assert_true(store_test_run(&f->store, false, look_tx, &l));
    assert_true(l.n == 1 && l.found[0].left);
    stream_end(s);
}

static bool forget_tx(store_db *db, void *arg, aiq_err *err)
{
    return durable_tx_forget(db, *(int64_t *)arg, err);
}

static void what_is_over_for_long_is_forgotten(void **state)
{
    fixture *f = *state;
    stream *s = begin(f), *open = begin(f);
    int64_t before = 1000;
    char id[AIQ_ID_SIZE];

    snprintf(id, sizeof(id), "%s", stream_id(s));
    add(s, "data: a\n\n");
    add(open, "data: a\n\n");
    stream_end(s);
    while (!stream_ended(s)) {
        turn(f);
    }
    wait_for(f, open, 1);
    assert_true(store_test_run(&f->store, true, forget_tx, &before));
    assert_true(read_page(f, id, MINE, 1).found);
    before = INT64_MAX;
    assert_true(store_test_run(&f->store, true, forget_tx, &before));
    assert_false(read_page(f, id, MINE, 0).found);
    assert_true(read_page(f, stream_id(open), MINE, 1).found);
    stream_end(open);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_there_before_it_is_stored),
        TEST(what_is_stored_reads_as_it_was),
        TEST(who_ends_without_an_event_is_forgotten),
        TEST(its_producer_waits_for_the_store),
        TEST(what_the_store_refuses_ends_its_stream_and_no_other),
        TEST(also_where_nobody_is_there_to_say_so),
        TEST(a_stream_that_does_not_end_is_ended),
        TEST(producers_are_told_of_a_store_that_is_away_for_long),
        TEST(a_batch_counts_once_and_leaves_no_gap),
        TEST(who_is_not_its_engine_any_more_lets_it_go),
        TEST(an_engine_that_says_nothing_or_goodbye_has_left_its_streams),
        TEST(what_is_over_for_long_is_forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
