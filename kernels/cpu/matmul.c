/*
 * Products of the batch with matrices, in the best of four ways that the weights' type, the
 * machine and the number of tokens allow:
 *
 *   floats     rows of weights become floats, sums are f32: F32 always, F16 but for encode, and
 *              whatever the machine has nothing better for. Nothing is rounded but the sums.
 *   integers   packed weights, few tokens: activations rounded to eight bits by 32
 *   int tiles  packed weights, some tokens, or, without the next, many: the same rounding
 *   tiles      packed weights, BF16 and F16, many tokens: both sides rounded to bf16
 *
 * Several matrices that multiply the same activations are one loop of the pool. Where a feed
 * forward's three all go in tiles, what its gate lets through never becomes floats in memory:
 * it is prepared for the last product by who has multiplied it.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>

/* Beyond so many tokens tiles of bf16 are faster than those of integers. */
#define INT_TILES_MAX 48

/* Below this many multiply-adds a chunk costs more than it saves. */
#define MIN_CHUNK_MACS ((uint64_t)128 * 1024)

/* Tokens that meet FLOAT_ROWS rows at once. */
#define FLOAT_TOKENS 4

/* Activations that lie in a core's L2 cache and leave room for rows. */
#define FLOATS_CACHED (64 * 1024)

/* Rows of an item, where tiles don't say otherwise. */
#define ROWS 64

/* Rows of an item of two matrices, whose sums share a thread's scratch. */
#define GATED_ROWS (TILE_ROWS / 2)

typedef enum { BY_FLOATS, BY_INTEGERS, BY_INT_TILES, BY_TILES, N_WAYS } way;

typedef struct {
    kern_model *m;
    const float *x;
    uint32_t n;
    const cpu_product *products;
    uint32_t n_products;
    uint32_t unit;   /* rows of an item */
    uint8_t *packed; /* x, prepared for integers or tiles of bf16 */
} job;

bool cpu_in_tiles(const kern_model *m, kern_type type)
{
    const cpu_tile *tiles = m->dev->ops->tiles;

    return tiles != NULL && tiles->from[type] > 0 && (type != KERN_F16 || m->encoding);
}

/* Where there are no tiles of bf16 for the type, of many tokens, too, and to encode of any. */
static bool in_int_tiles(const kern_model *m, kern_type type, uint32_t n)
{
    const cpu_tile *tiles = m->dev->ops->int_tiles;

    if (tiles == NULL || tiles->from[type] == 0) {
        return false;
    }
    if (m->encoding) {
        return !cpu_in_tiles(m, type);
    }
    return n >= tiles->from[type] && (n <= INT_TILES_MAX || !cpu_in_tiles(m, type));
}

static way way_of(const kern_model *m, const kern_tensor *w, uint32_t n)
{
    const cpu_ops *ops = m->dev->ops;

    if (w->cols % 32 == 0 && in_int_tiles(m, w->type, n)) {
        return BY_INT_TILES;
    }
    if (w->cols % 32 == 0 && cpu_in_tiles(m, w->type) && n >= ops->tiles->from[w->type]) {
        return BY_TILES;
    }
    return ops->integers != NULL && ops->integers->rows[w->type] != NULL ? BY_INTEGERS
                                                                         : BY_FLOATS;
}

/* n rows from r on as floats, [n][cols]. */
static const float *some_rows(const cpu_ops *ops, const kern_tensor *w, uint32_t r, uint32_t n,
                              float *scratch)
{
    const float *first = cpu_row(ops, w, r, scratch);

    for (uint32_t i = 1; i < n; i++) {
        cpu_row(ops, w, r + i, scratch + (size_t)i * w->cols);
    }
    return first;
}

/* n rows, r and those that follow, with the tokens [begin, end). */
static void rows_by_floats(const job *j, const cpu_product *p, const float *rows, uint32_t r,
                           uint32_t n, uint32_t begin, uint32_t end)
{
    const cpu_ops *ops = j->m->dev->ops;
    size_t cols = p->w->cols, ldy = p->w->rows;
    uint32_t t = begin;

    for (; n == FLOAT_ROWS && t + FLOAT_TOKENS <= end; t += FLOAT_TOKENS) {
        float out[FLOAT_ROWS][FLOAT_TOKENS];

        ops->dot4x4(out, rows, j->x + t * cols, cols);
        for (uint32_t i = 0; i < FLOAT_TOKENS; i++) {
            for (uint32_t k = 0; k < FLOAT_ROWS; k++) {
                p->y[(t + i) * ldy + r + k] = out[k][i];
            }
        }
    }
    for (; t < end; t++) {
        for (uint32_t i = 0; i < n; i++) {
            p->y[t * ldy + r + i] = ops->dot(rows + i * cols, j->x + t * cols, cols);
        }
    }
}

/* Too few tokens to be worth writing rows down for. */
static void few_by_floats(const job *j, const cpu_product *p, uint32_t begin, uint32_t end,
                          float *scratch)
{
    const cpu_ops *ops = j->m->dev->ops;
    const kern_tensor *w = p->w;
    size_t bytes = cpu_row_bytes(w->type, w->cols);

    for (uint32_t r = begin; r < end; r++) {
        const uint8_t *row = (const uint8_t *)w->data + r * bytes;

        if (ops->dot_row[w->type] == NULL) {
            rows_by_floats(j, p, cpu_row(ops, w, r, scratch), r, 1, 0, j->n);
            continue;
        }
        for (size_t t = 0; t < j->n; t++) {
            p->y[t * w->rows + r] = ops->dot_row[w->type](row, j->x + t * w->cols, w->cols);
        }
    }
}

/* As many tokens at once as stay in the cache while rows pass by. */
static void by_floats(const job *j, const cpu_product *p, uint32_t begin, uint32_t end,
                      uint32_t thread)
{
    float *scratch = cpu_float_rows(j->m, thread);
    uint32_t some = (uint32_t)(FLOATS_CACHED / p->w->cols) / FLOAT_TOKENS * FLOAT_TOKENS;

    if (j->n < FLOAT_TOKENS) {
        few_by_floats(j, p, begin, end, scratch);
        return;
    }
    some = some < FLOAT_TOKENS ? FLOAT_TOKENS : some;
    for (uint32_t t = 0; t < j->n; t += some) {
        uint32_t last = j->n - t < some ? j->n : t + some;

        for (uint32_t r = begin; r < end; r += FLOAT_ROWS) {
            uint32_t n = end - r < FLOAT_ROWS ? end - r : FLOAT_ROWS;

            rows_by_floats(j, p, some_rows(j->m->dev->ops, p->w, r, n, scratch), r, n, t, last);
        }
    }
}

static void by_tiles(const job *j, const cpu_product *p, const cpu_tile *tiles,
                     const uint8_t *packed, uint32_t begin, uint32_t end, uint32_t thread)
{
    const kern_tensor *w = p->w;
    const uint8_t *row =
        (const uint8_t *)w->data + (size_t)begin * cpu_row_bytes(w->type, w->cols);
    uint8_t *scratch = j->m->tiles + thread * j->m->tiles_bytes;

    for (uint32_t t = 0; t < j->n; t += TILE_TOKENS) {
        uint32_t n = j->n - t < TILE_TOKENS ? j->n - t : TILE_TOKENS;

        tiles->multiply(w->type, p->y + (size_t)t * w->rows + begin, w->rows, row, end - begin,
                        packed + t * tiles->packed_bytes(w->cols), n, w->cols, scratch);
    }
}

static void rows_of(const job *j, const cpu_product *p, uint32_t begin, uint32_t end,
                    uint32_t thread)
{
    const kern_tensor *w = p->w;
    const cpu_ops *ops = j->m->dev->ops;
    size_t bytes = cpu_row_bytes(w->type, w->cols);

    switch (way_of(j->m, w, j->n)) {
    case BY_FLOATS:
        by_floats(j, p, begin, end, thread);
        break;
    case BY_INTEGERS:
        ops->integers->rows[w->type](p->y + begin, w->rows,
                                     (const uint8_t *)w->data + begin * bytes, end - begin,
                                     j->packed, j->n, w->cols);
        break;
    case BY_INT_TILES:
        by_tiles(j, p, ops->int_tiles, j->m->packed_int, begin, end, thread);
        break;
    case BY_TILES:
        by_tiles(j, p, ops->tiles, j->packed, begin, end, thread);
        break;
    case N_WAYS:
        break;
    }
}

static uint32_t units(const job *j, uint32_t rows)
{
    return (rows + j->unit - 1) / j->unit;
}

/* Items are units of rows, of one matrix after the other. */
static void items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;

    for (uint32_t i = 0; i < j->n_products && begin < end; i++) {
        const cpu_product *p = &j->products[i];
        uint32_t n = units(j, p->w->rows);

        for (; begin < n && begin < end; begin++) {
            uint32_t from = begin * j->unit, left = p->w->rows - from;

            rows_of(j, p, from, from + (left < j->unit ? left : j->unit), thread);
        }
        begin = begin > n ? begin - n : 0;
        end = end > n ? end - n : 0;
    }
}

static void quantize_tokens(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;
    const cpu_dot *dot = j->m->dev->ops->integers;
    size_t cols = j->products[0].w->cols, bytes = dot->vector_bytes(cols);

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        dot->quantize(j->packed + t * bytes, j->x + t * cols, cols);
    }
}

static void pack_sixteen(const job *j, const cpu_tile *tiles, uint8_t *packed, size_t t)
{
    size_t cols = j->products[0].w->cols, block = t / TILE_TOKENS * TILE_TOKENS;
    size_t n = j->n - block;

    tiles->pack(packed + block * tiles->packed_bytes(cols), j->x + block * cols, t - block,
                n < TILE_TOKENS ? n : TILE_TOKENS, cols);
}

/* Items are sixteen tokens. */
static void pack_tokens(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        pack_sixteen(j, j->m->dev->ops->tiles, j->packed, i * 16);
    }
}

static void pack_int_tokens(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const job *j = arg;

    (void)thread;
    for (size_t i = begin; i < end; i++) {
        pack_sixteen(j, j->m->dev->ops->int_tiles, j->m->packed_int, i * 16);
    }
}

/* As much of the activations as the ways need. Tiles of bf16 and integers don't meet in one
 * batch: what integers can, tiles can. */
static void prepare(job *j, const bool by[N_WAYS])
{
    if (by[BY_INT_TILES]) {
        cpu_pool_run(j->m->dev->pool, (j->n + 15) / 16, 1, pack_int_tokens, j);
    }
    if (by[BY_TILES]) {
        cpu_pool_run(j->m->dev->pool, (j->n + 15) / 16, 1, pack_tokens, j);
    } else if (by[BY_INTEGERS]) {
        cpu_pool_run(j->m->dev->pool, j->n, 8, quantize_tokens, j);
    }
}

static void ways_of(const job *j, bool by[N_WAYS])
{
    for (uint32_t i = 0; i < j->n_products; i++) {
        assert(j->products[i].w->cols == j->products[0].w->cols);
        by[way_of(j->m, j->products[i].w, j->n)] = true;
    }
}

/* All products of what was prepared. */
static void multiply(job *j, const bool by[N_WAYS])
{
    cpu_pool *pool = j->m->dev->pool;
    uint32_t cols = j->products[0].w->cols, total = 0, rows = 0;

    for (uint32_t i = 0; i < j->n_products; i++) {
        rows += j->products[i].w->rows;
    }
    j->unit = ROWS;
    if (by[BY_TILES] || by[BY_INT_TILES]) {
        /* the more rows share the activations in the cache the better, but all threads work */
        bool many = rows >= TILE_ROWS * 4 * cpu_pool_size(pool);

        j->unit = many && j->n > 32 ? TILE_ROWS : TILE_ROWS / 2;
    }
    for (uint32_t i = 0; i < j->n_products; i++) {
        total += units(j, j->products[i].w->rows);
    }
    cpu_pool_run(pool, total,
                 (uint32_t)(MIN_CHUNK_MACS / ((uint64_t)cols * j->n * j->unit)) + 1, items, j);
}

void cpu_matmul(kern_model *m, const float *x, uint32_t n, const cpu_product *products,
                uint32_t n_products)
{
    job j = {.m = m,
             .x = x,
             .n = n,
             .products = products,
             .n_products = n_products,
             .packed = m->packed};
    bool by[N_WAYS] = {false};

    ways_of(&j, by);
    prepare(&j, by);
    multiply(&j, by);
}

/* --- gated --- */

typedef struct {
    kern_model *m;
    const cpu_gated *g;
    uint32_t n;
} gated_job;

static void gate_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const gated_job *j = arg;
    size_t ff = j->g->gate->rows;

    (void)thread;
    j->g->act(j->m->gate + begin * ff, j->m->up + begin * ff, (end - begin) * ff);
}

/* Items are GATED_ROWS rows of both matrices. */
static void gated_items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
    const gated_job *j = arg;
    const kern_model *m = j->m;
    const cpu_tile *tiles = m->dev->ops->tiles;
    size_t from = tiles->packed_bytes(j->g->gate->cols);
    size_t to = tiles->packed_bytes(j->g->gate->rows);

    for (uint32_t r = begin * GATED_ROWS; r < end * GATED_ROWS; r += GATED_ROWS) {
        uint32_t left = j->g->gate->rows - r, rows = left < GATED_ROWS ? left : GATED_ROWS;

        for (uint32_t t = 0; t < j->n; t += TILE_TOKENS) {
            uint32_t n = j->n - t < TILE_TOKENS ? j->n - t : TILE_TOKENS;

            tiles->multiply_gated(j->g, r, rows, (uint8_t *)m->gate + t * to,
                                  m->packed + t * from, n, m->tiles + thread * m->tiles_bytes);
        }
    }
}

/* Prepared in sixteens, as many tokens take no more of m->gate than their floats. */
static bool gated_in_tiles(const kern_model *m, const cpu_gated *g, const cpu_product *down,
                           uint32_t n)
{
    return n >= 16 && g->gate->type == g->up->type && way_of(m, g->gate, n) == BY_TILES &&
           way_of(m, down->w, n) == BY_TILES;
}

void cpu_matmul_gated(kern_model *m, const float *x, uint32_t n, const cpu_gated *g,
                      const cpu_product *down)
{
    const cpu_product gate_up[] = {{m->gate, g->gate}, {m->up, g->up}};
    gated_job gated = {.m = m, .g = g, .n = n};
    job before = {
        .m = m, .x = x, .n = n, .products = gate_up, .n_products = 2, .packed = m->packed};
    job after = {.m = m, .n = n, .products = down, .n_products = 1};
    const bool by[N_WAYS] = {[BY_TILES] = true};

    if (!gated_in_tiles(m, g, down, n)) {
        cpu_matmul(m, x, n, gate_up, 2);
        cpu_pool_run(m->dev->pool, n, cpu_row_grain(g->gate->rows), gate_some, &gated);
        cpu_matmul(m, m->gate, n, down, 1);
        return;
    }
    prepare(&before, by);
    cpu_pool_run(m->dev->pool, (g->gate->rows + GATED_ROWS - 1) / GATED_ROWS, 1, gated_items,
                 &gated);
    after.packed = (uint8_t *)m->gate;
    multiply(&after, by);
}
