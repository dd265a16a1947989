#include "services/gateway/spool.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct spool {
    aiq_job *job; /* NULL: freed while a write was under way */
    aiq_loop *loop;
    spool_fn whole;
    void (*grown)(aiq_job *job, aiq_str body, size_t filled); /* NULL: nobody asks */
    aiq_buf memory; /* a small body; or what comes while a write is under way */
    aiq_buf writing;
    bool busy; /* the disk has `writing` */
    bool ended;
    int fd; /* -1: all in memory */
    int64_t written;
    size_t owed; /* received bytes for which the client has got no credit yet */
    int error;   /* libuv's, of a write */
    void *map;
    size_t mapped;
    uv_fs_t request;
    uv_buf_t piece;
};

spool *spool_new(aiq_job *job, spool_fn whole)
{
    spool *s = aiq_zalloc(sizeof(*s));

    s->job = job;
    s->loop = job->loop;
    s->whole = whole;
    s->fd = -1;
    if (job->body_length > 0 && job->body_length <= SPOOL_MEMORY) {
        aiq_buf_reserve(&s->memory, (size_t)job->body_length);
    }
    return s;
}

void spool_free(spool *s)
{
    if (s->busy) {
        s->job = NULL; /* on_written() comes back here */
        return;
    }
    if (s->map) {
        munmap(s->map, s->mapped);
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    aiq_buf_free(&s->memory);
    aiq_buf_free(&s->writing);
    free(s);
}

static void tell_error(spool *s, int code)
{
    aiq_err err;

    aiq_fail(&err, 500, "spool_failed", "The server could not store the request's body.");
    aiq_err_detail(&err, "temporary file: %s", uv_strerror(code));
    s->whole(s->job, (aiq_str){0}, &err);
}

/* What is written to the file later shows in the map, too. */
static bool map_file(spool *s, size_t n)
{
    void *map = mmap(NULL, n, PROT_READ, MAP_SHARED, s->fd, 0);

    s->map = map == MAP_FAILED ? NULL : map;
    s->mapped = s->map ? n : 0;
    return s->map != NULL;
}

static void tell_file(spool *s)
{
    if (s->map == NULL && !map_file(s, (size_t)s->written)) {
        tell_error(s, -errno);
        return;
    }
    s->whole(s->job, (aiq_str){s->map, (size_t)s->written}, NULL);
}

static void write_more(spool *s);

/* False: that was the job's end. */
static bool tell_grown(spool *s)
{
    if (s->grown == NULL || s->error || (size_t)s->written == s->mapped) {
        return true;
    }
    s->busy = true; /* it must not go in the call */
    s->grown(s->job, (aiq_str){s->map, s->mapped}, (size_t)s->written);
    s->busy = false;
    if (s->job == NULL) {
        spool_free(s);
        return false;
    }
    return true;
}

static void on_written(uv_fs_t *request)
{
    spool *s = request->data;
    ssize_t n = request->result;
    aiq_job *job = s->job;

    uv_fs_req_cleanup(request);
    s->busy = false;
    if (job == NULL) {
        spool_free(s);
        return;
    }
    if (n < 0) {
        s->error = (int)n;
        n = (ssize_t)s->writing.len;
    }
    s->written += n;
    aiq_buf_consume(&s->writing, (size_t)n);
    size_t consumed = (size_t)n < s->owed ? (size_t)n : s->owed;
    s->owed -= consumed;
    job_consumed(job, consumed);
    if (tell_grown(s)) {
        write_more(s);
    }
}

/* The next piece to the disk, or the end. */
static void write_more(spool *s)
{
    if (s->busy) {
        return;
    }
    if (s->writing.len == 0) {
        aiq_buf empty = s->writing;
        s->writing = s->memory;
        s->memory = empty;
    }
    if (s->writing.len && s->error == 0) {
        s->piece = uv_buf_init((char *)s->writing.data, (unsigned)s->writing.len);
        s->request.data = s;
        s->busy = true;
        uv_fs_write(&s->loop->uv, &s->request, s->fd, &s->piece, 1, s->written, on_written);
    } else if (s->ended) {
        if (s->error) {
            tell_error(s, s->error);
        } else {
            tell_file(s);
        }
    }
}

/* Unlinked from the start: nothing stays behind, whatever happens. */
static int open_unnamed(void)
{
    const char *folder = getenv("TMPDIR");
    char path[] = "/tmp/aiq-XXXXXX";
    int fd = open(folder ? folder : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) { /* a file system without O_TMPFILE */
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0) {
            unlink(path);
        }
    }
    return fd;
}

bool spool_follow(spool *s, void (*grown)(aiq_job *job, aiq_str body, size_t filled))
{
    int64_t n = s->job->body_length;

    if (n <= SPOOL_MEMORY) {
        return false;
    }
    s->fd = open_unnamed();
    if (s->fd < 0 || ftruncate(s->fd, n) != 0 || !map_file(s, (size_t)n)) {
        if (s->fd >= 0) {
            close(s->fd);
        }
        s->fd = -1; /* it is tried again, and failure told, once it must be */
        return false;
    }
    s->grown = grown;
    return true;
}

void spool_add(spool *s, const uint8_t *data, size_t n)
{
    if (s->fd < 0 && s->error == 0 && s->memory.len + n > SPOOL_MEMORY) {
        s->fd = open_unnamed();
        s->error = s->fd < 0 ? -errno : 0;
    }
    if (s->error) {
        job_consumed(s->job, n); /* the rest is only waited for */
        return;
    }
    bool in_memory = s->fd < 0;
    aiq_buf_add(&s->memory, data, n);
    if (in_memory) {
        job_consumed(s->job, n);
    } else {
        s->owed += n;
        write_more(s);
    }
}

void spool_end(spool *s)
{
    s->ended = true;
    if (s->fd < 0 && s->error == 0) {
        s->whole(s->job, (aiq_str){(char *)s->memory.data, s->memory.len}, NULL);
    } else {
        write_more(s);
    }
}
