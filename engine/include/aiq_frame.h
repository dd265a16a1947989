/*
 * What the frames on a link mean. Small and typed, in the manner of HTTP/2.
 *
 * A job is one request, {slot, generation}. The worker chooses a free slot and
 * a generation that differs from the slot's last one; frames of another
 * generation than the slot's present one are dropped by both sides.
 *
 *     worker                              engine
 *       OPEN ───────────────────────────►           location, method, fields
 *       BODY* ──────────────────────────►           within the engine's credit
 *       END ────────────────────────────►           the request body is whole
 *            ◄───────────────────────────  HEAD     status, fields
 *            ◄───────────────────────────  DATA*    within the worker's credit
 *            ◄───────────────────────────  USAGE    at most one, before END
 *            ◄───────────────────────────  END      or ERROR: the last frame
 *       CANCEL ─────────────────────────►           instead of waiting: the client left
 *
 * END and ERROR of the engine and CANCEL of the worker end a job. The engine
 * may end a job before the worker's END: what still comes is dropped. A worker
 * reuses a slot once it has read the job's END or ERROR or published its
 * CANCEL; the ring's order does the rest.
 *
 * Credit. A receiver promises memory: each direction of each job starts with
 * AIQ_WINDOW bytes (BODY, DATA and MESSAGE payloads count, and HEAD's; a MESSAGE
 * AIQ_MESSAGE_COST more, so that empty ones are bounded too) and grows by CREDIT. A receiver
 * keeps the sum of its promises bounded with aiq_credit_due(). A sender that exceeds its credit
 * breaks the link. Control frames need no credit: a job has at most a few of them.
 *
 * A WebSocket is a job whose OPEN says so and whose HEAD has status 101. From then on
 * there are no BODY and DATA, but
 *
 *       MESSAGE* ◄──────────────────────► MESSAGE*  pieces of messages, within credit
 *       END ────────────────────────────►           the client wants to close, or nginx
 *            ◄───────────────────────────  END      closed; ERROR, where that was a failure
 *
 * The frames, masks, pings and the closing handshake of RFC 6455 are the worker's: a
 * MESSAGE is a piece of a text or binary message without its header, in order; flags
 * tell its opcode (a message's later pieces: AIQ_MESSAGE_MORE) and whether it is the
 * last. Both ENDs say why, see aiq_close. After the worker's END the engine may still
 * send what it has; the worker sends nothing more.
 *
 * Where the client of a WebSocket shows another token, TOKEN has it, and one GRANT says whether
 * it is good, and the same caller's: the keys are the worker's. Only then may TOKEN come again.
 *
 * A charge is a job of the service "charge", without a body, for a request that the worker
 * has others serve: its HEAD says that what the request costs is held. It lasts as long
 * as the request. CANCEL, and the link's end, mean that it is due, unless END came before.
 *
 * A CHECK takes a slot too; its VERDICT (or the worker's CANCEL) ends it. It asks
 * whose an API key is. What the engine says holds for an epoch, which is that of
 * the store's keys: whatever is revoked or changed begins a new one. NOTICE names the
 * present epoch once a second and at each change, so a worker may remember
 * verdicts of the newest epoch it has heard of, for as long as it has been named
 * within AIQ_EPOCH_MS; a verdict that was looked up before a change and arrives
 * after it is of an old epoch, and nobody remembers it.
 *
 * An ASK takes a slot as well, and its ANSWER (or CANCEL) ends it: whether a request may
 * go on to its content, whatever serves that. Its location is one of the policy's, which
 * says what is counted there; its fields say by what the request is.
 *
 * A full ring refuses only OPEN, CHECK and ASK. Every other frame waits in its job and
 * is pushed when the peer has read on; readers always drain.
 *
 * Numbers are in host order: both ends are on one machine.
 */

#ifndef AIQ_FRAME_H
#define AIQ_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum {
    AIQ_FRAME_PAD = 0,      /* filler up to the ring's wrap */
    AIQ_FRAME_OPEN = 1,     /* →  aiq_open, fields */
    AIQ_FRAME_BODY = 2,     /* →  bytes */
    AIQ_FRAME_END = 3,      /* ↔  */
    AIQ_FRAME_CANCEL = 4,   /* →  */
    AIQ_FRAME_CREDIT = 5,   /* ↔  u32: bytes more */
    AIQ_FRAME_HEAD = 6,     /* ←  aiq_head, fields */
    AIQ_FRAME_DATA = 7,     /* ←  bytes */
    AIQ_FRAME_USAGE = 8,    /* ←  aiq_usage */
    AIQ_FRAME_ERROR = 9,    /* ←  aiq_failure, fields */
    AIQ_FRAME_MESSAGE = 10, /* ↔  bytes; flags are AIQ_MESSAGE_* */
    AIQ_FRAME_CHECK = 11,   /* →  fields (KEY_HASH): whose key is it? */
    AIQ_FRAME_VERDICT = 12, /* ←  aiq_verdict, fields (TENANT … KEY_ID, KEY_RATE) */
    AIQ_FRAME_NOTICE = 13,  /* ←  aiq_notice; no job */
    AIQ_FRAME_ASK = 14,     /* →  aiq_ask, fields: may this request go on? */
    AIQ_FRAME_ANSWER = 15,  /* ←  aiq_answer, fields (RATES) */
    AIQ_FRAME_TOKEN = 16,   /* ←  bytes, AIQ_TOKEN_MAX of them at most */
    AIQ_FRAME_GRANT = 17    /* →  aiq_grant, fields (ROLE; CODE, MESSAGE) */
} aiq_frame_type;

/* DATA flag: this ends an event of a stream; the client should see it now. */
#define AIQ_DATA_FLUSH 0x01

/* MESSAGE flags: one of these as the opcode, and whether the message ends here. */
#define AIQ_MESSAGE_MORE   0x00
#define AIQ_MESSAGE_TEXT   0x01
#define AIQ_MESSAGE_BINARY 0x02
#define AIQ_MESSAGE_OPCODE 0x0f
#define AIQ_MESSAGE_FIN    0x80

/* What a MESSAGE takes of its receiver's credit beside its payload. */
#define AIQ_MESSAGE_COST 16u

/* END of a WebSocket: this and a reason in UTF-8, AIQ_CLOSE_MAX bytes together. */
typedef struct {
    uint16_t code; /* RFC 6455, 7.4; 1005: the client gave none */
} aiq_close;

#define AIQ_CLOSE_MAX 125u

#define AIQ_TOKEN_MAX 16384u

/* GRANT: this, then fields. */
typedef struct {
    uint16_t status; /* 200: it holds from now on; else why not */
    uint16_t reserved[3];
    int64_t expires_ms; /* Unix time at which the WebSocket ends without another one */
} aiq_grant;

typedef enum {
    AIQ_METHOD_GET = 1,
    AIQ_METHOD_HEAD,
    AIQ_METHOD_POST,
    AIQ_METHOD_PUT,
    AIQ_METHOD_DELETE,
    AIQ_METHOD_PATCH,
    AIQ_METHOD_OPTIONS,
    AIQ_METHOD_OTHER
} aiq_method;

/* OPEN: this, then fields. */
typedef struct {
    uint32_t location;   /* index into the policy's locations */
    uint8_t method;      /* aiq_method */
    uint8_t secure;      /* the client came over TLS */
    uint16_t flags;      /* AIQ_OPEN_* */
    int64_t body_length; /* -1: not known yet; 0: none follows, nor END */
} aiq_open;

/* A WebSocket, body_length is 0: HEAD with status 101 accepts it. */
#define AIQ_OPEN_WEBSOCKET 0x01

/* What a request costs: AIQ_FIELD_CHARGE. */
typedef struct {
    int64_t tokens;   /* 0 to AIQ_CHARGE_TOKENS_MAX */
    int64_t nano_usd; /* 0 to AIQ_CHARGE_NANO_USD_MAX */
} aiq_charge;

#define AIQ_CHARGE_TOKENS_MAX   1000000000000
#define AIQ_CHARGE_NANO_USD_MAX 1000000000000000

/* HEAD: this, then fields. */
typedef struct {
    uint16_t status;        /* 200..599, or 101 */
    uint16_t flags;         /* AIQ_HEAD_* */
    uint32_t endpoint;      /* reserved, 0 */
    int64_t content_length; /* -1: not known */
} aiq_head;

/* An event stream: don't buffer; if the engine dies, end it with an error event. */
#define AIQ_HEAD_STREAM 0x01
/* It has no end of its own, and its client comes back: where the worker or the engine leaves,
 * the worker ends it, after a CANCEL. */
#define AIQ_HEAD_ENDLESS 0x02

/* USAGE: what the access log and the client's headers may know. -1: not known. */
typedef struct {
    int64_t tokens_in;
    int64_t tokens_out;
    int64_t first_token_us; /* from OPEN to the first token */
    int64_t cost_nano_usd;
} aiq_usage;

/* ERROR: this, then fields (CODE, MESSAGE, PARAM, HEADER). Before HEAD the worker
 * renders it in the client's dialect (aiq_error.h); after HEAD it cuts the reply. */
typedef struct {
    uint16_t status;      /* 400..599 */
    uint16_t reserved;    /* 0 */
    uint32_t retry_after; /* seconds; 0: none */
} aiq_failure;

/* VERDICT: this, then fields where status is 200. */
typedef struct {
    uint16_t status;    /* 200; 401: no such key; 403: disabled; 503: cannot say now */
    uint16_t reserved;  /* 0 */
    uint32_t epoch;     /* in which it was looked up */
    int64_t expires_ms; /* the key's end, Unix time; -1: none */
} aiq_verdict;

/* ASK: this, then fields (REQUEST_ID, RATE_KEYS). */
typedef struct {
    uint32_t location; /* index into the policy's locations */
    uint32_t reserved; /* 0 */
} aiq_ask;

/* ANSWER: this, then fields where status is 200 or 429. */
typedef struct {
    uint16_t status;   /* 200: it may, after wait_ms; 429: it may not; 503: cannot say now */
    uint16_t reserved; /* 0 */
    uint32_t wait_ms;
} aiq_answer;

/* What one of a location's shared rates says of a request. */
typedef struct {
    uint32_t remaining; /* with it, where it was counted */
    uint32_t reset_ms;  /* until the window is empty */
    uint32_t wait_ms;   /* until it has room for the request */
    uint32_t refused;   /* 0 or 1: as many wait already as may */
} aiq_rate;

#define AIQ_WAIT_MAX_MS 259200000u /* of what an ANSWER says: three days */

/* NOTICE: a u32; EPOCH: another with the epoch. */
typedef enum {
    AIQ_NOTICE_DRAIN = 1, /* open no more jobs here; connect anew; the open ones go on */
    AIQ_NOTICE_EPOCH = 2  /* verdicts of this epoch hold, and no others */
} aiq_notice;

#define AIQ_EPOCH_MS 1000

/* A field: u16 id, u16 length, bytes; no padding. Unknown ids are skipped. */
typedef enum {
    /* OPEN */
    AIQ_FIELD_URI = 1,     /* normalised, without arguments, after aiq_pass's replacement */
    AIQ_FIELD_ARGS,        /* as they came */
    AIQ_FIELD_METHOD,      /* the name, where method is OTHER */
    AIQ_FIELD_REQUEST_ID,  /* [A-Za-z0-9._-]{1,64} */
    AIQ_FIELD_TRACEPARENT, /* W3C, 55 bytes; its parent-id is the worker's span */
    AIQ_FIELD_TRACESTATE,
    AIQ_FIELD_REMOTE_ADDR,
    AIQ_FIELD_CONTENT_TYPE, /* also in HEAD */
    AIQ_FIELD_ACCEPT,
    AIQ_FIELD_HEADER, /* "name: value"; name in lower case; also in HEAD and ERROR. In OPEN:
                         x-aiq-*, openai-*, anthropic-*, cache-control, last-event-id,
                         idempotency-key; sec-websocket-protocol, as nginx chose it */
    /* OPEN, VERDICT: who asks, as nginx found out; none: nobody in particular */
    AIQ_FIELD_TENANT = 16,
    AIQ_FIELD_USER,
    AIQ_FIELD_ROLE,   /* admin, developer, user, viewer */
    AIQ_FIELD_KEY_ID, /* of the API key, where one was shown */
    /* OPEN: what the policy's targets are chosen by; bytes, not text */
    AIQ_FIELD_CONDITIONS, /* u64: which of the policy's conditions hold, the first in bit 0 */
    AIQ_FIELD_HASHES,     /* u32 each: of what the policy's keys are for this request */
    AIQ_FIELD_LIMIT_KEYS, /* by what each of the location's limits counts it: a digest of
                             AIQ_LIMIT_KEY bytes each; zeroes: not at all */
    AIQ_FIELD_CHARGE,     /* aiq_charge */
    /* CHECK */
    AIQ_FIELD_KEY_HASH = 24, /* SHA-256 of the API key, 32 bytes */
    /* VERDICT */
    AIQ_FIELD_KEY_RATE, /* u32: the key's requests a minute, 1 to AIQ_KEY_RATE_MAX; none: any */
    /* ASK: LIMIT_KEYS, of the location's shared rates */
    AIQ_FIELD_RATE_KEYS,
    /* ANSWER: an aiq_rate of each of them, in their order; zeroes where it does not count */
    AIQ_FIELD_RATES,
    /* OPEN of a WebSocket: i64, when it ends without another token, Unix time in ms */
    AIQ_FIELD_EXPIRES,
    /* HEAD, for variables */
    AIQ_FIELD_MODEL = 32,
    AIQ_FIELD_PROVIDER,
    /* ERROR, GRANT */
    AIQ_FIELD_CODE = 48, /* a stable word, e.g. model_not_found */
    AIQ_FIELD_MESSAGE,   /* a sentence for the caller */
    AIQ_FIELD_PARAM      /* the request's field at fault */
} aiq_field_id;

/* The longest OPEN, HEAD and ERROR payloads. HEAD's counts against the window. */
#define AIQ_OPEN_MAX  (32u << 10)
#define AIQ_HEAD_MAX  (4u << 10)
#define AIQ_ERROR_MAX (4u << 10)

/* Of CHECK, VERDICT, ASK and ANSWER, and of each name of an identity. */
#define AIQ_CHECK_MAX    (4u << 10)
#define AIQ_IDENTITY_MAX 256
#define AIQ_KEY_RATE_MAX 1000000000u

/* Of a policy. */
#define AIQ_CONDITIONS_MAX 64
#define AIQ_HASHES_MAX     8
#define AIQ_LIMITS_MAX     4  /* of tokens, of a location */
#define AIQ_RATES_MAX      8  /* shared, of a location */
#define AIQ_LIMIT_KEY      16 /* bytes */

typedef struct {
    const uint8_t *pos, *end;
} aiq_fields;

/* The next field of a payload that was copied out of the ring. 1, 0 at the
 * end, -1 where a length leads outside. */
static inline int aiq_field_next(aiq_fields *f, uint16_t *id, const uint8_t **data,
                                 uint16_t *len)
{
    size_t left = (size_t)(f->end - f->pos);

    if (left == 0) {
        return 0;
    }
    if (left < 4) {
        return -1;
    }
    memcpy(id, f->pos, 2);
    memcpy(len, f->pos + 2, 2);
    if (*len > left - 4) {
        return -1;
    }
    *data = f->pos + 4;
    f->pos += 4 + (size_t)*len;
    return 1;
}

/* May it be the value of an HTTP header: no control characters but tabs? Otherwise who writes
 * it could begin a line of his own. By eights, for each request has some twenty of them. */
static inline bool aiq_text_clean(const void *text, size_t len)
{
    const uint64_t ones = 0x0101010101010101ull;
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;
    uint64_t x;

    for (; len - i >= sizeof(x); i += sizeof(x)) {
        memcpy(&x, p + i, sizeof(x));
        uint64_t del = x ^ ones * 0x7f;
        /* a byte below 0x20, or a 0 in del; a borrow may mark the byte above one, no matter */
        if ((((x - ones * 0x20) & ~x) | ((del - ones) & ~del)) & ones << 7) {
            break;
        }
    }
    for (; i < len; i++) {
        if ((p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

/* Bytes that a field of this length takes. */
static inline size_t aiq_field_span(size_t len)
{
    return 4 + len;
}

/* Writes a field and returns what follows it. len <= 65535 and the room are the
 * caller's promise. */
static inline uint8_t *aiq_field_put(uint8_t *p, uint16_t id, const void *data, uint16_t len)
{
    memcpy(p, &id, 2);
    memcpy(p + 2, &len, 2);
    if (len) {
        memcpy(p + 4, data, len);
    }
    return p + 4 + len;
}

/* Credit of a fresh job, each way. 16,384 jobs x 8 KB bound a link that only
 * holds idle jobs to 128 MB. */
#define AIQ_WINDOW 8192u

/* A job that moves gets more, while all promises of the link stay below the budget. */
#define AIQ_WINDOW_ACTIVE 65536u
#define AIQ_LINK_BUDGET   (64u << 20)

/* The receiver's account: of one job, and the sum over its link. */
typedef struct {
    uint32_t promised; /* bytes that the peer may still send, unread ones included */
} aiq_credit;

/* What the receiver should grant now, having consumed bytes: 0 while more than
 * half of the window is still open, so that CREDIT frames are few. `link` is
 * the sum of `promised` over the link's jobs; the caller sends the grant. */
static inline uint32_t aiq_credit_due(aiq_credit *job, uint64_t *link)
{
    uint32_t window = *link < AIQ_LINK_BUDGET ? AIQ_WINDOW_ACTIVE : AIQ_WINDOW;
    uint32_t grant = job->promised < window / 2 ? window - job->promised : 0;

    job->promised += grant;
    *link += grant;
    return grant;
}

#endif
