#include "providers/secrets.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "core/loop.h"

#define LOOK_NS 1000000000ull

/* A file's key as it was read. */
typedef struct entry {
    struct entry *next;
    char *name;
    uint64_t looked_ns;
    struct timespec modified;
    ino_t inode;
    off_t size;
    size_t len;
    char key[SECRET_MAX];
} entry;

struct secrets {
    const char *folder;
    entry *entries;
};

secrets *secrets_new(const char *folder)
{
    secrets *s = aiq_zalloc(sizeof(*s));

    s->folder = folder;
    return s;
}

static void entry_free(entry *e)
{
    explicit_bzero(e->key, sizeof(e->key));
    free(e->name);
    free(e);
}

void secrets_free(secrets *s)
{
    while (s->entries) {
        entry *e = s->entries;
        s->entries = e->next;
        entry_free(e);
    }
    free(s);
}

static bool missing(aiq_err *err, const char *name, const char *why)
{
    aiq_fail(err, 503, "provider_key_missing", "The provider's key is missing.");
    aiq_err_detail(err, "%s: %s", name, why);
    return false;
}

/* Header fields take these; a key with others was not meant to be one. */
static bool usable(aiq_str key)
{
    for (size_t i = 0; i < key.len; i++) {
        if ((unsigned char)key.data[i] <= 0x20 || key.data[i] == 0x7f) {
            return false;
        }
    }
    return key.len > 0;
}

static bool from_environment(const char *name, aiq_str *key, aiq_err *err)
{
    const char *value = getenv(name + strlen("env:"));

    if (value == NULL) {
        return missing(err, name, "not in the engine's environment");
    }
    *key = (aiq_str){value, strlen(value)};
    return usable(*key) || missing(err, name, "empty, or with characters that no key has");
}

/* A descriptor of a plain file below the folder, or -1. */
static int open_below(const char *folder, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0) {
        return -1;
    }
    int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
    int code = errno;
    close(dir);
    errno = code;
    return fd;
}

static bool same_file(const entry *e, const struct stat *st)
{
    return e->len && e->inode == st->st_ino && e->size == st->st_size &&
           e->modified.tv_sec == st->st_mtim.tv_sec &&
           e->modified.tv_nsec == st->st_mtim.tv_nsec;
}

static bool read_key(entry *e, int fd, const struct stat *st, aiq_err *err)
{
    e->len = 0;
    if (!S_ISREG(st->st_mode) || st->st_size > SECRET_MAX) {
        return missing(err, e->name, "not a file of at most 4 KB");
    }
    ssize_t n = read(fd, e->key, sizeof(e->key));
    if (n < 0) {
        return missing(err, e->name, strerror(errno));
    }
    while (n > 0 && (e->key[n - 1] == '\n' || e->key[n - 1] == '\r')) {
        n--;
    }
    if (!usable((aiq_str){e->key, (size_t)n})) {
        return missing(err, e->name, "empty, or with characters that no key has");
    }
    e->len = (size_t)n;
    e->modified = st->st_mtim;
    e->inode = st->st_ino;
    e->size = st->st_size;
    return true;
}

static bool look(const secrets *s, entry *e, aiq_err *err)
{
    int fd = open_below(s->folder, e->name + strlen("file:"));
    struct stat st;
    bool ok;

    if (fd < 0 || fstat(fd, &st) != 0) {
        e->len = 0;
        ok = missing(err, e->name, strerror(errno));
    } else {
        ok = same_file(e, &st) || read_key(e, fd, &st, err);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static entry *entry_of(secrets *s, const char *name)
{
    entry *e = s->entries;

    while (e && strcmp(e->name, name) != 0) {
        e = e->next;
    }
    if (e == NULL) {
        e = aiq_zalloc(sizeof(*e));
        e->name = strcpy(aiq_alloc(strlen(name) + 1), name);
        e->next = s->entries;
        s->entries = e;
    }
    return e;
}

static bool from_file(secrets *s, const char *name, aiq_str *key, aiq_err *err)
{
    entry *e;
    uint64_t now = loop_now_ns();

    if (s->folder == NULL) {
        return missing(err, name, "the engine was started without --secrets");
    }
    e = entry_of(s, name);
    if (e->len == 0 || now - e->looked_ns > LOOK_NS) {
        if (!look(s, e, err)) {
            return false;
        }
        e->looked_ns = now;
    }
    *key = (aiq_str){e->key, e->len};
    return true;
}

bool secrets_get(secrets *s, const char *name, aiq_str *key, aiq_err *err)
{
    if (strncmp(name, "env:", 4) == 0) {
        return from_environment(name, key, err);
    }
    if (strncmp(name, "file:", 5) == 0) {
        return from_file(s, name, key, err);
    }
    return missing(err, name, "neither env:NAME nor file:NAME");
}
