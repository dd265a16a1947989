#include "cli/operator.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "aiq_link.h"
#include "core/loop.h"
#include "core/pool.h"

#define REPLY_MAX (4u << 20)
#define WAIT_MS   10000

typedef struct {
    const char *command;
    int fd;
    void *mine, *peer;
    aiq_ring ring;
    uint64_t deadline_ns;
    uint32_t credit; /* bytes that the engine lets us send */
    unsigned status;
    aiq_buf reply;
    bool done;
} operator_link;

static bool failed(const operator_link *o, const char *what)
{
    cli_error(o->command, "%s", what);
    return false;
}

/* The link. */

static bool reach(operator_link *o, const char *path)
{
    const struct timeval patience = {.tv_sec = WAIT_MS / 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
        (int)sizeof(address.sun_path)) {
        return failed(o, "the socket's path is too long");
    }
    o->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    setsockopt(o->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (o->fd < 0 || connect(o->fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        cli_error(o->command, "no engine at %s: %s", path, strerror(errno));
        return false;
    }
    return true;
}

/* Our memory, sealed so that the engine may map it. */
static int make_memory(operator_link *o)
{
    int fd = memfd_create("aiq", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *map = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, AIQ_MAP_SIZE) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) {
        map = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (map == MAP_FAILED) {
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    o->mine = map;
    return fd;
}

typedef union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
} fd_message;

static bool say_hello(operator_link *o, int memfd)
{
    const aiq_hello hello = {
        AIQ_LINK_MAGIC, AIQ_LINK_ABI, AIQ_RING_SIZE, AIQ_PURPOSE_ADMIN, {0}};
    fd_message control = {0};
    struct iovec part = {(void *)&hello, sizeof(hello)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &memfd, sizeof(int));
    return sendmsg(o->fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof(hello);
}

static bool take_welcome(operator_link *o)
{
    aiq_welcome welcome = {0};
    fd_message control = {0};
    struct iovec part = {&welcome, sizeof(welcome)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int memfd;

    if (recvmsg(o->fd, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(welcome)) {
        return failed(o, "the engine does not let this user in");
    }
    if (welcome.status != AIQ_WELCOME_OK) {
        welcome.text[sizeof(welcome.text) - 1] = '\0';
        return failed(o, welcome.text);
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c == NULL || c->cmsg_type != SCM_RIGHTS) {
        return failed(o, "the engine's answer makes no sense");
    }
    memcpy(&memfd, CMSG_DATA(c), sizeof(int));
    o->peer = mmap(NULL, AIQ_MAP_SIZE, PROT_READ, MAP_SHARED, memfd, 0);
    close(memfd);
    if (o->peer == MAP_FAILED) {
        o->peer = NULL;
        return failed(o, "the engine's memory cannot be mapped");
    }
    aiq_ring_init(&o->ring, o->mine, o->peer);
    return true;
}

static bool connect_engine(operator_link *o, const char *path)
{
    /* before it connects: who says nothing for a second is sent away */
    int memfd = make_memory(o);

    if (memfd < 0) {
        return failed(o, "no memory to share");
    }
    bool ok = reach(o, path) &&
              (say_hello(o, memfd) || failed(o, "the engine does not let this user in"));
    close(memfd);
    return ok && take_welcome(o);
}
static void disconnect(operator_link *o)
{
    if (o->mine) {
        munmap(o->mine, AIQ_MAP_SIZE);
    }
    if (o->peer) {
        munmap(o->peer, AIQ_MAP_SIZE);
    }
    if (o->fd >= 0) {
        close(o->fd);
    }
    aiq_buf_free(&o->reply);
}

/* Frames. */

static void push(operator_link *o, aiq_frame_type type, const void *data, size_t n)
{
    /* the ring is larger than all that a request sends */
    void *to = aiq_ring_push(&o->ring, (uint8_t)type, 0, 0, 1, (uint32_t)n);

    if (to && n) {
        memcpy(to, data, n);
    }
}

static void flush(operator_link *o)
{
    bool wake = aiq_ring_publish(&o->ring);

    wake |= aiq_ring_release(&o->ring);
    if (wake) {
        ssize_t n = send(o->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n;
    }
}

static bool in_time(const operator_link *o)
{
    return loop_now_ns() < o->deadline_ns;
}

static bool next_frame(operator_link *o, aiq_frame *frame, const uint8_t **payload)
{
    char bytes[64];
    int rc;

    while ((rc = aiq_ring_next(&o->ring, frame, payload)) == 0) {
        flush(o);
        if (!aiq_ring_arm(&o->ring)) {
            continue;
        }
        struct pollfd p = {.fd = o->fd, .events = POLLIN};
        if (!in_time(o) || poll(&p, 1, WAIT_MS) == 0) {
            return failed(o, "the engine does not answer");
        }
        if (recv(o->fd, bytes, sizeof(bytes), MSG_DONTWAIT) == 0 && aiq_ring_empty(&o->ring)) {
            return failed(o, "the engine has closed the connection");
        }
    }
    return rc == 1 || failed(o, "the engine's answer makes no sense");
}

static void take_error(operator_link *o, const uint8_t *payload, uint32_t n)
{
    uint8_t copy[AIQ_ERROR_MAX];
    aiq_fields fields = {copy, copy};
    const char *param = "", *message = "the engine refuses";
    int param_len = 0, message_len = (int)strlen(message);
    const uint8_t *data;
    uint16_t id, len;

    if (n >= sizeof(aiq_failure) && n <= sizeof(copy)) {
        memcpy(copy, payload, n);
        fields = (aiq_fields){copy + sizeof(aiq_failure), copy + n};
    }
    while (aiq_field_next(&fields, &id, &data, &len) == 1) {
        if (id == AIQ_FIELD_PARAM) {
            param = (const char *)data;
            param_len = len;
        } else if (id == AIQ_FIELD_MESSAGE) {
            message = (const char *)data;
            message_len = len;
        }
    }
    cli_error(o->command, "%.*s%s%.*s", param_len, param, param_len ? ": " : "", message_len,
              message);
}

/* False: it was the end of a request that failed. */
static bool take_frame(operator_link *o, const aiq_frame *frame, const uint8_t *payload)
{
    aiq_head head;
    uint32_t more = frame->len;

    switch (frame->type) {
    case AIQ_FRAME_HEAD:
        if (frame->len < sizeof(head)) {
            return failed(o, "the engine's answer makes no sense");
        }
        memcpy(&head, payload, sizeof(head));
        o->status = head.status;
        break;
    case AIQ_FRAME_DATA:
        if (o->reply.len + frame->len > REPLY_MAX) {
            return failed(o, "the engine's answer is too long");
        }
        aiq_buf_add(&o->reply, payload, frame->len);
        push(o, AIQ_FRAME_CREDIT, &more, sizeof(more));
        break;
    case AIQ_FRAME_ERROR:
        take_error(o, payload, frame->len);
        return false;
    case AIQ_FRAME_END:
        o->done = true;
        break;
    default:
        break; /* CREDIT: the body fits the first window */
    }
    return true;
}

static bool exchange(operator_link *o, aiq_method method, const char *uri, const char *args,
                     aiq_str body)
{
    uint8_t payload[4096], *p = payload + sizeof(aiq_open);
    size_t uri_len = strlen(uri), args_len = args ? strlen(args) : 0;
    const aiq_open open = {.method = (uint8_t)method, .body_length = (int64_t)body.len};
    const uint8_t *data = NULL;
    aiq_frame frame;

    if (uri_len + args_len > 2048 || body.len > AIQ_WINDOW) {
        return failed(o, "what was given is too long");
    }
    memcpy(payload, &open, sizeof(open));
    p = aiq_field_put(p, AIQ_FIELD_URI, uri, (uint16_t)uri_len);
    if (args_len) {
        p = aiq_field_put(p, AIQ_FIELD_ARGS, args, (uint16_t)args_len);
    }
    push(o, AIQ_FRAME_OPEN, payload, (size_t)(p - payload));
    if (body.len) {
        push(o, AIQ_FRAME_BODY, body.data, body.len);
        push(o, AIQ_FRAME_END, NULL, 0);
    }
    while (!o->done) {
        if (!next_frame(o, &frame, &data) || !take_frame(o, &frame, data)) {
            return false;
        }
    }
    return true;
}

bool operator_request(const char *command, const char *socket, aiq_method method,
                      const char *uri, const char *args, aiq_str body, aiq_pool *pool,
                      json_value *reply)
{
    operator_link o = {
        .command = command, .fd = -1, .deadline_ns = loop_now_ns() + WAIT_MS * 1000000ull};
    json_error error;

    bool ok = connect_engine(&o, socket) && exchange(&o, method, uri, args, body);
    if (ok) {
        aiq_buf *text = &o.reply;
        /* from the brace to the brace, as json_each() wants it */
        while (text->len && text->data[text->len - 1] == '\n') {
            text->len--;
        }
        ok = json_scan((const char *)text->data, text->len, NULL, 0, &error) ||
             failed(&o, "the engine's answer is no JSON");
        *reply = (json_value){
            .type = JSON_OBJECT,
            .text = {aiq_pool_copy(pool, text->data, text->len), text->len},
        };
    }
    disconnect(&o);
    return ok;
}
