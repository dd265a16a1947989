/*
 * An engine for tests of the module: it says what it gets, and answers as the
 * request's path tells it to, also against the rules.
 *
 *     fake_engine SOCKET [HANDSHAKE]
 *
 * HANDSHAKE is how it answers a hello: ok (the default), silent, close, abi,
 * magic, short, no_fd, two_fds, unsealed, wrong_size, refused; deaf: well, but
 * then it reads nothing before SIGUSR1; dies: well, at SIGUSR1, and that is the
 * last that it does. One link at a time, everything blocks,
 * standard output tells every frame that came.
 *
 * An ASK is answered as its request id tells it to, see told().
 *
 * What it knows of API keys is in SOCKET.keys, which is read again all the time:
 *
 *     epoch N              the epoch that it names, often; no such line: it names none
 *     HASH STATUS …        the answer to a CHECK: STATUS EXPIRES_MS TENANT USER ROLE ID
 *     HASH HOW             not so: hold, until the line is another one, with the epoch of
 *                          the question; die; as jobs or wrongly, see verdict_wrong()
 */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "aiq_frame.h"
#include "aiq_link.h"

typedef struct {
    bool held;
    uint8_t hash[32];
    uint32_t epoch; /* when it came */
} held_check;

typedef struct {
    int fd;
    const char *keys; /* path of the file */
    uint32_t epoch;   /* that was named; 0: none is */
    aiq_ring ring;
    uint32_t credit[AIQ_SLOTS]; /* that the worker has given us */
    uint32_t generation[AIQ_SLOTS];
    char path[AIQ_SLOTS][64];
    uint64_t body[AIQ_SLOTS];
    held_check check[AIQ_SLOTS];
} link_end;

static link_end l;

/* Ours. */

static void wake(void)
{
    send(l.fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What we have told of a request is there to be read before its client hears of it. */
static void publish(void)
{
    fflush(stdout);
    bool due = aiq_ring_publish(&l.ring);

    due |= aiq_ring_release(&l.ring);
    if (due) {
        wake();
    }
}

static void put(uint8_t type, uint8_t flags, uint32_t slot, const void *data, size_t len)
{
    void *to = aiq_ring_push(&l.ring, type, flags, slot, l.generation[slot], (uint32_t)len);

    assert(to != NULL);
    if (len) {
        memcpy(to, data, len);
    }
}

/* fields: pairs of id and text, ended by id 0. */
typedef struct {
    uint16_t id;
    const char *text;
} field;

static size_t add_fields(uint8_t *p, const field *fields)
{
    uint8_t *start = p;

    for (; fields && fields->id; fields++) {
        p = aiq_field_put(p, fields->id, fields->text, (uint16_t)strlen(fields->text));
    }
    return (size_t)(p - start);
}

static void head(uint32_t slot, unsigned status, unsigned flags, int64_t length,
                 const field *fields)
{
    aiq_head h = {
        .status = (uint16_t)status, .flags = (uint16_t)flags, .content_length = length};
    uint8_t payload[AIQ_HEAD_MAX];

    memcpy(payload, &h, sizeof(h));
    put(AIQ_FRAME_HEAD, 0, slot, payload, sizeof(h) + add_fields(payload + sizeof(h), fields));
}

static void error(uint32_t slot, unsigned status, unsigned retry_after, const field *fields)
{
    aiq_failure f = {.status = (uint16_t)status, .retry_after = retry_after};
    uint8_t payload[AIQ_ERROR_MAX];

    memcpy(payload, &f, sizeof(f));
    put(AIQ_FRAME_ERROR, 0, slot, payload, sizeof(f) + add_fields(payload + sizeof(f), fields));
}

static void data(uint32_t slot, const char *text, uint8_t flags)
{
    put(AIQ_FRAME_DATA, flags, slot, text, strlen(text));
}

static void end(uint32_t slot)
{
    put(AIQ_FRAME_END, 0, slot, NULL, 0);
}

static void reply(uint32_t slot, const char *text)
{
    const field plain[] = {{AIQ_FIELD_CONTENT_TYPE, "text/plain"}, {0, NULL}};

    head(slot, 200, 0, (int64_t)strlen(text), plain);
    data(slot, text, 0);
    end(slot);
}

static void die(void)
{
    publish();
    _exit(0);
}

static const field events[] = {{AIQ_FIELD_CONTENT_TYPE, "text/event-stream"},
                               {AIQ_FIELD_MODEL, "demo"},
                               {AIQ_FIELD_PROVIDER, "local"},
                               {0, NULL}};

/* How the request's path wants to be answered, once it is whole. */
static void answer(uint32_t slot)
{
    const char *path = l.path[slot];
    const uint32_t u32 = 1;
    char big[32768];

    memset(big, 'x', sizeof(big));
#define IS(name) (strstr(path, "/" name) != NULL)
    if (IS("silent")) {
        return;
    } else if (IS("stream")) {
        head(slot, 200, AIQ_HEAD_STREAM, -1, events);
        if (IS("stream_late")) {
            publish();
            return;
        }
        data(slot, "data: one\n\n", AIQ_DATA_FLUSH);
        if (IS("stream_half")) {
            data(slot, "data: tw", 0);
        } else if (IS("stream_error")) {
            error(slot, 502, 0,
                  (const field[]){{AIQ_FIELD_CODE, "provider_lost"},
                                  {AIQ_FIELD_MESSAGE, "The provider is gone."},
                                  {0, NULL}});
        } else if (!IS("stream_hang")) {
            const aiq_usage usage = {7, 11, 1234567, -1};
            data(slot, "data: two\n\n", AIQ_DATA_FLUSH);
            put(AIQ_FRAME_USAGE, 0, slot, &usage, sizeof(usage));
            end(slot);
        }
    } else if (IS("part_hang")) {
        head(slot, 200, 0, 10, NULL);
        data(slot, "01234", AIQ_DATA_FLUSH);
    } else if (IS("head_die")) {
        head(slot, 200, 0, 10, NULL);
        die();
    } else if (IS("die")) {
        die();
    } else if (IS("short")) {
        head(slot, 200, 0, 10, NULL);
        data(slot, "01234", AIQ_DATA_FLUSH);
        end(slot);
    } else if (IS("long")) {
        head(slot, 200, 0, 3, NULL);
        data(slot, "01234", 0);
        end(slot);
    } else if (IS("error")) {
        error(slot, 429, 7,
              (const field[]){{AIQ_FIELD_CODE, "budget_spent"},
                              {AIQ_FIELD_MESSAGE, "No \"more\" tokens."},
                              {AIQ_FIELD_PARAM, "model"},
                              {0, NULL}});
    } else if (IS("headers")) {
        head(slot, 201, 0, 2,
             (const field[]){{AIQ_FIELD_CONTENT_TYPE, "application/json; charset=utf-8"},
                             {AIQ_FIELD_HEADER, "x-should-retry: false"},
                             {AIQ_FIELD_HEADER, "connection: upgrade"},
                             {AIQ_FIELD_HEADER, "transfer-encoding: chunked"},
                             {AIQ_FIELD_HEADER, "content-length: 7"},
                             {AIQ_FIELD_HEADER, "Upper: no"},
                             {AIQ_FIELD_HEADER, "no colon"},
                             {AIQ_FIELD_HEADER, ": no name"},
                             {AIQ_FIELD_HEADER, "x-empty:"},
                             {999, "unknown"},
                             {0, NULL}});
        data(slot, "ok", 0);
        end(slot);
    } else if (IS("over_credit")) {
        head(slot, 200, 0, -1, NULL);
        data(slot, "begin", AIQ_DATA_FLUSH);
        put(AIQ_FRAME_DATA, 0, slot, big, sizeof(big));
    } else if (IS("all_credit")) {
        head(slot, 200, 0, (int64_t)(AIQ_WINDOW - sizeof(aiq_head)), NULL);
        put(AIQ_FRAME_DATA, 0, slot, big, AIQ_WINDOW - sizeof(aiq_head));
        end(slot);
    } else if (IS("unknown_slot")) {
        put(AIQ_FRAME_END, 0, AIQ_SLOTS - 1, NULL, 0);
    } else if (IS("stale")) {
        l.generation[slot]--;
        head(slot, 200, 0, -1, NULL);
        l.generation[slot]++;
        reply(slot, "right");
    } else if (IS("upgrade")) {
        head(slot, 101, 0, -1, NULL);
    } else if (IS("message")) {
        head(slot, 200, 0, -1, NULL);
        put(AIQ_FRAME_MESSAGE, AIQ_MESSAGE_TEXT | AIQ_MESSAGE_FIN, slot, "x", 1);
    } else if (IS("ws_ping") || IS("ws_more") || IS("ws_bit")) {
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_MESSAGE,
            IS("ws_ping")   ? 0x89
            : IS("ws_more") ? 0x80
                            : 0xc1,
            slot, "x", 1);
    } else if (IS("ws_within")) {
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_MESSAGE, AIQ_MESSAGE_TEXT, slot, "x", 1);
        put(AIQ_FRAME_MESSAGE, AIQ_MESSAGE_TEXT, slot, "y", 1);
    } else if (IS("ws_tokens")) {
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_TOKEN, 0, slot, "x", 1);
        put(AIQ_FRAME_TOKEN, 0, slot, "y", 1);
    } else if (IS("ws_no_token")) {
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_TOKEN, 0, slot, "", 0);
    } else if (IS("token")) {
        put(AIQ_FRAME_TOKEN, 0, slot, "x", 1);
    } else if (IS("ws_data")) {
        head(slot, 101, 0, -1, NULL);
        data(slot, "x", 0);
    } else if (IS("ws_credit")) {
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_MESSAGE, AIQ_MESSAGE_BINARY, slot, big,
            AIQ_WINDOW - sizeof(aiq_head) - 15);
    } else if (IS("ws_end")) {
        head(slot, 101, 0, -1, NULL);
        end(slot);
    } else if (IS("ws_close") || IS("ws_text")) {
        static const char odd[] = "\x63\x00why", text[] = "\xe9\x03\xff";
        head(slot, 101, 0, -1, NULL);
        put(AIQ_FRAME_END, 0, slot, IS("ws_close") ? odd : text, IS("ws_close") ? 5 : 3);
    } else if (IS("head_twice")) {
        head(slot, 200, 0, -1, NULL);
        head(slot, 200, 0, -1, NULL);
    } else if (IS("data_first")) {
        data(slot, "x", 0);
    } else if (IS("end_first")) {
        end(slot);
    } else if (IS("unknown_frame")) {
        put(77, 0, slot, NULL, 0);
    } else if (IS("big_credit")) {
        const uint32_t much = UINT32_MAX;
        put(AIQ_FRAME_CREDIT, 0, slot, &much, sizeof(much));
    } else if (IS("odd_credit")) {
        put(AIQ_FRAME_CREDIT, 0, slot, &u32, 3);
    } else if (IS("status")) {
        head(slot, 99, 0, -1, NULL);
    } else if (IS("line_end")) {
        head(slot, 200, 0, -1,
             (const field[]){{AIQ_FIELD_HEADER, "x-a: b\r\nset-cookie: c"}, {0, NULL}});
    } else if (IS("field")) {
        const aiq_head h = {.status = 200, .content_length = -1};
        uint8_t payload[sizeof(h) + 4];
        memcpy(payload, &h, sizeof(h));
        memcpy(payload + sizeof(h), "\x07\x00\xff\xff", 4);
        put(AIQ_FRAME_HEAD, 0, slot, payload, sizeof(payload));
    } else if (IS("indices")) {
        l.ring.tail += 2 * AIQ_RING_SIZE;
    } else if (IS("frame_len")) {
        reply(slot, "x");
        uint32_t *len = (uint32_t *)(l.ring.tx + (l.ring.published & (AIQ_RING_SIZE - 1)));
        *len = 0x7fffffff;
    } else if (IS("verdict")) {
        const aiq_verdict v = {.status = 401};
        put(AIQ_FRAME_VERDICT, 0, slot, &v, sizeof(v));
    } else if (IS("bad_epoch")) {
        const uint32_t epoch = AIQ_NOTICE_EPOCH;
        put(AIQ_FRAME_NOTICE, 0, slot, &epoch, sizeof(epoch));
    } else if (IS("bad_notice")) {
        put(AIQ_FRAME_NOTICE, 0, slot, &u32, 2);
    } else if (IS("unknown_notice")) {
        const uint32_t much = 4711;
        put(AIQ_FRAME_NOTICE, 0, slot, &much, sizeof(much));
        reply(slot, "fine");
    } else {
        reply(slot, "ok\n");
    }
    publish();
}

/* API keys. */

/* The line of SOCKET.keys that begins with this word, without it. */
static bool look_up(const char *word, char rest[512])
{
    FILE *f = fopen(l.keys, "r");
    char line[512];
    size_t n = strlen(word);
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        found = strncmp(line, word, n) == 0 && line[n] == ' ';
        if (found) {
            strcpy(rest, line + n + 1);
        }
    }
    if (f) {
        fclose(f);
    }
    return found;
}

static void verdict(uint32_t slot, unsigned status, uint32_t epoch, int64_t expires,
                    const field *fields)
{
    const aiq_verdict v = {.status = (uint16_t)status, .epoch = epoch, .expires_ms = expires};
    uint8_t payload[AIQ_CHECK_MAX];

    memcpy(payload, &v, sizeof(v));
    put(AIQ_FRAME_VERDICT, 0, slot, payload,
        sizeof(v) + add_fields(payload + sizeof(v), fields));
}

static void verdict_wrong(uint32_t slot, const char *how)
{
    const uint8_t outside[sizeof(aiq_verdict) + 4] = {[0] = 200, [16] = 16, [18] = 255};
    char longer[AIQ_IDENTITY_MAX + 2];

    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
#define HOW(name) (strcmp(how, name) == 0)
    if (HOW("die")) {
        die();
    } else if (HOW("short")) {
        put(AIQ_FRAME_VERDICT, 0, slot, outside, sizeof(aiq_verdict) - 1);
    } else if (HOW("outside")) {
        put(AIQ_FRAME_VERDICT, 0, slot, outside, sizeof(outside));
    } else if (HOW("head")) {
        head(slot, 200, 0, -1, NULL);
    } else if (HOW("status")) {
        verdict(slot, 204, l.epoch, -1, NULL);
    } else if (HOW("nobody")) {
        verdict(slot, 200, l.epoch, -1, (const field[]){{AIQ_FIELD_TENANT, "t"}, {0, NULL}});
    } else if (HOW("line_end")) {
        verdict(slot, 200, l.epoch, -1, (const field[]){{AIQ_FIELD_TENANT, "a\nb"}, {0, NULL}});
    } else if (HOW("long")) {
        verdict(slot, 200, l.epoch, -1, (const field[]){{AIQ_FIELD_TENANT, longer}, {0, NULL}});
    } else if (HOW("odd_rate")) {
        verdict(slot, 200, l.epoch, -1,
                (const field[]){{AIQ_FIELD_KEY_RATE, "odd"}, {0, NULL}});
    } else if (HOW("high_rate")) {
        verdict(slot, 200, l.epoch, -1,
                (const field[]){{AIQ_FIELD_KEY_RATE, "high"}, {0, NULL}});
    }
}

/* Answers, or not yet. */
static void judge(uint32_t slot)
{
    held_check *c = &l.check[slot];
    char hex[65], rest[512], tenant[64], user[64], role[64], id[64];
    unsigned status = 401;
    long long expires = -1;

    for (int i = 0; i < 32; i++) {
        sprintf(hex + 2 * i, "%02x", c->hash[i]);
    }
    bool known = look_up(hex, rest);
    if (known && strcmp(rest, "hold") == 0) {
        return;
    }
    c->held = false;
    int n = known ? sscanf(rest, "%u %lld %63s %63s %63s %63s", &status, &expires, tenant, user,
                           role, id)
                  : 1;
    if (n == 0) {
        verdict_wrong(slot, rest);
        return;
    }
    if (n < 6) {
        verdict(slot, status, c->epoch, -1, NULL);
        return;
    }
    verdict(slot, status, c->epoch, expires,
            (const field[]){{AIQ_FIELD_TENANT, tenant},
                            {AIQ_FIELD_USER, user},
                            {AIQ_FIELD_ROLE, role},
                            {AIQ_FIELD_KEY_ID, id},
                            {0, NULL}});
}

static void check_came(uint32_t slot, const uint8_t *payload, uint32_t len)
{
    aiq_fields fields = {payload, payload + len};
    const uint8_t *data;
    uint16_t id, n;

    assert(aiq_field_next(&fields, &id, &data, &n) == 1);
    assert(id == AIQ_FIELD_KEY_HASH && n == 32 && fields.pos == fields.end);
    l.check[slot].held = true;
    l.check[slot].epoch = l.epoch;
    memcpy(l.check[slot].hash, data, 32);
    printf("CHECK ");
    for (int i = 0; i < 32; i++) {
        printf("%02x", data[i]);
    }
    printf("\n");
    judge(slot);
}

/* What the file says now. */
static void keys_changed(void)
{
    char rest[512];
    uint32_t words[] = {AIQ_NOTICE_EPOCH, 0};

    if (look_up("epoch", rest)) {
        words[1] = (uint32_t)strtoul(rest, NULL, 10);
        void *to = aiq_ring_push(&l.ring, AIQ_FRAME_NOTICE, 0, 0, 0, sizeof(words));
        assert(to != NULL);
        memcpy(to, words, sizeof(words));
    }
    if (words[1] != l.epoch) {
        l.epoch = words[1];
        printf("EPOCH %u\n", l.epoch);
    }
    for (uint32_t i = 0; i < AIQ_SLOTS; i++) {
        if (l.check[i].held) {
            judge(i);
        }
    }
}

/* The worker's. */

static const char *name_of(uint16_t id)
{
    static const char *const names[] = {
        [AIQ_FIELD_URI] = "uri",
        [AIQ_FIELD_ARGS] = "args",
        [AIQ_FIELD_METHOD] = "method",
        [AIQ_FIELD_REQUEST_ID] = "request_id",
        [AIQ_FIELD_TRACEPARENT] = "traceparent",
        [AIQ_FIELD_TRACESTATE] = "tracestate",
        [AIQ_FIELD_REMOTE_ADDR] = "remote_addr",
        [AIQ_FIELD_CONTENT_TYPE] = "content_type",
        [AIQ_FIELD_ACCEPT] = "accept",
        [AIQ_FIELD_TENANT] = "tenant",
        [AIQ_FIELD_USER] = "user",
        [AIQ_FIELD_ROLE] = "role",
        [AIQ_FIELD_KEY_ID] = "key_id",
        [AIQ_FIELD_CONDITIONS] = "conditions",
        [AIQ_FIELD_HASHES] = "hashes",
        [AIQ_FIELD_HEADER] = "header",
        [AIQ_FIELD_RATE_KEYS] = "rate_keys",
    };

    assert(id < sizeof(names) / sizeof(names[0]) && names[id]);
    return names[id];
}

/* Conditions, hashes and keys are bytes: they are shown in hexadecimal. */
static void show_field(uint16_t id, const uint8_t *text, uint16_t n)
{
    if (id != AIQ_FIELD_CONDITIONS && id != AIQ_FIELD_HASHES && id != AIQ_FIELD_RATE_KEYS) {
        printf("  %s=%.*s\n", name_of(id), (int)n, text);
        return;
    }
    printf("  %s=", name_of(id));
    for (uint16_t i = 0; i < n; i++) {
        printf("%02x", text[i]);
    }
    printf("\n");
}

static void opened(uint32_t slot, const uint8_t *payload, uint32_t len)
{
    aiq_fields fields = {payload + sizeof(aiq_open), payload + len};
    const uint8_t *text;
    uint16_t id, n;
    aiq_open o;

    memcpy(&o, payload, sizeof(o));
    printf("OPEN location=%u method=%u secure=%u body=%lld\n", o.location, o.method, o.secure,
           (long long)o.body_length);
    while (aiq_field_next(&fields, &id, &text, &n) == 1) {
        show_field(id, text, n);
        if (id == AIQ_FIELD_URI) {
            snprintf(l.path[slot], sizeof(l.path[slot]), "%.*s", (int)n, text);
        }
    }
    l.credit[slot] = AIQ_WINDOW;
    l.body[slot] = 0;
    if (o.body_length == 0) {
        answer(slot);
    }
}

static void say(uint32_t slot, unsigned status, uint32_t wait_ms, const void *rates,
                uint16_t len)
{
    const aiq_answer a = {.status = (uint16_t)status, .wait_ms = wait_ms};
    uint8_t payload[AIQ_CHECK_MAX];

    memcpy(payload, &a, sizeof(a));
    uint8_t *end = payload + sizeof(a);
    if (rates) {
        end = aiq_field_put(end, AIQ_FIELD_RATES, rates, len);
    }
    put(AIQ_FRAME_ANSWER, 0, slot, payload, (size_t)(end - payload));
}

/* How the request's id wants its question to be answered. */
static void told(uint32_t slot, const char *how)
{
    const aiq_rate fine = {.remaining = 7, .reset_ms = 60000};
    const aiq_rate refuses = {.reset_ms = 60000, .wait_ms = 2500, .refused = 1};
    const aiq_rate waits = {.reset_ms = 60000, .wait_ms = 200};
    const aiq_rate odd = {.refused = 2}, late = {.wait_ms = AIQ_WAIT_MAX_MS + 1};
    const aiq_rate many[AIQ_RATES_MAX + 1] = {{0}};
    const uint8_t outside[sizeof(aiq_answer) + 4] = {[0] = 200, [8] = 26, [10] = 255};

    if (HOW("die")) {
        die();
    } else if (HOW("fine")) {
        say(slot, 200, 0, &fine, sizeof(fine));
    } else if (HOW("refuses")) {
        say(slot, 429, 0, &refuses, sizeof(refuses));
    } else if (HOW("waits")) {
        say(slot, 200, 200, &waits, sizeof(waits));
    } else if (HOW("cannot")) {
        say(slot, 503, 0, NULL, 0);
    } else if (HOW("nothing")) {
        say(slot, 200, 0, NULL, 0);
    } else if (HOW("short")) {
        put(AIQ_FRAME_ANSWER, 0, slot, outside, sizeof(aiq_answer) - 1);
    } else if (HOW("outside")) {
        put(AIQ_FRAME_ANSWER, 0, slot, outside, sizeof(outside));
    } else if (HOW("verdict")) {
        verdict(slot, 401, l.epoch, -1, NULL);
    } else if (HOW("status")) {
        say(slot, 204, 0, NULL, 0);
    } else if (HOW("time")) {
        say(slot, 200, AIQ_WAIT_MAX_MS + 1, NULL, 0);
    } else if (HOW("half")) {
        say(slot, 200, 0, &fine, sizeof(fine) / 2);
    } else if (HOW("many")) {
        say(slot, 200, 0, many, sizeof(many));
    } else if (HOW("odd")) {
        say(slot, 200, 0, &odd, sizeof(odd));
    } else if (HOW("late")) {
        say(slot, 200, 0, &late, sizeof(late));
    }
}

static void asked(uint32_t slot, const uint8_t *payload, uint32_t len)
{
    aiq_fields fields = {payload + sizeof(aiq_ask), payload + len};
    char how[65] = "";
    const uint8_t *text;
    uint16_t id, n;
    aiq_ask a;

    memcpy(&a, payload, sizeof(a));
    printf("ASK location=%u\n", a.location);
    while (aiq_field_next(&fields, &id, &text, &n) == 1) {
        show_field(id, text, n);
        if (id == AIQ_FIELD_REQUEST_ID) {
            snprintf(how, sizeof(how), "%.*s", (int)n, text);
        }
    }
    told(slot, how);
}

static void frame_came(const aiq_frame *f, const uint8_t *payload)
{
    uint32_t n;

    if (f->type == AIQ_FRAME_OPEN) {
        l.generation[f->slot] = f->generation;
        opened(f->slot, payload, f->len);
        return;
    }
    if (f->type == AIQ_FRAME_CHECK) {
        l.generation[f->slot] = f->generation;
        snprintf(l.path[f->slot], sizeof(l.path[f->slot]), "check");
        check_came(f->slot, payload, f->len);
        return;
    }
    if (f->type == AIQ_FRAME_ASK) {
        l.generation[f->slot] = f->generation;
        snprintf(l.path[f->slot], sizeof(l.path[f->slot]), "ask");
        asked(f->slot, payload, f->len);
        return;
    }
    if (l.generation[f->slot] != f->generation) {
        return;
    }
    switch (f->type) {
    case AIQ_FRAME_BODY:
        l.body[f->slot] += f->len;
        n = f->len;
        if (strstr(l.path[f->slot], "/no_credit") == NULL) {
            put(AIQ_FRAME_CREDIT, 0, f->slot, &n, sizeof(n));
        }
        break;
    case AIQ_FRAME_END:
        printf("END %s body=%llu\n", l.path[f->slot], (unsigned long long)l.body[f->slot]);
        answer(f->slot);
        break;
    case AIQ_FRAME_CANCEL:
        printf("CANCEL %s\n", l.path[f->slot]);
        l.check[f->slot].held = false;
        break;
    case AIQ_FRAME_CREDIT:
        memcpy(&n, payload, sizeof(n));
        printf("CREDIT %s %u\n", l.path[f->slot], n);
        break;
    }
}

static void serve(void)
{
    struct pollfd p = {.fd = l.fd, .events = POLLIN};
    const uint8_t *payload;
    aiq_frame f;
    char bytes[64];

    memset(l.check, 0, sizeof(l.check));
    l.epoch = 0;
    for (;;) {
        keys_changed();
        while (aiq_ring_next(&l.ring, &f, &payload) == 1) {
            frame_came(&f, payload);
        }
        assert(!l.ring.broken);
        publish();
        if (!aiq_ring_arm(&l.ring)) {
            continue;
        }
        poll(&p, 1, 50);
        ssize_t n = recv(l.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            return;
        }
    }
}

/* The handshake. */

static bool hello(aiq_hello *h, int *memfd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {h, sizeof(*h)};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};

    if (recvmsg(l.fd, &m, 0) != (ssize_t)sizeof(*h) || CMSG_FIRSTHDR(&m) == NULL) {
        return false;
    }
    memcpy(memfd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
    return true;
}

static void welcome(const aiq_welcome *w, size_t len, int memfd, size_t n_fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)w, len};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    int fds[2] = {memfd, memfd};

    if (n_fds) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    sendmsg(l.fd, &m, MSG_NOSIGNAL);
}

static bool shake_hands(const char *how)
{
    aiq_welcome w = {AIQ_LINK_MAGIC, AIQ_LINK_ABI, AIQ_RING_SIZE, AIQ_WELCOME_OK, 1, ""};
    uint32_t size = HOW("wrong_size") ? 8192 : AIQ_MAP_SIZE;
    aiq_hello h;
    int theirs;

    if (!hello(&h, &theirs)) {
        return false;
    }
    printf("HELLO abi=%u\n", h.abi);
    fflush(stdout);
    int own = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert(own >= 0 && ftruncate(own, size) == 0);
    if (!HOW("unsealed")) {
        fcntl(own, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    }
    if (HOW("silent")) {
        pause();
    } else if (HOW("abi")) {
        w.abi = AIQ_LINK_ABI + 41;
        welcome(&w, 32, -1, 0);
    } else if (HOW("magic")) {
        w.magic = 0x12345678;
        welcome(&w, sizeof(w), own, 1);
    } else if (HOW("short")) {
        welcome(&w, 20, own, 1);
    } else if (HOW("no_fd")) {
        welcome(&w, sizeof(w), -1, 0);
    } else if (HOW("two_fds")) {
        welcome(&w, sizeof(w), own, 2);
    } else if (HOW("refused")) {
        w.status = AIQ_WELCOME_REFUSED;
        strcpy(w.text, "go \033[31maway");
        welcome(&w, sizeof(w), -1, 0);
    } else if (!HOW("close")) {
        if (HOW("dies")) {
            pause();
        }
        welcome(&w, sizeof(w), own, 1);
        if (HOW("dies")) {
            exit(0);
        }
        if (HOW("ok") || HOW("deaf")) {
            void *peer = mmap(NULL, AIQ_MAP_SIZE, PROT_READ, MAP_SHARED, theirs, 0);
            void *mine = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
            assert(peer != MAP_FAILED && mine != MAP_FAILED);
            aiq_ring_init(&l.ring, mine, peer);
            if (HOW("deaf")) {
                pause();
            }
            return true;
        }
    }
    close(own);
    return false;
}

static void on_signal(int signal)
{
    (void)signal;
}

int main(int argc, char **argv)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    assert(argc >= 2);
    signal(SIGUSR1, on_signal);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", argv[1]);
    char keys[sizeof(a.sun_path) + 8];
    snprintf(keys, sizeof(keys), "%s.keys", a.sun_path);
    l.keys = keys;
    unlink(a.sun_path);
    assert(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0);
    assert(chmod(a.sun_path, 0666) == 0 && listen(listener, 16) == 0);
    while ((l.fd = accept(listener, NULL, NULL)) >= 0) {
        if (shake_hands(argc > 2 ? argv[2] : "ok")) {
            serve();
        }
        close(l.fd);
    }
    return 0;
}
