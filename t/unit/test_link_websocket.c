/* A WebSocket on a link: MESSAGE and END both ways, with echo as the service. */

#include "link_ends.h"

#define TEXT   AIQ_MESSAGE_TEXT
#define BINARY AIQ_MESSAGE_BINARY
#define FIN    AIQ_MESSAGE_FIN

static const char policy[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],\"locations\":["
    "{\"service\":\"echo\",\"max_body\":0,\"websocket\":true},"
    "{\"service\":\"health\",\"max_body\":0,\"websocket\":true},"
    "{\"service\":\"echo\",\"max_body\":0}]}";

static int setup(void **state)
{
    *state = ends_new();
    ends_open(*state, policy);
    return 0;
}

static int teardown(void **state)
{
    ends_close(*state);
    ends_free(*state);
    return 0;
}

static void say(ends *e, int type, uint8_t flags, const void *data, size_t n)
{
    push_flags(e, type, flags, 1, 1, data, n);
}

static void push_open(ends *e, const aiq_open *open)
{
    uint8_t payload[64], *end = payload + sizeof(*open);

    memcpy(payload, open, sizeof(*open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/health", 7);
    say(e, AIQ_FRAME_OPEN, 0, payload, (size_t)(end - payload));
}

static void push_close(ends *e, uint16_t code, size_t n)
{
    uint8_t payload[200] = {0};

    memcpy(payload, &code, sizeof(code));
    say(e, AIQ_FRAME_END, 0, payload, n);
}

/* The next frame but CREDIT must be of this type. */
static const uint8_t *hear(ends *e, int type, aiq_frame *frame)
{
    const uint8_t *payload = NULL;

    do {
        assert_int_equal(aiq_ring_next(&e->worker, frame, &payload), 1);
    } while (frame->type == AIQ_FRAME_CREDIT);
    assert_int_equal(frame->type, type);
    return payload;
}

static void expect_message(ends *e, uint8_t flags, const char *text)
{
    aiq_frame frame;
    const uint8_t *payload = hear(e, AIQ_FRAME_MESSAGE, &frame);

    assert_int_equal(frame.flags, flags);
    assert_int_equal(frame.len, strlen(text));
    assert_memory_equal(payload, text, frame.len);
}

static void expect_close(ends *e, uint16_t code)
{
    aiq_frame frame;
    const uint8_t *payload = hear(e, AIQ_FRAME_END, &frame);
    aiq_close why;

    assert_in_range(frame.len, sizeof(why), AIQ_CLOSE_MAX);
    memcpy(&why, payload, sizeof(why));
    assert_int_equal(why.code, code);
}

static void open_websocket(ends *e)
{
    aiq_frame frame;
    aiq_head head;

    push_open(e, &(aiq_open){.method = AIQ_METHOD_GET, .flags = AIQ_OPEN_WEBSOCKET});
    assert_true(turn(e));
    memcpy(&head, hear(e, AIQ_FRAME_HEAD, &frame), sizeof(head));
    assert_int_equal(head.status, 101);
    assert_int_equal(e->loop.links->n_streams, 1);
}

static void test_messages_come_back(void **state)
{
    ends *e = *state;

    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "hello", 5);
    say(e, AIQ_FRAME_MESSAGE, BINARY, "a", 1);
    say(e, AIQ_FRAME_MESSAGE, 0, "", 0);
    say(e, AIQ_FRAME_MESSAGE, FIN, "b", 1);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "", 0);
    assert_true(turn(e));
    expect_message(e, TEXT | FIN, "hello");
    expect_message(e, BINARY, "a");
    expect_message(e, 0, "");
    expect_message(e, FIN, "b");
    expect_message(e, TEXT | FIN, "");
    expect_nothing(e);
}

static void test_closing_follows_what_was_said(void **state)
{
    ends *e = *state;

    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "last", 4);
    push_close(e, 3001, 2);
    assert_true(turn(e));
    expect_message(e, TEXT | FIN, "last");
    expect_close(e, 3001);
    expect_nothing(e);
    assert_int_equal(e->link->n_jobs, 0);
}

/* A reader without credit: what is said is kept, within the window, and so is the end. */
static void test_a_slow_reader(void **state)
{
    static char text[3000];
    ends *e = *state;
    aiq_frame frame;
    size_t got = 0, sent = 0;
    const uint32_t more = 100;

    memset(text, 'x', sizeof(text));
    open_websocket(e);
    for (int i = 0; i < 3; i++) {
        say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, text, 2600);
        sent += 2600;
    }
    push_close(e, 1000, 2);
    assert_true(turn(e));
    for (bool ended = false; !ended; say(e, AIQ_FRAME_CREDIT, 0, &more, 4), turn(e)) {
        const uint8_t *payload;
        while (aiq_ring_next(&e->worker, &frame, &payload) == 1) {
            if (frame.type == AIQ_FRAME_MESSAGE) {
                got += frame.len;
            }
            ended = frame.type == AIQ_FRAME_END;
        }
    }
    assert_int_equal(got, sent);
}

/* Pieces that are nothing count too: who only sends those ends as soon. */
static void test_nothing_costs_credit(void **state)
{
    ends *e = *state;
    uint8_t *to;

    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT, "", 0);
    for (unsigned i = 1; i < AIQ_WINDOW / AIQ_MESSAGE_COST; i++) {
        to = aiq_ring_push(&e->worker, AIQ_FRAME_MESSAGE, 0, 1, 1, 0);
        assert_non_null(to);
    }
    aiq_ring_publish(&e->worker);
    while (!aiq_ring_empty(&e->link->ring)) {
        assert_true(turn(e));
    }
    /* the engine's own credit ended a little before, for HEAD took of it */
    assert_true(e->link->slots[1]->allowed < AIQ_WINDOW_ACTIVE);
}

static void test_the_engine_leaves(void **state)
{
    ends *e = *state;

    open_websocket(e);
    link_end_close(e->loop.links, true);
    e->link = NULL;
    expect_close(e, 1012);
}

static void test_a_service_without_websocket(void **state)
{
    ends *e = *state;
    aiq_frame frame;
    aiq_failure failure;

    push_open(
        e, &(aiq_open){.location = 1, .method = AIQ_METHOD_GET, .flags = AIQ_OPEN_WEBSOCKET});
    assert_true(turn(e));
    memcpy(&failure, hear(e, AIQ_FRAME_ERROR, &frame), sizeof(failure));
    assert_int_equal(failure.status, 400);
}

/* Each of these loses its link. */

static void unknown_flag(ends *e)
{
    push_open(e, &(aiq_open){.method = AIQ_METHOD_GET, .flags = 2});
}

static void with_a_body(ends *e)
{
    push_open(e, &(aiq_open){
                     .method = AIQ_METHOD_GET, .flags = AIQ_OPEN_WEBSOCKET, .body_length = 1});
}

static void not_of_the_location(ends *e)
{
    push_open(
        e, &(aiq_open){.location = 2, .method = AIQ_METHOD_GET, .flags = AIQ_OPEN_WEBSOCKET});
}

static void no_websocket(ends *e)
{
    push_open(e, &(aiq_open){.method = AIQ_METHOD_POST, .body_length = -1});
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "x", 1);
}

static void body(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_BODY, 0, "x", 1);
}

static void more_of_nothing(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, FIN, "x", 1);
}

static void message_in_message(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT, "x", 1);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "x", 1);
}

static void ping(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, 9 | FIN, "x", 1);
}

static void reserved_bit(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN | 0x40, "x", 1);
}

static void over_credit(ends *e)
{
    static uint8_t text[AIQ_WINDOW];

    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, text, sizeof(text) - AIQ_MESSAGE_COST + 1);
}

static void after_end(ends *e)
{
    open_websocket(e);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "x", 1); /* holds the job's end back */
    e->link->slots[1]->credit = 0;
    push_close(e, 1000, 2);
    say(e, AIQ_FRAME_MESSAGE, TEXT | FIN, "x", 1);
}

static void short_end(ends *e)
{
    open_websocket(e);
    push_close(e, 1000, 1);
}

static void long_end(ends *e)
{
    open_websocket(e);
    push_close(e, 1000, AIQ_CLOSE_MAX + 1);
}

static void grant_of_nothing(ends *e)
{
    const aiq_grant grant = {.status = 200};

    open_websocket(e);
    say(e, AIQ_FRAME_GRANT, 0, (const char *)&grant, sizeof(grant));
}

typedef struct {
    const char *what;
    void (*act)(ends *e);
} crime;

static void test_crime(void **state)
{
    static const crime crimes[] = {
        {"an unknown flag", unknown_flag},
        {"a WebSocket with a body", with_a_body},
        {"where the location has none", not_of_the_location},
        {"MESSAGE in a plain request", no_websocket},
        {"BODY of a WebSocket", body},
        {"more of no message", more_of_nothing},
        {"a message within a message", message_in_message},
        {"an opcode that is the worker's", ping},
        {"a reserved flag", reserved_bit},
        {"MESSAGE beyond credit", over_credit},
        {"MESSAGE after END", after_end},
        {"END without a code", short_end},
        {"END too long", long_end},
        {"GRANT of nothing", grant_of_nothing},
    };

    for (size_t i = 0; i < sizeof(crimes) / sizeof(crimes[0]); i++) {
        void *fresh;
        setup(&fresh);
        crimes[i].act(fresh);
        if (turn(fresh)) {
            fail_msg("%s: the link lives on", crimes[i].what);
        }
        teardown(&fresh);
    }
    (void)state;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_messages_come_back), TEST(test_closing_follows_what_was_said),
        TEST(test_a_slow_reader),      TEST(test_nothing_costs_credit),
        TEST(test_the_engine_leaves),  TEST(test_a_service_without_websocket),
        cmocka_unit_test(test_crime),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
