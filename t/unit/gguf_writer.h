/*
 * Writes GGUF files in memory, good ones and, by its raw calls, bad ones. Tests only: it trusts
 * its caller and aborts where memory ends.
 */
#ifndef T_GGUF_WRITER_H
#define T_GGUF_WRITER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "infer/gguf.h"

typedef struct {
    uint8_t *p;
    size_t len, cap;
} gw_buf;

typedef struct {
    gw_buf kvs, infos, data;
    uint64_t n_kvs, n_tensors;
} gw;

static inline void gw_put(gw_buf *b, const void *p, size_t n)
{
    if (b->cap - b->len <= n) {
        b->cap = 2 * (b->len + n) + 64;
        b->p = realloc(b->p, b->cap);
    }
    if (b->p == NULL) {
        abort();
    }
    if (n > 0) {
        memcpy(b->p + b->len, p, n);
    }
    b->len += n;
}

static inline void gw_put_u32(gw_buf *b, uint32_t v)
{
    gw_put(b, &v, sizeof(v));
}

static inline void gw_put_u64(gw_buf *b, uint64_t v)
{
    gw_put(b, &v, sizeof(v));
}

static inline void gw_put_str(gw_buf *b, const char *s)
{
    gw_put_u64(b, strlen(s));
    gw_put(b, s, strlen(s));
}

static inline void gw_key(gw *w, const char *key, uint32_t type)
{
    w->n_kvs++;
    gw_put_str(&w->kvs, key);
    gw_put_u32(&w->kvs, type);
}

static inline void gw_u32(gw *w, const char *key, uint32_t v)
{
    gw_key(w, key, GGUF_U32);
    gw_put_u32(&w->kvs, v);
}

static inline void gw_f32(gw *w, const char *key, float v)
{
    gw_key(w, key, GGUF_F32);
    gw_put(&w->kvs, &v, sizeof(v));
}

static inline void gw_bool(gw *w, const char *key, uint8_t v)
{
    gw_key(w, key, GGUF_BOOL);
    gw_put(&w->kvs, &v, 1);
}

static inline void gw_str(gw *w, const char *key, const char *v)
{
    gw_key(w, key, GGUF_STRING);
    gw_put_str(&w->kvs, v);
}

/* An array's head; its n elements follow by gw_put… on w->kvs. */
static inline void gw_array(gw *w, const char *key, uint32_t type, uint64_t n)
{
    gw_key(w, key, GGUF_ARRAY);
    gw_put_u32(&w->kvs, type);
    gw_put_u64(&w->kvs, n);
}

/* rows 0: a vector. bytes is what the type and shape ask for, in an honest file. */
static inline void gw_tensor(gw *w, const char *name, uint32_t type, uint64_t cols,
                             uint64_t rows, const void *data, size_t bytes)
{
    static const uint8_t zeros[32];

    w->n_tensors++;
    gw_put_str(&w->infos, name);
    gw_put_u32(&w->infos, rows > 0 ? 2 : 1);
    gw_put_u64(&w->infos, cols);
    if (rows > 0) {
        gw_put_u64(&w->infos, rows);
    }
    gw_put_u32(&w->infos, type);
    gw_put_u64(&w->infos, w->data.len);
    gw_put(&w->data, data, bytes);
    gw_put(&w->data, zeros, -w->data.len & 31);
}

/* The file; aligned, to be freed by the caller. The writer is empty again. */
static inline uint8_t *gw_finish(gw *w, size_t *size)
{
    static const uint8_t zeros[32];
    gw_buf out = {0};
    uint8_t *file;

    gw_put(&out, "GGUF", 4);
    gw_put_u32(&out, 3);
    gw_put_u64(&out, w->n_tensors);
    gw_put_u64(&out, w->n_kvs);
    gw_put(&out, w->kvs.p, w->kvs.len);
    gw_put(&out, w->infos.p, w->infos.len);
    if (w->n_tensors > 0) {
        gw_put(&out, zeros, -out.len & 31);
        gw_put(&out, w->data.p, w->data.len);
    }
    *size = out.len;
    file = aligned_alloc(32, (out.len + 31) & ~(size_t)31);
    memcpy(file, out.p, out.len);
    free(out.p);
    free(w->kvs.p);
    free(w->infos.p);
    free(w->data.p);
    memset(w, 0, sizeof(*w));
    return file;
}

/* What was written as a file of its own, path to be unlinked and freed by the caller. */
static inline char *gw_file(gw *w)
{
    char *path = strdup("/tmp/aiq-test-XXXXXX");
    int fd = mkstemp(path);
    size_t size, done = 0;
    uint8_t *file = gw_finish(w, &size);

    while (fd >= 0 && done < size) {
        ssize_t n = write(fd, file + done, size - done);

        if (n <= 0) {
            abort();
        }
        done += (size_t)n;
    }
    close(fd);
    free(file);
    return path;
}

#endif
