#include "vectors/vectors_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a file begins with. Another layout has another number, and is refused. */
typedef struct {
    char magic[8];
    uint8_t digest[32]; /* of what follows */
} head;

static const char magic[8] = {'a', 'i', 'q', ' ', 'v', 'e', 'c', 1};

/* Sums of two such times are times. */
#define TIME_MAX (INT64_MAX / 4)

/* Followed by row and data. */
typedef struct {
    uint64_t id;
    int64_t stored_ms, expires_ms; /* Unix time, at most TIME_MAX; INT64_MAX: never */
    uint64_t len;
    uint32_t dims, reserved;
    uint8_t partition[VECTORS_KEY];
} record;

typedef struct {
    vectors_clock clock;
    aiq_buf *out;
} writing;

static void write_one(void *arg, const vectors_item *item)
{
    const writing *w = arg;
    uint64_t age_ms = w->clock.now_ms - item->stored_ms;
    record r = {.id = item->id,
                .stored_ms = (int64_t)(w->clock.unix_ms - age_ms),
                .expires_ms = INT64_MAX,
                .len = item->data.len,
                .dims = item->dims};

    if (item->expires_ms <= w->clock.now_ms) {
        return;
    }
    if (item->expires_ms != VECTORS_EVER) {
        r.expires_ms = (int64_t)(w->clock.unix_ms + (item->expires_ms - w->clock.now_ms));
        r.expires_ms = r.expires_ms < TIME_MAX ? r.expires_ms : TIME_MAX;
    }
    memcpy(r.partition, item->partition, VECTORS_KEY);
    aiq_buf_add(w->out, &r, sizeof(r));
    aiq_buf_add(w->out, item->row, item->dims * sizeof(*item->row));
    aiq_buf_add(w->out, item->data.data, item->data.len);
}

void vectors_write(const vectors *v, vectors_clock clock, aiq_buf *out)
{
    writing w = {clock, out};

    vectors_each(v, write_one, &w);
}

/* The record at the text's beginning, which is cut off. */
static bool next_record(aiq_str *text, record *r, aiq_str *row, aiq_str *data)
{
    if (text->len < sizeof(*r)) {
        return false;
    }
    memcpy(r, text->data, sizeof(*r));
    size_t left = text->len - sizeof(*r), bytes = (size_t)r->dims * sizeof(uint16_t);
    if (r->dims == 0 || r->dims > VECTORS_DIMS || bytes > left || r->len > left - bytes ||
        r->stored_ms < 0 || r->expires_ms < r->stored_ms ||
        (r->expires_ms > TIME_MAX && r->expires_ms != INT64_MAX)) {
        return false;
    }
    *row = (aiq_str){text->data + sizeof(*r), bytes};
    *data = (aiq_str){row->data + bytes, r->len};
    *text = (aiq_str){data->data + r->len, left - bytes - r->len};
    return true;
}

static void add_record(vectors *v, vectors_clock clock, const record *r, aiq_str row,
                       aiq_str data)
{
    int64_t age_ms = (int64_t)clock.unix_ms - r->stored_ms;
    uint16_t numbers[VECTORS_DIMS]; /* in the file they may lie anywhere */
    vectors_item item;

    age_ms = age_ms > 0 ? age_ms : 0; /* the clock may have been set back */
    if (r->expires_ms - r->stored_ms <= age_ms || vectors_get(v, r->id, &item)) {
        return;
    }
    memcpy(numbers, row.data, row.len);
    item = (vectors_item){.id = r->id,
                          .dims = r->dims,
                          .row = numbers,
                          .data = data,
                          .stored_ms = clock.now_ms - (uint64_t)age_ms,
                          .expires_ms = VECTORS_EVER};
    memcpy(item.partition, r->partition, VECTORS_KEY);
    if (r->expires_ms != INT64_MAX) {
        item.expires_ms = item.stored_ms + (uint64_t)(r->expires_ms - r->stored_ms);
    }
    vectors_add(v, &item); /* where there is room */
}

bool vectors_read(vectors *v, vectors_clock clock, aiq_str text)
{
    aiq_str all = text, row, data;
    record r;

    while (text.len) {
        if (!next_record(&text, &r, &row, &data)) {
            return false;
        }
    }
    while (all.len && next_record(&all, &r, &row, &data)) {
        add_record(v, clock, &r, row, data);
    }
    return true;
}

/* Files. */

static bool failed(aiq_err *err, const char *path, const char *why)
{
    aiq_fail(err, 500, "vectors_file", "a file of vectors cannot be used");
    aiq_err_detail(err, "%s: %s", path, why);
    return false;
}

static void digest(const void *data, size_t len, uint8_t out[32])
{
    EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL);
}

static bool write_all(int fd, const uint8_t *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool replace(const char *path, const aiq_buf *text, aiq_err *err)
{
    char new[PATH_MAX];

    if (snprintf(new, sizeof(new), "%s.new", path) >= (int)sizeof(new)) {
        return failed(err, path, "its name is too long");
    }
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return failed(err, new, strerror(errno));
    }
    bool ok = write_all(fd, text->data, text->len);
    if (close(fd) != 0 || !ok || rename(new, path) != 0) {
        (void)failed(err, path, strerror(errno));
        unlink(new);
        return false;
    }
    return true;
}

bool vectors_save(const vectors *v, vectors_clock clock, const char *path, aiq_err *err)
{
    aiq_buf text = {0};
    head h;

    memset(&h, 0, sizeof(h));
    aiq_buf_add(&text, &h, sizeof(h));
    vectors_write(v, clock, &text);
    memcpy(h.magic, magic, sizeof(magic));
    digest(text.data + sizeof(h), text.len - sizeof(h), h.digest);
    memcpy(text.data, &h, sizeof(h));
    bool ok = replace(path, &text, err);
    aiq_buf_free(&text);
    return ok;
}

static bool read_file(vectors *v, vectors_clock clock, aiq_str text, const char *path,
                      aiq_err *err)
{
    uint8_t expected[32];
    head h;

    if (text.len < sizeof(h)) {
        return failed(err, path, "it was cut");
    }
    memcpy(&h, text.data, sizeof(h));
    text.data += sizeof(h);
    text.len -= sizeof(h);
    digest(text.data, text.len, expected);
    if (memcmp(h.magic, magic, sizeof(magic)) != 0 ||
        memcmp(h.digest, expected, sizeof(expected)) != 0 || !vectors_read(v, clock, text)) {
        return failed(err, path, "it is damaged, or of another version");
    }
    return true;
}

bool vectors_load(vectors *v, vectors_clock clock, const char *path, size_t max, aiq_err *err)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0) {
        return errno == ENOENT || failed(err, path, strerror(errno));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size > max) {
        close(fd);
        return failed(err, path, "it is no file, or too large");
    }
    size_t size = (size_t)st.st_size, n = 0;
    char *text = aiq_alloc(size + 1);
    ssize_t got;
    while (n < size && (got = read(fd, text + n, size - n)) > 0) {
        n += (size_t)got;
    }
    close(fd);
    bool ok = read_file(v, clock, (aiq_str){text, n}, path, err);
    free(text);
    return ok;
}
