#include "services/service.h"
#include <string.h>

static int hex_digit(char c)
{
    c |= 0x20;
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static aiq_str decode(aiq_pool *pool, aiq_str value)
{
    char *out = aiq_pool_alloc(pool, value.len + 1);
    size_t n = 0;

    for (size_t i = 0; i < value.len; i++) {
        int high = i + 2 < value.len ? hex_digit(value.data[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(value.data[i + 2]) : -1;
        bool escape = value.data[i] == '%' && low >= 0;
        out[n++] = escape ? (char)(high << 4 | low) : value.data[i];
        i += escape ? 2 : 0;
    }
    return (aiq_str){out, n};
}

bool service_arg(aiq_pool *pool, aiq_str *args, aiq_str *name, aiq_str *value)
{
    const char *pos = args->data, *end = args->data + args->len;

    while (pos < end && *pos == '&') {
        pos++; /* nothing between two of them */
    }
    if (pos == end) {
        return false;
    }
    const char *stop = memchr(pos, '&', (size_t)(end - pos));
    stop = stop ? stop : end;
    const char *equals = memchr(pos, '=', (size_t)(stop - pos));
    *name = (aiq_str){pos, (size_t)((equals ? equals : stop) - pos)};
    *value = (aiq_str){equals ? equals + 1 : stop, 0};
    value->len = (size_t)(stop - value->data);
    *value = decode(pool, *value);
    *args = (aiq_str){stop, (size_t)(end - stop)};
    return true;
}
