/*
 * A service table of the test's own, with one service that notes what happens and does what
 * the test has asked for, behind a link without sockets (link_ends.h).
 */

#ifndef LINK_PROBE_H
#define LINK_PROBE_H

#include "link_ends.h"
#include "services/service.h"

typedef struct {
    char events[256]; /* o open, b body, e end, w writable, c cancel */
    aiq_job *job;
    uint8_t body[200000];
    size_t n_body;
    void (*on_open)(aiq_job *job);
    void (*on_body)(aiq_job *job, const uint8_t *data, size_t n);
    void (*on_end)(aiq_job *job);
    void (*on_writable)(aiq_job *job);
    void (*on_cancel)(aiq_job *job);
} probe;

static probe p;

static inline void note(aiq_job *job, const char *what)
{
    strcat(p.events, what);
    p.job = job;
}

static inline void probe_open(aiq_job *job)
{
    note(job, "o");
    if (p.on_open) {
        p.on_open(job);
    }
}

static inline void probe_body(aiq_job *job, const uint8_t *data, size_t n)
{
    note(job, "b");
    if (p.n_body + n <= sizeof(p.body)) {
        memcpy(p.body + p.n_body, data, n);
    }
    p.n_body += n;
    if (p.on_body) {
        p.on_body(job, data, n);
    }
}

static inline void probe_end(aiq_job *job)
{
    note(job, "e");
    if (p.on_end) {
        p.on_end(job);
    }
}

static inline void probe_writable(aiq_job *job)
{
    note(job, "w");
    if (p.on_writable) {
        p.on_writable(job);
    }
}

static inline void probe_cancel(aiq_job *job)
{
    note(job, "c");
    if (p.on_cancel) {
        p.on_cancel(job);
    }
}

static inline void probe_release(aiq_job *job)
{
    note(job, "r");
}

static const job_handler charge = {
    .end = probe_end, .release = probe_release, .cancel = probe_cancel};
static const job_handler handler = {probe_open, probe_body, probe_end, probe_writable,
                                    probe_cancel};
static const job_handler sink = {.end = probe_end};
static const aiq_route routes[] = {{AIQ_METHOD_POST, "/probe", PERMIT_NONE, &handler, "Probe"},
                                   {AIQ_METHOD_GET, "/probe", PERMIT_NONE, &handler, "Probe"},
                                   {AIQ_METHOD_POST, "/sink", PERMIT_NONE, &sink, "Sink"},
                                   {AIQ_METHOD_GET, "/charge", PERMIT_NONE, &charge, "Due"}};
static const aiq_service service = {.name = "probe", .routes = routes, .n_routes = 4};
const aiq_service *const aiq_services[] = {&service, NULL};

/* The two ends. */

static const char probe_policy[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],\"locations\":["
    "{\"service\":\"probe\",\"max_body\":0},{\"service\":\"nothing\",\"max_body\":0},"
    "{\"service\":\"probe\",\"max_body\":10},"
    "{\"service\":\"probe\",\"max_body\":0,\"limits\":["
    "{\"zone\":\"z\",\"tokens\":9,\"window_ms\":1000,\"keys\":9}]},"
    "{\"service\":\"limits\",\"max_body\":0,\"rates\":["
    "{\"zone\":\"z\",\"requests\":1,\"window_ms\":1000,\"grain_ms\":1,\"burst\":0,"
    "\"dry_run\":false}]}]}";

#define SHARED 4 /* the last location */

static inline int setup(void **state)
{
    memset(&p, 0, sizeof(p));
    *state = ends_new();
    ends_open(*state, probe_policy);
    return 0;
}

static inline int teardown(void **state)
{
    ends_close(*state);
    ends_free(*state);
    return 0;
}

static inline void push_open(ends *e, uint32_t slot, uint32_t generation, const aiq_open *open,
                             const char *uri)
{
    uint8_t payload[256], *end = payload + sizeof(*open);

    memcpy(payload, open, sizeof(*open));
    end = aiq_field_put(end, AIQ_FIELD_URI, uri, (uint16_t)strlen(uri));
    end = aiq_field_put(end, AIQ_FIELD_REQUEST_ID, "req_1", 5);
    end = aiq_field_put(end, AIQ_FIELD_TENANT, "acme", 4);
    end = aiq_field_put(end, 999, "unknown", 7);
    end = aiq_field_put(end, AIQ_FIELD_HEADER, "x-aiq-a: 1 2", 12);
    end = aiq_field_put(end, AIQ_FIELD_CONDITIONS, &(uint64_t){5}, sizeof(uint64_t));
    end = aiq_field_put(end, AIQ_FIELD_HASHES, (uint32_t[]){8, 9}, 2 * sizeof(uint32_t));
    push(e, AIQ_FRAME_OPEN, slot, generation, payload, (size_t)(end - payload));
}

/* A request for slot 1, generation 1, at /probe. */
static inline void push_request(ends *e, int64_t length)
{
    const aiq_open open = {.method = length ? AIQ_METHOD_POST : AIQ_METHOD_GET,
                           .body_length = length};

    push_open(e, 1, 1, &open, "/probe");
}

static inline void expect_failure(ends *e, uint32_t slot, unsigned status, const char *code)
{
    aiq_frame frame;
    aiq_failure failure;
    const uint8_t *payload = expect(e, AIQ_FRAME_ERROR, slot, &frame), *data;
    aiq_fields fields = {payload + sizeof(failure), payload + frame.len};
    uint16_t id, len;

    memcpy(&failure, payload, sizeof(failure));
    assert_int_equal(failure.status, status);
    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        if (id == AIQ_FIELD_CODE) {
            assert_int_equal(len, strlen(code));
            assert_memory_equal(data, code, len);
            return;
        }
    }
    fail();
}

static inline void answer(aiq_job *job)
{
    job_reply_all(job, 200, "text/plain", "hello", 5);
}

/* A question about rates; key: the length of its keys. */
static inline void push_ask(ends *e, uint32_t slot, uint32_t location, uint16_t key)
{
    static const uint8_t keys[AIQ_LIMIT_KEY + 1] = "key";
    const aiq_ask ask = {.location = location};
    uint8_t payload[128], *end = payload + sizeof(ask);

    memcpy(payload, &ask, sizeof(ask));
    end = aiq_field_put(end, AIQ_FIELD_REQUEST_ID, "req-1", 5);
    end = aiq_field_put(end, AIQ_FIELD_RATE_KEYS, keys, key);
    push(e, AIQ_FRAME_ASK, slot, 1, payload, (size_t)(end - payload));
}

/* A reply of 4 KB, as credit and the ring allow. */
static inline void write_window(aiq_job *job)
{
    static uint8_t text[AIQ_WINDOW];
    size_t *sent = job->state;

    if (sent == NULL) {
        job_head(job, &(job_reply){.status = 200, .content_length = -1});
        job->state = sent = aiq_pool_zalloc(job->pool, sizeof(*sent));
    }
    *sent += job_write(job, text, 4096 - *sent, false);
    if (*sent == 4096) {
        job_end(job);
    }
}

#endif
