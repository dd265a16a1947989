/* Workers that break the rules: the link goes, its jobs are cancelled, nobody else's are. */

#include "link_probe.h"

typedef struct {
    const char *what;
    void (*act)(ends *e);
} crime;

static void bad_slot(ends *e)
{
    push(e, AIQ_FRAME_OPEN, AIQ_SLOTS, 1, "", 0);
}

static void busy_slot(ends *e)
{
    push_request(e, -1);
    push_request(e, -1);
}

static void bad_location(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.location = 3, .method = AIQ_METHOD_GET}, "/probe");
}

static void bad_method(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.method = 9}, "/probe");
}

static void bad_length(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.method = AIQ_METHOD_GET, .body_length = -2}, "/probe");
}

static void short_open(ends *e)
{
    push(e, AIQ_FRAME_OPEN, 2, 1, "1234", 4);
}

static void long_open(ends *e)
{
    static uint8_t payload[AIQ_OPEN_MAX + 16];

    payload[4] = AIQ_METHOD_GET;
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, sizeof(payload));
}

static void field_outside(ends *e)
{
    uint8_t payload[sizeof(aiq_open) + 8] = {[4] = AIQ_METHOD_GET};
    const uint16_t field[2] = {AIQ_FIELD_URI, 5};

    memcpy(payload + sizeof(aiq_open), field, 4);
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, sizeof(payload));
}

static void no_uri(ends *e)
{
    aiq_open open = {.method = AIQ_METHOD_GET};

    push(e, AIQ_FRAME_OPEN, 2, 1, &open, sizeof(open));
}

static void push_text(ends *e, uint16_t id, const char *text)
{
    aiq_open open = {.method = AIQ_METHOD_GET};
    uint8_t payload[64], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, id, text, (uint16_t)strlen(text));
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, (size_t)(end - payload));
}

static void bad_header(ends *e)
{
    push_text(e, AIQ_FIELD_HEADER, "x-a: 1\r\nhost: evil");
}

static void line_feed_in_the_end(ends *e)
{
    push_text(e, AIQ_FIELD_TENANT, "\tacme and others\n");
}

static void delete_in_the_middle(ends *e)
{
    push_text(e, AIQ_FIELD_USER,
              "gr\xc3\xbcn, red a\x7f"
              "d blue");
}

static void push_numbers(ends *e, uint16_t id, uint16_t len)
{
    static const uint8_t numbers[64];
    aiq_open open = {.method = AIQ_METHOD_GET};
    uint8_t payload[128], *end = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    end = aiq_field_put(end, AIQ_FIELD_URI, "/", 1);
    end = aiq_field_put(end, id, numbers, len);
    push(e, AIQ_FRAME_OPEN, 2, 1, payload, (size_t)(end - payload));
}

static void short_conditions(ends *e)
{
    push_numbers(e, AIQ_FIELD_CONDITIONS, 7);
}

static void half_a_hash(ends *e)
{
    push_numbers(e, AIQ_FIELD_HASHES, 6);
}

static void too_many_hashes(ends *e)
{
    push_numbers(e, AIQ_FIELD_HASHES, (AIQ_HASHES_MAX + 1) * sizeof(uint32_t));
}

static void keys_without_limits(ends *e)
{
    push_numbers(e, AIQ_FIELD_LIMIT_KEYS, AIQ_LIMIT_KEY);
}

static void half_a_charge(ends *e)
{
    push_numbers(e, AIQ_FIELD_CHARGE, 8);
}

static void limits_without_keys(ends *e)
{
    push_open(e, 2, 1, &(aiq_open){.location = 3, .method = AIQ_METHOD_GET}, "/probe");
}

static void short_ask(ends *e)
{
    push(e, AIQ_FRAME_ASK, 2, 1, "1234", 4);
}

static void ask_about_nothing(ends *e)
{
    push_ask(e, 2, SHARED + 1, AIQ_LIMIT_KEY);
}

static void ask_without_a_key(ends *e)
{
    push_ask(e, 2, SHARED, AIQ_LIMIT_KEY + 1);
}

static void ask_in_a_job(ends *e)
{
    push_request(e, -1);
    push_ask(e, 1, SHARED, AIQ_LIMIT_KEY);
}

static void over_credit(ends *e)
{
    static uint8_t text[AIQ_WINDOW + 1];

    push_request(e, -1);
    push(e, AIQ_FRAME_BODY, 1, 1, text, sizeof(text));
}

static void over_length(ends *e)
{
    push_request(e, 3);
    push(e, AIQ_FRAME_BODY, 1, 1, "1234", 4);
}

static void early_end(ends *e)
{
    push_request(e, 3);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
}

static void second_end(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
}

static void body_after_end(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    push(e, AIQ_FRAME_BODY, 1, 1, "x", 1);
}

static void short_credit(ends *e)
{
    push_request(e, -1);
    push(e, AIQ_FRAME_CREDIT, 1, 1, "x", 1);
}

static void endless_credit(ends *e)
{
    const uint32_t more = UINT32_MAX;

    push_request(e, -1);
    push(e, AIQ_FRAME_CREDIT, 1, 1, &more, sizeof(more));
}

static void unknown_type(ends *e)
{
    push_request(e, -1);
    push(e, 200, 1, 1, NULL, 0);
}

static void tail_too_far(ends *e)
{
    e->worker.mine->tail = AIQ_RING_SIZE + 16;
}

static void half_a_header(ends *e)
{
    e->worker.mine->tail = 8;
}

static void frame_beyond_tail(ends *e)
{
    push(e, AIQ_FRAME_END, 1, 1, NULL, 0);
    ((aiq_frame *)e->worker.tx)->len = 100;
}

static void frame_too_long(ends *e)
{
    for (int i = 0; i < 3; i++) {
        assert_non_null(aiq_ring_push(&e->worker, AIQ_FRAME_END, 0, 1, 1, AIQ_FRAME_MAX));
    }
    ((aiq_frame *)e->worker.tx)->len = AIQ_FRAME_MAX + 16;
}

static void head_too_far(ends *e)
{
    p.on_end = p.on_writable = write_window;
    e->worker.mine->head = 1; /* beyond what the engine has written */
    e->link->ring.peer_head = e->link->ring.tail - AIQ_RING_SIZE; /* so that it looks */
    push_open(e, 1, 1, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
    aiq_ring_publish(&e->worker);
}

static void test_crimes(void **state)
{
    static const crime crimes[] = {
        {"a slot out of range", bad_slot},
        {"a slot in use", busy_slot},
        {"an unknown location", bad_location},
        {"an unknown method", bad_method},
        {"a negative length", bad_length},
        {"a short OPEN", short_open},
        {"a long OPEN", long_open},
        {"a field that leads outside", field_outside},
        {"no URI", no_uri},
        {"a line end in a header", bad_header},
        {"a line feed", line_feed_in_the_end},
        {"a DEL", delete_in_the_middle},
        {"conditions too short", short_conditions},
        {"half a hash", half_a_hash},
        {"too many hashes", too_many_hashes},
        {"keys without limits", keys_without_limits},
        {"limits without keys", limits_without_keys},
        {"a short ASK", short_ask},
        {"an ASK about nothing", ask_about_nothing},
        {"an ASK without a key", ask_without_a_key},
        {"an ASK in a job", ask_in_a_job},
        {"half a charge", half_a_charge},
        {"BODY beyond credit", over_credit},
        {"BODY beyond length", over_length},
        {"END too early", early_end},
        {"END twice", second_end},
        {"BODY after END", body_after_end},
        {"a short CREDIT", short_credit},
        {"endless credit", endless_credit},
        {"an unknown type", unknown_type},
        {"a tail beyond the ring", tail_too_far},
        {"half a frame header", half_a_header},
        {"a frame beyond the tail", frame_beyond_tail},
        {"a frame beyond AIQ_FRAME_MAX", frame_too_long},
        {"a head beyond our tail", head_too_far},
    };
    ends *e = *state;

    for (size_t i = 0; i < sizeof(crimes) / sizeof(crimes[0]); i++) {
        aiq_link *honest = e->link;
        aiq_ring honest_worker = e->worker;

        memset(&p, 0, sizeof(p));
        connect_worker(e, probe_policy);
        crimes[i].act(e);
        if (turn(e)) {
            fail_msg("%s: the link lives on", crimes[i].what);
        }
        assert_true(strchr(p.events, 'o') == NULL || strchr(p.events, 'c') != NULL);

        memset(&p, 0, sizeof(p));
        unmap_worker(&e->worker);
        e->link = honest;
        e->worker = honest_worker;
        p.on_end = answer;
        push_open(e, 1, (uint32_t)i, &(aiq_open){.method = AIQ_METHOD_GET}, "/probe");
        assert_true(turn(e));
        assert_string_equal(p.events, "oe");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_crimes, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
