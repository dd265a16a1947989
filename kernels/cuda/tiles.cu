/*
 * Attention of many tokens of a sequence by tensor cores: a block has 64 queries of one head, a
 * warp sixteen of them. Keys and values come to the block in tiles, which begin at the same
 * tokens for every query; the products with the keys, in registers, are what the values are
 * multiplied with next. Queries, keys, values and shares are f16, sums f32.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/weights.h"

#define WARPS   4
#define THREADS (WARPS * 32)

struct tiles_job : attention_job {
    const uint32_t *tile, *of_tile;
};

/* Keys or values of a tile, as words; rows are longer than they need be, so that eight of them
 * lie in different banks. */
template <int D, int TOKENS> struct shared_tile {
    uint4 rows[TOKENS][D / 8 + 1];

    __device__ uint32_t word(uint32_t token, uint32_t i) const
    {
        return ((const uint32_t *)rows[token])[i];
    }
};

/* A query's running maximum and sum, and which tokens it sees. */
struct query {
    uint32_t row; /* of the batch */
    bool valid;
    uint32_t from, end;
    float maximum, sum, rescale;
};

__device__ static query query_at(const tiles_job &j, uint32_t i)
{
    uint32_t n = j.of_tile[blockIdx.x];
    query q;

    q.valid = i < n;
    q.row = j.tile[blockIdx.x] + least(i, n - 1);
    q.from = window_first(j.pos[q.row], j.window);
    q.end = j.end[q.row];
    q.maximum = -INFINITY;
    q.sum = 0;
    return q;
}

/* Two neighbours of a query's head. */
__device__ static uint32_t query_word(const tiles_job &j, const query &q, uint32_t d)
{
    const float *at =
        j.q + ((uint64_t)q.row * j.n_heads + blockIdx.y) * j.from.shape.head_dim + d;

    return d < j.from.shape.head_dim ? two_halves(at[0] * j.scale, at[1] * j.scale) : 0;
}

template <int D, int TOKENS>
__device__ static void load(const tiles_job &j, shared_tile<D, TOKENS> *t, uint32_t which,
                            uint32_t row, uint32_t token, uint32_t end)
{
    const uint32_t *pages = j.pages + j.first[row];
    uint32_t head = blockIdx.y / j.group;

    for (uint32_t i = threadIdx.x; i < TOKENS * (D / 8); i += THREADS) {
        uint32_t at = token + i / (D / 8), d = i % (D / 8) * 8;
        uint4 v = {0, 0, 0, 0};

        if (at < end && d < j.from.shape.head_dim) {
            v = read16(j.from.kv +
                       kv_at(j.from.shape, pages, j.base[row] + at, j.from.layer, which, head) +
                       d);
        }
        t->rows[i / (D / 8)][d / 8] = v;
    }
}

/* Products of a warp's queries with the keys, eight tokens at a time. */
template <int D, int TOKENS>
__device__ static void scores(const shared_tile<D, TOKENS> &keys, const uint32_t q[D / 16][4],
                              float s[TOKENS / 8][4])
{
    uint32_t lane = threadIdx.x % 32;

#pragma unroll
    for (uint32_t n = 0; n < TOKENS / 8; n++) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (uint32_t k = 0; k < D / 16; k++) {
            uint32_t at = k * 8 + lane % 4;
            const uint32_t b[2] = {keys.word(n * 8 + lane / 4, at),
                                   keys.word(n * 8 + lane / 4, at + 4)};

            multiply_tiles(s[n], q[k], b);
        }
    }
}

/* Scores of one query, which four lanes have, become shares of what there is so far. half: 0
 * or 2, which of a lane's two queries. */
template <int TOKENS>
__device__ static void softmax(const tiles_job &j, query *q, uint32_t token, uint32_t half,
                               float s[TOKENS / 8][4])
{
    uint32_t lane = threadIdx.x % 32;
    float highest = -INFINITY, sum = 0;

#pragma unroll
    for (uint32_t i = 0; i < TOKENS / 4; i++) {
        uint32_t at = token + i / 2 * 8 + lane % 4 * 2 + i % 2;
        float *x = &s[i / 2][half + i % 2];

        *x = j.cap != 0 ? j.cap * tanhf(*x / j.cap) : *x;
        *x = at >= q->from && at < q->end ? *x : -INFINITY;
        highest = fmaxf(highest, *x);
    }
    float now = fmaxf(q->maximum, lanes_max<4>(highest));
    float zero = now == -INFINITY ? 0 : now; /* it has seen nothing so far */
    q->rescale = expf(q->maximum - zero);
    q->maximum = now;
#pragma unroll
    for (uint32_t i = 0; i < TOKENS / 4; i++) {
        float *x = &s[i / 2][half + i % 2];

        *x = expf(*x - zero);
        sum += *x;
    }
    q->sum = q->sum * q->rescale + lanes_sum<4>(sum);
}

/* out += shares * values. */
template <int D, int TOKENS>
__device__ static void add_values(const shared_tile<D, TOKENS> &values,
                                  const float s[TOKENS / 8][4], float out[D / 8][4])
{
    uint32_t lane = threadIdx.x % 32, shift = lane / 4 % 2 * 16;

#pragma unroll
    for (uint32_t k = 0; k < TOKENS / 16; k++) {
        const float *low = s[2 * k], *high = s[2 * k + 1];
        const uint32_t a[4] = {two_halves(low[0], low[1]), two_halves(low[2], low[3]),
                               two_halves(high[0], high[1]), two_halves(high[2], high[3])};

#pragma unroll
        for (uint32_t n = 0; n < D / 8; n++) {
            uint32_t token = k * 16 + lane % 4 * 2, at = n * 4 + lane / 8, b[2];

#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                uint32_t v0 = values.word(token + i * 8, at) >> shift;
                uint32_t v1 = values.word(token + i * 8 + 1, at) >> shift;

                b[i] = (v0 & 0xffff) | v1 << 16;
            }
            multiply_tiles(out[n], a, b);
        }
    }
}

template <int D>
__device__ static void keep(const tiles_job &j, const query &q, uint32_t half,
                            const float out[D / 8][4])
{
    uint32_t head_dim = j.from.shape.head_dim;
    float *to = j.out + ((uint64_t)q.row * j.n_heads + blockIdx.y) * head_dim;

#pragma unroll
    for (uint32_t n = 0; n < D / 8; n++) {
        uint32_t d = n * 8 + threadIdx.x % 4 * 2;

        if (q.valid && d < head_dim) {
            to[d] = out[n][half] / q.sum;
            to[d + 1] = out[n][half + 1] / q.sum;
        }
    }
}

/* Blocks: (tile, head). */
template <int D, int TOKENS>
__global__ void __launch_bounds__(THREADS) attend_tiles(const __grid_constant__ tiles_job j)
{
    __shared__ shared_tile<D, TOKENS> keys, values;
    uint32_t lane = threadIdx.x % 32, i = threadIdx.x / 32 * 16 + lane / 4;
    query a = query_at(j, i), b = query_at(j, i + 8);
    uint32_t row = j.tile[blockIdx.x], last = row + j.of_tile[blockIdx.x] - 1;
    uint32_t token = window_first(j.pos[row], j.window) / TOKENS * TOKENS, end = j.end[last];
    uint32_t q[D / 16][4];
    float out[D / 8][4] = {{0}}, s[TOKENS / 8][4];

#pragma unroll
    for (uint32_t k = 0; k < D / 16; k++) {
        uint32_t d = k * 16 + lane % 4 * 2;

        q[k][0] = query_word(j, a, d);
        q[k][1] = query_word(j, b, d);
        q[k][2] = query_word(j, a, d + 8);
        q[k][3] = query_word(j, b, d + 8);
    }
    for (; token < end; token += TOKENS) {
        load(j, &keys, KV_KEYS, row, token, end);
        load(j, &values, KV_VALUES, row, token, end);
        __syncthreads();
        scores<D, TOKENS>(keys, q, s);
        softmax<TOKENS>(j, &a, token, 0, s);
        softmax<TOKENS>(j, &b, token, 2, s);
#pragma unroll
        for (uint32_t n = 0; n < D / 8; n++) {
            out[n][0] *= a.rescale, out[n][1] *= a.rescale;
            out[n][2] *= b.rescale, out[n][3] *= b.rescale;
        }
        add_values<D, TOKENS>(values, s, out);
        __syncthreads();
    }
    keep<D>(j, a, 0, out);
    keep<D>(j, b, 2, out);
}

void tiles_run(kern_model *m, const attention_job &of)
{
    const kern_config *c = &m->config;
    dim3 grid(m->rows.n_tiles, c->n_heads), block(THREADS);
    const tiles_job j = {of, m->rows.tile, m->rows.of_tile};

    if (c->head_dim <= 64) {
        LAUNCH((attend_tiles<64, 64>), grid, block, m->dev->stream, j);
    } else if (c->head_dim <= 128) {
        LAUNCH((attend_tiles<128, 64>), grid, block, m->dev->stream, j);
    } else {
        LAUNCH((attend_tiles<256, 32>), grid, block, m->dev->stream, j);
    }
}
