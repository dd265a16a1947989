#include "mock.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "../measure.h"

/* Replies. */

void mock_reply(conn *c, const char *status, const char *type, const char *headers,
                const char *body)
{
    mock_add_format(&c->out, "HTTP/1.1 %s\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n",
                    status, type, headers, strlen(body));
    mock_add_text(&c->out, body);
}

void mock_reply_error(conn *c, const char *status, const char *headers, const char *code)
{
    char body[256];

    snprintf(body, sizeof(body),
             "{\"error\":{\"message\":\"The mock says %s.\",\"type\":\"mock\",\"param\":null,"
             "\"code\":\"%s\"}}",
             status, code);
    mock_reply(c, status, "application/json", headers, body);
}

/* Long enough for a body of about 1 KB. */
static void add_filler(bytes *b, size_t n)
{
    static const char text[] = "All work and no play makes a dull gateway. ";

    for (size_t i = 0; i < n; i += sizeof(text) - 1) {
        size_t left = n - i;
        mock_add(b, text, left < sizeof(text) - 1 ? left : sizeof(text) - 1);
    }
}

static void answer_of(bytes *b, const char *model, size_t filler)
{
    mock_add_format(
        b,
        "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,"
        "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"",
        model);
    add_filler(b, filler);
    mock_add_text(
        b, "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
           "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}");
}

void mock_reply_answer(conn *c, size_t filler)
{
    bytes body = {0};

    answer_of(&body, c->model, filler);
    mock_add_format(
        &c->out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        body.len);
    mock_add(&c->out, body.data, body.len);
    free(body.data);
}

static void begin_stream(conn *c)
{
    mock_add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n");
    c->streaming = true;
}

static void add_chunk(conn *c, const char *data, size_t n)
{
    mock_add_format(&c->out, "%zx\r\n", n);
    mock_add(&c->out, data, n);
    mock_add_text(&c->out, "\r\n");
}

/* An event with one choice; delta and finish are JSON. */
static void add_event(conn *c, const char *delta, const char *finish)
{
    char text[512];
    int n = snprintf(text, sizeof(text),
                     "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\","
                     "\"created\":1700000000,\"model\":\"%s\",\"choices\":[{\"index\":0,"
                     "\"delta\":%s,\"finish_reason\":%s}]%s}\n\n",
                     c->model, delta, finish, c->usage ? ",\"usage\":null" : "");

    add_chunk(c, text, (size_t)n);
}

static void end_stream(conn *c)
{
    char text[512];

    if (c->usage) {
        int n =
            snprintf(text, sizeof(text),
                     "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\","
                     "\"created\":1700000000,\"model\":\"%s\",\"choices\":[],\"usage\":"
                     "{\"prompt_tokens\":9,\"completion_tokens\":%u,\"total_tokens\":%u}}\n\n",
                     c->model, c->frames, c->frames + 9);
        add_chunk(c, text, (size_t)n);
    }
    add_chunk(c, "data: [DONE]\n\n", 14);
    mock_add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

/* The next frame of a paced stream: a role, N tokens, the end. */
void mock_stream_step(conn *c)
{
    char delta[64];

    if (c->trickle) {
        mock_add_text(&c->out, " ");
        return;
    }
    if (c->sent == 0) {
        add_event(c, "{\"role\":\"assistant\",\"content\":\"\"}", "null");
    } else if (c->sent <= c->frames) {
        snprintf(delta, sizeof(delta), "{\"content\":\" token%u\"}", c->sent);
        add_event(c, delta, "null");
    }
    if (c->sent++ == c->frames) {
        add_event(c, "{}", "\"stop\"");
        end_stream(c);
    }
}

void mock_run_stream(mock *m, conn *c, uint32_t frames, uint64_t pace_ns)
{
    begin_stream(c);
    c->frames = frames;
    c->sent = 0;
    c->pace_ns = pace_ns;
    mock_stream_step(c);
    while (c->streaming && pace_ns == 0) {
        mock_stream_step(c);
    }
    if (c->streaming) {
        mock_timer_start(m, c, now_ns(CLOCK_MONOTONIC) + pace_ns);
    }
}

void mock_run_held(mock *m, conn *c, uint32_t first)
{
    const uint64_t day = 86400ull * 1000000000;

    begin_stream(c);
    c->frames = 8;
    c->pace_ns = 1000000;
    for (c->sent = 0; c->sent <= first && c->sent < c->frames;) {
        mock_stream_step(c);
    }
    c->held = true;
    mock_timer_start(m, c, now_ns(CLOCK_MONOTONIC) + day);
}

/* Kinds of trouble. */

static void begin_well(conn *c)
{
    begin_stream(c);
    c->frames = 8;
    for (c->sent = 0; c->sent < 3;) {
        mock_stream_step(c);
    }
}

static void hang_headers(mock *m, conn *c)
{
    (void)m;
    c->hanging = true;
}

/* One that nobody sees the end of. */
static void endless(mock *m, conn *c)
{
    mock_run_stream(m, c, UINT32_MAX, 20 * 1000000ull);
}

static void hang_mid(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    c->hanging = true;
}

static void reset_mid(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    c->closing = c->reset = true;
}

/* A role, but no token. */
static void role_close(mock *m, conn *c)
{
    (void)m;
    begin_stream(c);
    c->frames = 8;
    mock_stream_step(c);
    c->closing = true;
}

static void half_line(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    add_chunk(c, "data: {\"id\":\"chatcmpl-mo", 24);
    mock_add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

static void no_done(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    mock_add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

static void error_mid(mock *m, conn *c)
{
    static const char event[] = "data: {\"error\":{\"message\":\"secret detail\"}}\n\n";

    (void)m;
    begin_well(c);
    add_chunk(c, event, sizeof(event) - 1);
    mock_add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

/* One line of 100 MB, made as it is read. */
static void endless_line(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    mock_add_format(&c->out, "%x\r\ndata: ", 100u << 20);
    c->flood = (100u << 20) - 6;
    c->closing = true;
}

static void endless_headers(mock *m, conn *c)
{
    (void)m;
    mock_add_text(&c->out, "HTTP/1.1 200 OK\r\n");
    c->flood = 100u << 20;
    c->closing = true;
}

static void long_length(mock *m, conn *c)
{
    (void)m;
    mock_add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                           "Content-Length: 5000\r\n\r\n{\"id\":");
    c->closing = true;
}

static void short_length(mock *m, conn *c)
{
    (void)m;
    mock_add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                           "Content-Length: 50\r\n\r\n");
    answer_of(&c->out, c->model, 100);
}

static void close_at_once(mock *m, conn *c)
{
    (void)m;
    c->closing = true;
}

static void no_http(mock *m, conn *c)
{
    (void)m;
    mock_add_text(&c->out, "SSH-2.0-OpenSSH_9.2\r\n");
}

static void html_500(mock *m, conn *c)
{
    (void)m;
    mock_reply(c, "500 Internal Server Error", "text/html", "",
               "<html><h1>secret detail</h1></html>");
}

static void html_200(mock *m, conn *c)
{
    (void)m;
    mock_reply(c, "200 OK", "text/html", "", "<html><h1>secret detail</h1></html>");
}

static void redirect(mock *m, conn *c)
{
    (void)m;
    mock_reply(c, "302 Found", "text/plain", "Location: http://127.0.0.1:1/\r\n", "elsewhere");
}

static void status_400(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "400 Bad Request", "", "mock_invalid");
}

static void status_401(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "401 Unauthorized", "", "invalid_api_key");
}

static void status_404(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "404 Not Found", "", "model_not_found");
}

static void too_long(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "400 Bad Request", "", "context_length_exceeded");
}

static void against_rules(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "400 Bad Request", "", "content_filter");
}

/* A byte every 20 ms, without end. */
static void trickle(mock *m, conn *c, const char *begin)
{
    mock_add_text(&c->out, begin);
    c->trickle = c->streaming = true;
    c->pace_ns = 20000000;
    mock_timer_start(m, c, now_ns(CLOCK_MONOTONIC) + c->pace_ns);
}

static void trickle_headers(mock *m, conn *c)
{
    trickle(m, c, "HTTP/1.1 200 OK\r\nX-Slow: ");
}

static void trickle_body(mock *m, conn *c)
{
    trickle(m, c,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            "Content-Length: 100000\r\n\r\n");
}

/* Without a Retry-After. */
static void limited(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "429 Too Many Requests", "", "rate_limit_exceeded");
}

static void status_429(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "429 Too Many Requests", "Retry-After: 7\r\n", "rate_limit_exceeded");
}

/* The same as a date. */
static void status_429_date(mock *m, conn *c)
{
    time_t at = time(NULL) + 7;
    char header[64];

    (void)m;
    strftime(header, sizeof(header), "Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&at));
    mock_reply_error(c, "429 Too Many Requests", header, "rate_limit_exceeded");
}

static void status_503(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "503 Service Unavailable", "Retry-After: 3\r\n", "overloaded");
}

static void status_500(mock *m, conn *c)
{
    (void)m;
    mock_reply_error(c, "500 Internal Server Error", "", "broken");
}

static void big(mock *m, conn *c)
{
    (void)m;
    mock_reply_answer(c, 4u << 20);
}

static const struct {
    const char *name;
    void (*run)(mock *m, conn *c);
} kinds[] = {
    {"hang-headers", hang_headers},
    {"hang-mid", hang_mid},
    {"reset-mid", reset_mid},
    {"half-line", half_line},
    {"no-done", no_done},
    {"role-close", role_close},
    {"error-mid", error_mid},
    {"100mb-line", endless_line},
    {"endless-headers", endless_headers},
    {"endless", endless}, /* behind endless-headers, for the first that fits counts */
    {"bad-length", long_length},
    {"short-length", short_length},
    {"close", close_at_once},
    {"no-http", no_http},
    {"500-html", html_500},
    {"200-html", html_200},
    {"redirect", redirect},
    {"400", status_400},
    {"401", status_401},
    {"404", status_404},
    {"too-long", too_long},
    {"rules", against_rules},
    {"limited", limited},
    {"trickle-headers", trickle_headers},
    {"trickle-body", trickle_body},
    {"429-date", status_429_date},
    {"429", status_429},
    {"503", status_503},
    {"500", status_500}, /* behind 500-html, likewise */
    {"big", big},
};

/* A recorded stream, cut at random places: pieces of 1 to 64 bytes, each a chunk. */
bool mock_replay(mock *m, conn *c, const char *name)
{
    char path[512];
    uint8_t data[65536];
    size_t at = 0;

    snprintf(path, sizeof(path), "%s/%s.sse", m->folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof(data));
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        return false;
    }
    begin_stream(c);
    while (at < (size_t)n) {
        size_t len = 1 + mock_random(m) % 64;
        len = len < (size_t)n - at ? len : (size_t)n - at;
        add_chunk(c, (char *)data + at, len);
        at += len;
    }
    add_chunk(c, "\n\n", 2);
    mock_add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
    return true;
}

/* Is this one of the first n requests of its model? */
static bool is_first(mock *m, const char *model, unsigned n)
{
    size_t i = 0;

    while (i < 63 && m->firsts[i].seen && strcmp(m->firsts[i].model, model) != 0) {
        i++;
    }
    strcpy(m->firsts[i].model, model);
    return ++m->firsts[i].seen <= n;
}

/* Gets what a model's name says it shall get now; false: a reply. */
bool mock_run_kind(mock *m, conn *c, const char *head)
{
    const char *kind = c->model + 5;
    const size_t n_kinds = sizeof(kinds) / sizeof(kinds[0]);
    size_t len;
    unsigned n;

    if (strncmp(c->model, "mock-", 5) != 0) {
        return false;
    }
    if (strncmp(kind, "first-", 6) == 0) {
        n = (unsigned)strtoul(kind + 6, (char **)&kind, 10);
        kind++;
        if (!is_first(m, c->model, n)) {
            return false;
        }
    } else if (strncmp(kind, "key-", 4) == 0) {
        kind += 4;
        if (!strstr(head, "bad")) {
            return false;
        }
    }
    for (size_t i = 0; i < n_kinds; i++) {
        len = strlen(kinds[i].name);
        if (strncmp(kind, kinds[i].name, len) == 0 &&
            (kind[len] == '\0' || (kind != c->model + 5 && kind[len] == '-'))) {
            kinds[i].run(m, c);
            return true;
        }
    }
    return false;
}
