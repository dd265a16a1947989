/*
 * readers: many readers of server-sent events for the benchmarks, on 127.0.0.1.
 *
 *     readers -p PORT -u PATH -c READERS MODE [options]
 *
 *       -m idle        connect all, print {"open":…}, wait for the end of stdin
 *       -m rate        read for -t MS, after -w MS that do not count
 *       -m broadcast   publish -n events one after the other, each once all have the last
 *       -m reconnect   publish -n events at a pace of -e MS; cut all once, in the middle;
 *                      each comes back at once for what it has missed
 *       -U PATH        what to POST events to, with -b BEFORE and -a AFTER around
 * {"n":…,"ns":…} -H LINE        a header of every request -d SECONDS     give up then (60) -P
 * PID         also the CPU time of this process over what counts; repeatable
 *
 * An event has "n":…, which counts from 1 without a gap, and "ns":…, the monotonic time at
 * which it was made, in its data; "id:" is what a reader comes back with. The first event may
 * be another. A reader that sees a wrong number has lost something, and is an error.
 *
 * The result is one JSON object on stdout; the exit status is 0 where nothing was lost. Times
 * are in microseconds. One thread.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

#define MAX_PIDS 8
#define LINE_MAX 512
#define OPENING  256 /* connections at a time whose head has not come yet */
#define READ_MAX 65536
#define BATCH    512

/* Within a chunked body. */
typedef enum { IN_HEAD, IN_SIZE, IN_DATA, IN_END } state;

typedef struct {
    int fd; /* -1: closed */
    state state;
    bool chunked, opened;
    uint32_t left; /* of a chunk */
    uint32_t have; /* of a line */
    uint64_t n;    /* the last event */
    uint64_t last_ns;
    char id[48];
    char line[LINE_MAX];
} reader;

typedef struct {
    int port, count;
    const char *path, *publish, *before, *after, *header, *mode;
    uint64_t events, time_ns, warm_ns, every_ns, deadline_ns;
    int pid_count;
    pid_t pids[MAX_PIDS];
} options;

typedef struct {
    options opt;
    int epoll;
    reader *readers;
    int opening, open, next;
    int behind; /* readers that have not had the event `want` yet */
    uint64_t want;
    bool counting;
    uint64_t frames, errors, from_ns, pid_from[MAX_PIDS];
    histogram latency, gap;
    int publisher;
    char error[256];
} bench;

static void __attribute__((format(printf, 2, 3))) fail(bench *b, const char *format, ...)
{
    va_list args;

    if (b->errors++ == 0) {
        va_start(args, format);
        vsnprintf(b->error, sizeof(b->error), format, args);
        va_end(args);
    }
}

/* ---- connections ------------------------------------------------------- */

static int connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
        die("readers: connect: %s", strerror(errno));
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void open_reader(bench *b, reader *r)
{
    char request[1024];
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = r};

    r->fd = connect_to(b->opt.port);
    fcntl(r->fd, F_SETFL, O_NONBLOCK);
    r->state = IN_HEAD;
    r->opened = r->chunked = false;
    r->have = 0;
    int len =
        snprintf(request, sizeof(request),
                 "GET %s HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n%s%s"
                 "%s%s%s\r\n",
                 b->opt.path, b->opt.header ? b->opt.header : "", b->opt.header ? "\r\n" : "",
                 r->id[0] ? "Last-Event-ID: " : "", r->id, r->id[0] ? "\r\n" : "");
    if (write(r->fd, request, (size_t)len) != len ||
        epoll_ctl(b->epoll, EPOLL_CTL_ADD, r->fd, &ev) != 0) {
        die("readers: a request: %s", strerror(errno));
    }
    b->opening++;
}

static void close_reader(bench *b, reader *r)
{
    b->opening -= !r->opened;
    b->open -= r->opened;
    close(r->fd);
    r->fd = -1;
}

/* ---- events ------------------------------------------------------------ */

static uint64_t number_after(const char *line, const char *name)
{
    const char *at = strstr(line, name);

    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void take_event(bench *b, reader *r, const char *data)
{
    uint64_t n = number_after(data, "\"n\":"), made = number_after(data, "\"ns\":");
    uint64_t now = now_ns(CLOCK_MONOTONIC);

    if (n == 0) {
        return; /* a state, or the like */
    }
    if (r->n && n != r->n + 1) {
        fail(b, "event %llu follows %llu", (unsigned long long)n, (unsigned long long)r->n);
    }
    if (b->counting && r->last_ns) {
        b->frames++;
        histogram_add(&b->latency, now > made ? now - made : 0);
        histogram_add(&b->gap, now - r->last_ns);
    }
    r->last_ns = b->counting ? now : 0;
    r->n = n;
    b->behind -= n == b->want;
}

static void take_line(bench *b, reader *r)
{
    r->line[r->have] = '\0';
    if (strncmp(r->line, "data: ", 6) == 0) {
        take_event(b, r, r->line + 6);
    } else if (strncmp(r->line, "id: ", 4) == 0 && r->have < sizeof(r->id) + 4) {
        memcpy(r->id, r->line + 4, r->have - 3);
    }
    r->have = 0;
}

static void take_body(bench *b, reader *r, const char *p, size_t n)
{
    for (; n; p++, n--) {
        if (*p == '\n') {
            take_line(b, r);
        } else if (r->have < LINE_MAX - 1) {
            r->line[r->have++] = *p;
        }
    }
}

static void take_head_line(bench *b, reader *r)
{
    size_t n = r->have && r->line[r->have - 1] == '\r' ? r->have - 1 : r->have;

    r->line[n] = '\0';
    r->have = 0;
    if (strncmp(r->line, "HTTP/1.1 ", 9) == 0 && strncmp(r->line + 9, "200", 3) != 0) {
        fail(b, "%.200s", r->line);
    } else if (strcasecmp(r->line, "Transfer-Encoding: chunked") == 0) {
        r->chunked = true;
    } else if (n == 0) {
        r->state = r->chunked ? IN_SIZE : IN_DATA;
        r->left = r->chunked ? 0 : UINT32_MAX;
        r->opened = true;
        b->opening--;
        b->open++;
    }
}

static void take_head(bench *b, reader *r, char c)
{
    if (c == '\n') {
        take_head_line(b, r);
    } else if (r->have < LINE_MAX - 1) {
        r->line[r->have++] = c;
    }
}

static void take_size(bench *b, reader *r, char c)
{
    if (c == '\n') {
        r->state = IN_DATA;
        if (r->left == 0) {
            fail(b, "a reply has ended");
            r->left = UINT32_MAX;
        }
    } else if (c != '\r') {
        r->left = r->left * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
}

static void take_bytes(bench *b, reader *r, const char *p, size_t n)
{
    while (n) {
        size_t len = 1;
        if (r->state == IN_DATA) {
            len = r->left < n ? r->left : n;
            take_body(b, r, p, len);
            r->left -= r->left == UINT32_MAX ? 0 : (uint32_t)len;
            r->state = r->left ? IN_DATA : IN_END;
        } else if (r->state == IN_HEAD) {
            take_head(b, r, *p);
        } else if (r->state == IN_SIZE) {
            take_size(b, r, *p);
        } else if (*p == '\n') {
            r->state = IN_SIZE;
        }
        p += len;
        n -= len;
    }
}

/* ---- the loop ---------------------------------------------------------- */

static void read_one(bench *b, reader *r)
{
    static char buf[READ_MAX];
    ssize_t n = read(r->fd, buf, sizeof(buf));

    if (n > 0) {
        take_bytes(b, r, buf, (size_t)n);
    } else if (n == 0 || errno != EAGAIN) {
        fail(b, "a connection was closed");
        close_reader(b, r);
    }
}

/* For so long, or until something is there. */
static void turn(bench *b, int ms)
{
    struct epoll_event events[BATCH];
    int n = epoll_wait(b->epoll, events, BATCH, ms);

    for (int i = 0; i < n; i++) {
        reader *r = events[i].data.ptr;
        if (r->fd >= 0) {
            read_one(b, r);
        }
    }
    if (now_ns(CLOCK_MONOTONIC) > b->opt.deadline_ns) {
        die("readers: %d of %d open, %d wait for event %llu; %llu errors: %s", b->open,
            b->opt.count, b->behind, (unsigned long long)b->want, (unsigned long long)b->errors,
            b->error);
    }
}

static void turn_until(bench *b, uint64_t when_ns)
{
    for (uint64_t now; (now = now_ns(CLOCK_MONOTONIC)) < when_ns;) {
        turn(b, (int)((when_ns - now + 999999) / 1000000));
    }
}

static void open_all(bench *b)
{
    while (b->open < b->opt.count && b->errors == 0) {
        while (b->next < b->opt.count && b->opening < OPENING) {
            open_reader(b, &b->readers[b->next++]);
        }
        turn(b, 100);
    }
    b->next = 0;
}

static uint64_t pid_cpu_ns(pid_t pid)
{
    clockid_t clock;

    return clock_getcpuclockid(pid, &clock) == 0 ? now_ns(clock) : 0;
}

static void start_counting(bench *b)
{
    b->counting = true;
    b->from_ns = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < b->opt.pid_count; i++) {
        b->pid_from[i] = pid_cpu_ns(b->opt.pids[i]);
    }
}

/* ---- publishing -------------------------------------------------------- */

/* The event that all are to get. Its answer is read when the next is published. */
static void publish(bench *b)
{
    const options *o = &b->opt;
    char body[512], request[1536], answer[4096];

    if (b->publisher < 0) {
        b->publisher = connect_to(o->port);
    } else if (read(b->publisher, answer, sizeof(answer)) < 12 || answer[9] != '2') {
        die("readers: an event was not taken");
    }
    b->want++;
    b->behind = o->count;
    int len = snprintf(body, sizeof(body), "%s{\"n\":%llu,\"ns\":%llu}%s", o->before,
                       (unsigned long long)b->want, (unsigned long long)now_ns(CLOCK_MONOTONIC),
                       o->after);
    int n =
        snprintf(request, sizeof(request),
                 "POST %s HTTP/1.1\r\nHost: bench\r\n%s%sContent-Length: %d\r\n\r\n%s",
                 o->publish, o->header ? o->header : "", o->header ? "\r\n" : "", len, body);
    if (write(b->publisher, request, (size_t)n) != n) {
        die("readers: publish: %s", strerror(errno));
    }
}

static void wait_for_all(bench *b)
{
    while (b->behind > 0 && b->errors == 0) {
        turn(b, 100);
    }
}

/* ---- modes ------------------------------------------------------------- */

static void run_idle(bench *b)
{
    char c;

    printf("{\"open\":%d}\n", b->open);
    fflush(stdout);
    while (read(0, &c, 1) > 0) {
    }
}

static void print_cpu(const bench *b, double per)
{
    for (int i = 0; i < b->opt.pid_count; i++) {
        uint64_t spent = pid_cpu_ns(b->opt.pids[i]) - b->pid_from[i];
        printf("%s\"%d\":%.4f", i ? "," : "", (int)b->opt.pids[i], (double)spent / 1e3 / per);
    }
}

static void run_rate(bench *b)
{
    turn_until(b, now_ns(CLOCK_MONOTONIC) + b->opt.warm_ns);
    start_counting(b);
    turn_until(b, b->from_ns + b->opt.time_ns);
    double us = (double)(now_ns(CLOCK_MONOTONIC) - b->from_ns) / 1e3;
    printf("{\"rate\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"gap_p99\":%.1f,\"gap_max\":%.1f,"
           "\"frames\":%llu,\"pids\":{",
           (double)b->frames / us * 1e6, histogram_at(&b->latency, 0.5),
           histogram_at(&b->latency, 0.99), histogram_at(&b->gap, 0.99),
           (double)b->gap.max / 1e3, (unsigned long long)b->frames);
    print_cpu(b, (double)b->frames);
    printf("},");
}

static void run_broadcast(bench *b)
{
    histogram last = {0};

    start_counting(b);
    for (uint64_t i = 0; i < b->opt.events; i++) {
        uint64_t began = now_ns(CLOCK_MONOTONIC);
        publish(b);
        wait_for_all(b);
        histogram_add(&last, now_ns(CLOCK_MONOTONIC) - began);
        turn_until(b, now_ns(CLOCK_MONOTONIC) + b->opt.every_ns);
    }
    printf("{\"last\":%.1f,\"last_max\":%.1f,\"pids\":{", histogram_at(&last, 0.5),
           (double)last.max / 1e3);
    print_cpu(b, (double)b->opt.events);
    printf("},");
}

static void cut_all(bench *b)
{
    for (int i = 0; i < b->opt.count; i++) {
        close_reader(b, &b->readers[i]);
    }
}

/* The first events give each something to come back with; the last end it. */
static void run_reconnect(bench *b)
{
    uint64_t half = b->opt.events / 2, began = 0, back = 0;

    for (uint64_t i = 0; i < b->opt.events; i++) {
        publish(b);
        if (i == half) {
            began = now_ns(CLOCK_MONOTONIC);
            cut_all(b);
            open_all(b);
            back = now_ns(CLOCK_MONOTONIC);
        }
        turn_until(b, now_ns(CLOCK_MONOTONIC) + b->opt.every_ns);
    }
    b->behind = 0;
    for (int i = 0; i < b->opt.count; i++) {
        b->behind += b->readers[i].n != b->want;
    }
    wait_for_all(b);
    printf("{\"back\":%.1f,\"pids\":{},", (double)(back - began) / 1e3);
}

static void run(bench *b)
{
    static const struct {
        const char *name;
        void (*run)(bench *b);
    } modes[] = {{"idle", run_idle},
                 {"rate", run_rate},
                 {"broadcast", run_broadcast},
                 {"reconnect", run_reconnect}};

    open_all(b);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]) && b->errors == 0; i++) {
        if (strcmp(b->opt.mode, modes[i].name) == 0) {
            modes[i].run(b);
            if (i == 0) {
                return;
            }
            printf("\"errors\":%llu,\"error\":\"%s\"}\n", (unsigned long long)b->errors,
                   b->error);
            return;
        }
    }
    die("readers: %s", b->errors ? b->error : "no such mode");
}

static options read_options(int argc, char **argv)
{
    options o = {.mode = "", .before = "", .after = "", .path = "/", .publish = "/"};
    uint64_t seconds = 60;
    int c;

    while ((c = getopt(argc, argv, "p:u:c:m:t:w:n:e:U:b:a:H:d:P:")) != -1) {
        uint64_t n = strtoull(optarg ? optarg : "0", NULL, 10);
        switch (c) {
        case 'p':
            o.port = (int)n;
            break;
        case 'u':
            o.path = optarg;
            break;
        case 'c':
            o.count = (int)n;
            break;
        case 'm':
            o.mode = optarg;
            break;
        case 't':
            o.time_ns = n * 1000000;
            break;
        case 'w':
            o.warm_ns = n * 1000000;
            break;
        case 'n':
            o.events = n;
            break;
        case 'e':
            o.every_ns = n * 1000000;
            break;
        case 'U':
            o.publish = optarg;
            break;
        case 'b':
            o.before = optarg;
            break;
        case 'a':
            o.after = optarg;
            break;
        case 'H':
            o.header = optarg;
            break;
        case 'd':
            seconds = n;
            break;
        case 'P':
            if (o.pid_count < MAX_PIDS) {
                o.pids[o.pid_count++] = (pid_t)n;
            }
            break;
        default:
            die("readers: see the head of readers.c");
        }
    }
    o.deadline_ns = now_ns(CLOCK_MONOTONIC) + seconds * 1000000000;
    return o;
}

int main(int argc, char **argv)
{
    bench *b = calloc(1, sizeof(*b));

    if (b == NULL) {
        die("readers: out of memory");
    }
    b->opt = read_options(argc, argv);
    b->epoll = epoll_create1(0);
    b->publisher = -1;
    b->readers = calloc((size_t)b->opt.count + 1, sizeof(*b->readers));
    if (b->readers == NULL || b->opt.count <= 0) {
        die("readers: -c says how many");
    }
    run(b);
    return b->errors != 0;
}
