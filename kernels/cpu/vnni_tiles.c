/*
 * Many tokens at once without AMX: weights and activations are the integers that vnni.c
 * multiplies, rounded in the same way, and so are the sums of each 32 products (Q6_K: of 16);
 * what differs is the order in which those are added up, scaled, in f32.
 *
 * Sixteen rows lie in the lanes of a register, four columns of each in a lane: a token's four
 * activations go to all lanes at once, sums are never turned or added across lanes, and y is
 * written as it stands. 32 rows and DEPTH columns are unpacked so into the L1 cache, where all
 * tokens meet them, TOKENS at a time; a token's sums wait in the L2 cache for the next DEPTH.
 *
 * How far a layout's bytes lie above their meaning costs next to nothing: sums of products
 * start as far below. Minima, of Q4_K and Q5_K, are one more product with a token's sum.
 *
 * A token's sums are added up in the same order whatever other tokens there are.
 */
#include "kernels/cpu/dot.h"

#if defined(__x86_64__)

#include "kernels/cpu/x86.h"

enum { DEPTH = 512, BLOCKS = DEPTH / 32, ROWS = 32, TOKENS = 4 };

/* 32 activations of a token, prepared by pack. */
typedef struct {
    int8_t q[32];
    float d;          /* the scale */
    float sum;        /* of q, scaled: what min is multiplied with */
    int32_t minus[3]; /* the sum of q, of the first sixteen and of the others, negated */
} block;

/* 32 columns of sixteen rows. */
typedef struct {
    uint8_t q[8][16][4]; /* [column / 4][row][column % 4] */
    float scale[2][16];  /* [half][row]; only Q6_K has two */
    float min[16];
} sixteen;

/* What a thread works in. */
typedef struct {
    sixteen weights[2][BLOCKS]; /* [row / 16][column / 32] */
    float totals[][2][16];      /* [token][row / 16][row % 16] */
} workspace;

static size_t packed_bytes(size_t cols)
{
    return cols / 32 * sizeof(block);
}

static size_t scratch_bytes(size_t max_tokens)
{
    size_t tokens = max_tokens < TILE_TOKENS ? max_tokens : TILE_TOKENS;

    return sizeof(workspace) + tokens * sizeof(((workspace *)0)->totals[0]);
}

/* --- activations --- */

static size_t blocks_from(size_t c, size_t cols)
{
    return (cols - c < DEPTH ? cols - c : DEPTH) / 32;
}

/* Where a token's DEPTH columns from c on begin in a packed block of n: [DEPTH columns][token],
 * so that they are read from one end to the other for each 32 rows. */
static size_t block_at(size_t n, size_t cols, size_t t, size_t c)
{
    return c / 32 * n + t * blocks_from(c, cols);
}

X86_VNNI static void pack(void *dst, const float *x, size_t first, size_t n, size_t cols)
{
    for (size_t t = first; t < n && t < first + 16; t++) {
        for (size_t c = 0; c < cols; c += 32) {
            block *b = (block *)dst + block_at(n, cols, t, c / DEPTH * DEPTH) + c % DEPTH / 32;
            x86_eight_bits e = x86_round_to_eight_bits(x + t * cols + c);

            memcpy(b->q, &e.q, sizeof(b->q));
            b->d = e.d;
            b->sum = ((float)e.sum[0] + (float)e.sum[1]) * e.d; /* of NaN they are wild */
            b->minus[1] = (int32_t)(0 - (uint32_t)e.sum[0]);
            b->minus[2] = (int32_t)(0 - (uint32_t)e.sum[1]);
            b->minus[0] = (int32_t)((uint32_t)b->minus[1] + (uint32_t)b->minus[2]);
        }
    }
}

/* --- weights --- */

/* Sixteen bytes, from `at` on, of each of sixteen rows become four registers, each with four
 * bytes of each row. */
X86_VNNI X86_INLINE void turn(__m512i out[4], const uint8_t *const row[16], size_t at)
{
    __m512i a[4], b[4];

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m128i r[4];

#pragma GCC unroll 4
        for (size_t lane = 0; lane < 4; lane++) {
            r[lane] = _mm_loadu_si128((const __m128i *)(const void *)(row[4 * lane + i] + at));
        }
        a[i] = _mm512_castsi128_si512(r[0]);
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x00f0, r[1]);
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x0f00, r[2]);
        a[i] = _mm512_mask_broadcast_i32x4(a[i], 0xf000, r[3]);
    }
    b[0] = _mm512_unpacklo_epi32(a[0], a[1]);
    b[1] = _mm512_unpackhi_epi32(a[0], a[1]);
    b[2] = _mm512_unpacklo_epi32(a[2], a[3]);
    b[3] = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(b[0], b[2]);
    out[1] = _mm512_unpackhi_epi64(b[0], b[2]);
    out[2] = _mm512_unpacklo_epi64(b[1], b[3]);
    out[3] = _mm512_unpackhi_epi64(b[1], b[3]);
}

/* The f16 in the low halves. */
X86_VNNI X86_INLINE __m512 from_f16(__m512i low)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(low));
}

/* The f16 that each row has at `at`. */
X86_VNNI X86_INLINE __m512 scales_at(const uint8_t *const row[16], size_t at)
{
    uint16_t d[16];

    for (size_t r = 0; r < 16; r++) {
        memcpy(&d[r], row[r] + at, sizeof(d[r]));
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)d));
}

X86_VNNI X86_INLINE __m512i bits(__m512i v, unsigned int right, int mask)
{
    return _mm512_and_si512(_mm512_srli_epi32(v, right), _mm512_set1_epi8((char)mask));
}

X86_VNNI X86_INLINE void unpack_q8_0(sixteen *w, const uint8_t *const row[16], size_t at)
{
    __m512i q[8];

    turn(q, row, at + 2);
    turn(q + 4, row, at + 18);
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k++) {
        _mm512_store_si512(w->q[k], _mm512_xor_si512(q[k], _mm512_set1_epi8((char)0x80)));
    }
    _mm512_store_ps(w->scale[0], scales_at(row, at));
}

X86_VNNI X86_INLINE void unpack_q4_0(sixteen *w, const uint8_t *const row[16], size_t at)
{
    __m512i q[4];

    turn(q, row, at + 2);
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        _mm512_store_si512(w->q[k], bits(q[k], 0, 15));
        _mm512_store_si512(w->q[4 + k], bits(q[k], 4, 15));
    }
    _mm512_store_ps(w->scale[0], scales_at(row, at));
}

/* The six-bit numbers of quant_scales, of all rows at once. */
X86_VNNI X86_INLINE void unpack_six_bits(sixteen w[8], const uint8_t *const row[16], size_t at)
{
    const __m512i six = _mm512_set1_epi32(63), four = _mm512_set1_epi32(15),
                  high = _mm512_set1_epi32(0x30);
    __m512i s[4];
    __m512 d, dmin;

    turn(s, row, at);
    d = from_f16(s[0]);
    dmin = from_f16(_mm512_srli_epi32(s[0], 16));
#pragma GCC unroll 4
    for (unsigned int j = 0; j < 4; j++) {
        __m512i scale = _mm512_srli_epi32(s[1], 8 * j), min = _mm512_srli_epi32(s[2], 8 * j);
        __m512i both = _mm512_srli_epi32(s[3], 8 * j);

        _mm512_store_ps(w[j].scale[0],
                        _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(scale, six))));
        _mm512_store_ps(w[j].min,
                        _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(_mm512_and_si512(min, six))));
        scale = _mm512_or_si512(_mm512_and_si512(both, four),
                                _mm512_and_si512(_mm512_srli_epi32(scale, 2), high));
        min = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(both, 4), four),
                              _mm512_and_si512(_mm512_srli_epi32(min, 2), high));
        _mm512_store_ps(w[4 + j].scale[0], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
        _mm512_store_ps(w[4 + j].min, _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(min)));
    }
}

/* Sixteen columns of each of the super-block's 32, k is the first's / 4. */
X86_VNNI X86_INLINE void unpack_q4_k(sixteen w[8], const uint8_t *const row[16], size_t at,
                                     size_t k)
{
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512i q[4];

        turn(q, row, at + Q4_K_LOW + 32 * j + 4 * k);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            _mm512_store_si512(w[2 * j].q[k + i], bits(q[i], 0, 15));
            _mm512_store_si512(w[2 * j + 1].q[k + i], bits(q[i], 4, 15));
        }
    }
}

X86_VNNI X86_INLINE void unpack_q5_k(sixteen w[8], const uint8_t *const row[16], size_t at,
                                     size_t k)
{
    __m512i high[4];

    turn(high, row, at + Q5_K_HIGH + 4 * k);
#pragma GCC unroll 4
    for (unsigned int j = 0; j < 4; j++) {
        __m512i q[4];

        turn(q, row, at + Q5_K_LOW + 32 * j + 4 * k);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            __m512i even = bits(high[i], 2 * j, 1), odd = bits(high[i], 2 * j + 1, 1);

            _mm512_store_si512(w[2 * j].q[k + i],
                               _mm512_or_si512(bits(q[i], 0, 15), _mm512_slli_epi32(even, 4)));
            _mm512_store_si512(w[2 * j + 1].q[k + i],
                               _mm512_or_si512(bits(q[i], 4, 15), _mm512_slli_epi32(odd, 4)));
        }
    }
}

X86_VNNI X86_INLINE void unpack_q6_k(sixteen w[8], const uint8_t *const row[16], size_t at,
                                     size_t k)
{
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; half++) {
        __m512i high[4], q[8];

        turn(high, row, at + Q6_K_HIGH + 32 * half + 4 * k);
        turn(q, row, at + 64 * half + 4 * k);
        turn(q + 4, row, at + 64 * half + 32 + 4 * k);
#pragma GCC unroll 4
        for (unsigned int j = 0; j < 4; j++) {
#pragma GCC unroll 4
            for (size_t i = 0; i < 4; i++) {
                __m512i two = _mm512_slli_epi32(bits(high[i], 2 * j, 3), 4);

                _mm512_store_si512(w[4 * half + j].q[k + i],
                                   _mm512_or_si512(bits(q[j % 2 * 4 + i], j / 2 * 4, 15), two));
            }
        }
    }
}

/* The scales of sixteen, and of all that is at the end: two bytes there are no scales. */
X86_VNNI X86_INLINE void unpack_q6_k_scales(sixteen w[8], const uint8_t *const row[16],
                                            size_t at)
{
    __m512i s[4], end[4];
    __m512 d;

    turn(s, row, at + Q6_K_SCALES);
    turn(end, row, at + Q6_K_D - 14);
    d = from_f16(_mm512_srli_epi32(end[3], 16));
#pragma GCC unroll 16
    for (unsigned int g = 0; g < 16; g++) {
        __m512i scale = _mm512_srai_epi32(_mm512_slli_epi32(s[g / 4], 24 - g % 4 * 8), 24);

        _mm512_store_ps(w[g / 2].scale[g % 2], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
    }
}

static bool is_super(kern_type type)
{
    return type == KERN_Q4_K || type == KERN_Q5_K || type == KERN_Q6_K;
}

X86_VNNI X86_INLINE void unpack_super(kern_type type, sixteen w[8],
                                      const uint8_t *const row[16], size_t at)
{
    if (type == KERN_Q6_K) {
        unpack_q6_k_scales(w, row, at);
    } else {
        unpack_six_bits(w, row, at);
    }
    for (size_t k = 0; k < 8; k += 4) {
        if (type == KERN_Q4_K) {
            unpack_q4_k(w, row, at, k);
        } else if (type == KERN_Q5_K) {
            unpack_q5_k(w, row, at, k);
        } else {
            unpack_q6_k(w, row, at, k);
        }
    }
}

/* --- the product --- */

/* One product under way. */
typedef struct {
    const uint8_t *row; /* the first */
    size_t row_bytes;
    size_t rows;
    size_t cols;
    const block *x; /* [n][cols / 32] */
    size_t n;
    workspace *ws;
    float *y;
    size_t ldy;
} product;

/* blocks of 32 columns of sixteen rows from r on; what is no row is the last one again. */
X86_VNNI X86_INLINE void unpack(kern_type type, const product *p, sixteen *w, size_t r,
                                size_t c, size_t blocks)
{
    size_t in_one = is_super(type) ? 8 : 1;
    size_t bytes = cpu_row_bytes(type, 32 * in_one), at = c / 32 / in_one * bytes;
    const uint8_t *row[16];

    for (size_t i = 0; i < 16; i++) {
        row[i] = p->row + (r + i < p->rows ? r + i : p->rows - 1) * p->row_bytes;
    }
    for (size_t b = 0; b < blocks; b += in_one, at += bytes) {
        if (type == KERN_Q8_0) {
            unpack_q8_0(w + b, row, at);
        } else if (type == KERN_Q4_0) {
            unpack_q4_0(w + b, row, at);
        } else {
            unpack_super(type, w + b, row, at);
        }
    }
}

X86_VNNI X86_INLINE __m512i broadcast(const void *p)
{
    int32_t v;

    memcpy(&v, p, sizeof(v));
    return _mm512_set1_epi32(v);
}

/* What the sum of products with q starts as. */
X86_VNNI X86_INLINE __m512i start(kern_type type, const block *x, size_t half)
{
    switch (type) {
    case KERN_Q8_0:
        return _mm512_slli_epi32(broadcast(&x->minus[0]), 7);
    case KERN_Q4_0:
        return _mm512_slli_epi32(broadcast(&x->minus[0]), 3);
    case KERN_Q6_K:
        return _mm512_slli_epi32(broadcast(&x->minus[1 + half]), 5);
    default:
        return _mm512_setzero_si512();
    }
}

/* 32 columns of 32 rows with nt tokens, apart blocks from each other; of Q6_K half of them */
X86_VNNI X86_INLINE void add_half(kern_type type, size_t nt, __m512 total[TOKENS][2],
                                  const sixteen *w, const block *x, size_t apart, size_t half)
{
    size_t first = 4 * half, steps = type == KERN_Q6_K ? 4 : 8;
    __m512i sum[TOKENS][2];

#pragma GCC unroll 4
    for (size_t t = 0; t < nt; t++) {
        sum[t][0] = sum[t][1] = start(type, x + t * apart, half);
    }
#pragma GCC unroll 8
    for (size_t k = first; k < first + steps; k++) {
        __m512i w0 = _mm512_load_si512(w->q[k]), w1 = _mm512_load_si512(w[BLOCKS].q[k]);

#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            __m512i q = broadcast(x[t * apart].q + 4 * k);

            sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, q);
            sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, q);
        }
    }
#pragma GCC unroll 2
    for (size_t g = 0; g < 2; g++) {
        __m512 scale = _mm512_load_ps(w[g * BLOCKS].scale[half]);

#pragma GCC unroll 4
        for (size_t t = 0; t < nt; t++) {
            const block *b = x + t * apart;
            __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(b->d));

            total[t][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][g]), both, total[t][g]);
            if (type == KERN_Q4_K || type == KERN_Q5_K) {
                total[t][g] = _mm512_fnmadd_ps(_mm512_load_ps(w[g * BLOCKS].min),
                                               _mm512_set1_ps(b->sum), total[t][g]);
            }
        }
    }
}

/* nt tokens from t on with the columns that are unpacked, from c on, of rows from r on */
X86_VNNI X86_INLINE void add_tokens(kern_type type, size_t nt, const product *p, size_t r,
                                    size_t c, size_t t)
{
    size_t apart = blocks_from(c, p->cols), end = c + 32 * apart;
    const block *x = p->x + block_at(p->n, p->cols, t, c);
    const sixteen *w = p->ws->weights[0];
    __m512 total[TOKENS][2];

#pragma GCC unroll 4
    for (size_t i = 0; i < nt; i++) {
        for (size_t g = 0; g < 2; g++) {
            total[i][g] =
                c == 0 ? _mm512_setzero_ps() : _mm512_load_ps(p->ws->totals[t + i][g]);
        }
    }
    for (; c < end; c += 32, x++, w++) {
        add_half(type, nt, total, w, x, apart, 0);
        if (type == KERN_Q6_K) {
            add_half(type, nt, total, w, x, apart, 1);
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < nt; i++) {
        for (size_t g = 0; g < 2; g++) {
            size_t at = r + 16 * g, left = p->rows - (at < p->rows ? at : p->rows);

            if (end < p->cols) {
                _mm512_store_ps(p->ws->totals[t + i][g], total[i][g]);
            } else if (left > 0) {
                _mm512_mask_storeu_ps(p->y + (t + i) * p->ldy + at,
                                      (__mmask16)(left < 16 ? (1u << left) - 1 : 0xffff),
                                      total[i][g]);
            }
        }
    }
}

/* Tells the memory about the 32 rows behind these, which lie in one piece: for each TOKENS
 * about as many bytes of it as they are of all tokens and columns. */
X86_VNNI X86_INLINE void read_ahead(const product *p, size_t r, size_t c, size_t t)
{
    const uint8_t *next = p->row + (r + ROWS) * p->row_bytes;
    size_t all = ROWS * p->row_bytes * blocks_from(c, p->cols) / (p->cols / 32);
    size_t from = ROWS * p->row_bytes / (p->cols / 32) * (c / 32);

    for (size_t at = all * t / p->n; at < all * (t + TOKENS) / p->n && r + 2 * ROWS <= p->rows;
         at += 64) {
        _mm_prefetch((const char *)next + from + at, _MM_HINT_T1);
    }
}

X86_VNNI X86_INLINE void multiply_depth(kern_type type, const product *p, size_t r, size_t c)
{
    size_t depth = p->cols - c < DEPTH ? p->cols - c : DEPTH, t = 0;

    for (size_t g = 0; g < 2; g++) {
        unpack(type, p, p->ws->weights[g], r + 16 * g, c, depth / 32);
    }
    for (; t + TOKENS <= p->n; t += TOKENS) {
        read_ahead(p, r, c, t);
        add_tokens(type, TOKENS, p, r, c, t);
    }
    switch (p->n - t) {
    case 3:
        add_tokens(type, 3, p, r, c, t);
        break;
    case 2:
        add_tokens(type, 2, p, r, c, t);
        break;
    case 1:
        add_tokens(type, 1, p, r, c, t);
        break;
    default:
        break;
    }
}

X86_VNNI X86_INLINE void multiply_all(kern_type type, const product *p)
{
    for (size_t r = 0; r < p->rows; r += ROWS) {
        for (size_t c = 0; c < p->cols; c += DEPTH) {
            multiply_depth(type, p, r, c);
        }
    }
}

#define CASE(type)                                                                             \
    case type:                                                                                 \
        multiply_all(type, &p);                                                                \
        break

X86_VNNI static void multiply(kern_type type, float *y, size_t ldy, const uint8_t *row,
                              size_t rows, const void *x, size_t n, size_t cols,
                              uint8_t *scratch)
{
    const product p = {
        .row = row,
        .row_bytes = cpu_row_bytes(type, cols),
        .rows = rows,
        .cols = cols,
        .x = x,
        .n = n,
        .ws = (workspace *)(void *)scratch,
        .y = y,
        .ldy = ldy,
    };

    switch (type) {
        CASE(KERN_Q8_0);
        CASE(KERN_Q4_0);
        CASE(KERN_Q4_K);
        CASE(KERN_Q5_K);
        CASE(KERN_Q6_K);
    default:
        break;
    }
}

const cpu_tile cpu_tile_vnni = {
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
            [KERN_Q6_K] = 3,
        },
};

#endif
