/*
 * One head's keys and values, and the tokens of a sequence, or of a whole text, that attend to
 * them. Keys and values are f16 as soon as they are kept; sums are f32.
 */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"

/* n tokens that follow pos others, and the heads that share these keys and values. A token sees
 * those up to itself, or all. */
typedef struct {
    const float *q; /* [n][q_stride], scaled, the first of these heads; likewise out */
    float *out;
    const uint16_t *k; /* page p is at p * page_stride, [KERN_PAGE][head_dim]; likewise v */
    const uint16_t *v;
    const uint32_t *pages; /* of the sequence, from its first token on; NULL: 0, 1, … */
    size_t page_stride;
    size_t q_stride;
    size_t head_dim;
    size_t n_heads;
    size_t n;
    size_t pos;
    size_t window; /* a token sees so many, itself included; 0: all; not both ways */
    bool both_ways;
    float cap; /* 0: none */
} cpu_attention;

/* Attention in tiles. */
typedef struct {
    /* Bytes of scratch that a thread needs, aligned to 64. */
    size_t (*scratch_bytes)(size_t head_dim);

    /* Parts that threads can take, of n tokens and so many heads. */
    size_t (*blocks)(size_t n, size_t n_heads);

    void (*attend)(const cpu_attention *a, size_t block, uint8_t *scratch);
} cpu_attend;

extern const cpu_attend cpu_attend_amx;

/* Where the page with token t begins. */
static inline size_t cpu_page_at(const uint32_t *pages, size_t page_stride, size_t t)
{
    return (pages != NULL ? pages[t / KERN_PAGE] : t / KERN_PAGE) * page_stride;
}

#endif
