/* Topics: who publishes to them, who reads them, how long they are kept, how many there are;
 * then an event for many readers on several loops. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "streams/stream_reader.h"
#include "streams/topics_impl.h"

#define LOOPS 3
#define ACME  AIQ_STR("acme")
#define NEWS  AIQ_STR("news")

typedef struct {
    aiq_engine engine;
    aiq_loop loops[LOOPS];
    uint64_t seq; /* of the last answer */
    unsigned status;
} fixture;

static fixture *make(size_t memory)
{
    fixture *f = calloc(1, sizeof(*f));
    aiq_err err;

    f->engine.metrics = metrics_new();
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

static void flush(fixture *f)
{
    for (int i = 0; i < 3 * LOOPS; i++) {
        loop_flush(&f->loops[i % LOOPS]);
    }
}

static void on_published(void *arg, uint64_t seq, const aiq_err *err)
{
    fixture *f = arg;

    f->seq = seq;
    f->status = err->status;
}

static uint64_t say(fixture *f, aiq_str tenant, aiq_str name, const char *data)
{
    topic_ask(&f->loops[0], tenant, name, AIQ_STR("t"), (aiq_str){data, strlen(data)},
              on_published, f);
    flush(f);
    return f->seq;
}

typedef struct {
    stream_reader *reader;
    aiq_buf got;
    const char *data; /* of the last piece */
    stream_piece piece;
    int told;
} asker;

static void on_told(void *arg, const stream_piece *piece)
{
    asker *a = arg;

    a->told++;
    a->piece = *piece;
    a->data = piece->data.data;
    aiq_buf_add(&a->got, piece->data.data, piece->data.len);
}

static void ask(fixture *f, asker *a, unsigned loop, stream_question question)
{
    aiq_err err;

    *a = (asker){0};
    question.topic = true;
    a->reader = stream_read(&f->loops[loop], &question, on_told, a, &err);
    assert_non_null(a->reader);
    flush(f);
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

static bool has(const asker *a, const char *text)
{
    return memmem(a->got.data, a->got.len, text, strlen(text)) != NULL;
}

/* As with Redis, which numbers. */
static void take(fixture *f, uint64_t number, const char *text)
{
    aiq_loop *loop = topic_owner(&f->engine, ACME, NEWS, NULL);
    topic *t = topic_find(&f->engine.topics->tables[loop->index], ACME, NEWS);

    assert_non_null(t);
    topic_take(t, number, (aiq_str){text, strlen(text)});
    flush(f);
}

static void who_reads_hears_of_a_gap_in_the_numbers_and_reads_on(void **state)
{
    fixture *f = make(1 << 20);
    uint64_t seq = say(f, ACME, NEWS, "1");
    asker waiting, busy;

    (void)state;
    ask(f, &waiting, 0, (stream_question){.id = NEWS, .tenant = ACME, .after = seq});
    next(f, &waiting);
    ask(f, &busy, 1, (stream_question){.id = NEWS, .tenant = ACME, .from_now = true});
    take(f, seq, "{\"type\":\"t\",\"data\":0"); /* known */
    take(f, seq + 1, "{\"type\":\"t\",\"data\":2");
    assert_true(has(&waiting, "\"data\":2,\"seq\":") && !waiting.piece.gap);
    take(f, seq + 10, "{\"type\":\"t\",\"data\":3");
    next(f, &waiting);
    assert_true(has(&waiting, "\"data\":3,\"seq\":") && waiting.piece.gap);
    assert_int_equal(waiting.piece.next, seq + 10);
    next(f, &busy);
    assert_true(has(&busy, "\"data\":3,") && busy.piece.gap);
    assert_false(has(&waiting, "\"data\":0"));

    take(f, seq + 11, "{\"type\":\"t\",\"data\":\n4"); /* no engine's */
    take(f, seq + 11, "{\"type\":\"t\",\"data\":4]");
    take(f, seq + 11, "");
    take(f, seq + 11, "{\"type\":\"t\",\"data\":5");
    next(f, &waiting);
    next(f, &busy);
    assert_true(has(&busy, "\"data\":5,") && !busy.piece.gap);
    assert_int_equal(waiting.piece.next, seq + 11); /* 5 and nothing else */
    assert_false(has(&waiting, "data\":4") || has(&waiting, "data\":\n4"));
    leave(f, &waiting);
    leave(f, &busy);
    end(f);
}

static void names(void **state)
{
    char longest[TOPIC_NAME_MAX + 2];

    (void)state;
    memset(longest, 'a', sizeof(longest));
    assert_true(topic_is_name(AIQ_STR("a.B_0-9")));
    assert_true(topic_is_name((aiq_str){longest, TOPIC_NAME_MAX}));
    assert_false(topic_is_name((aiq_str){longest, TOPIC_NAME_MAX + 1}));
    assert_false(topic_is_name(AIQ_STR("")));
    assert_false(topic_is_name(AIQ_STR("a b")));
    assert_false(topic_is_name(AIQ_STR("a/b")));
    assert_false(topic_is_name(AIQ_STR("\xc3\xa9")));

    assert_true(topic_may_publish(NEWS));
    assert_false(topic_may_publish(AIQ_STR(TOPIC_BUDGETS)));
    assert_true(topic_may_read(AIQ_STR("viewer"), NEWS));
    assert_false(topic_may_read(AIQ_STR("developer"), AIQ_STR(TOPIC_BUDGETS)));
    assert_false(topic_may_read(AIQ_STR("developer"), AIQ_STR(TOPIC_PROVIDERS)));
    assert_true(topic_may_read(AIQ_STR("admin"), AIQ_STR(TOPIC_PROVIDERS)));
}

static void an_event_is_an_object_with_its_number(void **state)
{
    fixture *f = make(1 << 20);
    char want[128];
    asker a;

    (void)state;
    uint64_t first = say(f, ACME, NEWS, "{\"a\":\n\r[1]}");
    assert_int_equal(say(f, ACME, NEWS, "\"b\""), first + 1);
    assert_true(first > 1767225600000000); /* after 2025, in microseconds */
    ask(f, &a, 1, (stream_question){.id = NEWS, .tenant = ACME});
    snprintf(want, sizeof(want), "id: %llu\ndata: {\"type\":\"t\",\"data\":{\"a\":  [1]},",
             (unsigned long long)first);
    assert_true(has(&a, want));
    snprintf(want, sizeof(want), "\"seq\":%llu}\n\n", (unsigned long long)first + 1);
    assert_true(has(&a, want));
    assert_false(a.piece.gap);
    assert_int_equal(a.piece.next, first + 1);
    leave(f, &a);
    end(f);
}

static void who_reads_from_now_on_is_told_where_that_is(void **state)
{
    fixture *f = make(1 << 20);
    asker a;

    (void)state;
    uint64_t first = say(f, ACME, NEWS, "1");
    ask(f, &a, 2, (stream_question){.id = NEWS, .tenant = ACME, .from_now = true});
    assert_true(a.told == 1 && a.got.len == 0 && a.piece.next == first);
    next(f, &a);
    say(f, ACME, NEWS, "2");
    assert_true(a.told == 2 && a.piece.next == first + 1 && has(&a, "\"data\":2"));
    leave(f, &a);
    end(f);
}

static void another_tenants_topic_is_another(void **state)
{
    fixture *f = make(1 << 20);
    asker a;

    (void)state;
    say(f, ACME, NEWS, "1");
    ask(f, &a, 0, (stream_question){.id = NEWS, .tenant = AIQ_STR("bolt")});
    assert_int_equal(a.got.len, 0);
    next(f, &a);
    say(f, AIQ_STR("bolt"), NEWS, "2");
    assert_true(has(&a, "\"data\":2") && !has(&a, "\"data\":1"));
    leave(f, &a);
    end(f);
}

/* Its reader holds one piece; what is kept moves on. */
static void who_falls_behind_is_told_and_goes_on(void **state)
{
    fixture *f = make(64 << 20);
    char *data = malloc(40000);
    asker slow, fast;

    (void)state;
    memset(data, 'x', 39999);
    data[0] = data[39998] = '"';
    data[39999] = '\0';
    ask(f, &slow, 1, (stream_question){.id = NEWS, .tenant = ACME});
    ask(f, &fast, 2, (stream_question){.id = NEWS, .tenant = ACME});
    for (int i = 0; i < 20; i++) {
        next(f, &fast);
        say(f, ACME, NEWS, data);
        assert_int_equal(fast.told, 2 + i);
        assert_false(fast.piece.gap);
    }
    uint64_t last = f->seq;
    assert_int_equal(slow.told, 1);
    next(f, &slow);
    assert_true(slow.piece.gap && slow.piece.err.status == 0 && !slow.piece.last);
    while (slow.piece.next < last) {
        next(f, &slow);
        assert_false(slow.piece.gap);
    }
    assert_in_range(slow.got.len, TOPIC_BYTES - 50000, TOPIC_BYTES);
    leave(f, &slow);
    leave(f, &fast);
    free(data);
    end(f);
}

static void a_number_of_an_earlier_life_is_a_gap(void **state)
{
    fixture *f = make(1 << 20);
    asker a;

    (void)state;
    uint64_t first = say(f, ACME, NEWS, "1");
    const uint64_t strange[] = {5, first - 2, first + 1, UINT64_MAX - 1};
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
        ask(f, &a, 1, (stream_question){.id = NEWS, .tenant = ACME, .after = strange[i]});
        assert_true(a.piece.gap && has(&a, "\"data\":1"));
        leave(f, &a);
    }
    ask(f, &a, 1, (stream_question){.id = NEWS, .tenant = ACME, .after = first - 1});
    assert_true(!a.piece.gap && has(&a, "\"data\":1"));
    leave(f, &a);
    end(f);
}

static void nobody_who_was_forgotten_is_told(void **state)
{
    fixture *f = make(1 << 20);

    (void)state;
    topic_question *q =
        topic_ask(&f->loops[0], ACME, NEWS, AIQ_STR("t"), AIQ_STR("1"), on_published, f);
    topic_forget(q);
    flush(f);
    assert_int_equal(f->seq, 0);
    topic_publish(&f->engine, ACME, NEWS, AIQ_STR("t"), AIQ_STR("2"));
    topic_publish(&f->engine, ACME, NEWS, AIQ_STR("t"), AIQ_STR("3"));
    end(f);
}

static void a_tenant_has_only_so_many(void **state)
{
    fixture *f = make(64 << 20);
    char name[16];

    (void)state;
    int made = 0;
    for (int i = 0; i < LOOPS * TOPICS_TENANT_MAX + 100; i++) {
        int n = snprintf(name, sizeof(name), "n%d", i);
        say(f, ACME, (aiq_str){name, (size_t)n}, "1");
        made += f->status == 0;
        assert_true(f->status == 0 || f->status == 429);
    }
    assert_in_range(made, LOOPS * TOPICS_TENANT_MAX - 100, LOOPS * TOPICS_TENANT_MAX);
    say(f, ACME, AIQ_STR("n0"), "2");
    assert_int_equal(f->status, 0);
    say(f, AIQ_STR("bolt"), AIQ_STR("n0"), "2");
    assert_int_equal(f->status, 0);
    end(f);
}

static void those_that_were_only_read_do_not_count(void **state)
{
    fixture *f = make(64 << 20);
    char name[16];
    asker a;

    (void)state;
    for (int i = 0; i < LOOPS * TOPICS_TENANT_MAX + 100; i++) {
        int n = snprintf(name, sizeof(name), "n%d", i);
        ask(f, &a, 0, (stream_question){.id = {name, (size_t)n}, .tenant = ACME});
        assert_int_equal(a.piece.err.status, 0);
        leave(f, &a);
    }
    assert_true(say(f, ACME, NEWS, "1") && f->status == 0);
    end(f);
}

/* Their memory is that of streams. */
static void where_memory_is_short_those_go_that_nobody_reads(void **state)
{
    fixture *f = make(LOOPS * (64 << 10));
    char *data = malloc(10000), name[16];
    asker read, other;

    (void)state;
    memset(data, 'x', 9999);
    data[0] = data[9998] = '"';
    data[9999] = '\0';
    uint64_t first = say(f, ACME, NEWS, "1");
    ask(f, &read, 0, (stream_question){.id = NEWS, .tenant = ACME, .from_now = true});
    for (int i = 0; i < 100; i++) {
        int n = snprintf(name, sizeof(name), "n%d", i);
        say(f, ACME, (aiq_str){name, (size_t)n}, data);
    }
    ask(f, &other, 0, (stream_question){.id = AIQ_STR("n0"), .tenant = ACME});
    assert_int_equal(other.got.len, 0); /* it was forgotten */
    leave(f, &other);
    ask(f, &other, 0, (stream_question){.id = NEWS, .tenant = ACME});
    assert_int_equal(other.piece.next, first);
    leave(f, &other);
    leave(f, &read);
    free(data);
    end(f);
}

#define MANY 3000

static void one_piece_is_for_many_readers(void **state)
{
    fixture *f = make(256 << 20);
    asker *all = calloc(MANY, sizeof(*all));
    aiq_err err;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        const stream_question question = {
            .id = NEWS, .tenant = ACME, .topic = true, .from_now = true};
        all[i].reader = stream_read(&f->loops[i % LOOPS], &question, on_told, &all[i], &err);
    }
    flush(f);
    for (int i = 1; i < MANY; i++) { /* the first takes nothing */
        stream_reader_next(all[i].reader);
    }
    flush(f);
    say(f, ACME, NEWS, "1");
    say(f, ACME, NEWS, "2");
    for (int i = 1; i < MANY; i++) {
        assert_int_equal(all[i].told, 2);
        assert_true(has(&all[i], "\"data\":1"));
        assert_ptr_equal(all[i].data, all[1].data);
    }
    assert_int_equal(all[0].told, 1);
    next(f, &all[0]);
    assert_true(has(&all[0], "\"data\":1") && has(&all[0], "\"data\":2"));
    for (int i = 0; i < MANY; i++) {
        stream_reader_leave(all[i].reader);
        aiq_buf_free(&all[i].got);
    }
    flush(f);
    free(all);
    end(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(who_reads_hears_of_a_gap_in_the_numbers_and_reads_on),
        cmocka_unit_test(an_event_is_an_object_with_its_number),
        cmocka_unit_test(who_reads_from_now_on_is_told_where_that_is),
        cmocka_unit_test(another_tenants_topic_is_another),
        cmocka_unit_test(who_falls_behind_is_told_and_goes_on),
        cmocka_unit_test(a_number_of_an_earlier_life_is_a_gap),
        cmocka_unit_test(nobody_who_was_forgotten_is_told),
        cmocka_unit_test(a_tenant_has_only_so_many),
        cmocka_unit_test(those_that_were_only_read_do_not_count),
        cmocka_unit_test(where_memory_is_short_those_go_that_nobody_reads),
        cmocka_unit_test(one_piece_is_for_many_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
