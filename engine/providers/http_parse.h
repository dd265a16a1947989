/*
 * A strict parser of HTTP/1.x responses, fed with bytes as they come. Pure: it
 * knows no sockets and allocates only a head that came in pieces.
 *
 * What it refuses, because two readers could disagree on it or because a peer
 * could make us hold memory: heads of more than HTTP_HEAD_MAX bytes or
 * HTTP_FIELDS_MAX fields, line ends other than CRLF, folded lines, names that
 * are no tokens, control characters, two lengths, a length beside a transfer
 * coding, codings other than chunked, odd chunk sizes. Interim (1xx) responses
 * are skipped. A body ends with its length, its last chunk, or, where it has
 * neither, with the connection.
 *
 *     http_parser_init(&p, fields);
 *     while ((event = http_parse(&p, &pos, end, &piece)) > HTTP_MORE) …
 */

#ifndef AIQ_HTTP_PARSE_H
#define AIQ_HTTP_PARSE_H

#include "core/pool.h"

#define HTTP_HEAD_MAX    (64u << 10)
#define HTTP_FIELDS_MAX  100
#define HTTP_INTERIM_MAX 8 /* 1xx responses before the one that counts */

typedef struct {
    aiq_str name, value; /* as they came; the value without white space around it */
} http_field;

typedef struct {
    unsigned status; /* 200..599 */
    const http_field *fields;
    size_t n_fields;
    int64_t length; /* -1: not known */
} http_head;

typedef enum {
    HTTP_MORE, /* all bytes are used up */
    HTTP_HEAD, /* p->head is there, until the next call */
    HTTP_BODY, /* *piece is part of the body, in the caller's bytes */
    HTTP_DONE, /* the response is whole; bytes may be left */
    HTTP_BAD   /* p->reason says why; the connection is of no more use */
} http_event;

typedef enum {
    HTTP_IN_HEAD,
    HTTP_BODY_START,
    HTTP_IN_LENGTH,
    HTTP_IN_REST, /* until the connection ends */
    HTTP_IN_CHUNK_SIZE,
    HTTP_IN_CHUNK_EXTENSION,
    HTTP_IN_CHUNK,
    HTTP_IN_CHUNK_CR,
    HTTP_IN_CHUNK_LF,
    HTTP_IN_TRAILER,
    HTTP_ENDED
} http_state;

typedef struct {
    http_state state;
    http_head head;
    http_field *fields; /* the caller's; HTTP_FIELDS_MAX of them */
    aiq_buf held;       /* a head that came in pieces */
    uint64_t left;      /* bytes of the body or of the chunk */
    uint32_t line;      /* bytes of the present chunk-size line, or of all trailers */
    uint8_t interim, digits;
    bool chunked, line_cr, line_empty;
    bool keep_alive; /* the connection may serve another request */
    const char *reason;
} http_parser;

/* fields may be shared by parsers: they are in use from a call that returns
 * HTTP_HEAD until the next call, of whichever parser. */
void http_parser_init(http_parser *p, http_field fields[HTTP_FIELDS_MAX]);
void http_parser_free(http_parser *p);

http_event http_parse(http_parser *p, const uint8_t **pos, const uint8_t *end, aiq_str *piece);

/* The connection has ended: HTTP_DONE where that ends the body, else HTTP_BAD. */
http_event http_parse_end(http_parser *p);

/* A Content-Length's value. False: it is none. */
bool http_parse_length(aiq_str value, int64_t *length);

/* The value of a field, or an empty slice. name in any case. */
aiq_str http_head_get(const http_head *head, const char *name);

#endif
