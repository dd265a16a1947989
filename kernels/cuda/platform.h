/*
 * What the sources of this room stand on: CUDA, or its emulation by threads that take turns on
 * the host (t/cuda/emulate.h), for tests where there is no device. Whatever differs between the
 * two is named here.
 */
#ifndef CUDA_PLATFORM_H
#define CUDA_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#ifdef AIQ_CUDA_EMULATED

#include "t/cuda/emulate.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* The kernel in parentheses, for commas in its name. */
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)

#define ALL_LANES 0xffffffffu

/* Of so many neighbouring lanes, a power of two, in each of them; all lanes take part. */
template <int LANES> __device__ inline float lanes_sum(float x)
{
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, mask);
    }
    return x;
}

template <int LANES> __device__ inline float lanes_max(float x)
{
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, mask));
    }
    return x;
}

/* What a lane of the warp has, in each of them; all take part. */
__device__ inline uint64_t lane_value(uint64_t x, uint32_t lane)
{
    return __shfl_sync(ALL_LANES, (unsigned long long)x, (int)lane);
}

__device__ inline float half_value(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

__device__ inline uint16_t half_of(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

__device__ inline uint16_t bf16_of(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* d += a b, of tiles of 16 x 16 and 16 x 8 f16, spread over a warp as the PTX manual's figures
 * for m16n8k16 have it. */
__device__ inline void multiply_tiles(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Vector loads: p is a multiple of their size. Weights are read once, past the nearest cache.
 */
__device__ inline uint4 read16(const void *p)
{
    return __ldcs((const uint4 *)p);
}

__device__ inline uint2 read8(const void *p)
{
    return __ldg((const uint2 *)p);
}

__device__ inline float4 read4f(const float *p)
{
    return __ldg((const float4 *)p);
}

__device__ inline uint16_t read2(const void *p)
{
    return __ldg((const uint16_t *)p);
}

#endif

__device__ inline uint32_t two_halves(float low, float high)
{
    return half_of(low) | (uint32_t)half_of(high) << 16;
}

__device__ inline float bf16_value(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

#endif
