/*
 * What a device can do at most, measured: bytes that a plain loop reads in a second, and
 * operations of a large product of BF16 by cuBLASLt.
 *
 * Prints {"read_gbps":…,"gemm_tflops":…}, the best of some passes, or {"none":"why"}.
 */
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cuda.h"

#define PASSES  20
#define THREADS 512
#define BYTES   ((size_t)4 << 30)
#define SIDE    8192
#define ABREAST 4 /* loads of a thread that are under way together */

static void check(cudaError_t rc, const char *doing)
{
    if (rc != cudaSuccess) {
        fprintf(stderr, "gpu_peers: %s: %s\n", doing, cudaGetErrorString(rc));
        exit(2);
    }
}

/* BF16 of random signs and sizes from 1/64 to 1/32. */
__global__ void fill(uint16_t *p, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        uint64_t s = (i + 1) * 6364136223846793005u;

        s = (s ^ s >> 29) * 0x9e3779b97f4a7c15u;
        p[i] = (uint16_t)(0x3c80 | s >> 57 | (s >> 33 & 0x8000));
    }
}

/* sum: keeps the compiler from leaving the loads out. */
__global__ void __launch_bounds__(THREADS) add_up(const uint4 *p, size_t n, uint32_t *sum)
{
    size_t stride = (size_t)gridDim.x * THREADS, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t all = 0;

    for (; i + (ABREAST - 1) * stride < n; i += ABREAST * stride) {
        uint4 v[ABREAST];

#pragma unroll
        for (int k = 0; k < ABREAST; k++) {
            v[k] = __ldcs(p + i + k * stride);
        }
#pragma unroll
        for (int k = 0; k < ABREAST; k++) {
            all += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
        }
    }
    if (all == 1) {
        *sum = all;
    }
}

/* Seconds of the fastest of some passes. */
template <typename F> static double best_of(cudaStream_t stream, F pass)
{
    cudaEvent_t begin, end;
    float best = 1e9f, ms;

    check(cudaEventCreate(&begin), "timing");
    check(cudaEventCreate(&end), "timing");
    for (int i = 0; i < PASSES; i++) {
        check(cudaEventRecord(begin, stream), "timing");
        pass();
        check(cudaEventRecord(end, stream), "timing");
        check(cudaEventSynchronize(end), "a pass");
        check(cudaGetLastError(), "a pass");
        check(cudaEventElapsedTime(&ms, begin, end), "timing");
        best = ms < best ? ms : best;
    }
    check(cudaEventDestroy(begin), "timing");
    check(cudaEventDestroy(end), "timing");
    return best / 1e3;
}

static double read_gbps(cudaStream_t stream, int processors)
{
    size_t n = BYTES / sizeof(uint4), stride = (size_t)processors * 4 * THREADS * ABREAST;
    uint32_t *sum;
    uint4 *p;

    n = n / stride * stride;
    check(cudaMalloc(&p, BYTES), "taking memory");
    check(cudaMalloc(&sum, sizeof(*sum)), "taking memory");
    fill<<<processors * 4, THREADS, 0, stream>>>((uint16_t *)p, BYTES / 2);
    double seconds =
        best_of(stream, [&] { add_up<<<processors * 4, THREADS, 0, stream>>>(p, n, sum); });
    check(cudaFree(p), "giving memory back");
    check(cudaFree(sum), "giving memory back");
    return (double)n * sizeof(uint4) / seconds / 1e9;
}

static double gemm_tflops(cudaStream_t stream, int processors)
{
    blas *b = blas_new();
    uint16_t *x, *w;
    float *y;
    bool ok = b != NULL;

    check(cudaMalloc(&x, SIDE * SIDE * sizeof(*x)), "taking memory");
    check(cudaMalloc(&w, SIDE * SIDE * sizeof(*w)), "taking memory");
    check(cudaMalloc(&y, SIDE * SIDE * sizeof(*y)), "taking memory");
    fill<<<processors * 4, THREADS, 0, stream>>>(x, SIDE * SIDE);
    fill<<<processors * 4, THREADS, 0, stream>>>(w, SIDE * SIDE);
    double seconds = best_of(stream, [&] {
        ok = ok && blas_product(b, stream, y, SIDE, x, w, SIDE, SIDE, SIDE, false);
    });
    if (!ok) {
        fprintf(stderr, "gpu_peers: the library refused a product\n");
        exit(2);
    }
    blas_free(b);
    check(cudaFree(x), "giving memory back");
    check(cudaFree(w), "giving memory back");
    check(cudaFree(y), "giving memory back");
    return 2.0 * SIDE * SIDE * SIDE / seconds / 1e12;
}

int main(void)
{
    int n = 0, processors;
    cudaError_t rc = cudaGetDeviceCount(&n);
    cudaStream_t stream;

    if (rc != cudaSuccess || n == 0) {
        printf("{\"none\":\"%s\"}\n", rc != cudaSuccess ? cudaGetErrorString(rc) : "no device");
        return 0;
    }
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "opening the device");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0),
          "looking at the device");
    double read = read_gbps(stream, processors);
    printf("{\"read_gbps\":%.1f,\"gemm_tflops\":%.1f}\n", read,
           gemm_tflops(stream, processors));
    return 0;
}
