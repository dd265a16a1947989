/*
 * The fast ways to multiply packed weights: integers for few tokens (vnni.c, avx2_dot.c), tiles
 * of integers for more (amx_int8.c; without AMX vnni_tiles.c, avx2_tiles.c), tiles of bf16 for
 * many (amx.c). ops.h says which a machine has.
 */
#ifndef CPU_DOT_H
#define CPU_DOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/aiq_kernels.h"

typedef struct {
    /* Bytes of a prepared activation vector, a multiple of 64. */
    size_t (*vector_bytes)(size_t cols);

    /* Prepares x [cols], a multiple of 32; dst is aligned to 64. */
    void (*quantize)(uint8_t *dst, const float *x, size_t cols);

    /* y[t * ldy + r] = row r of n times token t of tokens; by kern_type, NULL: not this way */
    void (*rows[KERN_N_TYPES])(float *y, size_t ldy, const uint8_t *row, size_t n, uint8_t *x,
                               size_t tokens, size_t cols);
} cpu_dot;

enum {
    TILE_TOKENS = 512, /* of one block of prepared activations */
    TILE_ROWS = 256    /* of weights that share a thread's scratch */
};

/* Two products of the same activations: act makes of the first what the second is let through
 * as, value by value. Both matrices are of one type and shape, their rows a multiple of 32. */
typedef struct {
    const kern_tensor *gate;
    const kern_tensor *up;
    void (*act)(float *gate, const float *up, size_t n);
} cpu_gated;

typedef struct {
    /* Bytes of a token's prepared activations, of any sixteen tokens a multiple of 64. */
    size_t (*packed_bytes)(size_t cols);

    /* Bytes of scratch that a thread needs, aligned to 64, for max_tokens. */
    size_t (*scratch_bytes)(size_t max_tokens);

    /* Prepares sixteen tokens (or the last, fewer), from the first on, of a block of n <=
     * TILE_TOKENS, x [n][cols], cols a multiple of 32. dst, aligned to 64, takes packed_bytes,
     * n rounded up to 16. */
    void (*pack)(void *dst, const float *x, size_t first, size_t n, size_t cols);

    /* y[t * ldy + r] = row r times token t for r < rows <= TILE_ROWS and t < n */
    void (*multiply)(kern_type type, float *y, size_t ldy, const uint8_t *row, size_t rows,
                     const void *x, size_t n, size_t cols, uint8_t *scratch);

    /* What becomes of rows [first, first + rows) of both matrices, prepared in dst as pack does
     * for products with as many columns as they have rows; rows <= TILE_ROWS / 2 and first are
     * multiples of 32. NULL: not this way. */
    void (*multiply_gated)(const cpu_gated *g, size_t first, size_t rows, void *dst,
                           const void *x, size_t n, uint8_t *scratch);

    uint32_t from[KERN_N_TYPES]; /* so many tokens it pays to take this way; 0: it cannot */
} cpu_tile;

extern const cpu_dot cpu_dot_vnni;
extern const cpu_dot cpu_dot_avx2;
extern const cpu_tile cpu_tile_avx2;
extern const cpu_tile cpu_tile_amx;
extern const cpu_tile cpu_tile_amx_int8;
extern const cpu_tile cpu_tile_vnni;

#endif
