#include "link/server.h"
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "core/log.h"
#include "link/counts.h"
#include "link/handshake.h"
#include "link/link.h"

#define BACKLOG      512
#define PENDING_MAX  64   /* handshakes under way */
#define LINKS_MAX    1024 /* each maps 8 MB */
#define HANDSHAKE_MS 1000

/* A listening socket: the workers', or the operators'. */
typedef struct {
    link_server *server;
    const char *path;
    bool admin;
    int fd;
    dev_t dev; /* of our socket's file: the path may become a successor's */
    ino_t ino;
    uv_poll_t poll;
    bool polling;
} door;

typedef struct handshake {
    struct handshake *next;
    link_server *server;
    bool admin;
    uv_poll_t poll;
    int fd;
    struct ucred peer;
    loop_timer timer;
} handshake;

struct link_server {
    aiq_engine *engine;
    aiq_loop *main;
    link_counts *counts;
    door workers, operators;
    const aiq_policy *admin_policy;
    handshake *pending;
    unsigned n_pending;
    unsigned n_links; /* handed over and not yet closed */
    unsigned next_loop;
    bool leaving, gone;
    loop_timer drain_timer;
    loop_fn left;
    void *left_arg;
};

/* Leaving. */

static void on_end_closed(aiq_loop *loop, void *arg);

static void end_drain(aiq_loop *loop, void *arg)
{
    (void)arg;
    link_end_drain(loop->links);
}

static void end_close(aiq_loop *loop, void *arg)
{
    link_server *s = arg;

    link_end_close(loop->links, true);
    loop_post(s->main, on_end_closed, s);
}

static void to_all_loops(link_server *s, loop_fn fn)
{
    for (unsigned i = 0; i < s->engine->options.loops; i++) {
        loop_post(&s->engine->loops[i], fn, s);
    }
}

static void drop_socket(const door *d)
{
    struct stat st;

    if (d->path && lstat(d->path, &st) == 0 && st.st_dev == d->dev && st.st_ino == d->ino) {
        unlink(d->path);
    }
}

static void leave_now(aiq_loop *loop, void *arg)
{
    link_server *s = arg;

    (void)loop;
    if (s->gone) {
        return;
    }
    s->gone = true;
    loop_timer_stop(s->main, &s->drain_timer);
    if (s->n_links) {
        aiq_log(AIQ_LOG_WARN, "link", "leaving with open links", AIQ_I("links", s->n_links));
    }
    /* through every loop, also without links: adoptions may be under way */
    s->next_loop = 0;
    to_all_loops(s, end_close);
}

static void on_end_closed(aiq_loop *loop, void *arg)
{
    link_server *s = arg;

    if (++s->next_loop == s->engine->options.loops) {
        s->left(loop, s->left_arg);
    }
}

void link_server_leave(link_server *s)
{
    if (s->leaving) {
        leave_now(s->main, s);
        return;
    }
    s->leaving = true;
    __atomic_store_n(&s->engine->leaving, true, __ATOMIC_RELAXED);
    aiq_log(AIQ_LOG_INFO, "link", "leaving", AIQ_I("links", s->n_links),
            AIQ_I("drain_s", s->engine->options.drain_s));
    drop_socket(&s->workers);
    drop_socket(&s->operators);
    to_all_loops(s, end_drain);
    if (s->n_links == 0) {
        leave_now(s->main, s);
        return;
    }
    loop_timer_start(s->main, &s->drain_timer, s->engine->options.drain_s * 1000ull, leave_now,
                     s);
}

static void on_link_closed(aiq_loop *loop, void *arg)
{
    link_server *s = arg;

    s->n_links--;
    if (s->leaving && s->n_links == 0) {
        leave_now(loop, s);
    }
}

/* On a request loop. */
static void tell_link_closed(aiq_loop *loop, void *arg)
{
    link_server *s = arg;

    (void)loop;
    loop_post(s->main, on_link_closed, s);
}

/* Handshakes. */

static void on_handshake_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* Ends a handshake; the descriptor goes with it, or to the link. */
static void handshake_end(handshake *h, bool keep_fd)
{
    link_server *s = h->server;
    handshake **p = &s->pending;

    while (*p != h) {
        p = &(*p)->next;
    }
    *p = h->next;
    s->n_pending--;
    loop_timer_stop(s->main, &h->timer);
    uv_close((uv_handle_t *)&h->poll, on_handshake_closed);
    if (!keep_fd) {
        close(h->fd);
    }
}

static void refuse(handshake *h, aiq_welcome_status status, const char *text,
                   const char *detail)
{
    link_server *s = h->server;

    if (status != AIQ_WELCOME_BUSY) {
        metric_add(s->counts->errors, 1);
    }
    aiq_log(AIQ_LOG_WARN, "link", "handshake refused", AIQ_S("reason", text),
            AIQ_S("detail", detail), AIQ_I("pid", h->peer.pid), AIQ_I("uid", h->peer.uid));
    handshake_answer(h->fd, s->engine->id, status, text, -1);
    handshake_end(h, false);
}

static void on_silence(aiq_loop *loop, void *arg)
{
    handshake *h = arg;

    (void)loop;
    aiq_log(AIQ_LOG_WARN, "link", "handshake timed out", AIQ_I("pid", h->peer.pid));
    metric_add(h->server->counts->errors, 1);
    handshake_end(h, false);
}

/* On the link's loop. */
static void adopt(aiq_loop *loop, void *arg)
{
    link_parts *parts = arg;

    link_open(loop->links, parts);
    free(parts);
}

static void hand_over(handshake *h, link_parts *parts)
{
    link_server *s = h->server;
    aiq_loop *loop = &s->engine->loops[s->next_loop++ % s->engine->options.loops];

    parts->fd = h->fd;
    parts->pid = h->peer.pid;
    parts->admin = h->admin;
    aiq_log(h->admin ? AIQ_LOG_DEBUG : AIQ_LOG_INFO, "link",
            h->admin ? "operator connected" : "worker connected", AIQ_I("pid", h->peer.pid),
            AIQ_I("uid", h->peer.uid), AIQ_I("loop", loop->index));
    s->n_links++;
    handshake_end(h, true);
    loop_post(loop, adopt, parts);
}

static void welcome_worker(handshake *h, const aiq_hello *hello, int memfd)
{
    link_server *s = h->server;
    const char *why = NULL;
    int own = -1;
    aiq_err err;

    void *peer = handshake_map_peer(memfd, &why);
    if (peer == NULL) {
        refuse(h, AIQ_WELCOME_REFUSED, why, NULL);
        return;
    }
    const aiq_policy *policy =
        h->admin ? policy_ref(s->admin_policy)
                 : policy_get(s->engine->policies, hello->policy, h->peer.uid, &err);
    if (policy == NULL) {
        munmap(peer, AIQ_MAP_SIZE);
        refuse(h, AIQ_WELCOME_POLICY, err.message, err.detail);
        return;
    }
    void *mine = handshake_map_own(&own);
    if (mine == NULL) {
        munmap(peer, AIQ_MAP_SIZE);
        policy_unref(policy);
        refuse(h, AIQ_WELCOME_BUSY, "no memory for another link", strerror(errno));
        return;
    }
    bool sent = handshake_answer(h->fd, s->engine->id, AIQ_WELCOME_OK, "", own);
    close(own);
    if (!sent) {
        munmap(peer, AIQ_MAP_SIZE);
        munmap(mine, AIQ_MAP_SIZE);
        policy_unref(policy);
        handshake_end(h, false);
        return;
    }
    link_parts *parts = aiq_zalloc(sizeof(*parts));
    *parts = (link_parts){.mine = mine, .peer = peer, .policy = policy};
    hand_over(h, parts);
}

/* A new engine may send us away only if it runs as we do, or as root: a worker
 * that took the socket's group must not. Its ABI may be another: that is what
 * upgrades are for. */
static void welcome_successor(handshake *h)
{
    link_server *s = h->server;

    if (h->peer.uid != 0 && h->peer.uid != geteuid()) {
        refuse(h, AIQ_WELCOME_REFUSED, "only the engine's own user may take over", NULL);
        return;
    }
    aiq_log(AIQ_LOG_INFO, "link", "a new engine takes over", AIQ_I("pid", h->peer.pid));
    handshake_answer(h->fd, s->engine->id, AIQ_WELCOME_OK, "", -1);
    handshake_end(h, false);
    if (!s->leaving) {
        link_server_leave(s);
    }
}

/* Operators come for nothing else, and workers not for that. */
static bool right_door(const handshake *h, uint32_t purpose)
{
    return purpose == (h->admin ? AIQ_PURPOSE_ADMIN : AIQ_PURPOSE_WORKER);
}

static void on_hello(uv_poll_t *poll, int status, int events)
{
    handshake *h = poll->data;
    link_server *s = h->server;
    aiq_hello hello = {0};
    int memfd;

    (void)status;
    (void)events;
    const char *why = handshake_read(h->fd, &hello, &memfd);
    if (why) {
        refuse(h, AIQ_WELCOME_REFUSED, why, NULL);
    } else if (hello.purpose == AIQ_PURPOSE_TAKEOVER && !h->admin) {
        welcome_successor(h);
    } else if (hello.abi != AIQ_LINK_ABI || hello.ring_size != AIQ_RING_SIZE) {
        refuse(h, AIQ_WELCOME_ABI, "module and engine are of different builds", NULL);
    } else if (!right_door(h, hello.purpose)) {
        refuse(h, AIQ_WELCOME_REFUSED, "came for no known purpose", NULL);
    } else if (s->leaving) {
        refuse(h, AIQ_WELCOME_BUSY, "this engine is leaving", NULL);
    } else if (s->n_links >= LINKS_MAX) {
        refuse(h, AIQ_WELCOME_BUSY, "too many links", NULL);
    } else {
        welcome_worker(h, &hello, memfd);
    }
    if (memfd >= 0) {
        close(memfd);
    }
}

static bool may_connect(const door *d, const struct ucred *peer)
{
    return !d->admin || peer->uid == 0 || peer->uid == geteuid();
}

static void begin_handshake(const door *d, int fd)
{
    link_server *s = d->server;
    socklen_t size = sizeof(struct ucred);

    if (s->n_pending >= PENDING_MAX) {
        aiq_log(AIQ_LOG_WARN, "link", "too many handshakes at once");
        metric_add(s->counts->errors, 1);
        close(fd);
        return;
    }
    handshake *h = aiq_zalloc(sizeof(*h));
    h->server = s;
    h->fd = fd;
    h->admin = d->admin;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &h->peer, &size) != 0 ||
        !may_connect(d, &h->peer) || uv_poll_init(&s->main->uv, &h->poll, fd) != 0) {
        close(fd);
        free(h);
        return;
    }
    h->poll.data = h;
    h->next = s->pending;
    s->pending = h;
    s->n_pending++;
    uv_poll_start(&h->poll, UV_READABLE, on_hello);
    loop_timer_start(s->main, &h->timer, HANDSHAKE_MS, on_silence, h);
}

static void on_connection(uv_poll_t *poll, int status, int events)
{
    const door *d = poll->data;

    (void)status;
    (void)events;
    /* bounded: the listener is level-triggered, what is left comes next turn */
    for (int i = 0; i < 16; i++) {
        int fd = accept4(d->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            break;
        }
        begin_handshake(d, fd);
    }
}

/* The socket. */

static bool address_of(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    return (size_t)snprintf(address->sun_path, sizeof(address->sun_path), "%s", path) <
           sizeof(address->sun_path);
}

static bool socket_failed(aiq_err *err, const char *path, const char *what)
{
    return aiq_fail(err, 500, "socket", "cannot %s %s: %s", what, path, strerror(errno));
}

static bool set_owner(const char *path, const char *group, aiq_err *err)
{
    if (group) {
        struct group *entry = getgrnam(group);
        if (entry == NULL) {
            return aiq_fail(err, 500, "socket", "there is no group \"%s\" (--socket-group)",
                            group);
        }
        if (chown(path, (uid_t)-1, entry->gr_gid) != 0) {
            return socket_failed(err, path, "give the group access to");
        }
    }
    return chmod(path, 0660) == 0 ? true : socket_failed(err, path, "set the mode of");
}

/* Room is kept for the name that the socket has before it is put in its place. */
static bool path_fits(const door *d, aiq_err *err)
{
    const size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 12;

    return strlen(d->path) <= max ||
           aiq_fail(err, 500, "socket", "the path of %s is too long (at most %zu bytes)",
                    d->admin ? "--admin-socket" : "--socket", max);
}

/* A listening socket under a name of its own: nobody can connect before it has
 * its owner and mode. */
static bool listen_beside(door *d, const char *path, aiq_err *err)
{
    const char *group = d->server->engine->options.socket_group;
    struct sockaddr_un address;
    struct stat st;

    if (!address_of(path, &address)) {
        return aiq_fail(err, 500, "socket", "the path %s is too long", path);
    }
    unlink(path);
    d->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (d->fd < 0 || bind(d->fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        return socket_failed(err, path, "make the socket");
    }
    if (d->admin ? chmod(path, 0600) != 0 && !socket_failed(err, path, "set the mode of")
                 : !set_owner(path, group, err)) {
        return false;
    }
    if (listen(d->fd, BACKLOG) != 0 || lstat(path, &st) != 0) {
        return socket_failed(err, path, "listen on");
    }
    d->dev = st.st_dev;
    d->ino = st.st_ino;
    return true;
}

/* A connection to whoever listens at the path; -1: nobody does. */
static int connect_old(const char *path)
{
    const struct timeval patience = {.tv_sec = 1};
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0 || !address_of(path, &address)) {
        return fd;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void send_old_away(int fd)
{
    const aiq_hello hello = {.magic = AIQ_LINK_MAGIC,
                             .abi = AIQ_LINK_ABI,
                             .ring_size = AIQ_RING_SIZE,
                             .purpose = AIQ_PURPOSE_TAKEOVER};
    aiq_welcome welcome = {.status = AIQ_WELCOME_BUSY};

    if (send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) == (ssize_t)sizeof(hello) &&
        recv(fd, &welcome, sizeof(welcome), 0) == (ssize_t)sizeof(welcome) &&
        welcome.status == AIQ_WELCOME_OK) {
        aiq_log(AIQ_LOG_INFO, "link", "took over from a running engine");
        return;
    }
    welcome.text[sizeof(welcome.text) - 1] = '\0';
    aiq_log(AIQ_LOG_WARN, "link", "the engine that ran here does not leave, stop it by hand",
            AIQ_S("reason", welcome.text));
}

static bool take_path(door *d, aiq_err *err)
{
    const char *path = d->path;
    char beside[sizeof(((struct sockaddr_un *)0)->sun_path) + 16];
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        return aiq_fail(err, 500, "socket", "%s exists and is no socket", path);
    }
    snprintf(beside, sizeof(beside), "%.*s.%d", (int)sizeof(beside) - 14, path, (int)getpid());
    bool ok = listen_beside(d, beside, err);
    if (ok) {
        int old = d->admin ? -1 : connect_old(path);
        ok = rename(beside, path) == 0 || socket_failed(err, path, "put the socket at");
        if (ok && old >= 0) {
            send_old_away(old);
        }
        if (old >= 0) {
            close(old);
        }
    }
    if (!ok) {
        unlink(beside);
    }
    return ok;
}

/* Life. */

static const char admin_policy[] =
    "{\"aiq\":1,\"epoch\":1,\"providers\":[],\"models\":[],"
    "\"locations\":[{\"service\":\"control\",\"max_body\":65536}]}";

link_server *link_server_new(aiq_engine *engine, aiq_loop *main)
{
    link_server *s = aiq_zalloc(sizeof(*s));

    s->engine = engine;
    s->main = main;
    s->workers = (door){.server = s, .path = engine->options.socket, .fd = -1};
    s->operators =
        (door){.server = s, .path = engine->options.admin_socket, .fd = -1, .admin = true};
    s->counts = link_counts_new(engine->metrics);
    for (unsigned i = 0; i < engine->options.loops; i++) {
        aiq_loop *loop = &engine->loops[i];
        loop->links = link_end_new(loop, s->counts);
        loop->links->on_close = tell_link_closed;
        loop->links->on_close_arg = s;
    }
    return s;
}

static bool door_open(door *d, aiq_err *err)
{
    if (!path_fits(d, err) || !take_path(d, err)) {
        return false;
    }
    uv_poll_init(&d->server->main->uv, &d->poll, d->fd);
    d->poll.data = d;
    d->polling = true;
    uv_poll_start(&d->poll, UV_READABLE, on_connection);
    return true;
}

static void door_close(door *d)
{
    if (d->polling) {
        uv_close((uv_handle_t *)&d->poll, NULL);
        drop_socket(d);
    }
    if (d->fd >= 0) {
        close(d->fd);
    }
}

bool link_server_start(link_server *s, loop_fn left, void *arg, aiq_err *err)
{
    s->left = left;
    s->left_arg = arg;
    s->admin_policy = policy_parse(admin_policy, sizeof(admin_policy) - 1, err);
    /* the workers' last: that is what sends an engine away which runs here */
    if (s->admin_policy == NULL || !path_fits(&s->workers, err)) {
        return false;
    }
    return (s->operators.path == NULL || door_open(&s->operators, err)) &&
           door_open(&s->workers, err);
}

void link_server_stop(link_server *s)
{
    while (s->pending) {
        handshake_end(s->pending, false);
    }
    door_close(&s->workers);
    door_close(&s->operators);
}

void link_server_free(link_server *s)
{
    for (unsigned i = 0; i < s->engine->options.loops; i++) {
        link_end_free(s->engine->loops[i].links);
    }
    if (s->admin_policy) {
        policy_unref(s->admin_policy);
    }
    free(s->counts);
    free(s);
}
