#include "redis/redis_url.h"
#include <string.h>
#include "core/pool.h"

#define PORT      "6379"
#define BASES_MAX 65535

static bool invalid(aiq_err *err, const char *what)
{
    return aiq_fail(err, 500, "redis_url",
                    "--redis takes redis://[user][:password@]host[:port][/database]; %s", what);
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Percent-decoded; false: too long, or not decodable. */
static bool decode(char out[REDIS_URL_PART], aiq_str in)
{
    size_t n = 0;

    for (size_t i = 0; i < in.len; i++) {
        char c = in.data[i];
        if (c == '%') {
            int high = i + 2 < in.len ? hex(in.data[i + 1]) : -1;
            int low = i + 2 < in.len ? hex(in.data[i + 2]) : -1;
            if (high < 0 || low < 0 || (high | low) == 0) {
                return false;
            }
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (n == REDIS_URL_PART - 1) {
            return false;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

static bool number(aiq_str text, unsigned max, unsigned *out)
{
    unsigned n = 0;

    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
        n = n * 10 + (unsigned)(text.data[i] - '0');
        if (n > max) {
            return false;
        }
    }
    *out = n;
    return text.len > 0;
}

/* What stands before the last `c`, cut off from rest; nothing where there is none. */
static aiq_str cut_before(aiq_str *rest, char c)
{
    const char *at = memrchr(rest->data, c, rest->len);
    aiq_str before = {rest->data, at ? (size_t)(at - rest->data) : 0};

    if (at) {
        rest->len -= before.len + 1;
        rest->data = at + 1;
    }
    return before;
}

static aiq_str cut_after(aiq_str *rest, char c)
{
    const char *at = memchr(rest->data, c, rest->len);
    aiq_str after = {0};

    if (at) {
        after = (aiq_str){at + 1, rest->len - (size_t)(at + 1 - rest->data)};
        rest->len = (size_t)(at - rest->data);
    }
    return after;
}

/* host[:port], [address][:port] */
static bool parse_address(redis_url *url, aiq_str rest, aiq_err *err)
{
    aiq_str port = {0};
    unsigned n;

    if (rest.len && *rest.data == '[') {
        const char *end = memchr(rest.data, ']', rest.len);
        if (end == NULL) {
            return invalid(err, "the address has no \"]\"");
        }
        aiq_str behind = {end + 1, rest.len - (size_t)(end + 1 - rest.data)};
        port = cut_after(&behind, ':');
        rest = (aiq_str){rest.data + 1, (size_t)(end - rest.data - 1)};
        if (behind.len) {
            return invalid(err, "the port is wrong");
        }
    } else {
        port = cut_after(&rest, ':');
    }
    if (port.data && (!number(port, 65535, &n) || n == 0 || port.len >= sizeof(url->port))) {
        return invalid(err, "the port is wrong");
    }
    if (port.data) {
        memcpy(url->port, port.data, port.len);
    } else {
        memcpy(url->port, PORT, sizeof(PORT));
    }
    if (rest.len == 0 || rest.len >= REDIS_URL_PART) {
        return invalid(err, "there is no host");
    }
    memcpy(url->host, rest.data, rest.len);
    return true;
}

bool redis_url_parse(redis_url *url, const char *text, aiq_err *err)
{
    aiq_str rest = {text, strlen(text)};

    *url = (redis_url){0};
    if (strncmp(text, "rediss://", 9) == 0) {
        return invalid(err, "TLS (rediss://) is not possible, a tunnel like stunnel is");
    }
    if (strncmp(text, "redis://", 8) != 0) {
        return invalid(err, "it does not begin so");
    }
    rest.data += 8;
    rest.len -= 8;
    aiq_str user = cut_before(&rest, '@');
    aiq_str password = cut_after(&user, ':');
    aiq_str database = cut_after(&rest, '/');
    if (!decode(url->user, user) || !decode(url->password, password)) {
        return invalid(err, "the user or the password is too long or badly encoded");
    }
    if (url->user[0] && !url->password[0]) {
        return invalid(err, "a user has a password");
    }
    if (database.len && !number(database, BASES_MAX, &url->database)) {
        return invalid(err, "the database is no number");
    }
    return parse_address(url, rest, err);
}
