/*
 * Where things lie: pure arithmetic, the same on the host and on the device.
 */
#ifndef CUDA_INDEX_H
#define CUDA_INDEX_H

#include <string.h>

#include "kernels/cuda/platform.h"

extern "C" {
#include "kernels/aiq_kernels.h"
}

#define HOST_DEVICE __host__ __device__ static inline

HOST_DEVICE uint32_t float_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

HOST_DEVICE float bits_float(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

HOST_DEVICE uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

HOST_DEVICE uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

HOST_DEVICE uint32_t divide_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b > 0);
}

/* --- rows of weights --- */

/* Every loader gives so many weights of a row at once; a row is a multiple of them. */
#define CHUNK 8

HOST_DEVICE uint64_t row_bytes(kern_type type, uint32_t cols)
{
    switch (type) {
    case KERN_F32:
        return (uint64_t)cols * 4;
    case KERN_F16:
    case KERN_BF16:
        return (uint64_t)cols * 2;
    case KERN_Q8_0:
        return (uint64_t)cols / 32 * 34;
    case KERN_Q4_0:
        return (uint64_t)cols / 32 * 18;
    case KERN_Q4_K:
        return (uint64_t)cols / 256 * 144;
    case KERN_Q5_K:
        return (uint64_t)cols / 256 * 176;
    default:
        return (uint64_t)cols / 256 * 210; /* Q6_K */
    }
}

/* --- rows of a step --- */

/* Steps of at most so many rows are recorded. */
#define GRAPH_ROWS 256

/* Rows of the record that a step of n is played from. A few more cost little where there are
 * many; below eight each is a token's time. */
HOST_DEVICE uint32_t recorded_rows(uint32_t n)
{
    uint32_t step = n <= 8 ? 1 : n <= 32 ? 8 : n <= 64 ? 16 : 64;

    return divide_up(n, step) * step;
}

/* --- pages of keys and values --- */

/* A page is [n_layers][keys, values][n_kv_heads][KERN_PAGE][head_dim]: what one block of
 * attention reads of it lies together. */
struct kv_shape {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim;
};

enum { KV_KEYS, KV_VALUES };

HOST_DEVICE uint64_t kv_page_values(kv_shape s)
{
    return (uint64_t)s.n_layers * 2 * s.n_kv_heads * KERN_PAGE * s.head_dim;
}

/* The first value of one token's head: pages are those of its sequence, from the first token.
 */
HOST_DEVICE uint64_t kv_at(kv_shape s, const uint32_t *pages, uint32_t pos, uint32_t layer,
                           uint32_t which, uint32_t head)
{
    uint64_t heads = ((uint64_t)layer * 2 + which) * s.n_kv_heads + head;

    return pages[pos / KERN_PAGE] * kv_page_values(s) +
           (heads * KERN_PAGE + pos % KERN_PAGE) * s.head_dim;
}

/* --- attention's split of a sequence --- */

/* Fewer tokens are not worth a block. */
#define SPLIT_LEAST 64

struct token_range {
    uint32_t begin;
    uint32_t end; /* begin >= end: nothing is left for this part */
};

/* Part i of so many that the tokens from first to end are split into, at most; whole pages but
 * at both ends. It depends on nothing else, so a token's attention is the same in any company.
 */
HOST_DEVICE token_range split_range(uint32_t first, uint32_t end, uint32_t parts, uint32_t i)
{
    uint32_t start = first / KERN_PAGE * KERN_PAGE;
    uint32_t each = divide_up(divide_up(end - start, parts), KERN_PAGE) * KERN_PAGE;
    token_range r;

    each = most(each, SPLIT_LEAST);
    r.begin = start + i * each;
    r.end = least(r.begin + each, end);
    r.begin = most(r.begin, first);
    return r;
}

/* How many parts there are really. */
HOST_DEVICE uint32_t split_count(uint32_t first, uint32_t end, uint32_t parts)
{
    token_range r = split_range(first, end, parts, 0);
    uint32_t start = first / KERN_PAGE * KERN_PAGE;

    return r.end == end ? 1 : divide_up(end - start, r.end - start);
}

/* The first token that one at pos sees. */
HOST_DEVICE uint32_t window_first(uint32_t pos, uint32_t window)
{
    return window > 0 && pos >= window ? pos + 1 - window : 0;
}

/* --- the nearest rows --- */

/* Rows that a warp scores together. */
#define TOPK_ROWS 4

HOST_DEVICE uint32_t topk_groups(uint32_t n)
{
    return divide_up(n, TOPK_ROWS);
}

/* The i-th of a group; the last group may have fewer. Never beyond 32 bits: what follows
 * 2^32 - 1 rows, were it asked for, is row 2^32 - 1. */
HOST_DEVICE uint32_t topk_row(uint32_t group, uint32_t i)
{
    return group * TOPK_ROWS + i;
}

/* Where a row's first number is. */
HOST_DEVICE uint64_t topk_at(uint32_t row, uint32_t cols)
{
    return (uint64_t)row * cols;
}

/*
 * A score and its row in one number: the greater comes first, and of equal scores the lower
 * row. The bits of floats are in order where the sign is clear, and in the other where it is
 * set. 0, which is no key's, where the score is no number.
 */
HOST_DEVICE uint64_t topk_key(float score, uint32_t row)
{
    uint32_t bits = float_bits(score + 0.0f); /* -0 equals 0 */

    bits = (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
    return score == score ? (uint64_t)bits << 32 | ~row : 0;
}

HOST_DEVICE uint32_t topk_key_row(uint64_t key)
{
    return ~(uint32_t)key;
}

HOST_DEVICE float topk_key_score(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);

    return bits_float((bits & 0x80000000) != 0 ? bits & 0x7fffffff : ~bits);
}

#endif
