#include "infer/gguf_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* The end of the name of part i of n, i from 1. */
#define PART_NAME     "-%05u-of-%05u.gguf"
#define PART_NAME_LEN 20

/* Read at a time, between two looks at the percentage. */
#define READ_STEP ((size_t)8 << 20)

/* As most machines have them; a divisor of that. */
#define LARGE_PAGE ((size_t)2 << 20)

static void *map_file(int fd, size_t *size, char *err, size_t errlen)
{
    struct stat st;
    void *data;

    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(err, errlen, "%s", strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0) {
        snprintf(err, errlen, "%s", S_ISREG(st.st_mode) ? "empty file" : "not a regular file");
        return NULL;
    }
    *size = (size_t)st.st_size;
    data = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        snprintf(err, errlen, "mmap: %s", strerror(errno));
        return NULL;
    }
    madvise(data, *size, MADV_HUGEPAGE); /* a wish, see read_step */
    return data;
}

static gguf *open_one(const char *path, char *err, size_t errlen)
{
    /* a pipe would wait for a writer otherwise */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    size_t size = 0;
    void *data = map_file(fd, &size, err, errlen);
    gguf *g = data != NULL ? gguf_parse(data, size, err, errlen) : NULL;

    if (g != NULL) {
        g->mapping = data;
        g->fd = fd;
        return g;
    }
    if (data != NULL) {
        munmap(data, size);
    }
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

/* --- parts --- */

/* One of the numbers that say how a model is split; def if the file does not say. */
static bool split_number(const gguf *g, const char *key, uint64_t def, uint64_t max,
                         uint64_t *out, char *err, size_t errlen)
{
    const gguf_kv *kv = gguf_find(g, key);

    *out = def;
    if (kv != NULL && (!gguf_as_uint(kv, out) || *out > max)) {
        snprintf(err, errlen, "%s is not a number up to %llu", key, (unsigned long long)max);
        return false;
    }
    return true;
}

static bool check_part(const gguf *g, size_t i, size_t n, char *err, size_t errlen)
{
    uint64_t no, count;

    if (!split_number(g, "split.no", 0, GGUF_MAX_PARTS, &no, err, errlen) ||
        !split_number(g, "split.count", 1, GGUF_MAX_PARTS, &count, err, errlen)) {
        return false;
    }
    if (no != i || count != n) {
        snprintf(err, errlen, "part %zu of %zu says that it is part %llu of %llu", i + 1, n,
                 (unsigned long long)no + 1, (unsigned long long)count);
        return false;
    }
    return true;
}

/* All tensors into the first part. */
static bool join_tensors(gguf *const *parts, size_t n, size_t total)
{
    gguf *first = parts[0];
    gguf_tensor *all = realloc(first->tensors, (total + 1) * sizeof(*all));

    if (all == NULL) {
        return false;
    }
    first->tensors = all;
    for (size_t i = 1; i < n; i++) {
        memcpy(all + first->n_tensors, parts[i]->tensors, parts[i]->n_tensors * sizeof(*all));
        first->n_tensors += parts[i]->n_tensors;
        free(parts[i]->tensors);
        parts[i]->tensors = NULL;
        parts[i]->n_tensors = 0;
    }
    return true;
}

bool gguf_join(gguf *const *parts, size_t n, char *err, size_t errlen)
{
    size_t total = parts[0]->n_tensors;
    uint64_t said;

    for (size_t i = 1; i < n; i++) {
        parts[i - 1]->next = parts[i];
        total += parts[i]->n_tensors;
    }
    for (size_t i = 0; i < n; i++) {
        if (!check_part(parts[i], i, n, err, errlen)) {
            return false;
        }
    }
    if (!split_number(parts[0], "split.tensors.count", total, UINT32_MAX, &said, err, errlen)) {
        return false;
    }
    if (said != total) {
        snprintf(err, errlen, "the parts have %zu tensors, the first says %llu", total,
                 (unsigned long long)said);
        return false;
    }
    if (!join_tensors(parts, n, total)) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    const gguf_tensor *twice = gguf_sort_tensors(parts[0]);

    if (twice != NULL) {
        char name[GGUF_SHOWN];

        snprintf(err, errlen, "%s: a tensor's name occurs twice", gguf_show(twice->name, name));
    }
    return twice == NULL;
}

/* Opens parts 2 to n, whose names differ from the first's in their number. */
static size_t open_others(const char *path, gguf **parts, size_t n, char *err, size_t errlen)
{
    size_t stem = strlen(path) - PART_NAME_LEN;
    char *name = malloc(stem + 2 * PART_NAME_LEN), why[256];
    size_t opened = 1;

    if (name == NULL) {
        snprintf(err, errlen, "out of memory");
        return opened;
    }
    memcpy(name, path, stem);
    for (; opened < n; opened++) {
        snprintf(name + stem, 2 * PART_NAME_LEN, PART_NAME, (unsigned)opened + 1, (unsigned)n);
        parts[opened] = open_one(name, why, sizeof(why));
        if (parts[opened] == NULL) {
            const char *slash = strrchr(name, '/');

            snprintf(err, errlen, "%s: %s", slash != NULL ? slash + 1 : name, why);
            break;
        }
    }
    free(name);
    return opened;
}

/* Is this the name of the first of n parts? Says otherwise what it should be. */
static bool check_name(const gguf *g, const char *path, size_t n, char *err, size_t errlen)
{
    char end[2 * PART_NAME_LEN];
    uint64_t no;
    size_t len = strlen(path);

    if (!split_number(g, "split.no", 0, GGUF_MAX_PARTS, &no, err, errlen)) {
        return false;
    }
    snprintf(end, sizeof(end), PART_NAME, 1u, (unsigned)n);
    if (no != 0) {
        snprintf(err, errlen, "it is part %llu of a model in %zu files; name the first, *%s",
                 (unsigned long long)no + 1, n, end);
        return false;
    }
    if (len < PART_NAME_LEN || strcmp(path + len - PART_NAME_LEN, end) != 0) {
        snprintf(err, errlen, "it is the first of %zu files, and its name does not end in %s",
                 n, end);
        return false;
    }
    return true;
}

static bool open_parts(gguf *first, const char *path, size_t n, char *err, size_t errlen)
{
    gguf **parts;
    size_t opened;
    bool ok;

    if (!check_name(first, path, n, err, errlen)) {
        return false;
    }
    parts = calloc(n, sizeof(*parts));
    if (parts == NULL) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    parts[0] = first;
    opened = open_others(path, parts, n, err, errlen);
    ok = opened == n && gguf_join(parts, n, err, errlen);
    for (size_t i = 1; i < opened && opened < n; i++) {
        gguf_close(parts[i]);
    }
    free(parts);
    return ok;
}

gguf *gguf_open(const char *path, char *err, size_t errlen)
{
    gguf *g = open_one(path, err, errlen);
    uint64_t n;

    if (g == NULL) {
        return NULL;
    }
    if (!split_number(g, "split.count", 1, GGUF_MAX_PARTS, &n, err, errlen) ||
        (n > 1 && !open_parts(g, path, (size_t)n, err, errlen))) {
        gguf_close(g);
        return NULL;
    }
    return g;
}

/* --- reading ahead --- */

/* A page at a time where the kernel cannot do many at once (before Linux 5.14). */
static void read_pages(const uint8_t *p, size_t n)
{
    if (madvise((void *)p, n, MADV_POPULATE_READ) == 0) {
        return;
    }
    for (size_t at = 0; at < n; at += 4096) {
        (void)((const volatile uint8_t *)p)[at];
    }
}

/* Does this thread take more faults than there are large pages? */
static bool read_in_small_pages(const uint8_t *p, size_t n)
{
    struct rusage before, after;

    getrusage(RUSAGE_THREAD, &before);
    read_pages(p, n);
    getrusage(RUSAGE_THREAD, &after);
    return after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt >
           (long)(n / LARGE_PAGE);
}

/*
 * Weights come faster from large pages, by a tenth. The kernel makes them when it reads a file
 * for a mapping that wishes it, where the file system can (XFS, and ext4 since Linux 6.16);
 * what is in memory from before, for the file was copied here, is in small ones for good. So
 * that is dropped and read anew, which does nothing to what others have mapped. Returns whether
 * to go on with that: not where it did not help.
 */
static bool read_step(const gguf *g, size_t at, size_t n, bool renew)
{
    if (!read_in_small_pages(g->data + at, n) || !renew || n < READ_STEP) {
        return renew;
    }
    madvise((void *)(g->data + at), n, MADV_DONTNEED);
    posix_fadvise(g->fd, (off_t)at, (off_t)n, POSIX_FADV_DONTNEED);
    return !read_in_small_pages(g->data + at, n);
}

bool gguf_read_ahead(const gguf *g, gguf_progress progress, void *arg)
{
    size_t all = gguf_size(g), done = 0;
    unsigned percent = 0;

    if (progress != NULL && !progress(arg, 0)) {
        return false;
    }
    for (; g != NULL; g = g->next) {
        bool renew = g->mapping != NULL;

        for (size_t at = 0; at < g->size;) {
            size_t n = g->size - at < READ_STEP ? g->size - at : READ_STEP;

            renew = read_step(g, at, n, renew);
            at += n;
            done += n;
            if ((unsigned)(done * 100 / all) > percent) {
                percent = (unsigned)(done * 100 / all);
                if (progress != NULL && !progress(arg, percent)) {
                    return false;
                }
            }
        }
    }
    return true;
}
