#include "core/pool.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What waits for events for hours needs half of the first block. A chat request's fields, its
 * body and its reply's head fit in the second, which the pool keeps for the next request. */
#define POOL_FIRST 1024
#define POOL_BLOCK 8192
#define POOL_ALIGN 16

typedef struct pool_block {
    struct pool_block *next;
    bool own; /* a large piece's; then its bytes */
} pool_block;

typedef struct pool_cleanup {
    struct pool_cleanup *next;
    void (*fn)(void *arg);
    void *arg;
} pool_cleanup;

/* The pool lies at the start of its first block. */
struct aiq_pool {
    pool_block *blocks; /* further ones, the newest first */
    pool_block *spare;  /* of POOL_BLOCK bytes, or NULL */
    pool_cleanup *cleanups;
    uint8_t *pos, *end;
};

#define ALIGNED(n)  (((n) + POOL_ALIGN - 1) & ~(size_t)(POOL_ALIGN - 1))
#define POOL_HEADER ALIGNED(sizeof(struct aiq_pool))
#define BLOCK_START ALIGNED(sizeof(pool_block))

_Static_assert(POOL_ALIGN <= _Alignof(max_align_t), "malloc aligns enough");

/* No log line through the log room: it allocates. */
static void *checked(void *p)
{
    static const char line[] = "{\"level\":\"error\",\"service\":\"core\","
                               "\"message\":\"out of memory, leaving\"}\n";
    if (p == NULL) {
        ssize_t n = write(STDERR_FILENO, line, sizeof(line) - 1);
        (void)n;
        abort();
    }
    return p;
}

void *aiq_alloc(size_t size)
{
    return checked(malloc(size ? size : 1));
}

void *aiq_zalloc(size_t size)
{
    return checked(calloc(1, size ? size : 1));
}

static void pool_start(aiq_pool *pool)
{
    pool->blocks = NULL;
    pool->cleanups = NULL;
    pool->pos = (uint8_t *)pool + POOL_HEADER;
    pool->end = (uint8_t *)pool + POOL_FIRST;
}

aiq_pool *aiq_pool_new(void)
{
    aiq_pool *pool = aiq_alloc(POOL_FIRST);

    pool->spare = NULL;
    pool_start(pool);
    return pool;
}

void aiq_pool_reset(aiq_pool *pool)
{
    while (pool->cleanups) {
        pool_cleanup *c = pool->cleanups;
        pool->cleanups = c->next;
        c->fn(c->arg);
    }
    while (pool->blocks) {
        pool_block *block = pool->blocks;
        pool->blocks = block->next;
        if (pool->spare || block->own) {
            free(block);
        } else {
            pool->spare = block;
        }
    }
    pool_start(pool);
}

void aiq_pool_free(aiq_pool *pool)
{
    if (pool) {
        aiq_pool_reset(pool);
        free(pool->spare);
        free(pool);
    }
}

/* A block's bytes; space for a large piece, 0: for many. */
static uint8_t *add_block(aiq_pool *pool, size_t space)
{
    pool_block *block = pool->spare;

    if (space || block == NULL) {
        block = aiq_alloc(space ? BLOCK_START + space : POOL_BLOCK);
    } else {
        pool->spare = NULL;
    }
    block->own = space > 0;
    block->next = pool->blocks;
    pool->blocks = block;
    return (uint8_t *)block + BLOCK_START;
}

void *aiq_pool_alloc(aiq_pool *pool, size_t size)
{
    if (size > SIZE_MAX - POOL_BLOCK) {
        checked(NULL);
    }
    size_t need = ALIGNED(size);
    if (need > (size_t)(pool->end - pool->pos)) {
        if (need > POOL_BLOCK / 4) {
            /* of its own, so that the rest of the current one stays of use */
            return add_block(pool, need);
        }
        pool->pos = add_block(pool, 0);
        pool->end = pool->pos + POOL_BLOCK - BLOCK_START;
    }
    void *p = pool->pos;
    pool->pos += need;
    return p;
}

void *aiq_pool_zalloc(aiq_pool *pool, size_t size)
{
    return memset(aiq_pool_alloc(pool, size), 0, size);
}

char *aiq_pool_copy(aiq_pool *pool, const void *data, size_t len)
{
    char *p = aiq_pool_alloc(pool, len + 1);

    if (len) {
        memcpy(p, data, len);
    }
    p[len] = '\0';
    return p;
}

char *aiq_pool_printf(aiq_pool *pool, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);

    char *p = aiq_pool_alloc(pool, (size_t)n + 1);
    va_start(args, format);
    vsnprintf(p, (size_t)n + 1, format, args);
    va_end(args);
    return p;
}

void aiq_pool_cleanup(aiq_pool *pool, void (*fn)(void *arg), void *arg)
{
    pool_cleanup *c = aiq_pool_alloc(pool, sizeof(*c));

    c->fn = fn;
    c->arg = arg;
    c->next = pool->cleanups;
    pool->cleanups = c;
}

bool aiq_str_eq(aiq_str a, aiq_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

bool aiq_str_is(aiq_str a, const char *literal)
{
    return aiq_str_eq(a, (aiq_str){literal, strlen(literal)});
}

bool aiq_str_after(aiq_str a, const char *literal, aiq_str *rest)
{
    size_t n = strlen(literal);

    if (a.len < n || memcmp(a.data, literal, n) != 0) {
        return false;
    }
    *rest = (aiq_str){a.data + n, a.len - n};
    return true;
}

char *aiq_put_decimal(char *out, uint64_t n)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    return (char *)memcpy(out, digits + at, sizeof(digits) - at) + sizeof(digits) - at;
}

uint8_t *aiq_buf_reserve(aiq_buf *b, size_t len)
{
    size_t before = b->base ? (size_t)(b->data - b->base) : 0;

    if (len <= b->size - before - b->len) {
        return b->data + b->len;
    }
    if (len > SIZE_MAX / 2 - b->len) {
        checked(NULL);
    }
    /* Moving to the front is worth it only where it moves less than it frees;
     * that keeps a queue's cost linear. */
    if (len <= b->size - b->len && before >= b->len) {
        memmove(b->base, b->data, b->len);
    } else {
        size_t size = b->size ? b->size : 256;
        while (size < b->len + len) {
            size *= 2;
        }
        uint8_t *base = aiq_alloc(size);
        if (b->len) {
            memcpy(base, b->data, b->len);
        }
        free(b->base);
        b->base = base;
        b->size = size;
    }
    b->data = b->base;
    return b->data + b->len;
}

void aiq_buf_add(aiq_buf *b, const void *data, size_t len)
{
    if (len) {
        memcpy(aiq_buf_reserve(b, len), data, len);
        b->len += len;
    }
}

void aiq_buf_text(aiq_buf *b, const char *text)
{
    aiq_buf_add(b, text, strlen(text));
}

void aiq_buf_printf(aiq_buf *b, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);

    uint8_t *p = aiq_buf_reserve(b, (size_t)n + 1);
    va_start(args, format);
    vsnprintf((char *)p, (size_t)n + 1, format, args);
    va_end(args);
    b->len += (size_t)n;
}

void aiq_buf_consume(aiq_buf *b, size_t len)
{
    b->len -= len;
    b->data = b->len ? b->data + len : b->base;
}

void aiq_buf_free(aiq_buf *b)
{
    free(b->base);
    *b = (aiq_buf){0};
}
