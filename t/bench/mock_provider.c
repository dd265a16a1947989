/*
 * An OpenAI-like provider for tests and measurements: one process, one epoll
 * loop. It prints its port on a line of its own and serves until it is killed.
 *
 *     mock_provider [-p port] [-d folder of .sse files] [-s seed] [-r record file]
 *
 * What it answers depends on the request's model:
 *
 *     mock-stream-NxMms   a stream of N tokens, one every M ms (0: as fast as read)
 *     mock-held-N         a stream of 8 tokens, of which N come, and the rest after GET /go
 *     mock-replay-NAME    NAME.sse of the folder, cut at random places
 *     mock-KIND           a fault or an error, see the table of kinds in mock/answers.c
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
#include "mock/mock.h"

#define REQUEST_MAX (64u << 20)
#define BATCH       256

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

void mock_add(bytes *b, const void *data, size_t n)
{
    reserve(b, n);
    memcpy(b->data + b->start + b->len, data, n);
    b->len += n;
}

void mock_add_text(bytes *b, const char *text)
{
    mock_add(b, text, strlen(text));
}

void mock_add_format(bytes *b, const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    mock_add(b, text, (size_t)n);
}

static void consume(bytes *b, size_t n)
{
    b->start += n;
    b->len -= n;
}

uint64_t mock_random(mock *m)
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

void mock_timer_start(mock *m, conn *c, uint64_t due_ns)
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

/* Requests. */

static void stats(mock *m, conn *c)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"requests\":%ju,\"open\":%ju,\"aborted\":%ju}",
             (uintmax_t)m->requests, (uintmax_t)m->open, (uintmax_t)m->aborted);
    mock_reply(c, "200 OK", "application/json", "", body);
}

/* Lets all streams go on that are held. */
static void release(mock *m, conn *c)
{
    for (uint32_t i = 1; i <= m->n_timers;) {
        conn *held = m->timers[i];
        if (held->held) {
            held->held = false;
            mock_timer_start(m, held, now_ns(CLOCK_MONOTONIC));
            i = 1; /* the heap is another */
        } else {
            i++;
        }
    }
    mock_reply(c, "200 OK", "application/json", "", "{}");
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

static void answer(mock *m, conn *c, const char *head, const char *body, size_t len)
{
    unsigned frames, pace;

    if (!finished(body, len)) {
        mock_reply_error(c, "400 Bad Request", "", "invalid_json");
        return;
    }
    find_text(body, len, "\"model\"", c->model, sizeof(c->model));
    bool stream = is_true(body, len, "\"stream\"");
    c->usage = is_true(body, len, "\"include_usage\"");
    if (mock_run_kind(m, c, head)) {
        return;
    }
    if (strncmp(c->model, "mock-replay-", 12) == 0 && mock_replay(m, c, c->model + 12)) {
        return;
    }
    if (!stream) {
        mock_reply_answer(c, 700);
    } else if (sscanf(c->model, "mock-held-%u", &frames) == 1) {
        mock_run_held(m, c, frames);
    } else if (sscanf(c->model, "mock-stream-%ux%ums", &frames, &pace) == 2) {
        mock_run_stream(m, c, frames, pace * 1000000ull);
    } else {
        mock_run_stream(m, c, 8, 0);
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
    } else if (strncmp(data, "GET /go ", 8) == 0) {
        release(m, c);
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
        mock_add(&c->out, piece, n);
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
        mock_stream_step(c);
        if (c->streaming) {
            mock_timer_start(m, c, next);
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
