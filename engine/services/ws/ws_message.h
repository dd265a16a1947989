/*
 * What a client says on /ws: one JSON object a message, docs/websocket.md. Unknown fields are
 * errors, so that a mistake is not taken for a wish that was granted.
 *
 * Names (ids of the client's own, of streams, of topics) are of A-Z a-z 0-9 . _ - and at most
 * WS_NAME_MAX long, so they can be used as they stand in the text. Everything of a message
 * points into it.
 */

#ifndef AIQ_WS_MESSAGE_H
#define AIQ_WS_MESSAGE_H

#include "core/err.h"
#include "core/json.h"
#include "link/job.h"

#define WS_NAME_MAX    64
#define WS_HEADERS_MAX 16
#define WS_HEADER_MAX  256 /* of a header's value */

typedef enum {
    WS_CHAT,
    WS_CANCEL,
    WS_RESUME,
    WS_SUBSCRIBE,
    WS_UNSUBSCRIBE,
    WS_PING,
    WS_AUTH,
} ws_kind;

typedef struct {
    ws_kind kind;
    aiq_str id;     /* empty: none */
    aiq_str source; /* a stream's id, or a topic's name */
    aiq_str token;
    uint64_t after; /* 0 where nothing was said */
    bool says_after;
    json_value body; /* an object */
    job_header headers[WS_HEADERS_MAX];
    size_t n_headers;
} ws_message;

/* False and *err: a 400 that names the field; m->id is there as far as it was found. */
bool ws_message_parse(ws_message *m, aiq_str text, aiq_err *err);

/* Appends the body of a chat with "stream" as true, whatever it said. */
void ws_message_chat(const ws_message *m, aiq_buf *out);

#endif
