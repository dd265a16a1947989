/*
 * Many tokens at once: tiles of 16 x 16 in bf16, whose products are added up in f32. Weights
 * are unpacked on the way: a second, wider copy of them would be read from memory instead, and
 * rounding them to bf16 costs 0.2 %, less than rounding activations to eight bits does.
 *
 * A row's 32 weights are one row of the left tile as they come. The right tile wants pairs: its
 * row k holds the activations 2k and 2k + 1 of 16 tokens, which pack arranges once for all rows
 * of weights. The sums therefore stand as [row][token] and are turned at the end.
 *
 * The loops, from outside: DEPTH columns and 32 rows, in the one order or the other, unpacked
 * into a buffer in the L1 cache while the tiles work on the part before; 32 tokens. Sums of up
 * to TILE_ROWS rows wait in the L2 cache for their next columns.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/x86.h"

enum {
    DEPTH = 256, /* columns, 8 blocks of 32 */
    BLOCK = 512, /* bf16 numbers of a tile */
    SUMS = 256,  /* f32 numbers of a tile */
    UNPACKED = 2 * (DEPTH / 32) * BLOCK
};

/* What a thread works in. */
typedef struct {
    uint16_t weights[2]
                    [UNPACKED]; /* [block of columns][16 rows][16][32]; one in use, one next */
    float sums[];               /* [16 rows][16 tokens][16][16] */
} workspace;

static size_t packed_bytes(size_t cols)
{
    return 2 * cols;
}

static size_t scratch_bytes(size_t max_tokens)
{
    size_t tokens = max_tokens < TILE_TOKENS ? max_tokens : TILE_TOKENS;

    return sizeof(workspace) + TILE_ROWS * ((tokens + 15) & ~(size_t)15) * sizeof(float);
}

/* --- activations --- */

/*
 * Where the tile of 16 tokens (first is their first) and of columns at col begins in a packed
 * block of n tokens: [DEPTH columns][pair of tiles of tokens][32 columns][of the pair].
 */
static size_t tile_at(size_t n, size_t cols, size_t first, size_t col)
{
    size_t all = (n + 15) / 16, tile = first / 16, depth = cols - col / DEPTH * DEPTH;
    size_t blocks = (depth < DEPTH ? depth : DEPTH) / 32;
    size_t in_pair = (tile | 1) < all ? 2 : 1;

    return (col / DEPTH * DEPTH / 32 * all + tile / 2 * 2 * blocks +
            col % DEPTH / 32 * in_pair + tile % 2) *
           BLOCK;
}

X86_AMX static void pack(void *dst, const float *x, size_t first, size_t n, size_t cols)
{
    for (size_t c = 0; c < cols; c += 32) {
        uint16_t *tile = (uint16_t *)dst + tile_at(n, cols, first, c);
        __m512i r[16];

        for (size_t i = 0; i < 16; i++) {
            const float *p = x + (first + i) * cols + c;

            r[i] = first + i < n ? x86_bf16(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16))
                                 : _mm512_setzero_si512();
        }
        x86_transpose(r);
        for (size_t i = 0; i < 16; i++) {
            _mm512_storeu_si512(tile + i * 32, r[i]);
        }
    }
}

/* --- weights --- */

X86_AMX X86_INLINE void unpack_q8_0(uint16_t *dst, const uint8_t *p, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, p += Q8_0_BYTES, dst += 2 * BLOCK) {
        __m512 d = x86_two_f16(p, p);
        __m128i lo = _mm_loadu_si128((const __m128i *)(const void *)(p + 2));
        __m128i hi = _mm_loadu_si128((const __m128i *)(const void *)(p + 18));

        _mm512_storeu_si512(
            dst, x86_bf16(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(lo)), d),
                          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(hi)), d)));
    }
}

X86_AMX X86_INLINE void unpack_q4_0(uint16_t *dst, const uint8_t *p, size_t blocks)
{
    for (size_t b = 0; b < blocks; b++, p += Q4_0_BYTES, dst += 2 * BLOCK) {
        __m512 d = x86_two_f16(p, p), eight = _mm512_mul_ps(d, _mm512_set1_ps(8));
        __m256i q = x86_q4_0(p);
        __m512 lo = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(q)));
        __m512 hi = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(q, 1)));

        _mm512_storeu_si512(
            dst, x86_bf16(_mm512_fmsub_ps(lo, d, eight), _mm512_fmsub_ps(hi, d, eight)));
    }
}

/* Sixteen weights of group g. */
X86_AMX X86_INLINE __m512 super_floats(kern_type type, __m128i q, x86_groups groups, size_t g)
{
    __m512i lane = _mm512_set1_epi32((int)g);
    __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q));
    __m512 scale = _mm512_permutexvar_ps(lane, groups.scale);

    if (type == KERN_Q6_K) {
        return _mm512_mul_ps(_mm512_sub_ps(w, _mm512_set1_ps(32)), scale);
    }
    return _mm512_fmsub_ps(w, scale, _mm512_permutexvar_ps(lane, groups.min));
}

X86_AMX X86_INLINE void unpack_super(kern_type type, uint16_t *dst, const uint8_t *p)
{
    x86_groups g = x86_super_groups(type, p);

#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++, dst += 4 * BLOCK) {
        __m512i q = x86_super(type, p, j);

        _mm512_storeu_si512(
            dst, x86_bf16(super_floats(type, _mm512_castsi512_si128(q), g, 4 * j),
                          super_floats(type, _mm512_extracti32x4_epi32(q, 1), g, 4 * j + 1)));
        _mm512_storeu_si512(
            dst + 2 * BLOCK,
            x86_bf16(super_floats(type, _mm512_extracti32x4_epi32(q, 2), g, 4 * j + 2),
                     super_floats(type, _mm512_extracti32x4_epi32(q, 3), g, 4 * j + 3)));
    }
}

/* Blocks of 32 weights of one row, each into its row of every second tile. */
X86_AMX X86_INLINE void unpack_row(kern_type type, uint16_t *dst, const uint8_t *p,
                                   size_t blocks)
{
    switch (type) {
    case KERN_Q8_0:
        unpack_q8_0(dst, p, blocks);
        break;
    case KERN_Q4_0:
        unpack_q4_0(dst, p, blocks);
        break;
    case KERN_BF16:
        for (size_t b = 0; b < blocks; b++) {
            _mm512_storeu_si512(dst + 2 * BLOCK * b, _mm512_loadu_si512(p + 64 * b));
        }
        break;
    case KERN_F16:
        for (size_t b = 0; b < blocks; b++, p += 64) {
            __m512i h = _mm512_loadu_si512(p);

            _mm512_storeu_si512(dst + 2 * BLOCK * b,
                                x86_bf16(_mm512_cvtph_ps(_mm512_castsi512_si256(h)),
                                         _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1))));
        }
        break;
    default:
        unpack_super(type, dst, p);
        break;
    }
}

/* --- the product --- */

/* One product under way. */
typedef struct {
    const uint8_t *row;    /* the first */
    const uint8_t *second; /* that of number split: rows of two matrices are one product */
    size_t split;
    size_t row_bytes;
    size_t depth_bytes; /* of DEPTH columns */
    size_t rows;
    size_t cols;
    const uint16_t *x;
    size_t n;
    workspace *ws;
} product;

/* A step of the loops: rows from r on, columns from c on, unpacked into buffer i % 2. */
typedef struct {
    size_t r, c, i;
} part;

static size_t blocks_at(const product *p, size_t c)
{
    return (p->cols - c < DEPTH ? p->cols - c : DEPTH) / 32;
}

/*
 * The next step. With many tokens all rows of some columns come first, for the activations of
 * those columns to stay in the cache; with few the time goes into reading weights, and those of
 * a row lie behind each other.
 */
static void advance(const product *p, part *s)
{
    s->i++;
    if (p->n > 32) {
        s->r += 32;
        if (s->r >= p->rows) {
            s->r = 0;
            s->c += DEPTH;
        }
        return;
    }
    s->c += DEPTH;
    if (s->c >= p->cols) {
        s->c = 0;
        s->r += 32;
    }
}

static bool is_there(const product *p, const part *s)
{
    return s->r < p->rows && s->c < p->cols;
}

static const uint8_t *row_at(const product *p, const part *s, size_t r)
{
    size_t i = s->r + r;
    const uint8_t *row =
        i < p->split ? p->row + i * p->row_bytes : p->second + (i - p->split) * p->row_bytes;

    return row + s->c / DEPTH * p->depth_bytes;
}

/* Rows [from, to) of the 32 of a part; the memory is told about those of the part after it. */
X86_AMX X86_INLINE void unpack_part(kern_type type, const product *p, const part *s,
                                    size_t from, size_t to)
{
    size_t blocks = blocks_at(p, s->c);
    uint16_t *dst = p->ws->weights[s->i % 2];
    part after = *s;

    advance(p, &after);
    for (size_t r = from; r < to && s->r + r < p->rows; r++) {
        const char *ahead = (const char *)row_at(p, &after, r);

        for (size_t line = 0; line < p->depth_bytes; line += 64) {
            _mm_prefetch(ahead + line, _MM_HINT_T1);
        }
        unpack_row(type, dst + r / 16 * BLOCK + r % 16 * 32, row_at(p, s, r), blocks);
    }
}

/* 32 rows by 32 tokens; the tiles of sums stand beside each other for tokens, below for rows.
 */
X86_AMX X86_INLINE void multiply_2x2(float *sums, size_t below, const uint16_t *w,
                                     const uint16_t *x, size_t blocks, bool first)
{
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + SUMS, 64);
        _tile_loadd(2, sums + below, 64);
        _tile_loadd(3, sums + below + SUMS, 64);
    }
    for (size_t b = 0; b < blocks; b++, w += 2 * BLOCK, x += 2 * BLOCK) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, 64);
        _tile_loadd(7, x + BLOCK, 64);
        _tile_loadd(5, w + BLOCK, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + below, 64);
    _tile_stored(3, sums + below + SUMS, 64);
}

/* 32 rows by 16 tokens. */
X86_AMX X86_INLINE void multiply_2x1(float *sums, size_t below, const uint16_t *w,
                                     const uint16_t *x, size_t blocks, bool first)
{
    if (first) {
        _tile_zero(0);
        _tile_zero(2);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(2, sums + below, 64);
    }
    for (size_t b = 0; b < blocks; b++, w += 2 * BLOCK, x += BLOCK) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, 64);
        _tile_loadd(5, w + BLOCK, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(2, sums + below, 64);
}

/* The part s for all tokens, and meanwhile the unpacking of the next. */
X86_AMX X86_INLINE void multiply_part(kern_type type, const product *p, const part *s,
                                      const part *next)
{
    size_t tiles = (p->n + 15) / 16, pairs = (tiles + 1) / 2, blocks = blocks_at(p, s->c);
    const uint16_t *w = p->ws->weights[s->i % 2];

    for (size_t pair = 0; pair < pairs; pair++) {
        const uint16_t *x = p->x + tile_at(p->n, p->cols, pair * 32, s->c);
        float *sums = p->ws->sums + (s->r / 16 * tiles + pair * 2) * SUMS;

        if (next != NULL) {
            unpack_part(type, p, next, pair * 32 / pairs, (pair + 1) * 32 / pairs);
        }
        if (pair * 2 + 1 < tiles) {
            multiply_2x2(sums, tiles * SUMS, w, x, blocks, s->c == 0);
        } else {
            multiply_2x1(sums, tiles * SUMS, w, x, blocks, s->c == 0);
        }
    }
}

/* The sums, [row][token] in tiles, to y, [token][row]: few tokens at a time, so that what is
 * written lies on few pages. */
X86_AMX static void turn(const product *p, float *y, size_t ldy)
{
    size_t tiles = (p->n + 15) / 16;

    for (size_t tile = 0; tile < tiles; tile++) {
        for (size_t r = 0; r < p->rows; r += 16) {
            size_t left = p->rows - r;
            __mmask16 some = left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff;
            const float *sums = p->ws->sums + (r / 16 * tiles + tile) * SUMS;
            __m512i v[16];

            for (size_t i = 0; i < 16; i++) {
                v[i] = _mm512_loadu_si512(sums + i * 16);
            }
            x86_transpose(v);
            for (size_t i = 0; i < 16 && tile * 16 + i < p->n; i++) {
                _mm512_mask_storeu_epi32(y + (tile * 16 + i) * ldy + r, some, v[i]);
            }
        }
    }
}

X86_AMX X86_INLINE void multiply_all(kern_type type, const product *p)
{
    part s = {0}, next = {0};
    bool more = true;

    x86_tiles_configure();
    unpack_part(type, p, &s, 0, 32);
    while (more) {
        advance(p, &next);
        more = is_there(p, &next);
        multiply_part(type, p, &s, more ? &next : NULL);
        s = next;
    }
    _tile_release();
}

#define CASE(type)                                                                             \
    case type:                                                                                 \
        multiply_all(type, p);                                                                 \
        break

/* The sums of all rows. */
X86_AMX static void sum_up(kern_type type, const product *p)
{
    switch (type) {
        CASE(KERN_F16);
        CASE(KERN_BF16);
        CASE(KERN_Q8_0);
        CASE(KERN_Q4_0);
        CASE(KERN_Q4_K);
        CASE(KERN_Q5_K);
        CASE(KERN_Q6_K);
    default:
        break;
    }
}

static void multiply(kern_type type, float *y, size_t ldy, const uint8_t *row, size_t rows,
                     const void *x, size_t n, size_t cols, uint8_t *scratch)
{
    product p = {
        .row = row,
        .split = SIZE_MAX, /* there is no second */
        .row_bytes = cpu_row_bytes(type, cols),
        .depth_bytes = cpu_row_bytes(type, DEPTH),
        .rows = rows,
        .cols = cols,
        .x = x,
        .n = n,
        .ws = (workspace *)(void *)scratch,
    };

    sum_up(type, &p);
    turn(&p, y, ldy);
}

/* --- two products, gated --- */

/* 32 rows of sums, two tiles, become 32 columns of one packed tile: two rows a pair. */
X86_AMX static void pack_sums(uint16_t *dst, const float *upper, const float *lower)
{
    const __m512i in_pairs =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

    for (size_t i = 0; i < 16; i++) {
        const float *row = i < 8 ? upper + 32 * i : lower + 32 * (i - 8);
        __m512i two = x86_bf16(_mm512_loadu_ps(row), _mm512_loadu_ps(row + 16));

        _mm512_storeu_si512(dst + i * 32, _mm512_permutexvar_epi16(in_pairs, two));
    }
}

/* What the gate lets through is packed as it stands, [row][token]: nothing is turned. */
static void multiply_gated(const cpu_gated *g, size_t first, size_t rows, void *dst,
                           const void *x, size_t n, uint8_t *scratch)
{
    kern_type type = g->gate->type;
    size_t bytes = cpu_row_bytes(type, g->gate->cols);
    size_t tiles = (n + 15) / 16, below = tiles * SUMS;
    float *sums = ((workspace *)(void *)scratch)->sums;
    product p = {
        .row = (const uint8_t *)g->gate->data + first * bytes,
        .second = (const uint8_t *)g->up->data + first * bytes,
        .split = rows,
        .row_bytes = bytes,
        .depth_bytes = cpu_row_bytes(type, DEPTH),
        .rows = 2 * rows,
        .cols = g->gate->cols,
        .x = x,
        .n = n,
        .ws = (workspace *)(void *)scratch,
    };

    sum_up(type, &p);
    g->act(sums, sums + rows / 16 * below, rows / 16 * below);
    for (size_t tile = 0; tile < tiles; tile++) {
        for (size_t r = 0; r < rows; r += 32) {
            const float *upper = sums + r / 16 * below + tile * SUMS;

            pack_sums((uint16_t *)dst + tile_at(n, g->gate->rows, tile * 16, first + r), upper,
                      upper + below);
        }
    }
}

const cpu_tile cpu_tile_amx = {
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .multiply = multiply,
    .multiply_gated = multiply_gated,
    .from =
        {
            [KERN_F16] = 7,
            [KERN_BF16] = 7,
            [KERN_Q8_0] = 7,
            [KERN_Q4_0] = 7,
            [KERN_Q4_K] = 7,
            [KERN_Q5_K] = 7,
            [KERN_Q6_K] = 7,
        },
};

#endif
