/*
 * load: a bounded HTTP/1.1 load for the benchmarks, on 127.0.0.1.
 *
 *     load -p PORT -b BODY -e EXPECTED -c CONNECTIONS -n REQUESTS [options]
 *
 *       -u PATH      what to POST to (/v1/chat/completions)
 *       -H LINE      a header; several with CRLF between them
 *       -w REQUESTS  warm up with that many first, uncounted
 *       -i N         one request in N has its last brace cut off and must get its 400
 *       -s MS        streams: one a connection, REQUESTS in all; a gap above MS counts
 *       -r MS        let the connections start one after another within MS
 *       -d SECONDS   give up then (60)
 *       -P PID       also the CPU time of this process over the counted part; repeatable
 *
 * BODY is the file with the request's body. EXPECTED is the reply's body to
 * the byte; for streams, the data of its events, a line each. A reply that
 * differs in status, length or content is an error, the first of which is
 * printed; a connection with an error is not used again.
 *
 * The result is one JSON object on stdout; the exit status is 0 where no reply
 * was wrong. Times are in microseconds. One thread, one write and one read a
 * request; a reply's time ends when its last byte was read.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

#define MAX_CONNECTIONS 4096
#define MAX_PIDS        8
#define MAX_REPLY       (64u << 10)
#define BATCH           64

typedef struct {
    char *data;
    size_t len;
} text;

/* Where a stream's decoder stands: chunk framing outside, event lines inside. */
typedef enum { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_END, CHUNK_LAST } chunk_state;

typedef struct {
    int fd; /* -1: not yet open, or done for */
    bool invalid;
    bool head_done;
    bool waits_write;
    size_t sent;
    size_t have;  /* bytes in buf */
    size_t whole; /* bytes of head and body together, once head_done; not for streams */
    uint64_t started, last_event;
    chunk_state chunk;
    size_t chunk_left;
    size_t line;     /* length of the current line in buf */
    size_t expected; /* how far into EXPECTED the events have come */
    uint32_t events;
    char *buf; /* MAX_REPLY */
} connection;

typedef struct {
    int port, connections;
    uint64_t requests, warm_up, invalid_every, gap_limit_ns, ramp_ns, deadline_ns;
    bool streams;
    const char *path, *header;
    text valid, invalid, expect;
    uint32_t expect_events, first_token; /* the first event that is no mere beginning */
    int pid_count;
    pid_t pids[MAX_PIDS];
} options;

typedef struct {
    options opt;
    int epoll;
    connection *conn;
    int opened, alive;
    uint64_t issued, done, ok, refused, events, errors;
    uint64_t began, counted_from, ended, cpu_from, pid_from[MAX_PIDS];
    histogram latency; /* of a reply; of a stream, to its first token */
    histogram gap;
    uint64_t gaps_over;
    char error[256];
} load;

static uint64_t pid_cpu_ns(pid_t pid)
{
    clockid_t clock;

    return clock_getcpuclockid(pid, &clock) == 0 ? now_ns(clock) : 0;
}

/* ---- requests ---------------------------------------------------------- */

static void __attribute__((format(printf, 3, 4)))
fail(load *l, connection *c, const char *format, ...)
{
    va_list args;

    if (l->errors++ == 0) {
        va_start(args, format);
        vsnprintf(l->error, sizeof(l->error), format, args);
        va_end(args);
    }
    close(c->fd);
    c->fd = -1;
    l->alive--;
}

static bool counting(const load *l)
{
    return l->done >= l->opt.warm_up;
}

static void start_counting(load *l)
{
    l->counted_from = now_ns(CLOCK_MONOTONIC);
    l->cpu_from = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < l->opt.pid_count; i++) {
        l->pid_from[i] = pid_cpu_ns(l->opt.pids[i]);
    }
}

static void watch(load *l, connection *c, bool write, int op)
{
    struct epoll_event ev = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};

    if (epoll_ctl(l->epoll, op, c->fd, &ev) != 0) {
        die("load: epoll_ctl: %s", strerror(errno));
    }
    c->waits_write = write;
}

static void send_rest(load *l, connection *c)
{
    const text *request = c->invalid ? &l->opt.invalid : &l->opt.valid;

    while (c->sent < request->len) {
        ssize_t n = send(c->fd, request->data + c->sent, request->len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->waits_write) {
                watch(l, c, true, EPOLL_CTL_MOD);
            }
            return;
        }
        if (n < 0) {
            fail(l, c, "send: %s", strerror(errno));
            return;
        }
        c->sent += (size_t)n;
    }
    if (c->waits_write) {
        watch(l, c, false, EPOLL_CTL_MOD);
    }
}

/* The next request on this connection, or its end where all are issued. */
static void next_request(load *l, connection *c)
{
    const options *o = &l->opt;

    if (l->issued == o->warm_up + o->requests) {
        close(c->fd);
        c->fd = -1;
        l->alive--;
        return;
    }
    l->issued++;
    c->invalid = o->invalid_every && l->issued % o->invalid_every == 0;
    c->head_done = false;
    c->sent = c->have = c->line = c->expected = 0;
    c->events = 0;
    c->chunk = CHUNK_SIZE;
    c->chunk_left = 0;
    c->started = now_ns(CLOCK_MONOTONIC);
    send_rest(l, c);
}

static void finish(load *l, connection *c)
{
    uint64_t now = now_ns(CLOCK_MONOTONIC);

    if (counting(l)) {
        l->ok++;
        l->refused += c->invalid;
        if (!l->opt.streams) {
            histogram_add(&l->latency, now - c->started);
        }
    }
    l->done++;
    l->ended = now;
    if (l->done == l->opt.warm_up) {
        start_counting(l);
    }
    next_request(l, c);
}

static void open_connection(load *l)
{
    connection *c = &l->conn[l->opened++];
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)l->opt.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        die("load: connect to port %d: %s", l->opt.port, strerror(errno));
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->buf = malloc(MAX_REPLY);
    if (c->buf == NULL) {
        die("load: out of memory");
    }
    l->alive++;
    watch(l, c, false, EPOLL_CTL_ADD);
    next_request(l, c);
}

/* ---- replies ----------------------------------------------------------- */

/* The value of a header in a head that ends in an empty line, or NULL. */
static const char *header(const char *head, const char *name)
{
    size_t len = strlen(name);

    for (const char *p = strstr(head, "\r\n"); p != NULL; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, len) == 0 && p[len] == ':') {
            return p + len + 1 + strspn(p + len + 1, " ");
        }
    }
    return NULL;
}

/* Reads the head once it is all there. Leaves what follows at buf's start for
 * a stream; else notes how long the whole reply is. */
static void read_head(load *l, connection *c)
{
    char *end = memmem(c->buf, c->have, "\r\n\r\n", 4);
    int status = c->invalid ? 400 : 200, got = 0;

    if (end == NULL) {
        return;
    }
    end[2] = '\0';
    if (sscanf(c->buf, "HTTP/1.1 %d", &got) != 1 || got != status) {
        fail(l, c, "status %d where %d was due", got, status);
        return;
    }
    size_t head = (size_t)(end + 4 - c->buf);
    if (l->opt.streams) {
        const char *coding = header(c->buf, "transfer-encoding");
        if (coding == NULL || strncasecmp(coding, "chunked", 7) != 0) {
            fail(l, c, "a stream that is not chunked");
            return;
        }
        c->have -= head;
        memmove(c->buf, end + 4, c->have);
    } else {
        const char *length = header(c->buf, "content-length");
        unsigned long body = length ? strtoul(length, NULL, 10) : MAX_REPLY;
        if (body >= MAX_REPLY - head) {
            fail(l, c, "a reply without a length, or too long");
            return;
        }
        c->whole = head + body;
        c->expected = head;
    }
    c->head_done = true;
}

static bool body_is_right(const load *l, const connection *c)
{
    const char *body = c->buf + c->expected;
    size_t len = c->whole - c->expected;
    static const char envelope[] = "{\"error\":";

    if (c->invalid) {
        return len > sizeof(envelope) && memcmp(body, envelope, sizeof(envelope) - 1) == 0;
    }
    return len == l->opt.expect.len && memcmp(body, l->opt.expect.data, len) == 0;
}

static void read_reply(load *l, connection *c)
{
    if (c->have < c->whole) {
        return;
    }
    if (c->have > c->whole) {
        fail(l, c, "%zu bytes behind a reply", c->have - c->whole);
        return;
    }
    if (!body_is_right(l, c)) {
        fail(l, c, "a body that differs: %.*s", (int)(c->whole - c->expected),
             c->buf + c->expected);
        return;
    }
    finish(l, c);
}

/* One line of an event stream; false where it is not what was expected. */
static bool read_event_line(load *l, connection *c, const char *line, size_t len, uint64_t now)
{
    const text *expect = &l->opt.expect;

    if (len < 6 || memcmp(line, "data: ", 6) != 0) {
        return true; /* ids, comments and the empty line */
    }
    line += 6;
    len -= 6;
    if (expect->len - c->expected < len + 1 ||
        memcmp(expect->data + c->expected, line, len) != 0 ||
        expect->data[c->expected + len] != '\n') {
        fail(l, c, "event %u differs: %.*s", c->events, (int)len, line);
        return false;
    }
    c->expected += len + 1;
    if (counting(l)) {
        if (c->events == l->opt.first_token) {
            histogram_add(&l->latency, now - c->started);
        } else if (c->events > l->opt.first_token) {
            histogram_add(&l->gap, now - c->last_event);
            l->gaps_over += now - c->last_event > l->opt.gap_limit_ns;
        }
        l->events++;
    }
    c->last_event = now;
    c->events++;
    return true;
}

/* One byte of the body of a stream, its chunk framing taken away. The line is
 * put together at the start of buf, behind which the reader never is. */
static bool read_event_byte(load *l, connection *c, char byte, uint64_t now)
{
    if (byte != '\n') {
        c->buf[c->line++] = byte;
        return true;
    }
    size_t len = c->line;
    c->line = 0;
    return read_event_line(l, c, c->buf, len, now);
}

/* One byte of chunk framing. 1: go on, 0: the body is whole, -1: nonsense. */
static int read_frame_byte(connection *c, char byte)
{
    switch (c->chunk) {
    case CHUNK_SIZE:
        if (byte >= '0' && byte <= '9') {
            c->chunk_left = c->chunk_left * 16 + (size_t)(byte - '0');
        } else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f') {
            c->chunk_left = c->chunk_left * 16 + (size_t)((byte | 0x20) - 'a' + 10);
        } else if (byte != '\r' && byte != ';') {
            return -1;
        } else {
            c->chunk = CHUNK_EXTENSION;
        }
        return c->chunk_left <= (1u << 24) ? 1 : -1;
    case CHUNK_EXTENSION:
        if (byte == '\n') {
            c->chunk = c->chunk_left ? CHUNK_DATA : CHUNK_LAST;
        }
        return 1;
    case CHUNK_END:
        if (byte == '\n') {
            c->chunk = CHUNK_SIZE;
        }
        return byte == '\r' || byte == '\n' ? 1 : -1;
    case CHUNK_LAST:
        return byte == '\n' ? 0 : 1;
    case CHUNK_DATA:
        break;
    }
    return -1;
}

/* Works through what was read behind the line so far: `from` to `have`. */
static void read_stream(load *l, connection *c, size_t from, uint64_t now)
{
    for (size_t i = from; i < c->have; i++) {
        if (c->chunk == CHUNK_DATA) {
            if (!read_event_byte(l, c, c->buf[i], now)) {
                return;
            }
            if (--c->chunk_left == 0) {
                c->chunk = CHUNK_END;
            }
            continue;
        }
        int r = read_frame_byte(c, c->buf[i]);
        if (r < 0) {
            fail(l, c, "bad chunk framing after %u events", c->events);
            return;
        }
        if (r == 0) {
            if (c->events != l->opt.expect_events) {
                fail(l, c, "a stream ended after %u of %u events", c->events,
                     l->opt.expect_events);
            } else {
                finish(l, c);
            }
            return;
        }
    }
    c->have = c->line;
}

static void readable(load *l, connection *c)
{
    size_t from = c->have;
    ssize_t n = recv(c->fd, c->buf + from, MAX_REPLY - from, 0);

    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        fail(l, c, "the connection ended: %s", n < 0 ? strerror(errno) : "closed");
        return;
    }
    c->have += (size_t)n;
    if (!c->head_done) {
        from = 0;
        read_head(l, c);
        if (!c->head_done) {
            return;
        }
    }
    if (l->opt.streams) {
        read_stream(l, c, from, now_ns(CLOCK_MONOTONIC));
    } else {
        read_reply(l, c);
    }
}

/* ---- the run ----------------------------------------------------------- */

/* Opens the connections that are due. Returns how long to wait for the next, in ms. */
static int open_due(load *l)
{
    const options *o = &l->opt;

    while (l->opened < o->connections) {
        uint64_t due = o->ramp_ns * (uint64_t)l->opened / (uint64_t)o->connections;
        uint64_t gone = now_ns(CLOCK_MONOTONIC) - l->began;
        if (gone < due) {
            return (int)((due - gone) / 1000000) + 1;
        }
        open_connection(l);
    }
    return 100;
}

static void run(load *l)
{
    struct epoll_event events[BATCH];

    l->began = now_ns(CLOCK_MONOTONIC);
    start_counting(l);
    while (l->opened < l->opt.connections || l->alive > 0) {
        int wait = open_due(l);
        int n = epoll_wait(l->epoll, events, BATCH, wait);
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            if (c->waits_write && (events[i].events & EPOLLOUT)) {
                send_rest(l, c);
            }
            if (c->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT)) {
                readable(l, c);
            }
        }
        if (now_ns(CLOCK_MONOTONIC) - l->began > l->opt.deadline_ns) {
            snprintf(l->error, sizeof(l->error), "%d connections without an end", l->alive);
            l->errors += (uint64_t)l->alive;
            return;
        }
    }
}

static void print_json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') {
            printf("\\%c", *s);
        } else {
            putchar((unsigned char)*s < 0x20 ? ' ' : *s);
        }
    }
    putchar('"');
}

static void report(const load *l)
{
    double seconds = l->ok ? (double)(l->ended - l->counted_from) / 1e9 : 0;
    uint64_t cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - l->cpu_from;

    printf("{\"replies\":%ju,\"refused\":%ju,\"errors\":%ju,\"seconds\":%.3f,\"rps\":%.0f,"
           "\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"cpu\":%.3f,\"pids\":{",
           (uintmax_t)l->ok, (uintmax_t)l->refused, (uintmax_t)l->errors, seconds,
           l->ok ? (double)l->ok / seconds : 0, histogram_at(&l->latency, 0.50),
           histogram_at(&l->latency, 0.99), (double)l->latency.max / 1e3,
           (double)cpu / 1e3 / (double)(l->ok ? l->ok : 1));
    for (int i = 0; i < l->opt.pid_count; i++) {
        double us = (double)(pid_cpu_ns(l->opt.pids[i]) - l->pid_from[i]) / 1e3;
        printf("%s\"%d\":%.3f", i ? "," : "", (int)l->opt.pids[i],
               us / (double)(l->ok ? l->ok : 1));
    }
    printf("}");
    if (l->opt.streams) {
        printf(",\"events\":%ju,\"gap_p50\":%.1f,\"gap_p99\":%.1f,\"gap_max\":%.1f,"
               "\"gaps_over\":%ju",
               (uintmax_t)l->events, histogram_at(&l->gap, 0.50), histogram_at(&l->gap, 0.99),
               (double)l->gap.max / 1e3, (uintmax_t)l->gaps_over);
    }
    if (l->errors) {
        printf(",\"error\":");
        print_json_string(l->error);
    }
    printf("}\n");
}

/* ---- options ----------------------------------------------------------- */

static text read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    text t = {malloc(MAX_REPLY), 0};

    if (f == NULL || t.data == NULL) {
        die("load: %s: %s", path, strerror(errno));
    }
    t.len = fread(t.data, 1, MAX_REPLY, f);
    fclose(f);
    if (t.len == 0 || t.len == MAX_REPLY) {
        die("load: %s: empty or too long", path);
    }
    return t;
}

static text render(const options *o, text body)
{
    text t;
    int len = asprintf(&t.data,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                       "Content-Type: application/json\r\nContent-Length: %zu\r\n%s%s\r\n%.*s",
                       o->path, body.len, o->header, *o->header ? "\r\n" : "", (int)body.len,
                       body.data);

    if (len < 0) {
        die("load: out of memory");
    }
    t.len = (size_t)len;
    return t;
}

static uint64_t number(const char *s, uint64_t max)
{
    char *end;
    unsigned long long n = strtoull(s, &end, 10);

    if (*s == '\0' || *end != '\0' || n > max) {
        die("load: not a number up to %ju: %s", (uintmax_t)max, s);
    }
    return n;
}

static void read_options(options *o, int argc, char **argv)
{
    const char *body = NULL, *expect = NULL;
    int c;

    o->path = "/v1/chat/completions";
    o->header = "";
    o->deadline_ns = 60ull * 1000000000u;
    while ((c = getopt(argc, argv, "p:b:e:c:n:u:H:w:i:s:r:d:P:")) != -1) {
        switch (c) {
        case 'p':
            o->port = (int)number(optarg, 65535);
            break;
        case 'b':
            body = optarg;
            break;
        case 'e':
            expect = optarg;
            break;
        case 'c':
            o->connections = (int)number(optarg, MAX_CONNECTIONS);
            break;
        case 'n':
            o->requests = number(optarg, 100000000);
            break;
        case 'u':
            o->path = optarg;
            break;
        case 'H':
            o->header = optarg;
            break;
        case 'w':
            o->warm_up = number(optarg, 100000000);
            break;
        case 'i':
            o->invalid_every = number(optarg, 1000000);
            break;
        case 's':
            o->streams = true;
            o->gap_limit_ns = number(optarg, 3600000) * 1000000u;
            break;
        case 'r':
            o->ramp_ns = number(optarg, 3600000) * 1000000u;
            break;
        case 'd':
            o->deadline_ns = number(optarg, 3600) * 1000000000u;
            break;
        case 'P':
            if (o->pid_count < MAX_PIDS) {
                o->pids[o->pid_count++] = (pid_t)number(optarg, 1u << 30);
            }
            break;
        default:
            exit(2);
        }
    }
    if (!o->port || !body || !expect || !o->connections || !o->requests) {
        die("load: -p, -b, -e, -c and -n are needed");
    }
    text t = read_file(body);
    o->expect = read_file(expect);
    for (size_t i = 0; i < o->expect.len; i++) {
        o->expect_events += o->expect.data[i] == '\n';
    }
    const char *end = memchr(o->expect.data, '\n', o->expect.len);
    if (end && memmem(o->expect.data, (size_t)(end - o->expect.data), "\"role\"", 6)) {
        o->first_token = 1;
    }
    o->valid = render(o, t);
    t.data[t.len - 1] = ' ';
    o->invalid = render(o, t);
    free(t.data);
}

int main(int argc, char **argv)
{
    static load l;
    struct rlimit files = {MAX_CONNECTIONS + 64, MAX_CONNECTIONS + 64};

    read_options(&l.opt, argc, argv);
    setrlimit(RLIMIT_NOFILE, &files);
    l.epoll = epoll_create1(EPOLL_CLOEXEC);
    l.conn = calloc((size_t)l.opt.connections, sizeof(*l.conn));
    if (l.epoll < 0 || l.conn == NULL) {
        die("load: %s", strerror(errno));
    }
    run(&l);
    report(&l);
    return l.errors != 0;
}
