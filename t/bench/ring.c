/*
 * ring: what the link between two processes costs, through the functions of
 * aiq_link.h that nginx and the engine use, beside what the kernel offers.
 *
 *     ring [-n ROUND TRIPS]
 *
 * One process forks another, each bound to a processor of its own where there
 * are two. Round trips, with a frame of 64 bytes each way:
 *
 *     spin     both sides look at the ring until something comes
 *     sleep    both sides arm and block until the peer's wake byte comes
 *     eventfd  a pair of eventfds, blocking: the least a wake can cost
 *
 * One way, frames of 64 bytes, each published on its own; the reader sleeps
 * when it has caught up, the writer when the ring is full:
 *
 *     rate     messages a second through the ring
 *     socket   the same bytes through a Unix stream socket, a write a message
 *
 * The result is one JSON object on stdout, in microseconds and messages a
 * second.
 */

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "aiq_frame.h"
#include "aiq_link.h"
#include "measure.h"

#define PAYLOAD 64u
/* One-way messages for each round trip of -n, so that both take about a second. */
#define RATE_FACTOR 100u

/* One process's end of a link. */
typedef struct {
    aiq_ring ring;
    int fd;         /* wake bytes */
    int tell, hear; /* eventfds: ours to write, ours to read */
} end;

typedef struct {
    void *map[2];
    int wake[2];   /* SOCK_SEQPACKET, as the link has */
    int event[2];  /* eventfds, one a direction */
    int stream[2]; /* SOCK_STREAM */
} pair;

static void bind_to(int processor)
{
    cpu_set_t set;

    if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
        return;
    }
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

/* Each side writes one memfd and sees the other's; fork shares both. */
static void open_pair(pair *p)
{
    for (int i = 0; i < 2; i++) {
        int fd = memfd_create("ring", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, AIQ_MAP_SIZE) != 0) {
            die("ring: memfd: %s", strerror(errno));
        }
        p->map[i] = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        p->event[i] = eventfd(0, EFD_CLOEXEC);
        if (p->map[i] == MAP_FAILED || p->event[i] < 0) {
            die("ring: %s", strerror(errno));
        }
        close(fd);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p->wake) != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->stream) != 0) {
        die("ring: socketpair: %s", strerror(errno));
    }
}

static void close_pair(pair *p)
{
    for (int i = 0; i < 2; i++) {
        munmap(p->map[i], AIQ_MAP_SIZE);
        close(p->event[i]);
        close(p->wake[i]);
        close(p->stream[i]);
    }
}

static end end_of(const pair *p, int side)
{
    end e = {.fd = p->wake[side], .tell = p->event[side], .hear = p->event[1 - side]};

    aiq_ring_init(&e.ring, p->map[side], p->map[1 - side]);
    return e;
}

static void wake(const end *e)
{
    /* a full socket already holds a wake that the peer has not read */
    (void)!send(e->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Blocks until a wake byte comes, and takes all that are there. */
static void sleep_until_woken(const end *e)
{
    char bytes[64];

    if (recv(e->fd, bytes, sizeof(bytes), 0) <= 0) {
        die("ring: the peer is gone");
    }
    while (recv(e->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
}

static bool push(end *e, const void *payload)
{
    void *to = aiq_ring_push(&e->ring, AIQ_FRAME_DATA, 0, 1, 1, PAYLOAD);

    if (to == NULL) {
        return false;
    }
    memcpy(to, payload, PAYLOAD);
    if (aiq_ring_publish(&e->ring)) {
        wake(e);
    }
    return true;
}

/* Takes one frame, copied out as readers do. */
static bool take(end *e, void *payload)
{
    aiq_frame frame;
    const uint8_t *data;
    int r = aiq_ring_next(&e->ring, &frame, &data);

    if (r < 0 || (r == 1 && frame.len != PAYLOAD)) {
        die("ring: broken");
    }
    if (r == 1) {
        memcpy(payload, data, PAYLOAD);
    }
    return r == 1;
}

static void give_back(end *e)
{
    if (aiq_ring_release(&e->ring)) {
        wake(e);
    }
}

/* ---- round trips ------------------------------------------------------- */

typedef void turn_fn(end *e, void *payload);

static void receive_spinning(end *e, void *payload)
{
    while (!take(e, payload)) {
        __builtin_ia32_pause();
    }
    give_back(e);
}

static void receive_sleeping(end *e, void *payload)
{
    while (!take(e, payload)) {
        if (aiq_ring_arm(&e->ring)) {
            sleep_until_woken(e);
        }
    }
    give_back(e);
}

static void send_frame(end *e, void *payload)
{
    if (!push(e, payload)) {
        die("ring: full in a round trip");
    }
}

static void receive_eventfd(end *e, void *payload)
{
    uint64_t n;

    (void)payload;
    if (read(e->hear, &n, sizeof(n)) != sizeof(n)) {
        die("ring: eventfd: %s", strerror(errno));
    }
}

static void send_eventfd(end *e, void *payload)
{
    uint64_t n = 1;

    (void)payload;
    if (write(e->tell, &n, sizeof(n)) != sizeof(n)) {
        die("ring: eventfd: %s", strerror(errno));
    }
}

/* Forks the other side. Returns its pid in the parent, 0 in the child. */
static pid_t split(void)
{
    pid_t pid = fork();

    if (pid < 0) {
        die("ring: fork: %s", strerror(errno));
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    bind_to(pid == 0);
    return pid;
}

static void join(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid || status != 0) {
        die("ring: the other side failed");
    }
}

static void round_trips(const char *name, turn_fn *send, turn_fn *receive, uint64_t count)
{
    static histogram h;
    uint8_t payload[PAYLOAD] = {0};
    uint64_t warm_up = count / 10;
    pair p;

    memset(&h, 0, sizeof(h));
    open_pair(&p);
    pid_t pid = split();
    int side = pid == 0;
    end e = end_of(&p, side);
    for (uint64_t i = 0; i < count + warm_up; i++) {
        uint64_t start = now_ns(CLOCK_MONOTONIC);
        if (side == 0) {
            send(&e, payload);
        }
        receive(&e, payload);
        if (side == 1) {
            send(&e, payload);
        } else if (i >= warm_up) {
            histogram_add(&h, now_ns(CLOCK_MONOTONIC) - start);
        }
    }
    if (side == 1) {
        _exit(0);
    }
    join(pid);
    close_pair(&p);
    printf("\"%s_p50\":%.3f,\"%s_p99\":%.3f,", name, histogram_at(&h, 0.50), name,
           histogram_at(&h, 0.99));
}

/* ---- one way ----------------------------------------------------------- */

static void push_sleeping(end *e, uint64_t count)
{
    uint8_t payload[PAYLOAD];

    for (uint64_t i = 0; i < count; i++) {
        memset(payload, (int)i, sizeof(payload));
        while (!push(e, payload)) {
            if (e->ring.broken) {
                die("ring: broken");
            }
            if (aiq_ring_arm_space(&e->ring)) {
                sleep_until_woken(e);
            }
        }
    }
}

/* Takes what there is in batches of 64, as both event loops do. */
static void take_sleeping(end *e, uint64_t count)
{
    uint8_t payload[PAYLOAD];

    for (uint64_t i = 0; i < count;) {
        int batch = 0;
        while (i < count && batch < 64 && take(e, payload)) {
            if (payload[0] != (uint8_t)i) {
                die("ring: message %ju is another", (uintmax_t)i);
            }
            i++;
            batch++;
        }
        give_back(e);
        if (batch == 0 && aiq_ring_arm(&e->ring)) {
            sleep_until_woken(e);
        }
    }
}

static void rate(uint64_t count)
{
    pair p;

    open_pair(&p);
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    pid_t pid = split();
    end e = end_of(&p, pid == 0);
    if (pid == 0) {
        take_sleeping(&e, count);
        _exit(0);
    }
    push_sleeping(&e, count);
    join(pid);
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    close_pair(&p);
    printf("\"rate\":%.0f,", (double)count / seconds);
}

static void socket_rate(uint64_t count)
{
    uint8_t payload[PAYLOAD] = {0}, buf[16 << 10];
    pair p;

    open_pair(&p);
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    pid_t pid = split();
    for (uint64_t left = count * PAYLOAD; left > 0;) {
        ssize_t n = pid == 0 ? read(p.stream[1], buf, sizeof(buf))
                             : write(p.stream[0], payload, sizeof(payload));
        if (n <= 0) {
            die("ring: stream: %s", strerror(errno));
        }
        left -= (uint64_t)n;
    }
    if (pid == 0) {
        _exit(0);
    }
    join(pid);
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    close_pair(&p);
    printf("\"socket\":%.0f}\n", (double)count / seconds);
}

int main(int argc, char **argv)
{
    uint64_t count = 20000;
    int c;

    while ((c = getopt(argc, argv, "n:")) != -1) {
        if (c != 'n' || (count = strtoull(optarg, NULL, 10)) < 100 || count > 10000000) {
            die("usage: ring [-n 100..10000000]");
        }
    }
    /* the child must not inherit unprinted output */
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("{");
    round_trips("spin", send_frame, receive_spinning, count);
    round_trips("sleep", send_frame, receive_sleeping, count);
    round_trips("eventfd", send_eventfd, receive_eventfd, count);
    rate(count * RATE_FACTOR);
    socket_rate(count * RATE_FACTOR);
    return 0;
}
