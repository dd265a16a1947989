
#include "ngx_http_aiq_frames.h"


static int ngx_http_aiq_frames_notice(ngx_http_aiq_frames_t *f,
    ngx_http_aiq_event_t *ev);
static int ngx_http_aiq_frames_check(ngx_http_aiq_frames_t *f,
    ngx_http_aiq_slot_t *slot, const aiq_frame *frame,
    ngx_http_aiq_event_t *ev);
static int ngx_http_aiq_frames_message(ngx_http_aiq_frames_t *f,
    ngx_http_aiq_slot_t *slot, const aiq_frame *frame);
static int ngx_http_aiq_frames_break(ngx_http_aiq_frames_t *f,
    const char *why);
static const char *ngx_http_aiq_frames_rates(const uint8_t *data, size_t len,
    ngx_http_aiq_answer_t *a);
static int ngx_http_aiq_frames_word(aiq_text s);
static int ngx_http_aiq_frames_own_header(aiq_text name);


void
ngx_http_aiq_frames_open(ngx_http_aiq_frames_t *f, uint32_t n, void *job)
{
    ngx_http_aiq_slot_t  *slot;

    slot = &f->slots[n];

    slot->job = job;
    slot->generation++;
    slot->credit.promised = AIQ_WINDOW;
    slot->allowed = AIQ_WINDOW;
    slot->answer = 0;
    slot->head = 0;
    slot->usage = 0;
    slot->websocket = 0;
    slot->message = 0;
    slot->token = 0;
    slot->cancel = 0;

    f->promised += AIQ_WINDOW;
}


void
ngx_http_aiq_frames_ask(ngx_http_aiq_frames_t *f, uint32_t n, void *question,
    aiq_frame_type answer)
{
    ngx_http_aiq_slot_t  *slot;

    slot = &f->slots[n];

    slot->job = question;
    slot->generation++;
    slot->answer = (uint8_t) answer;
    slot->cancel = 0;
}


void
ngx_http_aiq_frames_close(ngx_http_aiq_frames_t *f, uint32_t n)
{
    ngx_http_aiq_slot_t  *slot;

    slot = &f->slots[n];

    f->promised -= slot->credit.promised;

    slot->job = NULL;
    slot->credit.promised = 0;
    slot->allowed = 0;
}


void
ngx_http_aiq_frames_upgrade(ngx_http_aiq_frames_t *f, uint32_t n)
{
    f->slots[n].websocket = 1;
}


void
ngx_http_aiq_frames_granted(ngx_http_aiq_frames_t *f, uint32_t n)
{
    f->slots[n].token = 0;
}


int
ngx_http_aiq_frames_next(ngx_http_aiq_frames_t *f, ngx_http_aiq_event_t *ev)
{
    int                   rc;
    aiq_frame             frame;
    const uint8_t        *payload;
    ngx_http_aiq_slot_t  *slot;

    for ( ;; ) {
        rc = aiq_ring_next(&f->ring, &frame, &payload);

        if (rc == 0) {
            return 0;
        }

        if (rc < 0) {
            return ngx_http_aiq_frames_break(f,
                                  "indices or a frame that lead outside");
        }

        ev->type = frame.type;
        ev->flags = frame.flags;
        ev->slot = frame.slot;
        ev->data = payload;
        ev->len = frame.len;
        ev->job = NULL;

        if (frame.type == AIQ_FRAME_NOTICE) {
            return ngx_http_aiq_frames_notice(f, ev);
        }

        if (frame.slot >= f->nslots) {
            return ngx_http_aiq_frames_break(f, "a slot that was never open");
        }

        slot = &f->slots[frame.slot];

        if (slot->job == NULL || slot->generation != frame.generation) {
            /* the client has left meanwhile */
            continue;
        }

        ev->job = slot->job;

        return ngx_http_aiq_frames_check(f, slot, &frame, ev);
    }
}


/* EPOCH has a number more. */

static int
ngx_http_aiq_frames_notice(ngx_http_aiq_frames_t *f, ngx_http_aiq_event_t *ev)
{
    uint32_t  len;

    len = sizeof(uint32_t);

    if (ev->len >= len) {
        memcpy(&ev->number, ev->data, sizeof(uint32_t));

        if (ev->number == AIQ_NOTICE_EPOCH) {
            len += sizeof(uint32_t);
        }
    }

    if (ev->len != len) {
        return ngx_http_aiq_frames_break(f, "NOTICE of a wrong length");
    }

    if (ev->number == AIQ_NOTICE_EPOCH) {
        memcpy(&ev->epoch, ev->data + sizeof(uint32_t), sizeof(uint32_t));
    }

    return 1;
}


static int
ngx_http_aiq_frames_check(ngx_http_aiq_frames_t *f, ngx_http_aiq_slot_t *slot,
    const aiq_frame *frame, ngx_http_aiq_event_t *ev)
{
    if (slot->answer) {
        if (frame->type != slot->answer
            || frame->len < (slot->answer == AIQ_FRAME_VERDICT
                             ? sizeof(aiq_verdict) : sizeof(aiq_answer))
            || frame->len > AIQ_CHECK_MAX)
        {
            return ngx_http_aiq_frames_break(f,
                                 "no answer, or one of a wrong length");
        }

        return 1;
    }

    switch (frame->type) {

    case AIQ_FRAME_HEAD:
        if (slot->head || frame->len < sizeof(aiq_head)
            || frame->len > AIQ_HEAD_MAX)
        {
            return ngx_http_aiq_frames_break(f,
                                       "HEAD twice or of a wrong length");
        }

        slot->head = 1;
        break;

    case AIQ_FRAME_DATA:
        if (!slot->head || slot->websocket) {
            return ngx_http_aiq_frames_break(f,
                                       "DATA before HEAD or of a WebSocket");
        }

        break;

    case AIQ_FRAME_MESSAGE:
        return ngx_http_aiq_frames_message(f, slot, frame);

    case AIQ_FRAME_TOKEN:
        if (!slot->websocket || slot->token || frame->len == 0
            || frame->len > AIQ_TOKEN_MAX)
        {
            return ngx_http_aiq_frames_break(f,
                             "TOKEN without a WebSocket, twice, or too long");
        }

        slot->token = 1;
        return 1;

    case AIQ_FRAME_USAGE:
        if (slot->usage || frame->len != sizeof(aiq_usage)) {
            return ngx_http_aiq_frames_break(f,
                                       "USAGE twice or of a wrong length");
        }

        memcpy(&ev->usage, ev->data, sizeof(aiq_usage));
        slot->usage = 1;
        return 1;

    case AIQ_FRAME_CREDIT:
        if (frame->len != sizeof(uint32_t)) {
            return ngx_http_aiq_frames_break(f, "CREDIT of a wrong length");
        }

        memcpy(&ev->number, ev->data, sizeof(uint32_t));
        return 1;

    case AIQ_FRAME_END:
        if (slot->websocket
            ? frame->len < sizeof(aiq_close) || frame->len > AIQ_CLOSE_MAX
            : !slot->head || frame->len != 0)
        {
            return ngx_http_aiq_frames_break(f,
                                       "END before HEAD or of a wrong length");
        }

        return 1;

    case AIQ_FRAME_ERROR:
        if (frame->len < sizeof(aiq_failure) || frame->len > AIQ_ERROR_MAX) {
            return ngx_http_aiq_frames_break(f, "ERROR of a wrong length");
        }

        return 1;

    case AIQ_FRAME_VERDICT:
    case AIQ_FRAME_ANSWER:
        return ngx_http_aiq_frames_break(f, "an answer for a job");

    default:
        return ngx_http_aiq_frames_break(f, "a frame of an unknown type");
    }

    /* HEAD and DATA take from what we promised */

    if (frame->len > slot->allowed) {
        return ngx_http_aiq_frames_break(f, "more bytes than their credit");
    }

    slot->allowed -= frame->len;

    return 1;
}


static int
ngx_http_aiq_frames_message(ngx_http_aiq_frames_t *f,
    ngx_http_aiq_slot_t *slot, const aiq_frame *frame)
{
    unsigned  opcode;

    opcode = frame->flags & AIQ_MESSAGE_OPCODE;

    if (!slot->websocket) {
        return ngx_http_aiq_frames_break(f, "MESSAGE without a WebSocket");
    }

    if ((frame->flags & ~(AIQ_MESSAGE_OPCODE|AIQ_MESSAGE_FIN))
        || (slot->message ? opcode != AIQ_MESSAGE_MORE
                          : opcode != AIQ_MESSAGE_TEXT
                            && opcode != AIQ_MESSAGE_BINARY))
    {
        return ngx_http_aiq_frames_break(f, "MESSAGE with a wrong opcode");
    }

    if (slot->allowed < AIQ_MESSAGE_COST
        || frame->len > slot->allowed - AIQ_MESSAGE_COST)
    {
        return ngx_http_aiq_frames_break(f, "more bytes than their credit");
    }

    slot->allowed -= frame->len + AIQ_MESSAGE_COST;
    slot->message = (frame->flags & AIQ_MESSAGE_FIN) ? 0 : 1;

    return 1;
}


static int
ngx_http_aiq_frames_break(ngx_http_aiq_frames_t *f, const char *why)
{
    f->ring.broken = 1;
    f->broken = why;

    return -1;
}


void
ngx_http_aiq_frames_consumed(ngx_http_aiq_frames_t *f, uint32_t n, size_t len)
{
    f->slots[n].credit.promised -= (uint32_t) len;
    f->promised -= len;
}


uint32_t
ngx_http_aiq_frames_grant(ngx_http_aiq_frames_t *f, uint32_t n)
{
    uint32_t  grant;

    grant = aiq_credit_due(&f->slots[n].credit, &f->promised);
    f->slots[n].allowed += grant;

    return grant;
}


const char *
ngx_http_aiq_frames_head(const uint8_t *data, size_t len,
    ngx_http_aiq_head_t *head)
{
    int             rc;
    uint16_t        id, n;
    aiq_head        h;
    aiq_text        text;
    aiq_fields      fields;
    const uint8_t  *p;

    memcpy(&h, data, sizeof(aiq_head));
    memset(head, 0, sizeof(ngx_http_aiq_head_t));

    if ((h.status != 101 && (h.status < 200 || h.status > 599))
        || h.content_length < -1)
    {
        return "HEAD with an impossible status or length";
    }

    head->status = h.status;
    head->stream = (h.flags & AIQ_HEAD_STREAM) ? 1 : 0;
    head->endless = (h.flags & AIQ_HEAD_ENDLESS) ? 1 : 0;
    head->content_length = h.content_length;

    fields.pos = data + sizeof(aiq_head);
    fields.end = data + len;
    head->headers = fields;

    while ((rc = aiq_field_next(&fields, &id, &p, &n)) == 1) {

        if (!aiq_text_clean(p, n)) {
            return "HEAD with control characters";
        }

        text.data = (const char *) p;
        text.len = n;

        switch (id) {

        case AIQ_FIELD_CONTENT_TYPE:
            head->content_type = text;
            break;

        case AIQ_FIELD_MODEL:
            head->model = text;
            break;

        case AIQ_FIELD_PROVIDER:
            head->provider = text;
            break;
        }
    }

    return rc == 0 ? NULL : "HEAD with a field that leads outside";
}


const char *
ngx_http_aiq_frames_error(const uint8_t *data, size_t len, aiq_error_info *e,
    uint32_t *retry_after, aiq_fields *headers)
{
    int             rc;
    uint16_t        id, n;
    aiq_text        text;
    aiq_fields      fields;
    aiq_failure     failure;
    const uint8_t  *p;

    memcpy(&failure, data, sizeof(aiq_failure));
    memset(e, 0, sizeof(aiq_error_info));

    if (failure.status < 400 || failure.status > 599) {
        return "ERROR with an impossible status";
    }

    e->status = failure.status;
    *retry_after = failure.retry_after;

    fields.pos = data + sizeof(aiq_failure);
    fields.end = data + len;
    *headers = fields;

    while ((rc = aiq_field_next(&fields, &id, &p, &n)) == 1) {

        text.data = (const char *) p;
        text.len = n;

        switch (id) {

        case AIQ_FIELD_CODE:
            if (ngx_http_aiq_frames_word(text)) {
                e->code = text;
            }
            break;

        case AIQ_FIELD_MESSAGE:
            if (ngx_http_aiq_frames_utf8(text)) {
                e->message = text;
            }
            break;

        case AIQ_FIELD_PARAM:
            if (ngx_http_aiq_frames_utf8(text)) {
                e->param = text;
            }
            break;

        case AIQ_FIELD_HEADER:
            if (!aiq_text_clean(p, n)) {
                return "ERROR with control characters in a header";
            }
            break;
        }
    }

    if (e->code.len == 0) {
        e->code.data = "internal_error";
        e->code.len = sizeof("internal_error") - 1;
    }

    return rc == 0 ? NULL : "ERROR with a field that leads outside";
}


const char *
ngx_http_aiq_frames_verdict(const uint8_t *data, size_t len,
    ngx_http_aiq_verdict_t *v)
{
    int             rc;
    uint16_t        id, n;
    aiq_text        text;
    aiq_fields      fields;
    aiq_verdict     verdict;
    const uint8_t  *p;

    memcpy(&verdict, data, sizeof(aiq_verdict));
    memset(v, 0, sizeof(ngx_http_aiq_verdict_t));

    if (verdict.status != 200 && verdict.status != 401
        && verdict.status != 403 && verdict.status != 503)
    {
        return "VERDICT with an impossible status";
    }

    v->status = verdict.status;
    v->epoch = verdict.epoch;
    v->expires_ms = verdict.expires_ms;

    fields.pos = data + sizeof(aiq_verdict);
    fields.end = data + len;

    while ((rc = aiq_field_next(&fields, &id, &p, &n)) == 1) {

        text.data = (const char *) p;
        text.len = n;

        if (id == AIQ_FIELD_KEY_RATE) {

            if (n != sizeof(uint32_t)) {
                return "VERDICT with a rate of a wrong length";
            }

            memcpy(&v->rate, p, sizeof(uint32_t));

            if (v->rate == 0 || v->rate > AIQ_KEY_RATE_MAX) {
                return "VERDICT with an impossible rate";
            }

            continue;
        }

        if (id < AIQ_FIELD_TENANT || id > AIQ_FIELD_KEY_ID) {
            continue;
        }

        if (n > AIQ_IDENTITY_MAX || !aiq_text_clean(p, n)) {
            return "VERDICT with a name that is none";
        }

        switch (id) {

        case AIQ_FIELD_TENANT:
            v->tenant = text;
            break;

        case AIQ_FIELD_USER:
            v->user = text;
            break;

        case AIQ_FIELD_ROLE:
            v->role = text;
            break;

        default:
            v->key_id = text;
        }
    }

    if (rc != 0) {
        return "VERDICT with a field that leads outside";
    }

    if (v->status == 200
        && (v->tenant.len == 0 || v->role.len == 0 || v->key_id.len == 0))
    {
        return "VERDICT that does not say whose key it is";
    }

    return NULL;
}


const char *
ngx_http_aiq_frames_answer(const uint8_t *data, size_t len,
    ngx_http_aiq_answer_t *a)
{
    int             rc;
    uint16_t        id, n;
    aiq_answer      answer;
    aiq_fields      fields;
    const char     *why;
    const uint8_t  *p;

    memcpy(&answer, data, sizeof(aiq_answer));
    memset(a, 0, sizeof(ngx_http_aiq_answer_t));

    if (answer.status != 200 && answer.status != 429 && answer.status != 503) {
        return "ANSWER with an impossible status";
    }

    if (answer.wait_ms > AIQ_WAIT_MAX_MS) {
        return "ANSWER with an impossible time";
    }

    a->status = answer.status;
    a->wait = answer.wait_ms;

    fields.pos = data + sizeof(aiq_answer);
    fields.end = data + len;

    while ((rc = aiq_field_next(&fields, &id, &p, &n)) == 1) {

        if (id == AIQ_FIELD_RATES) {
            why = ngx_http_aiq_frames_rates(p, n, a);

            if (why) {
                return why;
            }
        }
    }

    return rc == 0 ? NULL : "ANSWER with a field that leads outside";
}


static const char *
ngx_http_aiq_frames_rates(const uint8_t *data, size_t len,
    ngx_http_aiq_answer_t *a)
{
    uint32_t   i;
    aiq_rate  *rate;

    if (len > sizeof(a->rates) || len % sizeof(aiq_rate) != 0) {
        return "ANSWER with rates of a wrong length";
    }

    memcpy(a->rates, data, len);
    a->nrates = (uint32_t) (len / sizeof(aiq_rate));

    for (i = 0; i < a->nrates; i++) {
        rate = &a->rates[i];

        if (rate->reset_ms > AIQ_WAIT_MAX_MS || rate->wait_ms > AIQ_WAIT_MAX_MS
            || rate->refused > 1)
        {
            return "ANSWER with an impossible rate";
        }
    }

    return NULL;
}


int
ngx_http_aiq_frames_header(aiq_fields *headers, aiq_text *name,
    aiq_text *value)
{
    size_t          i;
    uint16_t        id, n;
    const char     *end;
    const uint8_t  *p;

    while (aiq_field_next(headers, &id, &p, &n) == 1) {

        if (id != AIQ_FIELD_HEADER) {
            continue;
        }

        end = (const char *) p + n;

        /* "name: value", the name in lower case */

        for (i = 0; i < n; i++) {
            if (!((p[i] >= 'a' && p[i] <= 'z') || (p[i] >= '0' && p[i] <= '9')
                  || p[i] == '-' || p[i] == '_'))
            {
                break;
            }
        }

        if (i == 0 || i == n || p[i] != ':') {
            continue;
        }

        name->data = (const char *) p;
        name->len = i;

        value->data = name->data + i + 1;

        while (value->data < end && *value->data == ' ') {
            value->data++;
        }

        value->len = (size_t) (end - value->data);

        if (!ngx_http_aiq_frames_own_header(*name)) {
            return 1;
        }
    }

    return 0;
}


/* Of one hop only, or written by nginx from what HEAD says. */

static int
ngx_http_aiq_frames_own_header(aiq_text name)
{
    size_t                  i;

    static const aiq_text   own[] = {
        { "connection", 10 },
        { "content-length", 14 },
        { "content-type", 12 },
        { "date", 4 },
        { "keep-alive", 10 },
        { "proxy-authenticate", 18 },
        { "proxy-connection", 16 },
        { "sec-websocket-accept", 20 },
        { "sec-websocket-extensions", 24 },
        { "sec-websocket-protocol", 22 },
        { "server", 6 },
        { "te", 2 },
        { "traceparent", 11 },
        { "tracestate", 10 },
        { "trailer", 7 },
        { "transfer-encoding", 17 },
        { "upgrade", 7 },
        { "x-request-id", 12 }
    };

    for (i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        if (own[i].len == name.len
            && memcmp(own[i].data, name.data, name.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static int
ngx_http_aiq_frames_word(aiq_text s)
{
    size_t  i;

    for (i = 0; i < s.len; i++) {
        if (!((s.data[i] >= 'a' && s.data[i] <= 'z')
              || (s.data[i] >= '0' && s.data[i] <= '9') || s.data[i] == '_'))
        {
            return 0;
        }
    }

    return s.len > 0 && s.len <= 64;
}


/* RFC 3629: no surrogates, nothing overlong, nothing beyond U+10FFFF */

int
ngx_http_aiq_frames_utf8(aiq_text s)
{
    size_t          n;
    uint32_t        c;
    const uint8_t  *p, *end;

    p = (const uint8_t *) s.data;
    end = p + s.len;

    while (p < end) {

        c = *p++;

        if (c < 0x80) {
            continue;
        }

        if (c >= 0xc2 && c <= 0xdf) {
            n = 1;
            c &= 0x1f;

        } else if ((c & 0xf0) == 0xe0) {
            n = 2;
            c &= 0x0f;

        } else if (c >= 0xf0 && c <= 0xf4) {
            n = 3;
            c &= 0x07;

        } else {
            return 0;
        }

        if ((size_t) (end - p) < n) {
            return 0;
        }

        if ((n == 2 && (p[0] & 0xc0) == 0x80
             && ((c == 0 && p[0] < 0xa0) || (c == 0x0d && p[0] >= 0xa0)))
            || (n == 3 && ((c == 0 && p[0] < 0x90) || (c == 4 && p[0] > 0x8f))))
        {
            return 0;
        }

        while (n--) {
            if ((*p++ & 0xc0) != 0x80) {
                return 0;
            }
        }
    }

    return 1;
}
