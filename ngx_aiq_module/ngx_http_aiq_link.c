
#include "ngx_http_aiq.h"

#include <sys/mman.h>


#define NGX_HTTP_AIQ_BATCH       256     /* frames a turn */
#define NGX_HTTP_AIQ_PARKED      1024
#define NGX_HTTP_AIQ_PARK_TIME   1000
#define NGX_HTTP_AIQ_HANDSHAKE   1000
#define NGX_HTTP_AIQ_RETRY_TIME  500


/*
 * A link to the engine.  It takes jobs while it is the worker's "current"
 * one; an older one, that the engine wants to be rid of, lives on until its
 * last job is done.
 *
 * A slot is in the list of free slots, or open, or waits with its CANCEL.
 */

struct ngx_http_aiq_link_s {
    ngx_http_aiq_frames_t      frames;
    ngx_connection_t          *connection;
    void                      *mine;         /* AIQ_MAP_SIZE bytes each */
    void                      *peer;
    ngx_event_t                work;         /* posted: push, publish */
    ngx_event_t                timeout;      /* of the handshake */
    ngx_queue_t                queue;
    ngx_queue_t                dirty;        /* jobs with something to do */
    uint32_t                   free;         /* slot + 1 */
    uint32_t                   waiting;      /* slot + 1, oldest first */
    uint32_t                   last_waiting;
    ngx_uint_t                 jobs;
    unsigned                   open:1;       /* the handshake is done */
    unsigned                   draining:1;
    unsigned                   closing:1;
};


/* a worker's relation to its engine */

typedef struct {
    ngx_http_aiq_main_conf_t  *conf;
    ngx_log_t                 *log;
    ngx_http_aiq_link_t       *link;         /* open or in its handshake */
    ngx_queue_t                links;
    ngx_queue_t                parked;
    ngx_uint_t                 nparked;
    ngx_connection_t           dummy;        /* for the timer's debug log */
    ngx_event_t                retry;
    ngx_msec_t                 lost_time;
    u_char                     trouble[256]; /* what was logged last */
    unsigned                   lost:1;
    unsigned                   linked:1;     /* there was a link already */
} ngx_http_aiq_engine_t;


static void ngx_http_aiq_link_retry(ngx_msec_t delay);
static void ngx_http_aiq_link_retry_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_connect(void);
static char *ngx_http_aiq_link_setup(ngx_http_aiq_link_t *link, int fd);
static void *ngx_http_aiq_link_map(int *memfd);
static ngx_int_t ngx_http_aiq_link_hello(int fd, int memfd);
static void ngx_http_aiq_link_trouble(char *what, ngx_err_t err, char *why);
static void ngx_http_aiq_link_timeout_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_read_handler(ngx_event_t *rev);
static void ngx_http_aiq_link_write_handler(ngx_event_t *wev);
static void ngx_http_aiq_link_welcome(ngx_http_aiq_link_t *link);
static ssize_t ngx_http_aiq_link_recv_welcome(int fd, aiq_welcome *welcome,
    int *memfd, char **why);
static void *ngx_http_aiq_link_map_peer(int memfd, char **why);
static void ngx_http_aiq_link_opened(ngx_http_aiq_link_t *link);
static ngx_int_t ngx_http_aiq_link_drain_socket(ngx_http_aiq_link_t *link);
static ngx_int_t ngx_http_aiq_link_process(ngx_http_aiq_link_t *link,
    ngx_uint_t max);
static void ngx_http_aiq_link_event(ngx_http_aiq_link_t *link,
    ngx_http_aiq_event_t *ev);
static void ngx_http_aiq_link_notice(ngx_http_aiq_link_t *link,
    uint32_t notice);
static void ngx_http_aiq_link_mark(ngx_http_aiq_link_t *link,
    ngx_http_aiq_ctx_t *ctx);
static void ngx_http_aiq_link_run_dirty(ngx_http_aiq_link_t *link);
static ngx_int_t ngx_http_aiq_link_settle(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_push_waiting(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_work_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_lost(ngx_http_aiq_link_t *link,
    const char *why);
static void ngx_http_aiq_link_close(ngx_http_aiq_link_t *link);
static void ngx_http_aiq_link_free(ngx_http_aiq_link_t *link);

static ngx_int_t ngx_http_aiq_slot_get(ngx_http_aiq_link_t *link,
    uint32_t *slot);
static void ngx_http_aiq_slot_free(ngx_http_aiq_link_t *link, uint32_t slot);
static void ngx_http_aiq_slot_wait(ngx_http_aiq_link_t *link, uint32_t slot);


static ngx_http_aiq_engine_t  ngx_http_aiq_engine;


ngx_int_t
ngx_http_aiq_link_init(ngx_cycle_t *cycle, ngx_http_aiq_main_conf_t *amcf)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    engine->conf = amcf;
    engine->log = cycle->log;

    ngx_queue_init(&engine->links);
    ngx_queue_init(&engine->parked);

    engine->dummy.fd = (ngx_socket_t) -1;

    engine->retry.handler = ngx_http_aiq_link_retry_handler;
    engine->retry.data = &engine->dummy;
    engine->retry.log = cycle->log;
    engine->retry.cancelable = 1;

    ngx_http_aiq_link_connect();

    return NGX_OK;
}


void
ngx_http_aiq_link_exit(void)
{
    ngx_queue_t            *q;
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (engine->conf == NULL) {
        return;
    }

    /* no job is touched: the process ends, the engine will see that */

    while (!ngx_queue_empty(&engine->links)) {
        q = ngx_queue_head(&engine->links);
        ngx_queue_remove(q);
        ngx_http_aiq_link_free(ngx_queue_data(q, ngx_http_aiq_link_t, queue));
    }
}


ngx_uint_t
ngx_http_aiq_link_up(void)
{
    return ngx_http_aiq_engine.link && ngx_http_aiq_engine.link->open;
}


/* Is there a reason to wait for a link that is not there? */

ngx_uint_t
ngx_http_aiq_link_expected(void)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    return engine->link
           || (engine->lost
               && ngx_current_msec - engine->lost_time
                  < NGX_HTTP_AIQ_PARK_TIME);
}


static void
ngx_http_aiq_link_retry(ngx_msec_t delay)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    /* with jitter: the workers must not come all at once */

    if (!engine->retry.timer_set) {
        ngx_add_timer(&engine->retry, delay + ngx_random() % 50);
    }
}


static void
ngx_http_aiq_link_retry_handler(ngx_event_t *ev)
{
    if (ngx_http_aiq_engine.link == NULL) {
        ngx_http_aiq_link_connect();
    }
}


static void
ngx_http_aiq_link_connect(void)
{
    int                     fd;
    char                   *what;
    ngx_err_t               err;
    struct sockaddr_un      sun;
    ngx_http_aiq_link_t    *link;
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_NONBLOCK|SOCK_CLOEXEC, 0);

    if (fd == -1) {
        ngx_http_aiq_link_trouble("socket() failed", ngx_socket_errno, NULL);
        goto retry;
    }

    ngx_memzero(&sun, sizeof(struct sockaddr_un));
    sun.sun_family = AF_UNIX;
    ngx_memcpy(sun.sun_path, engine->conf->engine.data,
               engine->conf->engine.len);

    /* a Unix socket connects at once or not at all */

    if (connect(fd, (struct sockaddr *) &sun, sizeof(struct sockaddr_un))
        == -1)
    {
        ngx_http_aiq_link_trouble("connect() failed", ngx_socket_errno, NULL);
        (void) ngx_close_socket(fd);
        goto retry;
    }

    link = ngx_calloc(sizeof(ngx_http_aiq_link_t), engine->log);
    if (link == NULL) {
        (void) ngx_close_socket(fd);
        goto retry;
    }

    what = ngx_http_aiq_link_setup(link, fd);

    if (what) {
        err = ngx_errno;
        ngx_http_aiq_link_trouble(what, err, NULL);

        if (link->mine) {
            munmap(link->mine, AIQ_MAP_SIZE);
        }

        if (link->connection) {
            ngx_close_connection(link->connection);

        } else {
            (void) ngx_close_socket(fd);
        }

        ngx_free(link);
        goto retry;
    }

    engine->link = link;
    ngx_queue_insert_tail(&engine->links, &link->queue);

    ngx_add_timer(&link->timeout, NGX_HTTP_AIQ_HANDSHAKE);

    return;

retry:

    ngx_http_aiq_link_retry(NGX_HTTP_AIQ_RETRY_TIME - 100);
}


/* Our half of the handshake.  NULL, or what failed. */

static char *
ngx_http_aiq_link_setup(ngx_http_aiq_link_t *link, int fd)
{
    int                memfd;
    ngx_int_t          rc;
    ngx_log_t         *log;
    ngx_event_t       *rev, *wev;
    ngx_connection_t  *c;

    log = ngx_http_aiq_engine.log;

    ngx_queue_init(&link->dirty);

    link->mine = ngx_http_aiq_link_map(&memfd);
    if (link->mine == NULL) {
        return "memfd_create() failed";
    }

    rc = ngx_http_aiq_link_hello(fd, memfd);
    close(memfd);

    if (rc != NGX_OK) {
        return "sendmsg() failed";
    }

    c = ngx_get_connection(fd, log);
    if (c == NULL) {
        return "no connection for the engine";
    }

    link->connection = c;

    c->data = link;
    c->log = log;

    rev = c->read;
    wev = c->write;

    rev->log = log;
    wev->log = log;

    /* else the shutdown timer would call us, and exit complain about us */
    rev->channel = 1;
    wev->channel = 1;

    rev->handler = ngx_http_aiq_link_read_handler;
    wev->handler = ngx_http_aiq_link_write_handler;

    link->work.handler = ngx_http_aiq_link_work_handler;
    link->work.data = c;
    link->work.log = log;

    link->timeout.handler = ngx_http_aiq_link_timeout_handler;
    link->timeout.data = c;
    link->timeout.log = log;
    link->timeout.cancelable = 1;

    /* reading alone: the socket is always ready for a byte more */

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        return "adding an event failed";
    }

    return NULL;
}


/* Memory that only we write: mapped by us first, then sealed. */

static void *
ngx_http_aiq_link_map(int *memfd)
{
    int        fd;
    void      *map;
    ngx_err_t  err;

    fd = memfd_create("aiq-worker", MFD_CLOEXEC|MFD_ALLOW_SEALING);
    if (fd == -1) {
        return NULL;
    }

    map = MAP_FAILED;

    if (ftruncate(fd, AIQ_MAP_SIZE) == 0) {
        map = mmap(NULL, AIQ_MAP_SIZE, PROT_READ|PROT_WRITE, MAP_SHARED, fd,
                   0);
    }

    if (map != MAP_FAILED) {

#ifdef F_SEAL_FUTURE_WRITE
        /* before Linux 5.1 we have to trust that the engine only reads */
        (void) fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
#endif

        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_SEAL)
            != -1)
        {
            *memfd = fd;
            return map;
        }
    }

    err = ngx_errno;

    if (map != MAP_FAILED) {
        munmap(map, AIQ_MAP_SIZE);
    }

    close(fd);

    ngx_set_errno(err);

    return NULL;
}


static ngx_int_t
ngx_http_aiq_link_hello(int fd, int memfd)
{
    ssize_t            n;
    aiq_hello          hello;
    struct iovec       iov;
    struct msghdr      msg;
    struct cmsghdr    *cmsg;

    union {
        struct cmsghdr  align;
        char            space[CMSG_SPACE(sizeof(int))];
    } control;

    ngx_memzero(&msg, sizeof(struct msghdr));
    ngx_memzero(&control, sizeof(control));

    hello.magic = AIQ_LINK_MAGIC;
    hello.abi = AIQ_LINK_ABI;
    hello.ring_size = AIQ_RING_SIZE;
    hello.purpose = AIQ_PURPOSE_WORKER;
    ngx_memcpy(hello.policy, ngx_http_aiq_engine.conf->sha256, 32);

    iov.iov_base = &hello;
    iov.iov_len = sizeof(aiq_hello);

    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control);

    cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    ngx_memcpy(CMSG_DATA(cmsg), &memfd, sizeof(int));

    n = sendmsg(fd, &msg, MSG_NOSIGNAL);

    return n == sizeof(aiq_hello) ? NGX_OK : NGX_ERROR;
}


/* A cause is logged once, however often we try. */

static void
ngx_http_aiq_link_trouble(char *what, ngx_err_t err, char *why)
{
    u_char                  text[256];
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (why) {
        ngx_snprintf(text, sizeof(text), "%s: %s%Z", what, why);

    } else {
        ngx_snprintf(text, sizeof(text), "%s (%d)%Z", what, err);
    }

    text[sizeof(text) - 1] = '\0';

    if (ngx_strcmp(text, engine->trouble) == 0) {
        return;
    }

    ngx_cpystrn(engine->trouble, text, sizeof(engine->trouble));

    if (why) {
        ngx_log_error(NGX_LOG_ERR, engine->log, 0,
                      "aiq: no link to the engine at \"unix:%V\": %s: %s",
                      &engine->conf->engine, what, why);

    } else {
        ngx_log_error(NGX_LOG_ERR, engine->log, err,
                      "aiq: no link to the engine at \"unix:%V\": %s",
                      &engine->conf->engine, what);
    }
}


static void
ngx_http_aiq_link_timeout_handler(ngx_event_t *ev)
{
    ngx_connection_t  *c;

    c = ev->data;

    ngx_http_aiq_link_trouble("the engine", 0, "does not answer");
    ngx_http_aiq_link_close(c->data);
}


static void
ngx_http_aiq_link_write_handler(ngx_event_t *wev)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, wev->log, 0, "http aiq link writable");
}


static void
ngx_http_aiq_link_read_handler(ngx_event_t *rev)
{
    ngx_int_t             rc;
    ngx_connection_t     *c;
    ngx_http_aiq_link_t  *link;

    c = rev->data;
    link = c->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, rev->log, 0, "http aiq link, jobs:%ui",
                   link->jobs);

    if (!link->open) {
        ngx_http_aiq_link_welcome(link);
        return;
    }

    rc = ngx_http_aiq_link_drain_socket(link);

    if (rc == NGX_ERROR) {

        /* what the engine has said before its end counts */

        link->closing = 1;

        (void) ngx_http_aiq_link_process(link,
                                         AIQ_RING_SIZE / sizeof(aiq_frame));
        ngx_http_aiq_link_lost(link, "the engine has gone");
        return;
    }

    if (ngx_http_aiq_link_process(link, NGX_HTTP_AIQ_BATCH) == NGX_AGAIN
        || ngx_http_aiq_link_settle(link) == NGX_AGAIN
        || rc == NGX_AGAIN)
    {
        /* others first; nobody will wake us for what is there already */
        ngx_post_event(rev, &ngx_posted_next_events);
    }

    if (link->frames.ring.broken) {
        ngx_http_aiq_link_lost(link, link->frames.broken);
        return;
    }

    if (link->draining && link->jobs == 0 && link->waiting == 0) {
        ngx_http_aiq_link_close(link);
    }
}


static void
ngx_http_aiq_link_welcome(ngx_http_aiq_link_t *link)
{
    int           memfd;
    char         *why;
    size_t        i;
    ssize_t       n;
    aiq_welcome   welcome;

    static char  *what[] = {
        "the engine answered",
        "the engine has another ABI",
        "the engine refused the policy",
        "the engine refused us",
        "the engine is busy"
    };

    why = NULL;
    memfd = -1;

    n = ngx_http_aiq_link_recv_welcome(link->connection->fd, &welcome, &memfd,
                                       &why);

    if (n == NGX_AGAIN) {
        if (ngx_handle_read_event(link->connection->read, 0) == NGX_OK) {
            return;
        }

        why = "lost an event";
    }

    if (why == NULL && welcome.status != AIQ_WELCOME_OK) {

        /* a peer's text goes into our log */

        welcome.text[sizeof(welcome.text) - 1] = '\0';

        for (i = 0; welcome.text[i]; i++) {
            if (welcome.text[i] < 0x20 || welcome.text[i] > 0x7e) {
                welcome.text[i] = '?';
            }
        }

        ngx_http_aiq_link_trouble(what[welcome.status <= AIQ_WELCOME_BUSY
                                       ? welcome.status : 0],
                                  0, welcome.text);
        goto failed;
    }

    if (why == NULL) {
        link->peer = ngx_http_aiq_link_map_peer(memfd, &why);
    }

    if (why) {
        ngx_http_aiq_link_trouble(what[0], 0, why);
        goto failed;
    }

    close(memfd);

    ngx_http_aiq_link_opened(link);
    return;

failed:

    if (memfd != -1) {
        close(memfd);
    }

    ngx_http_aiq_link_close(link);
}


/* On an error no descriptor is left open. */

static ssize_t
ngx_http_aiq_link_recv_welcome(int fd, aiq_welcome *welcome, int *memfd,
    char **why)
{
    int              fds[8], extra;
    size_t           i, nfds;
    ssize_t          n;
    struct iovec     iov;
    struct msghdr    msg;
    struct cmsghdr  *cmsg;

    /* room for more than is allowed, so that a surplus is seen */

    union {
        struct cmsghdr  align;
        char            space[CMSG_SPACE(sizeof(fds))];
    } control;

    ngx_memzero(&msg, sizeof(struct msghdr));
    ngx_memzero(welcome, sizeof(aiq_welcome));

    iov.iov_base = welcome;
    iov.iov_len = sizeof(aiq_welcome);

    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control);

    n = recvmsg(fd, &msg, MSG_DONTWAIT|MSG_CMSG_CLOEXEC);

    if (n == -1 && (ngx_socket_errno == NGX_EAGAIN
                    || ngx_socket_errno == NGX_EINTR))
    {
        return NGX_AGAIN;
    }

    if (n <= 0) {
        *why = "with the end of the connection";
        return NGX_ERROR;
    }

    nfds = 0;
    extra = 0;

    for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
            nfds = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            ngx_memcpy(fds, CMSG_DATA(cmsg), nfds * sizeof(int));
        }
    }

    for (i = 1; i < nfds; i++) {
        close(fds[i]);
        extra = 1;
    }

    if (nfds) {
        *memfd = fds[0];
    }

    if (n < (ssize_t) (4 * sizeof(uint32_t))
        || welcome->magic != AIQ_LINK_MAGIC)
    {
        *why = "with something that is no welcome";

    } else if (welcome->abi != AIQ_LINK_ABI
               || welcome->ring_size != AIQ_RING_SIZE)
    {
        /* what follows may mean anything */
        welcome->status = AIQ_WELCOME_ABI;
        ngx_sprintf((u_char *) welcome->text,
                    "its ABI is %uD, the module's %d%Z",
                    welcome->abi, AIQ_LINK_ABI);

    } else if (n != sizeof(aiq_welcome) || (msg.msg_flags & MSG_TRUNC)) {
        *why = "with a welcome of a wrong length";

    } else if (extra || (msg.msg_flags & MSG_CTRUNC)) {
        *why = "with more than one descriptor";
    }

    return n;
}


static void *
ngx_http_aiq_link_map_peer(int memfd, char **why)
{
    int             seals;
    void           *map;
    struct stat     st;

    if (memfd == -1) {
        *why = "without a descriptor";
        return NULL;
    }

    /* sealed first: only then the size is what it will be */

    seals = fcntl(memfd, F_GET_SEALS);

    if (seals == -1
        || (seals & (F_SEAL_SHRINK|F_SEAL_GROW))
           != (F_SEAL_SHRINK|F_SEAL_GROW))
    {
        *why = "with a descriptor that is not sealed";
        return NULL;
    }

    if (fstat(memfd, &st) == -1 || st.st_size != AIQ_MAP_SIZE) {
        *why = "with memory of a wrong size";
        return NULL;
    }

    map = mmap(NULL, AIQ_MAP_SIZE, PROT_READ, MAP_SHARED, memfd, 0);

    if (map == MAP_FAILED) {
        *why = "with memory that cannot be mapped";
        return NULL;
    }

    return map;
}


static void
ngx_http_aiq_link_opened(ngx_http_aiq_link_t *link)
{
    ngx_queue_t             parked, *q;
    ngx_http_aiq_ctx_t     *ctx;
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    ngx_del_timer(&link->timeout);

    aiq_ring_init(&link->frames.ring, link->mine, link->peer);
    link->open = 1;

    engine->trouble[0] = '\0';
    engine->lost = 0;

    if (engine->linked) {
        ngx_http_aiq_count_reconnect();
    }

    engine->linked = 1;

    ngx_log_error(NGX_LOG_NOTICE, engine->log, 0,
                  "aiq: linked to the engine at \"unix:%V\"",
                  &engine->conf->engine);

    /* a request may end here and another of its connection park again */

    ngx_queue_init(&parked);

    if (!ngx_queue_empty(&engine->parked)) {
        ngx_queue_add(&parked, &engine->parked);
        ngx_queue_init(&engine->parked);
    }

    while (!ngx_queue_empty(&parked)) {
        q = ngx_queue_head(&parked);
        ctx = (ngx_http_aiq_ctx_t *)
                  ((u_char *) q - offsetof(ngx_http_aiq_ctx_t, job.queue));

        ngx_http_aiq_link_unpark(ctx);
        ngx_http_aiq_start(ctx);
    }

    /* arms the ring; the engine may have spoken already */

    ngx_post_event(&link->work, &ngx_posted_events);
}


/* NGX_OK, NGX_AGAIN: the engine floods us, NGX_ERROR: it has gone */

static ngx_int_t
ngx_http_aiq_link_drain_socket(ngx_http_aiq_link_t *link)
{
    char         buf[64];
    ssize_t      n;
    ngx_err_t    err;
    ngx_uint_t   i;

    for (i = 0; i < 16; i++) {

        n = recv(link->connection->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n == 0) {
            return NGX_ERROR;
        }

        if (n == -1) {
            err = ngx_socket_errno;

            if (err == NGX_EINTR) {
                continue;
            }

            link->connection->read->ready = 0;

            return err == NGX_EAGAIN
                   ? ngx_handle_read_event(link->connection->read, 0)
                   : NGX_ERROR;
        }
    }

    return NGX_AGAIN;
}


/* NGX_AGAIN: there may be more */

static ngx_int_t
ngx_http_aiq_link_process(ngx_http_aiq_link_t *link, ngx_uint_t max)
{
    int                   rc;
    ngx_uint_t            i;
    ngx_http_aiq_event_t  ev;

    rc = 0;

    for (i = 0; i < max && !link->frames.ring.broken; i++) {

        rc = ngx_http_aiq_frames_next(&link->frames, &ev);

        if (rc <= 0) {
            break;
        }

        ngx_http_aiq_link_event(link, &ev);
    }

    ngx_http_aiq_link_run_dirty(link);

    return rc > 0 ? NGX_AGAIN : NGX_OK;
}


static void
ngx_http_aiq_link_event(ngx_http_aiq_link_t *link, ngx_http_aiq_event_t *ev)
{
    const char          *why;
    ngx_http_aiq_ctx_t  *ctx;

    if (ev->type == AIQ_FRAME_NOTICE) {
        ngx_http_aiq_link_notice(link, ev->number);
        return;
    }

    ctx = ev->job;

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "http aiq frame %d of slot %uD, %uD bytes, flags %d",
                   (int) ev->type, ev->slot, ev->len, (int) ev->flags);

    why = ngx_http_aiq_job_event(ctx, ev);

    if (why) {
        link->frames.ring.broken = 1;
        link->frames.broken = why;
        return;
    }

    ngx_http_aiq_link_mark(link, ctx);
}


/* The engine wants to leave: its successor gets what comes from now on. */

static void
ngx_http_aiq_link_notice(ngx_http_aiq_link_t *link, uint32_t notice)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (notice != AIQ_NOTICE_DRAIN || link->draining) {
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, engine->log, 0,
                  "aiq: the engine is leaving, %ui requests go on with it",
                  link->jobs);

    link->draining = 1;

    if (engine->link == link) {
        engine->link = NULL;
        engine->lost = 1;
        engine->lost_time = ngx_current_msec;

        ngx_http_aiq_link_retry(0);
    }
}


static void
ngx_http_aiq_link_mark(ngx_http_aiq_link_t *link, ngx_http_aiq_ctx_t *ctx)
{
    if (!ctx->job.dirty) {
        ctx->job.dirty = 1;
        ngx_queue_insert_tail(&link->dirty, &ctx->job.queue);
    }
}


static void
ngx_http_aiq_link_run_dirty(ngx_http_aiq_link_t *link)
{
    ngx_queue_t         *q;
    ngx_http_aiq_ctx_t  *ctx;

    while (!ngx_queue_empty(&link->dirty)) {
        q = ngx_queue_head(&link->dirty);
        ctx = (ngx_http_aiq_ctx_t *)
                  ((u_char *) q - offsetof(ngx_http_aiq_ctx_t, job.queue));

        ngx_queue_remove(q);
        ctx->job.dirty = 0;

        if (ctx->job.link && (link->closing || link->frames.ring.broken)) {
            /* it will fail at once, maybe with nothing sent yet */
            continue;
        }

        ngx_http_aiq_job_run(ctx);
    }
}


/*
 * Shows the engine what we have written and read, and prepares to sleep.
 * NGX_AGAIN: it has gone on meanwhile, don't.
 */

static ngx_int_t
ngx_http_aiq_link_settle(ngx_http_aiq_link_t *link)
{
    aiq_ring    *ring;
    ngx_int_t    rc;
    ngx_uint_t   wake;

    ring = &link->frames.ring;
    rc = NGX_OK;

    if (link->waiting) {
        ngx_http_aiq_link_push_waiting(link);
    }

    wake = aiq_ring_publish(ring);
    wake |= aiq_ring_release(ring);

    if (wake) {

        /*
         * EAGAIN: there are wakes enough in the socket.  Its end is seen
         * by the read handler.
         */

        (void) send(link->connection->fd, "", 1, MSG_DONTWAIT|MSG_NOSIGNAL);
    }

    if (!aiq_ring_arm(ring)) {
        rc = NGX_AGAIN;
    }

    if (link->waiting && !aiq_ring_arm_space(ring)) {
        rc = NGX_AGAIN;
    }

    return rc;
}


static void
ngx_http_aiq_link_push_waiting(ngx_http_aiq_link_t *link)
{
    uint32_t              n;
    ngx_http_aiq_slot_t  *slot;

    while (link->waiting) {

        n = link->waiting - 1;
        slot = &link->frames.slots[n];

        if (slot->job) {
            if (ngx_http_aiq_job_push(slot->job) == NGX_AGAIN) {
                return;
            }

        } else if (slot->cancel) {
            if (aiq_ring_push(&link->frames.ring, AIQ_FRAME_CANCEL, 0, n,
                              slot->generation, 0)
                == NULL)
            {
                return;
            }
        }

        link->waiting = slot->next;
        slot->waiting = 0;
        slot->next = 0;

        if (slot->job == NULL) {
            slot->cancel = 0;
            ngx_http_aiq_slot_free(link, n);
        }
    }
}


/* Once a turn of the event loop, so that many requests share one wake. */

static void
ngx_http_aiq_link_work_handler(ngx_event_t *ev)
{
    ngx_connection_t     *c;
    ngx_http_aiq_link_t  *link;

    c = ev->data;
    link = c->data;

    ngx_http_aiq_link_run_dirty(link);

    if (ngx_http_aiq_link_settle(link) == NGX_AGAIN) {
        ngx_post_event(c->read, &ngx_posted_next_events);
    }

    if (link->frames.ring.broken) {
        ngx_http_aiq_link_lost(link, link->frames.broken);
        return;
    }

    if (link->draining && link->jobs == 0 && link->waiting == 0) {
        ngx_http_aiq_link_close(link);
    }
}


static void
ngx_http_aiq_link_lost(ngx_http_aiq_link_t *link, const char *why)
{
    ngx_log_error(NGX_LOG_ERR, ngx_http_aiq_engine.log, 0,
                  "aiq: link to the engine closed with %ui requests on it: %s",
                  link->jobs, why ? why : "it reads more than there is");

    ngx_http_aiq_link_close(link);
}


static void
ngx_http_aiq_link_close(ngx_http_aiq_link_t *link)
{
    uint32_t                i;
    ngx_http_aiq_ctx_t     *ctx;
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    ngx_queue_remove(&link->queue);
    link->closing = 1;

    if (engine->link == link) {
        engine->link = NULL;

        if (link->open) {
            engine->lost = 1;
            engine->lost_time = ngx_current_msec;
        }

        ngx_http_aiq_link_retry(link->open ? 0 : NGX_HTTP_AIQ_RETRY_TIME - 100);
    }

    /* any of them may take others of its client's connection with it */

    for (i = 0; i < link->frames.nslots; i++) {
        ctx = link->frames.slots[i].job;

        if (ctx) {
            ngx_http_aiq_job_lost(ctx);
        }
    }

    ngx_http_aiq_link_free(link);
}


static void
ngx_http_aiq_link_free(ngx_http_aiq_link_t *link)
{
    if (link->timeout.timer_set) {
        ngx_del_timer(&link->timeout);
    }

    if (link->work.posted) {
        ngx_delete_posted_event(&link->work);
    }

    ngx_close_connection(link->connection);

    munmap(link->mine, AIQ_MAP_SIZE);

    if (link->peer) {
        munmap(link->peer, AIQ_MAP_SIZE);
    }

    if (link->frames.slots) {
        ngx_free(link->frames.slots);
    }

    ngx_free(link);
}


ngx_int_t
ngx_http_aiq_link_attach(ngx_http_aiq_ctx_t *ctx)
{
    uint32_t              n;
    ngx_http_aiq_link_t  *link;

    link = ngx_http_aiq_engine.link;

    if (link == NULL || !link->open) {
        return NGX_DECLINED;
    }

    if (ngx_http_aiq_slot_get(link, &n) != NGX_OK) {
        return NGX_BUSY;
    }

    ngx_http_aiq_frames_open(&link->frames, n, ctx);

    ctx->job.link = link;
    ctx->job.slot = n;
    ctx->job.credit = AIQ_WINDOW;

    link->jobs++;
    ngx_http_aiq_count_jobs(1);

    return NGX_OK;
}


void
ngx_http_aiq_link_detach(ngx_http_aiq_ctx_t *ctx, ngx_uint_t ended)
{
    uint32_t              n;
    ngx_http_aiq_link_t  *link;
    ngx_http_aiq_slot_t  *slot;

    link = ctx->job.link;
    n = ctx->job.slot;

    ctx->job.link = NULL;

    ngx_http_aiq_frames_close(&link->frames, n);

    link->jobs--;
    ngx_http_aiq_count_jobs(-1);

    slot = &link->frames.slots[n];

    if (link->closing) {
        return;
    }

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }

    if (!ended
        && (slot->waiting
            || aiq_ring_push(&link->frames.ring, AIQ_FRAME_CANCEL, 0, n,
                             slot->generation, 0)
               == NULL))
    {
        slot->cancel = 1;
        ngx_http_aiq_slot_wait(link, n);
    }

    if (!slot->waiting) {
        ngx_http_aiq_slot_free(link, n);
    }
}


ngx_int_t
ngx_http_aiq_link_park(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (!ngx_http_aiq_link_expected()
        || engine->nparked >= NGX_HTTP_AIQ_PARKED)
    {
        return NGX_DECLINED;
    }

    engine->nparked++;
    ngx_queue_insert_tail(&engine->parked, &ctx->job.queue);

    ctx->job.parked = 1;
    ngx_add_timer(&ctx->job.timeout, NGX_HTTP_AIQ_PARK_TIME);

    return NGX_OK;
}


void
ngx_http_aiq_link_unpark(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_engine.nparked--;
    ngx_queue_remove(&ctx->job.queue);

    ctx->job.parked = 0;

    if (ctx->job.timeout.timer_set) {
        ngx_del_timer(&ctx->job.timeout);
    }
}


/*
 * NULL: the ring has no room.  Then nothing is posted: the work handler itself
 * tries again what waits, and would never come to an end.
 */

u_char *
ngx_http_aiq_link_push(ngx_http_aiq_ctx_t *ctx, aiq_frame_type type,
    size_t len)
{
    u_char               *p;
    uint32_t              n;
    ngx_http_aiq_link_t  *link;

    link = ctx->job.link;
    n = ctx->job.slot;

    p = aiq_ring_push(&link->frames.ring, type, 0, n,
                      link->frames.slots[n].generation, (uint32_t) len);

    if (p && !link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }

    return p;
}


uint32_t
ngx_http_aiq_link_tail(ngx_http_aiq_ctx_t *ctx)
{
    return ctx->job.link->frames.ring.tail;
}


/* Takes back what was pushed since and is not published. */

void
ngx_http_aiq_link_unpush(ngx_http_aiq_ctx_t *ctx, uint32_t tail)
{
    ctx->job.link->frames.ring.tail = tail;
}


/* Has ngx_http_aiq_job_run() called at the end of this turn. */

void
ngx_http_aiq_link_dirty(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_link_t  *link;

    link = ctx->job.link;

    ngx_http_aiq_link_mark(link, ctx);

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }
}


void
ngx_http_aiq_link_wait(ngx_http_aiq_ctx_t *ctx)
{
    ngx_http_aiq_slot_wait(ctx->job.link, ctx->job.slot);
}


void
ngx_http_aiq_link_consumed(ngx_http_aiq_ctx_t *ctx, size_t n)
{
    uint32_t                grant;
    ngx_http_aiq_job_t     *job;
    ngx_http_aiq_slot_t    *slot;
    ngx_http_aiq_frames_t  *frames;

    job = &ctx->job;
    frames = &job->link->frames;
    slot = &frames->slots[job->slot];

    ngx_http_aiq_frames_consumed(frames, job->slot, n);

    if (job->left >= 0 && job->left <= (off_t) slot->allowed) {
        /* what is yet to come is covered */
        return;
    }

    grant = ngx_http_aiq_frames_grant(frames, job->slot);

    if (grant) {
        job->grant += grant;

        if (!slot->waiting && ngx_http_aiq_job_push(ctx) == NGX_AGAIN) {
            ngx_http_aiq_slot_wait(job->link, job->slot);
        }
    }
}


/* The table grows as it is needed; 16,384 slots would be 800K. */

static ngx_int_t
ngx_http_aiq_slot_get(ngx_http_aiq_link_t *link, uint32_t *n)
{
    uint32_t               i, nslots;
    ngx_http_aiq_slot_t   *slots;
    ngx_http_aiq_frames_t *frames;

    frames = &link->frames;

    if (link->free == 0) {

        nslots = frames->nslots ? frames->nslots * 2 : 64;

        if (nslots > AIQ_SLOTS) {
            return NGX_DECLINED;
        }

        slots = ngx_calloc(nslots * sizeof(ngx_http_aiq_slot_t),
                           ngx_http_aiq_engine.log);
        if (slots == NULL) {
            return NGX_ERROR;
        }

        if (frames->slots) {
            ngx_memcpy(slots, frames->slots,
                       frames->nslots * sizeof(ngx_http_aiq_slot_t));
            ngx_free(frames->slots);
        }

        frames->slots = slots;

        /* the first of them on top */

        for (i = nslots; i > frames->nslots; i--) {
            ngx_http_aiq_slot_free(link, i - 1);
        }

        frames->nslots = nslots;
    }

    *n = link->free - 1;
    link->free = frames->slots[*n].next;
    frames->slots[*n].next = 0;

    return NGX_OK;
}


static void
ngx_http_aiq_slot_free(ngx_http_aiq_link_t *link, uint32_t n)
{
    link->frames.slots[n].next = link->free;
    link->free = n + 1;
}


static void
ngx_http_aiq_slot_wait(ngx_http_aiq_link_t *link, uint32_t n)
{
    ngx_http_aiq_slot_t  *slots;

    slots = link->frames.slots;

    if (slots[n].waiting) {
        return;
    }

    slots[n].waiting = 1;
    slots[n].next = 0;

    if (link->waiting) {
        slots[link->last_waiting - 1].next = n + 1;

    } else {
        link->waiting = n + 1;
    }

    link->last_waiting = n + 1;

    if (!link->work.posted) {
        ngx_post_event(&link->work, &ngx_posted_events);
    }
}
