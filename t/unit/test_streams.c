/* Streams and their readers: who is told what, who waits for whom, what is kept and what
 * is dropped; then producers and readers on several loops at once. */

#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "streams/stream_list.h"
#include "streams/stream_reader.h"
#include "streams/topics.h"

#define LOOPS 3
#define KEEP  4096
#define MINE  AIQ_STR("mine")

typedef struct {
    aiq_engine engine;
    aiq_loop loops[LOOPS];
    /* the producer's */
    int holds, watched;
} fixture;

static fixture *make(size_t memory)
{
    fixture *f = calloc(1, sizeof(*f));
    aiq_err err;

    f->engine.metrics = metrics_new();
    f->engine.id = 7;
    f->engine.options.loops = LOOPS;
    f->engine.loops = f->loops;
    for (unsigned i = 0; i < LOOPS; i++) {
        assert_true(loop_init(&f->loops[i], &f->engine, i, &err));
    }
    f->engine.streams = streams_new(&f->engine, memory);
    f->engine.topics = topics_new(&f->engine);
    return f;
}

static void end(fixture *f)
{
    topics_free(f->engine.topics);
    streams_free(f->engine.streams);
    for (unsigned i = 0; i < LOOPS; i++) {
        loop_free(&f->loops[i]);
    }
    metrics_free(f->engine.metrics);
    free(f);
}

static void on_hold(void *arg, bool hold)
{
    ((fixture *)arg)->holds += hold ? 1 : -1;
}

static void on_watched(void *arg, bool watched)
{
    ((fixture *)arg)->watched += watched ? 1 : -1;
}

static const stream_producer producer = {on_hold, on_watched};

static stream *begin(fixture *f)
{
    return stream_new(&f->loops[1], MINE, KEEP, &producer, f);
}

static void add(stream *s, const char *text)
{
    stream_add(s, text, strlen(text));
}

/* 32 bytes or so. */
static void add_many(stream *s, int n)
{
    for (int i = 0; i < n; i++) {
        add(s, "data: 0123456789abcdefg\n\n");
    }
}

static void flush(fixture *f)
{
    for (int i = 0; i < 3 * LOOPS; i++) {
        loop_flush(&f->loops[i % LOOPS]);
    }
}

/* A reader that keeps what it is told. */
typedef struct {
    stream_reader *reader;
    aiq_buf got;
    int told;
    stream_piece piece; /* the last one */
} asker;

static void on_told(void *arg, const stream_piece *piece)
{
    asker *a = arg;

    a->told++;
    a->piece = *piece;
    aiq_buf_add(&a->got, piece->data.data, piece->data.len);
}

static bool ask(fixture *f, asker *a, const char *id, const char *tenant, uint64_t after,
                bool once, uint32_t wait_ms)
{
    const stream_question question = {.id = {id, strlen(id)},
                                      .tenant = {tenant, strlen(tenant)},
                                      .after = after,
                                      .once = once,
                                      .wait_ms = wait_ms};
    aiq_err err = {0};

    *a = (asker){0};
    a->reader = stream_read(&f->loops[2], &question, on_told, a, &err);
    assert_true(a->reader || err.status == 404);
    flush(f);
    return a->reader;
}

static void next(fixture *f, asker *a)
{
    stream_reader_next(a->reader);
    flush(f);
}

static void leave(fixture *f, asker *a)
{
    stream_reader_leave(a->reader);
    aiq_buf_free(&a->got);
    flush(f);
}

static void assert_got(const asker *a, const char *want)
{
    assert_int_equal(a->got.len, strlen(want));
    assert_memory_equal(a->got.data, want, a->got.len);
}

static void a_reader_on_another_loop_gets_what_was_and_what_comes(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    asker a;

    (void)state;
    add(s, "data: a\n\n");
    ask(f, &a, stream_id(s), "mine", 0, false, 0);
    assert_got(&a, "retry: 2000\nid: 1\ndata: a\n\n");
    add(s, "data: b\n\n");
    flush(f);
    assert_int_equal(a.told, 1); /* it has not taken the first piece yet */
    add(s, "data: c\n\n");
    next(f, &a);
    assert_got(&a, "retry: 2000\nid: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n");
    assert_false(a.piece.last);
    next(f, &a);
    assert_int_equal(a.told, 2); /* there is nothing */
    stream_end(s);
    flush(f);
    assert_int_equal(a.told, 3);
    assert_true(a.piece.last && a.piece.done);
    leave(f, &a);
    end(f);
}

static void it_goes_on_after_any_event_and_also_after_the_end(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    asker a;

    (void)state;
    add(s, "data: a\n\ndata: b\n\n");
    stream_end(s);
    ask(f, &a, stream_id(s), "mine", 1, false, 0);
    assert_got(&a, "id: 2\ndata: b\n\n");
    assert_true(a.piece.last && a.piece.done);
    leave(f, &a);
    ask(f, &a, stream_id(s), "mine", 2, false, 0);
    assert_int_equal(a.got.len, 0);
    assert_true(a.piece.last && a.piece.done && a.piece.err.status == 0);
    leave(f, &a);
    end(f);
}

static void who_may_not_or_cannot_read_it_is_told_so(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    char id[64];
    asker a;

    (void)state;
    add(s, "data: a\n\n");
    ask(f, &a, stream_id(s), "other", 0, false, 0);
    assert_int_equal(a.piece.err.status, 404);
    leave(f, &a);
    ask(f, &a, stream_id(s), "mine", 2, false, 0);
    assert_int_equal(a.piece.err.status, 400);
    leave(f, &a);

    assert_false(ask(f, &a, "strm_", "mine", 0, false, 0));
    assert_false(ask(f, &a, "run_01J00000000000000000000000", "mine", 0, false, 0));
    snprintf(id, sizeof(id), "%s", stream_id(s));
    id[30] = id[30] == '1' ? '2' : '1';
    f->engine.id = 8; /* as if it had started again */
    assert_true(ask(f, &a, id, "mine", 0, false, 0));
    assert_int_equal(a.piece.err.status, 404);
    leave(f, &a);
    f->engine.id = 7;
    assert_true(ask(f, &a, id, "mine", 0, false, 0));
    assert_int_equal(a.piece.err.status, 404);
    leave(f, &a);
    stream_end(s);
    end(f);
}

static void asked_once_it_waits_for_an_event(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    asker a;

    (void)state;
    ask(f, &a, stream_id(s), "mine", 0, true, 0);
    assert_int_equal(a.told, 1);
    assert_int_equal(a.got.len, 0);
    assert_true(a.piece.last && !a.piece.done && a.piece.next == 0);
    leave(f, &a);

    ask(f, &a, stream_id(s), "mine", 0, true, 10000);
    assert_int_equal(a.told, 0);
    add(s, "data: a\n\n");
    flush(f);
    assert_int_equal(a.told, 1);
    assert_memory_equal(a.got.data, "{\"seq\":1,", 9);
    assert_true(a.piece.last && !a.piece.done && a.piece.next == 1);
    leave(f, &a);

    ask(f, &a, stream_id(s), "mine", 1, true, 10000);
    stream_end(s);
    flush(f);
    assert_true(a.told == 1 && a.piece.done && a.piece.next == 1);
    leave(f, &a);
    end(f);
}

static void the_producer_hears_of_the_first_reader_and_the_last(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    stream_place place = {0};
    asker a;

    (void)state;
    stream_join(s, &place, 0);
    assert_int_equal(f->watched, 1);
    ask(f, &a, stream_id(s), "mine", 0, false, 0);
    stream_leave(&place);
    stream_leave(&place);
    assert_int_equal(f->watched, 1);
    leave(f, &a);
    assert_int_equal(f->watched, 0);
    stream_end(s);
    end(f);
}

static void it_waits_for_the_fastest_reader_and_a_slow_one_is_told(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = begin(f);
    stream_place fast = {0}, slow = {0};
    aiq_str rest;
    asker a;

    (void)state;
    stream_join(s, &fast, 0);
    stream_join(s, &slow, 0);
    ask(f, &a, stream_id(s), "mine", 0, false, 0); /* and takes no second piece */
    add_many(s, 50);
    assert_int_equal(f->holds, 0);
    add_many(s, 50);
    assert_int_equal(f->holds, 1);
    add_many(s, 50); /* what was under way: it is kept all the same */
    assert_int_equal(f->holds, 1);
    assert_true(stream_rest(&fast, &rest));
    assert_true(rest.len > KEEP);
    stream_took(&fast, rest.len);
    assert_int_equal(f->holds, 0);

    add(s, "data: x\n\n");
    assert_true(stream_log_of(s)->bytes.len <= KEEP);
    assert_true(stream_rest(&fast, &rest));
    assert_int_equal(rest.len, strlen("id: 151\ndata: x\n\n"));
    assert_false(stream_rest(&slow, &rest));
    assert_int_equal(a.told, 1);
    next(f, &a);
    assert_int_equal(a.piece.err.status, 410);
    assert_string_equal(a.piece.err.code, "stream_truncated");
    leave(f, &a);
    ask(f, &a, stream_id(s), "mine", 5, false, 0);
    assert_int_equal(a.piece.err.status, 410);
    leave(f, &a);

    stream_leave(&slow);
    stream_leave(&fast);
    stream_end(s);
    end(f);
}

static void a_long_stream_comes_in_pieces_of_whole_events(void **state)
{
    fixture *f = make(1 << 20);
    stream *s = stream_new(&f->loops[0], MINE, 1 << 20, &producer, f);
    asker a;

    (void)state;
    add_many(s, 3000);
    stream_end(s);
    ask(f, &a, stream_id(s), "mine", 0, false, 0);
    while (!a.piece.last) {
        assert_true(a.piece.data.len <= STREAM_PIECE);
        assert_memory_equal(a.piece.data.data + a.piece.data.len - 2, "\n\n", 2);
        next(f, &a);
    }
    assert_int_equal(a.got.len, stream_log_end(stream_log_of(s)));
    assert_memory_equal(a.got.data, stream_log_of(s)->bytes.data, a.got.len);
    leave(f, &a);
    end(f);
}

/* Each loop has 64 KB. */
static void where_memory_is_short_the_oldest_that_nobody_reads_go(void **state)
{
    fixture *f = make(LOOPS * (64 << 10));
    char ids[20][64];
    stream_place place = {0};
    asker a;
    int left = 0;

    (void)state;
    for (int i = 0; i < 20; i++) {
        stream *s = begin(f);
        snprintf(ids[i], sizeof(ids[i]), "%s", stream_id(s));
        add_many(s, 100);
        if (i == 1) {
            stream_join(s, &place, 0);
        }
        stream_end(s);
    }
    for (int i = 0; i < 20; i++) {
        ask(f, &a, ids[i], "mine", 100, false, 0);
        assert_true(i > 1 || (a.piece.err.status == 0) == (i == 1));
        assert_true(i < 15 || a.piece.err.status == 0);
        left += a.piece.err.status == 0;
        leave(f, &a);
    }
    assert_in_range(left, 5, 15);
    stream_leave(&place);
    end(f);
}

/* They go on, but nobody can come back to them. */
static void and_those_that_go_on_keep_what_is_unread(void **state)
{
    fixture *f = make(0);
    stream *s = begin(f);
    stream_place place = {0};
    aiq_str rest;

    (void)state;
    stream_join(s, &place, 0);
    add_many(s, 50);
    assert_int_equal(stream_log_last(stream_log_of(s)), 50);
    assert_true(stream_rest(&place, &rest));
    stream_took(&place, rest.len);
    add(s, "data: x\n\n");
    assert_int_equal(stream_log_of(s)->first, 51);
    stream_leave(&place);
    stream_end(s);
    end(f);
}

/* A quarter of what the loop has. */
static void readers_take_only_so_much(void **state)
{
    enum { MANY = 200 };
    fixture *f = make(LOOPS * (64 << 10));
    stream *s = begin(f);
    asker all[MANY];
    int taken = 0;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        ask(f, &all[i], stream_id(s), "mine", 0, false, 0);
        taken += all[i].piece.err.status == 0;
        assert_true(all[i].piece.err.status == 0 ||
                    strcmp(all[i].piece.err.code, "too_many_readers") == 0);
    }
    assert_in_range(taken, 10, 100);
    assert_int_equal(stream_readers(s), taken);
    leave(f, &all[0]); /* room for one */
    ask(f, &all[0], stream_id(s), "mine", 0, false, 0);
    assert_int_equal(all[0].piece.err.status, 0);
    for (int i = 0; i < MANY; i++) {
        leave(f, &all[i]);
    }
    assert_int_equal(stream_readers(s), 0);
    stream_end(s);
    end(f);
}

/* At once, on loops that run. */

#define STREAMS 8
#define EVENTS  2000
#define READERS 4 /* a stream */

typedef struct {
    fixture *f;
    stream *stream;
    loop_timer timer;
    int n;
    bool held;
} speaker;

typedef struct {
    aiq_loop *loop;
    stream_reader *reader;
    char id[64];
    uint64_t last; /* number of the last event seen */
    bool failed;
} listener;

static atomic_int listeners_left;

static void speak(aiq_loop *loop, void *arg)
{
    speaker *p = arg;

    for (int i = 0; i < 50 && p->n < EVENTS && !p->held; i++) {
        p->n++;
        add(p->stream, "data: 0123456789abcdefg\n\n");
    }
    if (p->n == EVENTS) {
        stream_end(p->stream);
    } else if (!p->held) {
        loop_timer_start(loop, &p->timer, 0, speak, p);
    }
}

static void speaker_hold(void *arg, bool hold)
{
    speaker *p = arg;

    p->held = hold;
    if (!hold) {
        loop_timer_start(&p->f->loops[1], &p->timer, 0, speak, p);
    }
}

static void speaker_watched(void *arg, bool watched)
{
    (void)arg;
    (void)watched;
}

static void listen_on(aiq_loop *loop, void *arg);

/* Leaves now and then, and comes back. */
static void on_heard(void *arg, const stream_piece *piece)
{
    listener *l = arg;
    const char *pos = piece->data.data, *end = pos + piece->data.len;

    while (pos < end) {
        const char *id = memmem(pos, (size_t)(end - pos), "id: ", 4);
        uint64_t n = strtoull(id + 4, NULL, 10);
        l->failed |= n != l->last + 1;
        l->last = n;
        pos = (const char *)memmem(id, (size_t)(end - id), "\n\n", 2) + 2;
    }
    l->failed |= piece->err.status != 0;
    if (piece->last) {
        l->failed |= l->last != EVENTS;
        stream_reader_leave(l->reader);
        listeners_left--;
    } else if (l->last % 7 == 3) {
        stream_reader_leave(l->reader);
        loop_post(l->loop, listen_on, l);
    } else {
        stream_reader_next(l->reader);
    }
}

static void listen_on(aiq_loop *loop, void *arg)
{
    listener *l = arg;
    const stream_question question = {
        .id = {l->id, strlen(l->id)}, .tenant = MINE, .after = l->last};
    aiq_err err;

    l->reader = stream_read(loop, &question, on_heard, l, &err);
}

static void *run(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void keep_list(void *arg, const stream_list *list)
{
    *(stream_list *)arg = *list;
}

static stream_list list_of(fixture *f, aiq_str tenant, aiq_str user)
{
    stream_list list = {.n = 1000};

    stream_list_ask(&f->loops[0], tenant, user, keep_list, &list);
    flush(f);
    return list;
}

static void a_caller_is_told_what_he_has_under_way(void **state)
{
    fixture *f = make(1 << 20);
    stream *s[STREAM_LIST_MOST + 2];
    const size_t n = sizeof(s) / sizeof(s[0]);

    (void)state;
    s[0] = begin(f);
    stream_title(s[0], AIQ_STR("ann"), AIQ_STR("demo"));
    add(s[0], "data: a\n\ndata: b\n\n");
    s[1] = stream_new(&f->loops[0], MINE, 100, &producer, f);
    stream_title(s[1], AIQ_STR("bob"), AIQ_STR("demo"));
    stream_list list = list_of(f, MINE, AIQ_STR("ann"));
    assert_int_equal(list.n, 1);
    assert_string_equal(list.of[0].id, stream_id(s[0]));
    assert_string_equal(list.of[0].model, "demo");
    assert_int_equal(list.of[0].last, 2);
    assert_false(list.of[0].guaranteed);
    assert_int_equal(list_of(f, AIQ_STR("other"), AIQ_STR("ann")).n, 0);
    assert_int_equal(list_of(f, MINE, AIQ_STR("")).n, 0);

    stream_end(s[0]);
    assert_int_equal(list_of(f, MINE, AIQ_STR("ann")).n, 0); /* it is over */
    for (size_t i = 2; i < n; i++) {
        s[i] = stream_new(&f->loops[i % LOOPS], MINE, 100, &producer, f);
        stream_title(s[i], AIQ_STR("bob"), AIQ_STR("demo"));
    }
    assert_int_equal(list_of(f, MINE, AIQ_STR("bob")).n, STREAM_LIST_MOST);
    for (size_t i = 1; i < n; i++) {
        stream_end(s[i]);
    }
    end(f);
}

static void the_latest_come_first(void **state)
{
    static stream_list list;

    (void)state;
    list.n = 0;
    for (int i = 0; i < STREAM_LIST_MOST + 10; i++) {
        stream_list_add(&list, &(stream_entry){.began_ms = i * 7919 % 10007});
    }
    assert_int_equal(list.n, STREAM_LIST_MOST);
    for (size_t i = 1; i < list.n; i++) {
        assert_true(list.of[i - 1].began_ms >= list.of[i].began_ms);
    }
}

static void many_on_several_loops(void **state)
{
    static const stream_producer speaking = {speaker_hold, speaker_watched};
    fixture *f = make(64 << 20);
    speaker *speakers = calloc(STREAMS, sizeof(*speakers));
    listener *listeners = calloc(STREAMS * READERS, sizeof(*listeners));
    pthread_t threads[LOOPS];

    (void)state;
    listeners_left = STREAMS * READERS;
    for (int i = 0; i < STREAMS * READERS; i++) {
        speaker *p = &speakers[i / READERS];
        listener *l = &listeners[i];
        if (i % READERS == 0) {
            p->f = f;
            p->stream = stream_new(&f->loops[1], MINE, 256 << 10, &speaking, p);
            loop_post(&f->loops[1], speak, p);
        }
        l->loop = &f->loops[i % LOOPS];
        snprintf(l->id, sizeof(l->id), "%s", stream_id(p->stream));
        loop_post(l->loop, listen_on, l);
    }
    for (int i = 0; i < LOOPS; i++) {
        pthread_create(&threads[i], NULL, run, &f->loops[i]);
    }
    while (listeners_left) {
        sched_yield();
    }
    for (int i = 0; i < LOOPS; i++) {
        loop_stop(&f->loops[i]);
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < STREAMS * READERS; i++) {
        assert_false(listeners[i].failed);
    }
    end(f);
    free(speakers);
    free(listeners);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_on_another_loop_gets_what_was_and_what_comes),
        cmocka_unit_test(it_goes_on_after_any_event_and_also_after_the_end),
        cmocka_unit_test(who_may_not_or_cannot_read_it_is_told_so),
        cmocka_unit_test(asked_once_it_waits_for_an_event),
        cmocka_unit_test(the_producer_hears_of_the_first_reader_and_the_last),
        cmocka_unit_test(it_waits_for_the_fastest_reader_and_a_slow_one_is_told),
        cmocka_unit_test(a_long_stream_comes_in_pieces_of_whole_events),
        cmocka_unit_test(where_memory_is_short_the_oldest_that_nobody_reads_go),
        cmocka_unit_test(and_those_that_go_on_keep_what_is_unread),
        cmocka_unit_test(readers_take_only_so_much),
        cmocka_unit_test(a_caller_is_told_what_he_has_under_way),
        cmocka_unit_test(the_latest_come_first),
        cmocka_unit_test(many_on_several_loops),
    };
    return cmocka_run_group_tests_name("streams", tests, NULL, NULL);
}
