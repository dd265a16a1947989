/*
 * A worker in a few functions: the other end of the engine's link, for tests
 * and measurements. It keeps the protocol; a test that wants to break it reaches
 * into the ring itself. Everything blocks, with a deadline of WORKER_MS.
 */

#ifndef WORKER_H
#define WORKER_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <openssl/evp.h>
#include "aiq_frame.h"
#include "aiq_link.h"

#define WORKER_MS 10000

typedef struct {
    int fd;
    void *mine, *peer;
    aiq_ring ring;
    aiq_welcome welcome;
} worker;

/* Writes a policy document beside the socket, as nginx's master does. */
static inline void worker_policy(const char *socket, const char *text, uint8_t sha256[32])
{
    char path[256];
    int n = snprintf(path, sizeof(path), "%s.policy/", socket);

    EVP_Digest(text, strlen(text), sha256, NULL, EVP_sha256(), NULL);
    mkdir(path, 0755);
    for (int i = 0; i < 32; i++) {
        n += snprintf(path + n, sizeof(path) - (size_t)n, "%02x", sha256[i]);
    }
    snprintf(path + n, sizeof(path) - (size_t)n, ".json");
    FILE *file = fopen(path, "w");
    assert(file);
    fputs(text, file);
    fclose(file);
}

static inline int worker_connect(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = WORKER_MS / 1000};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends n bytes with descriptors. */
static inline bool worker_send(int fd, const void *data, size_t n, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(16 * sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)data, n};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (n_fds) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)n;
}

/* The welcome and its descriptor; false at the connection's end. */
static inline bool worker_receive(int fd, aiq_welcome *welcome, int *memfd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {welcome, sizeof(*welcome)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};

    *memfd = -1;
    if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*welcome)) {
        return false;
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c) {
        memcpy(memfd, CMSG_DATA(c), sizeof(int));
    }
    return true;
}

static inline int worker_memfd(size_t size, int seals)
{
    int fd = memfd_create("worker", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    if (seals) {
        assert(fcntl(fd, F_ADD_SEALS, seals) == 0);
    }
    return fd;
}

static inline aiq_hello worker_hello(const uint8_t sha256[32])
{
    aiq_hello hello = {AIQ_LINK_MAGIC, AIQ_LINK_ABI, AIQ_RING_SIZE, AIQ_PURPOSE_WORKER, {0}};

    memcpy(hello.policy, sha256, 32);
    return hello;
}

/* The whole handshake. False: w->welcome says why, or its magic is 0. */
static inline bool worker_open(worker *w, const char *socket_path, const uint8_t sha256[32])
{
    aiq_hello hello = worker_hello(sha256);
    int mine = worker_memfd(AIQ_MAP_SIZE, F_SEAL_SHRINK | F_SEAL_GROW), theirs = -1;

    memset(w, 0, sizeof(*w));
    w->fd = worker_connect(socket_path);
    bool ok = w->fd >= 0 && worker_send(w->fd, &hello, sizeof(hello), &mine, 1) &&
              worker_receive(w->fd, &w->welcome, &theirs) &&
              w->welcome.status == AIQ_WELCOME_OK;
    if (ok) {
        w->mine = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, mine, 0);
        w->peer = mmap(NULL, AIQ_MAP_SIZE, PROT_READ, MAP_SHARED, theirs, 0);
        assert(w->mine != MAP_FAILED && w->peer != MAP_FAILED);
        aiq_ring_init(&w->ring, w->mine, w->peer);
        close(theirs);
    } else if (w->fd >= 0) {
        close(w->fd);
        w->fd = -1;
    }
    close(mine);
    return ok;
}

static inline void worker_close(worker *w)
{
    if (w->fd >= 0) {
        close(w->fd);
        munmap(w->mine, AIQ_MAP_SIZE);
        munmap(w->peer, AIQ_MAP_SIZE);
        w->fd = -1;
    }
}

static inline void worker_flush(worker *w)
{
    bool wake = aiq_ring_publish(&w->ring);

    wake |= aiq_ring_release(&w->ring);
    if (wake) {
        ssize_t n = send(w->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n;
    }
}

static inline bool worker_push(worker *w, aiq_frame_type type, uint32_t slot,
                               uint32_t generation, const void *data, uint32_t n)
{
    void *to = aiq_ring_push(&w->ring, (uint8_t)type, 0, slot, generation, n);

    if (to && n) {
        memcpy(to, data, n);
    }
    return to != NULL;
}

/* OPEN of a POST (or of a GET where length is 0), with a content type. */
static inline bool worker_request(worker *w, uint32_t slot, uint32_t generation,
                                  uint32_t location, int64_t length, const char *uri)
{
    aiq_open open = {.location = location,
                     .method = length ? AIQ_METHOD_POST : AIQ_METHOD_GET,
                     .body_length = length};
    uint8_t payload[1024], *p = payload + sizeof(open);

    memcpy(payload, &open, sizeof(open));
    p = aiq_field_put(p, AIQ_FIELD_URI, uri, (uint16_t)strlen(uri));
    p = aiq_field_put(p, AIQ_FIELD_REQUEST_ID, "req-1", 5);
    p = aiq_field_put(p, AIQ_FIELD_CONTENT_TYPE, "text/plain", 10);
    return worker_push(w, AIQ_FRAME_OPEN, slot, generation, payload, (uint32_t)(p - payload));
}

/* The next frame, waiting for it as a worker of nginx would; -1: the engine has
 * closed the link, or the deadline has passed (errno is ETIMEDOUT). */
static inline int worker_next(worker *w, aiq_frame *frame, const uint8_t **payload)
{
    for (;;) {
        int rc = aiq_ring_next(&w->ring, frame, payload);
        if (rc != 0) {
            return rc;
        }
        worker_flush(w);
        if (!aiq_ring_arm(&w->ring)) {
            continue;
        }
        struct pollfd p = {.fd = w->fd, .events = POLLIN};
        char bytes[64];
        if (poll(&p, 1, WORKER_MS) == 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        if (recv(w->fd, bytes, sizeof(bytes), MSG_DONTWAIT) == 0 && aiq_ring_empty(&w->ring)) {
            errno = 0;
            return -1;
        }
    }
}

#endif
