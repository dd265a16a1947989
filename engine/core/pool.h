/*
 * Memory that lives as long as a request, and growing byte buffers.
 *
 * A pool hands out memory that is freed all at once. One thread. Allocation
 * failure ends the process with a log line: the engine bounds what it
 * allocates, so running out means the machine has none left.
 */

#ifndef AIQ_POOL_H
#define AIQ_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct aiq_pool aiq_pool;

aiq_pool *aiq_pool_new(void);
void aiq_pool_free(aiq_pool *pool);
/* Frees all that was handed out but keeps the pool for the next request. */
void aiq_pool_reset(aiq_pool *pool);
/* Aligned to 16, not zeroed. */
void *aiq_pool_alloc(aiq_pool *pool, size_t size);
void *aiq_pool_zalloc(aiq_pool *pool, size_t size);
/* A NUL-terminated copy. */
char *aiq_pool_copy(aiq_pool *pool, const void *data, size_t len);
char *aiq_pool_printf(aiq_pool *pool, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Calls fn(arg) when the pool is freed, the last registered first. */
void aiq_pool_cleanup(aiq_pool *pool, void (*fn)(void *arg), void *arg);

/* malloc that does not return NULL. */
void *aiq_alloc(size_t size);
void *aiq_zalloc(size_t size);

/* A borrowed piece of text or bytes. */
typedef struct {
    const char *data;
    size_t len;
} aiq_str;

#define AIQ_STR(literal) ((aiq_str){(literal), sizeof(literal) - 1})

bool aiq_str_eq(aiq_str a, aiq_str b);
bool aiq_str_is(aiq_str a, const char *literal);
/* Does it begin so? Then *rest is what follows. */
bool aiq_str_after(aiq_str a, const char *literal, aiq_str *rest);

/* n in decimal, at most 20 bytes and no NUL; returns what follows them. For what every
 * request needs: printf takes ten times as long. */
char *aiq_put_decimal(char *out, uint64_t n);

/* Bytes that grow at the end and are consumed at the front. */
typedef struct {
    uint8_t *data; /* first unconsumed byte */
    size_t len;
    uint8_t *base; /* what was allocated */
    size_t size;
} aiq_buf;

void aiq_buf_add(aiq_buf *b, const void *data, size_t len);
void aiq_buf_text(aiq_buf *b, const char *text);
void aiq_buf_printf(aiq_buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Room for len more bytes at the end: writes go there, then b->len grows by hand. */
uint8_t *aiq_buf_reserve(aiq_buf *b, size_t len);
void aiq_buf_consume(aiq_buf *b, size_t len);
/* Frees the memory; the buffer is empty and may be used again. */
void aiq_buf_free(aiq_buf *b);

#endif
