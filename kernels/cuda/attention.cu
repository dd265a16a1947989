/*
 * Attention of each token over the pages of its sequence. A block has one token, the heads that
 * share keys, and a part of the sequence, which it walks in tiles: products with the keys,
 * where eight threads share a token; the running maximum and sum of each head; and the values,
 * where a thread has a column. Where the batch is too small to fill the device a sequence is
 * split into parts, which a second kernel joins.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weights.h"

#define THREADS 128
#define TILE    64 /* tokens */
#define ABREAST 8  /* threads that share a token's product */

struct attend_job {
    const float *q; /* [n][n_heads][head_dim] */
    float *out;     /* the same */
    float *parts;   /* [n][n_heads][n_parts][head_dim], where there are several */
    float *parts_of;
    const uint16_t *kv;
    kv_shape shape;
    const uint32_t *pos, *first, *pages;
    uint32_t layer;
    uint32_t window;
    uint32_t n_heads;
    uint32_t group; /* heads that share keys */
    uint32_t n_parts;
    float scale;
    float cap; /* 0: none */
};

/* What the threads of a block share. */
struct attend_shared {
    float q[GROUP_MAX][HEAD_MAX];
    float score[GROUP_MAX][TILE];
    float maximum[GROUP_MAX], sum[GROUP_MAX], rescale[GROUP_MAX];
};

/* Products of the tile's tokens with the queries. */
__device__ static void tile_scores(const attend_job &j, attend_shared *s, const uint32_t *pages,
                                   uint32_t kv_head, uint32_t heads, uint32_t tile,
                                   token_range range)
{
    uint32_t lane = threadIdx.x % ABREAST;

    for (uint32_t i = threadIdx.x / ABREAST; i < TILE; i += THREADS / ABREAST) {
        uint32_t t = tile + i;
        float dot[GROUP_MAX] = {0};

        if (t < range.end) {
            const uint16_t *k = j.kv + kv_at(j.shape, pages, t, j.layer, KV_KEYS, kv_head);

            for (uint32_t d = lane * 8; d < j.shape.head_dim; d += ABREAST * 8) {
                uint16_t packed[8];

                unpack_pairs(read16(k + d), packed);
                for (int c = 0; c < 8; c++) {
                    float key = half_value(packed[c]);

#pragma unroll
                    for (uint32_t g = 0; g < GROUP_MAX; g++) {
                        dot[g] += g < heads ? s->q[g][d + c] * key : 0;
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t g = 0; g < GROUP_MAX; g++) {
            if (g >= heads) { /* for all threads of the block */
                break;
            }
            float x = lanes_sum<ABREAST>(dot[g]);
            if (lane == 0) {
                x = j.cap != 0 ? j.cap * tanhf(x / j.cap) : x;
                s->score[g][i] = t < range.end ? x : -INFINITY;
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

__device__ static void tile_values(const attend_job &j, const attend_shared *s,
                                   const uint32_t *pages, uint32_t kv_head, uint32_t heads,
                                   uint32_t tile, uint32_t end, float acc[COLUMNS][GROUP_MAX])
{
#pragma unroll
    for (uint32_t c = 0; c < COLUMNS; c++) {
        uint32_t d = threadIdx.x + c * THREADS;

        if (d >= j.shape.head_dim) {
            break;
        }
#pragma unroll
        for (uint32_t g = 0; g < GROUP_MAX; g++) {
            acc[c][g] *= g < heads ? s->rescale[g] : 0;
        }
        for (uint32_t t = tile; t < end; t++) {
            uint64_t at = kv_at(j.shape, pages, t, j.layer, KV_VALUES, kv_head) + d;
            float value = half_value(read2(j.kv + at));

#pragma unroll
            for (uint32_t g = 0; g < GROUP_MAX; g++) {
                acc[c][g] += g < heads ? s->score[g][t - tile] * value : 0;
            }
        }
    }
}

__device__ static void keep(const attend_job &j, const attend_shared *s, uint32_t row,
                            uint32_t head, uint32_t heads, uint32_t part,
                            float acc[COLUMNS][GROUP_MAX])
{
    for (uint32_t g = 0; g < heads; g++) {
        uint64_t at = (uint64_t)row * j.n_heads + head + g;
        uint64_t at_part = at * j.n_parts + part;

#pragma unroll
        for (uint32_t c = 0; c < COLUMNS; c++) {
            uint32_t d = threadIdx.x + c * THREADS;
            float value = 0;

            if (d >= j.shape.head_dim) {
                break;
            }
#pragma unroll
            for (uint32_t k = 0; k < GROUP_MAX; k++) {
                value = k == g ? acc[c][k] : value; /* g is no constant, registers need one */
            }
            if (j.n_parts == 1) {
                j.out[at * j.shape.head_dim + d] = value / s->sum[g];
            } else {
                j.parts[at_part * j.shape.head_dim + d] = value;
            }
        }
        if (j.n_parts > 1 && threadIdx.x == 0) {
            j.parts_of[at_part * 2] = s->maximum[g];
            j.parts_of[at_part * 2 + 1] = s->sum[g];
        }
    }
}

/* Blocks: (kv head and slice of its group, part, row). */
__global__ void __launch_bounds__(THREADS) attend(attend_job j)
{
    __shared__ attend_shared s;
    uint32_t slices = divide_up(j.group, GROUP_MAX);
    uint32_t kv_head = blockIdx.x / slices, slice = blockIdx.x % slices * GROUP_MAX;
    uint32_t head = kv_head * j.group + slice, heads = least(j.group - slice, GROUP_MAX);
    uint32_t row = blockIdx.z, pos = j.pos[row];
    const uint32_t *pages = j.pages + j.first[row];
    token_range range =
        split_range(window_first(pos, j.window), pos + 1, j.n_parts, blockIdx.y);
    float acc[COLUMNS][GROUP_MAX] = {{0}};

    if (range.begin >= range.end) {
        return;
    }
    for (uint32_t i = threadIdx.x; i < heads * j.shape.head_dim; i += THREADS) {
        uint64_t at = ((uint64_t)row * j.n_heads + head) * j.shape.head_dim + i;

        s.q[i / j.shape.head_dim][i % j.shape.head_dim] = j.q[at] * j.scale;
    }
    if (threadIdx.x < GROUP_MAX) {
        s.maximum[threadIdx.x] = -INFINITY;
        s.sum[threadIdx.x] = 0;
    }
    __syncthreads();
    for (uint32_t tile = range.begin; tile < range.end; tile += TILE) {
        tile_scores(j, &s, pages, kv_head, heads, tile, range);
        __syncthreads();
        tile_softmax(&s, heads);
        __syncthreads();
        tile_values(j, &s, pages, kv_head, heads, tile, least(tile + TILE, range.end), acc);
        __syncthreads();
    }
    keep(j, &s, row, head, heads, blockIdx.y, acc);
}

/* Blocks: (head, row). */
__global__ void __launch_bounds__(THREADS) join(attend_job j)
{
    uint32_t row = blockIdx.y, pos = j.pos[row];
    uint32_t n = split_count(window_first(pos, j.window), pos + 1, j.n_parts);
    uint64_t at = (uint64_t)row * j.n_heads + blockIdx.x;
    const float *of = j.parts_of + at * j.n_parts * 2;
    float maximum = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        maximum = fmaxf(maximum, of[2 * i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += of[2 * i + 1] * expf(of[2 * i] - maximum);
    }
    for (uint32_t d = threadIdx.x; d < j.shape.head_dim; d += THREADS) {
        float value = 0;

        for (uint32_t i = 0; i < n; i++) {
            value += j.parts[(at * j.n_parts + i) * j.shape.head_dim + d] *
                     expf(of[2 * i] - maximum);
        }
        j.out[at * j.shape.head_dim + d] = value / sum;
    }
}

void attention_run(kern_model *m, uint32_t layer, uint32_t n)
{
    const kern_config *c = &m->config;
    attend_job j = {};

    j.q = m->q, j.out = m->att;
    j.parts = m->parts, j.parts_of = m->parts_of;
    j.kv = m->kv;
    j.shape = m->shape;
    j.pos = m->rows.pos, j.first = m->rows.first, j.pages = m->rows.pages;
    j.layer = layer;
    j.window = m->layers[layer].window;
    j.n_heads = c->n_heads;
    j.group = c->n_heads / c->n_kv_heads;
    j.n_parts = n <= SPLIT_ROWS ? SPLITS : 1;
    j.scale = c->attn_scale != 0 ? c->attn_scale : 1 / sqrtf((float)c->head_dim);
    j.cap = c->attn_cap;
    LAUNCH(attend, dim3(c->n_kv_heads * divide_up(j.group, GROUP_MAX), j.n_parts, n),
           dim3(THREADS), m->dev->stream, j);
    if (j.n_parts > 1) {
        LAUNCH(join, dim3(c->n_heads, n), dim3(THREADS), m->dev->stream, j);
    }
}
