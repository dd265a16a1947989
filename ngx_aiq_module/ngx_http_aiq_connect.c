
#include "ngx_http_aiq_link.h"

#include <sys/mman.h>


#define NGX_HTTP_AIQ_PARKED      1024
#define NGX_HTTP_AIQ_PARK_TIME   1000
#define NGX_HTTP_AIQ_HANDSHAKE   1000
#define NGX_HTTP_AIQ_RETRY_TIME  500

/* for any OPEN, wherever it comes to lie in the ring */
#define NGX_HTTP_AIQ_OPEN_ROOM   (2 * aiq_frame_span(AIQ_OPEN_MAX))


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
    unsigned                   resuming:1;
} ngx_http_aiq_engine_t;


static void ngx_http_aiq_link_retry(ngx_msec_t delay);
static void ngx_http_aiq_link_retry_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_connect(void);
static char *ngx_http_aiq_link_setup(ngx_http_aiq_link_t *link, int fd);
static void *ngx_http_aiq_link_map(int *memfd);
static ngx_int_t ngx_http_aiq_link_hello(int fd, int memfd);
static void ngx_http_aiq_link_trouble(char *what, ngx_err_t err, char *why);
static void ngx_http_aiq_link_timeout_handler(ngx_event_t *ev);
static void ngx_http_aiq_link_write_handler(ngx_event_t *wev);
static void ngx_http_aiq_link_welcome_handler(ngx_event_t *rev);
static ssize_t ngx_http_aiq_link_recv_welcome(int fd, aiq_welcome *welcome,
    int *memfd, char **why);
static void *ngx_http_aiq_link_map_peer(int memfd, char **why);
static void ngx_http_aiq_link_opened(ngx_http_aiq_link_t *link);


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


ngx_http_aiq_link_t *
ngx_http_aiq_link_current(void)
{
    return ngx_http_aiq_link_up() ? ngx_http_aiq_engine.link : NULL;
}


void
ngx_http_aiq_link_leave(ngx_http_aiq_link_t *link)
{
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (engine->link != link) {
        return;
    }

    engine->link = NULL;

    if (link->open) {
        engine->lost = 1;
        engine->lost_time = ngx_current_msec;
    }

    ngx_http_aiq_link_retry(link->open ? 0 : NGX_HTTP_AIQ_RETRY_TIME - 100);
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

    rev->handler = ngx_http_aiq_link_welcome_handler;
    wev->handler = ngx_http_aiq_link_write_handler;

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
ngx_http_aiq_link_welcome_handler(ngx_event_t *rev)
{
    int                   memfd;
    char                 *why;
    size_t                i;
    ssize_t               n;
    aiq_welcome           welcome;
    ngx_connection_t     *c;
    ngx_http_aiq_link_t  *link;

    static char  *what[] = {
        "the engine answered",
        "the engine has another ABI",
        "the engine refused the policy",
        "the engine refused us",
        "the engine is busy"
    };

    c = rev->data;
    link = c->data;

    why = NULL;
    memfd = -1;

    n = ngx_http_aiq_link_recv_welcome(c->fd, &welcome, &memfd, &why);

    if (n == NGX_AGAIN) {
        if (ngx_handle_read_event(rev, 0) == NGX_OK) {
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
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    ngx_del_timer(&link->timeout);

    ngx_http_aiq_link_start(link);

    engine->trouble[0] = '\0';
    engine->lost = 0;

    if (engine->linked) {
        ngx_http_aiq_count_reconnect();
    }

    engine->linked = 1;

    ngx_log_error(NGX_LOG_NOTICE, engine->log, 0,
                  "aiq: linked to the engine at \"unix:%V\"",
                  &engine->conf->engine);

    ngx_http_aiq_link_resume(link);
}


/*
 * The oldest first, each only when there is room for any: so none parks again,
 * and a second is what it waits at most.
 */

void
ngx_http_aiq_link_resume(ngx_http_aiq_link_t *link)
{
    ngx_queue_t            *q;
    ngx_http_aiq_ctx_t     *ctx;
    ngx_http_aiq_engine_t  *engine;

    engine = &ngx_http_aiq_engine;

    if (!ngx_http_aiq_link_parked() || link != ngx_http_aiq_link_current()
        || link->frames.ring.broken
        || aiq_ring_room(&link->frames.ring, NGX_HTTP_AIQ_OPEN_ROOM)
           < NGX_HTTP_AIQ_OPEN_ROOM)
    {
        return;
    }

    ngx_http_aiq_check_ask_parked();
    ngx_http_aiq_question_ask_parked();

    engine->resuming = 1;

    while (!ngx_queue_empty(&engine->parked)
           && aiq_ring_room(&link->frames.ring, NGX_HTTP_AIQ_OPEN_ROOM)
              >= NGX_HTTP_AIQ_OPEN_ROOM)
    {
        q = ngx_queue_head(&engine->parked);
        ctx = (ngx_http_aiq_ctx_t *)
                  ((u_char *) q - offsetof(ngx_http_aiq_ctx_t, job.queue));

        ngx_http_aiq_link_unpark(ctx);
        ngx_http_aiq_start(ctx);
    }

    engine->resuming = 0;
}


ngx_uint_t
ngx_http_aiq_link_parked(void)
{
    return ngx_http_aiq_engine.nparked || ngx_http_aiq_check_parked()
           || ngx_http_aiq_question_parked();
}


ngx_uint_t
ngx_http_aiq_link_crowded(void)
{
    return ngx_http_aiq_engine.nparked && !ngx_http_aiq_engine.resuming;
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
