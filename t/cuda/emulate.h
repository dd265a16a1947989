/*
 * CUDA on the host, as far as kernels/cuda uses it, so that its sources are compiled by a plain
 * compiler and tested where there is no device. A block's threads are fibers that take turns:
 * one runs until it needs the others, at a barrier or an exchange of its warp. What devices
 * would not forgive ends the program with a line: a vector read from an address that is no
 * multiple of its size, a barrier or an exchange that not all threads reach. Memory beyond its
 * bounds is found by AddressSanitizer, where that is built in. Races are not found as
 * such, but AIQ_EMULATED=reverse runs all blocks, warps and lanes in the other order, shuffle=N
 * in one drawn by N.
 *
 * AIQ_EMULATED is a list of words, further memory=BYTES (of the device), devices=N, fail=N
 * (from the Nth call on the device is lost), capture=no (graphs cannot be recorded), old (a
 * device of a generation too old).
 *
 * One host thread at a time, on x86-64.
 */
#ifndef T_CUDA_EMULATE_H
#define T_CUDA_EMULATE_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;

    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* --- threads --- */

void __syncthreads();

/* What each lane of the warp brought, in an exchange for which all wait; the caller's lane. */
const float *emulate_exchange(float x, unsigned *lane);

/* The sums of a device's exchanges, in their order: of neighbours at a distance, which halves.
 */
template <int LANES> static inline float lanes_sum(float x)
{
    unsigned lane;
    const float *all = emulate_exchange(x, &lane);
    float v[LANES];

    memcpy(v, all + lane / LANES * LANES, sizeof(v));
    for (int n = LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) {
            v[i] += v[i + n];
        }
    }
    return v[0];
}

template <int LANES> static inline float lanes_max(float x)
{
    unsigned lane;
    const float *all = emulate_exchange(x, &lane) + lane / LANES * LANES;

    for (int i = 0; i < LANES; i++) {
        x = fmaxf(x, all[i]);
    }
    return x;
}

/* An exchange for each half: what is exchanged are bits. */
static inline uint64_t lane_value(uint64_t x, unsigned from)
{
    uint64_t all = 0;

    for (unsigned half = 0; half < 2; half++) {
        uint32_t bits = (uint32_t)(x >> 32 * half);
        unsigned lane;
        float f;

        memcpy(&f, &bits, sizeof(f));
        memcpy(&bits, emulate_exchange(f, &lane) + from, sizeof(bits));
        all |= (uint64_t)bits << 32 * half;
    }
    return all;
}

/* --- numbers --- */

float half_value(uint16_t h);
uint16_t half_of(float x);
uint16_t bf16_of(float x);

static inline float __uint_as_float(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

/* The tensor cores' product of tiles: a is [16][16], b [16][8], d [16][8]. */
void multiply_tiles(float d[4], const uint32_t a[4], const uint32_t b[2]);

/* --- memory --- */

void emulate_check_address(const void *p, size_t size);

template <typename T> static inline T emulate_read(const void *p)
{
    T v;

    emulate_check_address(p, sizeof(v));
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint4 read16(const void *p)
{
    return emulate_read<uint4>(p);
}

static inline uint2 read8(const void *p)
{
    return emulate_read<uint2>(p);
}

static inline float4 read4f(const float *p)
{
    return emulate_read<float4>(p);
}

static inline uint16_t read2(const void *p)
{
    return emulate_read<uint16_t>(p);
}

/* --- the host's side --- */

typedef enum {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorInvalidDevice,
    cudaErrorUnknown
} cudaError_t;
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaStreamNonBlocking, cudaStreamCaptureModeThreadLocal };
enum {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount
};

struct cudaDeviceProp {
    char name[256];
};

typedef struct emulate_stream *cudaStream_t;
typedef struct emulate_graph *cudaGraph_t;
typedef struct emulate_graph *cudaGraphExec_t;

const char *cudaGetErrorString(cudaError_t rc);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDevice(int *i);
cudaError_t cudaSetDevice(int i);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int i);
cudaError_t cudaDeviceGetAttribute(int *out, int what, int i);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, int flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, int flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g);

/* Runs work now, or records it. */
void emulate_do(std::function<void()> work);
void emulate_grid(dim3 grid, dim3 block, const std::function<void()> &thread);

/* Arguments are taken by value when the kernel is launched, as a graph does. */
template <typename... P, typename... A>
static inline void emulate_launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t s,
                                  A... args)
{
    std::tuple<P...> kept(static_cast<P>(args)...);

    (void)s;
    emulate_do([=] { emulate_grid(grid, block, [=] { std::apply(kernel, kept); }); });
}

#define LAUNCH(kernel, grid, block, stream, ...)                                               \
    emulate_launch(kernel, grid, block, stream, __VA_ARGS__)

#endif
