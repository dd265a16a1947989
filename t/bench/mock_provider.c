/*
 * An OpenAI-like provider for tests and measurements: one process, one epoll
 * loop. It prints its port on a line of its own and serves until it is killed.
 *
 *     mock_provider [-p port] [-d folder of .sse files] [-s seed] [-r record file]
 *
 * What it answers depends on the request's model:
 *
 *     mock-stream-NxMms   a stream of N tokens, one every M ms (0: as fast as read)
 *     mock-replay-NAME    NAME.sse of the folder, cut at random places
 *     mock-KIND           a fault or an error, see the table of kinds below
 *     mock-first-N-KIND   that for the first N requests of this model, then a reply;
 *                         mock-first-N-KIND-X is another one
 *     mock-key-KIND       that for a key with "bad" in it, a reply for others
 *     anything else       a reply of about 1 KB, or a stream of 8 tokens
 *
 * A body that is no finished object is answered with 400, so that a proxy in
 * front has the same work as a gateway that looks itself. GET /stats tells what
 * is going on; the record file has every request as it came, each followed by
 * a line "=== end".
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "measure.h"

#define REQUEST_MAX (64u << 20)
#define BATCH       256

typedef struct {
    char *data;
    size_t start, len, size; /* len bytes from start on */
} bytes;

typedef struct conn {
    int fd;
    uint32_t events;
    bytes in, out;
    bool closing; /* once out is sent */
    bool reset;   /* and with RST */
    bool hanging; /* says nothing more, and does not close */

    /* the stream under way: its text is made piece by piece */
    char model[96];
    bool streaming, usage, trickle;
    uint32_t frames, sent;
    uint64_t pace_ns, due_ns;
    uint32_t heap; /* place in the heap of timers; 0: none */
    size_t flood;  /* bytes of a flood that are still to come */
    struct conn *next_dead;
} conn;

typedef struct {
    int epoll, listener, record;
    const char *folder;
    uint64_t random;
    conn **timers; /* a heap by due_ns, from 1 */
    uint32_t n_timers, timer_size;
    conn *dead; /* freed at the end of a turn: events of it may still be due */
    uint64_t requests, open, aborted;
    struct {
        char model[96];
        unsigned seen;
    } firsts[64]; /* of mock-first-… */
} mock;

/* Bytes. */

static void reserve(bytes *b, size_t n)
{
    if (b->start && b->start >= b->len) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
    }
    if (b->start + b->len + n > b->size) {
        b->size = (b->start + b->len + n) * 2;
        b->data = realloc(b->data, b->size);
        if (b->data == NULL) {
            die("mock: out of memory");
        }
    }
}

static void add(bytes *b, const void *data, size_t n)
{
    reserve(b, n);
    memcpy(b->data + b->start + b->len, data, n);
    b->len += n;
}

static void add_text(bytes *b, const char *text)
{
    add(b, text, strlen(text));
}

static void __attribute__((format(printf, 2, 3))) add_format(bytes *b, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    add(b, text, (size_t)n);
}

static void consume(bytes *b, size_t n)
{
    b->start += n;
    b->len -= n;
}

static uint64_t next_random(mock *m)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random;
}

/* Timers. */

static void heap_put(mock *m, uint32_t i, conn *c)
{
    m->timers[i] = c;
    c->heap = i;
}

static void heap_sift(mock *m, uint32_t i, conn *c)
{
    for (; i > 1 && m->timers[i / 2]->due_ns > c->due_ns; i /= 2) {
        heap_put(m, i, m->timers[i / 2]);
    }
    for (uint32_t child; (child = 2 * i) <= m->n_timers; i = child) {
        child += child < m->n_timers && m->timers[child + 1]->due_ns < m->timers[child]->due_ns;
        if (m->timers[child]->due_ns >= c->due_ns) {
            break;
        }
        heap_put(m, i, m->timers[child]);
    }
    heap_put(m, i, c);
}

static void timer_stop(mock *m, conn *c)
{
    uint32_t i = c->heap;

    if (i) {
        conn *last = m->timers[m->n_timers--];
        c->heap = 0;
        if (last != c) {
            heap_sift(m, i, last);
        }
    }
}

static void timer_start(mock *m, conn *c, uint64_t due_ns)
{
    timer_stop(m, c);
    if (m->n_timers + 2 > m->timer_size) {
        m->timer_size = m->timer_size * 2 + 64;
        m->timers = realloc(m->timers, m->timer_size * sizeof(conn *));
        if (m->timers == NULL) {
            die("mock: out of memory");
        }
    }
    c->due_ns = due_ns;
    m->timers[++m->n_timers] = c;
    heap_sift(m, m->n_timers, c);
}

/* Connections. */

static void watch(mock *m, conn *c, uint32_t events)
{
    if (c->events != events) {
        struct epoll_event e = {.events = events, .data.ptr = c};
        epoll_ctl(m->epoll, EPOLL_CTL_MOD, c->fd, &e);
        c->events = events;
    }
}

static void close_conn(mock *m, conn *c)
{
    const struct linger hard = {1, 0};

    if (c->fd < 0) {
        return;
    }
    if (c->reset) {
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    }
    timer_stop(m, c);
    close(c->fd);
    c->fd = -1;
    m->open--;
    c->next_dead = m->dead;
    m->dead = c;
}

static void bury(mock *m)
{
    while (m->dead) {
        conn *c = m->dead;
        m->dead = c->next_dead;
        free(c->in.data);
        free(c->out.data);
        free(c);
    }
}

/* Sends what there is. A connection that takes no more is written to later. */
static void flush(mock *m, conn *c)
{
    while (c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, c->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(m, c, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) {
            m->aborted += c->streaming;
            close_conn(m, c);
            return;
        }
        consume(&c->out, (size_t)n);
    }
    watch(m, c, c->flood ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (c->closing && c->flood == 0) {
        close_conn(m, c);
    }
}

/* Replies. */

static void reply(conn *c, const char *status, const char *type, const char *headers,
                  const char *body)
{
    add_format(&c->out, "HTTP/1.1 %s\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n",
               status, type, headers, strlen(body));
    add_text(&c->out, body);
}

static void reply_error(conn *c, const char *status, const char *headers, const char *code)
{
    char body[256];

    snprintf(body, sizeof(body),
             "{\"error\":{\"message\":\"The mock says %s.\",\"type\":\"mock\",\"param\":null,"
             "\"code\":\"%s\"}}",
             status, code);
    reply(c, status, "application/json", headers, body);
}

/* Long enough for a body of about 1 KB. */
static void add_filler(bytes *b, size_t n)
{
    static const char text[] = "All work and no play makes a dull gateway. ";

    for (size_t i = 0; i < n; i += sizeof(text) - 1) {
        size_t left = n - i;
        add(b, text, left < sizeof(text) - 1 ? left : sizeof(text) - 1);
    }
}

static void answer_of(bytes *b, const char *model, size_t filler)
{
    add_format(
        b,
        "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,"
        "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"",
        model);
    add_filler(b, filler);
    add_text(b,
             "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
             "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}");
}

static void reply_answer(conn *c, size_t filler)
{
    bytes body = {0};

    answer_of(&body, c->model, filler);
    add_format(
        &c->out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        body.len);
    add(&c->out, body.data, body.len);
    free(body.data);
}

static void begin_stream(conn *c)
{
    add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n");
    c->streaming = true;
}

static void add_chunk(conn *c, const char *data, size_t n)
{
    add_format(&c->out, "%zx\r\n", n);
    add(&c->out, data, n);
    add_text(&c->out, "\r\n");
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
    add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

/* The next frame of a paced stream: a role, N tokens, the end. */
static void stream_step(conn *c)
{
    char delta[64];

    if (c->trickle) {
        add_text(&c->out, " ");
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

static void run_stream(mock *m, conn *c, uint32_t frames, uint64_t pace_ns)
{
    begin_stream(c);
    c->frames = frames;
    c->sent = 0;
    c->pace_ns = pace_ns;
    stream_step(c);
    while (c->streaming && pace_ns == 0) {
        stream_step(c);
    }
    if (c->streaming) {
        timer_start(m, c, now_ns(CLOCK_MONOTONIC) + pace_ns);
    }
}

/* Kinds of trouble. */

static void begin_well(conn *c)
{
    begin_stream(c);
    c->frames = 8;
    for (c->sent = 0; c->sent < 3;) {
        stream_step(c);
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
    run_stream(m, c, UINT32_MAX, 20 * 1000000ull);
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
    stream_step(c);
    c->closing = true;
}

static void half_line(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    add_chunk(c, "data: {\"id\":\"chatcmpl-mo", 24);
    add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

static void no_done(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

static void error_mid(mock *m, conn *c)
{
    static const char event[] = "data: {\"error\":{\"message\":\"secret detail\"}}\n\n";

    (void)m;
    begin_well(c);
    add_chunk(c, event, sizeof(event) - 1);
    add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
}

/* One line of 100 MB, made as it is read. */
static void endless_line(mock *m, conn *c)
{
    (void)m;
    begin_well(c);
    add_format(&c->out, "%x\r\ndata: ", 100u << 20);
    c->flood = (100u << 20) - 6;
    c->closing = true;
}

static void endless_headers(mock *m, conn *c)
{
    (void)m;
    add_text(&c->out, "HTTP/1.1 200 OK\r\n");
    c->flood = 100u << 20;
    c->closing = true;
}

static void long_length(mock *m, conn *c)
{
    (void)m;
    add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                      "Content-Length: 5000\r\n\r\n{\"id\":");
    c->closing = true;
}

static void short_length(mock *m, conn *c)
{
    (void)m;
    add_text(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
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
    add_text(&c->out, "SSH-2.0-OpenSSH_9.2\r\n");
}

static void html_500(mock *m, conn *c)
{
    (void)m;
    reply(c, "500 Internal Server Error", "text/html", "",
          "<html><h1>secret detail</h1></html>");
}

static void html_200(mock *m, conn *c)
{
    (void)m;
    reply(c, "200 OK", "text/html", "", "<html><h1>secret detail</h1></html>");
}

static void redirect(mock *m, conn *c)
{
    (void)m;
    reply(c, "302 Found", "text/plain", "Location: http://127.0.0.1:1/\r\n", "elsewhere");
}

static void status_400(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "400 Bad Request", "", "mock_invalid");
}

static void status_401(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "401 Unauthorized", "", "invalid_api_key");
}

static void status_404(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "404 Not Found", "", "model_not_found");
}

static void too_long(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "400 Bad Request", "", "context_length_exceeded");
}

static void against_rules(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "400 Bad Request", "", "content_filter");
}

/* A byte every 20 ms, without end. */
static void trickle(mock *m, conn *c, const char *begin)
{
    add_text(&c->out, begin);
    c->trickle = c->streaming = true;
    c->pace_ns = 20000000;
    timer_start(m, c, now_ns(CLOCK_MONOTONIC) + c->pace_ns);
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
    reply_error(c, "429 Too Many Requests", "", "rate_limit_exceeded");
}

static void status_429(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "429 Too Many Requests", "Retry-After: 7\r\n", "rate_limit_exceeded");
}

/* The same as a date. */
static void status_429_date(mock *m, conn *c)
{
    time_t at = time(NULL) + 7;
    char header[64];

    (void)m;
    strftime(header, sizeof(header), "Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&at));
    reply_error(c, "429 Too Many Requests", header, "rate_limit_exceeded");
}

static void status_503(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "503 Service Unavailable", "Retry-After: 3\r\n", "overloaded");
}

static void status_500(mock *m, conn *c)
{
    (void)m;
    reply_error(c, "500 Internal Server Error", "", "broken");
}

static void big(mock *m, conn *c)
{
    (void)m;
    reply_answer(c, 4u << 20);
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
static bool replay(mock *m, conn *c, const char *name)
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
        size_t len = 1 + next_random(m) % 64;
        len = len < (size_t)n - at ? len : (size_t)n - at;
        add_chunk(c, (char *)data + at, len);
        at += len;
    }
    add_chunk(c, "\n\n", 2);
    add_text(&c->out, "0\r\n\r\n");
    c->streaming = false;
    return true;
}

/* Requests. */

static void stats(mock *m, conn *c)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"requests\":%ju,\"open\":%ju,\"aborted\":%ju}",
             (uintmax_t)m->requests, (uintmax_t)m->open, (uintmax_t)m->aborted);
    reply(c, "200 OK", "application/json", "", body);
}

/* A string member, textually: the mock trusts its clients. */
static void find_text(const char *body, size_t len, const char *name, char *out, size_t size)
{
    const char *p = memmem(body, len, name, strlen(name)), *end = body + len;
    size_t n = 0;

    if (p) {
        for (p += strlen(name); p < end && (*p == ':' || *p == ' ' || *p == '"'); p++) {
        }
        while (p < end && *p != '"' && n + 1 < size) {
            out[n++] = *p++;
        }
    }
    out[n] = '\0';
}

static bool has(const char *body, size_t len, const char *text)
{
    return memmem(body, len, text, strlen(text)) != NULL;
}

static bool is_true(const char *body, size_t len, const char *name)
{
    char with_space[64];

    snprintf(with_space, sizeof(with_space), "%s: true", name);
    if (has(body, len, with_space)) {
        return true;
    }
    snprintf(with_space, sizeof(with_space), "%s:true", name);
    return has(body, len, with_space);
}

static bool finished(const char *body, size_t len)
{
    while (len && strchr(" \r\n\t", body[len - 1])) {
        len--;
    }
    return len && body[len - 1] == '}';
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
static bool run_kind(mock *m, conn *c, const char *head)
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

static void answer(mock *m, conn *c, const char *head, const char *body, size_t len)
{
    unsigned frames, pace;

    if (!finished(body, len)) {
        reply_error(c, "400 Bad Request", "", "invalid_json");
        return;
    }
    find_text(body, len, "\"model\"", c->model, sizeof(c->model));
    bool stream = is_true(body, len, "\"stream\"");
    c->usage = is_true(body, len, "\"include_usage\"");
    if (run_kind(m, c, head)) {
        return;
    }
    if (strncmp(c->model, "mock-replay-", 12) == 0 && replay(m, c, c->model + 12)) {
        return;
    }
    if (!stream) {
        reply_answer(c, 700);
    } else if (sscanf(c->model, "mock-stream-%ux%ums", &frames, &pace) == 2) {
        run_stream(m, c, frames, pace * 1000000ull);
    } else {
        run_stream(m, c, 8, 0);
    }
}

static size_t content_length(const char *head, const char *end)
{
    for (const char *p = head; p < end;
         p = (const char *)memchr(p, '\n', (size_t)(end - p)) + 1) {
        if (strncasecmp(p, "content-length:", 15) == 0) {
            return strtoul(p + 15, NULL, 10);
        }
    }
    return 0;
}

/* One request of the connection; false: it is not all here yet. */
static bool handle(mock *m, conn *c)
{
    char *data = c->in.data + c->in.start;
    char *end = c->in.len ? memmem(data, c->in.len, "\r\n\r\n", 4) : NULL;

    if (end == NULL || c->streaming || c->hanging || c->closing) {
        return false;
    }
    size_t head = (size_t)(end + 4 - data), body = content_length(data, end + 2);
    if (body > REQUEST_MAX) {
        close_conn(m, c);
        return false;
    }
    if (c->in.len < head + body) {
        return false;
    }
    m->requests++;
    if (m->record >= 0 &&
        (write(m->record, data, head + body) < 0 || write(m->record, "\n=== end\n", 9) < 0)) {
        die("mock: record: %s", strerror(errno));
    }
    if (strncmp(data, "GET /stats ", 11) == 0) {
        stats(m, c);
    } else {
        end[2] = '\0'; /* the head's text ends here */
        answer(m, c, data, data + head, body);
    }
    consume(&c->in, head + body);
    return true;
}

static void readable(mock *m, conn *c)
{
    for (;;) {
        reserve(&c->in, 16384);
        size_t room = c->in.size - c->in.start - c->in.len;
        ssize_t n = recv(c->fd, c->in.data + c->in.start + c->in.len, room, 0);
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n <= 0) {
            m->aborted += c->streaming || c->hanging || c->flood;
            close_conn(m, c);
            return;
        }
        c->in.len += (size_t)n;
        if ((size_t)n < room) {
            break;
        }
    }
    while (c->fd >= 0 && handle(m, c)) {
    }
    if (c->fd >= 0) {
        flush(m, c);
    }
}

static void flood_more(conn *c)
{
    char piece[65536];
    size_t n = c->flood < sizeof(piece) ? c->flood : sizeof(piece);

    memset(piece, 'x', sizeof(piece));
    if (c->out.len < sizeof(piece)) {
        add(&c->out, piece, n);
        c->flood -= n;
    }
}

static void accept_all(mock *m)
{
    const int on = 1;
    int fd;

    while ((fd = accept4(m->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        conn *c = calloc(1, sizeof(*c));
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        if (c == NULL) {
            die("mock: out of memory");
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        c->fd = fd;
        c->events = EPOLLIN;
        m->open++;
        epoll_ctl(m->epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Frames that are due. Returns how long to wait for the next one. */
static const struct timespec *run_timers(mock *m, struct timespec *wait)
{
    uint64_t now = now_ns(CLOCK_MONOTONIC);

    while (m->n_timers && m->timers[1]->due_ns <= now) {
        conn *c = m->timers[1];
        uint64_t next = c->due_ns + c->pace_ns; /* the pace does not drift */
        timer_stop(m, c);
        stream_step(c);
        if (c->streaming) {
            timer_start(m, c, next);
        }
        flush(m, c);
    }
    if (m->n_timers == 0) {
        return NULL;
    }
    uint64_t ns = m->timers[1]->due_ns - now;
    *wait = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    return wait;
}

static void serve(mock *m)
{
    struct epoll_event events[BATCH];
    struct timespec wait;

    for (;;) {
        int n = epoll_pwait2(m->epoll, events, BATCH, run_timers(m, &wait), NULL);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (c == NULL) {
                accept_all(m);
                continue;
            }
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                readable(m, c);
            }
            if (c->fd >= 0 && events[i].events & EPOLLOUT) {
                if (c->flood) {
                    flood_more(c);
                }
                flush(m, c);
            }
        }
        bury(m);
    }
}

static void listen_on(mock *m, uint16_t port)
{
    const int on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    struct epoll_event e = {.events = EPOLLIN};

    m->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(m->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(m->listener, (struct sockaddr *)&a, sizeof(a)) != 0 ||
        listen(m->listener, 4096) != 0 ||
        getsockname(m->listener, (struct sockaddr *)&a, &len) != 0) {
        die("mock: port %u: %s", port, strerror(errno));
    }
    epoll_ctl(m->epoll, EPOLL_CTL_ADD, m->listener, &e);
    printf("%u\n", ntohs(a.sin_port));
}

int main(int argc, char **argv)
{
    static mock m = {.record = -1, .folder = "."};
    struct rlimit files;
    uint16_t port = 0;
    int option;

    m.random = now_ns(CLOCK_REALTIME) | 1;
    while ((option = getopt(argc, argv, "p:d:s:r:")) != -1) {
        switch (option) {
        case 'p':
            port = (uint16_t)atoi(optarg);
            break;
        case 'd':
            m.folder = optarg;
            break;
        case 's':
            m.random = strtoull(optarg, NULL, 10) | 1;
            break;
        case 'r':
            m.record = open(optarg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
            break;
        default:
            return 2;
        }
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    m.epoll = epoll_create1(EPOLL_CLOEXEC);
    printf("seed %ju\n", (uintmax_t)m.random);
    listen_on(&m, port);
    serve(&m);
    return 0;
}
