/*
 * A request's head for HTTP/2 (RFC 9113, 8.3.1), from the one that was written for
 * HTTP/1.1: which it will be is not known before there is a connection, and the
 * rules for headers are in one place this way. The text is ours, so it is well
 * formed.
 */

#include <stdlib.h>
#include <string.h>
#include "providers/http2.h"

static nghttp2_nv field(const char *name, const char *value, size_t len)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), len, 0};
}

static void add_field(nghttp2_nv *out, char *line, size_t len)
{
    char *colon = memchr(line, ':', len), *value = colon + 1;

    for (char *p = line; p < colon; p++) {
        *p = (char)(*p >= 'A' && *p <= 'Z' ? *p | 0x20 : *p);
    }
    while (*value == ' ') {
        value++;
    }
    *out = (nghttp2_nv){(uint8_t *)line, (uint8_t *)value, (size_t)(colon - line),
                        (size_t)(line + len - value), 0};
    if (out->namelen == 4 && memcmp(line, "host", 4) == 0) {
        out->name = (uint8_t *)":authority";
        out->namelen = 10;
    }
}

size_t http2_head(aiq_str head, bool https, char **text, nghttp2_nv **fields)
{
    size_t lines = 0, n = 0;

    *text = memcpy(aiq_alloc(head.len), head.data, head.len);
    for (size_t i = 0; i < head.len; i++) {
        lines += head.data[i] == '\n';
    }
    nghttp2_nv *out = *fields = aiq_alloc((lines + 2) * sizeof(*out));
    char *line = *text, *end = *text + head.len;
    char *space = memchr(line, ' ', head.len), *path = space + 1;
    char *stop = memmem(line, head.len, "\r\n", 2);
    out[n++] = field(":method", line, (size_t)(space - line));
    out[n++] = field(":scheme", https ? "https" : "http", https ? 5 : 4);
    out[n++] = field(":path", path, (size_t)(stop - path) - strlen(" HTTP/1.1"));
    for (line = stop + 2; line < end; line = stop + 2) {
        stop = memmem(line, (size_t)(end - line), "\r\n", 2);
        add_field(&out[n++], line, (size_t)(stop - line));
    }
    return n;
}
