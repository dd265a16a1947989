/*
 * The operations of the CPU back end, every version that the machine has, against float64:
 * products with packed weights in integers and in tiles, attention in tiles, softmax and
 * SwiGLU. Odd shapes, and what is not a number stays so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/ops.h"
#include "quant_ref.h"

/* Aligned as the back end's scratch is. */
static void *scratch(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) & ~(size_t)63);
}

static void random_floats(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)ref_uniform(&seed);
    }
}

/* Activations as quantize says it rounds them: to 127 steps of the largest of each 32. */
static double rounded(const float *x, size_t i)
{
    const float *block = x + i / 32 * 32;
    float most = 0;

    for (size_t j = 0; j < 32; j++) {
        most = fmaxf(most, fabsf(block[j]));
    }
    return most > 0 ? nearbyint((double)(x[i] * (127 / most))) * (double)(most / 127) : 0;
}

/* Products whose activations are rounded so, and nothing else: what is left are sums in f32. */
static void check_rounded(const kern_tensor *w, const float *x, const float *y, size_t tokens)
{
    size_t row_bytes = cpu_row_bytes(w->type, w->cols);
    double *xr = malloc(w->cols * sizeof(*xr));

    for (size_t i = 0; i < tokens * w->rows; i++) {
        const uint8_t *row = (const uint8_t *)w->data + i % w->rows * row_bytes;
        double want = 0, size = 0;

        for (size_t c = 0; c < w->cols && i % w->rows == 0; c++) {
            xr[c] = rounded(x + i / w->rows * w->cols, c);
        }
        for (size_t c = 0; c < w->cols; c++) {
            double v = ref_weight(w->type, row, c) * xr[c];

            want += v;
            size += fabs(v);
        }
        if (!(fabs(y[i] - want) <= 2e-5 * size)) {
            fail_msg("%s, %u rows, %zu tokens, %u columns: %g, not %g", ref_type_name[w->type],
                     w->rows, tokens, w->cols, (double)y[i], want);
        }
    }
    free(xr);
}

static void one_integer_product(const cpu_dot *dot, kern_type type, size_t rows, size_t tokens,
                                size_t cols)
{
    uint64_t seed = rows * 1000 + tokens * 100 + cols;
    kern_tensor w = ref_tensor(type, (uint32_t)rows, (uint32_t)cols, &seed);
    size_t bytes = dot->vector_bytes(cols);
    float *x = malloc(tokens * cols * sizeof(*x)), *y = malloc(tokens * rows * sizeof(*y));
    uint8_t *packed = scratch(tokens * bytes);

    random_floats(x, tokens * cols, seed);
    for (size_t t = 0; t < tokens; t++) {
        dot->quantize(packed + t * bytes, x + t * cols, cols);
    }
    dot->rows[type](y, rows, w.data, rows, packed, tokens, cols);
    check_rounded(&w, x, y, tokens);
    free((void *)w.data);
    free(x);
    free(y);
    free(packed);
}

static void integer_products(void **state)
{
    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int type = 0; type < KERN_N_TYPES && (*o)->integers != NULL; type++) {
            size_t block, bytes;

            if ((*o)->integers->rows[type] == NULL) {
                continue;
            }
            cpu_block((kern_type)type, &block, &bytes);
            for (size_t tokens = 1; tokens <= 7; tokens++) {
                one_integer_product((*o)->integers, (kern_type)type, tokens, tokens, block);
                one_integer_product((*o)->integers, (kern_type)type, 33, tokens, 3 * block);
            }
        }
    }
}

/* y = w x in tiles. */
static void multiply(const cpu_tile *tile, const kern_tensor *w, const float *x, size_t tokens,
                     float *y)
{
    uint8_t *packed = scratch((tokens + 15) / 16 * 16 * tile->packed_bytes(w->cols));
    uint8_t *room = scratch(tile->scratch_bytes(tokens));

    for (size_t t = 0; t < tokens; t += 16) {
        tile->pack(packed, x, t, tokens, w->cols);
    }
    tile->multiply(w->type, y, w->rows, w->data, w->rows, packed, tokens, w->cols, room);
    free(packed);
    free(room);
}

/* What two products let through, prepared for the next, is what it becomes by way of floats. */
static void one_gated_product(const cpu_ops *ops, kern_type type, size_t tokens, size_t cols)
{
    enum { ROWS = TILE_ROWS / 2 + 32 };
    uint64_t seed = tokens * 100 + cols;
    kern_tensor gate = ref_tensor(type, ROWS, (uint32_t)cols, &seed);
    kern_tensor up = ref_tensor(type, ROWS, (uint32_t)cols, &seed);
    const cpu_gated gated = {&gate, &up, ops->swiglu};
    const cpu_tile *tile = ops->tiles;
    size_t sixteens = (tokens + 15) / 16 * 16, bytes = sixteens * tile->packed_bytes(ROWS);
    float *x = malloc(tokens * cols * sizeof(*x)), *g = malloc(tokens * ROWS * sizeof(*g));
    float *u = malloc(tokens * ROWS * sizeof(*u));
    uint8_t *packed = scratch(sixteens * tile->packed_bytes(cols));
    uint8_t *want = scratch(bytes), *got = scratch(bytes);
    uint8_t *room = scratch(tile->scratch_bytes(tokens));

    random_floats(x, tokens * cols, seed);
    multiply(tile, &gate, x, tokens, g);
    multiply(tile, &up, x, tokens, u);
    ops->swiglu(g, u, tokens * ROWS);
    for (size_t t = 0; t < tokens; t += 16) {
        tile->pack(packed, x, t, tokens, cols);
        tile->pack(want, g, t, tokens, ROWS);
    }
    tile->multiply_gated(&gated, 0, TILE_ROWS / 2, got, packed, tokens, room);
    tile->multiply_gated(&gated, TILE_ROWS / 2, 32, got, packed, tokens, room);
    assert_memory_equal(got, want, bytes);
    free((void *)gate.data);
    free((void *)up.data);
    free(x);
    free(g);
    free(u);
    free(packed);
    free(want);
    free(got);
    free(room);
}

static void gated_products(void **state)
{
    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int type = 0; type < KERN_N_TYPES && (*o)->tiles != NULL; type++) {
            if ((*o)->tiles->from[type] > 0) {
                one_gated_product(*o, (kern_type)type, 16, 256);
                one_gated_product(*o, (kern_type)type, 37, 512);
                one_gated_product(*o, (kern_type)type, TILE_TOKENS, 256);
            }
        }
    }
}

static void one_tile_product(const cpu_tile *tile, kern_type type, size_t rows, size_t tokens,
                             size_t cols)
{
    uint64_t seed = rows * 1000 + tokens * 100 + cols;
    kern_tensor w = ref_tensor(type, (uint32_t)rows, (uint32_t)cols, &seed);
    size_t row_bytes = cpu_row_bytes(type, cols);
    float *x = malloc(tokens * cols * sizeof(*x)), *y = malloc(tokens * rows * sizeof(*y));
    double error = 0, size = 0;

    random_floats(x, tokens * cols, seed);
    multiply(tile, &w, x, tokens, y);
    for (size_t i = 0; i < tokens * rows; i++) {
        const uint8_t *row = (const uint8_t *)w.data + i % rows * row_bytes;
        double want = 0;

        for (size_t c = 0; c < cols; c++) {
            want += ref_weight(type, row, c) * (double)x[i / rows * cols + c];
            size += pow(ref_weight(type, row, c) * (double)x[i / rows * cols + c], 2);
        }
        error += (y[i] - want) * (y[i] - want);
    }
    /* each product is rounded twice, by at most 2^-8 and on average by much less */
    if (!(sqrt(error / size) <= 0.004)) {
        fail_msg("%s, %zu rows, %zu tokens, %zu columns: off by %g", ref_type_name[type], rows,
                 tokens, cols, sqrt(error / size));
    }
    free((void *)w.data);
    free(x);
    free(y);
}

/* The same bytes, behind which there is nothing that may be read. */
static kern_tensor at_the_end(const kern_tensor *w, void **map, size_t *size)
{
    size_t bytes = w->rows * cpu_row_bytes(w->type, w->cols), page = 4096;
    kern_tensor end = *w;

    *size = (bytes + page - 1) / page * page + page;
    *map = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(*map != MAP_FAILED);
    end.data = memcpy((uint8_t *)*map + *size - page - bytes, w->data, bytes);
    assert_int_equal(mprotect((uint8_t *)*map + *size - page, page, PROT_NONE), 0);
    return end;
}

/* Each token's products are the same to the last bit when it is alone. */
static void one_int_tile_product(const cpu_tile *tile, kern_type type, size_t rows,
                                 size_t tokens, size_t cols)
{
    uint64_t seed = rows * 1000 + tokens * 100 + cols;
    kern_tensor w = ref_tensor(type, (uint32_t)rows, (uint32_t)cols, &seed), end;
    float *x = malloc(tokens * cols * sizeof(*x)), *y = malloc(tokens * rows * sizeof(*y));
    float *alone = malloc(rows * sizeof(*alone));
    size_t size;
    void *map;

    end = at_the_end(&w, &map, &size);
    random_floats(x, tokens * cols, seed);
    multiply(tile, &end, x, tokens, y);
    check_rounded(&w, x, y, tokens);
    for (size_t t = 0; t < tokens; t++) {
        multiply(tile, &end, x + t * cols, 1, alone);
        assert_memory_equal(alone, y + t * rows, rows * sizeof(*alone));
    }
    munmap(map, size);
    free((void *)w.data);
    free(x);
    free(y);
    free(alone);
}

static void int_tile_products(void **state)
{
    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int type = 0; type < KERN_N_TYPES && (*o)->int_tiles != NULL; type++) {
            const cpu_tile *tile = (*o)->int_tiles;
            size_t block, bytes;

            if (tile->from[type] == 0) {
                continue;
            }
            cpu_block((kern_type)type, &block, &bytes);
            for (size_t tokens = 1; tokens <= 48; tokens += tokens < 15 ? 7 : 3) {
                one_int_tile_product(tile, (kern_type)type, tokens, tokens, block);
            }
            one_int_tile_product(tile, (kern_type)type, 5, 100, 17 * block);
            for (size_t cols = block; cols <= 17 * block; cols += 8 * block) {
                one_int_tile_product(tile, (kern_type)type, 15, 3, cols);
                one_int_tile_product(tile, (kern_type)type, 16, 16, cols);
                one_int_tile_product(tile, (kern_type)type, 33, 17, cols);
                one_int_tile_product(tile, (kern_type)type, 49, 48, cols);
            }
        }
    }
}

/* As far from nothing as a type's small integers go, all of them. */
static void largest_weights(kern_tensor *w)
{
    static const struct {
        size_t from, to;
        int byte;
    } at[KERN_N_TYPES] = {
        [KERN_Q8_0] = {2, Q8_0_BYTES, 0x80},  [KERN_Q4_0] = {2, Q4_0_BYTES, 0xff},
        [KERN_Q4_K] = {16, Q4_K_BYTES, 0xff}, [KERN_Q5_K] = {16, Q5_K_BYTES, 0xff},
        [KERN_Q6_K] = {0, 192, 0xff},
    };
    size_t weights, bytes;

    cpu_block(w->type, &weights, &bytes);
    for (size_t i = 0; i < w->rows * w->cols / weights; i++) {
        memset((uint8_t *)w->data + i * bytes + at[w->type].from, at[w->type].byte,
               at[w->type].to - at[w->type].from);
    }
}

/* Nothing is too large for the registers it is added up in. */
static void largest_products(void **state)
{
    enum { ROWS = 17, TOKENS = 5, COLS = 512 };
    static float x[TOKENS * COLS], y[TOKENS * ROWS];
    uint64_t seed = 3;

    (void)state;
    for (size_t i = 0; i < TOKENS * COLS; i++) {
        x[i] = i / COLS == 0 || (i / COLS == 1 && i % 8 < 4) ? -1 : 1;
    }
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int type = KERN_Q8_0; type <= KERN_Q6_K; type++) {
            const cpu_dot *dot = (*o)->integers;
            kern_tensor w = ref_tensor((kern_type)type, ROWS, COLS, &seed);

            largest_weights(&w);
            if (dot != NULL && dot->rows[type] != NULL) {
                uint8_t *packed = scratch(TOKENS * dot->vector_bytes(COLS));

                for (size_t t = 0; t < TOKENS; t++) {
                    dot->quantize(packed + t * dot->vector_bytes(COLS), x + t * COLS, COLS);
                }
                dot->rows[type](y, ROWS, w.data, ROWS, packed, TOKENS, COLS);
                check_rounded(&w, x, y, TOKENS);
                free(packed);
            }
            if ((*o)->int_tiles != NULL && (*o)->int_tiles->from[type] > 0) {
                multiply((*o)->int_tiles, &w, x, TOKENS, y);
                check_rounded(&w, x, y, TOKENS);
            }
            free((void *)w.data);
        }
    }
}

static void tile_products(void **state)
{
    static const size_t tokens[] = {1, 5, 16, 17, 32, 33, 50, 64};

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (int type = 0; type < KERN_N_TYPES && (*o)->tiles != NULL; type++) {
            size_t block, bytes;

            if ((*o)->tiles->from[type] == 0) {
                continue;
            }
            cpu_block((kern_type)type, &block, &bytes);
            block = block < 32 ? 32 : block;
            for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++) {
                one_tile_product((*o)->tiles, (kern_type)type, 1 + 7 * i, tokens[i], block);
                one_tile_product((*o)->tiles, (kern_type)type, 32, tokens[i], 2 * block);
            }
            one_tile_product((*o)->tiles, (kern_type)type, 100, 40, 9 * block);
        }
    }
}

static uint16_t *random_f16(size_t n, uint64_t seed)
{
    uint16_t *h = malloc(n * sizeof(*h));

    for (size_t i = 0; i < n; i++) {
        h[i] = cpu_f32_to_f16((float)ref_uniform(&seed));
    }
    return h;
}

static double value_of(const cpu_attention *a, const uint16_t *base, size_t t, size_t d)
{
    return cpu_f16_to_f32(
        base[cpu_page_at(a->pages, a->page_stride, t) + t % KERN_PAGE * a->head_dim + d]);
}

typedef struct {
    bool both_ways;
    size_t window;
    float cap;
} kind;

/* Causal in pages, of which the last is the sequence's first, or both ways in one piece. */
static void one_attention(const cpu_attend *attend, kind how, size_t heads, size_t dim,
                          size_t pos, size_t n)
{
    const bool both_ways = how.both_ways;
    size_t q_stride = heads * dim, stride = KERN_PAGE * dim + (both_ways ? 0 : 3);
    size_t all = pos + n, n_pages = (all + KERN_PAGE - 1) / KERN_PAGE;
    float *q = malloc(n * q_stride * sizeof(*q)), *out = malloc(n * q_stride * sizeof(*out));
    uint16_t *k = random_f16(n_pages * stride, 2), *v = random_f16(n_pages * stride, 3);
    uint32_t *pages = malloc(n_pages * sizeof(*pages));
    uint8_t *room = scratch(attend->scratch_bytes(dim));
    double *share = malloc(all * sizeof(*share)), error = 0, size = 0;
    const cpu_attention a = {
        .q = q,
        .out = out,
        .k = k,
        .v = v,
        .pages = both_ways ? NULL : pages,
        .page_stride = stride,
        .q_stride = q_stride,
        .head_dim = dim,
        .n_heads = heads,
        .n = n,
        .pos = pos,
        .window = how.window,
        .both_ways = both_ways,
        .cap = how.cap,
    };

    random_floats(q, n * q_stride, 1);
    for (size_t p = 0; p < n_pages; p++) {
        pages[p] = (uint32_t)(n_pages - 1 - p);
    }
    for (size_t block = 0; block < attend->blocks(n, heads); block++) {
        attend->attend(&a, block, room);
    }
    for (size_t i = 0; i < n * heads; i++) {
        size_t seen = both_ways ? all : pos + i / heads + 1;
        size_t first = how.window > 0 && seen > how.window ? seen - how.window : 0;
        double most = -INFINITY, sum = 0;

        for (size_t t = first; t < seen; t++) {
            share[t] = 0;
            for (size_t d = 0; d < dim; d++) {
                share[t] += (double)q[i * dim + d] * value_of(&a, k, t, d);
            }
            share[t] = how.cap > 0 ? how.cap * tanh(share[t] / how.cap) : share[t];
            most = fmax(most, share[t]);
        }
        for (size_t t = first; t < seen; t++) {
            sum += share[t] = exp(share[t] - most);
        }
        for (size_t d = 0; d < dim; d++) {
            double want = 0;

            for (size_t t = first; t < seen; t++) {
                want += share[t] / sum * value_of(&a, v, t, d);
            }
            error += pow(out[i * dim + d] - want, 2);
            size += want * want;
        }
    }
    if (!(sqrt(error / size) <= 0.01)) {
        fail_msg("%zu heads of %zu, %zu tokens from %zu on, window %zu: off by %g", heads, dim,
                 n, pos, how.window, sqrt(error / size));
    }
    free(q);
    free(out);
    free(k);
    free(v);
    free(pages);
    free(room);
    free(share);
}

/* Windows of one token, of less and of more than a tile, a round of keys and the prompt. */
static void attention_in_tiles(void **state)
{
    static const kind kinds[] = {
        {.both_ways = true}, {.window = 0},   {.window = 1},
        {.window = 20},      {.window = 100}, {.window = 129, .cap = 2},
        {.window = 1000},    {.cap = 1},      {.both_ways = true, .cap = 3},
    };

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        if ((*o)->attend == NULL) {
            continue;
        }
        for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
            one_attention((*o)->attend, kinds[i], 1, 64, 0, 1);
            one_attention((*o)->attend, kinds[i], 4, 64, 0, 33);
            one_attention((*o)->attend, kinds[i], 3, 16, 5, 40);
            one_attention((*o)->attend, kinds[i], 8, 80, 130, 70);
            one_attention((*o)->attend, kinds[i], 1, 128, 300, 20);
            one_attention((*o)->attend, kinds[i], 20, 24, 111, 49);
            one_attention((*o)->attend, kinds[i], 2, 32, 17, 500);
        }
    }
}

/* Of so many vectors with so many rows of f16; each is the same to the last bit when it is
 * alone. */
static void one_product_of_f16(const cpu_ops *ops, const uint16_t *f16, size_t n_rows,
                               size_t n_vectors, size_t cols)
{
    enum { STRIDE = 20, MOST = 9 * 150 };
    const cpu_f16_rows rows = {f16, f16, n_rows, cols};
    float x[MOST], y[MOST], dots[9 * STRIDE], one;

    assert_true(n_rows < STRIDE && n_vectors * cols <= MOST);
    random_floats(x, n_vectors * cols, cols);
    memcpy(y, x, sizeof(y));
    ops->dots_f16(dots, STRIDE, &rows, x, n_vectors);
    ops->sums_f16(y, dots, STRIDE, &rows, n_vectors);
    for (size_t j = 0; j < n_vectors; j++) {
        for (size_t r = 0; r < n_rows; r++) {
            const cpu_f16_rows row = {f16 + r * cols, f16, 1, cols};
            double want = 0;

            for (size_t i = 0; i < cols; i++) {
                want += (double)x[j * cols + i] * (double)cpu_f16_to_f32(f16[r * cols + i]);
            }
            assert_float_equal(dots[j * STRIDE + r], want, 1e-4);
            ops->dots_f16(&one, 1, &row, x + j * cols, 1);
            assert_true(one == dots[j * STRIDE + r]);
        }
        for (size_t i = 0; i < cols; i++) {
            double want = (double)x[j * cols + i];

            for (size_t r = 0; r < n_rows; r++) {
                want +=
                    (double)dots[j * STRIDE + r] * (double)cpu_f16_to_f32(f16[r * cols + i]);
            }
            assert_float_equal(y[j * cols + i], want, 1e-4);
        }
    }
}

/* Rows of every length, as many as a page has and less, and any number of vectors. */
static void products_of_f16(void **state)
{
    enum { COLS = 150, ROWS = 17 };
    uint16_t *rows = random_f16(ROWS * COLS, 4);

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (size_t cols = 1; cols <= COLS; cols++) {
            one_product_of_f16(*o, rows, cols % (ROWS + 1), 1 + cols % 9, cols);
            one_product_of_f16(*o, rows, 16, 1 + cols % 8, cols);
        }
    }
    free(rows);
}

/* Every f16 is itself, what is between two is the nearer one, of equals the even one, and
 * nothing becomes infinite. */
static void rounding_to_f16(void **state)
{
    enum { LAST = 0x7bff, N = 5 };

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (uint32_t h = 0; h < LAST; h++) {
            float low = cpu_f16_to_f32((uint16_t)h), high = cpu_f16_to_f32((uint16_t)(h + 1));
            float middle = (low + high) / 2, x[2 * N];
            uint16_t got[2 * N];
            uint32_t want[N] = {h, h, h + (h & 1), h + 1, h + 1};

            x[0] = low;
            x[1] = nextafterf(middle, 0);
            x[2] = middle;
            x[3] = nextafterf(middle, INFINITY);
            x[4] = high;
            for (size_t i = 0; i < N; i++) {
                x[N + i] = -x[i];
            }
            (*o)->to_f16(got, x, 2 * N);
            for (size_t i = 0; i < N; i++) {
                assert_int_equal(got[i], want[i]);
                assert_int_equal(got[N + i], want[i] | 0x8000);
            }
        }
        for (size_t at = 0; at < 20; at++) {
            static const float beyond[] = {65520, 1e6f, INFINITY};
            float x[20] = {0};
            uint16_t got[20];

            for (size_t i = 0; i < 3; i++) {
                x[at] = beyond[i];
                (*o)->to_f16(got, x, 20);
                assert_int_equal(got[at], LAST);
                x[at] = -beyond[i];
                (*o)->to_f16(got, x, 20);
                assert_int_equal(got[at], LAST | 0x8000);
            }
            x[at] = NAN;
            (*o)->to_f16(got, x, 20);
            assert_true(isnan(cpu_f16_to_f32(got[at])));
        }
    }
}

static void functions_of_floats(void **state)
{
    enum { MOST = 70 };
    float x[MOST], gate[MOST], up[MOST], y[MOST], g[MOST], c[MOST];

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (size_t n = 1; n <= MOST; n++) {
            double sum = 0, most = -INFINITY;

            random_floats(gate, n, n);
            random_floats(up, n, n + 1);
            for (size_t i = 0; i < n; i++) {
                gate[i] *= 90;
                most = fmax(most, gate[i]);
            }
            for (size_t i = 0; i < n; i++) {
                sum += exp(gate[i] - most);
            }
            memcpy(x, gate, sizeof(x));
            memcpy(y, gate, sizeof(y));
            memcpy(c, gate, sizeof(c));
            assert_float_equal((*o)->softmax(x, n), most + log(sum), 1e-5);
            (*o)->swiglu(y, up, n);
            (*o)->cap(c, 30, n);
            for (size_t i = 0; i < n; i++) {
                g[i] = gate[i] / 9;
            }
            (*o)->geglu(g, up, n);
            for (size_t i = 0; i < n; i++) {
                double want = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
                double at = gate[i] / 9,
                       odd = sqrt(2 / acos(-1)) * (at + 0.044715 * pow(at, 3));
                double gelu = at / 2 * (1 + tanh(odd)) * up[i];

                assert_float_equal(x[i], exp(gate[i] - most) / sum, 1e-6);
                assert_true(fabs(y[i] - want) <= 1e-6 * fabs(want) + 1e-30);
                assert_true(fabs(g[i] - gelu) <= 4e-6 * fabs(gelu) + 1e-12);
                assert_float_equal(c[i], 30 * tanh(gate[i] / 30.0), 1e-5);
            }
        }
    }
}

static void gelu_and_layer_norm(void **state)
{
    enum { MOST = 70 };
    float x[MOST], gelu[MOST], norm[MOST], weight[MOST], bias[MOST];

    (void)state;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        for (size_t n = 1; n <= MOST; n++) {
            double mean = 0, square = 0;

            random_floats(x, n, n);
            random_floats(weight, n, n + 1);
            random_floats(bias, n, n + 2);
            for (size_t i = 0; i < n; i++) {
                x[i] = x[i] * 10 + 3;
                mean += (double)x[i] / (double)n;
            }
            for (size_t i = 0; i < n; i++) {
                square += pow((double)x[i] - mean, 2) / (double)n;
            }
            memcpy(gelu, x, sizeof(x));
            memcpy(norm, x, sizeof(x));
            (*o)->gelu(gelu, n);
            (*o)->layer_norm(norm, weight, bias, n, 1e-5f);
            for (size_t i = 0; i < n; i++) {
                double v = (double)x[i], want = v * (1 + erf(v / sqrt(2))) / 2;

                assert_true(fabs((double)gelu[i] - want) <= 1e-6 * fabs(v) + 1e-12);
                want = (v - mean) / sqrt(square + 1e-5) * (double)weight[i] + (double)bias[i];
                assert_true(fabs((double)norm[i] - want) <= 1e-5);
            }
        }
    }
}

/* An activation that is not a number must not become one on the way, nor spoil the others. */
static void check_finite(const float y[5])
{
    assert_true(isfinite(y[2]) && !isfinite(y[3]) && !isfinite(y[4]));
}

static void not_a_number_stays_so(void **state)
{
    enum { COLS = 256, TOKENS = 5 };
    static float x[TOKENS * COLS];
    float y[TOKENS];
    uint64_t seed = 1;

    (void)state;
    random_floats(x, TOKENS * COLS, 3);
    x[3 * COLS + 77] = NAN;
    x[4 * COLS + 200] = INFINITY;
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        const cpu_tile *const tiles[] = {(*o)->tiles, (*o)->int_tiles};

        for (int type = 0; type < KERN_N_TYPES && (*o)->integers != NULL; type++) {
            const cpu_dot *dot = (*o)->integers;
            kern_tensor w = ref_tensor((kern_type)type, 1, COLS, &seed);
            uint8_t *packed = scratch(TOKENS * dot->vector_bytes(COLS));

            if (dot->rows[type] != NULL) {
                for (size_t t = 0; t < TOKENS; t++) {
                    dot->quantize(packed + t * dot->vector_bytes(COLS), x + t * COLS, COLS);
                }
                dot->rows[type](y, 1, w.data, 1, packed, TOKENS, COLS);
                check_finite(y);
            }
            for (int i = 0; i < 2; i++) {
                if (tiles[i] != NULL && tiles[i]->from[type] > 0) {
                    multiply(tiles[i], &w, x, TOKENS, y);
                    check_finite(y);
                }
            }
            free((void *)w.data);
            free(packed);
        }
    }
}

/* Nor may the scale of one row's block spoil the rows beside it. */
static void scales_that_are_no_numbers(void **state)
{
    enum { ROWS = 20, COLS = 512, BAD = 17 };
    float x[COLS], y[ROWS];
    uint64_t seed = 2;

    (void)state;
    random_floats(x, COLS, 4);
    for (const cpu_ops *const *o = cpu_ops_usable(); *o != NULL; o++) {
        const cpu_tile *const tiles[] = {(*o)->tiles, (*o)->int_tiles};

        for (int i = 0; i < 2; i++) {
            for (int type = KERN_Q8_0; type <= KERN_Q5_K && tiles[i] != NULL; type++) {
                kern_tensor w = ref_tensor((kern_type)type, ROWS, COLS, &seed);
                uint8_t *bad = (uint8_t *)w.data + BAD * cpu_row_bytes(w.type, COLS);

                memcpy(bad, "\xff\x7f", 2); /* the f16 that each begins with */
                multiply(tiles[i], &w, x, 1, y);
                for (size_t r = 0; r < ROWS; r++) {
                    assert_int_equal(isfinite(y[r]) != 0, r != BAD);
                }
                free((void *)w.data);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_products),      cmocka_unit_test(tile_products),
        cmocka_unit_test(int_tile_products),     cmocka_unit_test(scales_that_are_no_numbers),
        cmocka_unit_test(gated_products),        cmocka_unit_test(attention_in_tiles),
        cmocka_unit_test(functions_of_floats),   cmocka_unit_test(products_of_f16),
        cmocka_unit_test(rounding_to_f16),       cmocka_unit_test(gelu_and_layer_norm),
        cmocka_unit_test(not_a_number_stays_so), cmocka_unit_test(largest_products),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
