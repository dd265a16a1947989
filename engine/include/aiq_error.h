/*
 * The error envelopes that clients see, and who sees which. Both ends of the
 * link write them: the worker for its own refusals and for ERROR frames, the
 * engine for error events inside a stream. Written once, here.
 *
 *     OpenAI      {"error":{"message":…,"type":…,"param":…,"code":…}}
 *     Anthropic   {"type":"error","error":{"type":…,"message":…},"request_id":…}
 *     our own     {"error":{"code":…,"message":…,"param":…,"request_id":…}}
 */

#ifndef AIQ_ERROR_H
#define AIQ_ERROR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum {
    AIQ_DIALECT_OWN,
    AIQ_DIALECT_OPENAI,
    AIQ_DIALECT_ANTHROPIC,
    AIQ_DIALECT_RESPONSES /* OpenAI's, but for the errors inside streams */
} aiq_dialect;

typedef struct {
    const char *data;
    size_t len;
} aiq_text;

typedef struct {
    unsigned status;
    aiq_text code;       /* a stable word: model_not_found, body_too_large, … */
    aiq_text message;    /* a sentence for the caller; no secrets, no addresses */
    aiq_text param;      /* empty: none */
    aiq_text request_id; /* empty: none */
} aiq_error_info;

/* Room for every envelope, all of it escaped: 6 x (1024 + 128 + 64 + 64) and the words. */
#define AIQ_ERROR_BODY_MAX 8192

/* The dialect a request speaks: the gateway's callers use OpenAI's SDK, except
 * on Anthropic's paths and those of the Responses API; every other service is ours. uri is the
 * one that the service sees. */
static inline aiq_dialect aiq_dialect_of(aiq_text service, aiq_text uri)
{
    static const char messages[] = "/v1/messages", responses[] = "/v1/responses";
    const size_t n = sizeof(messages) - 1, m = sizeof(responses) - 1;

    if (service.len != 7 || memcmp(service.data, "gateway", 7) != 0) {
        return AIQ_DIALECT_OWN;
    }
    if (uri.len >= n && memcmp(uri.data, messages, n) == 0 &&
        (uri.len == n || uri.data[n] == '/')) {
        return AIQ_DIALECT_ANTHROPIC;
    }
    if (uri.len == m && memcmp(uri.data, responses, m) == 0) {
        return AIQ_DIALECT_RESPONSES;
    }
    return AIQ_DIALECT_OPENAI;
}

/* The class that the official SDKs expect beside a status. */
static inline const char *aiq_error_type(aiq_dialect dialect, unsigned status)
{
    if (dialect == AIQ_DIALECT_ANTHROPIC) {
        switch (status) {
        case 401:
            return "authentication_error";
        case 402:
            return "billing_error";
        case 403:
            return "permission_error";
        case 404:
            return "not_found_error";
        case 413:
            return "request_too_large";
        case 429:
            return "rate_limit_error";
        case 504:
            return "timeout_error";
        case 503:
        case 529:
            return "overloaded_error";
        default:
            return status < 500 ? "invalid_request_error" : "api_error";
        }
    }
    switch (status) {
    case 401:
        return "authentication_error";
    case 402:
        return "insufficient_quota";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

/* A bounded writer; what does not fit is cut at a character's border. */
typedef struct {
    char *pos, *end;
} aiq_error_out;

static inline void aiq_error_raw(aiq_error_out *o, const char *s)
{
    size_t n = strlen(s), room = (size_t)(o->end - o->pos);

    if (n <= room) {
        memcpy(o->pos, s, n);
        o->pos += n;
    }
}

/* A JSON string of at most `max` bytes of text. Bytes that are no UTF-8 are the
 * caller's to keep out; control characters are escaped. */
static inline void aiq_error_string(aiq_error_out *o, aiq_text s, size_t max)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = s.len < max ? s.len : max;

    if (n < s.len) {
        while (n > 0 && ((unsigned char)s.data[n] & 0xc0) == 0x80) {
            n--;
        }
    }
    aiq_error_raw(o, "\"");
    for (size_t i = 0; i < n && o->end - o->pos > 8; i++) {
        unsigned char c = (unsigned char)s.data[i];

        if (c == '"' || c == '\\') {
            *o->pos++ = '\\';
            *o->pos++ = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            memcpy(o->pos, "\\u00", 4);
            o->pos[4] = hex[c >> 4];
            o->pos[5] = hex[c & 15];
            o->pos += 6;
        } else {
            *o->pos++ = (char)c;
        }
    }
    aiq_error_raw(o, "\"");
}

static inline void aiq_error_or_null(aiq_error_out *o, aiq_text s, size_t max)
{
    if (s.len) {
        aiq_error_string(o, s, max);
    } else {
        aiq_error_raw(o, "null");
    }
}

/* Writes the envelope, without a NUL, and returns its length. */
static inline size_t aiq_error_render(char body[AIQ_ERROR_BODY_MAX], aiq_dialect dialect,
                                      const aiq_error_info *e)
{
    aiq_error_out o = {body, body + AIQ_ERROR_BODY_MAX};

    switch (dialect) {
    case AIQ_DIALECT_OPENAI:
    case AIQ_DIALECT_RESPONSES:
        aiq_error_raw(&o, "{\"error\":{\"message\":");
        aiq_error_string(&o, e->message, 1024);
        aiq_error_raw(&o, ",\"type\":\"");
        aiq_error_raw(&o, aiq_error_type(dialect, e->status));
        aiq_error_raw(&o, "\",\"param\":");
        aiq_error_or_null(&o, e->param, 128);
        aiq_error_raw(&o, ",\"code\":");
        aiq_error_or_null(&o, e->code, 64);
        aiq_error_raw(&o, "}}");
        break;
    case AIQ_DIALECT_ANTHROPIC:
        aiq_error_raw(&o, "{\"type\":\"error\",\"error\":{\"type\":\"");
        aiq_error_raw(&o, aiq_error_type(dialect, e->status));
        aiq_error_raw(&o, "\",\"message\":");
        aiq_error_string(&o, e->message, 1024);
        aiq_error_raw(&o, "},\"request_id\":");
        aiq_error_or_null(&o, e->request_id, 64);
        aiq_error_raw(&o, "}");
        break;
    case AIQ_DIALECT_OWN:
        aiq_error_raw(&o, "{\"error\":{\"code\":");
        aiq_error_string(&o, e->code, 64);
        aiq_error_raw(&o, ",\"message\":");
        aiq_error_string(&o, e->message, 1024);
        if (e->param.len) {
            aiq_error_raw(&o, ",\"param\":");
            aiq_error_string(&o, e->param, 128);
        }
        aiq_error_raw(&o, ",\"request_id\":");
        aiq_error_or_null(&o, e->request_id, 64);
        aiq_error_raw(&o, "}}");
        break;
    }
    return (size_t)(o.pos - body);
}

#endif
