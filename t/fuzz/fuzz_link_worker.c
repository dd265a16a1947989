/*
 * An engine that writes what it likes into its memory: the worker's frame
 * reader, and the accounts of credit behind it. The ring lies against a page
 * that nobody may touch, so a read beyond its end is seen.
 *
 *     u16     how far before the ring's end the first frame lies, in 16 bytes
 *     u32     bytes that the tail claims beyond what was written (mostly 0)
 *     turns:  u16 length; bytes, written to the ring, then read by the worker
 */

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

/* the module's objects belong to nginx's build, so this one is made here */
#include "ngx_aiq_module/ngx_http_aiq_frames.c" /* NOLINT(bugprone-suspicious-include) */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GUARD 4096
#define SLOTS 9 /* the last one free, the ones before it open for a CHECK and an ASK */
#define CHECK (SLOTS - 3)
#define ASK   (SLOTS - 2)

/* Memory with a guard behind it. */
static uint8_t *guarded(void)
{
    uint8_t *map = mmap(NULL, AIQ_MAP_SIZE + GUARD, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert(map != MAP_FAILED);
    mprotect(map + AIQ_MAP_SIZE, GUARD, PROT_NONE);
    return map;
}

static void check_invariants(const ngx_http_aiq_frames_t *f)
{
    uint64_t promised = 0;

    for (uint32_t i = 0; i < f->nslots; i++) {
        assert(f->slots[i].allowed <= f->slots[i].credit.promised);
        promised += f->slots[i].credit.promised;
    }
    assert(promised == f->promised);
}

/* As aiq_text_clean() says it, which looks at eight at once. */
static bool is_clean(aiq_text text)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}

/* Returns the status; 0: the link would be closed. */
static unsigned read_head(const uint8_t *data, size_t len)
{
    ngx_http_aiq_head_t head;
    aiq_text name, value;

    if (ngx_http_aiq_frames_head(data, len, &head) != NULL) {
        return 0;
    }
    assert(head.status == 101 || (head.status >= 200 && head.status <= 599));
    while (ngx_http_aiq_frames_header(&head.headers, &name, &value)) {
        assert(name.len > 0);
        assert(is_clean(name));
        assert(is_clean(value));
    }
    return head.status;
}

static void read_error(const uint8_t *data, size_t len)
{
    char body[AIQ_ERROR_BODY_MAX];
    aiq_error_info e;
    uint32_t retry_after;
    aiq_fields headers;
    aiq_text name, value;

    if (ngx_http_aiq_frames_error(data, len, &e, &retry_after, &headers) == NULL) {
        assert(e.code.len > 0 && e.code.len <= 64);
        for (int dialect = AIQ_DIALECT_OWN; dialect <= AIQ_DIALECT_ANTHROPIC; dialect++) {
            aiq_error_render(body, (aiq_dialect)dialect, &e);
        }
        while (ngx_http_aiq_frames_header(&headers, &name, &value)) {
            assert(is_clean(value));
        }
    }
}

static void read_verdict(const uint8_t *data, size_t len)
{
    ngx_http_aiq_verdict_t v;

    if (ngx_http_aiq_frames_verdict(data, len, &v) != NULL) {
        return;
    }
    const aiq_text *const texts[] = {&v.tenant, &v.user, &v.role, &v.key_id};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert(texts[i]->len <= AIQ_IDENTITY_MAX);
        assert(is_clean(*texts[i]));
    }
    assert(v.status != 200 || (v.tenant.len && v.role.len && v.key_id.len));
}

static void read_answer(const uint8_t *data, size_t len)
{
    ngx_http_aiq_answer_t a;

    if (ngx_http_aiq_frames_answer(data, len, &a) != NULL) {
        return;
    }
    assert(a.wait <= AIQ_WAIT_MAX_MS && a.nrates <= AIQ_RATES_MAX);
    for (uint32_t i = 0; i < a.nrates; i++) {
        assert(a.rates[i].wait_ms <= AIQ_WAIT_MAX_MS);
    }
}

/* What a worker does with an event, at its worst: it takes and grants at once. */
static void handle(ngx_http_aiq_frames_t *f, const ngx_http_aiq_event_t *ev)
{
    uint8_t *copy;

    if (ev->type == AIQ_FRAME_NOTICE) {
        return;
    }
    assert(ev->slot < SLOTS && ev->job != NULL);
    assert((ev->type == AIQ_FRAME_VERDICT) == (ev->slot == CHECK));
    assert((ev->type == AIQ_FRAME_ANSWER) == (ev->slot == ASK));
    switch (ev->type) {
    case AIQ_FRAME_HEAD:
    case AIQ_FRAME_DATA:
    case AIQ_FRAME_ERROR:
    case AIQ_FRAME_VERDICT:
    case AIQ_FRAME_ANSWER:
        copy = malloc(ev->len); /* exactly: a read beyond it is seen */
        memcpy(copy, ev->data, ev->len);
        if (ev->type == AIQ_FRAME_HEAD) {
            if (read_head(copy, ev->len) == 101) {
                ngx_http_aiq_frames_upgrade(f, ev->slot);
            }
        } else if (ev->type == AIQ_FRAME_ERROR) {
            read_error(copy, ev->len);
        } else if (ev->type == AIQ_FRAME_VERDICT) {
            read_verdict(copy, ev->len);
        } else if (ev->type == AIQ_FRAME_ANSWER) {
            read_answer(copy, ev->len);
        }
        free(copy);
        break;
    }
    if (ev->type == AIQ_FRAME_HEAD || ev->type == AIQ_FRAME_DATA) {
        ngx_http_aiq_frames_consumed(f, ev->slot, ev->len);
        ngx_http_aiq_frames_grant(f, ev->slot);
    }
    if (ev->type == AIQ_FRAME_MESSAGE) {
        assert(f->slots[ev->slot].websocket);
        ngx_http_aiq_frames_consumed(f, ev->slot, ev->len + AIQ_MESSAGE_COST);
        ngx_http_aiq_frames_grant(f, ev->slot);
    }
    if (ev->type == AIQ_FRAME_END || ev->type == AIQ_FRAME_ERROR) {
        ngx_http_aiq_frames_close(f, ev->slot);
        ngx_http_aiq_frames_open(f, ev->slot, f);
    }
    if (ev->type == AIQ_FRAME_VERDICT || ev->type == AIQ_FRAME_ANSWER) {
        ngx_http_aiq_frames_close(f, ev->slot);
        ngx_http_aiq_frames_ask(f, ev->slot, f, ev->type);
    }
}

static bool one_turn(ngx_http_aiq_frames_t *f)
{
    ngx_http_aiq_event_t ev;
    int rc;

    while ((rc = ngx_http_aiq_frames_next(f, &ev)) == 1) {
        handle(f, &ev);
        check_invariants(f);
    }
    aiq_ring_release(&f->ring);
    aiq_ring_arm(&f->ring);
    assert(rc == 0 || f->broken != NULL);
    return rc == 0;
}

static uint32_t take(const uint8_t **data, size_t *size, size_t n)
{
    uint32_t value = 0;

    if (*size < n) {
        *size = 0;
        return 0;
    }
    memcpy(&value, *data, n);
    *data += n;
    *size -= n;
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *mine, *peer;
    ngx_http_aiq_slot_t slots[SLOTS] = {0};
    ngx_http_aiq_frames_t f = {.slots = slots, .nslots = SLOTS};

    if (mine == NULL) {
        mine = guarded();
        peer = guarded();
    }
    aiq_side *engine = (aiq_side *)peer;
    memset(engine, 0, sizeof(*engine));
    aiq_ring_init(&f.ring, mine, peer);
    for (uint32_t i = 0; i < CHECK; i++) {
        ngx_http_aiq_frames_open(&f, i, slots);
    }
    ngx_http_aiq_frames_ask(&f, CHECK, slots, AIQ_FRAME_VERDICT);
    ngx_http_aiq_frames_ask(&f, ASK, slots, AIQ_FRAME_ANSWER);
    uint32_t at = 0u - 16 * take(&data, &size, 2), lie = take(&data, &size, 4);
    f.ring.head = f.ring.released = at;
    engine->tail = at;
    while (size) {
        uint32_t n = take(&data, &size, 2);
        n = n < size ? n : (uint32_t)size;
        for (uint32_t i = 0; i < n; i++) {
            peer[AIQ_RING_OFFSET + ((at + i) & (AIQ_RING_SIZE - 1))] = data[i];
        }
        data += n;
        size -= n;
        at += n;
        __atomic_store_n(&engine->tail, at + (size ? 0 : lie), __ATOMIC_RELEASE);
        if (!one_turn(&f)) {
            break;
        }
    }
    return 0;
}
