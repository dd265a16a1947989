/*
 * Attention of each token over the pages of its sequence. A block has one token, the heads that
 * share keys, and a part of the sequence, which it walks in tiles: products with the keys,
 * where eight threads share a token; the running maximum and sum of each head; and the values,
 * where a thread has a column. A long sequence is split into parts, which a second kernel
 * joins, always into the same, so that the sums do not depend on the batch; where it is large a
 * block has several parts.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weights.h"

#define THREADS 128
#define TILE    64 /* tokens */
#define ABREAST 8  /* threads that share a token's product */

/* Blocks that are wanted for a device: there are up to 16 on each of its processors. */
#define BLOCKS 2048

struct attend_job : attention_job {
    float *parts; /* [n][n_heads][SPLITS][head_dim], of sequences with several */
    float *parts_of;
    const uint32_t *rows;
};

/* What the threads of a block share. */
struct attend_shared {
    float q[GROUP_MAX][HEAD_MAX];
    float score[GROUP_MAX][TILE];
    float maximum[GROUP_MAX], sum[GROUP_MAX], rescale[GROUP_MAX];
};

/* Whose keys and values a block is about. */
struct attend_block {
    const uint32_t *pages;
    uint32_t base;
    uint32_t kv_head;
    uint32_t head; /* the first of these */
    uint32_t heads;
};

__device__ static const uint16_t *token_at(const attend_job &j, const attend_block &b,
                                           uint32_t token, uint32_t which)
{
    return j.from.kv +
           kv_at(j.from.shape, b.pages, b.base + token, j.from.layer, which, b.kv_head);
}

/* Products of the tile's tokens with the queries. */
__device__ static void tile_scores(const attend_job &j, const attend_block &b, attend_shared *s,
                                   uint32_t tile, uint32_t end)
{
    uint32_t lane = threadIdx.x % ABREAST;

    for (uint32_t i = threadIdx.x / ABREAST; i < TILE; i += THREADS / ABREAST) {
        uint32_t t = tile + i;
        float dot[GROUP_MAX] = {0};

        if (t < end) {
            const uint16_t *k = token_at(j, b, t, KV_KEYS);

            for (uint32_t d = lane * 8; d < j.from.shape.head_dim; d += ABREAST * 8) {
                uint16_t packed[8];

                unpack_pairs(read16(k + d), packed);
                for (int c = 0; c < 8; c++) {
                    float key = half_value(packed[c]);

#pragma unroll
                    for (uint32_t g = 0; g < GROUP_MAX; g++) {
                        dot[g] += g < b.heads ? s->q[g][d + c] * key : 0;
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t g = 0; g < GROUP_MAX; g++) {
            if (g >= b.heads) { /* for all threads of the block */
                break;
            }
            float x = lanes_sum<ABREAST>(dot[g]);
            if (lane == 0) {
                x = j.cap != 0 ? j.cap * tanhf(x / j.cap) : x;
                s->score[g][i] = t < end ? x : -INFINITY;
            }
        }
    }
}

/* Scores become shares, against the greatest so far; what there was is to be rescaled. */
__device__ static void tile_softmax(attend_shared *s, uint32_t heads)
{
    uint32_t lane = threadIdx.x % 32;

    for (uint32_t g = threadIdx.x / 32; g < heads; g += THREADS / 32) {
        float a = s->score[g][lane], b = s->score[g][lane + 32], before = s->maximum[g];
        float now = fmaxf(before, lanes_max<32>(fmaxf(a, b)));

        a = expf(a - now);
        b = expf(b - now);
        s->score[g][lane] = a;
        s->score[g][lane + 32] = b;
        float sum = lanes_sum<32>(a + b);
        if (lane == 0) {
            s->rescale[g] = expf(before - now);
            s->sum[g] = s->sum[g] * s->rescale[g] + sum;
            s->maximum[g] = now;
        }
    }
}

#define COLUMNS (HEAD_MAX / THREADS) /* of a thread */

__device__ static void tile_values(const attend_job &j, const attend_block &b,
                                   const attend_shared *s, uint32_t tile, uint32_t end,
                                   float acc[COLUMNS][GROUP_MAX])
{
#pragma unroll
    for (uint32_t c = 0; c < COLUMNS; c++) {
        uint32_t d = threadIdx.x + c * THREADS;

        if (d >= j.from.shape.head_dim) {
            break;
        }
#pragma unroll
        for (uint32_t g = 0; g < GROUP_MAX; g++) {
            acc[c][g] *= g < b.heads ? s->rescale[g] : 0;
        }
#pragma unroll 4
        for (uint32_t t = tile; t < end; t++) {
            float value = half_value(read2(token_at(j, b, t, KV_VALUES) + d));

#pragma unroll
            for (uint32_t g = 0; g < GROUP_MAX; g++) {
                acc[c][g] += g < b.heads ? s->score[g][t - tile] * value : 0;
            }
        }
    }
}

/* A part's sums, or where it is the only one what they make. */
__device__ static void keep(const attend_job &j, const attend_block &b, const attend_shared *s,
                            uint32_t part, bool alone, const float acc[COLUMNS][GROUP_MAX])
{
    uint32_t row = j.rows[blockIdx.z];

    for (uint32_t g = 0; g < b.heads; g++) {
        uint64_t at = (uint64_t)row * j.n_heads + b.head + g;
        uint64_t at_part = ((uint64_t)blockIdx.z * j.n_heads + b.head + g) * SPLITS + part;

#pragma unroll
        for (uint32_t c = 0; c < COLUMNS; c++) {
            uint32_t d = threadIdx.x + c * THREADS;
            float value = 0;

            if (d >= j.from.shape.head_dim) {
                break;
            }
#pragma unroll
            for (uint32_t k = 0; k < GROUP_MAX; k++) {
                value = k == g ? acc[c][k] : value; /* g is no constant, registers need one */
            }
            if (alone) {
                j.out[at * j.from.shape.head_dim + d] = value / s->sum[g];
            } else {
                j.parts[at_part * j.from.shape.head_dim + d] = value;
            }
        }
        if (!alone && threadIdx.x == 0) {
            j.parts_of[at_part * 2] = s->maximum[g];
            j.parts_of[at_part * 2 + 1] = s->sum[g];
        }
    }
}

__device__ static void attend_part(const attend_job &j, const attend_block &b, attend_shared *s,
                                   token_range range, float acc[COLUMNS][GROUP_MAX])
{
    if (threadIdx.x < GROUP_MAX) {
        s->maximum[threadIdx.x] = -INFINITY;
        s->sum[threadIdx.x] = 0;
    }
    __syncthreads();
    for (uint32_t tile = range.begin; tile < range.end; tile += TILE) {
        tile_scores(j, b, s, tile, range.end);
        __syncthreads();
        tile_softmax(s, b.heads);
        __syncthreads();
        tile_values(j, b, s, tile, least(tile + TILE, range.end), acc);
        __syncthreads();
    }
}

/* Blocks: (kv head and slice of its group, first part, row). */
__global__ void __launch_bounds__(THREADS) attend(attend_job j)
{
    __shared__ attend_shared s;
    uint32_t slices = divide_up(j.group, GROUP_MAX), slice = blockIdx.x % slices * GROUP_MAX;
    uint32_t row = j.rows[blockIdx.z], from = window_first(j.pos[row], j.window),
             end = j.end[row];
    uint32_t head_dim = j.from.shape.head_dim, n = split_count(from, end, SPLITS);
    attend_block b;

    b.kv_head = blockIdx.x / slices;
    b.head = b.kv_head * j.group + slice;
    b.heads = least(j.group - slice, GROUP_MAX);
    b.pages = j.pages + j.first[row];
    b.base = j.base[row];
    if (blockIdx.y >= n) {
        return;
    }
    for (uint32_t i = threadIdx.x; i < b.heads * head_dim; i += THREADS) {
        uint64_t at = ((uint64_t)row * j.n_heads + b.head) * head_dim + i;

        s.q[i / head_dim][i % head_dim] = j.q[at] * j.scale;
    }
    for (uint32_t part = blockIdx.y; part < n; part += gridDim.y) {
        float acc[COLUMNS][GROUP_MAX] = {{0}};

        attend_part(j, b, &s, split_range(from, end, SPLITS, part), acc);
        keep(j, b, &s, part, n == 1, acc);
        __syncthreads(); /* the next part begins its sums anew */
    }
}

/* Blocks: (head, row). */
__global__ void __launch_bounds__(THREADS) join(attend_job j)
{
    uint32_t row = j.rows[blockIdx.y], head_dim = j.from.shape.head_dim;
    uint32_t n = split_count(window_first(j.pos[row], j.window), j.end[row], SPLITS);
    uint64_t at = (uint64_t)row * j.n_heads + blockIdx.x;
    uint64_t at_parts = ((uint64_t)blockIdx.y * j.n_heads + blockIdx.x) * SPLITS;
    const float *of = j.parts_of + at_parts * 2;
    float maximum = -INFINITY, sum = 0;

    if (n == 1) {
        return; /* it is done */
    }
    for (uint32_t i = 0; i < n; i++) {
        maximum = fmaxf(maximum, of[2 * i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += of[2 * i + 1] * expf(of[2 * i] - maximum);
    }
    for (uint32_t d = threadIdx.x; d < head_dim; d += THREADS) {
        float value = 0;

        for (uint32_t i = 0; i < n; i++) {
            value += j.parts[(at_parts + i) * head_dim + d] * expf(of[2 * i] - maximum);
        }
        j.out[at * head_dim + d] = value / sum;
    }
}

/* Of loose rows from first on, for which there is memory for parts. */
static void attend_rows(kern_model *m, attend_job j, uint32_t first, uint32_t n)
{
    const kern_config *c = &m->config;
    uint32_t heads = c->n_kv_heads * divide_up(j.group, GROUP_MAX);

    j.rows += first;
    LAUNCH(attend, dim3(heads, least(most(BLOCKS / (heads * n), 1), SPLITS), n), dim3(THREADS),
           m->dev->stream, j);
    LAUNCH(join, dim3(c->n_heads, n), dim3(THREADS), m->dev->stream, j);
}

void attention_run(kern_model *m, uint32_t layer, kv_layer from)
{
    const kern_config *c = &m->config;
    attention_job of = {};

    of.q = m->q, of.out = m->att;
    of.from = from;
    of.pos = m->rows.pos, of.end = m->rows.end;
    of.first = m->rows.first, of.base = m->rows.base;
    of.pages = m->rows.pages;
    of.window = m->layers[layer].window;
    of.n_heads = c->n_heads;
    of.group = c->n_heads / c->n_kv_heads;
    of.scale = c->attn_scale != 0 ? c->attn_scale : 1 / sqrtf((float)c->head_dim);
    of.cap = c->attn_cap;

    const attend_job j = {of, m->parts, m->parts_of, m->rows.loose};
    for (uint32_t row = 0; row < m->rows.n_loose; row += SPLIT_ROWS) {
        attend_rows(m, j, row, least(m->rows.n_loose - row, SPLIT_ROWS));
    }
    if (m->rows.n_tiles > 0) {
        tiles_run(m, of);
    }
}
