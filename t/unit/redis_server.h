/*
 * A redis-server for the tests of a program: in a folder of its own, in memory only.
 */

#ifndef UNIT_REDIS_SERVER_H
#define UNIT_REDIS_SERVER_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    unsigned port;
    pid_t pid;
} redis_server;

static inline int redis_socket(unsigned port, bool listens)
{
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int rc = listens ? bind(fd, (struct sockaddr *)&in, sizeof(in)) || listen(fd, 16)
                     : connect(fd, (struct sockaddr *)&in, sizeof(in));
    if (rc != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline unsigned redis_port_of(int fd)
{
    struct sockaddr_in in;
    socklen_t len = sizeof(in);

    getsockname(fd, (struct sockaddr *)&in, &len);
    return ntohs(in.sin_port);
}

static inline bool redis_server_is_there(void)
{
    return access("/usr/bin/redis-server", X_OK) == 0;
}

/* Returns when it takes connections. password: NULL, or what it asks for. */
static inline void redis_server_start(redis_server *s, const char *password)
{
    char port[8];

    if (s->port == 0) {
        int fd = redis_socket(0, true);
        s->port = redis_port_of(fd);
        close(fd);
    }
    snprintf(port, sizeof(port), "%u", s->port);
    s->pid = fork();
    if (s->pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        execl("/usr/bin/redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1",
              "--save", "", "--dir", "/tmp", "--requirepass", password ? password : "",
              (char *)NULL);
        _exit(127);
    }
    int fd;
    while ((fd = redis_socket(s->port, false)) < 0) {
        if (waitpid(s->pid, NULL, WNOHANG) != 0) {
            abort();
        }
        usleep(1000);
    }
    close(fd);
}

static inline void redis_server_kill(redis_server *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
}

#endif
