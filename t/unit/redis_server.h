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

typedef enum { REDIS_CONNECTS, REDIS_LISTENS, REDIS_HOLDS /* a port, for another */ } redis_end;

static inline int redis_socket(unsigned port, redis_end end)
{
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int rc = end == REDIS_CONNECTS ? connect(fd, (struct sockaddr *)&in, sizeof(in))
                                   : bind(fd, (struct sockaddr *)&in, sizeof(in));
    if (rc != 0 || (end == REDIS_LISTENS && listen(fd, 16) != 0)) {
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

/* Returns when it takes connections. Its port is held until the program ends: nobody gets it
 * while the server is away. password: NULL, or what it asks for. */
static inline void redis_server_start(redis_server *s, const char *password)
{
    char port[8];

    if (s->port == 0) {
        s->port = redis_port_of(redis_socket(0, REDIS_HOLDS));
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
    while ((fd = redis_socket(s->port, REDIS_CONNECTS)) < 0) {
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
