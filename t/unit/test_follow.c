/* Guaranteed streams of another engine: what that stores is heard here, nothing is missed where
 * it is not, many readers ask once, and who takes a stream over keeps its readers. Two engines
 * on one PostgreSQL; the net below, a look every few seconds, is an hour wide. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "postgres.h"
#include "store.h"
#include "streams/durable_impl.h"
#include "streams/stream_reader.h"

#define MINE AIQ_STR("mine")
#define HOUR 3600000

typedef struct {
    store_test there, here; /* who writes, who reads */
    int opened, lost;
} fixture;

static postgres cluster;

static const durable_request request = {AIQ_STR("{}"), AIQ_STR("abc"), AIQ_STR("{}"),
                                        AIQ_STR("ann"), AIQ_STR("demo")};

static void start(store_test *t, uint64_t id)
{
    aiq_err err;

    store_test_folder(t);
    store_test_open(t);
    assert_non_null(t->store);
    t->engine.id = id;
    t->engine.loops = &t->loop;
    t->engine.options.loops = 1;
    t->engine.store = t->store;
    t->engine.streams = streams_new(&t->engine, 1 << 20);
    t->engine.durable = durable_new(&t->engine);
    t->engine.durable->look_ms = HOUR;
    assert_true(durable_hear(t->engine.durable, &err));
}

static void end(store_test *t)
{
    durable_stop(t->engine.durable);
    store_stop(t->store);
    loop_flush(&t->loop);
    durable_free(t->engine.durable);
    streams_free(t->engine.streams);
    store_test_free(t);
}

static void turn(fixture *f)
{
    uv_run(&f->there.loop.uv, UV_RUN_NOWAIT);
    uv_run(&f->here.loop.uv, UV_RUN_NOWAIT);
    usleep(100);
}

static void wait_until_heard(fixture *f)
{
    while (!store_announces(f->here.store)) {
        turn(f);
    }
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));

    *state = f;
    postgres_database(&cluster, f->there.url, sizeof(f->there.url));
    memcpy(f->here.url, f->there.url, sizeof(f->here.url));
    start(&f->there, 7);
    start(&f->here, 8);
    wait_until_heard(f);
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;

    end(&f->here);
    end(&f->there);
    free(f);
    return 0;
}

/* Who writes. */

static void on_opened(void *arg, const aiq_err *err)
{
    assert_null(err);
    ((fixture *)arg)->opened++;
}

static void on_lost(void *arg, const aiq_err *err)
{
    (void)err;
    ((fixture *)arg)->lost++;
}

static void on_hold(void *arg, bool hold)
{
    (void)arg;
    (void)hold;
}

static const stream_producer producer = {
    .hold = on_hold, .watched = on_hold, .opened = on_opened, .lost = on_lost};

static stream *begin(fixture *f)
{
    aiq_err err;
    stream *s = durable_begin(&f->there.loop, MINE, 64 << 10, &producer, f, &request, &err);

    assert_non_null(s);
    for (f->opened = 0; f->opened == 0;) {
        turn(f);
    }
    return s;
}

static void add(stream *s, unsigned n)
{
    char text[32];

    stream_add(s, text, (size_t)snprintf(text, sizeof(text), "data: %u\n\n", n));
}

/* Who reads. */

typedef struct {
    stream_reader *reader;
    aiq_buf got;
    unsigned pieces;
    stream_piece last;
} asker;

static void on_told(void *arg, const stream_piece *piece)
{
    asker *a = arg;

    assert_int_equal(piece->err.status, 0);
    a->pieces++;
    a->last = *piece;
    aiq_buf_add(&a->got, piece->data.data, piece->data.len);
    if (!piece->last) {
        stream_reader_next(a->reader);
    }
}

static void ask(fixture *f, asker *a, const char *id, uint64_t after)
{
    const stream_question q = {.id = {id, strlen(id)}, .tenant = MINE, .after = after};
    aiq_err err;

    *a = (asker){0};
    a->reader = stream_read(&f->here.loop, &q, on_told, a, &err);
    assert_non_null(a->reader);
}

static void read_to(fixture *f, const asker *a, uint64_t number)
{
    while (a->last.next < number) {
        turn(f);
    }
}

static void leave(asker *a)
{
    stream_reader_leave(a->reader);
    aiq_buf_free(&a->got);
}

/* All of its events up to n, each once, in order. */
static bool has_all(const asker *a, unsigned n)
{
    aiq_buf want = {0};

    aiq_buf_text(&want, "retry: 2000\n");
    for (unsigned i = 1; i <= n; i++) {
        aiq_buf_printf(&want, "id: %u\ndata: %u\n\n", i, i);
    }
    bool same = a->got.len == want.len && memcmp(a->got.data, want.data, want.len) == 0;
    aiq_buf_free(&want);
    return same;
}

static long number_of(const store_test *t, const char *sample)
{
    aiq_buf text = {0};

    metrics_render(t->engine.metrics, &text);
    aiq_buf_add(&text, "", 1);
    const char *at = strstr((char *)text.data, sample);
    long n = at ? atol(at + strlen(sample)) : -1;
    aiq_buf_free(&text);
    return n;
}

static void each_event_is_heard(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    asker a;

    ask(f, &a, stream_id(s), 0);
    while (a.pieces == 0) { /* there is nothing yet, which is told at once */
        turn(f);
    }
    for (unsigned n = 1; n <= 20; n++) {
        add(s, n);
        read_to(f, &a, n);
    }
    stream_end(s);
    while (!a.last.done) {
        turn(f);
    }
    assert_true(has_all(&a, 20));
    leave(&a);
}

/* Of a question that is asked once, and waits. */
static void a_poll_hears_it(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    const stream_question q = {.id = {stream_id(s), strlen(stream_id(s))},
                               .tenant = MINE,
                               .once = true,
                               .wait_ms = HOUR};
    asker a = {0};
    aiq_err err;

    a.reader = stream_read(&f->here.loop, &q, on_told, &a, &err);
    while (number_of(&f->here, "\naiq_streams_followed ") == 0) {
        turn(f);
    }
    assert_int_equal(a.pieces, 0);
    add(s, 1);
    while (a.pieces == 0) {
        turn(f);
    }
    assert_int_equal(a.last.next, 1);
    leave(&a);
    stream_end(s);
}

static void nothing_is_missed_while_nothing_is_heard(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    char database[16];
    asker a;

    snprintf(database, sizeof(database), "t%u", cluster.n_databases);
    ask(f, &a, stream_id(s), 0);
    add(s, 1);
    read_to(f, &a, 1);
    for (unsigned n = 2; n <= 5; n++) {
        assert_true(postgres_run(&cluster, database,
                                 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                 "WHERE query LIKE 'LISTEN%'"));
        add(s, n);
        read_to(f, &a, n);
    }
    wait_until_heard(f);
    add(s, 6);
    read_to(f, &a, 6);
    assert_true(has_all(&a, 6));
    leave(&a);
    stream_end(s);
}

static void readers_wait_for_a_store_that_is_away(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    asker a;

    ask(f, &a, stream_id(s), 0);
    add(s, 1);
    read_to(f, &a, 1);
    assert_true(postgres_do(&cluster, "kill"));
    add(s, 2);
    while (store_announces(f->here.store)) {
        turn(f);
    }
    assert_true(postgres_do(&cluster, "start"));
    read_to(f, &a, 2);
    assert_true(has_all(&a, 2));
    leave(&a);
    stream_end(s);
}

static void many_readers_ask_once(void **state)
{
    static const char reads[] = "\naiq_store_seconds_count{kind=\"read\"} ";
    enum { READERS = 200, EVENTS = 10 };
    fixture *f = *state;
    stream *s = begin(f);
    asker *all = calloc(READERS, sizeof(*all));

    for (int i = 0; i < READERS; i++) {
        ask(f, &all[i], stream_id(s), 0);
    }
    for (int i = 0; i < READERS; i++) {
        while (all[i].pieces == 0) { /* which it is told once it is in its place */
            turn(f);
        }
    }
    assert_int_equal(number_of(&f->here, "\naiq_streams_followed "), 1);
    long before = number_of(&f->here, reads);
    assert_true(before > 0);
    for (unsigned n = 1; n <= EVENTS; n++) {
        add(s, n);
        for (int i = 0; i < READERS; i++) {
            read_to(f, &all[i], n);
        }
    }
    assert_in_range(number_of(&f->here, reads) - before, EVENTS, 4 * EVENTS);
    for (int i = 0; i < READERS; i++) {
        assert_true(has_all(&all[i], EVENTS));
        leave(&all[i]);
    }
    while (number_of(&f->here, "\naiq_streams_followed ") > 0) { /* nobody reads it */
        turn(f);
    }
    free(all);
    stream_end(s);
}

/* Another tenant's reader finds nothing, whether the stream is followed here or not. */
static void on_refused(void *arg, const stream_piece *piece)
{
    *(unsigned *)arg = piece->err.status;
}

static void it_is_its_tenants_alone(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    const stream_question q = {.id = {stream_id(s), strlen(stream_id(s))},
                               .tenant = AIQ_STR("other")};
    aiq_err err;
    asker a;

    ask(f, &a, stream_id(s), 0);
    add(s, 1);
    read_to(f, &a, 1);
    unsigned status = 0;
    stream_reader *other = stream_read(&f->here.loop, &q, on_refused, &status, &err);
    while (status == 0) {
        turn(f);
    }
    assert_int_equal(status, 404);
    stream_reader_leave(other);
    leave(&a);
    stream_end(s);
}

/* Who was cut off elsewhere may be further than the copy. */
static void who_is_further_than_the_copy_reads_on(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    asker first, second;

    ask(f, &first, stream_id(s), 0);
    add(s, 1);
    read_to(f, &first, 1);
    for (unsigned n = 2; n <= 30; n++) {
        add(s, n);
        while (stream_log_last(stream_log_of(s)) < n) { /* it turns there alone */
            uv_run(&f->there.loop.uv, UV_RUN_ONCE);
        }
    }
    ask(f, &second, stream_id(s), 30);
    add(s, 31);
    read_to(f, &second, 31);
    read_to(f, &first, 31);
    assert_true(has_all(&first, 31));
    assert_int_equal(second.last.next, 31);
    assert_non_null(memmem(second.got.data, second.got.len, "id: 31\ndata: 31\n", 16));
    assert_null(memmem(second.got.data, second.got.len, "id: 30\n", 7));
    leave(&first);
    leave(&second);
    stream_end(s);
}

/* Its engine leaves; this one goes on with it. */
static void on_orphan(aiq_loop *loop, const durable_orphan *orphan)
{
    (void)loop;
    assert_int_equal(orphan->last, 2);
    stream_produce(orphan->stream, 64 << 10, &producer, NULL);
    add(orphan->stream, 3);
    stream_end(orphan->stream);
}

static void who_takes_it_over_keeps_its_readers(void **state)
{
    fixture *f = *state;
    stream *s = begin(f);
    asker a;

    ask(f, &a, stream_id(s), 0);
    add(s, 1);
    read_to(f, &a, 1);
    durable_on_orphan(f->here.engine.durable, on_orphan);
    add(s, 2);
    stream_release(s);
    durable_stop(f->there.engine.durable); /* whose loop does not turn any more */
    while (!a.last.done) {
        uv_run(&f->here.loop.uv, UV_RUN_ONCE);
    }
    assert_true(has_all(&a, 3));
    leave(&a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_event_is_heard),
        TEST(a_poll_hears_it),
        TEST(nothing_is_missed_while_nothing_is_heard),
        TEST(readers_wait_for_a_store_that_is_away),
        TEST(many_readers_ask_once),
        TEST(it_is_its_tenants_alone),
        TEST(who_is_further_than_the_copy_reads_on),
        TEST(who_takes_it_over_keeps_its_readers),
    };

    if (!postgres_start(&cluster)) {
        puts("1..0 # SKIP there is no PostgreSQL");
        return 0;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    postgres_end(&cluster);
    return failed;
}
