/*
 * The link: how an nginx worker and the engine talk. This header, aiq_frame.h
 * and aiq_error.h are the whole contract; the module includes nothing else of
 * the engine.
 *
 * One SOCK_SEQPACKET connection joins one worker and one engine. Over it go
 * the handshake (aiq_hello, aiq_welcome, one memfd each way), then only wake
 * bytes; its end is how either side learns of the other's death. Everything
 * else is in the two memfds, each written by exactly one process and mapped
 * read-only by the other:
 *
 *     offset 0      tail     where I shall write next in my ring
 *     offset 128    head     how far I have read the peer's ring
 *     offset 256    wake     wake me when the peer's tail passes this
 *     offset 384    space    wake me when the peer's head passes this
 *     offset 4096   ring     frames, ring_size bytes, a power of two
 *
 * Each index has 128 bytes for itself, so that a store to one never takes the
 * line of another (two lines, because of the adjacent-line prefetcher).
 * Indices are free-running u32: tail - head is the fill, also across the wrap
 * at 2^32.
 *
 * A ring has one producer and one consumer. Invariants, checked by whoever
 * reads the other's memory, because neither side trusts the other:
 *
 *     tail - head <= ring_size                    for both indices read
 *     sizeof(frame) + align(len) <= tail - head   the frame is all there
 *     pos + sizeof(frame) + align(len) <= size    and does not wrap
 *
 * Anything else closes the link. A frame header is copied once and the copy
 * is checked; a payload is copied out before it is parsed, for the peer can
 * change it under our eyes.
 *
 * Waking follows event indices (the same idea as virtio's): a sleeper stores
 * the index that it waits beyond, a full fence orders that store before its
 * last look at the ring, and the producer's fence orders its tail before its
 * look at the event index. One of the two always sees the other.
 */

#ifndef AIQ_LINK_H
#define AIQ_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AIQ_LINK_MAGIC 0x31514941u /* "AIQ1" */

/* Changes with every change to this header or aiq_frame.h. Another ABI at the
 * other end is a log line and 503, never a guess. */
#define AIQ_LINK_ABI 9

#define AIQ_RING_OFFSET 4096u
#define AIQ_RING_SIZE   (4u << 20)
#define AIQ_MAP_SIZE    (AIQ_RING_OFFSET + AIQ_RING_SIZE)

/* Jobs that one worker may have open at once; a slot's number is below it. */
#define AIQ_SLOTS 16384u

/* The longest payload of a frame. */
#define AIQ_FRAME_MAX (64u << 10)

typedef struct {
    uint32_t tail __attribute__((aligned(128)));
    uint32_t head __attribute__((aligned(128)));
    uint32_t wake __attribute__((aligned(128)));
    uint32_t space __attribute__((aligned(128)));
} aiq_side;

typedef struct {
    uint32_t len; /* of the payload; the next frame begins 16-aligned */
    uint8_t type; /* aiq_frame_type */
    uint8_t flags;
    uint16_t reserved; /* 0 */
    uint32_t slot;     /* the job: {slot, generation}; 0, 0 where it is none */
    uint32_t generation;
} aiq_frame;

/* First message of the worker, with the descriptor of its memfd. */
typedef struct {
    uint32_t magic;
    uint32_t abi;
    uint32_t ring_size; /* AIQ_RING_SIZE */
    uint32_t purpose;   /* aiq_purpose */
    uint8_t policy[32]; /* SHA-256 of the policy document; 0 where the purpose needs none */
} aiq_hello;

typedef enum {
    AIQ_PURPOSE_WORKER = 1,   /* an nginx worker; one descriptor */
    AIQ_PURPOSE_TAKEOVER = 2, /* a new engine: drain and leave; no descriptor */
    AIQ_PURPOSE_ADMIN = 3     /* an operator, on the admin socket; one descriptor */
} aiq_purpose;

/* The engine's answer, with the descriptor of its memfd where status is OK. */
typedef struct {
    uint32_t magic;
    uint32_t abi;
    uint32_t ring_size;
    uint32_t status; /* aiq_welcome_status */
    uint64_t engine; /* a random number that names this engine process */
    char text[104];  /* why not, for the log; NUL-terminated */
} aiq_welcome;

typedef enum {
    AIQ_WELCOME_OK = 0,
    AIQ_WELCOME_ABI = 1,     /* another ABI */
    AIQ_WELCOME_POLICY = 2,  /* the policy document is missing, unsafe or invalid */
    AIQ_WELCOME_REFUSED = 3, /* the peer's user may not connect, or its memfd is not sealed */
    AIQ_WELCOME_BUSY = 4     /* too many links, or the engine is leaving */
} aiq_welcome_status;

/* One end of a link: private memory, one thread. */
typedef struct {
    aiq_side *mine;       /* written by us */
    const aiq_side *peer; /* written by the peer, mapped read-only */
    uint8_t *tx;          /* our ring */
    const uint8_t *rx;    /* the peer's ring */
    uint32_t tail;        /* our next write, not yet published */
    uint32_t published;   /* our tail, as the peer can see it */
    uint32_t head;        /* our next read */
    uint32_t released;    /* our head, as the peer can see it */
    uint32_t peer_head;   /* the peer's head when we last looked */
    bool broken;          /* the peer's indices made no sense: close the link */
} aiq_ring;

static inline uint32_t aiq_frame_span(uint32_t len)
{
    return (uint32_t)sizeof(aiq_frame) + ((len + 15u) & ~15u);
}

/* Both maps are AIQ_MAP_SIZE bytes; a fresh memfd's zeros are the initial state. */
static inline void aiq_ring_init(aiq_ring *r, void *mine, const void *peer)
{
    memset(r, 0, sizeof(*r));
    r->mine = (aiq_side *)mine;
    r->peer = (const aiq_side *)peer;
    r->tx = (uint8_t *)mine + AIQ_RING_OFFSET;
    r->rx = (const uint8_t *)peer + AIQ_RING_OFFSET;
}

/* Bytes free in our ring. Looks at the peer's head only when its last known
 * position leaves less than `need`. */
static inline uint32_t aiq_ring_room(aiq_ring *r, uint32_t need)
{
    if (AIQ_RING_SIZE - (r->tail - r->peer_head) < need) {
        /* acquire: the peer's reads of the frames precede its head, so their
         * bytes may be overwritten */
        uint32_t head = __atomic_load_n(&r->peer->head, __ATOMIC_ACQUIRE);
        if (r->tail - head > AIQ_RING_SIZE) {
            r->broken = true;
            return 0;
        }
        r->peer_head = head;
    }
    return AIQ_RING_SIZE - (r->tail - r->peer_head);
}

/* A reader that keeps up leaves its ring empty; then the writer begins anew at the
 * ring's start, once it is past this. So the same pages are used again, in the cache
 * and in both processes' memory, instead of all of them in turn. Until the reader has
 * seen that, no more than this is free: room for what one turn of nginx's loop brings,
 * 512 events. */
#define AIQ_RING_WARM (1u << 20)

static inline void aiq_ring_rewind(aiq_ring *r)
{
    uint32_t pos = r->tail & (AIQ_RING_SIZE - 1);
    aiq_frame filler = {AIQ_RING_SIZE - pos - (uint32_t)sizeof(aiq_frame), 0, 0, 0, 0, 0};

    /* at the first frame after a publish only: the peer's head is a line of its cache */
    if (pos >= AIQ_RING_WARM && r->tail == r->published &&
        __atomic_load_n(&r->peer->head, __ATOMIC_ACQUIRE) == r->tail) {
        memcpy(r->tx + pos, &filler, sizeof(filler));
        r->peer_head = r->tail;
        r->tail += AIQ_RING_SIZE - pos;
    }
}

/* Appends a frame and returns where its payload goes, or NULL where the ring
 * has no room (or is broken). Nothing is visible to the peer before
 * aiq_ring_publish(). len <= AIQ_FRAME_MAX is the caller's promise. */
static inline void *aiq_ring_push(aiq_ring *r, uint8_t type, uint8_t flags, uint32_t slot,
                                  uint32_t generation, uint32_t len)
{
    aiq_ring_rewind(r);
    uint32_t span = aiq_frame_span(len);
    uint32_t pos = r->tail & (AIQ_RING_SIZE - 1);
    uint32_t pad = pos + span > AIQ_RING_SIZE ? AIQ_RING_SIZE - pos : 0;
    aiq_frame frame = {len, type, flags, 0, slot, generation};

    if (aiq_ring_room(r, span + pad) < span + pad) {
        return NULL;
    }
    if (pad) {
        aiq_frame filler = {pad - (uint32_t)sizeof(aiq_frame), 0, 0, 0, 0, 0};
        memcpy(r->tx + pos, &filler, sizeof(filler));
        r->tail += pad;
        pos = 0;
    }
    memcpy(r->tx + pos, &frame, sizeof(frame));
    r->tail += span;
    return r->tx + pos + sizeof(frame);
}

/* Where `event` asks for a wake when an index moves from `from` to `to`. */
static inline bool aiq_ring_passed(uint32_t event, uint32_t from, uint32_t to)
{
    return (uint32_t)(to - event - 1) < (uint32_t)(to - from);
}

/* Makes every appended frame visible. True: the peer sleeps, send a wake byte. */
static inline bool aiq_ring_publish(aiq_ring *r)
{
    uint32_t from = r->published;

    if (from == r->tail) {
        return false;
    }
    /* release: the frames are written before the tail that covers them */
    __atomic_store_n(&r->mine->tail, r->tail, __ATOMIC_RELEASE);
    r->published = r->tail;
    /* full fence: our tail is visible before we read the peer's wake index;
     * pairs with aiq_ring_arm() */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return aiq_ring_passed(__atomic_load_n(&r->peer->wake, __ATOMIC_RELAXED), from, r->tail);
}

/* A turn of many requests is shown in pieces of this, so that the peer works on the first
 * while we are at the last: to be asked before a push, of frames that are all written. */
#define AIQ_RING_SHOW 4096u

static inline bool aiq_ring_due(const aiq_ring *r)
{
    return r->tail - r->published >= AIQ_RING_SHOW;
}

/* The next frame of the peer: 1 and a checked copy of its header, 0 where
 * there is none, -1 where the peer broke the rules. The payload stays the
 * peer's memory: copy, then parse; it is given back by aiq_ring_release(). */
static inline int aiq_ring_next(aiq_ring *r, aiq_frame *frame, const uint8_t **payload)
{
    for (;;) {
        /* acquire: the frames before this tail are written */
        uint32_t fill = __atomic_load_n(&r->peer->tail, __ATOMIC_ACQUIRE) - r->head;
        uint32_t pos = r->head & (AIQ_RING_SIZE - 1);

        if (fill == 0) {
            return 0;
        }
        if (fill > AIQ_RING_SIZE || fill < sizeof(aiq_frame)) {
            r->broken = true;
            return -1;
        }
        memcpy(frame, r->rx + pos, sizeof(*frame));
        /* the copy is what is checked and used; the compiler may not read again */
        __asm__ volatile("" ::: "memory");
#ifdef AIQ_PLANT_BUG /* the fuzz targets must find this one: see t/fuzz */
        if (aiq_frame_span(frame->len) > fill) {
#else
        if (frame->len > AIQ_RING_SIZE || aiq_frame_span(frame->len) > fill ||
            aiq_frame_span(frame->len) > AIQ_RING_SIZE - pos) {
#endif
            r->broken = true;
            return -1;
        }
        r->head += aiq_frame_span(frame->len);
        if (frame->type == 0) {
            continue; /* filler up to the wrap */
        }
        if (frame->len > AIQ_FRAME_MAX) {
            r->broken = true;
            return -1;
        }
        *payload = r->rx + pos + sizeof(*frame);
        return 1;
    }
}

/* Gives what was read back to the peer. True: it waits for space, send a wake byte. */
static inline bool aiq_ring_release(aiq_ring *r)
{
    uint32_t from = r->released;

    if (from == r->head) {
        return false;
    }
    /* release: our reads of the payloads precede the head */
    __atomic_store_n(&r->mine->head, r->head, __ATOMIC_RELEASE);
    r->released = r->head;
    /* full fence: pairs with aiq_ring_arm_space() */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return aiq_ring_passed(__atomic_load_n(&r->peer->space, __ATOMIC_RELAXED), from, r->head);
}

/* Is there nothing to read? */
static inline bool aiq_ring_empty(const aiq_ring *r)
{
    return __atomic_load_n(&r->peer->tail, __ATOMIC_ACQUIRE) == r->head;
}

/* Asks to be woken by the next frame. False: one has come meanwhile, don't sleep. */
static inline bool aiq_ring_arm(aiq_ring *r)
{
    __atomic_store_n(&r->mine->wake, r->head, __ATOMIC_RELAXED);
    /* full fence: our wake index is visible before the last look at the tail;
     * pairs with aiq_ring_publish() */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return aiq_ring_empty(r);
}

/* Asks to be woken when the peer has read on from where it is now. False: it
 * has moved since `peer_head` was read, try the push again. */
static inline bool aiq_ring_arm_space(aiq_ring *r)
{
    __atomic_store_n(&r->mine->space, r->peer_head, __ATOMIC_RELAXED);
    /* full fence: pairs with aiq_ring_release() */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&r->peer->head, __ATOMIC_ACQUIRE) == r->peer_head;
}

#endif
