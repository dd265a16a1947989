#include "link/handshake.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Room for more descriptors than are allowed, so that a surplus is seen; what
 * does not fit even here the kernel closes and says so (MSG_CTRUNC). */
#define FDS_MAX 8

const char *handshake_read(int fd, aiq_hello *hello, int *memfd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = {hello, sizeof(*hello)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int fds[FDS_MAX];
    size_t n_fds = 0;

    *memfd = -1;
    ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0) {
        return "left before its first message";
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
        }
    }
    const char *why = NULL;
    if ((size_t)n != sizeof(*hello) || (message.msg_flags & MSG_TRUNC) ||
        hello->magic != AIQ_LINK_MAGIC) {
        why = "sent something that is no hello";
    } else if (n_fds > 1 || (message.msg_flags & MSG_CTRUNC)) {
        why = "sent more than one descriptor";
    }
    if (why) {
        for (size_t i = 0; i < n_fds; i++) {
            close(fds[i]);
        }
        return why;
    }
    *memfd = n_fds ? fds[0] : -1;
    return NULL;
}

void *handshake_map_peer(int memfd, const char **why)
{
    const int needed = F_SEAL_SHRINK | F_SEAL_GROW;
    struct stat st;

    if (memfd < 0) {
        *why = "sent no descriptor";
        return NULL;
    }
    /* Order matters: the size is what we checked only once it is sealed. */
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || (seals & needed) != needed) {
        *why = "sent a descriptor that is not sealed";
        return NULL;
    }
    if (fstat(memfd, &st) != 0 || st.st_size != AIQ_MAP_SIZE) {
        *why = "sent memory of a wrong size";
        return NULL;
    }
    void *map = mmap(NULL, AIQ_MAP_SIZE, PROT_READ, MAP_SHARED, memfd, 0);
    if (map == MAP_FAILED) {
        *why = "sent memory that cannot be mapped";
        return NULL;
    }
    return map;
}

void *handshake_map_own(int *memfd)
{
    int fd = memfd_create("aiq-engine", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *map = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, AIQ_MAP_SIZE) == 0) {
        map = mmap(NULL, AIQ_MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    /* FUTURE_WRITE: our mapping stays writable, no new one will be */
    if (map != MAP_FAILED &&
        fcntl(fd, F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0) {
        *memfd = fd;
        return map;
    }
    if (map != MAP_FAILED) {
        munmap(map, AIQ_MAP_SIZE);
    }
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

bool handshake_answer(int fd, uint64_t engine, aiq_welcome_status status, const char *text,
                      int memfd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    aiq_welcome welcome = {AIQ_LINK_MAGIC, AIQ_LINK_ABI, AIQ_RING_SIZE, status, engine, ""};
    struct iovec part = {&welcome, sizeof(welcome)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    snprintf(welcome.text, sizeof(welcome.text), "%s", text);
    if (memfd >= 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &memfd, sizeof(int));
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(welcome);
}
