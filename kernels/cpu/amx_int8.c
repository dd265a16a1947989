/*
 * Some tokens at once: tiles of small integers. Weights and activations are the integers that
 * vnni.c multiplies, rounded in the same way, and so are the sums of each 32 products; what
 * differs is the order in which those are added up, scaled, in f32.
 *
 * A tile of weights is 16 rows of a block of 32. Q8_0's come as they lie in the file: the tile
 * skips the scales between them by its stride. Others are unpacked on the way, from fours to
 * eights. The right tile holds 16 tokens, of which row k has the activations 4k to 4k + 3.
 *
 * Sums of tiles leave by memory, so the work is done in steps of DEPTH columns and 16 tokens:
 * while the tiles multiply the next one, vectors scale and add up what they left of this one.
 * Meanwhile the memory is told about the rows behind these: 16 of them are one piece of it.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/x86.h"

enum {
    DEPTH = 256,
    BLOCKS = DEPTH / 32,
};

/* 32 activations of 16 tokens, prepared by pack. */
typedef struct {
    int8_t q[8][16][4]; /* [k / 4][token][k % 4] */
    float d[16];        /* scale of each token */
    float sum[16];      /* of each token's 32, scaled: what min is multiplied with */
} block;

/* What a thread works in. */
typedef struct {
    int32_t sums[2][BLOCKS][16][16];        /* [row][token]; of one step in use, one next */
    uint8_t weights[2][BLOCKS / 2][16][64]; /* unpacked, [pair of blocks][row]; likewise */
    float scales[2][16][16]; /* [block][row]; of super-blocks [row][8 scales, 8 minima] */
    float totals[][16][16];  /* [16 tokens][row][token] */
} workspace;

static size_t packed_bytes(size_t cols)
{
    return cols / 32 * sizeof(block) / 16;
}

static size_t scratch_bytes(size_t max_tokens)
{
    size_t tokens = max_tokens < TILE_TOKENS ? max_tokens : TILE_TOKENS;

    return sizeof(workspace) + (tokens + 15) / 16 * sizeof(((workspace *)0)->totals[0]);
}

/* --- activations --- */

X86_AMX static void pack(void *dst, const float *x, size_t first, size_t n, size_t cols)
{
    block *b = (block *)dst + first / 16 * (cols / 32);

    for (size_t c = 0; c < cols; c += 32, b++) {
        for (size_t t = 0; t < 16; t++) {
            x86_eight_bits e = {0};

            if (first + t < n) {
                e = x86_round_to_eight_bits(x + (first + t) * cols + c);
            }
            b->d[t] = e.d;
            b->sum[t] = ((float)e.sum[0] + (float)e.sum[1]) * e.d; /* of NaN they are wild */
            for (size_t k = 0; k < 8; k++) {
                memcpy(b->q[k][t], (const uint8_t *)&e.q + 4 * k, 4);
            }
        }
    }
}

/* --- weights --- */

/* One product under way. */
typedef struct {
    const uint8_t *row; /* the first */
    size_t row_bytes;
    size_t depth_bytes; /* of DEPTH columns */
    size_t rows;
    size_t cols;
    const block *x; /* [16 tokens][cols / 32] */
    size_t n;
    size_t tiles; /* of tokens */
    workspace *ws;
} product;

/* A step: rows from r on, 16 at most, columns from c on, 16 tokens from tile * 16 on. */
typedef struct {
    size_t r, c, tile;
    size_t i; /* of all of these rows */
} step;

static size_t rows_at(const product *p, size_t r)
{
    return p->rows - r < 16 ? p->rows - r : 16;
}

static size_t blocks_at(const product *p, size_t c)
{
    return (p->cols - c < DEPTH ? p->cols - c : DEPTH) / 32;
}

static const uint8_t *row_at(const product *p, const step *s, size_t r)
{
    return p->row + (s->r + r) * p->row_bytes + s->c / DEPTH * p->depth_bytes;
}

static bool is_super(kern_type type)
{
    return type == KERN_Q4_K || type == KERN_Q5_K;
}

/* The scales of a block of each of the rows; what is no row has the last one's. */
X86_AMX X86_INLINE __m512 gather_scales(const uint8_t *p, size_t row_bytes, size_t rows)
{
    __m512i r = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i at;

    r = _mm512_min_epi32(r, _mm512_set1_epi32((int)rows - 1));
    at = _mm512_mullo_epi32(r, _mm512_set1_epi32((int)row_bytes));
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_i32gather_epi32(at, p, 1)));
}

X86_AMX X86_INLINE void unpack_super(kern_type type, workspace *ws, size_t buffer, size_t r,
                                     const uint8_t *p)
{
    _mm512_store_ps(ws->scales[buffer][r], x86_six_bits(p));
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        _mm512_store_si512(ws->weights[buffer][j][r], x86_super(type, p, j));
    }
}

X86_AMX X86_INLINE void unpack_q4_0(workspace *ws, size_t buffer, size_t r, const uint8_t *p,
                                    size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, p += Q4_0_BYTES) {
        __m256i q = _mm256_sub_epi8(x86_q4_0(p), _mm256_set1_epi8(8));

        _mm256_store_si256((__m256i *)(void *)(ws->weights[buffer][b / 2][r] + b % 2 * 32), q);
    }
}

/* The rows' DEPTH columns, as far as they have to be unpacked, and their scales. */
X86_AMX X86_INLINE void unpack(kern_type type, const product *p, const step *s)
{
    size_t rows = rows_at(p, s->r), blocks = blocks_at(p, s->c);
    size_t buffer = s->c / DEPTH % 2;

    if (!is_super(type)) {
        size_t bytes = type == KERN_Q8_0 ? Q8_0_BYTES : Q4_0_BYTES;

        for (size_t b = 0; b < blocks; b++) {
            _mm512_store_ps(p->ws->scales[buffer][b],
                            gather_scales(row_at(p, s, 0) + b * bytes, p->row_bytes, rows));
        }
    }
    for (size_t r = 0; r < rows && type != KERN_Q8_0; r++) {
        if (is_super(type)) {
            unpack_super(type, p->ws, buffer, r, row_at(p, s, r));
        } else {
            unpack_q4_0(p->ws, buffer, r, row_at(p, s, r), blocks);
        }
    }
    __asm__ volatile("" ::
                         : "memory"); /* gcc 12 is not told that tiles are loaded from memory */
}

/* --- the product --- */

X86_AMX X86_INLINE void multiply_block(kern_type type, const product *p, const step *s,
                                       size_t b)
{
    const block *x = p->x + s->tile * (p->cols / 32) + s->c / 32 + b;

    _tile_zero(0);
    if (type == KERN_Q8_0) {
        _tile_loadd(1, row_at(p, s, 0) + b * Q8_0_BYTES + 2, p->row_bytes);
    } else {
        _tile_loadd(1, p->ws->weights[s->c / DEPTH % 2][b / 2][0] + b % 2 * 32, 64);
    }
    _tile_loadd(2, x->q, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, p->ws->sums[s->i % 2][b], 64);
}

X86_AMX X86_INLINE void add_block(kern_type type, const product *p, const step *s, size_t b,
                                  __m512 total[16])
{
    const block *x = p->x + s->tile * (p->cols / 32) + s->c / 32 + b;
    const float *scale = p->ws->scales[s->c / DEPTH % 2][0];
    __m512 d = _mm512_load_ps(x->d), sum = _mm512_load_ps(x->sum);

    scale += is_super(type) ? b : b * 16;
#pragma GCC unroll 16
    for (size_t r = 0; r < 16; r++) {
        __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(p->ws->sums[s->i % 2][b][r]));

        if (is_super(type)) {
            total[r] =
                _mm512_fmadd_ps(_mm512_mul_ps(v, d), _mm512_set1_ps(scale[r * 16]), total[r]);
            total[r] = _mm512_fnmadd_ps(sum, _mm512_set1_ps(scale[r * 16 + 8]), total[r]);
        } else {
            total[r] = _mm512_fmadd_ps(_mm512_mul_ps(v, d), _mm512_set1_ps(scale[r]), total[r]);
        }
    }
}

/* [row][token] to y, [token][row]. */
X86_AMX X86_INLINE void turn(const product *p, const step *s, const __m512 total[16], float *y,
                             size_t ldy)
{
    __mmask16 some = (__mmask16)((1u << rows_at(p, s->r)) - 1);
    __m512i v[16];

#pragma GCC unroll 16
    for (size_t r = 0; r < 16; r++) {
        v[r] = _mm512_castps_si512(total[r]);
    }
    x86_transpose(v);
    for (size_t t = s->tile * 16, i = 0; i < 16 && t + i < p->n; i++) {
        _mm512_mask_storeu_epi32(y + (t + i) * ldy + s->r, some, v[i]);
    }
}

static void advance(const product *p, step *s)
{
    s->i++;
    if (++s->tile == p->tiles) {
        s->tile = 0;
        s->c += DEPTH;
    }
}

/* Tells the memory about the rows behind these, which lie in one piece: during each block of a
 * step about as many bytes as it takes. */
X86_AMX X86_INLINE void read_ahead(const product *p, const step *s, size_t b)
{
    size_t end = p->rows * p->row_bytes, part = 16 * p->depth_bytes / BLOCKS;
    size_t at = (s->r + 16) * p->row_bytes + (s->c / DEPTH * BLOCKS + b) * part;

    for (size_t line = at; line < at + part && line < end && s->tile == 0; line += 64) {
        _mm_prefetch((const char *)p->row + line, _MM_HINT_T1);
    }
}

/* Adds up step s while the tiles multiply the next. */
X86_AMX X86_INLINE void one_step(kern_type type, const product *p, const step *s,
                                 const step *next, float *y, size_t ldy)
{
    size_t blocks = blocks_at(p, s->c), coming = next->c < p->cols ? blocks_at(p, next->c) : 0;
    float(*kept)[16] = p->ws->totals[s->tile];
    __m512 total[16];

#pragma GCC unroll 16
    for (size_t r = 0; r < 16; r++) {
        total[r] = s->c == 0 ? _mm512_setzero_ps() : _mm512_load_ps(kept[r]);
    }
    if (coming > 0 && next->tile == 0) {
        unpack(type, p, next);
    }
    for (size_t b = 0; b < BLOCKS; b++) {
        if (b < coming) {
            multiply_block(type, p, next, b);
        }
        if (b < blocks) {
            read_ahead(p, s, b);
            add_block(type, p, s, b, total);
        }
    }
    if (s->c + DEPTH >= p->cols) {
        turn(p, s, total, y, ldy);
        return;
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < 16; r++) {
        _mm512_store_ps(kept[r], total[r]);
    }
}

/* 16 rows, or the last, fewer. */
X86_AMX X86_INLINE void multiply_rows(kern_type type, const product *p, size_t r, float *y,
                                      size_t ldy)
{
    step s = {.r = r}, next = {.r = r};

    unpack(type, p, &s);
    for (size_t b = 0; b < blocks_at(p, 0); b++) {
        multiply_block(type, p, &s, b);
    }
    while (s.c < p->cols) {
        advance(p, &next);
        one_step(type, p, &s, &next, y, ldy);
        s = next;
    }
}

/* Tile 0 has sums and tile 1 weights, of so many rows; tile 2 has activations. */
X86_AMX static void configure(size_t rows)
{
    const x86_tile_config c = {
        .palette = 1,
        .row_bytes = {64, 32, 64},
        .rows = {(uint8_t)rows, (uint8_t)rows, 8},
    };

    x86_tiles_load_config(&c);
}

X86_AMX X86_INLINE void multiply_all(kern_type type, const product *p, float *y, size_t ldy)
{
    for (size_t r = 0; r < p->rows; r += 16) {
        if (r == 0 || rows_at(p, r) < 16) {
            configure(rows_at(p, r));
        }
        multiply_rows(type, p, r, y, ldy);
    }
    _tile_release();
}

#define CASE(type)                                                                             \
    case type:                                                                                 \
        multiply_all(type, &p, y, ldy);                                                        \
        break

X86_AMX static void multiply(kern_type type, float *y, size_t ldy, const uint8_t *row,
                             size_t rows, const void *x, size_t n, size_t cols,
                             uint8_t *scratch)
{
    product p = {
        .row = row,
        .row_bytes = cpu_row_bytes(type, cols),
        .depth_bytes = cpu_row_bytes(type, DEPTH),
        .rows = rows,
        .cols = cols,
        .x = x,
        .n = n,
        .tiles = (n + 15) / 16,
        .ws = (workspace *)(void *)scratch,
    };

    switch (type) {
        CASE(KERN_Q8_0);
        CASE(KERN_Q4_0);
        CASE(KERN_Q4_K);
        CASE(KERN_Q5_K);
    default:
        break;
    }
}

const cpu_tile cpu_tile_amx_int8 = {
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .multiply = multiply,
    .from =
        {
            [KERN_Q8_0] = 3,
            [KERN_Q4_0] = 3,
            [KERN_Q4_K] = 3,
            [KERN_Q5_K] = 3,
        },
};

#endif
