/*
 * Weights times a few tokens: every weight is read once and is worth eight tokens. A warp takes
 * two rows, whose loads are under way together; its lanes take chunks of eight columns in turn.
 * The order of the sums depends on the number of columns alone.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weights.h"

#define WARPS   4
#define MATS    3
#define ABREAST 8 /* tokens */

struct gemv_part {
    const uint8_t *w;
    float *y;
    uint32_t rows;
    uint32_t pairs; /* of rows */
};

struct gemv_job {
    gemv_part part[MATS];
    uint32_t n_parts;
    uint32_t pairs; /* of all parts */
    uint32_t cols;
    uint64_t bytes; /* of a row */
    const float *x; /* [n][cols] */
    uint32_t n;
    int mode;
    bool gelu;
};

/* The two rows of a warp. */
struct row_pair {
    const uint8_t *w0;
    const uint8_t *w1;
    float *y0;
    float *y1; /* NULL: there is none */
    uint32_t stride;
};

__device__ static row_pair pair_of(const gemv_job &j, uint32_t i)
{
    uint32_t p = 0;
    row_pair r;

    if (j.mode == PRODUCT_GATED) {
        r.w0 = j.part[0].w + i * j.bytes;
        r.w1 = j.part[1].w + i * j.bytes;
        r.y0 = j.part[0].y + i;
        r.y1 = NULL;
        r.stride = j.part[0].rows;
        return r;
    }
    while (i >= j.part[p].pairs) {
        i -= j.part[p++].pairs;
    }
    bool two = 2 * i + 1 < j.part[p].rows;
    r.w0 = j.part[p].w + 2 * i * j.bytes;
    r.w1 = r.w0 + (two ? j.bytes : 0);
    r.y0 = j.part[p].y + 2 * i;
    r.y1 = two ? r.y0 + 1 : NULL;
    r.stride = j.part[p].rows;
    return r;
}

__device__ static void store(const gemv_job &j, const row_pair &r, uint32_t token, float a,
                             float b)
{
    uint64_t at = (uint64_t)token * r.stride;

    if (j.mode == PRODUCT_GATED) {
        r.y0[at] = activation(a, j.gelu) * b;
        return;
    }
    bool add = j.mode == PRODUCT_ADD;
    r.y0[at] = (add ? r.y0[at] : 0) + a;
    if (r.y1 != NULL) {
        r.y1[at] = (add ? r.y1[at] : 0) + b;
    }
}

/* The job stays where it was put: its parts are chosen by number, which would have each thread
 * copy it first. */
template <kern_type T, int N>
__global__ void __launch_bounds__(WARPS * 32) gemv(const __grid_constant__ gemv_job j)
{
    uint32_t warp = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    float a[N] = {0}, b[N] = {0};

    if (warp >= j.pairs) {
        return;
    }
    row_pair r = pair_of(j, warp);
    for (uint32_t c = lane; c < j.cols / CHUNK; c += 32) {
        float wa[CHUNK], wb[CHUNK];

        weights8<T>(r.w0, c, wa);
        weights8<T>(r.w1, c, wb);
        for (int t = 0; t < N; t++) {
            /* those beyond the last are the last again, and are not kept */
            const float *x = j.x + (uint64_t)least(t, j.n - 1) * j.cols + c * CHUNK;
            float4 lo = read4f(x), hi = read4f(x + 4);
            const float v[CHUNK] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};

            for (int i = 0; i < CHUNK; i++) {
                a[t] = fmaf(wa[i], v[i], a[t]);
                b[t] = fmaf(wb[i], v[i], b[t]);
            }
        }
    }
    for (int t = 0; t < N; t++) {
        float sum_a = lanes_sum<32>(a[t]), sum_b = lanes_sum<32>(b[t]);

        if (lane == 0 && (uint32_t)t < j.n) {
            store(j, r, t, sum_a, sum_b);
        }
    }
}

template <kern_type T> static void launch(const gemv_job &j, cudaStream_t stream)
{
    dim3 grid(divide_up(j.pairs, WARPS)), block(WARPS * 32);

    if (j.n == 1) {
        LAUNCH((gemv<T, 1>), grid, block, stream, j);
    } else if (j.n <= 4) {
        LAUNCH((gemv<T, 4>), grid, block, stream, j);
    } else {
        LAUNCH((gemv<T, ABREAST>), grid, block, stream, j);
    }
}

void gemv_run(kern_model *m, const float *x, uint32_t n, const product *p, uint32_t n_p,
              int mode)
{
    gemv_job j = {};

    j.cols = p->w->cols;
    j.bytes = row_bytes(p->w->type, j.cols);
    j.mode = mode;
    j.gelu = m->config.gelu;
    for (uint32_t first = 0; first < n; first += ABREAST) {
        j.x = x + (uint64_t)first * j.cols;
        j.n = least(n - first, ABREAST);
        j.pairs = 0;
        for (uint32_t i = 0; i < n_p; i++) {
            gemv_part *part = &j.part[i];

            part->w = (const uint8_t *)p[i].w->data;
            part->rows = p[i].w->rows;
            part->y = p[i].y + (uint64_t)first * part->rows;
            part->pairs = mode == PRODUCT_GATED ? part->rows : divide_up(part->rows, 2);
            j.pairs += mode == PRODUCT_GATED && i > 0 ? 0 : part->pairs;
        }
        j.n_parts = n_p;
        BY_TYPE(p->w->type, launch, j, m->dev->stream);
    }
}
