/*
 * Any bytes to the response parser. However they are cut, it finds the same
 * response and the same body, and a length that it announces is kept.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "providers/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    http_event end;
    unsigned status;
    int64_t length;
    bool keep_alive;
    aiq_buf body;
} response;

static http_field fields[HTTP_FIELDS_MAX];

static void check_head(const http_head *head)
{
    assert(head->status >= 200 && head->status <= 599);
    assert(head->n_fields <= HTTP_FIELDS_MAX);
    for (size_t i = 0; i < head->n_fields; i++) {
        assert(head->fields[i].name.len > 0);
        assert(memchr(head->fields[i].value.data, '\n', head->fields[i].value.len) == NULL);
    }
}

static response run(const uint8_t *data, size_t size, size_t n)
{
    response r = {.end = HTTP_MORE};
    http_parser p;
    aiq_str piece;

    http_parser_init(&p, fields);
    for (size_t at = 0; at < size && r.end == HTTP_MORE; at += n) {
        size_t len = size - at < n ? size - at : n;
        uint8_t *part = memcpy(aiq_alloc(len), data + at, len);
        const uint8_t *pos = part;
        do {
            r.end = http_parse(&p, &pos, part + len, &piece);
            if (r.end == HTTP_HEAD) {
                check_head(&p.head);
                r.status = p.head.status;
                r.length = p.head.length;
            } else if (r.end == HTTP_BODY) {
                assert(piece.len > 0);
                aiq_buf_add(&r.body, piece.data, piece.len);
            }
        } while (r.end == HTTP_HEAD || r.end == HTTP_BODY);
        assert(p.held.len <= HTTP_HEAD_MAX + 1);
        free(part);
    }
    if (r.end == HTTP_MORE) {
        r.end = http_parse_end(&p);
    }
    r.keep_alive = p.keep_alive;
    http_parser_free(&p);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    response whole = run(data + 1, size - 1, size - 1);
    response cut = run(data + 1, size - 1, 1 + data[0] % 16);

    assert(whole.end == cut.end && whole.status == cut.status && whole.length == cut.length);
    assert(whole.keep_alive == cut.keep_alive);
    assert(whole.body.len == cut.body.len);
    assert(cut.body.len == 0 || memcmp(whole.body.data, cut.body.data, cut.body.len) == 0);
    if (whole.end == HTTP_DONE && whole.length > 0 && whole.status != 204 &&
        whole.status != 304) {
        assert((int64_t)whole.body.len == whole.length);
    }
    aiq_buf_free(&whole.body);
    aiq_buf_free(&cut.body);
    return 0;
}
