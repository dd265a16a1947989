/*
 * The engine's door, over real sockets: handshakes good and bad, the death of a
 * worker, draining, and one engine taking over from another.
 */

#include "unit.h"
#include "running_engine.h"
#include "worker.h"
#include "core/log.h"

static const char policy[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],\"locations\":["
    "{\"service\":\"echo\",\"max_body\":0},{\"service\":\"metrics\",\"max_body\":0}]}";

static char folder[64], path[96];
static uint8_t sha256[32];
static running_engine *engine;

static int setup(void **state)
{
    (void)state;
    aiq_log_init(AIQ_LOG_ERROR);
    strcpy(folder, "/tmp/aiq-test-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    snprintf(path, sizeof(path), "%s/e.sock", folder);
    worker_policy(path, policy, sha256);
    engine = running_start(path, 1, 30);
    return 0;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    if (engine) {
        running_stop(engine);
        engine = NULL;
    }
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

/* One echo through the worker; false: the link is gone. */
static bool echo(worker *w, uint32_t slot, uint32_t generation, const char *text)
{
    uint32_t n = (uint32_t)strlen(text);
    aiq_frame frame;
    const uint8_t *payload;
    bool same = false;

    assert_true(worker_request(w, slot, generation, 0, n, "/echo"));
    assert_true(worker_push(w, AIQ_FRAME_BODY, slot, generation, text, n));
    assert_true(worker_push(w, AIQ_FRAME_END, slot, generation, NULL, 0));
    worker_flush(w);
    do {
        if (worker_next(w, &frame, &payload) != 1) {
            return false;
        }
        if (frame.type == AIQ_FRAME_DATA) {
            same = frame.len == n && memcmp(payload, text, n) == 0;
        }
    } while (frame.type != AIQ_FRAME_END || frame.slot != slot);
    return same;
}

/* A number that /metrics shows, asked through w. */
static long metric_of(worker *w, const char *name)
{
    static uint32_t generation = 1000000;
    char text[65536] = "";
    aiq_frame frame;
    const uint8_t *payload;
    size_t n = 0;

    assert_true(worker_request(w, AIQ_SLOTS - 1, ++generation, 1, 0, "/metrics"));
    worker_flush(w);
    do {
        assert_int_equal(worker_next(w, &frame, &payload), 1);
        if (frame.type == AIQ_FRAME_DATA && n + frame.len < sizeof(text)) {
            memcpy(text + n, payload, frame.len);
            n += frame.len;
            text[n] = '\0';
            uint32_t more = frame.len;
            worker_push(w, AIQ_FRAME_CREDIT, AIQ_SLOTS - 1, generation, &more, sizeof(more));
        }
    } while (frame.type != AIQ_FRAME_END);
    char line[128];
    snprintf(line, sizeof(line), "\n%s ", name);
    const char *found = strstr(text, line);
    assert_non_null(found);
    return atol(found + strlen(line));
}

/* Polls a metric: what it counts is another thread's work. */
static void wait_metric(worker *w, const char *name, long expected)
{
    for (int i = 0; i < 2000; i++) {
        if (metric_of(w, name) == expected) {
            return;
        }
        usleep(1000);
    }
    fail_msg("%s is %ld, not %ld", name, metric_of(w, name), expected);
}

static void test_handshake_and_echo(void **state)
{
    worker a, b;

    (void)state;
    assert_true(worker_open(&a, path, sha256));
    assert_int_equal(a.welcome.engine, 1);
    assert_true(worker_open(&b, path, sha256));
    assert_true(echo(&a, 1, 1, "hello"));
    assert_true(echo(&b, 1, 1, "other"));
    assert_int_equal(metric_of(&a, "aiq_link_workers"), 2);
    assert_int_equal(metric_of(&a, "aiq_jobs_open"), 1);
    assert_int_equal(metric_of(&b, "aiq_requests_total{method=\"POST\",endpoint=\"echo\"}"), 2);
    worker_close(&b);
    wait_metric(&a, "aiq_link_workers", 1);
    worker_close(&a);
}

static void test_the_socket_is_for_its_group(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
}

static void test_the_engines_memory_is_ours_to_read_only(void **state)
{
    aiq_hello hello = worker_hello(sha256);
    int mine = worker_memfd(AIQ_MAP_SIZE, F_SEAL_SHRINK | F_SEAL_GROW), theirs, fd;
    aiq_welcome welcome;

    (void)state;
    fd = worker_connect(path);
    assert_true(worker_send(fd, &hello, sizeof(hello), &mine, 1));
    assert_true(worker_receive(fd, &welcome, &theirs));
    assert_int_equal(welcome.status, AIQ_WELCOME_OK);
    assert_true(mmap(NULL, AIQ_MAP_SIZE, PROT_WRITE, MAP_SHARED, theirs, 0) == MAP_FAILED);
    assert_int_equal(write(theirs, "x", 1), -1);
    assert_int_equal(ftruncate(theirs, 0), -1);
    close(theirs);
    close(mine);
    close(fd);
}

/* A body of any size goes through in constant memory, credit both ways. */
static void test_a_long_body(void **state)
{
    enum { TOTAL = 20 << 20, PIECE = 8000 };
    static uint8_t piece[PIECE];
    worker w;
    aiq_frame frame;
    const uint8_t *payload;
    uint32_t allowed = AIQ_WINDOW, more;
    size_t sent = 0, got = 0;

    (void)state;
    assert_true(worker_open(&w, path, sha256));
    worker_request(&w, 7, 1, 0, TOTAL, "/echo");
    do {
        while (sent < TOTAL && allowed >= PIECE) {
            size_t n = TOTAL - sent < PIECE ? TOTAL - sent : PIECE;
            for (size_t i = 0; i < n; i++) {
                piece[i] = (uint8_t)((sent + i) * 2654435761u >> 13);
            }
            if (!worker_push(&w, AIQ_FRAME_BODY, 7, 1, piece, (uint32_t)n)) {
                break;
            }
            sent += n;
            allowed -= (uint32_t)n;
            if (sent == TOTAL) {
                worker_push(&w, AIQ_FRAME_END, 7, 1, NULL, 0);
            }
        }
        worker_flush(&w);
        assert_int_equal(worker_next(&w, &frame, &payload), 1);
        if (frame.type == AIQ_FRAME_CREDIT) {
            memcpy(&more, payload, sizeof(more));
            allowed += more;
        } else if (frame.type == AIQ_FRAME_DATA) {
            for (uint32_t i = 0; i < frame.len; i++, got++) {
                if (payload[i] != (uint8_t)(got * 2654435761u >> 13)) {
                    fail_msg("byte %zu is wrong", got);
                }
            }
            worker_push(&w, AIQ_FRAME_CREDIT, 7, 1, &frame.len, sizeof(frame.len));
        }
    } while (frame.type != AIQ_FRAME_END);
    assert_int_equal(got, TOTAL);
    worker_close(&w);
}

/* Many jobs at once, more than the ring holds: all get their answer. */
static void test_many_jobs(void **state)
{
    enum { JOBS = 3000 };
    static bool done[JOBS];
    static uint8_t body[2000];
    worker w;
    aiq_frame frame;
    const uint8_t *payload;
    uint32_t opened = 0, ended = 0;

    (void)state;
    memset(done, 0, sizeof(done));
    assert_true(worker_open(&w, path, sha256));
    while (ended < JOBS) {
        while (opened < JOBS && aiq_ring_room(&w.ring, 8192) >= 8192) {
            worker_request(&w, opened, 1, 0, sizeof(body), "/echo");
            worker_push(&w, AIQ_FRAME_BODY, opened, 1, body, sizeof(body));
            worker_push(&w, AIQ_FRAME_END, opened, 1, NULL, 0);
            opened++;
        }
        worker_flush(&w);
        assert_int_equal(worker_next(&w, &frame, &payload), 1);
        if (frame.type == AIQ_FRAME_END) {
            assert_false(done[frame.slot]);
            done[frame.slot] = true;
            ended++;
        }
    }
    worker_close(&w);
}

static void test_a_workers_death_ends_its_jobs(void **state)
{
    worker a, b;

    (void)state;
    assert_true(worker_open(&a, path, sha256));
    assert_true(worker_open(&b, path, sha256));
    for (uint32_t i = 0; i < 100; i++) {
        worker_request(&b, i, 1, 0, -1, "/echo");
    }
    worker_flush(&b);
    wait_metric(&a, "aiq_jobs_open", 101);
    worker_close(&b);
    wait_metric(&a, "aiq_jobs_open", 1);
    worker_close(&a);
}

static void test_wakes_that_nobody_asked_for(void **state)
{
    worker w;
    char flood[1024] = {0};

    (void)state;
    assert_true(worker_open(&w, path, sha256));
    for (int i = 0; i < 1000; i++) {
        ssize_t n = send(w.fd, flood, sizeof(flood), MSG_DONTWAIT);
        (void)n;
    }
    assert_true(echo(&w, 1, 1, "still here"));
    worker_close(&w);
}

/* Handshakes that must be refused. */

typedef struct {
    const char *what;
    int (*send)(int fd); /* returns the expected status; -1: just the connection's end */
} refusal;

static int sealed(void)
{
    return worker_memfd(AIQ_MAP_SIZE, F_SEAL_SHRINK | F_SEAL_GROW);
}

static int say(int fd, const aiq_hello *hello, size_t size, const int *fds, size_t n,
               int status)
{
    worker_send(fd, hello, size, fds, n);
    for (size_t i = 0; i < n; i++) {
        close(fds[i]);
    }
    return status;
}

static int no_magic(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    hello.magic++;
    return say(fd, &hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_REFUSED);
}

static int other_abi(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    hello.abi++;
    return say(fd, &hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_ABI);
}

static int other_ring(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    hello.ring_size *= 2;
    return say(fd, &hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_ABI);
}

static int no_purpose(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    hello.purpose = 99;
    return say(fd, &hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_REFUSED);
}

static int half_a_hello(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello) - 1, (int[]){sealed()}, 1, AIQ_WELCOME_REFUSED);
}

static int long_hello(int fd)
{
    aiq_hello hello[2] = {worker_hello(sha256)};

    return say(fd, hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_REFUSED);
}

static int no_descriptor(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello), NULL, 0, AIQ_WELCOME_REFUSED);
}

static int two_descriptors(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello), (int[]){sealed(), sealed()}, 2, AIQ_WELCOME_REFUSED);
}

static int many_descriptors(int fd)
{
    aiq_hello hello = worker_hello(sha256);
    int fds[16];

    for (int i = 0; i < 16; i++) {
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    return say(fd, &hello, sizeof(hello), fds, 16, AIQ_WELCOME_REFUSED);
}

static int unsealed(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello), (int[]){worker_memfd(AIQ_MAP_SIZE, 0)}, 1,
               AIQ_WELCOME_REFUSED);
}

static int half_sealed(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello), (int[]){worker_memfd(AIQ_MAP_SIZE, F_SEAL_GROW)}, 1,
               AIQ_WELCOME_REFUSED);
}

static int wrong_size(int fd)
{
    aiq_hello hello = worker_hello(sha256);
    int small = worker_memfd(AIQ_MAP_SIZE - 4096, F_SEAL_SHRINK | F_SEAL_GROW);

    return say(fd, &hello, sizeof(hello), (int[]){small}, 1, AIQ_WELCOME_REFUSED);
}

static int no_memfd(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    return say(fd, &hello, sizeof(hello), (int[]){open("/dev/zero", O_RDWR)}, 1,
               AIQ_WELCOME_REFUSED);
}

static int unknown_policy(int fd)
{
    aiq_hello hello = worker_hello(sha256);

    hello.policy[0] ^= 1;
    return say(fd, &hello, sizeof(hello), (int[]){sealed()}, 1, AIQ_WELCOME_POLICY);
}

static int silence(int fd)
{
    (void)fd;
    return -1;
}

static int open_descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++) {
        n += fcntl(fd, F_GETFD) != -1;
    }
    return n;
}

static void test_refused_handshakes(void **state)
{
    static const refusal refusals[] = {
        {"another magic", no_magic},
        {"another ABI", other_abi},
        {"another ring size", other_ring},
        {"no known purpose", no_purpose},
        {"half a hello", half_a_hello},
        {"more than a hello", long_hello},
        {"no descriptor", no_descriptor},
        {"two descriptors", two_descriptors},
        {"sixteen descriptors", many_descriptors},
        {"memory without seals", unsealed},
        {"memory that may shrink", half_sealed},
        {"memory of a wrong size", wrong_size},
        {"a device", no_memfd},
        {"an unknown policy", unknown_policy},
        {"silence", silence},
    };
    worker honest;

    (void)state;
    assert_true(worker_open(&honest, path, sha256));
    assert_true(echo(&honest, 1, 1, "before"));
    int descriptors = open_descriptors();
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        aiq_welcome welcome;
        int memfd, fd = worker_connect(path);
        assert_true(fd >= 0);
        int status = refusals[i].send(fd);
        bool answered = worker_receive(fd, &welcome, &memfd);
        if (answered != (status >= 0) || (answered && (int)welcome.status != status)) {
            fail_msg("%s: %s, status %d", refusals[i].what, answered ? "answered" : "closed",
                     answered ? (int)welcome.status : -1);
        }
        assert_int_equal(memfd, -1);
        /* then the end, and nothing else */
        assert_int_equal(recv(fd, &welcome, sizeof(welcome), 0), 0);
        close(fd);
        assert_true(echo(&honest, 1, (uint32_t)i + 2, "undisturbed"));
    }
    wait_metric(&honest, "aiq_link_errors_total",
                (long)(sizeof(refusals) / sizeof(refusals[0])));
    assert_int_equal(open_descriptors(), descriptors);
    worker_close(&honest);
}

static void test_a_broken_link_is_closed_alone(void **state)
{
    worker bad, honest;
    aiq_frame frame;
    const uint8_t *payload;

    (void)state;
    assert_true(worker_open(&honest, path, sha256));
    assert_true(worker_open(&bad, path, sha256));
    bad.ring.mine->tail = AIQ_RING_SIZE + 1;
    ssize_t n = send(bad.fd, "", 1, 0);
    assert_int_equal(n, 1);
    assert_int_equal(worker_next(&bad, &frame, &payload), -1);
    assert_int_equal(errno, 0);
    wait_metric(&honest, "aiq_link_workers", 1);
    assert_true(echo(&honest, 1, 1, "undisturbed"));
    worker_close(&bad);
    worker_close(&honest);
}

/* Leaving. */

static void expect_notice(worker *w)
{
    aiq_frame frame;
    const uint8_t *payload;

    assert_int_equal(worker_next(w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_NOTICE);
}

static void test_draining_finishes_the_open_job(void **state)
{
    worker w, late;
    aiq_frame frame;
    const uint8_t *payload;

    (void)state;
    assert_true(worker_open(&w, path, sha256));
    worker_request(&w, 1, 1, 0, 5, "/echo");
    worker_flush(&w);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_HEAD);

    running_leave(engine);
    expect_notice(&w);
    /* the path is free for the next engine, and nobody new is let in */
    assert_int_equal(access(path, F_OK), -1);
    assert_false(worker_open(&late, path, sha256));

    worker_push(&w, AIQ_FRAME_BODY, 1, 1, "hello", 5);
    worker_push(&w, AIQ_FRAME_END, 1, 1, NULL, 0);
    worker_flush(&w);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_DATA);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_END);
    assert_false(engine->left);
    worker_close(&w);
    running_wait(engine);
    engine = NULL;
}

static void test_a_link_that_stays_idle_is_not_waited_for(void **state)
{
    worker w;

    (void)state;
    assert_true(worker_open(&w, path, sha256));
    running_leave(engine);
    running_wait(engine); /* the drain time is 30 s; this takes about one */
    engine = NULL;
    worker_close(&w);
}

static void test_a_second_signal_cuts(void **state)
{
    worker w;
    aiq_frame frame;
    const uint8_t *payload;

    (void)state;
    assert_true(worker_open(&w, path, sha256));
    worker_request(&w, 1, 1, 0, 5, "/echo");
    worker_flush(&w);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    running_leave(engine);
    expect_notice(&w);
    running_leave(engine);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_ERROR);
    assert_int_equal(worker_next(&w, &frame, &payload), -1);
    running_wait(engine);
    engine = NULL;
    worker_close(&w);
}

static void test_the_drain_time_ends(void **state)
{
    worker w;
    aiq_frame frame;
    const uint8_t *payload;

    (void)state;
    running_stop(engine);
    engine = running_start(path, 1, 1);
    assert_true(worker_open(&w, path, sha256));
    worker_request(&w, 1, 1, 0, 5, "/echo");
    worker_flush(&w);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    running_leave(engine);
    expect_notice(&w);
    assert_int_equal(worker_next(&w, &frame, &payload), 1);
    assert_int_equal(frame.type, AIQ_FRAME_ERROR);
    running_wait(engine);
    engine = NULL;
    worker_close(&w);
}

/* A new engine on the same path: the old one drains, the new one serves, and
 * at no moment is there nobody at the path. */
static void test_takeover(void **state)
{
    worker old, fresh;
    aiq_frame frame;
    const uint8_t *payload;

    (void)state;
    assert_true(worker_open(&old, path, sha256));
    worker_request(&old, 1, 1, 0, 5, "/echo");
    worker_flush(&old);
    assert_int_equal(worker_next(&old, &frame, &payload), 1);

    running_engine *successor = running_start(path, 2, 30);
    expect_notice(&old);
    assert_true(worker_open(&fresh, path, sha256));
    assert_int_equal(fresh.welcome.engine, 2);
    assert_true(echo(&fresh, 1, 1, "new"));

    worker_push(&old, AIQ_FRAME_BODY, 1, 1, "hello", 5);
    worker_push(&old, AIQ_FRAME_END, 1, 1, NULL, 0);
    worker_flush(&old);
    do {
        assert_int_equal(worker_next(&old, &frame, &payload), 1);
    } while (frame.type != AIQ_FRAME_END);
    worker_close(&old);
    running_wait(engine);
    engine = successor;

    /* the old one has not taken the new one's socket away */
    worker again;
    assert_true(worker_open(&again, path, sha256));
    assert_int_equal(again.welcome.engine, 2);
    worker_close(&again);
    worker_close(&fresh);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_handshake_and_echo),
        TEST(test_the_socket_is_for_its_group),
        TEST(test_the_engines_memory_is_ours_to_read_only),
        TEST(test_a_long_body),
        TEST(test_many_jobs),
        TEST(test_a_workers_death_ends_its_jobs),
        TEST(test_wakes_that_nobody_asked_for),
        TEST(test_refused_handshakes),
        TEST(test_a_broken_link_is_closed_alone),
        TEST(test_draining_finishes_the_open_job),
        TEST(test_a_link_that_stays_idle_is_not_waited_for),
        TEST(test_a_second_signal_cuts),
        TEST(test_the_drain_time_ends),
        TEST(test_takeover),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
