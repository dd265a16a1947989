/*
 * The rows nearest to a query, in one pass over them: they are read once, and that is what it
 * takes. A warp scores a few rows together and keeps its best in registers, which few rows
 * change. At the end the warps of a block join theirs, and a second kernel those of the blocks.
 *
 * A score and its row are one number (topk_key), of which no two are equal. So what comes out
 * does not depend on who looked at which row.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 512
#define WARPS   (THREADS / 32)

/* Blocks of a processor, which stay on it until the end. Their loads under way are up to 64 KB;
 * 4.8 TB/s and a microsecond until a load is there would ask for 36 of each of 132. */
#define BLOCKS_EACH 2

/* A warp's best: the key of place i is lane i % 32's, its i / 32-th. Keys descend; 0: none. */
#define SLOTS (KERN_TOPK_MAX / 32)

static_assert(SLOTS == 2);

struct kern_rows {
    kern_device *dev;
    uint32_t n;
    uint32_t cols;
    uint32_t blocks;
    uint8_t *memory;      /* what follows, on the device */
    uint16_t *rows;       /* [n][cols] */
    float *query;         /* [cols, up to whole chunks] */
    uint64_t *best;       /* [blocks][KERN_TOPK_MAX] keys */
    uint64_t *host_best;  /* pinned: [KERN_TOPK_MAX] */
    float *host_query;    /* behind it, as query */
    uint64_t query_bytes; /* a multiple of 32 */
};

/* --- a warp's best --- */

__device__ static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

__device__ static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What is below the new one moves on by a place, and the last is lost. */
__device__ static void insert(uint64_t best[SLOTS], uint64_t key)
{
    uint32_t lane = threadIdx.x % 32;
    uint64_t before[SLOTS];

    for (int s = 0; s < SLOTS; s++) {
        before[s] = lane_value(best[s], (lane + 31) % 32);
    }
    if (lane == 0) {
        before[1] = before[0];
        before[0] = UINT64_MAX;
    }
    for (int s = 0; s < SLOTS; s++) {
        best[s] = larger(best[s], smaller(before[s], key));
    }
}

/* The better half of a warp's best and a list. One from above and one from below, it is a
 * bitonic sequence, which halves of halves put in order: as long whatever is in the list. */
__device__ static void join(uint64_t best[SLOTS], const uint64_t *list)
{
    uint32_t lane = threadIdx.x % 32;
    uint64_t a = larger(best[0], list[63 - lane]), b = larger(best[1], list[31 - lane]);

    best[0] = larger(a, b);
    best[1] = smaller(a, b);
    for (uint32_t apart = 16; apart > 0; apart /= 2) {
        for (int s = 0; s < SLOTS; s++) {
            uint64_t other = lane_value(best[s], lane ^ apart);

            best[s] = (lane & apart) == 0 ? larger(best[s], other) : smaller(best[s], other);
        }
    }
}

__device__ static void put(uint64_t *list, const uint64_t best[SLOTS])
{
    for (int s = 0; s < SLOTS; s++) {
        list[s * 32 + threadIdx.x % 32] = best[s];
    }
}

/* Those of all warps of the block become the first one's. */
__device__ static void join_warps(uint64_t best[SLOTS])
{
    __shared__ uint64_t lists[WARPS][KERN_TOPK_MAX];
    uint32_t warp = threadIdx.x / 32;

    for (uint32_t n = WARPS / 2; n > 0; n /= 2) {
        if (warp >= n && warp < 2 * n) {
            put(lists[warp], best);
        }
        __syncthreads();
        if (warp < n) {
            join(best, lists[warp + n]);
        }
    }
}

/* --- the pass over the rows --- */

struct scan_job {
    const uint16_t *rows;
    const float *query; /* zeros behind the last */
    uint64_t *best;
    uint32_t n;
    uint32_t cols;
    uint32_t k;
};

/* Eight numbers of a row. WIDE: rows are whole chunks, so each is where vectors may be read. */
template <bool WIDE>
__device__ static void row_chunk(const uint16_t *row, uint32_t cols, uint32_t c, float w[CHUNK])
{
    if constexpr (WIDE) {
        weights8<KERN_F16>((const uint8_t *)row, c, w);
    } else {
        for (uint32_t i = 0; i < CHUNK; i++) {
            uint32_t col = c * CHUNK + i;

            w[i] = col < cols ? half_value(read2(row + col)) : 0;
        }
    }
}

/* Products of a group's rows with the query, in each lane. Rows behind the last are the last
 * again. */
template <bool WIDE>
__device__ static void scores(const scan_job &j, uint32_t group, float sum[TOPK_ROWS])
{
    const uint16_t *rows[TOPK_ROWS];

#pragma unroll
    for (uint32_t r = 0; r < TOPK_ROWS; r++) {
        rows[r] = j.rows + topk_at(least(topk_row(group, r), j.n - 1), j.cols);
        sum[r] = 0;
    }
    for (uint32_t c = threadIdx.x % 32; c < divide_up(j.cols, CHUNK); c += 32) {
        const float *q = j.query + (uint64_t)c * CHUNK;
        float4 lo = read4f(q), hi = read4f(q + 4);
        const float v[CHUNK] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};

#pragma unroll
        for (uint32_t r = 0; r < TOPK_ROWS; r++) {
            float w[CHUNK];

            row_chunk<WIDE>(rows[r], j.cols, c, w);
            for (int i = 0; i < CHUNK; i++) {
                sum[r] = fmaf(w[i], v[i], sum[r]);
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < TOPK_ROWS; r++) {
        sum[r] = lanes_sum<32>(sum[r]);
    }
}

template <bool WIDE> __global__ void __launch_bounds__(THREADS, BLOCKS_EACH) scan(scan_job j)
{
    uint32_t warp = blockIdx.x * WARPS + threadIdx.x / 32, n_groups = topk_groups(j.n);
    uint64_t best[SLOTS] = {0}, last = 0; /* the k-th's key */

    for (uint32_t g = warp; g < n_groups; g += gridDim.x * WARPS) {
        float sum[TOPK_ROWS];

        scores<WIDE>(j, g, sum);
#pragma unroll
        for (uint32_t r = 0; r < TOPK_ROWS; r++) {
            uint32_t row = topk_row(g, r);
            uint64_t key = row < j.n ? topk_key(sum[r], row) : 0;

            if (key > last) { /* for all lanes, or none */
                insert(best, key);
                last = lane_value(j.k > 32 ? best[1] : best[0], (j.k - 1) % 32);
            }
        }
    }
    join_warps(best);
    if (threadIdx.x < 32) {
        put(j.best + (uint64_t)blockIdx.x * KERN_TOPK_MAX, best);
    }
}

/* Of n lists the best, to the first of them. */
__global__ void __launch_bounds__(THREADS) join_blocks(uint64_t *lists, uint32_t n)
{
    uint64_t best[SLOTS] = {0};

#pragma unroll 4
    for (uint32_t i = threadIdx.x / 32; i < n; i += WARPS) {
        join(best, lists + (uint64_t)i * KERN_TOPK_MAX);
    }
    join_warps(best); /* all have been read then */
    if (threadIdx.x < 32) {
        put(lists, best);
    }
}

/* --- the host's side --- */

static bool take_memory(kern_rows *r)
{
    kern_device *dev = r->dev;
    uint64_t rows = topk_at(r->n, r->cols) * sizeof(*r->rows);
    uint64_t best = KERN_TOPK_MAX * sizeof(*r->best);
    uint64_t query_at = (rows + 255) & ~(uint64_t)255;
    uint64_t bytes = query_at + r->query_bytes + r->blocks * best;

    if (!device_has_room(dev, bytes, "the vectors take") ||
        !device_check(dev, cudaMalloc((void **)&r->memory, bytes),
                      "taking memory for vectors") ||
        !device_check(dev, cudaMallocHost((void **)&r->host_best, best + r->query_bytes),
                      "taking memory")) {
        return false;
    }
    r->rows = (uint16_t *)r->memory;
    r->query = (float *)(r->memory + query_at);
    r->best = (uint64_t *)(r->memory + query_at + r->query_bytes);
    r->host_query = (float *)(r->host_best + KERN_TOPK_MAX);
    memset(r->host_query, 0, r->query_bytes);
    return true;
}

static bool load(kern_rows *r, const uint16_t *rows)
{
    kern_device *dev = r->dev;
    int processors = 0;

    if (!device_check(dev, cudaSetDevice((int)dev->index), "choosing the device") ||
        !device_check(dev,
                      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount,
                                             (int)dev->index),
                      "looking at the device")) {
        return false;
    }
    r->blocks =
        most(least((uint32_t)processors * BLOCKS_EACH, divide_up(topk_groups(r->n), WARPS)), 1);
    return take_memory(r) &&
           (r->n == 0 ||
            device_check(dev,
                         cudaMemcpyAsync(r->rows, rows, topk_at(r->n, r->cols) * sizeof(*rows),
                                         cudaMemcpyHostToDevice, dev->stream),
                         "copying vectors")) &&
           device_check(dev, cudaStreamSynchronize(dev->stream), "copying vectors");
}

kern_rows *topk_load(kern_device *dev, const uint16_t *rows, uint32_t n, uint32_t cols)
{
    kern_rows *r = (kern_rows *)calloc(1, sizeof(*r));

    if (r == NULL) {
        snprintf(dev->error, sizeof(dev->error), "out of memory");
        return NULL;
    }
    r->dev = dev;
    r->n = n;
    r->cols = cols;
    r->query_bytes = (uint64_t)divide_up(cols, CHUNK) * CHUNK * sizeof(*r->query);
    if (!load(r, rows)) {
        topk_free(r);
        return NULL;
    }
    dev->error[0] = '\0';
    return r;
}

void topk_free(kern_rows *r)
{
    if (r == NULL) {
        return;
    }
    cudaSetDevice((int)r->dev->index);
    cudaStreamSynchronize(r->dev->stream);
    cudaFree(r->memory);
    cudaFreeHost(r->host_best);
    free(r);
}

static void launch(const kern_rows *r, uint32_t k)
{
    const scan_job j = {r->rows, r->query, r->best, r->n, r->cols, k};
    dim3 grid(r->blocks), block(THREADS);
    cudaStream_t stream = r->dev->stream;

    if (r->cols % CHUNK == 0) {
        LAUNCH(scan<true>, grid, block, stream, j);
    } else {
        LAUNCH(scan<false>, grid, block, stream, j);
    }
    if (r->blocks > 1) {
        LAUNCH(join_blocks, dim3(1), block, stream, r->best, r->blocks);
    }
}

bool topk_run(kern_rows *r, const float *query, uint32_t k, kern_hit *hits, uint32_t *n_hits)
{
    kern_device *dev = r->dev;

    memcpy(r->host_query, query, r->cols * sizeof(*query));
    if (!device_check(dev, cudaSetDevice((int)dev->index), "a search") ||
        !device_check(dev,
                      cudaMemcpyAsync(r->query, r->host_query, r->query_bytes,
                                      cudaMemcpyHostToDevice, dev->stream),
                      "a search")) {
        return false;
    }
    launch(r, k);
    if (!device_check(dev, cudaGetLastError(), "a search") ||
        !device_check(dev,
                      cudaMemcpyAsync(r->host_best, r->best, k * sizeof(*r->best),
                                      cudaMemcpyDeviceToHost, dev->stream),
                      "a search") ||
        !device_check(dev, cudaStreamSynchronize(dev->stream), "a search")) {
        return false;
    }
    for (*n_hits = 0; *n_hits < k && r->host_best[*n_hits] != 0; ++*n_hits) {
        uint64_t key = r->host_best[*n_hits];

        hits[*n_hits] = {topk_key_row(key), topk_key_score(key)};
    }
    return true;
}
